"""Export the zoo's FlattenFormer: FLatten-PVT-M and two reductions of it."""

from __future__ import annotations

from functools import partial

from exporting import classifiers, run
from models.flattenformer import Config, FlattenFormer

CONFIGS = {
    "full": Config(),
    "small": Config(image=64, widths=(32, 64, 160, 256)),
    "micro": Config(
        image=64,
        widths=(16, 32, 80, 128),
        depths=(1, 1, 2, 1),
        mlp_ratios=(4, 4, 2, 2),
        classes=100,
    ),
}

if __name__ == "__main__":
    sizes = {
        size: (config.image, partial(FlattenFormer, config)) for size, config in CONFIGS.items()
    }
    source = "FLatten-PVT-M, written from its paper (ICCV 2023)"
    run(classifiers("flattenformer", sizes, source), __doc__)
