"""Requests, takes and the output folder: round trips, kills, two processes, a full disk."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import fields
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from adapters.emotion import EmotionTimeline
from adapters.piece import Piece
from pipelines import ledger, media
from pipelines.media_midi import encode_midi, load_midi
from pipelines.media_sound import encode_sound
from pipelines.take import (
    Request,
    Take,
    TakeError,
    digital_source,
    parameters_line,
    prepare_out,
    record_failure,
    versions,
    write_atomic,
    write_take,
)

ROOT = Path(__file__).resolve().parent.parent
DAY = date(2026, 11, 20)
READING = {"reader": "b", "probabilities": [0.123456789, 0.8], "vad": {"v": np.float32(-0.5)}}


def request(**changes: Any) -> Request:
    fields_of: dict[str, Any] = {
        "modality": "image",
        "prompt": "a mountain lake",
        "emotion": EmotionTimeline.parse("sadness 0.8"),
        "seed": 7,
        "backbone": "image-tiny",
        "params": {"steps": 20, "guidance_scale": 5.0, "negative_prompt": "blur, text"},
        "weights": "0123456789abcdef",
    }
    return Request(**{**fields_of, **changes})


def picture(seed: int = 0, size: int = 16) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (size, size, 3))
    return Image.fromarray(noise.astype(np.uint8))


def photo(folder: Path) -> Path:
    path = folder / "photo.jpg"
    picture(3).save(path, "JPEG")
    return path


def child(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A real second process that has imported what `code` needs."""
    head = """
        import sys
        from pathlib import Path
        from tests.test_take import *
        out = Path(sys.argv[1])
    """
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(head) + textwrap.dedent(code), *map(str, arguments)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out


def leftovers(out: Path) -> list[Path]:
    return [path for path in out.rglob("*") if path.name.startswith(".tmp-")]


# --- request


@pytest.mark.parametrize(
    "emotion",
    [
        "sadness 0.8",
        "happiness .6 + fear .2",
        "v=-.7 a=.3 d=0",
        "0s contentment .5; 8s fear .9",
        '"I just lost my dog"',
    ],
)
def test_request_survives_json(emotion: str, tmp_path: Path) -> None:
    asked = request(emotion=EmotionTimeline.parse(emotion), inputs={"init": photo(tmp_path)})
    back = Request.from_json(json.loads(json.dumps(asked.to_json())))
    assert back == asked
    assert back.key == asked.key
    assert pickle.loads(pickle.dumps(asked)) == asked  # noqa: S301 - our own, to reach a process


def test_key_is_the_same_everywhere_and_pinned() -> None:
    """A change of this number orphans every ledger: it needs a new FORMAT."""
    asked = request()
    assert re.fullmatch(r"[0-9a-f]{64}", asked.key)
    assert finish(child("print(request().key)", "unused")).strip() == asked.key
    assert asked.key == "40e20adf3a3e45bd843f11baf1a99c588f864ce804e7d1e88a64c90cea5a990a"


def test_every_field_is_in_the_key(tmp_path: Path) -> None:
    plain = request(inputs={"init": photo(tmp_path)})
    other = tmp_path / "other.jpg"
    picture(4).save(other, "JPEG")
    changes: dict[str, Any] = {
        "modality": "video",
        "prompt": "a mountain  lake",
        "emotion": EmotionTimeline.parse("sadness 0.81"),
        "seed": 8,
        "backbone": "image-tiny-2",
        "params": {**plain.params, "steps": 21},
        "inputs": {"init": other},
        "weights": "f" * 16,
    }
    assert set(changes) == {f.name for f in fields(Request)} - {"digests"}
    keys = {plain.changed(**{name: value}).key for name, value in changes.items()}
    assert len(keys | {plain.key}) == len(changes) + 1


def test_the_key_knows_no_spelling(tmp_path: Path) -> None:
    path = photo(tmp_path)
    moved = tmp_path / "elsewhere.jpg"
    shutil.copy(path, moved)
    one = request(params={"a": 1.0, "b": [0.5, True]}, inputs={"init": path})
    same = request(params={"b": (0.5, True), "a": np.int64(1)}, inputs={"init": moved})
    assert one.key == same.key
    assert hash(one) == hash(same)
    assert request(params={"a": True}).key != request(params={"a": 1}).key


def test_params_are_copied() -> None:
    params: dict[str, Any] = {"list": [1]}
    asked = request(params=params)
    key = asked.key
    params["list"].append(2)
    assert asked.key == key


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"modality": "smell"}, "image, video"),
        ({"modality": "../image"}, "image, video"),
        ({"prompt": " \n"}, "prompt: empty"),
        ({"prompt": "x" * 70_000}, "at most 65536"),
        ({"prompt": "half \ud83d"}, "surrogate"),
        ({"prompt": None}, "prompt: text"),
        ({"backbone": ""}, "backbone: empty"),
        ({"seed": -1}, "seed: 0 to"),
        ({"seed": 2**53}, "seed: 0 to"),
        ({"seed": True}, "whole number"),
        ({"seed": 1.5}, "whole number"),
        ({"params": {"x": float("nan")}}, "params.x"),
        ({"params": {"x": object()}}, "params.x"),
        ({"params": {"x": {3: 1}}}, "params.x names"),
        ({"params": [1]}, "params: a JSON object"),
        ({"params": {"x": [[[[[[[[[1]]]]]]]]]}}, "nested"),
        ({"inputs": {"init": Path("/no/such/photo.jpg")}}, "init: no readable file"),
        ({"inputs": {"init": Path("/dev/zero")}}, "init: no readable file"),
        ({"inputs": {"init": Path("a\0b")}}, "init: no readable file"),
    ],
)
def test_bad_requests_are_one_line(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(TakeError) as error:
        request(**changes)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 250


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"emotion": None}, "emotion: text"),
        ({"emotion": "sadnes .8"}, "sadness"),
        ({"emotion": "sadness " * 9000}, "at most"),
        ({"colour": 1}, "unknown field 'colour'"),
        ({"prompt": ...}, "'prompt' is missing"),
        ({"inputs": ["x"]}, "inputs: a JSON object"),
        ({"inputs": {"init": {"path": 3, "sha256": "0" * 64}}}, "inputs.init: text"),
        ({"inputs": {"init": {"path": "x", "sha256": "../../etc"}}}, "64 hex"),
    ],
)
def test_bad_json_is_one_line(change: dict[str, Any], says: str) -> None:
    data = {k: v for k, v in {**request().to_json(), **change}.items() if v is not ...}
    with pytest.raises(ValueError, match=re.escape(says)) as error:
        Request.from_json(data)
    assert "\n" not in str(error.value)


def test_inputs_are_checked_again(tmp_path: Path) -> None:
    path = photo(tmp_path)
    asked = request(inputs={"init": path})
    asked.check_inputs()
    picture(9).save(path, "JPEG")
    with pytest.raises(TakeError, match="has changed"):
        asked.check_inputs()
    assert asked.changed(seed=8).digests == asked.digests
    assert asked.changed(inputs={"init": path}).digests != asked.digests
    path.unlink()
    back = Request.from_json(asked.to_json())  # showing a file needs no input
    assert back.key == asked.key
    with pytest.raises(TakeError, match="no readable file"):
        back.check_inputs()


def test_the_home_folder_is_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    asked = request(inputs={"init": photo(tmp_path)})
    assert asked.to_json()["inputs"]["init"]["path"] == "~/photo.jpg"
    assert Request.from_json(asked.to_json()) == asked


# --- take


@pytest.mark.parametrize("ext", ["png", "jpg", "webp"])
def test_a_take_is_read_from_its_file_alone(ext: str, tmp_path: Path) -> None:
    asked = request(emotion=EmotionTimeline.parse("happiness 1.2", over=True))
    out = prepare_out(tmp_path / "out")
    take = write_take(
        asked, picture(), out, reading=READING, seconds=1.23456, ext=ext, chosen={"of": 8}, day=DAY
    )
    assert take.path == out / f"2026-11-20/image/{asked.key[:8]}-happiness-a-mountain-lake.{ext}"
    alone = tmp_path / "renamed"
    shutil.move(take.path, alone)
    shutil.rmtree(out)

    back = Take.read(alone)
    assert back.request == asked
    assert back.request.key == asked.key
    assert back.sha256 == take.sha256
    assert (
        back.reading
        == take.reading
        == {**READING, "probabilities": [0.1235, 0.8], "vad": {"v": -0.5}}
    )
    assert back.chosen == {"of": 8}
    assert back.versions == take.versions == versions()
    assert back.seconds is None
    assert {"torch", "diffusers", "pillow"} <= set(back.versions)


@pytest.mark.parametrize("ext", ["png", "jpg", "webp"])
def test_same_request_same_bytes(ext: str, tmp_path: Path) -> None:
    takes = [
        write_take(request(), picture(), tmp_path / str(i), seconds=i, ext=ext, day=DAY)
        for i in range(2)
    ]
    assert takes[0].path.read_bytes() == takes[1].path.read_bytes()
    again = write_take(request(), picture(), tmp_path / "0", ext=ext, day=DAY)
    assert again.path == takes[0].path
    assert len(list(ledger.read(tmp_path / "0"))) == 2


def test_parameters_line_as_other_tools_read_it(tmp_path: Path) -> None:
    asked = request(emotion=EmotionTimeline.parse("happiness .6 + fear .2"))
    take = write_take(asked, picture(), tmp_path, day=DAY)
    text = media.read_metadata(take.path)["parameters"]
    assert text == parameters_line(asked, (16, 16))
    prompt, negative, settings = text.split("\n")
    assert prompt == "a mountain lake"
    assert negative == "Negative prompt: blur, text"
    # the pattern with which AUTOMATIC1111 takes the last line apart
    found = dict(re.findall(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)', settings))
    assert found["Steps"] == "20"
    assert found["CFG scale"] == "5.0"
    assert found["Seed"] == "7"
    assert found["Size"] == "16x16"
    assert found["Model"] == "image-tiny"
    assert found["Model hash"] == "0123456789abcdef"
    assert EmotionTimeline.parse(found["Emotion"].strip('"')) == asked.emotion
    assert found["Version"].startswith("affect-studio")


def test_no_prompt_poses_as_settings() -> None:
    evil = request(prompt="lake\nNegative prompt: x\nSteps: 1, Seed: 666, Size: 1x1", params={})
    assert len(parameters_line(evil).split("\n")) == 2
    named = request(backbone='a, Seed: 666, "b\n')
    last = parameters_line(named).split("\n")[-1]
    assert 'Model: "a, Seed: 666, \\"b"' in last


def test_digital_source_says_what_the_picture_is(tmp_path: Path) -> None:
    def source(asked: Request) -> str:
        take = write_take(asked, picture(), tmp_path, day=DAY)
        return str(media.read_metadata(take.path)["digital_source"])

    assert source(request()) == media.TRAINED
    real = request(inputs={"init": photo(tmp_path)}, params={"keep": 0.6})
    assert source(real) == media.COMPOSITE
    assert "Denoising strength: 0.4" in parameters_line(real)
    ours = write_take(request(seed=1), picture(), tmp_path, day=DAY).path
    assert source(request(inputs={"init": ours})) == media.TRAINED
    changed = write_take(real, picture(), tmp_path, day=DAY).path
    assert source(request(inputs={"init": changed})) == media.COMPOSITE


# --- companions


def song(**changes: Any) -> Request:
    params = {"seconds": 30.0, "attributes": "tempo=72,mode=major", "over": False, "top_p": 0.95}
    given = {"modality": "music", "prompt": "", "backbone": "music-tiny", "params": params}
    return request(**{**given, **changes})


def notes() -> Piece:
    return Piece.of([0, 1, 2], 1.0, [60, 64, 67], [40, 80, 60])


def write_song(asked: Request, out: Path, **changes: Any) -> Take:
    """Notes with their sound, twice, and a picture of them: what a music take is."""
    companions: dict[str, Any] = {
        "wav": lambda texts: encode_sound(np.zeros((2, 900)), 44_100, texts),
        "flac": lambda texts: encode_sound(np.zeros((2, 900)), 44_100, texts, "flac"),
        "png": lambda texts: media.encode_image(picture(), "png", texts),
    }
    given = {"ext": "mid", "companions": companions, "reading": READING, "day": DAY}
    return write_take(asked, lambda texts: encode_midi(notes(), texts), out, **{**given, **changes})


def nothing_is_left(out: Path) -> bool:
    return [*out.glob("2*/music/*")] == [] == list(ledger.read(out))


def test_a_take_with_companions_is_read_from_each_alone(tmp_path: Path) -> None:
    out = prepare_out(tmp_path / "out")
    asked = song()
    take = write_song(asked, out, chosen={"of": 4})
    stem = f"2026-11-20/music/{asked.key[:8]}-sadness"
    assert take.path == out / f"{stem}.mid"
    assert take.companions == tuple(out / f"{stem}.{ext}" for ext in ("wav", "flac", "png"))
    assert take.to_json()["companions"] == [path.as_posix() for path in take.companions]
    (line,) = ledger.read(out)
    assert line["path"] == f"{stem}.mid"
    assert line["companions"] == [f"{stem}.{ext}" for ext in ("wav", "flac", "png")]
    for path in (take.path, *take.companions):
        alone = tmp_path / "renamed"
        shutil.copy(path, alone)
        back = Take.read(alone)
        assert back.request == asked
        assert back.reading == take.reading
        assert back.chosen == {"of": 4}
        assert back.companions == ()
    assert load_midi(take.path).pitch.tolist() == [60, 64, 67]
    again = write_song(asked, tmp_path / "again", chosen={"of": 4})
    for first, second in zip(take.companions, again.companions, strict=True):
        assert first.read_bytes() == second.read_bytes()


def test_a_picture_has_no_companions(tmp_path: Path) -> None:
    take = write_take(request(), picture(), tmp_path, day=DAY)
    assert take.companions == ()
    assert next(ledger.read(tmp_path))["companions"] == []


def test_bytes_are_written_as_they_are(tmp_path: Path) -> None:
    take = write_take(song(), b"notes", tmp_path, ext="mid", companions={"wav": b"x"}, day=DAY)
    assert take.path.read_bytes() == b"notes"
    assert take.companions[0].read_bytes() == b"x"
    assert take.sha256 == hashlib.sha256(b"notes").hexdigest()


def test_two_files_of_one_suffix_are_refused(tmp_path: Path) -> None:
    for ext in ("mid", ".MID"):
        with pytest.raises(TakeError, match=r"cannot both be \.mid"):
            write_song(song(), tmp_path, companions={ext: b"x"})
    assert nothing_is_left(tmp_path)


def test_an_encoder_that_fails_leaves_nothing(tmp_path: Path) -> None:
    silent = {"wav": lambda texts: encode_sound(np.zeros((2, 0)), 44_100, texts)}
    with pytest.raises(media.MediaError, match="waveform"):
        write_song(song(), tmp_path, companions=silent)
    with pytest.raises(media.MediaError, match="tempo"):
        write_take(
            song(),
            lambda texts: encode_midi(Piece.of([0], [1], 60, tempo=5000.0), texts),
            tmp_path,
            ext="mid",
            companions={"wav": b"x"},
        )
    assert nothing_is_left(tmp_path)


@pytest.mark.parametrize("taken", ["mid", "wav", "png"])
def test_a_name_that_is_taken_leaves_nothing(taken: str, tmp_path: Path) -> None:
    """A folder of that name: the rename fails after other files have appeared."""
    asked = song()
    folder = tmp_path / f"2026-11-20/music/{asked.key[:8]}-sadness.{taken}"
    folder.mkdir(parents=True)
    with pytest.raises(TakeError, match="cannot write"):
        write_song(asked, tmp_path)
    folder.rmdir()
    assert nothing_is_left(tmp_path)


def test_a_ledger_that_fails_leaves_no_new_file(tmp_path: Path) -> None:
    old = write_song(song(seed=1), tmp_path)
    text = (tmp_path / ledger.LEDGER).read_bytes()
    (tmp_path / ledger.LEDGER).unlink()
    (tmp_path / ledger.LEDGER).mkdir()
    for seed in (1, 2):
        with pytest.raises(TakeError, match="cannot write"):
            write_song(song(seed=seed), tmp_path)
    kept = sorted([old.path, *old.companions])
    assert sorted(tmp_path.glob("2*/music/*")) == kept, "the old take stays, the new one goes"
    (tmp_path / ledger.LEDGER).rmdir()
    (tmp_path / ledger.LEDGER).write_bytes(text)


def test_a_disk_that_is_full_for_a_companion_leaves_nothing(tmp_path: Path) -> None:
    code = """
        import resource
        prepare_out(out)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
        try:
            write_song(song(), out, companions={"png": b"small", "wav": bytes(50_000)})
        except TakeError as error:
            print(json.dumps(str(error)))
    """
    said = json.loads(finish(child(code, tmp_path)))
    assert "no space left" in said
    assert ".wav" in said
    assert leftovers(tmp_path) == []
    assert nothing_is_left(tmp_path)


def test_the_parameters_line_of_music(tmp_path: Path) -> None:
    take = write_song(song(), tmp_path, settings={"Tempo": 72, "Key": "A minor"})
    text = media.read_metadata(take.path)["parameters"]
    assert text == parameters_line(song(), more={"Tempo": 72, "Key": "A minor"})
    title, settings = text.split("\n")
    assert title == "music: sadness 0.8"
    assert settings.startswith("Seed: 7, Model: music-tiny, Model hash: 0123456789abcdef, Emotion:")
    for part in ("Seconds: 30.0", 'Attributes: "tempo=72,mode=major"', "Tempo: 72", "Key: A minor"):
        assert f", {part}, " in settings
    for word in ("Size", "Steps", "Over"):
        assert word not in settings
    named = parameters_line(song(prompt="a lullaby", params={"x": "Seed: 1, Seed: 2"}))
    assert named.startswith("a lullaby\n")
    assert 'X: "Seed: 1, Seed: 2"' in named


def test_real_music_makes_a_composite_and_an_instrument_does_not(tmp_path: Path) -> None:
    real, ours = tmp_path / "real.mid", write_song(song(), tmp_path / "out").path
    real.write_bytes(encode_midi(notes(), {}))
    font = tmp_path / "piano.sf2"
    font.write_bytes(b"RIFF\4\0\0\0sfbk")
    assert digital_source(song(inputs={"continue": real})) == media.COMPOSITE
    assert digital_source(song(inputs={"continue": ours})) == media.TRAINED
    assert digital_source(song(inputs={"continue": ours, "soundfont": font})) == media.TRAINED
    assert digital_source(song(inputs={"from": ours, "onto": real})) == media.COMPOSITE


PROMPTS = {
    "up": "../../../etc/passwd",
    "absolute": "/etc/passwd",
    "windows": "..\\..\\C:\\CON",
    "nul": "a\0b.png",
    "percent": "%2e%2e%2f%2e%2e%2f",
    "long": "word " * 1000,
    "one long word": "w" * 4096,
    "script": "<script>alert(1)</script>",
    "control": "\x1b[31mred\r\n\x07" + "".join(map(chr, range(32))),
    "foreign": "日本の湖 🌊",
    "accents": "Übergröße, café",
    "dots": "...",
    "64 kB": "<b>\u00e9\x00'\"" * 9000,
}


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS.keys())
def test_hostile_prompts_stay_inside_and_come_back(prompt: str, tmp_path: Path) -> None:
    asked = request(prompt=prompt)
    take = write_take(asked, picture(), tmp_path, day=DAY)
    inside = take.path.relative_to(tmp_path)
    assert len(inside.parts) == 3
    assert re.fullmatch(r"[0-9a-f]{8}-sadness(-[a-z0-9-]{1,40})?\.png", inside.name)
    assert Take.read(take.path).request == asked
    assert not leftovers(tmp_path)


@pytest.mark.parametrize("ext", ["../png", "png/../../x", "", "p" * 20, "tiff"])
def test_hostile_suffixes(ext: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ext:"):
        write_take(request(), picture(), tmp_path / "out", ext=ext)
    with pytest.raises(ValueError, match="ext:"):
        write_take(request(), b"data", tmp_path / "out", ext="../x")
    assert not list(tmp_path.rglob("*.*"))


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"format": 2, "request": {}},
        {"format": 1},
        {"format": 1, "request": [1]},
        {"format": 1, "request": {"prompt": "\ud800"}},
        {"format": [[]], "x": "\n\x1b[31m" * 100},
        {"sheet": ["a.png"]},
    ],
)
def test_foreign_records_are_one_line(record: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(media.encode_image(picture(), "png", {"affect": record}))
    with pytest.raises(TakeError) as error:
        Take.read(path)
    assert "\n" not in str(error.value)
    assert "\x1b" not in str(error.value)
    assert "x.png" in str(error.value)


@pytest.mark.parametrize("field", ["reading", "chosen", "versions"])
def test_records_with_wrong_parts(field: str, tmp_path: Path) -> None:
    take = write_take(request(), picture(), tmp_path, day=DAY)
    record = media.read_metadata(take.path)["affect"]
    take.path.write_bytes(media.encode_image(picture(), "png", {"affect": {**record, field: 3}}))
    with pytest.raises(TakeError, match=field):
        Take.read(take.path)


def test_a_picture_from_elsewhere_is_no_take(tmp_path: Path) -> None:
    with pytest.raises(TakeError, match="carries no request"):
        Take.read(photo(tmp_path))


# --- output folder


def test_ledger_lines(tmp_path: Path) -> None:
    take = write_take(request(), picture(), tmp_path, reading=READING, seconds=2.0, day=DAY)
    record_failure(request(seed=8), RuntimeError("line one\nline two"), tmp_path)
    done, failed = ledger.read(tmp_path)
    assert done == json.loads(
        json.dumps({**take.to_json(), "path": take.path.relative_to(tmp_path).as_posix()})
    )
    assert Request.from_json(done["request"]).key == done["key"] == take.request.key
    assert (failed["status"], failed["error"]) == ("failed", "line one line two")
    assert failed["key"] == request(seed=8).key


@pytest.mark.parametrize("cut", [1, 2, 30, 400])
def test_a_cut_last_line_is_healed(cut: int, tmp_path: Path) -> None:
    for seed in range(3):
        record_failure(request(seed=seed), RuntimeError("x"), tmp_path)
    path = tmp_path / ledger.LEDGER
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    record_failure(request(seed=3), RuntimeError("x"), tmp_path)
    lines = path.read_bytes().split(b"\n")
    assert lines[-1] == b""
    seeds = [json.loads(line)["request"]["seed"] for line in lines[:-1]]
    # without its newline only, the line is whole and kept
    assert seeds == ([0, 1, 2, 3] if cut == 1 else [0, 1, 3])


def test_a_ledger_of_zeros_after_a_power_cut(tmp_path: Path) -> None:
    record_failure(request(seed=0), RuntimeError("x"), tmp_path)
    with (tmp_path / ledger.LEDGER).open("ab") as file:
        file.write(bytes(512))
    record_failure(request(seed=1), RuntimeError("x"), tmp_path)
    assert [line["request"]["seed"] for line in ledger.read(tmp_path)] == [0, 1]


def test_two_processes_one_ledger(tmp_path: Path) -> None:
    code = """
        start = int(sys.argv[2])
        for seed in range(start, start + 60):
            record_failure(request(seed=seed, prompt="x" * 5000), RuntimeError("x"), out)
    """
    processes = [child(code, tmp_path, start) for start in (0, 1000)]
    for process in processes:
        finish(process)
    lines = (tmp_path / ledger.LEDGER).read_text().splitlines()
    seeds = [json.loads(line)["request"]["seed"] for line in lines]
    assert sorted(seeds) == [*range(60), *range(1000, 1060)]


def test_a_stuck_lock_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = """
        from pipelines.ledger import locked
        with locked(out):
            print("held", flush=True)
            sys.stdin.readline()
    """
    prepare_out(tmp_path)
    holder = child(code, tmp_path)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        monkeypatch.setattr(ledger, "LOCK_SECONDS", 0.1)
        with pytest.raises(TakeError, match="another process"):
            record_failure(request(), RuntimeError("x"), tmp_path)
    finally:
        holder.kill()  # and the kernel lets the lock go
        holder.communicate(timeout=60)
    record_failure(request(), RuntimeError("x"), tmp_path)
    assert len(list(ledger.read(tmp_path))) == 1


def test_kill_leaves_whole_files_and_a_whole_ledger(tmp_path: Path) -> None:
    """kill -9 at random moments of a loop of writes; then a normal start."""
    code = """
        start = int(sys.argv[2])
        image = picture(1, 96)
        prepare_out(out)
        write_take(request(seed=start), image, out, day=DAY)
        print("ready", flush=True)
        for seed in range(start + 1, start + 100_000):
            write_take(request(seed=seed), image, out, day=DAY)
    """
    rng = np.random.default_rng(0)
    turns = 5
    for turn in range(turns):
        process = child(code, tmp_path, turn * 100_000)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0.03, 0.25))
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
    prepare_out(tmp_path)
    assert leftovers(tmp_path) == []
    write_take(request(seed=10**9), picture(), tmp_path, day=DAY)

    files = {path.name: Take.read(path) for path in tmp_path.rglob("*.png")}
    text = (tmp_path / ledger.LEDGER).read_text()
    assert text.endswith("\n")
    lines = [json.loads(line) for line in text.splitlines()]
    assert len(lines) >= turns
    for line in lines:
        assert files[Path(line["path"]).name].sha256 == line["sha256"]
    # a kill between rename and ledger line leaves at most one whole file a turn without a line
    assert len(lines) <= len(files) <= len(lines) + turns


def test_sweep_leaves_the_living(tmp_path: Path) -> None:
    mine = ledger.temporary(tmp_path / "x.png")
    foreign = tmp_path / ".tmp-elsewhere-1-abcd.png"
    dead = tmp_path / re.sub(r"-\d+-", "-999999999-", mine.name)
    odd = tmp_path / ".tmp-x"
    for path in (mine, foreign, dead, odd):
        path.write_bytes(b"half")
    prepare_out(tmp_path)
    assert (mine.exists(), foreign.exists(), dead.exists(), odd.exists()) == (
        True,
        True,
        False,
        True,
    )
    for path in (foreign, odd):
        os.utime(path, (0, 0))
    prepare_out(tmp_path)
    assert (mine.exists(), foreign.exists(), odd.exists()) == (True, False, False)


def test_an_old_file_survives_a_failed_write(tmp_path: Path) -> None:
    path = write_atomic(tmp_path / "a" / "x.json", b"old")
    assert path.stat().st_mode & 0o444 == 0o444 & ~current_umask()
    with pytest.raises(TypeError):
        write_atomic(path, "not bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert not leftovers(tmp_path)


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("place", ["file", "below a file", "/proc/affect", "nul"])
def test_a_folder_that_cannot_be_written(place: str, tmp_path: Path) -> None:
    """Tests may run as root, who may write nearly anywhere."""
    (tmp_path / "file").write_text("mine")
    out = {"file": tmp_path / "file", "below a file": tmp_path / "file" / "out"}.get(place)
    out = out or Path("/proc/affect" if place == "/proc/affect" else "a\0b")
    with pytest.raises(ValueError, match=r"out: .*--out|null") as error:
        prepare_out(out)
    assert "\n" not in str(error.value)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        if os.access(tmp_path, os.W_OK):
            pytest.skip("this user may write anywhere")
        with pytest.raises(TakeError, match="cannot write"):
            prepare_out(tmp_path)
    finally:
        tmp_path.chmod(0o755)


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    """A limit on file size stands in for the disk: writes fail in the middle the same way."""
    code = """
        import resource
        prepare_out(out)
        first = write_take(request(seed=0), picture(), out, day=DAY)
        for seed in range(4):  # longer than a small picture
            record_failure(request(seed=seed, prompt="x" * 4000), RuntimeError("x"), out)
        size = (out / ledger.LEDGER).stat().st_size
        results = []
        # room for the ledger's line only; then for the file only
        for limit, big in ((size + 4000, 128), (size + 100, 2)):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            try:
                write_take(request(seed=1), picture(0, big), out, day=DAY)
            except TakeError as error:
                results.append(str(error))
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        assert (out / ledger.LEDGER).stat().st_size == size
        write_take(request(seed=2), picture(), out, day=DAY)
        print(json.dumps(results))
    """
    results = json.loads(finish(child(code, tmp_path)))
    assert len(results) == 2
    assert all("no space left" in text and "\n" not in text for text in results)
    assert "/image/" in results[0]
    assert ledger.LEDGER in results[1]
    assert leftovers(tmp_path) == []
    files = sorted(path.name for path in tmp_path.rglob("*.png"))
    done = [line for line in ledger.read(tmp_path) if line["status"] == "done"]
    assert files == sorted(Path(line["path"]).name for line in done)
    assert len(files) == 2


def test_a_really_full_disk(tmp_path: Path) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("no right to mount a small file system here")
    try:
        with pytest.raises(TakeError, match="0 MB free"):
            prepare_out(tmp_path)
        written: list[Take] = []

        def fill() -> None:
            for seed in range(100):
                written.append(write_take(request(seed=seed), picture(0, 48), tmp_path, day=DAY))

        with pytest.raises(TakeError, match="no space left"):
            fill()
        assert written
        assert leftovers(tmp_path) == []
        assert len(list(tmp_path.rglob("*.png"))) == len(list(ledger.read(tmp_path)))
        assert [Take.read(take.path).sha256 for take in written] == [t.sha256 for t in written]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
