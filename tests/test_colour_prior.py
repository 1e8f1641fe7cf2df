"""The grade leans as films do, keeps hue and ends, and is mild."""

import colorsys

import numpy as np
import pytest
import torch

from adapters.colour_prior import GradeError, grade
from adapters.emotion import CORE, Emotion

FRAME = 0.1 + 0.8 * torch.rand(3, 24, 32, generator=torch.Generator().manual_seed(1))


def of(text: str) -> np.ndarray:
    return Emotion.parse(text).array


def value(frame: torch.Tensor) -> float:
    return float(frame.amax(dim=-3).mean())


def saturation(frame: torch.Tensor) -> float:
    high, low = frame.amax(dim=-3), frame.amin(dim=-3)
    return float(((high - low) / high).mean())


def test_nothing_asked_is_the_very_same_frame():
    assert torch.equal(grade(FRAME, of("fear .9"), 0.0), FRAME)
    assert torch.equal(grade(FRAME, of("neutral"), 1.0), FRAME)


def test_light_and_colour_lean_as_measured():
    calm, sad, angry = (
        grade(FRAME, of(f"{name} 1")) for name in ("contentment", "sadness", "anger")
    )
    assert value(calm) > value(FRAME) > value(sad) > value(angry)
    assert saturation(sad) < saturation(FRAME)
    assert saturation(grade(FRAME, of("excitement 1"))) > saturation(FRAME)
    assert value(grade(FRAME, of("excitement 1"))) < value(calm)


@pytest.mark.parametrize("name", CORE)
def test_it_is_mild_and_grows_with_intensity_and_strength(name):
    full = (grade(FRAME, of(f"{name} 1")) - FRAME).abs().mean()
    assert 0 < full < 0.05
    assert (grade(FRAME, of(f"{name} .5")) - FRAME).abs().mean() < full
    assert (grade(FRAME, of(f"{name} 1"), 2.0) - FRAME).abs().mean() > full
    assert abs(value(grade(FRAME, of(f"{name} 1"))) - value(FRAME)) < 0.05
    strong = grade(FRAME, of(f"{name} 1"), 4.0)
    assert strong.min() >= 0
    assert strong.max() <= 1


def test_hue_black_and_white_are_kept():
    grey = torch.stack([torch.zeros(16, 16), torch.ones(16, 16)]).unsqueeze(1).repeat(1, 3, 1, 1)
    assert torch.allclose(grade(grey, of("anger 1"), 4.0), grey, atol=1e-5)
    colour = torch.tensor([0.7, 0.4, 0.2]).view(3, 1, 1).repeat(1, 16, 16)
    graded = grade(colour, of("anger 1"), 2.0)[:, 0, 0].tolist()
    assert graded != pytest.approx([0.7, 0.4, 0.2], abs=0.005)
    assert colorsys.rgb_to_hsv(*graded)[0] == pytest.approx(
        colorsys.rgb_to_hsv(0.7, 0.4, 0.2)[0], abs=1e-3
    )


def test_frames_are_graded_each_for_its_own_state():
    frames = FRAME.repeat(3, 1, 1, 1)
    states = np.stack([of("neutral"), of("fear .5"), of("fear 1")])
    graded = grade(frames, states)
    assert torch.allclose(graded[0], FRAME, atol=1e-6)
    for i in range(3):
        assert torch.allclose(graded[i], grade(FRAME, states[i]), atol=1e-6)
    assert torch.allclose(grade(frames, states[2])[0], graded[2], atol=1e-6)
    assert grade(frames.half(), states).dtype == torch.float16


@pytest.mark.parametrize(
    ("frame", "state", "strength"),
    [
        (FRAME, np.zeros(12), -1.0),
        (FRAME, np.zeros(12), 5.0),
        (FRAME, np.zeros(13), 1.0),
        (FRAME[:2], np.zeros(12), 1.0),
        (FRAME.repeat(3, 1, 1, 1), np.zeros((2, 12)), 1.0),
    ],
)
def test_what_cannot_be_graded_is_refused_in_one_line(frame, state, strength):
    with pytest.raises(GradeError, match="grade: ") as refused:
        grade(frame, state, strength)
    assert "\n" not in str(refused.value)
