"""Tiny random instances of the two classes that repaint faces: real parts, no network.

AnimateDiff video-to-video with a ControlNet (pictures are multiples of 4 pixels) and Wan-Animate
(multiples of 16). What they paint means nothing.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import (
    AnimateDiffVideoToVideoControlNetPipeline,
    AutoencoderKLWan,
    ControlNetModel,
    DiffusionPipeline,
    MotionAdapter,
    UniPCMultistepScheduler,
    WanAnimatePipeline,
    WanAnimateTransformer3DModel,
)
from torch import nn
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    UMT5Config,
    UMT5EncoderModel,
)

from tests import tiny


def tiny_polisher(kind: str, seed: int = 0) -> DiffusionPipeline:
    """A pipeline of "animatediff" or "wan-animate", seeded: the same weights every time."""
    pipe = {"animatediff": _animatediff, "wan-animate": _wan}[kind]()
    generator = torch.Generator().manual_seed(seed)
    for component in pipe.components.values():
        if isinstance(component, nn.Module):
            tiny._fill(component, generator)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def tiny_polisher_folder(kind: str, folder: Path, seed: int = 0) -> Path:
    """Save `tiny_polisher(kind)` as an ordinary safetensors folder and return its path."""
    tiny_polisher(kind, seed).save_pretrained(folder, safe_serialization=True)
    return folder


def _animatediff() -> AnimateDiffVideoToVideoControlNetPipeline:
    parts = tiny._sd15().components
    unet = parts["unet"]
    return AnimateDiffVideoToVideoControlNetPipeline(
        vae=parts["vae"],
        text_encoder=parts["text_encoder"],
        tokenizer=parts["tokenizer"],
        unet=unet,
        motion_adapter=tiny_motion_adapter(),
        controlnet=tiny_controlnet(),
        scheduler=parts["scheduler"],
    )


def tiny_motion_adapter() -> MotionAdapter:
    """One that fits tiny's sd15."""
    return MotionAdapter(
        block_out_channels=(16, 32),
        motion_layers_per_block=1,
        motion_num_attention_heads=2,
        motion_norm_num_groups=8,
        motion_max_seq_length=16,
    )


def tiny_controlnet() -> ControlNetModel:
    """One that fits tiny's sd15: its autoencoder is four times smaller than the picture."""
    return ControlNetModel(
        block_out_channels=(16, 32),
        norm_num_groups=8,
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=4,
        conditioning_embedding_out_channels=(8, 16, 16),
    )


def _wan() -> WanAnimatePipeline:
    tokenizer = tiny.t5_tokenizer()
    return WanAnimatePipeline(
        tokenizer=tokenizer,
        text_encoder=UMT5EncoderModel(
            UMT5Config(
                vocab_size=len(tokenizer),
                d_model=32,
                d_kv=8,
                d_ff=32,
                num_layers=2,
                num_heads=4,
                feed_forward_proj="gated-gelu",
            )
        ),
        vae=AutoencoderKLWan(
            base_dim=4,
            z_dim=16,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[False, True, True],
        ),
        scheduler=UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
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
        transformer=WanAnimateTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=12,
            text_dim=32,
            freq_dim=16,
            ffn_dim=32,
            num_layers=2,
            image_dim=8,
            added_kv_proj_dim=24,
            rope_max_seq_len=64,
            motion_encoder_channel_sizes={"4": 16, "8": 16, "16": 16},
            motion_encoder_size=16,
            motion_style_dim=8,
            motion_dim=4,
            motion_encoder_dim=16,
            face_encoder_hidden_dim=16,
            face_encoder_num_heads=2,
            inject_face_latents_blocks=2,
        ),
    )
