"""What `affect train critic` is told: the knobs of training.critic_folder, beside config.py's.

Standard library only, `--help` reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from adapters.emotion import DEFAULT_INTENSITY
from pipelines.params import Params, knob

MODALITIES: Mapping[str, str] = {
    "image": "image", "voice": "voice", "music": "music", "motion": "portrait"
}  # fmt: skip
"""What a critic reads, and the folders of training.folder that it is trained on."""


@dataclass(frozen=True, slots=True)
class Critic(Params):
    """Of training.critic_folder: the embedded critics' own recipes on a labelled folder."""

    data: str = knob("", "Folder, at any depth, with any labelling of emotions.")
    out: str = knob("", "The critic's folder; out/critic-MODALITY when not given.")
    layout: str = knob("auto", "How the folder is laid out; auto finds out.")
    intensity: float = knob(
        DEFAULT_INTENSITY, "Of a labelled file that nobody graded.", min=0.01, max=1
    )
    folds: int = knob(5, "Parts of the groups, each left out once to be measured on.", min=2,
                      max=20)  # fmt: skip
    effort: float = knob(1.0, "Share of the recipe's usual training.", min=0.01, max=100)
    control: bool = knob(True, "Train once more on shuffled labels, as a control.")
    begin: str = knob(
        "critic-image", "Pictures: a critic to begin with, its folder, or none for random weights."
    )
    sessions: int = knob(1, "Voices: made-up rooms and microphones for each speaker.", min=0, max=8)
    seed: int = knob(0, "Of first weights, batches and the order of groups.", min=0, max=2**31 - 1)
