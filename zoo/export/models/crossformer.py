"""CrossFormer: attention at short and at long distance, over embeddings of several scales.

Wang et al., "CrossFormer: A Versatile Vision Transformer Hinging on Cross-scale Attention", ICLR
2022. A cross-scale embedding concatenates convolutions of different kernels. Blocks alternate:
even ones attend within groups of neighbours, odd ones within groups of positions that lie a fixed
interval apart. The bias of a relative offset comes from a small network, the same for all offsets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn


@dataclass(frozen=True)
class Stage:
    """One stage: its blocks, their width and heads, and the extent of a group."""

    depth: int
    width: int
    heads: int
    group: int


class CrossScaleEmbedding(nn.Module):
    """Convolutions of several kernels at one stride; small kernels give most of the channels."""

    def __init__(self, source: int, width: int, kernels: Sequence[int], stride: int) -> None:
        super().__init__()
        shares = [width >> (number + 1) for number in range(len(kernels) - 1)]
        shares.append(width - sum(shares))
        self.scales = nn.ModuleList(
            nn.Conv2d(source, share, kernel, stride, (kernel - stride) // 2)
            for kernel, share in zip(kernels, shares, strict=True)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, source, height, width] → [batch, height / stride, width / stride, channels]."""
        return torch.cat([scale(x) for scale in self.scales], 1).permute(0, 2, 3, 1)


class DynamicPositionBias(nn.Module):
    """Biases per head of all relative offsets in a group, from a network of the offset."""

    def __init__(self, width: int, heads: int, group: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Linear(2, width)]
        for result in (width, width, heads):
            layers += [nn.LayerNorm(width), nn.ReLU(), nn.Linear(width, result)]
        self.layers = nn.Sequential(*layers)
        offset = torch.arange(1 - group, group, dtype=torch.float32)
        pairs = torch.cartesian_prod(offset, offset)
        self.register_buffer("offsets", pairs, persistent=False)

    def forward(self) -> torch.Tensor:
        """[(2 * group - 1)², heads]."""
        return self.layers(self.offsets)


class Attention(nn.Module):
    """Multi-head attention within groups of neighbours, or of positions an interval apart."""

    def __init__(self, stage: Stage, extent: int, distant: bool) -> None:
        super().__init__()
        width, self.heads = stage.width, stage.heads
        self.group = min(stage.group, extent)
        self.distant = distant
        self.scale = (width // self.heads) ** -0.5
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.bias: DynamicPositionBias | None = DynamicPositionBias(
            width // 4, self.heads, self.group
        )
        self.table: nn.Parameter | None = None
        place = torch.arange(self.group)
        offset = place[:, None] - place[None, :] + self.group - 1
        index = offset[:, None, :, None] * (2 * self.group - 1) + offset[None, :, None, :]
        self.register_buffer("index", index.flatten(), persistent=False)

    def fold_bias(self) -> None:
        """Replace the network of the bias by its result, which depends on no input."""
        if self.bias is not None:
            self.table = nn.Parameter(self.bias().detach())
            self.bias = None

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, height, width, channels] → [groups, positions, channels]."""
        batch, height, width, channels = x.shape
        group, down, across = self.group, height // self.group, width // self.group
        if self.distant:
            x = x.reshape(batch, group, down, group, across, channels).permute(0, 2, 4, 1, 3, 5)
        else:
            x = x.reshape(batch, down, group, across, group, channels).transpose(2, 3)
        return x.reshape(-1, group * group, channels)

    def _join(self, x: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """The inverse of :meth:`_split`."""
        group, down, across = self.group, height // self.group, width // self.group
        x = x.reshape(-1, down, across, group, group, x.shape[-1])
        x = x.permute(0, 3, 1, 4, 2, 5) if self.distant else x.transpose(2, 3)
        return x.reshape(-1, height, width, x.shape[-1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attend within [batch, height, width, channels]."""
        _, height, width, channels = x.shape
        groups = self._split(x)
        count, positions, _ = groups.shape
        qkv = self.qkv(groups).reshape(count, positions, 3, self.heads, channels // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        table = self.table if self.bias is None else self.bias()
        bias = table[self.index].reshape(positions, positions, self.heads).permute(2, 0, 1)
        scores = (q * self.scale) @ k.mT + bias
        attended = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        return self._join(self.proj(attended), height, width)


class Block(nn.Module):
    """Attention, then an MLP; both residual, norms before."""

    def __init__(self, stage: Stage, extent: int, distant: bool) -> None:
        super().__init__()
        width = stage.width
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(stage, extent, distant)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the block to [batch, height, width, channels]."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class CrossFormer(nn.Module):
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
        widths = [stage.width for stage in stages]
        self.embeds = nn.ModuleList([CrossScaleEmbedding(3, widths[0], (4, 8, 16, 32), 4)])
        for finer, coarser in pairwise(widths):
            self.embeds.append(CrossScaleEmbedding(finer, coarser, (2, 4), 2))
        # The first norm follows its embedding, the others precede theirs.
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in (widths[0], *widths))
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(Block(stage, image // 4 >> number, i % 2 == 1) for i in range(stage.depth))
            )
            for number, stage in enumerate(stages)
        )
        self.head = nn.Linear(widths[-1], classes)

    def fold_biases(self) -> CrossFormer:
        """Fold the position biases of all blocks, as a deployed network has them."""
        for module in self.modules():
            if isinstance(module, Attention):
                module.fold_bias()
        return self

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Classify [batch, 3, image, image]."""
        x = self.norms[0](self.embeds[0](image))
        for number, stage in enumerate(self.stages):
            if number:
                x = self.embeds[number](x.permute(0, 3, 1, 2))
            x = self.norms[number + 1](stage(x))
        return self.head(x.mean((1, 2)))
