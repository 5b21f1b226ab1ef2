"""The Mixture-of-Experts layers of torch_moe.py with `torch._grouped_mm`: one call for all experts or clusters.

Its weights are one stacked parameter [groups, d_out, d_in], whose gradient it makes in one call too.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torch_moe import ClusteredOnce, Config, Flat, Order, low


def stack(layer: nn.Module, *names: str) -> None:
    """Replaces lists of matrices by one stacked parameter each."""
    for name in names:
        start = torch.stack([w.detach() for w in getattr(layer, name)])
        delattr(layer, name)
        setattr(layer, name, nn.Parameter(start))


def grouped(x: Tensor, weights: Tensor, counts: list[int]) -> Tensor:
    """Sorted rows [n, d_in] times their group's matrix, of [groups, d_out, d_in]: [n, d_out]."""
    ends = torch.tensor(counts).cumsum(0).to(torch.int32)
    return torch._grouped_mm(x, low(weights).transpose(1, 2), offs=ends)


class FlatGrouped(Flat):
    def __init__(self, c: Config):
        super().__init__(c)
        stack(self, "gate", "up", "down")

    def experts(self, rows: Tensor, order: Order) -> Tensor:
        gate, up = (grouped(rows, w, order.counts) for w in (self.gate, self.up))
        return grouped(F.silu(gate) * up, self.down, order.counts)


class ClusteredGrouped(ClusteredOnce):
    def __init__(self, c: Config):
        super().__init__(c)
        stack(self, "gate", "up", "down", "a_gate_up", "b_gate", "b_up", "a_down", "b_down")

    def per_cluster(self, x: Tensor, counts: list[int], weights: Tensor) -> Tensor:
        return grouped(x, weights, counts)

    def inner_rows(self, x: Tensor, gate: Tensor, up: Tensor, counts: list[int]) -> Tensor:
        p_gate, p_up = (p.contiguous() for p in grouped(x, self.a_gate_up, counts).chunk(2, dim=1))  # [kT, r]
        g, u = gate + grouped(p_gate, self.b_gate, counts), up + grouped(p_up, self.b_up, counts)
        return F.silu(g) * u

    def down_residual(self, h: Tensor, counts: list[int]) -> Tensor:
        return grouped(grouped(h, self.a_down, counts), self.b_down, counts)
