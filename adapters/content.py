"""The content lever: what to add to a prompt so that the scene itself carries the emotion.

Scenes show most of their emotion in what they contain, palette carries a few percent (Redies et
al. 2020, doi:10.3389/fpsyg.2020.00953, and assets/emotions/content.json, `sources`), so a style
alone cannot make a place sad. This file adds elements, light, colour and composition from vetted
lists, and builds the prompt pairs that directions and sliders are fitted from.

It avoids the affective shortcut, in which the emotion's stock motif replaces what was asked for
(Emotion-Director, arXiv:2512.19479): the prompt always comes first, letter for letter; what
contradicts it is not added; nobody is added to a scene without people; an adjective of emotion
in the prompt belongs to its noun and gets no rival. Which phrases are taken depends on the seed,
so that a batch is not the same Christmas tree eight times (POET, arXiv:2504.13392).

It deliberately knows no model: no tokens, no weights, no torch. Two vocabularies: "rich", prose
for models trained on large corpora, and "image-tiny", only words of the small painter's training
captions (assets/emotions/painter_vocabulary.json). Any part of an emotion that is only a point in
valence, arousal and dominance (`Emotion.residual`) is not expressed here: directions do that.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, Literal, get_args

from adapters.assets import ASSETS
from adapters.emotion import CORE, Emotion

Vocabulary = Literal["rich", "image-tiny"]

# What enters first as the dose rises. The word names the emotion, then content and palette take
# turns; composition is the weakest lever and comes late.
_SLOTS: dict[str, tuple[str, ...]] = {
    "rich": ("word", "elements", "light", "colour", "elements", "composition", "elements"),
    "image-tiny": ("word", "colour", "elements", "light", "elements", "composition"),
}
_LOCKED_SLOTS = ("light", "colour", "composition")

# Where each kind stands in the finished prompt. The painter's captions say the scene first and end
# in light, colour, contrast and an emotion word, so its prompts do the same.
_ORDER: dict[str, tuple[str, ...]] = {
    "rich": ("figure", "elements", "light", "colour", "composition", "word"),
    "image-tiny": ("elements", "light", "colour", "composition", "word"),
}

# An emotion under a fifth of a mixture colours it but is not named: "happy, slightly fearful"
# for .6 + .2, only "happy" for .6 + .1.
_NAMED_SHARE = 0.2

# At the default content strength the degree word says what was asked; below it, less.
_DEFAULT_STRENGTH = 0.6


@dataclass(frozen=True, slots=True)
class _Table:
    """Phrases of one emotion in one vocabulary."""

    words: tuple[str, ...]
    elements: Mapping[str, tuple[str, ...]]  # by setting; "any" fits where none is named
    figure: tuple[str, ...]  # face and posture, for prompts that already have a person
    light: tuple[str, ...]
    colour: tuple[str, ...]
    composition: tuple[str, ...]


# --- tables ---------------------------------------------------------------------------------


@cache
def _read(name: str) -> dict[str, Any]:
    path = ASSETS / "emotions" / name
    table: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return table


def _grammar() -> dict[str, Any]:
    return _read("content_grammar.json")


@cache
def _table(emotion: str, vocabulary: str) -> _Table:
    row = _read("content.json")["emotions"][emotion][vocabulary]
    words = row["words"] if vocabulary == "rich" else [_grammar()[vocabulary]["words"][emotion]]
    return _Table(
        words=tuple(words),
        elements={setting: tuple(phrases) for setting, phrases in row["elements"].items()},
        figure=tuple(row.get("figure", ())),
        light=tuple(row["light"]),
        colour=tuple(row["colour"]),
        composition=tuple(row["composition"]),
    )


def _check_vocabulary(vocabulary: str) -> None:
    if vocabulary not in get_args(Vocabulary):
        known = ", ".join(get_args(Vocabulary))
        msg = f"vocabulary: expected one of {known}, received {vocabulary!r}"
        raise ValueError(msg)


def _check_emotion(emotion: str) -> None:
    if emotion not in CORE:
        msg = f"emotion: expected one of {', '.join(CORE)}, received {emotion!r}"
        raise ValueError(msg)


# --- reading a prompt -----------------------------------------------------------------------


@cache
def _pattern(words: tuple[str, ...], plural: bool) -> re.Pattern[str]:
    # Longest first, so that "grey sky" is found before "sky".
    ordered = sorted(words, key=len, reverse=True)
    body = "|".join(re.escape(word) for word in ordered)
    return re.compile(rf"(?<![\w-])(?:{body}){'(?:e?s)?' if plural else ''}(?![\w-])")


def _has(text: str, words: Iterable[str], *, plural: bool = False) -> bool:
    return _pattern(tuple(words), plural).search(text.lower()) is not None


def _settings(prompt: str) -> frozenset[str]:
    """Where the prompt takes place: any of indoor, water, town, things, open; empty if unknown."""
    lists: dict[str, list[str]] = _grammar()["settings"]
    return frozenset(name for name, words in lists.items() if _has(prompt, words, plural=True))


def _has_people(text: str) -> bool:
    return _has(text, _grammar()["people"], plural=True)


def _has_feeling(text: str) -> bool:
    return _has(text, _grammar()["feelings"])


@lru_cache(maxsize=4096)
def _sides(text: str) -> tuple[frozenset[int], frozenset[int]]:
    """Numbers of the clash rules whose side a, and whose side b, `text` speaks of."""
    rules = _grammar()["clashes"]
    a = frozenset(i for i, rule in enumerate(rules) if _has(text, rule["a"]))
    b = frozenset(i for i, rule in enumerate(rules) if _has(text, rule["b"]))
    return a, b


def _clash(text: str, phrase: str) -> bool:
    """Whether `phrase` contradicts what `text` already says (night against sunshine)."""
    (text_a, text_b), (phrase_a, phrase_b) = _sides(text), _sides(phrase)
    return bool(text_a & phrase_b or text_b & phrase_a)


def _candidates(table: _Table, kind: str, settings: frozenset[str]) -> tuple[str, ...]:
    if kind == "figure":
        return table.figure
    if kind == "light":
        return table.light
    if kind == "colour":
        return table.colour
    if kind == "composition":
        return table.composition
    # A room has no weather and a tabletop no horizon: inside, only what belongs inside.
    if "indoor" in settings:
        groups = ["indoor", *(["things"] if "things" in settings else [])]
    elif settings == {"things"}:
        groups = ["things"]
    else:
        groups = ["any", *sorted(settings)]
    return tuple(dict.fromkeys(p for group in groups for p in table.elements.get(group, ())))


# --- choosing -------------------------------------------------------------------------------


def _shuffled(phrases: Sequence[str], *key: object) -> list[str]:
    """`phrases` in an order fixed by `key`.

    A hash and not a random generator: the order must survive library upgrades, because a file
    made today is made again from its request, and a longer list must not reshuffle the rest.
    """

    def rank(phrase: str) -> bytes:
        return hashlib.sha256("\x1f".join(map(str, (*key, phrase))).encode()).digest()

    return sorted(phrases, key=rank)


def _same_noun(phrase: str, taken: Iterable[str]) -> bool:
    """Whether one of `taken` is about the same thing ("dark sky", "stormy sky"): a wasted place."""
    return any(
        other.rsplit(" ", 1)[-1] in phrase.split() or phrase.rsplit(" ", 1)[-1] in other.split()
        for other in taken
    )


def _turns(shares: Mapping[str, float], n: int) -> list[str]:
    """Which emotion fills each of `n` places, in proportion to its share (Sainte-Laguë)."""
    taken = dict.fromkeys(shares, 0)
    order = []
    for _ in range(n):
        name = max(shares, key=lambda k: shares[k] / (2 * taken[k] + 1))
        taken[name] += 1
        order.append(name)
    return order


def _degree(intensity: float, strength: float) -> str:
    slightly, plain, very = _grammar()["image-tiny"]["degrees"]
    level = intensity * min(1.0, strength / _DEFAULT_STRENGTH)
    word: str = slightly if level < 0.35 else plain if level < 0.7 else very
    return word


def _words(
    prompt: str, state: Mapping[str, float], strength: float, seed: int, vocabulary: str
) -> str:
    total = sum(state.values())
    named = [k for k in state if state[k] >= _NAMED_SHARE * total]
    named.sort(key=lambda k: -state[k])
    if vocabulary == "image-tiny":
        return ", ".join(emotion_word(k, state[k], strength=strength) for k in named)
    chosen = [_shuffled(_table(k, vocabulary).words, seed, k, "word", prompt)[0] for k in named]
    return f"{' and '.join(chosen)} mood"


def _additions(
    prompt: str,
    state: Mapping[str, float],
    strength: float,
    *,
    keep_content: bool,
    seed: int,
    vocabulary: str,
) -> list[tuple[str, str]]:
    """The (kind, phrase) pairs to add, in order of entry.

    The plan is made for the full dose from prompt, seed and the proportions of the mixture
    alone, then cut to the dose: a weaker emotion adds a part of what a stronger one adds.
    """
    total = sum(state.values())
    shares = {k: v / total for k, v in sorted(state.items(), key=lambda item: -item[1])}
    settings, feeling = _settings(prompt), _has_feeling(prompt)
    slots: tuple[str, ...] = _LOCKED_SLOTS if keep_content else _SLOTS[vocabulary]
    if not keep_content and _has_people(prompt) and not feeling:
        # With somebody in the picture the face is the strongest element.
        first = slots.index("elements")
        slots = (*slots[:first], "figure", *slots[first + 1 :])
    turns = iter(_turns(shares, len(slots)))

    plan: list[tuple[str, str] | None] = []
    said = prompt
    taken: list[str] = []
    for slot in slots:
        if slot == "word":
            word = _words(prompt, state, strength, seed, vocabulary)
            plan.append(None if feeling else ("word", word))
            continue
        turn = next(turns)
        found = None
        # The emotion whose turn it is first; if all it has contradicts the prompt, another.
        for name in (turn, *(k for k in shares if k != turn)):
            kind = slot
            if kind == "figure" and not _table(name, vocabulary).figure:
                kind = "elements"
            phrases = _candidates(_table(name, vocabulary), kind, settings)
            for phrase in _shuffled(phrases, seed, name, kind, prompt):
                if kind == "elements" and _same_noun(phrase, taken):
                    continue
                if feeling and _has_feeling(phrase):  # "cheerful colours" rivals "a sad carnival"
                    continue
                if phrase in said or _clash(said, phrase):
                    continue
                found = (kind, phrase)
                break
            if found:
                break
        plan.append(found)
        if found:
            said = f"{said}, {found[1]}"
            if found[0] == "elements":
                taken.append(found[1])

    dose = min(1.0, strength * total)
    # 1e-9: .2 + .4 is more than .6 in binary and must not add a phrase.
    count = math.ceil(dose * len(slots) - 1e-9)
    return [found for found in plan[:count] if found is not None]


def _assemble(prompt: str, additions: Sequence[tuple[str, str]], vocabulary: str) -> str:
    order = _ORDER[vocabulary]
    ranked = sorted(additions, key=lambda pair: order.index(pair[0]))
    return ", ".join([prompt, *(phrase for _, phrase in ranked)])


# --- public ---------------------------------------------------------------------------------


def expand(
    prompt: str,
    emotion: Emotion,
    strength: float,
    *,
    keep_content: bool = False,
    seed: int = 0,
    vocabulary: Vocabulary = "rich",
) -> str:
    """`prompt` followed by phrases that carry `emotion`.

    The same arguments give the same text on every machine. Everything said at a lower intensity
    is said at a higher one as well; only the degree word of "image-tiny" (slightly, very) is
    exchanged. Mixtures share the phrases in proportion to their intensities.

    Args:
        prompt: What to show. Comes first in the result, unchanged.
        emotion: The state; its total intensity times `strength` sets how many phrases are added.
        strength: 0…1, this lever alone (style has its own). 0 returns `prompt` unchanged.
        keep_content: Add only light, colour and composition: no objects, no emotion word.
        seed: Any integer; chooses among the phrases.
        vocabulary: "rich" or "image-tiny".

    Raises:
        ValueError: empty prompt, strength outside 0…1, unknown vocabulary.
    """
    _check_vocabulary(vocabulary)
    if not prompt.strip():
        msg = "prompt: expected a description of what to show, received nothing"
        raise ValueError(msg)
    if not 0 <= strength <= 1:
        msg = f"content strength: expected 0…1, received {strength:g}"
        raise ValueError(msg)
    state = {name: float(a) for name, a in zip(CORE, emotion.intensities, strict=True) if a > 0}
    if strength == 0 or not state:
        return prompt
    additions = _additions(
        prompt, state, strength, keep_content=keep_content, seed=seed, vocabulary=vocabulary
    )
    return _assemble(prompt, additions, vocabulary)


def opposite(emotion: str) -> str:
    """The other pole of a bipolar slider, by valence and arousal and by look (anger: contentment).

    Not an involution: three emotions share boredom, two contentment and two sadness.

    Raises:
        ValueError: not one of the twelve core emotions.
    """
    _check_emotion(emotion)
    pole: str = _read("content.json")["emotions"][emotion]["opposite"]
    return pole


def emotion_word(emotion: str, intensity: float, *, strength: float = _DEFAULT_STRENGTH) -> str:
    """The painter's words for an emotion at an intensity: "slightly sad", "sad", "very sad".

    Under .35 slightly, from .7 very: thirds, as in the captions, where the weakest third of the
    pictures of an emotion is "slightly" and the strongest "very" (training/captions.py).

    Args:
        emotion: One of the twelve core emotions.
        intensity: 0…1.
        strength: 0…1, of the content lever; below .6 it weakens the degree.

    Raises:
        ValueError: not one of the twelve core emotions.
    """
    _check_emotion(emotion)
    word: str = _grammar()["image-tiny"]["words"][emotion]
    return f"{_degree(intensity, strength)} {word}".strip()


def painter_words() -> frozenset[str]:
    """Every word "image-tiny" was told in training: captions, emotion adjectives, degree words."""
    table = _read("painter_vocabulary.json")
    return frozenset([*table["words"], *table["emotion_words"], *table["degree_words"]])


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _pick(phrases: Sequence[str], i: int) -> str:
    return phrases[i % len(phrases)]


def pairs(emotion: str, vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """(neutral, emotional) prompts of the same content, for fitting directions.

    32 subjects, one pair each. In "rich" both sides have one sentence form, and "ordinary" stands
    where the emotion stands, so that length and grammar cancel in the difference; forms, words,
    light and colour rotate so that no single one of them is the direction. Elements are left out:
    a direction should change how a thing looks, not which things there are.

    Raises:
        ValueError: unknown emotion or vocabulary.
    """
    _check_emotion(emotion)
    _check_vocabulary(vocabulary)
    table, grammar = _table(emotion, vocabulary), _grammar()[vocabulary]
    neutral = grammar["neutral"]
    result = []
    for i, subject in enumerate(grammar["subjects"]):
        if vocabulary == "image-tiny":
            result.append(_painter_pair(table, emotion, neutral["colour"], i, subject))
            continue
        # Rotating words by i // forms as well keeps form and word from moving in step.
        forms = grammar["pair_forms"]
        shift = i + i // len(forms)

        def fill(
            words: Sequence[str],
            light: Sequence[str],
            colour: Sequence[str],
            form: str = _pick(forms, i),
            subject: str = subject,
            shift: int = shift,
        ) -> str:
            word = _pick(words, shift)
            return form.format(
                word=f"{_article(word)} {word}" if form.startswith("{word}") else word,
                article=_article(word),
                bare=subject.split(" ", 1)[1],
                subject=subject,
                light=_pick(light, shift),
                colour=_pick(colour, shift),
            )

        plain = fill(neutral["words"], neutral["light"], neutral["colour"])
        result.append((plain, fill(table.words, table.light, table.colour)))
    return result


def _painter_pair(
    table: _Table, emotion: str, colours: Sequence[str], i: int, subject: str
) -> tuple[str, str]:
    """One pair in the painter's words, which have no word for neutral: a plain colour stands in."""
    styles = _grammar()["image-tiny"]["styles"]
    head = f"{_pick(styles, i)}{subject}"
    plain = _pick(colours, i)
    word = emotion_word(emotion, 1.0 if i % 2 else 0.5)
    light = [p for p in table.light if not _clash(head, p)] or [""]
    colour = [p for p in table.colour if not _clash(head, p)] or [plain]
    shade, tone = _pick(light, i // 3), _pick(colour, i // 3)
    tail = ([plain, word], [tone, word], [shade, tone, word])[i % 3]
    return f"{head}, {plain}", ", ".join([head, *(t for t in tail if t)])


def slider_prompts(emotion: str, vocabulary: Vocabulary) -> list[tuple[str, str, str, str]]:
    """(subject, positive, neutral, negative) prompts for training a bipolar slider.

    32 subjects. Positive and negative begin with the neutral prompt, which shows the subject
    (for the painter in varying styles), and add elements, palette and emotion word of the
    emotion and of its opposite at full dose: the slider has to move both and keep the subject.

    Raises:
        ValueError: unknown emotion or vocabulary.
    """
    pole = opposite(emotion)
    _check_vocabulary(vocabulary)
    grammar = _grammar()[vocabulary]
    result = []
    for i, subject in enumerate(grammar["subjects"]):
        head = f"{_pick(grammar.get('styles', ['']), i)}{subject}"

        def full(name: str, head: str = head, i: int = i) -> str:
            found = _additions(
                head, {name: 1.0}, 1.0, keep_content=False, seed=i, vocabulary=vocabulary
            )
            return _assemble(head, found, vocabulary)

        result.append((subject, full(emotion), head, full(pole)))
    return result


def anchors(vocabulary: Vocabulary) -> list[str]:
    """Twelve prompts a slider must leave alone: styles, hues and things without a feeling."""
    _check_vocabulary(vocabulary)
    return list(_grammar()[vocabulary]["anchors"])
