"""Whether it is still the same person, and still the same words: two meters for converted speech.

`speaker_similarity` is the cosine of two embeddings: means and spreads of level-free cepstra of the
spectral envelope over voiced frames, and the pitch, whitened by how much one person varies from
clip to clip and mood to mood (within-class covariance normalisation, Hatch et al. 2006). It learned
that from eight people; `Speaker.same` says what share of pairs of takes of one person are at most
as alike, which is easier to read than a cosine.

`intelligibility` follows the sounds: both clips are aligned by dynamic time warping of cepstra
without their means and spreads (Sakoe and Chiba 1978). 1 is the same sounds, 0 what unrelated
sentences reach. It is a stand-in for a word error rate, which needs a recogniser that does not ship
here, and it cannot tell which word went wrong.

It deliberately knows no emotion and no file of sound. numpy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors.numpy import load_file, save_file

from adapters.assets import ASSETS
from adapters.files import replacing
from adapters.voice_analysis import BANDS, RATE, Analysis, VoiceError, analyse

Floats = NDArray[np.float64]
Sound = ArrayLike | Analysis

CEPSTRA = 19
SIZE = 2 * CEPSTRA + 1
FEWEST = 20  # voiced frames: a third of a second
WEIGHTS = ASSETS / "models" / "critic-voice" / "speaker.safetensors"
LONGEST = 1250  # frames that are aligned (20 s): the cost grows with the square


@dataclass(frozen=True, slots=True)
class Speaker:
    """What was learned about people. All float64.

    mean: (SIZE,) of all voices. whiten: (SIZE, k). same, other: (101,) quantiles of the similarity
    of two clips of one person, in any mood, and of two people. unrelated: (1,) mean distance of
    aligned unrelated sentences; repeated: (1,) of two takes of one sentence by one person.
    """

    mean: Floats
    whiten: Floats
    same: Floats
    other: Floats
    unrelated: Floats
    repeated: Floats

    def embedding(self, raw: Floats) -> Floats:
        """(SIZE,) of `voice_statistics` -> a vector of length 1."""
        z = (raw - self.mean) @ self.whiten
        return np.asarray(z / max(float(np.linalg.norm(z)), 1e-9))

    def similarity(self, a: Sound, b: Sound, sample_rate: int = RATE) -> float:
        """Cosine -1..1 of two clips. Raises VoiceError where nobody speaks."""
        one, two = (self.embedding(voice_statistics(x, sample_rate)) for x in (a, b))
        return float(one @ two)

    def share_of_same(self, similarity: float) -> float:
        """Share 0..1 of pairs of clips of one person that are at most as alike."""
        return float(np.interp(similarity, self.same, np.linspace(0, 1, 101)))

    def share_of_other(self, similarity: float) -> float:
        """Share 0..1 of pairs of different people that are at least as alike."""
        return float(1 - np.interp(similarity, self.other, np.linspace(0, 1, 101)))

    def save(self, path: Path) -> None:
        """Write safetensors (float32)."""
        rows = {f.name: getattr(self, f.name).astype(np.float32) for f in fields(self)}
        with replacing(path) as fresh:
            save_file({k: np.ascontiguousarray(v) for k, v in rows.items()}, fresh)

    @classmethod
    def load(cls, path: Path) -> Speaker:
        """Read what `save` wrote. Raises ValueError, one line."""
        try:
            stored = load_file(path)
            return cls(**{f.name: stored[f.name].astype(np.float64) for f in fields(cls)})
        except Exception as error:
            msg = f"speaker: {path} cannot be read ({error}); restore it from version control"
            raise ValueError(msg.replace("\n", " ")) from error


@lru_cache(maxsize=1)
def shipped() -> Speaker:
    """The `Speaker` of the assets."""
    return Speaker.load(WEIGHTS)


def speaker_similarity(a: Sound, b: Sound, sample_rate: int = RATE) -> float:
    """Cosine -1..1 of two clips (waveforms, or analyses): 1 the same voice, about 0 another.

    Level does not matter. Raises VoiceError where nobody speaks for a third of a second.
    """
    return shipped().similarity(a, b, sample_rate)


def intelligibility(source: Sound, converted: Sound, sample_rate: int = RATE) -> float:
    """How far the sounds of two clips follow each other: 1 the same, 0 unrelated sentences.

    Two takes of one sentence by one person come to about .5 (the model card says); only the first
    20 s count. Raises VoiceError where nobody speaks.
    """
    away = content_distance(source, converted, sample_rate)
    return float(np.clip(1 - away / float(shipped().unrelated[0]), 0, 1))


def voice_statistics(item: Sound, sample_rate: int = RATE) -> Floats:
    """(SIZE,) means and spreads of cepstra 1..19 in dB, and the median pitch in semitones / 12."""
    analysis = item if isinstance(item, Analysis) else analyse(item, sample_rate)
    voiced = analysis.voiced & analysis.speech
    if voiced.sum() < FEWEST:
        msg = "speaker: nobody speaks for a third of a second; give a clip with a voice in it"
        raise VoiceError(msg)
    cepstra = analysis.bands[voiced].astype(np.float64) @ _cosines()
    pitch = np.log2(np.median(analysis.f0[voiced]) / 55)
    return np.concatenate([cepstra.mean(axis=0), cepstra.std(axis=0), [pitch]])


def fit_speaker(
    rows: Floats, people: Sequence[str], *, shrink: float = 0.1, kept: int = SIZE
) -> tuple[Floats, Floats]:
    """Mean and whitening of `voice_statistics` (m, SIZE) of several people in several moods."""
    names = np.asarray(people)
    mean = np.mean([rows[names == name].mean(axis=0) for name in np.unique(names)], axis=0)
    rest = np.concatenate([rows[names == n] - rows[names == n].mean(axis=0) for n in set(people)])
    within = rest.T @ rest / len(rest)
    scale = np.sqrt(np.diag(within))
    correlation = within / np.outer(scale, scale)
    correlation = (1 - shrink) * correlation + shrink * np.eye(len(scale))
    values, vectors = np.linalg.eigh(correlation)
    return mean, (vectors / np.sqrt(values))[:, -kept:] / scale[:, None]


@lru_cache(maxsize=1)
def _cosines() -> Floats:
    """(BANDS, CEPSTRA) cosine transform without the mean."""
    k = np.arange(1, CEPSTRA + 1)
    return np.asarray(np.cos(np.pi * (np.arange(BANDS)[:, None] + 0.5) * k / BANDS) * 2 / BANDS)


# Words -------------------------------------------------------------------------------------------


def content_distance(a: Sound, b: Sound, sample_rate: int = RATE) -> float:
    """Mean distance of aligned frames, about 0 (the same recording) to 1.2 (other sentences)."""
    one, two = (_content(item, sample_rate) for item in (a, b))
    return _warped(one, two)


def _content(item: Sound, sample_rate: int) -> Floats:
    """(T, 13) twelve cepstra and the level over speech, every one of mean 0 and spread 1."""
    analysis = item if isinstance(item, Analysis) else analyse(item, sample_rate)
    where = np.flatnonzero(analysis.speech)
    if len(where) < FEWEST:
        msg = "words: nobody speaks for a third of a second; give a clip with a voice in it"
        raise VoiceError(msg)
    part = slice(int(where[0]), min(int(where[-1]) + 1, int(where[0]) + LONGEST))
    cepstra = analysis.bands[part].astype(np.float64) @ _cosines()[:, :12]
    level = np.maximum(analysis.energy[part], analysis.level - 30)
    rows = np.column_stack([cepstra, level])
    return np.asarray((rows - rows.mean(axis=0)) / (rows.std(axis=0) + 1e-3))


def _warped(a: Floats, b: Floats) -> float:
    """Mean cost of the cheapest monotone path, diagonal by diagonal; steps (1,1), (1,0), (0,1)."""
    cost = ((a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T) / a.shape[1]
    cost = np.sqrt(np.maximum(cost, 0))
    n, m = cost.shape
    # Totals of the last two diagonals by row, one place down; a diagonal step counts double.
    last, before = np.full(n + 1, np.inf), np.full(n + 1, np.inf)
    for d in range(n + m - 1):
        rows = np.arange(max(0, d - m + 1), min(n, d + 1))
        here = cost[rows, d - rows]
        total = np.minimum(last[rows + 1], last[rows]) + here  # (0,1) and (1,0)
        total = np.minimum(total, before[rows] + 2 * here)
        if d == 0:
            total = 2 * here
        fresh = np.full(n + 1, np.inf)
        fresh[rows + 1] = total
        before, last = last, fresh
    return float(last[n] / (n + m))
