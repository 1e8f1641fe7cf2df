"""Figures of the critics of voices: people left out, other rooms, other recordings, same person.

Everything is measured on speech that the measured weights have not heard: each of EmoDB's ten
people by fits without that person, the two held-out people by the shipped weights. Intervals are
bootstrapped over clips within people, and where there are ten people over people first: clips of
one voice are not independent. Chance is 1/7 for recall averaged over classes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adapters import metrics
from adapters.emotion import CORE, VAD
from adapters.reading import Reading
from adapters.voice_analysis import RATE, Analysis, VoiceError, analyse
from adapters.voice_critic import VoiceCritic
from adapters.voice_features import Voice, hear
from adapters.voice_reader import VoiceReader
from adapters.voice_reading import CLASSES
from adapters.voice_speaker import Speaker, content_distance, fit_speaker, voice_statistics
from training.voice_critic_data import HELD_SENTENCES, HELD_SPEAKERS, Clip, load, seeded

Rows = np.ndarray
DRAWS = 500
POINTS = np.concatenate([np.zeros((1, 3)), [VAD[CORE.index(name)] for name in CLASSES[1:]]])
"""(7, 3) what the classes stand for in valence, arousal and dominance."""


def uar(said: Rows, actual: Rows) -> float:
    """Recall averaged over the classes that occur."""
    return float(np.mean([(said[actual == k] == k).mean() for k in np.unique(actual)]))


def interval(
    figure: Callable[..., float], people: Sequence[str], *columns: Rows, seed: int = 0
) -> tuple[float, float, float]:
    """figure(*columns) with a 95 % interval: people drawn (if five or more), then their clips."""
    rng = np.random.default_rng(seed)
    names, which = np.unique(people, return_inverse=True)
    rows = [np.flatnonzero(which == k) for k in range(len(names))]
    values = []
    for _ in range(DRAWS):
        chosen = rng.integers(0, len(rows), len(rows)) if len(rows) >= 5 else range(len(rows))
        at = np.concatenate([rng.choice(rows[int(k)], len(rows[int(k)])) for k in chosen])
        values.append(figure(*(column[at] for column in columns)))
    low, high = np.quantile(values, [0.025, 0.975])
    return float(figure(*columns)), float(low), float(high)


def figures(p: Rows, actual: Rows, people: Sequence[str]) -> dict[str, Any]:
    """Figures of class probabilities (n, 7)."""
    said = p.argmax(axis=1)
    confusion = np.zeros((len(CLASSES), len(CLASSES)), dtype=int)
    np.add.at(confusion, (actual, said), 1)
    return {
        "n": len(actual),
        "people": len(set(people)),
        "uar": interval(uar, people, said, actual),
        "accuracy": interval(metrics.accuracy, people, said, actual),
        "macro_f1": metrics.macro_f1(said, actual),
        "ece": metrics.ece(p, actual),
        "by_class": {
            name: float((said[actual == k] == k).mean())
            for k, name in enumerate(CLASSES)
            if (actual == k).any()
        },
        "confusion": confusion.tolist(),
    }


def affect_figures(readings: Sequence[Reading], actual: Rows, people: Sequence[str]) -> Any:
    """Concordance of valence and arousal with what the acted class stands for; intensities."""
    said = np.array([r.vad_mean for r in readings])
    out: dict[str, Any] = {}
    for axis, name in enumerate(("valence", "arousal")):
        out[f"ccc_{name}"] = interval(metrics.ccc, people, said[:, axis], POINTS[actual, axis])
    level = np.array([r.intensities for r in readings])
    own = [level[i, CORE.index(CLASSES[k])] for i, k in enumerate(actual) if k > 0]
    out["intensity_of_acted"] = float(np.mean(own))
    out["strongest_of_neutral"] = float(level[actual == 0].max(axis=1).mean())
    out["abstains"] = float(np.mean([r.abstains for r in readings]))
    return out


def pair_figures(critic: Sequence[Reading], reader: Sequence[Reading], p: Rows, q: Rows) -> Any:
    """How far both agree on the same clips."""
    a, b = (np.array([r.vad_mean for r in readings]) for readings in (critic, reader))
    soft = [np.array([r.probabilities for r in readings]) for readings in (critic, reader)]
    return {
        "n": len(p),
        "same_class": metrics.accuracy(p.argmax(axis=1), q.argmax(axis=1)),
        "r_valence": metrics.pearson(a[:, 0], b[:, 0]),
        "r_arousal": metrics.pearson(a[:, 1], b[:, 1]),
        "jsd": float(metrics.jsd(*soft).mean()),
    }


def prepared(model: VoiceCritic | VoiceReader, clip: Clip, data: Path) -> Analysis | Voice:
    """What a model makes of a clip first, so that several readings do it once."""
    sound = load(clip, data)
    return analyse(sound, RATE) if isinstance(model, VoiceCritic) else hear(sound)


def neutral_figures(
    critic: VoiceCritic, reader: VoiceReader, every: Sequence[Clip], data: Path
) -> dict[str, Any]:
    """Shares of neutral reading that are read as neutral, without and with a reference.

    The reference is two other clips of the person.
    """
    out: dict[str, Any] = {}
    for name in ("LJSpeech", "VCTK", "Kerstin"):
        chosen = [
            c for c in every if c.dataset == name and (name != "Kerstin" or c.split == "test")
        ]
        for model in (critic, reader):
            sounds = [prepared(model, clip, data) for clip in chosen]
            bases = []
            for i, clip in enumerate(chosen):
                same = [j for j, o in enumerate(chosen) if o.speaker == clip.speaker and j != i][:2]
                bases.append(model.reference([sounds[j] for j in same]))
            for kind, refs in (("alone", [None] * len(chosen)), ("against", bases)):
                pairs = list(zip(sounds, refs, strict=True))
                said = np.array([int(model.classes([s], r)[0].argmax()) for s, r in pairs])
                read = [model.read([s], r)[0] for s, r in pairs]
                hits = int((said == 0).sum())
                row = {
                    "n": len(chosen),
                    "neutral": (hits / len(chosen), *metrics.wilson(hits, len(chosen))),
                    "dominant_neutral": float(np.mean([r.dominant == "neutral" for r in read])),
                    "others": {
                        CLASSES[k]: int((said == k).sum()) for k in set(said.tolist()) - {0}
                    },
                }
                out.setdefault(name, {})[f"{model.name} {kind}"] = row
    return out


def strange_figures(
    critic: VoiceCritic, reader: VoiceReader, every: Sequence[Clip], data: Path
) -> list[dict[str, Any]]:
    """What is read in the few emotional clips of other sets; too few for a figure.

    Thorsten's are read against his own neutral clip. CREMA-D's speakers are not known.
    """
    out = []
    clips = [clip for clip in every if clip.dataset in ("Thorsten-Voice", "CREMA-D")]
    base = {
        model.name: model.reference(
            prepared(model, next(c for c in clips if c.path == "thorsten/neutral.flac"), data)
        )
        for model in (critic, reader)
    }
    for clip in clips:
        row: dict[str, Any] = {"clip": clip.path, "acted": clip.emotion}
        for model in (critic, reader):
            known = clip.dataset == "Thorsten-Voice" and clip.target != 0
            sound = prepared(model, clip, data)
            p = model.classes([sound], base[model.name] if known else None)[0]
            seen = model.read([sound], base[model.name] if known else None)[0]
            row[model.name] = f"{CLASSES[int(p.argmax())]} {p.max():.2f}"
            row[f"{model.name} in_domain"] = round(seen.in_domain, 2)
        out.append(row)
    return out


def window_figures(
    critic: VoiceCritic, reader: VoiceReader, chosen: Sequence[Clip], data: Path
) -> dict[str, Any]:
    """Readings over time: the share of 1.5 s windows and of clips (mean) read as acted."""
    out: dict[str, Any] = {}
    for model in (critic, reader):
        right, whole = [], []
        calm = {c.path: prepared(model, c, data) for c in chosen if c.target == 0}
        for clip in chosen:
            same = [c for c in chosen if c.speaker == clip.speaker and c.target == 0 and c != clip]
            base = model.reference([calm[c.path] for c in same[:2]])
            sound = calm[clip.path] if clip.path in calm else prepared(model, clip, data)
            _, found = model.read_over_time(sound, base)
            heard = [r for r in found if r.in_domain > 0]
            if not heard:
                continue
            level = np.array([(0.25, *r.intensities) for r in heard])  # .25: what counts as faint
            wanted = 0 if clip.target == 0 else 1 + CORE.index(clip.emotion)
            right += list(level.argmax(axis=1) == wanted)
            whole.append(int(level.mean(axis=0).argmax()) == wanted)
        out[model.name] = {
            "windows": len(right),
            "windows_right": float(np.mean(right)),
            "clips": len(whole),
            "clips_right": float(np.mean(whole)),
        }
    return out


def equal_error(same: Rows, other: Rows) -> float:
    """Error rate where as many pairs of one person are missed as pairs of two are taken for one."""
    at = np.sort(np.concatenate([same, other]))
    missed = np.searchsorted(np.sort(same), at) / len(same)
    taken = 1 - np.searchsorted(np.sort(other), at) / len(other)
    return float(((missed + taken) / 2)[np.abs(missed - taken).argmin()])


def fit_and_measure_speaker(every: Sequence[Clip], data: Path) -> tuple[Speaker, dict[str, Any]]:
    """Learn what one person is, from EmoDB's eight training people and Kerstin; measure on others.

    Unseen: EmoDB's two held-out people, VCTK's four and LJSpeech's one.
    """
    rows, kept, analyses = [], [], {}
    for clip in every:
        if clip.dataset not in ("EmoDB", "VCTK", "LJSpeech", "Kerstin"):
            continue
        analysis = analyse(load(clip, data), RATE)
        try:
            rows.append(voice_statistics(analysis))
        except VoiceError:
            continue
        kept.append(clip)
        if clip.speaker in HELD_SPEAKERS:
            analyses[clip.path] = analysis
    x = np.array(rows)
    people = np.array([clip.speaker for clip in kept])
    sets = np.array([clip.dataset for clip in kept])
    emotion = np.array([clip.emotion for clip in kept])
    unseen = np.isin(people, HELD_SPEAKERS) | np.isin(sets, ["VCTK", "LJSpeech"])
    mean, whiten = fit_speaker(x[~unseen], people[~unseen].tolist())
    z = (x - mean) @ whiten
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    i, j = np.triu_indices(len(z), 1)
    cosine = (z @ z.T)[i, j]
    one, two = people[i] == people[j], unseen[i] & unseen[j]
    seen = ~unseen[i] & ~unseen[j]
    acted = (sets[i] == "EmoDB") & (sets[j] == "EmoDB")
    moods = emotion[i] != emotion[j]
    same, repeated, unrelated = [], [], []
    clips = [clip for clip in kept if clip.path in analyses]
    rng = seeded("content")
    for first in clips:
        for second in clips:
            if first.path >= second.path or rng.random() > 0.25:
                continue
            if first.speaker != second.speaker:
                continue
            away = content_distance(analyses[first.path], analyses[second.path])
            (repeated if first.sentence == second.sentence else unrelated).append(away)
            same.append(first.sentence == second.sentence)
    quantiles = np.linspace(0, 1, 101)
    speaker = Speaker(
        mean,
        whiten,
        np.quantile(cosine[one & two & acted], quantiles),
        np.quantile(cosine[~one & two], quantiles),
        np.array([np.mean(unrelated)]),
        np.array([np.mean(repeated)]),
    )

    def middle(mask: Rows) -> list[float]:
        return [float(v) for v in np.quantile(cosine[mask], [0.05, 0.5, 0.95])]

    found = {
        "people_learned": len(set(people[~unseen].tolist())),
        "people_unseen": len(set(people[unseen].tolist())),
        "eer_unseen": equal_error(cosine[two & one], cosine[two & ~one]),
        "eer_unseen_emodb": equal_error(cosine[two & one & acted], cosine[two & ~one & acted]),
        "eer_unseen_neutral_sets": equal_error(
            cosine[two & one & ~acted], cosine[two & ~one & ~acted]
        ),
        "eer_learned": equal_error(cosine[seen & one], cosine[seen & ~one]),
        "same_person_same_mood": middle(two & one & acted & ~moods),
        "same_person_other_mood": middle(two & one & acted & moods),
        "same_person_reading": middle(two & one & ~acted),
        "other_person": middle(two & ~one),
        "pairs_unseen": int(two.sum()),
        "content_repeated": float(np.mean(repeated)),
        "content_unrelated": float(np.mean(unrelated)),
        "content_eer": equal_error(-np.array(repeated), -np.array(unrelated)),
        "content_pairs": len(same),
    }
    return speaker, found


def speed_figures(critic: VoiceCritic, reader: VoiceReader, clip: Clip, data: Path) -> Any:
    """Processor seconds per second of speech on one core."""
    sound = load(clip, data)
    seconds, out = len(sound) / RATE, {}
    with torch.no_grad():
        for name, call in (
            ("analysis", lambda: analyse(sound, RATE)),
            ("critic-voice", lambda: critic.read([sound])),
            ("reader-voice", lambda: reader.read([sound])),
        ):
            call()
            begin = time.process_time()
            call()
            out[name] = (time.process_time() - begin) / seconds
    return out


def held(clip: Clip) -> str:
    """Which part of the shipped weights' test a clip of EmoDB belongs to; empty: trained on."""
    if clip.speaker in HELD_SPEAKERS:
        return "both new" if clip.sentence in HELD_SENTENCES else "person new"
    return "sentence new" if clip.sentence in HELD_SENTENCES else ""


# Words -------------------------------------------------------------------------------------------


def _cell(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return f"{value[0]:.2f} [{value[1]:.2f}, {value[2]:.2f}]"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def table(rows: Mapping[str, Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    """Markdown table of figures: columns maps a key to its title."""
    lines = ["| | " + " | ".join(columns.values()) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, row in rows.items():
        lines.append(f"| {name} | " + " | ".join(_cell(row.get(k, "-")) for k in columns) + " |")
    return "\n".join(lines)


MAIN = {"n": "clips", "people": "people", "uar": "UAR", "accuracy": "accuracy", "ece": "ECE"}


def confusion_table(row: Mapping[str, Any]) -> str:
    """Markdown: acted rows, read columns, counts."""
    lines = ["| acted \\ read | " + " | ".join(CLASSES) + " |", "|---" * (len(CLASSES) + 1) + "|"]
    for name, counts in zip(CLASSES, row["confusion"], strict=True):
        lines.append(f"| {name} | " + " | ".join(map(str, counts)) + " |")
    return "\n".join(lines)


def markdown(found: Mapping[str, Any], name: str) -> str:
    """The report of one of the two for its model card."""
    left = {key: row for key, row in found["left_out"].items() if key.startswith(name)}
    new = {key: row for key, row in found["held_out"].items() if key.startswith(name)}
    affect, pair = found["affect"][name], found["pair"]
    calm = "\n".join(
        f"* {title}: "
        + "; ".join(
            f"{kind.split()[-1]} {_cell(row['neutral'])}"
            for kind, row in rows.items()
            if kind.startswith(name)
        )
        + f" (n = {next(iter(rows.values()))['n']})"
        for title, rows in found["neutral"].items()
    )
    strange = "\n".join(
        f"| {row['clip']} | {row['acted']} | {row[name]} | {row[name + ' in_domain']:.2f} |"
        for row in found["strange"]
    )
    over, speed = found["windows"][name], found["speed"]
    main = next(row for key, row in left.items() if "against" in key and "rooms" not in key)
    return f"""## Held-out figures

UAR: recall averaged over the seven classes; chance {1 / 7:.2f}. "against": with the person's other
neutral clips as reference; "alone": without. 95 % intervals over people, then clips.

Each of EmoDB's ten people by a fit without that person ("other rooms": in a made-up recording
session with echo, colour, noise and band limit):

{table(left, MAIN)}

The shipped weights on what they never heard (people 12 and 16; sentences a07 and b10):

{table(new, MAIN)}

Confusion of the ten fits, against a reference:

{confusion_table(main)}

* Valence and arousal against what the acted class stands for: CCC {_cell(affect["ccc_valence"])}
  and {_cell(affect["ccc_arousal"])}. Mean intensity of the acted emotion
  {affect["intensity_of_acted"]:.2f}, strongest intensity of neutral clips
  {affect["strongest_of_neutral"]:.2f} (people 12 and 16, against).
* Windows of 1.5 s: {over["windows_right"]:.2f} of {over["windows"]} read as acted, their mean over
  a clip {over["clips_right"]:.2f} of {over["clips"]}.
* Critic and reader on the same clips (people 12 and 16): same class {pair["same_class"]:.2f}, r of
  valence {pair["r_valence"]:.2f}, of arousal {pair["r_arousal"]:.2f}, JSD {pair["jsd"]:.2f} bits;
  the critic's UAR is {pair["gap"]:+.2f} beside the reader's (n = {pair["n"]}).
* Processor seconds a second of speech on one core: {speed[name]:.3f}.

Neutral reading of other people and rooms, read as neutral:

{calm}

The few clips of other sets (too few for a figure):

| clip | acted | read | in_domain |
|---|---|---|---|
{strange}
"""


def speaker_markdown(row: Mapping[str, Any]) -> str:
    """The report of the two meters of `adapters.voice_speaker`."""

    def three(key: str) -> str:
        low, mid, high = row[key]
        return f"{mid:.2f} [{low:.2f}, {high:.2f}]"

    return f"""## Same person, same words

`speaker.safetensors` holds the whitening of `adapters/voice_speaker.py`, learned from
{row["people_learned"]} people; measured on {row["people_unseen"]} others ({row["pairs_unseen"]}
pairs). Cosine, median [5 %, 95 %]: one person in one mood {three("same_person_same_mood")}, in two
moods {three("same_person_other_mood")}, reading {three("same_person_reading")}; two people
{three("other_person")}. Equal error rate {row["eer_unseen"]:.2f} over all, with acted moods
{row["eer_unseen_emodb"]:.2f}, of neutral reading {row["eer_unseen_neutral_sets"]:.2f} (within one
recording, so the microphone helps).

Words: distance of aligned sounds {row["content_repeated"]:.2f} between two takes of one sentence by
one person in any mood, {row["content_unrelated"]:.2f} between other sentences; equal error rate
{row["content_eer"]:.2f} ({row["content_pairs"]} pairs).
"""
