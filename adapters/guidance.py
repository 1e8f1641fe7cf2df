"""Guidance: steering a run by what the picture would become, or by what the model itself predicts.

`CriticGuidance` wraps `scheduler.step`: it decodes the predicted clean sample, asks a critic how
well it fits the asked emotion, and writes the gradient back as a changed prediction. The gradient
runs through decoder and critic only, never through the denoiser, so a step costs one decode and
one critic pass more. Its size does not come from the critic but from the sample's own RMS (the
part of FreeDoM, arXiv 2303.09833, worth copying), the whole change of a run is capped, and only
the middle 60 % of the steps are guided: a critic is easily fooled. The critic that guides must
never be the one that reports.

`NoiseGuidance` adds eta (f+ - f-) to the prediction after the first 30 % of the steps, f+ and f-
being the model's own predictions with the text embedding pushed to and from the emotion
(FreeSliders, arXiv 2511.00103). `preview` shows the predicted clean sample of every step.

Knows nothing of how directions are found or critics trained.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from adapters.conditioning import Encoded, intercept
from adapters.emotion import CORE
from adapters.families import decode, require
from adapters.steps import (
    Branches,
    Layout,
    StepClock,
    clean_map,
    extra_evaluation,
    in_extra_evaluation,
    named_arguments,
    patched,
    take_rows,
)

Score = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class GuidanceError(ValueError):
    """A track or setting that guidance cannot use; its one line says what it can."""


class DifferentiableCritic(Protocol):
    """What guidance needs of a critic."""

    def log_probabilities(self, images: torch.Tensor) -> torch.Tensor:
        """Log probabilities (n, 13), neutral then CORE, of pictures (n, 3, H, W) in 0..1."""
        ...


class Bank(Protocol):
    """What noise guidance needs of a direction bank."""

    def shift(self, pipe: Any, encoded: Encoded, track: ArrayLike, strength: float) -> Encoded:
        """The embeddings moved along the directions of a track (B, 12)."""
        ...


def soft_labels(track: ArrayLike) -> torch.Tensor:
    """Targets (B, 13) of a track (B, 12): neutral takes the mass the emotions leave over."""
    rows = np.clip(_rows(track), 0.0, None)
    total = rows.sum(axis=1, keepdims=True)
    rows = rows / np.maximum(total, 1.0)  # a state over full intensity keeps its direction
    neutral = 1.0 - rows.sum(axis=1, keepdims=True)
    return torch.from_numpy(np.concatenate([np.clip(neutral, 0.0, 1.0), rows], axis=1)).float()


@contextmanager
def preview(pipe: Any, show: Callable[[int, int, torch.Tensor], None]) -> Iterator[None]:
    """Call `show(step, total, clean)` in every step with the predicted clean latents.

    clean: as the sampling loop carries latents; `adapters.families.decode` makes pictures of them.
    """
    clock = StepClock(pipe)

    def on_step(step: Any, prediction: Any, t: Any, sample: Any, *args: Any, **kwargs: Any) -> Any:
        a, b = clean_map(pipe.scheduler, t)
        show(clock.index, clock.total, a * sample + b * prediction)
        return step(prediction, t, sample, *args, **kwargs)

    with clock.running(on_step):
        yield


class CriticGuidance:
    """Guidance by a differentiable critic on the predicted clean picture.

    Args:
        critic: an object with `log_probabilities(images) -> (n, 13)`, or a function
            `score(images (n, 3, H, W) in 0..1, soft_labels (n, 13)) -> (n,)`, higher is better.
        pace: RMS of one step's change of the clean sample at strength 1, as a share of the
            sample's RMS.
        cap: largest total change of a run, in the same unit; whatever the strength.
        chunk: pictures decoded and read at once; lower it when memory is short.
    """

    def __init__(
        self,
        critic: DifferentiableCritic | Score,
        *,
        pace: float = 0.05,
        cap: float = 0.4,
        chunk: int = 8,
    ) -> None:
        if pace <= 0 or cap <= 0 or chunk < 1:
            msg = f"pace, cap, chunk: expected positive numbers, received {pace}, {cap}, {chunk}"
            raise GuidanceError(msg)
        self._critic, self.pace, self.cap, self.chunk = critic, pace, cap, chunk

    @contextmanager
    def steer(
        self,
        pipe: Any,
        track: ArrayLike,
        strength: float = 1.0,
        start: float = 0.2,
        stop: float = 0.8,
    ) -> Iterator[None]:
        """Guide every run of `pipe` while the context is open; its scheduler is restored after.

        Args:
            pipe: a pipeline of a known family.
            track: (B, 12) intensities, one row a prompt (or one for all). Rows of zeros are left
                exactly as they are.
            strength: multiplies the pace; 0 leaves the pipeline alone, bit-equal.
            start, stop: share of the steps between which guidance acts.

        Raises:
            FamilyError: for a pipeline that cannot take it.
            SchedulerError: at the first step, for a scheduler whose clean sample is not known.
            GuidanceError: for a track or range that cannot be used.
        """
        rows = _rows(track)
        if strength == 0 or not rows.any():
            yield
            return
        if not (0.0 <= start <= stop <= 1.0 and np.isfinite(strength)):
            msg = f"start, stop: expected 0 <= start <= stop <= 1, received {start}, {stop}"
            raise GuidanceError(msg)
        require(pipe, "critic_guidance")
        targets, wanted = soft_labels(rows), torch.from_numpy(rows.any(axis=1))
        clock = StepClock(pipe)
        size = _PictureSize()
        spent: list[torch.Tensor] = []  # what each picture has been moved so far, in this run

        def on_step(step: Any, f: Any, t: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
            if start <= clock.fraction < stop:
                a, b = clean_map(pipe.scheduler, t)
                if b != 0.0:
                    index = _index(len(rows), len(x)).to(x.device)
                    clean = a * x.float() + b * f.float()
                    scale = _rms(clean)
                    push = self._gradient(pipe, clean, targets.to(x.device)[index], size)
                    push = push / _rms(push).clamp_min(1e-12)
                    step_size = torch.full_like(scale, self.pace * abs(strength))
                    before = sum(spent, torch.zeros_like(scale))
                    step_size = torch.minimum(step_size, (self.cap - before).clamp_min(0.0))
                    spent.append(step_size)
                    delta = push * (step_size * scale * float(np.sign(strength)))
                    guided = (f.float() + delta / b).to(f.dtype)
                    keep = wanted.to(x.device)[index].view(-1, *(1,) * (x.ndim - 1))
                    f = torch.where(keep, guided, f)
            return step(f, t, x, *args, **kwargs)

        with size.watching(pipe), clock.running(on_step, on_start=spent.clear):
            yield

    def _gradient(
        self, pipe: Any, clean: torch.Tensor, targets: torch.Tensor, size: _PictureSize
    ) -> torch.Tensor:
        """Gradient (n, ...) of each picture's own score with respect to its clean latents."""
        parts = []
        for latents, labels in zip(clean.split(self.chunk), targets.split(self.chunk), strict=True):
            # Pipelines run under no_grad; inference tensors could not take part in a graph.
            with torch.inference_mode(False), torch.enable_grad():
                leaf = latents.detach().clone().requires_grad_(True)
                images = decode(pipe, leaf, size.height, size.width).float()
                # Critics expect 0..1; a plain clamp would stop the gradient of clipped pixels.
                images = images + (images.clamp(0.0, 1.0) - images).detach()
                score = self._score(images, labels)
                parts.append(torch.autograd.grad(score.sum(), leaf)[0])
        return torch.cat(parts)

    def _score(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if hasattr(self._critic, "log_probabilities"):
            return (labels * self._critic.log_probabilities(images)).sum(dim=1)
        return self._critic(images, labels)


class NoiseGuidance:
    """Guidance by the model's own predictions towards and away from the emotion.

    Args:
        bank: fitted directions (adapters.directions.DirectionBank) of the pipeline's model.
    """

    def __init__(self, bank: Bank) -> None:
        self._bank = bank

    @contextmanager
    def steer(
        self, pipe: Any, track: ArrayLike, strength: float = 1.0, start: float = 0.3
    ) -> Iterator[None]:
        """Add strength x (f+ - f-) to every prediction after `start`; restored on exit.

        f+ and f- are the denoiser's outputs with the conditional embeddings moved by plus and
        minus the track, in one additional call of twice the pictures. The difference is added to
        both branches, so that classifier-free guidance passes it on once and not multiplied.

        Args:
            pipe: a pipeline of a known family, called with prompts (not with prompt_embeds).
            track: (B, 12) intensities, one row a prompt (or one for all). Rows of zeros are left
                exactly as they are.
            strength: eta; 0 leaves the pipeline alone, bit-equal.
            start: share of the steps, 0..1, before which nothing is added; it keeps the layout.

        Raises:
            FamilyError: for a pipeline that cannot take it.
            GuidanceError: for a track or range that cannot be used.
        """
        rows = _rows(track)
        if strength == 0 or not rows.any():
            yield
            return
        if not (0.0 <= start <= 1.0 and np.isfinite(strength)):
            msg = f"start: allowed 0 to 1, received {start}"
            raise GuidanceError(msg)
        row = require(pipe, "noise_guidance")
        denoiser = getattr(pipe, row.denoiser)
        branches, clock = Branches(pipe), StepClock(pipe)
        poles: dict[str, Encoded] = {}
        last: dict[str, torch.Tensor] = {}
        wanted = torch.from_numpy(rows.any(axis=1))

        def remember(encoded: Encoded) -> Encoded:
            poles["+"] = self._bank.shift(pipe, encoded, rows, 1.0)
            poles["-"] = self._bank.shift(pipe, encoded, rows, -1.0)
            return encoded

        def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
            def forward(*args: Any, **kwargs: Any) -> Any:
                if in_extra_evaluation() or not poles:
                    return original(*args, **kwargs)
                named = named_arguments(denoiser, args, kwargs)
                call = branches.read(named, len(rows))
                output = original(*args, **kwargs)
                if clock.fraction < start:
                    return output
                if not call.unconditional:
                    keep = wanted[_index(len(rows), call.real)]
                    last["push"] = _difference(denoiser, named, call, poles) * strength
                    shape = (-1, *(1,) * (last["push"].ndim - 1))
                    last["push"] *= keep.to(last["push"].device).view(shape)
                return _added(output, last["push"], call.doubled)

            return forward

        def begin() -> None:
            branches.begin()
            last.clear()

        with contextlib.ExitStack() as stack:
            stack.enter_context(intercept(pipe, remember))
            stack.enter_context(clock.running(on_start=begin))
            stack.enter_context(patched(denoiser, "forward", wrap))
            yield


def _difference(
    denoiser: torch.nn.Module, named: dict[str, Any], call: Layout, poles: dict[str, Encoded]
) -> torch.Tensor:
    """f+ - f- (n, ...) from one call with each picture's plus and minus rows side by side."""
    index = torch.arange(call.size)[call.conditional].repeat_interleave(2)
    both = take_rows(named, call.size, index)
    plus, minus = poles["+"], poles["-"]
    tokens = [row for pair in zip(plus.tokens, minus.tokens, strict=True) for row in pair]
    name = next(key for key in ("encoder_hidden_states", "cap_feats") if key in both)
    given = both[name]
    both[name] = tokens if isinstance(given, list) else torch.stack(tokens).to(given)
    if plus.pooled is not None and minus.pooled is not None:
        pooled = torch.stack([plus.pooled, minus.pooled], dim=1).flatten(0, 1)
        if "pooled_projections" in both:
            both["pooled_projections"] = pooled.to(both["pooled_projections"])
        else:
            added = both["added_cond_kwargs"]
            both["added_cond_kwargs"] = {**added, "text_embeds": pooled.to(added["text_embeds"])}
    both["return_dict"] = False
    with extra_evaluation():
        output = denoiser(**both)[0]
    output = torch.stack(output) if isinstance(output, list) else output
    return output[0::2] - output[1::2]


def _added(output: Any, push: torch.Tensor, doubled: bool) -> Any:
    """A denoiser's output with `push` added to the rows of both branches."""
    plain = isinstance(output, tuple)
    value = output[0] if plain else output.sample
    push = torch.cat([push, push]) if doubled else push
    if isinstance(value, list):
        value = [one + more.to(one) for one, more in zip(value, push, strict=True)]
    else:
        value = value + push.to(value)
    if plain:
        return (value, *output[1:])
    output.sample = value
    return output


class _PictureSize:
    """The size in pixels of the picture being made; packed latents do not tell it."""

    def __init__(self) -> None:
        self.height: int | None = None
        self.width: int | None = None

    @contextmanager
    def watching(self, pipe: Any) -> Iterator[None]:
        """Read height and width off each call of `pipe.prepare_latents`."""

        def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
            signature = inspect.signature(original)

            @functools.wraps(original)
            def prepare_latents(*args: Any, **kwargs: Any) -> Any:
                given = signature.bind(*args, **kwargs).arguments
                self.height, self.width = given.get("height"), given.get("width")
                return original(*args, **kwargs)

            return prepare_latents

        with patched(pipe, "prepare_latents", wrap):
            yield


def _rows(track: ArrayLike) -> NDArray[np.float64]:
    rows = np.atleast_2d(np.asarray(track, dtype=np.float64))
    if rows.ndim != 2 or rows.shape[1] != len(CORE) or not np.isfinite(rows).all():
        msg = f"track: expected finite numbers (B, {len(CORE)}), received {np.shape(track)}"
        raise GuidanceError(msg)
    return rows


def _index(rows: int, size: int) -> torch.Tensor:
    """Row of the track of each of `size` pictures; num_images_per_prompt repeats in place."""
    if size % rows:
        msg = (
            f"track: {rows} rows do not fit {size} pictures; "
            "give one row a prompt, or a single row for all"
        )
        raise GuidanceError(msg)
    return torch.arange(rows).repeat_interleave(size // rows)


def _rms(x: torch.Tensor) -> torch.Tensor:
    """Root mean square of each sample, shaped (n, 1, ...)."""
    return x.pow(2).mean(dim=tuple(range(1, x.ndim)), keepdim=True).sqrt()
