"""`affect models list|verify|pull`: which weights there are, whether they are whole, getting more.

Listing and verifying load no model and no torch. Only `pull` and a load without `--offline` ever
ask the network, and they take safetensors only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from studio.console import note, one_line, result, result_json, table_console
from studio.run import quiet_libraries

if TYPE_CHECKING:
    from pipelines import Backbone

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object per model.")]


def app() -> typer.Typer:
    """The verb `models`."""
    verb = typer.Typer(add_completion=False, no_args_is_help=True, help="Model weights.")
    verb.command("list")(list_models)
    verb.command("verify")(verify)
    verb.command("pull")(pull)
    return verb


def list_models(as_json: Json = False) -> int:
    """List models: which are on this machine, what they need."""
    from pipelines import BACKBONES
    from pipelines.portrait_polishers import POLISHERS, polisher_here

    given = [(row, "--backbone", is_here(row)) for row in BACKBONES.values()]
    given += [(row, "--polish", polisher_here(row)) for row in POLISHERS.values()]
    rows = [
        {
            "name": row.name,
            "modality": row.modality,
            "option": option,
            "weights": row.weights,
            "here": here,
            "embedded": row.embedded,
            "licence": row.licence,
            "memory_gb": row.memory_gb,
        }
        for row, option, here in given
    ]
    if as_json:
        for data in rows:
            result_json(data)
        return 0
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("name", "for", "here", "memory", "licence", "weights"):
        table.add_column(title, no_wrap=title != "weights", overflow="fold")
    for data in rows:
        table.add_row(
            str(data["name"]),
            f"{data['modality']}{' --polish' if data['option'] == '--polish' else ''}",
            "embedded" if data["embedded"] and data["here"] else "yes" if data["here"] else "no",
            f"{data['memory_gb']:g} GB",
            str(data["licence"]),
            str(data["weights"]),
        )
    table_console().print(table)
    if not all(data["here"] for data in rows):
        note("get weights with: affect models pull NAME (any hub id or folder works as --backbone)")
    return 0


def is_here(row: Backbone) -> bool:
    """Whether a row's weights are on this machine, judged by its index file; asks no network."""
    from pipelines import BACKBONES
    from pipelines.weights import cached, index_of

    if row.base and not is_here(BACKBONES[row.base]):
        return False
    if row.folder is not None:
        from pipelines.music import CONTROLS

        index = CONTROLS if row.modality == "music" else index_of(row)
        return (row.folder / index).is_file()
    return cached(row.weights, row.revision, index_of(row)) is not None


def verify(as_json: Json = False) -> int:
    """Check every embedded file against the manifest."""
    from pipelines.manifest import verify as verify_assets

    problems = list(verify_assets())
    if as_json:
        result_json({"ok": not problems, "problems": problems})
    elif problems:
        for problem in problems:
            result(one_line(problem))
    else:
        result("all embedded files are as the manifest says")
    return 1 if problems else 0


def pull(
    name: Annotated[str, typer.Argument(help="A name of `affect models list`, or a hub id.")],
) -> int:
    """Download a model's safetensors and print their folder, one a line."""
    from pipelines import pull as pull_weights
    from pipelines import resolve
    from pipelines.portrait_polishers import POLISHERS, pull_polisher

    quiet_libraries(offline=False)
    if name in POLISHERS:
        note(f"pulling {name} and its parts (licence {POLISHERS[name].licence})")
        for folder in pull_polisher(name):
            result(str(folder))
        return 0
    row = resolve(name)
    note(f"pulling {row.weights} (licence {row.licence})")
    result(str(pull_weights(name)))
    return 0
