"""Polished portraits from a request or the command line to files, with tiny real classes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from adapters.assets import ASSETS
from pipelines.media import load_image
from pipelines.media_video import decode_frames
from pipelines.params import ParamError
from pipelines.portrait_polishers import POLISHERS, Polisher
from pipelines.take import Take
from studio.cli import run
from tests.portrait_contracts import face, model_of, request, takes
from tests.tiny import tiny_portrait
from tests.tiny_polishers import tiny_polisher, tiny_polisher_folder

pytest.importorskip("mediapipe", reason="faces are found by mediapipe (extra: portrait)")

FACE = ASSETS / "samples" / "faces" / "cartoon.jpg"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("weights")
    return {
        "-b": str(tiny_portrait(folder / "portrait")),
        "--polish": str(tiny_polisher_folder("animatediff", folder / "animatediff")),
    }


def make(weights: dict[str, str], out: Path, *more: str) -> list[str]:
    """Arguments of a short film of the cartoon."""
    given = ["--image", str(FACE), "-e", "anger .7", "--seed", "3", "--seconds", ".2"]
    arguments = ["make", "portrait", *given, "--steps", "1", "--size", "256", *more]
    return [*arguments, "-b", weights["-b"], "--out", str(out)]


def shown(path: Path) -> np.ndarray:
    """(T, H, W, 3) of a film."""
    return np.stack([frame for _, frame in decode_frames(path)]).astype(int)


def test_from_the_command_line_to_the_film(
    weights: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    films = {}
    for name, more in {
        "plain": [],
        "zero": ["--polish", weights["--polish"], "--polish-strength", "0"],
        "half": ["--polish", weights["--polish"], "--polish-strength", ".5"],
    }.items():
        assert run(make(weights, tmp_path / name, *more)) == 0
        films[name] = Take.read(Path(capsys.readouterr().out.strip()))
    plain, zero, half = (shown(film.path) for film in films.values())
    assert np.array_equal(zero, plain), "strength 0 gives the renderer's frames, bit for bit"
    assert films["zero"].request.weights == films["plain"].request.weights
    assert plain.shape == half.shape
    change = np.abs(half - plain).max((0, 3))
    left, top, right, bottom = (round(x) for x in films["plain"].reading["motion"]["face"]["box"])
    assert change[top:bottom, left:right].mean() > 10
    assert change[:, :8].mean() < 3, "beyond the face: what the codec costs"
    own, _, painter = films["half"].request.weights.partition("-")
    assert own == films["plain"].request.weights
    assert len(painter) == 16
    beside = [films[name].path.with_suffix(".csv").read_bytes() for name in ("half", "plain")]
    assert beside[0] == beside[1]

    assert run(["remake", str(films["half"].path), "--out", str(tmp_path / "again")]) == 0
    again = Path(capsys.readouterr().out.strip())
    assert again.read_bytes() == films["half"].path.read_bytes()


def test_wan_animate_paints_films_and_stills(tmp_path: Path) -> None:
    model = model_of("portrait-tiny")
    painter = Polisher(
        tiny_polisher("wan-animate"), "tiny", size=32, window=5, overlap=1, steps=2, guidance=1.0,
        cache=tmp_path / "cache",
    )  # fmt: skip
    named = {"polish": "wan-animate", "polish_strength": 0.5, "inputs": {}}
    asked = [
        request("neutral", seconds=0.2, **named),
        request("neutral", seconds=0.2, inputs={}),
        request("neutral", still=True, **named),
    ]
    film, plain, still = takes(model, asked, tmp_path, polisher=painter)
    assert film.request.weights == f"{plain.request.weights}-{painter.digest}"
    assert np.abs(shown(film.path) - shown(plain.path)).max() > 20
    before, after = (np.asarray(load_image(p)).astype(int) for p in (face(), still.path))
    assert np.abs(after - before).max() > 20
    assert (before[:8] == after[:8]).all(), "a still keeps every other pixel"
    assert not painter.busy


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--polish", "wan-anmate"], ["polish", "did you mean wan-animate"]),
        (["--polish", "wan-animate", "--offline"], ["Wan-AI/", "affect models pull wan-animate"]),
        (["--polish", "{portrait}"], ["affect: polish:", "only classes of diffusers"]),
        (["--polish-strength", "2"], ["--polish-strength", "equal to 1"]),
    ],
)
def test_mistakes_are_one_line(
    more: list[str],
    words: list[str],
    weights: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    given = [part.format(portrait=weights["-b"]) for part in more]
    assert run(make(weights, tmp_path / "out", *given)) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1, said.err
    for word in words:
        assert word in said.err
    assert not list((tmp_path / "out").rglob("*.mp4"))


def test_strengths_out_of_range_are_told() -> None:
    with pytest.raises(ParamError, match="polish_strength: allowed 0 to 1"):
        takes(model_of("portrait-tiny"), request(polish_strength=1.5), Path("nowhere"))
    assert not Path("nowhere").exists()


def test_they_are_listed_and_pulled_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert run(["models", "list", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    found = {row["name"]: row for row in rows if row["option"] == "--polish"}
    assert set(found) == set(POLISHERS)
    assert len({row["name"] for row in rows}) == len(rows), "a name to pull means one row"
    assert not any(row["here"] for row in found.values())
    assert {row["option"] for row in rows} == {"--backbone", "--polish"}
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert run(["models", "pull", "wan-animate"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert "licence Apache-2.0" in said[0]
    assert "Wan-AI/Wan2.2-Animate-14B-Diffusers" in said[-1]
    for name, weights in (
        ("animatediff-face", "stable-diffusion-v1-5/stable-diffusion-v1-5"),
        ("animatediff", "guoyww/animatediff-motion-adapter-v1-5-3"),  # that of films
    ):
        assert run(["models", "pull", name]) == 2
        assert f"cannot pull {weights}" in capsys.readouterr().err
