"""Export the zoo's BiFormer: BiFormer-S and two reductions of it."""

from __future__ import annotations

from exporting import classifiers, run
from models.biformer import BiFormer, Stage

SIZES = {
    "full": (
        224,
        lambda: BiFormer(
            7,
            [
                Stage(4, 64, 2, 1),
                Stage(4, 128, 4, 4),
                Stage(18, 256, 8, 16),
                Stage(4, 512, 16, None),
            ],
        ),
    ),
    "small": (
        160,
        lambda: BiFormer(
            5,
            [Stage(4, 16, 2, 1), Stage(4, 32, 4, 4), Stage(18, 64, 8, 16), Stage(4, 128, 16, None)],
        ),
    ),
    "micro": (
        96,
        lambda: BiFormer(
            3,
            [Stage(1, 8, 1, 1), Stage(1, 16, 2, 2), Stage(1, 32, 4, 4), Stage(1, 64, 8, None)],
            classes=10,
        ),
    ),
}

DISTRIBUTIONS = {
    ".position.weight": (
        "normal 0 0.05",
        "the position convolution of a block is added to what it reads: with unit gain, the "
        "residual stream would double its variance in every block and drown what attention and "
        "MLP add to it",
    )
}

if __name__ == "__main__":
    source = "BiFormer-S, written from its paper (CVPR 2023)"
    run(classifiers("biformer", SIZES, source, DISTRIBUTIONS), __doc__)
