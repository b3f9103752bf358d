"""What the export scripts have in common: random parameters, the export, stripping, the file."""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import onnx
import torch
from weightless import KEY, save, strip

GRAPHS = Path(__file__).resolve().parents[1] / "graphs"


def randomise(network: torch.nn.Module) -> None:
    """Give every parameter and running statistic distinct values, so that none are merged."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in trained(network):
            drawn = torch.randn(tensor.shape, generator=generator) * 0.05
            tensor.copy_(1 + drawn.abs() if name.endswith("running_var") else drawn)


def fold_batch_norms(network: torch.nn.Module) -> None:
    """Fold each batch norm that follows a convolution in a Sequential into it, in place.

    The exporter folds them too, and then the convolution's values are no parameter's.
    """
    for module in network.modules():
        if not isinstance(module, torch.nn.Sequential):
            continue
        for index in range(len(module) - 1):
            convolution, norm = module[index], module[index + 1]
            if isinstance(convolution, torch.nn.Conv2d) and isinstance(norm, torch.nn.BatchNorm2d):
                module[index] = torch.nn.utils.fuse_conv_bn_eval(convolution, norm)
                module[index + 1] = torch.nn.Identity()


def trained(network: torch.nn.Module) -> Iterable[tuple[str, torch.Tensor]]:
    """Parameters, and buffers of floating point that training changes."""
    yield from network.named_parameters()
    for name, buffer in network.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            yield name, buffer


def redistribute(model: onnx.ModelProto, distributions: Mapping[str, str]) -> None:
    """Declare other distributions for the weights whose names end as the keys say."""
    for ending, declared in distributions.items():
        tensors = [tensor for tensor in model.graph.initializer if tensor.name.endswith(ending)]
        if not tensors:
            raise ValueError(f"no weight's name ends in '{ending}'")
        for tensor in tensors:
            (entry,) = (entry for entry in tensor.metadata_props if entry.key == KEY)
            entry.value = declared


def export(
    network: torch.nn.Module,
    image: int,
    target: Path,
    source: str,
    distributions: Mapping[str, str],
) -> None:
    """Export a network that takes one RGB image of `image` x `image`, and write it stripped."""
    network.eval()
    fold_batch_norms(network)
    randomise(network)
    values = [tensor.detach().numpy() for _, tensor in trained(network)]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            network,
            (torch.randn(1, 3, image, image),),
            path,
            opset_version=18,
            dynamo=True,
            optimize=True,
            external_data=False,
            input_names=["input"],
            output_names=["logits"],
        )
        model = onnx.load(path)
    exporter = f"torch {torch.__version__.partition('+')[0]} torch.onnx.export(dynamo=True)"
    strip(model, values, {"model": source, "exporter": exporter})
    redistribute(model, distributions)
    size = save(model, target)
    print(f"{target}: {len(model.graph.node)} nodes, {size} bytes")


def export_sizes(
    name: str,
    sizes: Mapping[str, tuple[int, Callable[[], torch.nn.Module]]],
    source: str,
    distributions: Mapping[str, str] | None = None,
) -> None:
    """Parse the command line of a script and export the sizes that it names, else all.

    Parameters
    ----------
    name : str
        The model's name in the zoo.
    sizes : mapping of str to (int, callable)
        Per size, the extent of the image and what builds the network.
    source : str
        What the graph says of where it comes from.
    distributions : mapping of str to str, optional
        By the end of a weight's name, what to draw it from instead of what `strip` chooses.
    """
    parser = argparse.ArgumentParser(description=f"Export the zoo's {name}.")
    parser.add_argument("sizes", nargs="*", metavar="SIZE", help=", ".join(sizes))
    chosen = parser.parse_args().sizes or list(sizes)
    unknown = sorted(set(chosen) - set(sizes))
    if unknown:
        parser.error(f"no size {', '.join(unknown)}: there are {', '.join(sizes)}")
    torch.backends.mha.set_fastpath_enabled(False)
    own = distributions or {}
    for size in chosen:
        image, build = sizes[size]
        export(build(), image, GRAPHS / name / f"{size}.onnx.xz", f"{source}, size {size}", own)
