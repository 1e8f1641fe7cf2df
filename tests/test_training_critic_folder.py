"""A critic from a labelled folder: what it refuses, how groups are left out, what is written."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adapters.critic import load_critic
from adapters.face_motion import ARKIT, Motion, write_csv
from adapters.motion_critic import load_portrait_critic
from adapters.music_critic import load_music_critic
from adapters.piece import Piece
from adapters.voice_critic import load_voice_critic
from pipelines.media import encode_image
from pipelines.media_midi import encode_midi
from pipelines.media_sound import encode_sound
from studio.cli import run
from tests.test_training_full_disk import room
from training.config_critic import Critic
from training.critic_folder import CriticError, dealt, figures_of, groups_of, train_critic, usable
from training.folder import Dataset, read_folder
from training.intervals import over_groups


def put_piece(path: Path, lively: bool, pleasant: bool, seed: int) -> None:
    """Fast, loud and high against slow, soft and low; major against minor chords."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    step = (0.25 if lively else 1.0) * rng.uniform(0.9, 1.1)
    onset = np.arange(0, 24, step)
    third = 4 if pleasant else 3
    scale = np.array([0, third, 7, 12, 0, 5, 5 + third, 12])
    root = 60 + 7 * lively + int(rng.integers(-3, 4))
    pitch = root + rng.choice(scale, len(onset))
    loud = np.clip((95 if lively else 45) + rng.normal(0, 6, len(onset)), 20, 120).astype(int)
    chords = np.arange(0, 24, 4.0)
    pitch = np.concatenate([pitch, *(np.full(len(chords), root - 12 + k) for k in (0, third, 7))])
    onset = np.concatenate([onset, chords, chords, chords])
    loud = np.concatenate([loud, np.full(3 * len(chords), 50)])
    held = np.concatenate(
        [np.full(len(onset) - 3 * len(chords), step), np.full(3 * len(chords), 3)]
    )
    order = np.lexsort((pitch, onset))
    piece = Piece.of(onset[order], held[order], pitch[order], loud[order], np.zeros(len(onset)))
    path.write_bytes(encode_midi(piece, {}))


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pieces")
    corners = {"happiness": (1, 1), "anger": (1, 0), "sadness": (0, 0), "contentment": (0, 1)}
    for name, (lively, pleasant) in corners.items():
        for k in range(8):
            put_piece(root / name / f"{k}.mid", bool(lively), bool(pleasant), k)
    return root


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("faces")
    moved = {
        "happiness": ("mouthSmile", "cheekSquint", "mouthDimple"),
        "anger": ("browDown", "noseSneer", "mouthPress"),
        "neutral": (),
    }
    for name, channels in moved.items():
        for k in range(5):
            rng = np.random.default_rng([k, len(name)])
            curves = np.zeros((45, 52), np.float32)
            for channel in channels:
                for side in ("Left", "Right"):
                    level = 0.5 + 0.1 * rng.normal() + 0.05 * rng.normal(size=45)
                    curves[:, ARKIT.index(channel + side)] = level.clip(0, 1)
            (root / name).mkdir(exist_ok=True)
            curves[:, ARKIT.index("jawOpen")] = rng.uniform(0, 0.4, 45)
            write_csv(root / name / f"{k}.csv", Motion(curves, np.zeros((45, 3), np.float32), 30))
    return root


def put_voice(path: Path, pitch: float, seed: int) -> None:
    """A sung vowel that gets louder and softer, as syllables do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    t = np.arange(int(16000 * 0.9)) / 16000
    f0 = pitch * (1 + 0.05 * np.sin(2 * np.pi * 3 * t)) * rng.uniform(0.95, 1.05)
    phase = 2 * np.pi * np.cumsum(f0) / 16000
    tone = sum(np.sin(k * phase) / k for k in range(1, 12))
    wave = 0.15 * tone * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * t)) + 0.002 * rng.normal(size=len(t))
    path.write_bytes(encode_sound(wave[None].astype(np.float32), 16000, {}, "wav"))


@pytest.fixture(scope="module")
def voices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("voices")
    rows = []
    for k, (name, pitch) in enumerate(
        (name, pitch) for name, pitch in (("neutral", 110), ("anger", 230)) for _ in range(6)
    ):
        put_voice(root / f"{k}.wav", pitch, k)
        rows.append({"file_name": f"{k}.wav", "emotion": name, "speaker": f"s{k % 3}"})
    (root / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return root


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    for name, light in (("contentment", 200), ("fear", 30)):
        (root / name).mkdir()
        for k in range(6):
            rng = np.random.default_rng([k, light])
            noise = np.clip(light + rng.normal(0, 40, (6, 6, 3)), 0, 255).astype(np.uint8)
            picture = Image.fromarray(noise).resize((64, 64), Image.Resampling.BICUBIC)
            (root / name / f"{k}.png").write_bytes(encode_image(picture, "png", {}))
    return root


def trained(
    modality: str, data: Path, out: Path, capsys: pytest.CaptureFixture[str], *more: str
) -> dict:
    assert run(["train", "critic", "--modality", modality, "--data", str(data), "--out", str(out),
                "--folds", "3", "--effort", "0.02", *more]) == 0  # fmt: skip
    said = capsys.readouterr()
    assert said.out == f"{out}\n"
    assert "each read by a fit without its group" in said.err
    assert not list(out.glob(".work*"))
    assert (out / "config.toml").is_file()
    assert "## Held-out figures" in (out / "README.md").read_text()
    return json.loads((out / "figures.json").read_text())


def test_music_is_told_apart_and_shuffled_labels_are_not(
    pieces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = trained("music", pieces, tmp_path / "ours", capsys)
    assert found["kinds"] == {"happiness": 8, "contentment": 8, "anger": 8, "sadness": 8}
    assert found["chance"] == 0.25
    assert found["balanced"][1] > 0.4
    assert found["arousal_pearson"][0] > 0.8
    assert found["control_balanced"][0] < found["balanced"][0] - 0.2
    critic = load_music_critic(tmp_path / "ours")
    assert (critic.name, critic.digest) == ("ours", found["digest"])
    again = tmp_path / "again"
    data = read_folder(pieces, "music", held=0)[0]
    given = Critic(folds=3, effort=0.02, control=False)
    assert train_critic(data, "music", given, again)["digest"] == found["digest"]
    with pytest.raises(CriticError, match="holds something already"):
        train_critic(data, "music", given, again)


def test_faces_are_told_apart(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = trained("motion", faces, tmp_path / "ours", capsys, "--no-control")
    assert found["balanced"][0] > 0.9
    critic = load_portrait_critic(tmp_path / "ours")
    assert critic.digest == found["digest"]
    assert float(critic.temperature) != 1.0


def test_voices_with_two_of_the_seven_emotions(
    voices: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = trained("voice", voices, tmp_path / "ours", capsys, "--no-control", "--sessions", "0")
    assert found["groups"] == 3
    critic = load_voice_critic(tmp_path / "ours")
    assert critic.digest == found["digest"]
    wave = np.sin(2 * np.pi * 150 * np.arange(16000) / 16000).astype(np.float32)
    shares = critic.classes([0.3 * wave])[0]
    assert shares[2:].max() < 1e-4  # what nobody has shown it is never its answer
    assert all(np.isfinite(r.probabilities).all() for r in critic.read([0.3 * wave]))


def test_pictures_begin_with_the_embedded_critic(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = trained("image", photos, tmp_path / "ours", capsys, "--no-control")
    assert found["begin"] == "critic-image"
    critic = load_critic(tmp_path / "ours")
    assert (critic.name, critic.digest) == ("ours", found["digest"])
    reading = critic.read([Image.new("RGB", (64, 64), (20, 20, 30))])[0]
    assert np.isfinite([*reading.probabilities, *reading.vad_variance, *reading.intensities]).all()


@pytest.mark.parametrize("modality", ["image", "motion", "music"])
def test_a_disk_that_is_full_leaves_no_half_of_a_critic(
    modality: str,
    photos: Path,
    faces: Path,
    pieces: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was measured is kept, and the same command ends what the full disk stopped."""
    monkeypatch.setattr(logging, "raiseExceptions", False)
    out = tmp_path / "ours"
    data = {"image": photos, "motion": faces, "music": pieces}[modality]
    command = ["train", "critic", "--modality", modality, "--data", str(data), "--out", str(out),
               "--folds", "3", "--effort", "0.01", "--no-control"]  # fmt: skip
    # Folds fit, the critic does not: its weights are the largest file of all but of music.
    most = {"image": 3_000_000, "motion": 20_000, "music": 1000}[modality]
    with room(most):
        assert run(command) == 2
    said = capsys.readouterr()
    assert "cannot be written" in said.err or "File too large" in said.err
    assert "Traceback" not in said.err
    assert not (out / "config.json").exists()
    assert run(command) == 0
    assert (out / "config.json").is_file()


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"a": 9}, "a is no emotion|none of the 9 files|labelled"),
        ({"sadness": 9}, "shows sadness 9; a critic needs 2 kinds"),
        ({"sadness": 8, "anger": 3}, "shows sadness 8, anger 3; a critic needs 2 kinds"),
        ({"sadness": 2}, "8 or more are needed"),
        ({}, "is no folder|holds 0 files"),
    ],
)
def test_bad_folders_are_one_line(
    files: dict[str, int], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "photos"
    for name, count in files.items():
        (root / name).mkdir(parents=True)
        for k in range(count):
            rng = np.random.default_rng([k, len(name)])
            noise = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            picture = Image.fromarray(noise).resize((64, 48), Image.Resampling.BICUBIC)
            (root / name / f"{k}.png").write_bytes(encode_image(picture, "png", {}))
    assert run(["train", "critic", "--data", str(root), "--out", str(tmp_path / "o")]) == 2
    said = capsys.readouterr()
    assert re.search(told, said.err)
    assert "Traceback" not in said.err
    assert said.out == ""
    assert not (tmp_path / "o").exists()


def test_wrong_words_are_one_line(
    capsys: pytest.CaptureFixture[str], photos: Path, tmp_path: Path
) -> None:
    for more, told in (
        (["--modality", "smell"], "modality: allowed image, voice, music, motion"),
        (["--data", ""], "data: none given"),
        (["--data", str(photos), "--begin", "nobody"], "begin: nobody is no critic of pictures"),
    ):
        assert run(["train", "critic", "--out", str(tmp_path / "o"), *more]) == 2
        assert told in capsys.readouterr().err


def test_voices_need_neutral_speech(tmp_path: Path) -> None:
    for k in range(10):
        put_voice(tmp_path / f"{k}_{('anger', 'sadness')[k % 2]}.wav", 120 + 9 * k, k)
    data = read_folder(tmp_path, "voice", held=0)[0]
    with pytest.raises(CriticError, match="add 4 or more neutral takes"):
        usable(data, "voice", lambda line: None)


def test_a_dry_run_trains_nothing(
    pieces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["train", "critic", "--modality", "music", "--data", str(pieces), "--dry-run",
                "--out", str(tmp_path / "o")]) == 0  # fmt: skip
    said = capsys.readouterr()
    assert "32 files in" in said.err
    assert 'modality = "music"' in said.out
    assert not (tmp_path / "o").exists()


def test_groups_are_never_torn_apart_and_kinds_are_spread() -> None:
    groups = [f"g{k // 3}" for k in range(60)]
    kinds = [("anger", "neutral")[k // 3 % 2] for k in range(60)]
    parts = dealt(groups, kinds, 5, seed=0)
    assert sorted(i for part in parts for i in part) == list(range(60))
    for part in parts:
        inside = {groups[i] for i in part}
        assert all(i in part for i, g in enumerate(groups) if g in inside)
        assert {kinds[i] for i in part} == {"anger", "neutral"}
    assert dealt(groups, kinds, 5, seed=0) == parts
    assert len(dealt(["a", "b"], ["x", "y"], 5, seed=0)) == 2


def test_a_rare_kind_is_never_all_in_one_fold() -> None:
    """A fit without any neutral speech would have no voice to hear others against."""
    groups = [f"g{k // 6:02}" for k in range(60)]
    kinds = ["anger"] * 60
    for group, rare in ((0, "neutral"), (1, "neutral"), (4, "awe"), (7, "awe")):
        for k in range(2):
            kinds[6 * group + k] = rare
    for folds in (2, 3, 5):
        for seed in range(8):
            for part in dealt(groups, kinds, folds, seed):
                assert {kinds[i] for i in set(range(60)) - set(part)} == set(kinds)


def test_one_speaker_is_left_out_by_sentences_or_files(voices: Path) -> None:
    data = read_folder(voices, "voice", held=0)[0]
    said: list[str] = []
    assert set(groups_of(data, said.append)) == {"s0", "s1", "s2"}
    assert not said
    one = Dataset(data.root, "voice", "metadata", tuple(replace(s, group="me") for s in data))
    assert len(set(groups_of(one, said.append))) == len(one)
    assert "hold for these groups alone" in said[0]
    first, second, *others = one.samples
    copied = replace(one, samples=(first, replace(second, sha256=first.sha256), *others))
    groups = groups_of(copied, said.append)
    assert groups[0] == groups[1]  # a copy in another fold would have been learned
    assert len(set(groups)) == len(one) - 1


def test_intervals_know_groups() -> None:
    x = np.repeat([0.0, 1.0, 0.0, 1.0, 0.0, 1.0], 50)
    groups = np.repeat(np.arange(6), 50)
    value, low, high = over_groups(np.mean, groups.tolist(), x)
    assert value == 0.5
    assert high - low > 0.4  # as if six, not three hundred
    _, low, high = over_groups(np.mean, list(range(300)), x)
    assert high - low < 0.2
    _, low, high = over_groups(np.mean, [0] * 300, x)
    assert low < 0.5 < high
    # Few groups of one member: kept as they are they would be as good as certain.
    _, low, high = over_groups(np.mean, ["a", "b", "c"], [0.1, 0.5, 0.9])
    assert high - low > 0.4


def test_figures_of_a_perfect_and_a_useless_critic(pieces: Path) -> None:
    data = read_folder(pieces, "music", held=0)[0]
    p = data.labels / data.labels.sum(axis=1, keepdims=True)
    affect = np.zeros((len(data), 2))
    found = figures_of(
        p, affect, list(data), [s.group for s in data], (np.full_like(p, 1 / 13), affect)
    )
    assert found["accuracy"] == (1.0, 1.0, 1.0)
    assert found["control_balanced"][0] == 0.25
    assert found["valence_pearson"][0] == 0
