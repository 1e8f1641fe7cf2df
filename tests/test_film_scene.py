"""Scenes: what is read, how shots are laid out, and that every fault names its line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from adapters.assets import ASSETS
from adapters.emotion import EmotionTimeline
from pipelines import camera
from pipelines.film_lines import dotted, line_of, lines_of
from pipelines.film_scene import MOVES, laid_out, read_scene
from pipelines.film_table import SceneError

SCENE = '''title = "Storm"
emotion = "0s contentment .5; 4s fear .9"
seed = 3

[music]
volume = -12

[[shots]]
prompt = "the sea"
seconds = 3

# a comment with [[shots]] in it
[[shots]]
prompt = """
a cliff
seconds = 9
"""
seconds = 2.5
transition = "dissolve"
params = { steps = 4, seed = 11 }

[[shots]]
prompt = "clouds"
still = "tilt+light"

[[titles]]
text = "Storm"
at = 0.5
'''


@pytest.fixture
def write(tmp_path: Path):
    def put(text: str = SCENE) -> Path:
        path = tmp_path / "scene.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return put


def fault(path: Path, spoken=None) -> str:
    with pytest.raises(SceneError) as caught:
        laid_out(read_scene(path), spoken or {})
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_lines_are_those_of_the_text() -> None:
    found = lines_of(SCENE)
    assert found["emotion",] == 2
    assert found["music", "volume"] == 6
    assert found["shots", 0] == 8
    assert found["shots", 1, "seconds"] == 18, "not the one inside the text of many lines"
    assert found["shots", 1, "params"] == 20
    assert line_of(found, ("shots", 1, "params", "steps")) == 20
    assert line_of(found, ("shots", 2, "gone")) == 22
    assert line_of(found, ("nowhere",)) is None
    assert dotted(("shots", 1, "seconds")) == "shots[2].seconds"


def test_lines_behind_values_of_many_lines() -> None:
    text = """a = [
 1, # ]
 "]",
]
b.c = '''
d = 1
'''
[t.u]
"quoted key" = {x = [
1]}
d = 2
"""
    found = lines_of(text)
    assert (found["a",], found["b", "c"], found["t", "u"]) == (1, 5, 8)
    assert found["t", "u", "quoted key"] == 9
    assert found["t", "u", "d"] == 11
    assert ("d",) not in found


def test_a_scene_is_read(write) -> None:
    scene = laid_out(read_scene(write()), {})
    assert [shot.span for shot in scene.shots] == [(0, 3), (3, 5.5), (5.5, 9.5)]
    assert scene.seconds == 9.5
    assert scene.shots[1].about.split() == ["a", "cliff", "seconds", "=", "9"]
    assert scene.shots[1].params == {"steps": 4, "seed": 11}
    assert (scene.shots[2].still, scene.shots[0].still) == ("tilt+light", "")
    assert scene.music is not None
    assert (scene.music.volume, scene.music.duck) == (-12, 9)
    assert scene.emotion == EmotionTimeline.parse("0s contentment .5; 4s fear .9")
    assert "emotion" not in scene.record()
    assert (scene.width % 2, scene.seed) == (0, 3)


def test_lengths_fill_the_film(write) -> None:
    scene = laid_out(read_scene(write(SCENE.replace("seed = 3", "seconds = 12"))), {})
    assert scene.shots[2].span == (5.5, 12)
    whole = SCENE.replace("seconds = 3\n", "start = 0\nend = 3\n")
    assert laid_out(read_scene(write(whole)), {}).shots[0].span == (0, 3)


def test_a_shot_lasts_as_long_as_what_is_said(write, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"")
    scene = read_scene(write(SCENE.replace('still = "tilt+light"', 'audio = "a.wav"')))
    spoken = {("shots", 2): 2.03}
    assert laid_out(scene, spoken).shots[2].span == (5.5, 8.1), "to a tenth, half a second more"
    short = SCENE.replace('still = "tilt+light"', 'audio = "a.wav"\nseconds = 1')
    assert "scene.toml:25: shots[3].seconds" in fault(write(short), spoken)
    assert scene.files() == {"shots.2.audio": tmp_path / "a.wav"}


def test_a_preset_makes_the_course(write) -> None:
    text = SCENE.replace('"0s contentment .5; 4s fear .9"', '"fear .9"\ncurve = "escalate"')
    scene = laid_out(read_scene(write(text)), {})
    assert scene.curve == ""
    assert not scene.emotion.is_constant
    assert scene.emotion.duration <= scene.seconds
    assert "scene.toml:3: curve" in fault(write(text.replace("escalate", "escalat")))
    both = SCENE.replace("seed = 3", 'curve = "hold"')
    assert "scene.toml:3: curve: makes a course of one emotion" in fault(write(both))


FAULTS = [
    ("emotion = .*", 'emotion = ""', 2, "empty"),
    ("emotion = .*", 'emotion = "0s fear .5; 0s awe .4"', 2, "increasing"),
    ("emotion = .*", 'emotion = "-1s fear .5; 2s awe .4"', 2, "0 or more"),
    ("emotion = .*", 'emotion = "0s fear .5; 10m awe .4"', 2, "300 at most"),
    ("emotion = .*", 'emotion = "0s fear .5; 9.6s awe .4"', 2, "the film ends at 9.5"),
    ("emotion = .*", 'emotion = "0s fear 1.5"', 2, "0 to 1"),
    ("emotion = .*", "emotion = 3", 2, "a text"),
    ("seed = 3", "seconds = 400", 3, "allowed 1 to 300"),
    ("seed = 3", "sed = 3", 3, "did you mean seed"),
    ("seed = 3", "width = 481", 3, "even"),
    ("volume = -12", "volume = 30", 6, "-40 to 6"),
    ("volume = -12", "vol = 3", 6, "did you mean volume"),
    (r"seconds = 3\n", "seconds = -3\n", 10, "received -3"),
    (r"seconds = 3\n", 'seconds = "3"\n', 10, "a number"),
    (r"seconds = 3\n", "start = 0\nend = 0.1\n", 11, "at least 0.25"),
    (r"seconds = 2.5\n", "start = 2\nend = 5\n", 18, "overlaps"),
    (r"seconds = 2.5\n", "start = 4\nend = 5\n", 18, "gap"),
    ('transition = "dissolve"', 'transition = "wipe"', 19, "cut, dissolve, black"),
    ('transition = "dissolve"', 'image = "gone.png"', 13, "exactly one"),
    ('prompt = "clouds"', 'image = "gone.png"', 23, "no file 'gone.png'"),
    ('prompt = "clouds"', 'prompt = " "', 23, "empty"),
    ('prompt = "clouds"', 'portrait = "scene.toml"', 24, "moves by itself"),
    ('still = "tilt.light"', 'still = "tlt"', 24, "'tlt'"),
    ('still = "tilt.light"', "from = 3", 24, "video"),
    ('still = "tilt.light"', 'voice = { strength = 1 }', 24, "nothing is"),
    ('still = "tilt.light"', 'text = "a"\naudio = "b"', 22, "both"),
    ("at = 0.5", "at = 30", 28, "ends at 32.5 s, the film at 9.5"),
    ("at = 0.5", "at = -1", 28, "0 to 300"),
    ('title = "Storm"', "title = Storm", 1, "no TOML"),
    ("at = 0.5", "at = [", 28, "no TOML"),
]  # fmt: skip


FAULTS += [
    ("seed = 3", "seed = 1" + 400 * "0", 3, "64 bits"),
    ("seed = 3", "seed = 1" + 5000 * "0", 3, "cannot be read"),
    ("seed = 3", "seed = nan", 3, "finite"),
    ("seed = 3", "x = " + 3000 * "[" + 3000 * "]", 3, "too deep"),
    ("seed = 3", "x = " + 60 * "[" + 60 * "]", 3, "deep"),
    ('prompt = "clouds"', f'image = "{1900 * "a"}"', 23, "no file 'aaa"),
    ('prompt = "clouds"', 'image = "~nobody-at-all/a.png"', 23, "no file '~nobody"),
    ('still = "tilt.light"', "params = { steps = 2020-01-02 }", 24, "params.steps: a date"),
]


@pytest.mark.parametrize(("old", "new", "line", "says"), FAULTS)
def test_every_fault_names_its_line(write, old, new, line, says) -> None:
    changed = re.sub(old, lambda _: new, SCENE, count=1)
    assert changed != SCENE
    text = fault(write(changed))
    assert text.startswith(f"scene.toml:{line}: "), text
    assert says in text


def test_what_is_no_scene(tmp_path: Path) -> None:
    with pytest.raises(SceneError, match="no such file"):
        read_scene(tmp_path / "gone.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SceneError, match="UTF-8"):
        read_scene(tmp_path / "bytes.toml")
    (tmp_path / "empty.toml").write_text("title = 'x'\nemotion = 'fear .4'")
    with pytest.raises(SceneError, match="at least one"):
        read_scene(tmp_path / "empty.toml")


def test_the_sample_is_a_scene() -> None:
    scene = read_scene(ASSETS / "samples" / "storm.toml")
    done = laid_out(scene, {("shots", 2): 3.94})
    assert 12 <= done.seconds <= 15
    assert {shot.kind for shot in done.shots} == {"prompt", "portrait"}


def test_stills_move_as_the_camera_can() -> None:
    assert MOVES == camera.KINDS
