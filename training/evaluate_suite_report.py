"""Figures of training.evaluate_suite: readings and picture statistics in, intervals out.

Intervals are 95 % by bootstrap over prompts: a prompt is resampled with all its seeds, levels and
emotions, because more pictures of one prompt are no new evidence. Every figure stands beside its
controls: the dial at 0, the emotion as a word with nothing of ours on, the opposite asked, and a
shuffled critic, who answers for another picture of the run.

Content has no reader here, so it is measured by likeness, without anything learned: a picture's
content is right when, of all the subjects of the run, it is nearest to what its own subject looks
like in neutral pictures of OTHER seeds, by the 365 handmade statistics of adapters.features. What
an emotion does to all subjects alike (its look) is taken out first; `raw` leaves it in. How well
that finds neutral pictures again says how far it can be trusted; chance is one in as many subjects.

numpy only: it knows no model, no critic and no file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters.calibration import Response, intensity_error
from adapters.emotion import CORE
from adapters.metrics import kendall, spearman

Floats = NDArray[np.float64]
Row = Mapping[str, Any]
Figure = list[float | None]
"""Value and the two ends of its 95 % interval."""

ARMS = ("neutral", "reference", "dial", "word")
NEUTRAL, REFERENCE, DIAL, WORD = ARMS
ROLES = ("reader", "critic")
RATIOS = ("intensity_error", "leakage")
"""Their denominators may be near 0 where an emotion hardly answers: a median over emotions."""
DRAWS = 1000
SHUFFLES = 300


class Draws:
    """The same resampled prompts for every figure, so that figures may be averaged draw by draw."""

    def __init__(self, prompts: int, draws: int = DRAWS, seed: int = 0) -> None:
        self.index = np.random.default_rng(seed).integers(0, prompts, (draws, prompts))
        self.all = np.arange(prompts)

    def mean(self, values: Floats) -> Floats:
        """Values (prompts, ...) -> mean of all, then of every draw: (1 + draws,)."""
        each = np.asarray(values, dtype=np.float64).reshape(len(self.all), -1).mean(axis=1)
        return np.concatenate([[each.mean()], each[self.index].mean(axis=1)])

    def of(self, figure: Callable[[NDArray[np.int64]], float]) -> Floats:
        """A figure of chosen prompts -> of all, then of every draw: (1 + draws,)."""
        return np.array([figure(self.all), *(figure(index) for index in self.index)])


def told(values: Floats) -> Figure:
    """Value and interval of (1 + draws,); None where nothing is known."""
    first, draws = values[0], values[1:]
    if not np.isfinite(first):
        return [None, None, None]
    known = draws[np.isfinite(draws)]
    if len(known) < 0.95 * len(draws):  # too often undefined for an interval
        return [round(float(first), 4), None, None]
    low, high = np.quantile(known, [0.025, 0.975])
    return [round(float(v), 4) for v in (first, low, high)]


def over(values: Sequence[Floats], *, middle: bool = False) -> Figure:
    """The mean over emotions where the figure is defined, draw by draw; `middle`: the median."""
    stack = np.array(values)
    defined = stack[np.isfinite(stack[:, 0])]
    if not len(defined):
        return [None, None, None]
    known = np.isfinite(defined)
    if middle:
        return told(
            np.array(
                [
                    np.median(x[k]) if k.any() else np.nan
                    for x, k in zip(defined.T, known.T, strict=True)
                ]
            )
        )
    total, count = np.where(known, defined, 0.0).sum(axis=0), known.sum(axis=0)
    return told(np.where(count > 0, total / np.maximum(count, 1), np.nan))


class Cells:
    """Rows by what was asked, as arrays (prompts, seeds, ...)."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.seeds = sorted({row["seed"] for row in rows if row["arm"] == NEUTRAL})
        self.others = sorted({row["seed"] for row in rows if row["arm"] == REFERENCE})
        self.rows = {
            (row["arm"], row["prompt"], row["emotion"], row["level"], row["seed"]): row
            for row in rows
        }

    def of(
        self, prompts: Sequence[str], arm: str, emotion: str | None, level: float, *field: str
    ) -> Floats:
        """A field of every row of a cell: (prompts, seeds, n)."""
        seeds = self.others if arm == REFERENCE else self.seeds
        found = []
        for prompt in prompts:
            for seed in seeds:
                value: Any = self.rows[arm, prompt, emotion, level, seed]
                for name in field:
                    value = value[name]
                found.append(value)
        return np.array(found, dtype=np.float64).reshape(len(prompts), len(seeds), -1)

    def dialled(
        self, prompts: Sequence[str], emotion: str, levels: Sequence[float], *field: str
    ) -> Floats:
        """The dial at 0 and at every level: (prompts, seeds, 1 + levels, n)."""
        rows = [self.of(prompts, NEUTRAL, None, 0.0, *field)]
        rows += [self.of(prompts, DIAL, emotion, level, *field) for level in levels]
        return np.stack(rows, axis=2)


class Subjects:
    """What the subjects of a run look like without emotion, and which one a picture is nearest."""

    def __init__(self, cells: Cells, prompts: Sequence[str]) -> None:
        others = cells.of(prompts, REFERENCE, None, 0.0, "statistics")
        flat = others.reshape(-1, others.shape[-1])
        self.mean, self.scale = flat.mean(axis=0), np.maximum(flat.std(axis=0), 1e-6)
        self.known = self.look(others).mean(axis=1)
        self.neutral = self.look(cells.of(prompts, NEUTRAL, None, 0.0, "statistics"))
        pairs = list(combinations(range(len(prompts)), 2))
        between = [_apart(self.neutral[a], self.neutral[b]) for a, b in pairs]
        self.other = float(np.mean(between))  # how far apart two subjects are at one seed

    def look(self, statistics: Floats) -> Floats:
        """Standardised by neutral pictures, softly clipped at about 4 deviations."""
        found: Floats = 4 * np.tanh((statistics - self.mean) / self.scale / 4)
        return found

    def right(self, look: Floats, *, raw: bool = False) -> Floats:
        """(prompts, seeds): 1 where a picture is nearest to its own subject."""
        if not raw:
            look = look - look.mean(axis=(0, 1)) + self.neutral.mean(axis=(0, 1))
        away = np.linalg.norm(look[:, :, None] - self.known[None, None], axis=-1)
        found: Floats = (away.argmin(axis=2) == np.arange(len(look))[:, None]).astype(np.float64)
        return found

    def similarity(self, look: Floats) -> Floats:
        """(prompts, seeds): 1 as the neutral picture of this seed, 0 as another subject of it."""
        return 1 - _apart(look, self.neutral) / self.other


def _apart(a: Floats, b: Floats) -> Floats:
    found: Floats = np.linalg.norm(a - b, axis=-1)
    return found


def _spread(look: Floats) -> Floats:
    """(prompts, seeds, n) -> mean distance between the seeds of a prompt, (prompts,)."""
    pairs = list(combinations(range(look.shape[1]), 2))
    found: Floats = np.mean([_apart(look[:, a], look[:, b]) for a, b in pairs], axis=0)
    return found


# Figures -----------------------------------------------------------------------------------------


def figures(
    rows: Sequence[Row],
    *,
    emotions: Sequence[str],
    levels: Sequence[float],
    scenes: Sequence[str],
    traps: Sequence[Mapping[str, Any]],
    opposites: Mapping[str, str],
    scales: Mapping[str, Mapping[str, Response]] | None = None,
    draws: int = DRAWS,
) -> dict[str, Any]:
    """All figures of a run as plain data.

    rows: arm, prompt, emotion, level, seed, seen, statistics, and {"p": (13,), "a": (12,)} by
    "critic" and "reader". scales: by role the stored response of emotions, whose ends are then 0
    and 1; else those of the run itself.
    """
    cells, draw = Cells(rows), Draws(len(scenes), draws)
    subjects = Subjects(cells, scenes)
    found: dict[str, Any] = {
        "chance": {"accuracy": 1 / len(CORE), "content": 1 / len(scenes), "spearman": 0.0},
        "n": {"prompts": len(scenes), "seeds": len(cells.seeds), "levels": len(levels) + 1},
        "content": _content(cells, subjects, draw, emotions, scenes, levels),
    }
    for role in ROLES:
        one = {
            name: _emotion(
                cells, subjects, draw, role, name, scenes, levels, opposites[name],
                (scales or {}).get(role, {}).get(name),
            )
            for name in emotions
        }  # fmt: skip
        found[role] = {
            "emotions": {
                name: {k: told(v) for k, v in row.items() if k != "leaks"}
                for name, row in one.items()
            },
            "all": {
                key: over([row[key] for row in one.values()], middle=key in RATIOS)
                for key in next(iter(one.values()))
                if key != "leaks"
            },
            "leakage_matrix": {
                name: [round(float(v), 4) for v in row["leaks"]] for name, row in one.items()
            },
            "shuffled": _shuffled(cells, role, scenes, emotions, levels),
        }
    found["traps"] = _traps(cells, traps, scenes, draws)
    return found


def _emotion(
    cells: Cells,
    subjects: Subjects,
    draw: Draws,
    role: str,
    name: str,
    scenes: Sequence[str],
    levels: Sequence[float],
    other: str,
    scale: Response | None,
) -> dict[str, Floats]:
    """Figures of one emotion by one reader, each (1 + draws,), and the row of leaks (12,)."""
    at = CORE.index(name)
    dial = [0.0, *levels]
    every = cells.dialled(scenes, name, levels, role, "a")
    own = every[..., at]  # (prompts, seeds, 1 + levels)
    top = {
        "accuracy": cells.of(scenes, DIAL, name, 1.0, role, "p"),
        "accuracy_at_0": cells.of(scenes, NEUTRAL, None, 0.0, role, "p"),
        "accuracy_word": cells.of(scenes, WORD, name, 1.0, role, "p"),
        "accuracy_opposite": cells.of(scenes, DIAL, other, 1.0, role, "p"),
    }
    right = {key: (p[..., 1:].argmax(axis=-1) == at) for key, p in top.items()}
    found = {key: draw.mean(hits) for key, hits in right.items()}

    look = subjects.look(cells.of(scenes, DIAL, name, 1.0, "statistics"))
    word = subjects.look(cells.of(scenes, WORD, name, 1.0, "statistics"))
    found["ec_a"] = draw.mean(right["accuracy"] * subjects.right(look))
    found["ec_a_at_0"] = draw.mean(right["accuracy_at_0"] * subjects.right(subjects.neutral))
    found["ec_a_word"] = draw.mean(right["accuracy_word"] * subjects.right(word))

    rise = every[..., -1, :] - every[..., 0, :]
    found["moved_most"] = draw.mean(rise.argmax(axis=-1) == at)
    found["rise"] = draw.mean(rise[..., at])
    in_words = cells.of(scenes, WORD, name, 1.0, role, "a") - every[..., 0, :]
    found["moved_most_word"] = draw.mean(in_words.argmax(axis=-1) == at)
    found["rise_word"] = draw.mean(in_words[..., at])
    opposed = cells.of(scenes, DIAL, other, 1.0, role, "a")[..., at]
    found["rise_opposite"] = draw.mean(opposed - own[..., 0])
    found["over_opposite"] = draw.mean(own[..., -1] - opposed)

    asked = np.broadcast_to(dial, own.shape)
    found["spearman"] = draw.of(lambda i: spearman(asked[i].ravel(), own[i].ravel()))
    flat = own.reshape(-1, len(dial))
    cell = np.array([[spearman(dial, x), kendall(dial, x)] for x in flat])
    cell = cell.reshape(*own.shape[:2], 2)
    found["spearman_within"] = draw.mean(cell[..., 0])
    found["tau_b_within"] = draw.mean(cell[..., 1])
    found["intensity_error"] = _error(draw, own, dial, scale)

    leaks = rise.mean(axis=(0, 1))
    found["leakage"] = draw.of(lambda i: _leakage(rise[i].mean(axis=(0, 1)), at))
    found["leaks"] = leaks
    return found


def _error(draw: Draws, own: Floats, dial: Sequence[float], scale: Response | None) -> Floats:
    """Mean over levels of |read - asked|, means over prompts first, on a scale of 0..1.

    Without a stored scale its ends are those of the same prompts: what is left is how uneven the
    steps between are.
    """

    def error(index: NDArray[np.int64]) -> float:
        read = own[index].reshape(-1, len(dial)).T  # (1 + levels, pictures)
        return intensity_error(dial, read, scale or Response.fit(dial, read))

    return draw.of(error)


def _leakage(rise: Floats, at: int) -> float:
    """What rises elsewhere, as a share of what rises where it should; nan where that falls."""
    if rise[at] <= 1e-3:
        return float("nan")
    return float((np.clip(rise, 0, None).sum() - rise[at]) / rise[at])


def _content(
    cells: Cells,
    subjects: Subjects,
    draw: Draws,
    emotions: Sequence[str],
    scenes: Sequence[str],
    levels: Sequence[float],
) -> dict[str, Any]:
    """How much of the subject is left at every level, and how different seeds still are."""
    found: dict[str, Any] = {
        "neutral found again": told(draw.mean(subjects.right(subjects.neutral, raw=True))),
        "levels": {},
    }
    several = len(cells.seeds) > 1

    def diversity(look: Floats) -> Floats:
        here, base = _spread(look), _spread(subjects.neutral)
        return draw.of(lambda i: float(here[i].mean() / base[i].mean()))

    def row(arm: str, level: float) -> dict[str, Any]:
        looks = [subjects.look(cells.of(scenes, arm, n, level, "statistics")) for n in emotions]
        figure: dict[str, Any] = {
            "right": over([draw.mean(subjects.right(x)) for x in looks]),
            "right_raw": over([draw.mean(subjects.right(x, raw=True)) for x in looks]),
            "similarity": over([draw.mean(subjects.similarity(x)) for x in looks]),
        }
        if several:
            figure["diversity"] = over([diversity(x) for x in looks])
        return figure

    for level in levels:
        found["levels"][f"{level:g}"] = row(DIAL, level)
    found["word"] = row(WORD, 1.0)
    found["emotions"] = {}
    for name in emotions:
        look = subjects.look(cells.of(scenes, DIAL, name, 1.0, "statistics"))
        found["emotions"][name] = {
            "right": told(draw.mean(subjects.right(look))),
            "similarity": told(draw.mean(subjects.similarity(look))),
            "diversity": told(diversity(look)) if several else None,
        }
    return found


def _shuffled(
    cells: Cells,
    role: str,
    scenes: Sequence[str],
    emotions: Sequence[str],
    levels: Sequence[float],
) -> dict[str, Figure]:
    """What a critic scores who answers for another picture of the run, 95 % of shuffles."""
    rng = np.random.default_rng(1)
    tops, reads = [], []
    for name in emotions:
        p = cells.dialled(scenes, name, levels, role, "p")
        tops.append(p[..., 1:].argmax(axis=-1).reshape(-1, len(levels) + 1))
        a = cells.dialled(scenes, name, levels, role, "a")[..., CORE.index(name)]
        reads.append(a.reshape(-1, len(levels) + 1))
    pool = np.concatenate([top.ravel() for top in tops])
    hits, ranks = [], []
    dial = np.tile([0.0, *levels], len(reads[0]))
    for _ in range(SHUFFLES):
        drawn = rng.choice(pool, (len(emotions), len(tops[0])))
        hits.append(np.mean([drawn[k] == CORE.index(name) for k, name in enumerate(emotions)]))
        ranks.append(np.mean([spearman(dial, rng.permutation(x.ravel())) for x in reads]))
    return {
        key: [round(float(v), 4) for v in (np.mean(x), *np.quantile(x, [0.025, 0.975]))]
        for key, x in (("accuracy", hits), ("spearman", ranks))
    }


def _traps(
    cells: Cells, traps: Sequence[Mapping[str, Any]], scenes: Sequence[str], draws: int
) -> dict[str, Any]:
    """Subjects that suggest something else: is the emotion there, and the subject still?

    The look that is taken out is what the emotion does to the neutral subjects.
    """
    prompts = list(dict.fromkeys(trap["prompt"] for trap in traps))
    if len(prompts) < 2:
        return {}
    subjects, draw = Subjects(cells, prompts), Draws(len(traps), draws)
    at = [CORE.index(trap["emotion"]) for trap in traps]
    place = [prompts.index(trap["prompt"]) for trap in traps]

    def cell(arm: str, *field: str) -> Floats:
        """(traps, seeds, n) of an arm."""
        asks = [(None, 0.0) if arm == NEUTRAL else (t["emotion"], 1.0) for t in traps]
        rows = [
            cells.of([t["prompt"]], arm, *ask, *field)[0]
            for t, ask in zip(traps, asks, strict=True)
        ]
        return np.array(rows)

    found: dict[str, Any] = {
        "n": len(traps),
        "chance": {"accuracy": 1 / len(CORE), "content": 1 / len(prompts)},
        "shortcuts added": sum(
            _says(row["seen"].removeprefix(row["text"]), trap["shortcut"])
            for trap in traps
            for seed in cells.seeds
            for row in [cells.rows[DIAL, trap["prompt"], trap["emotion"], 1.0, seed]]
        ),
    }
    plain = subjects.look(cells.of(scenes, NEUTRAL, None, 0.0, "statistics")).mean(axis=(0, 1))
    for arm in (NEUTRAL, DIAL, WORD):
        look = subjects.look(cell(arm, "statistics"))
        if arm != NEUTRAL:
            usual = [cells.of(scenes, arm, t["emotion"], 1.0, "statistics") for t in traps]
            look -= np.array([subjects.look(x).mean(axis=(0, 1)) - plain for x in usual])[:, None]
        away = np.linalg.norm(look[:, :, None] - subjects.known, axis=-1)
        kept = (away.argmin(axis=2) == np.array(place)[:, None]).astype(np.float64)
        found[arm] = {"content": told(draw.mean(kept))}
        for role in ROLES:
            p, a = cell(arm, role, "p"), cell(arm, role, "a")
            right = p[..., 1:].argmax(axis=-1) == np.array(at)[:, None]
            own = np.take_along_axis(a, np.array(at)[:, None, None], axis=-1)[..., 0]
            zero = cell(NEUTRAL, role, "a")
            before = np.take_along_axis(zero, np.array(at)[:, None, None], axis=-1)[..., 0]
            found[arm][role] = {
                "accuracy": told(draw.mean(right)),
                "rise": told(draw.mean(own - before)),
                "ec_a": told(draw.mean(right * kept)),
            }
    return found


def _says(text: str, words: Sequence[str]) -> bool:
    """Whether a text has one of these words, also in the plural."""
    pattern = "|".join(map(re.escape, words))
    return re.search(rf"(?<![\w-])(?:{pattern})s?(?![\w-])", text.lower()) is not None
