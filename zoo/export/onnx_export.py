"""Exporting a torch network to a weightless graph of the zoo."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path

import onnx
import onnxscript
import onnxscript.rewriter.onnx_fusions
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from weightless import save, strip

GRAPHS = Path(__file__).resolve().parents[1] / "graphs"
FOLDED_ELEMENTS = 1 << 13
"""The largest constant that :func:`optimise` computes."""


def randomise(network: nn.Module) -> nn.Module:
    """Give the network distinct random parameters, so that the export keeps every one apart.

    Batch norms go into the convolutions before them first, as the exporter would do: what it
    computes from several parameters could not be found among them.
    """
    network.eval()
    for parent in [module for module in network.modules() if isinstance(module, nn.Sequential)]:
        for place in range(1, len(parent)):
            if isinstance(parent[place], nn.modules.batchnorm._BatchNorm):
                parent[place - 1] = fuse_conv_bn_eval(parent[place - 1], parent[place])
                parent[place] = nn.Identity()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return network


def export_graph(
    network: nn.Module,
    inputs: Sequence[torch.Tensor],
    target: Path,
    *,
    inputs_named: Sequence[str],
    outputs_named: Sequence[str],
    source: str,
    unfolded: Collection[str] = (),
) -> None:
    """Export a network with random parameters, strip it and write it to `target`.

    Operators of the kinds `unfolded` stay even where they depend on constants alone.
    """
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "model.onnx"
        program = torch.onnx.export(
            network,
            tuple(inputs),
            opset_version=18,
            dynamo=True,
            optimize=not unfolded,
            verbose=False,
            input_names=list(inputs_named),
            output_names=list(outputs_named),
        )
        if unfolded:
            optimise(program, unfolded)
        program.save(path, external_data=False)
        model = onnx.load(path)
    strip(
        model,
        [parameter.detach().numpy() for parameter in network.parameters()],
        provenance(source),
    )
    report(model, target)


def optimise(program: torch.onnx.ONNXProgram, unfolded: Collection[str]) -> None:
    """The exporter's own optimisation, but for constant folding past operators of some kinds."""
    onnxscript.optimizer.optimize_ir(
        program.model,
        output_size_limit=FOLDED_ELEMENTS,
        should_fold=lambda node: False if node.op_type in unfolded else None,
    )
    onnxscript.rewriter.onnx_fusions.fuse(program.model)


def provenance(source: str) -> dict[str, str]:
    """The metadata that a graph keeps."""
    version = torch.__version__.partition("+")[0]
    return {"model": source, "exporter": f"torch {version} torch.onnx.export(dynamo=True)"}


def report(model: onnx.ModelProto, target: Path) -> None:
    """Write a graph and say how large it is."""
    size = save(model, target)
    print(f"{target}: {len(model.graph.node)} nodes, {size} bytes")
