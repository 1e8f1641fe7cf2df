"""Figures of an evaluation of generated music, and the page that shows them.

Takes what `training.music_evaluate` read of every piece, plain numbers, and gives shares with
Wilson intervals, rank correlations with bootstrap intervals over pieces, and tables in Markdown.
It deliberately knows no piece, no model and no judge.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from adapters.emotion import CORE, VAD
from adapters.metrics import bootstrap, pearson, spearman, wilson
from adapters.music_attributes import ATTRIBUTES
from adapters.music_critic import QUADRANTS
from adapters.musicality_gap import Row, compare, table

READERS = ("judge", "reader", "critic")
OPPOSITE = {"Q1": "Q3", "Q2": "Q4", "Q3": "Q1", "Q4": "Q2"}
DRAWS = 500  # of the bootstrap
Pieces = Sequence[Mapping[str, Any]]


# Quadrants ---------------------------------------------------------------------------------------


def quadrant_figures(pieces: Pieces, reader: str) -> dict[str, Any]:
    """Shares of pieces read as asked, each (share, low, high): quadrant, arousal, valence.

    by_quadrant: the share of each asked quadrant. confusion: asked rows, read columns, counts.
    opposite: share read as the opposite of what was asked, the control.
    """
    asked = np.array([QUADRANTS.index(piece["quadrant"]) for piece in pieces])
    read = np.array([int(np.argmax(piece[reader])) for piece in pieces])
    other = np.array([QUADRANTS.index(OPPOSITE[QUADRANTS[q]]) for q in asked])
    confusion = np.zeros((4, 4), dtype=int)
    np.add.at(confusion, (asked, read), 1)
    # Q1 and Q2 are lively, Q1 and Q4 pleasant.
    return {
        "quadrant": share(asked == read),
        "arousal": share((asked < 2) == (read < 2)),
        "valence": share(np.isin(asked, (0, 3)) == np.isin(read, (0, 3))),
        "opposite": share(other == read),
        "by_quadrant": {
            name: share(read[asked == k] == k) for k, name in enumerate(QUADRANTS) if k in asked
        },
        "confusion": confusion.tolist(),
        "n": len(pieces),
    }


def share(right: np.ndarray) -> tuple[float, float, float]:
    """A share with its Wilson interval."""
    hits, n = int(right.sum()), len(right)
    return (hits / n, *wilson(hits, n)) if n else (float("nan"),) * 3


# Correlations ------------------------------------------------------------------------------------


def axes(pieces: Pieces, reader: str) -> np.ndarray:
    """(n, 2) valence and arousal that a reader reads; of the judge the balance of quadrants."""
    if reader == "judge":
        p = np.array([piece["judge"] for piece in pieces])
        return p @ np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]])
    return np.array([piece[f"{reader}_vad"] for piece in pieces])


def correlation(
    asked: np.ndarray, read: np.ndarray, figure: Callable[..., float] = spearman
) -> tuple[float, float, float]:
    """Correlation with its 95 % interval over pieces; pieces without a number are left out."""
    known = np.isfinite(asked) & np.isfinite(read)
    if known.sum() < 3:
        return (float("nan"),) * 3
    x, y = asked[known], read[known]
    return (figure(x, y), *bootstrap(figure, x, y, n=DRAWS))


def grid_figures(pieces: Pieces) -> dict[str, Any]:
    """Spearman of asked against read valence and arousal, each reader, over the grid of points.

    crossed: of asked valence against read arousal and the reverse, which should be 0.
    """
    asked = np.array([piece["asked"] for piece in pieces])
    found: dict[str, Any] = {"n": len(pieces)}
    for reader in READERS:
        read = axes(pieces, reader)
        found[reader] = {
            "valence": correlation(asked[:, 0], read[:, 0]),
            "arousal": correlation(asked[:, 1], read[:, 1]),
            "crossed": [
                spearman(asked[:, 0], read[:, 1]),
                spearman(asked[:, 1], read[:, 0]),
            ],
        }
    return found


def level_figures(pieces: Pieces) -> dict[str, Any]:
    """Spearman of asked intensity against how far the reading lies along the emotion's direction.

    within: the mean of the five levels of each seed alone, so that a lucky theme is no evidence.
    """
    found: dict[str, Any] = {}
    for label in dict.fromkeys(piece["label"] for piece in pieces):
        mine = [piece for piece in pieces if piece["label"] == label]
        way = VAD[CORE.index(label), :2]
        level = np.array([piece["intensity"] for piece in mine])
        seeds = np.array([piece["seed"] for piece in mine])
        found[label] = {"n": len(mine)}
        for reader in READERS:
            along = axes(mine, reader) @ way / np.linalg.norm(way)
            within = [spearman(level[seeds == s], along[seeds == s]) for s in np.unique(seeds)]
            found[label][reader] = {
                "rho": correlation(level, along),
                "within": float(np.mean(within)),
            }
    return found


def attribute_figures(pieces: Pieces) -> dict[str, Any]:
    """Asked target against measured value of each attribute: Spearman, Pearson, mean error.

    spread: standard deviation of what was asked; 0 where nothing was, and then no correlation.
    """
    rows = [piece for piece in pieces if piece["targets"] is not None]
    number = [[np.nan if v is None else v for v in piece["targets"]] for piece in rows]
    measured = [[np.nan if v is None else v for v in piece["measured"]] for piece in rows]
    asked, heard = np.array(number, dtype=float), np.array(measured, dtype=float)
    found = {}
    for k, name in enumerate(ATTRIBUTES):
        spread = float(np.nanstd(asked[:, k]))
        off = (heard - asked)[:, k]
        off = off[np.isfinite(off)]
        moved = spread > 1e-6
        found[name] = {
            "spearman": correlation(asked[:, k], heard[:, k]) if moved else (float("nan"),) * 3,
            "pearson": correlation(asked[:, k], heard[:, k], pearson)[0] if moved else float("nan"),
            "spread": spread,
            "error": float(off.mean()) if len(off) else float("nan"),
        }
    return found


def emotion_figures(pieces: Pieces) -> dict[str, Any]:
    """For each emotion: what was asked, what was read, and where its own intensity ranks."""
    found = {}
    for label in dict.fromkeys(piece["label"] for piece in pieces):
        mine = [piece for piece in pieces if piece["label"] == label]
        judged = np.array([np.argmax(piece["judge"]) for piece in mine])
        # Read minus the mean of all other emotions: does asking for it raise its own reading?
        k = CORE.index(label)
        own = np.array([piece["reader_intensities"][k] for piece in mine])
        others = [piece["reader_intensities"][k] for piece in pieces if piece["label"] != label]
        found[label] = {
            "n": len(mine),
            "asked": mine[0]["asked"],
            "reader": axes(mine, "reader").mean(0).tolist(),
            "judge": axes(mine, "judge").mean(0).tolist(),
            "quadrants": np.bincount(judged, minlength=4).tolist(),
            "own_intensity": float(own.mean()),
            "when_others_asked": float(np.mean(others)) if others else float("nan"),
        }
    return found


def course_figures(pieces: Pieces) -> dict[str, Any]:
    """Mean over pieces of the correlation over time of asked and read curves; bootstrap interval.

    other: the same read curves against the courses of other pieces, the control.
    """
    found: dict[str, Any] = {"n": len(pieces)}
    for reader in ("reader", "critic"):
        for axis, name in enumerate(("valence", "arousal")):
            own, other = [], []
            for piece in pieces:
                read = _column(piece[reader]["read"], axis)
                for source in pieces:
                    asked = _column(source[reader]["asked"], axis)[: len(read)]
                    if len(asked) != len(read) or np.ptp(asked) < 0.05:
                        continue
                    known = np.isfinite(read)
                    if known.sum() < 5:
                        continue
                    r = pearson(asked[known], read[known])
                    if source is piece:
                        own.append(r)
                    elif source["label"] != piece["label"]:
                        other.append(r)
            mean = (float("nan"),) * 3
            if own:
                low, high = bootstrap(lambda x: float(x.mean()), own, n=DRAWS)
                mean = (float(np.mean(own)), low, high)
            found[f"{reader}_{name}"] = {
                "own": mean,
                "other": float(np.mean(other)) if other else float("nan"),
            }
    return found


def _column(rows: Sequence[Sequence[float | None]], axis: int) -> np.ndarray:
    return np.array([np.nan if row[axis] is None else row[axis] for row in rows], dtype=float)


def musicality_figures(
    made: Pieces, real: Mapping[str, Sequence[Mapping[str, float]]]
) -> dict[str, list[dict[str, Any]]]:
    """Generated pieces beside each set of real ones."""
    values = [_known(piece["musicality"]) for piece in made]
    return {
        kind: [asdict(row) for row in compare(values, [_known(row) for row in rows])]
        for kind, rows in real.items()
        if rows
    }


def _known(values: Mapping[str, Any]) -> dict[str, float]:
    return {key: float("nan") if value is None else float(value) for key, value in values.items()}


def summary(stages: Mapping[str, Any]) -> dict[str, Any]:
    """All figures of a report from its stages."""
    quadrants = {
        f"{way}, {which}": {
            reader: quadrant_figures(stages[way][which], reader) for reader in READERS
        }
        for way in ("vad", "emotions")
        for which in ("first", "best")
    }
    quadrants |= {
        way: {reader: quadrant_figures(stages[way], reader) for reader in READERS}
        for way in ("neutral", "hidden")
    }
    told = [*stages["vad"]["first"], *stages["grid"], *stages["levels"], *stages["each"]]
    return {
        "quadrants": quadrants,
        "grid": grid_figures(stages["grid"]),
        "levels": level_figures(stages["levels"]),
        "attributes": attribute_figures(told),
        "emotions": emotion_figures(stages["each"]),
        "courses": course_figures(stages["courses"]),
        "musicality": musicality_figures(stages["emotions"]["first"], stages["real"]),
        "speed": stages["speed"],
    }


# The page ----------------------------------------------------------------------------------------


def markdown(report: Mapping[str, Any]) -> str:
    """The report as one Markdown page."""
    n = report["quadrants"]["vad, first"]["judge"]["n"]
    parts = [
        f"# {report['backbone']}: asked and read",
        f"Weights {report['weights']}. {n} pieces a row ({report['n']} a quadrant) of "
        f"{report['seconds']:g} s at intensity {report['intensity']:g}, no person listened. The "
        "judge is a recurrent net over notes that the making never saw; the reader hears the "
        "rendered sound; **the critic chooses the best of "
        f"{report['candidates']}, so its own column flatters those rows**. 95 % intervals.",
        "## Quadrants (chance .25; valence and arousal .50)",
        _quadrant_table(report["quadrants"]),
        "Beside it, quoted: EmoGen's demonstration pieces under two judges .74 and .61 (n = 23, "
        "chosen by its authors).",
        "## Who is taken for whom (judge; rows asked, columns read)",
        *(
            f"{way}\n\n{_confusion(report['quadrants'][way]['judge']['confusion'])}"
            for way in ("vad, first", "emotions, best")
        ),
        f"## Valence and arousal over a grid ({report['grid']['n']} pieces, Spearman)",
        _grid_table(report["grid"]),
        "## Intensity (Spearman of the level against the reading along the emotion)",
        _level_table(report["levels"]),
        "## Attributes: asked against measured",
        _attribute_table(report["attributes"]),
        "## Every emotion",
        _emotion_table(report["emotions"]),
        f"## Courses of emotion ({report['courses']['n']} pieces; correlation over time)",
        _course_table(report["courses"]),
        "## Musicality",
        "First candidates as written beside real pieces of the same length, on the same grid. "
        "Real endings are those of the whole piece. Gap in standard deviations of the real pieces.",
        *(
            f"### Beside real {kind}\n\n{table([_row(row) for row in rows])}"
            for kind, rows in report["musicality"].items()
        ),
        "## Speed",
        _speed(report["speed"], report["seconds"]),
    ]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def _row(data: Mapping[str, Any]) -> Row:
    """A row that may have been to JSON and back."""
    nan = float("nan")

    def number(value: Any) -> float:
        return nan if value is None else float(value)

    def three(values: Sequence[Any]) -> tuple[float, float, float]:
        a, b, c = (number(value) for value in values)
        return a, b, c

    counts = (int(data["counts"][0]), int(data["counts"][1]))
    return Row(data["name"], three(data["generated"]), three(data["real"]), counts,
               number(data["gap"]), number(data["overlap"]))  # fmt: skip


def _lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _three(values: Sequence[Any]) -> str:
    if values[0] is None or not np.isfinite(values[0]):
        return "-"
    return f"{values[0]:.2f} ({values[1]:.2f}..{values[2]:.2f})"


def _two(value: Any) -> str:
    return "-" if value is None or not np.isfinite(value) else f"{value:.2f}"


def _quadrant_table(rows: Mapping[str, Any]) -> str:
    head = ["asked as", "judge", "judge V / A", "reader", "reader V / A", "critic",
            "read as the opposite (judge)"]  # fmt: skip
    names = {"neutral": "nothing (control)", "hidden": "attributes hidden (control)"}
    cells = []
    for way, read in rows.items():
        line = [names.get(way, way)]
        for reader in ("judge", "reader"):
            found = read[reader]
            line.append(_three(found["quadrant"]))
            line.append(f"{found['valence'][0]:.2f} / {found['arousal'][0]:.2f}")
        cells.append([*line, _three(read["critic"]["quadrant"]), _three(read["judge"]["opposite"])])
    return _lines(head, cells)


def _confusion(counts: Sequence[Sequence[int]]) -> str:
    rows = [[f"**{QUADRANTS[i]}**", *map(str, row)] for i, row in enumerate(counts)]
    return _lines(["", *QUADRANTS], rows)


def _grid_table(grid: Mapping[str, Any]) -> str:
    rows = [
        [reader, _three(grid[reader]["valence"]), _three(grid[reader]["arousal"]),
         " / ".join(map(_two, grid[reader]["crossed"]))]
        for reader in READERS
    ]  # fmt: skip
    return _lines(["reader", "valence", "arousal", "crossed (V on A / A on V)"], rows)


def _level_table(levels: Mapping[str, Any]) -> str:
    rows = []
    for label, found in levels.items():
        line = [f"{label} (n {found['n']})"]
        for reader in READERS:
            line += [_three(found[reader]["rho"]), _two(found[reader]["within"])]
        rows.append(line)
    head = ["emotion"]
    for reader in READERS:
        head += [reader, "within a seed"]
    return _lines(head, rows)


def _attribute_table(attributes: Mapping[str, Any]) -> str:
    rows = [
        [name, _three(found["spearman"]), _two(found["pearson"]), f"{found['spread']:.3g}",
         "-" if found["error"] is None or np.isnan(found["error"]) else f"{found['error']:+.3g}"]
        for name, found in attributes.items()
    ]  # fmt: skip
    return _lines(["attribute", "Spearman", "Pearson", "sd asked", "measured - asked"], rows)


def _emotion_table(emotions: Mapping[str, Any]) -> str:
    rows = []
    for label, found in emotions.items():
        pairs = [" / ".join(f"{x:+.2f}" for x in found[k]) for k in ("asked", "reader", "judge")]
        counts = " ".join(
            f"{name} {count}"
            for name, count in zip(QUADRANTS, found["quadrants"], strict=True)
            if count
        )
        own = f"{_two(found['own_intensity'])} against {_two(found['when_others_asked'])}"
        rows.append([label, *pairs, counts, own])
    head = ["emotion", "asked V / A", "reader V / A", "judge V / A", "judge's quadrants",
            "its own intensity (reader), against when others were asked"]  # fmt: skip
    return _lines(head, rows)


def _course_table(courses: Mapping[str, Any]) -> str:
    rows = [
        [name.replace("_", ", "), _three(found["own"]), _two(found["other"])]
        for name, found in courses.items()
        if name != "n"
    ]
    return _lines(["", "with its own course", "with other courses (control)"], rows)


def _speed(speed: Mapping[str, float], seconds: float) -> str:
    return (
        f"One piece of {seconds:g} s: composed and played in {speed['compose_seconds']:.1f} s, "
        f"rendered in {speed['render_seconds']:.1f} s; four candidates in "
        f"{speed['four_candidates_seconds']:.1f} s. Peak memory of the whole evaluation "
        f"{speed['peak_memory_mb']:.0f} MB."
    )
