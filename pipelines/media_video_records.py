"""The three records in an MP4 file, and its index before its samples; all of it moved as bytes.

* `affect` and `parameters`: items of `moov/udta/meta/ilst` as iTunes and most tag editors write
  them: a free item `AFFECT` and the comment; title and program beside them.
* `digital_source`: the XMP packet in a `uuid` box of the file (XMP part 3, MPEG-4).

`labelled` also puts the index (`moov`) before the samples, so that a browser plays a film while it
loads, and moves the places of the samples in it (ISO/IEC 14496-12, `stco` and `co64`). This file
decodes nothing and deliberately does not know what a record means (`media_records`).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

from pipelines.media_records import source_of, xmp_packet
from pipelines.media_sound_records import NONE, SOFTWARE, Records

_XMP_BOX = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
_MEAN = b"studio.affect"
_TITLE, _TOOL, _COMMENT, _FREE = b"\xa9nam", b"\xa9too", b"\xa9cmt", b"----"
_PARENTS = {b"moov", b"trak", b"mdia", b"minf", b"stbl"}
_MOST_INDEX = 2**26  # bytes of an index that is read: that of some fifty hours
_MOST_BOXES = 1000


def is_mp4(magic: bytes) -> bool:
    """Whether these first 8 bytes or more begin an MP4 or QuickTime file."""
    return magic[4:8] == b"ftyp"


def labelled(data: bytes, records: Records) -> bytes:
    """The same film with these records in place of all others, its index before its samples.

    data: a file with one `ftyp`, `moov` and `mdat`, as `media_video` writes it. What is damaged
    raises struct.error, IndexError or KeyError.
    """
    found = {kind: (start, end) for kind, _, start, end in _boxes(data, 0, len(data))}
    head = data[slice(*found[b"ftyp"])]
    index = bytearray(data[slice(*found[b"moov"])])
    samples = memoryview(data)[slice(*found[b"mdat"])]
    index = bytearray(_box(b"moov", _without_udta(index) + _udta(records)))
    packet = xmp_packet(records.source).encode()
    extra = _box(b"uuid", _XMP_BOX + packet) if packet else b""
    moved = len(head) + len(index) + len(extra) - found[b"mdat"][0]
    for kind, place in _tables(index):
        count = struct.unpack_from(">I", index, place)[0]
        form = f">{count}{'I' if kind == b'stco' else 'Q'}"
        places = struct.unpack_from(form, index, place + 4)
        struct.pack_into(form, index, place + 4, *(at + moved for at in places))
    return b"".join([head, index, extra, samples])


def video_records(file: BinaryIO) -> Records:
    """The records of an MP4 file; empty where there are none of ours."""
    file.seek(0)
    texts: dict[bytes, bytes] = {}
    source = ""
    for _ in range(_MOST_BOXES):
        start = file.tell()
        head = file.read(16)
        if len(head) < 8:
            break
        size, kind = struct.unpack_from(">I4s", head)
        width = 8
        if size == 1 and len(head) == 16:
            size, width = struct.unpack_from(">Q", head, 8)[0], 16
        if size < width:  # 0 reaches to the end
            break
        if kind == b"moov" and size <= _MOST_INDEX:
            file.seek(start)
            texts = _items(file.read(size))
        elif kind == b"uuid" and head[8:] == _XMP_BOX[:8] and size < 2**20:
            file.seek(start + 8)
            body = file.read(size - 8)
            if body[:16] == _XMP_BOX:
                source = source_of(body[16:].decode("utf-8", "replace"))
        file.seek(start + size)
    if texts.get(_TOOL) != SOFTWARE.encode():  # the comment of another program is none of ours
        return NONE._replace(source=source)
    parameters = texts.get(_COMMENT, b"").decode("utf-8", "replace")
    return Records(texts.get(b"AFFECT", b""), parameters, source)


# --- boxes


def _box(kind: bytes, payload: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(payload), kind) + payload


def _boxes(data: bytes | bytearray, at: int, end: int) -> Iterator[tuple[bytes, int, int, int]]:
    """(kind, place of the payload, start, end) of the boxes between two places."""
    for _ in range(_MOST_BOXES):
        if at + 8 > end:
            return
        size, kind = struct.unpack_from(">I4s", data, at)
        body = at + 8
        if size == 1:
            size, body = struct.unpack_from(">Q", data, body)[0], at + 16
        elif size == 0:
            size = end - at
        if size < body - at or at + size > end:
            return
        yield kind, body, at, at + size
        at += size


def _tables(index: bytearray) -> Iterator[tuple[bytes, int]]:
    """(`stco` or `co64`, place of its count) of every track."""
    todo = [(0, len(index))]
    while todo:
        for kind, body, _, end in _boxes(index, *todo.pop()):
            if kind in _PARENTS:
                todo.append((body, end))
            elif kind in (b"stco", b"co64"):
                yield kind, body + 4


def _without_udta(index: bytearray) -> bytes:
    """The payload of `moov` without what it says about the film."""
    _, body, _, end = next(_boxes(index, 0, len(index)))
    kept = (b for b in _boxes(index, body, end) if b[0] not in (b"udta", b"meta"))
    return b"".join(bytes(index[start:stop]) for _, _, start, stop in kept)


def _udta(records: Records) -> bytes:
    texts = {_TITLE: records.title, _TOOL: SOFTWARE, _COMMENT: records.parameters}
    items = b"".join(
        _box(kind, _data(text.encode("utf-8", "replace"))) for kind, text in texts.items() if text
    )
    if records.affect:
        named = _box(b"mean", bytes(4) + _MEAN) + _box(b"name", bytes(4) + b"AFFECT")
        items += _box(_FREE, named + _data(records.affect))
    handler = _box(b"hdlr", bytes(8) + b"mdirappl" + bytes(9))
    return _box(b"udta", _box(b"meta", bytes(4) + handler + _box(b"ilst", items)))


def _data(text: bytes) -> bytes:
    return _box(b"data", struct.pack(">II", 1, 0) + text)  # 1: UTF-8


def _items(index: bytes) -> dict[bytes, bytes]:
    """Texts of `ilst`, free items of ours by their names."""
    at, end = 0, len(index)
    for wanted, skip in ((b"moov", 0), (b"udta", 0), (b"meta", 4), (b"ilst", 0)):
        place = next(((b, e) for kind, b, _, e in _boxes(index, at, end) if kind == wanted), None)
        if place is None:
            return {}
        at, end = place[0] + skip, place[1]
    found: dict[bytes, bytes] = {}
    for kind, body, _, stop in _boxes(index, at, end):
        parts = {name: index[b:e] for name, b, _, e in _boxes(index, body, stop)}
        text = parts.get(b"data", b"")[8:]
        if kind != _FREE:
            found.setdefault(kind, text)
        elif parts.get(b"mean", b"")[4:] == _MEAN:
            found.setdefault(parts.get(b"name", b"")[4:], text)
    return found
