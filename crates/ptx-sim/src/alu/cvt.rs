//! `cvt` between scalar types. Packed types, `.relu` and `.satfinite` are in [`super::pack`].

use super::{Alu, Class, Kind, L32, L64, Mods, bits, pack, w32};
use crate::num::{self, Flags, Fmt, Round, fast};

/// An integer type as a parameter of a loop.
trait Int: Copy {
    const WIDTH: u32;
    const SIGNED: bool;
    /// Low bits of a register, extended to 64 bits.
    fn extend(bits: u64) -> u64;
    /// The value clamped into the type, extended to 64 bits.
    fn clamp(v: i128) -> u64;
}

macro_rules! int {
    ($($t:ty: $signed:literal),+) => {$(
        impl Int for $t {
            const WIDTH: u32 = <$t>::BITS;
            const SIGNED: bool = $signed;
            #[inline(always)]
            fn extend(bits: u64) -> u64 { bits as $t as i128 as u64 }
            #[inline(always)]
            fn clamp(v: i128) -> u64 { v.clamp(<$t>::MIN as i128, <$t>::MAX as i128) as u64 }
        }
    )+};
}
int!(u8: false, i8: true, u16: false, i16: true, u32: false, i32: true, u64: false, i64: true);

/// A floating-point type as a parameter of a loop.
trait Float {
    const FMT: Fmt;
    const WIDTH: u32 = Self::FMT.exp + Self::FMT.man + 1;
    /// `.ftz` is in force for this operand.
    const FTZ: bool = false;
}

struct Half;
struct Bf16;
struct Single;
/// binary32 under `.ftz`.
struct Flushed;
struct Double;

impl Float for Half {
    const FMT: Fmt = num::F16;
}
impl Float for Bf16 {
    const FMT: Fmt = num::BF16;
}
impl Float for Single {
    const FMT: Fmt = num::F32;
}
impl Float for Flushed {
    const FMT: Fmt = num::F32;
    const FTZ: bool = true;
}
impl Float for Double {
    const FMT: Fmt = num::F64;
}

/// A function over lanes from one over registers widened to 64 bits.
macro_rules! lanes {
    ($dst:expr, $src:expr, |$x:ident| $e:expr) => {
        if $dst == 64 || $src == 64 {
            Kind::W64(|d: &mut L64, a: &L64, _: &L64, _: &L64| {
                for i in 0..32 {
                    let $x = a[i];
                    d[i] = $e;
                }
            })
        } else {
            Kind::W32(|d: &mut L32, a: &L32, _: &L32, _: &L32| {
                for i in 0..32 {
                    let $x = a[i] as u64;
                    d[i] = $e as u32;
                }
            })
        }
    };
}

fn int_to_int<D: Int, S: Int>(sat: bool) -> Kind {
    if sat {
        lanes!(D::WIDTH, S::WIDTH, |x| {
            let v = S::extend(x);
            D::clamp(if S::SIGNED { v as i64 as i128 } else { v as i128 })
        })
    } else {
        lanes!(D::WIDTH, S::WIDTH, |x| D::extend(S::extend(x)))
    }
}

fn int_to_float<D: Float, S: Int, const R: u8>() -> Kind {
    lanes!(D::WIDTH, S::WIDTH, |x| {
        let v = S::extend(x);
        let neg = S::SIGNED && (v as i64) < 0;
        num::from_int(&D::FMT, neg, if neg { v.wrapping_neg() } else { v }, Round::of(R))
    })
}

fn float_to_int<D: Int, S: Float, const R: u8>() -> Kind {
    lanes!(D::WIDTH, S::WIDTH, |x| num::to_int(
        &S::FMT,
        x,
        Round::of(R),
        D::SIGNED,
        D::WIDTH,
        S::FTZ
    ))
}

fn float_to_float<D: Float, S: Float, const R: u8>(sat: bool) -> Kind {
    fn one<D: Float, S: Float>(x: u64, r: Round) -> u64 {
        num::convert(
            &S::FMT,
            &D::FMT,
            x,
            r,
            Flags { ftz_in: S::FTZ, ftz: D::FTZ, ..Flags::default() },
        )
    }
    if sat {
        lanes!(D::WIDTH, S::WIDTH, |x| saturate(&D::FMT, one::<D, S>(x, Round::of(R))))
    } else {
        lanes!(D::WIDTH, S::WIDTH, |x| one::<D, S>(x, Round::of(R)))
    }
}

fn integral<F: Float, const R: u8>(sat: bool) -> Kind {
    if sat {
        lanes!(F::WIDTH, F::WIDTH, |x| saturate(
            &F::FMT,
            num::round_integral(&F::FMT, x, Round::of(R), F::FTZ)
        ))
    } else {
        lanes!(F::WIDTH, F::WIDTH, |x| num::round_integral(&F::FMT, x, Round::of(R), F::FTZ))
    }
}

/// `.sat` of any format: into [0, 1]; NaN and everything negative give +0.
fn saturate(f: &Fmt, u: u64) -> u64 {
    let one = (f.bias() as u64) << f.man;
    if u > f.max + 1 { 0 } else { u.min(one) }
}

/// Evaluates the body with `$T` standing for the integer type of a name.
macro_rules! ints {
    ($name:expr, $T:ident, $body:expr) => {
        ints!(@ $name, $T, $body, "u8" u8, "s8" i8, "u16" u16, "s16" i16, "u32" u32, "s32" i32, "u64" u64, "s64" i64)
    };
    (@ $name:expr, $T:ident, $body:expr, $($lit:literal $t:ty),+) => {
        match $name { $($lit => { type $T = $t; Some($body) })+ _ => None }
    };
}

/// The same for floating-point types; `$ftz` makes binary32 the flushed one.
macro_rules! floats {
    ($name:expr, $ftz:expr, $T:ident, $body:expr) => {
        match ($name, $ftz) {
            ("f16", _) => {
                type $T = Half;
                Some($body)
            }
            ("bf16", _) => {
                type $T = Bf16;
                Some($body)
            }
            ("f32", false) => {
                type $T = Single;
                Some($body)
            }
            ("f32", true) => {
                type $T = Flushed;
                Some($body)
            }
            ("f64", _) => {
                type $T = Double;
                Some($body)
            }
            _ => None,
        }
    };
}

/// Calls a generic function with the rounding mode as its last parameter.
macro_rules! rounded {
    ($r:expr, $f:ident::<$($t:ident),+>($($arg:expr),*)) => {
        match $r {
            Round::Near => $f::<$($t),+, 0>($($arg),*),
            Round::Zero => $f::<$($t),+, 1>($($arg),*),
            Round::Down => $f::<$($t),+, 2>($($arg),*),
            _ => $f::<$($t),+, 3>($($arg),*),
        }
    };
}

/// What kernels convert most, in forms the optimiser vectorises.
fn hot(dst: &str, src: &str, round: Option<Round>) -> Option<Kind> {
    Some(match (dst, src, round) {
        ("f32", "s32", Some(Round::Near)) => w32!(|a| (a as i32 as f32).to_bits()),
        ("f32", "u32", Some(Round::Near)) => w32!(|a| (a as f32).to_bits()),
        ("s32", "f32", Some(Round::Zero)) => w32!(|a| f32::from_bits(a) as i32 as u32),
        ("u32", "f32", Some(Round::Zero)) => w32!(|a| f32::from_bits(a) as u32),
        ("s32", "f32", Some(Round::Near)) => {
            w32!(|a| f32::from_bits(a).round_ties_even() as i32 as u32)
        }
        ("f32", "f16", None) => w32!(|a| fast::canon(fast::from_f16(a & 0xffff))),
        ("f32", "bf16", None) => w32!(|a| fast::canon(fast::from_bf16(a))),
        ("f16", "f32", Some(Round::Near)) => w32!(|a| fast::to_f16(a)),
        ("bf16", "f32", Some(Round::Near)) => w32!(|a| fast::to_bf16(a)),
        _ => return None,
    })
}

pub(super) fn decode(mut m: Mods<'_>) -> Option<Alu> {
    let src = m.pop()?;
    let dst = m.pop()?;
    let relu = m.flag("relu");
    let satfinite = m.flag("satfinite");
    if relu || satfinite || dst.ends_with("x2") || src.ends_with("x2") || dst == "tf32" {
        return pack::decode(m, dst, src, relu, satfinite);
    }
    let ftz = m.flag("ftz");
    let sat = m.flag("sat");
    let to_integral = m.one_of(&["rni", "rzi", "rmi", "rpi"]).and_then(Round::parse);
    let to_float = m.one_of(&["rn", "rz", "rm", "rp"]).and_then(Round::parse);
    m.end()?;
    let (dn, sn) = (bits(dst)?, bits(src)?);
    if dst.starts_with('b') && dst != "bf16" || src.starts_with('b') && src != "bf16" {
        return None; // .b types convert nothing
    }
    if ftz && dst != "f32" && src != "f32" {
        return None;
    }
    let float = |t: &str| t.contains('f');
    let kind = match (float(dst), float(src)) {
        (false, false) if to_integral.is_none() && to_float.is_none() => {
            ints!(dst, D, ints!(src, S, int_to_int::<D, S>(sat))?)?
        }
        (true, false) if to_integral.is_none() && !sat => {
            let r = to_float?;
            match hot(dst, src, to_float) {
                Some(k) => k,
                None => {
                    floats!(dst, false, D, ints!(src, S, rounded!(r, int_to_float::<D, S>()))?)?
                }
            }
        }
        // Saturation to the integer's range is implied.
        (false, true) if to_float.is_none() => {
            let r = to_integral?;
            match hot(dst, src, to_integral) {
                Some(k) if !ftz => k,
                _ => ints!(dst, D, floats!(src, ftz, S, rounded!(r, float_to_int::<D, S>()))?)?,
            }
        }
        (true, true) if dst == src && to_float.is_none() => match to_integral {
            Some(r) => floats!(dst, ftz, F, rounded!(r, integral::<F>(sat)))?,
            None => floats!(dst, ftz, F, float_to_float::<F, F, 0>(sat))?,
        },
        (true, true) if to_integral.is_none() => {
            // A rounding mode where the result cannot hold every source, and only there.
            let exact = dn > sn;
            if exact == to_float.is_some() {
                return None;
            }
            let r = to_float.unwrap_or(Round::Near);
            match hot(dst, src, to_float) {
                Some(k) if !ftz && !sat => k,
                _ => floats!(
                    dst,
                    ftz,
                    D,
                    floats!(src, ftz, S, rounded!(r, float_to_float::<D, S>(sat)))?
                )?,
            }
        }
        _ => return None,
    };
    let a = Alu::new(kind, Class::Cvt, dn, &[sn]);
    Some(match (dst, src) {
        ("bf16", "f32") => a,
        ("f32", "bf16") => a.since(7, 1, 80),
        ("bf16", _) | (_, "bf16") => a.since(7, 8, 90),
        _ => a,
    })
}
