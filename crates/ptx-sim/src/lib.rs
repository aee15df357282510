//! Functional simulator of PTX. See the README.

pub mod alu;
