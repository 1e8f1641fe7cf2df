"""The report of curves in time: on readers whose truth is known, and on a real film."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from adapters.agreement import asked_track
from adapters.emotion import CORE, VAD
from adapters.families import model_digest
from pipelines import BACKBONES, camera
from pipelines.media_video import encode_video
from pipelines.request import Request
from pipelines.take import Take
from training.video_evaluate import (
    Asked,
    RowError,
    asked,
    evaluate,
    made_with,
    read_film,
    request_of,
    row_of,
    rows_of,
    unshipped,
)
from training.video_evaluate_report import CURVES, NEUTRAL, markdown, summary, timeline

SHIPPED = Path(str(BACKBONES["video-tiny"].folder))
SECONDS = 6.0
TIMES = np.arange(0, SECONDS, 0.25)


def row(modality, subject, curve, sees, seed=0, seconds=SECONDS):
    """A take whose reader sees a curve (or None: wanders) through noise and habit."""
    rng = np.random.default_rng([*subject.encode(), seed, len(curve)])
    times = TIMES * seconds / SECONDS
    if sees is None:
        track = np.exp(0.2 * rng.normal(size=(len(times), 13)).cumsum(axis=0))
    else:
        track = asked_track(timeline(sees, seconds), times) + 0.2 * rng.random((len(times), 13))
    track /= track.sum(axis=1, keepdims=True)
    read = {
        "probabilities": track.tolist(),
        "strengths": track.tolist(),
        "affect": (track[:, 1:] @ VAD[:, :2]).tolist(),
    }
    return {
        "modality": modality,
        "subject": subject,
        "curve": curve,
        "seed": seed,
        "seconds": seconds,
        "spent": {"wall": 2 * seconds, "processor": seconds},
        "times": times.tolist(),
        "figures": {},
        "reader": read,
    }


def rows(modality, sees, **more):
    return [
        row(modality, subject, curve, sees(curve), **more)
        for subject in "abc"
        for curve in (*CURVES, NEUTRAL)
    ]


def test_each_curve_has_its_reverse():
    for name in CURVES:
        twin = name.removesuffix(", back") if name.endswith("back") else f"{name}, back"
        there = timeline(name, 8).sample(np.linspace(0, 8, 33))
        back = timeline(twin, 8).sample(np.linspace(8, 0, 33))
        assert there == pytest.approx(back, abs=1e-6)


def test_a_modality_that_follows_is_told_from_one_that_does_not():
    seen = rows("video", lambda curve: curve) + rows("voice", lambda curve: None)
    found = summary(seen)["modalities"]
    good, bad = (found[name]["reader"] for name in ("video", "voice"))
    assert good["labels"]["asked"][0] > 0.9
    assert good["valence"]["asked"][1] > 0.9
    assert good["named"][0] == 1.0
    assert good["named"][3] == 12
    assert good["lag"] == 0
    assert good["labels"]["asked"][1] > good["chance"][1]
    assert set(good["emotion"]) == {"contentment", "fear", "sadness", "excitement"}
    low, high = bad["labels"]["asked"][1:3]
    assert low < 0.3
    assert high < 0.6
    assert bad["named"][1] < 0.5
    assert found["video"]["speed"]["wall"][0] == pytest.approx(2)


def test_a_modality_that_always_shows_one_course_follows_nothing():
    found = summary(rows("music", lambda curve: "calm to fear"))["modalities"]["music"]["reader"]
    assert abs(found["labels"]["asked"][0]) < 0.1
    assert found["labels"]["neutral"][1] > 0.8
    assert found["named"][0] <= 0.3


def test_modalities_are_compared_at_shares_of_their_lengths():
    seen = rows("video", lambda curve: curve) + rows("music", lambda curve: curve, seconds=36.0)
    found = summary(seen)["agreement"]
    assert set(found) == set(CURVES)
    for one in found.values():
        (pair,) = one["between"]
        assert pair["divergence"] < 0.3 * pair["shuffled_divergence"]
        assert pair["r"] > 0.9


def test_the_report_says_all_of_it():
    quiet = row("voice", "a", "calm to fear", "calm to fear")
    for kind in quiet["reader"]:
        quiet["reader"][kind][3] = None
    seen = [*rows("video", lambda curve: curve), quiet]
    text = markdown(summary(seen))
    assert "| video | reader | 12 |" in text
    assert "| voice | reader | 1 |" in text
    assert "shuffled" in text
    assert "nan" not in text
    json.dumps(summary(seen), allow_nan=False)


def test_what_is_asked_can_be_made():
    wanted = asked(["video", "portrait", "voice", "music"])
    assert len({one.key for one in wanted}) == len(wanted)
    for one in wanted:
        request = request_of(one, 5.0)
        assert request.emotion.is_constant == (one.curve == NEUTRAL)
        assert request.modality == one.modality


def test_rows_that_are_there_are_not_made_again(tmp_path):
    (tmp_path / "rows").mkdir()
    one = Asked("music", "", "calm to fear", 0)
    kept = row("music", "", "calm to fear", "calm to fear") | {
        "file": "takes/none.mid",
        "made_with": made_with(request_of(one, 36.0)),
    }
    (tmp_path / "rows" / f"{one.key}.json").write_text(json.dumps(kept))
    assert list(rows_of([one, Asked("music", "", NEUTRAL, 0)], tmp_path, {}, {}, minutes=0)) == [
        kept
    ]
    found = evaluate(tmp_path, ["music"], minutes=0)
    assert found["modalities"]["music"]["takes"] == 1
    assert (tmp_path / "report.md").read_text() == markdown(found)


@pytest.mark.skipif(not SHIPPED.is_dir(), reason="assets/models/video-tiny is not there")
def test_rows_of_another_model_are_refused(tmp_path):
    (tmp_path / "rows").mkdir()
    one = Asked("video", "a forest", "calm to fear", 0)
    path = tmp_path / "rows" / f"{one.key}.json"

    def kept(made_of):
        told = row("video", "a forest", "calm to fear", "calm to fear")
        path.write_text(json.dumps(told | {"file": "takes/none.mp4", "made_with": made_of}))

    def read(backbones=None, **options):
        return list(rows_of([one], tmp_path, backbones or {}, {"video": options}, minutes=0))

    maker = unshipped(SHIPPED)
    request = request_of(one, 4.0)
    kept(made_with(request))
    assert len(read()) == 1
    with pytest.raises(RowError, match="other adapter"):
        read(maker=maker)
    kept(made_with(request, {"maker": maker}))
    assert len(read(maker=maker)) == 1
    with torch.no_grad():
        for name, weight in maker.pipe.unet.named_parameters():
            if "motion_modules" in name:
                weight.mul_(1.5)
    maker.digest = model_digest(maker.pipe)
    with pytest.raises(RowError, match=r"other adapter; give another folder") as caught:
        read(maker=maker)
    assert "\n" not in str(caught.value)
    kept(made_with(request))
    with pytest.raises(RowError, match="other backbone, weights"):
        read({"video": "animatediff"})
    kept(made_with(request.changed(params={"seconds": 3.0})))
    with pytest.raises(RowError, match="other params"):
        read()
    kept(None)
    with pytest.raises(RowError, match="does not say"):
        read()


def test_a_film_is_read_and_measured(tmp_path):
    generator = torch.Generator().manual_seed(0)
    picture = torch.nn.functional.interpolate(
        torch.rand(1, 3, 12, 12, generator=generator), (64, 64), mode="bicubic"
    )[0].clamp(0, 1)
    clip = list(camera.move(picture, 1, 8, kind="pan", tempo=0.5, generator=generator))
    pixels = [(x * 255).byte().permute(1, 2, 0).numpy() for x in clip]
    path = tmp_path / "film.mp4"
    path.write_bytes(encode_video(pixels, 8))
    one = Asked("video", "a forest", "calm to fear", 0)
    read = read_film(Take(request_of(one, 1.0), path, ""), 1.0)
    assert len(read.times) == len(read.reader) == len(read.critic) == 4
    figures = read.figures["film"]
    assert figures["film"]["speed"] > figures["still"]["speed"]
    assert figures["still"]["flicker"] == pytest.approx(0, abs=1e-6)
    told = row_of(one, 1.0, read, {"wall": 1.0, "processor": 1.0})
    assert np.array(told["reader"]["probabilities"]).shape == (4, 13)
    assert isinstance(request_of(one, 1.0), Request)
    found = summary([told])
    assert "cross-fade" in markdown(found)
    assert set(found["modalities"]["video"]["reader"]["emotion"]) <= set(CORE)
