"""Files made to break a reader: each is refused in one line, within 2 s and 200 MB, by its content.

All readers run in one fresh process that measures itself, so that a decoder which takes memory is
seen. The same picture is then handed to a served page, whose library looks at uploads before we do.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser import ROOT

SECONDS, GROWTH = 2.0, 200.0  # s, MB
READ = """
import json, resource, sys, time
from pathlib import Path
from adapters.weight_files import danger
from pipelines.media import load_image
from pipelines.media_midi import load_midi
from pipelines.media_sound import load_sound
from pipelines.media_video import preview
from safetensors import safe_open
def weights(path):
    if found := danger(path):
        raise ValueError(found)
    with safe_open(str(path), "np") as file:
        return [file.get_tensor(name) for name in file.keys()]
readers = {"image": load_image, "sound": load_sound, "film": preview, "notes": load_midi,
           "weights": weights}
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
for kind, name in json.loads(sys.argv[1]):
    before, start = peak(), time.perf_counter()
    try:
        told = "read: " + str(type(readers[kind](Path(name))))
    except Exception as error:
        told = f"{type(error).__name__}: {error}"
    print(json.dumps([Path(name).name, told, time.perf_counter() - start, peak() - before]))
"""


def png(path: Path, width: int, height: int) -> Path:
    """A real, whole PNG of one grey: some hundred kB for hundreds of megapixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    pack, row = zlib.compressobj(9), bytes(1 + width)
    rows = b"".join(pack.compress(row) for _ in range(height)) + pack.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )
    return path


class Canary:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path(self.path),))


@pytest.fixture(scope="module")
def bombs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, Path]]:
    """Name of the case: the reader it is given to, and the file."""
    place = tmp_path_factory.mktemp("bombs")
    made: dict[str, tuple[str, Path]] = {
        "169 MP": ("image", png(place / "169mp.png", 13000, 13000)),
        "400 MP": ("image", png(place / "400mp.png", 20000, 20000)),
    }

    def put(case: str, kind: str, name: str, data: bytes) -> None:
        (place / name).write_bytes(data)
        made[case] = (kind, place / name)

    put("1 TiB header", "weights", "tib.safetensors", struct.pack("<Q", 2**40) + b"{}")
    put("bad header", "weights", "bad.safetensors", struct.pack("<Q", 8) + b"{{{{{{{{")
    header = json.dumps({"x": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 4]}}).encode()
    put("1 TiB tensor", "weights", "huge.safetensors", struct.pack("<Q", len(header)) + header)
    canary = pickle.dumps(Canary(place / "canary"))
    for name in ("a.ckpt", "a.pt", "a.bin", "a.pth", "renamed.safetensors"):
        put(f"pickle {name}", "weights", name, canary)
    hours = 10 * 3600 * 16000 * 2
    fmt = struct.pack("<HHIIHH", 1, 1, 16000, 32000, 2, 16)
    head = b"RIFF" + struct.pack("<I", hours + 36) + b"WAVEfmt " + struct.pack("<I", 16) + fmt
    put(
        "10 h header", "sound", "hours.wav", head + b"data" + struct.pack("<I", hours) + bytes(4000)
    )
    playlist = b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"
    put("playlist as film", "film", "list.mp4", playlist)
    put("playlist as sound", "sound", "list.wav", playlist)
    put("concat as film", "film", "concat.mp4", b"ffconcat version 1.0\nfile /etc/passwd\n")
    with zipfile.ZipFile(place / "word.docx", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", bytes(50 * 2**20))
    for kind, name in (("image", "word.png"), ("film", "word.mp4"), ("notes", "word.mid")):
        shutil.copyfile(place / "word.docx", place / name)
        made[f"archive {name}"] = (kind, place / name)
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
    put("svg", "image", "x.png", svg)
    put("postscript", "image", "ps.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    put("tracks", "notes", "many.mid", b"MThd" + struct.pack(">IHHH", 6, 1, 65535, 96))
    return made


def test_every_bomb_is_refused_quickly_and_small(bombs: dict[str, tuple[str, Path]]) -> None:
    given = [(kind, str(path)) for kind, path in bombs.values()]
    found = subprocess.run(
        [sys.executable, "-c", READ, json.dumps(given)], cwd=ROOT, capture_output=True, text=True,
        check=True, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    answers = [json.loads(line) for line in found.stdout.splitlines()]
    assert len(answers) == len(bombs)
    for name, told, seconds, growth in answers:
        assert not told.startswith("read"), (name, told)
        assert "\n" not in told, name
        assert "Traceback" not in told, name
        assert "root:" not in told, name
        assert seconds < SECONDS, (name, seconds)
        assert growth < GROWTH, (name, growth)
    first = next(iter(bombs.values()))[1].parent
    assert not (first / "canary").exists(), "a pickle was opened"


# The page ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A small file system for an out folder; skips where none may be mounted."""
    place = tmp_path_factory.mktemp("disk")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=192m", "tmpfs", str(place)], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip(
            "no right to mount a small file system here: a server's full disk is NOT tested"
        )
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def resident(process: int) -> float:
    """Largest memory that a process ever held, in MB."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def test_a_server_survives_a_bomb_and_a_full_disk(
    full: Path, bombs: dict[str, tuple[str, Path]]
) -> None:
    pytest.importorskip("gradio", reason="the extra ui is not installed")
    from pipelines import ledger
    from pipelines.take import Take
    from tests.browser import serving
    from tests.http_session import Session, told

    small = {"Width": 64, "Height": 64, "Steps": 2}
    with serving(full / "out") as server:
        session = Session(server.address)
        assert "Done" in told(session.press("make-image", {"Seed": 1, **small}))
        before = resident(server.process.pid)
        for case in ("169 MP", "400 MP", "svg", "archive word.png"):
            path = bombs[case][1]
            given = session.upload(path.name, path.read_bytes()).json()[0]
            file = {"path": given, "orig_name": path.name, "meta": {"_type": "gradio.FileData"}}
            messages = session.press("make-image", {"Re-render a photo": file, **small})
            said = told(messages)
            assert "Done" not in said, (case, said)
            assert "Traceback" not in said, case
        assert resident(server.process.pid) - before < GROWTH

        done = [line for line in ledger.read(server.out) if line["status"] == "done"]
        (full / "filler").write_bytes(bytes(shutil.disk_usage(full).free - 8192))
        said = told(session.press("make-image", {"Seed": 2, **small}))
        assert "free" in said or "space" in said, said
        assert "Traceback" not in said
        for line in done:
            assert Take.read(server.out / line["path"]).sha256 == line["sha256"]
        assert not list(server.out.rglob(".tmp-*"))
        (full / "filler").unlink()
        assert "Done" in told(session.press("make-image", {"Seed": 3, **small}))
        session.close()
