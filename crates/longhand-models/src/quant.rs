//! 8-bit linear maps, Q8BERT's: symmetric, one scale a tensor, ranges tracked while training.

use crate::ops::{self, Order};
use crate::{Ints, Tensor, lock};
use std::sync::Mutex;

/// The largest 8-bit magnitude that is used: −128 is not.
const MOST: f32 = 127.0;

/// The largest of 32 bits.
const MOST_OF_BIAS: f32 = i32::MAX as f32;

/// The 8-bit matrix of one linear map, and the ranges of what goes in and out.
#[derive(Debug)]
pub struct Quantiser {
    weight: EightBit,
    /// What products do, and what they leave.
    pub state: Mutex<State>,
    decay: f64,
    requantises: bool,
}

/// Before the first product, of training: no ranges.
#[derive(Debug, Default)]
pub struct State {
    /// Ranges stand; biases are 32-bit integers. While training ranges follow the values, and biases
    /// stay in float.
    pub infers: bool,
    /// The largest magnitudes of input and output so far, `[1]`.
    pub ranges: [Option<Tensor>; 2],
}

/// A tensor of 8 bits.
#[derive(Debug)]
struct EightBit {
    integers: Tensor,
    /// What 1 of them stands for.
    unit: Tensor,
}

impl EightBit {
    fn of(x: &Tensor, unit: Tensor) -> Self {
        EightBit { integers: ops::round(x, &unit, MOST), unit }
    }

    /// By its own range.
    fn whole(x: &Tensor) -> Self {
        EightBit::of(x, ops::unit(&ops::largest(x), MOST))
    }

    fn into_floats(self) -> Tensor {
        ops::in_units(self.integers, &self.unit)
    }
}

impl Quantiser {
    /// No range yet. `requantises`: the output is quantised too.
    pub fn new(weight: &Tensor, decay: f64, requantises: bool) -> Self {
        let weight = EightBit::whole(weight);
        Quantiser { weight, state: Mutex::default(), decay, requantises }
    }

    /// `x Wᵀ + b` of quantised `x` and `W`. Gradient: passes as if nothing were rounded, also where
    /// a value is clamped; the ranges get none.
    pub fn linear(&self, x: &Tensor, bias: Option<&Tensor>) -> Tensor {
        let State { infers, ranges: [input, output] } = &mut *lock(&self.state);
        let x = self.quantised(x, input, *infers);
        let product = ops::multiply(x.unit, &self.weight.unit);
        // Sums of 8-bit products are exact in f32 up to a width of 1,040.
        let sums = ops::linear(&x.integers, &self.weight.integers, Order::OutIn, None);
        let y = match bias {
            Some(bias) if *infers => {
                let bias = ops::round(bias, &product, MOST_OF_BIAS);
                ops::in_units(ops::add_row(sums, &bias), &product)
            }
            Some(bias) => ops::add_row(ops::in_units(sums, &product), bias),
            None => ops::in_units(sums, &product),
        };
        if self.requantises { self.quantised(&y, output, *infers).into_floats() } else { y }
    }

    /// By `range`, which follows the largest magnitude unless it stands.
    fn quantised(&self, x: &Tensor, range: &mut Option<Tensor>, stands: bool) -> EightBit {
        if !stands {
            let largest = ops::largest(x);
            *range = Some(match range.take() {
                None => largest,
                Some(range) => {
                    let new = ops::scale(largest, (1.0 - self.decay) as f32);
                    ops::add(ops::scale(range, self.decay as f32), &new)
                }
            });
        }
        let range = range.clone().unwrap_or_else(|| Tensor::zeros(&[1]));
        EightBit::of(x, ops::unit(&range, MOST))
    }

    /// The matrix's 8-bit integers.
    pub fn integers(&self) -> Ints {
        Ints::of_numbers(&self.weight.integers)
    }
}

/// A table as it is after 8 bits, and its integers.
pub fn quantised(table: &Tensor) -> (Tensor, Ints) {
    let table = EightBit::whole(table);
    let integers = Ints::of_numbers(&table.integers);
    (table.into_floats(), integers)
}
