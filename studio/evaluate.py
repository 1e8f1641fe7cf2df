"""`affect evaluate`: the report a paper would print about a backbone's emotion dial.

    affect evaluate --backbone image-tiny --out evaluation/
    affect evaluate --backbone DIR --sliders sliders/ --content 0 --no-directions

`training.evaluate_suite` paints, reads and keeps the pictures, `training.evaluate_suite_text` says
it. This file checks what was typed, counts on stderr, draws the contact sheets and writes the
report: REPORT.md, report.json, and the sheets beside them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.ledger import write_atomic
from studio import make
from studio.calibrate import core_names, follow
from studio.console import note, result, result_json
from studio.options import with_params
from studio.run import PANELS, no_bars, params_of, quiet_libraries, torch_dtype

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

SUITES = ("emotions",)
MOST_SHOWN = 12  # columns or rows of a sheet that are not asked for one by one


def app() -> typer.Typer:
    """The verb `evaluate`."""
    verb = typer.Typer(add_completion=False)
    verb.command()(with_params(evaluate, params_of("image"), panels=(PANELS["image"],)))
    return verb


def evaluate(
    *,
    suite: Annotated[
        str, typer.Option("--suite", metavar="NAME", help="What to measure: emotions.")
    ] = "emotions",
    backbone: make.Backbone = make.DEFAULT_BACKBONE,
    emotion: Annotated[
        str, typer.Option("--emotions", "-e", help="Comma-separated core emotions, or all.")
    ] = "all",
    levels: Annotated[
        str, typer.Option("--levels", help="Dial positions above 0, comma-separated, up to 1.")
    ] = "0.25,0.5,0.75,1",
    seeds: Annotated[
        int, typer.Option("--seeds", metavar="N", min=1, max=64, help="Pictures of each kind.")
    ] = 2,
    prompts: Annotated[
        str, typer.Option("--prompts", help="How many shipped subjects, or a file, one a line.")
    ] = "8",
    critic: Annotated[
        str, typer.Option("--critic", help="The guiding critic: a name or a folder.")
    ] = "critic-image",
    reader: Annotated[
        str, typer.Option("--reader", help="The independent reader: a name or a folder.")
    ] = "reader-image",
    resume: Annotated[
        bool, typer.Option("--resume", help="Use the pictures that --out has already.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of report and pictures.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", metavar="N", min=1, help="Pictures at once.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    device: make.Device = None,
    dtype: make.Dtype = None,
    offline: make.Offline = False,
    params: dict[str, Any],
) -> int:
    """Measure whether a backbone's emotion dial does what it says, beside its controls.

    Reports by the independent reader; the guiding critic stands beside it.
    """
    if suite not in SUITES:
        msg = f"suite: allowed {', '.join(SUITES)}, received {suite[:40]!r}"
        raise ValueError(msg)
    from pipelines import resolve
    from training.evaluate_prompts import from_file

    names = core_names(emotion)
    at = _levels(levels)
    row = resolve(backbone, "image")
    if row.modality != "image":
        msg = f"backbone: {row.name} makes {row.modality}, not pictures; see `affect models list`"
        raise ValueError(msg)
    shown: int | tuple[str, ...] = int(prompts) if prompts.isdecimal() else ()
    if not isinstance(shown, int):
        shown = from_file(Path(prompts))
    if params.get("sliders"):
        names = sliders_of(params["sliders"], names, asked=emotion)
    quiet_libraries(offline=offline)
    no_bars()
    from adapters.critic import load_critic
    from pipelines.session import loaded
    from training.evaluate_suite import evaluate as events
    from training.evaluate_suite import plan_of
    from training.evaluate_suite_text import markdown

    guiding, independent = load_critic(critic), load_critic(reader)
    if guiding.digest == independent.digest:
        msg = f"reader: {reader} is the guiding critic itself; name one that guided nothing"
        raise ValueError(msg)
    place = {"device": device, "dtype": torch_dtype(dtype), "offline": offline or None}
    painter = loaded(row, **place)
    plan = plan_of(painter, names, prompts=shown, levels=at, seeds=seeds, params=params)
    folder = out or Path("out") / f"evaluation-{Path(row.name).name}"
    run = events(
        painter, plan, folder, critic=guiding, reader=independent, resume=resume,
        batch_size=batch_size,
    )  # fmt: skip
    report: dict[str, Any] = follow(run, f"evaluating {row.name}")
    rows = report.pop("rows")
    written = {
        folder / "report.json": (json.dumps(report, indent=1) + "\n").encode(),
        folder / "REPORT.md": markdown(report).encode(),
    }
    for path, data in written.items():
        write_atomic(path, data)
    sheets = _sheets(folder, report["about"], rows, painter.name)
    if as_json:
        result_json({**report, "path": str(folder)})
        return 0
    whole = report["reader"]["all"]
    note(f"read as asked {_short(whole['accuracy'])}, chance {report['chance']['accuracy']:.2f}")
    for path in (folder / "REPORT.md", folder / "report.json", *sheets):
        result(str(path))
    return 0


def _short(figure: Sequence[float | None]) -> str:
    from training.evaluate_suite_text import said

    return str(said(figure))


def _levels(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        msg = f"levels: numbers separated by commas (0.5,1), received {text[:40]!r}"
        raise ValueError(msg) from error


def sliders_of(folder: str, names: list[str], *, asked: str) -> list[str]:
    """The asked emotions that a folder has sliders for."""
    from adapters.lora import LoraBank

    found = LoraBank(folder).names
    if asked == "all":
        return [name for name in names if name in found]
    if lacking := [name for name in names if name not in found]:
        msg = f"sliders: {folder} has no slider for {lacking[0]}; it has {', '.join(found)}"
        raise ValueError(msg)
    return names


# Sheets ------------------------------------------------------------------------------------------


def _sheets(
    folder: Path, about: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], name: str
) -> list[Path]:
    """Three sheets to look at: levels of one subject, all subjects at 1, what suggests else."""
    files = {
        (row["arm"], row["prompt"], row["emotion"], row["level"], row["seed"]): (
            folder / "pictures" / f"{row['key']}.jpg"
        )
        for row in rows
    }
    seed = min(row["seed"] for row in rows)
    emotions, subjects, levels = about["emotions"], about["prompts"], about["levels"]
    first = subjects[0]

    def show(arm: str, prompt: str, emotion: str | None, level: float) -> Picture | None:
        return _picture(files.get((arm, prompt, emotion, level, seed)))

    found = [
        _sheet(
            folder / "levels.png",
            [
                [
                    show("neutral", first, None, 0.0),
                    *(show("dial", first, emotion, level) for level in levels),
                    show("word", first, emotion, 1.0),
                ]
                for emotion in emotions
            ],
            emotions,
            ["0", *(f"{level:g}" for level in levels), "as a word"],
            title=f"{name}: {first}",
            subtitle="the dial from 0 to 1, and the emotion as a word with nothing of ours on",
        ),
        _sheet(
            folder / "subjects.png",
            [
                [show("neutral", prompt, None, 0.0)]
                + [show("dial", prompt, emotion, 1.0) for emotion in emotions]
                for prompt in subjects[:MOST_SHOWN]
            ],
            subjects[:MOST_SHOWN],
            ["none", *emotions],
            title=f"{name}: every subject, every emotion at 1",
            subtitle=f"one seed ({seed}); is the subject still there?",
        ),
    ]
    traps = sorted({(r["prompt"], r["emotion"]) for r in rows if _is_trap(r, subjects)})
    if traps:
        found.append(
            _sheet(
                folder / "traps.png",
                [
                    [
                        show("neutral", prompt, None, 0.0),
                        show("dial", prompt, emotion, 1.0),
                        show("word", prompt, emotion, 1.0),
                    ]
                    for prompt, emotion in traps
                ],
                [f"{emotion}: {prompt}" for prompt, emotion in traps],
                ["none", "dial at 1", "as a word"],
                title=f"{name}: subjects that suggest something else",
            )
        )
    return found


def _is_trap(row: Mapping[str, Any], subjects: Sequence[str]) -> bool:
    return row["arm"] == "word" and row["prompt"] not in subjects


def _picture(path: Path | None) -> Picture | None:
    from pipelines.media import load_image

    return load_image(path) if path is not None and path.is_file() else None


def _sheet(
    path: Path,
    rows: Sequence[Sequence[Picture | None]],
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    *,
    title: str,
    subtitle: str = "",
) -> Path:
    from pipelines.media import encode_image
    from pipelines.media_records import TRAINED
    from studio.sheet import contact_sheet

    sheet = contact_sheet(rows, row_labels, column_labels, title=title, subtitle=subtitle)
    return write_atomic(path, encode_image(sheet, "png", {"digital_source": TRAINED}))
