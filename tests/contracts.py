"""What every backbone must keep to, run over each row of `BACKBONES` on tiny real instances.

A new row is tested without writing a test: its `family` names a tiny pipeline of the real diffusers
classes (tests/tiny.py). test_contracts.py hands this class to pytest.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
import torch
from peft.tuners.lora import LoraLayer
from PIL import Image
from torch import nn

import pipelines
from adapters.calibration import LEVELS, Calibration, Response
from adapters.content import pairs
from adapters.critic import ImageCritic, ImageReader
from adapters.directions import DirectionBank
from adapters.emotion import CORE, Emotion, EmotionTimeline
from adapters.families import family
from adapters.lora import LoraBank, write_slider
from pipelines import BACKBONES, Step
from pipelines.image import ImageParams
from pipelines.painter import Painter, PaintError
from pipelines.params import ParamError
from pipelines.take import Request, Take
from tests.tiny import CALL, tiny

PROMPT = "a city street"
SMALL = {"width": 32, "height": 32, "steps": 2, "guidance_scale": 3.0}
#: Arguments of the tiny call that are not knobs of ours (sequence lengths, Flux's second branch).
EXTRA = {
    name: {k: v for k, v in call.items() if k not in (*SMALL, "num_inference_steps", "output_type")}
    for name, call in CALL.items()
}
SLIDERS = ("happiness", "sadness")
#: Knobs that a family has no use for, and why.
DEAF = {
    "flux": {"negative_prompt": "distilled", "guidance_scale": "an input of flux-dev only"},
    "flux2-klein": {"negative_prompt": "no such argument", "keep": "no image-to-image by strength"},
}


def request(emotion="sadness .8", seed=7, *, prompt=PROMPT, backbone="tiny", inputs=None, **params):
    if isinstance(emotion, str):
        emotion = Emotion.parse(emotion, over=True)
    timeline = EmotionTimeline.constant(emotion)
    return Request(
        "image", prompt, timeline, seed, backbone, {**SMALL, **params}, inputs=inputs or {}
    )


def random_sliders(pipe, folder, names=SLIDERS, seed=0):
    """Slider files with random weights for every query projection of the denoiser."""
    part = family(pipe).denoiser
    generator = torch.Generator().manual_seed(seed)
    layers = [
        (name, module)
        for name, module in getattr(pipe, part).named_modules()
        if isinstance(module, nn.Linear) and name.endswith("to_q")
    ]
    assert layers
    for emotion in names:
        state = {}
        for name, layer in layers:
            a = torch.randn(2, layer.in_features, generator=generator)
            b = torch.randn(layer.out_features, 2, generator=generator)
            state |= {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}
        write_slider(folder / f"{emotion}.safetensors", part, state, {"emotion": emotion})
    return folder


def few_pairs(vocabulary="rich", n=2):
    return {name: pairs(name, vocabulary)[:n] for name in CORE}


@cache
def critic():
    torch.manual_seed(0)  # weights of modules come from the global generator
    return ImageCritic(size=32, widths=(8, 16), embed=16).eval()


@cache
def reader():
    torch.manual_seed(1)
    return ImageReader(width=8, members=2).eval()


@cache
def painter_of(name):
    """A painter with sliders and directions over a tiny pipeline of the row's family."""
    row = BACKBONES[name]
    pipe = tiny(row.family)
    folder = Path(mkdtemp(prefix="affect-contract-"))
    random_sliders(pipe, folder / "loras")
    painter = Painter(pipe, name, folder=folder, call=EXTRA[row.family])
    options = {k: v for k, v in painter.call.items() if k == "max_sequence_length"}
    painter.directions = DirectionBank.fit(pipe, few_pairs(), **options)
    return painter


def run(painter, requests, out, **options):
    """All events of a run; unread unless critics are given."""
    options = {"critic": None, "reader": None, **options}
    return list(pipelines.generate(requests, painter=painter, out_dir=out, **options))


def takes(painter, requests, out, **options):
    return [event for event in run(painter, requests, out, **options) if isinstance(event, Take)]


def pixels(take):
    return np.asarray(Image.open(take.path).convert("RGB")).astype(int)


def plain_picture(painter, seed=7, prompt=PROMPT, **more):
    """The pipeline called without us, with the same arguments."""
    call = {**CALL[BACKBONES[painter.name].family], "output_type": "pil", **more}
    if family(painter.pipe).name == "flux":
        call["guidance_scale"] = SMALL["guidance_scale"]
    generator = [torch.Generator().manual_seed(seed)]
    if "negative_prompt" in call:
        call["negative_prompt"] = [call["negative_prompt"]]
    return np.asarray(painter.pipe(prompt=[prompt], generator=generator, **call).images[0]).astype(
        int
    )


def fingerprint(pipe):
    """Everything that steering touches: weights, hooks, attributes, scalings, scheduler."""
    digest = hashlib.sha256()
    marks = []
    for name, part in sorted(pipe.components.items()):
        if isinstance(part, nn.Module):
            for key, tensor in part.state_dict().items():
                digest.update(key.encode() + tensor.float().numpy().tobytes())
            for key, module in part.named_modules():
                hooks = len(module._forward_hooks), len(module._forward_pre_hooks)
                marks.append((name, key, *hooks, "forward" in vars(module), module.training))
                if isinstance(module, LoraLayer):
                    marks.append((key, repr(module.scaling), tuple(module.active_adapters)))
        elif part is not None:
            marks.append((name, sorted(k for k, v in vars(part).items() if callable(v))))
    marks.append(
        sorted(k for k, v in vars(pipe).items() if callable(v) and not isinstance(v, nn.Module))
    )
    return digest.hexdigest(), marks


def a_calibration(painter, curve):
    """A calibration of `painter` whose response at every level is `curve`."""
    rng = np.random.default_rng(0)
    readings = np.asarray(curve)[:, None] + rng.normal(0, 0.01, (len(curve), 16))
    response = Response.fit(LEVELS, readings)
    return Calibration(
        {name: response for name in CORE},
        backbone=painter.name,
        model=painter.digest,
        adapters=painter.adapters_digest,
        critic="planted",
        date="2026-11-20",
        params={},
    )


class BackboneContract:
    """One backbone; `name` is its row."""

    @pytest.fixture
    def painter(self, name):
        return painter_of(name)

    def test_folder_round_trip(self, name, painter, tmp_path):
        """save_pretrained, then `pipelines.load` of the folder: same class, weights and bytes."""
        pipe = tiny(BACKBONES[name].family)
        pipe.save_pretrained(tmp_path / "weights", safe_serialization=True)
        again = Painter(
            pipelines.load(str(tmp_path / "weights"), device="cpu"), name, call=painter.call
        )
        assert type(again.pipe) is type(pipe)
        assert again.digest == painter.digest
        again.directions = painter.directions
        plain = Painter(pipe, name, call=painter.call)
        plain.directions = painter.directions
        ours, theirs = (
            takes(p, request(), tmp_path / sub)[0] for p, sub in ((plain, "a"), (again, "b"))
        )
        assert ours.sha256 == theirs.sha256

    def test_same_request_same_bytes(self, painter, tmp_path):
        asked = [request(), request("happiness .4")]
        first = [take.sha256 for take in takes(painter, asked, tmp_path / "a")]
        again = [take.sha256 for take in takes(painter, asked, tmp_path / "b")]
        assert first == again
        assert first[0] != first[1]

    def test_strength_zero_is_the_plain_model(self, painter, tmp_path):
        plain = plain_picture(painter)
        off, neutral = takes(
            painter, request(style=0, content=0), tmp_path
        ) + takes(painter, request("neutral"), tmp_path)  # fmt: skip
        np.testing.assert_array_equal(pixels(off), plain)
        np.testing.assert_array_equal(pixels(neutral), plain)
        steered = takes(painter, request(), tmp_path)[0]
        assert (pixels(steered) != plain).any()

    @pytest.mark.parametrize("end", ["success", "exception", "close"])
    def test_steering_leaves_no_trace(self, painter, tmp_path, end):
        before, plain = fingerprint(painter.pipe), plain_picture(painter)
        asked = request(critic_guidance=0.5, noise_guidance=0.5, steps=4)
        events = pipelines.generate(
            asked, painter=painter, out_dir=tmp_path, critic=critic(), reader=None
        )
        if end == "success":
            assert isinstance(list(events)[-1], Take)
        elif end == "exception":
            module = getattr(painter.pipe, painter.family.denoiser)

            def fail(*_):
                msg = "planted"
                raise KeyError(msg)

            hook = module.register_forward_hook(fail)
            try:
                with pytest.raises(KeyError, match="planted"):
                    list(events)
            finally:
                hook.remove()
        else:
            for event in events:
                if isinstance(event, Step) and event.index:
                    break
            events.close()
            assert not list(tmp_path.rglob("*.png"))
        assert fingerprint(painter.pipe) == before
        np.testing.assert_array_equal(plain_picture(painter), plain)
        assert not painter.busy

    def test_a_batch_equals_singles(self, painter, tmp_path):
        """A grid in one batch against its cells one by one: at most 2 of 255."""
        grid = [
            request(Emotion.of(name, level) if level else Emotion.neutral(), seed)
            for name, seed in (("sadness", 7), ("happiness", 8))
            for level in (0.0, 0.5, 1.0)
        ]
        batch = takes(painter, grid, tmp_path / "batch")
        for one, together in zip(grid, batch, strict=True):
            alone = takes(painter, one, tmp_path / "alone")[0]
            assert alone.request.key == together.request.key
            assert np.abs(pixels(alone) - pixels(together)).max() <= 2

    def test_params_are_read_and_recorded(self, name, painter, tmp_path):
        """Each knob changes the picture, or says that this family has no use for it."""
        first = next(n for n, row in BACKBONES.items() if row.family == BACKBONES[name].family)
        if name != first:
            pytest.skip(f"the classes of {first}")  # 16 runs each: once a family is enough
        photo = tmp_path / "photo.png"
        noise = np.random.default_rng(0).integers(0, 256, (40, 32, 3), dtype=np.uint8)
        Image.fromarray(noise).save(photo)
        curve = np.asarray(LEVELS) ** 2
        changes = {
            "width": 48, "height": 48, "steps": 3, "guidance_scale": 6.0,
            "negative_prompt": "a dog on a beach", "style": 0.4, "content": 0.1,
            "keep_content": True, "directions": False, "lora": False, "critic_guidance": 1.0,
            "noise_guidance": 2.0, "keep": 0.2, "calibrated": False, "over": True,
        }  # fmt: skip
        assert set(changes) == set(ImageParams().to_json()), "a new knob needs a line here"
        painter.calibration = a_calibration(painter, curve)
        try:
            base = pixels(takes(painter, request(steps=4), tmp_path)[0])
            for knob, value in changes.items():
                more = {"steps": 4, knob: value}
                inputs = {"init": photo} if knob == "keep" else {}
                if knob in DEAF.get(painter.family.name, {}):
                    if knob != "guidance_scale":
                        with pytest.raises(PaintError, match=knob if knob != "keep" else "init"):
                            takes(painter, request(**more, inputs=inputs), tmp_path)
                    continue
                if knob == "over":
                    with pytest.raises(ParamError, match="over"):
                        takes(painter, request("sadness 1.3", **(more | {"over": False})), tmp_path)
                    take = takes(painter, request("sadness 1.3", **more), tmp_path)[0]
                else:
                    guide = critic() if knob == "critic_guidance" else None
                    asked = request(**more, inputs=inputs)
                    take = takes(painter, asked, tmp_path, critic=guide)[0]
                assert take.request.params[knob] == value
                compared = base
                if knob == "keep":
                    other = request(steps=4, keep=0.7, inputs=inputs)
                    compared = pixels(takes(painter, other, tmp_path)[0])
                assert pixels(take).shape != compared.shape or (pixels(take) != compared).any(), (
                    knob
                )
        finally:
            del painter.calibration

    def test_metadata_survives_the_file(self, painter, tmp_path):
        for ext in ("png", "jpg", "webp"):
            read_by = {"critic": critic(), "reader": reader(), "ext": ext}
            take = takes(painter, request("fear .3 + sadness .4"), tmp_path, **read_by)[0]
            assert take.reading["critic"]["reader"] != take.reading["reader"]["reader"]
            again = Take.read(take.path)
            assert again.request == take.request
            assert again.request.key == take.request.key
            assert again.reading == take.reading
            assert again.request.weights == painter.weights(ImageParams())
            assert set(again.request.params) == set(ImageParams().to_json())
            remade = takes(painter, again.request, tmp_path / "again", **read_by)[0]
            assert remade.sha256 == take.sha256

    def test_sliders_fit(self, painter):
        assert isinstance(painter.loras, LoraBank)
        assert painter.loras.loaded(painter.pipe)
