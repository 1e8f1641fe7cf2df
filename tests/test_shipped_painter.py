"""The painter that ships: whole, understood by its own tables, calibrated for what it is."""

from __future__ import annotations

import json

import numpy as np
import pytest

from adapters.assets import ASSETS
from adapters.content import painter_words
from adapters.critic import load_critic
from adapters.emotion import CORE, EmotionTimeline
from pipelines import generate
from pipelines.painter import Painter
from pipelines.request import Request
from pipelines.take import Take

FOLDER = ASSETS / "models" / "image-tiny"


@pytest.fixture(scope="module")
def painter():
    return Painter.load("image-tiny", device="cpu")


def test_it_has_a_slider_for_every_emotion(painter):
    assert painter.loras.names == CORE


def test_it_was_shown_every_word_that_is_said_to_it():
    words = set(json.loads((FOLDER / "vocabulary.json").read_text())["words"])
    assert painter_words() <= words


def test_its_calibration_is_of_these_weights_and_this_critic(painter):
    assert painter.calibration is not None
    assert set(painter.calibration.responses) == set(CORE)
    critic = load_critic("critic-image")
    assert painter.calibration.critic == f"{critic.name} {critic.digest}"


def test_its_directions_are_fitted_already(painter):
    assert (FOLDER / "directions.safetensors").is_file()
    assert painter.directions.digest == painter.digest


def test_fear_and_happiness_are_two_pictures_of_one_scene(painter, tmp_path):
    requests = [
        Request("image", "a mountain lake", EmotionTimeline.parse(text), 7, "image-tiny")
        for text in ("neutral", "happiness .9", "fear .9")
    ]
    takes = [
        event
        for event in generate(requests, out_dir=tmp_path, painter=painter)
        if isinstance(event, Take)
    ]
    assert len(takes) == 3
    from pipelines.media import load_image

    pixels = [np.asarray(load_image(take.path), dtype=float) / 255 for take in takes]
    assert all(picture.std() > 0.04 for picture in pixels)  # nothing flat
    light = [picture.mean() for picture in pixels]
    assert light[1] > light[2] + 0.1  # happiness is the lighter one, for this scene by far
    read = [take.reading["reader"]["intensities"] for take in takes]
    assert read[2]["fear"] > read[1]["fear"]
    assert read[1]["happiness"] > read[2]["happiness"]
