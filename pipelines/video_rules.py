"""What a model of films can be asked for: sizes, pictures and stills, told before it is loaded.

The rules are those of a pipeline's class; the multiple of its sizes is read from the config.json of
its parts, as diffusers reads it (`vae_scale_factor` of AnimateDiff, `vae_scale_factor_spatial`
times the patch of Wan's transformer, `spatial_compression_ratio` of LTX's autoencoder). A loaded
model (pipelines.video_maker) keeps to the same rules with what it knows itself.

It deliberately loads no torch, no weights, and says nothing of weights that are not here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines import BACKBONES, Backbone
from pipelines.video import INDEX, VideoParams


@dataclass(frozen=True, slots=True)
class Facts:
    """What decides what can be asked of a model.

    kind: class of its pipeline. multiple: of width and height in px. painter: whether it is built
    on a model of pictures. defaults: of its row.
    """

    name: str
    kind: str
    multiple: int
    painter: bool
    defaults: Mapping[str, Any] = field(default_factory=dict)

    @property
    def by_frame(self) -> bool:
        """Whether each frame has a text of its own (AnimateDiff)."""
        return self.kind.startswith("AnimateDiff")


def facts_of(row: Backbone) -> Facts | None:
    """The facts of a row whose weights are here; None of any other, and of files that say less."""
    holder = BACKBONES[row.base] if row.base else row
    folder = _folder(holder)
    if folder is None:
        return None
    try:
        kind = "AnimateDiffPipeline" if row.base else _json(folder / INDEX)["_class_name"]
        kind = str(kind[-1] if isinstance(kind, list) else kind)
        multiple = _multiple(folder, kind)
    except (OSError, ValueError, KeyError, TypeError, IndexError, StopIteration):
        return None  # what is wrong with them is told when they are loaded
    if multiple < 1:
        return None
    return Facts(row.name, kind, multiple, row.base is not None, row.defaults)


def fault_of(facts: Facts, params: VideoParams, *, init: bool) -> str | None:
    """One line that says why this model cannot make what is asked for; None where it can."""
    name, kind, stills = facts.name, facts.kind, params.keyframes
    if why := size_fault(name, facts.multiple, params):
        return why
    if kind == "WanImageToVideoPipeline" and not (init or stills):
        return (
            f"init: {name} moves a picture; give one with --init, or --keyframes 1 with a --painter"
        )
    if kind == "AnimateDiffVideoToVideoPipeline" and not (init or stills):
        return f"init: {name} repaints what is there; give --init or --keyframes"
    if init and kind == "WanPipeline":
        return (
            f"init: {name} makes films from words alone; use video-tiny, animatediff, wan-i2v "
            "or ltx"
        )
    if stills and kind == "WanPipeline":
        return f"keyframes: {name} animates no stills; use video-tiny, wan-i2v or ltx"
    if stills > 1 and not facts.by_frame:
        return f"keyframes: {name} moves on from one still, received {stills}; give 1"
    if stills and not params.painter and not facts.painter:
        return f"keyframes: {name} brings no painter; name one with --painter"
    usual = VideoParams.parse({}, facts.defaults).consistency
    if not facts.by_frame and params.consistency != usual:
        return f"consistency: {name} keeps its frames together itself; leave it out"
    return None


def size_fault(name: str, step: int, params: VideoParams) -> str | None:
    """One line where a side that is asked for is no multiple of `step` px."""
    for argument, value in (("width", params.width), ("height", params.height)):
        if value % step:
            down = max(step, value // step * step)
            return (
                f"{argument}: {name} makes multiples of {step} pixels, not {value}; "
                f"use {down} or {down + step}"
            )
    return None


def _folder(row: Backbone) -> Path | None:
    if row.folder is not None:
        return row.folder
    from pipelines.weights import cached

    return cached(row.weights, row.revision)


def _multiple(folder: Path, kind: str) -> int:
    vae = _json(folder / "vae" / "config.json")
    if kind.startswith("AnimateDiff"):
        return max(2, 1 << (len(vae["block_out_channels"]) - 1))
    if kind.startswith("LTX"):
        return int(vae["patch_size"]) << sum(map(int, vae["spatio_temporal_scaling"]))
    part = next(
        file
        for one in ("transformer", "transformer_2")
        if (file := folder / one / "config.json").is_file()
    )
    return int(vae.get("scale_factor_spatial", 8)) * int(_json(part)["patch_size"][-1])


def _json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
