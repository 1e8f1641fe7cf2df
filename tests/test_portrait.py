"""Portraits from a request to files: sound in time, curves, choosing, stopping, mistakes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import pipelines
from adapters import facs
from adapters.assets import ASSETS
from adapters.emotion import EmotionTimeline
from adapters.face_motion import ARKIT, Motion, to_json, write_csv
from adapters.motion_critic import MotionCritic
from pipelines import BackboneError, Step
from pipelines.media import load_image
from pipelines.media_sound import encode_sound, load_sound
from pipelines.media_video import decode_frames, decode_track
from pipelines.params import ParamError
from pipelines.portrait import PortraitParams, job_of
from pipelines.portrait_maker import contractions
from pipelines.portrait_model import PortraitPipeline
from pipelines.take import Request
from tests.portrait_contracts import (
    STILL,
    curves_of,
    face,
    frames,
    model_of,
    recording,
    request,
    run,
    stopped,
    takes,
)

pytest.importorskip("mediapipe", reason="faces are found by mediapipe (extra: portrait)")

MISTAKES = (ValueError, BackboneError)


@pytest.fixture(scope="module")
def model() -> PortraitPipeline:
    return model_of("portrait-tiny")


# Sound -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [None, 0.6, 2.2])
def test_the_sound_is_the_speech_in_time(
    model: PortraitPipeline, tmp_path: Path, seconds: float | None
) -> None:
    inputs = {"image": face("closed", 160), "audio": recording()}  # few pixels: it is listened to
    take = takes(model, request(seconds=seconds, inputs=inputs), tmp_path)[0]
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
    if seconds == 2.2:
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
        asked = request(emotion, inputs={}, **{"seconds": None, **params})
        assert job_of(asked, pipeline=model).seconds == wanted
    with pytest.raises(ParamError, match=r"seconds: a film lasts 0\.2"):
        job_of(request(inputs={}, seconds=0.1), pipeline=model)


# Curves ------------------------------------------------------------------------------------------


def test_curves_replace_the_model(model: PortraitPipeline, tmp_path: Path) -> None:
    small = face("closed", 160)
    rows = np.zeros((15, len(ARKIT)), np.float32)
    rows[:, ARKIT.index("jawOpen")] = np.linspace(0, 0.8, 15)
    given = Motion(rows, np.zeros((15, 3), np.float32), 30)
    table, text = tmp_path / "in.csv", tmp_path / "in.json"
    write_csv(table, given)
    text.write_text(to_json(given))
    asked = [
        request(emotion, seconds=None, inputs={"image": small, "curves": path})
        for emotion, path in (("neutral", table), ("neutral", text), ("anger 1", table))
    ]
    *made, angry = takes(model, asked, tmp_path)
    for take in made:
        assert np.allclose(curves_of(take).curves, rows, atol=1e-4)
        assert take.reading["motion"]["source"] == "curves"
    # what was made is made again from its own curves
    first = takes(model, request(seconds=0.4, inputs={"image": small}), tmp_path)[0]
    own = next(p for p in first.companions if p.suffix == ".csv")
    asked = request("neutral", seconds=0.4, inputs={"image": small, "curves": own})
    again = takes(model, asked, tmp_path)[0]
    assert np.array_equal(curves_of(first).curves, curves_of(again).curves)
    assert np.array_equal(curves_of(first).pose, curves_of(again).pose)
    assert np.abs(frames(first).astype(int) - frames(again)).mean() < 1  # what the codec costs
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


@pytest.mark.parametrize("stage", ["denoise", "render"])
def test_stop_ends_within_a_step(model: PortraitPipeline, tmp_path: Path, stage: str) -> None:
    stopped(model, request(seconds=None, steps=50 if stage == "denoise" else 2), stage, tmp_path)


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
