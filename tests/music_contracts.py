"""What every composer must keep to, run over each music row of `BACKBONES` on a tiny real instance.

The counterpart of contracts.py: same request same bytes, strength 0 is neutral music, leaving early
leaves nothing, a batch equals singles, knobs reach the result and the file, metadata survives all
three files of a take. test_contracts.py hands this class to pytest.
"""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
import torch

import pipelines
from adapters.emotion import EmotionTimeline
from adapters.piece import ACCOMPANIMENT, MELODY, Piece
from pipelines import BACKBONES, Step
from pipelines.media_midi import encode_midi, load_midi
from pipelines.media_sound import load_sound
from pipelines.music import MusicParams
from pipelines.music_composer import Composer
from pipelines.params import ParamError
from pipelines.take import Request, Take
from tests.tiny import tiny_composer

SHORT = {"seconds": 6.0, "candidates": 2}


@cache
def composer_of(name: str) -> Composer:
    """A tiny random composer of the row's family; one a process."""
    assert BACKBONES[name].family == "music", "another family needs a tiny instance of its own"
    return Composer.load(tiny_composer(Path(mkdtemp(prefix="affect-music-"))), device="cpu")


def request(emotion="sadness .8", seed=7, *, title="", inputs=None, backbone="tiny", **params):
    timeline = EmotionTimeline.parse(emotion, over=True)
    given = params if inputs else {**SHORT, **params}
    return Request("music", title, timeline, seed, backbone, given, inputs=inputs or {})


def run(composer, requests, out, **options):
    """All events of a run; nobody reads the sound unless a reader is given."""
    options = {"reader": None, **options}
    return list(pipelines.generate(requests, composer=composer, out_dir=out, **options))


def takes(composer, requests, out, **options):
    return [event for event in run(composer, requests, out, **options) if isinstance(event, Take)]


def notes(take):
    """What is played, as one array: onset, duration, pitch, velocity, voice."""
    piece = take if isinstance(take, Piece) else load_midi(take.path)
    return np.column_stack(
        [piece.onset, piece.duration, piece.pitch, piece.velocity, piece.voice]
    ).round(4)


def differ(one, other):
    a, b = notes(one), notes(other)
    return a.shape != b.shape or (a != b).any()


def style_of(composer, folder: Path) -> str:
    """A LoRA folder with random weights that fits the composer."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaForCausalLM

    torch.manual_seed(0)
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    copy = LlamaForCausalLM(composer.model.config)
    get_peft_model(copy, config).save_pretrained(folder)
    return str(folder)


def tune(path: Path, bars: int = 4, *, tonic: int = 55, tempo: float = 100.0) -> Path:
    """Write a small song in a major key as a MIDI file."""
    rows = []
    for bar, step in zip(range(bars), (0, 5, 7, 0) * bars, strict=False):
        chord = [tonic + step + up for up in (0, 4, 7)]
        rows += [(4 * bar, 4.0, pitch, ACCOMPANIMENT) for pitch in chord]
        rows += [
            (4 * bar + beat, 1.0, chord[beat % 3] + 12 + beat % 2, MELODY) for beat in range(4)
        ]
    onset, duration, pitch, voice = zip(*rows, strict=True)
    piece = Piece.of(onset, duration, pitch, 70, voice, tempo=tempo, bars=bars)
    path.write_bytes(encode_midi(piece, {}))
    return path


class MusicContract:
    """One backbone; `name` is its row."""

    @pytest.fixture
    def composer(self, name):
        return composer_of(name)

    def test_folder_round_trip(self, composer, tmp_path):
        """A folder that is written and loaded again composes the same notes."""
        again = Composer.load(tiny_composer(tmp_path / "weights"), device="cpu")
        assert again.weights == composer.weights
        ours, theirs = (
            takes(c, request(), tmp_path / sub)[0] for c, sub in ((composer, "a"), (again, "b"))
        )
        assert ours.sha256 == theirs.sha256
        other = Composer.load(tiny_composer(tmp_path / "other", seed=1), device="cpu")
        assert other.weights != composer.weights

    def test_same_request_same_bytes(self, composer, tmp_path):
        asked = [request(), request("happiness .4"), request(seed=8)]
        first, again = (takes(composer, asked, tmp_path / sub) for sub in "ab")
        assert [take.sha256 for take in first] == [take.sha256 for take in again]
        for one, other in zip(first, again, strict=True):
            assert [p.read_bytes() for p in one.companions] == [
                p.read_bytes() for p in other.companions
            ]
        assert differ(first[0], first[1])
        assert differ(first[0], first[2])

    def test_strength_zero_is_neutral_music(self, composer, tmp_path):
        """With nothing to choose by (a critic would rank by the emotion that is asked)."""
        off, neutral, asked = (
            takes(composer, one, tmp_path, critic=None)[0]
            for one in (request(strength=0), request("neutral"), request())
        )
        assert not differ(off, neutral)
        assert differ(asked, neutral)
        assert off.reading["attributes"]["asked"] == neutral.reading["attributes"]["asked"]

    @pytest.mark.parametrize("end", ["exception", "close"])
    def test_leaving_early_leaves_nothing(self, composer, tmp_path, end):
        before = {k: v.clone() for k, v in composer.model.state_dict().items()}
        events = pipelines.generate(request(), composer=composer, out_dir=tmp_path, reader=None)
        if end == "exception":

            def fail(*_):
                msg = "planted"
                raise KeyError(msg)

            hook = composer.model.register_forward_hook(fail)
            try:
                with pytest.raises(KeyError, match="planted"):
                    list(events)
            finally:
                hook.remove()
        else:
            for event in events:
                if isinstance(event, Step) and event.stage == "compose":
                    break
            events.close()
        assert not [path for path in tmp_path.rglob("*.*") if path.suffix in (".mid", ".wav")]
        after = composer.model.state_dict()
        assert all(torch.equal(before[key], after[key]) for key in before)

    def test_a_batch_equals_singles(self, composer, tmp_path):
        grid = [request(emotion, 7) for emotion in ("neutral", "sadness .5", "happiness 1")]
        batch = takes(composer, grid, tmp_path / "batch")
        for one, together in zip(grid, batch, strict=True):
            alone = takes(composer, one, tmp_path / "alone")[0]
            assert alone.request.key == together.request.key
            assert not differ(alone, together)

    def test_params_are_read_and_recorded(self, composer, tmp_path):
        """Each knob changes the notes or, for the colour of the piano, the sound."""
        a, b = tune(tmp_path / "a.mid"), tune(tmp_path / "b.mid", tonic=50, tempo=60)
        changes = {
            "seconds": 6.0, "attributes": "tempo=72,mode=major,key=F#", "strength": 0.3,
            "performance": 0.0, "brightness": 0.9, "form": "through", "transfer": "tempo",
            "candidates": 2, "temperature": 0.3, "top_p": 0.3, "guidance_scale": 5.0, "over": True,
            "lora": style_of(composer, tmp_path / "style"), "lora_weight": 0.5,
        }  # fmt: skip
        assert set(changes) == {f.name for f in dataclasses.fields(MusicParams)}, "add a line here"
        # Nine bars: what returns is heard in the second phrase.
        long = {"seconds": 11.0, "attributes": "tempo=198", "candidates": 1}
        base = takes(composer, request(**long), tmp_path)[0]
        for knob, value in changes.items():
            if knob == "over":
                with pytest.raises(ParamError, match="over"):
                    takes(composer, request("sadness 1.3"), tmp_path)
                take = takes(composer, request("sadness 1.3", over=True), tmp_path)[0]
                assert take.request.params["over"] is True
            elif knob == "transfer":
                asked = request("neutral", inputs={"from": b, "onto": a}, transfer=value)
                take = takes(composer, asked, tmp_path)[0]
                assert load_midi(take.path).tempo[0, 1] == pytest.approx(60, abs=0.1)
            elif knob == "lora_weight":
                worn = {**long, "lora": changes["lora"]}
                take = takes(composer, request(**worn, lora_weight=value), tmp_path)[0]
                assert differ(take, takes(composer, request(**worn), tmp_path)[0])
            elif knob == "brightness":
                take = takes(composer, request(**{**long, knob: value}), tmp_path)[0]
                assert not differ(take, base)
                wav, other = (
                    next(p for p in t.companions if p.suffix == ".wav") for t in (take, base)
                )
                assert wav.read_bytes()[-9000:-200] != other.read_bytes()[-9000:-200]
            else:
                take = takes(composer, request(**{**long, knob: value}), tmp_path)[0]
                assert differ(take, base) or knob == "candidates", knob
            assert take.request.params[knob] == value

    def test_metadata_survives_all_three_files(self, composer, tmp_path):
        take = takes(composer, request("0s fear .3; 4s sadness .4", title="Rain"), tmp_path)[0]
        assert {path.suffix for path in take.companions} == {".wav", ".png"}
        assert {path.stem for path in take.companions} == {take.path.stem}
        for path in (take.path, *take.companions):
            again = Take.read(path)
            assert again.request == take.request
            assert again.reading == take.reading
            assert again.request.weights == composer.weights
            assert set(again.request.params) == set(MusicParams().to_json())
        sound = load_sound(next(p for p in take.companions if p.suffix == ".wav"))
        assert (sound.sample_rate, sound.waveform.shape) == (44100, (2, 6 * 44100))
        remade = takes(composer, Take.read(take.path).request, tmp_path / "again")[0]
        assert remade.sha256 == take.sha256
