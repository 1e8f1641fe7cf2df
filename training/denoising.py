"""The ordinary denoising loss of any family, each sample's adapters weighed as it is labelled.

A batch of training.batches is noised, the denoiser is called as its own pipeline calls it
(training.replay), and its answer compared with what the family predicts: noise, velocity, clean
sample or the velocity of a flow. Min-SNR weights: Hang et al., arXiv 2303.09556; times of flows:
logit-normal, Esser et al., arXiv 2403.03206; what neutral pictures are for: prior preservation of
DreamBooth, arXiv 2208.12242, with the plain model's answers as in training.lora. Knows no files and
no loop.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from adapters.families import prediction_type, require
from adapters.steps import is_flow, take_rows
from training.batches import Batch
from training.buckets import Size
from training.replay import Replay
from training.student import noised


class Answers:
    """The denoiser's predictions for batches of any bucket, called as its pipeline calls it.

    One call of the pipeline is recorded for each size; latents, times and text states are then
    those of the batch. Predictions are in the convention of the scheduler.
    """

    def __init__(
        self, pipe: Any, sizes: set[Size], call: Mapping[str, Any], *, bf16: bool = False
    ) -> None:
        self.recorded = {}
        single = {"num_frames": 1} if require(pipe, "lora").frames else {}
        for width, height in sorted(sizes):
            given = {**call, **single, "height": height, "width": width}
            with torch.no_grad():
                self.recorded[width, height] = Replay(pipe, [""], given)
        self.bf16 = bf16

    def __call__(self, batch: Batch, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Predictions (b, ...) for noisy latents x (b, ...) at times t (b,)."""
        replay = copy.copy(self.recorded[batch["bucket"]])
        rows = len(x)
        named = take_rows(replay.named, 1, torch.zeros(rows, dtype=torch.int64))
        replay.named, replay.size = with_text(named, batch), rows
        device = next(replay.denoiser.parameters()).device
        context = torch.autocast(device.type, torch.bfloat16) if self.bf16 else nullcontext()
        with context:
            answer = replay(x.to(device), t.to(device), torch.arange(rows))
        # Z-Image counts its time from noise to picture, and its pipeline turns the velocity round.
        return -answer if replay.slope < 0 else answer


def with_text(named: Mapping[str, Any], batch: Batch) -> dict[str, Any]:
    """Arguments of a denoiser with the text states of a batch in place of the recorded ones.

    Names are those of the denoisers of diffusers 0.42 that adapters/families.py covers.
    """
    tokens, pooled = batch["prompt_embeds"], batch.get("pooled_prompt_embeds")
    mask = batch.get("prompt_embeds_mask")
    changed = dict(named)
    if "cap_feats" in named:
        changed["cap_feats"] = [_like(rows, named["cap_feats"][0]) for rows in tokens]
    else:
        changed["encoder_hidden_states"] = _like(tokens, named["encoder_hidden_states"])
    if pooled is not None and named.get("pooled_projections") is not None:
        changed["pooled_projections"] = _like(pooled, named["pooled_projections"])
    more = named.get("added_cond_kwargs")
    if pooled is not None and more and "text_embeds" in more:
        changed["added_cond_kwargs"] = {**more, "text_embeds": _like(pooled, more["text_embeds"])}
    for name in ("encoder_hidden_states_mask", "encoder_attention_mask"):
        if mask is not None and name in named:
            changed[name] = mask.to(changed["encoder_hidden_states"].device)
    return changed


def _like(value: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return value.to(other.device, other.dtype)


class DenoisingLoss:
    """The denoising loss of a batch, each sample weighed as its picture is labelled.

    weigh: sets the adapters' weights (b, k). columns: their k places in CORE. min_snr: gamma of the
    weights of times, 0 is off. hold: weight of neutral pictures keeping what the plain model says
    of them. Everything random comes from the generator given.
    """

    def __init__(
        self,
        pipe: Any,
        ask: Answers,
        weigh: Callable[[torch.Tensor], None],
        columns: Sequence[int],
        *,
        min_snr: float = 0.0,
        hold: float = 0.0,
    ) -> None:
        self.scheduler, self.kind = pipe.scheduler, prediction_type(pipe)
        self.ask, self.weigh = ask, weigh
        self.columns, self.min_snr, self.hold = list(columns), min_snr, hold

    def rows(
        self,
        batch: Batch,
        weights: torch.Tensor,
        noise: torch.Tensor,
        level: torch.Tensor,
    ) -> torch.Tensor:
        """Loss of each sample (b,) under adapter weights (b, k) at noise levels (b,) in 0..1."""
        clean = batch["latents"].float()
        x, t = noised(self.scheduler, clean, noise, level)
        self.weigh(weights)
        answer = self.ask(batch, x, t)
        error = (answer - self._target(clean, noise, t).to(answer)).pow(2).flatten(1).mean(1)
        return error * self._importance(t).to(error)

    def held(self, batch: Batch, level: torch.Tensor, noise: torch.Tensor, on: bool) -> Any:
        """Losses (b,) as numbers, with the labelled weights or with none."""
        weights = batch["states"][:, self.columns]
        with torch.no_grad():
            return self.rows(batch, weights if on else weights * 0, noise, level).cpu().numpy()

    def learn(
        self, batch: Batch, generator: torch.Generator, share: float = 1.0
    ) -> dict[str, float]:
        """Add the gradients of `share` times the loss of a batch; returns its parts as numbers.

        Gradients are taken part by part: layers that are recomputed read the weights of the call.
        A part that is no number adds none.
        """
        states = batch["states"][:, self.columns]
        count = len(states)
        noise = torch.randn(batch["latents"].shape, generator=generator)
        level = self._levels(count, generator)
        chosen = torch.randint(len(self.columns), (count,), generator=generator)
        weight = torch.rand(count, generator=generator)
        parts: dict[str, float] = {}
        learned = states.any(1).nonzero()[:, 0]
        if len(learned):
            some = _some(batch, learned)
            rows = self.rows(some, states[learned], noise[learned], level[learned])
            parts["loss"] = float(rows.detach().mean())
            if math.isfinite(parts["loss"]):
                (rows.sum() * (share / count)).backward()
        # Neutral pictures: one adapter each, at any weight, must answer as the plain model.
        kept = (~batch["states"].any(1)).nonzero()[:, 0]
        if len(kept) and self.hold > 0:
            some = _some(batch, kept)
            x, t = noised(self.scheduler, some["latents"].float(), noise[kept], level[kept])
            one = nn.functional.one_hot(chosen[kept], len(self.columns)) * weight[kept, None]
            with torch.no_grad():
                self.weigh(one * 0)
                plain = self.ask(some, x, t)
            self.weigh(one)
            drift = (self.ask(some, x, t) - plain).pow(2).flatten(1).mean(1)
            parts["hold_loss"] = float(drift.detach().mean())
            if math.isfinite(parts["hold_loss"]):
                (drift.sum() * (self.hold * share / count)).backward()
        return parts

    def _levels(self, count: int, generator: torch.Generator) -> torch.Tensor:
        if is_flow(self.scheduler):
            return torch.sigmoid(torch.randn(count, generator=generator))
        return torch.rand(count, generator=generator)

    def _abar(self, t: torch.Tensor) -> torch.Tensor:
        return self.scheduler.alphas_cumprod.cpu()[t.long()].double()

    def _target(self, clean: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        if self.kind == "flow":
            return noise - clean
        if self.kind == "epsilon":
            return noise
        if self.kind == "sample":
            return clean
        abar = self._abar(t).float().view(-1, *(1,) * (clean.ndim - 1))
        return abar.sqrt() * noise - (1 - abar).sqrt() * clean

    def _importance(self, t: torch.Tensor) -> torch.Tensor:
        """Min-SNR weights (b,): a picture that is hardly noisy does not outweigh the others."""
        gamma = self.min_snr
        if self.kind == "flow" or gamma == 0:
            return torch.ones(len(t))
        abar = self._abar(t)
        snr = (abar / (1 - abar)).clamp_min(1e-8)  # 0 at the end of a schedule without signal
        most = snr.clamp(max=gamma)
        under = {"epsilon": snr, "v_prediction": snr + 1}.get(self.kind, torch.ones_like(snr))
        return (most / under).float()


def _some(batch: Batch, where: torch.Tensor) -> Batch:
    """Some samples of a batch."""
    picked = {}
    for name, value in batch.items():
        if isinstance(value, torch.Tensor):
            picked[name] = value[where]
        elif isinstance(value, list):
            picked[name] = [value[k] for k in where.tolist()]
        else:
            picked[name] = value
    return picked
