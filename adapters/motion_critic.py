"""Critic of facial motion: curves in, which emotion they are made to show out.

`MotionCritic` may guide, rerank and calibrate. A few small networks side by side see how the 52
channels and the head lie, spread, peak and move within a window; all of it is differentiable from
the curves on. It learned from motion composed with this project's own table of muscles, around real
mouths that speak: it tells whether words, accents and a model's noise leave the expression that was
asked for. It cannot tell whether people would see it.

`adapters.face_reader.FaceReader` is independent, sees rendered pixels with other tables, and only
reports. Never print the critic's score of something it chose without the reader beside it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from numpy.typing import NDArray
from torch import Tensor, nn

from adapters.assets import ASSETS
from adapters.emotion import CORE, VAD
from adapters.face_motion import CHANNELS, FPS, POSE, Motion, MotionError
from adapters.face_reader import FaceReader
from adapters.face_reading import CONTEMPT, CONTEMPT_VAD, told
from adapters.reading import Reading

Floats = NDArray[np.float64]

KINDS: tuple[str, ...] = ("neutral", *CORE, "contempt")
"""What the networks tell apart."""
COLUMNS = CHANNELS + len(POSE)
STATISTICS = 3 * COLUMNS + CHANNELS
"""Means, deviations and speeds of all columns, and peaks of the channels."""
DEGREES = 20.0
"""Degrees of the head that count as 1."""
WINDOW, STEP = 1.0, 0.25
"""Seconds read at once and between readings over time."""
SOFT = 4.0
"""Standard deviations at which statistics stop."""
OPEN = 0.1
"""Deviation of valence, arousal and dominance that an expression itself leaves open."""


def statistics(rows: Tensor, inside: Tensor) -> Tensor:
    """Rows (n, T, 55), of which `inside` (n, T) counts as 1 -> (n, STATISTICS). Differentiable.

    Columns are ARKIT, then yaw, pitch and roll in units of `DEGREES`.
    """
    weight = inside[..., None]
    count = weight.sum(1).clamp_min(1.0)
    mean = (rows * weight).sum(1) / count
    # 1e-6: the root of an exact 0 has no gradient.
    spread = (((rows - mean[:, None]).square() * weight).sum(1) / count + 1e-6).sqrt()
    both = weight[:, 1:] * weight[:, :-1]
    step = ((rows[:, 1:] - rows[:, :-1]).square() + 1e-8).sqrt()
    speed = FPS * (step * both).sum(1) / both.sum(1).clamp_min(1.0)
    face = rows[..., :CHANNELS]
    peak = ((face.clamp_min(0.0).pow(4) * weight).sum(1) / count + 1e-8).pow(0.25)
    return torch.cat([mean, spread, speed, peak], dim=1)


class Member(nn.Module):
    """One network: standardised statistics to logits of `KINDS`."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.first = nn.Linear(STATISTICS, width)
        self.second = nn.Linear(width, width)
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(width, len(KINDS))

    def forward(self, z: Tensor) -> Tensor:
        """(n, STATISTICS) -> (n, 14)."""
        x = nn.functional.silu(self.first(self.drop(z)))
        x = x + nn.functional.silu(self.second(self.drop(x)))
        return self.head(x)


class MotionCritic(ModelMixin, ConfigMixin):
    """A few `Member` networks whose logits are averaged, and the scales around them.

    width: of the hidden layers. members: networks.
    """

    modality = "portrait"

    @register_to_config
    def __init__(
        self,
        width: int = 48,
        members: int = 3,
        dropout: float = 0.1,
        label: str = "critic-portrait",
    ) -> None:
        super().__init__()
        self.nets = nn.ModuleList(Member(width, dropout) for _ in range(members))
        self.register_buffer("temperature", torch.ones(1))
        self.register_buffer("centre", torch.zeros(STATISTICS))
        self.register_buffer("spread", torch.ones(STATISTICS))
        self.register_buffer("domain_mean", torch.zeros(COLUMNS))
        self.register_buffer("domain_whiten", torch.eye(COLUMNS))
        self.register_buffer("domain_quantiles", torch.linspace(0, 30, 101))

    @property
    def name(self) -> str:
        """Name of the critic, as in reports."""
        return str(self.config.label)

    @property
    def digest(self) -> str:
        """16 hex digits over all weights and scales."""
        h = hashlib.sha256()
        for key, value in sorted(self.state_dict().items()):
            h.update(key.encode())
            h.update(value.detach().float().cpu().contiguous().numpy().tobytes())
        return h.hexdigest()[:16]

    def standardised(self, rows: Tensor, inside: Tensor) -> Tensor:
        """`statistics` in deviations from those of the training motion, softly stopped."""
        z = (statistics(rows, inside) - self.centre) / self.spread
        return SOFT * torch.tanh(z / SOFT)

    def logits(self, rows: Tensor, inside: Tensor) -> Tensor:
        """Rows (n, T, 55) at 30 frames a second -> members' logits (members, n, 14)."""
        z = self.standardised(rows, inside)
        return torch.stack([net(z) for net in self.nets])

    def log_probabilities(
        self, curves: Tensor, pose: Tensor, inside: Tensor | None = None
    ) -> Tensor:
        """Log probabilities (n, 13), neutral first, with gradient to curves and pose.

        curves: (n, T, 52) 0..1. pose: (n, T, 3) degrees. inside: (n, T), 1 where frames count.
        """
        rows = torch.cat([curves, pose / DEGREES], dim=2)
        known = torch.ones(rows.shape[:2], device=rows.device) if inside is None else inside
        p = (self.logits(rows, known).mean(0) / self.temperature).softmax(1)
        spread = torch.zeros(len(CORE) + 1, device=p.device, dtype=p.dtype)
        for name, part in CONTEMPT.items():
            spread[1 + CORE.index(name)] = part
        return (p[:, :-1] + p[:, -1:] * spread).clamp_min(1e-9).log()

    def kinds(self, motions: Sequence[Motion]) -> Floats:
        """(m, 14) expected intensities of `KINDS` over each whole motion; rows sum to 1."""
        return self._seen(motions)[0]

    def read(self, motions: Sequence[Motion]) -> list[Reading]:
        """Read each motion as a whole.

        What the networks tell is how strongly each emotion is asked of the muscles on average, so
        it serves as probability and as intensity; neutral is what they leave.
        """
        if not motions:
            return []
        p, away, doubt = self._seen(motions)
        quantiles = self.domain_quantiles.double().numpy()
        familiar = 1 - np.searchsorted(quantiles, away).clip(0, 100) / 100
        shares = told(p)
        points = np.concatenate([np.zeros((1, 3)), VAD, [CONTEMPT_VAD]])
        vad = p @ points
        spread = (doubt[:, :, None] * points**2).sum(axis=1) + OPEN**2
        return [
            Reading(tuple(a), tuple(a[1:]), tuple(b), tuple(c), float(k), self.name)
            for a, b, c, k in zip(
                shares.tolist(), vad.tolist(), spread.tolist(), familiar, strict=True
            )
        ]

    def read_over_time(
        self, motion: Motion, window: float = WINDOW, step: float = STEP
    ) -> tuple[Floats, list[Reading]]:
        """Times (t,) in seconds and the readings of the seconds around each of them."""
        if not (window > 0 and step > 0):
            msg = f"window and step: more than 0 seconds, received {window:g} and {step:g}"
            raise MotionError(f"{msg}; use 1 and .25")
        even = motion.resampled(FPS)
        times = np.arange(0.0, even.seconds, step)
        half = max(1, round(window * FPS / 2))
        parts = []
        for time in times:
            middle = min(round(time * FPS), len(even) - 1)
            some = slice(max(0, middle - half), middle + half + 1)
            parts.append(Motion(even.curves[some], even.pose[some], FPS))
        return times, self.read(parts)

    @torch.no_grad()
    def _seen(self, motions: Sequence[Motion]) -> tuple[Floats, Floats, Floats]:
        """Shares (m, 14), distances from ordinary motion (m,), and members' variance (m, 14)."""
        training = self.training
        self.eval()
        try:
            shares, away, doubt = [], [], []
            for motion in motions:
                if not isinstance(motion, Motion):
                    msg = f"motion: the critic reads Motion, received {type(motion).__name__}"
                    raise MotionError(f"{msg}; read curves with adapters.face_motion")
                rows = rows_of(motion)[None]
                inside = torch.ones(rows.shape[:2])
                each = (self.logits(rows, inside) / self.temperature).softmax(2)[:, 0].double()
                shares.append((each.mean(0) / each.mean(0).sum()).numpy())
                doubt.append(each.var(0, unbiased=False).numpy())
                z = self.standardised(rows, inside)[0, :COLUMNS] - self.domain_mean
                away.append(float((z @ self.domain_whiten).norm()))
        finally:
            self.train(training)
        return (
            np.array(shares).reshape(-1, len(KINDS)),
            np.array(away),
            np.array(doubt).reshape(-1, len(KINDS)),
        )


def rows_of(motion: Motion) -> Tensor:
    """(T, 55) float32 of a motion at 30 frames a second, as the critic takes it."""
    even = motion.resampled(FPS)
    return torch.from_numpy(np.concatenate([even.curves, even.pose / DEGREES], axis=1))


CONFIG = "config.json"


def load_portrait_critic(name: str | Path = "critic-portrait") -> MotionCritic | FaceReader:
    """Load a critic of portraits by the name of its folder in assets/models, or by a folder path.

    "critic-portrait" reads Motion, "reader-portrait" reads `face_geometry.Landmarks`. A bare name
    that ships with the project is that one, whatever lies in the working folder.

    Raises:
        ValueError: the folder is missing, damaged, or holds another class.
    """
    shipped = ASSETS / "models" / Path(name).name
    bare = Path(name).name == str(name)
    folder = shipped if bare and (shipped / CONFIG).is_file() else Path(name).expanduser()
    if not (folder / CONFIG).is_file():
        found = (ASSETS / "models").glob(f"*r*-portrait/{CONFIG}")
        known = ", ".join(sorted(path.parent.name for path in found)) or "none yet"
        raise ValueError(f"critic: {name} not found; use a folder, or one of {known}")
    again = "restore it from version control"
    try:
        config: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        kind = config["_class_name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"critic: {folder} is damaged ({error}); {again}") from error
    if kind == "FaceReader":
        return FaceReader.load(folder)
    if kind != "MotionCritic":
        msg = f"critic: {folder} holds a {kind}; expected MotionCritic or FaceReader"
        raise ValueError(msg)
    try:
        found = MotionCritic.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, low_cpu_mem_usage=False
        )
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"critic: {folder} cannot be loaded ({first}); {again}") from error
    return found.eval()
