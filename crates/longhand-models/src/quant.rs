//! 8-bit linear maps, Q8BERT's: symmetric, one scale a tensor, ranges tracked while training.

use crate::ops::{self, Order};
use crate::{Ints, Tensor};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The largest 8-bit magnitude that is used: −128 is not.
const MOST: f64 = 127.0;

/// The ranges of one linear map.
#[derive(Debug)]
pub struct Quantiser {
    state: Mutex<State>,
    decay: f64,
    requantises: bool,
}

#[derive(Debug, Default)]
struct State {
    /// Ranges stand; biases are 32-bit integers. While training ranges follow the values, and biases
    /// stay in float.
    infers: bool,
    input: Option<f64>,
    output: Option<f64>,
}

impl Quantiser {
    /// No range yet. `requantises`: the output is quantised too.
    pub fn new(decay: f64, requantises: bool) -> Self {
        Quantiser { state: Mutex::default(), decay, requantises }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets the ranges; the next products are for training.
    pub fn reset(&self) {
        *self.state() = State::default();
    }

    /// The next products are for inference.
    pub fn infer(&self) {
        self.state().infers = true;
    }

    /// The largest magnitudes of input and output so far.
    pub fn ranges(&self) -> [Option<f64>; 2] {
        let state = self.state();
        [state.input, state.output]
    }

    /// `x Wᵀ + b` of quantised `x` and `W`. Gradient: passes as if nothing were rounded, also where
    /// a value is clamped; the ranges get none.
    pub fn linear(&self, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
        let mut state = self.state();
        if !state.infers {
            state.input = Some(follow(state.input, largest(x), self.decay));
        }
        let (scale_x, scale_w) = (scale(state.input.unwrap_or(0.0)), scale(largest(weight)));
        let (x, w) = (round(x, scale_x), round(weight, scale_w));
        let product = scale_x * scale_w;
        // Sums of 8-bit products are exact in f32 up to a width of 1,040.
        let sums = ops::linear(&x, &w, Order::OutIn, None);
        let mut y = ops::map(sums, |y| (f64::from(y) / product) as f32);
        if let Some(bias) = bias {
            let integer = |b: f32| ((f64::from(b) * product).round_ties_even() / product) as f32;
            y = match state.infers {
                true => ops::add_row(y, &ops::map(bias.clone(), integer)),
                false => ops::add_row(y, bias),
            };
        }
        if self.requantises {
            if !state.infers {
                state.output = Some(follow(state.output, largest(&y), self.decay));
            }
            y = through(&y, scale(state.output.unwrap_or(0.0)));
        }
        y
    }
}

/// A table as it is after 8 bits.
pub fn quantised(table: &Tensor) -> Tensor {
    through(table, scale(largest(table)))
}

/// A parameter's 8-bit integers.
pub fn integers(weight: &Tensor) -> Ints {
    let rounded = round(weight, scale(largest(weight)));
    Ints::new(weight.shape(), rounded.data().iter().map(|&x| x as i32).collect())
}

fn follow(range: Option<f64>, largest: f64, decay: f64) -> f64 {
    range.map_or(largest, |range| range - (1.0 - decay) * (range - largest))
}

fn largest(x: &Tensor) -> f64 {
    x.data().iter().fold(0.0, |most, &x| most.max(f64::from(x.abs())))
}

fn scale(range: f64) -> f64 {
    if range > 0.0 { MOST / range } else { 1.0 }
}

fn round(x: &Tensor, scale: f64) -> Tensor {
    let q = |x: f32| (f64::from(x) * scale).round_ties_even().clamp(-MOST, MOST) as f32;
    ops::map(x.clone(), q)
}

fn through(x: &Tensor, scale: f64) -> Tensor {
    ops::map(round(x, scale), |q| (f64::from(q) / scale) as f32)
}
