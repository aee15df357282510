//! What tensors hold.

use crate::DType;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// f32, f16 or bf16: how the large tensors are stored. Everything is computed in f32.
pub trait Element: Copy + Default + Send + Sync + 'static {
    /// Its name.
    const DTYPE: DType;
    /// Reads a row.
    fn load(from: &[Self], to: &mut [f32]);
    /// Writes a row, rounded to nearest even.
    fn store(from: &[f32], to: &mut [Self]);
}

impl Element for f32 {
    const DTYPE: DType = DType::F32;

    fn load(from: &[f32], to: &mut [f32]) {
        to.copy_from_slice(from);
    }

    fn store(from: &[f32], to: &mut [f32]) {
        to.copy_from_slice(from);
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
