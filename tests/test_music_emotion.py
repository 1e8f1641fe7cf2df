"""From emotions to musical attributes: the shipped directions and what people may fix."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from adapters.assets import ASSETS
from adapters.directions import DirectionBank
from adapters.emotion import CORE, Emotion, EmotionTimeline
from adapters.music_attributes import ATTRIBUTES, TABLE
from adapters.music_emotion import (
    DIRECTIONS,
    MAJOR,
    MINOR,
    QUADRANT,
    MusicDirections,
    MusicEmotionError,
    parse_attributes,
    quadrant,
)

CUES = json.loads((ASSETS / "emotions" / "music_cues.json").read_text(encoding="utf-8"))["emotions"]
LEVELS = np.linspace(0, 1, 11)


@pytest.fixture(scope="module")
def shipped() -> MusicDirections:
    return MusicDirections.load()


def one(name: str, level: float = 1.0) -> np.ndarray:
    track = np.zeros(len(CORE))
    track[CORE.index(name)] = level
    return track


def column(targets: np.ndarray, name: str) -> np.ndarray:
    return targets[:, ATTRIBUTES.index(name)]


def test_no_emotion_is_exactly_the_centre(shipped: MusicDirections) -> None:
    assert np.array_equal(shipped.targets(np.zeros((3, 12))), np.tile(shipped.centre, (3, 1)))
    assert np.array_equal(
        shipped.targets(np.eye(12), strength=0.0), np.tile(shipped.centre, (12, 1))
    )


@pytest.mark.parametrize("name", CORE)
def test_every_attribute_moves_in_proportion_to_intensity(
    shipped: MusicDirections, name: str
) -> None:
    z = shipped.standardised(shipped.targets(LEVELS[:, None] * one(name)))
    assert np.allclose(z, LEVELS[:, None] * z[-1], atol=1e-5)
    heard = np.abs(z[-1]) > 0.25
    assert heard.sum() >= 6
    # Strictly rising or falling: the Spearman correlation with the intensity is 1.
    assert (np.diff(np.abs(z[:, heard]), axis=0) > 0).all()


@pytest.mark.parametrize("name", CORE)
def test_strong_cues_of_the_literature_are_heard(shipped: MusicDirections, name: str) -> None:
    z = shipped.standardised(shipped.targets(one(name)))[0]
    strong = {cue: size for cue, size in CUES[name]["cues"].items() if abs(size) >= 2}
    assert strong
    for cue, size in strong.items():
        assert z[ATTRIBUTES.index(cue)] * np.sign(size) > 0.1, cue


def test_no_two_emotions_ask_for_the_same_music(shipped: MusicDirections) -> None:
    z = shipped.standardised(shipped.targets(np.eye(12)))
    apart = np.linalg.norm(z[:, None] - z, axis=-1)[np.triu_indices(12, 1)]
    assert apart.min() > 2.0


def test_quadrants_differ_as_listeners_hear_them(shipped: MusicDirections) -> None:
    targets = dict(zip(CORE, shipped.targets(np.eye(12)), strict=True))
    where = {name: index for index, name in enumerate(ATTRIBUTES)}
    for name, values in targets.items():
        bright = QUADRANT[name] in ("Q1", "Q4")
        assert (values[where["mode"]] > shipped.centre[where["mode"]]) == bright, name
    loud, soft = targets["anger"], targets["sadness"]
    for cue in ("tempo", "velocity", "note_density", "dissonance"):
        assert loud[where[cue]] > soft[where[cue]]
    # Same quadrant, different music: fear lies high and falters, anger is low and loud.
    assert targets["fear"][where["mean_pitch"]] > loud[where["mean_pitch"]] + 5
    assert targets["fear"][where["velocity"]] < loud[where["velocity"]] - 15


@pytest.mark.parametrize(("level", "close"), [(1.0, 0.02), (0.5, 0.2)])
def test_what_is_asked_for_can_be_played(
    shipped: MusicDirections, level: float, close: float
) -> None:
    # Notes sounding at once = notes a second x seconds a note, but for silence in staccato.
    targets = shipped.targets(level * np.eye(12))
    touch = column(targets, "articulation")
    sounds = 1 - np.maximum(0, 1 - touch) / 2
    product = column(targets, "note_density") * column(targets, "note_duration")
    ratio = product / (column(targets, "polyphony") * sounds)
    neutral = shipped.targets(np.zeros(12))
    fixed = column(neutral, "note_density") * column(neutral, "note_duration")
    assert np.allclose(ratio, fixed / column(neutral, "polyphony"), rtol=close)


def test_mixtures_add_up(shipped: MusicDirections) -> None:
    both = shipped.targets(0.5 * one("happiness") + 0.4 * one("sadness"))
    apart = shipped.targets([one("happiness", 0.5), one("sadness", 0.4)]).sum(axis=0)
    assert np.allclose(both[0], apart - shipped.centre, rtol=1e-5, atol=1e-4)


def test_more_than_full_intensity_stays_playable(shipped: MusicDirections) -> None:
    far = shipped.targets(1.5 * np.eye(12))
    assert (far >= shipped.low).all()
    assert (far <= shipped.high).all()
    assert (far == shipped.high).any()
    assert ((shipped.low < shipped.centre) & (shipped.centre < shipped.high)).all()
    assert (shipped.scale > 0).all()


def test_a_timeline_gives_a_smooth_curve(shipped: MusicDirections) -> None:
    timeline = EmotionTimeline.parse("0s neutral; 20s anger 1; 40s sadness .8")
    times = np.linspace(0, 40, 81)
    curve = shipped.targets(timeline.sample(times), timeline.residuals(times))
    assert curve.shape == (81, 16)
    assert np.array_equal(curve[0], shipped.centre)
    assert np.allclose(curve[40], shipped.targets(one("anger"))[0], rtol=1e-5)
    steps = np.abs(np.diff(shipped.standardised(curve), axis=0))
    assert steps.max() < 0.35
    loud = column(curve, "velocity")
    assert (np.diff(loud[:41]) >= 0).all()
    assert loud[-1] < loud[40]


def test_a_point_of_valence_and_arousal_moves_by_its_residual_too(
    shipped: MusicDirections,
) -> None:
    point = Emotion.from_vad(0.6, -0.4)
    whole = shipped.targets(point.array, point.residual)
    part = shipped.targets(point.array)
    W = shipped.bank.W["tokens"].double().numpy()
    assert np.allclose(whole - part, shipped.scale * (np.array(point.residual) @ W), atol=1e-4)
    assert column(whole, "mode") > shipped.centre[ATTRIBUTES.index("mode")]
    assert column(whole, "velocity") < shipped.centre[ATTRIBUTES.index("velocity")]


def test_pins_hold_whatever_the_emotion(shipped: MusicDirections) -> None:
    pins = parse_attributes("tempo=72,mode=major").attributes
    targets = shipped.targets(np.eye(12), pins=pins)
    assert (column(targets, "tempo") == 72).all()
    assert (column(targets, "mode") == MAJOR).all()
    free = [i for i, name in enumerate(ATTRIBUTES) if name not in pins]
    assert np.array_equal(targets[:, free], shipped.targets(np.eye(12))[:, free])
    top = shipped.targets(one("fear"), pins={"polyphony": 10.0})
    assert column(top, "polyphony") == shipped.high[ATTRIBUTES.index("polyphony")]
    with pytest.raises(MusicEmotionError, match="nearest is velocity"):
        shipped.targets(one("fear"), pins={"velocities": 90.0})


def test_the_file_is_a_bank_like_that_of_the_images(shipped: MusicDirections) -> None:
    bank = DirectionBank.load(DIRECTIONS)
    assert bank.vectors["tokens"].shape == (12, 16)
    assert bank.W["tokens"].shape == (3, 16)
    assert 0.5 < bank.r_squared["tokens"] <= 1
    for word in ("EMOPIA", "VGMIDI", "POP909", "Juslin", "Eerola"):
        assert word in shipped.sources


def test_saving_keeps_every_number(shipped: MusicDirections, tmp_path) -> None:
    columns = np.stack([shipped.centre, shipped.scale, shipped.low, shipped.high], axis=1).T
    views = replace(  # rows of a transposed array do not lie in memory in order
        shipped, **dict(zip(("centre", "scale", "low", "high"), columns, strict=True))
    )
    assert not views.centre.flags["C_CONTIGUOUS"]
    views.save(tmp_path / "directions.safetensors")
    for path in (tmp_path, tmp_path / "directions.safetensors"):
        again = MusicDirections.load(path)
        assert np.array_equal(again.targets(np.eye(12)), shipped.targets(np.eye(12)))
        assert again.sources == shipped.sources


def test_other_files_are_refused(shipped: MusicDirections, tmp_path) -> None:
    with pytest.raises(MusicEmotionError, match="does not exist"):
        MusicDirections.load(tmp_path)
    (tmp_path / "a").write_bytes(b"no tensors")
    save_file({"x": torch.zeros(2)}, tmp_path / "b")
    shipped.bank.save(tmp_path / "c")  # a bank without the frame of the attributes
    for name in "abc":
        with pytest.raises(MusicEmotionError, match="does not hold directions") as error:
            MusicDirections.load(tmp_path / name)
        assert "\n" not in str(error.value)


def test_quadrants() -> None:
    found = [quadrant(v, a) for v, a in ((0.5, 0.5), (-0.5, 0.5), (-0.5, -0.5), (0.5, -0.5))]
    assert found == ["Q1", "Q2", "Q3", "Q4"]
    assert quadrant(0, 0) == "Q1"
    assert [QUADRANT[name] for name in ("awe", "disgust", "boredom", "contentment")] == found


@pytest.mark.parametrize(
    ("text", "attributes", "key", "meter"),
    [
        ("", {}, None, None),
        ("tempo=72,mode=major", {"tempo": 72.0, "mode": MAJOR}, None, None),
        (" Note-Density = 4 ; velocity=90 ", {"note_density": 4.0, "velocity": 90.0}, None, None),
        ("mode=-.1", {"mode": -0.1}, None, None),
        ("key=C", {"mode": MAJOR}, (0, False), None),
        ("key=F#m,meter=3/4", {"mode": MINOR}, (6, True), 3),
        ("key=bb minor,mode=-.3", {"mode": -0.3}, (10, True), None),
        ("meter=4", {}, None, 4),
        ("key=Cb", {"mode": MAJOR}, (11, False), None),
    ],
)
def test_attributes_are_read(text, attributes, key, meter) -> None:
    assert parse_attributes(text) == (attributes, key, meter)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("tempo", "write e.g. tempo=72"),
        ("tempo=", "write e.g. tempo=72"),
        ("tempoo=72", "nearest is tempo"),
        ("tempo=900", "allowed 40 to 200 bpm"),
        ("tempo=nan", "allowed 40 to 200 bpm"),
        ("tempo=fast", 'received "fast"'),
        ("mode=dorian", "major, minor or -0.5 to 0.5"),
        ("tempo=72,tempo=80", "given twice"),
        ("key=H", "key=F#m"),
        ("meter=7", "3 or 4"),
        ("key=Am,mode=major", "leave one of them out"),
        ("x" * 300 + "=1", "not known"),
    ],
)
def test_bad_attributes_are_one_clear_line(text: str, told: str) -> None:
    with pytest.raises(MusicEmotionError, match="attributes: ") as error:
        parse_attributes(text)
    assert told in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


def test_targets_lie_where_attributes_may_be_asked_for(shipped: MusicDirections) -> None:
    low = np.array([TABLE[name].low for name in ATTRIBUTES])
    high = np.array([TABLE[name].high for name in ATTRIBUTES])
    assert (shipped.low >= low).all()
    assert (shipped.centre <= high).all()
