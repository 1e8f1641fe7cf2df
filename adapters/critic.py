"""Critics: a picture in, what emotion a viewer is expected to read in it out.

Two independent readers. `ImageCritic` (A) is a small convolutional net, differentiable, and may
guide, rerank and calibrate. `ImageReader` (B) sees handmade statistics only (`adapters.features`),
was trained on other pictures, and only reports: it has no gradient to give. Never print A's score
of something that A chose without B beside it. Four heads as in the emotion-critic design: a
distribution over neutral and the twelve emotions, an intensity per emotion, valence and arousal
with variances, and a validity score from the Mahalanobis distance of the embedding. Dominance is in
no picture set: it is derived from the distribution. Knows no training. A score says how a critic
reads a picture, never what a person feels.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from adapters.assets import ASSETS
from adapters.emotion import CORE, VAD
from adapters.features import COUNT, picture_features
from adapters.memory import out_of_memory
from adapters.reading import LABELS, Reading
from adapters.reading import soft_score as soft_score  # a part of what a critic is for


@runtime_checkable
class Critic(Protocol):
    """What generation needs of a critic."""

    name: str
    modality: str

    @property
    def digest(self) -> str:
        """16 hex digits that change with the weights."""
        ...

    def read(self, images: Sequence[Image.Image] | Tensor) -> list[Reading]:
        """Read PIL pictures, or a float tensor (n, 3, h, w) in 0..1."""
        ...

    def log_probabilities(self, images: Tensor) -> Tensor:
        """(n, 3, h, w) in 0..1 -> log probabilities (n, 13), neutral first."""
        ...


def to_tensor(image: Image.Image) -> Tensor:
    """Return one PIL picture as float32 (3, h, w) in 0..1."""
    array = np.asarray(image.convert("RGB"), dtype=np.float32) / 255.0
    return torch.from_numpy(array).permute(2, 0, 1)


class _Heads(nn.Module):
    """Embedding (n, d) -> logits (n, 13), strength (n, 12), valence and arousal with log var."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.emotion = nn.Linear(width, len(LABELS))
        self.strength = nn.Linear(width, len(CORE))
        self.affect = nn.Linear(width, 4)

    def forward(self, e: Tensor) -> dict[str, Tensor]:
        affect = self.affect(e)
        return {
            "logits": self.emotion(e),
            "strength": self.strength(e),
            "affect": affect[:, :2].tanh(),
            "affect_log_variance": affect[:, 2:].clamp(-5, 1),
        }


class _Reader(ModelMixin, ConfigMixin):
    """What both readers share: calibration buffers, reading, digest."""

    modality = "image"

    def _calibration(self, embed: int) -> None:
        self.register_buffer("temperature", torch.ones(()))
        # Strength logits that count as intensity 0 and 1 (notes: 0 = pictures without the emotion,
        # 1 = 95th percentile of strong real examples).
        self.register_buffer("scale_low", torch.full((len(CORE),), -4.0))
        self.register_buffer("scale_high", torch.full((len(CORE),), 1.0))
        self.register_buffer("domain_mean", torch.zeros(embed))
        self.register_buffer("domain_whiten", torch.eye(embed))
        self.register_buffer("domain_quantiles", torch.linspace(0, 3 * math.sqrt(embed), 101))

    @property
    def name(self) -> str:
        """Name of the critic, as in reports."""
        return str(self.config.label)

    @property
    def digest(self) -> str:
        """16 hex digits over all weights and calibration."""
        h = hashlib.sha256()
        for key, value in sorted(self.state_dict().items()):
            h.update(key.encode())
            h.update(value.detach().float().cpu().contiguous().numpy().tobytes())
        return h.hexdigest()[:16]

    def heads_of(self, images: Tensor) -> dict[str, Tensor]:
        """(n, 3, h, w) in 0..1 -> logits, strength, affect, affect_log_variance, embedding."""
        raise NotImplementedError

    def _tensors(self, images: Sequence[Image.Image] | Tensor) -> list[tuple[list[int], Tensor]]:
        if isinstance(images, Tensor):
            if images.ndim != 4 or images.shape[1] != 3:
                msg = f"images must be (n, 3, h, w) in 0..1, got shape {tuple(images.shape)}"
                raise ValueError(msg)
            return [(list(range(len(images))), images)]
        groups: dict[tuple[int, ...], list[int]] = {}
        for i, image in enumerate(images):
            groups.setdefault(image.size, []).append(i)
        return [(at, torch.stack([to_tensor(images[i]) for i in at])) for at in groups.values()]

    @torch.no_grad()
    def read(self, images: Sequence[Image.Image] | Tensor) -> list[Reading]:
        """Read pictures of any size, at most 32 at a time: PIL, or float (n, 3, h, w) in 0..1.

        Where memory runs out, fewer at a time, then on the CPU; raises MemoryError, one line, when
        not even one picture fits.
        """
        training = self.training
        self.eval()
        place = self.temperature.device
        out: dict[int, Reading] = {}
        try:
            for at, batch in self._tensors(images):
                i, most = 0, 32
                while i < len(at):
                    piece = batch[i : i + most]
                    try:
                        readings = self._readings(self.heads_of(piece.to(place, torch.float32)))
                    except Exception as error:
                        if not out_of_memory(error):
                            raise
                        if len(piece) > 1:
                            most = (len(piece) + 1) // 2
                            continue
                        if place.type == "cpu":
                            height, width = piece.shape[2:]
                            msg = (
                                f"memory: {self.name} cannot read one {width}x{height} picture; "
                                "make it smaller or close other programs"
                            )
                            raise MemoryError(msg) from error
                        self.to("cpu")
                        place = self.temperature.device
                        continue
                    out.update(zip(at[i : i + len(piece)], readings, strict=True))
                    i += len(piece)
        finally:
            self.train(training)
        return [out[i] for i in range(len(out))]

    def _readings(self, heads: dict[str, Tensor]) -> list[Reading]:
        p = (heads["logits"] / self.temperature).softmax(1).cpu().double().numpy()
        span = (self.scale_high - self.scale_low).clamp_min(1e-3)
        s = ((heads["strength"] - self.scale_low) / span).clamp(0, 1).cpu().double().numpy()
        d = p[:, 1:] @ VAD[:, 2]
        spread = p[:, 1:] @ VAD[:, 2] ** 2 - d**2
        mean = np.column_stack([heads["affect"].cpu().double().numpy(), d])
        variance = np.column_stack(
            [heads["affect_log_variance"].exp().cpu().double().numpy(), spread.clip(0.02)]
        )
        away = ((heads["embedding"] - self.domain_mean) @ self.domain_whiten).norm(dim=1)
        rank = torch.searchsorted(self.domain_quantiles, away.contiguous(), right=False)
        known = 1 - (rank.cpu().double().numpy() / 100).clip(0, 1)
        return [
            Reading(tuple(a), tuple(b), tuple(c), tuple(e), float(k), self.name)
            for a, b, c, e, k in zip(
                p.tolist(), s.tolist(), mean.tolist(), variance.tolist(), known, strict=True
            )
        ]


class _Block(nn.Module):
    """Two 3 x 3 convolutions around a shortcut (He et al. 2016)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.a = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.b = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm_a, self.norm_b = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        y = F.silu(self.norm_a(self.a(x)))
        return F.silu(x + self.norm_b(self.b(y)))


class ImageCritic(_Reader):
    """Critic A: a small fully convolutional net, trained from scratch. May guide and rerank.

    size: pixels of the shorter side the picture is resized to. widths: channels of the stem and of
    each stage (each halves the grid). embed: length of the embedding. words: size of the caption
    head that is used in training only (0 in a shipped model).
    """

    @register_to_config
    def __init__(
        self,
        size: int = 80,
        widths: Sequence[int] = (24, 48, 96, 192),
        embed: int = 64,
        words: int = 0,
        dropout: float = 0.2,
        label: str = "critic-image",
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Conv2d(3, widths[0], 5, stride=2, padding=2, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.SiLU(),
        ]
        for before, width in pairwise(widths):
            layers += [
                nn.Conv2d(before, width, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.SiLU(),
                _Block(width),
            ]
        self.trunk = nn.Sequential(*layers)
        # Colour and where it lies are what pooling after many convolutions keeps worst: an 8 x 8
        # thumbnail and the deviation of each channel are given directly.
        self.layout = nn.Sequential(nn.Linear(3 * 64 + 6, embed), nn.SiLU())
        self.project = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(2 * widths[-1] + embed, embed), nn.LayerNorm(embed)
        )
        self.drop = nn.Dropout(dropout)
        self.heads = _Heads(embed)
        self.word_head = nn.Linear(embed, words) if words else None
        self._calibration(embed)

    def prepare(self, images: Tensor) -> Tensor:
        """Shorter side to `size`, longer side cut to twice that, values to about -1..1."""
        height, width = images.shape[2:]
        scale = self.config.size / min(height, width)
        to = [max(self.config.size, round(side * scale)) for side in (height, width)]
        x = images
        if to != [height, width]:
            x = F.interpolate(x, to, mode="bilinear", antialias=True)
        longest = 2 * self.config.size
        top, left = max(0, (to[0] - longest) // 2), max(0, (to[1] - longest) // 2)
        return x[:, :, top : top + longest, left : left + longest] * 2 - 1

    def embedding(self, x: Tensor) -> Tensor:
        """Prepared pictures -> (n, embed)."""
        maps = self.trunk(x.contiguous(memory_format=torch.channels_last))
        small = F.adaptive_avg_pool2d(x, (8, 8)).flatten(2)
        colour = torch.cat([small.flatten(1), small.std(2), x.flatten(2).std(2)], dim=1)
        parts = [maps.mean((2, 3)), maps.amax((2, 3)), self.layout(colour)]
        return self.project(torch.cat(parts, dim=1))

    def heads_of(self, images: Tensor) -> dict[str, Tensor]:
        """(n, 3, h, w) in 0..1 -> logits, strength, affect, affect_log_variance, embedding."""
        e = self.embedding(self.prepare(images))
        out = self.heads(self.drop(e))
        if self.word_head is not None:
            out["words"] = self.word_head(self.drop(e))
        out["embedding"] = e
        return out

    forward = heads_of

    def log_probabilities(self, images: Tensor) -> Tensor:
        """(n, 3, h, w) in 0..1 -> log probabilities (n, 13), with gradient to the pixels."""
        return (self.heads_of(images)["logits"] / self.temperature).log_softmax(1)


class ImageReader(_Reader):
    """Reader B: handmade statistics and a few small nets side by side. Reports, never guides.

    members: nets whose heads are averaged. width: hidden units of each. features: `COUNT`.
    """

    @register_to_config
    def __init__(
        self,
        features: int = COUNT,
        width: int = 96,
        members: int = 5,
        dropout: float = 0.5,
        label: str = "reader-image",
    ) -> None:
        super().__init__()
        self.register_buffer("feature_mean", torch.zeros(features))
        self.register_buffer("feature_scale", torch.ones(features))
        self.hidden = nn.ModuleList(nn.Linear(features, width) for _ in range(members))
        self.heads = nn.ModuleList(_Heads(width) for _ in range(members))
        self.input_drop, self.drop = nn.Dropout(0.2), nn.Dropout(dropout)
        self._calibration(features)

    def normal(self, features: Tensor) -> Tensor:
        """Raw features -> standardised and softly clipped at about 4 deviations."""
        z = (features - self.feature_mean) / self.feature_scale
        return 4 * torch.tanh(z / 4)

    def heads_of_features(self, z: Tensor) -> dict[str, Tensor]:
        """Standardised features (n, COUNT) -> averaged heads; the embedding is z itself."""
        each = []
        for hidden, heads in zip(self.hidden, self.heads, strict=True):
            each.append(heads(self.drop(F.silu(hidden(self.input_drop(z))))))
        out = {key: torch.stack([h[key] for h in each]).mean(0) for key in each[0]}
        out["embedding"] = z
        return out

    def heads_of(self, images: Tensor) -> dict[str, Tensor]:
        """(n, 3, h, w) in 0..1 -> logits, strength, affect, affect_log_variance, embedding."""
        return self.heads_of_features(self.normal(picture_features(images)))

    forward = heads_of

    def log_probabilities(self, images: Tensor) -> Tensor:
        """Refuse to be guided by: raises ValueError when a gradient is wanted, else (n, 13)."""
        if images.requires_grad:
            msg = f"critic: {self.name} only reports; guide with critic-image instead"
            raise ValueError(msg)
        return (self.heads_of(images)["logits"] / self.temperature).log_softmax(1)


CLASSES: dict[str, type[_Reader]] = {"ImageCritic": ImageCritic, "ImageReader": ImageReader}


def load_critic(name: str | Path = "critic-image") -> ImageCritic | ImageReader:
    """Load a critic by the name of its folder in assets/models, or by any folder path.

    A bare name that ships with the project is that one, whatever lies in the working folder.

    Raises ValueError when the folder is missing or holds another class.
    """
    shipped = ASSETS / "models" / Path(name).name
    bare = Path(name).name == str(name)
    folder = shipped if bare and (shipped / "config.json").is_file() else Path(name).expanduser()
    if not (folder / "config.json").is_file():
        known = sorted(p.parent.name for p in (ASSETS / "models").glob("*/config.json"))
        msg = f"critic: {name} not found; use a folder, or one of {', '.join(known) or 'none yet'}"
        raise ValueError(msg)
    kind = ImageCritic.load_config(folder).get("_class_name")
    if kind not in CLASSES:
        msg = f"critic: {folder} holds a {kind}; expected one of {', '.join(CLASSES)}"
        raise ValueError(msg)
    return CLASSES[kind].from_pretrained(folder, use_safetensors=True).eval()
