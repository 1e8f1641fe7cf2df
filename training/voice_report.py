"""What voice-tiny has learned, on people and sentences it never saw: figures with intervals.

    python -m training.voice_report --model assets/models/voice-tiny

* the share of squared differences to real takes that is left beyond the mean change alone;
* how the changed pitch and level contours agree with the real emotional take of the same person and
  sentence, for the neutral take as it is, for the mean change (rules), and for the model;
* Spearman's correlation of intensity with each cue of the change, signed by the direction asked.

It deliberately does not render: everything is read off the changes. Sounds are judged elsewhere.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from adapters.emotion import CORE
from adapters.metrics import bootstrap, pearson, spearman
from adapters.voice_emotion import (
    BAND,
    BREATH,
    ENERGY,
    SEMITONES,
    STRETCH,
    VoiceDirections,
)
from pipelines.voice_frames import Voice, voice_of
from pipelines.voice_model import HEADS, MEASURED, Sampling, VoiceDenoiser, VoicePipeline
from training.voice import Row, collated, expected, make_row, make_rows, remaining, whole
from training.voice_data import HELD_SPEAKERS, Clip, Pair, clarity, prepared

Floats = NDArray[np.float64]

LEVELS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
CUES: Mapping[str, float] = {
    "pitch": 0.3,
    "range": 0.03,
    "tilt": 0.5,
    "level": 0.5,
    "rate": 0.03,
    "breath": 0.5,
}
"""Cues of a change, and how much an emotion must ask of one at intensity 1 to be held to it:
semitones, factor - 1, dB, dB, logarithm of the duration, dB."""
WAYS = ("source", "mean change", "expected", "sample")


def figure(values: Sequence[float]) -> dict[str, object]:
    """Mean, 95 % interval of the mean over the given units, and their number."""
    low, high = bootstrap(lambda x: float(np.mean(x)), np.asarray(values))
    return {
        "mean": round(float(np.mean(values)), 3),
        "interval": [round(low, 3), round(high, 3)],
        "n": len(values),
    }


def squares_left(pipe: VoicePipeline, rows: Sequence[Row]) -> dict[str, object]:
    """For each group of columns: squares beyond the model's expectation over those beyond mu.

    Intervals are over cells of person and sentence.
    """
    out: dict[str, object] = {}
    groups = {
        "semitones": ("prosody", slice(0, 1)),
        "level": ("prosody", slice(1, 2)),
        "stretch": ("prosody", slice(2, 3)),
        "bands": ("timbre", slice(0, 24)),
        "breath": ("timbre", slice(24, 25)),
    }
    found = {name: remaining(getattr(pipe, name), HEADS[name], rows) for name in HEADS}
    cells = sorted({row.cell for row in rows})
    place = np.array([cells.index(row.cell) for row in rows])
    for name, (head, columns) in groups.items():
        sums = found[head][:, columns].sum(axis=1)
        ratios = [
            float(sums[place == k, 0].sum() / max(sums[place == k, 1].sum(), 1e-9))
            for k in range(len(cells))
        ]
        out[name] = figure(ratios)
    return out


def agreement(
    pipe: VoicePipeline,
    pairs: Sequence[Pair],
    strength: Mapping[str, float],
    settings: Sampling,
    takes: int = 3,
) -> dict[str, dict[str, object]]:
    """Correlation of contours with the real take's, and distance of pitch without its mean.

    Read along the alignment, where both are voiced (pitch) or speak (level). "sample" is the mean
    over `takes` seeds of each one's figure.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for index, pair in enumerate(pairs):
        row = make_row(pair, directions_of(pipe), strength)
        ways = changes(pipe, row, voice_of(pair.source), settings, takes, index)
        for name, column, contour in (
            ("pitch", SEMITONES, pair.source.semitones),
            ("level", ENERGY, pair.source.energy.astype(np.float64)),
        ):
            at = pair.known[:, column]
            real = (contour + pair.values[:, column])[at]
            for way, edits in ways.items():
                made = [(contour + edit[:, column])[at] for edit in edits]
                kept = found.setdefault(name, {}).setdefault(way, [])
                kept.append(float(np.mean([pearson(one, real) for one in made])))
                off = [float(np.std(one - real)) for one in made]
                found.setdefault(f"{name} rms", {}).setdefault(way, []).append(float(np.mean(off)))
    return {
        name: {way: figure(values) for way, values in ways.items()} for name, ways in found.items()
    }


def changes(
    pipe: VoicePipeline, row: Row, voice: Voice, settings: Sampling, takes: int, seed: int
) -> dict[str, list[Floats]]:
    """The WAYS of changing one recording: (T, 28) each, several for "sample"."""
    length = float(np.linalg.norm(row.track))
    mean = row.prior.astype(np.float64) * length
    batch = collated([whole(row)])
    rest = np.zeros_like(mean)
    for name, columns in HEADS.items():
        model: VoiceDenoiser = getattr(pipe, name)
        y = expected(model, columns, batch)[0] * model.spread
        rest[:, columns] = y.double().numpy()
    samples = [
        pipe.sample(
            voice,
            row.track.astype(np.float64),
            generator=torch.Generator().manual_seed(1000 * seed + take),
            settings=settings,
        )
        for take in range(takes)
    ]
    return {
        "source": [np.zeros_like(mean)],
        "mean change": [mean],
        "expected": [mean + length * rest],
        "sample": samples,
    }


def cues_of(edit: Floats, voice: Voice) -> dict[str, float]:
    """The CUES of a change (T, 28) of a recording."""
    tone, said = voice.features[:, 1] > 0, voice.features[:, 2] > 0
    pitch = voice.contour[tone, 0]
    low = np.arange(24) < 8  # of the 24 bands, those below 1 kHz
    bands = edit[said][:, BAND].mean(axis=0)
    return {
        "pitch": float(edit[tone, SEMITONES].mean()),
        "range": float(np.std(pitch + edit[tone, SEMITONES]) / max(np.std(pitch), 1e-6) - 1.0),
        "tilt": float(bands[~low].mean() - bands[low].mean()),
        "level": float(edit[said, ENERGY].mean()),
        "rate": float(np.log(np.exp(edit[voice.inside, STRETCH]).mean())),
        "breath": float(edit[tone, BREATH].mean()),
    }


def dose(
    pipe: VoicePipeline, clips: Sequence[Clip], settings: Sampling, emotions: Sequence[str] = CORE
) -> dict[str, dict[str, object]]:
    """Spearman of LEVELS with each cue, signed by what the mean change asks; units are clips.

    Cues an emotion does not ask for (see CUES) are not held against it.
    """
    by_cue: dict[str, list[float]] = {name: [] for name in CUES}
    by_clip: list[float] = []
    for index, clip in enumerate(clips):
        voice = voice_of(clip)
        of_clip = []
        for name in emotions:
            unit = np.zeros(len(CORE))
            unit[CORE.index(name)] = 1.0
            frames = np.repeat(unit[None], len(clip), axis=0)
            asked = cues_of(pipe.mean_change(voice, frames, np.zeros((len(clip), 3))), voice)
            ladder = [
                cues_of(
                    pipe.sample(
                        voice,
                        level * unit,
                        generator=torch.Generator().manual_seed(index),
                        settings=settings,
                    ),
                    voice,
                )
                for level in LEVELS
            ]
            for cue, least in CUES.items():
                if abs(asked[cue]) >= least:
                    rho = spearman(LEVELS, [step[cue] for step in ladder]) * np.sign(asked[cue])
                    by_cue[cue].append(rho)
                    of_clip.append(rho)
        by_clip.append(float(np.mean(of_clip)))
    return {
        "all": figure(by_clip),
        **{name: figure(values) for name, values in by_cue.items() if values},
    }


def directions_of(pipe: VoicePipeline) -> VoiceDirections:
    """The directions that the model was trained around."""
    if pipe.directions is None:
        msg = "report: the model has no directions; load it with VoicePipeline.load"
        raise ValueError(msg)
    return pipe.directions


def report(
    pipe: VoicePipeline,
    pairs: Sequence[Pair],
    settings: Sampling,
    tell: Callable[[str], None] = print,
) -> dict[str, object]:
    """All figures, on the people who were held out."""
    strength = clarity(pairs, directions_of(pipe))
    _, sentences, people = make_rows(pairs, directions_of(pipe))
    own = [p for p in pairs if p.source.speaker in HELD_SPEAKERS]
    to = [p for p in own if p.source.emotion == "neutral" != p.target.emotion]
    neutral = {p.source.name: p.source for p in to}
    out: dict[str, object] = {
        "left of squares, people": squares_left(pipe, [r for r in people if r.kind == "to"]),
        "left of squares, sentences": squares_left(pipe, [r for r in sentences if r.kind == "to"]),
        "agreement with the real take": agreement(pipe, to, strength, settings),
        "signed Spearman": dose(pipe, list(neutral.values()), settings),
        "signed Spearman, measured": dose(pipe, list(neutral.values()), settings, MEASURED),
    }
    for name, rows in out.items():
        tell(f"{name}: {json.dumps(rows)}")
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Print the figures and write them as JSON where asked."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path(".work/voice"))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--variation", type=float, default=1.0)
    given = parser.parse_args(argv)
    _, pairs = prepared(given.work, given.data)
    figures = report(VoicePipeline.load(given.model), pairs, Sampling(variation=given.variation))
    if given.out:
        given.out.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
