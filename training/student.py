"""Fresh LoRA adapters in a denoiser while a recipe trains them; none of it is left behind.

Each sample of a batch has its own weight for each adapter, as `adapters.lora` weighs finished ones.
Also what every loss on noisy latents needs: how a clean sample is noised at a level, and how loud
the signal then is. Knows no loss and no data.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft import LoraConfig
from torch import nn

from adapters.lora import lora_layers
from adapters.steps import is_flow


class StudentError(ValueError):
    """A model in which nothing can be adapted."""


def adapted_layers(denoiser: nn.Module, convs: bool) -> list[str]:
    """Exact names of the layers an adapter is put on.

    The attention projections that see the picture; never those of a transformer's text stream
    (`add_*`, context refiner), which would turn the adapter into a prompt change.

    Raises:
        StudentError: a denoiser without such layers.
    """
    found = []
    for name, module in denoiser.named_modules():
        if "context_refiner" in name or "siglip" in name:
            continue
        linear = isinstance(module, nn.Linear) and re.search(
            r"\.(to_q|to_k|to_v|to_out\.0|to_qkv_mlp_proj)$", name
        )
        conv = convs and isinstance(module, nn.Conv2d) and re.search(r"\.conv[12]$", name)
        if linear or conv:
            found.append(name)
    if not found:
        msg = f"backbone: {type(denoiser).__name__} has no attention layers that could be adapted"
        raise StudentError(msg)
    return found


@contextmanager
def student(
    denoiser: nn.Module,
    adapters: Sequence[str],
    *,
    rank: int,
    convs: bool,
    generator: torch.Generator,
) -> Iterator[tuple[list[nn.Parameter], Callable[[torch.Tensor], None]]]:
    """Add fresh adapters; yields their parameters and a setter of the weights (b, len(adapters)).

    An adapter that no sample of a batch weighs is out of the call, gradients and optimiser
    included. Parameters are float32 whatever the model is. On exit the denoiser is as it was, other
    people's adapters and gradient flags included.
    """
    names = adapted_layers(denoiser, convs)
    pattern = "(?:" + "|".join(re.escape(name) for name in names) + ")"  # peft matches it in full
    before = {name: list(layer.active_adapters) for name, layer in lora_layers(denoiser).items()}
    flags = [(p, p.requires_grad) for p in denoiser.parameters()]
    weights = torch.ones(1, len(adapters))
    handles = []
    layers: list[tuple[Any, list[str]]] = []
    parameters: list[nn.Parameter] = []
    active: list[str] = []
    try:
        for adapter in adapters:
            config = LoraConfig(r=rank, lora_alpha=rank, target_modules=pattern)
            with warnings.catch_warnings():  # several adapters in one model are the point
                warnings.filterwarnings("ignore", "Already found a `peft_config`")
                denoiser.add_adapter(config, adapter_name=adapter)
        for parameter in denoiser.parameters():
            parameter.requires_grad_(False)
        for name, layer in lora_layers(denoiser).items():
            if adapters[0] not in layer.lora_A:
                continue
            layers.append((layer, before.get(name, [])))
            for adapter in adapters:
                down, up = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
                with torch.no_grad():  # peft draws from the global generator
                    down.data, up.data = down.data.float(), up.data.float()
                    bound = down[0].numel() ** -0.5
                    fresh = torch.rand(down.shape, generator=generator) * 2 * bound - bound
                    down.copy_(fresh)
                    up.zero_()
                parameters += [down, up]

            def weigh(module: nn.Module, args: tuple[Any, ...], layer: Any = layer) -> None:
                x = args[0]
                for column, adapter in enumerate(adapters):
                    if adapter in active:
                        rows = weights[:, column].to(x)
                        if x.ndim > 2 and len(x) != len(rows) and len(x) % len(rows) == 0:
                            # Frames folded into the batch, samples first.
                            rows = rows.repeat_interleave(len(x) // len(rows))
                        layer.scaling[adapter] = rows.view(-1, *(1,) * (x.ndim - 1))

            handles.append(layer.register_forward_pre_hook(weigh))

        def set_weights(rows: torch.Tensor) -> None:
            nonlocal weights
            weights = rows
            used = [a for a, on in zip(adapters, rows.any(0).tolist(), strict=True) if on]
            if used == active:
                return
            active[:] = used
            for layer, others in layers:
                layer.set_adapter([*others, *used], inference_mode=True)
                for adapter in used:
                    layer.lora_A[adapter].weight.requires_grad_(True)
                    layer.lora_B[adapter].weight.requires_grad_(True)

        set_weights(weights)
        yield parameters, set_weights
    finally:
        for handle in handles:
            handle.remove()
        with warnings.catch_warnings():  # which ones are active is put back below
            warnings.filterwarnings("ignore", "Adapter .* was active which is now deleted")
            denoiser.delete_adapters(
                [a for a in adapters if a in getattr(denoiser, "peft_config", {})]
            )
        if not getattr(denoiser, "peft_config", None):
            denoiser.unload_lora()
        for name, layer in lora_layers(denoiser).items():
            layer.set_adapter(before.get(name, []), inference_mode=True)
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def noised(
    scheduler: Any, clean: torch.Tensor, noise: torch.Tensor, level: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Clean samples (b, ...) at noise levels (b,) in 0..1, evenly spread before a flow's own shift.

    Returns the noisy samples and the scheduler's times (b,).
    """
    total = scheduler.config.num_train_timesteps
    shape = (-1, *(1,) * (clean.ndim - 1))
    if is_flow(scheduler):
        shift = float(scheduler.config.get("shift") or 1.0)
        sigma = shift * level / (1 + (shift - 1) * level)
        t, sigma = sigma * total, sigma.view(shape)
        return (1 - sigma) * clean + sigma * noise, t
    t = (level * total).long().clamp(max=total - 1)
    abar = scheduler.alphas_cumprod.cpu()[t].view(shape).float()
    return abar.sqrt() * clean + (1 - abar).sqrt() * noise, t
