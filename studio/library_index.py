"""The takes of a folder, found fast: an index beside the ledger that can be thrown away.

`takes.jsonl` is the truth. This sqlite file knows what a gallery sorts and searches by, and where
each ledger line begins; it reads on from where it stopped, and starts again when the ledger is no
longer the one it read. Deletions, favourites and restorations are ledger lines too, so a rebuilt
index knows them. sqlite's own lock keeps processes apart. Nothing outside the folder is ever
named: a line whose path leaves it (a ledger may be a stranger's) is left out.

This file deliberately knows no pixels and moves no files (studio.library_files does).
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from pipelines import ledger
from pipelines.ledger import TakeError
from pipelines.request import MODALITIES

if TYPE_CHECKING:
    from adapters.emotion import Emotion

INDEX = ".library.sqlite"
VERSION = 2  # of what is taken in; an index of another one is rebuilt
PAGE = 50  # takes of a page
BUSY_SECONDS = 30.0
HEAD = 4096  # bytes of the ledger that tell whether it is the one that was read
VAD = ("valence", "arousal", "dominance")
DELETED, RESTORED, FAVOURITE = "deleted", "restored", "favourite"
"""Words for `status` in the ledger besides done and failed."""
TOKEN = re.compile(r"[0-9a-f]{8}")
"""Of a deletion: it names a folder, so a stranger's ledger must not choose another form."""

_NONSENSE = (
    ValueError, RecursionError, TypeError, KeyError, AttributeError, OverflowError,
    sqlite3.InterfaceError, sqlite3.ProgrammingError,
)  # fmt: skip
"""What a line that makes no sense raises."""
_TABLES = """
create table takes(
  id integer primary key, key text, path text unique, day text, modality text, backbone text,
  prompt text, emotion text, dominant text, valence real, arousal real, dominance real,
  seed integer, seconds real, favourite integer default 0, trash text default '',
  words text, at integer, size integer);
create index by_key on takes(key);
create table felt(take integer, name text, intensity real);
create index by_name on felt(name, intensity);
create index by_take on felt(take);
create table state(name text primary key, value);
"""
_COLUMNS = (
    "id", "key", "path", "day", "modality", "backbone", "prompt", "emotion", "dominant",
    "valence", "arousal", "dominance", "seed", "seconds", "favourite",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Entry:
    """One take as a gallery shows it; path is absolute. All texts may be a stranger's."""

    id: int
    key: str
    path: Path
    day: str
    modality: str
    backbone: str
    prompt: str
    emotion: str
    dominant: str
    valence: float
    arousal: float
    dominance: float
    seed: int
    seconds: float | None
    favourite: bool
    distance: float | None = None


@dataclass(frozen=True, slots=True)
class Search:
    """What to look for; what is not given is not asked. All that is given must hold.

    emotion: takes that asked for this one, at least `least`; words: all of them in prompt, emotion
    or file name; near: a point (valence, arousal, dominance), nearest first, at most `within` away;
    since, until: days as 2026-11-20, both included; trashed: what was deleted instead of the rest.
    """

    emotion: str = ""
    least: float = 0.0
    words: str = ""
    near: tuple[float, float, float] | None = None
    within: float | None = None
    modality: str = ""
    backbone: str = ""
    since: str = ""
    until: str = ""
    favourites: bool = False
    trashed: bool = False

    def __post_init__(self) -> None:
        """Check what is asked for; raises TakeError in one line."""
        if self.modality and self.modality not in MODALITIES:
            msg = f"modality: one of {', '.join(MODALITIES)}, received {self.modality[:40]!r}"
            raise TakeError(msg)
        for name, text in (("since", self.since), ("until", self.until)):
            if text:
                try:
                    date.fromisoformat(text)
                except ValueError as error:
                    msg = f"{name}: a day as 2026-11-20, received {text[:20]!r}; correct it"
                    raise TakeError(msg) from error


class Library:
    """The takes of one folder. Open it as often as you like; every method reads what is new first.

    Raises TakeError when the folder is none or cannot be written.
    """

    def __init__(self, out: Path | str) -> None:
        self.out = Path(out).absolute()
        if not self.out.is_dir():
            msg = f"library: {out} is no folder; give the --out folder of earlier takes"
            raise TakeError(msg)
        self.file = self.out / INDEX

    # Reading -----------------------------------------------------------------------------------

    def page(self, search: Search | None = None, offset: int = 0, limit: int = PAGE) -> list[Entry]:
        """Takes that fit, newest first; nearest first where a point is given."""
        asked = search or Search()
        where, values = _conditions(asked)
        far = "null"
        order = "id desc"
        if asked.near is not None:
            far = " + ".join(f"({name} - ?) * ({name} - ?)" for name in VAD)
            point = [x for x in asked.near for _ in range(2)]
            values = [*point, *values]
            order = "far, id desc"
            if asked.within is not None:
                where += f" and {far} <= ?"
                values += [*point, asked.within**2]
        query = f"select {', '.join(_COLUMNS)}, {far} as far from takes where {where} "  # noqa: S608 - names are ours, values are bound
        with self.open() as index:
            found = index.execute(
                f"{query} order by {order} limit ? offset ?", (*values, limit, offset)
            )
            return [self._entry(row) for row in found]

    def count(self, search: Search | None = None) -> int:
        """How many takes fit, without `near`."""
        where, values = _conditions(search or Search())
        with self.open() as index:
            query = f"select count(*) from takes where {where}"  # noqa: S608 - as above
            (number,) = index.execute(query, values).fetchone()
            return int(number)

    def find(self, name: str, *, trashed: bool = False) -> Entry:
        """The take of a key, of its first 6 to 63 digits, or of a path in this folder.

        Raises TakeError in one line: none, or several.
        """
        with self.open() as index:
            kept = "!=" if trashed else "="
            columns = ", ".join(_COLUMNS)
            select = f"select {columns}, null from takes where trash {kept} '' and "  # noqa: S608
            if re.fullmatch(r"[0-9a-f]{6,64}", name):
                rows = index.execute(
                    f"{select} key >= ? and key < ? order by id desc", (name, name + "g")
                ).fetchall()
                if len({row[1] for row in rows}) > 1:
                    msg = (
                        f"library: {len(rows)} takes begin with {name}; give more digits of the key"
                    )
                    raise TakeError(msg)
            else:
                place = Path(name).absolute()
                inside = place.is_relative_to(self.out)
                relative = place.relative_to(self.out).as_posix() if inside else name
                rows = index.execute(f"{select} path = ?", (relative,)).fetchall()
        if not rows:
            folder = self.out.name  # its last part alone: pages and programs read this too
            msg = f"library: no take {name[:80]!r} in {folder}; `affect library list` shows them"
            raise TakeError(msg)
        return self._entry(rows[0])

    def line(self, entry: Entry) -> dict[str, Any]:
        """All that the ledger says of a take: request, reading, companions."""
        with self.open() as index:
            (at,) = index.execute("select at from takes where id = ?", (entry.id,)).fetchone()
        with (self.out / ledger.LEDGER).open("rb") as file:
            file.seek(at)
            found: dict[str, Any] = json.loads(file.readline())
            return found

    def _entry(self, row: Sequence[Any]) -> Entry:
        *known, favourite, far = row
        values = dict(zip(_COLUMNS, known, strict=False))
        values["path"] = self.out / str(values["path"])
        distance = None if far is None else float(far) ** 0.5
        return Entry(**values, favourite=bool(favourite), distance=distance)

    # Changing ----------------------------------------------------------------------------------

    def note(self, index: sqlite3.Connection, status: str, entry: Entry, **more: Any) -> None:
        """Append a ledger line about a take and take it into the open index."""
        path = entry.path.relative_to(self.out).as_posix()
        ledger.append(self.out, {"status": status, "key": entry.key, "path": path, **more})
        self._read_on(index)

    def favour(self, entry: Entry, *, favourite: bool = True) -> None:
        """Mark a take as a favourite, or no longer."""
        with self.open(change=True) as index:
            self.note(index, FAVOURITE, entry, value=favourite)

    def rebuild(self) -> int:
        """Throw the index away and read the whole ledger; returns how many takes there are."""
        with self.open(change=True) as index:
            _empty(index)
            self._read_on(index)
            (number,) = index.execute("select count(*) from takes where trash = ''").fetchone()
            return int(number)

    # The index ---------------------------------------------------------------------------------

    @contextmanager
    def open(self, *, change: bool = False) -> Iterator[sqlite3.Connection]:
        """The index, up to date; with `change` no other process changes it meanwhile."""
        try:
            index = self._connected()
        except sqlite3.OperationalError as error:
            raise TakeError(self._unusable(error)) from error
        except sqlite3.DatabaseError:
            ledger.remove([self.file])  # damaged: nothing is in it that the ledger has not
            index = self._connected()
        with closing(index):
            try:
                if change or self._is_behind(index):
                    index.execute("begin immediate")
                    self._read_on(index)
                yield index
                if index.in_transaction:
                    index.execute("commit")
            except sqlite3.DatabaseError as error:
                raise TakeError(self._unusable(error)) from error

    def _unusable(self, error: Exception) -> str:
        if "locked" in str(error):
            held = f"another process has held {self.out} for {BUSY_SECONDS:.0f} s"
            return f"library: {held}; stop it"
        return f"library: {self.file} cannot be used ({error}); free space, or delete that file"

    def _connected(self) -> sqlite3.Connection:
        # Transactions are begun by hand: python's own begin too late to keep readers consistent.
        index = sqlite3.connect(self.file, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            (version,) = index.execute("pragma user_version").fetchone()
            if version != VERSION:
                index.execute("begin immediate")
                (version,) = index.execute("pragma user_version").fetchone()
                if version != VERSION:  # or another process has just made it
                    _empty(index)
                index.execute("commit")
            index.execute("select count(*) from state").fetchone()
        except BaseException:
            index.close()
            raise
        return index

    def _is_behind(self, index: sqlite3.Connection) -> bool:
        at, head = _state(index)
        path = self.out / ledger.LEDGER
        size = path.stat().st_size if path.exists() else 0
        return size != at or _head(path, at) != head

    def _read_on(self, index: sqlite3.Connection) -> None:
        """Take in the ledger lines that are new; all of them when it is another ledger."""
        path = self.out / ledger.LEDGER
        at, head = _state(index)
        if not path.exists() or at > path.stat().st_size or _head(path, at) != head:
            _empty(index)
            at = 0
        if not path.exists():
            return
        with path.open("rb") as file:
            file.seek(at)
            for text in file:
                if not text.endswith(b"\n"):
                    break  # somebody is writing it, or was killed: next time
                with suppress(*_NONSENSE):
                    _take_in(index, json.loads(text), at)
                at += len(text)
        state = (("at", at), ("head", _head(path, at)))
        index.executemany("insert or replace into state values(?, ?)", state)


def _empty(index: sqlite3.Connection) -> None:
    for table in ("takes", "felt", "state"):
        index.execute(f"drop table if exists {table}")
    for statement in _TABLES.split(";"):
        if statement.strip():
            index.execute(statement)
    index.execute(f"pragma user_version = {VERSION}")


def _state(index: sqlite3.Connection) -> tuple[int, str]:
    found = dict(index.execute("select name, value from state").fetchall())
    return int(found.get("at", 0)), str(found.get("head", ""))


def _head(path: Path, at: int) -> str:
    """A digest of the first bytes that were read: another ledger under the same name differs."""
    if not at or not path.exists():
        return ""
    with path.open("rb") as file:
        return hashlib.sha256(file.read(min(at, HEAD))).hexdigest()


def _take_in(index: sqlite3.Connection, line: Mapping[str, Any], at: int) -> None:
    """One ledger line; one that makes no sense changes nothing."""
    status, path = line.get("status"), _inside(line.get("path"))
    if path is None:
        return
    if status == FAVOURITE:
        index.execute("update takes set favourite = ? where path = ?", (bool(line["value"]), path))
    elif status == DELETED:
        if TOKEN.fullmatch(token := line["trash"]):
            index.execute("update takes set trash = ? where path = ?", (token, path))
    elif status == RESTORED:
        index.execute("update takes set trash = '' where path = ?", (path,))
    elif status == "done":
        _add(index, line, path, at)


def _add(index: sqlite3.Connection, line: Mapping[str, Any], path: str, at: int) -> None:
    request = line["request"]
    emotion, prompt = str(request["emotion"]), str(request["prompt"])
    dominant, (valence, arousal, dominance), parts = felt(emotion)
    row = (
        str(line["key"]), path, _day(path), str(request["modality"]), str(request["backbone"]),
        prompt, emotion, dominant, valence, arousal, dominance, int(request["seed"]),
        float(line.get("seconds") or 0) or None, f"{prompt} {emotion} {path}".lower(), at,
    )  # fmt: skip
    # A take that is made again is new, and whoever liked it still does.
    (liked,) = index.execute("select max(favourite) from takes where path = ?", (path,)).fetchone()
    old = "select id from takes where path = ?"
    index.execute(f"delete from felt where take in ({old})", (path,))  # noqa: S608
    index.execute("delete from takes where path = ?", (path,))
    made = index.execute(
        "insert into takes(key, path, day, modality, backbone, prompt, emotion, dominant, valence, "
        "arousal, dominance, seed, seconds, words, at, favourite) "
        "values(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
        (*row, liked or 0),
    )
    index.executemany(
        "insert into felt values(?, ?, ?)", [(made.lastrowid, name, x) for name, x in parts]
    )


@functools.lru_cache(maxsize=4096)
def felt(text: str) -> tuple[str, tuple[float, float, float], tuple[tuple[str, float], ...]]:
    """Of an emotion's text: strongest name, its valence, arousal and dominance, its parts.

    Of one that changes its strongest moment; of one that cannot be read, neutral.
    """
    from adapters.emotion import CORE, EmotionError, EmotionTimeline

    try:
        state: Emotion = EmotionTimeline.parse(text, over=True).peak
    except EmotionError:
        return "neutral", (0.0, 0.0, 0.0), ()
    parts = [(name, float(x)) for name, x in zip(CORE, state.intensities, strict=True) if x > 0]
    valence, arousal, dominance = (float(x) for x in state.vad)
    return str(state.dominant), (valence, arousal, dominance), tuple(parts)


def _inside(path: object) -> str | None:
    """A ledger path that stays in the folder and is none of our own hidden files, else None."""
    if not isinstance(path, str) or not path or "\0" in path or "\\" in path:
        return None
    parts = PurePosixPath(path).parts
    if PurePosixPath(path).is_absolute() or any(part.startswith(".") for part in parts):
        return None
    return path


def _day(path: str) -> str:
    first = path.split("/")[0]
    return first if re.fullmatch(r"\d{4}-\d\d-\d\d", first) else ""


def _conditions(asked: Search) -> tuple[str, list[Any]]:
    """SQL and its values; everything a person wrote is bound, never pasted."""
    parts = ["trash != ''" if asked.trashed else "trash = ''"]
    values: list[Any] = []
    for column, value in (("modality", asked.modality), ("backbone", asked.backbone)):
        if value:
            parts.append(f"{column} = ?")
            values.append(value)
    for sign, value in ((">=", asked.since), ("<=", asked.until)):
        if value:
            parts.append(f"day {sign} ?")
            values.append(value)
    if asked.favourites:
        parts.append("favourite")
    if asked.emotion:
        from adapters.emotion import Emotion

        names = [name for name, _ in felt(Emotion.of(asked.emotion, 1.0).text)[2]]
        if not names:
            parts.append("dominant = 'neutral'")
        for name in names:
            parts.append("id in (select take from felt where name = ? and intensity >= ?)")
            values += [name, asked.least]
    for word in asked.words.lower().split()[:20]:
        parts.append("instr(words, ?)")
        values.append(word)
    return " and ".join(parts), values
