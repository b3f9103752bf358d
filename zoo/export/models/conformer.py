"""Conformer transducer: audio encoder, one step of the label decoder, joint network.

Written from "Conformer: Convolution-augmented Transformer for Speech Recognition" (Interspeech
2020, arXiv 2005.08100); the relative positions are those of Transformer-XL (arXiv 1901.02860).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Config:
    """Extents of a network; the defaults are Conformer-S on 25.63 s of audio.

    Attributes
    ----------
    frames, bands : int
        Frames of the log-mel spectrogram (one in 10 ms) and their bands.
    width, heads, layers, kernel : int
        Channels, attention heads, blocks and convolution length of the encoder. The paper's kernel
        is 32; an odd one keeps the length without lopsided padding.
    decoder, vocabulary : int
        Channels of the decoder's one LSTM layer, and word pieces.
    """

    frames: int = 2563
    bands: int = 80
    width: int = 144
    heads: int = 4
    layers: int = 16
    kernel: int = 31
    decoder: int = 320
    vocabulary: int = 1024


class Subsampling(nn.Module):
    """Two strided convolutions: one frame in four remains."""

    def __init__(self, bands: int, width: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, width, 3, stride=2),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, stride=2),
            nn.ReLU(),
        )
        self.projection = nn.Linear(width * (((bands - 1) // 2 - 1) // 2), width)

    def forward(self, features: Tensor) -> Tensor:
        return self.projection(self.convolutions(features.unsqueeze(1)).transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Norm, expansion by four, Swish, contraction."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.SiLU(),
            nn.Linear(4 * width, width),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        return self.layers(tokens)


class RelativeAttention(nn.Module):
    """Self-attention whose scores add a term in the distance of query and key."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.output = nn.Linear(width, width), nn.Linear(width, width)
        self.position = nn.Linear(width, width, bias=False)
        self.content_bias = nn.Parameter(torch.zeros(heads, 1, width // heads))
        self.position_bias = nn.Parameter(torch.zeros(heads, 1, width // heads))

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        tokens = self.norm(tokens)
        query, key, value = (
            self._split(layer(tokens)) for layer in (self.query, self.key, self.value)
        )
        distance = self._split(self.position(positions))
        content = (query + self.content_bias) @ key.transpose(2, 3)
        position = _align((query + self.position_bias) @ distance.transpose(2, 3))
        scores = (content + position) * query.shape[-1] ** -0.5
        return self.output((scores.softmax(dim=-1) @ value).transpose(1, 2).flatten(2))

    def _split(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(2, (self.heads, -1)).transpose(1, 2)


def _align(scores: Tensor) -> Tensor:
    """[…, T, 2T-1] by distance T-1 … 1-T → […, T, T] by key; row i moves left by T-1-i."""
    batch, heads, length, distances = scores.shape
    padded = functional.pad(scores, (1, 0)).reshape(batch, heads, distances + 1, length)
    return padded[:, :, 1:].reshape(batch, heads, length, distances)[..., :length]


class ConvolutionModule(nn.Module):
    """Gated pointwise, depthwise and pointwise convolution along time."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.layers = nn.Sequential(
            nn.Conv1d(width, 2 * width, 1),
            nn.GLU(dim=1),
            nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width),
            nn.BatchNorm1d(width),
            nn.SiLU(),
            nn.Conv1d(width, width, 1),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        return self.layers(self.norm(tokens).transpose(1, 2)).transpose(1, 2)


class Block(nn.Module):
    """Attention and convolution between two half steps of feed-forward."""

    def __init__(self, width: int, heads: int, kernel: int) -> None:
        super().__init__()
        self.before, self.after = FeedForward(width), FeedForward(width)
        self.attention = RelativeAttention(width, heads)
        self.convolution = ConvolutionModule(width, kernel)
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        tokens = tokens + 0.5 * self.before(tokens)
        tokens = tokens + self.attention(tokens, positions)
        tokens = tokens + self.convolution(tokens)
        return self.norm(tokens + 0.5 * self.after(tokens))


class LabelStep(nn.Module):
    """One step of a single LSTM layer from the previous label."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.gates = nn.Linear(2 * width, 4 * width)

    def forward(self, label: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        joined = torch.cat([self.embedding(label), hidden], dim=-1)
        enter, forget, candidate, leave = self.gates(joined).chunk(4, dim=-1)
        cell = forget.sigmoid() * cell + enter.sigmoid() * candidate.tanh()
        return leave.sigmoid() * cell.tanh(), cell


class Conformer(nn.Module):
    """Features [N, frames, bands], label [N], LSTM state → scores of every frame's next label."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.subsampling = Subsampling(config.bands, config.width)
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads, config.kernel) for _ in range(config.layers)
        )
        self.label_step = LabelStep(config.vocabulary, config.decoder)
        self.from_encoder = nn.Linear(config.width, config.decoder)
        self.from_decoder = nn.Linear(config.decoder, config.decoder, bias=False)
        self.output = nn.Linear(config.decoder, config.vocabulary)

    def forward(
        self, features: Tensor, label: Tensor, hidden: Tensor, cell: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        tokens = self.subsampling(features)
        positions = sinusoids(tokens.shape[1], tokens.shape[2])
        for block in self.blocks:
            tokens = block(tokens, positions)
        hidden, cell = self.label_step(label, hidden, cell)
        joined = self.from_encoder(tokens) + self.from_decoder(hidden).unsqueeze(1)
        return self.output(joined.tanh()), hidden, cell


def sinusoids(length: int, width: int) -> Tensor:
    """Encodings of the distances length-1 … 1-length, as [1, 2·length-1, width]."""
    distance = torch.arange(length - 1, -length, -1, dtype=torch.float32).unsqueeze(1)
    rate = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    angle = distance * rate
    return torch.cat([angle.sin(), angle.cos()], dim=1).unsqueeze(0)
