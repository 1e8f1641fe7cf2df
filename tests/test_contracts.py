"""The contracts of contracts.py and {music,voice,portrait,video}_contracts.py over every row."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from pipelines import BACKBONES, DEFAULTS, MAKERS
from pipelines.image import ImageParams
from pipelines.music import MusicParams
from pipelines.params import ParamError
from pipelines.portrait import PortraitParams
from pipelines.video import VideoParams
from pipelines.voice import VoiceParams
from tests.contracts import BackboneContract
from tests.music_contracts import MusicContract
from tests.portrait_contracts import PortraitContract
from tests.tiny import FAMILIES
from tests.tiny_video import FAMILIES as OF_VIDEO
from tests.video_contracts import VideoContract
from tests.voice_contracts import VoiceContract

PICTURES = [name for name, row in BACKBONES.items() if row.modality == "image"]
MUSIC = [name for name, row in BACKBONES.items() if row.modality == "music"]
VOICES = [name for name, row in BACKBONES.items() if row.modality == "voice"]
PORTRAITS = [name for name, row in BACKBONES.items() if row.modality == "portrait"]
VIDEOS = [name for name, row in BACKBONES.items() if row.modality == "video"]
KNOBS = [
    pytest.param(kind, knob, id=f"{kind.__name__}.{knob.name}")
    for kind in (ImageParams, MusicParams, VoiceParams, PortraitParams, VideoParams)
    for knob in dataclasses.fields(kind)
]


@pytest.mark.parametrize("name", PICTURES, scope="class")
class TestBackbones(BackboneContract):
    """Every row that makes pictures."""


@pytest.mark.parametrize("name", MUSIC, scope="class")
class TestComposers(MusicContract):
    """Every row that makes music."""


@pytest.mark.parametrize("name", VOICES, scope="class")
class TestVoices(VoiceContract):
    """Every row that makes voices."""


@pytest.mark.parametrize("name", PORTRAITS, scope="class")
class TestPortraits(PortraitContract):
    """Every row that makes portraits."""


@pytest.mark.parametrize("name", VIDEOS, scope="class")
class TestVideos(VideoContract):
    """Every row that makes films."""


def test_every_family_has_a_row():
    # Two of video's classes have no row: they are made of the parts of another.
    moving = {family for family in OF_VIDEO if family not in ("animatediff-v2v", "ltx-i2v")}
    known = {*FAMILIES, *moving, "music", "voice", "portrait"}
    assert {row.family for row in BACKBONES.values()} == known
    assert set(PICTURES + MUSIC + VOICES + PORTRAITS + VIDEOS) == set(BACKBONES), (
        "a new modality needs a contract"
    )
    assert {BACKBONES[name].modality for name in DEFAULTS.values()} == set(DEFAULTS)
    assert set(MAKERS) - set(DEFAULTS) == {"film"}, "a film has no weights of its own"


@pytest.mark.parametrize(("kind", "knob"), KNOBS)
def test_knobs_are_described_and_checked(kind, knob):
    assert knob.metadata["help"]
    wrong = [object(), float("nan"), [1]]
    if knob.metadata.get("max") is not None:
        wrong += [knob.metadata["max"] * 2 + 1, knob.metadata["min"] - 1, True, "many"]
        assert knob.metadata["step"] > 0
    for value in wrong:
        with pytest.raises(ParamError, match=knob.name) as caught:
            kind.parse({knob.name: value})
        assert "\n" not in str(caught.value)
    default = getattr(kind(), knob.name)
    assert kind.parse({knob.name: default}) == kind()


def test_unknown_knobs_name_the_nearest():
    with pytest.raises(ParamError, match="did you mean style"):
        ImageParams.parse({"styles": 1})


@pytest.mark.parametrize(
    ("modality", "kind"),
    [
        ("image", ImageParams),
        ("music", MusicParams),
        ("voice", VoiceParams),
        ("portrait", PortraitParams),
        ("video", VideoParams),
    ],
)
def test_knobs_reach_the_command_line(modality, kind):
    code = f"from studio.cli import run; raise SystemExit(run(['make', {modality!r}, '--help']))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={"COLUMNS": "200", "PATH": "", "TERM": "dumb"},
    )
    assert done.returncode == 0, done.stderr
    for knob in dataclasses.fields(kind):
        assert f"--{knob.name.replace('_', '-')}" in done.stdout
