"""From words to takes: the loop that every making verb shares.

Turns what a person typed into `Request`s, checks everything that can be checked before a model is
loaded, drives `pipelines.generate`, prints each take as it lands and counts what failed. Leaving
the loop in any way, Ctrl-C included, closes the generator, which stops within a step and leaves no
half-written file. It does not know how a take is made, only that they come one by one.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import secrets
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from studio.console import Meter, NoteHandler, note, note_once, result, result_json
from studio.notice import notices_for

if TYPE_CHECKING:
    from adapters.emotion import EmotionTimeline
    from pipelines import Step
    from pipelines.take import Request, Take


# What the bar says at each stage of `pipelines.Step`, and where others do something else.
DOING = {
    "load": "loading",
    "analyse": "listening",
    "denoise": "drawing",
    "compose": "composing",
    "render": "playing",
    "read": "reading",
}
DOING_OF = {
    "film": {"cut": "cutting"},
    "video": {"render": "drawing"},
    "voice": {"denoise": "planning", "render": "changing the voice"},
    "portrait": {
        "analyse": "looking and listening",
        "denoise": "moving",
        "render": "drawing",
        "polish": "painting the face again",
    },
}
PANELS = {
    "image": "Picture",
    "music": "Music",
    "voice": "Voice",
    "portrait": "Portrait",
    "video": "Video",
    "film": "Film",
}
"""Modality -> title of its knobs in `--help`."""
LIBRARIES = r"(torch|diffusers|transformers|peft|accelerate|huggingface_hub)(\.|$)"
DTYPES = ("float32", "float16", "bfloat16")


@dataclasses.dataclass(frozen=True, slots=True)
class Options:
    """What every making verb takes besides its request: where to write, run and print.

    ext is the format of the files: "png", "jpg" or "webp" of pictures, "mid" of music, "auto" of
    voices, whose knob `format` says it, and of films.
    device and dtype as in torch ("cpu", "cuda", "bfloat16"), None: the best there is. best_of: of a
    batch, how many seeds are tried for each job.
    """

    out: Path = Path("out")
    as_json: bool = False
    device: str | None = None
    dtype: str | None = None
    offline: bool = False
    ext: str = "png"
    best_of: int | None = None


def read_emotion(
    text: str, *, over: bool, reader: str | None, modality: str = "image"
) -> EmotionTimeline:
    """The emotion a person wrote; for a picture it must not change over time.

    Raises EmotionError in one line: nearest words, allowed range, what to do.
    """
    from adapters.emotion import EmotionError, EmotionTimeline

    timeline = EmotionTimeline.parse(text, over=over, reader=reader)
    if modality == "image" and not timeline.is_constant:
        msg = (
            f"emotion: a picture holds one emotion, received the timeline {text!r}; "
            "give one of its states"
        )
        raise EmotionError(msg)
    return timeline


def fresh_seed() -> int:
    """A seed for when none is given: any 31-bit number; it is kept in the file."""
    return secrets.randbelow(2**31)


def build_requests(
    prompt: str,
    emotions: Sequence[EmotionTimeline],
    *,
    seed: int,
    n: int,
    backbone: str,
    params: Mapping[str, Any],
    inputs: Mapping[str, Path | None],
    modality: str = "image",
) -> list[Request]:
    """One request per emotion and seed (seed .. seed + n - 1).

    inputs: name -> file; what is None was not given. Raises ValueError in one line for an empty
    prompt or a file that is not there; the rest is checked by `pipelines.generate` before it
    starts.
    """
    from pipelines.take import Request

    return [
        Request(
            modality=modality,
            prompt=prompt,
            emotion=emotion,
            seed=seed + index,
            backbone=portable(backbone),
            params=dict(params),
            inputs={name: path.resolve() for name, path in inputs.items() if path is not None},
        )
        for emotion in emotions
        for index in range(n)
    ]


def portable(backbone: str) -> str:
    """A name or hub id as it is; a folder as an absolute path, `~` for the home folder.

    What stands in a file must still name the same folder from another working folder.
    """
    from pipelines import BACKBONES

    path = Path(backbone).expanduser()
    if backbone in BACKBONES or not backbone.strip() or not path.is_dir():
        return backbone
    path = path.absolute()
    home = Path.home()
    return f"~/{path.relative_to(home).as_posix()}" if path.is_relative_to(home) else str(path)


def params_of(modality: str) -> type[Any]:
    """The dataclass of a modality's knobs; importing it loads no torch."""
    if modality == "music":
        from pipelines.music import MusicParams

        return MusicParams
    if modality == "voice":
        from pipelines.voice import VoiceParams

        return VoiceParams
    if modality == "portrait":
        from pipelines.portrait import PortraitParams

        return PortraitParams
    if modality == "video":
        from pipelines.video import VideoParams

        return VideoParams
    if modality == "film":
        from pipelines.film import FilmParams

        return FilmParams
    from pipelines.image import ImageParams

    pictures: type[Any] = ImageParams
    return pictures


def run(
    requests: Sequence[Request],
    options: Options,
    *,
    best_of: int | None = None,
    what: str = "",
    announce: bool = True,
    batch_size: int | None = None,
) -> list[Take]:
    """Make the requests and return their takes; `announce` prints each as soon as it is written.

    `batch_size` is how many are made at once, None for what suits the device.

    An error before the first take is raised, but for lack of memory, which is nobody's mistake.
    After it, the takes that were finished are returned; the ledger names those that failed.
    """
    from pipelines import generate
    from pipelines.take import Take

    quiet_libraries(offline=options.offline)
    name = what or requests[0].backbone
    takes: list[Take] = []
    doings = DOING | DOING_OF.get(requests[0].modality, {})
    with Meter(name) as meter:
        try:
            events = generate(
                requests,
                best_of=best_of,
                batch_size=batch_size,
                out_dir=options.out,
                device=options.device,
                dtype=torch_dtype(options.dtype),
                offline=options.offline or None,
                ext=options.ext,
            )
            if requests[0].modality != "music":
                no_bars()
            # The demo, which announces nothing, brings photos and a voice that are nobody's.
            if announce:
                for told in notices_for(requests):
                    note_once(told)
            with closing(cast("Generator[Step | Take]", events)):
                for event in events:
                    if isinstance(event, Take):
                        takes.append(event)
                        if announce:
                            show_take(event, as_json=options.as_json)
                    else:
                        doing = doings.get(event.stage, event.stage)
                        meter.step(f"{name}: {doing}", event.index, event.total)
                        for text in event.notes:
                            note_once(text)
        except KeyboardInterrupt:
            note(f"interrupted; {_count(takes)} finished and kept")
            raise
        except (ValueError, OSError, MemoryError) as error:
            if not takes and not isinstance(error, MemoryError):
                raise
            note(f"{error} ({len(requests) - len(takes)} of {len(requests)} not made)")
        note(f"{_count(takes)} in {meter.seconds:.1f} s")
    return takes


def torch_dtype(name: str | None) -> Any:
    """The torch dtype of a name, None for None; raises ValueError in one line."""
    if name is None:
        return None
    if name not in DTYPES:
        msg = f"dtype: one of {', '.join(DTYPES)}, received {name!r}"
        raise ValueError(msg)
    import torch

    return getattr(torch, name)


def show_take(take: Take, *, as_json: bool) -> None:
    """One take on stdout: its path, or everything as one JSON object."""
    if as_json:
        result_json(take.to_json())
    else:
        result(str(take.path))


def quiet_libraries(*, offline: bool) -> None:
    """Keep the libraries' own bars and chatter off stderr, and pass on our own warnings.

    Must run before the libraries are imported.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    # Its retries are lines of their own; what comes of them is told in one.
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    # Deprecations between libraries are nothing a person here can act on.
    warnings.filterwarnings("ignore", module=LIBRARIES)
    log = logging.getLogger("affect")
    if not any(isinstance(handler, NoteHandler) for handler in log.handlers):
        log.addHandler(NoteHandler(logging.WARNING))


def no_bars() -> None:
    """Turn off the bars that diffusers and transformers draw while loading; imports both."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    of_diffusers.disable_progress_bar()
    of_transformers.disable_progress_bar()


def _count(takes: Sequence[Take]) -> str:
    return f"{len(takes)} take" if len(takes) == 1 else f"{len(takes)} takes"
