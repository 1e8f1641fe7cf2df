"""Voices from a request to files: any form of sound in and out, lengths, choosing, mistakes."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

import pipelines
from adapters.assets import ASSETS
from adapters.voice_analysis import RATE, analyse
from adapters.voice_cues import cues
from pipelines import Step
from pipelines.media_sound import encode_sound, load_sound
from pipelines.params import ParamError
from pipelines.selection import candidate_seed
from pipelines.take import Take
from pipelines.voice import LOCKS, STRETCH, VoiceParams, clipping, job_of
from pipelines.voice_model import ADAPTER, VoicePipeline
from pipelines.voice_model import LOCKS as MODEL_LOCKS
from pipelines.voice_render import STRETCH as RENDERED_STRETCH
from pipelines.voice_session import is_neutral
from tests import speech
from tests.mel_voice import tiny_mel
from tests.voice_contracts import CALM, model_of, recording, request, run, samples, takes


@pytest.fixture(scope="module")
def model() -> VoicePipeline:
    return model_of("voice-tiny")


def written(path: Path, x: np.ndarray, rate: int = 16000, bits: int = 16) -> Path:
    path.write_bytes(encode_sound(x, rate, {}, path.suffix, bits))
    return path


def one(model: VoicePipeline, out: Path, emotion: str = "anger .8", **given) -> Take:
    return takes(model, request(emotion, **given), out)[0]


def pitch(waveform: np.ndarray, rate: int) -> float:
    return cues(analyse(waveform, rate))["pitch_mean"]


# Any sound in, the same form out ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "channels", "ext", "bits"),
    [
        (8000, 1, "wav", 16), (11025, 8, "flac", 16), (44100, 2, "wav", 24),
        (48000, 1, "mp3", 16), (4000, 1, "flac", 24),
    ],
)  # fmt: skip
def test_form_of_the_sound_is_kept(
    model: VoicePipeline, tmp_path: Path, rate: int, channels: int, ext: str, bits: int
) -> None:
    x = np.stack([(0.7 - 0.05 * k) * speech.sentence(rate) for k in range(channels)])
    path = written(tmp_path / f"in.{ext}", x, rate, bits)
    take = one(model, tmp_path / "out", audio=path, keep_length=True, **CALM)
    before, after = load_sound(path), load_sound(take.path)
    assert take.path.suffix == f".{ext}"
    assert (after.sample_rate, len(after.waveform), after.bits) == (rate, channels, bits)
    # MP3 pads what it holds to whole frames, twice
    slack = 2400 if ext == "mp3" else 0
    assert abs(after.waveform.shape[1] - before.waveform.shape[1]) <= slack
    if rate >= 8000:
        assert pitch(after.waveform, rate) - pitch(before.waveform, rate) > 2
    same = one(model, tmp_path / "out", "neutral", audio=path)
    assert samples(same).tobytes() == before.waveform.tobytes()
    assert same.path.suffix == f".{ext}"


def test_format_can_be_chosen(model: VoicePipeline, tmp_path: Path) -> None:
    for ext in ("flac", "mp3"):
        assert one(model, tmp_path, format=ext).path.suffix == f".{ext}"
    assert one(model, tmp_path, "neutral", format="flac").path.suffix == ".flac"


@pytest.mark.parametrize("what", ["silence", "noise", "hum", "click"])
def test_where_nobody_speaks_the_sound_is_left_alone(
    model: VoicePipeline, tmp_path: Path, what: str
) -> None:
    n = 24000
    x = {
        "silence": np.zeros(n),
        "noise": 0.1 * np.random.default_rng(0).standard_normal(n),
        "hum": 0.3 * np.sin(2 * np.pi * 50 * np.arange(n) / RATE),
        "click": np.where(np.arange(n) == 9000, 0.9, 0.0),
    }[what]
    path = written(tmp_path / "in.wav", x)
    take = one(model, tmp_path, audio=path, **{})
    assert samples(take).tobytes() == samples(path).tobytes()
    assert any("nobody speaks" in note for note in take.reading["notes"])
    read = takes(model, request(audio=path), tmp_path / "b", critic="auto", reader="auto")[0]
    assert read.reading["reader"] is None
    assert read.reading["critic"]["dominant"] == "neutral"
    longer = one(model, tmp_path, audio=path, seconds=2.0)
    assert samples(longer).shape == (1, 32000)


def test_offsets_and_opposite_channels_do_no_harm(model: VoicePipeline, tmp_path: Path) -> None:
    x = 0.4 * speech.sentence()
    plain = samples(one(model, tmp_path, audio=written(tmp_path / "plain.wav", x)))
    offset = one(model, tmp_path, audio=written(tmp_path / "offset.wav", x + 0.2))
    one_way, other = (cues(analyse(x, RATE)) for x in (plain, samples(offset)))
    for name, apart in (("pitch_mean", 0.3), ("alpha_ratio", 0.6), ("level", 0.6)):
        assert one_way[name] == pytest.approx(other[name], abs=apart)
    assert abs(samples(offset).mean()) < 1e-3
    turned = one(model, tmp_path, audio=written(tmp_path / "turned.wav", np.stack([x, -x])))
    left, right = samples(turned)
    np.testing.assert_allclose(left, -right, atol=1e-3)
    assert cues(analyse(left, RATE))["level"] == pytest.approx(one_way["level"], abs=0.6)
    for take, told in ((offset, "constant offset"), (turned, "wrong way round")):
        assert any(told in note for note in take.reading["notes"])


def test_a_clipped_recording_is_told_and_a_ruined_one_refused(
    model: VoicePipeline, tmp_path: Path
) -> None:
    x = speech.sentence()
    x = x / np.quantile(np.abs(x), 0.99)  # the tops of the loudest periods are cut
    loud = written(tmp_path / "loud.wav", np.clip(x, -1, 1))
    take = one(model, tmp_path, audio=loud)
    assert any("clipped" in note for note in take.reading["notes"])
    assert clipping(samples(recording())) == (0, 0.0)
    assert "notes" not in one(model, tmp_path).reading
    ruined = written(tmp_path / "ruined.wav", np.clip(20 * x, -1, 1))
    with pytest.raises(ParamError, match=r"^audio: [0-9]+% of [^\n]*clipped[^\n]*lower level$"):
        one(model, tmp_path, audio=ruined)


@pytest.mark.parametrize("emotion", ["anger 1", "love 1"])
def test_level_is_what_was_asked_and_nothing_clips(
    model: VoicePipeline, tmp_path: Path, emotion: str
) -> None:
    """Its accents at full scale, as recordings are; what is asked is reached within 1 dB."""
    x = speech.sentence()
    accent = np.abs(np.arange(len(x)) / RATE - 0.4)
    x = x * (0.35 + 0.65 * np.clip(1 - accent / 0.04, 0, 1))
    path = written(tmp_path / "full.wav", 0.999 * x / np.abs(x).max())
    found = one(model, tmp_path, emotion, audio=path, **CALM).reading["voice"]
    assert abs(found["level_change_db"] - found["level_asked_db"]) < 1
    assert abs(found["level_asked_db"]) > 2
    assert found["peak"] <= 1


def test_where_there_is_no_room_above_it_is_told(model: VoicePipeline, tmp_path: Path) -> None:
    x = speech.sentence()
    path = written(tmp_path / "full.wav", 0.999 * x / np.abs(x).max())
    take = one(model, tmp_path, "anger 1", audio=path)
    assert any("quieter than asked" in note for note in take.reading["notes"])
    assert take.reading["voice"]["peak"] <= 1


# Lengths and locks -----------------------------------------------------------------------------


def test_lengths_are_exact(model: VoicePipeline, tmp_path: Path) -> None:
    own = samples(recording()).shape[1]
    assert samples(one(model, tmp_path, "sadness 1", keep_length=True)).shape[1] == own
    assert samples(one(model, tmp_path, "sadness 1", lock="timing")).shape[1] == own
    assert samples(one(model, tmp_path, "sadness 1", seconds=2.4)).shape[1] == 38400
    assert samples(one(model, tmp_path, "neutral", seconds=2.4)).shape[1] == 38400
    assert samples(one(model, tmp_path, "sadness 1")).shape[1] > 1.1 * own


def test_a_locked_pitch_stays(model: VoicePipeline, tmp_path: Path) -> None:
    locked = samples(one(model, tmp_path, "anger 1", lock="pitch,timing"))
    free = samples(one(model, tmp_path, "anger 1"))
    own = pitch(samples(recording()), RATE)
    assert abs(pitch(locked, RATE) - own) < 0.2
    assert pitch(free, RATE) - own > 3


def test_names_are_those_of_the_model() -> None:
    assert set(LOCKS) == set(MODEL_LOCKS)
    assert STRETCH == RENDERED_STRETCH
    from pipelines import voice

    assert voice.ADAPTER == ADAPTER


@pytest.mark.parametrize("emotion", ["awe", "contentment", "v=-.6 a=.5"])
def test_emotions_without_recordings_go_by_valence_and_arousal(
    model: VoicePipeline, tmp_path: Path, emotion: str
) -> None:
    take = one(model, tmp_path, f"{emotion} .9" if "=" not in emotion else emotion)
    assert (samples(take)[:, :9000] != samples(recording())[:, :9000]).any()
    assert take.reading["voice"]["engine"] == "psola"


def test_emotions_change_when_they_are_told_to(model: VoicePipeline, tmp_path: Path) -> None:
    """Before the first change nothing is moved; times are seconds of the recording."""
    course = "0s neutral; 1.1s neutral; 1.2s anger 1"
    take = one(model, tmp_path, course, keep_length=True, lock="timing", **CALM)
    x, y = samples(recording())[0], samples(take)[0]
    # fading windows reach 32 ms, level 40 ms
    assert np.abs(x - y)[: round(1.0 * RATE)].max() < 2e-3
    assert np.abs(x - y)[round(1.3 * RATE) :].max() > 0.05


# Choosing --------------------------------------------------------------------------------------


def test_the_critic_chooses_among_candidates(model: VoicePipeline, tmp_path: Path) -> None:
    asked = request("anger 1", candidates=3, variation=1.5)
    take = takes(model, asked, tmp_path, critic="auto")[0]
    assert take.chosen["of"] == 3
    assert take.chosen["score"] >= take.chosen["mean_score"]
    plain = takes(model, request("anger 1", variation=1.5), tmp_path, critic="auto")[0]
    assert plain.chosen is None
    alike = takes(model, request("anger 1", candidates=3, **CALM), tmp_path, critic="auto")[0]
    assert alike.chosen is None, "without variation every candidate is the same"
    assert len({candidate_seed(seed, k) for seed in range(50) for k in range(16)}) == 800


def test_the_best_of_several_seeds_are_kept(model: VoicePipeline, tmp_path: Path) -> None:
    asked = [request("anger 1", seed=seed, variation=1.5) for seed in (5, 6)]
    kept = takes(model, asked, tmp_path, critic="auto", best_of=4)
    assert [take.chosen["rank"] for take in kept] == [1, 2]
    assert kept[0].chosen["score"] >= kept[1].chosen["score"]
    assert all(5 <= take.request.seed < 9 for take in kept)
    again = takes(model, Take.read(kept[0].path).request, tmp_path / "b", critic="auto")[0]
    assert again.sha256 != ""
    assert samples(again).tobytes() == samples(kept[0]).tobytes()


def test_readers_read_against_a_recording_that_is_neutral(
    model: VoicePipeline, tmp_path: Path
) -> None:
    judges = {"critic": "auto", "reader": "auto"}
    alone = takes(model, request(), tmp_path, **judges)[0].reading
    against = takes(model, request(source="neutral"), tmp_path, **judges)[0].reading
    assert alone["against"] is None
    assert against["against"] == "the recording"
    assert alone["reader"]["probabilities"] != against["reader"]["probabilities"]
    assert alone["critic"]["reader"] != alone["reader"]["reader"]
    times = alone["curve"]["times"]
    for name in ("asked", "critic-voice", "reader-voice"):
        assert len(alone["curve"][name]["valence"]) == len(times)
    assert {"pitch_mean", "alpha_ratio"} <= {row["name"] for row in alone["cues"]}
    assert -1 <= alone["speaker_similarity"] <= 1
    assert alone["consent"] == "not stated"


def test_leaving_ends_the_work_within_a_step(model: VoicePipeline, tmp_path: Path) -> None:
    events = pipelines.generate(
        request(steps=100), pipeline=model, out_dir=tmp_path, critic=None, reader=None
    )
    seen = [next(event for event in events if event.stage == "denoise")]
    events.close()
    assert isinstance(seen[0], Step)
    assert not [t for t in threading.enumerate() if t.name == "affect-voice"]
    assert torch.get_num_threads() >= 1
    assert not list(tmp_path.rglob("*.wav"))


def test_steps_come_in_order_and_reach_the_end(model: VoicePipeline, tmp_path: Path) -> None:
    events = run(model, [request(candidates=1), request("fear 1")], tmp_path)
    steps = [event for event in events if isinstance(event, Step)]
    assert {step.stage for step in steps} == {"load", "analyse", "denoise", "render", "read"}
    assert [step.index for step in steps] == sorted(step.index for step in steps)
    assert steps[-1].index == pytest.approx(steps[-1].total, abs=2)


# A mel that is made anew -----------------------------------------------------------------------


def test_a_mel_model_converts_in_the_form_of_the_recording(tmp_path: Path) -> None:
    mel = tiny_mel()
    folder = tmp_path / "mel"
    mel.save(folder)
    x = 0.5 * speech.sentence(24000)
    path = written(tmp_path / "in.wav", np.stack([x, x]), 24000)
    asked = request("anger 1", audio=path, backbone=str(folder), steps=2)
    options = {"critic": None, "reader": None, "out_dir": tmp_path / "out"}
    (take,) = (e for e in pipelines.generate(asked, **options) if isinstance(e, Take))
    assert samples(take).shape == (2, len(x))
    assert take.reading["voice"]["engine"] == "mel"
    assert (samples(take) != samples(path)).any()
    assert take.request.weights
    neutral = request("neutral", audio=path, backbone=str(folder), steps=2)
    (same,) = (e for e in pipelines.generate(neutral, **options) if isinstance(e, Take))
    assert samples(same).tobytes() == samples(path).tobytes()
    for given in ({"lock": "pitch"}, {"gain": "pitch=2"}, {"engine": "psola"}, {"seconds": 2.0}):
        with pytest.raises(ValueError, match=next(iter(given))) as caught:
            pipelines.generate(request(audio=path, backbone=str(folder), **given), **options)
        assert "\n" not in str(caught.value)


# Words that are spoken first -------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
def test_words_are_spoken_then_changed(model: VoicePipeline, tmp_path: Path) -> None:
    asked = request("sadness .9", text="We are closing the shop.")
    take = takes(model, asked, tmp_path)[0]
    neutral = take.path.with_suffix(".neutral.wav")
    assert {p.name for p in take.companions} == {neutral.name, take.path.with_suffix(".png").name}
    assert "closing-the-shop" in take.path.name
    assert (samples(neutral)[:, :12000] != samples(take)[:, :12000]).any()
    assert take.reading["consent"] == "not needed"
    assert take.reading["against"] == "the recording"
    assert "espeak" in take.reading["voice"]["spoken_by"]
    spoken = Take.read(neutral).request
    assert spoken.emotion.text == "neutral"
    again = takes(model, spoken, tmp_path / "again")[0]
    assert samples(again).tobytes() == samples(neutral).tobytes()
    german = takes(model, request("sadness .9", text="Wir gehen.", language="de"), tmp_path)[0]
    assert german.request.params["language"] == "de"
    # what was made here needs nobody's consent when it is changed again
    second = takes(model, request("anger 1", audio=neutral), tmp_path / "second")[0]
    assert second.reading["consent"] == "not needed"


# Mistakes are one line and start nothing -------------------------------------------------------


def mistakes(folder: Path) -> dict[str, tuple[dict, str]]:
    """name -> (request's arguments, part of the line that is told)."""
    text = folder / "text.wav"
    text.write_text("This is no sound at all, whatever it is called.")
    empty = folder / "empty.wav"
    empty.write_bytes(b"")
    hollow = written(folder / "hollow.wav", np.zeros(1))
    short = written(folder / "short.wav", 0.5 * speech.sentence()[:4000])
    wide = written(folder / "wide.wav", np.tile(0.5 * speech.sentence(), (3, 1)))
    odd = written(folder / "odd.flac", 0.5 * speech.sentence(44056), 44056)
    model = folder / "model"
    model.mkdir()
    (model / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    return {
        "no sound": ({"audio": text}, "no WAV, FLAC or MP3"),
        "empty": ({"audio": empty}, "empty.wav"),
        "one sample": ({"audio": hollow}, "lasts 0.00 s"),
        "too short": ({"audio": short}, "allowed are 0.3 s to 20 minutes"),
        "lock": ({"lock": "pitch,colour"}, "lock: allowed are pitch"),
        "gain": ({"gain": "pitch=loud"}, "gain: pitch"),
        "gain without a number": ({"gain": "pitch"}, "gain: pitch"),
        "too much gain": ({"gain": "level=9"}, "0 to 3"),
        "engine": ({"engine": "griffin"}, "engine: allowed are auto"),
        "format": ({"format": "ogg"}, "format: allowed are auto"),
        "two lengths": ({"keep_length": True, "seconds": 2.0}, "--keep-length"),
        "locked length": ({"lock": "timing", "seconds": 2.5}, "timing is locked"),
        "too long a result": ({"seconds": 60.0}, "7.60 can be made"),
        "too short a result": ({"seconds": 0.2}, "0.47"),
        "source": ({"source": "angryish .5"}, "source: "),
        "negative": ({"negative": "anger 7"}, "negative: "),
        "speaker of a recording": ({"speaker": "anna"}, "speaker: "),
        "style": ({"lora": str(folder)}, "lora: "),
        "knob": ({"colour": 1}, "colour"),
        "mp3 of three channels": ({"audio": wide, "format": "mp3"}, "MP3"),
        "mp3 of an odd rate": ({"audio": odd, "format": "mp3"}, "MP3"),
        "composer": ({"backbone": "music-tiny"}, "makes music"),
        "painter": ({"backbone": str(model)}, "FluxPipeline"),
        "unknown": ({"backbone": "voise-tiny"}, "voice-tiny"),
        "over": ({"emotion": "anger 1.4"}, "--over"),
    }


def test_mistakes_are_one_line_and_write_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for name, (given, told) in mistakes(tmp_path).items():
        given = {"backbone": "voice-tiny", **given}
        with pytest.raises(ValueError, match=r".") as caught:
            list(pipelines.generate(request(**given), out_dir=out))
        assert told in str(caught.value), name
        assert "\n" not in str(caught.value), name
        assert len(str(caught.value)) < 300, name
    assert not out.exists()


def test_words_or_a_recording(model: VoicePipeline, tmp_path: Path) -> None:
    from adapters.emotion import EmotionTimeline
    from pipelines.take import Request

    anger = EmotionTimeline.parse("anger .5")
    path = recording()
    for prompt, inputs, told in (
        ("", {}, "neither"),
        ("Hello.", {"audio": path}, "both"),
        ("", {"audio": path, "melody": path}, "melody"),
    ):
        asked = Request("voice", prompt, anger, 1, "voice-tiny", {}, inputs=inputs)
        with pytest.raises(ValueError, match=told):
            takes(model, asked, tmp_path / "out")
    with pytest.raises(ValueError, match="best_of"):
        takes(model, request(), tmp_path / "out", best_of=2)
    with pytest.raises(ValueError, match="format"):
        takes(model, request(), tmp_path / "out", ext="wav")
    assert not (tmp_path / "out").exists()


def test_defaults_are_within_the_model_s_range() -> None:
    job = job_of(request("anger .5", steps=10), pipeline=model_of("voice-tiny"))
    assert job.request.params == VoiceParams(candidates=1).to_json()
    assert job.gains == dict.fromkeys(LOCKS, 1.0)


def test_the_shipped_sample_counts_as_neutral(model: VoicePipeline) -> None:
    """Others may have been recorded in any mood, so they are read alone."""
    sample = ASSETS / "samples" / "speech.wav"
    assert is_neutral(job_of(request(audio=sample), pipeline=model))
    assert not is_neutral(job_of(request(audio=sample, source="anger .5"), pipeline=model))
    assert is_neutral(job_of(request(source="neutral"), pipeline=model))
    assert not is_neutral(job_of(request(), pipeline=model))
