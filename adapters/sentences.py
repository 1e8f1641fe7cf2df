"""Reading ordinary sentences with the lexicon: "I just lost my dog" -> sadness .95.

Finds emotion words, phrases of events ("passed the exam"), frames (one word of each of two lists
near each other: lost ... dog) and emoji, in `assets/emotions/sentences.json`; weighs them by degree
words, turns them at negations, lets the clause after "but" speak louder, and adds them up. It knows
no grammar, no irony and no language but English; a transformers model (`adapters.text_reader`) may.

On 44 plain sentences written after the tables, the strongest emotion was the meant one in 27 (by
chance: 4). Faint everyday associations are heard last; a sentence without even those is refused.

Source: the rules follow the valence-aware lexicon readers (Hutto & Gilbert 2014); numbers and table
are this project's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from adapters.emotion import CORE, DEFAULT_INTENSITY, Emotion
from adapters.lexicon import known_words, mixture_of, stems, table

Array = NDArray[np.float64]
# First word -> [(words, state (15,))].
_Index = dict[str, list[tuple[tuple[str, ...], Array]]]

FRAME_WIDTH = 6  # words between which the two halves of a frame belong together
NEGATION_REACH = 3  # "not a very happy day": the negation acts this many words on
BEFORE_BUT = 0.6  # weight of what stands before the last "but"
MORE_OF_THE_SAME = 0.05  # each further finding adds this much, up to three of them
PER_EXCLAMATION = 0.1  # factor added by "!", at most two of them, and by CAPITALS

_STOPS = frozenset(".!?;")
_TOKEN = re.compile(r"[a-z]+(?:[-/][a-z]+)*|[.,;!?]")
_SHORT = (
    (re.compile(r"\bcan(?:no|'|)t\b"), "can not"),
    (re.compile(r"\bwon'?t\b"), "will not"),
    (
        re.compile(r"\b(do|does|did|is|are|was|were|have|has|had|could|should|would)n'?t\b"),
        r"\1 not",
    ),
    (re.compile(r"\bain't\b"), "not"),
    (re.compile(r"'(?:s|m|re|ve|d|ll)\b"), ""),
)


@dataclass(frozen=True, slots=True)
class _Hit:
    start: int
    tokens: tuple[int, ...]  # indices of the words it is made of
    state: Array  # (15,) intensities and residual
    exact: bool = True  # spelt as in the table, not an inflection


def read_sentences(text: str) -> Emotion | None:
    """The emotion of a text, None where nothing in it is known.

    As intense as the strongest finding, a little more for each further one, never above 1.
    """
    tokens = tokenise(text)
    found = _find_phrases(tokens, _phrases()) + _find_frames(tokens)
    hits = _choose(found)
    emoji = _find_emoji(text)
    if not emoji and not any(hit.state.any() for hit in hits):
        weak = _choose(found + _find_phrases(tokens, _weak_words()))
        hits = weak if any(hit.state.any() for hit in weak) else hits
    if not hits and not emoji:
        return None
    used = {i for hit in hits for i in hit.tokens}
    breaks = [i for i, t in enumerate(tokens) if t in table("sentences")["clause_breaks"]]
    states = list(emoji)
    for hit in hits:
        early = any(hit.start < i for i in breaks[-1:])
        states.append(_in_context(hit, tokens, used) * (BEFORE_BUT if early else 1.0))
    total = np.sum(states, axis=0)
    mass = float(total[: len(CORE)].sum())
    if mass <= 0.0:
        return Emotion.neutral()
    strongest = max(float(s[: len(CORE)].sum()) for s in states)
    intensity = strongest + MORE_OF_THE_SAME * min(len(states) - 1, 3)
    intensity = min(1.0, intensity * _loudness(text))
    return Emotion._of_state(np.round(total * (intensity / mass), 2))


def tokenise(text: str) -> list[str]:
    """Words and stops in order, lower case, contractions opened, skipped words left out."""
    line = text.lower().replace("’", "'").replace("‘", "'")
    for pattern, full in _SHORT:
        line = pattern.sub(full, line)
    skipped = table("sentences")["skipped"]
    return [t for t in _TOKEN.findall(line) if t not in skipped]


def _in_context(hit: _Hit, tokens: list[str], used: set[int]) -> Array:
    """The state of a finding after the degree words and negations around it."""
    degree, first = _degree(hit, tokens, used)
    if not _negated(first, tokens, used):
        a = hit.state[: len(CORE)].sum()
        # A degree word may not push one finding past full intensity.
        return hit.state * (min(degree, 1.0 / a) if a > 0 else degree)
    denied = table("sentences")["denied"]
    turned = sum(
        (x * mixture_of(denied[name]) for name, x in zip(CORE, hit.state, strict=False)),
        np.zeros(len(CORE)),
    )
    # "not very happy" is milder than "not happy"; "not even a bit happy" is not.
    return np.append(turned * (0.7 if degree > 1.0 else 1.0), np.zeros(3))


def _degree(hit: _Hit, tokens: list[str], used: set[int]) -> tuple[float, int]:
    """(factor, index where the finding with its degree words starts)."""
    degrees = _degrees()
    factor, first = 1.0, hit.start
    for _ in range(2):  # "so very sad"
        for n in (3, 2, 1):
            span = range(first - n, first)
            if span.start >= 0 and not used.intersection(span):
                words = " ".join(tokens[i] for i in span)
                if words in degrees:
                    factor, first = factor * degrees[words], span.start
                    break
        else:
            break
    after = hit.tokens[-1] + 1
    behind = table("sentences")["degrees_after"]
    tail = [t for t in tokens[after : after + 2] if t in behind]
    if tail and not used.intersection(range(after, after + 2)):
        factor *= behind[tail[-1]]
    return factor, first


def _negated(first: int, tokens: list[str], used: set[int]) -> bool:
    """Whether an odd number of negations reaches word ``first``."""
    data = table("sentences")
    count, i = 0, first - 1
    while i >= max(0, first - NEGATION_REACH):
        if tokens[i] in _STOPS or tokens[i] in data["clause_breaks"] or i in used:
            break
        pair = " ".join(tokens[max(0, i - 1) : i + 1])
        following = " ".join(tokens[i : i + 2])
        if pair in data["negations"] and i > 0:
            count, i = count + 1, i - 2
            continue
        if tokens[i] in data["negations"] and following not in data["no_negations"]:
            count += 1
        i -= 1
    return count % 2 == 1


def _find_phrases(tokens: list[str], index: _Index) -> list[_Hit]:
    """Words and phrases, each token as it stands or as an inflection."""
    forms = [frozenset((t, *stems(t))) for t in tokens]
    degree = _degree_spans(tokens)
    hits = []
    for i, here in enumerate(forms):
        for head in here:
            for phrase, state in index.get(head, ()):
                end = i + len(phrase)
                if end <= degree.get(i, 0):
                    continue  # "kind of", "terribly": how much, not what
                if end <= len(tokens) and all(
                    word in form for word, form in zip(phrase, forms[i:end], strict=True)
                ):
                    exact = phrase == tuple(tokens[i:end])
                    hits.append(_Hit(i, tuple(range(i, end)), state, exact))
    # A word as it stands wins over its stems: "lovely" is more than a form of love.
    spelt = {h.tokens for h in hits if h.exact}
    return [h for h in hits if h.exact or h.tokens not in spelt]


def _find_frames(tokens: list[str]) -> list[_Hit]:
    """Frames: a word of each list, within FRAME_WIDTH words and one sentence."""
    forms = [frozenset((t, *stems(t))) for t in tokens]
    walls = [
        i for i, t in enumerate(tokens) if t in _STOPS or t in table("sentences")["clause_breaks"]
    ]
    hits = []
    for one, other, state in _frames():
        left = [i for i, form in enumerate(forms) if form & one]
        right = [i for i, form in enumerate(forms) if form & other]
        for i in left:
            near = [
                j
                for j in right
                if i != j
                and abs(i - j) <= FRAME_WIDTH
                and not any(min(i, j) < w < max(i, j) for w in walls)
            ]
            if near:
                j = min(near, key=lambda k: (abs(i - k), k < i))
                hits.append(_Hit(min(i, j), (min(i, j), max(i, j)), state))
    return hits


def _choose(hits: list[_Hit]) -> list[_Hit]:
    """Findings that share no word: longer ones first, then the stronger, then the earlier."""
    out: list[_Hit] = []
    taken: set[int] = set()
    for hit in sorted(hits, key=lambda h: (-len(h.tokens), -h.state[: len(CORE)].sum(), h.start)):
        if not taken.intersection(hit.tokens):
            taken.update(hit.tokens)
            out.append(hit)
    return sorted(out, key=lambda h: h.start)


def _find_emoji(text: str) -> list[Array]:
    line = text.lower().replace("\ufe0f", "")
    found = []
    for sign, mix in table("sentences")["emoji"].items():
        if sign.isascii():  # an emoticon stands alone; ":d" in "2:demo" is none
            there = re.search(rf"(?:^|\s|[.!?,a-z])({re.escape(sign)})(?=$|\s|[.!?,])", line)
            if sign[0].isalpha() and there and there.start() > 0 and line[there.start()].isalpha():
                there = None
        else:
            there = re.search(re.escape(sign), line)
        if there:
            found.append(np.append(mixture_of(mix), np.zeros(3)))
    return found


def _loudness(text: str) -> float:
    words = [w for w in re.findall(r"[A-Za-z]{2,}", text)]
    shouted = len(words) > 1 and sum(w.isupper() for w in words) > len(words) / 2
    return 1.0 + PER_EXCLAMATION * (min(text.count("!"), 2) + shouted)


@cache
def _degrees() -> dict[str, float]:
    out: dict[str, float] = {}
    for words, factor in table("sentences")["degrees"].items():
        out.setdefault(" ".join(tokenise(words)), float(factor))
    return out


def _degree_spans(tokens: list[str]) -> dict[int, int]:
    """Start -> end of every run of words that is a degree word."""
    degrees = _degrees()
    return {
        i: i + n
        for n in (1, 2, 3)
        for i in range(len(tokens) - n + 1)
        if " ".join(tokens[i : i + n]) in degrees
    }


@cache
def _weak_words() -> _Index:
    """Everyday words with a faint association, heard only where nothing louder speaks."""
    rows: dict[tuple[str, ...], Array] = {}
    for group in table("sentences")["weak"]:
        state = np.append(mixture_of(group["mix"]), np.zeros(3))
        for phrase in group["phrases"]:
            rows.setdefault(tuple(tokenise(phrase)), state)
    return _by_first_word(rows)


def _by_first_word(rows: dict[tuple[str, ...], Array]) -> _Index:
    index: _Index = {}
    for words, state in rows.items():
        if words:
            index.setdefault(words[0], []).append((words, state))
    return index


@cache
def _phrases() -> _Index:
    """First word -> [(words, state at the intensity the phrase has by itself)]."""
    data = table("sentences")
    rows: dict[tuple[str, ...], Array] = {}
    for group in data["phrases"]:
        state = np.append(mixture_of(group["mix"]), np.zeros(3))
        for phrase in group["phrases"]:
            rows.setdefault(tuple(tokenise(phrase)), state)
    for word, (mixture, residual) in known_words().items():
        if word not in data["names_only"]:
            # "I am sad" says as much as the text form `sadness`: the default intensity.
            state = DEFAULT_INTENSITY * np.append(mixture, residual)
            rows.setdefault(tuple(tokenise(word)), state)
    return _by_first_word(rows)


@cache
def _frames() -> list[tuple[frozenset[str], frozenset[str], Array]]:
    return [
        (
            frozenset(frame["any"]),
            frozenset(frame["with"]),
            np.append(mixture_of(frame["mix"]), np.zeros(3)),
        )
        for frame in table("sentences")["frames"]
    ]
