"""Show what became of a model's operators and tensors, which kernels are left, and why."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from . import options

if TYPE_CHECKING:
    from ..explaining import Explanation


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    options.add_model(parser)
    options.add_common(parser)
    parser.add_argument(
        "--operators",
        action="store_true",
        help="also list every operator with its class, its fate and its kernel",
    )
    options.add_disable(parser)
    options.add_records(parser)


def run(args: argparse.Namespace) -> int:
    """Run the pipeline up to scheduled kernels and describe; nothing is built or launched."""
    from .. import report
    from ..devices import resolve_profile
    from ..explaining import explain
    from ..frontend import import_model
    from ..traffic import compulsory
    from .traffic import total_footprint

    with options.progress() as progress:
        imported = import_model(args.model, shapes=options.shapes(args))
        profile = resolve_profile(args.device, args.opencl_device)
        found = explain(
            imported.mod,
            profile.target(None),
            args.dtype,
            args.disable,
            progress=progress,
            records=args.records,
        )
    launches = sum(kernel.calls for kernel in found.kernels)
    layout_launches = sum(kernel.calls for kernel in found.kernels if kernel.layout_only)
    traffic = {
        "footprint": total_footprint(found.kernels),
        "compulsory": compulsory(imported.mod, dtype=args.dtype).total,
    }
    if args.json:
        options.show_json(
            {
                "model": imported.name,
                "device": profile.name,
                "dtype": args.dtype,
                "operators": imported.operators,
                "kernels": launches,
                "layout_kernels": layout_launches,
                "kernel_floor": found.kernel_floor,
                "layout_transforms": found.layout_transforms,
                "index_divisions": found.index_divisions,
                "tensors": found.tensors,
                "tensor_bytes": found.tensor_bytes,
                "memory": found.memory.scopes,
                **_half(found, args.dtype),
                "operand_readings": found.operand_readings,
                "scheduled_readings": found.scheduled_readings,
                "traffic_bytes": traffic,
                "fates": found.fates,
                "per_kernel": found.kernels,
                "schedules": found.schedules,
                "stages_s": found.stages_s,
            }
        )
        return 0
    transforms = found.layout_transforms
    tables = [
        report.summary_table(
            f"{imported.name}, {args.dtype}, device profile {profile.name}",
            {
                "operators": imported.operators,
                "kernels": launches,
                "layout kernels": layout_launches,
                "kernels that reduce, merged": found.kernel_floor["ild"],
                "opaque operators": found.kernel_floor["opaque"],
                "layout transforms": transforms["before"],
                "of these eliminated": transforms["eliminated"],
                "divisions in index maps, composed": found.index_divisions["before"],
                "divisions in index maps, simplified": found.index_divisions["after"],
                "divisions in inner loops": found.index_divisions["inner_loops"],
                "tensors": len(found.tensors),
                "tensors, bytes": found.tensor_bytes["total"],
                "of these second copies": found.tensor_bytes["copies"],
                **{
                    f"storages in {scope}, bytes (in use at one time)": f"{m.planned} ({m.live})"
                    for scope, m in found.memory.scopes.items()
                },
                **{
                    f"{kind} in {dtype}, bytes": size
                    for kind, sizes in found.float_bytes.items()
                    if args.dtype == "float16"
                    for dtype, size in sizes.items()
                },
                **{
                    f"{name} traffic, bytes": "symbolic" if value is None else value
                    for name, value in traffic.items()
                },
            },
        ),
        report.fate_table(found.fates),
    ]
    if found.half:
        tables.append(report.half_table(found.half))
    if args.operators:
        tables.append(report.operator_table(found.fates))
    kept = [fate for fate in found.fates if fate.fate == "kept"]
    if kept:
        tables.append(report.operator_table(kept, "Kept, and why"))
    tables += [
        *_layout_tables(found),
        report.kernel_table(found.kernels, found.schedules),
        report.summary_table("Seconds by stage", found.stages_s),
    ]
    options.show(*tables)
    return 0


def _half(found: Explanation, dtype: str) -> dict[str, Any]:
    """What half precision did; nothing is said of it in float32."""
    if dtype != "float16":
        return {}
    return {"half": {"operators": found.half, "bytes": found.float_bytes}}


def _layout_tables(found: Explanation) -> list[Any]:
    """How tensors lie, how kernels read them, and what is not read with stride one."""
    from .. import report

    if not found.tensors:
        return []
    return [
        report.layout_table(found.tensors),
        report.summary_table(
            "Operands read along a reduced axis: as chosen, as scheduled",
            {
                how: f"{chosen}, {found.scheduled_readings[how]}"
                for how, chosen in found.operand_readings.items()
                if chosen or found.scheduled_readings[how]
            },
        ),
        *report.against_the_grain_tables(found.tensors),
    ]
