"""Models from ONNX, torch.export or Relax, as Relax modules with named inputs and outputs."""

from __future__ import annotations

from .inputs import check_inputs
from .load import import_model
from .model import ImportedModel, TensorSpec
from .reference import random_inputs, reference_outputs

__all__ = [
    "ImportedModel",
    "TensorSpec",
    "check_inputs",
    "import_model",
    "random_inputs",
    "reference_outputs",
]
