"""The three records that a finished file carries, whatever its container, and checks of any input.

* `affect`: a JSON object, the whole request, as ASCII with other characters escaped: control
  characters and any script survive every container, and every terminal.
* `parameters`: the prompt and settings as text, for people and other tools.
* `digital_source`: the IPTC DigitalSourceType, which says that a model made this (IPTC Photo
  Metadata Standard 2023.2); as an XMP packet where the container takes one.

The containers themselves are in `media` (pictures), `media_midi` and `media_sound`; this file knows
none of them, nor what a request is.
"""

from __future__ import annotations

import html
import json
import re
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

TRAINED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""DigitalSourceType of what a model made from words."""
COMPOSITE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
"""DigitalSourceType of something real that a model changed."""

MAX_RECORD = 2**20  # bytes of the `affect` JSON: longer text chunks are refused by Pillow's reader

_XMP = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
    xmlns:xmp="http://ns.adobe.com/xap/1.0/">
   <Iptc4xmpExt:DigitalSourceType>{source}</Iptc4xmpExt:DigitalSourceType>
   <xmp:CreatorTool>Affect Studio</xmp:CreatorTool>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="r"?>"""
# Element or attribute form; a pattern instead of an XML parser, which would expand entities.
_SOURCE = re.compile(r"Iptc4xmpExt:DigitalSourceType\s*(?:>|=\s*[\"'])\s*([^<\"'\s]{1,200})")
_PART = re.compile(rb"affect (\d{1,3})/(\d{1,3}) ")


class MediaError(ValueError):
    """A media file cannot be read or written: one line that says which, why and what to do."""


def record_bytes(metadata: Mapping[str, Any]) -> bytes:
    """The `affect` record (a JSON object, or its text) as ASCII JSON; empty when there is none.

    Raises:
        MediaError: it is over 1 MB.
    """
    if "affect" not in metadata:
        return b""
    given = metadata["affect"]
    value = json.loads(given) if isinstance(given, str) else given
    record = json.dumps(value, allow_nan=False, sort_keys=True).encode("ascii")
    if len(record) > MAX_RECORD:
        size = f"{len(record) / 2**20:.1f} MB"
        msg = (
            f"affect: a record may have {MAX_RECORD >> 20} MB, received {size}; shorten the prompt"
        )
        raise MediaError(msg)
    return record


def found_records(record: bytes, parameters: str, source: str, name: str) -> dict[str, Any]:
    """What was found in the file `name`, by its keys; what is empty is left out.

    Raises:
        MediaError: the `affect` record is no JSON object.
    """
    found: dict[str, Any] = {}
    if record:
        found["affect"] = _json_object(record, name)
    if parameters:
        found["parameters"] = parameters
    if source:
        found["digital_source"] = source
    return found


def xmp_packet(source: str) -> str:
    """An XMP packet that holds the DigitalSourceType; empty for an empty one."""
    return _XMP.format(source=html.escape(source)) if source else ""


def source_of(xmp: str) -> str:
    """The DigitalSourceType in an XMP packet, empty when there is none."""
    source = _SOURCE.search(xmp)
    return html.unescape(source[1]) if source else ""


def record_parts(record: bytes, size: int) -> list[bytes]:
    """Cut a record into texts `affect i/n ...` with at most `size` bytes of it in each."""
    pieces = [record[i : i + size] for i in range(0, len(record), size)]
    return [b"affect %d/%d " % (i, len(pieces)) + piece for i, piece in enumerate(pieces, 1)]


def joined_parts(texts: Iterable[bytes]) -> bytes:
    """Join our texts among any others; empty when there are none or one of them is missing."""
    parts: dict[int, bytes] = {}
    total = 0
    for text in texts:
        if head := _PART.match(text):
            total = int(head[2])
            parts[int(head[1])] = text[head.end() :]
    if sorted(parts) != list(range(1, total + 1)):
        return b""
    return b"".join(parts[i] for i in sorted(parts))


def read_input(path: Path, limit: int, kind: str) -> bytes:
    """All bytes of an untrusted file of at most `limit` bytes; `kind`, a plural, is for errors.

    Raises:
        MediaError: not a file, too large, or not readable.
    """
    check_file(path, limit, kind)
    try:
        with path.open("rb") as file:
            return file.read(limit + 1)
    except OSError as error:
        msg = f"{printable(path)}: cannot be read ({error.strerror}); check the path"
        raise MediaError(msg) from error


def check_file(path: Path, limit: int | None, kind: str) -> None:
    """Raise a MediaError unless `path` is a file of at most `limit` bytes (None: of any size)."""
    try:
        status = path.stat()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        msg = f"{printable(path)}: no such file, or not readable; check the path"
        raise MediaError(msg) from error
    if not stat.S_ISREG(status.st_mode):  # a pipe would wait for ever, a device never end
        msg = f"{printable(path)}: not a file; give the path of one of your {kind}"
        raise MediaError(msg)
    if limit is not None:
        check_size(status.st_size, limit, kind, printable(path))


def check_size(size: int, limit: int, kind: str, name: str) -> None:
    """Raise a MediaError when `size` bytes are more than `limit`."""
    if size > limit:
        has = f"{size / 2**20:.0f} MB" if size >= limit + 2**20 else "more"
        msg = f"{name}: {kind} may have {limit >> 20} MB, this has {has}; save a smaller one"
        raise MediaError(msg)


def printable(path: Path | str) -> str:
    """The path on one line, printable, not longer than 200 characters."""
    text = "".join(c if c.isprintable() else "?" for c in str(path))
    return text if len(text) <= 200 else f"...{text[-197:]}"


def damaged(name: str) -> str:
    """What is said of a file that cannot be decoded."""
    return f"{name}: damaged or cut short, cannot be decoded; save or download it again"


def _json_object(record: bytes, name: str) -> dict[str, Any]:
    try:
        value = json.loads(record)
    except (ValueError, RecursionError):  # deep nesting, numbers of a million digits
        value = None
    if not isinstance(value, dict):
        msg = (
            f"{name}: its `affect` record is no JSON object; the file was changed after its making"
        )
        raise MediaError(msg)
    return value
