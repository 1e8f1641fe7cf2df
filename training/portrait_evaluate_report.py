"""Figures of training.portrait_evaluate: rows of readings in, numbers with intervals and text out.

Intervals are 95 % of a bootstrap over faces (or over motions for the critic, who sees no face): a
face that is hard to read is so in all its motions. It knows no model and no picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters import metrics
from adapters.face_reading import CLASSES, EXPRESSIONS
from adapters.motion_critic import KINDS

Floats = NDArray[np.float64]
Row = Mapping[str, Any]
Figure = tuple[float, float, float]

DRAWS = 2000
SMILING = ("astronaut", "smile")
"""Photos that smile at rest: there, at rest is not neutral."""


def grouped(values: Sequence[float], names: Sequence[str], seed: int = 0) -> Figure:
    """Mean and its 95 % interval with whole groups resampled; nan for nothing."""
    x = np.asarray(values, dtype=np.float64)
    if not len(x):
        return (float("nan"),) * 3
    _, which = np.unique(np.asarray(names), return_inverse=True)
    total, count = np.bincount(which, weights=x), np.bincount(which)
    at = np.random.default_rng(seed).integers(0, len(count), (DRAWS, len(count)))
    means = total[at].sum(axis=1) / count[at].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return tuple(round(float(v), 3) for v in (x.mean(), low, high))  # type: ignore[return-value]


def said(row: Row) -> str:
    """The expression the reader names when neutral is no answer."""
    return EXPRESSIONS[int(np.argmax(row["classes"][1:]))]


def called(row: Row) -> str:
    """The class the reader names, neutral included."""
    return CLASSES[int(np.argmax(row["classes"]))]


def share(right: Sequence[bool], names: Sequence[str]) -> Figure:
    """A share with its interval; Wilson's over the groups where all or none are right.

    A bootstrap of nine faces that are all right would say that a tenth is for sure.
    """
    mean, low, high = grouped([float(r) for r in right], names)
    if mean in (0.0, 1.0):
        groups = len(set(names))
        low, high = (round(x, 3) for x in metrics.wilson(round(mean * groups), groups))
    return mean, low, high


def _share(rows: Sequence[Row], right: Sequence[bool]) -> Figure:
    return share(right, [row["face"] for row in rows])


def recognised(rows: Sequence[Row]) -> dict[str, Any]:
    """Of rows that ask for an expression: shares read as asked, by level, by kind, by face."""
    asked = [row for row in rows if row["level"] > 0]
    levels = sorted({row["level"] for row in asked})
    strong = [row for row in asked if row["level"] == levels[-1]]
    return {
        "rows": len(asked),
        "all": _share(asked, [said(row) == row["asked"] for row in asked]),
        "level": {
            f"{level:g}": {
                "seven": _share(part, [said(row) == row["asked"] for row in part]),
                "eight": _share(part, [called(row) == row["asked"] for row in part]),
                "rows": len(part),
            }
            for level in levels
            for part in [[row for row in asked if row["level"] == level]]
        },
        "expression": {
            name: {
                "all": _share(part, [said(row) == name for row in part]),
                "strong": _share(full, [said(row) == name for row in full]),
                "false": _share(other, [said(row) == name for row in other]),
            }
            for name in EXPRESSIONS
            for part in [[row for row in asked if row["asked"] == name]]
            for full in [[row for row in strong if row["asked"] == name]]
            for other in [[row for row in asked if row["asked"] != name]]
        },
        "confusion": [
            [sum(row["asked"] == a and called(row) == b for row in strong) for b in CLASSES]
            for a in EXPRESSIONS
        ],
        "face": {
            name: round(
                float(np.mean([said(r) == r["asked"] for r in asked if r["face"] == name])), 3
            )
            for name in sorted({row["face"] for row in asked})
        },
        "unusual": round(float(np.mean([row["in_domain"] < 0.01 for row in asked])), 3),
    }


def rising(rows: Sequence[Row]) -> dict[str, Any]:
    """Spearman of the level asked (with 0 where it was drawn) and the strength read of it."""
    found: dict[str, list[tuple[float, str]]] = {}
    slope: list[tuple[float, float]] = []
    keys = {(row["face"], row["seed"]) for row in rows}
    for face, seed in sorted(keys):
        part = [row for row in rows if (row["face"], row["seed"]) == (face, seed)]
        for k, name in enumerate(EXPRESSIONS):
            series = [row for row in part if row["asked"] in (name, "neutral")]
            levels = [row["level"] for row in series]
            read = [row["strengths"][k] for row in series]
            if len(set(levels)) > 2:
                found.setdefault(name, []).append((metrics.spearman(levels, read), face))
                slope += list(zip(levels, read, strict=True))
    every = [pair for pairs in found.values() for pair in pairs]
    levels, read = (np.array(x) for x in zip(*slope, strict=True)) if slope else ([], [])
    return {
        "all": grouped(*_columns(every)),
        "expression": {name: grouped(*_columns(pairs)) for name, pairs in found.items()},
        "series": len(every),
        "read_at": {
            f"{level:g}": round(float(np.asarray(read)[np.asarray(levels) == level].mean()), 3)
            for level in sorted(set(np.asarray(levels).tolist()))
        },
    }


def _columns(pairs: Sequence[tuple[float, str]]) -> tuple[list[float], list[str]]:
    return [value for value, _ in pairs], [name for _, name in pairs]


def at_rest(rows: Sequence[Row]) -> dict[str, Any]:
    """Intensity 0: read as neutral where the photo is; as happy where it smiles."""
    rest = [row for row in rows if row["level"] == 0]
    plain = [row for row in rest if row["face"] not in SMILING]
    smiles = [row for row in rest if row["face"] in SMILING]
    return {
        "neutral": _share(plain, [called(row) == "neutral" for row in plain]),
        "happy": _share(smiles, [called(row) == "happiness" for row in smiles]),
        "rows": [len(plain), len(smiles)],
    }


def of_critic(heard: Sequence[Row]) -> dict[str, Any]:
    """The critic on curves: right among thirteen, by level; neutral at 0; Spearman."""
    asked = [row for row in heard if row["level"] > 0]
    rest = [row for row in heard if row["level"] == 0]
    names = [f"{row['asked']} {row['seed']}" for row in asked]

    def right(row: Row) -> bool:
        return bool(KINDS[1 + int(np.argmax(row["kinds"][1:]))] == row["asked"])

    series: dict[str, list[Row]] = {}
    for name, row in zip(names, asked, strict=True):
        series.setdefault(name, []).append(row)
    rises = [
        metrics.spearman(
            [row["level"] for row in part],
            [row["kinds"][KINDS.index(part[0]["asked"])] for row in part],
        )
        for part in series.values()
    ]
    return {
        "all": share([right(row) for row in asked], names),
        "strong": share(
            [right(row) for row in asked if row["level"] >= 0.99],
            [name for name, row in zip(names, asked, strict=True) if row["level"] >= 0.99],
        ),
        "rest": share(
            [int(np.argmax(row["kinds"])) == 0 for row in rest], [str(r["seed"]) for r in rest]
        ),
        "spearman": grouped(rises, list(series)),
        "rows": len(asked),
    }


def summary(
    rows: Sequence[Row],
    heard: Sequence[Row],
    about: Mapping[str, Mapping[str, float]],
    people: Sequence[float],
) -> dict[str, Any]:
    """All figures. people: drifts of different faces at rest."""
    found: dict[str, Any] = {"way": {}, "critic": {}}
    for way in ("silence", "speech", "table"):
        part = [row for row in rows if row["way"] == way]
        if part:
            found["way"][way] = {"recognised": recognised(part), "rising": rising(part)}
            if way != "table":
                found["way"][way]["rest"] = at_rest(part)
                found["critic"][way] = of_critic([row for row in heard if row["way"] == way])
    made = [row for row in rows if row["way"] != "table"]
    found["drift"] = {
        "frames": _share_of(made, "drift"),
        "rest": _share_of([row for row in made if row["level"] == 0], "drift"),
        "people": [round(float(q), 3) for q in np.quantile(people, [0.1, 0.5, 0.9])],
    }
    found["pixels"] = {
        "outside": max(one["outside"] for one in about.values()),
        "at_rest": max(one["at_rest"] for one in about.values()),
        "lost": sum(one["lost"] for one in about.values()),
        "frames": sum(one["frames"] for one in about.values()),
        "seconds_a_frame": round(
            float(np.mean([one["seconds_a_frame"] for one in about.values()])), 4
        ),
    }
    return found


def _share_of(rows: Sequence[Row], name: str) -> Figure:
    return grouped([row[name] for row in rows], [row["face"] for row in rows])


# Text --------------------------------------------------------------------------------------------


def _text(figure: Sequence[float], digits: int = 2) -> str:
    mean, low, high = (f"{x:.{digits}f}" for x in figure[:3])
    return "-" if np.isnan(figure[0]) else f"{mean} ({low}..{high})"


WAY = {
    "silence": "model, nobody speaks",
    "speech": "model, while speaking",
    "table": "muscles of the table alone",
}


def markdown(found: Mapping[str, Any]) -> str:
    """The figures as a part of a card."""
    run, pixels = found["run"], found["pixels"]
    ways = found["way"]
    faces = ways["silence"]["recognised"]["face"]
    lines = [
        f"{pixels['frames']:.0f} frames of {len(faces)} faces (eight drawn, one photo of a person),"
        f" weights {run['weights']}, seeds: {run['seeds']}, {run['frames']} frames a motion, "
        f"faces of {run['size']} px; no "
        f"face was found again in {pixels['lost']:.0f}. reader-portrait reads points measured on "
        "rendered frames; it saw no face of this project in training. Chance among seven: .14. "
        "Intervals: 95 %, faces resampled (Wilson where all or none are right). These are figures "
        "of a program, no person judged.",
        "",
        "| read as asked, of seven | " + " | ".join(WAY[way] for way in ways) + " |",
        "|" + " --- |" * (len(ways) + 1),
    ]
    every = [ways[way]["recognised"] for way in ways]
    lines.append("| all intensities | " + " | ".join(_text(e["all"]) for e in every) + " |")
    for level in every[0]["level"]:
        cells = [_text(e["level"][level]["seven"]) for e in every]
        lines.append(f"| intensity {level} | " + " | ".join(cells) + " |")
    last = list(every[0]["level"])[-1]
    cells = [_text(e["level"][last]["eight"]) for e in every]
    lines.append(f"| {last}, neutral is an answer too | " + " | ".join(cells) + " |")
    for name in EXPRESSIONS:
        cells = [_text(e["expression"][name]["strong"]) for e in every]
        lines.append(f"| {name} at {last} | " + " | ".join(cells) + " |")
    cells = [_text(ways[way]["rising"]["all"]) for way in ways]
    lines.append("| Spearman of intensity asked and read | " + " | ".join(cells) + " |")
    cells = [_text(ways[way]["rest"]["neutral"]) if way != "table" else "-" for way in ways]
    lines.append("| intensity 0 read as neutral | " + " | ".join(cells) + " |")
    cells = [_text(ways[way]["rest"]["happy"]) if way != "table" else "-" for way in ways]
    lines.append("| intensity 0 of photos that smile, read happy | " + " | ".join(cells) + " |")
    for name, label in (
        ("all", "critic-portrait on the curves, of 13"),
        ("strong", "the same at 1"),
        ("rest", "critic: intensity 0 is neutral"),
    ):
        cells = [_text(found["critic"][way][name]) if way != "table" else "-" for way in ways]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    silence = ways["silence"]
    lines += [
        "",
        f"Asked (rows) and read (columns) at intensity {last}, nobody speaks:",
        "",
        "| asked \\ read | " + " | ".join(CLASSES) + " |",
        "|" + " --- |" * (len(CLASSES) + 1),
    ]
    for name, row in zip(EXPRESSIONS, silence["recognised"]["confusion"], strict=True):
        lines.append(f"| {name} | " + " | ".join(str(x) for x in row) + " |")
    false = ", ".join(
        f"{name} {_text(e['false'])}" for name, e in silence["recognised"]["expression"].items()
    )
    rises = ", ".join(f"{name} {x[0]:.2f}" for name, x in silence["rising"]["expression"].items())
    levels = ", ".join(f"{k}: {v:.2f}" for k, v in silence["rising"]["read_at"].items())
    drift = found["drift"]
    lines += [
        "",
        f"* Wrong control: motions that ask for another expression are read as {false}.",
        f"* Spearman by expression, nobody speaks: {rises}. Mean strength read at intensity "
        f"{levels}.",
        "* By face, all intensities: "
        + ", ".join(f"{name} {x:.2f}" for name, x in faces.items())
        + f". Unlike anything the reader was trained on: {silence['recognised']['unusual']:.2f}.",
        f"* Identity: points of the skull drift by {_text(drift['frames'], 3)} eye distances in "
        f"moving frames, {_text(drift['rest'], 3)} at intensity 0; faces differ among each other "
        f"by {drift['people'][1]:.3f} (10 to 90 %: {drift['people'][0]:.3f} to "
        f"{drift['people'][2]:.3f}). The mesh itself moves its skull with the face.",
        f"* Largest change outside the face's box {pixels['outside']:.0f} of 255, at rest "
        f"{pixels['at_rest']:.0f}. Rendering and measuring: {1000 * pixels['seconds_a_frame']:.0f} "
        "ms of processor time a frame.",
    ]
    return "\n".join(lines) + "\n"
