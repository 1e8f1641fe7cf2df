"""`affect remake FILE`: anything made here again from the file alone; any option overrides.

Everything comes out of the file's metadata: prompt, emotion, seed, model and parameters. A take
that was chosen from several seeds carries its own winning one, so no search is repeated. Options
are those of every modality; one that the file's modality has no use for is refused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from studio import make
from studio.console import note
from studio.options import with_params
from studio.run import (
    PANELS,
    Options,
    build_requests,
    params_of,
    quiet_libraries,
    read_emotion,
    run,
)

if TYPE_CHECKING:
    from pipelines.take import Request


def app() -> typer.Typer:
    """The verb `remake`."""
    verb = typer.Typer(add_completion=False)
    kinds = [params_of(modality) for modality in PANELS]
    verb.command()(with_params(remake, *kinds, panels=list(PANELS.values())))
    return verb


def remake(
    file: Annotated[
        Path,
        typer.Argument(help="A picture, music, voice, portrait, video or film made here."),
    ],
    *,
    prompt: Annotated[
        str | None,
        typer.Option(
            "--prompt", "--title", "--text", help="Show or say something else; a new title."
        ),
    ] = None,
    emotion: Annotated[
        str | None, typer.Option("--emotion", "-e", help="Another emotion or intensity.")
    ] = None,
    seed: make.Seed = None,
    n: make.Count = 1,
    best_of: make.BestOf = None,
    backbone: Annotated[str | None, typer.Option("--backbone", "-b", help="Another model.")] = None,
    init: make.Init = None,
    continued: make.Continue = None,
    recolour: make.Recolour = None,
    giver: make.From = None,
    onto: make.Onto = None,
    soundfont: make.Soundfont = None,
    audio: Annotated[
        Path | None,
        typer.Option("--audio", "-a", help="Another recording that is changed, or is said."),
    ] = None,
    image: make.Image = None,
    drive: make.Drive = None,
    curves_in: make.CurvesIn = None,
    consent: make.Consent = None,
    out: make.Out = Path("out"),
    format: Annotated[
        Literal["png", "jpg", "webp", "wav", "flac", "mp3", "auto"] | None,
        typer.Option("--format", help="Another file format.", show_default=False),
    ] = None,
    lora: Annotated[
        str | None,
        typer.Option("--lora", help="Of pictures on or off; else the folder of another style."),
    ] = None,
    no_lora: Annotated[bool, typer.Option("--no-lora", help="Without sliders or style.")] = False,
    as_json: make.Json = False,
    device: make.Device = None,
    dtype: make.Dtype = None,
    reader: make.Reader = None,
    offline: make.Offline = False,
    params: dict[str, Any],
) -> int:
    """Make FILE again, with whatever is overridden."""
    from pipelines.take import Take
    from studio.from_audio import emotion_of_speech, is_from_audio

    quiet_libraries(offline=offline)
    old = Take.read(file).request
    if old.modality not in PANELS:
        known = " and ".join(PANELS)
        msg = f"remake: {file} is of modality {old.modality!r}; this version remakes {known}"
        raise ValueError(msg)
    if lora is not None or no_lora:
        params["lora"] = lora_of(old.modality, "off" if no_lora else str(lora))
    if backbone is None:
        warn_of_stranger(file, old.backbone, old.modality)
        merged = {**old.params, **params}
    else:
        merged = {**chosen_params(old), **params}
    files = {
        "init": init,
        **make.music_inputs(continued, recolour, giver, onto, soundfont),
        **make.portrait_inputs(image, audio, drive, curves_in),
    }
    given = {name: path for name, path in files.items() if path is not None}
    kept = dict(old.inputs)
    if old.modality == "voice":
        prompt, kept = voice_source(old, prompt, audio, merged)
        if format is not None:
            merged["format"] = format
    elif old.modality == "portrait":
        kept = portrait_source(old, given, still=bool(merged.get("still")))
        if image is not None:  # another face has other places, and is one of another crowd
            merged = {k: v for k, v in merged.items() if k not in ("face", "points") or k in params}
    elif old.modality == "film":
        if given or prompt is not None:
            what = min(given) if given else "prompt"
            msg = f"{what}: of a film its scene says that; edit the scene and make it again"
            raise ValueError(msg)
    elif consent is not None:
        msg = f"consent: is for voices and faces, {file} is of modality {old.modality!r}"
        raise ValueError(f"{msg}; leave it out")
    if not given and kept:
        old.check_inputs()
    state = old.emotion
    if emotion is not None:
        over = bool(merged.get("over"))
        if old.modality == "portrait" and is_from_audio(emotion):
            state = emotion_of_speech({**kept, **given}.get("audio"))
        else:
            state = read_emotion(emotion, over=over, reader=reader, modality=old.modality)
    requests = build_requests(
        old.prompt if prompt is None else prompt,
        [state],
        seed=old.seed if seed is None else seed,
        n=n,
        backbone=old.backbone if backbone is None else backbone,
        params=merged,
        inputs={**kept, **given},
        modality=old.modality,
    )
    people = (consent, image, audio, drive)
    if old.modality in make.PEOPLE and any(path is not None for path in people):
        search = best_of is not None
        requests = make.with_consent(requests, consent, out, offline=offline, search=search)
    options = Options(
        out, as_json, device, dtype, offline, _suffix(file, old, format, bool(merged.get("still")))
    )
    takes = run(requests, options, best_of=best_of)
    if takes and backbone is None and takes[0].request.weights != old.weights:
        note(f"the weights of {old.backbone} are no longer those that made {file}")
    return 0 if len(takes) == len(requests) else 1


def lora_of(modality: str, text: str) -> bool | str:
    """The knob `lora`: a switch of pictures and video, else the folder of a style ("" for none)."""
    switch = {"on": True, "off": False}.get(text.lower())
    if modality not in ("image", "video"):
        return "" if switch is False else text
    if switch is None:
        msg = f"lora: of pictures it is on or off, received {text[:40]!r}; choose one"
        raise ValueError(msg)
    return switch


def voice_source(
    old: Request, prompt: str | None, audio: Path | None, params: dict[str, Any]
) -> tuple[str, dict[str, Path]]:
    """Words and files of a voice: another recording takes the place of words, and vice versa.

    params: loses what only words have use for, when a recording comes in their place.
    """
    if audio is not None:
        if old.prompt:
            for name in ("speaker", "speech", "language"):
                params.pop(name, None)
        return prompt or "", {}
    if prompt is not None and prompt.strip():
        return prompt, {}
    return old.prompt, dict(old.inputs)


def portrait_source(old: Request, given: Mapping[str, Path], *, still: bool) -> dict[str, Path]:
    """Files of a portrait that are kept: a film that drives and curves replace each other.

    still: what has a length is let go.
    """
    gone = ("audio", "drive") if still else ()
    kept = {name: path for name, path in old.inputs.items() if name not in gone}
    for one, other in (("drive", "curves"), ("curves", "drive")):
        if one in given:
            kept.pop(other, None)
    if given.keys() & {"image", "audio", "drive"}:
        kept.pop("consent", None)  # somebody else's
    return kept


def _suffix(file: Path, old: Request, wanted: str | None, still: bool) -> str:
    """The format to write: what is asked for, else that of the file."""
    if old.modality == "music":
        if wanted is not None:
            msg = f"format: music is written as .mid, .wav and .png together, not only {wanted}"
            raise ValueError(msg)
        return "mid"
    if old.modality == "voice":
        return "auto"  # the knob format says it
    if old.modality == "portrait" and not still:
        return wanted or "auto"
    if old.modality in ("video", "film"):
        if wanted not in (None, "auto"):
            msg = f"format: films are written as mp4, received {wanted}; leave it out"
            raise ValueError(msg)
        return "auto"
    if wanted in ("wav", "flac", "mp3", "auto"):
        msg = f"format: pictures are written as png, jpg or webp, received {wanted}"
        raise ValueError(msg)
    ext = wanted or file.suffix.lower().removeprefix(".").replace("jpeg", "jpg")
    return ext if ext in ("png", "jpg", "webp") else "png"


def warn_of_stranger(file: Path, backbone: str, modality: str = "image") -> None:
    """Say which hub repository a file asks for when it is none that this studio knows."""
    from pipelines import BACKBONES, BackboneError, resolve

    with suppress(BackboneError):
        row = resolve(backbone, modality)
        if row.name not in BACKBONES and row.folder is None:
            note(
                f"{file} asks for the weights of {row.weights} on the hub, which this studio does "
                "not know; only safetensors and no code of it are loaded, --backbone takes another"
            )


def chosen_params(old: Request) -> dict[str, Any]:
    """The params of a request that are not its backbone's defaults; another's may differ."""
    from pipelines import BackboneError, resolve

    kind = params_of(old.modality)
    usual = {field.name: field.default for field in dataclasses.fields(kind)}
    with suppress(BackboneError):  # a folder that is gone
        usual |= resolve(old.backbone, old.modality).defaults
    return {
        name: value
        for name, value in old.params.items()
        if name not in usual or value != usual[name]
    }
