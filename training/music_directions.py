"""Directions of the emotions in the space of music attributes.

    python -m training.music_directions --data DATA --out assets/models/music-tiny

Two sources are joined, because neither is enough. Labelled pieces (EMOPIA, VGMIDI) say how strongly
attributes move with valence and arousal: songs of a quadrant are clustered, the centres count
alike, so that neither the listener nor the style with most clips decides, and a line is laid
through the centres. The literature says how anger differs from fear, which no labelled piano music
does: assets/emotions/music_cues.json holds its cues by emotion. With b the measured line, beta the
line through the literature's cues, m valence and arousal of an emotion and L its cues,

    D = t gain b m + (L - t beta m),        0 <= t <= 1

so the literature is only asked for what valence and arousal have not said. The trust t of an
attribute is small where the two sets disagree or see no effect, and 0 where neither can know (see
TRUSTED). Without the labelled sets the figures in the table stand in for b.

Centre and spread come from unlabelled music that may be shipped (POP909, scores of music21). Only
figures leave this recipe: no note of the labelled sets, whose licences forbid that.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adapters.assets import ASSETS
from adapters.basis import factorise
from adapters.directions import RIDGE, DirectionBank
from adapters.emotion import CORE, VAD
from adapters.music_attributes import ATTRIBUTES, TABLE, matrix, measure
from adapters.music_emotion import FAMILY, TOKENS, MusicDirections
from adapters.piece import Piece

CUES = ASSETS / "emotions" / "music_cues.json"
QUADRANTS = {"Q1": (1, 1), "Q2": (-1, 1), "Q3": (-1, -1), "Q4": (1, -1)}
SETS = ("emopia", "vgmidi")
CLUSTERS = {"emopia": 4, "vgmidi": 3}
SMALLEST = 0.05  # a cluster of less of the weight of its quadrant is chance, not a way to sound

BOUND = "note_duration"
"""Follows from others: notes sounding at once = notes a second x seconds a note (Little 1961). Over
911 EMOPIA clips, 167 of VGMIDI and 5,700 stretches of sheets the two sides differ by 0 to 2 %
(median), so a target that broke this could not be played."""

# Which sets may speak about an attribute; none: the literature alone. Neither was transcribed with
# beats, so neither knows tempo, nor what happens inside and between bars; VGMIDI is sequenced with
# flat velocities; register does not separate quadrants in either (AUC .50); and dissonance is
# higher in calm pop piano, which is a trait of its chords, not of anger. Loud playing has less room
# above it, so its velocities vary less, and without beats rubato and spread chords count as uneven
# rhythm: the literature has fear and surprise uneven, and they are loud or fast.
TRUSTED: dict[str, tuple[str, ...]] = dict.fromkeys(ATTRIBUTES, SETS) | {
    "tempo": (),
    "mean_pitch": (),
    "dissonance": (),
    "contour": (),
    "density_variability": (),
    BOUND: (),
    "velocity": ("emopia",),
    "velocity_variability": (),
    "rhythmic_variability": (),
}
HEARD = 0.2
"""Standard deviations per unit from which a measured effect is fully trusted: Cohen's small."""
TIMES_QUADRANT = 2.0
"""How far from the centre intensity 1 lies on average over the emotions, in distances of the
middle of a quadrant. Music at 1, 2 and 3 distances is put into its quadrant .70, .83 and .91 of the
time by an attribute judge and .58, .75 and .86 by one that reads notes; at 2 neither is extreme."""

STRETCH = 8  # bars that are measured as one: a phrase
# The performer sets these, the page does not: centre, spread, least and most. Velocity: neutral 64
# and the spread of EMOPIA (16) instead of POP909's own 85 (10), which is a recording level. Its
# variability: POP909 within songs. Articulation: quantised scores are all legato; .4 to 1.5 is
# staccato to overlapping.
PLAYED = {
    "velocity": (64.0, 16.0, 27.0, 110.0),
    "velocity_variability": (14.0, 4.0, 3.0, 26.0),
    "articulation": (1.0, 0.25, 0.4, 1.5),
}

Rows = np.ndarray


@dataclass(frozen=True)
class Songs:
    """Measured songs of a labelled set: values (n, 16), quadrant of each, weight of each."""

    values: Rows
    quadrants: tuple[str, ...]
    weights: Rows


def songs(rows: Sequence[Mapping[str, str]], values: Rows) -> Songs:
    """Clips -> songs: each song once per quadrant, each annotator with the same weight in it.

    rows: lines of labels.csv (path, quadrant, group, annotator); values (n, 16) of the same clips.
    VGMIDI names no annotator (30 rated each piece), so there every song weighs the same.
    """
    groups: dict[tuple[str, str, str], list[int]] = {}
    for index, row in enumerate(rows):
        stem = row["path"].rpartition("_")[0] if not row["annotator"] else row["group"]
        groups.setdefault((row["quadrant"], row["annotator"], stem), []).append(index)
    counts: dict[tuple[str, str], int] = {}
    for q, annotator, _ in groups:
        counts[q, annotator] = counts.get((q, annotator), 0) + 1
    known = np.isfinite(values)
    sums = [np.where(known[m], values[m], 0.0).sum(0) for m in groups.values()]
    told = [known[m].sum(0) for m in groups.values()]
    with np.errstate(invalid="ignore"):  # 0 / 0: an attribute that no clip of a song can tell
        means = np.array(sums) / np.array(told)
    return Songs(
        values=means,
        quadrants=tuple(q for q, _, _ in groups),
        weights=np.array([1.0 / counts[q, annotator] for q, annotator, _ in groups]),
    )


def centres(points: Rows, weights: Rows, count: int, seed: int = 0, restarts: int = 20) -> Rows:
    """Weighted k-means (Lloyd 1982; k-means++ starts): (k, d) centres, k <= count."""
    rng = np.random.default_rng(seed)
    best, best_cost = points[:1], np.inf
    for _ in range(restarts):
        chosen = [int(rng.choice(len(points), p=weights / weights.sum()))]
        while len(chosen) < min(count, len(points)):
            far = ((points[:, None] - points[chosen]) ** 2).sum(-1).min(1) * weights
            if far.sum() <= 0:
                break
            chosen.append(int(rng.choice(len(points), p=far / far.sum())))
        found = points[chosen]
        for _ in range(100):
            nearest = ((points[:, None] - found) ** 2).sum(-1).argmin(1)
            moved = np.array([
                np.average(points[nearest == k], axis=0, weights=weights[nearest == k])
                if (nearest == k).any() else found[k]
                for k in range(len(found))
            ])  # fmt: skip
            if np.allclose(moved, found):
                break
            found = moved
        cost = float((((points - found[nearest]) ** 2).sum(1) * weights).sum())
        if cost < best_cost:
            share = np.array([weights[nearest == k].sum() for k in range(len(found))])
            best, best_cost = found[share >= SMALLEST * weights.sum()], cost
    return best


def lines(measured: Songs, clusters: int) -> Rows:
    """(2, 16) standard deviations of each attribute per step of valence and of arousal.

    The values are standardised within the set, clustered in each quadrant, and regressed on the
    signs of valence and arousal, every centre counting the same. 0 for an attribute that the set
    does not vary.
    """
    spread = np.nanstd(measured.values, axis=0)
    varies = spread > 1e-9
    z = (measured.values - np.nanmean(measured.values, axis=0)) / np.where(varies, spread, 1.0)
    z = np.nan_to_num(z)  # what cannot be measured of a song says nothing about its quadrant
    quadrants = np.array(measured.quadrants)
    signs, points = [], []
    for name, sign in QUADRANTS.items():
        here = quadrants == name
        for centre in centres(z[here], measured.weights[here], clusters):
            signs.append((1.0, *sign))
            points.append(centre)
    slopes = np.linalg.lstsq(np.array(signs), np.array(points), rcond=None)[0][1:]
    return np.where(varies, slopes, 0.0)


def combine(measured: Mapping[str, Rows]) -> tuple[Rows, Rows]:
    """Lines of the sets -> one line (2, 16) and how far it is trusted (2, 16), 0..1.

    The mean over the sets that TRUSTED names. Trust is agreement, 1 - |difference| / sum of sizes
    (1 for equal slopes, 0 for opposite signs), times the size of the effect up to HEARD.
    """
    line, trust = np.zeros((2, len(ATTRIBUTES))), np.zeros((2, len(ATTRIBUTES)))
    for index, name in enumerate(ATTRIBUTES):
        given = np.array([measured[s][:, index] for s in TRUSTED[name] if s in measured])
        if not len(given):
            continue
        mean = given.mean(axis=0)
        sizes = np.abs(given).sum(axis=0)
        agreement = np.abs(given.sum(axis=0)) / np.where(sizes > 0, sizes, 1.0)
        if len(given) == 2:
            agreement = 1.0 - np.abs(given[0] - given[1]) / np.where(sizes > 0, sizes, 1.0)
        line[:, index] = mean
        trust[:, index] = agreement * np.minimum(1.0, np.abs(mean) / HEARD)
    return line, trust


def cue_rows(table: Mapping[str, Any]) -> Rows:
    """(12, 16) the literature's cues in standard deviations, in the orders of CORE, ATTRIBUTES."""
    step = table["step"]["values"]
    unknown = {c for name in CORE for c in table["emotions"][name]["cues"]} - set(step)
    if unknown or set(step) != set(ATTRIBUTES) - {BOUND}:
        names = ", ".join(sorted(unknown or set(step) ^ set(ATTRIBUTES)))
        msg = f"cues: need steps for all attributes but {BOUND}; mend {names} in {CUES.name}"
        raise ValueError(msg)
    rows = [table["emotions"][name]["cues"] for name in CORE]
    return np.array([[row.get(a, 0.0) * step.get(a, 0.0) for a in ATTRIBUTES] for row in rows])


def heard_at(table: Mapping[str, Any]) -> Rows:
    """(12, 2) valence and arousal of the music of each emotion; the table may differ from VAD."""
    own = zip(CORE, VAD[:, :2].tolist(), strict=True)
    return np.array([table["emotions"][name].get("heard_at", point) for name, point in own])


def directions(line: Rows, trust: Rows, cues: Rows, m: Rows) -> Rows:
    """D (12, 16): measured along valence and arousal where trusted, the literature beyond that.

    line, trust: (2, 16) of `combine`; cues (12, 16); m (12, 2) valence and arousal.
    """
    gain = TIMES_QUADRANT / np.abs(m).mean(axis=0)
    beta = np.linalg.lstsq(m, cues, rcond=None)[0]
    return m @ (trust * (gain[:, None] * line - beta)) + cues


def bank_of(D: Rows, pieces: int) -> DirectionBank:
    """The directions with their factors of valence, arousal and dominance, as images have them."""
    vectors = torch.from_numpy(D)
    W, share = factorise(vectors, RIDGE)
    return DirectionBank(
        digest=hashlib.sha256(json.dumps(ATTRIBUTES).encode()).hexdigest()[:16],
        family=FAMILY,
        vectors={TOKENS: vectors.float()},
        W={TOKENS: W.float()},
        r_squared={TOKENS: share},
        kept={TOKENS: [1.0] * len(CORE)},
        pairs=pieces,
    )


def frame(stretches: Rows) -> dict[str, Rows]:
    """Centre, scale, low and high (16,) of unlabelled stretches (n, 16); PLAYED as given.

    Median, half the distance of the 16th and 84th percentile, 1st and 99th percentile. The tempo
    of a piece is free, so its limits are those of the controls.
    """
    low, left, centre, right, high = np.nanpercentile(stretches, (1, 16, 50, 84, 99), axis=0)
    found = {"centre": centre, "scale": (right - left) / 2, "low": low, "high": high}
    for name, values in PLAYED.items():
        for key, value in zip(found, values, strict=True):
            found[key][ATTRIBUTES.index(name)] = value
    tempo = ATTRIBUTES.index("tempo")
    found["low"][tempo], found["high"][tempo] = TABLE["tempo"].low, TABLE["tempo"].high
    return found


def bound(values: Rows, centre: Rows) -> Rows:
    """(n,) note durations in seconds that fit the other attributes of values (n, 16).

    Silence between staccato notes is not counted as sounding: half of what articulation is short
    of 1 (measured: .73 to .8 of the time sounds at .5 to .7).
    """
    density, voices, touch = (
        (values[:, i], centre[i])
        for i in map(ATTRIBUTES.index, ("note_density", "polyphony", "articulation"))
    )
    sounds = 1.0 - np.maximum(0.0, 1.0 - touch[0]) / 2
    neutral = centre[ATTRIBUTES.index(BOUND)]
    return np.asarray(neutral * sounds * (voices[0] / voices[1]) * (density[1] / density[0]))


def fit(D: Rows, limits: Mapping[str, Rows], pieces: int = 0, sources: str = "") -> MusicDirections:
    """The directions D (12, 16) in their frame, shortened where 1 would leave what can be played.

    So every attribute is linear in the intensity up to 1; only states over 1 are clipped.
    """
    least = (limits["low"] - limits["centre"]) / limits["scale"]
    most = (limits["high"] - limits["centre"]) / limits["scale"]
    D = np.clip(D, least, most)
    centre, scale, at = limits["centre"], limits["scale"], ATTRIBUTES.index(BOUND)
    D[:, at] = (bound(centre + scale * D, centre) - centre[at]) / scale[at]
    bank = bank_of(np.clip(D, least, most), pieces)
    return MusicDirections(bank, **{k: np.asarray(v) for k, v in limits.items()}, sources=sources)


def recorded(table: Mapping[str, Any]) -> tuple[dict[str, Rows], dict[str, Rows]]:
    """Lines of both sets and the frame, as the cue table holds them."""
    slopes = table["va_linear_directions"]
    measured = {
        name: np.array([slopes[name].get(attribute, (0.0, 0.0)) for attribute in ATTRIBUTES]).T
        for name in SETS
    }
    rows = table["neutral"]["rows"]
    columns = np.array([rows[name] for name in ATTRIBUTES]).T
    return measured, dict(zip(("centre", "scale", "low", "high"), columns, strict=True))


# Reading the sets --------------------------------------------------------------------------------


def heard(path: Path) -> Piece:
    """A transcription without beats as a piece at 120 bpm, its notes where they sound."""
    import symusic

    score = symusic.Score(str(path)).to("second")
    tracks = [track.notes.numpy() for track in score.tracks if not track.is_drum]
    columns = {
        key: np.concatenate([notes[key] for notes in tracks])
        for key in ("time", "duration", "pitch", "velocity")
    }
    return Piece.of(
        columns["time"] * 2.0,
        np.maximum(columns["duration"] * 2.0, 1e-3),
        columns["pitch"],
        np.maximum(columns["velocity"], 1),
    )


def labelled(data: Path, work: Path) -> dict[str, Songs]:
    """The songs of every labelled set whose archive lies in `data`."""
    with (data / "labels.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    found = {}
    for name in SETS:
        if not (data / f"{name}.tar.gz").is_file():
            continue
        folder = work / name
        if not folder.is_dir():
            with tarfile.open(data / f"{name}.tar.gz") as archive:
                archive.extractall(folder, filter="data")
        own = [row for row in rows if row["path"].startswith(f"{name}/")]
        values = matrix(measure(heard(folder / row["path"])) for row in own)
        found[name] = songs(own, values)
        print(f"{name}: {len(own)} clips, {len(found[name].quadrants)} songs by quadrant")
    return found


def unlabelled(sheets: Path) -> Rows:
    """(n, 16) of stretches of the composer's own sheets (training.music_data writes the file)."""
    from training.music_data import load_sheets

    stretches = [
        sheet.piece.between(first, first + STRETCH)
        for _, sheet in load_sheets(sheets)
        for first in range(0, sheet.piece.bars - STRETCH + 1, 2 * STRETCH)
    ]
    return matrix(measure(part) for part in stretches if len(part) > STRETCH)


# Looking at it -----------------------------------------------------------------------------------


def distances(found: MusicDirections) -> Rows:
    """(12, 12) distances of the targets at intensity 1, in standard deviations."""
    z = found.standardised(found.targets(np.eye(len(CORE))))
    return np.asarray(np.linalg.norm(z[:, None] - z, axis=-1))


def draw(found: MusicDirections, path: Path) -> None:
    """A heat map of D with the targets in their units written into the cells."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    values = found.targets(np.eye(len(CORE)))
    D = found.standardised(values)
    figure, axes = plt.subplots(figsize=(15, 7), layout="constrained")
    image = axes.imshow(D, cmap="RdBu_r", vmin=-2.5, vmax=2.5, aspect="auto")
    columns = [f"{name}\n{c:.3g}" for name, c in zip(ATTRIBUTES, found.centre, strict=True)]
    axes.set_xticks(range(len(ATTRIBUTES)), columns, rotation=40, ha="right")
    axes.set_yticks(range(len(CORE)), CORE)
    for (row, column), z in np.ndenumerate(D):
        shade = "white" if abs(z) > 1.6 else "black"
        text = f"{values[row, column]:.3g}"
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color=shade)
    axes.set_title("Targets at intensity 1 (colour: standard deviations from the neutral centre)")
    figure.colorbar(image)
    figure.savefig(path, dpi=80)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> int:
    """Fit the directions and write directions.safetensors."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--data", type=Path, help="folder with labels.csv, emopia and vgmidi")
    parser.add_argument("--sheets", type=Path, help="sheets.npz of training.music_data")
    parser.add_argument("--work", type=Path, default=Path(".work/music/raw"))
    parser.add_argument("--out", type=Path, default=ASSETS / "models" / "music-tiny")
    parser.add_argument("--plot", type=Path, help="PNG of the directions to look at")
    given = parser.parse_args(argv)
    table = json.loads(CUES.read_text(encoding="utf-8"))
    measured, limits = recorded(table)
    origin, pieces = "figures of music_cues.json", 0
    if given.data is not None:
        sets = labelled(given.data, given.work)
        measured |= {name: lines(found, CLUSTERS[name]) for name, found in sets.items()}
        pieces = sum(len(found.quadrants) for found in sets.values())
        origin = f"{pieces} songs by quadrant of {' and '.join(sets)}" if sets else origin
    if given.sheets is not None:
        limits = frame(unlabelled(given.sheets))
    line, trust = combine(measured)
    sources = (
        f"Valence and arousal: {origin} ({table['va_linear_directions']['source']['emopia']}; "
        f"{table['va_linear_directions']['source']['vgmidi']}). Emotions: {CUES.name} ("
        + "; ".join(table["sources"].values())
        + f"). Centre and spread: {table['neutral']['source']}."
    )
    D = directions(line, trust, cue_rows(table), heard_at(table))
    found = fit(D, limits, pieces, sources)
    found.save(given.out / "directions.safetensors")
    np.set_printoptions(precision=2, suppress=True, linewidth=180)
    for name in SETS:
        rows = zip(ATTRIBUTES, measured[name].T.round(3).tolist(), strict=True)
        print(name, json.dumps(dict(rows)))
    frame_rows = zip(ATTRIBUTES, np.array(list(limits.values())).T.round(4).tolist(), strict=True)
    print("neutral", json.dumps(dict(frame_rows)))
    print("line, trust")
    for row in zip(ATTRIBUTES, line.T, trust.T, strict=True):
        print(f"{row[0]:22s} valence {row[1][0]:+.2f} arousal {row[1][1]:+.2f} trust {row[2]}")
    print("distances", distances(found), sep="\n")
    print(f"R2 of valence, arousal, dominance: {found.bank.r_squared[TOKENS]:.2f}")
    if given.plot is not None:
        draw(found, given.plot)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
