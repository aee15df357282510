//! `mma.sync` against plain sums, with the fragments laid out by the ISA's formulas for single elements.

use ptx_sim::alu::L32;
use ptx_sim::num::{BF16, E4M3, E5M2, F16, F32, Flags, Round, convert};
use ptx_sim::tc::{Acc, Elem, Mma, Tc, decode_mma, product};

use crate::lanes::Words;

const SHAPES: [&str; 16] = [
    "m16n8k16.row.col.f32.f16.f16.f32",
    "m16n8k16.row.col.f16.f16.f16.f16",
    "m16n8k8.row.col.f32.f16.f16.f32",
    "m16n8k8.row.col.f16.f16.f16.f16",
    "m16n8k16.row.col.f32.bf16.bf16.f32",
    "m16n8k8.row.col.f32.bf16.bf16.f32",
    "m16n8k8.row.col.f32.tf32.tf32.f32",
    "m16n8k4.row.col.f32.tf32.tf32.f32",
    "m16n8k32.row.col.f32.e4m3.e4m3.f32",
    "m16n8k32.row.col.f32.e4m3.e5m2.f32",
    "m16n8k32.row.col.f16.e5m2.e4m3.f16",
    "m16n8k32.row.col.s32.s8.s8.s32",
    "m16n8k32.row.col.s32.u8.s8.s32",
    "m16n8k16.row.col.s32.u8.u8.s32",
    "m16n8k16.row.col.s32.s8.u8.s32",
    "m16n8k16.row.col.satfinite.s32.s8.s8.s32",
];

const MODELS: [Tc; 5] = [
    Tc::Exact,
    Tc::Reverse,
    Tc::Truncate { block: 8, extra: 1 },
    Tc::Truncate { block: 16, extra: 2 },
    Tc::Truncate { block: 32, extra: -10 },
];

fn mma(shape: &str) -> Mma {
    decode_mma(&format!("mma.sync.aligned.{shape}")).unwrap_or_else(|| panic!("{shape}"))
}

/// Row and column of A's element i in lane (g, t), by shape: the ISA's formulas as they stand there.
fn a_place(bits: u32, k: usize, i: usize, g: usize, t: usize) -> (usize, usize) {
    match (bits, k) {
        (16, 16) => (
            if i < 2 || (4..6).contains(&i) { g } else { g + 8 },
            t * 2 + (i & 1) + if i >= 4 { 8 } else { 0 },
        ),
        (16, 8) => (if i < 2 { g } else { g + 8 }, t * 2 + (i & 1)),
        (32, 8) => (if i == 0 || i == 2 { g } else { g + 8 }, if i < 2 { t } else { t + 4 }),
        (32, 4) => (if i == 0 { g } else { g + 8 }, t),
        (8, 32) => (
            if i < 4 || (8..12).contains(&i) { g } else { g + 8 },
            t * 4 + (i & 3) + if i >= 8 { 16 } else { 0 },
        ),
        (8, 16) => (if i < 4 { g } else { g + 8 }, t * 4 + (i & 3)),
        _ => unreachable!(),
    }
}

/// Row (k) and column of B's element i.
fn b_place(bits: u32, k: usize, i: usize, g: usize, t: usize) -> (usize, usize) {
    let row = match (bits, k) {
        (16, 16) => t * 2 + (i & 1) + if i >= 2 { 8 } else { 0 },
        (16, 8) => t * 2 + i,
        (32, 8) => {
            if i == 0 {
                t
            } else {
                t + 4
            }
        }
        (32, 4) => t,
        (8, 32) => t * 4 + (i & 3) + if i >= 4 { 16 } else { 0 },
        (8, 16) => t * 4 + i,
        _ => unreachable!(),
    };
    (row, g)
}

fn c_place(i: usize, g: usize, t: usize) -> (usize, usize) {
    (if i < 2 { g } else { g + 8 }, t * 2 + (i & 1))
}

/// Bits of a value that the type holds exactly.
fn encode(e: Elem, v: f64) -> u32 {
    let to =
        |f| convert(&F32, f, (v as f32).to_bits() as u64, Round::Zero, Flags::default()) as u32;
    match e {
        Elem::F16 => to(&F16),
        Elem::Bf16 => to(&BF16),
        // Rubbish in the bits that are cut.
        Elem::Tf32 => (v as f32).to_bits() | if v == 0.0 { 0 } else { 0x1abc },
        Elem::E4m3 => to(&E4M3),
        Elem::E5m2 => to(&E5M2),
        Elem::S8 | Elem::U8 => v as i32 as u32 & 0xff,
    }
}

/// Fragments of matrices given by element.
struct Operands {
    a: Vec<L32>,
    b: Vec<L32>,
    c: Vec<L32>,
}

fn fragments(m: &Mma, a: &[f64], b: &[f64], c: &[f64]) -> Operands {
    let (an, bn, cn, _) = m.regs();
    let mut o = Operands { a: vec![[0; 32]; an], b: vec![[0; 32]; bn], c: vec![[0; 32]; cn] };
    let bits = m.a.bits();
    let per = 32 / bits as usize;
    for l in 0..32 {
        let (g, t) = (l / 4, l % 4);
        for i in 0..an * per {
            let (row, col) = a_place(bits, m.k, i, g, t);
            o.a[i / per][l] |= encode(m.a, a[row * m.k + col]) << (bits as usize * (i % per));
        }
        for i in 0..bn * per {
            let (row, col) = b_place(bits, m.k, i, g, t);
            o.b[i / per][l] |= encode(m.b, b[row * 8 + col]) << (bits as usize * (i % per));
        }
        for i in 0..4 {
            let (row, col) = c_place(i, g, t);
            let v = c[row * 8 + col];
            match m.c {
                Acc::F32 => o.c[i][l] = (v as f32).to_bits(),
                Acc::S32 => o.c[i][l] = v as i32 as u32,
                Acc::F16 => o.c[i / 2][l] |= encode(Elem::F16, v) << (16 * (i & 1)),
            }
        }
    }
    o
}

/// D by element.
fn result(m: &Mma, o: &Operands, tc: Tc) -> Vec<f64> {
    let mut d = vec![[0; 32]; m.regs().3];
    m.run(&mut d, &o.a, &o.b, &o.c, tc);
    let mut out = vec![0.0; 128];
    for (l, (g, t)) in (0..32).map(|l| (l, (l / 4, l % 4))) {
        for i in 0..4 {
            let (row, col) = c_place(i, g, t);
            out[row * 8 + col] = match m.d {
                Acc::F32 => f32::from_bits(d[i][l]) as f64,
                Acc::S32 => d[i][l] as i32 as f64,
                Acc::F16 => {
                    let h = (d[i / 2][l] >> (16 * (i & 1)) & 0xffff) as u64;
                    f32::from_bits(convert(&F16, &F32, h, Round::Near, Flags::default()) as u32)
                        as f64
                }
            };
        }
    }
    out
}

#[test]
fn exact_data_gives_exact_products_in_every_model() {
    let mut w = Words(17);
    for shape in SHAPES {
        let m = mma(shape);
        assert_eq!(m.flops(), 2 * 16 * 8 * m.k as u64);
        let mut small = |e: Elem| match e {
            Elem::U8 => (w.word() % 5) as f64,
            _ => (w.word() % 9) as f64 - 4.0,
        };
        let a: Vec<f64> = (0..16 * m.k).map(|_| small(m.a)).collect();
        let b: Vec<f64> = (0..8 * m.k).map(|_| small(m.b)).collect();
        let c: Vec<f64> = (0..128).map(|_| small(Elem::S8)).collect();
        let want: Vec<f64> = (0..128)
            .map(|i| c[i] + (0..m.k).map(|k| a[i / 8 * m.k + k] * b[k * 8 + i % 8]).sum::<f64>())
            .collect();
        let o = fragments(&m, &a, &b, &c);
        for tc in MODELS {
            assert_eq!(result(&m, &o, tc), want, "{shape} {tc:?}");
        }
    }
}

#[test]
fn integer_sums_wrap_or_clamp() {
    for (shape, want) in [
        ("m16n8k16.row.col.s32.s8.s8.s32", i32::MIN as f64 + 15.0),
        ("m16n8k16.row.col.satfinite.s32.s8.s8.s32", i32::MAX as f64),
    ] {
        let m = mma(shape);
        let o = fragments(&m, &[1.0; 256], &[1.0; 128], &[i32::MAX as f64; 128]);
        assert_eq!(result(&m, &o, Tc::Exact), [want; 128]);
    }
}

#[test]
fn models_differ_where_they_should() {
    let m = mma("m16n8k16.row.col.f32.bf16.bf16.f32");
    let big = 2f64.powi(24);
    let o = fragments(&m, &[1.0; 256], &[1.0; 128], &[big; 128]);
    // A unit of 2 at 2^24: exact sums keep the 16, one-by-one additions lose each 1 to a tie, and so does the cut.
    assert_eq!(result(&m, &o, Tc::Exact), [big + 16.0; 128]);
    assert_eq!(result(&m, &o, Tc::Reverse), [big; 128]);
    assert_eq!(result(&m, &o, Tc::Truncate { block: 8, extra: 0 }), [big; 128]);
    assert_eq!(result(&m, &o, Tc::Truncate { block: 8, extra: 1 }), [big + 16.0; 128]);
    // Negative numbers are cut towards zero too.
    let o = fragments(&m, &[-1.0; 256], &[1.0; 128], &[big; 128]);
    assert_eq!(result(&m, &o, Tc::Truncate { block: 8, extra: 0 }), [big; 128]);
    // Fourteen bits: 2^14 + 1 loses the 1.
    let mut a = vec![0.0; 256];
    let mut b = vec![0.0; 128];
    (0..16).for_each(|r| (a[r * 16], a[r * 16 + 1]) = (16384.0, 1.0));
    (0..8).for_each(|c| (b[c], b[8 + c]) = (1.0, 1.0));
    let o = fragments(&m, &a, &b, &[0.0; 128]);
    assert_eq!(result(&m, &o, Tc::Truncate { block: 32, extra: -10 }), [16384.0; 128]);
    assert_eq!(result(&m, &o, Tc::Exact), [16385.0; 128]);
}

#[test]
fn random_data_stays_within_the_bound() {
    let mut w = Words(23);
    for shape in [
        "m16n8k16.row.col.f32.f16.f16.f32",
        "m16n8k16.row.col.f32.bf16.bf16.f32",
        "m16n8k32.row.col.f32.e4m3.e5m2.f32",
    ] {
        let m = mma(shape);
        let mut value = |e: Elem| {
            let v = (w.word() as f64 / 2f64.powi(63) - 1.0) as f32;
            e.value(encode(e, v as f64)) as f64
        };
        let a: Vec<f64> = (0..16 * m.k).map(|_| value(m.a)).collect();
        let b: Vec<f64> = (0..8 * m.k).map(|_| value(m.b)).collect();
        let c: Vec<f64> = (0..128).map(|_| value(m.a)).collect();
        let o = fragments(&m, &a, &b, &c);
        for tc in &MODELS[..4] {
            for (i, got) in result(&m, &o, *tc).into_iter().enumerate() {
                let terms = (0..m.k).map(|k| a[i / 8 * m.k + k] * b[k * 8 + i % 8]);
                let (sum, size) = terms.fold((c[i], c[i].abs()), |(s, n), p| (s + p, n + p.abs()));
                let bound = if *tc == Tc::Exact {
                    sum.abs() * 2f64.powi(-24)
                } else {
                    size * m.k as f64 * 2f64.powi(-23)
                };
                assert!((got - sum).abs() <= bound, "{shape} {tc:?} {got} {sum}");
                if *tc == Tc::Exact {
                    assert_eq!(got, sum as f32 as f64);
                }
            }
        }
    }
}

/// NaN spreads through a product exactly as undefined values do: `taint` against `run`.
#[test]
fn taint_follows_nan() {
    for shape in SHAPES {
        let m = mma(shape);
        if m.a.is_int() {
            continue;
        }
        let (an, bn, cn, dn) = m.regs();
        for (which, count) in [(0, an), (1, bn), (2, cn)] {
            for reg in 0..count {
                for lane in 0..32 {
                    let mut o = Operands {
                        a: vec![[0; 32]; an],
                        b: vec![[0; 32]; bn],
                        c: vec![[0; 32]; cn],
                    };
                    let mut masks = [vec![0; an], vec![0; bn], vec![0; cn]];
                    masks[which][reg] = 1 << lane;
                    [&mut o.a, &mut o.b, &mut o.c][which][reg][lane] = !0;
                    let mut d = vec![[0; 32]; dn];
                    m.run(&mut d, &o.a, &o.b, &o.c, Tc::Exact);
                    let mut taint = vec![0; dn];
                    m.taint(&mut taint, &masks[0], &masks[1], &masks[2]);
                    for (mask, d) in taint.iter().zip(&d) {
                        for (l, &v) in d.iter().enumerate() {
                            assert_eq!(
                                mask >> l & 1 != 0,
                                v != 0,
                                "{shape} operand {which} {reg} lane {lane}"
                            );
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn tiles_of_any_size() {
    let (m, n, k) = (5, 11, 7);
    let a: Vec<f32> = (0..m * k).map(|i| (i % 7) as f32 - 3.0).collect();
    let b: Vec<f32> = (0..n * k).map(|i| (i % 5) as f32 * 0.5).collect();
    for tc in MODELS {
        let mut c: Vec<f32> = (0..m * n).map(|i| i as f32).collect();
        product(m, n, k, &a, &b, &mut c, tc);
        for i in 0..m * n {
            let dot: f32 = (0..k).map(|x| a[i / n * k + x] * b[i % n * k + x]).sum();
            assert_eq!(c[i], i as f32 + dot, "{tc:?}");
        }
    }
}

#[test]
fn unknown_shapes() {
    for shape in [
        "m16n8k8.row.col.f32.e4m3.e4m3.f32",
        "m16n8k16.row.row.f32.bf16.bf16.f32",
        "m16n8k16.row.col.f16.bf16.bf16.f16",
        "m16n8k16.row.col.satfinite.f32.f16.f16.f32",
        "m16n8k16.row.col.f32.f16.bf16.f32",
        "m8n8k4.row.col.f64.f64.f64.f64",
    ] {
        assert_eq!(decode_mma(&format!("mma.sync.aligned.{shape}")), None, "{shape}");
    }
}

/// The two rounding models on random data, element by element as their definitions read.
#[test]
fn models_follow_their_definitions() {
    let mut w = Words(31);
    let (m, n, k) = (16, 24, 32);
    let mut value = || {
        let scale = 2f32.powi((w.word() % 12) as i32 - 6);
        Elem::Bf16.value(encode(Elem::Bf16, (w.word() as f64 / 2f64.powi(63) - 1.0) * scale as f64))
    };
    let a: Vec<f32> = (0..m * k).map(|_| value()).collect();
    let b: Vec<f32> = (0..n * k).map(|_| value()).collect();
    let start: Vec<f32> = (0..m * n).map(|_| value()).collect();
    let run = |tc| {
        let mut c = start.clone();
        product(m, n, k, &a, &b, &mut c, tc);
        c
    };
    let pairs = |i: usize| (0..k).map(move |x| (i / n * k + x, i % n * k + x));
    for (i, got) in run(Tc::Reverse).into_iter().enumerate() {
        let want = pairs(i).rev().fold(start[i], |s, (x, y)| a[x].mul_add(b[y], s));
        assert_eq!(got, want);
    }
    for (block, extra) in [(8, 1), (16, 2), (32, -10), (4, 0)] {
        for (i, got) in run(Tc::Truncate { block, extra }).into_iter().enumerate() {
            let products: Vec<f64> = pairs(i).map(|(x, y)| a[x] as f64 * b[y] as f64).collect();
            let want = products.chunks(block as usize).fold(start[i] as f64, |s, block| {
                let addends = || block.iter().copied().chain([s]);
                let most = addends().fold(0.0, |t: f64, p| t.max(p.abs()));
                let unit = 2f64.powi(most.log2().floor() as i32 - 23 - extra);
                let sum = addends().map(|p| (p / unit).trunc() as i64).sum::<i64>() as f64 * unit;
                if sum == 0.0 {
                    return 0.0;
                }
                // Towards zero: binary32 keeps the upper 24 of the sum's bits.
                let bits = (sum.abs().log2().floor() as i32 - 23).max(-149);
                (sum / 2f64.powi(bits)).trunc() * 2f64.powi(bits)
            });
            assert_eq!(got as f64, want, "{block} {extra}");
        }
    }
}

#[test]
fn infinities_and_nan_pass_in_every_model() {
    for tc in MODELS {
        let dot = |x: [f32; 2], y: [f32; 2], c: f32| {
            let mut d = [c];
            product(1, 1, 2, &x, &y, &mut d, tc);
            d[0]
        };
        let inf = f32::INFINITY;
        assert_eq!(dot([inf, 0.0], [0.0, 0.0], 1.0).to_bits(), 0x7fff_ffff);
        assert_eq!(dot([inf, 1.0], [1.0, 1.0], -inf).to_bits(), 0x7fff_ffff);
        assert_eq!(dot([inf, 1.0], [-2.0, 1.0], 3.0), -inf);
        assert_eq!(dot([-0.0, 0.0], [1.0, -1.0], -0.0).to_bits() << 1, 0);
        assert_eq!(dot([f32::MAX, f32::MAX], [1.0, 1.0], 0.0), inf);
        assert_eq!(dot([1.0, 2.0], [-1.0, 0.5], 0.0).to_bits(), 0, "an exact zero is positive");
    }
}
