//! `cvt` to and from packed types and `.tf32`, and everything with `.relu` or `.satfinite`.
//!
//! A packed result takes its first source into the upper half.

use super::{Alu, Class, Kind, L32, Mods, w32};
use crate::num::{self, BF16, E4M3, E5M2, F16, F32, Flags, Fmt, Round, TF32, convert, fast};

/// Result formats as const generics.
const TO_F16: u8 = 0;
const TO_BF16: u8 = 1;
const TO_E4M3: u8 = 2;
const TO_E5M2: u8 = 3;
const TO_TF32: u8 = 4;

const fn format(d: u8) -> Fmt {
    match d {
        TO_F16 => F16,
        TO_BF16 => BF16,
        TO_E4M3 => E4M3,
        TO_E5M2 => E5M2,
        _ => TF32,
    }
}

/// Modifiers as bits of a const generic.
const RELU: u8 = 1;
const SATFINITE: u8 = 2;

#[inline(always)]
fn one<const D: u8, const R: u8, const M: u8>(a: u32) -> u32 {
    if R == 0 && M & SATFINITE == 0 && D <= TO_BF16 {
        let r = if D == TO_BF16 { fast::to_bf16(a) } else { fast::to_f16(a) };
        // The NaN these give has no sign.
        return if M & RELU != 0 && r & 0x8000 != 0 { 0 } else { r };
    }
    if R == 0 && (D == TO_E4M3 || D == TO_E5M2) && M & SATFINITE != 0 {
        let r = if D == TO_E5M2 { fast::to_fp8::<true>(a) } else { fast::to_fp8::<false>(a) };
        return if M & RELU != 0 && r & 0x80 != 0 { 0 } else { r };
    }
    if R == Round::Away.index() && D == TO_TF32 && M == 0 {
        return fast::to_tf32_away(a);
    }
    let flags = Flags { satfinite: M & SATFINITE != 0, relu: M & RELU != 0, ..Flags::default() };
    let r = convert(&F32, &format(D), a as u64, Round::of(R), flags) as u32;
    match D {
        TO_TF32 if r == num::TF32.nan as u32 => 0x7fff_ffff,
        TO_TF32 => r << 13,
        _ => r,
    }
}

/// Two sources into one register, or one if not `PAIR`.
fn lanes<const D: u8, const R: u8, const M: u8, const PAIR: bool>(
    d: &mut L32,
    a: &L32,
    b: &L32,
    _: &L32,
) {
    let up = if D == TO_E4M3 || D == TO_E5M2 { 8 } else { 16 };
    for i in 0..32 {
        d[i] = if PAIR {
            one::<D, R, M>(a[i]) << up | one::<D, R, M>(b[i])
        } else {
            one::<D, R, M>(a[i])
        };
    }
}

type Lanes = fn(&mut L32, &L32, &L32, &L32);

fn pick<const D: u8, const PAIR: bool>(r: Round, relu: bool, satfinite: bool) -> Option<Lanes> {
    macro_rules! modifiers {
        ($r:literal) => {
            match (relu, satfinite) {
                (false, false) => lanes::<D, $r, 0, PAIR>,
                (true, false) => lanes::<D, $r, 1, PAIR>,
                (false, true) => lanes::<D, $r, 2, PAIR>,
                (true, true) => lanes::<D, $r, 3, PAIR>,
            }
        };
    }
    Some(match r {
        Round::Near => modifiers!(0),
        Round::Zero => modifiers!(1),
        Round::Away => modifiers!(4),
        _ => return None,
    })
}

pub(super) fn decode(
    mut m: Mods<'_>,
    dst: &str,
    src: &str,
    relu: bool,
    satfinite: bool,
) -> Option<Alu> {
    let r = m.one_of(&["rn", "rz", "rna"]).and_then(Round::parse)?;
    m.end()?;
    let cvt = |kind, dst, src: &[u8]| Alu::new(kind, Class::Cvt, dst, src);
    let late = |a: Alu| if satfinite { a.since(8, 1, 80) } else { a };
    let nearest = r == Round::Near;
    Some(match (dst, src) {
        ("f16x2" | "bf16x2" | "f16" | "bf16", "f32") if r != Round::Away => match dst {
            "f16x2" => {
                late(cvt(Kind::W32(pick::<TO_F16, true>(r, relu, satfinite)?), 32, &[32, 32]))
            }
            "bf16x2" => {
                late(cvt(Kind::W32(pick::<TO_BF16, true>(r, relu, satfinite)?), 32, &[32, 32]))
            }
            "f16" => late(cvt(Kind::W32(pick::<TO_F16, false>(r, relu, satfinite)?), 16, &[32])),
            _ => late(cvt(Kind::W32(pick::<TO_BF16, false>(r, relu, satfinite)?), 16, &[32])),
        },
        ("tf32", "f32") => {
            if r == Round::Away && relu {
                return None;
            }
            let a = cvt(Kind::W32(pick::<TO_TF32, false>(r, relu, satfinite)?), 32, &[32]);
            match (r, satfinite) {
                (Round::Away, false) => a,
                (Round::Away, true) => a.since(8, 1, 80),
                _ => a.since(7, 8, 90),
            }
        }
        // Without .satfinite these are not PTX.
        ("e4m3x2", "f32") if satfinite && nearest => {
            cvt(Kind::W32(pick::<TO_E4M3, true>(r, relu, true)?), 16, &[32, 32]).since(7, 8, 89)
        }
        ("e5m2x2", "f32") if satfinite && nearest => {
            cvt(Kind::W32(pick::<TO_E5M2, true>(r, relu, true)?), 16, &[32, 32]).since(7, 8, 89)
        }
        ("e4m3x2" | "e5m2x2", "f16x2") if satfinite && nearest => {
            let kind = match (dst, relu) {
                ("e4m3x2", false) => w32!(|a| repack::<16, 8>(&F16, &E4M3, a, false)),
                ("e4m3x2", true) => w32!(|a| repack::<16, 8>(&F16, &E4M3, a, true)),
                (_, false) => w32!(|a| repack::<16, 8>(&F16, &E5M2, a, false)),
                (_, true) => w32!(|a| repack::<16, 8>(&F16, &E5M2, a, true)),
            };
            cvt(kind, 16, &[32]).since(7, 8, 89)
        }
        ("f16x2", "e4m3x2" | "e5m2x2") if !satfinite && nearest => {
            let kind = match (src, relu) {
                ("e4m3x2", false) => w32!(|a| repack::<8, 16>(&E4M3, &F16, a, false)),
                ("e4m3x2", true) => w32!(|a| repack::<8, 16>(&E4M3, &F16, a, true)),
                (_, false) => w32!(|a| repack::<8, 16>(&E5M2, &F16, a, false)),
                (_, true) => w32!(|a| repack::<8, 16>(&E5M2, &F16, a, true)),
            };
            cvt(kind, 32, &[16]).since(7, 8, 89)
        }
        _ => return None,
    })
}

/// Converts both halves of a packed register, `FROM` and `TO` bits each; saturates.
fn repack<const FROM: u32, const TO: u32>(src: &Fmt, dst: &Fmt, a: u32, relu: bool) -> u32 {
    // No fp8 exceeds binary16, so that saturation matters in one direction only; but e5m2's infinity has to pass.
    let flags = Flags { satfinite: TO == 8, relu, ..Flags::default() };
    let half = |h: u32| convert(src, dst, h as u64, Round::Near, flags) as u32;
    half(a >> FROM) << TO | half(a & ((1 << FROM) - 1))
}
