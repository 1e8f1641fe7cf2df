"""Figures of the critics of music beside trained judges, and the model cards they go into.

Everything needed to distrust a number stands beside it: intervals over songs, n, chance, what was
trained on what. Knows probabilities, clips and readings, not where they come from on a disk.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adapters import metrics
from adapters.assets import ASSETS
from adapters.audio_features import Hearing, functionals
from adapters.emotion import CORE, VAD
from adapters.files import replacing
from adapters.music_attributes import FEATURES, features
from adapters.music_critic import UNIT, MusicCritic, MusicReader, save_music_critic
from adapters.piece import Piece
from adapters.reading import soft_score
from pipelines.manifest import update
from training import music_reader as fit
from training.music_judges import (
    Judge,
    folds,
    logistic_regression,
    notes_of,
    read_notes,
    save_judge,
    train_judge,
)

Rows = np.ndarray

LEVELS = (0.3, 0.6, 0.9)  # intensities that are asked for when ranking is tried
FIVE = {
    name: FEATURES.index(name)
    for name in ("velocity_mean", "note_density", "dur_mean", "mode_score", "major_chord_share")
}
RECIPE = "python -m training.music_critic --data DATA --out assets/models"
SOURCES = {
    "critic-music": "figures published on EMOPIA and VGMIDI (anchors.json names them), cues of the "
    "literature (assets/emotions/music_cues.json), covariance of POP909 (MIT) and of public-domain "
    "scores of music21",
    "reader-music": "cues of the literature (assets/emotions/music_cues.json), normalised on "
    "renderings of POP909 (MIT)",
}


@dataclass(frozen=True)
class Clips:
    """Labelled clips: names, quadrant 0..3, song, ratings (n, 2; nan without) and pieces."""

    names: list[str]
    quadrants: Rows
    songs: list[str]
    ratings: Rows
    pieces: list[Piece]


def lively(quadrants: Rows) -> Rows:
    """High arousal: Q1 and Q2."""
    return np.asarray(quadrants < 2)


def pleasant(quadrants: Rows) -> Rows:
    """High valence: Q1 and Q4."""
    return np.asarray((quadrants == 0) | (quadrants == 3))


def by_song(figure: Any, songs: Sequence[str], *columns: Rows) -> tuple[float, float, float]:
    """figure(*columns) with its 95 % interval over songs drawn with replacement."""
    names, which = np.unique(songs, return_inverse=True)
    rows = [np.flatnonzero(which == k) for k in range(len(names))]

    def drawn(chosen: Rows) -> float:
        at = np.concatenate([rows[int(k)] for k in chosen])
        return float(figure(*(column[at] for column in columns)))

    low, high = metrics.bootstrap(drawn, np.arange(len(names)), n=300)
    return float(figure(*columns)), low, high


def figures(p: Rows, clips: Clips, at: Rows, affect: Rows | None = None) -> dict[str, Any]:
    """Figures of probabilities (n, 4) of the clips `at`; affect (n, 2) valence and arousal."""
    actual, said = clips.quadrants[at], p.argmax(1)
    songs = [clips.songs[i] for i in at]
    out: dict[str, Any] = {
        "n": len(at),
        "songs": len(set(songs)),
        "accuracy": by_song(metrics.accuracy, songs, said, actual),
        "arousal": by_song(metrics.accuracy, songs, lively(said), lively(actual)),
        "valence": by_song(metrics.accuracy, songs, pleasant(said), pleasant(actual)),
        "macro_f1": by_song(metrics.macro_f1, songs, said, actual),
        "ece": metrics.ece(p, actual) if p.max() < 1 else None,
    }
    rated = clips.ratings[at]
    if affect is not None and np.isfinite(rated).all():
        for axis, name in enumerate(("valence", "arousal")):
            out[f"ccc_{name}"] = by_song(metrics.ccc, songs, affect[:, axis], rated[:, axis])
            out[f"r_{name}"] = by_song(metrics.pearson, songs, affect[:, axis], rated[:, axis])
    return out


def five_cues(x: Rows) -> Rows:
    """The untrained rule: (n, 4) with a 1 where velocity, density, length, mode and chords say."""
    z = {name: np.nan_to_num(x[:, j] - np.nanmean(x[:, j])) for name, j in FIVE.items()}
    z = {name: v / max(float(v.std()), 1e-9) for name, v in z.items()}
    arousal = z["velocity_mean"] + z["note_density"] - 0.5 * z["dur_mean"]
    valence = z["mode_score"] + z["major_chord_share"]
    said = np.where(arousal >= 0, np.where(valence >= 0, 0, 1), np.where(valence >= 0, 3, 2))
    return np.eye(4)[said]


def _signed(p: Rows) -> Rows:
    """Probabilities (n, 4) -> (n, 2) valence and arousal on the scale of the readings."""
    return np.column_stack([p[:, [0, 3]].sum(1), p[:, :2].sum(1)]) * 2 * UNIT - UNIT


def reranking(
    critic: MusicCritic, x: Rows, quadrants: Rows, draws: int = 200, of: int = 64
) -> dict[str, Any]:
    """What choosing by soft_score does: best of clips for each emotion, at three intensities.

    Of many, because real clips are of all kinds: among eight there is seldom one for every wish.
    """
    readings = critic.model.readings(x, critic.name)
    rng = np.random.default_rng(0)
    right, levels, far = [], [], []
    for k, emotion in enumerate(CORE):
        asked = (VAD[k, 0] >= 0, VAD[k, 1] >= 0)
        for level in LEVELS:
            target = np.zeros(13)
            target[0], target[1 + k] = 1 - level, level
            score = np.array([soft_score(reading, target) for reading in readings])
            for _ in range(draws // 20):
                drawn = rng.choice(len(x), of, replace=False)
                best = drawn[score[drawn].argmax()]
                got = (pleasant(quadrants[best]), lively(quadrants[best]))
                right.append(asked == (bool(got[0]), bool(got[1])))
                levels.append(level)
                far.append(readings[best].intensities[CORE.index(emotion)])
    return {
        "n": len(right),
        "of": of,
        "asked_quadrant": float(np.mean(right)),
        "intensity_spearman": metrics.spearman(levels, far),
        "read_at": {f"{x:g}": float(np.mean(np.array(far)[np.array(levels) == x])) for x in LEVELS},
        "chance": 0.25,
    }


def report(
    sets: Mapping[str, Clips],
    corpus: Rows,
    listen: Callable[[str, Piece], Hearing],
    judges: Path,
    count: int,
    critic: MusicCritic,
    reader: MusicReader,
) -> dict[str, Any]:
    """All figures of the critics, the judges and the rule; trains the judges where they are not.

    listen: name and piece of a clip -> what is heard of it; asked for `count` clips of both sets.
    """
    x = {name: np.array([features(piece) for piece in c.pieces]) for name, c in sets.items()}
    seen = {name: rows[:, critic._columns] for name, rows in x.items()}
    emopia, vgmidi = sets["emopia"], sets["vgmidi"]
    part = folds(emopia.songs)
    everything = {name: np.arange(len(c.names)) for name, c in sets.items()}
    out: dict[str, Any] = {"emopia": {}, "vgmidi": {}}

    anchors = fit.load_anchors()
    again, regressed = np.zeros((len(part), 4)), np.zeros((len(part), 4))
    signs = np.column_stack([pleasant(emopia.quadrants), lively(emopia.quadrants)]) * 2.0 - 1
    for k in range(part.max() + 1):
        rest = part != k
        measured = fit.measure_anchors(x["emopia"][rest], signs[rest], FEATURES)
        other = fit.fit_critic({"emopia": measured, "vgmidi": anchors["vgmidi"]}, corpus)
        model = other.model
        again[~rest] = model.quadrants(model.deviations(seen["emopia"][~rest]))
        regressed[~rest] = logistic_regression(x["emopia"][rest], emopia.quadrants[rest])(
            x["emopia"][~rest]
        )
    transfer = logistic_regression(x["emopia"], emopia.quadrants)(x["vgmidi"])
    judge, netted = note_judge(emopia, part, judges)

    for name, clips in sets.items():
        at, model = everything[name], critic.model
        z = model.deviations(seen[name])
        affect = model.affect(z)[0] * UNIT
        out[name]["critic-music"] = figures(model.quadrants(z), clips, at, affect)
        out[name]["five cues, no training"] = figures(five_cues(x[name]), clips, at)
    emo, vg = everything["emopia"], everything["vgmidi"]
    out["emopia"]["critic-music, figures of other songs"] = figures(again, emopia, emo)
    out["emopia"]["logistic regression, trained"] = figures(regressed, emopia, emo)
    out["emopia"]["note net, trained"] = figures(netted, emopia, emo)
    out["vgmidi"]["logistic regression of EMOPIA"] = figures(
        transfer, vgmidi, vg, _signed(transfer)
    )
    read = judge.read(vgmidi.pieces)
    out["vgmidi"]["note net of EMOPIA"] = figures(read, vgmidi, vg, _signed(read))

    # The first `count` of a fixed order over both sets are rendered and heard.
    order = list(range(len(emo) + len(vg)))
    np.random.default_rng(0).shuffle(order)
    for name, clips, offset in (("emopia", emopia, 0), ("vgmidi", vgmidi, len(emo))):
        at = np.array(
            sorted(i - offset for i in order[:count] if 0 <= i - offset < len(clips.names))
        )
        sounds = [functionals(listen(clips.names[i], clips.pieces[i])) for i in at]
        h = np.array(sounds)[:, reader._columns]
        z, zc = reader.model.deviations(h), critic.model.deviations(seen[name][at])
        mine, theirs = reader.model.affect(z)[0] * UNIT, critic.model.affect(zc)[0] * UNIT
        p, pc = reader.model.quadrants(z), critic.model.quadrants(zc)
        out[name]["reader-music"] = figures(p, clips, at, mine)
        both = [
            m.readings(rows, "") for m, rows in ((critic.model, seen[name][at]), (reader.model, h))
        ]
        soft = [np.array([r.probabilities for r in readings]) for readings in both]
        hit = metrics.accuracy(pc.argmax(1), clips.quadrants[at])
        out[name]["pair"] = {
            "n": len(at),
            "same_quadrant": metrics.accuracy(p.argmax(1), pc.argmax(1)),
            "r_valence": metrics.pearson(mine[:, 0], theirs[:, 0]),
            "r_arousal": metrics.pearson(mine[:, 1], theirs[:, 1]),
            "jsd": float(metrics.jsd(*soft).mean()),
            "gap": hit - metrics.accuracy(p.argmax(1), clips.quadrants[at]),
        }
    out["reranking"] = reranking(critic, seen["emopia"], emopia.quadrants)
    return out


def note_judge(clips: Clips, part: Rows, folder: Path) -> tuple[Judge, Rows]:
    """The ensemble, saved in `folder`, and probabilities (n, 4) by the member without the song."""
    notes = [notes_of(piece) for piece in clips.pieces]
    out, members = np.zeros((len(notes), 4)), []
    for k in range(part.max() + 1):
        rest = np.flatnonzero(part != k)
        member = train_judge(
            [notes[i] for i in rest], clips.quadrants[rest], folder / f"fold-{k}", seed=k
        )
        own = np.flatnonzero(part == k)
        out[own] = read_notes([member], [notes[i] for i in own])
        members.append(member)
    judge = Judge(members)
    save_judge(judge, folder, {"set": "EMOPIA 1.0, CC BY-NC-SA: for measuring only"})
    return judge, out


# Words -------------------------------------------------------------------------------------------


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, (tuple, list)):
        return f"{value[0]:.2f} [{value[1]:.2f}, {value[2]:.2f}]"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def table(rows: Mapping[str, Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    """Markdown table of figures: columns maps a key to its title."""
    lines = ["| | " + " | ".join(columns.values()) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, row in rows.items():
        if name != "pair":
            cells = [_cell(row.get(key)) for key in columns]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


COLUMNS = {"n": "clips", "accuracy": "4 quadrants", "arousal": "arousal", "valence": "valence",
           "macro_f1": "macro-F1", "ece": "ECE"}  # fmt: skip
RATED = {"ccc_valence": "CCC valence", "ccc_arousal": "CCC arousal", "r_valence": "r valence",
         "r_arousal": "r arousal"}  # fmt: skip


def markdown(found: Mapping[str, Any]) -> str:
    """The report for people."""
    pair = "\n".join(
        f"* {title}: same quadrant {p['same_quadrant']:.2f}, r of valence {p['r_valence']:.2f}, of "
        f"arousal {p['r_arousal']:.2f}, JSD of the thirteen probabilities {p['jsd']:.2f} bits; the "
        f"critic is right {p['gap']:+.2f} more often than the reader (n = {p['n']})."
        for title, p in (("EMOPIA", found["emopia"]["pair"]), ("VGMIDI", found["vgmidi"]["pair"]))
    )
    again = found["reranking"]
    levels = ", ".join(f"{value:.2f} at {level}" for level, value in again["read_at"].items())
    return f"""## Held-out figures

Chance: 4 quadrants .25, arousal and valence .50. 95 % intervals over songs. ECE of the quadrant
probabilities, lower is better.

EMOPIA (five folds by song for what is trained or refitted; the published figures that critic-music
rests on were measured on these same clips, so the line below it measures them on the other songs):

{table(found["emopia"], COLUMNS)}

VGMIDI (nothing was trained on it, its published directions are half of critic-music's; 30 raters a
phrase; one rater's sign agrees with the others' .75 for valence, .73 for arousal):

{table(found["vgmidi"], COLUMNS | RATED)}

## Critic and reader on the same clips

{pair}
* Best of {again["of"]} EMOPIA clips by the critic's soft_score for each emotion at .3, .6 and .9:
  in the emotion's quadrant {again["asked_quadrant"]:.2f} (chance {again["chance"]:.2f},
  n = {again["n"]}); read intensity {levels}; Spearman {again["intensity_spearman"]:.2f}.
"""


def publish(
    model: MusicCritic | MusicReader, out: Path, found: Mapping[str, Any], text: str
) -> None:
    """Write weights, figures and card of one model; its row too where `out` is the assets."""
    folder = out / model.name
    save_music_critic(model, folder)
    with replacing(folder / "figures.json") as path:
        path.write_text(json.dumps({"digest": model.digest, **found}, indent=1) + "\n")
    card = folder / "README.md"
    about = (
        card.read_text(encoding="utf-8").split("## Held-out figures")[0] if card.is_file() else ""
    )
    limits = card.read_text(encoding="utf-8").partition("## Limits")[2] if card.is_file() else "\n"
    with replacing(card) as path:
        path.write_text(f"{about}{text}\n## Limits{limits}", encoding="utf-8")
    if out.resolve() == (ASSETS / "models").resolve():
        update(
            model.name, licence="Apache-2.0", source=SOURCES[model.name], recipe=RECIPE,
            trained_on="cpu",
        )  # fmt: skip
