"""Words. (first cut)"""

from __future__ import annotations

import difflib

import numpy as np

from adapters.emotion import CORE, VAD, Emotion

_ALIASES = {
    "happy": "happiness",
    "joy": "happiness",
    "sad": "sadness",
    "grief": "sadness",
    "angry": "anger",
    "calm": "contentment",
    "afraid": "fear",
    "bored": "boredom",
    "disgusted": "disgust",
}


def look_up(word: str) -> tuple[np.ndarray, np.ndarray] | None:
    """(mixture (12,), residual (3,)) of a word at intensity 1, or None."""
    word = " ".join(word.lower().split())
    name = _ALIASES.get(word, word)
    if name not in CORE:
        return None
    a = np.zeros(len(CORE))
    a[CORE.index(name)] = 1.0
    return a, np.zeros(3)


def nearest(word: str, n: int = 5) -> list[str]:
    """Known words most like the given one."""
    return difflib.get_close_matches(word.lower(), [*CORE, *_ALIASES], n, 0.0)


def read_text(text: str, reader: str | None = None, *, quiet: bool = False) -> Emotion:
    """Free text -> Emotion."""
    return Emotion.neutral()


_ = VAD
