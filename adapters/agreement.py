"""Does what is read over time follow what was asked, and do all modalities tell the same story?

Tracks are distributions over neutral and the twelve emotions, (n, 13) at known seconds: what was
asked (`asked_track`) or what a critic read (`read_track`). `follow` correlates one with what was
asked; `agreement` measures the distance of several to each other and to what was asked. Every
figure stands beside the same figure with time shuffled: readers have habits, and a film that is
read as fearful throughout is near a fearful curve without following it. It knows no critic, no
medium, no drawing. numpy only.

Sources: Lin 1991 for the Jensen-Shannon divergence (bits, 0..1); Kuensch 1989 for the bootstrap of
blocks, because neighbours in time are alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from adapters.emotion import CORE, VAD, EmotionTimeline
from adapters.metrics import jsd, pearson
from adapters.reading import LABELS, Reading

Floats = NDArray[np.float64]
Track = tuple[ArrayLike, ArrayLike]

ASKED = "asked"
STEP = 0.25
"""Seconds between the moments that tracks are compared at: readers are asked about 4 times a second
where they can be, and curves that people write change more slowly."""
DRAWS = 500
# Below this standard deviation nothing changed: a hundredth of full intensity.
STEADY = 0.01


class AgreementError(ValueError):
    """Tracks that cannot be compared; one line that says which and why."""


@dataclass(frozen=True, slots=True)
class Follow:
    """How one track follows another in time.

    r: correlation of all changes at once (each label less its mean over time). low, high: its 95 %
    interval by blocks; it speaks for other moments of this work, not for other works. chance:
    2.5 % and 97.5 % of r with the blocks of the read track in random order. valence, arousal:
    correlations of these; correlation: of each emotion that changes by itself; None where what was
    asked does not change. lag: seconds by which the read track comes later, where it fits best.
    n: moments compared.
    """

    r: float | None
    low: float | None
    high: float | None
    chance: tuple[float, float] | None
    valence: float | None
    arousal: float | None
    correlation: dict[str, float | None]
    lag: float | None
    n: int

    def to_json(self) -> dict[str, Any]:
        """Plain numbers by name, four digits."""
        found: dict[str, Any] = _plain(asdict(self))
        return found

    @property
    def text(self) -> str:
        """One line for people."""
        if self.r is None or self.low is None or self.high is None or self.chance is None:
            return f"nothing to follow: what was asked does not change (n {self.n})"
        return (
            f"r {self.r:.2f} [{self.low:.2f}, {self.high:.2f}], by chance "
            f"[{self.chance[0]:.2f}, {self.chance[1]:.2f}]; valence {_shown(self.valence)}, "
            f"arousal {_shown(self.arousal)}; lag {_shown(self.lag)} s; n {self.n}"
        )


@dataclass(frozen=True, slots=True)
class Pair:
    """Two tracks where both say something.

    divergence: mean Jensen-Shannon divergence, bits, 0 (the same) to 1. distance: mean distance in
    valence and arousal, 0 to 2.8. shuffled_*: the same with the moments of one in random order, so
    what is left is what both are on average. r: correlation of their changes, None where one does
    not change. n: moments, STEP seconds apart.
    """

    a: str
    b: str
    divergence: float
    distance: float
    shuffled_divergence: float
    shuffled_distance: float
    r: float | None
    n: int

    def to_json(self) -> dict[str, Any]:
        """Plain numbers by name, four digits."""
        found: dict[str, Any] = _plain(asdict(self))
        return found


@dataclass(frozen=True, slots=True)
class Agreement:
    """All pairs of tracks that share at least three moments, those with what was asked first."""

    pairs: tuple[Pair, ...]

    @property
    def to_asked(self) -> tuple[Pair, ...]:
        """Each modality beside what was asked."""
        return tuple(pair for pair in self.pairs if pair.a == ASKED)

    @property
    def between(self) -> tuple[Pair, ...]:
        """The modalities beside each other."""
        return tuple(pair for pair in self.pairs if pair.a != ASKED)

    def to_json(self) -> dict[str, Any]:
        """Plain data: "asked" and "between", each a list of pairs, and the mean of each figure."""
        found: dict[str, Any] = {}
        for name, pairs in (("asked", self.to_asked), ("between", self.between)):
            found[name] = [pair.to_json() for pair in pairs]
            found[f"{name}_mean"] = {
                figure: round(float(np.mean([getattr(pair, figure) for pair in pairs])), 4)
                for figure in ("divergence", "distance", "shuffled_divergence", "shuffled_distance")
                if pairs
            }
        return found

    @property
    def lines(self) -> list[str]:
        """One line for each pair, for people."""
        return [
            f"{pair.a} - {pair.b}: divergence {pair.divergence:.3f} (shuffled "
            f"{pair.shuffled_divergence:.3f}), valence-arousal {pair.distance:.2f} "
            f"({pair.shuffled_distance:.2f}), r {_shown(pair.r)}, n {pair.n}"
            for pair in self.pairs
        ]


# Tracks ------------------------------------------------------------------------------------------


def asked_track(timeline: EmotionTimeline, times: ArrayLike) -> Floats:
    """What was asked at n seconds as distributions (n, 13), neutral first."""
    states = timeline.sample(times).astype(np.float64)
    total = states.sum(axis=1, keepdims=True)
    labels: Floats = np.hstack([np.maximum(0.0, 1.0 - total), states / np.maximum(1.0, total)])
    labels /= labels.sum(axis=1, keepdims=True)
    return labels


def read_track(readings: Sequence[Reading], *, strengths: bool = False) -> Floats:
    """What was read as distributions (n, 13); nan where a critic says it heard nobody.

    strengths: from intensities instead of probabilities. Probabilities keep how often each emotion
    was labelled in a critic's own data (half of a picture is neutral), intensities are scaled to
    strong real examples, as what is asked is.
    """
    rows = []
    for reading in readings:
        if reading.probabilities[0] == 1:
            rows.append(np.full(len(LABELS), np.nan))
        elif strengths:
            a = np.clip(reading.intensities, 0.0, None)
            rows.append(np.append(max(0.0, 1.0 - a.sum()), a / max(1.0, a.sum())))
        else:
            rows.append(np.asarray(reading.probabilities, dtype=np.float64))
    found: Floats = np.array(rows, dtype=np.float64).reshape(-1, len(LABELS))
    return found


def resampled(track: Track, at: ArrayLike, name: str = "track") -> Floats:
    """A track (times, (n, 13)) at other seconds; nan where it does not reach or says nothing.

    Raises AgreementError when shapes do not fit or times do not increase.
    """
    times, rows = (np.asarray(part, dtype=np.float64) for part in track)
    where = np.asarray(at, dtype=np.float64)
    if times.ndim != 1 or rows.shape != (len(times), len(LABELS)) or not len(times):
        msg = f"{name}: expected (n,) seconds and (n, 13), received {times.shape} and {rows.shape}"
        raise AgreementError(msg)
    if not np.isfinite(times).all() or (np.diff(times) <= 0).any():
        msg = f"{name}: its seconds must increase; sort them"
        raise AgreementError(msg)
    known: NDArray[np.bool_] = np.asarray(np.isfinite(rows).all(axis=1))
    filled = np.where(known.reshape(-1, 1), rows, 0.0)
    found: Floats = np.stack([np.interp(where, times, column) for column in filled.T], axis=1)
    # A moment between a row that says something and one that does not is left out.
    whole: NDArray[np.bool_] = np.interp(where, times, known.astype(np.float64)) > 1 - 1e-9
    # What was read in the middle of a frame, word or bar holds half a step to either side.
    usual = float(np.median(np.diff(times))) if len(times) > 1 else 2 * STEP
    inside: NDArray[np.bool_] = (where >= times[0] - usual / 2 - 1e-9) & (
        where <= times[-1] + usual / 2 + 1e-9
    )
    found[np.logical_not(np.logical_and(whole, inside))] = np.nan
    return found


# Figures -----------------------------------------------------------------------------------------


def follow(
    asked: ArrayLike, read: ArrayLike, *, step: float = STEP, seed: int = 0, draws: int = DRAWS
) -> Follow:
    """How a track that was read follows the one that was asked, both (n, 13), `step` s apart.

    Rows with nan in either are left out. Blocks are a quarter of the moments long, about what an
    emotion lasts on a curve; a reader that drifts by itself still leaves the chance range in 16 %
    of cases instead of 5 % (random walks, 49 moments, n 150). Raises AgreementError for other
    shapes or fewer than three moments.
    """
    a, b = (np.asarray(x, dtype=np.float64) for x in (asked, read))
    if a.shape != b.shape or a.ndim != 2 or a.shape[1] != len(LABELS):
        msg = f"asked, read: expected both (n, 13), received {a.shape} and {b.shape}"
        raise AgreementError(msg)
    known = np.isfinite(a).all(axis=1) & np.isfinite(b).all(axis=1)
    n = int(known.sum())
    if n < 3:
        msg = f"asked, read: at least 3 moments where both are known needed, received {n}"
        raise AgreementError(msg)
    lag = _lag(a, b)
    a, b = a[known], b[known]
    rng = np.random.default_rng(seed)
    block = max(2, n // 4)
    low = high = chance = None
    overall = together(a, b)
    if overall is not None:
        again = [together(a[at], b[at]) for at in _blocks(n, block, rng, draws)]
        values = [r for r in again if r is not None]
        low, high = _quantiles(values) if values else (None, None)
        other = [together(a, b[_shuffled(n, block, rng)]) for _ in range(draws)]
        chance = _quantiles([r for r in other if r is not None])
    (va, aa), (vb, ab) = (_affect(x).T for x in (a, b))
    return Follow(
        r=overall,
        low=low,
        high=high,
        chance=chance,
        valence=_changing(va, vb),
        arousal=_changing(aa, ab),
        correlation={
            name: _changing(a[:, k + 1], b[:, k + 1])
            for k, name in enumerate(CORE)
            if a[:, k + 1].std() > STEADY
        },
        lag=None if lag is None else lag * step,
        n=n,
    )


def agreement(
    tracks: Mapping[str, Track], asked: Track, *, step: float = STEP, seed: int = 0
) -> Agreement:
    """Distances of what was read in several modalities, to each other and to what was asked.

    tracks: by name of the modality, (seconds (n,), (n, 13)), nan rows where it says nothing. asked:
    the same form. All are compared every `step` seconds of what was asked; pairs that share fewer
    than three moments are left out. Raises AgreementError naming the track that does not fit.
    """
    if ASKED in tracks:
        msg = f"tracks: the name {ASKED} is taken by what was asked; name the modality"
        raise AgreementError(msg)
    times = np.asarray(asked[0], dtype=np.float64)
    if times.ndim != 1 or len(times) < 2 or not np.isfinite(times).all():
        msg = f"asked: expected at least two finite seconds, received {times.shape}"
        raise AgreementError(msg)
    grid = np.arange(times[0], times[-1] + step / 2, step)
    every = {ASKED: resampled(asked, grid, ASKED)}
    every |= {name: resampled(track, grid, name) for name, track in tracks.items()}
    rng = np.random.default_rng(seed)
    pairs = (_pair(a, b, every[a], every[b], rng) for a, b in combinations(every, 2))
    return Agreement(tuple(pair for pair in pairs if pair is not None))


def _pair(name: str, other: str, a: Floats, b: Floats, rng: np.random.Generator) -> Pair | None:
    known = np.isfinite(a).all(axis=1) & np.isfinite(b).all(axis=1)
    n = int(known.sum())
    if n < 3:
        return None
    a, b = a[known], b[known]
    orders = [rng.permutation(n) for _ in range(DRAWS // 5)]
    return Pair(
        name,
        other,
        divergence=float(jsd(a, b).mean()),
        distance=_apart(a, b),
        shuffled_divergence=float(np.mean([jsd(a, b[order]).mean() for order in orders])),
        shuffled_distance=float(np.mean([_apart(a, b[order]) for order in orders])),
        r=together(a, b),
        n=n,
    )


def _affect(rows: Floats) -> Floats:
    """(n, 13) -> valence and arousal (n, 2)."""
    return rows[:, 1:] @ VAD[:, :2]


def _apart(a: Floats, b: Floats) -> float:
    return float(np.linalg.norm(_affect(a) - _affect(b), axis=1).mean())


def together(a: Floats, b: Floats) -> float | None:
    """Pearson's r of all labels (n, 13) at once, each less its mean; None where one is steady."""
    x, y = a - a.mean(axis=0), b - b.mean(axis=0)
    # Of all labels together: six of thirteen that change by STEADY count as a change.
    if min(float((x**2).sum(1).mean()), float((y**2).sum(1).mean())) < STEADY**2:
        return None
    return pearson(x, y)


def _changing(a: Floats, b: Floats) -> float | None:
    """Pearson's r, None where what was asked does not change; 0 where only the reading does not."""
    return pearson(a, b) if a.std() > STEADY else None


def _lag(a: Floats, b: Floats) -> int | None:
    """Moments by which b comes later where they fit best, up to a quarter of the length."""
    best, found = -np.inf, None
    for lag in sorted(range(-(len(a) // 4), len(a) // 4 + 1), key=abs):
        x, y = (a[: len(a) - lag], b[lag:]) if lag >= 0 else (a[-lag:], b[:lag])
        known = np.isfinite(x).all(axis=1) & np.isfinite(y).all(axis=1)
        r = together(x[known], y[known]) if known.sum() >= 3 else None
        if r is not None and r > best + 1e-6:
            best, found = r, lag
    return found


def _blocks(n: int, block: int, rng: np.random.Generator, draws: int) -> NDArray[np.int64]:
    """(draws, n) moments of blocks drawn with replacement, going round at the end."""
    starts = rng.integers(0, n, (draws, -(-n // block)))
    at = (starts[:, :, None] + np.arange(block)) % n
    found: NDArray[np.int64] = at.reshape(draws, -1)[:, :n]
    return found


def _shuffled(n: int, block: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Moments in whole blocks in random order, counted from a random moment on."""
    turned = (np.arange(n) + rng.integers(n)) % n
    parts = np.array_split(turned, max(2, n // block))
    return np.concatenate([parts[i] for i in rng.permutation(len(parts))])


def _quantiles(values: Sequence[float]) -> tuple[float, float]:
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def _plain(value: Any) -> Any:
    """Numbers to four digits, at any depth; tuples as lists."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return round(value, 4) if isinstance(value, float) else value


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
