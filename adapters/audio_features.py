"""What can be heard in a waveform, as numbers: loudness, attacks, colour, roughness, key, register.

`hear` walks once over the sound and keeps what each short frame holds; `functionals` sums a stretch
of it up to the numbers of `HEARD`. Everything is measured from the sound alone, so the reader that
uses it shares nothing with attributes counted from notes. It deliberately knows no note list, no
emotion and no file format. numpy only.

Sources: brightness, onsets by spectral flux, pulse clarity and the key clarity of a chromagram as
in the MIRtoolbox (Lartillot and Toiviainen 2007); pitches by non-negative least squares on a
semitone spectrum (Mauch and Dixon 2010), without which the overtones of every bass note vote for
major; key profiles of Krumhansl and Kessler (1982); roughness by Sethares' fit of Plomp and Levelt
(1993).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]

RATE = 22050
"""Samples a second that are listened to: a piano has little above 11 kHz."""
HOP, SHORT = 256, 1024  # 11.6 ms between attack frames of 46 ms
TONAL_HOP, LONG = 2048, 8192  # 93 ms between tone frames of 372 ms: 2.7 Hz tell low semitones apart
LOWEST, HIGHEST = 28, 103  # MIDI pitches that may be found, E1 to G7
PEAKS = 20  # partials of a frame whose beating counts as roughness
GATE = -50.0  # dB below the loudest moment: silence
QUIETEST = -90.0  # dB full scale given to digital silence
KEY_SECONDS = 8.0  # a key is heard within some bars
CHORD_SECONDS = 0.75  # and a chord within some beats
NEXT_ATTACK = 0.05  # s: attacks closer than this are one (a spread chord)

HEARD: tuple[str, ...] = (
    "level",
    "level_variability",
    "level_range",
    "onset_rate",
    "onset_strength",
    "flux",
    "ioi_variability",
    "pulse_clarity",
    "centroid",
    "brightness",
    "timbre",
    "roughness",
    "mode",
    "third",
    "major_chords",
    "key_clarity",
    "register",
    "melody_register",
    "bass_register",
    "pitch_range",
    "tones",
    "decay",
)
"""Names of the functionals. level: dB full scale; level_variability, level_range: dB between
attacks. onset_rate: a second; onset_strength, flux: rise of the loudness spectrum at attacks and a
second; ioi_variability: coefficient of variation of the times between attacks; pulse_clarity: 0..1.
centroid: octaves above 55 Hz; brightness: share of amplitude above 1,500 Hz; timbre: centroid in
octaves above the mean pitch. roughness: beating of partials relative to their power. mode: best
major minus best minor correlation; third: major against minor third above the tonic, -1..1;
major_chords: share of chords that are major; key_clarity: best correlation. registers, pitch_range:
semitones; tones: how many pitches sound. decay: dB a second after attacks."""

# Krumhansl and Kessler 1982, probe-tone profiles of C major and C minor.
MAJOR = (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88)
MINOR = (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17)


class SoundError(ValueError):
    """A waveform that cannot be listened to; one line that says what to change."""


@dataclass(frozen=True, slots=True)
class Hearing:
    """What `hear` kept of a sound.

    seconds: its length. level: (n,) dB full scale every `HOP` samples. rise: (n,) spectral flux of
    the same frames. attacks: (k,) seconds of the attacks. tone_level: (m,) summed amplitude every
    `TONAL_HOP` samples. pitches: (m, HIGHEST - LOWEST + 1) strength of each pitch. centroid,
    brightness, roughness: (m,).
    """

    seconds: float
    level: Floats
    rise: Floats
    attacks: Floats
    tone_level: Floats
    pitches: Floats
    centroid: Floats
    brightness: Floats
    roughness: Floats


def hear(waveform: ArrayLike, sample_rate: int = 44100) -> Hearing:
    """Listen to a waveform (n,) or (channels, n) in -1..1; channels are averaged.

    Raises:
        SoundError: not one or two axes, shorter than half a second, not finite, silent.
    """
    sound = _mono(waveform, sample_rate)
    level, rise = _attack_frames(sound)
    attacks = _attacks(rise, level)
    spectrum = _frames(sound, LONG, TONAL_HOP)
    rows = []
    for first in range(0, len(spectrum), 256):  # in parts: an hour would not fit in memory at once
        rows.append(_tone_frames(spectrum[first : first + 256]))
    total, pitches, centroid, brightness, roughness = (
        np.concatenate(parts) for parts in zip(*rows, strict=True)
    )
    return Hearing(
        seconds=len(sound) / RATE,
        level=level,
        rise=rise,
        attacks=attacks,
        tone_level=total,
        pitches=pitches,
        centroid=centroid,
        brightness=brightness,
        roughness=roughness,
    )


def functionals(hearing: Hearing, start: float = 0.0, end: float | None = None) -> Floats:
    """Sum up the seconds from `start` to `end` (None: to its end) as the numbers of `HEARD`.

    Returns float64 (len(HEARD),), nan where the stretch cannot tell (no attack, no tone).
    """
    stop = hearing.seconds if end is None else min(end, hearing.seconds)
    length = max(stop - start, 1e-3)
    at = np.arange(len(hearing.level)) * HOP / RATE
    inside = (at >= start) & (at < stop)
    tonal = np.arange(len(hearing.tone_level)) * TONAL_HOP / RATE
    chosen = (tonal >= start) & (tonal < stop)
    out = dict.fromkeys(HEARD, float("nan"))
    level = hearing.level[inside]
    loud = level > hearing.level.max() + GATE
    if loud.any():
        out["level"] = float(10 * np.log10(np.mean(10 ** (level[loud] / 10))))
    rise = hearing.rise[inside]
    out["flux"] = float(rise.sum() / length)
    attacks = hearing.attacks[(hearing.attacks >= start) & (hearing.attacks < stop)]
    out["onset_rate"] = len(attacks) / length
    if len(attacks):
        frame = np.minimum((attacks * RATE / HOP).astype(int), len(hearing.rise) - 1)
        out["onset_strength"] = float(hearing.rise[frame].mean())
    if len(attacks) > 3:
        gaps = np.diff(attacks)
        out["ioi_variability"] = float(gaps.std() / gaps.mean())
        # Of the attacks, not of the moments: a slow piece dies away between its notes.
        struck = _struck(hearing, attacks)
        out["level_variability"] = float(struck.std())
        out["level_range"] = float(np.quantile(struck, 0.95) - np.quantile(struck, 0.05))
    out["decay"] = _decay(hearing, attacks, stop)
    out["pulse_clarity"] = _pulse(rise)
    weight = hearing.tone_level[chosen]
    if weight.sum() > 0:
        for name in ("centroid", "brightness", "roughness"):
            values = getattr(hearing, name)[chosen]
            out[name] = float((values * weight).sum() / weight.sum())
        out |= _tonal(hearing.pitches[chosen])
        out["timbre"] = out["centroid"] - (out["register"] - 33) / 12  # 33: A1, 55 Hz
    return np.array([out[name] for name in HEARD])


def _mono(waveform: ArrayLike, sample_rate: int) -> Singles:
    sound = np.asarray(waveform, dtype=np.float32)
    if sound.ndim == 2:
        sound = sound.mean(axis=0)
    if sound.ndim != 1:
        msg = f"sound: expected (n,) or (channels, n), received {np.shape(waveform)}"
        raise SoundError(msg)
    if not 8000 <= sample_rate <= 192000:
        msg = f"sound: sample rates from 8000 to 192000 Hz are heard, received {sample_rate}"
        raise SoundError(msg)
    if len(sound) < sample_rate // 2:
        msg = f"sound: {len(sound) / sample_rate:.2f} s is too short; give half a second or more"
        raise SoundError(msg)
    if not np.isfinite(sound).all() or np.abs(sound).max() < 1e-6:
        msg = "sound: silent or not finite; give a waveform in -1..1 with music in it"
        raise SoundError(msg)
    if sample_rate == 2 * RATE:
        taps = np.sinc(np.arange(-24, 25) / 2) * np.hanning(49)
        low: Singles = np.asarray(np.convolve(sound, taps / taps.sum(), "same"), dtype=np.float32)
        return low[::2]
    if sample_rate == RATE:
        return sound
    count = int(len(sound) * RATE / sample_rate)
    place = np.arange(count) * (sample_rate / RATE)
    return np.asarray(np.interp(place, np.arange(len(sound)), sound), dtype=np.float32)


def _frames(sound: Singles, size: int, hop: int) -> Singles:
    """Overlapping frames (n, size) centred on multiples of `hop`; a view."""
    padded = np.pad(sound, (size // 2, size // 2))
    return sliding_window_view(padded, size)[::hop]


@lru_cache(maxsize=2)
def _mel(bands: int = 40) -> Singles:
    """Triangles (SHORT / 2 + 1, bands) evenly on the mel scale from 50 Hz to 10 kHz."""
    mel = np.linspace(1127 * np.log1p(50 / 700), 1127 * np.log1p(10000 / 700), bands + 2)
    edges = 700 * np.expm1(mel / 1127)
    f = np.arange(SHORT // 2 + 1)[:, None] * RATE / SHORT
    up = (f - edges[:-2]) / np.diff(edges)[:-1]
    down = (edges[2:] - f) / np.diff(edges)[1:]
    return np.asarray(np.maximum(0, np.minimum(up, down)), dtype=np.float32)


def _attack_frames(sound: Singles) -> tuple[Floats, Floats]:
    """Level in dB and spectral flux of every attack frame."""
    frames = _frames(sound, SHORT, HOP)
    window = np.hanning(SHORT).astype(np.float32)
    levels, loudness = [], []
    for first in range(0, len(frames), 2048):
        part = frames[first : first + 2048] * window
        power = np.square(part).mean(axis=1) / np.square(window).mean()
        levels.append(10 * np.log10(np.maximum(power, 1e-9)))
        spectrum = np.abs(np.fft.rfft(part, axis=1)).astype(np.float32) @ _mel()
        loudness.append(np.log1p(spectrum))  # compression: a soft attack counts, a loud one more
    bands = np.concatenate(loudness)
    before = np.pad(bands, ((2, 0), (0, 0)))[: len(bands)]  # silence: the first note is struck too
    rise = np.maximum(bands - before, 0).mean(axis=1).astype(np.float64)
    return np.maximum(np.concatenate(levels), QUIETEST).astype(np.float64), rise


def _attacks(rise: Floats, level: Floats) -> Floats:
    """Seconds of the attacks: local maxima of the flux that stand out of the second around."""
    width = max(3, round(NEXT_ATTACK * RATE / HOP))
    padded = np.pad(rise, width, mode="edge")
    highest = sliding_window_view(padded, 2 * width + 1).max(axis=1)
    half = round(0.5 * RATE / HOP)
    around = np.pad(rise, half)
    floor = np.median(sliding_window_view(around, 2 * half + 1)[:: half // 4], axis=1)
    floor = np.interp(np.arange(len(rise)), np.arange(len(floor)) * (half // 4), floor)
    # A tenth of a strong attack of this sound, above what the seconds around have anyway.
    threshold = floor + max(0.1 * float(np.quantile(rise, 0.99)), 1e-3)
    heard = level > level.max() + GATE
    chosen = np.flatnonzero((rise >= highest) & (rise > threshold) & heard)
    if len(chosen):
        chosen = chosen[np.concatenate([[True], np.diff(chosen) > width])]
    return chosen * HOP / RATE


def _struck(hearing: Hearing, attacks: Floats) -> Floats:
    """Level in dB that each attack reaches within a tenth of a second."""
    frame = (attacks * RATE / HOP).astype(int)
    near = frame[:, None] + np.arange(round(0.1 * RATE / HOP))
    return np.asarray(hearing.level[np.minimum(near, len(hearing.level) - 1)].max(axis=1))


def _decay(hearing: Hearing, attacks: Floats, stop: float) -> float:
    """How fast the sound dies away after an attack, dB a second: the median over attacks.

    A rate, because how much is left before the next attack depends on when that comes.
    """
    rates = []
    for begin, finish in zip(attacks, np.append(attacks[1:], stop), strict=True):
        first, last = int(begin * RATE / HOP), int(finish * RATE / HOP)
        stretch = hearing.level[first : max(last - 2, first)]
        if len(stretch) < 8:  # under a tenth of a second nothing can die away
            continue
        top = int(stretch[: len(stretch) // 2 + 1].argmax())
        low = int(stretch[top:].argmin())
        if low >= 4:
            rates.append(float(stretch[top] - stretch[top + low]) / (low * HOP / RATE))
    return float(np.median(rates)) if rates else float("nan")


def _pulse(rise: Floats) -> float:
    """Highest autocorrelation of the flux at .25 to 1.5 s (pulse clarity, Lartillot 2008)."""
    x = rise - rise.mean() if len(rise) else rise
    first, last = round(0.25 * RATE / HOP), round(1.5 * RATE / HOP)
    if len(x) < 2 * last or not x.any():
        return float("nan")
    power = np.abs(np.fft.rfft(x, 2 * len(x))) ** 2
    correlation = np.fft.irfft(power)[: last + 1]
    return float(max(0.0, correlation[first:].max() / correlation[0]))


@lru_cache(maxsize=1)
def _pitch_bands() -> tuple[Singles, Singles]:
    """Bins -> semitone bands (bins, bands), and what each pitch looks like in them (p, bands)."""
    f = np.maximum(np.arange(LONG // 2 + 1) * RATE / LONG, 1.0)
    centres = np.arange(LOWEST - 1, HIGHEST + 25)  # two octaves of overtones above the top
    semitone = 69 + 12 * np.log2(f / 440)
    bank = np.maximum(0, 1 - np.abs(semitone[:, None] - centres) / 0.9)
    looks = []
    for pitch in range(LOWEST, HIGHEST + 1):
        f0 = 440 * 2 ** ((pitch - 69) / 12)
        spectrum = np.zeros(len(f))
        for h in range(1, 13):
            # A Hann window spreads a partial over about 1.5 bins; overtones fall by .65 each, a
            # middle value for piano strings (Mauch and Dixon use .5 to .9).
            spread = 1.4 * RATE / LONG
            spectrum += 0.65 ** (h - 1) * np.exp(-0.5 * ((f - h * f0) / spread) ** 2)
        look = spectrum @ bank
        looks.append(look / np.linalg.norm(look))
    return bank.astype(np.float32), np.array(looks, dtype=np.float32)


def _tone_frames(frames: Singles) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """Frames (m, LONG) -> total amplitude, pitches (m, p), centroid, brightness, roughness."""
    window = np.hanning(LONG).astype(np.float32)
    amplitude = np.abs(np.fft.rfft(frames * window, axis=1)).astype(np.float32) * (4 / LONG)
    f = np.arange(LONG // 2 + 1) * RATE / LONG
    total = amplitude.sum(axis=1).astype(np.float64)
    safe = np.maximum(total, 1e-9)
    mean = amplitude @ f / safe
    centroid = np.log2(np.maximum(mean, 55.0) / 55)
    brightness = amplitude[:, f > 1500].sum(axis=1) / safe
    bank, looks = _pitch_bands()
    bands = amplitude @ bank
    found = np.maximum(bands @ looks.T, 1e-9)
    gram = looks @ looks.T
    goal = found.copy()
    for _ in range(40):  # multiplicative steps keep it non-negative (Lee and Seung 2001)
        found *= goal / (found @ gram + 1e-9)
    roughness = _roughness(amplitude, f)
    return total, found.astype(np.float64), centroid, brightness.astype(np.float64), roughness


def _roughness(amplitude: Singles, f: Floats) -> Floats:
    """Beating of the strongest partials of each frame, relative to their power."""
    top = int(np.searchsorted(f, 5000))
    a = amplitude[:, :top]
    peak = np.zeros_like(a)
    middle = a[:, 2:-2]
    higher = (middle > a[:, 1:-3]) & (middle >= a[:, 3:-1])
    higher &= (middle > a[:, :-4]) & (middle >= a[:, 4:])
    peak[:, 2:-2] = np.where(higher, middle, 0)
    order = np.argpartition(peak, -PEAKS, axis=1)[:, -PEAKS:]
    strength = np.take_along_axis(peak, order, axis=1).astype(np.float64)
    where = f[order]
    low = np.minimum(where[:, :, None], where[:, None, :])
    gap = np.abs(where[:, :, None] - where[:, None, :])
    scaled = 0.24 / (0.021 * low + 19) * gap
    beating = np.exp(-3.5 * scaled) - np.exp(-5.75 * scaled)
    pair = strength[:, :, None] * strength[:, None, :]
    power = np.maximum(np.square(strength).sum(axis=1), 1e-12)
    return np.asarray((pair * beating).sum(axis=(1, 2)) / (2 * power))


def _tonal(pitches: Floats) -> dict[str, float]:
    """Mode, key clarity and registers of a stretch of pitch strengths (m, p)."""
    strength = np.sqrt(pitches)  # nearer to how long each pitch sounds than to how loud
    loudest = np.maximum(strength.max(axis=1, keepdims=True), 0.3 * strength.max())
    strength = np.where(strength > 0.3 * loudest, strength, 0)
    total = strength.sum(axis=0)
    names = np.arange(LOWEST, HIGHEST + 1)
    chroma = np.zeros((len(strength), 12))
    for tone in range(12):
        chroma[:, tone] = strength[:, names % 12 == tone].sum(axis=1)
    out = _harmony(chroma)
    share = total / total.sum()
    out["register"] = float(share @ names)
    below = np.cumsum(share)
    low, high = names[np.searchsorted(below, 0.025)], names[np.searchsorted(below, 0.975)]
    out["pitch_range"] = float(high - low)
    out["bass_register"] = float(names[np.searchsorted(below, 0.1)])
    out["melody_register"] = float(names[np.searchsorted(below, 0.9)])
    sounding = (strength > 0).sum(axis=1)
    out["tones"] = float(sounding[sounding > 0].mean())
    return out


def _harmony(chroma: Floats) -> dict[str, float]:
    """Mode, thirds and chords of pitch-class strengths (m, 12)."""
    width = max(1, round(KEY_SECONDS * RATE / TONAL_HOP))
    starts = range(0, max(1, len(chroma) - width // 2), max(1, width // 2))
    parts = [chroma[i : i + width].sum(axis=0) for i in starts]
    parts = [part for part in parts if part.std() > 1e-9]
    keys = [_key(part) for part in parts]
    whole = chroma.sum(axis=0)
    if not keys or whole.std() <= 1e-9:
        return {}
    thirds = []
    for (_, _, tonic), part in zip(keys, parts, strict=True):
        minor, major = part[(tonic + 3) % 12], part[(tonic + 4) % 12]
        thirds.append((major - minor) / max(major + minor, 1e-9))
    width = max(1, round(CHORD_SECONDS * RATE / TONAL_HOP))
    count = len(chroma) // width
    chords = chroma[: count * width].reshape(count, width, 12).sum(axis=1)
    best = np.stack([_triads(chords, (0, 4, 7)), _triads(chords, (0, 3, 7))])
    heard = chords.sum(axis=1) > 0
    return {
        # The key of the stretch and the keys on the way count alike.
        "mode": float((np.mean([key[0] for key in keys]) + _key(whole)[0]) / 2),
        "third": float(np.mean(thirds)),
        "major_chords": float((best[0] > best[1])[heard].mean()) if heard.any() else float("nan"),
        "key_clarity": float(np.mean([key[1] for key in keys])),
    }


def _triads(chords: Floats, tones: tuple[int, ...]) -> Floats:
    """(n, 12) pitch-class strengths -> (n,) strength of the best triad of this kind."""
    sums = sum(np.roll(chords, -tone, axis=1) for tone in tones)
    return np.asarray(np.max(sums, axis=1))


def _key(chroma: Floats) -> tuple[float, float, int]:
    """Best major minus best minor correlation with the key profiles, the best, and its tonic."""
    x = (chroma - chroma.mean()) / chroma.std() / 12
    best, tonic = [], []
    for profile in (MAJOR, MINOR):
        p = (np.array(profile) - np.mean(profile)) / np.std(profile)
        scores = [float(x @ np.roll(p, tone)) for tone in range(12)]
        best.append(max(scores))
        tonic.append(int(np.argmax(scores)))
    return best[0] - best[1], max(best), tonic[int(np.argmax(best))]
