"""Milliseconds to measure a piece of three minutes. Run by hand:

    python tests/bench/bench_music_attributes.py [rounds]

The contract is 30 ms for the attributes of the piece, of its bars and the features together.
Processor time, for on a busy machine the wall clock tells of other programs.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from adapters.music_attributes import features, measure, measure_bars
from adapters.piece import Piece

TARGET = 30.0


def main() -> None:
    """Print the best of several rounds for each, and their sum."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    rng = np.random.default_rng(0)
    notes = 1500
    piece = Piece.of(
        np.round(rng.uniform(0, 360, notes) * 4) / 4,
        rng.uniform(0.2, 2, notes),
        rng.integers(36, 84, notes),
        rng.integers(30, 100, notes),
        rng.integers(0, 2, notes),
        pedal=[(4 * bar, 4 * bar + 3.5) for bar in range(90)],
    )
    total = 0.0
    for work in (measure, measure_bars, features):
        spent = milliseconds(work, piece, rounds)
        total += spent
        print(f"{work.__name__}: {spent:.1f} ms")
    print(f"together: {total:.1f} ms for {len(piece)} notes, {piece.seconds:.0f} s (<= {TARGET:g})")


def milliseconds(work: Callable[[Piece], object], piece: Piece, rounds: int) -> float:
    """Best of `rounds` calls."""
    best = float("inf")
    for _ in range(rounds):
        start = time.process_time()
        work(piece)
        best = min(best, time.process_time() - start)
    return 1000 * best


if __name__ == "__main__":
    main()
