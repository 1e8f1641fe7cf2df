"""Files that are whole or not there: how everything in `adapters` is written.

A temporary file in the same folder, flushed to the disk, then renamed over the old one; readable by
everybody, which temporary files are not. Knows nothing about what is written. Takes and their
ledger have their own writer (pipelines.ledger), which also sweeps what a killed run left behind.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
        yield fresh
        with fresh.open("rb") as file:
            os.fsync(file.fileno())
        fresh.chmod(0o644)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
