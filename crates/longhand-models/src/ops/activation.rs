//! Functions of one element.

use super::elements::one;
use super::*;

/// An activation, by what it computes: configs call some of them by other names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x · ½(1 + erf(x/√2))`.
    Gelu,
    /// `½x(1 + tanh(√(2/π)(x + 0.044715x³)))`.
    GeluTanh,
    /// `x · σ(1.702x)`.
    QuickGelu,
    /// `max(x, 0)`.
    Relu,
    /// `x · σ(x)`.
    Silu,
    /// `tanh x`.
    Tanh,
    /// `1 / (1 + exp(−x))`.
    Sigmoid,
    /// `x`.
    Identity,
}

impl Activation {
    /// The activation of that name in a config, if it is a known one.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "gelu" => Activation::Gelu,
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Activation::GeluTanh,
            "quick_gelu" => Activation::QuickGelu,
            "relu" => Activation::Relu,
            "silu" | "swish" => Activation::Silu,
            "tanh" => Activation::Tanh,
            "sigmoid" => Activation::Sigmoid,
            "linear" => Activation::Identity,
            _ => return None,
        })
    }

    /// Of every element. Gradient: the derivative at the input, times what comes in.
    pub fn apply(self, x: Tensor) -> Tensor {
        // The kernel knows them in this order, behind four other functions.
        let of = 4 + self as usize;
        match self {
            Activation::Gelu => one(of, x, 0.0, gelu),
            Activation::GeluTanh => one(of, x, 0.0, |x| {
                let inner = 0.797_884_6 * (x + 0.044_715 * x * x * x);
                0.5 * x * (1.0 + inner.tanh())
            }),
            Activation::QuickGelu => one(of, x, 0.0, |x| x * sigmoid(1.702 * x)),
            Activation::Relu => one(of, x, 0.0, |x| x.max(0.0)),
            Activation::Silu => one(of, x, 0.0, |x| x * sigmoid(x)),
            Activation::Tanh => one(of, x, 0.0, f32::tanh),
            Activation::Sigmoid => one(of, x, 0.0, sigmoid),
            Activation::Identity => x,
        }
    }
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// `x · ½(1 + erf(x/√2))` in operations that vectorise: one rational approximation of erf on
/// |z| ≤ 4, the one that Eigen and XLA use, within 5e-7.
#[inline(always)]
fn gelu(x: f32) -> f32 {
    let z = (x * std::f32::consts::FRAC_1_SQRT_2).clamp(-4.0, 4.0);
    let z2 = z * z;
    let mut p = -2.726_142_3e-10f32;
    for c in [
        2.770_681_4e-8,
        -2.101_024e-6,
        -5.692_506_4e-5,
        -7.349_906_3e-4,
        -2.954_6e-3,
        -1.609_603_3e-2,
    ] {
        p = p * z2 + c;
    }
    let mut q = -1.456_607_2e-5f32;
    for c in [-2.133_740_6e-4, -1.682_827e-3, -7.373_329e-3, -1.426_473_9e-2] {
        q = q * z2 + c;
    }
    0.5 * x * (1.0 + z * p / q)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gelu_is_exact_to_rounding() {
        // erf by its series, in f64.
        let erf = |z: f64| {
            let (mut term, mut sum) = (z, z);
            for n in 1..200 {
                term *= -z * z / f64::from(n);
                sum += term / f64::from(2 * n + 1);
            }
            sum * std::f64::consts::FRAC_2_SQRT_PI
        };
        for i in -500..=500 {
            let x = i as f32 / 100.0;
            let exact = f64::from(x) * 0.5 * (1.0 + erf(f64::from(x) / 2f64.sqrt()));
            let error = (f64::from(gelu(x)) - exact).abs();
            // erf within 5e-7.
            assert!(error <= 2.5e-7 * f64::from(x.abs()).max(0.1), "gelu({x}): {error:e} off");
        }
        assert!((gelu(50.0) - 50.0).abs() <= 2.5e-7 * 50.0);
        assert!(gelu(-50.0).abs() <= 2.5e-7 * 50.0);
    }
}
