"""The manifest of shipped files: it must notice every kind of damage."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from adapters.assets import ASSETS
from pipelines.manifest import FIELDS, ManifestError, main, row, rows, update, verify


@pytest.fixture
def assets(tmp_path: Path) -> Path:
    model = tmp_path / "models" / "toy"
    (model / "unet").mkdir(parents=True)
    save_file({"w": np.arange(6.0), "b": np.zeros(2)}, model / "unet" / "model.safetensors")
    (model / "config.json").write_text("{}")
    (model / "README.md").write_text("# toy")
    (tmp_path / "emotions").mkdir()
    (tmp_path / "emotions" / "table.json").write_text('{"a": 1}')
    about = {"licence": "Apache-2.0", "source": "made here"}
    update("toy", recipe="python -m training.toy", trained_on="cpu", assets=tmp_path, **about)
    update("emotions", path="emotions", assets=tmp_path, **about)
    return tmp_path


def test_a_good_folder_has_no_problems(assets: Path) -> None:
    assert verify(assets) == []
    entry = row("toy", assets)
    assert tuple(entry) == FIELDS
    assert entry == row(assets / "models" / "toy", assets) == row("models/toy", assets)
    sizes = [
        f.stat().st_size for f in (assets / "models" / "toy").rglob("*.*") if f.suffix != ".md"
    ]
    assert entry["bytes"] == sum(sizes)
    assert (assets / "models/toy/unet/model.safetensors").stat().st_mode & 0o777 == 0o644


def test_the_digest_is_that_of_standard_tools(assets: Path) -> None:
    code = "find . -type f ! -name README.md -printf '%P\\n' | LC_ALL=C sort | xargs sha256sum"
    model = assets / "models" / "toy"
    listing = subprocess.run(["bash", "-c", code], cwd=model, capture_output=True, check=True)
    assert row("toy", assets)["sha256"] == hashlib.sha256(listing.stdout).hexdigest()


def test_update_keeps_what_is_not_given(assets: Path) -> None:
    before = row("toy", assets)
    (assets / "models" / "toy" / "config.json").write_text('{"x": 1}')
    after = update("toy", assets=assets)
    assert {k for k in FIELDS if before[k] != after[k]} == {"bytes", "sha256", "files"}
    assert list(rows(assets)) == ["toy", "emotions"]
    assert verify(assets) == []


def test_the_card_may_change(assets: Path) -> None:
    (assets / "models" / "toy" / "README.md").write_text("# better words")
    assert verify(assets) == []


def damage(assets: Path, what: str) -> None:
    model = assets / "models" / "toy"
    weights = model / "unet" / "model.safetensors"
    data = weights.read_bytes()
    manifest = json.loads((assets / "MANIFEST.json").read_text())
    first = manifest["assets"][0]
    if what == "one bit":
        weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif what == "cut":
        weights.write_bytes(data[:-5])
    elif what == "header":
        weights.write_bytes(data[:8] + b"#" + data[9:])
    elif what == "terabyte header":
        weights.write_bytes((2**40).to_bytes(8, "little") + data[8:])
    elif what == "empty":
        weights.write_bytes(b"")
    elif what == "gone":
        weights.unlink()
    elif what == "folder gone":
        shutil.rmtree(model)
    elif what == "extra":
        (model / "notes.txt").write_text("x")
    elif what == "no row":
        (assets / "models" / "new").mkdir()
        (assets / "models" / "new" / "config.json").write_text("{}")
    elif what == "pickle":
        (model / "unet" / "model.bin").write_bytes(b"x")
    elif what == "renamed pickle":
        weights.write_bytes(b"\x80\x04\x95" + bytes(64))
    elif what == "no card":
        (model / "README.md").unlink()
    elif what == "link":
        (model / "config.json").unlink()
        (model / "config.json").symlink_to("/etc/hostname")
    elif what == "no manifest":
        (assets / "MANIFEST.json").write_text("[]")
        return
    elif what == "no field":
        del first["licence"]
    elif what == "no licence":
        first["licence"] = " "
    elif what == "leaves":
        first["path"] = "../../etc"
    elif what == "row digest":
        first["sha256"] = "0" * 64
    elif what == "too large":
        with (model / "large.dat").open("wb") as file:
            file.truncate(31 * 2**20)
    (assets / "MANIFEST.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("one bit", "toy: unet/model.safetensors is not what"),
        ("cut", "not a whole safetensors"),
        ("header", "damaged safetensors header"),
        ("terabyte header", "not a whole safetensors"),
        ("empty", "not a whole safetensors"),
        ("gone", "unet/model.safetensors is missing"),
        ("folder gone", "models/toy is missing"),
        ("extra", "notes.txt is not in the manifest"),
        ("no row", "models/new/config.json: has no row"),
        ("pickle", "pickle by its name"),
        ("renamed pickle", "by its content"),
        ("no card", "no model card"),
        ("link", "is a link"),
        ("no manifest", "not a manifest"),
        ("no field", "no licence"),
        ("no licence", "licence or source is empty"),
        ("leaves", "leaves the assets"),
        ("row digest", "sha256 of the row"),
        ("too large", "31.0 MB"),
    ],
)
def test_damage_is_noticed(what: str, says: str, assets: Path) -> None:
    damage(assets, what)
    problems = verify(assets)
    assert any(says in problem for problem in problems), problems
    assert not any("\n" in problem for problem in problems)


def test_wrong_arguments_are_one_line(assets: Path) -> None:
    with pytest.raises(ManifestError, match="toy, emotions"):
        row("toi", assets)
    with pytest.raises(ManifestError, match="does not exist"):
        update("new", assets=assets)
    with pytest.raises(ManifestError, match="trained_on"):
        update("toy", trained_on="tpu", assets=assets)
    assert main(["remove"]) == 2
    assert verify(assets) == []


def test_what_ships_is_as_the_manifest_says() -> None:
    """After a change made on purpose: `python -m pipelines.manifest update NAME`."""
    assert verify(ASSETS) == []
