"""What the modes of cuda_peers.py share: longhand's times and a peer's, and how a row shows them."""

import contextlib
import json
import subprocess
import sys
import time

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}
DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}
# A launch that takes longer is measured once, and greater lengths of the same peer not at all.
SLOW_MS = 1000
MOST_BYTES = 60e9


class Bench:
    """One run: where it computes, how often, and until when."""

    def __init__(self, longhand, device, repeats, seconds):
        self.longhand, self.device, self.repeats = longhand, device, repeats
        self.deadline = time.monotonic() + seconds
        self.slow = {}
        if device == "cuda":
            total = torch.cuda.get_device_properties(0).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, MOST_BYTES / total))
            print(torch.cuda.get_device_name(), "torch", torch.__version__, "cuda", torch.version.cuda, flush=True)

    def left(self):
        return self.deadline - time.monotonic()

    def ours(self, kind, dtype, lengths, heads, dim, *more):
        """{length: its row of longhand's JSON, or in a word why there is none}, from one process."""
        if self.left() <= 0:
            return dict.fromkeys(lengths, "time")
        if self.device == "cuda":
            torch.cuda.empty_cache()
        command = [self.longhand, "bench", kind, "--device", self.device, "--batch", 1, "--heads", heads,
                   "--lengths", ",".join(map(str, lengths)), "--head-dim", dim, "--dtype", dtype,
                   "--repeats", self.repeats, "--json", "-", *more]
        try:
            done = subprocess.run([str(part) for part in command], capture_output=True, text=True,
                                  timeout=self.left())
        except subprocess.TimeoutExpired:
            return dict.fromkeys(lengths, "time")
        except OSError as error:
            return dict.fromkeys(lengths, word(error))
        if done.returncode != 0:
            print(done.stderr.strip(), file=sys.stderr)
        rows = json.loads(done.stdout)["rows"] if done.stdout else []
        return dict.fromkeys(lengths, "failed") | {row["seqlen"]: row for row in rows}

    def peer(self, name, length, make):
        """(ms, peak bytes beyond what was there) of the launch that `make` returns, or a word."""
        if self.left() <= 0:
            return "time"
        if length >= self.slow.get(name, length + 1):
            return "slow"
        try:
            if self.device == "cuda":
                torch.cuda.empty_cache()
            work = make()
            before = self.memory()
            with torch.no_grad():
                ms = best_ms(work, self.repeats, self.device)
        except Exception as error:  # noqa: BLE001: whatever it is, the other peers go on
            return word(error)
        if ms > SLOW_MS:
            self.slow[name] = length
        return ms, self.memory(peak=True) - before

    def memory(self, peak=False):
        if self.device != "cuda":
            return 0
        if not peak:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated()

    def sdpa(self, *names):
        """The context in which PyTorch takes one of these backends (on a CPU: any)."""
        if self.device != "cuda":
            return contextlib.nullcontext()
        return sdpa_kernel([BACKENDS[name] for name in names])


def best_ms(work, repeats, device="cuda"):
    """Milliseconds of the fastest of `repeats` launches after three, or of the second if that is slow."""
    work()
    second = one_ms(work, device)
    if second > SLOW_MS:
        return second
    work()
    return min(one_ms(work, device) for _ in range(repeats))


def one_ms(work, device):
    if device != "cuda":
        began = time.perf_counter()
        work()
        return (time.perf_counter() - began) * 1e3
    torch.cuda.synchronize()
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    work()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


def best_ms_or_none(work, repeats):
    try:
        return best_ms(work, repeats)
    except RuntimeError:
        return None


def torch_ms(backend, q, k, v, causal, repeats):
    with sdpa_kernel(BACKENDS[backend]):
        return best_ms_or_none(lambda: F.scaled_dot_product_attention(q, k, v, is_causal=causal), repeats)


def word(error):
    """Why a peer has no figure, in a word; the whole of it, where that says little, on stderr."""
    if isinstance(error, torch.OutOfMemoryError):
        return "memory"
    # torch.compile wraps it.
    if "TimeoutError" in f"{error!r}":
        return "time"
    if isinstance(error, ImportError):
        return "absent"
    if "No available kernel" in str(error):
        return "no-kernel"
    print(f"{type(error).__name__}: {str(error)[:600]}", file=sys.stderr)
    return type(error).__name__


def show(found, ours, memory=False):
    """A peer's cell: milliseconds, in brackets how many times ours, and its peak."""
    if isinstance(found, str):
        return found
    ms, peak = found
    ratio = "" if isinstance(ours, str) else f" ({ms / ours['ms']:.2f})"
    return f"{ms:.3f}{ratio}" + (f" {peak / 1e9:.2f} GB" if memory else "")


def show_ours(ours, memory=False):
    if isinstance(ours, str):
        return ours
    return f"{ours['ms']:.3f}" + (f" {ours['workspace_bytes'] / 1e9:.2f} GB" if memory else "")
