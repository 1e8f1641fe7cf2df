"""Weights from a folder or the Hugging Face cache, and what is refused before they are touched.

Only safetensors are read. A pickle runs code when it is opened, so a local folder that holds one
is refused as a whole, by name (.bin, .ckpt, .pt ...) and by its first bytes, renamed or not; so is
a folder that brings Python code or names classes outside diffusers and transformers. It
deliberately does not know what an emotion is or which backbones exist (`pipelines.BACKBONES`).

Loading is diffusers' own `AutoPipelineForText2Image.from_pretrained(..., use_safetensors=True)`.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Collection
from importlib import import_module
from pathlib import Path
from typing import Any

from adapters.memory import out_of_memory
from adapters.weight_files import first_danger
from pipelines import BACKBONES, DEFAULT, DEFAULTS, MAKERS, Backbone, BackboneError

log = logging.getLogger("affect")

LIBRARIES = frozenset({"diffusers", "transformers", "tokenizers"})
INDEX = "model_index.json"
MOTION = "motion_adapter"
"""Folder of the motion adapter in a model of ours that a painter is the other part of."""


def index_of(row: Backbone) -> str:
    """The file that says what a row's weights are: a pipeline's, or that of a motion adapter."""
    if not row.base:
        return INDEX
    inside = row.folder is not None and (row.embedded or (row.folder / MOTION).is_dir())
    return f"{MOTION}/config.json" if inside else "config.json"


def check_folder(folder: Path, own: Collection[tuple[str, str]] = ()) -> None:
    """Refuse a folder of weights that could run code; reads a few bytes of each file.

    own: (module, class) of this project that the folder may name as parts, exactly these.

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
    if why := first_danger(folder):
        msg = (
            f"backbone: {why}; "
            "use safetensors weights (save_pretrained writes them) and remove that file"
        )
        raise BackboneError(msg)
    import diffusers

    foreign = [
        f"{part}={value}"
        for part, value in parts.items()
        if not part.startswith("_")
        and value not in [list(pair) for pair in own]
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
    if folder is None or not (folder / index_of(row)).is_file():
        msg = (
            f"backbone: {row.name} is not in {folder}; reinstall the project or train it again "
            f"with `python -m training.{row.modality}`"
        )
        raise BackboneError(msg)


def check_here(row: Backbone, *, offline: bool | None = None) -> None:
    """Raise one line when weights of the hub are neither in the cache nor to be had.

    Imports no torch: it needs no seconds to say that there is nothing here.
    """
    if row.folder is not None or cached(row.weights, row.revision, index_of(row)) is not None:
        return
    if is_offline(offline) or not hub_answers(row):
        raise BackboneError(_not_here(row, asked=is_offline(offline)))


def check_row(row: Backbone, *, offline: bool | None = None) -> None:
    """Raise one line when the weights of a row are not to be had, as its own maker looks for them.

    Imports no torch.
    """
    maker: Any = import_module(MAKERS[row.modality])
    if hasattr(maker, "check_here"):
        maker.check_here(row, offline=offline)
        return
    if row.embedded:
        check_embedded(row)
    check_here(row, offline=offline)


def check_own(row: Backbone, index: str, *, offline: bool | None = None) -> None:
    """Raise one line when a model of this project's own classes is not here.

    index: the file that says what its folder holds.
    """
    if row.folder is None:
        check_here(row, offline=offline)
    elif not (row.folder / index).is_file():
        program = f"`python -m training.{row.modality}`"
        hint = f"give a folder that {program} wrote"
        if row.embedded:
            hint = f"reinstall the project or train it again with {program}"
        msg = f"backbone: {row.name} has no {index} in {row.folder}; {hint}"
        raise BackboneError(msg)


def is_offline(offline: bool | None = None) -> bool:
    """Whether to look only at this machine: asked for, or HF_HUB_OFFLINE is set."""
    said = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return bool(offline) or said.strip().lower() in ("1", "true", "yes", "on")


def cached(repository: str, revision: str | None = None, index: str = INDEX) -> Path | None:
    """The snapshot of a hub repository in the Hugging Face cache, None when it is not there.

    Without a revision the one that `refs/main` names, as the libraries take it. Judged by the
    cache's layout: an index file and some safetensors.
    """
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    try:
        ref = folder / "refs" / (revision or "main")
        commit = ref.read_text(encoding="utf-8").strip() if ref.is_file() else revision
    except (OSError, ValueError):
        return None
    snapshot = folder / "snapshots" / commit if commit else None
    if snapshot is None or not (snapshot / index).is_file():
        return None
    return snapshot if any(snapshot.rglob("*.safetensors")) else None


def hub_answers(row: Backbone) -> bool:
    """Whether the hub can be reached at all: one short question, no retries."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        HfApi().model_info(row.weights, revision=row.revision, timeout=10)
    except OfflineModeIsEnabled:
        return False
    except HfHubHTTPError as error:
        # 5xx is a gateway that cannot reach the hub; anything else is the hub's own answer.
        return getattr(error.response, "status_code", 404) < 500
    except Exception as error:
        # The HTTP library below the hub's client is its own business; its errors say which it is.
        if isinstance(error, OSError) or type(error).__module__.startswith(("http", "requests")):
            return False
        raise
    return True


def best_device() -> str:
    """cuda, else mps, else cpu."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def load_pipeline(
    row: Backbone,
    *,
    device: str | None = None,
    dtype: Any = None,
    offline: bool | None = None,
    loader: Callable[..., Any] | None = None,
) -> Any:
    """Load a row; see `pipelines.load`. `loader`: a from_pretrained other than text-to-image's."""
    folder = row.folder
    local = is_offline(offline)
    if row.embedded:
        check_embedded(row)
    if folder is not None:
        check_folder(folder)
    else:
        check_here(row, offline=offline)
        local = local or not hub_answers(row)  # without a network, what is cached will do
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
    source: dict[str, Any] = {}
    if folder is None:
        source = {"revision": row.revision, "local_files_only": local}
    try:
        loader = loader or AutoPipelineForText2Image.from_pretrained
        pipe = loader(str(folder or row.weights), dtype=dtype, use_safetensors=True, **source)
    except Exception as error:
        if out_of_memory(error):
            raise MemoryError(_too_large(row, "this machine")) from error
        if isinstance(error, OSError | ValueError | RuntimeError):
            raise BackboneError(_why_not(row, folder, local, error)) from error
        raise
    pipe.set_progress_bar_config(disable=True)
    return settle(pipe, place, row)


def settle(pipe: Any, place: Any, row: Backbone) -> Any:
    """Move a pipeline to a torch device; one too large for an accelerator keeps its parts outside.

    Then only the part that works is on the device (diffusers' model offload).

    Raises:
        MemoryError: one line, when it does not fit in either way.
    """
    try:
        return pipe.to(place)
    except Exception as error:
        if not out_of_memory(error):
            raise
        failed = error.with_traceback(None)  # its frames hold the parts that were moved
    if place.type not in ("cuda", "xpu"):
        raise MemoryError(_too_large(row, f"the memory of {place}")) from failed
    try:
        pipe.enable_model_cpu_offload(device=place)
    except Exception as error:
        if not out_of_memory(error):
            raise
        raise MemoryError(_too_large(row, f"the memory of {place}")) from error
    log.warning(
        "%s does not fit on %s as a whole, so its parts take turns there: slower", row.name, place
    )
    return pipe


def _too_large(row: Backbone, where: str) -> str:
    """One line for weights that do not fit."""
    need = f" (about {row.memory_gb:g} GB in half precision)" if row.memory_gb else ""
    less = f"a smaller --backbone such as {DEFAULTS.get(row.modality, DEFAULT)}"
    if row.modality == "portrait":  # what is loaded here for a portrait paints its face again
        less = "another --polish, or leave --polish out"
    return (
        f"memory: {row.name}{need} does not fit in {where}; close other programs, "
        f"try --dtype bfloat16, another --device or {less}"
    )


def _not_here(row: Backbone, *, asked: bool) -> str:
    """One line for weights that are not in the cache and cannot be got now."""
    where = f"weights of {row.weights}" + (f" at {row.revision}" if row.revision else "")
    off = "downloads are off (--offline or HF_HUB_OFFLINE)"
    why = off if asked else "the hub cannot be reached"
    return (
        f"backbone: the {where} are not here and {why}; run `affect models pull {row.name}` or "
        f"`hf download {row.weights}` on a machine with a network, or give a folder of them"
    )


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
    reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else "no reason"
    if local:
        return (
            f"backbone: the weights of {asked} are here in part only ({reason}); "
            f"pull them again with {command}"
        )
    return f"backbone: cannot load {asked}: {reason}; try {command}"


def pull(row: Backbone) -> Path:
    """Download what `load_pipeline` needs (safetensors only) into the Hugging Face cache."""
    if row.folder is not None:
        if not row.base:
            check_folder(row.folder)
        return row.folder
    if is_offline():
        msg = (
            f"backbone: cannot pull {row.weights} while HF_HUB_OFFLINE is set; "
            "unset it where there is a network"
        )
        raise BackboneError(msg)
    if not hub_answers(row):
        msg = (
            f"backbone: cannot pull {row.weights}, the hub cannot be reached; "
            "check the network, or give a folder that holds the weights as --backbone"
        )
        raise BackboneError(msg)
    from diffusers import DiffusionPipeline
    from huggingface_hub import snapshot_download

    try:
        if row.base:  # parts of a pipeline, whose painter is pulled as well
            pull(BACKBONES[row.base])
            files = ["config.json", "diffusion_pytorch_model.safetensors"]
            return Path(snapshot_download(row.weights, revision=row.revision, allow_patterns=files))
        return Path(
            DiffusionPipeline.download(row.weights, revision=row.revision, use_safetensors=True)
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise BackboneError(_why_not(row, None, False, error)) from error
