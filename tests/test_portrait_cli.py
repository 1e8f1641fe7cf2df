"""Portraits on the command line: make, grid, score, remake, show, page; a line a mistake."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adapters.assets import ASSETS
from adapters.emotion import CORE
from adapters.face_motion import Motion, from_json, read_csv, write_csv
from pipelines.media import load_image, read_metadata
from pipelines.media_sound import encode_sound
from pipelines.media_video import decode_frames, encode_video, probe_video
from pipelines.take import Take
from studio.cli import run
from studio.consent import ConsentError, consent_for, consent_for_all
from studio.from_audio import timeline_of
from tests import speech
from tests.tiny import tiny_portrait

pytest.importorskip("mediapipe")

FACES = ASSETS / "samples" / "faces"
SPEECH = ASSETS / "samples" / "speech.wav"
FAST = ["--steps", "2", "--size", "256"]
SHORT = [*FAST, "--seconds", ".4"]
KEPT = ("takes.jsonl", ".takes.lock")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_portrait(tmp_path_factory.mktemp("weights") / "portrait"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small face that carries no mark of ours: the studio cannot know that it is drawn."""
    path = tmp_path_factory.mktemp("face") / "face.png"
    load_image(FACES / "closed.jpg").resize((256, 256)).save(path)
    return path


@pytest.fixture(scope="module")
def paper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("paper") / "agreement.txt"
    path.write_text("I agree. A. Face")
    return path


@pytest.fixture(scope="module")
def made(weights: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An angry film of a painted face that says the start of the sample."""
    out = tmp_path_factory.mktemp("made")
    arguments = ["make", "portrait", "--image", str(FACES / "closed.jpg"), "--audio", str(SPEECH)]
    arguments += ["-e", "0s neutral; .2s anger .7", "--seed", "3", "--curves", str(out / "c.csv")]
    assert run([*arguments, "-b", weights, "--out", str(out), *SHORT]) == 0
    return next(out.rglob("*.mp4"))


def files(folder: Path) -> list[Path]:
    """What a run has left in a folder, besides ledger and lock."""
    return [path for path in folder.rglob("*") if path.is_file() and path.name not in KEPT]


# Bad input: one line, exit 2, nothing started ---------------------------------------------------

BAD_INPUT = {
    "no face": ([], ["--image"]),
    "no such file": (["--image", "{missing}"], ["missing.png"]),
    "not a picture": (["--image", "{text}"], ["text.png", "PNG, JPEG or WEBP"]),
    "nobody in it": (["--image", "{grey}"], ["no face", "--points"]),
    "a thumbnail": (["--image", "{thumb}"], ["40 px", "24x24"]),
    "the sixth face": (["--image", "{face}", "--face", "5"], ["face"]),
    "three points": (["--image", "{face}", "--points", "1,1 2,2 3,3"], ["five"]),
    "a sound that is none": (["--image", "{face}", "--audio", "{text}"], ["text.png"]),
    "a film that is none": (["--image", "{face}", "--drive", "{text}"], ["text.png"]),
    "curves that are none": (["--image", "{face}", "--curves-in", "{text}"], ["curves"]),
    "curves of other things": (["--image", "{face}", "--curves-in", "{prices}"], ["JawOpen"]),
    "curves misspelt": (["--image", "{face}", "--curves-in", "{ajar}"], ["jawajar", "correct"]),
    "curves of no numbers": (["--image", "{face}", "--curves-in", "{words}"], ["jawOpen"]),
    "half a face": (["--image", "{half}"], ["no face", "--points"]),
    "a moving GIF": (["--image", "{gif}"], ["PNG, JPEG or WEBP"]),
    "points beside it": (
        ["--image", "{face}", "--points", "-9,2 900,2 50,60 20,80 90,80"], ["inside"],
    ),
    "an empty sound": (["--image", "{face}", "--audio", "{nothing}"], ["WAV, FLAC or MP3"]),
    "a film cut short": (["--image", "{face}", "--drive", "{broken}"], ["broken.mp4"]),
    "a film of nobody": (["--image", "{face}", "--drive", "{nobody}"], ["no face", "nobody.mp4"]),
    "curves and film": (
        ["--image", "{face}", "--curves-in", "{text}", "--drive", "{text}"], ["--drive"],
    ),
    "a still that speaks": (["--image", "{face}", "--still", "--audio", "{wav}"], ["--audio"]),
    "a film as jpg": (["--image", "{face}", "--format", "jpg"], ["mp4"]),
    "unknown emotion": (["--image", "{face}", "-e", "angr .5"], ["angr", "anger"]),
    "intensity over 1": (["--image", "{face}", "-e", "anger 1.3"], ["1.3", "--over"]),
    "frames of the cinema": (["--image", "{face}", "--fps", "26"], ["25 and 30"]),
    "a blink of a film": (["--image", "{face}", "--seconds", ".1"], ["seconds", "0.1"]),
    "nothing to hear": (["--image", "{face}", "-e", "from-audio"], ["from-audio", "--audio"]),
    "nobody speaks": (
        ["--image", "{face}", "--audio", "{silent}", "-e", "from-audio"], ["nobody speaks"],
    ),
    "curves as a picture": (["--image", "{face}", "--curves", "c.png"], [".json", "--curves-in"]),
    "one file for two": (["--image", "{face}", "--curves", "c.csv", "--n", "2"], ["--curves"]),
    "curves nowhere": (["--image", "{face}", "--curves", "{missing}/c.csv"], ["c.csv"]),
    "a stranger's face": (["--image", "{stranger}"], ["face.png", "--consent", "real person"]),
    "consent that is none": (["--image", "{stranger}", "--consent", "{missing}"], ["missing.png"]),
    "no style": (["--image", "{face}", "--lora", "{missing}"], ["lora"]),
    "unknown option": (["--image", "{face}", "--tempo", "3"], ["--tempo"]),
    "unknown backbone": (["--image", "{face}", "-b", "portrait-tyni"], ["portrait-tiny"]),
    "music's backbone": (["--image", "{face}", "-b", "music-tiny"], ["music-tiny", "portraits"]),
    "out is a file": (["--image", "{face}", "--out", "{text}"], ["text.png", "--out"]),
}  # fmt: skip


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory, stranger: Path) -> dict[str, str]:
    """Everything the bad-input cases point at, by name."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "text.png").write_text("not a picture")
    Image.new("RGB", (64, 64), "grey").save(folder / "grey.png")
    Image.new("RGB", (24, 24), "grey").save(folder / "thumb.png")
    (folder / "silent.wav").write_bytes(encode_sound(np.zeros(16000), 16000, {}))
    (folder / "prices.csv").write_text("day,price\n1,2\n")
    (folder / "ajar.csv").write_text("Timecode,JawAjar,JawLeft\n0:0:0:0,1,0\n")
    (folder / "words.csv").write_text("Timecode,JawOpen\n0:0:0:0,much\n")
    (folder / "nothing.wav").write_bytes(b"")
    (folder / "broken.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(900))
    grey = np.full((64, 64, 3), 90, np.uint8)
    (folder / "nobody.mp4").write_bytes(encode_video(iter([grey]), 30))
    closed = load_image(FACES / "closed.jpg")
    closed.crop((0, 0, closed.width // 2, closed.height)).save(folder / "half.png")
    closed.resize((96, 96)).save(folder / "face.gif")
    more = {path.stem: str(path) for path in folder.iterdir()}
    named = {name: str(folder / f"{name}.png") for name in ("text", "grey", "thumb", "missing")}
    found = {"face": str(FACES / "cartoon.jpg"), "wav": str(SPEECH), "stranger": str(stranger)}
    gif = str(folder / "face.gif")
    return {**more, **named, **found, "gif": gif}


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
    arguments = ["make", "portrait", *(part.format(**bad) for part in given)]
    arguments += ["--out", str(out)] if "--out" not in given else []
    arguments += ["-b", weights] if "-b" not in given else []
    code = run(arguments)
    said = capsys.readouterr()
    assert (code, said.out) == (2, ""), said.err
    told = [line for line in said.err.splitlines() if "Art. 50" not in line]
    assert len(told) == 1, said.err
    for word in words:
        assert word in told[0]
    assert not out.exists() or files(out) == []


# Making ------------------------------------------------------------------------------------------


def test_a_film_says_everything_and_is_marked(made: Path) -> None:
    take = Take.read(made)
    assert take.request.modality == "portrait"
    assert set(take.request.inputs) == {"image", "audio"}
    assert take.reading is not None
    assert take.reading["consent"] == "not needed"
    assert read_metadata(made)["digital_source"].endswith("compositeWithTrainedAlgorithmicMedia")
    assert load_image(made.with_suffix(".png")).size == (1600, 1000)
    clip = probe_video(made)
    assert clip.seconds == pytest.approx(0.4, abs=0.05)
    beside = read_csv(made.with_suffix(".csv"))
    assert len(beside) == 12
    wanted = made.parents[2] / "c.csv"
    assert wanted.read_bytes() == made.with_suffix(".csv").read_bytes(), "--curves"


def test_curves_go_out_are_edited_and_come_in(
    weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A jaw that was written by hand opens the mouth; the CSV beside the film is what came in."""
    face, out = FACES / "cartoon.jpg", tmp_path / "out"
    curves = np.zeros((9, 52), np.float32)
    curves[3:6, 17] = 0.9  # jawOpen
    given = write_csv(tmp_path / "mine.csv", Motion(curves, np.zeros((9, 3), np.float32), 30.0))
    written = tmp_path / "out.json"
    arguments = ["make", "portrait", "--image", str(face), "--curves-in", str(given), *FAST]
    assert run([*arguments, "--curves", str(written), "-b", weights, "-o", str(out)]) == 0
    said = capsys.readouterr()
    assert str(written) in said.err
    path = Path(said.out.strip())
    assert np.allclose(from_json(written.read_text()).curves, curves, atol=1e-4)
    shown = [frame for _, frame in decode_frames(path)]
    moved = [np.abs(frame.astype(int) - shown[0].astype(int)).max() for frame in shown]
    assert max(moved[:2]) < 40 < min(moved[4:5])


def test_a_real_face_needs_a_yes_and_is_told_what_the_law_asks(
    weights: str,
    stranger: Path,
    paper: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    mine = shutil.copy(stranger, tmp_path / "mine.png")  # a notice is told once a process and file
    arguments = ["make", "portrait", "-i", str(mine), "--consent", str(paper), "-b", weights]
    assert run([*arguments, "--out", str(tmp_path / "out"), "--seconds", ".2", *FAST]) == 0
    said = capsys.readouterr()
    take = Take.read(Path(said.out.strip()))
    assert take.request.inputs["consent"] == paper
    assert take.reading is not None
    assert take.reading["consent"] == "given"
    assert said.err.count("Art. 50(4)") == 1


def test_several_yeses_are_one_document(stranger: Path, tmp_path: Path) -> None:
    """Each is recorded; of films of ours whatever they were made from is asked about."""
    digests = []
    for name in ("face.png", "voice.wav"):
        path = tmp_path / name
        path.write_bytes(name.encode())
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        digests.append(digest)
        record = {"agreed": True, "sha256": digest, "file": name}
        (tmp_path / f"consent-{digest[:8]}.json").write_text(json.dumps(record))
    people = {
        tmp_path / "face.png": ("face", True),
        tmp_path / "voice.wav": ("voice", False),
        SPEECH: ("voice", False),
    }
    found = consent_for_all(people, None, tmp_path, ask=False)
    assert found is not None
    said = json.loads(found.read_text())
    assert [one["sha256"] for one in said["statements"]] == digests
    assert consent_for_all(people, None, tmp_path, ask=False) == found
    only = consent_for_all({SPEECH: ("voice", True)}, None, tmp_path, ask=False)
    assert only is None
    with pytest.raises(ConsentError, match="or that it is drawn"):
        consent_for_all({stranger: ("face", True)}, None, tmp_path, ask=False)


def test_the_one_published_face_needs_no_consent(tmp_path: Path) -> None:
    data = pytest.importorskip("skimage.data")
    path = Path(data.__file__).parent / "astronaut.png"
    assert consent_for(path, None, tmp_path, ask=False, what="face", required=True) is None


def test_a_still_is_the_whole_photo_in_the_format_asked(
    weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    face = FACES / "smile.jpg"
    arguments = ["make", "portrait", "--image", str(face), "--still", "-b", weights, "--seed", "1"]
    emotion = ["-e", "sadness .5 + contempt .3", "--format", "jpg", "--json"]
    assert run([*arguments, *emotion, "--out", str(tmp_path)]) == 0
    data = json.loads(capsys.readouterr().out)
    path = Path(data["path"])
    assert path.suffix == ".jpg"
    before, after = (np.asarray(load_image(p)).astype(int) for p in (face, path))
    assert before.shape == after.shape
    left, top, right, bottom = (round(x) for x in data["reading"]["motion"]["face"]["box"])
    mouth = slice((top + bottom) // 2, bottom), slice(left, right)
    assert np.abs(before - after)[mouth].max() > 60, "it frowns"
    assert np.abs(before - after)[-6:, :6].max() < 12, "JPEG only"


# The emotion of the speech -----------------------------------------------------------------------


def test_the_sample_is_heard_as_neutral_as_it_was_spoken(
    weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["make", "portrait", "-i", str(FACES / "dark.jpg"), "-a", str(SPEECH), *SHORT]
    arguments += ["--emotion", "from-audio", "-b", weights, "--out", str(tmp_path)]
    assert run(arguments) == 0
    said = capsys.readouterr()
    assert "heard as neutral" in said.err
    assert Take.read(Path(said.out.strip())).request.emotion.text == "neutral"


def test_what_is_heard_becomes_few_round_keys() -> None:
    times = np.arange(0, 20, 0.25)
    states = np.zeros((80, 12))
    states[:40, CORE.index("sadness")] = 0.62
    states[40:, CORE.index("anger")] = 0.83
    states += 0.02 * np.random.default_rng(0).random(states.shape)  # what is faint is left out
    timeline = timeline_of(times, states)
    assert 3 <= len(timeline.keys) <= 6
    assert timeline.at(5).text.startswith("sadness 0.6")
    assert timeline.at(15).text.startswith("anger 0.8")
    assert all(
        round(x * 20) == pytest.approx(x * 20) for _, state in timeline.keys
        for x in state.intensities
    )  # fmt: skip
    assert timeline_of(times, np.zeros((80, 12))).text == "neutral"
    calm = timeline_of(np.zeros(1), np.full((1, 12), 0.5))
    assert calm.is_constant
    assert calm.peak.intensity <= 1


# Looking -----------------------------------------------------------------------------------------


def test_grid_is_stills_and_a_sheet_of_faces(
    weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["grid", "portrait", "--image", str(FACES / "closed.jpg"), "--emotions"]
    arguments += ["anger,contempt", "--levels", "2", "--seed", "4", "-b", weights]
    assert run([*arguments, "-o", str(tmp_path)]) == 0
    *paths, sheet = capsys.readouterr().out.splitlines()
    takes = [Take.read(Path(path)) for path in paths]
    assert [path.rsplit(".", 1)[1] for path in paths] == ["png"] * 5
    assert {take.request.seed for take in takes} == {4}
    assert all(take.request.params["still"] for take in takes)
    about = read_metadata(Path(sheet))
    assert about["affect"]["emotions"] == ["anger", "contempt"]
    assert about["digital_source"].endswith("compositeWithTrainedAlgorithmicMedia")
    assert load_image(Path(sheet)).width > 3 * 224
    assert run(["grid", "portrait", "--image", str(sheet), "--emotions", "angr"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_grid_with_a_length_is_films_shown_at_their_height(
    weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["grid", "portrait", "-i", str(FACES / "cartoon.jpg"), "--emotions", "surprise"]
    arguments += ["--levels", "1", "--no-neutral", "-b", weights, "-o", str(tmp_path), *FAST]
    assert run([*arguments, "--seconds", ".2"]) == 0
    film, sheet = capsys.readouterr().out.splitlines()
    assert film.endswith(".mp4")
    assert load_image(Path(sheet)).height > 224


def test_remake_from_the_file_alone(
    made: Path, stranger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = tmp_path / "elsewhere.mp4"
    shutil.copy(made, moved)
    assert run(["remake", str(moved), "--out", str(tmp_path / "a")]) == 0
    again = Path(capsys.readouterr().out.strip())
    assert again.read_bytes() == made.read_bytes()

    changes = ["--emotion", "fear .4", "--seed", "9", "--still", "--format", "webp"]
    assert run(["remake", str(moved), *changes, "--out", str(tmp_path / "b")]) == 0
    other = Path(capsys.readouterr().out.strip())
    request = Take.read(other).request
    assert other.suffix == ".webp"
    assert (request.seed, request.emotion.text, set(request.inputs)) == (9, "fear 0.4", {"image"})

    for wrong in (["--image", str(stranger)], ["--format", "jpg"], ["--keep-length"]):
        assert run(["remake", str(moved), *wrong, "--out", str(tmp_path / "c")]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "c").exists() or files(tmp_path / "c") == []


def test_page_shows_a_player_and_the_picture_beside_it(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(made.parents[2], out)
    assert run(["page", str(out)]) == 0
    text = Path(capsys.readouterr().out.strip()).read_text(encoding="utf-8")
    assert text.count("<article") == 1, "one card for the three files of a take"
    film = re.search(r'<video[^>]* poster="([^"]+)" src="([^"]+)"', text)
    assert film
    assert all((out / link).is_file() for link in film.groups())
    picture = re.search(r'<img src="([^"]+)"', text)
    assert picture
    assert picture.group(1).endswith(".png")
    next(out.rglob("*-anger.png")).unlink()
    assert run(["page", str(out)]) == 0
    text = Path(capsys.readouterr().out.strip()).read_text(encoding="utf-8")
    assert (text.count("<video"), text.count("<img")) == (1, 0), "moved without its picture"


def test_show_tells_the_request(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["show", str(made)]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^request\.emotion +0s neutral; 0.2s anger 0.7", said, re.M)
    assert re.search(r"^reading\.consent +not needed", said, re.M)


# Scoring -----------------------------------------------------------------------------------------

critics = pytest.mark.skipif(
    not all((ASSETS / "models" / name).is_dir() for name in ("critic-portrait", "reader-portrait")),
    reason="the readers of portraits are not here",
)


@critics
def test_score_reads_a_film_and_a_still(
    made: Path, weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["score", str(made), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert list(data["reading"]) == ["critic-portrait", "reader-portrait"]
    assert (data["made_here"], data["against"]) == (True, "the photo")
    take = Take.read(made)
    assert take.reading is not None
    for name, role in (("critic-portrait", "critic"), ("reader-portrait", "reader")):
        own = take.reading[role]["probabilities"]
        assert data["reading"][name]["probabilities"] == pytest.approx(own, abs=0.1)

    arguments = ["make", "portrait", "-i", str(FACES / "closed.jpg"), "--still", "-b", weights]
    assert run([*arguments, "-e", "happiness 1", "--out", str(tmp_path)]) == 0
    still = capsys.readouterr().out.strip()
    assert run(["score", still, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    read = data["reading"]["critic-portrait"]["intensities"]
    glad = ("happiness", "excitement", "amusement", "love", "contentment")
    assert max(read, key=lambda name: read[name]) in glad

    assert run(["score", str(made.with_suffix(".png"))]) == 2
    assert "score the .mp4 beside it" in capsys.readouterr().err


@critics
def test_a_film_from_elsewhere_is_scored_with_a_flag_alone(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without request, curves and photo: both are measured in its frames."""
    stranger = tmp_path / "clip.mp4"
    frames = [frame for _, frame in decode_frames(made, side=320)]
    stranger.write_bytes(encode_video(iter(frames), 30))
    assert run(["score", str(stranger)]) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert "--real-media" in said.err
    assert run(["score", str(stranger), "--real-media", "--json"]) == 0
    said = capsys.readouterr()
    data = json.loads(said.out)
    assert data["against"] == "its calmest frame"
    assert "Art. 50(3)" in said.err
    nobody = tmp_path / "nobody.mp4"
    nobody.write_bytes(encode_video(iter([np.full((64, 64, 3), 90, np.uint8)] * 6), 30))
    assert run(["score", str(nobody), "--real-media"]) == 2
    assert "no" in capsys.readouterr().err.splitlines()[-1]


def test_a_voice_of_a_real_person_is_asked_about_but_not_required(
    weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine.wav"
    mine.write_bytes(encode_sound(0.5 * speech.sentence(), 16000, {}))
    arguments = ["make", "portrait", "-i", str(FACES / "closed.jpg"), "-a", str(mine), *SHORT]
    assert run([*arguments, "-b", weights, "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    assert "mine.wav may be a real person's voice" in said.err
    assert said.err.count("notice: mine.wav may be of a real person") == 1
    take = Take.read(Path(said.out.strip()))
    assert take.reading is not None
    assert take.reading["consent"] == "not stated"
