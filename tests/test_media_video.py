"""Film in and out: sizes, sound in time, records that survive, hostile and damaged files."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from pipelines import media_video
from pipelines.camera import move
from pipelines.media import COMPOSITE, TRAINED, MediaError, read_metadata
from pipelines.media_sound import encode_sound
from pipelines.media_video import (
    decode_frames,
    decode_track,
    encode_video,
    label_video,
    preview,
    probe_video,
    read_video_metadata,
)
from tests.test_media_sound import HOSTILE

RATE = 16_000


def pictures(count: int = 30, width: int = 64, height: int = 48) -> list[np.ndarray]:
    """A bright bar that moves over a coloured slope."""
    y, x = np.mgrid[0:height, 0:width]
    base = np.stack([2 * x, 3 * y, 128 + 0 * x], 2).clip(0, 255).astype(np.uint8)
    out = []
    for k in range(count):
        frame = base.copy()
        frame[:, 2 * k % width : 2 * k % width + 6] = 250
        out.append(frame)
    return out


def dissolving(seed: int) -> list[np.ndarray]:
    """Two stills under a moving camera, one dissolving into the other, which ends in black."""

    def still(seed: int, kind: str, count: int) -> list[np.ndarray]:
        coarse = np.random.default_rng(seed).integers(0, 255, (8, 12, 3)).astype(np.uint8)
        pixels = np.asarray(Image.fromarray(coarse).resize((96, 64)))
        picture = torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255
        generator = torch.Generator().manual_seed(seed)
        moved = move(picture, count / 10, 10, kind=kind, tempo=0.0, generator=generator)
        return [(frame.permute(1, 2, 0) * 255).numpy() for frame in moved]

    one, other = still(seed, "sway", 30), still(seed + 100, "push", 28)
    out = []
    for i in range(50):
        share = min(max((i - 23) / 6, 0.0), 1.0)
        frame = one[min(i, 29)] * (1 - share) + other[max(i - 22, 0)] * share
        out.append((frame * min(1.0, (50 - i) / 10)).astype(np.uint8))
    return out


def clicks(seconds: float, rate: int = RATE, channels: int = 1) -> np.ndarray:
    """Bursts of a tone at .2, .5 and .8 s of each second."""
    t = np.arange(round(seconds * rate)) / rate
    gate = sum(np.exp(-(((t % 1 - at) / 0.01) ** 2)) for at in (0.2, 0.5, 0.8))
    return np.stack([0.5 * gate * np.sin(2 * np.pi * 1000 * t)] * channels).astype(np.float32)


def film(tmp_path: Path, name: str = "a.mp4", **more: object) -> Path:
    path = tmp_path / name
    path.write_bytes(label_video(encode_video(pictures(), 30, **more), {}))
    return path


def raw(codec: str, form: str, pixels: str = "yuv420p") -> bytes:
    """A film of another program."""
    file = io.BytesIO()
    with av.open(file, "w", format=form) as out:
        stream = out.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
        for picture in pictures(5):
            shown = av.VideoFrame.from_ndarray(picture, format="rgb24")
            out.mux(stream.encode(shown.reformat(format=pixels)))
        out.mux(stream.encode(None))
    return file.getvalue()


@pytest.mark.parametrize("fps", [25, 30])
@pytest.mark.parametrize("size", [(64, 48), (18, 16), (130, 98)])
def test_frames_come_back(tmp_path: Path, fps: int, size: tuple[int, int]) -> None:
    given = pictures(20, *size)
    path = tmp_path / "a.mp4"
    path.write_bytes(label_video(encode_video(iter(given), fps), {}))
    found = list(decode_frames(path))
    assert [at for at, _ in found] == pytest.approx([k / fps for k in range(20)])
    for one, (_, other) in zip(given, found, strict=True):
        assert one.shape == other.shape
        assert np.abs(one.astype(int) - other).mean() < 4
    clip = probe_video(path)
    assert (clip.width, clip.height, clip.fps, clip.sound) == (*size, fps, False)
    assert clip.seconds == pytest.approx(20 / fps, abs=1e-3)
    assert decode_track(path) is None


def test_colours_keep_their_level(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    for colour in ((255, 255, 255), (0, 0, 0), (200, 30, 30), (30, 60, 200), (128, 128, 128)):
        flat = np.full((32, 32, 3), colour, np.uint8)
        path.write_bytes(encode_video([flat] * 3, 30))
        found = next(decode_frames(path))[1]
        assert np.abs(found.astype(int) - colour).max() <= 3, colour
    with av.open(str(path)) as opened:
        context = opened.streams.video[0].codec_context
        assert (context.pix_fmt, int(context.colorspace), int(context.color_range)) == (
            "yuv420p", 1, 1,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("rate", "channels"), [(8000, 1), (16_000, 1), (22_050, 2), (44_100, 1), (96_000, 3)]
)
def test_sound_is_in_time(tmp_path: Path, rate: int, channels: int) -> None:
    given = clicks(1.0, rate, channels)
    path = film(tmp_path, waveform=given, sample_rate=rate)
    found = decode_track(path)
    assert found is not None
    assert len(found.waveform) == min(channels, 2) if channels < 3 else 1
    t = np.arange(found.waveform.shape[1]) / found.sample_rate
    loud = found.waveform[0] ** 2
    for at in (0.2, 0.5, 0.8):
        near = np.abs(t - at) < 0.1
        assert (loud[near] * t[near]).sum() / loud[near].sum() == pytest.approx(at, abs=0.002)
    assert np.abs(found.waveform).max() == pytest.approx(0.5, abs=0.06)
    assert abs(found.seconds - 1.0) < 0.07


@pytest.mark.parametrize("seconds", [0.01, 0.4, 3.0])
def test_sound_lasts_as_long_as_the_frames(tmp_path: Path, seconds: float) -> None:
    path = film(tmp_path, waveform=clicks(seconds), sample_rate=RATE)
    found = decode_track(path)
    assert found is not None
    assert abs(found.seconds - 1.0) < 0.07
    after = found.waveform[:, round((seconds + 0.1) * RATE) :]
    assert not after.size or np.abs(after).max() < 1e-3


def test_same_frames_same_bytes() -> None:
    one, other = (
        encode_video(pictures(60), 30, waveform=clicks(2), sample_rate=RATE) for _ in "ab"
    )
    assert one == other


@pytest.mark.parametrize("name", HOSTILE)
def test_records_survive(tmp_path: Path, name: str) -> None:
    text = HOSTILE[name].encode("utf-8", "replace").decode()
    metadata = {
        "affect": {"format": 1, "request": {"prompt": HOSTILE[name]}},
        "parameters": text,
        "digital_source": COMPOSITE,
    }
    path = tmp_path / "a.mp4"
    path.write_bytes(label_video(encode_video(pictures(), 30), metadata))
    found = read_metadata(path)
    assert found["affect"] == metadata["affect"]
    assert found["parameters"] == text
    assert found["digital_source"] == COMPOSITE
    assert len(list(decode_frames(path))) == 30


def test_index_lies_before_the_samples_and_tools_see_the_title(tmp_path: Path) -> None:
    plain = encode_video(pictures(), 30, waveform=clicks(1), sample_rate=RATE)
    path = tmp_path / "a.mp4"
    path.write_bytes(label_video(plain, {"parameters": "a title\nSeed: 7", "affect": {"a": 1}}))
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    with av.open(str(path)) as opened:
        assert opened.metadata["title"] == "a title"
        assert opened.metadata["comment"] == "a title\nSeed: 7"
    again = label_video(data, {"digital_source": TRAINED})  # a second label replaces the first
    path.write_bytes(again)
    assert read_video_metadata(path) == {"digital_source": TRAINED}
    assert len(list(decode_frames(path))) == 30


def test_comments_of_other_programs_are_none_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(raw("mpeg4", "mp4"))
    assert read_video_metadata(path) == {}
    assert len(list(decode_frames(path))) == 5


def test_frames_can_be_left_out_and_scaled(tmp_path: Path) -> None:
    path = film(tmp_path)
    found = list(decode_frames(path, fps=10, side=32))
    assert len(found) == 10
    assert found[0][1].shape == (24, 32, 3)
    assert [at for at, _ in found] == pytest.approx(np.arange(10) / 10, abs=0.04)
    assert preview(path, 0.5, side=32).size == (32, 24)
    late, last = preview(path, 99.0), pictures()[-1]
    assert np.abs(np.asarray(late).astype(int) - last).mean() < 4


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "no MP4"),
        (b"GIF89a" + bytes(100), "no MP4"),
        (encode_sound(clicks(0.1), RATE, {}), "no MP4"),
        (raw("mpeg4", "avi"), "no MP4"),
        (raw("mpeg4", "mp4")[:60], "damaged"),
        (struct.pack(">I4s", 16, b"ftyp") + b"isom" + bytes(100), "damaged|without pictures"),
        (raw("png", "mov", "rgb24"), "films in h264"),
    ],
    ids=["empty", "gif", "wav", "avi", "cut", "zeros", "codec"],
)
def test_what_is_no_film_is_told_in_one_line(tmp_path: Path, data: bytes, told: str) -> None:
    path = tmp_path / "x.mp4"
    path.write_bytes(data)
    with pytest.raises(MediaError, match=told) as caught:
        probe_video(path)
    assert "\n" not in str(caught.value)


def test_every_cut_is_frames_or_one_line(tmp_path: Path) -> None:
    whole = label_video(encode_video(pictures(), 30, waveform=clicks(1), sample_rate=RATE), {})
    path = tmp_path / "x.mp4"
    rng = np.random.default_rng(0)
    for cut in np.linspace(9, len(whole) - 1, 25).astype(int):
        broken = bytearray(whole[:cut])
        for place in rng.integers(8, cut, 3):
            broken[place] ^= 0xFF
        path.write_bytes(bytes(broken))
        for look in (
            probe_video,
            decode_track,
            read_video_metadata,
            lambda p: list(decode_frames(p)),
        ):
            told = ""
            try:
                look(path)
            except MediaError as error:
                told = str(error)
            assert "\n" not in told


def test_limits_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = film(tmp_path)
    for name, value, told in (
        ("MAX_BYTES", 2**20, "1 MB"), ("MAX_PIXELS", 100, "4096"), ("MAX_SECONDS", 0.5, "hour"),
    ):  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setattr(media_video, name, value)
            if name == "MAX_BYTES":
                path.write_bytes(path.read_bytes() + bytes(2**21))
            with pytest.raises(MediaError, match=told):
                probe_video(path)
    with pytest.raises(MediaError, match="no such file"):
        probe_video(tmp_path / "none.mp4")


@pytest.mark.parametrize("begin", [0.0, 1.5, 6.3, 6.99, 30.0])
def test_frames_from_a_time_on_begin_at_the_keyframe_before(tmp_path: Path, begin: float) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(label_video(encode_video(pictures(70), 10), {}))
    whole = dict(decode_frames(path))
    found = list(decode_frames(path, begin=begin))
    times = [at for at, _ in found]
    assert times[-1] == pytest.approx(6.9)
    assert times[0] <= begin
    if begin > 5:
        assert times[0] >= 4, "what lies before the keyframe is not decoded"
    for at, pixels in found:
        near = min(whole, key=lambda one: abs(one - at))
        assert near == pytest.approx(at, abs=1e-3)
        assert (pixels == whole[near]).all(), "the same pictures at the same times"


@pytest.mark.parametrize("start", [0.0, 0.4, 3.0, 7.25, 9.9, 20.0])
def test_a_piece_of_the_sound_is_that_of_the_whole(tmp_path: Path, start: float) -> None:
    path = tmp_path / "a.mp4"
    given = clicks(10.0, 44_100, 2)
    path.write_bytes(encode_video(pictures(100), 10, waveform=given, sample_rate=44_100))
    whole = decode_track(path).waveform
    piece = decode_track(path, start=start, seconds=2.0)
    first = round(start * 44_100)
    expected = whole[:, first : first + 88_200]
    assert piece.waveform.shape == expected.shape
    assert np.abs(piece.waveform - expected).max(initial=0.0) < 1e-4


def test_odd_and_changing_sizes_are_refused() -> None:
    with pytest.raises(MediaError, match="even"):
        encode_video([np.zeros((31, 32, 3), np.uint8)], 30)
    with pytest.raises(MediaError, match="one size"):
        encode_video([np.zeros((32, 32, 3), np.uint8), np.zeros((32, 34, 3), np.uint8)], 30)
    with pytest.raises(MediaError, match="at least one"):
        encode_video([], 30)


def test_a_phone_s_turned_film_is_upright(tmp_path: Path) -> None:
    """The matrix of the track turns the picture, as phones write it."""
    path = film(tmp_path)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 4 + 36  # version, times, id, layer and volume before the matrix
    turned = (0, 0x10000, 0, -0x10000, 0, 0, 0, 0, 0x40000000)
    assert struct.unpack_from(">9i", data, at)[0] == 0x10000
    struct.pack_into(">9i", data, at, *turned)
    path.write_bytes(bytes(data))
    found = next(decode_frames(path))[1]
    assert found.shape == (64, 48, 3)
    expected = np.rot90(pictures(1)[0], -1)
    assert np.abs(found.astype(int) - expected).mean() < 6
    assert Image.fromarray(found).size == (probe_video(path).width, probe_video(path).height)


def test_the_same_frames_are_the_same_bytes() -> None:
    for seed in (0, 1, 3):  # x264's macroblock tree gave up to four different films of these
        frames = dissolving(seed)
        assert len({encode_video(iter(frames), 10) for _ in range(15)}) == 1, seed
