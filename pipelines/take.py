"""Take: what was made, and the file that says what was asked.

A `Take` is a finished file that carries its `Request`, so `Take.read(path)` needs no ledger and no
folder around it. The same result in other media lies beside it as companions (of a MIDI file its
sound and a picture of its notes), each with the same record. A file holds no time and no duration,
so the same request gives the same bytes; those are in the ledger.

This file deliberately does not know how media are made, nor any codec, nor what a reading means.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import unicodedata
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date
from importlib import metadata as packages
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from pipelines import ledger, media
from pipelines.ledger import TakeError, prepare_out, write_atomic
from pipelines.request import FORMAT, Request, plain_object

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "Encoder",
    "Request",
    "Take",
    "TakeError",
    "digital_source",
    "parameters_line",
    "prepare_out",
    "record_failure",
    "versions",
    "write_atomic",
    "write_take",
]

Encoder: TypeAlias = Callable[[Mapping[str, Any]], bytes]
"""Makes the bytes of a file from the records it is to carry: affect, parameters, digital_source."""

SLUG = 40  # characters; long prompts as names break on Windows at 260
_LIBRARIES = (
    "affect-studio", "torch", "diffusers", "transformers", "peft", "pillow", "numpy", "miditok",
)  # fmt: skip
_BESIDE = ("soundfont", "consent")
"""Inputs that are no part of the result: what it is played on, and who agreed to it."""
_SHOWN = ("steps", "guidance_scale", "negative_prompt", "keep")
"""Params with names of their own in the `parameters` line."""


@dataclass(frozen=True, slots=True)
class Take:
    """A finished file and what is known about it.

    sha256: of the file, hex. reading: what critics read, plain JSON, numbers to 4 places.
    seconds: how long it took; None when read from the file, which does not hold it.
    versions: library -> version. chosen: how it was picked among candidates, None when it was not.
    companions: the same result in other media, beside the file; none when read from the file, which
    does not know them.
    """

    request: Request
    path: Path
    sha256: str
    reading: dict[str, Any] | None = None
    seconds: float | None = None
    versions: dict[str, str] = field(default_factory=dict)
    chosen: dict[str, Any] | None = None
    companions: tuple[Path, ...] = ()

    @classmethod
    def read(cls, path: Path | str) -> Take:
        """Read a take back from its media file alone.

        Raises:
            TakeError: the file carries no request of ours, or one that this version cannot read.
            MediaError: it is of no format that is written here, or is damaged.
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
            "companions": [path.as_posix() for path in self.companions],
            "sha256": self.sha256,
            "request": self.request.to_json(),
            "reading": self.reading,
            "seconds": self.seconds,
            "versions": self.versions,
            "chosen": self.chosen,
        }


def write_take(
    request: Request,
    data: Image | bytes | Encoder,
    out_dir: Path | str,
    *,
    reading: Mapping[str, Any] | None = None,
    seconds: float | None = None,
    ext: str = "png",
    chosen: Mapping[str, Any] | None = None,
    companions: Mapping[str, bytes | Encoder] | None = None,
    settings: Mapping[str, Any] | None = None,
    day: date | None = None,
) -> Take:
    """Write one finished result: its files, whole or not at all, then its ledger line.

    Args:
        request: what was asked; its record goes into every file.
        data: a PIL image, encoded here; or a function that is given the records and returns the
            bytes of the file; or bytes of a file that carries its record already.
        out_dir: the output folder; `prepare_out` should have been called before generating.
        reading: what critics read, plain JSON; numbers are rounded to 4 places.
        seconds: how long it took; for the ledger only.
        ext: suffix without the dot; for an image png, jpg or webp.
        chosen: how it was picked, for example {"of": 8, "rank": 1}.
        companions: suffix -> bytes or function, as `data`: the result in other media, under the
            same name; a suffix of two parts ("neutral.wav") is what it was made from.
        settings: what the making settled, for the `parameters` line: {"Tempo": 72}.
        day: for the folder; today when not given.

    Returns:
        The take; its file is `out_dir/<day>/<modality>/<key8>-<emotion>-<slug>.<ext>`.

    Raises:
        TakeError: no space or no right to write, or two files of one suffix. Then neither a file
            nor a ledger line is left, nor when an encoder fails.
    """
    out_dir = Path(out_dir)
    read = _rounded(_optional_object(reading, "reading"))
    picked = _optional_object(chosen, "chosen")
    size = None if isinstance(data, bytes) or callable(data) else data.size
    texts = {
        "affect": {
            "format": FORMAT,
            "key": request.key,
            "request": request.to_json(),
            "reading": read,
            "chosen": picked,
            "versions": versions(),
        },
        "parameters": parameters_line(request, size, settings),
        "digital_source": digital_source(request),
    }
    made_on = day or date.today()
    files: dict[Path, bytes] = {}
    path = out_dir / take_name(request, ext, made_on)
    for suffix, companion in (companions or {}).items():
        beside = out_dir / take_name(request, suffix, made_on)
        if beside == path or beside in files:
            msg = f"ext: two files of a take cannot both be {beside.suffix}; choose another suffix"
            raise TakeError(msg)
        files[beside] = companion if isinstance(companion, bytes) else companion(texts)
    if isinstance(data, bytes):
        files[path] = data
    else:
        encode = data if callable(data) else functools.partial(media.encode_image, data, ext)
        files[path] = encode(texts)
    beside_it = tuple(files)[:-1]
    sha256 = hashlib.sha256(files[path]).hexdigest()
    rounded = None if seconds is None else round(seconds, 3)
    take = Take(request, path, sha256, read, rounded, versions(), picked, beside_it)
    new = ledger.write_together(files)
    try:
        line = take.to_json()
        line["path"] = path.relative_to(out_dir).as_posix()
        line["companions"] = [file.relative_to(out_dir).as_posix() for file in beside_it]
        ledger.append(out_dir, line)
    except BaseException:
        ledger.remove(new)
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
    if not re.fullmatch(r"[a-z0-9]{1,8}(\.[a-z0-9]{1,8})?", suffix):
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


def parameters_line(
    request: Request,
    size: tuple[int, int] | None = None,
    more: Mapping[str, Any] | None = None,
) -> str:
    """The prompt and settings in the form of AUTOMATIC1111's "PNG info", which many tools show.

    Three lines: prompt (the emotion where there is none), negative prompt when there is one,
    settings. The prompt is put on one line, so that no prompt can pose as settings, and cut at
    4,000 characters: the exact one is in the `affect` record.

    Args:
        request: what was asked; of other media than pictures all simple params are settings.
        size: of a picture, width and height.
        more: settings to show behind these, by their names.
    """
    params = request.params
    title = request.prompt.strip() or f"{request.modality}: {request.emotion.text}"
    lines = [_one_line(title)]
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
    }
    if request.modality != "image":
        settings |= {
            name.replace("_", " ").capitalize(): value
            for name, value in params.items()
            if name not in _SHOWN and isinstance(value, (int, float, str)) and value
        }
    settings |= more or {}
    settings["Version"] = f"affect-studio {versions().get('affect-studio', '')}".strip()
    keep = params.get("keep")
    if request.inputs and isinstance(keep, (int, float)):
        settings["Denoising strength"] = round(1 - keep, 4)
    given = [f"{name}: {_quoted(value)}" for name, value in settings.items() if value is not None]
    lines.append(", ".join(given))
    return "\n".join(lines)


def digital_source(request: Request) -> str:
    """The IPTC DigitalSourceType: made by a model, or something real changed by one.

    An input that is itself one of ours made from words does not make a composite.
    """
    for name, path in request.inputs.items():
        if name in _BESIDE:
            continue
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
