"""Sound in and out: an untrusted WAV, FLAC or MP3 file to samples, samples with records to a file.

Files are told apart by their first bytes and never by their name; libsndfile decodes them. What is
written is 16-bit PCM without dither, or MP3 by LAME at its best variable bit rate: the same samples
with the same records are the same bytes. Where the records lie is told in `media_sound_records`.

MP3 keeps the length to the sample (LAME's tag says what to cut off, and it is cut here), but it
cannot hold exact samples, more than two channels or another rate than those of `MP3_RATES`.

This file deliberately does not know what the sound is or says.
"""

from __future__ import annotations

import io
import os
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from adapters.resampling import resampled
from pipelines.media_records import (
    MediaError,
    check_file,
    check_size,
    damaged,
    found_records,
    printable,
    read_input,
    record_bytes,
)
from pipelines.media_sound_records import (
    READERS,
    Records,
    flac_file,
    mp3_file,
    overstated,
    relabelled,
    untagged,
    wav_file,
)

MAX_BYTES = 256 * 2**20  # ten minutes of 48 kHz stereo are 110 MB, of 24 bits 165
MAX_SECONDS = 3600.0
MAX_VALUES = 2**27  # samples of all channels; 512 MB as float32, 25 minutes of 44.1 kHz stereo
MAX_CHANNELS = 8
RATES = (4_000, 192_000)  # Hz
FORMATS = ("wav", "flac", "mp3")
"""Suffixes without the dot that are written."""
MP3_RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
"""Hz that MPEG-1, 2 and 2.5 layer III know."""

_KINDS = {"WAV": "wav", "WAVEX": "wav", "RF64": "wav", "FLAC": "flac", "MP3": "mp3"}
_BLOCK = 2**18  # samples of a channel that are rounded at a time
_BITS = {"PCM_U8": 8, "PCM_S8": 8, "PCM_24": 24, "PCM_32": 32, "FLOAT": 32, "DOUBLE": 32}


_HUSH = threading.Lock()  # or two threads would keep each other's nowhere

Waveform = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Sound:
    """Decoded sound. waveform: float32 (channels, samples), -1..1. sample_rate: Hz.

    ext and bits are those of the file it came from: `wav`, `flac` or `mp3`; 8, 16, 24 or 32.
    """

    waveform: Waveform
    sample_rate: int
    ext: str = "wav"
    bits: int = 16

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return float(self.waveform.shape[1] / self.sample_rate)


def load_sound(path: Path | str, sample_rate: int | None = None) -> Sound:
    """Decode an untrusted sound file.

    Args:
        path: WAV, FLAC or MP3 of at most 256 MB, an hour and 8 channels, 4 to 192 kHz. Float
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
    data = untagged(data)
    kind = kind_of(data[:16]) or kind
    try:
        with _hushed(kind == "mp3"), soundfile.SoundFile(io.BytesIO(data)) as file:
            rate, channels, frames = file.samplerate, file.channels, file.frames
            if _KINDS.get(file.format) != kind:
                raise MediaError(damaged(name))
            bits = _BITS.get(file.subtype, 16)
            promised = frames * overstated(data) if kind == "wav" else frames
            _check_header(rate, channels, max(frames, int(promised)), name)
            samples = file.read(frames, dtype="float32", always_2d=True)
    except MediaError:
        raise
    except Exception as error:  # damaged bytes make decoders raise almost anything
        raise MediaError(damaged(name)) from error
    if not len(samples):
        msg = f"{name}: a sound without samples; give another"
        raise MediaError(msg)
    waveform = np.ascontiguousarray(samples.T)
    del samples
    peak = max(float(waveform.max()), -float(waveform.min()))
    if not np.isfinite(peak):
        msg = f"{name}: holds samples that are no numbers; export it again, as 16-bit for example"
        raise MediaError(msg)
    if peak > 1.0:
        waveform /= np.float32(peak)
        np.clip(waveform, -1.0, 1.0, out=waveform)
    if sample_rate is not None and sample_rate != rate:
        waveform, rate = resample(waveform, rate, sample_rate), sample_rate
    return Sound(waveform, rate, kind, bits)


def encode_sound(
    waveform: ArrayLike,
    sample_rate: int,
    metadata: Mapping[str, Any],
    ext: str = "wav",
    bits: int = 16,
) -> bytes:
    """Encode samples with their records as WAV or FLAC of 16 or 24 bits, or as MP3.

    Args:
        waveform: (channels, samples) or (samples,), -1..1; what is beyond is clipped. 1 to 8
            channels, MP3 1 or 2.
        sample_rate: Hz, 4,000 to 192,000; MP3 one of `MP3_RATES`.
        metadata: any of `affect` (JSON object, or its text), `parameters`, `digital_source` (str).
        ext: `wav`, `flac` or `mp3`, with or without a dot.
        bits: 16 or 24 of WAV and FLAC; MP3 has none.

    Raises:
        MediaError: another suffix or other bits, samples of another shape or not finite, what MP3
            cannot hold, or an `affect` record over 1 MB.
    """
    kind = ext.lower().removeprefix(".")
    if kind not in FORMATS:
        msg = f"ext: sounds are written as wav, flac or mp3, received {ext[:20]!r}; choose one"
        raise MediaError(msg)
    if bits not in (16, 24):
        msg = f"bits: sounds are written with 16 or 24, received {bits}; choose one"
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
    if not np.isfinite(given.min() + given.max()):
        msg = "waveform: holds samples that are no finite numbers; check what made it"
        raise MediaError(msg)
    records = _records(metadata)
    if kind == "mp3":
        return mp3_file(_mp3(given, sample_rate), records)
    # 2^15 (2^23) to the full scale, as decoders divide: what was decoded is written back unchanged
    top = 2 ** (bits - 1)
    channels, frames = given.shape
    whole = np.empty((frames, channels), dtype="<i2" if bits == 16 else "<i4")
    for at in range(0, frames, _BLOCK):  # an hour of sound in a few copies fills a memory
        block = np.rint(given[:, at : at + _BLOCK] * np.float32(top))
        whole[at : at + _BLOCK] = np.clip(block, -top, top - 1).T
    if kind == "wav":
        frame = channels * bits // 8
        layout = struct.pack("<HHIIHH", 1, channels, sample_rate, sample_rate * frame, frame, bits)
        octets = whole.view(np.uint8).reshape(whole.size, whole.itemsize)
        return wav_file(octets[:, : bits // 8].tobytes(), layout, records)
    import soundfile

    file = io.BytesIO()
    if bits == 24:
        whole <<= 8  # libsndfile takes the upper bits of an integer
    soundfile.write(file, whole, sample_rate, format="FLAC", subtype=f"PCM_{bits}")
    return flac_file(file.getvalue(), records)


def relabel_sound(data: bytes, metadata: Mapping[str, Any], name: str = "sound") -> bytes:
    """The same encoded sound with these records in place of all that it says about itself.

    For a result that is the source: decoded it is equal bit by bit, MP3 and float samples too.
    `data` should have been decoded before; metadata as in `encode_sound`.

    Raises:
        MediaError: no WAV, FLAC or MP3, or damaged.
    """
    records = _records(metadata)
    bare = untagged(data)
    try:
        return relabelled(bare, kind_of(bare[:16]) or str(kind_of(data[:16])), records)
    except (struct.error, IndexError, KeyError) as error:
        raise MediaError(damaged(name)) from error


def read_sound_metadata(path: Path | str) -> dict[str, Any]:
    """What a sound file says about itself, as `encode_sound` was given it; nothing is decoded.

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
            record, parameters, source = READERS[kind](file)
    except (OSError, struct.error) as error:
        raise MediaError(damaged(name)) from error
    return found_records(record, parameters, source, name)


def kind_of(magic: bytes) -> str | None:
    """`wav`, `flac`, `mp3` or None, from the first 12 bytes or more."""
    if magic[:4] in (b"RIFF", b"RF64") and magic[8:12] == b"WAVE":
        return "wav"
    if magic[:4] == b"fLaC":
        return "flac"
    # an ID3v2 tag, or the first frame: 11 bits of sync, a version (01 is none), layer III
    frame = len(magic) > 2 and magic[0] == 0xFF and magic[1] & 0xE6 == 0xE2
    if magic[:3] == b"ID3" or (frame and magic[1] & 0x18 != 0x08):
        return "mp3"
    return None


def resample(waveform: ArrayLike, sample_rate: int, wanted: int) -> Waveform:
    """Samples at another rate; see `adapters.resampling`.

    waveform: (..., samples). Returns float32 (..., ceil(samples * wanted / sample_rate)).

    Raises:
        MediaError: a rate outside 4 to 192 kHz.
    """
    for rate in (sample_rate, wanted):
        if not RATES[0] <= rate <= RATES[1]:
            msg = f"sample_rate: {RATES[0]} to {RATES[1]} Hz, received {rate}; choose another"
            raise MediaError(msg)
    return resampled(np.asarray(waveform, dtype=np.float32), sample_rate, wanted)


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


def _records(metadata: Mapping[str, Any]) -> Records:
    return Records(
        record_bytes(metadata),
        str(metadata.get("parameters", "")),
        str(metadata.get("digital_source", "")),
    )


@contextmanager
def _hushed(wanted: bool) -> Iterator[None]:
    """Send the process's standard error nowhere: mpg123 prints lines about damaged frames to it."""
    if not wanted:
        yield
        return
    with _HUSH:
        try:
            kept = os.dup(2)
        except OSError:  # a process without one
            yield
            return
        try:
            with Path(os.devnull).open("wb") as nowhere:
                os.dup2(nowhere.fileno(), 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _mp3(given: NDArray[Any], rate: int) -> bytes:
    """MPEG layer III of samples (channels, samples)."""
    import soundfile

    if given.shape[0] > 2:
        msg = f"ext: mp3 holds 1 or 2 channels, received {given.shape[0]}; write wav or flac"
        raise MediaError(msg)
    if rate not in MP3_RATES:
        near = min(MP3_RATES, key=lambda known: abs(known - rate))
        msg = f"ext: mp3 has no {rate} Hz; write wav or flac, or resample to {near} Hz"
        raise MediaError(msg)
    file = io.BytesIO()
    samples = np.clip(given, -1.0, 1.0).astype(np.float32).T
    options = {"compression_level": 0.0, "bitrate_mode": "VARIABLE"}  # LAME's V0
    soundfile.write(file, samples, rate, format="MP3", **options)
    return file.getvalue()
