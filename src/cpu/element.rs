//! What tensors hold.

use crate::{DType, Error};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use std::borrow::Cow;

/// f32, f16 or bf16: how the large tensors are stored. Everything is computed in f32.
pub trait Element: Copy + Default + Send + Sync + 'static {
    /// Its name.
    const DTYPE: DType;
    /// Reads a row.
    fn load(from: &[Self], to: &mut [f32]);
    /// Writes a row, rounded to nearest even.
    fn store(from: &[f32], to: &mut [Self]);

    /// A tensor of f32 as one of this type; f32 are left where they are.
    fn stored(x: &[f32]) -> Cow<'_, [Self]> {
        let mut all = vec![Self::default(); x.len()];
        Self::store(x, &mut all);
        Cow::Owned(all)
    }

    /// A tensor of this type as one of f32.
    fn loaded(x: Vec<Self>) -> Vec<f32> {
        let mut all = vec![0.0; x.len()];
        Self::load(&x, &mut all);
        all
    }
}

/// An error unless `T` is what a problem of `dtype` stores.
pub(crate) fn expect_dtype<T: Element>(dtype: DType) -> Result<(), Error> {
    match T::DTYPE == dtype {
        true => Ok(()),
        false => Err(Error::invalid("dtype", T::DTYPE, format!("the problem's is {dtype}"))),
    }
}

/// `$body`, with `$T` for the type that `$dtype` names.
macro_rules! with_dtype {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            $crate::DType::F32 => {
                type $T = f32;
                $body
            }
            $crate::DType::F16 => {
                type $T = half::f16;
                $body
            }
            $crate::DType::BF16 => {
                type $T = half::bf16;
                $body
            }
        }
    };
}
pub(crate) use with_dtype;

impl Element for f32 {
    const DTYPE: DType = DType::F32;

    fn load(from: &[f32], to: &mut [f32]) {
        to.copy_from_slice(from);
    }

    fn store(from: &[f32], to: &mut [f32]) {
        to.copy_from_slice(from);
    }

    fn stored(x: &[f32]) -> Cow<'_, [f32]> {
        Cow::Borrowed(x)
    }

    fn loaded(x: Vec<f32>) -> Vec<f32> {
        x
    }
}

impl Element for f16 {
    const DTYPE: DType = DType::F16;

    fn load(from: &[f16], to: &mut [f32]) {
        from.convert_to_f32_slice(to);
    }

    fn store(from: &[f32], to: &mut [f16]) {
        to.convert_from_f32_slice(from);
    }
}

impl Element for bf16 {
    const DTYPE: DType = DType::BF16;

    #[inline(always)]
    fn load(from: &[bf16], to: &mut [f32]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = f32::from_bits(u32::from(from.to_bits()) << 16);
        }
    }

    fn store(from: &[f32], to: &mut [bf16]) {
        to.convert_from_f32_slice(from);
    }
}
