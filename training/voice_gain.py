"""How much stronger a voice has to be moved for an intensity to be heard as it was asked.

    python -m training.voice_gain --data DATA --model assets/models/voice-tiny

A recording that is moved keeps some of its neutrality, whatever the sizes of the changes say. Each
recorded emotion gets the factor at which conversions of neutral takes, asked for intensity 1, lie
as far along the critic's scale as intensity 1 stands for (EmoDB's takes count as 1.3): between 1
and 1.3, so that nothing is moved farther than actors went. Measured with `critic-voice` on the
people that the weights were trained on; the independent reader and the held-out people decide
nothing. Emotions without recordings keep 1.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from adapters.assets import ASSETS
from adapters.emotion import CORE
from adapters.voice_analysis import RATE, Analysis, analyse
from adapters.voice_critic import VoiceCritic, _batch, frames_of, load_voice_critic, statistics
from adapters.voice_reading import ACTED, CLASSES
from pipelines.manifest import update
from pipelines.voice_model import DIRECTIONS, MEASURED, Sampling, VoicePipeline
from pipelines.voice_render import render
from training.voice_critic_data import HELD_SENTENCES, HELD_SPEAKERS, clips, load, seeded

Rows = np.ndarray

MOST = ACTED
"""The largest factor."""
STEPS = (1.0, 1.3)
"""Factors that are tried."""
HEADROOM = 0.25  # EmoDB's takes fill the full scale
MORE = 9  # clips beside those of the held-out sentences


def statistics_of(analysis: Analysis) -> Rows:
    """(99,) what the critic sums a take up to."""
    with torch.no_grad():
        return np.asarray(statistics(*_batch([frames_of(analysis)]))[0].double().numpy())


def solve(factors: Sequence[float], heard: Sequence[float], wanted: float) -> float:
    """Factor in 1..MOST at which the line through (factors, heard) is at `wanted`."""
    slope, start = np.polyfit(factors, heard, 1)
    if slope <= 0:
        return 1.0
    return float(np.clip((wanted - start) / slope, 1.0, MOST))


def measure(
    pipe: VoicePipeline, critic: VoiceCritic, takes: Sequence[tuple[Rows, Rows]]
) -> dict[str, list[float]]:
    """Emotion -> mean distance along the critic's scale at each of STEPS.

    takes: waveform at 16 kHz, and the statistics of other neutral takes of the person.
    """
    scale = critic.scale(True)
    analyses = [analyse(sound, RATE) for sound, _ in takes]
    found: dict[str, list[float]] = {}
    for emotion in MEASURED:
        for step in STEPS:
            track = np.zeros(len(CORE))
            track[CORE.index(emotion)] = step
            far = []
            for seed, ((sound, base), analysis) in enumerate(zip(takes, analyses, strict=True)):
                generator = torch.Generator().manual_seed(seed)
                edit = pipe.edit(analysis, track, generator=generator, settings=Sampling())
                made = analyse(render(sound, RATE, analysis, edit, seed=seed), RATE)
                far.append(scale.amplitudes(statistics_of(made) - base)[0])
            place = CLASSES.index(emotion) - 1
            found.setdefault(emotion, []).append(float(np.mean(far, axis=0)[place]))
    return found


def neutral_takes(data: Path) -> list[tuple[Rows, Rows]]:
    """Neutral takes of the training people: all of the held-out sentences, and `MORE` others."""
    calm = [
        clip
        for clip in clips(data)
        if clip.dataset == "EmoDB" and clip.target == 0 and clip.speaker not in HELD_SPEAKERS
    ]
    sounds = {c.path: (load(c, data) * HEADROOM).astype(np.float32) for c in calm}
    rows = {path: statistics_of(analyse(sound, RATE)) for path, sound in sounds.items()}
    new = [clip for clip in calm if clip.sentence in HELD_SENTENCES]
    known = [clip for clip in calm if clip.sentence not in HELD_SENTENCES]
    order = seeded("gain").permutation(len(known))[:MORE]
    found = []
    for clip in [*new, *(known[int(k)] for k in order)]:
        others = [rows[o.path] for o in calm if o.speaker == clip.speaker and o is not clip]
        found.append((sounds[clip.path], np.mean(others, axis=0)))
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the factors and write them into the model's directions."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of manifest.csv")
    parser.add_argument("--model", type=Path, default=ASSETS / "models" / "voice-tiny")
    given = parser.parse_args(argv)
    pipe, critic = VoicePipeline.load(given.model), load_voice_critic("critic-voice")
    if pipe.directions is None or not isinstance(critic, VoiceCritic):
        msg = "critic-voice: not a critic; restore assets/models from version control"
        raise ValueError(msg)
    plain = replace(pipe.directions, gain=np.ones(len(CORE)))
    pipe.directions = plain
    heard = measure(pipe, critic, neutral_takes(given.data))
    gain = np.ones(len(CORE))
    for emotion, distances in heard.items():
        gain[CORE.index(emotion)] = round(solve(STEPS, distances, 1 / ACTED), 2)
    replace(plain, gain=gain).save(given.model / DIRECTIONS)
    if given.model.resolve() == (ASSETS / "models" / "voice-tiny").resolve():
        update("voice-tiny")
    print(json.dumps({"heard": heard, "gain": dict(zip(CORE, gain.tolist(), strict=True))}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
