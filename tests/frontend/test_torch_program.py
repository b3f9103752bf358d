from __future__ import annotations

import numpy as np
import pytest
from host import run_on_host

from smartmem_tvm.errors import ModelError
from smartmem_tvm.frontend import import_model, random_inputs

torch = pytest.importorskip("torch", reason="torch is not installed")


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(8, 4)
        self.register_buffer("offset", torch.arange(4.0))

    def forward(self, x, y):
        return torch.relu(self.linear(x)) + self.offset, y * 2


def exported(**options):
    return torch.export.export(Network().eval(), (torch.randn(3, 8), torch.randn(2)), **options)


def test_program():
    program = exported()
    imported = import_model(program)
    assert [(spec.name, spec.shape) for spec in imported.inputs] == [("x", (3, 8)), ("y", (2,))]
    assert [spec.shape for spec in imported.outputs] == [(3, 4), (2,)]
    inputs = random_inputs(imported.inputs)
    expected = program.module()(*(torch.from_numpy(value) for value in inputs.values()))
    for ours, theirs in zip(run_on_host(imported, inputs).values(), expected, strict=True):
        np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-4, atol=1e-5)


def test_symbolic_batch():
    batch = torch.export.Dim("batch", min=2, max=64)
    program = exported(dynamic_shapes=({0: batch}, None))
    shape = import_model(program).inputs[0].shape
    assert isinstance(shape[0], str)
    assert shape[1] == 8
    assert import_model(program, shapes={"x": (5, 8)}).outputs[0].shape == (5, 4)


def test_state_is_refused():
    class Counter(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("count", torch.zeros(2))

        def forward(self, x):
            self.count.add_(1)
            return x + self.count

    with pytest.raises(ModelError, match="changes 'count' in place"):
        import_model(torch.export.export(Counter(), (torch.randn(2),)))


def test_unsupported_operator():
    class Decomposition(torch.nn.Module):
        def forward(self, x):
            return torch.linalg.svd(x)[0]

    with pytest.raises(ModelError, match=r"cannot be converted: .*svd"):
        import_model(torch.export.export(Decomposition(), (torch.randn(3, 3),)))
