"""`affect show FILE`: everything in a finished file's metadata, from the file alone.

Loads no model and no torch. What a file says about itself is text by a stranger: control
characters are made visible, long values are cut in the table (`--json` gives all of it).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from studio.console import one_line, result_json, table_console

# Longest value in the table; the whole of it is in --json.
WIDEST = 400
FIRST = ("affect", "request", "prompt", "emotion", "seed", "backbone", "reading", "asked")


def app() -> typer.Typer:
    """The verb `show`."""
    verb = typer.Typer(add_completion=False)
    verb.command()(show)
    return verb


def show(
    file: Annotated[
        Path, typer.Argument(help="A picture, music, voice or portrait made by this studio.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> int:
    """Show everything FILE says about how it was made."""
    from pipelines.media import read_metadata

    data = read_metadata(file)
    if not data.keys() & {"affect", "parameters", "digital_source"}:
        msg = f"show: {file} says nothing about how it was made; only unchanged takes do"
        raise ValueError(msg)
    if as_json:
        result_json({"path": str(file), **data})
        return 0
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("file", Text(one_line(str(file))))
    for name, value in _rows(data):
        table.add_row(Text(name), Text(value))
    table_console().print(table)
    return 0


def _rows(data: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Dotted names and printable values of nested metadata, the request first."""
    rows: list[tuple[str, str]] = []
    for key in sorted(data, key=_rank):
        value = data[key]
        name = f"{prefix}{one_line(str(key), 60)}"
        if isinstance(value, Mapping) and value and not _is_state(value, name):
            rows.extend(_rows(value, f"{name}."))
        elif _is_cues(value):
            short = name.removeprefix("affect.")
            rows.extend((f"{short}.{one_line(cue['name'], 60)}", _change(cue)) for cue in value)
        else:
            rows.append((name.removeprefix("affect."), one_line(_text(value), WIDEST)))
    return rows


def _rank(key: object) -> int:
    return FIRST.index(key) if key in FIRST else len(FIRST)


def _is_state(value: Mapping[str, Any], name: str) -> bool:
    """Whether these are numbers that a reader read: they are shown on one line."""
    return "reading." in name and all(
        isinstance(x, int | float) and not isinstance(x, bool) for x in value.values()
    )


def _is_cues(value: object) -> bool:
    """Whether this is a table of cues of a voice, as its reading has one."""
    return isinstance(value, list) and all(
        isinstance(row, Mapping)
        and isinstance(row.get("name"), str)
        and all(isinstance(row.get(key), int | float | None) for key in ("before", "after"))
        for row in value
    )


def _change(cue: Mapping[str, Any]) -> str:
    """A cue before and after, in its unit."""
    old, new = (cue.get(key) for key in ("before", "after"))
    shown = " to ".join("-" if x is None else f"{x:.2f}" for x in (old, new))
    return one_line(f"{shown} {cue.get('unit', '')}".strip(), WIDEST)


def _text(value: object) -> str:
    """A value for people; of a reading the strongest parts first, what is about 0 left out."""
    if isinstance(value, str):
        return value
    if value is None or value == {}:
        return "-"
    if isinstance(value, Mapping):
        pairs = sorted(value.items(), key=lambda pair: -abs(pair[1]))
        return ", ".join(f"{name} {x:.2f}" for name, x in pairs if abs(x) >= 0.005) or "nothing"
    return json.dumps(value, ensure_ascii=False)
