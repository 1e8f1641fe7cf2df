"""Recipe of the critics of voices: critic-voice and reader-voice.

    python -m training.voice_critic --data ../shared/data/voice --out assets/models

Both learn from EmoDB (Burkhardt et al. 2005, CC0) and neutral reading of Kerstin (CC0), in the
rooms and at the speeds of `training.voice_critic_data`. Two people (12, 16) and two sentences
(a07, b10) are in no shipped weight. The figures of `training.voice_critic_report` come from other
fits of the same recipe, each without one of the ten people, and from the shipped weights on the
two that they never heard. CPU; some minutes for each person left out.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from adapters import metrics
from adapters.assets import ASSETS
from adapters.files import replacing
from adapters.reading import Reading
from adapters.voice_critic import CHANNELS, MEL, VOICED, Member, VoiceCritic, _batch, statistics
from adapters.voice_reader import Machine, VoiceReader
from adapters.voice_reading import CLASSES, Scale, soft
from pipelines.manifest import update
from training import voice_critic_report as report
from training.voice_critic_data import (
    HELD_SENTENCES,
    HELD_SPEAKERS,
    SESSIONS,
    Measured,
    clips,
    measured,
    usual,
)

Rows = np.ndarray

MEMBERS = 3
EPOCHS, BATCH, RATE = 32, 32, 2e-3
ALONE = 0.4  # share of training draws without a reference
SMOOTH = 0.1  # of the labels: listeners agree with EmoDB's .86 of the time
LONGEST = 250  # frames of a clip (4 s) that a step sees
NEVER = -20.0  # logit of a class without training speech
KERNEL, RIDGE = 0.45, 0.3  # of the reader; .3 to 1 and .1 to .6 differ by less than their noise


@dataclass(frozen=True)
class Corpus:
    """What is measured, with the statistics of whole clips and who may be whose reference.

    rows: clips in all sessions. statistics: (n, len(STATISTICS)) of `rows`. neutral: the rows of
    (speaker, session) that are neutral.
    """

    rows: list[Measured]
    statistics: Rows
    neutral: Mapping[tuple[str, int], Rows]

    @classmethod
    def of(cls, rows: Sequence[Measured]) -> Corpus:
        """Compute the statistics."""
        found = []
        with torch.no_grad():
            for row in rows:
                found.append(statistics(*_batch([row.frames.astype(np.float32)]))[0].numpy())
        neutral: dict[tuple[str, int], list[int]] = {}
        for i, row in enumerate(rows):
            if row.clip.target == 0 and row.frames[:, VOICED].sum() >= 10:
                neutral.setdefault((row.clip.speaker, row.session), []).append(i)
        return cls(
            list(rows),
            np.array(found),
            {key: np.array(value) for key, value in neutral.items()},
        )

    def of_speaker(self, i: int) -> Rows:
        """Neutral rows that row i may be set against: of its speaker and session, not itself."""
        row = self.rows[i]
        found = self.neutral.get((row.clip.speaker, row.session), np.zeros(0, int))
        return found[found != i]

    def only(self, keep: Sequence[int]) -> Corpus:
        """Some rows."""
        at = np.asarray(keep, dtype=int)
        back = np.full(len(self.rows), -1)
        back[at] = np.arange(len(at))
        neutral = {key: back[value][back[value] >= 0] for key, value in self.neutral.items()}
        kept = {key: value for key, value in neutral.items() if len(value)}
        return Corpus([self.rows[i] for i in at], self.statistics[at], kept)

    @property
    def labels(self) -> Rows:
        """(n,) places in CLASSES, -1 for others."""
        return np.array([row.clip.target for row in self.rows])

    @property
    def heard(self) -> Rows:
        """(n, len(HEARD)) of `rows`."""
        return np.array([row.heard for row in self.rows])

    def base(self, i: int, table: Rows) -> Rows:
        """Mean of a table's rows over those that i may be set against; nan without any."""
        at = self.of_speaker(i)
        if not len(at):
            return np.full(table.shape[1], np.nan)
        return np.asarray(np.nanmean(table[at], axis=0))


def gather(data: Path, work: Path, sessions: int = SESSIONS) -> Corpus:
    """All that is trained and measured on; the first call takes minutes."""
    every = usual(clips(data))
    rows = list(measured(every, 0, data, work))
    for session in range(1, sessions + 1):
        some = [clip for clip in every if clip.dataset == "EmoDB" or session == 1]
        rows += measured(some, session, data, work)
    return Corpus.of(rows)


def trainable(corpus: Corpus, without: Sequence[str], sentences: Sequence[str]) -> list[int]:
    """Rows of EmoDB without some speakers and sentences, and Kerstin's training part."""
    out = []
    for i, row in enumerate(corpus.rows):
        clip = row.clip
        known = clip.dataset == "EmoDB" or (clip.dataset == "Kerstin" and clip.split == "train")
        if known and clip.speaker not in without and clip.sentence not in sentences:
            out.append(i)
    return out


# Critic ------------------------------------------------------------------------------------------


def empty_critic(corpus: Corpus, members: int = MEMBERS, **config: int | float) -> VoiceCritic:
    """A critic with the scales of the training speech and untrained networks."""
    found, y = corpus.statistics.astype(np.float64), corpus.labels
    critic = VoiceCritic(members=members, **config)
    acted = np.array([row.clip.dataset != "Kerstin" for row in corpus.rows])
    usual_voice = found[acted & (y == 0)].mean(axis=0)
    bases = np.array([corpus.base(i, found) for i in range(len(found))])
    known = ~np.isnan(bases[:, 0])
    spread = (found - np.where(known[:, None], bases, usual_voice)).std(axis=0) + 1e-3
    _set(critic, "usual", usual_voice)
    _set(critic, "statistics_scale", spread)
    alone, against = (found - usual_voice)[acted], (found - bases)[acted & known]
    of_known = y[acted & known]
    if not ((of_known == 0).any() and (of_known > 0).any()):  # nobody's own voice is known
        against, of_known = alone, y[acted]
    for kind, rows, of in (("alone", alone, y[acted]), ("against", against, of_known)):
        scale = Scale.fit(rows, of)
        for part in ("centre", "spread", "directions", "precision"):
            _set(critic, f"{kind}_{part}", getattr(scale, part))
    mean, whiten, quantiles = domain((found - usual_voice) / spread)
    _set(critic, "domain_mean", mean)
    _set(critic, "domain_whiten", whiten)
    _set(critic, "domain_quantiles", quantiles)
    return critic


def _set(critic: VoiceCritic, name: str, value: Rows) -> None:
    getattr(critic, name).copy_(torch.as_tensor(value, dtype=torch.float32))


def domain(z: Rows) -> tuple[Rows, Rows, Rows]:
    """Middle, whitening and quantiles (101,) of the distances of standardised rows (m, n)."""
    rows = soft(z)
    mean = rows.mean(axis=0)
    covariance = np.cov(rows.T)
    flat = np.eye(len(covariance)) * np.trace(covariance) / len(covariance)
    values, vectors = np.linalg.eigh(0.8 * covariance + 0.2 * flat)
    whiten = vectors / np.sqrt(values)
    away = np.linalg.norm((rows - mean) @ whiten, axis=1)
    return mean, whiten, np.quantile(away, np.linspace(0, 1, 101))


def train_member(
    critic: VoiceCritic, member: Member, corpus: Corpus, seed: int, epochs: int = EPOCHS
) -> float:
    """Train one network in place; returns the mean loss of the last epoch."""
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # of the layers' dropout; the fork gives the state back
        for module in member.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        steps = max(1, _clips(corpus) // BATCH)
        optimiser = torch.optim.AdamW(member.parameters(), lr=RATE, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, RATE, total_steps=epochs * steps, pct_start=0.15
        )
        member.train()
        losses: list[float] = []
        for _ in range(epochs):
            losses = []
            for frames, length, base, flag, y in batches(critic, corpus, steps, rng, generator):
                inside = (torch.arange(frames.shape[2]) < length[:, None]).float()
                found = statistics(frames, length)
                z = 4 * torch.tanh((found - base) / critic.statistics_scale / 4)
                x = masked(critic.against(frames, base), rng) * inside[:, None]
                logits = member(x, inside, torch.cat([z, flag], dim=1))
                loss = F.cross_entropy(logits, y, label_smoothing=SMOOTH)
                optimiser.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(member.parameters(), 1.0)
                optimiser.step()
                schedule.step()
                losses.append(float(loss.detach()))
    member.eval()
    return float(np.mean(losses))


def _clips(corpus: Corpus) -> int:
    return len({row.clip.path for row in corpus.rows})


def batches(
    critic: VoiceCritic,
    corpus: Corpus,
    steps: int,
    rng: np.random.Generator,
    generator: torch.Generator,
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]:
    """Frames, lengths, references, whether they are the person's own, and classes.

    Classes are drawn alike; half of the clips are cut to windows of 1.2 s and more, as readings
    over time are; references are the mean of one to four neutral clips.
    """
    y = corpus.labels
    kinds = [np.flatnonzero(y == k) for k in range(len(CLASSES)) if (y == k).any()]
    for _ in range(steps):
        at = [int(rng.choice(kinds[int(k)])) for k in rng.integers(0, len(kinds), BATCH)]
        frames, bases, flags = [], [], []
        for i in at:
            frames.append(_cut(corpus.rows[i].frames, rng))
            refs = corpus.of_speaker(i)
            own = len(refs) > 0 and rng.random() > ALONE
            flags.append(float(own))
            if own:
                some = rng.choice(refs, min(len(refs), int(rng.integers(1, 5))), replace=False)
                bases.append(torch.as_tensor(corpus.statistics[some].mean(axis=0)))
            else:
                bases.append(critic.usual)
        batch, length = _batch(frames)
        yield batch, length, torch.stack(bases), torch.tensor(flags)[:, None], torch.tensor(y[at])


def _cut(frames: Rows, rng: np.random.Generator) -> Rows:
    x = frames.astype(np.float32)
    shortest = 75  # 1.2 s
    if len(x) <= shortest or rng.random() < 0.5:
        return x[:LONGEST]
    size = int(rng.integers(shortest, len(x) + 1))
    first = int(rng.integers(0, len(x) - size + 1))
    part = x[first : first + size]
    return part[:LONGEST] if part[:, VOICED].sum() >= 10 else x[:LONGEST]


def masked(x: Tensor, rng: np.random.Generator) -> Tensor:
    """Blank some bands and some time (SpecAugment, Park et al. 2019), and tint a little."""
    out = x.clone()
    for row in out:
        width, first = int(rng.integers(0, 8)), int(rng.integers(0, MEL))
        row[first : min(first + width, MEL)] = 0
        width, first = int(rng.integers(0, 12)), int(rng.integers(0, x.shape[2]))
        row[:CHANNELS, first : first + width] = 0
        tint = np.interp(np.arange(MEL), np.linspace(0, MEL, 5), rng.normal(0, 0.1, 5))
        row[:MEL] += torch.as_tensor(tint, dtype=x.dtype)[:, None]
    return out


def fit_critic(
    corpus: Corpus, *, members: int = MEMBERS, epochs: int = EPOCHS, seed: int = 0, say: bool = True
) -> VoiceCritic:
    """Train all networks on the corpus."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        critic = empty_critic(corpus, members)
    for k, member in enumerate(critic.nets):
        loss = train_member(critic, member, corpus, 1000 * seed + k, epochs)
        if say:
            print(f"critic: network {k + 1} of {members}, loss {loss:.3f}", flush=True)
        for absent in set(range(len(CLASSES))) - set(corpus.labels.tolist()):
            with torch.no_grad():  # what nobody has shown it is never its answer
                member.head.weight[absent], member.head.bias[absent] = 0.0, NEVER
    return critic.eval()


def logits_of(critic: VoiceCritic, corpus: Corpus, at: Sequence[int], known: bool) -> Rows:
    """(n, 7) mean logits of whole clips, against their speaker's other neutral clips or alone."""
    out = []
    with torch.no_grad():
        for i in at:
            frames, length = _batch([corpus.rows[i].frames.astype(np.float32)[:1250]])
            base = corpus.base(i, corpus.statistics) if known else np.full(1, np.nan)
            reference = None if np.isnan(base[0]) else torch.as_tensor(base, dtype=torch.float32)
            out.append(critic.logits(frames, length, reference)[0].mean(0)[0].double().numpy())
    return np.array(out)


# Reader ------------------------------------------------------------------------------------------


def fit_reader(corpus: Corpus) -> VoiceReader:
    """Fit both machines in closed form."""
    x, y = corpus.heard, corpus.labels
    bases = np.array([corpus.base(i, x) for i in range(len(x))])
    known = ~np.isnan(bases).any(axis=1)
    alone = Machine.fit(x, y, width=KERNEL, ridge=RIDGE)
    against = Machine.fit((x - bases)[known], y[known], width=KERNEL, ridge=RIDGE)
    mean, whiten, quantiles = domain((x - alone.centre) / alone.spread)
    return VoiceReader(alone, against, mean, whiten, quantiles)


def scores_of(reader: VoiceReader, corpus: Corpus, at: Sequence[int], known: bool) -> Rows:
    """(n, 7) logits as `logits_of`."""
    x = corpus.heard
    out = []
    for i in at:
        base = corpus.base(i, x) if known else np.full(1, np.nan)
        reference = None if np.isnan(base).any() else base
        machine = reader.alone if reference is None else reader.against
        row = x[i : i + 1] - (0 if reference is None else reference)
        out.append(machine.scores(row)[0])
    return np.array(out)


def heated(reader: VoiceReader, alone: float, against: float) -> VoiceReader:
    """The reader with other factors from scores to logits."""
    return VoiceReader(
        replace(reader.alone, heat=alone),
        replace(reader.against, heat=against),
        reader.domain_mean,
        reader.domain_whiten,
        reader.domain_quantiles,
        reader.name,
    )


def temperature(logits: Rows, labels: Rows) -> float:
    """What makes probabilities of left-out speakers fit their labels."""
    return metrics.fit_temperature(logits, np.eye(len(CLASSES))[labels])


# People left out ---------------------------------------------------------------------------------


KINDS = (("alone", False), ("against", True))
Left = tuple[Rows, Rows, list[str]]
"""Logits (n, 7), classes (n,) and whose clips they are."""


def left_out(
    corpus: Corpus, work: Path, members: int, epochs: int
) -> dict[tuple[str, str, int], Left]:
    """Logits of clips by fits without their speaker, for (model, kind, session).

    Sessions 0 (as recorded) and the last one. Each fit is kept under work/left.
    """
    people = sorted({row.clip.speaker for row in corpus.rows if row.clip.dataset == "EmoDB"})
    last = max(row.session for row in corpus.rows)
    out: dict[tuple[str, str, int], list[Left]] = {}
    for person in people:
        path = work / "left" / f"{person}-{members}-{epochs}.npz"
        at = {
            session: [
                i
                for i, row in enumerate(corpus.rows)
                if row.clip.speaker == person and row.session == session
            ]
            for session in (0, last)
        }
        if not path.is_file():
            some = corpus.only(trainable(corpus, [person], ()))
            critic = fit_critic(some, members=members, epochs=epochs, say=False)
            reader = fit_reader(some)
            found = {}
            for kind, known in KINDS:
                for session, rows in at.items():
                    found[f"critic-voice {kind} {session}"] = logits_of(critic, corpus, rows, known)
                    found[f"reader-voice {kind} {session}"] = scores_of(reader, corpus, rows, known)
            with replacing(path) as fresh:
                np.savez(fresh, **found)
            print(f"left out: {person}", flush=True)
        with np.load(path) as kept:
            for key in kept.files:
                name, kind, session = key.split()
                rows = at[int(session)]
                part = (kept[key], corpus.labels[rows], [person] * len(rows))
                out.setdefault((name, kind, int(session)), []).append(part)
    return {
        key: (
            np.concatenate([part[0] for part in parts]),
            np.concatenate([part[1] for part in parts]),
            [who for part in parts for who in part[2]],
        )
        for key, parts in out.items()
    }


def shipped(
    corpus: Corpus, left: Mapping[tuple[str, str, int], Left], seed: int = 0
) -> tuple[VoiceCritic, VoiceReader]:
    """Train on eight people and eight sentences; temperatures from those people left out."""
    some = corpus.only(trainable(corpus, HELD_SPEAKERS, HELD_SENTENCES))
    critic, reader = fit_critic(some, seed=seed), fit_reader(some)
    heat = {}
    for (name, kind, session), (logits, y, who) in left.items():
        if session == 0:
            keep = ~np.isin(who, HELD_SPEAKERS)
            heat[name, kind] = temperature(logits[keep], y[keep])
    _set(critic, "temperature", np.array([heat["critic-voice", kind] for kind, _ in KINDS]))
    reader = heated(reader, *(1 / heat["reader-voice", kind] for kind, _ in KINDS))
    return critic, reader


def measure(
    critic: VoiceCritic,
    reader: VoiceReader,
    corpus: Corpus,
    left: Mapping[tuple[str, str, int], Left],
    data: Path,
) -> dict[str, Any]:
    """All figures of the cards."""
    out: dict[str, Any] = {"left_out": {}, "held_out": {}, "affect": {}}
    for (name, kind, session), (logits, y, who) in sorted(left.items()):
        room = "" if session == 0 else ", other rooms"
        heat = temperature(logits, y)  # of one number for all ten: it cannot choose classes
        p = metrics.softmax(logits, heat)
        out["left_out"][f"{name}, {kind}{room}"] = report.figures(p, y, who)
    parts: dict[str, list[int]] = {"person new": [], "both new": [], "sentence new": []}
    for i, row in enumerate(corpus.rows):
        if row.session == 0 and row.clip.dataset == "EmoDB" and report.held(row.clip):
            parts[report.held(row.clip)].append(i)
    new = sorted(parts["person new"] + parts["both new"])
    y = corpus.labels
    who = [corpus.rows[i].clip.speaker for i in new]
    shares, seen = {}, {}
    for model in (critic, reader):
        for kind, known in KINDS:
            for title, at in (
                ("people 12 and 16", new),
                ("of these, new sentences", parts["both new"]),
                ("known people, new sentences", parts["sentence new"]),
            ):
                if isinstance(model, VoiceCritic):
                    heat = float(model.temperature[int(known)])
                    p = metrics.softmax(logits_of(model, corpus, at, known) / heat)
                else:
                    p = metrics.softmax(scores_of(model, corpus, at, known))
                people = [corpus.rows[i].clip.speaker for i in at]
                key = f"{model.name}, {kind}, {title}"
                out["held_out"][key] = report.figures(p, y[at], people)
                if known and at is new:
                    shares[model.name] = p
        seen[model.name] = readings_of(model, corpus, new)
        out["affect"][model.name] = report.affect_figures(seen[model.name], y[new], who)
    a, b = critic.name, reader.name
    out["pair"] = report.pair_figures(seen[a], seen[b], shares[a], shares[b])
    out["pair"]["gap"] = report.uar(shares[a].argmax(1), y[new]) - report.uar(
        shares[b].argmax(1), y[new]
    )
    every = clips(data)
    out["neutral"] = report.neutral_figures(critic, reader, every, data)
    out["strange"] = report.strange_figures(critic, reader, every, data)
    chosen = [corpus.rows[i].clip for i in new]
    out["windows"] = report.window_figures(critic, reader, chosen, data)
    out["speed"] = report.speed_figures(critic, reader, chosen[0], data)
    return out


def readings_of(
    model: VoiceCritic | VoiceReader, corpus: Corpus, at: Sequence[int]
) -> list[Reading]:
    """Readings of clips against their speakers' other neutral clips."""
    out = []
    for i in at:
        if isinstance(model, VoiceCritic):
            base = corpus.base(i, corpus.statistics).astype(np.float64)
            out += model.read_frames([corpus.rows[i].frames.astype(np.float32)], base)
        else:
            out += model.read_functionals(corpus.rows[i].heard[None], corpus.base(i, corpus.heard))
    return out


# Files -------------------------------------------------------------------------------------------


RECIPE = "python -m training.voice_critic --data DATA --out assets/models"
SOURCE = (
    "EmoDB (Burkhardt et al. 2005, CC0-1.0) without speakers 12 and 16 and sentences a07 and b10, "
    "neutral reading of Kerstin (rhasspy/dataset-voice-kerstin, CC0-1.0)"
)


def publish(
    model: VoiceCritic | VoiceReader, out: Path, found: Mapping[str, Any], extra: str = ""
) -> None:
    """Write weights, figures and card of one model; its row too where `out` is the assets."""
    folder = out / model.name
    if isinstance(model, VoiceCritic):
        model.save_pretrained(folder, safe_serialization=True)
    else:
        model.save(folder)
    text = report.markdown(found, model.name) + extra
    with replacing(folder / "figures.json") as path:
        path.write_text(json.dumps({"digest": model.digest, **found}, indent=1) + "\n")
    card = folder / "README.md"
    old = card.read_text(encoding="utf-8") if card.is_file() else ""
    about, limits = old.split("## Held-out figures")[0], old.partition("## Limits")[2] or "\n"
    with replacing(card) as path:
        path.write_text(f"{about}{text}\n## Limits{limits}", encoding="utf-8")
    if out.resolve() == (ASSETS / "models").resolve():
        update(model.name, licence="Apache-2.0", source=SOURCE, recipe=RECIPE, trained_on="cpu")


def main(arguments: Sequence[str] | None = None) -> int:
    """Fit, measure and write."""
    parser = argparse.ArgumentParser(description="Train and measure the critics of voices.")
    parser.add_argument("--data", type=Path, required=True, help="folder of manifest.csv")
    parser.add_argument("--out", type=Path, default=None, help="write the two models here")
    parser.add_argument("--work", type=Path, default=Path(".work/voice_critic"))
    chosen = parser.parse_args(arguments)
    corpus = gather(chosen.data, chosen.work)
    left = left_out(corpus, chosen.work, MEMBERS, EPOCHS)
    critic, reader = shipped(corpus, left)
    found = measure(critic, reader, corpus, left, chosen.data)
    speaker, found["speaker"] = report.fit_and_measure_speaker(
        usual(clips(chosen.data)), chosen.data
    )
    print(json.dumps(found, indent=1))
    if chosen.out is not None:
        speaker.save(chosen.out / critic.name / "speaker.safetensors")
        publish(critic, chosen.out, found, "\n" + report.speaker_markdown(found["speaker"]))
        publish(reader, chosen.out, found)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
