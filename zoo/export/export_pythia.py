"""Export the zoo's Pythia: Pythia-1B from transformers, and two reductions of it."""

from __future__ import annotations

from functools import partial

import torch
from exporting import Folding, Subject, reduced, run
from torch import Tensor, nn

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


def build(size: str) -> Subject:
    """The network on a prompt of a fixed length."""
    import transformers
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    config = GPTNeoXConfig(
        **{**PUBLISHED, **REDUCED[size]}, use_cache=False, attn_implementation="eager"
    )
    with torch.device("meta"):
        network = GPTNeoXForCausalLM(config)
    rotary = type(network.gpt_neox.rotary_emb)
    network.gpt_neox.rotary_emb = rotary(config)  # its frequencies are computed, not trained
    source = f"transformers {transformers.__version__} GPTNeoXForCausalLM (Pythia-1B)"
    return Subject(
        Prompt(network),
        {"tokens": torch.zeros(1, TOKENS[size], dtype=torch.int64)},
        ["logits"],
        reduced(source, size),
        # The mask of 128 x 128 is above the default: it would be computed in `full` alone.
        folding=Folding(operands=1 << 15),
    )


if __name__ == "__main__":
    run({"pythia": {size: partial(build, size) for size in TOKENS}}, __doc__)
