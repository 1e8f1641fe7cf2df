"""Takes of any layout as clips of a style: who speaks, which sentence, how strong it was rated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipelines.media_sound import encode_sound
from tests.test_training_voice import ACTED, said
from training.voice_lora import StyleError, gained, read_folder


def put(folder: Path, name: str, text: int = 0, emotion: str = "neutral") -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    acted = ACTED.get(emotion, {})
    path.write_bytes(encode_sound(said(seed=len(name), text=text, **acted)[None], 16000, {}))


def quiet(folder: Path, **options: str) -> list[tuple[str, str, str]]:
    takes = read_folder(folder, tell=lambda _: None, **options)
    return sorted((c.speaker, c.sentence, c.emotion) for c in takes.clips)


def test_takes_are_named_for_sentence_and_emotion(tmp_path: Path) -> None:
    for name in ("hello_neutral.wav", "hello_angry.wav", "ann/bye_sadness.wav"):
        put(tmp_path, name)
    assert quiet(tmp_path) == [
        (".", "hello", "anger"), (".", "hello", "neutral"), ("ann", "bye", "sadness"),
    ]  # fmt: skip


def test_an_own_word_stands_for_the_emotion_that_style_says(tmp_path: Path) -> None:
    for name in ("hello_neutral.wav", "hello_pirate.wav"):
        put(tmp_path, name)
    with pytest.raises(StyleError, match=r'labels of 2 rows are no emotions: "pirate"'):
        quiet(tmp_path)
    assert quiet(tmp_path, style="anger") == [(".", "hello", "anger"), (".", "hello", "neutral")]


def test_folders_of_emotions_hold_the_same_sentences(tmp_path: Path) -> None:
    for person in ("ann", "bob"):
        for mood in ("neutral", "angry"):
            put(tmp_path, f"{person}/{mood}/line.wav", emotion=mood)
    assert quiet(tmp_path) == [
        (person, "line", mood) for person in ("ann", "bob") for mood in ("anger", "neutral")
    ]


def test_published_sets_tell_speaker_sentence_and_rated_intensity(tmp_path: Path) -> None:
    for name in ("1001_DFA_NEU_XX.wav", "1001_DFA_ANG_HI.wav", "1002_DFA_ANG_MD.wav"):
        put(tmp_path, name)
    told: list[str] = []
    takes = read_folder(tmp_path, tell=told.append)
    assert told[0] == "3 of 3 files for voice, layout crema-d"
    assert [c.speaker for c in takes.clips] == ["1001", "1001", "1002"]
    assert {c.sentence for c in takes.clips} == {"DFA"}
    assert takes.rated == {
        "1001_DFA_ANG_HI.wav": 1.0, "1002_DFA_ANG_MD.wav": pytest.approx(2 / 3),
    }  # fmt: skip


def test_a_table_says_what_is_said_and_held_out(tmp_path: Path) -> None:
    rows = ["file_name,speaker,text,emotion,split"]
    for k in range(3):
        for mood in ("neutral", "anger"):
            put(tmp_path, f"{k}{mood[0]}.wav", text=k, emotion=mood)
            rows.append(f"{k}{mood[0]}.wav,me,line {k},{mood},{'test' if k == 2 else 'train'}")
    (tmp_path / "metadata.csv").write_text("\n".join(rows))
    takes = read_folder(tmp_path, tell=lambda _: None)
    assert {(c.speaker, c.sentence) for c in takes.clips} == {("me", f"line {k}") for k in range(3)}
    assert takes.held == {("me", "line 2")}
    assert takes.rated == {}


def test_pairs_of_one_sentence_are_one_witness() -> None:
    before = np.ones((60, 2, 2))
    after = before.copy()
    after[:, :, 0] = np.repeat(np.linspace(0.2, 1.6, 6), 10)[:, None]
    alone = gained(before, after, [("me", str(k)) for k in range(60)])
    grouped = gained(before, after, [("me", str(k // 10)) for k in range(60)])
    assert alone["left_after"] == grouped["left_after"]
    assert np.ptp(grouped["gain_interval"]) > 2 * np.ptp(alone["gain_interval"])
