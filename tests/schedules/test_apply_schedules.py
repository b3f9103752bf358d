"""ApplySchedules: first rule that fits wins, the others leave a reason."""

from __future__ import annotations

import pytest
import tvm
from tvm import te, topi
from tvm.s_tir import Schedule
from tvm.target import Target

from smartmem_tvm.analysis import find_launches
from smartmem_tvm.errors import SmartMemError
from smartmem_tvm.passes import VerifyThreadBinding
from smartmem_tvm.schedules import ApplySchedules, RuleDeclined, dlight_rules, refusals, rule_of

OPENCL = Target("opencl", host="llvm")


def _add_one():
    a = te.placeholder((8, 16), name="a")
    return te.create_prim_func([a, topi.add(a, 1.0)])


class _Declines:
    def apply(self, func, target, tunable):
        raise RuleDeclined("there is no contraction")


class _Passes:
    def apply(self, func, target, tunable):
        return None


class _RefusedPrimitive:
    def apply(self, func, target, tunable):
        schedule = Schedule(func)
        schedule.compute_inline(schedule.get_sblock("T_add"))  # the output block
        return schedule


class _Broken:
    def apply(self, func, target, tunable):
        raise AttributeError("a defect in one of our rules")


class _Binds:
    def apply(self, func, target, tunable):
        schedule = Schedule(func)
        loop = schedule.fuse(*schedule.get_loops(schedule.get_sblock("T_add")))
        schedule.bind(loop, "threadIdx.x")
        return [schedule]


def _apply(*rules, func=None):
    with OPENCL:
        return ApplySchedules(rules)(tvm.IRModule({"f": func or _add_one()}))["f"]


def test_first_fitting_rule_wins_and_reasons_are_kept():
    func = _apply(_Declines(), _Passes(), _RefusedPrimitive(), _Binds(), _Broken())
    assert rule_of(func) == "_Binds"
    assert func.attrs["tirx.is_scheduled"]
    declined, refused = refusals(func)
    assert declined == "_Declines: there is no contraction"
    assert refused.startswith("_RefusedPrimitive: ")
    assert len(refused) > len("_RefusedPrimitive: ")
    assert find_launches(func)[0].work_group() == 128


def test_scheduled_functions_are_left_alone():
    func = _apply(_Binds())
    again = _apply(_Declines(), func=func)
    tvm.ir.assert_structural_equal(again, func)


def test_host_functions_are_left_alone():
    func = _add_one().with_attr("tirx.is_host_func", True)
    tvm.ir.assert_structural_equal(_apply(_Broken(), func=func), func)


def test_defects_of_a_rule_surface():
    with pytest.raises(AttributeError, match="a defect"):
        ApplySchedules([_Broken()]).transform_module(
            tvm.IRModule({"f": _add_one().with_attr("target", OPENCL)}), None
        )


def test_nothing_fits_is_reported_by_the_verifier():
    func = _apply(_Declines())
    assert rule_of(func) is None
    with OPENCL, pytest.raises(SmartMemError, match="_Declines: there is no contraction"):
        VerifyThreadBinding()(tvm.IRModule({"f": func}))


def test_no_target_is_an_error():
    with pytest.raises(SmartMemError, match="'f' has no target"):
        ApplySchedules([_Binds()])(tvm.IRModule({"f": _add_one()}))


def test_crash_of_a_dlight_rule_is_a_reason():
    data, kernel = te.placeholder((1, 4, 1, 1)), te.placeholder((4, 1, 3, 3))
    func = te.create_prim_func(
        [data, kernel, topi.nn.relu(topi.nn.group_conv2d_nchw(data, kernel, 1, 1, 1, 4))]
    )
    scheduled = _apply(*dlight_rules(), func=func)
    assert any(reason.startswith("GEMV: raised AssertionError") for reason in refusals(scheduled))
    assert rule_of(scheduled) in ("Reduction", "GeneralReduction", "Fallback")
    assert find_launches(scheduled)


def test_dlight_rules_take_what_they_are_for():
    a, b = te.placeholder((64, 32), name="a"), te.placeholder((32, 64), name="b")
    assert (
        rule_of(_apply(*dlight_rules(), func=te.create_prim_func([a, b, topi.matmul(a, b)])))
        == "Matmul"
    )
    assert rule_of(_apply(*dlight_rules(), func=_add_one())) == "Fallback"
    assert (
        rule_of(_apply(*dlight_rules(), func=te.create_prim_func([a, topi.nn.softmax(a)])))
        == "GeneralReduction"
    )
