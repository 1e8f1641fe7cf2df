"""Recipe of the critics of music: anchors, literature, judges and figures, on made-up data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from adapters.audio_features import HEARD
from adapters.emotion import CORE
from adapters.music_attributes import FEATURES, features
from adapters.music_critic import SIGNS
from adapters.piece import Piece
from training import music_critic_report as recipe
from training import music_reader as fit
from training.music_judges import (
    Judge,
    NoteJudge,
    folds,
    load_judge,
    logistic_regression,
    notes_of,
    read_notes,
    save_judge,
    train_judge,
)


def scale_tune(tonic: int, minor: bool, velocity: int, n: int = 64) -> Piece:
    steps = (0, 2, 3, 5, 7, 8, 11) if minor else (0, 2, 4, 5, 7, 9, 11)
    pitch = [60 + tonic + steps[(i * 3) % 7] for i in range(n - 4)] + [60 + tonic] * 4
    return Piece.of(np.arange(n) * 0.5, 0.5, pitch, velocity)


@pytest.fixture(scope="module")
def corpus() -> np.ndarray:
    """Made-up free music with the published means: correlated noise of the right size."""
    rng = np.random.default_rng(0)
    anchors = fit.load_anchors()["emopia"]
    x = rng.normal(size=(400, len(FEATURES)))
    x += rng.normal(size=(400, 1))
    for j, name in enumerate(FEATURES):
        if name in anchors:
            x[:, j] = anchors[name]["mean"] + 0.5 * anchors[name]["sd"] * x[:, j]
    return x


# Fitting -----------------------------------------------------------------------------------------


def test_anchors_are_figures_of_every_feature_read() -> None:
    anchors = fit.load_anchors()
    assert set(anchors) == {"emopia", "vgmidi"}
    for rows in anchors.values():
        assert set(fit.CRITIC_FEATURES) <= set(rows)
        for figures in rows.values():
            assert set(figures) == {"mean", "sd", "within", "valence", "arousal"}
    assert fit.ANCHORS.stat().st_size < 20_000


def test_measured_anchors_find_what_was_put_in() -> None:
    rng = np.random.default_rng(1)
    affect = rng.choice([-1.0, 1.0], size=(4000, 2))
    x = 5 + 2 * (affect @ np.array([[0.5], [-1.0]]) + rng.normal(size=(4000, 1)))
    row = fit.measure_anchors(x, affect, ["x"])["x"]
    assert row["mean"] == pytest.approx(5, abs=0.1)
    assert row["within"] == pytest.approx(2, abs=0.1)
    assert row["valence"] * row["sd"] == pytest.approx(1, abs=0.1)
    assert row["arousal"] * row["sd"] == pytest.approx(-2, abs=0.1)


def test_literature_says_what_everybody_knows() -> None:
    emotions, units = fit.literature(fit.SOUNDS, HEARD)
    mode, level, onsets = (HEARD.index(name) for name in ("mode", "level", "onset_rate"))
    at = {name: emotions[k] for k, name in enumerate(CORE)}
    assert at["happiness"][mode] > 0 > at["sadness"][mode]
    assert at["anger"][level] > 0 > at["sadness"][level]
    assert at["excitement"][onsets] > at["contentment"][onsets]
    assert units[mode, 0] > 0 == units[mode, 1]
    assert units[level, 1] > 0 == units[level, 0]


def test_the_critic_is_fitted_without_any_clip(corpus: np.ndarray) -> None:
    model = fit.fit_critic(fit.load_anchors(), corpus).model
    assert model.quadrants(SIGNS @ model.loadings.T).argmax(1).tolist() == [0, 1, 2, 3]
    mean, variance = model.affect(2 * SIGNS @ model.loadings.T)
    assert (np.sign(mean) == SIGNS).all()
    assert (variance > 0).all()
    assert np.linalg.eigvalsh(model.precision).min() > 0
    names = fit.CRITIC_FEATURES
    assert not set(names) & set(fit.LEFT_OUT)
    # The level of a recording is no feeling: louder free music moves nothing.
    louder = corpus.copy()
    louder[:, [j for j, name in enumerate(FEATURES) if name.startswith("velocity")]] += 20
    assert fit.fit_critic(fit.load_anchors(), louder).model.centre == pytest.approx(model.centre)


def test_full_intensity_of_every_emotion_is_equally_far(corpus: np.ndarray) -> None:
    model = fit.fit_critic(fit.load_anchors(), corpus).model
    length = np.sqrt(np.einsum("en,nm,em->e", model.emotions, model.precision, model.emotions))
    assert length == pytest.approx(fit.strong(model.loadings, model.precision))
    amplitude = model.amplitudes(model.emotions)
    assert np.diag(amplitude) == pytest.approx(1)


def test_ordinary_music_is_in_the_domain_of_the_reader() -> None:
    x = np.random.default_rng(2).normal(10, 2, size=(300, len(HEARD)))
    model = fit.fit_reader(x).model
    known = model.familiarity(x)
    assert (known < 0.01).mean() < 0.02
    assert model.familiarity(x.mean(0) + 100) == pytest.approx(0)


# Judges ------------------------------------------------------------------------------------------


def test_notes_are_relative_to_the_tonic() -> None:
    one, other = notes_of(scale_tune(0, False, 80)), notes_of(scale_tune(5, False, 80))
    assert (one[:, 0] == other[:, 0]).all()
    assert notes_of(Piece.of([], [], [])).shape == (0, 6)


def test_a_clip_reads_the_same_alone_and_beside_a_longer_one() -> None:
    torch.manual_seed(0)
    model = NoteJudge().eval()
    short, long = notes_of(scale_tune(3, True, 70, n=20)), notes_of(scale_tune(0, False, 70, n=300))
    beside = read_notes([model], [short, long])
    assert beside[0] == pytest.approx(read_notes([model], [short])[0])
    assert beside.sum(1) == pytest.approx([1, 1])
    assert read_notes([model], [np.zeros((0, 6), np.float32)])[0] == pytest.approx([0.25] * 4)


def test_a_judge_learns_resumes_and_loads(tmp_path: Path) -> None:
    pieces, label = [], []
    for i in range(24):
        q = i % 4
        pieces.append(scale_tune(i % 12, q in (1, 2), 100 if q < 2 else 40, n=32))
        label.append(q)
    clips, quadrants = [notes_of(piece) for piece in pieces], np.array(label)
    member = train_judge(clips, quadrants, tmp_path / "fold", epochs=20, batch=12)
    judge = Judge([member])
    assert (judge.read(pieces).argmax(1) == quadrants).mean() > 0.7  # chance .25
    again = train_judge(clips, quadrants, tmp_path / "fold", epochs=20, batch=12)
    assert read_notes([again], clips) == pytest.approx(read_notes([member], clips))
    save_judge(judge, tmp_path / "judge", {"set": "made up"})
    assert load_judge(tmp_path / "judge").read(pieces[:4]) == pytest.approx(judge.read(pieces[:4]))
    with pytest.raises(ValueError, match="judge: none"):
        load_judge(tmp_path / "nowhere")


def test_no_song_is_in_two_folds() -> None:
    songs = [f"song-{i // 3}" for i in range(90)]
    part = folds(songs)
    assert sorted(set(part)) == [0, 1, 2, 3, 4]
    for song in set(songs):
        assert len({int(part[i]) for i, name in enumerate(songs) if name == song}) == 1


def test_regression_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(300, 5))
    y = (x[:, 0] > 0) * 2 + (x[:, 1] + 0.5 * rng.normal(size=300) > 0)
    strength = 1e-2
    ours = logistic_regression(x, y, strength)(x)
    z = (x - x.mean(0)) / x.std(0)
    # Their penalty is half the square over C, summed over clips; ours is per clip.
    theirs = LogisticRegression(C=1 / (2 * strength * len(x)), max_iter=500).fit(z, y)
    assert ours == pytest.approx(theirs.predict_proba(z), abs=2e-3)


# Figures -----------------------------------------------------------------------------------------


def clips(n: int = 80) -> recipe.Clips:
    rng = np.random.default_rng(4)
    quadrants = np.arange(n) % 4
    ratings = SIGNS[quadrants] * 0.4 + rng.normal(0, 0.1, (n, 2))
    return recipe.Clips([str(i) for i in range(n)], quadrants, [f"s{i // 4}" for i in range(n)],
                        ratings, [])  # fmt: skip


def test_figures_of_a_perfect_and_a_blind_reader() -> None:
    made, at = clips(), np.arange(80)
    perfect = np.full((80, 4), 0.01)
    perfect[at, made.quadrants] = 0.97
    found = recipe.figures(perfect, made, at, made.ratings)
    assert found["accuracy"][0] == found["valence"][0] == found["macro_f1"][0] == 1
    assert found["ccc_arousal"][0] == pytest.approx(1)
    assert found["songs"] == 20
    blind = np.tile([0.4, 0.2, 0.2, 0.2], (80, 1))
    value, low, high = recipe.figures(blind, made, at)["accuracy"]
    assert value == low == high == pytest.approx(0.25)


def test_intervals_are_over_songs_not_clips() -> None:
    # Ten songs of forty clips each, half of them read wholly right: the clips add nothing.
    songs = [f"s{i // 40}" for i in range(400)]
    right = np.repeat(np.arange(10) % 2, 40)
    _, low, high = recipe.by_song(lambda x: float(x.mean()), songs, right)
    assert high - low > 0.5


def test_five_cues_split_the_corners() -> None:
    pieces = [scale_tune(0, minor, v, 64) for minor, v in
              ((False, 100), (True, 100), (True, 40), (False, 40))]  # fmt: skip
    x = np.array([features(piece) for piece in pieces])
    assert recipe.five_cues(x).argmax(1).tolist() == [0, 1, 2, 3]


def test_best_of_twelve_finds_the_asked_quadrant(corpus: np.ndarray) -> None:
    critic = fit.fit_critic(fit.load_anchors(), corpus)
    rng = np.random.default_rng(5)
    quadrants = rng.integers(0, 4, 120)
    z = 1.5 * SIGNS[quadrants] @ critic.model.loadings.T
    x = critic.model.centre + critic.model.scale * (z + rng.normal(0, 0.3, z.shape))
    found = recipe.reranking(critic, x, quadrants, draws=60, of=12)
    assert found["asked_quadrant"] > 0.6
    assert found["chance"] == 0.25


def test_a_card_keeps_its_words_around_new_figures(corpus: np.ndarray, tmp_path: Path) -> None:
    critic = fit.fit_critic(fit.load_anchors(), corpus)
    card = tmp_path / critic.name / "README.md"
    card.parent.mkdir()
    card.write_text("# about\n\n## Held-out figures\n\nold\n\n## Limits\n\n* none\n")
    recipe.publish(critic, tmp_path, {"n": 1}, "## Held-out figures\n\nnew\n")
    text = card.read_text()
    assert text.startswith("# about")
    assert "new" in text
    assert "old" not in text
    assert text.rstrip().endswith("* none")


def test_tables_name_every_reader() -> None:
    made, at = clips(), np.arange(80)
    row = recipe.figures(np.full((80, 4), 0.25), made, at)
    text = recipe.table({"someone": row, "pair": {}}, recipe.COLUMNS)
    assert text.splitlines()[-1].startswith("| someone | 80 |")
    assert "pair" not in text
