//! The longhand program.

fn main() {}
