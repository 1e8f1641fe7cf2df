"""`affect train critic`: a critic from files that somebody has labelled.

    affect train critic --modality voice --data takes/ --out critics/ours

The recipe is training.critic_folder, its knobs training.config_critic. Everything that a person can
get wrong about the folder is told before anything is trained.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.ledger import write_atomic
from studio.console import note, result
from studio.train import Config, DryRun, Json, _told, _training
from training.config import ConfigError, as_toml, read, source_of
from training.config_critic import MODALITIES, Critic
from training.recipes import SETTINGS

Modality = Annotated[
    str | None,
    typer.Option(
        "--modality",
        metavar="NAME",
        help=f"What it reads: {', '.join(MODALITIES)}; image when not given.",
    ),
]


def critic(
    *,
    modality: Modality = None,
    config: Config = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    params: dict[str, Any],
) -> int:
    """Train a critic on labelled files; a stopped run is gone on with by the same command.

    Example: affect train critic --modality music --data my_midi/ --out critics/ours
    """
    source = source_of(config)
    named = str(modality or source.values.get("modality", "image"))
    if named not in MODALITIES:
        msg = f'modality: allowed {", ".join(MODALITIES)}, received "{named[:40]}"'
        raise source.error("modality", msg) if modality is None else ConfigError(msg)
    settings = read(Critic, source.without("modality"), params)
    if not settings.data:
        msg = "data: none given; pass --data FOLDER"
        raise ConfigError(msg)
    out = Path(settings.out) if settings.out else Path("out") / f"critic-{named}"
    from training.folder import read_folder

    given: dict[str, Any] = {"layout": settings.layout, "intensity": settings.intensity}
    data, report = read_folder(settings.data, MODALITIES[named], held=0, tell=note, **given)
    for line in report.text().splitlines():
        note(line)
    with _training(offline=True):
        from training.critic_folder import groups_of, train_critic, usable

        if dry_run:
            some = usable(data, named, note)
            note(f"{len(some)} files in {len(set(groups_of(some, note)))} groups -> {out}")
    if dry_run:
        result(as_toml(settings, modality=named).rstrip())
        return 0
    with _training(offline=True):
        figures = train_critic(data, named, settings, out, tell=note)
        write_atomic(out / SETTINGS, as_toml(settings, modality=named).encode())
    return _told(figures, out, as_json=as_json)
