"""Pictures of any kind as portraits: found, placed by hand, scaled, kept; stills of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pipelines
from adapters.assets import ASSETS
from adapters.emotion import EmotionTimeline
from pipelines import BackboneError
from pipelines.media import load_image
from pipelines.params import ParamError
from pipelines.portrait import job_of
from pipelines.portrait_model import PortraitPipeline
from pipelines.portrait_photo import places, read_photo
from pipelines.take import Request, Take
from tests.portrait_contracts import (
    curves_of,
    face,
    folder,
    frames,
    model_of,
    takes,
)

pytest.importorskip("mediapipe", reason="faces are found by mediapipe (extra: portrait)")

MISTAKES = (ValueError, BackboneError)


@pytest.fixture(scope="module")
def model() -> PortraitPipeline:
    return model_of("portrait-tiny")


def of(picture: Path, emotion: str = "happiness .8", **params: object) -> Request:
    given = {"steps": 1, "size": 256, **({} if params.get("still") else {"seconds": 0.2}), **params}
    timeline = EmotionTimeline.parse(emotion)
    return Request("portrait", "", timeline, 7, "tiny", given, inputs={"image": picture})


def drawn() -> Image.Image:
    return load_image(ASSETS / "samples" / "faces" / "closed.jpg")


def picture(name: str) -> Path:
    """A picture file of some kind, made once."""
    path = folder() / name
    if path.exists():
        return path
    image, small = drawn(), drawn().resize((320, 320), Image.Resampling.LANCZOS)
    rng = np.random.default_rng(0)
    stem = path.stem
    if stem == "noise":
        Image.fromarray(rng.integers(0, 255, (200, 200, 3), np.uint8)).save(path)
    elif stem == "half":
        image.crop((0, 0, 320, 640)).save(path)
    elif stem == "pixels":
        image.resize((30, 30)).save(path)
    elif stem == "small":
        image.resize((64, 64)).save(path)
    elif stem == "cmyk":
        small.convert("CMYK").save(path)
    elif stem == "turned":
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned clockwise by a right angle
        small.rotate(90, expand=True).save(path, exif=exif)
    elif stem == "moving":
        small.save(path, save_all=True, append_images=[small.rotate(5)])
    elif stem == "grey":
        small.convert("L").save(path)
    elif stem == "odd":
        small.crop((0, 0, 319, 315)).save(path)
    elif stem == "large":
        wall = Image.new("RGB", (2400, 1600), (90, 110, 120))
        wall.paste(image.resize((700, 700)), (800, 400))
        wall.save(path, quality=85)
    elif stem == "two":
        wall = Image.new("RGB", (520, 320), (90, 110, 120))
        wall.paste(small, (0, 0))
        other = load_image(ASSETS / "samples" / "faces" / "dark.jpg")
        wall.paste(other.resize((190, 190)), (325, 60))
        wall.save(path)
    elif stem == "blank":
        Image.new("RGB", (320, 320), "white").save(path)
    return path


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("noise.png", "no face found.*--points"), ("half.png", "no face found"),
        ("pixels.png", "at least 40 px"), ("moving.gif", "no PNG, JPEG or WEBP"),
        ("none.png", "no readable file"),
    ],
)  # fmt: skip
def test_pictures_without_a_face_are_told(
    model: PortraitPipeline, tmp_path: Path, name: str, told: str
) -> None:
    with pytest.raises(MISTAKES, match=told) as caught:
        pipelines.generate(of(picture(name)), pipeline=model, out_dir=tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("cmyk.jpg", (320, 320)), ("turned.jpg", (320, 320)), ("grey.png", (320, 320)),
        ("odd.png", (318, 314)), ("moving.webp", (320, 320)), ("small.png", (64, 64)),
    ],
)  # fmt: skip
def test_pictures_of_any_kind_move(
    model: PortraitPipeline, tmp_path: Path, name: str, size: tuple[int, int]
) -> None:
    path = picture(name)
    take = takes(model, of(path, "surprise 1"), tmp_path)[0]
    moved = frames(take)
    assert moved.shape[1:3] == size[::-1]
    rest = np.asarray(load_image(path))[: size[1], : size[0]].astype(int)
    assert np.abs(moved[-1].astype(int) - rest).max() > 20
    # the face is upright: nothing moves in the top rows, which hold no face
    assert np.abs(moved[-1][:4].astype(int) - rest[:4]).mean() < 3


def test_large_photos_are_scaled_for_films_and_kept_for_stills(
    model: PortraitPipeline, tmp_path: Path
) -> None:
    path = picture("large.jpg")
    film = takes(model, of(path), tmp_path)[0]
    wide, high = film.reading["motion"]["size"]
    assert frames(film).shape[1:3] == (high, wide)
    assert 1280 <= wide <= 1920
    assert wide / high == pytest.approx(1.5, abs=0.01)
    assert any("2400x1600 px are scaled" in note for note in film.reading["notes"])
    still = takes(model, of(path, still=True), tmp_path)[0]
    before, after = (np.asarray(load_image(p)).astype(np.int16) for p in (path, still.path))
    assert before.shape == after.shape
    changed = np.argwhere(np.abs(before - after).max(2) > 0)
    left, top, right, bottom = read_photo(path).face.box
    reach = 1.2 * max(right - left, bottom - top)
    assert (np.abs(changed - ((top + bottom) / 2, (left + right) / 2)) < reach).all()
    assert len(changed) > 10_000
    assert "notes" not in still.reading


def test_one_of_several_faces_moves(model: PortraitPipeline, tmp_path: Path) -> None:
    path = picture("two.png")
    rest = np.asarray(load_image(path)).astype(int)
    moved = []
    for k in (0, 1):
        take = takes(model, of(path, still=True, face=k), tmp_path)[0]
        change = np.abs(np.asarray(load_image(take.path)).astype(int) - rest).max(2) > 8
        moved.append(float(np.argwhere(change)[:, 1].mean()))
        assert f"face {k} moves" in take.reading["notes"][-1]
    assert moved[0] < 260 < moved[1]
    with pytest.raises(ValueError, match="numbered 0 to 1, received 2"):
        job_of(of(path, face=2), pipeline=model)


def test_points_stand_in_for_a_face(model: PortraitPipeline, tmp_path: Path) -> None:
    five = "116,138 204,138 160,175 130,208 190,208"
    assert read_photo(picture("blank.png"), points=five).face.score == 1
    take = takes(model, of(picture("blank.png"), points=five), tmp_path)[0]
    assert take.path.suffix == ".mp4"
    for wrong, told in (
        ("1,2", "five pairs"),
        ("a b c d e", "five pairs"),
        ("9,9 " * 5, "order"),
        ("nan,1 2,2 3,3 4,4 5,5", "five pairs"),
        ("99,999 " * 5, "inside 320x320"),
    ):
        with pytest.raises(ValueError, match=told):
            job_of(of(picture("blank.png"), points=wrong), pipeline=model)
    assert places("1,2;3,4;5,6;7,8;9,10")[4] == (9, 10)


def test_stills_are_written_as_asked(model: PortraitPipeline, tmp_path: Path) -> None:
    for ext in ("png", "jpg", "webp"):
        take = takes(model, of(face(), still=True), tmp_path, ext=ext)[0]
        assert take.path.suffix == f".{ext}"
        assert Take.read(take.path).request == take.request
    with pytest.raises(ParamError, match="films are written as mp4"):
        job_of(of(face()), pipeline=model, ext="png")


def test_a_still_shows_a_moment_of_the_course(model: PortraitPipeline, tmp_path: Path) -> None:
    course = "0s neutral; 2s anger .8; 4s happiness .5"
    moments = [{"seconds": 0.0}, {"seconds": 2.0}, {"seconds": 4.0}, {}]
    asked = [of(face(), course, still=True, **at) for at in moments]
    first, third, last, peak = takes(model, asked, tmp_path)
    assert not curves_of(first).curves.any()
    assert (curves_of(peak).curves == curves_of(third).curves).all()
    smile = curves_of(last).channel("mouthSmileLeft")
    assert smile > 0.2 > curves_of(peak).channel("mouthSmileLeft")
