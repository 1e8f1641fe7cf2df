"""The model of portraits: seeds, seams, what is hidden is not heard, guidance, folder, adapters."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from peft import LoraConfig

from pipelines.portrait_model import (
    ADAPTER,
    COLUMNS,
    EMOTION,
    OVERLAP,
    WINDOW,
    PortraitDenoiser,
    PortraitModelError,
    PortraitPipeline,
    Sampling,
    emotion_rows,
    frame_windows,
    make_scheduler,
)
from pipelines.portrait_sound import FEATURES

FAST = Sampling(steps=3)


def tiny(seed: int = 0) -> PortraitPipeline:
    """The real classes, small, with weights that do something."""
    torch.manual_seed(seed)
    model = PortraitDenoiser(width=32, depth=2, heads=2, codes=8, scale=(0.1,) * COLUMNS)
    torch.nn.init.normal_(model.leave.weight, std=0.3)
    for part in (model.unheard, model.unfelt, model.unstyled):
        torch.nn.init.normal_(part, std=0.5)
    for block in model.blocks:
        torch.nn.init.normal_(block.modulate.weight, std=0.3)
    pipe = PortraitPipeline(model.eval(), make_scheduler())
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def pipe() -> PortraitPipeline:
    return tiny()


def given(frames: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    features = rng.normal(0, 1, (frames, FEATURES))
    plan = rng.uniform(0, 0.5, (frames, COLUMNS))
    return features, plan, emotion_rows(rng.dirichlet(np.ones(12), frames) * 0.8)


def take(pipe: PortraitPipeline, frames: int = 60, seed: int = 0, **more: object) -> np.ndarray:
    more.setdefault("settings", FAST)
    return pipe.sample(*given(frames), generator=torch.Generator().manual_seed(seed), **more)


def test_same_seed_same_motion_and_another_seed_another(pipe: PortraitPipeline) -> None:
    one = take(pipe)
    assert one.shape == (60, COLUMNS)
    assert (one == take(pipe)).all()
    assert np.abs(one - take(pipe, seed=1)).max() > 1e-3


def test_sampling_leaves_the_pipeline_as_it_was(pipe: PortraitPipeline) -> None:
    before = {k: v.clone() for k, v in pipe.denoiser.state_dict().items()}
    take(pipe)
    assert pipe.scheduler.num_inference_steps is None
    assert all((v == before[k]).all() for k, v in pipe.denoiser.state_dict().items())


@pytest.mark.parametrize("frames", [1, 7, WINDOW, WINDOW + 1, 500])
def test_windows_cover_every_frame(frames: int) -> None:
    windows = frame_windows(frames)
    assert windows[0][0] == 0
    assert windows[-1][1] == frames
    for (_, last), (first, _) in pairwise(windows):
        assert last - first >= OVERLAP


@pytest.mark.parametrize("frames", [1, 3, WINDOW + 1])
def test_any_length(pipe: PortraitPipeline, frames: int) -> None:
    assert take(pipe, frames).shape == (frames, COLUMNS)


def test_no_seam_where_windows_meet(pipe: PortraitPipeline) -> None:
    """The steps between frames are no larger at the edges of windows than anywhere."""
    frames = 300
    rows = take(pipe, frames, settings=Sampling(steps=4))
    steps = np.abs(np.diff(rows, axis=0)).mean(axis=1)
    edges = sorted({e for w in frame_windows(frames) for e in w} - {0, frames})
    assert max(steps[e - 1] for e in edges) < np.quantile(steps, 0.99) * 1.3


def test_what_is_hidden_is_not_used(pipe: PortraitPipeline) -> None:
    model = pipe.denoiser
    torch.manual_seed(0)
    x, times = torch.randn(1, 20, COLUMNS), torch.tensor([500])
    one = [torch.tensor(part[None], dtype=torch.float32) for part in given(20)]
    two = [torch.tensor(part[None], dtype=torch.float32) for part in given(20, seed=1)]
    style = torch.zeros(1, 4)

    def run(parts: list[torch.Tensor], told: tuple[int, int, int]) -> torch.Tensor:
        with torch.no_grad():
            return model(x, times, *parts, style, torch.tensor([told]))

    assert torch.equal(run(one, (0, 0, 0)), run(two, (0, 0, 0)))
    assert not torch.allclose(run(one, (1, 0, 0)), run(two, (1, 0, 0)))
    mixed = [two[0], *one[1:]]
    assert torch.equal(run(one, (0, 1, 0)), run(mixed, (0, 1, 0)))
    assert not torch.allclose(run(one, (0, 1, 0)), run([one[0], *two[1:]], (0, 1, 0)))


def test_positions_are_distances(pipe: PortraitPipeline) -> None:
    """The same second later in a window gives the same motion, away from its edges."""
    parts = [np.tile(part[:1], (80, 1)) for part in given(1)]
    rows = [torch.tensor(part[None], dtype=torch.float32) for part in parts]
    with torch.no_grad():
        v = pipe.denoiser(
            torch.ones(1, 80, COLUMNS),
            torch.tensor([400]),
            *rows,
            torch.zeros(1, 4),
            torch.ones(1, 3),
        )[0]
    assert torch.allclose(v[30], v[50], atol=1e-3)


def test_guidance_is_nested_and_costs_nothing_at_one() -> None:
    assert Sampling().branches(0.5) == [((1, 1, 1), 1.0)]
    both = dict(Sampling(audio=2.0, emotion=3.0, style=1.5).branches(0.5))
    assert both == {(0, 0, 0): -1.0, (1, 0, 0): -1.0, (1, 1, 0): 1.5, (1, 1, 1): 1.5}
    assert sum(both.values()) == pytest.approx(1)
    early = dict(Sampling(audio=2.0, emotion=3.0).branches(0.0))
    late = dict(Sampling(audio=2.0, emotion=3.0).branches(1.0))
    assert early == {(1, 0, 0): -2.0, (1, 1, 0): 2.0, (1, 1, 1): 1.0}  # emotion first
    assert late == {(0, 0, 0): -1.0, (1, 0, 0): 1.0, (1, 1, 1): 1.0}  # lips last


def test_each_scale_moves_something(pipe: PortraitPipeline) -> None:
    plain = take(pipe)
    for name in ("audio", "emotion"):
        assert np.abs(take(pipe, settings=Sampling(steps=3, **{name: 2.0})) - plain).max() > 1e-3
    style = (1.0, -1.0, 0.5, 0.0)
    styled = take(pipe, style=style)
    assert np.abs(styled - plain).max() > 1e-3
    assert (
        np.abs(take(pipe, style=style, settings=Sampling(steps=3, style=2.0)) - styled).max() > 1e-3
    )


def test_spread_is_of_the_mouth_alone(pipe: PortraitPipeline) -> None:
    calm = [take(pipe, seed=s, settings=Sampling(steps=3, spread=0.1)) for s in (0, 1)]
    wild = [take(pipe, seed=s, settings=Sampling(steps=3, spread=1.0)) for s in (0, 1)]
    jaw = 17
    assert np.abs(calm[0] - calm[1])[:, jaw].mean() < np.abs(wild[0] - wild[1])[:, jaw].mean()


def test_other_schedulers_run_unchanged(pipe: PortraitPipeline) -> None:
    other = PortraitPipeline(
        pipe.denoiser, DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    )
    assert np.isfinite(take(other, settings=Sampling(steps=4))).all()


def test_folder_round_trip(pipe: PortraitPipeline, tmp_path: Path) -> None:
    pipe.save(tmp_path / "model", dtype=torch.float32)
    read = PortraitPipeline.load(tmp_path / "model")
    read.set_progress_bar_config(disable=True)
    assert (take(read) == take(pipe)).all()
    assert not list(tmp_path.rglob("*.bin"))
    pipe.save(tmp_path / "half")
    assert pipe.denoiser.dtype == torch.float32
    with pytest.raises(PortraitModelError, match="training"):
        PortraitPipeline.load(tmp_path)


def test_adapters_are_worn_and_taken_off(pipe: PortraitPipeline, tmp_path: Path) -> None:
    model = tiny().denoiser
    model.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v", "up", "down"]), "style")
    for name, value in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.2)
    model.save_lora_adapter(str(tmp_path), adapter_name="style", weight_name=ADAPTER)
    plain = take(pipe)
    with pipe.wearing(tmp_path):
        assert np.abs(take(pipe) - plain).max() > 1e-3
    assert (take(pipe) == plain).all()
    with pytest.raises(PortraitModelError, match="train it again"), pipe.wearing(tmp_path / "no"):
        pass
    assert (take(pipe) == plain).all()


def test_blends_ask_for_mixtures_of_codes(pipe: PortraitPipeline) -> None:
    told = torch.tensor(emotion_rows(np.eye(12)[:3]))[None]
    bank = pipe.denoiser.bank
    with torch.no_grad():
        found = bank(told)[0]
    assert found.shape == (3, 32)
    assert not torch.allclose(found[0], found[1], atol=1e-4)
    assert told.shape[-1] == EMOTION


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda f, p, e: (f[:, :9], p, e), "features: need"),
        (lambda f, p, e: (f, p[:9], e), "as many rows"),
        (lambda f, p, e: (f, p, e[:, :3]), "emotion: need"),
        (lambda f, p, e: (f * np.nan, p, e), "finite"),
        (lambda f, p, e: (f[:0], p[:0], e[:0]), "features: need"),
    ],
)
def test_what_does_not_fit_is_told(pipe: PortraitPipeline, change, says: str) -> None:
    with pytest.raises(PortraitModelError, match=says) as error:
        pipe.sample(*change(*given()), generator=torch.Generator())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["steps", "audio", "emotion", "style", "spread"])
def test_settings_have_ranges(name: str) -> None:
    with pytest.raises(PortraitModelError, match=f"{name}: allowed"):
        Sampling(**{name: -1})
