//! The sources of a few configurations, word for word. A change here is a change of what runs:
//! read the difference, then accept it with `INSTA_UPDATE=always cargo test --test snapshots`.

use longhand::full::Bias;
use longhand::transformer_xl::{Memory, SinCos};
use longhand::webgpu::Caps;
use longhand::{DType, Full, Longformer, Lsh, Merge, Shape, TransformerXl};

fn snapshot(name: &str, problem: Full, caps: &Caps) {
    assert_sources(name, problem.sources_webgpu(caps).unwrap());
}

fn assert_sources(name: &str, sources: Vec<(String, String)>) {
    for (kernel, source) in sources {
        insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
            insta::assert_snapshot!(format!("{kernel}.{name}"), source);
        });
    }
}

fn shape(seqlen_q: usize, seqlen_k: usize, head_dim: usize) -> Shape {
    Shape { batch: 1, heads_q: 8, heads_kv: 2, seqlen_q, seqlen_k, head_dim }
}

#[test]
fn the_plainest_forward_pass() {
    snapshot("f32_d64", Full::new(shape(4096, 4096, 64), DType::F32).causal(), &Caps::baseline());
}

#[test]
fn one_query_over_split_keys() {
    snapshot("f32_d64_split", Full::new(shape(1, 4096, 64), DType::F32), &Caps::baseline());
}

#[test]
fn every_option_with_f16_and_subgroups() {
    let caps = Caps { f16: true, subgroup_size: Some(32), ..Caps::baseline() };
    let problem = Full::new(shape(200, 200, 128), DType::F16)
        .softcap(30.0)
        .alibi()
        .bias(Bias { per_batch: false, per_head: true })
        .key_padding();
    snapshot("f16_d128_options", problem, &caps);
}

#[test]
fn rows_that_begin_off_a_multiple_of_four() {
    snapshot("bf16_d33", Full::new(shape(200, 200, 33), DType::BF16), &Caps::baseline());
}

#[test]
fn rows_on_a_cpu_adapter() {
    let caps = Caps { cpu: true, ..Caps::baseline() };
    snapshot("f32_d32", Full::new(shape(200, 200, 32), DType::F32).causal(), &caps);
}

#[cfg(feature = "cuda")]
#[test]
fn one_query_over_split_keys_in_ptx() {
    let problem = Full::new(shape(1, 4096, 32), DType::BF16);
    let sources = problem.sources_cuda(&longhand::cuda::Caps::a100()).unwrap();
    assert_eq!(sources.len(), 2, "the attention and the combining kernel");
    assert_sources("sm80_bf16_d32_split", sources);
}

#[cfg(feature = "cuda")]
#[test]
fn lsh_by_two_factors_in_ptx() {
    let problem = Lsh::new([1, 4096, 2, 32], 32, 2, DType::BF16).num_buckets(&[4, 6]).causal();
    let sources = problem.sources_cuda(&longhand::cuda::Caps::a100()).unwrap();
    assert_eq!(sources.len(), 4, "the hash, the two kernels of the sort, the attention");
    assert_sources("sm80_bf16_d32", sources);
}

#[cfg(feature = "cuda")]
#[test]
fn relative_positions_over_a_memory_in_ptx() {
    let problem = TransformerXl::with_memory([1, 4096, 2, 32], 4096, DType::BF16);
    let sources = problem.sources_cuda(&longhand::cuda::Caps::a100()).unwrap();
    assert_eq!(sources.len(), 2, "the terms, the attention");
    assert_sources("sm80_bf16_d32", sources);
}

#[cfg(feature = "cuda")]
#[test]
fn queries_at_positions_of_their_own_in_ptx() {
    let problem = TransformerXl::xlnet([1, 512, 2, 32], 384, DType::BF16).targets(85);
    let mut sources = problem.sources_cuda(&longhand::cuda::Caps::a100()).unwrap();
    sources.retain(|(name, _)| name == "transformer_xl_forward");
    assert_sources("sm80_bf16_d32_targets", sources);
}

#[test]
fn the_position_table() {
    let table =
        TransformerXl::with_memory([1, 64, 2, 64], 64, DType::F32).sinusoids(128, SinCos::Halves);
    assert_sources("f32_halves", table.sources_webgpu(&Caps::baseline()).unwrap());
    let table = TransformerXl::conformer([1, 64, 2, 64], 0, DType::BF16);
    let table = table.sinusoids(6, SinCos::Interleaved);
    assert_sources("bf16_interleaved", table.sources_webgpu(&Caps::baseline()).unwrap());
    #[cfg(feature = "cuda")]
    assert_sources("sm80_bf16", table.sources_cuda(&longhand::cuda::Caps::a100()).unwrap());
}

#[test]
fn merging_two_results() {
    let shape = Shape { batch: 1, heads_q: 2, heads_kv: 2, seqlen_q: 9, seqlen_k: 1, head_dim: 64 };
    let merge = Merge::new(shape, DType::F32);
    assert_sources("f32", merge.sources_webgpu(&Caps::baseline()).unwrap());
    let merge = Merge::new(Shape { head_dim: 6, ..shape }, DType::BF16);
    assert_sources("bf16_d6", merge.sources_webgpu(&Caps::baseline()).unwrap());
    #[cfg(feature = "cuda")]
    assert_sources("sm80_bf16_d6", merge.sources_cuda(&longhand::cuda::Caps::a100()).unwrap());
}

#[test]
fn queries_at_positions_of_their_own_in_tiles() {
    let problem = TransformerXl::xlnet([1, 512, 2, 64], 384, DType::F32).perm_mask().targets(85);
    assert_sources("f32_d64_targets", problem.sources_webgpu(&Caps::baseline()).unwrap());
}

#[test]
fn longformers_tiles_with_globals_padding_and_dilation() {
    let problem = Longformer::new([1, 4096, 2, 64], 256, DType::F32)
        .globals(4)
        .key_padding()
        .dilation(&[1, 2]);
    assert_sources("f32_d64_all", problem.sources_webgpu(&Caps::baseline()).unwrap());
}

#[test]
fn longformers_rows_on_a_cpu_adapter() {
    let caps = Caps { cpu: true, ..Caps::baseline() };
    let problem = Longformer::new([1, 4096, 2, 32], 256, DType::BF16).globals(4);
    assert_sources("bf16_d32", problem.sources_webgpu(&caps).unwrap());
}

#[test]
fn lshs_tiles_with_padding_and_pairs_that_count_once() {
    let problem = Lsh::new([1, 4096, 2, 64], 64, 2, DType::F32)
        .key_padding()
        .duplicates_once()
        .num_buckets(&[16, 32]);
    assert_sources("f32_d64_all", problem.sources_webgpu(&Caps::baseline()).unwrap());
}

#[test]
fn lshs_rows_on_a_cpu_adapter() {
    let caps = Caps { cpu: true, ..Caps::baseline() };
    let problem = Lsh::new([1, 4096, 2, 32], 64, 2, DType::BF16);
    assert_sources("bf16_d32", problem.sources_webgpu(&caps).unwrap());
}

#[test]
fn relative_positions_in_tiles_with_every_option() {
    let memory = Memory { len: 4032, rows: 4032, start: 0 };
    let problem = TransformerXl::xlnet([1, 64, 2, 64], 4032, DType::F32)
        .memory(memory)
        .segments()
        .perm_mask()
        .key_padding();
    assert_sources("f32_d64_all", problem.sources_webgpu(&Caps::baseline()).unwrap());
}

#[test]
fn relative_positions_in_rows_on_a_cpu_adapter() {
    let caps = Caps { cpu: true, ..Caps::baseline() };
    let problem = TransformerXl::with_memory([1, 4096, 2, 32], 0, DType::BF16);
    assert_sources("bf16_d32", problem.sources_webgpu(&caps).unwrap());
}
