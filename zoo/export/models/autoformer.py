"""AutoFormerV2: the window-attention transformer found by searching the search space.

Chen et al., "Searching the Search Space of Vision Transformer", NeurIPS 2021. Four stages of blocks
with attention inside windows; odd blocks shift the windows by half, unless one window covers the
whole map. The search chooses depth, width, heads, window and MLP ratio per stage: in the tiny
model, 14 x 14 windows in the third stage, 7 x 7 elsewhere. Width per head is the same throughout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Stage:
    """What the search decides for one stage."""

    depth: int
    width: int
    heads: int
    window: int
    mlp_ratio: float = 4.0


def to_windows(x: torch.Tensor, size: int) -> torch.Tensor:
    """[batch, rows, columns, channels] → [batch * windows, size * size, channels]."""
    batch, rows, columns, channels = x.shape
    x = x.reshape(batch, rows // size, size, columns // size, size, channels)
    return x.transpose(2, 3).reshape(-1, size * size, channels)


def from_windows(x: torch.Tensor, size: int, rows: int, columns: int) -> torch.Tensor:
    """The inverse of :func:`to_windows`."""
    x = x.reshape(-1, rows // size, columns // size, size, size, x.shape[-1])
    return x.transpose(2, 3).reshape(x.shape[0], rows, columns, -1)


def relative_index(size: int) -> torch.Tensor:
    """For each pair of positions in a window, the row of the bias table for their offset."""
    place = torch.arange(size)
    offset = place[:, None] - place[None, :] + size - 1
    rows = offset[:, None, :, None] * (2 * size - 1)
    return (rows + offset[None, :, None, :]).reshape(size * size, size * size)


def shift_mask(rows: int, columns: int, size: int, shift: int) -> torch.Tensor:
    """[windows, 1, positions, positions]: very negative between parts that are not adjacent."""

    def bands(extent: int) -> torch.Tensor:
        place = torch.arange(extent)
        return (place >= extent - size).int() + (place >= extent - shift).int()

    region = bands(rows)[:, None] * 3 + bands(columns)[None, :]
    region = to_windows(region[None, :, :, None], size)[..., 0]
    return torch.where(region[:, None, :, None] == region[:, None, None, :], 0.0, -100.0)


class WindowAttention(nn.Module):
    """Multi-head attention inside windows, with a learnt bias per head and relative offset."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (width // heads) ** -0.5
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.bias_table: nn.Parameter | None = nn.Parameter(
            torch.zeros((2 * window - 1) ** 2, heads)
        )
        self.expanded_bias: nn.Parameter | None = None
        self.register_buffer("bias_index", relative_index(window), persistent=False)

    def expand_bias(self) -> None:
        """Replace the table by the biases of all pairs of positions."""
        self.expanded_bias = nn.Parameter(self._bias().detach().contiguous())
        self.bias_table = None

    def _bias(self) -> torch.Tensor:
        """[heads, positions, positions]."""
        if self.bias_table is None:
            return self.expanded_bias
        return self.bias_table[self.bias_index].permute(2, 0, 1)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Attend within each window of [windows, positions, channels]."""
        windows, positions, width = x.shape
        qkv = self.qkv(x).reshape(windows, positions, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        scores = (q * self.scale) @ k.mT + self._bias()
        if mask is not None:
            scores = scores.reshape(-1, mask.shape[0], self.heads, positions, positions)
            scores = (scores + mask).reshape(windows, self.heads, positions, positions)
        x = scores.softmax(-1) @ v
        return self.proj(x.transpose(1, 2).reshape(windows, positions, width))


class Block(nn.Module):
    """Attention in windows, shifted or not, then an MLP; both residual, norms before."""

    def __init__(self, stage: Stage, extent: int, shifted: bool) -> None:
        super().__init__()
        self.window = min(stage.window, extent)
        self.shift = self.window // 2 if shifted and extent > self.window else 0
        mask = shift_mask(extent, extent, self.window, self.shift) if self.shift else None
        self.register_buffer("mask", mask, persistent=False)
        hidden = int(stage.width * stage.mlp_ratio)
        self.norm1 = nn.LayerNorm(stage.width)
        self.attention = WindowAttention(stage.width, stage.heads, self.window)
        self.norm2 = nn.LayerNorm(stage.width)
        self.mlp = nn.Sequential(
            nn.Linear(stage.width, hidden), nn.GELU(), nn.Linear(hidden, stage.width)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the block to [batch, rows, columns, channels]."""
        _, rows, columns, _ = x.shape
        y = self.norm1(x)
        if self.shift:
            y = torch.roll(y, (-self.shift, -self.shift), (1, 2))
        y = self.attention(to_windows(y, self.window), self.mask)
        y = from_windows(y, self.window, rows, columns)
        if self.shift:
            y = torch.roll(y, (self.shift, self.shift), (1, 2))
        x = x + y
        return x + self.mlp(self.norm2(x))


class Merge(nn.Module):
    """Join 2 x 2 neighbours into one position of the next width."""

    def __init__(self, width: int, next_width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduction = nn.Linear(4 * width, next_width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, rows, columns, width] → [batch, rows / 2, columns / 2, next_width]."""
        corners = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduction(self.norm(torch.cat(corners, -1)))


class AutoFormerV2(nn.Module):
    """The classifier.

    Parameters
    ----------
    image : int
        Extent of the square input; patches are 4 x 4.
    stages : sequence of Stage
        From the finest map to the coarsest, each half as large as the one before.
    classes : int
        Outputs.
    """

    def __init__(self, image: int, stages: Sequence[Stage], classes: int = 1000) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, stages[0].width, 4, 4)
        self.patch_norm = nn.LayerNorm(stages[0].width)
        layers: list[nn.Module] = []
        for number, stage in enumerate(stages):
            extent = image // 4 >> number
            layers += [Block(stage, extent, block % 2 == 1) for block in range(stage.depth)]
            if number + 1 < len(stages):
                layers.append(Merge(stage.width, stages[number + 1].width))
        self.layers = nn.Sequential(*layers)
        self.norm = nn.LayerNorm(stages[-1].width)
        self.head = nn.Linear(stages[-1].width, classes)

    def expand_biases(self) -> AutoFormerV2:
        """Expand the bias tables of all blocks, as a deployed network has them."""
        for module in self.modules():
            if isinstance(module, WindowAttention):
                module.expand_bias()
        return self

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Classify [batch, 3, image, image]."""
        x = self.patch_norm(self.patches(image).permute(0, 2, 3, 1))
        x = self.norm(self.layers(x))
        return self.head(x.mean((1, 2)))
