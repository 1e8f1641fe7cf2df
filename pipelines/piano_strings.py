"""The strings of a piano: which partials a key has, how strong they are and how long they last.

Each partial is carried by three strings: two prompt ones, slightly out of tune with each other, and
a weak one that decays slowly, so that a note beats and decays in two stages. What differs from key
to key without a rule is drawn from a generator seeded with the key: one instrument, always the
same. Hammers, dampers and the room are not known here.

Sources: inharmonicity and its registers, Rigaud, David & Daudet 2013 (JASA 133); decay times and
strike points, Fletcher & Rossing, "The Physics of Musical Instruments", chapter 12; double decay,
Weinreich 1977.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: The highest partial, as a share of the sampling rate; nothing can fold back from there.
HIGHEST = 0.45
MOST_PARTIALS = 96
#: A partial this far under the loudest one of its note is left out: 80 dB, under 16-bit noise.
FLOOR = 1e-4
#: Samples a block: the two factors of a three-second note are then about equally large.
BLOCK = 256


@dataclass(frozen=True, slots=True)
class Strings:
    """What one key can sound, all components (partial x string) sorted longest-lived first.

    frequency, decay (1/s): (c,). amplitude: (c,) for the plain spectrum before the hammer's
    low pass, its three strings sharing it. phase: (2, c) left and right, radians. gain: (2,) of the
    two sides.
    """

    frequency: Floats
    decay: Floats
    amplitude: Floats
    phase: Floats
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
def strings_of(pitch: int, rate: int) -> Strings:
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
    return Strings(
        frequency=frequency3[order],
        decay=decay3[order],
        amplitude=amplitude3[order],
        phase=phase3[:, order],
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


def audibility(frequency: Floats) -> Floats:
    """A-weighting (IEC 61672), as a power ratio, 1 at 1 kHz."""
    f = np.asarray(frequency, dtype=np.float64) ** 2
    gain = 12194.0**2 * f**2
    gain /= (f + 20.6**2) * np.sqrt((f + 107.7**2) * (f + 737.9**2)) * (f + 12194.0**2)
    return np.asarray((gain * 1.2589) ** 2)


def powers(pole: NDArray[Any], count: int, stride: int, first: int = 0) -> NDArray[np.complex64]:
    """exp(pole * stride * (first + i)) for i in 0..count-1: complex64 (c, count).

    Two short tables and one product in place of `count` exponentials.
    """
    fine = 16
    coarse = -(-count // fine)
    inner = np.exp(pole[:, None] * (stride * np.arange(fine))).astype(np.complex64)
    outer = np.exp(pole[:, None] * (stride * (first + fine * np.arange(coarse))))
    both = outer.astype(np.complex64)[:, :, None] * inner[:, None, :]
    return both.reshape(len(pole), -1)[:, :count]
