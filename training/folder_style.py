"""What the style recipes share: how a folder of one's own is read, and how an adapter is written.

`training.folder` reads it, in any layout and labelling; here what it found is told to people, and
errors become those of the recipes. What a style holds out is the recipe's business (it compares the
same sentence, or the end of each recording), so only a split that the set itself declares is kept.
Knows no model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from adapters.files import replacing
from training.folder import Dataset, read_folder
from training.folder_labels import DataError

MOST_FILES = 2000
"""Of one style; the recipes hold all of it in memory."""


class StyleError(ValueError):
    """Files or settings no style can be trained from; one line that says what to change."""


def read_style(
    folder: Path | str,
    modality: str,
    layout: str = "auto",
    *,
    labels: Mapping[str, str] | None = None,
    tell: Callable[[str], None] = print,
) -> Dataset:
    """The usable files of a folder; the report, and why files are left out, is told.

    Samples whose split is "held" were declared so by the set. Arguments are those of
    `training.folder.read_folder`.

    Raises:
        StyleError: no folder, no usable files, more than MOST_FILES, labels that are no emotions.
    """
    try:
        dataset, report = read_folder(
            folder, modality, layout, labels=labels, held=0, least=1, most=MOST_FILES, tell=tell
        )
    except DataError as error:
        raise StyleError(str(error)) from error
    for line in report.text().splitlines():
        tell(line)
    for name, why in report.broken:
        tell(f"left out: {why if name in why else f'{name}: {why}'}")
    return dataset


def write_adapter(model: Any, path: Path) -> None:
    """Write the adapter that a diffusers model wears, as its own `save_lora_adapter` does, whole.

    Raises:
        OSError: a disk that is full; nothing is at `path` then.
    """
    with replacing(path) as fresh:
        model.save_lora_adapter(fresh.parent, weight_name=fresh.name, safe_serialization=True)
