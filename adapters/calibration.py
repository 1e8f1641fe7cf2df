"""Calibration: after it, `sadness .5` is read as half of the sadness this backbone can show.

A dose-response sweep (levels x seeds, read by a critic) is fitted with an isotonic curve, scaled
so that f(0) = 0 and f(1) = 1, and inverted: the gain g = f^-1 turns what a person asks into what
the directions and sliders must be given. Each curve carries a certificate: how far the reading
moves from level 0 to level 1, in standard deviations of a reading at one seed. Under three the
emotion is declared not controllable here and its scale is left alone, for stretching it would
only amplify noise.

It does not know what was swept or who read it: `pipelines.calibrate` makes the pictures, a critic
gives the numbers, this file holds the mathematics and the JSON.

Budget: in simulation (sigmoid response, reading noise .15) 7 levels x 16 seeds bring the error at
the half from .26 to about .03; 8 seeds to .05, 32 to .025.

Sources: pool-adjacent-violators, Barlow et al. 1972 (numpy only, 20 lines); the inverse of a
monotone fit as a dial, Ezra et al., FreeSliders (arXiv 2511.00103), range check added here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adapters.emotion import CORE
from adapters.files import replacing

#: Sweep of the design: enough seeds for +-.035 at the half.
LEVELS: tuple[float, ...] = tuple(i / 6 for i in range(7))
SEEDS = 16
#: Fewer standard deviations between level 0 and level 1 than this: not controllable.
CONTROLLABLE_SD = 3.0
FORMAT = 1


class CalibrationError(ValueError):
    """A sweep or a calibration file that cannot be used; one line, with what to do next."""


def isotonic(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Return the non-decreasing sequence nearest to `values` (n,) in weighted least squares.

    Pool adjacent violators: whenever a block mean falls below the one before it, the two become
    one block. Exact, O(n).
    """
    values = np.asarray(values, dtype=np.float64)
    weights = np.ones_like(values) if weights is None else np.asarray(weights, dtype=np.float64)
    blocks: list[list[float]] = []  # mean, weight, length
    for value, weight in zip(values, weights, strict=True):
        blocks.append([float(value), float(weight), 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            mean, mass, length = blocks.pop()
            last = blocks[-1]
            last[0] = (last[0] * last[1] + mean * mass) / (last[1] + mass)
            last[1] += mass
            last[2] += length
    return np.concatenate([np.full(int(n), mean) for mean, _, n in blocks])


@dataclass(frozen=True, slots=True)
class Response:
    """How one emotion answers its dial on one backbone.

    `levels` (n,) are the gains that were tried, 0 .. 1; `means` (n,) the mean reading at each,
    `fitted` (n,) their isotonic fit, both on the critic's own scale; `noise` the standard
    deviation of one reading (pooled over levels), `paired` the same with each seed's own mean
    taken out (what is left when a person turns the dial on one picture); `seeds` readings a level.
    """

    levels: tuple[float, ...]
    means: tuple[float, ...]
    fitted: tuple[float, ...]
    noise: float
    paired: float
    seeds: int

    @classmethod
    def fit(cls, levels: Sequence[float], readings: np.ndarray) -> Response:
        """Fit readings (levels, seeds): column s is the same seed (and prompt) at every level."""
        readings = np.asarray(readings, dtype=np.float64)
        at = np.asarray(levels, dtype=np.float64)
        if readings.ndim != 2 or readings.shape[0] != at.size or readings.shape[1] < 2:
            msg = (
                f"calibration: readings must be (levels={at.size}, seeds>=2), "
                f"not {readings.shape}; sweep again"
            )
            raise CalibrationError(msg)
        if at.size < 3 or at[0] != 0 or at[-1] != 1 or np.any(np.diff(at) <= 0):
            msg = (
                "calibration: levels must rise from 0 to 1 in at least 3 steps, "
                f"not {[round(float(x), 3) for x in at]}; use calibration.LEVELS"
            )
            raise CalibrationError(msg)
        if not np.all(np.isfinite(readings)):
            msg = (
                "calibration: a reading is not a finite number; check the critic, then sweep again"
            )
            raise CalibrationError(msg)
        n_levels, n_seeds = readings.shape
        means = readings.mean(axis=1)
        within = readings - means[:, None]
        noise = float(np.sqrt((within**2).sum() / (n_levels * (n_seeds - 1))))
        # Two-way residual: level and seed effects removed, so the degrees of freedom are fewer.
        residual = within - within.mean(axis=0, keepdims=True)
        paired = float(np.sqrt((residual**2).sum() / ((n_levels - 1) * (n_seeds - 1))))
        fitted = isotonic(means)
        return cls(
            levels=tuple(map(float, at)),
            means=tuple(map(float, means)),
            fitted=tuple(map(float, fitted)),
            noise=noise,
            paired=paired,
            seeds=n_seeds,
        )

    @property
    def range(self) -> float:
        """Reading at full dial minus reading at zero, on the critic's scale; never negative."""
        return self.fitted[-1] - self.fitted[0]

    @property
    def range_sd(self) -> float:
        """The certificate: `range` in standard deviations of a reading of one picture.

        Of `paired`: what seed and scene add is not noise to a person who turns the dial on one
        picture, and the sweep holds both fixed from level to level.
        """
        return self.range / max(self.paired, 1e-12)

    @property
    def controllable(self) -> bool:
        """Whether the dial moves the reading by at least `CONTROLLABLE_SD` of its noise."""
        return self.range_sd >= CONTROLLABLE_SD

    def response(self, level: np.ndarray | float) -> np.ndarray:
        """f: the dial (...) to the read intensity, scaled to f(0) = 0 and f(1) = 1."""
        values = np.asarray(self.fitted)
        scaled = (values - values[0]) / max(self.range, 1e-12)
        return np.interp(level, self.levels, scaled)

    def intensity(self, reading: np.ndarray | float) -> np.ndarray:
        """Map raw readings (...) to this backbone's own 0 .. 1 scale; not clipped."""
        return (np.asarray(reading, dtype=np.float64) - self.fitted[0]) / max(self.range, 1e-12)

    def gain(self, intensity: np.ndarray | float) -> np.ndarray:
        """g = f^-1: asked intensity (...) to dial, g(0) = 0, g(1) = 1, odd in its sign.

        Identity where the emotion is not controllable, and outside -1 .. 1 (there is no evidence
        beyond the sweep, so `over` adds what was asked).
        """
        asked = np.asarray(intensity, dtype=np.float64)
        if not self.controllable:
            return asked.copy()
        read, dial = self._knots()
        size = np.abs(asked)
        return np.where(size <= 1, np.sign(asked) * np.interp(size, read, dial), asked)

    def _knots(self) -> tuple[np.ndarray, np.ndarray]:
        """Points (reading 0 .. 1, dial 0 .. 1) of the inverse, both strictly rising.

        A pooled block is flat: any dial in it gives the same reading, so its middle is taken.
        The first and the last block keep the ends themselves: 0 stays 0 and 1 stays full.
        """
        values = self.response(np.asarray(self.levels))
        levels = np.asarray(self.levels)
        read, dial = [0.0], [0.0]
        for value in np.unique(values):
            if 1e-9 < value < 1 - 1e-9:
                read.append(float(value))
                dial.append(float(levels[values == value].mean()))
        return np.array([*read, 1.0]), np.array([*dial, 1.0])

    def certificate(self) -> str:
        """One line for people."""
        verdict = "controllable" if self.controllable else "not controllable, scale left as it is"
        return (
            f"read {self.fitted[0]:.2f} -> {self.fitted[-1]:.2f}, "
            f"{self.range_sd:.1f} sd at one seed: {verdict}"
        )


@dataclass(frozen=True, slots=True)
class Calibration:
    """Responses of every swept emotion, and what they hold for.

    A calibration belongs to one model (`model`: digest), one set of directions and sliders
    (`adapters`: digest), one critic (`critic`: name and digest) and the `params` of the sweep;
    `date` is ISO 8601.
    """

    responses: Mapping[str, Response]
    backbone: str
    model: str
    adapters: str
    critic: str
    date: str
    params: Mapping[str, Any]

    def gain(self, track: np.ndarray) -> np.ndarray:
        """Asked intensities (..., 12) in CORE order to dials (..., 12), same dtype.

        Emotions that were not swept, or that are not controllable, pass unchanged.
        """
        track = np.asarray(track)
        if track.shape[-1] != len(CORE):
            msg = f"calibration: track must end in {len(CORE)} intensities, not {track.shape[-1]}"
            raise CalibrationError(msg)
        dials = track.astype(np.float64)
        for name, response in self.responses.items():
            k = CORE.index(name)
            dials[..., k] = response.gain(dials[..., k])
        return dials.astype(track.dtype if track.dtype.kind == "f" else np.float64)

    def uncontrollable(self) -> tuple[str, ...]:
        """Swept emotions whose certificate failed, in CORE order."""
        swept = self.responses
        return tuple(n for n in CORE if n in swept and not swept[n].controllable)

    @property
    def digest(self) -> str:
        """8 hex digits over the gains: part of the identity of what was made with them."""
        gains = {name: asdict(response) for name, response in self.responses.items()}
        text = json.dumps(gains, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    def fits(self, model: str, adapters: str) -> bool:
        """Whether this was measured on exactly these weights."""
        return (self.model, self.adapters) == (model, adapters)

    def merged(self, other: Calibration) -> Calibration:
        """Take over responses of a later sweep of the same kind, keep the rest of ours."""
        if not self.fits(other.model, other.adapters):
            return other
        if (self.critic, dict(self.params)) != (other.critic, dict(other.params)):
            return other
        return Calibration(
            responses={**self.responses, **other.responses},
            backbone=other.backbone,
            model=other.model,
            adapters=other.adapters,
            critic=other.critic,
            date=other.date,
            params=other.params,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data; certificates are spelled out so that the file reads without this code."""
        return {
            "format": FORMAT,
            "backbone": self.backbone,
            "model": self.model,
            "adapters": self.adapters,
            "critic": self.critic,
            "date": self.date,
            "params": dict(self.params),
            "responses": {
                name: asdict(self.responses[name])
                | {
                    "range_sd": round(self.responses[name].range_sd, 3),
                    "controllable": self.responses[name].controllable,
                    "certificate": self.responses[name].certificate(),
                }
                for name in CORE
                if name in self.responses
            },
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Calibration:
        """Read `to_json` back; the verdicts are computed again, never trusted."""
        try:
            if data["format"] != FORMAT:
                msg = f"format {data['format']!r}, this version reads {FORMAT}"
                raise KeyError(msg)
            responses = {}
            for name, row in data["responses"].items():
                CORE.index(name)
                fields = {k: tuple(map(float, row[k])) for k in ("levels", "means", "fitted")}
                if len({len(v) for v in fields.values()}) != 1 or len(fields["levels"]) < 3:
                    msg = f"{name}: levels, means and fitted differ in length"
                    raise KeyError(msg)
                responses[name] = Response(
                    **fields,
                    noise=float(row["noise"]),
                    paired=float(row["paired"]),
                    seeds=int(row["seeds"]),
                )
            texts = {k: str(data[k]) for k in ("backbone", "model", "adapters", "critic", "date")}
            return cls(responses=responses, params=dict(data["params"]), **texts)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            msg = (
                f"calibration: not a calibration file ({error}); run `affect calibrate image` again"
            )
            raise CalibrationError(msg) from error

    def save(self, path: str | Path) -> Path:
        """Write JSON, whole or not at all."""
        text = json.dumps(self.to_json(), indent=1, sort_keys=True) + "\n"
        with replacing(path) as fresh:
            fresh.write_text(text, encoding="utf-8")
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Read a file written by `save`."""
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            msg = f"calibration: cannot read {path} ({error}); run `affect calibrate image` again"
            raise CalibrationError(msg) from error
        return cls.from_json(data)


def intensity_error(levels: Sequence[float], readings: np.ndarray, response: Response) -> float:
    """Mean |read - asked| over levels, with readings (levels, seeds) on `response`'s 0 .. 1 scale.

    NaN when the response never rises: a scale without a range has no intensities.

    The scale's ends are those of `response`, so before and after calibration are comparable.
    """
    if response.range <= 1e-6:
        return float("nan")
    read = response.intensity(np.asarray(readings)).mean(axis=1)
    return float(np.abs(read - np.asarray(levels)).mean())
