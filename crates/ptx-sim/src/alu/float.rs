//! binary32 and binary64 arithmetic, and the approximate functions of binary32.

use super::{Alu, Class, Kind, L32, L64, Mods, w32, w64};
use crate::num::{self, Approx, F32, F64, Mufu, Round, fast, mufu32};

pub(super) fn decode(head: &str, m: Mods<'_>) -> Option<Alu> {
    if m.ty() == "f64" { double(head, m) } else { single(head, m) }
}

/// Exact form of a binary32 operation, for the rounding modes without a fast one.
fn exact32(
    f: fn(&num::Fmt, u64, u64, Round, bool) -> u64,
    a: u32,
    b: u32,
    r: Round,
    ftz: bool,
) -> u32 {
    f(&F32, a as u64, b as u64, r, ftz) as u32
}

fn sat<const SAT: bool>(u: u32) -> u32 {
    if SAT { fast::saturate(u) } else { u }
}

/// Loops over lanes: rounding mode, `.ftz` and `.sat` are compiled in.
macro_rules! lanes {
    ($name:ident, |$a:ident, $b:ident, $c:ident| $near:expr, $other:expr) => {
        fn $name<const R: u8, const FTZ: bool, const SAT: bool>(
            d: &mut L32,
            x: &L32,
            y: &L32,
            z: &L32,
        ) {
            for i in 0..32 {
                #[allow(unused_variables)]
                let ($a, $b, $c) = (x[i], y[i], z[i]);
                d[i] = sat::<SAT>(if R == 0 { $near } else { $other(Round::of(R)) });
            }
        }
    };
}

lanes!(add, |a, b, c| fast::add::<FTZ>(a, b), |r| exact32(num::add, a, b, r, FTZ));
lanes!(sub, |a, b, c| fast::add::<FTZ>(a, b ^ 1 << 31), |r| exact32(
    num::add,
    a,
    b ^ 1 << 31,
    r,
    FTZ
));
lanes!(mul, |a, b, c| fast::mul::<FTZ>(a, b), |r| exact32(num::mul, a, b, r, FTZ));
lanes!(fma, |a, b, c| fast::fma::<FTZ>(a, b, c), |r| num::fma(
    &F32, a as u64, b as u64, c as u64, r, FTZ
) as u32);
lanes!(div, |a, b, c| fast::div::<FTZ>(a, b), |r| exact32(num::div, a, b, r, FTZ));
lanes!(rcp, |a, b, c| fast::div::<FTZ>(ONE, a), |r| exact32(num::div, ONE, a, r, FTZ));
lanes!(
    sqrt,
    |a, b, c| fast::canon(f32::from_bits(if FTZ { fast::flush(a) } else { a }).sqrt()),
    |r| num::sqrt(&F32, a as u64, r, FTZ) as u32
);

/// 1.0.
const ONE: u32 = 0x3f80_0000;

/// Picks the compiled form for a mode.
macro_rules! pick {
    ($f:ident, $r:expr, $ftz:expr, $sat:expr) => {
        match ($r, $ftz, $sat) {
            (Round::Near, false, false) => $f::<0, false, false>,
            (Round::Near, false, true) => $f::<0, false, true>,
            (Round::Near, true, false) => $f::<0, true, false>,
            (Round::Near, true, true) => $f::<0, true, true>,
            (Round::Zero, false, false) => $f::<1, false, false>,
            (Round::Zero, false, true) => $f::<1, false, true>,
            (Round::Zero, true, false) => $f::<1, true, false>,
            (Round::Zero, true, true) => $f::<1, true, true>,
            (Round::Down, false, false) => $f::<2, false, false>,
            (Round::Down, false, true) => $f::<2, false, true>,
            (Round::Down, true, false) => $f::<2, true, false>,
            (Round::Down, true, true) => $f::<2, true, true>,
            (_, false, false) => $f::<3, false, false>,
            (_, false, true) => $f::<3, false, true>,
            (_, true, false) => $f::<3, true, false>,
            (_, true, true) => $f::<3, true, true>,
        }
    };
}

fn single(head: &str, mut m: Mods<'_>) -> Option<Alu> {
    if m.pop()? != "f32" {
        return None;
    }
    let f32s = |f, n: usize| Some(Alu::new(Kind::W32(f), Class::F32, 32, &[32; 3][..n]));
    let ftz = m.flag("ftz");
    if m.flag("approx") {
        m.end()?;
        return approximate(head, ftz);
    }
    if m.flag("full") {
        m.end()?;
        return if head == "div" { approximate("div.full", ftz) } else { None };
    }
    let saturate = m.flag("sat");
    let nan = m.flag("NaN");
    let xorsign = m.flag("xorsign");
    if xorsign && !m.flag("abs") {
        return None;
    }
    let round = m.one_of(&["rn", "rz", "rm", "rp"]).and_then(Round::parse);
    m.end()?;
    let extreme = matches!(head, "min" | "max");
    if (nan || xorsign) && !extreme {
        return None;
    }
    match head {
        "add" => f32s(pick!(add, round.unwrap_or(Round::Near), ftz, saturate), 2),
        "sub" => f32s(pick!(sub, round.unwrap_or(Round::Near), ftz, saturate), 2),
        "mul" => f32s(pick!(mul, round.unwrap_or(Round::Near), ftz, saturate), 2),
        "fma" | "mad" => f32s(pick!(fma, round?, ftz, saturate), 3),
        _ if saturate => None,
        "div" => f32s(pick!(div, round?, ftz, false), 2),
        "rcp" => f32s(pick!(rcp, round?, ftz, false), 1),
        "sqrt" => f32s(pick!(sqrt, round?, ftz, false), 1),
        _ if round.is_some() => None,
        "min" | "max" => {
            let a = Alu::new(extremes(head == "max", nan, xorsign, ftz), Class::F32, 32, &[32, 32]);
            Some(if xorsign { a.since(7, 2, 86) } else { a })
        }
        // A NaN's payload is unspecified here: the bits pass through.
        "abs" => f32s(
            if ftz {
                |d: &mut L32, a: &L32, _: &L32, _: &L32| {
                    (0..32).for_each(|i| d[i] = fast::flush(a[i]) & !(1 << 31))
                }
            } else {
                |d: &mut L32, a: &L32, _: &L32, _: &L32| {
                    (0..32).for_each(|i| d[i] = a[i] & !(1 << 31))
                }
            },
            1,
        ),
        "neg" => f32s(
            if ftz {
                |d: &mut L32, a: &L32, _: &L32, _: &L32| {
                    (0..32).for_each(|i| d[i] = fast::flush(a[i]) ^ 1 << 31)
                }
            } else {
                |d: &mut L32, a: &L32, _: &L32, _: &L32| (0..32).for_each(|i| d[i] = a[i] ^ 1 << 31)
            },
            1,
        ),
        "copysign" if !ftz => {
            let kind = w32!(|a, b| a & 1 << 31 | b & !(1 << 31));
            Some(Alu::new(kind, Class::F32, 32, &[32, 32]))
        }
        _ => None,
    }
}

/// `min` and `max`. `.xorsign.abs` compares magnitudes and gives the result the exclusive or of the signs.
fn extremes(max: bool, nan: bool, xorsign: bool, ftz: bool) -> Kind {
    fn f<const MAX: bool, const NAN: bool, const XOR: bool, const FTZ: bool>(
        d: &mut L32,
        x: &L32,
        y: &L32,
        _: &L32,
    ) {
        for i in 0..32 {
            let (a, b) = if FTZ { (fast::flush(x[i]), fast::flush(y[i])) } else { (x[i], y[i]) };
            d[i] = if XOR {
                let sign = (a ^ b) & 1 << 31;
                let r = fast::extreme::<MAX, NAN>(
                    a & !(1 << 31),
                    b & !(1 << 31),
                    32,
                    0x7f80_0000,
                    0x7fff_ffff,
                );
                if r > 0x7f80_0000 { 0x7fff_ffff } else { r | sign }
            } else {
                fast::extreme::<MAX, NAN>(a, b, 32, 0x7f80_0000, 0x7fff_ffff)
            };
        }
    }
    macro_rules! arms {
        ($($max:literal $nan:literal $xor:literal $ftz:literal),+) => {
            match (max, nan, xorsign, ftz) { $(($max, $nan, $xor, $ftz) => f::<$max, $nan, $xor, $ftz>),+ }
        };
    }
    Kind::W32(arms!(
        false false false false, false false false true, false false true false, false false true true,
        false true false false, false true false true, false true true false, false true true true,
        true false false false, true false false true, true false true false, true false true true,
        true true false false, true true false true, true true true false, true true true true
    ))
}

/// A loop over lanes for an approximate function, `.ftz` compiled in.
macro_rules! mufu {
    ($op:expr, $ftz:expr, |$a:ident, $b:ident| $exact:expr) => {{
        fn lanes<const FTZ: bool>(d: &mut L32, x: &L32, y: &L32, mode: Approx, seed: u64) {
            if mode == Approx::Exact {
                for i in 0..32 {
                    #[allow(unused_variables)]
                    let ($a, $b) =
                        if FTZ { (fast::flush(x[i]), fast::flush(y[i])) } else { (x[i], y[i]) };
                    d[i] = $exact;
                }
            } else {
                for i in 0..32 {
                    d[i] = mufu32($op, x[i], y[i], FTZ, mode, seed);
                }
            }
        }
        if $ftz { Kind::Approx(lanes::<true>) } else { Kind::Approx(lanes::<false>) }
    }};
}

fn approximate(head: &str, ftz: bool) -> Option<Alu> {
    let kind = match head {
        "ex2" => mufu!(Mufu::Ex2, ftz, |a, b| {
            let v = num::ex2_wide(f32::from_bits(a) as f64);
            let r = fast::canon(v as f32);
            if FTZ && v < f32::MIN_POSITIVE as f64 { 0 } else { r }
        }),
        "rcp" => mufu!(Mufu::Rcp, ftz, |a, b| fast::div::<FTZ>(ONE, a)),
        "div.full" => mufu!(Mufu::DivFull, ftz, |a, b| fast::div::<FTZ>(a, b)),
        "div" => mufu!(Mufu::Div, ftz, |a, b| mufu32(Mufu::Div, a, b, FTZ, Approx::Exact, 0)),
        "sqrt" => mufu!(Mufu::Sqrt, ftz, |a, b| fast::canon(f32::from_bits(a).sqrt())),
        "rsqrt" => mufu!(Mufu::Rsqrt, ftz, |a, b| mufu32(Mufu::Rsqrt, a, b, FTZ, Approx::Exact, 0)),
        "lg2" => mufu!(Mufu::Lg2, ftz, |a, b| mufu32(Mufu::Lg2, a, b, FTZ, Approx::Exact, 0)),
        "sin" => mufu!(Mufu::Sin, ftz, |a, b| mufu32(Mufu::Sin, a, b, FTZ, Approx::Exact, 0)),
        "cos" => mufu!(Mufu::Cos, ftz, |a, b| mufu32(Mufu::Cos, a, b, FTZ, Approx::Exact, 0)),
        "tanh" if !ftz => {
            mufu!(Mufu::Tanh, false, |a, b| mufu32(Mufu::Tanh, a, b, FTZ, Approx::Exact, 0))
        }
        _ => return None,
    };
    let two = head.starts_with("div");
    Some(Alu::new(kind, Class::Mufu, 32, if two { &[32, 32] } else { &[32] }))
}

/// binary64, by the exact forms throughout: attention kernels hardly use it.
fn double(head: &str, mut m: Mods<'_>) -> Option<Alu> {
    m.pop()?;
    let round = m.one_of(&["rn", "rz", "rm", "rp"]).and_then(Round::parse);
    m.end()?;
    macro_rules! rounded {
        ($r:expr, |$a:ident, $b:ident, $c:ident, $round:ident| $e:expr) => {{
            fn f<const R: u8>(d: &mut L64, x: &L64, y: &L64, z: &L64) {
                let $round = Round::of(R);
                for i in 0..32 {
                    #[allow(unused_variables)]
                    let ($a, $b, $c) = (x[i], y[i], z[i]);
                    d[i] = $e;
                }
            }
            Kind::W64(match $r {
                Round::Near => f::<0>,
                Round::Zero => f::<1>,
                Round::Down => f::<2>,
                _ => f::<3>,
            })
        }};
    }
    const UNIT: u64 = 0x3ff0_0000_0000_0000;
    let near = round.unwrap_or(Round::Near);
    let double = |kind, n: usize| Some(Alu::new(kind, Class::F64, 64, &[64; 3][..n]));
    match head {
        "add" => double(rounded!(near, |a, b, c, r| num::add(&F64, a, b, r, false)), 2),
        "sub" => double(rounded!(near, |a, b, c, r| num::add(&F64, a, negate(b), r, false)), 2),
        "mul" => double(rounded!(near, |a, b, c, r| num::mul(&F64, a, b, r, false)), 2),
        "fma" | "mad" => {
            double(rounded!(round?, |a, b, c, r| num::fma(&F64, a, b, c, r, false)), 3)
        }
        "div" => double(rounded!(round?, |a, b, c, r| num::div(&F64, a, b, r, false)), 2),
        "rcp" => double(rounded!(round?, |a, b, c, r| num::div(&F64, UNIT, a, r, false)), 1),
        "sqrt" => double(rounded!(round?, |a, b, c, r| num::sqrt(&F64, a, r, false)), 1),
        _ if round.is_some() => None,
        "min" => double(w64!(|a, b| extreme64(a, b, false)), 2),
        "max" => double(w64!(|a, b| extreme64(a, b, true)), 2),
        "abs" => double(w64!(|a| a & !(1 << 63)), 1),
        "neg" => double(w64!(|a| a ^ 1 << 63), 1),
        "copysign" => double(w64!(|a, b| a & 1 << 63 | b & !(1 << 63)), 2),
        _ => None,
    }
}

/// Changes the sign of a subtrahend, but not of a NaN, which passes on as it is.
fn negate(b: u64) -> u64 {
    if f64::from_bits(b).is_nan() { b } else { b ^ 1 << 63 }
}

fn extreme64(a: u64, b: u64, max: bool) -> u64 {
    let (x, y) = (f64::from_bits(a), f64::from_bits(b));
    match (x.is_nan(), y.is_nan()) {
        (true, true) => F64.nan,
        (true, false) => b,
        (false, true) => a,
        // total_cmp puts −0 below +0.
        _ if x.total_cmp(&y).is_lt() != max => a,
        _ => b,
    }
}
