"""Export the zoo's SmtFormer: SMT-S and two reductions of it."""

from __future__ import annotations

from functools import partial

from exporting import classifiers, run
from models.smtformer import Config, SmtFormer

CONFIGS = {
    "full": Config(),
    "small": Config(image=64, width=32),
    "micro": Config(image=64, width=16, depths=(1, 1, 2, 1), attention_heads=(4, 8), classes=100),
}

if __name__ == "__main__":
    sizes = {size: (config.image, partial(SmtFormer, config)) for size, config in CONFIGS.items()}
    run(classifiers("smtformer", sizes, "SMT-S, written from its paper (ICCV 2023)"), __doc__)
