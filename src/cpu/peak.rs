//! How fast this machine's multiply-add units are: the floor that times are compared with.

use super::lanes::{LANES, Lanes, multiply_add};
use super::tile::SIDE;
use super::{Isa, with_isa};
use crate::Error;
use std::time::Instant;

const STEPS: usize = 1 << 20;

/// Floating-point operations in a second, two to a multiply-add, that the threads of the rayon pool
/// reach together when they do nothing else: the best of ten measurements of a few milliseconds.
///
/// # Errors
///
/// If this processor does not have `isa`.
pub fn peak_flops(isa: Isa) -> Result<f64, Error> {
    let isa = isa.available()?;
    let threads = rayon::current_num_threads();
    let operations = (2 * STEPS * SIDE * LANES * threads) as f64;
    let once = || {
        let started = Instant::now();
        rayon::broadcast(|_| {
            let mut sums = [[1f32; LANES]; SIDE];
            {
                // As far as the compiler knows, any numbers.
                let (factor, sums): (f32, &mut [Lanes; SIDE]) =
                    (std::hint::black_box(0.999), &mut sums);
                with_isa!(isa, steps(factor: f32, sums: &mut [Lanes; SIDE]));
            }
            std::hint::black_box(sums);
        });
        operations / started.elapsed().as_secs_f64()
    };
    Ok((0..10).map(|_| once()).fold(0.0, f64::max))
}

/// As many sums side by side as the kernels', and no memory.
#[inline(always)]
fn steps<const FMA: bool>(factor: f32, sums: &mut [Lanes; SIDE]) {
    let mut all = *sums;
    for _ in 0..STEPS {
        for sum in &mut all {
            for sum in sum {
                *sum = multiply_add::<FMA>(*sum, factor, 1e-3);
            }
        }
    }
    *sums = all;
}
