"""A film as it is written down: one emotion over time, shots, speech, titles, music, in TOML.

`read_scene` reads a file, `scene_of` the same data out of a finished film's record. Everything that
can be told from the text alone is checked here, each fault in one line with the line of the file.
Files are only looked for; what is in them is checked by those who use them (pipelines.film).

It deliberately does not know how anything is made. Standard library and the emotion only.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters.curves import preset
from adapters.emotion import EmotionError, EmotionTimeline
from pipelines.film_lines import Path as Place
from pipelines.film_table import SceneError, Table, Where, check_plain, parsed

SHORTEST, LONGEST = 1.0, 300.0  # s of a film; longer ones are made of several
SHORTEST_SHOT = 0.25  # s: six frames, the least that is seen as a picture and not as a flash
LONGEST_CLIP = 60.0  # s of a shot whose pictures a model makes
MOST_SHOTS, MOST_TITLES = 200, 100
LARGEST_FILE = 2**20  # bytes of a scene
WIDTH, HEIGHT = 640, 360
FPS = 25  # that of portraits too, so that no frame is shown twice
USUAL_SHOT = 4.0  # s of a shot where nothing says how long
AFTER_SPEECH = 0.5  # s a shot goes on when all is said
DISSOLVE = 0.5  # s
# Places of a title and ways into a shot.
TRANSITIONS = ("cut", "dissolve", "black")
PLACES = ("top", "centre", "bottom")
KINDS = ("prompt", "image", "portrait", "video")
"""What a shot shows: exactly one of these keys."""
MODALITIES = ("image", "video", "portrait", "voice", "music")
MOVES = (
    "still", "pan", "tilt", "push", "pull", "sway", "shake", "breathe", "waves", "clouds", "wind",
    "light", "flicker", "lightning", "rain", "snow",
)  # fmt: skip
"""How a still may move; those of pipelines.camera, which needs torch."""

_SCENE = (
    "title", "emotion", "curve", "seconds", "width", "height", "fps", "seed", "fade_out", "music",
    "shots", "voice", "titles", "defaults",
)  # fmt: skip
_SHOT = (
    *KINDS, "seconds", "start", "end", "still", "from", "sound", "text", "audio", "emotion",
    "transition", "transition_seconds", "params", "voice",
)  # fmt: skip
_VOICE = ("text", "audio", "at", "emotion", "volume", "params")
_TITLE = ("text", "at", "seconds", "place", "size")
_MUSIC = ("volume", "duck", "params")


@dataclass(frozen=True, slots=True)
class Speech:
    """Words that are said: text, or a recording; at: s from the film's (or its shot's) beginning.

    emotion: its own, from its own beginning on, None for the film's. volume: dB.
    """

    text: str
    audio: Path | None
    at: float
    emotion: EmotionTimeline | None
    volume: float
    params: Mapping[str, Any]
    place: Place


@dataclass(frozen=True, slots=True)
class Shot:
    """One shot. kind: of KINDS; about: its prompt; file: its picture or film.

    start, seconds: None until `laid_out`, where the scene leaves them open. still: how a camera
    moves over a picture, "" where a model moves it. begin: s into a film that is shown. sound: dB
    of a film's own sound, None for silence. emotion: its own, from its own beginning on.
    transition: how it comes in, and s that takes. params: knobs of what makes it.
    """

    kind: str
    about: str
    file: Path | None
    start: float | None
    seconds: float | None
    still: str
    begin: float
    sound: float | None
    speech: Speech | None
    emotion: EmotionTimeline | None
    transition: str
    transition_seconds: float
    params: Mapping[str, Any]
    place: Place

    @property
    def span(self) -> tuple[float, float]:
        """Start and end of a shot that was laid out."""
        start = self.start or 0.0
        return start, start + (self.seconds or 0.0)


@dataclass(frozen=True, slots=True)
class Title:
    """Words over the picture. place: of PLACES. size: share of the film's height."""

    text: str
    at: float
    seconds: float
    where: str
    size: float
    place: Place


@dataclass(frozen=True, slots=True)
class Music:
    """Music under the film. volume: dB; duck: dB that it steps back under speech."""

    volume: float
    duck: float
    params: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Scene:
    """A film as it is asked for.

    curve: a preset that `laid_out` makes a course of the one emotion by, then "". seconds: 0 until
    laid out where the scene leaves it open. music: None for none. defaults:
    modality -> knobs. data: the plain data it was read from; where: for errors.
    """

    title: str
    emotion: EmotionTimeline
    curve: str
    seconds: float
    width: int
    height: int
    fps: int
    seed: int | None
    fade_out: float
    music: Music | None
    shots: tuple[Shot, ...]
    voices: tuple[Speech, ...]
    titles: tuple[Title, ...]
    defaults: Mapping[str, Mapping[str, Any]]
    data: Mapping[str, Any]
    where: Where

    def files(self) -> dict[str, Path]:
        """All files that the scene names, by the places where it does: "shots.1.image"."""
        found: dict[str, Path] = {}
        for shot in self.shots:
            if shot.file is not None:
                found[_key((*shot.place, shot.kind))] = shot.file
        for speech in self.speeches():
            if speech.audio is not None:
                found[_key((*speech.place, "audio"))] = speech.audio
        return found

    def speeches(self) -> list[Speech]:
        """All that is said, that of shots first."""
        return [shot.speech for shot in self.shots if shot.speech is not None] + list(self.voices)

    def record(self) -> dict[str, Any]:
        """Plain data of the scene for a film's record: without emotion, seed and paths."""
        left_out = ("emotion", "curve", "seed")
        data = {name: value for name, value in self.data.items() if name not in left_out}
        for key in self.files():
            name, at, last = key.split(".")
            rows = [dict(row) for row in data[name]]
            rows[int(at)][last] = ""
            data[name] = rows
        return data


def _key(place: Place) -> str:
    return ".".join(str(part) for part in place)


def read_scene(path: Path | str, *, over: bool = False) -> Scene:
    """Read a scene from a TOML file; files in it are looked for beside it.

    over: allow intensities up to 1.5.

    Raises:
        SceneError: no such file, no TOML, an unknown key, a value out of range, a missing file:
            one line that begins with the file's name and the line.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise FileNotFoundError(2, "no such file")
        if path.stat().st_size > LARGEST_FILE:
            msg = f"{path}: scenes of up to {LARGEST_FILE >> 20} MB are read; is this one?"
            raise SceneError(msg)
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        reason = (error.strerror or "unreadable").lower()
        msg = f"scene: {path} cannot be read ({reason}); give a TOML file"
        raise SceneError(msg) from error
    except UnicodeDecodeError as error:
        msg = f"{path.name}: is no text in UTF-8; save it as a plain TOML file"
        raise SceneError(msg) from error
    data, where = parsed(text, path.name)

    def found(place: Place, name: str) -> Path:
        try:
            given = Path(name).expanduser()
            file = given if given.is_absolute() else path.parent / given
            there = file.is_file()
        except (OSError, RuntimeError):  # a name that is too long, a home that nobody has
            there = False
        if not there:
            raise where.about(place, f"no file {name[:80]!r} beside the scene; check the path")
        return file

    return scene_of(data, where, found, over=over)


def scene_of(
    data: Mapping[str, Any],
    where: Where,
    file_of: Callable[[Place, str], Path],
    emotion: EmotionTimeline | None = None,
    *,
    over: bool = False,
) -> Scene:
    """The scene of plain data, checked.

    file_of: from a place and the text there to the file. emotion: in place of the data's own. over:
    allow intensities up to 1.5.
    """
    check_plain(data, (), where)
    top = Table(data, (), where, over)
    top.check(_SCENE)
    seconds = top.number("seconds", None, SHORTEST, LONGEST)
    felt, curve = _felt(top, emotion)
    shots = tuple(_shot(table, file_of) for table in top.tables("shots", MOST_SHOTS))
    if not shots:
        raise where.error(("shots",), "shots: a film needs at least one; add [[shots]]")
    voices = tuple(_voice(table, file_of) for table in top.tables("voice", MOST_SHOTS))
    titles = tuple(_title(table) for table in top.tables("titles", MOST_TITLES))
    defaults = top.table("defaults")
    defaults.check(MODALITIES)
    music = _music(top)
    width, height = (
        int(top.whole(name, usual, 64, 1920))
        for name, usual in (("width", WIDTH), ("height", HEIGHT))
    )
    for name, value in (("width", width), ("height", height)):
        if value % 2:
            raise where.about((name,), f"an even number of pixels, received {value}; add 1")
    return Scene(
        title=top.text("title", ""),
        emotion=felt,
        curve=curve,
        seconds=seconds or 0.0,
        width=width,
        height=height,
        fps=top.whole("fps", FPS, 8, 60),
        seed=top.whole("seed", None, 0, 2**53 - 1) if "seed" in data else None,
        fade_out=top.number("fade_out", 0.6, 0.0, 5.0) or 0.0,
        music=music,
        shots=shots,
        voices=voices,
        titles=titles,
        defaults={name: defaults.table(name).data for name in defaults.data},
        data=data,
        where=where,
    )


def laid_out(scene: Scene, spoken: Mapping[Place, float]) -> Scene:
    """The scene with a start and a length for every shot, which fill the film without a gap.

    spoken: seconds of what is said, by its place; a shot that leaves its length open lasts as long.

    Raises:
        SceneError: shots overlap, leave a gap or do not fill the film; speech longer than its shot;
            titles, voices or keys of the emotion beyond the end.
    """
    where = scene.where
    lengths = [_own_length(shot, spoken) for shot in scene.shots]
    free = [i for i, length in enumerate(lengths) if length is None]
    if scene.seconds and free:
        each = (scene.seconds - sum(length or 0.0 for length in lengths)) / len(free)
        if each < SHORTEST_SHOT:
            msg = f"seconds: the film lasts {scene.seconds:g}, nothing of it is left for this shot"
            raise where.error(scene.shots[free[0]].place, f"{msg}; shorten the others")
        lengths = [each if length is None else length for length in lengths]
    lengths = [USUAL_SHOT if length is None else length for length in lengths]
    shots, at = [], 0.0
    for shot, length in zip(scene.shots, lengths, strict=True):
        start = at if shot.start is None else shot.start
        if abs(start - at) > 1e-6:
            what = "overlaps the one before, which ends" if start < at else "leaves a gap after"
            msg = f"this shot {what} at {at:g} s, it starts at {start:g}; shots follow each other"
            raise where.about((*shot.place, "start"), msg)
        said = shot.speech and spoken.get(shot.speech.place)
        if shot.speech and said and shot.speech.at + said > (length or 0.0) + 0.05:
            msg = (
                f"what is said ends {shot.speech.at + said:.2f} s into the shot, which lasts "
                f"{length:g}; give it seconds = {math.ceil(10 * (shot.speech.at + said)) / 10:g} "
                "or leave seconds out"
            )
            key = "seconds" if shot.seconds is not None else "text" if shot.speech.text else "audio"
            raise where.about((*shot.place, key), msg)
        shots.append(dataclasses.replace(shot, start=start, seconds=length))
        at = start + (length or 0.0)
    if scene.seconds and abs(scene.seconds - at) > 1e-6:
        msg = f"the shots last {at:g} s, the film {scene.seconds:g}; shots must fill the film"
        raise where.about(("seconds",), f"{msg}, change one of them or leave seconds out")
    if not SHORTEST <= at <= LONGEST:
        msg = f"a film lasts {SHORTEST:g} to {LONGEST:g} s, these last {at:g}; "
        hint = "make several" if at > LONGEST else "make them longer"
        raise where.about(("shots",), msg + hint)
    for shot in shots:
        half = (shot.seconds or 0.0) / 2
        if shot.transition != "cut" and shot.transition_seconds > half + 1e-6:
            msg = f"at most half of its shot, {half:g} s, received {shot.transition_seconds:g}"
            raise where.about((*shot.place, "transition_seconds"), f"{msg}; shorten it")
    _check_ends(scene, at, spoken)
    felt = scene.emotion
    if scene.curve:
        try:
            felt = preset(scene.curve, felt.peak, at)
        except EmotionError as error:
            raise where.wrapped(("curve",), error) from error
    return dataclasses.replace(scene, emotion=felt, curve="", seconds=at, shots=tuple(shots))


def _check_ends(scene: Scene, end: float, spoken: Mapping[Place, float]) -> None:
    """Refuse what would lie beyond the film's end."""
    where = scene.where
    if scene.emotion.duration > end + 1e-6:
        msg = f"emotion: its last key is at {scene.emotion.duration:g} s, the film ends at {end:g}"
        if scene.emotion.duration > LONGEST:
            msg += f" and could last {LONGEST:g} at most"
        raise where.error(("emotion",), f"{msg}; move the keys, or make the shots longer")
    for title in scene.titles:
        if title.at + title.seconds > end + 1e-6:
            msg = f"ends at {title.at + title.seconds:g} s, the film at {end:g}; show it earlier"
            raise where.about((*title.place, "at"), msg)
    for voice in scene.voices:
        if voice.at + spoken.get(voice.place, 0.0) > end + 1e-6:
            till = voice.at + spoken.get(voice.place, 0.0)
            msg = f"is said until {till:.2f} s, the film ends at {end:g}; say it earlier"
            raise where.about((*voice.place, "at"), msg)
    for shot in scene.shots:
        seconds = shot.seconds or 0.0
        if shot.kind in ("prompt", "portrait") and not shot.still and seconds > LONGEST_CLIP:
            msg = f"a shot that a model makes lasts up to {LONGEST_CLIP:g} s, received {seconds:g}"
            raise where.about((*shot.place, "seconds"), f"{msg}; make two of it")


def _own_length(shot: Shot, spoken: Mapping[Place, float]) -> float | None:
    """Seconds of a shot from itself alone, None where it leaves them open."""
    if shot.seconds is not None:
        return shot.seconds
    if shot.speech is None or shot.speech.place not in spoken:
        return None
    # To a tenth, so that what follows begins at a plain time.
    return math.ceil(10 * (shot.speech.at + spoken[shot.speech.place] + AFTER_SPEECH)) / 10


# From tables --------------------------------------------------------------------------------------


def _felt(top: Table, emotion: EmotionTimeline | None) -> tuple[EmotionTimeline, str]:
    """The emotion of a film, and the preset that makes a course of it, "" for none."""
    if emotion is not None:
        return emotion, ""
    felt = top.emotion()
    if felt is None:
        msg = 'emotion: is missing; write e.g. emotion = "0s contentment .5; 8s fear .9"'
        raise top.where.error(("title",), msg)
    curve = top.text("curve", "")
    if not curve:
        return felt, ""
    if not felt.is_constant:
        msg = "curve: makes a course of one emotion, this changes already; leave one of them out"
        raise top.where.error(("curve",), msg)
    return felt, curve


def _file(table: Table, key: str, file_of: Callable[[Place, str], Path]) -> Path:
    return file_of(table.at(key), table.text(key, ""))


def _shot(table: Table, file_of: Callable[[Place, str], Path]) -> Shot:
    table.check(_SHOT)
    kinds = [kind for kind in KINDS if kind in table.data]
    if len(kinds) != 1:
        what = " and ".join(kinds) or "none of them"
        msg = f"shows exactly one of {', '.join(KINDS)}, received {what}; make two shots"
        raise table.where.about(table.place, msg if kinds else msg.replace("make two shots", "add"))
    kind = kinds[0]
    about = table.text("prompt", "")
    if kind == "prompt" and not about.strip():
        raise table.where.about(table.at("prompt"), "is empty; say what should be seen")
    start = table.number("start", None, 0.0, LONGEST)
    seconds = table.number("seconds", None, SHORTEST_SHOT, LONGEST)
    if "end" in table.data:
        end = table.number("end", None, 0.0, LONGEST) or 0.0
        if seconds is not None or start is None:
            msg = "goes with start, and then without seconds; leave one of them out"
            raise table.where.about(table.at("end"), msg)
        seconds = end - start
        if seconds < SHORTEST_SHOT:
            msg = f"at least {SHORTEST_SHOT:g} s after start ({start:g}), received {end:g}"
            raise table.where.about(table.at("end"), f"{msg}; move one of them")
    for key in ("from", "sound"):
        if key in table.data and kind != "video":
            msg = f"is for shots that show a video, this shows a {kind}; leave it out"
            raise table.where.about(table.at(key), msg)
    transition = table.choice("transition", "cut", TRANSITIONS)
    return Shot(
        kind=kind,
        about=about,
        file=None if kind == "prompt" else _file(table, kind, file_of),
        start=start,
        seconds=seconds,
        still=_still(table, kind),
        begin=table.number("from", 0.0, 0.0, 3600.0) or 0.0,
        sound=_sound(table),
        speech=_speech_of_shot(table, file_of, kind),
        emotion=table.emotion(),
        transition=transition,
        transition_seconds=table.number("transition_seconds", DISSOLVE, 0.04, 5.0) or DISSOLVE,
        params=table.table("params").data,
        place=table.place,
    )


def _still(table: Table, kind: str) -> str:
    """How a camera moves over a picture: "auto", kinds of `MOVES` joined by "+", "" for no still.

    A picture that is given is one unless told; a prompt is where it is said.
    """
    value = table.data.get("still", kind == "image")
    if "still" in table.data and kind in ("portrait", "video"):
        msg = f"is for prompts and images, a {kind} moves by itself; leave it out"
        raise table.where.about(table.at("still"), msg)
    if isinstance(value, bool):
        return "auto" if value or kind == "image" else ""
    text = table.text("still", "")
    for name in text.split("+"):
        if name not in MOVES:
            msg = f"true, or of {', '.join(MOVES)}, several joined by +, received {text[:40]!r}"
            raise table.where.about(table.at("still"), f"{msg}; choose one")
    return text


def _sound(table: Table) -> float | None:
    """dB of a video's own sound: `sound = true`, or a number."""
    value = table.data.get("sound", False)
    if isinstance(value, bool):
        return 0.0 if value else None
    return table.number("sound", 0.0, -60.0, 12.0)


def _speech_of_shot(
    table: Table, file_of: Callable[[Place, str], Path], kind: str
) -> Speech | None:
    """What is said in a shot, from its beginning on."""
    if "text" not in table.data and "audio" not in table.data:
        if "voice" in table.data:
            msg = "holds knobs of what is said, and nothing is; add text or audio, or leave it out"
            raise table.where.about(table.at("voice"), msg)
        return None
    found = _words(table, file_of)
    emotion = table.emotion()
    params = table.table("voice").data
    return Speech(*found, 0.0, emotion, 0.0, params, table.place)


def _words(table: Table, file_of: Callable[[Place, str], Path]) -> tuple[str, Path | None]:
    if ("text" in table.data) == ("audio" in table.data):
        what = "both" if "text" in table.data else "neither"
        msg = f"speech is text or audio, received {what}; give one of them"
        raise table.where.about(table.place, msg)
    if "audio" in table.data:
        return "", _file(table, "audio", file_of)
    text = table.text("text", "")
    if not text.strip():
        raise table.where.about(table.at("text"), "is empty; say what should be said")
    return text, None


def _voice(table: Table, file_of: Callable[[Place, str], Path]) -> Speech:
    table.check(_VOICE)
    return Speech(
        *_words(table, file_of),
        at=table.number("at", 0.0, 0.0, LONGEST) or 0.0,
        emotion=table.emotion(),
        volume=table.number("volume", 0.0, -40.0, 12.0) or 0.0,
        params=table.table("params").data,
        place=table.place,
    )


def _title(table: Table) -> Title:
    table.check(_TITLE)
    text = table.text("text", "")
    if not text.strip():
        raise table.where.about(table.at("text"), "is empty; say what should be read")
    return Title(
        text,
        at=table.number("at", 0.0, 0.0, LONGEST) or 0.0,
        seconds=table.number("seconds", 2.5, 0.3, LONGEST) or 2.5,
        where=table.choice("place", "centre", PLACES),
        size=table.number("size", 0.11, 0.03, 0.4) or 0.11,
        place=table.place,
    )


def _music(top: Table) -> Music | None:
    value = top.data.get("music", True)
    if isinstance(value, bool):
        return Music(-9.0, 9.0, {}) if value else None
    table = top.table("music")
    table.check(_MUSIC)
    return Music(
        volume=table.number("volume", -9.0, -40.0, 6.0) or 0.0,
        duck=table.number("duck", 9.0, 0.0, 40.0) or 0.0,
        params=table.table("params").data,
    )
