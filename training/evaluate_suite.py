"""The emotion suite: does the dial of a backbone do what it says, on subjects it was not tuned on?

For every emotion, several subjects and seeds: the dial at 0 and at each level, the emotion as a
word in the prompt with everything of ours switched off, and what happens when the opposite is
asked; then subjects that suggest something else than what is asked; and neutral pictures of other
seeds, which content is measured against. Two critics read each picture: the guiding one, which may
have chosen or calibrated and therefore does not report, and the independent reader, which does.

Each picture is painted and read once and kept as a line of `pictures.jsonl` with a thumbnail, so a
run that was stopped goes on at the next picture, and more seeds or emotions may be added later. A
line is found by what decides it (request, weights, both readers): one of another model is never
used. Figures: training.evaluate_suite_report. It does not know how an emotion acts on a model.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from adapters.content import opposite
from adapters.critic import to_tensor
from adapters.emotion import CORE, Emotion, EmotionTimeline
from adapters.features import picture_features
from adapters.lora import LoraBank
from pipelines import Step
from pipelines.calibrate import looked_at
from pipelines.image import ImageParams, job_of
from pipelines.ledger import explained, write_atomic
from pipelines.media import encode_image
from pipelines.media_records import TRAINED
from pipelines.painter import Painter
from pipelines.request import Request
from training.evaluate_prompts import Incongruent, SuiteError, incongruent, said, scenes
from training.evaluate_suite_report import ARMS, figures

ROWS = "pictures.jsonl"
LEVELS = (0.25, 0.5, 0.75, 1.0)
SEEDS, PROMPTS = 2, 8
FIRST_SEED = 20_000
"""Neither the seeds of a calibration (from 0) nor those of its check (from 10,000)."""
REFERENCES = 4
"""Neutral pictures of a subject at other seeds: what a subject looks like here, whatever the noise.
With one, 79 % of the neutral pictures of image-tiny were found again among 14 subjects, with three
93 %."""
THUMBNAIL = 256  # px of the longer side that is kept
OFF = {"style": 0.0, "content": 0.0, "critic_guidance": 0.0, "noise_guidance": 0.0}
"""Params of the words-only control: nothing of ours acts."""

NEUTRAL, REFERENCE, DIAL, WORD = ARMS


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run asks for.

    emotions: of CORE. levels: rising, in (0, 1], the last is 1; the dial at 0 is always there.
    seeds: pictures of a cell. scenes: neutral subjects. traps: incongruent ones. params: knobs of
    ImageParams for every picture.
    """

    emotions: tuple[str, ...]
    scenes: tuple[str, ...]
    traps: tuple[Incongruent, ...] = ()
    levels: tuple[float, ...] = LEVELS
    seeds: int = SEEDS
    params: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise SuiteError when something is out of range."""
        strange = [name for name in self.emotions if name not in CORE]
        if strange or not self.emotions:
            msg = f"emotions: allowed {', '.join(CORE)}; received {', '.join(strange) or 'none'}"
            raise SuiteError(msg)
        dial = (0.0, *self.levels)
        rising = all(low < high <= 1 for low, high in pairwise(dial))
        if len(self.levels) < 2 or not rising or self.levels[-1] != 1:
            shown = ",".join(f"{level:g}" for level in self.levels)
            msg = f"levels: two or more, rising in 0..1, the last 1 (0.5,1); received {shown}"
            raise SuiteError(msg)
        if self.seeds < 1:
            msg = f"seeds: 1 or more, received {self.seeds}"
            raise SuiteError(msg)


def plan_of(
    painter: Painter,
    emotions: Sequence[str],
    *,
    prompts: int | Sequence[str] = PROMPTS,
    **more: Any,
) -> Plan:
    """The plan in this painter's words; prompts: how many of the shipped ones, or one's own."""
    own = scenes(painter.words, prompts) if isinstance(prompts, int) else tuple(prompts)
    return Plan(tuple(emotions), own, incongruent(painter.words, emotions), **more)


@dataclass(frozen=True, slots=True)
class Asked:
    """One picture. emotion: None where none is asked for; `prompt` is the subject in any case."""

    arm: str
    prompt: str
    emotion: str | None
    level: float
    seed: int
    text: str

    def request(self, painter: Painter, params: Mapping[str, Any]) -> Request:
        """What is asked of the painter."""
        dialled = self.arm == DIAL and self.emotion is not None
        state = Emotion.of(self.emotion, self.level) if dialled else Emotion.neutral()
        knobs = {**params, **OFF} if self.arm == WORD else dict(params)
        timeline = EmotionTimeline.constant(state)
        return Request("image", self.text, timeline, self.seed, painter.name, knobs)


def asked(plan: Plan, vocabulary: str) -> list[Asked]:
    """Every picture of a plan once, all that one subject and seed need together."""
    found: list[Asked] = []
    own = [FIRST_SEED + s for s in range(plan.seeds)]
    others = [FIRST_SEED + 1000 + s for s in range(REFERENCES)]

    def neutral(prompt: str) -> None:
        found.extend(Asked(NEUTRAL, prompt, None, 0.0, seed, prompt) for seed in own)
        found.extend(Asked(REFERENCE, prompt, None, 0.0, seed, prompt) for seed in others)

    for prompt in plan.scenes:
        neutral(prompt)
        for seed in own:
            for emotion in plan.emotions:
                levels = [(emotion, level) for level in plan.levels] + [(opposite(emotion), 1.0)]
                found += [Asked(DIAL, prompt, name, level, seed, prompt) for name, level in levels]
                words = said(prompt, emotion, vocabulary)
                found.append(Asked(WORD, prompt, emotion, 1.0, seed, words))
    for trap in plan.traps:
        neutral(trap.prompt)
        for seed in own:
            found.append(Asked(DIAL, trap.prompt, trap.emotion, 1.0, seed, trap.prompt))
            found.append(Asked(WORD, trap.prompt, trap.emotion, 1.0, seed, trap.said))
    return list(dict.fromkeys(found))


# Running -----------------------------------------------------------------------------------------


def evaluate(
    painter: Painter,
    plan: Plan,
    out: Path | str,
    *,
    critic: Any,
    reader: Any,
    resume: bool = False,
    batch_size: int | None = None,
) -> Iterator[Step | dict[str, Any]]:
    """Paint and read what is not there yet; yields Steps and at last the report as plain data.

    The report: `about`, what training.evaluate_suite_report computes, and `rows`, one a picture.

    Args:
        painter: what is evaluated, as it paints for everybody.
        plan: what to ask of it.
        out: folder of `pictures.jsonl` and `pictures/`; a report is the caller's to write.
        critic, reader: the guiding and the independent critic, each with name, digest and read.
        resume: use the pictures that are there.
        batch_size: pictures at once, None for the usual.

    Raises:
        SuiteError: pictures are there and `resume` is not set.
        TakeError: the folder cannot be written.
    """
    out = Path(out)
    with explained(out):
        out.mkdir(parents=True, exist_ok=True)
    had = {row["key"]: row for row in _rows(out / ROWS)}
    if had and not resume:
        msg = (
            f"out: {out} has {len(had)} pictures of an earlier run; "
            "give --resume to use them, or another --out"
        )
        raise SuiteError(msg)
    judges = {"critic": critic, "reader": reader}
    wanted = {}
    groups: dict[Any, list[Any]] = {}
    for one in asked(plan, painter.words):
        job = job_of(one.request(painter, plan.params), painter.defaults)
        key = _key(job.request, painter.weights(job.params), judges)
        wanted[key] = one
        if key not in had:
            groups.setdefault(job.params, []).append((job, key))
    keys = {job.request.key: key for group in groups.values() for job, key in group}
    jobs = [[job for job, _ in group] for group in groups.values()]
    for event in looked_at(painter, jobs, judges, batch_size=batch_size):
        if isinstance(event, Step):
            yield event
            continue
        rows = []
        for made, readings in event:
            key = keys[made.job.request.key]
            _keep(made.picture, out / "pictures" / f"{key}.jpg")
            rows.append(_row(key, wanted[key], made, readings))
            had[key] = rows[-1]
        _append(out / ROWS, rows)
    rows = [{**had[key], **asdict(one)} for key, one in wanted.items()]
    about = _about(painter, plan, judges, rows)
    yield {"about": about, **_figures(painter, plan, judges, rows), "rows": rows}


def _figures(
    painter: Painter, plan: Plan, judges: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    stored = {}
    if painter.calibration is not None and not plan.params.get("sliders"):
        name = f"{judges['critic'].name} {judges['critic'].digest}"
        stored = painter.calibration.responses if painter.calibration.critic == name else {}
    return figures(
        rows,
        emotions=plan.emotions,
        levels=plan.levels,
        scenes=plan.scenes,
        traps=[asdict(trap) for trap in plan.traps],
        opposites={name: opposite(name) for name in plan.emotions},
        scales={"critic": stored},
    )


def _about(
    painter: Painter, plan: Plan, judges: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """What a report holds for."""
    folder = plan.params.get("sliders")
    sliders = LoraBank(folder) if folder else painter.loras
    calibrated = painter.calibration is not None and plan.params.get("calibrated", True)
    return {
        "backbone": painter.name,
        "weights": painter.weights(ImageParams.parse(plan.params, painter.defaults)),
        "sliders": list(sliders.names) if sliders is not None else [],
        "calibrated": bool(calibrated and not folder),
        "critic": f"{judges['critic'].name} {judges['critic'].digest}",
        "reader": f"{judges['reader'].name} {judges['reader'].digest}",
        "emotions": list(plan.emotions),
        "levels": list(plan.levels),
        "seeds": plan.seeds,
        "prompts": list(plan.scenes),
        "traps": len(plan.traps),
        "params": dict(plan.params),
        "pictures": len(rows),
        "seconds_per_picture": sum(row["seconds"] for row in rows) / len(rows),
        "date": date.today().isoformat(),
    }


def _key(request: Request, weights: str, judges: Mapping[str, Any]) -> str:
    parts = [request.key, weights, *(f"{judge.name} {judge.digest}" for judge in judges.values())]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:20]


def _row(key: str, one: Asked, made: Any, readings: Mapping[str, Any]) -> dict[str, Any]:
    """A picture as plain numbers: readings p (13) and a (12) of both, statistics of the picture."""
    shape = picture_features(to_tensor(made.picture)[None])[0]
    row: dict[str, Any] = {"key": key, **asdict(one), "seen": made.seen, "seconds": made.seconds}
    for role, reading in readings.items():
        row[role] = {
            "p": [round(float(v), 5) for v in reading.probabilities],
            "a": [round(float(v), 5) for v in reading.intensities],
        }
    row["statistics"] = [round(float(v), 4) for v in torch.nan_to_num(shape)]
    return row


def _keep(picture: Image.Image, path: Path) -> None:
    small = picture.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    write_atomic(path, encode_image(small, "jpg", {"digital_source": TRAINED}))


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """The lines that are whole; one that a kill cut is painted again."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        for text in file:
            try:
                row = json.loads(text)
            except ValueError:
                continue
            if isinstance(row, dict) and {"key", "critic", "reader", "statistics"} <= row.keys():
                yield row


def _append(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode()
    with explained(path), path.open("a+b") as file:
        if file.tell() and not _ends_whole(file):
            file.write(b"\n")  # after a line that was cut
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _ends_whole(file: Any) -> bool:
    file.seek(-1, os.SEEK_END)
    whole: bool = file.read(1) == b"\n"
    return whole
