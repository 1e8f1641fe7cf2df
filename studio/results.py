"""The part of a tab that shows what is being made and what was made.

The components of one result, the values that fill them for a take, and a run turned into such
values. This file does not know what is asked for, only requests and takes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from studio import cards, making


@dataclass(slots=True)
class Result:
    """The components that show a take."""

    told: Any
    picture: Any
    slider: Any
    film: Any
    sound: Any
    figure: Any
    card: Any
    file: Any
    key: Any
    next_to: Any

    @property
    def all(self) -> list[Any]:
        """Every component, in the order that `shown` fills them."""
        return [
            self.told, self.picture, self.slider, self.film, self.sound, self.figure, self.card,
            self.file, self.key,
        ]  # fmt: skip


def result_area(modality: str) -> Result:
    """The part of a tab that shows what was made; empty parts take no room."""
    told = gr.HTML(cards.progress("Nothing made yet."), elem_id=f"told-{modality}")
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            picture = gr.Gallery(
                label="Pictures", visible=False, columns=2, height=380, object_fit="contain",
                preview=True, interactive=False, elem_id=f"picture-{modality}",
                buttons=["download", "fullscreen"],
            )  # fmt: skip
            slider = gr.ImageSlider(
                label="Before and after", visible=False, interactive=False, type="filepath"
            )
            film = gr.Video(
                label="Film", visible=False, interactive=False, height=340, buttons=["download"]
            )
            sound = gr.Audio(
                label="Sound",
                visible=False,
                interactive=False,
                type="filepath",
                buttons=["download"],
            )
        with gr.Column(scale=1, min_width=280):
            card = gr.HTML("", elem_id=f"card-{modality}")
    figure = gr.Image(
        label="Course: asked and read over time", visible=False, interactive=False,
        buttons=["download", "fullscreen"],
        type="filepath", alt_text="Course of the asked and the read emotion over time",
    )  # fmt: skip
    key = gr.State("")
    with gr.Row():
        file = gr.DownloadButton("Download", size="sm", interactive=False, min_width=80)
        next_to = gr.Dropdown([], label="Use as input of", visible=False, min_width=150)
    return Result(told, picture, slider, film, sound, figure, card, file, key, next_to)


def shown(take: Any, told: str, pictures: list[str], before: Path | None = None) -> list[Any]:
    """Values for the components of a result."""
    files = cards.shown_files(take)
    pair = (cards.served(before), files["picture"]) if before and files["picture"] else None
    return [
        told,
        gr.update(value=pictures or None, visible=bool(pictures), selected_index=None),
        gr.update(value=pair, visible=pair is not None),
        gr.update(value=files["film"], visible=files["film"] is not None),
        gr.update(value=files["sound"], visible=files["sound"] is not None),
        gr.update(value=files["figure"], visible=files["figure"] is not None),
        cards.score_card(take),
        gr.update(value=files["file"], interactive=True),
        take.request.key,
    ]


def told_only(text: str) -> list[Any]:
    """Only what is being done changes."""
    return [text, *[gr.skip() for _ in range(8)]]


def run_shown(requests: list[Any], out: Path, session: str, **options: Any) -> Iterator[list[Any]]:
    """Make requests and yield values for a result's components, event by event."""
    from pipelines.take import Take

    modality, last = requests[0].modality, None
    notes: list[str] = []
    pictures: list[str] = []
    events = making.made(requests, out, session=session, **options)
    with contextlib.closing(events):
        for event in events:
            if isinstance(event, Take):
                last = event
                if picture := cards.shown_files(event)["picture"]:
                    pictures.append(picture)
                count = f"{len(pictures)} of {len(requests)} made" if pictures else "Made"
                yield shown(
                    event, cards.progress(count, 1.0, notes), pictures, cards.before_of(event)
                )
            else:
                notes += [one for one in event.notes if one not in notes]
                text = cards.step_text(event, making.doing(modality, event.stage))
                values = told_only(
                    cards.progress(text, event.index / event.total if event.total else None, notes)
                )
                if event.preview is not None:
                    values[1] = gr.update(value=[event.preview], visible=True)
                yield values
    if making.is_stopping(session):
        yield told_only(cards.progress("Stopped; what was finished is kept.", None, notes))
    elif last is not None:
        seconds = f" in {last.seconds:.1f} s" if last.seconds else ""
        yield told_only(cards.progress(f"Done{seconds}.", None, notes))


def guarded(events: Iterator[list[Any]]) -> Iterator[list[Any]]:
    """Events, and of a known error its one line instead of a failure."""
    making.wait_until_loaded()
    try:
        yield from events
    except (ValueError, OSError, MemoryError, ImportError, RuntimeError) as error:
        yield told_only(cards.failed(error))
