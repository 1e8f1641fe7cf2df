"""The report says what was read: known readings give known figures, and a whole run holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from adapters.audio_features import HEARD
from adapters.emotion import CORE, VAD, Emotion, EmotionTimeline
from adapters.music_attributes import ATTRIBUTES, FEATURES
from adapters.music_critic import QUADRANTS, AffectModel, MusicCritic, MusicReader
from adapters.musicality import musicality
from adapters.piece import Piece
from pipelines.media_midi import load_midi, read_midi_metadata
from pipelines.music_layout import make_tokenizer
from pipelines.music_sheet import found_sheet
from training import music_report as figures
from training.loop import Average
from training.music import export, fit_edges, make_model
from training.music_data import save_sheets
from training.music_evaluate import (
    Ask,
    Panel,
    Studio,
    control_asks,
    course_asks,
    evaluate,
    excerpts,
    grid_asks,
    level_asks,
    main,
    quadrant_asks,
    real_pieces,
    write_json,
)
from training.music_judges import Judge, NoteJudge


def song(seed: int = 0, bars: int = 24) -> Piece:
    """A real-enough piece: a chord a bar under a tune that returns every eight bars."""
    draw = np.random.default_rng(seed)
    tune = draw.choice([60, 62, 64, 65, 67, 69, 71, 72], 32)
    rows = []
    for bar in range(bars):
        rows += [(4 * bar + i, 1, tune[(4 * bar + i) % 32] + 12, 0) for i in range(4)]
        rows += [(4 * bar, 4, (0, 5, 7, 0)[bar % 4] + p, 1) for p in (48, 52, 55)]
    a = np.array(rows, dtype=float)
    return Piece.of(a[:, 0], a[:, 1], a[:, 2], 64, a[:, 3], tempo=120)


@pytest.fixture(scope="module")
def composer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe's own folder, with random weights."""
    folder = tmp_path_factory.mktemp("composer")
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    model = make_model(len(tokenizer.vocab), width=64, layers=1)
    export(model, Average(model, 0.9), tokenizer, fit_edges([found_sheet(song())]), folder)
    return folder


def affect_model(features: int) -> AffectModel:
    """A reader's model with random numbers."""
    draw = np.random.default_rng(0)
    return AffectModel(
        centre=np.zeros(features),
        scale=np.full(features, 10.0),
        loadings=draw.normal(size=(features, 2)),
        precision=np.eye(features) / features,
        emotions=draw.normal(size=(len(CORE), features)),
        domain_mean=np.zeros(features),
        domain_whiten=np.eye(features),
        domain_quantiles=np.linspace(0, 50, 101),
    )


@pytest.fixture(scope="module")
def panel() -> Panel:
    torch.manual_seed(0)
    judge = Judge([NoteJudge(width=8, tones=4)])
    return Panel(
        judge,
        MusicCritic(affect_model(len(FEATURES)), FEATURES),
        MusicReader(affect_model(len(HEARD)), HEARD),
    )


def said(quadrant: str, read: str, **more: Any) -> dict[str, Any]:
    """A piece that was asked for one quadrant and read as another."""
    p = [0.1, 0.1, 0.1, 0.1]
    p[QUADRANTS.index(read)] = 0.7
    return {"quadrant": quadrant, "judge": p, "reader": p, "critic": p, **more}


# Figures ------------------------------------------------------------------------------------------


def test_quadrants_are_shares_with_intervals_and_an_opposite() -> None:
    right = [said(q, q) for q in QUADRANTS for _ in range(5)]
    found = figures.quadrant_figures(right, "judge")
    assert found["quadrant"][0] == found["arousal"][0] == found["valence"][0] == 1
    assert found["quadrant"][1] == pytest.approx(0.839, abs=1e-3)  # Wilson, 20 of 20
    assert found["opposite"][0] == 0
    assert np.array_equal(found["confusion"], 5 * np.eye(4))
    # Always lively and pleasant: right a quarter of the time, half right on each axis.
    flat = figures.quadrant_figures([said(q, "Q1") for q in QUADRANTS for _ in range(5)], "judge")
    assert flat["quadrant"][0] == flat["opposite"][0] == 0.25
    assert flat["arousal"][0] == flat["valence"][0] == 0.5
    assert flat["by_quadrant"]["Q1"][0] == 1
    assert flat["by_quadrant"]["Q3"][0] == 0
    # Only the mode is wrong: arousal stays.
    minor = figures.quadrant_figures([said("Q1", "Q2"), said("Q4", "Q3")], "judge")
    assert (minor["arousal"][0], minor["valence"][0]) == (1, 0)


def grid(noise: float, seed: int = 0) -> list[dict[str, Any]]:
    draw = np.random.default_rng(seed)
    pieces = []
    for ask in grid_asks(2):
        v, a = ask.timeline.at(0).vad[:2].round(4)
        read = [v + noise * draw.normal(), a + noise * draw.normal()]
        p = np.clip([0.25 + v + a, 0.25 - v + a, 0.25 - v - a, 0.25 + v - a], 0.01, None)
        pieces.append({
            "asked": [v, a], "critic_vad": read, "reader_vad": read,
            "judge": (p / p.sum()).tolist(),
        })  # fmt: skip
    return pieces


def test_correlations_over_the_grid_fall_with_noise_and_do_not_cross() -> None:
    clean, noisy = figures.grid_figures(grid(0.0)), figures.grid_figures(grid(1.0))
    assert clean["reader"]["valence"][0] == pytest.approx(1.0)
    assert clean["judge"]["arousal"][0] > 0.85
    assert noisy["reader"]["valence"][0] < 0.8
    low, high = noisy["reader"]["valence"][1:]
    assert low < noisy["reader"]["valence"][0] < high
    assert abs(clean["reader"]["crossed"][0]) < 0.05


def test_levels_are_read_along_the_direction_of_the_emotion() -> None:
    pieces = []
    for ask in level_asks(3):
        state = ask.timeline.at(0)
        p = [0.25] * 4
        pieces.append({
            "label": ask.label, "seed": ask.seed, "intensity": state.intensity, "judge": p,
            "reader_vad": state.vad[:2].tolist(), "critic_vad": (-state.vad[:2]).tolist(),
        })  # fmt: skip
    found = figures.level_figures(pieces)
    assert set(found) == {"happiness", "anger", "sadness", "contentment"}
    for row in found.values():
        assert row["reader"]["rho"][0] == pytest.approx(1.0)
        assert row["reader"]["within"] == pytest.approx(1.0)
        assert row["critic"]["within"] == pytest.approx(-1.0)
        assert row["judge"]["rho"][0] == 0  # it never moves


def test_attributes_that_follow_and_those_nobody_asked_for() -> None:
    draw = np.random.default_rng(0)
    targets = draw.normal(size=(40, len(ATTRIBUTES)))
    targets[:, 1] = 0.5
    measured = targets + 3.0
    measured[:, 2] = draw.normal(size=40)
    rows = [
        {"targets": t.tolist(), "measured": m.tolist()}
        for t, m in zip(targets, measured, strict=True)
    ]
    rows[0]["measured"][0] = None  # a piece that cannot tell
    found = figures.attribute_figures([*rows, {"targets": None, "measured": [0] * 16}])
    assert found[ATTRIBUTES[0]]["spearman"][0] == pytest.approx(1.0)
    assert found[ATTRIBUTES[0]]["error"] == pytest.approx(3.0)
    assert np.isnan(found[ATTRIBUTES[1]]["spearman"][0])  # it never moved
    assert abs(found[ATTRIBUTES[2]]["spearman"][0]) < 0.5


def test_courses_are_compared_with_their_own_and_with_others() -> None:
    times = np.linspace(0, 10, 21)
    up = np.column_stack([times / 10, times / 10])

    def piece(label: str, asked: np.ndarray) -> dict[str, Any]:
        curve = {"times": times.tolist(), "asked": asked.tolist(), "read": (asked / 2).tolist()}
        return {"label": label, "seed": 0, "reader": curve, "critic": curve}

    found = figures.course_figures([piece("up", up), piece("down", up[::-1])])
    assert found["reader_valence"]["own"][0] == pytest.approx(1.0)
    assert found["reader_valence"]["other"] == pytest.approx(-1.0)


# What is asked ------------------------------------------------------------------------------------


def test_asks_stand_in_their_quadrants_and_share_no_seeds() -> None:
    signs = {"Q1": (1, 1), "Q2": (-1, 1), "Q3": (-1, -1), "Q4": (1, -1)}
    for ask in quadrant_asks("vad", 4):
        assert tuple(np.sign(ask.timeline.at(0).vad[:2])) == signs[ask.quadrant]
    emotions = quadrant_asks("emotions", 4)
    assert {a.label for a in emotions if a.quadrant == "Q2"} == {"anger", "fear"}
    assert all(a.timeline.at(0).intensity == pytest.approx(0.8) for a in emotions)
    controls = control_asks("hidden", 2)
    assert [a.quadrant for a in controls[:4]] == list(QUADRANTS)
    assert all(a.timeline.at(0).intensity == 0 and a.hidden for a in controls)
    everything = [*quadrant_asks("vad", 50), *emotions, *controls, *grid_asks(5), *course_asks(5)]
    assert len({(a.seed) for a in everything}) == len(everything)
    assert len({a.seed for a in level_asks(3)}) == 3  # a seed is the same at every level


def test_a_course_moves_its_targets_and_hidden_attributes_are_unknown(
    composer_folder: Path,
) -> None:
    studio = Studio.open(str(composer_folder))
    moving = EmotionTimeline.parse("0s contentment .8; 20s anger .9")
    targets = studio.composition(Ask("x", moving, 1), 0).targets
    mode, density = ATTRIBUTES.index("mode"), ATTRIBUTES.index("note_density")
    assert targets[0, mode] > 0 > targets[-1, mode]
    nothing = EmotionTimeline.constant(Emotion.neutral())
    hidden = studio.composition(Ask("x", nothing, 1, hidden=True), 0)
    assert np.isnan(hidden.targets[:, density]).all()
    assert np.isfinite(hidden.targets[:, ATTRIBUTES.index("tempo")]).all()
    coins = {
        np.sign(studio.composition(Ask("x", nothing, s, hidden=True), 0).targets[0, mode])
        for s in range(20)
    }
    assert coins == {-1.0, 1.0}
    assert studio.composition(Ask("x", nothing, 1), 1).seed != hidden.seed


def test_real_excerpts_keep_the_endings_of_their_pieces(tmp_path: Path) -> None:
    kept = tmp_path / "sheets.npz"
    save_sheets(kept, [(f"{i:03}", found_sheet(song(i))) for i in range(3)] + [
        ("bach/one", found_sheet(song(5)))
    ])  # fmt: skip
    real = real_pieces(kept, None)
    assert {kind: len(pieces) for kind, pieces in real.items()} == {"songs": 3, "scores": 1}
    found = excerpts(real["songs"], 20.0, 10)
    assert len(found) == 3
    assert all(row["bars_exact"] > 0 for row in found)
    fading = song(7).select(song(7).onset < 92)  # the last bar is silent, no stretch before it is
    assert excerpts([fading], 20.0, 1)[0]["long_tonic_end"] == 0
    whole = Piece.of([*song(7).onset, 96], [*song(7).duration, 4], [*song(7).pitch, 48], bars=25)
    stretch = excerpts([whole], 20.0, 1)[0]
    assert stretch["long_tonic_end"] == musicality(whole.between(15, 25))["long_tonic_end"]
    assert excerpts(real["songs"], 2000.0, 10) == []
    assert real_pieces(tmp_path / "none.npz", None) == {}


# A whole run --------------------------------------------------------------------------------------


def test_a_whole_run_writes_a_report_and_goes_on_where_it_was(
    composer_folder: Path, panel: Panel, tmp_path: Path
) -> None:
    studio = Studio.open(str(composer_folder))
    options: dict[str, Any] = {
        "candidates": 2, "seconds": 2.0, "real": {"songs": [song(s) for s in range(4)]},
        "courses": ("0s contentment .8; 4s fear .9",), "course_seconds": 8.0,
    }  # fmt: skip
    report = evaluate(studio, panel, tmp_path, 1, **options)
    text = (tmp_path / "report.md").read_text()
    assert text.count("\n## ") == 9
    assert " nan" not in text.replace("+nan", " nan").replace("(nan", " nan")
    assert str(tmp_path.parent) not in text + (tmp_path / "report.json").read_text()
    for name in (*ATTRIBUTES, *CORE, "pitch_class_entropy_1", "attributes hidden (control)"):
        assert name in text
    again = json.loads((tmp_path / "report.json").read_text())
    assert again["quadrants"]["vad, best"]["judge"]["n"] == 4
    assert figures.markdown(again) == text  # the page can be made from the numbers alone
    assert report["quadrants"]["neutral"]["judge"]["n"] == 4
    assert report["grid"]["n"] == 25
    made = sorted((tmp_path / "pieces").glob("*.mid"))
    assert len(made) == 8
    assert load_midi(made[0]).seconds == pytest.approx(2.0, abs=0.01)
    assert "emotion" in read_midi_metadata(made[0])["affect"]
    stages = {path: path.stat().st_mtime_ns for path in (tmp_path / "stages").iterdir()}
    evaluate(studio, panel, tmp_path, 1, **options)
    assert {path: path.stat().st_mtime_ns for path in stages} == stages
    kept = json.loads((tmp_path / "stages" / "speed.json").read_text())
    write_json(tmp_path / "stages" / "speed.json", {**kept, "key": "of other weights"})
    evaluate(studio, panel, tmp_path, 1, **options)
    renewed = json.loads((tmp_path / "stages" / "speed.json").read_text())
    assert renewed["key"] == kept["key"]


def test_the_command_line_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--judge", str(tmp_path)])
    assert "judge: none in" in capsys.readouterr().err


def test_the_point_of_a_quadrant_is_as_far_out_as_its_emotions() -> None:
    point = quadrant_asks("vad", 1)[0].timeline.at(0).vad[:2]
    assert np.allclose(point, 0.8 * np.abs(VAD[:, :2]).mean(axis=0), atol=1e-6)
