//! What is refused, and in which words.
#![allow(unsafe_code)]

use crate::common::cuda::on_devices;
use longhand::cuda::{Caps, Stream};
use longhand::lsh::Layout;
use longhand::lsh::cuda::Args;
use longhand::lsh::cuda::config::select;
use longhand::{DType, Error, Lsh, Strides};

#[test]
fn wrong_arguments_are_named() {
    on_devices(|device| {
        let stream = Stream::new(&device.context).unwrap();
        let p = Lsh::new([1, 40, 1, 32], 8, 2, DType::F16).num_buckets(&[4]).key_padding();
        let field = |p: &Lsh, args: Args| {
            let plan = p.plan_cuda(&device.context).unwrap();
            // SAFETY: it does not come to a launch.
            match unsafe { plan.launch(&stream, &args) }.unwrap_err() {
                Error::Invalid { field, .. } => field,
                other => panic!("not an invalid argument: {other}"),
            }
        };
        let given = Args {
            rotations: Some(256),
            buckets: Some(256),
            key_valid: Some(256),
            lse_rounds: Some(256),
            workspace: Some(256),
            ..Args::new(256, 256, 256, 256)
        };
        let hashed = |args| field(&p, args);
        assert_eq!(hashed(Args { qk: 0, ..given }), "qk");
        assert_eq!(hashed(Args { v: 257, ..given }), "v");
        assert_eq!(hashed(Args { out: 0, ..given }), "out");
        assert_eq!(hashed(Args { lse: 258, ..given }), "lse");
        assert_eq!(hashed(Args { rotations: None, ..given }), "rotations");
        assert_eq!(hashed(Args { buckets: None, ..given }), "buckets");
        assert_eq!(hashed(Args { key_valid: None, ..given }), "key_valid");
        assert_eq!(hashed(Args { lse_rounds: None, ..given }), "lse_rounds");
        assert_eq!(hashed(Args { lse_rounds: Some(2), ..given }), "lse_rounds");
        assert_eq!(hashed(Args { workspace: None, ..given }), "workspace");
        assert_eq!(hashed(Args { workspace: Some(8), ..given }), "workspace");
        assert_eq!(field(&p.clone().buckets_given(), given), "rotations");
        let one = Lsh { chunk_len: 40, ..p.clone() };
        assert_eq!(field(&one, given), "rotations");
        assert_eq!(field(&one, Args { rotations: None, ..given }), "buckets");
        let without = Args { rotations: None, buckets: None, ..given };
        assert_eq!(field(&one, without), "lse_rounds");
        let plain = Lsh { key_padding: false, ..p.clone() };
        assert_eq!(field(&plain, given), "key_valid");
    });
}

#[test]
fn what_cannot_be_computed_is_declined_with_the_reason() {
    let declined = |p: Lsh, caps: &Caps| match select(&p, caps) {
        Err(Error::Declined(why)) => why.to_string(),
        other => panic!("not declined: {other:?}"),
    };
    let p = Lsh::new([1, 4096, 1, 64], 64, 4, DType::F16);
    let old = Caps { compute_capability: (7, 5), ..Caps::a100() };
    assert!(declined(p.clone(), &old).contains("7.5"));
    let small = Caps { max_shared_opt_in: 16 << 10, ..Caps::a100() };
    assert!(declined(p.clone(), &small).contains("shared memory"));
    let many = p.clone().chunks(1 << 30, 0);
    assert!(declined(many, &Caps::a100()).contains("chunks_before"));
    let heads = Lsh { heads: 1 << 26, layout: Layout::of(Strides::bshd(4096, 1 << 26, 64)), ..p };
    assert!(declined(heads, &Caps::a100()).contains("thread blocks"));
}
