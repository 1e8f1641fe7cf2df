"""The independent reader of voices: other features, another learner, only for reports.

It hears what `adapters.voice_features` measures (its own pitch, its own timbre; nothing that the
critic or the editing of voices rests on) and decides by a least-squares support vector machine
(Suykens and Vandewalle 1999): a kernel expansion over the training clips, solved in closed form. A
second set of weights serves when neutral speech of the same person is given.

It has no gradient and no ranking method on purpose: what a reader chose or guided can no longer be
reported by it. numpy only. A score says how a reader hears a voice, never what a person feels.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors.numpy import load_file, save_file

from adapters.files import replacing
from adapters.reading import Reading
from adapters.voice_analysis import RATE, VoiceError
from adapters.voice_features import HEARD, Voice, functionals, hear
from adapters.voice_reading import CLASSES, Scale, familiar, readings, soft, windows

Floats = NDArray[np.float64]

WEIGHTS, CONFIG = "model.safetensors", "config.json"
WINDOW, STEP = 1.5, 0.25
FEWEST = 12  # frames of 10 ms with a pitch, under which a stretch tells nothing


@dataclass(frozen=True, slots=True)
class Machine:
    """A kernel machine over standardised features.

    rows: (m, n) standardised training features. weights: (m, 7). width: of the kernel, for squared
    distances divided by n. heat: factor from scores to logits. centre, spread, directions,
    precision: as in `adapters.voice_reading.Scale`.
    """

    rows: Floats
    weights: Floats
    width: float
    heat: float
    centre: Floats
    spread: Floats
    directions: Floats
    precision: Floats

    @classmethod
    def fit(cls, x: Floats, labels: ArrayLike, *, width: float, ridge: float) -> Machine:
        """Fit to features (m, n) and classes (m,); classes count alike however many clips."""
        y = np.asarray(labels)
        scale = Scale.fit(x, y)
        rows = soft((x - scale.centre) / scale.spread)
        count = np.bincount(y, minlength=len(CLASSES)) * len(CLASSES) / len(y)
        wanted = np.where(np.eye(len(CLASSES))[y] > 0, 1.0, -1 / (len(CLASSES) - 1))
        gram = _kernel(rows, rows, width) + np.diag(ridge * count[y])
        weights = np.asarray(np.linalg.solve(gram, wanted), dtype=np.float64)
        return cls(
            rows, weights, width, 1.0,
            scale.centre, scale.spread, scale.directions, scale.precision,
        )  # fmt: skip

    @property
    def scale(self) -> Scale:
        """The scale of intensities."""
        return Scale(self.centre, self.spread, self.directions, self.precision)

    def scores(self, x: Floats) -> Floats:
        """Features (m, n) -> logits (m, 7)."""
        z = soft((x - self.centre) / self.spread)
        return np.asarray(_kernel(z, self.rows, self.width) @ self.weights * self.heat)


def _kernel(a: Floats, b: Floats, width: float) -> Floats:
    away = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
    return np.asarray(np.exp(-width * np.maximum(away, 0) / a.shape[1]))


class VoiceReader:
    """Two `Machine`s, for voices alone and against a reference, and what ordinary speech is like.

    usual: (n,) functionals of the mean neutral voice. domain_mean (n,), domain_whiten (n, n),
    domain_quantiles (101,): how far ordinary speech lies from the middle of the training speech.
    """

    modality = "voice"

    def __init__(
        self,
        alone: Machine,
        against: Machine,
        domain_mean: Floats,
        domain_whiten: Floats,
        domain_quantiles: Floats,
        name: str = "reader-voice",
    ) -> None:
        self.alone, self.against, self.name = alone, against, name
        self.domain_mean, self.domain_whiten = domain_mean, domain_whiten
        self.domain_quantiles = domain_quantiles

    @property
    def digest(self) -> str:
        """16 hex digits over all numbers, as they are stored."""
        h = hashlib.sha256()
        for key, value in sorted(self._tensors().items()):
            h.update(key.encode())
            h.update(value.tobytes())
        return h.hexdigest()[:16]

    def reference(
        self, items: Sequence[ArrayLike | Voice] | ArrayLike | Voice, sample_rate: int = RATE
    ) -> Floats:
        """Neutral speech of one person -> what `read` takes as its reference.

        Raises VoiceError when nobody speaks in any of the clips.
        """
        sounds: Sequence[Any] = items if isinstance(items, (list, tuple)) else [items]
        rows = [_functionals(item, sample_rate) for item in sounds]
        kept = [row for row in rows if not np.isnan(row[0])]
        if not kept:
            msg = "reference: nobody speaks in it; give some seconds of neutral speech, or nothing"
            raise VoiceError(msg)
        stacked = np.array(kept)
        known = ~np.isnan(stacked)
        return np.asarray(np.nan_to_num(stacked).sum(axis=0) / np.maximum(known.sum(axis=0), 1))

    def classes_of(self, x: Floats, reference: Floats | None = None) -> Floats:
        """Functionals (m, len(HEARD)) -> (m, 7) probabilities; neutral where nobody speaks."""
        machine, z = self._placed(x, reference)
        logits = machine.scores(z)
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        p[np.isnan(x[:, 0])] = np.eye(len(CLASSES))[0]
        return np.asarray(p)

    def classes(
        self,
        items: Sequence[ArrayLike | Voice],
        reference: Floats | None = None,
        sample_rate: int = RATE,
    ) -> Floats:
        """(m, 7) probabilities of `CLASSES` of waveforms or of what was heard of them."""
        rows = [_functionals(item, sample_rate) for item in items]
        return self.classes_of(np.array(rows).reshape(-1, len(HEARD)), reference)

    def read(
        self,
        items: Sequence[ArrayLike | Voice],
        reference: Floats | None = None,
        sample_rate: int = RATE,
    ) -> list[Reading]:
        """Read waveforms (n,) or (channels, n) in -1..1, or what was heard of them.

        reference: what `reference` made of the same person's neutral speech. Raises VoiceError for
        what is no sound or silent.
        """
        rows = [_functionals(item, sample_rate) for item in items]
        return self.read_functionals(np.array(rows).reshape(-1, len(HEARD)), reference)

    def read_functionals(self, x: Floats, reference: Floats | None = None) -> list[Reading]:
        """Read functionals (m, len(HEARD)); rows of nan are neutral and abstain."""
        if not len(x):
            return []
        machine, z = self._placed(x, reference)
        silent = np.isnan(x[:, 0])
        far = np.where(silent[:, None], 0.0, machine.scale.amplitudes(z))
        known = np.where(silent, 0.0, familiar(self.distance(x), self.domain_quantiles))
        return readings(self.classes_of(x, reference), far, known, self.name)

    def read_over_time(
        self,
        item: ArrayLike | Voice,
        reference: Floats | None = None,
        window: float = WINDOW,
        step: float = STEP,
        sample_rate: int = RATE,
    ) -> tuple[Floats, list[Reading]]:
        """Times (t,) in seconds and the readings of the seconds around each of them."""
        voice = item if isinstance(item, Voice) else hear(item, sample_rate)
        times, begins = windows(voice.seconds, window, step)
        loud = float(np.quantile(voice.level, 0.9))
        rows = []
        for begin in begins.tolist():
            part = voice.between(begin, begin + window)
            # A window without speech must not take its own noise for a quiet voice.
            said = (part.level > loud - 30) & ~np.isnan(part.pitch)
            row = functionals(part)
            rows.append(row if said.sum() >= FEWEST else np.full(len(HEARD), np.nan))
        return times, self.read_functionals(np.array(rows), reference)

    def distance(self, x: Floats) -> Floats:
        """Functionals (m, n) -> (m,) how far from the middle of the speech it was trained on."""
        z = soft((x - self.alone.centre) / self.alone.spread)
        return np.asarray(np.linalg.norm((z - self.domain_mean) @ self.domain_whiten, axis=1))

    def _placed(self, x: Floats, reference: Floats | None) -> tuple[Machine, Floats]:
        if x.ndim != 2 or x.shape[1] != len(HEARD):
            msg = f"features: (m, {len(HEARD)}) are read, received {x.shape}"
            raise ValueError(msg)
        return (self.alone, x) if reference is None else (self.against, x - reference)

    def _tensors(self) -> dict[str, NDArray[np.float32]]:
        out = {
            f"{kind}.{field.name}": np.asarray(getattr(machine, field.name))
            for kind, machine in (("alone", self.alone), ("against", self.against))
            for field in fields(Machine)
        }
        for key in ("domain_mean", "domain_whiten", "domain_quantiles"):
            out[key] = getattr(self, key)
        return {k: np.ascontiguousarray(v, dtype=np.float32).reshape(np.shape(v) or (1,))
                for k, v in out.items()}  # fmt: skip

    def save(self, folder: Path) -> None:
        """Write config.json and model.safetensors (float32)."""
        config = {"_class_name": "VoiceReader", "label": self.name, "features": list(HEARD)}
        with replacing(folder / WEIGHTS) as path:
            save_file(self._tensors(), path)
        with replacing(folder / CONFIG) as path:
            path.write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> VoiceReader:
        """Read what `save` wrote. Raises ValueError, one line, for what does not fit."""
        again = "make it again with python -m training.voice_critic"
        try:
            config: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
            stored = load_file(folder / WEIGHTS)
            names, label = tuple(config["features"]), str(config["label"])
        except Exception as error:
            msg = f"critic: {folder} is damaged ({error}); restore it from version control"
            raise ValueError(msg.replace("\n", " ")) from error
        if names != HEARD:
            msg = f"critic: {folder} reads other features than this version measures; {again}"
            raise ValueError(msg)
        machines = []
        for kind in ("alone", "against"):
            parts: dict[str, Any] = {
                field.name: stored.get(f"{kind}.{field.name}") for field in fields(Machine)
            }
            if any(value is None for value in parts.values()):
                raise ValueError(f"critic: {folder} lacks weights; {again}")
            parts = {key: value.astype(np.float64) for key, value in parts.items()}
            parts |= {key: float(parts[key][0]) for key in ("width", "heat")}
            machines.append(Machine(**parts))
        try:
            rest = [
                stored[f"domain_{key}"].astype(np.float64)
                for key in ("mean", "whiten", "quantiles")
            ]
        except KeyError as error:
            raise ValueError(f"critic: {folder} lacks {error}; {again}") from error
        return cls(machines[0], machines[1], rest[0], rest[1], rest[2], label)


def _functionals(item: ArrayLike | Voice, sample_rate: int) -> Floats:
    """Functionals of a waveform or of what was heard; all nan where nobody speaks."""
    voice = item if isinstance(item, Voice) else hear(item, sample_rate)
    if (~np.isnan(voice.pitch)).sum() < FEWEST:
        return np.full(len(HEARD), np.nan)
    return functionals(voice)
