"""Folders with every labelling and layout become the same samples; bad ones say one line."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from adapters.emotion import CORE
from adapters.face_motion import Motion, write_csv
from adapters.piece import Piece
from pipelines.media import encode_image
from pipelines.media_midi import encode_midi
from pipelines.media_sound import encode_sound
from training.folder import LAYOUTS, DataError, Dataset, read_folder
from training.folder_check import near_pairs, probe
from training.folder_labels import to_labels
from training.folder_layouts import PATTERNS
from training.folder_report import Report, label_noise

SADNESS, ANGER, FEAR, HAPPINESS = (CORE.index(n) for n in ("sadness", "anger", "fear", "happiness"))


def picture(seed: int, size: tuple[int, int] = (64, 48)) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def put_picture(path: Path, seed: int, size: tuple[int, int] = (64, 48)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_image(picture(seed, size), path.suffix, {}))
    return path


def put_sound(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    wave = np.concatenate(
        [np.sin(np.arange(800) * rng.uniform(0.05, 1.0)) * rng.uniform(0.1, 0.9) for _ in range(6)]
    )
    path.write_bytes(encode_sound(wave[None].astype(np.float32), 8000, {}, path.suffix[1:]))
    return path


def put_music(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    n = 24
    piece = Piece.of(
        np.sort(rng.uniform(0, 16, n)), np.full(n, 0.5), rng.integers(40, 90, n), 70, np.zeros(n)
    )
    path.write_bytes(encode_midi(piece, {}))
    return path


def put_face(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    curves = np.random.default_rng(seed).uniform(0, 1, (4, 52)).repeat(10, axis=0)
    return write_csv(path, Motion(curves.astype(np.float32), np.zeros((40, 3), np.float32), 30))


def table(path: Path, rows: list[dict[str, Any]]) -> None:
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
        return
    with path.open("w", encoding="utf-8", newline="") as f:
        writer = csv.DictWriter(f, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def by_name(data: Dataset) -> dict[str, Any]:
    return {sample.name: sample for sample in data}


# Labels ------------------------------------------------------------------------------------------


def test_each_labelling_says_the_same_thing_its_own_way() -> None:
    said = [
        {"emotion": "sadness", "intensity": "0.6"},
        {"emotion": "grieving", "intensity": 0.6},
        {"emotion": "sadness .6"},
        {"intensities": {"sadness": 0.6}},
        {"votes": {"sad": 6}, "intensity": 0.6},
        {"votes": "sad;sad;sad", "intensity": 0.6},
    ]
    for row, label in zip(said, to_labels(said), strict=True):
        assert label is not None
        assert label.graded
        assert int(np.argmax(label.state)) == SADNESS, row
    first, *rest = to_labels([said[0], *said[2:]])
    for label in rest:
        assert label is not None
        assert first is not None
        np.testing.assert_allclose(label.state, first.state)
        assert label.state[SADNESS] == pytest.approx(0.6)


def test_votes_for_neutral_leave_mass_to_neutral() -> None:
    (label,) = to_labels([{"votes": {"anger": 3, "neutral": 1}, "intensity": 1.0}])
    assert label is not None
    assert label.state[ANGER] == pytest.approx(0.75)
    assert label.state.sum() == pytest.approx(0.75)


def test_an_ungraded_emotion_counts_as_usual_and_is_marked() -> None:
    (label,) = to_labels([{"emotion": "fear"}])
    assert label is not None
    assert not label.graded
    assert label.state[FEAR] == pytest.approx(0.7)
    (strong,) = to_labels([{"emotion": "fear"}], intensity=1.0)
    assert strong is not None
    assert strong.state[FEAR] == 1.0


@pytest.mark.parametrize(
    ("values", "declared", "expected"),
    [
        ([1, 3, 5], None, [1 / 5, 3 / 5, 1.0]),
        ([0, 3.5, 7], "0..7", [0.0, 0.5, 1.0]),
        ([10, 50, 90], None, [0.1, 0.5, 0.9]),
        (["LO", "MD", "HI"], None, [1 / 3, 2 / 3, 1.0]),
    ],
)
def test_intensities_on_any_scale(
    values: list[Any], declared: str | None, expected: list[float]
) -> None:
    told: list[str] = []
    rows = [{"emotion": "anger", "intensity": v} for v in values]
    scales = {} if declared is None else {"intensity": declared}
    found = to_labels(rows, scales=scales, tell=told.append)
    assert [f.state[ANGER] for f in found if f] == pytest.approx(expected)
    assert bool(told) == (declared is None and not isinstance(values[0], str))


def test_valence_and_arousal_on_nine_steps_become_a_state_and_stay() -> None:
    told: list[str] = []
    rows = [{"valence": 1.2, "arousal": 3.0}, {"valence": "8.6", "arousal": "7.5"}]
    sad, happy = to_labels(rows, tell=told.append)
    assert sad is not None
    assert happy is not None
    assert sad.vad == (pytest.approx(-0.95), pytest.approx(-0.5), None)
    assert int(np.argmax(sad.state)) in (SADNESS, CORE.index("boredom"))
    assert CORE[int(np.argmax(happy.state))] in ("happiness", "excitement", "love", "amusement")
    assert len(told) == 1
    assert "1..9" in told[0]


def test_one_column_per_emotion_is_read_as_what_its_sums_say() -> None:
    told: list[str] = []
    shares = [{"joy": 0.5, "anger": 0.5, "fear": 0}, {"joy": 0, "anger": 0, "fear": 1}]
    mixed, scared = to_labels(shares, intensity=1.0, tell=told.append)
    assert mixed is not None
    assert scared is not None
    assert "distribution" in told[0]
    assert mixed.state[HAPPINESS] == pytest.approx(0.5)
    assert scared.state[FEAR] == 1.0
    assert not scared.graded
    levels = [{"joy": 0.0, "anger": 3.5, "fear": 0}, {"joy": 7, "anger": 0, "fear": 0}]
    half, full = to_labels(levels, scales={"intensity": "0..7"})
    assert half is not None
    assert full is not None
    assert half.graded
    assert (half.state[ANGER], full.state[HAPPINESS]) == (0.5, 1.0)


def test_quadrants_hold_several_emotions() -> None:
    (q2,) = to_labels([{"emotion": "Q2"}], intensity=1.0)
    assert q2 is not None
    assert q2.state[ANGER] == q2.state[FEAR] == 0.5


@pytest.mark.parametrize(
    ("rows", "options", "says"),
    [
        ([{"emotion": "sadnes"}], {}, "sadness"),
        ([{"label": 3}], {}, '"3" (1)'),
        ([{"valence": "high", "arousal": 1}], {}, "no number"),
        ([{"valence": 500, "arousal": 1}], {}, "no usual scale; write it from 0 to 1"),
        ([{"valence": 5, "arousal": 1}], {"scales": {"valence": "1..4"}}, "declared 1..4"),
        ([{"valence": 5, "arousal": 1}], {"scales": {"valence": "four"}}, "low..high"),
        ([{"votes": {"sad": -1}}], {}, "0 or more"),
        ([{"votes": {"sad": 10**400}}], {}, "expected as"),
        ([{"valence": 10**400, "arousal": 1}], {}, "no number"),
        ([{"emotion": "a\nb\x1b[2J"}], {}, "a?b"),
        ([{"emotion": "fear"}], {"intensity": 2.0}, "above 0 to 1"),
    ],
)
def test_wrong_labels_are_one_line(
    rows: list[dict[str, Any]], options: dict[str, Any], says: str
) -> None:
    with pytest.raises(DataError, match=r"^[^\n]+$") as caught:
        to_labels(rows, **options)
    assert says in str(caught.value)


def test_own_class_names_are_mapped() -> None:
    a, b = to_labels(
        [{"label": 0}, {"label": "grumpy"}],
        labels={"0": "amusement", "Grumpy": "anger .6 + boredom .4"},
        intensity=1.0,
    )
    assert a is not None
    assert b is not None
    assert a.state[CORE.index("amusement")] == 1.0
    assert b.state[ANGER] == pytest.approx(0.6)


# Layouts -----------------------------------------------------------------------------------------

SOUNDS = {
    "emodb": ["03a01Fa.wav", "03a01Wa.wav", "16b10Nb.wav", "08a07Lc.wav"],
    "ravdess": [
        "Actor_01/03-01-05-01-01-01-01.wav", "Actor_01/03-01-05-02-02-01-01.wav",
        "Actor_12/03-01-02-01-01-02-12.wav", "Actor_12/03-01-01-01-01-02-12.wav",
    ],
    "crema-d": ["1001_DFA_ANG_HI.wav", "1001_IEO_SAD_LO.wav", "1002_IEO_NEU_XX.wav",
                "1091_WSI_FEA_XX.wav"],
    "esd": ["0011/Angry/train/0011_000351.wav", "0011/Sad/test/0011_001051.wav",
            "0011/Neutral/train/0011_000001.wav", "0012/Surprise/0012_001401.wav"],
}  # fmt: skip


def test_speech_sets_are_recognised_by_their_names(tmp_path: Path) -> None:
    seed = 0
    for layout, names in SOUNDS.items():
        root = tmp_path / layout
        for name in names:
            put_sound(root / name, seed := seed + 1)
        if layout == "esd":
            text = "0011_000351\tThe nine the eggs, I keep.\tAngry\n"
            (root / "0011" / "0011.txt").write_text(text, encoding="utf-8")
        data, report = read_folder(root, "voice", least=1)
        assert (data.layout, len(data)) == (layout, len(names)), report.text()
        assert report.unlabelled == 0
    found = by_name(read_folder(tmp_path / "emodb", "voice", least=1)[0])
    assert found["03a01Fa.wav"].emotion == "happiness"
    assert found["03a01Fa.wav"].caption == "Der Lappen liegt auf dem Eisschrank."
    assert [found[n].emotion for n in SOUNDS["emodb"][1:]] == ["anger", "neutral", "boredom"]
    assert found["03a01Fa.wav"].sentence == found["03a01Wa.wav"].sentence == "a01"
    assert (found["03a01Fa.wav"].group, found["16b10Nb.wav"].group) == ("03", "16")
    found = by_name(read_folder(tmp_path / "ravdess", "voice", least=1)[0])
    normal, strong = (found[n] for n in SOUNDS["ravdess"][:2])
    assert (normal.state[ANGER], strong.state[ANGER]) == (0.5, 1.0)
    assert normal.graded
    assert normal.group == "01"
    assert found[SOUNDS["ravdess"][2]].emotion == "contentment"  # calm
    assert found[SOUNDS["ravdess"][3]].state.sum() == 0  # neutral has no strength
    found = by_name(read_folder(tmp_path / "crema-d", "voice", least=1)[0])
    assert found["1001_IEO_SAD_LO.wav"].state[SADNESS] == pytest.approx(1 / 3)
    assert not found["1091_WSI_FEA_XX.wav"].graded
    found = by_name(read_folder(tmp_path / "esd", "voice", least=1)[0])
    assert found[SOUNDS["esd"][0]].caption == "The nine the eggs, I keep."
    assert found[SOUNDS["esd"][1]].split == "held"
    assert found[SOUNDS["esd"][3]].emotion == "surprise"


def test_music_sets_keep_songs_and_games_together(tmp_path: Path) -> None:
    for k, name in enumerate(("Q1_0vLPYiPN7qY_0", "Q1_0vLPYiPN7qY_1", "Q3_ilCcZpD39HU_0")):
        put_music(tmp_path / "emopia" / f"{name}.mid", k)
    data, _ = read_folder(tmp_path / "emopia", "music")
    assert data.layout == "emopia"
    assert [s.group for s in data] == ["0vLPYiPN7qY", "0vLPYiPN7qY", "ilCcZpD39HU"]
    assert [s.emotion for s in data] == ["happiness", "happiness", "sadness"]
    root = tmp_path / "vgmidi"
    rows = []
    for k, (v, a) in enumerate(((1, 1), (-1, 1), (-1, -1), (1, -1))):
        put_music(root / "labelled" / "phrases" / f"game_{k}_0.mid", 10 + k)
        rows.append({"id": k, "series": "s", "console": "N64", "game": f"g{k % 2}", "piece": k,
                     "midi": f"labelled/phrases/game_{k}_0.mid", "valence": v,
                     "arousal": a})  # fmt: skip
    table(root / "vgmidi_labelled.csv", rows)
    data, _ = read_folder(root, "music")
    assert data.layout == "vgmidi"
    assert [s.emotion for s in data] == ["happiness", "anger", "sadness", "contentment"]
    assert data[0].group == data[2].group != data[1].group


def test_emoset_is_read_from_its_lists(tmp_path: Path) -> None:
    for part, names in (("train", ("amusement", "fear")), ("val", ("awe",)), ("test", ("anger",))):
        rows = []
        for name in names:
            path = f"image/{name}/{name}_1.jpg"
            put_picture(tmp_path / path, len(name) + len(part) * 7)
            rows.append([name, f"{name}_1", path, path.replace("image", "annotation")])
        (tmp_path / f"{part}.json").write_text(json.dumps(rows), encoding="utf-8")
    data, _ = read_folder(tmp_path, "image", least=1)
    assert data.layout == "emoset"
    assert {s.emotion: s.split for s in data} == {
        "amusement": "train", "fear": "train", "awe": "held", "anger": "held",
    }  # fmt: skip


def test_emoart_is_read_from_its_annotations(tmp_path: Path) -> None:
    rows = []
    for k, emotion in enumerate(("Calm", "Alarmed", "Sad")):
        put_picture(tmp_path / "Images" / "Cubism" / f"{k}.jpg", 50 + k)
        told = {
            "first_section": {"description": f"scene {k}"},
            "second_section": {},
            "third_section": {"dominant_emotion": emotion},
        }
        rows.append({"image_path": f"Images\\Cubism\\{k}.jpg", "description": told})
    (tmp_path / "Images" / "annotation_5k.json").write_text(json.dumps(rows), encoding="utf-8")
    data, _ = read_folder(tmp_path, "image", least=1)
    assert data.layout == "emoart"
    assert [s.emotion for s in data] == ["contentment", "fear", "sadness"]
    assert data[1].caption == "scene 1"


def test_fi_and_class_folders(tmp_path: Path) -> None:
    for k, name in enumerate(("anger", "awe", "sadness")):
        put_picture(tmp_path / name / f"{k}.jpg", 60 + k)
    for layout in ("fi", "auto"):
        data, _ = read_folder(tmp_path, "image", layout, least=1)
        assert [s.emotion for s in data] == ["anger", "awe", "sadness"]
    assert data.layout == "folders"


def test_takes_of_curves_are_labelled_by_their_names(tmp_path: Path) -> None:
    put_face(tmp_path / "ann" / "hello_anger.csv", 1)
    put_face(tmp_path / "ann" / "hello_neutral.csv", 2)
    data, report = read_folder(tmp_path, "portrait")
    assert (data.layout, [s.emotion for s in data]) == ("takes", ["anger", "neutral"])
    assert {s.group for s in data} == {"ann"}
    assert report.seconds == pytest.approx(2 * 40 / 30, abs=0.1)


def test_every_pattern_names_its_source() -> None:
    assert all(p.source and p.name in LAYOUTS for p in PATTERNS)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_metadata_tables(tmp_path: Path, suffix: str) -> None:
    rows = []
    for k in range(6):
        put_picture(tmp_path / "img" / f"{k}.png", 70 + k)
        rows.append({"file_name": f"img/{k}.png", "text": f"a lake, {k}", "emotion": "sadness",
                     "intensity": (k + 1) / 6, "artist": f"a{k // 2}",
                     "split": "test" if k > 3 else "train"})  # fmt: skip
    table(tmp_path / f"metadata{suffix}", rows)
    data, report = read_folder(tmp_path, "image", least=1)
    assert data.layout == "metadata"
    np.testing.assert_allclose(data.states[:, SADNESS], np.arange(1, 7) / 6, atol=1e-9)
    np.testing.assert_allclose(data.labels.sum(axis=1), 1.0)
    assert [s.split for s in data] == ["train"] * 4 + ["held"] * 2
    assert data[0].caption == "a lake, 0"
    assert data[0].group == "a0"
    assert (report.captions, report.graded, report.torn) == (6, 6, ())


# Reading a folder --------------------------------------------------------------------------------


def plain_folder(root: Path, count: int = 12) -> Path:
    for k in range(count):
        name = ("anger", "sadness", "neutral")[k % 3]
        put_picture(root / name / f"{k}.png", 100 + k)
        (root / name / f"{k}.txt").write_text(f"picture\n{k}", encoding="utf-8")
    return root


def test_a_folder_with_captions_beside_its_pictures(tmp_path: Path) -> None:
    data, report = read_folder(plain_folder(tmp_path), "image")
    assert len(data) == 12
    assert report.captions == 12
    assert data[0].caption.startswith("picture ")
    assert (data[0].width, data[0].height) == (64, 48)
    assert report.classes == {"neutral": 4, "anger": 4, "sadness": 4}
    assert 0 < len(data.of("held")) < 6
    assert len(data.of("train")) + len(data.of("held")) == 12
    assert {s.emotion for s in data.about(["anger"])} == {"anger", "neutral"}
    assert json.loads(json.dumps(report.to_json()))["samples"] == 12


def test_the_split_does_not_move_when_files_are_added(tmp_path: Path) -> None:
    few = read_folder(plain_folder(tmp_path, 40), "image", held=0.2)[0]
    more = read_folder(plain_folder(tmp_path, 60), "image", held=0.2)[0]
    splits = {s.name: s.split for s in more}
    assert all(splits[s.name] == s.split for s in few)
    assert few.digest != more.digest


def test_duplicates_are_told_and_stay_on_one_side(tmp_path: Path) -> None:
    plain_folder(tmp_path, 24)
    original = tmp_path / "anger" / "0.png"
    (tmp_path / "sadness" / "same.png").write_bytes(original.read_bytes())
    near = picture(100).resize((96, 72)).point(lambda x: min(255, int(x * 1.05)))
    (tmp_path / "anger" / "near.jpg").write_bytes(encode_image(near, "jpg", {}))
    data, report = read_folder(tmp_path, "image")
    found = by_name(data)
    assert report.exact == (("anger/0.png", "sadness/same.png"),)
    assert {"anger/0.png", "anger/near.jpg"} in [set(pair) for pair in report.near]
    assert ("anger/0.png", "sadness/same.png") in report.disagree
    assert len({found[n].group for n in ("anger/0.png", "sadness/same.png", "anger/near.jpg")}) == 1
    assert "labelled differently" in report.text()


def test_strangers_are_no_near_duplicates(tmp_path: Path) -> None:
    sounds = [probe(put_sound(tmp_path / f"{k}.wav", k), "voice") for k in range(12)]
    faces = [probe(put_face(tmp_path / f"{k}.csv", k), "portrait") for k in range(8)]
    music = [probe(put_music(tmp_path / f"{k}.mid", k), "music") for k in range(12)]
    for probes in (sounds, faces, music):
        assert near_pairs(probes) == []


def test_the_same_sound_in_another_format_is_found(tmp_path: Path) -> None:
    wave = probe(put_sound(tmp_path / "a.wav", 3), "voice")
    coded = probe(put_sound(tmp_path / "a.mp3", 3), "voice")
    assert wave.sha256 != coded.sha256
    assert near_pairs([wave, coded]) == [(0, 1)]


def test_damaged_files_are_left_out_and_told(tmp_path: Path) -> None:
    plain_folder(tmp_path)
    (tmp_path / "anger" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    (tmp_path / "anger" / "text.jpg").write_text("hello", encoding="utf-8")
    with (tmp_path / "anger" / "vast.png").open("wb") as f:
        f.truncate(21 << 20)
    data, report = read_folder(tmp_path, "image")
    assert len(data) == 12
    assert [name for name, _ in report.broken] == [
        "anger/bad.png", "anger/text.jpg", "anger/vast.png",
    ]  # fmt: skip
    assert "20 MB" in report.broken[2][1]
    assert "3 files are left out" in report.text()
    assert str(tmp_path) not in report.text()


def test_an_index_spares_decoding_again_and_survives_damage(tmp_path: Path) -> None:
    root, index = plain_folder(tmp_path / "data"), tmp_path / "probes.json"
    first = read_folder(root, "image", index=index)[0]
    kept = index.read_text(encoding="utf-8")
    # What is remembered is used: a hash changed there is the hash of the sample.
    index.write_text(kept.replace(first[0].sha256, "0" * 64), encoding="utf-8")
    assert read_folder(root, "image", index=index)[0][0].sha256 == "0" * 64
    index.write_text(kept[: len(kept) // 2], encoding="utf-8")
    assert read_folder(root, "image", index=index)[0].digest == first.digest
    put_picture(root / "anger" / "0.png", 999)
    assert read_folder(root, "image", index=index)[0][0].sha256 != first[0].sha256


def test_a_declared_split_that_tears_a_speaker_apart_is_told(tmp_path: Path) -> None:
    rows = []
    for k in range(4):
        put_sound(tmp_path / f"{k}.wav", k)
        rows.append({"file_name": f"{k}.wav", "emotion": "anger", "speaker": "ann",
                     "split": "train" if k else "test"})  # fmt: skip
    table(tmp_path / "metadata.csv", rows)
    report = read_folder(tmp_path, "voice", least=1)[1]
    assert report.torn == ("ann",)
    assert "on both sides" in report.text()


def test_pictures_without_labels_are_read_and_told(tmp_path: Path) -> None:
    for k in range(8):
        put_picture(tmp_path / f"{k}.png", k)
    data, report = read_folder(tmp_path, "image")
    assert (data.layout, report.unlabelled, report.classes) == ("plain", 8, {})
    assert not data.states.any()
    assert not data[0].labelled
    assert "cannot be learned" in report.text()


def test_linked_folders_are_read_and_loops_end(tmp_path: Path) -> None:
    plain_folder(tmp_path / "far")
    root = tmp_path / "near"
    (root / "data").mkdir(parents=True)
    (root / "data" / "all").symlink_to(tmp_path / "far")
    (root / "data" / "loop").symlink_to(root)
    put_picture(root / ".hidden" / "anger" / "x.png", 1)
    assert len(read_folder(root, "image")[0]) == 12


@pytest.mark.parametrize("kind", ["none", "empty", "other", "three", "broken", "class", "modality",
                                  "layout", "held", "outside", "long", "dot", "absent", "json",
                                  "split", "pattern"])  # fmt: skip
def test_bad_folders_are_one_line(tmp_path: Path, kind: str) -> None:
    root, modality, options = tmp_path / "d", "image", {}
    root.mkdir()
    says = {
        "none": "is no folder", "empty": "0 files", "other": "2 .wav", "three": "8 or more",
        "broken": "damaged", "class": "nearest known", "modality": "allowed image",
        "layout": "is not known", "held": "0 to 0.5", "outside": "outside the folder",
        "long": "too long", "dot": "outside the folder",
        "absent": "is missing", "json": "line 2", "split": "split", "pattern": "none of",
    }[kind]  # fmt: skip
    if kind == "none":
        root = tmp_path / "nowhere"
    elif kind == "other":
        for k in range(2):
            put_sound(root / f"{k}.wav", k)
    elif kind == "three":
        for k in range(3):
            put_picture(root / f"{k}.png", k)
    elif kind == "broken":
        for k in range(9):
            (root / f"{k}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    elif kind == "class":
        put_picture(root / "anger" / "0.png", 0)
        put_picture(root / "grumbly" / "1.png", 1)
    elif kind == "modality":
        modality = "video"
    elif kind == "layout":
        put_picture(root / "0.png", 0)
        options = {"layout": "imagenet"}
    elif kind == "held":
        options = {"held": 0.9}
    elif kind == "pattern":
        put_sound(root / "hello.wav", 0)
        modality, options = "voice", {"layout": "ravdess"}
    elif kind != "empty":
        put_picture(root / "0.png", 0)
        row = {
            "outside": {"file_name": "../secret.png"},
            "long": {"file_name": "9" * 5000},
            "dot": {"file_name": "."},
            "absent": {"file_name": "1.png"},
            "split": {"file_name": "0.png", "split": "maybe"},
        }.get(kind, {"file_name": "0.png"})
        text = json.dumps(row) + ("\nnonsense" if kind == "json" else "")
        (root / "metadata.jsonl").write_text(text, encoding="utf-8")
        options = {"least": 1}
    with pytest.raises(DataError, match=r"^[^\n]+$") as caught:
        read_folder(root, modality, **options)
    assert says in str(caught.value), str(caught.value)


# Label noise -------------------------------------------------------------------------------------


def test_confident_learning_finds_the_labels_that_were_swapped(tmp_path: Path) -> None:
    data, report = read_folder(plain_folder(tmp_path, 36), "image")
    rng = np.random.default_rng(0)
    truth = np.array([["neutral", *CORE].index(s.emotion) for s in data])
    swapped = {2, 9, 20}
    for k in swapped:
        truth[k] = ["neutral", *CORE].index("anger" if data[k].emotion != "anger" else "sadness")
    p = rng.uniform(0, 0.005, (len(data), 13))
    p[np.arange(len(data)), truth] += rng.uniform(0.95, 1.05, len(data))
    p[5] = 1.0  # a critic that does not know is no evidence
    p /= p.sum(axis=1, keepdims=True)
    noise = label_noise(data.samples, p)
    assert {name for name, *_ in noise.suspects} == {data[k].name for k in swapped}
    assert noise.share == pytest.approx(3 / 36, abs=1e-3)
    told = replace(report, noise=noise)
    assert isinstance(told, Report)
    assert "doubts 3 of 36" in told.text()
    with pytest.raises(DataError, match="13"):
        label_noise(data.samples, p[:, :5])


# Contact sheets ----------------------------------------------------------------------------------


def test_sheets_show_every_modality(tmp_path: Path) -> None:
    plain_folder(tmp_path / "image")
    for k in range(3):
        put_sound(tmp_path / "voice" / f"ü{k}_anger.wav", k)
        put_music(tmp_path / "music" / f"{k}.mid", k)
        put_face(tmp_path / "portrait" / f"{k}_fear.csv", k)
    for modality in ("image", "voice", "music", "portrait"):
        data, _ = read_folder(tmp_path / modality, modality, least=1)
        sheet = data.sheet(8)
        assert sheet.width > sheet.height
        pixels = np.asarray(sheet.convert("L"))[14:170, 14:170]  # inside of the first cell
        assert pixels.std() > 10, modality
