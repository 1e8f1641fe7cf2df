"""Figures of portrait-tiny on clips that decided nothing: lips, closures, emotion, speed.

    python -m training.portrait_report --model assets/models/portrait-tiny --out .work/portrait

Lips: correlation and lag of jawOpen, of every channel that the recording moves, speed against the
recording's, how often lips that met in the recording meet, and how often they meet where they were
open. Emotion: rank correlation of intensity and what is drawn, per emotion, in silence and in
speech. Intervals are of a bootstrap over stretches of five seconds. It deliberately does not read
emotions from motion or pixels: critics do.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from adapters import facs
from adapters.emotion import CORE
from adapters.face_motion import ARKIT, MOUTH
from pipelines.media_sound import load_sound
from pipelines.portrait_model import PortraitPipeline, Sampling
from pipelines.portrait_motion import MotionSettings, plan
from pipelines.portrait_sound import BANDS, PARTS, PROSODY, hear
from training.portrait_data import HELD_CLIPS, Clip, prepared, split

Floats = NDArray[np.float64]

FPS = 30
STRETCH = 150  # frames of a stretch of the bootstrap
CLOSED, OPENED = 0.02, 0.06  # lip gaps, distances between the eyes
NEAR = 2  # frames by which a closure may be early or late


def correlation(a: Floats, b: Floats) -> float:
    """Pearson's r; 0 where one of them does not move."""
    if a.std() < 1e-6 or b.std() < 1e-6:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def lag(truth: Floats, made: Floats, most: int = 15) -> int:
    """Frames by which `made` comes later than `truth`, where they are most alike."""
    scores = {
        shift: correlation(
            truth[max(0, -shift) : len(truth) - max(0, shift)],
            made[max(0, shift) : len(made) - max(0, -shift)],
        )
        for shift in range(-most, most + 1)
    }
    return max(scores, key=lambda shift: scores[shift])


def closures(gap: Floats) -> list[int]:
    """Frames at the middle of closed lips between openings within a quarter of a second."""
    shut = gap < CLOSED
    edges = np.flatnonzero(np.diff(np.concatenate([[0], shut.astype(np.int8), [0]])))
    found = []
    for first, last in edges.reshape(-1, 2).tolist():
        before, after = gap[max(0, first - 8) : first], gap[last : last + 8]
        if last - first <= 12 and before.max(initial=0) > OPENED and after.max(initial=0) > OPENED:
            found.append((first + last - 1) // 2)
    return found


def closure_figures(truth: Floats, made: Floats) -> dict[str, float]:
    """recall of the truth's closures, false: share of clearly open frames that are shut."""
    wanted = closures(truth)
    met = [made[max(0, k - NEAR) : k + NEAR + 1].min() < CLOSED for k in wanted]
    wide = truth > 0.1
    return {
        "closures": float(len(wanted)),
        "recall": float(np.mean(met)) if met else float("nan"),
        "false": float((made[wide] < CLOSED).mean()) if wide.any() else 0.0,
    }


def interval(
    figure: Callable[[Floats, Floats], float], truth: Floats, made: Floats, times: int = 400
) -> tuple[float, float]:
    """95 % of a figure over stretches drawn again and again."""
    rng = np.random.default_rng(0)
    starts = np.arange(0, len(truth) - STRETCH + 1, STRETCH)
    found = []
    for _ in range(times):
        chosen = rng.choice(starts, len(starts))
        at = (chosen[:, None] + np.arange(STRETCH)).reshape(-1)
        found.append(figure(truth[at], made[at]))
    low, high = np.quantile(found, (0.025, 0.975))
    return round(float(low), 3), round(float(high), 3)


def make(
    pipe: PortraitPipeline,
    waveform: NDArray[np.float32] | None,
    seconds: float,
    *,
    track: Floats | None = None,
    seed: int = 0,
    sampling: Sampling | None = None,
    closing: float = 1.0,
) -> tuple[Floats, Floats]:
    """(T, 52) curves and (T, 3) pose without blinks and glances."""
    motion = plan(
        waveform,
        np.zeros(len(CORE)) if track is None else track,
        seconds=seconds,
        model=pipe,
        generator=torch.Generator().manual_seed(seed),
        head=1.0,
        blink=0.0,
        gaze=0.0,
        settings=MotionSettings(sampling=sampling or Sampling(), closures=closing),
    )
    return motion.curves.astype(np.float64), motion.pose.astype(np.float64)


def lip_figures(
    pipe: PortraitPipeline,
    clip: Clip,
    waveform: NDArray[np.float32],
    seeds: Sequence[int] = (0, 1, 2),
    sampling: Sampling | None = None,
) -> dict[str, object]:
    """Everything about lips on one clip; figures are means over the seeds."""
    truth = (clip.mouth if clip.mouth is not None else np.zeros((0, 52))).astype(np.float64)
    made = []
    began = time.perf_counter()
    for seed in seeds:
        made.append(make(pipe, waveform, len(truth) / FPS, seed=seed, sampling=sampling)[0])
    seconds = (time.perf_counter() - began) / len(seeds)
    open_ = [make(pipe, waveform, len(truth) / FPS, seed=seeds[0], closing=0.0)[0]]
    live = [k for k in MOUTH if truth[:, k].std() > 0.01]
    jaw = ARKIT.index("jawOpen")
    gap = facs.lip_gap(truth)
    gaps = [facs.lip_gap(curves) for curves in made]
    shut = [closure_figures(gap, own) for own in gaps]
    before = [closure_figures(gap, facs.lip_gap(curves)) for curves in open_]
    return {
        "clip": clip.name,
        "frames": len(truth),
        "jaw_r": round(float(np.mean([correlation(truth[:, jaw], m[:, jaw]) for m in made])), 3),
        "jaw_r_95": interval(correlation, truth[:, jaw], made[0][:, jaw]),
        "lag_frames": [lag(truth[:, jaw], m[:, jaw]) for m in made],
        "gap_r": round(float(np.mean([correlation(gap, own) for own in gaps])), 3),
        "gap_error": round(float(np.mean([np.abs(gap - own).mean() for own in gaps])), 4),
        "channel_r": {
            ARKIT[k]: round(float(np.mean([correlation(truth[:, k], m[:, k]) for m in made])), 3)
            for k in live
        },
        "speed_ratio": {
            ARKIT[k]: round(
                float(np.mean([np.diff(m[:, k]).std() for m in made]) / np.diff(truth[:, k]).std()),
                3,
            )
            for k in live
        },
        "closures": {key: round(float(np.mean([s[key] for s in shut])), 3) for key in shut[0]},
        "closures_without_guard": {key: round(value, 3) for key, value in before[0].items()},
        "seeds_jaw_r": round(correlation(made[0][:, jaw], made[-1][:, jaw]), 3),
        "real_time_factor": round(seconds / (len(truth) / FPS), 4),
    }


def level_figures(
    pipe: PortraitPipeline, waveform: NDArray[np.float32], gap: Floats | None = None
) -> dict[str, float]:
    """How the lips follow the level of a voice: r, lag in frames. gap: of a recording instead.

    Where no mouth was recorded this is what can be told; recordings of FACEGOOD have .62 to .79.
    """
    heard = hear(waveform)
    loud = heard.features[:, PARTS * BANDS + PROSODY.index("level")].astype(np.float64)
    if gap is None:
        gap = facs.lip_gap(make(pipe, waveform, len(heard) / FPS)[0])
    count = min(len(loud), len(gap))
    loud, gap = loud[:count], gap[:count]
    return {"r": round(correlation(loud, gap), 3), "lag_frames": float(lag(loud, gap))}


def ranks(values: Floats) -> Floats:
    """Places in order, 0 first; equal values are not expected."""
    return np.argsort(np.argsort(values)).astype(np.float64)


def emotion_figures(
    pipe: PortraitPipeline, waveform: NDArray[np.float32] | None, seconds: float
) -> dict[str, float]:
    """Rank correlation of intensity (0 to 1 in five steps, two seeds) and what is drawn of it."""
    out = {}
    levels = np.linspace(0.1, 1.0, 5)
    for k, name in enumerate(CORE):
        face = facs.expression(facs.named(name)[None])[0][0]
        drawn = []
        for seed in (0, 1):
            for level in levels:
                curves = make(pipe, waveform, seconds, track=level * np.eye(12)[k], seed=seed)[0]
                drawn.append(float((curves @ face).mean() / (face @ face)))
        both = [correlation(ranks(levels), ranks(np.array(drawn[i : i + 5]))) for i in (0, 5)]
        out[name] = round(float(np.mean(both)), 3)
    return out


def report(pipe: PortraitPipeline, clips: Sequence[Clip], data: Path) -> dict[str, object]:
    """All figures. data: folder of the recordings."""
    held = split(clips)[2]
    waves = {
        name: load_sound(next(data.glob(f"*/{name}.flac")), 16000).waveform.mean(axis=0)
        for name in HELD_CLIPS
    }
    others = {
        path.stem: load_sound(path, 16000).waveform.mean(axis=0)
        for path in sorted(data.glob("a2f_audio/*.flac"))
    }
    return {
        "lips": [lip_figures(pipe, clip, waves[clip.name]) for clip in held],
        "level_recorded": {
            clip.name: level_figures(pipe, waves[clip.name], facs.lip_gap(clip.mouth))
            for clip in held
        },
        "level_of_other_voices": {name: level_figures(pipe, wave) for name, wave in others.items()},
        "emotion_in_silence": emotion_figures(pipe, None, 4.0),
        "emotion_in_speech": emotion_figures(pipe, waves[HELD_CLIPS[1]][: 16000 * 6], 6.0),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Print the figures as JSON and write them to --out."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--model", type=Path, default=Path("assets/models/portrait-tiny"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path(".work/portrait"))
    parser.add_argument("--out", type=Path, help="file for the figures")
    given = parser.parse_args(argv)
    torch.set_flush_denormal(True)
    found = report(PortraitPipeline.load(given.model), prepared(given.work, given.data), given.data)
    text = json.dumps(found, indent=1)
    print(text)
    if given.out is not None:
        given.out.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
