"""The zoo: graphs of published networks, without trained weights; weights are seeded at load.

See README.md in this folder for the files and how they were exported.
"""

from __future__ import annotations

if __name__ == "zoo":
    raise ImportError(
        "this folder is the package smartmem_tvm.zoo: install the project (make setup) and write "
        "`from smartmem_tvm import zoo`, not `import zoo`."
    )

from .info import info
from .registry import DEFAULT_SIZE, list_models, load

__all__ = ["DEFAULT_SIZE", "info", "list_models", "load"]
