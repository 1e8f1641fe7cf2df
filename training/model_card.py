"""The page and the pictures that go with an exported adapter.

`paint_strip` shows one scene a row at the weights -1, -.5, 0, .5, 1 and one seed: what a person
who downloads the file will see on their own dial, so no calibration bends it. `card` writes
Markdown with the front matter that the Hugging Face hub reads. Knows nothing of files on disk and
of headers (training/export.py).
"""

from __future__ import annotations

import base64
import inspect
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from adapters.content import slider_prompts
from adapters.emotion import CORE
from adapters.families import model_digest, require
from adapters.lora import LoraBank
from pipelines.image import ImageParams

if TYPE_CHECKING:
    from pipelines import Backbone
    from training.export import Adapter, Base

#: Weights of a strip; both poles, for sliders are trained on both.
WEIGHTS = (-1.0, -0.5, 0.0, 0.5, 1.0)
#: Scenes of a strip: rows of `slider_prompts`, of different kinds in both vocabularies.
SCENES = (0, 11, 22)
_CELL, _MARGIN, _LINE = 192, 8, 22


@dataclass(frozen=True, slots=True)
class Strip:
    """A sheet of samples: the whole, its prompts (a row each), and a data URL of one picture."""

    sheet: Image.Image
    prompts: tuple[str, ...]
    seed: int
    thumbnail: str


def paint_strip(
    adapter: Adapter, base: Base, *, seed: int = 0, offline: bool | None = None
) -> tuple[Strip, str]:
    """Paint the strip with the backbone itself; also a remark if it has other weights.

    Raises:
        BackboneError: weights that are not here. SliderFileError: an adapter of another model.
    """
    from pipelines import load

    row = base.row
    if row is None:
        msg = "backbone: a strip needs one"
        raise ValueError(msg)
    pipe = load(row.name, offline=offline)
    pipe.set_progress_bar_config(disable=True)
    remark = ""
    if adapter.facts.get("model") not in (None, model_digest(pipe)):
        remark = f"the adapter was trained on other weights than {base.name}; look at the strip"
    words = "image-tiny" if "image-tiny" in row.name else "rich"
    # A LoRA without an emotion takes any slot of the bank: the name does not reach the model.
    slot = adapter.emotion or CORE[0]
    scenes = slider_prompts(slot, words)
    prompts = tuple(scenes[i % len(scenes)][2] for i in SCENES)
    bank = LoraBank({slot: adapter.path})
    bank.load_into(pipe)
    track = np.zeros((len(WEIGHTS), len(CORE)))
    track[:, CORE.index(slot)] = WEIGHTS
    call = _call(pipe, row)
    rows = []
    try:
        with torch.inference_mode():
            for prompt in prompts:
                seeds = [torch.Generator().manual_seed(seed) for _ in WEIGHTS]
                with bank.steer(pipe, track):
                    texts = [prompt] * len(WEIGHTS)
                    rows.append(pipe(prompt=texts, generator=seeds, **call).images)
    finally:
        bank.unload(pipe)
    return Strip(sheet(rows, prompts), prompts, seed, thumbnail(rows[0][-1])), remark


def _call(pipe: Any, row: Backbone) -> dict[str, Any]:
    """Steps and guidance that suit the backbone, under the names of its own call."""
    params = ImageParams.parse({}, row.defaults)
    call = {**row.call, "num_inference_steps": params.steps}
    if params.guidance_scale is not None:
        known = inspect.signature(type(pipe).__call__).parameters
        own = known.get("guidance_scale")
        scale = "guidance_scale"
        if own is None or own.default is None:
            scale = require(pipe, "lora").scale_argument or scale
        call[scale] = params.guidance_scale
    return call


def sheet(rows: Sequence[Sequence[Image.Image]], prompts: Sequence[str]) -> Image.Image:
    """Pictures in rows under their weights, each row above its prompt."""
    font = ImageFont.load_default(14)
    step = _CELL + _MARGIN
    size = (_MARGIN + step * len(WEIGHTS), _LINE + _MARGIN + (step + _LINE) * len(rows))
    page = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(page)
    for column, weight in enumerate(WEIGHTS):
        middle = _MARGIN + column * step + _CELL / 2
        draw.text((middle, 6), f"{weight:+g}" if weight else "0", "black", font, anchor="ma")
    for index, (pictures, prompt) in enumerate(zip(rows, prompts, strict=True)):
        top = _LINE + _MARGIN + index * (step + _LINE)
        for column, picture in enumerate(pictures):
            small = picture.convert("RGB").resize((_CELL, _CELL), Image.Resampling.LANCZOS)
            page.paste(small, (_MARGIN + column * step, top))
        draw.text((_MARGIN, top + _CELL + 3), prompt, "#444444", font)
    return page


def thumbnail(picture: Image.Image) -> str:
    """A JPEG of at most 256 pixels a side as a data URL, as ModelSpec asks for."""
    small = picture.convert("RGB")
    small.thumbnail((256, 256), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def card(
    adapter: Adapter,
    base: Base,
    files: Sequence[Path],
    layout: str,
    certificate: Mapping[str, Any] | None,
    strip: Strip | None,
) -> str:
    """The model card, Markdown; every figure in it comes from the file or the certificate."""
    from training.export import describe

    emotion, name = adapter.emotion, base.name
    stem = files[0].stem
    title = f"{stem}: {emotion} as a dial" if emotion else stem
    lines = ["---", "library_name: diffusers"]
    if base.row is not None and base.row.folder is None:  # on the hub, under this very name
        lines.append(f"base_model: {base.row.weights}")
    lines += ["tags:", "- lora", "- diffusers", *([f"- {emotion}"] if emotion else []), "---", ""]
    lines += [f"# {title}", "", describe(adapter), ""]
    if strip is not None:
        lines += [
            f"![Weights -1, -.5, 0, .5, 1; one scene a row, one seed]({stem}.png)",
            "",
            f"*Weights -1, -.5, 0, .5 and 1, seed {strip.seed}, not chosen among others.*",
            "",
        ]
    lines += ["| | |", "|---|---|"]
    lines.append(f"| for | {name or base.family} ({base.family}) |")
    lines.append(f"| layout | {layout} |")
    facts = adapter.facts
    for key, text in (
        ("opposite", "negative weights"),
        ("rank", "rank (alpha equal)"),
        ("steps", "optimiser steps"),
        ("eta", "push of weight 1, in differences of the prompts"),
        ("explained", "share of the asked change that was learned"),
        ("model", "digest of the weights it was trained on"),
    ):
        if key in facts:
            lines.append(f"| {text} | {facts[key]} |")
    if base.row is not None and base.row.licence:
        lines.append(f"| licence of the base | {base.row.licence} |")
    lines += ["", "## Use", "", *_use(files, layout, emotion), "", "## Certificate", ""]
    if certificate is None:
        lines.append(
            "None: nobody has measured how this adapter answers its dial, so .5 need not look like "
            "half of 1."
        )
    else:
        lines += [
            f"{certificate['certificate'][0].upper()}{certificate['certificate'][1:]}.",
            "",
            f"Measured on {certificate['backbone']} ({certificate['model']}), "
            f"{certificate['date']}, by {certificate['critic']}: {len(certificate['levels'])} "
            f"levels, {certificate['seeds']} pictures each, with all of the backbone's own "
            "steering on (words, directions and sliders), of which this file is a part. The curve "
            "is in "
            f"`{stem}.json` and in the file's header (`affect.certificate`).",
            "",
            "| dial | " + " | ".join(f"{x:.2f}" for x in certificate["levels"]) + " |",
            "|---" * (len(certificate["levels"]) + 1) + "|",
            "| read | " + " | ".join(f"{x:.2f}" for x in certificate["means"]) + " |",
        ]
    lines += ["", "Written by `affect export`.", ""]
    return "\n".join(lines)


def _use(files: Sequence[Path], layout: str, emotion: str | None) -> list[str]:
    what = f"how much {emotion}" if emotion else "how strongly it acts"
    if layout == "kohya":
        lines = [
            f"ComfyUI: put `{files[0].name}` in `models/loras` and load it with *Load LoRA*; "
            f"`strength_model` is {what}. WebUI: put it in `models/Lora` and write "
            f"`<lora:{files[0].stem}:0.7>` in the prompt. It holds no text encoder and no trigger "
            "word."
        ]
    else:
        lines = [
            "```python",
            f'pipe.load_lora_weights(".", weight_name="{files[0].name}", adapter_name="dial")',
            f'pipe.set_adapters("dial", 0.7)  # {what}',
            "```",
        ]
    if len(files) > 1:
        lines += ["", f"`{files[1].name}` is for the second expert (low noise)."]
    return lines
