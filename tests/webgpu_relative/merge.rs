//! The kernel that merges two results.

use super::DTYPES;
use crate::common::guard::{GUARD, bytes_of, floats_of, sentinel};
use crate::common::merge::{Case, cases};
use crate::common::raw::{guarded, read};
use crate::common::{Random, device, devices};
use longhand::merge::webgpu::Args;
use longhand::webgpu::{Binding, Context};
use longhand::{DType, Error, Full, Merge, Shape, full};

/// `out` and `lse` of a case whose tensors begin `guard` bytes into theirs; nothing else is written.
fn merged(gpu: &Context, case: &Case, guard: usize) -> (Vec<f32>, Vec<f32>) {
    let dtype = case.merge.dtype;
    let [result, part] = case.parts.each_ref().map(|(out, lse)| {
        [bytes_of(out, dtype), bytes_of(lse, DType::F32)]
            .map(|bytes| (guarded(gpu, &bytes, guard), bytes.len()))
    });
    let at = |n: usize| -> Binding<'_> {
        // The lse of f32 begin on words.
        let of = &[&result, &part][n / 2][n % 2].0;
        Binding::new(of, guard as u64)
    };
    let args = Args::new([at(0), at(1)], [at(2), at(3)]);
    let bound = case.merge.plan_webgpu(gpu).unwrap().bind(&args).unwrap();
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    bound.record(&mut encoder);
    gpu.queue().submit([encoder.finish()]);
    let inside = |(buffer, len): &(wgpu::Buffer, usize)| {
        let bytes = read(gpu, buffer);
        let untouched = sentinel(bytes.len());
        assert!(bytes[..guard] == untouched[..guard], "written before: {:?}", case.merge);
        assert!(bytes[guard + len..] == untouched[guard + len..], "written past: {:?}", case.merge);
        bytes[guard..guard + len].to_vec()
    };
    let [out, lse] = result.each_ref().map(inside);
    (floats_of(&out, dtype), floats_of(&lse, DType::F32))
}

#[test]
fn two_results_are_one_softmax() {
    for (name, gpu) in devices() {
        for case in DTYPES.into_iter().flat_map(cases) {
            // On multiples of four elements, and off them.
            for guard in [GUARD, GUARD + 4] {
                let (out, lse) = merged(&gpu, &case, guard);
                let (out, lse) = case.worst(&out, &lse);
                let what = format!("{name}: out {out:.2}, lse {lse:.2} of what is allowed");
                assert!(out <= 1.0 && lse <= 1.0, "{what}: {:?}", case.merge);
            }
        }
    }
}

#[test]
fn halves_of_the_keys_merge_to_the_whole() {
    let Some(gpu) = device() else { return };
    let shape =
        Shape { batch: 2, heads_q: 3, heads_kv: 3, seqlen_q: 37, seqlen_k: 96, head_dim: 32 };
    let half = Shape { seqlen_k: 48, ..shape };
    let mut random = Random(4);
    let [q, k, v] = [37, 96, 96].map(|rows| random.normals(2 * rows * 3 * 32));
    let whole = Full::new(shape, DType::F32);
    let expected = whole.reference(&full::Inputs::new(&q, &k, &v)).unwrap();
    let parts = [0, 1].map(|n| {
        let keys = |x: &[f32]| -> Vec<f32> {
            x.chunks_exact(96 * 3 * 32)
                .flat_map(|x| x[n * 48 * 3 * 32..][..48 * 3 * 32].to_vec())
                .collect()
        };
        let (k, v) = (keys(&k), keys(&v));
        Full::new(half, DType::F32).run_webgpu(gpu, &full::Inputs::new(&q, &k, &v)).unwrap()
    });
    let parts = parts.each_ref().map(|part| (&part.out[..], &part.lse[..]));
    let (out, lse) = Merge::new(shape, DType::F32).run_webgpu(gpu, parts).unwrap();
    for (got, expected, most) in [(&out, &expected.out, 1e-6), (&lse, &expected.lse, 1.5e-6)] {
        let error = got.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(error <= most, "{error:.1e}");
    }
}

#[test]
fn a_grid_is_folded_where_rows_are_many() {
    let Some(gpu) = device() else { return };
    let shape =
        Shape { batch: 1, heads_q: 16, heads_kv: 16, seqlen_q: 70_000, seqlen_k: 1, head_dim: 4 };
    let (rows, merge) = (16 * 70_000, Merge::new(shape, DType::F16));
    // Two results that weigh the same: the mean of row n is n modulo 1000.
    let of = |n: usize| (n / 4 % 1000) as f32;
    let a: Vec<f32> = (0..4 * rows).map(|n| of(n) + 1.0).collect();
    let b: Vec<f32> = (0..4 * rows).map(|n| of(n) - 1.0).collect();
    let lse = vec![2.0; rows];
    let (out, lse) = merge.run_webgpu(gpu, [(&a, &lse), (&b, &lse)]).unwrap();
    let wrong = out.iter().enumerate().position(|(n, &x)| (x - of(n)).abs() > 0.5);
    assert_eq!(wrong, None);
    let expected = 2.0 + std::f32::consts::LN_2;
    assert!(lse.iter().all(|x| (x - expected).abs() < 1e-6));
}

#[test]
fn what_cannot_be_merged_is_refused() {
    let Some(gpu) = device() else { return };
    let shape = Shape { batch: 1, heads_q: 2, heads_kv: 2, seqlen_q: 3, seqlen_k: 1, head_dim: 8 };
    let merge = Merge::new(shape, DType::F16);
    let long = Merge::new(Shape { seqlen_q: 1 << 28, ..shape }, DType::F16);
    assert!(matches!(long.plan_webgpu(gpu), Err(Error::Declined(_))));
    let plan = merge.plan_webgpu(gpu).unwrap();
    let [a, b, c, d] = [96, 24, 96, 24].map(|bytes| guarded(gpu, &vec![0; bytes], 0));
    let refused = |args: Args<'_>| match plan.bind(&args) {
        Err(Error::Invalid { field, .. }) => field,
        other => panic!("{other:?}"),
    };
    let all = Args::new([&a, &b], [&c, &d]);
    plan.bind(&all).unwrap();
    let at = |buffer, offset| Binding::new(buffer, offset);
    assert_eq!(refused(Args { part_out: at(&a, 0), ..all }), "out.buffer");
    assert_eq!(refused(Args { out: at(&a, 2), ..all }), "out.buffer.size");
    assert_eq!(refused(Args { lse: at(&b, 2), ..all }), "lse.offset");
    assert_eq!(refused(Args { part_lse: at(&d, 4), ..all }), "part_lse.buffer.size");
    let error = merge.run_webgpu(gpu, [(&[0.0; 48], &[0.0; 6]), (&[0.0; 48], &[0.0; 5])]);
    assert!(error.unwrap_err().to_string().contains("parts[1].lse.len = 5"));
}
