"""Fold batch norms into the convolutions before them, as torch's exporter does.

The exporter computes the folded weights, and nothing then tells them from constants. Folding first
makes them parameters. Their values do not matter here: the zoo draws its own.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd


def fold_batch_norms(network: nn.Module, example: tuple[Tensor, ...]) -> list[str]:
    """Replace every batch norm after a convolution by a bias of the convolution.

    Parameters
    ----------
    network : torch.nn.Module
        Changed in place. A norm that applies an activation too (timm's) leaves the activation; a
        norm that follows something else stays.
    example : tuple of torch.Tensor
        Inputs; which norm reads which convolution is observed, not guessed from names.

    Returns
    -------
    list of str
        Names of the convolutions.
    """
    if not any(isinstance(module, _BatchNorm) for module in network.modules()):
        return []
    pairs = _pairs(network, example)
    for norm, convolution in pairs.items():
        if convolution.bias is None:
            convolution.bias = nn.Parameter(torch.zeros(convolution.out_channels))
        parent, _, child = _name(network, norm).rpartition(".")
        setattr(network.get_submodule(parent), child, _rest(norm))
    return [_name(network, convolution) for convolution in pairs.values()]


def _pairs(network: nn.Module, example: tuple[Tensor, ...]) -> dict[nn.Module, _ConvNd]:
    results: list[tuple[Tensor, _ConvNd]] = []  # holds the tensors: no address is reused
    pairs: dict[nn.Module, _ConvNd] = {}

    def made(module: _ConvNd, _: object, result: Tensor) -> None:
        results.append((result, module))

    def read(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        for result, convolution in results:
            if result is arguments[0]:
                pairs[module] = convolution

    handles = []
    for module in network.modules():
        if isinstance(module, _ConvNd):
            handles.append(module.register_forward_hook(made))
        elif isinstance(module, _BatchNorm):
            handles.append(module.register_forward_pre_hook(read))
    with torch.no_grad():
        network(*example)
    for handle in handles:
        handle.remove()
    return pairs


def _rest(norm: nn.Module) -> nn.Module:
    activation = getattr(norm, "act", None)
    return nn.Identity() if activation is None else activation


def _name(network: nn.Module, wanted: nn.Module) -> str:
    return next(name for name, module in network.named_modules() if module is wanted)
