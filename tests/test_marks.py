"""The mark as synthetic in every kind of file, read by others than those who wrote it.

Each container is taken apart here after its own standard, and the XMP packet by an XML parser;
where ExifTool is installed it has to find the same. Notes are read by mido.
"""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from adapters.piece import Piece
from pipelines.media import COMPOSITE, TRAINED, encode_image
from pipelines.media_midi import encode_midi
from pipelines.media_sound import encode_sound
from pipelines.media_video import encode_video, label_video

RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
SOURCE = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"


def picture(kind: str) -> Callable[[dict[str, Any]], bytes]:
    return lambda records: encode_image(Image.new("RGB", (32, 24), "teal"), kind, records)


def sound(kind: str) -> Callable[[dict[str, Any]], bytes]:
    tone = 0.3 * np.sin(np.arange(8000) / 9)
    return lambda records: encode_sound(tone, 16_000, records, kind)


def film(records: dict[str, Any]) -> bytes:
    frames = [np.full((32, 32, 3), 30 * k, np.uint8) for k in range(4)]
    return label_video(encode_video(frames, 8), records)


def notes(records: dict[str, Any]) -> bytes:
    return encode_midi(Piece.of([0.0], [1.0], [60]), records)


def in_png(data: bytes) -> bytes:
    """PNG 1.2, 4.2.3.3 (iTXt) and XMP part 3, 1.1.5."""
    at, found = 8, b""
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        body = data[at + 8 : at + 8 + size]
        if kind == b"iTXt" and body.startswith(b"XML:com.adobe.xmp\0"):
            assert body[18:20] == b"\0\0", "not compressed, as XMP demands"
            found = body[20:].split(b"\0", 2)[2]
        at += 12 + size
    return found


def in_jpeg(data: bytes) -> bytes:
    """XMP part 3, 1.1.3: an APP1 segment with the name of the space."""
    at, space = 2, b"http://ns.adobe.com/xap/1.0/\0"
    while data[at + 1] != 0xDA:
        size = struct.unpack_from(">H", data, at + 2)[0]
        body = data[at + 4 : at + 2 + size]
        if data[at + 1] == 0xE1 and body.startswith(space):
            return body.removeprefix(space)
        at += 2 + size
    return b""


def in_mp3(data: bytes) -> bytes:
    """ID3v2.4: frames of seven-bit sizes; XMP part 3, 2.3: PRIV with the owner "XMP"."""
    assert data[:4] == b"ID3\x04"

    def whole(at: int) -> int:
        return int(data[at] << 21 | data[at + 1] << 14 | data[at + 2] << 7 | data[at + 3])

    at, end = 10, 10 + whole(6)
    while at < end:
        size = whole(at + 4)
        body = data[at + 10 : at + 10 + size]
        if data[at : at + 4] == b"PRIV" and body.startswith(b"XMP\0"):
            return body[4:]
        at += 10 + size
    return b""


def in_mp4(data: bytes) -> bytes:
    """XMP part 3, 2.5: a `uuid` box on the top level."""
    at, name = 0, bytes.fromhex("BE7ACFCB97A942E89C71999491E3AFAC")
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"uuid" and data[at + 8 : at + 24] == name:
            return data[at + 24 : at + size]
        at += size
    return b""


def in_riff(kind: bytes) -> Callable[[bytes], bytes]:
    """RIFF: chunks of even sizes; XMP part 3, 2.7 has `_PMX` in WAV, WEBP's container `XMP `."""

    def find(data: bytes) -> bytes:
        at = 12
        while at < len(data):
            name, size = struct.unpack_from("<4sI", data, at)
            if name == kind:
                return data[at + 8 : at + 8 + size]
            at += 8 + size + size % 2
        return b""

    return find


XMP: dict[str, tuple[Callable[[dict[str, Any]], bytes], Callable[[bytes], bytes]]] = {
    "png": (picture("png"), in_png),
    "jpg": (picture("jpg"), in_jpeg),
    "webp": (picture("webp"), in_riff(b"XMP ")),
    "wav": (sound("wav"), in_riff(b"_PMX")),
    "mp3": (sound("mp3"), in_mp3),
    "mp4": (film, in_mp4),
}
RECORDS = {"affect": {"prompt": "x"}, "parameters": "a lake\nSeed: 7"}


@pytest.mark.parametrize("source", [TRAINED, COMPOSITE])
@pytest.mark.parametrize("kind", XMP)
def test_the_packet_is_where_the_standard_has_it(kind: str, source: str) -> None:
    encode, find = XMP[kind]
    packet = find(encode({**RECORDS, "digital_source": source}))
    tree = ElementTree.fromstring(packet.decode("utf-8-sig"))  # noqa: S314 - our own, just written
    assert tree.tag == "{adobe:ns:meta/}xmpmeta"
    described = tree.findall(f"{RDF}RDF/{RDF}Description")
    assert [one.findtext(SOURCE) for one in described] == [source]
    assert find(encode(RECORDS)) == b"", "nothing is said that was not given"


def test_kinds_without_xmp_say_it_in_words(tmp_path: Path) -> None:
    mido = pytest.importorskip("mido")
    said = {**RECORDS, "digital_source": TRAINED}
    (tmp_path / "x.mid").write_bytes(notes(said))
    told = [m.text for track in mido.MidiFile(tmp_path / "x.mid").tracks for m in track
            if m.type == "copyright"]  # fmt: skip
    assert told == [f"Synthetic: made by Affect Studio. DigitalSourceType: {TRAINED}"]
    flac = sound("flac")(said)
    # Xiph's Vorbis comments: a length of 32 bits, then NAME=text.
    text = f"DIGITALSOURCETYPE={TRAINED}".encode()
    assert struct.pack("<I", len(text)) + text in flac


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="ExifTool is not here: not compared")
@pytest.mark.parametrize("kind", [*XMP, "flac"])
def test_exiftool_finds_it(kind: str, tmp_path: Path) -> None:
    encode = XMP[kind][0] if kind in XMP else sound(kind)
    path = tmp_path / f"x.{kind}"
    path.write_bytes(encode({**RECORDS, "digital_source": COMPOSITE}))
    done = subprocess.run(
        ["exiftool", "-json", "-G", str(path)], capture_output=True, text=True, check=True
    )
    tags = json.loads(done.stdout)[0]
    name = "Vorbis:Digitalsourcetype" if kind == "flac" else "XMP:DigitalSourceType"
    assert tags[name] == COMPOSITE
    assert "ExifTool:Warning" not in tags
    assert "ExifTool:Error" not in tags
