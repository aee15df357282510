//! An oracle for rounding: exact big integers, one rounding, no code in common with the crate.

/// `(-1)^neg · mag · 2^exp`, the magnitude an arbitrarily long little-endian integer.
#[derive(Clone, Debug)]
pub(crate) struct Big {
    pub(crate) neg: bool,
    pub(crate) mag: Vec<u32>,
    pub(crate) exp: i32,
}

fn trim(mut v: Vec<u32>) -> Vec<u32> {
    while v.last() == Some(&0) {
        v.pop();
    }
    v
}

fn shl(v: &[u32], by: u32) -> Vec<u32> {
    let mut out = vec![0; (by / 32) as usize];
    let s = by % 32;
    let mut carry = 0u64;
    for &x in v {
        let w = ((x as u64) << s) | carry;
        out.push(w as u32);
        carry = w >> 32;
    }
    out.push(carry as u32);
    trim(out)
}

fn less(a: &[u32], b: &[u32]) -> bool {
    if a.len() != b.len() { a.len() < b.len() } else { a.iter().rev().lt(b.iter().rev()) }
}

fn plus(a: &[u32], b: &[u32]) -> Vec<u32> {
    let mut carry = 0u64;
    let mut out: Vec<u32> = (0..a.len().max(b.len()))
        .map(|i| {
            carry += *a.get(i).unwrap_or(&0) as u64 + *b.get(i).unwrap_or(&0) as u64;
            let r = carry as u32;
            carry >>= 32;
            r
        })
        .collect();
    out.push(carry as u32);
    trim(out)
}

fn minus(a: &[u32], b: &[u32]) -> Vec<u32> {
    let mut borrow = 0i64;
    trim(
        a.iter()
            .enumerate()
            .map(|(i, &x)| {
                let d = x as i64 - *b.get(i).unwrap_or(&0) as i64 + borrow;
                borrow = d >> 32;
                d as u32
            })
            .collect(),
    )
}

fn times(a: &[u32], b: &[u32]) -> Vec<u32> {
    let mut out = vec![0u32; a.len() + b.len()];
    for (i, &x) in a.iter().enumerate() {
        let mut carry = 0u64;
        for j in 0..b.len() {
            let w = x as u64 * b[j] as u64 + out[i + j] as u64 + carry;
            out[i + j] = w as u32;
            carry = w >> 32;
        }
        out[i + b.len()] = carry as u32;
    }
    trim(out)
}

impl Big {
    /// The value of a finite binary32 or binary64.
    pub(crate) fn of(v: f64) -> Big {
        let u = v.to_bits();
        let e = (u >> 52 & 0x7ff) as i32;
        let m = u & ((1 << 52) - 1) | if e > 0 { 1 << 52 } else { 0 };
        Big {
            neg: v.is_sign_negative(),
            mag: trim(vec![m as u32, (m >> 32) as u32]),
            exp: e.max(1) - 1075,
        }
    }

    pub(crate) fn mul(&self, o: &Big) -> Big {
        Big { neg: self.neg != o.neg, mag: times(&self.mag, &o.mag), exp: self.exp + o.exp }
    }

    pub(crate) fn add(&self, o: &Big) -> Big {
        let exp = self.exp.min(o.exp);
        let a = shl(&self.mag, (self.exp - exp) as u32);
        let b = shl(&o.mag, (o.exp - exp) as u32);
        if self.neg == o.neg {
            Big { neg: self.neg, mag: plus(&a, &b), exp }
        } else if less(&a, &b) {
            Big { neg: o.neg, mag: minus(&b, &a), exp }
        } else {
            Big { neg: self.neg, mag: minus(&a, &b), exp }
        }
    }

    /// Whether it is below, at or above `o`.
    pub(crate) fn cmp(&self, o: &Big) -> std::cmp::Ordering {
        let d = self.add(&Big { neg: !o.neg, ..o.clone() });
        match (d.mag.is_empty(), d.neg) {
            (true, _) => std::cmp::Ordering::Equal,
            (_, true) => std::cmp::Ordering::Less,
            _ => std::cmp::Ordering::Greater,
        }
    }
}

/// Whether `got` is what the exact value `v` rounds to: decided by comparing `v` with `got`, its neighbours and the
/// midpoints between them. `value` reads a code of the format, `max` is the largest finite code, `sign` the sign bit.
/// Modes: 0 nearest even, 1 towards zero, 2 down, 3 up.
pub(crate) fn rounds_to(
    v: &Big,
    got: u64,
    mode: u8,
    sign: u64,
    max: u64,
    value: &dyn Fn(u64) -> f64,
) -> bool {
    use std::cmp::Ordering::*;
    if v.mag.is_empty() {
        return got & !sign == 0;
    }
    let neg = got & sign != 0;
    let code = got & !sign;
    if neg != v.neg || code > max + 1 {
        return false;
    }
    let mag = Big { neg: false, ..v.clone() };
    // The code beyond the largest finite one stands for infinity: its value continues the last binade.
    let at = |c: u64| {
        if c > max {
            let (a, b) = (Big::of(value(max - 1)), Big::of(value(max)));
            let step = b.add(&Big { neg: true, ..a });
            b.add(&step)
        } else {
            Big::of(value(c))
        }
    };
    let half = |a: Big, b: Big| {
        let mut s = a.add(&b);
        s.exp -= 1;
        s
    };
    let here = at(code);
    let toward_zero = mode == 1 || (mode == 2 && !neg) || (mode == 3 && neg);
    if mode == 0 {
        let below = code == 0
            || match mag.cmp(&half(at(code - 1), here.clone())) {
                Greater => true,
                Equal => code & 1 == 0,
                Less => false,
            };
        let above = code > max
            || match mag.cmp(&half(here, at(code + 1))) {
                Less => true,
                Equal => code & 1 == 0,
                Greater => false,
            };
        below && above
    } else if toward_zero {
        code <= max && mag.cmp(&here) != Less && (code == max || mag.cmp(&at(code + 1)) == Less)
    } else {
        code > 0 && (code > max || mag.cmp(&here) != Greater) && mag.cmp(&at(code - 1)) == Greater
    }
}
