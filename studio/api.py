"""What programs may do with the server: a few functions with plain text in and out.

Takes are named by their keys, so no argument is ever a path or an address. Each is a tool of the
MCP server where that is asked for (`affect serve --mcp`); its docstring is what a program reads.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from studio import making
from studio.actions import DEVICE, felt
from studio.run import fresh_seed

MAKES = ("image", "music", "video")
"""Modalities that words alone can make."""


def add_api(out: Path) -> None:
    """Offer the functions to programs; called while the page is built."""
    for function, busy in functions(out).items():
        options: dict[str, Any] = DEVICE if busy else {"concurrency_limit": 4}
        gr.api(_explained(function), api_name=function.__name__, **options)


def functions(out: Path) -> dict[Callable[..., Any], bool]:
    """Each function, and whether it needs the device."""

    def read_emotion(text: str) -> dict[str, Any]:
        """Read an emotion: names and numbers, a course over time, or a sentence.

        Args:
            text: for example "sadness 0.8", "happiness .6 + fear .2", "0s awe .5; 8s fear .9".

        Returns:
            text: the canonical form; dominant; intensities and vad of each moment by its second.
        """
        from adapters.emotion import EmotionTimeline

        timeline = EmotionTimeline.parse(text)
        return {
            "text": timeline.text,
            "dominant": timeline.dominant,
            "moments": [
                {"second": t, "text": one.text, "vad": [round(float(x), 4) for x in one.vad]}
                for t, one in timeline.keys
            ],
        }

    def make(modality: str, prompt: str, emotion: str, seed: int = -1) -> dict[str, Any]:
        """Make a picture, a piece of music or a film from words, with an emotion.

        Args:
            modality: image, music or video.
            prompt: what to show; of music its title.
            emotion: for example "sadness 0.8"; of music and films also a course over time.
            seed: the same seed makes the same take; -1 for a fresh one.

        Returns:
            key: names the take; reading: what both readers read in it; seconds.
        """
        from pipelines import DEFAULTS

        if modality not in MAKES:
            msg = f"modality: one of {', '.join(MAKES)}, received {modality[:20]!r}; choose one"
            raise gr.Error(msg)
        requests = making.requests_of(
            modality, prompt, felt(emotion, None, modality),
            seed=fresh_seed() if seed < 0 else int(seed), backbone=DEFAULTS[modality], params={},
            inputs={}, out=out,
        )  # fmt: skip
        return _told(requests, out)

    def remake(key: str, emotion: str, seed: int = -1) -> dict[str, Any]:
        """Make a take again with another emotion or seed.

        Args:
            key: of the take, as make and search tell it.
            emotion: the new one; empty for the same.
            seed: -1 for the same.

        Returns:
            As make.
        """
        new = making.remade(out, key, emotion or None, None if seed < 0 else int(seed))
        return _told(new, out)

    def search(words: str = "", emotion: str = "", modality: str = "", limit: int = 20) -> list[dict[str, Any]]:  # fmt: skip  # noqa: E501
        """Find takes, newest first.

        Args:
            words: of the prompt. emotion: a name that was asked for. modality: image, music, ...
            limit: at most so many, 1 to 200.

        Returns:
            key, modality, prompt, emotion, seed and day of each.
        """
        from studio.library_index import Library, Search

        asked = Search(emotion=emotion, words=words, modality=modality)
        found = Library(out).page(asked, 0, min(max(int(limit), 1), 200))
        names = ("key", "modality", "prompt", "emotion", "seed", "day")
        return [{name: getattr(one, name) for name in names} for one in found]

    def show(key: str) -> dict[str, Any]:
        """Everything a take says about itself.

        Args:
            key: of the take, or its first 6 digits or more.

        Returns:
            emotion, prompt, seed, model, params and reading.
        """
        from pipelines.take import Take
        from studio.library_index import Library

        _check_key(key)
        take = Take.read(Library(out).find(key).path)
        request = take.request
        return {
            "key": request.key, "modality": request.modality, "prompt": request.prompt,
            "emotion": request.emotion.text, "seed": request.seed, "backbone": request.backbone,
            "params": dict(request.params), "reading": take.reading,
        }  # fmt: skip

    return {read_emotion: False, make: True, remake: True, search: False, show: False}


def _told(requests: list[Any], out: Path) -> dict[str, Any]:
    from pipelines.take import Take

    takes = [one for one in making.made(requests, out) if isinstance(one, Take)]
    take = takes[-1]
    return {"key": take.request.key, "reading": take.reading, "seconds": take.seconds}


def _check_key(key: str) -> None:
    if not key or len(key) > 64 or not all(one in "0123456789abcdef" for one in key):
        msg = "key: hex digits as make and search tell them; look it up with search"
        raise gr.Error(msg)


def _explained(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, whose known errors reach the program as their one line."""
    import functools

    @functools.wraps(function)
    def called(*given: Any, **named: Any) -> Any:
        making.wait_until_loaded()
        try:
            return function(*given, **named)
        except (ValueError, OSError, MemoryError, RuntimeError) as error:
            raise gr.Error(" ".join(str(error).split())[:500]) from error

    return called
