#!/usr/bin/env python3
"""One whole training step of trimoe's reference model in PyTorch eager, on the CPU, for speed comparison only.

    python torch_step.py --model MODEL --batch 8 --precision bf16 --form once --steps 10 --warmup 3 --threads 2
    python torch_step.py --check

MODEL is the JSON object that `trimoe inspect --json` has under `model`. A step is: zero the gradients, forward, loss,
backward, clip the global norm to 1, AdamW. Tokens are random; making them is outside the clock. The last line printed is a
JSON object with the seconds of each step after the warm-up.
"""

import argparse
import contextlib
import json
import math
import sys
import time
from dataclasses import fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torch_grouped import ClusteredGrouped, FlatGrouped
from torch_moe import Clustered, ClusteredOnce, Config, Dense, Flat

# The forms of each layer, the plain one first.
FORMS = {
    "dense": {"eager": Dense},
    "flat": {"eager": Flat, "grouped": FlatGrouped},
    "clustered": {"slot": Clustered, "once": ClusteredOnce, "grouped": ClusteredGrouped},
}


# ---- the model around it ---------------------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self, c: Config, form: str):
        super().__init__()
        self.heads = c.heads
        self.norm_attn, self.norm_ffn = (nn.RMSNorm(c.hidden, eps=c.norm_eps) for _ in range(2))
        self.qkv = nn.Linear(c.hidden, 3 * c.hidden, bias=False)
        self.out = nn.Linear(c.hidden, c.hidden, bias=False)
        self.ffn = FORMS[c.ffn][form](c)

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
    def __init__(self, c: Config, form: str):
        super().__init__()
        self.c = c
        self.embedding = nn.Embedding(c.vocab, c.hidden)  # tied with the output projection
        self.blocks = nn.ModuleList(Block(c, form) for _ in range(c.layers))
        self.norm = nn.RMSNorm(c.hidden, eps=c.norm_eps)
        half = c.hidden // c.heads // 2
        angle = torch.arange(c.seq).outer(c.rope_theta ** (-torch.arange(half) / half)).view(c.seq, 1, 1, half)
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
    model = Model(c, args.form)
    # AdamW's implementation: None is PyTorch's own choice on the CPU (a loop over tensors).
    choice = {"default": {}, "foreach": {"foreach": True}, "fused": {"fused": True}}[args.optimizer]
    adamw = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, **choice)
    mixed = args.precision == "bf16"
    seconds, losses = [], []
    for step in range(args.warmup + args.steps):
        tokens = torch.randint(c.vocab, (args.batch, c.seq + 1))
        start = time.perf_counter()
        adamw.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16) if mixed else contextlib.nullcontext():
            loss = model(tokens)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adamw.step()
        losses.append(loss.item())
        if step >= args.warmup:
            seconds.append(time.perf_counter() - start)
    if not all(map(math.isfinite, losses)):
        raise SystemExit(f"error: the loss is not finite: {losses}")
    return {"seconds": seconds, "loss_first": losses[0], "loss_last": losses[-1], "torch": torch.__version__}


def copied(layer: nn.Module, plain: nn.Module) -> nn.Module:
    """`layer` with the weights of `plain`, stacked where its own are."""
    lists = {name: torch.stack(list(w)) for name, w in plain.named_children() if isinstance(w, nn.ParameterList)}
    own = layer.state_dict()
    layer.load_state_dict({name: lists[name] if name in lists else plain.state_dict()[name] for name in own})
    return layer


def flattened(layer: nn.Module) -> dict:
    """Gradients by name; a list of matrices is one stack, and a matrix that no token chose has a gradient of zeros."""
    lists = {n: w for n, w in layer.named_children() if isinstance(w, nn.ParameterList)}
    found = {n: torch.stack([torch.zeros_like(p) if p.grad is None else p.grad for p in w]) for n, w in lists.items()}
    return found | {n: p.grad for n, p in layer.named_parameters() if n.split(".")[0] not in lists}


def check() -> None:
    """All forms of a layer agree to 1e-5 (relative, Frobenius): output, input gradient, every weight's gradient."""
    worst = 0.0
    tiny = Config("flat", 512, 64, 128, 2, 2, 64, experts=8, clusters=2, topk=2, rank=8, rope_theta=1e4, norm_eps=1e-5)
    for ffn, topk in [(ffn, topk) for ffn in ("flat", "clustered") for topk in (1, 2, 3)]:
        torch.manual_seed(topk)
        c = replace(tiny, ffn=ffn, topk=topk)
        plain, *others = FORMS[ffn].values()
        plain = plain(c)
        with torch.no_grad():  # every weight at random: residuals that start at zero would hide their errors
            for p in plain.parameters():
                p.normal_(std=0.3)
        x, dy = torch.randn(2, 300, c.hidden)
        found = []
        for layer in [plain] + [copied(form(c), plain) for form in others]:
            leaf = x.clone().requires_grad_()
            y, balance = layer(leaf)
            ((y * dy).sum() + balance).backward()
            found.append({"y": y, "dx": leaf.grad} | flattened(layer))
        for form, got in zip(others, found[1:]):
            for name, want in found[0].items():
                error = ((got[name] - want).norm() / want.norm().clamp(min=1e-30)).item()
                worst = max(worst, error)
                if not error <= 1e-5:
                    raise SystemExit(f"error: topk {topk}, {form.__name__}, {name}: differs by {error:.2e}")
    print(f"check passed: all forms agree within 1e-5 (largest relative difference {worst:.1e})")


def config(text: str) -> Config:
    """The model of `trimoe inspect --json`; what it says beyond `Config` is not about speed."""
    given = {name.replace("-", "_"): value for name, value in json.loads(text).items()}
    return Config(**{field.name: given[field.name] for field in fields(Config)})


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", type=config, help="a JSON object of trimoe inspect --json")
    p.add_argument("--form", help="; ".join(f"{ffn}: {', '.join(forms)}" for ffn, forms in FORMS.items()))
    p.add_argument("--precision", choices=["f32", "bf16"], default="f32", help="bf16 is autocast over f32 weights")
    p.add_argument("--batch", type=int, default=8)
    p.add_argument("--steps", type=int, default=10)
    p.add_argument("--warmup", type=int, default=3)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--optimizer", choices=["default", "foreach", "fused"], default="foreach", help="AdamW's form")
    p.add_argument("--check", action="store_true", help="check the forms of a layer against each other, and exit")
    args = p.parse_args()
    if args.steps < 1 or args.warmup < 0 or args.threads < 1 or args.batch < 1:
        p.error("--steps, --threads and --batch must be at least 1, --warmup at least 0")
    torch.set_num_threads(args.threads)
    if args.check:
        return check()
    if args.model is None:
        p.error("--model is missing")
    forms = FORMS[args.model.ffn]
    args.form = args.form or next(iter(forms))
    if args.form not in forms:
        p.error(f"--form of {args.model.ffn} is one of {', '.join(forms)}, not {args.form}")
    print(json.dumps(measure(args.model, args)))


if __name__ == "__main__":
    sys.exit(main())
