"""The evaluation of portraits: what is asked, what is measured, figures and their text."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from adapters.face_geometry import Landmarks
from adapters.face_motion import ARKIT, Motion
from adapters.face_reader import FaceReader
from adapters.face_reading import CLASSES, EXPRESSIONS
from adapters.motion_critic import KINDS, MotionCritic, load_portrait_critic
from pipelines.media import load_image
from tests.tiny import tiny_portrait
from training import portrait_evaluate as evaluate
from training.portrait_evaluate import LEVELS, Asked, asked, drawn, heard_of, rows_of, shown
from training.portrait_evaluate_report import (
    at_rest,
    called,
    grouped,
    markdown,
    of_critic,
    recognised,
    rising,
    said,
    share,
    summary,
)

FACES = Path(__file__).parents[1] / "assets" / "samples" / "faces"


def row(
    asked_: str, read: str, level: float, face: str = "a", way: str = "silence", strength: float = 0
) -> dict[str, object]:
    """A reading by hand: sure of one class."""
    classes = np.full(8, 0.02)
    classes[CLASSES.index(read)] = 0.86
    strengths = np.zeros(7)
    if asked_ in EXPRESSIONS:
        strengths[EXPRESSIONS.index(asked_)] = strength
    return {
        "face": face, "way": way, "asked": asked_, "level": level, "seed": 0,
        "classes": classes.tolist(), "strengths": strengths.tolist(), "in_domain": 0.5,
        "valence": 0.0, "arousal": 0.0, "drift": 0.01,
    }  # fmt: skip


def test_everything_is_asked_once() -> None:
    every = asked(2, speech=True)
    assert len({one.key for one in every}) == len(every) == 2 * 2 * 36 + 35
    assert {one.level for one in every if one.expression != "neutral"} == set(LEVELS)
    assert {one.way for one in asked(1, speech=False)} == {"silence", "table"}


def test_the_tables_own_faces_are_single_frames() -> None:
    motion = drawn(Asked("table", "contempt", 1.0, 0), None, None)  # type: ignore[arg-type]
    assert len(motion) == 1
    right, left = (motion.channel(f"mouthSmile{side}")[0] for side in ("Right", "Left"))
    assert right > 0.3 > 0.1 > left
    assert shown(motion, 6) is motion


def test_frames_come_after_the_onset_and_are_spread() -> None:
    curves = np.zeros((90, 52), np.float32)
    curves[:, ARKIT.index("jawOpen")] = np.arange(90) / 90
    some = shown(Motion(curves, np.zeros((90, 3), np.float32)), 5)
    at = some.channel("jawOpen") * 3.0
    assert at.min() >= 1.0
    assert at.max() < 3.0
    assert np.allclose(np.diff(at), 0.4, atol=1e-3)


def test_shares_have_intervals_over_faces() -> None:
    rows = [row("anger", "anger", 1.0, face) for face in "abc"]
    rows += [row("fear", "surprise", 1.0, face) for face in "abc"]
    rows += [row("sadness", "neutral", 0.2, face) for face in "abc"]
    found = recognised(rows)
    assert found["level"]["1"]["seven"] == (0.5, 0.5, 0.5)
    assert found["expression"]["anger"]["strong"][0] == 1.0
    assert found["expression"]["surprise"]["false"][0] == pytest.approx(3 / 9, abs=0.001)
    assert found["confusion"][EXPRESSIONS.index("fear")][CLASSES.index("surprise")] == 3
    assert called(rows[-1]) == "neutral"
    assert said(rows[-1]) in EXPRESSIONS
    mean, low, high = grouped([1, 1, 0, 0], ["a", "a", "b", "b"])
    assert (mean, low, high) == (0.5, 0.0, 1.0), "two faces tell little"
    assert np.isnan(grouped([], [])[0])
    mean, low, high = share([True] * 6, ["a", "a", "b", "b", "c", "c"])
    assert mean == high == 1.0
    assert low < 0.5, "three faces do not make sure"


def test_rising_counts_the_order_of_levels() -> None:
    up = [row("anger", "anger", level, strength=level) for level in LEVELS]
    down = [row("fear", "fear", level, strength=1 - level) for level in LEVELS]
    found = rising([*up, *down, row("neutral", "neutral", 0.0)])
    assert found["expression"]["anger"][0] == pytest.approx(1)
    assert found["expression"]["fear"][0] < 0
    assert found["series"] == 2


def test_rest_is_happy_where_the_photo_smiles() -> None:
    rows = [row("neutral", "neutral", 0.0, "closed"), row("neutral", "happiness", 0.0, "smile")]
    found = at_rest(rows)
    assert found["neutral"][0] == found["happy"][0] == 1.0
    assert found["rows"] == [1, 1]


def test_the_critics_figures_are_of_motions() -> None:
    heard = []
    for level in (0.0, *LEVELS):
        kinds = np.full(len(KINDS), 0.01)
        kinds[KINDS.index("anger") if level else 0] = 0.2 + level
        heard.append({"way": "silence", "asked": "anger" if level else "neutral", "level": level,
                      "seed": 0, "kinds": kinds.tolist()})  # fmt: skip
    found = of_critic(heard)
    assert found["all"][0] == found["strong"][0] == found["rest"][0] == 1.0
    assert found["rest"][1] < 0.5
    assert found["spearman"][0] == pytest.approx(1)


@pytest.fixture(scope="module")
def closed() -> tuple[dict[str, np.ndarray], dict[str, float], list[Asked]]:
    """Three faces of the table on one drawn face, rendered and measured again."""
    wanted = [
        Asked("table", "happiness", 1.0, 0),
        Asked("table", "anger", 1.0, 0),
        Asked("table", "surprise", 1.0, 0),
    ]
    motions = {one.key: drawn(one, None, None) for one in wanted}  # type: ignore[arg-type]
    points, about = evaluate.measured(load_image(FACES / "closed.jpg"), motions, 256, 1)
    return points, about, wanted


def test_rendered_frames_are_measured_again(
    closed: tuple[dict[str, np.ndarray], dict[str, float], list[Asked]],
) -> None:
    points, about, wanted = closed
    assert set(points) == {"rest", *(one.key for one in wanted)}
    assert about["frames"] == 3
    assert about["lost"] == 0
    assert about["outside"] == 0, "nothing outside the face's box changes"
    assert about["at_rest"] <= 2


def test_the_shipped_pair_reads_rendered_faces(
    closed: tuple[dict[str, np.ndarray], dict[str, float], list[Asked]],
) -> None:
    points, about, wanted = closed
    reader, critic = load_portrait_critic("reader-portrait"), load_portrait_critic()
    assert isinstance(reader, FaceReader)
    assert isinstance(critic, MotionCritic)
    rows = rows_of({"closed": points}, wanted, reader)
    assert [said(one) for one in rows] == ["happiness", "anger", "surprise"]
    assert all(0 < one["drift"] < 0.06 for one in rows)
    item = Landmarks(points["rest"][None], points["rest"])
    assert CLASSES[int(reader.classes([item])[0].argmax())] == "neutral"
    assert heard_of({}, wanted, critic) == [], "the table's faces are not the model's"
    more = [row(name, name, level, "closed", strength=level)
            for name in EXPRESSIONS for level in LEVELS]  # fmt: skip
    more.append(row("neutral", "neutral", 0.0, "closed"))
    heard = [
        {"way": "silence", "asked": one["asked"], "level": one["level"], "seed": 0,
         "kinds": np.eye(14)[KINDS.index(str(one["asked"]))].tolist()}
        for one in more
    ]  # fmt: skip
    found = summary(more, heard, {"closed": about}, [0.03, 0.04])
    found["run"] = {"seeds": 1, "frames": 1, "size": 256, "weights": "abc", "reader": reader.digest}
    text = markdown(json.loads(json.dumps(found)))
    assert "| all intensities | 1.00 (0.21..1.00) |" in text
    assert "no person judged" in text


def test_an_old_folder_is_told(tmp_path: Path) -> None:
    model = tiny_portrait(tmp_path / "model")
    keys = {one.key: np.zeros((3, 55)) for one in asked(2, speech=False)}
    weights = np.frombuffer(b"0123456789abcdef", dtype=np.uint8)
    for kept, what in (({"weights": weights}, "no silence"), (keys, "other weights")):
        np.savez(tmp_path / "motions.npz", **{"weights": weights, **kept})
        with pytest.raises(ValueError, match=f"{what}.*give an empty folder"):
            evaluate.evaluate(model, tmp_path)
