"""What a whole process must hold: every module imports without extras, nothing asks the network,
threads do not change a picture, and what is installed is what the project allows.

The network is watched by a `sitecustomize` of the child, which keeps every name that was looked up.
"""

from __future__ import annotations

import importlib.metadata as metadata
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from pipelines.media import load_image
from tests.browser import ROOT

OURS = ("adapters", "pipelines", "training", "studio")
EXTRAS = (
    "gradio", "gradio_client", "mediapipe", "torchaudio", "pyworld", "ftfy", "ray", "c2pa", "mcp",
    "sklearn", "skimage", "scipy", "music21", "mido", "playwright", "tensorboard", "trackio",
    "wandb", "imwatermark", "cv2", "pytest",
)  # fmt: skip
WATCH = """
import os, socket
def note(name):
    with open(os.environ["ASKED"], "a") as file:
        file.write(f"{name}\\n")
    raise OSError(f"no network here: {name}")
connect, lookup = socket.socket.connect, socket.getaddrinfo
def guarded(one, place):
    if one.family in (socket.AF_INET, socket.AF_INET6) and place[0] not in ("127.0.0.1", "::1"):
        note(place)
    return connect(one, place)
def looked(host, *rest, **more):
    if host not in (None, "", "localhost", "127.0.0.1", "::1", "0.0.0.0"):
        note(host)
    return lookup(host, *rest, **more)
socket.socket.connect, socket.getaddrinfo = guarded, looked
"""
# Libraries are loaded once; each of our modules is then imported in a fork that has none of ours.
IMPORTS = """
import importlib, json, os, sys
for name in json.loads(sys.argv[1]):
    sys.modules[name] = None  # as if it were not installed
import torch, diffusers, transformers, peft, typer, rich
from diffusers import DiffusionPipeline, StableDiffusionPipeline
for name in json.loads(sys.argv[2]):
    sys.stdout.flush()
    child = os.fork()
    if not child:
        try:
            importlib.import_module(name)
            code = 0
        except BaseException as error:
            print(json.dumps([name, f"{type(error).__name__}: {error}"]), flush=True)
            code = 1
        os._exit(code)
    os.waitpid(child, 0)
"""


def modules() -> Iterator[str]:
    for layer in OURS:
        yield layer
        for path in sorted((ROOT / layer).glob("*.py")):
            if path.stem not in ("__init__", "__main__"):
                yield f"{layer}.{path.stem}"


@pytest.mark.slow
def test_every_module_is_imported_alone_and_without_extras() -> None:
    """Only the modules of the page may want gradio, and `affect serve` says so before them."""
    names = list(modules())
    found = subprocess.run(
        [sys.executable, "-c", IMPORTS, json.dumps(EXTRAS), json.dumps(names)],
        cwd=ROOT, capture_output=True, text=True, check=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    failed = dict(json.loads(line) for line in found.stdout.splitlines() if line.startswith("["))
    page = {name for name, why in failed.items() if "import of gradio" in why}
    assert {name: why for name, why in failed.items() if name not in page} == {}
    assert all(name.startswith("studio.") for name in page)
    assert not page & {"studio.cli", "studio.serve", "studio.make", "studio.batch", "studio.server"}
    assert len(names) > 150


# The network -------------------------------------------------------------------------------------

MAKES = {
    "image": ["a lake", "--emotion", "fear .8", "--steps", "6", "--seed", "3"],
    "music": ["--emotion", "awe .8", "--seconds", "6", "--candidates", "1"],
    "voice": ["--audio", "assets/samples/speech.wav", "--emotion", "fear .8"],
    "portrait": [
        "--image",
        "assets/samples/faces/closed.jpg",
        "--emotion",
        "awe",
        "--seconds",
        "1",
    ],
    "video": ["the sea", "--emotion", "awe .8", "--seconds", "1"],
}
RUNS = """
import json, sys
from studio.cli import run
for threads, arguments in json.loads(sys.argv[1]):
    import torch
    torch.set_num_threads(threads)
    code = run(arguments)
    if code:
        sys.exit(code)
"""


def made(place: Path, *jobs: tuple[int, str]) -> list[Path]:
    """Takes of (threads, modality) in one fresh process whose network is watched."""
    (place / "sitecustomize.py").write_text(WATCH)
    (place / "home").mkdir()
    runs = [
        (threads, ["make", modality, *MAKES[modality], "--out", str(place / str(k))])
        for k, (threads, modality) in enumerate(jobs)
    ]
    found = subprocess.run(
        [sys.executable, "-c", RUNS, json.dumps(runs)],
        cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": f"{place}:{ROOT}", "ASKED": str(place / "asked"),
             "HOME": str(place / "home"), "HF_HOME": str(place / "home"), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert found.returncode == 0, found.stderr[-800:]
    return [Path(line) for line in found.stdout.splitlines() if Path(line).parent.name in MAKES]


def test_embedded_models_ask_nobody_and_threads_change_no_picture(tmp_path: Path) -> None:
    """One and two threads: at most 2 of 255; the bytes are the same only with the same threads."""
    paths = made(tmp_path, (1, "image"), (2, "image"), (1, "music"), (1, "voice"))
    assert len(paths) == 4
    assert not (tmp_path / "asked").exists(), (tmp_path / "asked").read_text()
    one, two = (np.asarray(load_image(path), dtype=np.int16) for path in paths[:2])
    assert one.std() > 5
    assert np.abs(one - two).max() <= 2


@pytest.mark.slow
def test_faces_and_films_ask_nobody(tmp_path: Path) -> None:
    assert len(made(tmp_path, (1, "portrait"), (1, "video"))) == 2
    assert not (tmp_path / "asked").exists(), (tmp_path / "asked").read_text()


def test_the_watch_sees_what_it_is_for(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(WATCH)
    code = "import urllib.request; urllib.request.urlopen('http://example.org')"
    subprocess.run(
        [sys.executable, "-c", code], capture_output=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "ASKED": str(tmp_path / "asked")},
    )  # fmt: skip
    assert "example.org" in (tmp_path / "asked").read_text()


# What is installed -------------------------------------------------------------------------------


def project() -> dict[str, list[Requirement]]:
    """Requirements of the project by extra; "" for those without one."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = {"": table["dependencies"], **table["optional-dependencies"]}
    return {name: [Requirement(one) for one in many] for name, many in groups.items()}


def pins() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    found = [re.match(r"([A-Za-z0-9_.-]+)==([^\s;#]+)", line) for line in lines]
    return {one[1].lower().replace("_", "-"): Version(one[2]) for one in found if one}


def test_every_dependency_has_a_floor_and_a_cap() -> None:
    for group, many in project().items():
        for one in many:
            kinds = {part.operator for part in one.specifier}
            assert "==" in kinds or ({">=", "<"} <= kinds), (group, str(one))
    gradio = next(one for one in project()["ui"] if one.name == "gradio")
    assert gradio.specifier.contains("6.99")
    assert not gradio.specifier.contains("7.0")
    assert not gradio.specifier.contains("5.9")


def test_what_is_pinned_is_allowed_and_what_is_installed_too() -> None:
    known = pins()
    for many in project().values():
        for one in many:
            name = one.name.lower().replace("_", "-")
            if name in known:
                assert one.specifier.contains(known[name]), (str(one), known[name])
            try:
                here = Version(metadata.version(one.name))
            except metadata.PackageNotFoundError:
                continue  # an extra that is not wanted here
            assert one.specifier.contains(Version(here.public)), (str(one), here)


def tree() -> dict[str, metadata.Distribution]:
    """Every installed package that the project needs, directly or not, with all its extras."""
    todo = [(one.name, one.extras) for many in project().values() for one in many]
    found: dict[str, metadata.Distribution] = {}
    seen = set()
    while todo:
        name, extras = todo.pop()
        key = (name.lower().replace("_", "-"), tuple(sorted(extras)))
        if key in seen:
            continue
        seen.add(key)
        try:
            one = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        found[key[0]] = one
        for text in one.requires or ():
            need = Requirement(text)
            marker = need.marker
            if marker is None or any(marker.evaluate({"extra": e}) for e in ("", *extras)):
                todo.append((need.name, need.extras))
    return found


def licences(one: metadata.Distribution) -> str:
    """Everything a package says of its licence, on one line."""
    about = one.metadata
    classes = [c for c in about.get_all("Classifier") or () if c.startswith("License")]
    said = [about.get("License-Expression") or "", (about.get("License") or "")[:200], *classes]
    return " ".join(" ".join(said).split())


def test_no_package_is_under_the_agpl() -> None:
    found = tree()
    assert len(found) > 60
    bad = re.compile(r"AGPL|Affero|SSPL|Commons Clause|non-?commercial", re.IGNORECASE)
    assert {n: licences(one) for n, one in found.items() if bad.search(licences(one))} == {}
