"""What the README tells a newcomer to type must exist."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from adapters.emotion import EmotionTimeline
from tests.command_lines import commands_in, read_command

README = (Path(__file__).resolve().parent.parent / "README.md").read_text(encoding="utf-8")
COMMANDS = commands_in(README)
RECIPES = re.findall(r"^    python -m (\S+)", README, re.M)


def test_there_are_commands_to_check() -> None:
    assert len(COMMANDS) >= 15
    assert len(RECIPES) >= 4


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_parses(line: str) -> None:
    read_command(line)


@pytest.mark.parametrize("module", RECIPES)
def test_every_recipe_is_there(module: str) -> None:
    assert find_spec(module) is not None


def test_every_text_form_means_something() -> None:
    table = README.split("## How to write an emotion")[1].split("##")[0]
    forms = [form for row in re.findall(r"^\| (`.+?) \|", table, re.M) for form in
             re.findall(r"`([^`]+)`", row)]  # fmt: skip
    assert len(forms) >= 12
    for form in forms:
        state = EmotionTimeline.parse(form)
        assert EmotionTimeline.parse(state.text).text == state.text


def test_links_lead_somewhere() -> None:
    root = Path(__file__).resolve().parent.parent
    for target in re.findall(r"\]\(([^)]+)\)", README):
        if not target.startswith("http"):
            assert (root / target).exists(), target
