"""The sample of speech that ships: what tests and demos rest on, and its recipe."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from adapters.assets import ASSETS
from adapters.voice_analysis import analyse
from pipelines.manifest import row
from pipelines.media import read_metadata
from pipelines.media_sound import load_sound
from pipelines.speech import ENGLISH, SPEAKER, espeak, speak
from training import samples

SPEECH = ASSETS / "samples" / samples.NAME


def test_it_is_speech_of_two_phrases() -> None:
    sound = load_sound(SPEECH)
    assert (sound.waveform.shape[0], sound.sample_rate, sound.ext) == (1, 22_050, "wav")
    assert 4 < sound.seconds < 6
    assert np.abs(sound.waveform).max() == pytest.approx(0.5, abs=1e-3), "nothing is clipped"
    found = analyse(sound.waveform, sound.sample_rate)
    said = found.voiced & found.speech
    assert 150 < np.median(found.f0[said]) < 230
    assert 2 < np.std(12 * np.log2(found.f0[said])) < 4, "neither monotonous nor excited"
    assert 10 < found.hnr[said].mean() < 18
    assert not found.speech[:4].any()
    assert not found.speech[-4:].any()
    middle = found.energy[len(found) // 3 : -len(found) // 3]
    assert middle.min() < middle.max() - 25, "a pause between the phrases"


def test_it_is_small_free_and_says_what_it_is() -> None:
    entry = row("samples")
    assert entry["licence"] == "CC0-1.0"
    assert entry["bytes"] < 1_000_000  # the faces beside it too
    about = read_metadata(SPEECH)
    assert about["digital_source"].endswith("/algorithmicMedia")
    assert about["parameters"].startswith(samples.TEXT)


def test_both_readers_hear_it_as_neutral_speech() -> None:
    """They were made for people: what was measured is in the sample's card."""
    from adapters.voice_critic import load_voice_critic

    sound = load_sound(SPEECH)
    for name in ("critic-voice", "reader-voice"):
        reading = load_voice_critic(name).read([sound.waveform[0]], None, sound.sample_rate)[0]
        assert reading.probabilities[0] > 0.6
        assert reading.in_domain > 0.01, "it is not unlike all speech"


@pytest.mark.skipif(espeak() is None, reason="espeak-ng is not installed")
def test_the_recipe_makes_it_again(tmp_path: Path) -> None:
    samples.main(["--assets", str(tmp_path)])
    made = tmp_path / "samples" / samples.NAME
    if read_metadata(made)["parameters"] != read_metadata(SPEECH)["parameters"]:
        pytest.skip("another release of espeak-ng than the sample's")
    before, now = load_sound(SPEECH).waveform, load_sound(made).waveform
    assert before.shape == now.shape
    # not byte by byte: sums of numpy differ with the processor
    assert np.abs(before - now).max() < 2e-3
    plain, rate, _ = speak(samples.TEXT, speaker=SPEAKER, language=ENGLISH)
    assert rate == 22_050
    assert abs(len(plain) - now.shape[1]) < 0.1 * rate
