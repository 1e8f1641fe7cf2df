"""From words to takes: the loop that every making verb shares.

Turns what a person typed into `Request`s, checks everything that can be checked before a model is
loaded, drives `pipelines.generate`, prints each take as it lands and counts what failed. Leaving
the loop in any way, Ctrl-C included, closes the generator, which stops within a step and leaves no
half-written file. It does not know how a take is made, only that they come one by one.
"""

from __future__ import annotations

import dataclasses
import os
import secrets
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.console import Meter, note, result, result_json

if TYPE_CHECKING:
    from adapters.emotion import EmotionTimeline
    from pipelines.take import Request, Take


# What the bar says at each stage of `pipelines.Step`.
DOING = {"load": "loading", "denoise": "drawing", "read": "reading"}


@dataclasses.dataclass(frozen=True, slots=True)
class Options:
    """What every making verb takes besides its request: where to write, run and print.

    device and dtype as in torch ("cpu", "cuda", "bfloat16"), None: the best there is.
    """

    out: Path = Path("out")
    as_json: bool = False
    device: str | None = None
    dtype: str | None = None
    offline: bool = False


def read_emotion(text: str, *, over: bool, reader: str | None) -> EmotionTimeline:
    """The emotion a person wrote; for a picture it must not change over time.

    Raises EmotionError in one line: nearest words, allowed range, what to do.
    """
    from adapters.emotion import EmotionError, EmotionTimeline

    timeline = EmotionTimeline.parse(text, over=over, reader=reader)
    if not timeline.is_constant:
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
    init: Path | None,
    modality: str = "image",
) -> list[Request]:
    """One request per emotion and seed (seed .. seed + n - 1), each checked.

    Raises ValueError in one line for an empty prompt, a parameter out of range or a bad photo.
    """
    from pipelines.take import Request
    from studio.options import check_params

    if not prompt.strip():
        msg = 'prompt: it is empty; say what to show, e.g. "a mountain lake"'
        raise ValueError(msg)
    check_params(params, params_of(modality))
    inputs: dict[str, Path] = {}
    if init is not None:
        from pipelines.media import load_image

        load_image(init)  # refuses corrupt and oversized files before a model is loaded
        inputs["init"] = init.resolve()
    return [
        Request(
            modality=modality,
            prompt=prompt,
            emotion=emotion,
            seed=seed + index,
            backbone=backbone,
            params=dict(params),
            inputs=inputs,
        )
        for emotion in emotions
        for index in range(n)
    ]


def params_of(modality: str) -> type:
    """The dataclass of a modality's knobs."""
    from pipelines.image import ImageParams

    return {"image": ImageParams}[modality]


def run(
    requests: Sequence[Request],
    options: Options,
    *,
    best_of: int | None = None,
    what: str = "",
    announce: bool = True,
) -> list[Take]:
    """Make the requests and return their takes; `announce` prints each as soon as it is written."""
    from pipelines.take import Take, prepare_out

    prepare_out(options.out)
    quiet_libraries(offline=options.offline)
    takes: list[Take] = []
    with Meter(what or f"loading {requests[0].backbone}") as meter:
        from pipelines import generate

        events = generate(
            requests,
            best_of=best_of,
            out_dir=options.out,
            device=options.device,
            dtype=options.dtype,
            offline=options.offline,
        )
        with closing(events):
            try:
                for event in events:
                    if isinstance(event, Take):
                        takes.append(event)
                        if announce:
                            show_take(event, as_json=options.as_json)
                    else:
                        meter.say(f"{what or requests[0].backbone}: {DOING[event.stage]}")
                        meter.step(event.index, event.total)
                        for text in event.notes:
                            note(text)
            except KeyboardInterrupt:
                note(f"stopping; {_count(takes)} finished and kept")
                raise
        note(f"{_count(takes)} in {meter.seconds:.1f} s")
    return takes


def show_take(take: Take, *, as_json: bool) -> None:
    """One take on stdout: its path, or everything as one JSON object."""
    if as_json:
        result_json(take.to_json())
    else:
        result(str(take.path))


def quiet_libraries(*, offline: bool) -> None:
    """Keep the libraries' own bars and chatter off stderr; must run before they are imported."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"


def _count(takes: Sequence[Take]) -> str:
    return f"{len(takes)} take" if len(takes) == 1 else f"{len(takes)} takes"
