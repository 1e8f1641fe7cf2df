"""Text to speech: espeak-ng where it is installed, and tiny random models of the real classes."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from transformers import (
    SpeechT5Config,
    SpeechT5ForTextToSpeech,
    SpeechT5HifiGan,
    SpeechT5HifiGanConfig,
    SpeechT5Tokenizer,
    VitsConfig,
    VitsModel,
    VitsTokenizer,
)

from adapters.voice_analysis import analyse
from pipelines import speech
from pipelines.speech import PEAK, SpeechError, cleaned, espeak, languages, sentences, speak

LETTERS = " abcdefghijklmnopqrstuvwxyz'-"
ESPEAK = pytest.mark.skipif(
    espeak() is None, reason="espeak-ng is not installed (apt-get install espeak-ng)"
)
SENTENCE = "We are closing the shop."


def one_line(error: pytest.ExceptionInfo[BaseException]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 700
    return text


# --- text


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("  We are\n\tclosing. ", "We are closing."),
        ("a\x00b\x1b[31mc\x7f", "ab[31mc"),
        ("left\u202eright\ufeff\u200b", "leftright"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("half \ud83d of it", "half of it"),
        ("7", "7"),
    ],
)
def test_control_characters_are_left_out(text: str, kept: str) -> None:
    assert cleaned(text) == kept


@pytest.mark.parametrize("text", ["", " \n", "...!?", "\x00\x1b", "🌊"])
def test_text_that_cannot_be_spoken(text: str) -> None:
    with pytest.raises(SpeechError, match="nothing in it can be spoken") as error:
        speak(text)
    one_line(error)


def test_text_that_is_too_long() -> None:
    with pytest.raises(SpeechError, match="at most 5000 characters are spoken, received 5001"):
        speak("a" * 5001)


def test_sentences_are_cut_where_a_reader_would_breathe() -> None:
    assert sentences("One. Two! Three?") == ["One.", "Two!", "Three?"]
    assert sentences("It is 3.14 or so.") == ["It is 3.14 or so."]
    assert sentences("一。二。") == ["一。", "二。"]
    long = "word " * 100 + "and, after a comma, " + "more " * 50
    parts = sentences(long)
    assert max(map(len, parts)) <= 300
    assert " ".join(parts).split() == long.split()
    assert max(map(len, sentences("x" * 1000))) == 300


# --- espeak-ng


@ESPEAK
def test_espeak_speaks_like_a_person_at_rest() -> None:
    samples, rate, name = speak(f"{SENTENCE} Please take your things with you.")
    assert (samples.dtype, samples.ndim, rate) == (np.float32, 1, 22_050)
    assert np.abs(samples).max() == pytest.approx(PEAK)
    assert name.startswith("espeak-ng 1.")
    assert name.endswith(" en-us+f2")
    found = analyse(samples, rate)
    assert 2.5 < found.seconds < 6
    pitch = found.f0[found.voiced & found.speech]
    assert 150 < np.median(pitch) < 230, "a woman's voice"
    assert not found.speech[:4].any(), "silence before"
    assert not found.speech[-4:].any(), "silence behind"


@ESPEAK
def test_espeak_is_the_same_every_time_and_knows_voices_and_languages() -> None:
    first, rate, name = speak(SENTENCE)
    again, _, _ = speak(SENTENCE, speech="espeak", seed=7)
    assert (first == again).all()
    man, _, other = speak(SENTENCE, speaker="m3")
    assert other != name
    pitch = [np.median(v.f0[v.voiced]) for v in (analyse(first, rate), analyse(man, rate))]
    assert pitch[0] > 1.3 * pitch[1]
    german, _, third = speak("Wir schließen den Laden.", language="de")
    assert third.endswith(" de+f2")
    assert len(german) != len(first)
    assert {"en", "en-us", "de", "fr", "pt-br"} <= set(languages())
    assert speak(SENTENCE, language="en_US", speaker="+Annie")[2].endswith("en-us+Annie")


@ESPEAK
def test_espeak_is_given_text_and_never_options() -> None:
    """What looks like an option, a phoneme code or markup is read out."""
    plain = len(speak("hello")[0])
    for text in ("-v de hello", "--version hello", "[[hello]] there", "<break time='9s'/> hello"):
        assert plain < len(speak(text)[0]) < 8 * plain


@ESPEAK
@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"language": "qq"}, "language: espeak-ng has no 'qq'; there are .*, de,"),
        ({"language": "eng"}, "there are en,"),
        ({"language": "../../etc/passwd"}, "language: espeak-ng has no"),
        ({"language": ""}, "language: espeak-ng has no ''"),
        ({"speaker": "zed"}, "speaker: espeak-ng has no voice 'zed'"),
        ({"speaker": "../f2"}, "speaker: espeak-ng has no voice"),
        ({"speaker": "f2 --path=/"}, "speaker: espeak-ng has no voice"),
    ],
)
def test_unknown_voices_are_told(options: dict[str, str], says: str) -> None:
    with pytest.raises(SpeechError, match=says) as error:
        speak("hello", **options)
    one_line(error)


def test_without_espeak_the_way_on_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert espeak() is None
    assert languages() == ()
    for how in ("auto", "espeak"):
        with pytest.raises(SpeechError, match="apt-get install espeak-ng") as error:
            speak(SENTENCE, speech=how)
        assert "--speech" in one_line(error)
        assert "--audio" in one_line(error)


@pytest.mark.skipif(os.name != "posix", reason="a shell script stands in")
@pytest.mark.parametrize("body", ["exit 3", "echo no sound", "kill -9 $$", "exit 0"])
def test_a_broken_espeak_is_one_line(
    body: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "espeak-ng"
    table = "Pty Language\\n 5 en x\\n"
    program.write_text(
        f'#!/bin/sh\ncase "$1" in --version) echo "eSpeak 9.9";; --voices) printf "{table}";; '
        f"*) {body};; esac\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(SpeechError, match=r"install it again|made no sound") as error:
        speak(SENTENCE)
    one_line(error)


# --- transformers


def tiny_vits(folder: Path, speakers: int = 1, **options: Any) -> Path:
    """A VITS of the real class, as MMS voices are saved: letters without punctuation."""
    folder.mkdir(parents=True)
    vocab = folder / "letters.json"
    letters = sorted(LETTERS, key=lambda letter: letter != "k")  # MMS: the first one is the blank
    vocab.write_text(json.dumps({letter: i for i, letter in enumerate(letters)}))
    VitsTokenizer(
        str(vocab), pad_token="k", unk_token="<unk>", phonemize=False, **options
    ).save_pretrained(folder)
    vocab.unlink()
    torch.manual_seed(0)
    VitsModel(
        VitsConfig(
            vocab_size=len(LETTERS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
            ffn_dim=16, flow_size=16, spectrogram_bins=9, prior_encoder_num_flows=1,
            prior_encoder_num_wavenet_layers=1, posterior_encoder_num_wavenet_layers=1,
            duration_predictor_num_flows=1, duration_predictor_filter_channels=16,
            depth_separable_num_layers=1, upsample_initial_channel=16, upsample_rates=[8, 8],
            upsample_kernel_sizes=[16, 16], resblock_kernel_sizes=[3], wavenet_dilation_rate=1,
            resblock_dilation_sizes=[[1, 3]], num_speakers=speakers,
            speaker_embedding_size=8 if speakers > 1 else 0,
        )
    ).save_pretrained(folder)  # fmt: skip
    return folder


def tiny_speecht5(folder: Path, vocoder: bool = True) -> Path:
    """A SpeechT5 of the real class with its HiFi-GAN and a tokenizer of single characters."""
    import sentencepiece

    folder.mkdir(parents=True)
    corpus = folder / "letters.txt"
    corpus.write_text("\n".join([LETTERS, SENTENCE, "HELLO, THERE!", "pack my box"] * 20))
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(folder / "spm_char"), model_type="char",
        vocab_size=48, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    tokenizer = SpeechT5Tokenizer(str(folder / "spm_char.model"))
    tokenizer.save_pretrained(folder)
    corpus.unlink()
    torch.manual_seed(0)
    size = {"hidden_size": 16, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    model = SpeechT5ForTextToSpeech(
        SpeechT5Config(
            vocab_size=len(tokenizer), encoder_layers=1, decoder_layers=1,
            encoder_attention_heads=2, decoder_attention_heads=2, num_mel_bins=8,
            speech_decoder_prenet_units=8, speech_decoder_postnet_units=8,
            speech_decoder_postnet_layers=1, speaker_embedding_dim=512, **size,
        )
    )  # fmt: skip
    torch.nn.init.constant_(model.speech_decoder_postnet.prob_out.bias, -5)  # or it stops at once
    model.save_pretrained(folder)
    if vocoder:
        SpeechT5HifiGan(
            SpeechT5HifiGanConfig(
                model_in_dim=8, upsample_initial_channel=8, upsample_rates=[8, 8],
                upsample_kernel_sizes=[16, 16], resblock_kernel_sizes=[3],
                resblock_dilation_sizes=[[1]], initializer_range=0.5,
            )
        ).save_pretrained(folder / "vocoder")  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def vits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_vits(tmp_path_factory.mktemp("models") / "mms-tts-toy")


@pytest.fixture(scope="module")
def speecht5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_speecht5(tmp_path_factory.mktemp("models") / "speecht5-toy")


@pytest.mark.parametrize("which", ["vits", "speecht5"])
def test_models_speak_the_same_for_a_seed(which: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(which)
    state = torch.random.get_rng_state()
    samples, rate, name = speak(SENTENCE, speech=str(folder), seed=3)
    assert (torch.random.get_rng_state() == state).all(), "the global generator is left alone"
    assert (samples.dtype, samples.ndim, rate) == (np.float32, 1, 16_000)
    assert np.abs(samples).max() == pytest.approx(PEAK)
    assert len(samples) > 0.25 * rate
    again, _, same = speak(SENTENCE, speech=str(folder), seed=3, offline=True)
    assert (samples == again[: len(samples)]).all()
    assert same == name
    assert name.startswith(folder.name)
    other, _, _ = speak(SENTENCE, speech=str(folder), seed=4)
    assert len(other) != len(samples) or (other != samples).any()
    longer, _, _ = speak(f"{SENTENCE} {SENTENCE}", speech=str(folder), seed=3)
    assert len(longer) > 1.4 * len(samples)


def test_the_name_tells_other_weights(vits: Path, tmp_path: Path) -> None:
    other = tiny_vits(tmp_path / vits.name)
    model = VitsModel.from_pretrained(other)
    with torch.no_grad():
        model.text_encoder.embed_tokens.weight[3] += 1
    model.save_pretrained(other)
    names = [speak("hello", speech=str(folder))[2] for folder in (vits, other)]
    assert names[0] != names[1]
    assert names[0].split()[0] == names[1].split()[0]


def test_vits_voices_of_several_speakers(vits: Path, tmp_path: Path) -> None:
    folder = str(tiny_vits(tmp_path / "many", speakers=3))
    voices = {n: speak("hello", speech=folder, speaker=n) for n in ("", "0", "2")}
    assert (voices[""][0] == voices["0"][0]).all()
    assert voices["2"][2].endswith("speaker 2")
    assert voices["2"][0].shape != voices["0"][0].shape or (voices["2"][0] != voices["0"][0]).any()
    for speaker in ("3", "-1", "anna", "²"):
        with pytest.raises(SpeechError, match="speaker: 0 to 2, received") as error:
            speak("hello", speech=folder, speaker=speaker)
        one_line(error)
    with pytest.raises(SpeechError, match="one voice, so leave it out"):
        speak("hello", speech=str(vits), speaker="1")


def test_speecht5_takes_a_vector_of_a_speaker(speecht5: Path, tmp_path: Path) -> None:
    vector = np.random.default_rng(0).standard_normal(512).astype(np.float32)
    np.save(tmp_path / "anna.npy", vector[None])
    save_file({"x": vector}, tmp_path / "anna.safetensors")
    zeros, _, plain = speak("hello", speech=str(speecht5))
    one, _, name = speak("hello", speech=str(speecht5), speaker=str(tmp_path / "anna.npy"))
    two, _, same = speak("hello", speech=str(speecht5), speaker=str(tmp_path / "anna.safetensors"))
    assert name == same != plain
    assert str(tmp_path) not in name, "a path tells who made it"
    assert (one == two).all()
    assert one.shape != zeros.shape or (one != zeros).any()


def test_vectors_that_are_none(speecht5: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "short.npy", np.zeros(100))
    np.save(tmp_path / "nan.npy", np.full(512, np.nan))
    np.save(tmp_path / "pickle.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    (tmp_path / "text.npy").write_text("hello")
    (tmp_path / "x.txt").write_text("hello")
    save_file({"a": np.zeros(512), "b": np.zeros(512)}, tmp_path / "two.safetensors")
    (tmp_path / "large.npy").write_bytes(bytes(3 << 20))
    for name in ("short.npy", "nan.npy", "pickle.npy", "text.npy", "x.txt", "two.safetensors",
                 "large.npy", "gone.npy"):  # fmt: skip
        with pytest.raises(SpeechError, match="one vector of 512 numbers") as error:
            speak("hello", speech=str(speecht5), speaker=str(tmp_path / name))
        one_line(error)


def test_letters_that_a_model_does_not_know(vits: Path, tmp_path: Path) -> None:
    with pytest.raises(SpeechError, match=r"knows no letter of '你好'.* another voice") as error:
        speak("你好", speech=str(vits))
    one_line(error)
    uroman = tiny_vits(tmp_path / "uroman", is_uroman=True)
    with pytest.raises(SpeechError, match="the package uroman"):
        speak("你好", speech=str(uroman))
    some, _, _ = speak("hello. 你好. hello", speech=str(vits))
    assert len(some) > 0


def spoilt(folder: Path, how: str) -> None:
    weights = folder / "model.safetensors"
    if how == "pickled only":
        weights.rename(folder / "pytorch_model.bin")
    elif how == "cut":
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif how == "no tokenizer":
        for name in ("vocab.json", "tokenizer_config.json"):
            (folder / name).unlink()
    elif how == "no config":
        (folder / "config.json").unlink()
    elif how == "half of the weights":
        from safetensors.numpy import load_file

        tensors = load_file(weights)
        save_file(dict(list(tensors.items())[::2]), weights, metadata={"format": "pt"})
    elif how == "another kind":
        (folder / "config.json").write_text('{"model_type": "bark"}')


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("pickled only", "safetensors"),
        ("cut", "cannot load"),
        ("no tokenizer", "cannot load"),
        ("no config", "cannot load"),
        ("half of the weights", "the weights lack"),
        ("another kind", r"is of kind bark; VITS \(MMS\) and SpeechT5 models can speak"),
    ],
)
def test_folders_that_cannot_speak(how: str, says: str, tmp_path: Path) -> None:
    folder = tiny_vits(tmp_path / "voice")
    spoilt(folder, how)
    with pytest.raises(SpeechError, match=says) as error:
        speak("hello", speech=str(folder))
    one_line(error)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("/nowhere/at/all", "no folder /nowhere/at/all"),
        ("./voice", "no folder ./voice"),
        ("facebook/mms-tts-eng", "hf download facebook/mms-tts-eng"),
        ("not a name at all", "cannot load|not on this machine"),
        ("", "cannot load|not on this machine"),
        ("x" * 300, "cannot load|not on this machine"),
    ],
)
def test_names_of_nothing(source: str, says: str) -> None:
    with pytest.raises(SpeechError, match=says) as error:
        speak("hello", speech=source)
    one_line(error)


def test_speecht5_needs_a_vocoder(tmp_path: Path) -> None:
    folder = tiny_speecht5(tmp_path / "voice", vocoder=False)
    with pytest.raises(SpeechError, match="speecht5_hifigan") as error:
        speak("hello", speech=str(folder))
    one_line(error)


def test_a_cached_model_is_found_by_its_name(
    vits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the layout of the Hugging Face cache, offline."""
    import huggingface_hub
    import transformers.utils.hub

    snapshot = tmp_path / "models--toys--mms-tts-toy" / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    refs = snapshot.parent.parent / "refs"
    refs.mkdir()
    (refs / "main").write_text("a" * 40)
    for file in vits.iterdir():
        (snapshot / file.name).write_bytes(file.read_bytes())
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(transformers.utils.hub.constants, "HF_HUB_CACHE", str(tmp_path))
    samples, _, name = speak("hello", speech="toys/mms-tts-toy", offline=True)
    beside, _, other = speak("hello", speech=str(vits))
    assert (samples == beside).all()
    assert name.split() == ["toys/mms-tts-toy", other.split()[1]]
    assert speech._loaded.cache_info().maxsize == 1, "models are large: one is kept"
