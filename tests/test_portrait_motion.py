"""From sound and track to motion: factors, blinks, closures, faces of emotions, speed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from adapters import facs
from adapters.emotion import CORE
from adapters.face_motion import ARKIT, MOUTH, Motion
from pipelines.portrait_model import PortraitModelError, PortraitPipeline, Sampling
from pipelines.portrait_motion import MotionSettings, close_lips, plan, with_eyes
from pipelines.portrait_sound import Hearing, silence
from tests.speech import sentence
from tests.test_portrait_model import tiny

FAST = MotionSettings(sampling=Sampling(steps=2))
OTHERS = np.setdiff1d(np.arange(52), MOUTH)
LOOKS = [k for k, name in enumerate(ARKIT) if name.startswith(("eyeLook", "eyeBlink"))]


@pytest.fixture(scope="module")
def model() -> PortraitPipeline:
    return tiny()


@pytest.fixture(scope="module")
def still() -> PortraitPipeline:
    """A model that adds nothing: what is left is the plan, lids and eyes."""
    pipe = tiny()
    torch.nn.init.zeros_(pipe.denoiser.leave.weight)
    torch.nn.init.zeros_(pipe.denoiser.leave.bias)
    pipe.scheduler.register_to_config(prediction_type="sample")
    return pipe


def unit(name: str, intensity: float = 1.0) -> np.ndarray:
    return intensity * np.eye(12)[CORE.index(name)]


def make(model: PortraitPipeline, seed: int = 0, **more: object) -> Motion:
    base = {"waveform": None, "track": np.zeros(12), "seconds": 2.0, "settings": FAST}
    generator = torch.Generator().manual_seed(seed)
    return plan(**{**base, **more}, model=model, generator=generator)


@pytest.mark.parametrize("fps", [24.0, 25.0, 30.0, 60.0])
def test_any_frame_rate(model: PortraitPipeline, fps: float) -> None:
    motion = make(model, fps=fps, waveform=sentence())
    assert motion.fps == fps
    assert len(motion) == round(2 * fps)


def test_same_seed_same_motion(model: PortraitPipeline) -> None:
    one, two = make(model, waveform=sentence()), make(model, waveform=sentence())
    assert (one.curves == two.curves).all()
    assert (one.pose == two.pose).all()
    assert np.abs(make(model, 1, waveform=sentence()).curves - one.curves).max() > 0.01


def test_no_emotion_and_no_words_is_a_face_at_rest(still: PortraitPipeline) -> None:
    motion = make(still, blink=0, gaze=0)
    assert motion.curves.max() == 0
    assert np.abs(motion.pose).max() == 0


def test_an_emotion_is_its_muscles(still: PortraitPipeline) -> None:
    for name in ("happiness", "anger", "surprise"):
        motion = make(still, track=unit(name), blink=0, gaze=0)
        wanted = facs.expression(facs.named(name)[None])[0][0]
        rest = np.setdiff1d(np.arange(52), LOOKS)
        assert np.abs(motion.curves[:, rest] - wanted[rest]).max() < 1e-5


def test_expression_scales_the_emotion_and_nothing_is_left_at_zero(still: PortraitPipeline) -> None:
    smile = ARKIT.index("mouthSmileLeft")
    sizes = [
        make(still, track=unit("happiness", 0.6), expression=e, blink=0, gaze=0)
        .curves[:, smile]
        .mean()
        for e in (0.0, 0.5, 1.0, 1.5)
    ]
    asked = 0.6 * facs.expression(facs.named("happiness")[None])[0][0, smile]
    assert asked > 0.4
    assert sizes == pytest.approx([0, 0.5 * asked, asked, 1.5 * asked], abs=1e-4)


def test_a_track_moves_the_face_after_it(still: PortraitPipeline) -> None:
    track = np.zeros((90, 12))
    track[30:] = unit("surprise")
    brow = make(still, track=track, seconds=3.0, blink=0, gaze=0).channel("browInnerUp")
    assert brow[:30].max() == 0
    assert 0 < brow[32] < 0.5 < brow[45]
    assert (np.diff(brow) >= -1e-6).all()


def test_edited_muscles_take_the_place_of_the_track(still: PortraitPipeline) -> None:
    motion = make(still, muscles=facs.named("contempt", 0.8), blink=0, gaze=0)
    assert motion.channel("mouthDimpleRight").min() > 0.5
    assert motion.channel("mouthDimpleLeft").max() == 0


def test_words_make_the_mouth_of_an_emotion_smaller(still: PortraitPipeline) -> None:
    speech = make(still, track=unit("anger"), waveform=sentence(), blink=0, gaze=0)
    silent = make(still, track=unit("anger"), blink=0, gaze=0)
    press = [m.channel("mouthPressLeft")[15:22].mean() for m in (speech, silent)]
    assert press[0] < 0.5 * press[1]
    brows = [m.channel("browDownLeft")[15:22].mean() for m in (speech, silent)]
    assert brows[0] == pytest.approx(brows[1])


def test_head_and_lips_are_factors(model: PortraitPipeline) -> None:
    half, whole = (make(model, head=h, gaze=0) for h in (0.5, 1.0))
    assert np.abs(whole.pose - 2 * half.pose).max() < 1e-4
    assert np.abs(make(model, head=0.0).pose).max() == 0
    mute = make(model, lips=0.0, waveform=sentence())
    assert mute.curves[:, list(MOUTH)].max() == 0
    assert mute.curves[:, OTHERS].max() > 0


def test_blinks_are_over_at_the_end_and_stop_at_zero(still: PortraitPipeline) -> None:
    lids = ARKIT.index("eyeBlinkLeft")
    for seed in range(4):
        closed = make(still, seed, seconds=8.0, blink=3.0).curves[:, lids]
        assert closed[0] == closed[-1] == 0
        assert closed.max() > 0.97
    assert make(still, seconds=8.0, blink=0.0).curves[:, lids].max() == 0


def test_wide_eyes_close_when_they_blink(still: PortraitPipeline) -> None:
    motion = make(still, track=unit("fear"), seconds=10.0, blink=3.0)
    shut = motion.channel("eyeBlinkLeft") > 0.97
    assert shut.any()
    assert motion.channel("eyeWideLeft")[shut].max() < 0.05
    assert motion.channel("eyeWideLeft")[~shut].max() > 0.8


def test_sadness_looks_down_and_a_look_is_held(still: PortraitPipeline) -> None:
    down = make(still, track=unit("sadness"), gaze=0, head=0).channel("eyeLookDownLeft")
    assert down.min() > 0.15
    left = MotionSettings(sampling=Sampling(steps=2), look=(12.0, 0.0))
    made = make(still, gaze=0.0, settings=left)
    assert made.channel("eyeLookOutLeft").mean() == pytest.approx(0.4, abs=0.02)
    assert make(still, gaze=0.0, blink=0.0).curves[:, LOOKS].max() == 0


def test_eyes_come_to_recorded_motion_too() -> None:
    made = with_eyes(Motion.neutral(300), np.random.default_rng(0))
    assert made.channel("eyeBlinkLeft").max() > 0.97
    assert made.curves[:, LOOKS].std() > 0
    assert made.channel("jawOpen").max() == 0


def test_lips_close_at_p_b_and_m_and_nearly_at_f() -> None:
    curves = np.zeros((60, 52))
    curves[:, ARKIT.index("jawOpen")] = 0.4
    made = close_lips(curves, None, [("AA", 0.0, 0.5), ("M", 0.5, 0.6), ("F", 1.0, 1.1)])
    gap = facs.lip_gap(made)
    assert gap[15:18].max() < 0.02
    assert 0.02 < gap[30:33].min() < 0.08
    assert (gap[:12] == facs.lip_gap(curves)[:12]).all()
    assert np.abs(np.diff(gap)).max() < 0.15
    assert (close_lips(curves, None, [("M", 0.5, 0.6)], 0.0) == curves).all()


def test_gaps_of_the_sound_close_only_lips_that_are_on_the_way() -> None:
    curves = np.zeros((60, 52))
    jaw = ARKIT.index("jawOpen")
    curves[:, jaw] = 0.4
    curves[20:23, jaw] = 0.1  # a dip of the jaw
    quiet = silence(60)
    heard = Hearing(quiet.features, quiet.speaking, quiet.accent, np.array([21 / 30, 40 / 30]))
    gap = facs.lip_gap(close_lips(curves, heard))
    assert gap[21] < 0.01
    assert gap[40] == pytest.approx(0.4 * 0.503)


def test_a_surprised_mouth_closes_for_words_all_the_same() -> None:
    surprise = np.tile(facs.expression(facs.named("surprise")[None])[0], (60, 1))
    words = np.zeros((60, 52))
    words[:, ARKIT.index("jawOpen")] = 0.3
    words[20:23, ARKIT.index("jawOpen")] = 0.02
    quiet = silence(60)
    heard = Hearing(quiet.features, quiet.speaking, quiet.accent, np.array([21 / 30]))
    both = np.clip(surprise + words, 0, 1)
    assert facs.lip_gap(close_lips(both, heard))[21] > 0.1
    assert facs.lip_gap(close_lips(both, heard, standing=surprise))[21] < 0.01


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"track": np.zeros((7, 12))}, "track: need"),
        ({"track": np.full(12, np.nan)}, "track: must be finite"),
        ({"residuals": np.zeros(4)}, "residuals: need"),
        ({"seconds": 0}, "seconds"),
        ({"seconds": 1e6}, "seconds"),
        ({"lips": 5}, "lips: allowed 0 to 2"),
        ({"blink": -1}, "blink: allowed"),
        ({"muscles": np.zeros(3)}, "muscles: need"),
    ],
)
def test_what_does_not_fit_is_told(model: PortraitPipeline, more: dict, says: str) -> None:
    with pytest.raises(PortraitModelError, match=says) as error:
        make(model, **more)
    assert "\n" not in str(error.value)


def test_very_short_motions(model: PortraitPipeline) -> None:
    assert len(make(model, seconds=0.04, fps=25)) == 1
    assert len(make(model, seconds=0.2, waveform=sentence()[:3200])) == 6
