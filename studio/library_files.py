"""What a gallery does with the files of takes: small pictures, a trash with a way back, copies.

A deleted take lies under `.trash` in its folder until somebody deletes that; the ledger says where,
so that the way back needs no index. The ledger line comes first, then the files move: a kill in
between leaves files that `undo` finds in either place. A copy is a folder of its own: takes, the
files they were made from, a ledger, and `jobs.jsonl`, with which `affect batch` makes them again.

It deliberately does not know how takes are found (studio.library_index).
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from pipelines import ledger
from pipelines.ledger import TakeError, write_atomic
from studio.library_index import DELETED, RESTORED, TOKEN, Entry, Library

if TYPE_CHECKING:
    from PIL.Image import Image

TRASH, THUMBNAILS = ".trash", ".thumbnails"
SIDE = 256  # pixels of a small picture's long side
JOBS = "jobs.jsonl"


# Small pictures ----------------------------------------------------------------------------------


def thumbnail(library: Library, entry: Entry) -> Path | None:
    """A small WEBP picture of a take, drawn once; None when there is nothing to show.

    Of music and voices the picture beside them. Named by the take's bytes, so a changed file gets
    another; marked as the take is.
    """
    from pipelines.media import MediaError, encode_image, read_metadata

    line = library.line(entry)
    path = library.out / THUMBNAILS / str(line["sha256"])[:2] / f"{str(line['sha256'])[:32]}.webp"
    if path.is_file():
        return path
    shown = _shown(library, entry, line)
    if shown is None:
        return None
    try:
        picture = _picture(shown)
        source = read_metadata(shown).get("digital_source", "")
    except MediaError:
        return None
    picture.thumbnail((SIDE, SIDE))
    return write_atomic(path, encode_image(picture, "webp", {"digital_source": source}))


def _shown(library: Library, entry: Entry, line: dict[str, Any]) -> Path | None:
    """The file of a take that can be looked at."""
    for path in (entry.path, *_beside(library, line)):
        if path.suffix in (".png", ".jpg", ".webp", ".mp4") and safe(library.out, path):
            return path
    return None


def _picture(path: Path) -> Image:
    from pipelines.media import load_image

    if path.suffix != ".mp4":
        return load_image(path)
    from pipelines.media_video import preview

    return preview(path, 0.5, SIDE)


def safe(out: Path, path: Path) -> bool:
    """Whether this is a file within the folder, whatever links say."""
    with suppress(OSError, RuntimeError):
        return path.is_file() and path.resolve().is_relative_to(out.resolve())
    return False


def _beside(library: Library, line: dict[str, Any]) -> list[Path]:
    """A take's companions; those that would leave its folder are left out."""
    folder = (library.out / str(line["path"])).parent
    found = []
    for name in line.get("companions") or []:
        path = library.out / PurePosixPath(str(name))
        if ".." not in path.parts and path.parent == folder:
            found.append(path)
    return found


def files_of(library: Library, entry: Entry) -> list[Path]:
    """The take and its companions, those that are there."""
    paths = [entry.path, *_beside(library, library.line(entry))]
    return [path for path in paths if safe(library.out, path)]


# Trash -------------------------------------------------------------------------------------------


def delete(library: Library, entries: Sequence[Entry]) -> str:
    """Move takes with their companions into the trash; returns the token that brings them back.

    Raises TakeError when somebody else has deleted all of them meanwhile; only the rest is moved.
    """
    token = secrets.token_hex(4)
    folder = _trash(library, token)
    files_by_entry = [(entry, files_of(library, entry)) for entry in entries]
    gone = 0
    with library.open(change=True) as index:
        for entry, files in files_by_entry:
            path = entry.path.relative_to(library.out).as_posix()
            kept = index.execute("select 1 from takes where path = ? and trash = ''", (path,))
            if kept.fetchone() is None:  # under another token, which brings it back
                gone += 1
                continue
            library.note(index, DELETED, entry, trash=token)
            for file in files:
                _move(file, folder / file.relative_to(library.out))
    if entries and gone == len(entries):
        msg = f"library: {entries[0].path.name} is deleted already; undo brings it back"
        raise TakeError(msg)
    return token


def undo(library: Library, token: str | None = None) -> list[Entry]:
    """Bring back what was deleted under a token; the last one with files when none is given.

    Raises TakeError when there is nothing, another file has taken a place meanwhile, or, once the
    others are back, when the files of some takes are gone: those stay in the trash.
    """
    token = _last(library) if token is None else token
    rows = _deleted(library, token) if TOKEN.fullmatch(token) else []
    if not rows:
        msg = "library: nothing to bring back; `affect library list --trashed` shows the trash"
        raise TakeError(msg)
    entries = [library.find(str(library.out / path), trashed=True) for path in rows]
    folder = _trash(library, token)
    moves = {path: library.out / path.relative_to(folder) for path in _within(folder)}
    home = library.out.resolve()
    for place in moves.values():
        if os.path.lexists(place):
            msg = f"library: {place} is there again; move it away, then undo"
            raise TakeError(msg)
        if not place.parent.resolve().is_relative_to(home):
            msg = f"library: a link leads from {place.parent} out of the folder; remove it"
            raise TakeError(msg)
    gone = []
    with library.open(change=True) as index:
        for path, place in moves.items():
            _move(path, place)
        for entry in entries:
            if safe(library.out, entry.path):
                library.note(index, RESTORED, entry, trash=token)
            else:
                gone.append(entry)
    _clear(folder)
    if gone:
        msg = (
            f"library: {len(entries) - len(gone)} of {len(entries)} takes are back; "
            f"{gone[0].path.name} is not in {folder}, so it stays in the trash"
        )
        raise TakeError(msg)
    return entries


def _last(library: Library) -> str:
    """The token of the last deletion of which there are files; empty without one."""
    tokens = [
        line["trash"]
        for line in ledger.read(library.out)
        if line.get("status") == DELETED and isinstance(line.get("trash"), str)
    ]
    for token in dict.fromkeys(reversed(tokens)):
        rows = _deleted(library, token) if TOKEN.fullmatch(token) else []
        folder = library.out / TRASH / token
        if rows and (folder.is_dir() or any(safe(library.out, library.out / p) for p in rows)):
            return str(token)
    return ""


def _deleted(library: Library, token: str) -> list[str]:
    """Paths of the takes that were deleted under a token."""
    with library.open() as index:
        rows = index.execute("select path from takes where trash = ? order by id", (token,))
        return [str(path) for (path,) in rows]


def _trash(library: Library, token: str) -> Path:
    """The folder of a deletion; raises TakeError when a link leads elsewhere."""
    folder = library.out / TRASH / token
    if folder.resolve() != library.out.resolve() / TRASH / token:
        msg = f"library: {library.out / TRASH} leads out of the folder by a link; remove that link"
        raise TakeError(msg)
    return folder


def _within(folder: Path) -> list[Path]:
    """All files below a folder; links are neither followed nor among them."""
    found = [Path(at) / name for at, _, names in os.walk(folder) for name in names]
    return sorted(path for path in found if path.is_file() and not path.is_symlink())


def _clear(folder: Path) -> None:
    """Remove what is empty below a folder and itself; what was not brought back stays."""
    for at, _, _ in os.walk(folder, topdown=False):
        with suppress(OSError):
            Path(at).rmdir()


def _move(path: Path, place: Path) -> None:
    """Rename within the folder; what another process has moved already is no error."""
    with ledger.explained(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            path.replace(place)


# Copies ------------------------------------------------------------------------------------------


def export(library: Library, entries: Iterable[Entry], target: Path) -> tuple[Path, list[str]]:
    """Copy takes into a folder of their own with a manifest that makes them again.

    Inputs that are still as they were are copied to `inputs/`, named by their bytes.

    Returns:
        The manifest, and a line for each input that is gone or changed.

    Raises:
        TakeError: the target is this library, or holds takes already, or cannot be written.
    """
    target = target.absolute()
    if target == library.out or (target / ledger.LEDGER).exists():
        msg = f"export: {target} holds takes already; give a new folder"
        raise TakeError(msg)
    lines, remarks = [], []
    for entry in entries:
        line = library.line(entry)
        files = files_of(library, entry)
        if entry.path not in files:
            remarks.append(f"{entry.path}: gone, it is left out")
            continue
        for path in files:
            copy_whole(path, target / path.relative_to(library.out))
        ledger.append(target, line)
        lines.append(_job(line["request"], entry, target, remarks))
    if not lines:
        msg = "export: none of these takes is there; nothing was copied"
        raise TakeError(msg)
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    return write_atomic(target / JOBS, text.encode("utf-8")), remarks


def _job(request: dict[str, Any], entry: Entry, target: Path, remarks: list[str]) -> dict[str, Any]:
    """The manifest line of a take: its request without weights, inputs as copied."""
    job = {name: value for name, value in request.items() if name not in ("weights", "inputs")}
    inputs = {}
    for name, given in request.get("inputs", {}).items():
        source, digest = Path(str(given["path"])).expanduser(), str(given["sha256"])
        place = target / "inputs" / f"{digest[:12]}{source.suffix.lower()[:8]}"
        if _is_still(source, digest):
            copy_whole(source, place)
            inputs[name] = {"path": place.relative_to(target).as_posix(), "sha256": digest}
        else:
            remarks.append(f"{entry.path.name}: its {name} {source} is gone or changed")
            inputs[name] = given
    job["id"] = entry.path.stem
    return {**job, "inputs": inputs} if inputs else job


def _is_still(path: Path, digest: str) -> bool:
    with suppress(OSError, ValueError):
        if path.is_file():
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == digest
    return False


def copy_whole(path: Path, place: Path) -> None:
    """Copy a file whole or not at all; hard links would let a change of one change the other."""
    with ledger.explained(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        half = ledger.temporary(place)
        try:
            shutil.copyfile(path, half)
            half.replace(place)
        except BaseException:
            ledger.remove([half])
            raise
