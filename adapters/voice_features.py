"""What can be heard in a voice, as numbers that do not depend on how loud it was recorded.

`hear` walks once over the speech and keeps what each 10 ms hold; `functionals` sums a stretch of
it up to the numbers of `HEARD`: pitch and its movement, rhythm of syllables and pauses, timbre,
spectral tilt, voice quality. The set follows the Geneva minimalistic set (eGeMAPS, Eyben et al.
2016); pitch is found by subharmonic summation (Hermes 1988), not by the correlation tracker of
`adapters.f0` that the editing rests on, so the reader which uses this file shares no measurement
with what it reports on. It deliberately knows no emotion, no word and no file format. numpy only.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

from adapters.voice_analysis import RATE, VoiceError, at_rate

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]

HOP = 160
"""Samples between frames: 10 ms."""
SHORT, LONG = 400, 800  # 25 ms for timbre, 50 ms for pitch: three periods of 60 Hz
FFT_SHORT, FFT_LONG = 512, 4096
BANDS, CEPSTRA = 26, 13
LOWEST, HIGHEST = 60.0, 620.0  # Hz of a low man and of a shouting woman
PER_OCTAVE = 48  # log-frequency bins: 25 cents, interpolated to about 2
FALL = 0.84  # weight of each next harmonic (Hermes 1988)
HARMONICS = 12
GATE = -35.0  # dB below the loudest tenth: not speech any more
VOICED = 0.5  # correlation at the period from which a frame counts as voiced
BLOCK = 1500  # frames at once: bounded memory

_PITCH = ("mean", "sd", "low", "high", "range", "slope", "final", "movement", "turns", "jitter")
_COLOUR = ("alpha", "hammarberg", "slope_low", "slope_high", "flatness", "brightness", "first")
HEARD: tuple[str, ...] = (
    *(f"pitch_{name}" for name in _PITCH),
    "pitch_rising", "hnr_mean", "hnr_sd", "shimmer", "voiced_share", "voiced_length",
    "voiced_length_sd", "unvoiced_length", "voiced_rate", "pause_share", "syllable_rate",
    "level_sd", "level_range", "level_movement", "flux", "flux_sd",
    *(f"{name}_mean" for name in _COLOUR), *(f"{name}_sd" for name in _COLOUR),
    "unvoiced_alpha", "unvoiced_slope",
    *(f"cepstrum_{k}" for k in range(1, CEPSTRA + 1)),
    *(f"cepstrum_{k}_sd" for k in range(1, CEPSTRA + 1)),
    *(f"cepstrum_{k}_movement" for k in range(1, 7)),
    "modulation_low", "modulation_middle", "modulation_high",
)  # fmt: skip
"""Names of the functionals. pitch: semitones above 55 Hz (mean, spread, 10 and 90 % quantile, their
range, slope a second, last voiced quarter second minus mean, movement and turns a second, jitter of
the 10 ms track, share of rising frames). hnr: dB. lengths: s; rates: a second; level: dB of spoken
frames, relative to each other only. alpha: dB of 1-5 kHz over 50-1,000 Hz; hammarberg: strongest
peak under 2 kHz over that of 2-5 kHz, dB; slope_low, slope_high: dB an octave of .1-.5 and .5-1.5
kHz; flatness: dB; brightness: octaves above 100 Hz; first: dB of the first harmonic over the next
two (breathy voices have more). cepstra over voiced frames. modulation: log shares of the level's
movement at 1-3, 3-6 and 6-12 Hz."""


@dataclass(frozen=True, slots=True)
class Voice:
    """What `hear` kept of speech, one value a frame of 10 ms.

    level: (n,) dB. pitch: (n,) semitones above 55 Hz, nan where unvoiced. hnr: (n,) dB, nan where
    unvoiced. cepstra: (n, 13) without the zeroth, dB. colour: (n, 7) in the order of the names in
    `HEARD`. flux: (n,) mean change of the band levels, dB.
    """

    level: Floats
    pitch: Floats
    hnr: Floats
    cepstra: Floats
    colour: Floats
    flux: Floats

    @property
    def seconds(self) -> float:
        """Length that was heard, between the centres of the first and the last frame."""
        return max(0, len(self.level) - 1) * HOP / RATE

    def between(self, start: float, stop: float) -> Voice:
        """The frames of start..stop seconds."""
        part = slice(max(0, round(start * RATE / HOP)), max(0, round(stop * RATE / HOP)))
        return Voice(**{f.name: getattr(self, f.name)[part] for f in fields(self)})


def hear(waveform: ArrayLike, sample_rate: int = RATE) -> Voice:
    """Listen to a waveform (n,) or (channels, n) in -1..1; channels are averaged.

    Raises:
        VoiceError: shorter than a fifth of a second, silent, or what `at_rate` does not take.
    """
    sound = mono(waveform, sample_rate)
    count = 1 + len(sound) // HOP
    level, colour = np.empty(count), np.empty((count, len(_COLOUR)))
    bands, shape = np.empty((count, BANDS)), np.empty((count, BANDS))
    lags, worth = np.zeros((count, 5)), np.zeros((count, 5))
    strength = np.zeros((count, 5))
    for first in range(0, count, BLOCK):
        part = slice(first, min(first + BLOCK, count))
        level[part], bands[part], colour[part] = _timbre(_frames(sound, SHORT, part))
        long = _frames(sound, LONG, part)
        lags[part], worth[part], strength[part], first_harmonic = _candidates(long)
        colour[part, -1] = first_harmonic
    loudest = float(np.quantile(level, 0.9))
    pitch, correlation = _track(lags, worth, strength, level < loudest + GATE)
    spoken = ~np.isnan(pitch)
    ratio = np.clip(correlation, 0.05, 0.999)
    shape = bands - bands.mean(axis=1, keepdims=True)
    change = np.abs(np.diff(shape, axis=0, prepend=shape[:1])).mean(axis=1)
    return Voice(
        level=level,
        pitch=pitch,
        hnr=np.where(spoken, 10 * np.log10(ratio / (1 - ratio)), np.nan),
        cepstra=shape @ _cosines(),
        colour=colour,
        flux=change,
    )


def functionals(voice: Voice) -> Floats:
    """Sum frames up to (len(HEARD),); nan where too little was said to tell."""
    out = dict.fromkeys(HEARD, float("nan"))
    level = voice.level
    if len(level) < 10:
        return np.array(list(out.values()))
    spoken = level > np.quantile(level, 0.9) + GATE
    voiced = ~np.isnan(voice.pitch) & spoken
    where = np.flatnonzero(spoken)
    begin, end = (int(where[0]), int(where[-1]) + 1) if len(where) else (0, len(level))
    seconds = (end - begin) * HOP / RATE
    out |= _rhythm(level[begin:end], spoken[begin:end], voiced[begin:end], seconds)
    if spoken.sum() >= 10:
        out["flux"] = float(voice.flux[spoken].mean())
        out["flux_sd"] = float(voice.flux[spoken].std())
    breath = spoken & ~voiced
    if breath.sum() >= 5:
        out["unvoiced_alpha"] = float(voice.colour[breath, 0].mean())
        out["unvoiced_slope"] = float(voice.colour[breath, 3].mean())
    if voiced.sum() >= 10:
        out |= _melody(voice.pitch, voiced)
        hnr = voice.hnr[voiced]
        out["hnr_mean"], out["hnr_sd"] = float(hnr.mean()), float(hnr.std())
        out["shimmer"] = _roughness(level, voiced)
        for j, name in enumerate(_COLOUR):
            values = voice.colour[voiced, j]
            out[f"{name}_mean"], out[f"{name}_sd"] = float(values.mean()), float(values.std())
        cepstra = voice.cepstra[voiced]
        steps = np.diff(voice.cepstra, axis=0)[voiced[1:] & voiced[:-1]]
        for k in range(CEPSTRA):
            out[f"cepstrum_{k + 1}"] = float(cepstra[:, k].mean())
            out[f"cepstrum_{k + 1}_sd"] = float(cepstra[:, k].std())
            if k < 6 and len(steps):
                out[f"cepstrum_{k + 1}_movement"] = float(np.abs(steps[:, k]).mean())
    return np.array([out[name] for name in HEARD])


def mono(waveform: ArrayLike, sample_rate: int) -> Singles:
    """One channel at `RATE`, loudest sample at 1. Raises VoiceError for what is no speech."""
    sound = at_rate(waveform, sample_rate)
    if len(sound) < RATE // 5:
        msg = f"voice: {len(sound) / RATE:.2f} s is too short; give a fifth of a second or more"
        raise VoiceError(msg)
    peak = float(np.abs(sound).max())
    if peak < 1e-6:
        msg = "voice: silent; give a waveform in -1..1 with speech in it"
        raise VoiceError(msg)
    return np.asarray(sound / peak, dtype=np.float32)


def _frames(sound: Singles, size: int, part: slice) -> Singles:
    """Frames (m, size) centred on samples i * HOP, zeros beyond the ends."""
    begin, end = part.start * HOP - size // 2, (part.stop - 1) * HOP + size - size // 2
    inside = sound[max(begin, 0) : max(end, 0)]
    padded = np.pad(inside, (max(-begin, 0), end - begin - len(inside) - max(-begin, 0)))
    return sliding_window_view(padded, size)[::HOP]


# Timbre ------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _mel() -> Singles:
    """Triangles (FFT_SHORT / 2 + 1, BANDS) on the mel scale, 60 Hz to 7.2 kHz, each of sum 1."""
    ends = 1127 * np.log1p(np.array([60.0, 7200.0]) / 700)
    edges = 700 * np.expm1(np.linspace(ends[0], ends[1], BANDS + 2) / 1127)
    f = np.arange(FFT_SHORT // 2 + 1)[:, None] * RATE / FFT_SHORT
    up = (f - edges[:-2]) / np.diff(edges)[:-1]
    down = (edges[2:] - f) / np.diff(edges)[1:]
    bank = np.maximum(0, np.minimum(up, down))
    # The lowest triangles are narrower than a bin: they take the nearest one.
    empty = bank.sum(axis=0) < 1e-3
    centre = np.rint(edges[1:-1] * FFT_SHORT / RATE).astype(int)
    bank[centre[empty], np.flatnonzero(empty)] = 1
    return np.asarray(bank / bank.sum(axis=0), dtype=np.float32)


@lru_cache(maxsize=1)
def _cosines() -> Floats:
    """(BANDS, CEPSTRA) cosine transform without the mean."""
    k = np.arange(1, CEPSTRA + 1)
    return np.asarray(np.cos(np.pi * (np.arange(BANDS)[:, None] + 0.5) * k / BANDS) * 2 / BANDS)


@lru_cache(maxsize=1)
def _lines() -> tuple[Floats, Floats]:
    """Weights of band levels that give the slopes (dB an octave) of .1-.5 and .5-1.5 kHz."""
    f = np.log2(np.maximum(np.arange(FFT_SHORT // 2 + 1), 1) * RATE / FFT_SHORT)
    out = []
    for low, high in ((100, 500), (500, 1500)):
        inside = (f >= np.log2(low)) & (f <= np.log2(high))
        x = np.where(inside, f - f[inside].mean(), 0.0)
        out.append(x / (x**2).sum())
    return out[0], out[1]


def _timbre(frames: Singles) -> tuple[Floats, Floats, Floats]:
    """Frames (m, SHORT) -> level dB (m,), band levels dB (m, BANDS), colour (m, 7; last empty)."""
    window = np.hanning(SHORT).astype(np.float32)
    power = np.abs(np.fft.rfft(frames * window, FFT_SHORT, axis=1)).astype(np.float32) ** 2
    # 60 dB under the frame's own mean: a floor that moves with the level of the recording.
    floor = 1e-6 * power.mean(axis=1, keepdims=True) + 1e-12
    level = 10 * np.log10(np.square(frames).mean(axis=1) + 1e-10)
    bands = 10 * np.log10(power @ _mel() + floor)
    f = np.arange(FFT_SHORT // 2 + 1) * RATE / FFT_SHORT
    db = 10 * np.log10(power + floor)

    def total(low: float, high: float) -> Floats:
        inside = (f >= low) & (f < high)
        return np.asarray(10 * np.log10(power[:, inside].sum(axis=1) + floor[:, 0]))

    speech = (f >= 50) & (f < 5000)
    low_line, high_line = _lines()
    centroid = power[:, speech] @ f[speech] / (power[:, speech].sum(axis=1) + 1e-12)
    colour = np.column_stack(
        [
            total(1000, 5000) - total(50, 1000),
            db[:, f < 2000].max(axis=1) - db[:, (f >= 2000) & (f < 5000)].max(axis=1),
            db @ low_line,
            db @ high_line,
            db[:, speech].mean(axis=1) - 10 * np.log10(power[:, speech].mean(axis=1) + floor[:, 0]),
            np.log2(np.maximum(centroid, 50) / 100),
            np.zeros(len(frames)),
        ]
    )
    return level.astype(np.float64), bands.astype(np.float64), colour.astype(np.float64)


# Pitch -------------------------------------------------------------------------------------------


def _candidates(frames: Singles) -> tuple[Floats, Floats, Floats, Floats]:
    """Frames (m, LONG) -> pitches in octaves above 55 Hz, salience, correlation (m, 5 each).

    The last value is the first harmonic over the mean of the next two, dB (m,), at the best pitch.
    """
    window = np.hanning(LONG).astype(np.float32)
    amplitude = np.abs(np.fft.rfft(frames * window, FFT_LONG, axis=1))
    low, high = np.log2(LOWEST / 55), np.log2(HIGHEST / 55)
    octaves = np.arange(low, high + np.log2(HARMONICS), 1 / PER_OCTAVE)
    place = 55 * 2**octaves * FFT_LONG / RATE
    whole = np.minimum(place.astype(int), FFT_LONG // 2 - 1)
    share = place - whole
    spectrum = amplitude[:, whole] * (1 - share) + amplitude[:, whole + 1] * share
    spectrum = np.where(55 * 2**octaves < 3500, spectrum, 0)
    # Roots: a formant on one harmonic must not decide; and relative to the mean of the frame.
    spectrum = np.sqrt(spectrum / (amplitude.mean(axis=1, keepdims=True) + 1e-9))
    # Less the mean over half an octave: what stands out is a harmonic, what is broad a formant.
    half = PER_OCTAVE // 4
    total = np.cumsum(np.pad(spectrum, ((0, 0), (half + 1, half))), axis=1)
    spectrum = spectrum - (total[:, 2 * half + 1 :] - total[:, : -2 * half - 1]) / (2 * half + 1)
    count = int((high - low) * PER_OCTAVE)
    summed = np.zeros((len(frames), count))
    for n in range(1, HARMONICS + 1):
        shift = round(np.log2(n) * PER_OCTAVE)
        summed += FALL ** (n - 1) * np.maximum(spectrum[:, shift : shift + count], -0.2)
    peak = np.zeros_like(summed)
    middle = summed[:, 1:-1]
    top = (middle > summed[:, :-2]) & (middle >= summed[:, 2:])
    peak[:, 1:-1] = np.where(top, middle, 0)
    order = np.argsort(-peak, axis=1)[:, :5]
    worth = np.take_along_axis(peak, order, axis=1)
    inner = np.clip(order, 1, count - 2)
    a, b, c = (np.take_along_axis(summed, inner + d, axis=1) for d in (-1, 0, 1))
    bend = np.minimum(a - 2 * b + c, -1e-9)
    found = octaves[0] + (inner + np.clip(0.5 * (a - c) / bend, -0.5, 0.5)) / PER_OCTAVE
    strength = _correlation(frames, 55 * 2**found)
    bins = np.rint(55 * 2 ** found[:, :1] * FFT_LONG / RATE * np.arange(1, 4)).astype(int)
    parts = 20 * np.log10(np.take_along_axis(amplitude, bins, axis=1) + 1e-6)
    return found, worth, strength, parts[:, 0] - parts[:, 1:].mean(axis=1)


def _correlation(frames: Singles, f0: Floats) -> Floats:
    """Window-corrected autocorrelation of frames (m, LONG) at the periods of f0 (m, k)."""
    window = np.hanning(LONG)
    size = 2 * LONG

    def auto(x: NDArray[np.floating]) -> Floats:
        return np.asarray(np.fft.irfft(np.abs(np.fft.rfft(x, size, axis=-1)) ** 2, axis=-1))

    curve = auto((frames - frames.mean(axis=1, keepdims=True)) * window)
    curve /= curve[:, :1] + 1e-9
    curve /= np.maximum(auto(window) / (window**2).sum(), 0.02)
    lag = np.clip(RATE / f0, 2, LONG // 2)
    near = np.rint(lag).astype(int)[..., None] + np.arange(-1, 2)
    rows = np.arange(len(frames))[:, None, None]
    return np.asarray(curve[rows, near].max(axis=-1).clip(0, 1))


def _track(
    octave: Floats, worth: Floats, strength: Floats, quiet: NDArray[np.bool_]
) -> tuple[Floats, Floats]:
    """The smoothest strong path through the candidates: semitones (n,; nan unvoiced), strength."""
    gain = worth / (np.quantile(worth[:, 0], 0.9) + 1e-9) + strength
    voiced = (strength.max(axis=1) > VOICED) & ~quiet & (worth[:, 0] > 0)
    if voiced.any():  # what lies far from this speaker's middle is an octave error
        rows = np.flatnonzero(voiced)
        middle = np.median(octave[rows, gain[rows].argmax(axis=1)])
        gain = gain - 0.3 * np.maximum(np.abs(octave - middle) - 0.7, 0)
    total, back = gain[0].copy(), np.zeros(octave.shape, dtype=np.int8)
    for i in range(1, len(octave)):
        if not (voiced[i] and voiced[i - 1]):
            total = gain[i].copy()
            back[i] = -1
            continue
        leap = np.minimum(np.abs(octave[i][:, None] - octave[i - 1]), 1.0)
        score = total - 2.0 * leap
        back[i] = score.argmax(axis=1)
        total = gain[i] + score.max(axis=1)
    pitch, kept = np.full(len(octave), np.nan), np.zeros(len(octave))
    at = -1
    # Backwards: a run ends where the next frame begins a new one.
    totals_end = np.append(back[1:, 0] == -1, True)
    for i in range(len(octave) - 1, -1, -1):
        if totals_end[i] or at < 0:
            at = int(gain[i].argmax())
        if voiced[i] and strength[i, at] > VOICED:
            pitch[i], kept[i] = 12 * octave[i, at], strength[i, at]
        at = int(back[i, at])
    return pitch, kept


# Sums --------------------------------------------------------------------------------------------


def _runs(mask: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Where runs of true begin and end."""
    edges = np.diff(np.concatenate([[0], mask.astype(np.int8), [0]]))
    return np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)


def _rhythm(
    level: Floats, spoken: NDArray[np.bool_], voiced: NDArray[np.bool_], seconds: float
) -> dict[str, float]:
    out = {"pause_share": float(1 - spoken.mean()), "voiced_share": float(voiced.mean())}
    loud = np.maximum(level, level.max() - 50)
    values = loud[spoken]
    if len(values) > 5:
        out["level_sd"] = float(values.std())
        out["level_range"] = float(np.quantile(values, 0.95) - np.quantile(values, 0.2))
        out["level_movement"] = float(np.abs(np.diff(loud)).mean())
    begin, end = _runs(voiced)
    long = end - begin >= 3
    lengths = (end - begin)[long] * HOP / RATE
    if len(lengths):
        out["voiced_length"] = float(lengths.mean())
        out["voiced_length_sd"] = float(lengths.std())
        out["voiced_rate"] = len(lengths) / seconds
    begin, end = _runs(~voiced)
    if len(begin):
        out["unvoiced_length"] = float((end - begin).mean() * HOP / RATE)
    out["syllable_rate"] = len(syllables(level)) / max(seconds, 0.3)
    if len(loud) >= 60:
        x = loud - loud.mean()
        power = np.abs(np.fft.rfft(x * np.hanning(len(x)), max(1024, len(x)))) ** 2
        f = np.fft.rfftfreq(max(1024, len(x)), HOP / RATE)
        whole = power[(f >= 1) & (f < 20)].sum() + 1e-9
        for name, low, high in (("low", 1, 3), ("middle", 3, 6), ("high", 6, 12)):
            share = power[(f >= low) & (f < high)].sum() / whole
            out[f"modulation_{name}"] = float(np.log(share + 1e-3))
    return out


def syllables(level: Floats) -> NDArray[np.intp]:
    """Frames (10 ms) at which syllables peak: maxima of the smoothed level that stand out by 2 dB.

    After Pfitzinger, Burger and Heid (1996): the level at 4-5 syllables a second, over 1-8 Hz.
    """
    kernel = np.hanning(11)
    smooth = np.convolve(np.pad(level, 5, mode="edge"), kernel / kernel.sum(), "valid")
    smooth = np.maximum(smooth, smooth.max() - 25)
    inner = (smooth[1:-1] > smooth[:-2]) & (smooth[1:-1] >= smooth[2:])
    peaks = np.flatnonzero(inner) + 1
    kept: list[int] = []
    for at in peaks:
        if kept:
            valley = smooth[kept[-1] : at].min()
            if smooth[at] - valley < 2 or smooth[kept[-1]] - valley < 2:
                if smooth[at] > smooth[kept[-1]]:
                    kept[-1] = int(at)
                continue
        kept.append(int(at))
    return np.array(kept, dtype=np.intp)


def _roughness(values: Floats, voiced: NDArray[np.bool_]) -> float:
    """Mean |second difference| inside voiced runs."""
    inside = voiced[2:] & voiced[1:-1] & voiced[:-2]
    bend = np.abs(values[2:] - 2 * values[1:-1] + values[:-2])[inside]
    return float(np.clip(bend, 0, 6).mean()) if len(bend) else float("nan")


def _melody(pitch: Floats, voiced: NDArray[np.bool_]) -> dict[str, float]:
    values, when = pitch[voiced], np.flatnonzero(voiced) * HOP / RATE
    low, high = np.quantile(values, (0.1, 0.9))
    centred = when - when.mean()
    # Centred pitch over 50 ms: movement of the melody, without that of single periods.
    steps = [np.diff(pitch[b:e][::5]) for b, e in zip(*_runs(voiced), strict=True) if e - b >= 10]
    moves = np.concatenate(steps) if steps else np.zeros(0)
    moves = moves[np.abs(moves) < 9]
    out = {
        "mean": float(values.mean()),
        "sd": float(values.std()),
        "low": float(low),
        "high": float(high),
        "range": float(high - low),
        "slope": float((centred * values).sum() / ((centred**2).sum() + 0.1)),
        "final": float(values[when > when[-1] - 0.25].mean() - values.mean()),
        "jitter": _roughness(pitch, voiced),
    }
    if len(moves) >= 3:
        out["movement"] = float(np.abs(moves).mean() / 0.05)
        out["turns"] = float((np.diff(np.sign(moves)) != 0).mean() / 0.05)
    found = {f"pitch_{name}": value for name, value in out.items()}
    if len(moves) >= 3:
        found["pitch_rising"] = float((moves > 0.1).mean())
    return found
