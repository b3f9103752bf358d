"""Export Conformer. Run as zoo/export/README.md says: export_conformer.py [SIZE ...]."""

from __future__ import annotations

import argparse

import torch
from models.conformer import Config, Conformer
from onnx_export import GRAPHS, export_graph, randomise

# The published input has no fixed length: 2563 frames, of which the encoder keeps one in four
# (640), are what takes SmartMem's 12.0 G multiply-accumulates.
SIZES = {
    "full": Config(),
    "small": Config(frames=131, width=64, decoder=64, vocabulary=256),
    "micro": Config(frames=67, bands=20, width=32, heads=2, layers=2, decoder=32, vocabulary=64),
}


def main() -> None:
    """Parse the command line and export."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sizes", nargs="*", metavar="SIZE", help=", ".join(SIZES))
    for size in parser.parse_args().sizes or SIZES:
        config = SIZES[size]
        export_graph(
            randomise(Conformer(config)),
            [
                torch.randn(1, config.frames, config.bands),
                torch.zeros(1, dtype=torch.int64),
                torch.randn(1, config.decoder),
                torch.randn(1, config.decoder),
            ],
            GRAPHS / "conformer" / f"{size}.onnx.xz",
            inputs_named=["features", "label", "hidden", "cell"],
            outputs_named=["logits", "next_hidden", "next_cell"],
            source="Conformer-S transducer (arXiv 2005.08100)"
            + ("" if size == "full" else f", reduced to {size}"),
            # The table of positions does not compress: it is stored as what computes it.
            unfolded={"Sin", "Cos"},
        )


if __name__ == "__main__":
    main()
