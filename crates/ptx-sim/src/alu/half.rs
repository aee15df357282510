//! binary16 and bfloat16 arithmetic, scalar and packed.

use super::{Alu, Class, Kind, L32, Mods, w32};
use crate::num::{Approx, Mufu, fast, mufu16};

/// Modifiers of a 16-bit result as bits of a const generic.
const FTZ: u8 = 1;
const SAT: u8 = 2;
const RELU: u8 = 4;

/// `.sat` and `.relu` of one 16-bit result.
#[inline(always)]
fn finish<const BF: bool, const M: u8>(h: u32) -> u32 {
    let (one, inf) = if BF { (0x3f80, 0x7f80) } else { (0x3c00, 0x7c00) };
    if M & SAT != 0 {
        // NaN and everything negative, −0 included, become +0.
        return if h > inf { 0 } else { h.min(one) };
    }
    if M & RELU != 0 && h & 0x8000 != 0 {
        return 0; // results' NaN has no sign
    }
    h
}

macro_rules! packed {
    ($name:ident, |$a:ident, $b:ident, $c:ident| $e:expr) => {
        fn $name<const BF: bool, const X2: bool, const M: u8>(
            d: &mut L32,
            x: &L32,
            y: &L32,
            z: &L32,
        ) {
            #[inline(always)]
            #[allow(unused_variables)]
            fn one<const BF: bool, const M: u8>($a: u32, $b: u32, $c: u32) -> u32 {
                finish::<BF, M>($e)
            }
            for i in 0..32 {
                let low = one::<BF, M>(x[i] & 0xffff, y[i] & 0xffff, z[i] & 0xffff);
                d[i] = if X2 {
                    one::<BF, M>(x[i] >> 16, y[i] >> 16, z[i] >> 16) << 16 | low
                } else {
                    low
                };
            }
        }
    };
}

packed!(add, |a, b, c| if M & FTZ != 0 {
    fast::add16::<BF, true>(a, b)
} else {
    fast::add16::<BF, false>(a, b)
});
packed!(sub, |a, b, c| if M & FTZ != 0 {
    fast::add16::<BF, true>(a, b ^ 0x8000)
} else {
    fast::add16::<BF, false>(a, b ^ 0x8000)
});
packed!(mul, |a, b, c| if M & FTZ != 0 {
    fast::mul16::<BF, true>(a, b)
} else {
    fast::mul16::<BF, false>(a, b)
});
packed!(fma, |a, b, c| if M & FTZ != 0 {
    fast::fma16::<BF, true>(a, b, c)
} else {
    fast::fma16::<BF, false>(a, b, c)
});

/// Picks the compiled form; `.sat` and `.relu` exclude each other.
macro_rules! pick {
    ($f:ident, $bf:expr, $x2:expr, $m:expr) => {
        pick!(@bf $f, $bf, $x2, $m, [0 1 2 3 4 5])
    };
    (@bf $f:ident, $bf:expr, $x2:expr, $m:expr, [$($k:literal)+]) => {
        match ($bf, $x2, $m) {
            $((false, false, $k) => $f::<false, false, $k>,
            (false, true, $k) => $f::<false, true, $k>,
            (true, false, $k) => $f::<true, false, $k>,
            (true, true, $k) => $f::<true, true, $k>,)+
            _ => return None,
        }
    };
}

/// Modifiers of `min` and `max` beside [`FTZ`].
const MAX: u8 = 2;
const NAN: u8 = 4;
const XOR: u8 = 8;

fn extremes<const BF: bool, const M: u8>(d: &mut L32, x: &L32, y: &L32, _: &L32) {
    #[inline(always)]
    fn one<const BF: bool, const M: u8>(a: u32, b: u32) -> u32 {
        let (a, b) =
            if M & FTZ != 0 { (fast::flush16::<BF>(a), fast::flush16::<BF>(b)) } else { (a, b) };
        let inf = if BF { 0x7f80 } else { 0x7c00 };
        let sign = if M & XOR != 0 { (a ^ b) & 0x8000 } else { 0 };
        let (a, b) = if M & XOR != 0 { (a & 0x7fff, b & 0x7fff) } else { (a, b) };
        let r = match (M & MAX != 0, M & NAN != 0) {
            (false, false) => fast::extreme::<false, false>(a, b, 16, inf, 0x7fff),
            (false, true) => fast::extreme::<false, true>(a, b, 16, inf, 0x7fff),
            (true, false) => fast::extreme::<true, false>(a, b, 16, inf, 0x7fff),
            (true, true) => fast::extreme::<true, true>(a, b, 16, inf, 0x7fff),
        };
        if M & XOR != 0 && r > inf { 0x7fff } else { r | sign }
    }
    for i in 0..32 {
        d[i] =
            one::<BF, M>(x[i] >> 16, y[i] >> 16) << 16 | one::<BF, M>(x[i] & 0xffff, y[i] & 0xffff);
    }
}

/// Packed form of `min`/`max`; the scalar one cuts the (meaningless) upper half off.
fn extreme(bf: bool, m: u8) -> Option<fn(&mut L32, &L32, &L32, &L32)> {
    macro_rules! arms {
        ($($k:literal)+) => {
            match (bf, m) {
                $((false, $k) => extremes::<false, $k>, (true, $k) => extremes::<true, $k>,)+
                _ => return None,
            }
        };
    }
    Some(arms!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15))
}

pub(super) fn decode(head: &str, mut m: Mods<'_>) -> Option<Alu> {
    let ty = m.pop()?;
    let bf = ty.starts_with("bf");
    let x2 = ty.ends_with("x2");
    let n = if x2 { 32 } else { 16 };
    let ftz = m.flag("ftz");
    if m.flag("approx") {
        m.end()?;
        return approximate(head, bf, x2, ftz);
    }
    // bf16 has `.ftz` with `ex2` only.
    if ftz && bf {
        return None;
    }
    let near = m.flag("rn");
    let (sat, relu) = (m.flag("sat"), m.flag("relu"));
    let nan = m.flag("NaN");
    let xorsign = m.flag("xorsign");
    if xorsign && !m.flag("abs") {
        return None;
    }
    m.end()?;
    let extremal = matches!(head, "min" | "max");
    if (nan || xorsign) && !extremal || relu && head != "fma" || sat && (bf || extremal) {
        return None;
    }
    let flags = ftz as u8 * FTZ + sat as u8 * SAT + relu as u8 * RELU;
    let half = |kind, k: usize| Alu::new(kind, Class::F16x2, n, &[n; 3][..k]);
    let arithmetic = |a: Alu| if bf { a.since(7, 8, 90) } else { a };
    Some(match head {
        "add" => arithmetic(half(Kind::W32(pick!(add, bf, x2, flags)), 2)),
        "sub" => arithmetic(half(Kind::W32(pick!(sub, bf, x2, flags)), 2)),
        "mul" => arithmetic(half(Kind::W32(pick!(mul, bf, x2, flags)), 2)),
        "fma" if near => half(Kind::W32(pick!(fma, bf, x2, flags)), 3),
        _ if near || sat || relu => return None,
        "min" | "max" => {
            let k = ftz as u8 * FTZ
                + (head == "max") as u8 * MAX
                + nan as u8 * NAN
                + xorsign as u8 * XOR;
            let a = half(Kind::W32(extreme(bf, k)?), 2);
            if xorsign { a.since(7, 2, 86) } else { a }
        }
        "abs" | "neg" => half(sign(head == "abs", x2, ftz), 1),
        _ => return None,
    })
}

fn sign(abs: bool, x2: bool, ftz: bool) -> Kind {
    fn f16x2(a: u32) -> u32 {
        fast::flush16::<false>(a >> 16) << 16 | fast::flush16::<false>(a & 0xffff)
    }
    match (abs, x2, ftz) {
        (true, true, false) => w32!(|a| a & 0x7fff_7fff),
        (true, true, true) => w32!(|a| f16x2(a) & 0x7fff_7fff),
        (true, false, false) => w32!(|a| a & 0x7fff),
        (true, false, true) => w32!(|a| f16x2(a) & 0x7fff),
        (false, true, false) => w32!(|a| a ^ 0x8000_8000),
        (false, true, true) => w32!(|a| f16x2(a) ^ 0x8000_8000),
        (false, false, false) => w32!(|a| (a ^ 0x8000) & 0xffff),
        (false, false, true) => w32!(|a| (f16x2(a) ^ 0x8000) & 0xffff),
    }
}

fn approximate(head: &str, bf: bool, x2: bool, ftz: bool) -> Option<Alu> {
    fn lanes<const TANH: bool, const BF: bool, const X2: bool, const FTZ: bool>(
        d: &mut L32,
        x: &L32,
        _: &L32,
        mode: Approx,
        seed: u64,
    ) {
        let op = if TANH { Mufu::Tanh } else { Mufu::Ex2 };
        for i in 0..32 {
            let low = mufu16(op, BF, x[i] & 0xffff, FTZ, mode, seed);
            d[i] = if X2 { mufu16(op, BF, x[i] >> 16, FTZ, mode, seed) << 16 | low } else { low };
        }
    }
    let kind = Kind::Approx(match (head, bf, x2, ftz) {
        ("ex2", false, false, false) => lanes::<false, false, false, false>,
        ("ex2", false, true, false) => lanes::<false, false, true, false>,
        ("ex2", false, false, true) => lanes::<false, false, false, true>,
        ("ex2", false, true, true) => lanes::<false, false, true, true>,
        ("ex2", true, false, true) => lanes::<false, true, false, true>,
        ("ex2", true, true, true) => lanes::<false, true, true, true>,
        ("tanh", false, false, false) => lanes::<true, false, false, false>,
        ("tanh", false, true, false) => lanes::<true, false, true, false>,
        ("tanh", true, false, false) => lanes::<true, true, false, false>,
        ("tanh", true, true, false) => lanes::<true, true, true, false>,
        _ => return None,
    });
    let n = if x2 { 32 } else { 16 };
    let a = Alu::new(kind, Class::Mufu, n, &[n]);
    Some(if bf { a.since(7, 8, 90) } else { a })
}
