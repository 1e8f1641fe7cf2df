"""Emotion -> muscles -> curves: the action units of FACS between the twelve emotions and ARKit.

`muscles` says which units an emotion contracts, `expression` what contracted units do to the 52
channels and the head; both are plain tables (assets/emotions/facs.json), so that people can see and
edit what lies between. While words are spoken the mouth belongs to them: `spoken` takes back what
an emotion does there. It deliberately does not know time (adapters/face_life.py), sound or models.
numpy only.

Sources: Ekman & Friesen (FACS, EMFACS), Du, Tao & Martinez 2014 and those the table names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from adapters.assets import ASSETS
from adapters.emotion import CORE
from adapters.face_motion import ARKIT, CHANNELS, POSE

Floats = NDArray[np.float64]

TABLE = ASSETS / "emotions" / "facs.json"
HEAD_DEGREES = 15.0
"""Degrees of a head unit (51 to 56) at full contraction: renderers of photographs bear no more."""


class FacsError(ValueError):
    """A unit, face or sound of speech that is not in the table; one line that names what is."""


@cache
def table() -> Mapping[str, Any]:
    """The table as it lies in assets/emotions/facs.json."""
    found: dict[str, Any] = json.loads(TABLE.read_text(encoding="utf-8"))
    return found


@cache
def units() -> tuple[str, ...]:
    """Names of the columns of every array of muscles: "1" .. "64", then one-sided "L2", "R12"."""
    faces = [*table()["emotions"].values(), *table()["named"].values()]
    used = {unit for face in faces for unit in face["apex"] if not unit.isdigit()}
    return (*table()["units"], *sorted(used))


@cache
def _unit_matrix() -> Floats:
    """(U, 55) what each unit at 1 adds to the channels and, in degrees, to the pose."""
    out = np.zeros((len(units()), CHANNELS + len(POSE)))
    for row, name in enumerate(units()):
        side = {"L": "Left", "R": "Right"}.get(name[0], "")
        entry = table()["units"][name.lstrip("LR")]
        for channel, value in entry["arkit"].items():
            if channel.endswith(side):
                out[row, ARKIT.index(channel)] = value
        for axis, sign in entry.get("head", {}).items():
            out[row, CHANNELS + POSE.index(axis)] = sign * HEAD_DEGREES
    return out


@cache
def _apex_matrix() -> Floats:
    """(12, U) contraction of each unit by each core emotion at intensity 1."""
    return np.stack([_row(table()["emotions"][name]["apex"]) for name in CORE])


def _row(apex: Mapping[str, float]) -> Floats:
    out = np.zeros(len(units()))
    for name, value in apex.items():
        if name not in units():
            msg = f"action unit: {name[:20]!r} is not known; known: {', '.join(units())}"
            raise FacsError(msg)
        out[units().index(name)] = value
    return out


@cache
def _column(field: str) -> Floats:
    """(12,) or (12, 3) a field of the emotions in the order of CORE."""
    return np.array([table()["emotions"][name][field] for name in CORE], dtype=np.float64)


def muscles(track: ArrayLike, residuals: ArrayLike | None = None) -> Floats:
    """(T, U) contractions 0..1 of intensities (T, 12) and of the VAD (T, 3) they leave over."""
    a = np.atleast_2d(np.asarray(track, dtype=np.float64))
    out = a @ _apex_matrix()
    if residuals is not None:
        r = np.atleast_2d(np.asarray(residuals, dtype=np.float64))
        for sign, side in ((1.0, "up"), (-1.0, "down")):
            for axis, name in enumerate(("valence", "arousal", "dominance")):
                row = _row(table()["axes"][side][name])
                out = out + np.maximum(sign * r[:, axis : axis + 1], 0.0) * row
    return np.clip(out, 0.0, 1.0)


def named(name: str, intensity: float = 1.0) -> Floats:
    """(U,) contractions of a face by name: a core emotion, contempt, or a compound of Du et al.

    Raises:
        FacsError: a name without a face; those that have one.
    """
    emotions, others = table()["emotions"], table()["named"]
    compounds = table()["compounds_du2014"]["map"]
    key = name.strip().lower().replace(" ", "_")
    if key in emotions or key in others:
        apex = (emotions.get(key) or others[key])["apex"]
    elif key in compounds:
        share = compounds[key]["variants_percent"]
        apex = {str(unit): 0.75 for unit in compounds[key]["prototypical"]}
        apex |= {unit: 0.75 * percent / 100 for unit, percent in share.items()}
    else:
        known = ", ".join((*emotions, *others, *compounds))
        msg = f"face: {name[:40]!r} is not known; known: {known}"
        raise FacsError(msg)
    return np.clip(intensity * _row(apex), 0.0, 1.0)


def contracted(values: Mapping[str, float]) -> Floats:
    """(U,) muscles from unit -> contraction, such as {"1": .8, "R12": .4}."""
    return np.clip(_row(values), 0.0, 1.0)


def expression(contractions: ArrayLike) -> tuple[Floats, Floats]:
    """Muscles (T, U) -> curves (T, 52) 0..1 and pose (T, 3) degrees."""
    rows = np.atleast_2d(np.asarray(contractions, dtype=np.float64))
    if rows.shape[1] != len(units()):
        msg = f"muscles: need (T, {len(units())}) in the order of facs.units, received {rows.shape}"
        raise FacsError(f"{msg}; make them with facs.muscles")
    both = rows @ _unit_matrix()
    return np.clip(both[:, :CHANNELS], 0.0, 1.0), both[:, CHANNELS:]


def posture(track: ArrayLike) -> Floats:
    """(T, 3) degrees at which the head is held, of intensities (T, 12)."""
    out: Floats = np.atleast_2d(np.asarray(track, dtype=np.float64)) @ _column("head")
    return out


def articulation(track: ArrayLike) -> Floats:
    """(T,) factor on how wide the mouth opens while speaking; 1 without emotion."""
    out: Floats = 1.0 + np.atleast_2d(np.asarray(track, np.float64)) @ _column("articulation")
    return out


def liveliness(track: ArrayLike) -> Floats:
    """(T,) factor on movements of head and brows; 1 without emotion."""
    out: Floats = 1.0 + np.atleast_2d(np.asarray(track, np.float64)) @ (_column("liveliness") - 1)
    return out


def blinking(track: ArrayLike) -> Floats:
    """(T,) factor on the blink rate; 1 without emotion."""
    out: Floats = 1.0 + np.atleast_2d(np.asarray(track, np.float64)) @ (_column("blinks") - 1)
    return out


def spoken(curves: ArrayLike, speaking: ArrayLike) -> Floats:
    """(T, 52) an expression whose mouth makes way for words. speaking: (T,) 0..1."""
    rows = np.asarray(curves, dtype=np.float64)
    said = np.clip(np.asarray(speaking, dtype=np.float64), 0.0, 1.0)[:, None]
    return np.asarray(rows * (1.0 - said * (1.0 - _priority())))


@cache
def _priority() -> Floats:
    known = table()["mouth_priority"]["map"]
    return np.array([float(known.get(name, 1.0)) for name in ARKIT])


@cache
def _gaps() -> Floats:
    known = table()["lip_gap"]["map"]
    return np.array([float(known.get(name, 0.0)) for name in ARKIT])


def lip_gap(curves: ArrayLike) -> Floats:
    """(T,) distance of the inner lips in distances between the eyes; 0 is closed.

    Channels add up as renderers add displacements; what would push the lips into each other is 0.
    """
    out = np.asarray(curves, dtype=np.float64) @ _gaps()
    return np.asarray(np.maximum(out, 0.0))


def variation(name: str, rng: np.random.Generator) -> Floats:
    """(U,) what one person adds to (or leaves out of) the apex of an emotion, by Du's shares."""
    entry = table()["emotions"][name]
    out = np.zeros(len(units()))
    for variant in entry["variants"]:
        if rng.random() < variant["share"]:
            out += _row(variant.get("add", {}))
            for unit in variant.get("remove", []):
                out[units().index(unit)] -= 0.7 * entry["apex"].get(unit, 0.0)
    return out


# --- speech


def viseme_of(phone: str) -> str:
    """The viseme of a sound, ARPAbet ("AA1", "P") or IPA ("ʃ"); "sil" for pauses.

    Raises:
        FacsError: neither.
    """
    plain = phone.strip().rstrip("012")
    for alphabet, text in (("arpabet", plain.upper()), ("ipa", plain.strip("ːˈˌ"))):
        for name, phones in table()["visemes"][alphabet].items():
            if text in phones or (not text):
                return str(name) if text else "sil"
    if plain in table()["visemes"]["map"]:
        return plain
    msg = f"phone: {phone[:20]!r} is not known; give ARPAbet such as AA or P, or IPA"
    raise FacsError(msg)


def viseme(name: str) -> Floats:
    """(52,) curves of one of the 15 visemes."""
    recipes = table()["visemes"]["map"]
    if name not in recipes:
        msg = f"viseme: {name[:20]!r} is not known; known: {', '.join(recipes)}"
        raise FacsError(msg)
    out = np.zeros(CHANNELS)
    for channel, value in recipes[name].items():
        out[ARKIT.index(channel)] = value
    return out


def closures(phones: Sequence[tuple[str, float, float]]) -> list[tuple[float, float, str]]:
    """(start, stop, viseme) of the sounds that need closed lips, of (phone, start, stop) seconds.

    "PP" (p, b, m) closes, "FF" (f, v) nearly does.
    """
    wanted = {*table()["visemes"]["closed"], *table()["visemes"]["nearly_closed"]}
    found = [(start, stop, viseme_of(phone)) for phone, start, stop in phones]
    return [row for row in found if row[2] in wanted]
