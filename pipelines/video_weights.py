"""Loading what makes films: a whole video pipeline, or a motion adapter on the painter it moves.

AnimateDiff (Guo et al. 2024, arXiv 2307.04725) adds motion modules to a painter of pictures. Such
rows name the painter as their `base`, so its weights lie on disk once; beside our own adapter lies
a tempo LoRA on the motion modules, loaded inactive, whose weight is arousal. Anything else is a
folder or hub repository in diffusers' layout of one of `pipelines.video.CLASSES`.

It deliberately knows no emotion and no request.
"""

from __future__ import annotations

import hashlib
import logging
from typing import Any

from adapters.weight_files import first_danger
from pipelines import BACKBONES, Backbone, BackboneError
from pipelines.video import CLASSES
from pipelines.video_maker import VideoMaker
from pipelines.weights import (
    best_device,
    cached,
    check_embedded,
    hub_answers,
    index_of,
    is_offline,
    load_pipeline,
    settle,
)

log = logging.getLogger("affect")

TEMPO = "tempo"
"""Folder of the tempo LoRA in a model of ours."""
LORA_FILE = "pytorch_lora_weights.safetensors"


def load_maker(row: Backbone, **options: Any) -> VideoMaker:
    """Load a row and what steers it; options as of `pipelines.load`.

    Raises:
        BackboneError: weights that are missing, unsafe or make no films. MemoryError: they do not
            fit.
    """
    defaults, call = dict(row.defaults), dict(row.call)
    if row.base is None:
        pipe = load_pipeline(row, loader=_whole(row), **options)
        return VideoMaker(pipe, row.name, folder=row.folder, defaults=defaults, call=call)
    return _moved(row, defaults=defaults, call=call, **options)


def _whole(row: Backbone) -> Any:
    """The from_pretrained of a whole pipeline, whose class must be one that makes films."""

    def load(weights: str, *, dtype: Any, **source: Any) -> Any:
        import torch
        from diffusers import DiffusionPipeline

        found = DiffusionPipeline.load_config(
            weights, **{k: v for k, v in source.items() if k in ("revision", "local_files_only")}
        )
        name = found["_class_name"]
        if name not in CLASSES:
            msg = f"{row.name} holds a {name}, a film needs one of {', '.join(CLASSES)}"
            raise ValueError(msg)
        # Wan's documentation asks for an autoencoder in full precision.
        parts = {"default": dtype, "vae": torch.float32} if name.startswith("Wan") else dtype
        return DiffusionPipeline.from_pretrained(weights, dtype=parts, **source)

    return load


def _moved(
    row: Backbone,
    *,
    defaults: dict[str, Any],
    call: dict[str, Any],
    device: str | None = None,
    dtype: Any = None,
    offline: bool | None = None,
) -> VideoMaker:
    """A painter with a motion adapter."""
    import torch

    from pipelines.painter import Painter
    from pipelines.video_model import load_video_tiny

    base = BACKBONES[str(row.base)]
    place = torch.device(device or best_device())
    if dtype is None:
        dtype = torch.float32 if place.type == "cpu" else torch.bfloat16
    dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    # On the CPU: of the painter itself an accelerator needs nothing until keyframes are painted.
    plain = load_pipeline(base, device="cpu", dtype=dtype, offline=offline)
    tempo = ""
    if row.folder is not None:
        check_embedded(row)
        if why := first_danger(row.folder):
            msg = f"backbone: {why}; use safetensors weights and remove that file"
            raise BackboneError(msg)
        pipe = load_video_tiny(row.folder, painter=base.folder, dtype=dtype)
        file = row.folder / TEMPO / LORA_FILE
        tempo = hashlib.sha256(file.read_bytes()).hexdigest()[:16] if file.is_file() else ""
    else:
        pipe = composed(plain, _adapter(row, dtype, offline=offline))
    settle(pipe, place, row)
    # Its sliders are loaded now: a motion model is not built of what wears adapters.
    painter = Painter(
        plain, base.name, folder=base.folder, defaults=dict(base.defaults), call=dict(base.call)
    )
    return VideoMaker(
        pipe, row.name, painter=painter, folder=row.folder, defaults=defaults, call=call,
        tempo=tempo,
    )  # fmt: skip


def _adapter(row: Backbone, dtype: Any, *, offline: bool | None) -> Any:
    """The motion adapter of a hub row."""
    from diffusers import MotionAdapter

    here = cached(row.weights, row.revision, index_of(row)) is not None
    try:
        return MotionAdapter.from_pretrained(
            row.weights,
            dtype=dtype,
            use_safetensors=True,
            revision=row.revision,
            local_files_only=here or is_offline(offline) or not hub_answers(row),
        )
    except (OSError, ValueError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or ["no reason"])[0][:160]
        msg = (
            f"backbone: cannot load the motion adapter of {row.name}: {reason}; "
            f"try `affect models pull {row.name}`"
        )
        raise BackboneError(msg) from error


def composed(painter: Any, adapter: Any) -> Any:
    """An AnimateDiffPipeline of a Stable Diffusion pipeline's parts and a published adapter.

    These were trained with a linear schedule (their model card).
    """
    from diffusers import AnimateDiffPipeline, DDIMScheduler

    pipe = AnimateDiffPipeline(
        vae=painter.vae,
        text_encoder=painter.text_encoder,
        tokenizer=painter.tokenizer,
        unet=painter.unet,  # copied: the painter itself still paints
        motion_adapter=adapter,
        scheduler=DDIMScheduler.from_config(
            painter.scheduler.config,
            beta_schedule="linear",
            clip_sample=False,
            timestep_spacing="linspace",
            steps_offset=1,
        ),
    )
    pipe.unet.eval()
    pipe.set_progress_bar_config(disable=True)
    return pipe
