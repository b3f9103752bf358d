"""Does the cost model pick the faster of two layouts?  Kernels of the zoo, measured in pairs.

::

    python benchmarks/layout_pairs.py --prepare-only      # on a busy machine
    python benchmarks/layout_pairs.py                     # on an idle one

A pair is a kernel of the zoo in two versions that differ in the layout of one tensor: a weight or
an activation that a reduction reads, another input, or an output. Both have the same schedule, the
tile of the walk that the model thinks best for one of them. Their outputs are compared, and they
are timed in turns on every device, one process for each. A pair counts when its times differ by
more than ``--apart``; the result says how often the layout of the smaller cost was the faster.
``--recost`` computes the costs of the pairs in the result again, for a model that has changed.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import tvm
from layout_pairs_device import inputs_of
from tvm import relax, tirx
from tvm.ir.expr import GenericConst

from smartmem_tvm.analysis.fused_kernel import NotAKernel, read_kernel
from smartmem_tvm.analysis.layouts import Layout, row_major
from smartmem_tvm.analysis.transactions import KernelCost, Memory, Walk
from smartmem_tvm.bench.machine import commit, environment
from smartmem_tvm.devices import DeviceProfile, resolve_profile
from smartmem_tvm.frontend import import_model
from smartmem_tvm.passes._layout_problem import candidates
from smartmem_tvm.passes.rewrite_layouts import rewrite_function
from smartmem_tvm.pipeline import module_before
from smartmem_tvm.schedules.base import IS_SCHEDULED, RuleDeclined
from smartmem_tvm.schedules.choice import Choice, scheduled
from smartmem_tvm.schedules.contraction import with_group
from smartmem_tvm.schedules.cost import Costs
from smartmem_tvm.schedules.limits import limits_of
from smartmem_tvm.schedules.tile import Tile
from smartmem_tvm.whole_files import write_json

OUTPUT = Path(__file__).parent / "results" / "layout_pairs.json"
MODELS = (
    "swin vit convnext cswin conformer regnet resnext yolov8 efficientvit sd-unet pythia "
    "flattenformer"
).split()
ROLES = ("weight", "activation", "output", "other")
LARGEST = 64 << 20  # bytes of all tensors of a kernel
DRAWS = 20  # times that a kernel is drawn, at most
BYTES = ("bool", "int8", "uint8")  # elements of which there are no vectors


@dataclass
class Pair:
    """Two layouts of one tensor of one kernel.

    Attributes
    ----------
    role : str
        ``weight`` or ``activation`` where a reduction reads the tensor; ``output``; ``other``.
    tensor : int
        Number of the parameter.
    walk : Walk
        Of both versions.
    layouts : list of Layout
        The two.
    costs : list of float
        What the model says of each.
    seconds : dict
        Median time of each, by device.
    """

    model: str
    kernel: str
    role: str
    tensor: int
    shape: list[int]
    walk: Walk
    layouts: list[Layout]
    costs: list[float] = field(default_factory=list)
    seconds: dict[str, list[float]] = field(default_factory=dict)

    @classmethod
    def from_entry(cls, entry: dict[str, Any]) -> Pair:
        """Read what :func:`asdict` wrote."""
        walk = {name: _tuples(value) for name, value in entry["walk"].items()}
        layouts = [Layout(**{n: _tuples(v) for n, v in one.items()}) for one in entry["layouts"]]
        return cls(**{**entry, "walk": Walk(**walk), "layouts": layouts})


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


@dataclass(frozen=True)
class Candidate:
    """A function of a model before layouts are chosen, and the parameters that are constants."""

    name: str
    func: tirx.PrimFunc
    constants: frozenset[int]


def kernels_of(model: str, profile: DeviceProfile) -> list[Candidate]:
    """Functions of a model, one of each structure."""
    mod = module_before("layouts", import_model(f"zoo:{model}").mod, profile.target())
    constants: dict[Any, set[int]] = {}

    def visit(call: Any) -> None:
        if isinstance(call, relax.Call) and isinstance(call.args[0], tvm.ir.GlobalVar):
            arguments = call.args[1] if len(call.args) > 1 else ()
            found = {n for n, a in enumerate(arguments) if isinstance(a, GenericConst)}
            constants.setdefault(call.args[0], found).intersection_update(found)

    relax.analysis.post_order_visit(mod["main"], visit)
    return [
        Candidate(global_var.name_hint, func, frozenset(constants.get(global_var, ())))
        for global_var, func in mod.functions.items()
        if isinstance(func, tirx.PrimFunc) and "tirx.is_host_func" not in func.attrs
    ]


def tile_of(walk: Walk, memory: Memory) -> Tile | None:
    """The schedule of a walk; None where it takes axes together, which needs them regrouped."""
    if walk.lane is not None and len(walk.lane) > 1:
        return None
    return Tile(
        rows=tuple((d, n) for d, n in walk.rows if n > 1),
        lane=walk.lane[0] if walk.lane and walk.width > 1 else None,
        width=walk.width if walk.lane else 1,
        inner=walk.inner,
        inner_width=memory.width if walk.along_reduction else 1,
    )


def role_of(model: KernelCost, buffer: Any, constant: bool) -> str:
    """What the kernel does with a tensor."""
    numbers = [n for n, other in enumerate(model.buffers) if other.same_as(buffer)]
    if any(model.accesses[n][0] < len(model.work) - 1 for n in numbers):
        return "weight" if constant else "activation"
    return "output" if any(map(model.is_write, numbers)) else "other"


def costs_of(model: KernelCost, walk: Walk, buffer: Any, layouts: list[Layout]) -> list[float]:
    """Costs of a kernel with one tensor in each of some layouts, the others row by row."""
    rest, own = model.base(walk), [0.0] * len(layouts)
    for number, other in enumerate(model.buffers):
        if other.same_as(buffer):
            own = [
                sum_ + model.access(number, walk, one)
                for sum_, one in zip(own, layouts, strict=True)
            ]
        else:
            rest += model.access(number, walk, row_major(len(other.shape)))
    return [rest + one for one in own]


class Drawing:
    """Draws pairs of kernels that the model can state."""

    def __init__(self, profile: DeviceProfile, seed: int) -> None:
        self.memory = Memory.of(profile)
        self.limits = limits_of(profile.target())
        self.target = profile.target()
        self.rng = random.Random(seed)

    def pair(self, name: str, candidate: Candidate, role: str) -> Pair | None:
        """A tensor of that role in two layouts; None where the kernel has none or is too large."""
        func = candidate.func
        if not _is_plain(func):
            return None
        try:
            model = KernelCost(read_kernel(func), self.memory)
        except NotAKernel:
            return None
        tensors = [
            (number, p, layouts)
            for number, p in enumerate(func.params)
            for layouts in [candidates(p.shape, self.memory.width)]
            if any(p.same_as(b) for b in model.buffers)
            and len(layouts) > 1
            and role_of(model, p, number in candidate.constants) == role
        ]
        walks = [walk for walk in model.walks if tile_of(walk, self.memory) is not None]
        if not tensors or not walks:
            return None
        number, buffer, choices = self.rng.choice(tensors)
        layouts = self.rng.sample(choices, 2)
        walk = min(walks, key=lambda w: costs_of(model, w, buffer, layouts[:1]))
        costs = costs_of(model, walk, buffer, layouts)
        shape = [int(extent) for extent in buffer.shape]
        return Pair(name, candidate.name, role, number, shape, walk, layouts, costs)

    def compile(self, pair: Pair, func: tirx.PrimFunc) -> Any:
        """Both versions in one library; RuleDeclined where the tile does not fit."""
        tile = tile_of(pair.walk, self.memory)
        kernels = [
            read_kernel(rewrite_function(func, {func.params[pair.tensor]: layout.index_map()}))
            for layout in pair.layouts
        ]
        if tile is None:
            raise RuleDeclined("the walk takes axes together")
        # Both versions have the work-groups of the first.
        tile = with_group(tile, Costs(kernels[0], self.limits), self.limits)
        functions = {}
        for version, kernel in enumerate(kernels):
            name = f"version_{version}"
            attributes = {"global_symbol": name, IS_SCHEDULED: True}
            func = scheduled(kernel, Choice(tile)).mod["main"]
            functions[name] = func.with_attr(attributes)
        return tvm.compile(tvm.IRModule(functions), target=self.target, tir_pipeline="smartmem")


def _is_plain(func: tirx.PrimFunc) -> bool:
    """Whether all shapes are known, no element is a byte, and all tensors together are small."""
    total = 0
    for parameter in func.params:
        if isinstance(parameter.ty, tvm.ir.PrimType) or str(parameter.dtype) in BYTES:
            return False
        size = 4
        for extent in parameter.shape:
            if not isinstance(extent, tirx.IntImm):
                return False
            size *= int(extent)
        total += size
    return total <= LARGEST


def draw(options: argparse.Namespace, profile: DeviceProfile) -> Iterator[tuple[Pair, Any, Any]]:
    """Pairs with their functions and libraries, models and roles taking turns."""
    drawing = Drawing(profile, options.seed)
    pools = {}
    for name in options.models:
        print(f"reading {name}", file=sys.stderr, flush=True)
        pools[name] = kernels_of(f"{name}/{options.size}", profile)
    left, seen = options.pairs, set()
    for turn in range(DRAWS * len(ROLES)):
        for name, kernels in pools.items():
            if not left or not kernels:
                continue
            candidate = drawing.rng.choice(kernels)
            pair = drawing.pair(name, candidate, ROLES[turn % len(ROLES)])
            if pair is None or (key := (name, pair.kernel, pair.tensor, *pair.layouts)) in seen:
                continue
            seen.add(key)
            try:
                library = drawing.compile(pair, candidate.func)
            except RuleDeclined as error:
                print(f"{name}, {pair.kernel}: {error}", file=sys.stderr)
                continue
            left -= 1
            yield pair, candidate.func, library


def prepare(options: argparse.Namespace, profile: DeviceProfile) -> list[Pair]:
    """Draw and compile pairs into the work folder."""
    options.work.mkdir(parents=True, exist_ok=True)
    pairs, inputs = [], []
    for pair, func, library in draw(options, profile):
        library.export_library(str(options.work / f"{len(pairs)}.so"))
        inputs.append(inputs_of(func, pair.tensor))
        pairs.append(pair)
        print(f"{len(pairs)} of {options.pairs} compiled", end="\r", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    document = {
        "settings": settings(options),
        "inputs": inputs,
        "pairs": [asdict(pair) for pair in pairs],
    }
    write_json(options.work / "prepared.json", document)
    return pairs


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """What decides which pairs are drawn."""
    return {name: getattr(options, name) for name in ("models", "size", "pairs", "profile", "seed")}


def prepared(options: argparse.Namespace) -> list[Pair] | None:
    """Pairs of the work folder; None where it has none of these settings."""
    path = options.work / "prepared.json"
    if not path.exists():
        return None
    document = json.loads(path.read_text(encoding="utf-8"))
    if document["settings"] != settings(options):
        return None
    return [Pair.from_entry(entry) for entry in document["pairs"]]


def on_device(options: argparse.Namespace, device: str, *arguments: str) -> list[Any]:
    """What a process of its own says of every pair on a device."""
    worker = Path(__file__).with_name("layout_pairs_device.py")
    command = [sys.executable, str(worker), str(options.work), device, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def ranking(pairs: list[Pair], device: str, apart: float) -> dict[str, Any]:
    """How many pairs differ on a device, and of how many the model picks the faster."""
    found = {"pairs": 0, "differ": 0, "right": 0, "of_role": {}}
    for pair in pairs:
        if device not in pair.seconds:
            continue
        one, other = pair.seconds[device]
        found["pairs"] += 1
        if max(one, other) <= (1 + apart) * min(one, other):
            continue
        # Equal costs pick nothing, so they are not right.
        right = (one - other) * (pair.costs[0] - pair.costs[1]) > 0
        of_role = found["of_role"].setdefault(pair.role, {"differ": 0, "right": 0})
        for count in (found, of_role):
            count["differ"] += 1
            count["right"] += right
    return {**found, "share": round(found["right"] / max(found["differ"], 1), 3)}


def recost(path: Path, profile: DeviceProfile) -> list[Pair]:
    """Pairs of a result with the costs of the model as it is now."""
    document = json.loads(path.read_text(encoding="utf-8"))
    pairs = [Pair.from_entry(entry) for entry in document["pairs"]]
    memory, functions = Memory.of(profile), {}
    for pair in pairs:
        name = f"{pair.model}/{document['settings']['size']}"
        if name not in functions:
            functions[name] = {c.name: c.func for c in kernels_of(name, profile)}
        func = functions[name][pair.kernel]
        model = KernelCost(read_kernel(func), memory)
        pair.costs = costs_of(model, pair.walk, func.params[pair.tensor], pair.layouts)
    return pairs


def main() -> int:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--size", default="small")
    parser.add_argument("--pairs", type=int, default=160)
    parser.add_argument("--apart", type=float, default=0.1)
    parser.add_argument("--profile", default="cpu")
    parser.add_argument("--devices", nargs="+", default=["Intel", "Portable"])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=Path, help="folder of what is compiled; beside the output")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--prepare-only", action="store_true", help="compile, and time nothing")
    parser.add_argument("--recost", action="store_true", help="costs anew, times as they are")
    options = parser.parse_args()
    options.work = options.work or options.output.with_suffix(".work")
    profile = resolve_profile(options.profile)
    if options.recost:
        document = json.loads(options.output.read_text(encoding="utf-8"))
        pairs = recost(options.output, profile)
        devices = list(document["devices"])
    else:
        devices = options.devices
        pairs = prepared(options)
        if pairs is None:
            pairs = prepare(options, profile)
            for device in devices:
                on_device(options, device, "--check")
        if options.prepare_only:
            return 0
        for device in devices:
            for pair, seconds in zip(pairs, on_device(options, device), strict=True):
                if seconds is not None:
                    pair.seconds[device] = seconds
        document = {
            "settings": {**settings(options), "apart": options.apart},
            "devices": {name: environment(name)["opencl_device"] for name in devices},
            "environment": {k: v for k, v in environment(None).items() if k != "opencl_device"},
        }
    document["commit"] = commit()
    document["ranking"] = {name: ranking(pairs, name, options.apart) for name in devices}
    document["pairs"] = [asdict(pair) for pair in pairs]
    write_json(options.output, document)
    print(json.dumps(document["ranking"], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
