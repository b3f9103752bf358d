"""Export SmtFormer. Run as zoo/export/README.md says: export_smtformer.py [SIZE ...]."""

from __future__ import annotations

import argparse

import torch
from models.smtformer import Config, SmtFormer
from onnx_export import GRAPHS, export_graph, randomise

SIZES = {
    "full": Config(),
    "small": Config(image=64, width=32),
    "micro": Config(image=64, width=16, depths=(1, 1, 2, 1), attention_heads=(4, 8), classes=100),
}


def main() -> None:
    """Parse the command line and export."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sizes", nargs="*", metavar="SIZE", help=", ".join(SIZES))
    for size in parser.parse_args().sizes or SIZES:
        config = SIZES[size]
        export_graph(
            randomise(SmtFormer(config)),
            [torch.randn(1, 3, config.image, config.image)],
            GRAPHS / "smtformer" / f"{size}.onnx.xz",
            inputs_named=["input"],
            outputs_named=["logits"],
            source="SMT-S (arXiv 2307.08579)" + ("" if size == "full" else f", reduced to {size}"),
        )


if __name__ == "__main__":
    main()
