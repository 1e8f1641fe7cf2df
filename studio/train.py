"""`affect train lora`: teach a model a style from files of one's own.

The recipe is training.music_lora; this file collects what was typed, tells on stderr what the files
held and how the held-out loss falls, and prints the folder of the adapter. Sliders of images are
trained by `python -m training.lora`, whose many knobs are not for the command line.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from studio.console import note, result, result_json
from studio.run import quiet_libraries

Modality = Annotated[Literal["music"], typer.Option("--modality", help="What kind of model.")]
Data = Annotated[Path, typer.Option("--data", help="Folder of MIDI files (.mid), at any depth.")]
Out = Annotated[Path, typer.Option("--out", help="Folder of the adapter that is written.")]
Backbone = Annotated[str, typer.Option("--backbone", help="The composer: a name or a folder.")]
Minutes = Annotated[
    float, typer.Option("--minutes", min=0.0, help="Stop after this long; 0: when it has learned.")
]
Steps = Annotated[
    int, typer.Option("--steps", metavar="N", min=1, help="Optimiser steps, at most.")
]
Rank = Annotated[int, typer.Option("--rank", metavar="N", min=1, max=64, help="Size of a style.")]
Rate = Annotated[float, typer.Option("--rate", min=1e-6, max=0.1, help="Learning rate.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Of the batches and first weights.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped.")]
Json = Annotated[bool, typer.Option("--json", help="Print the figures as one JSON object.")]


def app() -> typer.Typer:
    """The verb `train`, with one command a recipe."""
    verb = typer.Typer(add_completion=False, no_args_is_help=True, help="Train on own files.")
    verb.callback()(lambda: None)
    verb.command("lora")(lora)
    return verb


def lora(
    *,
    data: Data,
    out: Out,
    modality: Modality = "music",
    backbone: Backbone = "music-tiny",
    minutes: Minutes = 0.0,
    steps: Steps = 300,
    rank: Rank = 8,
    rate: Rate = 1e-3,
    seed: Seed = 0,
    resume: Resume = False,
    as_json: Json = False,
) -> int:
    """Learn a style as a LoRA; wear it with `affect make music --lora OUT --lora-weight .8`."""
    from pipelines import resolve

    row = resolve(backbone, modality)
    if row.modality != modality:
        msg = f"backbone: {row.name} makes {row.modality}, not {modality}; see `affect models list`"
        raise ValueError(msg)
    if row.folder is None:
        msg = f"backbone: {row.name} is not on this machine; give a folder"
        raise ValueError(msg)
    quiet_libraries(offline=True)
    import torch

    from training.music_lora import Settings, train_style

    torch.set_flush_denormal(True)  # tiny moments and gradients run an order slower on a CPU
    settings = Settings(steps=steps, minutes=minutes, rank=rank, rate=rate, seed=seed)
    # Recipes echo their log to stdout; here stdout is for the result alone.
    with contextlib.redirect_stdout(sys.stderr):
        figures = train_style(
            data, backbone=row.folder, out=out, settings=settings, base=row.name, resume=resume,
            tell=note,
        )  # fmt: skip
    low, high = figures["gain_interval"]
    note(
        f"held-out loss {figures['held_out_before']:.3f} -> {figures['held_out_after']:.3f} nats a "
        f"token (gain {figures['gain']:.3f}, 95 % {low:.3f} to {high:.3f}), "
        f"{figures['steps']} steps in {figures['seconds']:.0f} s"
    )
    if low <= 0:
        note("it is not shown to know the style better than the plain model: give it more music")
    if as_json:
        result_json(figures)
    else:
        result(str(out))
    return 0
