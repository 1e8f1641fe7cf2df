"""`affect train`: teach a model emotions or a style, one command a recipe.

    affect train lora --modality image --backbone DIR --data photos/ --config my.toml
    affect train slider --backbone DIR --emotion sadness --no-data
    affect train directions --backbone DIR

The recipes are training.{image,music,voice,portrait}_lora, training.lora and adapters.directions;
their knobs are the dataclasses of training.config. This file collects what was typed and what a
TOML file says, tells on stderr what the files held and how it goes, and prints what was written.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.params import Params
from studio.console import note, result, result_json
from studio.options import with_params
from studio.run import no_bars, quiet_libraries
from training.config import (
    LORAS,
    ConfigError,
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

if TYPE_CHECKING:
    from pipelines import Backbone

SETTINGS = "config.toml"
"""What a run was told, beside what it made."""

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
Resume = Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped.")]
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
    return verb


def lora(
    *,
    modality: Modality = None,
    config: Config = None,
    dry_run: DryRun = False,
    resume: Resume = False,
    as_json: Json = False,
    params: dict[str, Any],
) -> int:
    """Learn from files of one's own: emotions of pictures, or a style of music, voice or face."""
    source = source_of(config)
    named = modality or source.values.get("modality", "music")
    if named not in LORAS:
        msg = f"modality: allowed {', '.join(LORAS)}, received {str(named)[:40]!r}"
        raise source.error("modality", msg) if modality is None else ConfigError(msg)
    settings: Any = read(LORAS[named], source.without("modality"), params)
    if not settings.data:
        msg = "data: none given; pass --data FOLDER"
        raise ConfigError(msg)
    row = _row(settings.backbone, named)
    out = _out(settings.out, f"lora-{named}", row)
    if dry_run and named != "image":
        note(f"{LORAS[named].__name__}: {Path(settings.data)} -> {out}, nothing is trained")
        result(as_toml(settings, modality=named).rstrip())
        return 0
    if named == "image":
        figures = _image(settings, row, out, resume=resume, dry_run=dry_run)
    else:
        figures = _style(named, settings, row, out, resume=resume)
    return _told(figures, out, as_json=as_json)


def _told(figures: Mapping[str, Any], out: Path, *, as_json: bool) -> int:
    if as_json:
        result_json(dict(figures))
    else:
        result(str(figures.get("path", out)))
    return 0


def _row(backbone: str, modality: str) -> Backbone:
    """The backbone of a run, which has to make what the recipe is for."""
    from pipelines import DEFAULTS, resolve

    row = resolve(backbone or DEFAULTS[modality], modality)
    if row.modality != modality and not (modality == "image" and row.modality == "video"):
        msg = f"backbone: {row.name} makes {row.modality}, not {modality}; see `affect models list`"
        raise ValueError(msg)
    return row


def _out(out: str, recipe: str, row: Backbone) -> Path:
    return Path(out) if out else Path("out") / f"{recipe}-{Path(row.name).name}"


@contextlib.contextmanager
def _training(*, offline: bool) -> Iterator[None]:
    """Quiet libraries, and stdout for the result alone: recipes echo their log to it."""
    quiet_libraries(offline=offline)
    no_bars()
    import torch

    torch.set_flush_denormal(True)  # tiny moments and gradients run an order slower on a CPU
    with contextlib.redirect_stdout(sys.stderr):
        yield


# Pictures ----------------------------------------------------------------------------------------


def _image(
    settings: ImageLora, row: Backbone, out: Path, *, resume: bool, dry_run: bool
) -> dict[str, Any]:
    from training.folder import read_folder

    core_emotions(settings.emotions)
    given: dict[str, Any] = {"layout": settings.layout, "intensity": settings.intensity}
    data, report = read_folder(settings.data, "image", tell=note, **given)
    ordinary = None
    if settings.regularise:
        ordinary, _ = read_folder(settings.regularise, "image", held=0, least=1, tell=note)
    for line in report.text().splitlines():
        note(line)
    with _training(offline=False):
        from pipelines import load
        from training.image_lora import prepare, train

        pipe = load(row.weights, device=settings.device or None)
        plan = prepare(pipe, data, settings, out=out, ordinary=ordinary, call=row.call)
        for line in plan.lines():
            note(line)
        if dry_run:
            return {"path": str(_first_batch(plan, out / "first_batch.png")), "steps": 0}
        if not (out / SETTINGS).exists():  # those of a finished run stay when a new one is refused
            _keep(out, settings, "image")
        figures: dict[str, Any] = train(plan, out, base=row.name, resume=resume, tell=note)
        _keep(out, settings, "image")
    if not figures["held"]:
        note("no labelled picture was held out, so nothing is known of others: add pictures")
        return figures
    low, high = figures["gain_interval"]
    note(
        f"held-out loss {figures['held_out_before']:.4f} -> {figures['held_out_after']:.4f} on "
        f"{figures['held']} pictures (gain {figures['gain']:.4f}, 95 % {low:.4f} to {high:.4f})"
    )
    if low <= 0:
        note("it is not shown to know them better than the plain model: add pictures or steps")
    return figures


def _first_batch(plan: Any, path: Path) -> Path:
    """Draw the pictures that the first step will see, as the model will be shown them."""
    from pipelines.ledger import write_atomic
    from pipelines.media import encode_image

    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, encode_image(plan.batches.sheet(), "png", {}))
    return path


def _keep(out: Path, settings: Params, modality: str) -> None:
    """Write what the run was told beside what it makes, to be given as --config again."""
    from pipelines.ledger import write_atomic

    if out.is_dir() or not out.exists():
        out.mkdir(parents=True, exist_ok=True)
        write_atomic(out / SETTINGS, as_toml(settings, modality=modality).encode())


# Music, voices, faces ----------------------------------------------------------------------------


def _style(
    modality: str, settings: Any, row: Backbone, out: Path, *, resume: bool
) -> dict[str, Any]:
    if row.folder is None:
        msg = f"backbone: {row.name} is not on this machine; give a folder"
        raise ValueError(msg)
    learn = {"music": _music, "voice": _voice, "portrait": _portrait}[modality]
    knobs = settings.to_json()
    data = Path(knobs.pop("data"))
    del knobs["out"], knobs["backbone"]
    with _training(offline=True):
        return learn(data, row.folder, row.name, out, resume=resume, **knobs)


def _music(
    data: Path, folder: Path, base: str, out: Path, *, resume: bool, **given: Any
) -> dict[str, Any]:
    from training.music_lora import Settings, train_style

    settings = Settings(**given)
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
    resume: bool,
    **given: Any,
) -> dict[str, Any]:
    from training.voice_lora import LoraSettings, train_lora

    # These steps take some minutes; no limit of time is a limit that they never reach.
    settings = LoraSettings(minutes=minutes or 600.0, **given)
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
    resume: bool,
    **given: Any,
) -> dict[str, Any]:
    from training.portrait_lora import LoraSettings, train_lora

    settings = LoraSettings(minutes=minutes or 600.0, **given)
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


# Without files -----------------------------------------------------------------------------------


def slider(
    *,
    config: Config = None,
    dry_run: DryRun = False,
    restart: Restart = False,
    no_data: NoData = False,
    as_json: Json = False,
    params: dict[str, Any],
) -> int:
    """Learn bipolar sliders of emotions from prompts alone; a stopped run is gone on with."""
    settings = read(Slider, source_of(config), params)
    emotions = core_emotions(settings.emotion, "emotion")
    row = _row(settings.backbone, "image")
    out = _out(settings.out, "sliders", row)
    vocabulary = _vocabulary(settings.vocabulary, row)
    if dry_run:
        note(f"{len(emotions)} sliders of {settings.steps} steps -> {out}, nothing is trained")
        result(as_toml(settings).rstrip())
        return 0
    with _training(offline=False):
        from pipelines import load
        from training.lora import Settings, train_slider

        pipe = load(row.weights, device=settings.device or None)
        size = {k: v for k in ("height", "width") if (v := getattr(settings, k))}
        knobs = {name: getattr(settings, name) for name in Settings.__dataclass_fields__}
        painted: dict[Any, Any] = {}
        files = []
        for emotion in emotions:
            path = train_slider(
                pipe, emotion, out=out, vocabulary=vocabulary, latents=settings.latents or None,
                call={**row.call, **size}, restart=restart, painted=painted, **knobs,
            )  # fmt: skip
            note(f"{emotion}: {path}")
            files.append(str(path))
    return _told({"path": str(out), "sliders": files}, out, as_json=as_json)


def directions(
    *,
    config: Config = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    params: dict[str, Any],
) -> int:
    """Fit the directions of the twelve emotions in a model's text states; no training."""
    settings = read(Directions, source_of(config), params)
    if settings.emotions.strip() != "all":
        msg = f'emotions: allowed all, received "{settings.emotions[:40]}"; the twelve share a map'
        raise ConfigError(msg)
    row = _row(settings.backbone, "image")
    out = _out(settings.out, "directions", row)
    vocabulary = _vocabulary(settings.vocabulary, row)
    if dry_run:
        note(f"directions of {row.name} in {vocabulary} words -> {out}, nothing is fitted")
        result(as_toml(settings).rstrip())
        return 0
    with _training(offline=False):
        from adapters.directions import DirectionBank
        from pipelines import load

        pipe = load(row.weights, device=settings.device or None)
        bank = DirectionBank.fit(
            pipe, vocabulary=vocabulary, components=settings.components, ridge=settings.ridge,
            batch_size=settings.batch,
        )  # fmt: skip
        out.mkdir(parents=True, exist_ok=True)
        path = bank.save(out / "directions.safetensors")
    share = bank.r_squared["tokens"]
    note(f"{bank.pairs} pairs; valence, arousal and dominance explain {share:.2f} (chance 0.25)")
    return _told({**bank.report(), "path": str(path)}, out, as_json=as_json)


def _vocabulary(asked: str, row: Backbone) -> str:
    """Words of the prompts: the embedded painters know those of their captions alone."""
    if asked not in ("", "rich", "image-tiny"):
        msg = f'vocabulary: allowed rich, image-tiny, received "{asked[:40]}"'
        raise ConfigError(msg)
    return asked or ("image-tiny" if "image-tiny" in row.name else "rich")
