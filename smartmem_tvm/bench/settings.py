"""What a run measures, and within which limits."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from .. import zoo
from ..errors import SmartMemError
from ..zoo.registry import graph_file
from .runners import Choice
from .runners.base import RpcAddress

_FILE = "file"
_SHARE_OF_MEMORY = 0.8


@dataclass(frozen=True)
class Model:
    """A model of the zoo or an ONNX file.

    Attributes
    ----------
    name, size : str
        What tables call it; the size of a file is ``file``.
    source : str
        What the importer takes.
    """

    name: str
    size: str
    source: str

    @property
    def key(self) -> str:
        """``NAME/SIZE``."""
        return f"{self.name}/{self.size}"

    def digest(self) -> str:
        """Hash of the stored graph: what was prepared from another one is of no use."""
        file = Path(self.source) if self.size == _FILE else graph_file(self.name, self.size)
        return _digest(file)


@dataclass(frozen=True)
class Settings:
    """What to measure, and within which limits.

    Attributes
    ----------
    models : tuple[Model, ...]
        In the order of measurement.
    choices : tuple[Choice, ...]
        Runners, ours first; probes among them get a row.
    work : Path
        Folder for what is prepared.
    repeats : int
        Inferences timed per runner; 3 at most where one takes more than 20 s.
    rpc : RpcAddress, optional
        The device behind RPC.
    servers : int, optional
        Sessions that it serves at a time; None for a device of this machine.
    threads : int
        Processors that each worker may use.
    time_limit_s : float
        Seconds for preparing one model on one runner, and for measuring it.
    memory_limit : int
        Bytes for all workers of a model together.
    """

    models: tuple[Model, ...]
    choices: tuple[Choice, ...]
    work: Path
    repeats: int = 5
    device: str = "auto"
    opencl_device: str | None = None
    dtype: str = "float32"
    host: str | None = None
    linker: str | None = None
    rpc: RpcAddress | None = None
    servers: int | None = None
    threads: int = 2
    time_limit_s: float = 900.0
    memory_limit: int = 0

    def __post_init__(self) -> None:
        if not self.memory_limit:
            free = int(psutil.virtual_memory().available * _SHARE_OF_MEMORY)
            object.__setattr__(self, "memory_limit", free)

    def key(self, size: str) -> dict[str, Any]:
        """What has to agree for two runs to be one."""
        return {
            "size": size,
            "runners": [choice.label for choice in self.choices],
            "repeats": self.repeats,
            **self.compilation(),
            "threads": self.threads,
        }

    def compilation(self) -> dict[str, Any]:
        """What decides how models are compiled, but for the runner."""
        file = Path(self.device)
        profile = f"@{_digest(file)}" if file.suffix == ".toml" and file.is_file() else ""
        return {
            "device": self.device + profile,
            "opencl_device": self.opencl_device,
            "dtype": self.dtype,
            "host": self.host,
            "rpc": None if self.rpc is None else self.rpc.key,
        }

    def case(self, choice: Choice | None, source: str, folder: Path, artefacts: Path) -> Any:
        """Fields of the :class:`.runners.Case` that a worker is given."""
        return {
            "folder": str(folder),
            "artefacts": str(artefacts),
            "source": source,
            "threads": self.threads,
            "device": self.device,
            "opencl_device": self.opencl_device,
            "dtype": self.dtype,
            "host": self.host,
            "linker": self.linker,
            "rpc": None if self.rpc is None else asdict(self.rpc),
            "options": {} if choice is None else dict(choice.options),
            "disable": [] if choice is None else list(choice.disable),
        }


def choose_models(names: list[str] | None, size: str) -> tuple[Model, ...]:
    """Find models by their names in the zoo or as ONNX files; all of that size without names.

    Raises
    ------
    ModelError
        There is no such model or size; the message lists those that exist.
    """
    if not names:
        listed = zoo.list_models()
        sizes = {str(model["name"]): list(map(str, model["sizes"])) for model in listed}
        names = [name for name, offered in sizes.items() if size in offered]
        if not names:
            known = sorted({each for offered in sizes.values() for each in offered})
            raise SmartMemError(f"no model of the zoo has size '{size}': use {', '.join(known)}.")
    models: dict[str, Model] = {}
    for model in (_find(name, size) for name in names):
        first = models.setdefault(model.key, model)
        if first != model:
            raise SmartMemError(
                f"'{first.source}' and '{model.source}' would both be called '{model.name}': "
                "rename one of the files."
            )
    return tuple(models.values())


def _find(text: str, size: str) -> Model:
    if text.endswith(".onnx"):
        if not Path(text).is_file():
            raise SmartMemError(f"model '{text}': no such file.")
        return Model(Path(text).stem, _FILE, str(Path(text).resolve()))
    name, _, own = text.removeprefix("zoo:").partition("/")
    size = own or size
    graph_file(name, size)
    return Model(name, size, f"zoo:{name}/{size}")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
