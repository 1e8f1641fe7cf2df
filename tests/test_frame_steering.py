"""Steering over frames on tiny instances of the real classes: exact per frame and per region.

The strongest check takes the mixing of frames away (motion modules, self-attention): then a frame
of a ramp must be the frame of a constant film at that value, and a cell of a region that of a film
which is all region.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.stats import spearmanr
from torch import Tensor, nn

from adapters.content import pairs
from adapters.directions import DirectionBank, DirectionError
from adapters.emotion import CORE
from adapters.frame_steering import steer_frames
from adapters.frames import FrameError, FrameTrack, frame_count, region_mask
from adapters.lora import LoraBank, LoraError, denoisers_of, lora_layers
from adapters.slider_file import write_slider
from tests.tiny_video import CALL, FAMILIES, FRAMES, LATENT, film, tiny_video

SAD, FEAR = CORE.index("sadness"), CORE.index("fear")
RAMP = np.linspace(0, 1, 6)


def track(values: Any, emotion: int = SAD, regions: Any = ()) -> FrameTrack:
    """(6,) intensities of one emotion over the latent frames; regions: (mask, values) each."""
    table = np.zeros((LATENT["wan21"], len(CORE)))
    table[:, emotion] = values
    rest = np.zeros((len(table), 3))
    inner = []
    for mask, own in regions:
        there = np.zeros_like(table)
        there[:, emotion] = own
        inner.append((mask, there, rest))
    return FrameTrack(table, rest, tuple(inner))


def pipe(family: str, mixing: bool = True) -> Any:
    """mixing: whether frames see each other, and in a sequence of tokens also cells."""
    return _pipe(family, mixing)


@cache
def _pipe(family: str, mixing: bool) -> Any:
    made = tiny_video(family)
    with torch.no_grad():
        for part in denoisers_of(made).values():
            for name, parameter in part.named_parameters():
                motion = "motion_modules" in name and ".proj_out." in name
                attention = re.search(r"blocks\.\d+\.attn1\.to_out", name) and "motion" not in name
                if motion:  # of a trained adapter, which adds a little: random ones drown all else
                    parameter.mul_(0.1 if mixing else 0.0)
                elif attention and not mixing and not family.startswith("animatediff"):
                    parameter.zero_()
    return made


@cache
def bank(family: str) -> DirectionBank:
    few = {name: pairs(name, "rich")[:1] for name in CORE}
    options = {k: v for k, v in CALL[family].items() if k == "max_sequence_length"}
    return DirectionBank.fit(pipe(family), few, components=0, batch_size=24, **options)


def random_slider(part: str, denoiser: nn.Module, path: Path, pattern: str) -> None:
    generator = torch.Generator().manual_seed(5)
    state = {}
    for name, module in denoiser.named_modules():
        if not re.search(pattern, name) or not isinstance(
            module, nn.Linear | nn.Conv2d | nn.Conv3d
        ):
            continue
        size = (module.weight.shape[1:], module.weight.shape[0])
        down = torch.randn(4, *size[0], generator=generator)
        up = torch.randn(size[1], 4, *(1,) * (module.weight.ndim - 2), generator=generator)
        state[f"{name}.lora_A.weight"] = down / down[0].numel() ** 0.5
        state[f"{name}.lora_B.weight"] = up * 0.1
    write_slider(path, part, state, {})


# Everything that sees single frames: attention to the picture and to text, feed-forward,
# convolutions (also those that halve the picture), projections of text and of patches. Outputs of
# attention among all frames are left out, so that `mixing` stays off where it is.
FRAME_LAYERS = (
    r"^(?!.*motion_modules).*(attn[12]\.(to_q|to_k|to_v)|attn2\.to_out\.0|\.ffn?\.net\.(0\.proj|2)"
    r"|attentions\..*attn1\.to_out\.0|\.conv[12]?|time_emb_proj|patch_embedding|proj_in|proj_out"
    r"|text_embedder\.linear_[12]|caption_projection\.linear_[12])$"
)


@cache
def sliders(family: str) -> LoraBank:
    """A slider of sadness, inactive in both pipelines of this family from here on."""
    part, denoiser = next(iter(denoisers_of(pipe(family)).items()))
    with TemporaryDirectory() as folder:
        random_slider(part, denoiser, Path(folder) / "sadness.safetensors", FRAME_LAYERS)
        bank = LoraBank(folder)
        for mixing in (True, False):
            bank.load_into(pipe(family, mixing))
    return bank


@pytest.fixture
def family(request: pytest.FixtureRequest) -> str:
    return request.param


every_family = pytest.mark.parametrize("family", FAMILIES, indirect=True)
every_layout = pytest.mark.parametrize("family", ["animatediff", "wan21", "ltx"], indirect=True)


@pytest.fixture
def slid(family: str) -> LoraBank:
    return sliders(family)


def steered(
    family: str, frames: FrameTrack, mixing: bool = True, which: Any = None, **options: Any
) -> Tensor:
    call = options.pop("call", {})
    which = which or pipe(family, mixing)
    size = {name: CALL[family][name] for name in ("height", "width")}
    with steer_frames(which, frames, num_frames=FRAMES[family], **size, **options):
        return film(which, family, **call)


def change(one: Tensor, other: Tensor) -> Tensor:
    """(T,) mean difference of each latent frame."""
    return (one - other).abs().mean(dim=(1, 2, 3))


def given(family: str) -> int:
    """Latent frames that an image-to-video model is given and cannot change."""
    return int(family == "ltx-i2v")


def snapshot(which: Any) -> dict[str, Any]:
    """Everything that steering could leave behind."""
    found: dict[str, Any] = {"pipe": sorted(k for k, v in vars(which).items() if callable(v))}
    found["scheduler"] = sorted(k for k, v in vars(which.scheduler).items() if callable(v))
    for part, denoiser in denoisers_of(which).items():
        layers = lora_layers(denoiser)
        found[part] = [
            {n: dict(layer.scaling) for n, layer in layers.items()},
            {n: list(layer.active_adapters) for n, layer in layers.items()},
            {n: p.requires_grad for n, p in denoiser.named_parameters()},
            [
                (len(m._forward_hooks), len(m._forward_pre_hooks), "forward" in vars(m))
                for m in denoiser.modules()
            ],
        ]
    return found


# A ramp -------------------------------------------------------------------------------------------


@every_family
def test_the_change_of_each_frame_follows_a_ramp_of_directions(family: str) -> None:
    plain = film(pipe(family), family)
    moved = change(steered(family, track(RAMP), directions=bank(family)), plain)
    assert spearmanr(moved, RAMP)[0] > 0.9
    assert moved[0] < 0.3 * moved[-1]


@every_layout
def test_the_change_of_each_frame_follows_a_ramp_of_sliders(family: str, slid: LoraBank) -> None:
    plain = film(pipe(family), family)
    moved = change(steered(family, track(RAMP), sliders=slid), plain)
    first = given(family)
    assert spearmanr(moved[first:], RAMP[first:])[0] > 0.9
    assert moved[0] < 0.5 * moved[-1]


@every_layout
def test_frames_that_do_not_mix_are_those_of_constant_films(family: str, slid: LoraBank) -> None:
    """Exact: directions and sliders of a frame are those of a film that is all this frame's."""
    both = {"directions": bank(family), "sliders": slid, "strength": 0.8, "mixing": False}
    ramp = steered(family, track(RAMP), **both)
    for frame in (0, 2, 5):
        constant = steered(family, track(RAMP[frame]), **both)
        torch.testing.assert_close(ramp[frame], constant[frame], atol=2e-5, rtol=0)
    plain = film(pipe(family, False), family)
    torch.testing.assert_close(ramp[0], plain[0], atol=2e-5, rtol=0)
    assert change(ramp, plain)[-1] > 1e-3


# The scalar path ----------------------------------------------------------------------------------


@every_family
def test_a_constant_track_is_the_scalar_path(family: str, slid: LoraBank) -> None:
    which, one = pipe(family), np.eye(len(CORE))[SAD] * 0.7
    # A hair of change in the last frame, or the weights would be one float and no tensor.
    nearly = track(np.where(RAMP == 1, 0.7 + 1e-6, 0.7))
    with bank(family).steer(which, one, 0.9):
        wanted = film(which, family)
    found = steered(family, nearly, directions=bank(family), strength=0.9)
    torch.testing.assert_close(found, wanted, atol=2e-5, rtol=0)
    with slid.steer(which, one, 0.9):
        wanted = film(which, family)
    found = steered(family, nearly, sliders=slid, strength=0.9)
    torch.testing.assert_close(found, wanted, atol=2e-5, rtol=0)
    gained = steered(
        family, track(0.35), sliders=slid, strength=0.9, gains={"sadness": lambda a: 2 * a}
    )
    torch.testing.assert_close(gained, wanted, atol=2e-5, rtol=0)


@every_layout
def test_strength_zero_and_neutral_tracks_are_the_plain_pipeline(
    family: str, slid: LoraBank
) -> None:
    both = {"directions": bank(family), "sliders": slid}
    plain = film(pipe(family), family)
    assert torch.equal(steered(family, track(RAMP), **both, strength=0.0), plain)
    assert torch.equal(steered(family, track(0.0), **both), plain)
    everywhere = np.ones((8, 8), dtype=np.float32)
    quiet = track(0.0, regions=[(everywhere, np.zeros(6))])
    assert torch.equal(steered(family, quiet, **both), plain)


# Regions ------------------------------------------------------------------------------------------


@every_layout
def test_a_region_leaves_the_rest_nearly_alone(family: str, slid: LoraBank) -> None:
    mask = region_mask("left", CALL[family]["height"], CALL[family]["width"])
    half = track(0.0, regions=[(mask, np.ones(6))])
    plain = film(pipe(family), family)
    for options in ({"directions": bank(family)}, {"sliders": slid}):
        moved = (steered(family, half, **options) - plain).abs().mean(dim=(0, 1, 2))
        width = len(moved)
        # A UNet's convolutions reach further than half of 8 cells; transformers mix little.
        limit = 0.7 if family.startswith("animatediff") else 0.35
        assert moved[-width // 4 :].mean() < limit * moved[: width // 4].mean()


@every_layout
def test_cells_that_do_not_mix_are_those_of_films_that_are_all_region(
    family: str, slid: LoraBank
) -> None:
    both = {"directions": bank(family), "sliders": slid, "mixing": False}
    mask = np.zeros((16, 16), dtype=np.float32)
    mask[:, :8] = 1
    if family.startswith("animatediff"):
        mask[:] = 1  # convolutions mix cells: the region is the whole picture
    found = steered(family, track(RAMP, regions=[(mask, RAMP[::-1])]), **both)
    outside, inside = (
        steered(family, track(RAMP), **both),
        steered(family, track(RAMP[::-1]), **both),
    )
    cells = found.shape[-1] // 2
    torch.testing.assert_close(found[..., :cells], inside[..., :cells], atol=2e-5, rtol=0)
    if not mask.all():
        torch.testing.assert_close(found[..., cells:], outside[..., cells:], atol=2e-5, rtol=0)
    assert (inside - outside).abs().max() > 1e-3


def test_overlapping_regions_share_and_soft_ones_blend() -> None:
    everywhere = np.ones((8, 8), dtype=np.float32)
    options = {"directions": bank("wan21"), "mixing": False}
    twice = track(0.0, regions=[(everywhere, RAMP), (everywhere, RAMP)])
    once = steered("wan21", track(RAMP), **options)
    torch.testing.assert_close(steered("wan21", twice, **options), once, atol=2e-5, rtol=0)
    half = track(0.0, regions=[(everywhere / 2, RAMP)])
    plain = film(pipe("wan21", False), "wan21")
    blended = change(steered("wan21", half, **options), plain)
    assert 0.2 < blended[-1] / change(once, plain)[-1] < 0.8


# Guidance and batches -----------------------------------------------------------------------------


@every_layout
def test_directions_leave_the_unconditional_branch_alone(family: str) -> None:
    seen: list[list[Tensor]] = []
    which = pipe(family)
    denoiser = next(iter(denoisers_of(which).values()))

    def keep(_: Any, __: Any, output: Any) -> None:
        value = output[0] if isinstance(output, tuple) else output.sample
        seen[-1].extend(value.unbind())

    hook = denoiser.register_forward_hook(keep)
    try:
        for options in ({}, {"directions": bank(family)}):
            seen.append([])
            steered(family, track(RAMP), **options, call={"num_inference_steps": 1})
    finally:
        hook.remove()
    plain, moved = seen
    conditional = 0 if family == "wan21" else 1
    assert len(plain) == len(moved) == 2
    torch.testing.assert_close(moved[1 - conditional], plain[1 - conditional], atol=2e-5, rtol=0)
    assert (moved[conditional] - plain[conditional]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("family", "scale"),
    [("animatediff", 3.0), ("wan21", 1.0), ("wan21", 3.0), ("ltx", 1.0), ("ltx", 3.0)],
    indirect=["family"],
)
def test_a_batch_is_its_films_one_by_one(family: str, scale: float, slid: LoraBank) -> None:
    both = {"directions": bank(family), "sliders": slid}
    prompts = ["a quiet lake", "a dog in the street"]
    call = {"guidance_scale": scale}
    two = steered(family, track(RAMP), **both, call={**call, "prompt": prompts})
    for number, prompt in enumerate(prompts):
        one = steered(family, track(RAMP), **both, call={**call, "prompt": prompt})
        torch.testing.assert_close(two[number], one, atol=5e-5, rtol=0)
    assert (two[0] - two[1]).abs().max() > 1e-3


def test_both_experts_of_wan_are_steered(tmp_path: Path) -> None:
    which, family = tiny_video("wan22"), "wan22"
    folder = tmp_path / "one"
    random_slider("transformer", which.transformer, folder / "sadness.safetensors", FRAME_LAYERS)
    bank_of_one = LoraBank(folder)
    bank_of_one.load_into(which)
    size = {"num_frames": FRAMES[family], "height": 64, "width": 64}
    plain = film(which, family)
    for off in ("transformer", "transformer_2"):
        kept = {}
        for name, layer in lora_layers(getattr(which, off)).items():
            kept[name] = layer.lora_B["affect_sadness"].weight.clone()
            layer.lora_B["affect_sadness"].weight.data.zero_()
        with steer_frames(which, track(RAMP), sliders=bank_of_one, **size):
            moved = change(film(which, family), plain)
        assert spearmanr(moved, RAMP)[0] > 0.9, f"only {off} was steered"
        for name, layer in lora_layers(getattr(which, off)).items():
            layer.lora_B["affect_sadness"].weight.data.copy_(kept[name])
    bank_of_one.unload(which)
    assert not lora_layers(which.transformer_2)


# What peft can adapt in a motion module: diffusers calls its proj_in and proj_out by a name
# (`input=`) that peft's layers do not know.
MOTION_LAYERS = (
    r"motion_modules.*transformer_blocks.*(to_q|to_k|to_v|to_out\.0|net\.0\.proj|net\.2)$"
)


# Tempo and words ----------------------------------------------------------------------------------


def paced(folder: Path, **free_noise: Any) -> Any:
    """AnimateDiff with a LoRA "tempo" on its motion modules, loaded and inactive."""
    which = tiny_video("animatediff")
    random_slider("unet", which.unet, folder / "tempo.safetensors", MOTION_LAYERS)
    if free_noise:  # its blocks are copies, which cannot be made of layers with adapters
        which.enable_free_noise(**free_noise)
    state = load_file(folder / "tempo.safetensors")
    which.unet.load_lora_adapter(state, prefix="unet", adapter_name="tempo")
    for layer in lora_layers(which.unet).values():
        layer.set_adapter([], inference_mode=True)
    return which


def test_tempo_weighs_a_loaded_adapter_over_time(tmp_path: Path) -> None:
    which = paced(tmp_path)
    before, plain = snapshot(which), film(which, "animatediff")

    def at(weights: Any) -> Tensor:
        return steered("animatediff", track(0.0), which=which, tempo={"tempo": weights})

    assert change(at(RAMP - 0.5), plain).min() > 1e-4, "motion modules mix frames: all change"
    assert torch.equal(at(RAMP * 0), plain)
    constant = at(np.where(RAMP == 1, 0.6 + 1e-6, 0.6))
    assert snapshot(which) == before
    which.set_adapters(["tempo"], [0.6])
    torch.testing.assert_close(film(which, "animatediff"), constant, atol=2e-5, rtol=0)
    # Active at a weight of the user's: ours counts times theirs, and once.
    found = at(np.where(RAMP == 1, 1 + 1e-6, 1))
    torch.testing.assert_close(found, constant, atol=2e-5, rtol=0)


def test_tempo_reaches_only_its_frames_and_regions_do_not_touch_it(tmp_path: Path) -> None:
    """The last layer of the last motion module works on each frame alone."""
    which = paced(tmp_path)
    adapted = lora_layers(which.unet)
    last = [n for n in adapted if n.startswith("up_blocks") and n.endswith("net.2")][-1]
    for name, layer in adapted.items():
        layer.lora_B["tempo"].weight.data.mul_(10.0 if name == last else 0.0)

    def at(weights: Any, regions: Any = ()) -> Tensor:
        return steered(
            "animatediff", track(0.0, regions=regions), which=which,
            tempo={"tempo": weights}, call={"num_inference_steps": 1},
        )  # fmt: skip

    plain, late = at(RAMP * 0), at(RAMP > 0.5)
    moved = change(late, plain)
    assert moved[:3].max() < 1e-5
    assert moved[3:].min() > 1e-4
    regions = [(region_mask("left", 32, 32), RAMP * 0)]
    torch.testing.assert_close(at(RAMP > 0.5, regions), late, atol=2e-5, rtol=0)


def test_freenoise_windows_are_told_apart(tmp_path: Path) -> None:
    """Windows that do not overlap keep frames apart: only the steered window changes."""
    which = paced(tmp_path, context_length=2, context_stride=2, noise_type="random")
    adapted = lora_layers(which.unet)
    # The norm of every motion module mixes all frames, so only the last one is adapted.
    last = next(n for n in reversed(adapted) if n.startswith("up_blocks")).split(".transformer")[0]
    for name, layer in adapted.items():
        layer.lora_B["tempo"].weight.data.mul_(10.0 if name.startswith(last) else 0.0)
    once = {"which": which, "call": {"num_inference_steps": 1}}
    plain = steered("animatediff", track(0.0), **once)
    weights = np.array([0.0, 0.0, 0.0, 0.0, 1.0, 0.5])
    moved = change(steered("animatediff", track(0.0), tempo={"tempo": weights}, **once), plain)
    assert moved[:4].max() < 1e-5
    assert moved[4:].min() > 1e-4
    late = steered("animatediff", track(RAMP > 0.7), directions=bank("animatediff"), **once)
    assert change(late, plain)[:4].max() < 0.5 * change(late, plain)[4:].min()


@every_layout
def test_words_of_each_frame_are_blended(family: str) -> None:
    calm, wild = "a quiet lake", "a stormy sea in the dark night"
    plain = film(pipe(family), family, prompt=calm)
    other = film(pipe(family), family, prompt=wild)
    one = steered(family, track(0.0), words={calm: RAMP * 0 + 2, wild: RAMP * 0})
    torch.testing.assert_close(one, plain, atol=2e-5, rtol=0)
    one = steered(family, track(0.0), words={calm: RAMP * 0, wild: RAMP * 0 + 1})
    torch.testing.assert_close(one, other, atol=2e-5, rtol=0)
    moved = change(steered(family, track(0.0), words={calm: 1 - RAMP, wild: RAMP}), plain)
    assert spearmanr(moved, RAMP)[0] > 0.9
    together = steered(
        family, track(RAMP), directions=bank(family), words={calm: RAMP * 0 + 1, wild: RAMP * 0}
    )
    alone = steered(family, track(RAMP), directions=bank(family), call={"prompt": calm})
    torch.testing.assert_close(together, alone, atol=2e-5, rtol=0)


# Nothing is left ----------------------------------------------------------------------------------


@every_layout
def test_nothing_is_left_after_success_error_and_a_closed_generator(
    family: str, slid: LoraBank
) -> None:
    which, before = pipe(family), snapshot(pipe(family))
    mask = region_mask("sky", 64, 64)
    frames = track(RAMP, regions=[(mask, RAMP[::-1])])
    both = {"directions": bank(family), "sliders": slid}
    plain = film(which, family)
    steered(family, frames, **both)
    assert snapshot(which) == before

    def fail(*_: Any) -> Any:
        assert snapshot(which) != before
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        steered(family, frames, **both, call={"callback_on_step_end": fail})
    assert snapshot(which) == before
    attention = next(m for n, m in which.components.items() if n in ("unet", "transformer"))
    name = next(n for n, _ in attention.named_modules() if n.endswith("attn2.to_out.0"))
    handle = attention.get_submodule(name).register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="stop"):
        steered(family, frames, **both)
    handle.remove()
    assert snapshot(which) == before

    def generate() -> Iterator[Tensor]:
        size = {key: CALL[family][key] for key in ("height", "width")}
        with steer_frames(which, frames, num_frames=FRAMES[family], **size, **both):
            yield film(which, family)

    run = generate()
    next(run)
    run.close()
    assert snapshot(which) == before
    assert torch.equal(film(which, family), plain)


def test_half_precision_stays_half() -> None:
    which = tiny_video("wan21").to(torch.bfloat16)
    seen = set()
    which.transformer.blocks[0].register_forward_hook(lambda m, a, output: seen.add(output.dtype))
    mask = region_mask("left", 64, 64)
    frames = track(RAMP, regions=[(mask, RAMP[::-1])])
    with steer_frames(which, frames, num_frames=21, height=64, width=64, directions=bank("wan21")):
        film(which, "wan21")
    assert seen == {torch.bfloat16}


# One line -----------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused_in_one_line(tmp_path: Path) -> None:
    which = pipe("wan21")
    size = {"num_frames": 21, "height": 64, "width": 64}
    cases: list[tuple[str, dict[str, Any], type[ValueError]]] = [
        (
            r"frames: 6 rows do not fit 9 frames, which wan holds in 3",
            {"num_frames": 9},
            FrameError,
        ),
        ("height, width: expected at least 16 x 16", {"height": 8}, FrameError),
        ("strength: must be a finite number", {"strength": np.inf}, FrameError),
        ("tempo: no adapter 'haste' is loaded", {"tempo": {"haste": RAMP}}, FrameError),
        ("words: expected shares", {"words": {"a": RAMP}}, FrameError),
        ("words: 'a': expected 6 finite", {"words": {"a": [1.0]}}, FrameError),
    ]
    for message, changes, kind in cases:
        options = {**size, **changes}
        with pytest.raises(kind, match=message), steer_frames(which, track(RAMP), **options):
            pass
    afraid = tmp_path / "fear.safetensors"
    random_slider("transformer", tiny_video("wan21").transformer, afraid, r"attn1\.to_q$")
    unloaded = LoraBank(tmp_path)
    with (
        pytest.raises(LoraError, match="load_into"),
        steer_frames(which, track(RAMP, FEAR), sliders=unloaded, **size),
    ):
        pass
    with (
        pytest.raises(FrameError, match="this run has"),
        steer_frames(which, track(RAMP), directions=bank("wan21"), **size),
    ):
        film(which, "wan21", num_frames=9)
    own = bank("wan21")
    strange = replace(
        own,
        vectors={name: rows[:, 1:] for name, rows in own.vectors.items()},
        W={name: rows[:, 1:] for name, rows in own.W.items()},
    )
    with (
        pytest.raises(DirectionError, match="fit them on it"),
        steer_frames(which, track(RAMP), directions=strange, **size),
    ):
        film(which, "wan21")
    assert frame_count(which, 21) == 6
