"""Recipe of the critics of voices: sessions, references, fits on made-up clips, figures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from adapters.voice_critic import CHANNELS, HNR, LEVEL, MEL, PITCH, VOICED
from adapters.voice_features import HEARD
from adapters.voice_reading import CLASSES
from adapters.voice_speaker import SIZE, fit_speaker
from training import voice_critic as recipe
from training import voice_critic_report as report
from training.voice_critic_data import NAMES, Clip, Measured, recorded

RATE = 16000


def clip(person: int, label: int, take: int, sentence: str = "a01") -> Clip:
    return Clip(
        path=f"{person}-{label}-{take}",
        dataset="EmoDB",
        speaker=f"emodb_{person:02d}",
        sex="f",
        emotion=CLASSES[label],
        sentence=sentence,
        split="train",
    )


def made_up(person: int, label: int, take: int, session: int = 0) -> Measured:
    """Frames in which each class has a pitch, a tilt and a noise of its own, each person a base."""
    rng = np.random.default_rng([person, label, take, session])
    count = int(rng.integers(80, 130))
    frames = np.zeros((count, CHANNELS), np.float32)
    frames[:, :MEL] = -20 + 3 * rng.normal(size=(count, MEL)) + person
    frames[:, :MEL] += np.linspace(-1, 1, MEL) * (label % 3) * 6
    frames[:, PITCH] = 10 + 2 * person + 1.5 * label + 0.3 * rng.normal(size=count)
    frames[:, VOICED] = 1
    frames[:, HNR] = 12 - 1.5 * (label % 4)
    frames[:, LEVEL] = -3 - np.abs(3 * rng.normal(size=count))
    heard = rng.normal(size=len(HEARD)) + person
    heard[:7] += 8 * np.eye(7)[label]
    return Measured(clip(person, label, take), session, frames, np.zeros(3), heard)


@pytest.fixture(scope="module")
def corpus() -> recipe.Corpus:
    rows = [
        made_up(person, label, take, session)
        for person in range(4)
        for label in range(7)
        for take in range(3)
        for session in range(2)
    ]
    return recipe.Corpus.of(rows)


def test_another_session_is_the_same_words_in_another_room() -> None:
    t = np.arange(2 * RATE) / RATE
    sound = (0.3 * np.sin(2 * np.pi * 200 * t) * (1 + np.sin(2 * np.pi * 4 * t))).astype(np.float32)
    assert recorded(sound, "x", 0, "a") is sound
    one, again = recorded(sound, "x", 1, "a"), recorded(sound, "x", 1, "a")
    np.testing.assert_array_equal(one, again)
    other = recorded(sound, "x", 2, "a")
    assert len(one) == pytest.approx(len(sound), rel=0.051)
    assert not np.array_equal(one[:1000], other[:1000])
    assert np.isfinite(one).all()
    assert np.abs(one).max() <= 1


def test_no_clip_is_its_own_reference(corpus: recipe.Corpus) -> None:
    for i, row in enumerate(corpus.rows):
        for j in corpus.of_speaker(i):
            other = corpus.rows[j]
            assert other.clip.target == 0
            assert (other.clip.speaker, other.session) == (row.clip.speaker, row.session)
            assert j != i
    part = corpus.only([i for i, row in enumerate(corpus.rows) if row.session == 1])
    assert len(part.rows) == len(corpus.rows) // 2
    assert all(part.rows[j].clip.target == 0 for j in part.of_speaker(5))
    assert len(part.of_speaker(5)) == 3 - (part.rows[5].clip.target == 0)


def test_held_out_people_and_sentences_are_not_trained_on() -> None:
    rows = [made_up(p, 0, 0) for p in (3, 12, 16)]
    new = Measured(clip(3, 0, 1, "a07"), 0, rows[0].frames, np.zeros(3), rows[0].heard)
    corpus = recipe.Corpus.of([*rows, new])
    kept = recipe.trainable(corpus, recipe.HELD_SPEAKERS, recipe.HELD_SENTENCES)
    assert kept == [0]
    assert [report.held(row.clip) for row in corpus.rows] == [
        "", "person new", "person new", "sentence new",
    ]  # fmt: skip
    assert set(CLASSES) <= set(NAMES.values())


def test_the_reader_learns_made_up_people_it_never_met(corpus: recipe.Corpus) -> None:
    known = corpus.only([i for i, r in enumerate(corpus.rows) if r.clip.speaker != "emodb_03"])
    reader = recipe.fit_reader(known)
    at = [i for i, r in enumerate(corpus.rows) if r.clip.speaker == "emodb_03"]
    scores = recipe.scores_of(reader, corpus, at, known=True)
    assert (scores.argmax(axis=1) == corpus.labels[at]).mean() > 0.9
    hotter = recipe.heated(reader, 2.0, 3.0)
    again = recipe.scores_of(hotter, corpus, at, known=True)
    np.testing.assert_allclose(again, 3 * scores, rtol=1e-6)
    assert recipe.temperature(scores, corpus.labels[at]) < 1  # surer than plain scores


def test_the_critic_learns_and_a_seed_makes_the_same_one(corpus: recipe.Corpus) -> None:
    state = torch.get_rng_state()
    first = recipe.fit_critic(corpus, members=1, epochs=3, say=False)
    assert torch.equal(state, torch.get_rng_state())
    at = [i for i, row in enumerate(corpus.rows) if row.session == 0]
    said = recipe.logits_of(first, corpus, at, known=True).argmax(axis=1)
    assert (said == corpus.labels[at]).mean() > 0.4  # chance 1/7
    assert recipe.fit_critic(corpus, members=1, epochs=3, say=False).digest == first.digest
    read = recipe.readings_of(first, corpus, at[:3])
    assert all(sum(r.probabilities) == pytest.approx(1) for r in read)


def test_recall_and_intervals() -> None:
    actual = np.array([0, 0, 0, 1])
    assert report.uar(np.array([0, 0, 0, 0]), actual) == 0.5
    rng = np.random.default_rng(0)
    actual = rng.integers(0, 7, 300)
    said = np.where(rng.random(300) < 0.7, actual, rng.integers(0, 7, 300))
    value, low, high = report.interval(report.uar, [f"p{i % 6}" for i in range(300)], said, actual)
    assert low < value < high
    assert 0.02 < high - low < 0.3


def test_equal_error_rate() -> None:
    rng = np.random.default_rng(0)
    same, other = rng.normal(2, 1, 4000), rng.normal(0, 1, 4000)
    assert report.equal_error(same, other) == pytest.approx(0.159, abs=0.02)  # normal at -1 sd
    assert report.equal_error(other + 99, other) < 0.01


def test_whitening_finds_what_tells_people_apart() -> None:
    rng = np.random.default_rng(0)
    people = np.repeat(np.arange(8), 40)
    base = rng.normal(size=(8, SIZE)) * 0.5
    base[:, 0] = 0
    x = base[people] + rng.normal(size=(320, SIZE)) * np.where(np.arange(SIZE) < 5, 6, 0.3)
    mean, whiten = fit_speaker(x, [str(p) for p in people])
    z = (x - mean) @ whiten
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    cosine = z @ z.T
    same = people[:, None] == people
    assert cosine[same].mean() > cosine[~same].mean() + 0.5


def test_cards_hold_the_figures() -> None:
    p = np.full((14, 7), 0.05)
    actual = np.arange(14) % 7
    p[np.arange(14), actual] = 0.7
    row = report.figures(p, actual, ["a"] * 7 + ["b"] * 7)
    assert row["uar"] == (1.0, 1.0, 1.0)
    assert np.trace(np.array(row["confusion"])) == 14
    text = report.table({"x": row}, report.MAIN)
    assert "| x | 14 | 2 | 1.00 [1.00, 1.00] |" in text
    assert report.confusion_table(row).count("\n") == 8
