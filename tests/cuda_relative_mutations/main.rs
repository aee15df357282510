//! Checks that the checks check: every change below breaks one of the CUDA kernels of
//! relative-position attention as a slip of the pen would, and must be noticed. As
//! `tests/cuda_mutations.rs`.

#[path = "../common/mod.rs"]
mod common;
mod masks;
mod merge;
mod positions;
mod sinusoids;

use common::mutation::{self, Mutation};
use common::relative::{Case, errors};
use common::{Random, mock};
use longhand::cuda::{Caps, Context};
use longhand::transformer_xl::Memory;
use longhand::{DType, TransformerXl};

/// Runs the problem as it is, then with every break of kernel `kernel`.
fn all_noticed(problem: TransformerXl, seed: u64, kernel: &str, mutations: &[Mutation]) {
    let Some(mock) = mock::install() else { return };
    let case = Case::new(problem, &mut Random(seed));
    let expected = case.reference();
    let sources = problem.sources_cuda(&Caps::a100()).expect("kernels");
    let (_, source) = sources.into_iter().find(|(name, _)| name == kernel).expect("it is there");
    let tolerance = match problem.dtype {
        DType::F32 => 5e-6,
        dtype => 2.0 * common::tolerance(dtype),
    };
    let run = |context: &Context| {
        let got = problem.run_cuda(context, &case.inputs())?;
        Ok(errors(&got, &expected))
    };
    mutation::all_noticed(&mock, &source, (tolerance, 2e-6), run, mutations);
}

const FORWARD: &str = "transformer_xl_forward";
const TERMS: &str = "transformer_xl_terms";

const START: &str = ".visible .entry";
const LIMITS: &str = "// ---- what each row sees";
const TABLE: &str = "// The table: distances";
const LANES: &str = "// The shear's lanes";
/// A thread's last key of the first tile: those from 48 on.
const LAST_KEYS: &str = "add.u32 %u3, %x5, 48;";
const LOOP: &str = "\nLOOP:";
const REFILL: &str = "// The table's next rows";
const LEFT_OUT: &str = "// ---- keys left out";
const BAND: &str = "// ---- the band";
const CARRIED: &str = "\nCARRIED:";
const SHEAR: &str = "// ---- shear";
const KEY_TERMS: &str = "// ---- the keys' terms";
const MASK: &str = "// ---- mask";

/// Tiles of 64 queries and 64 keys, several of each.
fn causal() -> TransformerXl {
    TransformerXl::with_memory([1, 150, 2, 64], 200, DType::BF16)
}

/// Both streams' options, a memory in a ring, shared rows of the table.
fn mixed() -> TransformerXl {
    let p = TransformerXl::xlnet([2, 100, 2, 64], 60, DType::F16).clamp_len(40).heads_kv(1);
    let p = p.memory(Memory { len: 60, rows: 64, start: 30 });
    p.segments().perm_mask().key_padding()
}
