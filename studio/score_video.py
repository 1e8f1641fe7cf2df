"""What both readers of pictures read in a film without faces, for `affect score`.

Frames are read, some four a second, as a film that is made here is read when it is finished; what
is told is the mean, and how the readings follow the emotion that the film itself says was asked
for. This file deliberately does not know which film may be scored (studio.score).
"""

from __future__ import annotations

from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from studio.console import note

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

    from adapters.reading import Reading
    from pipelines.take import Take

SIDE = 512  # px of a frame's longer side: critics look at less
READERS = ("critic-image", "reader-image")


def read_frames(file: Path) -> tuple[dict[str, Reading], dict[str, Any]]:
    """Mean readings of a film's frames by name, and what else is told: how they follow.

    Raises:
        MediaError: no film that can be read.
    """
    from adapters.critic import load_critic
    from pipelines.video_take import follows_of, mean_of

    pictures, times, seconds = pictures_of(file)
    read = {name: load_critic(name).read(pictures) for name in READERS}
    more: dict[str, Any] = {"frames_read": len(times), "seconds": round(seconds, 3)}
    asked = _asked(file, times)
    if asked is not None and (follows := follows_of(asked, read, times)):
        more["follows"] = {name: one.to_json() for name, one in follows.items()}
        for name, one in follows.items():
            note(f"{name} follows what was asked: {one.text}")
    return {name: mean_of(one) for name, one in read.items()}, more


def pictures_of(file: Path) -> tuple[list[Image], NDArray[np.float64], float]:
    """Frames of an untrusted film that are read, their seconds, and the length it says it has.

    No more than MOST_READ, whatever length its header claims.
    """
    from PIL.Image import fromarray

    from pipelines.media_video import decode_frames, probe_video
    from pipelines.video_take import MOST_READ, READ_RATE

    clip = probe_video(file)
    rate = min(READ_RATE, MOST_READ / max(clip.seconds, 1e-3))
    frames = islice(decode_frames(file, fps=rate, side=SIDE), MOST_READ)
    seen = [(at, fromarray(pixels)) for at, pixels in frames]
    return [picture for _, picture in seen], np.array([at for at, _ in seen]), clip.seconds


def _asked(file: Path, times: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """(n, 13) what was asked of a film that was made here at `times` s, None of any other."""
    from adapters.agreement import asked_track
    from pipelines import Backbone
    from pipelines.take import Take as Finished
    from pipelines.video import Job, VideoParams, course_of, length_of, regions_of
    from pipelines.video_take import asked_rows

    take: Take | None = None
    with suppress(ValueError):
        take = Finished.read(file)
    if take is not None and take.request.modality == "film":
        return asked_track(take.request.emotion, times)
    if take is None or take.request.modality != "video":
        return None
    request = take.request
    # What was asked is all in the request: its picture and its model need not be here any more.
    row = Backbone(request.backbone, "video", request.backbone, "", "", 0)
    with suppress(ValueError):
        params = VideoParams.parse(request.params)
        seconds = length_of(request.emotion, params)
        course = course_of(request.emotion, params.curve, seconds)
        places = regions_of(params.region, over=params.over)
        return asked_rows(Job(request, params, row, course, places, None, seconds), times)
    return None
