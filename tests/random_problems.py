#!/usr/bin/env python3
"""Random problems of every kind, each with its dense float64 answer, for `longhand check`.

    tests/random_problems.py SEED FOLDER [KIND ...]
    longhand check FOLDER/*.safetensors --device cuda

The answers are the definitions written out in NumPy, L x L and in float64, and share no code with
the crate. Seed and kind decide a file, so that a failure is a line to repeat. Needs numpy only.
"""
import json
import math
import os
import struct
import sys

import numpy as np


def rounded(x):
    """To eight significant bits: exact in f32, f16 and bf16."""
    bits = np.asarray(x, np.float32).view(np.uint32)
    return ((bits + 0x8000) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def save(path, op, params, tensors, tolerance="1e-12"):
    """A safetensors file in the format of tests/data."""
    names = {"float32": "F32", "float64": "F64", "int32": "I32", "uint8": "U8"}
    metadata = {
        "format": "longhand-fixture/1",
        "op": op,
        "params": json.dumps(params),
        "source": "dense float64, NumPy " + np.__version__,
        "tolerance": tolerance,
    }
    header, data = {"__metadata__": metadata}, b""
    for name, value in tensors.items():
        value = np.ascontiguousarray(value)
        end = len(data) + value.nbytes
        header[name] = {
            "dtype": names[str(value.dtype)],
            "shape": list(value.shape),
            "data_offsets": [len(data), end],
        }
        data += value.tobytes()
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + data)


def attend(s, allowed, v):
    """out [b, q, h, d] and lse [b, h, q] of scores [b, h, q, k]; a row that sees nothing is 0, -inf."""
    s = np.where(allowed, s, -np.inf)
    m = np.max(s, -1, initial=-1e300)
    p = np.exp(s - m[..., None])
    total = p.sum(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        lse = np.log(total) + np.where(total > 0, m, 0)
        out = np.einsum("bhqk,bkhd->bqhd", np.where(total[..., None] > 0, p / total[..., None], 0), v)
    return out, lse


class Draws:
    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)

    def normal(self, *shape, size=1.0):
        return rounded(self.rng.standard_normal(shape) * size)

    def to(self, low, high):
        return int(self.rng.integers(low, high + 1))

    def of(self, *choices):
        return choices[self.to(0, len(choices) - 1)]

    def maybe(self, p=0.5):
        return bool(self.rng.random() < p)

    def head_dim(self):
        return self.of(8, 16, 24, 32, 40, 64, 64, 64, 72, 80, 96, 128, 128, 192, 256)

    def scale(self, d):
        return self.of(1 / math.sqrt(d), 1 / math.sqrt(d), 0.7 / math.sqrt(d), -1 / math.sqrt(d))

    def valid(self, batch, n):
        valid = (self.rng.random((batch, n)) < self.of(0.9, 0.5)).astype(np.uint8)
        valid[:, n - self.to(0, n // 4):] = 0
        return valid


def distances(n_q, n_k):
    return np.arange(n_q)[:, None] + n_k - n_q - np.arange(n_k)[None]


def window_of(x, n):
    return [x.of(-1, x.to(0, n)), x.of(-1, x.to(0, n))] if x.maybe() else [-1, -1]


def in_window(delta, window):
    left, right = window
    return ((left < 0) | (delta <= left)) & ((right < 0) | (delta >= -right))


def full(x):
    batch, heads_kv, group = x.to(1, 2), x.to(1, 3), x.of(1, 1, 2, 4)
    heads, d = heads_kv * group, x.head_dim()
    n_q, n_k = x.to(1, 300), x.to(1, 400)
    delta = distances(n_q, n_k)
    q, k, v = x.normal(batch, n_q, heads, d, size=2), x.normal(batch, n_k, heads_kv, d), x.normal(batch, n_k, heads_kv, d)
    params = dict(batch=batch, heads_q=heads, heads_kv=heads_kv, head_dim=d, seqlen_q=n_q, seqlen_k=n_k,
                  scale=x.scale(d), causal=x.maybe(), window=window_of(x, n_k), softcap=x.of(0, 0, 15.0))
    tensors = dict(q=q, k=k, v=v)
    wide = lambda t: np.repeat(t.astype(float), group, 2)
    s = params["scale"] * np.einsum("bqhd,bkhd->bhqk", q.astype(float), wide(k))
    if params["softcap"]:
        s = params["softcap"] * np.tanh(s / params["softcap"])
    if x.maybe(0.3):
        tensors["alibi_slopes"] = x.normal(heads, size=0.1)
        s = s - tensors["alibi_slopes"].astype(float)[:, None, None] * np.abs(delta)
    if x.maybe(0.3):
        tensors["bias"] = x.normal(x.of(1, batch), x.of(1, heads), n_q, n_k)
        s = s + tensors["bias"].astype(float)
    allowed = in_window(delta, params["window"]) & ((delta >= 0) | (not params["causal"]))
    allowed = np.broadcast_to(allowed, s.shape)
    if x.maybe(0.4):
        tensors["key_valid"] = x.valid(batch, n_k)
        allowed = allowed & (tensors["key_valid"] > 0)[:, None, None]
    out, lse = attend(s, allowed, wide(v))
    return params, tensors, {"out": out, "lse": lse}


def t5_bias(x):
    batch, heads, d = x.to(1, 2), x.to(1, 4), x.head_dim()
    n_q, n_k = x.to(1, 300), x.to(1, 300)
    buckets, farthest = x.of((32, 128), (8, 20), (16, 64))
    params = dict(batch=batch, heads=heads, head_dim=d, seqlen_q=n_q, seqlen_k=n_k, scale=x.of(1.0, 1 / math.sqrt(d)),
                  causal=x.maybe(), bidirectional=x.maybe(), num_buckets=buckets, max_distance=farthest)
    q, k, v = x.normal(batch, n_q, heads, d, size=d ** -0.5), x.normal(batch, n_k, heads, d), x.normal(batch, n_k, heads, d)
    tensors = dict(q=q, k=k, v=v, bias_table=x.normal(buckets, heads))
    delta = distances(n_q, n_k)

    def bucket(far):
        n, base, m = (buckets // 2, buckets // 2 * (far > 0), abs(far)) if params["bidirectional"] else (buckets, 0, max(-far, 0))
        near = n // 2
        if m < near:
            return base + m
        # An integer power decides where the logarithm lands exactly on an integer.
        steps = n - near
        t = math.log(m / near) / math.log(farthest / near) * steps
        t = round(t) if abs(t - round(t)) < 1e-9 else math.floor(t)
        return base + min(n - 1, near + t)

    table = np.array([bucket(far) for far in range(-(n_k + n_q), n_k + n_q + 1)])
    bias = tensors["bias_table"].astype(float)[table[-delta + n_k + n_q]]
    s = params["scale"] * np.einsum("bqhd,bkhd->bhqk", q.astype(float), k.astype(float)) + bias.transpose(2, 0, 1)
    allowed = np.broadcast_to((delta >= 0) | (not params["causal"]), s.shape)
    if x.maybe(0.4):
        tensors["key_valid"] = x.valid(batch, n_k)
        allowed = allowed & (tensors["key_valid"] > 0)[:, None, None]
    out, lse = attend(s, allowed, v.astype(float))
    return params, tensors, {"out": out, "lse": lse}


def longformer(x):
    batch, heads, d, n = x.to(1, 2), x.to(1, 3), x.head_dim(), x.to(1, 500)
    params = dict(batch=batch, seqlen=n, heads=heads, head_dim=d, scale=x.scale(d),
                  window=[x.to(0, 80), x.to(0, 80)], causal=x.maybe(0.3),
                  dilation=[x.of(1, 1, 2, 3) for _ in range(heads)])
    names = ["q", "k", "v", "q_global", "k_global", "v_global"]
    tensors = {name: x.normal(batch, n, heads, d, size=2 if name[0] == "q" else 1) for name in names}
    most = x.of(0, min(n, 3), min(n, 20), n if n < 120 else 40)
    indices = np.full((batch, most), -1, np.int32)
    valid = x.valid(batch, n) if x.maybe() else np.ones((batch, n), np.uint8)
    is_global = np.zeros((batch, n), bool)
    for b in range(batch):
        count = x.to(0, most)
        indices[b, :count] = x.rng.permutation(n)[:count]
        is_global[b, indices[b, :count]] = True
    tensors |= dict(global_indices=indices, key_valid=valid)
    is_global &= valid > 0
    q, k, v, q_g, k_g, v_g = (tensors[name].astype(float) for name in names)
    i, j = np.arange(n)[:, None], np.arange(n)[None]
    band = np.zeros((heads, n, n), bool)
    for h, step in enumerate(params["dilation"]):
        t, rest = np.divmod(j - i, step)
        band[h] = (rest == 0) & (t >= -params["window"][0]) & (t <= params["window"][1])
    seen = (valid > 0)[:, None, None] & ((j <= i) | (not params["causal"])) & (valid > 0)[:, None, :, None]
    local = (band[None] | is_global[:, None, None]) & seen
    out, lse = attend(params["scale"] * np.einsum("bqhd,bkhd->bhqk", q, k), local, v)
    everywhere = np.broadcast_to(seen, local.shape)
    out_g, lse_g = attend(params["scale"] * np.einsum("bqhd,bkhd->bhqk", q_g, k_g), everywhere, v_g)
    out = np.where(is_global[..., None, None], out_g, out)
    lse = np.where(is_global[:, None], lse_g, lse)
    return params, tensors, {"out": out, "lse": lse}


def lsh(x):
    batch, heads, d = x.to(1, 2), x.to(1, 3), x.head_dim()
    chunk = x.of(4, 8, 16, 32, 64)
    n = chunk * x.to(2, max(2, 400 // chunk))
    rounds, factors = x.to(1, 4), x.of([2], [4], [8], [16], [2, 4], [4, 6])
    params = dict(batch=batch, seqlen=n, heads=heads, head_dim=d, scale=1 / math.sqrt(d), causal=x.maybe(),
                  chunk_len=chunk, num_hashes=rounds, num_buckets=factors, chunks_before=x.to(0, 1), chunks_after=x.to(0, 1))
    tensors = dict(v=x.normal(batch, n, heads, d))
    turns = [x.normal(heads, d, rounds, f // 2) for f in factors]
    for number, turn in enumerate(turns):
        tensors["rotations" if len(turns) == 1 else f"rotations.{number}"] = turn
    # Vectors are drawn again until no hash is a near tie, so that buckets do not hang on rounding.
    qk = x.normal(batch, n, heads, d)
    while True:
        y = [np.einsum("bnhd,hdrk->bhrnk", qk.astype(float), t.astype(float)) for t in turns]
        both = [np.concatenate([t, -t], -1) for t in y]
        order = [np.sort(t, -1) for t in both]
        close = sum((t[..., -1] - t[..., -2] < 1e-3 * math.sqrt(d)).any((1, 2)) for t in order) > 0
        if not close.any():
            break
        b, i = np.nonzero(close)
        qk[b, i] = x.normal(len(b), heads, d)
    tensors["qk"] = qk
    valid = x.valid(batch, n) if x.maybe() else None
    if valid is not None:
        tensors["key_valid"] = valid
    bucket, unit = np.zeros(both[0].shape[:-1], int), 1
    for t, f in zip(both, factors):
        bucket, unit = bucket + unit * t.argmax(-1), unit * f
    if valid is not None:
        bucket = np.where((valid > 0)[:, None, None], bucket, unit)
    q, v = qk.astype(float), tensors["v"].astype(float)
    key = q / np.sqrt((q * q).mean(-1, keepdims=True) + 1e-6)
    outs, lses = np.zeros((batch, heads, rounds, n, d)), np.zeros((batch, heads, rounds, n))
    chunks = rounds * n // chunk
    for b in range(batch):
        for h in range(heads):
            keys = (np.arange(rounds)[:, None] * (unit + 1) + bucket[b, h]).ravel()
            items = np.argsort(keys, kind="stable")
            for c in range(chunks):
                mine = items[c * chunk:(c + 1) * chunk]
                near = range(c - params["chunks_before"], c + params["chunks_after"] + 1)
                theirs = np.concatenate([items[m % chunks * chunk:][:chunk] for m in near])
                i, j = mine % n, theirs % n
                s = params["scale"] * q[b, i, h] @ key[b, j, h].T
                hidden = (j[None] > i[:, None]) & params["causal"]
                if valid is not None:
                    hidden = hidden | (valid[b, j] == 0)[None]
                s = np.where(hidden, -1e9, s)
                s = np.where(i[:, None] == j[None], -1e5, s)
                m = s.max(-1, keepdims=True)
                p = np.exp(s - m)
                outs[b, h, mine // n, i] = p @ v[b, j, h] / p.sum(-1, keepdims=True)
                lses[b, h, mine // n, i] = m[:, 0] + np.log(p.sum(-1))
    m = lses.max(2, keepdims=True)
    share = np.exp(lses - m)
    lse = m[:, :, 0] + np.log(share.sum(2))
    out = np.einsum("bhrnd,bhrn->bnhd", outs, share / share.sum(2, keepdims=True))
    return params, tensors, {"out": out, "lse": lse, "buckets": bucket.astype(np.int32)}


def relative(x, heads, d, rows):
    """Table and biases."""
    return dict(r=x.normal(rows, heads, d), bias_u=x.normal(heads, d, size=0.5), bias_v=x.normal(heads, d, size=0.5))


def relative_scores(q, tensors, params, row):
    k, r, u, w = (tensors[name].astype(float) for name in ["k", "r", "bias_u", "bias_v"])
    content = np.einsum("bqhd,bkhd->bhqk", q + u, k)
    position = np.einsum("bqhd,qkhd->bhqk", q + w, r[row])
    return params["scale"] * (content + position)


def transformer_xl(x):
    batch, heads, d = x.to(1, 2), x.to(1, 3), x.head_dim()
    n, mlen = x.to(1, 200), x.of(0, x.to(1, 150))
    n_k = n + mlen
    params = dict(batch=batch, seqlen_q=n, seqlen_k=n_k, heads=heads, head_dim=d, scale=x.scale(d), mlen=mlen,
                  mem_len=mlen + x.of(0, 20), same_length=x.maybe(0.3), clamp_len=x.of(-1, x.to(1, n_k)))
    # Of the same length as no memory is nothing to see, which the crate refuses.
    params["same_length"] &= params["mem_len"] > 0
    q = x.normal(batch, n, heads, d)
    tensors = dict(q=q, k=x.normal(batch, n_k, heads, d), v=x.normal(batch, n_k, heads, d)) | relative(x, heads, d, n_k + x.of(0, 5))
    delta = distances(n, n_k)
    clamped = np.minimum(delta, params["clamp_len"]) if params["clamp_len"] > 0 else delta
    s = relative_scores(q.astype(float), tensors, params, np.maximum(clamped, 0))
    allowed = (delta >= 0) & ((delta < params["mem_len"]) | (not params["same_length"]))
    out, lse = attend(s, np.broadcast_to(allowed, s.shape), tensors["v"].astype(float))
    return params, tensors, {"out": out, "lse": lse}


def xlnet(x):
    batch, heads, d = x.to(1, 2), x.to(1, 3), x.head_dim()
    n, mlen = x.to(1, 150), x.of(0, x.to(1, 100))
    n_k, streams, causal = n + mlen, x.to(1, 2), x.maybe(0.4)
    params = dict(batch=batch, seqlen_q=n, seqlen_k=n_k, heads=heads, head_dim=d, scale=x.scale(d), causal=causal, mlen=mlen,
                  same_length=causal and x.maybe(), clamp_len=x.of(-1, x.to(1, n_k)), distance_offset=n - 1, streams=streams)
    tensors = dict(q=x.normal(batch, n, heads, d), k=x.normal(batch, n_k, heads, d), v=x.normal(batch, n_k, heads, d))
    tensors |= relative(x, heads, d, n + n_k - 1)
    if streams == 2:
        tensors["q_g"] = x.normal(batch, n, heads, d)
    delta = distances(n, n_k)
    far = np.clip(delta, -params["clamp_len"], params["clamp_len"]) if params["clamp_len"] > 0 else delta
    base = np.broadcast_to(((delta >= 0) | (not causal)) & ((delta <= mlen) | (not params["same_length"])), (batch, 1, n, n_k))
    if x.maybe():
        tensors["seg_q"] = x.rng.integers(0, 3, (batch, n)).astype(np.int32)
        tensors["seg_k"] = np.concatenate([np.zeros((batch, mlen), np.int32), tensors["seg_q"]], 1)
        tensors |= dict(bias_s=x.normal(heads, d, size=0.5), seg_embed=x.normal(2, heads, d))
    if x.maybe():
        hidden = (x.rng.random((batch, n, n_k)) < 0.3).astype(np.uint8)
        hidden[..., :mlen] = 0
        tensors["perm_mask"] = hidden
        base = base & (hidden == 0)[:, None]
    if x.maybe(0.4):
        tensors["key_valid"] = x.valid(batch, n_k)
        base = base & (tensors["key_valid"] > 0)[:, None, None]
    results = {}
    for q, allowed, tail in [("q", base | (delta == 0), ""), ("q_g", base, "_g")][:streams]:
        q = tensors[q].astype(float)
        s = relative_scores(q, tensors, params, far + n - 1)
        if "seg_q" in tensors:
            other = (tensors["seg_q"][:, :, None] != tensors["seg_k"][:, None]).astype(int)
            term = np.einsum("bqhd,xhd->bhqx", q + tensors["bias_s"].astype(float), tensors["seg_embed"].astype(float))
            s = s + params["scale"] * np.take_along_axis(term, np.broadcast_to(other[:, None], s.shape), -1)
        results["out" + tail], results["lse" + tail] = attend(s, np.broadcast_to(allowed, s.shape), tensors["v"].astype(float))
    return params, tensors, results


def rel_pos(x):
    batch, heads, d = x.to(1, 2), x.to(1, 3), x.head_dim()
    n, cached = x.to(1, 200), x.of(0, 0, x.to(1, 60))
    n_k = n + cached
    params = dict(batch=batch, seqlen_q=n, seqlen_k=n_k, heads=heads, head_dim=d, scale=x.scale(d), window=window_of(x, n_k),
                  chunk_size=x.of(0, 0, x.to(1, 40)), left_chunks=x.of(-1, x.to(0, 3)), distance_offset=n - 1)
    q = x.normal(batch, n, heads, d)
    tensors = dict(q=q, k=x.normal(batch, n_k, heads, d), v=x.normal(batch, n_k, heads, d)) | relative(x, heads, d, n + n_k - 1)
    delta = distances(n, n_k)
    allowed = in_window(delta, params["window"])
    size = params["chunk_size"]
    if size:
        ahead = (np.arange(n) + cached)[:, None] // size - np.arange(n_k)[None] // size
        allowed = allowed & (ahead >= 0) & ((ahead <= params["left_chunks"]) | (params["left_chunks"] < 0))
    else:
        params["left_chunks"] = -1
    s = relative_scores(q.astype(float), tensors, params, delta + n - 1)
    allowed = np.broadcast_to(allowed, s.shape)
    if x.maybe(0.4):
        tensors["key_valid"] = x.valid(batch, n_k)
        allowed = allowed & (tensors["key_valid"] > 0)[:, None, None]
    out, lse = attend(s, allowed, tensors["v"].astype(float))
    return params, tensors, {"out": out, "lse": lse}


KINDS = [full, t5_bias, longformer, lsh, transformer_xl, xlnet, rel_pos]


def main():
    if len(sys.argv) < 3 or not sys.argv[1].isdigit():
        sys.exit(__doc__)
    seed, folder, wanted = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
    names = [kind.__name__ for kind in KINDS]
    if unknown := [name for name in wanted if name not in names]:
        sys.exit(f"{unknown[0]} is no kind; kinds are {', '.join(names)}")
    os.makedirs(folder, exist_ok=True)
    for number, kind in enumerate(KINDS):
        if wanted and kind.__name__ not in wanted:
            continue
        for case in range(4):
            params, tensors, results = kind(Draws([seed, number, case]))
            tensors = tensors | {"expected." + name: value for name, value in results.items()}
            save(f"{folder}/{kind.__name__}_{seed}_{case}.safetensors", kind.__name__, params, tensors)


if __name__ == "__main__":
    main()
