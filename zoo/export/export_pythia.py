"""Export Pythia from transformers. Run as zoo/export/README.md says: export_pythia.py [SIZE ...].

The full network has 4 GB of weights. Here every parameter is one number, seen through a view of
its shape, so that it takes no memory; being distinct, the numbers tell which parameter a tensor of
the graph came from.
"""

from __future__ import annotations

import argparse
import warnings

import numpy as np
import onnx
import onnx_ir
import torch
from export_timm import declare_vision_operators
from onnx_export import GRAPHS, provenance, report
from torch import Tensor, nn
from weightless import declare, strip

TOKENS = {"full": 128, "small": 32, "micro": 16}
PUBLISHED = {
    "vocab_size": 50304,
    "hidden_size": 2048,
    "num_hidden_layers": 16,
    "num_attention_heads": 8,
    "intermediate_size": 8192,
    "max_position_embeddings": 2048,
    "rotary_pct": 0.25,
    "tie_word_embeddings": False,
}
"""Pythia-1B (arXiv 2304.01373)."""
REDUCED = {
    "full": {},
    "small": {"vocab_size": 1024, "hidden_size": 128, "intermediate_size": 512},
    "micro": {
        "vocab_size": 256,
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    },
}


class Prompt(nn.Module):
    """Token identifiers [1, T] → logits [1, T, vocabulary], without a cache."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, tokens: Tensor) -> Tensor:
        return self.network(input_ids=tokens, use_cache=False, return_dict=False)[0]


def build(size: str) -> nn.Module:
    """The network, its parameters distinct numbers."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    config = GPTNeoXConfig(
        **{**PUBLISHED, **REDUCED[size]}, use_cache=False, attn_implementation="eager"
    )
    with torch.device("meta"):
        network = GPTNeoXForCausalLM(config)
    rotary = type(network.gpt_neox.rotary_emb)
    network.gpt_neox.rotary_emb = rotary(config)  # its frequencies are computed, not trained
    for index, (name, parameter) in enumerate(list(network.named_parameters())):
        owner = network.get_submodule(name.rpartition(".")[0])
        number = torch.tensor(0.01 + 1e-4 * index)
        setattr(
            owner,
            name.rpartition(".")[2],
            nn.Parameter(number.expand(parameter.shape), requires_grad=False),
        )
    return Prompt(network).eval()


def export(size: str) -> None:
    """Export one size and write it."""
    import transformers

    network = build(size)
    numbers = {float(parameter.flatten()[0]) for parameter in network.parameters()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network,
            (torch.zeros(1, TOKENS[size], dtype=torch.int64),),
            opset_version=18,
            dynamo=True,
            optimize=True,
            verbose=False,
            input_names=["tokens"],
            output_names=["logits"],
        )
    model, trained = detach(program.model, numbers)
    source = f"transformers {transformers.__version__} GPTNeoXForCausalLM, Pythia-1B"
    strip(model, [], provenance(source + ("" if size == "full" else f", reduced to {size}")))
    model.graph.initializer.extend(
        declare(model.graph, name, onnx.TensorProto.FLOAT, shape) for name, shape in trained.items()
    )
    report(model, GRAPHS / "pythia" / f"{size}.onnx.xz")


def detach(
    model: onnx_ir.Model, numbers: set[float]
) -> tuple[onnx.ModelProto, dict[str, list[int]]]:
    """The graph without its trained tensors, and their shapes by name."""
    trained = {}
    for name, value in list(model.graph.initializers.items()):
        tensor = value.const_value
        if tensor.dtype != onnx_ir.DataType.FLOAT or tensor.size < 2:
            continue
        values = tensor.numpy()
        number = values[(0,) * values.ndim]
        if float(number) in numbers and np.all(values == number):
            trained[name] = list(tensor.shape)
            value.const_value = None
    return onnx_ir.serde.serialize_model(model), trained


def main() -> None:
    """Parse the command line and export."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sizes", nargs="*", metavar="SIZE", help=", ".join(TOKENS))
    library = declare_vision_operators()
    for size in parser.parse_args().sizes or TOKENS:
        export(size)
    del library


if __name__ == "__main__":
    main()
