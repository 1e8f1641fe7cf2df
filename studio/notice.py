"""When a file may show or sound like a real person, and what is then said.

A file counts as made here when it carries a whole request of this studio and is marked as made by
a model from words alone. A re-rendered photo carries a request too, but whoever was in the photo
may still be in the picture. Notes show nobody, and music of ours is played by our piano, whatever
melody it began with. This file reads marks; it does not look at pictures or listen.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.take import Request

# Regulation (EU) 2024/1689, Articles 50(3) and 5(1)(f).
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


def is_ours(file: Path) -> bool:
    """Whether the file carries a whole request of this studio and no photo went into it."""
    from pipelines.media import TRAINED, read_metadata
    from pipelines.take import Take

    try:
        if Take.read(file).request.modality == "music":
            return True
        return read_metadata(file).get("digital_source") == TRAINED
    except ValueError:
        return False


def notice_for(requests: Iterable[Request]) -> str:
    """The notice when an input is not a picture of ours, for its takes are read too; else ""."""
    shown = [request for request in requests if request.modality != "music"]
    for file in {path for request in shown for path in request.inputs.values()}:
        if not is_ours(file):
            return NOTICE.replace("this file", file.name, 1)
    return ""
