"""Films from end to end, on tiny models of real classes: parts, cut, sound, tracks, resuming."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pipelines
from adapters.assets import ASSETS
from adapters.emotion import EmotionTimeline
from pipelines import Backbone, Step, ledger
from pipelines.film import FilmParams, generate, job_of, request_of
from pipelines.film_parts import Shelf, parts_of
from pipelines.film_scene import read_scene
from pipelines.film_session import shown
from pipelines.film_table import SceneError
from pipelines.media import load_image, read_metadata
from pipelines.media_sound import encode_sound
from pipelines.media_video import decode_frames, decode_track, probe_video
from pipelines.params import ParamError
from pipelines.request import Request
from pipelines.take import Take
from studio.cli import run as affect
from tests import speech
from tests.tiny import tiny_composer, tiny_folder, tiny_portrait, tiny_voice

SCENE = """title = "Test"
emotion = "0s contentment .5; 1.5s fear .9"
width = 96
height = 64
seed = 3

[music]
params = { candidates = 1 }

[[shots]]
prompt = "the sea"
still = "push"
seconds = 1

[[shots]]
image = "lake.png"
seconds = 1
transition = "dissolve"
transition_seconds = 0.2
audio = "said.wav"

[[titles]]
text = "Test"
at = 0.2
seconds = 0.5

[defaults.image]
backbone = "%s"
steps = 2

[defaults.voice]
backbone = "%s"
steps = 2
source = "neutral"

[defaults.music]
backbone = "%s"
"""


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fitted directions go to a folder of this test run."""
    before = os.environ.get("AFFECT_CACHE")
    os.environ["AFFECT_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["AFFECT_CACHE"]
    else:
        os.environ["AFFECT_CACHE"] = before


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene with a picture, a recording and tiny models beside it."""
    place = tmp_path_factory.mktemp("scene")
    models = tmp_path_factory.mktemp("models")
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (8, 12, 3)).astype(np.uint8)
    Image.fromarray(pixels).resize((120, 80)).save(place / "lake.png")
    said = 0.5 * speech.sentence()[: round(0.9 * 16000)]
    (place / "said.wav").write_bytes(encode_sound(said, 16000, {}))
    parts = (
        tiny_folder("sd15", models / "image"), tiny_voice(models / "voice"),
        tiny_composer(models / "music"),
    )  # fmt: skip
    (place / "scene.toml").write_text(SCENE % parts, encoding="utf-8")
    return place


@pytest.fixture(scope="module")
def made(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Take, list, Path]:
    """A film, all events of its run, and the output folder."""
    out = tmp_path_factory.mktemp("film") / "out"
    events = list(generate([request(folder)], out_dir=out))
    return next(event for event in events if isinstance(event, Take)), events, out


def request(folder: Path, **options):
    return request_of(read_scene(folder / "scene.toml"), **options)


def lines(out: Path) -> list[dict]:
    return list(ledger.read(out))


def test_a_scene_becomes_one_film(made) -> None:
    take, events, out = made
    clip = probe_video(take.path)
    assert (clip.width, clip.height, clip.fps, clip.sound) == (96, 64, 25, True)
    assert clip.seconds == pytest.approx(2.0, abs=0.01)
    assert len(list(decode_frames(take.path))) == 50
    sound = decode_track(take.path)
    assert sound is not None
    assert 0.05 < np.abs(sound.waveform).max() <= 1
    modalities = [line["request"]["modality"] for line in lines(out)]
    assert modalities == ["voice", "image", "music", "film"], "voices first, each in the ledger"
    steps = [event for event in events if isinstance(event, Step)]
    done = [step.index for step in steps]
    assert done == sorted(done)
    assert steps[-1].index == steps[-1].total
    assert {"denoise", "cut", "read"} <= {step.stage for step in steps}


def test_the_film_carries_its_scene_and_what_was_read(made, folder: Path) -> None:
    take, _, _ = made
    again = Take.read(take.path)
    assert again.request == take.request
    assert set(again.request.inputs) == {"shots.1.image", "shots.1.audio"}
    assert "fear" in again.request.emotion.text
    reading = again.reading or {}
    # Two seconds of a random composer may hold too few notes to be read.
    assert {"picture", "voice"} <= set(reading["tracks"]) <= {"picture", "voice", "music"}
    assert set(reading["follows"]) <= set(reading["tracks"])
    pairs = {(pair["a"], pair["b"]) for pair in reading["agreement"]["asked"]}
    assert ("asked", "picture") in pairs
    assert [part["role"] for part in reading["parts"]] == ["voice", "picture", "music"]
    assert reading["film"]["frames"] == 50
    assert reading["film"]["peak"] <= -0.9
    assert reading["consent"] == "not stated", "whose recording it is, nobody said"
    assert str(folder) not in json.dumps(reading)
    beside = take.companions[0]
    assert (
        read_metadata(beside)["affect"]["request"] == read_metadata(take.path)["affect"]["request"]
    )
    assert load_image(beside).width == 1600


def test_the_music_is_as_long_as_the_film_and_the_voice_as_its_recording(made) -> None:
    from pipelines.media_sound import load_sound

    _, _, out = made
    found = {line["request"]["modality"]: line for line in lines(out)}
    wav = next(name for name in found["music"]["companions"] if name.endswith(".wav"))
    assert load_sound(out / wav).seconds == pytest.approx(2.0, abs=0.01)
    assert load_sound(out / found["voice"]["path"]).seconds == pytest.approx(0.9, abs=0.03)


def test_parts_get_their_piece_of_the_curve(folder: Path) -> None:
    job = job_of(request(folder))
    voice, image, music = parts_of(job)
    whole = job.scene.emotion
    assert image.request.emotion == EmotionTimeline.constant(whole.at(0.5)), "a still has one"
    for t in (0.0, 0.4, 0.85):
        np.testing.assert_allclose(
            voice.request.emotion.at(t).intensities, whole.at(1.0 + t).intensities, atol=3e-3
        )
    assert music.request.emotion == whole
    seeds = {part.request.seed for part in (voice, image, music)}
    assert len(seeds) == 3


def test_pictures_of_a_model_fill_the_film_and_brought_ones_may_be_framed(made, folder) -> None:
    job = job_of(request(folder))
    found = {(part.role, part.place): (part, made[0]) for part in parts_of(job)}
    assert [one.material.fills for one in shown(job, found)] == [True, False]


def test_finished_parts_are_not_made_again(made, folder: Path) -> None:
    take, _, out = made
    before = lines(out)
    events = list(generate([request(folder)], out_dir=out))
    again = next(event for event in events if isinstance(event, Take))
    assert [line["request"]["modality"] for line in lines(out)[len(before) :]] == ["film"]
    assert again.sha256 == take.sha256, "the same request, the same bytes"
    assert again.companions[0].read_bytes() == take.companions[0].read_bytes()
    notes = [note for event in events if isinstance(event, Step) for note in event.notes]
    assert "3 of 3 parts were made before" in notes


def test_a_part_that_was_changed_is_made_again(made, folder: Path, tmp_path: Path) -> None:
    _, _, out = made
    copy = tmp_path / "out"
    shutil.copytree(out, copy)
    image = next(line for line in lines(copy) if line["request"]["modality"] == "image")
    path = copy / image["path"]
    path.write_bytes(path.read_bytes() + b"\0")
    count = len(lines(copy))
    list(generate([request(folder)], out_dir=copy))
    assert [line["request"]["modality"] for line in lines(copy)[count:]] == ["image", "film"]


@pytest.mark.parametrize("whose", ["own", "base", "painter"])
@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_a_part_is_older_than_what_makes_it(made, tmp_path: Path, whose: str, suffix: str) -> None:
    _, _, out = made
    folders = {name: tmp_path / name for name in ("own", "base", "painter")}
    for folder in folders.values():
        (folder / "unet").mkdir(parents=True)
        (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
        os.utime(folder / "model_index.json", (1, 1))
    row = Backbone("a", "image", str(folders["own"]), "sd15", "", 0, base=str(folders["base"]))
    line = next(one for one in lines(out) if one["request"]["modality"] == "image")
    asked = Request.from_json(line["request"])
    painted = asked.changed(params={**asked.params, "painter": str(folders["painter"])})
    shelf = Shelf(out)
    shelf.lines = [{**line, "request": painted.to_json()}]
    assert shelf.find(painted, row) is not None
    (folders[whose] / "unet" / f"new{suffix}").touch()
    assert shelf.find(painted, row) is None


def test_words_are_spoken_once_for_a_request_and_its_check(folder: Path, tmp_path: Path) -> None:
    text = (
        'emotion = "fear .6"\ncurve = "swell"\n[[shots]]\nimage = "lake.png"\ntext = "It is late."'
    )
    shutil.copy(folder / "lake.png", tmp_path)
    (tmp_path / "scene.toml").write_text(text + "\n", encoding="utf-8")
    known: dict = {}
    asked = request_of(read_scene(tmp_path / "scene.toml"), params={"music": False}, known=known)
    first = list(known["readings"].values())
    assert len(first) == 1
    job_of(asked, known=known)
    assert [one is first[0] for one in known["readings"].values()] == [True]


def test_leaving_early_keeps_what_is_finished(folder: Path, tmp_path: Path) -> None:
    events = generate([request(folder)], out_dir=tmp_path)
    for event in events:
        if isinstance(event, Step) and event.stage == "compose":
            break
    events.close()
    assert [line["request"]["modality"] for line in lines(tmp_path)] == ["voice", "image"]
    assert not list(tmp_path.rglob("*.mp4"))
    assert not list(tmp_path.rglob(".tmp-*"))


def test_other_seeds_and_emotions_are_other_films(made, folder: Path) -> None:
    take, _, _ = made
    other = request(folder, seed=4), request(folder, emotion=EmotionTimeline.parse("awe .4"))
    keys = {take.request.changed(weights="").key, *(job_of(one).request.key for one in other)}
    assert len(keys) == 3
    plain = request(folder, params={"music": False, "titles": False, "draft": True})
    job = job_of(plain)
    assert job.scene.music is None
    assert not job.scene.titles
    assert job.size == (48, 32)
    assert [part.role for part in parts_of(job)] == ["voice", "picture"]
    assert parts_of(job)[1].request.params["steps"] == 8


def test_what_a_film_refuses(folder: Path, tmp_path: Path) -> None:
    asked = request(folder)
    with pytest.raises(ParamError, match="best_of"):
        generate([asked], best_of=2, out_dir=tmp_path)
    with pytest.raises(ParamError, match="did you mean draft"):
        job_of(asked.changed(params={**asked.params, "drft": True}))
    with pytest.raises(ParamError, match="a film needs one"):
        job_of(asked.changed(params={}))
    with pytest.raises(SceneError, match="not among the inputs"):
        job_of(asked.changed(inputs={}))
    with pytest.raises(ParamError, match="mp4"):
        generate([asked], ext="mov", out_dir=tmp_path)
    assert not list(tmp_path.iterdir())
    assert set(FilmParams().to_json()) == {"draft", "music", "titles", "over"}


FAULTS = [
    ('seconds = 1\ntransition', 'seconds = 0.5\ntransition', 17, "what is said ends 0.90 s"),
    ('still = "push"', 'still = "push"\nparams = { steps = 999 }', 13, "steps"),
    ('still = "push"', 'still = "push"\nparams = { stepz = 9 }', 13, "params.stepz: "),
    ('image = "lake.png"', 'image = "said.wav"', 16, "no PNG, JPEG or WEBP"),
    ('image = "lake.png"', 'video = "lake.png"', 16, "no MP4"),
    ('audio = "said.wav"', 'audio = "lake.png"', 20, "no WAV, FLAC or MP3"),
    ('candidates = 1', 'candidates = 0', 8, "candidates"),
    ('steps = 2\nsource', 'steps = 2\nsourc', None, "did you mean source"),
    ("[defaults.voice]", "[defaults.voices]", 31, "did you mean voice"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "line", "says"), FAULTS)
def test_faults_of_parts_name_the_line_on_the_command_line(
    folder: Path, tmp_path: Path, capsys, old, new, line, says
) -> None:
    text = (folder / "scene.toml").read_text(encoding="utf-8")
    assert old in text
    for name in ("lake.png", "said.wav"):
        shutil.copy(folder / name, tmp_path)
    (tmp_path / "b.toml").write_text(text.replace(old, new, 1), encoding="utf-8")
    assert affect(["make", "film", str(tmp_path / "b.toml"), "--out", str(tmp_path / "o")]) == 2
    told = capsys.readouterr().err.strip()
    assert told.count("\n") == 0, told
    assert "b.toml:" in told
    assert says in told
    if line is not None:
        assert f"b.toml:{line}:" in told, told
    assert not (tmp_path / "o").exists()


def test_the_command_line_makes_and_remakes(made, folder: Path, tmp_path: Path, capsys) -> None:
    take, _, out = made
    copy = tmp_path / "out"
    shutil.copytree(out, copy)  # the parts are there, so only the cut is made
    arguments = ["make", "film", str(folder / "scene.toml"), "--out", str(copy), "--json"]
    assert affect(arguments) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["key"], told["sha256"]) == (take.request.key, take.sha256)
    assert affect(["remake", str(take.path), "--out", str(copy)]) == 0
    path = Path(capsys.readouterr().out.strip())
    again = Take.read(path)
    assert (again.request.key, again.sha256) == (take.request.key, take.sha256)
    assert again.reading == take.reading
    assert affect(["remake", str(take.path), "--audio", str(folder / "said.wav")]) == 2
    assert "its scene says that" in capsys.readouterr().err
    assert affect(["show", str(take.path)]) == 0
    assert "fear" in capsys.readouterr().out
    assert affect(["score", str(take.path), "--real-media", "--json"]) == 0  # a brought picture
    scored = json.loads(capsys.readouterr().out)
    assert "critic-image" in str(scored), "its pictures are read, not a face"
    assert set(scored["follows"]) == {"critic-image", "reader-image"}
    assert affect(["page", str(copy)]) == 0
    page = Path(capsys.readouterr().out.strip()).read_text(encoding="utf-8")
    assert page.count('<article class="film"') >= 1
    assert "follows what was asked" in page


def test_a_face_says_the_voice_of_the_film(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("mediapipe", reason="faces are found by mediapipe (extra: portrait)")
    scene = f"""
emotion = "0s anger .8; .8s sadness .6"
width = 96
height = 96
music = false
[[shots]]
portrait = "{ASSETS / "samples" / "faces" / "closed.jpg"}"
audio = "{folder / "said.wav"}"
params = {{ backbone = "{tiny_portrait(tmp_path / "portrait")}", steps = 2, size = 256 }}
voice = {{ backbone = "{tiny_voice(tmp_path / "voice")}", steps = 2, source = "neutral" }}
"""
    (tmp_path / "face.toml").write_text(scene, encoding="utf-8")
    asked = request_of(read_scene(tmp_path / "face.toml"))
    events = generate([asked], out_dir=tmp_path / "out", reader=None)
    take = next(event for event in events if isinstance(event, Take))
    voice, portrait, _ = lines(tmp_path / "out")
    said = portrait["request"]["inputs"]["audio"]["sha256"]
    assert said == voice["sha256"], "the converted voice moves the lips"
    assert portrait["request"]["params"]["seconds"] == pytest.approx(1.4)
    assert set((take.reading or {})["tracks"]) == {"face", "voice"}, "no picture but the face"
    assert probe_video(take.path).seconds == pytest.approx(1.4, abs=0.01)


def test_films_go_through_the_one_seam(folder: Path) -> None:
    assert pipelines.MAKERS["film"] == "pipelines.film"
    mixed = [request(folder), parts_of(job_of(request(folder)))[0].request]
    with pytest.raises(ValueError, match="one modality"):
        pipelines.generate(mixed)
