//! Conversions between formats and integers.

use super::{F64, Fmt, Round, Rule, Val, pack, unpack};

/// Modifiers of a conversion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// A subnormal source is read as a zero of its sign (`.ftz` with a binary32 source).
    pub ftz_in: bool,
    /// A subnormal result becomes a zero of its sign (`.ftz` with a binary32 result).
    pub ftz: bool,
    /// `.satfinite`: overflow and infinity give the largest finite value.
    pub satfinite: bool,
    /// `.relu`: negative numbers become +0.
    pub relu: bool,
}

/// A number of one format in another, rounded once.
pub fn convert(src: &Fmt, dst: &Fmt, bits: u64, round: Round, flags: Flags) -> u64 {
    match unpack(src, bits, flags.ftz_in) {
        // binary64 keeps a NaN's payload only from itself; everything else gets the format's one NaN.
        Val::Nan if src == dst && *src == F64 => bits | 1 << 51,
        Val::Nan if *dst == F64 => 0x7fff_ffff_ffff_ffff,
        Val::Nan => dst.nan,
        Val::Inf(true) | Val::Fin { neg: true, .. } if flags.relu => 0,
        Val::Inf(neg) if flags.satfinite => dst.sign(neg) | dst.max,
        Val::Inf(neg) => dst.infinity(neg),
        Val::Fin { neg, man, exp } => pack(
            dst,
            neg,
            man as u128,
            exp,
            Rule { round, ftz: flags.ftz, satfinite: flags.satfinite },
        ),
    }
}

/// Nearest integers of a magnitude `man · 2^exp`; saturates far above any integer type.
fn integral(neg: bool, man: u64, exp: i32, round: Round) -> u128 {
    if exp >= 0 {
        return if exp > 64 && man != 0 { 1 << 126 } else { (man as u128) << exp.min(64) };
    }
    let drop = -exp;
    let (n, rest, half) = if drop < 127 {
        ((man as u128) >> drop, man as u128 & ((1 << drop) - 1), 1u128 << (drop - 1))
    } else {
        (0, (man != 0) as u128, 2)
    };
    let up = match round {
        Round::Near => rest > half || (rest == half && n & 1 == 1),
        Round::Away => rest >= half,
        Round::Zero => false,
        Round::Down => neg && rest != 0,
        Round::Up => !neg && rest != 0,
    };
    n + up as u128
}

/// Float to integer of `width` bits, saturating; the result is sign- or zero-extended to 64 bits.
///
/// NaN gives 0, but `1 << (width - 1)` if the source is binary64 or the result 64 bits wide.
pub fn to_int(src: &Fmt, bits: u64, round: Round, signed: bool, width: u32, ftz: bool) -> u64 {
    let (lo, hi): (i128, i128) =
        if signed { (-(1 << (width - 1)), (1 << (width - 1)) - 1) } else { (0, (1 << width) - 1) };
    let v = match unpack(src, bits, ftz) {
        Val::Nan if *src == F64 || width == 64 => {
            if signed {
                lo
            } else {
                1 << (width - 1)
            }
        }
        Val::Nan => 0,
        Val::Inf(true) => lo,
        Val::Inf(false) => hi,
        Val::Fin { neg, man, exp } => {
            let n = integral(neg, man, exp, round) as i128;
            (if neg { -n } else { n }).clamp(lo, hi)
        }
    };
    v as u64
}

/// Integer, given as sign and magnitude, to float.
pub fn from_int(dst: &Fmt, neg: bool, magnitude: u64, round: Round) -> u64 {
    if magnitude == 0 {
        return 0;
    }
    pack(dst, neg, magnitude as u128, 0, Rule::new(round, false))
}

/// A number rounded to an integral value of the same format (`cvt.rni.f32.f32`).
pub fn round_integral(f: &Fmt, bits: u64, round: Round, ftz: bool) -> u64 {
    match unpack(f, bits, ftz) {
        Val::Nan if *f == F64 => bits | 1 << 51,
        Val::Nan => f.nan,
        Val::Inf(neg) => f.infinity(neg),
        // From scale 0 on a number is integral already.
        Val::Fin { neg, man, exp } if exp >= 0 => {
            pack(f, neg, man as u128, exp, Rule::new(Round::Zero, false))
        }
        Val::Fin { neg, man, exp } => {
            pack(f, neg, integral(neg, man, exp, round), 0, Rule::new(Round::Zero, false))
        }
    }
}
