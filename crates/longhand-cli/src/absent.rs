//! The GPU of a backend that was not built in: there is none, so nothing of it can be called.

use crate::device::Timing;
use crate::failure::{Failure, Result};
use crate::full_file::OwnedInputs;
use crate::longformer_file::LongformerInputs;
use longhand::full::Output;
use longhand::{Full, Longformer, longformer};

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

    pub(crate) fn forward(&self, _: &Full, _: &OwnedInputs<f32>) -> Result<Output<f32>> {
        match *self {}
    }

    pub(crate) fn longformer(
        &self,
        _: &Longformer,
        _: &LongformerInputs<f32>,
    ) -> Result<longformer::Output<f32>> {
        match *self {}
    }

    pub(crate) fn time(&self, _: &Full, _: &OwnedInputs<f32>, _: usize) -> Result<Timing> {
        match *self {}
    }

    pub(crate) fn time_longformer(
        &self,
        _: &Longformer,
        _: &LongformerInputs<f32>,
        _: usize,
    ) -> Result<Timing> {
        match *self {}
    }

    pub(crate) fn describe(&self, _: &Full) -> Result<String> {
        match *self {}
    }

    pub(crate) fn describe_longformer(&self, _: &Longformer) -> Result<String> {
        match *self {}
    }
}
