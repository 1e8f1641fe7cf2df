"""Which way emotions should move the cues of a voice."""

from __future__ import annotations

import numpy as np
import pytest

from adapters.emotion import CORE, Emotion
from adapters.voice_cues import CUES
from adapters.voice_expected import LOCKED, expected, with_expected


def test_signs_are_those_of_the_literature() -> None:
    """Juslin and Laukka (2003): anger high, bright, loud; sadness low, slow, soft, breathy."""
    anger, sadness = (expected(Emotion.of(name, 1.0).array) for name in ("anger", "sadness"))
    assert min(anger[name] for name in ("pitch_mean", "alpha_ratio", "level")) > 0
    assert max(sadness[name] for name in ("pitch_mean", "syllable_rate", "level")) < 0
    assert sadness["breath"] > 0
    assert set(anger) | set(sadness) <= set(CUES)


def test_what_is_expected_grows_with_the_intensity_and_is_nothing_at_none() -> None:
    half, full = (expected(Emotion.of("anger", level).array) for level in (0.5, 1.0))
    assert full["pitch_mean"] == pytest.approx(2 * half["pitch_mean"])
    assert expected(np.zeros(len(CORE))) == {}


def test_a_course_counts_with_its_mean() -> None:
    anger = Emotion.of("anger", 1.0).array
    course = np.stack([np.zeros(len(CORE)), anger])
    assert expected(course) == pytest.approx(expected(anger / 2))


@pytest.mark.parametrize("lock", LOCKED)
def test_nothing_is_expected_of_what_is_locked(lock: str) -> None:
    state = Emotion.of("sadness", 1.0).array
    assert not set(expected(state, [lock])) & set(LOCKED[lock])
    assert set(LOCKED[lock]) & set(expected(state))


def test_rows_keep_what_they_say() -> None:
    rows = [{"name": "level", "change": 1.0}, {"name": "hnr", "change": 2.0}]
    level, hnr = with_expected(rows, Emotion.of("anger", 1.0).array)
    assert level["expected"] > 0
    assert (level["change"], hnr) == (1.0, {"name": "hnr", "change": 2.0, "expected": None})
