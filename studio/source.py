"""Which recording a converted voice was made of, and which file of several is the take itself.

A recording is an input of the request; words were spoken first, and that reading lies beside the
take as NAME.neutral.wav. This file looks for the file and checks that it is still the same; it does
not listen.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.take import Take

MOVING = ("portrait", "video", "film")
"""Modalities whose takes are films."""
NEUTRAL = ".neutral.wav"
"""How the file name of a neutral reading ends."""


def is_neutral_reading(path: Path) -> bool:
    """Whether this is the neutral reading beside a take, by its name."""
    return path.name.endswith(NEUTRAL)


def is_picture_of_film(take: Take) -> bool:
    """Whether this was read from the picture beside something that moves, not from the film."""
    still = take.request.params.get("still")
    return take.request.modality in MOVING and not still and take.path.suffix != ".mp4"


def recording_of(take: Take) -> Path | None:
    """The sound that a voice take began with; None when it is gone or has changed."""
    path = take.request.inputs.get("audio")
    if path is None:
        path = take.path.with_name(take.path.stem + NEUTRAL)
        return path if path.is_file() and not is_neutral_reading(take.path) else None
    try:
        with path.open("rb") as file:
            same = hashlib.file_digest(file, "sha256").hexdigest() == take.request.digests["audio"]
    except OSError:
        return None
    return path if same else None


def neutral_of(take: Take) -> Path | None:
    """The recording of a take where its readers took it for the person's neutral voice."""
    return recording_of(take) if (take.reading or {}).get("against") else None
