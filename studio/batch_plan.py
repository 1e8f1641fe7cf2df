"""A manifest of jobs becomes a plan: every line read, swept, checked and sorted before one starts.

A manifest is JSON Lines or CSV, a job a line, in the words of a finished file's record: `modality`,
`prompt`, `emotion`, `seed`, `backbone`, `params`, `inputs`, and an `id` of the user's own. A list
in any place is a sweep, and so is a range of seeds ("0..99"); several make every combination. No
YAML: 330 bytes of it can become 58 MB. All mistakes are collected with their line numbers, so that
a person corrects them in one go, and then nothing is started.

Thousands of lines differ in words and seeds alone, so each combination of the rest is checked once.
This file deliberately knows no modality: the maker's own `job_of` checks. It loads no torch.
"""

from __future__ import annotations

import csv
import difflib
import functools
import inspect
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines import DEFAULTS, MAKERS
from pipelines.params import checked_text
from pipelines.request import Request, plain_object
from pipelines.take import TakeError
from studio.consent import consent_for_all
from studio.make import people_in
from studio.run import portable, read_emotion

if TYPE_CHECKING:
    from adapters.emotion import EmotionTimeline

FIELDS = ("modality", "prompt", "emotion", "seed", "backbone", "params", "inputs", "id")
IGNORED = ("weights",)
"""Fields of a finished file's record that a manifest may repeat; it cannot ask for them."""
MAX_BYTES = 64 * 2**20  # of a manifest: 100,000 lines of 600 characters
MAX_JOBS = 100_000
"""Of one manifest after its sweeps; at ten a second that is three hours."""
MOST_KNOWN = 8  # decoded recordings kept while checking; each may be minutes of sound
RANGE = re.compile(r"\s*(\d{1,16})\s*\.\.\s*(\d{1,16})\s*")


class PlanError(ValueError):
    """A manifest with mistakes; `problems` has one line for each, with its line number."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__(f"batch: {len(self.problems)} mistakes; nothing was started")


@dataclass(frozen=True, slots=True)
class Job:
    """One take to make: the request with its params spelled out.

    line: of the manifest. name: the line's `id`, empty without one. group: equal for jobs of the
    same backbone, params and inputs.
    """

    request: Request
    line: int
    name: str
    group: tuple[str, str, str]


@dataclass(slots=True)
class Plan:
    """What is to be made, in the order of making.

    lines: read from the manifest. doubles: jobs that were left out because an earlier line asks for
    the same.
    """

    jobs: list[Job] = field(default_factory=list)
    lines: int = 0
    doubles: int = 0

    def shard(self, index: int, count: int) -> list[Job]:
        """Every count-th job: the same share on every machine, whatever is finished already."""
        return self.jobs[index::count]


def read_plan(
    manifest: Path, out: Path, *, offline: bool = False, best_of: int | None = None
) -> Plan:
    """Read and check a manifest.

    Args:
        manifest: a .jsonl or .csv file. Paths in it count from its folder.
        out: the folder of the takes: yeses of people are recorded there.
        offline: look for weights on this machine alone.
        best_of: seeds that will be tried for each job, from its own on.

    Raises:
        PlanError: mistakes, all of them.
        TakeError: no manifest, or one that is too large.
    """
    plan, swept = Plan(), 0
    problems: list[str] = []
    checker = _Checker(manifest.absolute().parent, out, offline, search=best_of is not None)
    seen: set[tuple[Any, ...]] = set()
    order: dict[str, dict[tuple[str, str, str], list[Job]]] = {}
    for number, line in read_lines(manifest):
        plan.lines += 1
        try:
            if isinstance(line, ValueError):
                raise line
            for one in sweep(line):
                swept += 1
                if swept > MAX_JOBS:
                    msg = f"the sweeps so far make over {MAX_JOBS} jobs; split the manifest"
                    raise PlanError([*problems, f"{manifest.name} line {number}: {msg}"])
                job = checker.job(one, number)
                same = (*job.group, job.request.prompt, job.request.emotion, job.request.seed)
                if same in seen:
                    plan.doubles += 1
                    continue
                seen.add(same)
                model = f"{job.request.modality} {job.request.backbone}"
                order.setdefault(model, {}).setdefault(job.group, []).append(job)
        except PlanError:
            raise
        except (ValueError, OSError) as error:
            problems.append(f"{manifest.name} line {number}: {error}")
    if best_of is not None:
        told = together(
            itertools.chain.from_iterable(group.values() for group in order.values()), best_of
        )
        problems += [f"{manifest.name} {problem}" for problem in told]
    if problems:
        raise PlanError(problems)
    if not plan.lines:
        msg = f"{manifest.name}: empty; give a job a line, such as {EXAMPLE}"
        raise PlanError([msg])
    # A model is loaded once; modalities in the order of the table.
    for model in sorted(order, key=lambda text: list(MAKERS).index(text.split(" ")[0])):
        plan.jobs += itertools.chain.from_iterable(order[model].values())
    return plan


def together(groups: Iterable[Sequence[Job]], best_of: int) -> Iterator[str]:
    """What is wrong with trying so many seeds for each job: films, and jobs that try the same."""
    for group in groups:
        if group[0].request.modality == "film":
            yield f"line {group[0].line}: best-of: a film is made once; batch it without --best-of"
            continue
        last: dict[tuple[Any, ...], int] = {}
        for job in sorted(group, key=lambda one: one.request.seed):
            like, seed = (job.request.prompt, job.request.emotion), job.request.seed
            if like in last and seed - last[like] < best_of:
                both = f"seeds {last[like]} and {seed} would try the same ones"
                after = f"{last[like]}, {last[like] + best_of}"
                yield f"line {job.line}: best-of: {both}; leave {best_of} between, as {after}"
                break
            last[like] = seed


EXAMPLE = '{"modality": "image", "prompt": "a lake", "emotion": "sadness .8", "seed": "0..3"}'


# Lines -------------------------------------------------------------------------------------------


def read_lines(manifest: Path) -> Iterator[tuple[int, dict[str, Any] | ValueError]]:
    """Line numbers and objects of a manifest, or what is wrong with a line; empty ones are skipped.

    Raises TakeError when there is no such file, it is too large or of another kind.
    """
    kind = manifest.suffix.lower()
    if kind not in (".jsonl", ".ndjson", ".csv"):
        msg = f"batch: manifests are .jsonl or .csv, received {manifest.name[:80]!r}; convert it"
        raise TakeError(msg)
    if not manifest.is_file():
        msg = f"batch: no file {manifest}; check the path"
        raise TakeError(msg)
    if (size := manifest.stat().st_size) > MAX_BYTES:
        msg = f"batch: {manifest.name} has {size >> 20} MB, {MAX_BYTES >> 20} are allowed; split it"
        raise TakeError(msg)
    try:
        yield from _csv_lines(manifest) if kind == ".csv" else _json_lines(manifest)
    except UnicodeDecodeError as error:
        msg = f"batch: {manifest.name} is no UTF-8 text; save it as UTF-8"
        raise TakeError(msg) from error


def _json_lines(manifest: Path) -> Iterator[tuple[int, dict[str, Any] | ValueError]]:
    with manifest.open(encoding="utf-8-sig") as file:
        for number, text in enumerate(file, start=1):
            if not text.strip():
                continue
            try:
                line = json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
            except json.JSONDecodeError as error:
                hint = f"{error.msg.lower()} at column {error.colno}"
                yield number, TakeError(f"no JSON ({hint}); a line is one object, as {EXAMPLE}")
            except RecursionError:
                yield number, TakeError("nested too deep; flatten it")
            except TakeError as error:
                yield number, error
            else:
                known = isinstance(line, dict)
                yield number, line if known else TakeError(f"an object is needed, as {EXAMPLE}")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose names are all different: of two values one would be lost without a word."""
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        double = next(name for name in names if names.count(name) > 1)
        raise TakeError(f"{double[:40]!r} stands twice; keep one")
    return found


def _no_constant(name: str) -> Any:
    raise TakeError(f"{name} is no number; correct it")


def _csv_lines(manifest: Path) -> Iterator[tuple[int, dict[str, Any] | ValueError]]:
    """Rows under a header; params and inputs are columns such as `params.steps`, `inputs.audio`."""
    with manifest.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        try:
            header = [name.strip() for name in next(reader, [])]
            if double := [name for name in header if header.count(name) > 1]:
                yield 1, TakeError(f"column {double[0][:40]!r} stands twice; keep one")
                return
            for row in reader:
                if not any(cell.strip() for cell in row):
                    continue
                if len(row) > len(header):
                    told = f"{len(row)} cells under {len(header)} columns; quote what has commas"
                    yield reader.line_num, TakeError(told)
                    continue
                yield reader.line_num, _row(dict(zip(header, row, strict=False)))
        except csv.Error as error:
            yield reader.line_num, TakeError(f"no CSV ({error}); save it again")


def _row(cells: Mapping[str, str]) -> dict[str, Any]:
    line: dict[str, Any] = {}
    for name, cell in cells.items():
        if not cell.strip():
            continue
        part, dot, knob = name.partition(".")
        if dot and part in ("params", "inputs"):
            line.setdefault(part, {})[knob] = _cell(cell, plain=part == "params")
        else:
            line[name] = _cell(cell, plain=name in ("seed", "params", "inputs"))
    return line


def _cell(text: str, *, plain: bool) -> Any:
    """A cell's value: a JSON list is a sweep; numbers and true or false only where `plain`."""
    stripped = text.strip()
    if plain or stripped.startswith("["):
        try:
            return json.loads(stripped, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            return text
    return text


# Sweeps ------------------------------------------------------------------------------------------


def sweep(line: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every combination of a line's lists, the seed changing fastest.

    Raises TakeError for unknown fields, empty lists, lists within lists, and sweeps too long.
    """
    unknown = [str(name) for name in line if name not in FIELDS and name not in IGNORED]
    if unknown:
        near = difflib.get_close_matches(unknown[0], FIELDS, n=1)
        hint = (
            f"did you mean {near[0]}?" if near else f"a knob goes into params: {_nested(unknown)}"
        )
        known = ", ".join(FIELDS)
        raise TakeError(f"unknown field {unknown[0][:40]!r}; {hint} (known are {known})")
    flat: dict[tuple[str, str], Any] = {}
    for name in FIELDS:
        if name not in line:
            continue
        if name in ("params", "inputs"):
            for key, value in plain_object(line[name], name).items():
                flat[name, key] = value
        else:
            flat[name, ""] = line[name]
    swept = [place for place in flat if place != ("seed", "")]
    choices = {place: _choices(place, flat[place]) for place in swept}
    if ("seed", "") in flat:
        choices["seed", ""] = _seeds(flat["seed", ""])
    count = 1
    for values in choices.values():
        count *= len(values)
    if count > MAX_JOBS:
        raise TakeError(f"this sweep makes {count} jobs, {MAX_JOBS} are allowed; split it")
    for values in itertools.product(*choices.values()):
        one: dict[str, Any] = {}
        for (name, key), value in zip(choices, values, strict=True):
            if key:
                one.setdefault(name, {})[key] = value
            else:
                one[name] = value
        yield one


def _nested(names: Sequence[str]) -> str:
    return json.dumps({"params": {names[0][:40]: "..."}})


def _choices(place: tuple[str, str], value: Any) -> Sequence[Any]:
    name = ".".join(filter(None, place))
    if not isinstance(value, list):
        return (value,)
    if not value:
        raise TakeError(f"{name}: an empty list sweeps nothing; leave it out or fill it")
    if place[0] in ("modality", "id"):
        raise TakeError(f"{name}: cannot be swept, its params would differ; write a line for each")
    if any(isinstance(one, list) for one in value):
        raise TakeError(f"{name}: a list within a list; flatten it")
    return value


def _seeds(value: Any) -> Sequence[Any]:
    """Seeds of a number, a range "0..99" with both ends, or a list of such."""
    if isinstance(value, list):
        if not value:
            raise TakeError("seed: an empty list sweeps nothing; leave it out or fill it")
        return [seed for one in value for seed in _seeds(one)]
    if isinstance(value, str):
        found = RANGE.fullmatch(value)
        if not found:
            msg = f"seed: a number, a list or a range as '0..99', received {value[:40]!r}"
            raise TakeError(msg)
        first, last = int(found[1]), int(found[2])
        if last < first or last - first >= MAX_JOBS:
            raise TakeError(f"seed: {value} is no range of 1 to {MAX_JOBS} seeds; correct it")
        return range(first, last + 1)
    return (value,)


# Checks ------------------------------------------------------------------------------------------


class _Checker:
    """Turns swept lines into jobs; what was checked once is not checked again."""

    def __init__(self, folder: Path, out: Path, offline: bool, *, search: bool = False) -> None:
        self.folder, self.out, self.offline, self.search = folder, out, offline, search
        self.spelled: dict[str, tuple[Request, tuple[str, str, str]]] = {}
        self.wrong: dict[str, ValueError] = {}
        self.digests: dict[Path, str] = {}
        self.here: set[tuple[str, str]] = set()
        self.known: dict[Any, Any] = {}
        self.portable = functools.cache(portable)
        self.emotion = functools.cache(self._emotion)

    def job(self, line: Mapping[str, Any], number: int) -> Job:
        """One job of a swept line; raises ValueError in one line."""
        modality = line.get("modality", "image")
        if modality not in MAKERS:
            msg = f"modality: one of {', '.join(MAKERS)}, received {str(modality)[:40]!r}"
            raise TakeError(msg)
        prompt, text = line.get("prompt", ""), line.get("emotion", "neutral")
        name, backbone = line.get("id", ""), line.get("backbone", usual_backbone(modality))
        texts = (("prompt", prompt), ("emotion", text), ("backbone", backbone), ("id", name))
        for part, value in texts:
            if not isinstance(value, str):
                raise TakeError(f"{part}: text, received {type(value).__name__}; quote it")
        params, inputs = line.get("params", {}), line.get("inputs", {})
        seed = line.get("seed", 0)
        emotion = self.emotion(text, modality, bool(params.get("over")))
        # Of a picture only how much of an emotion there is may be refused; courses have a length.
        felt = emotion.peak.intensity > 1 + 1e-6 if modality == "image" else emotion.text
        worded = bool(prompt.strip())
        state = json.dumps([modality, backbone, params, inputs, worded, felt], sort_keys=True)
        if state in self.wrong:
            raise self.wrong[state]
        if state not in self.spelled:
            try:
                request = self._request(modality, prompt, emotion, seed, backbone, params, inputs)
                self.spelled[state] = self._checked(request)
            except ValueError as error:
                if worded:  # what is wrong with one prompt may be right of another
                    raise
                self.wrong[state] = error
                raise
        like, group = self.spelled[state]
        if worded:
            checked_text("prompt", prompt)
        request = Request(
            modality,
            prompt if worded else like.prompt,
            emotion if modality == "image" else like.emotion,  # a preset's course is spelled out
            seed,
            like.backbone,
            like.params,
            like.inputs,
            digests=like.digests,
        )
        return Job(request, number, name, group)

    def _emotion(self, text: str, modality: str, over: bool) -> EmotionTimeline:
        return read_emotion(text, over=over, reader=None, modality=modality)

    def _request(
        self,
        modality: str,
        prompt: str,
        emotion: EmotionTimeline,
        seed: int,
        backbone: str,
        params: Mapping[str, Any],
        inputs: Mapping[str, Any],
    ) -> Request:
        """The request of a line, with inputs found and hashed once."""
        paths, wanted = self._inputs(inputs)
        request = Request(
            modality,
            prompt,
            emotion,
            seed,
            self.portable(backbone),
            params,
            paths,
            digests={n: self.digests[p] for n, p in paths.items() if p in self.digests},
        )
        self.digests |= {path: request.digests[name] for name, path in paths.items()}
        for name, digest in wanted.items():
            if digest != request.digests[name]:
                msg = f"inputs.{name}: {paths[name].name} is not the file with that sha256"
                raise TakeError(f"{msg}; give the original or leave sha256 out")
        if people := people_in(modality, paths):
            given = paths.get("consent")
            document = consent_for_all(people, given, self.out, ask=False)
            if document is not None:
                return request.changed(inputs={**paths, "consent": document.resolve()})
        return request

    def _inputs(self, inputs: Mapping[str, Any]) -> tuple[dict[str, Path], dict[str, Any]]:
        """Paths of a line's inputs, from the manifest's folder, and the sha256 some must have."""
        paths, wanted = {}, {}
        for name, value in inputs.items():
            entry = value if isinstance(value, dict) else {"path": value}
            place = entry.get("path")
            if not isinstance(place, str) or not place:
                raise TakeError(f"inputs.{name[:40]}: a path, received {str(value)[:40]!r}")
            paths[name] = (self.folder / Path(place).expanduser()).absolute()
            if entry.get("sha256") is not None:
                wanted[name] = entry["sha256"]
        return paths, wanted

    def _checked(self, request: Request) -> tuple[Request, tuple[str, str, str]]:
        """The request as its maker spells it, and its group; raises what the maker finds wrong."""
        maker = import_module(MAKERS[request.modality])
        if len(self.known) > MOST_KNOWN:
            self.known.clear()
        offered = {"defaults": None, "known": self.known, "search": self.search}
        taken = inspect.signature(maker.job_of).parameters
        job = maker.job_of(request, **{n: v for n, v in offered.items() if n in taken})
        # A film has no weights of its own; a finished piece that is only performed needs none.
        rows = getattr(job, "rows", (job.row,)) if getattr(job, "composed", True) else ()
        for row in rows:
            if (row.modality, row.name) not in self.here:
                from pipelines.weights import check_row

                check_row(row, offline=self.offline or None)
                self.here.add((row.modality, row.name))
        spelled: Request = job.request
        files = json.dumps([spelled.params, spelled.digests], sort_keys=True)
        return spelled, (request.modality, request.backbone, files)


def usual_backbone(modality: str) -> str:
    """The backbone of a line that names none; of a film the word that stands for its parts'."""
    return DEFAULTS.get(modality) or str(import_module(MAKERS[modality]).BACKBONE)
