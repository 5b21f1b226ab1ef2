"""Compiles Triton kernels to PTX without a GPU: code that this project's emulator was not written against.

python3 kernels.py OUT: writes OUT/<kernel>.<arch>.ptx and OUT/kernels.json (entry point, shared memory, threads,
constants). Needs the package `triton`; `cargo xtask conformance` provides it.
"""

import json
import pathlib
import sys

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit
def add(x, y, out, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = at < n
    tl.store(out + at, tl.load(x + at, mask=mask) + tl.load(y + at, mask=mask), mask=mask)


@triton.jit
def softmax(x, out, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    mask = at < columns
    v = tl.load(x + row * columns + at, mask=mask, other=-float("inf"))
    e = tl.exp(v - tl.max(v, axis=0))
    tl.store(out + row * columns + at, e / tl.sum(e, axis=0), mask=mask)


@triton.jit
def layer_norm(x, weight, bias, out, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    mask = at < columns
    v = tl.load(x + row * columns + at, mask=mask, other=0.0).to(tl.float32)
    mean = tl.sum(v, axis=0) / columns
    d = tl.where(mask, v - mean, 0.0)
    rstd = tl.rsqrt(tl.sum(d * d, axis=0) / columns + 1e-5)
    y = d * rstd * tl.load(weight + at, mask=mask) + tl.load(bias + at, mask=mask)
    tl.store(out + row * columns + at, y, mask=mask)


@triton.jit
def matmul(a, b, c, m, n, k, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    cols = tl.program_id(1) * BN + tl.arange(0, BN)
    inner = tl.arange(0, BK)
    acc = tl.zeros((BM, BN), dtype=tl.float32)
    for start in range(0, k, BK):
        ks = start + inner
        ta = tl.load(a + rows[:, None] * k + ks[None, :], mask=(rows[:, None] < m) & (ks[None, :] < k), other=0.0)
        tb = tl.load(b + ks[:, None] * n + cols[None, :], mask=(ks[:, None] < k) & (cols[None, :] < n), other=0.0)
        acc = tl.dot(ta, tb, acc)
    tl.store(c + rows[:, None] * n + cols[None, :], acc, mask=(rows[:, None] < m) & (cols[None, :] < n))


@triton.jit
def matmul_i8(a, b, c, m, n, k, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    cols = tl.program_id(1) * BN + tl.arange(0, BN)
    inner = tl.arange(0, BK)
    acc = tl.zeros((BM, BN), dtype=tl.int32)
    for start in range(0, k, BK):
        ks = start + inner
        ta = tl.load(a + rows[:, None] * k + ks[None, :], mask=(rows[:, None] < m) & (ks[None, :] < k), other=0)
        tb = tl.load(b + ks[:, None] * n + cols[None, :], mask=(ks[:, None] < k) & (cols[None, :] < n), other=0)
        acc = tl.dot(ta, tb, acc)
    tl.store(c + rows[:, None] * n + cols[None, :], acc, mask=(rows[:, None] < m) & (cols[None, :] < n))


@triton.jit
def attention(q, k, v, out, length, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    """Causal flash attention, one head a program in y."""
    head = tl.program_id(1) * length * D
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    d = tl.arange(0, D)
    tq = tl.load(q + head + rows[:, None] * D + d[None, :], mask=rows[:, None] < length, other=0.0)
    best = tl.full((BM,), -float("inf"), dtype=tl.float32)
    total = tl.zeros((BM,), dtype=tl.float32)
    acc = tl.zeros((BM, D), dtype=tl.float32)
    for start in range(0, (tl.program_id(0) + 1) * BM, BN):
        cols = start + tl.arange(0, BN)
        tk = tl.load(k + head + cols[None, :] * D + d[:, None], mask=cols[None, :] < length, other=0.0)
        s = tl.dot(tq, tk) * (1.4426950408889634 / (D**0.5))
        s = tl.where((rows[:, None] >= cols[None, :]) & (cols[None, :] < length), s, -float("inf"))
        new = tl.maximum(best, tl.max(s, axis=1))
        p = tl.exp2(s - new[:, None])
        scale = tl.exp2(best - new)
        tv = tl.load(v + head + cols[:, None] * D + d[None, :], mask=cols[:, None] < length, other=0.0)
        acc = tl.dot(p.to(tv.dtype), tv, acc * scale[:, None])
        total = total * scale + tl.sum(p, axis=1)
        best = new
    tl.store(out + head + rows[:, None] * D + d[None, :], acc / total[:, None], mask=rows[:, None] < length)


@triton.jit
def histogram(x, counts, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = at < n
    bucket = tl.load(x + at, mask=mask, other=0)
    tl.atomic_add(counts + bucket, 1, mask=mask, sem="relaxed")


@triton.jit
def scan(x, out, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    mask = at < columns
    v = tl.load(x + row * columns + at, mask=mask, other=0)
    tl.store(out + row * columns + at, tl.cumsum(v, axis=0), mask=mask)


@triton.jit
def argmax(x, out, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    v = tl.load(x + row * columns + at, mask=at < columns, other=-float("inf"))
    tl.store(out + row, tl.argmax(v, axis=0))


@triton.jit
def sort(x, out, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + at, tl.sort(tl.load(x + at)))


F32, F16, BF16, I8, I32 = "*fp32", "*fp16", "*bf16", "*i8", "*i32"
# name: (function, types of the arguments, constants, warps, stages)
KERNELS = {
    "add_f32": (add, [F32, F32, F32, "i32"], {"BLOCK": 1024}, 4, 1),
    "add_bf16": (add, [BF16, BF16, BF16, "i32"], {"BLOCK": 512}, 4, 1),
    "softmax_f32": (softmax, [F32, F32, "i32"], {"BLOCK": 1024}, 4, 1),
    "layer_norm_f16": (layer_norm, [F16, F32, F32, F16, "i32"], {"BLOCK": 512}, 8, 1),
    "matmul_f16": (matmul, [F16, F16, F32, "i32", "i32", "i32"], {"BM": 64, "BN": 64, "BK": 32}, 4, 3),
    "matmul_bf16": (matmul, [BF16, BF16, F32, "i32", "i32", "i32"], {"BM": 128, "BN": 64, "BK": 32}, 4, 2),
    "matmul_tf32": (matmul, [F32, F32, F32, "i32", "i32", "i32"], {"BM": 64, "BN": 32, "BK": 32}, 4, 2),
    "matmul_i8": (matmul_i8, [I8, I8, I32, "i32", "i32", "i32"], {"BM": 64, "BN": 64, "BK": 64}, 4, 2),
    "attention_f16": (attention, [F16, F16, F16, F32, "i32"], {"D": 64, "BM": 64, "BN": 32}, 4, 2),
    "histogram_i32": (histogram, [I32, I32, "i32"], {"BLOCK": 512}, 4, 1),
    "scan_i32": (scan, [I32, I32, "i32"], {"BLOCK": 1024}, 4, 1),
    "argmax_f32": (argmax, [F32, I32, "i32"], {"BLOCK": 1024}, 4, 1),
    "sort_f32": (sort, [F32, F32], {"BLOCK": 256}, 4, 1),
}


def main(out):
    out.mkdir(parents=True, exist_ok=True)
    table = []
    for name, (function, types, constants, warps, stages) in KERNELS.items():
        names = function.arg_names
        signature = dict(zip(names, types)) | {c: "constexpr" for c in constants}
        for capability in (80, 90):
            source = ASTSource(fn=function, signature=signature, constexprs=dict(constants))
            kernel = triton.compile(
                source, target=GPUTarget("cuda", capability, 32), options={"num_warps": warps, "num_stages": stages}
            )
            file = f"{name}.sm_{capability}.ptx"
            (out / file).write_text(kernel.asm["ptx"])
            table.append({
                "kernel": name, "arch": capability, "file": file, "entry": kernel.metadata.name,
                "shared": kernel.metadata.shared, "threads": 32 * warps, "constants": constants,
            })
    (out / "kernels.json").write_text(json.dumps(table, indent=1))
    print(f"triton {triton.__version__}: {len(table)} PTX files in {out}")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
