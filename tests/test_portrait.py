"""Portraits from a request to files: pictures of any kind, sound in time, driving, mistakes."""

from __future__ import annotations

import threading
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import pipelines
from adapters import facs
from adapters.assets import ASSETS
from adapters.emotion import EmotionTimeline
from adapters.face_motion import ARKIT, MOUTH, Motion, to_json, write_csv
from adapters.motion_critic import MotionCritic
from pipelines import BackboneError, Step
from pipelines.media import MediaError, load_image
from pipelines.media_sound import encode_sound, load_sound
from pipelines.media_video import decode_frames, decode_track, encode_video, label_video
from pipelines.params import ParamError
from pipelines.portrait import PortraitParams, job_of
from pipelines.portrait_drive import read_clip
from pipelines.portrait_maker import contractions
from pipelines.portrait_model import PortraitPipeline
from pipelines.portrait_photo import places, read_photo
from pipelines.take import Request, Take
from tests.portrait_contracts import (
    STILL,
    curves_of,
    face,
    folder,
    frames,
    model_of,
    recording,
    request,
    run,
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
        wall = Image.new("RGB", (3000, 2000), (90, 110, 120))
        wall.paste(image.resize((900, 900)), (1000, 500))
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


# Pictures ----------------------------------------------------------------------------------------


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
    assert any("3000x2000 px are scaled" in note for note in film.reading["notes"])
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
    of_time = {
        at: takes(model, of(face(), course, still=True, seconds=at), tmp_path)[0]
        for at in (0.0, 2.0, 4.0)
    }
    peak = takes(model, of(face(), course, still=True), tmp_path)[0]
    assert not curves_of(of_time[0.0]).curves.any()
    assert (curves_of(peak).curves == curves_of(of_time[2.0]).curves).all()
    smile = curves_of(of_time[4.0]).channel("mouthSmileLeft")
    assert smile > 0.2 > curves_of(peak).channel("mouthSmileLeft")


# Sound -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [None, 0.6, 2.6])
def test_the_sound_is_the_speech_in_time(
    model: PortraitPipeline, tmp_path: Path, seconds: float | None
) -> None:
    take = takes(model, request(seconds=seconds), tmp_path)[0]
    said, heard = load_sound(recording()), decode_track(take.path)
    assert heard is not None
    assert heard.sample_rate == said.sample_rate
    length = seconds or said.seconds
    assert take.reading["motion"]["seconds"] == pytest.approx(length, abs=0.02)
    assert heard.seconds == pytest.approx(length, abs=0.07)
    count = min(said.waveform.shape[1], heard.waveform.shape[1], round(length * 16000))
    a, b = said.waveform[0, :count], heard.waveform[0, :count]
    lags = range(-400, 401, 4)
    match = [float(a[400:-400] @ b[400 + lag : count - 400 + lag]) for lag in lags]
    assert abs(lags[int(np.argmax(match))]) <= 16  # one thousandth of a second
    assert np.corrcoef(a, b)[0, 1] > 0.95
    if seconds == 2.6:
        assert np.abs(heard.waveform[0, round(2.0 * 16000) :]).max() < 0.01
        assert "then it is silent" in take.reading["notes"][0]


def test_sound_without_speech_leaves_the_lips_alone(
    model: PortraitPipeline, tmp_path: Path
) -> None:
    path = tmp_path / "rain.wav"
    rain = 0.1 * np.random.default_rng(0).normal(size=(2, 44_100))
    path.write_bytes(encode_sound(rain, 44_100, {}))
    rained = takes(model, request(inputs={"audio": path}), tmp_path)[0]
    mute = takes(model, request(inputs={}), tmp_path)[0]
    assert "nobody speaks" in rained.reading["notes"][0]
    assert np.allclose(curves_of(rained).curves, curves_of(mute).curves, atol=1e-4)
    assert decode_track(rained.path) is not None
    assert decode_track(mute.path) is None


def test_lengths(model: PortraitPipeline) -> None:
    for emotion, params, wanted in (
        ("anger", {}, 5.0), ("0s neutral; 9s awe", {}, 10.0),
        ("0s awe; 9s fear", {"seconds": 2}, 2.0),
    ):  # fmt: skip
        given = {"seconds": None, **params}
        assert job_of(of(face(), emotion, **given), pipeline=model).seconds == wanted
    with pytest.raises(ParamError, match=r"seconds: a film lasts 0\.2"):
        job_of(of(face(), seconds=0.1), pipeline=model)


# Curves ------------------------------------------------------------------------------------------


def test_curves_replace_the_model(model: PortraitPipeline, tmp_path: Path) -> None:
    rows = np.zeros((15, len(ARKIT)), np.float32)
    rows[:, ARKIT.index("jawOpen")] = np.linspace(0, 0.8, 15)
    given = Motion(rows, np.zeros((15, 3), np.float32), 30)
    table, text = tmp_path / "in.csv", tmp_path / "in.json"
    write_csv(table, given)
    text.write_text(to_json(given))
    made = [
        takes(model, request("neutral", seconds=None, inputs={"curves": p}), tmp_path)[0]
        for p in (table, text)
    ]
    for take in made:
        assert np.allclose(curves_of(take).curves, rows, atol=1e-4)
        assert take.reading["motion"]["source"] == "curves"
    # what was made is made again from its own curves
    first = takes(model, request(seconds=0.4), tmp_path)[0]
    own = next(p for p in first.companions if p.suffix == ".csv")
    again = takes(model, request("neutral", seconds=0.4, inputs={"curves": own}), tmp_path)[0]
    assert np.array_equal(curves_of(first).curves, curves_of(again).curves)
    assert np.array_equal(curves_of(first).pose, curves_of(again).pose)
    assert np.abs(frames(first).astype(int) - frames(again)).mean() < 1  # what the codec costs
    angry = takes(model, request("anger 1", inputs={"curves": table}), tmp_path)[0]
    assert curves_of(angry).channel("browDownLeft").max() > 0.4
    assert np.allclose(
        curves_of(angry).channel("jawOpen")[:3], rows[:3, ARKIT.index("jawOpen")], atol=0.1
    )


def test_contempt_has_a_face_of_its_own() -> None:
    right, anger = facs.units().index("R14"), facs.units().index("4")
    for text, share in (("contempt .8", 0.8), ("sadness .5 + contempt .3", 0.3)):
        timeline = EmotionTimeline.parse(text)
        rows = contractions(timeline.sample([0.0]), timeline.residuals([0.0]))[0]
        assert rows[right] == pytest.approx(facs.named("contempt", share)[right], abs=1e-3)
    assert rows[anger] == pytest.approx(facs.muscles(0.5 * np.eye(12)[10])[0, anger], abs=1e-3)
    plain = EmotionTimeline.parse("anger .5 + disgust .2")
    a, r = plain.sample([0.0]), plain.residuals([0.0])
    assert np.allclose(contractions(a, r), facs.muscles(a, r))


# Driving films -----------------------------------------------------------------------------------


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
    told = {"jawOpen": 0.85, "browOuterUpLeft": 0.85, "browInnerUp": 0.6, "eyeBlinkRight": 0.85}
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
    plain, glad, said = (
        takes(model, request(emotion, seconds=None, inputs=inputs), tmp_path)[0]
        for emotion, inputs in (
            ("neutral", {"drive": path}), ("happiness .8", {"drive": path}),
            ("neutral", {"drive": path, "audio": recording()}),
        )
    )  # fmt: skip
    assert plain.reading["motion"]["source"] == "drive"
    assert np.allclose(curves_of(plain).curves, read_clip(path).curves, atol=1e-4)
    lift = curves_of(glad).channel("mouthSmileLeft") - curves_of(plain).channel("mouthSmileLeft")
    assert lift.mean() > 0.15
    assert decode_track(plain.path) is not None  # the film's own sound
    words = list(MOUTH)
    assert np.abs(curves_of(said).curves[:, words] - curves_of(plain).curves[:, words]).max() > 0.1
    still = takes(
        model, request("neutral", inputs={"drive": path}, head=0, lips=0, blink=0), tmp_path
    )
    flat = curves_of(still[0])
    assert not flat.pose.any()
    assert not flat.curves[:, words].any()
    assert not flat.channel("eyeBlinkLeft").any()


def test_films_without_a_face_are_told(model: PortraitPipeline, tmp_path: Path) -> None:
    path = tmp_path / "wall.mp4"
    wall = [np.full((48, 64, 3), 5 * k, np.uint8) for k in range(6)]
    path.write_bytes(label_video(encode_video(wall, 30), {}))
    with pytest.raises(ValueError, match="drive: no face found") as caught:
        run(model, request(inputs={"drive": path}), tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
    with pytest.raises(MediaError, match="no MP4"):
        run(model, request(inputs={"drive": face()}), tmp_path / "out")


# Choosing, stopping, mistakes --------------------------------------------------------------------


def test_the_critic_keeps_the_best(model: PortraitPipeline, tmp_path: Path) -> None:
    torch.manual_seed(0)
    critic = MotionCritic()
    made = takes(model, request("anger .8"), tmp_path, critic=critic, best_of=3)
    assert made[0].chosen["of"] == 3
    assert made[0].reading["critic"]["reader"] == critic.name
    again = takes(model, made[0].request, tmp_path, critic=critic)[0]
    assert np.array_equal(frames(again), frames(made[0]))
    tried = takes(model, request("anger .8", candidates=3), tmp_path, critic=critic)[0]
    assert tried.chosen["of"] == 3
    assert tried.reading["curve"][critic.name]["valence"]
    # stills and given curves do not differ by seed: nothing is tried twice
    still = takes(model, request("anger .8", still=True, candidates=3), tmp_path, critic=critic)[0]
    assert still.chosen is None


@pytest.mark.parametrize("stage", ["denoise", "render", "analyse"])
def test_stop_ends_within_a_step(model: PortraitPipeline, tmp_path: Path, stage: str) -> None:
    inputs = {"drive": driver()[0]} if stage == "analyse" else None
    asked = request(seconds=None, inputs=inputs, **({"steps": 50} if stage == "denoise" else {}))
    events = pipelines.generate(
        asked, pipeline=model, out_dir=tmp_path, critic=None, reader=None, batch_size=2
    )
    seen = 0
    for event in events:
        assert isinstance(event, Step)
        assert 0 <= event.index <= event.total
        seen += event.stage == stage
        if seen == 3:
            break
    events.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "affect-portrait"]
    assert {p.name for p in tmp_path.rglob("*.*")} <= {"takes.jsonl", ".takes.lock"}


def test_steps_show_where_the_work_stands(model: PortraitPipeline, tmp_path: Path) -> None:
    events = run(model, request(), tmp_path)
    steps = [event for event in events if isinstance(event, Step)]
    done = [step.index for step in steps]
    assert done == sorted(done)
    assert done[-1] >= 0.9 * steps[-1].total
    stages = list(dict.fromkeys(step.stage for step in steps))
    assert stages == ["load", "analyse", "denoise", "render", "read"]
    assert any(step.preview is not None for step in steps)


@pytest.mark.parametrize(
    ("params", "inputs", "told"),
    [
        ({"fps": 27}, None, "25 and 30"),
        ({"lora": "nowhere"}, None, "pytorch_lora_weights"),
        ({}, {"init": 0}, "a portrait takes image"),
        ({}, {"curves": 0, "drive": 0}, "either --curves-in or --drive"),
        ({"lips": 2.0}, {"curves": 0}, "the curves replace"),
        ({"seconds": 3.0}, {"curves": 0}, "curves last 1.00"),
        ({"still": True}, {"drive": 0}, "leave --drive or --still out"),
        ({"seconds": 1300.0}, None, "allowed 0 to 1200"),
        ({"size": 2000}, None, "256 to 1024"),
    ],
)
def test_mistakes_are_one_line_and_start_nothing(
    model: PortraitPipeline, tmp_path: Path, params: dict, inputs: dict | None, told: str
) -> None:
    path = tmp_path / "c.json"
    path.write_text(to_json(Motion.neutral(30)))
    given = None if inputs is None else dict.fromkeys(inputs, path)
    with pytest.raises(MISTAKES, match=told) as caught:
        run(model, request(inputs=given, **params), tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_other_mistakes(model: PortraitPipeline, tmp_path: Path) -> None:
    timeline = EmotionTimeline.parse("anger")
    for name, inputs, told in (
        ("image-tiny", {"image": face()}, "makes image"),
        (str(tmp_path), {"image": face()}, "model_index"),
        ("tiny", {}, "picture with a face"),
    ):
        asked = Request("portrait", "", timeline, 1, name, {}, inputs=inputs)
        given = model if name == "tiny" else None
        with pytest.raises(MISTAKES, match=told):
            pipelines.generate(asked, out_dir=tmp_path / "out", pipeline=given)
    for options, told in (
        ({"best_of": 0}, "best_of"), ({"best_of": 2, "critic": None}, "critic"),
        ({"batch_size": 0}, "batch_size"), ({"ext": "gif"}, "mp4"),
    ):  # fmt: skip
        with pytest.raises(ParamError, match=told):
            pipelines.generate(request(), out_dir=tmp_path / "out", pipeline=model, **options)
    assert not (tmp_path / "out").exists()


def test_what_a_take_says(model: PortraitPipeline, tmp_path: Path) -> None:
    shipped = {"audio": ASSETS / "samples" / "speech.wav"}
    asked = request("anger .7", inputs=shipped).changed(
        inputs={"image": ASSETS / "samples" / "faces" / "closed.jpg", **shipped}
    )
    mine = request("anger .7", inputs={"consent": recording()})
    first, second, third = takes(model, [asked, mine, request(**STILL)], tmp_path)
    assert [t.reading["consent"] for t in (first, second, third)] == [
        "not needed", "given", "not stated",
    ]  # fmt: skip
    assert first.reading["asked"]["anger"] == pytest.approx(0.7, abs=1e-3)
    assert first.reading["motion"]["fps"] == 30
    assert first.reading["critic"] is None
    assert set(first.request.params) == set(PortraitParams().to_json())
    driven = request("awe", inputs={"drive": first.path}).changed(
        inputs={"image": ASSETS / "samples" / "faces" / "dark.jpg", "drive": first.path}
    )
    assert takes(model, driven, tmp_path)[0].reading["consent"] == "not needed"


def test_seen_from_outside_only_the_face_moves(model: PortraitPipeline, tmp_path: Path) -> None:
    take = takes(model, request("surprise 1", seconds=0.4), tmp_path)[0]
    rest = np.asarray(load_image(face())).astype(int)
    moved = np.abs(next(reversed([f for _, f in decode_frames(take.path)])).astype(int) - rest)
    assert moved[:, :8].mean() < 3  # beyond the box: what the codec costs
    assert moved[100:240, 90:230].max() > 40
