"""Export YOLOv8-n, written from the network's published description.

The network: a backbone of five strided convolutions with cross-stage blocks between them, a spatial
pyramid pooling block, a path-aggregation neck, and per scale a decoupled head without anchor boxes,
whose sides are distributions over distances (Generalized Focal Loss, arXiv 2006.04388). The output
is decoded: centre, extent and class probabilities of every cell, before suppression. Batch norms
are folded.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from exporting import Subject, reduced, run
from torch import nn
from torch.nn import functional

STRIDES = (8, 16, 32)


@dataclass(frozen=True)
class Config:
    """Extents of the network; the defaults are those of YOLOv8-n."""

    image: int = 640
    width: int = 16
    classes: int = 80
    distances: int = 16


SIZES = {
    "full": Config(),
    "small": Config(image=128, width=12),
    "micro": Config(image=64, width=8, classes=16, distances=4),
}


class ConvAct(nn.Module):
    """A convolution, a batch norm and SiLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply all three."""
        return functional.silu(self.norm(self.convolution(x)))


class CrossStage(nn.Module):
    """One half of the channels passes by; the other goes through a chain; all links are joined."""

    def __init__(self, inputs: int, outputs: int, links: int, *, residual: bool) -> None:
        super().__init__()
        half = outputs // 2
        self.residual = residual
        self.entry = ConvAct(inputs, outputs)
        self.chain = nn.ModuleList(
            nn.Sequential(ConvAct(half, half, 3), ConvAct(half, half, 3)) for _ in range(links)
        )
        self.exit = ConvAct((2 + links) * half, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the block."""
        parts = list(self.entry(x).chunk(2, 1))
        for link in self.chain:
            last = parts[-1]
            parts.append(last + link(last) if self.residual else link(last))
        return self.exit(torch.cat(parts, 1))


class PyramidPooling(nn.Module):
    """Maxima over growing windows: one small window, applied one to three times."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.entry = ConvAct(channels, channels // 2)
        self.exit = ConvAct(channels * 2, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the block."""
        levels = [self.entry(x)]
        for _ in range(3):
            levels.append(functional.max_pool2d(levels[-1], 5, 1, 2))
        return self.exit(torch.cat(levels, 1))


def branch(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """One of the two branches of the head at one scale."""
    return nn.Sequential(
        ConvAct(inputs, hidden, 3), ConvAct(hidden, hidden, 3), nn.Conv2d(hidden, outputs, 1)
    )


class Head(nn.Module):
    """Distances to the four sides and class scores of every cell, decoded to boxes."""

    def __init__(self, config: Config, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.distances, self.classes = config.distances, config.classes
        sides = max(16, channels[0] // 4, 4 * config.distances)
        scores = max(channels[0], min(config.classes, 100))
        self.sides = nn.ModuleList(branch(c, sides, 4 * config.distances) for c in channels)
        self.scores = nn.ModuleList(branch(c, scores, config.classes) for c in channels)
        cells, strides = [], []
        for stride in STRIDES:
            steps = torch.arange(config.image // stride) + 0.5
            rows, columns = torch.meshgrid(steps, steps, indexing="ij")
            cells.append(torch.stack((columns.flatten(), rows.flatten())))
            strides.append(torch.full((1, steps.numel() ** 2), float(stride)))
        self.register_buffer("centres", torch.cat(cells, 1)[None])
        self.register_buffer("strides", torch.cat(strides, 1))
        self.register_buffer("steps", torch.arange(config.distances, dtype=torch.float32)[:, None])

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        """[1, 4 + classes, cells]: x and y of the centre, width, height, probabilities."""
        joined = [
            torch.cat((sides(x), scores(x)), 1).flatten(2)
            for x, sides, scores in zip(features, self.sides, self.scores, strict=True)
        ]
        sides, scores = torch.cat(joined, 2).split((4 * self.distances, self.classes), 1)
        weights = sides.unflatten(1, (4, self.distances)).softmax(2)
        before, after = (weights * self.steps).sum(2).chunk(2, 1)
        low, high = self.centres - before, self.centres + after
        boxes = torch.cat(((low + high) / 2, high - low), 1) * self.strides
        return torch.cat((boxes, scores.sigmoid()), 1)


class YoloV8(nn.Module):
    """The detector; depths of the blocks are those of the nano network."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        c1, c2, c3, c4, c5 = (config.width * factor for factor in (1, 2, 4, 8, 16))
        self.stage3 = nn.Sequential(
            ConvAct(3, c1, 3, 2),
            ConvAct(c1, c2, 3, 2),
            CrossStage(c2, c2, 1, residual=True),
            ConvAct(c2, c3, 3, 2),
            CrossStage(c3, c3, 2, residual=True),
        )
        self.stage4 = nn.Sequential(ConvAct(c3, c4, 3, 2), CrossStage(c4, c4, 2, residual=True))
        self.stage5 = nn.Sequential(
            ConvAct(c4, c5, 3, 2), CrossStage(c5, c5, 1, residual=True), PyramidPooling(c5)
        )
        self.up4 = CrossStage(c5 + c4, c4, 1, residual=False)
        self.up3 = CrossStage(c4 + c3, c3, 1, residual=False)
        self.shrink3 = ConvAct(c3, c3, 3, 2)
        self.down4 = CrossStage(c3 + c4, c4, 1, residual=False)
        self.shrink4 = ConvAct(c4, c4, 3, 2)
        self.down5 = CrossStage(c4 + c5, c5, 1, residual=False)
        self.head = Head(config, (c3, c4, c5))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Detections of one image."""
        p3 = self.stage3(image)
        p4 = self.stage4(p3)
        p5 = self.stage5(p4)
        n4 = self.up4(torch.cat((_doubled(p5), p4), 1))
        n3 = self.up3(torch.cat((_doubled(n4), p3), 1))
        n4 = self.down4(torch.cat((self.shrink3(n3), n4), 1))
        n5 = self.down5(torch.cat((self.shrink4(n4), p5), 1))
        return self.head([n3, n4, n5])


def _doubled(x: torch.Tensor) -> torch.Tensor:
    return functional.interpolate(x, scale_factor=2.0, mode="nearest")


def build(size: str) -> Subject:
    """The detector of a size."""
    config = SIZES[size]
    inputs = {"input": torch.randn(1, 3, config.image, config.image)}
    return Subject(YoloV8(config), inputs, ["detections"], reduced("YOLOv8-n", size))


if __name__ == "__main__":
    run({"yolov8": {size: partial(build, size) for size in SIZES}}, __doc__)
