//! Files that are wrong, by accident or on purpose: always one clear error, never a panic, never
//! memory that the file does not fill.

mod common;

use common::{Parts, error, raw, sample};
use longhand::DType;
use longhand_cli::container::{Tensor, Values, encode};
use longhand_cli::device::{Device, DeviceKind};
use longhand_cli::problem_file::ProblemFile;
use proptest::prelude::*;

fn parts() -> Parts {
    Parts::of("gqa_h4_kv2_causal")
}

fn assert_says(message: &str, words: &[&str]) {
    for word in words {
        assert!(message.contains(word), "{word:?} is not in: {message}");
    }
}

#[test]
fn every_sample_reads_and_survives_encoding() {
    for name in ["length1", "combined", "varlen_window_alibi", "key_padding_with_empty_batch"] {
        let read = |bytes: &[u8]| ProblemFile::parse("f", bytes, true).unwrap();
        assert_eq!(read(&sample(name)), read(&Parts::of(name).bytes()), "{name}");
    }
}

#[test]
fn a_file_cut_anywhere_is_an_error() {
    let bytes = sample("length1");
    for length in 0..bytes.len() {
        error(&bytes[..length]);
    }
    let bytes = sample("combined");
    for length in (0..bytes.len()).step_by(997) {
        error(&bytes[..length]);
    }
}

#[test]
fn bytes_after_the_last_tensor_are_an_error() {
    let mut bytes = sample("length1");
    bytes.push(0);
    assert_says(&error(&bytes), &["do not end where the file ends"]);
}

#[test]
fn an_empty_file_and_a_file_of_text_are_errors() {
    assert_says(&error(b""), &["0 bytes", "too short"]);
    error(b"this is not a safetensors file at all");
    error(&[0xff; 64]);
    error(&raw("", 0));
    error(&raw("[]", 0));
    error(&raw("null", 0));
    assert_says(&error(&raw("{}", 0)), &["__metadata__.format", "absent"]);
}

#[test]
fn a_header_longer_than_the_file_allocates_nothing() {
    for claimed in [9u64, 1 << 20, 1 << 40, u64::MAX] {
        let mut bytes = claimed.to_le_bytes().to_vec();
        bytes.extend(b"{}");
        assert_says(&error(&bytes), &["header claims"]);
    }
}

#[test]
fn shapes_and_offsets_that_claim_more_than_the_file_holds_are_errors() {
    for (dims, end) in [
        ("[1048576, 1048576, 1048576]", "4611686018427387904"),
        ("[18446744073709551615, 18446744073709551615]", "8"),
        ("[4294967296, 4294967296, 4]", "0"),
        ("[2]", "8589934592"),
        ("[2]", "18446744073709551615"),
        ("[18446744073709551616]", "8"),
        ("[-1]", "8"),
        ("[1.5]", "8"),
        ("[1e99]", "8"),
    ] {
        let header =
            format!(r#"{{"q":{{"dtype":"F32","shape":{dims},"data_offsets":[0,{end}]}}}}"#);
        error(&raw(&header, 8));
    }
    for offsets in ["[8,0]", "[4,12]", "[0]", "[0,8,16]", "[-8,0]", "\"0\"", "null"] {
        let header = format!(r#"{{"q":{{"dtype":"F32","shape":[2],"data_offsets":{offsets}}}}}"#);
        error(&raw(&header, 8));
    }
    let q = r#"{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#;
    error(&raw(&format!(r#"{{"q":{q},"k":{q}}}"#), 8));
}

#[test]
fn a_name_given_twice_is_an_error() {
    let q = r#"{"dtype":"F32","shape":[0],"data_offsets":[0,0]}"#;
    assert_says(&error(&raw(&format!(r#"{{"q":{q},"q":{q}}}"#), 0)), &["q"]);
    let twice = r#"{"__metadata__":{"op":"full","op":"lsh"}}"#;
    assert_says(&error(&raw(twice, 0)), &["op"]);
    let mut p = parts();
    p.metadata("params", r#"{"batch": 1, "batch": 1}"#);
    assert_says(&p.error(), &["params", "\"batch\"", "twice"]);
}

#[test]
fn a_header_that_is_not_utf8_or_nests_without_end_is_an_error() {
    let mut bytes = raw(r#"{"__metadata__":{"op":"xx"}}"#, 0);
    bytes[8 + 23] = 0xff;
    error(&bytes);
    error(&raw(&"[".repeat(200_000), 0));
    let mut p = parts();
    p.metadata("params", &"[".repeat(200_000));
    assert_says(&p.error(), &["params", "not JSON"]);
}

#[test]
fn metadata_that_is_missing_or_wrong_is_named() {
    for key in ["format", "op", "params"] {
        let message = parts().without_metadata(key).error();
        assert_says(&message, &[&format!("__metadata__.{key}"), "absent"]);
    }
    let wrong = |key: &str, value: &str| parts().metadata(key, value).error();
    assert_says(&wrong("format", "longhand-fixture/2"), &["/2", "must be", "/1"]);
    assert_says(&wrong("op", "fulll"), &["\"fulll\"", "must be one of full"]);
    assert_says(&wrong("params", "{"), &["params", "not JSON"]);
    assert_says(&wrong("params", "[1]"), &["params", "JSON object"]);
    assert_says(&wrong("tolerance", "small"), &["tolerance", "\"small\"", "number"]);
    assert_says(&wrong("op", "a\nb"), &["must be one of"]);
}

/// Tensors by name, to be changed before they are written.
type Tensors = Vec<(&'static str, Tensor)>;

fn f32s(shape: &[usize]) -> Tensor {
    Tensor { shape: shape.to_vec(), values: Values::F32(vec![0.5; shape.iter().product()]) }
}

fn written(op: &str, params: &str, tensors: Tensors) -> Vec<u8> {
    let tensors = tensors.into_iter().map(|(name, t)| (name.to_owned(), t)).collect();
    let metadata = [("format", "longhand-fixture/1"), ("op", op), ("params", params)];
    let metadata = metadata.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    encode(&metadata, &tensors)
}

/// A problem of Longformer's: 6 positions, 2 heads, 2 globals.
fn longformer(params: &str, change: impl Fn(&mut Tensors)) -> Vec<u8> {
    let rows = ["q", "k", "v", "q_global", "k_global", "v_global"];
    let mut tensors = Vec::from(rows.map(|name| (name, f32s(&[1, 6, 2, 4]))));
    tensors.extend([
        ("global_indices", Tensor { shape: vec![1, 2], values: Values::I32(vec![3, -1]) }),
        ("key_valid", Tensor { shape: vec![1, 6], values: Values::U8(vec![1, 1, 1, 1, 1, 0]) }),
    ]);
    change(&mut tensors);
    written("longformer", params, tensors)
}

#[test]
fn longformers_files_are_checked_field_by_field() {
    let params = |window: &str, more: &str| {
        format!(
            r#"{{"batch":1,"seqlen":6,"heads":2,"head_dim":4,"scale":0.5,"window":{window}{more}}}"#
        )
    };
    let good = params("[1,2]", "");
    let read = |bytes: &[u8]| ProblemFile::parse("f", bytes, true);
    assert!(read(&longformer(&good, |_| {})).is_ok());
    let error = |bytes: Vec<u8>| read(&bytes).unwrap_err().to_string();
    let of = |window: &str, more: &str| error(longformer(&params(window, more), |_| {}));
    assert_says(&of("[-1,2]", ""), &["params.window", "[-1, 2]", "from 0"]);
    assert_says(&of("4", ""), &["params.window", "[left, right]"]);
    assert_says(&of("[1,2]", r#","dilation":[1]"#), &["dilation", "2"]);
    assert_says(&of("[1,2]", r#","dilation":[1,0]"#), &["params.dilation", "from 1"]);
    assert_says(&of("[1,2]", r#","windw":1"#), &["params.windw", "unknown", "longformer"]);
    let with = |change: &dyn Fn(&mut Tensors)| error(longformer(&good, change));
    let globals = |list: Vec<i32>| {
        with(&move |t| {
            t[6].1 = Tensor { shape: vec![1, list.len()], values: Values::I32(list.clone()) }
        })
    };
    assert_says(&globals(vec![6]), &["global_indices[0][0]", "6", "below 6"]);
    assert_says(&globals(vec![2, 2]), &["global_indices[0][1]", "2", "twice"]);
    assert_says(&globals(vec![-1, 2]), &["global_indices[0][1]", "follows a -1"]);
    assert_says(&globals(vec![-2]), &["global_indices[0][0]", "-2"]);
    assert_says(&with(&|t| drop(t.remove(4))), &["k_global", "absent"]);
    assert_says(&with(&|t| t[7].1.values = Values::U8(vec![2; 6])), &["key_valid", "0 or 1"]);
    assert_says(&with(&|t| t[0].0 = "query"), &["'query'", "none of that name"]);
    assert_says(&with(&|t| t[1].1.shape = vec![6, 1, 2, 4]), &["'k'", "[6, 1, 2, 4]"]);
}

/// A problem of LSH attention: 6 positions in chunks of 2, two rounds, 4 × 2 buckets.
fn lsh(params: &str, change: impl Fn(&mut Tensors)) -> Vec<u8> {
    let mut tensors = vec![
        ("qk", f32s(&[1, 6, 2, 4])),
        ("v", f32s(&[1, 6, 2, 4])),
        ("rotations.0", f32s(&[2, 4, 2, 2])),
        ("rotations.1", f32s(&[2, 4, 2, 1])),
        ("key_valid", Tensor { shape: vec![1, 6], values: Values::U8(vec![1, 1, 1, 1, 1, 0]) }),
    ];
    change(&mut tensors);
    written("lsh", params, tensors)
}

#[test]
fn files_of_lsh_are_checked_field_by_field() {
    let params = |buckets: &str, more: &str| {
        format!(
            r#"{{"batch":1,"seqlen":6,"heads":2,"head_dim":4,"scale":0.5,"chunk_len":2,"num_hashes":2,"num_buckets":{buckets}{more}}}"#
        )
    };
    let good = params("[4,2]", "");
    let read = |bytes: &[u8]| ProblemFile::parse("f", bytes, true);
    assert!(read(&lsh(&good, |_| {})).is_ok());
    let error = |bytes: Vec<u8>| read(&bytes).unwrap_err().to_string();
    let of = |buckets: &str, more: &str| error(lsh(&params(buckets, more), |_| {}));
    assert_says(&of("8", ""), &["params.num_buckets", "factors"]);
    assert_says(&of("[3,2]", ""), &["num_buckets[0]", "3", "even"]);
    assert_says(&of("[]", ""), &["params.num_buckets", "at least one"]);
    assert_says(&of("[1048576,2]", ""), &["num_buckets", "at most"]);
    assert_says(&of("[4,2]", r#","wrap":"never""#), &["params.wrap", "across_rounds"]);
    assert_says(&of("[4,2]", r#","chunk_length":2"#), &["params.chunk_length", "unknown", "lsh"]);
    assert_says(&of("[4,2]", r#","key_norm_eps":0"#), &["key_norm_eps", "0", "positive"]);
    assert_says(&of("[4,2]", r#","mask_value":1e99"#), &["mask_value", "finite"]);
    assert_says(&of("[4,4]", ""), &["'rotations.1'", "[2, 4, 2, 2]"]);
    assert_says(&of("[8]", ""), &["'rotations.0'", "none of that name"]);
    let with = |change: &dyn Fn(&mut Tensors)| error(lsh(&good, change));
    assert_says(&with(&|t| drop(t.remove(3))), &["'rotations.1'", "absent"]);
    assert_says(&with(&|t| t[4].1.values = Values::U8(vec![2; 6])), &["key_valid", "0 or 1"]);
    assert_says(&with(&|t| t[0].1.shape = vec![6, 1, 2, 4]), &["'qk'", "[6, 1, 2, 4]"]);
    let given = |bucket: i32| {
        lsh(&good, |t| {
            let values = Values::I32(vec![bucket; 24]);
            t.push(("buckets", Tensor { shape: vec![1, 2, 2, 6], values }));
        })
    };
    assert!(read(&given(7)).is_ok());
    assert_says(&error(given(8)), &["buckets[0][0][0][0]", "8", "below 8"]);
    let expected = lsh(&good, |t| {
        t.push((
            "expected.buckets",
            Tensor { shape: vec![1, 2, 2, 6], values: Values::F64(vec![0.0; 24]) },
        ));
    });
    assert_says(&error(expected), &["'expected.buckets'", "F64", "I32"]);
}

#[test]
fn targets_are_positions_of_the_segment_and_queries_as_many() {
    let two = || Parts::of("bi_two_streams_mem");
    let read = |p: &Parts| ProblemFile::parse("f", &p.bytes(), true).map_err(|e| e.to_string());
    let file = read(&two().at_targets("_g", &[3, 17, 0])).unwrap();
    assert_eq!(file.result_shape("out_g"), Some(vec![1, 3, 1, 16]));
    assert_eq!(file.result_shape("lse_g"), Some(vec![1, 1, 3]));
    assert_eq!(file.result_shape("out"), Some(vec![1, 18, 1, 16]), "the content stream has all");
    let one = read(&Parts::of("same_length").at_targets("", &[3])).unwrap();
    assert_eq!(one.result_shape("out"), Some(vec![1, 1, 1, 16]));
    assert_eq!(one.result_shape("grad.k"), Some(vec![1, 36, 1, 16]));

    let targets = |shape: &[usize], x: &[i32]| {
        two().tensor("targets", shape, Values::I32(x.to_vec())).error()
    };
    assert_says(&targets(&[3], &[0; 3]), &["tensor 'targets'", "[batch, targets] = [1, any]"]);
    assert_says(&targets(&[1, 3], &[0; 3]), &["tensor 'q_g'", "[batch, targets, heads, head_dim]"]);
    let with = |n: i32| {
        let mut ids = vec![0; 18];
        ids[1] = n;
        targets(&[1, 18], &ids)
    };
    for n in [18, -1, i32::MAX, i32::MIN] {
        assert_says(&with(n), &[&format!("targets[0][1] = {n}"), "a position below 18"]);
    }
    let floats = Values::F32(vec![0.0; 18]);
    assert_says(&two().tensor("targets", &[1, 18], floats).error(), &["is F32: must be I32"]);
    let grad = Values::F32(vec![0.0; 18 * 16]);
    let moved = two().at_targets("_g", &[3]).tensor("grad.out_g", &[1, 18, 1, 16], grad);
    assert_says(&moved.error(), &["tensor 'grad.out_g'", "as q_g = [1, 1, 1, 16]"]);
    let full = parts().tensor("targets", &[1, 1], Values::I32(vec![0]));
    assert_says(&full.error(), &["tensor 'targets'", "op 'full'"]);
    assert!(read(&two().at_targets("_g", &[])).is_ok(), "no query at all");
}

#[test]
fn every_param_has_a_type_a_range_and_a_name() {
    for key in ["batch", "heads_q", "heads_kv", "head_dim", "seqlen_q", "seqlen_k"] {
        for json in [
            "-1",
            "1.5",
            "1.0",
            "1e3",
            "1e300",
            "2147483648",
            "18446744073709551616",
            "99999999999999999999999",
            "\"1\"",
            "null",
            "[]",
            "{}",
            "true",
            "",
        ] {
            let message = parts().param(key, json).error();
            assert_says(&message, &[&format!("params.{key}"), "must be an integer from 0"]);
        }
        let message = parts().param(key, "7").error();
        assert!(message.contains("tensor") || message.contains("params."), "{key}: {message}");
    }
    for (key, rule, texts) in [
        ("scale", "a number", &["\"1\"", "null", "", "[]", "true"][..]),
        ("softcap", "a number", &["\"1\"", "null", "[]"]),
        ("causal", "true or false", &["1", "\"true\"", "null"]),
        ("layout", "\"padded\" or \"varlen\"", &["\"ragged\"", "1", "null"]),
        (
            "window",
            "[left, right]",
            &[
                "[1]",
                "[1,2,3]",
                "[-2,0]",
                "[0.5,1]",
                "5",
                "null",
                "[1,2147483648]",
                "[1,\"2\"]",
                "[1,1e400]",
            ],
        ),
    ] {
        for json in texts {
            let message = parts().param(key, json).error();
            // A number beyond every range is already refused as JSON.
            if !message.contains("not JSON") {
                assert_says(&message, &[&format!("params.{key}"), rule]);
            }
        }
    }
    assert_says(&parts().param("scale", "1e300").error(), &["params.scale", "finite in f32"]);
    assert_says(&parts().param("softcap", "-1").error(), &["params.softcap", "at least 0"]);
    assert_says(&parts().param("seqlen", "22").error(), &["params.seqlen: unknown", "seqlen_q"]);
}

#[test]
fn params_with_a_default_may_be_left_out() {
    let mut plain = parts();
    for key in ["layout", "window", "softcap"] {
        plain = plain.param(key, "");
    }
    let read = |p: &Parts| ProblemFile::parse("f", &p.bytes(), true).unwrap();
    assert_eq!(read(&plain), read(&parts()));
    assert!(!read(&plain.param("causal", "")).into_full().unwrap().problem.causal);
}

#[test]
fn tensors_must_be_there_with_their_type_and_the_sizes_of_params() {
    let q = || Values::F32(vec![0.0; 22 * 4 * 16]);
    for name in ["q", "k", "v"] {
        let message = parts().without(name).error();
        assert_says(&message, &[&format!("tensor '{name}'"), "absent", "F32"]);
        let message = parts().tensor(name, &[3], Values::F32(vec![0.0; 3])).error();
        assert_says(&message, &[&format!("tensor '{name}'"), "[3]", "must be"]);
        let wide = Values::F64(vec![0.0; 3]);
        let message = parts().tensor(name, &[3], wide).error();
        assert_says(&message, &[&format!("tensor '{name}' is F64"), "must be F32"]);
    }
    assert_says(&parts().tensor("q", &[22, 4, 16], q()).error(), &["tensor 'q'", "[22, 4, 16]"]);
    assert_says(&parts().tensor("q", &[1, 4, 22, 16], q()).error(), &["[1, 22, 4, 16]"]);
    assert_says(&parts().tensor("grad.out", &[3], Values::F32(vec![0.0; 3])).error(), &["as q"]);
    let slopes = Values::F32(vec![0.0; 3]);
    assert_says(&parts().tensor("alibi_slopes", &[3], slopes).error(), &["[heads_q] = [4]"]);
    for shape in [&[2, 1, 22, 22][..], &[1, 2, 22, 22], &[1, 1, 22, 21], &[22, 22]] {
        let values = Values::F32(vec![0.0; shape.iter().product()]);
        let message = parts().tensor("bias", shape, values).error();
        assert_says(&message, &["tensor 'bias'", "batch or 1"]);
    }
    assert_says(&parts().tensor("key_valid", &[22], Values::U8(vec![1; 22])).error(), &["[1, 22]"]);
    let ints = Values::I32(vec![1; 22]);
    assert_says(&parts().tensor("key_valid", &[1, 22], ints).error(), &["is I32: must be U8"]);
    let twos = Values::U8(vec![2; 22]);
    assert_says(&parts().tensor("key_valid", &[1, 22], twos).error(), &["key_valid = 2", "0 or 1"]);
}

#[test]
fn tensors_without_a_role_are_errors() {
    let one = || Values::F32(vec![0.0]);
    assert_says(&parts().tensor("qq", &[1], one()).error(), &["tensor 'qq'", "alibi_slopes"]);
    let ends = Values::I32(vec![0, 22]);
    let message = parts().tensor("cu_seqlens_q", &[2], ends).error();
    assert_says(&message, &["cu_seqlens_q", "varlen"]);
    for name in ["bias", "key_valid"] {
        let message = Parts::of("varlen_window_alibi").tensor(name, &[1], one()).error();
        assert_says(&message, &[name, "not defined for layout \"varlen\""]);
    }
    assert_says(&parts().tensor("a\nb", &[1], one()).error(), &["a\\nb"]);
}

#[test]
fn expected_tensors_are_checked_when_they_are_used_and_ignored_when_not() {
    let one = || Values::F64(vec![0.0]);
    let bad = [
        parts().tensor("expected.out", &[1], one()),
        parts().tensor("expected.out", &[1], Values::F32(vec![0.0])),
        parts().tensor("expected.buckets", &[1], one()),
        parts().without("grad.out"),
    ];
    for p in &bad {
        assert_says(&p.error(), &["tensor 'expected."]);
        assert!(ProblemFile::parse("f", &p.bytes(), false).unwrap().expected().is_empty());
    }
}

#[test]
fn ragged_batches_must_be_consistent() {
    let p = || Parts::of("varlen_window_alibi");
    let ends = |x: &[i32]| p().tensor("cu_seqlens_q", &[x.len()], Values::I32(x.to_vec())).error();
    assert_says(&ends(&[0, 28]), &["cu_seqlens_q", "[batch + 1] = [3]"]);
    assert_says(&ends(&[1, 17, 28]), &["cu_seqlens_q[0] = 1", "must be 0"]);
    assert_says(&ends(&[0, 30, 28]), &["cu_seqlens_q[1]"]);
    assert_says(&ends(&[0, -5, 28]), &["cu_seqlens_q[1] = -5", "must not descend"]);
    assert_says(&ends(&[0, i32::MIN, i32::MAX]), &["cu_seqlens_q[1]"]);
    assert_says(&ends(&[0, 17, 27]), &["cu_seqlens_q[2] = 27", "total, 28"]);
    assert_says(&ends(&[0, 14, 28]), &["params.seqlen_q = 17", "longest sequence, 14"]);
    assert_says(&p().without("cu_seqlens_k").error(), &["cu_seqlens_k", "absent"]);
    let short = Values::F32(vec![0.0; 27 * 2 * 16]);
    assert_says(&p().tensor("v", &[27, 2, 16], short).error(), &["tensor 'v'", "[27, 2, 16]"]);
}

#[test]
fn billions_of_sequences_of_nothing_cost_nothing() {
    let most = i32::MAX as usize;
    let mut p = parts().param("batch", &most.to_string());
    p = p.param("seqlen_q", "0").param("seqlen_k", "0");
    p.tensors.retain(|_, _| false);
    for (name, heads) in [("q", 4), ("k", 2), ("v", 2), ("grad.out", 4)] {
        p = p.tensor(name, &[most, 0, heads, 16], Values::F32(Vec::new()));
    }
    let file = ProblemFile::parse("f", &p.bytes(), true).unwrap();
    compute(&file);
}

/// Whatever was accepted can be computed.
fn compute(file: &ProblemFile) {
    let device = Device::open(DeviceKind::Cpu).unwrap();
    let computed = device.compute(file, DType::BF16, true).unwrap();
    let naive = longhand_cli::naive::evaluate(file, DType::BF16, true).unwrap();
    assert!(computed.results.keys().eq(naive.keys()));
}

/// Bytes that a mutation may put: any, or one that keeps JSON alive.
fn byte() -> impl Strategy<Value = u8> {
    prop_oneof![any::<u8>(), prop::sample::select(b"0123456789-.e,:[]{}\" ".to_vec())]
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(1500)
    })]

    #[test]
    fn changed_bytes_never_panic_the_reader(
        which in prop::sample::select(vec!["length1", "varlen_window_alibi", "combined"]),
        changes in prop::collection::vec((any::<prop::sample::Index>(), byte(), 0usize..3), 1..6),
        anywhere: bool,
    ) {
        let mut bytes = sample(which);
        let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        for (at, byte, how) in changes {
            let end = if anywhere { bytes.len() } else { header.min(bytes.len()) };
            let at = at.index(end.max(1));
            match how {
                0 => bytes[at] = byte,
                // A file one longer or shorter, its claimed header length as before.
                1 => bytes.insert(at, byte),
                _ => { bytes.remove(at); }
            }
        }
        if let Ok(file) = ProblemFile::parse("f", &bytes, true) {
            compute(&file);
        }
    }

    #[test]
    fn changed_params_never_panic_the_reader(
        which in prop::sample::select(vec!["length1", "varlen_window_alibi", "combined"]),
        changes in prop::collection::vec((any::<prop::sample::Index>(), byte()), 1..4),
    ) {
        let mut p = Parts::of(which);
        let mut params = p.metadata["params"].clone().into_bytes();
        for (at, byte) in changes {
            let at = at.index(params.len());
            params[at] = byte;
        }
        p.metadata.insert("params".to_owned(), String::from_utf8_lossy(&params).into_owned());
        if let Ok(file) = ProblemFile::parse("f", &encode(&p.metadata, &p.tensors), true) {
            compute(&file);
        }
    }
}
