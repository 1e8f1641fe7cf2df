"""What is to be said about a data set before anything is trained on it: text, and JSON.

Counts, damaged and missing files, exact and near duplicates, balance of the classes, captions,
sizes, splits, and how noisy the labels are: how often near duplicates disagree, and, when the
probabilities of a critic are given, which labels it confidently contradicts. The latter is the
confident joint of Northcutt, Jiang and Chuang 2021 (JAIR 70): a sample counts as another class when
its probability there is at least what that class's own samples have on average, or over a half (of
a critic that is sure of everything, half of the wrong labels would stay under the average).

It deliberately decides nothing: files are left out by `training.folder`, by people, or not at all.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from adapters.emotion import CORE
from training.folder_labels import DataError

if TYPE_CHECKING:
    from training.folder import Sample

Floats = NDArray[np.float64]

CLASSES = ("neutral", *CORE)
SMALL = 256
"""Pixels of the shorter side under which pictures are told to be small."""
LOPSIDED = 10.0
"""Times as many samples of the largest class as of the smallest that is there."""
MAJORITY = 0.5
"""Probability of another class that always counts against a label."""
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Noise:
    """Labels that a critic contradicts.

    share: of the samples, estimated. suspects: (name, given, seems, margin), the surest first.
    read: samples that were judged.
    """

    share: float
    suspects: tuple[tuple[str, str, str, float], ...]
    read: int


@dataclass(frozen=True, slots=True)
class Report:
    """Figures of a folder; `text` for people, `to_json` for tools.

    exact, near: pairs of names. disagree: those pairs whose labels differ. classes: samples by
    their strongest emotion. sizes: least, median and most of the shorter side in pixels, or of
    seconds. torn: groups that a declared split puts on both sides. own_split: the recipe holds out
    in its own way, and reads intensities from the files, as those of a style do.
    """

    modality: str
    layout: str
    files: int
    samples: int
    missing: tuple[str, ...]
    broken: tuple[tuple[str, str], ...]
    exact: tuple[tuple[str, str], ...]
    near: tuple[tuple[str, str], ...]
    disagree: tuple[tuple[str, str], ...]
    classes: dict[str, int]
    unlabelled: int
    graded: int
    intensity: float
    captions: int
    sizes: tuple[float, float, float]
    small: int
    seconds: float
    groups: int
    held: int
    torn: tuple[str, ...]
    notes: tuple[str, ...] = ()
    noise: Noise | None = None
    own_split: bool = False

    @classmethod
    def of(
        cls,
        *,
        modality: str,
        layout: str,
        intensity: float,
        files: int,
        missing: tuple[str, ...],
        broken: tuple[tuple[str, str], ...],
        samples: Sequence[Sample],
        exact: tuple[tuple[str, str], ...],
        near: tuple[tuple[str, str], ...],
        disagree: tuple[tuple[str, str], ...],
        notes: tuple[str, ...],
        own_split: bool = False,
    ) -> Report:
        """Count what `read_folder` found."""
        counted = Counter(s.emotion for s in samples if s.labelled)
        sides = [float(min(s.width, s.height)) for s in samples]
        lengths = [s.seconds for s in samples]
        measured = np.array(sides if modality == "image" else lengths)
        parts: dict[str, set[str]] = {}
        for s in samples:
            parts.setdefault(s.group, set()).add(s.split)
        return cls(
            modality=modality,
            layout=layout,
            files=files,
            samples=len(samples),
            missing=missing,
            broken=broken,
            exact=exact,
            near=near,
            disagree=disagree,
            classes={name: counted[name] for name in CLASSES if counted[name]},
            unlabelled=sum(not s.labelled for s in samples),
            graded=sum(s.graded for s in samples),
            intensity=intensity,
            captions=sum(bool(s.caption) for s in samples),
            sizes=(float(measured.min()), float(np.median(measured)), float(measured.max())),
            small=sum(side < SMALL for side in sides) if modality == "image" else 0,
            seconds=round(sum(lengths), 1),
            groups=len(parts),
            held=sum(s.split == "held" for s in samples),
            torn=tuple(sorted(group for group, where in parts.items() if len(where) > 1)),
            notes=notes,
            own_split=own_split,
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a person should look at before training, a line each."""
        found: list[str] = list(self.notes)
        if self.broken:
            listed = "; ".join(why for _, why in self.broken[:_SHOWN])
            found.append(f"{len(self.broken)} files are left out: {listed}")
        if self.missing:
            found.append(f"{len(self.missing)} rows name files that are not there")
        if self.exact or self.near:
            found.append(
                f"{len(self.exact)} exact and {len(self.near)} near duplicates, kept on one side "
                f"of the split{_pair(self.exact or self.near)}"
            )
        if self.disagree:
            found.append(
                f"{len(self.disagree)} of {len(self.exact) + len(self.near)} duplicates are "
                f"labelled differently{_pair(self.disagree)}"
            )
        if self.torn:
            found.append(
                f"the declared split has {len(self.torn)} groups on both sides, {self.torn[0]} "
                "first: what is held out has been seen"
            )
        if not self.classes:
            found.append(
                "nothing says what is felt: emotions cannot be learned from this"
                + (", a style can" if self.modality != "image" else "")
            )
        elif self.unlabelled:
            found.append(f"{self.unlabelled} files have no label")
        felt = {name: n for name, n in self.classes.items() if name != "neutral"}
        if felt and max(felt.values()) >= LOPSIDED * min(felt.values()):
            most, least = (f(felt, key=lambda k: felt[k]) for f in (max, min))
            found.append(f"lopsided: {felt[most]} of {most}, {felt[least]} of {least}")
        if self.classes and not (self.graded or self.own_split):
            found.append(f"no intensities: each named emotion counts as {self.intensity:g}")
        if self.captions < self.samples and self.modality == "image":
            found.append(f"{self.samples - self.captions} files have no caption")
        if self.small:
            found.append(f"{self.small} pictures are under {SMALL} px on the shorter side")
        if not (self.held or self.own_split):
            found.append("nothing is held out: too few groups")
        if self.noise is not None:
            found.append(
                f"a critic doubts {len(self.noise.suspects)} of {self.noise.read} labels "
                f"(noise about {self.noise.share:.0%})"
            )
        return tuple(found)

    def text(self) -> str:
        """The report for people."""
        unit = "px on the shorter side" if self.modality == "image" else "s"
        low, middle, high = self.sizes
        lines = [
            f"{self.samples} of {self.files} files for {self.modality}, layout {self.layout}",
            f"  {low:g} to {high:g} {unit}, median {middle:g}"
            + (f"; {self.seconds / 60:.1f} min in all" if self.seconds else ""),
            f"  {self.groups} groups"
            + (
                f"; {self.samples - self.held} to train on, {self.held} held out"
                if self.held or not self.own_split
                else ""
            ),
        ]
        most = max(self.classes.values(), default=1)
        for name, n in self.classes.items():
            lines.append(f"  {name:<12} {n:>6} {'#' * max(1, round(30 * n / most))}")
        lines += [f"  ! {line}" for line in self.warnings]
        if self.noise is not None:
            for name, given, seems, margin in self.noise.suspects[:_SHOWN]:
                lines.append(f"    {name}: labelled {given}, reads as {seems} (by {margin:.2f})")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Plain values by name, with the warnings as they are printed."""
        found: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return found | {"warnings": list(self.warnings)}


def disagreements(
    samples: Sequence[Sample], pairs: Sequence[tuple[int, int]]
) -> list[tuple[int, int]]:
    """Pairs of duplicates whose strongest emotions differ."""
    return [
        (a, b)
        for a, b in pairs
        if samples[a].labelled and samples[b].labelled and samples[a].emotion != samples[b].emotion
    ]


def label_noise(samples: Sequence[Sample], probabilities: ArrayLike) -> Noise:
    """Labels that a critic confidently contradicts (confident learning).

    samples: labelled ones are judged. probabilities: (n, 13) neutral then CORE, of a critic that
    was not trained on these samples, one row a sample.

    Raises:
        DataError: another shape, or no labelled samples.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    if p.shape != (len(samples), len(CLASSES)) or not np.isfinite(p).all():
        msg = f"probabilities: expected finite ({len(samples)}, 13), received {p.shape}"
        raise DataError(msg)
    rows = [k for k, s in enumerate(samples) if s.labelled]
    if not rows:
        msg = "data: no labelled samples to compare with the critic; label them first"
        raise DataError(msg)
    p = p[rows]
    given = np.array([CLASSES.index(samples[k].emotion) for k in rows])
    here = np.unique(given)
    # A class's own confidence: what the critic gives it on average where it is the label.
    least = np.full(len(CLASSES), np.inf)
    for k in here:
        least[k] = min(float(p[given == k, k].mean()), MAJORITY)
    sure = np.where(p >= least[None], p, -np.inf)
    seems = np.where(np.isfinite(sure.max(axis=1)), sure.argmax(axis=1), given)
    own = p[np.arange(len(p)), given]
    margin = p[np.arange(len(p)), seems] - own
    doubt = (seems != given) & (margin > 0)
    order = [int(k) for k in np.argsort(-margin, kind="stable") if doubt[k]]
    suspects = tuple(
        (
            samples[rows[k]].name,
            CLASSES[given[k]],
            CLASSES[int(seems[k])],
            round(float(margin[k]), 4),
        )
        for k in order
    )
    return Noise(round(len(suspects) / len(rows), 4), suspects, len(rows))


def _pair(pairs: Sequence[tuple[str, str]]) -> str:
    return f", such as {pairs[0][0]} and {pairs[0][1]}" if pairs else ""
