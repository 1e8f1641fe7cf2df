"""Pictures in and out: real files of every format, damaged and hostile ones included."""

from __future__ import annotations

import io
import json
import os
import struct
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from adapters.piece import Piece
from pipelines.media import (
    COMPOSITE,
    MAX_RECORD,
    TRAINED,
    MediaError,
    decode_image,
    encode_image,
    load_image,
    read_metadata,
)
from pipelines.media_midi import encode_midi
from pipelines.media_sound import encode_sound

FORMATS = ("png", "jpg", "webp")
HOSTILE = {
    "plain": "a mountain lake",
    "script": "<script>alert('x')</script><!-- ]]> &lt; \"' ?>",
    "control": "".join(map(chr, range(32))) + "\x7f\x85\u202e\ufeff",
    "unicode": "日本語 Ünïcödé 🌊 \U0010ffff \u2028",
    "64 kB": "x\u00e9\n" * 21_846,
    "lone surrogate": "half \ud83d of a character",
    "xmp": '"/><rdf:li>x</rdf:li> Iptc4xmpExt:DigitalSourceType="http://evil"',
}


def picture(width: int = 24, height: int = 16) -> Image.Image:
    """Smooth colours, so that lossy formats stay close."""
    y, x = np.mgrid[0:height, 0:width]
    rgb = np.stack([x * 255 // width, y * 255 // height, np.full_like(x, 90)], -1)
    return Image.fromarray(rgb.astype(np.uint8))


def chunk(kind: bytes, data: bytes) -> bytes:
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def bomb(width: int, height: int) -> bytes:
    """A valid PNG of grey zeros; small on disk, `width` x `height` bytes when decoded."""
    packer = zlib.compressobj(9)
    row = bytes(width + 1)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    magic = b"\x89PNG\r\n\x1a\n"
    return magic + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def one_line(error: pytest.ExceptionInfo[MediaError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 330
    return text


@pytest.mark.parametrize("ext", FORMATS)
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_records_come_back_as_they_were(ext: str, text: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "affect": {"prompt": text, "deep": [1, 2.5, None, {"x": True}]},
        "parameters": "a lake\nSteps: 20, Seed: 7, Model: é",
        "digital_source": TRAINED,
    }
    path = tmp_path / f"take.{ext}"
    path.write_bytes(encode_image(picture(), ext, given))
    assert read_metadata(path) == given


@pytest.mark.parametrize("ext", FORMATS)
def test_a_record_larger_than_a_jpeg_segment(ext: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(32, 127, 300_000).astype(np.uint8).tobytes().decode()
    path = tmp_path / f"take.{ext}"
    path.write_bytes(encode_image(picture(), ext, {"affect": {"noise": noise}}))
    assert read_metadata(path) == {"affect": {"noise": noise}}
    assert load_image(path).size == (24, 16)


def test_a_record_no_reader_would_take_is_refused() -> None:
    with pytest.raises(MediaError) as error:
        encode_image(picture(), "png", {"affect": {"x": "y" * MAX_RECORD}})
    assert "1 MB" in one_line(error)


@pytest.mark.parametrize("ext", FORMATS)
def test_other_programs_find_the_records(ext: str) -> None:
    data = encode_image(
        picture(), ext, {"parameters": "lake\nSteps: 20, Seed: 7", "digital_source": COMPOSITE}
    )
    assert f"<Iptc4xmpExt:DigitalSourceType>{COMPOSITE}<".encode() in data
    image = Image.open(io.BytesIO(data))
    if ext == "png":
        assert image.info["parameters"] == "lake\nSteps: 20, Seed: 7"
        assert "XML:com.adobe.xmp" in image.info
        assert b"tEXtparameters\0" in data
    else:
        assert image.info["xmp"].endswith(b'<?xpacket end="r"?>')
        comment = image.getexif().get_ifd(0x8769)[0x9286]
        assert comment[:8] == b"UNICODE\0"
        assert comment[8:].decode("utf-16-be") == "lake\nSteps: 20, Seed: 7"
        exif = image.info["exif"].removeprefix(b"Exif\0\0")
        assert exif[:2] == b"MM", "UTF-16-BE is only right in a big-endian block"


@pytest.mark.parametrize("ext", FORMATS)
def test_same_picture_same_bytes_and_no_foreign_metadata(ext: str) -> None:
    records = {"affect": {"b": 1, "a": 2}, "digital_source": TRAINED}
    carrying = picture()
    carrying.info = {"comment": b"secret", "xmp": b"secret", "exif": b"secret", "Author": "secret"}
    first = encode_image(picture(), ext, records)
    assert encode_image(carrying, ext, {"digital_source": TRAINED, "affect": {"a": 2, "b": 1}}) == (
        first
    )
    assert carrying.info["Author"] == "secret", "the caller's image is left alone"


@pytest.mark.parametrize("ext", FORMATS)
def test_pixels_survive(ext: str) -> None:
    back = decode_image(encode_image(picture(), ext, {}))
    gap = np.abs(np.asarray(back, int) - np.asarray(picture(), int))
    assert gap.max() == 0 if ext == "png" else gap.mean() < 3


def test_unknown_suffix_names_the_known_ones() -> None:
    with pytest.raises(MediaError, match="png, jpg or webp"):
        encode_image(picture(), "tiff", {})


@pytest.mark.parametrize("ext", FORMATS)
def test_a_picture_from_elsewhere_has_no_records(ext: str, tmp_path: Path) -> None:
    path = tmp_path / f"x.{ext}"
    exif = Image.Exif()
    exif[0x010E] = "a caption"
    picture().save(path, exif=exif, **({"comment": b"hello"} if ext == "jpg" else {}))
    assert read_metadata(path) == {}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int, tmp_path: Path) -> None:
    upright = picture()
    undo = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE"}
    undo |= {6: "ROTATE_90", 7: "TRANSVERSE", 8: "ROTATE_270"}
    stored = upright
    if orientation in undo:
        stored = upright.transpose(getattr(Image.Transpose, undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "x.png"
    stored.save(path, exif=exif)
    loaded = load_image(path)
    assert (np.asarray(loaded) == np.asarray(upright)).all()
    assert loaded.getexif().get(0x0112, 1) == 1
    assert (np.asarray(ImageOps.exif_transpose(loaded)) == np.asarray(upright)).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16", "CMYK"])
def test_every_mode_becomes_rgb(mode: str, tmp_path: Path) -> None:
    path = tmp_path / ("x.jpg" if mode == "CMYK" else "x.png")
    if mode == "I;16":
        image = Image.fromarray(np.full((4, 4), 128 * 257, np.uint16))
    elif mode in ("LA", "RGBA"):
        image = Image.new(mode, (4, 4), (0,) * (len(mode) - 1) + (127,))  # half-clear black
    else:
        grey = Image.new("RGB", (4, 4), (128, 128, 128))
        image = grey.quantize(4) if mode == "P" else grey.convert(mode)
    image.save(path)
    loaded = load_image(path)
    assert loaded.mode == "RGB"
    if mode != "1":
        assert np.abs(np.asarray(loaded, int) - 128).max() <= 2


@pytest.mark.parametrize("size", [(13_000, 13_000), (20_000, 20_000), (8_000, 4_001)])
def test_bombs_are_refused_at_once(size: tuple[int, int], tmp_path: Path) -> None:
    """169 MP only makes Pillow warn, 400 MP is its error, 32.008 MP is just over our limit."""
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb(*size))
    assert path.stat().st_size < 2**20
    start = time.perf_counter()
    with pytest.raises(MediaError) as error:
        load_image(path)
    assert "32 megapixels" in one_line(error)
    assert time.perf_counter() - start < 1.0, "the pixels must not be decoded"


def test_a_text_bomb_is_refused(tmp_path: Path) -> None:
    packed = zlib.compress(bytes(100 * 2**20), 9)
    data = encode_image(picture(), "png", {})
    path = tmp_path / "x.png"
    path.write_bytes(data[:33] + chunk(b"zTXt", b"affect\0\0" + packed) + data[33:])
    with pytest.raises(MediaError):
        read_metadata(path)


@pytest.mark.parametrize("ext", FORMATS)
def test_cut_or_scrambled_files_are_one_line(ext: str, tmp_path: Path) -> None:
    records = {"affect": {"prompt": "x" * 500}, "parameters": "y", "digital_source": TRAINED}
    data = encode_image(picture(64, 64), ext, records)
    path = tmp_path / f"x.{ext}"
    rng = np.random.default_rng(0)
    for share in np.linspace(0.02, 0.9, 25):
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(MediaError) as error:
            load_image(path)
        one_line(error)
    refused = 0
    for _ in range(150):
        scrambled = bytearray(data)
        for at in rng.integers(12, len(data), 8):
            scrambled[at] = rng.integers(256)
        path.write_bytes(scrambled)
        for reader in (load_image, read_metadata):
            try:
                reader(path)
            except MediaError:
                refused += 1
    assert refused > 0


@pytest.mark.parametrize("kind", ["TIFF", "BMP", "GIF", "PPM", "ICO"])
@pytest.mark.parametrize("name", ["x.png", "x.jpg"])
def test_content_counts_and_not_the_name(kind: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    picture(32, 32).save(path, kind)
    for reader in (load_image, read_metadata):
        with pytest.raises(MediaError, match="no PNG, JPEG or WEBP"):
            reader(path)


def test_a_png_named_jpg_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(encode_image(picture(), "png", {"affect": {"a": 1}}))
    assert load_image(path).size == (24, 16)
    assert read_metadata(path)["affect"] == {"a": 1}


def test_metadata_is_read_by_content_from_every_medium(tmp_path: Path) -> None:
    records = {"affect": {"a": 1}, "parameters": "p", "digital_source": TRAINED}
    files = [encode_image(picture(), ext, records) for ext in FORMATS]
    files += [encode_sound(np.zeros(9), 8000, records, ext) for ext in ("wav", "flac")]
    files += [encode_midi(Piece.of([0], [1], 60), records)]
    for data in files:
        for name in ("x.png", "x.mid", "x.wav", "x"):
            path = tmp_path / name
            path.write_bytes(data)
            assert read_metadata(path) == records
    for data in files[len(FORMATS) :]:
        path.write_bytes(data)
        with pytest.raises(MediaError, match="no PNG, JPEG or WEBP"):
            load_image(path)
    path.write_bytes(b"hello")
    with pytest.raises(MediaError, match="nor MIDI, WAV, FLAC, MP3 or MP4") as error:
        read_metadata(path)
    one_line(error)


def test_other_libraries_lose_the_other_readers(tmp_path: Path) -> None:
    tiff = tmp_path / "x.png"
    picture().save(tiff, "TIFF")
    decode_image(encode_image(picture(), "png", {}))
    with pytest.raises(OSError, match="cannot identify"):
        Image.open(tiff)


def test_things_that_are_not_pictures(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("hello")
    large = tmp_path / "large.png"
    with large.open("wb") as file:
        file.truncate(21 * 2**20)
    cases: list[str | Path] = ["pipe", "empty.png", "text.png", "none.png", ".", "large.png"]
    cases += ["a\0b.png", "x" * 5000, Path("/dev/zero")]
    for case in cases:
        with pytest.raises(MediaError) as error:
            load_image(tmp_path / case)
        assert len(one_line(error)) < 330
    with pytest.raises(MediaError, match="20 MB"):
        load_image(large)


def test_a_name_cannot_break_the_line(tmp_path: Path) -> None:
    path = tmp_path / "bad\n\x1b[31mname.png"
    path.write_bytes(b"nothing")
    with pytest.raises(MediaError) as error:
        load_image(path)
    assert "\x1b" not in one_line(error)


@pytest.mark.parametrize(
    "record", ["[1, 2]", "not json", "[" * 100_000, '{"a": ' * 50_000, "1" * 10_000, "NaN"]
)
def test_hostile_records_are_refused(record: str, tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    data = encode_image(picture(), "png", {})
    text = b"affect\0\0\0\0\0" + record.encode()
    path.write_bytes(data[:33] + chunk(b"iTXt", text) + data[33:])
    with pytest.raises(MediaError, match="no JSON object"):
        read_metadata(path)


def test_a_missing_jpeg_segment_leaves_no_half_record(tmp_path: Path) -> None:
    data = encode_image(picture(), "jpg", {"affect": {"x": "y" * 150_000}})
    assert data.count(b"affect ") == 3
    path = tmp_path / "x.jpg"
    path.write_bytes(data.replace(b"affect 2/3 ", b"effect 2/3 "))
    assert "affect" not in read_metadata(path)


def test_record_text_is_taken_as_json() -> None:
    record = {"sheet": ["a.png"], "ü": 1}
    assert encode_image(picture(), "png", {"affect": json.dumps(record)}) == encode_image(
        picture(), "png", {"affect": record}
    )
