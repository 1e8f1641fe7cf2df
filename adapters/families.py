"""What differs between the diffusers pipelines that we steer, as one literal table.

Read from the source of diffusers 0.42: where the denoiser and the text encoders live, what
`encode_prompt` returns in which place, how guidance is batched, how latents become pixels, and
which mechanisms (directions, LoRA, guidance) the family takes. It knows nothing of emotions, and
nothing of how a mechanism works. A pipeline class that is not in the table still takes directions
if it has an `encode_prompt`.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isqrt
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

MECHANISMS = ("directions", "lora", "critic_guidance", "noise_guidance")


class FamilyError(ValueError):
    """A pipeline cannot take what was asked of it; the message says what can."""


@dataclass(frozen=True, slots=True)
class Text:
    """One stretch of the token sequence: which tokenizer wrote it, from which prompt argument.

    kind: "clip" (BOS, words, EOS, padding), "t5" (words, EOS, padding), "chat" (chat template,
    padded), "chat-list" (the same, padding dropped), "template" (Qwen-Image's own template, its
    first tokens dropped, padding masked) or "any" (a class that the table does not know).
    """

    name: str
    kind: str
    tokenizer: str
    arguments: tuple[str, ...] = ("prompt",)
    encoder: str = "text_encoder"
    thinking: bool = False


@dataclass(frozen=True, slots=True)
class Family:
    """How one family of pipelines is laid out. Places are indices into `encode_prompt`'s tuple.

    cfg: "uncond-first" or "cond-first" (one doubled batch in that order), or "two-calls" (the
    denoiser and `encode_prompt` run once per branch, the conditional one first).
    packing: how the loop carries latents: "none" (B, C, h, w), or packed to (B, tokens, channels)
    as "flux", "flux2" or "qwen".
    scale_argument, negative_argument: the call arguments of classifier-free guidance.
    frames: how a video model's denoiser carries time: "" (pictures), "unet" (frames folded into the
        batch, motion modules apart, one text row a frame), "wan" or "ltx" (all frames in one
        sequence of tokens, one text a film).
    experts: further denoisers that the same run goes through, such as Wan 2.2's for low noise.
    """

    name: str
    denoiser: str
    text_encoders: tuple[str, ...]
    texts: tuple[Text, ...]
    cfg: str
    tokens: int = 0
    negative_tokens: int | None = None
    pooled: int | None = None
    negative_pooled: int | None = None
    mask: int | None = None
    lists: bool = False
    packing: str = "none"
    prediction: str = "flow"
    scale_argument: str | None = "guidance_scale"
    negative_argument: str | None = "negative_prompt"
    mechanisms: frozenset[str] = frozenset(MECHANISMS)
    frames: str = ""
    experts: tuple[str, ...] = ()


_SD15 = Family(
    name="sd15",
    denoiser="unet",
    text_encoders=("text_encoder",),
    texts=(Text("clip", "clip", "tokenizer"),),
    cfg="uncond-first",
    negative_tokens=1,
    prediction="scheduler",
)
_SDXL = replace(
    _SD15,
    name="sdxl",
    text_encoders=("text_encoder", "text_encoder_2"),
    # Both CLIPs see the same positions, side by side in the features. The second is never absent.
    texts=(Text("clip", "clip", "tokenizer_2", encoder="text_encoder_2"),),
    pooled=2,
    negative_pooled=3,
)
_SD3 = Family(
    name="sd3",
    denoiser="transformer",
    text_encoders=("text_encoder", "text_encoder_2", "text_encoder_3"),
    texts=(
        Text("clip", "clip", "tokenizer"),
        Text("t5", "t5", "tokenizer_3", ("prompt_3", "prompt"), encoder="text_encoder_3"),
    ),
    cfg="uncond-first",
    negative_tokens=1,
    pooled=2,
    negative_pooled=3,
)
_FLUX = Family(
    name="flux",
    denoiser="transformer",
    text_encoders=("text_encoder", "text_encoder_2"),
    # CLIP reaches Flux only as the pooled vector; the tokens are T5's.
    texts=(Text("t5", "t5", "tokenizer_2", ("prompt_2", "prompt"), encoder="text_encoder_2"),),
    cfg="two-calls",
    pooled=1,
    packing="flux",
    # guidance_scale is an input of the distilled model, not a second branch.
    scale_argument="true_cfg_scale",
)
_FLUX2_KLEIN = Family(
    name="flux2-klein",
    denoiser="transformer",
    text_encoders=("text_encoder",),
    texts=(Text("llm", "chat", "tokenizer"),),
    cfg="two-calls",
    packing="flux2",
    negative_argument=None,
)
_Z_IMAGE = Family(
    name="z-image",
    denoiser="transformer",
    text_encoders=("text_encoder",),
    texts=(Text("llm", "chat-list", "tokenizer", thinking=True),),
    cfg="cond-first",
    negative_tokens=1,
    lists=True,
)
_QWEN_IMAGE = Family(
    name="qwen-image",
    denoiser="transformer",
    text_encoders=("text_encoder",),
    texts=(Text("llm", "template", "tokenizer"),),
    cfg="two-calls",
    mask=1,
    packing="qwen",
    scale_argument="true_cfg_scale",
)

# Video models. Guidance is left out: one clean sample is a whole film, too much to decode a step.
_FRAMES = frozenset({"directions", "lora"})
_ANIMATEDIFF = replace(_SD15, name="animatediff", mechanisms=_FRAMES, frames="unet")
_WAN = replace(
    _ANIMATEDIFF,
    name="wan",
    denoiser="transformer",
    # Behind the words UMT5's embeddings are set to zero, so directions leave padding alone.
    texts=(Text("t5", "t5", "tokenizer"),),
    cfg="two-calls",
    prediction="flow",
    frames="wan",
    experts=("transformer_2",),
)
_LTX = replace(
    _ANIMATEDIFF,
    name="ltx",
    denoiser="transformer",
    texts=(Text("t5", "t5", "tokenizer"),),
    negative_tokens=2,
    mask=1,
    packing="ltx",
    prediction="flow",
    frames="ltx",
)
# It paints a given film again, in segments: one emotion each.
_WAN_ANIMATE = replace(_WAN, frames="", experts=(), mechanisms=frozenset({"directions"}))

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "StableDiffusionPipeline": _SD15,
        "StableDiffusionImg2ImgPipeline": _SD15,
        "StableDiffusionXLPipeline": _SDXL,
        "StableDiffusionXLImg2ImgPipeline": _SDXL,
        "StableDiffusion3Pipeline": _SD3,
        "StableDiffusion3Img2ImgPipeline": _SD3,
        "FluxPipeline": _FLUX,
        "FluxImg2ImgPipeline": _FLUX,
        "Flux2KleinPipeline": _FLUX2_KLEIN,  # one class for both: it takes `image=`
        "ZImagePipeline": _Z_IMAGE,
        "ZImageImg2ImgPipeline": _Z_IMAGE,
        "QwenImagePipeline": _QWEN_IMAGE,
        "QwenImageImg2ImgPipeline": _QWEN_IMAGE,
        "AnimateDiffPipeline": _ANIMATEDIFF,
        "AnimateDiffControlNetPipeline": _ANIMATEDIFF,
        "AnimateDiffVideoToVideoPipeline": _ANIMATEDIFF,
        "AnimateDiffVideoToVideoControlNetPipeline": _ANIMATEDIFF,
        "WanPipeline": _WAN,
        "WanImageToVideoPipeline": _WAN,
        "WanVideoToVideoPipeline": _WAN,
        "WanAnimatePipeline": _WAN_ANIMATE,
        "LTXPipeline": _LTX,
        "LTXImageToVideoPipeline": _LTX,
    }
)


def family(pipe: Any) -> Family:
    """The layout of `pipe`, by its class or the nearest known base class.

    An unknown class with an `encode_prompt` gets a layout that takes directions only. Anything
    else raises FamilyError.
    """
    for cls in type(pipe).__mro__:
        if cls.__name__ in FAMILIES:
            return FAMILIES[cls.__name__]
    name = type(pipe).__name__
    if not hasattr(pipe, "encode_prompt"):
        known = ", ".join(sorted({row.name for row in FAMILIES.values()}))
        msg = (
            f"backbone: {name} has no encode_prompt, so it cannot be steered; use one of the "
            f"families {known}, or another text-conditioned diffusers pipeline"
        )
        raise FamilyError(msg)
    one_call = "do_classifier_free_guidance" in inspect.signature(pipe.encode_prompt).parameters
    return Family(
        name=name,
        denoiser="unet" if hasattr(pipe, "unet") else "transformer",
        text_encoders=tuple(key for key in pipe.components if key.startswith("text_encoder")),
        texts=(Text("any", "any", "tokenizer"),),
        cfg="uncond-first" if one_call else "two-calls",
        mechanisms=frozenset({"directions"}),
    )


def require(pipe: Any, mechanism: str) -> Family:
    """The family of `pipe` if it takes `mechanism` (one of MECHANISMS), else FamilyError."""
    row = family(pipe)
    if mechanism not in row.mechanisms:
        takers = sorted(
            {known.name for known in FAMILIES.values() if mechanism in known.mechanisms}
        )
        msg = (
            f"{mechanism}: {row.name} cannot take it, only "
            f"{', '.join(sorted(row.mechanisms))}; it works on {', '.join(takers) or 'no family'}"
        )
        raise FamilyError(msg)
    return row


def prediction_type(pipe: Any) -> str:
    """What the denoiser predicts: "epsilon", "v_prediction", "sample" or "flow" (noise - x0)."""
    row = family(pipe)
    if row.prediction == "flow":
        return "flow"
    found = str(pipe.scheduler.config.get("prediction_type", "epsilon"))
    return "flow" if found == "flow_prediction" else found


def unpack(
    pipe: Any, latents: Tensor, height: int | None = None, width: int | None = None
) -> Tensor:
    """Latents as the sampling loop carries them -> (B, C, h, w) as the autoencoder numbers them.

    height, width: the picture's size in pixels; needed for packed latents of a picture that is not
    square. Differentiable. Raises FamilyError where the size cannot be known.
    """
    row = family(pipe)
    if row.packing == "none":
        return latents
    batch, count, channels = latents.shape
    cell = pipe.vae_scale_factor * 2  # packing joins 2 x 2 latent pixels into one token
    if height is None or width is None:
        rows = columns = isqrt(count)
    else:
        rows, columns = height // cell, width // cell
    if rows * columns != count:
        msg = (
            f"height, width: {height} x {width} does not fit {count} packed latents of {row.name}; "
            f"pass the picture's size in pixels (multiples of {cell})"
        )
        raise FamilyError(msg)
    grid = latents.view(batch, rows, columns, channels // 4, 2, 2)
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels // 4, rows * 2, columns * 2)


def decode(
    pipe: Any, latents: Tensor, height: int | None = None, width: int | None = None
) -> Tensor:
    """Clean latents of the sampling loop -> pictures (B, 3, H, W), float, nominally 0..1.

    Differentiable and not clamped (a clamp would stop gradients); `clamp(0, 1)` gives what the
    pipeline itself would return. Raises FamilyError for an unknown class or size.
    """
    row = family(pipe)
    vae = pipe.vae
    if row.name not in {known.name for known in FAMILIES.values()}:
        names = ", ".join(sorted({known.name for known in FAMILIES.values()}))
        msg = f"backbone: no rule to decode latents of {row.name}; decoding is known for {names}"
        raise FamilyError(msg)
    if vae.dtype == torch.float16 and vae.config.get("force_upcast", False):
        msg = (
            f"dtype: the autoencoder of {row.name} overflows in float16; "
            "load the pipeline in bfloat16 or float32"
        )
        raise FamilyError(msg)
    if row.packing == "flux2":
        norm = vae.bn
        mean = norm.running_mean.to(latents)
        spread = torch.sqrt(norm.running_var + vae.config.batch_norm_eps).to(latents)
        latents = latents * spread + mean
    latents = unpack(pipe, latents, height, width).to(vae.dtype)
    if row.packing == "qwen":
        shape = (1, -1, 1, 1)
        mean = torch.tensor(vae.config.latents_mean).view(shape).to(latents)
        spread = torch.tensor(vae.config.latents_std).view(shape).to(latents)
        frames = (latents * spread + mean).unsqueeze(2)
        return vae.decode(frames, return_dict=False)[0][:, :, 0] * 0.5 + 0.5
    if row.packing != "flux2":
        latents = _scaled(latents, vae.config)
    return vae.decode(latents, return_dict=False)[0] * 0.5 + 0.5


def _scaled(latents: Tensor, config: Any) -> Tensor:
    """Undo what AutoencoderKL's users do to its latents (SD, SDXL, SD3, Flux, Z-Image alike)."""
    mean, spread = config.get("latents_mean"), config.get("latents_std")
    if mean is not None and spread is not None:
        shape = (1, -1, 1, 1)
        scale = torch.tensor(spread).view(shape).to(latents) / config.scaling_factor
        return latents * scale + torch.tensor(mean).view(shape).to(latents)
    return latents / config.scaling_factor + (config.get("shift_factor") or 0.0)


# Settings that change what the same tensors compute and that shapes do not show. Whole configs
# would change the digest with every library release, which adds keys.
_SETTINGS = (
    "prediction_type",
    "scaling_factor",
    "shift_factor",
    "latents_mean",
    "latents_std",
    "num_attention_heads",
    "attention_head_dim",
)
_ASIDE = ("safety_checker", "image_encoder")  # optional parts that do not paint
_SAMPLE = 64  # values read from each tensor: 2,500 tensors of SDXL in well under a second


def model_digest(pipe: Any) -> str:
    """Sixteen hex digits that name the weights of `pipe`: the same folder, the same digest.

    Hashed per component: the shape of each tensor and up to 64 evenly spaced values of it (rounded
    to bfloat16, so that a half-precision checkpoint loaded in float32 keeps its digest), plus the
    settings that shapes do not show. Names of tensors are left out, because they change with
    library releases; loaded LoRA layers are left out, because they are adapters. An edit that
    misses every sampled value is not seen. Raises FamilyError once weights have been moved away
    (sequential offload): take the digest before.
    """
    parts: list[Any] = [family(pipe).name]
    for name, component in sorted(pipe.components.items()):
        config = getattr(component, "config", None)
        settings = {key: _setting(config, key) for key in _SETTINGS}
        settings = {key: value for key, value in settings.items() if value is not None}
        if isinstance(component, nn.Module) and name not in _ASIDE:
            parts.append([name, settings, sorted(_tensor_hashes(name, component))])
        elif name == "scheduler" and "prediction_type" in settings:
            parts.append([name, settings["prediction_type"]])
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _setting(config: Any, key: str) -> Any:
    value = config.get(key) if isinstance(config, Mapping) else getattr(config, key, None)
    return list(value) if isinstance(value, list | tuple) else value


def _tensor_hashes(name: str, module: nn.Module) -> list[str]:
    hashes = []
    for key, tensor in module.state_dict().items():
        if "lora_" in key or tensor.dtype == torch.int64:  # adapters; position and step counters
            continue
        if tensor.is_meta:
            msg = (
                f"backbone: the weights of {name} are offloaded, so they cannot be identified; "
                "take the model digest before enabling sequential offload"
            )
            raise FamilyError(msg)
        flat = tensor.detach().reshape(-1)
        step = max(1, flat.numel() // _SAMPLE)
        values = flat[::step][:_SAMPLE].cpu()
        if values.is_floating_point():
            values = values.to(torch.bfloat16)
        sample = values.contiguous().view(torch.uint8).numpy().tobytes()
        hashes.append(hashlib.sha256(repr(tuple(tensor.shape)).encode() + sample).hexdigest()[:16])
    return hashes
