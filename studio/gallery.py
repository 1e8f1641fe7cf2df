"""The gallery: takes found by emotion, words or place on a map, compared, liked, copied, deleted.

It is a page over `studio.library_index`; takes are named by their keys only. This file does not
know how a take is made.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import gradio as gr

from adapters.emotion import CORE
from pipelines.drawing import COLOURS
from studio import cards
from studio.actions import wire_actions, wire_favourite, wire_stop
from studio.affect_pad import script
from studio.library_index import Entry, Library, Search
from studio.results import OFFERS, Result, result_area, shown, values
from studio.run import PANELS

PAGE = 48
ON_MAP = 1000  # dots; more are a cloud
EXPORTS = "exports"
"""Folder within the out folder that takes are copied to."""
_STAGE = ("picture", "slider", "film", "sound", "figure", "actions")
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
        with gr.Row(elem_classes="filters"):
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
            label="Takes", columns=5, height="auto", allow_preview=False, show_label=False,
            fit_columns=False, interactive=False, elem_id="gallery", buttons=[], visible=False,
        )  # fmt: skip
        more = gr.Button("Show more", size="sm", visible=False, elem_id="more-gallery")
        with gr.Accordion("Map of valence and arousal", open=False):
            chart = map_view(elem_id="map", label="Map")
        keys, pinned, undo_token = gr.State([]), gr.State(""), gr.State("")
        many = gr.State(PAGE)
        result = result_area("gallery", tuple(OFFERS), "Choose a take to see it here.")
        with result.actions:
            compare = gr.Button("Compare with …", size="sm", min_width=90, elem_id="compare")
            delete = gr.Button("Delete", size="sm", min_width=70, elem_id="delete")
        with gr.Row(elem_classes="actions"):
            export = gr.Button("Export all found", size="sm", min_width=90, elem_id="export")
            undo = gr.Button("Undo delete", size="sm", interactive=False, min_width=70,
                             elem_id="undo")  # fmt: skip
            stop = gr.Button("Stop", size="sm", interactive=False, min_width=60,
                             elem_id="stop-gallery")  # fmt: skip
        copies = gr.File(label="Copies", file_count="multiple", visible=False, interactive=False,
                         elem_id="copies", height=160)  # fmt: skip
        beside = gr.HTML("", elem_id="beside")
    filters = [words, emotion, modality, liked, order, panel.text]
    search_in = [many, *filters]
    search_out = [grid, keys, chart, found, more]

    def look(many: int, *given: Any) -> list[Any]:
        try:
            entries = _entries(out, *given)
        except ValueError as error:
            return [gr.skip(), gr.skip(), gr.skip(), cards.failed(error), gr.skip()]
        library = Library(out)
        total = library.count(_search(*given))
        first = entries[: min(max(int(many), PAGE), ON_MAP)]
        text = f"{total} take" + ("" if total == 1 else "s")
        text += f", the first {len(first)} shown" if total > len(first) else ""
        if not total:
            searched = any(one for one in given[:4] if one not in ("any", ""))
            text = "No take is like that." if searched else "Nothing made yet; the tabs make it."
        pictures = [(_thumbnail(library, one), _caption(one)) for one in first]
        return [
            gr.update(value=pictures, visible=bool(pictures)),
            [one.key for one in entries], {"dots": [_dot(one) for one in entries]},
            cards.progress(text), gr.update(visible=len(first) < len(entries)),
        ]  # fmt: skip

    def show(keys: list[str], index: int, pinned: str) -> list[Any]:
        from pipelines.take import Take

        if not 0 <= index < len(keys):
            return [gr.skip()] * (len(result.all) + 1)
        try:
            take = Take.read(Library(out).find(keys[index]).path)
        except (ValueError, OSError) as error:
            return [*values(told=cards.failed(error)), gr.skip()]
        picture = cards.shown_files(take)["picture"]
        pair, card = _compared(out, pinned, take)
        if not all(pair):
            pair = (cards.served(cards.before_of(take)), picture)
        told = cards.progress(take.request.prompt or PANELS.get(take.request.modality, "A take"))
        return [*shown(take, told, [picture] if picture else [], pair), card]

    def chosen(event: gr.SelectData, keys: list[str], pinned: str) -> list[Any]:
        return show(keys, int(event.index), pinned)

    def on_map(state: Any, keys: list[str], pinned: str) -> list[Any]:
        index = state.get("chosen", -1) if isinstance(state, dict) else -1
        return show(keys, index if isinstance(index, int) else -1, pinned)

    def pin(key: str) -> tuple[str, str]:
        told = "Now choose another take above: both are shown." if key else "Choose a take first."
        return key, cards.progress(told)

    def remove(key: str) -> list[Any]:
        from studio.library_files import delete as to_trash

        if not key:
            told = cards.progress("Choose a take first.")
            return [*values(told=told), gr.skip(), gr.skip(), gr.skip()]
        library = Library(out)
        try:
            token = to_trash(library, [library.find(key)])
        except (ValueError, OSError) as error:  # another tab was quicker, or the disk is full
            return [*values(told=cards.failed(error)), gr.skip(), gr.skip(), gr.skip()]
        hidden = {name: gr.update(visible=False) for name in _STAGE}
        told = cards.progress("Deleted; Undo delete brings it back.")
        emptied = values(told=told, card="", key="", **hidden)
        return [*emptied, token, gr.update(interactive=True), ""]

    def restore(token: str) -> tuple[Any, ...]:
        from studio.library_files import undo as from_trash

        try:
            from_trash(Library(out), token or None)
        except ValueError as error:
            return cards.failed(error), "", gr.skip()
        return cards.progress("Back again."), "", gr.update(interactive=False)

    def copy(*given: Any) -> list[Any]:
        from studio.library_files import export as copy_out

        folder = out / EXPORTS / datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        try:
            entries = _entries(out, *given)
            if not entries:
                return [cards.progress("Nothing is found, so nothing is copied."), gr.skip()]
            manifest, remarks = copy_out(Library(out), entries, folder)
        except (ValueError, OSError) as error:
            return [cards.failed(error), gr.skip()]
        files = [cards.served(one) for one in (manifest, *(x.path for x in entries[:PAGE]))]
        told = f"{len(entries)} copied to {folder.relative_to(out.parent)}."
        return [cards.progress(told, None, remarks), gr.update(value=files, visible=True)]

    def from_start(*given: Any) -> list[Any]:
        return [PAGE, *look(PAGE, *given)]

    for trigger in (words.submit, emotion.input, modality.input, liked.input, order.input,
                    tab.select):  # fmt: skip
        trigger(from_start, filters, [many, *search_out], **QUIET)
    more.click(lambda shown: shown + PAGE, many, many, **QUIET).then(
        look, search_in, search_out, **QUIET
    )
    outputs = [*result.all, beside]
    grid.select(chosen, [keys, pinned], outputs, **QUIET)
    chart.input(on_map, [chart, keys, pinned], outputs, **QUIET)
    compare.click(pin, result.key, [pinned, result.told], **QUIET)
    wire_favourite(out, result).then(look, search_in, search_out, **QUIET)
    delete.click(remove, result.key, [*result.all, undo_token, undo, beside], **QUIET).then(
        look, search_in, search_out, **QUIET
    )
    undo.click(restore, undo_token, [result.told, undo_token, undo], **QUIET).then(
        look, search_in, search_out, **QUIET
    )
    export.click(copy, filters, [result.told, copies], **QUIET)
    wire_stop(stop, result, "gallery")
    wire_actions(stop, panel, out, result, "gallery")
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


def _compared(out: Path, pinned: str, take: Any) -> tuple[tuple[str | None, str | None], str]:
    """Both pictures and the card of the take that was pinned; nothing where there is none."""
    from pipelines.take import Take

    if not pinned or pinned == take.request.key:
        return (None, None), ""
    try:
        other = Take.read(Library(out).find(pinned).path)
    except (ValueError, OSError):
        return (None, None), ""
    pair = tuple(cards.shown_files(one)["picture"] or _course(one) for one in (other, take))
    return (pair[0], pair[1]), f"<p>Left, compared with:</p>{cards.score_card(other)}"


def _course(take: Any) -> str | None:
    """Of what is heard or moves, the figure: two courses can be laid over each other."""
    return cards.shown_files(take)["figure"]
