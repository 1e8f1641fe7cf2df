from __future__ import annotations

import json
import re
from itertools import pairwise

import numpy as np
import pytest

from adapters.assets import ASSETS
from adapters.content import (
    Vocabulary,
    anchors,
    emotion_word,
    expand,
    opposite,
    painter_words,
    pairs,
    slider_prompts,
)
from adapters.emotion import CORE, VAD, Emotion

VOCABULARIES: tuple[Vocabulary, ...] = ("rich", "image-tiny")
INCONGRUENT = json.loads((ASSETS / "emotions" / "evaluation.json").read_text(encoding="utf-8"))[
    "incongruent"
]["rich"]
TABLE = json.loads((ASSETS / "emotions" / "content.json").read_text(encoding="utf-8"))
GRAMMAR = json.loads((ASSETS / "emotions" / "content_grammar.json").read_text(encoding="utf-8"))
PLAIN_PROMPTS = (
    "a mountain lake",
    "a city street",
    "a lighthouse at dusk",
    "a bowl of soup",
    "an empty library",
    "a robot",
    "ships on the sea",
    "a red bicycle, watercolour",
)
# Written here and not read from the table under test.
PEOPLE = (
    r"man|men|woman|women|child|children|people|person|girl|boy|face|crowd|figure|couple|hands?"
)
ADJECTIVES = (
    "happy|joyful|cheerful|sad|sorrowful|melancholy|mournful|angry|furious|fearful|frightening"
    "|terrifying|loving|tender|romantic|disgusting|sickening|boring|amusing|funny|exciting|peaceful"
    "|serene|sublime|surprising|mood"
)


def added(prompt: str, result: str) -> list[str]:
    assert result.startswith(prompt)
    return [part for part in result[len(prompt) :].split(", ") if part]


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z0-9-]+", text.lower()))


def has(pattern: str, text: str) -> bool:
    return re.search(rf"(?<![\w-])(?:{pattern})(?![\w-])", text.lower()) is not None


def emotion_words(emotion: str) -> set[str]:
    return {*TABLE["emotions"][emotion]["rich"]["words"], emotion_word(emotion, 0.5)}


def elements(emotion: str, vocabulary: str) -> set[str]:
    groups = TABLE["emotions"][emotion][vocabulary]["elements"]
    return {phrase for phrases in groups.values() for phrase in phrases}


# --- the lever ------------------------------------------------------------------------------


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
@pytest.mark.parametrize("emotion", CORE)
def test_adds_after_the_prompt_and_says_something_of_each_kind(
    emotion: str, vocabulary: Vocabulary
) -> None:
    result = expand("a mountain lake", Emotion.of(emotion, 1.0), 1.0, vocabulary=vocabulary)
    parts = added("a mountain lake", result)
    table = TABLE["emotions"][emotion][vocabulary]
    assert set(parts) & elements(emotion, vocabulary)
    assert set(parts) & set(table["light"])
    assert set(parts) & set(table["colour"])
    assert any(has("|".join(emotion_words(emotion)), part) for part in parts)


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_strength_zero_and_neutral_change_nothing(vocabulary: Vocabulary) -> None:
    prompt = "  A Lake,  by night "
    assert expand(prompt, Emotion.of("fear", 1.0), 0.0, vocabulary=vocabulary) == prompt
    assert expand(prompt, Emotion.neutral(), 1.0, vocabulary=vocabulary) == prompt
    result = expand(prompt, Emotion.of("fear", 1.0), 1.0, vocabulary=vocabulary)
    assert result.startswith(prompt)


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
@pytest.mark.parametrize("emotion", CORE)
@pytest.mark.parametrize("keep_content", [False, True])
def test_a_weaker_emotion_says_a_part_of_what_a_stronger_one_says(
    emotion: str, vocabulary: Vocabulary, keep_content: bool
) -> None:
    for prompt in PLAIN_PROMPTS:
        for seed in range(3):
            said = []
            for level in (0.1, 0.25, 0.4, 0.6, 0.8, 1.0):
                result = expand(
                    prompt,
                    Emotion.of(emotion, level),
                    0.9,
                    keep_content=keep_content,
                    seed=seed,
                    vocabulary=vocabulary,
                )
                parts = added(prompt, result)
                # The degree word is the one thing that is exchanged and not added.
                said.append({re.sub(r"^(slightly|very) (?=\w+$)", "", part) for part in parts})
            assert all(weak <= strong for weak, strong in pairwise(said[:])), said
            assert len(said[0]) < len(said[-1])


def test_strength_works_like_intensity_and_mixtures_scale_together() -> None:
    mixed = {"sadness": 0.5, "love": 0.3}
    full = added("a garden", expand("a garden", Emotion.mix(mixed, 0.8), 1.0, seed=4))
    half = added("a garden", expand("a garden", Emotion.mix(mixed, 0.4), 1.0, seed=4))
    weak = added("a garden", expand("a garden", Emotion.mix(mixed, 0.8), 0.5, seed=4))
    assert half == weak
    assert set(half) < set(full)


def test_mixtures_share_the_phrases_in_proportion() -> None:
    def counts(mixture: dict[str, float]) -> tuple[int, int]:
        happy = sad = 0
        for seed in range(10):
            # awe and surprise never contradict each other, so no phrase is passed over
            result = expand("a valley", Emotion.mix(mixture, 1.0), 1.0, seed=seed)
            rows = {k: TABLE["emotions"][k]["rich"] for k in ("awe", "surprise")}
            own = {
                k: {*elements(k, "rich"), *rows[k]["light"], *rows[k]["colour"]}
                | set(rows[k]["composition"])
                for k in rows
            }
            happy += len(set(added("a valley", result)) & own["awe"])
            sad += len(set(added("a valley", result)) & own["surprise"])
        return happy, sad

    even = counts({"awe": 0.5, "surprise": 0.5})
    assert even[0] == even[1] == 30
    leaning = counts({"awe": 0.7, "surprise": 0.3})
    assert leaning == (40, 20)
    assert counts({"awe": 0.3, "surprise": 0.7}) == (20, 40)
    assert counts({"awe": 1.0}) == (60, 0)


def test_mixture_names_its_large_parts_with_their_own_degree() -> None:
    result = expand(
        "a lake", Emotion.mix({"happiness": 0.7, "fear": 0.25}, 0.95), 0.6, vocabulary="image-tiny"
    )
    assert result.endswith(", very happy, slightly fearful")
    result = expand(
        "a lake", Emotion.mix({"happiness": 0.7, "fear": 0.1}, 0.8), 0.6, vocabulary="image-tiny"
    )
    assert result.endswith(", very happy")


def test_lock_adds_only_light_colour_and_composition() -> None:
    for emotion in CORE:
        for vocabulary in VOCABULARIES:
            row = TABLE["emotions"][emotion][vocabulary]
            allowed = {*row["light"], *row["colour"], *row["composition"]}
            for prompt in (*PLAIN_PROMPTS, "a portrait of a woman"):
                result = expand(
                    prompt,
                    Emotion.of(emotion, 1.0),
                    1.0,
                    keep_content=True,
                    vocabulary=vocabulary,
                )
                parts = ", ".join(added(prompt, result))
                for phrase in sorted(allowed, key=len, reverse=True):
                    parts = parts.replace(phrase, "")
                assert parts.strip(", ") == "", parts
                assert result != prompt


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
@pytest.mark.parametrize("emotion", CORE)
def test_seeds_vary_the_elements(emotion: str, vocabulary: Vocabulary) -> None:
    state = Emotion.of(emotion, 1.0)
    seen = [
        frozenset(
            set(added("a village", expand("a village", state, 1.0, seed=s, vocabulary=vocabulary)))
            & elements(emotion, vocabulary)
        )
        for s in range(12)
    ]
    assert len(set(seen)) >= 4
    assert not frozenset.intersection(*seen), "one element is in every picture"


GOLDEN_TINY = "a mountain lake, evening mist, muted brown tones, very sad"
GOLDEN_RICH = (
    "a mountain lake, rain rings on the water, dim overcast light, drained greys and browns, "
    "mournful mood"
)


def test_the_same_request_gives_the_same_words() -> None:
    # Literal: a file made today is made again from its request by later versions.
    state = Emotion.of("sadness", 0.8)
    assert expand("a mountain lake", state, 0.6, seed=7, vocabulary="image-tiny") == GOLDEN_TINY
    assert expand("a mountain lake", state, 0.6, seed=7) == GOLDEN_RICH
    assert expand("a mountain lake", state, 0.6, seed=-1) != ""


# --- no affective shortcut ------------------------------------------------------------------


@pytest.mark.parametrize("said", [False, True], ids=["asked", "said"])
@pytest.mark.parametrize("row", INCONGRUENT, ids=lambda row: row["prompt"].replace(" ", "-"))
@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_incongruent_prompts_keep_their_subject(
    row: dict[str, str], vocabulary: Vocabulary, said: bool
) -> None:
    prompt = row["said" if said else "prompt"]
    assert row["prompt"].split(" ", 1)[1] in prompt
    for emotion in {row["emotion"], "happiness", "sadness", "fear", "anger"}:
        for seed in range(4):
            result = expand(prompt, Emotion.of(emotion, 1.0), 1.0, seed=seed, vocabulary=vocabulary)
            rest = ", ".join(added(prompt, result))
            assert not has(PEOPLE, rest), result
            if emotion == row["emotion"]:
                assert not has(f"(?:{'|'.join(row['shortcut'])})s?", rest), result


@pytest.mark.parametrize("prompt", ["a joyful cemetery", "an angry dog", "a sad carnival"])
@pytest.mark.parametrize("emotion", CORE)
def test_a_feeling_in_the_prompt_is_left_alone_and_gets_no_rival(prompt: str, emotion: str) -> None:
    for vocabulary in VOCABULARIES:
        result = expand(prompt, Emotion.of(emotion, 1.0), 1.0, vocabulary=vocabulary)
        rest = ", ".join(added(prompt, result))
        assert not has(ADJECTIVES, rest), result
        assert set(added(prompt, result)) & elements(emotion, vocabulary), result


@pytest.mark.parametrize(
    ("prompt", "never"),
    [
        ("a sunny beach", "rain|overcast|storm|stormy|fog|mist|misty|dark|darkness|moonlike"),
        ("a calm sea at noon", "storm|stormy|waves|churning|night|moonlike"),
        ("a city at night", "sunlight|sunshine|sunny|daylight|sunset|blue sky"),
        ("a forest in deep winter", "blossom|wildflowers|butterflies|meadow|green"),
        ("a crowded market", "empty|deserted"),
        ("a cherry tree in full bloom", "bare trees|bare branches|leafless|withered|fallen"),
        ("a black and white photo of a pier", "vivid|colourful|saturated|gold|pink|blue|red"),
        ("a dark cellar", "bright|sunny|luminous|radiant|pale"),
        ("a kitchen", "sky|clouds|rain on the ground|grass|fog|horizon|storm"),
        ("a ship on the ocean", "trees|grass|leaves|branches|meadow|flowering"),
        ("a sand dune in the desert", "rain|puddles|moss|snowy|mud"),
    ],
)
def test_nothing_contradicts_the_prompt(prompt: str, never: str) -> None:
    for emotion in CORE:
        for vocabulary in VOCABULARIES:
            for seed in range(5):
                result = expand(
                    prompt, Emotion.of(emotion, 1.0), 1.0, seed=seed, vocabulary=vocabulary
                )
                assert not has(never, ", ".join(added(prompt, result))), result


def test_mixtures_do_not_contradict_themselves() -> None:
    for seed in range(12):
        state = Emotion.mix({"happiness": 0.5, "fear": 0.5}, 1.0)
        for vocabulary in VOCABULARIES:
            result = expand("a valley", state, 1.0, seed=seed, vocabulary=vocabulary)
            light = has("bright|sunny|luminous|radiant|sunlight|sunshine", result)
            dark = has("dark|very dark|dim|darkness|black|stormy|fog|storm", result)
            assert not (light and dark), result


def test_a_face_is_only_given_to_somebody_who_is_there() -> None:
    state = Emotion.of("sadness", 1.0)
    faces = set(TABLE["emotions"]["sadness"]["rich"]["figure"])
    assert set(added("an old man", expand("an old man", state, 1.0))) & faces
    for prompt in PLAIN_PROMPTS:
        assert not set(added(prompt, expand(prompt, state, 1.0))) & faces
    assert not set(added("an old man", expand("an old man", state, 1.0, keep_content=True))) & faces
    # a smile on "a sad clown" would contradict the adjective
    clown = expand("a sad clown", Emotion.of("happiness", 1.0), 1.0)
    assert not has("smile|eyes", clown)


# --- the table ------------------------------------------------------------------------------


def test_no_phrase_brings_people_animals_or_stock_props() -> None:
    stock = (
        f"{PEOPLE}|dogs?|cats?|crows?|balloons?|christmas|party|grave|graves|cemetery|skulls?|blood"
        "|ghosts?|clowns?|fireworks|wedding|funeral|protest|guns?|beach|hearts?|carnival|coffin"
    )
    for emotion in CORE:
        row = TABLE["emotions"][emotion]
        for vocabulary in VOCABULARIES:
            kinds = row[vocabulary]
            rest = [*kinds["light"], *kinds["colour"], *kinds["composition"]]
            for phrase in [*elements(emotion, vocabulary), *rest]:
                assert not has(stock, phrase), (emotion, phrase)


def test_every_emotion_has_its_reasons_and_enough_to_choose_from() -> None:
    assert tuple(TABLE["emotions"]) == CORE
    for row in TABLE["emotions"].values():
        assert row["why"]
        assert set(row["why"]) <= set(TABLE["sources"])
        for vocabulary in VOCABULARIES:
            groups = row[vocabulary]["elements"]
            assert set(groups) == {"any", *GRAMMAR["settings"]}
            assert all(len(set(phrases)) == len(phrases) >= 2 for phrases in groups.values())


def test_painter_is_only_told_words_it_was_trained_on() -> None:
    from training import captions

    table = json.loads((ASSETS / "emotions" / "painter_vocabulary.json").read_text("utf-8"))
    sources = [table[k] for k in ("styles", "scenes", "photo_scenes", "colour_and_light")]
    trained = set(captions.words([text for source in sources for text in source]))
    assert painter_words() <= trained
    assert tuple(emotion_word(k, 0.5) for k in CORE) == tuple(captions.FEELINGS)
    said = list(anchors("image-tiny"))
    for emotion in CORE:
        row = TABLE["emotions"][emotion]["image-tiny"]
        said += [*elements(emotion, "image-tiny"), *row["light"], *row["colour"]]
        said += row["composition"]
        said += [text for pair in pairs(emotion, "image-tiny") for text in pair]
        said += [text for four in slider_prompts(emotion, "image-tiny") for text in four]
        said += [emotion_word(emotion, level) for level in (0.1, 0.5, 0.9)]
    assert set().union(*map(words, said)) - painter_words() == set()
    # Its text encoder takes 40 tokens, two of them marks; the emotion word stands last.
    assert max(len(re.findall(r"\w+|[^\w\s]", text)) for text in said) <= 38


# --- pairs and sliders ----------------------------------------------------------------------


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
@pytest.mark.parametrize("emotion", CORE)
def test_pairs_show_the_same_content_with_and_without_the_feeling(
    emotion: str, vocabulary: Vocabulary
) -> None:
    made = pairs(emotion, vocabulary)
    subjects = GRAMMAR[vocabulary]["subjects"]
    assert len(made) == len(subjects) >= 24
    assert len(set(made)) == len(made)
    every = set().union(*(emotion_words(k) for k in CORE)) - {"romantic"}  # a style of painting
    for subject, (neutral, emotional) in zip(subjects, made, strict=True):
        noun = subject.split(" ", 1)[-1]
        assert noun in neutral
        assert noun in emotional
        assert not has("|".join(every), neutral), neutral
        assert has("|".join(emotion_words(emotion)), emotional), emotional
        palette = {*TABLE["emotions"][emotion][vocabulary]["light"]}
        assert not set(emotional.split(", ")) & (elements(emotion, vocabulary) - palette)
        assert abs(len(words(neutral)) - len(words(emotional))) <= 9, (neutral, emotional)


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
@pytest.mark.parametrize("emotion", CORE)
def test_slider_prompts_move_content_colour_and_word_and_keep_the_subject(
    emotion: str, vocabulary: Vocabulary
) -> None:
    made = slider_prompts(emotion, vocabulary)
    assert len(made) >= 24
    assert len({subject for subject, *_ in made}) == len(made)
    for subject, positive, neutral, negative in made:
        assert subject in neutral
        for text, name in ((positive, emotion), (negative, opposite(emotion))):
            parts = set(added(neutral, text))
            assert parts & elements(name, vocabulary), text
            assert parts & set(TABLE["emotions"][name][vocabulary]["colour"]) or ", " in str(
                TABLE["emotions"][name][vocabulary]["colour"]
            ), text
            assert has("|".join(emotion_words(name)), text), text
    assert slider_prompts(emotion, vocabulary) == made


def test_poles_are_far_apart() -> None:
    for i, emotion in enumerate(CORE):
        pole = CORE.index(opposite(emotion))
        assert pole != i
        cosine = VAD[i, :2] @ VAD[pole, :2]
        assert cosine < 0, (emotion, opposite(emotion))
        # only as far as is possible: most others are nearer
        distance = np.linalg.norm(VAD[:, :2] - VAD[i, :2], axis=1)
        assert distance[pole] >= np.median(distance)


def test_anchors_carry_no_feeling() -> None:
    every = set().union(*(emotion_words(k) for k in CORE)) - {"romantic"}  # a style of painting
    for vocabulary in VOCABULARIES:
        assert len(anchors(vocabulary)) >= 10
        assert not any(has("|".join(every), text) for text in anchors(vocabulary))


def test_degree_words_follow_the_intensity() -> None:
    assert [emotion_word("fear", x) for x in (0.2, 0.5, 0.9)] == [
        "slightly fearful",
        "fearful",
        "very fearful",
    ]
    assert emotion_word("fear", 0.9, strength=0.3) == "fearful"


# --- bad input ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: expand(" ", Emotion.neutral(), 0.5), "prompt: .*nothing"),
        (lambda: expand("x", Emotion.neutral(), 1.2), "0…1, received 1.2"),
        (lambda: expand("x", Emotion.neutral(), float("nan")), "0…1, received nan"),
        (lambda: expand("x", Emotion.neutral(), 0.5, vocabulary="klingon"), "rich, image-tiny"),
        (lambda: opposite("joy"), "happiness, excitement"),
        (lambda: pairs("joy", "rich"), "received 'joy'"),
        (lambda: slider_prompts("fear", "poor"), "received 'poor'"),
        (lambda: anchors("poor"), "received 'poor'"),
    ],
)
def test_bad_input_is_one_clear_line(call, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        call()
    assert "\n" not in str(caught.value)
