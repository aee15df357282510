//! What the kernels do, counted exactly in the simulator.

use crate::check;
use crate::common::Random;
use crate::common::cuda::on_simulated;
use crate::common::relative::Case;
use longhand::transformer_xl::Chunks;
use longhand::transformer_xl::cuda::config::select;
use longhand::{DType, Full, TransformerXl, Window};
use serde_json::Value;

/// Counters of a launch of the forward kernel for `p`.
fn counted(p: &TransformerXl) -> Value {
    of("transformer_xl_forward", |device| {
        check(device, &Case::new(*p, &mut Random(1)));
    })
}

fn of(kernel: &str, run: impl Fn(&crate::common::cuda::Device)) -> Value {
    let text = std::cell::RefCell::new(None);
    on_simulated("a100", &[], |device| {
        run(device);
        let mock = device.mock.as_ref().expect("the stand-in");
        *text.borrow_mut() = mock.counters(kernel, 0);
    });
    serde_json::from_str(&text.into_inner().expect("counters")).expect("JSON")
}

fn number(counts: &Value, name: &str) -> u64 {
    counts[name].as_u64().unwrap_or_else(|| panic!("no {name} in {counts}"))
}

/// Tiles that warps compute, and warps that compute any.
fn visits(p: &TransformerXl, [m, n]: [usize; 2]) -> (u64, u64) {
    let (mut tiles, mut warps) = (0, 0);
    let rows: Vec<_> = (0..p.shape.seqlen_q).map(|i| p.keys(i)).collect();
    for block in rows.chunks(m) {
        let (begin, end) = (block[0].start / n * n, block[block.len() - 1].end);
        for warp in block.chunks(16) {
            let (from, to) = (warp[0].start, warp[warp.len() - 1].end);
            let seen = |&kt: &usize| kt < to && kt + n > from;
            let count = (begin..end).step_by(n).filter(seen).count() as u64;
            tiles += count;
            warps += u64::from(count > 0);
        }
    }
    let heads = (p.shape.batch * p.shape.heads_q) as u64;
    (tiles * heads, warps * heads)
}

#[test]
fn only_tiles_that_a_warp_sees_are_computed_and_the_band_once() {
    if crate::common::mock::on_gpu() {
        return;
    }
    let causal =
        |seqlen, memory, dtype| TransformerXl::with_memory([2, seqlen, 2, 64], memory, dtype);
    let conformer = |dtype| TransformerXl::conformer([1, 300, 2, 64], 100, dtype);
    let problems = [
        causal(256, 256, DType::BF16),
        causal(100, 0, DType::F32),
        causal(300, 50, DType::F16).window(Window::new(40, 0)),
        conformer(DType::BF16),
        conformer(DType::F32).window(Window::new(90, 10)),
        conformer(DType::F16).chunks(Chunks { size: 50, left: Some(1) }),
    ];
    for p in problems {
        let caps = longhand::cuda::Caps::a100();
        let tile = select(&p, &caps).unwrap().tile;
        let counters = counted(&p);
        let (tiles, warps) = visits(&p, [tile.block_m as usize, tile.block_n as usize]);
        let products = if p.dtype == DType::F32 { 3 } else { 1 };
        // Three products of a tile, and 16 columns of the band where a warp begins.
        let columns = tiles * 3 * u64::from(tile.block_n) + warps * 16;
        let expected = products * 2 * 16 * 64 * columns;
        assert_eq!(number(&counters["total"], "tc_flops"), expected, "{p:?}");
    }
}

/// The price of positions in tensor operations: three products where full attention has two.
#[test]
fn tensor_operations_are_at_most_1_6_of_full_attention() {
    if crate::common::mock::on_gpu() {
        return;
    }
    for head_dim in [64, 128] {
        for dtype in [DType::BF16, DType::F32] {
            for right in [None, Some(0)] {
                let p = TransformerXl::conformer([1, 512, 1, head_dim], 512, dtype)
                    .window(Window { left: None, right });
                let mine = number(&counted(&p)["total"], "tc_flops") as f64;
                let mut full = Full::new(p.shape, dtype);
                full.causal = right.is_some();
                let other = of("full_forward", |device| {
                    let case = crate::common::Case::new(full, &mut Random(1));
                    full.run_cuda(&device.context, &case.inputs()).unwrap();
                });
                let ratio = mine / number(&other["total"], "tc_flops") as f64;
                println!("{dtype} head_dim {head_dim}, right {right:?}: {ratio:.3}");
                assert!(ratio <= 1.6, "{dtype} head_dim {head_dim}: {ratio}");
            }
        }
    }
}

#[test]
fn the_main_loop_meets_no_bank_conflict_and_the_shear_costs_a_shuffle_a_score() {
    if crate::common::mock::on_gpu() {
        return;
    }
    for head_dim in [32, 64, 96, 128, 192, 256] {
        for dtype in [DType::F16, DType::F32] {
            let plain = TransformerXl::with_memory([1, 128, 1, head_dim], 128, dtype);
            for p in [plain, plain.segments().key_padding().perm_mask()] {
                let counters = counted(&p);
                let mut shared = 0;
                for (region, counts) in counters["regions"].as_object().expect("regions") {
                    let [passes, ideal] =
                        ["shared_wavefronts", "shared_ideal"].map(|name| number(counts, name));
                    let outside = ["", "LIMITED", "EPILOGUE"].contains(&region.as_str());
                    if !outside {
                        let what = format!("{dtype} head_dim {head_dim}, after {region}");
                        assert_eq!(passes, ideal, "{what}");
                        shared += passes;
                    }
                }
                let tile = select(&p, &longhand::cuda::Caps::a100()).unwrap().tile;
                let (tiles, _) = visits(&p, [tile.block_m as usize, tile.block_n as usize]);
                let shuffles =
                    number(&counters["opcodes"]["shfl.sync.idx.b32"], "warp_instructions");
                let (of_warp, blocks) = (u64::from(tile.block_m / 16), number(&counters, "blocks"));
                // One more for each warp's number; a lane holds half a score of each column.
                let shear = tiles * u64::from(tile.block_n) / 2;
                assert_eq!(shuffles, shear + of_warp * blocks, "{dtype} head_dim {head_dim}");
                println!(
                    "{dtype} head_dim {head_dim}: {:.1} shuffles and {:.1} passes over the banks a tile",
                    shear as f64 / tiles as f64,
                    shared as f64 / tiles as f64
                );
            }
        }
    }
}

#[test]
fn global_memory_is_moved_by_whole_sectors() {
    if crate::common::mock::on_gpu() {
        return;
    }
    for head_dim in [64, 128] {
        for dtype in [DType::F16, DType::F32] {
            let total =
                counted(&TransformerXl::with_memory([2, 192, 2, head_dim], 128, dtype))["total"]
                    .clone();
            let moved =
                number(&total, "global_sectors_load") + number(&total, "global_sectors_store");
            let ratio = moved as f64 / number(&total, "global_sectors_ideal") as f64;
            assert!(ratio <= 1.03, "{dtype} head_dim {head_dim}: {ratio}");
        }
    }
}
