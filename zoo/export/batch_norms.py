"""Fold batch norms into the convolutions before them, as torch's exporter does.

The exporter computes the folded weights, and nothing then tells them from constants. Folding first
makes them parameters. Their values do not matter here: the export draws new ones.
"""

from __future__ import annotations

import torch
from torch import nn


def fold_batch_norms(network: nn.Module, example: torch.Tensor) -> int:
    """Replace every batch norm after a convolution by a bias of the convolution.

    Parameters
    ----------
    network : torch.nn.Module
        Changed in place. A norm that applies an activation too (timm's) leaves the activation.
    example : torch.Tensor
        An input; which norm reads which convolution is observed, not guessed from names.

    Returns
    -------
    int
        How many there were.
    """
    pairs = _pairs(network, example)
    for norm, convolution in pairs.items():
        if convolution.bias is None:
            convolution.bias = nn.Parameter(torch.zeros(convolution.out_channels))
        parent, _, child = _name(network, norm).rpartition(".")
        setattr(network.get_submodule(parent), child, _rest(norm))
    left = [name for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)]
    if left:
        raise ValueError(f"no convolution precedes the batch norm {left[0]}")
    return len(pairs)


def _pairs(network: nn.Module, example: torch.Tensor) -> dict[nn.Module, nn.Conv2d]:
    results: list[tuple[torch.Tensor, nn.Conv2d]] = []  # holds the tensors: no address is reused
    pairs: dict[nn.Module, nn.Conv2d] = {}

    def made(module: nn.Conv2d, _: object, result: torch.Tensor) -> None:
        results.append((result, module))

    def read(module: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        for result, convolution in results:
            if result is arguments[0]:
                pairs[module] = convolution

    handles = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            handles.append(module.register_forward_hook(made))
        elif isinstance(module, nn.BatchNorm2d):
            handles.append(module.register_forward_pre_hook(read))
    with torch.no_grad():
        network(example)
    for handle in handles:
        handle.remove()
    return pairs


def _rest(norm: nn.BatchNorm2d) -> nn.Module:
    activation = getattr(norm, "act", None)
    return nn.Identity() if activation is None else activation


def _name(network: nn.Module, wanted: nn.Module) -> str:
    return next(name for name, module in network.named_modules() if module is wanted)
