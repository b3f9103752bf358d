"""BiFormer: attention with bi-level routing.

Zhu et al., "BiFormer: Vision Transformer with Bi-Level Routing Attention", CVPR 2023. The map is
cut into regions. The mean queries and keys of the regions say which few regions are worth attending
to from each one; their keys and values are gathered at run time, and the positions of the region
attend to those alone. The last stage attends over its whole map. A depthwise convolution of the
values is added to the attention's result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Stage:
    """One stage: its blocks, their width and heads, and how many regions each one attends to."""

    depth: int
    width: int
    heads: int
    top_k: int | None
    """None: attention over the whole map, without routing."""


class Attention(nn.Module):
    """Attention over the whole map or, with `top_k`, over the regions that routing chooses."""

    def __init__(self, stage: Stage, regions: int) -> None:
        super().__init__()
        width, self.heads, self.top_k = stage.width, stage.heads, stage.top_k
        self.regions = regions if self.top_k else 1
        per_query = width if self.top_k else width // self.heads
        self.scale = per_query**-0.5
        self.qkv = nn.Linear(width, 3 * width)
        self.local = nn.Conv2d(width, width, 5, padding=2, groups=width)
        self.proj = nn.Linear(width, width)

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, height, width, channels] → [batch, regions, positions, channels]."""
        batch, height, width, channels = x.shape
        side = self.regions
        x = x.reshape(batch, side, height // side, side, width // side, channels)
        return x.transpose(2, 3).reshape(batch, side * side, -1, channels)

    def _join(self, x: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """The inverse of :meth:`_split`."""
        batch, side = x.shape[0], self.regions
        x = x.reshape(batch, side, side, height // side, width // side, -1)
        return x.transpose(2, 3).reshape(batch, height, width, -1)

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, regions, positions, channels] → [..., regions, heads, positions, per head]."""
        batch, regions, positions, channels = x.shape
        x = x.reshape(batch, regions, positions, self.heads, channels // self.heads)
        return x.transpose(2, 3)

    def _gather(self, x: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """The positions of the `chosen` [batch, regions, k] regions of `x`, for each region."""
        batch, regions, positions, channels = x.shape
        # Regions of all images in one row: one gather along one axis serves every batch.
        first = torch.arange(batch, device=x.device).reshape(batch, 1, 1) * regions
        places = chosen + first if batch > 1 else chosen
        taken = x.reshape(batch * regions, positions, channels).index_select(0, places.flatten())
        return taken.reshape(batch, regions, -1, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attend within [batch, height, width, channels]."""
        _, height, width, _ = x.shape
        q, k, v = self.qkv(x).chunk(3, -1)
        local = self.local(v.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        q, k, v = self._split(q), self._split(k), self._split(v)
        if self.top_k:
            affinity = (q.mean(2) * self.scale) @ k.mean(2).mT
            chosen = affinity.topk(self.top_k, -1).indices
            k, v = self._gather(k, chosen), self._gather(v, chosen)
        scores = (self._heads(q) * self.scale) @ self._heads(k).mT
        attended = (scores.softmax(-1) @ self._heads(v)).transpose(2, 3).flatten(3)
        return self.proj(self._join(attended, height, width) + local)


class Block(nn.Module):
    """A depthwise convolution as position encoding, attention, an MLP; all residual."""

    def __init__(self, stage: Stage, regions: int) -> None:
        super().__init__()
        width = stage.width
        self.position = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attention = Attention(stage, regions)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(
            nn.Linear(width, 3 * width), nn.GELU(), nn.Linear(3 * width, width)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the block to [batch, channels, height, width]."""
        x = (x + self.position(x)).permute(0, 2, 3, 1)
        x = x + self.attention(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return x.permute(0, 3, 1, 2)


def reduce_by_two(source: int, width: int) -> list[nn.Module]:
    """A 3 x 3 convolution of stride 2 and its norm."""
    return [nn.Conv2d(source, width, 3, 2, 1), nn.BatchNorm2d(width)]


class BiFormer(nn.Module):
    """The classifier.

    Parameters
    ----------
    regions : int
        Regions along each side of the map, in all stages that route.
    stages : sequence of Stage
        From the finest map, a quarter of the image, to the coarsest.
    classes : int
        Outputs.
    """

    def __init__(self, regions: int, stages: Sequence[Stage], classes: int = 1000) -> None:
        super().__init__()
        first = stages[0].width
        layers = [*reduce_by_two(3, first // 2), nn.GELU(), *reduce_by_two(first // 2, first)]
        for number, stage in enumerate(stages):
            if number:
                layers += reduce_by_two(stages[number - 1].width, stage.width)
            layers += [Block(stage, regions) for _ in range(stage.depth)]
        self.layers = nn.Sequential(*layers)
        self.norm = nn.BatchNorm2d(stages[-1].width)
        self.head = nn.Linear(stages[-1].width, classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Classify [batch, 3, height, width]; the extents are multiples of 16 regions."""
        return self.head(self.norm(self.layers(image)).mean((2, 3)))
