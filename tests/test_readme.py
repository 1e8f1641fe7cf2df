"""What the README tells a newcomer to type must exist."""

from __future__ import annotations

import dataclasses
import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest
import typer

from adapters.emotion import EmotionTimeline
from pipelines.film import FilmParams
from pipelines.image import ImageParams
from pipelines.music import MusicParams
from pipelines.portrait import PortraitParams
from pipelines.video import VideoParams
from pipelines.voice import VoiceParams
from studio.cli import app

README = (Path(__file__).resolve().parent.parent / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    (affect .+?)(?:\s+#.*)?$", README, re.M)
COMMANDS += re.findall(r"`(affect \w+ [^`]+)`", README.replace("\n", " "))
RECIPES = re.findall(r"^    python -m (\S+)", README, re.M)


def params_table(kind: type) -> str:
    """Write the table of the public knobs; to renew the README, paste what this returns."""
    rows = ["| knob | default | what it does |", "|---|---|---|"]
    for field in dataclasses.fields(kind):
        # Not a dict: 0 is False and 1.0 is True.
        match field.default:
            case bool(on):
                shown = "on" if on else "off"
            case None:
                shown = field.metadata.get("unset", "the model's own")
            case number:
                shown = f"{number}" or "none"
        flag = f"`--{field.name.replace('_', '-')}`"
        rows.append(f"| {flag} | {shown} | {field.metadata['help']} |")
    return "\n".join(rows)


KINDS = [
    ("image", ImageParams),
    ("music", MusicParams),
    ("voice", VoiceParams),
    ("portrait", PortraitParams),
    ("video", VideoParams),
    ("film", FilmParams),
]


@pytest.mark.parametrize(("modality", "kind"), KINDS)
def test_table_of_knobs_is_the_dataclass(modality: str, kind: type) -> None:
    found = re.search(rf"<!-- params:{modality}.*?-->\n(.*?)<!-- /params -->", README, re.S)
    assert found
    assert found.group(1).strip() == params_table(kind)


def test_there_are_commands_to_check() -> None:
    assert len(COMMANDS) >= 15
    assert len(RECIPES) >= 4


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_parses(line: str) -> None:
    # It would print and leave; a picture needs a prompt instead, a film a scene.
    line = line.replace("image --help", "image x").replace("film --help", "film x.toml")
    line = line.replace(" --help", "")
    # make_context reads verb and options as a run would, and calls nothing.
    command, arguments = typer.main.get_command(app), shlex.split(line)[1:]
    context = command.make_context("affect", list(arguments))
    rest = arguments
    while hasattr(command, "resolve_command"):
        name, command, rest = command.resolve_command(context, list(rest))
        context = command.make_context(name, list(rest), parent=context)
        rest = [*getattr(context, "_protected_args", []), *context.args]
    emotion = context.params.get("emotion")
    if emotion and emotion not in ("all", "neutral", "from-audio"):
        EmotionTimeline.parse(emotion)


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
