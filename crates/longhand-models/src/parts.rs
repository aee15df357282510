//! The parts of a block: linear maps and norms with their parameters.

use crate::ops::{self, Matrix};
use crate::quant::Quantiser;
use crate::{Result, Tensor, Weights};
use std::sync::Arc;

/// `y = x Wᵀ + b`.
#[derive(Clone)]
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
    order: Order,
    quantiser: Option<Arc<Quantiser>>,
}

/// How a file stores the matrix of a linear map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// `[out, in]`.
    OutIn,
    /// `[in, out]`, as GPT's "Conv1D".
    InOut,
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
        let bias = biased.then(|| weights.tensor(&format!("{name}.bias"), &[to])).transpose()?;
        Ok(Linear { weight, bias, order, quantiser: None })
    }

    /// A map whose matrix is a table that is also something else: a tied head.
    pub fn tied(table: &Tensor, bias: Option<Tensor>) -> Self {
        Linear::of(table.clone(), bias, Order::OutIn)
    }

    /// A map of a matrix that files hold in another shape.
    pub fn of(weight: Tensor, bias: Option<Tensor>, order: Order) -> Self {
        Linear { weight, bias, order, quantiser: None }
    }

    /// The same with 8-bit products.
    pub fn quantised(self, quantiser: Arc<Quantiser>) -> Self {
        Linear { quantiser: Some(quantiser), ..self }
    }

    /// The matrix as stored.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// Of every row of `x`.
    pub fn run(&self, x: &Tensor) -> Tensor {
        let bias = self.bias.as_ref().map(Tensor::data);
        if let Some(quantiser) = &self.quantiser {
            return quantiser.linear(x, &self.weight, bias);
        }
        let w = Matrix::new(self.weight.data(), self.weight.rows(), self.weight.width());
        ops::linear(x, if self.order == Order::OutIn { w.t() } else { w }, bias)
    }
}

/// Which norm.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum NormKind {
    /// [`ops::layer_norm`].
    Layer,
    /// [`ops::rms_norm`]: no bias.
    Rms,
    /// [`ops::affine`]: no statistics.
    Affine,
}

/// A norm with its parameters.
#[derive(Clone)]
pub struct Norm {
    kind: NormKind,
    weight: Tensor,
    bias: Option<Tensor>,
    eps: f64,
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
        let bias = match kind {
            NormKind::Rms => None,
            _ => Some(weights.tensor(&format!("{name}.bias"), &[width])?),
        };
        Ok(Norm { kind, weight, bias, eps })
    }

    /// Of every row of `x`.
    pub fn run(&self, x: Tensor) -> Tensor {
        let (weight, bias) = (self.weight.data(), self.bias.as_ref().map_or(&[][..], Tensor::data));
        match self.kind {
            NormKind::Layer => ops::layer_norm(x, weight, bias, self.eps),
            NormKind::Rms => ops::rms_norm(x, weight, self.eps),
            NormKind::Affine => ops::affine(x, weight, bias),
        }
    }
}
