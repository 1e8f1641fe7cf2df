"""A style on a composer: an ordinary peft LoRA folder, worn for a while at any weight.

    with adapted(model, "out/ragtime", 0.8):
        ...  # the model writes in that style

The folder is what peft's `save_pretrained` writes: adapter_config.json and
adapter_model.safetensors. Weight 0 is the plain model, 1 what was trained; more overdoes it. On
leaving, also by an error or a closed generator, the model has its own layers again, the same
objects, so that nothing of a style can reach the next piece. Knows no music and no training
(training.music_lora).

Source: Hu et al. 2021, LoRA (arXiv 2106.09685).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MOST_WEIGHT = 2.0
"""Twice what was trained; beyond it a language model falls apart."""
_NAME = "affect_style"
_PREFIX = "base_model.model."  # how PeftModel names the modules it wraps
_PICKLES = ("adapter_model.bin", "adapter_model.pt")


class AdapterError(ValueError):
    """A folder that is no adapter for this model; one line that says what would be."""


def check_adapter(folder: Path | str, weight: float = 1.0) -> Path:
    """Refuse, without loading torch's side of it, what cannot be an adapter; returns the folder.

    Raises:
        AdapterError: no such folder, a pickle, not a LoRA, or a weight outside 0..2.
    """
    path = Path(folder).expanduser()
    if not (math.isfinite(weight) and 0 <= weight <= MOST_WEIGHT):
        msg = f"lora_weight: allowed 0 to {MOST_WEIGHT:g}, received {weight:g}; 1 is as trained"
        raise AdapterError(msg)
    if not (path / WEIGHTS).is_file():
        pickled = [name for name in _PICKLES if (path / name).is_file()]
        told = f"holds only a pickle ({pickled[0]})" if pickled else f"has no {WEIGHTS}"
        msg = f"lora: {path} {told}; give a folder that `affect train lora` or peft has written"
        raise AdapterError(msg)
    config = _config(path)
    plain = config.get("peft_type") == "LORA" and not config.get("use_dora")
    if not plain or not all(isinstance(config.get(key), int) for key in ("r", "lora_alpha")):
        msg = f"lora: {path} holds {config.get('peft_type')!r}; only plain LORA can be worn"
        raise AdapterError(msg)
    return path


def adapter_digest(folder: Path | str) -> str:
    """16 hex digits that change with the weights and their scale: for the record of a take."""
    path = check_adapter(folder)
    config = _config(path)
    scale = {key: config.get(key) for key in ("r", "lora_alpha", "use_rslora")}
    h = hashlib.sha256(json.dumps(scale, sort_keys=True).encode())
    h.update((path / WEIGHTS).read_bytes())
    return h.hexdigest()[:16]


@contextmanager
def adapted(model: nn.Module, folder: Path | str, weight: float = 1.0) -> Iterator[None]:
    """Let `model` wear the adapter of `folder`, `weight` times as strong as it was trained.

    Raises:
        AdapterError: before the model is touched, where the folder is no adapter for it.
    """
    path = check_adapter(folder, weight)
    if weight == 0:
        yield
        return
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
    from peft.tuners.lora import LoraLayer

    state = _state(path, model)
    if any(isinstance(module, LoraLayer) for module in model.modules()):
        msg = "lora: the model wears an adapter already; leave that one first"
        raise AdapterError(msg)
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    # Only what plain LoRA needs of the file: its other fields may ask peft for slow or odd things.
    given = _config(path)
    config = LoraConfig(
        r=int(given["r"]),
        lora_alpha=int(given["lora_alpha"]),
        use_rslora=bool(given.get("use_rslora", False)),
        target_modules=sorted({key.rpartition(".lora_")[0] for key in state}),
        inference_mode=True,
    )
    training = model.training
    try:
        # peft draws the matrices it is about to overwrite from the global generator.
        with torch.random.fork_rng(devices=[]):
            inject_adapter_in_model(config, model, adapter_name=_NAME)
        set_peft_model_state_dict(model, state, adapter_name=_NAME)
        for module in model.modules():
            if isinstance(module, LoraLayer):
                module.scaling[_NAME] *= weight
        model.train(training)
        yield
    finally:
        for parent in list(model.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, LoraLayer):
                    setattr(parent, name, child.get_base_layer())
        for attribute in ("peft_config", "active_adapter"):
            vars(model).pop(attribute, None)
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
        model.train(training)


def _config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        msg = f"lora: {path} has no readable {CONFIG} ({type(error).__name__}); train it again"
        raise AdapterError(msg) from error
    return config if isinstance(config, dict) else {}


def _state(path: Path, model: nn.Module) -> dict[str, torch.Tensor]:
    """Tensors by module name; every one must fit a layer of the model."""
    try:
        found = load_file(path / WEIGHTS)
    except (OSError, SafetensorError) as error:
        msg = f"lora: {path / WEIGHTS} cannot be read ({error}); train or fetch it again"
        raise AdapterError(msg) from error
    state = {key.removeprefix(_PREFIX): value for key, value in found.items()}
    layers = dict(model.named_modules())
    for key, value in state.items():
        name, _, rest = key.rpartition(".lora_")
        own = getattr(layers.get(name), "weight", None)
        side = {"A.weight": 1, "B.weight": 0}.get(rest)
        if own is None or side is None or value.ndim != 2 or value.shape[side] != own.shape[side]:
            msg = (
                f"lora: {path} is for another model: {key} does not fit {type(model).__name__}; "
                "wear it on the backbone its card names"
            )
            raise AdapterError(msg)
    if not state:
        msg = f"lora: {path / WEIGHTS} is empty; train it again"
        raise AdapterError(msg)
    return state
