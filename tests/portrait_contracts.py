"""What every model of portraits must keep to, run over each portrait row on a tiny one.

The counterpart of contracts.py: same request same bytes, a face of which nothing is asked is the
photo, leaving early leaves nothing, a batch equals singles, knobs reach the result and the file,
metadata survives all files of a take. test_contracts.py hands this class to pytest.
"""

from __future__ import annotations

import dataclasses
import threading
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
import torch
from PIL import Image

import pipelines
from adapters.assets import ASSETS
from adapters.emotion import EmotionTimeline
from adapters.face_motion import read_csv
from pipelines import BACKBONES, Step
from pipelines.media import load_image
from pipelines.media_sound import encode_sound
from pipelines.media_video import decode_frames, probe_video
from pipelines.params import ParamError
from pipelines.portrait import PortraitParams
from pipelines.portrait_model import ADAPTER, PortraitPipeline
from pipelines.portrait_polishers import Polisher
from pipelines.take import Request, Take
from tests import speech
from tests.tiny import tiny_portrait
from tests.tiny_polishers import tiny_polisher

FAST = {"steps": 2, "size": 256, "seconds": 0.3}
STILL = {"lips": 0.0, "expression": 0.0, "head": 0.0, "blink": 0.0, "gaze": 0.0}
"""Nothing moves."""


@cache
def model_of(name: str) -> PortraitPipeline:
    """A tiny random model of the row's family; one a process."""
    assert BACKBONES[name].family == "portrait", "another family needs a tiny instance of its own"
    return PortraitPipeline.load(tiny_portrait(Path(mkdtemp(prefix="affect-portrait-"))))


@cache
def folder() -> Path:
    return Path(mkdtemp(prefix="affect-portrait-"))


@cache
def face(name: str = "closed", side: int = 320) -> Path:
    """A drawn face, smaller than it ships: tests look at what moves, not at how sharp it is."""
    path = folder() / f"{name}-{side}.png"
    image = load_image(ASSETS / "samples" / "faces" / f"{name}.jpg")
    image.resize((side, side), Image.Resampling.LANCZOS).save(path)
    return path


@cache
def recording() -> Path:
    """1.9 s of a synthetic voice, 16 kHz, one channel, WAV."""
    path = folder() / "speech.wav"
    path.write_bytes(encode_sound(0.7 * speech.sentence(), 16000, {}))
    return path


def request(emotion="anger .8", seed=7, *, backbone="tiny", inputs=None, **params):
    """A short film of the drawn face; inputs None: it says the recording."""
    given = {"audio": recording()} if inputs is None else inputs
    timeline = EmotionTimeline.parse(emotion, over=True)
    params = {**FAST, **params}
    if params.get("still"):
        params.pop("seconds", None)
        given = {name: path for name, path in given.items() if name != "audio"}
    inputs = {"image": face(), **given}
    return Request("portrait", "", timeline, seed, backbone, params, inputs=inputs)


def run(model, requests, out, **options):
    """All events of a run; nobody reads unless critics are given."""
    options = {"critic": None, "reader": None, **options}
    return list(pipelines.generate(requests, pipeline=model, out_dir=out, **options))


def takes(model, requests, out, **options):
    return [event for event in run(model, requests, out, **options) if isinstance(event, Take)]


def stopped(model, asked, stage, out):
    """Leave at the third step of a stage: no thread and no file stays."""
    options = {"critic": None, "reader": None, "batch_size": 2}
    events = pipelines.generate(asked, pipeline=model, out_dir=out, **options)
    seen = 0
    for event in events:
        assert isinstance(event, Step)
        assert 0 <= event.index <= event.total
        seen += event.stage == stage
        if seen == 3:
            break
    assert seen == 3
    events.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "affect-portrait"]
    assert {p.name for p in out.rglob("*.*")} <= {"takes.jsonl", ".takes.lock"}


def frames(item):
    """(T, H, W, 3) uint8 of a take or a file."""
    path = item.path if isinstance(item, Take) else item
    return np.stack([frame for _, frame in decode_frames(path)])


def curves_of(take):
    return read_csv(next(path for path in take.companions if path.suffix == ".csv"))


def differ(one, other):
    return one.path.read_bytes()[-4000:] != other.path.read_bytes()[-4000:]


def style_of(model, out: Path) -> str:
    """A LoRA folder with random weights that fits the model."""
    from peft import LoraConfig

    torch.manual_seed(0)
    config = LoraConfig(r=2, target_modules=["to_q", "up"], init_lora_weights=False)
    model.denoiser.add_adapter(config, adapter_name="made")
    try:
        model.denoiser.save_lora_adapter(out, adapter_name="made", weight_name=ADAPTER)
    finally:
        model.denoiser.delete_adapters(["made"])
    return str(out)


@cache
def painter() -> Polisher:
    """A tiny random AnimateDiff that paints faces again; one a process."""
    settings = {"size": 32, "window": 4, "overlap": 2, "steps": 2, "guidance": 2.0}
    cache = folder() / "directions"
    return Polisher(tiny_polisher("animatediff"), "tiny", cache=cache, **settings)


class PortraitContract:
    """One backbone; `name` is its row."""

    @pytest.fixture
    def model(self, name):
        pytest.importorskip("mediapipe", reason="faces are found by mediapipe (extra: portrait)")
        return model_of(name)

    def test_folder_round_trip(self, model, tmp_path):
        """A folder that is written and loaded again makes the same film."""
        model.save(tmp_path / "weights")
        again = PortraitPipeline.load(tmp_path / "weights")
        ours, theirs = (
            takes(m, request(), tmp_path / s)[0] for m, s in ((model, "a"), (again, "b"))
        )
        assert ours.sha256 == theirs.sha256
        assert ours.request.weights == theirs.request.weights
        other = PortraitPipeline.load(tiny_portrait(tmp_path / "other", seed=1))
        assert takes(other, request(), tmp_path / "c")[0].request.weights != ours.request.weights

    def test_same_request_same_bytes(self, model, tmp_path):
        asked = [request(), request(seed=8), request(still=True)]
        first, again = (takes(model, asked, tmp_path / sub) for sub in "ab")
        assert [take.sha256 for take in first] == [take.sha256 for take in again]
        for one, other in zip(first, again, strict=True):
            assert [p.read_bytes() for p in one.companions] == [
                p.read_bytes() for p in other.companions
            ]
        assert differ(first[0], first[1])

    def test_nothing_asked_is_the_photo(self, model, tmp_path):
        photo = np.asarray(Image.open(face()).convert("RGB")).astype(int)
        still = takes(model, request("neutral", still=True), tmp_path)[0]
        assert np.abs(np.asarray(load_image(still.path)).astype(int) - photo).max() <= 2
        film = takes(model, request("neutral", inputs={}, **STILL), tmp_path)[0]
        assert not curves_of(film).curves.any()
        assert np.abs(frames(film).astype(int) - photo).mean() < 2  # what the codec costs
        moved = takes(model, request("anger .8", still=True), tmp_path)[0]
        assert np.abs(np.asarray(load_image(moved.path)).astype(int) - photo).max() > 40

    @pytest.mark.parametrize("end", ["exception", "close"])
    def test_leaving_early_leaves_nothing(self, model, tmp_path, end):
        style = style_of(model, tmp_path / "style")
        before = {k: v.clone() for k, v in model.denoiser.state_dict().items()}
        events = pipelines.generate(
            request(lora=style), pipeline=model, out_dir=tmp_path / "out", reader=None, critic=None
        )
        if end == "exception":

            def fail(*_):
                msg = "planted"
                raise KeyError(msg)

            hook = model.denoiser.register_forward_hook(fail)
            try:
                with pytest.raises(KeyError, match="planted"):
                    list(events)
            finally:
                hook.remove()
        else:
            for event in events:
                if isinstance(event, Step) and event.stage == "render" and event.preview:
                    break
            events.close()
        assert not [p for p in (tmp_path / "out").rglob("*.*") if p.suffix in (".mp4", ".png")]
        after = model.denoiser.state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(before[key], after[key]) for key in before)

    def test_a_batch_equals_singles(self, model, tmp_path):
        grid = [request(emotion) for emotion in ("neutral", "sadness .5", "happiness 1")]
        batch = takes(model, grid, tmp_path / "batch")
        for one, together in list(zip(grid, batch, strict=True))[1:]:
            alone = takes(model, one, tmp_path / "alone")[0]
            assert alone.request.key == together.request.key
            assert alone.sha256 == together.sha256

    def test_params_are_read_and_recorded(self, model, tmp_path):
        """Each knob changes the film."""
        changes = {
            "seconds": 0.4, "still": True, "fps": 25, "lips": 0.3, "expression": 0.4, "head": 2.0,
            "blink": 3.0, "gaze": 2.0, "neutralise": 0.2, "face": 0,
            "points": "116,138 204,138 160,175 130,208 190,208", "size": 288, "audio_scale": 3.0,
            "emotion_scale": 3.0, "style_scale": 3.0, "steps": 3, "candidates": 2,
            "lora": style_of(model, tmp_path / "style"), "lora_weight": 0.5, "over": True,
            "polish": "animatediff", "polish_strength": 0.9,
        }  # fmt: skip
        assert set(changes) == {f.name for f in dataclasses.fields(PortraitParams)}, "add a line"
        with pytest.raises(ParamError, match="over"):
            takes(model, request("sadness 1.3"), tmp_path)
        asked = [request()]
        for knob, value in changes.items():
            more = {"lora": changes["lora"]} if knob == "lora_weight" else {}
            more |= {"polish": changes["polish"]} if knob == "polish_strength" else {}
            asked.append(
                request("sadness 1.3" if knob == "over" else "anger .8", **more, **{knob: value})
            )
        base, *made = takes(model, asked, tmp_path, polisher=painter())
        assert differ(made[-1], made[-2]), "polish_strength"
        for take, (knob, value) in zip(made, changes.items(), strict=True):
            # nobody reads, so one candidate is made; the closed mouth has nothing to give way;
            # a film this short has no time for another blink
            alike = knob in ("candidates", "face", "neutralise", "blink")
            assert differ(take, base) or alike, knob
            assert take.request.params[knob] == value

    def test_metadata_survives_all_files(self, model, tmp_path):
        asked = [request("0s fear .3; 1s sadness .4"), request("awe", still=True)]
        film, still = takes(model, asked, tmp_path)
        assert {path.suffix for path in film.companions} == {".png", ".csv"}
        assert {path.suffix for path in still.companions} == {".csv"}
        assert (film.path.suffix, still.path.suffix) == (".mp4", ".png")
        pictures = [path for path in film.companions if path.suffix == ".png"]
        for take, path in ((film, film.path), (film, *pictures), (still, still.path)):
            again = Take.read(path)
            assert again.request == take.request
            assert again.reading == take.reading
            assert again.request.weights
            assert set(again.request.params) == set(PortraitParams().to_json())
            remade = takes(model, again.request, tmp_path / "again")[0]
            assert remade.sha256 == take.sha256
        clip = probe_video(film.path)
        assert (clip.width, clip.height, clip.fps, clip.sound) == (320, 320, 30, True)
        assert clip.seconds == pytest.approx(0.3, abs=0.02)
