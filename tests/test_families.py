"""The layout table against the real classes: decode, digests, unknown pipelines."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoPipelineForImage2Image, AutoPipelineForText2Image, DDIMPipeline
from diffusers import DDIMScheduler as Scheduler

from adapters.families import (
    FAMILIES,
    FamilyError,
    decode,
    family,
    model_digest,
    prediction_type,
    require,
    unpack,
)
from tests import tiny


@pytest.fixture(scope="module", params=tiny.FAMILIES)
def pipe(request):
    return tiny.tiny(request.param)


def test_row_is_found_and_names_real_parts(pipe):
    row = family(pipe)
    assert row.name in tiny.FAMILIES
    assert isinstance(getattr(pipe, row.denoiser), torch.nn.Module)
    for name in (*row.text_encoders, *(text.tokenizer for text in row.texts)):
        assert getattr(pipe, name) is not None
    accepted = type(pipe).__call__.__annotations__.keys()
    assert row.scale_argument in accepted
    assert row.negative_argument is None or row.negative_argument in accepted


def test_image_to_image_twin_is_the_same_family_and_model(pipe):
    twin = AutoPipelineForImage2Image.from_pipe(pipe)
    assert family(twin) == family(pipe)
    assert model_digest(twin) == model_digest(pipe)


@pytest.mark.parametrize("size", [(32, 32), (32, 48)])
def test_decode_equals_what_the_pipeline_paints(pipe, size):
    """The last latents, decoded by the table's rule, are the picture; gradients pass."""
    kept = {}

    def keep(pipe, step, timestep, values):
        kept["latents"] = values["latents"]
        return {}

    height, width = size
    call = {**tiny.CALL[family(pipe).name], "height": height, "width": width}
    picture = pipe(
        prompt=["a lake", "a dog"],
        generator=tiny.generators(1, 2),
        callback_on_step_end=keep,
        **call,
    ).images
    latents = kept["latents"].detach().requires_grad_()
    mine = decode(pipe, latents, height, width)
    torch.testing.assert_close(mine.clamp(0, 1), picture, atol=1e-5, rtol=0)
    mine.square().sum().backward()
    assert latents.grad is not None
    assert latents.grad.abs().sum() > 0


def test_square_size_is_guessed_and_a_wrong_one_refused(pipe):
    row = family(pipe)
    channels = 16 if row.packing != "none" else 4
    shape = (1, 16, channels) if row.packing != "none" else (1, channels, 8, 8)
    latents = torch.zeros(shape)
    assert unpack(pipe, latents).shape == (1, 4, 8, 8)
    if row.packing != "none":
        with pytest.raises(FamilyError, match="multiples of 8"):
            unpack(pipe, latents, 32, 64)


def test_digest_names_the_weights(pipe, tmp_path):
    digest = model_digest(pipe)
    assert len(digest) == 16
    assert int(digest, 16) >= 0
    pipe.save_pretrained(tmp_path)
    loaded = AutoPipelineForText2Image.from_pretrained(tmp_path)
    assert model_digest(loaded) == digest
    with torch.no_grad():
        next(getattr(loaded, family(pipe).denoiser).parameters()).mul_(1.01)
    assert model_digest(loaded) != digest
    assert model_digest(tiny.tiny(family(pipe).name, seed=1)) != digest


def test_digest_ignores_lora_and_precision():
    pipe = tiny.tiny("sd15")
    half = tiny.tiny("sd15").to(torch.bfloat16)
    digest = model_digest(pipe)
    assert model_digest(half) == digest
    from peft import LoraConfig

    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"]), "joy")
    assert model_digest(pipe) == digest


def test_prediction_type_follows_the_scheduler_or_is_flow():
    pipe = tiny.tiny("sd15")
    assert prediction_type(pipe) == "epsilon"
    pipe.scheduler = Scheduler.from_config(pipe.scheduler.config, prediction_type="v_prediction")
    assert prediction_type(pipe) == "v_prediction"
    assert prediction_type(tiny.tiny("flux")) == "flow"


def test_a_pipeline_without_text_is_refused_by_name():
    pipe = DDIMPipeline(unet=tiny.tiny("sd15").unet, scheduler=Scheduler())
    with pytest.raises(FamilyError, match=r"DDIMPipeline has no encode_prompt.*sdxl"):
        family(pipe)


def test_an_unknown_text_pipeline_takes_directions_only():
    known = tiny.tiny("sd15")

    class Fresh:
        components = known.components
        unet = known.unet
        vae = known.vae
        encode_prompt = known.encode_prompt

    assert require(Fresh(), "directions").cfg == "uncond-first"
    with pytest.raises(FamilyError, match=r"lora: Fresh cannot take it, only directions; .*sd15"):
        require(Fresh(), "lora")
    with pytest.raises(FamilyError, match="no rule to decode"):
        decode(Fresh(), torch.zeros(1, 4, 8, 8))


def test_offloaded_weights_are_not_given_a_wrong_name():
    pipe = tiny.tiny("sd15")
    pipe.unet.to("meta")
    with pytest.raises(FamilyError, match="before enabling sequential offload"):
        model_digest(pipe)


def test_table_lists_only_real_classes():
    import diffusers

    assert all(hasattr(diffusers, name) for name in FAMILIES)
