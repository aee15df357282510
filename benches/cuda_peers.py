"""Full attention on one NVIDIA GPU beside PyTorch's scaled_dot_product_attention: the same shapes,
one run, CUDA events on both sides, the fastest of the launches.

    python3 benches/cuda_peers.py [--longhand target/release/longhand] [--quick] [--json FILE]
    python3 benches/cuda_peers.py --longformer
    python3 benches/cuda_peers.py --lsh [--seconds 35]
    python3 benches/cuda_peers.py --relative [--seconds 35] [--flex-seconds 20]

With --longformer: Longformer's attention, 256 keys on each side and 16 global positions, beside
Hugging Face's LongformerSelfAttention (its linear layers replaced by the identity) and beside full
attention by PyTorch's flash kernel.

With --lsh: LSH attention beside Reformer's in PyTorch, beside Hugging Face's LSHSelfAttention and
beside dense attention. With --relative: Transformer-XL's and the Conformer's relative positions beside
the shift of a matrix of scores, FlexAttention, and attention without positions. Both say first how far
our own PyTorch forms are from float64, and end in --seconds: what then is left says "time". A peer's
cell says "memory", "slow" (a smaller length took a second) or its error where it has no figure.

Prints a table: milliseconds, TFLOP/s of what the mask leaves, and the ratio of each peer's time to
longhand's (above 1: longhand is faster). Needs PyTorch with CUDA and a built `longhand`.
"""

import argparse
import json
import subprocess
import sys

import torch

import cuda_lsh
import cuda_relative
from cuda_timing import BACKENDS, DTYPES, Bench, best_ms_or_none, torch_ms

TOKENS = 16384


def ours(program, batch, heads, length, dim, dtype, causal, repeats, kind="full"):
    command = [program, "bench", kind, "--device", "cuda", "--batch", batch, "--heads", heads,
               "--lengths", length, "--head-dim", dim, "--dtype", dtype, "--repeats", repeats,
               "--json", "-"] + (["--causal"] if causal else [])
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        return None, done.stderr.strip().splitlines()[-1:]
    return json.loads(done.stdout), None


def hugging_face_ms(length, heads, dim, dtype, repeats):
    try:
        from transformers import LongformerConfig
        from transformers.models.longformer.modeling_longformer import LongformerSelfAttention
    except ImportError as error:
        print(error, file=sys.stderr)
        return None
    config = LongformerConfig(hidden_size=heads * dim, num_attention_heads=heads, attention_window=[512],
                              attention_probs_dropout_prob=0.0)
    layer = LongformerSelfAttention(config, 0).cuda().eval()
    for name in ("query", "key", "value", "query_global", "key_global", "value_global"):
        setattr(layer, name, torch.nn.Identity())
    x = torch.randn(1, length, heads * dim, device="cuda", dtype=dtype)
    is_global = torch.zeros(1, length, dtype=torch.bool, device="cuda")
    is_global[0, [n * length // 16 for n in range(16)]] = True
    mask = is_global.to(dtype) * 10000
    masked = torch.zeros_like(is_global)

    def work():
        with torch.no_grad():
            layer(x, attention_mask=mask, is_index_masked=masked, is_index_global_attn=is_global, is_global_attn=True)

    return best_ms_or_none(work, repeats)


def longformer(options):
    heads, dim, repeats = 16, 64, 5
    print("dtype length | longhand ms | Hugging Face ms (ratio) | flash full ms (ratio)")
    for dtype in ("bf16", "f32"):
        for length in (4096, 16384, 65536):
            hugging_face = hugging_face_ms(length, heads, dim, DTYPES[dtype], repeats)
            torch.cuda.empty_cache()
            q, k, v = (torch.randn(1, heads, length, dim, device="cuda", dtype=DTYPES[dtype]) for _ in range(3))
            flash = torch_ms("flash" if dtype != "f32" else "efficient", q, k, v, False, repeats)
            del q, k, v
            torch.cuda.empty_cache()
            found, why = ours(options.longhand, 1, heads, length, dim, dtype, False, repeats, "longformer")
            ms = found["rows"][0]["ms"] if found else None
            show = lambda t: "-" if t is None else f"{t:.3f} ({t / ms:.2f})" if ms else f"{t:.3f}"
            print(f"{dtype:5} {length:6} | {ms if ms else why} | {show(hugging_face)} | {show(flash)}", flush=True)


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--longhand", default="target/release/longhand")
    options.add_argument("--quick", action="store_true")
    options.add_argument("--json")
    for mode in ("--longformer", "--lsh", "--relative"):
        options.add_argument(mode, action="store_true")
    options.add_argument("--seconds", type=float, default=35, help="of --lsh and of --relative")
    options.add_argument("--flex-seconds", type=float, default=20, help="of them for FlexAttention")
    # To try the script without a GPU, on small lengths.
    options.add_argument("--device", default="cuda", help=argparse.SUPPRESS)
    options.add_argument("--lengths", type=lambda text: tuple(map(int, text.split(","))))
    options = options.parse_args()
    if options.lsh or options.relative:
        bench = Bench(options.longhand, options.device, 5, options.seconds)
        lengths = {"lengths": options.lengths} if options.lengths else {}
        if options.lsh:
            cuda_lsh.run(bench, **lengths)
        if options.relative:
            cuda_relative.run(bench, options.flex_seconds, **lengths)
        return
    if options.longformer:
        print(torch.cuda.get_device_name(), "torch", torch.__version__, "cuda", torch.version.cuda)
        return longformer(options)
    repeats = 10 if options.quick else 30
    print(torch.cuda.get_device_name(), "torch", torch.__version__, "cuda", torch.version.cuda)
    cases = []
    for dtype in ("bf16", "f16", "f32"):
        for dim in (64, 128, 256) if dtype == "bf16" else (64, 128):
            for length in (1024, 4096, 16384) if dtype == "bf16" else (4096,):
                for causal in (False, True):
                    cases.append((dtype, dim, length, causal))
    if options.quick:
        cases = [case for case in cases if case[2] == 4096]
    results = []
    print("dtype  dim length causal |  longhand ms  TFLOP/s | " + " | ".join(f"{name} ms (ratio)" for name in BACKENDS))
    for dtype, dim, length, causal in cases:
        batch, heads = max(1, TOKENS // length), 2048 // dim
        torch.manual_seed(1)
        make = lambda: torch.randn(batch, length, heads, dim, device="cuda", dtype=DTYPES[dtype]).transpose(1, 2)
        q, k, v = make(), make(), make()
        peers = {name: torch_ms(name, q, k, v, causal, repeats) for name in BACKENDS}
        del q, k, v
        torch.cuda.empty_cache()
        found, why = ours(options.longhand, batch, heads, length, dim, dtype, causal, repeats)
        pairs = length * (length + 1) // 2 if causal else length * length
        flops = 4 * batch * heads * dim * pairs
        ms = found["rows"][0]["ms"] if found and "rows" in found else None
        if found and ms is None:
            print(json.dumps(found)[:400], file=sys.stderr)
        row = dict(dtype=dtype, dim=dim, length=length, causal=causal, batch=batch, heads=heads,
                   longhand_ms=ms, why=why, peers=peers, flops=flops)
        results.append(row)
        show = lambda t: "-" if t is None else f"{t:.3f} ({t / ms:.2f})" if ms else f"{t:.3f}"
        rate = f"{flops / ms * 1e-9:8.1f}" if ms else f"{why}"
        print(f"{dtype:5} {dim:4} {length:6} {str(causal):6} | {ms if ms is None else round(ms, 4)!s:>12} {rate} | "
              + " | ".join(show(peers[name]) for name in BACKENDS), flush=True)
    if options.json:
        with open(options.json, "w") as file:
            json.dump(dict(device=torch.cuda.get_device_name(), torch=torch.__version__, results=results), file, indent=1)


main()
