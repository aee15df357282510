//! Hand-written GPU kernels for attention over long sequences.
//!
//! A [`Full`] is a problem: plain data, no device. [`Full::reference`] computes it on any machine
//! from the definition; `Full::plan_webgpu` gives a plan that records its WGSL kernel into your
//! encoder, `Full::plan_cuda` one that queues its PTX kernel on your stream.
//!
//! ```
//! use longhand::{DType, Full, Shape, full::Inputs};
//!
//! let shape = Shape { batch: 1, heads_q: 2, heads_kv: 1, seqlen_q: 4, seqlen_k: 4, head_dim: 8 };
//! let problem = Full::new(shape, DType::F32).causal();
//! let (q, kv) = (vec![0.5f32; 64], vec![0.25f32; 32]);
//! let result = problem.reference(&Inputs::new(&q, &kv, &kv))?;
//! assert_eq!(result.out.len(), 64);
//! # Ok::<(), longhand::Error>(())
//! ```
//!
//! Conventions, the same for every kind and device: tensors are `[batch, seqlen, heads,
//! head_dim]` with strides, `head_dim` contiguous; `lse` is f32, natural logarithm, `[batch, heads,
//! seqlen_q]`; a row with nothing to attend gives `out = 0` and `lse = -inf`; masks are aligned at
//! the sequences' ends; accumulation is in f32.

pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
mod error;
pub mod full;
pub mod longformer;
pub mod lsh;
pub mod merge;
mod problem;
pub mod random;
mod real;
#[cfg(any(feature = "cuda", feature = "webgpu"))]
mod template;
mod timing;
pub mod transformer_xl;
#[cfg(feature = "webgpu")]
pub mod webgpu;

pub use error::{Declined, Error};
pub use full::Full;
pub use longformer::Longformer;
pub use lsh::Lsh;
pub use merge::{Merge, merge};
pub use problem::{DType, Shape, Strides, Window};
pub use real::Real;
pub use transformer_xl::TransformerXl;

/// The examples of README.md, compiled with the tests of the documentation.
#[cfg(all(doctest, feature = "cuda", feature = "webgpu"))]
#[doc = include_str!("../README.md")]
struct Readme;
