"""What a voice is made of: two people told apart, long recordings in pieces, weighed edits."""

from __future__ import annotations

import numpy as np
import pytest

from adapters.voice_analysis import RATE, analyse
from adapters.voice_cues import cues
from adapters.voice_edit import VoiceEdit
from pipelines.voice import LOCKS, job_of
from pipelines.voice_follow import level_of
from pipelines.voice_long import cuts, fitted, rendered
from pipelines.voice_maker import Source, candidates_of, weighed
from pipelines.voice_model import VoicePipeline
from pipelines.voice_people import as_one, people_of
from pipelines.voice_render import render, time_warp
from tests import speech
from tests.voice_contracts import CALM, model_of, request


@pytest.fixture(scope="module")
def model() -> VoicePipeline:
    return model_of("voice-tiny")


def pitch(waveform: np.ndarray, rate: int) -> float:
    return cues(analyse(waveform, rate))["pitch_mean"]


# Edits -----------------------------------------------------------------------------------------


def test_locks_hold_exactly_and_gains_are_proportional() -> None:
    rng = np.random.default_rng(0)
    rows = rng.uniform(-1, 1, (50, 28)).astype(np.float32)
    wavering = rng.uniform(0, 1, (2, 50)).astype(np.float32)
    plain = VoiceEdit.from_rows(rows)
    edit = VoiceEdit(
        plain.semitones, plain.energy_db, plain.log_stretch, plain.bands, plain.breath, *wavering
    )
    ones = dict.fromkeys(LOCKS, 1.0)
    assert weighed(edit, ones) is edit
    groups = {
        "pitch": ("semitones", "tremor", "creak"), "timing": ("log_stretch",),
        "level": ("energy_db",), "timbre": ("bands",), "breath": ("breath",),
    }  # fmt: skip
    for name, fields in groups.items():
        for factor in (0.0, 0.5):
            found = weighed(edit, ones | {name: factor})
            for every in ("semitones", "tremor", "creak", "log_stretch", "energy_db", "bands"):
                wanted = getattr(edit, every) * (factor if every in fields else 1)
                np.testing.assert_array_equal(getattr(found, every), wanted)
    assert weighed(edit, ones | {"pitch": 3.0}).creak.max() <= 1


def test_a_length_is_reached_within_the_limits() -> None:
    edit = VoiceEdit.constant(200, log_stretch=np.linspace(-1, 1, 200))
    duration = 199 * 0.016
    for seconds in (0.3 * duration, duration, 3.5 * duration):
        found = fitted(edit, duration, seconds)
        assert time_warp(found, duration, None)[1][-1] == pytest.approx(seconds, abs=1e-3)


def test_an_asked_level_is_that_of_the_speech() -> None:
    analysis = analyse(0.5 * speech.sentence(), RATE)
    flat = VoiceEdit.constant(len(analysis), energy_db=3, log_stretch=0.3)
    assert level_of(analysis, flat) == pytest.approx(3, abs=1e-6)
    silent = analyse(np.zeros(8000, np.float32), RATE)
    assert level_of(silent, VoiceEdit.identity(len(silent))) == 0


# Two people ------------------------------------------------------------------------------------


def dialogue(low: float = 100.0, high: float = 210.0) -> np.ndarray:
    """Two voices in turn, 7.6 s."""
    return np.concatenate(
        [speech.sentence(pitch=p) * (0.4 if p == low else 0.7) for p in (low, high, low, high)]
    )


def test_two_people_are_told_apart_and_one_is_one() -> None:
    analysis = analyse(dialogue(), RATE)
    people = people_of(analysis)
    truth = np.repeat([0, 1, 0, 1], len(analysis) // 4 + 1)[: len(analysis)]
    assert (people == truth)[analysis.voiced].all()
    one = analyse(np.concatenate([speech.sentence(pitch=p) for p in (100, 118, 110, 125)]), RATE)
    assert not people_of(one).any()
    assert not people_of(analyse(np.zeros(16000, np.float32), RATE)).any()
    assert as_one(one, people_of(one)) is one


def test_each_of_two_people_moves_from_their_own_register(model: VoicePipeline) -> None:
    """In company each voice is changed as it is alone: the same semitones, no wider apart."""

    def shifts(sound: np.ndarray) -> np.ndarray:
        source = Source.of(sound[None, :].astype(np.float32), RATE)
        job = job_of(request("happiness 1", lock="timing", **CALM), pipeline=model)
        made = candidates_of(job, source, model, 7, lambda done: None)[0]
        quarter = round(1.9 * RATE)
        return np.array(
            [
                pitch(made.waveform[:, k : k + quarter], RATE) - pitch(sound[k : k + quarter], RATE)
                for k in range(0, len(sound), quarter)
            ]
        )

    sound = dialogue()
    quarter = len(sound) // 4
    together = shifts(sound)
    alone = [shifts(part)[0] for part in np.split(sound[: 4 * quarter], 4)]
    assert together == pytest.approx(alone, abs=0.6)
    assert together[0::2].mean() == pytest.approx(together[1::2].mean(), abs=0.6)


# Long recordings -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lecture() -> tuple[np.ndarray, int]:
    """7.6 s in stereo at 24 kHz, with pauses."""
    x = np.concatenate([0.5 * speech.sentence(24000, pitch=p) for p in (120, 110) * 2])
    return np.stack([x, 0.8 * x]).astype(np.float32), 24000


def test_pieces_are_cut_in_pauses(lecture: tuple[np.ndarray, int]) -> None:
    x, rate = lecture
    analysis = analyse(x, rate)
    assert cuts(analysis) == []
    places = cuts(analysis, 3.0)
    assert len(places) >= 2
    assert not analysis.speech[places].any()
    edges = np.diff([0, *places, len(analysis)]) * 0.016
    assert edges.max() <= 3.0
    # a voice without a pause is cut where it is faintest
    steady = analyse(np.tile(speech.voiced(speech.glide(120, 130, 2.0)), 3), RATE)
    assert len(cuts(steady, 2.0)) >= 3


@pytest.mark.parametrize("seconds", [None, 13.0])
def test_pieces_join_without_a_seam(lecture: tuple[np.ndarray, int], seconds: float | None) -> None:
    """In pieces it sounds as it does whole, and no sample leaps where they meet."""
    x, rate = lecture
    analysis = analyse(x, rate)
    ramp = np.linspace(0, 1, len(analysis))
    edit = VoiceEdit.constant(
        len(analysis), semitones=4 * ramp, energy_db=-6 * ramp, log_stretch=0.2 * ramp,
        bands=np.outer(ramp, np.linspace(-4, 4, 24)), breath=3 * ramp,
    )  # fmt: skip
    shares: list[float] = []
    pieces = rendered(x, rate, analysis, edit, seconds=seconds, longest=3.0, on_piece=shares.append)
    whole = render(x, rate, analysis, edit, seconds=seconds)
    assert pieces.shape == whole.shape
    assert shares[-1] == 1
    assert len(shares) == len(cuts(analysis, 3.0)) + 1
    assert np.abs(np.diff(pieces, 2)).max() <= 1.1 * np.abs(np.diff(whole, 2)).max()
    one, other = analyse(pieces, rate), analyse(whole, rate)
    both = one.speech & other.speech
    assert both.mean() > 0.6
    assert np.abs(one.energy - other.energy)[both].mean() < 0.5
    tone = one.voiced & other.voiced
    cents = 1200 * np.log2(one.f0[tone] / other.f0[tone])
    assert np.median(np.abs(cents)) < 10
    # seams are crossfaded in pauses: what is heard there is no louder than the pauses are
    for frame in cuts(analysis, 3.0):
        assert analysis.energy[frame] < analysis.level - 25
