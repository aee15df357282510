//! Evaluates an instruction on many rows of inputs, 32 at a time.

use ptx_sim::alu::{Kind, L32, L64, decode};
use ptx_sim::num::Approx;

/// Results of `op` on each row of sources (a fourth value is `lop3`'s table or `bfi`'s length).
pub(crate) fn rows(op: &str, rows: &[Vec<u64>]) -> Vec<u64> {
    rows_approx(op, rows, Approx::Exact, 0)
}

/// As [`rows`], with the error mode of an approximate instruction.
pub(crate) fn rows_approx(op: &str, rows: &[Vec<u64>], mode: Approx, seed: u64) -> Vec<u64> {
    let alu = decode(op).unwrap_or_else(|| panic!("{op} is not decoded"));
    let mut out = Vec::with_capacity(rows.len());
    for chunk in rows.chunks(32) {
        let wide: [L64; 4] = std::array::from_fn(|s| {
            std::array::from_fn(|l| chunk.get(l).and_then(|r| r.get(s)).copied().unwrap_or(0))
        });
        let narrow: [L32; 4] = std::array::from_fn(|s| wide[s].map(|v| v as u32));
        let [a, b, c, e] = &narrow;
        let (mut d, mut dw) = ([0u32; 32], [0u64; 32]);
        let bits = |m: u32| std::array::from_fn(|l| (m >> l & 1) as u64);
        match alu.kind {
            Kind::W32(f) => f(&mut d, a, b, c),
            Kind::W64(f) => f(&mut dw, &wide[0], &wide[1], &wide[2]),
            Kind::W32x4(f) => f(&mut d, a, b, c, e),
            Kind::W64x4(f) => f(&mut dw, &wide[0], &wide[1], &wide[2], &wide[3]),
            Kind::Lop3(f) => {
                for l in 0..chunk.len() {
                    let mut one = [0; 32];
                    f(&mut one, a, b, c, e[l] as u8);
                    d[l] = one[l];
                }
            }
            Kind::Approx(f) => f(&mut d, a, b, mode, seed),
            Kind::Cmp32(f) => dw = bits(f(a, b)),
            Kind::Cmp64(f) => dw = bits(f(&wide[0], &wide[1])),
            Kind::Cmp32x2(f) => {
                let (lo, hi) = f(a, b);
                let (lo, hi): (L64, L64) = (bits(lo), bits(hi));
                dw = std::array::from_fn(|l| lo[l] | hi[l] << 1);
            }
            Kind::Pred(_) => panic!("{op} works on masks"),
        }
        for l in 0..chunk.len() {
            let v = dw[l] | d[l] as u64;
            out.push(if alu.dst == 64 || alu.dst == 0 { v } else { v & ((1 << alu.dst) - 1) });
        }
    }
    out
}

/// Result of one row.
pub(crate) fn one(op: &str, sources: &[u64]) -> u64 {
    rows(op, &[sources.to_vec()])[0]
}

/// A sequence of pseudo-random words (SplitMix64).
pub(crate) struct Words(pub(crate) u64);

impl Words {
    pub(crate) fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A floating-point pattern of the given widths: any bits, ends of the range, or an exponent near `near`'s so that
    /// sums cancel and results straddle the format's limits.
    pub(crate) fn float(&mut self, exp: u32, man: u32, near: Option<u64>) -> u64 {
        let w = self.word();
        let width = 1 + exp + man;
        let all = w & (u64::MAX >> (64 - width));
        let e = |v: u64| all & !(((1 << exp) - 1) << man) | (v & ((1 << exp) - 1)) << man;
        match self.word() % 8 {
            0 => e(self.word() % 4),
            1 => e((1 << exp) - 1 - self.word() % 4),
            2 => e((1 << (exp - 1)) + self.word() % 16 - 8) & !((1 << (man / 2)) - 1),
            3 => e(0) & !((1 << man) - 1) | (self.word() % 3),
            4 | 5 if near.is_some() => {
                e((near.unwrap() >> man).wrapping_add(self.word() % 7).wrapping_sub(3))
            }
            _ => all,
        }
    }
}
