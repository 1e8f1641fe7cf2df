"""`affect train lora` as a person meets it: a folder on stdout, one line for every mistake."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from adapters.assets import ASSETS
from adapters.music_adapter import check_adapter
from adapters.piece import Piece
from pipelines.media_midi import encode_midi
from pipelines.take import Take
from pipelines.voice_model import VoicePipeline
from studio.cli import run
from tests.test_training_portrait_lora import record
from tests.test_training_voice import recordings
from tests.test_voice_model import tiny
from tests.tiny import tiny_composer, tiny_portrait

QUICK = ["--steps", "2", "--rank", "2"]


@pytest.fixture(scope="module")
def composer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_composer(tmp_path_factory.mktemp("composer") / "tiny")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five little pieces and a file that is none."""
    folder = tmp_path_factory.mktemp("midi")
    for seed in range(5):
        pitch = 60 + np.random.default_rng(seed).integers(0, 12, 64)
        piece = Piece.of(np.arange(64) / 2, 0.5, pitch)
        (folder / f"{seed}.mid").write_bytes(encode_midi(piece, {}))
    (folder / "broken.mid").write_bytes(b"no music")
    return folder


def test_a_style_is_trained_and_its_folder_printed(
    composer: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "style"
    command = ["train", "lora", "--modality", "music", "--data", str(data),
               "--backbone", str(composer), "--out", str(out), *QUICK]  # fmt: skip
    assert run(command) == 0
    said = capsys.readouterr()
    assert said.out == f"{out}\n"
    assert "left out:" in said.err
    assert "held-out loss" in said.err
    assert check_adapter(out) == out
    written = (out / "README.md").read_text() + (out / "adapter_config.json").read_text()
    assert str(composer.parent) not in written  # others cannot use a path of this machine
    assert run(command) == 2
    assert "holds a finished adapter" in capsys.readouterr().err
    assert run([*command[:-6], "--out", str(tmp_path / "other"), "--json", *QUICK]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["steps"] == 2
    assert figures["pieces"] == 4


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (["--data", "/nowhere"], "data: /nowhere is no folder"),
        (["--backbone", "music-tinny"], "did you mean"),
        (["--backbone", "image-tiny"], "makes image, not music"),
        (["--modality", "voice"], "holds none"),
        (["--modality", "picture"], "modality: allowed image"),
        (["--steps", "0"], "steps"),
    ],
)
def test_mistakes_are_one_line_and_nothing_starts(
    changed: list[str], told: str, composer: Path, data: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    given = {"--data": str(data), "--out": str(tmp_path / "x"), "--backbone": str(composer)}
    given |= {changed[0]: changed[1]}
    command = ["train", "lora", *(part for pair in given.items() for part in pair)]
    assert run(command) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert told in said.err
    assert len(said.err.strip().splitlines()) == 1
    assert not (tmp_path / "x").exists()


@pytest.fixture(scope="module")
def actor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A voice model with few weights."""
    return tiny().save(tmp_path_factory.mktemp("actor") / "tiny", torch.float32)


def test_a_way_of_acting_is_trained_and_worn(
    actor: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = recordings(tmp_path / "me"), tmp_path / "style"
    command = ["train", "lora", "--modality", "voice", "--data", str(data), "--out", str(out),
               "--backbone", str(actor), *QUICK]  # fmt: skip
    assert run(command) == 0
    said = capsys.readouterr()
    assert said.out == f"{out}\n"
    assert "pitch, level and timing:" in said.err
    assert "colour and breath:" in said.err
    pipe = VoicePipeline.load(actor)
    with pipe.wearing(out, 0.8):
        assert any("lora" in name for name, _ in pipe.timbre.named_parameters())
    assert str(actor.parent) not in (out / "adapter.json").read_text()
    assert run(command) == 2
    assert "holds a finished adapter" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kept", "told"),
    [
        ("*_neutral.wav", "holds neutral; a style is learned from the same sentences said neutr"),
        ("*_anger.wav", "holds anger; a style is learned"),
        ("line[0-2]_*.wav", "3 sentences have a neutral and an emotional take; record 4 or more"),
    ],
)
def test_recordings_that_teach_nothing_are_told_in_one_line(
    kept: str, told: str, actor: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = recordings(tmp_path / "me")
    for path in set(data.iterdir()) - set(data.glob(kept)):
        path.unlink()
    command = ["train", "lora", "--modality", "voice", "--data", str(data)]
    assert run([*command, "--out", str(tmp_path / "x"), "--backbone", str(actor), *QUICK]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert told in said.err.strip().splitlines()[-1]  # after what the folder holds
    assert not (tmp_path / "x").exists()


def test_a_face_is_learned_and_worn_by_a_portrait(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Live Link Face recordings -> LoRA -> a film, all from the command line."""
    pytest.importorskip("mediapipe", reason="faces are found by mediapipe (extra: portrait)")
    weights = tiny_portrait(tmp_path / "portrait")
    for name in ("one", "two_anger"):
        record(tmp_path / "face", name)
    (tmp_path / "face" / "prices.csv").write_text("day,price\n1,2\n")
    style = tmp_path / "me"
    command = ["train", "lora", "--modality", "portrait", "--data", str(tmp_path / "face"),
               "--backbone", str(weights), "--out", str(style), *QUICK]  # fmt: skip
    assert run([*command, "--rate", ".05"]) == 0
    said = capsys.readouterr()
    assert said.out == f"{style}\n"
    assert "left out: prices.csv" in said.err
    assert "held-out seconds" in said.err
    card = json.loads((style / "adapter.json").read_text())
    assert card["backbone"] == "portrait"
    assert str(tmp_path) not in (style / "adapter.json").read_text()
    make = ["make", "portrait", "-i", str(ASSETS / "samples" / "faces" / "cartoon.jpg"),
            "--seconds", ".2", "--steps", "1", "--size", "256", "--seed", "1",
            "-b", str(weights), "-o", str(tmp_path / "out")]  # fmt: skip
    takes = []
    for more in ([], ["--lora", str(style)]):
        assert run([*make, *more]) == 0
        takes.append(Take.read(Path(capsys.readouterr().out.strip())))
    plain, worn = (take.request.weights for take in takes)
    assert worn.startswith(f"{plain}+")

    assert run(command) == 2
    assert "holds a finished adapter" in capsys.readouterr().err
    short = tmp_path / "short"
    record(short, "one", 3.0)
    for data, told in ((short, "record 20 s or more"), (tmp_path / "none", "is no folder")):
        command[5], command[9] = str(data), str(tmp_path / "x")
        assert run(command) == 2
        said = capsys.readouterr()
        assert told in said.err.strip().splitlines()[-1]
        assert not (tmp_path / "x").exists()
