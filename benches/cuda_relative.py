"""Relative positions beside what PyTorch offers for them: the mode --relative.

- rel_shift: matrices of content and position scores, the latter shifted by padding, as Transformer-XL's
  authors, NeMo and ESPnet do.
- bias: the shifted matrix alone, given to scaled_dot_product_attention as its mask, as NeMo does too.
- FlexAttention: it cannot make the position scores, so it is given their matrix and reads it shifted.
- no positions: flash (f32: memory-efficient) attention and cuDNN's, which is what positions cost.

Tables run from the farthest distance to the nearest, as published ones do: the key j of query i is
row `length - 1 - i + j`, whatever the memory, in both the causal and the Conformer's table.
"""

import signal
import time
import warnings
from collections import namedtuple

import torch
import torch.nn.functional as F
from torch.nn.attention.bias import causal_lower_right

from cuda_timing import DTYPES, show, show_ours, word

HEADS, DIM = 16, 64
LENGTHS = (1024, 4096, 16384)

Case = namedtuple("Case", "kind dtype length memory")


def inputs(case, heads, dim, device):
    """q, k, v, the table r, the biases u and w, and what a causal query must not see."""
    torch.manual_seed(1)
    make = lambda *shape: torch.randn(*shape, device=device).to(DTYPES[case.dtype])
    keys = case.memory + case.length
    rows = 2 * case.length - 1 if case.kind == "rel_pos" else keys
    q, k, v = (make(1, heads, n, dim) for n in (case.length, keys, keys))
    hidden = None
    if case.kind != "rel_pos":
        hidden = torch.ones(case.length, keys, dtype=torch.bool, device=device).triu(1 + case.memory)
    return q, k, v, make(heads, rows, dim), make(heads, 1, dim), make(heads, 1, dim), hidden


def shifted(x, keys):
    """Position scores [.., query, row of the table] as [.., query, key]; wrong where a key is ahead
    of a causal table, which the mask hides."""
    b, h, length, rows = x.shape
    return F.pad(x, (1, 0)).view(b, h, rows + 1, length)[:, :, 1:].view(b, h, length, rows)[..., :keys]


def rel_shift(q, k, v, r, u, w, hidden):
    scores = (q + u) @ k.transpose(-1, -2)
    scores += shifted((q + w) @ r.transpose(-1, -2), k.shape[2])
    scores *= q.shape[-1] ** -0.5
    if hidden is not None:
        scores.masked_fill_(hidden, float("-inf"))
    return torch.softmax(scores, -1) @ v


def bias(q, k, v, r, u, w, hidden):
    scores = shifted((q + w) @ r.transpose(-1, -2), k.shape[2]) * q.shape[-1] ** -0.5
    if hidden is not None:
        scores.masked_fill_(hidden, float("-inf"))
    return F.scaled_dot_product_attention(q + u, k, v, attn_mask=scores)


def no_positions(case, q, k, v):
    if case.kind == "rel_pos":
        return F.scaled_dot_product_attention(q, k, v)
    if case.memory == 0:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=causal_lower_right(q.shape[2], k.shape[2]))


def flex(q, k, v, r, u, w, mask):
    from torch.nn.attention.flex_attention import flex_attention

    length, rows, scale = q.shape[2], r.shape[1], q.shape[-1] ** -0.5
    positions = (((q + w) * scale) @ r.transpose(-1, -2)).view(-1)

    def score(s, _, head, i, j):
        # Of a key ahead, which the mask hides, any row. In 64 bits: the matrix passes 2^31 elements.
        row = torch.clamp(j + (length - 1) - i, max=rows - 1)
        return s + positions[(head.to(torch.int64) * length + i) * rows + row]

    return flex_attention(q + u, k, v, score_mod=score, block_mask=mask, scale=scale)


def block_mask(case, device):
    from torch.nn.attention.flex_attention import create_block_mask

    if case.kind == "rel_pos":
        return None
    memory = case.memory
    seen = lambda _b, _h, i, j: i + memory >= j
    return create_block_mask(seen, None, None, case.length, memory + case.length, device=device)


def exact(q, k, v, r, u, w, hidden, queries, heads):
    """The formula in float64, of some queries and heads."""
    parts = q[0, heads][:, queries], k[0, heads], v[0, heads], r[heads], u[heads], w[heads]
    q, k, v, r, u, w = (x.double() for x in parts)
    length, keys = hidden.shape if hidden is not None else (k.shape[1], k.shape[1])
    row = length - 1 - queries[:, None] + torch.arange(keys, device=k.device)
    position = torch.einsum("hid,hrd->hir", q + w, r)
    position = position.gather(2, row.clamp(max=r.shape[1] - 1).expand(len(r), -1, -1))
    scores = (torch.einsum("hid,hjd->hij", q + u, k) + position) * q.shape[-1] ** -0.5
    if hidden is not None:
        scores = scores.masked_fill(hidden[queries], float("-inf"))
    return torch.softmax(scores, -1) @ v


def max_error(out, given, queries, heads):
    return (out[0, heads][:, queries] - exact(*given, queries, heads)).abs().max().item()


def check(bench):
    """Whether they are fair peers: each computes what the formula says."""
    for case in (Case("transformer_xl", "f32", 48, 0), Case("transformer_xl", "f32", 48, 16),
                 Case("rel_pos", "f32", 48, 0), Case("transformer_xl", "bf16", 48, 16)):
        given = inputs(case, 2, 64, bench.device)
        queries, heads = torch.arange(case.length, device=bench.device), torch.arange(2, device=bench.device)
        bare = *given[:3], *(torch.zeros_like(x) for x in given[3:6]), given[6]
        fast = "efficient" if case.dtype == "f32" else "flash"
        mask = block_mask(case, bench.device)
        forms = {
            "rel_shift": (given, ["efficient"], lambda: rel_shift(*given)),
            "bias": (given, ["efficient", "cudnn"], lambda: bias(*given)),
            "flex": (given, ["efficient"], lambda: flex(*given[:6], mask)),
            "no positions": (bare, [fast], lambda: no_positions(case, *given[:3])),
        }
        errors = []
        for name, (expected, backends, form) in forms.items():
            try:
                with torch.no_grad(), warnings.catch_warnings(), bench.sdpa(*backends):
                    warnings.simplefilter("ignore")
                    errors.append(f"{name} {max_error(form(), expected, queries, heads):.1e}")
            except Exception as error:  # noqa: BLE001
                errors.append(f"{name} {word(error)}")
        print(f"max error against float64, {case.kind} {case.dtype} memory {case.memory}:", ", ".join(errors), flush=True)


def row(bench, case, own, heads, dim):
    """Times everything but FlexAttention on one case, and prints it."""
    name = lambda peer: (peer, case.kind, case.dtype, case.memory > 0)

    def of(form, *backends):
        def make():
            given = inputs(case, heads, dim, bench.device)

            def work():
                with bench.sdpa(*backends or ["efficient"]):
                    form(*given)

            return work

        return make

    plain = lambda q, k, v, *_: no_positions(case, q, k, v)
    fast = "efficient" if case.dtype == "f32" else "flash"
    shift = bench.peer(name("rel_shift"), case.length, of(rel_shift))
    biased = bench.peer(name("bias"), case.length, of(bias, "efficient", "cudnn"))
    none = bench.peer(name(fast), case.length, of(plain, fast))
    # cuDNN aligns a causal mask to the upper left only.
    cudnn = "-" if case.dtype == "f32" or case.memory else bench.peer(name("cudnn"), case.length, of(plain, "cudnn"))
    cells = [f"{case.kind:14} {case.dtype:5} {case.memory:6} {case.length:6}", show_ours(own, True),
             show(shift, own, True), show(biased, own, True), f"{fast} {show(none, own)}", show(cudnn, own)]
    print(" | ".join(cells), flush=True)


class Alarm:
    """Raises TimeoutError in the block when its seconds are over: torch.compile has no limit of its own."""

    def __init__(self, seconds):
        self.seconds = seconds

    def __enter__(self):
        def ring(*_):
            raise TimeoutError

        self.before = signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, max(self.seconds, 0.01))

    def __exit__(self, *_):
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self.before)


def flex_row(bench, case, own, heads, dim, seconds):
    """Compiles FlexAttention for one case, checks some rows of it, times it, and prints it."""
    began, errors = time.monotonic(), []

    def make():
        torch.compiler.reset()
        given, mask = inputs(case, heads, dim, bench.device), block_mask(case, bench.device)
        compiled = torch.compile(flex, dynamic=False)
        work = lambda: compiled(*given[:-1], mask)
        with Alarm(seconds), torch.no_grad():
            out = work()
        # The last head: its scores are the farthest in memory.
        queries = torch.tensor([0, case.length // 2 + 1, case.length - 1], device=bench.device)
        errors.append(max_error(out, given, queries, torch.tensor([heads - 1], device=bench.device)))
        errors.append(time.monotonic() - began)
        return work

    found = bench.peer(("flex", case), case.length, make) if seconds > 0 else "time"
    checked = f"error {errors[0]:.1e}, compiled in {errors[1]:.1f} s" if errors else "-"
    cells = [f"{case.kind:14} {case.dtype:5} {case.memory:6} {case.length:6}", show_ours(own),
             show(found, own, True), checked]
    print(" | ".join(cells), flush=True)


def run(bench, flex_seconds=20, lengths=LENGTHS, heads=HEADS, dim=DIM):
    check(bench)
    print("kind dtype memory length | longhand ms, workspace | rel_shift ms (ratio) peak | bias, SDPA ms (ratio) peak"
          " | no positions, SDPA | cuDNN", flush=True)
    found, middle = {}, lengths[len(lengths) // 2]
    for dtype in ("bf16", "f32"):
        for memory in (False, True):
            more = ["--causal", *(["--memory", "same"] if memory else [])]
            ours = bench.ours("transformer_xl", dtype, lengths, heads, dim, *more)
            for length in lengths:
                case = Case("transformer_xl", dtype, length, length if memory else 0)
                found[case] = ours[length]
                row(bench, case, ours[length], heads, dim)
        case = Case("rel_pos", dtype, middle, 0)
        found[case] = bench.ours("rel_pos", dtype, [middle], heads, dim)[middle]
        row(bench, case, found[case], heads, dim)

    from torch._inductor import config as inductor

    # One kernel at a time is compiled: workers would only take time to start.
    inductor.compile_threads = 1
    # Last, since a fault in a generated kernel would end all that follows, and the most telling first,
    # since its compilation takes what time is left.
    print(f"\nFlexAttention, {flex_seconds} s in all\nkind dtype memory length | longhand ms | FlexAttention ms"
          " (ratio) peak | checked", flush=True)
    end = time.monotonic() + flex_seconds
    # bf16 before f32, no memory before memory, the middle length before the others.
    telling = lambda case: (case.dtype == "f32", case.memory > 0, case.kind == "rel_pos", case.length != middle,
                            -case.length)
    for case in sorted(found, key=telling):
        flex_row(bench, case, found[case], heads, dim, min(end - time.monotonic(), bench.left()))
