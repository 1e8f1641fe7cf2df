"""Report: do conversions by voice-tiny do what was asked, heard by a reader that had no part in it?

    python -m training.voice_evaluate --data DATA --out FOLDER [--model assets/models/voice-tiny]

The neutral clips of the two people whom nothing was trained on (EmoDB 12 and 16) are converted to
the six emotions that real actors recorded, at six intensities, by `VoicePipeline.edit` and
`pipelines.voice_render.render`, and listened to on the RENDERED sound:

* cues (adapters.voice_cues), whose expected signs are those of adapters.voice_expected;
* the independent reader, against the person's other neutral clips and alone; the critic beside it,
  which never reports alone, and which alone may choose among takes;
* real acted clips of the same people, the mean change alone, intensity 0, and other emotions than
  the one asked for, as what to compare with;
* level, harmonics to noise, peaks, clicks, PESQ (where the package `pesq` is installed);
* whether it is still the person, beside real takes of one person and of two; and still the words;
* people and languages never seen: VCTK's p226 and LJSpeech; seconds of one processor.

EmoDB's takes fill the full scale, where no level can rise: conversions start from them 12 dB lower,
as recordings with headroom do, and the loudest emotions are read once more from full scale. Each
stage is kept in the folder and not made again. Figures: training.voice_evaluate_report.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adapters.assets import ASSETS
from adapters.emotion import CORE
from adapters.files import replacing
from adapters.reading import soft_score
from adapters.voice_analysis import RATE, Analysis, analyse
from adapters.voice_critic import VoiceCritic, load_voice_critic
from adapters.voice_cues import cues
from adapters.voice_edit import VoiceEdit
from adapters.voice_features import Voice, hear
from adapters.voice_reader import VoiceReader
from adapters.voice_speaker import content_distance, shipped
from pipelines.voice_follow import followed, goal_of, level_of
from pipelines.voice_model import MEASURED, Sampling, VoicePipeline
from pipelines.voice_render import PEAK, render
from training.voice_critic_data import HELD_SPEAKERS, Clip, clips, load
from training.voice_evaluate_report import markdown, summary

Rows = np.ndarray

LEVELS = (0.2, 0.4, 0.6, 0.8, 1.0)
SEEDS = (0, 1)
HEADROOM = 0.25  # -12 dB
UNSEEN = {"VCTK": "p226", "LJSpeech": ""}
MOST_UNSEEN = 5  # clips of each
CLICK = 12.0  # times the usual second difference around it


@dataclass(frozen=True)
class Take:
    """A recording and what all listeners made of it once."""

    clip: Clip
    sound: Rows
    analysis: Analysis
    heard: Voice

    @classmethod
    def of(cls, clip: Clip, sound: Rows) -> Take:
        """Listen to a waveform (n,) at 16 kHz."""
        return cls(clip, sound, analyse(sound, RATE), hear(sound))


@dataclass(frozen=True)
class Panel:
    """Who listens, and neutral takes of each person."""

    critic: VoiceCritic
    reader: VoiceReader
    neutral: Mapping[str, Sequence[Take]]

    def read(self, take: Take) -> dict[str, Any]:
        """Class probabilities and intensities by both, against the person's other neutral clips."""
        others = [one for one in self.neutral[take.clip.speaker] if one.clip.path != take.clip.path]
        found: dict[str, Any] = {}
        for name, model in (("critic", self.critic), ("reader", self.reader)):
            items = [_item(model, take)]
            base = model.reference([_item(model, one) for one in others])
            found[name] = model.classes(items, base)[0].tolist()
            found[f"{name}_alone"] = model.classes(items)[0].tolist()
            reading = model.read(items, base)[0]
            found[f"{name}_intensities"] = list(reading.intensities)
            if name == "critic":
                found["scores"] = [float(soft_score(reading, label)) for label in _labels()]
        return found


def _item(model: VoiceCritic | VoiceReader, take: Take) -> Any:
    return take.analysis if isinstance(model, VoiceCritic) else take.heard


def _labels() -> Rows:
    """(12, 13) soft labels of each core emotion at intensity 1."""
    return np.eye(13)[1:]


# Making ------------------------------------------------------------------------------------------


def change(
    pipe: VoicePipeline, take: Take, emotion: str, level: float, seed: int, settings: Sampling
) -> VoiceEdit:
    """What is to be rendered for one emotion at one intensity."""
    track = np.zeros(len(CORE))
    track[CORE.index(emotion)] = level
    generator = torch.Generator().manual_seed(seed)
    return pipe.edit(take.analysis, track, generator=generator, settings=settings)


def edited(take: Take, edit: VoiceEdit) -> Take:
    """The take of a given edit, under the name of its source."""
    return Take.of(take.clip, render(take.sound, RATE, take.analysis, edit))


def plain(take: Take) -> Take:
    """A take that went through the renderer without any change."""
    return edited(take, VoiceEdit.identity(len(take.analysis)))


def converted(
    pipe: VoicePipeline,
    take: Take,
    emotion: str,
    level: float,
    seed: int,
    settings: Sampling | None = None,
) -> tuple[Take, VoiceEdit]:
    """The rendered take, under the name of its source, and the edit that was rendered."""
    settings = settings or Sampling()
    edit = change(pipe, take, emotion, level, seed, settings)
    track = np.zeros((len(take.analysis), len(CORE)))
    track[:, CORE.index(emotion)] = level
    goal = goal_of(track, pipe.directions.gain, dict.fromkeys(settings.locks, 0.0))

    def rendered(edit: VoiceEdit) -> tuple[np.ndarray, Analysis]:
        sound = render(take.sound, RATE, take.analysis, edit, seed=seed)
        return sound, analyse(sound, RATE)

    edit, sound, _ = followed(rendered, take.analysis, edit, goal)
    return Take.of(take.clip, sound), edit


def measure(source: Take, made: Take, edit: VoiceEdit | None) -> dict[str, Any]:
    """What can be measured of a conversion without knowing any emotion."""
    speaker = shipped()
    return {
        "cues": {name: _number(x) for name, x in cues(made.analysis).items()},
        "level_db": made.analysis.level - source.analysis.level,
        "asked_db": 0.0 if edit is None else level_of(source.analysis, edit),
        "peak": float(np.abs(made.sound).max()),
        "clicks": clicks(made.sound) / max(len(made.sound) / RATE, 0.1),
        "similarity": speaker.similarity(source.analysis, made.analysis),
        "content": content_distance(source.analysis, made.analysis),
        "seconds": len(made.sound) / RATE,
    }


def _number(x: float) -> float | None:
    return None if np.isnan(x) else x


def clicks(sound: Rows) -> int:
    """Milliseconds whose second difference is far above what is usual within 20 ms around."""
    x = np.abs(np.diff(sound.astype(np.float64), 2))
    step = RATE // 1000
    highest = x[: len(x) // step * step].reshape(-1, step).max(axis=1)
    around = np.lib.stride_tricks.sliding_window_view(np.pad(highest, 10, mode="edge"), 21)
    usual = np.median(around, axis=1) + 1e-4
    return int((highest > CLICK * usual).sum())


# What is asked -----------------------------------------------------------------------------------


def ladder(panel: Panel, pipe: VoicePipeline, takes: Sequence[Take]) -> Iterator[dict[str, Any]]:
    """Six emotions at all intensities, at full intensity with more seeds; and intensity 0."""
    for take in takes:
        yield row(panel, take, plain(take), None)
        for emotion in MEASURED:
            for level in LEVELS:
                for seed in SEEDS if level == LEVELS[-1] else SEEDS[:1]:
                    made, edit = converted(pipe, take, emotion, level, seed)
                    yield row(panel, take, made, edit, emotion, level, seed)


def variants(panel: Panel, pipe: VoicePipeline, takes: Sequence[Take]) -> Iterator[dict[str, Any]]:
    """At intensity 1: the mean change alone, and with the level locked."""
    settings = {"mean": Sampling(variation=0.0), "locked": Sampling(locks=("level",))}
    for way, setting in settings.items():
        for take in takes:
            for emotion in MEASURED:
                made, edit = converted(pipe, take, emotion, 1.0, 0, setting)
                yield row(panel, take, made, edit, emotion, 1.0, 0, way)


def full_scale(
    panel: Panel, pipe: VoicePipeline, takes: Sequence[Take]
) -> Iterator[dict[str, Any]]:
    """From takes whose peaks leave no room, as EmoDB's do."""
    for take in takes:
        loud = Take.of(take.clip, take.sound / np.abs(take.sound).max() * np.float32(PEAK))
        for emotion in MEASURED:
            made, edit = converted(pipe, loud, emotion, 1.0, 0)
            yield row(panel, loud, made, edit, emotion, 1.0, 0, "full scale")


def real(panel: Panel, takes: Sequence[Take]) -> Iterator[dict[str, Any]]:
    """What the same people acted, and their neutral clips."""
    for take in takes:
        base = panel.neutral[take.clip.speaker]
        other = next(one for one in base if one.clip.path != take.clip.path)
        yield row(panel, other, take, None, take.clip.emotion, 1.0, 0, "real")


def row(
    panel: Panel,
    source: Take,
    made: Take,
    edit: VoiceEdit | None,
    emotion: str = "neutral",
    level: float = 0.0,
    seed: int = 0,
    way: str = "model",
) -> dict[str, Any]:
    """Everything that the report needs of one take, as plain numbers."""
    # Of another recording than the source: one microphone at one moment is part of a voice.
    others = [o for o in panel.neutral[made.clip.speaker] if o.clip.path != made.clip.path]
    speaker = shipped()
    other = [speaker.similarity(one.analysis, made.analysis) for one in others]
    return {
        "clip": made.clip.path,
        "person": made.clip.speaker,
        "emotion": emotion,
        "level": level,
        "seed": seed,
        "way": way,
        "before": {name: _number(x) for name, x in cues(source.analysis).items()},
        "clicks_before": clicks(source.sound) / max(len(source.sound) / RATE, 0.1),
        "similarity_others": float(np.mean(other)),
        **panel.read(made),
        **measure(source, made, edit),
    }


def people(takes: Sequence[Take]) -> list[float]:
    """Similarities of takes of different people."""
    speaker = shipped()
    return [
        speaker.similarity(a.analysis, b.analysis)
        for i, a in enumerate(takes)
        for b in takes[i + 1 :]
        if a.clip.speaker != b.clip.speaker
    ]


def words(takes: Sequence[Take]) -> dict[str, list[float]]:
    """Content distances of repeated and of unrelated sentences by one person."""
    found: dict[str, list[float]] = {"repeated": [], "unrelated": []}
    for i, a in enumerate(takes):
        for b in takes[i + 1 :]:
            if a.clip.speaker == b.clip.speaker:
                kind = "repeated" if a.clip.sentence == b.clip.sentence else "unrelated"
                found[kind].append(content_distance(a.analysis, b.analysis))
    return found


def pesq_of(takes: Sequence[Take]) -> dict[str, list[float]] | None:
    """Wide-band PESQ against the source: intensity 0, overlap-add in place, and up and back."""
    try:
        from pesq import pesq
    except ImportError:
        return None
    back = "four semitones up and back"
    found: dict[str, list[float]] = {"intensity 0": [], "overlap-add in place": [], back: []}
    for take in takes:
        frames = len(take.analysis)
        up = edited(take, VoiceEdit.constant(frames, semitones=4))
        down = render(up.sound, RATE, up.analysis, VoiceEdit.constant(frames, semitones=-4))
        found[back].append(float(pesq(RATE, take.sound, down, "wb")))
        for name, edit in (
            ("intensity 0", VoiceEdit.identity(frames)),
            ("overlap-add in place", VoiceEdit.constant(frames, semitones=1e-3)),
        ):
            made = render(take.sound, RATE, take.analysis, edit)
            found[name].append(float(pesq(RATE, take.sound, made, "wb")))
    return found


def speed(panel: Panel, pipe: VoicePipeline, takes: Sequence[Take]) -> dict[str, Any]:
    """Processor seconds a second of speech on one core, of a clip and of ten seconds."""
    short = takes[0]
    joined = np.concatenate([take.sound for take in takes])[: 10 * RATE]
    found: dict[str, Any] = {}
    for name, take in (("clip", short), ("ten seconds", Take.of(short.clip, joined))):
        length = len(take.sound) / RATE
        made, edit = converted(pipe, take, "anger", 1.0, 0)
        steps: dict[str, Callable[[], object]] = {
            "analysis": lambda take=take: analyse(take.sound, RATE),
            "sampling": lambda take=take: change(pipe, take, "anger", 1.0, 1, Sampling()),
            "rendering": lambda take=take, edit=edit: render(take.sound, RATE, take.analysis, edit),
            "whole": lambda take=take: converted(pipe, take, "anger", 1.0, 1),
            "critic": lambda made=made: panel.critic.read([made.sound]),
            "reader": lambda made=made: panel.reader.read([made.sound]),
        }
        found[name] = {"seconds": length}
        for step, call in steps.items():
            found[name][step] = min(_seconds(call) for _ in range(3)) / length
    return found


def _seconds(call: Callable[[], object]) -> float:
    begin = time.process_time()
    call()
    return time.process_time() - begin


# Running -----------------------------------------------------------------------------------------


def kept(path: Path, make: Callable[[], Any], tell: Callable[[str], None] = print) -> Any:
    """What a stage found, made once."""
    if not path.is_file():
        begin = time.monotonic()
        found = make()
        with replacing(path) as fresh:
            Path(fresh).write_text(json.dumps(found), encoding="utf-8")
        tell(f"{path.stem}: {time.monotonic() - begin:.0f} s")
    return json.loads(path.read_text(encoding="utf-8"))


def gather(data: Path, chosen: Callable[[Clip], bool], gain: float = HEADROOM) -> list[Take]:
    """Clips of the manifest that are wanted, turned down to leave headroom."""
    return [
        Take.of(clip, (load(clip, data) * gain).astype(np.float32))
        for clip in clips(data)
        if chosen(clip)
    ]


def by_person(takes: Sequence[Take]) -> dict[str, list[Take]]:
    """Neutral takes of each person."""
    found: dict[str, list[Take]] = {}
    for take in takes:
        if take.clip.emotion == "neutral":
            found.setdefault(take.clip.speaker, []).append(take)
    return found


def evaluate(
    model: Path, data: Path, out: Path, tell: Callable[[str], None] = print
) -> dict[str, Any]:
    """All stages; returns the figures and writes them beside the rows."""
    out.mkdir(parents=True, exist_ok=True)
    pipe = VoicePipeline.load(model)
    critic, reader = load_voice_critic("critic-voice"), load_voice_critic("reader-voice")
    if not (isinstance(critic, VoiceCritic) and isinstance(reader, VoiceReader)):
        msg = "critics: assets/models do not hold critic-voice and reader-voice; restore them"
        raise ValueError(msg)
    held = gather(data, lambda clip: clip.speaker in HELD_SPEAKERS)
    panel = Panel(critic, reader, by_person(held))
    calm = [take for take in held if take.clip.emotion == "neutral"]
    rows = {
        "ladder": kept(out / "ladder.json", lambda: list(ladder(panel, pipe, calm)), tell),
        "variants": kept(out / "variants.json", lambda: list(variants(panel, pipe, calm)), tell),
        "full": kept(out / "full.json", lambda: list(full_scale(panel, pipe, calm)), tell),
        "real": kept(out / "real.json", lambda: list(real(panel, held)), tell),
    }
    unseen: list[Take] = []
    for dataset, who in UNSEEN.items():
        unseen += gather(
            data,
            lambda c, d=dataset, w=who: c.dataset == d and w in c.speaker,  # type: ignore[misc]
        )[:MOST_UNSEEN]
    strangers = Panel(critic, reader, by_person(unseen))
    rows["unseen"] = kept(
        out / "unseen.json", lambda: list(asked_once(strangers, pipe, unseen)), tell
    )
    rows |= {
        "people": kept(out / "people.json", lambda: people(held), tell),
        "words": kept(out / "words.json", lambda: words(held), tell),
        "pesq": kept(out / "pesq.json", lambda: pesq_of(calm), tell),
        "speed": kept(out / "speed.json", lambda: speed(panel, pipe, calm), tell),
    }
    found = summary(rows)
    with replacing(out / "figures.json") as fresh:
        Path(fresh).write_text(json.dumps(found, indent=1), encoding="utf-8")
    with replacing(out / "report.md") as fresh:
        Path(fresh).write_text(markdown(found), encoding="utf-8")
    return found


def asked_once(
    panel: Panel, pipe: VoicePipeline, takes: Sequence[Take]
) -> Iterator[dict[str, Any]]:
    """Intensity 0, and each emotion at intensity 1, once."""
    for take in takes:
        yield row(panel, take, plain(take), None)
        for emotion in MEASURED:
            made, edit = converted(pipe, take, emotion, 1.0, 0)
            yield row(panel, take, made, edit, emotion, 1.0)


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate a model, print the report."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of manifest.csv")
    parser.add_argument("--model", type=Path, default=ASSETS / "models" / "voice-tiny")
    parser.add_argument("--out", type=Path, default=Path(".work/voice/evaluation"))
    given = parser.parse_args(argv)
    torch.set_flush_denormal(True)
    print(markdown(evaluate(given.model, given.data, given.out)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
