"""A synthetic voice whose pitch is known exactly: harmonics under formants, hisses and pauses."""

from __future__ import annotations

import numpy as np

FORMANTS = ((700, 90), (1220, 110), (2600, 160), (3500, 250))  # Hz and bandwidth of an "a"


def voiced(pitch: np.ndarray, rate: int = 16000, breath: float = 0.02, seed: int = 0) -> np.ndarray:
    """Harmonics of pitch (samples,) Hz under the formants, with a little noise; peak about 0.5."""
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    x = np.zeros(len(pitch))
    for h in range(1, int(0.45 * rate / pitch.min()) + 1):
        f = h * pitch
        gain = np.where(f < 0.46 * rate, 1 / h, 0.0)
        for centre, width in FORMANTS:
            gain = gain * (1 + 8 / (1 + ((f - centre) / width) ** 2))
        x += gain * np.cos(h * phase)
    x *= 0.5 / np.abs(x).max()
    return (x + breath * 0.5 * hiss(len(x), rate, seed)).astype(np.float32)


def hiss(samples: int, rate: int = 16000, seed: int = 0) -> np.ndarray:
    """An "s": noise above 3 kHz, standard deviation about 0.1."""
    x = np.random.default_rng(seed).standard_normal(samples)
    f = np.fft.rfftfreq(samples, 1 / rate)
    x = np.fft.irfft(np.fft.rfft(x) * np.clip((f - 2000) / 1500, 0, 1), samples)
    return (0.1 * x).astype(np.float32)


def glide(low: float, high: float, seconds: float, rate: int = 16000) -> np.ndarray:
    """Pitch (samples,) that rises or falls evenly in octaves."""
    return low * (high / low) ** np.linspace(0, 1, round(seconds * rate))


def sentence(rate: int = 16000, pitch: float = 120.0) -> np.ndarray:
    """1.9 s: pause, falling vowel, "s", rising vowel, pause, vowel, pause."""

    def fade(x: np.ndarray) -> np.ndarray:
        edge = round(0.015 * rate)
        x[:edge] *= np.linspace(0, 1, edge)
        x[-edge:] *= np.linspace(1, 0, edge)
        return x

    def quiet(seconds: float) -> np.ndarray:
        return np.zeros(round(seconds * rate), np.float32)

    parts = [
        quiet(0.2),
        fade(voiced(glide(pitch * 1.2, pitch, 0.4, rate), rate)),
        fade(hiss(round(0.15 * rate), rate)),
        fade(voiced(glide(pitch, pitch * 1.3, 0.35, rate), rate)),
        quiet(0.25),
        fade(voiced(glide(pitch * 1.1, pitch * 0.8, 0.4, rate), rate)),
        quiet(0.15),
    ]
    return np.concatenate(parts)
