"""Sliders that somebody trained are worn by a picture, in place of the backbone's own."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from adapters.calibration import Calibration
from adapters.critic import load_critic
from adapters.emotion import CORE, Emotion
from adapters.lora import lora_layers
from pipelines.calibrate import calibrate
from pipelines.image import ImageParams
from pipelines.media import load_image
from pipelines.painter import Painter, Sitting
from pipelines.take import Take
from studio.cli import run
from tests.test_lora import assert_same, make_sliders, snapshot
from tests.tiny import tiny, tiny_folder

SMALL = ImageParams(width=32, height=32, steps=2, directions=False, content=0.0)
SITTING = Sitting("a quiet lake", Emotion.of("sadness", 0.8), 1)


@pytest.fixture(scope="module")
def painter(tmp_path_factory: pytest.TempPathFactory) -> Painter:
    """A tiny model with sliders of its own."""
    folder = tiny_folder("sd15", tmp_path_factory.mktemp("painter") / "tiny")
    make_sliders(tiny("sd15", seed=3), folder / "loras")
    return Painter.load(str(folder), device="cpu")


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mine")
    make_sliders(tiny("sd15"), folder, conv=False)
    return folder


def shown(painter: Painter, **changes: object) -> np.ndarray:
    return np.asarray(painter.paint([SITTING], replace(SMALL, **changes))[0], dtype=int)


def test_other_sliders_are_worn_and_taken_off(painter: Painter, mine: Path) -> None:
    before = snapshot(painter.pipe)
    own, worn, bare = shown(painter), shown(painter, sliders=str(mine)), shown(painter, lora=False)
    assert np.abs(own - worn).max() > 0
    assert np.abs(bare - worn).max() > 0
    assert np.array_equal(shown(painter, sliders=str(mine), lora=False), bare)
    assert_same(snapshot(painter.pipe), before)
    assert np.array_equal(shown(painter), own)

    def stop(step: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        painter.paint([SITTING], replace(SMALL, sliders=str(mine)), on_step=stop)
    layers = lora_layers(painter.pipe.unet).values()
    assert not any(key.startswith("other_") for layer in layers for key in layer.lora_A)


def test_a_request_tells_which_sliders_it_was_made_with(painter: Painter, mine: Path) -> None:
    plain, others = SMALL, replace(SMALL, sliders=str(mine))
    assert painter.weights(plain) != painter.weights(others)
    assert "sliders" not in plain.to_json()
    assert others.to_json()["sliders"] == str(mine)


def test_the_command_line_wears_them(
    painter: Painter, mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["make", "image", "a quiet lake", "-e", "sadness .8", "--seed", "1", "--steps", "2",
               "--width", "32", "--height", "32", "--no-directions", "-b", str(painter.folder),
               "-o", str(tmp_path)]  # fmt: skip
    made = []
    for more in ([], ["--sliders", str(mine)]):
        assert run([*command, *more]) == 0
        made.append(Take.read(Path(capsys.readouterr().out.strip())))
    assert made[0].request.weights != made[1].request.weights
    one, two = (np.asarray(load_image(take.path)) for take in made)
    assert not np.array_equal(one, two)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert run([*command, "--sliders", str(empty)]) == 2
    assert "no <emotion>.safetensors in" in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_gain_is_measured_for_the_sliders_in_use_and_kept_beside_them(
    painter: Painter, mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AFFECT_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "sliders"
    shutil.copytree(mine, folder)
    knobs = {"sliders": str(folder), "width": 32, "height": 32, "steps": 1, "directions": False}
    run_ = calibrate(
        painter=painter, emotions=("sadness",), levels=3, seeds=2, prompts=("a lake",),
        params=knobs, critic=load_critic("critic-image"),
    )  # fmt: skip
    *_, found = run_
    assert isinstance(found, Calibration)
    assert painter.calibration is None
    assert not (tmp_path / "cache").exists()
    assert found.params == {k: v for k, v in knobs.items() if k != "sliders"} | {
        "calibrated": False
    }
    kept = painter.calibration_of(str(folder))
    assert kept is not None
    assert kept.to_json() == found.to_json()
    asked = np.eye(12)[[CORE.index("sadness")]] * 0.5
    assert np.array_equal(painter.gained(asked, sliders=str(folder)), kept.gain(asked))
    assert np.array_equal(painter.gained(asked), asked)
    params = replace(SMALL, sliders=str(folder))
    assert painter.weights(params).endswith(kept.digest)
    # Other sliders in the folder: what was measured no longer holds.
    make_sliders(tiny("sd15", seed=5), folder)
    assert painter.calibration_of(str(folder)) is None
