"""How large a convolution's seeded weights must be where no batch norm follows any more.

Weights of variance 1/fan-in keep a signal alive only if something renormalises it. Without batch
norms, activations shrink it layer by layer until the outputs no longer depend on the input.
"""

from __future__ import annotations

import math

import torch
from torch import nn

EXAMPLES = 4
LIMITS = (0.05, 2.5)
"""Bounds of a deviation times the root of the fan-in: means must not grow with the signal."""


def calibrate(network: nn.Module, image: int) -> dict[str, float]:
    """Scale convolutions so that what depends on the input has variance 1 after each, in place.

    Returns
    -------
    dict of str to float
        By the name of the weight, the standard deviation of its elements.
    """
    names = {module: name for name, module in network.named_modules()}
    deviations: dict[str, float] = {}

    def scale(module: nn.Conv2d, _: object, result: torch.Tensor) -> torch.Tensor:
        spread = result.var(dim=(0, 2, 3)).mean().sqrt().item()
        deviation, unit = module.weight.std().item(), math.sqrt(module.weight[0].numel())
        if result[0, 0].numel() == 1:  # a pooled signal varies too little to be scaled up
            gain = 1.0
        else:
            low, high = LIMITS
            gain = max(deviation * unit / max(spread, deviation * unit / high), low)
        factor = gain / unit / deviation
        module.weight.mul_(factor)
        deviations[f"{names[module]}.weight"] = deviation * factor
        bias = 0 if module.bias is None else module.bias[:, None, None]
        return (result - bias) * factor + bias

    handles = [
        module.register_forward_hook(scale)
        for module in network.modules()
        if isinstance(module, nn.Conv2d)
    ]
    images = torch.randn(EXAMPLES, 3, image, image, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        network(images)
    for handle in handles:
        handle.remove()
    return deviations
