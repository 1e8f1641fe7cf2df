"""The part of a tab that shows what is being made and what was made.

The components of one result with what can be done to it next, the values that fill them for a
take, and a run turned into such values. This file does not know what is asked for, only requests
and takes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr

from studio import cards, making

FIELDS = (
    "told", "sketch", "picture", "slider", "film", "sound", "figure", "card", "file", "key",
    "keys", "actions",
)  # fmt: skip
Pair = tuple[str | None, str | None]
_STAGE = ("picture", "slider", "film", "sound", "figure")


@dataclass(slots=True)
class Result:
    """The components that show a take; buttons: what can be done to it, by name.

    key: of the take that card and buttons are about. keys: of the pictures, in their order.
    """

    told: Any
    sketch: Any
    picture: Any
    slider: Any
    film: Any
    sound: Any
    figure: Any
    card: Any
    file: Any
    key: Any
    keys: Any
    actions: Any
    next_to: Any
    buttons: dict[str, Any] = field(default_factory=dict)

    @property
    def all(self) -> list[Any]:
        """Every component, in the order that `values` fills them."""
        return [getattr(self, name) for name in FIELDS]


def values(**named: Any) -> list[Any]:
    """Values for `Result.all`: those that are named, the others stay as they are."""
    return [named.get(name, gr.skip()) for name in FIELDS]


OFFERS = {
    "again": "Remake with this emotion",
    "other": "Remake with a new seed",
    "plain": "Beside no emotion",
    "like": "☆ Favourite",
}
"""What a button under a take is called."""
USUAL = ("again", "other", "like")


def result_area(
    modality: str, offers: Sequence[str] = USUAL, empty: str = "Nothing made yet."
) -> Result:
    """The part of a tab that shows what was made; empty parts take no room.

    offers: what can be done to a take, of `OFFERS`. empty: what is said before the first.
    """
    told = gr.HTML(cards.progress(empty), elem_id=f"told-{modality}")
    with gr.Row(elem_classes="shown"):
        with gr.Column(scale=1, min_width=280):
            sketch = gr.HTML("", visible=False, elem_id=f"sketch-{modality}")
            picture = gr.Gallery(
                label="Pictures", visible=False, columns=2, height=420, object_fit="contain",
                preview=True, interactive=False, elem_id=f"picture-{modality}",
                elem_classes="pictures", buttons=["download", "fullscreen"],
            )  # fmt: skip
            slider = gr.ImageSlider(
                label="Drag to compare", visible=False, interactive=False, type="filepath",
                elem_id=f"slider-{modality}", height=420, buttons=["download", "fullscreen"],
            )  # fmt: skip
            film = gr.Video(
                label="Film", visible=False, interactive=False, height=340, buttons=["download"],
                elem_id=f"film-{modality}",
            )  # fmt: skip
            sound = gr.Audio(
                label="Sound", visible=False, interactive=False, type="filepath",
                buttons=["download"], elem_id=f"sound-{modality}",
            )  # fmt: skip
        with gr.Column(scale=1, min_width=280):
            card = gr.HTML("", elem_id=f"card-{modality}")
    figure = gr.Image(
        label="Course: asked and read over time", visible=False, interactive=False,
        buttons=["download", "fullscreen"], type="filepath", elem_id=f"figure-{modality}",
        alt_text="Course of the asked and the read emotion over time",
    )  # fmt: skip
    key, keys = gr.State(""), gr.State([])
    buttons: dict[str, Any] = {}
    with gr.Row(visible=False, elem_classes="actions") as actions:
        file = gr.DownloadButton("Download", size="sm", interactive=False, min_width=80)
        for name in offers:
            buttons[name] = gr.Button(
                OFFERS[name], size="sm", min_width=90, elem_id=f"{name}-{modality}"
            )
        next_to = gr.Dropdown(
            [], label="Use as input of", visible=False, min_width=170, container=False,
            show_label=False, elem_id=f"use-{modality}",
        )  # fmt: skip
    return Result(
        told, sketch, picture, slider, film, sound, figure, card, file, key, keys, actions,
        next_to, buttons,
    )  # fmt: skip


def shown(
    take: Any, told: str, pictures: Sequence[str], pair: Pair = (None, None),
    keys: Sequence[str] = (),
) -> list[Any]:  # fmt: skip
    """Values for the components of a result.

    pictures: the last is the take's. pair: before and after, shown instead of pictures. keys: of
    the pictures, where they are several.
    """
    files = cards.shown_files(take)
    both = pair if all(pair) else None
    alone = list(pictures) if both is None or len(pictures) > 1 else []
    return values(
        told=told,
        sketch=gr.update(value="", visible=False),
        picture=gr.update(
            value=alone or None,
            visible=bool(alone),
            selected_index=len(alone) - 1 if alone else None,
        ),
        slider=gr.update(value=both, visible=both is not None),
        film=gr.update(value=files["film"], visible=files["film"] is not None),
        sound=gr.update(value=files["sound"], visible=files["sound"] is not None),
        figure=gr.update(value=files["figure"], visible=files["figure"] is not None),
        card=cards.score_card(take),
        file=gr.update(value=files["file"], interactive=True),
        key=take.request.key,
        keys=list(keys) or [take.request.key],
        actions=gr.update(visible=True),
    )


def about(take: Any) -> list[Any]:
    """Card, file and key of one of the pictures that are shown: what the buttons are about."""
    file = gr.update(value=cards.shown_files(take)["file"], interactive=True)
    return values(card=cards.score_card(take), file=file, key=take.request.key)


def told_only(text: str) -> list[Any]:
    """Only what is being done changes."""
    return values(told=text)


def sketched(text: str, preview: Any, *, first: bool) -> list[Any]:
    """What is being done, and what it is becoming in the place of what was there before."""
    if not first:
        return values(told=text, sketch=cards.sketch(preview))
    hidden = {name: gr.update(visible=False) for name in (*_STAGE, "actions")}
    sketch = gr.update(value=cards.sketch(preview), visible=True)
    return values(told=text, sketch=sketch, card="", key="", **hidden)


def run_shown(
    requests: Sequence[Any], out: Path, session: str, **options: Any
) -> Iterator[list[Any]]:
    """Make requests and yield values for a result's components, event by event."""
    from pipelines.take import Take

    modality, last, sketching = requests[0].modality, None, False
    notes: list[str] = []
    pictures: list[str] = []
    keys: list[str] = []
    if modality == "image":
        options["previews"] = True
    events = making.made(requests, out, session=session, **options)
    with contextlib.closing(events):
        for event in events:
            if isinstance(event, Take):
                last = event
                if picture := cards.shown_files(event)["picture"]:
                    pictures.append(picture)
                    keys.append(event.request.key)
                count = f"{len(pictures)} of {len(requests)} made" if pictures else "Made"
                pair = (cards.served(cards.before_of(event)), picture)
                yield shown(event, cards.progress(count, 1.0, notes), pictures, pair, keys)
            else:
                notes += [one for one in event.notes if one not in notes]
                text = cards.step_text(event, making.doing(modality, event.stage))
                told = cards.progress(
                    text, event.index / event.total if event.total else None, notes
                )
                if event.preview is None or last is not None:
                    yield told_only(told)
                    continue
                yield sketched(told, event.preview, first=not sketching)
                sketching = True
    if making.is_stopping(session):
        kept = "what was finished is kept" if last is not None else "nothing was finished"
        yield told_only(cards.progress(f"Stopped; {kept}.", None, notes))
    elif last is not None:
        seconds = f" in {last.seconds:.1f} s" if last.seconds else ""  # of that one
        many = f": {len(pictures)} pictures" if len(pictures) > 1 else seconds
        yield told_only(cards.progress(f"Done{many}.", None, notes))


def beside_plain(key: str, out: Path, session: str) -> Iterator[list[Any]]:
    """The take of a key beside the one without its emotion, made unless it is there already."""
    from pipelines.take import Take

    after, request, found = making.without_emotion(out, key)
    if found is None:
        events = making.made([request], out, session=session)
        with contextlib.closing(events):
            for event in events:
                if isinstance(event, Take):
                    found = event
                    continue
                text = cards.step_text(event, making.doing(request.modality, event.stage))
                share = event.index / event.total if event.total else None
                yield told_only(cards.progress(f"Without emotion: {text.lower()}", share))
    if found is None:
        yield told_only(cards.progress("Stopped."))
        return
    pair = (cards.shown_files(found)["picture"], cards.shown_files(after)["picture"])
    words = f"Left: no emotion. Right: {after.request.emotion.text[:80]}. The same seed."
    yield shown(after, cards.progress(words), [], pair)


def guarded(events: Iterator[list[Any]]) -> Iterator[list[Any]]:
    """Events, and of a known error its one line instead of a failure."""
    if making.loading.locked():
        yield told_only(cards.progress("Loading the models, this once …"))
    making.wait_until_loaded()
    try:
        yield from events
    except (ValueError, OSError, MemoryError, ImportError, RuntimeError) as error:
        yield told_only(cards.failed(error))
