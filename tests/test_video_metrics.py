"""Motion, flicker, warping and loops of clips whose motion is known."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from adapters.video_metrics import (
    flicker,
    flow,
    frame_difference,
    loop_gap,
    measure,
    motion_speed,
    warping,
    warping_error,
)

SIZE, FRAMES, FPS = 96, 10, 8


def scene(seed: int = 0, size: int = 192) -> torch.Tensor:
    """A picture (3, size, size) with structure at all sizes."""
    generator = torch.Generator().manual_seed(seed)
    picture = torch.zeros(1, 3, size, size)
    for side in (4, 8, 16, 32, 64):
        grain = torch.rand(1, 3, side, side, generator=generator) - 0.5
        picture += 8 / side**0.8 * F.interpolate(grain, (size, size), mode="bicubic") / 4
    return (picture[0] + 0.5).clamp(0, 1)


def view(picture: torch.Tensor, across: float, down: float, zoom: float = 1.0) -> torch.Tensor:
    half = picture.shape[1] / 2
    at = (torch.arange(SIZE) - (SIZE - 1) / 2) * zoom
    x, y = (at + across) / half, (at + down) / half
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)[None]
    return F.grid_sample(picture[None], grid, mode="bicubic", align_corners=False)[0].clamp(0, 1)


def clip(way) -> torch.Tensor:
    picture = scene()
    return torch.stack([view(picture, *way(i)) for i in range(FRAMES)])


STILL = clip(lambda i: (0, 0))
PAN = clip(lambda i: (2 * i - FRAMES, 0.5 * i))
ROUND = clip(lambda i: tuple(9 * f(2 * math.pi * i / FRAMES) for f in (math.sin, math.cos)))
UNRELATED = torch.stack([view(scene(i), 0, 0) for i in range(FRAMES)])
FADE = torch.stack([UNRELATED[0] * (1 - s) + UNRELATED[1] * s for s in torch.linspace(0, 1, 10)])


@pytest.mark.parametrize(("across", "down"), [(0.7, 0), (3, -2), (15, 4)])
def test_the_flow_of_a_shift_is_the_shift(across, down):
    picture = scene(3)
    found = flow(view(picture, 0, 0)[None], view(picture, across, down)[None])[0]
    inside = found[:, 20:-20, 20:-20]
    assert inside[0].median() == pytest.approx(-across, abs=0.1)
    assert inside[1].median() == pytest.approx(-down, abs=0.1)


def test_the_flow_is_as_near_as_a_well_kept_library_s():
    registration = pytest.importorskip("skimage.registration")
    picture = scene(3)
    a, b = view(picture, 0, 0), view(picture, 2, 1, 0.95)
    at = torch.arange(SIZE) - (SIZE - 1) / 2
    true = torch.stack(torch.meshgrid((at - 2) / 0.95 - at, (at - 1) / 0.95 - at, indexing="xy"))
    theirs = registration.optical_flow_tvl1(a.mean(0).numpy(), b.mean(0).numpy())
    theirs = torch.from_numpy(theirs[::-1].copy())
    errors = [
        (found - true).norm(dim=0)[12:-12, 12:-12].mean()
        for found in (flow(a[None], b[None])[0], theirs)
    ]
    assert errors[0] < 0.3
    assert errors[0] < 1.5 * errors[1]


def test_the_speed_of_a_pan_is_its_speed():
    assert motion_speed(PAN, FPS) == pytest.approx(math.hypot(2, 0.5) / SIZE * FPS, rel=0.05)
    assert motion_speed(PAN, 2 * FPS) == pytest.approx(2 * motion_speed(PAN, FPS))
    assert motion_speed(STILL, FPS) < 1e-6


def test_a_still_has_no_error_and_no_flicker():
    assert warping(STILL) == pytest.approx((0, 0), abs=1e-9)
    assert flicker(STILL) < 1e-6
    assert frame_difference(STILL) == 0
    assert loop_gap(STILL) == 1


def test_motion_is_no_warping_error_and_no_flicker_but_unrelated_frames_are():
    pan, apart = warping(PAN), warping(UNRELATED)
    assert pan.error < 0.002
    assert pan.occluded < 0.1
    assert apart.occluded > 0.8
    assert apart.error > 20 * pan.error
    assert warping_error(PAN) == pan.error
    assert flicker(UNRELATED) > 20 * flicker(PAN)
    assert flicker(FADE) < 0.2 * flicker(UNRELATED)


def test_light_that_jumps_is_flicker_and_rising_light_is_not():
    factors = torch.tensor([1, 0.7] * (FRAMES // 2))[:, None, None, None]
    rising = torch.linspace(0.7, 1, FRAMES)[:, None, None, None]
    assert flicker(PAN * factors) > 0.05
    assert flicker(PAN * rising) < 0.01


def test_a_round_trip_closes_and_a_pan_does_not():
    assert loop_gap(ROUND) == pytest.approx(1, abs=0.2)
    assert loop_gap(PAN) > 2


def test_one_pass_gives_the_figures_of_each_alone(monkeypatch):
    found = measure(ROUND, FPS)
    assert found["speed"] == pytest.approx(motion_speed(ROUND, FPS), rel=1e-4)
    assert found["flicker"] == pytest.approx(flicker(ROUND), rel=1e-4)
    assert found["warping"] == pytest.approx(warping_error(ROUND), rel=1e-4)
    assert found["loop_gap"] == loop_gap(ROUND)
    assert found["difference"] == frame_difference(ROUND)
    # Nine pairs: two batches of four, and one of a single pair.
    monkeypatch.setattr("adapters.video_metrics.BATCH", 4)
    assert measure(ROUND, FPS) == pytest.approx(found, rel=1e-4)


def test_decoded_frames_are_measured_alike():
    decoded = (PAN * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
    assert motion_speed(decoded, FPS) == pytest.approx(motion_speed(PAN, FPS), rel=0.02)
    assert warping_error(decoded) == pytest.approx(warping_error(PAN), abs=2e-4)


@pytest.mark.parametrize(
    "frames",
    [torch.zeros(5, 2, 32, 32), np.zeros((2, 3, 32, 32), np.uint8), torch.zeros(1, 3, 64, 64)],
)
def test_frames_of_another_form_are_refused_in_one_line(frames):
    with pytest.raises(ValueError, match="frames: ") as refused:
        flicker(frames)
    assert "\n" not in str(refused.value)
