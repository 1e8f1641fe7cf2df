"""The timeline editor: an emotion over seconds, as moments that can be added, dragged and deleted.

Its value is the panel's state (`studio.affect_pad`); the drawing and the keyboard are in
assets/ui/timeline.js. Presets are the courses of `adapters.curves`. This file deliberately does
not know what is made along a course.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr

from adapters.curves import preset, presets
from adapters.emotion import EmotionTimeline
from studio.affect_pad import FIRST, LONGEST, SECONDS, panel_of, script

_TEMPLATE = (
    '<div class="timeline"><p class="hint"><span>Click the line to add a moment, drag to move it; '
    'Delete removes.</span><button type="button" data-do="remove">Remove moment</button></p></div>'
)


def timeline_view(value: Mapping[str, Any] | None = None, **more: Any) -> Any:
    """Moments on a line of seconds; value: the panel's state."""
    return gr.HTML(
        value=value or panel_of(FIRST),
        html_template=_TEMPLATE,
        js_on_load=script("timeline.js"),
        **more,
    )


def preset_names() -> list[tuple[str, str]]:
    """(what a person reads, name) of each course."""
    return [(f"{name}: {about.split('.')[0]}", name) for name, about in presets().items()]


def with_preset(text: str, name: str, seconds: float) -> str:
    """The text form of a course for the strongest emotion of a text, over seconds.

    Raises EmotionError in one line; a name is never taken for a file.
    """
    if name not in presets():
        return text
    peak = EmotionTimeline.parse(text, over=True).peak
    return preset(name, peak, min(max(seconds, 1.0), LONGEST)).text


def stretched(text: str, seconds: float) -> str:
    """A course over another length: all its moments moved in proportion."""
    timeline = EmotionTimeline.parse(text, over=True)
    length = min(max(float(seconds or SECONDS), 1.0), LONGEST)
    if timeline.duration <= length:
        return timeline.text
    share = length / timeline.duration
    return EmotionTimeline(tuple((t * share, one) for t, one in timeline.keys)).text
