"""How weights over frames and regions lie over the input of every layer of a video denoiser.

A film is T frames of h x w cells; one value is given for each frame of each region, and regions
have soft shares of the cells. Layers see the film in different orders:

    UNet      (B T, C, h, w) and (B T, h w, C)   frames folded into the batch, at several sizes
              (B h w, T, C)                      its motion modules, all frames or a window of them
              (B T, L, D)                        text, one row a frame
    Wan, LTX  (B, T h w, C)                      one sequence, frame by frame
              (B T, h w, C), (B T, L, D)         inside cross-attention, which steering unfolds
              (B, S L, D)                        texts of all S states of the film, before it

A layer that sees no single frame, such as the embedding of the time step, takes the mean over the
film. All rows of a batch are the same film. Layouts follow the source of diffusers 0.42.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from peft.tuners.lora import LoraLayer
from torch import Tensor

from adapters.families import family
from adapters.frames import FrameError, frame_count

# What reads text rows: keys and values of cross-attention, and the projections before it.
_KEYS = re.compile(r"(^|\.)attn2\.(to_k|to_v|to_kv|add_k_proj|add_v_proj|to_added_kv)$")
_PROJECTIONS = re.compile(r"(^|\.)(text_embedder|caption_projection)\.")


def is_motion(name: str) -> bool:
    """Whether the module of this name lies in a motion module of AnimateDiff."""
    return "motion_modules." in name


def reads_text(name: str) -> bool:
    """Whether the layer of this name sees tokens of text."""
    return not is_motion(name) and bool(_KEYS.search(name) or _PROJECTIONS.search(name))


@dataclass(frozen=True, slots=True)
class Grid:
    """The film as the denoiser sees it: `frames` of `rows` x `columns` cells.

    layout: "unet", "wan" or "ltx". fold: latent frames in one of `frames` (patches in time).
    """

    layout: str
    frames: int
    fold: int
    rows: int
    columns: int

    @classmethod
    def of(cls, pipe: Any, num_frames: int, height: int, width: int) -> Grid:
        """The grid of a film of `num_frames` of height x width pixels, from the parts' configs."""
        row = family(pipe)
        count = frame_count(pipe, num_frames)
        if row.frames == "unet":
            cell, fold = (int(pipe.vae_scale_factor),) * 2, 1
        else:
            names = (row.denoiser, *row.experts)
            config = next(part for n in names if (part := getattr(pipe, n, None))).config
            if row.frames == "wan":
                fold, *patch = config.patch_size
                cell = tuple(int(pipe.vae_scale_factor_spatial) * side for side in patch)
            else:
                fold = config.patch_size_t
                cell = (int(pipe.vae_spatial_compression_ratio) * config.patch_size,) * 2
        if height < cell[0] or width < cell[1]:
            msg = (
                f"height, width: expected at least {cell[0]} x {cell[1]} pixels, "
                f"received {height} x {width}"
            )
            raise FrameError(msg)
        return cls(row.frames, max(1, count // fold), fold, height // cell[0], width // cell[1])

    @property
    def cells(self) -> int:
        """Cells of one frame."""
        return self.rows * self.columns

    def level(self, cells: int) -> tuple[int, int] | None:
        """Rows and columns of a frame of so many cells, at one of a UNet's halved sizes."""
        rows, columns = self.rows, self.columns
        while rows * columns > cells:
            rows, columns = -(-rows // 2), -(-columns // 2)
        return (rows, columns) if rows * columns == cells else None


class FrameWeights:
    """Weights of adapters over frames and regions, in the form each layer can multiply with.

    Args:
        grid: how the film lies in the denoiser.
        masks: (H, W) shares 0..1 of each region; what they leave is the film's own, region 0.
        layers: the layers to be weighed, by module name.

    Set in each call of the denoiser: `batch`, its rows; `states`, how many texts lie side by side
    in one row (0: a single one); `region`, the one whose text is being attended to; `window`, the
    first frame that a motion module sees.
    """

    def __init__(
        self, grid: Grid, masks: list[NDArray[np.float32]], layers: dict[str, LoraLayer]
    ) -> None:
        self.grid, self._layers = grid, layers
        self._masks = [torch.from_numpy(np.ascontiguousarray(mask)) for mask in masks]
        self._shares: dict[tuple[int, int], Tensor] = {}
        self.batch, self.states, self.region, self.window = 1, 0, 0, 0

    @property
    def layout(self) -> Hashable:
        """What the weights of a layer depend on besides its input's shape."""
        return self.batch, self.states, self.region, self.window

    def shares(self, rows: int, columns: int) -> Tensor:
        """(K, rows, columns) share of each region in each cell, region 0 first; they sum to 1."""
        found = self._shares.get((rows, columns))
        if found is None:
            small = [F.adaptive_avg_pool2d(m[None], (rows, columns))[0] for m in self._masks]
            inside = torch.stack(small) if small else torch.zeros(0, rows, columns)
            inside = inside / inside.sum(dim=0).clamp_min(1.0)
            found = torch.cat([1.0 - inside.sum(dim=0, keepdim=True), inside])
            self._shares[rows, columns] = found
        return found

    def scale(
        self, column: NDArray[np.float64], factor: float, x: Tensor, dtype: torch.dtype, name: str
    ) -> Any:
        """The broadcast tensor for layer `name` and input `x`, a float where all values agree.

        column: (K, T) value of each region in each frame.
        """
        values = torch.from_numpy(np.ascontiguousarray(column)) * factor
        if bool((values == values[0, 0]).all()):
            return float(values[0, 0])
        if is_motion(name):
            laid = self._over_time(values, x)
        elif reads_text(name):
            laid = self._over_text(values, x, name)
        else:
            laid = self._over_cells(values, x, name)
        if laid is None:
            return float(self._field(values, self.grid.rows, self.grid.columns).mean())
        return laid.to(x.device, dtype)

    def _field(self, values: Tensor, rows: int, columns: int) -> Tensor:
        """(T, rows, columns) value of each cell of each frame."""
        shares = self.shares(rows, columns).to(values)
        return torch.einsum("kt,krc->trc", values, shares)

    def _over_time(self, values: Tensor, x: Tensor) -> Tensor | None:
        """Motion modules: (B h w, T or a window, C)."""
        if x.ndim != 3 or x.shape[0] % self.batch:
            return None
        first = 0 if x.shape[1] == self.grid.frames else self.window
        seen = slice(first, first + x.shape[1])
        if len(values) == 1:
            return values[0, seen].view(1, -1, 1)
        level = self.grid.level(x.shape[0] // self.batch)
        if level is None:
            return None
        field = self._field(values, *level)[seen]
        return field.flatten(1).T.repeat(self.batch, 1).unsqueeze(-1)

    def _over_text(self, values: Tensor, x: Tensor, name: str) -> Tensor | None:
        """Text: (B T, L, D) inside cross-attention, (B, S L, D) before it."""
        states = self.states
        if _PROJECTIONS.search(name):
            if not states or x.ndim != 3 or x.shape[1] % states:
                return None
            length = x.shape[1] // states
            return values.flatten().repeat_interleave(length).view(1, -1, 1)
        if (states or self.grid.layout == "unet") and len(x) == self.batch * self.grid.frames:
            return values[self.region].repeat(self.batch).view(-1, *(1,) * (x.ndim - 1))
        return None

    def _over_cells(self, values: Tensor, x: Tensor, name: str) -> Tensor | None:
        """Cells of the picture, whatever the order; None for what sees no single frame."""
        grid, batch = self.grid, self.batch
        folded = len(x) == batch * grid.frames
        if x.ndim == 4 and folded:  # convolutions of a UNet: as large as what comes out of them
            field = self._field(values, *_size_after(self._layers[name], x))
            return field.repeat(batch, 1, 1).unsqueeze(1)
        if x.ndim == 3 and folded and (level := grid.level(x.shape[1])) is not None:
            return self._field(values, *level).flatten(1).repeat(batch, 1).unsqueeze(-1)
        field = self._field(values, grid.rows, grid.columns)
        if grid.layout == "unet":
            if x.ndim == 2 and folded:  # what the time step adds to each frame
                return field.mean(dim=(1, 2)).repeat(batch).view(-1, 1)
            return None
        if x.ndim == 5 and len(x) == batch:  # Wan's patches
            return field[None, None]
        if x.ndim == 3 and x.shape[1] == field.numel():
            return field.view(1, -1, 1)
        if x.ndim == 2 and len(x) == batch * field.numel():  # a time step for each token
            return field.flatten().repeat(batch).view(-1, 1)
        return None


def _size_after(layer: LoraLayer, x: Tensor) -> tuple[int, int]:
    """Height and width of what a convolution makes of `x`."""
    base: Any = layer.get_base_layer()
    if isinstance(base.padding, str):
        return int(x.shape[2]), int(x.shape[3])
    sizes = []
    for axis in (0, 1):
        span = base.dilation[axis] * (base.kernel_size[axis] - 1) + 1
        room = x.shape[2 + axis] + 2 * base.padding[axis] - span
        sizes.append(int(room // base.stride[axis] + 1))
    return sizes[0], sizes[1]
