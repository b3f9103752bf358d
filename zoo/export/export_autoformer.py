"""Export the zoo's AutoFormer: AutoFormerV2-T and two reductions of it.

SmartMem's AutoFormer has local attention, 4.7 G multiply-accumulates and 31.2 M parameters: that is
the tiny model of "Searching the Search Space of Vision Transformer" (28.3 M) with the position bias
of every pair written out, as exporters do with constant indices, and not one of the original
AutoFormer, whose attention is global.
"""

from __future__ import annotations

from exporting import classifiers, run
from models.autoformer import AutoFormerV2, Stage

SIZES = {
    "full": (
        224,
        lambda: AutoFormerV2(
            224,
            [Stage(2, 96, 3, 7), Stage(2, 192, 6, 7), Stage(6, 384, 12, 14), Stage(2, 768, 24, 7)],
        ).expand_biases(),
    ),
    "small": (
        160,
        lambda: AutoFormerV2(
            160,
            [Stage(2, 24, 3, 5), Stage(2, 48, 6, 5), Stage(6, 96, 12, 10), Stage(2, 192, 24, 5)],
        ).expand_biases(),
    ),
    "micro": (
        96,
        lambda: AutoFormerV2(
            96,
            [Stage(2, 12, 1, 3), Stage(2, 24, 2, 3), Stage(2, 48, 4, 6), Stage(2, 96, 8, 3)],
            classes=10,
        ).expand_biases(),
    ),
}

if __name__ == "__main__":
    source = "AutoFormerV2-T, written from its paper (NeurIPS 2021)"
    run(classifiers("autoformer", SIZES, source), __doc__)
