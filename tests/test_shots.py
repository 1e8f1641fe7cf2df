"""Shots of a scene as rows: the text stays the truth, and changes only where it was meant."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("gradio", reason="the extra ui is not installed")

from studio.scenes import sample_files, sample_scene, scene_request
from studio.shots import rows_of, with_rows

Edit = Callable[[list[dict[str, Any]]], Any]


def edited(text: str, edit: Edit) -> str:
    state = rows_of(text)
    edit(state["rows"])
    return with_rows(text, state)


def test_rows_of_the_shipped_scene() -> None:
    rows = rows_of(sample_scene())["rows"]
    assert [row["what"] for row in rows] == [
        "the sea in the evening", "waves against a cliff", "closed.jpg", "clouds over the sea",
    ]  # fmt: skip
    assert [row["kind"] for row in rows] == ["prompt", "prompt", "portrait", "prompt"]
    assert [row["seconds"] for row in rows] == [3.2, 2.8, None, 3.5]
    assert [row["way"] for row in rows] == ["cut", "dissolve", "cut", "dissolve"]


def test_nothing_changed_changes_nothing() -> None:
    assert edited(sample_scene(), lambda rows: None) == sample_scene()


def test_one_value_changes_one_line() -> None:
    before = sample_scene()
    after = edited(before, lambda rows: rows[1].update(what='a "ship" \U0001f30a'))
    lines = zip(before.splitlines(), after.splitlines(), strict=True)
    differing = [(one, other) for one, other in lines if one != other]
    assert differing == [('prompt = "waves against a cliff"', 'prompt = "a \\"ship\\" \U0001f30a"')]
    assert tomllib.loads(after)["shots"][1]["prompt"] == 'a "ship" \U0001f30a'


def test_a_shot_is_added_moved_and_removed_with_its_comments() -> None:
    row = {"n": None, "kind": "prompt", "what": "a ship", "seconds": 2, "way": "black"}
    added = edited(sample_scene(), lambda rows: rows.append(row))
    data = tomllib.loads(added)
    assert data["shots"][4] == {"prompt": "a ship", "seconds": 2, "transition": "black"}
    assert added.index("a ship") < added.index("[[titles]]")
    moved = edited(added, lambda rows: rows.insert(0, rows.pop(2)))
    shots = tomllib.loads(moved)["shots"]
    assert [one.get("prompt", "face") for one in shots[:2]] == ["face", "the sea in the evening"]
    assert moved.index("The voice is converted") < moved.index("closed.jpg")
    fewer = edited(moved, lambda rows: rows.pop(0))
    assert "The voice is converted" not in fewer
    assert len(tomllib.loads(fewer)["shots"]) == 4
    assert tomllib.loads(fewer)["titles"] == data["titles"]
    scene_request(added, sample_files(), draft=True)  # and it is a film


def test_comments_behind_values_stay_and_an_open_length_leaves_its_line() -> None:
    text = '[[shots]]\nprompt = "sea" # the "sea" # again\nseconds = 3  # s\n'
    after = edited(text, lambda rows: rows[0].update(what="sky #1", seconds=None))
    assert after == '[[shots]]\nprompt = "sky #1" # the "sea" # again\n'
    assert edited(after, lambda rows: rows[0].update(seconds=2.5, way="black")).endswith(
        'seconds = 2.5\ntransition = "black"\n'
    )


def test_a_length_said_by_its_end_stays_as_it_is_said() -> None:
    text = '[[shots]]\nprompt = "sea"\nstart = 0\nend = 2\n'
    assert rows_of(text)["rows"][0]["timed"]
    after = edited(text, lambda rows: rows[0].update(seconds=9, what="sky"))
    assert after == text.replace("sea", "sky")


def test_the_first_shot_of_an_empty_text() -> None:
    row = {"n": None, "what": "a ship", "seconds": 2, "way": "cut"}
    after = edited('title = "x"\n', lambda rows: rows.append(row))
    assert after == 'title = "x"\n\n[[shots]]\nprompt = "a ship"\nseconds = 2\n'


@pytest.mark.parametrize(
    "text",
    [
        'shots = [{prompt = "a"}, {prompt = "b"}]\n',
        '[[shots]]\nprompt = """a\n[[shots]]\nb"""\n',
        "[[shots]]\nprompt = '''\na\nb'''\nseconds = 2\n",
        '[[shots]]\n"pro\\u006dpt" = "a"\n',
    ],
)  # fmt: skip
def test_what_is_written_otherwise_is_refused_not_broken(text: str) -> None:
    assert len(tomllib.loads(text)["shots"]) == len(rows_of(text)["rows"])
    with pytest.raises(ValueError, match="change the text"):
        edited(text, lambda rows: rows[0].update(what="c"))


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda rows: rows.clear(), "a film needs one"),
        (lambda rows: rows[0].update(what=" "), r"shots\[1\].prompt"),
        (lambda rows: rows[0].update(seconds=-1), r"shots\[1\].seconds"),
        (lambda rows: rows[0].update(seconds="3\n[music]"), r"shots\[1\].seconds"),
        (lambda rows: rows[0].update(way="wipe"), "cut, dissolve, black"),
        (lambda rows: rows[0].update(n=9), "no shot of the text"),
        (lambda rows: rows.append(dict(rows[0])), "no shot of the text"),
        (lambda rows: rows.append("x"), "an object"),
    ],
)  # fmt: skip
def test_what_no_scene_holds_is_one_line(edit: Edit, said: str) -> None:
    with pytest.raises(ValueError, match=said) as error:
        edited(sample_scene(), edit)
    assert "\n" not in str(error.value)


def test_rows_of_another_text_change_nothing() -> None:
    state = rows_of(sample_scene())
    with pytest.raises(ValueError, match="changed meanwhile"):
        with_rows(sample_scene() + "\n# more\n", state)


def test_the_editor_takes_blanks_away_and_the_rows_hold() -> None:
    state = rows_of(sample_scene() + "\n")
    state["rows"][0]["what"] = "a ship"
    assert 'prompt = "a ship"' in with_rows(sample_scene().strip(), state)


def test_a_text_that_is_no_scene_is_told() -> None:
    state = rows_of("[[shots]\n")
    assert state["rows"] == []
    assert "no TOML" in state["why"]
    with pytest.raises(ValueError, match="no TOML"):
        with_rows("[[shots]\n", state)
