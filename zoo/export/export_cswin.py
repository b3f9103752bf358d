"""Export the zoo's CSWin: CSWin-S and two reductions of it."""

from __future__ import annotations

from exporting import classifiers, run
from models.cswin import CSWin, Stage

SIZES = {
    "full": (
        224,
        lambda: CSWin(
            224,
            [Stage(2, 64, 2, 1), Stage(4, 128, 4, 2), Stage(32, 256, 8, 7), Stage(2, 512, 16, 7)],
        ),
    ),
    "small": (
        128,
        lambda: CSWin(
            128, [Stage(2, 16, 2, 1), Stage(4, 32, 4, 2), Stage(32, 64, 8, 4), Stage(2, 128, 16, 4)]
        ),
    ),
    "micro": (
        64,
        lambda: CSWin(
            64,
            [Stage(1, 8, 2, 1), Stage(1, 16, 4, 2), Stage(2, 32, 4, 2), Stage(1, 64, 8, 2)],
            classes=10,
        ),
    ),
}

if __name__ == "__main__":
    source = "CSWin-S, written from its paper (CVPR 2022)"
    run(classifiers("cswin", SIZES, source), __doc__)
