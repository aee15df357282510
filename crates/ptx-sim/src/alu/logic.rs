//! Bitwise operations, shifts, bit fields, permutations.

use super::{Alu, Class, Kind, L32, L64, Mods, bits, w32, w64};

pub(super) fn decode(head: &str, mut m: Mods<'_>) -> Option<Alu> {
    let logic = |kind, dst, src: &[u8]| Some(Alu::new(kind, Class::Logic, dst, src));
    if head == "prmt" {
        // The one mnemonic whose mode follows the type.
        if m.first()? != "b32" {
            return None;
        }
        let mode = m.first().unwrap_or("");
        m.end()?;
        return logic(prmt(mode)?, 32, &[32, 32, 32]);
    }
    let ty = m.pop()?;
    if ty == "pred" {
        m.end()?;
        let kind = Kind::Pred(match head {
            "and" => |a, b| a & b,
            "or" => |a, b| a | b,
            "xor" => |a, b| a ^ b,
            "not" => |a, _| !a,
            _ => return None,
        });
        return logic(kind, 0, &[]);
    }
    let n = bits(ty)?;
    match head {
        "shf" => {
            let left = m.one_of(&["l", "r"])? == "l";
            let wrap = m.one_of(&["wrap", "clamp"])? == "wrap";
            m.end()?;
            return if ty == "b32" { logic(shf(left, wrap), 32, &[32, 32, 32]) } else { None };
        }
        "bmsk" | "szext" => {
            let wrap = m.one_of(&["wrap", "clamp"])? == "wrap";
            m.end()?;
            return logic(mask_extend(head, ty, wrap)?, 32, &[32, 32]).map(|a| a.since(7, 6, 80));
        }
        "bfind" => {
            let amount = m.flag("shiftamt");
            m.end()?;
            return logic(bfind(ty, amount)?, 32, &[n]);
        }
        _ => m.end()?,
    }
    let two = &[n, n][..];
    match (head, ty) {
        ("lop3", "b32") => logic(Kind::Lop3(lop3), 32, &[32, 32, 32]),
        ("bfi", "b32") => logic(Kind::W32x4(bfi32), 32, &[32, 32, 32]),
        ("bfi", "b64") => logic(Kind::W64x4(bfi64), 64, &[64, 64, 32]),
        ("bfe", _) => logic(bfe(ty)?, n, &[n, 32, 32]),
        ("popc", "b32") => logic(w32!(|a| a.count_ones()), 32, &[32]),
        ("popc", "b64") => logic(w64!(|a| a.count_ones() as u64), 32, &[64]),
        ("clz", "b32") => logic(w32!(|a| a.leading_zeros()), 32, &[32]),
        ("clz", "b64") => logic(w64!(|a| a.leading_zeros() as u64), 32, &[64]),
        ("brev", "b32") => logic(w32!(|a| a.reverse_bits()), 32, &[32]),
        ("brev", "b64") => logic(w64!(|a| a.reverse_bits()), 64, &[64]),
        ("shl" | "shr", _) => logic(shift(head, ty)?, n, &[n, 32]),
        ("and", "b16") => logic(w32!(|a, b| a & b & 0xffff), n, two),
        ("and", "b32") => logic(w32!(|a, b| a & b), n, two),
        ("or", "b16") => logic(w32!(|a, b| (a | b) & 0xffff), n, two),
        ("xor", "b16") => logic(w32!(|a, b| (a ^ b) & 0xffff), n, two),
        ("not", "b16") => logic(w32!(|a| !a & 0xffff), n, &[n]),
        ("cnot", "b16") => logic(w32!(|a| (a & 0xffff == 0) as u32), n, &[n]),
        ("or", "b32") => logic(w32!(|a, b| a | b), n, two),
        ("xor", "b32") => logic(w32!(|a, b| a ^ b), n, two),
        ("not", "b32") => logic(w32!(|a| !a), n, &[n]),
        ("cnot", "b32") => logic(w32!(|a| (a == 0) as u32), n, &[n]),
        ("and", "b64") => logic(w64!(|a, b| a & b), n, two),
        ("or", "b64") => logic(w64!(|a, b| a | b), n, two),
        ("xor", "b64") => logic(w64!(|a, b| a ^ b), n, two),
        ("not", "b64") => logic(w64!(|a| !a), n, &[n]),
        ("cnot", "b64") => logic(w64!(|a| (a == 0) as u64), n, &[n]),
        _ => None,
    }
}

/// Any function of three bits: bit `4a + 2b + c` of the table, which is the function of 0xF0, 0xCC, 0xAA.
pub fn lop3(d: &mut L32, a: &L32, b: &L32, c: &L32, lut: u8) {
    // One mask per row of the table, so that the loop is the same for all 256.
    let row: [u32; 8] = std::array::from_fn(|i| 0u32.wrapping_sub((lut >> i & 1) as u32));
    for i in 0..32 {
        let (x, y, z) = (a[i], b[i], c[i]);
        // Select by c, then by b, then by a.
        let by = |t0: u32, t1: u32, s: u32| t0 ^ (s & (t0 ^ t1));
        let low = by(by(row[0], row[1], z), by(row[2], row[3], z), y);
        let high = by(by(row[4], row[5], z), by(row[6], row[7], z), y);
        d[i] = by(low, high, x);
    }
}

/// `bfi.b32`: `len` bits of `a` put into `b` at `pos`; both are taken modulo 256, bits beyond the end are dropped.
pub fn bfi32(d: &mut L32, a: &L32, b: &L32, pos: &L32, len: &L32) {
    for i in 0..32 {
        let (p, l) = (pos[i] & 255, len[i] & 255);
        let field = if l >= 32 { !0 } else { (1u32 << l) - 1 };
        let mask = if p >= 32 { 0 } else { field << p };
        let value = if p >= 32 { 0 } else { a[i] << p };
        d[i] = b[i] & !mask | value & mask;
    }
}

/// `bfi.b64`.
pub fn bfi64(d: &mut L64, a: &L64, b: &L64, pos: &L64, len: &L64) {
    for i in 0..32 {
        let (p, l) = (pos[i] & 255, len[i] & 255);
        let field = if l >= 64 { !0 } else { (1u64 << l) - 1 };
        let mask = if p >= 64 { 0 } else { field << p };
        let value = if p >= 64 { 0 } else { a[i] << p };
        d[i] = b[i] & !mask | value & mask;
    }
}

/// Bit field of `width` bits; beyond the last bit it is filled with zeros or, signed, with the field's last bit.
fn extract(a: u64, pos: u64, len: u64, width: u64, signed: bool) -> u64 {
    let (p, l) = (pos & 255, len & 255);
    if l == 0 {
        return 0;
    }
    let fill = signed && a >> (p + l - 1).min(width - 1) & 1 != 0;
    let held = width.saturating_sub(p).min(l);
    let mask = if held >= 64 { !0 } else { (1u64 << held) - 1 };
    let field = if p >= width { 0 } else { a >> p & mask };
    if fill { field | !mask } else { field }
}

fn bfe(ty: &str) -> Option<Kind> {
    Some(match ty {
        "u32" => w32!(|a, p, l| extract(a as u64, p as u64, l as u64, 32, false) as u32),
        "s32" => w32!(|a, p, l| extract(a as u64, p as u64, l as u64, 32, true) as u32),
        "u64" => w64!(|a, p, l| extract(a, p, l, 64, false)),
        "s64" => w64!(|a, p, l| extract(a, p, l, 64, true)),
        _ => return None,
    })
}

/// Shifts clamp their amount: from the width on, zero or the sign.
fn shift(head: &str, ty: &str) -> Option<Kind> {
    Some(match (head, ty) {
        ("shl", "b16") => w32!(|a, n| if n < 16 { a << n & 0xffff } else { 0 }),
        ("shl", "b32") => w32!(|a, n| if n < 32 { a << (n & 31) } else { 0 }),
        ("shl", "b64") => w64!(|a, n| if n < 64 { a << n } else { 0 }),
        ("shr", "b16" | "u16") => w32!(|a, n| if n < 16 { (a & 0xffff) >> n } else { 0 }),
        ("shr", "b32" | "u32") => w32!(|a, n| if n < 32 { a >> (n & 31) } else { 0 }),
        ("shr", "b64" | "u64") => w64!(|a, n| if n < 64 { a >> n } else { 0 }),
        ("shr", "s16") => w32!(|a, n| ((a as i16) >> n.min(15)) as u16 as u32),
        ("shr", "s32") => w32!(|a, n| ((a as i32) >> n.min(31)) as u32),
        ("shr", "s64") => w64!(|a, n| ((a as i64) >> n.min(63)) as u64),
        _ => return None,
    })
}

/// Funnel shift of `b:a`.
fn shf(left: bool, wrap: bool) -> Kind {
    fn both(a: u32, b: u32) -> u64 {
        (b as u64) << 32 | a as u64
    }
    match (left, wrap) {
        (true, true) => w32!(|a, b, c| (both(a, b) << (c & 31) >> 32) as u32),
        (true, false) => w32!(|a, b, c| (both(a, b) << c.min(32) >> 32) as u32),
        (false, true) => w32!(|a, b, c| (both(a, b) >> (c & 31)) as u32),
        (false, false) => w32!(|a, b, c| (both(a, b) >> c.min(32)) as u32),
    }
}

/// Byte `i` of `b:a`, the index taken modulo 8.
fn byte(a: u32, b: u32, i: u32) -> u32 {
    (((b as u64) << 32 | a as u64) >> (8 * (i & 7))) as u32 & 0xff
}

fn bytes(a: u32, b: u32, index: [u32; 4]) -> u32 {
    (0..4).fold(0, |r, i| r | byte(a, b, index[i]) << (8 * i))
}

fn prmt(mode: &str) -> Option<Kind> {
    Some(match mode {
        // Bit 3 of a selector replicates its byte's sign.
        "" => w32!(|a, b, c| {
            (0..4).fold(0, |r, i| {
                let s = c >> (4 * i);
                let v = byte(a, b, s);
                let v = if s & 8 != 0 { 0xff * (v >> 7) } else { v };
                r | v << (8 * i)
            })
        }),
        "f4e" => w32!(|a, b, c| {
            let k = c & 3;
            bytes(a, b, [k, k + 1, k + 2, k + 3])
        }),
        "b4e" => w32!(|a, b, c| {
            let k = c & 3;
            bytes(a, b, [k, k + 7, k + 6, k + 5])
        }),
        "rc8" => w32!(|a, b, c| bytes(a, b, [c & 3; 4])),
        "ecl" => w32!(|a, b, c| {
            let k = c & 3;
            bytes(a, b, [k, k.max(1), k.max(2), 3])
        }),
        "ecr" => w32!(|a, b, c| {
            let k = c & 3;
            bytes(a, b, [0, k.min(1), k.min(2), k])
        }),
        "rc16" => w32!(|a, b, c| {
            let k = 2 * (c & 1);
            bytes(a, b, [k, k + 1, k, k + 1])
        }),
        _ => return None,
    })
}

fn bfind(ty: &str, amount: bool) -> Option<Kind> {
    // Place of the leading bit that differs from the sign, all ones if there is none; or the shift that moves it to the top.
    fn place(v: u64, width: u32, amount: bool) -> u32 {
        match v.checked_ilog2() {
            None => u32::MAX,
            Some(p) if amount => width - 1 - p,
            Some(p) => p,
        }
    }
    fn s32(a: u32) -> u64 {
        (if (a as i32) < 0 { !a } else { a }) as u64
    }
    fn s64(a: u64) -> u64 {
        if (a as i64) < 0 { !a } else { a }
    }
    Some(match (ty, amount) {
        ("u32", false) => w32!(|a| place(a as u64, 32, false)),
        ("u32", true) => w32!(|a| place(a as u64, 32, true)),
        ("s32", false) => w32!(|a| place(s32(a), 32, false)),
        ("s32", true) => w32!(|a| place(s32(a), 32, true)),
        ("u64", false) => w64!(|a| place(a, 64, false) as u64),
        ("u64", true) => w64!(|a| place(a, 64, true) as u64),
        ("s64", false) => w64!(|a| place(s64(a), 64, false) as u64),
        ("s64", true) => w64!(|a| place(s64(a), 64, true) as u64),
        _ => return None,
    })
}

/// `bmsk`: `b` ones from place `a` on. `szext`: the low `b` bits of `a`, extended.
fn mask_extend(head: &str, ty: &str, wrap: bool) -> Option<Kind> {
    fn bmsk(pos: u32, len: u32) -> u32 {
        (((1u64 << len) - 1) << pos) as u32
    }
    fn szext(a: u32, n: u32, signed: bool) -> u32 {
        match n {
            0 => 0,
            32.. => a,
            _ if signed => ((a << (32 - n)) as i32 >> (32 - n)) as u32,
            _ => a & ((1 << n) - 1),
        }
    }
    Some(match (head, ty, wrap) {
        ("bmsk", "b32", true) => w32!(|a, b| bmsk(a & 31, b & 31)),
        ("bmsk", "b32", false) => w32!(|a, b| bmsk(a.min(32), b.min(32))),
        ("szext", "u32", true) => w32!(|a, b| szext(a, b & 31, false)),
        ("szext", "u32", false) => w32!(|a, b| szext(a, b, false)),
        ("szext", "s32", true) => w32!(|a, b| szext(a, b & 31, true)),
        ("szext", "s32", false) => w32!(|a, b| szext(a, b, true)),
        _ => return None,
    })
}
