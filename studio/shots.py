"""The shots of a scene as rows: what is seen, for how long, how it comes in.

The text (TOML) is the truth. Rows are read from it, and what is changed in a row changes only its
lines there: comments, order and everything else stay. A change is kept only if the new text says
exactly what was meant, else it is refused and the text stays as it is. The rows are drawn by
assets/ui/shots.js. This file does not know how a film is made.
"""

from __future__ import annotations

import hashlib
import json
import math
import tomllib
from collections.abc import Mapping
from typing import Any

import gradio as gr

from pipelines.film_lines import lines_of
from pipelines.film_scene import KINDS, LONGEST, MOST_SHOTS, SHORTEST_SHOT, TRANSITIONS
from pipelines.film_table import SceneError, parsed
from studio.affect_pad import script

LONGEST_TEXT = 2000  # characters of a prompt, as in a scene
ELSE = "its shots are written in a way that these rows cannot change; change the text"


def shots_view(text: str, **more: Any) -> Any:
    """Rows of shots; value: see `rows_of`."""
    return gr.HTML(
        value=rows_of(text),
        html_template='<div class="shots" role="group" aria-label="Shots"></div>',
        js_on_load=script("shots.js"),
        **more,
    )


def rows_of(text: str, why: str = "", turn: Any = None) -> dict[str, Any]:
    """The rows of a scene: {rows, of, why, told, ways, turn}.

    Of each shot: n (its number in the text), kind, what, seconds (None: open), way (how it comes
    in), timed (its length is said by start and end). of: a digest of the text. why: one line where
    the text or a change of it could not be read. turn: the number of the question this answers.
    """
    try:
        data, _ = parsed(text, "scene")
        shots = data.get("shots", [])
        rows = [_row(i, shot) for i, shot in enumerate(shots) if isinstance(shot, Mapping)]
        if len(rows) > MOST_SHOTS:
            rows, why = [], f"shots: at most {MOST_SHOTS}, received {len(rows)}; make several films"
    except (SceneError, TypeError) as error:
        rows, why = [], " ".join(str(error).split())[:300]
    return {
        "rows": rows, "of": _digest(text), "why": why, "told": True,
        "ways": list(TRANSITIONS), "turn": turn if isinstance(turn, int) else None,
    }  # fmt: skip


def _row(n: int, shot: Mapping[str, Any]) -> dict[str, Any]:
    kind = next((one for one in KINDS if one != "prompt" and one in shot), "prompt")
    seconds = shot.get("seconds")
    timed = "start" in shot or "end" in shot
    if timed and seconds is None and "end" in shot:
        seconds = _number(shot["end"], 0.0) - _number(shot.get("start"), 0.0)
    return {
        "n": n, "kind": kind, "what": str(shot.get(kind, ""))[:LONGEST_TEXT],
        "seconds": round(_number(seconds, 0.0), 3) if seconds is not None else None,
        "way": str(shot.get("transition", "cut"))[:20], "timed": timed,
    }  # fmt: skip


def with_rows(text: str, state: Any) -> str:
    """The text with the rows that a browser sent: changed, moved, added and removed shots.

    Raises SceneError in one line for what no scene holds, a text that is not the one that the rows
    are of, or one whose shots are written otherwise.
    """
    data, _ = parsed(text, "scene")
    if not isinstance(state, Mapping) or state.get("of") != _digest(text):
        msg = "shots: the text has changed meanwhile; do that once more"
        raise SceneError(msg)
    rows = state.get("rows")
    if not isinstance(rows, list) or not 1 <= len(rows) <= MOST_SHOTS:
        msg = f"shots: 1 to {MOST_SHOTS}, received {len(rows) if isinstance(rows, list) else 0}"
        raise SceneError(f"{msg}; a film needs one")
    shots = data.get("shots", [])
    plain = isinstance(shots, list) and all(isinstance(one, Mapping) for one in shots)
    if not plain or len(shots) > MOST_SHOTS:
        msg = f"shots: {ELSE}"
        raise SceneError(msg)
    others, blocks = _blocks(text, len(shots))
    new, meant, used = [], [], set()
    for i, row in enumerate(rows):
        changes = _changes(row, i)
        n = row.get("n")
        if n is None:
            shot: dict[str, Any] = {}
            lines = ["[[shots]]", ""]
            if changes["transition"] == "cut":
                del changes["transition"]  # as it is where nothing is said
        elif isinstance(n, int) and 0 <= n < len(shots) and n not in used:
            used.add(n)
            shot, lines = dict(shots[n]), list(blocks[n])
            changes = _really(changes, _row(n, shot))
        else:
            msg = f"shots[{i + 1}]: no shot of the text, received {str(n)[:20]!r}; load the page"
            raise SceneError(f"{msg} again")
        for key, value in changes.items():
            lines = _set(lines, key, value)
            shot.pop(key, None)
            if value is not None:
                shot[key] = value
        new.append(lines)
        meant.append(shot)
    made = _joined(others, new)
    try:
        same = tomllib.loads(made) == {**data, "shots": meant}
    except (tomllib.TOMLDecodeError, RecursionError, ValueError):
        same = False
    if not same:
        msg = f"shots: {ELSE}"
        raise SceneError(msg)
    return made


def _changes(row: Any, i: int) -> dict[str, Any]:
    """What a row says, checked: prompt, seconds and transition."""
    if not isinstance(row, Mapping):
        msg = f"shots[{i + 1}]: an object is expected; load the page again"
        raise SceneError(msg)
    found: dict[str, Any] = {}
    if row.get("kind", "prompt") == "prompt":
        what = str(row.get("what") or "").encode("utf-8", "ignore").decode().replace("\x7f", "")
        if not what.strip() or len(what) > LONGEST_TEXT:
            msg = f"shots[{i + 1}].prompt: 1 to {LONGEST_TEXT} characters, received {len(what)}"
            raise SceneError(f"{msg}; say what should be seen")
        found["prompt"] = what.strip()
    seconds = row.get("seconds")
    if seconds is not None:
        number = _number(seconds, math.nan)
        if not SHORTEST_SHOT <= number <= LONGEST:
            msg = f"shots[{i + 1}].seconds: {SHORTEST_SHOT:g} to {LONGEST:g} or nothing, received"
            raise SceneError(f"{msg} {str(seconds)[:20]!r}; choose one within")
        seconds = int(number) if number.is_integer() else round(number, 3)
    found["seconds"] = seconds
    way = row.get("way", "cut")
    if way not in TRANSITIONS:
        msg = f"shots[{i + 1}].transition: one of {', '.join(TRANSITIONS)}, received"
        raise SceneError(f"{msg} {str(way)[:20]!r}; choose one")
    found["transition"] = way
    return found


def _really(changes: dict[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """Only what differs from the shot as it is; the length of one with start and end stays."""
    was = {"prompt": before["what"].strip(), "transition": before["way"]}
    was["seconds"] = before["seconds"]
    kept = {key: value for key, value in changes.items() if value != was[key]}
    if before["timed"]:
        kept.pop("seconds", None)
    return kept


def _blocks(text: str, count: int) -> tuple[list[list[str] | None], list[list[str]]]:
    """The lines of a text in pieces, None where a shot stands, and the lines of each shot.

    Comments directly above a header belong to what they stand above.
    """
    lines, places = text.splitlines(), lines_of(text)
    begins: dict[int, int] = {}
    ends: dict[int, int] = {}
    for i in range(count):
        first = places.get(("shots", i))
        if first is None:
            msg = f"shots: {ELSE}"
            raise SceneError(msg)
        later = [at for place, at in places.items() if at > first and place[:2] != ("shots", i)]
        begins[i] = _above(lines, first - 1)
        ends[i] = _above(lines, min(later) - 1) if later else len(lines)
    pieces: list[list[str] | None] = []
    at = 0
    for i in sorted(begins, key=lambda one: begins[one]):
        pieces += [lines[at : begins[i]], None]
        at = ends[i]
    return [*pieces, lines[at:]], [lines[begins[i] : ends[i]] for i in range(count)]


def _above(lines: list[str], at: int) -> int:
    """Where the comments directly above a line begin."""
    while at > 0 and lines[at - 1].lstrip().startswith("#"):
        at -= 1
    return at


def _joined(pieces: list[list[str] | None], shots: list[list[str]]) -> str:
    """The text of pieces with shots in their places; those that are more follow the last one."""
    room = sum(piece is None for piece in pieces)
    if not room:
        pieces, room = [*pieces, None], 1
    out: list[str] = []
    taken = 0
    for piece in pieces:
        if piece is not None:
            out += piece
            continue
        taken += 1
        for lines in shots[taken - 1 :] if taken == room else shots[taken - 1 : taken]:
            if out and out[-1].strip():
                out.append("")
            out += lines
    while out and not out[-1].strip():
        out.pop()
    return "\n".join(out) + "\n"


def _set(lines: list[str], key: str, value: Any) -> list[str]:
    """The lines of one shot with a key set, or left out where the value is None."""
    places = lines_of("\n".join(lines))
    at = places.get(("shots", 0, key))
    said = f"{key} = {json.dumps(value, ensure_ascii=False)}"
    if at is not None:
        rest = [] if value is None else [said + _comment(lines[at - 1])]
        return [*lines[: at - 1], *rest, *lines[at:]]
    if value is None:
        return lines
    own = [line for place, line in places.items() if len(place) == 3]
    after = max(own) if own else places[("shots", 0)]
    return [*lines[:after], said, *lines[after:]]


def _comment(line: str) -> str:
    """What stands behind the value of a line, from the blanks before it on."""
    for i, letter in enumerate(line):
        if letter == "#":
            try:
                tomllib.loads(line[:i])
            except tomllib.TOMLDecodeError:
                continue
            return line[len(line[:i].rstrip()) :]
    return ""


def _number(value: Any, usual: float) -> float:
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if good else usual


def _digest(text: str) -> str:
    """Of a text, whatever blanks are around it: gradio's editor takes them away."""
    return hashlib.sha256(text.strip().encode("utf-8", "replace")).hexdigest()[:16]
