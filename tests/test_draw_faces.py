"""The shipped sample faces are what the program paints."""

from __future__ import annotations

import numpy as np

from adapters.assets import ASSETS
from pipelines.media import load_image
from training.draw_faces import LOOKS, cartoon

FOLDER = ASSETS / "samples" / "faces"


def test_the_cartoon_is_painted_as_shipped() -> None:
    painted = np.asarray(cartoon()).astype(int)
    shipped = np.asarray(load_image(FOLDER / "cartoon.jpg")).astype(int)
    assert np.abs(painted - shipped).mean() < 1.5  # of JPEG


def test_every_look_is_shipped() -> None:
    assert {path.stem for path in FOLDER.glob("*.jpg")} == {*LOOKS, "cartoon", "child"}
