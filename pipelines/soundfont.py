"""Play a SoundFont (.sf2) with a synthesiser library, where one is installed.

tinysoundfont, or pyfluidsynth with its C library; neither is needed by anything else, so neither
is a dependency. symusic's synthesiser is not used: 0.6 cannot render at all, 0.5 renders wrong
pitches. It knows no piece and no pedal: notes come with the samples at which they start and stop.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Waveform = NDArray[np.float32]
Indices = NDArray[np.int64]
Keys = NDArray[np.int16]


class SoundfontError(ValueError):
    """A file or a library that is not there; one line, with what to do next."""


def play(
    path: Path,
    start: Indices,
    stop: Indices,
    pitch: Keys,
    velocity: Keys,
    samples: int,
    rate: int,
) -> Waveform:
    """Preset 0 of an .sf2 file as float32 (2, samples); not limited, not faded.

    start, stop: (n,) samples. The pedal must be in `stop`: tinysoundfont 0.3 ignores the pedal
    controller. pitch, velocity: (n,) 0..127.

    Raises:
        SoundfontError: no such file, a damaged one, or no library that plays it.
    """
    if not path.is_file():
        msg = f"soundfont: no file {path.name}; give the path of an .sf2 file"
        raise SoundfontError(msg)
    events = []
    for on, off, key, loud in zip(start, stop, pitch, velocity, strict=True):
        events += [(int(on), 1, int(key), int(loud)), (int(off), 0, int(key), 0)]
    events.sort()  # a key goes up before it goes down again
    synth, take = _synthesiser(path, rate)
    out = np.zeros((2, samples), dtype=np.float32)
    now = 0
    for at, down, key, loud in [*events, (samples, 0, 0, 0)]:
        while now < min(at, samples):
            count = min(at, samples, now + rate) - now
            out[:, now : now + count] = take(count)
            now += count
        if now >= samples:
            break
        if down:
            synth.noteon(0, key, loud)
        else:
            synth.noteoff(0, key)
    return out


def _synthesiser(path: Path, rate: int) -> tuple[Any, Callable[[int], Waveform]]:
    """A synthesiser with the file's first preset on channel 0, and how to take samples from it."""
    try:
        if importlib.util.find_spec("tinysoundfont") is not None:
            library = importlib.import_module("tinysoundfont")
            synth = library.Synth(gain=6, samplerate=rate)
            synth.program_select(0, synth.sfload(str(path)), 0, 0)

            def tiny(count: int) -> Waveform:
                block = np.frombuffer(synth.generate_simple(count), dtype=np.float32)
                return block.reshape(-1, 2).T

            return synth, tiny
        if importlib.util.find_spec("fluidsynth") is not None:
            library = importlib.import_module("fluidsynth")  # ImportError without its C library
            synth = library.Synth(gain=0.6, samplerate=float(rate))
            font = synth.sfload(str(path))
            if font < 0:  # its C library returns -1 where others raise
                msg = "not a SoundFont"
                raise SoundfontError(msg)
            synth.program_select(0, font, 0, 0)

            def fluid(count: int) -> Waveform:
                block = np.asarray(synth.get_samples(count), dtype=np.float32)
                return block.reshape(-1, 2).T / 32768.0

            return synth, fluid
    except Exception as error:  # each library raises its own kinds for damaged files
        msg = f"soundfont: {path.name} cannot be played ({error}); leave it out for the own piano"
        raise SoundfontError(" ".join(msg.split())) from error
    msg = (
        "soundfont: needs tinysoundfont or pyfluidsynth; `pip install --no-deps tinysoundfont`, "
        "or leave it out for the own piano"
    )
    raise SoundfontError(msg)
