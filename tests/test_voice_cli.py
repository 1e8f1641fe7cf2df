"""Voices on the command line: make, grid, score, remake, show, page; one line for every mistake."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.media import load_image, read_metadata
from pipelines.media_sound import encode_sound, load_sound
from pipelines.take import Take
from studio.cli import run
from studio.source import neutral_of, recording_of
from tests import speech
from tests.tiny import tiny_voice

FAST = ["--steps", "2"]
KEPT = ("takes.jsonl", ".takes.lock")
needs_espeak = pytest.mark.skipif(not shutil.which("espeak-ng"), reason="espeak-ng is not here")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_voice(tmp_path_factory.mktemp("weights") / "voice"))


@pytest.fixture(scope="module")
def wav(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1.9 s of a synthetic voice that carries no mark of ours."""
    path = tmp_path_factory.mktemp("speech") / "speech.wav"
    path.write_bytes(encode_sound(0.7 * speech.sentence(), 16000, {}))
    return path


@pytest.fixture(scope="module")
def made(weights: str, wav: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An angry take of the recording, read against it."""
    out = tmp_path_factory.mktemp("made")
    arguments = ["make", "voice", "--audio", str(wav), "-e", "anger .7", "--seed", "3"]
    assert run([*arguments, "--source", "neutral", "-b", weights, "--out", str(out), *FAST]) == 0
    return next(path for path in out.rglob("*.wav"))


def files(folder: Path) -> list[Path]:
    """What a run has left in a folder, besides ledger and lock."""
    return [path for path in folder.rglob("*") if path.is_file() and path.name not in KEPT]


# Bad input: one line, exit 2, nothing started ---------------------------------------------------

BAD_INPUT = {
    "neither words nor recording": ([], ["--audio", "--text"]),
    "both": (["--audio", "{wav}", "--text", "hello"], ["both"]),
    "no such file": (["--audio", "{missing}"], ["missing.wav"]),
    "not a sound": (["--audio", "{text}"], ["text.wav", "WAV, FLAC or MP3"]),
    "too short": (["--audio", "{short}"], ["short.wav", "0.05 s"]),
    "no numbers": (["--audio", "{nan}"], ["nan.wav", "numbers"]),
    "eight bits": (["--audio", "{eight}"], ["eight.wav", "8 bits", "16 or more"]),
    "clipped": (["--audio", "{clipped}"], ["clipped.wav", "clipped", "lower level"]),
    "ten hours": (["--audio", "{hours}"], ["hours.wav", "10.0 hours"]),
    "empty": (["--audio", "{empty}"], ["empty.wav"]),
    "unknown emotion": (["--audio", "{wav}", "-e", "angr .5"], ["angr", "anger"]),
    "intensity over 1": (["--audio", "{wav}", "-e", "anger 1.3"], ["1.3", "--over"]),
    "unknown lock": (["--audio", "{wav}", "--lock", "pitch,words"], ["words", "timbre"]),
    "unknown gain": (["--audio", "{wav}", "--gain", "pitch=9"], ["gain", "pitch=9"]),
    "too long": (["--audio", "{wav}", "--seconds", "60"], ["seconds", "7.6"]),
    "two lengths": (["--audio", "{wav}", "--seconds", "2", "--keep-length"], ["--keep-length"]),
    "length and lock": (["--audio", "{wav}", "--seconds", "2", "--lock", "timing"], ["timing"]),
    "strange source": (["--audio", "{wav}", "--source", "sadnes .5"], ["source", "sadness"]),
    "strange engine": (["--audio", "{wav}", "--engine", "vocoder"], ["psola", "vocoder"]),
    "strange format": (["--audio", "{wav}", "--format", "ogg"], ["ogg", "flac"]),
    "no style": (["--audio", "{wav}", "--lora", "{missing}"], ["lora"]),
    "consent that is none": (["--audio", "{wav}", "--consent", "{missing}"], ["missing.wav"]),
    "consent of nobody": (["--text", "hello", "--consent", "{text}"], ["consent", "--audio"]),
    "unknown option": (["--audio", "{wav}", "--tempo", "3"], ["--tempo"]),
    "unknown backbone": (["--audio", "{wav}", "-b", "voice-tyni"], ["voice-tyni", "voice-tiny"]),
    "music's backbone": (["--audio", "{wav}", "-b", "music-tiny"], ["music-tiny", "not voices"]),
    "out is a file": (["--audio", "{wav}", "--out", "{text}"], ["text.wav", "--out"]),
}


@pytest.fixture
def bad(tmp_path: Path, wav: Path) -> dict[str, str]:
    """Everything the bad-input cases point at, by name."""
    text, short, nan = (tmp_path / f"{name}.wav" for name in ("text", "short", "nan"))
    text.write_text("not a sound")
    short.write_bytes(encode_sound(np.zeros(800), 16000, {}))
    import soundfile

    soundfile.write(nan, np.full(16000, np.nan), 16000, subtype="FLOAT")
    samples = soundfile.read(wav)[0]
    for name, sound, subtype in (
        ("eight", samples, "PCM_U8"),
        ("clipped", np.clip(20 * samples, -1, 1), "PCM_16"),
    ):
        soundfile.write(tmp_path / f"{name}.wav", sound, 16000, subtype=subtype)
    promised = bytearray(encode_sound(samples, 16000, {}))
    at = promised.index(b"data") + 4
    promised[at : at + 4] = (36_000 * 16_000 * 2).to_bytes(4, "little")
    (tmp_path / "hours.wav").write_bytes(promised)
    (tmp_path / "empty.wav").write_bytes(b"")
    names = ("text", "short", "nan", "eight", "clipped", "hours", "empty", "missing")
    return {"wav": str(wav), **{name: str(tmp_path / f"{name}.wav") for name in names}}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_line_and_starts_nothing(
    case: str,
    bad: dict[str, str],
    weights: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given, words = BAD_INPUT[case]
    out = tmp_path / "out"
    arguments = ["make", "voice", *(part.format(**bad) for part in given)]
    arguments += ["-e", "anger .7"] if "-e" not in given else []
    arguments += ["-b", weights] if "-b" not in given else []
    arguments += ["--out", str(out)] if "--out" not in given else []
    code = run(arguments)
    said = capsys.readouterr()
    assert (code, said.out) == (2, ""), said.err
    assert said.err.count("\n") == 1, said.err
    for word in words:
        assert word in said.err
    assert not out.exists() or files(out) == []


# Making ------------------------------------------------------------------------------------------


def test_a_take_says_everything_and_is_marked(made: Path, wav: Path) -> None:
    take = Take.read(made)
    assert take.request.modality == "voice"
    assert take.request.inputs["audio"] == wav
    assert take.reading is not None
    assert take.reading["consent"] == "not stated"
    assert take.reading["against"] == "the recording"
    cues = {row["name"]: row for row in take.reading["cues"]}
    assert cues["pitch_mean"]["expected"] > 0
    assert cues["pitch_mean"]["change"] > 1
    assert cues["hnr"]["expected"] is None
    assert read_metadata(made)["digital_source"].endswith("compositeWithTrainedAlgorithmicMedia")
    assert load_image(made.with_suffix(".png")).size == (1600, 1000)
    assert recording_of(take) == neutral_of(take) == wav


def test_make_prints_paths_and_tells_what_the_law_asks(
    weights: str, wav: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = shutil.copy(wav, tmp_path / "mine.wav")  # a notice is told once a process and file
    arguments = ["make", "voice", "--audio", str(mine), "-e", "sadness .5", "--seed", "7", "--n"]
    assert run([*arguments, "2", "-b", weights, "--out", str(tmp_path), *FAST]) == 0
    said = capsys.readouterr()
    takes = [Take.read(Path(line)) for line in said.out.splitlines()]
    assert [take.request.seed for take in takes] == [7, 8]
    assert said.err.count("Art. 50(4)") == 1


def test_the_commands_of_the_readme_do_what_they_say(
    weights: str, wav: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Keep the length, lock pitch and timing, fit a given length: to the sample."""
    base = ["make", "voice", "--audio", str(wav), "-b", weights, "--out", str(tmp_path), *FAST]
    before = load_sound(wav)
    for extra, seconds in (
        (["-e", "0s sadness .6; 1s happiness .8", "--keep-length"], before.seconds),
        (["-e", "fear .8", "--lock", "pitch,timing", "--variation", ".5"], before.seconds),
        (["-e", "awe .6", "--seconds", "2.5"], 2.5),
    ):
        assert run([*base, *extra, "--json"]) == 0
        data = json.loads(capsys.readouterr().out)
        assert load_sound(Path(data["path"])).seconds == pytest.approx(seconds, abs=1e-3)
        locked = "--lock" in extra
        rows = {row["name"]: row for row in data["reading"]["cues"]}
        assert (rows["pitch_mean"]["expected"] is None) == locked


def test_a_document_of_consent_goes_into_the_take(
    weights: str, wav: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paper = tmp_path / "agreement.txt"
    paper.write_text("I agree. A. Speaker")
    arguments = ["make", "voice", "--audio", str(wav), "-e", "fear .3", "--consent", str(paper)]
    assert run([*arguments, "-b", weights, "--out", str(tmp_path / "out"), *FAST]) == 0
    said = capsys.readouterr()
    take = Take.read(Path(said.out.strip()))
    assert take.request.inputs["consent"] == paper
    assert take.reading is not None
    assert take.reading["consent"] == "given"
    assert "not stated" not in said.err


@needs_espeak
def test_words_are_spoken_first_scored_and_shown(
    weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From words alone nobody's voice is in it: no consent, no notice, no flag to score it."""
    out = tmp_path / "out"
    words = "We are closing the shop."
    arguments = ["make", "voice", "--text", words, "-e", "sadness .8", "--seed", "1"]
    assert run([*arguments, "-b", weights, "--out", str(out), *FAST]) == 0
    said = capsys.readouterr()
    path = Path(said.out.strip())
    assert "consent" not in said.err
    assert "Art. 50" not in said.err
    neutral = recording_of(Take.read(path))
    assert neutral is not None
    assert neutral.name.endswith(".neutral.wav")

    assert run(["score", str(path), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert list(data["reading"]) == ["critic-voice", "reader-voice"]
    assert data["reference"] == str(neutral), "it was spoken neutrally, so both read against it"
    assert data["made_here"] is True

    assert run(["page", str(out)]) == 0
    text = Path(capsys.readouterr().out.strip()).read_text(encoding="utf-8")
    assert text.count("<article") == 1, "one card for the three files of a take"
    sounds = re.findall(r'<audio[^>]* src="([^"]+)"', text)
    assert [sound.endswith(".neutral.wav") for sound in sounds] == [True, False]
    assert all((out / sound).is_file() for sound in sounds)


def test_remake_from_the_file_alone(
    made: Path, wav: Path, weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = tmp_path / "elsewhere.wav"
    shutil.copy(made, moved)
    assert run(["remake", str(moved), "--out", str(tmp_path / "a")]) == 0
    again = Path(capsys.readouterr().out.strip())
    assert again.read_bytes() == made.read_bytes()

    changes = ["--emotion", "fear .4", "--seed", "9", "--format", "flac", "--lock", "pitch"]
    assert run(["remake", str(moved), *changes, "--out", str(tmp_path / "b")]) == 0
    other = Path(capsys.readouterr().out.strip())
    request = Take.read(other).request
    assert other.suffix == ".flac"
    assert (request.seed, request.emotion.text, request.params["lock"]) == (9, "fear 0.4", "pitch")

    slow = tmp_path / "slow.wav"
    slow.write_bytes(encode_sound(0.5 * speech.sentence(pitch=90.0), 16000, {}))
    assert run(["remake", str(moved), "--audio", str(slow), "--out", str(tmp_path / "c")]) == 0
    assert Take.read(Path(capsys.readouterr().out.strip())).request.inputs["audio"] == slow

    for wrong in (["--format", "png"], ["--recolour", str(wav)], ["--lora", str(tmp_path)]):
        assert run(["remake", str(moved), *wrong, "--out", str(tmp_path / "d")]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "d").exists() or files(tmp_path / "d") == []


def test_remake_says_when_the_recording_is_gone(
    weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine.wav"
    mine.write_bytes(encode_sound(0.5 * speech.sentence(), 16000, {}))
    arguments = ["make", "voice", "--audio", str(mine), "-b", weights, "-e", "awe .5", *FAST]
    assert run([*arguments, "--out", str(tmp_path / "a")]) == 0
    made = capsys.readouterr().out.strip()
    mine.unlink()
    assert recording_of(Take.read(made)) is None
    assert run(["remake", made, "--out", str(tmp_path / "b")]) == 2
    assert "mine.wav" in capsys.readouterr().err
    assert run(["page", str(tmp_path / "a")]) == 0, "a page without the sound before"
    text = Path(capsys.readouterr().out.strip()).read_text(encoding="utf-8")
    assert text.count("<audio") == 1


# Looking -----------------------------------------------------------------------------------------


def test_grid_is_takes_and_a_sheet_of_pitch_curves(
    weights: str, wav: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["grid", "voice", "--audio", str(wav), "--emotions", "anger,sadness", "--levels"]
    assert run([*arguments, "2", "--seed", "4", "-b", weights, "-o", str(tmp_path), *FAST]) == 0
    *paths, sheet = capsys.readouterr().out.splitlines()
    takes = [Take.read(Path(path)) for path in paths]
    assert len(takes) == 5
    assert {take.request.seed for take in takes} == {4}
    neutral = load_sound(Path(paths[0])).waveform
    assert np.array_equal(neutral, load_sound(wav).waveform), "no emotion, no change"
    about = read_metadata(Path(sheet))
    assert about["affect"]["emotions"] == ["anger", "sadness"]
    assert about["digital_source"].endswith("compositeWithTrainedAlgorithmicMedia")
    assert load_image(Path(sheet)).width > 3 * 224
    assert run(["grid", "voice", "--audio", str(wav), "--emotions", "angr"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_real_voice_is_scored_with_a_flag_alone_or_against_a_neutral_one(
    made: Path, wav: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["score", str(made)]) == 2
    said = capsys.readouterr()
    assert "--real-media" in said.err
    assert said.err.count("\n") == 1

    assert run(["score", str(made), "--real-media", "--json"]) == 0
    own = json.loads(capsys.readouterr().out)
    assert own["reference"] == str(wav), "as its own reading was"
    take = Take.read(made)
    assert take.reading is not None
    read = own["reading"]["reader-voice"]["probabilities"]
    assert read == pytest.approx(take.reading["reader"]["probabilities"], abs=0.02)

    assert run(["score", str(wav), "--real-media", "--json"]) == 0
    said = capsys.readouterr()
    alone = json.loads(said.out)
    assert alone["reference"] is None
    assert "--reference" in said.err
    given = ["score", str(made), "--real-media", "--json", "--reference", str(wav)]
    assert run(given) == 0
    against = json.loads(capsys.readouterr().out)
    assert against["speaker_similarity"] > 0.5
    assert {row["name"] for row in against["cues"]} == set(alone["cues"])


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        (["{png}"], "score the sound beside it"),
        (["{png}", "--modality", "voice"], "modality"),
        (["{png}", "--reference", "{wav}"], "reference"),
        (["{wav}", "--modality", "speech"], "voice"),
        (["{wav}", "--real-media", "--reference", "{missing}"], "missing.wav"),
    ],
    ids=["picture", "modality", "reference", "unknown modality", "no reference"],
)
def test_scores_that_make_no_sense_are_one_line(
    wrong: list[str], word: str, made: Path, wav: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names: dict[str, Any] = {"png": made.with_suffix(".png"), "wav": wav, "missing": "missing.wav"}
    assert run(["score", *(part.format(**names) for part in wrong)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert word in said.err.splitlines()[-1]


def test_show_tells_what_became_of_the_cues(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["show", str(made)]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^reading\.cues\.pitch_mean +\d+\.\d+ to \d+\.\d+ st", said, re.M)
    assert "anger 0.7" in said


def test_the_sample_is_nobodys_and_all_is_offline(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The embedded weights and the sample, as a newcomer types it; scored without a flag."""
    from studio.demo import SPEECH

    arguments = ["make", "voice", "--audio", str(SPEECH), "--emotion", "anger .7", "--offline"]
    assert run([*arguments, "--out", str(tmp_path), "--json"]) == 0
    said = capsys.readouterr()
    data = json.loads(said.out)
    assert data["request"]["backbone"] == "voice-tiny"
    assert data["reading"]["consent"] == "not needed"
    assert "Art. 50" not in said.err
    assert {path.suffix for path in files(tmp_path)} == {".wav", ".png"}
    assert run(["score", data["path"]]) == 0
    assert "reader-voice" in capsys.readouterr().out
