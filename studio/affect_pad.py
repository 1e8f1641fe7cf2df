"""The emotion panel's state, and its two views of one moment: the affect pad and the sliders.

The truth is one text form of an emotion (`adapters.notation`); every view is drawn from it and
every change of a view becomes that text again. `panel_of` and `text_of` are the two ways. The
state is plain JSON that the views in assets/ui share:

    {"keys": [{"t": 0.0, "a": {"fear": .5}, "rest": [0, 0, 0], "v": -.3, "r": .3, "d": -.2,
               "i": .5, "text": "fear .5", "colour": "#8a63d2"}, ...],
     "at": 0, "seconds": 8.0, "curves": [{"name", "colour", "points": [[t, x], ...]}]}

A view sends back a key with less: the pad `{t, v, r}` (a point, read as a mixture) or
`{t, name, i}` (a name that was clicked), a slider `{t, a}`, the timeline `{t, between: true}` (a
new moment, as the course is there). It comes from a browser, so everything in it is checked here.
This file deliberately does not know any modality or how the page is laid out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import gradio as gr
import numpy as np

from adapters.assets import ASSETS
from adapters.emotion import CORE, VAD, Emotion, EmotionError, EmotionTimeline
from adapters.vad import CLOSE_ENOUGH, SD
from pipelines.drawing import COLOURS

UI = ASSETS / "ui"
FIRST = "awe 0.8"
SECONDS = 8.0  # of the line of a single emotion: a short film
LONGEST = 600.0  # s
MOST_KEYS = 32
POINTS = 48  # of a drawn curve
# Where a name stands beside its dot (x, y, anchor), so that no two names overlap.
_BESIDE = {
    "happiness": (0.07, -0.01, "start"), "excitement": (0.0, -0.08, "middle"),
    "amusement": (0.07, 0.08, "start"), "love": (0.0, -0.09, "middle"),
    "surprise": (-0.07, -0.03, "end"), "anger": (0.06, 0.07, "start"),
    "fear": (0.0, -0.08, "middle"), "disgust": (0.06, 0.08, "start"),
    "awe": (0.07, -0.04, "start"),
}  # fmt: skip
NAMES: list[list[Any]] = [
    [name, float(v), float(a), COLOURS[name], *_BESIDE.get(name, (0.0, 0.13, "middle"))]
    for name, (v, a, _) in zip(CORE, VAD, strict=True)
]
"""What the scripts know of the core emotions: name, valence, arousal, colour, place of the name."""


class PanelError(ValueError):
    """A state that no view of ours sends; one line."""


def pad_view(value: Mapping[str, Any] | None = None, **more: Any) -> Any:
    """A disc of valence and arousal with a puck that can be dragged; value: the panel's state."""
    return gr.HTML(
        value=value or panel_of(FIRST),
        html_template='<div class="affect-pad"></div>',
        js_on_load=script("affect_pad.js"),
        names=NAMES,
        **more,
    )


def mixture_view(value: Mapping[str, Any] | None = None, **more: Any) -> Any:
    """Twelve sliders whose sum is at most 1; value: the panel's state."""
    return gr.HTML(
        value=value or panel_of(FIRST),
        html_template='<div class="mixture" role="group" aria-label="Core emotions"></div>',
        js_on_load=script("mixture.js"),
        names=NAMES,
        **more,
    )


def script(name: str) -> str:
    """A script or style sheet of assets/ui."""
    return (UI / name).read_text(encoding="utf-8")


def panel_of(text: str, at: int = 0, seconds: float = SECONDS) -> dict[str, Any]:
    """The panel's state of a text form.

    at: the moment that pad and sliders show. seconds: of the line; longer where the text is.
    Raises EmotionError in one line.
    """
    timeline = EmotionTimeline.parse(text, over=True)
    if len(timeline.keys) > MOST_KEYS:
        msg = f"emotion: the panel shows {MOST_KEYS} moments, received {len(timeline.keys)}"
        raise EmotionError(f"{msg}; leave some out, or use `affect make`")
    length = min(max(_number(seconds, SECONDS), 1.0, timeline.duration), LONGEST)
    keys = [key_of(t, emotion) for t, emotion in timeline.keys]
    return {
        "keys": keys,
        "at": max(0, min(int(at), len(keys) - 1)),
        "seconds": length,
        "curves": _curves(timeline, length),
    }


def key_of(t: float, emotion: Emotion) -> dict[str, Any]:
    """One moment as the views show it."""
    v, a, d = (round(float(x), 4) for x in emotion.vad)
    felt = {name: x for name, x in zip(CORE, emotion.intensities, strict=True) if x > 0}
    return {
        "t": t, "a": felt, "rest": list(emotion.residual), "v": v, "r": a, "d": d,
        "i": emotion.intensity, "text": short(emotion), "colour": COLOURS[emotion.dominant],
    }  # fmt: skip


def short(emotion: Emotion) -> str:
    """An emotion in few words: what is felt most, two digits."""
    felt = zip(CORE, emotion.intensities, strict=True)
    parts = sorted(((x, name) for name, x in felt if x >= 0.005), reverse=True)
    return " + ".join(f"{name} {x:.2g}" for x, name in parts[:3]) or "neutral"


def text_of(state: Any) -> tuple[str, int, float]:
    """The text form of a state that a view sent, the chosen moment, and the seconds of the line.

    Raises PanelError or EmotionError in one line.
    """
    if not isinstance(state, Mapping) or not isinstance(state.get("keys"), list):
        msg = "panel: an object with keys is expected; load the page again"
        raise PanelError(msg)
    given = state["keys"]
    if not 1 <= len(given) <= MOST_KEYS:
        msg = f"panel: 1 to {MOST_KEYS} moments are allowed, received {len(given)}; remove some"
        raise PanelError(msg)
    seconds = min(max(_number(state.get("seconds"), SECONDS), 1.0), LONGEST)
    known = [(i, key) for i, key in enumerate(given) if not _is_between(key)]
    if not known:
        msg = "panel: no moment has an emotion; load the page again"
        raise PanelError(msg)
    felt = {i: (_second(key), _emotion(key)) for i, key in known}
    course = EmotionTimeline(tuple(felt[i] for i in sorted(felt)))
    if len(given) > 1 and len(felt) == 1:
        only = next(iter(felt.values()))
        course = EmotionTimeline.constant(only[1])
    keys = []
    for i, key in enumerate(given):
        t = _second(key)
        keys.append(felt.get(i) or (t, course.at(t)))
    at = int(_number(state.get("at"), 0.0))
    return EmotionTimeline(tuple(keys)).text, max(0, min(at, len(keys) - 1)), seconds


def chosen_emotion(text: str, at: int) -> str:
    """Of a course the moment that is chosen, as text: what a picture can hold."""
    keys = EmotionTimeline.parse(text, over=True).keys
    return text if len(keys) == 1 else keys[max(0, min(at, len(keys) - 1))][1].text


def _is_between(key: Any) -> bool:
    return isinstance(key, Mapping) and bool(key.get("between"))


def _second(key: Any) -> float:
    if not isinstance(key, Mapping):
        msg = "panel: each moment is an object; load the page again"
        raise PanelError(msg)
    return min(max(_number(key.get("t"), 0.0), 0.0), LONGEST)


def _emotion(key: Mapping[str, Any]) -> Emotion:
    if "name" in key:
        name = str(key["name"])
        if name not in CORE:
            msg = f"panel: one of {', '.join(CORE)} is allowed, received {name[:20]!r}"
            raise PanelError(msg)
        return Emotion.of(name, min(max(_number(key.get("i"), 0.7), 0.0), 1.0))
    if isinstance(key.get("a"), Mapping):
        felt = np.array([max(_number(key["a"].get(name), 0.0), 0.0) for name in CORE])
        felt = np.floor(1000 * felt / max(1.0, felt.sum()) + 1e-6) / 1000
        rest = key.get("rest")
        residual = (0.0, 0.0, 0.0)
        if isinstance(rest, list) and len(rest) == 3:
            x, y, z = (min(max(_number(one, 0.0), -2.0), 2.0) for one in rest)
            residual = (x, y, z)
        return Emotion(tuple(felt.tolist()), residual)
    v, a = (min(max(_number(key.get(name), 0.0), -1.0), 1.0) for name in ("v", "r"))
    if math.hypot(v, a) < 0.03:  # a fingertip cannot find the very middle
        return Emotion.neutral()
    return _tidy(Emotion.from_vad(v, a))


def _tidy(emotion: Emotion) -> Emotion:
    """Two digits, and no rest that raters would not notice: a hand is no more exact than that."""
    felt = np.floor(100 * emotion.array + 0.5) / 100
    if felt.sum() > 1.0:
        felt = np.floor(100 * emotion.array) / 100
    x, y, z = (round(float(one), 2) for one in emotion.vad - felt @ VAD)
    small = float(np.linalg.norm(np.array([x, y, z]) / SD)) < CLOSE_ENOUGH
    return Emotion(tuple(felt.tolist()), (0.0, 0.0, 0.0) if small else (x, y, z))


def _number(value: Any, usual: float) -> float:
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if good else usual


def _curves(timeline: EmotionTimeline, seconds: float) -> list[dict[str, Any]]:
    times = np.linspace(0.0, seconds, POINTS)
    rows = timeline.sample(times)
    return [
        {
            "name": name,
            "colour": COLOURS[name],
            "points": [
                [round(float(t), 3), round(float(x), 3)]
                for t, x in zip(times, rows[:, k], strict=True)
            ],
        }
        for k, name in enumerate(CORE)
        if rows[:, k].max() > 0.005
    ]
