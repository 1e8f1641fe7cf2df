"""Record how a pipeline calls its denoiser, and call it again for any rows, times and latents.

Each family passes text states, pooled vectors, masks, position tables and times in its own way. One
call of the pipeline is stopped at the denoiser's door and its arguments kept; a recipe then changes
only the latents, the time and which prompts' rows it wants. Also where a recipe's clean latents
come from: painted by the pipeline, or read from a file. Knows nothing of losses or adapters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from adapters.families import require
from adapters.steps import StepClock, named_arguments, patched, take_rows
from training.progress import counted


class LatentsError(ValueError):
    """A file of latents that does not fit the model."""


class _Recorded(Exception):
    """Raised inside the denoiser once its arguments are known."""


class Replay:
    """The denoiser, callable for any rows of a recorded batch of prompts, without guidance."""

    def __init__(self, pipe: Any, texts: Sequence[str], call: Mapping[str, Any]) -> None:
        row = require(pipe, "lora")
        self.denoiser: nn.Module = getattr(pipe, row.denoiser)
        # Scale 0 switches the unconditional branch off in every family (1 does not in Z-Image).
        single = {row.scale_argument: 0.0} if row.scale_argument else {}
        options = {"output_type": "latent", **call, **single}
        times: list[tuple[float, float]] = []

        def note_time(named: dict[str, Any]) -> None:
            index = min(len(times), len(pipe.scheduler.timesteps) - 1)
            times.append((float(pipe.scheduler.timesteps[index]), _first(named[_time(named)])))

        with self._listening(note_time):
            pipe(prompt=[texts[0]], **{**options, "num_inference_steps": 4})
        (t0, m0), (t1, m1) = times[0], times[-1]
        # How the pipeline writes the scheduler's time for its model: t, t / 1000 or 1 - t / 1000.
        # Rounded, because the times above are single precision and the embedding multiplies errors.
        self.slope = round((m1 - m0) / (t1 - t0), 5)
        self.shift = round(m0 - self.slope * t0, 3)

        def stop(named: dict[str, Any]) -> None:
            self.named = named
            raise _Recorded

        with self._listening(stop):
            try:
                pipe(prompt=list(texts), **{**options, "num_inference_steps": 1})
            except _Recorded:
                pipe.maybe_free_model_hooks()
        self.size = len(texts)
        self.sample_name, sample = next(iter(self.named.items()))
        self.listed = isinstance(sample, list)
        self.shape = tuple(sample[0].shape)

    @contextmanager
    def _listening(self, hear: Callable[[dict[str, Any]], None]) -> Iterator[None]:
        def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
            def forward(*args: Any, **kwargs: Any) -> Any:
                hear(named_arguments(self.denoiser, args, kwargs))
                return original(*args, **kwargs)

            return forward

        with patched(self.denoiser, "forward", wrap):
            yield

    def __call__(self, x: torch.Tensor, t: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Answers (b, ...) for noisy samples x (b, ...) at times t (b,) and prompts index (b,)."""
        named = take_rows(self.named, self.size, index)
        time_name = _time(named)
        time = named[time_name]
        named[time_name] = (self.slope * t.double() + self.shift).to(time.device, time.dtype)
        like = self.named[self.sample_name][0]
        shaped = x.reshape(-1, *self.shape).to(like)
        named[self.sample_name] = list(shaped.unbind()) if self.listed else shaped
        named["return_dict"] = False
        output = self.denoiser(**named)[0]
        output = torch.stack(output) if isinstance(output, list) else output
        return output.reshape(x.shape).float()


def _time(named: Mapping[str, Any]) -> str:
    return "timestep" if "timestep" in named else "t"


def _first(value: Any) -> float:
    return float(torch.as_tensor(value).flatten()[0])


Painted = dict[tuple[str, int], torch.Tensor]
"""Clean latents by (prompt, seed): sliders of one process share neutral subjects and poles."""


def sample_latents(
    pipe: Any,
    texts: Sequence[str],
    seeds: Sequence[int],
    call: Mapping[str, Any],
    *,
    steps: int,
    batch: int,
    painted: Painted,
) -> torch.Tensor:
    """Clean latents (n, ...) of `texts` as the sampling loop carries them, with usual guidance.

    painted: what is known already; what is new is added.
    """
    last: list[torch.Tensor] = []

    def on_step(step: Any, *args: Any, **kwargs: Any) -> Any:
        result = step(*args, **kwargs)
        last[:] = [result[0] if isinstance(result, tuple) else result.prev_sample]
        return result

    keys = list(zip(texts, seeds, strict=True))
    todo = [key for key in dict.fromkeys(keys) if key not in painted]
    with StepClock(pipe).running(on_step), torch.no_grad():
        starts = range(0, len(todo), batch)
        for start in counted(starts, "samples painted", each=batch):
            some = todo[start : start + batch]
            generators = [torch.Generator().manual_seed(seed) for _, seed in some]
            options = {**call, "num_inference_steps": steps, "output_type": "latent"}
            pipe(prompt=[text for text, _ in some], generator=generators, **options)
            painted.update(zip(some, last[0].float().cpu(), strict=True))
    return torch.stack([painted[key] for key in keys])


def read_latents(path: Path, shape: Sequence[int]) -> torch.Tensor:
    """Clean latents (n, *shape) from a safetensors file with one tensor, leading axes joined.

    Raises:
        LatentsError: when the file cannot be read or its trailing axes are not `shape`.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        msg = f"latents: {path} cannot be read as safetensors ({error})"
        raise LatentsError(msg) from error
    tensor = tensors.get("latents", next(iter(tensors.values())))
    if tuple(tensor.shape[-len(shape) :]) != tuple(shape) or tensor.ndim <= len(shape):
        msg = f"latents: {path} holds {tuple(tensor.shape)}, the model needs (n, {tuple(shape)})"
        raise LatentsError(msg)
    return tensor.reshape(-1, *shape).float()
