"""List the models of the zoo, describe one, or write one as an ONNX file."""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SmartMemError
from . import options

if TYPE_CHECKING:
    import onnx

_LARGEST_FILE = 1 << 30
"""Weights of more bytes go to a file beside the graph: protocol buffers end at 2 GB."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions and their arguments."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="list the models and their sizes")
    describe = actions.add_parser("info", help="parameters, operations and operators of a model")
    export = actions.add_parser("export", help="write a model as an ONNX file, weights included")
    for command in (describe, export):
        command.add_argument("model", metavar="NAME[/SIZE]", help="model of the zoo")
    export.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="FILE|FOLDER",
        help="file to write, or an existing folder: the file there is named after the model",
    )
    export.add_argument("--seed", type=int, default=0, help="seed of the weights (default: 0)")
    for command, action in ((listing, _list), (describe, _info), (export, _export)):
        options.add_common(command)
        command.set_defaults(action=action)


def run(args: argparse.Namespace) -> int:
    """Run the action; the zoo is the same for every device and dtype."""
    return args.action(args)


def _list(args: argparse.Namespace) -> int:
    from .. import report, zoo

    models = zoo.list_models()
    if args.json:
        options.show_json({"models": models})
    else:
        rows = {str(model["name"]): ", ".join(model["sizes"]) for model in models}
        options.show(report.summary_table("Models of the zoo", rows))
    return 0


def _info(args: argparse.Namespace) -> int:
    from .. import report, zoo

    figures = zoo.info(*_name_and_size(args.model))
    if args.json:
        options.show_json(figures)
    else:
        options.show(report.summary_table(f"zoo:{args.model}", figures))
    return 0


def _export(args: argparse.Namespace) -> int:
    from .. import zoo

    name, size = _name_and_size(args.model)
    output = _output_file(args.output, name, size)
    files = _write(zoo.load(name, size, args.seed), output)
    if args.json:
        options.show_json({"model": f"{name}/{size}", "files": [str(path) for path in files]})
    else:
        options.show(f"wrote {', '.join(map(str, files))}")
    return 0


def _output_file(given: str, name: str, size: str) -> Path:
    """The file to write; in a folder ``NAME.onnx``, and ``NAME-SIZE.onnx`` for other sizes."""
    from .. import zoo

    output = Path(given)
    if output.is_dir():
        output /= f"{name}.onnx" if size == zoo.DEFAULT_SIZE else f"{name}-{size}.onnx"
        if output.is_dir():
            raise SmartMemError(f"output '{output}' is a folder: give the file to write.")
    elif given.endswith(os.sep):
        raise SmartMemError(f"output '{given}': there is no such folder; make it, or give a file.")
    elif not output.parent.is_dir():
        raise SmartMemError(f"output '{output}': there is no folder '{output.parent}'.")
    return output


def _write(model: onnx.ModelProto, output: Path) -> list[Path]:
    """Write beside the target, then rename: weights first, so that no graph lacks its weights."""
    import onnx

    weights = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    external = {}
    if weights > _LARGEST_FILE:
        external = {
            "save_as_external_data": True,
            "all_tensors_to_one_file": True,
            "location": f"{output.name}.data",
        }
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as folder:
        onnx.save_model(model, str(Path(folder) / output.name), **external)
        written = sorted(Path(folder).iterdir(), key=lambda path: path.name == output.name)
        for path in written:
            os.replace(path, output.parent / path.name)
    return [output.parent / path.name for path in written]


def _name_and_size(text: str) -> tuple[str, str]:
    from .. import zoo

    name, _, size = text.removeprefix("zoo:").partition("/")
    return name, size or zoo.DEFAULT_SIZE
