"""When a file may show or sound like a real person, and what is then said.

A file counts as made here when it carries a whole request of this studio and is marked as made by
a model from words alone. A re-rendered photo carries a request too, but whoever was in the photo
may still be in the picture, and a converted recording is still somebody's voice. Notes show nobody,
and music of ours is played by our piano, whatever melody it began with. This file reads marks; it
does not look at pictures or listen, and whether somebody agreed is asked elsewhere
(studio.consent).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.take import Request

# Regulation (EU) 2024/1689, Articles 50(3), 5(1)(f) and, of voices that are changed, 50(4).
NOTICE = (
    "notice: this file does not say that it was made here from words alone, so it may show real "
    "people. Whoever uses emotion recognition on people must tell them (EU AI Act, Art. 50(3)), "
    "and inferring emotions at work or in education is forbidden (Art. 5(1)(f)). The readers were "
    "made for synthetic pictures: what follows is how they read the picture, not what a person "
    "feels."
)

SOUND_NOTICE = NOTICE.replace("it may show real people", "it may be a real voice").replace(
    "The readers were made for synthetic pictures: what follows is how they read the picture",
    "The reader was made for piano music: what follows is how it hears the sound",
)

VOICE_NOTICE = NOTICE.replace("it may show real people", "it may be a real voice").replace(
    "The readers were made for synthetic pictures: what follows is how they read the picture",
    "The readers were made for converted and acted speech: what follows is how they hear the voice",
)

FILM_NOTICE = NOTICE.replace(
    "The readers were made for synthetic pictures: what follows is how they read the picture",
    "The readers were made for rendered faces: what follows is how they read the face",
)

FACES = ("image", "audio", "drive", "portrait", "video")
"""Inputs of a portrait or film that somebody's face or voice may be in."""

CHANGED_NOTICE = (
    "notice: this file may be a real person's voice. Whoever publishes what is made of it must say "
    "that it was made artificially (EU AI Act, Art. 50(4)), and its emotion is read: whoever uses "
    "emotion recognition on people must tell them (Art. 50(3)). The readers say how they hear the "
    "voice, not what a person feels."
)


PORTRAIT_NOTICE = (
    "notice: this file may be of a real person. Whoever publishes what is made of it must say that "
    "it was made artificially (EU AI Act, Art. 50(4)), and the emotion of the result is read: "
    "whoever uses emotion recognition on people must tell them (Art. 50(3)). The readers say how "
    "they read a face, not what a person feels."
)

PAGE_NOTICE = (
    "Everything made here is marked as synthetic; leave the mark on. Use only faces and voices of "
    "people who agreed, and say that it is artificial wherever you publish one (EU AI Act, "
    "Art. 50(4)). Bars and curves say how two readers read a work, not what anyone feels. Whoever "
    "reads the emotions of people must tell them (Art. 50(3)); at work and in education that is "
    "forbidden (Art. 5(1)(f))."
)
"""What stands at the foot of the page in a browser, for whoever is in front of it."""


def is_ours(file: Path) -> bool:
    """Whether the file carries a whole request of this studio and nobody real went into it."""
    from pipelines.take import Take
    from studio.consent import is_nobodys

    try:
        take = Take.read(file)
    except ValueError:
        return False
    return take.request.modality == "music" or is_nobodys(file, take.sha256)


def notices_for(requests: Iterable[Request]) -> list[str]:
    """What is said of inputs that may be real people, for takes of them are read too."""
    from studio.consent import is_nobodys

    told: dict[Path, str] = {}
    for request in requests:
        for name, path in request.inputs.items():
            if path in told or request.modality == "music":
                continue
            if request.modality == "voice":
                nobodys = name != "audio" or is_nobodys(path, request.digests[name])
                told[path] = "" if nobodys else CHANGED_NOTICE
            elif request.modality in ("portrait", "film"):
                # Of a film they are named by their place in its scene: "shots.0.portrait".
                shows = name.rpartition(".")[2] in FACES
                nobodys = not shows or is_nobodys(path, request.digests[name])
                told[path] = "" if nobodys else PORTRAIT_NOTICE
            else:
                told[path] = "" if is_ours(path) else NOTICE
    files: dict[str, list[str]] = {}
    for path, text in told.items():
        if text:
            files.setdefault(text, []).append(path.name)
    return [text.replace("this file", " and ".join(names), 1) for text, names in files.items()]
