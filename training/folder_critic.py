"""What a critic makes of a data set: its probabilities for every sample, and the labels it doubts.

Files are decoded again and read by any critic of this project, `read(items) -> [Reading]`. Use one
that was not trained on these files: it would repeat their labels. Knows no model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters.face_motion import read_csv
from adapters.voice_analysis import RATE
from pipelines.media import load_image
from pipelines.media_midi import load_midi
from pipelines.media_sound import load_sound
from training.folder import Dataset
from training.folder_report import Report, label_noise

TOGETHER = 16
"""Files that are read at once."""

_LOAD: dict[str, Callable[[Path], Any]] = {
    "image": load_image,
    "voice": lambda path: load_sound(path, RATE).waveform,
    "music": load_midi,
    "portrait": read_csv,
}


def probabilities(
    dataset: Dataset, critic: Any, tell: Callable[[str], None] = lambda line: None
) -> NDArray[np.float64]:
    """(n, 13) of neutral and the twelve emotions, a row a sample.

    critic: of the data set's modality: pictures, waveforms at 16 kHz, pieces or motions.
    """
    load = _LOAD[dataset.modality]
    rows: list[tuple[float, ...]] = []
    for start in range(0, len(dataset), TOGETHER):
        items = [load(sample.path) for sample in dataset.samples[start : start + TOGETHER]]
        rows += [reading.probabilities for reading in critic.read(items)]
        if start % (TOGETHER * 50) == 0 and start:
            tell(f"{start} of {len(dataset)} files read by the critic")
    return np.array(rows, dtype=np.float64).reshape(len(dataset), -1)


def audited(report: Report, dataset: Dataset, critic: Any) -> Report:
    """The report with the labels that the critic doubts (`folder_report.label_noise`)."""
    return replace(report, noise=label_noise(dataset.samples, probabilities(dataset, critic)))
