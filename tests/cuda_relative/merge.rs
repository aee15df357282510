//! The kernel that merges two results.
#![allow(unsafe_code)]

use super::DTYPES;
use crate::common::cuda::{Device, Tensor, on_devices};
use crate::common::guard::{GUARD, bytes_of, floats_of};
use crate::common::merge::{Case, cases};
use longhand::cuda::{Caps, Stream};
use longhand::merge::cuda::Args;
use longhand::{DType, Error, Merge, Shape};

/// `out` and `lse` of a case whose tensors begin `guard` bytes into memory of which nothing else is
/// written.
fn merged(device: &Device, case: &Case, guard: usize) -> (Vec<f32>, Vec<f32>) {
    let (stream, dtype) = (Stream::new(&device.context).unwrap(), case.merge.dtype);
    let [result, part] = [("", 0), ("part_", 1)].map(|(of, n)| {
        let (out, lse) = &case.parts[n];
        [("out", bytes_of(out, dtype)), ("lse", bytes_of(lse, DType::F32))].map(|(name, bytes)| {
            Tensor::new(device, &stream, &format!("{of}{name}"), &bytes, guard)
        })
    });
    let args = Args {
        out: result[0].at(),
        lse: result[1].at(),
        part_out: part[0].at(),
        part_lse: part[1].at(),
    };
    let plan = case.merge.plan_cuda(&device.context).unwrap();
    // SAFETY: all are as large as the case says, and live until they were read.
    unsafe { plan.launch(&stream, &args) }.unwrap();
    let [out, lse] = result.map(|tensor| tensor.read(&stream, "result").unwrap());
    (floats_of(&out, dtype), floats_of(&lse, DType::F32))
}

#[test]
fn two_results_are_one_softmax() {
    on_devices(|device| {
        for case in DTYPES.into_iter().flat_map(cases) {
            // On multiples of 16 bytes, and off them.
            for guard in [GUARD, GUARD + 4] {
                let (out, lse) = merged(device, &case, guard);
                let (out, lse) = case.worst(&out, &lse);
                let what =
                    format!("{}: out {out:.2}, lse {lse:.2} of what is allowed", device.name);
                assert!(out <= 1.0 && lse <= 1.0, "{what}: {:?}", case.merge);
            }
        }
    });
}

#[test]
fn one_call_gives_the_same() {
    on_devices(|device| {
        let case = &cases(DType::BF16)[0];
        let parts = case.parts.each_ref().map(|(out, lse)| (&out[..], &lse[..]));
        let got = case.merge.run_cuda(&device.context, parts).unwrap();
        assert_eq!(got, merged(device, case, 0));
        let short = [(parts[0].0, parts[0].1), (parts[1].0, &parts[1].1[1..])];
        let error = case.merge.run_cuda(&device.context, short).unwrap_err();
        assert!(error.to_string().contains("parts[1].lse.len = 29"), "{error}");
    });
}

#[test]
fn what_cannot_be_merged_is_refused() {
    let shape = Shape { batch: 1, heads_q: 2, heads_kv: 2, seqlen_q: 3, seqlen_k: 1, head_dim: 8 };
    let merge = Merge::new(shape, DType::F32);
    let long = Merge::new(Shape { seqlen_q: 1 << 28, ..shape }, DType::F32);
    assert!(matches!(long.sources_cuda(&Caps::a100()), Err(Error::Declined(_))));
    let old = Caps { compute_capability: (7, 5), ..Caps::a100() };
    assert!(matches!(merge.sources_cuda(&old), Err(Error::Declined(_))));
    on_devices(|device| {
        let stream = Stream::new(&device.context).unwrap();
        let plan = merge.plan_cuda(&device.context).unwrap();
        let all = Args { out: 256, lse: 512, part_out: 768, part_lse: 1024 };
        let field = |args| {
            // SAFETY: it does not come to a launch.
            match unsafe { plan.launch(&stream, &args) } {
                Err(Error::Invalid { field, .. }) => field,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(field(Args { out: 0, ..all }), "out");
        assert_eq!(field(Args { lse: 514, ..all }), "lse");
        assert_eq!(field(Args { part_out: 770, ..all }), "part_out");
        assert_eq!(field(Args { part_lse: 0, ..all }), "part_lse");
    });
}
