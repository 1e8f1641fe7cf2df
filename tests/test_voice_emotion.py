"""Directions of the voice: parts of speech, proportion, cues of each emotion, fitting, files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from adapters.emotion import CORE, VAD
from adapters.voice_analysis import BAND_CENTRES
from adapters.voice_edit import LIMITS, TARGETS
from adapters.voice_emotion import (
    BAND,
    BREATH,
    COLOUR,
    CUES,
    ENERGY,
    ENERGY_RANGE,
    HIGHEST,
    LOWEST,
    PARTS,
    SEMITONES,
    STRETCH,
    Difference,
    VoiceDirections,
    VoiceEmotionError,
    contours,
    cue_table,
    fit,
    frame_parts,
    loud_level,
    phrases,
    tilt_of,
    tilt_shape,
)

HOP = 0.016


def unit(name: str, intensity: float = 1.0) -> np.ndarray:
    out = np.zeros(len(CORE))
    out[CORE.index(name)] = intensity
    return out


def frames(rng: np.random.Generator, count: int = 240) -> tuple[np.ndarray, np.ndarray]:
    """Parts and contours of two phrases with a pause, voiced two frames in three."""
    speech = np.ones(count, dtype=bool)
    speech[:10] = speech[-10:] = speech[110:135] = False
    voiced = speech & (np.arange(count) % 9 < 6)
    semitones = 84 + 2 * np.sin(np.arange(count) / 15) + rng.normal(0, 0.1, count)
    energy = np.where(speech, -20.0, -70.0) + rng.normal(0, 1, count)
    return frame_parts(voiced, speech, HOP), contours(semitones, voiced, energy, speech)


@pytest.fixture(scope="module")
def literature() -> VoiceDirections:
    return fit({}, BAND_CENTRES)


def test_frames_belong_to_parts_that_sum_to_one() -> None:
    parts, _ = frames(np.random.default_rng(0))
    assert parts.shape == (240, 7)
    assert np.allclose(parts.sum(axis=1), 1)
    assert (parts >= 0).all()
    assert parts[5, PARTS.index("silent")] == 1
    assert parts[12, PARTS.index("voiced.begin")] > 0.9
    assert parts[58, PARTS.index("voiced.middle")] == 1
    assert parts[108, [PARTS.index("voiced.end"), PARTS.index("unvoiced.end")]].max() > 0.9


def test_short_gaps_do_not_end_a_phrase() -> None:
    speech = np.ones(100, dtype=bool)
    speech[40:50] = False  # .16 s
    assert phrases(speech, HOP) == [(0, 100)]
    speech[40:60] = False  # .32 s
    assert phrases(speech, HOP) == [(0, 40), (60, 100)]
    assert phrases(np.zeros(20, dtype=bool), HOP) == []


def test_octave_errors_do_not_reach_the_contour() -> None:
    voiced = np.ones(50, dtype=bool)
    semitones = np.full(50, 84.0)
    semitones[20] += 24
    found = contours(semitones, voiced, np.zeros(50), voiced)
    assert found[20, 0] == pytest.approx(9)
    assert np.all(found[:20] == 0)


def test_no_emotion_is_exactly_no_change(literature: VoiceDirections) -> None:
    parts, contour = frames(np.random.default_rng(1))
    assert np.array_equal(literature.edit(parts, contour, np.zeros(12)), np.zeros((240, 28)))


@pytest.mark.parametrize("name", CORE)
def test_changes_are_in_proportion_to_intensity(literature: VoiceDirections, name: str) -> None:
    parts, contour = frames(np.random.default_rng(2))
    half = literature.edit(parts, contour, unit(name, 0.3))
    whole = literature.edit(parts, contour, unit(name, 0.6))
    free = (whole > LOWEST + 1e-6) & (whole < HIGHEST - 1e-6)
    assert free.mean() > 0.9
    assert np.allclose(whole[free], 2 * half[free], atol=1e-5)
    assert np.abs(whole).max() > 0.5


def test_a_timeline_changes_only_where_there_is_emotion(literature: VoiceDirections) -> None:
    parts, contour = frames(np.random.default_rng(3))
    track = np.zeros((240, 12))
    track[120:] = unit("anger")
    found = literature.edit(parts, contour, track)
    assert not found[:120].any()
    assert found[150:200, SEMITONES].max() > 3


def test_changes_stay_between_their_limits(literature: VoiceDirections) -> None:
    parts, contour = frames(np.random.default_rng(4))
    found = literature.edit(parts, contour, 3 * unit("excitement"))
    assert (found <= HIGHEST).all()
    assert (found >= LOWEST).all()


def test_silence_is_stretched_but_neither_raised_nor_coloured(literature: VoiceDirections) -> None:
    parts, contour = frames(np.random.default_rng(5))
    found = literature.edit(parts, contour, unit("sadness"))
    silent = parts[:, -1] == 1
    assert (found[silent, STRETCH] > 0.1).all()
    assert not np.delete(found[silent], STRETCH, axis=1).any()


SIGNS = {  # juslin2003, banse1996, scherer2003: pitch, range, duration, tilt, level
    "anger": (1, 1, 0, 1, 1),
    "happiness": (1, 1, 0, 1, 1),
    "excitement": (1, 1, -1, 1, 1),
    "sadness": (-1, -1, 1, -1, -1),
    "love": (-1, -1, 1, -1, -1),
    "fear": (1, 0, -1, 1, 0),
    "surprise": (1, 1, 0, 1, 1),
    "boredom": (0, 0, 1, 0, -1),
}


@pytest.mark.parametrize("name", SIGNS)
def test_cues_have_the_signs_of_the_literature(literature: VoiceDirections, name: str) -> None:
    parts, contour = frames(np.random.default_rng(6))
    edit = literature.edit(parts, contour, unit(name))
    voiced = parts[:, :3].sum(axis=1) > 0
    pitch = contour[voiced, 0]
    measured = (
        edit[voiced, SEMITONES].mean(),
        np.std(pitch + edit[voiced, SEMITONES]) / np.std(pitch) - 1,
        edit[voiced, STRETCH].mean(),
        tilt_of(edit[voiced][:, BAND].mean(axis=0), BAND_CENTRES),
        edit[voiced, ENERGY].mean(),
    )
    for value, sign in zip(measured, SIGNS[name], strict=True):
        if sign:
            assert value * sign > 0.01


def test_fear_wavers_and_neutral_does_not(literature: VoiceDirections) -> None:
    parts, _ = frames(np.random.default_rng(13))
    silent = parts[:, -1] == 1
    tremor, creak = literature.wavering(parts, unit("fear")).T
    assert tremor[~silent].max() == pytest.approx(0.3)
    assert not tremor[silent].any()
    assert 0 < creak[~silent].max() < 0.2
    assert not literature.wavering(parts, unit("happiness"))[:, 1].any()
    assert not literature.wavering(parts, np.zeros(12)).any()
    assert literature.wavering(parts, 1.5 * np.ones(12)).max() <= LIMITS["creak"]


def test_strong_anger_and_joy_raise_pitch_by_six_semitones_at_most(
    literature: VoiceDirections,
) -> None:
    parts, contour = frames(np.random.default_rng(7))
    voiced = parts[:, :3].sum(axis=1) > 0
    for name in ("anger", "happiness"):
        edit = literature.edit(parts, contour, unit(name))
        assert edit[voiced, SEMITONES].mean() == pytest.approx(6, abs=0.1)


def test_a_point_of_valence_and_arousal_acts_without_a_name(literature: VoiceDirections) -> None:
    parts, contour = frames(np.random.default_rng(8))
    aroused = literature.edit(parts, contour, np.zeros(12), np.array([0.0, 0.8, 0.0]))
    calm = literature.edit(parts, contour, np.zeros(12), np.array([0.0, -0.8, 0.0]))
    voiced = parts[:, :3].sum(axis=1) > 0
    for column in (SEMITONES, ENERGY):
        assert aroused[voiced, column].mean() > 1
    assert np.allclose(aroused[voiced, BREATH], -calm[voiced, BREATH], atol=1e-5)


def test_the_factors_are_those_of_the_directions(literature: VoiceDirections) -> None:
    bank = literature.bank
    for name in (*PARTS, "tokens"):
        assert torch.allclose(
            bank.R[name] + torch.tensor(VAD).float() @ bank.W[name],
            bank.vectors[name],
            atol=1e-5,
        )
    assert bank.r_squared["tokens"] > 0.5  # directions at random give .25


def test_tilt_shape_has_no_level_and_a_ratio_of_one() -> None:
    shape = tilt_shape(BAND_CENTRES)
    assert shape.mean() == pytest.approx(0, abs=1e-9)
    assert tilt_of(shape, BAND_CENTRES) == pytest.approx(1)
    assert (np.diff(shape) > 0).all()


BRIGHT = 2.6 * tilt_shape(BAND_CENTRES)
FOLLOWS = 0.26 * np.linspace(-1, 1, len(BAND_CENTRES))


def acted(rng: np.random.Generator, pitch: float, breath: float) -> Difference:
    """A pair that changes pitch and breath by known amounts, ends higher, and is noisy."""
    parts, contour = frames(rng)
    values = rng.normal(0, 0.5, (240, 28))
    values[:, SEMITONES] += pitch + parts[:, [2, 5]].sum(axis=1)
    values[:, SEMITONES] += 0.117 * contour[:, 0]  # the range that disgust has, 1.09, at 1.3
    values[:, BREATH] += breath
    values[:, STRETCH] = 0.3 + rng.normal(0, 0.4, 240)
    said = parts[:, -1] == 0
    values[:, ENERGY] -= values[said, ENERGY].mean()
    known = np.repeat(said[:, None], len(TARGETS), axis=1)
    # Bands that follow the level: pairs are not read for it along the path, but told.
    level = contour[:, 1] - loud_level(parts, contour)
    values[:, BAND] += BRIGHT + (level * parts[:, :3].sum(axis=1))[:, None] * FOLLOWS
    return Difference(parts, contour, values, known, np.ones(240), FOLLOWS)


def test_measured_pairs_take_the_place_of_cues() -> None:
    rng = np.random.default_rng(9)
    pairs = [acted(rng, 2.6, -3.9) for _ in range(40)]
    found = fit({"disgust": pairs}, BAND_CENTRES)
    at = CORE.index("disgust")
    middle, end = (found.bank.vectors[f"voiced.{part}"][at].numpy() for part in ("middle", "end"))
    assert middle[SEMITONES] == pytest.approx(2.0, abs=0.25)  # 2.6 counts as intensity 1.3
    assert end[SEMITONES] - middle[SEMITONES] == pytest.approx(1 / 1.3, abs=0.2)
    assert middle[BREATH] == pytest.approx(-3.0, abs=0.25)
    # The whole lasts as long as the takes: exp of a noisy logarithm has a larger mean.
    assert middle[STRETCH] == pytest.approx((0.3 + 0.08) / 1.3, abs=0.05)
    row = cue_table()["emotions"]["disgust"]
    assert tilt_of(middle[BAND], BAND_CENTRES) == pytest.approx(2.0, abs=0.3)
    assert middle[COLOUR] == pytest.approx(FOLLOWS / 1.3, abs=1e-4)
    assert middle[ENERGY] == pytest.approx(row["level"], abs=0.3)
    assert middle[ENERGY_RANGE] == pytest.approx(row["dynamics"] - 1)
    unvoiced = found.bank.vectors["unvoiced.middle"][at].numpy()
    assert not unvoiced[COLOUR].any()
    other = fit({}, BAND_CENTRES).bank.vectors["voiced.middle"]
    rest = [k for k in range(len(CORE)) if k != at]
    kept = found.bank.vectors["voiced.middle"][rest]
    assert torch.equal(kept[:, : COLOUR.start], other[rest, : COLOUR.start])
    # Nobody recorded these: their bands follow the level as their tilt says.
    tilt = np.array([cue_table()["emotions"][CORE[k]]["tilt"] for k in rest])
    slope = kept[:, COLOUR].numpy() @ FOLLOWS
    assert np.corrcoef(tilt, slope)[0, 1] > 0.999


def test_accents_get_the_colour_and_weak_frames_keep_theirs() -> None:
    rng = np.random.default_rng(12)
    found = fit({"anger": [acted(rng, 5.0, 0.0) for _ in range(6)]}, BAND_CENTRES)
    parts, contour = frames(rng)
    voiced = parts[:, :3].sum(axis=1) > 0
    contour[:, 1] = np.where(voiced, 8 * np.sin(np.arange(240) / 5), 0.0)
    tilt = np.array(
        [tilt_of(row, BAND_CENTRES) for row in found.edit(parts, contour, unit("anger"))[:, BAND]]
    )
    loud, weak = (voiced & (sign * contour[:, 1] > 5) for sign in (1, -1))
    assert tilt[loud].mean() > tilt[weak].mean() + 1
    level = found.edit(parts, contour, unit("anger"))[:, ENERGY]
    assert level[loud].mean() > level[weak].mean() + 2
    weight = voiced * 10 ** (contour[:, 1] / 20)
    asked = cue_table()["emotions"]["anger"]["level"]
    assert np.average(level, weights=weight) == pytest.approx(asked, abs=0.1)


def test_more_pitch_than_intensity_one_may_have_is_taken_off() -> None:
    rng = np.random.default_rng(10)
    found = fit({"anger": [acted(rng, 11.0, 0.0) for _ in range(6)]}, BAND_CENTRES)
    at = CORE.index("anger")
    assert found.excess[at, SEMITONES] == pytest.approx(11.25 / 1.3 - 6, abs=0.4)
    assert found.bank.vectors["voiced.middle"][at, SEMITONES] < 6.1
    assert not found.excess[CORE.index("love")].any()


def test_directions_are_kept_exactly(tmp_path: Path) -> None:
    rng = np.random.default_rng(11)
    made = fit({"fear": [acted(rng, 5.0, 1.0)]}, BAND_CENTRES, "twelve takes")
    made = replace(made, gain=np.linspace(1, 1.3, 12))
    made.save(tmp_path / "directions.safetensors")
    found = VoiceDirections.load(tmp_path)
    assert found.digest == made.digest != replace(made, gain=np.ones(12)).digest
    assert np.array_equal(found.gain, made.gain)
    assert found.sources == "twelve takes"
    assert np.array_equal(found.excess, made.excess)
    assert np.array_equal(found.quality, made.quality)
    parts, contour = frames(rng)
    asked = (parts, contour, unit("fear"), np.array([0.1, 0.0, 0.0]))
    assert np.array_equal(found.edit(*asked), made.edit(*asked))


def test_what_is_no_direction_file_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"nothing of the kind")
    for path in (tmp_path / "x.safetensors", tmp_path / "absent"):
        with pytest.raises(VoiceEmotionError, match=r"^directions: [^\n]*run python -m"):
            VoiceDirections.load(path)


def test_rows_that_do_not_fit_are_refused(literature: VoiceDirections) -> None:
    parts, contour = frames(np.random.default_rng(12))
    with pytest.raises(VoiceEmotionError, match="240"):
        literature.edit(parts, contour, np.zeros((7, 12)))


def test_every_emotion_has_cues_with_known_sources() -> None:
    table = json.loads(CUES.read_text(encoding="utf-8"))
    assert tuple(table["emotions"]) == CORE
    for row in table["emotions"].values():
        assert set(row) - set(table["units"]) == {"hear", "basis", "sources"}
        assert set(row["sources"]) <= set(table["sources"])
        assert set(table["units"]) <= set(row)
