"""Which models there are: one file ``graphs/NAME/SIZE.onnx.xz`` each."""

from __future__ import annotations

import lzma
from pathlib import Path

import onnx

from smartmem_tvm.errors import ModelError

from .seeding import fill_weights

DEFAULT_SIZE = "full"

_GRAPHS = Path(__file__).parent / "graphs"
_SUFFIX = ".onnx.xz"


def list_models() -> list[dict[str, object]]:
    """The models of the zoo, as ``{"name": …, "sizes": […]}``, sorted by name."""
    return [{"name": name, "sizes": list(sizes)} for name, sizes in _sizes().items()]


def load(name: str, size: str = DEFAULT_SIZE, seed: int = 0) -> onnx.ModelProto:
    """Load a model with weights drawn from `seed`.

    Raises
    ------
    ModelError
        There is no such model or size; the message lists those that exist.
    """
    model = load_graph(name, size)
    fill_weights(model, seed)
    return model


def load_graph(name: str, size: str = DEFAULT_SIZE) -> onnx.ModelProto:
    """Load a graph as it is stored: weights are declared and have no values."""
    return read_graph(graph_file(name, size))


def graph_file(name: str, size: str) -> Path:
    """The file of a model; raises ModelError if there is none."""
    models = _sizes()
    if name not in models:
        raise ModelError(f"the zoo has no model '{name}': it has {', '.join(models)}.")
    if size not in models[name]:
        raise ModelError(
            f"the zoo has no size '{size}' of {name}: it has {', '.join(models[name])}."
        )
    return _GRAPHS / name / f"{size}{_SUFFIX}"


def read_graph(path: Path) -> onnx.ModelProto:
    """Read a compressed graph."""
    model = onnx.ModelProto()
    model.ParseFromString(lzma.decompress(path.read_bytes()))
    return model


def _sizes() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for file in sorted(_GRAPHS.glob(f"*/*{_SUFFIX}")):
        found.setdefault(file.parent.name, []).append(file.name.removesuffix(_SUFFIX))
    return found
