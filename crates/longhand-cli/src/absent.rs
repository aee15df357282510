//! The GPU of a backend that was not built in: there is none, so nothing of it can be called.

use crate::device::Timing;
use crate::failure::{Failure, Result};
use crate::lsh_file::LshFile;
use crate::problem_file::{Problem, ProblemFile};
use crate::results::Results;
use crate::stages::Stages;
use longhand::DType;

/// Has no value.
pub enum Gpu {}

/// Why there is none.
pub(crate) fn declined<T>(feature: &str) -> Result<T> {
    let why = format!("device {feature}: not in this build (feature {feature} is off)");
    Err(Failure::declined(why))
}

#[allow(dead_code)] // Each backend calls some.
impl Gpu {
    pub(crate) fn name(&self) -> String {
        match *self {}
    }

    pub(crate) fn is_simulated(&self) -> bool {
        match *self {}
    }

    pub(crate) fn forward(&self, _: &ProblemFile, _: DType) -> Result<Results> {
        match *self {}
    }

    pub(crate) fn time(&self, _: &ProblemFile, _: DType, _: usize) -> Result<Timing> {
        match *self {}
    }

    pub(crate) fn stages(&self, _: &LshFile, _: DType, _: usize) -> Result<Stages> {
        match *self {}
    }

    pub(crate) fn describe(&self, _: &Problem) -> Result<String> {
        match *self {}
    }
}
