"""What is asked of a voice as a whole is what its sound comes to."""

from __future__ import annotations

import numpy as np
import pytest

from adapters.emotion import CORE
from adapters.voice_analysis import RATE, Analysis, analyse
from adapters.voice_cues import cues
from adapters.voice_edit import VoiceEdit
from pipelines.voice_follow import ROUNDS, followed, goal_of, level_of
from pipelines.voice_render import render
from tests import speech

SOUND = (0.2 * speech.sentence()).astype(np.float32)
SOURCE = analyse(SOUND, RATE)


def heard(edit: VoiceEdit) -> tuple[np.ndarray, Analysis]:
    sound = render(SOUND, RATE, SOURCE, edit)
    return sound, analyse(sound, RATE)


def track(emotion: str, intensity: float) -> np.ndarray:
    out = np.zeros((len(SOURCE), len(CORE)))
    out[:, CORE.index(emotion)] = intensity
    return out


def taken(seed: int = 0) -> VoiceEdit:
    """A take that says nothing about the emotion: wandering pitch, level and time."""
    rng = np.random.default_rng(seed)
    waves = np.cumsum(rng.normal(0, 0.3, (3, len(SOURCE))), axis=1)
    waves -= waves.mean(axis=1, keepdims=True)
    return VoiceEdit.constant(
        len(SOURCE), semitones=waves[0], energy_db=waves[1], log_stretch=0.05 * waves[2]
    )


@pytest.mark.parametrize("emotion", ["anger", "sadness", "happiness"])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_sound_has_what_was_asked(emotion: str, seed: int) -> None:
    goal = goal_of(track(emotion, 0.6), 1.0)
    edit, sound, made = followed(heard, SOURCE, taken(seed), goal)
    before, after = cues(SOURCE), cues(made)
    assert after["pitch_mean"] - before["pitch_mean"] == pytest.approx(
        goal.cues["pitch_mean"], abs=0.4
    )
    assert after["alpha_ratio"] - before["alpha_ratio"] == pytest.approx(
        goal.cues["alpha_ratio"], abs=0.6
    )
    assert level_of(SOURCE, edit) == pytest.approx(goal.level, abs=0.05)
    assert made.level - SOURCE.level == pytest.approx(goal.level, abs=0.5)
    assert len(sound) / len(SOUND) == pytest.approx(goal.duration, rel=0.02)


def test_more_asked_is_more_heard() -> None:
    found = []
    for level in (0.2, 0.5, 1.0):
        _, _, made = followed(heard, SOURCE, taken(), goal_of(track("sadness", level), 1.0))
        found.append((cues(made)["alpha_ratio"], -made.seconds, made.level))
    assert found == sorted(found, reverse=True)
    assert all(np.diff(column).max() < 0 for column in np.array(found).T)


def test_nothing_asked_is_one_rendering_as_it_is() -> None:
    calls = []

    def counted(edit: VoiceEdit) -> tuple[np.ndarray, Analysis]:
        calls.append(edit)
        return heard(edit)

    edit = taken()
    assert followed(counted, SOURCE, edit, goal_of(track("anger", 0.0), 1.0))[0] is edit
    assert len(calls) == 1
    calls.clear()
    followed(counted, SOURCE, edit, goal_of(track("anger", 0.5), 1.0))
    assert 1 < len(calls) <= ROUNDS + 1


def test_locked_groups_stay_as_they_are() -> None:
    locks = dict.fromkeys(("pitch", "timing", "timbre", "level"), 0.0)
    edit = VoiceEdit.identity(len(SOURCE))
    kept, sound, _ = followed(heard, SOURCE, edit, goal_of(track("anger", 1.0), 1.0, locks))
    assert kept.is_identity
    assert np.array_equal(sound, SOUND)


def test_a_course_is_left_as_it_was_drawn() -> None:
    """A step of the pitch between two emotions is no melody that is too wide."""
    asked = track("anger", 0.8)
    asked[: len(asked) // 2] = 0.0
    edit = VoiceEdit.constant(len(SOURCE), semitones=np.where(asked.any(axis=1), 5.0, 0.0))
    goal = goal_of(asked, 1.0)
    kept, _, _ = followed(heard, SOURCE, edit, goal)
    assert kept is edit
    assert goal.changes(SOURCE) == {}


@pytest.mark.parametrize("emotion", ["sadness", "excitement", "disgust"])
def test_more_is_never_shorter_than_less_nor_without_end(emotion: str) -> None:
    goals = [
        goal_of(track(emotion, level), 1.3, {"timing": gain}).duration
        for gain in (0.5, 1.0, 2.0, 3.0)
        for level in (0.5, 1.0, 2.0)
    ]
    lengths = np.array(goals).reshape(4, 3)
    away = np.abs(np.log(lengths))
    assert (np.diff(away, axis=1) >= 0).all()
    assert (np.diff(away, axis=0) >= 0).all()
    assert (lengths <= 2.51).all()
    assert (lengths >= 0.39).all()


def test_of_two_people_the_melody_is_not_one() -> None:
    assert "pitch_sd" in goal_of(track("anger", 1.0), 1.0).cues
    assert "pitch_sd" not in goal_of(track("anger", 1.0), 1.0, melody=False).cues
    assert goal_of(track("anger", 1.0), 1.0, timed=False).duration is None
