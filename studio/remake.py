"""`affect remake FILE`: the same picture again from the file alone; any option overrides.

Everything comes out of the file's metadata: prompt, emotion, seed, model and parameters. A take
that was chosen from several carries its own winning seed, so no search is repeated.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from studio import make
from studio.console import note
from studio.options import with_params
from studio.run import Options, build_requests, params_of, quiet_libraries, read_emotion, run


def app() -> typer.Typer:
    """The verb `remake`."""
    verb = typer.Typer(add_completion=False)
    verb.command()(with_params(remake, params_of("image")))
    return verb


def remake(
    file: Annotated[Path, typer.Argument(help="A picture made by this studio.")],
    *,
    prompt: Annotated[str | None, typer.Option("--prompt", help="Show something else.")] = None,
    emotion: Annotated[
        str | None, typer.Option("--emotion", "-e", help="Another emotion or intensity.")
    ] = None,
    seed: make.Seed = None,
    n: make.Count = 1,
    best_of: make.BestOf = None,
    backbone: Annotated[str | None, typer.Option("--backbone", "-b", help="Another model.")] = None,
    init: make.Init = None,
    out: make.Out = Path("out"),
    as_json: make.Json = False,
    device: make.Device = None,
    dtype: make.Dtype = None,
    reader: make.Reader = None,
    offline: make.Offline = False,
    params: dict[str, Any],
) -> int:
    """Make FILE again, with whatever is overridden."""
    from pipelines.take import Take

    quiet_libraries(offline=offline)
    old = Take.read(file).request
    if old.modality != "image":
        msg = f"remake: {file} is of modality {old.modality!r}; this version remakes image"
        raise ValueError(msg)
    merged = {**old.params, **params}
    photo = init or old.inputs.get("init")
    if init is None:
        old.check_inputs()
    state = old.emotion
    if emotion is not None:
        state = read_emotion(emotion, over=bool(merged.get("over")), reader=reader)
    requests = build_requests(
        old.prompt if prompt is None else prompt,
        [state],
        seed=old.seed if seed is None else seed,
        n=n,
        backbone=old.backbone if backbone is None else backbone,
        params=merged,
        init=photo,
    )
    takes = run(requests, Options(out, as_json, device, dtype, offline), best_of=best_of)
    if takes and backbone is None and takes[0].request.weights != old.weights:
        note(f"the weights of {old.backbone} are no longer those that made {file}")
    return 0 if len(takes) == len(requests) else 1
