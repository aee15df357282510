//! Arithmetic of one warp: which function an opcode stands for. No memory, no control flow.
//!
//! [`decode`] turns a mnemonic into an [`Alu`]: a function over the 32 lanes, compiled for exactly these types and
//! modifiers so that the loop over lanes becomes vector code. The order of modifiers is not checked (ptxas does that).
//!
//! Conventions: 8- and 16-bit sources and results are zero-extended. The exception is `cvt`: it reads the low bits of its
//! source whatever is above them, and a result of type `.s8`/`.s16`/`.s32` is sign-extended to 32 (64) bits because the
//! destination register may be wider; the caller cuts it to the register's width.
//!
//! Source of semantics: PTX ISA 9.1.

mod cmp;
mod cvt;
mod float;
mod half;
mod int;
mod logic;
mod pack;

pub use logic::{bfi32, bfi64, lop3};

use crate::num::Approx;

/// One 32-bit register of a warp, lane by lane.
pub type L32 = [u32; 32];
/// One register of a warp widened to 64 bits.
pub type L64 = [u64; 32];

/// How an instruction is evaluated. The destination comes first, then the sources; absent ones are ignored.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Operands and result of at most 32 bits.
    W32(fn(&mut L32, &L32, &L32, &L32)),
    /// An operand or the result has 64 bits; the caller zero-extends narrower sources and truncates the result.
    W64(fn(&mut L64, &L64, &L64, &L64)),
    /// `bfi.b32`: four sources, the last two being position and length.
    W32x4(fn(&mut L32, &L32, &L32, &L32, &L32)),
    /// `bfi.b64`.
    W64x4(fn(&mut L64, &L64, &L64, &L64, &L64)),
    /// `lop3.b32`: three sources and an immediate table.
    Lop3(fn(&mut L32, &L32, &L32, &L32, u8)),
    /// `.approx` instructions: two sources, error mode, seed.
    Approx(fn(&mut L32, &L32, &L32, Approx, u64)),
    /// Comparison: a bit per lane.
    Cmp32(fn(&L32, &L32) -> u32),
    /// Comparison of 64-bit operands.
    Cmp64(fn(&L64, &L64) -> u32),
    /// Comparison of packed halves: the masks of the low and of the high half.
    Cmp32x2(fn(&L32, &L32) -> (u32, u32)),
    /// `and.pred` and the like, on a bit per lane.
    Pred(fn(u32, u32) -> u32),
}

/// Group of an instruction, for counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Integer arithmetic.
    Int,
    /// Bitwise operations, shifts, permutations.
    Logic,
    /// binary32 arithmetic.
    F32,
    /// 16-bit floating-point arithmetic, scalar or packed.
    F16x2,
    /// binary64 arithmetic.
    F64,
    /// Conversions.
    Cvt,
    /// Approximate functions.
    Mufu,
    /// Comparisons.
    Cmp,
    /// Moves and selections.
    Move,
}

/// First PTX version and lowest target that have an instruction. Everything that PTX 7.0 has for sm_80 says so, however
/// old. Where the ISA names two pairs (fp8: 7.8 with sm_90, 8.1 with sm_89) this is the lower of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Since {
    /// Major and minor version of the ISA.
    pub ptx: (u8, u8),
    /// Number of the target, as in `sm_80`.
    pub sm: u16,
}

impl Since {
    /// In every module the simulator accepts.
    pub const BASE: Since = Since { ptx: (7, 0), sm: 80 };

    const fn new(major: u8, minor: u8, sm: u16) -> Since {
        Since { ptx: (major, minor), sm }
    }
}

/// A decoded arithmetic instruction.
#[derive(Clone, Copy, Debug)]
pub struct Alu {
    /// How it is evaluated.
    pub kind: Kind,
    /// Bits of the result: 8, 16, 32, 64; 0 for a predicate (or a pair of them).
    pub dst: u8,
    /// Bits of each source register, 0 where there is none (or, with [`Kind::Pred`], a predicate). The fourth source of
    /// `bfi` has 32 bits.
    pub src: [u8; 3],
    /// Group, for counters.
    pub class: Class,
    /// Where it was introduced.
    pub since: Since,
}

impl Alu {
    fn new(kind: Kind, class: Class, dst: u8, src: &[u8]) -> Alu {
        let mut s = [0; 3];
        s[..src.len()].copy_from_slice(src);
        Alu { kind, dst, src: s, class, since: Since::BASE }
    }

    fn since(self, major: u8, minor: u8, sm: u16) -> Alu {
        Alu { since: Since::new(major, minor, sm), ..self }
    }
}

/// The arithmetic instruction a mnemonic stands for (`fma.rn.ftz.f32`, `cvt.rn.bf16x2.f32`, `setp.lt.s32`), `None` if it is
/// none of the subset.
///
/// `setp.*.{and,or,xor}` decodes as without the combination, which is the caller's, as are `selp`, `mov`, and the
/// instructions with a carry. Division by zero gives all ones.
pub fn decode(mnemonic: &str) -> Option<Alu> {
    let mut parts = mnemonic.split('.');
    let head = parts.next()?;
    let mods = Mods(parts.collect());
    match head {
        "setp" | "set" | "slct" | "testp" => cmp::decode(head, mods),
        "cvt" => cvt::decode(mods),
        "and" | "or" | "xor" | "not" | "cnot" | "shl" | "shr" | "shf" | "prmt" | "lop3" | "bfe"
        | "bfi" | "bmsk" | "szext" | "brev" | "popc" | "clz" | "bfind" => logic::decode(head, mods),
        _ => match bits(mods.0.last()?).map(|b| (b, mods.ty())) {
            Some((_, "f32" | "f64")) => float::decode(head, mods),
            Some((_, "f16" | "f16x2" | "bf16" | "bf16x2")) => half::decode(head, mods),
            Some(_) => int::decode(head, mods),
            None => None,
        },
    }
}

/// Modifiers of a mnemonic, taken off as they are recognised; what is left at the end was not.
struct Mods<'a>(Vec<&'a str>);

impl<'a> Mods<'a> {
    /// Takes a modifier if present.
    fn flag(&mut self, name: &str) -> bool {
        self.one_of(&[name]).is_some()
    }

    /// Takes the first modifier that is one of a set.
    fn one_of(&mut self, names: &[&str]) -> Option<&'a str> {
        let at = self.0.iter().position(|m| names.contains(m))?;
        Some(self.0.remove(at))
    }

    /// Takes the first modifier, whatever it is.
    fn first(&mut self) -> Option<&'a str> {
        if self.0.is_empty() { None } else { Some(self.0.remove(0)) }
    }

    /// The last modifier, the type, or "".
    fn ty(&self) -> &'a str {
        self.0.last().copied().unwrap_or("")
    }

    /// Takes the type.
    fn pop(&mut self) -> Option<&'a str> {
        self.0.pop()
    }

    /// `Some` if everything was recognised.
    fn end(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

/// Bits of a type's register.
fn bits(ty: &str) -> Option<u8> {
    Some(match ty {
        "u8" | "s8" | "b8" => 8,
        "u16" | "s16" | "b16" | "f16" | "bf16" => 16,
        "u32" | "s32" | "b32" | "f32" | "f16x2" | "bf16x2" | "u16x2" | "s16x2" => 32,
        "u64" | "s64" | "b64" | "f64" => 64,
        _ => return None,
    })
}

/// A [`Kind::W32`] from an expression over the lane's sources.
macro_rules! w32 {
    (|$a:ident $(, $b:ident $(, $c:ident)?)?| $e:expr) => {{
        #[allow(unused_variables)]
        fn lanes(d: &mut crate::alu::L32, x: &crate::alu::L32, y: &crate::alu::L32, z: &crate::alu::L32) {
            for i in 0..32 {
                let $a = x[i];
                $(let $b = y[i]; $(let $c = z[i];)?)?
                d[i] = $e;
            }
        }
        crate::alu::Kind::W32(lanes)
    }};
}

/// A [`Kind::W64`] from an expression over the lane's sources.
macro_rules! w64 {
    (|$a:ident $(, $b:ident $(, $c:ident)?)?| $e:expr) => {{
        #[allow(unused_variables)]
        fn lanes(d: &mut crate::alu::L64, x: &crate::alu::L64, y: &crate::alu::L64, z: &crate::alu::L64) {
            for i in 0..32 {
                let $a = x[i];
                $(let $b = y[i]; $(let $c = z[i];)?)?
                d[i] = $e;
            }
        }
        crate::alu::Kind::W64(lanes)
    }};
}

/// A kind for an integer type: sources are of type `T`, `W` is twice as wide, the expression's value is cut to `T`.
macro_rules! by_int {
    ($ty:expr, |$($v:ident),+| $e:expr) => {
        match $ty {
            "u16" => Some(by_int!(@w32 u16, u32, u16, |$($v),+| $e)),
            "s16" => Some(by_int!(@w32 i16, i32, u16, |$($v),+| $e)),
            "u32" => Some(by_int!(@w32 u32, u64, u32, |$($v),+| $e)),
            "s32" => Some(by_int!(@w32 i32, i64, u32, |$($v),+| $e)),
            "u64" => Some(by_int!(@w64 u64, u128, |$($v),+| $e)),
            "s64" => Some(by_int!(@w64 i64, i128, |$($v),+| $e)),
            _ => None,
        }
    };
    (@w32 $T:ty, $W:ty, $U:ty, |$($v:ident),+| $e:expr) => {{
        #[allow(dead_code)]
        type T = $T;
        #[allow(dead_code)]
        type W = $W;
        w32!(|$($v),+| { $(let $v = $v as T;)+ ($e) as T as $U as u32 })
    }};
    (@w64 $T:ty, $W:ty, |$($v:ident),+| $e:expr) => {{
        #[allow(dead_code)]
        type T = $T;
        #[allow(dead_code)]
        type W = $W;
        w64!(|$($v),+| { $(let $v = $v as T;)+ ($e) as T as u64 })
    }};
}

use by_int;
use w32;
use w64;
