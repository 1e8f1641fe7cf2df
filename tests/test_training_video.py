"""The recipe of video-tiny on toy pictures: clips, the untrained adapter, a step, the folder."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, MotionAdapter
from PIL import Image

from adapters.frame_steering import steer_frames
from adapters.frames import FrameTrack
from pipelines.video_model import TEMPO, load_video_tiny
from training import patches, video, video_data, video_report
from training.data import open_cache
from training.image import SCHEDULE, SHORT_SIDE
from training.labels import Row
from training.loop import Average, save_checkpoint


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    told = (
        "a painting of sea waves under clouds",
        "a photo of sunflowers",
        "a photo of a still life",
    )
    made = []
    for index, caption in enumerate(told):
        path = folder / f"{index}.png"
        small = Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8))
        small.resize((200, 150), Image.Resampling.BICUBIC).save(path)
        made.append(Row(path, "toy", "train", caption, np.eye(13)[0], 0.0, 0.0, False, True))
    return made


def test_clips_suit_their_captions_and_cover_the_range_of_tempo(rows):
    generator = torch.Generator().manual_seed(0)
    sea = [video_data.kind_of(rows[0].caption, generator) for _ in range(200)]
    assert 0.75 < sum("waves" in kind for kind in sea) / 200 < 0.95
    assert not any("wind" in kind for kind in sea)
    cameras = {kind.split("+")[0] for kind in sea}
    assert cameras == {name for name, _ in video_data._CAMERAS}
    tempi = torch.stack([video_data.tempo_of(48, generator) for _ in range(400)])
    assert tempi.abs().max() == 1
    still = (tempi == tempi[:, :1]).all(dim=1).float().mean()
    assert 0.4 < still < 0.7  # the rest change on the way, smoothly
    assert tempi.diff(dim=1).abs().max() < 1


def test_a_shard_holds_what_its_seed_says(rows, tmp_path, monkeypatch):
    monkeypatch.setattr(video_data, "SHARD", 3)
    monkeypatch.setattr(video_data, "FRAMES", 6)
    cache = open_cache(tmp_path / "cache", [row.path for row in rows], SHORT_SIDE)
    basis = patches.fit(cache.crops([0, 1, 2] * 4, 128, torch.Generator().manual_seed(0)), 24)
    for name in ("a", "b"):
        path = tmp_path / name / "clips" / "000.safetensors"
        path.parent.mkdir(parents=True)
        video_data.make_shard(0, rows, cache, basis, path)
    one, two = video_data.load_clips(tmp_path / "a"), video_data.load_clips(tmp_path / "b")
    assert one.latents.shape == (3, 6, 24, 8, 8)
    assert torch.equal(one.latents, two.latents)
    assert one.kinds == two.kinds
    assert len(one) == 3
    assert (one.latents[:, 1:] - one.latents[:, :-1]).abs().amax(dim=(1, 2, 3, 4)).min() > 0
    source = video_data.source_of(rows, basis)
    video_data.check_shards(tmp_path / "a", source)
    told = [dataclasses.replace(rows[0], caption="a storm"), *rows[1:]]
    bent = dataclasses.replace(basis, scale=basis.scale * 2)
    for other in (video_data.source_of(told, basis), video_data.source_of(rows, bent)):
        assert other != source
        with pytest.raises(ValueError, match=r"made of other data.*delete its clips"):
            video_data.check_shards(tmp_path / "a", other)
    path = tmp_path / "a" / "clips" / "001.safetensors"
    video_data.make_shard(1, told, cache, basis, path)
    with pytest.raises(ValueError, match="made of different data"):
        video_data.load_clips(tmp_path / "a")
    with pytest.raises(ValueError, match=r"no clips in .*; run python -m training.video_data"):
        video_data.load_clips(tmp_path)


@pytest.fixture(scope="module")
def built():
    torch.manual_seed(0)
    return video.build(video.PAINTER)


def film(pipe, frames: int = 4, steps: int = 2) -> torch.Tensor:
    noise = torch.randn(1, 24, frames, 8, 8, generator=torch.Generator().manual_seed(1))
    return pipe(
        "a sea", num_frames=frames, height=128, width=128, latents=noise,
        num_inference_steps=steps, output_type="latent",
    ).frames  # fmt: skip


def test_the_first_step_is_the_painter_and_only_motion_learns(built):
    pipe, motion = built
    learns = {name for name, p in pipe.unet.named_parameters() if p.requires_grad}
    assert learns
    assert all(".motion_modules." in name for name in learns)
    assert sum(p.numel() for p in motion.parameters()) == sum(
        p.numel() for p in pipe.unet.parameters() if p.requires_grad
    )
    sample = torch.randn(1, 24, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    states = torch.zeros(4, 5, 160)
    with torch.no_grad():
        with video.conditions(pipe.unet, torch.ones(1, 4)):
            together = pipe.unet(sample, 500, states).sample
        with video.conditions(pipe.unet, torch.ones(1, 1)):
            alone = pipe.unet(sample[:, :, 2:3], 500, states[:1]).sample
    assert torch.allclose(together[:, :, 2:3], alone, atol=1e-5)


def test_a_step_teaches_adapter_and_tempo_then_the_folder_gives_them_back(built, tmp_path):
    pipe, motion = built
    generator = torch.Generator().manual_seed(0)
    scheduler = DDPMScheduler(**SCHEDULE)
    optimizer = torch.optim.AdamW([p for p in motion.parameters() if p.requires_grad], lr=1e-3)
    latents = torch.randn(2, 24, 4, 8, 8, generator=generator)
    tempo = torch.tensor([[-1.0] * 4, [1.0] * 4])
    losses = []
    for _ in range(4):  # zero layers open one after the other: proj_out, then lora_B, then lora_A
        again = torch.Generator().manual_seed(1)
        with video.conditions(pipe.unet, tempo, first=3):
            loss, moving = video.film_loss(
                pipe.unet, scheduler, latents, torch.zeros(2, 5, 160), again
            )
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    assert losses[-1] < losses[0]
    assert 0 < float(moving) < losses[0]
    save_checkpoint(
        tmp_path / "motion.checkpoint", 4, {"motion": motion}, {"motion": Average(motion, 0.5)},
        optimizer, generator, {"minutes": 1},
    )  # fmt: skip
    video.export(tmp_path, tmp_path / "video-tiny", video.PAINTER)
    MotionAdapter.from_pretrained(tmp_path / "video-tiny" / "motion_adapter")
    read = load_video_tiny(tmp_path / "video-tiny", painter=video.PAINTER)
    track = FrameTrack(np.zeros((4, 12)), np.zeros((4, 3)))
    ramp = np.linspace(-1, 1, 4)
    pipe.unet.eval()
    with video.conditions(pipe.unet, torch.from_numpy(np.stack([ramp] * 2)).float()):
        wanted = film(pipe)
    with steer_frames(read, track, num_frames=4, height=128, width=128, tempo={TEMPO: ramp}):
        found = film(read)
    plain = film(read)
    near, far = (found - wanted).abs().mean(), (plain - wanted).abs().mean()
    assert near < 0.02 * wanted.abs().mean()  # half precision
    assert far > 2 * near  # the weight a frame is what was trained


def test_tables_of_the_report():
    found = [
        {"kind": "film", "seed": seed, "tempo": level, "flicker": 0.001, "warping": 0.0002,
         "occluded": 0.1, "difference": 0.01 * (2 + level),
         "speed": 0.1 + 0.05 * level + 0.01 * seed}
        for seed in range(3)
        for level in video_report.LEVELS
    ]  # fmt: skip
    text = video_report.table(found)
    assert "| video-tiny | 3 | 0.0010 [0.0010, 0.0010]" in text
    assert "film: speed 1.00 [1.00, 1.00], n 3; difference 1.00" in text
    assert "independent" not in text  # what was not measured is not in the table
