"""Weights: the Hugging Face cache, no network, full memory. Every failure is one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import AutoPipelineForText2Image

import pipelines
from pipelines import Backbone, BackboneError, resolve
from pipelines.portrait_polishers import POLISHERS
from pipelines.weights import settle
from tests.tiny import tiny, tiny_folder

ROOT = Path(__file__).resolve().parent.parent
COMMIT = "0123456789abcdef" * 2 + "01234567"  # the libraries look for forty hex digits


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face cache with tiny weights as o/n, laid out as huggingface_hub does."""
    cache = tmp_path_factory.mktemp("hub")
    for name in ("o/n", "Qwen/Qwen-Image"):
        folder = cache / f"models--{name.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text(COMMIT)
        (folder / "snapshots").mkdir()
        tiny_folder("sd15", folder / "snapshots" / COMMIT)
    return cache


def affect(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own: the libraries read these settings once."""
    code = (
        "import sys; from studio.cli import run; code = run(sys.argv[1:]); "
        "print('torch' in sys.modules, file=sys.stderr); sys.exit(code)"
    )
    off = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME")
    kept = {name: value for name, value in os.environ.items() if name not in off}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        env={**kept, **settings},
        capture_output=True,
        text=True,
        timeout=120,
    )


# The cache ----------------------------------------------------------------------------------------


def test_cached_weights_are_loaded_offline(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub))
    pipe = pipelines.load("o/n", offline=True)
    assert type(pipe).__name__ == "StableDiffusionPipeline"
    with pytest.raises(BackboneError, match="o/other are not here and downloads are off"):
        pipelines.load("o/other", offline=True)


@pytest.mark.parametrize("way", ["HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"])
def test_models_list_looks_where_the_libraries_do(hub: Path, tmp_path: Path, way: str) -> None:
    settings = {"HF_HUB_CACHE": str(hub)}
    if way == "HF_HOME":
        (tmp_path / "home").mkdir()
        (tmp_path / "home" / "hub").symlink_to(hub)
        settings = {"HF_HOME": "~/home", "HOME": str(tmp_path)}
    elif way == "XDG_CACHE_HOME":
        (tmp_path / "huggingface").mkdir()
        (tmp_path / "huggingface" / "hub").symlink_to(hub)
        settings = {"XDG_CACHE_HOME": str(tmp_path)}
    done = affect("models", "list", "--json", **settings)
    rows = {row["name"]: row["here"] for row in map(json.loads, done.stdout.splitlines())}
    assert rows["qwen-image"] is True
    assert rows["sdxl"] is False


# No network ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["offline", "unreachable"])
def test_weights_that_cannot_be_had_are_one_line_at_once(tmp_path: Path, how: str) -> None:
    out = ["--out", str(tmp_path / "out")]
    more = ["--offline"] if how == "offline" else []
    done = affect(
        *("make", "image", "a lake", "-b", "nobody/nothing", *out, *more),
        HF_HUB_CACHE=str(tmp_path),
        HF_ENDPOINT="http://127.0.0.1:9",  # a port where nobody listens
    )
    line, torch_is_there = done.stderr.splitlines()
    assert done.returncode == 2
    why = "downloads are off" if how == "offline" else "the hub cannot be reached"
    assert f"weights of nobody/nothing are not here and {why}" in line
    assert "affect models pull nobody/nothing" in line
    assert torch_is_there == "False"


def test_a_pull_without_a_network_is_one_line(tmp_path: Path) -> None:
    done = affect(
        *("models", "pull", "sdxl"), HF_HUB_CACHE=str(tmp_path), HF_ENDPOINT="http://127.0.0.1:9"
    )
    assert done.returncode == 2
    *_, line, _ = done.stderr.splitlines()
    assert "the hub cannot be reached" in line


def test_an_offline_reader_asks_nobody(tmp_path: Path) -> None:
    done = affect(
        *("make", "image", "a lake", "-e", '"I lost my dog"', "--reader", "nobody/reads"),
        *("--offline", "--out", str(tmp_path / "out")),
        HF_HUB_CACHE=str(tmp_path),
        HF_ENDPOINT="http://127.0.0.1:9",
    )
    *lines, _ = done.stderr.splitlines()
    assert (done.returncode, len(lines)) == (2, 1), lines
    assert "nobody/reads" in lines[0]
    assert "Connection" not in lines[0]


# Full memory --------------------------------------------------------------------------------------


def test_weights_that_do_not_fit_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_folder("sd15", tmp_path / "weights")

    def full(*_: object, **__: object) -> None:
        msg = "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"
        raise RuntimeError(msg)

    monkeypatch.setattr(AutoPipelineForText2Image, "from_pretrained", full)
    with pytest.raises(MemoryError, match="does not fit in this machine") as caught:
        pipelines.load(str(folder))
    assert "\n" not in str(caught.value)
    assert "pull" not in str(caught.value)


@pytest.mark.parametrize(
    ("row", "advice"),
    [
        (resolve("sdxl"), "smaller --backbone such as image-tiny"),
        (resolve("wan21"), "smaller --backbone such as video-tiny"),
        (POLISHERS["wan-animate"], "another --polish, or leave --polish out"),
    ],
)
def test_a_device_that_is_full_is_one_line(row: Backbone, advice: str) -> None:
    pipe = tiny("sd15")

    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    pipe.unet.to = full
    with pytest.raises(MemoryError, match="does not fit in the memory of cpu") as caught:
        settle(pipe, torch.device("cpu"), row)
    assert str(caught.value).endswith(advice)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
def test_what_is_too_large_as_a_whole_is_offloaded() -> None:
    pipe = tiny("sd15")
    move, calls = pipe.unet.to, []

    def full_once(*arguments: object, **options: object) -> object:
        calls.append(arguments)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return move(*arguments, **options)

    pipe.unet.to = full_once
    pipe = settle(pipe, torch.device("cuda"), resolve("image-tiny"))
    assert pipe("a lake", num_inference_steps=2, height=32, width=32).images
    assert pipe.device.type == "cpu"
