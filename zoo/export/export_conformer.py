"""Export the zoo's Conformer: Conformer-S with a transducer's decoder, and two reductions of it."""

from __future__ import annotations

from functools import partial

import torch
from exporting import Folding, Subject, reduced, run
from models.conformer import Config, Conformer

# The published input has no fixed length: 2563 frames, of which the encoder keeps one in four
# (640), are what takes SmartMem's 12.0 G multiply-accumulates.
CONFIGS = {
    "full": Config(),
    "small": Config(frames=131, width=64, decoder=64, vocabulary=256),
    "micro": Config(frames=67, bands=20, width=32, heads=2, layers=2, decoder=32, vocabulary=64),
}


def build(size: str) -> Subject:
    """One step of the decoder on a whole utterance."""
    config = CONFIGS[size]
    return Subject(
        Conformer(config),
        {
            "features": torch.randn(1, config.frames, config.bands),
            "label": torch.zeros(1, dtype=torch.int64),
            "hidden": torch.randn(1, config.decoder),
            "cell": torch.randn(1, config.decoder),
        },
        ["logits", "next_hidden", "next_cell"],
        reduced("Conformer-S transducer, written from its paper (Interspeech 2020)", size),
        # The table of positions does not compress: it is stored as what computes it.
        folding=Folding(results=1 << 13, never={"Sin", "Cos"}),
    )


if __name__ == "__main__":
    run({"conformer": {size: partial(build, size) for size in CONFIGS}}, __doc__)
