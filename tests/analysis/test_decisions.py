from __future__ import annotations

import tvm

from smartmem_tvm.analysis.decisions import Decision, read_decisions, with_decisions

FIRST = Decision("lv", "transpose", "fixed", "eliminated", ("lv1",), "", ({"before": 2},))
SECOND = Decision("lv1", "add", "ILI", "kept", (), 'a graph output called "y"')


def test_decisions_come_back_in_the_order_of_the_passes():
    mod = with_decisions(tvm.IRModule(), [FIRST])
    mod = with_decisions(mod, [SECOND])
    assert read_decisions(mod) == [FIRST, SECOND]


def test_they_survive_serialisation():
    mod = with_decisions(tvm.IRModule(), [FIRST, SECOND])
    assert read_decisions(tvm.ir.load_json(tvm.ir.save_json(mod))) == [FIRST, SECOND]


def test_nothing_decided():
    mod = tvm.IRModule()
    assert read_decisions(mod) == []
    assert read_decisions(with_decisions(mod, [])) == []
