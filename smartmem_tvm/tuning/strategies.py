"""The searches by name."""

from __future__ import annotations

from importlib.util import find_spec

from ..errors import SmartMemError
from .explorer import Explorer
from .random_search import RandomSearch
from .strategy import SearchSpace, Strategy

STRATEGIES = {
    "evolution": "genetic search through MetaSchedule, with a cost model of XGBoost",
    "explorer": "FlexTensor's: annealed starting points, directions by Q-learning",
    "random": "the control: uniform over the legal schedules",
}
DEFAULT = "evolution"


def check_strategy(name: str) -> None:
    """Raise SmartMemError for a name that is none, or where a search's library is missing."""
    if name not in STRATEGIES:
        raise SmartMemError(f"there is no strategy '{name}': choose from {', '.join(STRATEGIES)}.")
    if name == "evolution" and find_spec("xgboost") is None:
        raise SmartMemError(
            "strategy 'evolution' needs XGBoost: pip install 'smartmem-tvm[tuning]', or choose "
            "--strategy explorer."
        )


def make_strategy(name: str, space: SearchSpace, seed: int) -> Strategy:
    """A search of a space; raises as :func:`check_strategy` does."""
    check_strategy(name)
    if name == "explorer":
        return Explorer(space, seed)
    if name == "random":
        return RandomSearch(space, seed)
    from .evolution import Evolution

    return Evolution(space, seed)
