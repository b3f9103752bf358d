"""Export the zoo's CrossFormer: CrossFormer-S and two reductions of it.

The network of the dynamic position bias sees no input: the graphs have its result, a table, as a
deployed network does.
"""

from __future__ import annotations

from exporting import classifiers, run
from models.crossformer import CrossFormer, Stage

SIZES = {
    "full": (
        224,
        lambda: CrossFormer(
            224,
            [Stage(2, 96, 3, 7), Stage(2, 192, 6, 7), Stage(6, 384, 12, 7), Stage(2, 768, 24, 7)],
        ).fold_biases(),
    ),
    "small": (
        160,
        lambda: CrossFormer(
            160,
            [Stage(2, 24, 3, 5), Stage(2, 48, 6, 5), Stage(6, 96, 12, 5), Stage(2, 192, 24, 5)],
        ).fold_biases(),
    ),
    "micro": (
        96,
        lambda: CrossFormer(
            96,
            [Stage(2, 8, 1, 3), Stage(2, 16, 2, 3), Stage(2, 32, 4, 3), Stage(2, 64, 8, 3)],
            classes=10,
        ).fold_biases(),
    ),
}

if __name__ == "__main__":
    source = "CrossFormer-S, written from its paper (ICLR 2022)"
    run(classifiers("crossformer", SIZES, source), __doc__)
