"""`--help` ends with a line that a person can copy, and that line parses."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
import typer

from studio.cli import VERBS, app, run
from studio.examples import EXAMPLES

WIDTH = 80 - len(" Example: ") - 1  # of a line that is not folded on a narrow terminal


def everything() -> Iterator[tuple[str, Any]]:
    """(words after affect, command) of every verb and of what is below it."""

    def below(words: str, command: Any) -> Iterator[tuple[str, Any]]:
        yield words, command
        for name, one in getattr(command, "commands", {}).items():
            yield from below(f"{words} {name}", one)

    for name, (place, _, _) in VERBS.items():
        module, attribute = place.split(":")
        command = typer.main.get_command(getattr(import_module(module), attribute)())
        yield from below(name, command)


COMMANDS = dict(everything())


def test_every_verb_has_one() -> None:
    assert set(COMMANDS) - set(EXAMPLES) == set()


@pytest.mark.parametrize("words", sorted(set(COMMANDS) & set(EXAMPLES)))
def test_it_parses_and_fits(words: str) -> None:
    line = EXAMPLES[words]
    assert len(line) <= WIDTH
    assert line.startswith(f"affect {words.split()[0]}")
    command, arguments = typer.main.get_command(app), shlex.split(line)[1:]
    context = command.make_context("affect", list(arguments))
    rest = arguments
    while hasattr(command, "resolve_command"):
        name, command, rest = command.resolve_command(context, list(rest))
        context = command.make_context(name, list(rest), parent=context)
        rest = [*getattr(context, "_protected_args", []), *context.args]
    assert command.epilog == f"Example: {EXAMPLES[context.command_path.removeprefix('affect ')]}"


def test_help_shows_it_whole(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for words in ("make image", "verify", "library list"):
        assert run([*words.split(), "--help"]) == 0
        said = capsys.readouterr().out
        assert f"Example: {EXAMPLES[words]}" in said
        assert max(map(len, said.splitlines())) <= 80
    assert run(["--help"]) == 0
    said = capsys.readouterr().out
    assert "a quoted sentence" in " ".join(said.split())
