"""What happens to the sound of a piano's strings: open strings answer, a room, a limiter.

All three work on a whole waveform in place, in blocks, so that ten minutes need little memory. Room
and open strings are noise and partials from fixed seeds. No note and no velocity is known here.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from adapters.piece import Piece
from pipelines.piano_strings import BLOCK, HIGHEST, decay_time, powers, tuning

Waveform = NDArray[np.float32]
Floats = NDArray[np.float64]

#: Level of the room's reverberation, in amplitude, against the strings.
ROOM = 0.24
#: Level of what open strings answer to white noise; to their own pitch it is about six times that.
HAZE = 0.016
#: The limiter bends the peaks above KNEE and reaches CEILING only for infinitely loud input.
KNEE, CEILING = 0.6, 0.97
RECOVERY = 0.12  # seconds
CHUNK = 1 << 18  # samples, a multiple of the limiter's step


@lru_cache(maxsize=4)
def _room_response(rate: int) -> Waveform:
    """Soundboard and small room as decaying noise: (2, samples) of 1.1 s.

    T60 falls from .95 s at 250 Hz to .35 s at 8 kHz, as furnished rooms do; the two sides are
    independent, which is what makes the sound wide.
    """
    length = round(1.1 * rate)
    random = np.random.default_rng(1900)
    noise = np.fft.rfft(random.standard_normal((2, length)))
    frequency = np.fft.rfftfreq(length, 1 / rate)
    t = np.arange(length) / rate
    centres = 125.0 * 2.0 ** np.arange(8)
    seconds = np.interp(np.log2(centres), np.log2([125, 250, 8000, 16000]), [0.9, 0.95, 0.35, 0.2])
    response = np.zeros((2, length))
    octave = np.log2(np.maximum(frequency, 1.0) / 125.0)
    for index, time in enumerate(seconds):
        # Raised-cosine bands an octave wide add up to one.
        band = np.clip(1 - abs(octave - index), 0, None)
        if index == 0:
            band = np.where(octave < 0, np.clip(1 + octave / 1.2, 0, 1), band)
        tone = 10 ** (-2.0 * index / 20)  # the room is darker than the strings
        response += tone * np.fft.irfft(noise * band, n=length) * np.exp(-6.908 * t / time)
    # First reflections build up within 15 ms.
    response *= 1 - np.exp(-t / 0.008)
    last = length // 8
    response[:, length - last :] *= np.linspace(1, 0, last)
    response *= ROOM / np.sqrt((response**2).sum(axis=1, keepdims=True))
    return response.astype(np.float32)


def room_power(frequency: Floats, rate: int) -> Floats:
    """Power (c,) that the room makes of a steady unit tone: keys are voiced where the piano stands.

    Without it neighbouring keys differ by up to 3 dB, with it by 1.
    """
    size = 1 << 17 if rate <= 96_000 else 1 << 18
    spectrum = _room_spectrum(rate, size)
    at = np.minimum(np.round(frequency * size / rate).astype(np.int64), size // 2)
    return np.asarray((np.abs(1.0 + spectrum[:, at]) ** 2).mean(axis=0))


@lru_cache(maxsize=4)
def _room_spectrum(rate: int, size: int) -> NDArray[np.complex64]:
    return np.asarray(np.fft.rfft(_room_response(rate), n=size), dtype=np.complex64)


@lru_cache(maxsize=4)
def _haze_response(rate: int) -> Waveform:
    """What undamped strings answer to a sound while the pedal is down: (2, samples) of 1.2 s.

    The first partials of the keys from A1 to F6, each with its decay, in a phase of its own. What
    is played excites those of its frequency, so a chord blooms and a thump gives a faint cloud.
    """
    length = round(1.2 * rate)
    random = np.random.default_rng(64)
    frequency, decay = [], []
    for pitch in range(33, 90):
        partial = np.arange(1, 7)
        frequency += (tuning(pitch) * partial).tolist()
        decay += (6.908 / min(decay_time(pitch), 4.0) * np.sqrt(partial)).tolist()
    pole = (-np.array(decay) + 2j * np.pi * np.array(frequency)) / rate
    pole = pole[np.array(frequency) < HIGHEST * rate]
    inside = powers(pole, BLOCK, 1)
    blocks = powers(pole, -(-length // BLOCK), BLOCK)
    phases = np.exp(2j * np.pi * random.random((2, len(pole)))).astype(np.complex64)
    response = np.stack(
        [((blocks * phase[:, None]).T @ inside).real.ravel()[:length] for phase in phases]
    )
    t = np.arange(length) / length
    response *= np.minimum(1.0, 50.0 * t) * np.cos(np.pi / 2 * t) ** 2
    response *= HAZE / np.sqrt((response.astype(np.float64) ** 2).sum(axis=1, keepdims=True))
    return response.astype(np.float32)


def pedal_curve(piece: Piece, samples: int, rate: int) -> Waveform:
    """(samples,) 1 while dampers are up, 0 while down, with the time they take: 40 and 120 ms."""
    curve = np.zeros(samples, dtype=np.float32)
    down = round(0.04 * rate)
    up = round(0.12 * rate)
    for first, last in np.round(piece.seconds_at(piece.pedal) * rate).astype(np.int64).tolist():
        part = curve[first : last + up]
        t = np.arange(len(part), dtype=np.float32)
        shape = np.minimum(1.0, t / down) * np.clip((last - first + up - t) / up, 0.0, 1.0)
        np.maximum(part, shape.astype(np.float32), out=part)
    return curve


def add_room(out: Waveform, pedal: Waveform | None, rate: int) -> None:
    """Add the room, and the answer of open strings under the pedal, to (2, samples) in place.

    Overlapped blocks of one FFT size; `pedal` (samples,) 0..1 or None for none.
    """
    responses = [_room_response(rate)]
    if pedal is not None:
        responses.append(_haze_response(rate))
    longest = max(response.shape[1] for response in responses)
    size = 1 << (2 * longest - 1).bit_length()
    hop = size - longest + 1
    filters = [np.fft.rfft(response, n=size) for response in responses]
    carried = [np.zeros((2, longest - 1), dtype=np.float32) for _ in responses]
    for first in range(0, out.shape[1], hop):
        dry = out[:, first : first + hop]
        sources = [0.75 * dry + 0.25 * dry[::-1]]  # each wall hears both sides
        if pedal is not None:
            open_now = pedal[first : first + hop]
            sources.append(dry.mean(axis=0, keepdims=True) * open_now)
        total = np.zeros_like(dry)
        for index, source in enumerate(sources):
            wet = np.fft.irfft(np.fft.rfft(source, n=size) * filters[index], n=size)
            wet[:, : longest - 1] += carried[index]
            carried[index] = wet[:, hop : hop + longest - 1].astype(np.float32)
            heard = wet[:, : dry.shape[1]]
            total += heard if index == 0 else heard * open_now  # dampers end the answer
        dry += total


def limit(out: Waveform, rate: int) -> None:
    """Bend peaks above KNEE under CEILING, in place, by a gain that moves slowly.

    It falls 6 ms before a peak and comes back in a quarter of a second, never above what the
    loudest sample near by allows: nothing is clipped, and low notes are not bent within a period.
    """
    step, reach = 32, 4
    samples = out.shape[1]
    count = -(-samples // step)
    peak = np.zeros(count)
    for first in range(0, samples, CHUNK):  # whole temporaries of long pieces are large
        loud = np.abs(out[:, first : first + CHUNK]).max(axis=0)
        loud = np.pad(loud, (0, -len(loud) % step)).reshape(-1, step).max(axis=1)
        peak[first // step : first // step + len(loud)] = loud
    if not count or peak.max() <= KNEE:
        return
    room = CEILING - KNEE
    bent = np.where(peak > KNEE, KNEE + room * np.tanh((peak - KNEE) / room), peak)
    gain = np.where(peak > KNEE, bent / np.maximum(peak, 1e-9), 1.0)
    # Recovery: the reduction r(n) = max over k of r(k) exp(-(n - k) step / time), as a running
    # maximum of logarithms.
    slope = np.arange(count) * step / (RECOVERY * rate)
    reduction = np.log(np.maximum(-np.log(gain), 1e-12)) + slope
    gain = np.exp(-np.exp(np.maximum.accumulate(reduction) - slope))
    # The smallest gain within the reach of the smoothing window, then the window itself.
    wide = np.pad(gain, 2 * reach, mode="edge")
    lowest = np.lib.stride_tricks.sliding_window_view(wide, 2 * reach + 1).min(axis=1)
    window = np.hanning(2 * reach + 1)[1:-1]
    smooth = np.convolve(lowest, window / window.sum(), mode="same")[reach : reach + count]
    at = (np.arange(count) + 0.5) * step
    for first in range(0, samples, CHUNK):
        last = min(samples, first + CHUNK)
        out[:, first:last] *= np.interp(np.arange(first, last), at, smooth).astype(np.float32)
    np.clip(out, -0.98, 0.98, out=out)  # rounding only
