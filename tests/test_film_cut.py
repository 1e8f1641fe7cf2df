"""Pictures of a film: sizes, rates, transitions, titles; real files, streamed."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.film_cut import Material, Shown, Words, drawn, fitted, frames, material_frames
from pipelines.media_video import encode_video, label_video

SIZE = (96, 64)
FPS = 24


@pytest.fixture
def picture(tmp_path: Path):
    def make(colour: tuple[int, int, int], name: str = "a.png") -> Path:
        path = tmp_path / name
        rng = np.random.default_rng(0)
        noise = rng.integers(-20, 20, (64, 96, 3))
        pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).resize((192, 128)).save(path)
        return path

    return make


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Two seconds at 8 frames a second whose grey rises by 12 a frame."""
    grey = (np.full((64, 96, 3), 30 + 12 * i, dtype=np.uint8) for i in range(16))
    path = tmp_path / "clip.mp4"
    path.write_bytes(label_video(encode_video(grey, 8), {}))
    return path


def still(path: Path, kind: str = "still", tempo: float = 0.0, seed: int = 0) -> Material:
    return Material(path, kind, np.full(200, tempo), 0.0, seed)


def film(path: Path, begin: float = 0.0) -> Material:
    return Material(path, "", np.zeros(1), begin, 0)


def means(pictures) -> np.ndarray:
    return np.array([pixels.mean() for pixels in pictures])


def test_a_clip_of_few_frames_is_blended(clip: Path) -> None:
    found = means(material_frames(film(clip), 30, SIZE, FPS))
    assert np.abs(np.diff(found) - 4).max() < 2.5, "12 a frame at 8 are 4 a frame at 24"
    later = means(material_frames(film(clip, 1.0), 10, SIZE, FPS))
    assert later[0] == pytest.approx(30 + 12 * 8, abs=3)
    held = means(material_frames(film(clip), 60, SIZE, FPS))
    assert len(held) == 60
    assert held[-1] == pytest.approx(30 + 12 * 15, abs=3), "the last one is held"


def test_a_clip_of_the_same_rate_is_shown_frame_by_frame(tmp_path: Path) -> None:
    grey = [np.full((64, 96, 3), 20 + 9 * i, dtype=np.uint8) for i in range(24)]
    path = tmp_path / "same.mp4"
    path.write_bytes(label_video(encode_video(iter(grey), FPS), {}))
    found = means(material_frames(film(path), 24, SIZE, FPS))
    np.testing.assert_allclose(found, [g.mean() for g in grey], atol=3)


def test_stills_move_with_arousal_and_seed(picture) -> None:
    path = picture((120, 90, 60))
    slow, fast = (
        np.stack([*material_frames(still(path, "push", tempo), 30, SIZE, FPS)]).astype(int)
        for tempo in (-1.0, 1.0)
    )
    assert slow.shape == (30, 64, 96, 3)
    moved = [np.abs(np.diff(shot, axis=0)).mean() for shot in (slow, fast)]
    assert moved[1] > 1.5 * moved[0] > 0
    one, other = (
        np.stack([*material_frames(still(path, "sway", 0.5, seed), 20, SIZE, FPS)])
        for seed in (1, 2)
    )
    assert (one != other).any()
    again = np.stack([*material_frames(still(path, "sway", 0.5, 1), 20, SIZE, FPS)])
    np.testing.assert_array_equal(one, again)


def test_who_stops_need_not_wait_until_a_clip_has_been_skipped(tmp_path: Path) -> None:
    """One keyframe, as phones may write it: everything before the beginning has to be decoded."""
    grey = (np.full((64, 96, 3), 30 + i, dtype=np.uint8) for i in range(96))
    path = tmp_path / "clip.mp4"
    path.write_bytes(label_video(encode_video(grey, 48), {}))
    looks = []
    shots = [Shown(film(path, 1.9), 0, 2, "cut", 0)]
    found = means(frames(shots, [], size=SIZE, fps=48, look=lambda: looks.append(1)))
    assert found[0] == pytest.approx(30 + 91, abs=3)
    assert len(looks) > 80

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        next(frames(shots, [], size=SIZE, fps=48, look=stop))


def test_shots_follow_each_other_to_the_frame(picture) -> None:
    dark, bright = picture((40, 40, 40)), picture((200, 200, 200), "b.png")
    shots = [Shown(still(dark), 0, 10, "cut", 0), Shown(still(bright), 10, 14, "cut", 0)]
    found = means(frames(shots, [], size=SIZE, fps=FPS))
    assert len(found) == 24
    assert (found[:10] < 80).all()
    assert (found[10:] > 160).all()


def test_a_dissolve_goes_from_one_to_the_other(picture, clip: Path) -> None:
    bright = picture((220, 220, 220), "b.png")
    shots = [Shown(film(clip), 0, 12, "cut", 0), Shown(still(bright), 12, 12, "dissolve", 6)]
    found = means(frames(shots, [], size=SIZE, fps=FPS))
    assert len(found) == 24
    assert (np.diff(found[11:20]) > -1).all(), "nothing jumps back"
    assert found[12] < 0.4 * found[20] + 0.6 * found[11], "it begins with the old picture"
    assert found[18] == pytest.approx(found[20], abs=4)


def test_black_between_shots_and_at_the_end(picture) -> None:
    one, other = picture((180, 180, 180)), picture((200, 200, 200), "b.png")
    shots = [Shown(still(one), 0, 20, "black", 6), Shown(still(other), 20, 20, "black", 6)]
    found = means(frames(shots, [], size=SIZE, fps=FPS, fade_out=6))
    assert found[0] < 20
    assert found[19] < 20
    assert found[20] < 20
    assert found[39] < 20
    assert found[10] > 170
    assert found[30] > 180


def test_titles_come_and_go_and_are_not_seen_by_readers(picture) -> None:
    seen = {}
    shots = [Shown(still(picture((30, 30, 30))), 0, 48, "cut", 0)]
    title = Words("Storm", 10, 30, "centre", 0.3)
    found = means(
        frames(shots, [title], size=SIZE, fps=FPS, seen=lambda i, p: seen.update({i: p.mean()}))
    )
    assert found[25] > found[0] + 5
    assert found[5] == pytest.approx(found[0], abs=1)
    assert found[45] == pytest.approx(found[0], abs=1)
    assert found[0] < found[12] < found[25], "it comes in softly"
    assert len(seen) == 48
    assert seen[25] == pytest.approx(seen[0], abs=1)


def test_titles_are_drawn_when_they_appear(picture) -> None:
    """Forty at 640 x 360 are 74 MB when all are drawn ahead; one is 1.8."""
    shots = [Shown(still(picture((30, 30, 30))), 0, 45, "cut", 0)]
    titles = [Words(f"Title {i}", i, 1, "centre", 0.1) for i in range(40)]
    tracemalloc.start()
    try:
        for _ in frames(shots, titles, size=(640, 360), fps=FPS):
            pass
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 50e6


@pytest.mark.parametrize("place", ["top", "centre", "bottom"])
def test_titles_stay_inside_and_in_their_place(place: str) -> None:
    layer = drawn("A long title of many words that needs lines", (320, 200), place, 0.12)
    rows = np.flatnonzero((layer[..., 0] > 0.5).any(axis=1))
    columns = np.flatnonzero((layer[..., 0] > 0.5).any(axis=0))
    assert rows.min() > 4
    assert rows.max() < 195
    assert columns.min() > 0.05 * 320
    assert columns.max() < 0.95 * 320
    middle = (rows.min() + rows.max()) / 2 / 200
    assert {"top": middle < 0.45, "centre": 0.45 < middle < 0.55, "bottom": middle > 0.55}[place]
    wide = drawn("Donaudampfschifffahrtsgesellschaft" * 2, (320, 200), place, 0.2)
    assert (wide[:, :8, 0] < 0.01).all(), "letters become smaller instead of being cut"


@pytest.mark.parametrize(
    ("given", "black"),
    [((128, 128), False), ((96, 64), False), ((300, 60), True), ((40, 200), True)],
)
def test_pictures_are_cropped_or_framed(given: tuple[int, int], black: bool) -> None:
    pixels = np.full((given[1], given[0], 3), 200, dtype=np.uint8)
    done = fitted(pixels, SIZE)
    assert done.shape == (64, 96, 3)
    assert (done.min() < 10) == black
    assert done[32, 48].min() > 190
    assert fitted(pixels, SIZE, fills=True).min() > 190


@pytest.mark.parametrize("kind", ["still", ""])
def test_what_was_made_for_the_film_fills_it(tmp_path: Path, kind: str) -> None:
    grey = np.full((64, 64, 3), 200, dtype=np.uint8)
    path = tmp_path / ("a.png" if kind else "a.mp4")
    if kind:
        Image.fromarray(grey).save(path)
    else:
        path.write_bytes(label_video(encode_video([grey] * 4, FPS), {}))
    for fills in (True, False):
        material = Material(path, kind, np.zeros(4), 0.0, 0, fills)
        done = next(material_frames(material, 2, (128, 72), FPS))
        assert (done[:, :8].mean() > 180) == fills, "square pictures in a wide film"
