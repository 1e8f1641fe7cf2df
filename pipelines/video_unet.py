"""What the call of AnimateDiff lacks: guidance that is rescaled, a preview, decoding in parts.

In diffusers 0.42 it has no `guidance_rescale`, without which a model of zero terminal signal blows
out light and dark (Lin et al. 2024, arXiv 2305.08891, section 3.4): guided predictions get the
deviation of the conditional ones, each frame its own, as the painter of single pictures does.

It knows no emotion and no request.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

SHARP = ("dpmsolver++",)
"""Solvers that keep their prediction of the clean result."""


@contextmanager
def rescaled(pipe: Any, share: float) -> Iterator[None]:
    """While open, guided predictions are brought back by `share` 0..1 to the conditional spread."""
    scheduler, plain = pipe.scheduler, pipe.scheduler.step
    kept: list[torch.Tensor] = []

    def keep(_: Any, __: Any, output: Any) -> None:
        sample = output[0] if isinstance(output, tuple) else output.sample
        kept[:] = [sample.chunk(2)[1]] if len(sample) % 2 == 0 else []

    @functools.wraps(plain)
    def step(guided: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if kept and kept[0].shape == guided.shape:
            over = (1, 3, 4)  # a frame is a picture: channels, rows, columns
            wanted = kept[0].std(dim=over, keepdim=True)
            found = guided.std(dim=over, keepdim=True)
            guided = share * (guided * (wanted / found)) + (1 - share) * guided
        return plain(guided, *args, **kwargs)

    hook = pipe.unet.register_forward_hook(keep)
    own = vars(scheduler).get("step")
    scheduler.step = step
    try:
        yield
    finally:
        hook.remove()
        if own is None:
            vars(scheduler).pop("step", None)
        else:
            scheduler.step = own


@torch.no_grad()
def decoded(pipe: Any, latents: torch.Tensor) -> NDArray[np.uint8]:
    """Latents (1, C, T, h, w) of AnimateDiff to frames (T, H, W, 3) uint8."""
    vae = pipe.vae
    rows = latents[0].transpose(0, 1).to(vae.dtype) / vae.config.scaling_factor
    pixels = vae.decode(rows, return_dict=False)[0].float() * 0.5 + 0.5
    return np.asarray(
        (pixels.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    )


def preview(pipe: Any, latents: torch.Tensor | None) -> Image.Image | None:
    """The middle frame as the scheduler predicts it now; None where it keeps no prediction."""
    if latents is None or pipe.scheduler.config.get("algorithm_type") not in SHARP:
        return None
    clean = next((x for x in reversed(pipe.scheduler.model_outputs) if x is not None), None)
    if clean is None or clean.shape != latents.shape:
        return None
    middle = clean.shape[2] // 2
    return Image.fromarray(decoded(pipe, clean[:, :, middle : middle + 1])[0])
