//! Small kernels whose results are computed on the host, over every schedule and completion mode.

mod common;

#[path = "programs/copies.rs"]
mod copies;
#[path = "programs/flow.rs"]
mod flow;
#[path = "programs/lanes.rs"]
mod lanes;
#[path = "programs/memory.rs"]
mod memory;
