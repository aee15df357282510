//! The race detector: legal kernels close to each bug, and random programs against all their interleavings.

mod common;

#[path = "races/exhaustive.rs"]
mod exhaustive;
#[path = "races/legal.rs"]
mod legal;
