//! Exact addition, product, fused product-sum, quotient and root, rounded once.

use super::{F64, Fmt, Round, Rule, Val, pack, unpack};

/// NaN of an operation: binary64 passes the first NaN operand on, quieted; every other format has one NaN.
fn nan(f: &Fmt, operands: &[u64]) -> u64 {
    if *f == F64 {
        for &x in operands {
            if x & !(1 << 63) > F64.max + 1 {
                return x | 1 << 51;
            }
        }
    }
    f.nan
}

/// Leading bit at place 126, which leaves room for a carry.
fn normal(man: u128, exp: i32) -> (u128, i32) {
    let up = man.leading_zeros() as i32 - 1;
    (man << up, exp - up)
}

/// Shift to the right, any lost bit kept as the lowest.
fn jam(man: u128, by: i32) -> u128 {
    if by >= 128 {
        return 1;
    }
    (man >> by) | (man & ((1 << by) - 1) != 0) as u128
}

/// Sign and sum of two signed magnitudes of a common scale, and that scale.
fn sum(f: &Fmt, x: (bool, u128, i32), y: (bool, u128, i32), round: Round, ftz: bool) -> u64 {
    let rule = Rule::new(round, ftz);
    match (x.1 == 0, y.1 == 0) {
        (true, true) if x.0 == y.0 => return f.sign(x.0),
        (true, true) => return f.sign(round == Round::Down),
        (true, false) => return pack(f, y.0, y.1, y.2, rule),
        (false, true) => return pack(f, x.0, x.1, x.2, rule),
        _ => {}
    }
    let (xm, xe) = normal(x.1, x.2);
    let (ym, ye) = normal(y.1, y.2);
    // Ordered by magnitude, both leading bits being at place 126.
    let ((an, am, ae), (bn, bm, be)) = if (xe, xm) >= (ye, ym) {
        ((x.0, xm, xe), (y.0, ym, ye))
    } else {
        ((y.0, ym, ye), (x.0, xm, xe))
    };
    // One place lower, so that a carry stays below 2^127. Sources have at most 106 bits: nothing is lost, and where the
    // shift of the smaller loses bits the difference cancels one place at most.
    let a = am >> 1;
    let b = jam(bm, ae - be + 1);
    let m = if an == bn { a + b } else { a - b };
    if m == 0 {
        return f.sign(round == Round::Down);
    }
    pack(f, an, m, ae + 1, rule)
}

/// `a + b`.
pub fn add(f: &Fmt, a: u64, b: u64, round: Round, ftz: bool) -> u64 {
    match (unpack(f, a, ftz), unpack(f, b, ftz)) {
        (Val::Nan, _) | (_, Val::Nan) => nan(f, &[a, b]),
        (Val::Inf(x), Val::Inf(y)) => {
            if x == y {
                f.infinity(x)
            } else {
                f.nan
            }
        }
        (Val::Inf(x), _) | (_, Val::Inf(x)) => f.infinity(x),
        (Val::Fin { neg: an, man: am, exp: ae }, Val::Fin { neg: bn, man: bm, exp: be }) => {
            sum(f, (an, am as u128, ae), (bn, bm as u128, be), round, ftz)
        }
    }
}

/// `a · b`.
pub fn mul(f: &Fmt, a: u64, b: u64, round: Round, ftz: bool) -> u64 {
    let (x, y) = (unpack(f, a, ftz), unpack(f, b, ftz));
    match (x, y) {
        (Val::Nan, _) | (_, Val::Nan) => nan(f, &[a, b]),
        (Val::Inf(n), Val::Inf(m)) => f.infinity(n != m),
        (Val::Inf(n), Val::Fin { neg, man, .. }) | (Val::Fin { neg, man, .. }, Val::Inf(n)) => {
            if man == 0 {
                f.nan
            } else {
                f.infinity(n != neg)
            }
        }
        (Val::Fin { neg: an, man: am, exp: ae }, Val::Fin { neg: bn, man: bm, exp: be }) => {
            pack(f, an != bn, am as u128 * bm as u128, ae + be, Rule::new(round, ftz))
        }
    }
}

/// `a · b + c`, rounded once.
pub fn fma(f: &Fmt, a: u64, b: u64, c: u64, round: Round, ftz: bool) -> u64 {
    let (x, y, z) = (unpack(f, a, ftz), unpack(f, b, ftz), unpack(f, c, ftz));
    if x == Val::Nan || y == Val::Nan || z == Val::Nan {
        return nan(f, &[a, b, c]);
    }
    let product = match (x, y) {
        (Val::Fin { neg: an, man: am, exp: ae }, Val::Fin { neg: bn, man: bm, exp: be }) => {
            (an != bn, am as u128 * bm as u128, ae + be)
        }
        (Val::Inf(n), Val::Inf(m)) => return inf_plus(f, n != m, z),
        (Val::Inf(n), Val::Fin { neg, man, .. }) | (Val::Fin { neg, man, .. }, Val::Inf(n)) => {
            return if man == 0 { f.nan } else { inf_plus(f, n != neg, z) };
        }
        _ => return f.nan,
    };
    match z {
        Val::Fin { neg, man, exp } => sum(f, product, (neg, man as u128, exp), round, ftz),
        Val::Inf(n) => f.infinity(n),
        Val::Nan => f.nan,
    }
}

fn inf_plus(f: &Fmt, neg: bool, z: Val) -> u64 {
    if matches!(z, Val::Inf(n) if n != neg) { f.nan } else { f.infinity(neg) }
}

/// `a / b`; a finite number over zero is infinity.
pub fn div(f: &Fmt, a: u64, b: u64, round: Round, ftz: bool) -> u64 {
    match (unpack(f, a, ftz), unpack(f, b, ftz)) {
        (Val::Nan, _) | (_, Val::Nan) => nan(f, &[a, b]),
        (Val::Inf(_), Val::Inf(_)) => f.nan,
        (Val::Inf(n), Val::Fin { neg, .. }) => f.infinity(n != neg),
        (Val::Fin { neg, .. }, Val::Inf(n)) => f.sign(n != neg),
        (Val::Fin { neg: an, man: am, exp: ae }, Val::Fin { neg: bn, man: bm, exp: be }) => {
            match (am, bm) {
                (0, 0) => f.nan,
                (0, _) => f.sign(an != bn),
                (_, 0) => f.infinity(an != bn),
                _ => {
                    let (n, e) = normal(am as u128, ae);
                    // At least 126 - 53 bits of quotient, and the rest as the sticky bit.
                    let q = n / bm as u128;
                    let sticky = (n % bm as u128 != 0) as u128;
                    pack(f, an != bn, q << 1 | sticky, e - be - 1, Rule::new(round, ftz))
                }
            }
        }
    }
}

/// Square root; −0 is its own, other negative numbers have none.
pub fn sqrt(f: &Fmt, a: u64, round: Round, ftz: bool) -> u64 {
    match unpack(f, a, ftz) {
        Val::Nan => nan(f, &[a]),
        Val::Inf(true) => f.nan,
        Val::Inf(false) => f.infinity(false),
        Val::Fin { neg, man: 0, .. } => f.sign(neg),
        Val::Fin { neg: true, .. } => f.nan,
        Val::Fin { man, exp, .. } => {
            let (mut n, mut e) = normal(man as u128, exp);
            if e & 1 != 0 {
                n >>= 1; // exact: a source has at most 53 bits
                e += 1;
            }
            let r = n.isqrt();
            let sticky = (r * r != n) as u128;
            pack(f, false, r << 1 | sticky, e / 2 - 1, Rule::new(round, ftz))
        }
    }
}
