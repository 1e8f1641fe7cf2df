"""Emotion words, their taxonomies, and the door for free text.

A word is looked up, never solved: each names a mixture of core emotions, and where people have
rated the word, what the mixture does not explain of its VAD point is kept as residual. The tables
lie in `assets/emotions/` (words.json, compounds.json, vad_terms.json, taxonomies.json). This file
does not know numbers or '+' (`adapters.notation`) nor how sentences are read
(`adapters.sentences`).

Sources: Russell & Mehrabian 1977 (VAD); label lists of the cited taxonomies; the mixtures are this
project's editorial reading.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from adapters.assets import ASSETS
from adapters.emotion import CORE, VAD, Emotion, EmotionError
from adapters.vad import CLOSE_ENOUGH, SD

Array = NDArray[np.float64]
Entry = tuple[Array, Array]

NEUTRAL = "neutral"


def look_up(word: str) -> Entry | None:
    """What a word names at intensity 1, or None where it is not known.

    word: a core emotion, an emotion word, a taxonomy label or a compound, any case; a plural or an
    adverb of a known word counts. Returns ((12,) intensities with sum <= 1, (3,) residual VAD). The
    word "neutral" is known and is all zeros.
    """
    words = known_words()
    name = clean(word)
    for candidate in (name, *stems(name)):
        if candidate in words:
            mixture, residual = words[candidate]
            return mixture.copy(), residual.copy()
    return None


def entry(word: str) -> Entry:
    """Like look_up, but an unknown word is an EmotionError that names the nearest known ones."""
    found = look_up(word)
    if found is None:
        shown = " ".join(word.split())
        shown = shown if len(shown) <= 40 else f"{shown[:39]}…"
        msg = (
            f'emotion: "{shown}" is not a known emotion; nearest known: '
            f"{', '.join(nearest(word, 5))}; put free text in double quotes to have it read"
        )
        raise EmotionError(msg)
    return found


def nearest(word: str, n: int = 5) -> list[str]:
    """The n known words spelt most like the given one, core emotions first among equals."""
    name = clean(word)[:80]
    known = [*CORE, *(w for w in known_words() if w not in CORE)]
    return difflib.get_close_matches(name, known, n, cutoff=0.0)


def read_text(text: str, reader: str | None = None, *, quiet: bool = False) -> Emotion:
    """Free text -> Emotion, by the lexicon or by a transformers text-classification model.

    reader: name or folder of such a model, see `adapters.text_reader`; None reads with the lexicon.
    quiet: return neutral where the lexicon finds nothing, instead of raising EmotionError.
    """
    if reader is not None:
        from adapters.text_reader import read_with_model

        return read_with_model(text, reader)
    from adapters.sentences import read_sentences

    found = read_sentences(text)
    if found is not None:
        return found
    if quiet:
        return Emotion.neutral()
    line = " ".join(text.split())
    shown = line if len(line) <= 60 else f"{line[:59]}…"
    msg = (
        f'emotion: the lexicon finds no emotion in the text "{shown}"; name one (sadness .8), '
        "write neutral, or read it with a text model (reader)"
    )
    raise EmotionError(msg)


def taxonomies() -> tuple[str, ...]:
    """Names that to_taxonomy takes."""
    return tuple(_taxonomies())


def taxonomy_labels(name: str) -> tuple[str, ...]:
    """Labels of a taxonomy in its own order."""
    return tuple(_taxonomy(name)["labels"])


def to_taxonomy(soft_label: ArrayLike, name: str) -> dict[str, float]:
    """A soft label over neutral + CORE as a distribution over another scheme's labels.

    soft_label: (13,) >= 0, sum 1, as `Emotion.soft_label` gives. Returns label -> share, in the
    scheme's order, sum 1. A fixed row-stochastic map: neutral goes to the scheme's neutral, or
    evenly to all labels where it has none. Raises EmotionError for a wrong name or shape.
    """
    table = _taxonomy(name)
    q = np.asarray(soft_label, dtype=np.float64)
    if q.shape != (len(CORE) + 1,) or (q < 0.0).any() or abs(q.sum() - 1.0) > 1e-4:
        msg = f"soft_label: expected 13 shares (neutral, then core) adding up to 1, received {q}"
        raise EmotionError(msg)
    labels: list[str] = table["labels"]
    rest = [NEUTRAL] if NEUTRAL in labels else labels
    out = dict.fromkeys(labels, 0.0)
    for label in rest:
        out[label] += float(q[0]) / len(rest)
    for share, core in zip(q[1:], CORE, strict=True):
        for label, weight in table["from_core"][core].items():
            out[label] += float(share) * weight
    return out


def clean(word: str) -> str:
    """A word as the tables spell it: lower case, single spaces, no underscores."""
    return " ".join(word.lower().replace("_", " ").replace("’", "'").split())


def stems(word: str) -> list[str]:
    """Spellings of which the word may be an inflection; crude on purpose, the table decides."""
    out: list[str] = []
    for end, swaps in _ENDINGS:
        if word.endswith(end) and len(word) - len(end) >= 3:
            stem = word[: -len(end)]
            out.extend(stem + swap for swap in swaps)
            if len(stem) > 3 and stem[-1] == stem[-2]:
                out.append(stem[:-1])
    return out


_ENDINGS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("iness", ("y",)),
    ("ness", ("",)),
    ("ies", ("y",)),
    ("ied", ("y",)),
    ("ier", ("y",)),
    ("iest", ("y",)),
    ("ily", ("y",)),
    ("ly", ("", "e")),
    ("ing", ("", "e", "ed")),
    ("ed", ("", "e")),
    ("es", ("", "e")),
    ("s", ("",)),
    ("est", ("", "e")),
    ("er", ("", "e")),
)


def mixture_of(mix: dict[str, float]) -> Array:
    """(12,) intensities of a {core emotion: intensity} row of a table."""
    out = np.zeros(len(CORE))
    for name, value in mix.items():
        out[CORE.index(name)] = value
    return out


@cache
def table(name: str) -> dict[str, Any]:
    """One JSON table of assets/emotions."""
    path = ASSETS / "emotions" / f"{name}.json"
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return data


@cache
def known_words() -> dict[str, Entry]:
    """Every known word. Core names win over words.json, and words.json over compounds.json."""
    terms = table("vad_terms")["terms"]
    out: dict[str, Entry] = {}
    for k, name in enumerate(CORE):
        out[name] = (np.eye(len(CORE))[k], np.zeros(3))
    for group in table("words")["groups"]:
        mixture = mixture_of(group["mix"])
        residual = _residual(mixture, [terms[term] for term in group.get("vad_of", ())])
        for word in group["words"]:
            out.setdefault(word, (mixture, residual))
    for row in table("compounds")["compounds"]:
        parts = [out[part] for part in row["of"]]
        mixture = sum((p[0] for p in parts), np.zeros(len(CORE))) / len(parts)
        residual = sum((p[1] for p in parts), np.zeros(3)) / len(parts)
        out.setdefault(row["name"], (mixture, residual))
    return out


def _residual(mixture: Array, points: Sequence[Sequence[float]]) -> Array:
    """What the mixture leaves of the mean rating; nothing where raters would not notice it."""
    if not points:
        return np.zeros(3)
    left: Array = np.round(np.mean(points, axis=0) - mixture @ VAD, 6)
    return left if np.linalg.norm(left / SD) >= CLOSE_ENOUGH else np.zeros(3)


def _taxonomies() -> dict[str, Any]:
    found: dict[str, Any] = table("taxonomies")["taxonomies"]
    return found


def _taxonomy(name: str) -> dict[str, Any]:
    found = _taxonomies()
    if name not in found:
        msg = f'taxonomy: "{name}" is not known; allowed: {", ".join(found)}'
        raise EmotionError(msg)
    one: dict[str, Any] = found[name]
    return one
