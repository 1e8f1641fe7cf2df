"""Steering over frames: every frame of a film, and every region, to its own emotion, in one run.

Directions move the text that each frame attends to; sliders and other LoRA adapters are weighed per
frame, by broadcast tensors in peft's scaling (frame_layers.py). A model whose text has one row a
frame (AnimateDiff) gets other rows; one with a single text for the film (Wan, LTX) has its
cross-attention unfolded, since attention to text works for each query alone: tokens (B, T h w, C)
become (B T, h w, C) and meet texts (B T, L, D). In regions, cross-attention runs once for each and
the results are blended by their shares of each cell. All of this is exact: a constant track equals
the scalar path of DirectionBank.steer and LoraBank.steer up to rounding.

It does not know where a track comes from (frames.py), nor how a film is asked for (pipelines).
Prior art: per-region prompts by blended cross-attention (arXiv 2302.08113), here per frame.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from adapters.conditioning import UNTOUCHED, Encoded, encode, intercept
from adapters.directions import DirectionBank
from adapters.families import family, require
from adapters.frame_layers import FrameWeights, Grid, is_motion, reads_text
from adapters.frames import FrameError, FrameTrack, frame_count
from adapters.lora import Gains, LoraBank, amounts, denoisers_of, weighable, weighed
from adapters.steps import Branches, Layout, named_arguments, patched

__all__ = ["steer_frames"]


@contextmanager
def steer_frames(
    pipe: Any,
    frames: FrameTrack,
    *,
    num_frames: int,
    height: int,
    width: int,
    directions: DirectionBank | None = None,
    sliders: LoraBank | None = None,
    strength: float = 1.0,
    tempo: Mapping[str, ArrayLike] | None = None,
    gains: Gains | None = None,
    words: Mapping[str, ArrayLike] | None = None,
) -> Iterator[None]:
    """While open, every run of `pipe` follows `frames`; nothing is left behind, also on errors.

    Args:
        pipe: an AnimateDiff, Wan or LTX pipeline.
        frames: a row for each latent frame (`frame_times` says where in time), and regions.
        num_frames, height, width: of the films that are made, in frames and pixels.
        directions: moves the text of each frame; the conditional branch only.
        sliders: loaded into the pipeline; weighed per frame in both branches. Emotions it has no
            slider for are left to the directions.
        strength: of directions and sliders. 0, or a neutral track, is the plain pipe, bit-equal.
        tempo: name of any adapter that is loaded (active or not) -> its weight in each latent frame
            (T,), not multiplied by `strength`. Regions do not touch it.
        gains: calibrated a -> a' per emotion, applied to track and regions.
        words: prompts -> their share in each latent frame (T,), instead of the prompt of the call:
            encoded once, blended in proportion. The conditional branch only.

    Embeddings that the caller passes as `prompt_embeds=` are not moved, as elsewhere.

    Raises:
        FrameError: a track, weights or a size that do not fit the film (at the first run: a film of
            another size).
        FamilyError, DirectionError, LoraError: as the banks themselves raise them.
    """
    row = require(pipe, "directions")
    count = frame_count(pipe, num_frames)
    if len(frames) != count:
        msg = (
            f"frames: {len(frames)} rows do not fit {num_frames} frames, which {row.name} holds in "
            f"{count}; sample the curve at frame_times(pipe, {num_frames}, fps)"
        )
        raise FrameError(msg)
    if not np.isfinite(strength):
        msg = f"strength: must be a finite number, got {strength}; 0 is off, 1 is natural"
        raise FrameError(msg)
    grid = Grid.of(pipe, num_frames, height, width)
    film = _Film(pipe, grid, frames, gains)
    moved = strength != 0 and not frames.is_neutral
    if moved and directions is not None:
        film.direct(directions, strength)
    if words:
        film.say(words, count)
    weights = _tempo(pipe, tempo or {}, count, film)
    if moved and sliders is not None:
        tables = np.stack([sliders.mask(track) for track in film.tracks])
        weights |= sliders.adapters(pipe, tables * float(strength))
    if not weights and not film.moves_text:
        yield
        return
    with film.steered(weights):
        yield


class _Film:
    """One film under steering: its states, and where the current call of a denoiser stands."""

    def __init__(self, pipe: Any, grid: Grid, frames: FrameTrack, gains: Gains | None) -> None:
        self.pipe, self.grid = pipe, grid
        pairs = [(frames.track, frames.residuals), *(pair for _, *pair in frames.regions)]
        self.tracks = [self.pool(amounts(track, 1.0, gains)) for track, _ in pairs]
        self.residuals = [self.pool(residuals) for _, residuals in pairs]
        self.masks = [mask for mask, *_ in frames.regions]
        self.regions = len(pairs)
        self.weights = FrameWeights(grid, self.masks, {})
        self.branches = Branches(pipe)
        self._bank: tuple[DirectionBank, float] | None = None
        self._words: dict[str, Tensor] = {}
        self._encoded: Encoded | None = None
        self._said: Encoded | None = None
        self._encoding = False
        self._texts: list[Tensor] = []  # of each region, for a UNet
        self._length = 0  # tokens of one text
        self._bias: Tensor | None = None  # (T, L) of blended prompts, where texts are masked
        self._conditional = slice(0, 0)

    def pool(self, table: ArrayLike) -> NDArray[np.float64]:
        """Rows (latent frames, n) -> (T, n): the mean of what one patch in time holds."""
        rows = np.asarray(table, dtype=np.float64)
        fold, count = self.grid.fold, self.grid.frames
        return rows[: fold * count].reshape(count, -1, rows.shape[1]).mean(axis=1)

    def direct(self, bank: DirectionBank, strength: float) -> None:
        """Move texts along the directions of `bank`."""
        self._bank = bank, float(strength)

    def say(self, words: Mapping[str, ArrayLike], count: int) -> None:
        """Blend these prompts, each with its share in `count` latent frames."""
        table = np.stack([_weights(f"words: {text!r}", row, count) for text, row in words.items()])
        total = table.sum(axis=0)
        if (table < 0).any() or not (total > 0).all():
            msg = "words: expected shares of 0 or more, and one above 0 in each frame"
            raise FrameError(msg)
        table = self.pool((table / total).T).T
        shares = torch.from_numpy(table).float()
        self._words = dict(zip(words, shares, strict=True))

    @property
    def moves_text(self) -> bool:
        """Whether texts differ from what the pipeline encodes."""
        return self._bank is not None or bool(self._words)

    @contextmanager
    def steered(self, adapters: Mapping[str, NDArray[np.float64]]) -> Iterator[None]:
        """Everything in place, and out again. adapters: name -> (K, T) weights."""
        denoisers = denoisers_of(self.pipe)
        layers = {
            part: weighable(denoiser, adapters) if adapters else {}
            for part, denoiser in denoisers.items()
        }
        self.weights = FrameWeights(
            self.grid,
            self.masks,
            {name: one for found in layers.values() for name, one in found.items()},
        )
        self._weighs_text = any(reads_text(name) for found in layers.values() for name in found)
        with ExitStack() as stack:
            stack.enter_context(patched(self.pipe, "check_inputs", self._begins))
            if self.moves_text:
                stack.enter_context(intercept(self.pipe, self._remember))
            for part, denoiser in denoisers.items():
                hook = denoiser.register_forward_pre_hook(self._call, with_kwargs=True)
                stack.callback(hook.remove)
                self._attend(stack, denoiser, bool(layers[part]))
                for name, layer in layers[part].items():
                    stack.enter_context(weighed(layer, adapters, 1.0, self.weights, name))
            yield

    # A run: its prompts are encoded, then the denoiser is called in each step ---------------------

    def _begins(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Every pipeline checks its inputs first."""

        def check_inputs(*args: Any, **kwargs: Any) -> Any:
            self.branches.begin()
            self._encoded = self._said = None
            return original(*args, **kwargs)

        return check_inputs

    def _remember(self, encoded: Encoded) -> Encoded:
        """Keep what the run's prompt became; texts are moved when the denoiser gets them."""
        if self._encoding or self._encoded is not None:
            return encoded  # our own words, or FreeNoise's second call, for the negative prompt
        self._encoded = encoded
        if self._words:
            options = {}
            if "max_sequence_length" in inspect.signature(self.pipe.encode_prompt).parameters:
                options["max_sequence_length"] = len(encoded.tokens[0])
            self._encoding = True
            try:
                self._said = encode(self.pipe, list(self._words), **options)
            finally:
                self._encoding = False
        return encoded

    def _call(
        self, denoiser: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Forward pre-hook of a denoiser: hand it the texts of each frame."""
        named = named_arguments(denoiser, args, kwargs)
        sample = next(iter(named.values()))
        self._check(sample)
        call = self.branches.read(named)
        weights = self.weights
        weights.batch, weights.states, weights.region, weights.window = len(sample), 0, 0, 0
        self._bias, self._conditional = None, call.conditional
        text = named["encoder_hidden_states"]
        if self.grid.layout == "unet":
            self._texts = self._film_texts(text, call)
            named["encoder_hidden_states"] = self._texts[0]
        elif (self.moves_text and call.conditional != slice(0, 0)) or self._weighs_text:
            texts = self._film_texts(text, call)
            self._length = text.shape[1]
            weights.states = self.regions * self.grid.frames
            side_by_side = torch.stack([one.unflatten(0, (len(text), -1)) for one in texts], dim=1)
            named["encoder_hidden_states"] = side_by_side.flatten(1, 3)
        return (), named

    def _check(self, sample: Tensor) -> None:
        grid = self.grid
        if grid.layout == "ltx":
            fits = sample.shape[1] == grid.frames * grid.cells
        else:
            patch = self._patch
            seen = [size // p for size, p in zip(sample.shape[2:], patch, strict=True)]
            fits = seen == [grid.frames, grid.rows, grid.columns]
        if not fits:
            msg = (
                f"frames: steered for {grid.frames} x {grid.rows} x {grid.columns} cells, but this "
                f"run has {tuple(sample.shape[1:])}; give steer_frames the num_frames, height and "
                "width of the call"
            )
            raise FrameError(msg)

    @property
    def _patch(self) -> tuple[int, int, int]:
        if self.grid.layout == "unet":
            return 1, 1, 1
        config = next(iter(denoisers_of(self.pipe).values())).config
        return tuple(config.patch_size)

    def _film_texts(self, text: Tensor, call: Layout) -> list[Tensor]:
        """For each region (rows T, L, D): the texts of all frames of all rows of the batch.

        text: (rows T, L, D) of a UNet, (rows, L, D) else.
        """
        count = self.grid.frames
        frames = text if self.grid.layout == "unet" else text.repeat_interleave(count, dim=0)
        chosen = range(call.size)[call.conditional]
        if not chosen or self._encoded is None:
            return [frames] * self.regions
        found = []
        for region in range(self.regions):
            moved = frames.clone()
            for number, row in enumerate(chosen):
                place = slice(row * count, (row + 1) * count)
                moved[place] = self._moved(frames[place], number, region)
            found.append(moved)
        return found

    def _moved(self, plain: Tensor, number: int, region: int) -> Tensor:
        """(T, L, D) texts of film `number` in `region`, from what the pipeline encoded."""
        encoded = self._encoded
        if self._said is None:
            # FreeNoise encodes the first and last prompt of one film; labels are the first's.
            number = number if number < len(encoded.parts) else 0
            return self._shifted(plain, encoded.parts[number], region)
        total = torch.zeros_like(plain, dtype=torch.float32)
        masked = family(self.pipe).mask is not None
        seen = torch.zeros(plain.shape[:2], device=plain.device)
        for text, parts, share in zip(
            self._said.tokens, self._said.parts, self._words.values(), strict=True
        ):
            tokens = text.to(plain).expand_as(plain)
            share = share.to(plain.device)[:, None].expand(plain.shape[:2])
            if masked:  # positions that a prompt hides count for nothing
                share = share * (parts != UNTOUCHED).to(plain.device)
            total += share[..., None] * self._shifted(tokens, parts, region).float()
            seen += share
        if masked:
            total = total / seen.clamp_min(1e-6)[..., None]
            # In log, so that attention to a position fades in and out with the prompts that use it.
            self._bias = torch.where(seen > 0, seen.clamp_min(1e-6).log(), -10000.0)
        return total.to(plain.dtype)

    def _shifted(self, tokens: Tensor, parts: Tensor, region: int) -> Tensor:
        if self._bank is None:
            return tokens
        bank, strength = self._bank
        count = len(tokens)
        film = Encoded(tokens, parts.to(tokens.device).expand(count, -1), None, count)
        track, residuals = self.tracks[region], self.residuals[region]
        moved = bank.shift(self.pipe, film, track, strength, residuals).tokens
        if not isinstance(moved, Tensor):  # lists are Z-Image's, which makes no films
            raise TypeError(type(moved))
        return moved

    # Cross-attention ------------------------------------------------------------------------------

    def _attend(self, stack: ExitStack, denoiser: nn.Module, weighs: bool) -> None:
        """Unfold cross-attention, and say which window of frames a motion module sees."""
        unet = self.grid.layout == "unet"
        texts = self.moves_text or self._weighs_text
        for name, module in denoiser.named_modules():
            if type(module).__name__ == "SplitInferenceModule" and (weighs or self.regions > 1):
                msg = (
                    "frames: FreeNoise's split inference hides which frame is which; turn it off "
                    "(enable_free_noise without enable_free_noise_split_inference)"
                )
                raise FrameError(msg)
            if type(module).__name__ == "FreeNoiseTransformerBlock" and weighs:
                self._windows(stack, module)
            crossing = name.endswith(".attn2") and not is_motion(name)
            if crossing and texts and (self.regions > 1 or not unet):
                make = self._blended if unet else self._unfolded
                stack.enter_context(patched(module, "forward", make))

    def _blended(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Cross-attention of a UNet, once a region: (B T, h w, C) each."""

        def forward(
            hidden_states: Tensor, encoder_hidden_states: Any = None, *a: Any, **k: Any
        ) -> Any:
            level = self.grid.level(hidden_states.shape[1])
            if encoder_hidden_states is None or level is None:
                return original(hidden_states, encoder_hidden_states, *a, **k)
            shares = self.weights.shares(*level).flatten(1).to(hidden_states)
            out: Any = 0
            for region, text in enumerate(self._texts):
                given: Any = text
                if isinstance(encoder_hidden_states, tuple):  # text, then pictures of an IP-Adapter
                    given = (text, *encoder_hidden_states[1:])
                with self._attending(region):
                    out = out + original(hidden_states, given, *a, **k) * shares[region][:, None]
            return out

        return forward

    def _unfolded(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Cross-attention of a sequence of all frames, frame by frame, once a region."""

        def forward(
            hidden_states: Tensor,
            encoder_hidden_states: Tensor | None = None,
            attention_mask: Tensor | None = None,
            *a: Any,
            **k: Any,
        ) -> Any:
            if not self.weights.states or encoder_hidden_states is None:
                return original(hidden_states, encoder_hidden_states, attention_mask, *a, **k)
            count, cells = self.grid.frames, self.grid.cells
            rows, _, channels = hidden_states.shape
            folded = hidden_states.reshape(rows * count, cells, channels)
            # Wan's picture tokens stand before the text and are the same in every frame.
            before = encoder_hidden_states.shape[1] - self.weights.states * self._length
            picture = encoder_hidden_states[:, :before].repeat_interleave(count, dim=0)
            texts = encoder_hidden_states[:, before:]
            texts = texts.unflatten(1, (self.regions, count, self._length))
            mask = self._mask(attention_mask)
            shares = self.weights.shares(self.grid.rows, self.grid.columns).flatten(1)
            parts = []
            for region in range(self.regions):
                text = torch.cat([picture, texts[:, region].flatten(0, 1)], dim=1)
                with self._attending(region):
                    part = original(folded, text, mask, *a, **k)
                parts.append(part.reshape(rows, count, cells, -1))
            if len(parts) == 1:
                return parts[0].flatten(1, 2)
            blended = sum(
                part * share.to(part)[:, None] for part, share in zip(parts, shares, strict=True)
            )
            return blended.flatten(1, 2)

        return forward

    def _mask(self, mask: Tensor | None) -> Tensor | None:
        """A bias (B, 1, L) -> (B T, 1, L), with that of blended prompts in the conditional rows."""
        if mask is None:
            return None
        count = self.grid.frames
        folded = mask.repeat_interleave(count, dim=0)
        if self._bias is not None:
            folded = folded.clone()
            rows = folded.unflatten(0, (len(mask), count))
            rows[self._conditional] = self._bias.to(mask)[:, None]
        return folded

    @contextmanager
    def _attending(self, region: int) -> Iterator[None]:
        self.weights.region = region
        try:
            yield
        finally:
            self.weights.region = 0

    def _windows(self, stack: ExitStack, block: Any) -> None:
        """FreeNoise hands a motion module overlapping windows of a long film, one after another."""
        count = self.grid.frames
        spans = block._get_frame_indices(count)
        starts = [start for start, _ in spans]
        if spans[-1][1] != count:
            starts.append(count - block.context_length)
        turn = {"next": 0}

        def begin(*_: Any) -> None:
            turn["next"] = 0

        def take(*_: Any) -> None:
            self.weights.window = starts[turn["next"] % len(starts)]
            turn["next"] += 1

        stack.callback(block.register_forward_pre_hook(begin).remove)
        stack.callback(block.attn1.register_forward_pre_hook(take).remove)


def _tempo(
    pipe: Any, tempo: Mapping[str, ArrayLike], count: int, film: _Film
) -> dict[str, NDArray[np.float64]]:
    """Adapter name -> (K, T) weights, the same in all regions; those that are 0 are left out."""
    found = {}
    known = {
        name for part in denoisers_of(pipe).values() for name in getattr(part, "peft_config", {})
    }
    for name, values in tempo.items():
        if name not in known:
            msg = (
                f"tempo: no adapter {name!r} is loaded, only {', '.join(sorted(known)) or 'none'}; "
                "load it with pipe.load_lora_weights(..., adapter_name=...)"
            )
            raise FrameError(msg)
        row = film.pool(_weights(f"tempo: {name}", values, count)[:, None])[:, 0]
        if row.any():
            found[name] = np.repeat(row[None], film.regions, axis=0)
    return found


def _weights(name: str, values: ArrayLike, count: int) -> NDArray[np.float64]:
    row = np.asarray(values, dtype=np.float64)
    if row.shape != (count,) or not np.isfinite(row).all():
        msg = f"{name}: expected {count} finite weights, one a latent frame, received {row.shape}"
        raise FrameError(msg)
    return row
