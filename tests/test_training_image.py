"""The painter's recipe on toy data: captions, pictures, patches, checkpoints, one real step."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from PIL import Image
from torch import nn

from adapters.emotion import CORE
from training import captions, image, patches
from training.autoencoder import build as build_autoencoder
from training.data import open_cache
from training.loop import Average, cosine, load_checkpoint, save_checkpoint


def test_a_caption_comes_apart():
    told = "a romantic painting of a stormy sea with waves and a ship, dark, muted grey tones"
    assert captions.parts(told) == (
        "a romantic painting",
        "a stormy sea with waves and a ship",
        ["dark", "muted grey tones"],
    )
    assert captions.parts("a photo of a scene, beach") == ("a photo", "beach", [])
    assert captions.parts("a photo of daisies")[1] == "daisies"


def test_tellings_keep_to_the_picture_and_to_known_words():
    caption = "a romantic painting of a stormy sea with waves and a ship, dark, muted grey tones"
    soft = np.zeros(13)
    soft[0], soft[1 + CORE.index("fear")], soft[1 + CORE.index("awe")] = 0.4, 0.5, 0.1
    grades = np.full(12, 2)
    generator = torch.Generator().manual_seed(0)
    told = [captions.tell(caption, soft, grades, generator) for _ in range(400)]
    known = set(captions.words([caption]))
    said = {word for text in told for word in text.replace(",", "").split()}
    assert said <= known
    assert 0.05 < told.count("") / 400 < 0.16
    fearful = sum("very fearful" in text for text in told)
    sublime = sum("very sublime" in text for text in told)
    assert fearful > 3 * sublime > 0
    assert not any("happy" in text for text in told)


def test_degrees_are_thirds_of_an_emotion():
    soft = np.zeros((90, 13))
    soft[:, 1] = np.linspace(0.1, 0.9, 90)
    soft[:, 0] = 1 - soft[:, 1]
    grades = captions.feeling_grades(soft)[:, 0]
    assert [int((grades == g).sum()) for g in range(3)] == [30, 30, 30]
    assert (np.diff(grades) >= 0).all()


def test_the_tokenizer_keeps_known_words_whole_and_survives_its_folder(tmp_path):
    known = captions.words(["a romantic painting of a stormy sea, muted grey tones"])
    tokenizer = image.build_tokenizer([" ".join(known)], tmp_path)
    again = type(tokenizer).from_pretrained(tmp_path)
    ids = again("a stormy sea, very fearful").input_ids
    assert ids == tokenizer("a stormy sea, very fearful").input_ids
    pieces = again.convert_ids_to_tokens(ids)
    assert pieces[1:-1] == [f"{w}</w>" for w in ("a", "stormy", "sea", ",", "very", "fearful")]
    assert again.unk_token_id not in again("qzx 77 é").input_ids[1:-1]  # letters, never "unknown"


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    paths = []
    for index in range(6):
        small = rng.integers(0, 255, (5, 7, 3), dtype=np.uint8)
        path = tmp_path / f"{index}.png"
        Image.fromarray(small).resize((210, 150), Image.Resampling.BICUBIC).save(path)
        paths.append(path)
    return paths


def test_the_cache_gives_the_pictures_back(folder, tmp_path):
    cache = open_cache(tmp_path / "cache", folder, 64)
    assert len(cache) == 6
    assert cache.picture(3).shape == (64, 90, 3)
    wanted = np.asarray(Image.open(folder[3]).resize((90, 64), Image.Resampling.LANCZOS))
    assert np.array_equal(cache.picture(3), wanted)
    crops = cache.crops([0, 3], 64, torch.Generator().manual_seed(1))
    again = open_cache(tmp_path / "cache", folder, 64).crops(
        [0, 3], 64, torch.Generator().manual_seed(1)
    )
    assert crops.shape == (2, 3, 64, 64)
    assert torch.equal(crops, again)
    assert -1 <= float(crops.min()) < float(crops.max()) <= 1


def test_patch_components_are_the_linear_optimum(folder, tmp_path):
    cache = open_cache(tmp_path / "cache", folder, 64)
    pixels = cache.crops(list(range(6)) * 8, 64, torch.Generator().manual_seed(0))
    basis = patches.fit(pixels, 24)
    latents = basis.encode(pixels)
    assert latents.shape == (48, 24, 4, 4)
    assert float(latents.square().mean()) == pytest.approx(1, abs=0.05)
    error = (basis.decode(latents) - pixels).square().mean()
    mixed = torch.linalg.qr(torch.randn(768, 24, generator=torch.Generator().manual_seed(3)))[0]
    other = patches.PatchBasis(basis.mean, mixed, basis.scale)
    assert error < 0.2 * (other.decode(other.encode(pixels)) - pixels).square().mean()
    basis.save(tmp_path / "basis.safetensors")
    assert torch.equal(patches.PatchBasis.load(tmp_path / "basis.safetensors").scale, basis.scale)


def _steps(model, average, optimizer, generator, first, last):
    for step in range(first, last):
        optimizer.zero_grad()
        x = torch.randn(8, 4, generator=generator)
        (model(x) - x.flip(1)).square().mean().backward()
        optimizer.step()
        average.update(model, step)


def test_a_run_that_stops_and_resumes_equals_one_that_did_not(tmp_path):
    def fresh():
        torch.manual_seed(0)
        model = nn.Linear(4, 4)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
        return model, Average(model, 0.9), optimizer, torch.Generator().manual_seed(1)

    whole = fresh()
    _steps(*whole, 0, 10)
    half = fresh()
    _steps(*half, 0, 5)
    save_checkpoint(tmp_path / "c", 5, {"m": half[0]}, {"m": half[1]}, half[2], half[3])
    later = fresh()
    step = load_checkpoint(tmp_path / "c", {"m": later[0]}, {"m": later[1]}, later[2], later[3])
    assert step == 5
    _steps(*later, 5, 10)
    assert torch.equal(later[0].weight, whole[0].weight)
    assert torch.equal(later[1].state["weight"], whole[1].state["weight"])
    assert not list(tmp_path.glob("*.tmp"))
    assert load_checkpoint(tmp_path / "none", {}, {}, later[2], later[3]) == 0


def test_learning_rate_rises_and_falls():
    rates = [cosine(step, 100, 1.0, 10) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[10] == pytest.approx(1.0)
    assert rates[100] == pytest.approx(0.05)


def test_the_painters_loss_falls_on_one_batch():
    torch.manual_seed(0)
    unet = image.build_unet()
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-3)
    latents = torch.randn(4, image.CHANNELS, 8, 8)
    states = torch.randn(4, image.TOKENS, image.WIDTH)
    scheduler = DDPMScheduler(**image.SCHEDULE)
    losses = []
    for _ in range(8):
        generator = torch.Generator().manual_seed(5)
        loss = image.velocity_loss(unet, scheduler, latents, states, generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_the_autoencoder_reads_and_writes_the_painters_grid():
    model = build_autoencoder().eval()
    with torch.no_grad():
        posterior = model.encode(torch.zeros(1, 3, 128, 128)).latent_dist
        assert posterior.mean.shape == (1, image.CHANNELS, 8, 8)
        assert float(posterior.std.max()) < 0.01
        assert model.decode(posterior.mean).sample.shape == (1, 3, 128, 128)
