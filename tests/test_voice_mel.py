"""The real route of voices on tiny instances of the real classes: folders, seeds, windows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, EulerDiscreteScheduler
from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

import pipelines.voice_vocoder as vocoders
import pipelines.voice_windows as windows
from adapters.emotion import CORE, EmotionTimeline
from adapters.speech_encoder import SPEECH
from adapters.voice_analysis import VoiceError, analyse
from pipelines import BackboneError
from pipelines.voice_average import QUIET_MEL, features_of, read_source
from pipelines.voice_mel import MelVoicePipeline
from pipelines.voice_model import Sampling, VoiceModelError
from pipelines.voice_vocoder import load_vocoder, vocode
from tests.mel_voice import tiny_mel, tiny_vocoder, unit
from tests.speech import sentence, voiced

FAST = Sampling(steps=2, variation=1.0)
ANGER = unit("anger")


@pytest.fixture(scope="module")
def pipe() -> MelVoicePipeline:
    return tiny_mel()


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    return (0.4 * sentence()).astype(np.float32)


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def take(
    pipe: MelVoicePipeline, x: np.ndarray, track: np.ndarray, seed: int = 1, **given
) -> np.ndarray:
    settings = replace(FAST, **{k: given.pop(k) for k in list(given) if hasattr(FAST, k)})
    return pipe.convert(x, track, generator=seeded(seed), settings=settings, **given)


# Folders -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["wav2vec2", "wavlm", "hubert", "torchaudio"])
def test_the_folder_is_an_ordinary_one_and_reads_back_bit_by_bit(
    kind: str, speech: np.ndarray, tmp_path: Path
) -> None:
    if kind == "torchaudio":
        pytest.importorskip("torchaudio", reason="torchaudio is not installed (the extra `voice`)")
    made = tiny_mel(kind)
    found = take(made, speech, ANGER)
    folder = made.save(tmp_path / "model")
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == "MelVoicePipeline"
    assert index["vocoder"] == ["transformers", "SpeechT5HifiGan"]
    assert index["scheduler"] == ["diffusers", "DDIMScheduler"]
    assert index["encoder"][0] == (
        "adapters.torchaudio_encoder" if kind == "torchaudio" else "transformers"
    )
    assert not [p for p in folder.rglob("*") if p.suffix in (".bin", ".pt", ".pth")]
    again = MelVoicePipeline.load(folder)
    assert not any(module.training for part in again._networks() for module in part.modules())
    assert np.array_equal(take(again, speech, ANGER), found)
    for name in ("denoiser", "average", "encoder", "vocoder"):
        first, second = (getattr(p, name).state_dict() for p in (made, again))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)
    assert torch.equal(again.directions.vectors[SPEECH], made.directions.vectors[SPEECH])


@pytest.fixture(scope="module")
def saved(pipe: MelVoicePipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pipe.save(tmp_path_factory.mktemp("saved") / "model")


def broken(saved: Path, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(saved, tmp_path / "broken"))


@pytest.mark.parametrize(
    "fault",
    ["nothing", "class", "foreign", "pickle", "renamed", "code", "directions", "cut", "lost"],
)
def test_folders_that_are_not_safe_or_whole_are_refused_in_one_line(
    fault: str, saved: Path, tmp_path: Path
) -> None:
    folder = broken(saved, tmp_path)
    index = json.loads((folder / "model_index.json").read_text())
    weights = folder / "denoiser" / "diffusion_pytorch_model.safetensors"
    words = {
        "nothing": "holds none; run python -m training.voice_mel",
        "class": "holds a VoicePipeline, not a MelVoicePipeline",
        "foreign": "names code that diffusers does not have (denoiser=['os', 'system'])",
        "pickle": "pickled weights (.bin)",
        "renamed": "a pickle under another name",
        "code": "Python code",
        "directions": "of another encoder; fit them again",
        "cut": "not a safetensors file, or cut short",
        "lost": "directions",
    }
    if fault == "nothing":
        (folder / "model_index.json").unlink()
    elif fault == "class":
        (folder / "model_index.json").write_text(
            json.dumps(index | {"_class_name": "VoicePipeline"})
        )
    elif fault == "foreign":
        (folder / "model_index.json").write_text(json.dumps(index | {"denoiser": ["os", "system"]}))
    elif fault == "pickle":
        torch.save({}, folder / "encoder" / "pytorch_model.bin")
    elif fault == "renamed":
        weights.unlink()
        torch.save({"a": torch.zeros(1)}, weights)
    elif fault == "code":
        (folder / "vocoder" / "model.py").write_text("print(1)")
    elif fault == "directions":
        other = replace(MelVoicePipeline.load(saved).directions, digest="0" * 16)
        other.save(folder / "directions.safetensors")
    elif fault == "cut":
        weights.write_bytes(weights.read_bytes()[:2000])
    else:
        (folder / "directions.safetensors").unlink()
    with pytest.raises((VoiceModelError, BackboneError, ValueError)) as error:
        MelVoicePipeline.load(folder)
    assert words[fault] in str(error.value)
    assert "\n" not in str(error.value)


def test_a_vocoder_comes_by_folder_and_others_are_told_in_one_line(tmp_path: Path) -> None:
    tiny_vocoder().save_pretrained(tmp_path / "good")
    mel = torch.randn(7, 80)
    assert torch.equal(load_vocoder(tmp_path / "good")(mel), tiny_vocoder()(mel))
    SpeechT5HifiGan(
        SpeechT5HifiGanConfig(upsample_initial_channel=16, model_in_dim=100)
    ).save_pretrained(tmp_path / "other")
    (tmp_path / "pickled").mkdir()
    torch.save({}, tmp_path / "pickled" / "pytorch_model.bin")
    for name, words in {
        str(
            tmp_path / "other"
        ): "80 mels, 16000 Hz and a hop of 256 samples are needed, received 100",
        str(tmp_path / "pickled"): "pickled weights (.bin)",
        "nobody/has-this": "no safetensors of nobody/has-this",
    }.items():
        with pytest.raises(VoiceModelError) as error:
            load_vocoder(name)
        assert words in str(error.value)
        assert "\n" not in str(error.value)


# Nothing asked, nothing changed ------------------------------------------------------------------


def test_no_emotion_is_the_source_itself(pipe: MelVoicePipeline, speech: np.ndarray) -> None:
    for given in ({}, {"expressiveness": 3.0, "negative": unit("fear"), "source": ANGER}):
        found = take(pipe, speech, np.zeros(12), **given)
        assert found.dtype == np.float32
        assert np.array_equal(found, speech)
    assert np.array_equal(take(pipe, speech, np.zeros((1 + len(speech) // 256, 12))), speech)
    silence = np.zeros(20000, dtype=np.float32)
    assert np.array_equal(take(pipe, silence, ANGER), silence)


def test_neutral_stretches_and_pauses_are_the_source(
    pipe: MelVoicePipeline, speech: np.ndarray
) -> None:
    x = np.concatenate([speech, np.zeros(8000, dtype=np.float32), speech])
    x += np.float32(1e-4) * np.random.default_rng(0).standard_normal(len(x)).astype(np.float32)
    frames = 1 + len(x) // 256
    track = EmotionTimeline.parse("0s neutral; 0.8s neutral; 1.1s anger .9").sample(
        np.arange(frames) * 0.016
    )
    found = take(pipe, x, track)
    still = np.repeat(track.sum(axis=1) == 0, 256)[: len(x)]
    assert np.array_equal(found[: int(still.sum()) - 256], x[: int(still.sum()) - 256])
    pause = slice(len(speech) + 1500, len(speech) + 6500)
    assert np.array_equal(found[pause], x[pause])
    assert np.abs(found - x)[len(speech) + 8000 :].max() > 0.05
    # no click where one becomes the other: steps between samples are those of the two sounds
    whole = take(pipe, x, unit("anger", 0.9))
    steps = max(np.abs(np.diff(x)).max(), np.abs(np.diff(whole)).max())
    assert np.abs(np.diff(found)).max() < 1.5 * steps


# Takes -------------------------------------------------------------------------------------------


def test_a_seed_is_a_take_and_several_are_the_same_as_alone(
    pipe: MelVoicePipeline, speech: np.ndarray
) -> None:
    one, again, other = (take(pipe, speech, ANGER, seed) for seed in (1, 1, 2))
    assert one.shape == speech.shape
    assert np.isfinite(one).all()
    assert np.array_equal(one, again)
    assert np.abs(one - other).max() > 0.01
    seen: list[tuple[int, int]] = []
    both = pipe.convert(
        speech,
        ANGER,
        generator=[seeded(1), seeded(2)],
        settings=FAST,
        on_step=lambda done, all_: seen.append((done, all_)),
    )
    assert np.array_equal(both, np.stack([one, other]))
    assert seen == [(k + 1, 4) for k in range(4)]
    still = [take(pipe, speech, ANGER, seed, variation=0.0) for seed in (1, 2)]
    assert np.array_equal(*still)


def test_the_embedding_moves_along_the_directions_frame_by_frame(
    pipe: MelVoicePipeline, speech: np.ndarray
) -> None:
    read = read_source(pipe.speech, speech)
    frames = len(read.analysis)
    track = np.zeros((frames, 12))
    track[frames // 2 :] = unit("anger", 0.5) + unit("sadness", 0.25)
    residuals = np.zeros((frames, 3))
    residuals[-1] = (0.1, -0.2, 0.3)
    _, features, branches = pipe._plan(read, track, residuals, None, FAST)
    assert [weight for weight, *_ in branches] == [1.0]
    told = branches[0][2] * pipe.average.speech_scale + pipe.average.speech_mean
    D, W = pipe.directions.vectors[SPEECH], pipe.directions.W[SPEECH]
    moved = 0.5 * D[CORE.index("anger")] + 0.25 * D[CORE.index("sadness")]
    assert torch.allclose(told[0], read.embedding, atol=1e-6)
    assert torch.allclose(told[frames - 2], read.embedding + moved, atol=1e-5)
    extra = torch.tensor([0.1, -0.2, 0.3]) @ W
    assert torch.allclose(told[-1], read.embedding + moved + extra, atol=1e-5)
    # the pitch goes with it: .5 x 4 - .25 x 3 semitones on the median, in octaves
    plain = features_of(read.analysis)
    rest = features[frames // 2 : -1, 0].numpy() - plain[frames // 2 : -1, 0]
    assert np.median(rest) == pytest.approx(1.25 / 12, abs=0.01)
    assert np.array_equal(features[: frames // 2].numpy(), plain[: frames // 2])


def test_a_wider_range_moves_away_from_the_median() -> None:
    analysis = analyse(sentence(), 16000)
    plain, wide = features_of(analysis), features_of(analysis, 0.0, 2.0)
    voiced_ = analysis.voiced & analysis.speech
    middle = np.median(plain[voiced_, 0])
    assert np.allclose(wide[voiced_, 0] - middle, 2 * (plain[voiced_, 0] - middle), atol=1e-5)
    assert np.allclose(wide[:, 8], 2 * plain[:, 8])
    assert np.array_equal(np.delete(wide, [0, 8], axis=1), np.delete(plain, [0, 8], axis=1))
    octave = features_of(analyse(voiced(np.full(16000, 220.0)), 16000))[30, 0]
    assert octave == pytest.approx(np.log2(2.2), abs=0.02)


def test_intensity_and_expressiveness_carry_further(
    pipe: MelVoicePipeline, speech: np.ndarray
) -> None:
    read = read_source(pipe.speech, speech)

    def spectrum(intensity: float, **given) -> np.ndarray:
        settings = replace(FAST, **given)
        return pipe.mel(read, unit("anger", intensity), generator=seeded(), settings=settings)

    base = spectrum(0.0)
    away = [np.abs(spectrum(i) - base).mean() for i in (0.25, 0.5, 1.0)]
    assert 0 < away[0] < away[1] < away[2]
    # guidance 0 leaves the embedding, and only the pitch differs; more goes beyond
    gone = [np.abs(spectrum(1.0, expressiveness=w) - base).mean() for w in (0.0, 1.0, 2.0)]
    assert gone[0] < gone[1] < gone[2]
    assert (base >= QUIET_MEL).all()


def test_negative_emotions_and_the_emotion_of_the_source(
    pipe: MelVoicePipeline, speech: np.ndarray
) -> None:
    plain = take(pipe, speech, unit("sadness"))
    away = take(pipe, speech, unit("sadness"), negative=ANGER)
    assert np.abs(plain - away).max() > 0.02 * np.abs(plain).max()
    read = read_source(pipe.speech, speech)
    a = np.repeat(unit("sadness")[None], len(read.analysis), axis=0)
    others = np.repeat(ANGER[None], len(read.analysis), axis=0)
    _, _, branches = pipe._plan(read, a, np.zeros((len(a), 3)), others, replace(FAST, repel=0.4))
    assert [weight for weight, *_ in branches] == pytest.approx([1.0, 0.4, -0.4])
    assert sum(weight for weight, *_ in branches) == pytest.approx(1.0)
    # a voice that is angry already is asked for anger: nothing moves
    same = pipe.convert(speech, ANGER, generator=seeded(), settings=FAST, source=ANGER)
    base = pipe.convert(speech, unit("anger", 1e-9), generator=seeded(), settings=FAST)
    assert np.abs(same - base).max() < 1e-4


def test_another_scheduler_of_diffusers_runs_the_same_model(
    pipe: MelVoicePipeline, speech: np.ndarray
) -> None:
    read = read_source(pipe.speech, speech)
    config = pipe.scheduler.config
    kept = pipe.scheduler
    settings = replace(FAST, steps=30)
    reference = pipe.mel(read, ANGER, generator=seeded(), settings=settings)
    try:
        for other in (
            DPMSolverMultistepScheduler.from_config(config, algorithm_type="dpmsolver++"),
            EulerDiscreteScheduler.from_config(config),
        ):
            pipe.scheduler = other
            found = pipe.mel(read, ANGER, generator=seeded(), settings=settings)
            assert np.corrcoef(found.ravel(), reference.ravel())[0, 1] > 0.98
    finally:
        pipe.scheduler = kept


# Any length, level, state ------------------------------------------------------------------------


def test_long_recordings_have_no_seams(
    pipe: MelVoicePipeline, speech: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In windows the same as whole, where a window is wider than the network reaches."""
    x = np.tile(speech, 2)
    monkeypatch.setattr(windows, "WINDOW", 10_000)
    whole = take(pipe, x, ANGER)
    read = read_source(pipe.speech, x)
    mel = pipe.mel(read, ANGER, generator=seeded(), settings=FAST)
    monkeypatch.setattr(windows, "WINDOW", 96)
    monkeypatch.setattr(windows, "OVERLAP", 48)  # two blocks of kernel 7: 9 frames on each side
    parts = pipe.mel(read, ANGER, generator=seeded(), settings=FAST)
    # within the reach of a window's edge the weight is small, not 0
    assert np.abs(parts - mel).max() < 0.1 * np.abs(mel).max()
    assert np.median(np.abs(parts - mel)) < 1e-4
    monkeypatch.setattr(windows, "WINDOW", 10_000)
    monkeypatch.setattr(vocoders, "CHUNK", 50)
    assert np.allclose(take(pipe, x, ANGER), whole, atol=1e-5)
    assert np.allclose(
        vocode(pipe.vocoder, mel), pipe.vocoder(torch.from_numpy(mel)).detach(), atol=1e-5
    )


def test_the_level_of_the_source_is_kept_but_for_what_emotion_does_to_it(
    pipe: MelVoicePipeline, speech: np.ndarray
) -> None:
    def level(x: np.ndarray) -> float:
        return float(10 * np.log10(np.square(x[said], dtype=np.float64).mean()))

    said = np.repeat(analyse(speech, 16000).speech, 256)[: len(speech)]
    faint = unit("anger", 0.01)
    for gain in (0.02, 0.3):
        source = np.float32(gain) * speech
        assert level(take(pipe, source, faint)) == pytest.approx(level(source), abs=1.0)
    # six decibels louder in, six louder out, and the same sound
    soft, loud = (take(pipe, np.float32(g) * speech, faint) for g in (0.1, 0.2))
    assert np.corrcoef(soft, loud)[0, 1] > 0.9999
    assert level(loud) - level(soft) == pytest.approx(6.02, abs=0.05)
    quiet = np.float32(0.05) * speech
    assert level(take(pipe, quiet, ANGER)) > level(take(pipe, quiet, faint)) + 2
    assert np.abs(take(pipe, speech, ANGER)).max() <= 1.0


@pytest.mark.parametrize("samples", [1, 255, 256, 5000, 16001])
def test_every_length_stays_itself(
    pipe: MelVoicePipeline, speech: np.ndarray, samples: int
) -> None:
    x = speech[5000 : 5000 + samples]
    assert take(pipe, x, ANGER).shape == x.shape


def test_nothing_is_left_behind(pipe: MelVoicePipeline, speech: np.ndarray) -> None:
    quiet = take(pipe, speech, ANGER)
    before = {
        name: {k: v.clone() for k, v in getattr(pipe, name).state_dict().items()}
        for name in ("denoiser", "average", "encoder", "vocoder")
    }
    pipe.denoiser.train()
    pipe.encoder.train()
    try:
        # dropout is off while it converts, and training goes on afterwards
        assert np.array_equal(take(pipe, speech, ANGER), quiet)
        assert pipe.denoiser.training
        assert pipe.encoder.training
        assert not pipe.vocoder.training

        def stop(done: int, all_: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            take(pipe, speech, ANGER, on_step=stop)
        assert pipe.denoiser.training
    finally:
        pipe.denoiser.eval()
        pipe.encoder.eval()
    for name, state in before.items():
        now = getattr(pipe, name).state_dict()
        assert all(torch.equal(now[key], value) for key, value in state.items())
    assert pipe.scheduler.num_inference_steps is None
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"locks": ("pitch",)},
            "lock: pitch cannot be held by a mel model; use the backbone voice-tiny",
        ),
        ({"track": np.zeros((3, 12))}, "track: need"),
        ({"track": np.full(12, np.nan)}, "track: must be finite"),
        ({"negative": np.zeros(3)}, "negative: need"),
        ({"waveform": np.zeros((2, 16000))}, "waveform: (samples,) at 16000 Hz is converted"),
        ({"waveform": np.full(9000, np.inf)}, "no finite numbers"),
        ({"generator": []}, "generator: one for each take is needed"),
    ],
)
def test_what_cannot_be_converted_is_told_in_one_line(
    pipe: MelVoicePipeline, speech: np.ndarray, given: dict, words: str
) -> None:
    settings = replace(FAST, locks=given.pop("locks", ()))
    used = {
        "waveform": speech,
        "track": ANGER,
        "generator": seeded(),
        "settings": settings,
        **given,
    }
    with pytest.raises((VoiceModelError, VoiceError)) as error:
        pipe.convert(used.pop("waveform"), used.pop("track"), **used)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_without_directions_it_says_so(speech: np.ndarray) -> None:
    bare = tiny_mel()
    bare.directions = None
    with pytest.raises(VoiceModelError, match=r"load it with MelVoicePipeline\.load"):
        take(bare, speech, ANGER)
