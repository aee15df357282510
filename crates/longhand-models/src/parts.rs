//! The parts of a block: linear maps and norms with their parameters.

use crate::ops;
pub use crate::ops::{NormKind, Order};
use crate::quant::Quantiser;
use crate::{Result, Tensor, Weights, when};
use std::sync::Arc;

/// `y = x Wᵀ + b`.
#[derive(Clone)]
pub struct Linear {
    /// The matrix as stored.
    pub weight: Tensor,
    /// What is added, `[out]`.
    pub bias: Option<Tensor>,
    /// How the matrix is stored.
    pub order: Order,
    /// Makes the products 8-bit, of its own copy of the matrix.
    pub quantiser: Option<Arc<Quantiser>>,
}

impl Linear {
    /// Reads `<name>.weight`, `[out, in]`, and `<name>.bias`.
    ///
    /// # Errors
    ///
    /// If one is absent or misshapen.
    pub fn read(weights: &Weights, name: &str, from: usize, to: usize) -> Result<Self> {
        Linear::read_as(weights, name, from, to, Order::OutIn, true)
    }

    /// Reads `<name>.weight`, `[out, in]`, alone.
    ///
    /// # Errors
    ///
    /// If it is absent or misshapen.
    pub fn bare(weights: &Weights, name: &str, from: usize, to: usize) -> Result<Self> {
        Linear::read_as(weights, name, from, to, Order::OutIn, false)
    }

    /// Reads `<name>.weight` in either order, with or without `<name>.bias`.
    ///
    /// # Errors
    ///
    /// If one is absent or misshapen.
    pub fn read_as(
        weights: &Weights,
        name: &str,
        from: usize,
        to: usize,
        order: Order,
        biased: bool,
    ) -> Result<Self> {
        let shape = if order == Order::OutIn { [to, from] } else { [from, to] };
        let weight = weights.tensor(&format!("{name}.weight"), &shape)?;
        let bias = when(biased, || weights.tensor(&format!("{name}.bias"), &[to]))?;
        Ok(Linear { weight, bias, order, quantiser: None })
    }

    /// A map of a matrix that is also something else, or that files hold in another shape.
    pub fn of(weight: Tensor, bias: Option<Tensor>, order: Order) -> Self {
        Linear { weight, bias, order, quantiser: None }
    }

    /// Of every row of `x`.
    pub fn run(&self, x: &Tensor) -> Tensor {
        match &self.quantiser {
            Some(quantiser) => quantiser.linear(x, self.bias.as_ref()),
            None => ops::linear(x, &self.weight, self.order, self.bias.as_ref()),
        }
    }
}

/// A norm with its parameters.
#[derive(Clone)]
pub struct Norm {
    kind: NormKind,
    weight: Tensor,
    bias: Option<Tensor>,
    /// Added to the variance.
    pub eps: f64,
}

impl Norm {
    /// Reads `<name>.weight` and, unless it is an RMS norm, `<name>.bias`.
    ///
    /// # Errors
    ///
    /// If one is absent or misshapen.
    pub fn read(
        weights: &Weights,
        name: &str,
        width: usize,
        kind: NormKind,
        eps: f64,
    ) -> Result<Self> {
        let weight = weights.tensor(&format!("{name}.weight"), &[width])?;
        let bias =
            when(kind != NormKind::Rms, || weights.tensor(&format!("{name}.bias"), &[width]))?;
        Ok(Norm { kind, weight, bias, eps })
    }

    /// Of every row of `x`.
    pub fn run(&self, x: Tensor) -> Tensor {
        ops::norm(x, self.kind, &self.weight, self.bias.as_ref(), self.eps)
    }

    /// Of every channel of `[batch, length, width]` over the length: a group norm of one channel a
    /// group. The statistics are those of the turned tensor's rows; the parameters follow.
    pub fn run_over_time(&self, x: &Tensor) -> Tensor {
        let length = x.shape()[1];
        let (ones, zeros) = (Tensor::new(&[length], vec![1.0; length]), Tensor::zeros(&[length]));
        let normed = ops::norm(ops::turned(x), self.kind, &ones, Some(&zeros), self.eps);
        let affine = Norm { kind: NormKind::Affine, ..self.clone() };
        affine.run(ops::turned(&normed))
    }
}
