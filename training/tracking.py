"""Where the figures of a run can be watched: TensorBoard, trackio or Weights & Biases.

    tensorboard --logdir out/run/tensorboard

The trackers are those of accelerate, which write on the main process alone. TensorBoard writes
files and is used where it is installed; the other two are chosen by name, since they may send what
they are given to a server. Knows no recipe.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

TRACKERS = ("tensorboard", "trackio", "wandb", "none")


class TrackerError(ValueError):
    """A tracker that is not known or not installed; one line."""


class Tracker:
    """One tracker of a run, or none.

    Args:
        name: one of `TRACKERS`; "": TensorBoard where it is installed.
        out: folder of the run; TensorBoard's files go to `out/tensorboard`.
        facts: settings of the run; only what is text or number is told.

    Raises:
        TrackerError: another name, or a package that is not installed.
    """

    def __init__(self, name: str, out: Path, facts: Mapping[str, Any]) -> None:
        self.name = checked_name(name)
        self.out, self.facts = out, facts
        self._tracker: Any = None

    def start(self, step: int) -> None:
        """Begin, or go on after `step`: what TensorBoard was told of later steps is taken out."""
        if self.name == "none":
            return
        from accelerate.tracking import TensorBoardTracker, TrackioTracker, WandBTracker

        if self.name == "tensorboard":
            self._tracker = TensorBoardTracker("tensorboard", self.out, purge_step=step + 1)
            self._tracker.start()
            return
        kind = TrackioTracker if self.name == "trackio" else WandBTracker
        self._tracker = kind("affect-train", name=self.out.name)
        self._tracker.start()
        plain = {k: v for k, v in self.facts.items() if isinstance(v, str | int | float | bool)}
        self._tracker.store_init_configuration(plain)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Scalars of a step."""
        if self._tracker is not None:
            self._tracker.log({k: v for k, v in values.items() if k != "step"}, step=step)

    def picture(self, name: str, image: Image.Image, step: int) -> None:
        """A picture of a step."""
        if self._tracker is None:
            return
        array = np.asarray(image.convert("RGB"))
        if self.name == "trackio":  # accelerate 1.15 has no pictures for it
            self._tracker.log({name: import_module("trackio").Image(array)}, step=step)
        else:
            self._tracker.log_images({name: array[None]}, step=step, **self._order())

    def _order(self) -> dict[str, str]:
        return {"dataformats": "NHWC"} if self.name == "tensorboard" else {}

    def finish(self) -> None:
        """Close it."""
        if self._tracker is not None:
            self._tracker.finish()
            self._tracker = None


def checked_name(name: str) -> str:
    """The tracker that is meant by `name`, which has to be installed.

    Raises:
        TrackerError: another name, or a package that is not installed.
    """
    if not name:
        return "tensorboard" if find_spec("tensorboard") else "none"
    if name not in TRACKERS:
        msg = f"tracker: allowed {', '.join(TRACKERS)}, received {name[:40]!r}"
        raise TrackerError(msg)
    if name != "none" and not find_spec(name):
        msg = f"tracker: {name} is not installed; `pip install {name}`, or pass --tracker none"
        raise TrackerError(msg)
    return name
