"""`affect make image PROMPT`, `make music`, `make voice`: media with the emotion asked for.

Besides its own options each has one for every field of its modality's params. This file only
collects what was typed; `studio.run` does the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pipelines import DEFAULTS
from studio.console import person_at_terminal
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
    from pipelines.take import Request

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
    typer.Option("--consent", help="Document that says the speaker agreed; its hash is kept."),
]

DEFAULT_BACKBONE = DEFAULTS["image"]
DEFAULT_COMPOSER = DEFAULTS["music"]
DEFAULT_VOICE = DEFAULTS["voice"]


def app() -> typer.Typer:
    """The verb `make`, with one command a modality."""
    verb = typer.Typer(add_completion=False, no_args_is_help=True, help="Make media.")
    verb.callback()(lambda: None)
    for modality, command in (("image", image), ("music", music), ("voice", voice)):
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


def with_consent(
    requests: Sequence[Request],
    given: Path | None,
    out: Path,
    *,
    offline: bool = False,
    search: bool = False,
) -> list[Request]:
    """Requests for voices with what says that the speaker agreed, once all else has been checked.

    They share one recording, or have none. Raises ValueError in one line, before anything is asked.
    """
    from pipelines.take import TakeError, prepare_out
    from pipelines.voice import Recording, check_here, job_of
    from studio.consent import consent_for

    audio = requests[0].inputs.get("audio")
    if audio is None and given is not None:
        msg = "consent: words have no owner; leave --consent out, or give a recording (--audio)"
        raise TakeError(msg)
    known: dict[str, Recording] = {}
    for request in requests:
        check_here(job_of(request, search=search, known=known).row, offline=offline or None)
    if audio is None:
        return list(requests)
    prepare_out(out)
    document = consent_for(audio, given, out, ask=person_at_terminal())
    if document is None:
        return list(requests)
    named = {**requests[0].inputs, "consent": document.resolve()}
    return [replace(request, inputs=named, digests={}) for request in requests]
