from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from safetensors.torch import load_file, save_file
from torch import nn

from adapters.emotion import CORE
from adapters.families import FamilyError
from adapters.lora import (
    LoraBank,
    LoraError,
    amounts,
    block_weights,
    lora_layers,
)
from adapters.slider_file import SliderFileError, read_metadata, write_slider
from tests.tiny import CALL, FAMILIES, generators, tiny

EMOTIONS = ("happiness", "sadness")
HAPPY, SAD = CORE.index("happiness"), CORE.index("sadness")


def denoiser_of(pipe: Any) -> tuple[str, nn.Module]:
    name = "unet" if hasattr(pipe, "unet") else "transformer"
    return name, getattr(pipe, name)


def make_sliders(pipe: Any, folder: Path, linear: bool = True, conv: bool = True) -> LoraBank:
    """Random rank-4 sliders over every attention projection and, in UNets, every resnet conv."""
    part, denoiser = denoiser_of(pipe)
    generator = torch.Generator().manual_seed(5)
    for emotion in EMOTIONS:
        state = {}
        for name, module in denoiser.named_modules():
            if (
                isinstance(module, nn.Linear)
                and linear
                and re.search(r"\.to_(q|k|v|out\.0)$", name)
            ):
                down, up = (4, module.in_features), (module.out_features, 4)
            elif isinstance(module, nn.Conv2d) and conv and re.search(r"\.conv[12]$", name):
                down, up = (4, *module.weight.shape[1:]), (module.out_channels, 4, 1, 1)
            else:
                continue
            fan_in = int(np.prod(down[1:]))
            state[f"{name}.lora_A.weight"] = torch.randn(down, generator=generator) / fan_in**0.5
            state[f"{name}.lora_B.weight"] = torch.randn(up, generator=generator) * 0.1
        write_slider(folder / f"{emotion}.safetensors", part, state, {"emotion": emotion})
    return LoraBank(folder)


def paint(pipe: Any, name: str, seeds: list[int], **changes: Any) -> torch.Tensor:
    arguments = {**CALL[name], "prompt": ["a quiet lake"] * len(seeds), **changes}
    return pipe(generator=generators(*seeds), **arguments).images


def track(*rows: dict[int, float]) -> np.ndarray:
    table = np.zeros((len(rows), len(CORE)))
    for row, values in enumerate(rows):
        for emotion, value in values.items():
            table[row, emotion] = value
    return table


def snapshot(pipe: Any) -> dict[str, Any]:
    """Everything a slider could leave behind."""
    _, denoiser = denoiser_of(pipe)
    layers = lora_layers(denoiser)
    return {
        "weights": {key: value.clone() for key, value in denoiser.state_dict().items()},
        "scaling": {name: dict(layer.scaling) for name, layer in layers.items()},
        "active": {name: list(layer.active_adapters) for name, layer in layers.items()},
        "off": {name: layer.disable_adapters for name, layer in layers.items()},
        "grads": {name: p.requires_grad for name, p in denoiser.named_parameters()},
        "hooks": [
            (len(m._forward_hooks), len(m._forward_pre_hooks), "forward" in vars(m))
            for m in denoiser.modules()
        ],
        "scheduler": sorted(set(vars(pipe.scheduler)) & {"step", "set_timesteps"}),
        "pipe": sorted(key for key, value in vars(pipe).items() if callable(value)),
    }


def assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    weights = before.pop("weights"), after.pop("weights")
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert before == after


@pytest.fixture(params=FAMILIES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


GRID = track({}, {HAPPY: 0.5}, {SAD: 1.0}, {HAPPY: 0.3, SAD: -0.6})
SEEDS = [1, 1, 1, 2]


def test_a_grid_in_one_batch_equals_separate_runs(name: str, tmp_path: Path) -> None:
    pipe = tiny(name).to(torch.float64)  # rounding of random networks would hide a wrong row
    bank = make_sliders(pipe, tmp_path)
    bank.load_into(pipe)
    with bank.steer(pipe, GRID):
        grid = paint(pipe, name, SEEDS)
    for row, seed in enumerate(SEEDS):
        with bank.steer(pipe, GRID[row : row + 1]):
            single = paint(pipe, name, [seed])
        torch.testing.assert_close(grid[row], single[0], atol=1e-5, rtol=0)
    plain = paint(pipe, name, SEEDS)
    changed = (grid - plain).abs().amax(dim=(1, 2, 3))
    assert changed[0] < 1e-9
    assert (changed[1:] > 1e-3).all()
    assert (grid[1] - grid[2]).abs().max() > 1e-3


def test_single_precision_grid_too(tmp_path: Path) -> None:
    pipe = tiny("sd15")
    bank = make_sliders(pipe, tmp_path)
    bank.load_into(pipe)
    with bank.steer(pipe, GRID):
        grid = paint(pipe, "sd15", SEEDS)
    for row, seed in enumerate(SEEDS):
        with bank.steer(pipe, GRID[row]):
            single = paint(pipe, "sd15", [seed])
        torch.testing.assert_close(grid[row], single[0], atol=1e-5, rtol=0)


def test_loaded_zero_and_unloaded_are_the_plain_model(name: str, tmp_path: Path) -> None:
    pipe = tiny(name)
    clean = snapshot(pipe)
    plain = paint(pipe, name, [1, 2])
    bank = make_sliders(pipe, tmp_path)
    bank.load_into(pipe)
    bank.load_into(pipe)
    assert torch.equal(paint(pipe, name, [1, 2]), plain)
    with bank.steer(pipe, GRID[:2], strength=0.0):
        assert torch.equal(paint(pipe, name, [1, 2]), plain)
    with bank.steer(pipe, np.zeros((2, 12))):
        assert torch.equal(paint(pipe, name, [1, 2]), plain)
    bank.unload(pipe)
    assert_same(clean, snapshot(pipe))
    assert torch.equal(paint(pipe, name, [1, 2]), plain)


@pytest.mark.parametrize("family_name", ["sd15", "z-image"])
def test_repeats_without_guidance_and_equal_seeds_are_told_from_doubling(
    family_name: str, tmp_path: Path
) -> None:
    pipe = tiny(family_name).to(torch.float64)
    bank = make_sliders(pipe, tmp_path)
    bank.load_into(pipe)
    rows = track({SAD: 1.0}, {HAPPY: 1.0})
    for scale in (0.0, 3.0):
        with bank.steer(pipe, rows):
            four = paint(
                pipe, family_name, [4, 4, 4, 4], prompt=["a quiet lake"] * 2,
                num_images_per_prompt=2, guidance_scale=scale,
            )  # fmt: skip
        for row in range(2):
            with bank.steer(pipe, rows[row]):
                one = paint(pipe, family_name, [4], guidance_scale=scale)
            for image in four[2 * row : 2 * row + 2]:
                torch.testing.assert_close(image, one[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("linear", "conv"), [(True, False), (False, True)])
def test_linear_and_conv_layers_each_follow_the_weight(
    linear: bool, conv: bool, tmp_path: Path
) -> None:
    pipe = tiny("sd15")
    bank = make_sliders(pipe, tmp_path, linear, conv)
    bank.load_into(pipe)
    plain = paint(pipe, "sd15", [1, 1, 1])
    with bank.steer(pipe, track({}, {SAD: 0.1}, {SAD: 0.9})):
        moved = (paint(pipe, "sd15", [1, 1, 1]) - plain).abs().mean(dim=(1, 2, 3))
    assert moved[0] == 0
    assert moved[2] > 2 * moved[1] > 0


@pytest.mark.parametrize("family_name", ["sd15", "z-image", "qwen-image"])
def test_conditional_branch_alone(family_name: str, tmp_path: Path) -> None:
    pipe = tiny(family_name)
    bank = make_sliders(pipe, tmp_path)
    bank.load_into(pipe)
    outputs: list[list[torch.Tensor]] = []
    _, denoiser = denoiser_of(pipe)
    denoiser.register_forward_hook(
        lambda module, args, output: outputs[-1].extend(torch.stack(list(output[0])).unbind())
    )

    def first_step(**options: Any) -> list[torch.Tensor]:
        outputs.append([])
        with bank.steer(pipe, track({SAD: 1.0}), **options):
            paint(pipe, family_name, [1], num_inference_steps=1)
        return outputs[-1]

    plain, cond, both = first_step(strength=0.0), first_step(branch="cond"), first_step()
    assert len(plain) == 2
    conditional = 1 if family_name == "sd15" else 0  # SD puts it last, the others first
    torch.testing.assert_close(cond[1 - conditional], plain[1 - conditional], atol=1e-6, rtol=0)
    assert not torch.allclose(both[1 - conditional], plain[1 - conditional], atol=1e-3)
    torch.testing.assert_close(cond[conditional], both[conditional], atol=1e-5, rtol=0)


def test_start_keeps_the_first_steps_plain_in_every_run(tmp_path: Path) -> None:
    pipe = tiny("sd15")
    bank = make_sliders(pipe, tmp_path)
    bank.load_into(pipe)
    seen: list[torch.Tensor] = []

    def keep(_: Any, index: int, t: Any, values: dict[str, Any]) -> dict[str, Any]:
        seen.append(values["latents"].clone())
        return values

    arguments = {"num_inference_steps": 4, "callback_on_step_end": keep}
    paint(pipe, "sd15", [1], **arguments)
    with bank.steer(pipe, track({SAD: 1.0}), start=0.5):
        paint(pipe, "sd15", [1], **arguments)
        paint(pipe, "sd15", [1], **arguments)
    for run in (seen[4:8], seen[8:12]):
        assert torch.allclose(run[1], seen[1], atol=1e-6)
        assert not torch.allclose(run[2], seen[2], atol=1e-3)


def test_blocks_are_matched_by_exact_name_unlike_diffusers(tmp_path: Path) -> None:
    from diffusers import FluxTransformer2DModel

    pipe = tiny("flux")
    config = {**pipe.transformer.config, "num_layers": 2, "num_single_layers": 11}
    pipe.transformer = FluxTransformer2DModel.from_config(config).eval()
    bank = make_sliders(pipe, tmp_path)
    bank.load_into(pipe)
    layers = lora_layers(pipe.transformer)

    # The trap: diffusers zeroes blocks 1 AND 10, and Flux's single block 1 with them.
    adapter = next(iter(pipe.transformer.peft_config))
    kept = {n: list(m.active_adapters) for n, m in layers.items()}
    pipe.transformer.set_adapters([adapter], [{"transformer_blocks.1": 0.0}])
    hit = {name.rsplit(".attn", 1)[0] for name, m in layers.items() if m.scaling[adapter] == 0}
    assert hit == {"transformer_blocks.1", "single_transformer_blocks.1",
                   "single_transformer_blocks.10"}  # fmt: skip
    pipe.transformer.set_adapters([adapter], [1.0])
    for name, layer in layers.items():
        layer.set_adapter(kept[name], inference_mode=True)

    weights = block_weights(list(layers), {"transformer_blocks.1": 0.0})
    ours = {name.rsplit(".attn", 1)[0] for name, weight in weights.items() if weight == 0}
    assert ours == {"transformer_blocks.1"}

    # What the model computes: the same as with that one block's matrices set to zero.
    with bank.steer(pipe, track({HAPPY: 1.0}), blocks={"single_transformer_blocks.1": 0.0}):
        steered = paint(pipe, "flux", [1])
    with bank.steer(pipe, track({HAPPY: 1.0})):
        full = paint(pipe, "flux", [1])
        for name, layer in layers.items():
            if name.startswith("single_transformer_blocks.1."):
                layer.lora_B[adapter].weight.data.zero_()
        expected = paint(pipe, "flux", [1])
    torch.testing.assert_close(steered, expected, atol=1e-6, rtol=0)
    assert (full - expected).abs().max() > 1e-5


def test_nearer_block_names_win_and_unknown_ones_are_refused() -> None:
    names = ["mid.attn.to_q", "up.1.attn.to_q", "up.10.attn.to_q"]
    weights = block_weights(names, {"up": 0.5, "up.1": 2.0, "mid.attn.to_q": 0.0})
    assert weights == {"mid.attn.to_q": 0.0, "up.1.attn.to_q": 2.0, "up.10.attn.to_q": 0.5}
    with pytest.raises(LoraError, match=r"'up\.2'.*up\.1"):
        block_weights(names, {"up.2": 1.0})
    with pytest.raises(LoraError, match="'to_q'"):
        block_weights(names, {"to_q": 1.0})


def test_nothing_is_left_after_success_error_and_closed_generator(tmp_path: Path) -> None:
    pipe = tiny("sd15")
    bank = make_sliders(pipe, tmp_path)
    bank.load_into(pipe)
    before = snapshot(pipe)

    with bank.steer(pipe, GRID[:2], start=0.2):
        paint(pipe, "sd15", [1, 2])
        assert snapshot(pipe)["hooks"] != before["hooks"]
    assert_same(snapshot(pipe), dict(before))

    def fail(*_: Any) -> Any:
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"), bank.steer(pipe, GRID[:2], start=0.2):
        paint(pipe, "sd15", [1, 2], callback_on_step_end=fail)
    assert_same(snapshot(pipe), dict(before))

    handle = pipe.unet.mid_block.register_forward_hook(fail)  # in the middle of a layer stack
    with pytest.raises(RuntimeError, match="stop"), bank.steer(pipe, GRID[:2]):
        paint(pipe, "sd15", [1, 2])
    handle.remove()
    assert_same(snapshot(pipe), dict(before))

    def generate() -> Iterator[torch.Tensor]:
        with bank.steer(pipe, GRID[:2], start=0.2):
            yield paint(pipe, "sd15", [1, 2])
            yield paint(pipe, "sd15", [3, 4])

    run = generate()
    next(run)
    run.close()
    assert_same(snapshot(pipe), dict(before))

    with pytest.raises(LoraError), bank.steer(pipe, GRID[:2], blocks={"nowhere": 1.0}):
        pass
    assert_same(snapshot(pipe), dict(before))


def test_an_adapter_of_the_user_keeps_its_place(tmp_path: Path) -> None:
    pipe = tiny("sd15")
    bank = make_sliders(pipe, tmp_path)
    style = tmp_path / "style"
    make_sliders(pipe, style)
    pipe.load_lora_weights(style / "happiness.safetensors", adapter_name="style")
    pipe.set_adapters(["style"], [0.7])
    before = snapshot(pipe)
    styled = paint(pipe, "sd15", [1])
    bank.load_into(pipe)
    assert torch.equal(paint(pipe, "sd15", [1]), styled)
    with bank.steer(pipe, track({SAD: 0.8})):
        both = paint(pipe, "sd15", [1])
    pipe.set_adapters(["style", "affect_sadness"], [0.7, 0.8])
    torch.testing.assert_close(paint(pipe, "sd15", [1]), both, atol=1e-5, rtol=0)
    assert (both - styled).abs().max() > 1e-3
    pipe.set_adapters(["style"], [0.7])
    assert torch.equal(paint(pipe, "sd15", [1]), styled)
    # Switched off by the user: ours alone acts, and theirs stays off.
    pipe.disable_lora()
    plain = paint(pipe, "sd15", [1])
    with bank.steer(pipe, track({SAD: 0.8})):
        alone = paint(pipe, "sd15", [1])
    assert (alone - both).abs().max() > 1e-3
    assert torch.equal(paint(pipe, "sd15", [1]), plain)
    pipe.enable_lora()
    pipe.set_adapters(["style"], [0.7])
    bank.unload(pipe)
    assert_same(snapshot(pipe), before)


def test_the_file_is_an_ordinary_diffusers_lora(tmp_path: Path) -> None:
    pipe = tiny("sd15")
    bank = make_sliders(pipe, tmp_path)
    bank.load_into(pipe)
    with bank.steer(pipe, track({SAD: 1.0})):
        ours = paint(pipe, "sd15", [1])
    bank.unload(pipe)
    assert read_metadata(tmp_path / "sadness.safetensors") == {"emotion": "sadness"}
    pipe.load_lora_weights(tmp_path / "sadness.safetensors")
    torch.testing.assert_close(paint(pipe, "sd15", [1]), ours, atol=1e-5, rtol=0)
    pipe.unload_lora_weights()
    assert (paint(pipe, "sd15", [1]) - ours).abs().max() > 1e-3
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".tmp")]


def test_half_precision_stays_half(tmp_path: Path) -> None:
    pipe = tiny("sd15").to(torch.bfloat16)
    bank = make_sliders(pipe, tmp_path)
    bank.load_into(pipe)
    pipe.unet.to(torch.bfloat16)
    seen = set()
    pipe.unet.mid_block.register_forward_hook(lambda m, a, output: seen.add(output.dtype))
    with bank.steer(pipe, track({SAD: 1.0}, {HAPPY: 0.5})):
        paint(pipe, "sd15", [1, 2])
    assert seen == {torch.bfloat16}


def test_gains_bend_the_weights_and_keep_the_sign() -> None:
    rows = track({HAPPY: 0.5, SAD: 0.2}, {HAPPY: -0.5})
    bent = amounts(rows, 2.0, {"happiness": lambda a: a**2})
    assert bent[0, HAPPY] == pytest.approx(0.5)
    assert bent[0, SAD] == pytest.approx(0.4)
    assert bent[1, HAPPY] == pytest.approx(-0.5)
    assert rows[0, HAPPY] == 0.5


def test_one_line_errors(tmp_path: Path) -> None:
    pipe = tiny("sd15")
    with pytest.raises(LoraError, match=r"no <emotion>\.safetensors"):
        LoraBank(tmp_path)
    with pytest.raises(LoraError, match="'joy' is not a core emotion"):
        LoraBank({"joy": tmp_path / "joy.safetensors"})
    bank = make_sliders(pipe, tmp_path)
    with pytest.raises(LoraError, match="load_into"), bank.steer(pipe, track({SAD: 1.0})):
        pass
    bank.load_into(pipe)
    afraid = track({CORE.index("fear"): 1.0})
    expected = r"no slider for fear; .* happiness, sadness"
    with pytest.raises(LoraError, match=expected), bank.steer(pipe, afraid):
        pass
    assert not bank.mask(afraid).any()
    with pytest.raises(LoraError, match=r"expected shape \(B, 12\)"), bank.steer(pipe, [[1.0]]):
        pass
    with pytest.raises(LoraError, match="finite"), bank.steer(pipe, track({SAD: np.nan})):
        pass
    expected = "3 rows do not fit a batch of 2"
    with pytest.raises(LoraError, match=expected), bank.steer(pipe, GRID[:3]):
        paint(pipe, "sd15", [1, 2], guidance_scale=1.0)
    pipe.fuse_lora(adapter_names=["affect_sadness"])
    with pytest.raises(LoraError, match="unfuse_lora"), bank.steer(pipe, track({SAD: 1.0})):
        pass


def test_files_that_do_not_fit_leave_nothing_behind(tmp_path: Path) -> None:
    pipe = tiny("sd15")
    clean = snapshot(pipe)
    good = make_sliders(pipe, tmp_path).files["happiness"]
    odd = tmp_path / "odd.safetensors"
    state = load_file(good)
    cases = {
        "expected plain LoRA keys": {"text_model.x.lora_A.weight": torch.ones(4, 4)},
        "for another model": {"unet.nowhere.lora_A.weight": torch.ones(4, 4)},
        "does not fit": {key: torch.ones(3, 7) for key in state},
    }
    for message, content in cases.items():
        save_file(content, odd)
        with pytest.raises(SliderFileError, match=message):
            LoraBank({"happiness": good, "sadness": odd}).load_into(pipe)
        assert_same(snapshot(pipe), dict(clean))
    odd.write_bytes(b"not safetensors")
    with pytest.raises(SliderFileError, match="cannot be read"):
        LoraBank({"happiness": good, "sadness": odd}).load_into(pipe)
    pickled = tmp_path / "sadness.pt"
    pickled.write_bytes(b"\x80\x04")
    with pytest.raises(SliderFileError, match="may run code"):
        LoraBank({"sadness": pickled}).load_into(pipe)
    assert_same(snapshot(pipe), clean)


def test_a_pipeline_without_text_is_refused() -> None:
    from diffusers import DDIMPipeline, UNet2DModel

    unet = UNet2DModel(
        sample_size=8, block_out_channels=(8, 8), norm_num_groups=4, layers_per_block=1,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    )  # fmt: skip
    pipe = DDIMPipeline(unet, DDIMScheduler())
    with pytest.raises(FamilyError, match="DDIMPipeline"):
        LoraBank({"sadness": "sadness.safetensors"}).load_into(pipe)
