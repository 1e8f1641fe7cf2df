"""Critic of voices: speech in, what a listener is expected to hear in it out.

`VoiceCritic` may guide, rerank and calibrate: a few small networks side by side that see the mel
spectrum and the pitch frame by frame, and next to them the prosody of the whole (`statistics`). All
of it is differentiable from the frames on, and level-free. What it rates can be set against neutral
speech of the same person (`reference`): people differ more than their moods do. Without a reference
the mean of many neutral voices stands in, at a cost that the model card states.

`adapters.voice_reader.VoiceReader` is independent, hears other features with another learner, and
only reports. Never print the critic's score of something it chose without the reader beside it.
A score says how a critic hears a voice, never what a person feels.
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
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from adapters.assets import ASSETS
from adapters.reading import Reading
from adapters.voice_analysis import HOP, RATE, Analysis, VoiceError, analyse
from adapters.voice_reader import VoiceReader
from adapters.voice_reading import CLASSES, HEARD, MAYBE, Scale, familiar, readings, windows

Floats = NDArray[np.float64]
Sound = ArrayLike | Analysis

MEL = 40
FLOOR = -55.0  # dB under the voice's mean: deeper lies the recorder's noise
TRACKS = ("pitch", "voiced", "hnr", "breath", "level")
CHANNELS = MEL + len(TRACKS)
PITCH, VOICED, HNR, BREATH, LEVEL = range(MEL, CHANNELS)
SECONDS = HOP / RATE
_RUNS = ("mean", "sd", "low", "high", "slope", "final", "movement", "bend")
STATISTICS: tuple[str, ...] = (
    *(f"mel_{k}" for k in range(MEL)),
    *(f"mel_{k}_sd" for k in range(MEL)),
    *(f"pitch_{name}" for name in _RUNS),
    "hnr", "hnr_sd", "breath", "breath_sd", "voiced_share", "voiced_rate", "level_sd",
    "level_movement", "mel_movement", "mel_bend", "quiet_share",
)  # fmt: skip
"""Names of the prosody of a whole stretch: what references hold, too."""
_AT = {name: k for k, name in enumerate(STATISTICS)}
WINDOW, STEP = 1.5, 0.25
"""Seconds read at once and between readings over time."""
FEWEST = 10
"""Voiced frames (.16 s) under which a stretch of speech tells nothing."""
LONGEST = 625  # frames read at once (10 s): longer speech is read in parts and averaged


def frames_of(analysis: Analysis) -> NDArray[np.float32]:
    """What the critic sees: float32 (T, CHANNELS), from the first to the last speech; T may be 0.

    40 mel bands in dB re the mean power of the speech (not under `FLOOR`), pitch in semitones above
    55 Hz, voiced 0 or 1, harmonics to noise and noise to harmonics in dB, level in dB re the voice.
    """
    said = analysis.speech
    if not said.any():
        return np.zeros((0, CHANNELS), dtype=np.float32)
    where = np.flatnonzero(said)
    part = slice(int(where[0]), int(where[-1]) + 1)
    said, voiced = said[part], (analysis.voiced & analysis.speech)[part]
    mel = 20 * analysis.mel[part].reshape(-1, MEL, 2).mean(axis=2)
    power = 10 * np.log10((10 ** (mel[said] / 10)).mean())
    mel = np.maximum(mel - power, FLOOR)
    pitch = np.where(voiced, 12 * np.log2(np.maximum(analysis.f0[part], 1) / 55), 0)
    level = np.maximum(analysis.energy[part] - analysis.level, -40.0)
    hnr = np.where(voiced, analysis.hnr[part], 0)
    breath = np.where(voiced, analysis.breath[part], 0)
    rows = [mel, np.stack([pitch, voiced, hnr, breath, level], axis=1)]
    return np.concatenate(rows, axis=1).astype(np.float32)


def statistics(frames: Tensor, length: Tensor) -> Tensor:
    """Frames (n, CHANNELS, T) of which `length` (n,) count -> (n, len(STATISTICS)).

    Differentiable. 0 where nothing is voiced.
    """
    inside = (torch.arange(frames.shape[2], device=frames.device) < length[:, None]).float()
    voiced = frames[:, VOICED] * inside
    seconds = (length.float() * SECONDS).clamp_min(0.1)
    mean, sd = _moments(frames[:, :MEL], voiced[:, None])
    pitch = frames[:, PITCH]
    middle, spread = _moments(pitch, voiced)
    low, high = _quantiles(pitch, voiced, (0.1, 0.9))
    time = torch.arange(frames.shape[2], device=frames.device) * SECONDS
    centred = (time - _mean(time.expand_as(pitch), voiced)[:, None]) * voiced
    slope = (centred * pitch).sum(1) / (centred.square().sum(1) + 0.1)
    rank = voiced.sum(1, keepdim=True) - voiced.cumsum(1)
    final = _mean(pitch, voiced * (rank < 0.25 / SECONDS)) - middle
    both = voiced[:, 3:] * voiced[:, :-3]
    step = (pitch[:, 3:] - pitch[:, :-3]).abs()
    movement = _mean(step, both * (step < 9)) / (3 * SECONDS)
    three = voiced[:, 2:] * voiced[:, 1:-1] * voiced[:, :-2]
    bend = (pitch[:, 2:] - 2 * pitch[:, 1:-1] + pitch[:, :-2]).abs().clamp_max(2)
    hnr, hnr_sd = _moments(frames[:, HNR], voiced)
    breath, breath_sd = _moments(frames[:, BREATH], voiced)
    turn = (voiced[:, 1:] - voiced[:, :-1]).abs().sum(1) / 2 / seconds
    level = frames[:, LEVEL]
    spoken = inside * (level > -30)
    _, level_sd = _moments(level, spoken)
    change = _mean((level[:, 1:] - level[:, :-1]).abs(), inside[:, 1:]) / SECONDS
    mel = frames[:, :MEL] - frames[:, :MEL].mean(1, keepdim=True)
    flow = _mean((mel[:, :, 1:] - mel[:, :, :-1]).abs().mean(1), spoken[:, 1:])
    jump = _mean((mel[:, :, 6:] - mel[:, :, :-6]).abs().mean(1), spoken[:, 6:])
    share = voiced.sum(1) / spoken.sum(1).clamp_min(1)
    quiet = 1 - spoken.sum(1) / inside.sum(1).clamp_min(1)
    rest = [middle, spread, low - middle, high - middle, slope, final, movement]
    rest += [_mean(bend, three), hnr, hnr_sd, breath, breath_sd, share, turn, level_sd, change]
    return torch.cat([mean, sd, torch.stack([*rest, flow, jump, quiet], dim=1)], dim=1)


def _mean(x: Tensor, weight: Tensor) -> Tensor:
    return (x * weight).sum(-1) / weight.sum(-1).clamp_min(1)


def _moments(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    mean = _mean(x, weight)
    # 1e-4: the root of an exact 0 has no gradient.
    return mean, (_mean((x - mean[..., None]).square(), weight) + 1e-4).sqrt()


def _quantiles(x: Tensor, weight: Tensor, at: Sequence[float]) -> list[Tensor]:
    """Quantiles (n,) of the rows of x where weight is 1; 0 where there is none."""
    order = torch.where(weight > 0, x, torch.inf).sort(dim=1).values
    count = weight.sum(1)
    place = [((count - 1).clamp_min(0) * q).long()[:, None] for q in at]
    found = [order.gather(1, p)[:, 0] for p in place]
    return [torch.where(count > 0, value, torch.zeros_like(value)) for value in found]


class _Block(nn.Module):
    """Two convolutions over time around a shortcut."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.a = nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation)
        self.b = nn.Conv1d(width, width, 1)
        self.norm = nn.GroupNorm(8, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(F.silu(self.a(F.silu(self.norm(x)))))


class Member(nn.Module):
    """One network: frames and statistics, both set against the reference, to class logits."""

    def __init__(self, width: int, embed: int, dropout: float) -> None:
        super().__init__()
        self.stem = nn.Conv1d(CHANNELS, width, 5, stride=2, padding=2)
        self.blocks = nn.ModuleList(_Block(width, d) for d in (1, 2, 4))
        self.whole = nn.Linear(len(STATISTICS) + 1, embed)
        self.project = nn.Linear(2 * width + embed, embed)
        self.norm = nn.LayerNorm(embed)
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(embed, len(CLASSES))

    def forward(self, frames: Tensor, inside: Tensor, whole: Tensor) -> Tensor:
        """(n, CHANNELS, T), (n, T) and (n, len(STATISTICS) + 1) -> (n, 7)."""
        x, inside = self.stem(frames), inside[:, ::2]
        for block in self.blocks:
            x = block(x * inside[:, None])
        mean, sd = _moments(F.silu(x), inside[:, None])
        parts = [self.drop(torch.cat([mean, sd], 1)), F.silu(self.whole(self.drop(whole)))]
        e = self.norm(self.project(torch.cat(parts, dim=1)))
        return self.head(self.drop(F.silu(e)))


class VoiceCritic(ModelMixin, ConfigMixin):
    """A few `Member` networks whose logits are averaged, and the scales around them.

    width: channels of the convolutions. embed: length of each embedding. members: networks.
    """

    modality = "voice"

    @register_to_config
    def __init__(
        self,
        width: int = 40,
        embed: int = 40,
        members: int = 3,
        dropout: float = 0.3,
        label: str = "critic-voice",
    ) -> None:
        super().__init__()
        n = len(STATISTICS)
        self.nets = nn.ModuleList(Member(width, embed, dropout) for _ in range(members))
        self.register_buffer("temperature", torch.ones(2))  # without and with a reference
        self.register_buffer("usual", torch.zeros(n))  # statistics of the mean neutral voice
        self.register_buffer("statistics_scale", torch.ones(n))
        for kind in ("alone", "against"):  # without and with a reference
            self.register_buffer(f"{kind}_centre", torch.zeros(n))
            self.register_buffer(f"{kind}_spread", torch.ones(n))
            self.register_buffer(f"{kind}_directions", torch.ones(len(HEARD), n))
            self.register_buffer(f"{kind}_precision", torch.eye(n))
        self.register_buffer("domain_mean", torch.zeros(n))
        self.register_buffer("domain_whiten", torch.eye(n))
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

    def reference(self, items: Sequence[Sound] | Sound, sample_rate: int = RATE) -> Floats:
        """Neutral speech of one person -> what `read` takes as its reference.

        One clip of a few seconds will do, several are better. Raises VoiceError when nobody speaks
        in any of them.
        """
        sounds = items if isinstance(items, (list, tuple)) else [items]
        kept = [f for f in self._frames(sounds, sample_rate) if f[:, VOICED].sum() >= FEWEST]
        if not kept:
            msg = "reference: nobody speaks in it; give some seconds of neutral speech, or nothing"
            raise VoiceError(msg)
        with torch.no_grad():
            rows = torch.cat([statistics(*_batch([f])) for f in kept])
        return np.asarray(rows.double().mean(0).numpy())

    def against(self, frames: Tensor, reference: Tensor) -> Tensor:
        """Frames (n, CHANNELS, T) less those of references (n, STATISTICS), about -3..3."""
        voiced = frames[:, VOICED : VOICED + 1]
        mel = (frames[:, :MEL] - reference[:, :MEL, None]) / 15  # 15 dB: spread of a vowel's bands
        at = [_AT["pitch_mean"], _AT["hnr"], _AT["breath"]]
        pitch, hnr, breath = ((reference[:, k, None, None]) for k in at)
        rest = [
            (frames[:, PITCH : PITCH + 1] - pitch) * voiced / 6,
            voiced,
            (frames[:, HNR : HNR + 1] - hnr) * voiced / 10,
            (frames[:, BREATH : BREATH + 1] - breath) * voiced / 10,
            frames[:, LEVEL : LEVEL + 1] / 10,
        ]
        return torch.cat([mel, *rest], dim=1)

    def logits(
        self, frames: Tensor, length: Tensor, reference: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Members' logits (members, n, 7) and the statistics (n, STATISTICS) they rest on.

        frames: (n, CHANNELS, T) of `frames_of`, transposed. length: (n,) frames that count.
        reference: (n, STATISTICS) or (STATISTICS,); without, the mean neutral voice.
        """
        known = reference is not None
        base = self.usual if reference is None else reference.to(frames)
        base = base.expand(len(frames), -1)
        flag = torch.full((len(frames), 1), float(known), device=frames.device)
        return self.member_logits(frames, length, base, flag)

    def member_logits(
        self, frames: Tensor, length: Tensor, base: Tensor, flag: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As `logits`, with a reference for each row and whether it is the person's own (n, 1)."""
        inside = (torch.arange(frames.shape[2], device=frames.device) < length[:, None]).float()
        found = statistics(frames, length)
        z = 4 * torch.tanh((found - base) / self.statistics_scale / 4)
        whole = torch.cat([z, flag], dim=1)
        x = self.against(frames, base) * inside[:, None]
        return torch.stack([member(x, inside, whole) for member in self.nets]), found

    def log_probabilities(
        self, frames: Tensor, length: Tensor, reference: Tensor | None = None
    ) -> Tensor:
        """Log probabilities (n, 13), neutral first, with gradient to the frames.

        Of what the speech sounds acted as, shared by `MAYBE`: intensities are not in it.
        """
        raw = self.logits(frames, length, reference)[0].mean(0)
        shares = (raw / self.temperature[int(reference is not None)]).softmax(1)
        return (shares @ torch.as_tensor(MAYBE).to(shares)).clamp_min(1e-9).log()

    @torch.no_grad()
    def classes(
        self, items: Sequence[Sound], reference: Floats | None = None, sample_rate: int = RATE
    ) -> Floats:
        """(m, 7) probabilities of `CLASSES`; neutral for sure where nobody speaks."""
        return self._heard(self._frames(items, sample_rate), reference)[0]

    def read(
        self, items: Sequence[Sound], reference: Floats | None = None, sample_rate: int = RATE
    ) -> list[Reading]:
        """Read waveforms (n,) or (channels, n) in -1..1, or analyses of voices.

        reference: what `reference` made of the same person's neutral speech. Where nobody speaks,
        the reading is neutral and abstains. Raises VoiceError for what is no sound.
        """
        return self.read_frames(self._frames(items, sample_rate), reference)

    def read_over_time(
        self,
        item: Sound,
        reference: Floats | None = None,
        window: float = WINDOW,
        step: float = STEP,
        sample_rate: int = RATE,
    ) -> tuple[Floats, list[Reading]]:
        """Times (t,) in seconds and the readings of the seconds around each of them."""
        analysis = item if isinstance(item, Analysis) else analyse(item, sample_rate)
        times, begins = windows(analysis.seconds, window, step)
        where = np.flatnonzero(analysis.speech)
        first = int(where[0]) if len(where) else 0
        frames = frames_of(analysis)
        cut = [
            frames[
                max(0, round(b / SECONDS) - first) : max(0, round((b + window) / SECONDS) - first)
            ]
            for b in begins
        ]
        return times, self.read_frames(cut, reference)

    def _frames(self, items: Sequence[Sound], rate: int) -> list[NDArray[np.float32]]:
        return [
            frames_of(item if isinstance(item, Analysis) else analyse(item, rate)) for item in items
        ]

    @torch.no_grad()
    def _heard(
        self, frames: Sequence[NDArray[np.float32]], reference: Floats | None
    ) -> tuple[Floats, Floats]:
        """Class probabilities (m, 7) and statistics (m, n; nan where nobody speaks)."""
        training = self.training
        self.eval()
        base = None if reference is None else torch.as_tensor(reference, dtype=torch.float32)
        heat = self.temperature[int(reference is not None)]
        p = np.zeros((len(frames), len(CLASSES)))
        p[:, 0] = 1
        found = np.full((len(frames), len(STATISTICS)), np.nan)
        try:
            for i, whole in enumerate(frames):
                parts = np.array_split(whole, -(-len(whole) // LONGEST)) if len(whole) else []
                parts = [part for part in parts if part[:, VOICED].sum() >= FEWEST]
                if not parts:
                    continue
                raw, rows = self.logits(*_batch(parts), base)
                weight = torch.tensor([float(len(part)) for part in parts])
                weight = weight / weight.sum()
                shares = (raw.mean(0) / heat).softmax(1)
                p[i] = (weight[:, None] * shares).sum(0).double().numpy()
                found[i] = (weight[:, None] * rows).sum(0).double().numpy()
        finally:
            self.train(training)
        return p, found

    def read_frames(
        self, frames: Sequence[NDArray[np.float32]], reference: Floats | None = None
    ) -> list[Reading]:
        """Read what `frames_of` made, each (T, CHANNELS); T may be 0."""
        if not frames:
            return []
        p, found = self._heard(frames, reference)
        usual = self.usual.double().numpy()
        base = usual if reference is None else reference
        silent = np.isnan(found[:, 0])
        far = self.scale(reference is not None).amplitudes(found - base)
        away = np.where(silent, np.inf, self.distance(found))
        quantiles = self.domain_quantiles.double().numpy()
        far = np.where(silent[:, None], 0.0, far)
        return readings(p, far, np.where(silent, 0.0, familiar(away, quantiles)), self.name)

    def scale(self, known: bool) -> Scale:
        """The scale of intensities, with or without a reference."""
        kind = "against" if known else "alone"
        parts = ("centre", "spread", "directions", "precision")
        return Scale(*(getattr(self, f"{kind}_{part}").double().numpy() for part in parts))

    def distance(self, found: Floats) -> Floats:
        """Statistics (m, n) -> (m,) how far from the middle of the speech it was trained on."""
        z = (found - self.usual.double().numpy()) / self.statistics_scale.double().numpy()
        z = 4 * np.tanh(z / 4) - self.domain_mean.double().numpy()
        return np.asarray(np.linalg.norm(z @ self.domain_whiten.double().numpy(), axis=1))


def _batch(frames: Sequence[NDArray[np.float32]]) -> tuple[Tensor, Tensor]:
    """Frames of different lengths -> (n, CHANNELS, T) with zeros behind, and lengths (n,)."""
    length = torch.tensor([len(f) for f in frames])
    out = torch.zeros(len(frames), CHANNELS, max(8, int(length.max())))  # 8: differences over 6
    for row, f in zip(out, frames, strict=True):
        row[:, : len(f)] = torch.from_numpy(np.ascontiguousarray(f.T, dtype=np.float32))
    return out, length


CONFIG = "config.json"


def load_voice_critic(name: str | Path = "critic-voice") -> VoiceCritic | VoiceReader:
    """Load a critic of voices by the name of its folder in assets/models, or by any folder path.

    A bare name that ships with the project is that one, whatever lies in the working folder.
    Raises ValueError when the folder is missing, damaged, or holds another class.
    """
    shipped = ASSETS / "models" / Path(name).name
    bare = Path(name).name == str(name)
    folder = shipped if bare and (shipped / CONFIG).is_file() else Path(name).expanduser()
    if not (folder / CONFIG).is_file():
        known = sorted(path.parent.name for path in (ASSETS / "models").glob(f"*r*-voice/{CONFIG}"))
        msg = f"critic: {name} not found; use a folder, or one of {', '.join(known) or 'none yet'}"
        raise ValueError(msg)
    try:
        config: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        kind = config["_class_name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        msg = f"critic: {folder} is damaged ({error}); restore it from version control"
        raise ValueError(msg) from error
    if kind == "VoiceReader":
        return VoiceReader.load(folder)
    if kind != "VoiceCritic":
        msg = f"critic: {folder} holds a {kind}; expected VoiceCritic or VoiceReader"
        raise ValueError(msg)
    try:
        found = VoiceCritic.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, low_cpu_mem_usage=False
        )
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        msg = f"critic: {folder} cannot be loaded ({first}); restore it from version control"
        raise ValueError(msg) from error
    return found.eval()
