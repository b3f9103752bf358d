"""FLatten-PVT: a pyramid vision transformer with focused linear attention in every block.

Han et al., "FLatten Transformer: Vision Transformer using Focused Linear Attention", ICCV 2023
(arXiv 2308.00442), on the pyramid of Wang et al., "Pyramid Vision Transformer", ICCV 2021 (arXiv
2102.12122). Attention is linear in the number of tokens: queries and keys go through a map that
makes them positive and sharpens their direction, so that keys and values can be multiplied first. A
depthwise convolution of the values restores the rank that this loses (section 4 of the paper).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

EPSILON = 1e-6


@dataclass(frozen=True)
class Config:
    """Extents of a network; the defaults are FLatten-PVT-M at 224×224.

    Attributes
    ----------
    image, classes : int
        Side of the input, and classes.
    widths, depths, heads, mlp_ratios : tuple of int
        Channels, blocks, attention heads, and hidden over outer channels of the MLPs, per stage.
    """

    image: int = 224
    classes: int = 1000
    widths: tuple[int, ...] = (64, 128, 320, 512)
    depths: tuple[int, ...] = (3, 4, 18, 3)
    heads: tuple[int, ...] = (1, 2, 5, 8)
    mlp_ratios: tuple[int, ...] = (8, 8, 4, 4)


def to_map(tokens: Tensor, side: int) -> Tensor:
    """[N, S·S, C] → [N, C, S, S]."""
    return tokens.transpose(1, 2).reshape(tokens.shape[0], tokens.shape[2], side, side)


def to_tokens(feature_map: Tensor) -> Tensor:
    """[N, C, S, S] → [N, S·S, C]."""
    return feature_map.flatten(2).transpose(1, 2)


class Focus(nn.Module):
    """The map φ of queries and keys: positive entries, then their cubes at the length from before.

    A trained gain per channel, one for queries and keys alike, is applied between the two.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(dim))

    def forward(self, tokens: Tensor) -> Tensor:
        positive = (tokens.relu() + EPSILON) * self.gain  # no token is zero: it has a direction
        cubes = positive**3
        return cubes * (_length(positive) / _length(cubes))


def _length(tokens: Tensor) -> Tensor:
    return tokens.norm(dim=-1, keepdim=True)


class FocusedLinearAttention(nn.Module):
    """φ(Q) (φ(K)ᵀ V) / (φ(Q) Σ φ(K)ᵀ) per head, plus a depthwise convolution of V.

    Keys carry a trained position of their own. Sums over tokens are written as means, which changes
    no quotient and keeps their sizes independent of the map's.
    """

    def __init__(self, dim: int, heads: int, side: int) -> None:
        super().__init__()
        self.heads, self.side = heads, side
        self.query, self.key_value = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim)
        self.position = nn.Parameter(torch.zeros(side * side, dim))
        self.focus = Focus(dim)
        # The heads share one kernel: they are the batch of the convolution.
        per_head = dim // heads
        self.local = nn.Conv2d(per_head, per_head, 5, padding=2, groups=per_head)
        self.projection = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        key, value = self.key_value(tokens).chunk(2, -1)
        query = self._split(self.focus(self.query(tokens)))
        key = self._split(self.focus(key + self.position))
        value = self._split(value)

        summary = key.mT @ (value / (self.side * self.side))
        divisor = query @ key.mean(2, keepdim=True).mT
        attended = (query @ summary) / (divisor + EPSILON)
        return self.projection(self._join(attended + self._restored(value)))

    def _restored(self, value: Tensor) -> Tensor:
        """The convolution of the values' maps, as [N, heads, S·S, C / heads]."""
        maps = self.local(to_map(value.flatten(0, 1), self.side))
        return to_tokens(maps).unflatten(0, (-1, self.heads))

    def _split(self, tokens: Tensor) -> Tensor:
        """[N, S·S, C] → [N, heads, S·S, C / heads]."""
        return tokens.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def _join(self, tokens: Tensor) -> Tensor:
        """The inverse of :meth:`_split`."""
        return tokens.transpose(1, 2).flatten(2)


class Block(nn.Module):
    """Attention and an MLP, each after a norm and beside the identity."""

    def __init__(self, dim: int, heads: int, mlp_ratio: int, side: int) -> None:
        super().__init__()
        hidden = mlp_ratio * dim
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.attention = FocusedLinearAttention(dim, heads, side)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attention(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class Embedding(nn.Module):
    """Patches without overlap, a norm, and trained positions: the start of a stage."""

    def __init__(self, channels: int, dim: int, patch: int, side: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, dim, patch, stride=patch)
        self.norm = nn.LayerNorm(dim)
        self.position = nn.Parameter(torch.zeros(1, side * side, dim))

    def forward(self, feature_map: Tensor) -> Tensor:
        return self.norm(to_tokens(self.patches(feature_map))) + self.position


class FlattenFormer(nn.Module):
    """[N, 3, S, S] → [N, classes]."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.sides = [config.image // (4 << stage) for stage in range(len(config.depths))]
        self.embeddings, self.stages = nn.ModuleList(), nn.ModuleList()
        channels = 3
        for stage, (dim, side) in enumerate(zip(config.widths, self.sides, strict=True)):
            heads, ratio = config.heads[stage], config.mlp_ratios[stage]
            self.embeddings.append(Embedding(channels, dim, 2 if stage else 4, side))
            self.stages.append(
                nn.Sequential(
                    *(Block(dim, heads, ratio, side) for _ in range(config.depths[stage]))
                )
            )
            channels = dim
        self.head = nn.Linear(channels, config.classes)

    def forward(self, image: Tensor) -> Tensor:
        feature_map = image
        for embedding, stage, side in zip(self.embeddings, self.stages, self.sides, strict=True):
            tokens = stage(embedding(feature_map))
            feature_map = to_map(tokens, side)
        return self.head(tokens.mean(dim=1))
