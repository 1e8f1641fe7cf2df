"""Emotions to muscles to curves: the table is whole, faces differ, intensity is followed."""

from __future__ import annotations

import numpy as np
import pytest

from adapters import facs
from adapters.emotion import CORE
from adapters.face_motion import ARKIT, CHANNELS, MOUTH


def face(name: str, intensity: float = 1.0) -> np.ndarray:
    return facs.expression(facs.named(name, intensity)[None])[0][0]


def test_the_table_names_only_what_there_is() -> None:
    table = facs.table()
    for unit, entry in table["units"].items():
        assert set(entry["arkit"]) <= set(ARKIT), unit
    assert set(table["emotions"]) == set(CORE)
    for entry in (*table["emotions"].values(), *table["named"].values()):
        for unit in (*entry["apex"], *entry["prototype"]):
            assert unit.lstrip("LR") in table["units"]
        assert all(0 < value <= 1 for value in entry["apex"].values())
        assert entry["basis"]
    assert set(table["mouth_priority"]["map"]) <= set(ARKIT)
    assert set(table["lip_gap"]["map"]) <= set(ARKIT)
    for recipe in table["visemes"]["map"].values():
        assert set(recipe) <= set(ARKIT)
    for source in ("ekman", "du2014", "arkit", "blink", "ict"):
        assert len(table["sources"][source]) > 40


def test_prototypes_are_part_of_the_apex_or_speech_would_forbid_them() -> None:
    """The textbook face of each of Ekman's six is what is drawn, up to units of the open mouth."""
    for name in ("happiness", "sadness", "anger", "surprise"):
        entry = facs.table()["emotions"][name]
        assert set(entry["prototype"]) <= set(entry["apex"]), name


def test_no_emotion_is_no_muscle() -> None:
    assert not facs.muscles(np.zeros((3, 12)), np.zeros((3, 3))).any()
    curves, pose = facs.expression(np.zeros((3, len(facs.units()))))
    assert not curves.any()
    assert not pose.any()
    assert (facs.articulation(np.zeros(12)) == 1).all()


@pytest.mark.parametrize("name", CORE)
def test_faces_grow_with_intensity(name: str) -> None:
    k = CORE.index(name)
    rows = np.linspace(0, 1, 6)[:, None] * np.eye(12)[k]
    curves, _ = facs.expression(facs.muscles(rows))
    size = curves.sum(axis=1)
    assert (np.diff(size) > 0.05).all()
    assert np.allclose(curves[3], 0.6 * curves[5], atol=0.02)


def test_faces_differ_from_each_other() -> None:
    rows = np.stack([face(name) for name in (*CORE, "contempt")])
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    alike = unit @ unit.T - np.eye(len(rows))
    assert alike.max() < 0.97  # pleasant ones are smiles
    ekman = [CORE.index(n) for n in ("happiness", "surprise", "anger", "disgust", "sadness")]
    assert alike[np.ix_(ekman, ekman)].max() < 0.6


def test_corners_of_the_mouth_tell_faces_apart() -> None:
    """Pressed lips lift the corners: angry mouths smiled until AU 15 was added."""
    from pipelines.portrait_basis import basis

    def corners(name: str) -> np.ndarray:
        moved = np.tensordot(face(name, 0.6), basis()[..., 1], axes=1)
        return moved[[291, 61]] - (moved[0] + moved[17]) / 2  # left, right: above the middle

    assert (corners("happiness") > 0.03).all()
    for name in ("anger", "sadness", "disgust"):
        assert (corners(name) < -0.01).all(), name
    left, right = corners("contempt")
    assert right > 0.05
    assert abs(left) < 0.02


def test_contempt_is_on_one_side() -> None:
    curves = dict(zip(ARKIT, face("contempt"), strict=True))
    assert curves["mouthDimpleRight"] > 0.5
    assert curves["mouthDimpleLeft"] == 0
    assert curves["mouthSmileLeft"] == 0


def test_compounds_have_faces_and_unknown_names_are_told() -> None:
    awed = dict(zip(ARKIT, face("awed"), strict=True))
    assert awed["browInnerUp"] > 0.5
    assert face("happily surprised")[ARKIT.index("mouthSmileLeft")] > 0.5
    with pytest.raises(facs.FacsError, match="contempt") as error:
        facs.named("smug")
    assert "\n" not in str(error.value)


def test_muscles_can_be_edited_by_hand() -> None:
    curves, pose = facs.expression(facs.contracted({"1": 0.8, "R12": 0.4, "53": 1.0})[None])
    by_name = dict(zip(ARKIT, curves[0], strict=True))
    assert by_name["browInnerUp"] == pytest.approx(0.8)
    assert by_name["mouthSmileRight"] == pytest.approx(0.4)
    assert by_name["mouthSmileLeft"] == 0
    assert pose[0].tolist() == [0, facs.HEAD_DEGREES, 0]
    with pytest.raises(facs.FacsError, match="not known"):
        facs.contracted({"99": 1.0})
    with pytest.raises(facs.FacsError, match=r"facs\.muscles"):
        facs.expression(np.zeros((2, 7)))


def test_what_no_emotion_explains_still_shows() -> None:
    up, _ = facs.expression(facs.muscles(np.zeros(12), np.array([[0.5, 0, 0]])))
    down, _ = facs.expression(facs.muscles(np.zeros(12), np.array([[-0.5, 0, 0]])))
    assert up[0, ARKIT.index("mouthSmileLeft")] > 0.1
    assert down[0, ARKIT.index("mouthFrownLeft")] > 0.1


def test_words_have_the_mouth_and_nothing_else() -> None:
    anger = np.repeat(face("anger")[None], 2, axis=0)
    made = facs.spoken(anger, [0.0, 1.0])
    assert (made[0] == anger[0]).all()
    others = np.setdiff1d(np.arange(CHANNELS), MOUTH)
    assert (made[1][others] == anger[1][others]).all()
    press = ARKIT.index("mouthPressLeft")
    assert made[1, press] < 0.3 * anger[1, press]


def test_lip_gap() -> None:
    curves = np.zeros((4, CHANNELS))
    curves[1, ARKIT.index("jawOpen")] = 1.0
    curves[2, [ARKIT.index("jawOpen"), ARKIT.index("mouthClose")]] = 0.6
    curves[3, ARKIT.index("mouthRollLower")] = 1.0
    assert facs.lip_gap(curves).tolist() == pytest.approx([0, 0.503, 0, 0])


@pytest.mark.parametrize(
    ("phone", "name"),
    [("P", "PP"), ("m", "PP"), ("V", "FF"), ("AA1", "aa"), ("ʃ", "CH"), ("uː", "U"), ("", "sil")],
)
def test_sounds_have_visemes(phone: str, name: str) -> None:
    assert facs.viseme_of(phone) == name


def test_every_sound_of_the_table_is_found_again() -> None:
    for alphabet in ("arpabet", "ipa"):
        for name, phones in facs.table()["visemes"][alphabet].items():
            assert {facs.viseme_of(phone) for phone in phones} == {name}
    with pytest.raises(facs.FacsError, match="ARPAbet"):
        facs.viseme_of("%")


def test_closed_sounds_close_the_lips_and_open_ones_do_not() -> None:
    gap = {
        name: facs.lip_gap(facs.viseme(name)[None])[0] for name in facs.table()["visemes"]["map"]
    }
    assert gap["PP"] == 0
    assert gap["FF"] < 0.05
    assert gap["aa"] > 0.25
    assert gap["aa"] > gap["E"] > gap["I"]
    found = facs.closures([("P", 0.0, 0.1), ("AA", 0.1, 0.3), ("F", 0.3, 0.4)])
    assert found == [(0.0, 0.1, "PP"), (0.3, 0.4, "FF")]


def test_people_vary_by_the_shares_of_the_table() -> None:
    rng = np.random.default_rng(0)
    column = facs.units().index("17")
    raised = [facs.variation("anger", rng)[column] > 0 for _ in range(400)]
    assert 0.45 < np.mean(raised) < 0.6
