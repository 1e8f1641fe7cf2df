"""Take: what was made, and the file that says what was asked.

A `Take` is a finished file that carries its `Request`, so `Take.read(path)` needs no ledger and no
folder around it. The file holds no time and no duration, so the same request gives the same
bytes; those are in the ledger.

This file deliberately does not know how media are made, nor any codec, nor what a reading means.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date
from importlib import metadata as packages
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines import ledger, media
from pipelines.ledger import TakeError, prepare_out, write_atomic
from pipelines.request import FORMAT, Request, plain_object

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "Request",
    "Take",
    "TakeError",
    "parameters_line",
    "prepare_out",
    "record_failure",
    "versions",
    "write_atomic",
    "write_take",
]

SLUG = 40  # characters; long prompts as names break on Windows at 260
_LIBRARIES = ("affect-studio", "torch", "diffusers", "transformers", "peft", "pillow")


@dataclass(frozen=True, slots=True)
class Take:
    """A finished file and what is known about it.

    sha256: of the file, hex. reading: what critics read, plain JSON, numbers to 4 places.
    seconds: how long it took; None when read from the file, which does not hold it.
    versions: library -> version. chosen: how it was picked among candidates, None when it was not.
    """

    request: Request
    path: Path
    sha256: str
    reading: dict[str, Any] | None = None
    seconds: float | None = None
    versions: dict[str, str] = field(default_factory=dict)
    chosen: dict[str, Any] | None = None

    @classmethod
    def read(cls, path: Path | str) -> Take:
        """Read a take back from its media file alone.

        Raises:
            TakeError: the file carries no request of ours, or one that this version cannot read.
            MediaError: it is no PNG, JPEG or WEBP, or is damaged.
        """
        path = Path(path)
        record = media.read_metadata(path).get("affect")
        name = media.printable(path)
        if record is None:
            msg = f"{name}: carries no request; only files made by affect, unchanged, can be read"
            raise TakeError(msg)
        if record.get("format") != FORMAT:
            found = str(record.get("format"))[:20]
            msg = f"{name}: record of format {found!r}, this version reads {FORMAT}; update affect"
            raise TakeError(msg)
        try:
            request = Request.from_json(record.get("request", {}))
            reading = _optional_object(record.get("reading"), "reading")
            chosen = _optional_object(record.get("chosen"), "chosen")
            given = plain_object(record.get("versions") or {}, "versions")
        except ValueError as error:
            msg = f"{name}: {error}"
            raise TakeError(msg) from error
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        found_versions = {key: str(value) for key, value in given.items()}
        return cls(request, path, sha256, reading, None, found_versions, chosen)

    def to_json(self) -> dict[str, Any]:
        """The take as plain JSON: what `--json` prints and, with a relative path, the ledger."""
        return {
            "key": self.request.key,
            "status": "done",
            "path": self.path.as_posix(),
            "sha256": self.sha256,
            "request": self.request.to_json(),
            "reading": self.reading,
            "seconds": self.seconds,
            "versions": self.versions,
            "chosen": self.chosen,
        }


def write_take(
    request: Request,
    data: Image | bytes,
    out_dir: Path | str,
    *,
    reading: Mapping[str, Any] | None = None,
    seconds: float | None = None,
    ext: str = "png",
    chosen: Mapping[str, Any] | None = None,
    day: date | None = None,
) -> Take:
    """Write one finished result: the file, whole or not at all, then its ledger line.

    Args:
        request: what was asked; its record goes into the file.
        data: a PIL image, encoded here, or bytes of a file that carries its record already.
        out_dir: the output folder; `prepare_out` should have been called before generating.
        reading: what critics read, plain JSON; numbers are rounded to 4 places.
        seconds: how long it took; for the ledger only.
        ext: suffix without the dot; for an image png, jpg or webp.
        chosen: how it was picked, for example {"of": 8, "rank": 1}.
        day: for the folder; today when not given.

    Returns:
        The take; its file is `out_dir/<day>/<modality>/<key8>-<emotion>-<slug>.<ext>`.

    Raises:
        TakeError: no space or no right to write. Then neither a file nor a ledger line is left.
    """
    out_dir = Path(out_dir)
    read = _rounded(_optional_object(reading, "reading"))
    picked = _optional_object(chosen, "chosen")
    if not isinstance(data, bytes):
        record = {
            "format": FORMAT,
            "key": request.key,
            "request": request.to_json(),
            "reading": read,
            "chosen": picked,
            "versions": versions(),
        }
        texts = {
            "affect": record,
            "parameters": parameters_line(request, data.size),
            "digital_source": digital_source(request),
        }
        data = media.encode_image(data, ext, texts)
    path = out_dir / take_name(request, ext, day or date.today())
    is_new = not path.exists()
    write_atomic(path, data)
    sha256 = hashlib.sha256(data).hexdigest()
    rounded = None if seconds is None else round(seconds, 3)
    take = Take(request, path, sha256, read, rounded, versions(), picked)
    try:
        line = {**take.to_json(), "path": path.relative_to(out_dir).as_posix()}
        ledger.append(out_dir, line)
    except BaseException:
        if is_new:
            with suppress(OSError):
                path.unlink()
        raise
    return take


def record_failure(request: Request, error: BaseException, out_dir: Path | str) -> None:
    """Write into the ledger that a request failed, with the one line that says why."""
    text = " ".join(str(error).split())[:500] or type(error).__name__
    line = {
        "key": request.key,
        "status": "failed",
        "request": request.to_json(),
        "versions": versions(),
        "error": text,
    }
    ledger.append(out_dir, line)


def take_name(request: Request, ext: str, day: date) -> Path:
    """The file's path below the output folder: ASCII letters, digits and hyphens in each part.

    No part is taken from a prompt unfiltered, so no prompt can name another folder; each name
    starts with the key, so it is no reserved name either.
    """
    suffix = ext.lower().removeprefix(".")
    if not re.fullmatch(r"[a-z0-9]{1,8}", suffix):
        msg = f"ext: a file suffix such as png, received {ext[:20]!r}"
        raise TakeError(msg)
    parts = (request.key[:8], slug(request.emotion.dominant), slug(request.prompt))
    name = "-".join(part for part in parts if part)
    return Path(day.isoformat(), request.modality, f"{name}.{suffix}")


def slug(text: str) -> str:
    """At most 40 lower-case ASCII letters, digits and hyphens, cut at a word; may be empty."""
    plain = unicodedata.normalize("NFKD", text[:400]).encode("ascii", "ignore").decode().lower()
    words = re.findall(r"[a-z0-9]+", plain)
    kept = ""
    for word in words:
        longer = f"{kept}-{word}" if kept else word[:SLUG]
        if len(longer) > SLUG:
            break
        kept = longer
    return kept


def parameters_line(request: Request, size: tuple[int, int] | None = None) -> str:
    """The prompt and settings in the form of AUTOMATIC1111's "PNG info", which many tools show.

    Three lines: prompt, negative prompt when there is one, settings. The prompt is put on one
    line, so that no prompt can pose as settings, and cut at 4,000 characters: the exact one is in
    the `affect` record.
    """
    params = request.params
    lines = [_one_line(request.prompt)]
    if negative := _one_line(str(params.get("negative_prompt") or "")):
        lines.append(f"Negative prompt: {negative}")
    settings: dict[str, Any] = {
        "Steps": params.get("steps"),
        "CFG scale": params.get("guidance_scale"),
        "Seed": request.seed,
        "Size": f"{size[0]}x{size[1]}" if size else None,
        "Model": request.backbone,
        "Model hash": request.weights or None,
        "Emotion": request.emotion.text,
        "Version": f"affect-studio {versions().get('affect-studio', '')}".strip(),
    }
    keep = params.get("keep")
    if request.inputs and isinstance(keep, (int, float)):
        settings["Denoising strength"] = round(1 - keep, 4)
    given = [f"{name}: {_quoted(value)}" for name, value in settings.items() if value is not None]
    lines.append(", ".join(given))
    return "\n".join(lines)


def digital_source(request: Request) -> str:
    """The IPTC DigitalSourceType: made by a model, or a real picture changed by one.

    An input that is itself one of our pictures made from words does not make a composite.
    """
    for path in request.inputs.values():
        with suppress(media.MediaError):
            if media.read_metadata(path).get("digital_source") == media.TRAINED:
                continue
        return media.COMPOSITE
    return media.TRAINED


@functools.cache
def versions() -> dict[str, str]:
    """Library -> installed version, of those that decide a result; imports none of them."""
    found = {}
    for name in _LIBRARIES:
        with suppress(packages.PackageNotFoundError):
            found[name] = packages.version(name)
    return found


def _optional_object(value: Any, name: str) -> dict[str, Any] | None:
    return None if value is None else plain_object(value, name)


def _rounded(value: Any) -> Any:
    """Floats to 4 places: a critic's last digits change with the number of threads."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return round(value, 4) if isinstance(value, float) else value


def _one_line(text: str) -> str:
    printable = "".join(c if c.isprintable() else " " for c in text[:4000])
    return " ".join(printable.split())


def _quoted(value: Any) -> str:
    """A setting's value; quoted as JSON when the comma-separated form would break it."""
    text = _one_line(str(value))
    return json.dumps(text, ensure_ascii=False) if re.search(r'[,:"]', text) else text
