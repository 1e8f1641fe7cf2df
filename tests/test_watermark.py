"""The mark in the pixels: what it survives, what it costs, and that nothing else has it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from adapters.assets import ASSETS
from adapters.emotion import EmotionTimeline
from pipelines.image import ImageParams, job_of
from pipelines.media import encode_image
from pipelines.request import Request
from pipelines.take import Take
from pipelines.watermark import SURE, embed, strength
from studio.cli import run
from studio.verify import examine

SHEET = Image.open(ASSETS / "models" / "image-tiny" / "contact_sheet.jpg").convert("RGB")
FACES = sorted((ASSETS / "samples" / "faces").glob("*.jpg"))


def paintings() -> list[Image.Image]:
    """Square pieces of the painter's own sheet, 128 px as its pictures are."""
    places = [(x, y) for y in range(40, SHEET.height - 128, 150) for x in (170, 330, 640, 800)]
    found = [SHEET.crop((x, y, x + 128, y + 128)) for x, y in places]
    return [one for one in found if np.asarray(one).std() > 12][:8]


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def half(image: Image.Image) -> Image.Image:
    return image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)


def decibels(one: Image.Image, other: Image.Image) -> float:
    gap = np.asarray(one, float) - np.asarray(other, float)
    return float(10 * np.log10(255**2 / np.square(gap).mean()))


def test_it_survives_what_sharing_does() -> None:
    pictures = [*paintings(), *(Image.open(face).convert("RGB") for face in FACES[:2])]
    assert len(pictures) >= 8
    for picture in pictures:
        marked = embed(picture)
        assert marked.size == picture.size
        assert decibels(picture, marked) > 34
        for damaged in (
            marked,
            jpeg(marked, 75),
            half(marked),
            jpeg(half(marked), 75),
            marked.resize((300, 300)),
        ):
            assert strength(damaged) > SURE, damaged.size
        assert abs(strength(picture)) < 4.5
        assert abs(strength(marked.transpose(Image.Transpose.FLIP_LEFT_RIGHT))) < SURE, (
            "the docstring says that mirroring loses it"
        )


def test_pictures_without_it_have_none() -> None:
    rng = np.random.default_rng(5)
    noise = [Image.fromarray(rng.integers(0, 256, (96, 96, 3), np.uint8)) for _ in range(200)]
    found = np.array([strength(one) for one in noise])
    assert abs(found.mean()) < 0.3
    assert 0.7 < found.std() < 1.3, "SURE is in units of chance"
    assert found.max() < SURE
    assert strength(Image.new("RGB", (64, 64), "teal")) == 0.0
    assert strength(Image.new("RGB", (1, 1))) < SURE


def test_any_size_and_the_same_every_time() -> None:
    picture = paintings()[0]
    assert embed(picture).tobytes() == embed(picture).tobytes()
    for size in ((1, 1), (9, 300), (64, 64), (500, 90)):
        assert embed(picture.resize(size)).size == size
    flat = embed(Image.new("RGB", (128, 128), "grey"))
    assert strength(flat) > SURE
    assert decibels(flat, Image.new("RGB", (128, 128), "grey")) > 40, "no more than needed"


def test_an_absent_mark_keeps_the_keys() -> None:
    """Files that were made before there was one are found again by their key."""
    asked = Request("image", "a lake", EmotionTimeline.parse("awe .5"), 1, "image-tiny")
    assert "watermark" not in job_of(asked, None).request.params
    marked = job_of(asked.changed(params={"watermark": True}), None).request
    assert marked.params["watermark"] is True
    assert ImageParams.parse(marked.params).watermark


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A take with the mark and the same without, by a pipeline of random weights."""
    from pipelines import generate
    from pipelines.painter import Painter
    from tests.tiny import tiny

    out = tmp_path_factory.mktemp("takes")
    painter = Painter(tiny("sd15"), "sd15")
    params = {"width": 128, "height": 128, "steps": 2, "directions": False}
    found = []
    for more in ({"watermark": True}, {}):
        asked = Request(
            "image", "a lake", EmotionTimeline.parse("awe .6"), 3, "sd15", {**params, **more}
        )
        events = list(generate(asked, painter=painter, critic=None, reader=None, out_dir=out))
        found += [one.path for one in events if isinstance(one, Take)]
    return found[0], found[1]


def test_a_take_carries_it_and_verify_finds_it(
    made: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    marked, plain = made
    assert 34 < decibels(Image.open(marked), Image.open(plain)) < 60
    assert Take.read(marked).request.key != Take.read(plain).request.key
    assert examine(marked).watermark.startswith("found (strength ")
    assert examine(plain).watermark.startswith("none found")
    # A site writes it again, smaller and as JPEG, without a word.
    shared = tmp_path / "shared.jpg"
    half(Image.open(marked)).save(shared, quality=75)
    assert run(["verify", str(shared), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["record"] == "none"
    assert "as its watermark says" in told["synthetic"]
    # Somebody keeps the record and paints over the pixels.
    record = Image.open(marked).info["affect"]
    painted = tmp_path / "painted.png"
    painted.write_bytes(encode_image(Image.open(plain), "png", {"affect": record}))
    assert any("made with a watermark" in text for text in examine(painted).problems)


def test_what_cannot_carry_it_is_told(caplog: pytest.LogCaptureFixture) -> None:
    drawing = Image.new("RGB", (200, 200), "white")
    corners = np.random.default_rng(2).integers(0, 200, (14, 3, 2))
    for triangle in corners.tolist():
        ImageDraw.Draw(drawing).polygon([tuple(corner) for corner in triangle], fill="black")
    assert strength(embed(drawing)) < SURE
    assert "cannot carry" in caplog.text
    assert "\n" not in caplog.records[0].getMessage()


def test_a_manifest_and_the_page_offer_it(tmp_path: Path) -> None:
    manifest = tmp_path / "jobs.jsonl"
    manifest.write_text('{"prompt": "a lake", "params": {"watermark": true}}\n')
    assert run(["batch", str(manifest), "--dry-run", "--out", str(tmp_path / "out")]) == 0
    pytest.importorskip("gradio")
    from studio.widgets import knobs

    assert "watermark" in [one.name for one in knobs("image")]
