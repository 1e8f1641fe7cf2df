"""Pictures in and out, and what any finished file says about itself.

Only `pipelines/media*.py` touch codecs: this file pictures, `media_midi` notes, `media_sound`
sound; what their records mean is in `media_records`. Pictures are PNG, JPEG or WEBP, told apart by
their first bytes and never by their name, and only that one decoder is started. The three records:

* `affect`: PNG: iTXt chunk; JPEG: COM segments, because an APP1 segment ends at 64 kB; WEBP: Exif
  ImageDescription.
* `parameters`: the line that picture tools show as "PNG info" (AUTOMATIC1111's form). PNG: tEXt
  (iTXt when not latin-1); JPEG and WEBP: Exif UserComment in UTF-16, as those tools write it.
* `digital_source`: an XMP packet (XMP part 3 for the place in each format).

No record holds a time, so the same picture with the same records is the same bytes.
"""

from __future__ import annotations

import io
import re
import struct
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image, ImageOps

from pipelines.media_records import (
    COMPOSITE,
    MAX_RECORD,
    TRAINED,
    MediaError,
    check_file,
    check_size,
    damaged,
    found_records,
    joined_parts,
    printable,
    read_input,
    record_bytes,
    record_parts,
    source_of,
    xmp_packet,
)

__all__ = [
    "COMPOSITE",
    "FORMATS",
    "MAX_RECORD",
    "TRAINED",
    "MediaError",
    "decode_image",
    "encode_image",
    "load_image",
    "printable",
    "read_metadata",
    "trim_readers",
]

FORMATS = {"png": "PNG", "jpg": "JPEG", "jpeg": "JPEG", "webp": "WEBP"}
"""Suffix without the dot -> Pillow's name of the format."""
READERS = ("PNG", "JPEG", "WEBP")

MAX_BYTES = 20 * 2**20  # of an input file
MAX_PIXELS = 32_000_000  # of an input picture; 96 MB as RGB

# Exif tag numbers (Exif 2.32, 4.6.3 to 4.6.5).
_IMAGE_DESCRIPTION, _EXIF_IFD, _USER_COMMENT = 0x010E, 0x8769, 0x9286
_COMMENT_BYTES = 60_000  # of JSON in one JPEG segment, which holds 65,533 bytes


def load_image(path: Path | str) -> Image.Image:
    """Decode an untrusted picture file.

    Returns RGB, upright (Exif orientation applied), transparency laid on white; of an animation
    the first frame.

    Raises:
        MediaError: not a file, over 20 MB or 32 megapixels, another format, or damaged.
    """
    path = Path(path)
    return decode_image(read_input(path, MAX_BYTES, "pictures"), printable(path))


def decode_image(data: bytes, name: str = "image") -> Image.Image:
    """Decode an untrusted picture in memory, as `load_image` does; `name` is for the error."""
    check_size(len(data), MAX_BYTES, "pictures", name)
    trim_readers()
    with _stern(), _opened(io.BytesIO(data), name) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise MediaError(_too_large(name, f"{width}x{height}"))
        try:
            return _upright_rgb(image)
        except Exception as error:  # damaged bytes make decoders raise almost anything
            raise MediaError(damaged(name)) from error


def encode_image(image: Image.Image, ext: str, metadata: Mapping[str, Any]) -> bytes:
    """Encode a picture with its records; whatever metadata `image` itself carries is left out.

    Args:
        image: any mode; written as RGB.
        ext: `png`, `jpg`, `jpeg` or `webp`, with or without a dot. JPEG and WEBP are written at
            quality 95, JPEG without chroma subsampling.
        metadata: any of `affect` (JSON object, or its text), `parameters`, `digital_source` (str).

    Raises:
        MediaError: another suffix, or an `affect` record over 1 MB.
    """
    kind = FORMATS.get(ext.lower().removeprefix("."))
    if kind is None:
        msg = (
            f"ext: pictures are written as png, jpg or webp, received {ext!r}; choose one of these"
        )
        raise MediaError(msg)
    record = record_bytes(metadata)
    parameters = str(metadata.get("parameters", ""))
    xmp = xmp_packet(str(metadata.get("digital_source", "")))

    clean = image.convert("RGB")
    clean.info = {}
    file = io.BytesIO()
    if kind == "PNG":
        clean.save(file, "PNG", pnginfo=_png_chunks(record, parameters, xmp), compress_level=6)
        return file.getvalue()
    options: dict[str, Any] = {"quality": 95}
    if xmp:
        options["xmp"] = xmp.encode()
    if kind == "JPEG":
        exif = _exif(b"", parameters)
        clean.save(file, "JPEG", subsampling=0, optimize=True, exif=exif, **options)
        return _with_comments(file.getvalue(), record)
    clean.save(file, "WEBP", method=4, exif=_exif(record, parameters), **options)
    return file.getvalue()


def read_metadata(path: Path | str) -> dict[str, Any]:
    """Read what a file says about itself: a picture, notes, a sound or a film; nothing is decoded.

    Returns what its encoder was given: those of `affect`, `parameters` and `digital_source` that
    are there, so nothing for a file from elsewhere. Hostile until checked.

    Raises:
        MediaError: no format that is read here, damaged, or an `affect` record that is no JSON.
    """
    path = Path(path)
    name = printable(path)
    check_file(path, None, "pictures, sounds, films or MIDI files")
    try:
        with path.open("rb") as file:
            magic = file.read(16)
            file.seek(0)
            if _kind(magic) is not None:
                return _image_metadata(file, name)
    except OSError as error:
        msg = f"{name}: cannot be read ({error.strerror}); check the path"
        raise MediaError(msg) from error
    from pipelines import media_midi, media_sound, media_video

    if media_midi.is_midi(magic):
        return media_midi.read_midi_metadata(path)
    if media_video.is_mp4(magic):
        return media_video.read_video_metadata(path)
    if media_sound.kind_of(magic) is not None:
        return media_sound.read_sound_metadata(path)
    msg = (
        f"{name}: its content is no PNG, JPEG or WEBP, nor MIDI, WAV, FLAC, MP3 or MP4, "
        "whatever its name says; convert it"
    )
    raise MediaError(msg)


def trim_readers() -> None:
    """Leave only the PNG, JPEG and WEBP readers in this process, for every library in it.

    Pillow tries 43 decoders on any file that some library opens; nearly all of its security fixes
    are in those that nobody here needs. Writers stay. Pictures over MAX_PIXELS are refused before
    they are decoded, whichever library opens them: Pillow refuses at twice its own limit, and
    below it only warns (169 MP are then decoded, in 800 MB).
    """
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    if list(READERS) != Image.ID:
        Image.init()  # or a later init() would bring the others back
        Image.ID[:] = list(READERS)


def _opened(file: BinaryIO, name: str) -> Image.Image:
    """Open by the first bytes with that one decoder; no pixel is decoded yet."""
    kind = _kind(file.read(16))
    file.seek(0)
    if kind is None:
        msg = f"{name}: its content is no PNG, JPEG or WEBP, whatever its name says; convert it"
        raise MediaError(msg)
    try:
        return Image.open(file, formats=[kind])
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        size = re.search(r"\((\d+) pixels\)", str(error))
        raise MediaError(_too_large(name, f"{size[1]} pixels" if size else "more")) from error
    except Exception as error:
        raise MediaError(damaged(name)) from error


@contextmanager
def _stern() -> Iterator[None]:
    """Make Pillow's bomb warning (89 to 179 megapixels) an error; drop its grumbling over Exif."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _kind(magic: bytes) -> str | None:
    if magic.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if magic.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if magic[:4] == b"RIFF" and magic[8:12] == b"WEBP":
        return "WEBP"
    return None


def _upright_rgb(image: Image.Image) -> Image.Image:
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16-bit grey: convert() would clip at 255
        import numpy as np

        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    image = image.convert("RGB")
    image.info = {}
    return image


def _records(image: Image.Image, file: BinaryIO) -> tuple[bytes, str, str]:
    """`affect` JSON, `parameters` and XMP of an opened file, empty where absent."""
    if image.format == "PNG":
        text = {k: v for k, v in image.info.items() if isinstance(v, str)}
        xmp = text.get("XML:com.adobe.xmp", "")
        return text.get("affect", "").encode(), text.get("parameters", ""), xmp
    packet = image.info.get("xmp", b"")
    xmp = packet.decode("utf-8", "replace") if isinstance(packet, bytes) else str(packet)
    exif = image.getexif()
    comment = exif.get_ifd(_EXIF_IFD).get(_USER_COMMENT, b"")
    parameters = ""
    if isinstance(comment, bytes) and comment.startswith(b"UNICODE\0"):
        parameters = comment[8:].decode("utf-16-be", "replace")
    if image.format == "JPEG":
        return joined_parts(_com_segments(file)), parameters, xmp
    description = exif.get(_IMAGE_DESCRIPTION, "")
    # WEBP of other programs use this field for a caption: only a JSON object is ours
    ours = isinstance(description, str) and description.startswith("{")
    return description.encode() if ours else b"", parameters, xmp


def _image_metadata(file: BinaryIO, name: str) -> dict[str, Any]:
    try:
        with _stern(), _opened(file, name) as image:
            record, parameters, xmp = _records(image, file)
    except MediaError:
        raise
    except Exception as error:  # as above: damaged bytes make parsers raise almost anything
        raise MediaError(damaged(name)) from error
    return found_records(record, parameters, source_of(xmp), name)


def _png_chunks(record: bytes, parameters: str, xmp: str) -> Any:
    from PIL.PngImagePlugin import PngInfo

    chunks = PngInfo()
    if record:
        chunks.add_itxt("affect", record.decode("ascii"))
    if parameters:
        chunks.add_text("parameters", parameters)
    if xmp:
        chunks.add_itxt("XML:com.adobe.xmp", xmp)
    return chunks


def _exif(description: bytes, parameters: str) -> bytes:
    """An Exif block; big-endian, because UserComment's UTF-16 follows the block's byte order."""
    exif = Image.Exif()
    exif.endian = ">"
    if description:
        exif[_IMAGE_DESCRIPTION] = description.decode("ascii")
    if parameters:
        text = parameters.encode("utf-16-be", "replace")
        exif.get_ifd(_EXIF_IFD)[_USER_COMMENT] = b"UNICODE\0" + text
    return exif.tobytes() if description or parameters else b""


def _with_comments(jpeg: bytes, record: bytes) -> bytes:
    """Put the record into COM segments `affect i/n ...` behind the APP segments."""
    if not record:
        return jpeg
    at = 2
    while 0xE0 <= jpeg[at + 1] <= 0xEF:
        at += 2 + struct.unpack_from(">H", jpeg, at + 2)[0]
    segments = b""
    for payload in record_parts(record, _COMMENT_BYTES):
        segments += b"\xff\xfe" + struct.pack(">H", len(payload) + 2) + payload
    return jpeg[:at] + segments + jpeg[at:]


def _com_segments(file: BinaryIO) -> Iterator[bytes]:
    """COM payloads before the first scan."""
    file.seek(2)
    while True:
        head = file.read(4)
        if len(head) < 4 or head[0] != 0xFF or head[1] == 0xDA:
            return
        length = max(struct.unpack(">H", head[2:])[0] - 2, 0)
        if head[1] == 0xFE:
            yield file.read(length)
        else:
            file.seek(length, io.SEEK_CUR)


def _too_large(name: str, size: str) -> str:
    limit = MAX_PIXELS // 1_000_000
    return f"{name}: pictures may have {limit} megapixels, this has {size}; scale it down first"
