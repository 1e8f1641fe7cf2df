"""Checkpoints of one run: a folder a step, the newest few of them, and which one to go on with.

    .checkpoint/step-000100/    weights, averages, optimiser moments (training.loop), meta.json

Each is written beside its place and renamed into it, so a run that is killed at any moment has the
last whole one. Going back to an older one leaves the newer ones until the first that is written on
the new way. Knows no model, no recipe and no data.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from training.loop import load_checkpoint, save_checkpoint

META = "meta.json"


class CheckpointError(ValueError):
    """A checkpoint that is not there, cannot be read or cannot be written; one line."""


class Checkpoints:
    """The checkpoints of a run.

    Args:
        folder: of the run's checkpoints; is made with the first one.
        keep: how many of the newest stay.
    """

    def __init__(self, folder: Path, keep: int = 1) -> None:
        self.folder, self.keep = folder, keep

    def steps(self) -> list[int]:
        """Steps of the whole checkpoints there are, ascending."""
        # A run that is killed between two renames leaves the one before under `.old`.
        found = (re.fullmatch(r"step-(\d+)(\.old)?", path.parent.name)
                 for path in self.folder.glob(f"step-*/{META}"))  # fmt: skip
        return sorted({int(match[1]) for match in found if match})

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step lies."""
        return self.folder / f"step-{step:06d}"

    def find(self, which: str) -> Path | None:
        """The checkpoint to go on with; None: there is none yet, begin at the beginning.

        which: "latest", the number of a step, or the folder of a checkpoint anywhere.

        Raises:
            CheckpointError: a number or a folder that is no checkpoint, with those there are.
        """
        steps = self.steps()
        if which == "latest":
            return self.path(steps[-1]) if steps else None
        if which.isdigit() and int(which) in steps:
            return self.path(int(which))
        folder = Path(which)
        if not which.isdigit() and (folder / META).is_file():
            return folder
        have = f"steps {', '.join(map(str, steps))}" if steps else "none"
        msg = (
            f"resume: {which[:80]!r} is no checkpoint; {self.folder.parent} has {have}: give "
            "latest, the number of a step or the folder of a checkpoint"
        )
        raise CheckpointError(msg)

    def meta(self, path: Path) -> dict[str, Any]:
        """What was saved beside the weights.

        Raises:
            CheckpointError: a file that is damaged.
        """
        at = path if path.is_dir() else path.with_name(path.name + ".old")
        try:
            found = json.loads((at / META).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise self._damaged(path, error) from error
        return dict(found)

    def load(self, path: Path, saved: tuple[Any, ...]) -> int:
        """Restore modules, averages, optimiser and generator; returns the step.

        Raises:
            CheckpointError: a file that is damaged or of another model.
        """
        try:
            return load_checkpoint(path, *saved)
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise self._damaged(path, error) from error

    def save(self, step: int, saved: tuple[Any, ...], meta: Mapping[str, Any]) -> None:
        """Write the checkpoint of a step, and let go of those that are too many.

        Raises:
            CheckpointError: the disk is full or cannot be written; those before are kept.
        """
        try:
            save_checkpoint(self.path(step), step, *saved, meta=meta)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(self.folder / f"{self.path(step).name}.tmp", ignore_errors=True)
            kept = self.steps()
            why = error.__cause__ or error  # of safetensors, what has been told as ours
            said = " ".join(str(why).split()).removeprefix("Error while serializing: ")[:120]
            msg = (
                f"checkpoint: step {step} cannot be written to {self.folder.parent} ({said}); "
                + (f"that of step {kept[-1]} is kept: " if kept else "")
                + "make room and pass --resume latest"
            )
            raise CheckpointError(msg) from error
        steps = self.steps()
        older = [one for one in steps if one < step]
        newer = [one for one in steps if one > step]  # of a way that was left by going back
        for one in (*older[: max(0, len(older) - self.keep + 1)], *newer):
            for suffix in ("", ".old", ".tmp"):
                path = self.path(one)
                shutil.rmtree(path.with_name(path.name + suffix), ignore_errors=True)

    def clear(self) -> None:
        """Delete all of them: the run has ended."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _damaged(self, path: Path, error: Exception) -> CheckpointError:
        others = [one for one in self.steps() if self.path(one).name != path.name]
        hint = f"pass --resume {others[-1]}" if others else "begin again with another --out"
        reason = " ".join(str(error).split())[:120]
        return CheckpointError(f"resume: {path} cannot be read ({reason}); {hint}")
