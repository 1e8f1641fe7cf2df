"""The independent reader of faces: geometry of rendered pixels, published prototypes, for reports.

What it sees are points that a mesh found again in the pictures that were made
(`adapters.face_geometry`), never the curves they were made from. What it learned are faces that
this project does not draw: textbook prototypes with the shares of people who use each unit (EMFACS;
Du, Tao & Martinez 2014), moved by displacements measured on another head model, on made-up people
(`training.portrait_faces`). It decides by regularised least squares on Gaussian kernels around
chosen examples (Williams & Seeger 2001).

It has no gradient and no ranking method on purpose: what a reader chose or guided can no longer be
reported by it. numpy only. A score says how a reader reads a face, never what a person feels.
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

from adapters.face_geometry import FEATURES, GeometryError, Landmarks, blinking, features
from adapters.face_reading import CLASSES, EXPRESSIONS, readings
from adapters.files import replacing
from adapters.reading import Reading

Floats = NDArray[np.float64]
Seen = Landmarks | tuple[ArrayLike, ArrayLike]
"""A face over time: `Landmarks`, or its frames (T, 478, 2) and rest (478, 2) in pixels."""

WEIGHTS, CONFIG = "model.safetensors", "config.json"
WINDOW, STEP = 1.0, 0.25
"""Seconds read at once and between readings over time."""
SOFT = 3.5
"""Standard deviations at which features stop: drawn faces have proportions that no person has."""


@dataclass(frozen=True)
class FaceReader:
    """A kernel machine over `face_geometry.features`.

    centre, spread: (n,) of the features. rows: (m, n) standardised examples. weights: (m + 1, 15),
    the last row a constant: eight scores of `CLASSES`, then strengths of the seven `EXPRESSIONS`.
    width: of the kernel, for squared distances divided by n. heat: factor from scores to logits.
    domain_mean (n,), domain_whiten (n, n), domain_quantiles (101,): how unusual examples are.
    """

    centre: Floats
    spread: Floats
    rows: Floats
    weights: Floats
    width: float
    heat: float
    domain_mean: Floats
    domain_whiten: Floats
    domain_quantiles: Floats
    name: str = "reader-portrait"

    modality = "portrait"

    @classmethod
    def fit(
        cls,
        x: Floats,
        wanted: Floats,
        *,
        centres: int = 600,
        width: float = 0.3,
        ridge: float = 0.03,
        seed: int = 0,
    ) -> FaceReader:
        """Fit to features (m, n) and what is wanted of them (m, 15); `centres` examples are kept.

        All classes weigh alike, however many examples each has.

        Raises ValueError when fewer examples are given.
        """
        if len(x) < centres or x.shape[1] != len(FEATURES):
            msg = f"examples: need {centres} or more of ({len(FEATURES)},), received {x.shape}"
            raise ValueError(f"{msg}; make more of them")
        centre, spread = x.mean(axis=0), x.std(axis=0) + 1e-6
        z = soft((x - centre) / spread)
        kept = np.random.default_rng(seed).permutation(len(z))[:centres]
        rows = z[kept]
        k = np.column_stack([_kernel(z, rows, width), np.ones(len(z))])
        inner = np.zeros((centres + 1, centres + 1))
        inner[:-1, :-1] = _kernel(rows, rows, width)
        own = wanted[:, : len(CLASSES)]
        each = (own @ (len(own) / np.maximum(own.sum(axis=0), 1.0) / len(CLASSES)))[:, None]
        left = k.T @ (each * k) + ridge * inner + 1e-6 * np.eye(centres + 1)
        weights = np.linalg.solve(left, k.T @ (each * wanted))
        mean = z.mean(axis=0)
        values, vectors = np.linalg.eigh(np.cov(z.T) + 0.05 * np.eye(z.shape[1]))
        whiten = vectors / np.sqrt(values)
        away = np.linalg.norm((z - mean) @ whiten, axis=1)
        quantiles = np.quantile(away, np.linspace(0, 1, 101))
        return cls(centre, spread, rows, weights, width, 1.0, mean, whiten, quantiles)

    # --- reading

    def scores(self, x: Floats) -> Floats:
        """Features (m, n) -> (m, 15): logits of `CLASSES`, then strengths."""
        z = soft((np.atleast_2d(x) - self.centre) / self.spread)
        k = np.column_stack([_kernel(z, self.rows, self.width), np.ones(len(z))])
        out = np.asarray(k @ self.weights)
        out[:, : len(CLASSES)] *= self.heat
        return out

    def classes(self, items: Sequence[Seen]) -> Floats:
        """(m, 8) probabilities of `CLASSES`, a row for each item: means over its frames."""
        return np.array([self._item(item)[0] for item in items]).reshape(-1, len(CLASSES))

    def strengths(self, items: Sequence[Seen]) -> Floats:
        """(m, 7) how strong each of `EXPRESSIONS` looks, 0 to 1; without regard to the others."""
        found = np.array([self._item(item)[1] for item in items])
        return found.reshape(-1, len(EXPRESSIONS)).clip(0.0, 1.0)

    def read(self, items: Sequence[Seen]) -> list[Reading]:
        """Read each item as a whole. Frames with closed lids are left out where others remain."""
        if not items:
            return []
        found = [self._item(item) for item in items]
        return readings(
            np.array([row[0] for row in found]),
            np.array([row[1] for row in found]),
            [row[2] for row in found],
            self.name,
        )

    def read_over_time(
        self, item: Seen, fps: float = 10.0, window: float = WINDOW, step: float = STEP
    ) -> tuple[Floats, list[Reading]]:
        """Times (t,) in seconds and the readings of the seconds around each of them.

        fps: frames of `item` a second; takes are measured 10 times a second.
        """
        if not (fps > 0 and window > 0 and step > 0):
            msg = f"fps, window, step: more than 0, received {fps:g}, {window:g} and {step:g}"
            raise GeometryError(f"{msg}; use 30, 1 and .25")
        item = _landmarks(item)
        times = np.arange(0.0, max(len(item) / fps, 1e-6), step)
        half = max(1, round(window * fps / 2))
        parts = []
        for time in times:
            middle = min(round(time * fps), len(item) - 1)
            part = item.frames[max(0, middle - half) : middle + half + 1]
            parts.append(Landmarks(part, item.rest))
        return times, self.read(parts)

    def _item(self, item: Seen) -> tuple[Floats, Floats, float]:
        """Probabilities (8,), strengths (7,) and familiarity of one item."""
        item = _landmarks(item)
        shut = blinking(item.frames, item.rest)
        frames = item.frames[~shut] if not shut.all() else item.frames
        x = features(frames, item.rest)
        found = self.scores(x).mean(axis=0)
        logits = found[: len(CLASSES)]
        p = np.exp(logits - logits.max())
        z = soft((x.mean(axis=0) - self.centre) / self.spread) - self.domain_mean
        away = float(np.linalg.norm(z @ self.domain_whiten))
        unusual = np.searchsorted(self.domain_quantiles, away).clip(0, 100)
        return p / p.sum(), found[len(CLASSES) :], float(1 - unusual / 100)

    # --- files

    @property
    def digest(self) -> str:
        """16 hex digits over all numbers, as they are stored."""
        h = hashlib.sha256()
        for key, value in sorted(self._tensors().items()):
            h.update(key.encode())
            h.update(value.tobytes())
        return h.hexdigest()[:16]

    def _tensors(self) -> dict[str, NDArray[np.float32]]:
        return {
            field.name: np.atleast_1d(np.asarray(getattr(self, field.name), dtype=np.float32))
            for field in fields(self)
            if field.name != "name"
        }

    def save(self, folder: Path | str) -> Path:
        """Write weights and config into a folder, each whole or not at all."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        with replacing(target / WEIGHTS) as fresh:
            save_file(self._tensors(), fresh)
        about = {
            "_class_name": "FaceReader",
            "name": self.name,
            "features": list(FEATURES),
            "classes": list(CLASSES),
        }
        with replacing(target / CONFIG) as fresh:
            fresh.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        return target

    @classmethod
    def load(cls, folder: Path | str) -> FaceReader:
        """Read what `save` wrote.

        Raises:
            ValueError: files are missing, damaged, or of another version.
        """
        source = Path(folder)
        again = "restore it from version control"
        try:
            config: dict[str, Any] = json.loads((source / CONFIG).read_text(encoding="utf-8"))
            stored = load_file(source / WEIGHTS)
            same = config["features"] == list(FEATURES) and config["classes"] == list(CLASSES)
            name = str(config["name"])
        except Exception as error:
            raise ValueError(f"critic: {source} is damaged ({error}); {again}") from error
        wanted = {field.name for field in fields(cls)} - {"name"}
        if not same or set(stored) != wanted:
            raise ValueError(f"critic: {source} is of another version; {again}")
        parts: dict[str, Any] = {key: value.astype(np.float64) for key, value in stored.items()}
        parts |= {key: float(parts[key][0]) for key in ("width", "heat")}
        return cls(**parts, name=name)


def _landmarks(item: Any) -> Landmarks:
    if isinstance(item, Landmarks):
        return item
    if isinstance(item, tuple) and len(item) == 2:
        return Landmarks(*item)
    msg = f"landmarks: the reader reads Landmarks, received {type(item).__name__}"
    raise GeometryError(f"{msg}; measure rendered frames")


def soft(z: Floats) -> Floats:
    """Deviations, softly stopped at `SOFT`."""
    return np.asarray(SOFT * np.tanh(z / SOFT))


def _kernel(a: Floats, b: Floats, width: float) -> Floats:
    away = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
    return np.asarray(np.exp(-width * np.maximum(away, 0) / a.shape[1]))
