//! A functional simulator of NVIDIA PTX at warp level. See the README.

pub mod alu;
pub mod case;
mod cfg;
mod clock;
mod count;
mod decode;
mod device;
mod diag;
mod hopper;
mod lex;
mod machine;
mod module;
pub mod num;
mod op;
mod options;
mod parse;
mod shadow;
pub mod tc;
mod warp;

pub use count::{Counters, Counts};
pub use device::{Device, Launch};
pub use diag::{Diag, Severity, Site};
pub use hopper::{Tensor, TensorMap};
pub use module::{Entry, Module, Param};
pub use options::{Completion, Options, Profile, Schedule};

/// What a launch did.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Report {
    /// What was found wrong, and lints.
    pub diags: Vec<Diag>,
    /// Exact counters.
    pub counters: Counters,
}

impl Report {
    fn of(diag: Diag) -> Box<Self> {
        Box::new(Report { diags: vec![diag], counters: Counters::default() })
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, diag) in self.diags.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            write!(f, "{diag}")?;
        }
        Ok(())
    }
}

/// The README's example is a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
