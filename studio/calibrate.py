"""`affect calibrate image`: sweep levels and seeds, store the gain, draw the dose-response curves.

`pipelines.calibrate` makes and reads the pictures, `adapters.calibration` holds the mathematics and
the file that later runs apply by default. This file counts on stderr, draws the plot and says per
emotion whether the dial works.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, cast

import typer

from pipelines.ledger import write_atomic
from studio import make
from studio.console import Meter, note, note_once, result, result_json, table_console
from studio.options import with_params
from studio.run import DOING, PANELS, no_bars, params_of, quiet_libraries, torch_dtype

if TYPE_CHECKING:
    from adapters.calibration import Calibration

Examined: TypeAlias = dict[str, dict[str, dict[str, Any]]]
"""before or after calibration -> emotion -> figures of `pipelines.calibrate.examine`."""


def app() -> typer.Typer:
    """The verb `calibrate`, with one command a modality."""
    verb = typer.Typer(add_completion=False, no_args_is_help=True, help="Measure a model.")
    verb.callback()(lambda: None)
    verb.command("image")(with_params(image, params_of("image"), panels=(PANELS["image"],)))
    return verb


def image(
    *,
    emotion: Annotated[
        str, typer.Option("--emotion", "-e", help="Comma-separated core emotions, or all.")
    ] = "all",
    backbone: make.Backbone = make.DEFAULT_BACKBONE,
    levels: Annotated[
        int, typer.Option("--levels", metavar="N", min=3, max=21, help="Intensities from 0 to 1.")
    ] = 7,
    seeds: Annotated[
        int, typer.Option("--seeds", metavar="N", min=2, max=256, help="Pictures a level.")
    ] = 16,
    examine: Annotated[
        bool,
        typer.Option("--examine", help="Then compare asked and read, by both readers, new seeds."),
    ] = False,
    save: Annotated[
        Path | None,
        typer.Option("--save", help="Store the gain here; else where runs look for it."),
    ] = None,
    out: make.Out = Path("out"),
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the calibration as one JSON object.")
    ] = False,
    device: make.Device = None,
    dtype: make.Dtype = None,
    offline: make.Offline = False,
    params: dict[str, Any],
) -> int:
    """Measure how strongly each emotion answers its dial, and store the gain that corrects it."""
    from pipelines import resolve
    from pipelines.calibrate import calibrate
    from pipelines.calibrate import examine as compare
    from pipelines.session import loaded
    from pipelines.take import prepare_out

    names = core_names(emotion)
    row = resolve(backbone)
    prepare_out(out)
    quiet_libraries(offline=offline)
    place: dict[str, Any] = {
        "device": device,
        "dtype": torch_dtype(dtype),
        "offline": offline or None,
    }
    sweep = calibrate(
        backbone, emotions=names, levels=levels, seeds=seeds, params=params, save=save, **place
    )
    no_bars()
    found: Calibration = follow(sweep, f"calibrating {row.name}")
    examined: Examined = {}
    if examine:
        painter = loaded(row, **place)
        for when in (False, True):
            knobs = {**params, "calibrated": when}
            what = f"examining {row.name} {'with' if when else 'without'} calibration"
            examined["after" if when else "before"] = follow(
                compare(painter, emotions=names, params=knobs), what
            )
    return report(found, names, out, examined=examined, as_json=as_json)


def follow(events: Iterator[Any], what: str) -> Any:
    """Follow the steps of a sweep on stderr and return what it yields at last.

    Where stderr is no terminal, which has a bar, a line comes every ten seconds.
    """
    from pipelines import Step
    from training.progress import PATIENCE

    found = None
    told = time.monotonic()
    with Meter(what) as meter, closing(cast("Generator[Any]", events)):
        for event in events:
            if isinstance(event, Step):
                meter.step(f"{what}: {DOING[event.stage]}", event.index, event.total)
                for text in event.notes:
                    note_once(text)
                if not sys.stderr.isatty() and time.monotonic() - told >= PATIENCE:
                    note(f"{what}: {DOING[event.stage]}, {event.index} of {event.total}")
                    told = time.monotonic()
            else:
                found = event
        note(f"{what}: {meter.seconds:.0f} s")
    return found


def report(
    found: Calibration, names: list[str], out: Path, *, examined: Examined, as_json: bool
) -> int:
    """Write JSON and plot beside each other, say per emotion how well the dial works."""
    stem = Path(found.backbone).name
    path = out / f"calibration-{stem}.json"
    data = {**found.to_json(), "examined": examined} if examined else found.to_json()
    write_atomic(path, (json.dumps(data, indent=1, sort_keys=True) + "\n").encode())
    picture = plot(found, out / f"calibration-{stem}.png")
    if as_json:
        result_json({**data, "plot": str(picture), "path": str(path)})
        return 0
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    more = ("error before", "error after", "rho, reader") if examined else ()
    for title in ("emotion", "range", "sd", *more, "dial"):
        table.add_column(title, justify="left" if title in ("emotion", "dial") else "right")
    for name in names:
        response = found.responses[name]
        cells = [name, f"{response.range:.2f}", f"{response.range_sd:.1f}"]
        if examined:
            # Without a range there is no scale to be wrong on.
            errors = [examined[when][name]["error"] for when in ("before", "after")]
            cells += [_figure(error if response.controllable else None) for error in errors]
            cells.append(_figure(examined["after"][name]["reader"]["spearman"]))
        table.add_row(*cells, "works" if response.controllable else "not controllable, left alone")
    table_console(stderr=True).print(table)
    if weak := found.uncontrollable():
        note(f"{len(weak)} of {len(found.responses)} emotions have a range under 3 sd of the noise")
    result(str(path))
    result(str(picture))
    return 0


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def core_names(text: str) -> list[str]:
    """The core emotions of a comma-separated list; "all" for the twelve."""
    from adapters.emotion import CORE
    from studio.grid import emotion_names

    names = emotion_names(text)
    if strange := [name for name in names if name not in CORE]:
        msg = f"emotion: only core emotions are calibrated, not {strange[0]}; {', '.join(CORE)}"
        raise ValueError(msg)
    return names


def plot(found: Calibration, path: Path) -> Path:
    """Draw every dose-response curve, small multiples on one scale; returns `path` (PNG)."""
    import io

    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    from studio.page import COLOURS

    count = len(found.responses)
    columns = min(4, count)
    rows = -(-count // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(2.9 * columns, 2.7 * rows + 0.5), squeeze=False, sharex=True
    )
    top = max(max(response.means) for response in found.responses.values()) * 1.1 + 0.02
    for axis, (name, response) in zip(axes.flat, found.responses.items(), strict=False):
        colour = COLOURS[name]
        axis.errorbar(
            response.levels,
            response.means,
            yerr=response.noise / response.seeds**0.5,
            fmt="o",
            color=colour,
            markersize=4,
            label="read",
        )
        axis.plot(response.levels, response.fitted, color=colour, alpha=0.7, label="isotonic fit")
        if response.controllable:
            ends = (response.fitted[0], response.fitted[-1])
            axis.plot((0, 1), ends, color="#999999", linestyle=":", label="after calibration")
        axis.set_ylim(0, top)
        mark = "" if response.controllable else " (not controllable)"
        axis.set_title(f"{name}: {response.range_sd:.1f} sd{mark}", fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    for axis in axes.flat[count:]:
        axis.set_visible(False)
    axes[0, 0].legend(fontsize=7, frameon=False)
    figure.supxlabel("dial", fontsize=9)
    figure.supylabel(f"read by {found.critic.split(' ')[0]}", fontsize=9)
    figure.suptitle(f"{found.backbone}, {found.date}", fontsize=10)
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    plt.close(figure)
    return write_atomic(path, buffer.getvalue())
