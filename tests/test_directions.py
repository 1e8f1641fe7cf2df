"""Directions on the real classes of all seven families: exact zero, no trace, batch = singles."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from diffusers import (
    AutoPipelineForImage2Image,
    DDIMScheduler,
    PixArtAlphaPipeline,
    PixArtTransformer2DModel,
)

from adapters.basis import factorise, nuisance_axes, project_out
from adapters.conditioning import encode, part_names
from adapters.directions import DirectionBank, DirectionError
from adapters.emotion import CORE, VAD
from adapters.families import FamilyError, family
from tests import tiny

WORD = {
    "happiness": "happy",
    "excitement": "excited",
    "amusement": "amused",
    "contentment": "serene",
    "love": "tender",
    "awe": "awe",
    "surprise": "surprised",
    "anger": "angry",
    "disgust": "disgusted",
    "fear": "afraid",
    "sadness": "sad",
    "boredom": "bored",
}
PAIRS = {
    name: [
        (f"a plain {scene} at dusk", f"a {word} {scene} at dusk") for scene in ("lake", "street")
    ]
    + [("a photo of a plain room", f"a photo of a {word} room")]
    for name, word in WORD.items()
}
SAD = CORE.index("sadness")


def track(*rows: dict[str, float]) -> np.ndarray:
    result = np.zeros((len(rows), len(CORE)), dtype=np.float32)
    for row, mixture in zip(result, rows, strict=True):
        for name, value in mixture.items():
            row[CORE.index(name)] = value
    return result


def run(pipe, prompt, *seeds, **changes):
    call = {**tiny.CALL[family(pipe).name], **changes}
    for key in ("negative_prompt",):  # the text-wise classes want as many as prompts
        if key in call and isinstance(prompt, list):
            call[key] = [call[key]] * len(prompt)
    return pipe(prompt=copy.copy(prompt), generator=tiny.generators(*seeds), **call).images


def fit(pipe, **changes):
    length = tiny.CALL[family(pipe).name].get("max_sequence_length")
    options = {"max_sequence_length": length} if length else {}
    return DirectionBank.fit(pipe, PAIRS, **{**options, **changes})


@pytest.fixture(scope="module", params=tiny.FAMILIES)
def pipe(request):
    return tiny.tiny(request.param)


@pytest.fixture(scope="module")
def bank(pipe):
    return fit(pipe)


@pytest.fixture(scope="module")
def sd15():
    return tiny.tiny("sd15")


@pytest.fixture(scope="module")
def sd15_bank(sd15):
    return fit(sd15)


# --- every family ---------------------------------------------------------------------------------


def test_zero_is_bit_equal_and_intensity_moves_the_picture(pipe, bank):
    plain = run(pipe, "a lake at dusk", 3)
    for rows, strength in ((track({"sadness": 1}), 0.0), (track({}), 1.0)):
        with bank.steer(pipe, rows, strength):
            assert torch.equal(run(pipe, "a lake at dusk", 3), plain)
    moved = []
    for strength in (1.0, 4.0):
        with bank.steer(pipe, track({"sadness": 1}), strength):
            moved.append(float((run(pipe, "a lake at dusk", 3) - plain).abs().mean()))
    assert 1e-4 < moved[0] < moved[1]
    assert torch.equal(run(pipe, "a lake at dusk", 3), plain)


def test_batch_equals_singles(pipe, bank):
    """Prompts of different length, one row of zeros, a mixture, a residual: as when run alone."""
    prompts = ["a lake", "a photo of an old house at night", "a dog", "a street"]
    rows = track({"sadness": 0.8}, {"awe": 0.5, "fear": 0.5}, {}, {"anger": 0.3})
    residuals = np.array([[0, 0, 0], [0.2, -0.4, 0.1], [0, 0, 0], [0, 0.3, 0]], dtype=np.float32)
    with bank.steer(pipe, rows, 2.0, residuals):
        together = run(pipe, prompts, 1, 2, 3, 4)
    for index, prompt in enumerate(prompts):
        with bank.steer(pipe, rows[index], 2.0, residuals[index]):
            alone = run(pipe, prompt, index + 1)
        assert (together[index] - alone[0]).abs().max() <= 1e-5
    assert (together[2] - run(pipe, prompts[2], 3)[0]).abs().max() <= 1e-5


def test_no_trace_after_success_error_and_close(pipe, bank):
    before = {key: (id(value), value) for key, value in vars(pipe).items()}

    def same():
        return {key: id(value) for key, value in vars(pipe).items()} == {
            key: number for key, (number, _) in before.items()
        }

    with bank.steer(pipe, track({"happiness": 1})):
        assert not same()
    assert same()
    with pytest.raises(RuntimeError, match="cancelled"), bank.steer(pipe, track({"fear": 1})):
        raise RuntimeError("cancelled")
    assert same()

    def takes():
        with bank.steer(pipe, track({"fear": 1})), bank.steer(pipe, track({"awe": 1})):
            yield 1
            yield 2

    running = takes()
    next(running)
    assert not same()
    running.close()
    assert same()


def conditions(pipe, bank=None, *args):
    """What the denoiser was given at the first step: its inputs of all branches, in order."""
    denoiser = getattr(pipe, family(pipe).denoiser)
    seen = []

    def keep(module, args, kwargs):
        tokens = kwargs.get("encoder_hidden_states", args[2] if len(args) > 2 else None)
        seen.extend(item.clone() for item in tokens)

    handle = denoiser.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        if bank is None:
            run(pipe, ["a lake", "a happy dog at night"], 1, 2)
        else:
            with bank.steer(pipe, *args):
                run(pipe, ["a lake", "a happy dog at night"], 1, 2)
    finally:
        handle.remove()
    return seen[:4]


def test_only_the_conditional_branch_and_only_the_right_positions_move(pipe, bank):
    row = family(pipe)
    plain = conditions(pipe)
    steered = conditions(pipe, bank, track({"sadness": 1}), 1.0)
    first = 2 if row.cfg == "uncond-first" else 0
    encoded = encode(pipe, ["a lake", "a happy dog at night"], **sequence(pipe))
    names = part_names(row)
    for index in range(2):
        negative = (index + first + 2) % 4
        assert torch.equal(plain[negative], steered[negative])
        change = steered[index + first] - plain[index + first]
        parts = encoded.parts[index]
        assert torch.equal(change[parts == -1], torch.zeros_like(change[parts == -1]))
        for number, name in enumerate(names):
            there = change[parts == number]
            if len(there):
                wanted = bank.vectors[name][SAD].expand_as(there)
                torch.testing.assert_close(there, wanted, atol=2e-6, rtol=1e-4)


def sequence(pipe):
    length = tiny.CALL[family(pipe).name].get("max_sequence_length")
    return {"max_sequence_length": length} if length else {}


def test_parts_are_where_the_tokenizer_says(pipe):
    """Words that differ sit in "words"; everything before them is causal and untouched."""
    row = family(pipe)
    left = encode(pipe, ["a lake"], **sequence(pipe))
    names = part_names(row)
    parts = left.parts[0].tolist()
    words = [index for index, part in enumerate(parts) if part != -1 and "words" in names[part]]
    # "a lake" is two tokens for CLIP and Qwen; the tiny T5 spells the article as blank and "a".
    assert len(words) == {"sd3": 2 + 3, "flux": 3}.get(row.name, 2)
    right = encode(pipe, ["a dog"], **sequence(pipe))
    frozen = [i for i, part in enumerate(parts) if part == -1 and i < words[0]]
    for index in frozen:
        assert torch.equal(left.tokens[0][index], right.tokens[0][index])
    assert not torch.allclose(left.tokens[0][words[1]], right.tokens[0][words[1]])
    padded = any("pad" in names[part] for part in parts if part != -1)
    assert padded == (row.name not in ("z-image", "qwen-image"))


def test_image_to_image_is_steered_too(pipe, bank):
    twin = AutoPipelineForImage2Image.from_pipe(pipe)
    twin.set_progress_bar_config(disable=True)
    if family(pipe).name == "flux2-klein":
        from PIL import Image

        start, extra = Image.new("RGB", (64, 64), (200, 90, 30)), {}
    else:
        start, extra = torch.linspace(0, 1, 32).expand(1, 3, 32, 32), {"strength": 1.0}
    plain = run(twin, "a lake", 1, image=start, **extra)
    with bank.steer(twin, track({"sadness": 1}), 2.0):
        steered = run(twin, "a lake", 1, image=start, **extra)
    assert (steered - plain).abs().mean() > 1e-4
    assert torch.equal(run(twin, "a lake", 1, image=start, **extra), plain)


def test_bank_survives_its_file(pipe, bank, tmp_path):
    again = DirectionBank.load(bank.save(tmp_path / "bank.safetensors"))
    assert again.report() == bank.report()
    assert again.vectors.keys() == bank.vectors.keys()
    for name, D in bank.vectors.items():
        assert torch.equal(again.vectors[name], D)
        assert torch.equal(again.W[name], bank.W[name])
        assert torch.allclose(bank.R[name] + torch.tensor(VAD).float() @ bank.W[name], D, atol=1e-5)
    assert 0 < bank.r_squared["tokens"] < 1
    assert not list(tmp_path.glob(".tmp-*"))


# --- what is fitted -------------------------------------------------------------------------------


def test_direction_is_the_mean_difference_of_the_text_encoder(sd15):
    """By hand: sadness over the padding that CLIP fills with the end token."""
    bank = fit(sd15, components=0)
    rows = []
    for pair in PAIRS["sadness"]:
        states = []
        for text in pair:
            ids = sd15.tokenizer(text, padding="max_length", return_tensors="pt")
            hidden = sd15.text_encoder(ids.input_ids)[0][0]
            states.append(hidden[int(ids.attention_mask.sum()) :].mean(dim=0))
        rows.append(states[1] - states[0])
    wanted = torch.stack(rows).mean(dim=0)
    torch.testing.assert_close(bank.vectors["clip.pad"][SAD], wanted, atol=1e-5, rtol=1e-4)


def test_planted_factors_are_recovered_and_nuisance_removed():
    generator = torch.Generator().manual_seed(0)
    M = torch.tensor(VAD)
    W = torch.randn(3, 64, generator=generator, dtype=torch.float64)
    nuisance = torch.nn.functional.normalize(
        torch.randn(2, 64, generator=generator, dtype=torch.float64)
    )
    differences = []
    for k in range(12):
        content = torch.randn(20, 1, generator=generator, dtype=torch.float64) * 5 * nuisance[0]
        differences.append(M[k] @ W + content)
    named = (3 * nuisance[1]).expand(4, 64)
    axes = nuisance_axes(differences, named, 1)
    assert axes.shape == (2, 64)
    torch.testing.assert_close(axes @ axes.T, torch.eye(2, dtype=axes.dtype))
    D = project_out(torch.stack([rows.mean(dim=0) for rows in differences]), axes)
    assert (D @ nuisance.T).abs().max() < 1e-6 * D.norm()
    clean = project_out(M @ W, axes)
    torch.testing.assert_close(D, clean, atol=1e-8, rtol=1e-8)
    found, share = factorise(D, ridge=1e-9)
    assert share > 1 - 1e-9
    torch.testing.assert_close(found, project_out(W, axes), atol=1e-6, rtol=1e-6)
    _, chance = factorise(torch.randn(12, 4000, generator=generator), ridge=0.0)
    assert chance == pytest.approx(0.25, abs=0.02)


def test_equal_pairs_have_no_axes_to_remove():
    rows = [torch.ones(5, 8) * k for k in range(1, 13)]
    assert len(nuisance_axes(rows, torch.zeros(0, 8), 3)) == 0


def test_named_nuisance_is_projected_out(sd15):
    men = [("a young dog", "an old dog"), ("a young cat", "an old cat")]
    bank = fit(sd15, nuisances=men, components=0)
    means = []
    for text in men[0] + men[1]:
        encoded = encode(sd15, [text])
        pad = part_names(family(sd15)).index("clip.pad")
        means.append(encoded.tokens[0][encoded.parts[0] == pad].mean(dim=0))
    axis = torch.nn.functional.normalize(means[1] - means[0] + means[3] - means[2], dim=0)
    assert (bank.vectors["clip.pad"] @ axis).abs().max() < 1e-5
    assert min(bank.kept["clip.pad"]) > 0.5


def test_a_vad_point_alone_moves_along_W(sd15_bank):
    point = np.array([[-0.7, 0.3, 0.0]], dtype=np.float32)
    offsets = sd15_bank.offsets(np.zeros((1, 12)), 2.0, point)
    for name, W in sd15_bank.W.items():
        torch.testing.assert_close(offsets[name], 2.0 * torch.from_numpy(point) @ W)


def test_opposite_intensity_is_the_opposite_offset(sd15_bank):
    up = sd15_bank.offsets(track({"awe": 0.6}))["tokens"]
    assert torch.equal(sd15_bank.offsets(track({"awe": -0.6}))["tokens"], -up)


# --- how it is applied ----------------------------------------------------------------------------


def test_rows_per_picture_per_prompt_and_for_all(sd15, sd15_bank):
    prompts, two = ["a lake", "a dog"], {"num_images_per_prompt": 2}
    rows = track({"sadness": 1}, {"awe": 1})
    with sd15_bank.steer(sd15, rows, 2.0):
        per_prompt = run(sd15, prompts, 1, 2, 3, 4, **two)
    with sd15_bank.steer(sd15, rows[[0, 0, 1, 1]], 2.0):
        per_picture = run(sd15, prompts, 1, 2, 3, 4, **two)
    assert torch.equal(per_prompt, per_picture)
    with sd15_bank.steer(sd15, rows[:1], 2.0):
        for_all = run(sd15, prompts, 1, 2, 3, 4, **two)
    assert torch.equal(for_all[:2], per_prompt[:2])
    assert not torch.allclose(for_all[2:], per_prompt[2:])
    with (
        sd15_bank.steer(sd15, rows[[0, 1, 0]]),
        pytest.raises(DirectionError, match="3 rows do not fit 2 prompts and 4 pictures"),
    ):
        run(sd15, prompts, 1, 2, 3, 4, **two)


def test_shifted_embeddings_are_what_steer_feeds(sd15, sd15_bank):
    rows = track({"sadness": 1})
    with sd15_bank.steer(sd15, rows, 2.0):
        steered = run(sd15, "a lake", 1)
        # Embeddings that the caller made are not moved a second time.
        shifted = sd15_bank.shift(
            sd15, encode(sd15.__class__(**parts(sd15)), ["a lake"]), rows, 2.0
        )
        passed = run(sd15, None, 1, prompt_embeds=shifted.tokens, **negative(sd15))
    torch.testing.assert_close(passed, steered)


def parts(pipe):
    return {**pipe.components, "requires_safety_checker": False}


def negative(pipe):
    return {"negative_prompt_embeds": encode(pipe.__class__(**parts(pipe)), [""]).tokens}


def test_nested_steering_adds_up(sd15, sd15_bank):
    with sd15_bank.steer(sd15, track({"sadness": 1})), sd15_bank.steer(sd15, track({"awe": 0.5})):
        nested = run(sd15, "a lake", 1)
    with sd15_bank.steer(sd15, track({"sadness": 1, "awe": 0.5})):
        torch.testing.assert_close(run(sd15, "a lake", 1), nested, atol=1e-5, rtol=0)


def test_second_run_and_runs_without_guidance_are_still_steered():
    """Two-call families must not take a run's first prompt for the last one's negative."""
    pipe = tiny.tiny("flux")
    bank = fit(pipe)
    with bank.steer(pipe, track({"sadness": 1}), 2.0):
        alone = [run(pipe, "a lake", 1, true_cfg_scale=1.0) for _ in range(2)]
        guided = [run(pipe, "a lake", 1) for _ in range(2)]
        direct = [pipe.encode_prompt("a lake", max_sequence_length=48)[0] for _ in range(2)]
    assert torch.equal(*alone)
    assert torch.equal(*guided)
    assert torch.equal(*direct)
    assert not torch.allclose(alone[0], run(pipe, "a lake", 1, true_cfg_scale=1.0), atol=1e-4)


def test_half_precision_keeps_its_type(sd15_bank):
    pipe = tiny.tiny("sd15").to(torch.bfloat16)
    with sd15_bank.steer(pipe, track({"sadness": 1})):
        tokens, _ = pipe.encode_prompt("a lake", "cpu", 1, False)
    assert tokens.dtype == torch.bfloat16


def test_the_callers_list_of_prompts_is_not_written_to():
    pipe = tiny.tiny("z-image")
    prompts = ["a lake", "a dog"]
    encode(pipe, prompts, max_sequence_length=64)
    assert prompts == ["a lake", "a dog"]


def test_sd3_without_its_third_encoder():
    pipe = tiny.tiny("sd3")
    pipe.register_modules(text_encoder_3=None, tokenizer_3=None)
    bank = fit(pipe)
    assert {name.split(".")[0] for name in bank.vectors} == {"clip", "pooled", "tokens"}
    plain = run(pipe, "a lake", 1)
    with bank.steer(pipe, track({"sadness": 1})):
        assert not torch.allclose(run(pipe, "a lake", 1), plain, atol=1e-4)


def test_long_prompts_are_cut_where_the_pipeline_cuts_them(pipe, bank):
    long = " ".join(["a lake at dusk and a dog on the road"] * 12)
    with bank.steer(pipe, track({"sadness": 1})):
        assert torch.isfinite(run(pipe, long, 1)).all()


def test_a_class_outside_the_table_is_steered():
    known = tiny.tiny("flux")
    pipe = PixArtAlphaPipeline(
        tokenizer=known.tokenizer_2,
        text_encoder=known.text_encoder_2,
        vae=tiny.tiny("sd15").vae,
        transformer=PixArtTransformer2DModel(
            sample_size=8,
            num_layers=1,
            patch_size=2,
            attention_head_dim=8,
            num_attention_heads=2,
            caption_channels=32,
            in_channels=4,
            cross_attention_dim=16,
            out_channels=8,
            norm_type="ada_norm_single",
        ),
        scheduler=DDIMScheduler(),
    )
    pipe.set_progress_bar_config(disable=True)
    tiny._fill(pipe.transformer, torch.Generator().manual_seed(0))
    call = {
        "num_inference_steps": 2,
        "output_type": "pt",
        "use_resolution_binning": False,
        "height": 32,
        "width": 32,
        "clean_caption": False,
        "max_sequence_length": 32,
    }
    bank = DirectionBank.fit(pipe, PAIRS, max_sequence_length=32, clean_caption=False)

    def paint(seeds, prompt):
        return pipe(prompt=prompt, generator=tiny.generators(*seeds), **call).images

    plain = paint([1, 2], ["a lake", "a dog"])
    with bank.steer(pipe, track({"sadness": 1}, {})):
        steered = paint([1, 2], ["a lake", "a dog"])
    assert (steered[0] - plain[0]).abs().mean() > 1e-4
    assert (steered[1] - plain[1]).abs().max() <= 1e-5


# --- cache ----------------------------------------------------------------------------------------


def test_cache_is_used_and_renewed(sd15, tmp_path):
    calls = []
    handle = sd15.text_encoder.register_forward_hook(lambda *_: calls.append(1))
    try:
        first = DirectionBank.cached(sd15, tmp_path, PAIRS)
        assert calls
        calls.clear()
        again = DirectionBank.cached(sd15, tmp_path, PAIRS)
        assert not calls
        assert all(torch.equal(again.vectors[key], first.vectors[key]) for key in first.vectors)
        (path,) = tmp_path.iterdir()
        path.write_bytes(path.read_bytes()[:100])
        renewed = DirectionBank.cached(sd15, tmp_path, PAIRS)
        assert calls
        assert torch.equal(renewed.vectors["tokens"], first.vectors["tokens"])
        DirectionBank.cached(sd15, tmp_path, PAIRS, components=0)
        DirectionBank.cached(tiny.tiny("sd15", seed=1), tmp_path, PAIRS)
        assert len(list(tmp_path.iterdir())) == 3
    finally:
        handle.remove()


@pytest.mark.parametrize("vocabulary", ["rich", "image-tiny"])
def test_built_in_pairs_fit(sd15, vocabulary):
    bank = DirectionBank.fit(sd15, vocabulary=vocabulary, batch_size=64)
    assert bank.pairs >= 12 * 8
    assert all(torch.isfinite(D).all() for D in bank.vectors.values())


# --- errors ---------------------------------------------------------------------------------------


def test_errors_say_what_to_do(sd15, sd15_bank, tmp_path):
    with pytest.raises(DirectionError, match="none for boredom; give"):
        DirectionBank.fit(sd15, {name: PAIRS[name] for name in CORE if name != "boredom"})
    with pytest.raises(DirectionError, match="components, ridge"):
        fit(sd15, ridge=-1.0)
    for rows, residuals in (((0.5, 0.5), None), (np.zeros((2, 12)), np.zeros((1, 3)))):
        with (
            pytest.raises(DirectionError, match="track, residuals: need shapes"),
            sd15_bank.steer(sd15, rows, 1.0, residuals),
        ):
            pass
    with (
        pytest.raises(DirectionError, match="finite"),
        sd15_bank.steer(sd15, np.full((1, 12), np.nan)),
    ):
        pass
    with (
        pytest.raises(DirectionError, match="strength"),
        sd15_bank.steer(sd15, track({"awe": 1}), float("inf")),
    ):
        pass
    other = tiny.tiny("sdxl")
    with (
        sd15_bank.steer(other, track({"awe": 1})),
        pytest.raises(DirectionError, match=r"fitted on sd15 \(32 features\).*64; fit them on it"),
    ):
        run(other, "a lake", 1)
    bad = tmp_path / "x.safetensors"
    bad.write_bytes(b"not tensors")
    with pytest.raises(DirectionError, match="is not a direction file"):
        DirectionBank.load(bad)
    with pytest.raises(DirectionError, match="is not a direction file"):
        DirectionBank.load(tmp_path / "missing.safetensors")


def test_a_pipeline_without_text_is_refused():
    with pytest.raises(FamilyError, match="has no encode_prompt"):
        DirectionBank.fit(object(), PAIRS)
