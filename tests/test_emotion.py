"""The state, its text forms, the solver, timelines and dynamics, against worked cases."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
from scipy.interpolate import PchipInterpolator

from adapters.dynamics import Personality, dynamics, pchip, respond
from adapters.emotion import CORE, VAD, Emotion, EmotionError, EmotionTimeline
from adapters.lexicon import look_up
from adapters.vad import project, solve

EXAMPLES = json.loads(
    (Path(__file__).parent / "data" / "state_examples.json").read_text(encoding="utf-8")
)
FORMS = {
    "sadness 0.8": {"sadness": 0.8},
    "sadness .8": {"sadness": 0.8},
    "  SADNESS   0.80 ": {"sadness": 0.8},
    "sadness 80%": {"sadness": 0.8},
    "sadness=0.8": {"sadness": 0.8},
    "sadness: .8": {"sadness": 0.8},
    "sadness": {"sadness": 0.7},
    "sadness 1": {"sadness": 1.0},
    "anger 0": {},
    "neutral": {},
    "neutral .5": {},
    "happiness .6 + fear .2": {"happiness": 0.6, "fear": 0.2},
    "happiness .6+fear .2": {"happiness": 0.6, "fear": 0.2},
    "happiness + fear": {"happiness": 0.35, "fear": 0.35},
    "happiness .6 + neutral .4": {"happiness": 0.6},
    "sadness .5 + sadness .2": {"sadness": 0.7},
    "joy .5": {"happiness": 0.5},
    "Happy 1.0": {"happiness": 1.0},
    "happily surprised .8": {"happiness": 0.4, "surprise": 0.4},
    '"I just lost my dog"': {"sadness": 0.95},
    "“I just lost my dog”": {"sadness": 0.95},
    '"I just lost my dog" .5': {"sadness": 0.5},
    '"I just lost my dog" .5 + anger .2': {"sadness": 0.5, "anger": 0.2},
    "I just lost my dog": {"sadness": 0.95},
    "very sad": {"sadness": 0.91},
    "fear 5e-1": {"fear": 0.5},
}


def shares(emotion: Emotion) -> dict[str, float]:
    return {n: x for n, x in zip(CORE, emotion.intensities, strict=True) if x}


def random_state(rng: np.random.Generator, *, residual: bool = True) -> Emotion:
    a = rng.dirichlet(np.ones(13))[:12] * (rng.random(12) < 0.4)
    r = rng.uniform(-0.5, 0.5, 3) * (rng.random() < 0.5) * residual
    return Emotion(tuple(a), tuple(r))


# --- the state


def test_core_is_the_contract_and_the_means_are_the_table() -> None:
    assert len(CORE) == 12 == len(set(CORE))
    assert CORE[0] == "happiness"
    assert CORE[11] == "boredom"
    for name, row in zip(CORE, VAD, strict=True):
        assert row.tolist() == EXAMPLES["anchors"][name]
    with pytest.raises(ValueError, match="read-only"):
        VAD[0, 0] = 0.0


def test_category_mixture_and_neutral() -> None:
    assert shares(Emotion.of("fear", 0.4)) == {"fear": 0.4}
    assert shares(Emotion.of("fear")) == {"fear": 0.7}
    assert shares(Emotion.mix({"fear": 3, "anger": 1}, 0.8)) == {"fear": 0.6, "anger": 0.2}
    assert Emotion.neutral() == Emotion()
    assert Emotion.neutral().dominant == "neutral"
    assert Emotion.mix({"fear": 3, "anger": 1}, 0.8).dominant == "fear"


def test_radius_is_intensity_and_angle_is_kind() -> None:
    full, half = Emotion.of("anger", 1.0).vad, Emotion.of("anger", 0.5).vad
    np.testing.assert_allclose(half, full / 2)
    np.testing.assert_allclose(Emotion.neutral().vad, 0.0)


def test_soft_label_is_a_distribution_also_when_over() -> None:
    q = Emotion.mix({"fear": 3, "anger": 1}, 0.8).soft_label()
    assert q.shape == (13,)
    assert q[0] == pytest.approx(0.2)
    assert q[1 + CORE.index("fear")] == pytest.approx(0.6)
    for state in (Emotion(), Emotion.of("love", 1.0), Emotion.of("love", 1.4, over=True)):
        assert state.soft_label().sum() == pytest.approx(1.0)
        assert (state.soft_label() >= 0).all()


def test_scaled() -> None:
    state = Emotion.parse("sadness .4 + dv=.2")
    assert state.scaled(0.5) == Emotion.parse("sadness .2 + dv=.1")
    assert state.scaled(0.0) == Emotion()
    assert state.scaled(3.0).intensity == pytest.approx(1.2)
    with pytest.raises(EmotionError, match="factor"):
        state.scaled(-1.0)
    with pytest.raises(EmotionError, match="adding up"):
        state.scaled(10.0)


def test_states_are_values() -> None:
    a, b = Emotion.parse("fear .3 + awe .2"), Emotion.parse("awe .2 + fear .3")
    assert a == b
    assert hash(a) == hash(b)
    assert len({a, b}) == 1
    assert copy.deepcopy(a) == a
    with pytest.raises(AttributeError):
        a.intensities = ()  # type: ignore[misc]


@pytest.mark.parametrize(
    "intensities",
    [(0.5,) * 12, (-0.1, *(0.0,) * 11), (0.0,) * 11, (float("nan"), *(0.0,) * 11)],
)
def test_states_outside_the_simplex_are_refused(intensities: tuple[float, ...]) -> None:
    with pytest.raises(EmotionError):
        Emotion(intensities)


# --- text forms


@pytest.mark.parametrize("text", FORMS)
def test_every_text_form(text: str) -> None:
    state = Emotion.parse(text)
    assert shares(state) == pytest.approx(FORMS[text])
    assert EmotionTimeline.parse(text) == EmotionTimeline.constant(state)
    assert Emotion.parse(state.text) == state


@pytest.mark.parametrize(
    ("text", "vad"),
    [
        ("v=-.7 a=.3 d=0", (-0.7, 0.3, 0.0)),
        ("V=-0.7, A=+0.3, D=0", (-0.7, 0.3, 0.0)),
        ("d=.5 v=.1", (0.1, 0.0, 0.5)),
        ("valence=.9 arousal=-.4 dominance=.1", (0.9, -0.4, 0.1)),
        ("v=0.03 a=0 d=0", (0.03, 0.0, 0.0)),
        ("v=−.5 d=0", (-0.5, 0.0, 0.0)),
    ],
)
def test_vad_points_are_hit(text: str, vad: tuple[float, float, float]) -> None:
    state = Emotion.parse(text)
    np.testing.assert_allclose(state.vad, vad, atol=2e-6)
    assert Emotion.parse(state.text) == state


def test_a_point_without_dominance_has_the_usual_one() -> None:
    state = Emotion.parse("v=.6 a=.5")
    np.testing.assert_allclose(state.vad[:2], (0.6, 0.5), atol=2e-6)
    # With d=0 the nearest is love, which is meek; lively and pleasant is not meek.
    assert state.dominant == "happiness"
    assert Emotion.parse("v=.6 a=.5 d=0").dominant == "love"
    assert 0.2 < state.vad[2] < 0.5
    assert Emotion.parse(state.text) == state


def test_a_shift_is_what_no_core_emotion_explains() -> None:
    state = Emotion.parse("contentment .5 + dv=+.1 dd=-.4")
    assert state.residual == (0.1, 0.0, -0.4)
    assert shares(state) == {"contentment": 0.5}


@pytest.mark.parametrize(
    ("text", "tells"),
    [
        ("", "empty"),
        ("   ", "empty"),
        (";;", "empty"),
        ("sadnes .8", "sadness"),
        ("hapyness", "happiness"),
        ("sadness 1.2", "0 to 1, received 1.2; lower it, or allow up to 1.5 with --over"),
        ("sadness -1", "received -1"),
        ("sadness 1e999", "received inf"),
        ("sadness nan", "received nan"),
        ("sadness inf", "received inf"),
        ("fear .2 + sadness -infinity", "received -infinity"),
        ("sadness 130%", "received 1.3"),
        ("neutral 7", "received 7"),
        ("happiness .8 + fear .8", "together allowed 0 to 1, received 1.6"),
        ("sadness 0,8", "cannot read"),
        ("sadness .8 .9", "cannot read"),
        ("+ fear", "missing beside"),
        ("fear .2 +", "missing beside"),
        ("=", "cannot read"),
        ("3", "cannot read"),
        ("v=2 a=1", "each allowed -1 to 1"),
        ("v=.1 v=.2", "cannot read"),
        ("v=x", "cannot read"),
        ("v=.1 + fear .2", "cannot read"),
        ("fear .2 + v=.1", "stands alone"),
        ("fear .2 + dv=3", "between -2 and 2"),
        ('"I lost my dog', "not closed"),
        ('""', "finds no emotion"),
        ('"the table is brown"', "finds no emotion"),
        ("0s fear .2; 1s awe .1", "expected one emotion"),
        ("fear\x00 .2", "nearest known"),
        ("\N{PILE OF POO}" * 30, "nearest known"),
        ("x" * 30_000, "at most 20000 characters"),
        ("sadness .8 }; DROP", "expected one emotion"),
    ],
)
def test_bad_text_is_one_clear_line(text: str, tells: str) -> None:
    with pytest.raises(EmotionError) as caught:
        Emotion.parse(text)
    message = str(caught.value)
    assert tells in message
    assert "\n" not in message
    assert len(message) < 320


def test_names_by_code_are_as_strict_as_by_text() -> None:
    with pytest.raises(EmotionError, match="sadness"):
        Emotion.of("sadnes", 0.5)
    for value in (1.2, -0.1, float("nan")):
        with pytest.raises(EmotionError, match="intensity of fear"):
            Emotion.of("fear", value)
    for weights in ({}, {"fear": -1.0}, {"fear": 0.0}, {"fear": float("nan")}):
        with pytest.raises(EmotionError, match="weights"):
            Emotion.mix(weights)


def test_over_is_asked_for_and_ends_at_one_and_a_half() -> None:
    state = Emotion.parse("sadness 1.3", over=True)
    assert state.intensity == pytest.approx(1.3)
    assert Emotion.parse(state.text, over=True) == state
    assert Emotion.of("sadness", 1.5, over=True).intensity == pytest.approx(1.5)
    with pytest.raises(EmotionError, match=r"0 to 1\.5, received 1\.6"):
        Emotion.parse("sadness 1.6", over=True)
    with pytest.raises(EmotionError, match=r"0 to 1\.5"):
        Emotion.parse("sadness 1 + fear .8", over=True)


def test_text_round_trips_for_any_state() -> None:
    rng = np.random.default_rng(1)
    for _ in range(300):
        state = random_state(rng)
        assert Emotion.parse(state.text) == state
        assert str(state) == state.text
        assert Emotion.parse(state.text).text == state.text


def test_no_text_breaks_the_parser() -> None:
    rng = np.random.default_rng(2)
    alphabet = [*"sadnes fear+;=\"'.%-0123456789vad\t\n(){}é", "joy ", " .5", "0s ", "1e"]
    refusals = []
    for _ in range(500):
        text = "".join(rng.choice(alphabet, size=rng.integers(0, 20)))
        try:
            line = EmotionTimeline.parse(text)
        except EmotionError as error:
            refusals.append(str(error))
        else:
            assert EmotionTimeline.parse(line.text) == line
    assert not [message for message in refusals if "\n" in message]
    assert 0 < len(refusals) < 500


# --- VAD solver


@pytest.mark.parametrize("name", EXAMPLES["examples"])
def test_solver_against_the_reference_solutions(name: str) -> None:
    case = EXAMPLES["examples"][name]
    found = solve(case["v"], EXAMPLES["anchors"])
    for anchor in set(found) | set(case["a"]):
        assert found.get(anchor, 0.0) == pytest.approx(case["a"].get(anchor, 0.0), abs=0.05)
    explained = sum((w * np.array(EXAMPLES["anchors"][n]) for n, w in found.items()), np.zeros(3))
    np.testing.assert_allclose(np.array(case["v"]) - explained, case["residual"], atol=0.05)


def test_any_point_is_hit_with_few_anchors() -> None:
    rng = np.random.default_rng(3)
    for point in rng.uniform(-1, 1, (60, 3)):
        state = Emotion.from_vad(*point)
        np.testing.assert_allclose(state.vad, point, atol=2e-6)
        assert len(shares(state)) <= 3
        assert state.intensity <= 1.0


@pytest.mark.parametrize("name", CORE)
def test_a_core_emotion_is_its_own_solution(name: str) -> None:
    v, a, d = VAD[CORE.index(name)]
    assert shares(Emotion.from_vad(v, a, d)) == pytest.approx({name: 1.0})


@pytest.mark.parametrize("point", [(1.5, 0, 0), (0, float("nan"), 0), (0, 0, float("inf"))])
def test_points_outside_the_cube_are_refused(point: tuple[float, float, float]) -> None:
    with pytest.raises(EmotionError, match="-1 to 1"):
        Emotion.from_vad(*point)


def test_projection_is_the_nearest_point() -> None:
    rng = np.random.default_rng(4)
    rows = rng.normal(0.1, 0.4, (40, 12))
    out = project(rows)
    assert (out >= 0).all()
    assert (out.sum(axis=1) <= 1 + 1e-12).all()
    candidates = rng.dirichlet(np.ones(13), 3000)[:, :12]
    for row, near in zip(rows, out, strict=True):
        assert np.linalg.norm(row - near) <= np.linalg.norm(row - candidates, axis=1).min() + 1e-12
    np.testing.assert_allclose(project(out), out, atol=1e-15)
    inside = 0.999 * out
    np.testing.assert_array_equal(project(inside), inside)
    np.testing.assert_allclose(project([0.9, 0.9, 0.0]), [0.5, 0.5, 0.0])
    np.testing.assert_allclose(project([0.9, 0.1, 0.5], cap=1.5), [0.9, 0.1, 0.5])
    np.testing.assert_allclose(project([-1.0, 0.3, 0.2]), [0.0, 0.3, 0.2])


# --- timelines


def test_timeline_text() -> None:
    line = EmotionTimeline.parse("0s contentment .5; 8s fear .9; 12s sadness .6")
    assert [t for t, _ in line.keys] == [0.0, 8.0, 12.0]
    assert line.duration == 12.0
    assert not line.is_constant
    assert line.dominant == "fear"
    assert line.text == "0s contentment 0.5; 8s fear 0.9; 12s sadness 0.6"
    assert EmotionTimeline.parse(line.text) == line
    units = EmotionTimeline.parse("500ms joy .5; 2 s awe .5; 1m fear .1; 1.5min neutral;")
    assert [t for t, _ in units.keys] == [0.5, 2.0, 60.0, 90.0]
    quoted = EmotionTimeline.parse('0s "calm; no worries" .4; 3s "I just lost my dog"')
    assert quoted.at(3.0) == Emotion.of("sadness", 0.95)


def test_timelines_round_trip() -> None:
    rng = np.random.default_rng(5)
    for n in (1, 2, 5):
        for _ in range(30):
            times = np.cumsum(rng.uniform(0.001, 9, n))
            line = EmotionTimeline(tuple((t, random_state(rng)) for t in times))
            assert EmotionTimeline.parse(line.text) == line


@pytest.mark.parametrize(
    ("text", "tells"),
    [
        ("-1s fear .2", "received -1s"),
        ("8s fear .9; 0s joy .5", "increasing"),
        ("0s fear .9; 0s joy .5", "increasing"),
        ("-1s fear .9; 0s joy .5", "0 or more"),
        ("0s fear .9; joy .5", "time and an emotion"),
        ("0s; 2s joy .5", "time and an emotion"),
        ("0s fear .9;; 2s joy .5", "time and an emotion"),
        ("0s fear .9; 2s joy 1.5", "0 to 1"),
        ("0s fear .9; 2s joyy .5", "nearest known: joy"),
    ],
)
def test_bad_timelines_are_one_clear_line(text: str, tells: str) -> None:
    with pytest.raises(EmotionError) as caught:
        EmotionTimeline.parse(text)
    assert tells in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_emotion_is_a_timeline_with_one_key() -> None:
    state = Emotion.parse("fear .3 + awe .2 + dd=.1")
    line = EmotionTimeline.constant(state)
    assert line.is_constant
    assert line.duration == 0.0
    assert EmotionTimeline(((4.0, state),)) == line
    assert line.at(99.0) == state
    track = line.sample([0.0, 1.0, 50.0])
    assert track.dtype == np.float32
    assert track.shape == (3, 12)
    np.testing.assert_allclose(track, np.tile(state.array, (3, 1)), atol=1e-7)
    assert line.residuals(np.zeros(4)).shape == (4, 3)
    assert line.sample([]).shape == (0, 12)
    with pytest.raises(EmotionError, match="at least one"):
        EmotionTimeline(())
    with pytest.raises(EmotionError, match="finite"):
        line.sample([float("nan")])


def test_timeline_passes_its_keys_holds_outside_and_stays_in_the_simplex() -> None:
    line = EmotionTimeline.parse("1s joy 1; 2s fear 1; 2.5s anger .5 + awe .5; 9s neutral")
    for t, state in line.keys:
        assert line.at(t) == state
    assert line.at(0.0) == line.keys[0][1]
    assert line.at(1e6) == Emotion()
    track = line.sample(np.linspace(0, 10, 997))
    assert (track >= 0).all()
    assert track.sum(axis=1).max() <= 1 + 1e-6
    over = EmotionTimeline.parse("0s joy 1.4; 4s joy 1.2", over=True)
    assert over.sample([2.0]).sum() > 1.2


def test_frame_rates_sample_the_same_curve() -> None:
    line = EmotionTimeline.parse("0s contentment .5; 3s fear .9; 4s surprise .6")
    slow, fast = line.sample(np.arange(0, 4, 1 / 24)), line.sample(np.arange(0, 4, 1 / 60))
    np.testing.assert_allclose(slow[::2], fast[::5], atol=1e-6)


def test_pchip_is_scipys() -> None:
    rng = np.random.default_rng(6)
    for n in (2, 3, 4, 9):
        x = np.cumsum(rng.uniform(0.1, 3, n))
        y = rng.uniform(0, 1, (n, 4))
        y[1] = y[0]  # a flat piece, where slopes have no sign
        q = np.linspace(x[0], x[-1], 201)
        np.testing.assert_allclose(pchip(x, y, q), PchipInterpolator(x, y)(q), atol=1e-12)


def test_pchip_does_not_leave_the_range_of_its_keys() -> None:
    x, y = np.array([0.0, 1.0, 1.1, 5.0]), np.array([[0.0], [1.0], [1.0], [0.2]])
    out = pchip(x, y, np.linspace(-1, 6, 500))
    assert out.min() >= 0.0
    assert out.max() <= 1.0 + 1e-12


# --- dynamics


def test_step_response_has_no_overshoot_and_the_tau_it_promises() -> None:
    t = np.linspace(0, 10, 2001)
    x = respond([0.0], [[1.0]], t, rise=0.4, start=[0.0])[:, 0]
    assert x.max() <= 1.0
    assert (np.diff(x) >= 0).all()
    assert x[0] == 0.0
    assert x[-1] == pytest.approx(1.0, abs=1e-6)
    assert np.interp(0.4, t, x) == pytest.approx(1 - np.exp(-1), abs=1e-6)
    down = respond([0.0], [[0.0]], t, rise=0.4, start=[1.0])[:, 0]
    assert np.interp(1.2, t, down) == pytest.approx(np.exp(-1), abs=1e-6)  # three times slower


def test_24_and_60_frames_a_second_agree() -> None:
    rng = np.random.default_rng(7)
    hold = 0.25  # seconds a target lasts: 6 frames at 24, 15 at 60
    targets = rng.uniform(0, 1, (12, 12))
    slow = dynamics(np.repeat(targets, 6, axis=0), 1 / 24, rise=0.2, start=np.zeros(12))
    fast = dynamics(np.repeat(targets, 15, axis=0), 1 / 60, rise=0.2, start=np.zeros(12))
    assert np.abs(slow[::2] - fast[::5]).max() < 1e-6
    exact = respond(hold * np.arange(12), targets, np.arange(72) / 24, rise=0.2, start=np.zeros(12))
    assert np.abs(exact - slow).max() < 1e-9


def test_frame_rate_does_not_matter_with_a_personality() -> None:
    rng = np.random.default_rng(8)
    targets = rng.uniform(-1, 1, (8, 3))
    person = Personality(E=0.9, N=0.2)
    slow = dynamics(np.repeat(targets, 12, axis=0), 1 / 24, personality=person)
    fast = dynamics(np.repeat(targets, 30, axis=0), 1 / 60, personality=person)
    assert np.abs(slow[::2] - fast[::5]).max() < 1e-6
    assert np.abs(slow).max() <= 1.0


def test_fast_switching_never_leaves_the_range_of_the_targets() -> None:
    rng = np.random.default_rng(9)
    for _ in range(20):
        times = np.cumsum(rng.uniform(0.02, 0.5, 30))
        targets = rng.uniform(0, 1, (30, 6))
        rates = rng.uniform(0.05, 1.0, (2, 6))
        x = respond(times, targets, np.linspace(0, 20, 4000), rise=rates[0], decay=rates[1])
        assert (x >= targets.min(axis=0) - 1e-9).all()
        assert (x <= targets.max(axis=0) + 1e-9).all()
        assert np.abs(np.diff(x, axis=0)).max() < 0.2  # continuous: no jumps at switches


def test_a_fall_takes_its_own_time_after_a_rise() -> None:
    """The last of the rise's speed must not make the fall as fast as the rise."""
    for held in (0.2, 0.5, 1.0, 3.0):
        at = held + np.array([0.6, 1.2])
        x = respond([0.0, held], [[1.0], [0.0]], at, rise=0.15, decay=0.6, start=[0.0])[:, 0]
        top = respond([0.0], [[1.0]], [held], rise=0.15, start=[0.0])[0, 0]
        assert 0.3 * top < x[0] < 0.6 * top, held  # speed left over goes on for a while
        assert x[1] < 0.25


def test_driven_timeline() -> None:
    line = EmotionTimeline.parse("0s neutral; 1s surprise .8; 2s sadness .8; 4s neutral")
    t = np.arange(0, 30, 1 / 24)
    a, r = line.driven(t)
    fast = line.driven(np.arange(0, 30, 1 / 60))[0]
    np.testing.assert_allclose(a[::2], fast[::5], atol=1e-6)
    assert (a >= 0).all()
    assert a.sum(axis=1).max() <= 1 + 1e-6
    np.testing.assert_array_equal(r, 0.0)
    surprise, sadness = a[:, CORE.index("surprise")], a[:, CORE.index("sadness")]
    half = [np.flatnonzero(x > 0.5 * x.max()) for x in (surprise, sadness)]
    assert half[1].size > half[0].size  # sadness lingers, surprise goes
    assert a[-1].max() < 1e-3


def test_the_average_person_changes_nothing_and_others_shift_the_point() -> None:
    assert Personality().baseline.tolist() == [0.0, 0.0, 0.0]
    np.testing.assert_array_equal(Personality().gain, 1.0)
    line = EmotionTimeline.parse("0s neutral; 1s joy .5")
    t = np.linspace(0, 6, 60)
    np.testing.assert_allclose(line.driven(t, personality=Personality())[1], 0.0, atol=1e-9)
    warm = Personality(A=1.0, E=1.0)
    a, r = line.driven(t, personality=warm)
    np.testing.assert_allclose(a, line.driven(t)[0])
    np.testing.assert_allclose(r[0], warm.baseline, atol=1e-6)
    expected = warm.shift(Emotion.of("joy", 0.5).vad)
    np.testing.assert_allclose(r[-1], expected, atol=1e-4)
    assert (Personality(0, 0, 0, 0, 0).gain > 0).all()


def test_traits_follow_mehrabian() -> None:
    # P of a person one unit from average on one trait at a time: the printed coefficients.
    np.testing.assert_allclose(Personality(E=1.0).temperament, [0.21, 0.0, 0.60], atol=1e-12)
    np.testing.assert_allclose(Personality(A=1.0).temperament, [0.59, 0.30, -0.32], atol=1e-12)
    np.testing.assert_allclose(Personality(N=1.0).temperament, [0.19, -0.57, 0.0], atol=1e-12)
    np.testing.assert_allclose(Personality(O=1.0).temperament, [0.0, 0.15, 0.25], atol=1e-12)
    np.testing.assert_allclose(Personality(C=1.0).temperament, [0.0, 0.0, 0.17], atol=1e-12)


def test_bad_dynamics_are_refused() -> None:
    with pytest.raises(ValueError, match="personality N"):
        Personality(N=1.4)
    with pytest.raises(ValueError, match="dt"):
        dynamics([[0.0]], 0.0)
    with pytest.raises(ValueError, match="acts on VAD"):
        dynamics(np.zeros((4, 12)), 0.1, personality=Personality())
    with pytest.raises(ValueError, match="rise"):
        respond([0.0], [[1.0]], [0.0], rise=0.0)
    with pytest.raises(ValueError, match="times"):
        respond([0.0, 0.0], [[1.0], [1.0]], [0.0])


def test_a_looked_up_word_reaches_its_rated_point() -> None:
    """Pride lies outside the core in dominance: the residual carries it there."""
    found = look_up("pride")
    assert found is not None
    np.testing.assert_allclose(found[0] @ VAD + found[1], [0.66, 0.30, 0.63], atol=1e-6)
    half = Emotion.of("pride", 0.5)
    np.testing.assert_allclose(half.vad, [0.33, 0.15, 0.315], atol=1e-5)
