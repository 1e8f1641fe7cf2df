"""Which jobs are still to be made when a batch was stopped, or another process is at it as well.

`Done` knows what the ledger calls done, and reads on from where it stopped. `Source` hands out
chunks: under the folder's lock it leaves out what another process finished meanwhile and what one
that is alive has claimed, so two batches in one folder share the work and neither does it twice. A
claim is a temporary file of its process; those of the dead are swept like any other. On a folder
that machines share, claims of another machine hold for a day; --shard divides without them.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines import ledger
from pipelines.request import FORMAT, canonical_key
from studio.batch_run import Numbered, asked_key

if TYPE_CHECKING:
    from pipelines.request import Request

CLAIMS = ".claims"


class Done:
    """Finished takes by the key that was asked for: what the ledger says, read as it grows.

    best_of: seeds that are tried for each job, from its own on; a take chosen among as many, with a
    seed that is one of them, is then the job's.
    """

    def __init__(self, out: Path, *, from_now: bool = False, best_of: int | None = None) -> None:
        self.out, self.best_of = out, best_of
        self.found: dict[str, dict[str, Any]] = {}
        self.chosen: dict[str, list[tuple[int, dict[str, Any]]]] = {}
        self._at = 0
        if from_now:
            with suppress(OSError):
                self._at = (out / ledger.LEDGER).stat().st_size

    def update(self) -> None:
        """Read the lines that are new; one that is not whole yet is left for the next time."""
        path = self.out / ledger.LEDGER
        if not path.exists():
            return
        with path.open("rb") as file:
            if self._at > file.seek(0, 2):  # healed: a cut line is gone
                self._at = 0
            file.seek(self._at)
            for text in file:
                if not text.endswith(b"\n"):
                    break
                at, self._at = self._at, self._at + len(text)
                with suppress(ValueError, RecursionError, KeyError, TypeError, AttributeError):
                    line = json.loads(text)
                    if line.get("status") == "done":
                        entry = {"path": line["path"], "sha256": line["sha256"], "at": at}
                        self._keep(line, entry)

    def _keep(self, line: Mapping[str, Any], entry: dict[str, Any]) -> None:
        if self.best_of is None:
            self.found[key_of(line["request"])] = entry
        elif (line.get("chosen") or {}).get("of") == self.best_of:
            key = key_of({**line["request"], "seed": 0})
            self.chosen.setdefault(key, []).append((line["request"]["seed"], entry))

    def find(self, request: Request) -> dict[str, Any] | None:
        """The entry of a request that is done, None without one."""
        if self.best_of is None:
            return self.found.get(asked_key(request))
        tried = range(request.seed, request.seed + self.best_of)
        entries = self.chosen.get(asked_key(request.changed(seed=0)), ())
        return next((entry for seed, entry in reversed(entries) if seed in tried), None)

    def whole(self, request: Request) -> dict[str, Any] | None:
        """The ledger's line on a request whose file is there, with the bytes it was made with."""
        entry = self.find(request)
        if entry is None:
            return None
        try:
            with (self.out / entry["path"]).open("rb") as file:
                same = hashlib.file_digest(file, "sha256").hexdigest() == entry["sha256"]
        except (OSError, ValueError, TypeError):
            return None
        return self.line(entry) if same else None

    def line(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """The ledger's whole line of an entry of `find`, with the path from this folder."""
        with (self.out / ledger.LEDGER).open("rb") as file:
            file.seek(entry["at"])
            line: dict[str, Any] = json.loads(file.readline())
        line["path"] = (self.out / str(line["path"])).as_posix()
        return line


def key_of(record: Mapping[str, Any]) -> str:
    """The key that was asked for, of a request in the ledger: its weights count as unknown.

    Without building the request: a ledger may have 50,000.
    """
    inputs = {name: entry["sha256"] for name, entry in record["inputs"].items()}
    return canonical_key({**record, "format": FORMAT, "inputs": inputs, "weights": ""})


class Source:
    """Hands out chunks that nobody else has or is at; also those that came back from the dead."""

    def __init__(
        self, chunks: Sequence[Sequence[Numbered]], out: Path, best_of: int | None = None
    ) -> None:
        self.out = out
        self.elsewhere: dict[int, dict[str, Any]] = {}
        """Numbers of jobs that another process finished meanwhile, and the ledger's lines."""
        self.held: deque[list[Numbered]] = deque()
        """Jobs that a living process has claimed, still by chunk: each is of one group."""
        self._todo = deque(chunks)
        self._done = Done(out, from_now=True, best_of=best_of)
        self._file = ledger.temporary(out / f"batch{CLAIMS}")
        self._mine: set[str] = set()

    def take(self) -> list[Numbered]:
        """The next chunk, claimed for this process; empty when there is none."""
        while self._todo:
            free = self._claim(self._todo.popleft())
            if free:
                return free
        # Perhaps whoever had these has finished them, or has died.
        for _ in range(len(self.held)):
            if free := self._claim(self.held.popleft()):
                return free
        return []

    def back(self, chunk: Sequence[Numbered]) -> None:
        """Put a chunk of this process back to the front."""
        self._todo.appendleft(chunk)

    def close(self) -> None:
        """Give the claims up."""
        ledger.remove([self._file])

    def _claim(self, chunk: Sequence[Numbered]) -> list[Numbered]:
        with ledger.locked(self.out):
            self._done.update()
            others = self._claimed()
            free: list[Numbered] = []
            held: list[Numbered] = []
            for number, request in chunk:
                key = asked_key(request)
                if key in self._mine:
                    free.append((number, request))
                elif (entry := self._done.find(request)) is not None:
                    self.elsewhere[number] = self._done.line(entry)
                elif key in others:
                    held.append((number, request))
                else:
                    free.append((number, request))
            if held:
                self.held.append(held)
            with self._file.open("a", encoding="ascii") as file:
                for _, request in free:
                    key = asked_key(request)
                    if key not in self._mine:
                        file.write(key + "\n")
                        self._mine.add(key)
        return free

    def _claimed(self) -> set[str]:
        """Keys that other living processes are at."""
        pattern = f"{ledger.TEMPORARY}*{CLAIMS}"
        if not any(path != self._file for path in self.out.glob(pattern)):
            return set()
        ledger.sweep(self.out)
        found: set[str] = set()
        for path in self.out.glob(pattern):
            if path != self._file:
                with suppress(OSError):
                    found.update(path.read_text(encoding="ascii").split())
        return found
