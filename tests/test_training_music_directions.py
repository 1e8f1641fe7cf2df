"""The recipe of the music directions, on songs whose answer is known."""

from __future__ import annotations

import csv
import json
import re
import tarfile

import numpy as np
import pytest
import symusic

from adapters.emotion import CORE, VAD
from adapters.music_attributes import ATTRIBUTES, measure
from adapters.music_emotion import MusicDirections
from training.music_directions import (
    BOUND,
    CUES,
    PLAYED,
    QUADRANTS,
    Songs,
    centres,
    combine,
    cue_rows,
    directions,
    distances,
    fit,
    frame,
    heard,
    heard_at,
    lines,
    main,
    recorded,
    songs,
)

TABLE = json.loads(CUES.read_text(encoding="utf-8"))
WIDTH = len(ATTRIBUTES)
MODE, VELOCITY, TEMPO = (ATTRIBUTES.index(n) for n in ("mode", "velocity", "tempo"))


def test_every_emotion_says_what_is_heard_and_where_that_comes_from() -> None:
    assert set(TABLE["emotions"]) == set(CORE)
    assert set(TABLE["step"]["values"]) == set(ATTRIBUTES) - {BOUND}
    for row in TABLE["emotions"].values():
        assert re.fullmatch(r"[A-Z][^.]{40,}\.", row["hear"])
        assert set(row["sources"]) <= set(TABLE["sources"])
        assert set(row["cues"]) <= set(ATTRIBUTES)
        assert all(0 < abs(size) <= 3 for size in row["cues"].values())


def test_a_song_and_an_annotator_count_once() -> None:
    # Annotator A gave 40 clips of two songs, B one clip of one song.
    rows = [
        {"path": f"emopia/{i}.mid", "quadrant": "Q1", "group": f"s{i % 2}", "annotator": "A"}
        for i in range(40)
    ]
    rows.append({"path": "emopia/x.mid", "quadrant": "Q1", "group": "s9", "annotator": "B"})
    values = np.zeros((41, WIDTH))
    values[1:40:2] = 2.0
    values[40] = 7.0
    values[0, 0] = np.nan
    found = songs(rows, values)
    assert sorted(found.values[:, 1]) == [0.0, 2.0, 7.0]
    assert np.isfinite(found.values).all()
    assert np.average(found.values[:, 1], weights=found.weights) == pytest.approx((1 + 7) / 2)


def test_pieces_without_annotators_are_songs_by_name() -> None:
    rows = [
        {"path": f"vgmidi/Game_Tune_{i}.mid", "quadrant": "Q2", "group": "Game", "annotator": ""}
        for i in range(3)
    ] + [{"path": "vgmidi/Game_Air_0.mid", "quadrant": "Q2", "group": "Game", "annotator": ""}]
    found = songs(rows, np.arange(4 * WIDTH, dtype=float).reshape(4, WIDTH))
    assert len(found.weights) == 2
    assert found.weights[0] == found.weights[1]


def test_centres_are_those_of_the_clusters() -> None:
    rng = np.random.default_rng(3)
    middles = np.array([[0.0, 0.0], [6.0, 0.0], [0.0, 6.0]])
    # One way to sound has ten times the songs of the others: it is still one centre.
    points = np.concatenate([
        m + rng.normal(0, 0.3, (n, 2)) for m, n in zip(middles, (300, 30, 30), strict=True)
    ])  # fmt: skip
    found = centres(points, np.ones(len(points)), 3)
    assert np.allclose(sorted(found.round(0).tolist()), sorted(middles.tolist()), atol=0.25)
    stray = np.append(points, [[40.0, 40.0]], axis=0)
    assert len(centres(stray, np.ones(len(stray)), 4)) == 3
    assert len(centres(points[:1], np.ones(1), 4)) == 1
    assert len(centres(np.zeros((5, 2)), np.ones(5), 4)) == 1


def made(slope_valence: float, slope_arousal: float, seed: int = 0) -> Songs:
    """Songs whose first fifteen attributes follow valence and arousal, the last is constant."""
    rng = np.random.default_rng(seed)
    names = list(QUADRANTS) * 60
    signs = np.array([QUADRANTS[name] for name in names], dtype=float)
    values = rng.normal(0, 1, (240, WIDTH))
    values += (signs @ [slope_valence, slope_arousal])[:, None]
    values[:, -1] = 5.0
    return Songs(values, tuple(names), np.ones(240))


def test_lines_find_the_slopes() -> None:
    found = lines(made(0.4, 0.8), 4)
    spread = np.sqrt(1 + 0.4**2 + 0.8**2)
    assert np.allclose(found[:, :-1].mean(axis=1) * spread, [0.4, 0.8], atol=0.1)
    assert (found[:, -1] == 0).all()


def test_sets_are_trusted_as_far_as_they_agree() -> None:
    same = np.full((2, WIDTH), 0.5)
    line, trust = combine({"emopia": same, "vgmidi": same})
    assert line[0, MODE] == 0.5
    assert trust[0, MODE] == 1.0
    assert (trust[:, TEMPO] == 0).all()  # neither set knows a tempo
    _, opposed = combine({"emopia": same, "vgmidi": -same})
    assert opposed[0, MODE] == 0.0
    assert opposed[0, VELOCITY] == 1.0  # only EMOPIA is played
    _, half = combine({"emopia": same, "vgmidi": 0.5 * same})
    assert half[0, MODE] == pytest.approx(2 / 3)
    _, faint = combine({"emopia": 0.2 * same, "vgmidi": 0.2 * same})
    assert faint[0, MODE] == pytest.approx(0.5)


def test_without_trust_the_cues_stand_and_with_trust_the_pieces_do() -> None:
    cues, m = cue_rows(TABLE), heard_at(TABLE)
    line = np.full((2, WIDTH), 0.3)
    assert np.allclose(directions(line, np.zeros((2, WIDTH)), cues, m), cues)
    linear = m @ np.ones((2, WIDTH))  # cues that say no more than valence and arousal
    only_arousal = np.array([[0.0], [0.3]]) * np.ones(WIDTH)
    D = directions(only_arousal, np.ones((2, WIDTH)), linear, m)
    # On average over the emotions intensity 1 is two quadrant centres out.
    assert np.allclose(np.abs(D).mean(axis=0), 2 * 0.3)
    assert np.allclose(D / D[0], (m[:, 1] / m[0, 1])[:, None])


def test_music_is_heard_where_its_emotion_lies_but_for_love() -> None:
    differs = np.any(heard_at(TABLE) != VAD[:, :2], axis=1)
    assert [name for name, there in zip(CORE, differs, strict=True) if there] == ["love"]


def test_the_frame_is_that_of_the_music() -> None:
    rng = np.random.default_rng(1)
    found = frame(rng.normal(10, 2, (4000, WIDTH)))
    assert found["centre"][MODE] == pytest.approx(10, abs=0.2)
    assert found["scale"][MODE] == pytest.approx(2, abs=0.2)
    assert found["low"][MODE] == pytest.approx(10 - 2.33 * 2, abs=0.4)
    for name, values in PLAYED.items():
        assert [found[key][ATTRIBUTES.index(name)] for key in found] == list(values)
    assert (found["low"][TEMPO], found["high"][TEMPO]) == (40, 200)


def test_full_intensity_stays_playable_without_clipping() -> None:
    _, limits = recorded(TABLE)
    narrow = limits | {"high": limits["centre"] + 0.5 * limits["scale"]}
    found = fit(cue_rows(TABLE), narrow)
    full, half = found.targets(np.eye(12)), found.targets(0.5 * np.eye(12))
    assert (full <= narrow["high"] + 1e-4).all()
    assert np.allclose(half - found.centre, (full - found.centre) / 2, atol=1e-4)


def cosines(a: MusicDirections, b: MusicDirections) -> np.ndarray:
    x, y = (m.standardised(m.targets(np.eye(12))) for m in (a, b))
    return (x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)


def test_recorded_figures_give_nearly_the_shipped_directions(tmp_path, capsys) -> None:
    assert main(["--out", str(tmp_path / "a")]) == 0
    assert main(["--out", str(tmp_path / "b")]) == 0
    files = [(tmp_path / x / "directions.safetensors").read_bytes() for x in "ab"]
    assert files[0] == files[1]
    shipped, fallback = MusicDirections.load(), MusicDirections.load(tmp_path / "a")
    assert cosines(shipped, fallback).min() > 0.95
    assert "figures of music_cues.json" in fallback.sources
    for name in ("centre", "scale", "low", "high"):
        assert np.allclose(getattr(shipped, name), getattr(fallback, name), rtol=1e-3, atol=1e-3)
    assert distances(fallback)[np.triu_indices(12, 1)].min() > 2.0
    assert "distances" in capsys.readouterr().out


def clip(path, quadrant: str, song: int) -> None:
    """Four bars whose mode, loudness and speed follow the quadrant."""
    valence, arousal = QUADRANTS[quadrant]
    third = 4 if valence > 0 else 3
    step, loud = (0.25, 90 + song) if arousal > 0 else (0.75, 40 + song)
    chords = [(0, third, 7), (5, 5 + third, 12), (7, 11, 14), (0, third, 7)]
    score = symusic.Score(480)
    score.tempos.append(symusic.Tempo(0, 120))
    track = symusic.Track(program=0, is_drum=False, name="")
    for index in range(int(16 / (step * 2))):
        for pitch in chords[index % 4]:
            at = int(index * step * 960)
            note = symusic.Note(at, int(step * 900), 57 + song % 3 + pitch, loud)
            track.notes.append(note)
    score.tracks.append(track)
    score.dump_midi(str(path))


def test_the_whole_recipe_on_labelled_pieces(tmp_path) -> None:
    data, pieces = tmp_path / "data", tmp_path / "emopia"
    data.mkdir()
    pieces.mkdir()
    names = [(f"{q}_{song}.mid", q, song) for q in QUADRANTS for song in range(5)]
    for name, q, song in names:
        clip(pieces / name, q, song)
    with tarfile.open(data / "emopia.tar.gz", "w:gz") as archive:
        archive.add(pieces, "emopia")
    with (data / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "quadrant", "group", "annotator"])
        writer.writerows([f"emopia/{n}", q, f"song{s}", "AB"[s % 2]] for n, q, s in names)
    fast = measure(heard(pieces / "Q1_0.mid"))
    assert fast["velocity"] == pytest.approx(90)
    assert fast["note_density"] > measure(heard(pieces / "Q4_0.mid"))["note_density"]
    assert fast["mode"] > measure(heard(pieces / "Q2_0.mid"))["mode"]

    argv = ["--data", str(data), "--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]
    assert main([*argv, "--plot", str(tmp_path / "D.png")]) == 0
    found = MusicDirections.load(tmp_path / "out")
    assert "20 songs by quadrant of emopia" in found.sources
    z = dict(zip(CORE, found.standardised(found.targets(np.eye(12))), strict=True))
    assert z["happiness"][MODE] > 0.5 > -0.5 > z["anger"][MODE]
    assert z["excitement"][VELOCITY] > 1 > -1 > z["sadness"][VELOCITY]
    assert (tmp_path / "D.png").read_bytes()[1:4] == b"PNG"


def test_a_cue_that_is_no_attribute_is_told() -> None:
    broken = json.loads(json.dumps(TABLE))
    broken["emotions"]["awe"]["cues"]["loudness"] = 1
    with pytest.raises(ValueError, match="mend loudness in music_cues"):
        cue_rows(broken)
