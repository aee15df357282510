//! The model layer: the BERT family from one transformer block, on longhand's attention kernels.
//!
//! ```no_run
//! use longhand_models::{Device, Inputs, Model};
//!
//! let model = Model::open("folder".as_ref())?;
//! let inputs = Inputs::new().ints_of("input_ids", &[1, 3], vec![101, 7592, 102]);
//! let out = model.forward(&inputs, &Device::Cpu)?;
//! let last = out.floats("hidden_states.6")?;
//! # Ok::<(), longhand_models::Error>(())
//! ```
//!
//! [`family`] is the table that says how each model differs from BERT; README.md says how to add
//! one.

pub mod attention;
pub mod block;
mod cache;
mod config;
mod device;
pub mod embeddings;
mod error;
pub mod family;
mod generate;
mod gpu;
pub mod heads;
pub mod members;
mod model;
pub mod network;
pub mod objectives;
pub mod ops;
pub mod parts;
pub mod quant;
#[cfg(feature = "text")]
mod sentence;
pub mod sizes;
pub mod stack;
mod tensor;
#[cfg(feature = "text")]
mod text;
pub mod traits;
mod values;
mod weights;

pub use cache::{BlockCache, Cache, KeysValues};
pub use config::{Config, Names};
pub use device::Device;
pub use error::{Error, Result};
pub(crate) use error::{each, ensure, lock, reject, require, when};
pub use generate::{Begun, Generation, Generator, Rules};
pub use gpu::Gpu;
pub use model::Model;
#[cfg(feature = "text")]
pub use sentence::SentenceEncoder;
pub use tensor::{Ints, Tensor};
#[cfg(feature = "text")]
pub use text::{Reading, TextModel};
pub use values::{Inputs, Outputs, Value};
pub use weights::{Progress, Weights};
