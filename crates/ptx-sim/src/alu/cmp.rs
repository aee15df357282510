//! Comparisons: `setp`, `set`, `slct`, `testp`.

use super::{Alu, Class, Kind, L32, L64, Mods, bits, w32, w64};
use crate::num::fast;

/// A type as operand of a comparison: registers become values with the host's order.
trait Operand {
    type Value: PartialOrd + Copy;
    fn value(bits: u64) -> Self::Value;
}

macro_rules! operand {
    ($($name:ident: $t:ty = |$x:ident| $e:expr;)+) => {$(
        struct $name;
        impl Operand for $name {
            type Value = $t;
            #[inline(always)]
            fn value($x: u64) -> $t { $e }
        }
    )+};
}
operand! {
    U16: u16 = |x| x as u16;
    S16: i16 = |x| x as i16;
    U32: u32 = |x| x as u32;
    S32: i32 = |x| x as i32;
    U64: u64 = |x| x;
    S64: i64 = |x| x as i64;
    Single: f32 = |x| f32::from_bits(x as u32);
    Flushed: f32 = |x| f32::from_bits(fast::flush(x as u32));
    Double: f64 = |x| f64::from_bits(x);
    Half: f32 = |x| fast::from_f16(x as u32 & 0xffff);
    HalfFlushed: f32 = |x| fast::from_f16(fast::flush16::<false>(x as u32));
    Bf16: f32 = |x| fast::from_bf16(x as u32);
}

/// Comparisons as const generics; from [`EQU`] on, a NaN operand makes them true.
const EQ: u8 = 0;
const NE: u8 = 1;
const LT: u8 = 2;
const LE: u8 = 3;
const GT: u8 = 4;
const GE: u8 = 5;
const EQU: u8 = 6;
const NEU: u8 = 7;
const LTU: u8 = 8;
const LEU: u8 = 9;
const GTU: u8 = 10;
const GEU: u8 = 11;
const NUM: u8 = 12;
const NAN: u8 = 13;

// A negated or doubled comparison is not its opposite where an operand is NaN: that is the point.
#[expect(clippy::neg_cmp_op_on_partial_ord, clippy::double_comparisons)]
#[inline(always)]
fn test<T: Operand, const OP: u8>(a: u64, b: u64) -> bool {
    let (x, y) = (T::value(a), T::value(b));
    match OP {
        EQ => x == y,
        // Ordered: false with a NaN, unlike the host's.
        NE => x < y || x > y,
        LT => x < y,
        LE => x <= y,
        GT => x > y,
        GE => x >= y,
        EQU => !(x < y || x > y),
        NEU => x != y,
        LTU => !(x >= y),
        LEU => !(x > y),
        GTU => !(x <= y),
        GEU => !(x < y),
        NUM => x <= y || x >= y,
        _ => !(x <= y || x >= y),
    }
}

/// What becomes of a comparison.
#[derive(Clone, Copy)]
enum Use {
    /// `setp`: a mask.
    Mask,
    /// `setp` of packed halves.
    Masks,
    /// `set` with an integer result: all ones or zero.
    Ones,
    /// `set.f32`: 1.0 or 0.0.
    One,
}

fn kind<T: Operand, const OP: u8>(wide: bool, u: Use) -> Kind {
    match (u, wide) {
        (Use::Mask, false) => Kind::Cmp32(|a: &L32, b: &L32| {
            (0..32).fold(0, |m, i| m | (test::<T, OP>(a[i] as u64, b[i] as u64) as u32) << i)
        }),
        (Use::Mask, true) => Kind::Cmp64(|a: &L64, b: &L64| {
            (0..32).fold(0, |m, i| m | (test::<T, OP>(a[i], b[i]) as u32) << i)
        }),
        (Use::Masks, _) => Kind::Cmp32x2(|a: &L32, b: &L32| {
            (0..32).fold((0, 0), |(lo, hi), i| {
                let (x, y) = (a[i] as u64, b[i] as u64);
                (
                    lo | (test::<T, OP>(x & 0xffff, y & 0xffff) as u32) << i,
                    hi | (test::<T, OP>(x >> 16, y >> 16) as u32) << i,
                )
            })
        }),
        (Use::Ones, false) => Kind::W32(|d: &mut L32, a: &L32, b: &L32, _: &L32| {
            for i in 0..32 {
                d[i] = 0u32.wrapping_sub(test::<T, OP>(a[i] as u64, b[i] as u64) as u32);
            }
        }),
        (Use::One, false) => Kind::W32(|d: &mut L32, a: &L32, b: &L32, _: &L32| {
            for i in 0..32 {
                d[i] = if test::<T, OP>(a[i] as u64, b[i] as u64) { ONE } else { 0 };
            }
        }),
        (Use::Ones, true) => Kind::W64(|d: &mut L64, a: &L64, b: &L64, _: &L64| {
            for i in 0..32 {
                d[i] = 0u32.wrapping_sub(test::<T, OP>(a[i], b[i]) as u32) as u64;
            }
        }),
        (Use::One, true) => Kind::W64(|d: &mut L64, a: &L64, b: &L64, _: &L64| {
            for i in 0..32 {
                d[i] = if test::<T, OP>(a[i], b[i]) { ONE as u64 } else { 0 };
            }
        }),
    }
}

/// 1.0.
const ONE: u32 = 0x3f80_0000;

/// The comparison an integer type has under a name.
fn integer<T: Operand>(op: &str, ty: &str, u: Use) -> Option<Kind> {
    let wide = ty.ends_with("64");
    let ordered = !ty.starts_with('b');
    let unsigned = ty.starts_with('u');
    Some(match op {
        "eq" => kind::<T, EQ>(wide, u),
        "ne" => kind::<T, NE>(wide, u),
        "lt" if ordered => kind::<T, LT>(wide, u),
        "le" if ordered => kind::<T, LE>(wide, u),
        "gt" if ordered => kind::<T, GT>(wide, u),
        "ge" if ordered => kind::<T, GE>(wide, u),
        "lo" if unsigned => kind::<T, LT>(wide, u),
        "ls" if unsigned => kind::<T, LE>(wide, u),
        "hi" if unsigned => kind::<T, GT>(wide, u),
        "hs" if unsigned => kind::<T, GE>(wide, u),
        _ => return None,
    })
}

/// The comparison a floating-point type has under a name.
fn float<T: Operand>(op: &str, wide: bool, u: Use) -> Option<Kind> {
    Some(match op {
        "eq" => kind::<T, EQ>(wide, u),
        "ne" => kind::<T, NE>(wide, u),
        "lt" => kind::<T, LT>(wide, u),
        "le" => kind::<T, LE>(wide, u),
        "gt" => kind::<T, GT>(wide, u),
        "ge" => kind::<T, GE>(wide, u),
        "equ" => kind::<T, EQU>(wide, u),
        "neu" => kind::<T, NEU>(wide, u),
        "ltu" => kind::<T, LTU>(wide, u),
        "leu" => kind::<T, LEU>(wide, u),
        "gtu" => kind::<T, GTU>(wide, u),
        "geu" => kind::<T, GEU>(wide, u),
        "num" => kind::<T, NUM>(wide, u),
        "nan" => kind::<T, NAN>(wide, u),
        _ => return None,
    })
}

fn compare(op: &str, ty: &str, ftz: bool, u: Use) -> Option<Kind> {
    match (ty, ftz) {
        ("u16" | "b16", false) => integer::<U16>(op, ty, u),
        ("s16", false) => integer::<S16>(op, ty, u),
        ("u32" | "b32", false) => integer::<U32>(op, ty, u),
        ("s32", false) => integer::<S32>(op, ty, u),
        ("u64" | "b64", false) => integer::<U64>(op, ty, u),
        ("s64", false) => integer::<S64>(op, ty, u),
        ("f32", false) => float::<Single>(op, false, u),
        ("f32", true) => float::<Flushed>(op, false, u),
        ("f64", false) => float::<Double>(op, true, u),
        ("f16" | "f16x2", false) => float::<Half>(op, false, u),
        ("f16" | "f16x2", true) => float::<HalfFlushed>(op, false, u),
        ("bf16" | "bf16x2", false) => float::<Bf16>(op, false, u),
        _ => None,
    }
}

pub(super) fn decode(head: &str, mut m: Mods<'_>) -> Option<Alu> {
    let ty = m.pop()?;
    let n = bits(ty)?;
    let cmp = |kind, dst, src: &[u8]| Alu::new(kind, Class::Cmp, dst, src);
    let late = |a: Alu| if ty.starts_with("bf") { a.since(7, 8, 90) } else { a };
    match head {
        "setp" => {
            let op = m.first()?;
            m.one_of(&["and", "or", "xor"]); // the caller combines
            let ftz = m.flag("ftz");
            m.end()?;
            let u = if ty.ends_with("x2") { Use::Masks } else { Use::Mask };
            Some(late(cmp(compare(op, ty, ftz, u)?, 0, &[n, n])))
        }
        "set" => {
            let u = match m.pop()? {
                "u32" | "s32" => Use::Ones,
                "f32" => Use::One,
                _ => return None,
            };
            let op = m.first()?;
            let ftz = m.flag("ftz");
            m.end()?;
            if ty.ends_with("x2") {
                return None;
            }
            Some(late(cmp(compare(op, ty, ftz, u)?, 32, &[n, n])))
        }
        "slct" => {
            let dst = m.pop()?;
            let ftz = m.flag("ftz");
            m.end()?;
            let dn = bits(dst)?;
            let kind = match (ty, ftz, dn) {
                ("s32", false, 16 | 32) => w32!(|a, b, c| if c as i32 >= 0 { a } else { b }),
                ("s32", false, 64) => w64!(|a, b, c| if c as i32 >= 0 { a } else { b }),
                // −0 is not negative, NaN selects b. Flushing does not change which side of zero c is on, except for a
                // negative subnormal.
                ("f32", false, 16 | 32) => {
                    w32!(|a, b, c| if f32::from_bits(c) >= 0.0 { a } else { b })
                }
                ("f32", false, 64) => {
                    w64!(|a, b, c| if f32::from_bits(c as u32) >= 0.0 { a } else { b })
                }
                ("f32", true, 16 | 32) => {
                    w32!(|a, b, c| if f32::from_bits(fast::flush(c)) >= 0.0 { a } else { b })
                }
                ("f32", true, 64) => {
                    w64!(|a, b, c| if f32::from_bits(fast::flush(c as u32)) >= 0.0 { a } else { b })
                }
                _ => return None,
            };
            Some(Alu::new(kind, Class::Move, dn, &[dn, dn, 32]))
        }
        "testp" => {
            let property = m.first()?;
            m.end()?;
            Some(cmp(testp(property, ty)?, 0, &[n]))
        }
        _ => None,
    }
}

/// A property of a number's magnitude bits. Zero counts as normal.
fn testp(property: &str, ty: &str) -> Option<Kind> {
    macro_rules! lanes {
        ($kind:ident, $L:ty, |$m:ident| $e:expr) => {
            Kind::$kind(|a: &$L, _: &$L| {
                (0..32).fold(0, |r, i| {
                    let $m = a[i] << 1 >> 1;
                    r | ($e as u32) << i
                })
            })
        };
    }
    const INF32: u32 = 0x7f80_0000;
    const INF64: u64 = 0x7ff0_0000_0000_0000;
    const LEAST32: u32 = 0x0080_0000;
    const LEAST64: u64 = 1 << 52;
    Some(match (property, ty) {
        ("finite", "f32") => lanes!(Cmp32, L32, |m| m < INF32),
        ("infinite", "f32") => lanes!(Cmp32, L32, |m| m == INF32),
        ("number", "f32") => lanes!(Cmp32, L32, |m| m <= INF32),
        ("notanumber", "f32") => lanes!(Cmp32, L32, |m| m > INF32),
        ("normal", "f32") => lanes!(Cmp32, L32, |m| m == 0 || (LEAST32..INF32).contains(&m)),
        ("subnormal", "f32") => lanes!(Cmp32, L32, |m| m > 0 && m < LEAST32),
        ("finite", "f64") => lanes!(Cmp64, L64, |m| m < INF64),
        ("infinite", "f64") => lanes!(Cmp64, L64, |m| m == INF64),
        ("number", "f64") => lanes!(Cmp64, L64, |m| m <= INF64),
        ("notanumber", "f64") => lanes!(Cmp64, L64, |m| m > INF64),
        ("normal", "f64") => lanes!(Cmp64, L64, |m| m == 0 || (LEAST64..INF64).contains(&m)),
        ("subnormal", "f64") => lanes!(Cmp64, L64, |m| m > 0 && m < LEAST64),
        _ => return None,
    })
}
