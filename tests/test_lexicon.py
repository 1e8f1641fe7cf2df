"""Words, taxonomies, sentences, and a real (tiny, random) transformers text classifier."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from adapters.emotion import CORE, VAD, Emotion, EmotionError
from adapters.lexicon import (
    known_words,
    look_up,
    nearest,
    read_text,
    table,
    taxonomies,
    taxonomy_labels,
    to_taxonomy,
)

# One line each: what ordinary people write, and the emotion they mean.
SENTENCES = """
sadness|I just lost my dog
sadness|alone
sadness|My grandmother died last week and I miss her
sadness|I failed my driving test
sadness|didn't get the job
sadness|Nobody remembered my birthday
sadness|she left me
sadness|My best friend moved to another country
sadness|Grandpa's chair is empty this Christmas
sadness|We had to sell the house I grew up in
happiness|I passed the exam!
happiness|our team won the championship
happiness|I have never been happier
happiness|what a lovely morning
happiness|My daughter took her first steps today
happiness|life is good :)
excitement|I can't wait for the concert tomorrow
excitement|Only two days until we fly to Japan!
excitement|I'm about to jump out of a plane
amusement|my cat fell into the soup, hahaha
amusement|She wore two different shoes to work lol
contentment|sitting by the lake with a cup of tea
contentment|A quiet Sunday with tea and a blanket
contentment|I'm no longer afraid
contentment|not bad at all
love|I love you so much
love|we got married yesterday!!
love|You mean everything to me
awe|I saw the milky way for the first time
awe|So many stars, I felt tiny
awe|The glacier stretched to the horizon
surprise|out of nowhere my old friend called
surprise|I opened the door and everyone shouted surprise
anger|he lied to me and stole my money
anger|THE TRAIN IS LATE AGAIN
anger|my boss yelled at me
anger|My neighbour keeps parking in my spot
disgust|the milk has gone sour and smells rotten
disgust|There was a hair in my soup
disgust|The bathroom floor was covered in slime
fear|there is a spider in the bathroom
fear|I think someone is following me
fear|exams tomorrow and I know nothing
fear|I heard a noise downstairs at three in the morning
boredom|nothing to do all day, so boring
boredom|The meeting went on for four hours
boredom|Two hours in line at the post office
""".strip().splitlines()


# --- words


def test_every_word_is_a_state_inside_the_simplex() -> None:
    words = known_words()
    assert len(words) > 1000
    for word, (mixture, residual) in words.items():
        assert word == word.lower().strip()
        assert mixture.shape == (12,)
        assert (mixture >= 0).all(), word
        assert mixture.sum() <= 1 + 1e-9, word
        assert np.abs(mixture @ VAD + residual).max() <= 1.0, word


def test_no_word_stands_twice_in_a_table() -> None:
    words = [word for group in table("words")["groups"] for word in group["words"]]
    assert len(words) == len(set(words))
    phrases = [p for group in table("sentences")["phrases"] for p in group["phrases"]]
    assert len(phrases) == len(set(phrases))
    assert len(phrases) > 1000


def test_core_names_are_themselves() -> None:
    for k, name in enumerate(CORE):
        found = look_up(name)
        assert found is not None
        assert found[0].tolist() == np.eye(12)[k].tolist()
        assert not found[1].any()


def test_all_151_rated_terms_are_words_and_reach_their_point() -> None:
    terms = table("vad_terms")["terms"]
    assert len(terms) == 152  # with neutral
    for term, point in terms.items():
        found = look_up(term)
        assert found is not None, term
        v = found[0] @ VAD + found[1]
        distance = np.linalg.norm((v - point) / [0.25, 0.33, 0.33])
        rows = [g for g in table("words")["groups"] if term in g["words"]]
        if rows and rows[0].get("vad_of") == [term]:
            assert distance < 0.36, term  # the residual is kept where raters would notice it
        else:  # an alias of a core emotion, or a mean with its kin
            assert distance < 2.0, term


@pytest.mark.parametrize("name", ["ekman8", "goemotions28", "emonet40", "emotic26", "emoart12"])
def test_every_label_of_a_taxonomy_is_a_word(name: str) -> None:
    for label in taxonomy_labels(name):
        assert look_up(label) is not None, label
        assert Emotion.parse(f"{label} .5").intensity <= 0.5


@pytest.mark.parametrize(
    ("word", "core"),
    [
        ("grief", "sadness"),
        ("rage", "anger"),
        ("terror", "fear"),
        ("serenity", "contentment"),
        ("lonely", "sadness"),
        ("loathing", "disgust"),
        ("tenderness", "love"),
        ("astonishment", "surprise"),
        ("enthusiasm", "excitement"),
        ("ennui", "boredom"),
        ("wonder", "awe"),
        ("playful", "amusement"),
        ("elation", "happiness"),
        ("Sadly", "sadness"),
        ("in_love", "love"),
        ("worries", "fear"),
        ("SORROWS", "sadness"),
    ],
)
def test_words_go_where_people_put_them(word: str, core: str) -> None:
    assert Emotion.of(word, 1.0).dominant == core


def test_words_are_looked_up_and_never_solved() -> None:
    """The solver reads curious as surprise + anger; the word must not."""
    curious = look_up("curious")
    assert curious is not None
    assert curious[0][CORE.index("anger")] == 0.0
    np.testing.assert_allclose(curious[0] @ VAD + curious[1], [0.22, 0.62, -0.01], atol=0.15)


@pytest.mark.parametrize("name", ["contempt", "pride", "shame", "longing"])
def test_named_compounds(name: str) -> None:
    examples = json.loads(
        (Path(__file__).parent / "data" / "state_examples.json").read_text(encoding="utf-8")
    )
    point = {**examples["anchors"], "longing": [0.163, 0.05, 0.02]}[name]
    state = Emotion.of(name, 1.0)
    assert np.linalg.norm((state.vad - point) / [0.25, 0.33, 0.33]) < 0.36
    np.testing.assert_allclose(Emotion.of(name, 0.5).vad, state.vad / 2, atol=2e-6)


def test_compounds_are_half_of_each_part() -> None:
    for row in table("compounds")["compounds"]:
        found = look_up(row["name"])
        assert found is not None
        if row["scheme"] == "du_2014" and " " in row["name"]:
            parts = [look_up(part) for part in row["of"]]
            assert all(parts)
            np.testing.assert_allclose(found[0], sum(p[0] for p in parts if p) / 2)
    assert Emotion.of("delight", 1.0) == Emotion.mix({"joy": 1, "surprise": 1})


def test_unknown_words_name_their_neighbours() -> None:
    assert look_up("blorf") is None
    assert nearest("sadnes", 1) == ["sadness"]
    assert nearest("exited", 3)[0] == "excited"
    assert "melancholy" in nearest("melancoly", 3)
    assert len(nearest("", 5)) == 5
    with pytest.raises(EmotionError, match=r'"melancoly" is not a known emotion.*melancholy'):
        Emotion.parse("melancoly .5")


# --- taxonomies


@pytest.mark.parametrize("name", taxonomies())
def test_maps_are_row_stochastic(name: str) -> None:
    for k in range(13):
        out = to_taxonomy(np.eye(13)[k], name)
        assert tuple(out) == taxonomy_labels(name)
        assert sum(out.values()) == pytest.approx(1.0)
        assert min(out.values()) >= 0.0
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.ones(13), 2)
    mixed = to_taxonomy((p + q) / 2, name)
    parts = [to_taxonomy(p, name), to_taxonomy(q, name)]
    for label, share in mixed.items():
        assert share == pytest.approx((parts[0][label] + parts[1][label]) / 2)


def test_to_taxonomy_cases() -> None:
    fear = Emotion.of("fear", 0.6).soft_label()
    assert to_taxonomy(fear, "ekman8")["fear"] == pytest.approx(0.6)
    assert to_taxonomy(fear, "ekman8")["neutral"] == pytest.approx(0.4)
    assert to_taxonomy(fear, "mikels8")["fear"] == pytest.approx(0.6 + 0.4 / 8)
    assert to_taxonomy(fear, "quadrant4")["Q2"] == pytest.approx(0.6 + 0.4 / 4)
    with pytest.raises(EmotionError, match=r"allowed: ekman8, .*mikels8"):
        to_taxonomy(fear, "mikels")
    for bad in (fear[1:], fear * 2, -fear):
        with pytest.raises(EmotionError, match="13 shares"):
            to_taxonomy(bad, "ekman8")


# --- sentences


@pytest.mark.parametrize("line", SENTENCES)
def test_ordinary_sentences(line: str) -> None:
    emotion, sentence = line.split("|")
    state = read_text(sentence)
    assert state.dominant == emotion
    assert 0.2 <= state.intensity <= 1.0
    assert Emotion.parse(f'"{sentence}"') == state
    assert Emotion.parse(state.text) == state


def test_degree_words_order_intensities() -> None:
    order = ["a tad sad", "a bit sad", "kind of sad", "sad", "very sad", "extremely sad"]
    levels = [read_text(f"I am {words}").intensity for words in order]
    assert levels == sorted(levels)
    assert len(set(levels)) == len(levels)
    assert read_text("so very extremely sad").intensity == 1.0
    assert read_text("terribly happy").dominant == "happiness"


def test_exclamation_and_capitals_raise_the_voice() -> None:
    plain = read_text("we won the game").intensity
    sad = read_text("i am sad").intensity
    assert sad < read_text("i am sad!").intensity < read_text("i am sad!!").intensity
    assert read_text("I AM SAD").intensity > sad
    assert read_text("we won the game!!!!!!").intensity <= 1.0
    assert plain <= 1.0


@pytest.mark.parametrize(
    ("sentence", "not_", "but"),
    [
        ("I'm not happy", "happiness", "sadness"),
        ("I am not at all happy", "happiness", "sadness"),
        ("never boring", "boredom", "excitement"),
        ("there is no reason to be afraid", "fear", "contentment"),
        ("I don’t love him", "love", "sadness"),
        ("without any fear", "fear", "contentment"),
    ],
)
def test_negation_turns_an_emotion(sentence: str, not_: str, but: str) -> None:
    state = read_text(sentence)
    assert state.intensities[CORE.index(not_)] == 0.0
    assert state.dominant == but


def test_negation_knows_its_limits() -> None:
    assert read_text("not only sad but devastated").dominant == "sadness"
    assert read_text("I can't stop laughing").dominant == "amusement"
    assert read_text("No. I am happy").dominant == "happiness"
    assert read_text("not very happy").intensity < read_text("not happy").intensity
    assert read_text("I'm not unhappy... I am not sad").dominant == "contentment"


def test_what_follows_but_speaks_louder() -> None:
    assert read_text("I was scared but now I am happy").dominant == "happiness"
    assert read_text("I was happy but now I am scared").dominant == "fear"


def test_mixed_feelings_stay_mixed() -> None:
    state = read_text("I am scared and very excited")
    assert state.intensities[CORE.index("fear")] > 0.2
    assert state.intensities[CORE.index("excitement")] > 0.2
    assert state.intensity <= 1.0


@pytest.mark.parametrize(
    ("text", "core"),
    [("😭", "sadness"), ("ok 😂😂", "amusement"), ("❤️", "love"), (":(", "sadness"), ("<3", "love")],
)
def test_emoji(text: str, core: str) -> None:
    assert read_text(text).dominant == core


def test_parts_of_words_are_no_emoji() -> None:
    assert read_text("see 2:demo", quiet=True) == Emotion()


@pytest.mark.parametrize(
    "text", ["", "   ", "The cup is on the table", "qwertz", "12345", "\x00", "日本語", "!!!"]
)
def test_text_without_emotion_says_so(text: str) -> None:
    with pytest.raises(EmotionError, match="finds no emotion") as caught:
        read_text(text)
    assert "\n" not in str(caught.value)
    assert read_text(text, quiet=True) == Emotion()


def test_neutral_words_are_neutral_and_no_error() -> None:
    assert read_text("nothing special") == Emotion()


def test_any_string_of_words_reads_as_a_state() -> None:
    rng = np.random.default_rng(0)
    bits = [*list(known_words())[::7], "not", "very", "a", "but", "!", ".", "dog", "lost", "my"]
    for _ in range(150):
        text = " ".join(rng.choice(bits, size=rng.integers(1, 14)))
        state = read_text(text, quiet=True)
        assert state.intensity <= 1.0 + 1e-6
        assert Emotion.parse(state.text) == state


# --- a transformers model as reader


def classifier(folder: Path, labels: list[str], *, multi: bool = False) -> Path:
    """A real sequence classifier of a few kB with random weights, saved as safetensors."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "i", "just", "lost", "my", "dog"]
    raw = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, unk_token="[UNK]", pad_token="[PAD]", model_max_length=32
    )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
        problem_type="multi_label_classification" if multi else "single_label_classification",
    )
    model = BertForSequenceClassification(config).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_transformers_classifier_reads_by_its_labels(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    labels = ["joy", "sadness", "Pleasure/Ecstasy", "neutral"]
    folder = classifier(tmp_path / "reader", labels)
    state = read_text("I just lost my dog", reader=str(folder))
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    batch = AutoTokenizer.from_pretrained(folder)("I just lost my dog", return_tensors="pt")
    with torch.no_grad():
        p = torch.softmax(model(**batch).logits[0].double(), -1).numpy()
    parts = [look_up(label) for label in labels]
    expected = sum(share * part[0] for share, part in zip(p, parts, strict=True) if part)
    np.testing.assert_allclose(state.array, expected, atol=1e-5)
    assert state.intensity < 1.0  # the neutral share is neutral
    assert Emotion.parse('"I just lost my dog"', reader=str(folder)) == state
    assert read_text("lost " * 500, reader=str(folder)).intensity <= 1.0  # cut, not crashed


def test_independent_labels_never_pass_full_intensity(tmp_path: Path) -> None:
    labels = list(taxonomy_labels("goemotions28"))
    folder = classifier(tmp_path / "reader", labels, multi=True)
    state = read_text("I just lost my dog", reader=str(folder))
    assert 0.3 < state.intensity <= 1.0


def test_labels_without_a_meaning_are_named(tmp_path: Path) -> None:
    folder = classifier(tmp_path / "reader", ["joy", "LABEL_1", "toxic"])
    with pytest.raises(EmotionError, match="LABEL_1, toxic") as caught:
        read_text("I just lost my dog", reader=str(folder))
    assert "\n" not in str(caught.value)


def test_readers_that_cannot_be_loaded_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02}q\x00.")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    for reader in (str(tmp_path), str(tmp_path / "none"), "nobody/no-such-reader"):
        with pytest.raises(EmotionError, match="cannot be loaded") as caught:
            read_text("I just lost my dog", reader=reader)
        assert "\n" not in str(caught.value)
    with pytest.raises(EmotionError, match="empty"):
        read_text(" ", reader=str(tmp_path))


def test_words_and_sentences_need_no_torch() -> None:
    code = (
        "import sys; from adapters.emotion import Emotion;"
        "Emotion.parse('\"I just lost my dog\" .5 + grief .2');"
        "print(sorted({'torch', 'transformers', 'scipy'} & set(sys.modules)))"
    )
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "[]", done.stderr
