"""Export the zoo's vision models from timm. Run as zoo/export/README.md says.

usage: export_timm.py [NAME[/SIZE] ...]         the graphs of the zoo
       export_timm.py --legacy FOLDER           the fixtures of the legacy exporter's graphs
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import onnx
import onnxscript.optimizer
import torch
from batch_norms import fold_batch_norms
from conv_weights import calibrate
from weightless import KEY, save, strip

GRAPHS = Path(__file__).resolve().parents[1] / "graphs"


@dataclass(frozen=True)
class Variant:
    """A network of timm, the extent of its square input, and what differs from the published.

    `folded`: elements up to which the exporter folds constants, if not its default. It leaves the
    tables of the full Swin alone, so those of a reduced one must be left alone too.
    """

    network: str
    image: int = 224
    changes: dict[str, object] = field(default_factory=dict)
    folded: int | None = None


MODELS = {
    "convnext": {
        "full": Variant("convnext_tiny"),
        "small": Variant("convnext_tiny", 96, {"dims": (40, 80, 160, 320)}),
        "micro": Variant(
            "convnext_tiny",
            64,
            {"dims": (16, 32, 64, 128), "depths": (1, 1, 2, 1), "num_classes": 100},
        ),
    },
    "efficientvit": {
        "full": Variant("efficientvit_l1"),
        "small": Variant(
            "efficientvit_l1",
            128,
            {"widths": (8, 16, 32, 64, 128), "head_dim": 8, "head_widths": (768, 800)},
        ),
        "micro": Variant(
            "efficientvit_l1",
            64,
            {
                "widths": (4, 8, 16, 16, 32),
                "depths": (1, 1, 1, 1, 1),
                "head_dim": 8,
                "head_widths": (64, 64),
                "num_classes": 100,
            },
        ),
    },
    "regnet": {
        "full": Variant("regnety_032"),
        "small": Variant(
            "regnety_032", 160, {"w0": 24, "wa": 12.8, "group_size": 8, "stem_width": 16}
        ),
        "micro": Variant(
            "regnety_032",
            64,
            {
                "depth": 5,
                "w0": 16,
                "wa": 26,
                "wm": 2,
                "group_size": 8,
                "stem_width": 16,
                "num_classes": 100,
            },
        ),
    },
    "resnext": {
        "full": Variant("resnext50_32x4d"),
        "small": Variant(
            "resnext50_32x4d",
            80,
            {"channels": (32, 64, 128, 256), "cardinality": 16, "base_width": 8},
        ),
        "micro": Variant(
            "resnext50_32x4d",
            40,
            {
                "layers": (1, 1, 2, 1),
                "channels": (8, 16, 32, 64),
                "cardinality": 4,
                "base_width": 32,
                "num_classes": 100,
            },
        ),
    },
    "swin": {
        "full": Variant("swin_tiny_patch4_window7_224"),
        "small": Variant(
            "swin_tiny_patch4_window7_224",
            128,
            {"img_size": 128, "window_size": 4, "embed_dim": 32, "num_heads": (2, 4, 8, 16)},
            folded=800,
        ),
        "micro": Variant(
            "swin_tiny_patch4_window7_224",
            64,
            {
                "img_size": 64,
                "window_size": 4,
                "embed_dim": 16,
                "depths": (2, 2, 2, 2),
                "num_heads": (2, 4, 8, 16),
                "num_classes": 100,
            },
            folded=800,
        ),
    },
    "vit": {
        "full": Variant("vit_base_patch16_224"),
        "small": Variant(
            "vit_base_patch16_224", 112, {"img_size": 112, "embed_dim": 128, "num_heads": 4}
        ),
        "micro": Variant(
            "vit_base_patch16_224",
            64,
            {"img_size": 64, "embed_dim": 64, "depth": 2, "num_heads": 4, "num_classes": 100},
        ),
    },
}
LEGACY = {"swin": False, "vit": True}
"""Models of the legacy fixtures, and whether their batch is symbolic."""


def declare_vision_operators() -> torch.library.Library:
    """Declare what torchvision registers in compiled code that its wheel may lack."""
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


def build(variant: Variant) -> tuple[torch.nn.Module, bool]:
    """The network with distinct random parameters, and whether it had batch norms."""
    import timm

    network = timm.create_model(variant.network, pretrained=False, **variant.changes).eval()
    folded = fold_batch_norms(network, torch.zeros(1, 3, variant.image, variant.image))
    return randomise(network), folded > 0


def randomise(network: torch.nn.Module) -> torch.nn.Module:
    """Give every parameter distinct random values, so that the export keeps every one apart."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return network


def export(
    network: torch.nn.Module,
    image: int,
    target: Path,
    source: str,
    *,
    output: str = "logits",
    calibrated: bool = False,
    folded: int | None = None,
    legacy: bool = False,
    symbolic: bool = False,
) -> None:
    """Export a network that takes one square image, strip it and write it to `target`.

    `calibrated`: its batch norms are folded, so the weights of its convolutions are calibrated.
    `folded`: see Variant.
    """
    deviations = calibrate(network, image) if calibrated else {}
    example = torch.randn(1, 3, image, image)
    names = {"input_names": ["input"], "output_names": [output]}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "model.onnx"
        if legacy:
            axes = {"input": {0: "batch"}, output: {0: "batch"}} if symbolic else None
            torch.onnx.export(
                network,
                (example,),
                path,
                opset_version=17,
                dynamo=False,
                dynamic_axes=axes,
                **names,
            )
        else:
            program = torch.onnx.export(
                network,
                (example,),
                opset_version=18,
                dynamo=True,
                optimize=folded is None,
                verbose=False,
                **names,
            )
            if folded is not None:
                onnxscript.optimizer.optimize(program.model, input_size_limit=folded)
            program.save(path, external_data=False)
        model = onnx.load(path)
    exporter = "torch.onnx.export(dynamo=False)" if legacy else "torch.onnx.export(dynamo=True)"
    metadata = {"model": source, "exporter": f"torch {_version(torch)} {exporter}"}
    strip(model, [parameter.detach().numpy() for parameter in network.parameters()], metadata)
    declare(model, deviations)
    size = save(model, target)
    print(f"{target}: {len(model.graph.node)} nodes, {size} bytes", flush=True)


def declare(model: onnx.ModelProto, deviations: dict[str, float]) -> None:
    """Replace what trained tensors are drawn from by a normal distribution of this deviation."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for name, deviation in deviations.items():
        (entry,) = (entry for entry in tensors[name].metadata_props if entry.key == KEY)
        entry.value = f"normal 0 {deviation:.6g}"


def source_of(variant: Variant) -> str:
    """What the graph says of its origin."""
    import timm

    changes = ", ".join(f"{key}={value}" for key, value in variant.changes.items())
    return f"timm {_version(timm)} {variant.network}" + (f" with {changes}" if changes else "")


def choose(names: list[str], models: dict[str, dict[str, Variant]]) -> list[tuple[str, str]]:
    """The models and sizes that the command line names: all if it names none."""
    chosen = []
    for name in names or models:
        model, _, size = name.partition("/")
        sizes = [size] if size else list(models.get(model, ()))
        if model not in models or not set(sizes) <= set(models[model]):
            raise SystemExit(f"no model {name}: there are {', '.join(models)}")
        chosen += [(model, size) for size in sizes]
    return chosen


def main() -> None:
    """Parse the command line and export."""
    parser = argparse.ArgumentParser(description=__doc__, usage=argparse.SUPPRESS)
    parser.add_argument("names", nargs="*", metavar="NAME[/SIZE]", help=", ".join(MODELS))
    parser.add_argument("--legacy", type=Path, metavar="FOLDER")
    arguments = parser.parse_args()
    torch.backends.mha.set_fastpath_enabled(False)
    library = declare_vision_operators()
    if arguments.legacy:
        for name, symbolic in LEGACY.items():
            variant = MODELS[name]["full"]
            target = arguments.legacy / f"{name}.onnx.xz"
            source = source_of(variant)
            network, _ = build(variant)
            export(network, variant.image, target, source, legacy=True, symbolic=symbolic)
    else:
        for name, size in choose(arguments.names, MODELS):
            variant = MODELS[name][size]
            target = GRAPHS / name / f"{size}.onnx.xz"
            network, folded = build(variant)
            export(
                network,
                variant.image,
                target,
                source_of(variant),
                calibrated=folded,
                folded=variant.folded,
            )
    del library


def _version(package: object) -> str:
    return package.__version__.partition("+")[0]


if __name__ == "__main__":
    main()
