//! Floating-point numbers as bit patterns: formats, unpacking, and the one place where a value is rounded.
//!
//! Every operation has an exact integer form here ([`add`], [`mul`], [`fma`], [`div`], [`sqrt`], [`convert`] …), correct
//! in every format and rounding mode and independent of the host's floating point. [`fast`] holds the vectorisable forms
//! of what kernels execute most, which the tests hold to the exact ones.
//!
//! Source: PTX ISA 9.1, "Floating Point Instructions" and "cvt".

mod arith;
mod convert;
pub mod fast;
mod mufu;

pub use arith::{add, div, fma, mul, sqrt};
pub use convert::{Flags, convert, from_int, round_integral, to_int};
pub use mufu::{Approx, Mufu, ex2_wide, mufu16, mufu32};

/// Rounding mode of an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    /// `.rn`, `.rni`: to nearest, ties to even.
    Near,
    /// `.rz`, `.rzi`: towards zero.
    Zero,
    /// `.rm`, `.rmi`: towards −∞.
    Down,
    /// `.rp`, `.rpi`: towards +∞.
    Up,
    /// `.rna`: to nearest, ties away from zero.
    Away,
}

impl Round {
    /// The mode a modifier names, `None` if it names none.
    pub fn parse(s: &str) -> Option<Round> {
        Some(match s {
            "rn" | "rni" => Round::Near,
            "rz" | "rzi" => Round::Zero,
            "rm" | "rmi" => Round::Down,
            "rp" | "rpi" => Round::Up,
            "rna" => Round::Away,
            _ => return None,
        })
    }

    /// Const-generic form of a mode: the inverse of [`Round::index`].
    pub const fn of(index: u8) -> Round {
        match index {
            0 => Round::Near,
            1 => Round::Zero,
            2 => Round::Down,
            3 => Round::Up,
            _ => Round::Away,
        }
    }

    /// Number that stands for the mode as a const generic.
    pub const fn index(self) -> u8 {
        self as u8
    }
}

/// A binary floating-point format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fmt {
    /// Exponent field, bits.
    pub exp: u32,
    /// Fraction field, bits.
    pub man: u32,
    /// Largest finite magnitude code.
    pub max: u64,
    /// Whether `max + 1` is infinity; a format without it saturates.
    pub inf: bool,
    /// The NaN that instructions generate.
    pub nan: u64,
}

/// IEEE binary16.
pub const F16: Fmt = Fmt { exp: 5, man: 10, max: 0x7bff, inf: true, nan: 0x7fff };
/// bfloat16: the upper half of a binary32.
pub const BF16: Fmt = Fmt { exp: 8, man: 7, max: 0x7f7f, inf: true, nan: 0x7fff };
/// IEEE binary32.
pub const F32: Fmt = Fmt { exp: 8, man: 23, max: 0x7f7f_ffff, inf: true, nan: 0x7fff_ffff };
/// IEEE binary64. The NaN an operation without NaN operands generates is the hardware's as remembered (unverified).
pub const F64: Fmt =
    Fmt { exp: 11, man: 52, max: 0x7fef_ffff_ffff_ffff, inf: true, nan: 0xfff8_0000_0000_0000 };
/// TF32 as a 19-bit code; registers hold it shifted left by 13.
pub const TF32: Fmt = Fmt { exp: 8, man: 10, max: 0x3fbff, inf: true, nan: 0x3ffff };
/// FP8 with four exponent bits: no infinity, one NaN per sign.
pub const E4M3: Fmt = Fmt { exp: 4, man: 3, max: 0x7e, inf: false, nan: 0x7f };
/// FP8 with five exponent bits.
pub const E5M2: Fmt = Fmt { exp: 5, man: 2, max: 0x7b, inf: true, nan: 0x7f };

impl Fmt {
    /// Exponent bias.
    pub const fn bias(&self) -> i32 {
        (1 << (self.exp - 1)) - 1
    }

    /// The sign bit alone, or 0.
    pub const fn sign(&self, neg: bool) -> u64 {
        (neg as u64) << (self.exp + self.man)
    }

    /// Infinity of a sign; the largest finite value in a format that has none.
    pub const fn infinity(&self, neg: bool) -> u64 {
        self.sign(neg) | (self.max + self.inf as u64)
    }
}

/// A number taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Val {
    /// Not a number.
    Nan,
    /// Infinity, negative if the flag is set.
    Inf(bool),
    /// `(-1)^neg · man · 2^exp`; zero has `man` 0.
    Fin {
        /// Sign.
        neg: bool,
        /// Magnitude's integer.
        man: u64,
        /// Its scale.
        exp: i32,
    },
}

/// Takes a bit pattern apart; `ftz` reads subnormals as zeros of their sign. Bits above the format's width are ignored.
#[inline]
pub fn unpack(f: &Fmt, bits: u64, ftz: bool) -> Val {
    let neg = bits >> (f.exp + f.man) & 1 != 0;
    let e = (bits >> f.man) as i32 & ((1 << f.exp) - 1);
    let m = bits & ((1 << f.man) - 1);
    let code = bits & ((1 << (f.exp + f.man)) - 1);
    if code > f.max {
        return if f.inf && code == f.max + 1 { Val::Inf(neg) } else { Val::Nan };
    }
    if e == 0 {
        Val::Fin { neg, man: if ftz { 0 } else { m }, exp: 1 - f.bias() - f.man as i32 }
    } else {
        Val::Fin { neg, man: m | 1 << f.man, exp: e - f.bias() - f.man as i32 }
    }
}

/// How [`pack`] rounds and what it does at the ends of the range.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Rounding mode.
    pub round: Round,
    /// A magnitude below the smallest normal becomes zero; decided on the exact value, before rounding.
    pub ftz: bool,
    /// Overflow gives the largest finite value.
    pub satfinite: bool,
}

impl Rule {
    /// Rounding alone.
    pub const fn new(round: Round, ftz: bool) -> Rule {
        Rule { round, ftz, satfinite: false }
    }
}

/// Rounds `(-1)^neg · man · 2^exp` into the format.
///
/// The lowest bit of `man` may be a sticky bit (the OR of everything below it) as long as the leading bit is at least
/// two places above the format's precision; `man` must stay below 2¹²⁷.
pub fn pack(f: &Fmt, neg: bool, man: u128, exp: i32, rule: Rule) -> u64 {
    let sign = f.sign(neg);
    if man == 0 {
        return sign;
    }
    let lead = 127 - man.leading_zeros() as i32 + exp;
    let least = 1 - f.bias();
    if rule.ftz && lead < least {
        return sign;
    }
    let mut top = lead.max(least);
    let drop = top - f.man as i32 - exp;
    let mut n = if drop <= 0 {
        (man << -drop) as u64
    } else {
        // Beyond 127 places everything is less than half a unit: any non-zero remainder stands for it.
        let (n, rest, half) = if drop < 128 {
            ((man >> drop) as u64, man & ((1 << drop) - 1), 1u128 << (drop - 1))
        } else {
            (0, 1, 2)
        };
        let up = match rule.round {
            Round::Near => rest > half || (rest == half && n & 1 == 1),
            Round::Away => rest >= half,
            Round::Zero => false,
            Round::Down => neg && rest != 0,
            Round::Up => !neg && rest != 0,
        };
        n + up as u64
    };
    if n >> (f.man + 1) != 0 {
        n >>= 1;
        top += 1;
    }
    if n >> f.man == 0 {
        return sign | n; // subnormal: `top` is the least exponent, the field is 0
    }
    if top > f.bias() + 1 {
        return sign | overflow(f, neg, rule);
    }
    let code = (((top + f.bias()) as u64) << f.man) + (n - (1 << f.man));
    if code > f.max { sign | overflow(f, neg, rule) } else { sign | code }
}

/// Magnitude of a result too large for the format.
fn overflow(f: &Fmt, neg: bool, rule: Rule) -> u64 {
    let stay = match rule.round {
        Round::Near | Round::Away => false,
        Round::Zero => true,
        Round::Down => !neg,
        Round::Up => neg,
    };
    if stay || rule.satfinite || !f.inf { f.max } else { f.max + 1 }
}
