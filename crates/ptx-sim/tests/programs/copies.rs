//! Asynchronous copies, matrix loads and products.

use crate::common::{Shape, Words, kernel, kernel_for};
use ptx_sim::{Completion, Device, Launch, Module, Options, Profile, Schedule};

const ADDRESSES: &str = "mul.wide.u32 %d3, %r1, 16; add.u64 %d4, %d1, %d3; add.u64 %d5, %d2, %d3; shl.b32 %r9, %r1, 4; add.u32 %r9, %r9, %r4;";
const OUT: &str = "ld.shared.v4.u32 {%r20, %r21, %r22, %r23}, [%r9]; st.global.v4.u32 [%d5], {%r20, %r21, %r22, %r23};";

/// All sizes of copies and of sources: the rest is zeros.
#[test]
fn copies_fill_with_zeros() {
    for (cache, size) in [("ca", 4u32), ("ca", 8), ("ca", 16), ("cg", 16)] {
        for source in 0..=size {
            let body = format!(
                "{ADDRESSES} mov.u32 %r10, {source}; st.shared.v4.u32 [%r9], {{-1, -1, -1, -1}};\n\
                 cp.async.{cache}.shared.global [%r9], [%d4], {size}, %r10;\ncp.async.commit_group; cp.async.wait_group 0; {OUT}"
            );
            let shape = Shape::new(64);
            let done = shape.clean(&kernel(&body));
            for i in 0..64 * 16 {
                let wanted = match i as u32 % 16 {
                    at if at < source => shape.a[i],
                    at if at < size => 0,
                    _ => 0xff,
                };
                assert_eq!(done.b[i], wanted, "{cache} {size} {source} byte {i}");
            }
        }
    }
    // A predicate that ignores the source, whose address then does not matter.
    let body = format!(
        "{ADDRESSES} and.b32 %r10, %r1, 1; setp.ne.u32 %p1, %r10, 0; mul.wide.u32 %d6, %r10, 65536; add.u64 %d4, %d4, %d6;\n\
         cp.async.cg.shared.global.L2::128B [%r9], [%d4], 16, %p1; cp.async.wait_all; {OUT}"
    );
    let shape = Shape::new(64);
    let done = shape.clean(&kernel(&body));
    for i in 0..64 * 16 {
        assert_eq!(done.b[i], if i / 16 % 2 == 1 { 0 } else { shape.a[i] });
    }
}

/// Groups retire in order; what is not committed only with `wait_all`; empty groups count.
#[test]
fn groups() {
    let copy = |to: u32| {
        format!("cp.async.ca.shared.global [%r9+{}], [%d4+{}], 16;\n", to * 512, to * 512)
    };
    let read = |to: u32| {
        format!("ld.shared.u32 %r20, [%r9+{}]; st.global.u32 [%d5+{}], %r20;\n", to * 512, to * 512)
    };
    let commit = "cp.async.commit_group;\n";
    let three = format!("{ADDRESSES}{}{commit}{}{commit}{}{commit}", copy(0), copy(1), copy(2));
    let shape = Shape::new(32);
    for (text, codes) in [
        (
            format!(
                "{three}cp.async.wait_group 2; {}cp.async.wait_group 1; {}cp.async.wait_group 0; {}",
                read(0),
                read(1),
                read(2)
            ),
            vec![],
        ),
        (
            format!("{three}cp.async.wait_group 2; {}cp.async.wait_all;", read(1)),
            vec!["ASYNC-CPASYNC-EARLY"],
        ),
        (
            format!("{three}cp.async.wait_group 3; {}cp.async.wait_all;", read(0)),
            vec!["ASYNC-CPASYNC-EARLY"],
        ),
        (format!("{three}{commit}cp.async.wait_group 1; {}", read(2)), vec![]),
        (format!("{three}{commit}{commit}cp.async.wait_group 2; {}", read(2)), vec![]),
        (
            format!("{ADDRESSES}{}cp.async.wait_group 0; {}", copy(0), read(0)),
            vec!["ASYNC-CPASYNC-EARLY"],
        ),
        (format!("{ADDRESSES}{}cp.async.wait_all; {}", copy(0), read(0)), vec![]),
        // Rewritten after the wait.
        (
            format!(
                "{ADDRESSES}{}cp.async.wait_all; {}bar.warp.sync -1; {}cp.async.wait_all; {}",
                copy(0),
                read(0),
                copy(0),
                read(0)
            ),
            vec![],
        ),
    ] {
        match codes.as_slice() {
            [] => drop(shape.clean(&kernel(&text))),
            codes => shape.notices(codes[0], &kernel(&text)),
        }
    }
}

/// A ring of three stages, each warp reading what all copied.
#[test]
fn a_ring_of_stages() {
    let body = |first_wait: u32, end: &str| {
        format!(
            "and.b32 %r19, %r1, 63; mul.wide.u32 %d3, %r1, 4; add.u64 %d4, %d1, %d3; add.u64 %d5, %d2, %d3; shl.b32 %r9, %r1, 2; add.u32 %r9, %r9, %r4;\n\
             xor.b32 %r18, %r1, 33; shl.b32 %r18, %r18, 2; add.u32 %r18, %r18, %r4; mov.u32 %r10, 0; mov.u32 %r12, 0; mov.u32 %r13, 0; mov.u32 %r14, 512;\n\
             cp.async.ca.shared.global [%r9], [%d4], 4; cp.async.commit_group; cp.async.ca.shared.global [%r9+256], [%d4+256], 4; cp.async.commit_group; add.u64 %d4, %d4, 512;\n\
             LOOP: cp.async.wait_group {first_wait}; bar.sync 0;\n\
             setp.lt.u32 %p1, %r12, 6; add.u32 %r16, %r9, %r14; @%p1 cp.async.ca.shared.global [%r16], [%d4], 4; cp.async.commit_group; add.u64 %d4, %d4, 256;\n\
             add.u32 %r15, %r18, %r13; ld.shared.u32 %r11, [%r15]; add.u32 %r10, %r10, %r11;\n\
             add.u32 %r13, %r13, 256; setp.eq.u32 %p2, %r13, 768; selp.u32 %r13, 0, %r13, %p2; add.u32 %r14, %r14, 256; setp.eq.u32 %p2, %r14, 768; selp.u32 %r14, 0, %r14, %p2;\n\
             {end} add.u32 %r12, %r12, 1; setp.lt.u32 %p1, %r12, 8; @%p1 bra LOOP; st.global.u32 [%d5], %r10;"
        )
    };
    let shape = Shape::new(64);
    let done = shape.clean(&kernel(&body(1, "")));
    let word = |i: usize| u32::from_le_bytes(shape.a[4 * i..4 * i + 4].try_into().unwrap());
    for t in 0..64 {
        let sum = (0..8).fold(0u32, |sum, k| sum.wrapping_add(word(64 * k + (t ^ 33))));
        assert_eq!(done.words()[t], sum);
    }
    shape.notices("ASYNC-CPASYNC-EARLY", &kernel(&body(2, "")));
    // Without the barrier other lanes' copies are not known, and stages are overwritten while read.
    shape.notices("ASYNC-CPASYNC-EARLY", &kernel(&body(1, "").replace("bar.sync 0;", "")));
}

/// Matrix loads by the ISA's table, from rows in any order.
#[test]
fn matrix_loads() {
    for n in [1usize, 2, 4] {
        for trans in ["", ".trans"] {
            let registers = (0..n).map(|i| format!("%r{}", 20 + i)).collect::<Vec<_>>().join(", ");
            let mut body = format!(
                "{ADDRESSES} cp.async.cg.shared.global [%r9], [%d4], 16; cp.async.wait_all; bar.warp.sync -1;\n\
                 mul.lo.u32 %r10, %r2, 5; add.u32 %r10, %r10, 3; and.b32 %r10, %r10, 31; shl.b32 %r10, %r10, 4; add.u32 %r10, %r10, %r4;\n\
                 ldmatrix.sync.aligned.m8n8.x{n}{trans}.shared.b16 {{{registers}}}, [%r10];\nmul.wide.u32 %d6, %r1, {}; add.u64 %d6, %d6, %d2;\n",
                4 * n
            );
            for i in 0..n {
                body += &format!("st.global.u32 [%d6+{}], %r{};\n", 4 * i, 20 + i);
            }
            let shape = Shape::new(32);
            let done = shape.clean(&kernel(&body));
            let element = |matrix: usize, r: usize, c: usize| {
                let row = (5 * (8 * matrix + r) + 3) % 32;
                u32::from(u16::from_le_bytes([
                    shape.a[16 * row + 2 * c],
                    shape.a[16 * row + 2 * c + 1],
                ]))
            };
            for lane in 0..32 {
                for i in 0..n {
                    let (g, t) = (lane / 4, 2 * (lane % 4));
                    let wanted = match trans {
                        "" => element(i, g, t) | element(i, g, t + 1) << 16,
                        _ => element(i, t, g) | element(i, t + 1, g) << 16,
                    };
                    assert_eq!(
                        done.words()[n * lane + i],
                        wanted,
                        "x{n}{trans} lane {lane} register {i}"
                    );
                }
            }
        }
    }
    // Stored and loaded again, turned twice.
    let body = format!(
        "{ADDRESSES} ld.global.v4.u32 {{%r20, %r21, %r22, %r23}}, [%d4];\n\
         stmatrix.sync.aligned.m8n8.x4.shared.b16 [%r9], {{%r20, %r21, %r22, %r23}}; bar.warp.sync -1; ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {{%r24, %r25, %r26, %r27}}, [%r9];\n\
         bar.warp.sync -1; stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%r9], {{%r24, %r25, %r26, %r27}}; bar.warp.sync -1; ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{%r28, %r29, %r30, %r31}}, [%r9];\n\
         movmatrix.sync.aligned.m8n8.trans.b16 %r32, %r20; setp.eq.u32 %p1, %r32, %r24; selp.u32 %r28, %r28, 0, %p1; st.global.v4.u32 [%d5], {{%r28, %r29, %r30, %r31}};"
    );
    let shape = Shape::new(32);
    let done = shape.clean(&kernel_for("8.0", "sm_90", &body));
    assert_eq!(done.b[..512], shape.a[..512]);
}

/// Products of random matrices loaded element by element by the ISA's formulas, against binary64.
#[test]
fn products() {
    // Type, K, elements per register, registers of A and B.
    for (ty, k, per, na, nb) in [
        ("f16", 8, 2, 2, 1),
        ("f16", 16, 2, 4, 2),
        ("bf16", 8, 2, 2, 1),
        ("bf16", 16, 2, 4, 2),
        ("tf32", 4, 1, 2, 1),
        ("tf32", 8, 1, 4, 2),
        ("s8", 16, 4, 2, 1),
        ("s8", 32, 4, 4, 2),
        ("u8", 32, 4, 4, 2),
    ] {
        let integer = ty.ends_with('8');
        let acc = if integer { "s32" } else { "f32" };
        let list = |from: usize, n: usize| {
            (from..from + n).map(|i| format!("%r{i}")).collect::<Vec<_>>().join(", ")
        };
        let mut body =
            "mul.wide.u32 %d3, %r1, 4; add.u64 %d4, %d1, %d3; add.u64 %d5, %d2, %d3;\n".to_owned();
        for i in 0..na + nb + 4 {
            body += &format!("ld.global.b32 %r{}, [%d4+{}];\n", 10 + i, 128 * i);
        }
        body += &format!(
            "mma.sync.aligned.m16n8k{k}.row.col.{acc}.{ty}.{ty}.{acc} {{{}}}, {{{}}}, {{{}}}, {{{}}};\n",
            list(30, 4),
            list(10, na),
            list(10 + na, nb),
            list(10 + na + nb, 4)
        );
        for i in 0..4 {
            body += &format!("st.global.b32 [%d5+{}], %r{};\n", 128 * i, 30 + i);
        }
        let mut words = Words(k as u64);
        let mut number = |bound: u64| words.below(2 * bound + 1) as f64 - bound as f64;
        let bound = if integer { 100 } else { 8 };
        let a: Vec<f64> = (0..16 * k)
            .map(|_| if ty == "u8" { number(bound).abs() } else { number(bound) })
            .collect();
        let b: Vec<f64> = (0..8 * k)
            .map(|_| if ty == "u8" { number(bound).abs() } else { number(bound) })
            .collect();
        let c: Vec<f64> = (0..128).map(|_| number(1000)).collect();
        let encode = |v: f64| -> u32 {
            match ty {
                "f16" => {
                    let m = v.abs() as u32;
                    if m == 0 {
                        return 0;
                    }
                    let e = 31 - m.leading_zeros();
                    (e + 15) << 10 | (m << (10 - e)) & 0x3ff | u32::from(v < 0.0) << 15
                }
                "bf16" => (v as f32).to_bits() >> 16,
                "tf32" => (v as f32).to_bits(),
                _ => v as i32 as u32 & 0xff,
            }
        };
        let bits = 32 / per;
        let mut shape = Shape::new(32);
        shape.a = Vec::new();
        for j in 0..na {
            for lane in 0..32 {
                let (g, t) = (lane / 4, lane % 4);
                let word = (0..per).fold(0, |w, e| {
                    let (row, col) = (g + 8 * (j % 2), per * t + e + 4 * per * (j / 2));
                    w | encode(a[row * k + col]) << (bits * e)
                });
                shape.a.extend(word.to_le_bytes());
            }
        }
        for j in 0..nb {
            for lane in 0..32 {
                let (g, t) = (lane / 4, lane % 4);
                let word = (0..per)
                    .fold(0, |w, e| w | encode(b[g * k + per * t + e + 4 * per * j]) << (bits * e));
                shape.a.extend(word.to_le_bytes());
            }
        }
        let place = |j: usize, lane: usize| (lane / 4 + 8 * (j / 2), 2 * (lane % 4) + j % 2);
        for j in 0..4 {
            for lane in 0..32 {
                let (row, col) = place(j, lane);
                let v = c[row * 8 + col];
                shape.a.extend(if integer {
                    (v as i32).to_le_bytes()
                } else {
                    (v as f32).to_le_bytes()
                });
            }
        }
        for options in Options::numerics() {
            let done = shape.run(&kernel(&body), options);
            assert!(done.report.diags.is_empty(), "{}", done.report);
            for j in 0..4 {
                for lane in 0..32 {
                    let (row, col) = place(j, lane);
                    let sum: f64 = (0..k).map(|x| a[row * k + x] * b[col * k + x]).sum::<f64>()
                        + c[row * 8 + col];
                    let found = done.words()[32 * j + lane];
                    let found = if integer {
                        f64::from(found as i32)
                    } else {
                        f64::from(f32::from_bits(found))
                    };
                    assert_eq!(found, sum, "{ty} k{k} {row} {col}");
                }
            }
        }
    }
}

/// A whole attention kernel with ragged lengths against binary64, over schedules, completions and numerics.
#[test]
fn attention() {
    let text = include_str!("../data/kernels/attention_forward.ptx");
    let module = Module::parse(text, "attention_forward.ptx").unwrap();
    let (lq, lk, heads, d) = (100usize, 150usize, 2usize, 64usize);
    let mut words = Words(7);
    let mut buffer = |n: usize| -> Vec<f64> {
        (0..n)
            .map(|_| {
                f64::from(f32::from_bits(
                    ((words.below(2001) as f32 / 1000.0 - 1.0).to_bits()) & 0xffff_0000,
                ))
            })
            .collect()
    };
    let (q, k, v) = (buffer(heads * lq * d), buffer(heads * lk * d), buffer(heads * lk * d));
    let bytes = |x: &[f64]| {
        x.iter()
            .flat_map(|v| ((*v as f32).to_bits() >> 16).to_le_bytes()[..2].to_vec())
            .collect::<Vec<u8>>()
    };
    for causal in [0u32, 1] {
        let mut wanted = Vec::new();
        for h in 0..heads {
            for i in 0..lq {
                let row = &q[(h * lq + i) * d..][..d];
                let keys = if causal == 1 { (i + lk - lq + 1).min(lk) } else { lk };
                let scores: Vec<f64> = (0..keys)
                    .map(|j| {
                        let key = &k[(h * lk + j) * d..][..d];
                        row.iter().zip(key).map(|(x, y)| x * y).sum::<f64>() * 0.125
                    })
                    .collect();
                let top = scores.iter().copied().fold(f64::MIN, f64::max);
                let sum: f64 = scores.iter().map(|s| (s - top).exp()).sum();
                for x in 0..d {
                    let value: f64 =
                        (0..keys).map(|j| (scores[j] - top).exp() * v[(h * lk + j) * d + x]).sum();
                    wanted.push(value / sum);
                }
            }
        }
        let mut all: Vec<Options> = Options::numerics();
        for (schedule, completion) in [
            (Schedule::RoundRobin(1), Completion::Late),
            (Schedule::Greedy, Completion::Early),
            (Schedule::GreedyDescending, Completion::Random),
            (Schedule::Pct(1, 3), Completion::Late),
            (Schedule::Random(2), Completion::Early),
        ] {
            all.push(Options { schedule, completion, ..Options::default() });
        }
        for (i, options) in all.into_iter().enumerate() {
            if causal == 1 && i % 4 != 0 {
                continue;
            }
            let mut device = Device::new(Profile::a100(), options);
            let mut params = Vec::new();
            for contents in [&q, &k, &v] {
                let address = device.alloc(2 * contents.len() as u64).unwrap();
                device.write(address, &bytes(contents)).unwrap();
                device.tag(address, true, "input");
                params.extend(address.to_le_bytes());
            }
            let out = device.alloc((heads * lq * d * 2) as u64).unwrap();
            let lse = device.alloc((heads * lq * 4) as u64).unwrap();
            params.extend(out.to_le_bytes());
            params.extend(lse.to_le_bytes());
            params.extend((lq as u32).to_le_bytes());
            params.extend((lk as u32).to_le_bytes());
            params.extend((0.125f32 * std::f32::consts::LOG2_E).to_le_bytes());
            params.extend(causal.to_le_bytes());
            let launch = Launch::new([2, heads as u32, 1], [128, 1, 1], 40960);
            let report = device
                .launch(&module, "mma80_fwd", &launch, &params)
                .unwrap_or_else(|r| panic!("{options:?}\n{r}"));
            assert!(report.diags.is_empty(), "{report}");
            let mut found = vec![0; heads * lq * d * 2];
            device.read(out, &mut found).unwrap();
            for (i, (f, w)) in found.chunks_exact(2).zip(&wanted).enumerate() {
                let f =
                    f64::from(f32::from_bits(u32::from(u16::from_le_bytes([f[0], f[1]])) << 16));
                assert!((f - w).abs() < 0.01, "{options:?} element {i}: {f}, expected {w}");
            }
        }
    }
}
