"""Latent frames in time, tracks over them, regions of the picture."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from adapters.emotion import CORE, Emotion, EmotionTimeline
from adapters.frames import (
    PLACES,
    FrameError,
    FrameTrack,
    frame_count,
    frame_times,
    region_mask,
    whole_frames,
)
from tests.tiny import tiny
from tests.tiny_video import FAMILIES, FRAMES, LATENT, film, tiny_video

pipe = cache(tiny_video)


@pytest.mark.parametrize("family", FAMILIES)
def test_as_many_latent_frames_as_the_pipeline_makes(family: str) -> None:
    assert frame_count(pipe(family), FRAMES[family]) == LATENT[family]
    assert len(film(pipe(family), family)) == LATENT[family]


@pytest.mark.parametrize("asked", [1, 6, 7])
@pytest.mark.parametrize("family", ["wan21", "ltx"])
def test_counts_round_as_the_pipelines_do(family: str, asked: int) -> None:
    made = pipe(family)(
        "a lake", num_frames=asked, height=32, width=32, num_inference_steps=1, output_type="np",
        guidance_scale=1.0,
    ).frames[0]  # fmt: skip
    assert whole_frames(pipe(family), asked) == len(made)
    assert len(film(pipe(family), family, num_frames=asked)) == frame_count(pipe(family), asked)


def test_latent_frames_stand_for_the_middle_of_what_they_fold() -> None:
    np.testing.assert_allclose(frame_times(pipe("animatediff"), 4, 8), [0, 0.125, 0.25, 0.375])
    # Wan folds 4: frames 1..4, whose middle is 2.5. This LTX folds 2: frames 1 and 2.
    np.testing.assert_allclose(frame_times(pipe("wan21"), 9, 10), [0, 0.25, 0.65])
    np.testing.assert_allclose(frame_times(pipe("ltx"), 5, 10), [0, 0.15, 0.35])
    # Wan makes 9 frames of 8.
    assert len(frame_times(pipe("wan22"), 8, 10)) == 3


def test_counts_refuse_what_makes_no_film() -> None:
    with pytest.raises(FrameError, match=r"sd15 makes no films.*animatediff, ltx, wan"):
        frame_count(tiny("sd15"), 8)
    with pytest.raises(FrameError, match="num_frames: expected 1 or more, received 0"):
        frame_count(pipe("ltx"), 0)
    with pytest.raises(FrameError, match="fps: expected a positive"):
        frame_times(pipe("ltx"), 8, 0)


@pytest.mark.parametrize("size", [(64, 64), (48, 96), (128, 40)])
def test_regions_have_soft_edges_and_halves_fit_together(size: tuple[int, int]) -> None:
    height, width = size
    masks = {place: region_mask(place, height, width) for place in PLACES}
    for mask in masks.values():
        assert mask.shape == size
        assert mask.dtype == np.float32
        assert mask.min() == 0
        assert mask.max() == 1
        steps = np.abs(np.diff(mask, axis=0)).max(), np.abs(np.diff(mask, axis=1)).max()
        assert 0 < max(steps) < 0.5, "an edge that is not soft"
    np.testing.assert_allclose(masks["left"] + masks["right"], 1, atol=1e-6)
    np.testing.assert_allclose(masks["top"] + masks["bottom"], 1, atol=1e-6)
    assert masks["left"][:, 0].min() == 1, "the picture's own border is no edge"
    assert masks["sky"].mean() == pytest.approx(1 / 3, abs=0.03)
    assert masks["centre"].mean() == pytest.approx(1 / 4, abs=0.05)
    np.testing.assert_array_equal(region_mask(" Center ", *size), masks["centre"])
    np.testing.assert_array_equal(region_mask("0,0, .5,1", *size), masks["left"])
    np.testing.assert_array_equal(region_mask("0,0,1,1", *size), np.ones(size))


def test_a_thin_region_is_there_all_the_same() -> None:
    assert region_mask("0.5,0,0.53,1", 64, 64).max() > 0.8


@pytest.mark.parametrize(
    "text",
    ["middle-earth", "", "0,0,1", "0,0,1,1,1", ".5,0,.5,1", "0,0,2,1", "0,nan,1,1", "a,b,c,d"],
)
def test_regions_that_are_none_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(FrameError) as caught:
        region_mask(text, 64, 64)
    message = str(caught.value)
    assert "\n" not in message
    assert "left, right" in message
    assert repr(text.strip()) in message


def test_a_track_is_the_timeline_at_those_moments() -> None:
    timeline = EmotionTimeline.parse("0s contentment .4; 2s fear .9")
    region = EmotionTimeline.constant(Emotion.of("awe", 0.5))
    times = frame_times(pipe("wan21"), 21, 10)
    mask = region_mask("left", 64, 64)
    track = FrameTrack.of(timeline, times, [(mask, region)])
    assert len(track) == 6
    np.testing.assert_array_equal(track.track, timeline.sample(times))
    np.testing.assert_array_equal(track.residuals, timeline.residuals(times))
    np.testing.assert_array_equal(track.regions[0][1], region.sample(times))
    assert not track.is_neutral
    quiet = EmotionTimeline.constant(Emotion.neutral())
    assert FrameTrack.of(quiet, times).is_neutral
    assert not FrameTrack.of(quiet, times, [(mask, region)]).is_neutral
    point = EmotionTimeline.parse("v=.9 a=-.9 d=.9")
    assert FrameTrack.of(point, times).residuals.any()


def test_tracks_that_do_not_fit_are_refused() -> None:
    zeros, rest, mask = np.zeros((3, len(CORE))), np.zeros((3, 3)), np.ones((8, 8))
    with pytest.raises(FrameError, match=r"track: expected shape \(T, 12\)"):
        FrameTrack(np.zeros(12), rest)
    with pytest.raises(FrameError, match="residuals: expected 3 rows as in the track, received 2"):
        FrameTrack(zeros, rest[:2])
    with pytest.raises(FrameError, match="track: expected finite"):
        FrameTrack(zeros + np.inf, rest)
    with pytest.raises(FrameError, match="region 1: expected 3 frames as in the film, received 2"):
        FrameTrack(zeros, rest, ((mask, zeros[:2], rest[:2]),))
    for wrong in (mask * 2, mask[0], mask * np.nan):
        with pytest.raises(FrameError, match=r"region 1: expected a mask \(H, W\)"):
            FrameTrack(zeros, rest, ((wrong, zeros, rest),))
