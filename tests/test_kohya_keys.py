"""Adapters under kohya's names: read back by diffusers' own converters, they paint the same.

Where diffusers has a reader of kohya's LoRA files (SD, SDXL, Flux, Wan) the file goes through that;
where it has none (SD3) the change of weights goes through its reader of the publisher's own
checkpoints, whose names are the ones ComfyUI and WebUI look for.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel, StableDiffusionXLPipeline
from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers
from safetensors.torch import save_file
from torch import Tensor, nn

from adapters.kohya_keys import KohyaError, to_kohya
from tests.tiny import CALL, generators, tiny
from tests.tiny_video import film, tiny_video

ATTENTION = r"\.to_(q|k|v|out\.0)$"


def random_lora(
    denoiser: nn.Module, pattern: str = ATTENTION, ranks: tuple[int, ...] = (4,)
) -> dict[str, Tensor]:
    """Random matrices for every layer whose name fits; ranks take turns."""
    generator = torch.Generator().manual_seed(5)
    state, count = {}, 0
    for name, module in denoiser.named_modules():
        if not re.search(pattern, name) or not isinstance(module, nn.Linear | nn.Conv2d):
            continue
        rank = ranks[count % len(ranks)]
        count += 1
        weight = module.weight
        down = torch.randn((rank, *weight.shape[1:]), generator=generator)
        up = torch.randn((len(weight), rank, *(1,) * (weight.ndim - 2)), generator=generator)
        state[f"{name}.lora_A.weight"] = down / weight[0].numel() ** 0.5
        state[f"{name}.lora_B.weight"] = up * 0.1
    assert state
    return state


def paint(pipe: Any, name: str) -> Tensor:
    arguments = {**CALL[name], "prompt": "a quiet lake"}
    return pipe(generator=generators(1), **arguments).images


def through_both(pipe: Any, part: str, state: dict[str, Tensor], kohya: Any, show: Callable) -> Any:
    """Plain, with diffusers' file, with what `kohya` (a file or a state) is read as."""
    plain = show()
    pipe.load_lora_weights({f"{part}.{key}": value for key, value in state.items()})
    ours = show()
    pipe.unload_lora_weights()
    pipe.load_lora_weights(kohya)
    theirs = show()
    pipe.unload_lora_weights()
    assert (plain - ours).abs().max() > 1e-3
    torch.testing.assert_close(theirs, ours, atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_unets_paint_the_same(name: str, tmp_path: Path) -> None:
    pipe = tiny(name)
    state = random_lora(pipe.unet, rf"{ATTENTION}|\.conv[12]$|\.ff\.net\.|proj_in$|proj_out$")
    found = to_kohya(state, name, layers=1)
    assert {key.split(".")[1] for key in found} == {"lora_down", "lora_up", "alpha"}
    save_file(found, tmp_path / "kohya.safetensors")
    show = lambda: paint(pipe, name)  # noqa: E731
    through_both(pipe, "unet", state, tmp_path / "kohya.safetensors", show)


def test_sdxl_has_the_numbers_of_the_published_unet() -> None:
    """Two resnets a level, as in the real one: known names, and diffusers reads all of them."""
    state = {}
    for module in (
        "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
        "down_blocks.2.attentions.1.transformer_blocks.9.attn2.to_out.0",
        "mid_block.attentions.0.transformer_blocks.3.attn1.to_k",
        "mid_block.resnets.1.conv2",
        "up_blocks.0.attentions.2.transformer_blocks.0.attn2.to_v",
        "up_blocks.1.resnets.0.conv1",
        "down_blocks.0.downsamplers.0.conv",
    ):
        state[f"{module}.lora_A.weight"] = torch.full((2, 3), float(len(state)))
        state[f"{module}.lora_B.weight"] = torch.full((3, 2), float(len(state)))
    found = to_kohya(state, "sdxl")
    assert {key.split(".")[0] for key in found} == {
        "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q",
        "lora_unet_input_blocks_8_1_transformer_blocks_9_attn2_to_out_0",
        "lora_unet_middle_block_1_transformer_blocks_3_attn1_to_k",
        "lora_unet_middle_block_2_out_layers_3",
        "lora_unet_output_blocks_2_1_transformer_blocks_0_attn2_to_v",
        "lora_unet_output_blocks_3_0_in_layers_2",
        "lora_unet_input_blocks_3_0_op",
    }
    config = tiny("sdxl").unet.config
    config = type(config)({**config, "layers_per_block": 2})
    config.layers_per_block = 2
    back, _ = StableDiffusionXLPipeline.lora_state_dict(found, unet_config=config)
    names = {"processor.to_out_lora": "to_out.0", "processor.": "", "_lora": "", ".lora": ""}
    for key, value in back.items():
        module = key.removeprefix("unet.").removesuffix(".weight")
        module, side = module.rsplit(".", 1)
        for old, new in names.items():
            module = module.replace(old, new)
        assert torch.equal(value, state[f"{module}.lora_{'A' if side == 'down' else 'B'}.weight"])
    assert len(back) == len(state)


class Checkpoint(dict):
    """A publisher's checkpoint in which every weight that is asked for and missing is zero."""

    def pop(self, key: str, *default: Any) -> Any:
        if key in self or default:
            return super().pop(key, *default)
        return torch.zeros(6, 6)

    def __missing__(self, key: str) -> Tensor:
        return torch.zeros(6, 6)


def test_sd3_changes_the_weights_of_the_published_layers() -> None:
    pipe = tiny("sd3")
    mlp = r"\.(ff|ff_context)\.net\.(0\.proj|2)$"
    state = random_lora(pipe.transformer, rf"{ATTENTION}|\.(add_[qkv]_proj|to_add_out)$|{mlp}")
    plain = paint(pipe, "sd3")
    pipe.load_lora_weights({f"transformer.{key}": value for key, value in state.items()})
    ours = paint(pipe, "sd3")
    pipe.unload_lora_weights()
    assert (plain - ours).abs().max() > 1e-3

    found = to_kohya(state, "sd3")
    changes = Checkpoint()
    for key in [key for key in found if key.endswith(".alpha")]:
        flat = key.removesuffix(".alpha")
        down, up = found[f"{flat}.lora_down.weight"], found[f"{flat}.lora_up.weight"]
        name = re.sub(
            r"^lora_unet_joint_blocks_(\d+)_(x|context)_block_", r"joint_blocks.\1.\2_block.", flat
        )
        name = re.sub(r"(attn2?|mlp)_(\w+)$", r"\1.\2", name)
        changes[f"{name}.weight"] = found[key] / len(down) * up @ down
    converted = convert_sd3_transformer_checkpoint_to_diffusers(changes)
    with torch.no_grad():
        touched = 0
        for name, parameter in pipe.transformer.named_parameters():
            change = converted.get(name)
            if change is not None and change.abs().max() > 0:
                parameter += change
                touched += 1
    assert touched == len(state) // 2, "every layer of the adapter, and no other"
    torch.testing.assert_close(paint(pipe, "sd3"), ours, atol=2e-5, rtol=0)


@pytest.mark.parametrize("ranks", [(4,), (2, 3, 4)])
def test_flux_double_blocks_paint_the_same(ranks: tuple[int, ...], tmp_path: Path) -> None:
    pipe = tiny("flux")
    more = r"^transformer_blocks.*(add_[qkv]_proj|to_add_out|norm1.linear|ff\.net\.2)$"
    state = random_lora(pipe.transformer, rf"^transformer_blocks.*{ATTENTION}|{more}", ranks)
    found = to_kohya(state, "flux")
    save_file(found, tmp_path / "kohya.safetensors")
    show = lambda: paint(pipe, "flux")  # noqa: E731
    through_both(pipe, "transformer", state, tmp_path / "kohya.safetensors", show)


@pytest.mark.parametrize(
    "keep", [("to_q", "to_k", "to_v", "proj_mlp", "proj_out"), ("to_q", "to_v")]
)
def test_flux_single_blocks_change_the_same_rows(keep: tuple[str, ...]) -> None:
    """At the real width, which diffusers' reader takes for granted; no model of that size."""
    with torch.device("meta"):
        model = FluxTransformer2DModel(
            in_channels=64, num_layers=0, num_single_layers=1, attention_head_dim=128,
            num_attention_heads=24, joint_attention_dim=64, pooled_projection_dim=32,
        )  # fmt: skip
    state = random_lora(model, rf"single_transformer_blocks.*({'|'.join(keep)})$", (2,))
    found = to_kohya(state, "flux")
    back = FluxPipeline.lora_state_dict(dict(found))
    x = {n: torch.randn(1, n, generator=torch.Generator().manual_seed(1)) for n in (3072, 15360)}
    for module in {key.rsplit(".lora_", 1)[0] for key in back}:
        down, up = (back[f"{module}.lora_{side}.weight"] for side in "AB")
        got = x[down.shape[1]] @ down.T @ up.T
        ours = [state.get(f"{module.removeprefix('transformer.')}.lora_{s}.weight") for s in "AB"]
        if ours[0] is None:
            assert got.abs().max() == 0, module
        else:
            torch.testing.assert_close(got, x[down.shape[1]] @ ours[0].T @ ours[1].T)
    assert {key.rsplit(".lora_", 1)[0] for key in state} <= {
        key.removeprefix("transformer.").rsplit(".lora_", 1)[0] for key in back
    }


def test_wan_films_are_the_same(tmp_path: Path) -> None:
    pipe = tiny_video("wan21")
    # diffusers' reader of musubi-tuner's files wants all ten layers of a block.
    state = random_lora(pipe.transformer, rf"^blocks.*({ATTENTION}|\.ffn\.net\.(0\.proj|2)$)")
    found = to_kohya(state, "wan")
    assert "lora_unet_blocks_0_cross_attn_o.lora_up.weight" in found
    save_file(found, tmp_path / "kohya.safetensors")
    show = lambda: film(pipe, "wan21")  # noqa: E731
    through_both(pipe, "transformer", state, tmp_path / "kohya.safetensors", show)
    some = {key: value for key, value in state.items() if "attn" in key}
    assert to_kohya(some, "wan").keys() < found.keys(), "a slider's names do not depend on the rest"


def test_qwen_image_paints_the_same(tmp_path: Path) -> None:
    pipe = tiny("qwen-image")
    state = random_lora(pipe.transformer)
    save_file(to_kohya(state, "qwen-image"), tmp_path / "kohya.safetensors")
    show = lambda: paint(pipe, "qwen-image")  # noqa: E731
    through_both(pipe, "transformer", state, tmp_path / "kohya.safetensors", show)


@pytest.mark.parametrize(
    ("family", "module", "words"),
    [
        ("z-image", "layers.0.attention.to_q", "known for sd15"),
        ("sd3", "norm_out.linear", "norm_out.linear of sd3 has no name"),
        ("sdxl", "up_blocks.0.upsamplers.0.conv", "has no name"),
        ("animatediff", "down_blocks.0.motion_modules.0.x.to_q", "has no name"),
    ],
)
def test_what_has_no_name_is_refused(family: str, module: str, words: str) -> None:
    state = {f"{module}.lora_{side}.weight": torch.ones(2, 2) for side in "AB"}
    with pytest.raises(KohyaError, match=words) as error:
        to_kohya(state, family)
    assert "--format diffusers" in str(error.value)
    assert "\n" not in str(error.value)


def test_half_an_adapter_is_refused() -> None:
    with pytest.raises(KohyaError, match="one half"):
        to_kohya({"blocks.0.attn1.to_q.lora_A.weight": torch.ones(2, 2)}, "wan")
