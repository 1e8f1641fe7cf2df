"""The gallery: takes found by emotion, words or place on a map, compared, liked, copied, deleted.

It is a page over `studio.library_index`; takes are named by their keys only. This file does not
know how a take is made.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from adapters.emotion import CORE
from pipelines.drawing import COLOURS
from studio import cards
from studio.affect_pad import script
from studio.library_index import Entry, Library, Search
from studio.results import Result, result_area, shown
from studio.run import PANELS
from studio.tabs import wire_remake

PAGE = 48
ON_MAP = 1000  # dots; more are a cloud
QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


def map_view(value: Any = None, **more: Any) -> Any:
    """Takes as dots at their valence and arousal; value: {dots: [...], chosen}."""
    return gr.HTML(
        value=value or {"dots": []}, html_template='<div class="map"></div>',
        js_on_load=script("map.js"), **more,
    )  # fmt: skip


def gallery_tab(panel: Any, out: Path) -> Result:
    """The tab, and the components that show the chosen take."""
    with gr.Tab("Gallery", id="gallery") as tab:
        with gr.Row():
            words = gr.Textbox(label="Words", placeholder="of the prompt", min_width=140)
            emotion = gr.Dropdown(["any", *CORE], value="any", label="Emotion", min_width=120)
            modality = gr.Dropdown(
                [("all", ""), *((title, name) for name, title in PANELS.items())],
                value="", label="Kind", min_width=110,
            )  # fmt: skip
            order = gr.Dropdown(
                ["newest", "like the panel"], value="newest", label="Order", min_width=120
            )
            liked = gr.Checkbox(False, label="Favourites only", min_width=120)
        found = gr.HTML("", elem_id="found")
        grid = gr.Gallery(
            label="Takes", columns=4, height=330, allow_preview=False, fit_columns=False,
            interactive=False, elem_id="gallery", buttons=[],
        )  # fmt: skip
        with gr.Accordion("Map of valence and arousal", open=False):
            chart = map_view(elem_id="map", label="Map")
        keys, pinned, undo_token = gr.State([]), gr.State(""), gr.State("")
        result = result_area("gallery")
        with gr.Row():
            again = gr.Button("Remake with this emotion", size="sm", min_width=110)
            other = gr.Button("Remake with a new seed", size="sm", min_width=110)
            stop = gr.Button("Stop", size="sm", variant="stop", interactive=False, min_width=60)
        with gr.Row():
            like = gr.Button("Favourite", size="sm", min_width=80)
            compare = gr.Button("Compare with next", size="sm", min_width=110)
            export = gr.DownloadButton("Export found", size="sm", min_width=90)
            delete = gr.Button("Delete", size="sm", variant="stop", min_width=70)
            undo = gr.Button("Undo", size="sm", interactive=False, min_width=60)
        beside = gr.HTML("", elem_id="beside")
    search_in = [words, emotion, modality, liked, order, panel.text]
    search_out = [grid, keys, chart, found]

    def look(*given: Any) -> list[Any]:
        try:
            entries = _entries(out, *given)
        except ValueError as error:
            return [gr.skip(), gr.skip(), gr.skip(), cards.failed(error)]
        library = Library(out)
        total = library.count(_search(*given))
        first = entries[:PAGE]
        text = f"{total} takes" + (f", the first {PAGE} shown" if total > PAGE else "")
        pictures = [(_thumbnail(library, one), _caption(one)) for one in first]
        return [
            pictures, [one.key for one in entries], {"dots": [_dot(one) for one in entries]},
            cards.progress(text),
        ]  # fmt: skip

    def show(keys: list[str], index: int, pinned: str) -> list[Any]:
        from pipelines.take import Take

        if not 0 <= index < len(keys):
            return [gr.skip()] * (len(result.all) + 1)
        try:
            take = Take.read(Library(out).find(keys[index]).path)
        except (ValueError, OSError) as error:
            return [cards.failed(error), *[gr.skip()] * (len(result.all))]
        picture = cards.shown_files(take)["picture"]
        values = shown(take, cards.progress(take.request.prompt or take.request.modality),
                       [picture] if picture else [])  # fmt: skip
        return [*values, _compared(out, pinned, take, values)]

    def chosen(event: gr.SelectData, keys: list[str], pinned: str) -> list[Any]:
        return show(keys, int(event.index), pinned)

    def on_map(state: Any, keys: list[str], pinned: str) -> list[Any]:
        index = state.get("chosen", -1) if isinstance(state, dict) else -1
        return show(keys, index if isinstance(index, int) else -1, pinned)

    def pin(key: str) -> tuple[str, str]:
        return key, cards.progress("Now choose another take." if key else "Choose a take first.")

    def favour(key: str) -> str:
        if not key:
            return cards.progress("Choose a take first.")
        library = Library(out)
        entry = library.find(key)
        library.favour(entry, favourite=not entry.favourite)
        return cards.progress("No longer a favourite." if entry.favourite else "A favourite.")

    def remove(key: str) -> tuple[Any, ...]:
        from studio.library_files import delete as to_trash

        if not key:
            return cards.progress("Choose a take first."), "", gr.skip(), ""
        library = Library(out)
        token = to_trash(library, [library.find(key)])
        return (
            cards.progress("Deleted; Undo brings it back."),
            token,
            gr.update(interactive=True),
            "",
        )

    def restore(token: str) -> tuple[Any, ...]:
        from studio.library_files import undo as from_trash

        try:
            from_trash(Library(out), token or None)
        except ValueError as error:
            return cards.failed(error), "", gr.skip()
        return cards.progress("Back again."), "", gr.update(interactive=False)

    def copy(*given: Any) -> Any:
        from studio.library_files import export as copy_out

        entries = _entries(out, *given)
        if not entries:
            return None
        folder = Path(cards.served_folder()) / secrets.token_hex(8)
        copy_out(Library(out), entries, folder / "takes")
        return shutil.make_archive(str(folder / "affect-takes"), "zip", folder / "takes")

    for trigger in (words.submit, emotion.input, modality.input, liked.input, order.input,
                    tab.select):  # fmt: skip
        trigger(look, search_in, search_out, **QUIET)
    outputs = [*result.all, beside]
    grid.select(chosen, [keys, pinned], outputs, **QUIET)
    chart.input(on_map, [chart, keys, pinned], outputs, **QUIET)
    compare.click(pin, result.key, [pinned, result.told], **QUIET)
    like.click(favour, result.key, result.told, **QUIET).then(look, search_in, search_out, **QUIET)
    delete.click(remove, result.key, [result.told, undo_token, undo, result.key], **QUIET).then(
        look, search_in, search_out, **QUIET
    )
    undo.click(restore, undo_token, [result.told, undo_token, undo], **QUIET).then(
        look, search_in, search_out, **QUIET
    )
    export.click(copy, search_in, export, **QUIET)
    wire_remake(again, other, stop, panel, out, result)
    return result


def _search(words: str, emotion: str, modality: str, liked: bool, order: str, text: str) -> Search:
    from adapters.emotion import EmotionTimeline

    near = None
    if order != "newest":
        v, a, d = (float(x) for x in EmotionTimeline.parse(text, over=True).peak.vad)
        near = (v, a, d)
    felt = emotion if emotion in CORE else ""
    return Search(
        emotion=felt, words=words or "", near=near, modality=modality or "", favourites=bool(liked)
    )


def _entries(out: Path, *given: Any) -> list[Entry]:
    return Library(out).page(_search(*given), 0, ON_MAP)


def _thumbnail(library: Library, entry: Entry) -> str | None:
    from studio.library_files import thumbnail

    return cards.served(thumbnail(library, entry)) or cards.served(cards.blank())


def _caption(entry: Entry) -> str:
    star = "★ " if entry.favourite else ""
    return f"{star}{entry.emotion[:60]} · {entry.prompt[:40] or entry.modality}"


def _dot(entry: Entry) -> dict[str, Any]:
    return {
        "v": round(entry.valence, 3), "r": round(entry.arousal, 3),
        "colour": COLOURS.get(entry.dominant, COLOURS["neutral"]), "label": _caption(entry),
    }  # fmt: skip


def _compared(out: Path, pinned: str, take: Any, values: Sequence[Any]) -> str:
    """The card of the take that was pinned; a pair of pictures goes into the slider."""
    from pipelines.take import Take

    if not pinned or pinned == take.request.key:
        return ""
    try:
        other = Take.read(Library(out).find(pinned).path)
    except (ValueError, OSError):
        return ""
    pair = (cards.shown_files(other)["picture"], cards.shown_files(take)["picture"])
    if all(pair):
        values[2].update(value=pair, visible=True)
    return f"<p>Compared with</p>{cards.score_card(other)}"
