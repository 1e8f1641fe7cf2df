"""A folder of anything with any emotion labelling -> samples that every recipe can train on.

    dataset, report = read_folder("photos/", "image")
    print(report.text())

Pictures, sounds, MIDI files or curves of Live Link Face; labels from metadata.jsonl or .csv, from
folder or file names, or as a published set lays them out (`training.folder_layouts`); captions
from the table or from .txt files. Every file is decoded once, as untrusted input; what is damaged
or too large is told and left out. Near duplicates, and whatever a speaker or song said, stay on
one side of the split, which is a hash of the group's name, so that it never moves when files are
added.

Deliberately does not know models, buckets or how a recipe uses a sample.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from adapters.emotion import CORE, DEFAULT_INTENSITY
from training.folder_check import Probe, clusters, near_pairs, probe_all
from training.folder_labels import DataError, Label, to_labels
from training.folder_layouts import LAYOUTS, SPLITS, SUFFIXES, Row, read_rows
from training.folder_report import Report, disagreements

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["LAYOUTS", "LEAST", "MODALITIES", "DataError", "Dataset", "Sample", "read_folder"]

Floats = NDArray[np.float64]

MODALITIES = tuple(SUFFIXES)
HELD_SHARE = 0.1
"""Of the groups that is held out, where the set declares no split."""
LEAST: Mapping[str, int] = {"image": 8, "voice": 8, "music": 1, "portrait": 1}
"""Files under which a recipe has nothing to learn from; one long piece or recording can do."""
MOST_FILES = 500_000
_MANY = 4  # groups, from which on at least one is held out


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One file and what is said about it.

    name: posix path in the folder. state: (12,) intensities in CORE order, read-only, zeros where
    nothing is said (`labelled` False). vad: as rated, -1..1, or None. graded: somebody rated how
    strong it is. group: what may not be torn apart (speaker, song, near duplicates). split: "train"
    or "held". origin: who speaks or whose song it is, as the set says. sentence: what takes of one
    sentence share, where the set tells. width, height: pixels of a picture. seconds: of a sound,
    piece or recording.
    """

    path: Path
    name: str
    caption: str
    state: Floats
    vad: tuple[float, float, float | None] | None
    labelled: bool
    graded: bool
    group: str
    split: str
    sha256: str
    origin: str = ""
    sentence: str = ""
    width: int = 0
    height: int = 0
    seconds: float = 0.0

    @property
    def label(self) -> Floats:
        """(13,) soft label: neutral, then CORE; sum 1 (as `Emotion.soft_label`)."""
        return np.append(max(0.0, 1.0 - float(self.state.sum())), self.state)

    @property
    def emotion(self) -> str:
        """The strongest emotion, "neutral" where there is none, "" where nothing is said."""
        if not self.labelled:
            return ""
        top = int(np.argmax(self.state))
        return CORE[top] if self.state[top] > 0 else "neutral"


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Samples of one folder, in the order of their names."""

    root: Path
    modality: str
    layout: str
    samples: tuple[Sample, ...]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)

    @property
    def states(self) -> Floats:
        """(n, 12) intensities."""
        return np.stack([s.state for s in self.samples]) if self.samples else np.zeros((0, 12))

    @property
    def labels(self) -> Floats:
        """(n, 13) soft labels."""
        return np.stack([s.label for s in self.samples]) if self.samples else np.zeros((0, 13))

    @property
    def digest(self) -> str:
        """16 hex digits over files, captions, labels and splits: what a resumed run must match."""
        total = hashlib.sha256(f"{self.modality}".encode())
        for s in self.samples:
            line = f"{s.name}\0{s.sha256}\0{s.caption}\0{s.split}\0{s.state.round(6).tolist()}"
            total.update(line.encode())
        return total.hexdigest()[:16]

    def of(self, split: str) -> Dataset:
        """The samples of a split, "train" or "held"."""
        return self._with([s for s in self.samples if s.split == split])

    def about(self, emotions: Sequence[str]) -> Dataset:
        """The samples of these emotions (by their strongest one), neutral ones with them."""
        unknown = [name for name in emotions if name not in CORE]
        if unknown:
            msg = f"emotions: {', '.join(unknown)} not known; allowed: {', '.join(CORE)}"
            raise DataError(msg)
        return self._with([s for s in self.samples if s.emotion in (*emotions, "neutral")])

    def sheet(self, n: int = 24) -> Image.Image:
        """A contact sheet of n samples, spread evenly over the set."""
        from training.folder_sheet import sheet

        places = np.linspace(0, len(self.samples) - 1, min(n, len(self.samples))).round()
        return sheet([self.samples[int(k)] for k in places], self.modality)

    def _with(self, samples: Sequence[Sample]) -> Dataset:
        return replace(self, samples=tuple(samples))


def read_folder(
    path: Path | str,
    modality: str,
    layout: str = "auto",
    *,
    labels: Mapping[str, str] | None = None,
    scales: Mapping[str, str] | None = None,
    intensity: float = DEFAULT_INTENSITY,
    held: float = HELD_SHARE,
    least: int | None = None,
    most: int = MOST_FILES,
    index: Path | str | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> tuple[Dataset, Report]:
    """Read a folder: every usable file as a sample, and what is to be said about the whole.

    Args:
        path: a folder; it is only read.
        modality: one of MODALITIES.
        layout: one of LAYOUTS, or "auto".
        labels: own class names -> words or text forms of this project, {"0": "amusement"}.
        scales: scales of ratings, {"valence": "1..9"}; inferred and told where not given.
        intensity: of a named emotion that nobody graded, 0..1.
        held: share of the groups that is held out, 0 to .5; a declared split is kept. 0: the recipe
            holds out in its own way.
        least: fewest usable files; None: LEAST of the modality.
        most: files, usable or not.
        index: file that remembers what was decoded; None: every file is decoded again.
        tell: takes lines about progress.

    Raises:
        DataError: no folder, no or too few usable files, labels that are no emotions, tables that
            cannot be read. One line.
    """
    root = Path(path)
    if modality not in MODALITIES:
        msg = f'modality: allowed {", ".join(MODALITIES)}, received "{modality}"'
        raise DataError(msg)
    if not 0 <= held <= 0.5:
        msg = f"held: allowed 0 to 0.5, received {held:g}"
        raise DataError(msg)
    files = _files(root, modality, most)
    notes: list[str] = []
    found, rows = read_rows(root, files, modality, layout, labels or {})
    rows, missing = _present(root, rows, files)
    named = to_labels(rows, labels=labels, scales=scales, intensity=intensity, tell=notes.append)
    names = [str(row["path"]) for row in rows]
    index = None if index is None else Path(index)
    probes, broken = probe_all(root, names, modality, index=index, tell=tell)
    kept = [k for k, name in enumerate(names) if name in probes]
    least = LEAST[modality] if least is None else least
    if len(kept) < max(1, least):
        raise DataError(_too_few(root, modality, len(kept), least, missing, broken))
    chosen = [probes[names[k]] for k in kept]
    pairs = near_pairs(chosen)
    exact = _exact(chosen)
    groups = _groups([rows[k] for k in kept], [*pairs, *exact])
    splits = _splits([rows[k] for k in kept], groups, held)
    samples = [
        _sample(root, rows[k], named[k], chosen[i], groups[i], splits[i])
        for i, k in enumerate(kept)
    ]
    dataset = Dataset(root, modality, found, tuple(samples))
    report = Report.of(
        modality=modality,
        layout=found,
        intensity=intensity,
        files=len(files),
        missing=tuple(missing),
        broken=tuple(broken),
        samples=samples,
        exact=_named(samples, exact),
        near=_named(samples, pairs),
        disagree=_named(samples, disagreements(samples, [*pairs, *exact])),
        notes=tuple(notes),
        own_split=held == 0,
    )
    return dataset, report


def _hint(others: Mapping[str, int], modality: str) -> str:
    """What to do about a folder that holds no file of a modality; .csv may be a mere table."""
    fits = {name: sum(others.get(suffix, 0) for suffix in SUFFIXES[name]) for name in SUFFIXES
            if name != "portrait"}  # fmt: skip
    best = max(fits, key=lambda name: fits[name])
    if not fits[best]:
        return f"check the folder and the modality ({modality})"
    return f"pass --modality {best}, or another folder"


def _files(root: Path, modality: str, most: int) -> list[str]:
    """Posix paths of the files with the suffixes of a modality, sorted; hidden ones are not."""
    if not root.is_dir():
        msg = f"data: {root} is no folder; give one with {', '.join(SUFFIXES[modality])} files"
        raise DataError(msg)
    others: Counter[str] = Counter()
    found: list[str] = []
    for path in _walk(root):
        name = path.relative_to(root)
        suffix = path.suffix.lower()
        if suffix in SUFFIXES[modality] and name.as_posix() != "metadata.csv":
            found.append(name.as_posix())
        elif suffix:
            others[suffix] += 1
    if not 0 < len(found) <= most:
        has = ", ".join(f"{n} {suffix}" for suffix, n in others.most_common(3)) or "nothing"
        msg = (
            f"data: {root} holds {len(found)} files of {', '.join(SUFFIXES[modality])} (and {has}),"
            f" allowed 1 to {most}; {_hint({} if found else others, modality)}"
        )
        raise DataError(msg)
    return sorted(found)


def _walk(root: Path) -> Iterator[Path]:
    """Files at any depth, hidden ones left out; links to folders are followed, each folder once."""
    seen: set[Path] = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = Path(folder).resolve()
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(folder) / name for name in names if not name.startswith("."))


def _present(root: Path, rows: Sequence[Row], files: Sequence[str]) -> tuple[list[Row], list[str]]:
    """Rows whose file is there, the first of each, by name; and the names of the others."""
    there = set(files)
    kept: dict[str, Row] = {}
    missing: list[str] = []
    for row in rows:
        name = str(row["path"])
        if name in there:
            kept.setdefault(name, row)
        else:
            missing.append(name)
    if not kept:
        first = missing[0] if missing else "nothing"
        msg = (
            f"data: none of {len(rows)} rows names a file that is there ({root / first} is "
            "missing); put the table beside its files"
        )
        raise DataError(msg)
    return [kept[name] for name in sorted(kept)], missing


def _too_few(
    root: Path,
    modality: str,
    count: int,
    least: int,
    missing: Sequence[str],
    broken: Sequence[tuple[str, str]],
) -> str:
    kind = SUFFIXES[modality][0].removeprefix(".")
    why = f"; {len(broken)} are damaged, the first: {broken[0][1]}" if broken else ""
    gone = f"; {len(missing)} rows name files that are not there" if missing else ""
    return (
        f"data: {root} holds {count} usable files for {modality} ({kind}, ...), {least} or more "
        f"are needed{why}{gone}; add files"
    )


def _exact(probes: Sequence[Probe]) -> list[tuple[int, int]]:
    first: dict[str, int] = {}
    return [
        (first[p.sha256], k)
        for k, p in enumerate(probes)
        if first.setdefault(p.sha256, k) != k
    ]  # fmt: skip


def _groups(rows: Sequence[Row], pairs: Sequence[tuple[int, int]]) -> list[str]:
    """A name for each file's group: what the set says, joined where files are duplicates."""
    own = [str(row.get("group") or "") for row in rows]
    by_name: dict[str, list[int]] = defaultdict(list)
    for k, name in enumerate(own):
        if name:
            by_name[name].append(k)
    links = [(members[0], k) for members in by_name.values() for k in members[1:]]
    roots = clusters(len(rows), [*links, *pairs])
    return [own[r] or str(rows[r]["path"]) for r in roots]


def _splits(rows: Sequence[Row], groups: Sequence[str], held: float) -> list[str]:
    """As the set declares it; else by a hash of the group, at least one of four held out."""
    declared = [SPLITS.get(str(row.get("split") or "").strip().lower(), "") for row in rows]
    wrong = {str(row.get("split")) for row in rows if row.get("split")} - {
        str(row.get("split")) for row, part in zip(rows, declared, strict=True) if part
    }
    if wrong:
        msg = f'data: the split "{min(wrong)}" is not known; allowed: {", ".join(SPLITS)}'
        raise DataError(msg)
    if "held" in declared:
        return [part or "train" for part in declared]
    draws = {
        group: int.from_bytes(hashlib.sha256(group.encode()).digest()[:6], "big") / 2**48
        for group in dict.fromkeys(groups)
    }
    out = {group for group, u in draws.items() if u < held}
    if not out and held > 0 and len(draws) >= _MANY:
        out = {min(draws, key=lambda g: draws[g])}
    return ["held" if group in out else "train" for group in groups]


def _sample(
    root: Path, row: Row, label: Label | None, probe: Probe, group: str, split: str
) -> Sample:
    name = str(row["path"])
    nothing = np.zeros(len(CORE))
    nothing.setflags(write=False)
    return Sample(
        path=root / name,
        name=name,
        caption=" ".join(str(row.get("text") or "").split()),
        state=nothing if label is None else label.state,
        vad=None if label is None else label.vad,
        labelled=label is not None,
        graded=label is not None and label.graded,
        group=group,
        split=split,
        sha256=probe.sha256,
        origin=str(row.get("group") or ""),
        sentence=str(row.get("sentence") or row.get("sentence_id") or ""),
        width=probe.width,
        height=probe.height,
        seconds=probe.seconds,
    )


def _named(
    samples: Sequence[Sample], pairs: Sequence[tuple[int, int]]
) -> tuple[tuple[str, str], ...]:
    return tuple((samples[a].name, samples[b].name) for a, b in pairs)
