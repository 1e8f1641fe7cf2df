"""A piano made of sums of decaying partials: a Piece in, a stereo waveform out.

Every note is synthesised for its own pitch, velocity and length. A pitch is a set of partials, each
carried by three "strings": two prompt ones, slightly out of tune with each other, and a weak one
that decays slowly, so that a note beats and decays in two stages (Weinreich 1977). A complex
exponential sampled on a grid is a product of one factor a block and one factor a sample within the
block, so a whole note is one matrix product, exact to single precision. Hammer knock, dampers,
soundboard and room are shaped noise from fixed seeds: the same piece gives the same samples.

It knows no emotion and writes no file; velocities and pedal say everything. It is a modest
upright in a small room, not a sampled grand: no key noise, no half pedal, no coupling between
strings of different keys. A SoundFont can be played instead where one is at hand.

Sources: inharmonicity and its registers, Rigaud, David & Daudet 2013 (JASA 133); decay times and
strike points, Fletcher & Rossing, "The Physics of Musical Instruments", chapter 12; contact of
hammer and string, Askenfelt & Jansson 1990-93; double decay, Weinreich 1977.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters.piece import Piece
from pipelines import soundfont as soundfonts

Waveform = NDArray[np.float32]
Floats = NDArray[np.float64]

SAMPLE_RATE = 44_100
#: Longest rendering: the waveform of an hour is 1.3 GB.
LONGEST_SECONDS = 3600.0
#: Samples a block: the two factors of a three-second note are then about equally large.
BLOCK = 256
#: The highest partial, as a share of the sampling rate; nothing can fold back from there.
HIGHEST = 0.45
MOST_PARTIALS = 96
CHUNK = 1 << 18  # samples, a multiple of the limiter's step
#: A partial this far under the loudest one of its note is left out: 80 dB, under 16-bit noise.
FLOOR = 1e-4
#: Level of one full-velocity note: ten of them reach the limiter but do not flatten in it.
FULL_SCALE = 0.08
#: Exponent of velocity: with 1.12 level rises 18 dB from velocity 20 to 127, as played grands do.
VELOCITY_EXPONENT = 1.12
#: Dampers end near E6; the strings above ring on (Fletcher & Rossing 12.1).
LAST_DAMPED = 89
#: The limiter bends the peaks above KNEE and reaches CEILING only for infinitely loud input.
KNEE, CEILING = 0.6, 0.97
RECOVERY = 0.12  # seconds
#: Room: level of its reverberation, in amplitude, against the strings.
ROOM = 0.24
#: Level of what open strings answer to white noise; to their own pitch it is about six times that.
HAZE = 0.016


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
        pedal = _pedal_curve(piece, samples, sample_rate) if len(piece.pedal) else None
        _add_room(out, pedal, sample_rate)
    _limit(out, sample_rate)
    # A given length may end inside the music: the fade is then a musical one, at most a second.
    fade = min(samples, round(sample_rate * (0.08 if seconds is None else min(1.0, length / 8))))
    if fade:
        out[:, samples - fade :] *= 0.5 + 0.5 * np.cos(
            np.linspace(0, np.pi, fade, dtype=np.float32)
        )
    return out


#: Seconds of release and room kept after the last string is damped.
_RINGING = 1.6


@dataclass(frozen=True, slots=True)
class _Strings:
    """What one key can sound, all components (partial x string) sorted longest-lived first.

    frequency, decay (1/s): (c,). amplitude: (c,) for the plain spectrum before the hammer's
    low pass, its three strings sharing it. phase: (2, c) left and right, radians. weight: (c,)
    audibility of the frequency in this room, as power. gain: (2,) of the two sides.
    """

    frequency: Floats
    decay: Floats
    amplitude: Floats
    phase: Floats
    weight: Floats
    gain: Floats


def inharmonicity(pitch: float) -> float:
    """B of f_k = k f0 sqrt(1 + B k²): two exponentials, bass bridge and treble bridge.

    Means over pianos of Rigaud, David & Daudet 2013; 5e-4 at A0, 1.5e-4 near A2, .026 at C8.
    """
    note = min(max(pitch, 21.0), 108.0)
    return float(np.exp(-0.0847 * note - 5.82) + np.exp(0.0926 * note - 13.64))


def tuning(pitch: float) -> float:
    """Frequency of the first partial in hertz: A4 = 440, octaves stretched to match partials.

    The second partial of a key agrees with the first of the key an octave above, which is how
    tuners stretch a piano: about 30 cents at C8, a few in the bass.
    """
    steps = np.linspace(69.0, pitch, 25)
    b = np.array([inharmonicity(note - 6.0) for note in steps])
    cents_an_octave = 600.0 * np.log2((1 + 4 * b) / (1 + b))
    stretch = float(np.mean(cents_an_octave)) * (pitch - 69.0) / 12.0
    return float(440.0 * 2.0 ** ((pitch - 69.0) / 12.0 + stretch / 1200.0))


def decay_time(pitch: float) -> float:
    """Seconds in which the prompt sound of the first partial falls by 60 dB.

    About 13 s at A0, 7 s at C4, 2 s at C6, .5 s at C8 (Fletcher & Rossing 12.6).
    """
    anchors = [21.0, 36.0, 48.0, 60.0, 72.0, 84.0, 96.0, 108.0]
    times = [13.0, 11.0, 9.0, 7.0, 4.0, 2.0, 0.95, 0.50]
    return float(np.exp(np.interp(pitch, anchors, np.log(times))))


@lru_cache(maxsize=128)
def _strings(pitch: int, rate: int) -> _Strings:
    """Partials of one key; irregularities are drawn from a generator seeded with the pitch."""
    random = np.random.default_rng([1729, pitch])
    b = inharmonicity(pitch)
    first = tuning(pitch)
    k = np.arange(1, MOST_PARTIALS + 1, dtype=np.float64)
    frequency = first * k * np.sqrt((1 + b * k**2) / (1 + b))
    # Draw for all partials before any is dropped: the instrument is the same at every rate.
    uneven = random.standard_normal((5, MOST_PARTIALS))
    apart = random.standard_normal(3)
    keep = frequency < HIGHEST * rate
    k, frequency, uneven = k[keep], frequency[keep], uneven[:, keep]

    # The hammer strikes near 1/8 of the string, nearer the end at the top; .04: it has a width.
    strike = float(np.interp(pitch, [21, 60, 88, 108], [0.122, 0.119, 0.09, 0.06]))
    amplitude = np.sqrt(np.sin(np.pi * strike * k) ** 2 + 0.04) * k**-0.4
    amplitude *= _body(frequency) * 10 ** (1.2 * uneven[0] / 20)

    # Losses grow with frequency: air and bending take the high partials of low keys quickly.
    prompt = 6.908 / decay_time(pitch) * (1 + (frequency / 2600.0) ** 1.4)
    prompt = np.maximum(prompt, 6.908 / decay_time(pitch) * (frequency / first) ** 0.35)
    prompt *= np.exp(0.18 * uneven[1])

    # Three strings: two prompt, three tenths of a cent to a cent and a half apart, one aftersound.
    # Closer at the top, where a cent is many beats.
    unison = np.interp(pitch, [40, 70, 100], [0.5, 0.35, 0.15]) * (1 + 0.4 * abs(apart[0]))
    cents = np.stack([-unison - 0.10 * uneven[2], unison + 0.10 * uneven[3], 0.5 * uneven[4]])
    # The lowest keys have one string each; what is left of the pair is its second polarisation.
    pair = float(np.interp(pitch, [26, 40], [0.25, 0.8]))
    share = np.array([1.0, pair, 0.20])
    share /= share.sum()
    slower = np.array([1.0, 0.88, 0.33])

    three = (3, 1)
    frequency3 = (frequency * 2 ** (cents / 1200)).ravel()
    decay3 = (prompt * slower.reshape(three)).ravel()
    amplitude3 = (amplitude * share.reshape(three)).ravel()
    # Near sine phase, so that the three start together and low notes keep their pulse; the
    # soundboard turns every partial a little, differently on either side.
    turned = random.standard_normal((3, MOST_PARTIALS))[:, : len(k)]
    turn = float(np.interp(pitch, [30, 60], [1.5, 0.8]))  # long strings disperse most
    phase = np.stack([turn * turned[0] + 0.45 * turned[side] for side in (1, 2)])
    phase3 = np.tile(phase, 3) - np.pi / 2

    # Low keys lie left, high keys right, as the player hears them; constant power.
    angle = np.pi / 4 + 0.42 * np.clip((pitch - 62) / 44, -1, 1)
    gain = np.sqrt(2) * np.array([np.cos(angle), np.sin(angle)])

    lifetime = np.log(np.maximum(amplitude3 / (FLOOR * amplitude3.max(initial=1e-9)), 1e-9))
    order = np.argsort(-lifetime / decay3, kind="stable")
    return _Strings(
        frequency=frequency3[order],
        decay=decay3[order],
        amplitude=amplitude3[order],
        phase=phase3[:, order],
        weight=_audibility(frequency3[order]) * _room_power(frequency3[order], rate),
        gain=gain,
    )


def _body(frequency: Floats) -> Floats:
    """Gain of the soundboard: weak below its first modes and above 6 kHz, uneven between."""
    points = np.linspace(np.log2(20), np.log2(22_000), 42)
    ripple = np.random.default_rng(88).standard_normal(42) * 2.2
    level = np.interp(np.log2(np.maximum(frequency, 20)), points, ripple)
    low = (frequency / 95.0) ** 2 / (1 + (frequency / 95.0) ** 2)
    high = 1 / (1 + (frequency / 6500.0) ** 2)
    return np.asarray(10 ** (level / 20) * low * high)


def _audibility(frequency: Floats) -> Floats:
    """A-weighting (IEC 61672), as a power ratio, 1 at 1 kHz."""
    f = np.asarray(frequency, dtype=np.float64) ** 2
    gain = 12194.0**2 * f**2
    gain /= (f + 20.6**2) * np.sqrt((f + 107.7**2) * (f + 737.9**2)) * (f + 12194.0**2)
    return np.asarray((gain * 1.2589) ** 2)


def _spectrum(strings: _Strings, pitch: int, velocity: float, brightness: float) -> Floats:
    """Amplitudes (c,) of all components for one stroke.

    The felt is a spring that hardens: contact shortens with velocity, so the low pass it is moves
    up (Askenfelt & Jansson). What a stroke loses in colour it does not lose in level: that is set
    by velocity alone, as A-weighted power, a little lower in the bass, whose peaks are high.
    """
    cutoff = 900.0 * 2 ** ((pitch - 60) / 30) * (velocity / 72.0) ** 0.85
    cutoff *= 4.0 ** (2 * brightness - 1)
    amplitude = strings.amplitude / (1 + (strings.frequency / cutoff) ** 2)
    level = np.sqrt(np.sum(strings.weight * amplitude**2))
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
    strings = _strings(pitch, rate)
    if not len(strings.frequency):
        return
    ring = _release(pitch, rate)
    pole = (-strings.decay + 2j * np.pi * strings.frequency) / rate
    inside = _powers(pole, BLOCK, 1)  # (c, BLOCK)
    sides = [inside * np.exp(1j * phase)[:, None] * g for phase, g in _sides(strings)]
    # Real part of a product of complex numbers, as a product of real rows: (2c, 2 BLOCK).
    basis = np.empty((2 * len(pole), 2 * BLOCK), dtype=np.float32)
    for side, factor in enumerate(sides):
        columns = slice(side * BLOCK, (side + 1) * BLOCK)
        basis[0::2, columns] = factor.real
        basis[1::2, columns] = -factor.imag

    loudest = _spectrum(strings, pitch, 127.0, brightness)
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
        factor = _powers(pole[:count], last - first, BLOCK, first).T  # (blocks, c)
        parts.append((first, last, np.ascontiguousarray(factor).view(np.float32)))

    rise = _attack(pitch, rate)
    knock = _knock(pitch, rate)
    for row in range(len(start)):
        gains = FULL_SCALE * _spectrum(strings, pitch, float(velocity[row]), brightness)
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


def _sides(strings: _Strings) -> list[tuple[Floats, np.float64]]:
    """(phase (c,), gain) of the left and of the right."""
    return [(strings.phase[side], strings.gain[side]) for side in (0, 1)]


def _powers(pole: NDArray[Any], count: int, stride: int, first: int = 0) -> NDArray[np.complex64]:
    """exp(pole * stride * (first + i)) for i in 0..count-1: complex64 (c, count).

    Two short tables and one product in place of `count` exponentials.
    """
    fine = 16
    coarse = -(-count // fine)
    inner = np.exp(pole[:, None] * (stride * np.arange(fine))).astype(np.complex64)
    outer = np.exp(pole[:, None] * (stride * (first + fine * np.arange(coarse))))
    both = outer.astype(np.complex64)[:, :, None] * inner[:, None, :]
    return both.reshape(len(pole), -1)[:, :count]


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


def _room_power(frequency: Floats, rate: int) -> Floats:
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
    inside = _powers(pole, BLOCK, 1)
    blocks = _powers(pole, -(-length // BLOCK), BLOCK)
    phases = np.exp(2j * np.pi * random.random((2, len(pole)))).astype(np.complex64)
    response = np.stack(
        [((blocks * phase[:, None]).T @ inside).real.ravel()[:length] for phase in phases]
    )
    t = np.arange(length) / length
    response *= np.minimum(1.0, 50.0 * t) * np.cos(np.pi / 2 * t) ** 2
    response *= HAZE / np.sqrt((response.astype(np.float64) ** 2).sum(axis=1, keepdims=True))
    return response.astype(np.float32)


def _pedal_curve(piece: Piece, samples: int, rate: int) -> Waveform:
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


def _add_room(out: Waveform, pedal: Waveform | None, rate: int) -> None:
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


def _limit(out: Waveform, rate: int) -> None:
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
