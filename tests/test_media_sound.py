"""Sound in and out: every sample format, damaged and hostile files, the records, the resampler."""

from __future__ import annotations

import io
import struct
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from scipy.io import wavfile

from pipelines import media_sound
from pipelines.media import COMPOSITE, TRAINED, MediaError, read_metadata
from pipelines.media_sound import (
    decode_sound,
    encode_sound,
    kind_of,
    load_sound,
    read_sound_metadata,
    resample,
)

EXTS = ("wav", "flac", "mp3")
EXACT = ("wav", "flac")
HOSTILE = {
    "plain": "a mountain lake",
    "control": "".join(map(chr, range(32))) + "\x7f\x85\u202e\ufeff",
    "unicode": "日本語 Ünïcödé 🌊 \U0010ffff \u2028",
    "64 kB": "x\u00e9\n" * 21_846,
    "lone surrogate": "half \ud83d of a character",
    "xmp": '"/><rdf:li>x</rdf:li> Iptc4xmpExt:DigitalSourceType="http://evil"',
    "mimic": "_PMX affc LIST AFFECT={}",
}


def tone(seconds: float = 0.2, rate: int = 44_100, channels: int = 2) -> np.ndarray:
    """A quiet chord, another note in each channel."""
    t = np.arange(round(seconds * rate)) / rate
    return np.stack([0.4 * np.sin(2 * np.pi * 220 * (i + 1) * t) for i in range(channels)]).astype(
        np.float32
    )


def written(form: str, subtype: str | None = None, *, channels: int = 2, rate: int = 8000) -> bytes:
    """A file as libsndfile writes it."""
    file = io.BytesIO()
    soundfile.write(file, tone(0.5, rate, channels).T, rate, format=form, subtype=subtype)
    return file.getvalue()


def wav(
    body: bytes, *, code: int = 1, channels: int = 1, rate: int = 8000, bits: int = 16,
    claimed: int | None = None,
) -> bytes:  # fmt: skip
    """A WAV file by hand, so that its header can lie."""
    align = channels * bits // 8
    layout = struct.pack("<HHIIHH", code, channels, rate, rate * align % 2**32, align % 2**16, bits)
    size = len(body) if claimed is None else claimed
    head = b"WAVEfmt " + struct.pack("<I", 16) + layout + b"data" + struct.pack("<I", size)
    return b"RIFF" + struct.pack("<I", (len(head) + size) % 2**32) + head + body


def floats(values: list[float]) -> bytes:
    return wav(np.array(values, "<f4").tobytes(), code=3, bits=32)


def one_line(error: pytest.ExceptionInfo[MediaError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 330
    return text


# --- samples


@pytest.mark.parametrize("ext", EXACT)
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_samples_come_back_to_16_bits(ext: str, channels: int) -> None:
    given = tone(channels=channels)
    sound = decode_sound(encode_sound(given, 44_100, {}, ext))
    assert sound.sample_rate == 44_100
    assert sound.waveform.dtype == np.float32
    assert sound.waveform.shape == given.shape
    assert sound.seconds == pytest.approx(0.2)
    assert np.abs(sound.waveform - given).max() <= 0.5 / 2**15 + 1e-7
    again = decode_sound(encode_sound(sound.waveform, 44_100, {}, ext))
    assert (again.waveform == sound.waveform).all(), "nothing drifts"


@pytest.mark.parametrize("ext", EXACT)
def test_full_scale_is_clipped_and_not_wrapped(ext: str) -> None:
    sound = decode_sound(encode_sound(np.array([-2.0, -1.0, 0.0, 1.0, 2.0]), 8000, {}, f".{ext}"))
    top = 1 - 2**-15
    assert sound.waveform.tolist() == [[-1, -1, 0, top, top]]


@pytest.mark.parametrize("ext", EXTS)
def test_same_samples_same_bytes(ext: str) -> None:
    first = encode_sound(tone(), 44_100, {"affect": {"b": 1, "a": 2}, "parameters": "p"}, ext)
    second = encode_sound(tone(), 44_100, {"parameters": "p", "affect": {"a": 2, "b": 1}}, ext)
    assert first == second


@pytest.mark.parametrize(
    ("form", "subtype"),
    [("WAV", name) for name in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW")]
    + [("WAVEX", "PCM_16"), ("FLAC", "PCM_S8"), ("FLAC", "PCM_16"), ("FLAC", "PCM_24")],
)
@pytest.mark.parametrize("rate", [4000, 44_100, 192_000])
def test_every_sample_format_is_read(form: str, subtype: str, rate: int) -> None:
    sound = decode_sound(written(form, subtype, rate=rate))
    assert sound.sample_rate == rate
    coarse = {"PCM_U8": 0.01, "PCM_S8": 0.01, "ULAW": 0.02}.get(subtype, 1e-4)
    assert np.abs(sound.waveform - tone(0.5, rate)).max() < coarse


def test_mp3_is_read() -> None:
    data = written("MP3", rate=44_100)
    for found in (data, b"ID3\4\0\0\0\0\0\x02ab" + data):
        sound = decode_sound(found)
        assert sound.waveform.shape[0] == 2
        assert sound.seconds == pytest.approx(0.5, abs=0.06)
        middle = sound.waveform[0, 5000:15_000]
        assert np.argmax(np.abs(np.fft.rfft(middle))) * 44_100 / len(middle) == pytest.approx(
            220, abs=5
        )


def test_floats_over_full_scale_are_scaled_together() -> None:
    sound = decode_sound(floats([0.5, -2.0, 1.0, 0.0]))
    assert sound.waveform.tolist() == [[0.25, -1.0, 0.5, 0.0]]
    huge = decode_sound(floats([3e38, -3e38, 1.0])).waveform
    assert huge.tolist() == [[1.0, -1.0, pytest.approx(0, abs=1e-30)]]


def test_another_rate_is_made_on_demand(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    path.write_bytes(encode_sound(tone(1.0), 44_100, {}))
    sound = load_sound(path, 16_000)
    assert sound.sample_rate == 16_000
    assert sound.waveform.shape == (2, 16_000)
    assert np.abs(sound.waveform - tone(1.0, 16_000))[:, 100:-100].max() < 1e-3


@pytest.mark.parametrize(
    ("waveform", "rate", "ext", "says"),
    [
        (np.zeros((2, 0)), 44_100, "wav", "shape"),
        (np.zeros((44_100, 2)), 44_100, "wav", "put channels first"),
        (np.zeros((1, 2, 3)), 44_100, "wav", "shape"),
        (np.array([0.0, np.nan]), 44_100, "wav", "finite"),
        (np.array([0.0, np.inf]), 44_100, "flac", "finite"),
        (np.zeros(9), 1000, "wav", "4000 to 192000 Hz"),
        (np.zeros(9), 44_100, "ogg", "wav, flac or mp3, received 'ogg'"),
        (np.zeros((3, 9)), 44_100, "mp3", "mp3 holds 1 or 2 channels, received 3; write wav or"),
        (np.zeros(9), 96_000, "mp3", "mp3 has no 96000 Hz; .* or resample to 48000 Hz"),
        (np.zeros(9), 4_000, "mp3", "mp3 has no 4000 Hz; .* or resample to 8000 Hz"),
    ],
)
def test_what_cannot_be_written_is_told(
    waveform: np.ndarray, rate: int, ext: str, says: str
) -> None:
    with pytest.raises(MediaError, match=says) as error:
        encode_sound(waveform, rate, {}, ext)
    one_line(error)


# --- hostile files

REFUSED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "no WAV, FLAC or MP3"),
    "text": (b"hello, I am no sound", "no WAV, FLAC or MP3"),
    "ogg": (written("OGG"), "no WAV, FLAC or MP3"),
    "aiff": (written("AIFF"), "no WAV, FLAC or MP3"),
    "no samples": (wav(b""), "without samples"),
    "no samples in flac": (encode_sound(tone(), 44_100, {}, "flac")[:90], "samples|damaged"),
    "riff only": (b"RIFF\xff\xff\xff\xffWAVE", "damaged"),
    "flac only": (b"fLaC\x80\0\0\0", "damaged"),
    "mp3 only": (b"\xff\xfb\x90\x64" + bytes(40), "damaged|without samples"),
    "nan": (floats([0.0, float("nan"), 0.5]), "no numbers"),
    "inf": (floats([0.0, float("-inf")]), "no numbers"),
    "1 kHz": (wav(bytes(100), rate=1000), "4 to 192 kHz can be read, this says 1000 Hz"),
    "no rate": (wav(bytes(100), rate=0), "0 Hz|damaged"),
    "2 GHz": (wav(bytes(100), rate=2**31 - 1), "Hz|damaged"),
    "9 channels": (wav(bytes(180), channels=9), "1 to 8 channels"),
    "65,535 channels": (wav(bytes(2**18), channels=65_535), "1 to 8 channels|damaged"),
    "no channels": (wav(bytes(100), channels=0), "channels|damaged"),
    "no bits": (wav(bytes(100), bits=0), "damaged|without samples"),
    "a codec from nowhere": (wav(bytes(100), code=0x7777), "damaged"),
    "2 hours": (wav(bytes(4000 * 7200), bits=8, rate=4000), "at most 1 hour, this says 2.0 hours"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_hostile_files_are_refused_in_one_line(case: str, tmp_path: Path) -> None:
    data, says = REFUSED[case]
    path = tmp_path / "bad\n\x1b[31m.wav"
    path.write_bytes(data)
    start = time.perf_counter()
    with pytest.raises(MediaError, match=says) as error:
        load_sound(path)
    assert "\x1b" not in one_line(error)
    assert time.perf_counter() - start < 8.0  # alone on a core well under a second


def test_a_file_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.wav"
    path.write_bytes(wav(bytes(100)))
    with path.open("r+b") as file:
        file.truncate(257 * 2**20)  # a hole: it takes no space
    with pytest.raises(MediaError, match="may have 256 MB"):
        load_sound(path)


def test_a_header_cannot_claim_hours(tmp_path: Path) -> None:
    """STREAMINFO holds the number of samples in 36 bits: 10 hours, and not known."""
    data = bytearray(encode_sound(tone(), 44_100, {}, "flac"))
    for claimed, says in ((44_100 * 36_000, "10.0 hours"), (2**36 - 1, "hours"), (0, "how long")):
        data[21] = data[21] & 0xF0 | claimed >> 32
        data[22:26] = (claimed & 0xFFFFFFFF).to_bytes(4, "big")
        path = tmp_path / "x.flac"
        path.write_bytes(data)
        with pytest.raises(MediaError, match=says):
            load_sound(path)
    long = wav(bytes(1000), claimed=2**32 - 1)
    assert decode_sound(long).waveform.shape == (1, 500), "written to a pipe: what is there is read"
    with pytest.raises(MediaError, match=r"at most 1 hour, this says 10\.0 hours"):
        decode_sound(wav(bytes(1000), claimed=36_000 * 16_000))


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small FLAC of silence can hold hours of it: the limit is on what it unpacks to."""
    silence = encode_sound(np.zeros((2, 200_000)), 44_100, {}, "flac")
    assert len(silence) < 20_000
    monkeypatch.setattr(media_sound, "MAX_VALUES", 300_000)
    with pytest.raises(MediaError, match="too much to hold") as error:
        decode_sound(silence)
    one_line(error)


def mutants(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Cut short, bits flipped, bytes replaced."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        bad = bytearray(data)
        if i % 3 == 0:
            yield bytes(bad[: int(rng.integers(len(bad)))])
            continue
        # headers are short: most of the damage goes there
        places = rng.integers(4, 120 if i % 2 else len(bad), int(rng.integers(1, 12)))
        for at in places:
            bad[at] = bad[at] ^ 1 << int(rng.integers(8)) if i % 3 == 1 else int(rng.integers(256))
        yield bytes(bad)


@pytest.mark.parametrize("form", ["WAV", "FLAC", "MP3", "ours wav", "ours flac"])
def test_no_bytes_crash_the_reader(form: str, tmp_path: Path) -> None:
    records = {"affect": {"prompt": "x" * 50}, "parameters": "y", "digital_source": TRAINED}
    ours = form.startswith("ours")
    data = encode_sound(tone(), 44_100, records, form.split()[1]) if ours else written(form)
    path = tmp_path / "x.wav"
    taken, refused = 0, []
    for bad in mutants(data, 120, 0):
        path.write_bytes(bad)
        for reader in (load_sound, read_sound_metadata):
            try:
                found = reader(path)
            except MediaError as error:
                refused.append(str(error))
            else:
                taken += 1
                if isinstance(found, media_sound.Sound):
                    assert np.abs(found.waveform).max() <= 1
                    assert found.waveform.shape[1] > 0
    assert taken > 10
    assert refused
    assert not [text for text in refused if "\n" in text or len(text) > 330]


@pytest.mark.parametrize(
    ("magic", "kind"),
    [
        (b"RIFF\0\0\0\0WAVEfmt ", "wav"),
        (b"RIFF\0\0\0\0WEBPVP8 ", None),
        (b"RIFF\0\0\0\0RMIDdata", None),
        (b"fLaC\0\0\0\x22", "flac"),
        (b"ID3\4\0\0\0\0\0\0", "mp3"),
        (b"\xff\xfb\x90\x64", "mp3"),
        (b"\xff\xd8\xff\xe0", None),  # JPEG
        (b"\xff\xfe<\0", None),  # UTF-16
        (b"\xff", None),
        (b"", None),
    ],
)
def test_content_counts_and_not_the_name(magic: bytes, kind: str | None) -> None:
    assert kind_of(magic) == kind


# --- records


@pytest.mark.parametrize("ext", EXTS)
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_records_come_back_as_they_were(ext: str, text: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "affect": {"prompt": text, "deep": [1, 2.5, None, {"x": True}]},
        "parameters": "a lake\nSteps: 20, Seed: 7, Model: é",
        "digital_source": COMPOSITE,
    }
    path = tmp_path / f"take.{ext}"
    path.write_bytes(encode_sound(tone(), 44_100, given, ext))
    assert read_metadata(path) == given == read_sound_metadata(path)
    assert load_sound(path).waveform.shape == tone().shape


@pytest.mark.parametrize("ext", EXTS)
@pytest.mark.parametrize("left", ["affect", "parameters", "digital_source"])
def test_each_record_stands_alone(ext: str, left: str, tmp_path: Path) -> None:
    every = {"affect": {"odd": "x"}, "parameters": "p\nq", "digital_source": TRAINED}
    path = tmp_path / f"x.{ext}"
    path.write_bytes(encode_sound(tone(), 44_100, {left: every[left]}, ext))
    assert read_metadata(path) == {left: every[left]}


@pytest.mark.parametrize("ext", EXTS)
def test_a_sound_from_elsewhere_has_no_records(ext: str, tmp_path: Path) -> None:
    path = tmp_path / f"x.{ext}"
    with soundfile.SoundFile(path, "w", 8000, 1) as file:
        file.title, file.comment, file.software = "song", "a comment", "Another program"
        file.write(np.zeros(100))
    assert read_metadata(path) == {}
    mp3 = tmp_path / "x.mp3"
    mp3.write_bytes(written("MP3"))
    assert read_metadata(mp3) == {}


@pytest.mark.parametrize("ext", EXTS)
def test_other_programs_read_the_sound_and_its_texts(ext: str, tmp_path: Path) -> None:
    path = tmp_path / f"x.{ext}"
    records = {"affect": {"a": 1}, "parameters": "a lake\nSeed: 7", "digital_source": TRAINED}
    path.write_bytes(encode_sound(tone(), 44_100, records, ext))
    with soundfile.SoundFile(path) as file:
        texts = file.copy_metadata()
        assert file.subtype == ("MPEG_LAYER_III" if ext == "mp3" else "PCM_16")
    assert texts["title"] == "a lake"
    assert texts["comment"] == "a lake\nSeed: 7"
    if ext == "wav":
        assert texts["software"] == "Affect Studio"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of chunks that it does not know
            rate, samples = wavfile.read(path)
        assert rate == 44_100
        assert (np.rint(tone() * 2**15) == samples.T).all()
        data = path.read_bytes()
        assert struct.unpack_from("<I", data, 4)[0] == len(data) - 8
        assert b"_PMX" in data
        assert f"<Iptc4xmpExt:DigitalSourceType>{TRAINED}<".encode() in data
    elif ext == "flac":
        assert f"DIGITALSOURCETYPE={TRAINED}".encode() in path.read_bytes()
    else:
        tag = path.read_bytes()
        assert b"XMP\0<?xpacket" in tag
        assert f"<Iptc4xmpExt:DigitalSourceType>{TRAINED}<".encode() in tag


def test_odd_sizes_keep_the_chunks_aligned(tmp_path: Path) -> None:
    for length in range(4):
        records = {"affect": {"x": "y" * length}, "parameters": "z" * length + "a"}
        path = tmp_path / "x.wav"
        path.write_bytes(encode_sound(np.zeros(length + 1), 8000, records))
        assert read_metadata(path) == records


@pytest.mark.parametrize("record", ["[1, 2]", "not json", "[" * 100_000, "NaN"])
def test_hostile_records_are_refused(record: str, tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    text = record.encode() + b" " * (len(record) % 2)
    body = encode_sound(tone(), 44_100, {}) + b"affc" + struct.pack("<I", len(text)) + text
    path.write_bytes(body)
    with pytest.raises(MediaError, match="no JSON object") as error:
        read_metadata(path)
    one_line(error)


def test_a_record_larger_than_allowed_is_not_written() -> None:
    with pytest.raises(MediaError, match="1 MB"):
        encode_sound(tone(), 44_100, {"affect": {"x": "y" * 2**20}})


# --- resampling


@pytest.mark.parametrize(
    ("rate", "wanted"),
    [(44_100, 16_000), (16_000, 44_100), (48_000, 44_100), (44_100, 22_050), (192_000, 4000),
     (4000, 192_000), (11_025, 11_000), (44_100, 44_099)],
)  # fmt: skip
def test_resampling_gives_the_samples_of_the_same_sound(rate: int, wanted: int) -> None:
    """Tones up to 0.9 of the lower Nyquist frequency, as they would have been taken down."""
    top = 0.45 * min(rate, wanted)

    def taken(at: int) -> np.ndarray:
        t = np.arange(-(-(rate // 2 + 3) * at // rate)) / at
        rng = np.random.default_rng(0)
        tones = [np.sin(2 * np.pi * (top * rng.random() * t + rng.random())) for _ in range(12)]
        return np.stack([sum(tones[::2]), sum(tones[1::2])]).astype(np.float32) / 6

    result = resample(taken(rate), rate, wanted)
    expected = taken(wanted)
    assert result.shape == expected.shape
    assert result.dtype == np.float32
    inside = slice(wanted // 20, -(wanted // 20))  # both ends are cut off sharply
    assert np.abs(result - expected)[:, inside].max() < 1e-3


def test_resampling_keeps_what_fits_and_nothing_else() -> None:
    def level(hertz: float) -> float:
        t = np.arange(44_100) / 44_100
        result = resample(np.sin(2 * np.pi * hertz * t), 44_100, 16_000)[200:-200]
        return float(20 * np.log10(np.sqrt(2) * result.std()))

    assert abs(level(1000)) < 0.01
    assert abs(level(7400)) < 0.01
    assert level(8010) < -60
    assert level(8500) < -100
    assert level(20_000) < -100
    t = np.arange(16_000) / 16_000
    back = resample(resample(np.sin(2 * np.pi * 440 * t), 16_000, 44_100), 44_100, 16_000)
    assert back.shape == t.shape
    assert np.abs(back - np.sin(2 * np.pi * 440 * t))[200:-200].max() < 1e-3, "nothing is delayed"


def test_resampling_has_no_seams_between_blocks() -> None:
    """Long sounds are made in blocks of some seconds."""
    t = np.arange(12 * 44_100) / 44_100
    result = resample(np.sin(2 * np.pi * 1000 * t), 44_100, 16_000)
    expected = np.sin(2 * np.pi * 1000 * np.arange(len(result)) / 16_000)
    assert np.abs(result - expected)[500:-500].max() < 1e-4


def test_resampling_short_and_strange() -> None:
    assert resample([0.5], 8000, 16_000).shape == (2,)
    assert resample(np.zeros((3, 0)), 8000, 16_000).shape == (3, 0)
    same = np.ones(4, np.float32)
    assert resample(same, 8000, 8000) is same
    with pytest.raises(MediaError, match="4000 to 192000 Hz"):
        resample(same, 8000, 10)
