"""Seconds of every stage of a 30-second piece. Run by hand:

    python tests/bench/bench_music.py [threads] [backbone]

Wall time, and core time, which does not suffer from other work on the machine. The contract is 10
seconds for one piece with its sound on two cores, 2 GB of memory, and 30 ms for the attributes of
three minutes of music.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from adapters.emotion import Emotion
from adapters.music_attributes import measure, measure_bars
from adapters.music_critic import load_music_critic
from adapters.musicality import musicality
from pipelines.media_midi import decode_midi, encode_midi
from pipelines.music_performance import perform
from pipelines.piano import render
from training.music_evaluate import Ask, Studio, constant


def timed(name: str, work: Callable[[], Any], rounds: int = 1) -> Any:
    """Print wall and core seconds of one round, return what the last one found."""
    wall, core = time.perf_counter(), time.process_time()
    for _ in range(rounds):
        found = work()
    wall, core = time.perf_counter() - wall, time.process_time() - core
    print(f"{name:<36}{1000 * wall / rounds:9.1f} ms{1000 * core / rounds:9.1f} ms of a core")
    return found


def main() -> None:
    """Print one line a stage and the most memory used."""
    torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
    backbone = sys.argv[2] if len(sys.argv) > 2 else "music-tiny"
    studio = timed("load the composer", lambda: Studio.open(backbone))
    emotion = constant(Emotion.of("sadness", 0.8))
    for count in (1, 4, 16):
        wanted = [studio.composition(Ask("bench", emotion, seed), 0) for seed in range(count)]
        pages = timed(
            f"compose {count} x 30 s", lambda wanted=wanted: studio.composer.compose(wanted)
        )
    page, targets = pages[0], wanted[0].targets
    played = timed("perform", lambda: perform(page, targets, 7), 5)
    sound = timed("render, new notes", lambda: render(played, seconds=30.0))
    timed("render, known notes", lambda: render(played, seconds=30.0))
    for name, item in (("critic-music", played), ("reader-music", sound)):
        reader = load_music_critic(name)
        timed(f"{name}, read", lambda reader=reader, item=item: reader.read([item]), 3)
        timed(f"{name}, over time", lambda reader=reader, item=item: reader.read_over_time(item))
    long = page
    while long.seconds < 180:
        long = long.then(page)
    rng = np.random.default_rng(0)
    long = perform(long, np.tile(targets[0], (long.bars, 1)), int(rng.integers(9)))
    print(f"three minutes: {len(long)} notes")
    timed("attributes", lambda: measure(long), 10)
    timed("attributes by bar", lambda: measure_bars(long), 10)
    timed("musicality", lambda: musicality(long), 3)
    data = timed("write MIDI", lambda: encode_midi(long, {}), 3)
    timed("read MIDI", lambda: decode_midi(data), 3)
    print(f"most memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main()
