"""Speech for the critics of voices: clips, recordings of other rooms, and what is measured of them.

Every clip of EmoDB is measured as it is and in `SESSIONS` made-up recording sessions: one room,
microphone, noise and band limit for all clips of a speaker, and a speed of its own for each clip,
so that a reference of a session fits its clips as it does in real use. Measuring takes .1 s a
second of speech, so it is kept under the work folder.

The licences are in the data's own README: EmoDB, Kerstin and Thorsten CC0, LJSpeech public domain,
VCTK CC BY 4.0, CREMA-D ODbL. Only EmoDB and Kerstin are trained on.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adapters.files import replacing
from adapters.voice_analysis import RATE, analyse, at_rate
from adapters.voice_critic import CLASSES, frames_of
from adapters.voice_cues import cue_vector
from adapters.voice_features import functionals, hear
from pipelines.media_sound import load_sound

Rows = np.ndarray

HELD_SPEAKERS = ("emodb_12", "emodb_16")
"""A man and a woman that no shipped weight has heard."""
HELD_SENTENCES = ("a07", "b10")
"""Sentences that no shipped weight has heard."""
SESSIONS = 4
"""Made-up recording sessions of each speaker."""
NAMES = {
    "angry": "anger", "bored": "boredom", "disgusted": "disgust", "fearful": "fear",
    "happy": "happiness", "sad": "sadness", "neutral": "neutral", "surprised": "surprise",
    "amused": "amusement",
}  # fmt: skip


@dataclass(frozen=True)
class Clip:
    """One row of the manifest. emotion: one of `NAMES`' values, or what the manifest says."""

    path: str
    dataset: str
    speaker: str
    sex: str
    emotion: str
    sentence: str
    split: str

    @property
    def target(self) -> int:
        """Place in `CLASSES`, -1 for what is not among them."""
        return CLASSES.index(self.emotion) if self.emotion in CLASSES else -1


@dataclass(frozen=True)
class Measured:
    """What the critics see of a clip in one session (0 is the clip as it is).

    frames: (T, CHANNELS) of `frames_of`. cues: (len(CUES),). heard: (len(HEARD),).
    """

    clip: Clip
    session: int
    frames: Rows
    cues: Rows
    heard: Rows


def clips(data: Path) -> list[Clip]:
    """All rows of the manifest."""
    with (data / "manifest.csv").open(encoding="utf-8") as file:
        return [
            Clip(
                path=row["path"],
                dataset=row["dataset"].split(" ")[0],
                speaker=row["speaker"],
                sex=row["sex"],
                emotion=NAMES.get(row["emotion"], row["emotion"]),
                sentence=row["sentence_id"],
                split=row["split"],
            )
            for row in csv.DictReader(file)
        ]


def load(clip: Clip, data: Path) -> Rows:
    """The waveform, one channel at `RATE`."""
    sound = load_sound(data / clip.path)
    return at_rate(sound.waveform, sound.sample_rate)


def seeded(*parts: object) -> np.random.Generator:
    """A generator that depends on the words only, on every machine."""
    digest = hashlib.sha256(" ".join(map(str, parts)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))


def recorded(sound: Rows, speaker: str, session: int, clip: str) -> Rows:
    """A clip as it would sound in another session: speed, room, colour, band limit, noise, gain.

    Session 0 is the clip as it is. Speed (and pitch with it) +-5 %, echo of .1-.4 s 8-24 dB down,
    colour within +-6 dB, telephone to full band, noise 12-36 dB down, gain -20..+6 dB.
    """
    if session == 0:
        return sound
    room, own = seeded(speaker, session), seeded(speaker, session, clip)
    x = at_rate(sound, round(RATE * own.uniform(0.95, 1.05))).astype(np.float64)
    size = 1 << int(np.ceil(np.log2(len(x) + RATE // 2)))
    f = np.fft.rfftfreq(size, 1 / RATE)
    spectrum = np.fft.rfft(x, size)
    if room.random() < 0.6:
        tail = np.arange(round(0.4 * RATE)) / RATE
        decay = room.normal(size=len(tail)) * np.exp(-6.9 * tail / room.uniform(0.1, 0.4))
        decay[: round(0.004 * RATE)] = 0
        decay *= 10 ** (-room.uniform(8, 24) / 20) / np.sqrt((decay**2).sum())
        decay[0] = 1
        spectrum *= np.fft.rfft(decay, size)
    nodes = np.log2([60, 180, 500, 1400, 3600, 7800])
    colour = np.interp(
        np.log2(np.maximum(f, 40)), nodes, room.uniform(-1, 1, 6) * room.uniform(1, 6)
    )
    spectrum *= 10 ** (colour / 20)
    if room.random() < 0.5:
        top = float(np.exp(room.uniform(np.log(3400), np.log(7500))))
        spectrum *= 1 / (1 + (f / top) ** 16)
    if room.random() < 0.3:
        bottom = room.uniform(80, 300)
        spectrum *= 1 / (1 + (bottom / np.maximum(f, 1)) ** 8)
    x = np.fft.irfft(spectrum, size)[: len(x)]
    ratio, pink = room.uniform(12, 36), room.random()
    noise = np.fft.rfft(own.normal(size=size)) / np.maximum(f / 300, 1) ** pink
    hiss = np.fft.irfft(noise, size)[: len(x)]
    hiss *= np.sqrt((x**2).mean() / (hiss**2).mean()) * 10 ** (-ratio / 20)
    gain = 10 ** (own.uniform(-20, 6) / 20)
    return np.clip((x + hiss) * gain, -1, 1).astype(np.float32)


def measure(clip: Clip, session: int, data: Path) -> Measured:
    """Measure one clip in one session."""
    sound = recorded(load(clip, data), clip.speaker, session, clip.path)
    analysis = analyse(sound, RATE)
    return Measured(
        clip=clip,
        session=session,
        frames=frames_of(analysis).astype(np.float16),
        cues=cue_vector(analysis),
        heard=functionals(hear(sound)),
    )


def measured(chosen: Sequence[Clip], session: int, data: Path, work: Path) -> Iterator[Measured]:
    """Measure clips, speaker by speaker; kept in work/measured."""
    for speaker in sorted({clip.speaker for clip in chosen}):
        rows = [clip for clip in chosen if clip.speaker == speaker]
        path = work / "measured" / f"{speaker}-{session}.npz"
        if not path.is_file():
            found = [measure(clip, session, data) for clip in rows]
            with replacing(path) as fresh:
                np.savez(
                    fresh,
                    paths=np.array([m.clip.path for m in found]),
                    lengths=np.array([len(m.frames) for m in found]),
                    frames=np.concatenate([m.frames for m in found]),
                    cues=np.array([m.cues for m in found]),
                    heard=np.array([m.heard for m in found]),
                )
        kept = np.load(path)
        place = {str(name): i for i, name in enumerate(kept["paths"])}
        ends = np.cumsum(kept["lengths"])
        frames, cues, heard = kept["frames"], kept["cues"], kept["heard"]
        for clip in rows:
            i = place[clip.path]
            yield Measured(
                clip, session, frames[ends[i] - kept["lengths"][i] : ends[i]], cues[i], heard[i]
            )


def usual(every: Sequence[Clip]) -> list[Clip]:
    """The clips that are measured: all, but of Kerstin's 361 every fourth."""
    kerstin = [clip for clip in every if clip.dataset == "Kerstin"]
    return [clip for clip in every if clip.dataset != "Kerstin"] + kerstin[::4]
