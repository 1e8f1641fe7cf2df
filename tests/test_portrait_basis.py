"""The basis written by hand moves points as measured heads do."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from adapters.face_motion import ARKIT
from pipelines.face_mesh import template
from pipelines.portrait_basis import basis, mirror, table

MEASURED = json.loads(
    (Path(__file__).parent / "data" / "ict_displacements.json").read_text(encoding="utf-8")
)
SKIPPED = ("cheekRaiser", "PupilDilate", "eyeLook", "eyeBlink", "eyeWide")
"""No channels of ARKit, or moved by the renderer of the eyes."""


def channels() -> list[tuple[str, str]]:
    out = []
    for name in MEASURED["disp"]:
        if name.startswith(SKIPPED):
            continue
        ours = name.removesuffix("_L") + ("Left" if name.endswith("_L") else "")
        if ours in ARKIT:
            out.append((name, ours))
        elif name.removesuffix("_L") in ARKIT:
            out.append((name, name.removesuffix("_L")))
    return out


@pytest.mark.parametrize(("name", "ours"), channels())
def test_points_move_as_measured(name: str, ours: str) -> None:
    """Direction and relative size at the 18 measured landmarks (ICT-FaceKit, MIT)."""
    field = basis()[ARKIT.index(ours)]
    where = [
        (MEASURED["landmarks"][at], value)
        for at, value in MEASURED["disp"][name].items()
        if at != "corner_R"
    ]
    got = np.array([field[index, :2] for index, _ in where])
    wanted = np.array([value[:2] for _, value in where])
    cosine = (got * wanted).sum() / np.linalg.norm(got) / np.linalg.norm(wanted)
    assert cosine > 0.8
    gain = table()["gains"].get(ours.removesuffix("Left"), 1.0)
    assert 0.6 < np.linalg.norm(got) / np.linalg.norm(wanted) / gain < 1.5


def test_enough_channels_are_measured() -> None:
    assert len(channels()) >= 25


def test_right_mirrors_left() -> None:
    for name in ARKIT:
        if name.endswith("Left"):
            left, right = basis()[ARKIT.index(name)], basis()[ARKIT.index(name[:-4] + "Right")]
            assert np.abs(left[mirror()] * (-1, 1, 1) - right).max() < 1e-9


def test_lips_part_and_the_forehead_stays_when_the_jaw_opens() -> None:
    jaw = basis()[ARKIT.index("jawOpen")]
    assert jaw[14, 1] < -0.4
    assert jaw[13, 1] > -0.12
    assert np.abs(jaw[[10, 151, 336, 107]]).max() < 0.02
    assert np.abs(jaw[template()[:, 1] > 0.5]).max() < 0.03


def test_closing_undoes_opening() -> None:
    both = basis()[ARKIT.index("jawOpen")] + basis()[ARKIT.index("mouthClose")]
    gap = both[13, 1] - both[14, 1]
    assert abs(gap) < 0.15
