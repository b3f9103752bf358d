"""Parameters that cost no memory: one number of its own for each, seen through its shape.

The U-Net of Stable Diffusion has 3.4 GB of parameters and Pythia-1B 4 GB. Here they take nothing,
and neither does what the exporter computes from them by moving values. Being distinct, the numbers
tell a trained tensor of the graph from a constant, and keep the exporter from merging two of them.
"""

from __future__ import annotations

from itertools import count

import numpy as np
import torch
from torch import Tensor, nn

STATISTICS = ("running_mean", "running_var")
"""Buffers that training changes: of the batch norms that no convolution precedes."""


def set_stand_ins(network: nn.Module) -> np.ndarray:
    """Replace every parameter and running statistic, in place; returns the numbers.

    Returns
    -------
    numpy.ndarray
        All of them: a tensor of the graph may join several parameters.
    """
    numbers: list[float] = []
    fractions = count(1)
    with torch.no_grad():
        for module in network.modules():
            own = dict(module.named_parameters(recurse=False))
            statistics = dict(module.named_buffers(recurse=False))
            for name, tensor in own.items():
                numbers.append(1 + next(fractions) / 4096)
                setattr(module, name, nn.Parameter(_seen(numbers[-1], tensor), requires_grad=False))
            for name in STATISTICS:
                if statistics.get(name) is not None:
                    numbers.append(1 + next(fractions) / 4096)
                    module.register_buffer(name, _seen(numbers[-1], statistics[name]))
    return np.array(numbers, np.float32)


def _seen(number: float, tensor: Tensor) -> Tensor:
    return torch.tensor(number, dtype=torch.float32).expand(tensor.shape)
