"""One slider on disk: plain LoRA matrices in safetensors, as diffusers' `load_lora_weights` reads.

Keys are "<part>.<module>.lora_A.weight" with alpha equal to the rank, which is what loaders assume
of a file without alphas; what the slider is lies as JSON in the metadata. Knows nothing of weights
per sample or of training.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from adapters.files import replacing


class SliderFileError(ValueError):
    """A slider file that cannot be used; its one line says what can."""


def read_slider(
    path: Path, part: str, denoiser: nn.Module, parts: Sequence[str] = ()
) -> dict[str, torch.Tensor]:
    """The tensors of a slider file for one denoiser, keyed "<part>.<module>.lora_A.weight".

    parts: all denoisers of the pipeline, the first one first. A file may hold a part for each of
        them; one that holds the first alone serves the others as well.

    Raises:
        SliderFileError: when it is no safetensors file, no plain LoRA, or for another model.
    """
    if path.suffix != ".safetensors":
        msg = f"sliders: {path} is not a .safetensors file; other formats may run code when read"
        raise SliderFileError(msg)
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        msg = f"sliders: {path} cannot be read ({error}); fetch or train it again"
        raise SliderFileError(msg) from error
    endings = (".lora_A.weight", ".lora_B.weight")
    known = tuple(f"{name}." for name in (parts or (part,)))
    odd = [k for k in state if not (k.startswith(known) and k.endswith(endings))]
    first = known[0]
    if not any(key.startswith(part + ".") for key in state):
        kept = {k.removeprefix(first): v for k, v in state.items() if k.startswith(first)}
        state = {f"{part}.{key}": value for key, value in kept.items()}
    state = {key: value for key, value in state.items() if key.startswith(part + ".")}
    if odd or not state:
        msg = (
            f"sliders: {path} has keys like {odd[0] if odd else 'none'!r}; expected plain LoRA "
            f"keys '{part}.<module>.lora_A.weight' for {type(denoiser).__name__}"
        )
        raise SliderFileError(msg)
    modules = dict(denoiser.named_modules())
    for key in state:
        name = key.removeprefix(part + ".").rsplit(".lora_", 1)[0]
        if name not in modules:
            msg = f"sliders: {path} is for another model, {type(denoiser).__name__} has no {name}"
            raise SliderFileError(msg)
    return state


def write_slider(
    path: Path, part: str, state: Mapping[str, torch.Tensor], metadata: Mapping[str, Any]
) -> None:
    """Write one slider, loadable by `LoraBank` and by diffusers' `load_lora_weights`.

    Args:
        path: `<emotion>.safetensors`; written beside itself first and moved into place.
        part: "unet" or "transformer".
        state: {"<module>.lora_A.weight": tensor, ...} with alpha equal to the rank, which is what
            loaders assume of a file without alphas.
        metadata: JSON values kept under the key "affect".
    """
    tensors = {f"{part}.{key}": value.detach().cpu().contiguous() for key, value in state.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    _save(tensors, path, {"format": "pt", "affect": json.dumps(dict(metadata), sort_keys=True)})


def read_metadata(path: Path) -> dict[str, Any]:
    """What `write_slider` kept under "affect"; empty for a file from elsewhere."""
    with safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get("affect", "{}")
    return dict(json.loads(text))


def _save(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write safetensors, whole or not at all."""
    with replacing(path) as fresh:
        save_file(tensors, fresh, metadata=metadata)
