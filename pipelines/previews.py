"""Small pictures of what a run will become, while it is painted.

Before a step of the scheduler the clean sample that the model predicts is decoded, for the first
few pictures of the batch. Nothing of the run changes: the latents are only looked at, no random
number is drawn. It costs a set share of the run's time, so a heavy decoder gives fewer pictures and
a light one more. It deliberately does not know who looks at them.

Source: the prediction is x0 of `adapters.steps.clean_map` (arXiv 2010.02502, equation 12); decoding
it while a run goes on is what artists know from ComfyUI's and A1111's previews.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from PIL import Image

from adapters.families import FamilyError, decode, family
from adapters.steps import SchedulerError, StepClock, clean_map

SHARE = 0.1  # of a run's time that its previews may take
MOST = 4  # pictures of a batch that are shown at once
SIDE = 384  # px of the longer side of what is shown; decoding is done at half of that for UNets


@contextmanager
def previewed(
    pipe: Any, size: tuple[int, int], show: Callable[[Image.Image], None]
) -> Iterator[None]:
    """Call `show(picture)` now and then with what the run on `pipe` is becoming.

    size: width and height of the result in pixels. show may raise to end the run. A scheduler or a
    family that cannot be looked into is run as it is, without pictures.
    """
    clock = StepClock(pipe)
    begun, spent, able = time.monotonic(), 0.0, True

    def look(prediction: Any, t: Any, sample: Any) -> Image.Image | None:
        a, b = clean_map(pipe.scheduler, t)
        rows = min(MOST, sample.shape[0])
        clean = a * sample[:rows] + b * prediction[:rows]
        return sheet(_pictures(pipe, clean, size))

    def on_step(step: Any, prediction: Any, t: Any, sample: Any, *args: Any, **more: Any) -> Any:
        nonlocal spent, able
        now = time.monotonic()
        # The first prediction is a blur of all pictures there could be; the last step shows itself.
        due = 0 < clock.index < clock.total - 1 and spent <= SHARE * (now - begun)
        if able and due:
            try:
                picture = look(prediction, t, sample)
            except (FamilyError, SchedulerError):
                able = False
            else:
                spent += time.monotonic() - now
                show(picture)
        return step(prediction, t, sample, *args, **more)

    with clock.running(on_step):
        yield


@torch.no_grad()
def _pictures(pipe: Any, clean: torch.Tensor, size: tuple[int, int]) -> list[Image.Image]:
    width, height = size
    if family(pipe).packing == "none":
        # An autoencoder's cost goes with the area; of half the sides the mood is seen as well.
        most = SIDE // 2 // int(getattr(pipe, "vae_scale_factor", 8))
        side = max(clean.shape[-2:])
        if side > most:
            clean = torch.nn.functional.interpolate(
                clean.float(), scale_factor=most / side, mode="area"
            ).to(clean.dtype)
    pixels = decode(pipe, clean, height, width).float().clamp(0, 1)
    array = (255 * pixels).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    share = min(1.0, SIDE / max(size))
    small = (max(1, round(width * share)), max(1, round(height * share)))
    return [Image.fromarray(one).resize(small, Image.Resampling.BICUBIC) for one in array]


def sheet(pictures: list[Image.Image]) -> Image.Image:
    """Up to four pictures of one size as one, two in a row."""
    if len(pictures) == 1:
        return pictures[0]
    width, height = pictures[0].size
    whole = Image.new("RGB", (2 * width, (len(pictures) + 1) // 2 * height))
    for k, picture in enumerate(pictures):
        whole.paste(picture, (k % 2 * width, k // 2 * height))
    return whole
