"""Recipes of the critics of portraits: made-up faces, composed windows, fits, cards."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from adapters.emotion import CORE
from adapters.face_geometry import FEATURES
from adapters.face_motion import ARKIT, CHANNELS
from adapters.face_reading import CLASSES, EXPRESSIONS
from adapters.motion_critic import KINDS, MotionCritic, load_portrait_critic
from pipelines.face_mesh import template
from pipelines.portrait_basis import basis
from pipelines.portrait_sound import silence
from training.portrait_critic import (
    critic_figures,
    critic_text,
    fit_critic,
    fit_reader,
    mirrored,
    publish,
    reader_figures,
    reader_text,
    table_of,
    window,
    write_section,
)
from training.portrait_data import Clip
from training.portrait_faces import FacesError, Model, Prototypes, made, people, seen, weights_of

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="module")
def head() -> Model:
    """Our own basis in the shape of the measured one; the recipe takes any head."""
    names, moves = [], []
    for k, name in enumerate(ARKIT):
        if name.startswith("browInnerUp"):
            for side, sign in (("_L", 1), ("_R", -1)):
                names.append(name + side)
                moves.append(basis()[k] * (np.sign(template()[:, :1]) * sign > 0))
        else:
            names.append(name.replace("Left", "_L").replace("Right", "_R"))
            moves.append(basis()[k])
    names = [name if name not in {"jaw_L", "jaw_R", "mouth_L", "mouth_R"} else
             name.replace("_L", "Left").replace("_R", "Right") for name in names]  # fmt: skip
    return Model(tuple(names), template().copy(), np.array(moves))


@pytest.fixture(scope="module")
def prototypes(head: Model, tmp_path_factory: pytest.TempPathFactory) -> Prototypes:
    """A table of facts in the layout of the published one, but for few people."""
    table = json.loads((Path(__file__).parents[1] / "assets/emotions/facs.json").read_text())
    map_ = {unit: entry["arkit"] for unit, entry in table["units"].items() if entry["arkit"]}
    facts = {
        "basic_emotions": {
            name: {"prototype": entry["prototype"], "variants": []}
            for name, entry in {**table["emotions"], **table["named"]}.items()
        },
        "compound_emotions_du2014": table["compounds_du2014"]["map"],
        "au_to_arkit": {"map": map_},
    }
    path = tmp_path_factory.mktemp("facts") / "facs.json"
    path.write_text(json.dumps(facts))
    return Prototypes.load(path, head)


def clips(count: int = 2, frames: int = 200) -> list[Clip]:
    """Mouths that open and close, in silence."""
    out = []
    for k in range(count):
        mouth = np.zeros((frames, CHANNELS), np.float32)
        swing = 0.15 * (1 - np.cos(np.arange(frames) / (3 + k)))
        mouth[:, ARKIT.index("jawOpen")] = swing
        out.append(Clip(f"clip{k}", 1.0, silence(frames), mouth))
    return out


# --- made-up faces


def test_units_move_both_sides_unless_the_face_is_one_sided(prototypes: Prototypes) -> None:
    rng = np.random.default_rng(0)
    contempt = weights_of(CLASSES.index("contempt"), 1.0, prototypes, rng)
    smile = np.flatnonzero(prototypes.shapes["12"])
    assert len(smile) == 2
    sides = {tuple(np.flatnonzero(weights_of(7, 1.0, prototypes, rng)[smile])) for _ in range(60)}
    assert {(0,), (1,)} <= sides, "either side, by the person"
    assert contempt.max() > 0.3


def test_people_use_variants_by_their_shares(prototypes: Prototypes) -> None:
    rng = np.random.default_rng(0)
    drawn = [prototypes.units("sadness", rng) for _ in range(600)]
    assert all("4" in units or "1" in units for units in drawn)
    of_people = [units for units in drawn if units[:2] == ["4", "15"]]
    assert np.mean(["17" in units for units in of_people]) == pytest.approx(0.67, abs=0.08)


def test_made_faces_differ_and_hold_their_labels(head: Model, prototypes: Prototypes) -> None:
    faces = made(300, head, prototypes, np.random.default_rng(0))
    assert faces.x.shape == (300, len(FEATURES))
    assert np.isfinite(faces.x).all()
    assert set(faces.kind.tolist()) == set(range(8))
    wanted = faces.wanted
    assert wanted[:, :8].sum(axis=1).tolist() == [1.0] * 300
    assert (wanted[faces.kind == 0, 8:] == 0).all()
    corner = FEATURES.index("curve")
    happy, sad = (faces.kind == CLASSES.index(n) for n in ("happiness", "sadness"))
    assert faces.x[happy, corner].mean() > faces.x[sad, corner].mean()
    again = made(300, head, prototypes, np.random.default_rng(0))
    assert np.array_equal(faces.x, again.x)


def test_people_and_turns_are_of_the_size_they_are_said_to_be(head: Model) -> None:
    rng = np.random.default_rng(0)
    crowd = people(head.neutral, 40, rng)
    wide = crowd[:, 291, 0] - crowd[:, 61, 0]
    assert 0.02 < wide.std() < 0.2
    pixels = seen(np.repeat(head.neutral[None], 2, axis=0), np.array([[0, 0, 0], [25, 0, 0]]), rng)
    assert pixels.shape == (2, 478, 2)
    nose = [p[1, 0] - (p[33, 0] + p[263, 0]) / 2 for p in pixels]
    assert abs(nose[1] - nose[0]) > 5, "a turned head shows its nose to one side"


def test_missing_tables_are_told_in_one_line(tmp_path: Path, head: Model) -> None:
    for call in (lambda: Model.load(tmp_path / "x.npz"), lambda: Prototypes.load(tmp_path, head)):
        with pytest.raises(FacesError) as caught:
            call()
        assert "\n" not in str(caught.value)
    with pytest.raises(FacesError, match="no shape earWiggle"):
        head.shape("earWiggle", "")


def test_the_reader_learns_made_faces(head: Model, prototypes: Prototypes, tmp_path: Path) -> None:
    sets = [made(n, head, prototypes, np.random.default_rng(k)) for k, n in enumerate((900, 300))]
    reader = fit_reader(sets[0], sets[1], centres=200)
    found = reader_figures(reader, sets[1])
    assert found["seven"]["strong"][0] > 0.6
    assert found["ece"] < 0.2
    publish(reader, tmp_path, {"held_out": found}, reader_text(found))
    card = (tmp_path / "reader-portrait" / "README.md").read_text()
    assert "## Held-out figures" in card
    assert load_portrait_critic(tmp_path / "reader-portrait").digest == reader.digest


@pytest.mark.skipif(not (SHARED / "facts" / "facs.json").is_file(), reason="needs ../shared")
def test_the_measured_head_and_the_published_table_fit_together() -> None:
    head = Model.load(SHARED / "data" / "portrait" / "ict_arkit_basis_mp478.npz")
    table = Prototypes.load(SHARED / "facts" / "facs.json", head)
    assert set(table.textbook) == set(EXPRESSIONS)
    for name in EXPRESSIONS:
        for units in (*table.textbook[name], table.people.get(name, ((), {}))[0]):
            for unit in units:
                assert table.shapes[unit.lstrip("LR")].any(), unit


# --- windows of motion


def test_windows_hold_what_they_say() -> None:
    rng = np.random.default_rng(0)
    kinds = set()
    for _ in range(150):
        motion, label = window(clips(), rng)
        assert 24 <= len(motion) <= 96
        assert label.sum() == pytest.approx(1)
        assert label.min() >= -1e-9
        if label[1:].max() > 0.2:
            kinds.add(KINDS[1 + int(label[1:].argmax())])
    assert "contempt" in kinds
    assert len(kinds & set(CORE)) >= 8


def test_mirrored_faces_turn_the_other_way() -> None:
    curves = np.zeros((3, CHANNELS), np.float32)
    curves[:, ARKIT.index("mouthSmileLeft")] = 0.7
    curves[:, ARKIT.index("jawRight")] = 0.2
    pose = np.tile(np.float32([5, 6, 7]), (3, 1))
    flipped, turned = mirrored(curves, pose)
    assert flipped[0, ARKIT.index("mouthSmileRight")] == np.float32(0.7)
    assert flipped[0, ARKIT.index("jawLeft")] == np.float32(0.2)
    assert flipped[0, ARKIT.index("mouthSmileLeft")] == 0
    assert turned[0].tolist() == [-5, 6, -7]
    back, straight = mirrored(flipped, turned)
    assert np.array_equal(back, curves)
    assert np.array_equal(straight, pose)


def test_the_critic_learns_composed_motion(tmp_path: Path) -> None:
    found, labels, _ = table_of(clips(), 250, 0)
    critic = fit_critic(found, labels, steps=250, width=16, members=1)
    again = fit_critic(found, labels, steps=250, width=16, members=1)
    assert critic.digest == again.digest, "the same seed gives the same critic"
    _, truth, motions = table_of(clips(), 60, 1)
    figures = critic_figures(critic, motions, truth)
    assert figures["intensity_r"] > 0.7
    publish(critic, tmp_path, {"held_out": figures}, critic_text(figures))
    loaded = load_portrait_critic(tmp_path / "critic-portrait")
    assert isinstance(loaded, MotionCritic)
    assert np.allclose(loaded.kinds(motions[:3]), critic.kinds(motions[:3]), atol=1e-6)
    assert torch.get_num_threads() >= 1


# --- cards


def test_sections_of_cards_are_replaced_and_come_before_the_limits(tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    card.write_text("# name\n\nAbout.\n\n## Limits\n\n* Some.\n")
    write_section(card, "Figures", "one")
    write_section(card, "More", "two")
    write_section(card, "Figures", "three")
    text = card.read_text()
    assert text.index("# name") < text.index("## Figures") < text.index("## More")
    assert text.index("## More") < text.index("## Limits") < text.index("* Some.")
    assert "one" not in text
    assert text.count("## Figures") == 1
