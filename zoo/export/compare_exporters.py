"""Compare what the compiler makes of torch's two exporters. Run as zoo/export/README.md says.

Exports networks of timm as users do, parameters and all, with the current exporter and with the
legacy one, has ``smartmem explain`` count the kernels of every file, and prints them side by side.
Ends with 1 if the counts of a network differ by more than 2 %.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import warnings
from pathlib import Path

import onnx
import torch
from export_timm import MODELS, build
from exporting import Subject, choose, exporting, parser_of

COMPARED = ("swin", "vit")
EXPORTERS = {"current, operator set 18": (True, 18), "legacy, operator set 17": (False, 17)}
"""What is passed as ``dynamo`` and as ``opset_version``."""
LARGEST_DIFFERENCE = 0.02


def export(subject: Subject, target: Path, dynamo: bool, operator_set: int) -> int:
    """Export a network of random parameters; returns the number of nodes."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # equal ones would be written once and repeated
        for parameter in subject.network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            subject.network.eval(),
            tuple(subject.inputs.values()),
            target,
            opset_version=operator_set,
            dynamo=dynamo,
            external_data=False,
            verbose=False,
            input_names=list(subject.inputs),
            output_names=list(subject.outputs),
        )
    return len(onnx.load(target, load_external_data=False).graph.node)


def explain(smartmem: str, file: Path) -> dict[str, object]:
    """What ``smartmem explain --json`` says of a file."""
    command = [smartmem, "explain", str(file), "--device", "cpu", "--json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def compare(name: str, size: str, folder: Path, smartmem: str) -> bool:
    """Export, count and print one network; whether the counts agree."""
    counts = []
    for label, (dynamo, operator_set) in EXPORTERS.items():
        exporter = "current" if dynamo else "legacy"
        file = folder / f"{name}-{size}-{exporter}-{operator_set}.onnx"
        nodes = export(build(MODELS[name][size]), file, dynamo, operator_set)
        document = explain(smartmem, file)
        counts.append(int(str(document["kernels"])))
        print(
            f"{name}/{size}, {label}: {nodes} nodes, {counts[-1]} kernels, "
            f"{document['layout_kernels']} that only move data",
            flush=True,
        )
    return max(counts) <= (1 + LARGEST_DIFFERENCE) * min(counts)


def main() -> int:
    """Parse the command line and compare."""
    models = {name: MODELS[name] for name in COMPARED}
    parser: argparse.ArgumentParser = parser_of(models, __doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where to write the files")
    parser.add_argument("--smartmem", default="smartmem", metavar="PROGRAM")
    arguments = parser.parse_args()
    names = arguments.names or [f"{name}/full" for name in COMPARED]
    with exporting():
        agree = [
            compare(name, size, arguments.folder, arguments.smartmem)
            for name, size in choose(parser, names, models)
        ]
    return 0 if all(agree) else 1


if __name__ == "__main__":
    sys.exit(main())
