//! What is refused, and in which words.
#![allow(unsafe_code)]

use crate::common::cuda::on_devices;
use longhand::cuda::{Caps, Stream};
use longhand::transformer_xl::Memory;
use longhand::transformer_xl::cuda::Args;
use longhand::transformer_xl::cuda::config::select;
use longhand::{DType, Error, TransformerXl};

#[test]
fn wrong_arguments_are_named() {
    on_devices(|device| {
        let stream = Stream::new(&device.context).unwrap();
        let plain = TransformerXl::xlnet([1, 40, 1, 32], 8, DType::F16);
        let p = plain.segments().perm_mask().key_padding();
        let p = p.memory(Memory { len: 8, rows: 8, start: 0 });
        let field = |p: &TransformerXl, args: Args| {
            let plan = p.plan_cuda(&device.context).unwrap();
            // SAFETY: it does not come to a launch.
            match unsafe { plan.launch(&stream, &args) }.unwrap_err() {
                Error::Invalid { field, .. } => field,
                other => panic!("not an invalid argument: {other}"),
            }
        };
        let least = Args::new([256; 3], 256, [256; 2], 256, 256);
        let given = Args {
            k_memory: Some(256),
            v_memory: Some(256),
            bias_s: Some(256),
            seg_embed: Some(256),
            seg_q: Some(256),
            seg_k: Some(256),
            perm_mask: Some(256),
            key_valid: Some(256),
            workspace: Some(256),
            ..least
        };
        let of = |args| field(&p, args);
        assert_eq!(of(Args { q: 0, ..given }), "q");
        assert_eq!(of(Args { k: 257, ..given }), "k");
        assert_eq!(of(Args { v: 0, ..given }), "v");
        assert_eq!(of(Args { r: 0, ..given }), "r");
        assert_eq!(of(Args { bias_u: 258, ..given }), "bias_u");
        assert_eq!(of(Args { bias_v: 0, ..given }), "bias_v");
        assert_eq!(of(Args { out: 0, ..given }), "out");
        assert_eq!(of(Args { lse: 258, ..given }), "lse");
        assert_eq!(of(Args { k_memory: None, ..given }), "k_memory");
        assert_eq!(of(Args { v_memory: Some(1), ..given }), "v_memory");
        assert_eq!(of(Args { bias_s: None, ..given }), "bias_s");
        assert_eq!(of(Args { seg_embed: None, ..given }), "seg_embed");
        assert_eq!(of(Args { seg_q: Some(2), ..given }), "seg_q");
        assert_eq!(of(Args { seg_k: None, ..given }), "seg_k");
        assert_eq!(of(Args { perm_mask: None, ..given }), "perm_mask");
        assert_eq!(of(Args { key_valid: None, ..given }), "key_valid");
        assert_eq!(of(Args { targets: Some(256), ..given }), "targets");
        assert_eq!(of(Args { workspace: None, ..given }), "workspace");
        assert_eq!(of(Args { workspace: Some(8), ..given }), "workspace");
        let without = Args { workspace: Some(256), ..least };
        for (name, args) in [
            ("k_memory", Args { k_memory: Some(256), ..without }),
            ("bias_s", Args { bias_s: Some(256), ..without }),
            ("seg_k", Args { seg_k: Some(256), ..without }),
            ("perm_mask", Args { perm_mask: Some(256), ..without }),
            ("key_valid", Args { key_valid: Some(256), ..without }),
        ] {
            assert_eq!(field(&plain, args), name);
        }
    });
}

#[test]
fn what_cannot_be_computed_is_declined_with_the_reason() {
    let declined = |p: TransformerXl, caps: &Caps| match select(&p, caps) {
        Err(Error::Declined(why)) => why.to_string(),
        other => panic!("not declined: {other:?}"),
    };
    let p = TransformerXl::xlnet([1, 4096, 1, 64], 64, DType::F16);
    let old = Caps { compute_capability: (7, 5), ..Caps::a100() };
    assert!(declined(p, &old).contains("7.5"));
    let small = Caps { max_shared_opt_in: 16 << 10, ..Caps::a100() };
    assert!(declined(p, &small).contains("shared memory"));
    let ring = p.memory(Memory { len: 64, rows: (1 << 30) + 1, start: 0 });
    assert!(declined(ring, &Caps::a100()).contains("memory.rows"));
    let many = TransformerXl::with_memory([1 << 20, 64, 64, 1], 1, DType::F16);
    assert!(declined(many, &Caps::a100()).contains("2^32"));
}
