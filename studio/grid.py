"""`affect grid image PROMPT --emotions a,b --levels 5`: one batch, one contact sheet, all takes.

Every cell has the same seed, so what changes between cells is the emotion alone. The sheet is
written like any other output: marked as synthetic, with what it shows in its metadata. Of music it
shows small piano rolls, of voices the pitch before and after, of portraits the face where it shows
most, of films the frame in their middle, with a tick at what was asked and a bar for what each
reader reads; the takes themselves lie beside the sheet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from studio import make
from studio.console import result, result_json
from studio.options import with_params
from studio.run import (
    PANELS,
    Options,
    build_requests,
    fresh_seed,
    params_of,
    quiet_libraries,
    run,
)

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

    from adapters.voice_analysis import Analysis
    from pipelines.take import Request, Take


def app() -> typer.Typer:
    """The verb `grid`, with one command a modality."""
    verb = typer.Typer(add_completion=False, no_args_is_help=True, help="Emotions by levels.")
    verb.callback()(lambda: None)
    commands: dict[str, Callable[..., Any]] = {
        "image": image,
        "music": music,
        "voice": voice,
        "portrait": portrait,
        "video": video,
    }
    for modality, command in commands.items():
        panels = (PANELS[modality],)
        verb.command(modality)(with_params(command, params_of(modality), panels=panels))
    return verb


Emotions = Annotated[str, typer.Option("--emotions", help="Comma-separated emotions, or all.")]
Levels = Annotated[
    int, typer.Option("--levels", min=1, max=20, help="Intensities, evenly up to 1.")
]
Neutral = Annotated[
    bool, typer.Option("--neutral/--no-neutral", help="A first column with no emotion.")
]


def image(
    prompt: Annotated[str, typer.Argument(help="What to show.")],
    *,
    emotions: Emotions = "happiness,fear,sadness,contentment",
    levels: Levels = 5,
    neutral: Neutral = True,
    seed: make.Seed = None,
    backbone: make.Backbone = make.DEFAULT_BACKBONE,
    init: make.Init = None,
    out: make.Out = Path("out"),
    as_json: make.Json = False,
    device: make.Device = None,
    dtype: make.Dtype = None,
    offline: make.Offline = False,
    file_format: make.Format = "png",
    params: dict[str, Any],
) -> int:
    """Make PROMPT with several emotions at several intensities, side by side."""
    names = emotion_names(emotions)
    requests = grid_requests(
        prompt,
        names,
        levels,
        neutral=neutral,
        seed=fresh_seed() if seed is None else seed,
        backbone=backbone,
        params=params,
        inputs={"init": init},
    )
    options = Options(out, as_json, device, dtype, offline, file_format)
    # One batch whatever its size: should it not fit into memory, it is halved there.
    takes = run(requests, options, batch_size=len(requests))
    return _finish(names, levels, requests, takes, options)


def music(
    *,
    emotions: Emotions = "happiness,anger,sadness,contentment",
    levels: Levels = 3,
    neutral: Neutral = True,
    title: make.Title = "",
    seed: make.Seed = None,
    recolour: make.Recolour = None,
    soundfont: make.Soundfont = None,
    backbone: make.Backbone = make.DEFAULT_COMPOSER,
    out: make.Out = Path("out"),
    as_json: make.Json = False,
    device: make.Device = None,
    dtype: make.Dtype = None,
    offline: make.Offline = False,
    params: dict[str, Any],
) -> int:
    """Make music with several emotions at several intensities, one piece a cell."""
    names = emotion_names(emotions)
    requests = grid_requests(
        title,
        names,
        levels,
        neutral=neutral,
        seed=fresh_seed() if seed is None else seed,
        backbone=backbone,
        params=params,
        inputs={"recolour": recolour, "soundfont": soundfont},
        modality="music",
    )
    options = Options(out, as_json, device, dtype, offline, "mid")
    return _finish(names, levels, requests, run(requests, options), options)


def voice(
    *,
    audio: make.Audio = None,
    text: make.Text = "",
    consent: make.Consent = None,
    emotions: Emotions = "happiness,anger,fear,sadness",
    levels: Levels = 5,
    neutral: Neutral = True,
    seed: make.Seed = None,
    backbone: make.Backbone = make.DEFAULT_VOICE,
    out: make.Out = Path("out"),
    as_json: make.Json = False,
    device: make.Device = None,
    dtype: make.Dtype = None,
    offline: make.Offline = False,
    params: dict[str, Any],
) -> int:
    """Give a recording several emotions at several intensities, one take a cell."""
    quiet_libraries(offline=offline)
    names = emotion_names(emotions)
    requests = grid_requests(
        text,
        names,
        levels,
        neutral=neutral,
        seed=fresh_seed() if seed is None else seed,
        backbone=backbone,
        params=params,
        inputs={"audio": audio},
        modality="voice",
    )
    requests = make.with_consent(requests, consent, out, offline=offline)
    options = Options(out, as_json, device, dtype, offline, "auto")
    return _finish(names, levels, requests, run(requests, options), options)


def portrait(
    *,
    image: make.Image = None,
    audio: make.Say = None,
    drive: make.Drive = None,
    curves_in: make.CurvesIn = None,
    title: make.Title = "",
    consent: make.Consent = None,
    emotions: Emotions = "anger,disgust,fear,happiness,sadness,surprise,contempt",
    levels: Levels = 5,
    neutral: Neutral = True,
    seed: make.Seed = None,
    backbone: make.Backbone = make.DEFAULT_PORTRAIT,
    out: make.Out = Path("out"),
    file_format: make.StillFormat = None,
    as_json: make.Json = False,
    device: make.Device = None,
    dtype: make.Dtype = None,
    offline: make.Offline = False,
    params: dict[str, Any],
) -> int:
    """Give a face several emotions at several intensities, one still a cell.

    With --audio, --drive or --seconds each cell is a film, shown where its expression is strongest.
    """
    quiet_libraries(offline=offline)
    names = emotion_names(emotions)
    moving = audio is not None or drive is not None or "seconds" in params
    params.setdefault("still", not moving)
    requests = grid_requests(
        title,
        names,
        levels,
        neutral=neutral,
        seed=fresh_seed() if seed is None else seed,
        backbone=backbone,
        params=params,
        inputs=make.portrait_inputs(image, audio, drive, curves_in),
        modality="portrait",
    )
    options = Options(out, as_json, device, dtype, offline, file_format or "auto")
    requests = make.with_consent(requests, consent, out, offline=offline)
    return _finish(names, levels, requests, run(requests, options), options)


def video(
    prompt: Annotated[str, typer.Argument(help="What to show.")] = "",
    *,
    emotions: Emotions = "happiness,fear,sadness,contentment",
    levels: Levels = 3,
    neutral: Neutral = True,
    seed: make.Seed = None,
    backbone: make.Backbone = make.DEFAULT_VIDEO,
    init: make.Moving = None,
    out: make.Out = Path("out"),
    as_json: make.Json = False,
    device: make.Device = None,
    dtype: make.Dtype = None,
    offline: make.Offline = False,
    params: dict[str, Any],
) -> int:
    """Make films of PROMPT with several emotions at several intensities, one film a cell."""
    names = emotion_names(emotions)
    requests = grid_requests(
        prompt,
        names,
        levels,
        neutral=neutral,
        seed=fresh_seed() if seed is None else seed,
        backbone=backbone,
        params=params,
        inputs={"init": init},
        modality="video",
    )
    options = Options(out, as_json, device, dtype, offline, "auto")
    return _finish(names, levels, requests, run(requests, options), options)


def _finish(
    names: Sequence[str],
    levels: int,
    requests: Sequence[Request],
    takes: Sequence[Take],
    options: Options,
) -> int:
    """Write and print the sheet of what was made; the exit code."""
    if not takes:
        return 1
    path = write_sheet(names, levels, requests, takes, options.out)
    if options.as_json:
        result_json({"sheet": str(path), "takes": [str(take.path) for take in takes]})
    else:
        result(str(path))
    return 0 if len(takes) == len(requests) else 1


def emotion_names(text: str) -> list[str]:
    """The emotions of a comma-separated list, "all" for the twelve; each must be known."""
    from adapters.emotion import CORE, Emotion, EmotionError

    if text.strip().lower() == "all":
        return list(CORE)
    names = [part.strip() for part in text.split(",") if part.strip()]
    if not names:
        msg = f"emotions: none in {text!r}; give a list such as happiness,fear or all"
        raise EmotionError(msg)
    for name in names:
        Emotion.of(name, 1.0)
    return list(dict.fromkeys(names))


def level_values(levels: int) -> list[float]:
    """Evenly spaced intensities up to 1: five give .2 .4 .6 .8 1."""
    return [round((step + 1) / levels, 6) for step in range(levels)]


def grid_requests(
    prompt: str,
    names: Sequence[str],
    levels: int,
    *,
    neutral: bool,
    seed: int,
    backbone: str,
    params: dict[str, Any],
    inputs: Mapping[str, Path | None] | None = None,
    modality: str = "image",
) -> list[Request]:
    """The neutral one first (once, if wanted), then a row an emotion, all with one seed."""
    from adapters.emotion import Emotion, EmotionTimeline

    states = [Emotion.neutral()] if neutral else []
    states += [Emotion.of(name, level) for name in names for level in level_values(levels)]
    return build_requests(
        prompt,
        [EmotionTimeline.constant(state) for state in states],
        seed=seed,
        n=1,
        backbone=backbone,
        params=params,
        inputs=inputs or {},
        modality=modality,
    )


def write_sheet(
    names: Sequence[str],
    levels: int,
    requests: Sequence[Request],
    takes: Sequence[Take],
    out: Path,
) -> Path:
    """Draw the contact sheet of a finished grid beside its takes and return its path."""
    from pipelines.media import encode_image
    from pipelines.take import digital_source, write_atomic
    from studio.sheet import contact_sheet

    # Not by key: a finished request also names the weights it was made with.
    pictures = dict(zip([take.request.emotion.text for take in takes], _cells(takes), strict=True))
    found = [pictures.get(request.emotion.text) for request in requests]
    spare = len(requests) - len(names) * levels
    rows = [
        found[:spare] + found[spare + row * levels : spare + (row + 1) * levels]
        for row in range(len(names))
    ]
    columns = (["neutral"] if spare else []) + [f"{level:.2g}" for level in level_values(levels)]
    first = requests[0]
    sheet = contact_sheet(
        rows,
        list(names),
        columns,
        title=_title(first),
        subtitle=f"{Path(first.backbone).name}, seed {first.seed}{LEGEND.get(first.modality, '')}",
    )
    folder = takes[0].path.parent if takes else out
    path = folder / f"{first.key[:8]}-grid-{len(names)}x{levels}.png"
    about = {
        "contact_sheet": [take.path.name for take in takes],
        "prompt": first.prompt,
        "emotions": list(names),
        "levels": level_values(levels),
        "seed": first.seed,
        "backbone": first.backbone,
    }
    write_atomic(
        path, encode_image(sheet, "png", {"affect": about, "digital_source": digital_source(first)})
    )
    return path


LEGEND = {
    "voice": "; pitch: grey before, colour after",
    "portrait": "; bars: critic and reader, tick: asked",
    "video": "; bars: critic and reader, tick: asked",
}
"""Modality -> what a reader of the sheet has to be told."""


def _title(request: Request) -> str:
    source = request.inputs.get("image") or request.inputs.get("audio")
    return request.prompt or (source.name if source else request.modality.capitalize())


def _cells(takes: Sequence[Take]) -> list[Picture]:
    """What a sheet shows of takes: pictures, small piano rolls, or pitch before and after."""
    from pipelines.media import load_image

    modality = takes[0].request.modality
    if modality == "voice":
        return _voices(takes)
    if modality == "portrait":
        return _portraits(takes)
    if modality == "video":
        from pipelines.media_video import preview, probe_video
        from pipelines.portrait_sheet import stamp

        middles = [preview(take.path, probe_video(take.path).seconds / 2) for take in takes]
        return [stamp(one, **_marks(take)) for one, take in zip(middles, takes, strict=True)]
    if modality != "music":
        return [load_image(take.path) for take in takes]
    from pipelines.media_midi import load_midi
    from pipelines.music_figure import small_roll

    return [small_roll(load_midi(take.path), **_marks(take)) for take in takes]


def _voices(takes: Sequence[Take]) -> list[Picture]:
    """Pitch before and after, all on the same axes."""
    from adapters.voice_analysis import analyse
    from pipelines.media_sound import load_sound
    from pipelines.voice_figure import pitch_range, small_pitch
    from studio.source import recording_of

    def heard(path: Path) -> Analysis:
        sound = load_sound(path)
        return analyse(sound.waveform, sound.sample_rate)

    after = [heard(take.path) for take in takes]
    recording = recording_of(takes[0])
    before = after[0] if recording is None else heard(recording)
    hertz = pitch_range([before, *after])
    seconds = max(voice.seconds for voice in (before, *after))
    return [
        small_pitch(before, voice, hertz=hertz, seconds=seconds, **_marks(take))
        for voice, take in zip(after, takes, strict=True)
    ]


def _portraits(takes: Sequence[Take]) -> list[Picture]:
    """The face alone, of a film where its expression is strongest."""
    from adapters.face_motion import read_csv
    from pipelines.media import load_image
    from pipelines.media_video import preview
    from pipelines.portrait_figure import close_up
    from pipelines.portrait_sheet import stamp, strongest

    cells = []
    for take in takes:
        if take.path.suffix == ".mp4":
            motion = read_csv(take.path.with_suffix(".csv"))
            picture = preview(take.path, strongest(motion) / motion.fps, 1024)
        else:
            picture = load_image(take.path)
        told = (take.reading or {})["motion"]
        scale = picture.width / told["photo"][0]
        face = close_up(picture, [scale * x for x in told["face"]["box"]])
        cells.append(stamp(face, **_marks(take)))
    return cells


def _marks(take: Take) -> dict[str, Any]:
    """Colour of a stamp, its tick at what was asked, and how strongly each reader reads it."""
    from adapters.emotion import CORE
    from studio.page import COLOURS, bars_of

    state = take.request.emotion.peak
    name = state.dominant
    readers = bars_of(take.reading)
    read = [] if name == "neutral" else [reader.intensities[name] for reader in readers]
    # Of a mixture the part that the bars show, too.
    asked = None if name == "neutral" else min(state.intensities[CORE.index(name)], 1.0)
    return {"asked": asked, "read": read, "colour": COLOURS[name]}
