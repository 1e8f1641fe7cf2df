"""The loop over optimiser steps of an adapter, in one process or in several that hold together.

Everything random in a step is drawn from the run's seed and the number of the batch among all
processes, so that nothing but that number has to be restored, and two processes with a batch each
take the same step as one that sums both. Gradients are averaged in one message a step, which also
carries what all have to agree on: a loss that is no number, and Ctrl-C. Knows no files of data and
no model; the denoiser is not wrapped, since what is trained is small and the hooks that weigh
adapters stay as they are.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from training.batches import Batches
from training.checkpoints import CheckpointError, Checkpoints
from training.denoising import DenoisingLoss
from training.loop import Average, Log, cosine, stopping
from training.progress import span
from training.sample_strip import Looks, due, read_at

if TYPE_CHECKING:
    from accelerate import Accelerator

    from training.config import ImageLora

TOLD_STEPS, TOLD_SECONDS = 25, 30.0
"""A line about progress after so many steps, or so long."""
TRACKED = 10
"""Steps whose mean a tracker is told at once: each telling goes to a file or a server."""
_PARTS = ("loss", "hold_loss", "drift")
"""What a loss may tell of itself; processes send each other these."""


class FitError(ValueError):
    """A run that cannot go on; one line, and what was learned is kept."""


class Together:
    """What the processes of one run tell each other; alone, nothing is sent."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.rank, self.world = accelerator.process_index, accelerator.num_processes
        self.main = accelerator.is_main_process

    def average(self, parameters: Sequence[nn.Parameter], sums: Sequence[float]) -> list[float]:
        """Mean gradients over all processes, in place; sums of numbers over all of them.

        A parameter that has no gradient in any process keeps none: an optimiser leaves it alone.
        """
        if self.world == 1:
            return list(sums)
        device = parameters[0].device
        has = [0.0 if p.grad is None else 1.0 for p in parameters]
        parts = [
            torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten()
            for p in parameters
        ]
        flat = torch.cat([*parts, torch.tensor([*has, *sums], device=device)])
        total = self.accelerator.reduce(flat, "sum")
        counts = total[-len(has) - len(sums) :].tolist()
        start = 0
        for parameter, count in zip(parameters, counts, strict=False):
            size = parameter.numel()
            if count:
                mean = total[start : start + size].view_as(parameter) / self.world
                parameter.grad = mean.clone()
            start += size
        return counts[len(has) :]

    def any(self, mine: bool) -> bool:
        """Whether it holds for any process."""
        if self.world == 1:
            return mine
        flag = torch.tensor(float(mine), device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, "sum") > 0)

    def wait(self) -> None:
        """Until all are here."""
        self.accelerator.wait_for_everyone()


def draws(seed: int, number: int) -> torch.Generator:
    """The generator of one batch of a run: its noise, its times, its weights."""
    state = np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))


def fit(
    loss: DenoisingLoss,
    batches: Batches,
    parameters: Sequence[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    settings: ImageLora,
    *,
    together: Together,
    checkpoints: Checkpoints,
    resume: str | None,
    facts: Mapping[str, Any],
    log: Log,
    looks: Looks | None,
    generator: torch.Generator,
    tell: Callable[[str], None],
) -> int:
    """Take the steps; returns their number. Parameters end as they are to be written.

    Args:
        resume: which checkpoint to go on with (`Checkpoints.find`); None: begin.
        facts: what a checkpoint must have been made of; saved with it.
        log: a line a step.
        looks: on the main process, what is painted and read on the way.
        generator: of the run; saved, so that nothing random is lost.

    Raises:
        FitError: a loss that is no number; the state before it is kept.
        CheckpointError: a checkpoint that cannot be written or read.
        KeyboardInterrupt: after Ctrl-C, with the step in progress kept.
    """
    modules = {"adapters": nn.ParameterList(parameters)}
    averages = {"adapters": Average(modules["adapters"], settings.ema)} if settings.ema else {}
    saved = (modules, averages, optimizer, generator)
    step = 0
    path = checkpoints.find(resume) if resume else None
    if path is not None:
        step, meta = checkpoints.load(path, saved), checkpoints.meta(path)
        batches.load_state_dict(meta["batches"])
        if looks is not None:
            looks.seen = list(meta.get("slopes", []))
        tell(f"resumed at step {step}")
    if together.main:
        log.rewind(step)
        if looks is not None:
            looks.tracker.start(step)

    def keep(position: Mapping[str, Any]) -> None:
        told: CheckpointError | None = None
        if together.main:
            seen = looks.seen if looks is not None else []
            meta = {"facts": dict(facts), "batches": dict(position), "slopes": seen}
            try:
                checkpoints.save(step, saved, meta)
            except CheckpointError as error:
                told = error
        if together.any(told is not None):
            raise told or CheckpointError("checkpoint: the main process could not write it")

    clock = _Clock(step, settings, together.world)
    with stopping(1.0 if together.world > 1 else 0.0) as stopped:
        while step < settings.steps:
            position = batches.state_dict()
            for group in optimizer.param_groups:
                warmup = max(1, settings.steps // 20)
                group["lr"] = cosine(step, settings.steps, settings.rate, warmup)
            sums = dict.fromkeys([*_PARTS, *(f"{name} of" for name in _PARTS), "broken"], 0.0)
            for k in range(settings.accumulate):
                number = (step * settings.accumulate + k) * together.world + together.rank
                parts = loss.learn(
                    next(batches), draws(batches.seed, number), 1 / settings.accumulate
                )
                for name, value in parts.items():
                    if math.isfinite(value):
                        sums[name] += value
                        sums[f"{name} of"] += 1
                    else:
                        sums["broken"] += 1
            *numbers, pressed = together.average(parameters, [*sums.values(), float(stopped())])
            sums = dict(zip(sums, numbers, strict=True))
            norm = float(nn.utils.clip_grad_norm_(parameters, 1.0))
            if sums["broken"] or not math.isfinite(norm):
                keep(position)
                msg = (
                    f"loss: no number at step {step + 1}; the state before it is kept in "
                    f"{checkpoints.folder.parent}: pass --resume latest with a lower --rate than "
                    f"{settings.rate:g}, or start again without --bf16"
                )
                raise FitError(msg)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1
            for average in averages.values():
                average.update(modules["adapters"], step)
            if together.main:
                means = {n: sums[n] / sums[f"{n} of"] for n in _PARTS if sums[f"{n} of"]}
                log.add(**means, rate=optimizer.param_groups[0]["lr"])
                clock.report(log.report(step), looks, tell)
            if pressed:
                keep(batches.state_dict())
                tell(f"stopped at step {step}; pass --resume latest to go on")
                raise KeyboardInterrupt
            if due(settings, step):
                ended = False
                if looks is not None:
                    clock.pause()
                    with averaged(modules["adapters"], averages):
                        ended = looks.take(step)
                    clock.go_on()
                if read_at(settings, step) and together.any(ended):
                    break
            if step % settings.save_every == 0 and step < settings.steps:
                keep(batches.state_dict())
    if averages:
        modules["adapters"].load_state_dict(averages["adapters"].state)
    return step


@contextmanager
def averaged(module: nn.Module, averages: Mapping[str, Average]) -> Iterator[None]:
    """The averaged weights in the model while the context is open, where there are any."""
    if not averages:
        yield
        return
    before = {name: value.detach().clone() for name, value in module.state_dict().items()}
    module.load_state_dict(averages["adapters"].state)
    try:
        yield
    finally:
        module.load_state_dict(before)


class _Clock:
    """Lines about progress, with the time left; what strips take is not counted as steps."""

    def __init__(self, step: int, settings: ImageLora, world: int) -> None:
        self.total = settings.steps
        self.samples = settings.batch * settings.accumulate * world
        self.began = self.told = time.monotonic()
        self.first = self.told_step = step
        self.window: list[Mapping[str, float]] = []
        self.tracked: list[Mapping[str, float]] = []
        self.paused = 0.0

    def pause(self) -> None:
        self.paused = time.monotonic()

    def go_on(self) -> None:
        away = time.monotonic() - self.paused
        self.began, self.told = self.began + away, self.told + away

    def report(
        self, line: Mapping[str, float], looks: Looks | None, tell: Callable[[str], None]
    ) -> None:
        step, now = int(line["step"]), time.monotonic()
        self.window.append(line)
        self.tracked.append(line)
        if looks is not None and (step % TRACKED == 0 or step == self.total):
            looks.tracker.log(_means(self.tracked), step)
            self.tracked = []
        whole = step % TOLD_STEPS == 0 or step == self.total
        if not whole and now - self.told < TOLD_SECONDS:
            return
        means, steps = _means(self.window), step - self.told_step
        rate = steps * self.samples / max(now - self.told, 1e-9)
        a_step = max(now - self.began, 1e-9) / (step - self.first)
        said = ", ".join(f"{name.replace('_', ' ')} {means[name]:.4f}" for name in _PARTS
                         if name in means)  # fmt: skip
        left = f", {span((self.total - step) * a_step)} left" if step < self.total else ""
        tell(f"step {step} of {self.total}: {said}, {rate:.3g} samples/s{left}")
        self.window, self.told, self.told_step = [], now, step


def _means(lines: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for line in lines for name in line)
    given = {name: [line[name] for line in lines if name in line] for name in names}
    return {name: sum(values) / len(values) for name, values in given.items()}
