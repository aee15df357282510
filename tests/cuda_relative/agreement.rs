//! Results of other implementations, and random problems held to the reference.

use crate::common::Random;
use crate::common::cuda::on_devices;
use crate::common::fixtures::Forward;
use crate::common::relative::{
    self, Case, MIXTURES, check_reordered_fixtures, odd, random_problem, random_targets,
};
use crate::{DTYPES, check, check_at};
use longhand::transformer_xl::{Chunks, Memory};
use longhand::{DType, TransformerXl, Window};
use longhand_cli::results::Results;

#[test]
fn fixtures_agree_with_what_other_implementations_compute() {
    let files = relative::fixtures();
    on_devices(|device| {
        for (file, dtype) in files.iter().flat_map(|file| DTYPES.map(|dtype| (file, dtype))) {
            let mut got = Results::new();
            for &stream in file.streams() {
                let problem = file.problem(stream, dtype);
                let output = problem.run_cuda(&device.context, &file.inputs.as_inputs(stream));
                file.put(&mut got, stream, &output.unwrap());
            }
            let what = format!("{} {} {dtype}", device.name, file.name);
            Forward::of(&file.clone().into(), dtype).check(&got, &what);
        }
    });
}

#[test]
fn random_problems_of_every_choice_agree_with_the_reference() {
    on_devices(|device| {
        for seed in 0..150 {
            let mut random = Random(seed);
            let head_dim = [32, 64, 64, 96, 128][random.below(5)];
            let mixture = seed as usize % MIXTURES;
            let problem = random_problem(&mut random, mixture, head_dim);
            check(device, &Case::new(problem, &mut random));
        }
    });
}

/// In any order and in ascending order, more of them than positions and fewer, near and far apart.
#[test]
fn queries_at_positions_of_their_own_agree_with_the_reference() {
    on_devices(|device| {
        for seed in 0..54 {
            let head_dim = [32, 64, 40, 13, 96, 128][seed as usize % 6];
            check(device, &random_targets(seed, seed as usize % MIXTURES, head_dim));
        }
        for (n, head_dim) in [136, 192, 200, 256].into_iter().enumerate() {
            for dtype in DTYPES {
                let p = TransformerXl::xlnet([1, 90, 2, head_dim], 70, dtype).segments();
                check(device, &Case::new(p.targets(40), &mut Random(n as u64)));
            }
        }
        for dtype in DTYPES {
            check_reordered_fixtures(device.name, dtype, |p, inputs| {
                p.run_cuda(&device.context, inputs).unwrap()
            });
        }
    });
}

#[test]
fn every_head_dim_is_padded_inside_the_kernel() {
    on_devices(|device| {
        let dims = [1, 4, 8, 13, 32, 60, 72, 96, 104, 128, 129, 160, 192, 200, 256];
        for (n, head_dim) in dims.into_iter().enumerate() {
            for dtype in DTYPES {
                let mut random = Random(n as u64);
                let mut p = TransformerXl::with_memory([1, 75, 2, head_dim], 30, dtype);
                p.key_padding = n % 2 == 0;
                if n % 3 == 0 {
                    p = p.segments().heads_kv(1);
                }
                if n % 3 == 1 {
                    p = p.memory(Memory { len: 30, rows: 33, start: 20 });
                }
                check(device, &Case::new(p, &mut random));
            }
        }
    });
}

#[test]
fn odd_strides_and_tensors_off_16_bytes_load_by_elements() {
    on_devices(|device| {
        for dtype in DTYPES {
            for (n, guard) in [(0, 0), (1, 4), (2, 12), (3, 260)] {
                let mut p = TransformerXl::xlnet([2, 70, 2, 40], 25, dtype).segments().perm_mask();
                if n % 2 == 1 {
                    p = p.memory(Memory { len: 25, rows: 27, start: 10 });
                }
                let gap = if guard == 0 { 3 } else { 8 };
                let s = p.shape;
                let of = |rows, heads| odd([rows, heads, s.head_dim], gap);
                let keys = of(p.rows_k(), s.heads_kv);
                (p.layout.q, p.layout.out) = (of(s.seqlen_q, s.heads_q), of(s.seqlen_q, s.heads_q));
                (p.layout.k, p.layout.v) = (keys, keys);
                p.layout.r = of(p.rows, s.heads_q);
                p.layout.k_memory = of(27, s.heads_kv);
                check_at(device, &Case::new(p, &mut Random(n)), guard);
            }
        }
    });
}

/// Edges of windows and chunks at, before and behind those of tiles, a memory that is longer than
/// the segment, distances that share a row.
#[test]
fn windows_chunks_and_clamps_end_anywhere_in_a_tile() {
    on_devices(|device| {
        for (n, side) in [0, 1, 15, 16, 17, 47, 63, 64, 65, 127, 128, 129].into_iter().enumerate() {
            let (dtype, mut random) = (DTYPES[n % 3], Random(n as u64));
            let p = TransformerXl::conformer([1, 140, 1, 64], 70, dtype);
            let windows = [
                p.window(Window::new(side, 200 - side)),
                p.window(Window { left: None, right: Some(side) }).clamp_len(side),
                TransformerXl::with_memory([1, 140, 1, 64], 150, dtype)
                    .window(Window::new(side, 0)),
                p.chunks(Chunks { size: side.max(1), left: [None, Some(1)][n % 2] }),
            ];
            for p in windows {
                check(device, &Case::new(p, &mut random));
            }
        }
    });
}

#[test]
fn nothing_to_attend_and_nothing_at_all() {
    on_devices(|device| {
        for [batch, seqlen] in [[0, 5], [2, 0]] {
            let p = TransformerXl::with_memory([batch, seqlen, 2, 32], 3, DType::F32);
            let case = Case::new(p, &mut Random(1));
            let got = case.problem.run_cuda(&device.context, &case.inputs()).unwrap();
            assert!(got.out.is_empty());
        }
        for dtype in DTYPES {
            // No key at all; none but masked ones; queries that stand before every key.
            let mut p = TransformerXl::conformer([2, 70, 2, 32], 0, dtype);
            p.shape.seqlen_k = 0;
            check(device, &Case::new(p.heads_kv(2), &mut Random(2)));
            let p = TransformerXl::xlnet([2, 140, 2, 32], 9, dtype).key_padding();
            let mut case = Case::new(p.query_stream(), &mut Random(3));
            case.key_valid = [vec![0; 149], vec![1; 149]].concat();
            let got = check(device, &case);
            assert!(got.lse[..280].iter().all(|&x| x == f32::NEG_INFINITY));
            let mut p = TransformerXl::conformer([1, 140, 1, 32], 0, dtype);
            p.shape.seqlen_k = 66;
            let p = p.heads_kv(1).window(Window::new(20, 3));
            let got = check(device, &Case::new(p, &mut Random(4)));
            assert!(got.lse[..70].iter().all(|&x| x == f32::NEG_INFINITY));
        }
    });
}

/// What a masked key holds reaches nobody, and what a row does not see does not reach it; the same
/// of a row of the table.
#[test]
fn nan_stays_with_the_rows_that_see_it() {
    on_devices(|device| {
        for (n, dtype) in DTYPES.into_iter().enumerate() {
            let p = TransformerXl::with_memory([1, 150, 1, 32], 20, dtype)
                .window(Window::new(30, 0))
                .key_padding();
            let mut case = Case::new(p, &mut Random(60 + n as u64));
            case.key_valid = (0..170).map(|j| u8::from(j % 11 != 5)).collect();
            let row = |i: usize| i * 32..(i + 1) * 32;
            for j in (0..170).filter(|j| j % 11 == 5) {
                case.tensor_mut("k")[row(j)].fill(f32::NAN);
                case.tensor_mut("v")[row(j)].fill(f32::INFINITY);
            }
            // Distances beyond the window have rows that nobody reads.
            case.tensor_mut("r")[31 * 32..].fill(f32::NAN);
            check(device, &case);
            case.tensor_mut("v")[row(80)].fill(f32::NAN);
            let got = case.problem.run_cuda(&device.context, &case.inputs()).unwrap();
            for i in 0..150 {
                let sees = (80..=110).contains(&(i + 20));
                let nan = got.out[row(i)].iter().all(|x| x.is_nan());
                let finite = got.out[row(i)].iter().all(|x| x.is_finite());
                assert!(if sees { nan } else { finite }, "{} {dtype}: row {i}", device.name);
            }
        }
    });
}
