"""Weights from a folder or the Hugging Face cache, and what is refused before they are touched.

Only safetensors are read. A pickle runs code when it is opened, so a local folder that holds one
is refused as a whole, by name (.bin, .ckpt, .pt ...) and by its first bytes, renamed or not; so is
a folder that brings Python code or names classes outside diffusers and transformers. It
deliberately does not know what an emotion is or which backbones exist (`pipelines.BACKBONES`).

Loading is diffusers' own `AutoPipelineForText2Image.from_pretrained(..., use_safetensors=True)`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pipelines import Backbone, BackboneError

PICKLES = frozenset({".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle", ".joblib"})
#: Zip (torch.save) and pickle protocols 2 to 5.
MAGIC = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
LIBRARIES = frozenset({"diffusers", "transformers", "tokenizers"})


def check_folder(folder: Path) -> None:
    """Refuse a folder of weights that could run code; reads a few bytes of each file.

    Raises:
        BackboneError: pickled weights, Python files, foreign classes, no model_index.json.
    """
    index = folder / "model_index.json"
    try:
        config = json.loads(index.read_text(encoding="utf-8"))
        parts = {k: v for k, v in config.items() if isinstance(v, list)}
        name = config["_class_name"]
    except (OSError, ValueError, KeyError, AttributeError) as error:
        msg = (
            f"backbone: {folder} has no readable model_index.json ({type(error).__name__}); "
            "give a folder in diffusers' layout (save_pretrained)"
        )
        raise BackboneError(msg) from error
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        if why := _danger(path):
            msg = (
                f"backbone: {path.relative_to(folder)} in {folder} is {why}; "
                "use safetensors weights (save_pretrained writes them) and remove that file"
            )
            raise BackboneError(msg)
    import diffusers

    foreign = [
        f"{part}={value}"
        for part, value in parts.items()
        if not part.startswith("_")
        and (
            len(value) != 2
            or (
                value[0] is not None
                and value[0] not in LIBRARIES
                and not hasattr(diffusers.pipelines, str(value[0]))
            )
        )
    ]
    if foreign or not isinstance(name, str):
        msg = (
            f"backbone: {folder} names code that diffusers does not have "
            f"({', '.join(foreign) or name}); only classes of diffusers and transformers are loaded"
        )
        raise BackboneError(msg)


def check_embedded(row: Backbone) -> None:
    """Raise one line when weights that should come with the project are not there."""
    folder = row.folder
    if folder is None or not (folder / "model_index.json").is_file():
        msg = (
            f"backbone: {row.name} is not in {folder}; reinstall the project or train it again "
            "with `python -m training.image`"
        )
        raise BackboneError(msg)


def _danger(path: Path) -> str:
    """Say why a file is refused, "" when it is fine."""
    if path.suffix.lower() in PICKLES:
        return f"pickled weights ({path.suffix})"
    if path.suffix == ".py":
        return "Python code"
    with path.open("rb") as file:
        head = file.read(9)
    # A safetensors header length can begin with these bytes too; its ninth byte is a brace.
    header = path.suffix == ".safetensors" and head[8:9] == b"{"
    if head.startswith(MAGIC) and not header:
        return "a pickle under another name"
    if path.suffix == ".safetensors":
        length = int.from_bytes(head[:8], "little")
        if head[8:9] != b"{" or length + 8 > path.stat().st_size:
            return "not a safetensors file, or cut short"
    return ""


def is_offline(offline: bool | None = None) -> bool:
    """Whether to look only at this machine: asked for, or HF_HUB_OFFLINE is set."""
    return bool(offline) or os.environ.get("HF_HUB_OFFLINE", "").strip().lower() in (
        "1",
        "true",
        "yes",
        "on",
    )


def best_device() -> str:
    """cuda, else mps, else cpu."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def load_pipeline(
    row: Backbone, *, device: str | None = None, dtype: Any = None, offline: bool | None = None
) -> Any:
    """Load a row; see `pipelines.load`."""
    folder = row.folder
    if row.embedded:
        check_embedded(row)
    if folder is not None:
        check_folder(folder)
    import torch
    from diffusers import AutoPipelineForText2Image

    device = device or best_device()
    try:
        place = torch.device(device)
    except RuntimeError as error:
        msg = f"device: {device!r} is not one torch knows; use cpu, cuda, cuda:0 or mps"
        raise BackboneError(msg) from error
    if place.type == "cuda" and not torch.cuda.is_available():
        msg = f"device: {device} was asked for, but there is no CUDA device here; use cpu"
        raise BackboneError(msg)
    if dtype is None:
        dtype = torch.float32 if place.type == "cpu" else torch.bfloat16
    elif isinstance(dtype, str):
        if dtype not in ("float32", "float16", "bfloat16"):
            msg = f"dtype: allowed float32, float16 or bfloat16, received {dtype!r}"
            raise BackboneError(msg)
        dtype = getattr(torch, dtype)
    local = is_offline(offline)
    source: dict[str, Any] = {"pretrained_model_or_path": str(folder or row.weights)}
    if folder is None:
        source |= {"revision": row.revision, "local_files_only": local}
    try:
        pipe = AutoPipelineForText2Image.from_pretrained(
            **source, dtype=dtype, use_safetensors=True
        )
    except torch.OutOfMemoryError:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        raise BackboneError(_why_not(row, folder, local, error)) from error
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(place)


def _why_not(row: Backbone, folder: Path | None, local: bool, error: Exception) -> str:
    """One line for a failed load: what is missing and how to get it."""
    if folder is not None:
        reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else "no reason"
        return f"backbone: cannot load {folder}: {reason}; save it again with save_pretrained"
    asked = row.weights + (f" at {row.revision}" if row.revision else "")
    command = f"`affect models pull {row.name}` or `hf download {row.weights}`"
    if type(error).__name__ == "GatedRepoError" or "gated repo" in str(error).lower():
        return (
            f"backbone: {asked} is behind a licence; accept it on its hub page, "
            f"run `hf auth login`, then {command}"
        )
    if local:
        return (
            f"backbone: the weights of {asked} are not on this machine and downloads are off "
            f"(HF_HUB_OFFLINE); pull them with {command} where there is a network"
        )
    reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else "no reason"
    return f"backbone: cannot load {asked}: {reason}; try {command}"


def pull(row: Backbone) -> Path:
    """Download what `load_pipeline` needs (safetensors only) into the Hugging Face cache."""
    if row.folder is not None:
        check_folder(row.folder)
        return row.folder
    if is_offline():
        msg = (
            f"backbone: cannot pull {row.weights} while HF_HUB_OFFLINE is set; "
            "unset it where there is a network"
        )
        raise BackboneError(msg)
    from diffusers import DiffusionPipeline

    try:
        return Path(
            DiffusionPipeline.download(row.weights, revision=row.revision, use_safetensors=True)
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise BackboneError(_why_not(row, None, False, error)) from error
