"""`affect verify FILE`: what a file says about its making, and how far that can be checked.

A record in a file is a claim that anybody can write. What is checked: that the record is whole and
its key is that of its request; that the bytes are those the ledger beside it knows; that content
credentials hold, where there are any (pipelines.provenance); that the mark in the pixels is there
or not (pipelines.watermark), which is left when a site has stripped the records. What cannot be
checked is said to be so. `affect sign` writes a copy with content credentials under a certificate
of the user's own.

This file deliberately judges no picture: a file without a word about its making may be anything.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from studio.console import note, one_line, result, result_json, table_console

if TYPE_CHECKING:
    from pipelines.take import Request

ABOVE = 4  # folders above a file where its ledger may be: day, modality, and two of the user's


@dataclass(slots=True)
class Report:
    """What was found out; every text may be a stranger's.

    problems: what contradicts itself, a line each; a file without them may still be a forgery.
    """

    file: str
    sha256: str
    synthetic: str = "not stated"
    made_by: str = ""
    record: str = "none"
    ledger: str = "none beside it"
    consent: str = ""
    credentials: str = "none"
    watermark: str = ""
    problems: list[str] = field(default_factory=list)


def app() -> typer.Typer:
    """The verb `verify`."""
    verb = typer.Typer(add_completion=False)
    verb.command()(verify)
    return verb


def sign_app() -> typer.Typer:
    """The verb `sign`."""
    verb = typer.Typer(add_completion=False)
    verb.command()(sign)
    return verb


def verify(
    file: Annotated[Path, typer.Argument(help="A picture, sound, film or MIDI file.")],
    *,
    anchors: Annotated[
        Path | None, typer.Option("--anchors", help="PEM certificates whose signers you trust.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> int:
    """Say what FILE says about its making and whether it holds: 0 it does, 1 it does not.

    A file that says nothing is 1 as well: it may have been made in any way.
    """
    report = examine(file, anchors)
    if as_json:
        result_json(asdict(report))
    else:
        from rich.table import Table
        from rich.text import Text

        table = Table(show_header=False, box=None, pad_edge=False)
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in asdict(report).items():
            if name != "problems" and value:
                table.add_row(name.replace("_", " "), Text(one_line(str(value), 300)))
        table_console().print(table)
    for problem in report.problems:
        note(problem)
    return 1 if report.problems else 0


def sign(
    file: Annotated[Path, typer.Argument(help="A take: PNG, JPEG, WEBP, WAV, MP3 or MP4.")],
    *,
    certificate: Annotated[
        Path, typer.Option("--certificate", help="PEM certificates of the signer, the own first.")
    ],
    key: Annotated[Path, typer.Option("--key", help="PEM private key without a passphrase.")],
    to: Annotated[
        Path | None, typer.Option("--to", help="The signed copy; NAME-signed beside the file.")
    ] = None,
) -> int:
    """Write a copy of FILE with content credentials (C2PA) under your certificate; print it."""
    from pipelines import provenance
    from pipelines.media_records import check_file

    check_file(file, provenance.MAX_BYTES, "takes")
    target = to or file.with_name(f"{file.stem}-signed{file.suffix}")
    result(str(provenance.sign(file, target, chain=certificate, key=key)))
    return 0


def examine(path: Path, anchors: Path | None = None) -> Report:
    """Everything that can be said of a file.

    Raises:
        MediaError: it is no file, or of no kind that is read here.
    """
    from pipelines.media import MediaError, read_metadata
    from pipelines.media_records import check_file
    from pipelines.provenance import source_word
    from pipelines.take import Take

    check_file(path, None, "files")
    with path.open("rb") as file:
        report = Report(str(path), hashlib.file_digest(file, "sha256").hexdigest())
    try:
        said = read_metadata(path)
    except MediaError as error:
        if path.suffix.lower().removeprefix(".") not in _KINDS:
            raise
        report.record = "damaged"
        report.problems.append(str(error))
        _check_credentials(path, anchors, "", report)
        return report
    mark = _mark_in(path)
    report.watermark = mark.text if mark else ""
    source = str(said.get("digital_source", ""))
    report.synthetic = source_word(source) or "not stated"
    if "affect" in said:
        try:
            take = Take.read(path)
        except ValueError as error:
            report.record = "cannot be read"
            report.problems.append(str(error))
        else:
            request = take.request
            version = take.versions.get("affect-studio", "")
            weights = f", weights {request.weights[:12]}" if request.weights else ""
            report.made_by = f"affect-studio {version}: {request.backbone}{weights}"
            report.consent = consent_of(request)
            if mark and request.params.get("watermark") is True and not mark.found:
                report.problems.append(f"{path.name}: it was made with a watermark, it has none")
            kept = said["affect"].get("key") == request.key
            report.record = "whole" if kept else "altered: its key is not that of its request"
            if not kept:
                report.problems.append(f"{path.name}: the record was altered after it was written")
            if not source:
                report.problems.append(f"{path.name}: the mark as synthetic was taken away")
            report.ledger = in_ledger(path, report, request)
    signed = _check_credentials(path, anchors, source, report)
    if mark and mark.found and report.synthetic == "not stated":
        report.synthetic = "made by a model, as its watermark says; its records were taken away"
    elif "affect" not in said and not source and not signed:
        report.problems.append(
            f"{path.name}: says nothing about its making; it may have been made in any way"
        )
    return report


@dataclass(frozen=True, slots=True)
class _Mark:
    found: bool
    text: str


def _mark_in(path: Path) -> _Mark | None:
    """What is found of the mark in a picture; None for what is no picture."""
    from pipelines.media import FORMATS, MediaError, load_image
    from pipelines.watermark import SURE, strength

    if path.suffix.lower().removeprefix(".") not in FORMATS:
        return None
    try:
        image = load_image(path)
    except MediaError:  # too large to be decoded here; its records were read all the same
        return _Mark(False, "not looked for: the picture cannot be decoded here")
    found = strength(image)
    if found >= SURE:
        return _Mark(True, f"found (strength {found:.1f}; none has 0 ± 1; anybody can put one in)")
    return _Mark(False, f"none found (strength {found:.1f}, told from {SURE:g} on)")


_KINDS = ("png", "jpg", "jpeg", "webp", "wav", "flac", "mp3", "mp4", "mid")


def _check_credentials(path: Path, anchors: Path | None, source: str, report: Report) -> bool:
    """Look at content credentials; whether there are any, as far as can be told here."""
    from pipelines import provenance

    if not provenance.available():
        report.credentials = 'not looked at (`pip install "affect-studio[c2pa]"`)'
        if anchors is not None:
            provenance.credentials(path, anchors)  # says in one line that it is not installed
        return False
    found = provenance.credentials(path, anchors)
    if found is None:
        return False
    who = f", signed by {found.issuer}" if found.issuer else ""
    words = {
        "trusted": "hold, by somebody you trust",
        "valid": "hold; whether to trust the signer is yours to say (--anchors)",
    }
    report.credentials = f"{words.get(found.state, 'do not hold')}{who}"
    if found.state not in words:
        why = ", ".join(found.problems) or found.state
        report.problems.append(f"{path.name}: its content credentials do not hold ({why})")
    elif found.sources and source and source not in found.sources:
        report.problems.append(f"{path.name}: its credentials and its record differ on its making")
    if report.synthetic == "not stated" and found.sources:
        report.synthetic = provenance.source_word(found.sources[0])
    return True


def consent_of(request: Request) -> str:
    """What a take says of the people in it; empty when there can be none."""
    from studio.consent import is_nobodys
    from studio.make import people_in

    people = people_in(request.modality, request.inputs)
    if not people:
        return ""
    if "consent" in request.inputs:
        name = request.inputs["consent"].name
        return f"noted: {name}, sha256 {request.digests['consent'][:12]}"
    digests = {path: request.digests[name] for name, path in request.inputs.items()}
    if all(path.is_file() and is_nobodys(path, digests[path]) for path in people):
        return "not needed: what went in is nobody's"
    return "not stated"


def in_ledger(path: Path, report: Report, request: Request) -> str:
    """What the ledger beside a file says of its bytes; a contradiction goes into the report."""
    place = path.absolute()
    for folder in list(place.parents)[:ABOVE]:
        if not (folder / "takes.jsonl").is_file():
            continue
        relative = place.relative_to(folder).as_posix()
        copies = []
        told = ""
        for line in _lines_of(folder, (relative, request.key)):
            if line.get("path") == relative:
                told = "as it was made" if line.get("sha256") == report.sha256 else "changed"
            elif relative in (line.get("companions") or []):
                told = f"lies beside {Path(str(line.get('path'))).name}; its bytes are not kept"
            elif line.get("key") == request.key:
                copies.append(str(line.get("path")))
        if told == "changed":
            report.problems.append(f"{path.name}: its bytes are not those that were made")
            return "changed since it was made"
        if told:
            return told
        if copies:
            return f"a copy of {copies[-1]}, perhaps signed or encoded again"
        return "does not know it"
    return "none beside it"


def _lines_of(folder: Path, names: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Ledger lines of finished takes that name one of these; others are not even parsed."""
    wanted = [json.dumps(name)[1:-1].encode() for name in names]
    with (folder / "takes.jsonl").open("rb") as file:
        for text in file:
            if any(name in text for name in wanted):
                with suppress(ValueError, RecursionError):
                    line = json.loads(text)
                    if isinstance(line, dict) and line.get("status") == "done":
                        yield line
