"""What every recipe shares: averaged weights, checkpoints that resume exactly, a log line.

A checkpoint is safetensors plus a JSON file, never a pickle: module weights, averaged weights,
the optimiser's moments, the random generator and the step. It is written beside the old one and
swapped in, so a run that is killed resumes from a whole checkpoint. Knows no model and no loss.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from adapters.files import replacing, sync_folder, told_as_ours
from training.progress import say, step_line


class Average:
    """Exponential moving average of a module's parameters and buffers (Polyak averaging).

    The decay warms up as (1 + step) / (10 + step), so that short runs are averaged too.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state = {name: value.detach().clone() for name, value in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Move the average towards the module's weights after optimiser step `step`."""
        decay = min(self.decay, (1 + step) / (10 + step))
        values = module.state_dict()
        real = [name for name, value in values.items() if value.is_floating_point()]
        # All at once: an adapter has hundreds of little matrices.
        torch._foreach_lerp_([self.state[n] for n in real], [values[n] for n in real], 1 - decay)
        for name in values.keys() - set(real):
            self.state[name].copy_(values[name])


def cosine(step: int, total: int, peak: float, warmup: int) -> float:
    """Return the learning rate at `step`: linear warm-up, then a cosine down to peak / 20."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return peak * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress)))


class LossError(ValueError):
    """A run whose loss is no number: one line; its last checkpoint is whole."""


def clip_gradients(parameters: Iterable[nn.Parameter], step: int) -> None:
    """Clip gradients to norm 1 before optimiser step `step` (from 0) is taken.

    Raises:
        LossError: when they, and so the loss, are no numbers. No weight has been touched then.
    """
    if not bool(nn.utils.clip_grad_norm_(parameters, 1.0).isfinite()):
        msg = (
            f"loss: no number at step {step + 1}, weights are left as they were; start again with "
            "a lower rate, in another folder"
        )
        raise LossError(msg)


def save_checkpoint(
    folder: Path,
    step: int,
    modules: Mapping[str, nn.Module],
    averages: Mapping[str, Average],
    optimizer: torch.optim.Optimizer | Mapping[str, torch.optim.Optimizer],
    generator: torch.Generator,
    meta: Mapping[str, object] | None = None,
) -> None:
    """Write one resumable checkpoint to `folder`, replacing the last one only when it is whole.

    Raises:
        OSError: a disk that is full, in one line; the last one is kept.
    """
    fresh = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        with told_as_ours(folder):
            _write(fresh, modules, averages, optimizer, generator, {"step": step, **(meta or {})})
            for path in fresh.iterdir():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
            sync_folder(fresh)
    except Exception:
        shutil.rmtree(fresh, ignore_errors=True)  # half a checkpoint is of no use, its room is
        raise
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.replace(old)
    fresh.replace(folder)
    sync_folder(folder.parent)  # the new name, before the one before it is let go
    shutil.rmtree(old, ignore_errors=True)


def _write(
    folder: Path,
    modules: Mapping[str, nn.Module],
    averages: Mapping[str, Average],
    optimizer: torch.optim.Optimizer | Mapping[str, torch.optim.Optimizer],
    generator: torch.Generator,
    meta: Mapping[str, object],
) -> None:
    for name, module in modules.items():
        # Copies: tied weights share memory, which safetensors refuses.
        state = {key: value.clone().contiguous() for key, value in module.state_dict().items()}
        save_file(state, folder / f"{name}.safetensors")
    for name, average in averages.items():
        state = {key: value.contiguous() for key, value in average.state.items()}
        save_file(state, folder / f"{name}.average.safetensors")
    moments = {
        f"{prefix}{index}.{key}": value
        for prefix, one in _by_prefix(optimizer).items()
        for index, entry in one.state_dict()["state"].items()
        for key, value in _flat(entry)
    }
    seen: set[int] = set()
    for key, value in moments.items():  # 8-bit moments share a table, which safetensors refuses
        moments[key] = value.clone() if value.data_ptr() in seen else value.contiguous()
        seen.add(value.data_ptr())
    moments["generator"] = generator.get_state()
    save_file(moments, folder / "optimizer.safetensors")
    (folder / "meta.json").write_text(json.dumps(meta))


def _flat(entry: Mapping[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors of an optimiser's state by name: "a/b" inside another, "a#" for a plain number."""
    for key, value in entry.items():
        if isinstance(value, Mapping):
            yield from ((f"{key}/{inner}", tensor) for inner, tensor in _flat(value))
        elif isinstance(value, torch.Tensor):
            yield key, value
        elif isinstance(value, int | float):
            yield f"{key}#", torch.tensor(value, dtype=torch.float64)


def _put(entry: dict[str, Any], key: str, value: torch.Tensor) -> None:
    """The way back of `_flat`; what 8-bit optimisers count is whole numbers."""
    *folders, name = key.split("/")
    for folder in folders:
        entry = entry.setdefault(folder, {})
    if name.endswith("#"):
        number = value.item()
        entry[name[:-1]] = int(number) if number == int(number) else number
    else:
        entry[name] = value


def load_checkpoint(
    folder: Path,
    modules: Mapping[str, nn.Module],
    averages: Mapping[str, Average],
    optimizer: torch.optim.Optimizer | Mapping[str, torch.optim.Optimizer],
    generator: torch.Generator,
) -> int:
    """Restore everything `save_checkpoint` wrote and return the step; 0 when there is nothing."""
    if not (folder / "meta.json").exists():
        old = folder.with_name(folder.name + ".old")  # killed between the two renames
        if not (old / "meta.json").exists():
            return 0
        with suppress(FileNotFoundError):  # another process of the run was faster
            old.replace(folder)
    for name, module in modules.items():
        module.load_state_dict(load_file(folder / f"{name}.safetensors"))
    for name, average in averages.items():
        found = load_file(folder / f"{name}.average.safetensors")
        average.state = {key: found[key].to(value.device) for key, value in average.state.items()}
    moments = load_file(folder / "optimizer.safetensors")
    generator.set_state(moments.pop("generator"))
    for prefix, one in _by_prefix(optimizer).items():
        state: dict[int, dict[str, Any]] = {}
        for key, value in moments.items():
            index, name = key.removeprefix(prefix).split(".", 1)
            if key.startswith(prefix) and index.isdigit():
                _put(state.setdefault(int(index), {}), name, value)
        one.load_state_dict({**one.state_dict(), "state": state})
    return int(json.loads((folder / "meta.json").read_text())["step"])


def _by_prefix(
    optimizer: torch.optim.Optimizer | Mapping[str, torch.optim.Optimizer],
) -> dict[str, torch.optim.Optimizer]:
    """One optimiser under no prefix, several each under its name."""
    if isinstance(optimizer, Mapping):
        return {f"{name}.": one for name, one in optimizer.items()}
    return {"": optimizer}


@contextmanager
def stopping(deaf: float = 0.0) -> Iterator[Callable[[], bool]]:
    """While open, Ctrl-C and the signal to end wait for a whole step; yields whether one came.

    A second one ends at once, unless it comes within `deaf` seconds: a launcher of several
    processes passes on the Ctrl-C that the terminal has sent to each of them already. Outside the
    main thread, which alone gets signals, nothing changes.
    """
    came: list[float] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return

    def note(number: int, frame: object) -> None:
        if came and time.monotonic() - came[0] >= deaf:
            raise KeyboardInterrupt
        came.append(time.monotonic())

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Log:
    """Append one JSON line per report to `path` and echo it: step, loss, samples per second.

    quiet: nothing is echoed and no digit left out, for curves with a line a step.
    total: steps of the run at most; what is echoed is a line for people then, not JSON.
    """

    def __init__(self, path: Path, batch: int, *, quiet: bool = False, total: int = 0) -> None:
        self.path, self.batch, self.quiet, self.total = path, batch, quiet, total
        self.started = time.perf_counter()
        self.sums: dict[str, list[float]] = {}
        self.step = 0

    def add(self, **values: float | torch.Tensor) -> None:
        """Accumulate figures of a step; each name is averaged over the times it was given."""
        for name, value in values.items():
            number = value.item() if isinstance(value, torch.Tensor) else value
            self.sums.setdefault(name, []).append(number)

    def report(self, step: int, left: float | None = None) -> dict[str, float]:
        """Write the means since the last report, and return them. left: seconds to go."""
        now = time.perf_counter()
        line: dict[str, float] = {"step": step}
        means = {name: sum(all_) / len(all_) for name, all_ in self.sums.items()}
        line |= means if self.quiet else {name: round(value, 5) for name, value in means.items()}
        rate = (step - self.step) * self.batch / (now - self.started) if self.step else 0.0
        line["samples_per_second"] = round(rate, 2)
        self.started, self.sums, self.step = now, {}, step
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        if not self.quiet:
            say(step_line(line, self.total, left) if self.total else json.dumps(line))
        return line

    def rewind(self, step: int) -> None:
        """Take out what was written after `step`: a run that was killed goes on from there.

        Half a line, which a kill may leave, is taken out too.
        """
        if not self.path.is_file():
            return
        kept = []
        for line in self.path.read_text().splitlines():
            with suppress(ValueError):
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
        with replacing(self.path) as fresh:
            fresh.write_text("".join(kept))
