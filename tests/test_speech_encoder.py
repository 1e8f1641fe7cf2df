"""Encoders of speech: tiny instances of the real classes, their folders, and directions in them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoModel,
    BertConfig,
    BertModel,
    Data2VecAudioConfig,
    Data2VecAudioModel,
    HubertConfig,
    HubertModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
)

import adapters.speech_encoder as module
from adapters.directions import DirectionBank
from adapters.emotion import CORE, VAD
from adapters.speech_encoder import (
    SPEECH,
    SpeechEncoder,
    SpeechEncoderError,
    SpeechPair,
    default_layer,
    directions_from,
    fit_speech_directions,
)
from adapters.torchaudio_encoder import TorchaudioEncoder, convert, converted_folder, main
from adapters.voice_analysis import VoiceError
from tests.speech import glide, sentence, voiced

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": (8, 8),
    "conv_kernel": (10, 8),
    "conv_stride": (16, 20),  # 20 ms between states, as in the real ones
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}
REAL = {
    "wav2vec2": (Wav2Vec2Model, Wav2Vec2Config, {}),
    "wavlm": (
        WavLMModel,
        WavLMConfig,
        {"feat_extract_norm": "layer", "do_stable_layer_norm": True},
    ),
    "hubert": (HubertModel, HubertConfig, {}),
    "data2vec": (Data2VecAudioModel, Data2VecAudioConfig, {"conv_pos_kernel_size": 3}),
}


def folder_of(kind: str, folder: Path, *, pickled: bool = False) -> Path:
    """A model with random weights and its feature extractor, as save_pretrained writes them."""
    model, config, given = REAL[kind]
    torch.manual_seed(0)
    net = model(config(**SMALL, **given))
    net.save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=kind != "hubert").save_pretrained(folder)
    if pickled:
        (folder / "model.safetensors").unlink()
        torch.save(net.state_dict(), folder / "pytorch_model.bin")
    return folder


def torchaudio_params() -> dict:
    return {
        "extractor_mode": "group_norm",
        "extractor_conv_layer_config": [[8, 10, 16], [8, 8, 20]],
        "extractor_conv_bias": False,
        "encoder_embed_dim": 16,
        "encoder_projection_dropout": 0.0,
        "encoder_pos_conv_kernel": 8,
        "encoder_pos_conv_groups": 2,
        "encoder_num_layers": 3,
        "encoder_num_heads": 2,
        "encoder_attention_dropout": 0.0,
        "encoder_ff_interm_features": 32,
        "encoder_ff_interm_dropout": 0.0,
        "encoder_dropout": 0.0,
        "encoder_layer_norm_first": False,
        "encoder_layer_drop": 0.0,
        "aux_num_out": None,
    }


def torchaudio_folder(folder: Path, factory: str = "wav2vec2_model") -> Path:
    pytest.importorskip("torchaudio", reason="torchaudio is not installed (the extra `voice`)")
    params = torchaudio_params()
    if factory == "wavlm_model":
        params |= {"encoder_num_buckets": 16, "encoder_max_distance": 40}
    torch.manual_seed(0)
    TorchaudioEncoder(factory, params, normalize=True).save_pretrained(folder)
    return folder


def made(kind: str, folder: Path) -> Path:
    if kind.startswith("torchaudio"):
        return torchaudio_folder(folder, kind.removeprefix("torchaudio:"))
    return folder_of(kind, folder)


KINDS = [*REAL, "torchaudio:wav2vec2_model", "torchaudio:wavlm_model"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> SpeechEncoder:
    return SpeechEncoder.load(folder_of("wavlm", tmp_path_factory.mktemp("wavlm")), layer=2)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_reads_speech_and_survives_its_folder(kind: str, tmp_path: Path) -> None:
    first = SpeechEncoder.load(made(kind, tmp_path / "a"))
    assert (first.layer, first.width, first.model.training) == (2, 16, False)
    x = sentence()
    h = first.embed([x, 0.5 * x[: len(x) // 2]])
    assert h.shape == (2, 16)
    assert h.dtype == torch.float32
    assert torch.isfinite(h).all()
    again = SpeechEncoder.load(first.save(tmp_path / "b"), layer=2)
    assert torch.equal(again.embed([x]), h[:1])
    assert again.digest == first.digest
    other = SpeechEncoder.load(tmp_path / "b", layer=1)
    assert other.digest != first.digest
    assert (other.embed([x]) - h[:1]).abs().max() > 1e-4


def test_a_state_is_the_layer_of_transformers(encoder: SpeechEncoder) -> None:
    x = sentence()
    given = encoder.extractor(x, sampling_rate=16000, return_tensors="pt").input_values
    with torch.inference_mode():
        states = encoder.model(given, output_hidden_states=True).hidden_states
    found = encoder.frames(x)
    assert torch.equal(found, states[2][0])
    assert len(encoder.centres(len(found))) == len(found)
    # kernels of 10 and 8 with strides of 16 and 20: 122 samples seen, 320 between
    assert encoder.centres(2).tolist() == [60.5, 380.5]


def test_torchaudio_and_transformers_read_the_same_from_the_same_weights(tmp_path: Path) -> None:
    torchaudio = pytest.importorskip(
        "torchaudio", reason="torchaudio is not installed (the extra `voice`)"
    )
    ours = SpeechEncoder.load(folder_of("wav2vec2", tmp_path / "hf"))
    from torchaudio.models.wav2vec2.utils import import_huggingface_model
    from transformers import Wav2Vec2ForCTC

    wrapped = Wav2Vec2ForCTC(ours.model.config)
    wrapped.wav2vec2 = ours.model
    net = import_huggingface_model(wrapped.eval())
    assert isinstance(net, torchaudio.models.Wav2Vec2Model)
    theirs = TorchaudioEncoder("wav2vec2_model", torchaudio_params(), normalize=True)
    state = {k: v for k, v in net.state_dict().items() if not k.startswith("aux.")}
    theirs.net.load_state_dict(state)
    theirs.save_pretrained(tmp_path / "ta")
    read = SpeechEncoder.load(tmp_path / "ta")
    x = sentence()
    assert torch.allclose(read.frames(x), ours.frames(x), atol=1e-3)
    assert read.centres(3).tolist() == ours.centres(3).tolist()


def test_only_speech_counts(encoder: SpeechEncoder) -> None:
    x = sentence()
    padded = np.concatenate([x, np.zeros(16000, dtype=np.float32)])
    states = encoder.frames(padded)
    said = np.zeros(1 + len(padded) // 256, dtype=bool)
    said[10:20] = True
    at = np.flatnonzero(
        said[np.clip(np.rint(encoder.centres(len(states)) / 256), 0, 999).astype(int)]
    )
    assert 7 <= len(at) <= 9
    assert torch.allclose(encoder.pooled(states, said), states[at].mean(dim=0))
    # nobody speaks: all of it, and no division by nothing
    assert torch.allclose(encoder.pooled(states, said & False), states.mean(dim=0))
    assert torch.isfinite(encoder.embed([np.zeros(8000)])).all()


def test_long_recordings_are_read_in_parts(
    encoder: SpeechEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = np.tile(sentence(), 3)
    whole = encoder.frames(x)
    monkeypatch.setattr(module, "WINDOW", 2 * 16000 + 77)
    monkeypatch.setattr(module, "MARGIN", 8000)
    parts = encoder.frames(x)
    assert parts.shape == whole.shape
    # attention sees less, so not the same; but every state is where it belongs
    cosine = torch.nn.functional.cosine_similarity(parts, whole)
    shifted = torch.nn.functional.cosine_similarity(parts[1:], whole[:-1])
    assert cosine.mean() > 0.99
    assert cosine.mean() > shifted.mean() + 0.01


@pytest.mark.parametrize("samples", [1, 200, 1600, 16000])
def test_short_sounds_can_be_read(encoder: SpeechEncoder, samples: int) -> None:
    assert torch.isfinite(encoder.embed([np.full(samples, 0.1)])).all()


def test_other_rates_are_resampled(encoder: SpeechEncoder) -> None:
    from pipelines.media_sound import resample

    x = voiced(glide(110, 160, 1.0))
    twice = resample(x[None], 16000, 32000)[0]
    near = torch.nn.functional.cosine_similarity(encoder.embed([x]), encoder.embed([twice], 32000))
    assert near > 0.98


def test_half_precision_keeps_the_digest(encoder: SpeechEncoder) -> None:
    before = encoder.digest
    encoder.model.to(torch.bfloat16)
    assert encoder.digest == before
    encoder.model.to(torch.float32)  # values stay rounded; the other tests compare with themselves
    assert encoder.digest == before


@pytest.mark.parametrize("layer", [0, 4, -1])
def test_a_layer_that_is_not_there_is_refused(encoder: SpeechEncoder, layer: int) -> None:
    with pytest.raises(SpeechEncoderError, match=r"^layer: 1 to 3 of[^\n]*leave it out for 2$"):
        SpeechEncoder(encoder.model, encoder.extractor, layer)


def one_line(error: pytest.ExceptionInfo[BaseException]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nobody/has-such-a-model", "hf download nobody/has-such-a-model"),
        ("torchaudio:HUBERT_BASE", "python -m adapters.torchaudio_encoder torchaudio:HUBERT_BASE"),
        ("torchaudio:HUBERT_BAS", "torchaudio has no 'HUBERT_BAS'; it has HUBERT_ASR_LARGE"),
    ],
)
def test_names_without_weights_are_told_in_one_line(
    name: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name.startswith("torchaudio"):
        pytest.importorskip("torchaudio", reason="torchaudio is not installed (the extra `voice`)")
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(SpeechEncoderError) as error:
        SpeechEncoder.load(name)
    assert words in one_line(error)


def test_folders_that_hold_none_are_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SpeechEncoderError) as error:
        SpeechEncoder.load(tmp_path / "empty")
    assert "save_pretrained" in one_line(error)
    BertModel(
        BertConfig(
            vocab_size=8,
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            intermediate_size=8,
        )
    ).save_pretrained(tmp_path / "bert")
    with pytest.raises(SpeechEncoderError) as error:
        SpeechEncoder.load(tmp_path / "bert")
    assert "is of type bert; known: data2vec-audio, hubert" in one_line(error)
    folder_of("hubert", tmp_path / "bare")
    (tmp_path / "bare" / "preprocessor_config.json").unlink()
    with pytest.raises(SpeechEncoderError) as error:
        SpeechEncoder.load(tmp_path / "bare")
    assert "feature extractor" in one_line(error)


def test_a_checkpoint_that_lacks_weights_is_not_filled_with_noise(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = folder_of("hubert", tmp_path / "hubert")
    state = load_file(folder / "model.safetensors")
    gone = next(key for key in sorted(state) if "layers.1" in key)
    del state[gone]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SpeechEncoderError) as error:
        SpeechEncoder.load(folder)
    assert "lacks 1 weights" in one_line(error)


@pytest.mark.parametrize("disguise", ["pytorch_model.bin", "extra.safetensors", "modeling.py"])
def test_pickles_and_code_are_refused(disguise: str, tmp_path: Path) -> None:
    folder = folder_of("wav2vec2", tmp_path, pickled=disguise == "pytorch_model.bin")
    if disguise == "extra.safetensors":
        torch.save({"a": torch.zeros(1)}, folder / disguise)
    elif disguise == "modeling.py":
        (folder / disguise).write_text("print('hello')")
    with pytest.raises(SpeechEncoderError) as error:
        SpeechEncoder.load(folder)
    assert disguise in one_line(error)


def test_a_repository_in_the_cache_is_found_by_name_and_its_pickle_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The layout of the Hugging Face cache, as `hf download` makes it."""
    import huggingface_hub.constants as constants

    for owner, pickled in (("some", False), ("others", True)):
        root = tmp_path / f"models--{owner}--voice"
        folder_of("wavlm", root / "snapshots" / "abc", pickled=pickled)
        (root / "refs").mkdir()
        (root / "refs" / "main").write_text("abc")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    for place in ("transformers.utils.hub", "huggingface_hub.file_download"):
        target = __import__(place, fromlist=["x"])
        for name in ("TRANSFORMERS_CACHE", "HF_HUB_CACHE"):
            if hasattr(target, name):
                monkeypatch.setattr(target, name, str(tmp_path))
    assert SpeechEncoder.load("some/voice", offline=True).width == 16
    with pytest.raises(SpeechEncoderError) as error:
        SpeechEncoder.load("others/voice", offline=True)
    assert "no safetensors of others/voice" in one_line(error)


def test_a_bundle_is_converted_once_and_then_loaded_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torchaudio = pytest.importorskip(
        "torchaudio", reason="torchaudio is not installed (the extra `voice`)"
    )
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    bundle = torchaudio.pipelines.Wav2Vec2Bundle(
        _path="tiny.pth",
        _params=torchaudio_params(),
        _sample_rate=16000,
        _normalize_waveform=True,
        _model_type="Wav2Vec2",
    )
    monkeypatch.setattr(torchaudio.pipelines, "TINY", bundle, raising=False)
    torch.manual_seed(3)
    net = torchaudio.models.wav2vec2_model(**torchaudio_params()).eval()
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(net.state_dict(), tmp_path / "hub" / "checkpoints" / "tiny.pth")
    with pytest.raises(SpeechEncoderError, match="convert it once"):
        SpeechEncoder.load("torchaudio:TINY")
    assert main(["torchaudio:TINY"]) == 0
    assert capsys.readouterr().out.strip() == str(converted_folder("torchaudio:TINY"))
    encoder = SpeechEncoder.load("torchaudio:TINY", layer=3)
    x = sentence()
    given = torch.nn.functional.layer_norm(torch.from_numpy(x), (len(x),))[None]
    with torch.inference_mode():
        expected = net.extract_features(given)[0][2][0]
    assert torch.allclose(encoder.frames(x), expected, atol=1e-5)

    class Trap:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"a": Trap()}, tmp_path / "hub" / "checkpoints" / "tiny.pth")
    with pytest.raises(SpeechEncoderError) as error:
        convert("torchaudio:TINY", tmp_path / "out")
    assert "cannot fetch torchaudio:TINY (UnpicklingError)" in one_line(error)
    assert not (tmp_path / "ran").exists()
    assert main(["HUBERT_BASE"]) == 2
    assert main(["torchaudio:NONE"]) == 2


# Directions --------------------------------------------------------------------------------------


def test_planted_directions_are_recovered_and_people_projected_out() -> None:
    rng = np.random.default_rng(0)
    d, people = 64, 6
    basis = np.linalg.qr(rng.normal(size=(d, d)))[0]
    speakers = 3.0 * rng.normal(size=(people, 5)) @ basis[:5]
    planted = {name: 2.0 * basis[10 + k] for k, name in enumerate(("anger", "fear", "sadness"))}
    differences = {
        # every emotion also drags along what tells people apart
        name: torch.from_numpy(v + basis[:5].sum(axis=0) + 0.1 * rng.normal(size=(40, d)))
        for name, v in planted.items()
    }
    bank = directions_from(differences, torch.from_numpy(speakers), digest="x")
    D = bank.vectors[SPEECH].double().numpy()
    for name, v in planted.items():
        row = D[CORE.index(name)]
        assert row @ v / np.linalg.norm(row) / np.linalg.norm(v) > 0.98
        assert np.linalg.norm(row) == pytest.approx(2.0, abs=0.1)
        assert np.abs(row @ basis[:5].T).max() < 0.05
    plain = directions_from(differences, torch.from_numpy(speakers), digest="x", speaker_axes=0)
    assert np.abs(plain.vectors[SPEECH][CORE.index("anger")].double().numpy() @ basis[0]) > 0.9
    assert bank.kept[SPEECH][CORE.index("anger")] < 0.8
    assert bank.kept[SPEECH][CORE.index("awe")] == 1.0
    # unmeasured emotions are their valence, arousal and dominance, no more
    W = bank.W[SPEECH].double().numpy()
    assert np.allclose(D[CORE.index("awe")], VAD[CORE.index("awe")] @ W, atol=1e-5)
    assert not np.allclose(D[CORE.index("anger")], VAD[CORE.index("anger")] @ W, atol=0.1)


def test_directions_of_recordings_are_means_of_differences(
    encoder: SpeechEncoder, tmp_path: Path
) -> None:
    calm = {name: sentence(pitch=hz) for name, hz in (("one", 110.0), ("two", 190.0))}
    high = {name: sentence(pitch=1.5 * hz) for name, hz in (("one", 110.0), ("two", 190.0))}
    pairs = [SpeechPair(calm[name], high[name], "anger", name) for name in calm]
    bank = fit_speech_directions(encoder, pairs, speaker_axes=0)
    expected = (encoder.embed(list(high.values())) - encoder.embed(list(calm.values()))).mean(dim=0)
    row = bank.vectors[SPEECH][CORE.index("anger")]
    assert torch.allclose(row, expected, atol=1e-5)
    assert (bank.digest, bank.pairs, bank.family) == (encoder.digest, 2, SPEECH)
    half = fit_speech_directions(
        encoder, [pair._replace(intensity=2.0) for pair in pairs], speaker_axes=0
    )
    assert torch.allclose(half.vectors[SPEECH], 0.5 * bank.vectors[SPEECH], atol=1e-6)
    again = DirectionBank.load(bank.save(tmp_path / "directions.safetensors"))
    assert torch.equal(again.vectors[SPEECH], bank.vectors[SPEECH])
    track = np.zeros((3, 12))
    track[1, CORE.index("anger")] = 0.5
    moved = again.offsets(track)[SPEECH]
    assert torch.allclose(moved[1], 0.5 * row)
    assert not moved[[0, 2]].any()
    # what people differ in goes out: two people, one axis
    clean = fit_speech_directions(encoder, pairs)
    axis = encoder.embed([calm["one"]])[0] - encoder.embed([calm["two"]])[0]
    axis = axis / axis.norm()
    assert (clean.vectors[SPEECH][CORE.index("anger")] @ axis).abs() < 1e-5


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        ([], "received no pairs"),
        ([("joyous", 1.0)], "received 'joyous'"),
        ([("anger", 0.0)], "an intensity above 0 is needed, received 0.0"),
    ],
)
def test_pairs_that_say_nothing_are_refused(
    encoder: SpeechEncoder, pairs: list, words: str
) -> None:
    x = sentence()[:8000]
    with pytest.raises(SpeechEncoderError) as error:
        fit_speech_directions(
            encoder, [SpeechPair(x, x, name, "a", intensity) for name, intensity in pairs]
        )
    assert words in one_line(error)


@pytest.mark.parametrize("sound", [np.zeros(0), np.full(100, np.nan), np.zeros((3, 3, 3))])
def test_sounds_that_cannot_be_read_are_refused(encoder: SpeechEncoder, sound: np.ndarray) -> None:
    with pytest.raises(VoiceError) as error:
        encoder.embed([sound])
    one_line(error)
    with pytest.raises(SpeechEncoderError, match="give at least one"):
        encoder.embed([])


def test_a_folder_of_torchaudio_says_what_it_is(tmp_path: Path) -> None:
    folder = torchaudio_folder(tmp_path / "a")
    config = json.loads((folder / "config.json").read_text())
    assert config["_class_name"] == "TorchaudioEncoder"
    assert default_layer(SpeechEncoder.load(folder).model) == 2
    shutil.copytree(folder, tmp_path / "b")
    config["factory"] = "os.system"
    (tmp_path / "b" / "config.json").write_text(json.dumps(config))
    with pytest.raises(SpeechEncoderError) as error:
        SpeechEncoder.load(tmp_path / "b")
    assert "convert the bundle again" in one_line(error)


def test_the_class_of_a_folder_is_that_of_transformers(tmp_path: Path) -> None:
    folder = folder_of("hubert", tmp_path)
    assert type(SpeechEncoder.load(folder).model) is type(AutoModel.from_pretrained(folder))
