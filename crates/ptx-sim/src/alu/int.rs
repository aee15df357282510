//! Integer arithmetic.

use super::{Alu, Class, Kind, Mods, bits, by_int, w32, w64};

pub(super) fn decode(head: &str, mut m: Mods<'_>) -> Option<Alu> {
    let ty = m.pop()?;
    let n = bits(ty)?;
    let int = |kind, dst, src: &[u8]| Some(Alu::new(kind, Class::Int, dst, src));
    let part = m.one_of(&["lo", "hi", "wide"]);
    let sat = m.flag("sat");
    let relu = m.flag("relu");
    let packed = matches!(ty, "u16x2" | "s16x2");
    // dp4a and sad's kin name two types.
    if head == "dp4a" {
        let a = m.pop()?;
        m.end()?;
        return int(dp4a(a, ty)?, 32, &[32, 32, 32]);
    }
    m.end()?;
    if relu && !(matches!(head, "min" | "max") && matches!(ty, "s32" | "s16x2")) {
        return None;
    }
    if sat
        && !(ty == "s32"
            && matches!((head, part), ("add" | "sub", None) | ("mad" | "mad24", Some("hi"))))
    {
        return None;
    }
    if part.is_some() != matches!(head, "mul" | "mad" | "mul24" | "mad24") {
        return None;
    }
    if packed {
        return Some(
            Alu::new(packed16(head, ty, relu)?, Class::Int, 32, &[32, 32]).since(8, 0, 90),
        );
    }
    let two = &[n, n][..];
    let three = &[n, n, n][..];
    match (head, part) {
        ("add", _) if sat => int(w32!(|a, b| (a as i32).saturating_add(b as i32) as u32), 32, two),
        ("sub", _) if sat => int(w32!(|a, b| (a as i32).saturating_sub(b as i32) as u32), 32, two),
        ("add", _) => int(by_int!(ty, |a, b| a.wrapping_add(b))?, n, two),
        ("sub", _) => int(by_int!(ty, |a, b| a.wrapping_sub(b))?, n, two),
        ("mul", Some("lo")) => int(by_int!(ty, |a, b| a.wrapping_mul(b))?, n, two),
        ("mul", Some("hi")) => int(by_int!(ty, |a, b| (a as W * b as W) >> T::BITS)?, n, two),
        ("mul", _) => int(mul_wide(ty)?, 2 * n, two),
        ("mad", Some("lo")) => {
            int(by_int!(ty, |a, b, c| a.wrapping_mul(b).wrapping_add(c))?, n, three)
        }
        ("mad", Some("hi")) if sat => int(
            w32!(|a, b, c| (((a as i32 as i64 * b as i32 as i64) >> 32) as i32)
                .saturating_add(c as i32) as u32),
            n,
            three,
        ),
        ("mad", Some("hi")) => int(
            by_int!(ty, |a, b, c| (((a as W * b as W) >> T::BITS) as T).wrapping_add(c))?,
            n,
            three,
        ),
        ("mad", _) => int(mad_wide(ty)?, 2 * n, &[n, n, 2 * n]),
        ("mul24", Some("lo" | "hi")) => int(mul24(ty, part == Some("hi"))?, 32, two),
        ("mad24", Some("lo" | "hi")) => int(mad24(ty, part == Some("hi"), sat)?, 32, three),
        // The quotient of the most negative number by −1 does not fit and wraps; by zero everything is all ones.
        ("div", _) => int(by_int!(ty, |a, b| if b == 0 { !0 } else { a.wrapping_div(b) })?, n, two),
        ("rem", _) => int(by_int!(ty, |a, b| if b == 0 { !0 } else { a.wrapping_rem(b) })?, n, two),
        ("min", _) if relu => {
            int(w32!(|a, b| (a as i32).min(b as i32).max(0) as u32), n, two).map(relu_since)
        }
        ("max", _) if relu => {
            int(w32!(|a, b| (a as i32).max(b as i32).max(0) as u32), n, two).map(relu_since)
        }
        ("min", _) => int(by_int!(ty, |a, b| a.min(b))?, n, two),
        ("max", _) => int(by_int!(ty, |a, b| a.max(b))?, n, two),
        ("sad", _) => int(by_int!(ty, |a, b, c| (a.abs_diff(b) as T).wrapping_add(c))?, n, three),
        ("neg", _) => int(signed_one(ty, false)?, n, &[n]),
        ("abs", _) => int(signed_one(ty, true)?, n, &[n]),
        _ => None,
    }
}

fn relu_since(a: Alu) -> Alu {
    a.since(8, 0, 90)
}

fn signed_one(ty: &str, abs: bool) -> Option<Kind> {
    Some(match (ty, abs) {
        ("s16", false) => w32!(|a| (a as i16).wrapping_neg() as u16 as u32),
        ("s32", false) => w32!(|a| a.wrapping_neg()),
        ("s64", false) => w64!(|a| a.wrapping_neg()),
        ("s16", true) => w32!(|a| (a as i16).wrapping_abs() as u16 as u32),
        ("s32", true) => w32!(|a| (a as i32).wrapping_abs() as u32),
        ("s64", true) => w64!(|a| (a as i64).wrapping_abs() as u64),
        _ => return None,
    })
}

fn mul_wide(ty: &str) -> Option<Kind> {
    Some(match ty {
        "u16" => w32!(|a, b| (a & 0xffff) * (b & 0xffff)),
        "s16" => w32!(|a, b| (a as i16 as i32 * b as i16 as i32) as u32),
        "u32" => w64!(|a, b| (a as u32 as u64) * (b as u32 as u64)),
        "s32" => w64!(|a, b| (a as i32 as i64 * b as i32 as i64) as u64),
        _ => return None,
    })
}

fn mad_wide(ty: &str) -> Option<Kind> {
    Some(match ty {
        "u16" => w32!(|a, b, c| ((a & 0xffff) * (b & 0xffff)).wrapping_add(c)),
        "s16" => w32!(|a, b, c| ((a as i16 as i32 * b as i16 as i32) as u32).wrapping_add(c)),
        "u32" => w64!(|a, b, c| ((a as u32 as u64) * (b as u32 as u64)).wrapping_add(c)),
        "s32" => w64!(|a, b, c| ((a as i32 as i64 * b as i32 as i64) as u64).wrapping_add(c)),
        _ => return None,
    })
}

/// 48-bit product of the low 24 bits.
fn product24u(a: u32, b: u32) -> u64 {
    (a & 0xff_ffff) as u64 * (b & 0xff_ffff) as u64
}

fn product24s(a: u32, b: u32) -> i64 {
    ((a << 8) as i32 >> 8) as i64 * ((b << 8) as i32 >> 8) as i64
}

/// `.lo` is bits 0–31 of the 48-bit product, `.hi` bits 16–47.
fn mul24(ty: &str, hi: bool) -> Option<Kind> {
    Some(match (ty, hi) {
        ("u32", false) => w32!(|a, b| product24u(a, b) as u32),
        ("u32", true) => w32!(|a, b| (product24u(a, b) >> 16) as u32),
        ("s32", false) => w32!(|a, b| product24s(a, b) as u32),
        ("s32", true) => w32!(|a, b| (product24s(a, b) >> 16) as u32),
        _ => return None,
    })
}

fn mad24(ty: &str, hi: bool, sat: bool) -> Option<Kind> {
    Some(match (ty, hi, sat) {
        ("u32", false, false) => w32!(|a, b, c| (product24u(a, b) as u32).wrapping_add(c)),
        ("u32", true, false) => w32!(|a, b, c| ((product24u(a, b) >> 16) as u32).wrapping_add(c)),
        ("s32", false, false) => w32!(|a, b, c| (product24s(a, b) as u32).wrapping_add(c)),
        ("s32", true, false) => w32!(|a, b, c| ((product24s(a, b) >> 16) as u32).wrapping_add(c)),
        ("s32", true, true) => {
            w32!(|a, b, c| ((product24s(a, b) >> 16) as i32).saturating_add(c as i32) as u32)
        }
        _ => return None,
    })
}

/// Four byte products added to `c`, modulo 2³².
fn dp4a(a: &str, b: &str) -> Option<Kind> {
    fn dot<const A: bool, const B: bool>(a: u32, b: u32, c: u32) -> u32 {
        let byte = |v: u32, i: u32, signed: bool| {
            let x = v >> (8 * i) & 0xff;
            if signed { x as u8 as i8 as i32 } else { x as i32 }
        };
        (0..4).fold(c, |s, i| s.wrapping_add((byte(a, i, A) * byte(b, i, B)) as u32))
    }
    Some(match (a, b) {
        ("u32", "u32") => w32!(|a, b, c| dot::<false, false>(a, b, c)),
        ("u32", "s32") => w32!(|a, b, c| dot::<false, true>(a, b, c)),
        ("s32", "u32") => w32!(|a, b, c| dot::<true, false>(a, b, c)),
        ("s32", "s32") => w32!(|a, b, c| dot::<true, true>(a, b, c)),
        _ => return None,
    })
}

/// Packed pairs of 16-bit integers.
fn packed16(head: &str, ty: &str, relu: bool) -> Option<Kind> {
    macro_rules! pair {
        ($T:ty, |$a:ident, $b:ident| $e:expr) => {
            w32!(|x, y| {
                let half = |$a: $T, $b: $T| ($e) as u16 as u32;
                half((x >> 16) as $T, (y >> 16) as $T) << 16 | half(x as $T, y as $T)
            })
        };
    }
    Some(match (head, ty, relu) {
        ("add", _, false) => pair!(u16, |a, b| a.wrapping_add(b)),
        ("min", "u16x2", false) => pair!(u16, |a, b| a.min(b)),
        ("max", "u16x2", false) => pair!(u16, |a, b| a.max(b)),
        ("min", "s16x2", false) => pair!(i16, |a, b| a.min(b)),
        ("max", "s16x2", false) => pair!(i16, |a, b| a.max(b)),
        ("min", "s16x2", true) => pair!(i16, |a, b| a.min(b).max(0)),
        ("max", "s16x2", true) => pair!(i16, |a, b| a.max(b).max(0)),
        _ => return None,
    })
}
