"""reformer_pytorch's LSHAttention on the CPU. Variants: 1t, 2t.

Its hash draws rotations of its own and has one factor of buckets; it is replaced by one that takes
the case's, and as long. Its scores are divided by sqrt(head_dim) once more than the case's, which
queries sqrt(head_dim) times as long undo (keys are normalised, and so is nothing else changed).
"""

import os
import sys

# A waiting thread must not count as a working one.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
import protocol  # noqa: E402
import torch  # noqa: E402
from reformer_pytorch.reformer_pytorch import LSHAttention  # noqa: E402


def open_case(case):
    if case.kind != "lsh" or case.direction != "forward" or case.dtype != "f32":
        raise ValueError("lsh, forward, f32 only")
    b, l, h, d = case.batch, case.seqlen, case.heads, case.head_dim
    if l % (2 * case.chunk):
        raise ValueError("a length that 2 * chunk divides")
    torch.set_num_threads(int(case.variant.rstrip("t")))
    columns = sum(case.buckets) // 2
    qk, v, rotations = protocol.read_inputs(case, [(b, l, h, d)] * 2 + [(h, d, case.rounds, columns)])
    by_head = lambda x: torch.from_numpy(x).transpose(1, 2).reshape(b * h, l, d).contiguous()  # noqa: E731
    qk, v = by_head(qk) * d**0.5, by_head(v)
    rotations = torch.from_numpy(rotations).repeat(b, 1, 1, 1)
    total = 1
    for factor in case.buckets:
        total *= factor
    offsets = (torch.arange(case.rounds) * total).reshape(1, -1, 1)

    def hash_vectors(_, vectors, **__):
        rotated = torch.einsum("btf,bfhi->bhti", vectors, rotations)
        buckets, stride, first = 0, 1, 0
        for factor in case.buckets:
            y = rotated[..., first : first + factor // 2]
            buckets = buckets + stride * torch.argmax(torch.cat([y, -y], dim=-1), dim=-1)
            stride, first = stride * factor, first + factor // 2
        return (buckets + offsets).reshape(b * h, -1)

    module = LSHAttention(bucket_size=case.chunk, n_hashes=case.rounds, causal=bool(case.causal)).eval()
    module.hash_vectors = hash_vectors

    def run():
        with torch.no_grad():
            out = module(qk, v)[0]
        return lambda: out.reshape(b, h, l, d).transpose(1, 2).contiguous().numpy()

    return run


protocol.serve(open_case)
