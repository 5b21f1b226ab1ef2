#!/usr/bin/env python3
"""One whole training step of trimoe's reference model in PyTorch eager, on the CPU, for speed comparison only.

    python torch_step.py --ffn clustered --preset small --steps 10 --warmup 3 --threads 2 --json
    python torch_step.py --check

A step is: zero the gradients, forward, loss, backward, clip the global norm to 1, AdamW. Tokens are random; making
them is outside the clock.
"""

import argparse
import json
import math
import statistics
import sys
import time
from dataclasses import asdict, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torch_moe import Clustered, Config, Dense, Flat

PRESETS = {
    "tiny": Config(64, 128, 2, 2, experts=8, clusters=2, topk=2, rank=8, vocab=512, seq=64, batch=4),
    "small": Config(256, 768, 4, 4, experts=32, clusters=4, topk=2, rank=16, vocab=8192, seq=256, batch=8),
}


# ---- the model around it ---------------------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self, c: Config):
        super().__init__()
        self.heads = c.heads
        self.norm_attn, self.norm_ffn = nn.RMSNorm(c.hidden, eps=1e-5), nn.RMSNorm(c.hidden, eps=1e-5)
        self.qkv = nn.Linear(c.hidden, 3 * c.hidden, bias=False)
        self.out = nn.Linear(c.hidden, c.hidden, bias=False)
        self.ffn = {"dense": Dense, "flat": Flat, "clustered": Clustered}[c.ffn](c)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor):  # x [B, S, d]
        b, s, d = x.shape
        qkv = self.qkv(self.norm_attn(x)).view(b, s, 3, self.heads, d // self.heads)
        qk, v = qkv[:, :, :2], qkv[:, :, 2]
        low, high = qk.chunk(2, dim=-1)  # [B, S, 2, H, d/H/2]
        q, k = torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1).unbind(2)
        a = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True)
        x = x + self.out(a.transpose(1, 2).reshape(b, s, d))
        y, balance = self.ffn(self.norm_ffn(x).view(-1, d))
        return x + y.view(b, s, d), balance


class Model(nn.Module):
    def __init__(self, c: Config):
        super().__init__()
        self.c = c
        self.embedding = nn.Embedding(c.vocab, c.hidden)  # tied with the output projection
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.layers))
        self.norm = nn.RMSNorm(c.hidden, eps=1e-5)
        half = c.hidden // c.heads // 2
        angle = torch.arange(c.seq).outer(10000.0 ** (-torch.arange(half) / half)).view(c.seq, 1, 1, half)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)
        for w in self.modules():
            if isinstance(w, (nn.Linear, nn.Embedding)):
                nn.init.normal_(w.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:  # [B, S + 1] -> mean loss
        x = self.embedding(tokens[:, :-1])
        balances = []
        for block in self.blocks:
            x, balance = block(x, self.cos, self.sin)
            balances.append(balance)
        logits = F.linear(self.norm(x).view(-1, self.c.hidden), self.embedding.weight)  # [T, vocab]
        loss = F.cross_entropy(logits, tokens[:, 1:].reshape(-1))
        return loss if balances[0] is None else loss + sum(balances)


# ---- commands --------------------------------------------------------------------------------------------------


def measure(c: Config, args: argparse.Namespace) -> dict:
    """Trains for `warmup + steps` steps and times the last `steps`, each by itself."""
    torch.manual_seed(args.seed)
    model = Model(c)
    # AdamW's implementation: None is PyTorch's own choice on the CPU (a loop over tensors).
    choice = {"default": {}, "foreach": {"foreach": True}, "fused": {"fused": True}}[args.optimizer]
    adamw = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, **choice)
    seconds, losses = [], []
    for step in range(args.warmup + args.steps):
        tokens = torch.randint(c.vocab, (c.batch, c.seq + 1))
        start = time.perf_counter()
        adamw.zero_grad(set_to_none=True)
        loss = model(tokens)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adamw.step()
        losses.append(loss.item())
        if step >= args.warmup:
            seconds.append(time.perf_counter() - start)
    if not all(map(math.isfinite, losses)):
        raise SystemExit(f"error: the loss of --ffn {c.ffn} is not finite: {losses}")
    tokens = c.batch * c.seq
    return {
        "tokens_per_s": tokens / statistics.median(seconds),
        "tokens_per_s_min": tokens / max(seconds),
        "tokens_per_s_max": tokens / min(seconds),
        "seconds": seconds,
        "loss_first": losses[0],
        "loss_last": losses[-1],
        "params_total": sum(p.numel() for p in model.parameters()),
        "config": asdict(c),
        "optimizer": args.optimizer,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def check() -> None:
    """The two clustered forms agree to 1e-5 (relative, Frobenius): output, input gradient, every weight's gradient."""
    worst = 0.0
    for topk in (1, 2, 3):
        torch.manual_seed(topk)
        c = replace(PRESETS["tiny"], ffn="clustered", topk=topk)
        slots, once = Clustered(c), Clustered(replace(c, base_once=True))
        with torch.no_grad():  # every weight at random: residuals that start at zero would hide their errors
            for p in slots.parameters():
                p.normal_(std=0.3)
        once.load_state_dict(slots.state_dict())
        x, dy = torch.randn(2, 300, c.hidden)
        found = []
        for layer in (slots, once):
            leaf = x.clone().requires_grad_()
            y, balance = layer(leaf)
            ((y * dy).sum() + balance).backward()
            found.append({"y": y, "dx": leaf.grad} | {n: p.grad for n, p in layer.named_parameters()})
        for name, want in found[0].items():
            if want is None:  # an expert that no token chose
                continue
            error = ((found[1][name] - want).norm() / want.norm().clamp(min=1e-30)).item()
            worst = max(worst, error)
            if not error <= 1e-5:
                raise SystemExit(f"error: topk {topk}, {name}: base-once differs from per-slot by {error:.2e}")
    print(f"check passed: base-once equals per-slot within 1e-5 (largest relative difference {worst:.1e})")


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--ffn", choices=["dense", "flat", "clustered"], default="clustered")
    p.add_argument("--base-once", action="store_true", help="clustered: multiply each token with the base once")
    p.add_argument("--preset", choices=sorted(PRESETS), default="small")
    p.add_argument("--inner", type=int, help="inner size, instead of the preset's")
    p.add_argument("--steps", type=int, default=10)
    p.add_argument("--warmup", type=int, default=3)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--optimizer", choices=["default", "foreach", "fused"], default="foreach", help="AdamW's form")
    p.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    p.add_argument("--check", action="store_true", help="check the two clustered forms against each other, and exit")
    args = p.parse_args()
    if args.steps < 1 or args.warmup < 0 or args.threads < 1 or (args.inner is not None and args.inner < 1):
        p.error("--steps, --threads and --inner must be at least 1, --warmup at least 0")
    if args.base_once and args.ffn != "clustered":
        p.error(f"--base-once needs --ffn clustered, not {args.ffn}")
    torch.set_num_threads(args.threads)
    if args.check:
        return check()
    c = replace(PRESETS[args.preset], ffn=args.ffn, base_once=args.base_once)
    result = measure(c if args.inner is None else replace(c, inner=args.inner), args)
    if args.json:
        print(json.dumps(result))
    else:
        low, high = result["tokens_per_s_min"], result["tokens_per_s_max"]
        print(f"{result['tokens_per_s']:.0f} tokens/s (median of {args.steps} steps; {low:.0f} to {high:.0f})")


if __name__ == "__main__":
    sys.exit(main())
