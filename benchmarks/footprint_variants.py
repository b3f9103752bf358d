"""What fusing heavy operators with heavy ones would make of a graph; each returns a new graph."""

from __future__ import annotations

from collections.abc import Iterable

from footprint_graph import Graph, Operator, Value


def split_normalisations(graph: Graph) -> Graph:
    """Normalisations keep their statistics; readers normalise what they read.

    ::

        y = softmax(x)         →    s = maxima and sums of x     (heavy, small)
                                    y = exp(x - max) / sum       (light)
    """
    split = Graph([], list(graph.values))
    for operator in graph.operators:
        found = operator.statistics
        if found is None or len(operator.makes) != 1:
            split.operators.append(operator)
            continue
        statistics = Value(f"{operator.makes[0].name} statistics", found.bytes)
        split.values.append(statistics)
        reads = {value: operator.reads[value] for value in operator.reads if value in found.reads}
        split.operators += [
            Operator(operator.name, True, reads, {statistics: found.bytes}),
            Operator(
                operator.name, False, {**operator.reads, statistics: found.bytes}, operator.writes
            ),
        ]
    return split


def join_attention(graph: Graph) -> Graph:
    """Product, normalised rows, product: one kernel that keeps the rows on the chip.

    ::

        s = q · k;  p = softmax(s + mask);  o = p · v     →     o from q, k, mask, v

    Both products are of two tensors that the model makes: what reads parameters is left alone.
    """
    joined = Graph(list(graph.operators), list(graph.values))
    for operator in graph.operators:
        if operator.statistics is not None and operator in joined.operators:
            _join_around(joined, operator)
    return joined


def _join_around(graph: Graph, normalise: Operator) -> None:
    makers = {value: operator for operator in graph.operators for value in operator.makes}
    readers: dict[Value, list[Operator]] = {}
    for operator in graph.operators:
        for value in operator.reads:
            readers.setdefault(value, []).append(operator)
    rows = {v for v in normalise.reads if v in makers}
    light_before = _light_between(rows, lambda v: [makers[v]] if v in makers else [], "reads")
    firsts = {
        makers[v]
        for v in (*rows, *(v for op in light_before for v in op.reads))
        if v in makers and makers[v].heavy
    }
    products = {op for op in firsts if _is_product(op)}
    light_after = _light_between(normalise.makes, lambda v: readers.get(v, []), "makes")
    seconds = {
        op
        for v in (*normalise.makes, *(v for op in light_after for v in op.makes))
        for op in readers.get(v, [])
        if op.heavy
    }
    if len(products) != 1 or len(seconds) != 1 or not all(map(_is_product, seconds)):
        return
    (first,), (second,) = products, seconds
    inside = [first, *light_before, normalise, *light_after, second]
    between = [value for op in inside[:-1] for value in op.makes]
    if any(v.result or any(r not in inside for r in readers.get(v, [])) for v in between):
        return
    reads = {v: b for op in inside for v, b in op.reads.items() if v not in between}
    name = " · ".join(op.name for op in (first, normalise, second))
    kernel = Operator(name, True, reads, second.writes)
    graph.operators = [
        kernel if op is second else op for op in graph.operators if op is second or op not in inside
    ]


def _is_product(operator: Operator) -> bool:
    """Whether it contracts tensors that the model makes."""
    made = [value for value in operator.reads if value.kind == "made"]
    return operator.statistics is None and len(made) == len(operator.reads) == 2


def _light_between(start: Iterable[Value], follow, side: str) -> list[Operator]:
    found: dict[Operator, None] = {}
    waiting = list(start)
    while waiting:
        for operator in follow(waiting.pop()):
            if not operator.heavy and operator not in found:
                found[operator] = None
                waiting += list(getattr(operator, side))
    return list(found)
