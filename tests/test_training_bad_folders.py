"""Folders that no style can be learned from: one line saying what to change, and nothing made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipelines.media import load_image
from pipelines.media_midi import encode_midi
from pipelines.media_sound import encode_sound
from studio.cli import run
from tests.test_training_music_lora import march
from tests.test_training_portrait_lora import record
from tests.test_training_voice import said

SUFFIX = {"music": ".mid", "voice": ".wav", "portrait": ".csv"}


def put(path: Path, modality: str, k: int) -> None:
    """A short usable file of a modality."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if modality == "music":
        path.write_bytes(encode_midi(march(k, bars=8), {}))
    elif modality == "voice":
        path.write_bytes(encode_sound(said(seed=k, text=k)[None], 16000, {}))
    else:
        record(path.parent, path.stem, seconds=2.0, seed=k)


def empty(data: Path, modality: str) -> None:
    (data / "notes.txt").write_text("nothing here")


def three(data: Path, modality: str) -> None:
    for k, mood in enumerate(("neutral", "anger", "sadness")):
        put(data / f"line{k}_{mood}{SUFFIX[modality]}", modality, k)


def broken(data: Path, modality: str) -> None:
    end = SUFFIX[modality]
    (data / f"empty_neutral{end}").write_bytes(b"")
    (data / f"text_anger{end}").write_text("this is no recording")
    (data / f"bytes_anger{end}").write_bytes(np.random.default_rng(0).bytes(4000))
    (data / f"folder_anger{end}").mkdir()


def wrong_label(data: Path, modality: str) -> None:
    three(data, modality)
    rows = [f"{path.name},grumpyish" for path in data.iterdir()]
    (data / "metadata.csv").write_text("\n".join(["file_name,emotion", *rows]))


def no_table(data: Path, modality: str) -> None:
    three(data, modality)
    (data / "metadata.jsonl").write_text('{"file_name": "line0_neutral"\n')


def outside(data: Path, modality: str) -> None:
    three(data, modality)
    (data / "metadata.csv").write_text("file_name,emotion\n../../etc/passwd,anger\n")


Fault = Callable[[Path, str], None]
TOO_LITTLE = {
    "music": "under 32 bars are too little to hold some out; give 5 or more",
    "voice": "sentences have a neutral and an emotional take; record 4 or more",
    "portrait": "3 CSV with 6 s of curves; record 20 s or more",
}


@pytest.mark.parametrize(("modality", "held"), [("music", "voice"), ("image", "music")])
def test_a_folder_of_another_modality_is_told_its_name(
    modality: str, held: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    three(tmp_path, held)
    assert run(["train", "lora", "--modality", modality, "--data", str(tmp_path)]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.endswith(f"pass --modality {held}, or another folder")


@pytest.mark.parametrize("modality", list(SUFFIX))
@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (empty, "holds 0 files of {suffix}"),
        (three, "{too_little}"),
        (broken, "0 usable files for {modality}"),
        (wrong_label, 'no emotions: "grumpyish" (3); nearest known'),
        (no_table, "metadata.jsonl line 1 is no JSON object"),
        (outside, 'metadata.csv row 2 names "../../etc/passwd", outside the folder'),
    ],
)
def test_a_folder_that_teaches_nothing_is_one_line(
    fault: Fault, told: str, modality: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    fault(data, modality)
    before = sorted(data.rglob("*"))
    command = ["train", "lora", "--modality", modality, "--data", str(data), "--out", str(out)]
    assert run(command) == 2
    said_ = capsys.readouterr()
    assert said_.out == ""
    assert "Traceback" not in said_.err
    last = said_.err.strip().splitlines()[-1]
    wanted = told.format(
        modality=modality, suffix=SUFFIX[modality], too_little=TOO_LITTLE[modality]
    )
    assert wanted in last
    assert len(last) < 600
    assert not out.exists()
    assert sorted(data.rglob("*")) == before


@pytest.mark.parametrize("modality", list(SUFFIX))
def test_one_damaged_file_is_named_and_left_out(
    modality: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    three(tmp_path, modality)
    (tmp_path / f"bad_anger{SUFFIX[modality]}").write_bytes(b"no recording")
    run(["train", "lora", "--modality", modality, "--data", str(tmp_path), "--out",
         str(tmp_path / "out")])  # fmt: skip
    lines = capsys.readouterr().err.splitlines()
    assert any("left out: " in line and "bad_anger" in line for line in lines)
    assert f"3 of 4 files for {modality}" in lines[0]


def test_a_layout_of_another_modality_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    three(tmp_path, "voice")
    command = ["train", "lora", "--modality", "voice", "--data", str(tmp_path), "--layout"]
    assert run([*command, "emopia"]) == 2
    assert "layout: emopia holds music, not voice" in capsys.readouterr().err
    assert run([*command, "ravdes"]) == 2
    assert 'layout: "ravdes" is not known; allowed: auto, emodb' in capsys.readouterr().err


@pytest.mark.parametrize("modality", list(SUFFIX))
def test_a_dry_run_shows_what_the_folder_holds(
    modality: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    three(data, modality)
    command = ["train", "lora", "--modality", modality, "--data", str(data), "--out", str(out)]
    assert run([*command, "--steps", "40", "--dry-run"]) == 0
    said_ = capsys.readouterr()
    assert said_.out == f"{out / 'first_files.png'}\n"
    assert f"3 of 3 files for {modality}" in said_.err
    assert "40 steps of" in said_.err
    assert np.asarray(load_image(out / "first_files.png")).std() > 10
    assert [path.name for path in out.iterdir()] == ["first_files.png"]
