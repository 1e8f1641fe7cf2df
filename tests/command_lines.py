"""What documents tell people to type, read as a run would read it, and nothing is run."""

from __future__ import annotations

import re
import shlex
from typing import Any

import typer

from adapters.emotion import EmotionTimeline
from studio.cli import app

_SCREEN = re.compile(r"^    (affect .+?)(?:\s+#.*)?$", re.M)
_INLINE = re.compile(r"`(affect \w+ [^`]+)`")


def commands_in(text: str) -> list[str]:
    """Every `affect` command of a Markdown text: indented lines, and in backticks."""
    return [*_SCREEN.findall(text), *_INLINE.findall(text.replace("\n", " "))]


def read_command(line: str) -> tuple[Any, Any]:
    """(command, its context) of a line; raises what a wrong line would be told."""
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
    names = context.command_path.split()[1] in ("train", "calibrate", "evaluate")  # not states
    if emotion and not names and emotion not in ("neutral", "from-audio"):
        EmotionTimeline.parse(emotion)
    return command, context
