//! Floating-point instructions on random operands against exact integers.

use crate::exact::{Big, rounds_to};
use crate::lanes::{Words, one, rows};

const MODES: [&str; 4] = ["rn", "rz", "rm", "rp"];
const ROWS: usize = 4000;

/// A format as the oracle sees it.
struct Format {
    ty: &'static str,
    exp: u32,
    man: u32,
    value: fn(u64) -> f64,
}

fn half(u: u64) -> f64 {
    let (e, m) = ((u >> 10 & 31) as i32, (u & 1023) as f64);
    let v = match e {
        0 => m * 2f64.powi(-24),
        31 if m == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (1024.0 + m) * 2f64.powi(e - 25),
    };
    if u >> 15 & 1 != 0 { -v } else { v }
}

const F32: Format =
    Format { ty: "f32", exp: 8, man: 23, value: |u| f32::from_bits(u as u32) as f64 };
const F64: Format = Format { ty: "f64", exp: 11, man: 52, value: f64::from_bits };
const F16: Format = Format { ty: "f16", exp: 5, man: 10, value: half };
const BF16: Format =
    Format { ty: "bf16", exp: 8, man: 7, value: |u| f32::from_bits((u as u32) << 16) as f64 };

impl Format {
    fn sign(&self) -> u64 {
        1 << (self.exp + self.man)
    }

    fn max(&self) -> u64 {
        (((1 << self.exp) - 1) << self.man) - 1
    }

    fn flush(&self, u: u64) -> u64 {
        if u >> self.man & ((1 << self.exp) - 1) == 0 { u & self.sign() } else { u }
    }

    /// Checks one result of `a·b + c` (sums: b = 1, products: c = −0 of the product's sign).
    fn check(&self, op: &str, mode: u8, ftz: bool, [a, b, c]: [u64; 3], got: u64) {
        let v = |u: u64| (self.value)(u);
        let [a, b, c] = if ftz { [a, b, c].map(|u| self.flush(u)) } else { [a, b, c] };
        let (x, y, z) = (v(a), v(b), v(c));
        let context = || format!("{op} {a:x} {b:x} {c:x}: {got:x}");
        if !(x.is_finite() && y.is_finite() && z.is_finite()) {
            // Infinities and NaN do not depend on precision: small numbers of the same kind tell the answer.
            let small = |v: f64| if v.is_finite() && v != 0.0 { v.signum() } else { v };
            let r = small(x) * small(y) + small(z);
            let g = v(got);
            if r.is_nan() {
                assert!(g.is_nan(), "{}", context());
                if self.ty != "f64" {
                    assert_eq!(got, self.sign() - 1, "{}", context());
                }
            } else {
                assert_eq!(g, r, "{}", context());
            }
            return;
        }
        let p = Big::of(x).mul(&Big::of(y));
        let zero = p.mag.is_empty() && z == 0.0;
        let s = p.add(&Big::of(z));
        if s.mag.is_empty() {
            let neg = if zero && p.neg == z.is_sign_negative() { p.neg } else { mode == 2 };
            assert_eq!(got, if neg { self.sign() } else { 0 }, "{}", context());
            return;
        }
        let magnitude = Big { neg: false, ..s.clone() };
        if ftz && magnitude.cmp(&Big::of(v(1 << self.man))).is_lt() {
            assert_eq!(got, if s.neg { self.sign() } else { 0 }, "{}", context());
            return;
        }
        let right = rounds_to(&s, got, mode, self.sign(), self.max(), &|u| v(u));
        assert!(right, "{} exact {s:?}", context());
    }

    fn run(&self, op: &str, name: &str, mode: u8, ftz: bool) {
        let mut w = Words(op.len() as u64 * 77 + mode as u64);
        let count = if self.ty == "f64" { ROWS / 4 } else { ROWS };
        let one = ((1u64 << (self.exp - 1)) - 1) << self.man;
        let inputs: Vec<Vec<u64>> = (0..count)
            .map(|_| {
                let a = w.float(self.exp, self.man, None);
                let b = w.float(self.exp, self.man, Some(a));
                // The exponent of the product, for sums that cancel.
                let near =
                    (a >> self.man).wrapping_add(b >> self.man).wrapping_sub(one >> self.man)
                        << self.man;
                vec![a, b, w.float(self.exp, self.man, Some(near))]
            })
            .collect();
        for (r, got) in inputs.iter().zip(rows(op, &inputs)) {
            let product = (r[0] ^ r[1]) & self.sign();
            let operands = match name {
                "add" => [r[0], one, r[1]],
                "sub" => [r[0], one, r[1] ^ self.sign()],
                "mul" => [r[0], r[1], product],
                _ => [r[0], r[1], r[2]],
            };
            self.check(op, mode, ftz, operands, got);
        }
    }
}

#[test]
fn sums_and_products() {
    for name in ["add", "sub", "mul", "fma"] {
        for (mode, m) in MODES.iter().enumerate() {
            F32.run(&format!("{name}.{m}.f32"), name, mode as u8, false);
            F32.run(&format!("{name}.{m}.ftz.f32"), name, mode as u8, true);
            F64.run(&format!("{name}.{m}.f64"), name, mode as u8, false);
        }
        F16.run(&format!("{name}.rn.f16"), name, 0, false);
        F16.run(&format!("{name}.rn.ftz.f16"), name, 0, true);
        BF16.run(&format!("{name}.rn.bf16"), name, 0, false);
    }
}

/// q = a / b and r = √a are checked by what defines them: the exact value lies between the midpoints (or neighbours)
/// around the result, times b, or squared.
#[test]
fn quotients_and_roots() {
    for (mode, m) in MODES.iter().enumerate() {
        for f in [&F32, &F64] {
            let mut w = Words(mode as u64 + 5);
            let mut inputs: Vec<Vec<u64>> = (0..ROWS)
                .map(|_| {
                    let a = w.float(f.exp, f.man, None);
                    vec![a, w.float(f.exp, f.man, Some(a))]
                })
                .collect();
            inputs.extend((0..200).map(|_| barely_inexact(&mut w, f)));
            let finite = |u: u64| u & !f.sign() <= f.max();
            let quotients = rows(&format!("div.{m}.{}", f.ty), &inputs);
            let inverses = rows(&format!("rcp.{m}.{}", f.ty), &inputs);
            let roots = rows(&format!("sqrt.{m}.{}", f.ty), &inputs);
            let unit = ((1u64 << (f.exp - 1)) - 1) << f.man;
            for (i, r) in inputs.iter().enumerate() {
                let (a, b) = (r[0], r[1]);
                for (n, d, q) in [(a, b, quotients[i]), (unit, a, inverses[i])] {
                    if finite(n) && finite(d) && n & !f.sign() != 0 && d & !f.sign() != 0 {
                        assert_eq!(q & f.sign(), (n ^ d) & f.sign());
                        let (x, y) = ((f.value)(n & !f.sign()), Big::of((f.value)(d & !f.sign())));
                        let ok = between(
                            f,
                            q & !f.sign(),
                            mirrored(mode as u8, q & f.sign() != 0),
                            &|t| t.mul(&y).cmp(&Big::of(x)),
                        );
                        assert!(ok, "div.{m}.{} {n:x} {d:x}: {q:x}", f.ty);
                    }
                }
                if finite(a) && a != 0 && a & f.sign() == 0 {
                    let x = Big::of((f.value)(a));
                    assert!(
                        between(f, roots[i], mode as u8, &|t| t.mul(t).cmp(&x)),
                        "sqrt.{m}.{} {a:x}: {:x}",
                        f.ty,
                        roots[i]
                    );
                }
            }
        }
    }
    // Zeros, infinities and what has no value.
    let (inf, ninf, nan) = (0x7f80_0000, 0xff80_0000, 0x7fff_ffff);
    for (op, sources, want) in [
        ("div.rn.f32", [0x3f80_0000, 0], inf),
        ("div.rn.f32", [0xbf80_0000, 0], ninf),
        ("div.rn.f32", [0, 0], nan),
        ("div.rn.f32", [inf, ninf], nan),
        ("div.rz.f32", [0x3f80_0000, ninf], 0x8000_0000),
        ("div.rz.f32", [0xbf80_0000, 0x8000_0000], inf),
        ("sqrt.rn.f32", [0x8000_0000, 0], 0x8000_0000),
        ("sqrt.rp.f32", [0xbf80_0000, 0], nan),
        ("sqrt.rn.f32", [inf, 0], inf),
        ("div.rn.ftz.f32", [0x0080_0000, 0x3f80_0001], 0),
    ] {
        assert_eq!(one(op, &sources), want, "{op} {sources:x?}");
    }
}

/// Operands whose quotient exceeds a number of the format by as little as a quotient can.
fn barely_inexact(w: &mut Words, f: &Format) -> Vec<u64> {
    let p = f.man + 1;
    loop {
        let b = w.word() >> (64 - p) | 1 << f.man | 1;
        // Newton's iteration for the inverse modulo 2^64: q·b + 1 is a multiple of 2^p.
        let inverse = (0..6).fold(b, |x, _| x.wrapping_mul(2u64.wrapping_sub(b.wrapping_mul(x))));
        let q = inverse.wrapping_neg() & ((1 << p) - 1);
        let a = ((q as u128 * b as u128 + 1) >> p) as u64;
        if q >> f.man == 1 && a >> f.man == 1 {
            let code = |m: u64| ((1 << (f.exp - 1)) << f.man) | m & ((1 << f.man) - 1);
            return vec![code(a), code(b)];
        }
    }
}

/// A directed mode as it acts on a magnitude.
fn mirrored(mode: u8, neg: bool) -> u8 {
    match (mode, neg) {
        (2, true) => 3,
        (3, true) => 2,
        _ => mode,
    }
}

/// Whether the positive code `got` is the rounding of a value that `cmp` compares a candidate with.
fn between(f: &Format, got: u64, mode: u8, cmp: &dyn Fn(&Big) -> std::cmp::Ordering) -> bool {
    use std::cmp::Ordering::*;
    let at = |c: u64| {
        if c > f.max() {
            let (a, b) = (Big::of((f.value)(f.max() - 1)), Big::of((f.value)(f.max())));
            b.add(&b.add(&Big { neg: true, ..a }))
        } else {
            Big::of((f.value)(c))
        }
    };
    let middle = |a: u64, b: u64| {
        let mut s = at(a).add(&at(b));
        s.exp -= 1;
        s
    };
    let tie = |o: std::cmp::Ordering, want| o == want || o == Equal && got & 1 == 0;
    match mode {
        0 => {
            (got == 0 || tie(cmp(&middle(got - 1, got)), Less))
                && (got > f.max() || tie(cmp(&middle(got, got + 1)), Greater))
        }
        1 | 2 => {
            got <= f.max()
                && cmp(&at(got)) != Greater
                && (got == f.max() || cmp(&at(got + 1)) == Greater)
        }
        _ => got > 0 && (got > f.max() || cmp(&at(got)) != Less) && cmp(&at(got - 1)) == Less,
    }
}

#[test]
fn saturation_relu_and_extremes() {
    for (op, sources, want) in [
        ("add.rn.sat.f32", vec![0x3f80_0000u64, 0x3f80_0000], 0x3f80_0000),
        ("add.rn.sat.f32", vec![0x7fc0_0000, 0], 0),
        ("add.rn.sat.f32", vec![0x8000_0000, 0x8000_0000], 0),
        ("fma.rn.relu.bf16x2", vec![0x3f80_bf80, 0x3f80_3f80, 0], 0x3f80_0000),
        ("fma.rn.relu.f16", vec![0xfc00, 0x3c00, 0], 0),
        ("fma.rn.relu.f16", vec![0x7e00, 0x3c00, 0], 0x7fff),
        ("fma.rn.sat.f16", vec![0x4000, 0x3c00, 0], 0x3c00),
        ("max.NaN.bf16x2", vec![0x7f81_3f80, 0x3f80_4000], 0x7fff_4000),
        ("min.f16x2", vec![0x8000_0000, 0x0000_8000], 0x8000_8000),
        ("max.xorsign.abs.f32", vec![0xc000_0000, 0x3f80_0000], 0xc000_0000),
        ("max.ftz.f32", vec![0x0000_0001, 0x8000_0001], 0),
        ("copysign.f32", vec![0x8000_0000, 0x3f80_0000], 0xbf80_0000),
        ("testp.subnormal.f32", vec![0x8000_0001], 1),
        ("testp.normal.f32", vec![0x8000_0000], 1),
        ("testp.notanumber.f64", vec![0x7ff0_0000_0000_0001], 1),
        ("slct.f32.f32", vec![1, 2, 0x8000_0000], 1),
        ("slct.b64.f32", vec![1, 2, 0x7fc0_0000], 2),
        ("set.lt.u32.f32", vec![0, 0x3f80_0000], 0xffff_ffff),
        ("set.gt.f32.s64", vec![0, u64::MAX], 0x3f80_0000),
        ("setp.lt.f16x2", vec![0x3c00_0000, 0x0000_3c00], 1),
        ("setp.neu.bf16x2", vec![0x7fc0_3f80, 0x3f80_3f80], 2),
    ] {
        assert_eq!(one(op, &sources), want, "{op} {sources:x?}");
    }
}

#[test]
fn conversions_between_floats() {
    for (op, sources, want) in [
        ("cvt.rpi.s32.f32", [1, 0], 1),
        ("cvt.rpi.ftz.s32.f32", [1, 0], 0),
        ("cvt.rmi.ftz.s64.f32", [0x8000_0001, 0], 0),
        ("cvt.ftz.f64.f32", [0x8000_0001, 0], 1 << 63),
        ("cvt.f64.f32", [0x8000_0001, 0], 0xb6a0_0000_0000_0000),
        ("cvt.rn.ftz.f32.f64", [0x37a0_0000_0000_0001, 0], 0),
        ("cvt.rn.f32.f64", [0x37a0_0000_0000_0001, 0], 0x0001_0000),
        ("cvt.rn.ftz.f16.f32", [0x007f_ffff, 0], 0),
        ("cvt.rp.f16.f32", [1, 0], 1),
        ("cvt.rp.ftz.f16.f32", [1, 0], 0),
        ("cvt.ftz.f32.f16", [1, 0], 0x3380_0000),
        ("cvt.sat.f32.f32", [0x4000_0000, 0], 0x3f80_0000),
        ("cvt.sat.f32.f32", [0xffc0_0000, 0], 0),
        ("cvt.sat.f32.f32", [0x8000_0000, 0], 0),
        ("cvt.rni.f32.f32", [0x4020_0000, 0], 0x4000_0000),
        ("cvt.rzi.f32.f32", [0xbf00_0000, 0], 0x8000_0000),
        ("cvt.rmi.f16.f16", [0xb800, 0], 0xbc00),
        ("cvt.rpi.f64.f64", [1, 0], 0x3ff0_0000_0000_0000),
        ("cvt.rpi.ftz.f32.f32", [1, 0], 0),
        ("setp.eq.ftz.f32", [1, 0x8000_0001], 1),
        ("setp.eq.f32", [1, 0x8000_0001], 0),
        ("min.ftz.f16", [0x0001, 0x8001], 0x8000),
        ("neg.ftz.f32", [1, 0], 0x8000_0000),
        ("abs.f64", [1 << 63, 0], 0),
    ] {
        assert_eq!(one(op, &sources), want, "{op} {sources:x?}");
    }
    let mut w = Words(12);
    let inputs: Vec<Vec<u64>> = (0..ROWS)
        .map(|_| {
            // Exponents around the narrower formats' ranges.
            let e = (1023 - 160 + w.word() % 320) << 52;
            vec![w.word() & 0x800f_ffff_ffff_ffff | e]
        })
        .collect();
    for (mode, m) in MODES.iter().enumerate() {
        for f in [&F32, &F16, &BF16] {
            let op = format!("cvt.{m}.{}.f64", f.ty);
            for (r, got) in inputs.iter().zip(rows(&op, &inputs)) {
                let exact = Big::of(f64::from_bits(r[0]));
                let ok = rounds_to(&exact, got, mode as u8, f.sign(), f.max(), &|u| (f.value)(u));
                assert!(ok, "{op} {:x}: {got:x}", r[0]);
            }
        }
    }
}
