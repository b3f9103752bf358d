"""Kernels of generated OpenCL C, and what its text says of them."""

from __future__ import annotations

import re
from dataclasses import dataclass

# Bytes of source that compilers of phones take.
LARGEST_SOURCE = 64 * 1024
_BYTES = {"char": 1, "bool": 1, "short": 2, "half": 2, "int": 4, "float": 4, "long": 8, "double": 8}
_LOCAL = re.compile(r"__local u?([a-z]+?)(\d*) \w+\[(\d+)\]")
_NAME = re.compile(r"__kernel\s+void\s+(?:__attribute__\(\(.*?\)\)\)\s+)?(\w+)\s*\(")


@dataclass(frozen=True)
class SourceKernel:
    """One kernel of generated OpenCL C."""

    name: str
    text: str

    @property
    def _signature(self) -> str:
        signature = self.text[self.text.index("(", self.text.index(self.name)) :]
        return signature[: signature.index(")")]

    @property
    def arguments(self) -> int:
        """Parameters of the kernel, images too."""
        return self._signature.count(",") + 1

    def images(self, access: str) -> int:
        """Parameters that are images to ``read`` or to ``write``."""
        return len(re.findall(rf"__{access}_only\s+image", self._signature))

    @property
    def local_bytes(self) -> int:
        """Bytes of local memory."""
        return sum(
            _BYTES[kind] * int(lanes or 1) * int(count)
            for kind, lanes, count in _LOCAL.findall(self.text)
        )


def source_kernels(text: str) -> list[SourceKernel]:
    """The kernels of an OpenCL C file, forward declarations left out."""
    found = []
    pieces = re.split(r"^(?=__kernel\b)", text, flags=re.MULTILINE)
    for piece in pieces[1:]:
        name = _NAME.search(piece)
        if name is None:
            raise ValueError(f"a kernel without a name: {piece[:100]}")
        if "{" in piece:
            found.append(SourceKernel(name[1], piece.rstrip() + "\n"))
    return found
