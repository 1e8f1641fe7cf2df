"""video-tiny: the small painter with motion modules, put together from two folders.

An ordinary AnimateDiffPipeline of image-tiny's parts, the MotionAdapter in `motion_adapter/` and,
inactive, the LoRA "tempo" on the motion modules, whose weight is the arousal of each frame, -1 slow
.. 1 fast. The painter's weights lie in image-tiny alone. Here is also the noise that a film starts
from: frames share a part of it, so that what does not move stays (PYoCo, arXiv 2305.10474), and
what they do not share wanders smoothly from frame to frame instead of jumping.

    pipe = load_video_tiny("assets/models/video-tiny")
    noise = initial_noise(pipe, 40, 128, 128, generator, share=0.7)
    with film_length(pipe, 40):
        frames = pipe("waves against a cliff", num_frames=40, latents=noise).frames[0]

Knows nothing of emotions, requests or files of films; weights per frame are set by
`adapters.frame_steering`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import AnimateDiffPipeline, MotionAdapter, StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor2_0
from diffusers.models.embeddings import SinusoidalPositionalEmbedding
from peft.tuners.lora import LoraLayer

from adapters.slider_file import read_slider

TEMPO = "tempo"
"""Name of the LoRA on the motion modules: adapter name -> weight a frame is {TEMPO: arousal}."""

SMOOTH = 2.0
"""Deviation, in frames, of the kernel that smooths what frames do not share of their noise."""

REACH = 24
"""Frames to each side that a frame of a long film looks at; trained lengths go up to 48."""


class VideoModelError(ValueError):
    """A folder or length that makes no film; its one line says what does."""


def load_video_tiny(
    folder: Path | str,
    *,
    painter: Path | str | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> AnimateDiffPipeline:
    """Put the pipeline together.

    Args:
        folder: holds `motion_adapter/` and, optionally, `tempo/pytorch_lora_weights.safetensors`.
        painter: folder of the StableDiffusionPipeline it was trained on; "image-tiny" beside
            `folder` when not given.

    Raises:
        VideoModelError: when a part is missing. SliderFileError: a LoRA for another model.
    """
    folder = Path(folder)
    painter = folder.parent / "image-tiny" if painter is None else Path(painter)
    for part in (folder / "motion_adapter" / "config.json", painter / "model_index.json"):
        if not part.is_file():
            msg = f"backbone: {part} is missing; reinstall the project or run training.video"
            raise VideoModelError(msg)
    still = StableDiffusionPipeline.from_pretrained(
        painter, dtype=dtype, use_safetensors=True, safety_checker=None
    )
    adapter = MotionAdapter.from_pretrained(
        folder / "motion_adapter", dtype=dtype, use_safetensors=True
    )
    pipe = AnimateDiffPipeline(
        vae=still.vae, text_encoder=still.text_encoder, tokenizer=still.tokenizer,
        unet=still.unet, motion_adapter=adapter, scheduler=still.scheduler,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    tempo = folder / "tempo" / "pytorch_lora_weights.safetensors"
    if tempo.is_file():
        state = read_slider(tempo, "unet", pipe.unet)
        pipe.unet.load_lora_adapter(state, prefix="unet", adapter_name=TEMPO)
        for module in pipe.unet.modules():
            if isinstance(module, LoraLayer):
                module.set_adapter([], inference_mode=True)
    pipe.unet.requires_grad_(False)
    return pipe.to(device, dtype)


def frame_noise(
    shape: tuple[int, int, int, int, int],
    share: float | torch.Tensor,
    generator: torch.Generator,
    *,
    loop: bool = False,
) -> torch.Tensor:
    """Standard normal noise (B, C, F, h, w), of which frames share a part.

    share: 0..1 of the variance common to all frames of a film, one number or (B,). The rest is
        white in space and smooth in time. loop: the frame after the last is the first again.
    """
    batch, channels, frames, height, width = shape
    base = torch.randn(batch, channels, 1, height, width, generator=generator)
    reach = round(3 * SMOOTH)
    more = 0 if loop else 2 * reach
    own = torch.randn(batch, channels, frames + more, height, width, generator=generator)
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / SMOOTH) ** 2)
    at = torch.arange(frames).view(-1, 1) + torch.arange(2 * reach + 1)
    blend = torch.zeros(frames, frames + more).scatter_add_(
        1, at % (frames + more), kernel.expand(frames, -1).contiguous()
    )
    # Every row to length 1: each frame keeps variance 1, also where a short loop overlaps itself.
    own = torch.einsum("fg,bcghw->bcfhw", blend / blend.norm(dim=1, keepdim=True), own)
    common = torch.as_tensor(share, dtype=own.dtype).view(-1, 1, 1, 1, 1)
    return common.sqrt() * base + (1 - common).sqrt() * own


def initial_noise(
    pipe: Any,
    frames: int,
    height: int,
    width: int,
    generator: torch.Generator,
    share: float,
    *,
    loop: bool = False,
) -> torch.Tensor:
    """Latents (1, C, F, h, w) for the `latents` of the pipeline's call.

    height, width: pixels. generator: a CPU generator. share: 0..1, see `frame_noise`; trained
    with .8 to 1.
    """
    if not 0 <= share <= 1:
        msg = f"share: allowed 0 to 1, received {share}"
        raise VideoModelError(msg)
    scale = int(pipe.vae_scale_factor)
    shape = (1, int(pipe.unet.config.in_channels), frames, height // scale, width // scale)
    return frame_noise(shape, share, generator, loop=loop).to(pipe.device, pipe.unet.dtype)


@contextmanager
def film_length(pipe: Any, frames: int, *, loop: bool = False) -> Iterator[None]:
    """Let the motion modules make a film of any length, or one that closes, while open.

    Up to the length of the training nothing is changed. Beyond it, positions are continued by the
    same formula and every frame looks at its REACH neighbours to each side, as in training. With
    `loop` positions and neighbours go round, and the seam lies somewhere else at every step of
    the denoiser (latent shift, as in Mobius, arXiv 2502.20307), so that no place is a seam.
    """
    unet = pipe.unet
    places = [m for m in unet.modules() if isinstance(m, SinusoidalPositionalEmbedding)]
    known = min((place.pe.shape[1] for place in places), default=frames)
    banded = frames > 2 * REACH
    if not (loop or banded or frames > known):
        yield
        return
    step = [-1]

    def count(*_: Any) -> None:
        step[0] += 1

    def positions(place: SinusoidalPositionalEmbedding, args: tuple[Any, ...], _: Any) -> Any:
        x = args[0]
        table = _table(place, frames).to(x)
        # The golden section spreads the seams of any number of steps evenly.
        shift = round(0.618034 * frames * step[0]) % frames if loop else 0
        return x + table.roll(shift, dims=1)[:, : x.shape[1]]

    before = dict(unet.attn_processors)
    handles = [unet.register_forward_pre_hook(count)]
    handles += [place.register_forward_hook(positions) for place in places]
    shapes = [(place, place.pe) for place in places]
    try:
        for place in places:  # long enough for its own forward pass, whose result is replaced
            place.pe = _table(place, frames).to(place.pe)
        if banded:
            band = _Band(frames, loop)
            unet.set_attn_processor(
                {name: band if ".motion_modules." in name else old for name, old in before.items()}
            )
        yield
    finally:
        for handle in handles:
            handle.remove()
        for place, table in shapes:
            place.pe = table
        if banded:
            unet.set_attn_processor(before)


def _table(place: SinusoidalPositionalEmbedding, frames: int) -> torch.Tensor:
    """Positions (1, frames or more, C) by diffusers' own formula."""
    if place.pe.shape[1] >= frames:
        return place.pe
    return SinusoidalPositionalEmbedding(place.pe.shape[2], frames).pe


class _Band(AttnProcessor2_0):
    """Attention over time in which a frame looks at its REACH neighbours to each side."""

    def __init__(self, frames: int, loop: bool) -> None:
        super().__init__()
        index = torch.arange(frames)
        far = (index[:, None] - index[None]).abs()
        if loop:
            far = torch.minimum(far, frames - far)
        self.mask = torch.zeros(1, frames, frames).masked_fill(far > REACH, float("-inf"))

    def __call__(self, attn: Any, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        kwargs["attention_mask"] = self.mask.to(hidden_states).expand(len(hidden_states), -1, -1)
        return super().__call__(attn, hidden_states, *args, **kwargs)
