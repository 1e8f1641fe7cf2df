"""Settings of training runs: defaults, a TOML file over them, what was typed over both."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest

from adapters import directions
from training import lora, music_lora, portrait_lora, voice_lora
from training.config import (
    LORAS,
    ConfigError,
    Directions,
    ImageLora,
    MusicLora,
    PortraitLora,
    Slider,
    VoiceLora,
    as_toml,
    core_emotions,
    read,
    source_of,
)

QUOTED = 'a "name" with ä'


def written(folder: Path, text: str) -> Path:
    path = folder / "run.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_file_is_over_the_defaults_and_what_was_typed_over_the_file(tmp_path: Path) -> None:
    source = source_of(written(tmp_path, 'data = "photos"\nsteps = 40\nrate = 1e-3\n'))
    run = read(ImageLora, source, {"steps": 20, "bf16": True})
    assert (run.data, run.steps, run.rate, run.bf16) == ("photos", 20, 1e-3, True)
    assert run.rank == ImageLora().rank
    assert read(ImageLora, source_of(None), {}) == ImageLora()
    with pytest.raises(dataclasses.FrozenInstanceError):
        run.steps = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "given", "told"),
    [
        ("# photos\n\nstepps = 4\n", {}, "run.toml:3: stepps: is not known to this recipe; did "
                                         "you mean steps?"),
        ("zzz = 4\n", {}, "run.toml:1: zzz: is not known to this recipe; known are data"),
        ("rank = 4\n[train]\nsteps = 1\n", {}, "run.toml:2: train: is no option but a table; "
                                              "write options without [train]"),
        ("rank = 4\nsteps = 0\n", {}, "run.toml:2: steps: allowed 1 to"),
        ('steps = "many"\n', {}, "run.toml:1: steps: expected a whole number, received 'many'"),
        ("bf16 = 1\n", {}, "run.toml:1: bf16: expected true or false"),
        ("steps = 1\nsteps = 2\n", {}, "run.toml:2: no TOML: cannot overwrite a value"),
        ("data = photos\n", {}, "run.toml:1: no TOML"),
        ("", {"mni_snr": 4}, "--mni-snr: is not known to this recipe; did you mean min-snr?"),
        ("", {"min_snr": math.inf}, "min_snr: expected a number"),
    ],
)  # fmt: skip
def test_a_fault_is_one_line_with_its_place(
    text: str, given: dict[str, Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as error:
        read(ImageLora, source_of(written(tmp_path, text)), given)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_bytes(b"\xff\xfe\x00")
    for path, told in ((tmp_path / "no.toml", "cannot be read"), (tmp_path, "cannot be read"),
                       (tmp_path / "run.toml", "no UTF-8")):  # fmt: skip
        with pytest.raises(ConfigError, match=told):
            source_of(path)


@pytest.mark.parametrize("kind", [*LORAS.values(), Slider, Directions])
def test_settings_written_and_read_again_are_the_same(kind: Any, tmp_path: Path) -> None:
    run = kind(backbone=QUOTED, seed=7) if kind is not Directions else kind(ridge=0.25)
    source = source_of(written(tmp_path, as_toml(run, modality="x")))
    assert source.values["modality"] == "x"
    assert read(kind, source.without("modality"), {}) == run
    for one in dataclasses.fields(kind):
        assert one.metadata["help"].strip()


@pytest.mark.parametrize(
    ("kind", "recipe"),
    [
        (MusicLora, music_lora.Settings),
        (VoiceLora, voice_lora.LoraSettings),
        (PortraitLora, portrait_lora.LoraSettings),
        (Slider, lora.Settings),
    ],
)
def test_the_defaults_are_the_recipes_own(kind: Any, recipe: Any) -> None:
    own = {one.name: one.default for one in dataclasses.fields(recipe)}
    here = {one.name: one.default for one in dataclasses.fields(kind)}
    assert set(own) <= set(here)
    own.pop("minutes", None)  # here 0, no limit, whatever the recipe calls it
    assert own == {name: here[name] for name in own}


def test_directions_are_fitted_as_the_bank_does_by_itself() -> None:
    run = Directions()
    assert (run.components, run.ridge) == (directions.COMPONENTS, directions.RIDGE)


def test_emotions_are_core_ones_in_their_order() -> None:
    assert core_emotions("sadness, anger") == ("anger", "sadness")
    assert len(core_emotions("all")) == 12
    with pytest.raises(ConfigError, match="did you mean anger"):
        core_emotions("angr")
    with pytest.raises(ConfigError, match="none named"):
        core_emotions(" ,")
