"""The table of runners: a name, the class that does it, and what it is.

Classes are named as ``module:class``, so that a worker imports its own runner alone.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ...errors import SmartMemError
from .base import Case, Facts, RpcAddress, Runner

OURS = "smartmem"
ABLATED = f"{OURS}-no-"
"""``smartmem-no-fuse``, or ``smartmem-no-fuse+other``: this package without those switches."""
_HERE = __name__

# name: (class, what it is)
RUNNERS: dict[str, tuple[str, str]] = {
    OURS: (f"{_HERE}.ours:SmartMem", "this package"),
    "tvm": (f"{_HERE}.upstream_tvm:Default", "TVM's default OpenCL pipeline, same device"),
    "tvm-adreno": (
        f"{_HERE}.upstream_tvm:Adreno",
        "TVM's Adreno texture pipeline with its faults mended, same device",
    ),
    "onnxruntime": (f"{_HERE}.onnx_runtime:OnnxRuntime", "onnxruntime on the processor"),
    "mnn": (f"{_HERE}.mnn:Mnn", "MNN on the processor"),
    "openvino": (f"{_HERE}.openvino:OpenVino", "OpenVINO on the processor"),
}

# What does not depend on a model: measured once a run.
PROBES: dict[str, tuple[str, str]] = {
    "numpy-gemm": (f"{_HERE}.probes:NumpyGemm", "matrix product in NumPy: the processor's peak"),
    "copy-bandwidth": (f"{_HERE}.probes:CopyBandwidth", "copy of a large buffer on the device"),
}


@dataclass(frozen=True)
class Choice:
    """A runner with its switches, as the user wrote it.

    Attributes
    ----------
    label : str
        ``NAME[:key=value…]``; what tables and records call it.
    name : str
        Entry of :data:`RUNNERS` or :data:`PROBES`.
    entry : str
        ``module:class``.
    options : Mapping[str, str]
        The switches that were given.
    disable : tuple[str, ...]
        What an ablation leaves out of our pipeline.
    """

    label: str
    name: str
    entry: str
    options: Mapping[str, str] = field(default_factory=dict)
    disable: tuple[str, ...] = ()

    @property
    def runner(self) -> type[Runner]:
        """The class."""
        return load_class(self.entry)

    @property
    def is_probe(self) -> bool:
        """Whether it measures the machine rather than a model."""
        return self.name in PROBES


def parse_choices(texts: Iterable[str]) -> list[Choice]:
    """Read runners as a user names them, each once and ``smartmem`` always first.

    Raises
    ------
    SmartMemError
        For an unknown runner, switch or value; the message lists those that exist.
    """
    choices = {choice.label: choice for choice in map(parse_choice, [OURS, *texts])}
    return list(choices.values())


def parse_choice(text: str) -> Choice:
    """Read ``NAME[:key=value…]``, or ``smartmem-no-SWITCH[+SWITCH…][:key=value…]``."""
    name, *switches = text.split(":")
    known = {**RUNNERS, **PROBES}
    disable: tuple[str, ...] = ()
    if name.startswith(ABLATED):
        from ...pipeline import check_switches

        disable = check_switches(name.removeprefix(ABLATED).split("+"))
        name = OURS
    if name not in known:
        raise SmartMemError(
            f"there is no runner '{name}': choose from {', '.join(known)}, or {ABLATED}SWITCH."
        )
    entry = known[name][0]
    offered = load_class(entry).OPTIONS
    options = {}
    for switch in switches:
        key, _, value = switch.partition("=")
        if key not in offered:
            has = f"it has {', '.join(offered)}" if offered else "it has none"
            raise SmartMemError(f"runner '{name}' has no switch '{key}': {has}.")
        if not value or (offered[key] and value not in offered[key]):
            raise SmartMemError(
                f"switch '{key}' of runner '{name}' cannot be '{value}': use "
                f"{' or '.join(offered[key]) or 'a file'}."
            )
        options[key] = value
    return Choice(text, name, entry, options, disable)


def load_class(entry: str) -> type[Runner]:
    """Import ``module:class``."""
    module, _, name = entry.partition(":")
    kind: type[Runner] = getattr(importlib.import_module(module), name)
    return kind


__all__ = [
    "OURS",
    "PROBES",
    "RUNNERS",
    "Case",
    "Choice",
    "Facts",
    "RpcAddress",
    "Runner",
    "load_class",
    "parse_choice",
    "parse_choices",
]
