"""Seconds and memory of the own piano. Run by hand:

    python tests/bench/bench_piano.py

The contract is 30 s of music (300 notes, 45 keys) in 1.5 s cold on one core, three minutes within
500 MB.
"""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from adapters.piece import Piece
from pipelines import piano, piano_room, piano_strings


def music(seconds: float) -> Piece:
    """Ten notes a second on 45 keys, the pedal down for nearly all of it; 120 beats a minute."""
    random = np.random.default_rng(0)
    count = round(10 * seconds)
    return Piece.of(
        np.sort(random.uniform(0, 2 * seconds - 2, count)),
        random.uniform(0.25, 2.0, count),
        random.integers(36, 81, count),
        random.integers(30, 110, count),
        pedal=[(4 * i + 0.5, 4 * i + 4.3) for i in range(int(seconds // 2) - 1)],
    )


def main() -> None:
    """Print one line for each length."""
    for seconds in (30.0, 180.0, 600.0):
        piece = music(seconds)
        for cached in (
            piano_strings.strings_of,
            piano._knock,
            piano_room._room_response,
            piano_room._room_spectrum,
            piano_room._haze_response,
        ):
            cached.cache_clear()
        start, cpu = time.perf_counter(), time.process_time()
        sound = piano.render(piece, seconds=seconds)
        wall, busy = time.perf_counter() - start, time.process_time() - cpu
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            f"{seconds:.0f} s, {len(piece)} notes: {wall:.2f} s ({busy:.2f} core seconds), "
            f"{seconds / wall:.0f} times real time, peak {np.abs(sound).max():.2f}, {peak:.0f} MB"
        )


if __name__ == "__main__":
    main()
