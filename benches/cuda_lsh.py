"""LSH attention beside Reformer's in PyTorch and beside dense attention: the mode --lsh.

`reformer` is the usual formulation (hash by random rotations, sort, gather chunks, look one back,
mask, softmax, merge the rounds by logsumexp), vectorised, with nothing computed twice; Hugging Face's
is the library's own module with its projections replaced by the identity.
"""

import torch
import torch.nn.functional as F

from cuda_timing import DTYPES, show, show_ours

HEADS, DIM, CHUNK = 16, 64, 64
LENGTHS, ROUNDS = (4096, 16384, 65536), (1, 4)
SELF = -1e5


def num_buckets(length, chunk):
    """As Hugging Face and longhand choose: factors of a power of two."""
    bits = (2 * (length // chunk)).bit_length() - 1
    if 1 << bits <= 2 * max(int((length // chunk) ** 0.5), chunk):
        return [1 << bits]
    return [1 << bits // 2, 1 << bits - bits // 2]


def hashed(qk, rotations, factors):
    """Buckets [heads, rounds, length] of qk [heads, length, dim] by rotations [heads, dim, rounds, sum/2]."""
    rotated = torch.einsum("hld,hdrn->hrln", qk, rotations)
    buckets, stride = 0, 1
    for factor, part in zip(factors, rotated.split([factor // 2 for factor in factors], -1)):
        buckets = buckets + stride * torch.cat([part, -part], -1).argmax(-1)
        stride *= factor
    return buckets


def look_back(x):
    """Chunks [heads, chunks, chunk, ..] with the one before each, over all rounds as one ring."""
    return torch.cat([x.roll(1, 1), x], 2)


def attend(qk, v, buckets, chunk):
    heads, length, dim = qk.shape
    rounds = buckets.shape[1]
    # A sort of each round is the sort of all by (round, bucket, position).
    order = torch.sort(buckets, dim=-1, stable=True).indices
    base = length * torch.arange(heads, device=qk.device)[:, None, None]
    rows = (order + base).view(-1)
    chunks = lambda x: x.reshape(heads * length, dim).index_select(0, rows).view(heads, -1, chunk, dim)
    q, v, position = chunks(qk), chunks(v), order.view(heads, -1, chunk)
    scores = q @ look_back(F.normalize(q, dim=-1)).transpose(2, 3)
    scores.masked_fill_(position[..., :, None] == look_back(position)[..., None, :], SELF)
    lse = scores.logsumexp(-1, keepdim=True)
    out = scores.sub_(lse).exp_() @ look_back(v)

    places = torch.arange(length, device=qk.device).expand_as(order)
    inverse = torch.empty_like(order).scatter_(-1, order, places)
    inverse += length * torch.arange(heads * rounds, device=qk.device).view(heads, rounds, 1)
    back = lambda x: x.view(heads * rounds * length, -1).index_select(0, inverse.view(-1)).view(heads, rounds, length, -1)
    if rounds == 1:
        return back(out)[:, 0]
    return (back(out) * torch.softmax(back(lse), 1)).sum(1)


def reformer(qk, v, rotations, factors, chunk):
    return attend(qk, v, hashed(qk, rotations, factors), chunk)


def dense(qk, v, buckets, chunk):
    """The same in float64 by a matrix of how often a query meets a key."""
    heads, rounds, length = buckets.shape
    qk, v = qk.double(), v.double()
    keys = buckets + (buckets.max() + 1) * torch.arange(rounds, device=buckets.device)[None, :, None]
    order = torch.sort(keys.view(heads, -1), stable=True).indices % length
    met = torch.zeros(heads, length, length, dtype=torch.float64, device=qk.device)
    for head in range(heads):
        pieces = order[head].split(chunk)
        for n, piece in enumerate(pieces):
            seen = torch.cat([pieces[n - 1], piece])
            pairs = piece[:, None].expand(-1, 2 * chunk), seen[None].expand(chunk, -1)
            met[head].index_put_(pairs, met.new_ones(()), accumulate=True)
    scores = qk @ (qk / qk.norm(dim=-1, keepdim=True)).transpose(1, 2)
    scores = scores - 1e5 * torch.eye(length, dtype=torch.float64, device=qk.device)
    weights = met * torch.exp(scores - scores.amax(-1, keepdim=True))
    return weights @ v / weights.sum(-1, keepdim=True)


def inputs(length, heads, dim, rounds, factors, dtype, device):
    torch.manual_seed(1)
    make = lambda *shape: torch.randn(*shape, device=device).to(dtype)
    return make(heads, length, dim), make(heads, length, dim), make(heads, dim, rounds, sum(factors) // 2)


def check(device):
    """Whether `reformer` is a fair peer: it computes what the formula says."""
    factors, chunk = [4, 8], 16
    for dtype in ("f32", "bf16"):
        qk, v, rotations = inputs(256, 2, 64, 4, factors, DTYPES[dtype], device)
        mine = hashed(qk, rotations, factors)
        exact = hashed(qk.double(), rotations.double(), factors)
        error = (reformer(qk, v, rotations, factors, chunk) - dense(qk, v, mine, chunk)).abs().max().item()
        print(f"PyTorch's Reformer against float64, {dtype}: max error {error:.1e}; hashed otherwise than in"
              f" float64: {(mine != exact).sum().item()} of {mine.numel()}", flush=True)


def hugging_face(length, rounds, dtype, device, heads, dim, chunk):
    from transformers import ReformerConfig, logging
    from transformers.models.reformer.modeling_reformer import LSHSelfAttention

    logging.set_verbosity_error()
    config = ReformerConfig(
        hidden_size=heads * dim, num_attention_heads=heads, attention_head_size=dim, num_hashes=rounds,
        lsh_attn_chunk_length=chunk, lsh_num_chunks_before=1, lsh_num_chunks_after=0, num_buckets=None,
        lsh_attention_probs_dropout_prob=0.0, is_decoder=False, max_position_embeddings=length)
    layer = LSHSelfAttention(config).to(device).eval()
    layer.query_key = layer.value = torch.nn.Identity()
    x = torch.randn(1, length, heads * dim, device=device).to(dtype)
    return lambda: layer(x)


def run(bench, lengths=LENGTHS, heads=HEADS, dim=DIM, chunk=CHUNK):
    device = bench.device
    check(device)
    print("dtype rounds length | longhand ms, workspace | PyTorch ms (ratio) peak | Hugging Face ms (ratio) peak"
          " | dense SDPA ms (ratio)", flush=True)
    dense_found = {}
    for dtype in ("bf16", "f32"):
        backend = "efficient" if dtype == "f32" else "flash"
        for rounds in ROUNDS:
            ours = bench.ours("lsh", dtype, lengths, heads, dim, "--num-hashes", rounds, "--chunk-len", chunk)
            for length in lengths:

                def plain():
                    factors = num_buckets(length, chunk)
                    given = inputs(length, heads, dim, rounds, factors, DTYPES[dtype], device)
                    return lambda: reformer(*given, factors, chunk)

                def full():
                    q, k, v = torch.randn(3, 1, heads, length, dim, device=device).to(DTYPES[dtype])

                    def work():
                        with bench.sdpa(backend):
                            F.scaled_dot_product_attention(q, k, v)

                    return work

                case = dtype, rounds
                mine = bench.peer(("reformer", *case), length, plain)
                theirs = bench.peer(("hf", *case), length, lambda: hugging_face(
                    length, rounds, DTYPES[dtype], device, heads, dim, chunk))
                if (dtype, length) not in dense_found:
                    dense_found[dtype, length] = bench.peer(("dense", dtype), length, full)
                own = ours[length]
                cells = [f"{dtype:5} {rounds} {length:6}", show_ours(own, True), show(mine, own, True),
                         show(theirs, own, True), f"{backend} {show(dense_found[dtype, length], own)}"]
                print(" | ".join(cells), flush=True)
