//! Loads and stores of every width, spaces, parameters, carries and atomics.

use crate::common::{Shape, Words, kernel, kernel_for};
use ptx_sim::{Device, Launch, Module, Options, Profile};

fn bytes_of(a: &[u8], at: usize, n: usize) -> u64 {
    (0..n).fold(0, |v, i| v | u64::from(a[at + i]) << (8 * i))
}

/// Every width through every writable space, scalars and vectors, into registers as wide or wider.
#[test]
fn widths_and_spaces() {
    let spaces = [
        ("global", "%d9"),
        ("shared", "%r9"),
        ("local", "%d8"),
        ("generic to shared", "%d10"),
        ("generic to global", "%d9"),
        ("generic to local", "%d11"),
    ];
    for (name, address) in spaces {
        let suffix = if name.starts_with("generic") { String::new() } else { format!(".{name}") };
        for (ty, bytes, reg, signed) in [
            ("u8", 1, "%r2", false),
            ("s8", 1, "%r2", true),
            ("b8", 1, "%h1", false),
            ("s8", 1, "%d2", true),
            ("u16", 2, "%h1", false),
            ("s16", 2, "%r2", true),
            ("s16", 2, "%d2", true),
            ("b32", 4, "%r2", false),
            ("f32", 4, "%f1", false),
            ("s32", 4, "%d2", true),
            ("u32", 4, "%d2", false),
            ("u64", 8, "%d2", false),
        ] {
            for lanes in [1, 2, 4].into_iter().filter(|n| n * bytes <= 16) {
                let size = bytes * lanes;
                let register = |i: usize| format!("{}{i}", &reg[..2]);
                let list = (0..lanes).map(|i| register(4 + i)).collect::<Vec<_>>().join(", ");
                let vector = if lanes == 1 { String::new() } else { format!(".v{lanes}") };
                let list = if lanes == 1 { list } else { format!("{{{list}}}") };
                let registers = match &reg[..2] {
                    "%h" => ("16", 2),
                    "%d" => ("64", 8),
                    _ => ("32", 4),
                };
                // To the space, from it, and to global memory with all bits of the registers.
                let mut body = format!(
                    ".local .align 16 .b8 l[64]; .reg .b64 %x<4>; .reg .b32 %y<4>;\n\
                     mul.lo.u32 %r9, %r1, {size}; cvt.u64.u32 %x0, %r9; add.u64 %x1, %d1, %x0; add.u32 %y0, %r4, %r9;\n\
                     mul.wide.u32 %x2, %r1, {}; add.u64 %x3, %d2, %x2; add.u64 %d9, %d2, 8192; add.u64 %d9, %d9, %x0;\n\
                     mov.u32 %r9, %y0; mov.u64 %d8, l; mov.u32 %y1, s; cvt.u64.u32 %d10, %y1; cvta.shared.u64 %d10, %d10; add.u64 %d10, %d10, %x0; cvta.local.u64 %d11, %d8;\n",
                    registers.1 * lanes
                );
                body += &format!(
                    "ld.global{vector}.{ty} {list}, [%x1];\nst{suffix}{vector}.{ty} [{address}], {list};\n"
                );
                body += &format!("ld{suffix}{vector}.{ty} {list}, [{address}];\n");
                for i in 0..lanes {
                    body += &format!(
                        "st.global.b{} [%x3+{}], {};\n",
                        registers.0,
                        i * registers.1,
                        register(4 + i)
                    );
                }
                let shape = Shape::new(32);
                let done = shape.run(&kernel(&body), Options::default());
                assert!(done.report.diags.is_empty(), "{}\n{body}", done.report);
                for i in 0..32 * lanes {
                    let raw = bytes_of(&shape.a, i * bytes, bytes);
                    let shift = 64 - 8 * bytes as u32;
                    let wide = if signed { ((raw << shift) as i64 >> shift) as u64 } else { raw };
                    let mask = u64::MAX >> (64 - 8 * registers.1);
                    let found = bytes_of(&done.b, i * registers.1, registers.1);
                    assert_eq!(found, wide & mask, "{name} {ty} x{lanes} element {i}\n{body}");
                }
            }
        }
    }
}

#[test]
fn generic_addresses_know_their_space() {
    let body = ".local .align 4 .b8 l[16]; .reg .b64 %x<8>;\n\
        mov.u32 %r9, s; cvt.u64.u32 %x0, %r9; cvta.shared.u64 %x1, %x0; cvta.to.shared.u64 %x2, %x1; setp.eq.u64 %p1, %x2, %x0;\n\
        mov.u64 %x3, l; cvta.local.u64 %x4, %x3; cvta.global.u64 %x5, %d1; setp.eq.and.u64 %p1, %x5, %d1, %p1;\n\
        isspacep.shared %p2, %x1; isspacep.global %p3, %x1; isspacep.local %p4, %x4; isspacep.global %p5, %x5; isspacep.shared %p6, %x4;\n\
        selp.u32 %r10, 1, 0, %p1; selp.u32 %r11, 2, 0, %p2; add.u32 %r10, %r10, %r11; selp.u32 %r11, 4, 0, %p3; add.u32 %r10, %r10, %r11;\n\
        selp.u32 %r11, 8, 0, %p4; add.u32 %r10, %r10, %r11; selp.u32 %r11, 16, 0, %p5; add.u32 %r10, %r10, %r11; selp.u32 %r11, 32, 0, %p6; add.u32 %r10, %r10, %r11;\n\
        setp.eq.u32 %p7, %r1, 0; @%p7 st.global.u32 [%d2], %r10;";
    assert_eq!(Shape::new(32).clean(&kernel(body)).words()[0], 1 + 2 + 8 + 16);
}

#[test]
fn local_memory_belongs_to_its_thread() {
    let body = ".local .align 4 .b8 l[64]; .reg .b64 %x<4>;\n\
        mov.u64 %x0, l; mov.u32 %r9, 0; mov.u32 %r11, %r1;\n\
        FILL: st.local.u32 [%x0], %r11; add.u64 %x0, %x0, 4; add.u32 %r11, %r11, 100; add.u32 %r9, %r9, 1; setp.lt.u32 %p1, %r9, 16; @%p1 bra FILL;\n\
        rem.u32 %r12, %r1, 16; mul.wide.u32 %x1, %r12, 4; mov.u64 %x0, l; add.u64 %x1, %x1, %x0; ld.local.u32 %r10, [%x1];\n\
        mul.wide.u32 %d3, %r1, 4; add.u64 %d3, %d2, %d3; st.global.u32 [%d3], %r10;";
    let done = Shape::new(64).clean(&kernel(body));
    for t in 0..64u32 {
        assert_eq!(done.words()[t as usize], t + 100 * (t % 16));
    }
}

/// Parameters of every size and alignment, vectors and an array.
#[test]
fn parameters() {
    let text = ".version 8.0\n.target sm_80\n.address_size 64\n\
        .visible .entry k(.param .u8 p0, .param .u64 .ptr .global .align 16 out, .param .u16 p1, .param .f32 p2, .param .align 16 .b8 p3[32], .param .s8 p4)\n{\n\
        .reg .b32 %r<16>; .reg .b64 %d<8>; .reg .f32 %f<4>;\n\
        ld.param.u64 %d1, [out]; ld.param.u8 %r1, [p0]; ld.param.u16 %r2, [p1]; ld.param.f32 %f1, [p2]; ld.param.v4.u32 {%r3, %r4, %r5, %r6}, [p3+16]; ld.param.s8 %r7, [p4]; ld.param.v2.u64 {%d2, %d3}, [p3];\n\
        st.global.v4.u32 [%d1], {%r3, %r4, %r5, %r6}; st.global.u32 [%d1+16], %r1; st.global.u32 [%d1+20], %r2; st.global.f32 [%d1+24], %f1; st.global.u32 [%d1+28], %r7; st.global.v2.u64 [%d1+32], {%d2, %d3};\n\
        ret;\n}\n";
    let module = Module::parse(text, "params").unwrap();
    let entry = module.entry("k").unwrap();
    let offsets: Vec<u32> = entry.params.iter().map(|p| p.offset).collect();
    assert_eq!(offsets, [0, 8, 16, 20, 32, 64]);
    assert_eq!(entry.param_bytes, 65);
    let mut device = Device::new(Profile::a100(), Options::default());
    let out = device.alloc(64).unwrap();
    let mut params = vec![0u8; 65];
    params[0] = 200;
    params[8..16].copy_from_slice(&out.to_le_bytes());
    params[16..18].copy_from_slice(&60000u16.to_le_bytes());
    params[20..24].copy_from_slice(&1.5f32.to_le_bytes());
    (32..64).for_each(|i| params[i] = i as u8);
    params[64] = 0x80;
    let report =
        device.launch(&module, "k", &Launch::new([1, 1, 1], [1, 1, 1], 0), &params).unwrap();
    assert!(report.diags.is_empty());
    let mut found = [0; 48];
    device.read(out, &mut found).unwrap();
    assert_eq!(found[..16], params[48..64]);
    assert_eq!(bytes_of(&found, 16, 4), 200);
    assert_eq!(bytes_of(&found, 20, 4), 60000);
    assert_eq!(bytes_of(&found, 24, 4), u64::from(1.5f32.to_bits()));
    assert_eq!(bytes_of(&found, 28, 4), 0xffff_ff80);
    assert_eq!(found[32..], params[32..48]);
}

/// 128-bit sums, differences and products from carries.
#[test]
fn carries() {
    let body = ".reg .b32 %x<32>;\n\
        mul.wide.u32 %d3, %r1, 32; add.u64 %d4, %d1, %d3; add.u64 %d5, %d2, %d3;\n\
        ld.global.v4.u32 {%x0, %x1, %x2, %x3}, [%d4]; ld.global.v4.u32 {%x4, %x5, %x6, %x7}, [%d4+16];\n\
        add.cc.u32 %x8, %x0, %x4; addc.cc.u32 %x9, %x1, %x5; addc.cc.u32 %x10, %x2, %x6; addc.u32 %x11, %x3, %x7;\n\
        sub.cc.u32 %x12, %x0, %x4; subc.cc.u32 %x13, %x1, %x5; subc.cc.u32 %x14, %x2, %x6; subc.u32 %x15, %x3, %x7;\n\
        st.global.v4.u32 [%d5], {%x8, %x9, %x10, %x11}; st.global.v4.u32 [%d5+16], {%x12, %x13, %x14, %x15};\n\
        mul.lo.u32 %x16, %x0, %x4; mul.hi.u32 %x17, %x0, %x4; mov.u32 %x18, 0;\n\
        mad.lo.cc.u32 %x17, %x0, %x5, %x17; madc.hi.u32 %x18, %x0, %x5, %x18; mad.lo.cc.u32 %x17, %x1, %x4, %x17; madc.hi.cc.u32 %x18, %x1, %x4, %x18; addc.u32 %x19, 0, 0;\n\
        mad.lo.cc.u32 %x18, %x1, %x5, %x18; madc.hi.u32 %x19, %x1, %x5, %x19;\n\
        add.u64 %d5, %d5, 4096; st.global.v4.u32 [%d5], {%x16, %x17, %x18, %x19};";
    let mut shape = Shape::new(64);
    let mut words = Words(5);
    shape.a = (0..256)
        .flat_map(|i| if i % 5 == 0 { u64::MAX } else { words.word() }.to_le_bytes())
        .collect();
    let done = shape.clean(&kernel(body));
    let wide = |b: &[u8], at: usize| u128::from_le_bytes(b[at..at + 16].try_into().unwrap());
    for t in 0..64 {
        let (x, y) = (wide(&shape.a, 32 * t), wide(&shape.a, 32 * t + 16));
        assert_eq!(wide(&done.b, 32 * t), x.wrapping_add(y));
        assert_eq!(wide(&done.b, 32 * t + 16), x.wrapping_sub(y));
        let (x, y) = (x as u64, y as u64);
        assert_eq!(wide(&done.b, 4096 + 32 * t), u128::from(x) * u128::from(y));
    }
}

/// Every atomic of integers: all threads on a few places, in any order the same.
#[test]
fn integer_atomics() {
    for space in ["global", "shared"] {
        for (op, ty) in [
            ("add", "u32"),
            ("add", "u64"),
            ("min", "u32"),
            ("max", "u32"),
            ("min", "s32"),
            ("max", "s32"),
            ("min", "s64"),
            ("max", "u64"),
            ("and", "b32"),
            ("or", "b32"),
            ("xor", "b32"),
            ("and", "b64"),
            ("xor", "b64"),
            ("inc", "u32"),
            ("dec", "u32"),
        ] {
            let bytes = ty[1..].parse::<usize>().unwrap() / 8;
            let r = if bytes == 8 { "%d" } else { "%r" };
            let limit = if matches!(op, "inc" | "dec") { "mov.u32 %r20, 5;" } else { "" };
            // Four places; thread t works on place t % 4 with value t of buffer a.
            let prepare = match space {
                "global" => format!(
                    "and.b32 %r9, %r1, 3; mul.wide.u32 %d3, %r9, {bytes}; add.u64 %d6, %d2, %d3;"
                ),
                _ => format!(
                    "and.b32 %r9, %r1, 3; mul.lo.u32 %r9, %r9, {bytes}; add.u32 %r9, %r9, %r4; setp.lt.u32 %p1, %r1, 4;\n\
                     mul.wide.u32 %d3, %r1, {bytes}; add.u64 %d7, %d2, %d3; @%p1 ld.global.b{} {r}21, [%d7]; @%p1 st.shared.b{} [%r9], {r}21; bar.sync 0;",
                    8 * bytes,
                    8 * bytes
                ),
            };
            let at = if space == "global" { "%d6" } else { "%r9" };
            let finish = match space {
                "global" => String::new(),
                _ => format!(
                    "bar.sync 0; @%p1 ld.shared.b{} {r}21, [%r9]; @%p1 st.global.b{} [%d7], {r}21;",
                    8 * bytes,
                    8 * bytes
                ),
            };
            for red in [true, false] {
                let name = match red {
                    true => format!("red.{space}.{op}.{ty} "),
                    false => format!("atom.{space}.{op}.{ty} {r}22, "),
                };
                let body = format!(
                    "{prepare}\nmul.wide.u32 %d4, %r1, {bytes}; add.u64 %d4, %d1, %d4; ld.global.b{} {r}20, [%d4]; {limit}\n{name}[{at}], {r}20;\n{finish}",
                    8 * bytes
                );
                let mut shape = Shape::new(64);
                let mut words = Words(9);
                shape.a = (0..64 * bytes).map(|_| words.word() as u8).collect();
                let start: Vec<u8> = (0..4 * bytes).map(|_| words.word() as u8 & 0x83).collect();
                shape.b = Some(start.clone());
                shape.b_bytes = 64;
                let done = shape.clean(&kernel(&body));
                for place in 0..4 {
                    let mut value = bytes_of(&start, place * bytes, bytes);
                    for t in (place..64).step_by(4) {
                        let v = bytes_of(&shape.a, t * bytes, bytes);
                        let shift = 64 - 8 * bytes as u32;
                        let s = |v: u64| (v << shift) as i64 >> shift;
                        value = match (op, ty.starts_with('s')) {
                            ("add", _) => value.wrapping_add(v),
                            ("min", true) => {
                                if s(v) < s(value) {
                                    v
                                } else {
                                    value
                                }
                            }
                            ("max", true) => {
                                if s(v) > s(value) {
                                    v
                                } else {
                                    value
                                }
                            }
                            ("min", false) => value.min(v),
                            ("max", false) => value.max(v),
                            ("and", _) => value & v,
                            ("or", _) => value | v,
                            ("xor", _) => value ^ v,
                            ("inc", _) => {
                                if value >= 5 {
                                    0
                                } else {
                                    value + 1
                                }
                            }
                            _ => {
                                if value == 0 || value > 5 {
                                    5
                                } else {
                                    value - 1
                                }
                            }
                        } & (u64::MAX >> shift);
                    }
                    assert_eq!(
                        bytes_of(&done.b, place * bytes, bytes),
                        value,
                        "{name} place {place}"
                    );
                }
            }
        }
    }
}

/// Sums of floats that are exact, so that their order does not matter.
#[test]
fn float_atomics() {
    let f16 = |v: f32| {
        // Small integers only.
        let v = v as u32;
        if v == 0 {
            0
        } else {
            let e = 31 - v.leading_zeros();
            ((e + 15) << 10 | (v << (10 - e)) & 0x3ff) as u16
        }
    };
    for (ty, bytes, target) in [
        ("f32", 4, "sm_80"),
        ("f64", 8, "sm_80"),
        ("noftz.f16", 2, "sm_80"),
        ("noftz.f16x2", 4, "sm_80"),
        ("noftz.bf16", 2, "sm_90"),
        ("noftz.bf16x2", 4, "sm_90"),
    ] {
        let encode = |v: u32| -> Vec<u8> {
            match ty {
                "f32" => (v as f32).to_le_bytes().to_vec(),
                "f64" => f64::from(v).to_le_bytes().to_vec(),
                "noftz.f16" => f16(v as f32).to_le_bytes().to_vec(),
                "noftz.f16x2" => {
                    [f16(v as f32).to_le_bytes(), f16((v + 1) as f32).to_le_bytes()].concat()
                }
                "noftz.bf16" => ((v as f32).to_bits() >> 16).to_le_bytes()[..2].to_vec(),
                _ => [
                    ((v as f32).to_bits() >> 16).to_le_bytes()[..2].to_vec(),
                    (((v + 1) as f32).to_bits() >> 16).to_le_bytes()[..2].to_vec(),
                ]
                .concat(),
            }
        };
        let r = match bytes {
            2 => "%h",
            8 => "%d",
            _ => "%r",
        };
        let body = format!(
            "mul.wide.u32 %d4, %r1, {bytes}; add.u64 %d4, %d1, %d4; ld.global.b{0} {r}4, [%d4]; atom.global.add.{ty} {r}5, [%d2], {r}4; red.global.add.{ty} [%d2+16], {r}4;",
            8 * bytes
        );
        let mut shape = Shape::new(16);
        shape.a = (0..16).flat_map(|t| encode(t % 3)).collect();
        shape.b = Some(vec![0; 32]);
        shape.b_bytes = 32;
        let done = shape.clean(&kernel_for("8.0", target, &body));
        let sum: u32 = (0..16).map(|t| t % 3).sum();
        let mut wanted = encode(sum);
        if ty.ends_with("x2") {
            let high = match ty {
                "noftz.f16x2" => f16((sum + 16) as f32),
                _ => (((sum + 16) as f32).to_bits() >> 16) as u16,
            };
            wanted[2..4].copy_from_slice(&high.to_le_bytes());
        }
        assert_eq!(done.b[..bytes], wanted[..], "{ty}");
        assert_eq!(done.b[16..16 + bytes], wanted[..], "{ty}");
    }
}

/// Global `add.f32` flushes subnormals, shared does not.
#[test]
fn subnormals_in_atomics() {
    let body = "mov.b32 %f1, 0f00000001; st.shared.f32 [%r4], 0f00000002; red.shared.add.f32 [%r4], %f1; ld.shared.u32 %r10, [%r4];\n\
        red.global.add.f32 [%d2], %f1; st.global.u32 [%d2+4], %r10;";
    let mut shape = Shape::new(1);
    shape.b = Some(vec![2, 0, 0, 0, 0, 0, 0, 0]);
    shape.b_bytes = 8;
    assert_eq!(shape.clean(&kernel(body)).words(), [0, 3]);
}

/// A lock from compare-and-swap, with the fences it needs; every warp counts one up.
#[test]
fn locks() {
    let body = "setp.ne.u32 %p1, %r2, 0; @%p1 ret;\n\
        LOCK: atom.relaxed.gpu.global.cas.b32 %r10, [%d2], 0, 1; setp.ne.u32 %p2, %r10, 0; @%p2 bra LOCK; fence.acq_rel.gpu;\n\
        ld.global.u32 %r11, [%d2+4]; add.u32 %r11, %r11, 3; st.global.u32 [%d2+4], %r11;\n\
        fence.acq_rel.gpu; atom.relaxed.gpu.global.exch.b32 %r12, [%d2], 0;";
    let mut shape = Shape::new(96);
    shape.grid = 3;
    shape.b = Some(vec![0; 8]);
    shape.b_bytes = 8;
    assert_eq!(shape.clean(&kernel(body)).words(), [0, 27]);
    let acquire = "atom.acquire.gpu.global.cas.b32 %r10, [%d2], 0, 1;";
    let ordered = body
        .replace("fence.acq_rel.gpu;", "")
        .replace("atom.relaxed.gpu.global.cas.b32 %r10, [%d2], 0, 1;", acquire)
        .replace("atom.relaxed.gpu.global.exch", "atom.release.gpu.global.exch");
    assert_eq!(shape.clean(&kernel(&ordered)).words(), [0, 27]);
    for broken in [
        body.replacen("fence.acq_rel.gpu;", "", 1),
        body.replace("fence.acq_rel.gpu; atom", "atom"),
        body.replace("fence.acq_rel.gpu", "fence.acq_rel.cta"),
        ordered.replace("atom.release", "atom.acquire"),
        ordered.replace("atom.acquire", "atom.release"),
    ] {
        shape.reports(&["RACE-GLOBAL"], &kernel(&broken));
    }
}
