"""Which files of weights are refused before anything reads them, by name and by first bytes.

A pickle runs code when it is opened; safetensors hold numbers only. Reads a few bytes of a file and
deliberately does not know what the weights are for.
"""

from __future__ import annotations

from pathlib import Path

PICKLES = frozenset({".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle", ".joblib"})
#: Zip (torch.save) and pickle protocols 2 to 5.
MAGIC = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def danger(path: Path) -> str:
    """Say why a file is refused, "" when it is fine."""
    if path.suffix.lower() in PICKLES:
        return f"pickled weights ({path.suffix})"
    if path.suffix == ".py":
        return "Python code"
    with path.open("rb") as file:
        head = file.read(9)
    # A safetensors header length can begin with these bytes too; its ninth byte is a brace.
    header = path.suffix == ".safetensors" and head[8:9] == b"{"
    if head.startswith(MAGIC) and not header:
        return "a pickle under another name"
    if path.suffix == ".safetensors":
        length = int.from_bytes(head[:8], "little")
        if head[8:9] != b"{" or length + 8 > path.stat().st_size:
            return "not a safetensors file, or cut short"
    return ""


def first_danger(folder: Path) -> str:
    """Name the first file in `folder` (at any depth) that is refused and why, "" for none."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and (why := danger(path)):
            return f"{path.relative_to(folder)} in {folder} is {why}"
    return ""
