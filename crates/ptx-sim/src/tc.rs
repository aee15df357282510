//! Matrix products of tensor cores on register arrays: `mma.sync` fragments, and plain tiles for `wgmma`.
//!
//! PTX does not state in which order a tensor core adds or how it rounds; [`Tc`] is therefore an option, and a kernel has
//! to pass under each of its values.
//!
//! Source of the fragment layouts: PTX ISA 9.1, "Matrix multiply-accumulate operation using mma instruction".

mod product;
mod wide;

pub use product::{product, product_f16, product_int};

use crate::alu::L32;
use crate::num::fast;

/// How products are accumulated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tc {
    /// Exact products, summed in binary64 over the instruction's K, then the accumulator, one rounding.
    #[default]
    Exact,
    /// Blocks of `block` products and the accumulator are aligned to the largest exponent among them, cut to
    /// `24 + extra` bits and added; each block's sum is cut to binary32. What measurements of hardware suggest
    /// (unverified): block 8 and extra 1 on sm_80, 16 and 2 on sm_90, 32 and −10 for fp8.
    Truncate {
        /// Products added at a time.
        block: u32,
        /// Bits kept beyond binary32's 24.
        extra: i32,
    },
    /// Exact products, added one by one in descending k, each sum rounded to binary32.
    Reverse,
}

/// Type of a matrix element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Elem {
    /// binary16.
    F16,
    /// bfloat16.
    Bf16,
    /// TF32: the upper 19 bits of a 32-bit register.
    Tf32,
    /// FP8, four exponent bits.
    E4m3,
    /// FP8, five exponent bits.
    E5m2,
    /// Signed byte.
    S8,
    /// Unsigned byte.
    U8,
}

impl Elem {
    /// The type a mnemonic names.
    pub fn parse(s: &str) -> Option<Elem> {
        Some(match s {
            "f16" => Elem::F16,
            "bf16" => Elem::Bf16,
            "tf32" => Elem::Tf32,
            "e4m3" => Elem::E4m3,
            "e5m2" => Elem::E5m2,
            "s8" => Elem::S8,
            "u8" => Elem::U8,
            _ => return None,
        })
    }

    /// Bits of an element in registers and memory.
    pub const fn bits(self) -> u32 {
        match self {
            Elem::Tf32 => 32,
            Elem::F16 | Elem::Bf16 => 16,
            _ => 8,
        }
    }

    /// Bytes of an element.
    pub const fn bytes(self) -> usize {
        self.bits() as usize / 8
    }

    /// Whether elements are integers.
    pub const fn is_int(self) -> bool {
        matches!(self, Elem::S8 | Elem::U8)
    }

    /// Exact value of an element, given as the low bits of a word. Bytes of integers convert too. NaN stays NaN; TF32's low
    /// 13 bits are cut.
    #[inline(always)]
    pub fn value(self, bits: u32) -> f32 {
        match self {
            Elem::F16 => fast::from_f16(bits & 0xffff),
            Elem::Bf16 => fast::from_bf16(bits),
            Elem::Tf32 => tf32(bits),
            Elem::E4m3 => fast::from_e4m3(bits),
            // A binary16 without its lower half.
            Elem::E5m2 => fast::from_f16((bits << 8) & 0xff00),
            Elem::S8 => bits as u8 as i8 as f32,
            Elem::U8 => bits as u8 as f32,
        }
    }
}

/// TF32 operand of a register. A NaN whose payload lies in the cut bits must not become infinity.
#[inline]
fn tf32(bits: u32) -> f32 {
    let nan = bits & 0x7fff_ffff > 0x7f80_0000;
    f32::from_bits(if nan { 0x7fff_ffff } else { bits & !0x1fff })
}

/// Type of the accumulator or the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acc {
    /// binary32, one element per register.
    F32,
    /// binary16, two per register.
    F16,
    /// 32-bit integer.
    S32,
}

/// An `mma.sync` instruction of shape m16n8k*.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mma {
    /// Rows of A and D.
    pub m: usize,
    /// Columns of B and D.
    pub n: usize,
    /// Columns of A, rows of B.
    pub k: usize,
    /// Element type of A.
    pub a: Elem,
    /// Element type of B.
    pub b: Elem,
    /// Type of C.
    pub c: Acc,
    /// Type of D.
    pub d: Acc,
    /// Integer sums clamp instead of wrapping.
    pub satfinite: bool,
}

/// The instruction a mnemonic stands for (`mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32`), `None` if it is none
/// of the subset.
pub fn decode_mma(mnemonic: &str) -> Option<Mma> {
    let rest = mnemonic.strip_prefix("mma.sync.aligned.m16n8k")?;
    let (k, rest) = rest.split_once('.')?;
    let k: usize = k.parse().ok()?;
    let rest = rest.strip_prefix("row.col.")?;
    let (satfinite, rest) = rest.strip_prefix("satfinite.").map_or((false, rest), |r| (true, r));
    let mut types = rest.split('.');
    let acc = |s: Option<&str>| {
        Some(match s? {
            "f32" => Acc::F32,
            "f16" => Acc::F16,
            "s32" => Acc::S32,
            _ => return None,
        })
    };
    let d = acc(types.next())?;
    let (a, b) = (Elem::parse(types.next()?)?, Elem::parse(types.next()?)?);
    let c = acc(types.next())?;
    let float16 =
        matches!((c, d), (Acc::F32, Acc::F32) | (Acc::F16, Acc::F16) | (Acc::F32, Acc::F16));
    let legal = match (a, b) {
        (Elem::F16, Elem::F16) => matches!(k, 8 | 16) && float16 && (k == 16 || c == d),
        (Elem::Bf16, Elem::Bf16) => matches!(k, 8 | 16) && c == Acc::F32 && d == Acc::F32,
        (Elem::Tf32, Elem::Tf32) => matches!(k, 4 | 8) && c == Acc::F32 && d == Acc::F32,
        (Elem::E4m3 | Elem::E5m2, Elem::E4m3 | Elem::E5m2) => k == 32 && float16 && c == d,
        (Elem::S8 | Elem::U8, Elem::S8 | Elem::U8) => {
            matches!(k, 16 | 32) && c == Acc::S32 && d == Acc::S32
        }
        _ => false,
    };
    if !legal || types.next().is_some() || satfinite && !a.is_int() {
        return None;
    }
    Some(Mma { m: 16, n: 8, k, a, b, c, d, satfinite })
}

/// Most elements of A in any shape.
const MOST: usize = 16 * 32;

impl Mma {
    /// Registers of A, B, C and D.
    pub fn regs(&self) -> (usize, usize, usize, usize) {
        let acc = |t| if t == Acc::F16 { 2 } else { 4 };
        let a = self.m * self.k * self.a.bits() as usize / 1024;
        (a, a / 2, acc(self.c), acc(self.d))
    }

    /// Multiplications and additions: 2·m·n·k.
    pub fn flops(&self) -> u64 {
        2 * (self.m * self.n * self.k) as u64
    }

    /// Row of A and first k of the elements in register `j` of lane `l`. B's register `j` starts at the same k as A's
    /// of the same place along k, with the lane's group as its column.
    fn a_at(&self, j: usize, l: usize) -> (usize, usize) {
        let per = 32 / self.a.bits() as usize;
        (l / 4 + 8 * (j & 1), per * (l & 3) + 4 * per * (j >> 1))
    }

    fn b_at(&self, j: usize, l: usize) -> (usize, usize) {
        let per = 32 / self.b.bits() as usize;
        (per * (l & 3) + 4 * per * j, l / 4)
    }

    /// Row and column of the element (binary16: of the first of two) in register `j` of lane `l` of C or D.
    fn c_at(acc: Acc, j: usize, l: usize) -> (usize, usize) {
        let (half, odd) = if acc == Acc::F16 { (j, 0) } else { (j >> 1, j & 1) };
        (l / 4 + 8 * half, 2 * (l & 3) + odd)
    }

    /// A by rows and B by columns, as values.
    fn gather(&self, a: &[L32], b: &[L32], av: &mut [f32; MOST], bv: &mut [f32; MOST / 2]) {
        let k = self.k;
        let start = |(row, at): (usize, usize)| row * k + at;
        for (j, reg) in a.iter().enumerate() {
            spread(self.a, reg, av, |l| start(self.a_at(j, l)));
        }
        for (j, reg) in b.iter().enumerate() {
            spread(self.b, reg, bv, |l| {
                let (at, col) = self.b_at(j, l);
                start((col, at))
            });
        }
    }

    /// `D = A·B + C` on fragments: one array per register, one element per lane. Slices are as long as [`Mma::regs`]
    /// says; it panics on shorter ones.
    pub fn run(&self, d: &mut [L32], a: &[L32], b: &[L32], c: &[L32], tc: Tc) {
        let (an, bn, cn, dn) = self.regs();
        if tc == Tc::Exact && self.a == self.b && (self.c, self.d) == (Acc::F32, Acc::F32) {
            match self.a {
                Elem::Bf16 => {
                    return wide::fragments::<true>(&mut d[..dn], &a[..an], &b[..bn], &c[..cn]);
                }
                Elem::F16 => {
                    return wide::fragments::<false>(&mut d[..dn], &a[..an], &b[..bn], &c[..cn]);
                }
                _ => {}
            }
        }
        let (mut av, mut bv) = ([0.0; MOST], [0.0; MOST / 2]);
        self.gather(&a[..an], &b[..bn], &mut av, &mut bv);
        let (av, bv) = (&av[..self.m * self.k], &bv[..self.n * self.k]);
        if self.a.is_int() {
            let mut acc = [0i32; 128];
            for (j, reg) in c[..cn].iter().enumerate() {
                for (l, &word) in reg.iter().enumerate() {
                    let (row, col) = Self::c_at(self.c, j, l);
                    acc[row * 8 + col] = word as i32;
                }
            }
            product_int(self.m, self.n, self.k, av, bv, &mut acc, self.satfinite);
            for (j, reg) in d[..dn].iter_mut().enumerate() {
                for (l, word) in reg.iter_mut().enumerate() {
                    let (row, col) = Self::c_at(self.d, j, l);
                    *word = acc[row * 8 + col] as u32;
                }
            }
            return;
        }
        let mut acc = [0f32; 128];
        for (j, reg) in c[..cn].iter().enumerate() {
            for (l, &word) in reg.iter().enumerate() {
                let (row, col) = Self::c_at(self.c, j, l);
                if self.c == Acc::F16 {
                    acc[row * 8 + col] = fast::from_f16(word & 0xffff);
                    acc[row * 8 + col + 1] = fast::from_f16(word >> 16);
                } else {
                    acc[row * 8 + col] = f32::from_bits(word);
                }
            }
        }
        if self.d == Acc::F16 {
            product_f16(self.m, self.n, self.k, av, bv, &mut acc, tc);
        } else {
            product(self.m, self.n, self.k, av, bv, &mut acc, tc);
        }
        for (j, reg) in d[..dn].iter_mut().enumerate() {
            for (l, word) in reg.iter_mut().enumerate() {
                let (row, col) = Self::c_at(self.d, j, l);
                let v = acc[row * 8 + col].to_bits();
                *word = if self.d == Acc::F16 {
                    // Already values of binary16: nothing is rounded here.
                    fast::to_f16(v) | fast::to_f16(acc[row * 8 + col + 1].to_bits()) << 16
                } else {
                    v
                };
            }
        }
    }

    /// Propagates undefined values. Each mask says in which lanes a register is undefined: an undefined element of A
    /// taints its row of D, one of B its column, one of C itself.
    pub fn taint(&self, d: &mut [u32], a: &[u32], b: &[u32], c: &[u32]) {
        let (an, bn, cn, dn) = self.regs();
        let mut bad = [0u8; 16]; // columns of a row
        for (j, &mask) in a[..an].iter().enumerate() {
            for l in (0..32).filter(|l| mask >> l & 1 != 0) {
                bad[self.a_at(j, l).0] = 0xff;
            }
        }
        for &mask in &b[..bn] {
            for l in (0..32).filter(|l| mask >> l & 1 != 0) {
                bad.iter_mut().for_each(|row| *row |= 1 << (l / 4));
            }
        }
        let pair = |acc| if acc == Acc::F16 { 3 } else { 1 };
        for (j, &mask) in c[..cn].iter().enumerate() {
            for l in (0..32).filter(|l| mask >> l & 1 != 0) {
                let (row, col) = Self::c_at(self.c, j, l);
                bad[row] |= pair(self.c) << col;
            }
        }
        for (j, mask) in d[..dn].iter_mut().enumerate() {
            *mask = (0..32).fold(0, |m, l| {
                let (row, col) = Self::c_at(self.d, j, l);
                m | ((bad[row] >> col & pair(self.d) != 0) as u32) << l
            });
        }
    }
}

/// Values of a register's elements, each lane's from the place `start` gives it.
#[inline]
fn spread(elem: Elem, reg: &L32, out: &mut [f32], start: impl Fn(usize) -> usize) {
    match elem {
        Elem::F16 => spread_as::<0>(reg, out, start),
        Elem::Bf16 => spread_as::<1>(reg, out, start),
        Elem::Tf32 => spread_as::<2>(reg, out, start),
        Elem::E4m3 => spread_as::<3>(reg, out, start),
        Elem::E5m2 => spread_as::<4>(reg, out, start),
        Elem::S8 => spread_as::<5>(reg, out, start),
        Elem::U8 => spread_as::<6>(reg, out, start),
    }
}

/// [`spread`] with the type compiled in, so that the conversion runs over lanes in vector code.
#[inline]
fn spread_as<const E: u8>(reg: &L32, out: &mut [f32], start: impl Fn(usize) -> usize) {
    let elem = const {
        match E {
            0 => Elem::F16,
            1 => Elem::Bf16,
            2 => Elem::Tf32,
            3 => Elem::E4m3,
            4 => Elem::E5m2,
            5 => Elem::S8,
            _ => Elem::U8,
        }
    };
    let per = 32 / elem.bits() as usize;
    let mut values = [[0f32; 32]; 4];
    for (e, lane) in values[..per].iter_mut().enumerate() {
        for l in 0..32 {
            lane[l] = elem.value(reg[l] >> (elem.bits() * e as u32));
        }
    }
    for l in 0..32 {
        let place = &mut out[start(l)..][..per];
        for (e, v) in place.iter_mut().enumerate() {
            *v = values[e][l];
        }
    }
}
