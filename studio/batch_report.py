"""What a batch leaves for people: `summary.csv`, a row a job, and a contact page of its takes.

Spreadsheets run what begins like a formula, and a prompt may be a stranger's, so such cells begin
with an apostrophe, as OWASP advises against CSV injection. It deliberately does not know how jobs
are made: it is given what became of each.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.ledger import write_atomic
from studio.page import bars_of

if TYPE_CHECKING:
    from pipelines.take import Take
    from studio.batch_plan import Job

COLUMNS = (
    "line", "id", "status", "modality", "backbone", "emotion", "seed", "prompt", "critic",
    "reader", "seconds", "path", "key", "error",
)  # fmt: skip
MOST = 500  # takes of a page; more are slow to open
FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a job: "done", "skipped" (it was finished before), "failed" or "left".

    take: as the ledger has it, its path from the working folder.
    """

    status: str
    take: Mapping[str, Any] | None = None
    error: str = ""


def write_summary(path: Path, jobs: Sequence[Job], outcomes: Mapping[int, Outcome]) -> Path:
    """Write the CSV of all jobs in the order of the manifest; returns its path.

    `critic` and `reader` are how strongly each reads the emotion that was asked for most, 0..1.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for number in sorted(range(len(jobs)), key=lambda n: (jobs[n].line, n)):
        row = _row(jobs[number], outcomes.get(number, Outcome("left")), path.parent)
        writer.writerow([_safe(row.get(name, "")) for name in COLUMNS])
    return write_atomic(path, text.getvalue().encode("utf-8"))


def write_contact_page(
    path: Path, jobs: Sequence[Job], outcomes: Mapping[int, Outcome], title: str
) -> Path | None:
    """Write the page of the first 500 takes, in the manifest's order; None when there are none."""
    from studio.page import sections_of, write_page

    order = sorted(outcomes, key=lambda n: (jobs[n].line, n))
    told = [outcomes[number].take for number in order]
    takes = list(_takes(take for take in told if take is not None))
    if not takes:
        return None
    found = sum(take is not None for take in told)
    lead = f"{found} takes" if found <= MOST else f"The first {MOST} of {found} takes"
    return write_page(sections_of(takes), path, title=title, lead=f"{lead}.")


def _takes(told: Iterable[Mapping[str, Any]]) -> Iterable[Take]:
    from pipelines.take import Take

    count = 0
    for entry in told:
        try:
            take = Take.read(str(entry["path"]))
        except ValueError:
            continue  # moved or changed since
        yield replace(take, seconds=entry.get("seconds"))
        count += 1
        if count == MOST:
            return


def _row(job: Job, outcome: Outcome, folder: Path) -> dict[str, Any]:
    request, take = job.request, outcome.take or {}
    row: dict[str, Any] = {
        "line": job.line,
        "id": job.name,
        "status": outcome.status,
        "modality": request.modality,
        "backbone": request.backbone,
        "emotion": request.emotion.text,
        "seed": request.seed,
        "prompt": request.prompt,
        "error": outcome.error,
        "seconds": take.get("seconds"),
        "key": take.get("key"),
    }
    if take:
        path = Path(str(take["path"]))
        inside = path.is_relative_to(folder)
        row["seed"] = take["request"]["seed"]  # of the best of several, its own
        row["path"] = (path.relative_to(folder) if inside else path).as_posix()
        name = request.emotion.peak.dominant
        for column, reader in zip(("critic", "reader"), bars_of(take.get("reading")), strict=False):
            if name in reader.intensities:
                row[column] = round(reader.intensities[name], 4)
    return row


def _safe(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula; numbers stay numbers."""
    if value is None:
        return ""
    text = str(value)
    return f"'{text}" if isinstance(value, str) and text.startswith(FORMULA) else value
