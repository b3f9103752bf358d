"""Scale-Aware Modulation Transformer (SMT).

Lin et al., "Scale-Aware Modulation Meet Transformer", ICCV 2023 (arXiv 2307.08579). Early stages
mix tokens by convolutions: those of several kernels, each for a part of the channels, are
aggregated to a modulator that multiplies the values. The last stage attends over its whole map, and
the stage between alternates the two.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn, stack


@dataclass(frozen=True)
class Config:
    """Extents of a network; the defaults are SMT-S at 224×224.

    Attributes
    ----------
    image, width, classes : int
        Side of the input, channels of the first stage (doubled by each further one), classes.
    depths, mlp_ratios : tuple of int
        Blocks, and hidden over outer channels of their MLPs, per stage.
    mixing_heads : int
        Heads of the multi-head mixed convolution, with kernels 3, 5, 7, …
    attention_heads : tuple of int
        Heads of self-attention in the last two stages.
    """

    image: int = 224
    width: int = 64
    classes: int = 1000
    depths: tuple[int, ...] = (3, 4, 18, 2)
    mlp_ratios: tuple[int, ...] = (4, 4, 4, 2)
    mixing_heads: int = 4
    attention_heads: tuple[int, int] = (8, 16)


def to_map(tokens: Tensor, side: int) -> Tensor:
    """[N, S·S, C] → [N, C, S, S]."""
    return tokens.transpose(1, 2).reshape(tokens.shape[0], tokens.shape[2], side, side)


def to_tokens(feature_map: Tensor) -> Tensor:
    """[N, C, S, S] → [N, S·S, C]."""
    return feature_map.flatten(2).transpose(1, 2)


def depthwise(channels: int, kernel: int) -> nn.Conv2d:
    """A depthwise convolution that keeps the map's extents."""
    return nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels)


class ScaleAwareModulation(nn.Module):
    """Values times a modulator that mixes several scales (section 3.1)."""

    def __init__(self, dim: int, heads: int, side: int) -> None:
        super().__init__()
        part, expanded = dim // heads, 2 * dim
        self.side = side
        self.value, self.context = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.mixing = nn.ModuleList(depthwise(part, 3 + 2 * head) for head in range(heads))
        self.aggregation = nn.Sequential(
            nn.Conv2d(dim, expanded, 1, groups=part),
            nn.BatchNorm2d(expanded),
            nn.GELU(),
            nn.Conv2d(expanded, dim, 1),
        )
        self.projection = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        parts = to_map(self.context(tokens), self.side).chunk(len(self.mixing), dim=1)
        scales = [mix(part) for mix, part in zip(self.mixing, parts, strict=True)]
        # A group of the aggregation holds one channel of every scale: scales vary fastest.
        interleaved = stack(scales, dim=2).flatten(1, 2)
        return self.projection(to_tokens(self.aggregation(interleaved)) * self.value(tokens))


class SelfAttention(nn.Module):
    """Softmax attention over the whole map, plus a depthwise convolution of the values."""

    def __init__(self, dim: int, heads: int, side: int) -> None:
        super().__init__()
        self.heads, self.side = heads, side
        self.query, self.key_value = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim)
        self.local = depthwise(dim, 3)
        self.projection = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        key, value = self.key_value(tokens).chunk(2, -1)
        local = to_tokens(self.local(to_map(value, self.side)))
        query, key, value = (self._split(part) for part in (self.query(tokens), key, value))
        scores = (query * query.shape[-1] ** -0.5) @ key.mT
        attended = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
        return self.projection(attended + local)

    def _split(self, tokens: Tensor) -> Tensor:
        """[N, S·S, C] → [N, heads, S·S, C / heads]."""
        return tokens.unflatten(2, (self.heads, -1)).transpose(1, 2)


class Mlp(nn.Module):
    """Two linear layers with a depthwise convolution beside the identity between them."""

    def __init__(self, dim: int, hidden: int, side: int) -> None:
        super().__init__()
        self.side = side
        self.rise, self.fall = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.local = depthwise(hidden, 3)
        self.activation = nn.GELU()

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.rise(tokens)
        local = to_tokens(self.local(to_map(hidden, self.side)))
        return self.fall(self.activation(hidden + local))


class Block(nn.Module):
    """A token mixer and an MLP, each after a norm and beside the identity."""

    def __init__(self, dim: int, mixer: nn.Module, mlp: nn.Module) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.mixer, self.mlp = mixer, mlp

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.mixer(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


def embedding(stage: int, dim: int) -> nn.Module:
    """The stem, in two steps, or the overlapping step between stages."""
    if stage:
        return nn.Conv2d(dim // 2, dim, 3, stride=2, padding=1)
    return nn.Sequential(
        nn.Conv2d(3, dim, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(dim),
        nn.ReLU(),
        nn.Conv2d(dim, dim, 2, stride=2),
    )


class SmtFormer(nn.Module):
    """[N, 3, S, S] → [N, classes].

    The first two stages modulate, the last attends, the third does both in turn: the evolutionary
    hybrid network of section 3.3.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.sides = [config.image // (4 << stage) for stage in range(4)]
        self.embeddings, self.stages = nn.ModuleList(), nn.ModuleList()
        self.norms_in, self.norms_out = nn.ModuleList(), nn.ModuleList()
        for stage, depth in enumerate(config.depths):
            dim, side = config.width << stage, self.sides[stage]
            blocks = []
            for index in range(depth):
                if stage == 3 or (stage == 2 and index % 2):
                    heads = config.attention_heads[stage - 2]
                    mixer: nn.Module = SelfAttention(dim, heads, side)
                else:
                    mixer = ScaleAwareModulation(dim, config.mixing_heads, side)
                blocks.append(Block(dim, mixer, Mlp(dim, dim * config.mlp_ratios[stage], side)))
            self.embeddings.append(embedding(stage, dim))
            self.norms_in.append(nn.LayerNorm(dim))
            self.stages.append(nn.Sequential(*blocks))
            self.norms_out.append(nn.LayerNorm(dim, eps=1e-6))
        self.head = nn.Linear(dim, config.classes)

    def forward(self, image: Tensor) -> Tensor:
        feature_map = image
        for stage, blocks in enumerate(self.stages):
            tokens = self.norms_in[stage](to_tokens(self.embeddings[stage](feature_map)))
            tokens = self.norms_out[stage](blocks(tokens))
            feature_map = to_map(tokens, self.sides[stage])
        return self.head(tokens.mean(dim=1))
