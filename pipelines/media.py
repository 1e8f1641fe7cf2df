"""The only file that touches codecs: untrusted media in, finished media with its metadata out.

Pictures are PNG, JPEG or WEBP, told apart by their first bytes and never by their name, and only
that one decoder is started. It deliberately does not know what a request is: it carries three
records and gives them back unchanged:

* `affect`: a JSON object, the whole request. PNG: iTXt chunk; JPEG: COM segments, because an APP1
  segment ends at 64 kB; WEBP: Exif ImageDescription. The JSON is ASCII, other characters escaped.
* `parameters`: the line that picture tools show as "PNG info" (AUTOMATIC1111's form). PNG: tEXt
  (iTXt when not latin-1); JPEG and WEBP: Exif UserComment in UTF-16, as those tools write it.
* `digital_source`: the IPTC DigitalSourceType, as an XMP packet (IPTC Photo Metadata Standard
  2023.2; XMP part 3 for the place in each format).

No record holds a time, so the same picture with the same records is the same bytes.
"""

from __future__ import annotations

import html
import io
import json
import re
import stat
import struct
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image, ImageOps

TRAINED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""DigitalSourceType of a picture that a model made from words."""
COMPOSITE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
"""DigitalSourceType of a real picture that a model changed."""

FORMATS = {"png": "PNG", "jpg": "JPEG", "jpeg": "JPEG", "webp": "WEBP"}
"""Suffix without the dot -> Pillow's name of the format."""
READERS = ("PNG", "JPEG", "WEBP")

MAX_BYTES = 20 * 2**20  # of an input file
MAX_PIXELS = 32_000_000  # of an input picture; 96 MB as RGB
MAX_RECORD = 2**20  # of the `affect` JSON: longer text chunks are refused by Pillow's reader

# Exif tag numbers (Exif 2.32, 4.6.3 to 4.6.5).
_IMAGE_DESCRIPTION, _EXIF_IFD, _USER_COMMENT = 0x010E, 0x8769, 0x9286
_COMMENT_MARK = b"affect "
_COMMENT_BYTES = 60_000  # of JSON in one JPEG segment, which holds 65,533 bytes

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


class MediaError(ValueError):
    """A media file cannot be read or written: one line that says which, why and what to do."""


def load_image(path: Path | str) -> Image.Image:
    """Decode an untrusted picture file.

    Returns RGB, upright (Exif orientation applied), transparency laid on white; of an animation
    the first frame.

    Raises:
        MediaError: not a file, over 20 MB or 32 megapixels, another format, or damaged.
    """
    path = Path(path)
    _check_file(path)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        msg = f"{printable(path)}: cannot be read ({error.strerror}); check the path"
        raise MediaError(msg) from error
    return decode_image(data, printable(path))


def decode_image(data: bytes, name: str = "image") -> Image.Image:
    """Decode an untrusted picture in memory, as `load_image` does; `name` is for the error."""
    if len(data) > MAX_BYTES:
        msg = f"{name}: pictures may have {MAX_BYTES >> 20} MB, this has more; save a smaller one"
        raise MediaError(msg)
    trim_readers()
    with _stern(), _opened(io.BytesIO(data), name) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise MediaError(_too_large(name, f"{width}x{height}"))
        try:
            return _upright_rgb(image)
        except Exception as error:  # damaged bytes make decoders raise almost anything
            raise MediaError(_damaged(name)) from error


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
    record = b""
    if "affect" in metadata:
        # ASCII: control characters and any script survive every container, and every terminal
        given = metadata["affect"]
        value = json.loads(given) if isinstance(given, str) else given
        record = json.dumps(value, allow_nan=False, sort_keys=True).encode("ascii")
    if len(record) > MAX_RECORD:
        size = f"{len(record) / 2**20:.1f} MB"
        msg = (
            f"affect: a record may have {MAX_RECORD >> 20} MB, received {size}; shorten the prompt"
        )
        raise MediaError(msg)
    parameters = str(metadata.get("parameters", ""))
    source = str(metadata.get("digital_source", ""))
    xmp = _XMP.format(source=html.escape(source)) if source else ""

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
    """Read what a picture file says about itself, without decoding its pixels.

    Returns what `encode_image` was given: those of `affect`, `parameters` and `digital_source` that
    are there, so nothing for a picture from elsewhere. Hostile until checked.

    Raises:
        MediaError: not a PNG, JPEG or WEBP file, damaged, or an `affect` record that is no JSON.
    """
    path = Path(path)
    name = printable(path)
    _check_file(path, any_size=True)
    try:
        with _stern(), path.open("rb") as file, _opened(file, name) as image:
            record, parameters, xmp = _records(image, file)
    except MediaError:
        raise
    except Exception as error:  # as above: damaged bytes make parsers raise almost anything
        raise MediaError(_damaged(name)) from error
    found: dict[str, Any] = {}
    if record:
        found["affect"] = _json_object(record, name)
    if parameters:
        found["parameters"] = parameters
    if source := _SOURCE.search(xmp):
        found["digital_source"] = html.unescape(source[1])
    return found


def trim_readers() -> None:
    """Leave only the PNG, JPEG and WEBP readers in this process, for every library in it.

    Pillow tries 43 decoders on any file that some library opens; nearly all of its security fixes
    are in those that nobody here needs. Writers stay.
    """
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
        raise MediaError(_damaged(name)) from error


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
        return _comments(file), parameters, xmp
    description = exif.get(_IMAGE_DESCRIPTION, "")
    # WEBP of other programs use this field for a caption: only a JSON object is ours
    ours = isinstance(description, str) and description.startswith("{")
    return description.encode() if ours else b"", parameters, xmp


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
    parts = [record[i : i + _COMMENT_BYTES] for i in range(0, len(record), _COMMENT_BYTES)]
    segments = b""
    for i, part in enumerate(parts, 1):
        payload = _COMMENT_MARK + f"{i}/{len(parts)} ".encode() + part
        segments += b"\xff\xfe" + struct.pack(">H", len(payload) + 2) + payload
    return jpeg[:at] + segments + jpeg[at:]


def _comments(file: BinaryIO) -> bytes:
    """Join our COM segments; empty when there are none or one of them is missing."""
    parts: dict[int, bytes] = {}
    total = 0
    for payload in _com_segments(file):
        head = re.match(rb"affect (\d{1,3})/(\d{1,3}) ", payload[:20])
        if head:
            total = int(head[2])
            parts[int(head[1])] = payload[head.end() :]
    if sorted(parts) != list(range(1, total + 1)):
        return b""
    return b"".join(parts[i] for i in sorted(parts))


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


def _check_file(path: Path, *, any_size: bool = False) -> None:
    try:
        status = path.stat()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        msg = f"{printable(path)}: no such file, or not readable; check the path"
        raise MediaError(msg) from error
    if not stat.S_ISREG(status.st_mode):  # a pipe would wait for ever, a device never end
        msg = f"{printable(path)}: not a file; give the path of a picture"
        raise MediaError(msg)
    if status.st_size > MAX_BYTES and not any_size:
        allowed, size = f"{MAX_BYTES >> 20} MB", f"{status.st_size / 2**20:.0f} MB"
        msg = f"{printable(path)}: pictures may have {allowed}, this has {size}; save a smaller one"
        raise MediaError(msg)


def printable(path: Path) -> str:
    """The path on one line, printable, not longer than 200 characters."""
    text = "".join(c if c.isprintable() else "?" for c in str(path))
    return text if len(text) <= 200 else f"...{text[-197:]}"


def _too_large(name: str, size: str) -> str:
    limit = MAX_PIXELS // 1_000_000
    return f"{name}: pictures may have {limit} megapixels, this has {size}; scale it down first"


def _damaged(name: str) -> str:
    return f"{name}: damaged or cut short, cannot be decoded; save or download it again"
