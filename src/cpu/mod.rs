//! This machine's processor: blocked, vectorised, threaded kernels for machines without a GPU.
//!
//! A plan computes from slices into slices, on the threads of the rayon pool that it is called in
//! (`pool.install(|| plan.run(…))` for a pool of the caller's). Results do not depend on the number
//! of threads. Instructions are chosen at run time; `LONGHAND_CPU=portable` or `avx2` forces a
//! choice.

mod element;
mod isa;
pub(crate) mod lanes;
mod rows;

pub use element::Element;
pub use isa::Isa;
pub(crate) use isa::with_isa;
pub(crate) use rows::SharedRows;
