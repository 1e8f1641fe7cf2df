"""`affect library`: takes of a folder, listed, searched, liked, deleted with a way back, copied.

What is typed here is looked up in the folder's index (studio.library_index) and never used as a
path. Results go to stdout, so `affect library search fear | xargs ...` works.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from studio.console import note, one_line, result, result_json, table_console
from studio.library_index import PAGE, Entry, Library, Search
from studio.make import Json, Out

if TYPE_CHECKING:
    from collections.abc import Sequence

Names = Annotated[list[str], typer.Argument(help="Takes: keys, or their first digits, or paths.")]
Words = Annotated[list[str] | None, typer.Argument(help="Words of the prompt or file name.")]
EmotionName = Annotated[
    str, typer.Option("--emotion", "-e", help="Takes that asked for it: fear, or fear .5 at least.")
]
Near = Annotated[
    str, typer.Option("--near", help='Nearest first in valence, arousal, dominance: "v=-.7 a=.3".')
]
Within = Annotated[float | None, typer.Option("--within", min=0, help="With --near: no farther.")]
Modality = Annotated[str, typer.Option("--modality", help="image, music, voice, portrait, ...")]
OfBackbone = Annotated[str, typer.Option("--backbone", "-b", help="Takes of this model.")]
Since = Annotated[str, typer.Option("--since", help="From this day on: 2026-11-20.")]
Until = Annotated[str, typer.Option("--until", help="Up to this day.")]
Favourites = Annotated[bool, typer.Option("--favourites", help="Only favourites.")]
Trashed = Annotated[bool, typer.Option("--trashed", help="What was deleted.")]
Limit = Annotated[int, typer.Option("--n", min=1, max=100_000, help="So many at most.")]
Offset = Annotated[int, typer.Option("--skip", min=0, help="Leave out so many.")]


def app() -> typer.Typer:
    """The verb `library`."""
    verb = typer.Typer(add_completion=False, no_args_is_help=True, help="The takes of a folder.")
    verb.command("list")(search)
    verb.command("search")(search)
    for command in (favourite, delete, undo, export, rebuild):
        verb.command(command.__name__)(command)
    return verb


def search(
    words: Words = None,
    *,
    out: Out = Path("out"),
    emotion: EmotionName = "",
    near: Near = "",
    within: Within = None,
    modality: Modality = "",
    backbone: OfBackbone = "",
    since: Since = "",
    until: Until = "",
    favourites: Favourites = False,
    trashed: Trashed = False,
    n: Limit = PAGE,
    skip: Offset = 0,
    as_json: Json = False,
) -> int:
    """List takes, newest first; whatever is given must hold."""
    asked = search_of(
        words or [], emotion, near, within, modality, backbone, since, until,
        favourites=favourites, trashed=trashed,
    )  # fmt: skip
    library = Library(out)
    entries = library.page(asked, skip, n)
    if as_json:
        for entry in entries:
            result_json({**{k: getattr(entry, k) for k in _JSON}, "path": str(entry.path)})
        return 0
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for title in ("key", "", "day", "for", "emotion", "prompt", "path"):
        table.add_column(title, no_wrap=title != "prompt", overflow="fold")
    for entry in entries:
        star = "*" if entry.favourite else ""
        path = entry.path.relative_to(library.out).as_posix()
        cells = (entry.key[:8], star, entry.day, entry.modality, entry.emotion, entry.prompt, path)
        table.add_row(*(Text(one_line(cell, 80)) for cell in cells))
    table_console().print(table)
    total = library.count(asked)
    if total > len(entries) and near == "":
        note(f"{skip + 1} to {skip + len(entries)} of {total}; --skip {skip + n} shows more")
    return 0


_JSON = (
    "key", "day", "modality", "backbone", "prompt", "emotion", "valence", "arousal", "dominance",
    "seed", "seconds", "favourite", "distance",
)  # fmt: skip


def favourite(
    names: Names,
    *,
    out: Out = Path("out"),
    no: Annotated[bool, typer.Option("--no", help="No longer.")] = False,
) -> int:
    """Mark takes as favourites."""
    library = Library(out)
    for entry in _found(library, names):
        library.favour(entry, favourite=not no)
        result(str(entry.path))
    return 0


def delete(names: Names, *, out: Out = Path("out")) -> int:
    """Move takes to the trash of the folder; `affect library undo` brings them back."""
    from studio.library_files import TRASH
    from studio.library_files import delete as to_trash

    library = Library(out)
    entries = _found(library, names)
    token = to_trash(library, entries)
    for entry in entries:
        result(str(entry.path))
    note(f"in {library.out / TRASH / token}; `affect library undo {token}` brings them back")
    return 0


def undo(
    token: Annotated[str | None, typer.Argument(help="Of an earlier deletion; the last.")] = None,
    *,
    out: Out = Path("out"),
) -> int:
    """Bring back what was deleted."""
    from studio.library_files import undo as from_trash

    for entry in from_trash(Library(out), token):
        result(str(entry.path))
    return 0


def export(
    target: Annotated[Path, typer.Argument(help="A new folder.")],
    names: Annotated[list[str] | None, typer.Argument(help="Takes; else by the options.")] = None,
    *,
    out: Out = Path("out"),
    emotion: EmotionName = "",
    words: Annotated[str, typer.Option("--words", help="Words of the prompt.")] = "",
    near: Near = "",
    within: Within = None,
    modality: Modality = "",
    backbone: OfBackbone = "",
    since: Since = "",
    until: Until = "",
    favourites: Favourites = False,
    n: Limit = 1000,
) -> int:
    """Copy takes, what they were made from and a manifest that makes them again to TARGET.

    `affect batch TARGET/jobs.jsonl` then makes them on any machine.
    """
    from studio.library_files import export as copy_out

    library = Library(out)
    if names:
        entries: Sequence[Entry] = _found(library, names)
    else:
        asked = search_of(
            words.split(), emotion, near, within, modality, backbone, since, until,
            favourites=favourites,
        )  # fmt: skip
        entries = library.page(asked, 0, n)
        if (total := library.count(asked)) > n:
            note(f"the first {n} of {total}; --n takes more")
    manifest, remarks = copy_out(library, entries, target)
    for remark in remarks:
        note(remark)
    note(f"{len(entries)} takes; `affect batch {manifest}` makes them again")
    result(str(manifest))
    return 0


def rebuild(*, out: Out = Path("out")) -> int:
    """Make the index again from the ledger."""
    library = Library(out)
    note(f"{library.rebuild()} takes in {library.out}")
    return 0


def search_of(
    words: Sequence[str],
    emotion: str = "",
    near: str = "",
    within: float | None = None,
    modality: str = "",
    backbone: str = "",
    since: str = "",
    until: str = "",
    *,
    favourites: bool = False,
    trashed: bool = False,
) -> Search:
    """A search from what a person typed; raises ValueError in one line."""
    from adapters.emotion import EmotionTimeline

    name, _, least = emotion.strip().partition(" ")
    if least:
        try:
            lowest = float(least)
        except ValueError as error:
            msg = f"emotion: a name and a least intensity, as fear .5, received {emotion[:40]!r}"
            raise ValueError(msg) from error
    else:
        lowest = 0.0
    point = None
    if near:
        valence, arousal, dominance = EmotionTimeline.parse(near, over=True).peak.vad
        point = (float(valence), float(arousal), float(dominance))
    elif within is not None:
        msg = 'within: is a distance from --near; give that too, as --near "v=-.7 a=.3"'
        raise ValueError(msg)
    return Search(
        name, lowest, " ".join(words), point, within, modality, backbone, since, until,
        favourites, trashed,
    )  # fmt: skip


def _found(library: Library, names: Sequence[str]) -> list[Entry]:
    """All takes that are named, each once; one that is not found and nothing is done."""
    found = {entry.path: entry for entry in (library.find(name) for name in names)}
    return list(found.values())
