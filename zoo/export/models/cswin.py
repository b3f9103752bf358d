"""CSWin Transformer: attention in cross-shaped windows.

Dong et al., "CSWin Transformer: A General Vision Transformer Backbone with Cross-Shaped Windows",
CVPR 2022. Half of the heads attend within vertical stripes and half within horizontal ones; the
stripes widen from stage to stage, and the last stage attends over its whole map. The locally
enhanced positional encoding adds to the attention's result a depthwise convolution of the values,
inside each stripe.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn


@dataclass(frozen=True)
class Stage:
    """One stage: its blocks, their width and heads, and the width of the stripes."""

    depth: int
    width: int
    heads: int
    stripe: int


class StripeAttention(nn.Module):
    """Attention within rectangles of rows x columns, for some of a block's channels."""

    def __init__(self, width: int, heads: int, rows: int, columns: int) -> None:
        super().__init__()
        self.heads = heads
        self.rows = rows
        self.columns = columns
        self.scale = (width // heads) ** -0.5
        self.encoding = nn.Conv2d(width, width, 3, padding=1, groups=width)

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, height, width, channels] → [stripes, rows, columns, channels]."""
        batch, height, width, channels = x.shape
        x = x.reshape(
            batch, height // self.rows, self.rows, width // self.columns, self.columns, channels
        )
        return x.transpose(2, 3).reshape(-1, self.rows, self.columns, channels)

    def _join(self, x: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """[stripes, rows * columns, channels] → [batch, height, width, channels]."""
        down, across = height // self.rows, width // self.columns
        x = x.reshape(-1, down, across, self.rows, self.columns, x.shape[-1])
        return x.transpose(2, 3).reshape(x.shape[0], height, width, -1)

    def _heads(self, stripes: torch.Tensor) -> torch.Tensor:
        """[stripes, rows, columns, channels] → [stripes, heads, rows * columns, per head]."""
        count, _, _, channels = stripes.shape
        x = stripes.reshape(count, -1, self.heads, channels // self.heads)
        return x.transpose(1, 2)

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Attend; all of shape [batch, height, width, channels]."""
        _, height, width, _ = v.shape
        stripes = self._split(v)
        local = self.encoding(stripes.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        scores = (self._heads(self._split(q)) * self.scale) @ self._heads(self._split(k)).mT
        x = scores.softmax(-1) @ self._heads(stripes) + self._heads(local)
        return self._join(x.transpose(1, 2).flatten(2), height, width)


class Block(nn.Module):
    """Cross-shaped window attention, then an MLP; both residual, norms before."""

    def __init__(self, stage: Stage, extent: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(stage.width)
        self.qkv = nn.Linear(stage.width, 3 * stage.width)
        if stage.stripe >= extent:
            shapes = [(extent, extent)]
        else:
            shapes = [(extent, stage.stripe), (stage.stripe, extent)]
        self.branches = nn.ModuleList(
            StripeAttention(stage.width // len(shapes), stage.heads // len(shapes), rows, columns)
            for rows, columns in shapes
        )
        self.proj = nn.Linear(stage.width, stage.width)
        self.norm2 = nn.LayerNorm(stage.width)
        self.mlp = nn.Sequential(
            nn.Linear(stage.width, 4 * stage.width),
            nn.GELU(),
            nn.Linear(4 * stage.width, stage.width),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the block to [batch, height, width, channels]."""
        qkv = self.qkv(self.norm1(x)).chunk(3, -1)
        parts = zip(*(tensor.chunk(len(self.branches), -1) for tensor in qkv), strict=True)
        attended = [branch(*part) for branch, part in zip(self.branches, parts, strict=True)]
        x = x + self.proj(torch.cat(attended, -1) if len(attended) > 1 else attended[0])
        return x + self.mlp(self.norm2(x))


class Embed(nn.Module):
    """An overlapping convolution that reduces the map, then a norm over the channels."""

    def __init__(self, source: int, width: int, kernel: int, stride: int, padding: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(source, width, kernel, stride, padding)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, source, height, width] → [batch, height / stride, width / stride, channels]."""
        return self.norm(self.conv(x).permute(0, 2, 3, 1))


class CSWin(nn.Module):
    """The classifier.

    Parameters
    ----------
    image : int
        Extent of the square input; the first map is a quarter of it.
    stages : sequence of Stage
        From the finest map to the coarsest, each half as large as the one before.
    classes : int
        Outputs.
    """

    def __init__(self, image: int, stages: Sequence[Stage], classes: int = 1000) -> None:
        super().__init__()
        self.embeds = nn.ModuleList([Embed(3, stages[0].width, 7, 4, 2)])
        for finer, coarser in pairwise(stages):
            self.embeds.append(Embed(finer.width, coarser.width, 3, 2, 1))
        self.stages = nn.ModuleList(
            nn.Sequential(*(Block(stage, image // 4 >> number) for _ in range(stage.depth)))
            for number, stage in enumerate(stages)
        )
        self.norm = nn.LayerNorm(stages[-1].width)
        self.head = nn.Linear(stages[-1].width, classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Classify [batch, 3, image, image]."""
        x = image
        for number, (embed, stage) in enumerate(zip(self.embeds, self.stages, strict=True)):
            x = stage(embed(x if number == 0 else x.permute(0, 3, 1, 2)))
        return self.head(self.norm(x).mean((1, 2)))
