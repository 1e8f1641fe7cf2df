"""Film in and out: an untrusted MP4 to frames and sound, frames and a sound to an MP4 with records.

PyAV (FFmpeg) decodes and encodes. What is written is H.264 at a quality where no eye finds the
difference, 4:2:0 in BT.709, with AAC beside it, index first: what browsers, phones and editors
play. Frames are taken one by one, so that a film of ten minutes needs no more memory than its file;
the number of threads is fixed, so the same frames with the same records are the same bytes.

Only the MP4 demuxer and the codecs of `CODECS` are ever started on a file from outside. This file
deliberately does not know what a film shows or says.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines.media_records import (
    MediaError,
    check_file,
    damaged,
    found_records,
    printable,
    record_bytes,
)
from pipelines.media_sound_records import Records
from pipelines.media_video_records import is_mp4, labelled, video_records

if TYPE_CHECKING:
    from PIL.Image import Image

    from pipelines.media_sound import Sound

__all__ = [
    "Clip",
    "decode_frames",
    "decode_track",
    "encode_video",
    "is_mp4",
    "label_video",
    "preview",
    "probe_video",
    "read_video_metadata",
]

Frames = NDArray[np.uint8]

MAX_BYTES = 512 * 2**20
MAX_SECONDS = 3600.0
MAX_PIXELS = 4096 * 2304  # of a frame: what level 5.1 of H.264 allows
CODECS = ("h264", "hevc", "mpeg4", "vp9", "av1", "libdav1d", "mjpeg")
"""Codecs of films that are decoded: those of phones, cameras and browsers."""
SOUND_CODECS = ("aac", "mp3", "mp3float", "alac", "opus", "pcm_s16le", "pcm_s16be")
QUALITY = 18  # x264's constant rate factor; called visually lossless
THREADS = 2  # of x264: another number gives other bytes
AAC_RATES = (16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
"""Hz that sounds are written at; others become the next higher one."""
_AAC_FRAME = 1024  # samples
_LEAD = 1.0  # s before a time that is sought: frames in another order, a sound decoder's start


@dataclass(frozen=True, slots=True)
class Clip:
    """What a film says of itself: pixels as shown, frames a second, seconds, if it sounds."""

    width: int
    height: int
    fps: float
    seconds: float
    sound: bool


def encode_video(
    frames: Iterable[Frames],
    fps: int,
    *,
    waveform: NDArray[np.float32] | None = None,
    sample_rate: int = 0,
) -> bytes:
    """Encode frames as they come, with a sound; without records, see `label_video`.

    Args:
        frames: (H, W, 3) uint8, all of one even size, at least one.
        fps: frames a second.
        waveform: float32 (channels, samples), -1..1; cut, or followed by silence, to the length of
            the frames. More than two channels are mixed to one.
        sample_rate: Hz of it.

    Raises:
        MediaError: odd or changing sizes, no frames.
    """
    import av

    file = io.BytesIO()
    count = 0
    with av.open(file, "w", format="mp4", container_options={"fflags": "+bitexact"}) as film:
        video: Any = None
        audio: _Track | None = None
        for pixels in frames:
            if video is None:
                video = _stream(film, pixels.shape, fps)
                audio = _Track(film, waveform, sample_rate) if waveform is not None else None
            if pixels.shape[:2] != (video.height, video.width):
                msg = (
                    f"frames: all of {video.width}x{video.height} px are needed, received "
                    f"{pixels.shape[1]}x{pixels.shape[0]}; render them at one size"
                )
                raise MediaError(msg)
            shown = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            shown = shown.reformat(
                format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG"
            )
            shown.pts = count
            film.mux(video.encode(shown))
            count += 1
            if audio is not None:
                audio.until(count / fps)
        if video is None:
            msg = "frames: at least one is needed, received none; check what makes them"
            raise MediaError(msg)
        film.mux(video.encode(None))
        if audio is not None:
            audio.until(count / fps, last=True)
    return file.getvalue()


def label_video(data: bytes, metadata: Mapping[str, Any]) -> bytes:
    """A film of `encode_video` with its records, its index first.

    metadata: any of `affect` (JSON object, or its text), `parameters`, `digital_source` (str).

    Raises:
        MediaError: no such film, or an `affect` record over 1 MB.
    """
    records = Records(
        record_bytes(metadata),
        str(metadata.get("parameters", "")),
        str(metadata.get("digital_source", "")),
    )
    try:
        return labelled(data, records)
    except (struct.error, IndexError, KeyError, StopIteration) as error:
        raise MediaError(damaged("film")) from error


def read_video_metadata(path: Path | str) -> dict[str, Any]:
    """What an MP4 file says about itself, as `label_video` was given it; nothing is decoded.

    Raises:
        MediaError: no MP4, damaged, or an `affect` record that is no JSON object.
    """
    path = Path(path)
    name = printable(path)
    check_file(path, None, "films")
    try:
        with path.open("rb") as file:
            if not is_mp4(file.read(16)):
                raise MediaError(_no_film(name))
            record, parameters, source = video_records(file)
    except (OSError, struct.error) as error:
        raise MediaError(damaged(name)) from error
    return found_records(record, parameters, source, name)


# Reading -----------------------------------------------------------------------------------------


def probe_video(path: Path | str) -> Clip:
    """What an untrusted film says of itself; only its first frame is decoded.

    Raises:
        MediaError: not a file, over 512 MB, an hour or 4096x2304, no MP4, another codec, damaged.
    """
    with _opened(path) as (film, name):
        video = film.streams.video[0]
        first = next(_decoded(film, name), None)
        if first is None:
            raise MediaError(damaged(name))
        rate = float(video.average_rate or video.guessed_rate or 0)
        seconds = _length(film)
        if not 1 <= rate <= 240:
            rate = 30.0
        height, width = first[1].shape[:2]
        return Clip(width, height, rate, seconds, bool(film.streams.audio))


def decode_frames(
    path: Path | str, *, fps: float | None = None, side: int | None = None, begin: float = 0.0
) -> Iterator[tuple[float, Frames]]:
    """Frames of an untrusted film, upright: (seconds from its beginning, (H, W, 3) uint8).

    Args:
        path: an MP4 of at most 512 MB and an hour.
        fps: at most so many frames a second; others are left out. None: all.
        side: frames whose longer side is above this are scaled down.
        begin: s; the first frame is one at or before it, a keyframe where the film has such.

    Raises:
        MediaError: as `probe_video`, also where it is damaged further on than a frame.
    """
    with _opened(path) as (film, name):
        yield from _decoded(film, name, fps, side, begin)


def decode_track(
    path: Path | str, *, start: float = 0.0, seconds: float = MAX_SECONDS
) -> Sound | None:
    """The sound of an untrusted film, one or two channels; None where it has none that is known.

    start, seconds: the piece that is wanted; only that is held, and it ends where the sound does.

    Raises:
        MediaError: as `probe_video`.
    """
    import av

    from pipelines.media_sound import RATES, Sound

    with _opened(path) as (film, name):
        stream = film.streams.audio[0] if film.streams.audio else None
        context = stream.codec_context if stream is not None else None
        if stream is None or context is None or context.name not in SOUND_CODECS:
            return None
        rate = int(context.sample_rate)
        if not RATES[0] <= rate <= RATES[1]:
            return None
        wanted = round(start * rate), round(start * rate) + round(seconds * rate)
        parts: list[NDArray[np.float32]] = []
        at = first = 0  # samples from the film's beginning: of what comes next, of the first part
        told = False
        try:
            layout = "stereo" if context.channels > 1 else "mono"
            change = av.AudioResampler(format="fltp", layout=layout, rate=rate)
            if start > _LEAD:
                with suppress(av.FFmpegError):
                    film.seek(int((start - _LEAD) / stream.time_base), stream=stream)
            for frame in film.decode(stream):
                if not told:  # later ones follow without a gap
                    at = round(max(0.0, min(float(frame.time or 0.0), MAX_SECONDS)) * rate)
                    told = True
                for part in change.resample(frame):
                    if at + part.samples > wanted[0]:
                        first = first if parts else at
                        parts.append(part.to_ndarray())
                    at += part.samples
                if at >= wanted[1]:
                    break
        except Exception as error:  # what came before is the sound
            if not told:
                raise MediaError(damaged(name)) from error
        if not told:
            return None
        if not parts:
            return Sound(np.zeros((2 if layout == "stereo" else 1, 0), np.float32), rate)
        waveform = np.concatenate(parts, axis=1)
        waveform = np.pad(waveform, ((0, 0), (max(0, first - wanted[0]), 0)))
        skipped = max(0, wanted[0] - first)
        waveform = waveform[:, skipped : skipped + wanted[1] - wanted[0]]
        return Sound(np.clip(np.nan_to_num(waveform), -1, 1).astype(np.float32), rate)


def preview(path: Path | str, seconds: float = 0.0, side: int = 512) -> Image:
    """The frame of a film at a time, or its last one before it; the longer side at most `side`."""
    from PIL import Image

    found = None
    for at, pixels in decode_frames(path, side=side):
        if found is not None and at > seconds + 1e-6:
            break
        found = pixels
    if found is None:
        raise MediaError(damaged(printable(Path(path))))
    return Image.fromarray(found)


@contextmanager
def _opened(path: Path | str) -> Iterator[tuple[Any, str]]:
    import av

    path = Path(path)
    name = printable(path)
    check_file(path, MAX_BYTES, "films")
    with path.open("rb") as file:
        if not is_mp4(file.read(16)):
            raise MediaError(_no_film(name))
        file.seek(0)
        try:
            film = av.open(file, "r", format="mp4", metadata_errors="replace")
        except Exception as error:  # damaged bytes make demuxers raise almost anything
            raise MediaError(damaged(name)) from error
        with film:
            _check(film, name)
            yield film, name


def _check(film: Any, name: str) -> None:
    if not film.streams.video:
        msg = f"{name}: a file without pictures; give a film (MP4)"
        raise MediaError(msg)
    context = film.streams.video[0].codec_context
    if context is None or context.name not in CODECS:
        had = "none that is known" if context is None else context.name
        msg = f"{name}: films in {', '.join(CODECS[:5])} can be read, this has {had}; convert it"
        raise MediaError(msg)
    if context.width * context.height > MAX_PIXELS:
        msg = f"{name}: films up to 4096x2304 can be read, this has {context.width}x"
        raise MediaError(f"{msg}{context.height}; scale it down first")
    seconds = _length(film)
    if seconds > MAX_SECONDS:
        msg = f"{name}: films up to an hour can be read, this says {seconds / 3600:.1f} hours"
        raise MediaError(f"{msg}; cut it")


def _length(film: Any) -> float:
    """Seconds of a film, as far as it says."""
    stream = film.streams.video[0]
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return float(film.duration or 0) / 1e6


def _decoded(
    film: Any,
    name: str,
    fps: float | None = None,
    side: int | None = None,
    begin: float = 0.0,
) -> Iterator[tuple[float, Frames]]:
    import av

    video = film.streams.video[0]
    frames = iter(film.decode(video))
    begun: float | None = None
    shown = -math.inf
    while True:
        try:
            frame = next(frames)
        except StopIteration:
            if begun is not None and begin > 0 and shown < 0:
                raise MediaError(damaged(name)) from None
            return
        except Exception as error:
            if begun is None or (begin > 0 and shown < 0):
                raise MediaError(damaged(name)) from error
            return  # cut short: what came before is a film
        if frame.width * frame.height > MAX_PIXELS:
            raise MediaError(damaged(name))
        time = float(frame.time) if frame.time is not None else 0.0
        if begun is None:
            begun = time
            if begin > _LEAD:
                with suppress(av.FFmpegError):  # what cannot be entered is decoded from here on
                    film.seek(int((begun + begin - _LEAD) / video.time_base), stream=video)
                    frames = iter(film.decode(video))
                    continue
        at = time - begun
        if at > MAX_SECONDS:
            return
        if fps is not None and at < shown + 1 / fps - 1e-3:
            continue
        shown = max(at, shown + 1 / fps) if fps is not None and shown >= 0 else at
        scale = min(1.0, side / max(frame.width, frame.height)) if side else 1.0
        if scale < 1:
            size = [max(2, round(length * scale)) for length in (frame.width, frame.height)]
            frame = frame.reformat(*size, interpolation="AREA")
        pixels = frame.to_ndarray(format="rgb24")
        turns = round(getattr(frame, "rotation", 0) / 90) % 4
        yield at, np.rot90(pixels, turns) if turns else pixels


# Writing -----------------------------------------------------------------------------------------


def _stream(film: Any, shape: tuple[int, ...], fps: int) -> Any:
    height, width = shape[:2]
    if height % 2 or width % 2 or min(height, width) < 16:
        msg = f"frames: even sizes from 16 px are needed, received {width}x{height}; crop them"
        raise MediaError(msg)
    video = film.add_stream("libx264", rate=fps)
    video.width, video.height, video.pix_fmt = width, height, "yuv420p"
    context = video.codec_context
    # x264's macroblock tree, at sizes such as 96x64 and 288x352, now and then gives the same frames
    # other bytes, with any number of threads: one run in ten to fifty.
    context.options = {"preset": "fast", "crf": str(QUALITY), "x264-params": "mbtree=0"}
    context.thread_count = THREADS
    context.gop_size = 2 * fps  # a film can be entered every two seconds
    context.colorspace = context.color_primaries = context.color_trc = 1  # BT.709
    context.color_range = 1  # 16 to 235
    return video


class _Track:
    """The sound of a film, encoded as far as its pictures have come."""

    def __init__(self, film: Any, waveform: NDArray[np.float32], sample_rate: int) -> None:
        from pipelines.media_sound import resample

        channels = np.atleast_2d(waveform)
        if len(channels) > 2:
            channels = channels.mean(axis=0, keepdims=True)
        rate = next((r for r in AAC_RATES if r >= sample_rate), AAC_RATES[-1])
        if rate != sample_rate:
            channels = resample(channels, sample_rate, rate)
        self.film, self.rate, self.channels = film, rate, channels
        self.done = 0
        layout = "stereo" if len(channels) == 2 else "mono"
        self.stream = film.add_stream("aac", rate=rate, layout=layout)
        self.stream.codec_context.format = "fltp"
        self.stream.bit_rate = len(channels) * min(96_000, 4 * rate)  # what a channel can hold
        self.layout = layout

    def until(self, seconds: float, *, last: bool = False) -> None:
        """Encode up to this second of the film; `last` ends the track there."""
        import av

        end = round(seconds * self.rate)
        while self.done < end:
            count = min(_AAC_FRAME, end - self.done)
            if count < _AAC_FRAME and not last:
                return
            part = self.channels[:, self.done : self.done + count]
            part = np.pad(part, ((0, 0), (0, count - part.shape[1]))).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(part), format="fltp", layout=self.layout
            )
            frame.sample_rate, frame.pts = self.rate, self.done
            frame.time_base = Fraction(1, self.rate)
            self.done += count
            self.film.mux(self.stream.encode(frame))
        if last:
            self.film.mux(self.stream.encode(None))


def _no_film(name: str) -> str:
    return f"{name}: its content is no MP4 film, whatever its name says; convert it"
