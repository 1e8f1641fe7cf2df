"""Following a curve, and agreement of several readers, on tracks whose truth is known."""

import json

import numpy as np
import pytest

from adapters.agreement import (
    AgreementError,
    agreement,
    asked_track,
    follow,
    read_track,
    resampled,
)
from adapters.emotion import CORE, EmotionTimeline
from adapters.reading import Reading

CURVE = EmotionTimeline.parse("0s contentment .6; 4s fear .9; 8s sadness .7; 12s happiness .8")
TIMES = np.arange(0, 12.01, 0.25)
ASKED = asked_track(CURVE, TIMES)


def reader(track, *, bias=0.5, noise=0.02, late=0, seed=0):
    """A critic that mixes what it sees with its habit (mostly neutral), late and noisy."""
    rng = np.random.default_rng(seed)
    habit = np.eye(13)[0] * 0.7 + 0.3 / 13
    seen = track[np.clip(np.arange(len(track)) - late, 0, None)]
    read = (1 - bias) * seen + bias * habit + noise * rng.random(track.shape)
    return read / read.sum(axis=1, keepdims=True)


def test_what_was_asked_is_a_distribution_over_time():
    assert ASKED.shape == (49, 13)
    assert ASKED.sum(axis=1) == pytest.approx(np.ones(49))
    assert ASKED[16, 1 + CORE.index("fear")] == pytest.approx(0.9)
    over = EmotionTimeline.parse("0s fear 1.4; 2s neutral", over=True)
    assert asked_track(over, [0.0])[0, 1 + CORE.index("fear")] == 1


def test_a_reader_that_sees_the_curve_through_its_habits_follows_it():
    found = follow(ASKED, reader(ASKED))
    assert found.r > 0.95
    assert found.low < found.r <= found.high
    assert found.low > found.chance[1]
    assert found.valence > 0.95
    assert set(found.correlation) == {"contentment", "fear", "sadness", "happiness"}
    assert min(found.correlation.values()) > 0.9
    assert found.lag == 0
    assert "by chance" in found.text


def test_a_reader_that_sees_something_else_is_within_chance():
    inside = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        steps = rng.normal(size=(len(ASKED), 13)).cumsum(axis=0)
        wander = np.exp(0.3 * steps)
        found = follow(ASKED, wander / wander.sum(axis=1, keepdims=True), seed=seed, draws=200)
        inside += found.chance[0] <= found.r <= found.chance[1]
    assert inside >= 16


def test_a_reader_that_reads_the_contrary_does_not_follow():
    found = follow(ASKED, reader(ASKED[::-1]))
    assert found.r < 0.3


def test_a_late_reader_is_found_late():
    found = follow(ASKED, reader(ASKED, late=3), step=0.25)
    assert found.lag == pytest.approx(0.75)
    assert follow(reader(ASKED, late=3), ASKED, step=0.25).lag == pytest.approx(-0.75)


def test_silence_is_left_out_and_a_steady_curve_cannot_be_followed():
    read = reader(ASKED)
    read[5:20] = np.nan
    assert follow(ASKED, read).n == 34
    assert follow(ASKED, read).r > 0.9
    steady = np.repeat(ASKED[:1], len(ASKED), axis=0)
    found = follow(steady, reader(ASKED))
    assert found.r is None
    assert found.correlation == {}
    assert "nothing to follow" in found.text
    json.dumps(found.to_json(), allow_nan=False)


def test_tracks_that_cannot_be_followed_are_refused():
    with pytest.raises(AgreementError, match="3 moments"):
        follow(ASKED[:2], ASKED[:2])
    with pytest.raises(AgreementError, match="13"):
        follow(ASKED[:, :12], ASKED[:, :12])


def test_modalities_that_follow_one_curve_agree_and_others_do_not():
    tracks = {
        "video": (TIMES, reader(ASKED, bias=0.3)),
        "music": (TIMES[::8], reader(ASKED, bias=0.3, seed=1)[::8]),
        "voice": (TIMES, reader(ASKED[::-1], bias=0.3, seed=2)),
    }
    found = agreement(tracks, (TIMES, ASKED))
    assert len(found.pairs) == 6
    by = {(pair.a, pair.b): pair for pair in found.pairs}
    good, bad = by["video", "music"], by["video", "voice"]
    assert good.divergence < 0.5 * good.shuffled_divergence
    assert good.distance < 0.5 * good.shuffled_distance
    assert good.r > 0.9
    assert bad.divergence > good.divergence
    assert bad.divergence > 0.8 * bad.shuffled_divergence
    assert by["asked", "video"].divergence < by["asked", "voice"].divergence
    assert len(found.lines) == 6
    kept = found.to_json()
    assert len(kept["between"]) == 3
    assert kept["asked_mean"]["distance"] > 0
    json.dumps(kept, allow_nan=False)


def test_equal_tracks_are_at_no_distance():
    found = agreement({"video": (TIMES, ASKED)}, (TIMES, ASKED)).pairs[0]
    assert (found.divergence, found.distance, found.r) == pytest.approx((0, 0, 1), abs=1e-6)
    assert found.shuffled_divergence > 0.3


def test_modalities_are_compared_only_where_both_speak():
    voice = reader(ASKED)
    voice[:40] = np.nan
    tracks = {"voice": (TIMES, voice), "face": (TIMES[:30], reader(ASKED)[:30])}
    pairs = {(p.a, p.b): p.n for p in agreement(tracks, (TIMES, ASKED)).pairs}
    assert pairs == {("asked", "voice"): 9, ("asked", "face"): 30}


def test_a_track_holds_half_a_step_beyond_its_ends_and_no_further():
    rows = resampled(([1.0, 2.0, 3.0], ASKED[:3]), [0.4, 0.5, 1.0, 1.5, 3.5, 3.6])
    assert np.isfinite(rows[:, 0]).tolist() == [False, True, True, True, True, False]
    assert rows[3] == pytest.approx((ASKED[0] + ASKED[1]) / 2)
    with pytest.raises(AgreementError, match="voice: its seconds"):
        agreement({"voice": ([1.0, 1.0], ASKED[:2])}, (TIMES, ASKED))
    with pytest.raises(AgreementError, match="taken"):
        agreement({"asked": (TIMES, ASKED)}, (TIMES, ASKED))


def test_readings_become_rows_and_silence_nan():
    def reading(p, a):
        return Reading(tuple(p), tuple(a), (0.0,) * 3, (0.1,) * 3, 1.0, "x")

    quiet = reading(np.eye(13)[0], np.zeros(12))
    fearful = reading(np.full(13, 1 / 13), 0.5 * np.eye(12)[9])
    rows = read_track([quiet, fearful])
    assert np.isnan(rows[0]).all()
    assert rows[1] == pytest.approx(np.full(13, 1 / 13))
    strong = read_track([fearful], strengths=True)[0]
    assert strong[0] == 0.5
    assert strong[10] == 0.5
