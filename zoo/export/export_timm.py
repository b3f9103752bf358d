"""Export the zoo's vision models from timm. Run as zoo/export/README.md says.

With ``--legacy FOLDER``, it writes the fixtures of the legacy exporter's graphs instead.
"""

from __future__ import annotations

import tempfile
import warnings
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import onnx
import torch
from exporting import (
    Folding,
    Subject,
    choose,
    export_chosen,
    exporting,
    finish,
    parser_of,
    prepare,
    provenance,
)
from weightless import strip


@dataclass(frozen=True)
class Variant:
    """A network of timm, the extent of its square input, and what differs from the published.

    The exporter leaves the position tables of the full Swin alone, so those of a reduced one, which
    are smaller, must be left alone too: hence `folding`.
    """

    network: str
    image: int = 224
    changes: dict[str, object] = field(default_factory=dict)
    folding: Folding = field(default_factory=Folding)


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
            folding=Folding(operands=800),
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
            folding=Folding(operands=800),
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
LEGACY = {("swin", "full"): False, ("swin", "micro"): False}
LEGACY |= {("vit", "full"): True, ("vit", "micro"): False}
"""Models and sizes of the legacy fixtures, and whether their batch is symbolic."""


def build(variant: Variant) -> Subject:
    """The network of a variant, untrained."""
    import timm

    version = timm.__version__.partition("+")[0]
    changes = ", ".join(f"{key}={value}" for key, value in variant.changes.items())
    return Subject(
        timm.create_model(variant.network, pretrained=False, **variant.changes),
        {"input": torch.randn(1, 3, variant.image, variant.image)},
        ["logits"],
        f"timm {version} {variant.network}" + (f" with {changes}" if changes else ""),
        folding=variant.folding,
    )


def export_legacy(subject: Subject, target: Path, *, symbolic: bool) -> None:
    """Export with torch's legacy exporter, which needs parameters of distinct values."""
    network, deviations = prepare(subject)
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    named = [*subject.inputs, *subject.outputs]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            network,
            tuple(subject.inputs.values()),
            path,
            opset_version=17,
            dynamo=False,
            dynamic_axes={name: {0: "batch"} for name in named} if symbolic else None,
            input_names=list(subject.inputs),
            output_names=list(subject.outputs),
        )
        model = onnx.load(path)
    values = [parameter.detach().numpy() for parameter in network.parameters()]
    strip(model, values, provenance(subject.source, "torch.onnx.export(dynamo=False)"))
    finish(model, subject, deviations, target)


def main() -> None:
    """Parse the command line and export."""
    models = {
        name: {size: partial(build, variant) for size, variant in sizes.items()}
        for name, sizes in MODELS.items()
    }
    parser = parser_of(models, __doc__)
    parser.add_argument("--legacy", type=Path, metavar="FOLDER")
    arguments = parser.parse_args()
    if arguments.legacy is None:
        export_chosen(models, choose(parser, arguments.names, models))
        return
    with exporting():
        for (name, size), symbolic in LEGACY.items():
            file = f"{name}.onnx.xz" if size == "full" else f"{name}-{size}.onnx.xz"
            export_legacy(models[name][size](), arguments.legacy / file, symbolic=symbolic)


if __name__ == "__main__":
    main()
