"""The results page, in Markdown, from results files and the paper's figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .results import Document, Record, geomean_ratios, roofline
from .runners import OURS

# A load above this many times the runners' threads means that others were at work.
_DISTURBED = 1.5
NOTHING_YET = "There are no results yet.\n"

_PAPER_RUNNERS = ("MNN", "TVM", "DNNFusion", "SmartMem")


def render(documents: Mapping[str, Document], paper: Mapping[str, Any]) -> str:
    """Write the page.

    Parameters
    ----------
    documents : Mapping[str, Document]
        Results by the name of their file.
    paper : Mapping[str, Any]
        ``source``, ``setting`` and ``models``: by our name ``operators_after`` and ``latency_ms``.
    """
    if not documents:
        return NOTHING_YET
    parts = [
        "Latencies are medians of inferences that took turns with the other runners', the spread "
        "is in brackets. A ratio is our latency over the peer's in the same rounds: below 1, ours "
        "is faster. What was wrong or failed enters no ratio.\n",
        f"The paper's columns are from {paper['source']}; its latencies are from a phone "
        f"({paper['setting']}) and stand next to ours for their proportions only.\n",
    ]
    for file, document in documents.items():
        parts.append(_section(file, document, paper))
    return "\n".join(parts)


def _section(file: str, document: Document, paper: Mapping[str, Any]) -> str:
    records = document.records()
    runners = list(dict.fromkeys(record.runner for record in records))
    by_model: dict[tuple[str, str], dict[str, Record]] = {}
    for record in records:
        by_model.setdefault((record.model, record.size), {})[record.runner] = record
    parts = [
        f"## Size {document.settings['size']}: {file}\n",
        _circumstances(document),
        "```console\n$ " + _command(document) + "\n```\n",
        "### Latency in ms\n",
        _latencies(by_model, runners, document),
        "### Kernels\n",
        _kernels(by_model, runners, document, paper),
    ]
    means = geomean_ratios(records)
    if means:
        rows = [[name, f"{m['ratio']:.3f}", f"{m['models']:.0f}"] for name, m in means.items()]
        parts += [
            "### Our latency over each peer's, geometric mean\n",
            _table(["runner", "ratio", "models"], rows),
        ]
    compared = _against_paper(by_model, paper)
    if compared:
        parts += ["### Proportions next to the paper's\n", compared]
    failures = [
        f"- {record.model} on {record.runner}: {record.failed}"
        for record in records
        if record.failed is not None
    ]
    failures += [f"- {entry['runner']} skipped: {entry['reason']}" for entry in document.skipped]
    if failures:
        parts += ["### Wrong, failed or skipped\n", "\n".join(failures) + "\n"]
    return "\n".join(parts)


def _circumstances(document: Document) -> str:
    machine = document.environment["machine"]
    device = document.environment["opencl_device"]
    lines = [
        f"- machine: {machine['processor']}, {machine['cores']} cores, "
        f"{machine['memory_gib']} GiB; {document.settings['threads']} threads per runner"
    ]
    if device is not None:
        lines.append(f"- OpenCL: {device['platform']}, {device['name']}, driver {device['driver']}")
    versions = document.environment["versions"].items()
    lines.append("- versions: " + ", ".join(f"{name} {version}" for name, version in versions))
    commits = dict.fromkeys(str(entry["commit"]) for entry in document.models.values())
    lines.append(f"- commit: {', '.join(commits)}")
    loads = [entry["load_average"] for entry in document.models.values()]
    if loads:
        lines.append(f"- load average after each model: {min(loads):.1f} to {max(loads):.1f}")
        if max(loads) > _DISTURBED * document.settings["threads"]:
            lines.append(
                "- **disturbed**: other work ran on the machine. Latencies, ratios and roofline "
                "fractions below are no basis for claims; kernels and errors are not affected. "
                "Measure again on an idle machine"
            )
    peak = document.probes.get("numpy-gemm", {}).get("rate")
    bandwidth = document.probes.get("copy-bandwidth", {}).get("rate")
    if peak and bandwidth:
        lines.append(
            f"- measured: {peak / 1e9:.0f} GFLOP/s in NumPy's matrix product, "
            f"{bandwidth / 1e9:.1f} GB/s copying on the OpenCL device; the roofline fraction is "
            "the least time that these allow for the model's operations and compulsory traffic, "
            "over the latency"
        )
    if not document.complete:
        lines.append("- the run was interrupted: models are missing")
    return "\n".join(lines) + "\n"


def _command(document: Document) -> str:
    settings = document.settings
    models = ",".join(name for name in document.models if not name.endswith("/file"))
    words = ["smartmem bench", f"--models {models}", f"--size {settings['size']}"]
    peers = [name for name in settings["runners"] if name != OURS]
    if peers:
        words.append(f"--against {','.join(peers)}")
    words.append(f"--repeats {settings['repeats']}")
    for option, default in (("device", "auto"), ("dtype", "float32"), ("threads", 2)):
        if settings[option] != default:
            words.append(f"--{option} {settings[option]}")
    if settings["opencl_device"] is not None:
        words.append(f"--opencl-device {settings['opencl_device']}")
    return " ".join(words)


def _latencies(
    by_model: Mapping[tuple[str, str], Mapping[str, Record]],
    runners: Sequence[str],
    document: Document,
) -> str:
    header = ["model", "GMACs"]
    for runner in runners:
        header += [runner, "roofline"] if runner == OURS else [runner, "ratio"]
    rows = []
    for (model, size), records in by_model.items():
        facts = document.models[f"{model}/{size}"]["facts"]
        macs = facts.get("macs_g")
        row = [f"{model}/{size}", "–" if macs is None else f"{macs:.3g}"]
        for runner in runners:
            record = records.get(runner)
            row.append(_latency(record))
            if runner == OURS:
                row.append(_fraction(record, roofline(facts, document.probes)))
            else:
                ratio = None if record is None else record.ratio
                row.append("–" if ratio is None else f"{ratio:.3f}")
        rows.append(row)
    return _table(header, rows)


def _kernels(
    by_model: Mapping[tuple[str, str], Mapping[str, Record]],
    runners: Sequence[str],
    document: Document,
    paper: Mapping[str, Any],
) -> str:
    counted = [
        runner
        for runner in runners
        if any(r.get(runner) and r[runner].kernels is not None for r in by_model.values())
    ]
    header = ["model", "operators", *counted]
    header += [f"paper: {name}" for name in ("operators", *_PAPER_RUNNERS)]
    rows = []
    for (model, size), records in by_model.items():
        facts = document.models[f"{model}/{size}"]["facts"]
        row = [f"{model}/{size}", str(facts.get("operators", "–"))]
        row += [_launches(records.get(runner)) for runner in counted]
        published = paper["models"].get(model)
        if published is None:
            row += ["–"] * (1 + len(_PAPER_RUNNERS))
        else:
            after = published["operators_after"]
            row += [str(published["operators"]), *(str(after[name]) for name in _PAPER_RUNNERS)]
        rows.append(row)
    return "Device launches of one inference, of them those that only move data.\n\n" + _table(
        header, rows
    )


def _against_paper(
    by_model: Mapping[tuple[str, str], Mapping[str, Record]], paper: Mapping[str, Any]
) -> str | None:
    """Our ratio to TVM and MNN next to SmartMem's in the paper."""
    rows = []
    for (model, size), records in by_model.items():
        published = paper["models"].get(model)
        if published is None:
            continue
        times = published["latency_ms"]
        row = [f"{model}/{size}"]
        for runner, theirs in (("tvm", "TVM"), ("tvm-adreno", "TVM"), ("mnn", "MNN")):
            record = records.get(runner)
            ratio = None if record is None else record.ratio
            row.append("–" if ratio is None else f"{ratio:.3f}")
            row.append(f"{times['SmartMem'] / times[theirs]:.3f}")
        if row[1::2] != ["–"] * 3:
            rows.append(row)
    if not rows:
        return None
    header = ["model", "tvm", "paper: TVM", "tvm-adreno", "paper: TVM", "mnn (CPU)", "paper: MNN"]
    return _table(header, rows)


def _latency(record: Record | None) -> str:
    if record is None:
        return "–"
    mark = {"ok": "", "wrong": " **wrong**", "failed": "**failed**"}[record.status]
    if record.latency_ms is None:
        return mark or "–"
    low, middle, high = (record.latency_ms[name] for name in ("min", "median", "max"))
    digits = 2 if middle < 100 else 0
    return f"{middle:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]{mark}"


def _fraction(record: Record | None, least_ms: float | None) -> str:
    if record is None or record.latency_ms is None or least_ms is None:
        return "–"
    return f"{least_ms / record.latency_ms['median']:.1%}"


def _launches(record: Record | None) -> str:
    if record is None or record.kernels is None:
        return "–"
    layout = "?" if record.layout_kernels is None else str(record.layout_kernels)
    return f"{record.kernels}, {layout}"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"
