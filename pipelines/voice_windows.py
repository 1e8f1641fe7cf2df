"""A recording of any length through a denoiser of frames: windows that overlap, weighted branches.

Each step of the scheduler sees every window of 8 s once per branch of the guidance; neighbours fade
into each other over 2 s, more than the network reaches, so that there are no seams and memory is
bounded. Blending predictions instead of results after MultiDiffusion (Bar-Tal et al. 2023). It
deliberately does not know what the frames are: changes of a voice (pipelines/voice_model.py) or a
spectrogram (pipelines/voice_mel.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

WINDOW, OVERLAP = 512, 128  # frames: 8 and 2 seconds; the receptive field is 181
WINDOWS_AT_ONCE = 8

Branch = tuple[float, Tensor, Tensor]
"""weight, prior (T, channels), condition (T, any): one answer of the network in a weighted sum."""


def denoise(
    model: nn.Module,
    scheduler: Any,
    noise: Tensor,
    features: Tensor,
    branches: Sequence[Branch],
    steps: int,
    on_step: Callable[[int], None] | None = None,
) -> Tensor:
    """Draw float32 (T, channels), on the processor whatever the model is on.

    Args:
        model: a `VoiceDenoiser`.
        scheduler: any of diffusers that takes what the model predicts; it is copied, because it
            keeps the state of a run and the same pipeline may run twice at once.
        noise: float32 (T, channels) of unit variance.
        features: float32 (T, any), what the model reads of the recording.
        branches: the prediction is the weighted sum of the answers to them.
        steps: of the scheduler.
        on_step: called with the steps done.
    """
    device, dtype = model.device, model.dtype
    scheduler = type(scheduler).from_config(scheduler.config)
    scheduler.set_timesteps(steps)
    x = noise * scheduler.init_noise_sigma
    windows = windows_of(len(x))
    for done, t in enumerate(scheduler.timesteps):
        seen = scheduler.scale_model_input(x, t)
        v, covered = torch.zeros_like(x), torch.zeros(len(x), 1)
        for at in range(0, len(windows), WINDOWS_AT_ONCE):
            some = windows[at : at + WINDOWS_AT_ONCE]
            for weight, prior, condition in branches:
                rows = [
                    torch.stack([full[first:last] for first, last in some]).to(device, dtype)
                    for full in (seen, features, prior, condition)
                ]
                times = torch.full((len(some),), float(t), device=device)
                found = model(rows[0], times, *rows[1:]).float().cpu()
                for (first, last), part in zip(some, found, strict=True):
                    v[first:last] += weight * fade(last - first, first > 0, last < len(x)) * part
            for first, last in some:
                covered[first:last] += fade(last - first, first > 0, last < len(x))
        x = scheduler.step(v / covered, t, x, return_dict=False)[0]
        if on_step is not None:
            on_step(done + 1)
    return x


def windows_of(frames: int) -> list[tuple[int, int]]:
    """Equal windows over all frames, at least OVERLAP in common; one where one is enough."""
    if frames <= WINDOW:
        return [(0, frames)]
    count = -(-(frames - OVERLAP) // (WINDOW - OVERLAP))
    starts = torch.linspace(0, frames - WINDOW, count, dtype=torch.float64).round().int().tolist()
    return [(first, first + WINDOW) for first in starts]


def fade(length: int, before: bool, after: bool) -> Tensor:
    """(length, 1) weights of a window: 1, sloping to the sides where another one lies."""
    out = torch.ones(length, 1)
    slope = ((torch.arange(OVERLAP) + 0.5) / OVERLAP)[:, None]
    if before:
        out[:OVERLAP] *= slope
    if after:
        out[-OVERLAP:] *= slope.flip(0)
    return out
