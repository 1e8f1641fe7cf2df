"""`affect train`: teach a model emotions or a style, one command a recipe.

    affect train lora --modality image --backbone DIR --data photos/ --config my.toml
    affect train slider --backbone DIR --emotion sadness --no-data
    affect train directions --backbone DIR
    affect train critic --modality voice --data takes/
    affect train distill --backbone DIR --emotion sadness

What the commands do stands in training.recipes, their knobs in the dataclasses of training.config.
This file collects what was typed and what a TOML file says, tells on stderr how it goes, and prints
what was written. `python -m training.cli` has lora, slider and directions for a launcher of
processes.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from studio.console import note, result, result_json
from studio.options import with_params
from studio.run import no_bars, quiet_libraries
from training import recipes
from training.config import (
    LORAS,
    Directions,
    ImageLora,
    MusicLora,
    PortraitLora,
    Slider,
    VoiceLora,
    as_toml,
    core_emotions,
    read,
    source_of,
)
from training.config_critic import Critic
from training.config_distill import Distill

Modality = Annotated[
    str | None,
    typer.Option(
        "--modality",
        metavar="NAME",
        help=f"What kind of model: {', '.join(LORAS)}; music when not given.",
    ),
]
Config = Annotated[
    Path | None,
    typer.Option("--config", help="TOML file with any of the options below; typed ones win."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Tell what would be done, and train nothing.")
]
Resume = Annotated[
    str | None,
    typer.Option(
        "--resume",
        metavar="WHICH",
        help="Go on with a run that was stopped: latest, or of pictures a step or the folder of a "
        "checkpoint.",
    ),
]
NoData = Annotated[
    bool, typer.Option("--no-data", help="Says what holds anyway: it is learned from prompts.")
]
Restart = Annotated[
    bool, typer.Option("--restart", help="Forget checkpoints and finished sliders.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the figures as one JSON object.")]


def app() -> typer.Typer:
    """The verb `train`, with one command a recipe."""
    verb = typer.Typer(add_completion=False, no_args_is_help=True, help="Train a model.")
    verb.callback()(lambda: None)
    kinds = (MusicLora, VoiceLora, PortraitLora, ImageLora)
    panels = ("Options", "Voices", "Portraits", "Pictures")
    verb.command("lora")(with_params(lora, *kinds, panels=panels))
    verb.command("slider")(with_params(slider, Slider))
    verb.command("directions")(with_params(directions, Directions))
    from studio.train_critic import critic
    from studio.train_distill import distill

    verb.command("critic")(with_params(critic, Critic))
    verb.command("distill")(with_params(distill, Distill))
    return verb


def lora(
    *,
    modality: Modality = None,
    config: Config = None,
    dry_run: DryRun = False,
    resume: Resume = None,
    as_json: Json = False,
    params: dict[str, Any],
) -> int:
    """Learn from files of one's own: emotions of pictures, or a style of music, voice or face.

    Example: affect train lora --modality image --data photos/ --out sliders/
    """
    named, settings = recipes.lora_settings(source_of(config), modality, params)
    row = recipes.backbone_of(settings.backbone, named)
    out = recipes.out_of(settings.out, f"lora-{named}", row)
    with _training(offline=named != "image"):
        if named == "image":
            figures = recipes.pictures(
                cast(ImageLora, settings), row, out, resume=resume, dry_run=dry_run, tell=note
            )
        else:
            figures = recipes.style(
                named, settings, row, out, resume=resume, dry_run=dry_run, tell=note
            )
    return _told(figures, out, as_json=as_json)


def _told(figures: Mapping[str, Any], out: Path, *, as_json: bool) -> int:
    if as_json:
        result_json(dict(figures))
    else:
        result(str(figures.get("path", out)))
    return 0


@contextlib.contextmanager
def _training(*, offline: bool) -> Iterator[None]:
    """Quiet libraries, and stdout for the result alone: recipes echo their log to it."""
    quiet_libraries(offline=offline)
    no_bars()
    import torch

    torch.set_flush_denormal(True)  # tiny moments and gradients run an order slower on a CPU
    with contextlib.redirect_stdout(sys.stderr):
        yield


def slider(
    *,
    config: Config = None,
    dry_run: DryRun = False,
    restart: Restart = False,
    no_data: NoData = False,
    as_json: Json = False,
    params: dict[str, Any],
) -> int:
    """Learn bipolar sliders of emotions from prompts alone; a stopped run is gone on with.

    Example: affect train slider --backbone image-tiny --emotion sadness
    """
    settings = read(Slider, source_of(config), params)
    emotions = core_emotions(settings.emotion, "emotion")
    row = recipes.backbone_of(settings.backbone, "image")
    out = recipes.out_of(settings.out, "sliders", row)
    recipes.vocabulary_of(settings.vocabulary, row)
    if dry_run:
        note(f"{len(emotions)} sliders of {settings.steps} steps -> {out}, nothing is trained")
        result(as_toml(settings).rstrip())
        return 0
    with _training(offline=False):
        figures = recipes.sliders(settings, row, out, restart=restart, tell=note)
    return _told(figures, out, as_json=as_json)


def directions(
    *,
    config: Config = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    params: dict[str, Any],
) -> int:
    """Fit the directions of the twelve emotions in a model's text states; no training.

    Example: affect train directions --backbone image-tiny
    """
    settings = recipes.directions_settings(source_of(config), params)
    row = recipes.backbone_of(settings.backbone, "image")
    out = recipes.out_of(settings.out, "directions", row)
    words = recipes.vocabulary_of(settings.vocabulary, row)
    if dry_run:
        note(f"directions of {row.name} in {words} words -> {out}, nothing is fitted")
        result(as_toml(settings).rstrip())
        return 0
    with _training(offline=False):
        figures = recipes.directions(settings, row, out, tell=note)
    return _told(figures, out, as_json=as_json)
