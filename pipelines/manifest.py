"""`assets/MANIFEST.json`: what ships with the project, how large it is, and where it comes from.

One row per model folder or table folder: name, path below `assets/`, bytes, sha256, licence,
source, recipe (the command that makes it again), trained_on ("cpu", "gpu", or "" for tables) and
the sha256 of each file. A row's sha256 is that of its file list in the form of `sha256sum`, so it
can be checked with standard tools. Cards (README.md) are not hashed: their text may be corrected.

This file deliberately does not know how a model is loaded, and reads no weights but their headers.

    python -m pipelines.manifest                  # print problems; exit 1 when there are any
    python -m pipelines.manifest update NAME ...  # hash again what was changed on purpose
"""

from __future__ import annotations

import hashlib
import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from adapters.assets import ASSETS
from pipelines.ledger import write_atomic

MANIFEST = "MANIFEST.json"
FIELDS = ("name", "path", "bytes", "sha256", "licence", "source", "recipe", "trained_on", "files")
TRAINED_ON = ("cpu", "gpu", "")
MAX_MODEL = 30 * 2**20  # bytes, so that a clone stays small (design, section 5)
MAX_ASSETS = 100 * 2**20
CARD = "README.md"
# Formats that run code when loaded.
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle", ".joblib", ".npy")
_PICKLE_MAGIC = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")


class ManifestError(ValueError):
    """The manifest cannot be read or does not have the row: one line that says what to do."""


def rows(assets: Path = ASSETS) -> dict[str, dict[str, Any]]:
    """Name -> row, in the order of the file; empty when there is no manifest yet."""
    path = assets / MANIFEST
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {str(row["name"]): dict(row) for row in found["assets"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        msg = f"{path}: not a manifest; restore it from version control"
        raise ManifestError(msg) from error


def row(path: Path | str, assets: Path = ASSETS) -> dict[str, Any]:
    """The row of a folder (absolute, or below `assets`) or of a name.

    Raises:
        ManifestError: nothing of that name; the names there are.
    """
    found = rows(assets)
    wanted = Path(path)
    if wanted.is_absolute() and wanted.is_relative_to(assets):
        wanted = wanted.relative_to(assets)
    for name, entry in found.items():
        if str(path) == name or wanted.as_posix() == entry.get("path"):
            return entry
    msg = f"manifest: no row for {str(path)[:80]!r}; there are {', '.join(found) or 'none'}"
    raise ManifestError(msg)


def update(
    name: str,
    *,
    path: str | None = None,
    licence: str | None = None,
    source: str | None = None,
    recipe: str | None = None,
    trained_on: str | None = None,
    assets: Path = ASSETS,
) -> dict[str, Any]:
    """Measure a folder and write its row; what is not given stays as it was.

    Files become readable for everybody: safetensors writes them with mode 0600.

    Args:
        name: of the model or table folder.
        path: below `assets`; `models/<name>` for a new row when not given.
        licence: of the files, as an SPDX name where there is one.
        source: what they were made from.
        recipe: the command that makes them again.
        trained_on: "cpu", "gpu", or "" for what was not trained.
        assets: the folder to work on.

    Returns:
        The row.
    """
    found = rows(assets)
    old = found.get(name, {})
    place = path or old.get("path") or f"models/{name}"
    given = {"licence": licence, "source": source, "recipe": recipe, "trained_on": trained_on}
    texts = {key: old.get(key, "") if value is None else value for key, value in given.items()}
    if texts["trained_on"] not in TRAINED_ON:
        msg = f"trained_on: cpu, gpu or empty, received {texts['trained_on']!r}"
        raise ManifestError(msg)
    root = assets / place
    if not root.exists():
        msg = f"manifest: {root} does not exist; give the path below {assets}"
        raise ManifestError(msg)
    for file in _files(root):
        file.chmod(0o755 if file.stat().st_mode & 0o100 else 0o644)
    entry = {"name": name, "path": place, **_measured(root), **texts}
    found[name] = {field: entry[field] for field in FIELDS}
    text = json.dumps({"assets": list(found.values())}, indent=1, ensure_ascii=False) + "\n"
    write_atomic(assets / MANIFEST, text.encode())
    return found[name]


def verify(assets: Path = ASSETS) -> list[str]:
    """Everything that is wrong with the shipped files, one line each; empty when all is well.

    Checks every row's files by sha256, that no file is without a row, the headers of safetensors,
    that nothing is a pickle (by name and by content), licences, cards and size limits.
    """
    try:
        found = rows(assets)
    except ManifestError as error:
        return [str(error)]
    problems: list[str] = []
    covered: set[Path] = {assets / MANIFEST}
    for name, entry in found.items():
        if missing := [field for field in FIELDS if field not in entry]:
            problems.append(f"{name}: the row has no {', '.join(missing)}")
            continue
        root = assets / entry["path"]
        if not root.resolve().is_relative_to(assets.resolve()):
            problems.append(f"{name}: path {entry['path']!r} leaves the assets folder")
            continue
        problems += [f"{name}: {text}" for text in _row_problems(root, entry)]
        covered.update(_files(root))
    for file in _files(assets):
        relative = file.relative_to(assets).as_posix()
        if file not in covered:
            problems.append(f"{relative}: has no row in {MANIFEST}; add one with its licence")
        if text := _unsafe(file):
            problems.append(f"{relative}: {text}")
    total = sum(file.stat().st_size for file in _files(assets))
    if total > MAX_ASSETS:
        problems.append(f"assets: {total / 2**20:.1f} MB, the limit is {MAX_ASSETS >> 20} MB")
    return problems


def _row_problems(root: Path, entry: dict[str, Any]) -> Iterator[str]:
    if not root.exists():
        yield f"{entry['path']} is missing; restore it from version control"
        return
    now, then = _measured(root), dict(entry["files"])
    for name in sorted(set(then) | set(now["files"])):
        if name not in now["files"]:
            yield f"{name} is missing; restore it from version control"
        elif name not in then:
            yield f"{name} is not in the manifest; update it or remove the file"
        elif now["files"][name] != then[name]:
            yield f"{name} is not what the manifest says; restore it, or update the manifest"
    if now["files"] == then and now["sha256"] != entry["sha256"]:
        yield "sha256 of the row is not that of its files; update the manifest"
    if now["files"] == then and now["bytes"] != entry["bytes"]:
        yield f"bytes are {now['bytes']}, the manifest says {entry['bytes']}; update the manifest"
    if not str(entry["licence"]).strip() or not str(entry["source"]).strip():
        yield "licence or source is empty; say under which terms and from what it was made"
    if entry["path"].startswith("models/"):
        if not (root / CARD).is_file():
            yield f"has no model card {CARD}"
        if entry["trained_on"] not in ("cpu", "gpu") or not str(entry["recipe"]).strip():
            yield "recipe or trained_on (cpu, gpu) is empty; say how to make it again"
        if now["bytes"] > MAX_MODEL:
            yield f"{now['bytes'] / 2**20:.1f} MB, a model may have {MAX_MODEL >> 20} MB"


def _measured(root: Path) -> dict[str, Any]:
    """Bytes, digest and file digests of a folder or a single file; cards left out."""
    files = [file for file in _files(root) if file.name != CARD]
    digests = {
        (file.relative_to(root).as_posix() if root.is_dir() else file.name): _sha256(file)
        for file in files
    }
    listing = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
    return {
        "bytes": sum(file.stat().st_size for file in files),
        "sha256": hashlib.sha256(listing.encode()).hexdigest(),
        "files": dict(sorted(digests.items())),
    }


def _files(root: Path) -> list[Path]:
    if root.is_file():
        return [root]
    found = (path for path in root.rglob("*") if path.is_file())
    return sorted(path for path in found if "__pycache__" not in path.parts)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unsafe(path: Path) -> str:
    """Why a file may not be shipped; empty when it may."""
    if path.is_symlink():
        return "is a link; ship the file itself"
    if path.suffix.lower() in PICKLES:
        return "is a pickle by its name; ship safetensors"
    with path.open("rb") as file:
        head = file.read(8)
        if head.startswith(_PICKLE_MAGIC):
            return "is a pickle or an archive by its content; ship safetensors"
        if path.suffix != ".safetensors":
            return ""
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        if not 2 <= length <= path.stat().st_size - 8:
            return "is not a whole safetensors file; restore it from version control"
        try:
            header = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for key, entry in header.items() if key[:2] != "__"]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
            return "has a damaged safetensors header; restore it from version control"
    if max(ends, default=0) != path.stat().st_size - 8 - length:
        return "is not a whole safetensors file; restore it from version control"
    return ""


def main(arguments: list[str] | None = None) -> int:
    """Verify, or `update NAME ...`; returns the exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] == ["update"] and len(words) > 1:
        for name in words[1:]:
            row(name)  # a new row needs a licence: that is for the recipe that makes the model
            entry = update(name)
            print(f"{name}: {entry['bytes']} bytes, sha256 {entry['sha256']}")
        return 0
    if words:
        print("use: python -m pipelines.manifest [update NAME ...]", file=sys.stderr)
        return 2
    problems = verify()
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
