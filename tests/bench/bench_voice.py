"""Processor seconds a second of voice: pitch, analysis, rendering. Run by hand:

    python tests/bench/bench_voice.py [seconds] [sample rate]

The contract is .05 for the pitch and .15 for analysis and rendering together, on one core.
Processor time, for on a busy machine the wall clock tells of other programs.
"""

from __future__ import annotations

import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from adapters import f0
from adapters.voice_analysis import RATE, analyse, at_rate
from adapters.voice_edit import VoiceEdit
from pipelines import psola
from pipelines.voice_render import render
from tests import speech


def main() -> None:
    """Print one line a part, and the highest memory of a render in copies of the sound."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 20.0
    rate = int(sys.argv[2]) if len(sys.argv) > 2 else 16000
    one = 0.5 * speech.sentence(rate)
    x = np.tile(one, max(1, round(seconds * rate / len(one))))
    analysis, low = analyse(x, rate), at_rate(x, rate)
    frames = len(analysis)
    colour = np.linspace(-5, 5, 24)
    everything = VoiceEdit.constant(
        frames, semitones=5, log_stretch=0.18, bands=colour, breath=5, energy_db=-2, tremor=0.2
    )
    parts: dict[str, Callable[[], object]] = {
        "pitch": lambda: f0.track(low),
        "analysis": lambda: analyse(x, rate),
        "marks": lambda: psola.pitch_marks(low, analysis.contour),
        "pitch and time": lambda: render(
            x, rate, analysis, VoiceEdit.constant(frames, semitones=5, log_stretch=0.18)
        ),
        "colour": lambda: render(x, rate, analysis, VoiceEdit.constant(frames, bands=colour)),
        "everything": lambda: render(x, rate, analysis, everything),
    }
    print(f"{len(x) / rate:.0f} s at {rate} Hz, analysed at {RATE} Hz")
    for name, part in parts.items():
        part()
        busy = time.process_time()
        part()
        print(f"{name}: {(time.process_time() - busy) / (len(x) / rate):.4f} of real time")
    tracemalloc.start()
    render(x, rate, analysis, everything)
    print(f"memory: {tracemalloc.get_traced_memory()[1] / x.nbytes:.1f} copies of the sound")


if __name__ == "__main__":
    main()
