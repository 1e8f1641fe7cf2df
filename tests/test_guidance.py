from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch import nn

from adapters.conditioning import encode
from adapters.directions import DirectionBank
from adapters.emotion import CORE
from adapters.families import decode
from adapters.guidance import (
    CriticGuidance,
    GuidanceError,
    NoiseGuidance,
    preview,
    soft_labels,
)
from adapters.lora import LoraBank
from adapters.steps import SchedulerError, StepClock, clean_map
from tests.test_lora import GRID, SEEDS, make_sliders, paint, snapshot, track
from tests.tiny import FAMILIES, generators, tiny

SAD = CORE.index("sadness")
FEAR = CORE.index("fear")

# Schedulers of each convention, with what they are told the model predicts.
SCHEDULERS = [
    ("DDIMScheduler", "epsilon"),
    ("DDIMScheduler", "v_prediction"),
    ("PNDMScheduler", "epsilon"),
    ("EulerDiscreteScheduler", "epsilon"),
    ("EulerDiscreteScheduler", "v_prediction"),
    ("EulerAncestralDiscreteScheduler", "epsilon"),
    ("HeunDiscreteScheduler", "v_prediction"),
    ("DPMSolverMultistepScheduler", "epsilon"),
    ("DPMSolverMultistepScheduler", "v_prediction"),
    ("UniPCMultistepScheduler", "epsilon"),
    ("UniPCMultistepScheduler", "v_prediction"),
]


class ToyCritic(nn.Module):
    """A small convolutional reader with fixed random weights: real gradients, no opinion."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 5, stride=2), nn.SiLU(), nn.Conv2d(8, 16, 3, stride=2), nn.SiLU(),
            nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 13),
        )  # fmt: skip
        generator = torch.Generator().manual_seed(3)
        for parameter in self.parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 1
            spread = 2.0 * fan_in**-0.5 if parameter.ndim > 1 else 0.1
            nn.init.normal_(parameter, 0.0, spread, generator=generator)
        self.calls = 0

    def log_probabilities(self, images: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.layers(images * 2 - 1).log_softmax(dim=1)

    @torch.no_grad()
    def score(self, images: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
        return (soft_labels(rows) * self.log_probabilities(images.float())).sum(dim=1)


def with_scheduler(name: str, kind: str) -> Any:
    pipe = tiny("sd15")
    changes: dict[str, Any] = {"prediction_type": kind}
    if name == "PNDMScheduler":
        changes["skip_prk_steps"] = True
    pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config, **changes)
    return pipe


def mean_rise(pipe: Any, name: str, **settings: Any) -> float:
    critic, rows = ToyCritic(), track({SAD: 0.9}, {FEAR: 0.9}, {SAD: 0.5, FEAR: 0.5})
    critic.requires_grad_(False)
    arguments = {"num_inference_steps": 10, **settings}
    plain = paint(pipe, name, [1, 2, 3], **arguments)
    with CriticGuidance(critic).steer(pipe, rows, 2.0):
        guided = paint(pipe, name, [1, 2, 3], **arguments)
    assert torch.isfinite(guided).all()
    return float((critic.score(guided, rows) - critic.score(plain, rows)).mean())


@pytest.mark.parametrize(("name", "kind"), SCHEDULERS)
def test_the_critic_agrees_more_with_every_scheduler(name: str, kind: str) -> None:
    assert mean_rise(with_scheduler(name, kind), "sd15") > 0.02


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "sd15"])
def test_the_critic_agrees_more_on_every_family(name: str) -> None:
    assert mean_rise(tiny(name), name, height=32, width=48) > 0.02


@pytest.mark.parametrize(("name", "kind"), SCHEDULERS)
def test_the_clean_sample_is_found_from_a_perfect_prediction(name: str, kind: str) -> None:
    """Noise a known x0 as the scheduler does; the true prediction must give x0 back."""
    scheduler = with_scheduler(name, kind).scheduler
    scheduler.set_timesteps(7)
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(2, 4, 3, 3, generator=generator)
    noise = torch.randn(2, 4, 3, 3, generator=generator)
    for t in scheduler.timesteps[[0, 3, 6]]:
        noised = scheduler.add_noise(clean, noise, t[None])
        abar = scheduler.alphas_cumprod[int(t)]
        velocity = abar.sqrt() * noise - (1 - abar).sqrt() * clean
        a, b = clean_map(scheduler, t)
        found = a * noised + b * (noise if kind == "epsilon" else velocity)
        # The fractional timesteps of Karras-type schedulers are rounded in abar above.
        torch.testing.assert_close(found, clean, atol=0.02, rtol=0.02)


def test_the_clean_sample_of_flow_models() -> None:
    clean, noise = torch.full((1, 2), 3.0), torch.full((1, 2), -1.0)
    for scheduler in (
        diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True),
    ):
        scheduler.set_timesteps(5)
        sigma = scheduler.sigmas[2]
        a, b = clean_map(scheduler, scheduler.timesteps[2])
        noised = (1 - sigma) * clean + sigma * noise
        torch.testing.assert_close(a * noised + b * (noise - clean), clean)


def test_only_the_middle_steps_are_guided_and_the_total_is_capped() -> None:
    pipe, critic = tiny("sd15"), ToyCritic()
    plain, guided = [], []
    arguments = {"num_inference_steps": 10}
    with preview(pipe, lambda i, n, x: plain.append(x)):
        paint(pipe, "sd15", [1], **arguments)
    guidance = CriticGuidance(critic, pace=0.1, cap=0.25)
    with guidance.steer(pipe, track({SAD: 1.0})), preview(pipe, lambda i, n, x: guided.append(x)):
        paint(pipe, "sd15", [1], **arguments)
        paint(pipe, "sd15", [1], **arguments)  # the budget is per run
    # Steps 2, 3 and half of 4 use the budget up; the preview lies under the guidance's wrapper.
    assert critic.calls == 2 * 6
    for run in (guided[:10], guided[10:]):
        assert all(torch.equal(a, b) for a, b in zip(plain[:2], run[:2], strict=True))
        assert not torch.equal(plain[3], run[3])
    torch.testing.assert_close(guided[:10], guided[10:], atol=1e-5, rtol=0)


def moves(pipe: Any, strength: float, scale: float = 1.0) -> list[float]:
    """RMS of what each step's guidance adds to the clean sample, over the sample's RMS."""
    shares: list[float] = []

    def score(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return scale * images.mean(dim=(1, 2, 3)) * labels[:, 1 + SAD]

    seen: list[Any] = []

    def inner(step: Any, f: Any, t: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        a, b = clean_map(pipe.scheduler, t)
        seen.append(a * x + b * f)
        return step(f, t, x, *args, **kwargs)

    def outer(step: Any, f: Any, t: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        a, b = clean_map(pipe.scheduler, t)
        before = a * x + b * f
        result = step(f, t, x, *args, **kwargs)
        shares.append(float((seen[-1] - before).pow(2).mean().sqrt() / before.pow(2).mean().sqrt()))
        return result

    with StepClock(pipe).running(inner):
        steering = CriticGuidance(score, pace=0.1, cap=0.25).steer(
            pipe, track({SAD: 1.0}), strength
        )
        with steering, StepClock(pipe).running(outer):
            paint(pipe, "sd15", [1], num_inference_steps=10)
    return shares


def test_the_size_of_a_move_does_not_come_from_the_critic() -> None:
    pipe = tiny("sd15")
    expected = [0, 0, 0.1, 0.1, 0.05, 0, 0, 0, 0, 0]
    assert moves(pipe, 1.0) == pytest.approx(expected, abs=1e-4)
    assert moves(pipe, 1.0, scale=1e3) == pytest.approx(expected, abs=1e-4)
    assert moves(pipe, 0.5)[2:7] == pytest.approx([0.05] * 5, abs=1e-4)
    assert sum(moves(pipe, 50.0)) == pytest.approx(0.25, abs=1e-3)


def bank_for(pipe: Any) -> DirectionBank:
    words = {"sadness": "sad", "fear": "afraid", "happiness": "happy"}
    pairs = {
        emotion: [
            (f"an ordinary {thing}", f"a {words.get(emotion, 'vivid')} {thing}")
            for thing in ("lake", "street", "dog")
        ]
        for emotion in CORE
    }
    return DirectionBank.fit(pipe, pairs, components=0)


def mechanisms(pipe: Any) -> dict[str, Any]:
    return {"critic": CriticGuidance(ToyCritic()), "noise": NoiseGuidance(bank_for(pipe))}


@pytest.mark.parametrize("name", FAMILIES)
def test_noise_guidance_moves_asked_rows_only_and_a_batch_equals_singles(name: str) -> None:
    pipe = tiny(name).to(torch.float64)
    guidance = NoiseGuidance(bank_for(tiny(name)))
    rows = track({}, {SAD: 1.0}, {FEAR: 0.7})
    arguments = {"num_inference_steps": 3}
    plain = paint(pipe, name, [1, 1, 2], **arguments)
    with guidance.steer(pipe, rows, 1.5):
        batch = paint(pipe, name, [1, 1, 2], **arguments)
    difference = (batch - plain).abs().amax(dim=(1, 2, 3))
    assert difference[0] < 1e-9
    assert (difference[1:] > 1e-6).all()
    for row, seed in enumerate([1, 1, 2]):
        with guidance.steer(pipe, rows[row], 1.5):
            single = paint(pipe, name, [seed], **arguments)
        torch.testing.assert_close(batch[row], single[0], atol=1e-5, rtol=0)


def test_noise_guidance_is_the_formula() -> None:
    """f_u + g (f_0 - f_u) + eta (f+ - f-), computed by hand for one step of SD."""
    pipe, eta, scale = tiny("sd15"), 1.5, 3.0
    bank, rows = bank_for(pipe), track({SAD: 1.0})
    seen: list[torch.Tensor] = []

    def keep(step: Any, f: Any, t: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(f)
        return step(f, t, x, *args, **kwargs)

    with StepClock(pipe).running(keep), NoiseGuidance(bank).steer(pipe, rows, eta, start=0.0):
        paint(pipe, "sd15", [1], num_inference_steps=1)
    plain, empty = encode(pipe, ["a quiet lake"]), encode(pipe, [""])
    plus, minus = (bank.shift(pipe, plain, rows, sign) for sign in (1.0, -1.0))
    noise = torch.randn(1, 4, 8, 8, generator=generators(1)[0])
    t = pipe.scheduler.timesteps[0]

    def f(encoded: Any) -> torch.Tensor:
        with torch.no_grad():
            return pipe.unet(noise, t, encoder_hidden_states=encoded.tokens).sample

    expected = f(empty) + scale * (f(plain) - f(empty)) + eta * (f(plus) - f(minus))
    torch.testing.assert_close(seen[0], expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("kind", ["critic", "noise"])
def test_zero_is_the_plain_model_and_nothing_is_left(kind: str) -> None:
    pipe = tiny("sd15")
    guidance = mechanisms(pipe)[kind]
    before = snapshot(pipe)
    plain = paint(pipe, "sd15", [1, 2])
    for rows, strength in ((track({SAD: 1.0}, {}), 0.0), (np.zeros((2, 12)), 1.0)):
        with guidance.steer(pipe, rows, strength):
            assert torch.equal(paint(pipe, "sd15", [1, 2]), plain)
    with guidance.steer(pipe, track({}, {SAD: 1.0}), start=0.0):
        guided = paint(pipe, "sd15", [1, 2])
    assert torch.equal(guided[0], plain[0])
    assert not torch.equal(guided[1], plain[1])

    def fail(*_: Any) -> Any:
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"), guidance.steer(pipe, track({SAD: 1.0})):
        paint(pipe, "sd15", [1], callback_on_step_end=fail)

    def generate() -> Iterator[torch.Tensor]:
        with guidance.steer(pipe, track({SAD: 1.0})):
            yield paint(pipe, "sd15", [1])
            yield paint(pipe, "sd15", [1])

    run = generate()
    next(run)
    run.close()
    after = snapshot(pipe)
    assert before.pop("weights").keys() == after.pop("weights").keys()
    assert before == after
    assert torch.equal(paint(pipe, "sd15", [1, 2]), plain)


@pytest.mark.parametrize("name", ["sd15", "z-image", "qwen-image"])
def test_all_mechanisms_together_keep_a_grid_equal_to_singles(name: str, tmp_path: Any) -> None:
    pipe = tiny(name).to(torch.float64)
    directions = bank_for(tiny(name))
    sliders = make_sliders(pipe, tmp_path)
    sliders.load_into(pipe)
    critic = CriticGuidance(ToyCritic())
    arguments = {"num_inference_steps": 4}

    def run(rows: np.ndarray, seeds: list[int]) -> torch.Tensor:
        with (
            directions.steer(pipe, rows),
            LoraBank.steer(sliders, pipe, rows, branch="cond"),
            NoiseGuidance(directions).steer(pipe, rows, 1.0, start=0.2),
            critic.steer(pipe, rows),
        ):
            return paint(pipe, name, seeds, **arguments)

    grid = run(GRID, SEEDS)
    for row, seed in enumerate(SEEDS):
        torch.testing.assert_close(grid[row], run(GRID[row], [seed])[0], atol=1e-5, rtol=0)


def test_preview_shows_every_step_and_ends_at_the_picture() -> None:
    pipe = tiny("sd15")
    seen: list[tuple[int, int, torch.Tensor]] = []
    with preview(pipe, lambda *step: seen.append(step)):
        picture = paint(pipe, "sd15", [1], num_inference_steps=4)
    assert [(index, total) for index, total, _ in seen] == [(0, 4), (1, 4), (2, 4), (3, 4)]
    last = decode(pipe, seen[-1][2]).clamp(0, 1)
    assert (last - picture).abs().mean() < 0.02


def test_soft_labels_leave_the_rest_to_neutral() -> None:
    labels = soft_labels(track({SAD: 0.3}, {SAD: 1.2}, {SAD: -0.4}))
    assert labels.sum(dim=1).tolist() == pytest.approx([1, 1, 1])
    assert labels[:, 0].tolist() == pytest.approx([0.7, 0, 1])
    assert labels[:, 1 + SAD].tolist() == pytest.approx([0.3, 1, 0])


def test_one_line_errors() -> None:
    pipe = tiny("sd15")
    guidance = CriticGuidance(ToyCritic())
    backwards = guidance.steer(pipe, track({SAD: 1.0}), start=0.9, stop=0.1)
    with pytest.raises(GuidanceError, match="start, stop"), backwards:
        pass
    with pytest.raises(GuidanceError, match=r"\(B, 12\)"), guidance.steer(pipe, [[1.0, 2.0]]):
        pass
    with pytest.raises(GuidanceError, match="pace, cap, chunk"):
        CriticGuidance(ToyCritic(), pace=0)
    too_many = guidance.steer(pipe, GRID[:3])
    with pytest.raises(GuidanceError, match="3 rows do not fit 2 pictures"), too_many:
        paint(pipe, "sd15", [1, 2], num_inference_steps=4)
    pipe.scheduler = diffusers.EDMEulerScheduler()
    pipe.scheduler.set_timesteps(3)
    with pytest.raises(SchedulerError, match="EDMEulerScheduler cannot be guided; use DDIM"):
        clean_map(pipe.scheduler, pipe.scheduler.timesteps[0])
