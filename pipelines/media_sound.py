"""Sound in and out: an untrusted WAV, FLAC or MP3 file to samples, samples with records to a file.

Files are told apart by their first bytes and never by their name; libsndfile decodes them. What is
written is 16-bit PCM without dither, so the same samples with the same records are the same bytes.
The three records lie where the container has a place for them:

* WAV: LIST/INFO texts (RIFF MCI 1991: INAM, ISFT, ICMT with the parameters) before the samples;
  behind them the XMP packet in a `_PMX` chunk (XMP part 3) and the request in a chunk of our own,
  `affc`, which readers skip.
* FLAC: Vorbis comments AFFECT, COMMENT, TITLE and DIGITALSOURCETYPE.

The resampler is windowed-sinc polyphase (Smith & Gossett 1984), because neither numpy nor
libsndfile has one. This file deliberately does not know what the sound is or says.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import gcd
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipelines.media_records import (
    MediaError,
    check_file,
    check_size,
    damaged,
    found_records,
    printable,
    read_input,
    record_bytes,
    source_of,
    xmp_packet,
)

MAX_BYTES = 50 * 2**20
MAX_SECONDS = 3600.0
MAX_VALUES = 2**27  # samples of all channels; 512 MB as float32, 25 minutes of 44.1 kHz stereo
MAX_CHANNELS = 8
RATES = (4_000, 192_000)  # Hz
FORMATS = ("wav", "flac")
"""Suffixes without the dot that are written."""

SOFTWARE = "Affect Studio"
"""The program that a file names as its maker."""

_TEXT_BYTES = 2**22  # of one record that is read: four times what is written
_HALF_WIDTH = 32  # zero crossings of the sinc on each side
_ROLLOFF = 0.94  # of the lower Nyquist frequency: the middle of the transition band
_KAISER = 12.0  # window shape: side lobes 118 dB down (Kaiser 1974)

Waveform = NDArray[np.float32]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Sound:
    """Decoded sound. waveform: float32 (channels, samples), -1..1. sample_rate: Hz."""

    waveform: Waveform
    sample_rate: int

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return float(self.waveform.shape[1] / self.sample_rate)


def load_sound(path: Path | str, sample_rate: int | None = None) -> Sound:
    """Decode an untrusted sound file.

    Args:
        path: WAV, FLAC or MP3 of at most 50 MB, an hour and 8 channels, 4 to 192 kHz. Float
            samples over full scale are scaled down together, not clipped.
        sample_rate: Hz that is wanted; None leaves the file's.

    Raises:
        MediaError: not a file, too large or too long, another format, damaged, or without samples.
    """
    path = Path(path)
    return decode_sound(read_input(path, MAX_BYTES, "sounds"), printable(path), sample_rate)


def decode_sound(data: bytes, name: str = "sound", sample_rate: int | None = None) -> Sound:
    """Decode an untrusted sound in memory, as `load_sound` does; `name` is for the error."""
    import soundfile

    check_size(len(data), MAX_BYTES, "sounds", name)
    kind = kind_of(data[:16])
    if kind is None:
        msg = f"{name}: its content is no WAV, FLAC or MP3, whatever its name says; convert it"
        raise MediaError(msg)
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            rate, channels, frames = file.samplerate, file.channels, file.frames
            _check_header(rate, channels, frames, name)
            samples = file.read(frames, dtype="float32", always_2d=True)
    except MediaError:
        raise
    except Exception as error:  # damaged bytes make decoders raise almost anything
        raise MediaError(damaged(name)) from error
    if not len(samples):
        msg = f"{name}: a sound without samples; give another"
        raise MediaError(msg)
    waveform = np.ascontiguousarray(samples.T)
    peak = float(np.abs(waveform).max())
    if not np.isfinite(peak):
        msg = f"{name}: holds samples that are no numbers; export it again, as 16-bit for example"
        raise MediaError(msg)
    if peak > 1.0:
        waveform /= np.float32(peak)
        np.clip(waveform, -1.0, 1.0, out=waveform)
    if sample_rate is not None and sample_rate != rate:
        waveform, rate = resample(waveform, rate, sample_rate), sample_rate
    return Sound(waveform, rate)


def encode_sound(
    waveform: ArrayLike, sample_rate: int, metadata: Mapping[str, Any], ext: str = "wav"
) -> bytes:
    """Encode samples with their records as 16-bit WAV or FLAC.

    Args:
        waveform: (channels, samples) or (samples,), -1..1; what is beyond is clipped. 1 to 8
            channels.
        sample_rate: Hz, 4,000 to 192,000.
        metadata: any of `affect` (JSON object, or its text), `parameters`, `digital_source` (str).
        ext: `wav` or `flac`, with or without a dot.

    Raises:
        MediaError: another suffix, samples of another shape or not finite, or an `affect` record
            over 1 MB.
    """
    kind = ext.lower().removeprefix(".")
    if kind not in FORMATS:
        msg = f"ext: sounds are written as wav or flac, received {ext[:20]!r}; choose one of these"
        raise MediaError(msg)
    if not RATES[0] <= sample_rate <= RATES[1]:
        msg = f"sample_rate: {RATES[0]} to {RATES[1]} Hz, received {sample_rate}; resample it"
        raise MediaError(msg)
    given = np.atleast_2d(np.asarray(waveform))
    if given.ndim != 2 or not given.size or given.shape[0] > MAX_CHANNELS:
        msg = (
            f"waveform: (channels, samples) with 1 to {MAX_CHANNELS} channels, "
            f"received the shape {given.shape}; put channels first"
        )
        raise MediaError(msg)
    if not np.isfinite(given).all():
        msg = "waveform: holds samples that are no finite numbers; check what made it"
        raise MediaError(msg)
    # 2^15 to the full scale, as decoders divide: what was decoded is written back unchanged
    whole = np.clip(np.rint(given * np.float32(2**15)), -(2**15), 2**15 - 1)
    pcm = np.ascontiguousarray(whole.astype("<i2").T)
    record = record_bytes(metadata)
    parameters = str(metadata.get("parameters", ""))
    source = str(metadata.get("digital_source", ""))
    if kind == "wav":
        return _wav(pcm, sample_rate, record, parameters, source)
    return _flac(pcm, sample_rate, record, parameters, source)


def read_sound_metadata(path: Path | str) -> dict[str, Any]:
    """What a sound file says about itself, as `encode_sound` was given it; nothing is decoded.

    An MP3 says nothing: none is written here.

    Raises:
        MediaError: no WAV, FLAC or MP3, damaged, or an `affect` record that is no JSON object.
    """
    path = Path(path)
    name = printable(path)
    check_file(path, None, "sounds")
    try:
        with path.open("rb") as file:
            kind = kind_of(file.read(16))
            if kind is None:
                msg = f"{name}: its content is no WAV, FLAC or MP3, whatever its name says"
                raise MediaError(f"{msg}; convert it")
            if kind == "wav":
                record, parameters, source = _wav_records(file)
            elif kind == "flac":
                record, parameters, source = _flac_records(file)
            else:
                return {}
    except (OSError, struct.error) as error:
        raise MediaError(damaged(name)) from error
    return found_records(record, parameters, source, name)


def kind_of(magic: bytes) -> str | None:
    """`wav`, `flac`, `mp3` or None, from the first 12 bytes or more."""
    if magic[:4] == b"RIFF" and magic[8:12] == b"WAVE":
        return "wav"
    if magic[:4] == b"fLaC":
        return "flac"
    # an ID3v2 tag, or the first frame: 11 bits of sync, a version (01 is none), layer III
    frame = len(magic) > 2 and magic[0] == 0xFF and magic[1] & 0xE6 == 0xE2
    if magic[:3] == b"ID3" or (frame and magic[1] & 0x18 != 0x08):
        return "mp3"
    return None


def resample(waveform: ArrayLike, sample_rate: int, wanted: int) -> Waveform:
    """Samples at another rate by a windowed sinc.

    Flat (0.1 dB) to 0.86 of the lower Nyquist frequency, 100 dB down from 1.06 of it on.

    waveform: (..., samples). Returns float32 (..., ceil(samples * wanted / sample_rate)); nothing
    is delayed, and outside the given samples is silence.

    Raises:
        MediaError: a rate outside 4 to 192 kHz.
    """
    for rate in (sample_rate, wanted):
        if not RATES[0] <= rate <= RATES[1]:
            msg = f"sample_rate: {RATES[0]} to {RATES[1]} Hz, received {rate}; choose another"
            raise MediaError(msg)
    given = np.asarray(waveform, dtype=np.float32)
    if sample_rate == wanted or not given.size:
        return given
    common = gcd(sample_rate, wanted)
    up, down = wanted // common, sample_rate // common
    half, low_pass = _low_pass(up, down)
    rows = given.reshape(-1, given.shape[-1])
    count = -(-rows.shape[1] * up // down)
    reach = half // up + 1  # samples on each side that a result can hear
    padded = np.pad(rows, ((0, 0), (reach, reach + 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1, axis=1)
    result = np.empty((len(rows), count), dtype=np.float32)
    for phase in range(min(up, count)):
        # results phase, phase + up, ... lie at the same fraction of a sample: one set of weights
        start, fraction = divmod(phase * down, up)
        offsets = (np.arange(-reach, reach + 1) * up - fraction).astype(np.int64)
        inside = np.abs(offsets) <= half
        weights = np.where(inside, low_pass[np.clip(half - offsets, 0, 2 * half)], 0.0)
        here = len(range(phase, count, up))
        part = windows[:, start : start + (here - 1) * down + 1 : down]
        result[:, phase::up] = part @ weights.astype(np.float32)
    return result.reshape(*given.shape[:-1], count)


# --- checks


def _check_header(rate: int, channels: int, frames: int, name: str) -> None:
    if not RATES[0] <= rate <= RATES[1]:
        low, high = (f"{value / 1000:g}" for value in RATES)
        msg = f"{name}: {low} to {high} kHz can be read, this says {rate} Hz; resample it first"
        raise MediaError(msg)
    if not 1 <= channels <= MAX_CHANNELS:
        msg = f"{name}: 1 to {MAX_CHANNELS} channels can be read, this has {channels}; mix it down"
        raise MediaError(msg)
    if frames >= 2**62:  # libsndfile's word for a stream of unknown length, and it cannot read on
        msg = f"{name}: it does not say how long it is, as recordings of a stream; save it as WAV"
        raise MediaError(msg)
    if frames > MAX_SECONDS * rate:
        hours = frames / rate / 3600
        msg = f"{name}: at most {MAX_SECONDS / 3600:g} hour, this says {hours:.1f} hours; cut it"
        raise MediaError(msg)
    if frames * channels > MAX_VALUES:
        minutes = frames / rate / 60
        msg = (
            f"{name}: {minutes:.0f} minutes of {channels} channels at {rate} Hz are too much to "
            "hold; mix it down or cut it"
        )
        raise MediaError(msg)


# --- WAV


def _wav(pcm: NDArray[np.int16], rate: int, record: bytes, parameters: str, source: str) -> bytes:
    frames, channels = pcm.shape
    layout = struct.pack("<HHIIHH", 1, channels, rate, rate * channels * 2, channels * 2, 16)
    title = parameters.split("\n")[0][:200]
    texts = {b"INAM": title, b"ISFT": SOFTWARE, b"ICMT": parameters}
    info = b"INFO" + b"".join(
        _chunk(tag, text.encode("utf-8", "replace") + b"\0") for tag, text in texts.items() if text
    )
    body = b"WAVE" + _chunk(b"fmt ", layout) + _chunk(b"LIST", info)
    body += _chunk(b"data", pcm.tobytes())
    if source:
        body += _chunk(b"_PMX", xmp_packet(source).encode())
    if record:
        body += _chunk(b"affc", record)
    if len(body) >= 2**32:
        msg = f"waveform: {frames} samples are too long for a WAV file; cut it, or write flac"
        raise MediaError(msg)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _chunk(tag: bytes, payload: bytes) -> bytes:
    return tag + struct.pack("<I", len(payload)) + payload + b"\0" * (len(payload) % 2)


def _wav_records(file: BinaryIO) -> tuple[bytes, str, str]:
    file.seek(12)
    record, source = b"", ""
    info: dict[bytes, str] = {}
    for tag, size in _headers(file, "<4sI", 1000):
        if tag not in (b"LIST", b"_PMX", b"affc") or size > _TEXT_BYTES:
            file.seek(size + size % 2, io.SEEK_CUR)
            continue
        payload = file.read(size)
        file.seek(size % 2, io.SEEK_CUR)
        if tag == b"affc":
            record = payload
        elif tag == b"_PMX":
            source = source_of(payload.decode("utf-8", "replace"))
        elif payload[:4] == b"INFO":
            inner = io.BytesIO(payload[4:])
            for name, length in _headers(inner, "<4sI", 1000):
                text = inner.read(length).removesuffix(b"\0")
                inner.seek(length % 2, io.SEEK_CUR)
                info.setdefault(name, text.decode("utf-8", "replace"))
    # the comment of another program is no parameters line of ours
    ours = info.get(b"ISFT") == SOFTWARE
    return record, info.get(b"ICMT", "") if ours else "", source


def _headers(file: BinaryIO, form: str, most: int) -> Iterator[tuple[Any, ...]]:
    """Chunk headers until the end, or `most` of them; the caller moves on to the next one."""
    width = struct.calcsize(form)
    for _ in range(most):
        head = file.read(width)
        if len(head) < width:
            return
        yield struct.unpack(form, head)


# --- FLAC


def _flac(pcm: NDArray[np.int16], rate: int, record: bytes, parameters: str, source: str) -> bytes:
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, pcm, rate, format="FLAC", subtype="PCM_16")
    data = file.getvalue()
    texts = {
        "TITLE": parameters.split("\n")[0][:200],
        "ENCODER": SOFTWARE,
        "COMMENT": parameters,
        "DIGITALSOURCETYPE": source,
        "AFFECT": record.decode("ascii"),
    }
    comments = [f"{key}={text}".encode("utf-8", "replace") for key, text in texts.items() if text]
    vendor = SOFTWARE.encode()
    block = struct.pack("<I", len(vendor)) + vendor + struct.pack("<I", len(comments))
    block += b"".join(struct.pack("<I", len(comment)) + comment for comment in comments)
    kept = [(kind, data[at : at + size]) for kind, at, size in _flac_blocks(data)]
    # STREAMINFO has to be first and SEEKTABLE is wanted; padding and libsndfile's comments are not
    blocks = [(kind, body) for kind, body in kept if kind in (0, 3)] + [(4, block)]
    frames = max(at + size for _, at, size in _flac_blocks(data))
    head = b"fLaC"
    for i, (kind, body) in enumerate(blocks, 1):
        last = 0x80 if i == len(blocks) else 0
        head += bytes([last | kind]) + len(body).to_bytes(3, "big") + body
    return head + data[frames:]


def _flac_blocks(data: bytes) -> list[tuple[int, int, int]]:
    """(kind, place, size) of every metadata block of a FLAC file that libsndfile wrote."""
    found = []
    at, last = 4, False
    while not last:
        last, kind = bool(data[at] & 0x80), data[at] & 0x7F
        size = int.from_bytes(data[at + 1 : at + 4], "big")
        found.append((kind, at + 4, size))
        at += 4 + size
    return found


def _flac_records(file: BinaryIO) -> tuple[bytes, str, str]:
    file.seek(4)
    found: dict[bytes, bytes] = {}
    for (word,) in _headers(file, ">I", 1000):
        kind, size = word >> 24 & 0x7F, word & 0xFFFFFF
        if kind == 4:
            found |= _comments(io.BytesIO(file.read(size)))
        else:
            file.seek(size, io.SEEK_CUR)
        if word >> 31:
            break
    record = found.get(b"AFFECT", b"")
    source = found.get(b"DIGITALSOURCETYPE", b"")[:200].decode("utf-8", "replace")
    ours = found.get(b"ENCODER") == SOFTWARE.encode()
    parameters = found.get(b"COMMENT", b"").decode("utf-8", "replace")
    return record, parameters if ours else "", source


def _comments(block: io.BytesIO) -> dict[bytes, bytes]:
    """The entries of a Vorbis comment block by their names; as far as they are whole."""
    found: dict[bytes, bytes] = {}
    for (size,) in _headers(block, "<I", 1):
        block.seek(size, io.SEEK_CUR)
    for (count,) in _headers(block, "<I", 1):
        for (size,) in _headers(block, "<I", min(count, 1000)):
            key, _, text = block.read(size).partition(b"=")
            found.setdefault(key.upper(), text)
    return found


# --- resampling


def _low_pass(up: int, down: int) -> tuple[int, Floats]:
    """Half length and the 2 * half + 1 weights of the filter at `up` times the given rate."""
    step = max(up, down)
    half = _HALF_WIDTH * step
    at = np.arange(-half, half + 1) / step
    weights = _ROLLOFF * np.sinc(_ROLLOFF * at) * np.kaiser(2 * half + 1, _KAISER)
    return half, np.asarray(weights * up / step)
