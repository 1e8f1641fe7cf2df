"""What every model of films must keep to, run over each video row on a tiny one.

The counterpart of contracts.py: same request same bytes, strength 0 is the plain pipeline, steering
leaves no trace, the change follows the ramp, knobs reach the result and the file, metadata survives
all files of a take. test_contracts.py hands this class to pytest.
"""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import spearmanr

import pipelines
from adapters.calibration import LEVELS
from adapters.directions import DirectionBank
from adapters.emotion import EmotionTimeline
from adapters.lora import LoraBank
from pipelines import BACKBONES, Step
from pipelines.media_video import decode_frames, probe_video
from pipelines.painter import Painter, PaintError
from pipelines.params import ParamError
from pipelines.take import Request, Take
from pipelines.video import VideoParams
from pipelines.video_maker import VideoMaker
from pipelines.video_model import TEMPO
from pipelines.video_weights import load_maker
from tests.contracts import (
    a_calibration,
    critic,
    few_pairs,
    fingerprint,
    random_sliders,
    reader,
)
from tests.tiny import tiny
from tests.tiny_video import CALL, tiny_video

PROMPT = "a city street"
#: Seconds and frames a second: 6 frames, of Wan and LTX 9 and 7 that are made and cut.
SHORT = {"seconds": 0.75, "fps": 8, "steps": 2, "guidance_scale": 3.0, "consistency": 0.5}
RAMP = "0s fear 0; 0.75s fear 1"
SIDE = {"animatediff": 32, "ltx": 32}
#: Knobs that a family has no use for: None where nothing happens, else what the error names.
_WHOLE = {"tempo": None, "keep": None, "consistency": "consistency", "keyframes": "keyframes"}
DEAF = {"animatediff": {}, **dict.fromkeys(("wan21", "wan22", "wan-i2v", "ltx"), _WHOLE)}


@cache
def folder() -> Path:
    return Path(mkdtemp(prefix="affect-video-"))


@cache
def photo() -> Path:
    """Noise in colours, 48 x 40 px."""
    path = folder() / "photo.png"
    noise = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((48, 40), Image.Resampling.BICUBIC).save(path)
    return path


@cache
def maker_of(name: str) -> VideoMaker:
    """A maker with sliders and directions over a tiny pipeline of the row's family.

    AnimateDiff is built on a painter, as it ships, and has a random tempo LoRA.
    """
    row = BACKBONES[name]
    pipe = tiny_video(row.family)
    call = {k: v for k, v in CALL[row.family].items() if k == "max_sequence_length"}
    place = Path(mkdtemp(prefix="affect-video-"))
    defaults = {"consistency": 0.5} if row.base else {}
    if row.base:
        plain = tiny("sd15")
        random_sliders(plain, place / "loras")
        painter = Painter(plain, row.base, folder=place)
        painter.directions = DirectionBank.fit(plain, few_pairs())
        maker = VideoMaker(
            pipe, name, painter=painter, defaults=defaults, call={"guidance_rescale": 0.7},
            tempo=random_tempo(pipe),
        )  # fmt: skip
    else:
        random_sliders(pipe, place / "loras")
        maker = VideoMaker(pipe, name, folder=place, call=call)
        maker.own.directions = DirectionBank.fit(pipe, few_pairs(), **call)
    return maker


def random_tempo(pipe) -> str:
    """Load a random LoRA on the motion modules, inactive, as ours is."""
    from peft import LoraConfig

    from adapters.lora import lora_layers

    torch.manual_seed(0)
    names = [
        name
        for name, module in pipe.unet.named_modules()
        if "motion_modules" in name and name.endswith(("to_q", "to_v"))
    ]
    before = {p: p.requires_grad for p in pipe.unet.parameters()}
    pipe.unet.add_adapter(
        LoraConfig(r=2, target_modules=names, init_lora_weights=False), adapter_name=TEMPO
    )
    for layer in lora_layers(pipe.unet).values():
        layer.set_adapter([], inference_mode=True)
    for parameter, flag in before.items():
        parameter.requires_grad_(flag)
    pipe.unet.eval()
    return "0123456789abcdef"


def request(maker, emotion="sadness .8", seed=7, *, prompt=PROMPT, inputs=None, **params):
    family = BACKBONES[maker.name].family
    side = SIDE.get(family, 64)
    given = {"init": photo()} if family == "wan-i2v" and inputs is None else inputs or {}
    plain = {k: v for k, v in SHORT.items() if k != "consistency" or maker.by_frame}
    timeline = EmotionTimeline.parse(emotion, over=True)
    asked = {**plain, "width": side, "height": side, **params}
    return Request("video", prompt, timeline, seed, "tiny", asked, inputs=given)


def run(maker, requests, out, **options):
    """All events of a run; unread unless critics are given."""
    options = {"critic": None, "reader": None, **options}
    return list(pipelines.generate(requests, maker=maker, out_dir=out, **options))


def takes(maker, requests, out, **options):
    return [event for event in run(maker, requests, out, **options) if isinstance(event, Take)]


def frames(take):
    """(n, H, W, 3) integers of a take."""
    return np.stack([pixels for _, pixels in decode_frames(take.path)]).astype(int)


def plain_film(maker, seed=7):
    """The pipeline called without us, with the same arguments and noise: (n, H, W, 3) integers."""
    asked = request(maker, "neutral", seed)
    params = VideoParams.parse(asked.params, maker.defaults)
    family = BACKBONES[maker.name].family
    call = {**CALL[family], "num_inference_steps": 2, "guidance_scale": 3.0}
    call |= {"prompt": PROMPT, "width": params.width, "height": params.height}
    call["num_frames"] = maker._valid(6)
    call["generator"] = torch.Generator().manual_seed(seed)
    if maker.by_frame:
        from pipelines.video_maker import Scene
        from pipelines.video_unet import decoded, rescaled

        scene = Scene(PROMPT, asked.emotion, seed, 6)
        call["latents"] = maker._noise(scene, 6, (params.width, params.height), params)
        with rescaled(maker.pipe, 0.7):
            return decoded(maker.pipe, maker.pipe(**call, output_type="latent").frames).astype(int)
    if family == "wan-i2v":
        from pipelines.video_guide import fitted

        call["image"] = fitted(Image.open(photo()), (params.width, params.height))
    if family == "ltx":
        call["frame_rate"] = params.fps
    pixels = maker.pipe(**call, output_type="np").frames[0]
    return np.round(np.clip(np.asarray(pixels)[:6], 0, 1) * 255).astype(int)


def made(maker, asked):
    """Frames of a request before they are encoded, (n, H, W, 3) integers."""
    from pipelines.media import load_image
    from pipelines.video import job_of
    from pipelines.video_session import _scene

    job = job_of(asked, maker=maker)
    init = load_image(job.init) if job.init else None
    return maker.film(_scene(job), job.params, init=init).astype(int)


class VideoContract:
    """One backbone; `name` is its row."""

    @pytest.fixture
    def maker(self, name):
        return maker_of(name)

    def test_folder_round_trip(self, name, maker, tmp_path):
        """save_pretrained, then loaded from the folder: same class, weights and bytes."""
        family = BACKBONES[name].family
        pipe = tiny_video(family)
        pipe.save_pretrained(tmp_path / "weights", safe_serialization=True)
        row = pipelines.resolve(str(tmp_path / "weights"), "video")
        call = {k: v for k, v in CALL[family].items() if k == "max_sequence_length"}
        again = VideoMaker(load_maker(row, device="cpu").pipe, name, call=call)
        plain = VideoMaker(pipe, name, call=call)
        assert type(again.pipe) is type(pipe)
        assert again.digest == plain.digest
        for one in (again, plain):
            one.own.directions = maker.own.directions
        # Weights that are mapped from a file are aligned otherwise: kernels round otherwise.
        ours, theirs = (made(one, request(one)) for one in (plain, again))
        assert np.abs(ours - theirs).max() <= 1
        assert plain.weights(VideoParams()) == again.weights(VideoParams())

    def test_same_request_same_bytes(self, maker, tmp_path):
        asked = [request(maker, RAMP), request(maker, "happiness .4", 8)]
        first = takes(maker, asked, tmp_path / "a")
        again = takes(maker, asked, tmp_path / "b")
        assert [take.sha256 for take in first] == [take.sha256 for take in again]
        for one, other in zip(first, again, strict=True):
            assert [p.read_bytes() for p in one.companions] == [
                p.read_bytes() for p in other.companions
            ]
        alone = takes(maker, asked[1], tmp_path / "c")[0]
        assert alone.sha256 == first[1].sha256 != first[0].sha256

    def test_strength_zero_is_the_plain_model(self, maker):
        plain = plain_film(maker)
        off = made(maker, request(maker, RAMP, style=0, content=0, tempo=0))
        neutral = made(maker, request(maker, "neutral"))
        np.testing.assert_array_equal(off, plain)
        np.testing.assert_array_equal(neutral, plain)
        assert (made(maker, request(maker, RAMP)) != plain).any()

    def test_the_change_follows_the_ramp(self, maker):
        """From neutral to full fear: each moment differs more from the neutral film."""
        asked = {"content": 0, "tempo": 0, "seconds": 1.5}
        plain = made(maker, request(maker, "neutral", **asked))
        steered = made(maker, request(maker, "0s fear 0; 1.5s fear 1", **asked))
        away = np.abs(steered - plain).mean(axis=(1, 2, 3))
        assert spearmanr(np.arange(len(away)), away).statistic > 0.8
        half = len(away) // 2
        assert away[half:].mean() > 1.2 * away[:half].mean()

    @pytest.mark.parametrize("end", ["success", "exception", "close"])
    def test_steering_leaves_no_trace(self, maker, tmp_path, end):
        before, plain = fingerprint(maker.pipe), plain_film(maker)
        asked = request(maker, RAMP, region="left:awe .5", steps=3)
        events = pipelines.generate(
            asked, maker=maker, out_dir=tmp_path, critic=critic(), reader=None
        )
        if end == "success":
            assert isinstance(list(events)[-1], Take)
        elif end == "exception":

            def fail(*_):
                msg = "planted"
                raise KeyError(msg)

            hook = getattr(maker.pipe, maker.family.denoiser).register_forward_hook(fail)
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
            assert not list(tmp_path.rglob("*.mp4"))
        assert fingerprint(maker.pipe) == before
        np.testing.assert_array_equal(plain_film(maker), plain)
        assert not maker.busy

    def test_params_are_read_and_recorded(self, name, maker, tmp_path):
        """Each knob changes the film, or says that this family has no use for it."""
        family = BACKBONES[name].family
        if name != next(n for n, row in BACKBONES.items() if row.family == family):
            pytest.skip(f"the classes of {family}: once a family is enough")
        side = SIDE.get(family, 64)
        changes = {
            "seconds": 1.0, "fps": 6, "width": side + 32, "height": side + 32, "steps": 3,
            "guidance_scale": 6.0, "negative_prompt": "a dog on a beach", "style": 0.4,
            "content": 0.1, "keep_content": True, "tempo": 0.0, "consistency": 0.9, "keep": 0.2,
            "loop": True, "region": "left:awe .9", "curve": "escalate", "keyframes": 2,
            "painter": "image-tiny", "grade": 1.0, "directions": False, "lora": False,
            "calibrated": False, "over": True,
        }  # fmt: skip
        assert set(changes) == {f.name for f in dataclasses.fields(VideoParams)}, "add a line"
        with pytest.raises(ParamError, match="over"):
            takes(maker, request(maker, "sadness 1.3"), tmp_path)
        with pytest.raises(ParamError, match="painter"):
            takes(maker, request(maker, painter="image-tiny"), tmp_path)
        maker.own.calibration = a_calibration(maker.own, np.asarray(LEVELS) ** 2)
        try:
            base = frames(takes(maker, request(maker), tmp_path)[0])
            for knob, value in changes.items():
                inputs = {"init": photo()} if knob == "keep" and maker.by_frame else None
                more = {"steps": 5} if inputs else {}
                deaf = DEAF[family]
                asked = request(
                    maker, "sadness 1.3" if knob == "over" else "sadness .8", inputs=inputs,
                    **{**more, knob: value},
                )  # fmt: skip
                if knob == "painter":
                    continue
                if deaf.get(knob):
                    with pytest.raises((PaintError, ParamError), match=deaf[knob]):
                        takes(maker, asked, tmp_path)
                    continue
                take = takes(maker, asked, tmp_path)[0]
                if knob == "curve":  # the course itself is recorded
                    assert take.request.params[knob] == ""
                    assert not take.request.emotion.is_constant
                else:
                    assert take.request.params[knob] == value
                compared = base
                if inputs:
                    other = request(maker, inputs=inputs, keep=0.7, **more)
                    compared = frames(takes(maker, other, tmp_path)[0])
                if knob not in deaf:
                    now = frames(take)
                    assert now.shape != compared.shape or (now != compared).any(), knob
        finally:
            del maker.own.calibration

    def test_metadata_survives_all_files(self, maker, tmp_path):
        read_by = {"critic": critic(), "reader": reader()}
        take = takes(maker, request(maker, RAMP, region="top:awe .5"), tmp_path, **read_by)[0]
        assert take.reading["critic"]["reader"] != take.reading["reader"]["reader"]
        assert len(take.reading["over_time"]["times"]) == 3
        for path in (take.path, *take.companions):
            again = Take.read(path)
            assert again.request == take.request
            assert again.request.key == take.request.key
            assert again.reading == take.reading
            assert again.request.weights == maker.weights(VideoParams())
            assert set(again.request.params) == set(VideoParams().to_json())
        assert {path.suffix for path in take.companions} == {".png"}
        remade = takes(maker, again.request, tmp_path / "again", **read_by)[0]
        assert remade.sha256 == take.sha256
        clip = probe_video(take.path)
        assert (clip.fps, clip.sound) == (8, False)
        assert clip.seconds == pytest.approx(0.75, abs=0.02)

    def test_sliders_fit(self, maker):
        assert isinstance(maker.own.loras, LoraBank)
        assert maker.own.loras.loaded(maker.pipe)
