"""The recipe of portrait-tiny: composition, batches, losses, resuming, what is written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from adapters import facs
from adapters.emotion import CORE
from adapters.face_motion import ARKIT, MOUTH
from pipelines.portrait_model import COLUMNS, PortraitPipeline
from pipelines.portrait_sound import FEATURES, hear, silence
from tests.speech import sentence
from training.portrait import (
    EmotionReader,
    Settings,
    column_weights,
    fit_model,
    losses_of,
    main,
    make_pipeline,
    mouth_left,
)
from training.portrait_data import (
    Clip,
    Feed,
    PortraitDataError,
    bent,
    compose,
    prepared,
    random_track,
    rounded,
    scale_of,
    split,
)
from training.portrait_report import closure_figures, closures, lag

JAW = ARKIT.index("jawOpen")


def clip(seconds: float = 6.0, seed: int = 0, mouth: bool = True) -> Clip:
    """Speech whose jaw follows its level."""
    rng = np.random.default_rng(seed)
    sound = np.concatenate([sentence(pitch=rng.uniform(100, 200)) for _ in range(4)])
    heard = hear(sound[: round(seconds * 16000)])
    curves = np.zeros((len(heard), 52), np.float32)
    curves[:, JAW] = 0.4 * heard.speaking
    return Clip(f"clip{seed}", 1.0, heard, curves if mouth else None)


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    return [clip(seed=0), clip(seed=1), clip(seed=2, mouth=False)]


def test_tracks_are_states_and_of_every_kind() -> None:
    rng = np.random.default_rng(0)
    tracks = [random_track(96, rng)[0] for _ in range(200)]
    assert all(t.min() >= 0 and t.sum(axis=1).max() <= 1 + 1e-6 for t in tracks)
    assert 0.1 < np.mean([not t.any() for t in tracks]) < 0.3
    assert 0.15 < np.mean([np.ptp(t, axis=0).max() > 0.1 for t in tracks]) < 0.6
    assert len({int(t.sum(0).argmax()) for t in tracks}) == len(CORE)


def test_a_row_is_the_recorded_mouth_in_a_face(clips: list[Clip]) -> None:
    for seed in range(8):
        row = compose(clips[0], np.random.default_rng(seed))
        whole = row.plan + row.rest
        assert whole[:, :52].min() > -1e-6
        assert whole[:, :52].max() < 1 + 1e-6
        assert row.features.shape == (len(clips[0]), FEATURES)
        assert row.known.all()
        said = clips[0].mouth[:, JAW]
        if not row.track.any():
            assert np.corrcoef(whole[:, JAW], said)[0, 1] > 0.98
    assert np.abs(whole[:, 52:]).max() > 0.5  # heads move


def test_mouths_that_were_not_recorded_are_not_learned(clips: list[Clip]) -> None:
    row = compose(clips[2], np.random.default_rng(0))
    assert not row.known[:, list(MOUTH)].any()
    assert row.known[:, ARKIT.index("browInnerUp")].all()


def test_strong_emotions_show_in_the_composed_face(clips: list[Clip]) -> None:
    found = []
    for seed in range(60):
        row = compose(clips[0], np.random.default_rng(seed))
        k = int(row.track.sum(0).argmax())
        if row.track[:, k].mean() > 0.6:
            face = facs.expression(facs.named(CORE[k])[None])[0][0]
            found.append(float(((row.plan + row.rest)[:, :52] @ face).mean() / (face @ face)))
    assert len(found) > 5
    assert min(found) > 0.3


def test_rounding_is_divided_alike_and_its_sum_stays() -> None:
    rows = np.zeros((2, 52))
    f, p = ARKIT.index("mouthFunnel"), ARKIT.index("mouthPucker")
    rows[0, f] = rows[1, p] = 0.5
    made = rounded(rows)
    assert np.allclose(made[0], made[1])
    assert made[0, f] + made[0, p] == pytest.approx(0.5)
    wide = rows.copy()
    wide[:, JAW] = 0.4
    assert rounded(wide)[0, p] < made[0, p]


def test_bent_sound_is_another_voice_with_the_same_silence(clips: list[Clip]) -> None:
    features = clips[0].heard.features
    made = bent(features, np.random.default_rng(0))
    assert made.shape == features.shape
    assert 0.05 < np.abs(made - features)[:, :128].mean() < 0.8
    quiet = bent(silence(40).features, np.random.default_rng(0))
    assert np.abs(quiet[:, :128] + 3).max() < 0.3


def test_batches_are_drawn_from_the_step_alone(clips: list[Clip]) -> None:
    one, two = Feed(clips, 4, 48, 7), Feed(clips, 4, 48, 7)
    one.draw(0)
    a, b = one.draw(3), two.draw(3)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["rest"], one.draw(4)["rest"])
    assert a["features"].shape == (4, 48, FEATURES)
    with pytest.raises(PortraitDataError, match="curves"):
        Feed([clips[2]], 4)


def test_scales_are_of_what_moves(clips: list[Clip]) -> None:
    scale = scale_of(clips, rows=40)
    assert scale.shape == (COLUMNS,)
    assert scale[JAW] > 0.1
    assert scale[ARKIT.index("tongueOut")] == pytest.approx(0.02)
    weights = column_weights(scale)
    assert weights[JAW] == 3
    assert weights[ARKIT.index("tongueOut")] < 0.1


def test_discrimination_reaches_the_denoiser_and_not_the_reader(clips: list[Clip]) -> None:
    pipe = make_pipeline(scale_of(clips, rows=10), width=32, depth=1)
    torch.nn.init.normal_(pipe.denoiser.leave.weight, std=0.1)
    reader = EmotionReader(16)
    batch = Feed(clips, 6, 48).draw(0)
    found = losses_of(
        pipe.denoiser,
        reader,
        batch,
        pipe.scheduler.alphas_cumprod,
        column_weights(pipe.denoiser.scale.numpy()),
        torch.Generator().manual_seed(0),
    )
    found.discrimination.backward(retain_graph=True)
    assert all(p.grad is None for p in reader.parameters())
    assert pipe.denoiser.leave.weight.grad.abs().max() > 0
    found.reading.backward()
    assert next(reader.parameters()).grad.abs().max() > 0


class Killed(Exception):
    """What ends a run in the middle."""


def test_a_killed_run_resumes_to_the_same_weights(clips: list[Clip], tmp_path: Path) -> None:
    settings = Settings(minutes=1e9, steps=10, rate=2e-3, check=5)

    def run(folder: Path, kill: bool = False) -> PortraitPipeline:
        def better() -> None:
            if kill:
                raise Killed

        torch.manual_seed(0)
        pipe = make_pipeline(scale_of(clips, rows=10), width=32, depth=1)
        feed = Feed(clips, 4, 32)
        fit_model(pipe, feed, lambda m: mouth_left(m, clips[:1]), folder, settings, better)
        return pipe

    whole = run(tmp_path / "whole")
    with pytest.raises(Killed):
        run(tmp_path / "killed", kill=True)
    meta = json.loads((tmp_path / "killed" / "checkpoint" / "meta.json").read_text())
    assert meta["step"] == 5
    again = run(tmp_path / "killed")
    for key, value in whole.denoiser.state_dict().items():
        assert torch.equal(value, again.denoiser.state_dict()[key]), key
    lines = [json.loads(x) for x in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert [x["step"] for x in lines] == [5, 10]
    assert np.isfinite([x["left"] for x in lines]).all()
    left, jaw = mouth_left(whole.denoiser, clips[:1])
    assert 0 < left < 9
    assert -1 <= jaw <= 1


def test_clips_are_prepared_once_and_split(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "facegood"
    folder.mkdir(parents=True)
    sound = np.concatenate([sentence()] * 3)
    frames = int(len(sound) / 16000 * 30)
    for name in ("one", "1114_2_05"):
        soundfile.write(folder / f"{name}.flac", sound, 16000)
        curves = np.zeros((frames, 52), np.float16)
        curves[:, JAW] = 0.3
        np.savez(folder / f"{name}.npz", arkit=curves, arkit_names=np.array(ARKIT), fps=30.0)
    made = prepared(tmp_path / "work", tmp_path / "data")
    read = prepared(tmp_path / "work")
    assert len(made) == len(read) == 10
    for one, two in zip(made, read, strict=True):
        assert (one.name, one.speed) == (two.name, two.speed)
        assert np.allclose(one.heard.features, two.heard.features)
        assert len(one.mouth) == len(one)
    slow = next(c for c in made if c.speed == 0.86)
    assert len(slow) == pytest.approx(frames / 0.86, abs=2)
    train, choose, held = split(made)
    assert {c.name for c in train} == {c.name for c in choose} == {"one"}
    assert [c.name for c in held] == ["1114_2_05"]
    with pytest.raises(PortraitDataError, match="facegood"):
        prepared(tmp_path / "none", tmp_path / "empty")


def test_the_command_writes_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "facegood"
    folder.mkdir(parents=True)
    sound = np.concatenate([sentence()] * 4)
    frames = int(len(sound) / 16000 * 30)
    soundfile.write(folder / "one.flac", sound, 16000)
    soundfile.write(folder / "1114_3_16.flac", sound, 16000)
    for name in ("one", "1114_3_16"):
        curves = np.random.default_rng(0).uniform(0, 0.3, (frames, 52)).astype(np.float16)
        np.savez(folder / f"{name}.npz", arkit=curves, arkit_names=np.array(ARKIT), fps=30.0)
    arguments = [
        "--data",
        tmp_path / "data",
        "--work",
        tmp_path / "work",
        "--run",
        tmp_path / "run",
    ]
    arguments += ["--out", tmp_path / "model", "--steps", "2", "--batch", "2", "--width", "32"]
    assert main([str(a) for a in [*arguments, "--depth", "1", "--check", "1"]]) == 0
    assert PortraitPipeline.load(tmp_path / "model").denoiser.config.width == 32


def test_lags_and_closures_are_counted() -> None:
    t = np.arange(300) / 30
    wave = 0.15 + 0.15 * np.sin(2 * np.pi * 2 * t)
    assert lag(wave[4:], wave[:-4]) == 4
    assert lag(wave, wave) == 0
    found = closures(np.maximum(wave, 0))
    assert len(found) == pytest.approx(20, abs=1)
    assert closure_figures(wave, wave)["recall"] == 1
    assert closure_figures(wave, np.full(300, 0.2))["recall"] == 0
    assert closure_figures(wave, np.zeros(300))["false"] == 1
