"""Export FlattenFormer. Run as zoo/export/README.md says: export_flattenformer.py [SIZE ...]."""

from __future__ import annotations

import argparse

import torch
from models.flattenformer import Config, FlattenFormer
from onnx_export import GRAPHS, export_graph, randomise

SIZES = {
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


def main() -> None:
    """Parse the command line and export."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sizes", nargs="*", metavar="SIZE", help=", ".join(SIZES))
    for size in parser.parse_args().sizes or SIZES:
        config = SIZES[size]
        export_graph(
            randomise(FlattenFormer(config)),
            [torch.randn(1, 3, config.image, config.image)],
            GRAPHS / "flattenformer" / f"{size}.onnx.xz",
            inputs_named=["input"],
            outputs_named=["logits"],
            source="FLatten-PVT-M (arXiv 2308.00442)"
            + ("" if size == "full" else f", reduced to {size}"),
        )


if __name__ == "__main__":
    main()
