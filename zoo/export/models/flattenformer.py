"""FLatten-PVT: a pyramid vision transformer with focused linear attention in every block.

Written from "FLatten Transformer: Vision Transformer using Focused Linear Attention" (ICCV 2023,
arXiv 2308.00442) and "Pyramid Vision Transformer" (ICCV 2021, arXiv 2102.12122).
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


def focus(tokens: Tensor) -> Tensor:
    """Sharpen the direction of each token by cubing its entries; its length stays."""
    length = tokens.norm(dim=-1, keepdim=True)
    cubed = tokens**3
    return cubed / cubed.norm(dim=-1, keepdim=True) * length


class FocusedLinearAttention(nn.Module):
    """φ(Q) (φ(K)ᵀ V), with a depthwise convolution of V that restores the rank (section 4).

    The published code divides queries and keys by the softplus of a trained scale; `gain` is the
    reciprocal of that, which is what an exporter folds it to.
    """

    def __init__(self, dim: int, heads: int, side: int) -> None:
        super().__init__()
        self.heads, self.side = heads, side
        part = dim // heads
        self.query, self.key_value = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim)
        self.projection = nn.Linear(dim, dim)
        self.position = nn.Parameter(torch.zeros(1, side * side, dim))
        self.gain = nn.Parameter(torch.ones(1, 1, dim))
        self.rank_restoration = nn.Conv2d(part, part, 5, padding=2, groups=part)

    def forward(self, tokens: Tensor) -> Tensor:
        batch, length, dim = tokens.shape
        query = self.query(tokens)
        key, value = self.key_value(tokens).reshape(batch, length, 2, dim).unbind(2)
        query = self._split(focus((query.relu() + EPSILON) * self.gain))
        key = self._split(focus(((key + self.position).relu() + EPSILON) * self.gain))
        value = self._split(value)

        normaliser = query @ key.mean(dim=2, keepdim=True).transpose(2, 3) + EPSILON
        weight = length**-0.5
        attended = query @ ((key.transpose(2, 3) * weight) @ (value * weight)) / normaliser

        # The heads share one kernel: they are the batch of the convolution.
        restored = to_tokens(self.rank_restoration(to_map(value.flatten(0, 1), self.side)))
        attended = attended + restored.reshape(batch, self.heads, length, dim // self.heads)
        return self.projection(attended.transpose(1, 2).reshape(batch, length, dim))

    def _split(self, tokens: Tensor) -> Tensor:
        batch, length, dim = tokens.shape
        return tokens.reshape(batch, length, self.heads, dim // self.heads).transpose(1, 2)


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
