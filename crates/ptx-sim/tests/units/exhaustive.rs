//! Conversions, permutations and tables over all their inputs, and integer operations against wide arithmetic.

use ptx_sim::alu::decode;
use ptx_sim::num::Approx;

use crate::exact::{Big, rounds_to};
use crate::lanes::{Words, one, rows, rows_approx};

/// Value of a code of a small format by the definition.
fn small(u: u64, exp: i32, man: i32) -> f64 {
    let bias = (1 << (exp - 1)) - 1;
    let e = (u >> man) as i32 & ((1 << exp) - 1);
    let m = (u & ((1 << man) - 1)) as f64;
    let fp8 = exp == 4;
    let v = match e {
        0 => m * 2f64.powi(1 - bias - man),
        _ if fp8 && e == 15 && m == 7.0 => f64::NAN,
        _ if !fp8 && e == (1 << exp) - 1 => {
            if m == 0.0 {
                f64::INFINITY
            } else {
                f64::NAN
            }
        }
        _ => (m + 2f64.powi(man)) * 2f64.powi(e - bias - man),
    };
    if u >> (exp + man) & 1 != 0 { -v } else { v }
}

fn all(n: u64) -> Vec<Vec<u64>> {
    (0..n).map(|u| vec![u]).collect()
}

#[test]
fn widening_is_exact() {
    for (op, exp, man) in [("cvt.f32.f16", 5, 10), ("cvt.f32.bf16", 8, 7)] {
        for (u, r) in rows(op, &all(65536)).into_iter().enumerate() {
            let want = small(u as u64, exp, man) as f32;
            let want = if want.is_nan() { 0x7fff_ffff } else { want.to_bits() };
            assert_eq!(r, want as u64, "{op} {u:x}");
        }
    }
    for (op, exp, man) in [("cvt.rn.f16x2.e4m3x2", 4, 3), ("cvt.rn.f16x2.e5m2x2", 5, 2)] {
        for (u, r) in rows(op, &all(65536)).into_iter().enumerate() {
            for (code, half) in [(u & 255, r & 0xffff), (u >> 8, r >> 16)] {
                let (want, got) = (small(code as u64, exp, man), small(half, 5, 10));
                if want.is_nan() {
                    assert_eq!(half, 0x7fff, "{op} {code:x}");
                } else {
                    assert_eq!(got.to_bits(), want.to_bits(), "{op} {code:x}");
                }
            }
        }
    }
}

/// Every number of a small format comes back from binary32, and every binary32 next to a boundary rounds as the exact
/// comparison says.
#[test]
fn narrowing_rounds() {
    for (ty, exp, man, x2, shift) in [
        ("f16", 5, 10, "f16x2", 16),
        ("bf16", 8, 7, "bf16x2", 16),
        ("e4m3", 4, 3, "e4m3x2", 8),
        ("e5m2", 5, 2, "e5m2x2", 8),
    ] {
        let fp8 = shift == 8;
        let max = match ty {
            "e4m3" => 0x7e,
            _ => (((1u64 << exp) - 1) << man) - 1,
        };
        let sign = 1u64 << (exp + man);
        let mut inputs = Vec::new();
        for code in 0..=max {
            // The value, the midpoint to the next, and their neighbours in binary32.
            let (v, w) = (small(code, exp, man), small((code + 1).min(max), exp, man));
            for v in [v, (v + w) / 2.0, v + (w - v) / 4.0] {
                let u = (v as f32).to_bits() as u64;
                for b in [u, u + 1, u.saturating_sub(1)] {
                    inputs.push(vec![b, b | 1 << 31]);
                }
            }
        }
        let mut w = Words(3);
        inputs.extend((0..20_000).map(|_| vec![w.float(8, 23, None), w.float(8, 23, None)]));
        let ops: &[(u8, &str)] =
            if fp8 { &[(0, "rn.satfinite")] } else { &[(0, "rn"), (1, "rz"), (0, "rn.satfinite")] };
        for &(mode, modifiers) in ops {
            let op = format!("cvt.{modifiers}.{x2}.f32");
            let satfinite = modifiers.contains("satfinite");
            for (r, got) in inputs.iter().zip(rows(&op, &inputs)) {
                for (u, got) in [(r[0], got >> shift), (r[1], got & ((1 << shift) - 1))] {
                    let v = f32::from_bits(u as u32) as f64;
                    let what = format!("{op} {u:x}: {got:x}");
                    if v.is_nan() {
                        assert_eq!(got, sign - 1, "{what}");
                    } else if satfinite && v.abs() >= small(max, exp, man) {
                        assert_eq!(got, max | if v < 0.0 { sign } else { 0 }, "{what}");
                    } else if v.is_infinite() {
                        assert_eq!(got, (max + 1) | if v < 0.0 { sign } else { 0 }, "{what}");
                    } else if v == 0.0 {
                        assert_eq!(got, if v.is_sign_negative() { sign } else { 0 }, "{what}");
                    } else {
                        assert!(
                            rounds_to(&Big::of(v), got, mode, sign, max, &|c| small(c, exp, man)),
                            "{what}"
                        );
                    }
                }
            }
            // .relu and the scalar form agree with the packed one.
            let plain = rows(&op, &inputs);
            let (first, rest) = modifiers.split_once('.').unwrap_or((modifiers, ""));
            let rest = if rest.is_empty() { "" } else { ".satfinite" };
            let relu = rows(&format!("cvt.{first}{rest}.relu.{x2}.f32"), &inputs);
            let cut = |h: u64| if h & sign != 0 { 0 } else { h };
            for (r, p) in relu.iter().zip(&plain) {
                assert_eq!(*r, cut(p >> shift) << shift | cut(p & ((1 << shift) - 1)));
            }
            if !fp8 {
                for (r, p) in rows(&format!("cvt.{modifiers}.{ty}.f32"), &inputs).iter().zip(&plain)
                {
                    assert_eq!(*r, p >> 16);
                }
            }
        }
    }
}

#[test]
fn tf32() {
    let mut w = Words(9);
    let inputs: Vec<Vec<u64>> = (0..20_000).map(|_| vec![w.float(8, 23, None)]).collect();
    for op in
        ["cvt.rna.tf32.f32", "cvt.rn.tf32.f32", "cvt.rz.tf32.f32", "cvt.rna.satfinite.tf32.f32"]
    {
        for (r, got) in inputs.iter().zip(rows(op, &inputs)) {
            let v = f32::from_bits(r[0] as u32);
            if v.is_nan() {
                assert_eq!(got, 0x7fff_ffff);
                continue;
            }
            assert_eq!(got & 0x1fff, 0);
            // On the magnitude's bits the cut is integer rounding of u / 2^13.
            let (u, mut q) = (r[0] & 0x7fff_ffff, (r[0] & 0x7fff_ffff) >> 13);
            let rest = u & 0x1fff;
            q += match op {
                _ if op.contains("rna") => (rest >= 0x1000) as u64,
                "cvt.rn.tf32.f32" => (rest > 0x1000 || rest == 0x1000 && q & 1 == 1) as u64,
                _ => 0,
            };
            if op.contains("satfinite") {
                q = q.min(0x3fbff);
            }
            assert_eq!(got, q << 13 | r[0] & 1 << 31, "{op} {:x}", r[0]);
        }
    }
}

#[test]
fn integers_and_floats() {
    let mut w = Words(21);
    let ints = [
        ("u8", 0, 255i128),
        ("s8", -128, 127),
        ("u16", 0, 65535),
        ("s16", -32768, 32767),
        ("u32", 0, (1 << 32) - 1),
        ("s32", -(1 << 31), (1 << 31) - 1),
        ("u64", 0, (1 << 64) - 1),
        ("s64", -(1 << 63), (1 << 63) - 1),
    ];
    let bits = |ty: &str| ty[1..].parse::<u32>().unwrap();
    let floats: Vec<Vec<u64>> = (0..3000)
        .map(|_| {
            let around = (120 + w.word() % 50) << 23;
            vec![if w.word() & 1 == 0 {
                w.float(8, 23, None)
            } else {
                w.word() & 0x807f_ffff | around
            }]
        })
        .collect();
    for (ty, lo, hi) in ints {
        // Float to integer: the exact value lies in binary64.
        for mode in ["rni", "rzi", "rmi", "rpi"] {
            for (src, wide) in [("f32", false), ("f64", true)] {
                let inputs: Vec<Vec<u64>> = if wide {
                    floats
                        .iter()
                        .map(|r| {
                            vec![(f32::from_bits(r[0] as u32) as f64 * 1.000_000_01).to_bits()]
                        })
                        .collect()
                } else {
                    floats.clone()
                };
                for (r, got) in inputs.iter().zip(rows(&format!("cvt.{mode}.{ty}.{src}"), &inputs))
                {
                    let v = if wide {
                        f64::from_bits(r[0])
                    } else {
                        f32::from_bits(r[0] as u32) as f64
                    };
                    let rounded = match mode {
                        "rni" => v.round_ties_even(),
                        "rzi" => v.trunc(),
                        "rmi" => v.floor(),
                        _ => v.ceil(),
                    };
                    let want = if v.is_nan() {
                        if wide || bits(ty) == 64 { 1i128 << (bits(ty) - 1) } else { 0 }
                    } else {
                        (rounded as i128).clamp(lo, hi)
                    };
                    let mask = u64::MAX >> (64 - bits(ty));
                    assert_eq!(got & mask, want as u64 & mask, "cvt.{mode}.{ty}.{src} {v}");
                }
            }
        }
        // Integer to float.
        let inputs: Vec<Vec<u64>> = (0..3000).map(|_| vec![w.word() >> (w.word() % 64)]).collect();
        for (mode, m) in ["rn", "rz", "rm", "rp"].iter().enumerate() {
            for (dst, exp, man) in [("f32", 8, 23), ("f64", 11, 52), ("f16", 5, 10), ("bf16", 8, 7)]
            {
                for (r, got) in inputs.iter().zip(rows(&format!("cvt.{m}.{dst}.{ty}"), &inputs)) {
                    let v = extended(r[0], ty);
                    let high = Big { neg: v < 0, ..Big::of((v.unsigned_abs() >> 40) as f64) };
                    let low =
                        Big { neg: v < 0, ..Big::of((v.unsigned_abs() & ((1 << 40) - 1)) as f64) };
                    let exact = Big { exp: high.exp + 40, ..high }.add(&low);
                    let value = |c: u64| match dst {
                        "f32" => f32::from_bits(c as u32) as f64,
                        "f64" => f64::from_bits(c),
                        _ => small(c, exp, man),
                    };
                    let (sign, max) = (1u64 << (exp + man), (((1u64 << exp) - 1) << man) - 1);
                    assert!(
                        rounds_to(&exact, got, mode as u8, sign, max, &value),
                        "cvt.{m}.{dst}.{ty} {v}: {got:x}"
                    );
                }
            }
        }
        // Integer to integer.
        for (dst, lo, hi) in ints {
            for (sat, name) in
                [(false, format!("cvt.{dst}.{ty}")), (true, format!("cvt.sat.{dst}.{ty}"))]
            {
                for (r, got) in inputs.iter().zip(rows(&name, &inputs)) {
                    let v = extended(r[0], ty);
                    let want = if sat { v.clamp(lo, hi) } else { v };
                    let mask = u64::MAX >> (64 - bits(dst));
                    assert_eq!(got & mask, want as u64 & mask, "{name} {v}");
                }
            }
        }
    }
}

fn extended(u: u64, ty: &str) -> i128 {
    let n: u32 = ty[1..].parse().unwrap();
    let v = u & (u64::MAX >> (64 - n));
    if ty.starts_with('s') && v >> (n - 1) & 1 != 0 { v as i128 - (1 << n) } else { v as i128 }
}

#[test]
fn integer_arithmetic() {
    let mut w = Words(4);
    for ty in ["u16", "s16", "u32", "s32", "u64", "s64"] {
        let n: u32 = ty[1..].parse().unwrap();
        let mut word = || match w.word() % 5 {
            0 => w.word() % 3,
            1 => (w.word() % 3).wrapping_sub(1) & (u64::MAX >> (64 - n)),
            2 => 1 << (n - 1),
            _ => w.word() & (u64::MAX >> (64 - n)),
        };
        let inputs: Vec<Vec<u64>> = (0..2000).map(|_| vec![word(), word(), word()]).collect();
        type Op = fn(i128, i128, i128, u32) -> i128;
        let cases: [(&str, Op); 9] = [
            ("add", |a, b, _, _| a + b),
            ("sub", |a, b, _, _| a - b),
            ("mul.lo", |a, b, _, _| a.wrapping_mul(b)),
            ("mad.lo", |a, b, c, _| a.wrapping_mul(b).wrapping_add(c)),
            ("div", |a, b, _, _| if b == 0 { -1 } else { a / b }),
            ("rem", |a, b, _, _| if b == 0 { -1 } else { a % b }),
            ("min", |a, b, _, _| a.min(b)),
            ("max", |a, b, _, _| a.max(b)),
            ("sad", |a, b, c, _| (a - b).abs() + c),
        ];
        for (op, f) in cases {
            for (r, got) in inputs.iter().zip(rows(&format!("{op}.{ty}"), &inputs)) {
                let [a, b, c] = [r[0], r[1], r[2]].map(|u| extended(u, ty));
                assert_eq!(
                    got,
                    f(a, b, c, n) as u64 & (u64::MAX >> (64 - n)),
                    "{op}.{ty} {a} {b} {c}"
                );
            }
        }
        for (r, got) in inputs.iter().zip(rows(&format!("mul.hi.{ty}"), &inputs)) {
            let (a, b) = (extended(r[0], ty), extended(r[1], ty));
            let product = if ty == "u64" {
                ((a as u128 * b as u128) >> n) as u64
            } else {
                ((a * b) >> n) as u64
            };
            assert_eq!(got, product & (u64::MAX >> (64 - n)), "mul.hi.{ty} {a} {b}");
        }
    }
    for (op, sources, want) in [
        ("mul24.hi.s32", vec![0xff_ffff, 0x12_3456], 0xffff_ffed),
        ("mul24.lo.u32", vec![0xab00_0003, 5], 15),
        ("dp4a.s32.u32", vec![0xff01_0203, 0x0101_0101, 10], 15),
        ("add.sat.s32", vec![0x7fff_ffff, 1], 0x7fff_ffff),
        ("max.relu.s16x2", vec![0xffff_0003, 0xfffe_0001], 3),
        ("add.u16x2", vec![0xffff_ffff, 0x0001_0001], 0),
        ("bmsk.clamp.b32", vec![4, 8], 0xff0),
        ("bmsk.wrap.b32", vec![36, 40], 0xff0),
        ("szext.clamp.s32", vec![0x80, 8], 0xffff_ff80),
        ("szext.wrap.u32", vec![0x1ff, 40], 0xff),
        ("bfind.shiftamt.u32", vec![1], 31),
        ("bfind.s32", vec![0xffff_fff0], 3),
        ("bfind.s64", vec![u64::MAX], 0xffff_ffff),
        ("bfi.b64", vec![0xff, 0, 60, 8], 0xf << 60),
        ("bfe.s64", vec![0xf0, 4, 4], u64::MAX),
        ("bfe.u32", vec![0xffff_ffff, 0x104, 4], 0xf),
        ("shr.s16", vec![0x8000, 40], 0xffff),
        ("shl.b64", vec![1, 64], 0),
        ("cnot.b32", vec![0], 1),
    ] {
        assert_eq!(one(op, &sources), want, "{op} {sources:x?}");
    }
}

#[test]
fn permutations_and_tables() {
    let bytes = [0x11u64, 0x82, 0x33, 0xf4, 0x55, 0x96, 0x77, 0xb8];
    let word = |i: usize| (0..4).map(|b| bytes[i + b] << (8 * b)).sum::<u64>();
    let inputs: Vec<Vec<u64>> = (0..65536).map(|s| vec![word(0), word(4), s]).collect();
    for (r, got) in inputs.iter().zip(rows("prmt.b32", &inputs)) {
        for i in 0..4 {
            let s = r[2] >> (4 * i) & 15;
            let v = bytes[(s & 7) as usize];
            let v = if s > 7 { [0, 255][(v >> 7) as usize] } else { v };
            assert_eq!(got >> (8 * i) & 255, v, "selector {:x}", r[2]);
        }
    }
    let mut w = Words(8);
    for lut in 0..256u64 {
        let (a, b, c) = (w.word() as u32 as u64, w.word() as u32 as u64, w.word() as u32 as u64);
        let got = one("lop3.b32", &[a, b, c, lut]);
        for i in 0..32 {
            let row = (a >> i & 1) * 4 + (b >> i & 1) * 2 + (c >> i & 1);
            assert_eq!(got >> i & 1, lut >> row & 1, "table {lut:x}");
        }
        assert_eq!(one("lop3.b32", &[0xf0, 0xcc, 0xaa, lut]) & 0xff, lut);
    }
}

/// Exact is within half a unit of the host's binary64; the other modes stay within the documented bound, in the stated
/// direction, and leave the special values alone.
#[test]
fn approximations() {
    type F = fn(f64) -> f64;
    let cases: [(&str, F, f64, f64); 9] = [
        ("ex2.approx.f32", f64::exp2, 2.0, 0.0),
        ("ex2.approx.ftz.f32", f64::exp2, 2.0, 0.0),
        ("rcp.approx.ftz.f32", |x| 1.0 / x, 1.0, 0.0),
        ("sqrt.approx.f32", f64::sqrt, 0.0, 2e-7),
        ("rsqrt.approx.f32", |x| 1.0 / x.sqrt(), 0.0, 1.28e-7),
        ("lg2.approx.f32", f64::log2, 0.0, 2.4e-7),
        ("tanh.approx.f32", f64::tanh, 0.0, 4.9e-4),
        ("sin.approx.f32", f64::sin, 0.0, 0.0),
        ("cos.approx.f32", f64::cos, 0.0, 0.0),
    ];
    for (op, f, ulps, rel) in cases {
        let mut w = Words(6);
        let inputs: Vec<Vec<u64>> = (0..4000)
            .map(|i| {
                let v = (w.word() % 2_000_000) as f32 / 1e4 - 100.0;
                vec![if i % 4 == 0 { w.word() as u32 & 0x7fff_ffff } else { v.to_bits() } as u64]
            })
            .collect();
        let exact = rows_approx(op, &inputs, Approx::Exact, 0);
        let plus = rows_approx(op, &inputs, Approx::Plus, 0);
        let minus = rows_approx(op, &inputs, Approx::Minus, 0);
        let seeded = rows_approx(op, &inputs, Approx::Seeded, 7);
        let mut moved = 0;
        for (i, r) in inputs.iter().enumerate() {
            let mut x = f32::from_bits(r[0] as u32);
            if op.contains("ftz") && x.abs() < f32::MIN_POSITIVE {
                x *= 0.0;
            }
            let want = f(x as f64);
            let v = [exact[i], minus[i], seeded[i], plus[i]].map(|u| f32::from_bits(u as u32));
            if want.is_nan() || want.is_infinite() || want == 0.0 {
                assert!(v.iter().all(|y| y.to_bits() == v[0].to_bits()), "{op} {x}");
                assert!(
                    if want.is_nan() { v[0].is_nan() } else { v[0] as f64 == want },
                    "{op} {x}"
                );
                continue;
            }
            let near = want as f32;
            if op.contains("ftz") && want.abs() < f32::MIN_POSITIVE as f64 {
                assert_eq!(v[0], 0.0);
                continue;
            }
            assert_eq!(v[0], near, "{op} {x}");
            assert!(v[1] <= v[0] && v[0] <= v[3] && v[1] <= v[2] && v[2] <= v[3], "{op} {x} {v:?}");
            moved += (v[1] < v[3]) as u32;
            if near.is_finite() && near != 0.0 {
                let e = want.abs().log2().floor().max(-126.0) as i32;
                let trig =
                    if op.starts_with("sin") || op.starts_with("cos") { 6.75e-7 } else { 0.0 };
                let lg2 = if op.starts_with("lg2") { 2.4e-7 } else { 0.0 };
                let bound = ulps * 2f64.powi(e - 23) + rel * want.abs() + trig + lg2;
                assert!(
                    v.iter().all(|&y| (y as f64 - want).abs() <= bound.max(2f64.powi(e - 24))),
                    "{op} {x} {v:?}"
                );
                assert!(
                    v.iter().all(|y| y.is_finite() && *y != 0.0 && (*y > 0.0) == (want > 0.0)),
                    "{op} {x}"
                );
            }
        }
        assert!(moved > 1000, "{op}: {moved}");
    }
    for mode in [Approx::Exact, Approx::Plus, Approx::Minus, Approx::Seeded] {
        let one = |op: &str, a: u64, b: u64| rows_approx(op, &[vec![a, b]], mode, 3)[0];
        assert_eq!(one("ex2.approx.ftz.f32", 0x8000_0001, 0), 0x3f80_0000);
        assert_eq!(one("ex2.approx.f32", 0xff80_0000, 0), 0);
        assert_eq!(one("rcp.approx.f32", 0x8000_0000, 0), 0xff80_0000);
        assert_eq!(one("cos.approx.f32", 0, 0), 0x3f80_0000);
        assert_eq!(one("div.approx.f32", 0x3f80_0000, 0x7f00_0000), 0);
        assert_eq!(one("div.approx.f32", 0x7f80_0000, 0x7f00_0000), 0x7fff_ffff);
        assert_eq!(one("ex2.approx.f16x2", 0x7c00_0000, 0), 0x7c00_3c00);
        assert_eq!(one("ex2.approx.ftz.bf16x2", 0xff80_7fff, 0), 0x0000_7fff);
        let tanh = one("tanh.approx.bf16", 0x4200, 0);
        assert!((0x3f7e..=0x3f80).contains(&tanh), "{tanh:x}");
    }
}

/// A mnemonic that is not PTX, or not of the subset, is not decoded.
#[test]
fn unknown() {
    for op in [
        "fma.f32",
        "fma.rn.u32",
        "add.rn.ftz.f64",
        "cvt.f32.s32",
        "cvt.rn.s32.f32",
        "cvt.rn.f32.f16",
        "cvt.f16.f32",
        "setp.lo.s32",
        "setp.lt.b32",
        "add.relu.f16",
        "min.sat.f32",
        "prmt.b32.x",
        "mul.u32",
        "cvt.rn.e4m3x2.f32",
        "shl.f32",
        "add.cc.u32",
        "bra",
        "",
        "add",
        "ex2.f32",
        "cvt.ftz.u32.s32",
        "cvt.rz.satfinite.e4m3x2.f32",
    ] {
        assert!(decode(op).is_none(), "{op}");
    }
    let since = |op: &str| decode(op).unwrap().since;
    assert_eq!((since("add.bf16x2").sm, since("fma.rn.bf16x2").sm), (90, 80));
    assert_eq!(since("cvt.rn.satfinite.e4m3x2.f32").ptx, (7, 8));
}
