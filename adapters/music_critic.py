"""Critics of music: a piece or its sound in, what a listener is expected to read in it out.

Two independent readers. `MusicCritic` reads notes (`adapters.music_attributes.features`) and may
guide, rerank and calibrate. `MusicReader` hears the rendered waveform (`adapters.audio_features`)
and only reports. Never print the critic's score of something it chose without the reader beside it.

Both are the same small Gaussian model with other eyes (`AffectModel`): a feature is a linear
function of valence and arousal plus noise with a full covariance. Linear because Eerola, Friberg
and Bresin (2013) found cues to add up without interactions (77-89 % of the ratings), and adding a
product of valence and arousal explains another .01 at most. From the posterior follow valence and
arousal with their variances, the four quadrants, and, over a grid of intensities, the twelve
emotions. Emotions that sound alike share the evidence: music cannot tell anger from fear for sure,
and the probabilities say so.

This file knows neither how the models were fitted (training.music_critic) nor any file of music.
numpy only. A score says how a critic reads a piece, never what a person feels.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors.numpy import load_file, save_file

from adapters.assets import ASSETS
from adapters.audio_features import HEARD, Hearing, functionals, hear
from adapters.emotion import CORE, VAD
from adapters.files import replacing
from adapters.music_attributes import FEATURES, features
from adapters.piece import Piece
from adapters.reading import Reading

Floats = NDArray[np.float64]

QUADRANTS = ("Q1", "Q2", "Q3", "Q4")
"""Pleasant and lively, unpleasant and lively, unpleasant and calm, pleasant and calm."""
SIGNS: Floats = np.array([[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]])
"""(4, 2) valence and arousal of the quadrants in quadrant units."""

# Full intensity lies at twice the mean distance of labelled pieces from the neutral centre: there
# pieces made along a quadrant's direction were read right .83 to .91 of the time, at once .67 to
# .70. So two quadrant units are the mean |valence| and |arousal| of the twelve emotions.
UNIT: Floats = np.abs(VAD[:, :2]).mean(axis=0) / 2
"""(2,) valence and arousal, on the scale of `VAD`, of one quadrant unit."""
LEVELS: Floats = np.arange(1, 7) / 6
"""Intensities over which the evidence is summed, equally likely beforehand."""
NEUTRAL = 0.2
"""Share of pieces expected to be neutral beforehand; the rest is shared by the twelve."""
SOFT = 4.0
"""Deviations at which a feature saturates: one absurd count must not decide alone."""
WINDOW, STEP = 6.0, 1.0
"""Seconds read at once and between readings over time: about four bars, moved by half a bar."""
LONGER = 2.0
"""How many times longer the window of valence is: six seconds hold two or three chords, no key."""
FEWEST, FEWEST_ATTACKS = 4, 2
"""Notes and attacks under which a stretch of music tells nothing."""


@dataclass(frozen=True, slots=True)
class AffectModel:
    """Features as linear functions of valence and arousal with Gaussian noise.

    With n features, all float64. centre, scale: (n,) of a neutral piece and of its usual spread.
    loadings: (n, 2) deviations a quadrant unit of valence and of arousal moves a feature.
    precision: (n, n) inverse covariance of what valence and arousal leave. emotions: (12, n)
    deviations of each emotion at full intensity. domain_mean (n,), domain_whiten (n, n),
    domain_quantiles (101,): how far ordinary music lies from the middle of ordinary music.
    """

    centre: Floats
    scale: Floats
    loadings: Floats
    precision: Floats
    emotions: Floats
    domain_mean: Floats
    domain_whiten: Floats
    domain_quantiles: Floats

    def deviations(self, x: ArrayLike) -> Floats:
        """Features (m, n) -> softly clipped deviations; 0 where a feature is nan (not measurable).

        Raises ValueError when the number of features is another one.
        """
        rows = np.atleast_2d(np.asarray(x, dtype=np.float64))
        if rows.shape[1] != len(self.centre):
            msg = f"features: the model reads {len(self.centre)}, received {rows.shape[1]}"
            raise ValueError(msg)
        z = (rows - self.centre) / self.scale
        return np.asarray(np.where(np.isnan(z), 0.0, SOFT * np.tanh(z / SOFT)))

    def affect(self, z: Floats) -> tuple[Floats, Floats]:
        """Deviations (m, n) -> posterior mean (m, 2) and variance (2,), in quadrant units.

        The prior is the spread of the twelve emotions over all intensities.
        """
        spread = (LEVELS**2).mean() * ((VAD[:, :2] / UNIT) ** 2).mean(axis=0)
        evidence = self.loadings.T @ self.precision
        covariance = np.linalg.inv(np.diag(1 / spread) + evidence @ self.loadings)
        return z @ evidence.T @ covariance.T, np.diag(covariance)

    def quadrants(self, z: Floats) -> Floats:
        """Deviations (m, n) -> probabilities (m, 4) of `QUADRANTS`, equally likely beforehand."""
        return _softmax(_likelihood(z, SIGNS @ self.loadings.T, self.precision))

    def emotion_posterior(self, z: Floats) -> Floats:
        """Deviations (m, n) -> (m, 12, levels): how likely each emotion at each of `LEVELS` is."""
        grid = (self.emotions[:, None] * LEVELS[:, None]).reshape(-1, len(self.centre))
        likelihood = _likelihood(z, grid, self.precision)
        prior = np.full(likelihood.shape[1], np.log((1 - NEUTRAL) / likelihood.shape[1]))
        neutral = np.full((len(z), 1), np.log(NEUTRAL))
        joint = _softmax(np.concatenate([neutral, likelihood + prior], axis=1))
        return joint[:, 1:].reshape(len(z), len(CORE), len(LEVELS))

    def amplitudes(self, z: Floats) -> Floats:
        """Deviations (m, n) -> (m, 12) how far along each emotion's direction; 1 full intensity."""
        weight = self.emotions @ self.precision
        return np.asarray(z @ weight.T / (weight * self.emotions).sum(axis=1))

    def familiarity(self, x: ArrayLike) -> Floats:
        """Features (m, n) -> (m,) share of ordinary music at least as unusual, 0..1."""
        away = np.linalg.norm((self.deviations(x) - self.domain_mean) @ self.domain_whiten, axis=1)
        return np.asarray(1 - np.searchsorted(self.domain_quantiles, away).clip(0, 100) / 100)

    def readings(self, x: ArrayLike, reader: str) -> list[Reading]:
        """Features (m, n) -> readings.

        probabilities: the expected soft label, so neutral is what the expected intensities leave.
        intensities: how far along the emotion's direction, times how likely the emotion is
        compared with the likeliest. Dominance is no musical cue: it is that of the mixture.
        """
        z = self.deviations(x)
        joint = self.emotion_posterior(z)
        expected = joint @ LEVELS
        p = np.column_stack([1 - expected.sum(axis=1), expected])
        kind = joint.sum(axis=2)
        intensity = self.amplitudes(z).clip(0, 1) * kind / kind.max(axis=1, keepdims=True)
        mean, variance = self.affect(z)
        dominance = expected @ VAD[:, 2]
        spread = (expected @ VAD[:, 2] ** 2 - dominance**2).clip(0.02)
        vad = np.column_stack([(mean * UNIT).clip(-1, 1), dominance])
        doubt = np.column_stack([np.tile(variance * UNIT**2, (len(z), 1)), spread])
        return [
            Reading(tuple(a), tuple(b), tuple(c), tuple(d), float(k), reader)
            for a, b, c, d, k in zip(
                p.tolist(),
                intensity.tolist(),
                vad.tolist(),
                doubt.tolist(),
                self.familiarity(x),
                strict=True,
            )
        ]

    @property
    def digest(self) -> str:
        """16 hex digits over all numbers."""
        h = hashlib.sha256()
        for field in fields(self):
            h.update(field.name.encode())
            h.update(np.ascontiguousarray(getattr(self, field.name), dtype=np.float64).tobytes())
        return h.hexdigest()[:16]


class MusicCritic:
    """Reads pieces by attributes counted from their notes; may guide, rerank and calibrate."""

    modality = "music"

    def __init__(
        self, model: AffectModel, names: Sequence[str], name: str = "critic-music"
    ) -> None:
        self.model, self.names, self.name = model, tuple(names), name
        self._columns = _columns(self.names, FEATURES, name)

    @property
    def digest(self) -> str:
        """16 hex digits that change with the model."""
        return self.model.digest

    def measured(self, pieces: Sequence[Piece]) -> Floats:
        """(m, n) the features the model reads; nan where a piece cannot tell."""
        rows = [features(piece) for piece in pieces]
        return np.array(rows).reshape(-1, len(FEATURES))[:, self._columns]

    def read(self, items: Sequence[Piece]) -> list[Reading]:
        """Read pieces; one without notes reads as neutral and as unlike any music."""
        if not items:
            return []
        found = self.model.readings(self.measured(items), self.name)
        return [
            reading if len(piece) >= FEWEST else replace(reading, in_domain=0.0)
            for piece, reading in zip(items, found, strict=True)
        ]

    def quadrants(self, items: Sequence[Piece]) -> Floats:
        """(m, 4) probabilities of `QUADRANTS`."""
        return self.model.quadrants(self.model.deviations(self.measured(items)))

    def read_over_time(
        self, item: Piece, window: float = WINDOW, step: float = STEP
    ) -> tuple[Floats, Floats, Floats]:
        """Times (t,) in seconds, and valence and arousal (t,) of the seconds around them, -1..1."""
        start = item.seconds_at(item.onset)
        held = item.seconds_at(item.offset) - start

        def row(begin: float, end: float) -> Floats | None:
            inside = (start >= begin) & (start < end)
            if inside.sum() < FEWEST:
                return None
            # 60 bpm: a beat is a second, and the window starts at 0 whatever the tempo map was.
            part = replace(
                item.select(inside),
                onset=start[inside] - begin,
                duration=held[inside],
                tempo=np.array([[0.0, 60.0]]),
                pedal=item.pedal[:0],
                bars=max(1, round(end - begin)),
                beats_per_bar=1.0,
            )
            return features(part)[self._columns]

        return _curves(self.model, row, item.seconds, window, step)


class MusicReader:
    """Hears rendered audio; independent of the critic, so it only reports."""

    modality = "music"

    def __init__(
        self, model: AffectModel, names: Sequence[str], name: str = "reader-music"
    ) -> None:
        self.model, self.names, self.name = model, tuple(names), name
        self._columns = _columns(self.names, HEARD, name)

    @property
    def digest(self) -> str:
        """16 hex digits that change with the model."""
        return self.model.digest

    def measured(self, items: Sequence[ArrayLike], sample_rate: int = 44100) -> Floats:
        """(m, n) the functionals the model reads; nan where a sound cannot tell."""
        rows = [functionals(hear(item, sample_rate)) for item in items]
        return np.array(rows).reshape(-1, len(HEARD))[:, self._columns]

    def read(self, items: Sequence[ArrayLike], sample_rate: int = 44100) -> list[Reading]:
        """Read waveforms (n,) or (channels, n) in -1..1.

        Raises SoundError (a ValueError), one line, for what is no sound or silent.
        """
        return self.model.readings(self.measured(items, sample_rate), self.name) if items else []

    def quadrants(self, items: Sequence[ArrayLike], sample_rate: int = 44100) -> Floats:
        """(m, 4) probabilities of `QUADRANTS`."""
        return self.model.quadrants(self.model.deviations(self.measured(items, sample_rate)))

    def read_over_time(
        self,
        item: ArrayLike | Hearing,
        window: float = WINDOW,
        step: float = STEP,
        sample_rate: int = 44100,
    ) -> tuple[Floats, Floats, Floats]:
        """Times (t,) in seconds, and valence and arousal (t,) of the seconds around them, -1..1."""
        heard = item if isinstance(item, Hearing) else hear(item, sample_rate)

        def row(begin: float, end: float) -> Floats | None:
            struck = (heard.attacks >= begin) & (heard.attacks < end)
            if struck.sum() < FEWEST_ATTACKS:
                return None
            return functionals(heard, begin, end)[self._columns]

        return _curves(self.model, row, heard.seconds, window, step)


class Readable(Protocol):
    """What reports need of a reading: valence first, arousal second."""

    @property
    def vad_mean(self) -> tuple[float, ...]:
        """(3,) valence, arousal, dominance."""
        ...


def quadrant(reading: Readable) -> str:
    """Name of the quadrant of a reading's valence and arousal; 0 counts as pleasant and lively."""
    valence, arousal = reading.vad_mean[:2]
    if arousal >= 0:
        return "Q1" if valence >= 0 else "Q2"
    return "Q4" if valence >= 0 else "Q3"


CLASSES: Mapping[str, type[MusicCritic] | type[MusicReader]] = {
    "MusicCritic": MusicCritic,
    "MusicReader": MusicReader,
}
WEIGHTS, CONFIG = "model.safetensors", "config.json"


def load_music_critic(name: str | Path = "critic-music") -> MusicCritic | MusicReader:
    """Load a critic of music by the name of its folder in assets/models, or by any folder path.

    A bare name that ships with the project is that one, whatever lies in the working folder.

    Raises:
        ValueError: the folder is missing, holds another class, or does not fit this version.
    """
    shipped = ASSETS / "models" / Path(name).name
    bare = Path(name).name == str(name)
    folder = shipped if bare and (shipped / CONFIG).is_file() else Path(name).expanduser()
    if not (folder / CONFIG).is_file():
        known = sorted(path.parent.name for path in (ASSETS / "models").glob(f"*-music/{CONFIG}"))
        msg = f"critic: {name} not found; use a folder, or one of {', '.join(known) or 'none yet'}"
        raise ValueError(msg)
    try:
        config: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        kind = config["_class_name"]
        tensors = load_file(folder / WEIGHTS) if kind in CLASSES else {}
        names, label = config["features"], str(config["label"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        msg = f"critic: {folder} is damaged ({error}); restore it from version control"
        raise ValueError(msg) from error
    if kind not in CLASSES:
        msg = f"critic: {folder} holds a {kind}; expected one of {', '.join(CLASSES)}"
        raise ValueError(msg)
    wanted = {field.name for field in fields(AffectModel)}
    if set(tensors) != wanted:
        msg = f"critic: {folder} lacks {', '.join(sorted(wanted - set(tensors))) or 'nothing'}"
        raise ValueError(f"{msg}; make it again with python -m training.music_critic")
    model = AffectModel(**{key: value.astype(np.float64) for key, value in tensors.items()})
    return CLASSES[kind](model, names, label)


def save_music_critic(critic: MusicCritic | MusicReader, folder: Path) -> None:
    """Write config.json and model.safetensors (float64: they are a few kilobytes)."""
    tensors = {
        field.name: np.ascontiguousarray(getattr(critic.model, field.name), dtype=np.float64)
        for field in fields(AffectModel)
    }
    config = {
        "_class_name": type(critic).__name__,
        "label": critic.name,
        "features": list(critic.names),
    }
    with replacing(folder / WEIGHTS) as path:
        save_file(tensors, path)
    with replacing(folder / CONFIG) as path:
        path.write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def _columns(names: Sequence[str], known: Sequence[str], critic: str) -> list[int]:
    unknown = [name for name in names if name not in known]
    if unknown:
        msg = (
            f"critic: {critic} reads {', '.join(unknown)}, which this version does not measure; "
            "make it again with python -m training.music_critic"
        )
        raise ValueError(msg)
    return [known.index(name) for name in names]


def _curves(
    model: AffectModel,
    row: Callable[[float, float], Floats | None],
    seconds: float,
    window: float,
    step: float,
) -> tuple[Floats, Floats, Floats]:
    """Times, valence and arousal (t,); `row` gives the features of a stretch, None for nothing.

    Stretches that tell nothing take the readings of their neighbours.
    """
    if window <= 0 or step <= 0:
        msg = f"window and step: more than 0 seconds, received {window:g} and {step:g}"
        raise ValueError(msg)
    times = np.arange(0.0, max(seconds, 1e-6), step)
    read = []
    for axis, width in ((0, LONGER * window), (1, window)):
        begins = np.clip(times - width / 2, 0.0, max(0.0, seconds - width))
        rows = [row(float(begin), float(begin) + width) for begin in begins]
        told = [i for i, found in enumerate(rows) if found is not None]
        if not told:
            read.append(np.zeros(len(times)))
            continue
        mean, _ = model.affect(model.deviations(np.array([rows[i] for i in told])))
        value = (mean[:, axis] * UNIT[axis]).clip(-1, 1)
        read.append(np.interp(times, times[told], value))
    return times, read[0], read[1]


def _likelihood(z: Floats, means: Floats, precision: Floats) -> Floats:
    """Log likelihood (m, k) of deviations (m, n) under means (k, n), up to a constant of z."""
    weight = means @ precision
    return np.asarray(z @ weight.T - 0.5 * (weight * means).sum(axis=1))


def _softmax(logits: Floats) -> Floats:
    out = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(out / out.sum(axis=1, keepdims=True))
