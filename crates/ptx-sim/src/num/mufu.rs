//! `.approx` instructions: the correctly rounded value, or one moved within the documented error.
//!
//! Bounds: PTX ISA 9.1, the instructions' tables. An ulp is that of the exact value's binade. Infinities, zeros, NaN, and
//! the values stated as exact (ex2 and cos of ±0 are 1) stay as they are in every mode, and a moved result never reaches
//! zero or infinity. The functions that have no exact host form (lg2, sin, cos, tanh) are the standard library's in
//! binary64, rounded; ex2 is computed here, the same on every host.

use super::{BF16, F16, F32, F64, Flags, Fmt, Round, convert, fast};

/// What an approximate instruction returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Approx {
    /// The correctly rounded value.
    #[default]
    Exact,
    /// The largest value within the bound.
    Plus,
    /// The smallest value within the bound.
    Minus,
    /// A value within the bound, drawn from a hash of seed, operation and input bits.
    Seeded,
}

/// An approximate function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mufu {
    /// 2^a.
    Ex2,
    /// log₂ a.
    Lg2,
    /// 1 / a.
    Rcp,
    /// 1 / √a.
    Rsqrt,
    /// √a.
    Sqrt,
    /// sin a.
    Sin,
    /// cos a.
    Cos,
    /// tanh a.
    Tanh,
    /// `div.approx`: 0 (NaN for an infinite a) where |b| > 2¹²⁶.
    Div,
    /// `div.full`: as `div.approx`, over the full range.
    DivFull,
}

/// 2^x for loops over lanes: the relative error is some 2⁻⁵², far below what rounding to binary32 shows.
#[inline(always)]
pub fn ex2_wide(x: f64) -> f64 {
    const MAGIC: f64 = 6_755_399_441_055_744.0; // 1.5 · 2⁵²: adding it rounds to an integer held in the low bits
    let c = x.clamp(-1000.0, 1000.0);
    let m = c + MAGIC;
    let f = (c - (m - MAGIC)) * std::f64::consts::LN_2;
    // Taylor's series on |f| ≤ ln 2 / 2: the first term left out is below 2⁻⁵⁷.
    let mut p = 1.0 / 6_227_020_800.0;
    for d in [
        479_001_600.0,
        39_916_800.0,
        3_628_800.0,
        362_880.0,
        40_320.0,
        5_040.0,
        720.0,
        120.0,
        24.0,
        6.0,
        2.0,
        1.0,
        1.0,
    ] {
        p = p * f + 1.0 / d;
    }
    p * f64::from_bits(m.to_bits().wrapping_add(1023) << 52)
}

/// Spreads a word over all bits (Steele, Lea and Flood's SplitMix64 finaliser).
fn hash(mut z: u64) -> u64 {
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// 2⁻²², 2⁻¹¹ and 2¹²⁶.
const P22: f64 = 1.0 / (1u64 << 22) as f64;
const P11: f64 = 1.0 / (1u64 << 11) as f64;
const P126: f64 = (1u128 << 126) as f64;

fn value(op: Mufu, x: f64, y: f64) -> f64 {
    match op {
        Mufu::Ex2 => ex2_wide(x),
        Mufu::Lg2 => x.log2(),
        Mufu::Rcp => 1.0 / x,
        Mufu::Rsqrt => 1.0 / x.sqrt(),
        Mufu::Sqrt => x.sqrt(),
        Mufu::Sin => x.sin(),
        Mufu::Cos => x.cos(),
        Mufu::Tanh => x.tanh(),
        Mufu::Div if y.abs() > P126 && y.is_finite() => {
            if x.is_infinite() {
                f64::NAN
            } else {
                x * 0.0 * y.signum()
            }
        }
        Mufu::Div | Mufu::DivFull => x / y,
    }
}

/// Unit of the binade of `v`, from the smallest normal of the format on.
fn ulp(f: &Fmt, v: f64) -> f64 {
    let e = ((v.to_bits() >> 52 & 0x7ff) as i32 - 1023).max(1 - f.bias());
    f64::from_bits(((e - f.man as i32 + 1023) as u64) << 52)
}

/// Documented absolute error of a binary32 result `v` of `op` at `x`.
fn bound32(op: Mufu, x: f64, v: f64) -> f64 {
    match op {
        Mufu::Ex2 | Mufu::Div | Mufu::DivFull => 2.0 * ulp(&F32, v),
        Mufu::Rcp => ulp(&F32, v),
        Mufu::Lg2 if x > 0.5 && x < 2.0 => P22,
        Mufu::Lg2 => v.abs() * P22,
        Mufu::Rsqrt => v.abs() * 1.277_5e-7, // 2^-22.9
        Mufu::Sqrt => v.abs() * P22 * 0.5,
        Mufu::Sin | Mufu::Cos => 6.743_5e-7, // 2^-20.5, stated for [-π, π]
        Mufu::Tanh => v.abs() * P11,
    }
}

/// Documented absolute error of a 16-bit result.
fn bound16(op: Mufu, bf: bool, v: f64) -> f64 {
    match (op, bf) {
        (Mufu::Ex2, false) => v.abs() * 1.046_6e-3, // 2^-9.9
        (Mufu::Ex2, true) => v.abs() * 2f64.powi(-7),
        (_, false) => 4.927_0e-4, // 2^-10.987, tanh
        (_, true) => 2f64.powi(-8),
    }
}

/// Bits of `v` in a 16-bit format, moved by at most `e` as the mode says.
fn moved(f: &Fmt, op: Mufu, v: f64, e: f64, ftz: bool, mode: Approx, h: u64) -> u64 {
    let to =
        |v: f64, round| convert(&F64, f, v.to_bits(), round, Flags { ftz, ..Flags::default() });
    let near = to(v, Round::Near);
    let magnitude = near & (f.sign(true) - 1);
    if mode == Approx::Exact || magnitude == 0 || magnitude > f.max {
        return near;
    }
    // Signed order of the codes, in which a step is one unit.
    let sign = f.sign(true);
    let order = |u: u64| if u & sign != 0 { -((u & (sign - 1)) as i64) } else { u as i64 };
    let least = if ftz { 1 << f.man } else { 1 };
    let bounded = matches!(op, Mufu::Sin | Mufu::Cos | Mufu::Tanh);
    let most = if bounded { (f.bias() as i64) << f.man } else { f.max as i64 };
    let (lo, hi) = if v < 0.0 { (-most, -least) } else { (least, most) };
    let near = order(near);
    let top = order(to(v + e, Round::Down)).max(near);
    let bottom = order(to(v - e, Round::Up)).min(near);
    let r = match mode {
        Approx::Plus => top,
        Approx::Minus => bottom,
        _ => {
            let u = (h >> 11) as f64 * 2f64.powi(-52) - 1.0;
            order(to(v + e * u, Round::Near)).clamp(bottom, top)
        }
    };
    let r = r.clamp(lo, hi);
    if r < 0 { sign | r.unsigned_abs() } else { r as u64 }
}

/// [`moved`] for binary32, with the host's conversions instead of the exact ones.
fn moved32(op: Mufu, v: f64, e: f64, ftz: bool, mode: Approx, h: u64) -> u32 {
    // Signed order of the codes, in which a step is one unit.
    let order = |r: f32| {
        let m = (r.to_bits() & 0x7fff_ffff) as i32;
        if r.is_sign_negative() { -m } else { m }
    };
    let floor = |w: f64| order(w as f32) - ((w as f32) as f64 > w) as i32;
    let ceil = |w: f64| order(w as f32) + (((w as f32) as f64) < w) as i32;
    let least = if ftz { 1 << 23 } else { 1 };
    let near = order(v as f32);
    if near.abs() < least
        || near.abs() > F32.max as i32
        || ftz && v.abs() < f32::MIN_POSITIVE as f64
    {
        let flushed = ftz && near.abs() <= least;
        return if flushed {
            (v.to_bits() >> 32) as u32 & 0x8000_0000
        } else {
            (v as f32).to_bits()
        };
    }
    let r = match mode {
        Approx::Exact => near,
        Approx::Plus => floor(v + e).max(near),
        Approx::Minus => ceil(v - e).min(near),
        Approx::Seeded => {
            let u = (h >> 11) as f64 * (1.0 / (1u64 << 52) as f64) - 1.0;
            order((v + e * u) as f32).clamp(ceil(v - e).min(near), floor(v + e).max(near))
        }
    };
    let bounded = matches!(op, Mufu::Sin | Mufu::Cos | Mufu::Tanh);
    let most = if bounded { 0x3f80_0000 } else { F32.max as i32 };
    let r = if v < 0.0 { r.clamp(-most, -least) } else { r.clamp(least, most) };
    if r < 0 { 1 << 31 | r.unsigned_abs() } else { r as u32 }
}

/// Binary32 approximation of `op` at `a` (and `b` for the quotients).
pub fn mufu32(op: Mufu, a: u32, b: u32, ftz: bool, mode: Approx, seed: u64) -> u32 {
    let (a, b) = if ftz { (fast::flush(a), fast::flush(b)) } else { (a, b) };
    let (x, y) = (f32::from_bits(a) as f64, f32::from_bits(b) as f64);
    let v = value(op, x, y);
    let stated = matches!(op, Mufu::Ex2 | Mufu::Cos) && x == 0.0;
    if mode == Approx::Exact || stated || v == 0.0 || !v.is_finite() {
        let r = fast::canon(v as f32);
        return if ftz && v.abs() < f32::MIN_POSITIVE as f64 { r & 0x8000_0000 } else { r };
    }
    let h = hash(seed ^ hash((a as u64) << 32 | b as u64).wrapping_add(op as u64 + 1));
    moved32(op, v, bound32(op, x, v), ftz, mode, h)
}

/// Approximation of `op` at a 16-bit number: bf16 if `bf`, else binary16.
pub fn mufu16(op: Mufu, bf: bool, a: u32, ftz: bool, mode: Approx, seed: u64) -> u32 {
    let f = if bf { &BF16 } else { &F16 };
    let a = match (ftz, bf) {
        (false, _) => a & 0xffff,
        (true, true) => fast::flush16::<true>(a),
        (true, false) => fast::flush16::<false>(a),
    };
    let x = if bf { fast::from_bf16(a) } else { fast::from_f16(a) } as f64;
    let v = value(op, x, 0.0);
    let mode = if op == Mufu::Ex2 && x == 0.0 { Approx::Exact } else { mode };
    let h = hash(seed ^ hash(a as u64).wrapping_add(op as u64 + 1));
    moved(f, op, v, bound16(op, bf, v), ftz, mode, h) as u32
}
