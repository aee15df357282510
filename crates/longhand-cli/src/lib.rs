//! The program `longhand`: runs, checks and measures the attention kernels of the crate of that
//! name. The parts that tests need (reading problem files, comparing results) are public.

#[cfg(not(all(feature = "cuda", feature = "webgpu")))]
mod absent;
pub mod cli;
mod commands;
pub mod compare;
pub mod container;
mod cuda;
pub mod device;
pub mod failure;
pub mod full_file;
pub mod generate;
pub mod longformer_file;
mod longformer_naive;
pub mod lsh_file;
mod lsh_naive;
pub mod naive;
mod orders;
pub mod params;
mod plot;
pub mod problem_file;
pub mod ptxas;
pub mod results;
mod samples;
pub mod sass;
mod series;
mod stages;
pub mod strict_json;
mod table;
pub mod transformer_xl_file;
pub mod transformer_xl_inputs;
mod transformer_xl_naive;
mod webgpu;
