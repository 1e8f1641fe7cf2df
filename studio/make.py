"""`affect make image PROMPT`, `make music`, `voice`, `portrait`, `video`, and `make film SCENE`.

Besides its own options each has one for every field of its modality's params. This file only
collects what was typed; `studio.run` does the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pipelines import DEFAULTS, MAKERS
from studio.console import note, person_at_terminal
from studio.options import with_params
from studio.run import (
    PANELS,
    Options,
    build_requests,
    fresh_seed,
    params_of,
    quiet_libraries,
    read_emotion,
    run,
)

if TYPE_CHECKING:
    from pipelines.take import Request, Take
    from studio.consent import What

# The options that several verbs share, each described once.
EmotionText = Annotated[
    str,
    typer.Option(
        "--emotion",
        "-e",
        help='What it should feel like: "sadness 0.8", "joy .6 + fear .2", "v=-.7 a=.3", '
        "or quoted text to be read.",
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        "--seed", metavar="N", min=0, max=2**53 - 1, help="First seed; fresh if left out."
    ),
]
Count = Annotated[int, typer.Option("--n", metavar="N", min=1, max=64, help="How many to keep.")]
BestOf = Annotated[
    int | None,
    typer.Option(
        "--best-of",
        metavar="N",
        min=1,
        max=256,
        help="Try so many seeds, keep the --n that the critic prefers.",
    ),
]
Backbone = Annotated[
    str,
    typer.Option(
        "--backbone", "-b", help="Model: a name of `affect models list`, a hub id or a folder."
    ),
]
Init = Annotated[
    Path | None,
    typer.Option("--init", help="Re-render this photo (PNG, JPEG, WEBP) instead of starting new."),
]
Moving = Annotated[
    Path | None, typer.Option("--init", help="Picture (PNG, JPEG, WEBP) that starts to move.")
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for the takes.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object per take.")]
Device = Annotated[
    str | None, typer.Option("--device", help="cpu, cuda, cuda:1, mps; the best there is.")
]
Dtype = Annotated[
    str | None, typer.Option("--dtype", help="float32, float16, bfloat16; what the device likes.")
]
Reader = Annotated[
    str | None,
    typer.Option(
        "--reader", help="Text-classification model (name or folder) that reads quoted text."
    ),
]
Offline = Annotated[bool, typer.Option("--offline", help="Never ask the hub for weights.")]

Format = Annotated[
    Literal["png", "jpg", "webp"],
    typer.Option("--format", help="File format; png keeps every pixel as it was made."),
]

Title = Annotated[str, typer.Option("--title", help="What to call it; it names the files.")]
Continue = Annotated[
    Path | None, typer.Option("--continue", help="Keep this MIDI file as the opening and go on.")
]
Recolour = Annotated[
    Path | None, typer.Option("--recolour", help="Play this MIDI file again in another mood.")
]
From = Annotated[Path | None, typer.Option("--from", help="MIDI file that gives --transfer.")]
Onto = Annotated[Path | None, typer.Option("--onto", help="MIDI file that takes --transfer.")]
Soundfont = Annotated[
    Path | None, typer.Option("--soundfont", help="Play with this .sf2 instead of our piano.")
]

Audio = Annotated[
    Path | None, typer.Option("--audio", "-a", help="Recording to change: WAV, FLAC or MP3.")
]
Text = Annotated[
    str, typer.Option("--text", "-t", help="Words to speak first, when there is no recording.")
]
Consent = Annotated[
    Path | None,
    typer.Option("--consent", help="Document that says the person agreed; its hash is kept."),
]

Image = Annotated[
    Path | None,
    typer.Option("--image", "-i", help="Photo or drawing of a face: PNG, JPEG or WEBP."),
]
Say = Annotated[
    Path | None, typer.Option("--audio", "-a", help="Recording that it says: WAV, FLAC or MP3.")
]
Drive = Annotated[
    Path | None,
    typer.Option("--drive", help="Film (MP4) of another face, whose expression is taken over."),
]
CurvesIn = Annotated[
    Path | None,
    typer.Option(
        "--curves-in", help="Move by these curves (CSV of Live Link Face, or JSON) and no model."
    ),
]
StillFormat = Annotated[
    Literal["png", "jpg", "webp"] | None,
    typer.Option("--format", help="File format of a still; png unless told.", show_default=False),
]

DEFAULT_BACKBONE = DEFAULTS["image"]
DEFAULT_COMPOSER = DEFAULTS["music"]
DEFAULT_VOICE = DEFAULTS["voice"]
DEFAULT_PORTRAIT = DEFAULTS["portrait"]
DEFAULT_VIDEO = DEFAULTS["video"]


def app() -> typer.Typer:
    """The verb `make`, with one command a modality."""
    verb = typer.Typer(add_completion=False, no_args_is_help=True, help="Make media.")
    verb.callback()(lambda: None)
    commands: dict[str, Callable[..., Any]] = {
        "image": image,
        "music": music,
        "voice": voice,
        "portrait": portrait,
        "video": video,
        "film": film,
    }
    for modality, command in commands.items():
        panels = (PANELS[modality],)
        verb.command(modality)(with_params(command, params_of(modality), panels=panels))
    return verb


def image(
    prompt: Annotated[str, typer.Argument(help="What to show.")],
    *,
    emotion: EmotionText = "neutral",
    seed: Seed = None,
    n: Count = 1,
    best_of: BestOf = None,
    backbone: Backbone = DEFAULT_BACKBONE,
    init: Init = None,
    out: Out = Path("out"),
    file_format: Format = "png",
    as_json: Json = False,
    device: Device = None,
    dtype: Dtype = None,
    reader: Reader = None,
    offline: Offline = False,
    params: dict[str, Any],
) -> int:
    """Make pictures of PROMPT with an emotion."""
    quiet_libraries(offline=offline)
    requests = build_requests(
        prompt,
        [read_emotion(emotion, over=bool(params.get("over")), reader=reader)],
        seed=fresh_seed() if seed is None else seed,
        n=n,
        backbone=backbone,
        params=params,
        inputs={"init": init},
    )
    options = Options(out, as_json, device, dtype, offline, file_format)
    takes = run(requests, options, best_of=best_of)
    return 0 if len(takes) == len(requests) else 1


def music(
    *,
    emotion: EmotionText = "neutral",
    title: Title = "",
    seed: Seed = None,
    n: Count = 1,
    best_of: BestOf = None,
    continued: Continue = None,
    recolour: Recolour = None,
    source: From = None,
    onto: Onto = None,
    soundfont: Soundfont = None,
    backbone: Backbone = DEFAULT_COMPOSER,
    out: Out = Path("out"),
    as_json: Json = False,
    device: Device = None,
    dtype: Dtype = None,
    reader: Reader = None,
    offline: Offline = False,
    params: dict[str, Any],
) -> int:
    """Make music with an emotion, or one that changes: "0s contentment .5; 15s fear .9".

    Composes a piece; or goes on from a MIDI file, plays it again in another mood, or moves musical
    elements between two files. Prints the .mid; its sound (.wav) and picture (.png) lie beside it.
    """
    quiet_libraries(offline=offline)
    over = bool(params.get("over"))
    requests = build_requests(
        title,
        [read_emotion(emotion, over=over, reader=reader, modality="music")],
        seed=fresh_seed() if seed is None else seed,
        n=n,
        backbone=backbone,
        params=params,
        inputs=music_inputs(continued, recolour, source, onto, soundfont),
        modality="music",
    )
    options = Options(out, as_json, device, dtype, offline, "mid")
    takes = run(requests, options, best_of=best_of)
    return 0 if len(takes) == len(requests) else 1


def music_inputs(
    continued: Path | None,
    recolour: Path | None,
    source: Path | None,
    onto: Path | None,
    soundfont: Path | None,
) -> dict[str, Path | None]:
    """The files of a music request by the names that `pipelines.music` knows."""
    return {
        "continue": continued,
        "recolour": recolour,
        "from": source,
        "onto": onto,
        "soundfont": soundfont,
    }


def voice(
    *,
    audio: Audio = None,
    text: Text = "",
    emotion: EmotionText = "neutral",
    consent: Consent = None,
    seed: Seed = None,
    n: Count = 1,
    best_of: BestOf = None,
    backbone: Backbone = DEFAULT_VOICE,
    out: Out = Path("out"),
    as_json: Json = False,
    device: Device = None,
    dtype: Dtype = None,
    reader: Reader = None,
    offline: Offline = False,
    params: dict[str, Any],
) -> int:
    """Give a recording another emotion, or one that changes: "0s sadness .6; 3s happiness .8".

    The same words by the same person; times are seconds of the recording. With --text the words
    are spoken first. Prints the sound; its picture (.png) lies beside it.
    """
    quiet_libraries(offline=offline)
    over = bool(params.get("over"))
    requests = build_requests(
        text,
        [read_emotion(emotion, over=over, reader=reader, modality="voice")],
        seed=fresh_seed() if seed is None else seed,
        n=n,
        backbone=backbone,
        params=params,
        inputs={"audio": audio},
        modality="voice",
    )
    requests = with_consent(requests, consent, out, offline=offline, search=best_of is not None)
    options = Options(out, as_json, device, dtype, offline, "auto")
    takes = run(requests, options, best_of=best_of)
    return 0 if len(takes) == len(requests) else 1


def portrait(
    *,
    image: Image = None,
    audio: Say = None,
    drive: Drive = None,
    curves_in: CurvesIn = None,
    emotion: EmotionText = "neutral",
    curves: Annotated[
        Path | None,
        typer.Option("--curves", help="Write the curves of the face here as well: .csv or .json."),
    ] = None,
    title: Title = "",
    consent: Consent = None,
    seed: Seed = None,
    n: Count = 1,
    best_of: BestOf = None,
    backbone: Backbone = DEFAULT_PORTRAIT,
    out: Out = Path("out"),
    file_format: StillFormat = None,
    as_json: Json = False,
    device: Device = None,
    dtype: Dtype = None,
    reader: Reader = None,
    offline: Offline = False,
    params: dict[str, Any],
) -> int:
    """Let a face feel and speak: --image with --audio, or with an emotion alone.

    An emotion may change: "0s neutral; 1s surprise .9"; `from-audio` takes that of the speech.
    Prints the film (.mp4); its picture (.png) and its curves (.csv) lie beside it.
    """
    from studio.from_audio import emotion_of_speech, is_from_audio

    quiet_libraries(offline=offline)
    check_curves_out(curves, n)
    over = bool(params.get("over"))
    if is_from_audio(emotion):
        felt = emotion_of_speech(audio)
    else:
        felt = read_emotion(emotion, over=over, reader=reader, modality="portrait")
    requests = build_requests(
        title,
        [felt],
        seed=fresh_seed() if seed is None else seed,
        n=n,
        backbone=backbone,
        params=params,
        inputs=portrait_inputs(image, audio, drive, curves_in),
        modality="portrait",
    )
    ext = file_format or "auto"
    requests = with_consent(requests, consent, out, offline=offline, search=best_of is not None)
    options = Options(out, as_json, device, dtype, offline, ext)
    takes = run(requests, options, best_of=best_of)
    if curves is not None and takes:
        write_curves(takes[0], curves)
    return 0 if len(takes) == len(requests) else 1


def video(
    prompt: Annotated[
        str, typer.Argument(help="What to show; with --init what the picture shows.")
    ] = "",
    *,
    emotion: EmotionText = "neutral",
    seed: Seed = None,
    n: Count = 1,
    best_of: BestOf = None,
    backbone: Backbone = DEFAULT_VIDEO,
    init: Moving = None,
    out: Out = Path("out"),
    as_json: Json = False,
    device: Device = None,
    dtype: Dtype = None,
    reader: Reader = None,
    offline: Offline = False,
    params: dict[str, Any],
) -> int:
    """Make a film of PROMPT with an emotion that may change: "0s contentment .4; 2s fear .9".

    Or let a picture move: --init photo.png. Prints the film (.mp4); the picture of its course
    (.png) lies beside it.
    """
    quiet_libraries(offline=offline)
    over = bool(params.get("over"))
    requests = build_requests(
        prompt,
        [read_emotion(emotion, over=over, reader=reader, modality="video")],
        seed=fresh_seed() if seed is None else seed,
        n=n,
        backbone=backbone,
        params=params,
        inputs={"init": init},
        modality="video",
    )
    options = Options(out, as_json, device, dtype, offline, "auto")
    takes = run(requests, options, best_of=best_of)
    return 0 if len(takes) == len(requests) else 1


def film(
    scene: Annotated[
        Path, typer.Argument(help="A scene (TOML): shots, one emotion over time, speech, titles.")
    ],
    *,
    emotion: Annotated[
        str | None,
        typer.Option("--emotion", "-e", help="Another emotion than the scene's, or one over time."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option("--seed", metavar="N", min=0, max=2**53 - 1, help="Instead of the scene's."),
    ] = None,
    consent: Consent = None,
    out: Out = Path("out"),
    as_json: Json = False,
    device: Device = None,
    dtype: Dtype = None,
    reader: Reader = None,
    offline: Offline = False,
    params: dict[str, Any],
) -> int:
    """Make a film of SCENE: one emotion over time drives its pictures, voices, faces and music.

    Its parts are takes of their own in the same folder; a film that was interrupted goes on with
    those that are there. Prints the film (.mp4); the picture of its course (.png) lies beside it.
    """
    from pipelines.film import job_of, request_of
    from pipelines.film_scene import read_scene

    quiet_libraries(offline=offline)
    over = bool(params.get("over"))
    written = read_scene(scene, over=over)
    felt = None
    if emotion is not None:
        felt = read_emotion(emotion, over=over, reader=reader, modality="film")
    known: dict[Any, Any] = {}
    request = request_of(written, seed=seed, emotion=felt, params=params, known=known)
    job_of(request, where=written.where, known=known)
    requests = with_consent([request], consent, out, offline=offline)
    takes = run(requests, Options(out, as_json, device, dtype, offline, "auto"), what="film")
    return 0 if takes else 1


def portrait_inputs(
    image: Path | None, audio: Path | None, drive: Path | None, curves: Path | None
) -> dict[str, Path | None]:
    """The files of a portrait's request by the names that `pipelines.portrait` knows."""
    return {"image": image, "audio": audio, "drive": drive, "curves": curves}


def check_curves_out(path: Path | None, n: int) -> None:
    """Raise one line where curves cannot be written to this file, before anything is made."""
    if path is None:
        return
    if path.suffix.lower() not in (".csv", ".json"):
        msg = f"curves: are written as .csv or .json, received {path.name!r}; to move a face by "
        raise ValueError(f"{msg}given curves use --curves-in")
    if n > 1:
        msg = f"curves: one file holds those of one take, {n} are made; each has its own .csv"
        raise ValueError(f"{msg} beside it, so leave --curves out")
    if not path.absolute().parent.is_dir() or path.is_dir():
        msg = f"curves: {path} cannot be written; name a file in a folder that is there"
        raise ValueError(msg)


def write_curves(take: Take, path: Path) -> None:
    """Copy the curves beside a take to a file of the user's, as CSV or JSON by its suffix."""
    from adapters.face_motion import read_csv, to_json
    from pipelines.take import write_atomic

    beside = take.path.with_suffix(".csv")
    if path.suffix.lower() == ".csv":
        write_atomic(path, beside.read_bytes())
    else:
        write_atomic(path, to_json(read_csv(beside)).encode())
    note(f"curves: {path}")


def with_consent(
    requests: Sequence[Request],
    given: Path | None,
    out: Path,
    *,
    offline: bool = False,
    search: bool = False,
) -> list[Request]:
    """Requests with what says that whose voice or face it is agreed, once all else was checked.

    They share their inputs. Raises ValueError in one line, before anything is asked.
    """
    from pipelines.take import TakeError, prepare_out
    from studio.consent import consent_for_all

    inputs, modality = requests[0].inputs, requests[0].modality
    people = people_in(modality, inputs)
    if modality == "voice" and not people and given is not None:
        msg = "consent: words have no owner; leave --consent out, or give a recording (--audio)"
        raise TakeError(msg)
    _check_jobs(requests, offline=offline, search=search)
    if not people:
        return list(requests)
    prepare_out(out)
    document = consent_for_all(people, given, out, ask=person_at_terminal())
    if document is None:
        return list(requests)
    named = {**inputs, "consent": document.resolve()}
    return [replace(request, inputs=named, digests={}) for request in requests]


PEOPLE: dict[str, dict[str, tuple[What, bool]]] = {
    "voice": {"audio": ("voice", False)},
    "portrait": {"image": ("face", True), "audio": ("voice", False), "drive": ("face", True)},
    "film": {
        "portrait": ("face", True),
        "audio": ("voice", False),
        "video": ("face", False),  # shown as they are: nobody's face is made to say anything
        "image": ("face", False),
    },
}
"""Modality -> inputs that may be of a real person: what of them, and whether a yes is required.

Those of a film are named by their place in its scene, "shots.0.portrait"."""


def people_in(modality: str, inputs: Mapping[str, Path]) -> dict[Path, tuple[What, bool]]:
    """Inputs that may be of a real person: what of them, and whether a yes is required.

    A file that is several inputs, as a film that is driven and heard, is what needs a yes most.
    """
    known, found = PEOPLE.get(modality, {}), dict[Path, "tuple[What, bool]"]()
    for name, path in inputs.items():
        what = known.get(name.rpartition(".")[2])
        if what is not None and (path not in found or what[1]):
            found[path] = what
    return found


def _check_jobs(requests: Sequence[Request], *, offline: bool, search: bool) -> None:
    """Check requests completely; each input file is looked at once."""
    known: dict[Any, Any] = {}
    maker = import_module(MAKERS[requests[0].modality])
    for request in requests:
        job = maker.job_of(request, search=search, known=known)
        maker.check_here(job.row, offline=offline or None)
