"""Records in files of sound: ID3 tags, copies with other records, and every kind of damage."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from pipelines.media import COMPOSITE, TRAINED, MediaError, read_metadata
from pipelines.media_sound import (
    MP3_RATES,
    decode_sound,
    encode_sound,
    load_sound,
    read_sound_metadata,
    relabel_sound,
)
from tests.test_media_sound import floats, one_line, tone, wav, written

RECORDS: dict[str, Any] = {
    "affect": {"prompt": "Ünï 日本 \x00"},
    "parameters": "a lake\nSeed: 7, Model: é",
    "digital_source": COMPOSITE,
}


def sound_file(form: str, subtype: str | None = None, channels: int = 2, **options: Any) -> bytes:
    file = io.BytesIO()
    samples = tone(0.5, 44_100, channels).T
    soundfile.write(file, samples, 44_100, format=form, subtype=subtype, **options)
    return file.getvalue()


def tag(size: int, version: int = 3, filling: bytes = b"\0", footer: bool = False) -> bytes:
    """An ID3 tag of another program."""
    parts = bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0))
    body = (filling * size)[:size]
    head = b"ID3" + bytes([version, 0, 0x10 if footer else 0]) + parts
    return head + body + (b"3DI" + head[3:] if footer else b"")


def claiming(seconds: float) -> bytes:
    """An MP3 of half a second whose Xing header claims more frames."""
    data = bytearray(sound_file("MP3"))
    at = max(data.find(b"Xing"), data.find(b"Info"))
    data[at + 8 : at + 12] = struct.pack(">I", int(seconds * 44_100 / 1152))
    return bytes(data)


def rf64(claimed_hours: float | None = None) -> bytes:
    data = bytearray(sound_file("RF64"))
    if claimed_hours is not None:
        frames = int(claimed_hours * 3600 * 44_100)
        at = data.index(b"ds64") + 16
        data[at : at + 16] = struct.pack("<QQ", frames * 4, frames)
    return bytes(data)


LOUD = np.clip(90_000 * np.sin(np.arange(8000) / 10), -(2**15), 2**15 - 1).astype("<i2")
MP3 = sound_file("MP3")

# What is damaged or odd and can be read all the same: bytes -> (channels, samples), extension, bits
READ: dict[str, tuple[bytes, tuple[int, int], str, int]] = {
    "8 bit": (wav(bytes(range(256)) * 4, bits=8), (1, 1024), "wav", 8),
    "24 bit": (sound_file("WAV", "PCM_24"), (2, 22_050), "wav", 24),
    "32 bit": (sound_file("WAV", "PCM_32"), (2, 22_050), "wav", 32),
    "float": (floats([0.5, -0.5, 0.25]), (1, 3), "wav", 32),
    "double": (sound_file("WAV", "DOUBLE"), (2, 22_050), "wav", 32),
    "clipped": (wav(LOUD.tobytes()), (1, 8000), "wav", 16),
    "digital silence": (wav(bytes(2000)), (1, 1000), "wav", 16),
    "one sample": (wav(b"\1\0"), (1, 1), "wav", 16),
    "half a sample too much": (wav(bytes(1001)), (1, 500), "wav", 16),
    "cut short": (sound_file("WAV")[:-4000], (2, 21_050), "wav", 16),
    "a stream, length unknown": (wav(bytes(2000), claimed=2**32 - 1), (1, 1000), "wav", 16),
    "RF64": (rf64(), (2, 22_050), "wav", 16),
    "extensible, 8 channels": (sound_file("WAVEX", "PCM_24", 8), (8, 22_050), "wav", 24),
    "FLAC, 8 channels": (sound_file("FLAC", "PCM_24", 8), (8, 22_050), "flac", 24),
    "FLAC behind ID3": (tag(10) + sound_file("FLAC"), (2, 22_050), "flac", 16),
    "WAV behind ID3": (tag(10) + sound_file("WAV"), (2, 22_050), "wav", 16),
    "MP3 behind a tag and zeros": (tag(10) + bytes(500) + MP3, (2, 22_050), "mp3", 16),
    "MP3, variable rate": (sound_file("MP3", bitrate_mode="VARIABLE"), (2, 22_050), "mp3", 16),
    "MP3, constant rate": (sound_file("MP3", bitrate_mode="CONSTANT"), (2, 22_050), "mp3", 16),
    "MP3, one channel": (sound_file("MP3", channels=1), (1, 22_050), "mp3", 16),
    "MP3 with ID3v1": (MP3 + b"TAG" + bytes(125), (2, 22_050), "mp3", 16),
    "MP3 with a cover picture": (tag(300_000) + MP3, (2, 22_050), "mp3", 16),
    "MP3 behind false frames": (tag(3000, 3, b"\xff\xfb\x90\x64") + MP3, (2, 22_050), "mp3", 16),
    "MP3 with a footer": (tag(100, 4, footer=True) + MP3, (2, 22_050), "mp3", 16),
    "MP3 with two tags": (tag(10) + tag(10) + MP3, (2, 22_050), "mp3", 16),
}  # fmt: skip

REFUSED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "no WAV, FLAC or MP3"),
    "text": (b"The quick brown fox. " * 99, "no WAV, FLAC or MP3"),
    "text that begins like RIFF": (b"RIFF the WAVE of the sea " * 9, "no WAV, FLAC or MP3"),
    "text that begins like ID3": (b"ID3 is a tag format. " * 99, "damaged"),
    "text in UTF-16": (b"\xff\xfe" + "hello".encode("utf-16-le") * 30, "no WAV, FLAC or MP3"),
    "text behind a frame's sync": (b"\xff\xfb" + b"hello" * 200, "damaged"),
    "a page": (b"<!DOCTYPE html><html>", "no WAV, FLAC or MP3"),
    "a film": (b"\0\0\0\x20ftypM4A " + bytes(100), "no WAV, FLAC or MP3"),
    "AAC": (b"\xff\xf1\x50\x80" + bytes(400), "no WAV, FLAC or MP3"),
    "zeros": (bytes(1000), "no WAV, FLAC or MP3"),
    "only an ID3 tag": (tag(1000), "damaged|without samples"),
    "Ogg behind ID3": (tag(10) + written("OGG"), "damaged"),
    "big-endian WAV": (sound_file("WAV", endian="BIG"), "no WAV, FLAC or MP3"),
    "WAV cut in its header": (sound_file("WAV")[:30], "damaged"),
    "FLAC cut short": (sound_file("FLAC")[:-100], "damaged or cut short"),
    "claims 10 hours": (wav(bytes(2000), claimed=8000 * 2 * 36_000), "this says 10.0 hours"),
    "RF64 that claims 10 hours": (rf64(10), "this says 10.0 hours"),
    "MP3 that claims 10 hours": (claiming(36_000), "at most 1 hour, this says 10.0 hours"),
    "NaN": (floats([0.0, float("nan")]), "no numbers"),
    "infinite": (floats([0.0, float("inf")]), "no numbers"),
}


@pytest.mark.parametrize("case", READ)
def test_what_is_odd_is_read(case: str, capfd: pytest.CaptureFixture[str]) -> None:
    data, shape, ext, bits = READ[case]
    sound = decode_sound(data, case)
    assert (sound.waveform.shape, sound.ext, sound.bits) == (shape, ext, bits)
    assert np.abs(sound.waveform).max() <= 1
    assert capfd.readouterr().err == "", "decoders are quiet"


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_one_line(
    case: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data, says = REFUSED[case]
    path = tmp_path / "voice.wav"
    path.write_bytes(data)
    with pytest.raises(MediaError, match=says) as error:
        load_sound(path)
    assert "voice.wav" in one_line(error)
    assert capfd.readouterr().err == "", "decoders are quiet"


def test_a_cut_mp3_is_read_as_far_as_it_goes(capfd: pytest.CaptureFixture[str]) -> None:
    whole, half = decode_sound(MP3).waveform, decode_sound(MP3[: len(MP3) // 2]).waveform
    assert 3000 < half.shape[1] < whole.shape[1]
    assert np.abs(half - whole[:, : half.shape[1]])[:, :3000].max() < 1e-3
    assert capfd.readouterr().err == ""


def test_standard_error_comes_back_after_mp3(capfd: pytest.CaptureFixture[str]) -> None:
    decode_sound(MP3)
    os.write(2, b"still here")
    assert capfd.readouterr().err == "still here"


# --- MP3


@pytest.mark.parametrize("rate", MP3_RATES)
@pytest.mark.parametrize("channels", [1, 2])
def test_mp3_keeps_length_and_place(rate: int, channels: int) -> None:
    for samples in (1, 1151, 1152, 1153, rate // 2 + 7):
        given = tone(1.0, rate, channels)[:, :samples]
        sound = decode_sound(encode_sound(given, rate, {}, "mp3"))
        assert (sound.sample_rate, sound.waveform.shape) == (rate, given.shape)
    error = sound.waveform - given
    assert 10 * np.log10(np.square(given).sum() / np.square(error).sum()) > 25, "nothing is shifted"


def test_mp3_of_loud_samples_is_clipped_and_not_wrapped() -> None:
    square = 1.5 * np.sign(tone(0.2, 44_100, 1))
    found = decode_sound(encode_sound(square, 44_100, {}, "mp3")).waveform
    assert np.corrcoef(found[0], square[0])[0, 1] > 0.95


def test_the_tag_has_no_byte_that_looks_like_a_frame() -> None:
    data = encode_sound(tone(), 44_100, RECORDS, "mp3")
    size = sum(byte << shift for byte, shift in zip(data[6:10], (21, 14, 7, 0), strict=True))
    assert b"\xff" not in data[: 10 + size]
    assert data[10 + size] == 0xFF, "the first frame follows"


def test_a_record_of_a_megabyte_fits_an_mp3(tmp_path: Path) -> None:
    path = tmp_path / "x.mp3"
    given = {"affect": {"x": "y" * (2**20 - 20)}}
    path.write_bytes(encode_sound(tone(), 44_100, given, "mp3"))
    assert read_metadata(path) == given
    assert load_sound(path).waveform.shape == tone().shape


@pytest.mark.parametrize(
    "before",
    [tag(50), tag(50, 4), b"ID3\4\0\0\x7f\x7f\x7f\x7f", b"ID3\4\0\0\xff\xff\xff\xff", b"ID3\4\0\0"],
)
def test_tags_of_others_hold_no_records(before: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.mp3"
    path.write_bytes(before + MP3)
    assert read_sound_metadata(path) == {}


def test_the_comment_of_another_program_is_no_parameters_line(tmp_path: Path) -> None:
    data = encode_sound(tone(), 44_100, {"parameters": "p"}, "mp3")
    path = tmp_path / "x.mp3"
    path.write_bytes(data.replace(b"Affect Studio", b"Another thing"))
    assert read_sound_metadata(path) == {}


def test_an_xmp_packet_alone_says_how_it_was_made(tmp_path: Path) -> None:
    data = encode_sound(tone(), 44_100, {"digital_source": TRAINED}, "mp3")
    path = tmp_path / "x.mp3"
    path.write_bytes(data.replace(b"DIGITALSOURCETYPE\0", b"SOMETHING ELSE...\0"))
    assert read_sound_metadata(path) == {"digital_source": TRAINED}


# --- bits, and copies with other records


@pytest.mark.parametrize("ext", ["wav", "flac"])
@pytest.mark.parametrize("channels", [1, 3, 8])
def test_24_bits_come_back(ext: str, channels: int) -> None:
    given = tone(channels=channels)
    sound = decode_sound(encode_sound(given, 44_100, RECORDS, ext, 24))
    assert (sound.bits, sound.ext) == (24, ext)
    assert np.abs(sound.waveform - given).max() <= 0.5 / 2**23 + 1e-8
    again = decode_sound(encode_sound(sound.waveform, 44_100, {}, ext, 24))
    assert (again.waveform == sound.waveform).all()
    top = decode_sound(encode_sound([-2.0, 2.0], 44_100, {}, ext, 24)).waveform
    assert top.tolist() == [[-1, 1 - 2**-23]]


def test_other_bits_are_refused() -> None:
    with pytest.raises(MediaError, match="16 or 24, received 8") as error:
        encode_sound(tone(), 44_100, {}, "wav", 8)
    one_line(error)


@pytest.mark.parametrize("case", READ)
def test_a_copy_has_our_records_and_the_very_samples(case: str, tmp_path: Path) -> None:
    """Twice, so that records of ours are replaced and not heaped up."""
    data = READ[case][0]
    first = relabel_sound(data, {"affect": {"old": 1}})
    copy = relabel_sound(first, RECORDS, case)
    path = tmp_path / "x"
    path.write_bytes(copy)
    assert read_metadata(path) == RECORDS
    given, found = decode_sound(data), decode_sound(copy)
    assert (found.sample_rate, found.ext, found.bits) == (
        given.sample_rate, given.ext, given.bits
    )  # fmt: skip
    assert (found.waveform == given.waveform).all()
    assert relabel_sound(copy, RECORDS) == copy


def test_nothing_but_media_errors_come_out_of_a_copy() -> None:
    """It should be decoded first; what was not is told in one line where it cannot be copied."""
    refused = []
    for case, (data, _) in REFUSED.items():
        try:
            relabel_sound(data, RECORDS, case)
        except MediaError as error:
            refused.append(str(error))
    assert len(refused) > 8
    assert not [text for text in refused if "\n" in text]
