"""What belongs to a backbone's weights: sliders, directions, calibration, the words it knows.

All of it is looked for beside the weights (`loras/`, `directions.safetensors`, `calibration.json`,
`vocabulary.json`) and in a cache folder under the digest of the model, so that a hub backbone has
belongings as well. It deliberately does not know how a picture is painted (pipelines.painter).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from adapters.assets import ASSETS
from adapters.calibration import Calibration
from adapters.directions import FORMAT
from adapters.families import model_digest
from adapters.lora import LoraBank
from pipelines import BackboneError

if TYPE_CHECKING:
    from adapters.directions import DirectionBank
    from pipelines.image import ImageParams

log = logging.getLogger("affect")

CALIBRATION = "calibration.json"
"""Beside the weights, or in the folder of the sliders that it was measured with."""
_OTHERS = "other_"  # names of sliders in a model that has its own loaded

#: Words that carry no content of their own: their absence from a vocabulary is not worth a note.
_SMALL = frozenset(
    ["a", "an", "and", "at", "by", "for", "from", "in", "into", "is", "it", "its", "near", "no"]
) | {"of", "on", "or", "over", "the", "to", "under", "with"}


def cache_folder() -> Path:
    """Where fitted directions and calibrations of hub backbones are kept (AFFECT_CACHE)."""
    base = os.environ.get("AFFECT_CACHE")
    if base:
        return Path(base).expanduser()
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home).expanduser() if home else Path.home() / ".cache") / "affect-studio"


def digest_of_adapters(model: str, loras: LoraBank | None, call: Mapping[str, Any]) -> str:
    """16 hex digits over all that acts on a model; see `Belongings.adapters_digest`."""
    # The tables decide both the words of the content lever and the pairs of the directions.
    tables = [ASSETS / "emotions" / f"{name}.json" for name in ("content", "content_grammar")]
    parts = {
        "model": model,
        "directions": FORMAT,
        "tables": [hashlib.sha256(path.read_bytes()).hexdigest() for path in tables],
        "loras": loras.digest if loras else None,
        "call": dict(call),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


class Belongings:
    """Everything that steers one loaded pipeline; sliders are loaded into it, inactive.

    Args:
        pipe: a diffusers text-to-image pipeline.
        name: what people call it.
        folder: its weights' folder, None for the hub cache.
        call: more arguments of the pipeline call; `max_sequence_length` matters to directions.
        cache: where fitted directions and calibrations are kept, None for `cache_folder()`.
    """

    def __init__(
        self, pipe: Any, name: str, *, folder: Path | None, call: Any, cache: Path | None
    ) -> None:
        self.pipe = pipe
        self.name = name
        self.folder = folder
        self.call = dict(call or {})
        self._cache = cache
        # Before sliders are loaded and before offload moves the weights away.
        self.digest = model_digest(pipe)
        self.loras = self._find_loras()
        if self.loras is not None:
            self.loras.load_into(pipe)

    @property
    def cache(self) -> Path:
        """Folder of fitted directions and calibrations."""
        return self._cache or cache_folder()

    def _find_loras(self) -> LoraBank | None:
        folders = [self.cache / self.digest / "loras"]
        if self.folder is not None:
            folders.insert(0, self.folder / "loras")
        for folder in folders:
            if any(folder.glob("*.safetensors")):
                return LoraBank(folder)
        return None

    @cached_property
    def directions(self) -> DirectionBank:
        """Directions beside the weights, or fitted once and cached by model digest."""
        from adapters.directions import DirectionBank

        if self.folder is not None:
            path = self.folder / "directions.safetensors"
            if path.is_file():
                bank = DirectionBank.load(path)
                if bank.digest == self.digest:
                    return bank
                log.warning("%s was fitted on other weights; fitting it again", path)
        options = {k: v for k, v in self.call.items() if k == "max_sequence_length"}
        return DirectionBank.cached(self.pipe, self.cache, vocabulary=self.words, **options)

    @property
    def directions_ready(self) -> bool:
        """Whether `directions` answers at once instead of fitting."""
        beside = self.folder is not None and (self.folder / "directions.safetensors").is_file()
        kept = any(self.cache.glob(f"directions-{self.digest}-*.safetensors"))
        return "directions" in vars(self) or beside or kept

    @cached_property
    def adapters_digest(self) -> str:
        """16 hex digits over all that acts on the model: what a calibration holds for."""
        return digest_of_adapters(self.digest, self.loras, self.call)

    @contextmanager
    def wearing(self, sliders: str) -> Iterator[LoraBank | None]:
        """The sliders in use while the context is open: those of a folder, or "" for the own ones.

        Raises:
            LoraError: a folder without sliders; SliderFileError: sliders of another model.
        """
        if not sliders:
            yield self.loras
            return
        bank = LoraBank(sliders, prefix=_OTHERS)
        try:
            bank.load_into(self.pipe)
            yield bank
        finally:
            bank.unload(self.pipe)

    def weights(self, params: ImageParams) -> str:
        """Digest of model, adapters and the gain in use: the `weights` of a Request."""
        parts = [self.digest, self.adapters_of(params.sliders)]
        if params.calibrated and (found := self.calibration_of(params.sliders)) is not None:
            parts.append(found.digest)
        return "-".join(parts)

    def adapters_of(self, sliders: str) -> str:
        """`adapters_digest` with the sliders of a folder in use, "" for the own ones."""
        if not sliders:
            return self.adapters_digest
        return digest_of_adapters(self.digest, LoraBank(sliders), self.call)

    def calibration_of(self, sliders: str) -> Calibration | None:
        """The calibration of the sliders in use: `calibration`, or the one in their folder."""
        if not sliders:
            return self.calibration
        path = self.calibration_path_of(sliders)
        return self._fitting(path, self.adapters_of(sliders)) if path.is_file() else None

    @property
    def calibration_path(self) -> Path:
        """Where a new calibration of these weights is kept; it goes before the one beside them."""
        return self.cache / self.digest / CALIBRATION

    def calibration_path_of(self, sliders: str) -> Path:
        """`calibration_path`, or where that of a folder of sliders is kept."""
        return Path(sliders) / CALIBRATION if sliders else self.calibration_path

    @cached_property
    def calibration(self) -> Calibration | None:
        """The stored calibration, None when there is none or it was made for other weights."""
        paths = [self.calibration_path]
        if self.folder is not None:
            paths.append(self.folder / CALIBRATION)
        fitting = (self._fitting(path, self.adapters_digest) for path in paths if path.is_file())
        return next((found for found in fitting if found is not None), None)

    def _fitting(self, path: Path, adapters: str) -> Calibration | None:
        found = Calibration.load(path)
        if found.fits(self.digest, adapters):
            return found
        log.warning(
            "%s was measured on other weights and is not used; run `affect calibrate`", path
        )
        return None

    def gained(
        self, asked: NDArray[np.float64], *, calibrated: bool = True, sliders: str = ""
    ) -> NDArray[np.float64]:
        """Asked intensities (n, 12) to what directions, sliders and content are given, (n, 12).

        With several emotions at once the gains may push the sum past what was asked at most (1,
        or the asked sum when over); the row is then scaled back, for summed adapters over-drive.
        """
        found = self.calibration_of(sliders) if calibrated else None
        if found is None:
            return asked
        given = found.gain(asked)
        most = np.maximum(asked.sum(axis=1), 1.0)
        total = given.sum(axis=1)
        return given * np.where(total > most, most / np.maximum(total, 1e-12), 1.0)[:, None]

    @cached_property
    def vocabulary(self) -> frozenset[str] | None:
        """The words a small painter was shown, None for models that know language at large."""
        path = self.folder / "vocabulary.json" if self.folder is not None else None
        if path is None or not path.is_file():
            return None
        try:
            return frozenset(map(str, json.loads(path.read_text(encoding="utf-8"))["words"]))
        except (ValueError, KeyError, TypeError) as error:
            msg = f'backbone: {path} is not {{"words": [...]}} ({type(error).__name__}); mend it'
            raise BackboneError(msg) from error

    @property
    def words(self) -> str:
        """The vocabulary that the content lever and the direction pairs use."""
        return "rich" if self.vocabulary is None else "image-tiny"

    def notes(self, prompt: str) -> list[str]:
        """Warn, never refuse, when the prompt has words this painter was never shown."""
        if self.vocabulary is None:
            return []
        words = dict.fromkeys(re.findall(r"[a-z]+(?:[-'][a-z]+)*", prompt.lower()))
        known = self.vocabulary | _SMALL
        strange = [w for w in words if not ({w, w.removesuffix("s"), w + "s"} & known)]
        if not strange:
            return []
        sample = sorted(self.vocabulary - _SMALL)
        shown = ", ".join(sample[:: max(1, len(sample) // 12)][:12])
        return [f"{self.name} was never shown: {', '.join(strange)}; it knows {shown} ..."]
