"""voice-tiny: what an emotion does to this very sentence, as a diffusion over changes per frame.

Not sound is diffused but the difference to make (semitones, level, stretch, 24 bands, breath; see
adapters/voice_emotion.py), around a prior that depends on what was asked:

    D = mu(a) + variation * g(a) * s * y,    y ~ denoisers( noise | source, mu / g, a / g )

mu is the mean change of the emotion (directions times intensity), g = |a| its intensity, s the
spread of real takes around it. Diffusing y is the forward process of Grad-TTS (Popov et al. 2021)
and EmoConv-Diff with mu for its mean, x_t - mu = alpha g s y + sigma e, so any diffusers scheduler
runs it unchanged. As y is per unit of intensity, intensity 0 gives exactly no change, and the same
seed gives changes in proportion. The terminal step is pure noise, as it is when sampling begins
(Lin et al. 2024). Two denoisers, one of prosody and one of timbre (after DDDM-VC), share nothing:
a lock on one cannot move the other. Guidance away from other emotions is EmoDubber's.

It deliberately does not know sound files, how the changes are rendered, or requests.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import ConfigMixin, DDIMScheduler, DiffusionPipeline, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.loaders import PeftAdapterMixin
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from adapters.emotion import CORE, VAD
from adapters.voice_edit import TARGETS, VoiceEdit
from adapters.voice_emotion import (
    BAND,
    BREATH,
    ENERGY,
    HIGHEST,
    LOWEST,
    PARTS,
    SEMITONES,
    STRETCH,
    VoiceDirections,
)
from pipelines.voice_frames import (
    FEATURES,
    STRETCH_FRAMES,
    VALUE_FRAMES,
    Frames,
    Voice,
    smooth,
    voice_of,
)
from pipelines.voice_windows import denoise

Floats = NDArray[np.float64]

CONDITION = 16  # 12 intensities and 3 of their VAD per unit, and that they are told
MEASURED = ("happiness", "anger", "disgust", "fear", "sadness", "boredom")
"""Emotions with recordings to learn from; the others reach the denoisers by their VAD alone."""
HEADS: Mapping[str, slice] = {"prosody": slice(0, 3), "timbre": slice(3, 28)}
LOCKS: Mapping[str, slice] = {
    "pitch": slice(SEMITONES, SEMITONES + 1),
    "timing": slice(STRETCH, STRETCH + 1),
    "level": slice(ENERGY, ENERGY + 1),
    "timbre": BAND,
    "breath": slice(BREATH, BREATH + 1),
}
FARTHEST = 3.0  # spreads from the mean change that a sample may lie
DIRECTIONS = "directions.safetensors"
ADAPTER = "pytorch_lora_weights.safetensors"


class VoiceModelError(ValueError):
    """A voice, track or setting the model cannot use; one line that says what would do."""


def length_of(track: ArrayLike) -> Floats:
    """g (T,): Euclidean length of the intensities and, in units of VAD, of what they leave over."""
    return np.asarray(np.linalg.norm(np.asarray(track, dtype=np.float64), axis=1))


def condition_of(track: Floats, residuals: Floats) -> NDArray[np.float32]:
    """(T, 16) what the denoisers are told of (T, 12) signed intensities and (T, 3) residuals."""
    g = np.maximum(length_of(np.hstack([track, residuals])), 1e-6)[:, None]
    known = np.isin(CORE, MEASURED)
    kinds = np.where(known, track, 0.0) / g
    point = (track @ VAD + residuals) / g
    return np.concatenate([kinds, point, np.ones_like(g)], axis=1).astype(np.float32)


# Networks ----------------------------------------------------------------------------------------


class Block(nn.Module):
    """ConvNeXt block along time (Liu et al. 2022), modulated frame by frame (FiLM)."""

    def __init__(self, width: int, condition: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(
            width, width, 7, padding=3 * dilation, dilation=dilation, groups=width
        )
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.film = nn.Linear(condition, 2 * width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)
        self.scale = nn.Parameter(torch.full((width,), 0.1))
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x (B, T, width), condition (B, T, condition) -> (B, T, width)."""
        y = self.norm(self.depthwise(x.transpose(1, 2)).transpose(1, 2))
        gain, shift = self.film(condition).chunk(2, dim=-1)
        y = self.down(nn.functional.gelu(self.up(y * (1 + gain) + shift)))
        return x + self.dropout(self.scale * y)


class VoiceDenoiser(ModelMixin, ConfigMixin, PeftAdapterMixin):
    """Predicts v (Salimans & Ho 2022) of changes around the mean change.

    spread: s of each channel, in its unit, of real takes around the mean change at intensity 1.
    Linear layers carry almost all weights, so that peft's LoRA finds them.
    """

    @register_to_config
    def __init__(
        self,
        channels: int = 3,
        width: int = 128,
        depth: int = 8,
        embedding: int = 64,
        features: int = FEATURES,
        condition: int = CONDITION,
        dropout: float = 0.1,
        spread: tuple[float, ...] | None = None,
    ) -> None:
        super().__init__()
        self.enter = nn.Linear(2 * channels + features, width)
        self.clock = nn.Sequential(
            nn.Linear(width, embedding), nn.SiLU(), nn.Linear(embedding, embedding)
        )
        self.tell = nn.Sequential(
            nn.Linear(condition, embedding), nn.SiLU(), nn.Linear(embedding, embedding)
        )
        self.blocks = nn.ModuleList(
            Block(width, embedding, 2 ** (k % 4), dropout) for k in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, channels)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    @property
    def spread(self) -> Tensor:
        """(channels,) float32; ones before the recipe has measured it."""
        return torch.tensor(self.config.spread or [1.0] * self.config.channels)

    def forward(
        self, sample: Tensor, timestep: Tensor, features: Tensor, prior: Tensor, condition: Tensor
    ) -> Tensor:
        """(B, T, channels) v.

        Args:
            sample: (B, T, channels) noisy y.
            timestep: (B,) 0..999.
            features: (B, T, 34) of `voice_of`.
            prior: (B, T, channels) mean change per unit of intensity, in spreads.
            condition: (B, T, 16) of `condition_of`; zeros for "not told", prior zeros with it.
        """
        half = self.config.width // 2
        rates = torch.exp(-9.21 * torch.arange(half, device=sample.device) / half)  # to 1e-4
        angle = timestep.reshape(-1, 1).float() * rates
        clock = self.clock(torch.cat([angle.sin(), angle.cos()], dim=-1).to(sample.dtype))
        told = nn.functional.silu(self.tell(condition) + clock[:, None])
        x = self.enter(torch.cat([sample, prior, features], dim=-1))
        for block in self.blocks:
            x = block(x, told)
        return self.leave(self.norm(x))


def make_scheduler() -> DDIMScheduler:
    """Cosine betas, a terminal step of pure noise, v-prediction, samples kept within FARTHEST."""
    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=True,
        clip_sample_range=FARTHEST,
    )


# Sampling ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sampling:
    """How changes are drawn.

    steps: of the scheduler. expressiveness: classifier-free guidance scale of the shape, 1 is what
    was learned. variation: lambda, 0 is the mean change alone; it makes no take stronger or weaker.
    locks: names of LOCKS whose columns stay exactly 0. repel: strength of the guidance away from
    the negative emotions.
    """

    steps: int = 10
    expressiveness: float = 1.0
    variation: float = 0.5
    locks: Collection[str] = ()
    repel: float = 0.5

    def __post_init__(self) -> None:
        """Check ranges."""
        for name, low, high in (
            ("steps", 1, 1000),
            ("expressiveness", 0.0, 10.0),
            ("variation", 0.0, 2.0),
            ("repel", 0.0, 2.0),
        ):
            if not low <= getattr(self, name) <= high:
                msg = f"{name}: allowed {low:g} to {high:g}, received {getattr(self, name)}"
                raise VoiceModelError(msg)
        if unknown := sorted(set(self.locks) - set(LOCKS)):
            msg = f"lock: {unknown[0]} is not known; known: {', '.join(LOCKS)}"
            raise VoiceModelError(msg)


class VoicePipeline(DiffusionPipeline):
    """Two denoisers and a scheduler, an ordinary diffusers folder; the directions lie beside it."""

    def __init__(
        self, prosody: VoiceDenoiser, timbre: VoiceDenoiser, scheduler: DDIMScheduler
    ) -> None:
        super().__init__()
        self.register_modules(prosody=prosody, timbre=timbre, scheduler=scheduler)
        self.directions: VoiceDirections | None = None
        self.styled = False  # while a style is worn, which may also say how much

    @classmethod
    def load(cls, folder: Path | str) -> VoicePipeline:
        """The pipeline of a folder with its directions, offline.

        Raises:
            VoiceModelError: no model there.
            VoiceEmotionError: no directions there.
        """
        if not (Path(folder) / "model_index.json").is_file():
            msg = f"voice model: {folder} holds none; run python -m training.voice"
            raise VoiceModelError(msg)
        pipe = cls.from_pretrained(folder, local_files_only=True)
        pipe.directions = VoiceDirections.load(folder)
        pipe.prosody.eval()
        pipe.timbre.eval()
        return pipe

    def save(self, folder: Path | str, dtype: torch.dtype = torch.float16) -> Path:
        """Write the folder that `load` reads; weights in half precision as other small models."""
        index = Path(folder)
        kept = {name: getattr(self, name).dtype for name in HEADS}
        try:
            for name in HEADS:
                nn.Module.to(getattr(self, name), dtype)  # diffusers' own warns of nothing
            self.save_pretrained(index)
        finally:
            for name in HEADS:
                nn.Module.to(getattr(self, name), kept[name])
        if self.directions is not None:
            self.directions.save(index / DIRECTIONS)
        return index

    @torch.inference_mode()
    def sample(
        self,
        voice: Voice,
        track: ArrayLike,
        residuals: ArrayLike | None = None,
        *,
        generator: torch.Generator,
        settings: Sampling | None = None,
        negative: ArrayLike | None = None,
        source: ArrayLike | None = None,
        on_step: Callable[[int, int], None] | None = None,
    ) -> Floats:
        """The change of every frame, float64 (T, 28), columns `adapters.voice_emotion.TARGETS`.

        Args:
            voice: of `voice_of`.
            track: (T, 12) or (12,) intensities in the order of CORE, such as
                `EmotionTimeline.sample` at the frames.
            residuals: (T, 3) or (3,) VAD left over.
            generator: of the CPU; every frame and column draws from it whatever is locked.
            settings: how; None: the defaults.
            negative: (12,) emotions to move away from, any length.
            source: (12,) emotion the recording already has; it is taken away.
            on_step: called with (steps done, steps in all).

        Rows without emotion give exactly 0, and so do locked columns.

        Raises:
            VoiceModelError: shapes that do not fit.
        """
        settings = settings or Sampling()
        frames = len(voice.features)
        asked, a, r, away = wanted(frames, track, residuals, negative, source, settings.repel)
        g = length_of(np.hstack([a, r]))
        mean = self.mean_change(voice, a, r)
        out = mean.copy()
        noise = torch.randn((frames, len(TARGETS)), generator=generator)
        locked = np.zeros(len(TARGETS), dtype=bool)
        for name in settings.locks:
            locked[LOCKS[name]] = True
        total = settings.steps * len(HEADS)
        if settings.variation > 0 and g.any():
            for index, (name, columns) in enumerate(HEADS.items()):
                if locked[columns].all():
                    continue
                begun = index * settings.steps
                y = self._denoise(
                    getattr(self, name),
                    noise[:, columns],
                    voice,
                    mean[:, columns] / np.maximum(g, 1e-6)[:, None],
                    condition_of(a, r),
                    None if away is None else condition_of(away, np.zeros_like(r)),
                    settings,
                    (lambda done, begun=begun: on_step(begun + done, total)) if on_step else None,
                )
                spread = getattr(self, name).spread.double().numpy()
                out[:, columns] += settings.variation * g[:, None] * spread * y
        # Smooth as the pairs were made: a few steps leave noise that no take has.
        rest = smooth(out - mean, VALUE_FRAMES)
        rest[:, STRETCH] = smooth((out - mean)[:, STRETCH], STRETCH_FRAMES)
        if not self.styled:
            rest -= along(rest, mean, g[:, None] * self._spread())
        out = mean + rest if settings.variation > 0 else mean
        out = np.clip(mean + (out - mean) * reach(voice), LOWEST, HIGHEST)
        out[:, locked] = 0.0
        out[asked == 0] = 0.0
        return out

    def edit(
        self,
        analysis: Frames,
        track: ArrayLike,
        residuals: ArrayLike | None = None,
        *,
        generator: torch.Generator,
        settings: Sampling | None = None,
        **given: Any,
    ) -> VoiceEdit:
        """What to render: `sample` of an analysis, with the tremor and creak of the emotions.

        Intensities count `VoiceDirections.gain` times here, so that what is asked is also heard:
        in `sample` they are those of recordings. given: negative, source, on_step, as there. A lock
        on the pitch locks tremor and creak, which are movements of it.
        """
        settings = settings or Sampling()
        voice, gain = voice_of(analysis), self._known().gain
        asked = rows_of("track", track, len(voice.features), len(CORE))
        if given.get("source") is not None:
            given["source"] = rows_of("source", given["source"], len(asked), len(CORE)) * gain
        rows = self.sample(
            voice, asked * gain, residuals, generator=generator, settings=settings, **given
        )
        edit = VoiceEdit.from_rows(rows)
        if "pitch" in settings.locks:
            return edit
        tremor, creak = self._known().wavering(voice.parts, asked).T
        return replace(edit, tremor=tremor, creak=creak)

    @contextmanager
    def wearing(self, folder: Path | str, strength: float = 1.0) -> Iterator[None]:
        """While open, an adapter of training/voice_lora.py is on both denoisers.

        Raises:
            VoiceModelError: no adapter there, or one of another model.
        """
        adapter = "style"
        worn = []
        try:
            for name in HEADS:
                model = getattr(self, name)
                try:
                    # A path as text: diffusers takes a Path for a repository and asks for pickles.
                    model.load_lora_adapter(
                        str(Path(folder) / name),
                        prefix=None,
                        adapter_name=adapter,
                        weight_name=ADAPTER,
                        use_safetensors=True,
                        local_files_only=True,
                    )
                except (OSError, RuntimeError, ValueError) as error:
                    msg = f"voice style: {folder} holds none for this model; train it again"
                    raise VoiceModelError(msg) from error
                worn.append(model)
                model.set_adapters([adapter], [strength])
                model.eval()
            self.styled = True
            yield
        finally:
            self.styled = False
            for model in worn:
                model.delete_adapters([adapter])

    def _spread(self) -> Floats:
        """(28,) s of both heads."""
        return np.concatenate([getattr(self, name).spread.double().numpy() for name in HEADS])

    def mean_change(self, voice: Voice, track: Floats, residuals: Floats) -> Floats:
        """mu (T, 28): the directions alone."""
        mean = self._known().edit(voice.parts, voice.contour, track, residuals)
        mean[~voice.inside, STRETCH] = 0.0
        return mean

    def _known(self) -> VoiceDirections:
        if self.directions is None:
            msg = "voice model: it has no directions; load it with VoicePipeline.load"
            raise VoiceModelError(msg)
        return self.directions

    def _denoise(
        self,
        model: VoiceDenoiser,
        noise: Tensor,
        voice: Voice,
        prior: Floats,
        condition: NDArray[np.float32],
        away: NDArray[np.float32] | None,
        settings: Sampling,
        on_step: Callable[[int], None] | None,
    ) -> Floats:
        """y (T, channels) in spreads."""
        mean, told = (torch.as_tensor(np.asarray(x, dtype=np.float32)) for x in (prior, condition))
        mean = mean / model.spread
        branches = [(1.0, mean, told)]
        if settings.expressiveness != 1.0 or away is not None:
            repel = settings.repel if away is not None else 0.0
            plain = 1.0 - settings.expressiveness + repel
            nothing = torch.zeros_like(mean)
            branches = [
                (settings.expressiveness, mean, told),
                (plain, nothing, torch.zeros_like(told)),
            ]
            if away is not None:
                branches.append((-repel, nothing, torch.from_numpy(away)))
        features = torch.from_numpy(voice.features)
        x = denoise(model, self.scheduler, noise, features, branches, settings.steps, on_step)
        return np.asarray(x.clamp(-FARTHEST, FARTHEST).double().numpy())


def wanted(
    frames: int,
    track: ArrayLike,
    residuals: ArrayLike | None,
    negative: ArrayLike | None,
    source: ArrayLike | None,
    repel: float,
) -> tuple[Floats, Floats, Floats, Floats | None]:
    """How far to go in every frame, arguments as of `VoicePipeline.sample`.

    Returns asked (T,), the intensity before anything is taken away; a (T, 12) and r (T, 3) signed,
    with the source's emotion and a share of the negative ones taken away, exactly 0 where nothing
    is asked; and the negative ones (T, 12).

    Raises:
        VoiceModelError: shapes that do not fit, or numbers that are not finite.
    """
    a = rows_of("track", track, frames, len(CORE))
    r = rows_of("residuals", np.zeros(3) if residuals is None else residuals, frames, 3)
    asked = length_of(np.hstack([a, r]))
    if source is not None:
        # Neutral places are left alone, whatever the voice is.
        a = a - rows_of("source", source, frames, len(CORE)) * np.minimum(1.0, asked)[:, None]
    away = None
    if negative is not None:
        away = rows_of("negative", negative, frames, len(CORE))
        a = a - repel * away * np.minimum(1.0, asked)[:, None]
    told = np.where(asked[:, None] > 0, np.hstack([a, r]), 0.0)
    return asked, told[:, :12], told[:, 12:], away


def along(rest: Floats, mean: Floats, spread: Floats) -> Floats:
    """The part of `rest` (T, 28) that is in proportion to the mean change, column by column.

    It is taken out: a seed says how an emotion is acted, the intensity alone how much. Left in, it
    weakens what was asked, since alignments are never exact and every error of theirs is a smaller
    change. spread: (T, 28); columns that the emotion hardly asks for, a tenth of it, keep theirs.
    """
    weight = (mean**2 + (0.1 * spread) ** 2).sum(axis=0)
    return np.asarray((rest * mean).sum(axis=0) / np.maximum(weight, 1e-12) * mean)


def reach(voice: Voice) -> Floats:
    """(T, 28) 0..1 where a sample may differ from the mean change: not in silence, which no pair
    of recordings tells anything about; stretch also in the pauses between phrases."""
    said = 1.0 - voice.parts[:, PARTS.index("silent")]
    out = np.repeat(said[:, None], len(TARGETS), axis=1)
    out[:, STRETCH] = voice.inside
    return out


def rows_of(name: str, values: Any, frames: int, width: int) -> Floats:
    """(frames, width) of `values`, one row of which may stand for all; VoiceModelError if unfit."""
    rows = np.atleast_2d(np.asarray(values, dtype=np.float64))
    if rows.ndim != 2 or rows.shape[1] != width or len(rows) not in (1, frames):
        msg = f"{name}: need ({frames}, {width}) or ({width},), received {np.shape(values)}"
        raise VoiceModelError(msg)
    if not np.isfinite(rows).all():
        msg = f"{name}: must be finite numbers; check the emotion it was made from"
        raise VoiceModelError(msg)
    return np.repeat(rows, frames, axis=0) if len(rows) != frames else rows
