"""Tiny random video pipelines of the real diffusers classes: real parts, no network.

`tiny_video(family)` builds one of FAMILIES, seeded; `CALL[family]` holds the arguments of a film of
`FRAMES[family]` frames in two steps with guidance on; `film(pipe, family, seed, ...)` makes one and
returns its last latents (T, C, h, w), which is what steering over frames is measured on. What the
films show means nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AnimateDiffPipeline,
    AnimateDiffVideoToVideoPipeline,
    AutoencoderKLLTXVideo,
    AutoencoderKLWan,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    LTXImageToVideoPipeline,
    LTXPipeline,
    LTXVideoTransformer3DModel,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from PIL import Image
from torch import Tensor, nn
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    UMT5Config,
    UMT5EncoderModel,
)

from tests import tiny
from tests.tiny_polishers import tiny_motion_adapter

FAMILIES = ("animatediff", "animatediff-v2v", "wan21", "wan22", "wan-i2v", "ltx", "ltx-i2v")

#: Frames of the film that CALL asks for, and the latent frames they fold into.
FRAMES = dict.fromkeys(FAMILIES, 6) | dict.fromkeys(("wan21", "wan22", "wan-i2v"), 21)
FRAMES |= {"ltx": 11, "ltx-i2v": 11}
LATENT = dict.fromkeys(FAMILIES, 6)

_STILL = Image.linear_gradient("L").resize((64, 64)).convert("RGB")

# Call arguments for a two-step film with classifier-free guidance on, as latents.
CALL: dict[str, dict[str, Any]] = {
    "animatediff": {"num_frames": 6, "height": 32, "width": 32},
    "animatediff-v2v": {
        "video": [_STILL.resize((32, 32))] * 6,
        "height": 32,
        "width": 32,
        "strength": 1.0,
    },
    "wan21": {"num_frames": 21, "height": 64, "width": 64, "max_sequence_length": 24},
    "wan22": {"num_frames": 21, "height": 64, "width": 64, "max_sequence_length": 24},
    "wan-i2v": {"image": _STILL, "num_frames": 21, "height": 64, "width": 64},
    "ltx": {"num_frames": 11, "height": 32, "width": 32, "max_sequence_length": 24},
    "ltx-i2v": {
        "image": _STILL.resize((32, 32)),
        "num_frames": 11,
        "height": 32,
        "width": 32,
        "max_sequence_length": 24,
    },
}
for _arguments in CALL.values():
    _arguments.update(guidance_scale=3.0, num_inference_steps=2)


def tiny_video(family: str, seed: int = 0) -> DiffusionPipeline:
    """A tiny random pipeline of `family` (one of FAMILIES), float32: same weights each time."""
    pipe = _BUILD[family]()
    generator = torch.Generator().manual_seed(seed)
    for component in pipe.components.values():
        if isinstance(component, nn.Module):
            tiny._fill(component, generator)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def tiny_video_folder(family: str, folder: Path, seed: int = 0) -> Path:
    """Save `tiny_video(family)` as an ordinary safetensors folder and return its path."""
    tiny_video(family, seed).save_pretrained(folder, safe_serialization=True)
    return folder


def film(pipe: Any, family: str, seed: int = 1, **changes: Any) -> Tensor:
    """The last latents of one film, (T, C, h, w) (of a batch: (B, T, C, h, w))."""
    arguments = {"prompt": "a quiet lake", **CALL[family], **changes, "output_type": "latent"}
    size = arguments["prompt"]
    seeds = [seed] * len(size) if isinstance(size, list) else [seed]
    generators = tiny.generators(*seeds)
    out = pipe(generator=generators if len(seeds) > 1 else generators[0], **arguments).frames
    if family.startswith("ltx"):
        count = (arguments["num_frames"] - 1) // pipe.vae_temporal_compression_ratio + 1
        cells = [
            arguments[side] // pipe.vae_spatial_compression_ratio for side in ("height", "width")
        ]
        out = pipe._unpack_latents(out, count, *cells, 1, 1)
    out = out.transpose(1, 2)
    return out if len(seeds) > 1 else out[0]


def _animatediff() -> AnimateDiffPipeline:
    return AnimateDiffPipeline(**_animatediff_parts())


def _animatediff_parts() -> dict[str, Any]:
    parts = tiny._sd15().components
    names = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
    return {name: parts[name] for name in names} | {"motion_adapter": tiny_motion_adapter()}


def _animatediff_v2v() -> AnimateDiffVideoToVideoPipeline:
    return AnimateDiffVideoToVideoPipeline(**_animatediff_parts())


def _umt5(tokenizer: Any) -> UMT5EncoderModel:
    return UMT5EncoderModel(
        UMT5Config(
            vocab_size=len(tokenizer),
            d_model=32,
            d_kv=8,
            d_ff=32,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
        )
    )


def _wan_transformer(**changes: Any) -> WanTransformer3DModel:
    settings = {
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "in_channels": 4,
        "out_channels": 4,
        "text_dim": 32,
        "freq_dim": 16,
        "ffn_dim": 32,
        "num_layers": 2,
        "rope_max_seq_len": 64,
    }
    return WanTransformer3DModel(**{**settings, **changes})


def _wan_parts() -> dict[str, Any]:
    tokenizer = tiny.t5_tokenizer()
    return {
        "tokenizer": tokenizer,
        "text_encoder": _umt5(tokenizer),
        "vae": AutoencoderKLWan(
            base_dim=4,
            z_dim=4,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[False, True, True],
            latents_mean=[-0.76, -0.71, 0.97, 0.11],
            latents_std=[2.82, 1.45, 1.22, 1.77],
        ),
        "scheduler": UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
    }


def _wan21() -> WanPipeline:
    return WanPipeline(**_wan_parts(), transformer=_wan_transformer())


def _wan22() -> WanPipeline:
    """Two experts: the first step is for the first of them, the second for the other."""
    experts = {"transformer": _wan_transformer(), "transformer_2": _wan_transformer()}
    return WanPipeline(**_wan_parts(), **experts, boundary_ratio=0.9)


def _wan_i2v() -> WanImageToVideoPipeline:
    return WanImageToVideoPipeline(
        **_wan_parts(),
        # Noisy latents, a mask of which frames are given (4 to a latent frame), and those frames.
        transformer=_wan_transformer(in_channels=12, image_dim=8, added_kv_proj_dim=24),
        image_processor=CLIPImageProcessor(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
        ),
        image_encoder=CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=8,
                intermediate_size=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                image_size=32,
                patch_size=16,
            )
        ),
    )


def _ltx_parts() -> dict[str, Any]:
    tokenizer = tiny.t5_tokenizer()
    return {
        "scheduler": FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        "vae": AutoencoderKLLTXVideo(
            latent_channels=8,
            block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            layers_per_block=(1, 1, 1),
            decoder_layers_per_block=(1, 1, 1),
            spatio_temporal_scaling=(True, False),
            decoder_spatio_temporal_scaling=(True, False),
            decoder_inject_noise=(False, False, False),
            upsample_residual=(False, False),
            upsample_factor=(1, 1),
            timestep_conditioning=False,
            patch_size=2,
            patch_size_t=1,
            encoder_causal=True,
            decoder_causal=False,
        ),
        "text_encoder": tiny._t5(tokenizer),
        "tokenizer": tokenizer,
        "transformer": LTXVideoTransformer3DModel(
            in_channels=8,
            out_channels=8,
            num_attention_heads=2,
            attention_head_dim=12,
            cross_attention_dim=24,
            num_layers=2,
            caption_channels=32,
        ),
    }


def _ltx() -> LTXPipeline:
    return LTXPipeline(**_ltx_parts())


def _ltx_i2v() -> LTXImageToVideoPipeline:
    return LTXImageToVideoPipeline(**_ltx_parts())


_BUILD: dict[str, Callable[[], DiffusionPipeline]] = {
    "animatediff": _animatediff,
    "animatediff-v2v": _animatediff_v2v,
    "wan21": _wan21,
    "wan22": _wan22,
    "wan-i2v": _wan_i2v,
    "ltx": _ltx,
    "ltx-i2v": _ltx_i2v,
}
