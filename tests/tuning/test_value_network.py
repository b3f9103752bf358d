"""The network of the explorer: its derivatives, and that it learns."""

from __future__ import annotations

import numpy as np
import pytest

from smartmem_tvm.tuning.value_network import ValueNetwork


def batch(generator, rows=7, inputs=3, outputs=5):
    return (
        generator.uniform(0, 1, (rows, inputs)),
        generator.integers(outputs, size=rows),
        generator.normal(size=rows),
    )


@pytest.mark.parametrize("seed", range(3))
def test_derivatives_are_those_of_finite_differences(seed):
    generator = np.random.default_rng(seed)
    network = ValueNetwork(3, 5, generator)
    # The last layer begins at 0, where nothing flows back.
    for parameter in network.parameters:
        parameter += generator.normal(0, 0.1, parameter.shape)
    data = batch(generator)
    loss, gradients = network.gradients(*data)
    assert [g.shape for g in gradients] == [p.shape for p in network.parameters]
    for parameter, gradient in zip(network.parameters, gradients, strict=True):
        for flat in generator.integers(parameter.size, size=20):
            at = np.unravel_index(flat, parameter.shape)
            kept = parameter[at]
            # Small enough that hardly a ReLU changes sides between the two.
            parameter[at] = kept + 1e-6
            above = network.gradients(*data)[0]
            parameter[at] = kept - 1e-6
            below = network.gradients(*data)[0]
            parameter[at] = kept
            assert gradient[at] == pytest.approx((above - below) / 2e-6, rel=1e-3, abs=1e-6)
    assert network.gradients(*data)[0] == loss


def test_only_the_chosen_directions_count():
    generator = np.random.default_rng(0)
    network = ValueNetwork(3, 5, generator)
    rows, _, targets = batch(generator)
    _, gradients = network.gradients(rows, np.full(len(rows), 2), targets)
    assert np.flatnonzero(gradients[-1]).tolist() == [2]
    assert np.flatnonzero(np.abs(gradients[-2]).sum(axis=0)).tolist() == [2]


def test_an_untrained_network_prefers_nothing():
    network = ValueNetwork(4, 6, np.random.default_rng(0))
    assert not network.values(np.ones((3, 4))).any()


def test_it_learns_a_curved_function_of_each_direction():
    generator = np.random.default_rng(1)
    network = ValueNetwork(2, 3, generator)

    def truth(rows):
        x, y = rows.T
        return np.stack([np.sin(4 * x) * y, (x - y) ** 2, np.maximum(x, y)], axis=1)

    rows = generator.uniform(0, 1, (400, 2))
    chosen = generator.integers(3, size=400)
    wanted = truth(rows)[np.arange(400), chosen]
    for _ in range(1500):
        at = generator.integers(400, size=64)
        network.train(rows[at], chosen[at], wanted[at])
    unseen = generator.uniform(0, 1, (300, 2))
    error = np.mean((network.values(unseen) - truth(unseen)) ** 2)
    assert error < 0.05 * np.var(truth(unseen))


def test_training_returns_the_loss_before_the_step():
    generator = np.random.default_rng(2)
    network = ValueNetwork(3, 5, generator)
    data = batch(generator)
    before = network.gradients(*data)[0]
    assert network.train(*data) == before
    assert network.gradients(*data)[0] < before


def test_a_copy_stays_as_it_was():
    generator = np.random.default_rng(3)
    network, target = ValueNetwork(3, 5, generator), ValueNetwork(3, 5, generator)
    data = batch(generator)
    network.train(*data)
    target.copy_from(network)
    then = network.values(data[0])
    np.testing.assert_array_equal(target.values(data[0]), then)
    network.train(*data)
    np.testing.assert_array_equal(target.values(data[0]), then)
    assert np.abs(network.values(data[0]) - then).max() > 0
