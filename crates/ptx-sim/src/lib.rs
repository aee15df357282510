//! Functional simulator of PTX. See the README.

pub mod alu;
pub mod num;
pub mod tc;
