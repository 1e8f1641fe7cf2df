"""`affect train` on pictures, prompts and text states: settings, a dry run, one result."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from adapters.directions import DirectionBank
from adapters.lora import LoraBank
from adapters.slider_file import read_metadata
from pipelines.media import load_image
from studio.cli import run
from tests.test_training_batches import pictures
from tests.tiny import tiny_folder
from training import cli
from training.checkpoints import Checkpoints
from training.config import LORAS, ImageLora, read, source_of


@pytest.fixture(scope="module")
def painter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder("sd15", tmp_path_factory.mktemp("painter") / "tiny")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("photos")).root


@pytest.fixture
def config(tmp_path: Path, painter: Path, photos: Path) -> Path:
    path = tmp_path / "my.toml"
    path.write_text(
        f'modality = "image"\ndata = "{photos}"\nbackbone = "{painter}"\nsteps = 3\nrank = 2\n'
        f'batch = 2\nresolution = 32\nout = "{tmp_path / "sliders"}"\ndevice = "cpu"\n'
        'tracker = "none"\n'
    )
    return path


def test_pictures_are_learned_from_a_file_of_settings(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sliders"
    command = ["train", "lora", "--config", str(config)]
    assert run([*command, "--dry-run"]) == 0
    said = capsys.readouterr()
    assert said.out == f"{out / 'first_batch.png'}\n"
    for told in ("16 files for image", "contentment, anger", "3 steps of 2 pictures", "memory:",
                 "32 x 32", "trainable parameters"):  # fmt: skip
        assert told in said.err
    sheet = np.asarray(load_image(out / "first_batch.png"))
    assert sheet.std() > 10
    assert not (out / "config.toml").exists()
    assert run([*command, "--steps", "2"]) == 0
    said = capsys.readouterr()
    assert said.out == f"{out}\n"
    assert "held-out loss" in said.err
    assert "too few held-out pictures" in said.err
    bank = LoraBank(out)
    assert bank.names == ("contentment", "anger")
    about = read_metadata(bank.files["anger"])
    assert about["backbone"] == "tiny"
    assert str(tmp_path.parent) not in json.dumps(about)  # files travel, paths do not
    kept = source_of(out / "config.toml")
    assert kept.values["modality"] == "image"
    assert read(ImageLora, kept.without("modality"), {}).steps == 2
    assert run(command) == 2
    assert "holds finished adapters" in capsys.readouterr().err
    assert source_of(out / "config.toml").values["steps"] == 2


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--resolution", "33"], "multiples of 8"),
        (["--emotions", "angr"], "did you mean anger"),
        (["--emotions", "awe"], "shows awe; it has contentment, anger"),
        (["--frames", "70"], "--frames: is not known to this recipe"),
        (["--modality", "picture"], "modality: allowed image, music, voice, portrait"),
        (["--data", "/nowhere"], "/nowhere is no folder"),
        (["--data", ""], "data: none given"),
        (["--config", "/nowhere.toml"], "config: /nowhere.toml cannot be read"),
        (["--steps", "0"], "steps"),
        (["--resume", "30"], "'30' is no checkpoint"),
        (["--tracker", "mlflow"], "tracker: allowed tensorboard, trackio, wandb, none"),
        (["--critic-every", "2", "--critic", "nobody"], "critic: nobody not found"),
    ],
)
def test_mistakes_are_one_line_and_nothing_starts(
    more: list[str], told: str, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["train", "lora", "--config", str(config), *more]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    last = said.err.strip().splitlines()[-1]
    assert told in last
    assert "Traceback" not in said.err
    assert not (tmp_path / "sliders").exists()


def test_a_fault_of_the_file_is_told_with_its_line(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text(config.read_text() + "stepps = 4\n")
    assert run(["train", "lora", "--config", str(config)]) == 2
    assert "my.toml:11: stepps: is not known to this recipe; did you mean steps?" in (
        capsys.readouterr().err
    )
    config.write_text('# x\nmodality = "pictures"\n')
    assert run(["train", "lora", "--config", str(config)]) == 2
    assert "my.toml:2: modality: allowed image" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("empty", "holds 0 files"),
        ("three", "3 usable files for image"),
        ("broken", "8 or more are needed; 8 are damaged"),
        ("unlabelled", "has one; name folders after emotions (sadness/...), or write metadata"),
    ],
)
def test_folders_that_teach_nothing_are_one_line(
    fault: str, told: str, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data" / ("" if fault == "unlabelled" else "anger")
    data.mkdir(parents=True)
    for k in range({"empty": 0, "three": 3, "broken": 8, "unlabelled": 12}[fault]):
        if fault == "broken":
            (data / f"{k}.png").write_bytes(b"no picture")
        else:
            Image.effect_noise((32, 32), 20.0 + k).save(data / f"{k}.png")
    assert run(["train", "lora", "--config", str(config), "--data", str(tmp_path / "data")]) == 2
    assert told in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "sliders").exists()


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    said = capsys.readouterr()
    assert said.out == ""
    assert "Traceback" not in said.err
    return said.err.strip().splitlines()[-1]


def test_a_loss_that_is_no_number_is_one_line(
    config: Path, painter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights that are damaged: the first step says so, and what was there is kept."""
    broken = tmp_path / "broken"
    shutil.copytree(painter, broken)
    (weights,) = (broken / "unet").glob("*.safetensors")
    tensors = load_file(weights)
    name = next(name for name in tensors if name.endswith("to_q.weight"))
    tensors[name][0, 0] = float("nan")
    save_file(tensors, weights, {"format": "pt"})
    command = ["train", "lora", "--config", str(config), "--backbone", str(broken)]
    assert run(command) == 2
    assert "loss: no number at step 1; the state before it is kept in" in last_line(capsys)
    assert Checkpoints(tmp_path / "sliders" / ".checkpoint").steps() == [0]


def test_ctrl_c_keeps_the_step_and_a_run_goes_on_from_any_that_is_kept(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sliders"
    command = ["train", "lora", "--config", str(config), "--steps", "60", "--save-every", "2"]

    def press() -> None:
        deadline = time.monotonic() + 60
        log = out / "log.jsonl"
        while time.monotonic() < deadline:
            if log.is_file() and log.read_text().count("\n") >= 3:
                os.kill(os.getpid(), signal.SIGINT)
                return
            time.sleep(0.002)

    thread = threading.Thread(target=press)
    thread.start()
    assert run(command) == 130
    thread.join()
    assert "stopped at step" in capsys.readouterr().err
    kept = Checkpoints(out / ".checkpoint").steps()
    assert len(kept) == 2
    assert run(command) == 2
    assert "pass --resume latest to go on" in last_line(capsys)
    assert run([*command, "--resume", str(kept[0]), "--steps", str(kept[1])]) == 0
    assert f"resumed at step {kept[0]}" in capsys.readouterr().err
    steps = [json.loads(line)["step"] for line in (out / "log.jsonl").read_text().splitlines()]
    assert steps == list(range(1, kept[1] + 1))


@pytest.mark.parametrize("most", [900, 30_000])  # bytes: cached states, checkpoints
def test_a_full_disk_is_one_line_and_the_last_checkpoint_is_kept(
    most: int, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A limit on the size of files, which the system tells as it tells a full disk."""
    out = tmp_path / "sliders"
    command = ["train", "lora", "--config", str(config), "--rank", "8", "--save-every", "1"]
    assert run([*command, "--dry-run"]) == 0
    capsys.readouterr()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        code = run(command)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert code == 2
    line = last_line(capsys)
    assert "cannot be written" in line
    assert "make room and pass --resume latest" in line
    assert not list(out.rglob("*.tmp*"))
    assert run([*command, "--resume", "latest"]) == 0


def test_a_launcher_has_the_same_commands(
    config: Path, painter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    command = ["lora", "--config", str(config), "--steps", "2", "--no-bf16"]
    assert run(["train", *command, "--out", str(one)]) == 0
    capsys.readouterr()
    assert cli.main([*command, "--out", str(two)]) == 0
    said = capsys.readouterr()
    assert said.out == f"{two}\n"
    assert "held-out loss" in said.err
    for path in one.glob("*.safetensors"):
        a, b = load_file(path), load_file(two / path.name)
        assert all(torch.equal(a[key], b[key]) for key in a)
    assert cli.main([*command, "--out", str(two)]) == 2
    assert "holds finished adapters" in last_line(capsys)
    assert cli.main(["lora", "--config", str(config), "--modality", "picture"]) == 2
    assert "modality: allowed image" in last_line(capsys)
    assert cli.main(["directions", "--backbone", str(painter), "--vocabulary", "image-tiny",
                     "--out", str(tmp_path / "d"), "--device", "cpu"]) == 0  # fmt: skip
    assert (tmp_path / "d" / "directions.safetensors").is_file()
    assert cli.main(["slider", "--no-data", "--backbone", str(painter), "--emotion", "sadness",
                     "--dry-run"]) == 0  # fmt: skip


def test_a_launcher_offers_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["lora", "--help"])
    said = capsys.readouterr().out
    for kind in LORAS.values():
        for field in dataclasses.fields(kind):
            assert "--" + field.name.replace("_", "-") in said


def test_a_slider_is_learned_from_prompts(
    painter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "slider.toml"
    config.write_text(
        "steps = 2\nbatch = 2\npool = 4\nsamples = 2\nsample_steps = 1\nheight = 32\nwidth = 32\n"
    )
    out = tmp_path / "sliders"
    command = ["train", "slider", "--backbone", str(painter), "--emotion", "sadness", "--no-data",
               "--config", str(config), "--out", str(out), "--device", "cpu"]  # fmt: skip
    assert run([*command, "--dry-run"]) == 0
    assert 'emotion = "sadness"\n' in capsys.readouterr().out
    assert not out.exists()
    assert run([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["sliders"] == [str(out / "sadness.safetensors")]
    assert LoraBank(out).names == ("sadness",)
    assert source_of(out / "config.toml").values["emotion"] == "sadness"
    assert run([*command, "--emotion", "sad"]) == 2
    assert "did you mean sadness" in capsys.readouterr().err
    finished = (out / "sadness.safetensors").read_bytes()
    assert run([*command, "--steps", "3"]) == 2
    assert "had other steps; pass --restart to replace it" in last_line(capsys)
    assert (out / "sadness.safetensors").read_bytes() == finished
    assert run([*command, "--steps", "3", "--restart"]) == 0


@pytest.mark.parametrize("recipe", ["lora", "distill"])
def test_what_another_recipe_has_made_is_not_overwritten(
    recipe: str, config: Path, painter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sliders"
    out.mkdir()
    (out / "anger.safetensors").write_bytes(b"somebody's")
    given = {
        "lora": ["--config", str(config)],
        "distill": ["--backbone", str(painter), "--emotion", "anger", "--out", str(out)],
    }[recipe]
    assert run(["train", recipe, *given]) == 2
    assert "holds anger.safetensors of another recipe" in last_line(capsys)
    assert (out / "anger.safetensors").read_bytes() == b"somebody's"


def test_directions_are_fitted_and_kept(
    painter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "directions", "--backbone", str(painter), "--emotions", "all",
               "--vocabulary", "image-tiny", "--out", str(tmp_path / "d"),
               "--device", "cpu"]  # fmt: skip
    assert run(command) == 0
    said = capsys.readouterr()
    path = tmp_path / "d" / "directions.safetensors"
    assert said.out == f"{path}\n"
    assert DirectionBank.load(path).vectors["tokens"].shape[0] == 12
    assert run([*command, "--emotions", "anger"]) == 2
    assert "the twelve share a map" in capsys.readouterr().err
    assert run([*command, "--vocabulary", "poor"]) == 2
    assert "allowed rich, image-tiny" in capsys.readouterr().err
