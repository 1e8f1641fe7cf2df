"""The output folder: files that appear whole or not at all, and one ledger line for each.

`takes.jsonl` is the truth about what was made (status done or failed); it is appended to under a
lock between processes and heals a last line that a killed process left cut. Temporary files carry
the host and the process that writes them, so a later start can sweep those of the dead and leave
those of the living. This file deliberately does not know what a take is.

POSIX guarantees the rename; on Windows `os.replace` is atomic on NTFS and the lock is msvcrt's.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
import socket
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from adapters.files import sync_folder

LEDGER = "takes.jsonl"
TEMPORARY = ".tmp-"

MIN_FREE = 32 * 2**20  # bytes: a batch of the largest pictures we make, 2048 x 2048 as PNG
LOCK_SECONDS = 30.0  # a line takes milliseconds; whoever holds the lock longer is stuck
FOREIGN_SECONDS = 86_400.0  # after a day, a temporary file of another host is nobody's
_TAIL = 4 * 2**20  # bytes: longer than any line, since a record in a file ends at 1 MB

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class TakeError(ValueError):
    """A request or a take cannot be read or written: one line that says what to do."""


def prepare_out(out_dir: Path | str) -> Path:
    """Make the output folder and prove that it can be written, before anything is generated.

    Sweeps what killed processes left half-written. Returns the folder.

    Raises:
        TakeError: it is a file, cannot be made or written, or has less than 32 MB free.
    """
    out_dir = Path(out_dir)
    if out_dir.exists() and not out_dir.is_dir():
        msg = f"out: {out_dir} is a file, a folder is needed; give another --out"
        raise TakeError(msg)
    with explained(out_dir):
        out_dir.mkdir(parents=True, exist_ok=True)
        probe = temporary(out_dir / "probe")
        probe.write_bytes(b"")
        probe.unlink()
        with locked(out_dir), (out_dir / LEDGER).open("ab"):
            pass
        free = shutil.disk_usage(out_dir).free
    if free < MIN_FREE:
        need, have = MIN_FREE >> 20, free / 2**20
        msg = f"out: {out_dir} has {have:.0f} MB free, {need} MB are needed; free some space"
        raise TakeError(msg)
    sweep(out_dir)
    return out_dir


def write_atomic(path: Path | str, data: bytes) -> Path:
    """Write a file whole or not at all: an interrupted or failed write leaves the old one.

    Folders on the way are made. Returns the path.

    Raises:
        TakeError: no space, or the folder cannot be written.
    """
    path = Path(path)
    write_together({path: data})
    return path


def write_together(files: Mapping[Path, bytes]) -> list[Path]:
    """Write several files, each whole: all of them, or none that was not there before.

    They appear in the order of `files` once the last one is on the disk, so whoever finds the last
    one finds all. Folders on the way are made. Returns those that are new.

    Raises:
        TakeError: no space, or a folder cannot be written.
    """
    new = [path for path in files if not path.exists()]
    halves: dict[Path, Path] = {}
    try:
        for path, data in files.items():
            with explained(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                halves[path] = temporary(path)
                # not mkstemp: its 0600 would stay and hide the file from other people
                with halves[path].open("xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
        for path, half in halves.items():
            with explained(path):
                half.replace(path)
    except BaseException:
        remove([*halves.values(), *new])
        raise
    for folder in {path.parent for path in files}:
        sync_folder(folder)
    return new


def remove(paths: Iterable[Path]) -> None:
    """Delete files that are there and may be deleted, and say nothing of the others."""
    for path in paths:
        with suppress(OSError):
            path.unlink()


def append(out_dir: Path | str, line: Mapping[str, Any]) -> None:
    """Append one line to the ledger; a last line that was cut by a kill is healed first.

    Raises:
        TakeError: no space (the ledger is then as before), not writable, or locked for 30 s.
    """
    out_dir = Path(out_dir)
    text = json.dumps(line, allow_nan=False, sort_keys=True).encode("ascii") + b"\n"
    path = out_dir / LEDGER
    # unbuffered: a buffer would be flushed again when the file closes, behind the truncation
    with explained(path), locked(out_dir), path.open("a+b", buffering=0) as file:
        end = _heal(file.fileno())
        try:
            rest = memoryview(text)
            while rest:
                rest = rest[os.write(file.fileno(), rest) :]
            os.fsync(file.fileno())
        except BaseException:
            with suppress(OSError):
                os.ftruncate(file.fileno(), end)
            raise


def read(out_dir: Path | str) -> Iterator[dict[str, Any]]:
    """The lines of the ledger, oldest first; none without a ledger. Cut lines are skipped."""
    path = Path(out_dir) / LEDGER
    if not path.exists():
        return
    with path.open("rb") as file:
        for text in file:
            line = _parsed(text)
            if line is not None:
                yield line


def sweep(out_dir: Path) -> int:
    """Delete temporary files whose writer is gone; returns how many."""
    count = 0
    for pattern in (f"{TEMPORARY}*", f"*/*/{TEMPORARY}*"):
        for path in out_dir.glob(pattern):
            with suppress(OSError):
                if _abandoned(path):
                    path.unlink()
                    count += 1
    return count


def temporary(path: Path) -> Path:
    """A name beside `path` for the half-written file; `sweep` knows its writer from the name."""
    return path.with_name(f"{TEMPORARY}{_host()}-{os.getpid()}-{secrets.token_hex(4)}{path.suffix}")


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what the operating system says about `path` into one line that says what to do."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        if error.errno in _NO_SPACE:
            msg = f"out: no space left to write {path}; free some space or give another --out"
        else:
            msg = f"out: cannot write {path} ({reason}); give an --out folder that you may write"
        raise TakeError(msg) from error


@contextmanager
def locked(out_dir: Path) -> Iterator[None]:
    """Hold the folder's lock; it is the kernel's, so a killed holder does not keep it."""
    with (out_dir / ".takes.lock").open("ab") as file:
        until = time.monotonic() + LOCK_SECONDS
        while not _try_lock(file.fileno()):
            if time.monotonic() > until:
                msg = f"out: another process has held {out_dir} for {LOCK_SECONDS:.0f} s; stop it"
                raise TakeError(msg)
            time.sleep(0.01)
        yield  # closing the file releases the lock


def _abandoned(path: Path) -> bool:
    host, _, rest = path.name.removeprefix(TEMPORARY).partition("-")
    pid = rest.partition("-")[0]
    if host == _host() and pid.isdigit() and sys.platform != "win32":
        try:
            os.kill(int(pid), 0)
        except (ProcessLookupError, OverflowError):
            return True
        except PermissionError:
            return False
        return False
    # of another machine on a shared folder (or Windows, where signal 0 is Ctrl-C)
    return time.time() - path.stat().st_mtime > FOREIGN_SECONDS


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9]", "", socket.gethostname())[:24] or "host"


def _heal(file: int) -> int:
    """Cut off or close a last line without newline; returns the length of the ledger after."""
    size = os.fstat(file).st_size
    start = max(0, size - _TAIL)
    os.lseek(file, start, os.SEEK_SET)
    tail = os.read(file, size - start)
    last = tail[tail.rfind(b"\n") + 1 :]
    if not last:
        return size
    if _parsed(last) is None and len(last) < _TAIL:
        size -= len(last)
        os.ftruncate(file, size)
        return size
    os.write(file, b"\n")
    return size + 1


def _parsed(text: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) else None


def _try_lock(file: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK):
            return False
        raise
    return True
