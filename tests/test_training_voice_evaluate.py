"""The evaluation of converted voices: what is noted of a take, and figures of known rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from adapters.emotion import CORE
from adapters.voice_critic import load_voice_critic
from adapters.voice_edit import VoiceEdit
from adapters.voice_reading import CLASSES
from pipelines.voice_follow import level_of
from pipelines.voice_model import Sampling
from tests.test_voice_critic import spoken
from tests.test_voice_model import tiny
from training.voice_critic_data import Clip
from training.voice_evaluate import (
    Panel,
    Take,
    by_person,
    clicks,
    converted,
    plain,
    row,
    words,
)
from training.voice_evaluate_report import (
    ACTED,
    asked_signs,
    best_of_two,
    cue_figures,
    false_alarms,
    grouped,
    markdown,
    recognised,
    summary,
)

LEVELS = (0.2, 0.4, 0.6, 0.8, 1.0)


def test_intervals_are_over_recordings() -> None:
    sure = grouped([1.0] * 8 + [0.0] * 8, ["a"] * 8 + ["b"] * 8)
    many = grouped([1.0, 0.0] * 8, [str(k) for k in range(16)])
    assert sure == (0.5, 0.0, 1.0)  # two recordings, however many takes of each
    assert 0.2 < many[1] < many[2] < 0.8
    assert np.isnan(grouped([float("nan")], ["a"])[0])


def test_cues_that_are_hardly_asked_for_are_not_held_against_an_emotion() -> None:
    assert asked_signs("anger")["pitch_mean"] == 1
    assert asked_signs("sadness")["rate"] == -1
    assert "pitch_sd" not in asked_signs("fear")


def noted(clip: str, emotion: str, level: float, seed: int = 0, **more: Any) -> dict[str, Any]:
    """A row as the evaluation notes it: every cue follows the intensity, sadness is read angry."""
    said = "anger" if emotion == "sadness" else emotion
    heard = np.eye(7)[CLASSES.index(said if level > 0.5 else "neutral")].tolist()
    signs = asked_signs(emotion) if emotion != "neutral" else {}
    cues = {
        name: level * signs.get(name, 0.0)
        for name in ("pitch_mean", "pitch_sd", "alpha_ratio", "level",
                     "level_sd", "breath", "hnr")
    }  # fmt: skip
    return {
        "clip": clip, "person": clip[:1], "emotion": emotion, "level": level, "seed": seed,
        "way": "model", "before": dict.fromkeys(cues, 0.0), "cues": cues, "clicks": 0.0,
        "clicks_before": 0.0, "similarity": 1.0 if level == 0 else 0.5, "similarity_others": 0.3,
        "critic": heard, "reader": heard, "critic_alone": heard, "reader_alone": heard,
        "critic_intensities": [level] * 12, "reader_intensities": [level] * 12,
        "scores": [float(seed)] * 12, "peak": 0.9, "content": 0.5,
        "seconds": 2.0 * float(np.exp(-level * signs.get("rate", 0.0))),
        "level_db": level, "asked_db": level,
    } | more  # fmt: skip


def course() -> list[dict[str, Any]]:
    rows = []
    for clip in ("a1", "a2", "b1"):
        rows.append(noted(clip, "neutral", 0.0))
        for name in ACTED:
            rows += [noted(clip, name, level) for level in LEVELS]
            rows += [noted(clip, name, 1.0, seed) for seed in (1, 2)]
    return rows


def test_cues_that_follow_are_one_and_those_that_turn_are_not() -> None:
    found = cue_figures(course())
    assert found["all"] == (1.0, 1.0, 1.0)
    assert found["clips"] == 3
    turned = [
        {**r, "cues": {k: -v for k, v in r["cues"].items()}, "seconds": 1 / r["seconds"]}
        for r in course()
    ]
    assert cue_figures(turned)["emotions"]["anger"][0] == -1


def test_every_emotion_counts_alike_and_confusions_are_named() -> None:
    full = [r for r in course() if r["level"] == 1]
    found = recognised(full, "reader")
    assert found["all"][0] == pytest.approx(5 / 6)
    assert found["emotions"]["sadness"][0] == 0
    assert found["confusion"][ACTED.index("sadness")][CLASSES.index("anger")] == 9
    uneven = full + [noted("b2", "sadness", 1.0) for _ in range(30)]
    assert recognised(uneven, "reader")["all"][0] == pytest.approx(5 / 6)
    # 9 of 54 takes are read as one emotion of the five that they do not ask for.
    assert false_alarms(full, "reader")[0] == pytest.approx(1 / 6 / 5)


def test_of_two_takes_the_critic_has_its_choice_whatever_the_reader_says() -> None:
    full = [r for r in course() if r["level"] == 1]
    chosen = best_of_two(full)
    assert len(chosen) == 3 * len(ACTED)
    assert {r["seed"] for r in chosen} == {1}  # the higher score; seed 2 is no candidate


def test_the_page_tells_every_figure() -> None:
    acted = [noted(clip, name, 1.0, way="real") for clip in ("a1", "b1") for name in ACTED]
    calm = [noted(clip, "neutral", 0.0, way="real") for clip in ("a1", "a2", "b1")]
    full = [noted("a1", name, 1.0) for name in ACTED]
    found = summary(
        {
            "ladder": course(),
            "variants": [{**r, "way": way} for way in ("mean", "locked") for r in full],
            "full": full,
            "real": acted + calm,
            "unseen": [noted("p1", "neutral", 0.0), *[noted("p1", n, 1.0) for n in ACTED]],
            "people": [0.1, -0.1],
            "words": {"repeated": [0.8, 0.9], "unrelated": [1.0, 1.1]},
            "pesq": None,
            "speed": {"clip": {"seconds": 2.0, "analysis": 0.1}},
        }
    )
    text = markdown(found)
    assert "0.83 (" in text
    assert "PESQ against the source: not measured" in text
    assert "nan" not in text
    assert found["levels"]["0.2"]["reader"][0] == 0
    assert found["locked"]["drift"][0] == 0


def test_a_click_is_found_and_speech_is_none() -> None:
    sound = spoken()
    assert clicks(sound) <= 1
    sound = sound.copy()
    sound[20000] += 0.3
    assert clicks(sound) >= 1


@pytest.fixture(scope="module")
def takes() -> list[Take]:
    def clip(name: str, mood: str, who: str) -> Clip:
        return Clip(name, "EmoDB", who, "m", mood, name[0], "test")

    return [
        Take.of(clip("x1", "neutral", "p"), 0.2 * spoken(120)),
        Take.of(clip("y1", "neutral", "p"), 0.2 * spoken(118, order=1)),
        Take.of(clip("x2", "neutral", "q"), 0.2 * spoken(200, size=1.15)),
    ]


def test_a_real_conversion_is_noted_with_both_readers(takes: list[Take]) -> None:
    panel = Panel(load_voice_critic("critic-voice"), load_voice_critic("reader-voice"),
                  by_person(takes))  # fmt: skip
    pipe = tiny()
    made, edit = converted(pipe, takes[0], "anger", 1.0, 0, Sampling(steps=2))
    found = row(panel, takes[0], made, edit, "anger", 1.0)
    for judge in ("reader", "reader_alone", "critic", "critic_alone"):
        assert sum(found[judge]) == pytest.approx(1)
    assert len(found["scores"]) == len(CORE)
    assert found["cues"]["pitch_mean"] > found["before"]["pitch_mean"] + 2
    assert found["level"] == pytest.approx(1.0)
    still = plain(takes[0])
    assert np.array_equal(still.sound, takes[0].sound)
    assert level_of(
        takes[0].analysis, VoiceEdit.constant(len(takes[0].analysis), energy_db=3)
    ) == pytest.approx(3, abs=0.01)
    assert len(words(takes)["unrelated"]) == 1
