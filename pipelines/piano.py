"""A piano made of sums of decaying partials: a Piece in, a stereo waveform out.

Every note is synthesised for its own pitch, velocity and length. A complex exponential sampled on a
grid is a product of one factor a block and one factor a sample within the block, so a whole note is
one matrix product, exact to single precision. The same piece gives the same samples.

It knows no emotion and writes no file; velocities and pedal say everything. It is a modest
upright in a small room, not a sampled grand: no key noise, no half pedal. Its strings are in
`pipelines.piano_strings`, its room in `pipelines.piano_room`; a SoundFont can be played instead.

Sources: hammer and string, Askenfelt & Jansson 1990-93; dampers and knock, Fletcher & Rossing, "The
Physics of Musical Instruments", chapter 12.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adapters.piece import Piece
from pipelines import soundfont as soundfonts
from pipelines.piano_room import add_room, limit, pedal_curve, room_power
from pipelines.piano_strings import (
    BLOCK,
    FLOOR,
    Strings,
    audibility,
    decay_time,
    powers,
    strings_of,
)

Waveform = NDArray[np.float32]
Floats = NDArray[np.float64]

SAMPLE_RATE = 44_100
#: Longest rendering: the waveform of an hour is 1.3 GB.
LONGEST_SECONDS = 3600.0
#: Level of one full-velocity note: ten of them reach the limiter but do not flatten in it.
FULL_SCALE = 0.08
#: Exponent of velocity: with 1.12 level rises 18 dB from velocity 20 to 127, as played grands do.
VELOCITY_EXPONENT = 1.12
#: Dampers end near F6; the strings above ring on (Fletcher & Rossing 12.1).
LAST_DAMPED = 89


class PianoError(ValueError):
    """A rendering that cannot be made; one line, with what to do next."""


def render(
    piece: Piece,
    sample_rate: int = SAMPLE_RATE,
    seconds: float | None = None,
    brightness: float = 0.5,
    soundfont: Path | str | None = None,
) -> Waveform:
    """Play a piece: float32 (2, samples), left and right, within -.98 .. .98.

    Onsets are exact to the sample, velocities set loudness (about 18 dB from 20 to 127) and colour,
    notes ring while key or pedal hold them.

    Args:
        piece: notes, tempo map and pedal.
        sample_rate: samples a second, 8,000 to 192,000.
        seconds: exactly `round(seconds * sample_rate)` samples, the last of them faded out; None
            for all bars and the natural end of the sound.
        brightness: 0 felt, .5 as built, 1 hard hammers. Not used with a soundfont.
        soundfont: an .sf2 file to play instead, through tinysoundfont or pyfluidsynth.

    Raises:
        PianoError: a number out of range, a soundfont that is not there or that nothing can play.
    """
    if not 8_000 <= sample_rate <= 192_000:
        msg = f"sample_rate: 8000 to 192000, received {sample_rate}; 44100 is usual"
        raise PianoError(msg)
    if not 0.0 <= brightness <= 1.0:
        msg = f"brightness: 0 (dull) to 1 (hard), received {brightness:g}; .5 is the plain piano"
        raise PianoError(msg)
    length = piece.seconds if seconds is None else float(seconds)
    if not 0.0 < length <= LONGEST_SECONDS:
        msg = f"seconds: above 0 and at most {LONGEST_SECONDS:g}, received {length:g}; cut it"
        raise PianoError(msg)
    start = np.round(piece.seconds_at(piece.onset) * sample_rate).astype(np.int64)
    stop = np.round(piece.seconds_at(piece.onset + piece.sounding()) * sample_rate).astype(np.int64)
    stop = np.maximum(stop, start + 1)
    if seconds is None:
        last = int(stop.max()) + round(_RINGING * sample_rate) if len(piece) else 0
        samples = max(round(length * sample_rate), last)
    else:
        samples = round(length * sample_rate)
    if soundfont is not None:
        path = Path(soundfont)
        keys = (piece.pitch, piece.velocity)
        try:
            out = soundfonts.play(path, start, stop, *keys, samples, sample_rate)
        except soundfonts.SoundfontError as error:
            raise PianoError(str(error)) from error
    else:
        out = np.zeros((2, samples), dtype=np.float32)
        for pitch in np.unique(piece.pitch[start < samples]):
            rows = np.flatnonzero((piece.pitch == pitch) & (start < samples))
            velocity = piece.velocity[rows].astype(np.float64)
            _play_pitch(out, int(pitch), velocity, start[rows], stop[rows], sample_rate, brightness)
        pedal = pedal_curve(piece, samples, sample_rate) if len(piece.pedal) else None
        add_room(out, pedal, sample_rate)
    limit(out, sample_rate)
    # A given length may end inside the music: the fade is then a musical one, at most a second.
    fade = min(samples, round(sample_rate * (0.08 if seconds is None else min(1.0, length / 8))))
    if fade:
        out[:, samples - fade :] *= 0.5 + 0.5 * np.cos(
            np.linspace(0, np.pi, fade, dtype=np.float32)
        )
    return out


#: Seconds of release and room kept after the last string is damped.
_RINGING = 1.6


def _spectrum(
    strings: Strings, heard: Floats, pitch: int, velocity: float, brightness: float
) -> Floats:
    """Amplitudes (c,) of all components for one stroke. heard: (c,) audibility, as power.

    The felt is a spring that hardens: contact shortens with velocity, so the low pass it is moves
    up (Askenfelt & Jansson). What a stroke loses in colour it does not lose in level: that is set
    by velocity alone, as A-weighted power, a little lower in the bass, whose peaks are high.
    """
    cutoff = 900.0 * 2 ** ((pitch - 60) / 30) * (velocity / 72.0) ** 0.85
    cutoff *= 4.0 ** (2 * brightness - 1)
    amplitude = strings.amplitude / (1 + (strings.frequency / cutoff) ** 2)
    level = np.sqrt(np.sum(heard * amplitude**2))
    # Low notes last and high ones do not: makers and players even that out in the stroke.
    tilt = np.interp(pitch, [21, 40, 58, 72, 84, 96], [-7.5, -3.0, 0.0, 1.5, 4.0, 5.0])
    stroke = (velocity / 127.0) ** VELOCITY_EXPONENT * 10 ** (tilt / 20)
    return np.asarray(amplitude * stroke / max(level, 1e-12))


def _play_pitch(
    out: Waveform,
    pitch: int,
    velocity: Floats,
    start: NDArray[np.int64],
    stop: NDArray[np.int64],
    rate: int,
    brightness: float,
) -> None:
    """Add all notes of one key to `out` (2, samples), in place."""
    strings = strings_of(pitch, rate)
    if not len(strings.frequency):
        return
    ring = _release(pitch, rate)
    heard = audibility(strings.frequency) * room_power(strings.frequency, rate)
    pole = (-strings.decay + 2j * np.pi * strings.frequency) / rate
    inside = powers(pole, BLOCK, 1)  # (c, BLOCK)
    sides = [inside * np.exp(1j * phase)[:, None] * g for phase, g in _sides(strings)]
    # Real part of a product of complex numbers, as a product of real rows: (2c, 2 BLOCK).
    basis = np.empty((2 * len(pole), 2 * BLOCK), dtype=np.float32)
    for side, factor in enumerate(sides):
        columns = slice(side * BLOCK, (side + 1) * BLOCK)
        basis[0::2, columns] = factor.real
        basis[1::2, columns] = -factor.imag

    loudest = _spectrum(strings, heard, pitch, 127.0, brightness)
    alive = np.log(np.maximum(loudest / (FLOOR * loudest.max()), 1e-9)) / strings.decay * rate
    longest = min(int(alive.max()) + 1, int((stop - start).max()) + len(ring))
    blocks = -(-longest // BLOCK)
    cuts = [0, *(c for c in (12, 40, 90, 180, 360, 720, 1440, 2880) if c < blocks), blocks]
    parts = []
    for first, last in pairwise(cuts):
        still = np.flatnonzero(alive > first * BLOCK)
        count = int(still[-1]) + 1 if len(still) else 0
        if not count:
            break
        factor = powers(pole[:count], last - first, BLOCK, first).T  # (blocks, c)
        parts.append((first, last, np.ascontiguousarray(factor).view(np.float32)))

    rise = _attack(pitch, rate)
    knock = _knock(pitch, rate)
    for row in range(len(start)):
        gains = FULL_SCALE * _spectrum(strings, heard, pitch, float(velocity[row]), brightness)
        scaled = basis * np.repeat(gains, 2).astype(np.float32)[:, None]
        held = int(stop[row] - start[row])
        need = min(held + len(ring), out.shape[1] - int(start[row]))
        note = np.zeros((2, -(-need // BLOCK) * BLOCK), dtype=np.float32)
        for first, last, factor in parts:
            last = min(last, note.shape[1] // BLOCK)
            if last <= first:
                break
            sound = factor[: last - first] @ scaled[: factor.shape[1]]
            sound = sound.reshape(last - first, 2, BLOCK).transpose(1, 0, 2)
            note[:, first * BLOCK : last * BLOCK] = sound.reshape(2, -1)
        note = note[:, :need]
        note[:, : len(rise)] *= rise[: note.shape[1]]
        if held < need:
            note[:, held:] *= ring[: need - held]
        at = int(start[row])
        out[:, at : at + need] += note
        # The knock grows faster than the tone: hard playing is noisier.
        blow = FULL_SCALE * (float(velocity[row]) / 127.0) ** 1.5
        tail = min(knock.shape[1], out.shape[1] - at)
        out[:, at : at + tail] += np.float32(blow) * knock[:, :tail]


def _sides(strings: Strings) -> list[tuple[Floats, np.float64]]:
    """(phase (c,), gain) of the left and of the right."""
    return [(strings.phase[side], strings.gain[side]) for side in (0, 1)]


def _attack(pitch: int, rate: int) -> Waveform:
    """Rise of the tone: the hammer leaves the string after 5 ms in the bass, 1 ms at the top."""
    seconds = float(np.interp(pitch, [21, 60, 108], [0.006, 0.003, 0.0012]))
    t = np.arange(max(2, round(seconds * rate)), dtype=np.float32)
    return np.asarray(0.5 - 0.5 * np.cos(np.pi * t / len(t)), dtype=np.float32)


def _release(pitch: int, rate: int) -> Waveform:
    """What the damper leaves, from the sample at which it falls: 1 to exactly 0, no corner.

    60 dB in .5 s at the bottom and .18 s at the top of the damped keys; undamped keys above.
    """
    if pitch > LAST_DAMPED:
        free = np.ones(round(1.2 * decay_time(pitch) * rate))
        last = len(free) // 3
        free[-last:] = 0.5 + 0.5 * np.cos(np.linspace(0, np.pi, last))
        return free.astype(np.float32)
    seconds = float(np.interp(pitch, [21, 48, 72, 89], [0.60, 0.40, 0.24, 0.18]))
    t = np.arange(round(1.1 * seconds * rate), dtype=np.float64) / rate
    # The felt takes some milliseconds to arrive, so the slope starts at zero.
    felt = 0.008
    level = np.exp(-6.908 / seconds * (t + felt * (np.exp(-t / felt) - 1)))
    last = len(t) // 4
    level[len(t) - last :] *= 0.5 + 0.5 * np.cos(np.linspace(0, np.pi, last))
    return level.astype(np.float32)


@lru_cache(maxsize=128)
def _knock(pitch: int, rate: int) -> Waveform:
    """Noise of the blow at full velocity: (2, .16 s), a thump of the frame and a tick of felt.

    32 dB under the tone in the bass, 24 dB at the top, where a piano is known to sound wooden.
    """
    length = round(0.16 * rate)
    random = np.random.default_rng([88, pitch])
    t = np.arange(length) / rate
    frequency = np.fft.rfftfreq(length, 1 / rate)
    white = np.fft.rfft(random.standard_normal((3, length)))
    white = np.stack([0.8 * white[0] + 0.6 * white[1], 0.8 * white[0] + 0.6 * white[2]])
    centre = 130.0 * 2 ** ((pitch - 60) / 60)
    thump = np.exp(-0.5 * (np.log2(np.maximum(frequency, 1) / centre) / 0.75) ** 2)
    tick = np.exp(-0.5 * (np.log2(np.maximum(frequency, 1) / (9 * centre)) / 0.9) ** 2)
    parts = []
    for shape, decay, level in ((thump, 0.030, 1.0), (tick, 0.006, 0.5)):
        noise = np.fft.irfft(white * shape, n=length) * np.exp(-t / decay)
        parts.append(level * noise / np.sqrt((noise**2).max()))
    knock = parts[0] + parts[1]
    rise = min(length, round(0.0015 * rate))
    knock[:, :rise] *= 0.5 - 0.5 * np.cos(np.linspace(0, np.pi, rise))
    last = length // 4
    knock[:, length - last :] *= np.linspace(1, 0, last)
    knock -= knock.mean(axis=1, keepdims=True)  # no DC
    level = float(np.interp(pitch, [21, 60, 108], [-30.0, -28.0, -22.0]))
    return np.asarray(knock * 10 ** (level / 20), dtype=np.float32)
