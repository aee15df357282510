//! Against the reference and against what other implementations compute.

use crate::common::Random;
use crate::common::cuda::on_devices;
use crate::common::fixtures::{Forward, fixtures_of};
use crate::common::lsh::{Case, random_problem};
use crate::{DTYPES, check, check_at};
use longhand::lsh::Layout;
use longhand::{DType, Lsh, Strides};

#[test]
fn fixtures_agree_with_what_other_implementations_compute() {
    let files = fixtures_of("lsh", 18);
    on_devices(|device| {
        for (file, dtype) in files.iter().flat_map(|file| DTYPES.map(|dtype| (file, dtype))) {
            let problem = file.clone().into_lsh().unwrap();
            let p = Lsh { dtype, ..problem.problem.clone() };
            let got = p.run_cuda(&device.context, &problem.inputs.as_inputs()).unwrap();
            let what = format!("{} {} {dtype}", device.name, problem.name);
            Forward::of(file, dtype).check(&problem.results(&got, None), &what);
        }
    });
}

#[test]
fn random_problems_of_every_choice_agree_with_the_reference() {
    on_devices(|device| {
        for seed in 0..60 {
            let mut random = Random(seed);
            let head_dim = [32, 64, 64, 96, 128][random.below(5)];
            let problem = random_problem(&mut random, DTYPES[seed as usize % 3], head_dim);
            check(device, &Case::new(problem, &mut random));
        }
    });
}

#[test]
fn every_head_dim_is_padded_inside_the_kernel() {
    on_devices(|device| {
        let dims = [1, 4, 8, 13, 32, 60, 72, 96, 104, 128, 129, 160, 192, 200, 256];
        for (n, head_dim) in dims.into_iter().enumerate() {
            for dtype in DTYPES {
                let mut random = Random(n as u64);
                let chunk_len = [16, 40, 64][n % 3];
                let mut p = Lsh::new([2, 75, 2, head_dim], chunk_len, 2, dtype).num_buckets(&[4]);
                p.key_padding = n % 2 == 0;
                p.causal = n % 4 < 2;
                check(device, &Case::new(p, &mut random));
            }
        }
    });
}

#[test]
fn odd_strides_and_tensors_off_16_bytes_load_by_elements() {
    on_devices(|device| {
        for dtype in DTYPES {
            for (n, guard) in [(0, 0), (1, 4), (2, 12), (3, 260)] {
                let mut random = Random(n);
                let p = Lsh::new([2, 70, 2, 40], 16, 2, dtype).num_buckets(&[2, 2]).causal();
                let gap = if guard == 0 { 3 } else { 8 };
                let (head, row) = (40 + gap, 2 * (40 + gap) + 2 * gap);
                let strides = Strides { batch: 70 * row + 5 * gap, seqlen: row, head };
                let p = p.key_padding().layout(Layout::of(strides));
                check_at(device, &Case::new(p, &mut random), guard);
            }
        }
    });
}

#[test]
fn nothing_at_all() {
    on_devices(|device| {
        for [batch, seqlen] in [[0, 50], [2, 0]] {
            let p = Lsh::new([batch, seqlen, 2, 32], 8, 2, DType::F32).num_buckets(&[2]);
            let case = Case::new(p, &mut Random(1));
            let got = case.problem.run_cuda(&device.context, &case.inputs()).unwrap();
            assert!(got.out.is_empty() && got.order.is_empty());
        }
    });
}

#[test]
fn each_sequence_and_head_is_computed_as_if_it_were_alone() {
    on_devices(|device| {
        let p = Lsh::new([2, 100, 2, 32], 16, 2, DType::F32).num_buckets(&[8]);
        let case = Case::new(p.buckets_given().key_padding(), &mut Random(8));
        let all = check(device, &case);
        let p = &case.problem;
        for (b, h) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let rows = |x: &[f32]| -> Vec<f32> {
                (0..100).flat_map(|i| &x[((b * 100 + i) * 2 + h) * 32..][..32]).copied().collect()
            };
            let problem = Lsh {
                batch: 1,
                heads: 1,
                layout: Layout::of(Strides::bshd(100, 1, 32)),
                ..p.clone()
            };
            let buckets = case.buckets.as_ref().unwrap()[(b * 2 + h) * 200..][..200].to_vec();
            let one = Case {
                problem,
                qk: rows(&case.qk),
                v: rows(&case.v),
                rotations: None,
                buckets: Some(buckets),
                key_valid: Some(case.key_valid.as_ref().unwrap()[b * 100..][..100].to_vec()),
            };
            let alone = check(device, &one);
            assert!(alone.out == rows(&all.out), "{} {b} {h}", device.name);
            assert!(alone.lse == all.lse[(b * 2 + h) * 100..][..100], "{} {b} {h}", device.name);
        }
    });
}
