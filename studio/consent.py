"""Whether somebody whose voice or face goes in has agreed, and where that is written down.

What ships with the project and what was made here from words is nobody's; everything else may be a
person. Then a document of the user's own is an input of the request (`--consent FILE`; its sha256
goes into the take), or a question on the terminal is answered with yes and recorded beside the
takes. This file records what was said; it cannot know whether it is true.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from studio.console import note_once

MAX_BYTES = 2**20  # of a consent document
What = Literal["voice", "face"]
QUESTION = {
    "voice": "is this your own voice, or has the person whose it is agreed to this?",
    "face": "is this your own face, a drawing of nobody, or has the person agreed to this?",
}
STATED = {
    "voice": "Asked whether the voice in this file is their own or its owner agreed to its use "
    "here, the person at the terminal said yes.",
    "face": "Asked whether the face in this file is their own, a drawing of nobody or its owner "
    "agreed to its use here, the person at the terminal said yes.",
}


class ConsentError(ValueError):
    """Somebody has not agreed, or nobody said so where it is needed: one line."""


def consent_for(
    media: Path,
    given: Path | None,
    out: Path,
    *,
    ask: bool,
    what: What = "voice",
    required: bool = False,
) -> Path | None:
    """The document that goes into the request as `inputs["consent"]`, None when there is none.

    Args:
        media: the recording, picture or film that somebody's voice or face may be in.
        given: `--consent FILE`: any document of up to 1 MB.
        out: the folder of the takes; a yes is recorded there as `consent-<sha8>.json`, where sha8
            begins the sha256 of `media`, and holds for this file from then on.
        ask: whether a question can be asked: both ends of the terminal are a person's.
        what: what of a person it is.
        required: without an answer nothing is made; else the take says "not stated".

    Raises:
        ConsentError: the answer is no, or required and missing. Exit code 2.
        EOFError: the terminal was closed instead of an answer.
        MediaError: `given` is no file, or over 1 MB.
    """
    from pipelines.media_records import check_file, printable
    from pipelines.portrait import PUBLISHED

    if given is not None:
        check_file(given, MAX_BYTES, "consent documents")
        if not given.stat().st_size:
            msg = f"consent: {printable(given)} is empty; give the document that says it"
            raise ConsentError(msg)
        return given
    check_file(media, None, f"{what} files")
    with media.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if is_nobodys(media, digest) or digest in PUBLISHED:
        return None
    record = out / f"consent-{digest[:8]}.json"
    if _holds(record, digest):
        return record
    name = printable(media.name)
    if ask:
        return _asked(name, digest, record, what)
    if required:
        msg = (
            f"consent: {name} may be a real person's {what}; give --consent FILE, a document that "
            f"says they agreed{' or that it is drawn' if what == 'face' else ''}"
        )
        raise ConsentError(msg)
    note_once(
        f"consent: {name} may be a real person's {what}; the take says that consent is not stated "
        "(--consent FILE names the document)"
    )
    return None


def consent_for_all(
    people: Mapping[Path, tuple[What, bool]], given: Path | None, out: Path, *, ask: bool
) -> Path | None:
    """As `consent_for`, for several files of one request, whose yeses become one document.

    people: file -> what of a person it is, and whether an answer is required.
    """
    found: list[Path] = []
    for media, (what, required) in people.items():
        document = consent_for(media, given, out, ask=ask, what=what, required=required)
        if document is not None and document not in found:
            found.append(document)
    return _joined(found, out) if len(found) > 1 else found[0] if found else None


def _joined(records: Sequence[Path], out: Path) -> Path:
    """One document of several recorded yeses; the same ones give the same file."""
    from pipelines.ledger import write_atomic

    said = [json.loads(record.read_text(encoding="utf-8")) for record in records]
    text = json.dumps({"agreed": True, "statements": said}, indent=1, ensure_ascii=False) + "\n"
    path = out / f"consent-{hashlib.sha256(text.encode()).hexdigest()[:8]}.json"
    write_atomic(path, text.encode())
    return path


def is_nobodys(media: Path, digest: str) -> bool:
    """Whether a file shipped with the project (by its sha256), or was made here of nobody.

    That is: from words, or only from such files. `digest` is the sha256 of `media`.
    """
    from pipelines.manifest import ManifestError, rows
    from pipelines.media import TRAINED, read_metadata
    from pipelines.take import Take

    with suppress(ManifestError):
        if any(digest in row.get("files", {}).values() for row in rows().values()):
            return True
    with suppress(ValueError):
        take = Take.read(media)  # a whole request of ours, not only the mark of another program
        if take.sha256 != digest:
            return False
        if read_metadata(media).get("digital_source") == TRAINED:
            return True
        request = take.request
        # Curves are nobody's face: they say how far muscles contract.
        beside = ("consent", "curves")
        given = {name: path for name, path in request.inputs.items() if name not in beside}
        return bool(given) and all(
            is_nobodys(path, request.digests[name]) for name, path in given.items()
        )
    return False


def _holds(record: Path, digest: str) -> bool:
    """Whether a yes for this file was recorded before."""
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
        return bool(found["sha256"] == digest and found["agreed"] is True)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _asked(name: str, digest: str, record: Path, what: What) -> Path:
    from pipelines.ledger import write_atomic

    # Not typer's prompt: it sends a blank to stdout, which is for results.
    sys.stderr.write(f"affect: {name}: {QUESTION[what]} [y/N] ")
    sys.stderr.flush()
    answer = sys.stdin.readline()
    if not answer:
        raise EOFError
    if answer.strip().lower() not in ("y", "yes"):
        msg = f"consent: not given for {name}; nothing was made"
        raise ConsentError(msg)
    said = {
        "agreed": True,
        "statement": STATED[what],
        "file": name,
        "sha256": digest,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    text = json.dumps(said, indent=1, ensure_ascii=False) + "\n"
    write_atomic(record, text.encode())
    return record
