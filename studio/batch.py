"""`affect batch jobs.jsonl`: many takes from a manifest, planned whole, made in however many tries.

Nothing starts before every line is checked. Every finished take is on the disk and in the ledger at
once, so whatever ends a batch (Ctrl-C, a kill, a power cut) `--resume` makes what is missing. At
the end `summary.csv` has a row a job and `batch.html` shows the takes.

This file ties the parts together: studio.batch_plan reads, batch_claims knows what is done,
batch_run and batch_ray make, batch_report writes down. It does not know how a take is made.
"""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from studio import make
from studio.batch_report import Outcome, write_contact_page, write_summary
from studio.console import Meter, note, note_once, one_line, result, result_json
from studio.notice import notices_for
from studio.run import Options, quiet_libraries, torch_dtype

if TYPE_CHECKING:
    from collections.abc import Generator

    from studio.batch_plan import Job, Plan
    from studio.batch_run import Event, Numbered

BAD_INPUT, SOME_FAILED, INTERRUPTED = 2, 1, 130
MOST_PROBLEMS = 20  # mistakes that are printed; who has more has one in every line
TELL_SECONDS = 30.0  # between lines of progress where there is no terminal
PER = {"s": 1.0, "min": 60.0, "h": 3600.0}


def app() -> typer.Typer:
    """The verb `batch`."""
    verb = typer.Typer(add_completion=False)
    verb.command()(batch)
    return verb


def batch(
    manifest: Annotated[Path, typer.Argument(help="A .jsonl or .csv file, a job a line.")],
    *,
    out: make.Out = Path("out"),
    resume: Annotated[
        bool, typer.Option("--resume", help="Skip what is finished and unchanged in --out.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the manifest, say what would be made.")
    ] = False,
    shard: Annotated[
        str | None,
        typer.Option("--shard", metavar="I/N", help="Part I (from 0) of N; RANK/WORLD_SIZE."),
    ] = None,
    engine: Annotated[
        Literal["local", "ray"],
        typer.Option("--engine", help="Processes of this machine, or a Ray cluster."),
    ] = "local",
    best_of: Annotated[
        int | None,
        typer.Option(
            "--best-of",
            metavar="N",
            min=2,
            max=256,
            help="Try N seeds for each job, from its own on; keep the one the critic prefers.",
        ),
    ] = None,
    limit_rate: Annotated[
        str | None,
        typer.Option("--limit-rate", metavar="N/UNIT", help="Jobs begun at most: 2/s, 30/min."),
    ] = None,
    file_format: make.Format = "png",
    as_json: make.Json = False,
    device: Annotated[
        str | None,
        typer.Option(
            "--device", help="One worker for each: cuda:0,cuda:1 or cpu,cpu; all there are."
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, max=64, help="Processes; one a device if not given."),
    ] = None,
    dtype: make.Dtype = None,
    offline: make.Offline = False,
) -> int:
    """Make every job of a MANIFEST: a line is what `affect show` tells of a finished file.

    {"prompt": "a lake", "emotion": ["fear .2", "fear .5"], "seed": "0..99"} is 200 pictures.
    """
    from pipelines.ledger import TakeError, prepare_out
    from studio.batch_plan import PlanError, read_plan

    quiet_libraries(offline=offline)
    part = shard_of(shard)
    rate = rate_of(limit_rate)
    torch_dtype(dtype)
    started = time.monotonic()
    try:
        plan = read_plan(manifest, out, offline=offline, best_of=best_of)
    except PlanError as error:
        for problem in error.problems[:MOST_PROBLEMS]:
            note(problem)
        if (rest := len(error.problems) - MOST_PROBLEMS) > 0:
            note(f"and {rest} more")
        note("nothing was started")
        return BAD_INPUT
    jobs = plan.shard(*part)
    run = Run(jobs, Options(out, as_json, None, dtype, offline, file_format, best_of))
    if resume:
        run.skip_finished()
    note(_plan_text(plan, run, part, time.monotonic() - started))
    if dry_run:
        return 0
    prepare_out(out)
    for told in notices_for(job.request for job in jobs):
        note_once(told)
    suffix = "" if part[1] == 1 else f"-{part[0]}-of-{part[1]}"
    try:
        run.make(places_of(device, workers), engine, rate)
    except KeyboardInterrupt:
        note(f"interrupted; {run.tally()}; --resume makes the rest")
        return INTERRUPTED
    except TakeError as error:
        if not run.counts["done"] + run.counts["failed"]:
            raise
        note(f"{error}; {run.tally()}; --resume makes the rest")  # the disk is full, say
        return SOME_FAILED
    finally:
        run.report(suffix, manifest.name)
    note(run.tally())
    missing = len(jobs) - sum(run.count(status) for status in ("done", "skipped"))
    return SOME_FAILED if missing else 0


@dataclass(slots=True)
class Run:
    """One batch on its way: its jobs and what became of each, by number."""

    jobs: Sequence[Job]
    options: Options
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    doing: str = ""
    begun: float = field(default_factory=time.monotonic)
    told: float = field(default_factory=time.monotonic)

    def skip_finished(self) -> None:
        """Mark what the ledger knows as done and whose file is there, byte for byte."""
        from studio.batch_claims import Done

        done = Done(self.options.out, best_of=self.options.best_of)
        done.update()
        for number, job in enumerate(self.jobs):
            if (take := done.whole(job.request)) is not None:
                self._note(number, Outcome("skipped", take))

    def make(self, devices: Sequence[str], engine: str, rate: float | None) -> None:
        """Make what is left, printing each take as it lands."""
        from studio.batch_claims import Source
        from studio.batch_run import Pace, chunked, make_by_workers, make_here

        left: list[tuple[Numbered, Any]] = [
            ((number, job.request), job.group)
            for number, job in enumerate(self.jobs)
            if number not in self.outcomes
        ]
        if not left:
            return
        self.begun = time.monotonic()
        gpu = any(name.startswith("cuda") for name in devices)
        chunks = chunked(left, max(1, len(devices)), rate, gpu=gpu)
        source, pace = Source(chunks, self.options.out, self.options.best_of), Pace(rate)
        events: Iterator[Event]
        if engine == "ray":
            from studio.batch_ray import make_on_ray

            events = make_on_ray(source, self.options, pace)
        elif len(devices) > 1:
            events = make_by_workers(source, self.options, devices, pace)
        else:
            from dataclasses import replace

            here = replace(self.options, device=devices[0] if devices else None)
            events = make_here(source, here, pace)
        try:
            with Meter("batch") as meter, closing(cast("Generator[Event]", events)):
                for event in events:
                    self._take_in(event)
                    self._progress(meter)
        finally:
            source.close()
        for number, line in source.elsewhere.items():
            self._note(number, Outcome("skipped", line))
        if source.elsewhere:
            note(f"{len(source.elsewhere)} were made by another process meanwhile")
        if held := sum(map(len, source.held)):
            note(f"{held} are left to another process that is at them")

    def _take_in(self, event: Event) -> None:
        from studio.batch_run import Failed, Finished, Started, Told

        match event:
            case Finished(number, take):
                self._note(number, Outcome("done", take))
                if self.options.as_json:
                    result_json(take)
                else:
                    result(str(take["path"]))
            case Failed(number, error):
                self._note(number, Outcome("failed", error=error))
                job = self.jobs[number]
                note(f"line {job.line} failed (seed {job.request.seed}): {error}")
            case Told(text):
                note_once(text)
            case Started(_, _, _, stage):
                self.doing = stage

    def _note(self, number: int, outcome: Outcome) -> None:
        self.outcomes[number] = outcome
        self.counts[outcome.status] += 1

    def _progress(self, meter: Meter) -> None:
        """A bar, or a line now and then: done of all, failures so far, time left."""
        skipped, failed = self.count("skipped"), self.count("failed")
        made = self.count("done") + failed
        total = len(self.jobs) - skipped
        text = f"{failed} failed, {self.doing}" if failed else self.doing
        meter.step(text, made, total)
        now = time.monotonic()
        if Meter.live is None and now - self.told >= TELL_SECONDS:
            self.told = now
            left = ""
            if made:
                left = f", {clock((now - self.begun) / made * (total - made))} left"
            note(f"{made} of {total} done, {failed} failed{left}")

    def count(self, status: str) -> int:
        """How many jobs have this status."""
        return self.counts[status]

    def tally(self) -> str:
        """One line of what became of all."""
        parts = [f"{self.count('done')} made"]
        for status, text in (("skipped", "finished before"), ("failed", "failed")):
            if n := self.count(status):
                parts.append(f"{n} {text}")
        if rest := len(self.jobs) - len(self.outcomes):
            parts.append(f"{rest} not made")
        return f"{', '.join(parts)} of {len(self.jobs)} in {clock(time.monotonic() - self.begun)}"

    def report(self, suffix: str, name: str) -> None:
        """Write the summary and the page, and say where they are."""
        if not self.outcomes:
            return
        out = self.options.out
        title = f"Affect Studio: {name}"
        try:
            summary = write_summary(out / f"summary{suffix}.csv", self.jobs, self.outcomes)
            page = write_contact_page(out / f"batch{suffix}.html", self.jobs, self.outcomes, title)
        except (ValueError, OSError) as error:  # the takes are made: this must not hide how it went
            note(f"no summary: {one_line(str(error))}")
            return
        note(f"summary: {summary}" + (f", page: {page}" if page else ""))


# Options -----------------------------------------------------------------------------------------


def shard_of(text: str | None) -> tuple[int, int]:
    """Index and count of a share: "0/4", or what torchrun, accelerate or SLURM put into the air.

    Raises ValueError in one line.
    """
    if text is None:
        for rank, size in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS")):
            if os.environ.get(rank, "").isdigit() and os.environ.get(size, "").isdigit():
                text = f"{os.environ[rank]}/{os.environ[size]}"
                break
        else:
            return 0, 1
    found = re.fullmatch(r"\s*(\d{1,6})\s*/\s*(\d{1,6})\s*", text)
    if not found or not 0 <= int(found[1]) < int(found[2]):
        msg = f"shard: I/N with I from 0 to N-1, as 0/4, received {text[:20]!r}; correct it"
        raise ValueError(msg)
    return int(found[1]), int(found[2])


def rate_of(text: str | None) -> float | None:
    """Jobs a second of "2/s", "30/min" or "500/h"; a number alone counts a minute."""
    if text is None:
        return None
    found = re.fullmatch(r"\s*(\d{1,6}(?:\.\d{1,4})?)\s*(?:/\s*(s|min|h))?\s*", text)
    if not found or float(found[1]) == 0:
        msg = f"limit-rate: a number a unit, as 2/s, 30/min or 500/h, received {text[:20]!r}"
        raise ValueError(msg)
    return float(found[1]) / PER[found[2] or "min"]


def devices_of(text: str | None) -> list[str]:
    """The devices that get a worker each; none named: every CUDA device, else what there is.

    One is worked on by this process itself. Raises ValueError in one line.
    """
    if text is not None:
        names = [name.strip() for name in text.split(",")]
        wrong = [name for name in names if not re.fullmatch(r"cpu|mps|cuda(:\d{1,2})?", name)]
        if wrong or len(names) > 64:
            msg = f"device: cpu, mps, cuda or cuda:1, comma-separated, received {text[:40]!r}"
            raise ValueError(msg)
        return names
    import torch

    count = torch.cuda.device_count()
    return [f"cuda:{index}" for index in range(count)] if count > 1 else []


def places_of(device: str | None, workers: int | None) -> list[str]:
    """Where each worker works: the devices in turn, so many; raises ValueError in one line.

    Fewer workers than devices leave devices idle, more share them.
    """
    names = devices_of(device)
    if workers is None:
        return names
    from pipelines.weights import best_device

    names = names or [best_device()]
    return [names[index % len(names)] for index in range(workers)]


def clock(seconds: float) -> str:
    """Seconds as people read them: 0:07, 3:20, 1:02:05."""
    whole = round(seconds)
    minutes, hours = whole // 60 % 60, whole // 3600
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def _plan_text(plan: Plan, run: Run, part: tuple[int, int], seconds: float) -> str:
    kinds: dict[str, int] = {}
    for job in run.jobs:
        name = f"{job.request.modality} {Path(job.request.backbone).name}"
        kinds[name] = kinds.get(name, 0) + 1
    what = ", ".join(f"{count} {one_line(name)}" for name, count in kinds.items())
    parts = [f"{plan.lines} lines, {len(plan.jobs)} jobs in {seconds:.1f} s"]
    if plan.doubles:
        parts.append(f"{plan.doubles} asked for twice are made once")
    if part[1] > 1:
        parts.append(f"part {part[0]} of {part[1]} has {len(run.jobs)}")
    if skipped := run.count("skipped"):
        parts.append(f"{skipped} finished before")
    return f"{'; '.join(parts)} ({what or 'nothing to make'})"
