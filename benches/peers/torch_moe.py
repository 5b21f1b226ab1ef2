"""The feed-forward layers of trimoe's reference model in PyTorch eager: dense, flat and clustered; torch_grouped.py has
those with grouped products.

Shapes stand at the right of a line; the vocabulary is the project's: `tokens` T, `topk` k, `experts` E, `clusters` G,
experts per cluster K = E/G, `rank` r, `hidden` d, `inner` f, and `slots` = kT, one per (token, chosen expert).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BALANCE = 0.01  # coefficient of the Switch balance loss, at every level of routing


@dataclass(frozen=True)
class Config:
    """The shape of a model and which FFN it has, as `trimoe inspect --json` names them."""

    ffn: str
    vocab: int
    hidden: int
    inner: int
    layers: int
    heads: int
    seq: int
    experts: int
    clusters: int
    topk: int
    rank: int
    rope_theta: float
    norm_eps: float


# ---- moving rows between token order and slot order ------------------------------------------------------------


class Order:
    """Where each row goes when the slots are sorted by expert.

    `token[s]` is the token of sorted slot `s`, `slot[t, j]` the sorted slot of token t's j-th choice, `counts` the
    slots of each group. Built once a layer; reading `counts` is free on the CPU.
    """

    def __init__(self, ids: Tensor, groups: int):  # ids [T, k]
        flat = ids.reshape(-1)
        self.order = flat.argsort(stable=True)  # [kT]
        self.token = self.order // ids.shape[1]  # [kT]
        slot = torch.empty_like(self.order)
        slot[self.order] = torch.arange(flat.numel())
        self.slot = slot.view_as(ids)  # [T, k]
        self.counts = torch.bincount(flat, minlength=groups).tolist()


def gather_sum(rows: Tensor, slot: Tensor) -> Tensor:
    """Row t is the sum of `rows[slot[t, j]]` over j: [kT, n] -> [T, n].

    `embedding_bag` does this in one parallel pass. `index_add_` needs a zeroed target and about twice the time,
    and `index_select(...).view(T, k, n).sum(1)` five times (measured at T 2048, k 2, n 1536).
    """
    if slot.shape[1] == 1:
        return rows.index_select(0, slot.view(-1))
    return F.embedding_bag(slot, rows, mode="sum")


class Spread(torch.autograd.Function):
    """Token rows to sorted slots: [T, n] -> [kT, n].

    Autograd's own backward of `index_select` is the slower `index_add_`; the inverse permutation is at hand.
    """

    @staticmethod
    def forward(ctx, x: Tensor, order: Order) -> Tensor:
        ctx.order = order
        return x.index_select(0, order.token)

    @staticmethod
    def backward(ctx, grad: Tensor):
        return gather_sum(grad, ctx.order.slot), None


class Collect(torch.autograd.Function):
    """The adjoint of `Spread`: sorted slots to token rows, summed over the k choices: [kT, n] -> [T, n]."""

    @staticmethod
    def forward(ctx, rows: Tensor, order: Order) -> Tensor:
        ctx.order = order
        return gather_sum(rows, order.slot)

    @staticmethod
    def backward(ctx, grad: Tensor):
        return grad.index_select(0, ctx.order.token), None


def matrices(count: int, rows: int, cols: int, std: float) -> nn.ParameterList:
    """`count` matrices [rows, cols] as separate parameters, all starting from one draw, as trimoe's do.

    Not one stacked [count, rows, cols] parameter: indexing that in a loop makes autograd write `count` zero-filled
    gradients of the whole stack (E x too much memory traffic), and even `unbind(0)` copies every gradient once more
    when it stacks them. Separate leaves take over the buffer that the product wrote.
    """
    start = torch.randn(rows, cols) * std
    return nn.ParameterList(nn.Parameter(start.clone()) for _ in range(count))


def low(x: Tensor) -> Tensor:
    """`x` as autocast would multiply it, if it is on: cast here, once, and not in every product that reads it."""
    return x.to(torch.get_autocast_dtype("cpu")) if torch.is_autocast_enabled("cpu") else x


def renormalise(weight: Tensor) -> Tensor:
    """Weights [T, k] that sum to one; a single choice keeps its probability, or its router would get no gradient."""
    return weight if weight.shape[1] == 1 else weight / weight.sum(-1, keepdim=True)


# ---- feed-forward layers: [T, d] -> ([T, d], balance loss) -----------------------------------------------------


class Dense(nn.Module):
    """SwiGLU. Gate and up are two products: their gradients then need no concatenation of [T, 2f]."""

    def __init__(self, c: Config):
        super().__init__()
        self.gate = nn.Linear(c.hidden, c.inner, bias=False)
        self.up = nn.Linear(c.hidden, c.inner, bias=False)
        self.down = nn.Linear(c.inner, c.hidden, bias=False)

    def forward(self, x: Tensor):
        x = low(x)
        return self.down(F.silu(self.gate(x)) * self.up(x)), None


class Flat(nn.Module):
    """Dropless Mixture-of-Experts: softmax, top-k renormalised, slots sorted by expert, one loop over experts."""

    def __init__(self, c: Config):
        super().__init__()
        self.c = c
        self.router = nn.Linear(c.hidden, c.experts, bias=False)
        self.gate = matrices(c.experts, c.inner, c.hidden, 0.02)
        self.up = matrices(c.experts, c.inner, c.hidden, 0.02)
        self.down = matrices(c.experts, c.hidden, c.inner, 0.02)

    def experts(self, rows: Tensor, order: Order) -> Tensor:
        """Rows sorted by expert through their expert: [kT, d] -> [kT, d]."""
        out = []
        for row, gate, up, down in zip(rows.split(order.counts), self.gate, self.up, self.down):
            out.append(F.linear(F.silu(F.linear(row, gate)) * F.linear(row, up), down))
        return torch.cat(out)

    def forward(self, x: Tensor):
        c, x = self.c, low(x)
        probs = self.router(x).softmax(-1)  # [T, E]
        weight, ids = probs.topk(c.topk, dim=-1)  # [T, k]
        weight = renormalise(weight)
        order = Order(ids, c.experts)

        out = self.experts(Spread.apply(x, order), order)
        scale = weight.reshape(-1).index_select(0, order.order).unsqueeze(1)  # [kT, 1]
        y = Collect.apply(out * scale.type_as(out), order)  # [T, d]

        share = torch.tensor(order.counts) / ids.numel()
        return y, BALANCE * c.experts * (share * probs.mean(0)).sum()


class Clustered(nn.Module):
    """E experts in G clusters; each matrix is the cluster's base plus the expert's low-rank residual A B^T.

    This is the method to the letter: every slot multiplies the base of its cluster. Slots sorted by expert are sorted by
    cluster too, so it is one product a cluster over its slots, not one an expert: the same work, in larger pieces, and no
    base gradient is summed K times. [`ClusteredOnce`] is trimoe's own order.
    """

    def __init__(self, c: Config):
        super().__init__()
        self.c, self.per = c, c.experts // c.clusters
        self.cluster_router = nn.Linear(c.hidden, c.clusters, bias=False)
        self.expert_router = nn.Linear(c.hidden, c.experts, bias=False)
        self.gate = matrices(c.clusters, c.inner, c.hidden, 0.02)
        self.up = matrices(c.clusters, c.inner, c.hidden, 0.02)
        self.down = matrices(c.clusters, c.hidden, c.inner, 0.02)
        # A small, B zero: every expert starts at its base. A of gate and up share their input, so they are one
        # [2r, d] matrix; both are kept as [r, d_in], ready for F.linear.
        self.a_gate_up = matrices(c.experts, 2 * c.rank, c.hidden, 0.02)
        self.b_gate = matrices(c.experts, c.inner, c.rank, 0.0)
        self.b_up = matrices(c.experts, c.inner, c.rank, 0.0)
        self.a_down = matrices(c.experts, c.rank, c.inner, 0.02)
        self.b_down = matrices(c.experts, c.hidden, c.rank, 0.0)

    def route(self, x: Tensor):
        """The weight of each choice [T, k], its global expert id [T, k], the cluster [T, 1], the balance loss."""
        c, per = self.c, self.per
        p_all = self.cluster_router(x).softmax(-1)  # [T, G]
        p_cluster, cluster = p_all.max(-1, keepdim=True)  # [T, 1]
        logits = self.expert_router(x).view(-1, c.clusters, per)
        inside = logits.gather(1, cluster.unsqueeze(2).expand(-1, 1, per)).squeeze(1).softmax(-1)  # [T, K]
        p_expert, local = inside.topk(c.topk, dim=-1)  # [T, k]
        weight = p_cluster * renormalise(p_expert)
        ids = cluster * per + local

        tokens = torch.bincount(cluster.view(-1), minlength=c.clusters)  # [G]
        slots = torch.bincount(ids.view(-1), minlength=c.experts).view(c.clusters, per)
        seen = tokens.clamp(min=1).unsqueeze(1)  # an empty cluster adds zero
        mean_inside = inside.new_zeros(c.clusters, per).index_add(0, cluster.view(-1), inside) / seen  # [G, K]
        first = c.clusters * (tokens / x.shape[0] * p_all.mean(0)).sum()
        second = per * (slots / (c.topk * seen) * mean_inside).sum() / c.clusters
        return weight, ids, cluster, BALANCE * (first + second)

    def per_cluster(self, x: Tensor, counts: list[int], weights: nn.ParameterList) -> Tensor:
        """Rows sorted by cluster times their cluster's base: [n, d_in] -> [n, d_out]."""
        return torch.cat([F.linear(rows, w) for rows, w in zip(x.split(counts), weights)])

    def inner_rows(self, x: Tensor, gate: Tensor, up: Tensor, counts: list[int]) -> Tensor:
        """SwiGLU of base plus residual, rows sorted by expert: [kT, f]."""
        out, r = [], self.c.rank
        slices = zip(x.split(counts), gate.split(counts), up.split(counts), self.a_gate_up, self.b_gate, self.b_up)
        for row, base_gate, base_up, a, b_gate, b_up in slices:
            p = F.linear(row, a)  # [n_e, 2r]
            g = torch.addmm(base_gate, p[:, :r], b_gate.t())
            u = torch.addmm(base_up, p[:, r:], b_up.t())
            out.append(F.silu(g) * u)
        return torch.cat(out)

    def down_residual(self, h: Tensor, counts: list[int]) -> Tensor:
        """The residual part of the down projection, rows sorted by expert: [kT, f] -> [kT, d]."""
        slices = zip(h.split(counts), self.a_down, self.b_down)
        return torch.cat([F.linear(F.linear(x, a), b) for x, a, b in slices])

    def forward(self, x: Tensor):
        x = low(x)
        weight, ids, cluster, balance = self.route(x)
        experts = Order(ids, self.c.experts)
        scale = weight.reshape(-1).index_select(0, experts.order).unsqueeze(1)  # [kT, 1]
        return self.rows(x, scale, experts, cluster), balance

    def rows(self, x: Tensor, scale: Tensor, experts: Order, cluster: Tensor) -> Tensor:
        """The weighted sum of each token's experts: [T, d]."""
        counts = torch.tensor(experts.counts).view(-1, self.per).sum(1).tolist()  # slots of each cluster
        rows = Spread.apply(x, experts)  # [kT, d]
        gate, up = (self.per_cluster(rows, counts, w) for w in (self.gate, self.up))  # [kT, f]
        h = self.inner_rows(rows, gate, up, experts.counts)
        y = self.per_cluster(h, counts, self.down) + self.down_residual(h, experts.counts)
        return Collect.apply(y * scale.type_as(y), experts)


class ClusteredOnce(Clustered):
    """The same in trimoe's order, which multiplies each token with the base once: gate and up before the rows are spread
    to slots, down after the weighted inner rows of a token are summed."""

    def rows(self, x: Tensor, scale: Tensor, experts: Order, cluster: Tensor) -> Tensor:
        clusters = Order(cluster, self.c.clusters)
        xc = Spread.apply(x, clusters)  # [T, d], sorted by cluster
        # From here on a "token" is its place in cluster order.
        moved = replace_tokens(experts, clusters)
        gate, up = (Spread.apply(self.per_cluster(xc, clusters.counts, w), moved) for w in (self.gate, self.up))
        h = self.inner_rows(Spread.apply(xc, moved), gate, up, experts.counts)
        h = h * scale.type_as(h)  # the weights go in before the sum over choices
        hbar = Collect.apply(h, moved)  # [T, f]
        residual = Collect.apply(self.down_residual(h, experts.counts), moved)
        return Collect.apply(self.per_cluster(hbar, clusters.counts, self.down) + residual, clusters)


def replace_tokens(slots: Order, moved: Order) -> Order:
    """`slots` for a token matrix whose rows were reordered by `moved` (one row a token)."""
    out = object.__new__(Order)
    out.order, out.counts = slots.order, slots.counts
    out.token = moved.slot.view(-1).index_select(0, slots.token)
    out.slot = slots.slot.index_select(0, moved.token)
    return out
