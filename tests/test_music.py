"""Music from a request to files, in Python and on the command line, with a tiny random composer."""

from __future__ import annotations

import json
import os
import re
import signal
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import pipelines
from adapters.emotion import EmotionTimeline
from adapters.music_attributes import ATTRIBUTES
from adapters.music_emotion import MusicDirections, MusicEmotionError
from adapters.piece import Piece
from pipelines import BackboneError, Step, ledger
from pipelines.media import read_metadata
from pipelines.media_midi import encode_midi, load_midi
from pipelines.media_records import MediaError
from pipelines.media_sound import encode_sound, load_sound
from pipelines.music import MusicParams, job_of
from pipelines.music_composer import Composer
from pipelines.music_plan import asked_curve, asked_label, plan_of
from pipelines.params import ParamError
from pipelines.selection import candidate_seed
from pipelines.take import Request, Take
from studio.cli import run
from tests.music_contracts import composer_of, differ, notes, request, style_of, takes, tune
from tests.tiny import tiny_composer

FAST = ["--seconds", "5", "--candidates", "1"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_composer(tmp_path_factory.mktemp("weights") / "music")


@pytest.fixture(scope="module")
def composer() -> Composer:
    return composer_of("music-tiny")


@pytest.fixture
def melody(tmp_path: Path) -> Path:
    return tune(tmp_path / "melody.mid")


def files(folder: Path) -> list[Path]:
    """What a run has left in an output folder, besides ledger and lock."""
    kept = (ledger.LEDGER, ".takes.lock")
    return [path for path in folder.rglob("*") if path.is_file() and path.name not in kept]


# What is asked of every bar ------------------------------------------------------------------


def test_bars_fill_the_seconds_and_follow_the_emotion() -> None:
    """Fear is fast, contentment slow: the same timeline gives shorter bars where it is afraid."""
    directions = MusicDirections.load()
    job = job_of(request("0s contentment .9; 20s fear .9", seconds=40.0), loaded=True)
    plan = plan_of(job, directions)
    tempo = plan.targets[:, ATTRIBUTES.index("tempo")]
    assert (4 * 60 / tempo).sum() == pytest.approx(40.0, abs=1e-3)
    loud = plan.targets[:, ATTRIBUTES.index("velocity")]
    assert loud[-1] > loud[0] + 5
    assert tempo[-1] > tempo[0]
    neutral = plan_of(job_of(request("neutral", seconds=40.0), loaded=True), directions)
    same = [i for i, name in enumerate(ATTRIBUTES) if name != "tempo"]
    np.testing.assert_allclose(
        neutral.targets[:, same], np.tile(directions.centre[same], (neutral.bars, 1)), atol=1e-6
    )


def test_pins_hold_whatever_the_emotion() -> None:
    pins = "tempo=72,mode=major,key=F#,meter=3,velocity=90"
    job = job_of(request("sadness .9", attributes=pins, seconds=30.0), loaded=True)
    plan = plan_of(job, MusicDirections.load())
    # 12 bars of 3 beats at 72 are exactly 30 s.
    assert (plan.bars, plan.beats_per_bar, plan.tonic) == (12, 3.0, 6)
    assert plan.targets[:, ATTRIBUTES.index("tempo")] == pytest.approx(72)
    assert plan.targets[:, ATTRIBUTES.index("velocity")] == pytest.approx(90)
    assert (plan.targets[:, ATTRIBUTES.index("mode")] > 0).all()


@pytest.mark.parametrize("seconds", [5.0, 29.0, 30.0, 31.5, 33.0, 60.0])
def test_a_pinned_tempo_is_exact_and_the_last_bar_takes_the_rest(seconds: float) -> None:
    job = job_of(request("fear .9", attributes="tempo=72", seconds=seconds), loaded=True)
    tempo = plan_of(job, MusicDirections.load()).targets[:, ATTRIBUTES.index("tempo")]
    lengths = 240 / tempo
    assert lengths.sum() == pytest.approx(seconds, abs=1e-6)
    assert tempo[:-1] == pytest.approx(72)
    assert 0.75 - 1e-9 <= lengths[-1] / (240 / 72) < 1.75


@pytest.mark.parametrize(
    ("emotion", "seconds", "made"),
    [
        ("awe", None, 30.0),
        ("0s awe .5; 20s fear .5", None, 30.0),
        ("0s awe .5; 50s fear .5", None, 58.0),
        ("0s awe .5; 900s fear .5", None, 600.0),
        ("awe", 12.5, 12.5),
    ],
)
def test_length_is_the_task_s_unless_it_is_given(
    emotion: str, seconds: float | None, made: float
) -> None:
    given = {} if seconds is None else {"seconds": seconds}
    asked = Request("music", "", EmotionTimeline.parse(emotion), 1, "x", given)
    assert job_of(asked, loaded=True).request.params["seconds"] == made


def test_what_was_asked_is_its_mean_over_time() -> None:
    timeline = EmotionTimeline.parse("0s sadness .8; 10s sadness .4")
    label = asked_label(timeline, 20.0)
    assert label.sum() == pytest.approx(1)
    assert 0.4 < label[11] < 0.6, "ten seconds falling, ten at .4"
    curve = asked_curve(timeline, 20.0)
    assert curve.times[-1] == 20.0
    assert curve.valence[0] < curve.valence[-1] < 0
    over = asked_label(EmotionTimeline.parse("sadness 1.4", over=True), 20.0)
    assert over[11] == pytest.approx(1)


def test_candidates_have_seeds_of_their_own() -> None:
    seeds = {candidate_seed(seed, take) for seed in range(50) for take in range(16)}
    assert len(seeds) == 800
    assert candidate_seed(7, 0) == 7
    assert all(0 <= seed < 2**53 for seed in seeds)


# Mistakes are one line and start nothing -----------------------------------------------------


def spoiled(folder: Path) -> dict[str, Path]:
    """Files that are no music, by name."""
    good = tune(folder / "good.mid")
    found = {"good": good, "missing": folder / "missing.mid"}

    def write(name: str, data: bytes) -> None:
        found[name] = folder / f"{name}.mid"
        found[name].write_bytes(data)

    def midi(tracks: int, events: bytes = b"\x00\xff\x2f\x00", division: int = 480) -> bytes:
        chunk = b"MTrk" + struct.pack(">I", len(events)) + events
        return b"MThd" + struct.pack(">IHHH", 6, 1, tracks, division) + chunk * tracks

    write("text", b"not music at all")
    write("cut", good.read_bytes()[:120])
    write("silent", midi(1))
    write("crowd", midi(400))
    one_note = b"\x00\x90\x3c\x40\x60\x80\x3c\x00"
    day = b"\x00\x90\x3c\x40\xff\xff\xff\x7f\x80\x3c\x00\x00\xff\x2f\x00"  # 2**28 ticks
    write("hours", midi(1, day, division=96))
    broken = b"\x00\xff\x58\x04\x00\x09\x18\x08" + one_note + b"\x00\xff\x2f\x00"
    write("metre", midi(1, broken))
    long = Piece.of(np.arange(2400) * 1.0, 1.0, 60, tempo=120)
    write("long", encode_midi(long, {}))
    five = Piece.of(np.arange(20) * 1.0, 1.0, 60, beats_per_bar=5.0)
    write("five", encode_midi(five, {}))
    write("font", b"RIFF\x00\x00\x00\x00WAVE")
    write("hollow", b"RIFF\x04\x00\x00\x00sfbk")
    return found


BAD = {
    "unknown emotion": (["-e", "sadnes .8"], ["sadness"]),
    "over": (["-e", "sadness 1.2"], ["--over"]),
    "too short": (["--seconds", "1"], ["--seconds", "affect make music --help"]),
    "too long": (["--seconds", "6000"], ["--seconds"]),
    "unknown attribute": (["--attributes", "temp=72"], ["tempo"]),
    "attribute out of range": (["--attributes", "tempo=900"], ["tempo", "40"]),
    "attribute without value": (["--attributes", "tempo"], ["name=value"]),
    "bad key": (["--attributes", "key=H"], ["key"]),
    "bad meter": (["--attributes", "meter=5"], ["meter"]),
    "key against mode": (["--attributes", "key=Am,mode=major"], ["mode"]),
    "unknown form": (["--form", "sonata"], ["song", "through"]),
    "steps of a picture": (["--steps", "3"], ["--steps"]),
    "unknown backbone": (["-b", "music-tyni"], ["music-tiny"]),
    "a painter": (["-b", "image-tiny"], ["not music"]),
    "best-of under n": (["--n", "4", "--best-of", "2"], ["best"]),
    "no file": (["--continue", "{missing}"], ["missing.mid"]),
    "no MIDI": (["--continue", "{text}"], ["text.mid", "no MIDI"]),
    "cut short": (["--recolour", "{cut}"], ["cut.mid"]),
    "no notes": (["--recolour", "{silent}"], ["silent.mid"]),
    "400 tracks": (["--recolour", "{crowd}"], ["crowd.mid", "256", "400"]),
    "10 hours": (["--recolour", "{hours}"], ["hours.mid", "hour"]),
    "two tasks": (["--continue", "{good}", "--recolour", "{good}"], ["--continue", "--recolour"]),
    "too long to go on": (["--continue", "{long}"], ["1200 s"]),
    "five beats": (["--continue", "{five}"], ["--recolour"]),
    "shorter than the file": (["--continue", "{good}", "--seconds", "5"], ["seconds", "10 s"]),
    "length of a recoloured": (["--recolour", "{good}", "--seconds", "9"], ["--seconds"]),
    "key of a recoloured": (["--recolour", "{good}", "--attributes", "key=C"], ["key", "mode"]),
    "meter of a recoloured": (["--recolour", "{good}", "--attributes", "meter=3"], ["meter"]),
    "what cannot be replayed": (
        ["--recolour", "{good}", "--attributes", "dissonance=.2"],
        ["dissonance", "velocity"],
    ),
    "transfer alone": (["--transfer", "rhythm"], ["--from", "--onto"]),
    "transfer without from": (["--transfer", "rhythm", "--onto", "{good}"], ["--from"]),
    "transfer without onto": (["--transfer", "rhythm", "--from", "{good}"], ["--onto"]),
    "files without transfer": (["--from", "{good}", "--onto", "{good}"], ["--transfer"]),
    "unknown element": (
        ["--transfer", "rythm", "--from", "{good}", "--onto", "{good}"],
        ["rythm", "rhythm"],
    ),
    "no soundfont": (["--soundfont", "{font}"], [".sf2"]),
    # Whether no library is here to play it or one refuses it: before anything is composed.
    "unplayable soundfont": (["--soundfont", "{hollow}"], ["soundfont"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_starts_nothing(
    case: str, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given, words = BAD[case]
    bad = {name: str(path) for name, path in spoiled(tmp_path).items()}
    out = tmp_path / "out"
    defaults = ["-b", str(weights)] if "-b" not in given else []
    code = run(["make", "music", *defaults, "--out", str(out), *(x.format(**bad) for x in given)])
    said = capsys.readouterr()
    assert (code, said.out) == (2, "")
    lines = said.err.splitlines()
    assert len(lines) == 1, lines
    for word in words:
        assert word in lines[0]
    assert not files(out)


def test_weights_that_are_not_here_are_told_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    assert run(["make", "music", "-b", str(plain), "--out", str(tmp_path / "out")]) == 2
    assert "controls.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"seconds": 0.5}, ParamError, "2 to 600"),
        ({"tempo": 3}, ParamError, "not known"),
        ({"attributes": "colour=red"}, MusicEmotionError, "not known"),
        ({"inputs": {"init": Path(__file__)}}, ParamError, "music takes continue"),
        ({"inputs": {"recolour": Path(__file__)}}, MediaError, "MIDI"),
    ],
)
def test_python_is_told_the_same(change: dict, error: type, says: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=says):
        pipelines.generate(request(backbone="music-tiny", **change), out_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_model_is_a_backbone_error(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match="controls"):
        pipelines.generate(request(backbone=str(tmp_path)), out_dir=tmp_path / "out")


# Composing, choosing, stopping ---------------------------------------------------------------


def test_length_is_exact_in_notes_and_sound(composer: Composer, tmp_path: Path) -> None:
    take = takes(composer, request(seconds=7.3, candidates=1), tmp_path)[0]
    assert load_midi(take.path).seconds == pytest.approx(7.3, abs=2e-3)
    sound = load_sound(take.path.with_suffix(".wav"))
    assert sound.waveform.shape == (2, round(7.3 * 44100))
    assert 0.01 < np.abs(sound.waveform).max() <= 1.0


def test_a_reading_tells_what_was_asked_and_found(composer: Composer, tmp_path: Path) -> None:
    asked = request("0s contentment .5; 4s fear .9", seconds=8.0)
    take = takes(composer, asked, tmp_path)[0]
    reading = take.reading
    assert sum(reading["asked"].values()) == pytest.approx(1, abs=1e-3)
    assert reading["asked"]["fear"] > 0.3 < reading["asked"]["contentment"] + 0.3
    assert reading["critic"]["reader"] == "critic-music"
    assert set(reading["attributes"]["asked"]) == set(ATTRIBUTES)
    assert set(reading["attributes"]["measured"]) == set(ATTRIBUTES)
    curve, bars = reading["curve"], reading["piece"]["bars"]
    assert len(curve["times"]) == len(curve["asked"]["valence"]) == bars
    assert curve["asked"]["valence"][0] > 0 > curve["asked"]["valence"][-1]
    assert len(curve["critic-music"]["arousal"]) == bars
    assert take.chosen["of"] == 2


def test_both_readers_are_told_apart(composer: Composer, tmp_path: Path) -> None:
    take = takes(composer, request(), tmp_path, reader="auto")[0]
    assert take.reading["reader"]["reader"] == "reader-music"
    assert set(take.reading["curve"]) == {"times", "asked", "critic-music", "reader-music"}


def test_the_critic_s_best_candidate_is_kept(composer: Composer, tmp_path: Path) -> None:
    many = takes(composer, request(candidates=4), tmp_path / "many")[0]
    one = takes(composer, request(candidates=1), tmp_path / "one")[0]
    assert many.chosen["score"] >= many.chosen["mean_score"]
    assert one.chosen is None
    assert many.request.seed == one.request.seed == 7, "candidates are part of one request"


def test_best_of_keeps_the_winning_seeds(composer: Composer, tmp_path: Path) -> None:
    asked = [Request("music", "", EmotionTimeline.parse("fear .9"), seed, "tiny", {"seconds": 5.0})
             for seed in (3, 4)]  # fmt: skip
    found = takes(composer, asked, tmp_path / "search", best_of=5)
    assert [take.chosen["rank"] for take in found] == [1, 2]
    assert found[0].chosen["score"] >= found[1].chosen["score"] >= found[1].chosen["mean_score"]
    assert {take.request.seed for take in found} <= set(range(3, 8))
    again = takes(composer, found[0].request, tmp_path / "again")[0]
    assert not differ(again, found[0]), "made again without a search"
    assert again.request.params["candidates"] == 1


def test_without_a_critic_nothing_is_chosen(composer: Composer, tmp_path: Path) -> None:
    take = takes(composer, request(), tmp_path, critic=None)[0]
    assert take.chosen is None
    assert take.reading["critic"] is None
    with pytest.raises(ParamError, match="critic"):
        takes(composer, request(), tmp_path, critic=None, best_of=2)


def test_a_style_is_worn_for_its_takes_alone(composer: Composer, tmp_path: Path) -> None:
    style = style_of(composer, tmp_path / "style")
    asked = [
        request("sadness .5", seconds=6.0, candidates=1, **given)
        for given in ({}, {"lora": style}, {"lora": style, "lora_weight": 0.0})
    ]
    plain, styled, off = (
        take
        for take in pipelines.generate(asked, out_dir=tmp_path, composer=composer, reader=None)
        if isinstance(take, Take)
    )
    assert load_midi(plain.path).pitch.tolist() != load_midi(styled.path).pitch.tolist()
    assert load_midi(plain.path).pitch.tolist() == load_midi(off.path).pitch.tolist()
    assert plain.request.weights == composer.weights
    assert styled.request.weights.startswith(f"{composer.weights}+")


def test_a_folder_that_is_no_style_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="lora: ") as told:
        job_of(request("sadness .5", lora=str(tmp_path)), loaded=True)
    assert "\n" not in str(told.value)


def test_steps_tell_where_the_work_stands(composer: Composer, tmp_path: Path) -> None:
    events = list(
        pipelines.generate(
            [request(), request(seed=8)], composer=composer, out_dir=tmp_path, reader=None
        )
    )
    steps = [event for event in events if isinstance(event, Step)]
    stages = [step.stage for step in steps]
    assert stages[0] == "load"
    assert {"compose", "render", "read"} <= set(stages)
    at = [step.index for step in steps]
    assert at == sorted(at)
    assert at[-1] <= steps[-1].total
    assert any(step.eta is not None for step in steps)
    assert sum(isinstance(event, Take) for event in events) == 2


def test_what_was_not_made_is_in_the_ledger(composer: Composer, tmp_path: Path) -> None:
    def fail(*_: object) -> None:
        msg = "planted"
        raise RuntimeError(msg)

    hook = composer.model.register_forward_hook(fail)
    try:
        with pytest.raises(RuntimeError, match="planted"):
            takes(composer, [request(), request(seed=8)], tmp_path)
    finally:
        hook.remove()
    lines = list(ledger.read(tmp_path))
    assert [line["status"] for line in lines] == ["failed", "failed"]


# Files that are given ------------------------------------------------------------------------


def test_continuing_keeps_the_opening(composer: Composer, melody: Path, tmp_path: Path) -> None:
    asked = request("happiness .7", inputs={"continue": melody}, candidates=1)
    take = takes(composer, asked, tmp_path / "out")[0]
    lead, piece = load_midi(melody), load_midi(take.path)
    opening = piece.between(0, lead.bars)
    np.testing.assert_allclose(notes(opening), notes(lead), atol=2e-3)
    assert piece.bars == lead.bars + 16
    assert piece.tempo[-1, 1] == pytest.approx(lead.tempo[0, 1], rel=1e-3)
    assert len(piece.between(lead.bars, piece.bars)) > 0
    assert read_metadata(take.path)["digital_source"].endswith(
        "compositeWithTrainedAlgorithmicMedia"
    )
    longer = request("happiness .7", inputs={"continue": melody}, candidates=1, seconds=20.0)
    assert load_midi(takes(composer, longer, tmp_path / "out")[0].path).seconds == pytest.approx(
        20.0, abs=2e-3
    )


def test_recolouring_changes_the_mood_not_the_melody(
    composer: Composer, melody: Path, tmp_path: Path
) -> None:
    sad, glad = (
        takes(composer, request(text, inputs={"recolour": melody}), tmp_path)[0]
        for text in ("sadness .9", "happiness .9")
    )
    before, after = load_midi(melody), load_midi(sad.path)
    assert len(after) == len(before)
    # pipelines.music_edit follows register by the mean: the melody's rhythm is what stays
    np.testing.assert_allclose(after.onset, before.onset, atol=0.02)
    measured = [take.reading["attributes"]["measured"] for take in (sad, glad)]
    assert measured[0]["velocity"] < measured[1]["velocity"]
    assert measured[0]["mode"] < measured[1]["mode"]
    assert measured[0]["tempo"] < measured[1]["tempo"]
    assert sad.chosen is None


def test_a_file_too_long_to_play_again_is_one_line(tmp_path: Path) -> None:
    long = tmp_path / "long.mid"
    piece = Piece.of(np.arange(0, 2400, 4.0), 2.0, 60, tempo=100.0)
    long.write_bytes(encode_midi(piece, {}))
    with pytest.raises(ParamError, match="24 minutes, allowed are 20; cut it"):
        job_of(request("sadness .5", inputs={"recolour": long}), loaded=True)


def test_a_pin_beyond_the_composer_is_told(composer: Composer, tmp_path: Path) -> None:
    asked = request("neutral", seconds=4.0, candidates=1, attributes="velocity=120")
    take = takes(composer, [asked], tmp_path)[0]
    assert any("velocity=120 is beyond" in note for note in take.reading["notes"])


def test_recolouring_needs_no_model(melody: Path, tmp_path: Path) -> None:
    """On a machine without a composer's weights; the directions are shipped."""
    asked = request("sadness .9", inputs={"recolour": melody}, backbone=str(tmp_path))
    found = [
        event
        for event in pipelines.generate(asked, out_dir=tmp_path / "out", reader=None)
        if isinstance(event, Take)
    ]
    assert len(found) == 1
    assert found[0].request.weights


def test_elements_move_between_files(composer: Composer, tmp_path: Path) -> None:
    a, b = tune(tmp_path / "a.mid", tempo=160), tune(tmp_path / "b.mid", tonic=48, tempo=70)
    asked = request("neutral", inputs={"from": a, "onto": b}, transfer="tempo, velocity")
    take = takes(composer, asked, tmp_path / "out")[0]
    piece = load_midi(take.path)
    assert piece.tempo[0, 1] == pytest.approx(160, rel=1e-3)
    np.testing.assert_array_equal(piece.pitch, load_midi(b).pitch)
    assert take.reading["attributes"]["asked"] is None
    assert take.request.weights == ""


# The command line ----------------------------------------------------------------------------


def test_make_prints_the_notes_and_writes_three_files(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["make", "music", "-e", "sadness .8", "--seed", "7", "--title", "Rain at night"]
    assert run([*arguments, *FAST, "-b", str(weights), "--out", str(tmp_path)]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    made = Path(line)
    assert made.suffix == ".mid"
    assert made.stem.endswith("sadness-rain-at-night")
    assert {path.suffix for path in files(tmp_path)} == {".mid", ".wav", ".png"}
    for path in files(tmp_path):
        assert run(["show", str(path)]) == 0
        said = capsys.readouterr().out
        assert "sadness 0.8" in said
        assert "Rain at night" in said


def test_make_json_names_everything(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["make", "music", "-e", "v=.6 a=-.4", "--attributes", "tempo=72,mode=major"]
    assert run([*arguments, *FAST, "-b", str(weights), "--out", str(tmp_path), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["request"]["params"]["attributes"] == "tempo=72,mode=major"
    assert [Path(path).suffix for path in data["companions"]] == [".wav", ".png"]
    piece = load_midi(Path(data["path"]))
    assert piece.seconds == pytest.approx(5, abs=1e-2)
    assert data["reading"]["piece"]["bars"] == piece.bars


@pytest.mark.parametrize("suffix", [".mid", ".wav", ".png"])
def test_remake_from_any_of_the_three(
    suffix: str, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["make", "music", "-e", "awe .7", "--seed", "5", *FAST, "-b", str(weights)]
    assert run([*arguments, "--out", str(tmp_path / "a")]) == 0
    made = Path(capsys.readouterr().out.strip())
    moved = tmp_path / f"elsewhere{suffix}"
    made.with_suffix(suffix).rename(moved)
    assert run(["remake", str(moved), "--out", str(tmp_path / "b")]) == 0
    again = Path(capsys.readouterr().out.strip())
    assert again.suffix == ".mid"
    assert again.with_suffix(suffix).read_bytes() == moved.read_bytes()
    changes = ["--seed", "8", "-e", "0s awe .7; 3s fear .4", "--seconds", "6"]
    assert run(["remake", str(moved), *changes, "--out", str(tmp_path / "c")]) == 0
    other = Take.read(Path(capsys.readouterr().out.strip())).request
    assert (other.seed, other.params["seconds"]) == (8, 6.0)
    assert not other.emotion.is_constant


def test_remake_refuses_what_music_has_no_use_for(
    melody: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = ["make", "music", "--recolour", str(melody), "-e", "fear", "--out", str(tmp_path / "a")]
    assert run(made) == 0
    take = capsys.readouterr().out.strip()
    for strange, word in ((["--steps", "4"], "steps"), (["--format", "jpg"], "format"),
                          (["--init", take], "init")):  # fmt: skip
        assert run(["remake", take, *strange, "--out", str(tmp_path / "b")]) == 2
        said = capsys.readouterr().err
        assert word in said
        assert said.count("\n") == 1
    melody.unlink()
    assert run(["remake", take, "--out", str(tmp_path / "b")]) == 2
    assert "recolour" in capsys.readouterr().err


def test_files_are_played_again_and_their_elements_moved(
    melody: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "out")]
    assert run(["make", "music", "--recolour", str(melody), "-e", "sadness .9", *out]) == 0
    moved = ["--transfer", "rhythm,velocity", "--from", str(melody), "--onto", str(melody)]
    assert run(["make", "music", *moved, *out]) == 0
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 2
    assert "notice" not in said.err, "notes show nobody"


def test_grid_is_one_seed_and_a_sheet_of_rolls(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["grid", "music", "--emotions", "happiness,sadness", "--levels", "2", "--seed", "4"]
    assert run([*arguments, *FAST, "-b", str(weights), "--out", str(tmp_path)]) == 0
    *paths, sheet = capsys.readouterr().out.splitlines()
    found = [Take.read(Path(path)) for path in paths]
    assert len(found) == 5
    assert {take.request.seed for take in found} == {4}
    assert all(Path(path).with_suffix(".wav").is_file() for path in paths)
    about = read_metadata(Path(sheet))
    assert about["affect"]["emotions"] == ["happiness", "sadness"]
    assert about["digital_source"].endswith("trainedAlgorithmicMedia")
    assert Path(sheet).parent == Path(paths[0]).parent


def test_score_reads_notes_by_both_and_sound_by_one(
    melody: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["score", str(melody), "--json"]) == 0, "notes are nobody's voice"
    said = capsys.readouterr()
    data = json.loads(said.out)
    assert list(data["reading"]) == ["critic-music", "reader-music"]
    assert data["attributes"]["tempo"] == pytest.approx(100)
    assert data["made_here"] is False
    assert len(data["gap"]) == 12
    assert "notice" not in said.err

    made = ["make", "music", "--recolour", str(melody), "-e", "fear", "--out", str(tmp_path / "a")]
    assert run(made) == 0
    wav = Path(capsys.readouterr().out.strip()).with_suffix(".wav")
    assert run(["score", str(wav), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert list(data["reading"]) == ["critic-music", "reader-music"], "its notes lie beside it"
    wav.with_suffix(".mid").unlink()
    assert run(["score", str(wav)]) == 0
    assert "critic-music" not in capsys.readouterr().out


def test_a_roll_is_no_picture_to_score(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = ["make", "music", "-b", str(weights), "-o", str(tmp_path), *FAST]
    assert run(made) == 0
    roll = next(tmp_path.rglob("*.png"))
    assert run(["score", str(roll)]) == 2
    assert "score the .mid or .wav beside it" in capsys.readouterr().err


def test_a_strange_sound_may_be_a_voice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    voice = tmp_path / "voice.wav"
    time_ = np.arange(44100 * 3) / 44100
    pulses = np.sin(2 * np.pi * 220 * time_) * (np.sin(2 * np.pi * 2 * time_) > 0) * 0.5
    voice.write_bytes(encode_sound(pulses, 44100, {}))
    assert run(["score", str(voice)]) == 2
    said = capsys.readouterr()
    assert "--real-media" in said.err
    assert said.err.count("\n") == 1
    assert run(["score", str(voice), "--real-media"]) == 0
    said = capsys.readouterr()
    assert "Art. 50(3)" in said.err
    assert "voice" in said.err
    assert "reader-voice" in said.out, "taken for speech unless told"
    assert run(["score", str(voice), "--real-media", "--modality", "music"]) == 0
    assert "reader-music" in capsys.readouterr().out


def test_a_page_plays_the_music_of_a_folder(
    melody: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(["make", "music", "--recolour", str(melody), "-e", "fear", "--out", str(out)]) == 0
    capsys.readouterr()
    assert run(["page", str(out)]) == 0
    page = Path(capsys.readouterr().out.strip())
    text = page.read_text(encoding="utf-8")
    assert text.count("<article") == 1, "one card for the three files of a take"
    (sound,) = re.findall(r'<audio[^>]* src="([^"]+)"', text)
    assert (page.parent / sound).is_file()
    assert "media-src 'self'" in text


@contextmanager
def after_one_take(out: Path, act: object) -> Iterator[None]:
    """Call `act` from another thread once a take is in `out`: in the middle of the work."""
    running = threading.Event()
    running.set()

    def wait() -> None:
        while running.is_set() and not list(out.rglob("*.mid")):
            time.sleep(0.005)
        if running.is_set():
            act()  # type: ignore[operator]

    watcher = threading.Thread(target=wait)
    watcher.start()
    try:
        yield
    finally:
        running.clear()
        watcher.join()


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT is POSIX")
def test_ctrl_c_is_130_and_leaves_whole_takes(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["make", "music", *FAST, "--n", "40", "-b", str(weights), "--out", str(out)]
    with after_one_take(out, lambda: os.kill(os.getpid(), signal.SIGINT)):
        code = run(arguments)
    said = capsys.readouterr()
    assert code == 130, said.err
    finished = said.out.splitlines()
    assert len(finished) < 40
    for path in files(out):
        Take.read(path)  # whole files only, nothing temporary
    assert not [t for t in threading.enumerate() if t.name == "affect-compose"]


def test_help_loads_nothing_heavy() -> None:
    import subprocess

    code = (
        "import contextlib, io, sys\n"
        "from studio.cli import run\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n"
        "    run(['make', 'music', '--help']); run(['grid', 'music', '--help'])\n"
        "heavy = ('torch', 'transformers', 'diffusers', 'miditok', 'symusic', 'PIL')\n"
        "sys.exit(str([m for m in heavy if m in sys.modules]) if "
        "any(m in sys.modules for m in heavy[:5]) else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_defaults_are_those_of_the_table() -> None:
    params = MusicParams()
    assert (params.seconds, params.candidates, params.temperature) == (None, 2, 1.0)
