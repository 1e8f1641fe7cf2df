"""LoRA matrices under the names that kohya's trainers, ComfyUI and WebUI use.

Those programs name layers after each model's FIRST publication (`lora_unet_` and the module's path
with underscores), diffusers after its own: blocks are numbered otherwise, and what diffusers has as
`to_q`, `to_k`, `to_v` is one matrix there. Joining is exact: the downward matrices lie on top of
each other, the upward ones on a diagonal, so the rank is the sum and the product the same. What
has no name over there is refused, because ComfyUI skips unknown keys with a line in its log and
goes on. Knows nothing of files and headers (slider_file.py, training/export.py).

Names read from: diffusers 0.42, `loaders/lora_conversion_utils.py` and `single_file_utils.py`;
ComfyUI, `comfy/lora.py`; kohya-ss/sd-scripts, `networks/lora.py`, `lora_flux.py`, `lora_sd3.py`;
kohya-ss/musubi-tuner, `networks/lora_wan.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

KOHYA_FAMILIES = ("sd15", "animatediff", "sdxl", "sd3", "flux", "wan", "qwen-image")


class KohyaError(ValueError):
    """An adapter that has no names in kohya's layout; one line, with what to do instead."""


# A transformer's layers: (diffusers path, path over there, place in a joined matrix or None).
# Places are of (to_q, to_k, to_v[, proj_mlp]). "#" is the number of the block.
_SD3 = (
    ("transformer_blocks.#.attn.to_q", "joint_blocks.#.x_block.attn.qkv", 0),
    ("transformer_blocks.#.attn.to_k", "joint_blocks.#.x_block.attn.qkv", 1),
    ("transformer_blocks.#.attn.to_v", "joint_blocks.#.x_block.attn.qkv", 2),
    ("transformer_blocks.#.attn.to_out.0", "joint_blocks.#.x_block.attn.proj", None),
    ("transformer_blocks.#.attn2.to_q", "joint_blocks.#.x_block.attn2.qkv", 0),
    ("transformer_blocks.#.attn2.to_k", "joint_blocks.#.x_block.attn2.qkv", 1),
    ("transformer_blocks.#.attn2.to_v", "joint_blocks.#.x_block.attn2.qkv", 2),
    ("transformer_blocks.#.attn2.to_out.0", "joint_blocks.#.x_block.attn2.proj", None),
    ("transformer_blocks.#.ff.net.0.proj", "joint_blocks.#.x_block.mlp.fc1", None),
    ("transformer_blocks.#.ff.net.2", "joint_blocks.#.x_block.mlp.fc2", None),
    ("transformer_blocks.#.attn.add_q_proj", "joint_blocks.#.context_block.attn.qkv", 0),
    ("transformer_blocks.#.attn.add_k_proj", "joint_blocks.#.context_block.attn.qkv", 1),
    ("transformer_blocks.#.attn.add_v_proj", "joint_blocks.#.context_block.attn.qkv", 2),
    ("transformer_blocks.#.attn.to_add_out", "joint_blocks.#.context_block.attn.proj", None),
    ("transformer_blocks.#.ff_context.net.0.proj", "joint_blocks.#.context_block.mlp.fc1", None),
    ("transformer_blocks.#.ff_context.net.2", "joint_blocks.#.context_block.mlp.fc2", None),
)
_FLUX = (
    ("transformer_blocks.#.attn.to_q", "double_blocks.#.img_attn.qkv", 0),
    ("transformer_blocks.#.attn.to_k", "double_blocks.#.img_attn.qkv", 1),
    ("transformer_blocks.#.attn.to_v", "double_blocks.#.img_attn.qkv", 2),
    ("transformer_blocks.#.attn.to_out.0", "double_blocks.#.img_attn.proj", None),
    ("transformer_blocks.#.ff.net.0.proj", "double_blocks.#.img_mlp.0", None),
    ("transformer_blocks.#.ff.net.2", "double_blocks.#.img_mlp.2", None),
    ("transformer_blocks.#.norm1.linear", "double_blocks.#.img_mod.lin", None),
    ("transformer_blocks.#.attn.add_q_proj", "double_blocks.#.txt_attn.qkv", 0),
    ("transformer_blocks.#.attn.add_k_proj", "double_blocks.#.txt_attn.qkv", 1),
    ("transformer_blocks.#.attn.add_v_proj", "double_blocks.#.txt_attn.qkv", 2),
    ("transformer_blocks.#.attn.to_add_out", "double_blocks.#.txt_attn.proj", None),
    ("transformer_blocks.#.ff_context.net.0.proj", "double_blocks.#.txt_mlp.0", None),
    ("transformer_blocks.#.ff_context.net.2", "double_blocks.#.txt_mlp.2", None),
    ("transformer_blocks.#.norm1_context.linear", "double_blocks.#.txt_mod.lin", None),
    ("single_transformer_blocks.#.attn.to_q", "single_blocks.#.linear1", 0),
    ("single_transformer_blocks.#.attn.to_k", "single_blocks.#.linear1", 1),
    ("single_transformer_blocks.#.attn.to_v", "single_blocks.#.linear1", 2),
    ("single_transformer_blocks.#.proj_mlp", "single_blocks.#.linear1", 3),
    ("single_transformer_blocks.#.proj_out", "single_blocks.#.linear2", None),
    ("single_transformer_blocks.#.norm.linear", "single_blocks.#.modulation.lin", None),
)
_WAN = (
    ("blocks.#.attn1.to_q", "blocks.#.self_attn.q", None),
    ("blocks.#.attn1.to_k", "blocks.#.self_attn.k", None),
    ("blocks.#.attn1.to_v", "blocks.#.self_attn.v", None),
    ("blocks.#.attn1.to_out.0", "blocks.#.self_attn.o", None),
    ("blocks.#.attn2.to_q", "blocks.#.cross_attn.q", None),
    ("blocks.#.attn2.to_k", "blocks.#.cross_attn.k", None),
    ("blocks.#.attn2.to_v", "blocks.#.cross_attn.v", None),
    ("blocks.#.attn2.to_out.0", "blocks.#.cross_attn.o", None),
    ("blocks.#.attn2.add_k_proj", "blocks.#.cross_attn.k_img", None),
    ("blocks.#.attn2.add_v_proj", "blocks.#.cross_attn.v_img", None),
    ("blocks.#.ffn.net.0.proj", "blocks.#.ffn.0", None),
    ("blocks.#.ffn.net.2", "blocks.#.ffn.2", None),
)
_TRANSFORMERS = {
    name: {ours: (theirs, place) for ours, theirs, place in rows}
    for name, rows in (("sd3", _SD3), ("flux", _FLUX), ("wan", _WAN))
}
# Width of the joined matrix in units of the narrowest part: Flux's proj_mlp is four times to_q.
_WIDTHS = {"linear1": (1, 1, 1, 4), "qkv": (1, 1, 1)}
# Parts of a resnet in the UNet that Stability published for SDXL.
_RESNET = {
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def to_kohya(state: Mapping[str, Tensor], family: str, *, layers: int = 2) -> dict[str, Tensor]:
    """Rename, and where needed join, the matrices of one denoiser's LoRA.

    Args:
        state: {"<module>.lora_A.weight": (rank, in), "<module>.lora_B.weight": (out, rank)}, with
            diffusers' module names and alpha equal to the rank; convolutions have (h, w) behind.
        family: `adapters.families.Family.name` of the model, one of KOHYA_FAMILIES.
        layers: resnets a level of an SDXL UNet (`layers_per_block`), 2 in the published one.

    Returns:
        "lora_unet_<module>.lora_down.weight", ".lora_up.weight" and ".alpha" (scalar, the rank).

    Raises:
        KohyaError: for a family or a layer without a name over there.
    """
    if family not in KOHYA_FAMILIES:
        msg = (
            f"format: kohya's names are known for {', '.join(KOHYA_FAMILIES)}, not {family}; "
            "use --format diffusers"
        )
        raise KohyaError(msg)
    joined: dict[str, dict[int, tuple[Tensor, Tensor]]] = {}
    found: dict[str, Tensor] = {}
    for module, down, up in pairs(state):
        name, place = _renamed(module, family, layers)
        if place is None:
            found |= _entry(name, down, up)
        else:
            joined.setdefault(name, {})[place] = (down, up)
    for name, parts in joined.items():
        found |= _entry(name, *_joined(parts, _WIDTHS[name.rsplit(".", 1)[1]]))
    return found


def pairs(state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(module, downward matrix, upward matrix) of every layer, by name. KohyaError if one lacks."""
    modules = sorted({key.rsplit(".lora_", 1)[0] for key in state})
    for module in modules:
        both = [state.get(f"{module}.lora_{side}.weight") for side in "AB"]
        if both[0] is None or both[1] is None:
            msg = f"adapter: {module} has one half of its matrices only; fetch or train it again"
            raise KohyaError(msg)
        yield module, both[0], both[1]


def _entry(name: str, down: Tensor, up: Tensor) -> dict[str, Tensor]:
    flat = "lora_unet_" + name.replace(".", "_")
    return {
        f"{flat}.lora_down.weight": down.contiguous(),
        f"{flat}.lora_up.weight": up.contiguous(),
        f"{flat}.alpha": torch.tensor(float(down.shape[0])),  # scale alpha / rank = 1
    }


def _joined(
    parts: Mapping[int, tuple[Tensor, Tensor]], widths: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """One pair for a matrix whose rows are those of several layers; absent parts add nothing."""
    first = min(parts)
    unit = parts[first][1].shape[0] // widths[first]
    rows = [unit * width for width in widths]
    rank = sum(down.shape[0] for down, _ in parts.values())
    up = parts[first][1].new_zeros(sum(rows), rank)
    column = 0
    for place in sorted(parts):
        down, part = parts[place]
        row = sum(rows[:place])
        up[row : row + rows[place], column : column + down.shape[0]] = part
        column += down.shape[0]
    return torch.cat([parts[place][0] for place in sorted(parts)]), up


def _renamed(module: str, family: str, layers: int) -> tuple[str, int | None]:
    """The path of a diffusers module over there, and its place if it is part of a joined one."""
    name: str | None = module
    place = None
    if family in _TRANSFORMERS:
        number = re.search(r"\.(\d+)\.", module)
        index = number.group(1) if number else ""
        row = _TRANSFORMERS[family].get(module.replace(f".{index}.", ".#.", 1))
        name = row[0].replace("#", index) if row else None
        place = row[1] if row else None
    elif family == "sdxl":
        name = _sdxl(module, layers)
    elif "motion_modules" in module:  # AnimateDiff's own; the rest is the UNet of SD 1.5
        name = None
    if name is None:
        msg = f"format: {module} of {family} has no name in kohya's layout; use --format diffusers"
        raise KohyaError(msg)
    return name, place


def _sdxl(module: str, layers: int) -> str | None:
    """Stability's numbering: one list of down steps, one of up steps, what lies in a step behind.

    A level has `layers` steps going down and one more for halving; going up one more resnet, the
    doubling lying in the last one's step.
    """
    number = r"\.(\d+)"
    found = re.fullmatch(rf"(down|up)_blocks{number}\.(\w+?){number}\.(.+)", module)
    middle = re.fullmatch(rf"mid_block\.(resnets|attentions){number}\.(.+)", module)
    if middle:
        kind, index, rest = middle.groups()
        inside = _inside(kind, rest)
        return inside and f"middle_block.{1 if kind == 'attentions' else 2 * int(index)}.{inside}"
    if not found:
        return None
    side, level, kind, index, rest = found.groups()
    if kind == "downsamplers":
        return f"input_blocks.{(int(level) + 1) * (layers + 1)}.0.op" if rest == "conv" else None
    if kind == "upsamplers" or kind not in ("resnets", "attentions"):
        return None  # its place depends on whether attention stands before it
    inside = _inside(kind, rest)
    step = int(level) * (layers + 1) + int(index) + (1 if side == "down" else 0)
    where = f"{'input' if side == 'down' else 'output'}_blocks.{step}"
    return inside and f"{where}.{1 if kind == 'attentions' else 0}.{inside}"


def _inside(kind: str, rest: str) -> str | None:
    """Name of a layer within its resnet or its attention; the latter are named alike."""
    return _RESNET.get(rest) if kind == "resnets" else rest
