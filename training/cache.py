"""Latents and text states of a data set, computed once for a model and kept on disk.

A picture's latents are kept under the hash of its file, the digest of the weights and the size they
were made at; a caption's states under the hash of its words and the same digest. Each is one
safetensors file, written whole or not at all, so a run that is killed goes on where it stopped and
several processes may fill one folder. A file that cannot be read is made again.

Latents are as the family's denoising loop carries them: scaled, and packed where it packs
(`encode_pictures` is the inverse of `adapters.families.decode`; read from the source of diffusers
0.42). A film model gets a film of one frame. Knows no data set, no loss.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from adapters.conditioning import encode
from adapters.families import Family, FamilyError, model_digest, require
from adapters.files import replacing
from adapters.steps import patched
from training.buckets import Size

States = dict[str, Tensor]
"""Of one caption: tokens (L, D), and pooled (P,) and mask (L,) where the family has them."""

TOKENS, POOLED, MASK = "tokens", "pooled", "mask"
FORMAT = 1
"""Raised when the same picture and weights would give other latents."""


def size_step(pipe: Any) -> int:
    """Pixels in whose multiples widths and heights of this pipeline come.

    What one latent pixel covers, times the patch of a transformer or the halvings of a UNet.

    Raises:
        FamilyError: no picture model.
    """
    row = require(pipe, "lora")
    denoiser = getattr(pipe, row.denoiser)
    scale = next(
        (
            int(getattr(pipe, name))
            for name in ("vae_scale_factor", "vae_scale_factor_spatial",
                         "vae_spatial_compression_ratio")
            if hasattr(pipe, name)
        ),
        8,
    )  # fmt: skip
    if row.packing in ("flux", "flux2", "qwen"):
        return scale * 2
    blocks = denoiser.config.get("block_out_channels")
    if blocks:
        return scale * 2 ** (len(blocks) - 1)
    patch = denoiser.config.get("patch_size") or 1
    if denoiser.config.get("all_patch_size"):  # Z-Image
        patch = denoiser.config["all_patch_size"]
    return scale * (max(patch) if isinstance(patch, list | tuple) else int(patch))


@torch.no_grad()
def encode_pictures(pipe: Any, pixels: Tensor) -> Tensor:
    """Pixels (B, 3, H, W) in -1..1 -> clean latents (B, ...) as the denoising loop carries them.

    The mode of the autoencoder's distribution, so that the same picture has the same latents.

    Raises:
        FamilyError: a family whose latents are not known here.
    """
    row = require(pipe, "lora")
    vae = pipe.vae
    x = pixels.to(vae.device, vae.dtype)
    films = row.packing == "qwen" or row.frames in ("wan", "ltx")
    answer = vae.encode(x.unsqueeze(2) if films else x)
    z = answer.latent_dist.mode() if hasattr(answer, "latent_dist") else answer.latents
    if row.packing == "flux2":
        packed = _packed(z)
        norm = vae.bn
        mean = norm.running_mean.to(packed)
        return (packed - mean) / torch.sqrt(norm.running_var.to(packed) + _eps(vae))
    if row.packing == "qwen":
        return _packed(_standard(z, vae.config)[:, :, 0])
    if row.frames == "wan":
        return _standard(z, vae.config)
    if row.packing == "ltx":
        mean, spread = vae.latents_mean.to(z), vae.latents_std.to(z)
        z = pipe._normalize_latents(z, mean, spread, vae.config.scaling_factor)
        patch, stretch = pipe.transformer_spatial_patch_size, pipe.transformer_temporal_patch_size
        return pipe._pack_latents(z, patch, stretch)
    z = _scaled(z, vae.config)
    if row.packing == "flux":
        return _packed(z)
    if row.packing != "none":
        msg = f"backbone: no rule to pack latents of {row.name}; use another backbone"
        raise FamilyError(msg)
    return z.unsqueeze(2) if row.frames == "unet" else z


def _eps(vae: Any) -> float:
    return float(vae.config.batch_norm_eps)


def _packed(z: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, h w / 4, 4 C): 2 x 2 latent pixels to a token, as Flux packs them."""
    batch, channels, height, width = z.shape
    grid = z.reshape(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return grid.reshape(batch, height * width // 4, channels * 4)


def _standard(z: Tensor, config: Any) -> Tensor:
    """Films (B, C, F, h, w) with the mean and spread that the autoencoder's config tells."""
    shape = (1, -1, 1, 1, 1)
    mean = torch.tensor(config.latents_mean).view(shape).to(z)
    return (z - mean) / torch.tensor(config.latents_std).view(shape).to(z)


def _scaled(z: Tensor, config: Any) -> Tensor:
    """What AutoencoderKL's users do to its latents (SD, SDXL, SD3, Flux, Z-Image alike)."""
    mean, spread = config.get("latents_mean"), config.get("latents_std")
    if mean is not None and spread is not None:
        shape = (1, -1, 1, 1)
        z = (z - torch.tensor(mean).view(shape).to(z)) / torch.tensor(spread).view(shape).to(z)
        return z * config.scaling_factor
    return (z - (config.get("shift_factor") or 0.0)) * config.scaling_factor


def encode_captions(pipe: Any, captions: Sequence[str], **options: Any) -> list[States]:
    """Text states of each caption, on the CPU; options: further arguments of `encode_prompt`."""
    row = require(pipe, "lora")
    found: list[States] = []
    # Together where all captions have one length; alone where a batch would pad them to its own.
    size = 1 if row.lists or row.mask is not None else 8
    for start in range(0, len(captions), size):
        found += _together(pipe, row, captions[start : start + size], options)
    return found


def _together(
    pipe: Any, row: Family, captions: Sequence[str], options: Mapping[str, Any]
) -> list[States]:
    masks: list[Any] = []

    def listen(original: Any) -> Any:
        def encode_prompt(*args: Any, **kwargs: Any) -> Any:
            output = original(*args, **kwargs)
            masks.append(output[row.mask] if row.mask is not None else None)
            return output

        return encode_prompt

    with patched(pipe, "encode_prompt", listen):
        encoded = encode(pipe, captions, **options)
    states: list[States] = []
    for k in range(len(captions)):
        one: States = {TOKENS: encoded.tokens[k]}
        if encoded.pooled is not None:
            one[POOLED] = encoded.pooled[k]
        if masks[-1] is not None:
            one[MASK] = masks[-1][k]
        elif row.mask is not None:  # Qwen-Image passes none where nothing is padded
            one[MASK] = torch.ones(len(encoded.tokens[k]), dtype=torch.int64)
        states.append({key: value.detach().cpu().contiguous() for key, value in one.items()})
    return states


class Cache:
    """A folder of latents and text states of one model.

    Args:
        folder: is made where it is not there; several models may share it.
        pipe: the model; its digest is taken once, here.
        options: further arguments of `encode_prompt`; other options are other states.
    """

    def __init__(self, folder: Path | str, pipe: Any, options: Mapping[str, Any] | None = None):
        self.pipe, self.options = pipe, dict(options or {})
        self.folder = Path(folder) / f"{model_digest(pipe)}-{FORMAT}"
        self.made = 0

    def latents_path(self, sha256: str, size: Size) -> Path:
        """Where the latents of a file of these bytes are kept."""
        name = f"{sha256[:32]}-{size[0]}x{size[1]}.safetensors"
        return self.folder / "latents" / sha256[:2] / name

    def states_path(self, caption: str) -> Path:
        """Where the states of a caption are kept."""
        text = json.dumps([caption, self.options], sort_keys=True, default=str)
        key = hashlib.sha256(text.encode()).hexdigest()
        return self.folder / "text" / key[:2] / f"{key[:32]}.safetensors"

    def latents(self, sha256: str, size: Size) -> Tensor | None:
        """Latents without a batch axis; None where they are not there or damaged."""
        found = _read(self.latents_path(sha256, size))
        return None if found is None else found.get("latents")

    def states(self, caption: str) -> States | None:
        """States of a caption; None where they are not there or damaged."""
        found = _read(self.states_path(caption))
        return found if found is not None and TOKENS in found else None

    def add_latents(self, sha256: str, size: Size, pixels: Tensor) -> Tensor:
        """Encode pixels (3, H, W), keep the latents, return them."""
        z = encode_pictures(self.pipe, pixels[None])[0].detach().cpu().contiguous()
        _write(self.latents_path(sha256, size), {"latents": z})
        self.made += 1
        return z

    def add_states(self, captions: Sequence[str]) -> list[States]:
        """Encode captions, keep their states, return them."""
        found = encode_captions(self.pipe, captions, **self.options)
        for caption, states in zip(captions, found, strict=True):
            _write(self.states_path(caption), states)
            self.made += 1
        return found


def _read(path: Path) -> dict[str, Tensor] | None:
    if not path.is_file():
        return None
    try:
        return load_file(path)
    except (OSError, SafetensorError):
        return None


def _write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    with replacing(path) as fresh:
        # Rows of a batch share its memory, which safetensors would write whole.
        save_file({key: value.clone() for key, value in tensors.items()}, fresh)
