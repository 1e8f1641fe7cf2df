"""What a voice does, frame by frame: pitch, level, colour, breath, and where somebody speaks.

`analyse` turns a waveform of any rate into the rows that edits of a voice are planned on and that
learned parts read. Frames are 16 ms apart; frame i is centred on i * 16 ms, and there are
1 + samples // 256 of them at 16 kHz.

* `mel` is computed exactly as transformers' SpeechT5FeatureExtractor does (64 ms periodic Hann,
  80 Slaney bands from 80 to 7,600 Hz, log10 of the magnitude), so that vocoders of that family
  take it as it is.
* `bands` is the spectral envelope without pitch and without level: the power spectrum averaged
  over one fundamental (after CheapTrick, Morise 2015), so that a harmonic that slides through a
  narrow band is not taken for a change of colour, in 24 bands on the mel scale.
* `breath` is noise to harmonics above 1.5 kHz; `hnr` harmonics to noise of the whole (Boersma
  1993); `tilt` the alpha ratio of GeMAPS (Eyben 2016), energy of 1-5 kHz to that of 50-1,000 Hz.

It deliberately knows no emotion, no file format and no edit. numpy only. Long sounds are read in
blocks: beside the 16 kHz samples, memory grows by half a kilobyte a frame (10 minutes: 20 MB).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

from adapters import f0 as f0_tracker
from adapters.resampling import resampled

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Flags = NDArray[np.bool_]

RATE = f0_tracker.RATE
"""Samples a second that are analysed."""
HOP = 256
"""Samples between frames: 16 ms."""
WINDOW = 1024
MELS = 80
BANDS = 24
"""Bands of the envelope, evenly on the mel scale from 60 to 7,800 Hz; see `BAND_CENTRES`."""
QUIETEST = -100.0
"""dB full scale given to digital silence."""
LONGEST = 3600.0
"""Seconds that are analysed at the most."""

_MEL_FLOOR = 1e-10
_BLOCK = 512  # frames: 8 s
_FLOOR_DB = -60.0  # of a band below the frame's level: what lies deeper is the recorder's noise
_PAUSE = 0.15  # s: shorter gaps inside speech (stops, closures) belong to it


class VoiceError(ValueError):
    """A sound that cannot be used as a voice; one line that says what to change."""


@dataclass(frozen=True, slots=True)
class Analysis:
    """Frames of a voice. T = 1 + samples // HOP rows, float32 unless said otherwise.

    samples: how many at `RATE`. f0: (T,) Hz, 0 where unvoiced. voicing: (T,) periodicity 0..1.
    energy: (T,) dB full scale, RMS of 64 ms. mel: (T, 80) log10 magnitude. bands: (T, 24) dB re
    the frame's mean over the bands (each row has mean 0). hnr: (T,) dB, 0 where unvoiced. breath:
    (T,) dB, noise to harmonics above 1.5 kHz, 0 where unvoiced. tilt: (T,) dB, alpha ratio. speech:
    (T,) bool, somebody speaks (pauses under 0.15 s count as speech). contour: (1 + samples // 128,)
    Hz, the pitch every 8 ms.
    """

    samples: int
    f0: Singles
    voicing: Singles
    energy: Singles
    mel: Singles
    bands: Singles
    hnr: Singles
    breath: Singles
    tilt: Singles
    speech: Flags
    contour: Singles

    def __len__(self) -> int:
        return len(self.f0)

    @property
    def seconds(self) -> float:
        """How long the voice lasts."""
        return self.samples / RATE

    @property
    def times(self) -> Floats:
        """(T,) seconds of the frames' centres."""
        return np.asarray(np.arange(len(self)) * (HOP / RATE), dtype=np.float64)

    @property
    def voiced(self) -> Flags:
        """(T,) bool: the frame has a pitch."""
        return self.f0 > 0

    @property
    def level(self) -> float:
        """Mean power of the frames with speech, dB full scale; `QUIETEST` where nobody speaks."""
        if not self.speech.any():
            return QUIETEST
        power = 10 ** (self.energy[self.speech].astype(np.float64) / 10)
        return float(10 * np.log10(power.mean()))


def analyse(
    waveform: ArrayLike, sample_rate: int, on_block: Callable[[], None] | None = None
) -> Analysis:
    """Analyse a voice.

    waveform: (samples,) or (channels, samples), -1..1; channels are averaged. sample_rate: Hz,
    4,000 to 192,000. Silence is analysed like anything else: unvoiced, nobody speaks. on_block:
    called several times in long sounds; may raise, to stop.

    Raises:
        VoiceError: no samples, another shape, not finite, over an hour, or another rate.
    """
    x = at_rate(waveform, sample_rate)
    pitch = f0_tracker.track(x, on_block)
    frames = 1 + len(x) // HOP
    padded = np.pad(x, WINDOW // 2, mode="reflect" if len(x) > 1 else "edge")
    windows = sliding_window_view(padded, WINDOW)[::HOP]
    f0 = pitch.f0[::2]
    mel = np.empty((frames, MELS), dtype=np.float32)
    bands = np.empty((frames, BANDS), dtype=np.float32)
    energy, tilt = (np.empty(frames, dtype=np.float32) for _ in range(2))
    for first in range(0, frames, _BLOCK):
        part = slice(first, min(first + _BLOCK, frames))
        rows = _block(windows[part], f0[part])
        mel[part], bands[part], energy[part], tilt[part] = rows
        if on_block is not None:
            on_block()
    return Analysis(
        samples=len(x),
        f0=f0.copy(),
        voicing=pitch.strength[::2].copy(),
        energy=energy,
        mel=mel,
        bands=bands,
        hnr=pitch.hnr[::2].copy(),
        breath=pitch.noise[::2].copy(),
        tilt=tilt,
        speech=speech_of(energy, f0 > 0),
        contour=pitch.f0,
    )


def at_rate(waveform: ArrayLike, sample_rate: int) -> Singles:
    """One channel at `RATE`: float32 (ceil(samples * RATE / sample_rate),).

    Raises:
        VoiceError: as `analyse` does.
    """
    given = np.asarray(waveform)
    if given.ndim not in (1, 2) or not given.size or (given.ndim == 2 and given.shape[0] > 16):
        msg = f"voice: (samples,) or (channels, samples) is read, received the shape {given.shape}"
        raise VoiceError(f"{msg}; give a sound that has samples")
    if not 4000 <= sample_rate <= 192_000:
        msg = f"voice: 4,000 to 192,000 samples a second are read, received {sample_rate}"
        raise VoiceError(f"{msg}; resample it")
    if given.shape[-1] > LONGEST * sample_rate:
        hours = given.shape[-1] / sample_rate / 3600
        msg = f"voice: at most {LONGEST / 3600:g} hour is read, this lasts {hours:.1f}; cut it"
        raise VoiceError(msg)
    x = given if given.ndim == 1 else given.mean(axis=0)
    x = np.ascontiguousarray(x, dtype=np.float32)
    if not np.isfinite(x).all():
        msg = "voice: holds samples that are no finite numbers; export it again"
        raise VoiceError(msg)
    return resampled(x, sample_rate, RATE)


# --- spectra


def _block(windows: Singles, f0: Singles) -> tuple[Singles, Floats, Floats, Floats]:
    """Frames (n, WINDOW) -> mel (n, 80), bands (n, 24), energy (n,) dB, tilt (n,) dB."""
    hann = np.hanning(WINDOW + 1)[:-1].astype(np.float32)
    magnitude = np.abs(np.fft.rfft(windows * hann, axis=1))
    mel = np.log10(np.maximum(magnitude @ mel_filters(), _MEL_FLOOR)).astype(np.float32)
    power = np.square(magnitude, dtype=np.float64)
    # Parseval with the window's own power: a sine of amplitude 1 reads -3 dB
    total = (2 * power.sum(axis=1) - power[:, 0] - power[:, -1]) / (
        WINDOW * np.square(hann, dtype=np.float64).sum()
    )
    energy = np.maximum(10 * np.log10(total + 1e-12), QUIETEST)
    f = np.fft.rfftfreq(WINDOW, 1 / RATE)
    low = power[:, (f >= 50) & (f < 1000)].sum(axis=1)
    high = power[:, (f >= 1000) & (f <= 5000)].sum(axis=1)
    # 50 dB at the most: under a hiss there is nothing but rounding
    tiny = 1e-5 * power.sum(axis=1) + 10 ** (QUIETEST / 10)
    tilt = 10 * np.log10((high + tiny) / (low + tiny))
    return mel, envelope_bands(power, f0), energy, tilt


def envelope_bands(power: Floats, f0: Singles) -> Floats:
    """Power spectra (n, 513) and pitch (n,) Hz -> envelope (n, 24) dB, every row of mean 0.

    Each spectrum is averaged over a width of one fundamental (130 Hz where there is none), which
    holds just one harmonic wherever it is put; below the first one stands its image at 0 Hz.
    """
    bins = power.shape[1]
    width = np.where(f0 > 0, f0, 130.0) * (WINDOW / RATE)
    low = np.arange(int(width.max()) + 1)
    image = np.clip(width[:, None] - low, 0, None)
    whole = image.astype(np.intp)
    here = np.take_along_axis(power, whole, axis=1)
    there = np.take_along_axis(power, whole + 1, axis=1)
    image = np.where(low < width[:, None] / 2, here + (image - whole) * (there - here), 0)
    power = np.concatenate([power[:, : len(low)] + image, power[:, len(low) :]], axis=1)
    # the spectrum goes on mirrored below 0 Hz and flat above the top
    reach = int(width.max()) + 2
    wide = np.concatenate(
        [power[:, reach:0:-1], power, np.repeat(power[:, -1:], reach, axis=1)], axis=1
    )
    total = np.concatenate([np.zeros((len(power), 1)), np.cumsum(wide, axis=1)], axis=1)
    middle = np.arange(bins) + reach + 0.5
    ends = []
    for side in (-0.5, 0.5):
        at = middle + side * width[:, None]
        whole = at.astype(np.intp)
        here = np.take_along_axis(total, whole, axis=1)
        ends.append(here + (at - whole) * (np.take_along_axis(total, whole + 1, axis=1) - here))
    smooth = (ends[1] - ends[0]) / width[:, None]
    level = smooth.mean(axis=1, keepdims=True)
    db = 10 * np.log10(smooth @ _band_filters() + level * 10 ** (_FLOOR_DB / 10) + 1e-12)
    return np.asarray(db - db.mean(axis=1, keepdims=True))


@lru_cache(maxsize=1)
def mel_filters() -> Singles:
    """(513, 80) triangles with Slaney's mel scale and areas, 80 to 7,600 Hz."""
    # Slaney's Auditory Toolbox: linear to 1 kHz (200/3 Hz a mel), then 27 steps for a factor 6.4
    step = np.log(6.4) / 27

    def mel_of(hertz: float) -> float:
        return hertz * 3 / 200 if hertz < 1000 else 15 + float(np.log(hertz / 1000)) / step

    mel = np.linspace(mel_of(80.0), mel_of(7600.0), MELS + 2)
    edges = np.where(mel < 15, mel * 200 / 3, 1000 * np.exp(step * (mel - 15)))
    f = np.fft.rfftfreq(WINDOW, 1 / RATE)[:, None]
    up = (f - edges[:-2]) / np.diff(edges)[:-1]
    down = (edges[2:] - f) / np.diff(edges)[1:]
    triangles = np.maximum(0, np.minimum(up, down)) * (2 / (edges[2:] - edges[:-2]))
    return np.asarray(triangles, dtype=np.float32)


def _edges() -> Floats:
    mel = np.linspace(1127 * np.log1p(60 / 700), 1127 * np.log1p(7800 / 700), BANDS + 2)
    return np.asarray(700 * np.expm1(mel / 1127))


BAND_CENTRES: Floats = _edges()[1:-1]
"""(24,) Hz."""


@lru_cache(maxsize=1)
def _band_filters() -> Floats:
    """(513, 24) triangles that overlap by half, each of sum 1."""
    edges = _edges()
    f = np.fft.rfftfreq(WINDOW, 1 / RATE)[:, None]
    up = (f - edges[:-2]) / np.diff(edges)[:-1]
    down = (edges[2:] - f) / np.diff(edges)[1:]
    triangles = np.maximum(0, np.minimum(up, down))
    return np.asarray(triangles / triangles.sum(axis=0))


# --- speech


def speech_of(energy: Singles, voiced: Flags) -> Flags:
    """Frames in which somebody speaks, from levels (T,) dB and voicing (T,).

    Loud enough is 8 dB above the noise (the 5 % quantile, but at most 20 dB below the voice) and
    within 38 dB of the voice (the mean of the loudest tenth). Without 5 voiced frames (80 ms)
    nobody speaks: noise and clatter.
    """
    if voiced.sum() < 5:
        return np.zeros(len(energy), dtype=np.bool_)
    loud = np.sort(energy)[-max(1, len(energy) // 10) :].mean()
    noise = min(float(np.quantile(energy, 0.05)), float(loud) - 28)
    speech = energy > max(noise + 8, float(loud) - 38)
    speech |= voiced & (energy > loud - 45)
    edge = np.diff(np.concatenate([[0], speech.view(np.int8), [0]]))
    starts, stops = np.flatnonzero(edge == 1), np.flatnonzero(edge == -1)
    for stop, start in zip(stops[:-1], starts[1:], strict=True):
        if start - stop <= _PAUSE * RATE / HOP:
            speech[stop:start] = True
    return np.asarray(speech)
