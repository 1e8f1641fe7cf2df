"""What is read in a film over time: pictures, faces, voices and music, each by judges of its own.

A track is one modality on the film's clock. Its critic's distributions are compared with what was
asked and with the other tracks (adapters.agreement); the independent reader's valence and arousal
stand beside them. Pictures are read from the frames of the cut, without titles; faces from their
curves, voices from the sound and music from the notes of the takes that the film is made of. Where
a track says nothing (no face is shown, nobody speaks) its rows are nan.

It deliberately knows no scene and draws nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from adapters.agreement import Agreement, Follow, agreement, asked_track, follow, read_track
from adapters.agreement import resampled as track_at
from adapters.emotion import EmotionTimeline
from adapters.reading import LABELS, Reading
from pipelines.curve import Curve

if TYPE_CHECKING:
    from PIL.Image import Image

    from pipelines.take import Take

Floats = NDArray[np.float64]

STEP = 0.25  # s between moments at which tracks are compared, as in adapters.agreement
MUSIC_WINDOW, MUSIC_STEP = 6.0, 1.0  # s: about four bars, moved by half a bar
FEWEST_NOTES = 4
GAP = 1e-3  # s that separate two pieces of a track


@dataclass(frozen=True, slots=True)
class Track:
    """One modality on the film's clock.

    times: (n,) s. rows: (n, 13) distributions that the critic read, nan where it says nothing.
    curves: name of a judge -> valence and arousal, the critic first.
    """

    name: str
    times: Floats
    rows: Floats
    curves: Mapping[str, Curve]


@dataclass(frozen=True, slots=True)
class Piece:
    """A take that plays in the film from `start` on, for `seconds`."""

    take: Take
    start: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Told:
    """What all tracks tell: how each follows what was asked, and how they agree."""

    tracks: tuple[Track, ...]
    follows: Mapping[str, Follow]
    agreement: Agreement | None


def told(tracks: Sequence[Track], emotion: EmotionTimeline, seconds: float) -> Told:
    """Compare tracks with what was asked of a film and with each other."""
    times = np.arange(0.0, max(seconds, 2 * STEP) + STEP / 2, STEP)
    asked = asked_track(emotion, times)
    follows: dict[str, Follow] = {}
    for track in tracks:
        read = track_at((track.times, track.rows), times, track.name)
        if np.isfinite(read).all(axis=1).sum() >= 3:
            follows[track.name] = follow(asked, read)
    rows = {track.name: (track.times, track.rows) for track in tracks}
    return Told(tuple(tracks), follows, agreement(rows, (times, asked)) if rows else None)


# Tracks ------------------------------------------------------------------------------------------


def of_pictures(
    seen: Sequence[tuple[float, Image | None]], judges: Sequence[Any]
) -> tuple[Track | None, list[list[Reading]]]:
    """The track of the pictures, and all that each judge read.

    seen: seconds and frame, None where something else than a picture is shown. judges: the critic,
    then the reader if there is one.
    """
    shown = [image for _, image in seen if image is not None]
    if not shown or not judges:
        return None, []
    read = [judge.read(shown) for judge in judges]
    times = np.array([at for at, _ in seen])
    where = np.array([image is not None for _, image in seen])
    curves = {}
    for judge, readings in zip(judges, read, strict=True):
        vad = np.full((len(times), 3), np.nan)
        vad[where] = [one.vad_mean for one in readings]
        curves[judge.name] = Curve.of(times, vad[:, 0], vad[:, 1])
    rows = np.full((len(times), len(LABELS)), np.nan)
    rows[where] = read_track(read[0])
    return Track("picture", times, rows, curves), read


def of_faces(pieces: Sequence[Piece], critic: Any) -> Track | None:
    """The track of the faces, from the curves beside each portrait."""
    from adapters.face_motion import Motion, read_csv

    def read(piece: Piece) -> tuple[Floats, list[Reading]]:
        beside = next(path for path in piece.take.companions if path.suffix == ".csv")
        motion = read_csv(beside)
        last = max(
            1, round(piece.seconds * motion.fps)
        )  # what goes on under a dissolve is left out
        motion = Motion(motion.curves[:last], motion.pose[:last], motion.fps)
        found: tuple[Floats, list[Reading]] = critic.read_over_time(motion, step=STEP)
        return found

    return _joined("face", pieces, critic, read)


def of_voices(pieces: Sequence[Piece], critic: Any) -> Track | None:
    """The track of the voices, against the recording where that is neutral."""
    from adapters.voice_analysis import analyse
    from pipelines.media_sound import load_sound

    def heard(path: Path) -> Any:
        sound = load_sound(path)
        return analyse(sound.waveform.mean(axis=0), sound.sample_rate)

    def read(piece: Piece) -> tuple[Floats, list[Reading]]:
        reference = None
        if (piece.take.reading or {}).get("against"):
            plain = next(
                (path for path in piece.take.companions if path.name.endswith(".neutral.wav")),
                piece.take.request.inputs.get("audio"),
            )
            reference = None if plain is None else critic.reference([heard(plain)])
        analysis = heard(piece.take.path)
        found: tuple[Floats, list[Reading]] = critic.read_over_time(analysis, reference, step=STEP)
        return found

    return _joined("voice", pieces, critic, read)


def of_music(piece: Piece, critic: Any) -> Track | None:
    """The track of the music, from its notes in windows of `MUSIC_WINDOW`."""
    from pipelines.media_midi import load_midi

    def read(one: Piece) -> tuple[Floats, list[Reading]]:
        notes = load_midi(one.take.path)
        seconds = min(notes.seconds, one.seconds)
        start = notes.seconds_at(notes.onset)
        held = notes.seconds_at(notes.offset) - start
        times, parts = [], []
        for at in np.arange(0.0, seconds, MUSIC_STEP).tolist():
            begin = min(max(at - MUSIC_WINDOW / 2, 0.0), max(0.0, seconds - MUSIC_WINDOW))
            inside = (start >= begin) & (start < begin + MUSIC_WINDOW)
            if inside.sum() < FEWEST_NOTES:
                continue
            # At 60 a minute a beat is a second, whatever the tempo was.
            part = replace(
                notes.select(inside),
                onset=start[inside] - begin,
                duration=held[inside],
                tempo=np.array([[0.0, 60.0]]),
                pedal=notes.pedal[:0],
                bars=round(MUSIC_WINDOW),
                beats_per_bar=1.0,
            )
            times.append(at)
            parts.append(part)
        return np.array(times), critic.read(parts)

    return _joined("music", [piece], critic, read)


def _joined(name: str, pieces: Sequence[Piece], critic: Any, read: Any) -> Track | None:
    """The readings of pieces one after the other, with nothing said between them."""
    times: list[float] = []
    rows: list[Floats] = []
    own: list[tuple[float, ...]] = []
    other: dict[str, list[tuple[float, float, float]]] = {}
    silent = np.full(len(LABELS), np.nan)
    for piece in sorted(pieces, key=lambda one: one.start):
        at, readings = read(piece)
        known = [
            (float(t) + piece.start, row, (*one.vad_mean[:2],))
            for t, row, one in zip(at, read_track(readings), readings, strict=True)
            if t < piece.seconds and float(t) + piece.start > (times[-1] if times else -1.0)
        ]
        if not known:
            continue
        if times:
            times.append(times[-1] + GAP)
            rows.append(silent)
            own.append((np.nan, np.nan))
            if known[0][0] <= times[-1]:
                known = known[1:]
        for t, row, affect in known:
            times.append(t)
            rows.append(row)
            own.append(affect if np.isfinite(row).all() else (np.nan, np.nan))
        for judge, curve in _told_by(piece.take).items():
            if judge != critic.name:
                found = other.setdefault(judge, [])
                found += [(t + piece.start, v, a) for t, v, a in curve if t < piece.seconds]
                found.append((piece.start + piece.seconds, np.nan, np.nan))
    if not times:
        return None
    affects = np.array(own)
    curves = {critic.name: Curve.of(times, affects[:, 0], affects[:, 1])}
    for judge, points in other.items():
        curves[judge] = Curve.of(*np.array(points).T)
    return Track(name, np.array(times), np.array(rows), curves)


def _told_by(take: Take) -> dict[str, list[tuple[float, float, float]]]:
    """What a part's record says that its judges read over time: seconds, valence, arousal."""
    curve = (take.reading or {}).get("curve") or {}
    times = curve.get("times") or []
    found = {}
    for name, axes in curve.items():
        if name in ("times", "asked") or not isinstance(axes, Mapping):
            continue
        points = zip(times, axes.get("valence") or [], axes.get("arousal") or [], strict=False)
        found[name] = [(float(t), _known(v), _known(a)) for t, v, a in points]
    return {name: points for name, points in found.items() if points}


def _known(value: float | None) -> float:
    return np.nan if value is None else float(value)
