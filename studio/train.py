"""`affect train lora`: teach a model a style from files of one's own.

The recipes are training.music_lora, voice_lora and portrait_lora; this file collects what was
typed, tells on stderr what the files held and how the held-out loss falls, and prints the folder of
the adapter. Sliders of images are trained by `python -m training.lora`, whose many knobs are not
for the command line.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from studio.console import note, result, result_json
from studio.run import no_bars, quiet_libraries

Modality = Annotated[
    Literal["music", "voice", "portrait"], typer.Option("--modality", help="What kind of model.")
]
Data = Annotated[
    Path,
    typer.Option(
        "--data",
        help="Folder, at any depth: of MIDI files (.mid) for music; of recordings of the same "
        "sentences, NAME_neutral.wav, NAME_anger.wav, ... (WAV, FLAC, MP3) for voices; of "
        "recordings of Live Link Face, NAME.csv, NAME_anger.csv, ..., for portraits.",
    ),
]
Out = Annotated[Path, typer.Option("--out", help="Folder of the adapter that is written.")]
Backbone = Annotated[
    str | None,
    typer.Option(
        "--backbone", help="The model: a name or a folder; the embedded one when not given."
    ),
]
Minutes = Annotated[
    float, typer.Option("--minutes", min=0.0, help="Stop after this long; 0: when it has learned.")
]
Steps = Annotated[
    int | None,
    typer.Option(
        "--steps",
        metavar="N",
        min=1,
        help="Optimiser steps, at most; 300 for music, 600 for voices, 400 for portraits.",
    ),
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
    backbone: Backbone = None,
    minutes: Minutes = 0.0,
    steps: Steps = None,
    rank: Rank = 8,
    rate: Rate = 1e-3,
    seed: Seed = 0,
    resume: Resume = False,
    as_json: Json = False,
) -> int:
    """Learn a style as a LoRA; wear it with `affect make MODALITY --lora OUT --lora-weight .8`."""
    from pipelines import DEFAULTS, resolve

    row = resolve(backbone or DEFAULTS[modality], modality)
    if row.modality != modality:
        msg = f"backbone: {row.name} makes {row.modality}, not {modality}; see `affect models list`"
        raise ValueError(msg)
    if row.folder is None:
        msg = f"backbone: {row.name} is not on this machine; give a folder"
        raise ValueError(msg)
    quiet_libraries(offline=True)
    import torch

    torch.set_flush_denormal(True)  # tiny moments and gradients run an order slower on a CPU
    learn = {"music": _music, "voice": _voice, "portrait": _portrait}[modality]
    # Recipes echo their log to stdout; here stdout is for the result alone.
    with contextlib.redirect_stdout(sys.stderr):
        figures = learn(
            data, row.folder, row.name, out, minutes=minutes, steps=steps, rank=rank, rate=rate,
            seed=seed, resume=resume,
        )  # fmt: skip
    if as_json:
        result_json(figures)
    else:
        result(str(out))
    return 0


def _music(
    data: Path, folder: Path, base: str, out: Path, *, steps: int | None, resume: bool, **given: Any
) -> dict[str, Any]:
    from training.music_lora import Settings, train_style

    settings = Settings(steps=steps or 300, **given)
    figures: dict[str, Any] = train_style(
        data, backbone=folder, out=out, settings=settings, base=base, resume=resume, tell=note
    )
    low, high = figures["gain_interval"]
    note(
        f"held-out loss {figures['held_out_before']:.3f} -> {figures['held_out_after']:.3f} nats a "
        f"token (gain {figures['gain']:.3f}, 95 % {low:.3f} to {high:.3f}), "
        f"{figures['steps']} steps in {figures['seconds']:.0f} s"
    )
    if low <= 0:
        note("it is not shown to know the style better than the plain model: give it more music")
    return figures


def _voice(
    data: Path,
    folder: Path,
    base: str,
    out: Path,
    *,
    minutes: float,
    steps: int | None,
    resume: bool,
    **given: Any,
) -> dict[str, Any]:
    from training.voice_lora import LoraSettings, train_lora

    no_bars()
    # 600 steps take some minutes; no limit of time is a limit that they never reach.
    settings = LoraSettings(minutes=minutes or 600.0, steps=steps or 600, **given)
    figures: dict[str, Any] = train_lora(
        data, backbone=folder, out=out, settings=settings, base=base, resume=resume, tell=note
    )
    shown = False
    for name, what in (("prosody", "pitch, level and timing"), ("timbre", "colour and breath")):
        row = figures[name]
        low, high = row["gain_interval"]
        shown = shown or low > 0
        note(
            f"{what}: {row['left_before']:.3f} -> {row['left_after']:.3f} of what real takes do "
            f"beyond the mean is left on {row['pairs']} held-out pairs (gain "
            f"{row['left_before'] - row['left_after']:.3f}, 95 % {low:.3f} to {high:.3f})"
        )
    if not shown:
        note("it is not shown to know the style better than the plain model: record more sentences")
    return figures


def _portrait(
    data: Path,
    folder: Path,
    base: str,
    out: Path,
    *,
    minutes: float,
    steps: int | None,
    resume: bool,
    **given: Any,
) -> dict[str, Any]:
    from training.portrait_lora import LoraSettings, train_lora

    no_bars()
    settings = LoraSettings(minutes=minutes or 600.0, steps=steps or 400, **given)
    figures: dict[str, Any] = train_lora(
        data, backbone=folder, out=out, settings=settings, base=base, resume=resume, tell=note
    )
    low, high = figures["gain_interval"]
    note(
        f"{figures['left_before']:.3f} -> {figures['left_after']:.3f} of what the face does beyond "
        f"the textbook's muscles is left in {figures['seconds_unseen']} held-out seconds (gain "
        f"{figures['left_before'] - figures['left_after']:.3f}, 95 % {low:.3f} to {high:.3f})"
    )
    if low <= 0:
        note("it is not shown to know the face better than the plain model: record more of it")
    return figures
