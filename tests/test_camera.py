"""Stills that move: smooth, seeded, faster where arousal is high, and loops that close."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipelines import camera


def picture(side: int = 48, wide: int = 64) -> torch.Tensor:
    """Soft blobs: every shift of a part of a pixel is visible in them."""
    generator = torch.Generator().manual_seed(5)
    small = torch.rand(1, 3, 7, 9, generator=generator)
    return torch.nn.functional.interpolate(small, (side, wide), mode="bicubic")[0].clamp(0, 1)


def film(
    kind: str, tempo: object = 0.0, *, seconds: float = 3.0, loop: bool = False, seed: int = 2
):
    generator = torch.Generator().manual_seed(seed)
    return torch.stack(
        list(
            camera.move(
                picture(), seconds, 8, kind=kind, tempo=tempo, generator=generator, loop=loop
            )
        )
    )


def steps(frames: torch.Tensor) -> torch.Tensor:
    return (frames[1:] - frames[:-1]).abs().mean(dim=(1, 2, 3))


MOVING = [kind for kind in camera.KINDS if kind not in ("still", "lightning")]


@pytest.mark.parametrize("kind", camera.KINDS)
def test_frames_are_pictures_and_the_seed_decides(kind: str) -> None:
    once, again, other = film(kind), film(kind), film(kind, seed=3)
    assert once.shape == (24, 3, 48, 64)
    assert once.min() >= 0
    assert once.max() <= 1
    assert torch.equal(once, again)
    same = kind in ("still", "lightning", "push", "pull", "breathe", "pan", "tilt")
    assert same or not torch.equal(once, other)


@pytest.mark.parametrize("kind", MOVING)
def test_arousal_sets_the_tempo(kind: str) -> None:
    slow, plain, fast = (
        float(np.median([steps(film(kind, a, seed=s)).mean() for s in range(3)]))
        for a in (-1.0, 0.0, 1.0)
    )
    assert slow < 0.8 * plain
    assert plain < 0.8 * fast


def test_the_tempo_may_change_from_frame_to_frame_without_a_jump() -> None:
    tempo = np.where(np.arange(24) < 12, -1.0, 1.0)
    change = steps(film("sway", tempo))
    assert change[13:].mean() > 2 * change[:11].mean()
    assert change.max() < 3 * change[13:].mean()


@pytest.mark.parametrize("kind", [*MOVING, "sway+waves"])
@pytest.mark.parametrize("tempo", [-0.5, 0.7])
def test_a_loop_closes(kind: str, tempo: float) -> None:
    frames = film(kind, tempo, loop=True)
    usual = steps(frames)
    assert (frames[0] - frames[-1]).abs().mean() < 1.6 * usual.max()


def test_no_move_shows_a_border() -> None:
    white = torch.ones(3, 40, 40)
    for kind in ("pan", "tilt", "push", "sway", "shake", "waves", "clouds"):
        generator = torch.Generator().manual_seed(1)
        moved = camera.move(white, 4, 8, kind=kind, tempo=1.0, generator=generator)
        gain = kind == "waves"  # crests are brighter and darker, borders would be black
        assert min(float(frame.min()) for frame in moved) > (0.6 if gain else 0.99)


def test_lightning_comes_with_arousal_and_never_too_often() -> None:
    calm = film("lightning", -0.5, seconds=10)
    assert steps(calm).max() == 0
    wild = film("lightning", 1.0, seconds=20).mean(dim=(1, 2, 3))
    flashes = np.flatnonzero((wild[1:-1] > wild[:-2]).numpy() & (wild[1:-1] >= wild[2:]).numpy())
    assert len(flashes) >= 2
    assert np.diff(flashes).min() >= 6  # three quarters of a second at eight frames


def test_a_film_is_seen_through_the_camera_frame_by_frame() -> None:
    dark_to_light = torch.linspace(0, 1, 16)[:, None, None, None].expand(16, 3, 20, 20)
    generator = torch.Generator().manual_seed(0)
    seen = list(camera.move(dark_to_light, 2, 8, kind="sway", tempo=0, generator=generator))
    assert [round(float(f.mean()), 3) for f in seen] == [round(i / 15, 3) for i in range(16)]


def test_words_of_a_prompt_choose_the_motion() -> None:
    assert camera.kind_for("Waves against a cliff") == "sway+shake+waves"
    assert camera.kind_for("a rainy harbour") == "sway+shake+rain+waves"
    assert camera.kind_for("sunflowers").endswith("wind")
    assert camera.kind_for("a chair").endswith("light")
    assert "waves" not in camera.kind_for("a seat")  # whole words only


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"kind": "spin"}, "kind: 'spin' is no motion; use still, pan"),
        ({"tempo": [0.0, 1.0]}, "tempo: expected 8 numbers -1..1, one a frame"),
        ({"tempo": 2.0}, "tempo: expected 8 numbers"),
        ({"tempo": float("nan")}, "tempo: expected 8 numbers"),
        ({"seconds": 0.0}, "seconds, fps: allowed above 0, received 0.0 and 8"),
        ({"picture": torch.zeros(1, 9, 9)}, "picture: expected (3, H, W)"),
        ({"picture": torch.zeros(5, 3, 9, 9)}, "are 8 frames, received a film of 5"),
    ],
)
def test_what_cannot_be_moved_is_said_in_one_line(changed: dict, said: str) -> None:
    asked = {"picture": picture(), "seconds": 1.0, "fps": 8, "kind": "pan", "tempo": 0.0} | changed
    with pytest.raises(camera.CameraError) as error:
        camera.move(asked.pop("picture"), **asked, generator=torch.Generator())
    assert said in str(error.value)
    assert "\n" not in str(error.value)
