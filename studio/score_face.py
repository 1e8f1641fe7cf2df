"""What both readers of portraits read in a film or in a retouched still, for `affect score`.

The critic reads curves: those that lie beside a film of ours, else those that the mesh of its
frames moves by. The independent reader reads the mesh itself, against the photo that the film was
made from, or where that is gone against the calmest frame, which tells less. This file deliberately
does not know whose face may be scored (studio.score).
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from studio.console import note

if TYPE_CHECKING:
    from adapters.face_motion import Motion
    from adapters.reading import Reading
    from pipelines.face_mesh import Face
    from pipelines.portrait_photo import Photo
    from pipelines.take import Take

Floats = NDArray[np.float64]
Scored = tuple[dict[str, "Reading"], dict[str, Any]]

RATE, SIDE = 10.0, 1280
"""Frames a second that are measured, and pixels of their longer side."""
MOST = 1200  # frames in all: two minutes at RATE, then fewer a second
APART = 0.1  # s by which curves may be longer or shorter than their film
FEWEST = 0.3  # share of the frames in which a face has to be found


def read_film(file: Path) -> Scored:
    """Readings of a film of a face by name, and what else is told: rest, motion.

    Raises:
        MediaError, FaceError: no film that can be read, or hardly a face in it.
    """
    from adapters.face_geometry import Landmarks
    from pipelines.media_video import probe_video
    from pipelines.portrait_drive import read_clip

    clip = probe_video(file)
    take = _take(file)
    critic, reader = _readers()
    meshes = _meshes(file, clip.seconds)
    motion = _curves_beside(file, clip.seconds) if take is not None else None
    told = "its own curves"
    if motion is None:
        told, motion = "curves measured in its frames", read_clip(file)
        note(f"{file.name}: no curves of its own lie beside it; they are measured in its frames")
    rest = _rest_of(take, film=True) if take is not None else None
    against = "the photo"
    if rest is None:
        against, rest = "its calmest frame", meshes[_calmest(meshes)]
        note(f"{file.name}: the photo it was made from is not here; read against its calmest frame")
    readings = {
        critic.name: critic.read([motion])[0],
        reader.name: reader.read([Landmarks(meshes, rest)])[0],
    }
    return readings, {"against": against, "critic_reads": told}


def read_still(file: Path, take: Take) -> Scored:
    """Readings of a retouched photo by name; the photo itself has to be here.

    Raises:
        ValueError: the photo is gone or has changed.
        FaceError: no face is found in the still.
    """
    from adapters.face_geometry import Landmarks
    from pipelines.face_mesh import FaceError, measure
    from pipelines.media import load_image

    critic, reader = _readers()
    found = _photo_of(take)
    if found is None:
        msg = f"score: the photo that {file.name} was made of is gone or has changed; put it back"
        raise ValueError(msg)
    mesh = measure(np.asarray(load_image(file)), found.face)
    rest = _rest_of(take, film=False)
    if mesh is None or rest is None:
        msg = f"score: no face is found in {file.name}; score another still"
        raise FaceError(msg)
    readings = {}
    motion = _curves_beside(file, None)
    if motion is not None:
        readings[critic.name] = critic.read([motion])[0]
    readings[reader.name] = reader.read([Landmarks(mesh.points[None].astype(np.float64), rest)])[0]
    return readings, {"against": "the photo"}


def _readers() -> tuple[Any, Any]:
    from adapters.motion_critic import load_portrait_critic

    return load_portrait_critic("critic-portrait"), load_portrait_critic("reader-portrait")


def _take(file: Path) -> Take | None:
    from pipelines.take import Take

    with suppress(ValueError):  # from elsewhere
        take = Take.read(file)
        return take if take.request.modality == "portrait" else None
    return None


def _curves_beside(file: Path, seconds: float | None) -> Motion | None:
    """The curves of the same name, where they last as long as the film; of a still one frame."""
    from adapters.face_motion import MotionError, read_csv

    beside = file.with_suffix(".csv")
    with suppress(MotionError):
        motion = read_csv(beside) if beside.is_file() else None
        if motion is not None and (
            len(motion) == 1 if seconds is None else abs(motion.seconds - seconds) <= APART
        ):
            return motion
    return None


def _photo_of(take: Take) -> Photo | None:
    """The photo of a take with the face that moved; None when it is gone or has changed."""
    import hashlib

    from pipelines.face_mesh import FaceError
    from pipelines.media import MediaError
    from pipelines.portrait_photo import read_photo

    path, params = take.request.inputs.get("image"), take.request.params
    with suppress(OSError, MediaError, FaceError, ValueError):
        if path is None:
            return None
        with path.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        if digest == take.request.digests["image"]:
            return read_photo(path, int(params.get("face", 0)), str(params.get("points", "")))
    return None


def _rest_of(take: Take, *, film: bool) -> Floats | None:
    """(478, 2) the mesh of the photo at the size of the result, measured as its frames are."""
    from pipelines.face_mesh import measure

    photo = _photo_of(take)
    if photo is None:
        return None
    size = photo.film_size(int(take.request.params.get("size", 512))) if film else None
    image, face = photo.opened(size)
    found = measure(np.asarray(image), face)
    return None if found is None else found.points.astype(np.float64)


def _meshes(file: Path, seconds: float) -> Floats:
    """(T, 478, 2) pixels of the face in frames of a film, those without a face left out."""
    from PIL import Image

    from pipelines.face_mesh import FaceError, detect, measure
    from pipelines.media_video import decode_frames

    found: list[NDArray[np.float32]] = []
    near: Face | None = None
    count = 0
    for _, frame in decode_frames(file, fps=min(RATE, MOST / max(seconds, 1e-3)), side=SIDE):
        face = measure(frame, near) if near is not None else None
        if face is None and count % 5 == 0:  # finding takes ten times as long as following
            with suppress(FaceError):
                face = detect(Image.fromarray(frame), limit=1)[0]
        count += 1
        if face is not None:
            near = face
            found.append(np.asarray(face.points))
    if near is None or len(found) < FEWEST * count:
        msg = f"score: a face was found in {len(found)} of {count} frames of {file.name}; give a "
        raise FaceError(f"{msg}film where it stays large and frontal")
    return np.stack(found).astype(np.float64)


def _calmest(meshes: Floats) -> int:
    """The frame whose shape is nearest to the median, which is seldom at the height of a mood."""
    shape = meshes - meshes.mean(axis=1, keepdims=True)
    shape /= np.sqrt(np.square(shape).sum(axis=(1, 2), keepdims=True))
    away = np.square(shape - np.median(shape, axis=0)).sum(axis=(1, 2))
    return int(away.argmin())
