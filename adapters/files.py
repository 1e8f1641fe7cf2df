"""Files that are whole or not there: how everything in `adapters` is written.

A temporary file in the same folder, flushed to the disk, then renamed over the old one; readable by
everybody, which temporary files are not. Knows nothing about what is written. Takes and their
ledger have their own writer (pipelines.ledger), which also sweeps what a killed run left behind.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def told_as_ours(path: Path | str) -> Iterator[None]:
    """What safetensors raises of a full disk, as the OSError of one line that everything expects.

    Raises:
        OSError: naming `path` and why it cannot be written.
    """
    try:
        yield
    except Exception as error:
        if type(error).__name__ != "SafetensorError":  # known without importing the library
            raise
        why = " ".join(str(error).split()).removeprefix("Error while serializing: ")[:120]
        msg = f"{path} cannot be written ({why}); make room, or name another folder"
        raise OSError(msg) from error


def sync_folder(folder: Path) -> None:
    """Make names and renames in a folder durable; not every system lets a folder be opened."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write to; it replaces `path` if nothing was raised.

    Folders on the way are made. An error leaves the old file as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".tmp-", suffix=path.suffix)
    os.close(handle)
    fresh = Path(name)
    try:
        with told_as_ours(path):
            yield fresh
        with fresh.open("rb") as file:
            os.fsync(file.fileno())
        fresh.chmod(0o644)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
