"""LoRA sliders: one bipolar peft adapter per emotion, whose weight is the emotion's intensity.

`LoraBank` loads `<emotion>.safetensors` files into a pipeline's denoiser, where they lie inactive
until `steer` gives every SAMPLE of the batch its own weight per emotion. The weight is a broadcast
tensor in peft's `LoraLayer.scaling[adapter]`, so that a whole grid of emotions x levels is one
forward pass; it equals separate runs up to rounding.

Deliberately not used: diffusers' `set_adapters(weights={...})`, whose dict form matches block names
as substrings ("transformer_blocks.1" also hits blocks 10 and 11) and knows no per-sample weight;
peft's mixed-batch `adapter_names`, which takes one adapter a sample at one strength. Knows nothing
of how sliders are trained (training/lora.py) or of what their weights should be (calibration.py).

Source: Concept Sliders (arXiv 2311.12092) for adapters whose weight is an intensity.
"""

from __future__ import annotations

import contextlib
import hashlib
import warnings
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from adapters.emotion import CORE
from adapters.families import require
from adapters.slider_file import SliderFileError, read_slider, write_slider
from adapters.steps import Branches, Layout, StepClock, named_arguments

__all__ = [
    "LoraBank",
    "LoraError",
    "amounts",
    "block_weights",
    "denoiser_of",
    "denoisers_of",
    "lora_layers",
    "weighable",
    "weighed",
    "write_slider",
]

Gains = Mapping[str, Callable[[float], float]]
Branch = Literal["both", "cond"]

# Keeps our adapters apart from those a user has loaded for style under plain names.
_PREFIX = "affect_"


class LoraError(ValueError):
    """A bank, a block name or a track that cannot be used; its one line says what can."""


def denoiser_of(pipe: Any) -> tuple[str, nn.Module]:
    """The denoiser's attribute name ("unet" or "transformer") and the module itself."""
    name = require(pipe, "lora").denoiser
    return name, getattr(pipe, name)


def denoisers_of(pipe: Any) -> dict[str, nn.Module]:
    """Every denoiser that a run goes through, by attribute name: Wan 2.2 has two experts."""
    row = require(pipe, "lora")
    parts = {name: getattr(pipe, name, None) for name in (row.denoiser, *row.experts)}
    return {name: part for name, part in parts.items() if part is not None}


def lora_layers(denoiser: nn.Module) -> dict[str, LoraLayer]:
    """Every layer of `denoiser` that carries peft adapters, by module name."""
    return {name: m for name, m in denoiser.named_modules() if isinstance(m, LoraLayer)}


def block_weights(names: list[str], blocks: Mapping[str, float]) -> dict[str, float]:
    """The weight of each module, from weights keyed by EXACT block or module names.

    A key covers the module of that name and everything under it, on whole path parts: "blocks.1"
    covers "blocks.1.attn" and not "blocks.10". The longest key wins; what no key covers keeps 1.

    Raises:
        LoraError: for a key that covers nothing, naming the nearest names there are.
    """
    used = set()
    weights = {}
    for name in names:
        keys = [key for key in blocks if name == key or name.startswith(key + ".")]
        used.update(keys)
        weights[name] = float(blocks[max(keys, key=len)]) if keys else 1.0
    for key in blocks:
        if key not in used:
            parts = {".".join(n.split(".")[:i]) for n in names for i in range(1, n.count(".") + 2)}
            near = ", ".join(get_close_matches(key, sorted(parts), n=3, cutoff=0.3)) or "none"
            msg = f"blocks: no slider layer lies under {key!r}; nearest names: {near}"
            raise LoraError(msg)
    return weights


def amounts(track: ArrayLike, strength: float, gains: Gains | None = None) -> NDArray[np.float64]:
    """Slider weights (B, 12) of a track (B, 12): strength x gain of each intensity.

    Negative intensities push a bipolar slider the other way; a gain is applied to the magnitude.

    Raises:
        LoraError: when the track is not (B, 12) or holds a number that is not finite.
    """
    rows = np.atleast_2d(np.asarray(track, dtype=np.float64))
    if rows.ndim != 2 or rows.shape[1] != len(CORE) or len(rows) == 0:
        msg = f"track: expected shape (B, {len(CORE)}), received {np.shape(track)}"
        raise LoraError(msg)
    if not (np.isfinite(rows).all() and np.isfinite(strength)):
        msg = "track, strength: expected finite numbers, received inf or nan; check the calibration"
        raise LoraError(msg)
    if gains is not None:
        rows = rows.copy()
        for index, name in enumerate(CORE):
            if name in gains:
                rows[:, index] = [
                    np.sign(x) * gains[name](abs(x)) if x else 0.0 for x in rows[:, index]
                ]
    return rows * float(strength)


class LoraBank:
    """The emotion sliders of one backbone.

    Args:
        source: a folder of `<emotion>.safetensors` files named after CORE, or {emotion: file}.
        prefix: of the names that the adapters have in a model; two banks in one model need two.

    Raises:
        LoraError: when there is no such file, a name is not one of CORE, or a file is no slider.
    """

    def __init__(
        self, source: Path | str | Mapping[str, Path | str], *, prefix: str = _PREFIX
    ) -> None:
        if isinstance(source, Mapping):
            files = {name: Path(path) for name, path in source.items()}
            for name in files:
                if name not in CORE:
                    msg = f"sliders: {name!r} is not a core emotion; use one of {', '.join(CORE)}"
                    raise LoraError(msg)
        else:
            folder = Path(source)
            files = {name: folder / f"{name}.safetensors" for name in CORE}
            files = {name: path for name, path in files.items() if path.is_file()}
        if not files:
            msg = (
                f"sliders: no <emotion>.safetensors in {source}; `affect train slider` or "
                "`affect train lora` makes them"
            )
            raise LoraError(msg)
        self.prefix = prefix
        self.files = {name: files[name] for name in CORE if name in files}

    @property
    def names(self) -> tuple[str, ...]:
        """The emotions this bank has a slider for, in CORE order."""
        return tuple(self.files)

    @property
    def digest(self) -> str:
        """16 hex digits over the names and bytes of all sliders: what a calibration holds for."""
        total = hashlib.sha256()
        for name, path in self.files.items():
            total.update(name.encode() + hashlib.sha256(path.read_bytes()).digest())
        return total.hexdigest()[:16]

    def mask(self, track: ArrayLike) -> NDArray[np.float64]:
        """The part (B, 12) of a track that this bank can act on; other emotions become 0."""
        rows = np.atleast_2d(np.array(track, dtype=np.float64))
        rows[:, [name not in self.files for name in CORE]] = 0.0
        return rows

    def loaded(self, pipe: Any) -> bool:
        """Whether all sliders of this bank lie in the pipeline's denoiser."""
        configs = [getattr(part, "peft_config", {}) for part in denoisers_of(pipe).values()]
        return all(self.prefix + name in config for name in self.files for config in configs)

    def load_into(self, pipe: Any) -> None:
        """Add the sliders to the pipeline's denoiser, inactive; its outputs stay bit-equal.

        Loading twice does nothing. Adapters that a user has loaded keep their state.

        Raises:
            SliderFileError: when a file does not fit the denoiser; nothing stays loaded then.
        """
        if self.loaded(pipe):
            return
        try:
            for part, denoiser in denoisers_of(pipe).items():
                self._load(pipe, part, denoiser)
        except Exception:
            self.unload(pipe)
            raise

    def _load(self, pipe: Any, part: str, denoiser: nn.Module) -> None:
        before = {name: list(m.active_adapters) for name, m in lora_layers(denoiser).items()}
        flags = [(parameter, parameter.requires_grad) for parameter in denoiser.parameters()]
        parts = tuple(denoisers_of(pipe))
        try:
            for name, path in self.files.items():
                if self.prefix + name not in getattr(denoiser, "peft_config", {}):
                    state = read_slider(path, part, denoiser, parts)
                    with warnings.catch_warnings():
                        # Several adapters in one model are the point.
                        warnings.filterwarnings("ignore", "Already found a `peft_config`")
                        denoiser.load_lora_adapter(
                            state, prefix=part, adapter_name=self.prefix + name
                        )
        except SliderFileError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            msg = f"sliders: {path} does not fit {type(denoiser).__name__}: {reason}"
            raise SliderFileError(msg) from error
        finally:
            for name, layer in lora_layers(denoiser).items():
                _activate(layer, before.get(name, []))
                for key, parameter in layer.named_parameters():
                    if f".{self.prefix}" in key:
                        parameter.requires_grad_(False)
            for parameter, flag in flags:  # peft freezes the whole model
                parameter.requires_grad_(flag)

    def unload(self, pipe: Any) -> None:
        """Take the sliders out again; without other adapters the denoiser is as it was built."""
        for denoiser in denoisers_of(pipe).values():
            config = getattr(denoiser, "peft_config", {})
            ours = [self.prefix + name for name in self.files if self.prefix + name in config]
            if not ours:
                continue
            before = {name: list(m.active_adapters) for name, m in lora_layers(denoiser).items()}
            denoiser.delete_adapters(ours)
            if not getattr(denoiser, "peft_config", None):
                denoiser.unload_lora()
                continue
            for name, layer in lora_layers(denoiser).items():
                _activate(layer, [a for a in before[name] if a not in ours])

    @contextmanager
    def steer(
        self,
        pipe: Any,
        track: ArrayLike,
        strength: float = 1.0,
        gains: Gains | None = None,
        blocks: Mapping[str, float] | None = None,
        *,
        branch: Branch = "both",
        start: float = 0.0,
    ) -> Iterator[None]:
        """Weigh the sliders per sample while the context is open; the denoiser is restored after.

        Args:
            pipe: a pipeline this bank was loaded into.
            track: (B, 12) intensities, one row a prompt, usually 0..1; negative goes to the
                opposite pole. `num_images_per_prompt` repeats each row, as diffusers repeats
                prompts; one row serves any batch.
            strength: multiplies every weight. 0 leaves the pipeline alone, bit-equal.
            gains: calibrated a -> a' per emotion, e.g. from calibration.py.
            blocks: weight per denoiser block or module by exact name (see `block_weights`).
            branch: "both" steers both halves of classifier-free guidance, as a LoRA is normally
                used; "cond" leaves the unconditional half plain, which multiplies the effect by
                about the guidance scale.
            start: share of the steps, 0..1, during which the weights stay 0. Around 0.2 keeps the
                layout of the unsteered picture (the SDEdit trick of Concept Sliders).

        Raises:
            LoraError: for a bad track, an emotion without a slider, a bank that is not loaded, a
                fused adapter, an unknown block, or a batch that does not fit the track.
        """
        weights = amounts(track, strength, gains)
        adapters = self.adapters(pipe, weights)
        if not adapters:
            yield
            return
        if branch not in ("both", "cond"):
            msg = f"branch: expected 'both' or 'cond', received {branch!r}"
            raise LoraError(msg)
        if not 0.0 <= start <= 1.0:
            msg = f"start: allowed 0 to 1, received {start}"
            raise LoraError(msg)
        denoisers = denoisers_of(pipe)
        layers = {part: weighable(denoiser, adapters) for part, denoiser in denoisers.items()}
        names = list(dict.fromkeys(name for found in layers.values() for name in found))
        shares = block_weights(names, blocks or {})
        clock = StepClock(pipe)
        batch = _Batch(pipe, len(weights), branch, lambda: clock.fraction < start)
        with contextlib.ExitStack() as stack:
            stack.enter_context(clock.running(on_start=batch.branches.begin))
            for part, denoiser in denoisers.items():
                hook = denoiser.register_forward_pre_hook(batch.observe, with_kwargs=True)
                stack.callback(hook.remove)
                for name, layer in layers[part].items():
                    stack.enter_context(weighed(layer, adapters, shares[name], batch, name))
            yield

    def adapters(self, pipe: Any, weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Adapter name -> weights (...), for each emotion that `weights` (..., 12) ask for.

        Raises:
            LoraError: for an emotion without a slider, or a bank that is not loaded.
        """
        used = [i for i in range(len(CORE)) if weights[..., i].any()]
        lacking = [CORE[i] for i in used if CORE[i] not in self.files]
        if lacking:
            msg = (
                f"track: no slider for {', '.join(lacking)}; this bank has {', '.join(self.names)}"
            )
            raise LoraError(msg)
        if used and not self.loaded(pipe):
            msg = "sliders: not loaded into this pipeline; call load_into(pipe) first"
            raise LoraError(msg)
        return {self.prefix + CORE[i]: weights[..., i] for i in used}


def weighable(denoiser: nn.Module, adapters: Collection[str]) -> dict[str, LoraLayer]:
    """The layers of `denoiser` that carry one of `adapters`, by module name.

    Raises:
        LoraError: when one of them is fused, for then weights have no effect.
    """
    layers = {
        name: layer
        for name, layer in lora_layers(denoiser).items()
        if any(adapter in layer.lora_A for adapter in adapters)
    }
    if any(layer.merged for layer in layers.values()):
        msg = "sliders: an adapter is fused, weights have no effect; call unfuse_lora() first"
        raise LoraError(msg)
    return layers


class Weights(Protocol):
    """Says how an adapter's weights lie over the input of a layer, in the current call."""

    layout: Hashable
    """Changes whenever the same input would be weighed differently."""

    def scale(
        self, column: NDArray[np.float64], factor: float, x: Tensor, dtype: torch.dtype, name: str
    ) -> Any:
        """What to multiply the adapter's part of layer `name` with, for the input `x`."""
        ...


class _Batch:
    """Which row of the track each row of the denoiser's current batch belongs to."""

    def __init__(self, pipe: Any, rows: int, branch: Branch, resting: Callable[[], bool]) -> None:
        self.branches = Branches(pipe)
        self.rows, self.branch, self.resting = rows, branch, resting
        self.layout: tuple[Layout, bool] | None = None
        self.index = torch.zeros(0, dtype=torch.long)
        self.share = torch.zeros(0)

    def observe(self, denoiser: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Forward pre-hook of the denoiser: find the true batch size of this call."""
        named = named_arguments(denoiser, args, kwargs)
        size = len(next(iter(named.values())))
        if size % self.rows:
            msg = (
                f"track: {self.rows} rows do not fit a batch of {size}; "
                "give one row a prompt, or a single row for all"
            )
            raise LoraError(msg)
        call = self.branches.read(named, self.rows)
        resting = self.resting() or (call.unconditional and self.branch == "cond")
        if (call, resting) == self.layout:
            return
        self.layout = (call, resting)
        index = torch.arange(self.rows).repeat_interleave(call.real // self.rows)
        share = torch.full((call.real,), 0.0 if resting else 1.0)
        if call.doubled:
            other = share if self.branch == "both" else torch.zeros_like(share)
            halves = (share, other) if call.cond_first else (other, share)
            index, share = torch.cat([index, index]), torch.cat(halves)
        self.index, self.share = index, share

    def scale(
        self,
        column: NDArray[np.float64],
        factor: float,
        x: torch.Tensor,
        dtype: torch.dtype,
        name: str,
    ) -> Any:
        """The broadcast tensor for a layer whose input is `x`, or a float where rows agree."""
        rows = torch.from_numpy(column)[self.index] * self.share * factor
        if len(x) == len(rows):
            pass
        elif x.ndim > 2 and len(x) % len(rows) == 0:  # frames folded into the batch, samples first
            rows = rows.repeat_interleave(len(x) // len(rows))
        elif bool((rows == rows[0]).all()):
            return float(rows[0])
        else:
            msg = (
                f"sliders: layer {name} mixes the samples of a batch and cannot be weighed per "
                "sample; leave it out of the slider or run one emotion at a time"
            )
            raise LoraError(msg)
        return rows.to(x.device, dtype).view(-1, *(1,) * (x.ndim - 1))


@contextmanager
def weighed(
    layer: LoraLayer,
    adapters: Mapping[str, NDArray[np.float64]],
    share: float,
    batch: Weights,
    name: str,
) -> Iterator[None]:
    """Activate `adapters` on one layer, scaled as `batch` says during its forward pass only."""
    ours = [adapter for adapter in adapters if adapter in layer.lora_A]
    plain = {adapter: layer.scaling[adapter] for adapter in ours}
    active, off = list(layer.active_adapters), layer.disable_adapters
    cache: dict[Any, Any] = {}

    def weigh(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = args[0] if args else kwargs["x"]
        for adapter in ours:
            dtype = layer.lora_B[adapter].weight.dtype
            key = (adapter, batch.layout, x.shape, dtype, x.device)
            if key not in cache:
                # In the adapter's own type: a float32 tensor would promote bf16 activations.
                factor = share * plain[adapter]
                cache[key] = batch.scale(adapters[adapter], factor, x, dtype, name)
            layer.scaling[adapter] = cache[key]

    def unweigh(*_: Any) -> None:
        # Between calls the table holds floats: diffusers multiplies it in place for `lora_scale`.
        layer.scaling.update(plain)

    handles = [
        layer.register_forward_pre_hook(weigh, with_kwargs=True),
        layer.register_forward_hook(unweigh, always_call=True),
    ]
    try:
        with _same_grads(layer):
            if off:
                layer.enable_adapters(True)
            # A user who disabled their own adapters keeps them off.
            _activate(layer, [*([] if off else [a for a in active if a not in ours]), *ours])
        yield
    finally:
        for handle in handles:
            handle.remove()
        layer.scaling.update(plain)
        with _same_grads(layer):
            _activate(layer, active)
            if off:
                layer.enable_adapters(False)


def _activate(layer: LoraLayer, names: list[str]) -> None:
    """Set a layer's active adapters and nothing else (peft also flips requires_grad)."""
    with _same_grads(layer):
        layer.set_adapter(names, inference_mode=True)


@contextmanager
def _same_grads(layer: nn.Module) -> Iterator[None]:
    flags = {name: p.requires_grad for name, p in layer.named_parameters()}
    try:
        yield
    finally:
        for name, p in layer.named_parameters():
            p.requires_grad_(flags[name])
