"""Critics of music: hearing, the Gaussian model, the shipped models on composed pieces."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from adapters.audio_features import HEARD, LOWEST, SoundError, functionals, hear
from adapters.emotion import CORE
from adapters.music_attributes import FEATURES
from adapters.music_critic import (
    QUADRANTS,
    SIGNS,
    MusicCritic,
    MusicReader,
    load_music_critic,
    quadrant,
    save_music_critic,
)
from adapters.piece import ACCOMPANIMENT, MELODY, Piece
from adapters.reading import soft_score

RATE = 44100
MAJOR, MINOR = (0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 11)


def tune(scale: tuple[int, ...], *, lively: float, bars: int = 12, seed: int = 0) -> Piece:
    """A tune over triads I IV V I: `lively` 0..1 makes it loud, dense and detached."""
    rng = np.random.default_rng(seed)
    rows = []
    step = 0.5 if lively > 0.5 else 1.0
    for bar in range(bars):
        root = (0, 3, 4, 0)[bar % 4]
        chord = [scale[(root + i) % 7] for i in (0, 2, 4)]
        for beat in np.arange(0, 4, 1.0 if lively > 0.5 else 4.0):
            rows += [(4 * bar + beat, 1.0 if lively > 0.5 else 4.0, 48 + p, 1) for p in chord]
        for beat in np.arange(0, 4, step):
            pitch = 72 + int(rng.choice(chord if beat % 2 == 0 else scale))
            rows.append((4 * bar + beat, step * (1 - 0.4 * lively), pitch, 0))
    onset, length, pitch, voice = (np.array(x) for x in zip(*rows, strict=True))
    velocity = np.clip(45 + 45 * lively + rng.normal(0, 6, len(onset)), 20, 120).astype(int)
    voice = np.where(voice == 0, MELODY, ACCOMPANIMENT)
    return Piece.of(onset, length, pitch, velocity, voice, tempo=70 + 70 * lively, bars=bars)


QUARTET = {
    "Q1": tune(MAJOR, lively=0.9),
    "Q2": tune(MINOR, lively=0.9),
    "Q3": tune(MINOR, lively=0.1),
    "Q4": tune(MAJOR, lively=0.1),
}


def played(piece: Piece, seconds: float = 8.0) -> np.ndarray:
    """A few partials per note, brighter when louder: enough of a piano to listen to."""
    out = np.zeros(int(seconds * RATE), np.float32)
    start = piece.seconds_at(piece.onset)
    held = piece.seconds_at(piece.offset) - start
    for at, length, pitch, velocity in zip(start, held, piece.pitch, piece.velocity, strict=True):
        if at >= seconds - 0.1:
            continue
        t = np.arange(int(min(length + 0.1, seconds - at) * RATE)) / RATE
        f = 440 * 2 ** ((int(pitch) - 69) / 12)
        fall = 0.35 + 0.3 * velocity / 127
        tone = sum(fall**h * np.sin(2 * np.pi * f * (h + 1) * t) for h in range(6))
        tone *= np.exp(-t * 2.5) * np.clip((length + 0.1 - t) / 0.1, 0, 1) * (velocity / 127) ** 2
        first = int(at * RATE)
        out[first : first + len(t)] += 0.15 * tone
    return out


def heard(sound: np.ndarray) -> dict[str, float]:
    return dict(zip(HEARD, functionals(hear(sound)), strict=True))


@pytest.fixture(scope="module")
def critic() -> MusicCritic:
    found = load_music_critic()
    assert isinstance(found, MusicCritic)
    return found


@pytest.fixture(scope="module")
def reader() -> MusicReader:
    found = load_music_critic("reader-music")
    assert isinstance(found, MusicReader)
    return found


# Hearing -----------------------------------------------------------------------------------------


def test_a_beat_a_second_is_heard_as_one_attack_a_second() -> None:
    piece = Piece.of(np.arange(8), 0.5, 60, 80, tempo=60.0)
    found = heard(played(piece))
    assert found["onset_rate"] == pytest.approx(1.0, abs=0.1)
    assert found["ioi_variability"] < 0.05
    attacks = hear(played(piece)).attacks
    assert np.abs(attacks - np.round(attacks)).max() < 0.05


def test_the_pitch_that_sounds_is_the_strongest() -> None:
    for pitch in (43, 60, 79):
        sound = played(Piece.of(np.arange(8), 0.9, pitch, 80, tempo=60.0))
        assert LOWEST + hear(sound).pitches.sum(axis=0).argmax() == pitch
        assert heard(sound)["register"] == pytest.approx(pitch, abs=3)


def test_major_and_minor_differ_in_mode_thirds_and_chords() -> None:
    major, minor = (heard(played(QUARTET[name], seconds=16)) for name in ("Q4", "Q3"))
    assert major["mode"] > 0.05 > -0.05 > minor["mode"]
    assert major["third"] > 0 > minor["third"]
    assert major["major_chords"] > minor["major_chords"] + 0.2


def test_louder_is_louder_and_brighter() -> None:
    soft, loud = (heard(played(replace(QUARTET["Q1"], velocity=QUARTET["Q1"].velocity * 0 + v)))
                  for v in (40, 110))  # fmt: skip
    assert loud["level"] > soft["level"] + 10
    assert loud["brightness"] > soft["brightness"]
    assert loud["flux"] > soft["flux"]


def test_a_cluster_is_rougher_than_a_fifth() -> None:
    beats = np.repeat(np.arange(6), 2)
    fifth = heard(played(Piece.of(beats, 0.9, np.tile([60, 67], 6), 80, tempo=60.0)))
    second = heard(played(Piece.of(beats, 0.9, np.tile([60, 61], 6), 80, tempo=60.0)))
    assert second["roughness"] > 1.5 * fifth["roughness"]


def test_stereo_and_other_rates_are_heard_alike() -> None:
    sound = played(QUARTET["Q1"])
    one = functionals(hear(sound))
    assert functionals(hear(np.stack([sound, sound]))) == pytest.approx(one, rel=1e-4, nan_ok=True)
    slow = dict(zip(HEARD, functionals(hear(sound[::2], RATE // 2)), strict=True))
    assert slow["onset_rate"] == pytest.approx(heard(sound)["onset_rate"], rel=0.05)
    assert slow["register"] == pytest.approx(heard(sound)["register"], abs=0.5)


@pytest.mark.parametrize(
    ("sound", "rate", "text"),
    [
        (np.zeros(RATE), RATE, "silent"),
        (np.full(RATE, np.nan), RATE, "finite"),
        (np.ones(100), RATE, "too short"),
        (np.ones((2, 2, RATE)), RATE, "channels"),
        (np.ones(RATE), 10, "sample rates"),
    ],
)
def test_what_is_no_sound_is_told_in_one_line(sound: np.ndarray, rate: int, text: str) -> None:
    with pytest.raises(SoundError, match=text) as told:
        hear(sound, rate)
    assert "\n" not in str(told.value)


# Reading -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", QUADRANTS)
def test_the_critic_reads_the_quadrant_of_a_plain_piece(critic: MusicCritic, name: str) -> None:
    (reading,) = critic.read([QUARTET[name]])
    assert quadrant(reading) == name
    assert QUADRANTS[int(critic.quadrants([QUARTET[name]]).argmax())] == name


def test_the_reader_hears_arousal_and_mode(reader: MusicReader) -> None:
    sounds = [played(QUARTET[name]) for name in QUADRANTS]
    one, two, three, four = reader.read(sounds)
    assert min(one.vad_mean[1], two.vad_mean[1]) > max(three.vad_mean[1], four.vad_mean[1])
    assert min(one.vad_mean[0], four.vad_mean[0]) > max(two.vad_mean[0], three.vad_mean[0])


def test_readings_are_distributions_with_intensities(critic: MusicCritic) -> None:
    for reading in critic.read(list(QUARTET.values())):
        assert sum(reading.probabilities) == pytest.approx(1)
        assert min(reading.probabilities) >= 0
        assert all(0 <= i <= 1 for i in reading.intensities)
        assert all(v > 0 for v in reading.vad_variance)
        assert 0 <= reading.in_domain <= 1
        assert reading.reader == "critic-music"
    assert critic.read([]) == []


def test_intensity_grows_along_an_emotion(critic: MusicCritic) -> None:
    model = critic.model
    for k, emotion in enumerate(CORE):
        x = model.centre + model.scale * model.emotions[k] * np.array([[0.25], [0.6], [1.0]])
        readings = model.readings(x, "x")
        own = [reading.intensities[k] for reading in readings]
        assert own[0] < own[1] < own[2], emotion
        assert readings[2].probabilities[0] < readings[0].probabilities[0]


def test_a_piece_at_the_centre_is_neutral(critic: MusicCritic) -> None:
    reading = critic.model.readings(critic.model.centre[None], "x")[0]
    assert reading.dominant == "neutral"
    assert np.argmax(reading.probabilities) == 0
    assert np.abs(reading.vad_mean[:2]).max() < 0.05


def test_ranking_by_soft_score_picks_quadrant_and_level(critic: MusicCritic) -> None:
    readings = dict(zip(QUARTET, critic.read(list(QUARTET.values())), strict=True))
    for emotion, name in (("happiness", "Q1"), ("anger", "Q2"), ("sadness", "Q3"),
                          ("contentment", "Q4")):  # fmt: skip
        target = np.zeros(13)
        target[0], target[1 + CORE.index(emotion)] = 0.3, 0.7
        assert max(readings, key=lambda q, t=target: soft_score(readings[q], t)) == name
    model, k = critic.model, CORE.index("sadness")
    weak, strong = model.readings(
        model.centre + model.scale * model.emotions[k] * np.array([[0.2], [1.0]]), "x"
    )
    for level, better, worse in ((0.15, weak, strong), (0.95, strong, weak)):
        target = np.zeros(13)
        target[0], target[1 + k] = 1 - level, level
        assert soft_score(better, target) > soft_score(worse, target)


def test_missing_features_tell_nothing(critic: MusicCritic) -> None:
    nothing = critic.model.deviations(np.full(len(critic.names), np.nan))
    assert not nothing.any()
    empty = Piece.of([], [], [])
    (reading,) = critic.read([empty])
    assert reading.in_domain == 0
    assert reading.dominant == "neutral"


def test_quadrants_of_the_signs_are_right(critic: MusicCritic, reader: MusicReader) -> None:
    for model in (critic.model, reader.model):
        p = model.quadrants(2 * SIGNS @ model.loadings.T)
        assert p.argmax(1).tolist() == [0, 1, 2, 3]


def test_noise_is_not_like_music(critic: MusicCritic, reader: MusicReader) -> None:
    rng = np.random.default_rng(0)
    noise = rng.uniform(-0.9, 0.9, 10 * RATE).astype(np.float32)
    assert reader.read([noise])[0].abstains
    n = 3000
    piano_cat = Piece.of(
        rng.uniform(0, 40, n), 0.05, rng.integers(0, 128, n), rng.integers(1, 128, n)
    )
    assert critic.read([piano_cat])[0].abstains


# Over time ---------------------------------------------------------------------------------------


def test_readings_over_time_follow_a_change(critic: MusicCritic, reader: MusicReader) -> None:
    calm = tune(MINOR, lively=0.1, bars=6)
    lively = tune(MAJOR, lively=0.9, bars=12)
    piece = calm.then(lively)
    at = calm.seconds
    times, valence, arousal = critic.read_over_time(piece)
    assert len(times) == len(valence) == len(arousal)
    before, after = times < at - 3, times > at + 3
    assert arousal[after].min() > arousal[before].max()
    assert valence[after].mean() > valence[before].mean()
    sound = played(piece, seconds=30.0)
    times, valence, arousal = reader.read_over_time(sound)
    assert times[-1] == pytest.approx(29.0)
    assert arousal[times > at + 3].mean() > arousal[times < at - 3].mean()
    assert valence[times > at + 3].mean() > valence[times < at - 3].mean()


def test_a_pause_takes_the_reading_of_its_neighbours(critic: MusicCritic) -> None:
    loud = tune(MAJOR, lively=0.9, bars=4)
    gap = replace(loud, bars=12)
    _, _, arousal = critic.read_over_time(gap)
    assert np.isfinite(arousal).all()
    assert arousal.min() > 0
    silent = Piece.of([], [], [], bars=4)
    assert not critic.read_over_time(silent)[1].any()


def test_windows_of_no_length_are_refused(critic: MusicCritic) -> None:
    with pytest.raises(ValueError, match="window and step"):
        critic.read_over_time(QUARTET["Q1"], window=0)


# Files -------------------------------------------------------------------------------------------


def test_saved_and_loaded_is_the_same_model(critic: MusicCritic, tmp_path: Path) -> None:
    save_music_critic(critic, tmp_path / "again")
    again = load_music_critic(tmp_path / "again")
    assert again.digest == critic.digest
    assert again.name == critic.name
    assert again.read([QUARTET["Q2"]]) == critic.read([QUARTET["Q2"]])
    other = replace(critic.model, centre=critic.model.centre + 1e-6)
    assert other.digest != critic.digest


def test_folders_that_are_no_critic_are_told(critic: MusicCritic, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="critic-music"):
        load_music_critic("nothing-here")
    folder = tmp_path / "odd"
    save_music_critic(critic, folder)
    config = json.loads((folder / "config.json").read_text())
    for change, text in (
        ({"_class_name": "Other"}, "holds a Other"),
        ({"features": ["aroma"]}, "aroma"),
    ):
        (folder / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(ValueError, match=text):
            load_music_critic(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        load_music_critic(folder)


def test_models_read_what_this_version_measures(critic: MusicCritic, reader: MusicReader) -> None:
    assert set(critic.names) <= set(FEATURES)
    assert "tempo_est" not in critic.names
    assert set(reader.names) <= set(HEARD)
    with pytest.raises(ValueError, match="the model reads"):
        critic.model.deviations(np.zeros((2, 3)))
    for model in (critic.model, reader.model):
        assert np.linalg.eigvalsh(model.precision).min() > 0
