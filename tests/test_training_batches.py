"""Buckets, cached latents and text states, and batches whose order can be restored."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from adapters.critic import load_critic
from adapters.families import decode
from pipelines.media import encode_image, load_image
from pipelines.weights import load_pipeline
from tests import tiny, tiny_video
from training.batches import Batches, fitted_pixels
from training.buckets import bucket_sizes, describe, fit
from training.cache import Cache, encode_captions, encode_pictures, size_step
from training.folder import DataError, Dataset, read_folder
from training.folder_critic import audited, probabilities

SHAPES = ((64, 64), (96, 48), (48, 96), (80, 64))


def pictures(root: Path, count: int = 16) -> Dataset:
    root.mkdir(parents=True, exist_ok=True)
    for k in range(count):
        noise = np.random.default_rng(k).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        image = Image.fromarray(noise).resize(SHAPES[k % 4], Image.Resampling.BICUBIC)
        folder = root / ("anger", "contentment", "neutral")[k % 3]
        folder.mkdir(exist_ok=True)
        (folder / f"{k}.png").write_bytes(encode_image(image, "png", {}))
        (folder / f"{k}.txt").write_text(f"a lake {k % 5}", encoding="utf-8")
    return read_folder(root, "image")[0]


@pytest.fixture(scope="module")
def pipe() -> Any:
    return tiny.tiny("sd15")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return pictures(tmp_path_factory.mktemp("pictures"))


def batches(data: Dataset, pipe: Any, cache: Path, seed: int = 0, **options: Any) -> Batches:
    given = {"batch": 2, "resolution": 64, **options}
    generator = torch.Generator().manual_seed(seed)
    return Batches(data, pipe, generator=generator, cache=cache, **given)


# Buckets -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("resolution", "step"), [(512, 64), (512, 16), (1024, 64), (128, 32)])
def test_buckets_have_whole_steps_and_no_more_than_the_area(resolution: int, step: int) -> None:
    sizes = bucket_sizes(resolution, step)
    assert sizes[0] == (resolution, resolution)
    assert len(sizes) == len(set(sizes))
    for width, height in sizes:
        assert width % step == height % step == 0
        assert width * height <= resolution**2
        assert (height, width) in sizes
        assert max(width, height) / min(width, height) <= 2.0
        # None could be a step longer: the area is used.
        assert (max(width, height) + step) * min(width, height) > resolution**2 or (
            max(width, height) + step
        ) > 2 * min(width, height)


def test_a_picture_covers_its_bucket_and_is_not_stretched() -> None:
    sizes = bucket_sizes(512, 64)
    for width, height in ((800, 450), (450, 800), (100, 90), (3000, 500)):
        how = fit(width, height, sizes)
        scale = how.scaled[0] / width, how.scaled[1] / height
        assert scale[0] == pytest.approx(scale[1], rel=0.02)
        left, top, right, bottom = how.box
        assert (right - left, bottom - top) == how.bucket
        assert min(left, top) >= 0
        assert right <= how.scaled[0]
        assert bottom <= how.scaled[1]
        assert abs(left - (how.scaled[0] - right)) <= 1
    assert fit(800, 450, sizes).bucket[0] > fit(800, 450, sizes).bucket[1]
    assert fit(100, 90, sizes).enlarged > 5
    assert fit(3000, 500, sizes).cut > 0.7
    lines = describe([fit(100, 90, sizes), fit(3000, 500, sizes)], 4)
    assert "enlarged" in lines[-1]


@pytest.mark.parametrize("resolution", [0, 60, 500])
def test_a_resolution_off_the_steps_is_one_line(resolution: int) -> None:
    with pytest.raises(DataError, match=r"^resolution: multiples of 64[^\n]+$"):
        bucket_sizes(resolution, 64)


# Latents and text states -------------------------------------------------------------------------


@pytest.mark.parametrize("name", tiny.FAMILIES)
@torch.no_grad()
def test_latents_are_the_inverse_of_decode(name: str) -> None:
    """What is trained on must be what the pipeline itself would turn into the picture."""
    pipe = tiny.tiny(name)
    step = size_step(pipe)
    height, width = 2 * step, 4 * step
    pixels = torch.rand((2, 3, height, width), generator=torch.Generator().manual_seed(0)) * 2 - 1
    vae, film = pipe.vae, name == "qwen-image"
    z = vae.encode(pixels.unsqueeze(2) if film else pixels).latent_dist.mode()
    expected = vae.decode(z, return_dict=False)[0]
    expected = (expected[:, :, 0] if film else expected) * 0.5 + 0.5
    found = decode(pipe, encode_pictures(pipe, pixels), height, width)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["animatediff", "wan21", "ltx"])
@torch.no_grad()
def test_a_picture_is_a_film_of_one_frame_for_film_models(name: str) -> None:
    pipe = tiny_video.tiny_video(name)
    step = size_step(pipe)
    latents = encode_pictures(pipe, torch.zeros(2, 3, 2 * step, 2 * step))
    assert len(latents) == 2
    assert torch.isfinite(latents).all()
    if name == "ltx":
        assert latents.ndim == 3
        assert latents.shape[-1] == pipe.transformer.config.in_channels
    else:
        denoiser = pipe.unet if name == "animatediff" else pipe.transformer
        assert latents.shape[1:3] == (denoiser.config.in_channels, 1)


@pytest.mark.parametrize("name", tiny.FAMILIES)
def test_text_states_do_not_depend_on_their_company(name: str) -> None:
    pipe = tiny.tiny(name)
    options = {}
    if name in ("sd3", "flux", "flux2-klein", "z-image", "qwen-image"):
        options["max_sequence_length"] = 64 if name != "sd3" else 48
    together = encode_captions(pipe, ["a lake", "a dark forest at night", ""], **options)
    (alone,) = encode_captions(pipe, ["a dark forest at night"], **options)
    assert together[1].keys() == alone.keys()
    for key, value in alone.items():
        torch.testing.assert_close(together[1][key], value, atol=1e-5, rtol=1e-4)
    assert ("pooled" in alone) == (name in ("sdxl", "sd3", "flux"))
    assert ("mask" in alone) == (name == "qwen-image")


def test_a_cache_is_used_again_and_mended(data: Dataset, pipe: Any, tmp_path: Path) -> None:
    first = batches(data, pipe, tmp_path)
    made = first.prepare()
    captions = len({s.caption for s in data} | {""})
    assert made == len(data) + captions
    assert batches(data, pipe, tmp_path).prepare() == 0
    assert list(tmp_path.rglob(".tmp-*")) == []
    path = next(tmp_path.rglob("latents/*/*.safetensors"))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    again = batches(data, pipe, tmp_path)
    for _ in range(len(again)):
        next(again)
    assert path.read_bytes() == whole
    assert again.cache.made == 1


def test_other_weights_and_other_options_have_their_own_cache(pipe: Any, tmp_path: Path) -> None:
    one = Cache(tmp_path, pipe)
    assert Cache(tmp_path, tiny.tiny("sd15", seed=1)).folder != one.folder
    assert Cache(tmp_path, pipe, {"clip_skip": 1}).states_path("a") != one.states_path("a")
    assert one.latents_path("ab", (8, 8)) != one.latents_path("ab", (8, 16))


# Batches -----------------------------------------------------------------------------------------


def test_a_pass_shows_each_picture_once_and_never_mixes_shapes(
    data: Dataset, pipe: Any, tmp_path: Path
) -> None:
    all_ = batches(data, pipe, tmp_path)
    seen: list[int] = []
    for batch in itertools.islice(all_, len(all_)):
        count = len(batch["indices"])
        seen += batch["indices"]
        width, height = batch["bucket"]
        assert batch["latents"].shape == (count, 4, height // 4, width // 4)
        assert batch["prompt_embeds"].shape[0] == count
        assert batch["states"].shape == (count, 12)
        for k, index in enumerate(batch["indices"]):
            assert all_.fits[index].bucket == batch["bucket"]
            np.testing.assert_allclose(batch["states"][k], data[index].state, atol=1e-6)
            assert batch["captions"][k] == data[index].caption
    assert sorted(seen) == list(range(len(data)))
    assert len({f.bucket for f in all_.fits}) > 1


def test_latents_and_states_belong_to_their_picture(
    data: Dataset, pipe: Any, tmp_path: Path
) -> None:
    all_ = batches(data, pipe, tmp_path)
    batch = next(all_)
    index = batch["indices"][0]
    with Image.open(data[index].path) as image:
        pixels = fitted_pixels(image.convert("RGB"), all_.fits[index])
    torch.testing.assert_close(batch["latents"][0], encode_pictures(pipe, pixels[None])[0])
    (states,) = encode_captions(pipe, [data[index].caption])
    torch.testing.assert_close(batch["prompt_embeds"][0], states["tokens"], atol=1e-5, rtol=1e-4)


def test_the_order_goes_on_where_it_stood(data: Dataset, pipe: Any, tmp_path: Path) -> None:
    whole = batches(data, pipe, tmp_path, caption_dropout=0.3)
    expected = [next(whole) for _ in range(25)]
    assert len(whole) < 12, "more than two passes are needed"
    begun = batches(data, pipe, tmp_path, caption_dropout=0.3)
    for _ in range(11):
        next(begun)
    state = begun.state_dict()
    resumed = batches(data, pipe, tmp_path, seed=5, caption_dropout=0.3)
    resumed.load_state_dict(state)
    for batch in expected[11:]:
        other = next(resumed)
        assert other["indices"] == batch["indices"]
        assert other["captions"] == batch["captions"]
        assert torch.equal(other["latents"], batch["latents"])
    dropped = [c == "" for b in expected for c in b["captions"]]
    assert 0 < sum(dropped) < len(dropped)
    assert expected[0]["indices"] != expected[len(whole)]["indices"]


def test_another_seed_is_another_order(data: Dataset, pipe: Any, tmp_path: Path) -> None:
    one, two = (batches(data, pipe, tmp_path, seed=seed) for seed in (0, 1))
    assert [next(one)["indices"] for _ in range(8)] != [next(two)["indices"] for _ in range(8)]


def test_looking_ahead_does_not_move(data: Dataset, pipe: Any, tmp_path: Path) -> None:
    all_ = batches(data, pipe, tmp_path)
    sheet = np.asarray(all_.sheet().convert("L"))
    assert sheet[20:170, 20:170].std() > 10
    assert all_.first()["indices"] == all_.first()["indices"] == next(all_)["indices"]


def test_processes_deal_one_order(data: Dataset, pipe: Any, tmp_path: Path) -> None:
    alone = batches(data, pipe, tmp_path)
    parts = [batches(data, pipe, tmp_path, rank=r, world=2) for r in range(2)]
    dealt = [next(parts[k % 2])["indices"] for k in range(23)]
    assert dealt == [next(alone)["indices"] for _ in range(23)]
    # Every process goes on from the state that the first one saved.
    state = parts[0].state_dict()
    late = [batches(data, pipe, tmp_path, rank=r, world=2) for r in range(2)]
    for one in late:
        one.load_state_dict(state)
    assert next(late[0])["indices"] == next(parts[0])["indices"]


@pytest.mark.parametrize("change", ["batch", "data", "world"])
def test_a_changed_run_is_not_resumed(
    data: Dataset, pipe: Any, tmp_path: Path, change: str
) -> None:
    state = batches(data, pipe, tmp_path).state_dict()
    other = batches(
        data.of("train") if change == "data" else data,
        pipe,
        tmp_path,
        batch=3 if change == "batch" else 2,
        world=2 if change == "world" else 1,
    )
    with pytest.raises(DataError, match=rf"^resume: {change} was [^\n]+$"):
        other.load_state_dict(state)


@pytest.mark.parametrize(
    "options",
    [{"batch": 0}, {"caption_dropout": 2.0}, {"rank": 2, "world": 2}, {"resolution": 30}],
)
def test_impossible_settings_are_one_line(
    data: Dataset, pipe: Any, tmp_path: Path, options: dict[str, Any]
) -> None:
    with pytest.raises(DataError, match=r"^[^\n]+$"):
        batches(data, pipe, tmp_path, **options)


@pytest.mark.parametrize("name", ["sdxl", "flux", "z-image", "qwen-image"])
def test_families_get_what_their_denoiser_needs(name: str, data: Dataset, tmp_path: Path) -> None:
    pipe = tiny.tiny(name)
    options = {} if name == "sdxl" else {"max_sequence_length": 64}
    batch = next(batches(data, pipe, tmp_path, options=options))
    assert ("pooled_prompt_embeds" in batch) == (name in ("sdxl", "flux"))
    assert ("prompt_embeds_mask" in batch) == (name == "qwen-image")
    assert isinstance(batch["prompt_embeds"], list) == (name == "z-image")
    assert (batch["latents"].ndim == 3) == (name in ("flux", "qwen-image"))


def test_the_shipped_painter_knows_its_own_pictures_again(tmp_path: Path) -> None:
    from pipelines import BACKBONES

    row = next(row for row in BACKBONES.values() if row.name == "image-tiny")
    pipe = load_pipeline(row)
    assert size_step(pipe) == 32
    data = pictures(tmp_path / "data")
    all_ = Batches(
        data, pipe, batch=4, resolution=128, generator=torch.Generator().manual_seed(0),
        cache=tmp_path / "cache",
    )  # fmt: skip
    batch = next(all_)
    width, height = batch["bucket"]
    with torch.no_grad():
        shown = decode(pipe, batch["latents"].to(pipe.vae.dtype), height, width)
    for k, index in enumerate(batch["indices"]):
        with Image.open(data[index].path) as image:
            pixels = fitted_pixels(image.convert("RGB"), all_.fits[index]) * 0.5 + 0.5
        assert float((shown[k].float() - pixels).abs().mean()) < 0.12


def test_a_real_critic_is_asked_about_every_label(tmp_path: Path) -> None:
    data = pictures(tmp_path, 20)
    report = read_folder(tmp_path, "image")[1]
    critic = load_critic("critic-image")
    found = probabilities(data, critic)
    assert found.shape == (20, 13)
    np.testing.assert_allclose(found.sum(axis=1), 1.0, atol=1e-3)
    direct = critic.read([load_image(data[17].path)])[0].probabilities
    np.testing.assert_allclose(found[17], direct, atol=1e-4)
    noise = audited(report, data, critic).noise
    assert noise is not None
    assert noise.read == 20
