"""A person's face from Live Link Face recordings: learned, worn, refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from adapters import facs
from adapters.emotion import CORE
from adapters.face_motion import ARKIT, Motion, write_csv
from pipelines.portrait_model import PortraitPipeline, Sampling
from pipelines.portrait_motion import MotionSettings, plan
from tests.speech import sentence
from tests.test_portrait_model import tiny
from training.portrait_lora import (
    LoraSettings,
    StyleError,
    gain_of,
    make_row,
    read_folder,
    split,
    train_lora,
)

BROW = ARKIT.index("browInnerUp")


def record(folder: Path, name: str, seconds: float = 12.0, seed: int = 0, fps: float = 60) -> Path:
    """Somebody who holds the inner brows up and wavers."""
    rng = np.random.default_rng(seed)
    frames = round(seconds * fps)
    curves = np.zeros((frames, 52))
    curves[:, BROW] = 0.3 + 0.05 * np.sin(np.arange(frames) / fps * 3 + rng.uniform(0, 6))
    if name.endswith("_happiness"):
        curves += 0.6 * facs.expression(facs.named("happiness")[None])[0]
    pose = np.tile([20.0, -5.0, 0.0], (frames, 1))  # the phone stands to one side
    folder.mkdir(parents=True, exist_ok=True)
    return write_csv(folder / f"{name}.csv", Motion(curves, pose, fps))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("face")
    for k, name in enumerate(("one", "two", "three_happiness")):
        record(root, name, seed=k)
    soundfile.write(root / "two.wav", np.concatenate([sentence()] * 5), 16000)
    return root


def test_recordings_are_read_as_rows(folder: Path) -> None:
    plain, happy, spoken = (one.row for one in read_folder(folder, tell=lambda _: None))
    assert len(plain.rest) == pytest.approx(360, abs=2)
    assert plain.told.tolist() == [0, 1, 1]
    assert spoken.told.tolist() == [1, 1, 1]
    assert not plain.track.any()
    assert happy.track[:, CORE.index("happiness")].mean() == pytest.approx(0.6, abs=0.1)
    assert np.abs(plain.rest[:, 52:]).max() < 0.1  # where the camera stood is no style
    assert not plain.known[:, ARKIT.index("eyeBlinkLeft")].any()
    smile = ARKIT.index("mouthSmileLeft")
    assert abs(happy.rest[:, smile].mean()) < 0.1  # the emotion explains it


def test_a_style_is_learned_and_worn(folder: Path, tmp_path: Path) -> None:
    model = tiny()
    torch.nn.init.zeros_(model.denoiser.leave.bias)
    model.save(tmp_path / "model", dtype=torch.float32)
    settings = LoraSettings(rank=4, steps=60, check=20, batch=4, frames=48, rate=1e-2)
    figures = train_lora(
        folder,
        backbone=tmp_path / "model",
        out=tmp_path / "me",
        settings=settings,
        tell=lambda _: None,
    )
    assert figures["kept"]
    assert figures["left_after"] < 0.8 * figures["left_before"]
    low, high = figures["gain_interval"]
    assert 0 < low < figures["left_before"] - figures["left_after"] < high
    assert figures["seconds_unseen"] == 3  # a tenth of each recording of 12 s
    assert json.loads((tmp_path / "me" / "adapter.json").read_text()) == figures
    pipe = PortraitPipeline.load(tmp_path / "model")
    pipe.set_progress_bar_config(disable=True)

    def brow() -> float:
        motion = plan(
            None,
            np.zeros(12),
            seconds=2,
            model=pipe,
            generator=torch.Generator().manual_seed(0),
            settings=MotionSettings(sampling=Sampling(steps=4)),
        )
        return float(motion.curves[:, BROW].mean())

    plain = brow()
    with pipe.wearing(tmp_path / "me"):
        worn = brow()
    assert abs(worn - 0.3) < abs(plain - 0.3)
    assert brow() == plain
    with pytest.raises(StyleError, match="another folder"):
        train_lora(folder, backbone=tmp_path / "model", out=tmp_path / "me", tell=lambda _: None)


def test_seconds_of_one_recording_are_one_witness() -> None:
    before = np.ones((60, 2))
    after = before.copy()
    after[:, 0] = np.repeat(np.linspace(0.2, 1.6, 6), 10)
    low, high = gain_of(before, after, list(range(60)))
    grouped = gain_of(before, after, [k // 10 for k in range(60)])
    assert grouped[1] - grouped[0] > 2 * (high - low)


def test_what_cannot_be_learned_changes_nothing(tmp_path: Path) -> None:
    """Noise without a mean: what is written is worn without a trace, and the card says so."""
    model = tiny()
    torch.nn.init.zeros_(model.denoiser.leave.weight)
    torch.nn.init.zeros_(model.denoiser.leave.bias)
    model.save(tmp_path / "model", dtype=torch.float32)
    rng = np.random.default_rng(0)
    for k in range(2):
        # a face that went one way while it was learned and the other way when it is asked
        way = np.where(np.arange(360) < 288, 1.0, -1.0)[:, None]
        curves = np.clip(0.5 + 0.4 * way + 0.02 * rng.normal(size=(360, 52)), 0, 1)
        (tmp_path / "face").mkdir(exist_ok=True)
        write_csv(tmp_path / "face" / f"{k}.csv", Motion(curves, np.zeros((360, 3)), 30))
    settings = LoraSettings(rank=2, steps=4, check=2, batch=2, frames=32, rate=1e-4)
    figures = train_lora(
        tmp_path / "face", backbone=tmp_path / "model", out=tmp_path / "me", settings=settings,
        tell=lambda _: None,
    )  # fmt: skip
    assert not figures["kept"]
    assert figures["left_after"] == figures["left_before"] == 1


def test_a_stopped_run_is_gone_on_with_only_when_told(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    with pytest.raises(StyleError, match="--resume") as error:
        train_lora(folder, backbone=tmp_path, out=tmp_path, tell=lambda _: None)
    assert "\n" not in str(error.value)
    for wrong in ({"rank": 0}, {"minutes": 0}):
        with pytest.raises(StyleError, match="allowed"):
            LoraSettings(**wrong)


def test_too_little_is_told(tmp_path: Path) -> None:
    record(tmp_path, "short", 3.0)
    with pytest.raises(StyleError, match="20 s") as error:
        read_folder(tmp_path)
    assert "\n" not in str(error.value)
    with pytest.raises(StyleError, match="is no folder"):
        read_folder(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(StyleError, match=r"holds 0 files of \.csv"):
        read_folder(tmp_path / "empty")


def test_tables_of_other_things_are_left_out(folder: Path, tmp_path: Path) -> None:
    told: list[str] = []
    record(tmp_path / "deeper", "long", 21.0)
    (tmp_path / "prices.csv").write_text("day,price\n1,2\n")
    (found,) = read_folder(tmp_path, tell=told.append)
    assert len(found.row.rest) == pytest.approx(630, abs=2)
    assert told[0] == "1 of 2 files for portrait, layout plain"
    assert told[-1].startswith("left out: prices.csv")
    assert all("\n" not in line for line in told)


def test_labels_and_splits_of_a_table_are_kept(tmp_path: Path) -> None:
    """A rated intensity is what the model is told; a named one is read from the face."""
    for k, name in enumerate(("one", "two", "three_happiness")):
        record(tmp_path, name, 9.0, seed=k)
    (tmp_path / "metadata.jsonl").write_text(
        '{"file_name": "one.csv", "emotion": "sadness .4 + fear .2", "split": "test"}\n'
        '{"file_name": "two.csv", "emotion": "happy"}\n'
        '{"file_name": "three_happiness.csv", "emotion": "happy"}\n'
    )
    found = read_folder(tmp_path, tell=lambda _: None)
    one, three, two = (recording.row for recording in found)
    sad, afraid, happy = (CORE.index(name) for name in ("sadness", "fear", "happiness"))
    assert one.track[:, sad] == pytest.approx(0.4)
    assert one.track[:, afraid] == pytest.approx(0.2)
    assert two.track[:, happy].max() < 0.2 < three.track[:, happy].mean()
    train, decide, unseen = split(found)
    assert [len(row.rest) for row in train] == [len(three.rest), len(two.rest)]
    assert len(decide[0].rest) + len(unseen[0].rest) == len(one.rest)
    assert len(decide) == len(unseen) == 1


def test_rows_follow_the_clock_of_the_recording(tmp_path: Path) -> None:
    assert len(make_row(record(tmp_path, "x", 4.0, fps=24)).rest) == pytest.approx(120, abs=2)
