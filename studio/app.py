"""The page of `affect serve`: one emotion panel beside a tab for every modality.

The panel's text is the truth; pad, sliders and timeline are views of it (`studio.affect_pad`).
Events of the page are private; the few that programs may use are in `studio.api`. This file only
lays out and wires; it does not know how takes are made (`studio.making`) or shown
(`studio.cards`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from adapters.emotion import EmotionError
from studio.affect_pad import FIRST, SECONDS, mixture_view, pad_view, panel_of, script, text_of
from studio.notice import PAGE_NOTICE
from studio.timeline import preset_names, stretched, timeline_view, with_preset

QUIET: dict[str, Any] = {
    "api_visibility": "private", "show_progress": "hidden", "queue": False,
    "trigger_mode": "always_last",
}  # fmt: skip
EXAMPLES = (
    ("I just lost my dog", '"I just lost my dog"'),
    ("Calm, then fear", "0s contentment .6; 5s fear .9"),
    ("Bittersweet", "happiness .4 + sadness .4"),
    ("Awe", "awe .9"),
    ("Pleasant and lively", "v=.7 a=.6"),
)


@dataclass(frozen=True, slots=True)
class Panel:
    """The components of the emotion panel. text is the truth, line holds the chosen moment."""

    text: Any
    pad: Any
    mixture: Any
    line: Any
    said: Any
    seconds: Any


def build_app(out: Path, *, public: bool = True) -> Any:
    """The whole page over a folder of takes.

    public: offer the text-only functions of `studio.api` to programs.
    """
    from studio.actions import add_use_as
    from studio.api import add_api
    from studio.gallery import gallery_tab
    from studio.scenes import film_tab
    from studio.tabs import grid_tab, media_tabs
    from studio.training_tab import training_tab

    with gr.Blocks(
        title="Affect Studio", analytics_enabled=False, delete_cache=(3600, 86400), fill_width=True
    ) as page:
        gr.HTML(
            "<h1>Affect Studio</h1><p>Say an emotion once; pictures, films, faces, voices and "
            "music follow it.</p>",
            elem_id="head",
        )
        with gr.Row(elem_id="studio"):
            with gr.Column(scale=4, min_width=320, elem_id="feel"):
                panel = _panel()
            wide = gr.Column(scale=7, min_width=340)
            with wide, gr.Tabs(elem_id="tabs", overflow_behavior="wrap") as tabs:
                media = media_tabs(panel, out)
                grid_tab(panel, out)
                film = film_tab(panel, out)
                training_tab(out, media)
                gallery = gallery_tab(panel, out)
        gr.HTML(f'<p role="note">{PAGE_NOTICE}</p>', elem_id="notice")
        add_use_as(tabs, media, (film, gallery), out)
        page.unload(_left)
        if public:
            add_api(out)
    page.queue(max_size=16, default_concurrency_limit=1, api_open=True)
    return page


def _left(request: gr.Request) -> None:
    """A browser tab was closed: nobody waits for what it had asked for."""
    from studio.making import leave

    leave(request.session_hash or "")


def _panel() -> Panel:
    """The emotion panel, wired so that its four views are always of the same text."""
    first = panel_of(FIRST)
    text = gr.Textbox(
        FIRST, label="Emotion", lines=2, max_lines=4, max_length=2000, elem_id="emotion",
        info='Names, numbers, a course ("0s calm; 5s fear .9"), or a sentence.',
        html_attributes=gr.InputHTMLAttributes(spellcheck=False),
    )  # fmt: skip
    said = gr.HTML(_said(FIRST), elem_id="said")
    pad = pad_view(first, elem_id="pad", label="Affect pad")
    with gr.Accordion("Mixture", open=False):
        mixture = mixture_view(first, elem_id="mixture", label="Mixture")
    with gr.Accordion("Over time", open=False):
        line = timeline_view(first, elem_id="timeline", label="Timeline")
        with gr.Row():
            seconds = gr.Number(
                SECONDS, label="Seconds", minimum=1, maximum=600, step=1, min_width=90
            )
            preset = gr.Dropdown(
                preset_names(), value=None, label="Preset course", min_width=160, elem_id="preset"
            )
    with gr.Row(elem_classes="chips"):
        for shown, form in EXAMPLES:
            gr.Button(shown, size="sm", min_width=60).click(
                lambda form=form: form, None, text, **QUIET
            )
    panel = Panel(text, pad, mixture, line, said, seconds)
    views = [pad, mixture, line, said, seconds]
    text.change(_views, [text, line], views, **QUIET)
    for view in (pad, mixture, line):
        view.input(_edited, [view, text], [text, *views], **QUIET)
    preset.input(_preset, [text, preset, seconds, line], [text, *views], **QUIET)
    seconds.input(_stretched, [text, seconds], [text, *views], **QUIET)
    return panel


def _views(text: str, line: Any) -> tuple[Any, ...]:
    """All views of a text; a text that cannot be read leaves them and says why."""
    line = line if isinstance(line, dict) else {}
    at, seconds = line.get("at", 0), line.get("seconds", SECONDS)
    try:
        state = panel_of(text, at if isinstance(at, int) else 0, seconds)
    except EmotionError as error:
        same = gr.skip()
        return same, same, same, _wrong(error), same
    return state, state, state, _said(text), state["seconds"]


def _edited(state: Any, text: str) -> tuple[Any, ...]:
    """The text of a view that was changed, and all views of it."""
    try:
        new, at, seconds = text_of(state)
        drawn = panel_of(new, at, seconds)
    except ValueError as error:
        same = gr.skip()
        return same, same, same, same, _wrong(error), same
    # A moment that was only chosen leaves the words as they were typed.
    kept = text if _same(text, new) else new
    return kept, drawn, drawn, drawn, _said(kept), drawn["seconds"]


def _same(one: str, other: str) -> bool:
    try:
        return text_of(panel_of(one))[0] == other
    except ValueError:
        return False


def _preset(text: str, name: str | None, seconds: float, line: Any) -> tuple[Any, ...]:
    try:
        new = with_preset(text, name or "", float(seconds or SECONDS))
    except ValueError as error:
        same = gr.skip()
        return same, same, same, same, _wrong(error), same
    at = {"at": 0, "seconds": seconds}
    return new, *_views(new, at)


def _stretched(text: str, seconds: float) -> tuple[Any, ...]:
    try:
        new = stretched(text, seconds)
    except ValueError:
        new = text
    kept = text if _same(text, new) else new
    return kept, *_views(kept, {"at": 0, "seconds": seconds})[:-1], gr.skip()


def _said(text: str) -> str:
    """How a text is read, in one line."""
    import html

    from adapters.emotion import EmotionTimeline
    from studio.affect_pad import short

    timeline = EmotionTimeline.parse(text, over=True)
    parts = [
        (f"{t:g} s " if len(timeline.keys) > 1 else "") + short(emotion)
        for t, emotion in timeline.keys[:6]
    ]
    more = " …" if len(timeline.keys) > 6 else ""
    return f'<p class="read" role="status">Read as {html.escape("; ".join(parts))}{more}</p>'


def _wrong(error: BaseException) -> str:
    import html

    text = html.escape(" ".join(str(error).split())[:300])
    return f'<p class="read" role="alert"><span class="wrong">{text}</span></p>'


def style() -> dict[str, Any]:
    """What `launch` takes of the look: theme without fonts from elsewhere, and our sheet."""
    fonts = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
    theme = gr.themes.Default(
        primary_hue="indigo", neutral_hue="stone", radius_size="md",
        font=fonts, font_mono=["ui-monospace", "Consolas", "monospace"],
    ).set(
        # The theme's own are at 2.5 and 4.47 to 1: words need 4.5 (WCAG 2.2 AA).
        body_text_color_subdued="*neutral_500", block_info_text_color="*neutral_500",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        link_text_color_dark="*primary_300",
    )  # fmt: skip
    return {"theme": theme, "css": script("studio.css")}
