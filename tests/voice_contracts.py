"""What every model of voices must keep to, run over each voice row of `BACKBONES` on a tiny one.

The counterpart of contracts.py: same request same bytes, strength 0 is the recording bit by bit,
leaving early leaves nothing, a batch equals singles, knobs reach the result and the file, metadata
survives all files of a take. test_contracts.py hands this class to pytest.
"""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
import torch

import pipelines
from adapters.emotion import EmotionTimeline
from pipelines import BACKBONES, Step
from pipelines.media_sound import encode_sound, load_sound
from pipelines.params import ParamError
from pipelines.take import Request, Take
from pipelines.voice import VoiceParams
from pipelines.voice_model import HEADS, VoicePipeline
from tests import speech
from tests.tiny import tiny_voice

FAST = {"steps": 2, "candidates": 1}
CALM = {"variation": 0.0}
"""The mean change alone: what is asked is what happens."""


@cache
def model_of(name: str) -> VoicePipeline:
    """A tiny random model of the row's family; one a process."""
    assert BACKBONES[name].family == "voice", "another family needs a tiny instance of its own"
    return VoicePipeline.load(tiny_voice(Path(mkdtemp(prefix="affect-voice-"))))


@cache
def recording() -> Path:
    """1.9 s of a synthetic voice, 16 kHz, one channel, WAV."""
    path = Path(mkdtemp(prefix="affect-voice-")) / "speech.wav"
    path.write_bytes(encode_sound(0.7 * speech.sentence(), 16000, {}))
    return path


def request(emotion="anger .8", seed=7, *, text="", audio=None, backbone="tiny", **params):
    inputs = {} if text else {"audio": audio or recording()}
    timeline = EmotionTimeline.parse(emotion, over=True)
    return Request("voice", text, timeline, seed, backbone, {**FAST, **params}, inputs=inputs)


def run(model, requests, out, **options):
    """All events of a run; nobody reads unless critics are given."""
    options = {"critic": None, "reader": None, **options}
    return list(pipelines.generate(requests, pipeline=model, out_dir=out, **options))


def takes(model, requests, out, **options):
    return [event for event in run(model, requests, out, **options) if isinstance(event, Take)]


def samples(item):
    """What is heard: float32 (channels, samples) of a take or a file."""
    return load_sound(item.path if isinstance(item, Take) else item).waveform


def differ(one, other):
    a, b = samples(one), samples(other)
    return a.shape != b.shape or bool((a != b).any())


def style_of(model, folder: Path) -> str:
    """A LoRA folder with random weights that fits the model."""
    from peft import LoraConfig

    torch.manual_seed(0)
    for head in HEADS:
        part = getattr(model, head)
        config = LoraConfig(r=2, target_modules=["up", "leave"], init_lora_weights=False)
        part.add_adapter(config, adapter_name="made")
        try:
            part.save_lora_adapter(folder / head, adapter_name="made")
        finally:
            part.delete_adapters(["made"])
    return str(folder)


class VoiceContract:
    """One backbone; `name` is its row."""

    @pytest.fixture
    def model(self, name):
        return model_of(name)

    def test_folder_round_trip(self, model, tmp_path):
        """A folder that is written and loaded again makes the same sound."""
        model.save(tmp_path / "weights")
        ours, theirs = (
            takes(m, request(), tmp_path / sub)[0]
            for m, sub in ((model, "a"), (VoicePipeline.load(tmp_path / "weights"), "b"))
        )
        assert ours.sha256 == theirs.sha256
        assert ours.request.weights == theirs.request.weights
        other = VoicePipeline.load(tiny_voice(tmp_path / "other", seed=1))
        assert takes(other, request(), tmp_path / "c")[0].request.weights != ours.request.weights

    def test_same_request_same_bytes(self, model, tmp_path):
        asked = [request(), request("sadness .6"), request(seed=8), request("fear .9", seed=9)]
        first, again = (takes(model, asked, tmp_path / sub) for sub in "ab")
        assert [take.sha256 for take in first] == [take.sha256 for take in again]
        for one, other in zip(first, again, strict=True):
            assert [p.read_bytes() for p in one.companions] == [
                p.read_bytes() for p in other.companions
            ]
        assert differ(first[0], first[1])
        assert differ(first[0], first[2])

    @pytest.mark.parametrize("given", [{"strength": 0}, {"emotion": "neutral"}, {"emotion": "v=0"}])
    def test_no_emotion_is_the_recording(self, model, tmp_path, given):
        take = takes(model, request(**given, expressiveness=2.0, variation=1.5), tmp_path)[0]
        assert samples(take).tobytes() == samples(recording()).tobytes()
        assert take.reading["voice"]["engine"] == "none"
        assert differ(takes(model, request(), tmp_path)[0], recording())

    @pytest.mark.parametrize("end", ["exception", "close"])
    def test_leaving_early_leaves_nothing(self, model, tmp_path, end):
        style = style_of(model, tmp_path / "style")
        before = {
            f"{head}.{k}": v.clone()
            for head in HEADS
            for k, v in getattr(model, head).state_dict().items()
        }
        events = pipelines.generate(
            request(lora=style), pipeline=model, out_dir=tmp_path / "out", reader=None, critic=None
        )
        if end == "exception":

            def fail(*_):
                msg = "planted"
                raise KeyError(msg)

            hook = model.timbre.register_forward_hook(fail)
            try:
                with pytest.raises(KeyError, match="planted"):
                    list(events)
            finally:
                hook.remove()
        else:
            for event in events:
                if isinstance(event, Step) and event.stage == "denoise":
                    break
            events.close()
        assert not [p for p in (tmp_path / "out").rglob("*.*") if p.suffix in (".wav", ".png")]
        after = {
            f"{head}.{k}": v for head in HEADS for k, v in getattr(model, head).state_dict().items()
        }
        assert before.keys() == after.keys()
        assert all(torch.equal(before[key], after[key]) for key in before)

    def test_a_batch_equals_singles(self, model, tmp_path):
        grid = [request(emotion, 7) for emotion in ("neutral", "sadness .5", "happiness 1")]
        batch = takes(model, grid, tmp_path / "batch")
        for one, together in zip(grid, batch, strict=True):
            alone = takes(model, one, tmp_path / "alone")[0]
            assert alone.request.key == together.request.key
            assert alone.sha256 == together.sha256

    def test_params_are_read_and_recorded(self, model, tmp_path):
        """Each knob changes the sound, or what speaks the words."""
        changes = {
            "seconds": 2.5, "keep_length": True, "lock": "pitch,timbre", "gain": "pitch=.2",
            "strength": 0.4, "expressiveness": 2.0, "variation": 1.2, "source": "sadness .8",
            "negative": "boredom", "candidates": 2, "steps": 3, "protect": 1.0, "engine": "psola",
            "speaker": "en-us", "language": "de", "speech": "espeak",
            "lora": style_of(model, tmp_path / "style"), "lora_weight": 0.5, "format": "flac",
            "over": True,
        }  # fmt: skip
        assert set(changes) == {f.name for f in dataclasses.fields(VoiceParams)}, "add a line here"
        base = takes(model, request(), tmp_path)[0]
        for knob, value in changes.items():
            if knob in ("speaker", "language", "speech"):
                continue  # of words that are spoken first: tests/test_voice.py
            if knob == "over":
                with pytest.raises(ParamError, match="over"):
                    takes(model, request("sadness 1.3"), tmp_path)
                take = takes(model, request("sadness 1.3", over=True), tmp_path)[0]
            else:
                more = {knob: value}
                if knob == "lora_weight":
                    more["lora"] = changes["lora"]
                take = takes(model, request(**more), tmp_path)[0]
                alike = knob in ("candidates", "engine", "format")
                assert differ(take, base) != alike, knob
            assert take.request.params[knob] == value

    def test_metadata_survives_all_files(self, model, tmp_path):
        asked = [request("0s fear .3; 1s sadness .4", format=kind) for kind in ("wav", "flac")]
        for take in takes(model, asked, tmp_path):
            assert {path.suffix for path in take.companions} == {".png"}
            for path in (take.path, *take.companions):
                again = Take.read(path)
                assert again.request == take.request
                assert again.reading == take.reading
                assert again.request.weights
                assert set(again.request.params) == set(VoiceParams().to_json())
            sound = load_sound(take.path)
            assert (sound.sample_rate, len(sound.waveform)) == (16000, 1)
            remade = takes(model, Take.read(take.path).request, tmp_path / "again")[0]
            assert remade.sha256 == take.sha256
