"""The contract of tests/contracts.py over every backbone, and over every knob."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from pipelines import BACKBONES
from pipelines.image import ImageParams
from pipelines.params import ParamError
from tests.contracts import BackboneContract
from tests.tiny import FAMILIES


@pytest.mark.parametrize("name", BACKBONES, scope="class")
class TestBackbones(BackboneContract):
    """Every row of the registry."""


def test_every_family_has_a_row():
    assert {row.family for row in BACKBONES.values()} == set(FAMILIES)


@pytest.mark.parametrize("knob", dataclasses.fields(ImageParams), ids=lambda knob: knob.name)
def test_knobs_are_described_and_checked(knob):
    assert knob.metadata["help"]
    wrong = [object(), float("nan"), [1]]
    if knob.metadata.get("max") is not None:
        wrong += [knob.metadata["max"] * 2 + 1, knob.metadata["min"] - 1, True, "many"]
        assert knob.metadata["step"] > 0
    for value in wrong:
        with pytest.raises(ParamError, match=knob.name) as caught:
            ImageParams.parse({knob.name: value})
        assert "\n" not in str(caught.value)
    default = getattr(ImageParams(), knob.name)
    assert ImageParams.parse({knob.name: default}) == ImageParams()


def test_unknown_knobs_name_the_nearest():
    with pytest.raises(ParamError, match="did you mean style"):
        ImageParams.parse({"styles": 1})


def test_knobs_reach_the_command_line():
    code = "from studio.cli import run; raise SystemExit(run(['make', 'image', '--help']))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={"COLUMNS": "200", "PATH": "", "TERM": "dumb"},
    )
    assert done.returncode == 0, done.stderr
    for knob in dataclasses.fields(ImageParams):
        assert f"--{knob.name.replace('_', '-')}" in done.stdout
