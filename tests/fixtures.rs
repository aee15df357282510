//! The reference, and the comparison that every backend is held to, against values computed by
//! other people's implementations in float64 (`tests/data`).

use longhand::lsh::Wrap;
use longhand::{DType, Window};
use longhand_cli::compare::{Comparison, Measure, compare, difference};
use longhand_cli::device::{Device, DeviceKind};
use longhand_cli::full_file::FullFile;
use longhand_cli::longformer_file::LongformerFile;
use longhand_cli::lsh_file::LshFile;
use longhand_cli::naive;
use longhand_cli::problem_file::ProblemFile;
use longhand_cli::results::{Results, from_parts};
use longhand_cli::transformer_xl_file::RelativeFile;
use std::path::Path;

/// A fixture of op `full`.
fn fixture(name: &str) -> FullFile {
    read("full", name).into_full().expect("a problem of full attention")
}

/// A fixture of op `longformer`.
fn longformer(name: &str) -> LongformerFile {
    read("longformer", name).into_longformer().expect("a problem of Longformer's")
}

/// A fixture of op `lsh`.
fn lsh(name: &str) -> LshFile {
    read("lsh", name).into_lsh().expect("a problem of LSH attention")
}

/// A fixture with relative positions.
fn relative(op: &str, name: &str) -> RelativeFile {
    read(op, name).into_relative().expect("a problem with relative positions")
}

fn read(op: &str, name: &str) -> ProblemFile {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(op);
    let path = folder.join(format!("{name}.safetensors"));
    ProblemFile::read(&path).unwrap_or_else(|e| panic!("{e}"))
}

fn fixtures_of(op: &str, count: usize) -> Vec<(String, ProblemFile)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(op);
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .expect("tests/data")
        .map(|entry| entry.expect("an entry").path())
        .map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert_eq!(names.len(), count, "fixtures of {op} are missing");
    names.into_iter().map(|name| (format!("{op}/{name}"), read(op, &name))).collect()
}

fn fixtures() -> Vec<(String, ProblemFile)> {
    let mut all = fixtures_of("full", 37);
    all.extend(fixtures_of("longformer", 17));
    all.extend(fixtures_of("lsh", 18));
    all.extend(fixtures_of("transformer_xl", 11));
    all.extend(fixtures_of("xlnet", 10));
    all.extend(fixtures_of("rel_pos", 11));
    all.extend(fixtures_of("t5_bias", 8));
    all
}

fn expected(file: &ProblemFile, name: &str) -> Vec<f64> {
    file.expected()[name].values.numbers()
}

fn compare_all(file: &ProblemFile, dtype: DType, got: &Results) -> Vec<Comparison> {
    let tolerances = naive::tolerances(file, dtype, true).unwrap();
    let names = file.expected().keys().filter(|name| got.contains_key(*name));
    names.map(|name| compare(name, &got[name], &expected(file, name), tolerances[name])).collect()
}

#[test]
fn the_reference_in_f64_is_what_other_implementations_compute() {
    for (name, file) in fixtures() {
        let results = naive::reference(&file, file.has_grad_out()).unwrap();
        assert_eq!(results.len(), file.expected().len(), "{name}");
        for (result, got) in &results {
            let d = difference(Measure::of(result), got, &expected(&file, result));
            assert!(d.error <= 1e-11, "{name} {result}: {d:?}");
        }
    }
}

#[test]
fn f32_stays_within_the_bounds_that_the_format_promises() {
    for (name, file) in fixtures() {
        let results = naive::evaluate(&file, DType::F32, true).unwrap();
        for result in file.expected().keys() {
            let d = difference(Measure::of(result), &results[result], &expected(&file, result));
            let bound = if result.starts_with("lse") { 3e-7 } else { 5e-6 };
            assert!(d.error <= bound, "{name} {result}: {d:?}");
        }
    }
}

#[test]
fn results_rounded_to_each_dtype_pass_the_comparison() {
    let device = Device::open(DeviceKind::Cpu).unwrap();
    for (name, file) in fixtures() {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let got = device.compute(&file, dtype, true).unwrap().results;
            for c in compare_all(&file, dtype, &got) {
                assert!(c.passed(), "{name} {dtype}: {c:?}");
            }
        }
    }
}

#[test]
fn no_tolerance_is_so_wide_that_it_says_nothing() {
    for (name, file) in fixtures() {
        for (dtype, most) in [(DType::F32, 5e-5), (DType::F16, 0.01), (DType::BF16, 0.1)] {
            let zeros: Results =
                file.expected().keys().map(|k| (k.clone(), expected(&file, k))).collect();
            for c in compare_all(&file, dtype, &zeros) {
                // What cancels to a small rest: the gradient of nearly parallel keys after their
                // normalisation, and sums of a row's ds, which are nearly 0.
                let rest = match c.name.as_str() {
                    "grad.qk" => name == "lsh/one_bucket",
                    "grad.bias_s" | "grad.seg_embed" => true,
                    _ => false,
                };
                let most = if rest { 6.0 * most } else { most };
                assert!(c.tolerance <= most, "{name} {dtype}: {c:?}");
            }
        }
    }
}

/// What a kernel with a mistake would give.
fn mistaken(file: &FullFile, dtype: DType, mistake: impl Fn(&mut FullFile)) -> Vec<Comparison> {
    let mut wrong = file.clone();
    mistake(&mut wrong);
    let inputs = wrong.inputs.stored_as::<f64>(dtype);
    let output = wrong.problem.reference(&inputs.as_inputs()).unwrap();
    compare_all(&file.clone().into(), dtype, &from_parts(file, &output, None, dtype))
}

/// The same of Longformer's.
fn mistaken_longformer(name: &str, mistake: impl Fn(&mut LongformerFile)) -> Vec<Comparison> {
    let file = longformer(name);
    let mut wrong = file.clone();
    mistake(&mut wrong);
    let results = wrong.reference::<f64>(DType::F32, false).unwrap();
    compare_all(&file.into(), DType::F32, &results)
}

#[test]
fn longformers_pitfalls_are_seen() {
    type Mistake = fn(&mut LongformerFile);
    let cases: [(&str, &str, Mistake); 8] = [
        ("one key less on the left", "length_37_w5", |f| f.problem.left -= 1),
        ("one key more on the right", "window_asymmetric", |f| f.problem.right += 1),
        ("dilation ignored", "dilation_1_2_3", |f| f.problem.dilation.clear()),
        ("not causal", "causal_globals", |f| f.problem.causal = false),
        ("padding ignored", "padding_and_globals", |f| {
            f.problem.key_padding = false;
            f.inputs.key_valid = None;
        }),
        ("padding loses to global", "padded_global", |f| {
            let listed = f.inputs.global_indices.clone().expect("globals");
            let (g, n) = (f.problem.max_globals, f.problem.seqlen);
            let valid = f.inputs.key_valid.as_mut().expect("a mask");
            for (at, i) in listed.into_iter().enumerate().filter(|(_, i)| *i >= 0) {
                valid[at / g * n + i as usize] = 1;
            }
        }),
        ("global rows use the local projections", "globals_scattered_w4", |f| {
            f.problem.shared_projections = true;
            (f.inputs.q_global, f.inputs.k_global, f.inputs.v_global) = (None, None, None);
        }),
        ("a global position is forgotten", "global_inside_own_window", |f| {
            f.inputs.global_indices.as_mut().expect("globals").pop();
            f.problem.max_globals -= 1;
        }),
    ];
    for (mistake, name, make) in cases {
        let comparisons = mistaken_longformer(name, make);
        assert!(comparisons.iter().any(|c| !c.passed()), "{mistake}: {comparisons:?}");
    }
}

#[test]
fn the_pitfalls_of_lsh_are_seen() {
    type Mistake = fn(&mut LshFile);
    let cases: [(&str, &str, Mistake); 11] = [
        ("wrapped within each round", "rounds_2_causal", |f| f.problem.wrap = Wrap::PerRound),
        ("not causal", "rounds_8_causal", |f| f.problem.causal = false),
        ("the self mask is another masked key's", "rounds_2_causal", |f| {
            f.problem.self_mask_value = f.problem.mask_value;
        }),
        ("a position sees itself", "d64", |f| f.problem.self_mask_value = 0.0),
        ("keys are not normalised", "d64", |f| {
            f.problem.key_norm_eps = 1e12;
            f.problem.softmax_scale *= 1e6;
        }),
        ("scaled once more", "d64", |f| f.problem.softmax_scale /= 8.0),
        ("the chunk before is forgotten", "rounds_4", |f| f.problem.chunks_before = 0),
        ("the chunk after is forgotten", "before_1_after_1", |f| f.problem.chunks_after = 0),
        ("padding is ignored", "padding", |f| {
            f.problem.key_padding = false;
            f.inputs.key_valid = None;
        }),
        ("the factors the other way round", "factorised_4_2", |f| f.problem.num_buckets.reverse()),
        ("duplicates count once", "l_1024", |f| f.problem.duplicates_once = true),
    ];
    for (mistake, name, make) in cases {
        let file = lsh(name);
        let mut wrong = file.clone();
        make(&mut wrong);
        let results = wrong.reference::<f64>(DType::F32, false).unwrap();
        let comparisons = compare_all(&file.into(), DType::F32, &results);
        assert!(comparisons.iter().any(|c| !c.passed()), "{mistake}: {comparisons:?}");
    }
}

#[test]
fn the_pitfalls_of_relative_positions_are_seen() {
    type Mistake = fn(&mut RelativeFile);
    let swap = |f: &mut RelativeFile| std::mem::swap(&mut f.inputs.bias_u, &mut f.inputs.bias_v);
    let descend = |f: &mut RelativeFile| {
        let row = f.problem.shape.heads_q * f.problem.shape.head_dim;
        f.inputs.r = f.inputs.r.rchunks_exact(row).flatten().copied().collect();
    };
    let cases: [(&str, [&str; 2], Mistake); 14] = [
        ("every distance one too small", ["rel_pos", "window_6_3"], |f| {
            f.problem.distance_offset -= 1;
        }),
        ("every distance one too large", ["rel_pos", "window_6_6_padding"], |f| {
            f.problem.distance_offset += 1;
        }),
        ("clamped one position early", ["transformer_xl", "clamp_len"], |f| {
            f.problem.clamp_len = Some(8);
        }),
        ("clamped one position early", ["xlnet", "bi_clamp"], |f| f.problem.clamp_len = Some(4)),
        ("the two biases exchanged", ["transformer_xl", "d64"], swap),
        ("the table the other way round", ["transformer_xl", "mlen0"], descend),
        ("same_length one key longer", ["transformer_xl", "same_length"], |f| {
            f.problem.window.left = f.problem.window.left.map(|n| n + 1);
        }),
        ("same_length as Transformer-XL's", ["xlnet", "uni_same_length"], |f| {
            f.problem.window.left = f.problem.window.left.map(|n| n - 1);
        }),
        ("not causal", ["xlnet", "uni"], |f| {
            f.problem.window.right = None;
            // The table has no rows for the future.
            f.problem.clamp_len = Some(0);
        }),
        ("the query does not see itself", ["xlnet", "bi_two_streams_perm"], |f| {
            f.problem.own_position = false;
        }),
        ("segments exchanged", ["xlnet", "bi_segments"], |f| {
            let embed = f.inputs.seg_embed.as_mut().expect("segments");
            let half = embed.len() / 2;
            embed.rotate_left(half);
        }),
        ("one chunk less is seen", ["rel_pos", "chunk_8_left_1"], |f| {
            f.problem.chunks.as_mut().expect("chunks").left = Some(0);
        }),
        ("chunks begin with the segment", ["rel_pos", "cached_keys_6_chunk_4"], |f| {
            f.problem.chunks.as_mut().expect("chunks").size = 5;
        }),
        ("padding is ignored", ["rel_pos", "key_padding"], |f| {
            f.problem.key_padding = false;
            f.inputs.key_valid = None;
        }),
    ];
    for (mistake, [op, name], make) in cases {
        let file = relative(op, name);
        let mut wrong = file.clone();
        make(&mut wrong);
        let results = wrong.reference::<f64>(DType::F32, false).unwrap();
        let comparisons = compare_all(&file.into(), DType::F32, &results);
        assert!(comparisons.iter().any(|c| !c.passed()), "{mistake}: {comparisons:?}");
    }
}

#[test]
fn the_pitfalls_of_buckets_are_seen() {
    type Mistake = fn(&mut FullFile);
    fn buckets(f: &mut FullFile) -> &mut longhand::full::Buckets {
        f.problem.buckets.as_mut().expect("buckets")
    }
    let cases: [(&str, &str, Mistake); 5] = [
        ("scaled as other attention", "d64", |f| f.problem.softmax_scale = 0.125),
        ("bidirectional in a decoder", "causal_lq90_lk150", |f| buckets(f).bidirectional = true),
        ("another last distance", "bidirectional_l_150", |f| buckets(f).max_distance = 120),
        ("the heads of the table exchanged", "bidirectional", |f| {
            let table = f.inputs.bias_table.as_mut().expect("a table");
            table.chunks_exact_mut(2).for_each(|row| row.swap(0, 1));
        }),
        ("future and past exchanged", "buckets_8_max_20", |f| {
            f.inputs.bias_table.as_mut().expect("a table").rotate_left(4);
        }),
    ];
    for (mistake, name, make) in cases {
        let file = read("t5_bias", name).into_full().expect("a problem of full attention");
        let comparisons = mistaken(&file, DType::F32, make);
        let out = comparisons.iter().find(|c| c.name == "out").expect("a result");
        assert!(!out.passed(), "{mistake}: {comparisons:?}");
    }
}

#[test]
fn buckets_that_are_given_replace_the_hash() {
    for (name, file) in fixtures_of("lsh", 18) {
        let mut given = file.into_lsh().expect("a problem of LSH attention");
        if !given.problem.is_sorted() {
            continue;
        }
        let expected = given.reference::<f64>(DType::F32, true).unwrap();
        given.problem.buckets_given = true;
        given.inputs.rotations = None;
        given.inputs.buckets = Some(expected["buckets"].iter().map(|&b| b as i32).collect());
        assert!(given.reference::<f64>(DType::F32, true).unwrap() == expected, "{name}");
    }
}

#[test]
fn a_mask_off_by_one_key_fails_in_every_dtype() {
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let cases = [
            ("causal_d32_l70", Window { left: None, right: Some(1) }),
            ("window_5_3", Window::new(5, 4)),
            ("window_5_3", Window::new(4, 3)),
            ("window_9_0_causal", Window::new(8, 0)),
            ("window_0_0_self_only", Window::new(0, 1)),
            ("causal_lq_lt_lk", Window { left: None, right: Some(1) }),
        ];
        for (name, window) in cases {
            let comparisons = mistaken(&fixture(name), dtype, |file| {
                file.problem.causal = false;
                file.problem.window = window;
            });
            for c in comparisons {
                assert!(!c.passed(), "{name} {dtype} {window:?}: {c:?}");
            }
        }
    }
}

#[test]
fn a_forgotten_option_fails_in_every_dtype() {
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        type Mistake = fn(&mut FullFile);
        let cases: [(&str, Mistake); 4] = [
            ("softcap_causal", |f| f.problem.softcap = 0.0),
            ("alibi_causal", |f| {
                f.problem.alibi = false;
                f.inputs.alibi_slopes = None;
            }),
            ("bias_bh", |f| {
                f.problem.bias = None;
                f.inputs.bias = None;
            }),
            ("key_padding_causal_left", |f| {
                f.problem.key_padding = false;
                f.inputs.key_valid = None;
            }),
        ];
        for (name, mistake) in cases {
            for c in mistaken(&fixture(name), dtype, mistake) {
                assert!(!c.passed(), "{name} {dtype}: {c:?}");
            }
        }
    }
}

#[test]
fn a_scale_off_by_a_hundredth_of_a_percent_fails_in_f32() {
    for (name, file) in fixtures_of("full", 37) {
        let file = file.into_full().expect("a problem of full attention");
        // A row of one key has the same softmax at any scale.
        if ["full/length1", "full/window_0_0_self_only"].contains(&name.as_str()) {
            continue;
        }
        let comparisons = mistaken(&file, DType::F32, |file| file.problem.softmax_scale *= 1.0001);
        assert!(comparisons.iter().all(|c| !c.passed()), "{name}: {comparisons:?}");
    }
}
