"""The space of schedules: canonical points, legality, and right results everywhere."""

from __future__ import annotations

import numpy as np
import pytest
from schedule_helpers import normal, run, schedule
from tvm import te, tirx, topi
from tvm.ir.expr import TensorLoad
from tvm.tirx import BufferLoad
from tvm_ffi import structural_map

from smartmem_tvm.devices import load_profile
from smartmem_tvm.schedules import RuleDeclined
from smartmem_tvm.schedules.choice import Choice, schedule_by
from smartmem_tvm.schedules.space import ScheduleSpace, rules_choice
from smartmem_tvm.schedules.space_features import NAMES
from smartmem_tvm.schedules.tile import Tile

PROFILES = ("cpu", "adreno-740", "mali-g710")


def product(m=13, k=20, n=36):
    a, b, c = te.placeholder((m, k)), te.placeholder((k, n)), te.placeholder((n,))
    return te.create_prim_func([a, b, c, topi.nn.relu(topi.add(topi.matmul(a, b), c))])


def convolution(channels=6, size=9, out=8):
    x, w = te.placeholder((1, channels, size, size)), te.placeholder((out, channels, 3, 3))
    return te.create_prim_func([x, w, topi.nn.conv2d_nchw(x, w, 1, 1, 1)])


def depthwise(channels=16, size=7):
    x, w = te.placeholder((1, channels, size, size)), te.placeholder((channels, 1, 3, 3))
    return te.create_prim_func([x, w, topi.nn.depthwise_conv2d_nchw(x, w, 1, 1, 1)])


def normalised(m=6, n=50):
    a = te.placeholder((m, n))
    return te.create_prim_func([a, topi.nn.softmax(a)])


def moved(m=12, n=20):
    a = te.placeholder((m, n))
    return te.create_prim_func([a, topi.add(topi.transpose(a, (1, 0)), te.const(1.0, "float32"))])


def single():
    a, b = te.placeholder((1, 1)), te.placeholder((1, 1))
    return te.create_prim_func([a, b, topi.matmul(a, b)])


def texels(scope):
    """Twice a tensor of texels that is in `scope`."""
    shape = (1, 8, 8, 4)
    a = tirx.decl_buffer(shape, "float32", "a", scope=scope, layout=None)
    x = te.placeholder(shape)
    func = te.create_prim_func([x, te.compute(shape, lambda *i: x(*i) * 2.0)])
    loads = structural_map(func.body, (TensorLoad, lambda e: BufferLoad(a, e.indices)))
    return tirx.PrimFunc([a, func.params[1]], loads, func.ret_type, func.attrs)


KERNELS = [product, convolution, depthwise, normalised, moved, single]


def space_of(func, profile="cpu"):
    target = load_profile(profile).target()
    scheduled = schedule(func, profile)
    return ScheduleSpace(func, target, rules_choice(scheduled))


def legal_points(space, count, seed=0, tries=20_000):
    rng = np.random.default_rng(seed)
    found = {}
    for _ in range(tries):
        point = space.canonical(tuple(int(rng.integers(size)) for size in space.sizes))
        if point is not None:
            found[point] = None
        if len(found) == count:
            break
    return [*found]


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("make", KERNELS)
def test_the_rules_schedule_comes_first(make, profile):
    func = make()
    space = space_of(func, profile)
    (chosen,) = rules_choice(schedule(func, profile))
    assert space.point(chosen) == space.start[0]
    assert space.choice(space.start[0]).tile.lane == chosen.tile.lane
    assert space.choice(space.start[0]).tile.rows == chosen.tile.rows
    assert space.choice(space.start[0]).tile.shape == chosen.tile.shape


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("make", KERNELS)
def test_canonical_points_stand_for_themselves(make, profile):
    space = space_of(make(), profile)
    points = legal_points(space, 20)
    assert points
    for point in points:
        assert space.canonical(point) == point
        assert space.point(space.choice(point)) == point


@pytest.mark.parametrize("make", KERNELS)
def test_no_two_points_are_one_schedule(make):
    space = space_of(make())
    choices = [space.choice(point) for point in legal_points(space, 60)]
    assert len(set(choices)) == len(choices)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("make", KERNELS)
def test_groups_are_within_the_device(make, profile):
    space = space_of(make(), profile)
    most = load_profile(profile).work_group.max_size
    for point in legal_points(space, 20, seed=1):
        tile = space.choice(point).tile
        assert max(tile.group, tile.team, np.prod([n for _, n in tile.shape] or [1])) <= most
        assert tile.local_bytes <= load_profile(profile).local_memory.bytes


@pytest.mark.parametrize("make", KERNELS)
def test_features_are_figures(make):
    space = space_of(make())
    points = legal_points(space, 10)
    rows = space.features(points)
    assert rows.shape == (len(points), len(space.sizes) + len(NAMES))
    assert np.isfinite(rows).all()
    assert space.features([]).shape[0] == 0


def test_features_tell_images_from_buffers():
    names = [n for n in NAMES if n.startswith(("buffer_reads", "image_reads"))]
    found = {}
    for scope in ("global", "global.texture"):
        space = space_of(texels(scope), "adreno-740")
        row = space.features(space.start)[0, len(space.sizes) :]
        found[scope] = {n: row[NAMES.index(n)] for n in names}
    image = [n for n in names if n.startswith("image")]
    buffer = [n for n in names if n.startswith("buffer")]
    assert sum(found["global"][n] for n in image) == 0 < sum(found["global"][n] for n in buffer)
    texture = found["global.texture"]
    assert sum(texture[n] for n in buffer) == 0 < sum(texture[n] for n in image)


def test_symbolic_shapes_are_no_space():
    n = tirx.Var("n", "int64")
    a = te.placeholder((n, 8))
    with pytest.raises(RuleDeclined, match="symbolic"):
        ScheduleSpace(te.create_prim_func([a, topi.nn.relu(a)]), load_profile("cpu").target(), ())


def test_a_start_outside_of_the_space_is_dropped():
    far = Choice(Tile(((0, 2), (1, 2), (2, 2))))
    space = ScheduleSpace(convolution(), load_profile("cpu").target(), [far])
    assert space.point(far) is None
    assert space.canonical(space.start[0]) == space.start[0]


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("make", KERNELS)
def test_every_schedule_computes_the_same(make, profile, opencl_device):
    func = make()
    space = space_of(func, profile)
    *inputs, output = [[int(n) for n in p.shape] for p in func.params]
    inputs = [normal(*shape, seed=number) for number, shape in enumerate(inputs)]
    empty = [np.zeros(output, "float32")]
    (expected,) = run(schedule(func, profile), inputs, empty, opencl_device, profile)
    for point in legal_points(space, 3, seed=7):
        choice = space.choice(point)
        made = schedule_by(func, choice).mod["main"].with_attr("global_symbol", "main")
        (ours,) = run(made, inputs, empty, opencl_device, profile)
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5, err_msg=str(choice))


def test_a_kernel_that_loops_over_rows_has_no_knobs_of_registers():
    space = ScheduleSpace(normalised(), load_profile("cpu").target())
    assert space.knob("rows_1").values == space.knob("rows_2").values == (None,)
    assert space.knob("lane").values == (None, 0)  # rows may lie beside each other, columns not
    rng = np.random.default_rng(0)
    raw = [tuple(int(rng.integers(size)) for size in space.sizes) for _ in range(300)]
    assert sum(space.canonical(point) is not None for point in raw) > 60
