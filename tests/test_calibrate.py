"""The sweep: what is painted, what is stored, and that later requests use it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import pipelines.calibrate as sweeps
import studio.calibrate
from adapters.calibration import Calibration
from adapters.critic import Reading
from adapters.directions import DirectionBank
from adapters.emotion import Emotion
from pipelines import Step
from pipelines.image import ImageParams
from pipelines.painter import Painter, Sitting
from pipelines.params import ParamError
from tests.contracts import EXTRA, critic, few_pairs, reader
from tests.tiny import tiny

SMALL = {"width": 32, "height": 32, "steps": 1}


@pytest.fixture(scope="module")
def painter(tmp_path_factory):
    made = Painter(tiny("sd15"), "tiny", call=EXTRA["sd15"], cache=tmp_path_factory.mktemp("cache"))
    made.directions = DirectionBank.fit(made.pipe, few_pairs())
    return made


@dataclasses.dataclass
class Distance:
    """A reader of one number: how far a picture is from its neutral one, squashed like a critic."""

    neutral: np.ndarray
    scale: float
    name: str = "distance"
    modality: str = "image"
    digest: str = "d" * 16

    def read(self, images):
        found = []
        for image in images:
            away = np.abs(np.asarray(image, float) - self.neutral).mean() / self.scale
            level = float(np.clip(away, 0, 1))
            found.append(
                Reading((1.0, *(0.0,) * 12), (level,) * 12, (0.0,) * 3, (0.1,) * 3, 1.0, self.name)
            )
        return found


def _sittings(level):
    state = Emotion.of("fear", level) if level else Emotion.neutral()
    return [Sitting("a city street", state, 0)]


def final(events):
    *steps, result = events
    assert all(isinstance(event, Step) for event in steps)
    assert steps[-1].index == steps[-1].total
    return result


def test_sweep_paints_level_zero_once_and_keeps_columns(painter):
    emotions, levels = ("fear", "awe"), (0.0, 0.5, 1.0)
    events = list(sweeps.sweep(painter, emotions, levels, 2, {"critic": critic()}, None, SMALL))
    readings = final(events)
    assert events[-2].total == (1 + 2 * 2) * 2  # pictures of one step each
    assert set(readings) == set(emotions)
    assert readings["fear"]["critic"].shape == (3, 2, 12)
    again = final(sweeps.sweep(painter, ("fear",), levels, 2, {"critic": critic()}, None, SMALL))
    np.testing.assert_allclose(again["fear"]["critic"], readings["fear"]["critic"], atol=1e-3)


def test_calibrate_stores_what_the_next_request_uses(painter):
    params = {**SMALL, "content": 0.0}
    neutral = painter.paint(_sittings(0.0), ImageParams(**params))[0]
    full = painter.paint(_sittings(1.0), ImageParams(**params))[0]
    base = np.asarray(neutral, float)
    judge = Distance(base, float(np.abs(np.asarray(full, float) - base).mean()))
    events = sweeps.calibrate(
        "tiny",
        emotions=("fear",),
        levels=5,
        seeds=2,
        prompts=("a city street",),
        params=params,
        painter=painter,
        critic=judge,
    )
    found = final(events)
    assert isinstance(found, Calibration)
    assert found.fits(painter.digest, painter.adapters_digest)
    assert found.critic == f"distance {'d' * 16}"
    assert found.params["calibrated"] is False
    assert Calibration.load(painter.calibration_path) == found
    fresh = Painter(tiny("sd15"), "tiny", cache=painter.cache)
    assert fresh.calibration == found
    later = final(
        sweeps.calibrate(
            "tiny",
            emotions=("awe",),
            levels=3,
            seeds=2,
            params=params,
            painter=painter,
            critic=judge,
        )
    )
    assert set(later.responses) == {"fear", "awe"}


def test_examine_reports_both_readers(painter):
    figures = final(
        sweeps.examine(
            painter, emotions=("fear",), levels=(0.5, 1.0), seeds=2,
            critic=critic(), reader=reader(), params=SMALL,
        )
    )  # fmt: skip
    assert set(figures["fear"]) == {"critic", "reader", "error"}
    assert -1 <= figures["fear"]["reader"]["spearman"] <= 1
    assert len(figures["fear"]["critic"]["means"]) == 2


@pytest.mark.parametrize(
    "wrong", [{"emotions": ("joy",)}, {"emotions": ()}, {"levels": 2}, {"seeds": 1},
              {"params": {"steps": -1}}],
)  # fmt: skip
def test_mistakes_start_nothing(wrong):
    with pytest.raises(ParamError):
        sweeps.calibrate("image-tiny", **wrong)


def test_a_long_sweep_is_heard_of_where_there_is_no_bar(capsys, monkeypatch):
    monkeypatch.setattr("training.progress.PATIENCE", 0.0)
    stage = next(iter(studio.calibrate.DOING))
    events = [Step(3, 20, stage=stage), "found"]
    sweep = (event for event in events)
    assert studio.calibrate.follow(sweep, "calibrating it") == "found"
    said = capsys.readouterr().err
    assert f"calibrating it: {studio.calibrate.DOING[stage]}, 3 of 20" in said
