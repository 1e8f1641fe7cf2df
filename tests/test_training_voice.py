"""The recipe of voice-tiny: aligned takes, rows, a run that resumes, LoRA of a speaker.

Takes are synthesised here, so that what one does differently is known. What needs real speech runs
where ../shared/data/voice lies, and says so when it does not.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from adapters.emotion import CORE
from adapters.voice_analysis import BAND_CENTRES
from adapters.voice_emotion import BAND, BREATH, ENERGY, SEMITONES, STRETCH, fit, tilt_of
from pipelines.media_sound import encode_sound, load_sound
from pipelines.voice_frames import voice_of
from pipelines.voice_model import HEADS, Sampling, VoiceModelError, VoicePipeline, make_scheduler
from training.voice import (
    Feed,
    Settings,
    augmented,
    collated,
    expected,
    fit_model,
    loss_of,
    make_pipeline,
    make_row,
    make_rows,
    share_left,
    spread_of,
    whole,
)
from training.voice_align import anchors
from training.voice_data import (
    HELD_SENTENCES,
    HELD_SPEAKERS,
    Clip,
    clarity,
    clean_bands,
    fit_directions,
    load_clips,
    load_pairs,
    make_clip,
    make_pair,
    make_pairs,
    save_clips,
    save_pairs,
)
from training.voice_lora import LoraSettings, StyleError, split, train_lora
from training.voice_report import dose

REAL = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "voice"


def said(
    semitones: float = 0.0, stretch: float = 1.0, bright: float = 0.0, seed: int = 0, text: int = 0
) -> np.ndarray:
    """Five vowels at 16 kHz, in an order of `text`. bright: dB an octave above 1 kHz."""
    rng = np.random.default_rng(seed)
    vowels = np.random.default_rng(text).permutation(5)
    formants = np.array([[300, 2200], [700, 1200], [500, 1700], [350, 800], [600, 1000]])
    out = [np.zeros(2400)]
    phase = 0.0
    for k, vowel in enumerate(vowels):
        length = int(stretch * (3600 + 500 * (vowel % 3)))
        t = np.arange(length) / length
        hz = 150 * 2 ** ((semitones + 3 * np.sin(np.pi * t) - 0.8 * k) / 12)
        angle = phase + 2 * np.pi * np.cumsum(hz) / 16000
        phase = angle[-1]
        tone = np.zeros(length)
        for h in range(1, 40):
            f = h * float(hz.mean())
            if f < 7000:
                gain = sum(1 / (1 + ((f - c) / 120) ** 2) for c in formants[vowel]) + 0.02
                tilt = 10 ** (bright * max(0.0, np.log2(f / 1000)) / 20)
                tone += gain * tilt * np.sin(h * angle)
        out.append(0.1 * tone * np.minimum(1, 8 * np.minimum(t, 1 - t) + 0.15))
    out.append(np.zeros(2400))
    sound = np.concatenate(out)
    return sound + 1e-4 * rng.normal(size=len(sound))


def clip_of(emotion: str, speaker: str = "a", sentence: str = "s", **how: float) -> Clip:
    return make_clip(
        said(**how),  # type: ignore[arg-type]
        16000,
        name=f"{speaker}{sentence}{emotion}{how.get('seed', 0)}",
        speaker=speaker,
        sentence=sentence,
        emotion=emotion,
    )


ACTED = {"anger": {"semitones": 7.0, "bright": 4.0}, "sadness": {"semitones": -2.0, "stretch": 1.4}}


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    """Two people, two sentences, three takes each."""
    return [
        clip_of(emotion, speaker, f"s{text}", seed=seed, text=text, **ACTED.get(emotion, {}))
        for seed, speaker in enumerate("ab")
        for text in (1, 2)
        for emotion in ("neutral", *ACTED)
    ]


def test_a_take_is_read_along_the_other(clips: list[Clip]) -> None:
    pair = make_pair(
        clip_of("neutral", text=3), clip_of("anger", text=3, semitones=5, stretch=1.3, bright=5)
    )
    assert pair is not None
    known = pair.known
    pitch = pair.values[known[:, SEMITONES], SEMITONES]
    assert np.median(pitch) == pytest.approx(5, abs=0.3)
    assert np.std(pitch) < 1
    inside = known[:, STRETCH]
    assert np.exp(pair.values[inside, STRETCH]).mean() == pytest.approx(1.3, abs=0.08)
    colour = pair.values[known[:, BAND.start], BAND].mean(axis=0)
    assert tilt_of(colour, BAND_CENTRES) > 2
    assert pair.values[known[:, ENERGY], ENERGY].mean() == pytest.approx(0, abs=0.5)


def test_a_take_against_itself_is_no_change(clips: list[Clip]) -> None:
    pair = make_pair(clips[0], clips[0])
    assert pair is not None
    assert np.abs(pair.values[pair.known]).max() < 0.1


def test_takes_without_a_voice_are_no_pair() -> None:
    rng = np.random.default_rng(0)
    noise = make_clip(
        0.05 * rng.normal(size=16000), 16000, name="n", speaker="a", sentence="s", emotion="fear"
    )
    assert make_pair(noise, clip_of("neutral")) is None


def test_a_noisy_recording_is_no_brighter_voice() -> None:
    clean, noisy = clip_of("neutral"), clip_of("neutral")
    sound = said() + 0.004 * np.random.default_rng(1).normal(size=len(said()))
    noisy = make_clip(sound, 16000, name="x", speaker="a", sentence="s", emotion="fear")
    loud = clean.voiced & (clean.energy > np.percentile(clean.energy, 60))

    def off(one: np.ndarray, other: np.ndarray) -> float:
        return abs(tilt_of((one - other)[loud].mean(axis=0), BAND_CENTRES))

    assert off(clean_bands(noisy), clean_bands(clean)) < off(noisy.bands, clean.bands)


def test_phone_labels_of_different_takes_are_matched() -> None:
    one = [(0.1, "_d"), (0.15, "!d"), (0.3, "a"), (0.4, "m"), (0.5, "+lar"), (0.6, "s"), (0.7, ".")]
    two = [(0.2, "_t"), (0.5, "a"), (0.8, "m"), (0.9, "I"), (1.2, "s"), (1.3, ".")]
    assert anchors(one, two) == [(0.15, 0.2), (0.3, 0.5), (0.5, 0.8), (0.6, 1.2), (0.7, 1.3)]
    assert anchors(one, []) == []


def test_clips_and_pairs_are_kept(clips: list[Clip], tmp_path: Path) -> None:
    labelled = [replace(clips[0], phones=((0.2, "a"), (0.4, "b"))), *clips[1:3]]
    save_clips(tmp_path / "clips.npz", labelled)
    found = load_clips(tmp_path / "clips.npz")
    assert [clip.name for clip in found] == [clip.name for clip in labelled]
    assert found[0].phones == ((0.2, "a"), (0.4, "b"))
    assert np.array_equal(found[1].bands, labelled[1].bands)
    pairs = make_pairs(found)
    save_pairs(tmp_path / "pairs.npz", pairs, found)
    kept = load_pairs(tmp_path / "pairs.npz", found)
    assert len(kept) == len(pairs) == 6
    assert kept[2].target.name == pairs[2].target.name
    assert np.array_equal(kept[2].known, pairs[2].known)
    assert np.allclose(kept[2].values, pairs[2].values, atol=0.02)  # half precision


def test_the_directions_are_what_the_takes_do(clips: list[Clip]) -> None:
    found = fit_directions(make_pairs(clips))
    middle = found.bank.vectors["voiced.middle"]
    anger, sadness = CORE.index("anger"), CORE.index("sadness")
    assert middle[anger, SEMITONES] == pytest.approx(7 / 1.3, abs=0.4)
    assert middle[sadness, SEMITONES] == pytest.approx(-2 / 1.3, abs=0.4)
    assert middle[sadness, STRETCH] == pytest.approx(np.log(1.4) / 1.3, abs=0.08)
    assert "anger 4, sadness 4" in found.sources


def test_held_out_people_and_sentences_are_in_no_training_row(clips: list[Clip]) -> None:
    own = [
        replace(clip, speaker=speaker, sentence=sentence)
        for speaker, sentence in (("x", "s"), (HELD_SPEAKERS[0], "s"), ("x", HELD_SENTENCES[0]))
        for clip in clips[:3]
    ]
    pairs = make_pairs(own)
    train, sentences, people = make_rows(pairs, fit({}, BAND_CENTRES))
    assert {row.cell for row in train} == {("x", "s")}
    assert {row.cell for row in sentences} == {("x", HELD_SENTENCES[0])}
    assert {row.cell for row in people} == {(HELD_SPEAKERS[0], "s")}
    assert sum(row.kind == "to" for row in train) == 2


def test_the_way_back_is_the_way_there_turned_round(clips: list[Clip]) -> None:
    directions = fit_directions(make_pairs(clips))
    there = make_pair(clips[0], clips[1])
    back = make_pair(clips[1], clips[0])
    assert there is not None and back is not None  # noqa: PT018
    one, two = (make_row(pair, directions, {}) for pair in (there, back))
    assert (one.kind, two.kind) == ("to", "back")
    assert np.array_equal(one.track, -two.track)
    assert one.prior[:, SEMITONES].max() > 1 > -1 > two.prior[:, SEMITONES].min()


def test_stronger_acting_counts_as_more_intensity(clips: list[Clip]) -> None:
    strong = clip_of("anger", "a", "s1", seed=9, text=1, semitones=11.0, bright=6.0)
    found = clarity(make_pairs([*clips, strong]), fit({}, BAND_CENTRES))
    assert found[strong.name] > found["as1anger0"]
    assert 0.65 <= min(found.values()) <= max(found.values()) <= 2.08


@pytest.fixture(scope="module")
def small(clips: list[Clip]) -> tuple[VoicePipeline, Feed, list]:
    pairs = make_pairs(clips)
    directions = fit_directions(pairs)
    rows, _, _ = make_rows(pairs, directions)
    torch.manual_seed(0)
    pipe = make_pipeline(directions, spread_of(rows), width=16, depth=2)
    return pipe, Feed(rows, 4, 48, 0), rows


def fresh(small: tuple[VoicePipeline, Feed, list]) -> VoicePipeline:
    torch.manual_seed(0)
    return make_pipeline(
        small[0].directions, small[0].prosody.spread.numpy().repeat(10)[:28], 16, 2
    )


def test_crops_hide_the_emotion_from_some_rows(small: tuple) -> None:
    rng = np.random.default_rng(0)
    row = next(row for row in small[2] if row.kind == "to")
    crops = [augmented(row, 48, rng) for _ in range(200)]
    assert {crop["features"].shape for crop in crops} == {(48, 34)}
    hidden = [not crop["condition"].any() for crop in crops]
    nameless = [
        not crop["condition"][:, :12].any() and crop["condition"][:, 12:].any() for crop in crops
    ]
    assert 0.05 < np.mean(hidden) < 0.25
    assert 0.2 < np.mean(nameless) < 0.45
    assert all(not crop["prior"].any() for crop, gone in zip(crops, hidden, strict=True) if gone)


def test_a_batch_is_drawn_from_its_step_alone(small: tuple) -> None:
    feed = small[1]
    one, again, other = feed.draw(7), feed.draw(7), feed.draw(8)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["rest"], other["rest"])
    assert one["rest"].shape == (4, 48, 28)


def test_the_loss_is_that_of_a_perfect_guess_at_the_terminal_step(small: tuple) -> None:
    """At pure noise v is -y: a model that says 0 everywhere loses the mean square of y."""
    pipe, feed, _ = small
    batch = feed.draw(0)
    y = (batch["rest"][..., :3] / pipe.prosody.spread).clamp(-4, 4)
    loss = loss_of(
        pipe.prosody,
        HEADS["prosody"],
        batch,
        make_scheduler().alphas_cumprod,
        torch.Generator().manual_seed(0),
        torch.full((4,), 999),
    )
    known = batch["known"][..., :3]
    assert loss.item() == pytest.approx(float((y**2 * known).sum() / known.sum()), rel=1e-4)
    assert not expected(pipe.prosody, HEADS["prosody"], batch).any()


def test_training_learns_what_takes_do_beyond_their_mean(small: tuple, tmp_path: Path) -> None:
    pipe = fresh(small)
    least = fit_model(
        pipe, small[1], small[2], tmp_path, Settings(steps=120, check=60, rate=3e-3, minutes=2)
    )
    assert least["timbre"] < 0.95  # 1 is the mean change alone
    assert set(least) == set(HEADS)


def test_a_stopped_run_goes_on_exactly(small: tuple, tmp_path: Path) -> None:
    whole_run = fresh(small)
    settings = Settings(steps=8, check=4, rate=3e-3)
    fit_model(whole_run, small[1], small[2][:2], tmp_path / "whole", settings)
    half = fresh(small)

    class Stop(Exception):
        pass

    class Halting(Feed):
        def draw(self, step: int):
            if step == 5:
                raise Stop
            return super().draw(step)

    feed = Halting(small[2], 4, 48, 0)
    with pytest.raises(Stop):
        fit_model(half, feed, small[2][:2], tmp_path / "half", settings)
    again = fresh(small)
    fit_model(again, small[1], small[2][:2], tmp_path / "half", settings)
    states = [
        json.loads((tmp_path / d / "checkpoint/meta.json").read_text()) for d in ("whole", "half")
    ]
    assert states[0]["least"] == states[1]["least"]
    assert states[0]["step"] == states[1]["step"] == 8
    for name in HEADS:
        one, two = getattr(whole_run, name).state_dict(), getattr(again, name).state_dict()
        assert all(torch.equal(one[key], two[key]) for key in one)


def test_what_an_alignment_flattens_is_not_learned(small: tuple, clips: list[Clip]) -> None:
    for row in small[2]:
        level = np.asarray(row.features[:, 3], dtype=float)  # of the source, from its mean
        for column in (ENERGY, BAND.start, BAND.stop - 1):
            weight = row.known[:, column]
            if weight.sum() < 20:
                continue
            off = level - np.average(level, weights=weight)
            slope = np.average(off * row.rest[:, column], weights=weight)
            spread = np.average(np.abs(off), weights=weight) * np.abs(row.rest[:, column]).max()
            assert abs(slope) < 0.02 * spread + 1e-6


def test_intensity_raises_every_cue_that_is_asked_for(small: tuple, clips: list[Clip]) -> None:
    found = dose(small[0], clips[:1], Sampling(steps=2), ("anger", "sadness", "love"))
    assert found["all"]["mean"] > 0.95
    assert found["pitch"]["n"] == 3


def recordings(folder: Path, sentences: int = 5) -> Path:
    for text in range(sentences):
        for emotion, how in {"neutral": {}, "anger": ACTED["anger"]}.items():
            data = encode_sound(said(seed=text, text=text, **how)[None], 16000, {})
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"line{text}_{emotion}.wav").write_bytes(data)
    return folder


def test_a_style_is_learned_from_a_folder_of_takes(small: tuple, tmp_path: Path) -> None:
    small[0].save(tmp_path / "model", torch.float32)
    folder = recordings(tmp_path / "me")
    figures = train_lora(
        folder,
        backbone=tmp_path / "model",
        out=tmp_path / "style",
        settings=LoraSettings(rank=2, steps=12, check=6, batch=2, crop=48),
        tell=lambda _: None,
    )
    assert figures["prosody"]["left_before"] == pytest.approx(1.0, abs=0.01)
    pipe = VoicePipeline.load(tmp_path / "model")
    torch.nn.init.normal_(pipe.prosody.leave.weight)
    voice = voice_of(clip_of("neutral"))

    def drawn() -> np.ndarray:
        generator = torch.Generator().manual_seed(0)
        anger = np.eye(len(CORE))[CORE.index("anger")]
        return pipe.sample(voice, anger, generator=generator, settings=Sampling(steps=2))

    plain = drawn()
    with pipe.wearing(tmp_path / "style"):
        for name, matrix in pipe.prosody.named_parameters():
            if "lora" in name:
                torch.nn.init.normal_(matrix, std=0.3)
        assert np.abs(drawn() - plain).max() > 0.01
    assert np.array_equal(drawn(), plain)
    with pytest.raises(VoiceModelError, match="train it again"), pipe.wearing(tmp_path):
        pass
    assert np.array_equal(drawn(), plain)
    with pytest.raises(StyleError, match="finished adapter"):
        train_lora(folder, backbone=tmp_path / "model", out=tmp_path / "style")


def test_sentences_without_a_neutral_take_are_never_held_out(small: tuple) -> None:
    row = next(row for row in small[2] if row.kind == "to")
    whole = [replace(row, cell=("me", f"line{k}")) for k in range(5)]
    rest = [replace(row, kind="between", cell=("me", f"other{k}")) for k in range(9)]
    train, decide, tell = split([*whole, *rest])
    assert (len(train), len(decide), len(tell)) == (12, 1, 1)
    assert {r.kind for r in decide + tell} == {"to"}
    with pytest.raises(StyleError, match="3 sentences have a neutral"):
        split([*whole[:3], *rest])


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ((), r"holds 0 files of \.wav, \.flac, \.mp3"),
        (("speech.wav",), "does not end in _neutral or a core emotion"),
    ],
)
def test_folders_that_teach_nothing_are_refused(
    small: tuple, tmp_path: Path, names: tuple[str, ...], words: str
) -> None:
    small[0].save(tmp_path / "model")
    (tmp_path / "me").mkdir()
    for name in names:
        (tmp_path / "me" / name).write_bytes(encode_sound(said()[None], 16000, {}))
    with pytest.raises(StyleError, match=words):
        train_lora(tmp_path / "me", backbone=tmp_path / "model", out=tmp_path / "style")


@pytest.mark.skipif(not REAL.is_dir(), reason="real speech (../shared/data/voice) is not here")
def test_a_real_angry_take_is_higher_and_brighter_than_the_neutral_one() -> None:
    phones = json.loads((REAL / "emodb_phones.json").read_text())
    takes = []
    for name, emotion in (("03a05Nd", "neutral"), ("03a05Wa", "anger")):
        sound = load_sound(REAL / "emodb" / f"{name}.flac")
        takes.append(
            make_clip(
                sound.waveform,
                sound.sample_rate,
                name=name,
                speaker="03",
                sentence="a05",
                emotion=emotion,
                phones=phones[name],
            )
        )
    assert len(anchors(takes[0].phones, takes[1].phones)) > 15
    pair = make_pair(*takes)
    assert pair is not None
    assert 5 < np.median(pair.values[pair.known[:, SEMITONES], SEMITONES]) < 12
    colour = pair.values[pair.known[:, BAND.start], BAND].mean(axis=0)
    assert tilt_of(colour, BAND_CENTRES) > 4
    assert np.isfinite(voice_of(takes[0]).features).all()
    assert pair.values[pair.known[:, BREATH], BREATH].mean() < 1
    assert collated([whole(make_row(pair, fit({}, BAND_CENTRES), {}))])["rest"].shape[2] == 28
    assert share_left(np.ones((1, 2, 2))) == 1
