"""The recipes for a launcher of several processes: as `affect train` has them, without typer.

    accelerate launch --num_processes 4 -m training.cli lora --modality image --data photos/ ...
    torchrun --nproc_per_node 4 -m training.cli lora --config my.toml --resume latest

Pictures are learned by all processes together; the main one alone writes and tells. What takes one
process (styles, sliders, directions) is done by the main one, and the others leave; critics and
distilling, which take one too, are `affect train`'s alone. Options are
read from the dataclasses of training.config, as those of `affect train` are.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

from pipelines.params import Params
from training import recipes
from training.config import LORAS, ConfigError, Slider, read, source_of
from training.config import Directions as DirectionsKnobs

BAD_INPUT, INTERRUPTED = 2, 130


def parser() -> argparse.ArgumentParser:
    """One command a recipe, one option a field; what is not given is not in the result."""
    top = argparse.ArgumentParser(
        prog="python -m training.cli",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = top.add_subparsers(dest="verb", required=True)
    lora = verbs.add_parser("lora", help="learn from files of your own", allow_abbrev=False)
    lora.add_argument("--modality", metavar="NAME", help=", ".join(LORAS))
    lora.add_argument("--resume", metavar="WHICH", help="latest, a step, or a checkpoint's folder")
    _knobs(lora, *LORAS.values())
    slider = verbs.add_parser("slider", help="learn from prompts alone", allow_abbrev=False)
    slider.add_argument("--restart", action="store_true", help="forget what there is")
    slider.add_argument("--no-data", action="store_true", help="says what holds anyway")
    _knobs(slider, Slider)
    _knobs(verbs.add_parser("directions", help="fit, no training", allow_abbrev=False),
           DirectionsKnobs)  # fmt: skip
    return top


def _knobs(to: argparse.ArgumentParser, *kinds: type[Params]) -> None:
    to.add_argument("--config", help="TOML file with any of these; typed ones win")
    to.add_argument("--dry-run", action="store_true", help="tell what would be done")
    to.add_argument("--json", action="store_true", help="print the figures as one JSON object")
    group = to.add_argument_group("knobs", argument_default=argparse.SUPPRESS)
    fields = {one.name: one for kind in kinds for one in reversed(dataclasses.fields(kind))}
    for name, field in reversed(fields.items()):
        given: dict[str, Any] = {"help": field.metadata.get("help", "").replace("%", "%%")}
        if field.type == "bool":
            given["action"] = argparse.BooleanOptionalAction
        elif field.type in ("int", "float"):
            given |= {"type": int if field.type == "int" else float, "metavar": "N"}
        group.add_argument("--" + name.replace("_", "-"), **given)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns 0, 2 for input that cannot be used, 130 after Ctrl-C."""
    given = vars(parser().parse_args(arguments))
    rank, _ = recipes.launched()
    try:
        figures = _run(given, _teller(rank))
    except KeyboardInterrupt:
        return INTERRUPTED
    except (ValueError, OSError) as error:
        if rank == 0:
            _teller(rank)(" ".join(str(error).split()))
        return BAD_INPUT
    if rank == 0:
        print(json.dumps(figures, sort_keys=True, default=str) if given["json"]
              else figures.get("path", ""), flush=True)  # fmt: skip
    return 0


def _teller(rank: int) -> Callable[[str], None]:
    def tell(line: str) -> None:
        if rank == 0:
            sys.stderr.write(f"affect: {line}\n")
            sys.stderr.flush()

    return tell


def _run(given: dict[str, Any], tell: Callable[[str], None]) -> dict[str, Any]:
    verb, dry = given.pop("verb"), given.pop("dry_run")
    source, resume = source_of(given.pop("config")), given.pop("resume", None)
    modality, restart = given.pop("modality", None), given.pop("restart", False)
    knobs = {name: value for name, value in given.items() if name not in ("json", "no_data")}
    named, settings = _settings(verb, source, modality, knobs)
    kind = named if verb == "lora" else "image"
    row = recipes.backbone_of(settings.backbone, kind)
    out = recipes.out_of(settings.out, {"lora": f"lora-{named}", "slider": "sliders"}.get(
        verb, verb), row)  # fmt: skip
    if dry and verb != "lora":
        return {"path": str(out), "steps": 0}
    rank, _ = recipes.launched()
    together = (verb, named) == ("lora", "image")
    if rank and not together:
        return {}
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import torch
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    of_diffusers.disable_progress_bar()
    of_transformers.disable_progress_bar()
    torch.set_flush_denormal(True)  # tiny moments and gradients run an order slower on a CPU
    with contextlib.redirect_stdout(sys.stderr):
        if together:
            from accelerate import Accelerator, InitProcessGroupKwargs

            # The main process paints and reads for minutes while the others wait for a message.
            patient = InitProcessGroupKwargs(timeout=timedelta(hours=3))
            # Without being told, it would let every process believe that it is alone on a CPU.
            cpu = settings.device == "cpu" or not torch.accelerator.is_available()
            accelerator = Accelerator(cpu=cpu, kwargs_handlers=[patient])
            return recipes.pictures(settings, row, out, resume=resume, dry_run=dry, tell=tell,
                                    accelerator=accelerator)  # fmt: skip
        if verb == "lora":
            return recipes.style(named, settings, row, out, resume=resume, dry_run=dry, tell=tell)
        if verb == "slider":
            return recipes.sliders(settings, row, out, restart=restart, tell=tell)
        return recipes.directions(settings, row, out, tell=tell)


def _settings(verb: str, source: Any, modality: str | None, knobs: dict[str, Any]) -> Any:
    if verb == "lora":
        return recipes.lora_settings(source, modality, knobs)
    if verb == "slider":
        return "", read(Slider, source, knobs)
    if verb == "directions":
        return "", recipes.directions_settings(source, knobs)
    msg = f"verb: {verb} is not known"
    raise ConfigError(msg)


if __name__ == "__main__":
    sys.exit(main())
