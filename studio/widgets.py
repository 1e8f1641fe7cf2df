"""Controls of a page, made from the knobs of a modality: what `studio.options` is for `--help`.

Knobs that name a file, a folder or a model are drop-down lists of what is there, or left out:
nothing that a browser sends becomes a path. This file does not know what a knob does.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from adapters.curves import presets
from pipelines import BACKBONES, DEFAULTS, BackboneError
from pipelines.params import ParamError
from studio.run import fresh_seed, params_of

MOST_SEED = 2**53 - 1  # whole numbers that a browser holds exactly
STYLES = "styles"
"""Folder within the out folder that holds trained styles."""
_CHOICES: dict[tuple[str, str], tuple[str, ...]] = {
    ("music", "form"): ("auto", "song", "rondo", "through"),
    ("voice", "engine"): ("auto", "psola", "world"),
    ("voice", "format"): ("auto", "wav", "flac", "mp3"),
    ("voice", "speech"): ("auto", "espeak"),
}
_STYLE = {"image": "sliders"}
"""The knob that takes the folder of what was trained; `lora` of the other modalities."""


def knobs(modality: str) -> list[dataclasses.Field[Any]]:
    """The knobs of a modality that a page shows, in their order."""
    shown = dataclasses.fields(params_of(modality))
    return [one for one in shown if not (one.name == "lora_weight" and modality == "image")]


def style_knob(modality: str) -> str:
    """The knob that takes what was trained here; "" where none does."""
    return {"image": "sliders", "music": "lora", "voice": "lora", "portrait": "lora"}.get(
        modality, ""
    )


def choices_of(modality: str, name: str, styles: Sequence[str] = ()) -> list[tuple[str, str]]:
    """(shown, value) of a knob that is a choice; none where it is not."""
    if (modality, name) in _CHOICES:
        return [(one, one) for one in _CHOICES[modality, name]]
    if name == "curve":
        return [("none", ""), *((one, one) for one in presets())]
    if name == "painter":
        return [("the film's own", ""), *((one, one) for one in backbones_of("image"))]
    if name == "polish":
        return [("none", ""), *((one, one) for one in polishers())]
    if name == _STYLE.get(modality, "lora") and modality != "video":
        return [("none", ""), *((one, one) for one in styles)]
    return []


def control(one: dataclasses.Field[Any], modality: str, styles: Sequence[str] = ()) -> Any:
    """The control of one knob; its value when left alone is the knob's own."""
    title = one.name.replace("_", " ").capitalize()
    about, kind = str(one.metadata.get("help", "")), str(one.type).split(" ")[0]
    usual = DEFAULT_VALUES.get(modality, {}).get(one.name, one.default)
    low, high = one.metadata.get("min"), one.metadata.get("max")
    if options := choices_of(modality, one.name, styles):
        return gr.Dropdown(options, value=usual or options[0][1], label=title, info=about)
    if kind == "bool":
        return gr.Checkbox(bool(usual), label=title, info=about)
    if kind == "str":
        return gr.Textbox(str(usual or ""), label=title, info=about, max_length=2000)
    if usual is None:
        # An empty number box turns into 0 as soon as it is drawn (gradio 6.31); words stay empty.
        return gr.Textbox("", label=title, info=about, placeholder="automatic", max_length=20)
    if low is None or high is None or high - low > 1000:
        step = one.metadata.get("step", 1 if kind == "int" else 0.1)
        # No bounds: gradio refuses without saying whose number it is; the knob's own check says it.
        return gr.Number(
            usual, label=title, info=about, step=step, precision=0 if kind == "int" else None
        )
    return gr.Slider(low, high, usual, step=one.metadata.get("step"), label=title, info=about)


DEFAULT_VALUES: dict[str, Mapping[str, Any]] = {
    modality: BACKBONES[name].defaults for modality, name in DEFAULTS.items()
}


def params_from(
    modality: str, values: Sequence[Any], out: Path, *, usual: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The params of a request from what the controls hold; what was left alone is left out.

    Raises ParamError for a choice that was not offered: the browser may send anything.
    """
    found: dict[str, Any] = {}
    known = DEFAULT_VALUES.get(modality, {}) if usual is None else usual
    for one, value in zip(knobs(modality), values, strict=True):
        options = choices_of(modality, one.name, styles_of(out, modality))
        if options and value not in [choice for _, choice in options]:
            msg = f"{one.name}: one of those offered, received {str(value)[:40]!r}; choose again"
            raise ParamError(msg)
        usual_value = known.get(one.name, one.default)
        if usual_value is None and isinstance(value, str):
            value = _number(one.name, value, whole=str(one.type).startswith("int"))
        if value is None or value == usual_value:
            continue
        if one.name == _STYLE.get(modality, "lora") and options:
            value = str(out / STYLES / modality / value) if value else ""
        found[one.name] = value
    return found


def _number(name: str, text: str, *, whole: bool) -> float | None:
    """What was typed where a number may be; None where it was left empty."""
    if not text.strip():
        return None
    try:
        return int(text) if whole else float(text.replace(",", "."))
    except ValueError:
        msg = f"{name}: a number or nothing, received {text[:20]!r}; correct it in the settings"
        raise ParamError(msg) from None


def seed_of(typed: Any) -> int:
    """The seed that was typed; a fresh one where nothing was. Raises ParamError in one line."""
    text = "" if typed is None else str(typed).strip()
    if not text:
        return fresh_seed()
    if not text.isdecimal() or int(text) > MOST_SEED:
        msg = f"seed: 0 to {MOST_SEED}, or nothing for a fresh one, received {text[:20]!r}"
        raise ParamError(f"{msg}; correct it in the settings")
    return int(text)


def styles_of(out: Path, modality: str) -> list[str]:
    """Names of the styles that were trained here for a modality."""
    folder = out / STYLES / modality
    if not folder.is_dir():
        return []
    return sorted(one.name for one in folder.iterdir() if any(one.glob("*.safetensors")))


@functools.cache
def polishers() -> tuple[str, ...]:
    """Video models on this machine that can paint a face again."""
    from pipelines.portrait_polishers import check_polisher

    found = []
    for name in backbones_of("video"):
        try:
            check_polisher(name, offline=True)
        except (ValueError, OSError):
            continue
        found.append(name)
    return tuple(found)


def backbones_of(modality: str) -> list[str]:
    """The models of a modality whose weights are on this machine, the embedded one first."""
    from pipelines.weights import check_here

    names = []
    for row in BACKBONES.values():
        if row.modality == modality:
            try:
                check_here(row, offline=True)
            except (BackboneError, OSError):
                continue
            names.append(row.name)
    return names
