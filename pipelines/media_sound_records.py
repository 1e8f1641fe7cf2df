"""The three records in files of sound: where they lie in WAV, FLAC and MP3, written and read back.

* WAV: LIST/INFO texts (RIFF MCI 1991: INAM, ISFT, ICMT with the parameters) before the samples;
  behind them the XMP packet in a `_PMX` chunk (XMP part 3) and the request in a chunk of our own,
  `affc`, which readers skip.
* FLAC: Vorbis comments AFFECT, COMMENT, TITLE and DIGITALSOURCETYPE.
* MP3: an ID3v2.4 tag in front (id3.org 2000): TIT2, TSSE, COMM with the parameters, TXXX `AFFECT`
  and TXXX `DIGITALSOURCETYPE`, and the XMP packet in the PRIV frame `XMP` (XMP part 3).

This file moves bytes: it decodes no sample, opens no codec and deliberately does not know what a
record means (`media_records`) or how a sound is decoded (`media_sound`).
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple

from pipelines.media_records import MediaError, source_of, xmp_packet

SOFTWARE = "Affect Studio"
"""The program that a file names as its maker."""

_TEXT_BYTES = 2**22  # of one record that is read: four times what is written
_TAG_BYTES = 2**24  # of an ID3 tag that is read; a cover picture may be in it


class Records(NamedTuple):
    """`affect` as ASCII JSON, the parameters line and the DigitalSourceType; empty where absent."""

    affect: bytes = b""
    parameters: str = ""
    source: str = ""

    @property
    def title(self) -> str:
        """The first line of the parameters: the prompt."""
        return self.parameters.split("\n")[0][:200]


NONE = Records()


# --- WAV


def wav_file(samples: bytes, layout: bytes, records: Records, fact: bytes = b"") -> bytes:
    """A WAV file of interleaved little-endian samples.

    layout is the body of the fmt chunk, fact that of the chunk which all but integers have.

    Raises:
        MediaError: it would not fit into 4 GB.
    """
    texts = {b"INAM": records.title, b"ISFT": SOFTWARE, b"ICMT": records.parameters}
    info = b"INFO" + b"".join(
        _chunk(tag, text.encode("utf-8", "replace") + b"\0") for tag, text in texts.items() if text
    )
    head = b"WAVE" + _chunk(b"fmt ", layout) + (_chunk(b"fact", fact) if fact else b"")
    head += _chunk(b"LIST", info)
    tail = _chunk(b"_PMX", xmp_packet(records.source).encode()) if records.source else b""
    if records.affect:
        tail += _chunk(b"affc", records.affect)
    size = len(head) + 8 + len(samples) + len(samples) % 2 + len(tail)
    if size >= 2**32:
        msg = "waveform: over 4 GB are too long for a WAV file; cut it, or write flac"
        raise MediaError(msg)
    return b"".join([b"RIFF", struct.pack("<I", size), head, _chunk(b"data", samples), tail])


def _wav_again(data: bytes, records: Records) -> bytes:
    """A WAV file with its samples as they are and these records."""
    kept: dict[bytes, bytes] = {}
    file = io.BytesIO(data)
    file.seek(12)
    for tag, size in _headers(file, "<4sI", 1000):
        if tag == b"data" and size == 2**32 - 1 and b"ds64" in kept:
            size = struct.unpack_from("<Q", kept[b"ds64"], 8)[0]
        # a size that lies reaches to the end
        payload = file.read(min(size, len(data)))
        file.seek(size % 2, io.SEEK_CUR)
        kept.setdefault(tag, payload)
    return wav_file(kept[b"data"], kept[b"fmt "], records, kept.get(b"fact", b""))


def _chunk(tag: bytes, payload: bytes) -> bytes:
    return tag + struct.pack("<I", len(payload)) + payload + b"\0" * (len(payload) % 2)


def wav_records(file: BinaryIO) -> Records:
    """The records of a WAV file, RF64 (EBU Tech 3306) included."""
    file.seek(12)
    record, source, long = b"", "", 0
    info: dict[bytes, str] = {}
    for tag, size in _headers(file, "<4sI", 1000):
        if tag == b"ds64" and size >= 16:
            long = struct.unpack("<8xQ", file.read(16))[0]
            file.seek(size - 16 + size % 2, io.SEEK_CUR)
            continue
        if tag not in (b"LIST", b"_PMX", b"affc") or size > _TEXT_BYTES:
            size = long if tag == b"data" and size == 2**32 - 1 and long < 2**62 else size
            file.seek(size + size % 2, io.SEEK_CUR)
            continue
        payload = file.read(size)
        file.seek(size % 2, io.SEEK_CUR)
        if tag == b"affc":
            record = payload
        elif tag == b"_PMX":
            source = source_of(payload.decode("utf-8", "replace"))
        elif payload[:4] == b"INFO":
            inner = io.BytesIO(payload[4:])
            for name, length in _headers(inner, "<4sI", 1000):
                text = inner.read(length).removesuffix(b"\0")
                inner.seek(length % 2, io.SEEK_CUR)
                info.setdefault(name, text.decode("utf-8", "replace"))
    # the comment of another program is no parameters line of ours
    ours = info.get(b"ISFT") == SOFTWARE
    return Records(record, info.get(b"ICMT", "") if ours else "", source)


def overstated(data: bytes) -> float:
    """How many times more samples the header of a WAV file promises than follow; at least 1.

    Recorders that write to a pipe cannot know the size and leave the largest one there: that is
    no promise, and such a file is as long as it is.
    """
    file = io.BytesIO(data)
    file.seek(12)
    long = 0
    for tag, size in _headers(file, "<4sI", 1000):
        if tag == b"ds64" and size >= 16:
            long = struct.unpack_from("<8xQ", data, file.tell())[0]
        if tag == b"data":
            size = long if size == 2**32 - 1 and 0 < long < 2**62 else size
            there = len(data) - file.tell()
            unknown = any(0 < top - size < 2**16 for top in (2**31, 2**32))
            return 1.0 if unknown or there <= 0 else max(1.0, size / there)
        file.seek(size + size % 2, io.SEEK_CUR)
    return 1.0


def _headers(file: BinaryIO, form: str, most: int) -> Iterator[tuple[Any, ...]]:
    """Chunk headers until the end, or `most` of them; the caller moves on to the next one."""
    width = struct.calcsize(form)
    for _ in range(most):
        head = file.read(width)
        if len(head) < width:
            return
        yield struct.unpack(form, head)


# --- FLAC


def flac_file(data: bytes, records: Records) -> bytes:
    """A whole FLAC file with these records in place of its own comments."""
    texts = {
        "TITLE": records.title,
        "ENCODER": SOFTWARE,
        "COMMENT": records.parameters,
        "DIGITALSOURCETYPE": records.source,
        "AFFECT": records.affect.decode("ascii"),
    }
    comments = [f"{key}={text}".encode("utf-8", "replace") for key, text in texts.items() if text]
    vendor = SOFTWARE.encode()
    block = struct.pack("<I", len(vendor)) + vendor + struct.pack("<I", len(comments))
    block += b"".join(struct.pack("<I", len(comment)) + comment for comment in comments)
    kept = [(kind, data[at : at + size]) for kind, at, size in _flac_blocks(data)]
    # STREAMINFO has to be first and SEEKTABLE is wanted; padding and other comments are not
    blocks = [(kind, body) for kind, body in kept if kind in (0, 3)] + [(4, block)]
    frames = max(at + size for _, at, size in _flac_blocks(data))
    head = b"fLaC"
    for i, (kind, body) in enumerate(blocks, 1):
        last = 0x80 if i == len(blocks) else 0
        head += bytes([last | kind]) + len(body).to_bytes(3, "big") + body
    return head + data[frames:]


def _flac_blocks(data: bytes) -> list[tuple[int, int, int]]:
    """(kind, place, size) of every metadata block of a whole FLAC file."""
    found = []
    at, last = 4, False
    while not last:
        last, kind = bool(data[at] & 0x80), data[at] & 0x7F
        size = int.from_bytes(data[at + 1 : at + 4], "big")
        found.append((kind, at + 4, size))
        at += 4 + size
    return found


def flac_records(file: BinaryIO) -> Records:
    """The records of a FLAC file."""
    file.seek(4)
    found: dict[bytes, bytes] = {}
    for (word,) in _headers(file, ">I", 1000):
        kind, size = word >> 24 & 0x7F, word & 0xFFFFFF
        if kind == 4:
            found |= _comments(io.BytesIO(file.read(size)))
        else:
            file.seek(size, io.SEEK_CUR)
        if word >> 31:
            break
    source = found.get(b"DIGITALSOURCETYPE", b"")[:200].decode("utf-8", "replace")
    ours = found.get(b"ENCODER") == SOFTWARE.encode()
    parameters = found.get(b"COMMENT", b"").decode("utf-8", "replace")
    return Records(found.get(b"AFFECT", b""), parameters if ours else "", source)


def _comments(block: io.BytesIO) -> dict[bytes, bytes]:
    """The entries of a Vorbis comment block by their names; as far as they are whole."""
    found: dict[bytes, bytes] = {}
    for (size,) in _headers(block, "<I", 1):
        block.seek(size, io.SEEK_CUR)
    for (count,) in _headers(block, "<I", 1):
        for (size,) in _headers(block, "<I", min(count, 1000)):
            key, _, text = block.read(size).partition(b"=")
            found.setdefault(key.upper(), text)
    return found


# --- MP3


def mp3_file(data: bytes, records: Records) -> bytes:
    """MP3 frames (`untagged`) with these records in front.

    All texts are UTF-8, which has no 0xFF: no player takes a byte of the tag for a frame.
    """
    frames = [(b"TSSE", b"\x03" + SOFTWARE.encode())]
    if records.parameters:
        title, text = (
            part.encode("utf-8", "replace") for part in (records.title, records.parameters)
        )
        frames += [(b"TIT2", b"\x03" + title), (b"COMM", b"\x03eng\0" + text)]
    if records.source:
        source = records.source.encode("utf-8", "replace")
        frames += [
            (b"TXXX", b"\x03DIGITALSOURCETYPE\0" + source),
            (b"PRIV", b"XMP\0" + xmp_packet(records.source).encode()),
        ]
    if records.affect:
        frames.append((b"TXXX", b"\x03AFFECT\0" + records.affect))
    body = b"".join(tag + _seven_bits(len(text)) + b"\0\0" + text for tag, text in frames)
    end = len(data) - 128 if data[-128:-125] == b"TAG" else len(data)  # ID3v1
    return b"ID3\x04\0\0" + _seven_bits(len(body)) + body + data[:end]


def mp3_records(file: BinaryIO) -> Records:
    """The records in the ID3v2.4 tag of an MP3 file; tags of other versions are not ours."""
    file.seek(0)
    head = file.read(10)
    size = _tag_size(head)
    # no flags: ours is not unsynchronised and has no extended header
    if not 10 < size <= _TAG_BYTES or head[3:6] != b"\x04\0\0":
        return NONE
    tag = io.BytesIO(file.read(size - 10))
    texts: dict[bytes, bytes] = {}
    for name, length, flags in _headers(tag, ">4s4sH", 1000):
        payload = tag.read(_whole(length))
        if flags or not payload:
            continue
        if name in (b"TXXX", b"COMM") and payload[:1] == b"\x03":
            described, _, text = payload[1 if name == b"TXXX" else 4 :].partition(b"\0")
            texts.setdefault(name + described, text)
        elif name == b"PRIV" and payload[:4] == b"XMP\0":
            texts.setdefault(b"XMP", payload[4:])
        elif name == b"TSSE":
            texts.setdefault(name, payload[1:].rstrip(b"\0"))
    ours = texts.get(b"TSSE") == SOFTWARE.encode()
    parameters = texts.get(b"COMM", b"").decode("utf-8", "replace") if ours else ""
    source = texts.get(b"TXXXDIGITALSOURCETYPE", b"")[:200].decode("utf-8", "replace")
    source = source or source_of(texts.get(b"XMP", b"").decode("utf-8", "replace"))
    return Records(texts.get(b"TXXXAFFECT", b""), parameters, source)


READERS: dict[str, Callable[[BinaryIO], Records]] = {
    "wav": wav_records,
    "flac": flac_records,
    "mp3": mp3_records,
}
"""Kind -> what reads the records of such a file."""


def relabelled(data: bytes, kind: str, records: Records) -> bytes:
    """A whole file with the samples as they are encoded, and these records in place of others.

    data is `untagged`; kind wav, flac or mp3. What is damaged raises struct.error, IndexError or
    KeyError.
    """
    return {"wav": _wav_again, "flac": flac_file, "mp3": mp3_file}[kind](data, records)


def untagged(data: bytes) -> bytes:
    """What follows the ID3v2 tags at the beginning, ten at the most, and zeros behind them."""
    at = 0
    for _ in range(10):
        at += _tag_size(data[at : at + 10])
    return data[at:].lstrip(b"\0") if at else data


def _tag_size(head: bytes) -> int:
    """Bytes of the ID3v2 tag that begins with these 10, its footer included; 0 when there is none.

    A size is four bytes of seven bits each; what has more is no tag.
    """
    if len(head) < 10 or head[:3] != b"ID3" or max(head[6:10]) > 0x7F:
        return 0
    return 10 + _whole(head[6:10]) + (10 if head[5] & 0x10 else 0)


def _seven_bits(size: int) -> bytes:
    return bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0))


def _whole(size: bytes) -> int:
    return sum((byte & 0x7F) << shift for byte, shift in zip(size, (21, 14, 7, 0), strict=True))
