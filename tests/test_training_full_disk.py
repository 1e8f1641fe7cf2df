"""A disk that is full while something is trained: one line, nothing half, the last state kept."""

from __future__ import annotations

import logging
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from adapters.files import replacing
from pipelines.voice_model import ADAPTER
from studio.cli import run
from tests.test_training_music_lora import write_marches
from tests.test_training_portrait_lora import record
from tests.test_training_voice import recordings
from tests.tiny import tiny_composer, tiny_folder, tiny_portrait, tiny_voice
from training.checkpoints import CheckpointError, Checkpoints
from training.loop import load_checkpoint, save_checkpoint


@contextmanager
def room(most: int) -> Iterator[None]:
    """No file of this process may grow beyond `most` bytes while the context is open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_of_tensors_is_whole_or_told_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"

    def write(value: float) -> None:
        with replacing(path) as fresh:
            save_file({"x": torch.full((5000,), value)}, fresh)

    write(1.0)
    before = path.read_bytes()
    with (
        room(4096),
        pytest.raises(OSError, match=r"a\.safetensors cannot be written .*make room") as e,
    ):
        write(2.0)
    assert "\n" not in str(e.value)
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["a.safetensors"]


def test_the_last_checkpoint_stays(tmp_path: Path) -> None:
    model = torch.nn.Linear(50, 50)
    optimizer = torch.optim.AdamW(model.parameters())
    generator = torch.Generator().manual_seed(0)
    given = ({"model": model}, {}, optimizer, generator)
    folder = tmp_path / "checkpoint"
    save_checkpoint(folder, 1, *given)
    with room(4096), pytest.raises(OSError, match="checkpoint cannot be written"):
        save_checkpoint(folder, 2, *given)
    with room(4096), pytest.raises(CheckpointError) as told:
        Checkpoints(tmp_path / "of-pictures").save(5, given, {})
    line = str(told.value)
    assert line.count("cannot be written") == line.count("make room") == 1
    assert "too large" in line
    (tmp_path / "of-pictures").rmdir()
    assert [one.name for one in tmp_path.iterdir()] == ["checkpoint"]
    assert load_checkpoint(folder, *given) == 1


@pytest.mark.parametrize("modality", ["music", "voice", "portrait", "slider"])
def test_a_run_ends_in_one_line_and_is_gone_on_with(
    modality: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Handlers made before this test write to pytest's own file, which may be larger by now.
    monkeypatch.setattr(logging, "raiseExceptions", False)
    data, weights, out = tmp_path / "data", tmp_path / "weights", tmp_path / "out"
    command = ["train", "lora", "--modality", modality, "--data", str(data), "--rank", "2",
               "--steps", "2", "--batch", "2", "--resume", "latest"]  # fmt: skip
    if modality == "music":
        write_marches(data, 5)
        tiny_composer(weights)
        adapter = out / "adapter_model.safetensors"
    elif modality == "voice":
        recordings(data)
        tiny_voice(weights)
        command += ["--crop", "32"]
        adapter = out / "prosody" / ADAPTER
    elif modality == "portrait":
        record(data, "one", 22.0)
        tiny_portrait(weights)
        command += ["--frames", "32"]
        adapter = out / ADAPTER
    else:
        tiny_folder("sd15", weights)
        command = ["train", "slider", "--emotion", "fear", "--no-data", "--steps", "2", "--batch",
                   "2", "--pool", "4", "--samples", "2", "--sample-steps", "1", "--height", "32",
                   "--width", "32", "--device", "cpu"]  # fmt: skip
        adapter = out / "fear.safetensors"
    command += ["--backbone", str(weights), "--out", str(out)]
    with room(12_000):  # more than is printed, less than any of these adapters
        assert run(command) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "Traceback" not in said.err
    assert "cannot be written" in said.err.strip().splitlines()[-1]
    assert not adapter.exists()
    assert not [one for one in tmp_path.rglob("*") if ".tmp" in one.name]
    assert run(command) == 0
    assert adapter.stat().st_mode & 0o777 == 0o644
    assert not any(one.name.endswith("checkpoint") for one in out.iterdir())
