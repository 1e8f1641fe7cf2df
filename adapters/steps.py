"""Where a denoising run stands, which rows of its batch are which, and its clean sample.

Every diffusers pipeline calls `scheduler.set_timesteps` once and `scheduler.step(f, t, x, ...)`
once a step, whatever the model. Wrapping these two methods on the scheduler INSTANCE gives the
step number, the predicted clean sample and a place to change the prediction, for all of them.
Deliberately knows nothing of emotions, adapters or critics: lora.py and guidance.py build on it.

The clean sample follows from the prediction by an affine map whose two numbers depend on the
scheduler's convention (DDIM, arXiv 2010.02502 eq. 12; v-prediction, 2202.00512; Karras sigmas,
2206.00364; rectified flow, 2209.03003).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from adapters.families import family

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
        msg = (
            f"scheduler: {name} cannot be guided; use DDIM, PNDM, Euler, Heun, DPM++, UniPC "
            "or a FlowMatch scheduler"
        )
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
    """Replace `target.name` by `make(original)` on this one object, and put back what was there.

    The replacement keeps the original's signature (diffusers inspects `step` for `eta` and
    `generator`). An attribute that came from the class is removed again, not copied to the object.
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


# Set during evaluations that guidance adds: their batch is conditional only, samples first.
_EXTRA: ContextVar[bool] = ContextVar("extra_evaluation", default=False)


@contextmanager
def extra_evaluation() -> Iterator[None]:
    """Mark calls of the denoiser that no pipeline made: one branch, each sample's rows together."""
    token = _EXTRA.set(True)
    try:
        yield
    finally:
        _EXTRA.reset(token)


def in_extra_evaluation() -> bool:
    """Whether the denoiser is being called inside `extra_evaluation`."""
    return _EXTRA.get()


@dataclass(frozen=True, slots=True)
class Layout:
    """The rows of one call of the denoiser.

    size: rows in all. doubled: both branches of classifier-free guidance lie in this batch, the
    unconditional one first unless `cond_first`. unconditional: all rows are (separate calls).
    """

    size: int
    doubled: bool
    cond_first: bool
    unconditional: bool

    @property
    def real(self) -> int:
        """Pictures in the batch: half of the rows when doubled."""
        return self.size // 2 if self.doubled else self.size

    @property
    def conditional(self) -> slice:
        """The conditional rows."""
        if not self.doubled:
            return slice(0, 0 if self.unconditional else self.size)
        return slice(0, self.real) if self.cond_first else slice(self.real, self.size)


class Branches:
    """Tells the conditional from the unconditional rows in each call of a pipeline's denoiser."""

    def __init__(self, pipe: Any) -> None:
        self._pipe, self._cfg = pipe, family(pipe).cfg
        self.begin()

    def begin(self) -> None:
        """Forget the calls of the run before."""
        self._calls, self._last = 0, None

    def read(self, named: Mapping[str, Any], rows: int = 1) -> Layout:
        """The layout of one call with the arguments `named` (see `named_arguments`).

        rows: the batch is a multiple of this many pictures.
        """
        sample = next(iter(named.values()))
        size = len(sample)
        if in_extra_evaluation():
            return Layout(size, False, False, False)
        doubled = (
            self._cfg != "two-calls"
            and bool(getattr(self._pipe, "do_classifier_free_guidance", False))
            and size % (2 * rows) == 0
            # Z-Image may switch guidance off half-way, after which the batch is single again.
            and _halves_equal(sample)
        )
        second = self._cfg == "two-calls" and self._second(named)
        return Layout(size, doubled, self._cfg == "cond-first", second)

    def _second(self, named: Mapping[str, Any]) -> bool:
        """Whether this call repeats the timestep of the one before: the unconditional branch.

        All families of separate calls run the conditional branch first.
        """
        time = named.get("timestep", named.get("t"))
        # The largest: frames that are given to an image-to-video model have time 0 in every step.
        now = None if time is None else float(torch.as_tensor(time).max())
        self._calls = self._calls + 1 if now == self._last else 0
        self._last = now
        return self._calls % 2 == 1


def _halves_equal(sample: Any) -> bool:
    half = len(sample) // 2
    pairs = zip(sample[:half], sample[half:], strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def named_arguments(
    denoiser: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments of a call by name, the sample first."""
    signature = inspect.signature(type(denoiser).forward)
    return dict(list(signature.bind(denoiser, *args, **kwargs).arguments.items())[1:])


# Position tables without a batch axis; their length may equal a batch size by accident.
_SHARED = ("img_ids", "txt_ids")


def take_rows(value: Any, size: int, index: torch.Tensor, name: str = "") -> Any:
    """Pick the rows `index` of everything in `value` that has `size` of them, dicts included.

    What has no batch axis (a scalar timestep, a position table, a flag) is handed back as it is.
    """
    if isinstance(value, Mapping):
        return {key: take_rows(item, size, index, key) for key, item in value.items()}
    if isinstance(value, list) and len(value) == size:
        return [value[i] for i in index.tolist()]
    if isinstance(value, torch.Tensor) and value.ndim and len(value) == size:
        if name in _SHARED and value.ndim == 2:
            return value
        return value[index.to(value.device)]
    return value
