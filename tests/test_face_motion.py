"""Motion as numbers: ranges, other frame rates, CSV of Live Link Face, JSON of BEAT."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from adapters.face_motion import (
    ARKIT,
    MOUTH,
    Motion,
    MotionError,
    from_csv,
    from_json,
    read_csv,
    to_csv,
    to_json,
    write_csv,
)


def moving(frames: int = 75, fps: float = 25.0, seed: int = 0) -> Motion:
    rng = np.random.default_rng(seed)
    curves = rng.uniform(0, 1, (frames, 52)).astype(np.float32)
    return Motion(curves, rng.normal(0, 6, (frames, 3)).astype(np.float32), fps)


def test_names_are_apples() -> None:
    assert len(ARKIT) == len(set(ARKIT)) == 52
    assert ARKIT[0] == "eyeBlinkLeft"
    assert ARKIT[17] == "jawOpen"
    assert ARKIT[-1] == "tongueOut"
    assert all(ARKIT[k].startswith(("jaw", "mouth", "tongue", "cheekPuff")) for k in MOUTH)


def test_values_are_kept_within_what_a_face_can_do_and_cannot_be_changed() -> None:
    motion = Motion(np.full((2, 52), 1.5), np.full((2, 3), -400.0), 30)
    assert motion.curves.max() == 1.0
    assert motion.pose.min() == -90.0
    with pytest.raises(ValueError, match="read-only"):
        motion.curves[0, 0] = 0.5


@pytest.mark.parametrize(
    ("curves", "pose", "fps", "says"),
    [
        (np.zeros((4, 51)), np.zeros((4, 3)), 30, "curves .T, 52."),
        (np.zeros((4, 52)), np.zeros((3, 3)), 30, "pose .T, 3."),
        (np.zeros((0, 52)), np.zeros((0, 3)), 30, "1 frame"),
        (np.zeros((4, 52)), np.zeros((4, 3)), 0, "frames a second"),
        (np.full((4, 52), np.nan), np.zeros((4, 3)), 30, "finite"),
    ],
)
def test_what_is_no_motion_is_told_in_one_line(
    curves: np.ndarray, pose: np.ndarray, fps: float, says: str
) -> None:
    with pytest.raises(MotionError, match=says) as error:
        Motion(curves, pose, fps)
    assert "\n" not in str(error.value)


def test_other_rates_show_the_same_motion() -> None:
    t = np.arange(90) / 30
    curves = np.zeros((90, 52), np.float32)
    curves[:, 17] = 0.5 + 0.4 * np.sin(2 * np.pi * t)
    motion = Motion(curves, np.zeros((90, 3)), 30)
    slower = motion.resampled(25)
    assert len(slower) == 75
    assert slower.seconds == pytest.approx(motion.seconds)
    expected = 0.5 + 0.4 * np.sin(2 * np.pi * slower.times)
    assert np.abs(slower.channel("jawOpen")[:-2] - expected[:-2]).max() < 0.01
    assert motion.resampled(30) is motion
    held = motion.at([-1.0, 99.0])
    assert (held.curves[0] == motion.curves[0]).all()
    assert (held.curves[1] == motion.curves[-1]).all()


def test_channels_by_name() -> None:
    motion = moving()
    assert (motion.channel("browInnerUp") == motion.curves[:, ARKIT.index("browInnerUp")]).all()
    assert (motion.channel("roll") == motion.pose[:, 2]).all()
    with pytest.raises(MotionError, match="jawOpen"):
        motion.channel("jaw")


@pytest.mark.parametrize("fps", [24.0, 25.0, 29.97, 30.0, 60.0])
def test_csv_and_back(tmp_path: Path, fps: float) -> None:
    motion = moving(round(2.5 * fps), fps)
    read = read_csv(write_csv(tmp_path / "curves.csv", motion), fps)
    assert len(read) == len(motion)
    assert read.fps == fps
    assert np.abs(read.curves - motion.curves).max() < 2e-3
    assert np.abs(read.pose - motion.pose).max() < 0.1


def test_csv_has_the_61_columns_of_live_link_face() -> None:
    head, first, *_ = to_csv(moving()).splitlines()
    names = head.split(",")
    assert names[:3] == ["Timecode", "BlendshapeCount", "EyeBlinkLeft"]
    assert len(names) == len(first.split(",")) == 2 + 52 + 9
    assert first.split(",")[:2] == ["00:00:00:00.000", "61"]


def test_frame_rate_is_found_in_the_timecodes() -> None:
    assert from_csv(to_csv(moving(90, 60.0))).fps == 60
    assert from_csv(to_csv(moving(90, 25.0))).fps == 25
    plain = "JawOpen,HeadPitch\n0.5,0.1\n1,0.1\n"
    read = from_csv(plain)
    assert read.fps == 60
    assert read.channel("jawOpen").tolist() == [0.5, 1.0]
    assert read.channel("pitch")[0] == pytest.approx(np.degrees(0.1))


def test_dropped_frames_leave_no_jump_in_speed() -> None:
    ramp = np.zeros((60, 52), np.float32)
    ramp[:, 17] = np.linspace(0, 1, 60)
    lines = to_csv(Motion(ramp, np.zeros((60, 3)), 30)).splitlines()
    del lines[20:24]
    read = from_csv("\n".join(lines), 30)
    assert len(read) == 60
    assert np.diff(read.channel("jawOpen")).max() < 0.02


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "names such as JawOpen"),
        ("a,b\n1,2\n", "names such as JawOpen"),
        ("JawOpen\nwide\n", "jawOpen holds something else"),
        ("Timecode,JawOpen\n00:00:00:00.0,nan\n00:00:00:01.0,0\n", "finite"),
        ("Timecode,JawOpen\n00:00:00:00.0,0\n09:00:00:01.0,0\n", "1 hour"),
    ],
)
def test_what_is_no_table_of_curves_is_told(text: str, says: str) -> None:
    with pytest.raises(MotionError, match=says) as error:
        from_csv(text)
    assert "\n" not in str(error.value)


def test_binary_files_are_told(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(MotionError, match="cannot be read as text"):
        read_csv(tmp_path / "x.csv")
    with pytest.raises(MotionError, match="cannot be read"):
        read_csv(tmp_path / "missing.csv")


def test_json_and_back() -> None:
    motion = moving()
    read = from_json(to_json(motion))
    assert read.fps == motion.fps
    assert np.abs(read.curves - motion.curves).max() < 1e-5
    assert np.abs(read.pose - motion.pose).max() < 1e-4


def test_faces_of_beat_are_read() -> None:
    names = [name for name in ARKIT if name != "tongueOut"]
    frames = [{"weights": [0.25] * 51, "time": k / 60, "rotation": []} for k in range(5)]
    read = from_json(json.dumps({"names": names, "frames": frames}))
    assert read.fps == pytest.approx(60, abs=0.1)
    assert read.channel("jawOpen")[0] == 0.25
    assert read.channel("tongueOut")[0] == 0.0


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"names": ["jawOpen"], "frames": [{"weights": [1, 2]}]}', "[" * 9999]
)
def test_other_json_is_told(text: str) -> None:
    with pytest.raises(MotionError, match="names") as error:
        from_json(text)
    assert "\n" not in str(error.value)
