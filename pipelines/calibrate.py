"""The dose-response sweep: what does the critic read when the dial stands at 0, 1/6 .. 1?

`calibrate` paints every emotion at every level with the same seeds and scenes, has critic A read
them, and stores the inverse of the fitted response where the painter will find it. `examine` is
the check afterwards: asked against read, by both readers, on other seeds. Level 0 is painted once
for all emotions. It deliberately does not know the mathematics (adapters.calibration) nor how the
figures are shown (studio).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from adapters.calibration import SEEDS, Calibration, Response, intensity_error
from adapters.emotion import CORE, Emotion, EmotionTimeline
from pipelines import DEFAULT, Step, resolve
from pipelines.image import ImageParams, Job, job_of
from pipelines.params import ParamError
from pipelines.request import Request

if TYPE_CHECKING:
    from adapters.reading import Reading
    from pipelines.painter import Painter
    from pipelines.session import Made

#: Scenes of a sweep for models that know language at large: outdoors, town, water, a room.
PROMPTS = ("a mountain lake", "a city street", "a house by the sea", "a room with a window")
#: `examine` starts here, so that it never looks at a picture that the gain was fitted on.
OTHER_SEEDS = 10_000

Readings = dict[str, dict[str, np.ndarray]]


def scenes(painter: Painter) -> tuple[str, ...]:
    """Four neutral prompts that this painter understands."""
    if painter.vocabulary is None:
        return PROMPTS
    from adapters.content import slider_prompts

    subjects = [subject for subject, *_ in slider_prompts(CORE[0], painter.words)]
    return tuple(subjects[:: max(1, len(subjects) // 4)][:4])


def calibrate(
    backbone: str = DEFAULT,
    *,
    emotions: Sequence[str] = CORE,
    levels: int = 7,
    seeds: int = SEEDS,
    prompts: Sequence[str] | None = None,
    params: Mapping[str, Any] | None = None,
    painter: Painter | None = None,
    critic: Any = "auto",
    save: Path | str | None = None,
    device: str | None = None,
    dtype: Any = None,
    offline: bool | None = None,
    **run: Any,
) -> Iterator[Step | Calibration]:
    """Sweep a backbone; yields `Step`s and at last the `Calibration`, which is stored by then.

    Args:
        backbone: name, folder or hub id; not used when a `painter` is given.
        emotions: core emotions to sweep; earlier responses of the same weights are kept.
        levels: how many, evenly from 0 to 1, at least 3.
        seeds: pictures a level, at least 2; picture s shows prompt s mod len(prompts).
        prompts: scenes without an emotion, None for `scenes(painter)`.
        params: knobs of `ImageParams` to sweep with; `calibrated` is off in any case.
        critic: who reads, "auto" for the embedded critic A.
        save: where to store, None for where the painter looks first: its cache, or the folder of
            the `sliders` among the params.
        device, dtype, offline: see `pipelines.load`.
        run: `batch_size`.

    Raises:
        ParamError: an emotion outside CORE, too few levels or seeds; before anything is loaded.
    """
    _check(emotions, levels, seeds)
    sliders = ImageParams.parse(params or {}).sliders
    options = {"device": device, "dtype": dtype, "offline": offline}

    def events() -> Iterator[Step | Calibration]:
        from pipelines.session import embedded_critic, loaded

        judge = embedded_critic("critic-image") if critic == "auto" else critic
        yield Step(0, 0, stage="load")
        used = painter or loaded(resolve(backbone), **options)
        knobs = {**(params or {}), "calibrated": False}
        at = [i / (levels - 1) for i in range(levels)]
        readings: Readings = {}
        for event in sweep(used, emotions, at, seeds, {"critic": judge}, prompts, knobs, **run):
            if isinstance(event, Step):
                yield event
            else:
                readings = event
        found = Calibration(
            {name: Response.fit(at, own(readings, name, "critic")) for name in emotions},
            backbone=used.name,
            model=used.digest,
            adapters=used.adapters_of(sliders),
            critic=f"{judge.name} {judge.digest}",
            date=date.today().isoformat(),
            # The folder is told by the digest of what is in it, never by a path of this machine.
            params={name: value for name, value in knobs.items() if name != "sliders"},
        )
        if (before := used.calibration_of(sliders)) is not None:
            found = before.merged(found)
        found.save(save or used.calibration_path_of(sliders))
        if not sliders:
            used.calibration = found
        yield found

    return events()


def examine(
    painter: Painter,
    *,
    emotions: Sequence[str] = CORE,
    levels: Sequence[float] = (0.2, 0.4, 0.6, 0.8, 1.0),
    seeds: int = 8,
    critic: Any = "auto",
    reader: Any = "auto",
    prompts: Sequence[str] | None = None,
    params: Mapping[str, Any] | None = None,
    **run: Any,
) -> Iterator[Step | dict[str, dict[str, Any]]]:
    """Asked against read on seeds that no gain was fitted on; at last {emotion: figures}.

    Figures: `critic` and `reader`, each with `spearman` over all pictures, `spearman_of_means`
    over levels and the mean reading at each level; `error`, the mean |read - asked| by the critic
    on the scale of the stored response (None without one). Run it with `calibrated` on and off to
    see what calibration does. The reader's figures are the ones to report.
    """
    _check(emotions, 3, seeds)

    def events() -> Iterator[Step | dict[str, dict[str, Any]]]:
        from adapters.metrics import spearman
        from pipelines.session import embedded_critic

        judges = {
            "critic": embedded_critic("critic-image") if critic == "auto" else critic,
            "reader": embedded_critic("reader-image") if reader == "auto" else reader,
        }
        readings: Readings = {}
        more = {**run, "first_seed": OTHER_SEEDS}
        for event in sweep(painter, emotions, levels, seeds, judges, prompts, params, **more):
            if isinstance(event, Step):
                yield event
            else:
                readings = event
        asked = np.repeat(np.asarray(levels)[:, None], seeds, axis=1)
        figures: dict[str, dict[str, Any]] = {}
        gain = painter.calibration_of(str((params or {}).get("sliders", "")))
        for name in emotions:
            figures[name] = {}
            for role, judge in judges.items():
                read = own(readings, name, role)
                figures[name][role] = {
                    "by": judge.name,
                    "spearman": float(spearman(asked.ravel(), read.ravel())),
                    "spearman_of_means": float(spearman(asked[:, 0], read.mean(axis=1))),
                    "means": [float(x) for x in read.mean(axis=1)],
                }
            stored = gain.responses.get(name) if gain else None
            figures[name]["error"] = (
                intensity_error(levels, own(readings, name, "critic"), stored) if stored else None
            )
        yield figures

    return events()


def own(readings: Readings, name: str, role: str) -> np.ndarray:
    """What `role` read of the emotion that was asked, (levels, seeds), 0 .. 1."""
    return readings[name][role][:, :, CORE.index(name)]


def sweep(
    painter: Painter,
    emotions: Sequence[str],
    levels: Sequence[float],
    seeds: int,
    judges: Mapping[str, Any],
    prompts: Sequence[str] | None = None,
    params: Mapping[str, Any] | None = None,
    *,
    first_seed: int = 0,
    batch_size: int | None = None,
) -> Iterator[Step | Readings]:
    """Paint emotions x levels x seeds; at last {emotion: {judge: (levels, seeds, 12)}}.

    Column s is seed `first_seed` + s and scene s mod len(prompts) in every row, so that rows
    differ by the dial alone. What is read are the judge's intensities, 0 .. 1, in CORE order.
    """
    shown = tuple(prompts or scenes(painter))
    knobs = dict(params or {})

    def job(state: Emotion, s: int) -> Job:
        request = Request(
            "image",
            shown[s % len(shown)],
            EmotionTimeline.constant(state),
            first_seed + s,
            painter.name,
            knobs,
        )
        return job_of(request, painter.defaults)

    states = {
        (name, i): Emotion.of(name, level) if level else Emotion.neutral()
        for name in emotions
        for i, level in enumerate(levels)
    }
    distinct = list(dict.fromkeys(states.values()))
    jobs = [job(state, s) for state in distinct for s in range(seeds)]
    rows: dict[tuple[Emotion, int], dict[str, Any]] = {}
    for event in looked_at(painter, [jobs], judges, batch_size=batch_size):
        if isinstance(event, Step):
            yield event
            continue
        for made, readings in event:
            at = (made.job.emotion, made.job.request.seed - first_seed)
            rows[at] = {role: reading.intensities for role, reading in readings.items()}
    yield {
        name: {
            role: np.array(
                [[rows[states[name, i], s][role] for s in range(seeds)] for i in range(len(levels))]
            )
            for role in judges
        }
        for name in emotions
    }


def looked_at(
    painter: Painter,
    groups: Sequence[Sequence[Job]],
    judges: Mapping[str, Any],
    *,
    batch_size: int | None = None,
) -> Iterator[Step | list[tuple[Made, dict[str, Reading]]]]:
    """Paint jobs, those of a group with the same params, and have every judge read each picture.

    Yields a Step after every denoising step, and each batch as it is done: what was made and
    {judge: reading}. Writes nothing.
    """
    from pipelines.session import Session, alone

    session = Session(Path(), None, painter, judges.get("critic"), None, batch_size, "png")
    session.total = sum(group[0].params.steps * len(group) for group in groups if group)
    with alone(painter):
        for group in filter(None, groups):
            painter.check(group[0].params, init=False)
            for event in session.painted(painter, list(group), None):
                if isinstance(event, Step):
                    yield event
                    continue
                pictures = [made.picture for made in event]
                read = {role: judge.read(pictures) for role, judge in judges.items()}
                yield [
                    (made, {role: readings[i] for role, readings in read.items()})
                    for i, made in enumerate(event)
                ]


def _check(emotions: Sequence[str], levels: int, seeds: int) -> None:
    strange = [name for name in emotions if name not in CORE]
    if strange or not emotions:
        msg = f"emotions: allowed are {', '.join(CORE)}; received {', '.join(strange) or 'none'}"
        raise ParamError(msg)
    if levels < 3 or seeds < 2:
        msg = f"levels, seeds: allowed 3 and 2 or more, received {levels} and {seeds}"
        raise ParamError(msg)
