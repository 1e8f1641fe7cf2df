"""The sound of a film: speech in its place, other sounds, music that steps back under speech.

Speech is brought to one loudness, music and other sounds lie below it by what is asked; music is
ducked ahead of the words and comes back after them. The whole is brought to `LOUDNESS`. Single
peaks are held down by at most `HELD` decibels, ahead of their time; where that is not enough all is
quieter, so that no peak, between samples neither, passes `PEAK` and nothing is clipped. Every piece
begins and ends with a short fade, so that no cut clicks.

It deliberately knows no files and no scene. numpy only. Loudness: ITU-R BS.1770-4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters.resampling import resampled

Singles = NDArray[np.float32]
Floats = NDArray[np.float64]

RATE = 44_100  # Hz; that of the composer's piano
LOUDNESS = -16.0  # LUFS: what streaming services play speech and film sound at (AES TD1008)
PEAK = -1.0  # dB of full scale, true peak (EBU R 128)
SPEECH = -18.0  # LUFS that speech is brought to before the mix
HELD = 6.0  # dB: what a limiter takes from the peaks of speech before it is heard to work
LOOK = 0.005  # s that peaks are held ahead and after
FADE = 0.008  # s: two periods of 250 Hz; shorter clicks, longer eats consonants
AHEAD, ATTACK, RELEASE = 0.25, 0.12, 0.7  # s; music is down when a word begins, and is not hurried
SILENT = -40.0  # dB under the loudest moment of speech: below it nobody speaks
BRIDGED = 0.6  # s between words in which music does not come up
TICK = 0.01  # s between values of the gain
BLOCK, HOP, GATE = 0.4, 0.1, -70.0  # s, s, LUFS of BS.1770


@dataclass(frozen=True, slots=True)
class Placed:
    """A sound in its place. waveform: float32 (channels, samples) at RATE; at: s; volume: dB.

    speech: whether words are said in it, which music steps back under.
    """

    waveform: Singles
    at: float
    volume: float = 0.0
    speech: bool = False


@dataclass(frozen=True, slots=True)
class Mix:
    """A finished sound: float32 (2, samples) at RATE, and what was done to it.

    gain: (ticks,) dB of the music over time, one every TICK seconds. loudness: LUFS. peak: dB.
    """

    waveform: Singles
    gain: Floats
    loudness: float
    peak: float


def mix(
    seconds: float,
    sounds: Sequence[Placed],
    music: Singles | None = None,
    *,
    volume: float = -9.0,
    duck: float = 9.0,
    fade_out: float = 0.0,
) -> Mix:
    """Mix a film's sound.

    Args:
        seconds: of the film; what is longer is cut, softly.
        sounds: in their places; each that is speech is first brought to the loudness of SPEECH.
        music: float32 (channels, samples) at RATE from the film's beginning, None for none.
        volume: dB of the music against speech, where nobody speaks.
        duck: dB that it steps back under speech.
        fade_out: s in which everything ends.
    """
    count = round(seconds * RATE)
    whole = np.zeros((2, count), dtype=np.float32)
    spoken = np.zeros(count, dtype=np.float32)
    for sound in sounds:
        level = SPEECH - loudness(sound.waveform) if sound.speech else 0.0
        part = _faded(_stereo(sound.waveform) * _ratio(level + sound.volume))
        begin = round(sound.at * RATE)
        part = part[:, : max(0, count - begin)]
        whole[:, begin : begin + part.shape[1]] += part
        if sound.speech:
            spoken[begin : begin + part.shape[1]] += part.mean(axis=0)
    gain = np.zeros(round(seconds / TICK) + 2)
    if music is not None:
        gain = ducking(spoken, seconds, duck)
        below = SPEECH + volume - loudness(music)
        played = _stereo(music)[:, :count] * _ratio(below)
        played = np.pad(played, ((0, 0), (0, count - played.shape[1])))
        at = np.arange(count) / RATE
        whole += _faded(played) * _ratio(np.interp(at, np.arange(len(gain)) * TICK, gain))
    if fade_out:
        tail = min(count, round(fade_out * RATE))
        whole[:, count - tail :] *= np.cos(np.linspace(0, np.pi / 2, tail)) ** 2
    whole = _faded(whole)
    found, top = loudness(whole), peak(whole)
    if np.isfinite(found):
        whole *= _ratio(min(LOUDNESS - found, PEAK + HELD - top))
        whole = limited(whole)
        whole *= _ratio(min(0.0, PEAK - peak(whole)))
        found, top = loudness(whole), peak(whole)
    return Mix(whole.astype(np.float32), gain, found, top)


def ducking(spoken: Singles, seconds: float, duck: float) -> Floats:
    """The gain of music in dB, 0 where nobody speaks and -duck where somebody does.

    spoken: float32 (samples,) at RATE. Returns (ticks,), one every TICK seconds. It falls within
    ATTACK, AHEAD of the words, and rises in RELEASE after them; short pauses are bridged.
    """
    size = round(TICK * RATE)
    ticks = round(seconds / TICK) + 2
    level = np.zeros(ticks)
    frames = spoken[: len(spoken) // size * size].reshape(-1, size)
    rms = np.sqrt((frames.astype(np.float64) ** 2).mean(axis=1))[:ticks]
    level[: len(rms)] = rms
    if not level.max() > 0 or not duck:
        return np.zeros(ticks)
    talking = level > level.max() * _ratio(SILENT)
    where = np.flatnonzero(talking)
    for before, after in pairwise(where.tolist()):
        if (after - before) * TICK <= BRIDGED + AHEAD:
            talking[before:after] = True
    ahead = round(AHEAD / TICK)
    target = np.where(talking, -duck, 0.0)
    target = np.array([target[i : i + ahead + 1].min() for i in range(ticks)])
    gain, now = np.empty(ticks), float(target[0])
    for i, wanted in enumerate(target):
        seconds_to = ATTACK if wanted < now else RELEASE
        # 95 % of the way within the time.
        now += (wanted - now) * (1 - np.exp(-3 * TICK / seconds_to))
        gain[i] = now
    return gain


def limited(waveform: Singles) -> Singles:
    """The same with peaks over PEAK held down, smoothly and LOOK seconds ahead.

    waveform: float32 (channels, samples). Peaks between samples may pass PEAK by a little.
    """
    top = np.abs(waveform).max(axis=0)
    need = np.minimum(1.0, _ratio(PEAK) / np.maximum(top, 1e-9))
    if need.min() >= 1:
        return waveform
    size = round(LOOK * RATE)
    # The least gain within LOOK to either side, then its mean over as long: it is there in time.
    padded = np.pad(need, size, constant_values=1.0)
    least = padded.copy()
    reach = 1
    while reach < 2 * size + 1:
        step = min(reach, 2 * size + 1 - reach)
        least[: len(least) - step] = np.minimum(least[: len(least) - step], least[step:])
        reach += step
    least = np.pad(least[: len(need)], size, mode="edge")
    sums = np.cumsum(np.pad(least, (1, 0)), dtype=np.float64)
    gain = (sums[2 * size + 1 :] - sums[: len(need)]) / (2 * size + 1)
    return np.asarray(waveform * gain.astype(np.float32))


def loudness(waveform: Singles) -> float:
    """Integrated loudness in LUFS of (channels, samples) at RATE, -inf for silence."""
    channels = np.atleast_2d(waveform).astype(np.float64)
    if not channels.size or not channels.any():
        return -np.inf
    count = channels.shape[1]
    spectrum = np.fft.rfft(channels, axis=1) * _weight(np.fft.rfftfreq(count, 1 / RATE))
    weighted = np.fft.irfft(spectrum, count, axis=1) ** 2
    size, hop = round(BLOCK * RATE), round(HOP * RATE)
    sums = np.concatenate([[0.0], np.cumsum(weighted.sum(axis=0))])
    starts = np.arange(0, max(1, count - size + 1), hop)
    ends = np.minimum(starts + size, count)
    power = (sums[ends] - sums[starts]) / (ends - starts)
    if len(channels) == 1:
        power = power * 2  # one channel is heard from both sides
    level = -0.691 + 10 * np.log10(np.maximum(power, 1e-20))
    kept = level > GATE
    if not kept.any():
        return -np.inf
    gate = -0.691 + 10 * np.log10(power[kept].mean()) - 10
    return float(-0.691 + 10 * np.log10(power[kept & (level > gate)].mean()))


def peak(waveform: Singles) -> float:
    """Highest peak in dB of full scale, between the samples as well; -inf for silence."""
    channels = np.atleast_2d(waveform)
    top = max(float(np.abs(resampled(row, RATE, 4 * RATE)).max(initial=0.0)) for row in channels)
    return float(20 * np.log10(top)) if top > 0 else -np.inf


def _weight(hertz: NDArray[Any]) -> Floats:
    """How much a frequency counts: the two filters of BS.1770-4 (tables 1 and 2), as amplitude."""
    z = np.exp(-2j * np.pi * np.minimum(hertz, 24_000) / 48_000)
    shelf = np.polyval([1.19839281085285, -2.69169618940638, 1.53512485958697], z)
    shelf /= np.polyval([0.73248077421585, -1.69065929318241, 1.0], z)
    high = np.polyval([1.0, -2.0, 1.0], z)
    high /= np.polyval([0.99007225036621, -1.99004745483398, 1.0], z)
    return np.asarray(np.abs(shelf * high))


def _ratio(decibels: float | Floats) -> Singles:
    """Amplitude of a level; 1 where there is none, so that silence stays silence."""
    known = np.where(np.isfinite(decibels), decibels, 0.0)
    return np.asarray(10.0 ** (known / 20), dtype=np.float32)


def _stereo(waveform: Singles) -> Singles:
    """Two channels of one, two or more."""
    channels = np.atleast_2d(waveform)
    if len(channels) != 2:
        channels = np.repeat(channels.mean(axis=0, keepdims=True), 2, axis=0)
    return np.asarray(channels, dtype=np.float32)


def _faded(waveform: Singles) -> Singles:
    """The same with a fade of FADE seconds at both ends."""
    edge = min(round(FADE * RATE), waveform.shape[1] // 2)
    if not edge:
        return waveform
    done = np.array(waveform, dtype=np.float32)
    ramp = (0.5 - 0.5 * np.cos(np.pi * (np.arange(edge) + 0.5) / edge)).astype(np.float32)
    done[:, :edge] *= ramp
    done[:, -edge:] *= ramp[::-1]
    return done
