"""Geometry of faces and the independent reader: measures, made-up faces, files, what ships."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from adapters.emotion import CORE
from adapters.face_geometry import (
    FEATURES,
    MEASURES,
    GeometryError,
    Landmarks,
    aligned,
    blinking,
    drift,
    features,
    upright,
)
from adapters.face_motion import ARKIT
from adapters.face_reader import CONFIG, WEIGHTS, FaceReader
from adapters.face_reading import CLASSES, EXPRESSIONS, MAYBE, readings, told
from adapters.motion_critic import load_portrait_critic
from pipelines.face_mesh import template
from pipelines.portrait_basis import basis

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pixels(points: np.ndarray, *, size: float = 90.0, turn: float = 0.0) -> np.ndarray:
    """Points in eye distances, y up -> pixels of a picture, the head leaning by degrees."""
    angle = np.radians(turn)
    spin = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return size * (points[..., :2] * (1, -1)) @ spin + (320, 300)


def face(**channels: float) -> np.ndarray:
    """(478, 2) pixels of our template with channels of both sides moved."""
    moved = template().copy()
    for name, value in channels.items():
        for own in (name, f"{name}Left", f"{name}Right"):
            if own in ARKIT:
                moved = moved + value * basis()[ARKIT.index(own)]
    return pixels(moved)


def change(name: str, **channels: float) -> float:
    return float(features(face(**channels), face())[FEATURES.index(name)])


# --- geometry


def test_upright_undoes_place_size_and_lean() -> None:
    base = upright(pixels(template()))
    other = upright(pixels(template(), size=31.0, turn=25.0) + 400)
    assert np.abs(base - other).max() < 1e-9
    assert base[10, 1] > 0 > base[152, 1], "the forehead lies above the eyes, the chin below"


def test_a_turned_head_at_rest_has_changed_nothing() -> None:
    flat = template()[:, :2] @ np.array(
        [[0.95, 0.04], [-0.02, 1.03]]
    )  # slightly turned and nodding
    found = features(pixels(flat, turn=9.0), pixels(template()))
    moved = found[: len(MEASURES)]
    assert np.abs(moved).max() < 1e-6
    assert drift(Landmarks(pixels(flat), pixels(template())))[0] < 1e-8


@pytest.mark.parametrize(
    ("measure", "channels", "sign"),
    [
        ("corner", {"mouthSmile": 1.0}, 1),
        ("corner_width", {"mouthSmile": 1.0}, 1),
        ("corner", {"mouthFrown": 1.0}, -1),
        ("curve", {"mouthFrown": 1.0}, -1),
        ("brow_inner", {"browInnerUp": 1.0}, 1),
        ("brow_tilt", {"browInnerUp": 1.0}, 1),
        ("brow_outer", {"browOuterUp": 1.0}, 1),
        ("brow_middle", {"browDown": 1.0}, -1),
        ("aperture", {"eyeWide": 1.0}, 1),
        ("aperture", {"eyeBlink": 0.6}, -1),
        ("gap", {"jawOpen": 0.4}, 1),
        ("chin", {"jawOpen": 0.4}, -1),
        ("wing", {"noseSneer": 1.0}, 1),
        ("lip_side", {"mouthUpperUp": 1.0}, 1),
        ("corner_width", {"mouthStretch": 1.0}, 1),
    ],
)
def test_measures_follow_the_muscles_they_stand_for(
    measure: str, channels: dict[str, float], sign: int
) -> None:
    assert sign * change(measure, **channels) > 0.008


def test_one_sided_faces_are_uneven_whichever_side() -> None:
    rest = face()
    column = FEATURES.index("uneven_corner")
    sides = []
    for side in ("Left", "Right"):
        moved = template() + 0.6 * basis()[ARKIT.index(f"mouthSmile{side}")]
        sides.append(float(features(pixels(moved), rest)[column]))
    assert sides[0] > 0.03
    assert sides[0] == pytest.approx(sides[1], rel=0.2)
    assert change("uneven_corner", mouthSmile=1.0) < 0.01


def test_blinks_are_told_from_narrow_lids() -> None:
    frames = np.stack([face(), face(eyeSquint=0.8), face(eyeBlink=1.0)])
    assert blinking(frames, face()).tolist() == [False, False, True]


def test_the_skull_of_somebody_else_drifts() -> None:
    other = template().copy()
    other[[234, 454, 127, 356], 0] *= 1.2
    own = drift(Landmarks(face(mouthSmile=1.0), face()))[0]
    assert drift(Landmarks(pixels(other), face()))[0] > 5 * own


@pytest.mark.parametrize(
    ("frames", "rest", "words"),
    [
        (np.zeros((2, 468, 2)), np.zeros((478, 2)), "(T, 478, 2)"),
        (np.zeros((0, 478, 2)), np.zeros((478, 2)), "(T, 478, 2)"),
        (np.full((1, 478, 2), np.nan), np.ones((478, 2)), "finite"),
        (np.zeros((1, 478, 2)), np.zeros((478, 2)), "less than a pixel"),
    ],
)
def test_landmarks_that_are_none_are_refused_in_one_line(
    frames: np.ndarray, rest: np.ndarray, words: str
) -> None:
    with pytest.raises(GeometryError) as caught:
        Landmarks(frames, rest)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_aligned_keeps_frames_apart() -> None:
    frames = np.stack([face(), face(jawOpen=0.5)])
    both, rest = aligned(frames, face())
    assert both.shape == rest.shape == (2, 478, 2)
    assert np.abs(both[0] - rest[0]).max() < 1e-9 < np.abs(both[1] - rest[1]).max()


# --- readings


def test_shares_of_emotions_without_a_prototype_sum_to_one() -> None:
    assert MAYBE.shape == (8, 13)
    assert np.allclose(MAYBE.sum(axis=1), 1)
    happy = dict(zip(CORE, MAYBE[CLASSES.index("happiness"), 1:], strict=True))
    assert happy["happiness"] == max(happy.values())
    assert happy["excitement"] > happy["boredom"]
    contempt = told(np.eye(14)[-1:])[0]
    assert contempt.sum() == pytest.approx(1)
    assert contempt[1 + CORE.index("disgust")] > contempt[1 + CORE.index("anger")] > 0


def test_a_faint_face_leaves_room_for_neutral() -> None:
    p = np.eye(8)[[CLASSES.index("anger")] * 2]
    strength = np.zeros((2, 7))
    strength[:, EXPRESSIONS.index("anger")] = 0.2, 0.9
    faint, strong = readings(p, strength, [0.5, 0.5], "test")
    anger = CORE.index("anger")
    assert faint.probabilities[0] > 0.7 > 0.2 > strong.probabilities[0]
    assert faint.intensities[anger] < 0.3 < 0.7 < strong.intensities[anger]
    assert (faint.dominant, strong.dominant) == ("neutral", "anger")
    assert strong.vad_mean[0] < -0.3


# --- the machine


@pytest.fixture(scope="module")
def small() -> FaceReader:
    """Fitted to two kinds of points in the space of the features."""
    rng = np.random.default_rng(0)
    x = rng.normal(0.0, 0.02, (300, len(FEATURES)))
    kind = rng.integers(0, 2, 300)
    x[kind == 1, FEATURES.index("corner")] += 0.15
    wanted = np.zeros((300, 15))
    wanted[np.arange(300), np.where(kind == 1, CLASSES.index("happiness"), 0)] = 1
    wanted[kind == 1, 8 + EXPRESSIONS.index("happiness")] = 0.8
    return FaceReader.fit(x, wanted, centres=60)


def test_the_machine_learns_what_it_is_shown(small: FaceReader) -> None:
    x = np.zeros((2, len(FEATURES)))
    x[1, FEATURES.index("corner")] = 0.15
    found = small.scores(x)
    assert found[0, :8].argmax() == 0
    assert found[1, :8].argmax() == CLASSES.index("happiness")
    assert found[1, 8 + EXPRESSIONS.index("happiness")] == pytest.approx(0.8, abs=0.15)


def test_a_reader_saved_is_the_same_reader(small: FaceReader, tmp_path: Path) -> None:
    small.save(tmp_path / "reader")
    again = load_portrait_critic(tmp_path / "reader")
    assert isinstance(again, FaceReader)
    assert again.digest == small.digest
    x = np.random.default_rng(1).normal(0, 0.05, (5, len(FEATURES)))
    assert np.allclose(again.scores(x), small.scores(x), atol=1e-3)


def test_damaged_and_foreign_folders_are_told_in_one_line(
    small: FaceReader, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="not found; use a folder") as caught:
        load_portrait_critic(tmp_path / "nothing")
    assert "\n" not in str(caught.value)
    folder = small.save(tmp_path / "reader")
    (folder / WEIGHTS).write_bytes(b"no weights")
    with pytest.raises(ValueError, match="damaged"):
        load_portrait_critic(folder)
    small.save(folder)
    about = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(about | {"features": ["corner"]}))
    with pytest.raises(ValueError, match="another version"):
        load_portrait_critic(folder)
    (folder / CONFIG).write_text(json.dumps(about | {"_class_name": "Toaster"}))
    with pytest.raises(ValueError, match="Toaster"):
        load_portrait_critic(folder)


def test_too_few_examples_are_refused() -> None:
    with pytest.raises(ValueError, match="make more"):
        FaceReader.fit(np.zeros((5, len(FEATURES))), np.zeros((5, 15)))


# --- what ships


@pytest.fixture(scope="module")
def shipped() -> FaceReader:
    found = load_portrait_critic("reader-portrait")
    assert isinstance(found, FaceReader)
    return found


def test_the_shipped_reader_reads_plain_faces_of_the_template(shipped: FaceReader) -> None:
    """Displacements of our basis, not the ones it learned from, without a renderer."""
    seen = {
        "neutral": face(),
        "happiness": face(mouthSmile=0.8, cheekSquint=0.7, eyeSquint=0.3),
        "surprise": face(browInnerUp=0.9, browOuterUp=0.9, eyeWide=0.8, jawOpen=0.35),
        "anger": face(browDown=0.9, eyeSquint=0.6, mouthPress=0.5),
        "sadness": face(browInnerUp=0.9, mouthFrown=0.8, browDown=0.2, mouthShrugLower=0.3),
    }
    p = shipped.classes([Landmarks(points, face()) for points in seen.values()])
    assert [CLASSES[k] for k in p.argmax(axis=1)] == list(seen)


def test_readings_of_tuples_of_frames_and_over_time(shipped: FaceReader) -> None:
    smile = face(mouthSmile=0.9, cheekSquint=0.7)
    frames = np.stack([face()] * 20 + [smile] * 20)
    whole = shipped.read([(frames, face())])[0]
    assert whole.reader == "reader-portrait"
    assert sum(whole.probabilities) == pytest.approx(1)
    times, over = shipped.read_over_time((frames, face()), fps=10.0)
    assert len(times) == len(over) == 16
    happy = CORE.index("happiness")
    assert over[0].intensities[happy] < 0.2 < 0.4 < over[-1].intensities[happy]
    assert shipped.read([]) == []


def test_a_blink_is_no_expression(shipped: FaceReader) -> None:
    open_, shut = face(), face(eyeBlink=1.0)
    without = shipped.classes([Landmarks(np.stack([open_] * 4), face())])
    with_one = shipped.classes([Landmarks(np.stack([open_] * 4 + [shut]), face())])
    assert np.allclose(without, with_one)


def test_a_strange_face_abstains(shipped: FaceReader) -> None:
    rng = np.random.default_rng(0)
    strange = template()[:, :2] + rng.normal(0, 0.4, (478, 2))
    found = shipped.read([Landmarks(pixels(strange), face())])[0]
    assert found.abstains
    assert not shipped.read([Landmarks(face(mouthSmile=0.5), face())])[0].abstains


def test_what_is_no_face_is_refused(shipped: FaceReader) -> None:
    with pytest.raises(GeometryError, match="received dict"):
        shipped.read([{}])  # type: ignore[list-item]
    with pytest.raises(GeometryError, match="more than 0"):
        shipped.read_over_time((face()[None], face()), fps=0.0)


def test_the_card_states_what_the_reader_is_not(shipped: FaceReader) -> None:
    folder = Path(__file__).parents[1] / "assets" / "models" / "reader-portrait"
    card = (folder / "README.md").read_text()
    assert "no substitute for people" in card
    figures = json.loads((folder / "figures.json").read_text())
    assert figures["digest"] == shipped.digest, "figures belong to these weights"
