"""Negative-aware fine-tuning of an adapter: learn from what scored well and from what did not.

    loss_of = functools.partial(NegativeAwareLoss, rewards=wanted(scores, prompts), beta=0.5)
    image_lora.train(plan, out, loss_of=loss_of, start=sampled_by)

DiffusionNFT (arXiv 2509.16117) needs clean samples of the old policy and a score each, and no
likelihood, so any sampler will do. From the old prediction and the new one two implicit ones are
made, v+ = (1 - b) old + b new and v- = (1 + b) old - b new. A sample that scored r in 0..1 draws v+
towards itself with weight r, and v- with weight 1 - r, which pushes the new one away:

    loss = r / b |v+ - target|^2 + (1 - r) / b |v- - target|^2

Here in the space of the model's own prediction, weighed over times as the ordinary denoising loss
is (`training.denoising`). The old policy is the adapter as the run began with it. Neutral pictures
hold the plain model's answers as in the ordinary loss. Knows no critic, files or sampler.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from adapters.families import require
from training.batches import Batch
from training.denoising import Answers, DenoisingLoss, _some
from training.student import noised


def wanted(scores: ArrayLike, groups: Sequence[object]) -> NDArray[np.float64]:
    """Scores (n,) of samples and the prompt of each -> rewards (n,) in 0..1, 0.5 as usual.

    r = .5 + .5 clip((score - mean of its prompt) / Z, -1, 1) with Z the deviation of what prompts
    leave, over all: an easy prompt rewards nothing, and one odd prompt scales no other.
    """
    x = np.asarray(scores, dtype=np.float64)
    names, where = np.unique([str(group) for group in groups], return_inverse=True)
    mean = np.bincount(where, weights=x) / np.bincount(where, minlength=len(names))
    left = x - mean[where]
    spread = float(left.std())
    return 0.5 + 0.5 * np.clip(left / spread, -1, 1) if spread > 1e-9 else np.full(len(x), 0.5)


def blended(
    old: dict[str, torch.Tensor], new: dict[str, torch.Tensor], decay: float
) -> dict[str, torch.Tensor]:
    """The next sampling policy: decay of the old adapter's matrices, the rest of the new one's."""
    return {key: decay * old[key].float() + (1 - decay) * new[key].float() for key in new}


class NegativeAwareLoss:
    """DiffusionNFT's loss with the arguments and methods of `training.denoising.DenoisingLoss`.

    rewards: (n,) in 0..1 by the sample's index in the batches' data set; samples without a state
    are held. beta: b above. The old policy is what the denoiser's trainable parameters are when
    this is made.
    """

    def __init__(
        self,
        pipe: Any,
        ask: Answers,
        weigh: Callable[[torch.Tensor], None],
        columns: Sequence[int],
        *,
        rewards: ArrayLike,
        beta: float,
        min_snr: float = 0.0,
        hold: float = 0.0,
    ) -> None:
        self.plain = DenoisingLoss(pipe, ask, weigh, columns, min_snr=min_snr, hold=hold)
        self.rewards = torch.as_tensor(np.asarray(rewards), dtype=torch.float32)
        self.beta = beta
        denoiser = getattr(pipe, require(pipe, "lora").denoiser)
        self.now = [p for p in denoiser.parameters() if p.requires_grad]
        self.old = [p.detach().clone() for p in self.now]

    def held(self, batch: Batch, level: torch.Tensor, noise: torch.Tensor, on: bool) -> Any:
        """The ordinary denoising loss of held-out pictures."""
        return self.plain.held(batch, level, noise, on)

    def learn(
        self, batch: Batch, generator: torch.Generator, share: float = 1.0
    ) -> dict[str, float]:
        """Add the gradients of `share` times the loss of a batch; returns its parts as numbers.

        loss: as above. drift: squared distance of the new predictions from the old ones.
        """
        count = len(batch["states"])
        parts: dict[str, float] = {}
        shown = batch["states"].any(1)
        learned, kept = shown.nonzero()[:, 0], (~shown).nonzero()[:, 0]
        if len(learned):
            some = _some(batch, learned)
            rows, drift = self._rows(some, generator)
            parts = {"loss": float(rows.detach().mean()), "drift": float(drift.mean())}
            if math.isfinite(parts["loss"]):
                (rows.sum() * (share / count)).backward()
        if len(kept):
            some = _some(batch, kept)
            parts |= self.plain.learn(some, generator, share * len(kept) / count)
        return parts

    def _rows(self, batch: Batch, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        plain, clean = self.plain, batch["latents"].float()
        noise = torch.randn(clean.shape, generator=generator)
        level = plain._levels(len(clean), generator)
        x, t = noised(plain.scheduler, clean, noise, level)
        plain.weigh(batch["states"][:, plain.columns])
        with torch.no_grad(), self._as_before():
            old = plain.ask(batch, x, t)
        new = plain.ask(batch, x, t)
        target = plain._target(clean, noise, t).to(new)
        r = self.rewards[torch.as_tensor(batch["indices"])].to(new)
        good = ((1 - self.beta) * old + self.beta * new - target).pow(2).flatten(1).mean(1)
        bad = ((1 + self.beta) * old - self.beta * new - target).pow(2).flatten(1).mean(1)
        rows = (r * good + (1 - r) * bad) / self.beta * plain._importance(t).to(new)
        return rows, (new - old).detach().pow(2).flatten(1).mean(1)

    @contextmanager
    def _as_before(self) -> Iterator[None]:
        """The old policy in the denoiser while open."""
        now = [p.data for p in self.now]
        try:
            for parameter, value in zip(self.now, self.old, strict=True):
                parameter.data = value
            yield
        finally:
            for parameter, value in zip(self.now, now, strict=True):
                parameter.data = value
