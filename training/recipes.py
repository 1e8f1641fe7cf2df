"""What the commands that train do, whoever asks: `affect train` or `accelerate launch`.

Settings of training.config in, figures out; lines for people go to `tell`. Here stands what comes
before and after a recipe: which backbone, which folder, what the files held, what was shown by
held-out data. Knows no command line and no loop. Nothing heavy is imported before it is needed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.params import Params
from training.config import (
    LORAS,
    ConfigError,
    Directions,
    ImageLora,
    Slider,
    Source,
    as_toml,
    core_emotions,
    read,
)

if TYPE_CHECKING:
    from accelerate import Accelerator

    from pipelines import Backbone

SETTINGS = "config.toml"
"""What a run was told, beside what it made."""

Tell = Callable[[str], None]


def lora_settings(
    source: Source, modality: str | None, given: Mapping[str, Any]
) -> tuple[str, Params]:
    """The modality and the settings of `train lora`, from a file and what was typed.

    Raises:
        ConfigError: an unknown modality or key, no folder of data.
    """
    named = modality or source.values.get("modality", "music")
    if named not in LORAS:
        msg = f"modality: allowed {', '.join(LORAS)}, received {str(named)[:40]!r}"
        raise source.error("modality", msg) if modality is None else ConfigError(msg)
    settings: Any = read(LORAS[named], source.without("modality"), given)
    if not settings.data:
        msg = "data: none given; pass --data FOLDER"
        raise ConfigError(msg)
    return named, settings


def backbone_of(name: str, modality: str) -> Backbone:
    """The backbone of a run, which has to make what the recipe is for."""
    from pipelines import DEFAULTS, resolve

    row = resolve(name or DEFAULTS[modality], modality)
    if row.modality != modality and not (modality == "image" and row.modality == "video"):
        msg = f"backbone: {row.name} makes {row.modality}, not {modality}; see `affect models list`"
        raise ValueError(msg)
    return row


def out_of(out: str, recipe: str, row: Backbone) -> Path:
    """Where a run writes: what was asked for, or a folder of the recipe and the backbone."""
    return Path(out) if out else Path("out") / f"{recipe}-{Path(row.name).name}"


def vocabulary_of(asked: str, row: Backbone) -> str:
    """Words of the prompts: the embedded painters know those of their captions alone."""
    if asked not in ("", "rich", "image-tiny"):
        msg = f'vocabulary: allowed rich, image-tiny, received "{asked[:40]}"'
        raise ConfigError(msg)
    return asked or ("image-tiny" if "image-tiny" in row.name else "rich")


def launched() -> tuple[int, int]:
    """This process among those that a launcher has started, and how many there are: (0, 1) alone.

    The variables of torchrun, which accelerate sets too.
    """
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


# Pictures ----------------------------------------------------------------------------------------


def pictures(
    settings: ImageLora,
    row: Backbone,
    out: Path,
    *,
    resume: str | None,
    dry_run: bool,
    tell: Tell,
    accelerator: Accelerator | None = None,
) -> dict[str, Any]:
    """Learn emotions from labelled pictures (training.image_lora)."""
    from training.checkpoints import Checkpoints
    from training.folder import read_folder

    core_emotions(settings.emotions)
    if resume:
        Checkpoints(out / ".checkpoint").find(resume)
    given: dict[str, Any] = {"layout": settings.layout, "intensity": settings.intensity}
    data, report = read_folder(settings.data, "image", tell=tell, **given)
    ordinary = None
    if settings.regularise:
        ordinary, _ = read_folder(settings.regularise, "image", held=0, least=1, tell=tell)
    for line in report.text().splitlines():
        tell(line)
    from pipelines import load
    from training.image_lora import prepare, train

    device = settings.device
    if accelerator is not None:
        settings = _as_launched(settings, accelerator)
        if accelerator.num_processes > 1:
            device = str(accelerator.device)
    pipe = load(row.weights, device=device or None)
    plan = prepare(pipe, data, settings, out=out, ordinary=ordinary, call=row.call,
                   accelerator=accelerator)  # fmt: skip
    for line in plan.lines():
        tell(line)
    main = plan.together.main
    if dry_run:
        path = out / "first_batch.png"
        return {"path": str(_first_batch(plan, path) if main else path), "steps": 0}
    if main and not (out / SETTINGS).exists():  # those of a finished run stay when one is refused
        keep_settings(out, settings, "image")
    figures: dict[str, Any] = train(plan, out, base=row.name, resume=resume or False, tell=tell)
    if main:
        keep_settings(out, settings, "image")
    if not figures["held"]:
        tell("no labelled picture was held out, so nothing is known of others: add pictures")
        return figures
    from training.intervals import FEW

    low, high = figures["gain_interval"]
    line = (
        f"held-out loss {figures['held_out_before']:.4f} -> {figures['held_out_after']:.4f} on "
        f"{figures['held']} pictures (gain {figures['gain']:.2g}"
    )
    if figures["held"] < FEW:  # draws of so few say how alike they are, not how sure it is
        tell(f"{line}): too few held-out pictures to know it of others: add pictures")
        return figures
    tell(f"{line}, 95 % {low:.2g} to {high:.2g})")
    if low <= 0:
        tell("it is not shown to know them better than the plain model: add pictures or steps")
    return figures


def _as_launched(settings: ImageLora, accelerator: Accelerator) -> ImageLora:
    """The precision that `accelerate config` says, as the recipe's own knob."""
    if accelerator.mixed_precision == "bf16":
        return replace(settings, bf16=True)
    if accelerator.mixed_precision != "no":
        msg = (
            f"mixed_precision: allowed no, bf16, received {accelerator.mixed_precision!r}; "
            "launch with --mixed_precision bf16"
        )
        raise ConfigError(msg)
    return settings


def _first_batch(plan: Any, path: Path) -> Path:
    """Draw the pictures that the first step will see, as the model will be shown them."""
    from pipelines.ledger import write_atomic
    from pipelines.media import encode_image

    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, encode_image(plan.batches.sheet(), "png", {}))
    return path


def keep_settings(out: Path, settings: Params, modality: str) -> None:
    """Write what a run was told beside what it makes, to be given as --config again."""
    from pipelines.ledger import write_atomic

    if out.is_dir() or not out.exists():
        out.mkdir(parents=True, exist_ok=True)
        write_atomic(out / SETTINGS, as_toml(settings, modality=modality).encode())


# Music, voices, faces ----------------------------------------------------------------------------


def style(
    modality: str,
    settings: Any,
    row: Backbone,
    out: Path,
    *,
    resume: str | None,
    dry_run: bool = False,
    tell: Tell,
) -> dict[str, Any]:
    """Learn a style of music, voice or face (training.{music,voice,portrait}_lora).

    Raises:
        ConfigError: a checkpoint by number: these keep the last one alone.
    """
    if resume not in (None, "latest"):
        msg = f"resume: of {modality} the last checkpoint alone is kept; pass --resume latest"
        raise ConfigError(msg)
    if row.folder is None:
        msg = f"backbone: {row.name} is not on this machine; give a folder"
        raise ValueError(msg)
    if dry_run:
        return {"path": str(_first_files(modality, settings, out, tell)), "steps": 0}
    learn = {"music": _music, "voice": _voice, "portrait": _portrait}[modality]
    knobs = settings.to_json()
    data = Path(knobs.pop("data"))
    del knobs["out"], knobs["backbone"]
    given = {"backbone": row.folder, "base": row.name, "out": out, "resume": bool(resume),
             "tell": tell}  # fmt: skip
    figures = learn(data, given, tell, **knobs)
    keep_settings(out, settings, modality)
    return figures


def _first_files(modality: str, settings: Any, out: Path, tell: Tell) -> Path:
    """Tell what the folder holds and draw some of it, as a contact sheet."""
    from pipelines.ledger import write_atomic
    from pipelines.media import encode_image
    from training.folder_style import read_style

    dataset = read_style(settings.data, modality, settings.layout, tell=tell)
    limit = f", or {settings.minutes:g} minutes" if settings.minutes else ""
    tell(f"{settings.steps} steps of {settings.batch} samples at most{limit}; rank {settings.rank}")
    path = out / "first_files.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, encode_image(dataset.sheet(12), "png", {}))
    return path


def _music(data: Path, given: dict[str, Any], tell: Tell, **knobs: Any) -> dict[str, Any]:
    from training.music_lora import Settings, train_style

    figures: dict[str, Any] = train_style(data, settings=Settings(**knobs), **given)
    low, high = figures["gain_interval"]
    tell(
        f"held-out loss {figures['held_out_before']:.3f} -> {figures['held_out_after']:.3f} nats a "
        f"token (gain {figures['gain']:.3f}, 95 % {low:.3f} to {high:.3f}), "
        f"{figures['steps']} steps in {figures['seconds']:.0f} s"
    )
    if low <= 0:
        tell("it is not shown to know the style better than the plain model: give it more music")
    return figures


def _voice(
    data: Path, given: dict[str, Any], tell: Tell, *, minutes: float, **knobs: Any
) -> dict[str, Any]:
    from training.voice_lora import LoraSettings, train_lora

    # These steps take some minutes; no limit of time is a limit that they never reach.
    settings = LoraSettings(minutes=minutes or 600.0, **knobs)
    figures: dict[str, Any] = train_lora(data, settings=settings, **given)
    shown = False
    for name, what in (("prosody", "pitch, level and timing"), ("timbre", "colour and breath")):
        row = figures[name]
        low, high = row["gain_interval"]
        shown = shown or low > 0
        tell(
            f"{what}: {row['left_before']:.3f} -> {row['left_after']:.3f} of what real takes do "
            f"beyond the mean is left on {row['pairs']} held-out pairs (gain "
            f"{row['left_before'] - row['left_after']:.3f}, 95 % {low:.3f} to {high:.3f})"
        )
    if not shown:
        tell("it is not shown to know the style better than the plain model: record more sentences")
    return figures


def _portrait(
    data: Path, given: dict[str, Any], tell: Tell, *, minutes: float, **knobs: Any
) -> dict[str, Any]:
    from training.portrait_lora import LoraSettings, train_lora

    settings = LoraSettings(minutes=minutes or 600.0, **knobs)
    figures: dict[str, Any] = train_lora(data, settings=settings, **given)
    low, high = figures["gain_interval"]
    tell(
        f"{figures['left_before']:.3f} -> {figures['left_after']:.3f} of what the face does beyond "
        f"the textbook's muscles is left in {figures['seconds_unseen']} held-out seconds (gain "
        f"{figures['left_before'] - figures['left_after']:.3f}, 95 % {low:.3f} to {high:.3f})"
    )
    if low <= 0:
        tell("it is not shown to know the face better than the plain model: record more of it")
    return figures


# Without files -----------------------------------------------------------------------------------


def sliders(
    settings: Slider, row: Backbone, out: Path, *, restart: bool, tell: Tell
) -> dict[str, Any]:
    """Learn bipolar sliders from prompts (training.lora); a stopped run is gone on with."""
    from pipelines import load
    from pipelines.ledger import write_atomic
    from training.lora import Settings, train_slider

    vocabulary = vocabulary_of(settings.vocabulary, row)
    pipe = load(row.weights, device=settings.device or None)
    size = {k: v for k in ("height", "width") if (v := getattr(settings, k))}
    knobs = {name: getattr(settings, name) for name in Settings.__dataclass_fields__}
    painted: dict[Any, Any] = {}
    files = []
    for emotion in core_emotions(settings.emotion, "emotion"):
        path = train_slider(
            pipe, emotion, out=out, vocabulary=vocabulary, latents=settings.latents or None,
            call={**row.call, **size}, restart=restart, painted=painted, **knobs,
        )  # fmt: skip
        tell(f"{emotion}: {path}")
        files.append(str(path))
    write_atomic(out / SETTINGS, as_toml(settings).encode())
    return {"path": str(out), "sliders": files}


def directions_settings(source: Source, given: Mapping[str, Any]) -> Directions:
    """The settings of `train directions`.

    Raises:
        ConfigError: some of the emotions alone.
    """
    settings = read(Directions, source, given)
    if settings.emotions.strip() != "all":
        msg = f'emotions: allowed all, received "{settings.emotions[:40]}"; the twelve share a map'
        raise ConfigError(msg)
    return settings


def directions(settings: Directions, row: Backbone, out: Path, *, tell: Tell) -> dict[str, Any]:
    """Fit the directions of the twelve emotions in a model's text states (adapters.directions)."""
    from adapters.directions import DirectionBank
    from pipelines import load

    pipe = load(row.weights, device=settings.device or None)
    bank = DirectionBank.fit(
        pipe, vocabulary=vocabulary_of(settings.vocabulary, row), components=settings.components,
        ridge=settings.ridge, batch_size=settings.batch,
    )  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    path = bank.save(out / "directions.safetensors")
    share = bank.r_squared["tokens"]
    tell(f"{bank.pairs} pairs; valence, arousal and dominance explain {share:.2f} (chance 0.25)")
    return {**bank.report(), "path": str(path)}
