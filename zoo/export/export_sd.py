"""Export the parts of Stable Diffusion 1.x, and two reductions of each.

Configurations are written out here: nothing is downloaded. The decoder and the U-Net of `full` take
32 x 32 latents (256 x 256 pixels), at which their multiply-accumulates are those of the paper.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from typing import Any

import torch
from exporting import Subject, reduced, run


class TextEncoder(torch.nn.Module):
    """CLIP's text transformer; of its two results, the one that conditions the U-Net."""

    def __init__(self, **configuration: Any) -> None:
        super().__init__()
        from transformers import CLIPTextConfig, CLIPTextModel

        config = CLIPTextConfig(attn_implementation="eager", **configuration)
        self.clip = CLIPTextModel(config)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """The state of every token after the last layer."""
        return self.clip(input_ids=input_ids).last_hidden_state


class UNet(torch.nn.Module):
    """The U-Net that predicts the noise in a latent image."""

    def __init__(self, **configuration: Any) -> None:
        super().__init__()
        from diffusers import UNet2DConditionModel

        self.unet = UNet2DConditionModel(**configuration)
        use_plain_attention(self.unet)

    def forward(
        self, sample: torch.Tensor, timestep: torch.Tensor, encoder_hidden_states: torch.Tensor
    ) -> torch.Tensor:
        """The noise in `sample`."""
        return self.unet(sample, timestep, encoder_hidden_states, return_dict=False)[0]


class Decoder(torch.nn.Module):
    """From latent image to pixels: the decoding half of the autoencoder."""

    def __init__(self, **configuration: Any) -> None:
        super().__init__()
        from diffusers import AutoencoderKL

        blocks = len(configuration["block_out_channels"])
        autoencoder = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * blocks,
            up_block_types=("UpDecoderBlock2D",) * blocks,
            latent_channels=4,
            **configuration,
        )
        self.post_quant_conv, self.decoder = autoencoder.post_quant_conv, autoencoder.decoder
        use_plain_attention(self.decoder)

    def forward(self, latent_sample: torch.Tensor) -> torch.Tensor:
        """The image of `latent_sample`."""
        return self.decoder(self.post_quant_conv(latent_sample))


def use_plain_attention(network: torch.nn.Module) -> None:
    """Attention as products and a softmax.

    The scores of diffusers' plain processor add an uninitialised tensor times zero, which would
    be stored in the graph.
    """
    from diffusers.models.attention_processor import Attention, AttnProcessor

    def scores(
        attention: Attention, query: torch.Tensor, key: torch.Tensor, mask: None = None
    ) -> torch.Tensor:
        return (query @ key.transpose(-1, -2) * attention.scale).softmax(-1)

    for module in network.modules():
        if isinstance(module, Attention):
            module.set_processor(AttnProcessor())
            module.get_attention_scores = partial(scores, module)


def text_encoder(
    *, layers: int, width: int, heads: int, vocabulary: int, tokens: int = 77
) -> Subject:
    """A text encoder; the published one is that of CLIP ViT-L/14."""
    network = TextEncoder(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=tokens,
        projection_dim=width,
        hidden_act="quick_gelu",
        bos_token_id=0,
        eos_token_id=2,
    )
    inputs = {"input_ids": torch.arange(tokens, dtype=torch.int64)[None] % vocabulary}
    source = f"transformers {version('transformers')} CLIPTextModel (CLIP ViT-L/14 text encoder)"
    return Subject(network, inputs, ["last_hidden_state"], source)


def unet(
    *,
    latent: int,
    channels: tuple[int, ...],
    layers: int,
    heads: int,
    groups: int,
    context: int,
    tokens: int = 77,
) -> Subject:
    """A U-Net; all levels but the lowest attend to the text."""
    attending = len(channels) - 1
    with torch.device("meta"):  # the values are replaced anyway
        network = UNet(
            sample_size=latent,
            in_channels=4,
            out_channels=4,
            down_block_types=("CrossAttnDownBlock2D",) * attending + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * attending,
            block_out_channels=channels,
            layers_per_block=layers,
            attention_head_dim=heads,  # diffusers' name for the number of heads, in this model
            cross_attention_dim=context,
            norm_num_groups=groups,
        )
    inputs = {
        "sample": torch.randn(1, 4, latent, latent),
        "timestep": torch.ones(1, dtype=torch.int64),
        "encoder_hidden_states": torch.randn(1, tokens, context),
    }
    source = f"diffusers {version('diffusers')} UNet2DConditionModel (Stable Diffusion 1.x)"
    return Subject(network, inputs, ["out_sample"], source)


def decoder(*, latent: int, channels: tuple[int, ...], layers: int, groups: int) -> Subject:
    """A decoder; it doubles the extents between one level and the next."""
    with torch.device("meta"):
        network = Decoder(
            block_out_channels=channels, layers_per_block=layers, norm_num_groups=groups
        )
    inputs = {"latent_sample": torch.randn(1, 4, latent, latent)}
    source = f"diffusers {version('diffusers')} AutoencoderKL.decode (Stable Diffusion 1.x)"
    return Subject(network, inputs, ["sample"], source)


MODELS: dict[str, dict[str, Callable[[], Subject]]] = {
    "sd-textencoder": {
        "full": partial(text_encoder, layers=12, width=768, heads=12, vocabulary=49408),
        "small": partial(text_encoder, layers=12, width=128, heads=4, vocabulary=1024),
        "micro": partial(text_encoder, layers=2, width=64, heads=4, vocabulary=128, tokens=16),
    },
    "sd-unet": {
        "full": partial(
            unet,
            latent=32,
            channels=(320, 640, 1280, 1280),
            layers=2,
            heads=8,
            groups=32,
            context=768,
        ),
        "small": partial(
            unet, latent=16, channels=(32, 64, 128, 128), layers=2, heads=4, groups=8, context=96
        ),
        "micro": partial(
            unet,
            latent=8,
            channels=(16, 32),
            layers=1,
            heads=2,
            groups=4,
            context=24,
            tokens=12,
        ),
    },
    "sd-vaedecoder": {
        "full": partial(decoder, latent=32, channels=(128, 256, 512, 512), layers=2, groups=32),
        "small": partial(decoder, latent=8, channels=(12, 24, 48, 48), layers=2, groups=4),
        "micro": partial(decoder, latent=6, channels=(8, 16), layers=1, groups=4),
    },
}


def build(make: Callable[[], Subject], size: str) -> Subject:
    """A part, with its size in its source."""
    subject = make()
    return replace(subject, source=reduced(subject.source, size))


if __name__ == "__main__":
    run(
        {
            name: {size: partial(build, make, size) for size, make in sizes.items()}
            for name, sizes in MODELS.items()
        },
        __doc__,
    )
