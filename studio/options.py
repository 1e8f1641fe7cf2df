"""One command-line option per field of a params dataclass, so that a knob is described once.

A field's metadata (`help`, `min`, `max`, `step`, `advanced`) becomes the option's help, range and
help panel. Options that were not given stay away: the dataclass keeps its own defaults. This file
does not know any modality; it reads whatever frozen dataclass it is handed.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import Any, Union, get_args, get_origin, get_type_hints

import typer

RANGE = ("min", "max")


def with_params(verb: Callable[..., Any], *params: type, panels: Sequence[str] = ()) -> Any:
    """Wrap `verb(**options, params: dict)` so that typer sees one option per field of `params`.

    Several dataclasses give one option for each name; the first that has it describes it. A field
    named like one of the verb's own options is left to the verb. Flags come as `--name/--no-name`.
    The verb receives only what was given, as {field: value}.

    panels: titles of the help panels, one a dataclass; "Options" where none is given.
    """
    own = inspect.signature(verb, eval_str=True)
    taken = {name for name in own.parameters if name != "params"}
    titles = [*panels, *["Options"] * (len(params) - len(panels))]
    fields: dict[str, tuple[dataclasses.Field[Any], Any, str]] = {}
    for kind, title in zip(params, titles, strict=True):
        hints = get_type_hints(kind)
        for field in dataclasses.fields(kind):
            if field.name not in taken:
                fields.setdefault(field.name, (field, _plain(hints[field.name]), title))
    signature = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for name, parameter in own.parameters.items()
        if name != "params"
    ]
    for name, (field, kind, title) in fields.items():
        signature.append(
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=_option(field, kind, title),
                annotation=kind | None,
            )
        )

    def command(**given: Any) -> Any:
        chosen = {name: given.pop(name) for name in fields}
        kept = {name: value for name, value in chosen.items() if value is not None}
        return verb(**given, params=kept)

    command.__name__ = verb.__name__
    command.__doc__ = verb.__doc__
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in signature}
    command.__signature__ = inspect.Signature(signature)  # type: ignore[attr-defined]
    return command


def _plain(annotation: Any) -> Any:
    """The bare type of a field: `int | None` gives int."""
    if get_origin(annotation) is Union or type(annotation).__name__ == "UnionType":
        return next(kind for kind in get_args(annotation) if kind is not type(None))
    return annotation


def _option(field: dataclasses.Field[Any], kind: Any, title: str) -> Any:
    """A typer option that defaults to "not given" and names the dataclass's own default."""
    dashed = field.name.replace("_", "-")
    flags = f"--{dashed}/--no-{dashed}" if kind is bool else f"--{dashed}"
    low, high = (field.metadata.get(end) if kind in (int, float) else None for end in RANGE)
    about = ""
    if field.default not in (None, ""):
        shown = ("on" if field.default else "off") if kind is bool else f"{field.default}"
        about = f" (default {shown})"
    return typer.Option(
        None,
        flags,
        help=f"{field.metadata.get('help', '')}{about}",
        min=low,
        max=high,
        metavar={int: "N", float: "X"}.get(kind),
        show_default=False,
        rich_help_panel=f"{title}, advanced" if field.metadata.get("advanced") else title,
    )
