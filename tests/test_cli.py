"""The command line as a person meets it: results, exit codes, one line for every mistake."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from adapters.calibration import LEVELS, Calibration, Response
from adapters.emotion import CORE, EmotionTimeline
from pipelines.media import load_image, read_metadata
from pipelines.media_sound import encode_sound
from pipelines.take import Request, Take, write_take
from studio.calibrate import core_names, report
from studio.cli import VERBS, run
from studio.grid import emotion_names, level_values
from studio.options import with_params
from studio.remake import chosen_params, lora_of
from studio.run import PANELS, params_of, portable
from tests import speech
from tests.tiny import tiny_composer, tiny_folder, tiny_portrait, tiny_voice

ROOT = Path(__file__).resolve().parent.parent
FAST = ["--steps", "2"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of real Stable Diffusion parts, tiny and random."""
    return Path(tiny_folder("sd15", tmp_path_factory.mktemp("weights") / "sd15"))


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fitted directions go to a folder of this test run."""
    before = os.environ.get("AFFECT_CACHE")
    os.environ["AFFECT_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["AFFECT_CACHE"]
    else:
        os.environ["AFFECT_CACHE"] = before


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 255, (40, 56, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def take(tmp_path: Path) -> Take:
    """A finished take that no model was needed for, with hostile words in it."""
    numbers = dict.fromkeys(CORE, 0.05)
    reading = {
        "critic": {"reader": "critic-image", "intensities": {**numbers, "sadness": 0.7}},
        "reader": {"reader": "reader-image", "intensities": {**numbers, "sadness": 0.6}},
    }
    request = Request(
        "image",
        'a lake\x1b[31m <script>alert(1)</script> "quoted"',
        EmotionTimeline.parse("sadness .8"),
        7,
        "image-tiny",
        {"steps": 2},
    )
    return write_take(request, Image.new("RGB", (32, 32)), tmp_path / "out", reading=reading)


def files(folder: Path) -> list[Path]:
    """What a run has left in an output folder, besides ledger and lock."""
    if not folder.exists():
        return []
    kept = ("takes.jsonl", ".takes.lock")
    return [path for path in folder.rglob("*") if path.is_file() and path.name not in kept]


# Help ----------------------------------------------------------------------------------------


def fresh(*commands: list[str]) -> list[tuple[list[str], int, list[str]]]:
    """Run commands one after the other in one new process: (command, exit code, heavy modules)."""
    code = (
        "import contextlib, io, json, sys\n"
        "from studio.cli import run\n"
        f"for command in {commands!r}:\n"
        "    with contextlib.redirect_stdout(io.StringIO()):\n"
        "        code = run(command)\n"
        "    print(json.dumps([command, code, [m for m in "
        "('numpy', 'torch', 'diffusers', 'transformers') if m in sys.modules]]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


def test_help_show_and_mistakes_load_nothing_heavy(take: Take) -> None:
    (light, *rest) = fresh(
        ["--help"],
        ["make", "image", "--help"],
        ["make", "music", "--help"],
        ["grid", "music", "--help"],
        ["make", "voice", "--help"],
        ["grid", "voice", "--help"],
        ["make", "portrait", "--help"],
        ["grid", "portrait", "--help"],
        ["remake", "--help"],
        ["models", "list"],
        ["show", str(take.path)],
        ["make", "image", "a lake", "-e", "sadnes"],
        ["make", "image", "a lake", "-b", "image-tyni"],
        ["make", "music", "--title", "a lake", "-e", "sadnes"],
        ["make", "music", "--title", "a lake", "--continue", str(take.path)],
        ["make", "voice", "--text", "a lake", "-e", "sadnes"],
        ["make", "voice", "--text", "a lake", "--audio", str(take.path)],
        ["make", "portrait", "--title", "a lake", "-e", "sadnes"],
        ["make", "portrait", "--title", "a lake"],
    )
    assert light == (["--help"], 0, []), "not even numpy"
    for command, code, heavy in rest:
        assert set(heavy) <= {"numpy"}, command
        assert code == (2 if "a lake" in command else 0), command


def test_every_verb_answers_help(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in VERBS:
        assert run([verb, "--help"]) == 0, verb
        assert "Usage" in capsys.readouterr().out


@pytest.mark.parametrize("modality", PANELS)
def test_every_knob_is_an_option(modality: str) -> None:
    """One option a field: a knob that is added to a modality appears without a change here."""
    import dataclasses

    seen: dict[str, Any] = {}

    def verb(*, prompt: str = "", params: dict[str, Any]) -> int:
        seen.update(params)
        return 0

    kind = params_of(modality)
    command = with_params(verb, kind)
    names = {field.name for field in dataclasses.fields(kind)}
    assert names <= set(command.__annotations__)
    command(**dict.fromkeys(names), prompt="x")
    assert seen == {}, "what was not given must not become part of the request"
    one = {"music": "seconds", "film": "draft"}.get(modality, "steps")
    command(**{**dict.fromkeys(names), one: 3}, prompt="x")
    assert seen == {one: 3}


def test_knobs_of_several_modalities_are_one_option_each() -> None:
    import dataclasses

    kinds = [params_of(modality) for modality in PANELS]
    command = with_params(lambda *, params: 0, *kinds, panels=list(PANELS.values()))
    names = [field.name for kind in kinds for field in dataclasses.fields(kind)]
    assert set(command.__annotations__) == set(names)
    assert len(set(names)) < len(names), "some names are shared, and that must not clash"


# Bad input: one line, exit 2, nothing started ---------------------------------------------------


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds almost nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.fixture
def bad(tmp_path: Path, weights: Path, photo: Path) -> dict[str, str]:
    """Everything the bad-input cases point at, by name."""
    corrupt = tmp_path / "corrupt.png"
    corrupt.write_bytes(photo.read_bytes()[:600])
    huge = tmp_path / "huge.png"
    huge.write_bytes(png_header(30_000, 30_000))
    text = tmp_path / "text.png"
    text.write_text("not a picture")
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "model_index.json").write_text(
        json.dumps({"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet"]})
    )
    (pickled / "unet.bin").write_bytes(b"\x80\x04K\x01.")
    plain = tmp_path / "plain"
    plain.mkdir()
    occupied = tmp_path / "occupied"
    occupied.write_text("a file where a folder is needed")
    return {
        "corrupt": str(corrupt),
        "huge": str(huge),
        "text": str(text),
        "pickled": str(pickled),
        "plain": str(plain),
        "occupied": str(occupied),
        "missing": str(tmp_path / "missing.png"),
        "weights": str(weights),
    }


BAD_INPUT = {
    "unknown emotion": (["-e", "sadnes 0.8"], ["sadnes", "sadness"]),
    "intensity over 1": (["-e", "sadness 1.2"], ["1.2", "--over"]),
    "intensity over 1.5": (["-e", "sadness 1.7", "--over"], ["1.7"]),
    "negative intensity": (["-e", "sadness -.2"], ["sadness"]),
    "several emotions in time": (["-e", "0s fear .2; 3s awe .9"], ["picture"]),
    "empty emotion": (["-e", " "], ["emotion"]),
    "steps out of range": (["--steps", "0"], ["--steps", "affect make image --help"]),
    "steps not a number": (["--steps", "many"], ["steps"]),
    "seed out of range": (["--seed", "-1"], ["seed"]),
    "unknown option": (["--colour", "red"], ["--colour"]),
    "best-of under n": (["--n", "4", "--best-of", "2"], ["best"]),
    "unknown dtype": (["--dtype", "float12"], ["float12", "bfloat16"]),
    "corrupt photo": (["--init", "{corrupt}"], ["corrupt.png"]),
    "oversized photo": (["--init", "{huge}"], ["huge.png", "32 megapixels"]),
    "no photo": (["--init", "{missing}"], ["missing.png"]),
    "text as photo": (["--init", "{text}"], ["text.png"]),
    "unknown backbone": (["-b", "image-tyni"], ["image-tyni", "image-tiny"]),
    "pickled weights": (["-b", "{pickled}"], ["unet.bin", "safetensors"]),
    "folder without weights": (["-b", "{plain}"], ["model_index.json"]),
    "weights not here, offline": (
        ["-b", "nobody/nothing", "--offline"],
        ["nobody/nothing", "pull"],
    ),
    "out is a file": (["--out", "{occupied}"], ["occupied", "--out"]),
    "out below a file": (["--out", "{occupied}/deeper"], ["occupied"]),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_line_and_starts_nothing(
    case: str, bad: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given, words = BAD_INPUT[case]
    arguments = [part.format(**bad) for part in given]
    out = tmp_path / "out"
    defaults = ["-e", "sadness .8"] if "-e" not in arguments else []
    defaults += ["-b", bad["weights"]] if "-b" not in arguments else []
    defaults += ["--out", str(out)] if "--out" not in arguments else []
    code = run(["make", "image", "a lake", *FAST, *defaults, *arguments])
    said = capsys.readouterr()
    assert (code, said.out) == (2, "")
    lines = said.err.splitlines()
    assert len(lines) == 1, lines
    for word in words:
        assert word in lines[0]
    assert files(out) == []


@pytest.mark.parametrize("prompt", ["", "   "])
def test_an_empty_prompt_is_refused(
    prompt: str, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(["make", "image", prompt, "-b", str(weights), "--out", str(out)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "prompt" in said.err
    assert files(out) == []


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_the_right_to_write_is_refused(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "locked"
    out.mkdir(mode=0o500)
    assert run(["make", "image", "a lake", "-b", str(weights), "--out", str(out)]) == 2
    assert "out:" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="no file size limit to set")
def test_a_full_disk_is_one_line_and_leaves_nothing(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A limit on file size makes the kernel refuse the write, as a full disk does."""
    import resource

    out = tmp_path / "out"
    arguments = ["make", "image", "a lake", "-b", str(weights), "--out", str(out), *FAST]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, hard))
    try:
        code = run([*arguments, "--no-directions"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    said = capsys.readouterr()
    assert (code, said.out) == (2, ""), said.err
    assert "no space left" in said.err.splitlines()[-1]
    assert files(out) == []


# Making ----------------------------------------------------------------------------------------


def test_make_prints_paths_and_nothing_else(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["make", "image", "a lake", "-e", "sadness .8", "--seed", "7", "--n", "2"]
    assert run([*arguments, "-b", str(weights), "--out", str(out), *FAST]) == 0
    lines = capsys.readouterr().out.splitlines()
    takes = [Take.read(Path(line)) for line in lines]
    assert [take.request.seed for take in takes] == [7, 8]
    assert {take.request.emotion.text for take in takes} == {"sadness 0.8"}
    assert sorted(files(out)) == sorted(Path(line) for line in lines)


def test_make_json_is_one_object_a_take(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["make", "image", "a lake", "-e", "joy .6 + fear .2", "--seed", "3", "--json"]
    arguments += ["--style", ".5", "--no-lora", "-b", str(weights), "--out", str(out), *FAST]
    assert run(arguments) == 0
    (line,) = capsys.readouterr().out.splitlines()
    data = json.loads(line)
    assert data["request"]["seed"] == 3
    assert data["request"]["params"]["style"] == 0.5
    assert data["request"]["params"]["lora"] is False
    assert data["request"]["params"]["steps"] == 2
    assert Take.read(Path(data["path"])).request.key == data["key"]


def test_remake_from_the_file_alone(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = ["make", "image", "a lake", "-e", "awe .7", "--seed", "5", "-b", str(weights), *FAST]
    assert run([*first, "--style", ".7", "--out", str(tmp_path / "a")]) == 0
    made = Path(capsys.readouterr().out.strip())
    moved = tmp_path / "elsewhere.png"
    made.rename(moved)

    assert run(["remake", str(moved), "--out", str(tmp_path / "b")]) == 0
    again = Path(capsys.readouterr().out.strip())
    assert again.read_bytes() == moved.read_bytes()

    changes = ["--seed", "8", "--emotion", "fear .4"]
    assert run(["remake", str(moved), *changes, "--out", str(tmp_path / "c")]) == 0
    other = Take.read(Path(capsys.readouterr().out.strip())).request
    assert (other.seed, other.emotion.text) == (8, "fear 0.4")
    assert other.params == Take.read(moved).request.params


@pytest.mark.parametrize("ext", ["jpg", "webp"])
def test_other_formats_are_shown_and_remade(
    ext: str, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["make", "image", "a lake", "-e", "awe .7", "--seed", "5", "-b", str(weights)]
    assert run([*arguments, "--format", ext, "--out", str(tmp_path / "a"), *FAST]) == 0
    made = Path(capsys.readouterr().out.strip())
    assert made.suffix == f".{ext}"
    assert run(["show", str(made)]) == 0
    assert "awe 0.7" in capsys.readouterr().out
    assert run(["remake", str(made), "--out", str(tmp_path / "b")]) == 0
    again = Path(capsys.readouterr().out.strip())
    assert again.suffix == f".{ext}"
    assert again.read_bytes() == made.read_bytes()
    assert run(["remake", str(made), "--format", "png", "--out", str(tmp_path / "c")]) == 0
    assert Path(capsys.readouterr().out.strip()).suffix == ".png"


def test_a_switch_of_pictures_is_a_folder_elsewhere() -> None:
    assert lora_of("image", "off") is False
    assert lora_of("music", "styles/mine") == "styles/mine"
    assert lora_of("voice", "off") == "", "worn no more"
    with pytest.raises(ValueError, match="on or off"):
        lora_of("image", "styles/mine")


def test_a_strangers_repository_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    request = Request("image", "a lake", EmotionTimeline.parse("awe .7"), 1, "stranger/net")
    file = write_take(request, Image.new("RGB", (8, 8)), tmp_path / "a").path
    assert run(["remake", str(file), "--offline", "--out", str(tmp_path / "b")]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert "stranger/net" in first
    assert "does not know" in first
    assert "downloads are off" in second


def test_another_backbone_takes_its_own_defaults() -> None:
    def made_with(backbone: str, **params: Any) -> dict[str, Any]:
        timeline = EmotionTimeline.parse("awe .7")
        return chosen_params(Request("image", "a lake", timeline, 1, backbone, params))

    usual = {"steps": 4, "guidance_scale": 0.0, "style": 1.0}
    assert made_with("flux", **usual) == {}
    assert made_with("flux", **{**usual, "style": 0.5, "steps": 6}) == {"style": 0.5, "steps": 6}
    assert made_with("image-tiny", steps=20, guidance_scale=4.0) == {}


def test_a_folder_backbone_is_named_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home" / "weights").mkdir(parents=True)
    (tmp_path / "image-tiny").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert portable("home/weights") == "~/weights"
    assert portable("~/weights") == "~/weights"
    monkeypatch.setenv("HOME", str(tmp_path / "elsewhere"))
    assert portable("./home/weights") == str(tmp_path / "home" / "weights")
    assert portable("image-tiny") == "image-tiny"
    assert portable("owner/model") == "owner/model"


def test_a_photo_is_re_rendered_and_remade(
    weights: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["make", "image", "same place", "--init", str(photo), "--keep", ".5", "--seed", "1"]
    arguments += ["-e", "awe .7", "-b", str(weights), "--steps", "4"]
    assert run([*arguments, "--out", str(tmp_path / "a")]) == 0
    said = capsys.readouterr()
    made = Path(said.out.strip())
    assert said.err.count("Art. 50(3)") == 1, "its takes are read, and it may show somebody"
    assert run(["score", str(made)]) == 2
    assert "--real-media" in capsys.readouterr().err
    data = read_metadata(made)
    assert data["digital_source"].endswith("compositeWithTrainedAlgorithmicMedia")
    assert Take.read(made).request.inputs["init"] == photo

    assert run(["remake", str(made), "--out", str(tmp_path / "b")]) == 0
    assert Path(capsys.readouterr().out.strip()).read_bytes() == made.read_bytes()


def test_remake_says_when_the_photo_has_changed(
    weights: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine.png"
    mine.write_bytes(photo.read_bytes())
    arguments = ["make", "image", "same place", "--init", str(mine), "-b", str(weights), *FAST]
    assert run([*arguments, "--out", str(tmp_path / "a")]) == 0
    made = capsys.readouterr().out.strip()
    Image.new("RGB", (32, 32)).save(mine)
    assert run(["remake", made, "--out", str(tmp_path / "b")]) == 2
    assert "--init" in capsys.readouterr().err
    mine.unlink()
    assert run(["remake", made, "--out", str(tmp_path / "b")]) == 2
    assert files(tmp_path / "b") == []


def test_grid_is_one_seed_all_takes_and_a_marked_sheet(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["grid", "image", "a street", "--emotions", "happiness,grief", "--levels", "2"]
    assert run([*arguments, "--seed", "4", "-b", str(weights), "--out", str(out), *FAST]) == 0
    *paths, sheet = capsys.readouterr().out.splitlines()
    takes = [Take.read(Path(path)) for path in paths]
    assert {take.request.seed for take in takes} == {4}
    texts = [take.request.emotion.text for take in takes]
    assert texts[:3] == ["neutral", "happiness 0.5", "happiness 1"]
    assert len(texts) == 5, "the neutral picture is made once, not once a row"
    data = read_metadata(Path(sheet))
    width, height = load_image(Path(sheet)).size
    assert data["digital_source"].endswith("trainedAlgorithmicMedia")
    assert data["affect"]["emotions"] == ["happiness", "grief"]
    assert width > 3 * 112
    assert height > 2 * 112


def test_grid_refuses_an_emotion_it_does_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["grid", "image", "a street", "--emotions", "happiness,feer"]) == 2
    assert "fear" in capsys.readouterr().err


def test_emotion_lists_and_levels() -> None:
    assert emotion_names("all") == list(CORE)
    assert emotion_names(" fear, awe,fear ") == ["fear", "awe"]
    assert level_values(5) == [0.2, 0.4, 0.6, 0.8, 1.0]
    with pytest.raises(ValueError, match="none in"):
        emotion_names(" , ")


@contextmanager
def after_two_files(out: Path, act: Callable[[], None]) -> Iterator[None]:
    """Call `act` from another thread once two files are in `out`: in the middle of the work."""
    running = threading.Event()
    running.set()

    def wait() -> None:
        while running.is_set() and len(files(out)) < 2:
            time.sleep(0.01)
        if running.is_set():
            act()

    watcher = threading.Thread(target=wait)
    watcher.start()
    try:
        yield
    finally:
        running.clear()
        watcher.join()


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT is POSIX")
def test_ctrl_c_is_130_and_leaves_no_temporary_file(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["make", "image", "a lake", "-b", str(weights), "--out", str(out)]
    with after_two_files(out, lambda: os.kill(os.getpid(), signal.SIGINT)):
        code = run([*arguments, "--steps", "20", "--n", "64"])
    said = capsys.readouterr()
    assert code == 130, said.err
    assert "Traceback" not in said.err
    finished = said.out.splitlines()
    assert 0 < len(finished) < 64
    left = files(out)
    assert set(finished) <= set(map(str, left))
    assert len(left) <= len(finished) + 1, "one may have been finished but not yet announced"
    for path in left:
        Take.read(path)  # whole files only, nothing temporary
    assert not [t for t in threading.enumerate() if t.name == "affect-paint"], "it has stopped"
    assert run([*arguments, "--seed", "1", *FAST]) == 0, "the pipeline is usable afterwards"


@pytest.mark.skipif(sys.platform == "win32", reason="no file size limit to set")
def test_what_was_made_before_a_failure_is_kept_and_the_code_is_1(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import resource

    out = tmp_path / "out"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    arguments = ["make", "image", "a lake", "-b", str(weights), "--out", str(out)]
    try:
        with after_two_files(out, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (600, hard))):
            code = run([*arguments, "--steps", "20", "--n", "64"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    said = capsys.readouterr()
    finished = said.out.splitlines()
    assert code == 1, said.err
    assert 0 < len(finished) < 64
    assert "no space left" in said.err
    assert f"{64 - len(finished)} of 64 not made" in said.err
    assert sorted(map(str, files(out))) == sorted(finished)


@pytest.mark.skipif(sys.platform == "win32", reason="terminals are POSIX here")
def test_results_stay_on_stdout_while_the_bar_is_on_a_terminal() -> None:
    """`affect make ... | xargs` in a terminal: the bar's library would take stdout over."""
    ours, theirs = os.openpty()
    code = (
        "from studio.console import Meter, note, result\n"
        "with Meter('painter') as meter:\n"
        "    meter.step('drawing', 1, 4); result('out/a.png'); note('a warning')\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=theirs, text=True
    )
    said, _ = process.communicate(timeout=60)
    os.close(theirs)
    told = b""
    with contextlib.suppress(OSError):  # the end of a terminal is an error on Linux
        while piece := os.read(ours, 4096):
            told += piece
    os.close(ours)
    assert said == "out/a.png\n"
    assert b"drawing" in told
    assert b"affect: a warning" in told
    assert b"out/a.png" not in told


# Looking ---------------------------------------------------------------------------------------


def test_show_tells_everything(take: Take, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["show", str(take.path)]) == 0
    said = capsys.readouterr().out
    for word in ("sadness 0.8", "image-tiny", "trainedAlgorithmicMedia", "critic-image"):
        assert word in said
    assert "\x1b" not in said, "what a file says must not steer the terminal"


def test_show_json_is_the_metadata(take: Take, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["show", str(take.path), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["affect"]["request"] == take.request.to_json()
    assert data["path"] == str(take.path)


@pytest.mark.parametrize("verb", ["show", "remake", "score"])
def test_a_file_that_is_not_ours_is_refused(
    verb: str, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([verb, str(photo)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1


def test_scoring_what_may_be_a_person_needs_a_flag(
    photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["score", str(photo)]) == 2
    assert "--real-media" in capsys.readouterr().err
    run(["score", str(photo), "--real-media"])  # its result depends on the critics being there
    assert "Art. 50(3)" in capsys.readouterr().err


def test_page_of_a_folder(take: Take, capsys: pytest.CaptureFixture[str]) -> None:
    folder = take.path.parents[2]
    assert run(["page", str(folder)]) == 0
    page = Path(capsys.readouterr().out.strip())
    text = page.read_text(encoding="utf-8")
    assert page == folder / "index.html"
    assert "sadness 0.8" in text
    assert "<script" not in text


def test_models_list_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "list", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    names = {row["name"] for row in rows}
    assert {"image-tiny", "sd15", "sdxl", "sd3", "flux", "z-image", "qwen-image"} <= names
    assert {"music-tiny", "voice-tiny"} <= names
    assert {"image", "music", "voice"} <= {row["modality"] for row in rows}
    assert all(row["licence"] for row in rows)


def test_a_demo_without_pictures_fails_and_draws_no_sheet(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from diffusers import UNet2DConditionModel
    from torch import OutOfMemoryError
    from torch.nn.modules.module import register_module_forward_pre_hook

    def full(module: Any, _: Any) -> None:
        if isinstance(module, UNet2DConditionModel):
            raise OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    hook = register_module_forward_pre_hook(full)
    try:
        # models of all else are not here: the demo then goes without them
        arguments = ["demo", "--out", str(tmp_path / "out"), "-b", str(weights), "--no-film"]
        for other in ("--composer", "--voice", "--portrait"):
            arguments += [other, str(tmp_path)]
        assert run([*arguments, *FAST]) == 1
    finally:
        hook.remove()
    assert "does not fit" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*-grid-*"))


def test_demo_prints_a_page_whose_pictures_are_there(
    weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    sample = tmp_path / "sample.wav"
    sample.write_bytes(encode_sound(0.5 * speech.sentence(), 16000, {}))
    monkeypatch.setattr("studio.demo.SPEECH", sample)
    monkeypatch.setenv("PATH", "/nowhere")  # whether espeak-ng is installed must not matter
    composer, voice = tiny_composer(tmp_path / "composer"), tiny_voice(tmp_path / "voice")
    arguments = ["demo", "--out", str(out), "-b", str(weights), "--composer", str(composer)]
    monkeypatch.setattr("studio.demo.PORTRAITS", (("closed.jpg", "anger .9", {"seconds": 0.2}),))
    arguments += ["--portrait", str(tiny_portrait(tmp_path / "portrait"))]
    assert run([*arguments, "--voice", str(voice), "--no-film", *FAST]) == 0
    page = Path(capsys.readouterr().out.strip())
    links = re.findall(r'src="([^"]+)"', page.read_text(encoding="utf-8"))
    assert all((page.parent / link).is_file() for link in links)
    sounds = [link for link in links if link.endswith(".wav")]
    assert sum("/music/" in link for link in sounds) == 4, "three pieces, one played again"
    assert sum("/voice/" in link for link in sounds) == 4
    assert sum(link.endswith("sample.wav") for link in sounds) == 4, "each beside what it was"
    assert sum("-grid-" in link for link in links) == 1
    assert sum(link.startswith("inputs/") for link in links) == 4, "two photos, two moods each"
    assert len(links) > 15
    assert sum(link.endswith(".mp4") for link in links) == bool(find_spec("mediapipe"))


# Calibrating -----------------------------------------------------------------------------------


@pytest.fixture
def calibration() -> Calibration:
    """A sweep whose answer is known: fear answers as a root, awe not at all."""
    rng = np.random.default_rng(0)
    rising = np.sqrt(np.asarray(LEVELS))[:, None] * 0.8 + rng.normal(0, 0.05, (7, 16))
    flat = 0.3 + rng.normal(0, 0.1, (7, 16))
    responses = {"fear": Response.fit(LEVELS, rising), "awe": Response.fit(LEVELS, flat)}
    return Calibration(responses, "image-tiny", "m", "a", "critic-image 01", "2026-01-01", {})


def test_calibration_is_reported_as_json_and_plot(
    calibration: Calibration, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(calibration, ["fear", "awe"], tmp_path, examined={}, as_json=False) == 0
    said = capsys.readouterr()
    data, picture = (Path(line) for line in said.out.splitlines())
    assert Calibration.load(data).uncontrollable() == ("awe",)
    assert load_image(picture).width > 400
    rows = {line.split()[0]: line for line in said.err.splitlines()}
    assert "works" in rows["fear"]
    assert "not controllable" in rows["awe"]


def test_only_core_emotions_are_calibrated(capsys: pytest.CaptureFixture[str]) -> None:
    assert core_names("all") == list(CORE)
    assert run(["calibrate", "image", "--emotion", "grief"]) == 2
    assert "grief" in capsys.readouterr().err
    assert run(["calibrate", "image", "--levels", "2"]) == 2
