"""`affect score FILE`: what both readers read in a picture.

The readers were made to rate generated pictures. A file without this studio's mark, or one made
from a photo, may show a real person, and inferring a person's emotions is regulated: such a file
needs `--real-media`, which prints the notice. A score says how a reader reads the picture, never
what anyone feels. One file at a time, nothing is stored.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from studio.console import note, result_json, table_console
from studio.notice import NOTICE, is_ours
from studio.run import quiet_libraries

if TYPE_CHECKING:
    from adapters.critic import Reading

READERS = ("critic-image", "reader-image")


def app() -> typer.Typer:
    """The verb `score`."""
    verb = typer.Typer(add_completion=False)
    verb.command()(score)
    return verb


def score(
    file: Annotated[Path, typer.Argument(help="A picture (PNG, JPEG, WEBP).")],
    real_media: Annotated[
        bool,
        typer.Option("--real-media", help="Score a file that was not made here from words alone."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> int:
    """Read the emotion of FILE with the critic and with the independent reader.

    The readers were made for synthetic pictures. Using emotion recognition on people obliges you
    to tell them (EU AI Act, Art. 50(3)); at work and in education it is forbidden (Art. 5(1)(f)).
    """
    from pipelines.media import load_image

    image = load_image(file)
    ours = is_ours(file)
    if not ours:
        if not real_media:
            msg = (
                f"score: {file} is not marked as made here from words alone, so it may show a real "
                "person; "
                "read `affect score --help`, then add --real-media if you may score it"
            )
            raise ValueError(msg)
        note(NOTICE)
    quiet_libraries(offline=True)
    from adapters.critic import load_critic
    from adapters.emotion import CORE

    readings = {name: load_critic(name).read([image])[0] for name in READERS}
    critic, reader = (readings[name] for name in READERS)
    gap = {
        name: round(abs(critic.intensities[k] - reader.intensities[k]), 4)
        for k, name in enumerate(CORE)
    }
    for name, reading in readings.items():
        if reading.abstains:
            note(f"{name}: this is unlike what it was trained on, its reading means little")
    if as_json:
        result_json(
            {
                "path": str(file),
                "made_here": ours,
                "reading": {name: reading.to_json() for name, reading in readings.items()},
                "gap": gap,
            }
        )
    else:
        _print_table(readings, gap)
    return 0


def _print_table(readings: dict[str, Reading], gap: dict[str, float]) -> None:
    """Probability and intensity by both readers, and how far apart their intensities are."""
    from rich.table import Table

    from adapters.emotion import CORE

    table = Table(box=None, pad_edge=False)
    table.add_column("emotion")
    for name in readings:
        table.add_column(f"{name}: p", justify="right")
        table.add_column("intensity", justify="right")
    table.add_column("gap", justify="right")
    neutral = (cell for r in readings.values() for cell in (f"{r.probabilities[0]:.2f}", ""))
    table.add_row("neutral", *neutral)
    for k, emotion in enumerate(CORE):
        cells = (
            cell
            for r in readings.values()
            for cell in (f"{r.probabilities[k + 1]:.2f}", f"{r.intensities[k]:.2f}")
        )
        table.add_row(emotion, *cells, f"{gap[emotion]:.2f}")
    for axis, label in enumerate(("valence", "arousal", "dominance")):
        cells = (
            cell
            for r in readings.values()
            for cell in (
                f"{r.vad_mean[axis]:+.2f}",
                f"± {max(r.vad_variance[axis], 0.0) ** 0.5:.2f}",
            )
        )
        table.add_row(label, *cells)
    domain = (cell for r in readings.values() for cell in (f"{r.in_domain:.2f}", ""))
    table.add_row("in domain", *domain)
    table_console().print(table)
