"""What an evaluation asks a painter to paint: subjects without a feeling, and the opposite trap.

`scenes` are neutral subjects, far apart from each other. `incongruent` are subjects that suggest
another emotion than the one asked (a cemetery, happy): who answers an emotion with its stock motif
fails on them (the affective shortcut of Emotion-Director, arXiv:2512.19479). `said` puts the
emotion into the prompt in words, for the control without adapters. The table is
assets/emotions/evaluation.json; this file knows no model and no picture.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from adapters.assets import ASSETS
from adapters.content import Vocabulary, emotion_word, expand
from adapters.emotion import Emotion

MOST_PROMPTS = 200
# The smallest dose of the content lever adds one phrase, and the first one is the emotion's word.
_WORD_ONLY = 0.1


class SuiteError(ValueError):
    """A suite that cannot be run; one line that says what is allowed."""


@dataclass(frozen=True, slots=True)
class Incongruent:
    """A subject, the emotion to ask of it, the same said in words, and what must not be added."""

    prompt: str
    emotion: str
    said: str
    shortcut: tuple[str, ...]


@cache
def _table() -> dict[str, Any]:
    path = ASSETS / "emotions" / "evaluation.json"
    table: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return table


def scenes(vocabulary: Vocabulary, count: int) -> tuple[str, ...]:
    """The first `count` neutral subjects for a painter of this vocabulary.

    Raises SuiteError for fewer than 2 (nothing to tell apart) or more than there are.
    """
    found = _table()["scenes"][vocabulary]
    if not 2 <= count <= len(found):
        msg = (
            f"prompts: allowed 2 to {len(found)} of the shipped ones, received {count}; "
            "for more give a text file with one a line"
        )
        raise SuiteError(msg)
    return tuple(found[:count])


def from_file(path: Path) -> tuple[str, ...]:
    """The prompts of a text file, one a line; empty lines and lines that start with # are left out.

    Raises SuiteError in one line: not a text file, fewer than 2 or more than 200 different ones.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        msg = f"prompts: {path} is not UTF-8 text; give a text file with one prompt a line"
        raise SuiteError(msg) from error
    lines = (line.strip() for line in text.splitlines())
    found = tuple(dict.fromkeys(line for line in lines if line and not line.startswith("#")))
    if not 2 <= len(found) <= MOST_PROMPTS:
        msg = f"prompts: {path} has {len(found)} different ones; 2 to {MOST_PROMPTS} are needed"
        raise SuiteError(msg)
    return found


def incongruent(vocabulary: Vocabulary, emotions: Sequence[str]) -> tuple[Incongruent, ...]:
    """The subjects that suggest something else, for these core emotions."""
    return tuple(
        Incongruent(
            row["prompt"],
            row["emotion"],
            row.get("said") or said(row["prompt"], row["emotion"], vocabulary),
            tuple(row["shortcut"]),
        )
        for row in _table()["incongruent"][vocabulary]
        if row["emotion"] in emotions
    )


def said(prompt: str, emotion: str, vocabulary: Vocabulary) -> str:
    """`prompt` with the emotion in words at full strength, and nothing else added."""
    if vocabulary == "image-tiny":
        return f"{prompt}, {emotion_word(emotion, 1.0)}"
    return expand(prompt, Emotion.of(emotion, 1.0), _WORD_ONLY, vocabulary=vocabulary)
