"""Driving films: read as the curves they were made from, worn with an emotion on top, refused."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from adapters.face_motion import ARKIT, MOUTH, Motion, write_csv
from pipelines.media import MediaError
from pipelines.media_video import decode_track, encode_video, label_video
from pipelines.portrait_drive import read_clip
from pipelines.portrait_model import PortraitPipeline
from tests.portrait_contracts import (
    curves_of,
    face,
    folder,
    model_of,
    recording,
    request,
    run,
    stopped,
    takes,
)

pytest.importorskip("mediapipe", reason="faces are found by mediapipe (extra: portrait)")


@pytest.fixture(scope="module")
def model() -> PortraitPipeline:
    return model_of("portrait-tiny")


@cache
def driver() -> tuple[Path, np.ndarray]:
    """A film of the drawn face whose curves are known: it talks, blinks and raises its brows."""
    t = np.arange(36) / 30
    rows = np.zeros((36, len(ARKIT)), np.float32)
    jaw = 0.3 - 0.3 * np.cos(2 * np.pi * 2 * t)
    lift = 0.5 - 0.5 * np.cos(2 * np.pi * t / 1.2)
    shut = np.exp(-(((t - 0.9) / 0.06) ** 2))
    for name, values in (
        ("jawOpen", jaw),
        ("browInnerUp", lift),
        ("browOuterUp", lift),
        ("eyeBlink", shut),
    ):
        for k, channel in enumerate(ARKIT):
            if channel.startswith(name):
                rows[:, k] = values
    pose = np.stack([6 * np.sin(2 * np.pi * t), 0 * t, 4 * np.sin(np.pi * t)], 1)
    path = folder() / "known.csv"
    write_csv(path, Motion(rows, pose.astype(np.float32), 30))
    inputs = {"curves": path, "audio": recording()}
    asked = request("neutral", seconds=None, inputs=inputs)
    made = takes(model_of("portrait-tiny"), asked, folder() / "driver")[0]
    return made.path, np.concatenate([rows, pose], axis=1)


def test_a_film_is_read_as_the_curves_it_was_made_from() -> None:
    path, known = driver()
    found = read_clip(path)
    assert len(found) == 36
    # what raises a brow is shared out between its inner and its outer half
    told = {"jawOpen": 0.85, "browOuterUpLeft": 0.75, "browInnerUp": 0.5, "eyeBlinkRight": 0.85}
    for name, least in told.items():
        r = np.corrcoef(known[:, ARKIT.index(name)], found.channel(name))[0, 1]
        assert r > least, (name, r)
    for axis, name in ((0, "yaw"), (2, "roll")):
        r = np.corrcoef(known[:, len(ARKIT) + axis], found.channel(name))[0, 1]
        assert r > 0.9, (name, r)
    quiet = [k for k, name in enumerate(ARKIT) if name.startswith(("mouthSmile", "cheek", "noseS"))]
    assert found.curves[:, quiet].mean() < 0.1


def test_a_film_drives_a_face_with_an_emotion_on_top(
    model: PortraitPipeline, tmp_path: Path
) -> None:
    path, _ = driver()
    asked = [
        request(emotion, seconds=0.5, inputs=inputs, **more)
        for emotion, inputs, more in (
            ("neutral", {"drive": path}, {}), ("happiness .8", {"drive": path}, {}),
            ("neutral", {"drive": path, "audio": recording()}, {}),
            ("neutral", {"drive": path}, {"head": 0, "lips": 0, "blink": 0}),
        )
    ]  # fmt: skip
    plain, glad, said, still = takes(model, asked, tmp_path)  # in one call: the film is read once
    assert plain.reading["motion"]["source"] == "drive"
    assert np.allclose(curves_of(plain).curves, read_clip(path).curves[:15], atol=1e-4)
    lift = curves_of(glad).channel("mouthSmileLeft") - curves_of(plain).channel("mouthSmileLeft")
    assert lift.mean() > 0.15
    assert decode_track(plain.path) is not None  # the film's own sound
    words = list(MOUTH)
    assert np.abs(curves_of(said).curves[:, words] - curves_of(plain).curves[:, words]).max() > 0.1
    flat = curves_of(still)
    assert not flat.pose.any()
    assert not flat.curves[:, words].any()
    assert not flat.channel("eyeBlinkLeft").any()


def test_films_without_a_face_are_told(model: PortraitPipeline, tmp_path: Path) -> None:
    path = tmp_path / "wall.mp4"
    wall = [np.full((48, 64, 3), 5 * k, np.uint8) for k in range(2)]
    path.write_bytes(label_video(encode_video(wall, 30), {}))
    with pytest.raises(ValueError, match="drive: no face found") as caught:
        run(model, request(inputs={"drive": path}), tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
    with pytest.raises(MediaError, match="no MP4"):
        run(model, request(inputs={"drive": face()}), tmp_path / "out")


def test_reading_a_film_can_be_stopped(model: PortraitPipeline, tmp_path: Path) -> None:
    stopped(model, request(inputs={"drive": driver()[0]}), "analyse", tmp_path)
