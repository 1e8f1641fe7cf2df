"""Where a denoising run stands, and what its clean sample looks like.

Every diffusers pipeline calls `scheduler.set_timesteps` once and `scheduler.step(prediction, t, x, ...)`
once a step, whatever the model. Wrapping these two methods on the scheduler INSTANCE gives the step
number, the predicted clean sample and a place to change the prediction, for all of them at once.
Deliberately knows nothing of emotions, adapters or critics: lora.py and guidance.py build on it.

The clean sample follows from the prediction by an affine map whose two numbers depend on the
scheduler's convention (DDIM, arXiv 2010.02502 eq. 12; v-prediction, 2202.00512; Karras sigmas,
2206.00364; rectified flow, 2209.03003).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

# Schedulers whose sample is sqrt(abar) x0 + sqrt(1 - abar) eps, indexed by an integer timestep.
_BY_ALPHA = frozenset(
    {"DDIMScheduler", "DDIMParallelScheduler", "DDPMScheduler", "DDPMParallelScheduler",
     "PNDMScheduler", "LCMScheduler", "TCDScheduler"}
)  # fmt: skip
# Schedulers whose sample is x0 + sigma eps (they divide by sqrt(sigma^2 + 1) before the model).
_BY_SIGMA = frozenset(
    {"EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler",
     "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "LMSDiscreteScheduler"}
)  # fmt: skip
# Solvers that carry their own (alpha, sigma) split, for diffusion and for flow sigmas alike.
_BY_SPLIT = frozenset(
    {"DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "DEISMultistepScheduler",
     "UniPCMultistepScheduler", "SASolverScheduler"}
)  # fmt: skip
# Schedulers whose sample is (1 - sigma) x0 + sigma eps and whose prediction is eps - x0.
_BY_FLOW = frozenset(
    {"FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler"}
)


class SchedulerError(ValueError):
    """A scheduler whose clean sample this project cannot compute."""


def is_flow(scheduler: Any) -> bool:
    """Whether the model behind `scheduler` predicts a rectified-flow velocity (eps - x0)."""
    config = scheduler.config
    return (
        type(scheduler).__name__ in _BY_FLOW
        or config.get("prediction_type") == "flow_prediction"
        or bool(config.get("use_flow_sigmas", False))
    )


def clean_map(scheduler: Any, timestep: torch.Tensor | float) -> tuple[float, float]:
    """The numbers (a, b) of x0^ = a x_t + b f, for the step about to be taken.

    Args:
        scheduler: a diffusers scheduler after `set_timesteps`.
        timestep: the value its `step` is called with.

    Raises:
        SchedulerError: for a scheduler outside the four conventions known here.
    """
    name = type(scheduler).__name__
    kind = scheduler.config.get("prediction_type", "flow_prediction")
    if name in _BY_ALPHA:
        abar = float(scheduler.alphas_cumprod[int(timestep)])
        alpha, sigma = abar**0.5, (1 - abar) ** 0.5
    elif name in _BY_SPLIT or name in _BY_SIGMA or name in _BY_FLOW:
        index = scheduler.step_index
        if index is None:
            index = scheduler.begin_index
        if index is None:
            index = scheduler.index_for_timestep(timestep)
        # KDPM2's second evaluation sits between two of its sigmas.
        midway = hasattr(scheduler, "sigmas_interpol") and not scheduler.state_in_first_order
        level = (scheduler.sigmas_interpol if midway else scheduler.sigmas)[index]
        if name in _BY_SPLIT:
            alpha, sigma = (float(part) for part in scheduler._sigma_to_alpha_sigma_t(level))
        else:
            alpha, sigma = 1.0, float(level)
    else:
        known = ", ".join(sorted(_BY_ALPHA | _BY_SIGMA | _BY_SPLIT | _BY_FLOW))
        msg = f"scheduler: {name} cannot be guided; use one of {known}"
        raise SchedulerError(msg)

    if kind == "flow_prediction" or name in _BY_FLOW:
        return 1.0, -sigma
    if kind == "sample":
        return 0.0, 1.0
    if kind == "epsilon":
        return 1 / alpha, -sigma / alpha
    if kind == "v_prediction":
        if name in _BY_SIGMA:  # alpha = 1 here is the scale of x_t, not the cosine of the angle
            return 1 / (sigma**2 + 1), -sigma / (sigma**2 + 1) ** 0.5
        return alpha, -sigma
    msg = (
        f"scheduler: prediction_type {kind!r} cannot be guided; use epsilon, v_prediction or sample"
    )
    raise SchedulerError(msg)


@contextmanager
def patched(target: Any, name: str, make: Callable[[Any], Any]) -> Iterator[None]:
    """Replace `target.name` by `make(original)` on this one object; put back exactly what was there.

    The replacement keeps the original's signature (diffusers inspects `step` for `eta` and
    `generator`). An attribute that came from the class is removed again, not copied onto the object.
    """
    original = getattr(target, name)
    own = name in vars(target)
    setattr(target, name, functools.wraps(original)(make(original)))
    try:
        yield
    finally:
        if own:
            setattr(target, name, original)
        else:
            delattr(target, name)


class StepClock:
    """Counts the scheduler's steps of the run in progress on one pipeline.

    `index` is the step about to be taken (0 before the first), `total` the number of steps of this
    run (shorter than asked for in image-to-image) and `fraction` their ratio in [0, 1).
    """

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe
        self.index = 0

    @property
    def total(self) -> int:
        """Number of steps of this run."""
        # Pipelines set _num_timesteps just before their loop, after image-to-image cut its list.
        count = getattr(self._pipe, "_num_timesteps", None)
        return max(1, int(count if count is not None else len(self._pipe.scheduler.timesteps)))

    @property
    def fraction(self) -> float:
        """Share of the run already done, in [0, 1)."""
        return self.index / max(self.total, self.index + 1)

    @contextmanager
    def running(
        self, on_step: Callable[..., Any] | None = None, on_start: Callable[[], None] | None = None
    ) -> Iterator[StepClock]:
        """Count while the context is open.

        Args:
            on_step: called as `on_step(step, prediction, t, x, *args, **kwargs)` in place of
                `scheduler.step`; calls `step` itself and returns its result.
            on_start: called whenever a run begins (`set_timesteps`).
        """
        scheduler = self._pipe.scheduler

        def wrap_start(original: Callable[..., Any]) -> Callable[..., Any]:
            def set_timesteps(*args: Any, **kwargs: Any) -> Any:
                self.index = 0
                if on_start is not None:
                    on_start()
                return original(*args, **kwargs)

            return set_timesteps

        def wrap_step(original: Callable[..., Any]) -> Callable[..., Any]:
            def step(model_output: Any, timestep: Any, sample: Any, *args: Any, **kw: Any) -> Any:
                if on_step is None:
                    result = original(model_output, timestep, sample, *args, **kw)
                else:
                    result = on_step(original, model_output, timestep, sample, *args, **kw)
                self.index += 1
                return result

            return step

        self.index = 0
        with patched(scheduler, "set_timesteps", wrap_start), patched(scheduler, "step", wrap_step):
            yield self
