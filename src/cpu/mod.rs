//! This machine's processor: blocked, vectorised, threaded kernels for machines without a GPU.
//!
//! A plan computes from slices into slices, on the threads of the rayon pool that it is called in
//! (`pool.install(|| plan.run(…))` for a pool of the caller's). Results do not depend on the number
//! of threads. Instructions are chosen at run time; `LONGHAND_CPU=portable`, `avx2` or `avx512`
//! forces a choice.

mod element;
pub(crate) mod gather;
mod host;
mod isa;
pub(crate) mod lanes;
mod peak;
mod prefetch;
pub(crate) mod products;
pub(crate) mod results;
mod rows;
mod tasks;
pub(crate) mod tile;
pub(crate) mod turn;

pub use crate::timing::{Clock, Timing};
pub use element::Element;
pub(crate) use element::{expect_dtype, with_dtype};
pub(crate) use host::{time, workspace};
pub use isa::Isa;
pub(crate) use isa::{adds_beside, with_isa};
pub use peak::peak_flops;
pub(crate) use prefetch::prefetch;
pub(crate) use rows::SharedRows;
pub(crate) use tasks::share_tasks;
