"""Recipe: a critic of pictures, voices, music or facial motion from anybody's labelled folder.

    affect train critic --modality voice --data takes/ --out critics/ours

The folder is read by `training.folder` in any layout and labelling; the critic is fitted by the
recipe of the embedded one (`training.critic_kinds`), so what is written is loaded wherever that one
is. Nothing is measured on what was learned: the groups of the set (speakers, songs, near
duplicates) are dealt into folds, and each fold is read by a fit that never met its groups. From
these readings come the temperature of the shipped critic, which learns from all files, and every
figure: accuracy among the emotions that the folder shows, valence and arousal, their intervals
bootstrapped over groups, chance, the commonest class, and the same run on shuffled labels. What was
measured is kept, so the same command goes on where a stopped one was.

What learns may guide; it must not report what it guided. The independent readers stay as they are.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError

from adapters import metrics
from adapters.emotion import CORE
from adapters.files import replacing
from adapters.voice_reading import CLASSES
from training.config_critic import MODALITIES, Critic
from training.critic_kinds import LEARNERS, Raw, affect_of
from training.folder import DataError, Dataset, Sample
from training.intervals import over_groups

Floats = NDArray[np.float64]

RECIPE = 1
"""Raised when the recipe changes what the same settings would produce."""
LEAST_FILES, LEAST_GROUPS = 4, 2
"""Of an emotion, under which it cannot be learned and measured."""
LEAST_KINDS = 2
FIGURES = "figures.json"
_NAMES = ("neutral", *CORE)


class CriticError(DataError):
    """A folder that no critic can be trained from; one line."""


def usable(data: Dataset, modality: str, tell: Callable[[str], None]) -> Dataset:
    """The samples that a critic can learn from and be measured on; what is left out is told.

    Raises:
        CriticError: nothing is labelled, one kind of emotion, too few files or groups of it.
    """
    labelled = [s for s in data if s.labelled]
    if not labelled:
        msg = (
            f"data: none of the {len(data)} files of {data.root} is labelled; name their emotions "
            "in metadata.jsonl, or by folders or file names"
        )
        raise CriticError(msg)
    if len(labelled) < len(data):
        tell(f"{len(data) - len(labelled)} files without a label are left out")
    heard = [s for s in labelled if modality != "voice" or s.emotion in CLASSES]
    if len(heard) < len(labelled):
        others = sorted({s.emotion for s in labelled} - set(CLASSES))
        tell(
            f"{len(labelled) - len(heard)} takes of {', '.join(others)} are left out: a critic of "
            f"voices tells {', '.join(CLASSES)}"
        )
    files = Counter(s.emotion for s in heard)
    groups = {name: len({s.group for s in heard if s.emotion == name}) for name in files}
    kinds = [n for n in files if files[n] >= LEAST_FILES and groups[n] >= LEAST_GROUPS]
    shown = ", ".join(f"{name} {count}" for name, count in files.most_common()) or "none"
    if len(kinds) < LEAST_KINDS:
        msg = (
            f"data: {data.root} shows {shown}; a critic needs {LEAST_KINDS} kinds of emotion or "
            f"more (neutral is one) with {LEAST_FILES} files in {LEAST_GROUPS} groups each; add "
            "files or labels"
        )
        raise CriticError(msg)
    if modality == "voice" and "neutral" not in kinds:
        msg = (
            f"data: {data.root} shows {shown}; a critic of voices hears an emotion as what differs "
            f"from neutral speech, so add {LEAST_FILES} or more neutral takes"
        )
        raise CriticError(msg)
    if rest := [name for name in files if name not in kinds]:
        tell(f"too few files to learn from and measure on: {', '.join(sorted(rest))}")
    return replace(data, samples=tuple(s for s in heard if s.emotion in kinds))


def groups_of(data: Dataset, tell: Callable[[str], None]) -> list[str]:
    """What may not be torn apart between folds: the set's groups, or else sentences, or files.

    Copies of a file are one file.
    """
    own = [s.group for s in data]
    if len(set(own)) > LEAST_GROUPS:
        return own
    said = [s.sentence for s in data]
    if all(said) and len(set(said)) > LEAST_GROUPS:
        tell("one or two speakers or songs: sentences are left out, figures hold for these alone")
        return said
    tell("one or two groups: files are left out one by one, figures hold for these groups alone")
    return [s.sha256 for s in data]


def dealt(groups: Sequence[str], kinds: Sequence[str], folds: int, seed: int) -> list[list[int]]:
    """Indices of each fold: whole groups, dealt to the fold that has least of their rarest kind.

    A kind that two groups show is so never left out altogether.
    """
    order = sorted(set(groups), key=lambda g: hashlib.sha256(f"{seed}/{g}".encode()).hexdigest())
    folds = min(folds, len(order))
    members: dict[str, list[int]] = {group: [] for group in order}
    for i, group in enumerate(groups):
        members[group].append(i)
    spread = Counter(kind for rows in members.values() for kind in {kinds[i] for i in rows})
    held: list[Counter[str]] = [Counter() for _ in range(folds)]
    parts: list[list[int]] = [[] for _ in range(folds)]
    for group in sorted(order, key=lambda g: -len(members[g])):
        rarest = min({kinds[i] for i in members[group]}, key=lambda kind: (spread[kind], kind))
        at = min(range(folds), key=lambda k: (held[k][rarest], len(parts[k]), k))
        parts[at] += members[group]
        held[at].update(kinds[i] for i in members[group])
    return [sorted(part) for part in parts]


# Training ----------------------------------------------------------------------------------------


def train_critic(
    data: Dataset,
    modality: str,
    settings: Critic,
    out: Path | str,
    *,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Measure by folds, fit on all, and write the critic's folder; returns the figures.

    Args:
        data: of `training.folder.read_folder(path, MODALITIES[modality])`.
        modality: one of `config_critic.MODALITIES`.
        settings: the run's knobs.
        out: the critic's folder, loaded by `load_critic` and its sisters.
        tell: takes lines about progress.

    Raises:
        CriticError: nothing that can be learned and measured, a folder that is taken, a disk that
            is full; what was measured is kept.
    """
    try:
        return _train(data, modality, settings, Path(out), tell)
    except (OSError, SafetensorError) as error:  # the second of a disk that is full, too
        about, reason = getattr(error, "filename", None), getattr(error, "strerror", None)
        if about and not Path(about).is_relative_to(out):
            raise
        msg = (
            f"out: {about or out} cannot be written ({reason or error}); what was measured is "
            "kept: make room and give the same command again"
        )
        raise CriticError(" ".join(msg.split())) from error


def _train(
    data: Dataset, modality: str, settings: Critic, out: Path, tell: Callable[[str], None]
) -> dict[str, Any]:
    if (out / "config.json").exists() or (out.exists() and not out.is_dir()):
        msg = f"out: {out} holds something already; name another folder"
        raise CriticError(msg)
    data = usable(data, modality, tell)
    groups = groups_of(data, tell)
    kinds = [s.emotion for s in data]
    knobs = {k: v for k, v in settings.to_json().items() if k not in ("data", "out")}
    facts = {"recipe": f"critic {RECIPE}", "modality": modality, "data": data.digest, **knobs}
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
    work = out / f".work-{key}"
    work.mkdir(parents=True, exist_ok=True)
    learner = LEARNERS[modality](data, replace(settings, out=str(out)), work, tell)
    parts = dealt(groups, kinds, settings.folds, settings.seed)
    everyone = list(range(len(data)))
    found = _left_out(learner, parts, everyone, work / "real", tell)
    if learner.tune(found):
        found = _left_out(learner, parts, everyone, work / "tuned", tell)
        learner.tune(found)
    p, affect = learner.told(found)
    control = None
    if settings.control:
        tell("the same on shuffled labels, as a control")
        mixed = np.random.default_rng(settings.seed).permutation(len(data)).tolist()
        raw = _left_out(learner, parts, mixed, work / "control", tell)
        control = learner.told(raw)
    figures = {
        **facts, "data": data.digest, "layout": data.layout, "folds": len(parts),
        **figures_of(p, affect, list(data), groups, control),
    }  # fmt: skip
    model = learner.fit(everyone, everyone)
    learner.finish(model)
    made = work / "made"
    learner.save(model, made)
    figures["digest"] = model.digest
    with replacing(out / FIGURES) as path:
        path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    with replacing(out / "README.md") as path:
        path.write_text(card(figures, out.name), encoding="utf-8")
    # The file that says that a critic is here comes last: half of one is not taken for it.
    for path in sorted(made.iterdir(), key=lambda one: one.name == "config.json"):
        path.replace(out / path.name)
    shutil.rmtree(work, ignore_errors=True)
    for line in lines(figures):
        tell(line)
    return {**figures, "path": str(out)}


def _left_out(
    learner: Any,
    parts: Sequence[Sequence[int]],
    of: Sequence[int],
    work: Path,
    tell: Callable[[str], None],
) -> Raw:
    """What fits without a fold say of its samples, in the order of the samples; kept in `work`.

    of: the sample whose label each one has in training.
    """
    found: list[Raw] = []
    for k, part in enumerate(parts):
        path = work / f"{k}.npz"
        if not path.is_file():
            rest = sorted(set(range(len(of))) - set(part))
            model = learner.fit(rest, [of[i] for i in rest])
            with replacing(path) as fresh:
                np.savez(fresh, **learner.raw(model, part))
            tell(f"fold {k + 1} of {len(parts)}: {len(part)} files left out")
        with np.load(path) as kept:
            found.append({name: kept[name] for name in kept.files})
    order = np.argsort(np.concatenate([np.asarray(part) for part in parts]))
    return {name: np.concatenate([one[name] for one in found])[order] for name in found[0]}


# Figures -----------------------------------------------------------------------------------------


def figures_of(
    p: Floats,
    affect: Floats,
    samples: Sequence[Sample],
    groups: Sequence[str],
    control: tuple[Floats, Floats] | None,
) -> dict[str, Any]:
    """All figures of left-out readings; intervals are bootstrapped over groups.

    p: (n, 13) probabilities. affect: (n, 2). control: the same of fits on shuffled labels.
    """
    counts = Counter(s.emotion for s in samples)
    kinds = [name for name in _NAMES if name in counts]
    actual = np.array([kinds.index(s.emotion) for s in samples])
    columns = [_NAMES.index(name) for name in kinds]
    shares = p[:, columns] + 1e-9
    shares /= shares.sum(axis=1, keepdims=True)
    said, want = shares.argmax(axis=1), affect_of(samples)
    out: dict[str, Any] = {
        "n": len(samples), "groups": len(set(groups)),
        "kinds": {name: counts[name] for name in kinds},
        "accuracy": over_groups(metrics.accuracy, groups, said, actual),
        "balanced": over_groups(_balanced, groups, said, actual),
        "chance": 1 / len(kinds), "commonest": max(counts.values()) / len(samples),
        "ece": metrics.ece(shares, actual),
        "recall": {n: float((said[actual == k] == k).mean()) for k, n in enumerate(kinds)},
        "rated": sum(s.vad is not None for s in samples),
    }  # fmt: skip
    for axis, name in enumerate(("valence", "arousal")):
        x, y = affect[:, axis], want[:, axis]
        out[f"{name}_pearson"] = over_groups(metrics.pearson, groups, x, y)
        out[f"{name}_ccc"] = over_groups(metrics.ccc, groups, x, y)
    if control is not None:
        guessed = control[0][:, columns].argmax(axis=1)
        out["control_accuracy"] = over_groups(metrics.accuracy, groups, guessed, actual)
        out["control_balanced"] = over_groups(_balanced, groups, guessed, actual)
        for axis, name in enumerate(("valence", "arousal")):
            out[f"control_{name}_pearson"] = over_groups(
                metrics.pearson, groups, control[1][:, axis], want[:, axis]
            )
    return out


def _balanced(said: NDArray[Any], actual: NDArray[Any]) -> float:
    """Mean recall over the kinds that occur: chance is one share of them whatever their sizes."""
    return float(np.mean([(said[actual == k] == k).mean() for k in np.unique(actual)]))


def lines(figures: Mapping[str, Any]) -> list[str]:
    """The figures for people."""

    def shown(name: str) -> str:
        value, low, high = figures[name]
        return f"{value:.2f} (95 % {low:.2f} to {high:.2f})"

    control = "control_balanced" in figures
    first = (
        f"{figures['n']} files of {figures['groups']} groups, each read by a fit without its "
        f"group: right {shown('accuracy')}, kinds weighed alike {shown('balanced')}; chance "
        f"{figures['chance']:.2f}, commonest {figures['commonest']:.2f}"
    )
    if control:
        first += f", trained on shuffled labels {shown('control_balanced')}"
    of = "ratings" if figures["rated"] else "what the labels stand for"
    second = (
        f"r with {of}: valence {shown('valence_pearson')}, arousal {shown('arousal_pearson')}; "
        f"calibration error {figures['ece']:.2f}"
    )
    told = [first, second]
    if figures["balanced"][1] <= figures["chance"]:
        told.append("it is not shown to read better than chance: add files, groups or effort")
    return told


def card(figures: Mapping[str, Any], name: str) -> str:
    """Model card of the critic as Markdown."""
    kinds = ", ".join(f"{kind} {count}" for kind, count in figures["kinds"].items())
    recall = ", ".join(f"{kind} {share:.2f}" for kind, share in figures["recall"].items())
    body = "\n".join(f"* {line[0].upper()}{line[1:]}." for line in lines(figures))
    begun = figures.get("begin", "none") if figures["modality"] == "image" else "none"
    known = "" if begun in ("", "none") else (
        f"\n* It began with {Path(begun).name}: where that has learned from some of these pictures "
        "already, the figures are too good; `--begin none` leaves it out."
    )  # fmt: skip
    return (
        f"# {name}: a critic of {figures['modality']}\n\n"
        "Trained by `affect train critic` on a folder of labelled files, by the recipe of the "
        f"embedded critic. Files: {kinds} (layout {figures['layout']}, digest {figures['data']})."
        f"\n\n## Held-out figures\n\n{body}\n* Recall: {recall}.\n\nIntervals are bootstrapped "
        f"over groups, {figures['folds']} folds; the shipped weights have learned from all "
        "files.\n\n## Limits\n\n"
        "* It may guide, rank and calibrate; what it guided is reported by an independent reader."
        "\n* It knows the emotions of its folder alone, and recordings, players or pictures like "
        f"them.{known}\n* A score says how this model reads a file, never what a person feels.\n"
    )


def folder_of(modality: str) -> str:
    """The modality of training.folder that a critic's files are read as.

    Raises:
        CriticError: a modality without a critic.
    """
    if modality not in MODALITIES:
        msg = f'modality: allowed {", ".join(MODALITIES)}, received "{modality[:40]}"'
        raise CriticError(msg)
    return MODALITIES[modality]
