"""How large a convolution's seeded weights must be where a batch norm was folded into it.

The norm gave its output variance 1, whatever came before. Without it, weights of variance 1/fan-in
let activations shrink the signal and residual sums grow it, layer by layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor, nn

EXAMPLES = 4


def calibrate(
    network: nn.Module,
    convolutions: Collection[str],
    inputs: tuple[Tensor, ...],
    distributions: Mapping[str, str],
) -> dict[str, float]:
    """Find the scale at which each of these convolutions has outputs of variance 1.

    Every parameter is drawn anew, in place, much as the zoo draws it (see zoo/seeding.py), and from
    `distributions` where its name ends as a key says. One inference then visits the convolutions in
    their order and scales each before the next reads it.

    Returns
    -------
    dict of str to float
        By the name of the weight, the standard deviation of its elements.
    """
    if not convolutions:
        return {}
    generator = torch.Generator().manual_seed(0)
    for name, parameter in network.named_parameters():
        declared = (drawn for ending, drawn in distributions.items() if name.endswith(ending))
        _draw(name, parameter, generator, next(declared, None))
    deviations: dict[str, float] = {}
    handles = [
        network.get_submodule(name).register_forward_hook(_scaler(f"{name}.weight", deviations))
        for name in convolutions
    ]
    with torch.no_grad():
        network(*(_examples(tensor, generator) for tensor in inputs))
    for handle in handles:
        handle.remove()
    return deviations


def _draw(
    name: str, parameter: nn.Parameter, generator: torch.Generator, declared: str | None
) -> None:
    values = torch.randn(parameter.shape, generator=generator)
    if declared is not None:
        kind, mean, deviation = declared.split()
        if kind != "normal":
            raise ValueError(
                f"'{name}' is to be drawn from '{declared}': not done while calibrating"
            )
        values = float(mean) + float(deviation) * values
    elif parameter.dim() < 2:
        values = 0.05 * values if name.endswith("bias") else 1 + 0.1 * values
    else:
        values = values.flatten(1)
        values = values - values.mean(1, keepdim=True) if values.shape[1] > 1 else values
        values = values / values.std() / math.sqrt(values.shape[1])
    parameter.data.copy_(values.reshape(parameter.shape))


def _scaler(
    name: str, deviations: dict[str, float]
) -> Callable[[nn.Module, object, Tensor], Tensor]:
    def scale(module: nn.Module, _: object, result: Tensor) -> Tensor:
        bias = module.bias.reshape(-1, *(1,) * (result.dim() - 2))
        spread = (result - bias).transpose(0, 1).flatten(1).var(1).mean().sqrt().item()
        deviations[name] = module.weight.std().item() / spread
        return (result - bias) / spread + bias

    return scale


def _examples(tensor: Tensor, generator: torch.Generator) -> Tensor:
    shape = (EXAMPLES, *tensor.shape[1:])
    if tensor.is_floating_point():
        return torch.randn(shape, generator=generator)
    return tensor.expand(shape)
