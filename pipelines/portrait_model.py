"""portrait-tiny: a diffusion transformer over 52 channels of a face and the pose of its head.

Not the whole motion is diffused but what differs from a plan, the curves that the muscles of an
emotion would draw by themselves (adapters/facs.py):

    motion = plan(a) + scale * y,    y ~ denoiser( noise | sound, plan, a, style )

as in Grad-TTS (Popov et al. 2021) with the plan for the mean, so that any diffusers scheduler runs
it unchanged, an edited plan is followed at once, and no emotion is exactly no plan. y holds the
mouth, which is learned from recordings, and how a speaking head accents, wavers and is held.
Emotion enters frame by frame: intensities ask a bank of learned codes by attention (after
DICE-Talk), so that related emotions share codes and blends are mixtures of them. Sound, emotion and
style are each hidden from a share of rows in training, which gives three separate scales of
guidance, nested; emotion is guided in the early steps, sound in the late ones, lips last (after
Think-Before-Draw). Long motions are windows blended at every step (after SAiD): no seam.

It deliberately does not know sound files, FACS, blinks, glances (pipelines/portrait_motion.py) or
pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from diffusers import ConfigMixin, DDIMScheduler, DiffusionPipeline, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.loaders import PeftAdapterMixin
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from adapters.emotion import CORE, VAD
from adapters.face_motion import CHANNELS, MOUTH, POSE
from pipelines.portrait_sound import FEATURES

Floats = NDArray[np.float64]

COLUMNS = CHANNELS + len(POSE)
EMOTION = len(CORE) + 3 + 1  # intensities, their VAD with residuals, and that they are told
STYLE = ("mouth", "head", "brows", "evenness")
"""What a style says, each -1..1 with 0 the average: how wide the mouth opens, how much head and
brows move, how alike left and right are."""
TOLD = ("sound", "emotion", "style")
WINDOW, OVERLAP = 120, 30  # frames: 4 s and 1 s; trained on 96
WINDOWS_AT_ONCE = 8
FARTHEST = 6.0  # scales from the plan that a sample may lie
ADAPTER = "pytorch_lora_weights.safetensors"
EARLY, LATE = 0.6, 0.4  # emotion is guided before this share of the steps, sound after that one


class PortraitModelError(ValueError):
    """Sound, track or settings the model cannot use; one line that says what would do."""


def emotion_rows(track: ArrayLike, residuals: ArrayLike | None = None) -> NDArray[np.float32]:
    """(T, 16) what the denoiser is told of intensities (T, 12) and residuals (T, 3)."""
    a = np.atleast_2d(np.asarray(track, dtype=np.float64))
    r = np.zeros((len(a), 3)) if residuals is None else np.asarray(residuals, dtype=np.float64)
    return np.concatenate([a, a @ VAD + r, np.ones((len(a), 1))], axis=1).astype(np.float32)


# Network -----------------------------------------------------------------------------------------


class EmotionBank(nn.Module):
    """Intensities of every frame ask learned codes: a blend of emotions is a mixture of codes."""

    def __init__(self, told: int, width: int, codes: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.codes = nn.Parameter(0.5 * torch.randn(codes, width))
        self.ask = nn.Sequential(nn.Linear(told, width), nn.SiLU(), nn.Linear(width, width))
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.leave = nn.Linear(width, width)

    def forward(self, told: Tensor) -> Tensor:
        """(B, T, told) -> (B, T, width)."""
        query = self.ask(told)
        batch, frames, width = query.shape
        rows = [
            x.reshape(len(x), -1, self.heads, width // self.heads).transpose(1, 2)
            for x in (query, self.key(self.codes)[None], self.value(self.codes)[None])
        ]
        many = [rows[0], *(x.expand(batch, -1, -1, -1) for x in rows[1:])]
        found = _attended(*many)
        return self.leave(query + found.transpose(1, 2).reshape(batch, frames, width))


class Block(nn.Module):
    """Transformer block with rotary positions, modulated by time and style (adaLN-zero of DiT)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False)
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        self.to_out = nn.Linear(width, width)
        self.hear = nn.Linear(width, width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.modulate = nn.Linear(width, 6 * width)
        self.dropout = nn.Dropout(dropout)
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.bias)

    def forward(self, x: Tensor, heard: Tensor, clock: Tensor, turn: Tensor) -> Tensor:
        """x, heard (B, T, width), clock (B, 1, width), turn (2, T, width / heads)."""
        a, b, c, d, e, f = self.modulate(clock).chunk(6, dim=-1)
        y = self.norm1(x) * (1 + a) + b
        batch, frames, width = y.shape
        q, k, v = (
            part(y).reshape(batch, frames, self.heads, -1).transpose(1, 2)
            for part in (self.to_q, self.to_k, self.to_v)
        )
        y = _attended(_turned(q, turn), _turned(k, turn), v)
        x = x + c * self.to_out(y.transpose(1, 2).reshape(batch, frames, width))
        y = self.norm2(x) * (1 + d) + e + self.hear(heard)
        y = self.down(nn.functional.gelu(self.up(y)))
        return x + self.dropout(f * y)


def _attended(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention written out: at some hundred frames torch's own is slower to learn with on CPUs."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    return scores.float().softmax(-1).to(v.dtype) @ v


def _turned(x: Tensor, turn: Tensor) -> Tensor:
    """Rotary positions (Su et al. 2021): distances in time are read, not places in a window."""
    one, two = x.chunk(2, dim=-1)
    return x * turn[0].to(x.dtype) + torch.cat([-two, one], dim=-1) * turn[1].to(x.dtype)


class PortraitDenoiser(ModelMixin, ConfigMixin, PeftAdapterMixin):
    """Predicts v (Salimans & Ho 2022) of what differs from the plan.

    scale: (55,) units of y in each column, channels then degrees. Nearly all weights are in linear
    layers, so that peft's LoRA finds them (to_q, to_k, to_v, to_out, up, down).
    """

    @register_to_config
    def __init__(
        self,
        width: int = 160,
        depth: int = 6,
        heads: int = 5,
        codes: int = 48,
        features: int = FEATURES,
        dropout: float = 0.1,
        scale: tuple[float, ...] | None = None,
    ) -> None:
        super().__init__()
        self.enter = nn.Linear(2 * COLUMNS, width)
        self.listen = nn.Linear(features, width)
        self.around = nn.Conv1d(width, width, 5, padding=2)
        self.further = nn.Conv1d(width, width, 5, padding=2)
        self.unheard = nn.Parameter(torch.zeros(width))
        self.bank = EmotionBank(EMOTION, width, codes, 4)
        self.unfelt = nn.Parameter(torch.zeros(width))
        self.style = nn.Sequential(nn.Linear(len(STYLE), width), nn.SiLU(), nn.Linear(width, width))
        self.unstyled = nn.Parameter(torch.zeros(width))
        self.clock = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, COLUMNS)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    @property
    def scale(self) -> Tensor:
        """(55,) float32; ones before the recipe has measured it."""
        return torch.tensor(self.config.scale or [1.0] * COLUMNS)

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        features: Tensor,
        plan: Tensor,
        emotion: Tensor,
        style: Tensor,
        told: Tensor,
    ) -> Tensor:
        """(B, T, 55) v.

        Args:
            sample: (B, T, 55) noisy y.
            timestep: (B,) 0..999.
            features: (B, T, 133) of `pipelines.portrait_sound.hear`.
            plan: (B, T, 55) in scales; emotion: (B, T, 16) of `emotion_rows`.
            style: (B, 4) in the order of STYLE.
            told: (B, 3) 1 where sound, emotion (with its plan) and style are told, else 0.
        """
        half = self.config.width // 2
        rates = torch.exp(-9.21 * torch.arange(half, device=sample.device) / half)  # to 1e-4
        angle = timestep.reshape(-1, 1).float() * rates
        clock = self.clock(torch.cat([angle.sin(), angle.cos()], dim=-1).to(sample.dtype))
        sound, felt, styled = (part.to(sample.dtype) for part in told[:, :, None].unbind(1))
        heard = self.listen(features).transpose(1, 2)
        heard = nn.functional.gelu(self.around(heard))
        heard = (heard + nn.functional.gelu(self.further(heard))).transpose(1, 2)
        heard = sound[:, None] * heard + (1 - sound)[:, None] * self.unheard
        emotions = felt[:, None] * self.bank(emotion) + (1 - felt)[:, None] * self.unfelt
        clock = clock + styled * self.style(style) + (1 - styled) * self.unstyled
        x = self.enter(torch.cat([sample, felt[:, None] * plan], dim=-1)) + heard + emotions
        turn = self._turn(sample.shape[1], sample.device)
        for block in self.blocks:
            x = block(x, heard, nn.functional.silu(clock)[:, None], turn)
        return self.leave(self.norm(x))

    def _turn(self, frames: int, device: torch.device) -> Tensor:
        """(2, T, width / heads) cosines and sines of the positions."""
        size = self.config.width // self.config.heads
        rates = 1.0 / 1000 ** (torch.arange(0, size, 2, device=device) / size)
        angle = torch.arange(frames, device=device)[:, None] * rates
        angle = torch.cat([angle, angle], dim=-1)
        return torch.stack([angle.cos(), angle.sin()])


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
    """How motion is drawn.

    steps: of the scheduler. audio, emotion, style: scales of guidance, 1 is what was learned.
    spread: of the noise that the mouth begins with, 1 is the whole range of how people say it, 0
    the mean of them, which mumbles; brows and head always begin with all of it.
    """

    steps: int = 10
    audio: float = 1.0
    emotion: float = 1.0
    style: float = 1.0
    spread: float = 0.5

    def __post_init__(self) -> None:
        """Check ranges."""
        for name, low, high in (
            ("steps", 1, 1000),
            ("audio", 0.0, 10.0),
            ("emotion", 0.0, 10.0),
            ("style", 0.0, 10.0),
            ("spread", 0.0, 1.0),
        ):
            if not low <= getattr(self, name) <= high:
                msg = f"{name}: allowed {low:g} to {high:g}, received {getattr(self, name)}"
                raise PortraitModelError(f"{msg}; 1 is what was learned")

    def branches(self, share: float) -> list[tuple[tuple[int, int, int], float]]:
        """(what is told, weight) of the calls at this share 0..1 of the steps; weights sum to 1.

        Nested: nothing, then the sound, then the emotion, then the style, each difference with its
        own scale. Calls of weight 0 are left out, so that scales of 1 cost one call.
        """
        audio = self.audio if share >= LATE else 1.0
        emotion = self.emotion if share <= EARLY else 1.0
        scales = (1.0, audio, emotion, self.style)
        told = ((0, 0, 0), (1, 0, 0), (1, 1, 0), (1, 1, 1))
        after = (*scales[1:], 0.0)
        weights = [(t, a - b) for t, a, b in zip(told, scales, after, strict=True)]
        return [(t, weight) for t, weight in weights if abs(weight) > 1e-9]


class PortraitPipeline(DiffusionPipeline):
    """A denoiser and a scheduler: an ordinary diffusers folder."""

    def __init__(self, denoiser: PortraitDenoiser, scheduler: DDIMScheduler) -> None:
        super().__init__()
        self.register_modules(denoiser=denoiser, scheduler=scheduler)

    @classmethod
    def load(cls, folder: Path | str) -> PortraitPipeline:
        """The pipeline of a folder, offline.

        Raises:
            PortraitModelError: no model there.
        """
        if not (Path(folder) / "model_index.json").is_file():
            msg = f"portrait model: {folder} holds none; run python -m training.portrait"
            raise PortraitModelError(msg)
        pipe = cls.from_pretrained(folder, local_files_only=True)
        pipe.denoiser.eval()
        return pipe

    def save(self, folder: Path | str, dtype: torch.dtype = torch.float16) -> Path:
        """Write the folder that `load` reads; weights in half precision as other small models."""
        kept = self.denoiser.dtype
        try:
            nn.Module.to(self.denoiser, dtype)  # diffusers' own warns of nothing
            self.save_pretrained(Path(folder))
        finally:
            nn.Module.to(self.denoiser, kept)
        return Path(folder)

    @torch.inference_mode()
    def sample(
        self,
        features: ArrayLike,
        plan: ArrayLike,
        emotion: ArrayLike,
        style: ArrayLike = (0.0, 0.0, 0.0, 0.0),
        *,
        generator: torch.Generator,
        settings: Sampling | None = None,
        on_step: Callable[[int, int], None] | None = None,
    ) -> Floats:
        """What differs from the plan: float64 (T, 55), channels and degrees, at 30 frames a second.

        Args:
            features: (T, 133) of `hear`.
            plan: (T, 55) curves and degrees that the muscles would draw.
            emotion: (T, 16) of `emotion_rows`.
            style: (4,) in the order of STYLE.
            generator: of the CPU.
            settings: how; None: the defaults.
            on_step: called with (steps done, steps in all).

        Raises:
            PortraitModelError: shapes that do not fit.
        """
        settings = settings or Sampling()
        heard, planned, felt = (
            _rows(name, values, width)
            for name, values, width in (
                ("features", features, self.denoiser.config.features),
                ("plan", plan, COLUMNS),
                ("emotion", emotion, EMOTION),
            )
        )
        frames = len(heard)
        if not (len(planned) == len(felt) == frames):
            msg = (
                f"portrait model: features, plan and emotion need as many rows, received {frames}, "
                f"{len(planned)} and {len(felt)}; sample them at the same frames"
            )
            raise PortraitModelError(msg)
        styled = torch.as_tensor(np.asarray(style, dtype=np.float32))
        if styled.shape != (len(STYLE),) or not torch.isfinite(styled).all():
            msg = f"style: four numbers ({', '.join(STYLE)}) are needed, received {style!r}"
            raise PortraitModelError(f"{msg}; 0 is the average")
        scale = self.denoiser.scale
        planned = planned / scale
        noise = torch.randn((frames, COLUMNS), generator=generator)
        noise[:, list(MOUTH)] *= settings.spread
        # A scheduler keeps the state of a run, and this pipeline may run twice at once.
        scheduler = type(self.scheduler).from_config(self.scheduler.config)
        scheduler.set_timesteps(settings.steps)
        x = noise * scheduler.init_noise_sigma
        given = (heard, planned, felt)
        for done, t in enumerate(scheduler.timesteps):
            share = done / max(1, settings.steps - 1)
            v = self._velocity(x, float(t), given, styled, settings.branches(share))
            x = scheduler.step(v, t, x, return_dict=False)[0]
            if on_step is not None:
                on_step(done + 1, settings.steps)
        return np.asarray((x.clamp(-FARTHEST, FARTHEST) * scale).double().numpy())

    def _velocity(
        self,
        x: Tensor,
        t: float,
        given: tuple[Tensor, Tensor, Tensor],
        style: Tensor,
        branches: Sequence[tuple[tuple[int, int, int], float]],
    ) -> Tensor:
        """(T, 55) v of the whole motion: windows, faded into each other where they overlap."""
        model = self.denoiser
        device, dtype = model.device, model.dtype
        v, covered = torch.zeros_like(x), torch.zeros(len(x), 1)
        windows = frame_windows(len(x))
        half = device.type == "cpu" and halves()
        for at in range(0, len(windows), WINDOWS_AT_ONCE):
            some = windows[at : at + WINDOWS_AT_ONCE]
            rows = [
                torch.stack([full[first:last] for first, last in some]).to(device, dtype)
                for full in (x, *given)
            ]
            times = torch.full((len(some),), t, device=device)
            styles = style.to(device, dtype).expand(len(some), -1)
            found = torch.zeros_like(rows[0], dtype=torch.float32)
            for told, weight in branches:
                flags = torch.tensor([told], device=device, dtype=dtype).expand(len(some), -1)
                with torch.autocast("cpu", torch.bfloat16, enabled=half):
                    made = model(rows[0], times, *rows[1:], styles, flags)
                found += weight * made.float()
            for (first, last), part in zip(some, found.cpu(), strict=True):
                fade = _fade(last - first, first > 0, last < len(x))
                v[first:last] += fade * part
                covered[first:last] += fade
        return v / covered

    @contextmanager
    def wearing(self, folder: Path | str, strength: float = 1.0) -> Iterator[None]:
        """While open, an adapter of training/portrait_lora.py is on the denoiser.

        Raises:
            PortraitModelError: no adapter there, or one of another model.
        """
        model = self.denoiser
        worn = False
        try:
            try:
                # A path as text: diffusers takes a Path for a repository and asks for pickles.
                model.load_lora_adapter(
                    str(folder),
                    prefix=None,
                    adapter_name="style",
                    weight_name=ADAPTER,
                    use_safetensors=True,
                    local_files_only=True,
                )
            except (OSError, RuntimeError, ValueError) as error:
                msg = f"portrait style: {folder} holds none for this model; train it again"
                raise PortraitModelError(msg) from error
            worn = True
            model.set_adapters(["style"], [strength])
            model.eval()
            yield
        finally:
            if worn:
                model.delete_adapters(["style"])


@cache
def halves() -> bool:
    """Whether this processor multiplies bfloat16 by itself: half the time, curves alike to .02."""
    return bool(getattr(torch.cpu, "_is_avx512_bf16_supported", bool)())


def frame_windows(frames: int) -> list[tuple[int, int]]:
    """Equal windows over all frames, at least OVERLAP in common; one where one is enough."""
    if frames <= WINDOW:
        return [(0, frames)]
    count = -(-(frames - OVERLAP) // (WINDOW - OVERLAP))
    starts = np.linspace(0, frames - WINDOW, count).round().astype(int).tolist()
    return [(first, first + WINDOW) for first in starts]


def _fade(length: int, before: bool, after: bool) -> Tensor:
    """(length, 1) weights of a window: 1, sloping to the sides where another one lies."""
    out = torch.ones(length, 1)
    slope = ((torch.arange(OVERLAP) + 0.5) / OVERLAP)[:, None]
    if before:
        out[:OVERLAP] *= slope
    if after:
        out[-OVERLAP:] *= slope.flip(0)
    return out


def _rows(name: str, values: ArrayLike, width: int) -> Tensor:
    rows = np.asarray(values, dtype=np.float32)
    if rows.ndim != 2 or rows.shape[1] != width or not len(rows):
        msg = f"{name}: need (frames, {width}), received {rows.shape}; see PortraitPipeline.sample"
        raise PortraitModelError(msg)
    if not np.isfinite(rows).all():
        msg = f"{name}: must be finite numbers; check the sound and emotion they were made from"
        raise PortraitModelError(msg)
    return torch.from_numpy(rows)
