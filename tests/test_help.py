"""`--help` ends with a line that a person can copy, and that line parses."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
import typer

from studio.cli import VERBS, run
from studio.examples import EXAMPLES
from tests.command_lines import read_command

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
    command, context = read_command(line)
    own = EXAMPLES[context.command_path.removeprefix("affect ")]
    assert command.epilog == f"Example: {own}" or "Example: affect" in command.help


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
