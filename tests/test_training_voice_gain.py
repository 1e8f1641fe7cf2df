"""How much stronger a voice has to be moved: the factor solved for, and what it rests on."""

from __future__ import annotations

import numpy as np
import pytest

from adapters.voice_critic import VoiceCritic
from tests.test_voice_critic import spoken
from tests.test_voice_model import tiny
from training.voice_gain import MOST, STEPS, measure, solve, statistics_of


def test_the_factor_is_where_the_line_reaches_what_is_wanted() -> None:
    assert solve(STEPS, [0.6, 0.78], 0.72) == pytest.approx(1.2)
    assert solve(STEPS, [0.9, 1.1], 0.77) == 1.0  # heard already: nothing is weakened
    assert solve(STEPS, [0.2, 0.22], 0.77) == MOST  # and nobody acted more than that
    assert solve(STEPS, [0.6, 0.4], 0.77) == 1.0


def test_stronger_changes_are_heard_farther_off() -> None:
    from adapters.voice_analysis import analyse

    critic, sound = VoiceCritic(width=16, embed=16, members=1).eval(), 0.3 * spoken()
    found = measure(tiny(), critic, [(sound, statistics_of(analyse(sound, 16000)))])
    assert set(found) == {"happiness", "anger", "disgust", "fear", "sadness", "boredom"}
    far = np.array(list(found.values()))
    assert far.shape == (6, len(STEPS))
    assert np.isfinite(far).all()
    assert len(np.unique(far.round(6))) > 6
