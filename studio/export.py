"""`affect export`: a slider or an image LoRA as diffusers, ComfyUI and WebUI read it.

The recipe is training.export; this file collects what was typed, tells on stderr what a person
should know of the files, and prints their paths: the adapter, its card, strip and certificate.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from studio.console import note, result, result_json
from studio.run import no_bars, quiet_libraries


def app() -> typer.Typer:
    """The verb `export`."""
    verb = typer.Typer(add_completion=False, no_args_is_help=True)
    verb.command("export")(export)
    return verb


def export(
    adapter: Annotated[
        Path, typer.Argument(help="A .safetensors file: a slider, or a LoRA of diffusers' names.")
    ],
    *,
    out: Annotated[Path, typer.Option("--out", help="The .safetensors file to write.")],
    layout: Annotated[
        Literal["diffusers", "kohya"],
        typer.Option("--format", help="kohya: for ComfyUI and WebUI."),
    ] = "kohya",
    backbone: Annotated[
        str | None,
        typer.Option(
            "--backbone",
            help="The model it was trained for: name, folder or hub id. Not needed for a file in "
            "the model's own loras/.",
        ),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option("--calibration", help="The certificate's source; else where runs look."),
    ] = None,
    strip: Annotated[
        bool, typer.Option("--strip/--no-strip", help="Paint samples for the model card.")
    ] = True,
    offline: Annotated[bool, typer.Option("--offline", help="Never ask the network.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> int:
    """Write an adapter for other programs, with header, model card, samples and certificate."""
    quiet_libraries(offline=offline)
    from training.export import export_adapter

    no_bars()
    made = export_adapter(
        adapter, out, layout=layout, backbone=backbone, calibration=calibration, strip=strip,
        offline=offline or None,
    )  # fmt: skip
    for text in made.notes:
        note(text)
    if as_json:
        result_json(
            {
                "adapters": [str(path) for path in made.adapters],
                "card": str(made.card),
                "certificate": str(made.certificate) if made.certificate else None,
                "strip": str(made.strip) if made.strip else None,
                "notes": list(made.notes),
            }
        )
        return 0
    for path in (*made.adapters, made.card, made.strip, made.certificate):
        if path is not None:
            result(str(path))
    return 0
