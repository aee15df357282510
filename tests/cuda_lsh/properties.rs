//! What holds whatever the numbers are.

use crate::common::Random;
use crate::common::cuda::on_devices;
use crate::common::lsh::Case;
use crate::common::lsh_cuda::{buckets_of_positions, stable_order};
use crate::{DTYPES, check};
use longhand::lsh::Wrap;
use longhand::{DType, Lsh};

/// What does not depend on chunks: all positions in one bucket and one chunk are full attention.
#[test]
fn one_bucket_and_one_chunk_is_full_attention_with_shared_queries_and_keys() {
    on_devices(|device| {
        for (n, dtype) in DTYPES.into_iter().enumerate() {
            let mut random = Random(n as u64);
            let mut one = Lsh::new([2, 150, 2, 64], 150, 1, dtype);
            one.causal = n != 1;
            one.key_padding = n != 2;
            let case = Case::new(one.clone(), &mut random);
            let whole = check(device, &case);
            // The same by chunks that all see each other.
            let mut p = one.num_buckets(&[2]).buckets_given().chunks(2, 0);
            p.chunk_len = 50;
            let buckets = Some(vec![0; p.buckets_len()]);
            let chunked = check(device, &Case { problem: p, buckets, ..case.clone() });
            let worst = whole.out.iter().zip(&chunked.out).map(|(a, b)| (a - b).abs());
            let most = 3.0 * crate::common::tolerance(dtype);
            assert!(worst.fold(0.0, f32::max) as f64 <= most, "{} {dtype}", device.name);
        }
    });
}

#[test]
fn a_causal_row_never_sees_the_future() {
    on_devices(|device| {
        for (n, dtype) in DTYPES.into_iter().enumerate() {
            let mut random = Random(70 + n as u64);
            let p = Lsh::new([1, 200, 1, 64], 32, 3, dtype).num_buckets(&[8]);
            let case = Case::new(p.causal().buckets_given(), &mut random);
            let first = check(device, &case);
            let mut other = case.clone();
            for x in [&mut other.qk, &mut other.v] {
                x[120 * 64..].iter_mut().for_each(|x| *x *= -0.5);
            }
            let second = check(device, &other);
            assert!(first.out[..120 * 64] == second.out[..120 * 64], "{} {dtype}", device.name);
            assert!(first.lse[..120] == second.lse[..120], "{} {dtype}", device.name);
        }
    });
}

/// A row that meets nothing but itself gives its own v, bit for bit, and the mask as its lse.
#[test]
fn rows_alone_with_themselves_give_their_own_values() {
    on_devices(|device| {
        for (n, dtype) in DTYPES.into_iter().enumerate() {
            let p = Lsh::new([1, 30, 2, 64], 1, 5, dtype).num_buckets(&[2]).chunks(0, 0);
            let case = Case::new(p.buckets_given(), &mut Random(n as u64));
            let got = check(device, &case);
            assert_eq!(got.out, case.v, "{} {dtype}", device.name);
            for (round, &lse) in got.lse_rounds.iter().enumerate() {
                assert!((lse + 1e5).abs() <= 0.03, "{} {dtype} {round}: {lse}", device.name);
            }
            // The first position of a causal sequence, and padding.
            let p = Lsh::new([1, 90, 1, 64], 16, 4, dtype).num_buckets(&[4]).causal();
            let mut case = Case::new(p.key_padding().buckets_given(), &mut Random(n as u64));
            case.key_valid = Some(vec![0; 90]);
            let got = check(device, &case);
            assert_eq!(got.out, case.v, "{} {dtype}", device.name);
        }
    });
}

#[test]
fn permuting_the_rounds_leaves_their_combination() {
    on_devices(|device| {
        for (n, dtype) in DTYPES.into_iter().enumerate() {
            let p = Lsh::new([1, 120, 1, 64], 16, 3, dtype).num_buckets(&[8]);
            let case = Case::new(p.wrap(Wrap::PerRound).buckets_given(), &mut Random(n as u64));
            let first = check(device, &case);
            let mut other = case.clone();
            let buckets = other.buckets.as_mut().unwrap();
            buckets.rotate_left(120);
            let second = check(device, &other);
            let apart = first.out.iter().zip(&second.out).map(|(a, b)| (a - b).abs());
            let most = 4.0 * crate::common::tolerance(dtype);
            assert!(f64::from(apart.fold(0.0, f32::max)) <= most, "{} {dtype}", device.name);
            let mut rounds = first.lse_rounds.clone();
            rounds.rotate_left(120);
            assert!(rounds == second.lse_rounds, "{} {dtype}", device.name);
        }
    });
}

/// Lengths around the tiles of the sort, one bucket, more than one digit, and all buckets of the
/// largest number there may be.
#[test]
fn the_order_is_that_of_a_stable_sort() {
    let buckets: [&[usize]; 6] = [&[2], &[16], &[128], &[256], &[1 << 10, 2], &[1 << 10, 1 << 10]];
    on_devices(|device| {
        for (n, seqlen) in [255, 256, 257, 700, 4095, 4096, 4097, 9000].into_iter().enumerate() {
            for (k, factors) in buckets.iter().enumerate() {
                if seqlen > 4000 && (n + k) % 3 != 0 {
                    continue;
                }
                let p = Lsh::new([1, seqlen, 1, 4], 64, 2, DType::F16).chunks(0, 0);
                let mut p = p.num_buckets(factors).buckets_given();
                p.key_padding = k % 2 == 1;
                let mut case = Case::new(p, &mut Random(n as u64));
                if k == 0 {
                    case.buckets.as_mut().unwrap().fill(1);
                }
                let inputs = case.inputs();
                let got = case.problem.run_cuda(&device.context, &inputs).unwrap();
                let order = stable_order(seqlen, &buckets_of_positions(&case));
                assert!(got.order == order, "{seqlen} {factors:?}");
            }
        }
    });
}

/// A bucket given beyond the last counts as the last, and so is what an invalid position has.
#[test]
fn given_buckets_are_clamped() {
    on_devices(|device| {
        let p = Lsh::new([1, 70, 1, 32], 8, 2, DType::F32).num_buckets(&[4]).key_padding();
        let mut case = Case::new(p.buckets_given(), &mut Random(4));
        let valid = case.key_valid.clone().unwrap();
        let buckets = case.buckets.as_mut().unwrap();
        for (n, bucket) in buckets.iter_mut().enumerate().filter(|(n, _)| valid[n % 70] == 0) {
            *bucket = [-7, 1 << 20, i32::MIN, 5][n % 4];
        }
        check(device, &case);
    });
}
