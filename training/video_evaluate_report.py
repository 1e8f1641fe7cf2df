"""Figures of training.video_evaluate: readings over time in, numbers with intervals and text out.

A take's figure is the correlation, over its moments, of what was asked and what was read. Means are
over takes, their 95 % intervals over subjects and seeds (a whole subject and seed is resampled:
its takes share what they show). It knows no model, no critic and no file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters.agreement import (
    STEP,
    Follow,
    agreement,
    asked_track,
    follow,
    resampled,
    together,
)
from adapters.emotion import CORE, VAD, EmotionTimeline
from adapters.metrics import pearson, wilson

Floats = NDArray[np.float64]
Row = Mapping[str, Any]

NEUTRAL = "neutral"
_STAY, _ARRIVE = 0.3, 0.75
_FORTH = {
    "calm to fear": ("contentment .8", "fear .9"),
    "sad to excited": ("sadness .8", "excitement .9"),
}
CURVES: dict[str, tuple[tuple[float, str], ...]] = {
    key: keys
    for name, (first, last) in _FORTH.items()
    for there in [((0.0, first), (_STAY, first), (_ARRIVE, last), (1.0, last))]
    for back in [tuple((round(1.0 - at, 6), state) for at, state in reversed(there))]
    for key, keys in ((name, there), (f"{name}, back", back))
}
"""Share of the length and emotion. Each stays at both ends, so that readers with windows of seconds
see it whole, and each has its reverse."""
DRAWS = 2000
FIGURES = ("flicker", "warping", "occluded", "difference", "speed", "loop_gap")
AXES = ("labels", "strengths", "valence", "arousal")
# Seconds that every modality's track is stretched to, where modalities are compared.
COMMON = 10.0


def timeline(name: str, seconds: float) -> EmotionTimeline:
    """A curve of CURVES over a length; or nothing at all."""
    if name == NEUTRAL:
        return EmotionTimeline.parse(NEUTRAL)
    return EmotionTimeline.parse(
        "; ".join(f"{share * seconds:.6f}s {emotion}" for share, emotion in CURVES[name])
    )


def grouped(values: Sequence[float], groups: Sequence[str], seed: int = 0) -> list[Any] | None:
    """Mean, 95 % interval with whole groups resampled, n; no interval (None) of a single group."""
    x = np.asarray(values, dtype=np.float64)
    if not len(x):
        return None
    _, which = np.unique(np.asarray(groups), return_inverse=True)
    if which.max() == 0:
        return [round(float(x.mean()), 6), None, None, len(x)]
    total, count = np.bincount(which, weights=x), np.bincount(which)
    at = np.random.default_rng(seed).integers(0, len(count), (DRAWS, len(count)))
    means = total[at].sum(axis=1) / count[at].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return [round(float(v), 3) for v in (x.mean(), low, high)] + [len(x)]


def track_of(row: Row, who: str, kind: str) -> Floats:
    """(n, 13) or (n, 2) of a row, nan where nothing was read."""
    rows = row[who][kind]
    width = next((len(v) for v in rows if v is not None), 13)
    return np.array([[np.nan] * width if v is None else v for v in rows], dtype=np.float64)


def following(row: Row, who: str, curve: str) -> dict[str, float]:
    """Correlations of one take's reading with a curve: labels, strengths, valence, arousal."""
    wanted = asked_track(timeline(curve, row["seconds"]), np.asarray(row["times"]))
    found: dict[str, float] = {}
    for axis, kind in (("labels", "probabilities"), ("strengths", "strengths")):
        read = track_of(row, who, kind)
        known = np.isfinite(read).all(axis=1)
        # A reading that never moves follows nothing.
        found[axis] = together(wanted[known], read[known]) or 0.0
    read = track_of(row, who, "affect")
    known = np.isfinite(read).all(axis=1)
    for k, axis in enumerate(("valence", "arousal")):
        found[axis] = pearson(wanted[known, 1:] @ VAD[:, k], read[known, k])
    return found


def detailed(row: Row, who: str) -> Follow:
    """How one take's reading follows its own curve, with chance, lag and each emotion."""
    times = np.asarray(row["times"])
    wanted = asked_track(timeline(row["curve"], row["seconds"]), times)
    step = float(np.median(np.diff(times)))
    return follow(wanted, track_of(row, who, "probabilities"), step=step, draws=100)


def reach(values: Sequence[float]) -> list[float] | None:
    """2.5 % and 97.5 % of single takes."""
    if not values:
        return None
    return [round(float(v), 3) for v in np.quantile(values, [0.025, 0.975])]


def named(rows: Sequence[Row], who: str) -> list[float]:
    """Share of takes whose own curve fits best of all, with Wilson's interval, and n.

    Best by the mean correlation of valence and arousal; one of as many curves is right by chance.
    """
    hits = 0
    for row in rows:
        fits = {name: following(row, who, name) for name in CURVES}
        best = max(fits, key=lambda name: fits[name]["valence"] + fits[name]["arousal"])
        hits += best == row["curve"]
    return [round(v, 3) for v in (hits / len(rows), *wilson(hits, len(rows)))] + [len(rows)]


def _group(row: Row) -> str:
    return f"{row['subject']} {row['seed']}"


def other_curves(curve: str) -> list[str]:
    """Curves of the other pair, both ways: what was not asked."""
    return [name for name in CURVES if name.split(",")[0] != curve.split(",")[0]]


def followed(rows: Sequence[Row], who: str) -> dict[str, Any]:
    """All correlations of one modality and one reader, with their controls."""
    moved = [row for row in rows if row["curve"] != NEUTRAL and who in row]
    plain = [row for row in rows if row["curve"] == NEUTRAL and who in row]
    if not moved:
        return {}
    own = [following(row, who, row["curve"]) for row in moved]
    groups = [_group(row) for row in moved]
    # Readings against the curves that were not asked; a mean would be 0 whatever was read, since
    # each curve comes with its reverse, so what tells is how far single takes reach.
    other = [following(row, who, name) for row in moved for name in other_curves(row["curve"])]
    none = [following(row, who, name) for row in plain for name in CURVES]
    found: dict[str, Any] = {
        axis: {
            "asked": grouped([one[axis] for one in own], groups),
            "other": reach([one[axis] for one in other]),
            "neutral": reach([one[axis] for one in none]),
        }
        for axis in AXES
    }
    found["named"] = named(moved, who)
    details = [detailed(row, who) for row in moved]
    chances = [one.chance for one in details if one.chance is not None]
    found["chance"] = np.round(np.mean(chances, axis=0), 3).tolist() if chances else None
    lags = [one.lag for one in details if one.lag is not None]
    found["lag"] = round(float(np.median(lags)), 3) if lags else None
    found["curve"] = {
        name: grouped(
            [one["labels"] for one, row in zip(own, moved, strict=True) if row["curve"] == name],
            [g for g, row in zip(groups, moved, strict=True) if row["curve"] == name],
        )
        for name in CURVES
    }
    single = [
        (name, value, g)
        for one, g in zip(details, groups, strict=True)
        for name, value in one.correlation.items()
    ]
    found["emotion"] = {
        name: grouped(
            [value or 0.0 for other, value, _ in single if other == name],
            [g for other, _, g in single if other == name],
        )
        for name in CORE
        if any(other == name for other, _, _ in single)
    }
    return found


def films(rows: Sequence[Row]) -> dict[str, Any]:
    """Flicker, warping and the rest of films and of their controls."""
    shown = [row for row in rows if "film" in row["figures"]]
    if not shown:
        return {}
    names = list(shown[0]["figures"]["film"])
    return {
        name: {
            figure: _precise([row["figures"]["film"][name][figure] for row in shown], shown)
            for figure in FIGURES
        }
        for name in names
    }


def _precise(values: Sequence[float], rows: Sequence[Row]) -> list[Any] | None:
    """As grouped, with five decimals: these figures are small."""
    found = grouped([1000 * value for value in values], [_group(row) for row in rows])
    return found and [v if v is None else round(v / 1000, 6) for v in found[:3]] + [found[3]]


def agreed(rows: Sequence[Row]) -> dict[str, Any]:
    """For each curve in all modalities: how far what is read in them lies apart.

    Tracks of one modality are averaged over subjects and seeds, and all stretched to one length.
    """
    found: dict[str, Any] = {}
    grid = np.arange(0.0, COMMON + STEP / 2, STEP)
    for name in CURVES:
        tracks: dict[str, Any] = {}
        for modality in sorted({row["modality"] for row in rows}):
            part = [r for r in rows if r["modality"] == modality and r["curve"] == name]
            stretched = [
                resampled((np.asarray(r["times"]) * COMMON / r["seconds"], read), grid)
                for r in part
                for read in [track_of(r, "reader", "probabilities")]
            ]
            if stretched:
                every = np.stack(stretched)
                some = np.isfinite(every).any(axis=(0, 2))
                mean = np.full(every.shape[1:], np.nan)
                mean[some] = np.nanmean(every[:, some], axis=0)
                tracks[modality] = (grid, mean)
        if len(tracks) > 1:
            asked = (grid, asked_track(timeline(name, COMMON), grid))
            found[name] = agreement(tracks, asked).to_json()
    return found


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """All figures, by modality."""
    found: dict[str, Any] = {"modalities": {}}
    for modality in sorted({row["modality"] for row in rows}):
        part = [row for row in rows if row["modality"] == modality]
        found["modalities"][modality] = {
            "takes": len(part),
            "subjects": len({row["subject"] for row in part}),
            "seconds": float(np.mean([row["seconds"] for row in part])),
            "reader": followed(part, "reader"),
            "critic": followed(part, "critic"),
            "films": films(part),
            "speed": {
                kind: grouped(
                    [row["spent"][kind] / row["seconds"] for row in part], [_group(r) for r in part]
                )
                for kind in ("wall", "processor")
            },
        }
    found["agreement"] = agreed(rows)
    return found


# Text --------------------------------------------------------------------------------------------


def _said(figure: Sequence[Any] | None, digits: int = 2) -> str:
    if figure is None:
        return "-"
    if figure[1] is None:
        return f"{figure[0]:.{digits}f}"
    mean, low, high = (f"{v:.{digits}f}" for v in figure[:3])
    return f"{mean} [{low}, {high}]"


def _reached(pair: Sequence[float] | None) -> str:
    return "-" if pair is None else f"{pair[0]:.2f} to {pair[1]:.2f}"


def markdown(found: Mapping[str, Any]) -> str:
    """The report as text."""
    lines = [
        "Correlation over time of the curve that was asked and what is read, mean over takes, 95 %",
        "interval over subjects and seeds. Each curve and its reverse are asked as often, so what",
        "happens anyway adds nothing. labels: all thirteen at once by probability, strengths: by",
        f"intensity. named: takes whose own curve fits best of {len(CURVES)} in valence and",
        f"arousal, chance {1 / len(CURVES):.2f}. Controls, labels, 95 % of single takes: other,",
        "against a curve not asked; neutral, nothing was asked; shuffled, time in blocks.",
        "",
        "| modality | by | n | labels | strengths | valence | arousal | named | other | neutral "
        "| shuffled |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for modality, part in found["modalities"].items():
        for who in ("reader", "critic"):
            one = part[who]
            if not one:
                continue
            cells = [_said(one[axis]["asked"]) for axis in AXES]
            controls = (one["labels"]["other"], one["labels"]["neutral"], one["chance"])
            lines.append(
                f"| {modality} | {who} | {one['labels']['asked'][3]} | {' | '.join(cells)} "
                f"| {_said(one['named'])} | {' | '.join(map(_reached, controls))} |"
            )
    lines += ["", "By the reader, of each emotion alone, and of each curve (labels):", ""]
    for modality, part in found["modalities"].items():
        one = part["reader"]
        if one:
            told = [f"{k} {_said(v)}" for k, v in (one["emotion"] | one["curve"]).items() if v]
            lines.append(f"* {modality} (median lag {one['lag']} s): {'; '.join(told)}.")
    for part in found["modalities"].values():
        if part["films"]:
            lines += _film_lines(part["films"])
    lines += ["", "| modality | seconds a second of result, by the clock | of processors | takes |"]
    lines += ["|---|---|---|---|"]
    for modality, part in found["modalities"].items():
        speed = part["speed"]
        lines.append(
            f"| {modality} ({part['seconds']:.1f} s) | {_said(speed['wall'], 1)} "
            f"| {_said(speed['processor'], 1)} | {part['takes']} |"
        )
    lines += _agreement_lines(found["agreement"])
    return "\n".join(lines) + "\n"


def _film_lines(figures: Mapping[str, Any]) -> list[str]:
    lines = [
        "",
        "Films and what is made of their own first and last frames (flicker: share of brightness;",
        "warping: squared RGB distance where motion explains the picture, occluded: share where it",
        "does not; speed: widths a second; loop gap: in usual steps):",
        "",
        f"| | {' | '.join(name.replace('_', ' ') for name in FIGURES)} |",
        f"|---|{'---|' * len(FIGURES)}",
    ]
    for name, one in figures.items():
        cells = [_said(one[figure], 4 if i < 4 else 2) for i, figure in enumerate(FIGURES)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _agreement_lines(found: Mapping[str, Any]) -> list[str]:
    if not found:
        return []
    lines = [
        "",
        "One curve in all modalities: how far apart what the readers read lies, mean over takes",
        "(Jensen-Shannon, bits; distance in valence and arousal; beside them with time shuffled):",
        "",
        "| curve | pair | divergence | shuffled | distance | shuffled | r |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, one in found.items():
        for pair in [*one["asked"], *one["between"]]:
            r = "-" if pair["r"] is None else f"{pair['r']:.2f}"
            lines.append(
                f"| {name} | {pair['a']} - {pair['b']} | {pair['divergence']:.3f} "
                f"| {pair['shuffled_divergence']:.3f} | {pair['distance']:.2f} "
                f"| {pair['shuffled_distance']:.2f} | {r} |"
            )
    return lines
