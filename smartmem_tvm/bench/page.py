"""The results page, in Markdown, from results files and the paper's figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .markdown import NONE, fraction, latency, launches, mebibytes, ratio, table
from .plots import FULL, Plot
from .results import Document, Record, geomean_ratios, roofline
from .runners import OURS

# A load above this many times the runners' threads means that others were at work.
_DISTURBED = 1.5
NOTHING_YET = "There are no results yet.\n"
NO_PLOTS = (
    "No plots: they are drawn where matplotlib is installed (`pip install 'smartmem-tvm[bench]'`)."
    "\n"
)

_PAPER_RUNNERS = ("MNN", "TVM", "DNNFusion", "SmartMem")
# What of ours stands for a runner of the paper.
_COUNTERPARTS = (("tvm", "TVM"), ("tvm-adreno", "TVM"), ("mnn", "MNN"))


def render(
    documents: Mapping[str, Document],
    paper: Mapping[str, Any],
    plots: Mapping[str, Mapping[str, Plot]] | None = None,
) -> str:
    """Write the page.

    Parameters
    ----------
    documents : Mapping[str, Document]
        Results by the name of their file.
    paper : Mapping[str, Any]
        ``source``, ``setting`` and ``models``: by our name ``operators_after`` and ``latency_ms``.
    plots : Mapping[str, Mapping[str, Plot]], optional
        By the name of the results file what is drawn of it, by address from the page.
    """
    if not documents:
        return NOTHING_YET
    parts = [
        "Latencies are medians of inferences that took turns with the other runners', the spread "
        "is in brackets. A ratio is our latency over the peer's in the same rounds: below 1, ours "
        "is faster. What was wrong or failed enters no ratio and no roofline fraction.\n",
        f"The paper's columns are from {paper['source']}; its latencies are from a phone "
        f"({paper['setting']}) and stand next to ours for their proportions only. Its "
        "models are those of size full.\n",
    ]
    for file, document in documents.items():
        drawn = (plots or {}).get(file, {})
        parts.append(_Section(file, document, paper, drawn).text())
    return "\n".join(parts)


class _Section:
    """One results file."""

    def __init__(
        self, file: str, document: Document, paper: Mapping[str, Any], plots: Mapping[str, Plot]
    ) -> None:
        self._file = file
        self._document = document
        self._paper = paper
        self._plots = plots
        self._records = document.records()
        self._runners = list(dict.fromkeys(record.runner for record in self._records))
        self._models: dict[str, dict[str, Record]] = {}
        for record in self._records:
            row = self._models.setdefault(f"{record.model}/{record.size}", {})
            row[record.runner] = record

    def text(self) -> str:
        parts = [
            f"## Size {self._document.settings['size']}: {self._file}\n",
            circumstances(self._document),
            "```console\n$ " + command(self._document) + "\n```\n",
            self._pictures(),
        ]
        if any(record.latency_ms is not None for record in self._records):
            parts += ["### Latency in ms\n", self._latencies()]
            peers = [name for name in self._runners if name != OURS]
            if peers:
                parts += ["### Our latency over each peer's\n", self._ratios(peers)]
        if any(self._least_ms(model) is not None for model in self._models):
            parts += ["### Roofline fraction\n", self._fractions()]
        parts += ["### Kernels\n", self._kernels(), "### Traffic\n", self._traffic()]
        parts += self._textures()
        compared = self._against_paper()
        if compared:
            parts += ["### Proportions next to the paper's\n", compared]
        failures = [
            f"- {record.model}/{record.size} on {record.runner}: {record.failed}"
            for record in self._records
            if record.failed is not None
        ]
        skipped = [f"- {entry['runner']} skipped: {entry['reason']}" for entry in
                   self._document.skipped]  # fmt: skip
        if failures or skipped:
            parts += ["### Wrong, failed or skipped\n", "\n".join(failures + skipped) + "\n"]
        return "\n".join(parts)

    def _pictures(self) -> str:
        if not self._plots:
            return NO_PLOTS
        return "\n".join(f"![{plot.title}]({file})\n" for file, plot in self._plots.items())

    def _table(
        self,
        runners: list[str],
        cell: Callable[[str, Record | None], str],
        paper: Callable[[Mapping[str, Any]], list[str]] | None = None,
        paper_columns: tuple[str, ...] = (),
        own: Mapping[str, Callable[[Mapping[str, Any]], str]] | None = None,
    ) -> str:
        """A row per model: its figures, a cell per runner, the paper's columns."""
        columns = own or {}
        header = ["model", *columns, *runners, *(f"paper: {name}" for name in paper_columns)]
        rows = []
        for model, records in self._models.items():
            facts = self._document.models[model]["facts"]
            row = [model, *(write(facts) for write in columns.values())]
            row += [cell(model, records.get(runner)) for runner in runners]
            if paper is not None:
                published = self._paper["models"].get(model.partition("/")[0])
                row += [NONE] * len(paper_columns) if published is None else paper(published)
            rows.append(row)
        return table(header, rows)

    def _latencies(self) -> str:
        return self._table(
            self._runners,
            lambda _, record: latency(record),
            lambda published: [f"{published['latency_ms'][name]:g}" for name in _PAPER_RUNNERS],
            _PAPER_RUNNERS,
            {"GMACs": lambda facts: _figure(facts.get("macs_g"))},
        )

    def _ratios(self, peers: list[str]) -> str:
        text = self._table(peers, lambda _, record: ratio(record))
        means = geomean_ratios(self._records)
        row = ["**geometric mean**"]
        for peer in peers:
            mean = means.get(peer)
            row.append(NONE if mean is None else f"{mean['ratio']:.3f} ({mean['models']:.0f})")
        return text + "| " + " | ".join(row) + " |\n"

    def _fractions(self) -> str:
        return self._table(
            self._runners, lambda model, record: fraction(record, self._least_ms(model))
        )

    def _least_ms(self, model: str) -> float | None:
        return roofline(self._document.models[model]["facts"], self._document.probes)

    def _kernels(self) -> str:
        counted = self._with("kernels")
        columns = ("operators", *_PAPER_RUNNERS)
        text = self._table(
            counted,
            lambda _, record: launches(record),
            lambda published: [
                str(published["operators"]),
                *(str(published["operators_after"][name]) for name in _PAPER_RUNNERS),
            ],
            columns,
            {"operators": lambda facts: str(facts.get("operators", NONE))},
        )
        return f"Device launches of one inference, of them those that only move data.\n\n{text}"

    def _traffic(self) -> str:
        text = self._table(
            self._with("footprint_bytes"),
            lambda _, record: mebibytes(None if record is None else record.footprint_bytes),
            own={"compulsory": lambda facts: mebibytes(facts.get("compulsory_bytes"))},
        )
        return (
            "MiB of one inference. Compulsory: inputs, parameters and outputs, each once. Per "
            "runner the footprint: unique bytes that each launch reads and writes, summed over "
            f"the launches.\n\n{text}"
        )

    def _textures(self) -> list[str]:
        """How many kernels of TVM's texture pipeline use textures at all."""
        told = {
            model: record.details
            for model, records in self._models.items()
            for record in records.values()
            if record.runner == "tvm-adreno" and "image_arguments" in record.details
        }
        if not told:
            return []
        rows = [[m, str(d["image_kernels"]), str(d["image_arguments"])] for m, d in told.items()]
        without = [model for model, details in told.items() if not details["image_arguments"]]
        sentence = (
            "TVM's texture pipeline places textures around 2-D convolutions whose channels it can "
            "pack in fours, and nowhere else."
        )
        if without:
            sentence += f" It places none in {', '.join(without)}: these run from buffers."
        header = ["model", "kernels with images", "image arguments"]
        return ["### Textures that tvm-adreno places\n", f"{sentence}\n\n{table(header, rows)}"]

    def _against_paper(self) -> str | None:
        """Our ratio to TVM and MNN next to SmartMem's in the paper."""
        rows = []
        for model, records in self._models.items():
            name, _, size = model.partition("/")
            published = self._paper["models"].get(name)
            if published is None or size != FULL:
                continue
            times = published["latency_ms"]
            row = [model]
            for runner, theirs in _COUNTERPARTS:
                row += [ratio(records.get(runner)), f"{times['SmartMem'] / times[theirs]:.3f}"]
            if row[1::2] != [NONE] * len(_COUNTERPARTS):
                rows.append(row)
        if not rows:
            return None
        header = ["model"]
        for runner, theirs in _COUNTERPARTS:
            header += [runner, f"paper: {theirs}"]
        return table(header, rows)

    def _with(self, figure: str) -> list[str]:
        """Runners for which a figure is known of any model."""
        known = {r.runner for r in self._records if getattr(r, figure) is not None}
        return [runner for runner in self._runners if runner in known]


def circumstances(document: Document) -> str:
    """Machine, device, versions, commit, and what speaks against the figures."""
    machine = document.environment["machine"]
    device = document.environment["opencl_device"]
    lines = [
        f"- machine: {machine['processor']}, {machine['cores']} cores, "
        f"{machine['memory_gib']} GiB; {document.settings['threads']} threads per runner"
    ]
    if device is not None:
        remote = f", behind RPC key {device['rpc']}" if "rpc" in device else ""
        lines.append(
            f"- OpenCL: {device['platform']}, {device['name']}, driver {device['driver']}{remote}"
        )
    versions = document.environment["versions"].items()
    lines.append("- versions: " + ", ".join(f"{name} {version}" for name, version in versions))
    commits = dict.fromkeys(str(entry["commit"]) for entry in document.models.values())
    lines.append(f"- commit: {', '.join(commits)}")
    loads = [entry["load_average"] for entry in document.models.values() if entry["measured"]]
    if loads:
        lines.append(f"- load average after each model: {min(loads):.1f} to {max(loads):.1f}")
        if max(loads) > _DISTURBED * document.settings["threads"]:
            lines.append(
                "- **disturbed**: other work ran on the machine. Latencies, ratios and roofline "
                "fractions below are no basis for claims; kernels, traffic and errors are not "
                "affected. Measure again on an idle machine"
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
    only = [name for name, entry in document.models.items() if not entry["measured"]]
    if only:
        lines.append(f"- prepared and not measured: {', '.join(only)}")
    if not document.complete:
        lines.append("- the run was not finished: models or latencies are missing")
    return "\n".join(lines) + "\n"


def command(document: Document) -> str:
    """Command line that measures the same."""
    settings = document.settings
    models = ",".join(name for name in document.models if not name.endswith("/file"))
    words = ["smartmem bench", f"--models {models}", f"--size {settings['size']}"]
    peers = [name for name in settings["runners"] if name != OURS]
    if peers:
        words.append(f"--against {','.join(peers)}")
    words.append(f"--repeats {settings['repeats']}")
    for option, default in (("device", "auto"), ("dtype", "float32"), ("threads", 2)):
        if settings[option] != default:
            words.append(f"--{option} {str(settings[option]).partition('@')[0]}")
    for option in ("opencl_device", "host"):
        if settings[option] is not None:
            words.append(f"--{option.replace('_', '-')} {settings[option]}")
    if settings["rpc"] is not None:
        words.append(f"--rpc HOST:PORT --key {settings['rpc']}")
    return " ".join(words)


def _figure(value: float | None) -> str:
    return NONE if value is None else f"{value:.3g}"
