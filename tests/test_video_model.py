"""video-tiny put together: parts, an inactive tempo LoRA, shared noise, long films and loops."""

from __future__ import annotations

import shutil

import pytest
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file

from pipelines.video_model import (
    REACH,
    TEMPO,
    VideoModelError,
    film_length,
    frame_noise,
    initial_noise,
    load_video_tiny,
)
from tests import tiny
from tests.tiny_polishers import tiny_motion_adapter


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A painter and an adapter whose last layers are not zero, with a tempo LoRA of one layer."""
    root = tmp_path_factory.mktemp("models")
    tiny.tiny_folder("sd15", root / "image-tiny")
    torch.manual_seed(0)
    tiny_motion_adapter().save_pretrained(root / "video-tiny" / "motion_adapter")
    layer = "unet.mid_block.motion_modules.0.transformer_blocks.0.attn1.to_q"
    state = {
        f"{layer}.lora_A.weight": torch.randn(2, 32),
        f"{layer}.lora_B.weight": torch.ones(32, 2),
    }
    (root / "video-tiny" / "tempo").mkdir()
    save_file(state, root / "video-tiny" / "tempo" / "pytorch_lora_weights.safetensors")
    return root / "video-tiny"


@pytest.fixture(scope="module")
def pipe(folder):
    return load_video_tiny(folder)


def films(pipe, frames, *, noise=None, steps=2):
    noise = torch.randn(1, 4, frames, 8, 8) if noise is None else noise
    return pipe(
        "a sea", num_frames=frames, height=32, width=32, latents=noise, num_inference_steps=steps,
        output_type="latent",
    ).frames  # fmt: skip


def test_the_tempo_lora_is_there_and_does_nothing_until_it_is_asked(pipe, folder, tmp_path):
    layers = [m for m in pipe.unet.modules() if isinstance(m, LoraLayer)]
    assert [list(m.lora_A) for m in layers] == [[TEMPO]]
    assert list(layers[0].active_adapters) == []
    plain = tmp_path / "plain"
    shutil.copytree(folder / "motion_adapter", plain / "motion_adapter")
    without = load_video_tiny(plain, painter=folder.parent / "image-tiny")
    noise = torch.randn(1, 4, 6, 8, 8, generator=torch.Generator().manual_seed(0))
    with_it = films(pipe, 6, noise=noise)
    assert torch.equal(with_it, films(without, 6, noise=noise))
    layers[0].set_adapter([TEMPO], inference_mode=True)
    moved = films(pipe, 6, noise=noise)
    layers[0].set_adapter([], inference_mode=True)
    assert not torch.equal(with_it, moved)


def test_a_missing_part_is_one_line(tmp_path, folder):
    with pytest.raises(VideoModelError, match=r"motion_adapter/config.json is missing; reinstall"):
        load_video_tiny(tmp_path)
    shutil.copytree(folder / "motion_adapter", tmp_path / "v" / "motion_adapter")
    with pytest.raises(VideoModelError, match=r"image-tiny/model_index.json is missing"):
        load_video_tiny(tmp_path / "v")


@pytest.mark.parametrize("loop", [False, True])
def test_noise_is_normal_and_shared_as_asked(loop):
    generator = torch.Generator().manual_seed(0)
    noise = frame_noise((2, 24, 20, 16, 16), 0.7, generator, loop=loop)
    spread = noise.std(dim=(0, 1, 3, 4))
    assert torch.allclose(spread, torch.ones(20), atol=0.03)
    alike = [float((noise[:, :, 0] * noise[:, :, k]).mean()) for k in (1, 10)]
    assert alike[0] > 0.95  # neighbours differ little: what is not shared wanders
    assert 0.65 < alike[1] < 0.75  # far frames have the common part only
    seam = float((noise[:, :, 0] * noise[:, :, -1]).mean())
    assert (seam > 0.95) == loop


def test_shares_of_one_and_none():
    generator = torch.Generator().manual_seed(1)
    all_ = frame_noise((1, 4, 12, 8, 8), 1.0, generator)
    assert torch.equal(all_, all_[:, :, :1].expand_as(all_))
    each = frame_noise((2, 24, 30, 8, 8), torch.tensor([0.0, 1.0]), generator)
    assert abs(float((each[0, :, 0] * each[0, :, -1]).mean())) < 0.1
    assert torch.equal(each[1, :, 0], each[1, :, -1])


def test_initial_noise_fits_the_pipeline_and_its_seed(pipe):
    made = [
        initial_noise(pipe, 5, 32, 48, torch.Generator().manual_seed(s), 0.9) for s in (1, 1, 2)
    ]
    assert made[0].shape == (1, 4, 5, 8, 12)
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])
    with pytest.raises(VideoModelError, match=r"share: allowed 0 to 1, received 1.5"):
        initial_noise(pipe, 5, 32, 32, torch.Generator(), 1.5)


def test_a_short_film_is_left_alone(pipe):
    noise = torch.randn(1, 4, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    plain = films(pipe, 8, noise=noise)
    with film_length(pipe, 8):
        assert torch.equal(films(pipe, 8, noise=noise), plain)


def test_films_longer_than_the_table_of_positions(pipe):
    """The tiny adapter knows 16 positions; 20 run, and nothing is left behind."""
    before = {k: v.clone() for k, v in pipe.unet.state_dict().items()}
    processors = dict(pipe.unet.attn_processors)
    with pytest.raises(RuntimeError, match="size"):
        films(pipe, 20)
    with film_length(pipe, 20):
        assert films(pipe, 20).isfinite().all()
    with pytest.raises(ZeroDivisionError), film_length(pipe, 2 * REACH + 4, loop=True):
        _ = 1 / 0
    after = pipe.unet.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert pipe.unet.attn_processors == processors
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in pipe.unet.modules())


def test_in_a_long_film_far_frames_do_not_see_each_other(pipe):
    """One step of the denoiser: a change at one end reaches REACH frames a motion module."""
    frames = 3 * REACH
    modules = sum(
        name.endswith("attn1") for name, _ in pipe.unet.named_modules() if "motion" in name
    )
    assert modules >= 3
    noise = torch.randn(1, 4, frames, 8, 8, generator=torch.Generator().manual_seed(0))
    states = torch.zeros(frames, 7, pipe.unet.config.cross_attention_dim)
    other = noise.clone()
    other[:, :, 0] += 1.0

    def attended(x):
        seen = []
        block = pipe.unet.down_blocks[0].motion_modules[0].transformer_blocks[0].attn1
        handle = block.register_forward_hook(lambda *call: seen.append(call[2].detach()))
        with torch.no_grad():
            pipe.unet(x, 500, states)
        handle.remove()
        return seen[0]

    with film_length(pipe, frames):
        changed = (attended(noise) - attended(other)).abs().amax(dim=(0, 2))
    # The group norm before it sees the whole film: a trace remains everywhere.
    assert changed[: REACH + 1].min() > 3 * changed[REACH + 1 :].max()


def test_the_seam_of_a_loop_is_elsewhere_at_every_step(pipe):
    frames, steps, seams = 13, 10, []
    place = pipe.unet.mid_block.motion_modules[0].transformer_blocks[0].pos_embed
    with film_length(pipe, frames, loop=True):
        handle = place.register_forward_hook(
            lambda module, args, output: seams.append((output - args[0])[0])
        )
        films(pipe, frames, steps=steps)
        handle.remove()
    tables = torch.stack(seams[::2])  # two attentions a module ask for positions
    assert len(tables) == steps
    near = (tables - place.pe[0, 0]).abs().amax(dim=2)
    assert (near.min(dim=1).values < 1e-4).all()
    assert len(set(near.argmin(dim=1).tolist())) >= 8
