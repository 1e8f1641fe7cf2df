"""Labels: soft labels, splits and licences, on a made-up folder of a few rows."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from adapters.emotion import CORE, VAD
from training import labels

OASIS = ["path", "valence", "arousal", "caption", "theme", "category", "licence"]
PAINT = ["path", "label", "caption", "caption_short", "pseudo_valence", "pseudo_arousal"]
DRAWN = ["path", "emotion", "valence", "arousal", "caption", "name"]


def _write(folder: Path, columns: list[str], rows: list[list[object]]) -> None:
    folder.mkdir(parents=True)
    with (folder / "labels.csv").open("w", newline="") as f:
        writer = csv.writer(f)
        writer.writerow(columns)
        writer.writerows(rows)


def _painting(i: int, phrase: str, tail: str, label: str = "sea", v: float = 0, a: float = 0):
    short = f"a romantic painting of {phrase}"
    return [f"img/{i}.jpg", label, f"{short}, {tail}", short, v, a]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    cc0, other = "Pixabay (CC0 at collection time)", "CC (Flickr, per OASIS)"
    _write(
        tmp_path / "oasis",
        OASIS,
        [
            ["img/a.jpg", 0.7, -0.4, "a photo of a lake", "Lake 3", "Scenery", cc0],
            ["img/b.jpg", -0.7, 0.2, "a photo of a snake", "Snake 1", "Animal", cc0],
            ["img/c.jpg", -0.6, -0.3, "a photo of garbage", "Garbage dump 2", "Scenery", other],
            ["img/d.jpg", 0.6, 0.1, "a photo of people", "Wedding 1", "Person", cc0],
        ],
    )
    _write(
        tmp_path / "paintings",
        PAINT,
        [
            _painting(0, "a stormy sea with waves and a ship", "very dark", v=-0.4, a=0.5),
            _painting(1, "ships on a calm sea", "bright, blue tones", v=0.4, a=-0.5),
            _painting(2, "a sunny garden with trees", "bright, yellow tones", "garden"),
            _painting(3, "a dark stormy landscape", "red tones", "mood"),
            _painting(4, "a dark stormy landscape", "soft low contrast", "mood"),
            _painting(5, "a portrait of a person", "brown tones", "portrait"),
        ],
    )
    _write(
        tmp_path / "emoji_faces",
        DRAWN,
        [
            ["img/x1.png", "anger", -0.7, 0.6, "angry face", "angry face"],
            ["img/x2.png", "anger", -0.7, 0.6, "angry face, 3d", "angry face"],
            ["img/x3.png", "neutral", 0, -0.1, "neutral face", "neutral face"],
        ],
    )
    return tmp_path


def test_table_names_every_kind_and_only_known_emotions():
    table = labels.table()
    assert len(table["oasis"]) == 224
    assert len(table["paintings"]) == 55
    assert set(table["flowers"]) == {"daisy", "dandelion", "roses", "sunflowers", "tulips"}


def test_soft_labels_are_distributions_and_sensible(data: Path):
    rows = labels.load_rows(data, ["oasis", "paintings", "emoji"])
    soft = np.stack([r.soft for r in rows])
    assert soft.shape == (13, 13)
    assert np.allclose(soft.sum(1), 1)
    assert soft.min() >= -1e-12
    top = {r.path.name: r.top for r in rows}
    assert top["a.jpg"] in ("contentment", "awe")
    assert top["b.jpg"] == "fear"
    assert top["c.jpg"] == "disgust"
    assert top["d.jpg"] == "love"
    assert top["0.jpg"] == "fear"
    assert top["1.jpg"] == "contentment"
    assert top["2.jpg"] == "happiness"
    neutral = next(r for r in rows if r.path.name == "x3.png")
    assert neutral.soft[0] > 0.8


def test_light_words_move_the_label_but_scene_words_are_not_light(data: Path):
    rows = {r.path.name: r for r in labels.load_rows(data, ["paintings"])}
    anger = 1 + CORE.index("anger")
    assert rows["3.jpg"].soft[anger] > 1.5 * rows["4.jpg"].soft[anger]
    p = labels.prior({"fear": 1.0})
    scene = "a dark stormy landscape"
    assert np.allclose(labels.light(p, f"a romantic painting of {scene}", scene), p)


def test_ratings_on_an_anchor_give_that_anchor():
    flat = np.full(13, 1 / 13)
    for name in ("contentment", "sadness", "boredom", "awe"):
        k = CORE.index(name)
        soft = labels.soft_label(flat, *VAD[k, :2], sigma=(0.1, 0.1))
        assert int(np.argmax(soft[1:])) == k
    assert labels.soft_label(flat, 0.0, 0.0, sigma=(0.1, 0.1))[0] > 0.5


def test_intensity_grows_along_an_anchor():
    p = labels.prior({"sadness": 1.0, "neutral": 0.3})
    v, a = VAD[CORE.index("sadness"), :2]
    reads = [1 - labels.soft_label(p, u * v, u * a, (0.3, 0.3))[0] for u in (0.1, 0.5, 1.0)]
    assert reads[0] < reads[1] < reads[2]


def test_splits_and_licences(data: Path):
    rows = {r.path.name: r for r in labels.load_rows(data, ["oasis", "paintings", "emoji"])}
    assert rows["c.jpg"].split == "test"
    assert not rows["c.jpg"].licence_ok_to_ship
    assert rows["a.jpg"].licence_ok_to_ship
    assert rows["x1.png"].split == rows["x2.png"].split
    assert rows["0.jpg"].painter_ok
    assert not rows["5.jpg"].painter_ok
    assert not rows["d.jpg"].painter_ok
    assert rows["a.jpg"].human
    assert not rows["0.jpg"].human


def test_split_shares_and_stability():
    kinds = [labels.split_of("paintings", f"img/{i}.jpg") for i in range(4000)]
    assert kinds == [labels.split_of("paintings", f"img/{i}.jpg") for i in range(4000)]
    share = {k: kinds.count(k) / 4000 for k in labels.SPLITS}
    assert abs(share["test"] - 0.10) < 0.02
    assert abs(share["train_A"] - 0.45) < 0.03


def test_ranks_within_groups():
    got = labels.ranks(np.array([3.0, 1.0, 2.0, 5.0, 9.0, 7.0]), "aaabbc")
    assert got.tolist() == [1.0, -1.0, 0.0, -1.0, 1.0, 0.0]


def test_errors_name_what_is_wrong(data: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="not a picture set"):
        labels.load_rows(data, ["flickr"])
    with pytest.raises(ValueError, match="is missing"):
        labels.load_rows(tmp_path / "nowhere", ["oasis"])
    (data / "oasis" / "labels.csv").write_text("path,theme\nx.jpg,Lake 1\n")
    with pytest.raises(ValueError, match="no usable column"):
        labels.load_rows(data, ["oasis"])
