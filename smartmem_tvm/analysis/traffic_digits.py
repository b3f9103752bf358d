"""Where divisions cut the digits of a variable apart.

In ``v // 9``, ``v % 9 // 3`` and ``v % 3`` a variable occurs through its digits to the mixed base
(3, 3, n): with ``v = a * 9 + b * 3 + c`` the three are ``a``, ``b`` and ``c``.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from tvm import tirx
from tvm_ffi import structural_walk


def find_cuts(roots: list[Any], var: Any, extent: int) -> list[int]:
    """Places of the digits above the lowest, in order.

    None are found unless each place divides the next and the last divides the extent: only then
    are the digits independent.
    """
    return _chain(_cuts(roots, var), extent)


def _cuts(roots: list[Any], var: Any) -> set[int]:
    """Places where divisions cut the digits of a variable apart."""
    cuts: set[int] = set()

    def visit(node: Any) -> None:
        if not isinstance(node.b, tirx.IntImm):
            return
        at, inner = int(node.b), node.a
        if isinstance(inner, (tirx.FloorDiv, tirx.FloorMod)) and isinstance(inner.b, tirx.IntImm):
            if not inner.a.same_as(var):
                return
            if isinstance(inner, tirx.FloorDiv):
                at *= int(inner.b)
        elif not inner.same_as(var):
            return
        cuts.add(at)

    structural_walk(roots, ((tirx.FloorDiv, tirx.FloorMod), visit))
    return cuts


def _chain(cuts: set[int], extent: int) -> list[int]:
    """Cuts in order when each divides the next and the last divides the extent, else none."""
    inside = sorted(cut for cut in cuts if 1 < cut < extent)
    divide = all(b % a == 0 for a, b in pairwise([*inside, extent]))
    return inside if divide else []
