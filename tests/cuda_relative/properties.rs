//! What must come out the same, to the bit or within the tolerance.

use crate::common::Random;
use crate::common::cuda::on_devices;
use crate::common::relative::Case;
use crate::{DTYPES, LSE, check};
use longhand::full::Inputs as FullInputs;
use longhand::transformer_xl::Memory;
use longhand::{DType, Full, TransformerXl, Window};

#[test]
fn without_positions_and_biases_it_is_full_attention() {
    on_devices(|device| {
        for (n, dtype) in DTYPES.into_iter().enumerate() {
            for right in [None, Some(0)] {
                let p = TransformerXl::conformer([2, 130, 2, 64], 40, dtype)
                    .window(Window { left: None, right })
                    .heads_kv(1);
                let mut case = Case::new(p, &mut Random(n as u64));
                for name in ["r", "bias_u", "bias_v"] {
                    case.tensor_mut(name).fill(0.0);
                }
                let got = check(device, &case);
                let mut full = Full::new(p.shape, dtype);
                full.causal = right.is_some();
                let inputs = FullInputs::new(case.tensor("q"), case.tensor("k"), case.tensor("v"));
                let other = full.run_cuda(&device.context, &inputs).unwrap();
                let near = |a: &[f32], b: &[f32], most: f64| {
                    a.iter().zip(b).all(|(a, b)| f64::from((a - b).abs()) <= most)
                };
                let most = 2.0 * crate::common::tolerance(dtype);
                assert!(near(&got.out, &other.out, most), "{} {dtype} {right:?}", device.name);
                assert!(near(&got.lse, &other.lse, 20.0 * LSE), "{} {dtype}", device.name);
            }
        }
    });
}

#[test]
fn a_memory_apart_wherever_its_ring_begins_changes_no_bit() {
    on_devices(|device| {
        for (n, dtype) in DTYPES.into_iter().enumerate() {
            let p = TransformerXl::with_memory([2, 100, 2, 64], 90, dtype);
            let case = Case::new(p.key_padding(), &mut Random(n as u64));
            let together = check(device, &case);
            for (len, rows, start) in
                [(90, 90, 0), (90, 90, 37), (90, 128, 100), (1, 1, 0), (0, 0, 0), (190, 200, 199)]
            {
                let apart = check(device, &case.with_memory(Memory { len, rows, start }));
                assert!(apart == together, "{} {dtype}: {len} of {rows} at {start}", device.name);
            }
        }
    });
}

/// The rows of a segment with its memory are the last rows of the long sequence.
#[test]
fn a_segment_with_memory_is_the_end_of_the_long_sequence() {
    on_devices(|device| {
        for (n, dtype) in DTYPES.into_iter().enumerate() {
            let long = TransformerXl::with_memory([1, 192, 1, 64], 0, dtype);
            let case = Case::new(long, &mut Random(n as u64));
            let whole = check(device, &case);
            let mut end = case.clone();
            end.problem = TransformerXl::with_memory([1, 64, 1, 64], 128, dtype);
            end.tensor_mut("q").drain(..128 * 64);
            let got = check(device, &end);
            assert_eq!(got.out, whole.out[128 * 64..], "{} {dtype}", device.name);
            assert_eq!(got.lse, whole.lse[128..], "{} {dtype}", device.name);
        }
    });
}

#[test]
fn rows_before_and_after_those_that_occur_change_no_bit() {
    on_devices(|device| {
        for (n, dtype) in DTYPES.into_iter().enumerate() {
            let p = TransformerXl::xlnet([1, 90, 2, 64], 20, dtype).clamp_len(60);
            let case = Case::new(p, &mut Random(n as u64));
            let first = check(device, &case);
            let mut more = case.clone();
            more.problem.rows += 12;
            more.problem.distance_offset += 5;
            let row = |n: usize| vec![f32::NAN; n * 2 * 64];
            *more.tensor_mut("r") = [row(5), case.tensor("r").to_vec(), row(7)].concat();
            assert!(check(device, &more) == first, "{} {dtype}", device.name);
        }
    });
}

/// A row's own position is seen by the content stream only.
#[test]
fn the_two_streams_differ_where_a_mask_hides_the_query_itself() {
    on_devices(|device| {
        for (n, dtype) in DTYPES.into_iter().enumerate() {
            let p = TransformerXl::xlnet([1, 70, 1, 32], 40, dtype).perm_mask();
            let mut case = Case::new(p, &mut Random(n as u64));
            case.perm_mask.fill(u32::MAX);
            let got = check(device, &case);
            let v = case.tensor("v");
            let near = |(a, b): (&f32, &f32)| (a - b).abs() <= b.abs() / 256.0;
            assert!(got.out.iter().zip(&v[40 * 32..]).all(near), "{} {dtype}", device.name);
            case.problem = p.query_stream();
            let got = check(device, &case);
            assert!(got.out.iter().all(|&x| x == 0.0), "{} {dtype}", device.name);
        }
    });
}

#[test]
fn a_long_sequence_takes_memory_in_proportion_to_it() {
    on_devices(|device| {
        let bytes = |seqlen| {
            let p = TransformerXl::xlnet([1, seqlen, 1, 64], seqlen, DType::F16).segments();
            let plan = p.plan_cuda(&device.context).unwrap();
            plan.workspace_bytes() as f64 / p.bytes()
        };
        // A term of each key, row of the table and query.
        assert!(bytes(1 << 16) <= 0.06 && bytes(1 << 10) <= 0.06, "{}", bytes(1 << 16));
    });
}
