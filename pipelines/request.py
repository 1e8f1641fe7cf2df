"""Request: everything that decides a result, and its key.

The key is the identity of a result. Pixels are not: the same network differs by 1e-6 with the
batch size or the number of threads. A request is the same from the command line, a manifest line
or a finished file, and all of them go through the same checks, because a file's metadata is
written by whoever made the file. This file deliberately does not know what a backbone is or which
params it takes, nor how anything is written.
"""

from __future__ import annotations

import hashlib
import json
import math
import numbers
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from adapters.emotion import EmotionTimeline
from pipelines import media
from pipelines.ledger import TakeError

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"

FORMAT = 1
"""Version of the record in files; part of the key, so a change of meaning is a change of key."""
MODALITIES = ("image", "video", "portrait", "voice", "music", "film")
WORDED = ("image",)
"""Modalities that cannot do without a prompt; a film may have a picture instead."""
MAX_PROMPT = 2**16  # characters; escaped to JSON six bytes each, it still fits a 1 MB record
MAX_SEED = 2**53 - 1  # the largest integer that survives JSON readers with doubles
MAX_DEPTH = 8  # of nested params
_FIELDS = ("modality", "prompt", "emotion", "seed", "backbone")
_OPTIONAL = ("params", "inputs", "weights")


@dataclass(frozen=True, slots=True)
class Request:
    """Everything that decides a result.

    modality: one of MODALITIES. prompt: up to 65,536 characters. emotion: one key or many.
    seed: 0..2**53-1. backbone: a row of BACKBONES, a hub id or a folder. params: the public knobs,
    plain JSON. inputs: name -> file, for example `init`; read once, for their sha256.
    weights: digest of the backbone's weights. digests: name -> sha256 hex of `inputs`, filled in
    here; given only for a request that is read back, whose files may be gone.

    Raises:
        TakeError: any field out of range, or an input that cannot be read.
    """

    modality: str
    prompt: str
    emotion: EmotionTimeline
    seed: int
    backbone: str
    params: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Path] = field(default_factory=dict)
    weights: str = ""
    digests: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check every field, copy the mappings, hash the inputs."""
        if self.modality not in MODALITIES:
            msg = f"modality: one of {', '.join(MODALITIES)}, received {str(self.modality)[:40]!r}"
            raise TakeError(msg)
        for name in ("prompt", "backbone", "weights"):
            _check_text(name, getattr(self, name))
        if self.modality in WORDED and not self.prompt.strip():
            msg = "prompt: empty; say what should be seen, for example 'a mountain lake'"
            raise TakeError(msg)
        if not self.backbone.strip():
            msg = "backbone: empty; name one, for example image-tiny"
            raise TakeError(msg)
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            msg = f"seed: a whole number, received {self.seed!r}"
            raise TakeError(msg)
        if not 0 <= self.seed <= MAX_SEED:
            msg = f"seed: 0 to {MAX_SEED}, received {str(self.seed)[:40]}"
            raise TakeError(msg)
        inputs = {str(name): Path(path) for name, path in self.inputs.items()}
        digests = {name: self.digests.get(name) or _digest(name, inputs[name]) for name in inputs}
        # Plain dicts, not read-only proxies: requests travel between processes, proxies do not.
        object.__setattr__(self, "params", plain_object(self.params, "params"))
        object.__setattr__(self, "inputs", inputs)
        object.__setattr__(self, "digests", digests)

    def __hash__(self) -> int:
        """Hash by identity: the key."""
        return hash(self.key)

    @property
    def key(self) -> str:
        """Identity: sha256 (64 hex digits) of the canonical JSON of all that decides the result.

        Where an input lies does not count, its bytes do; 1 and 1.0 are the same number.
        """
        identity = {**self.to_json(), "format": FORMAT, "inputs": self.digests}
        return canonical_key(identity)

    def changed(self, **fields: Any) -> Request:
        """A request like this with some fields replaced; new inputs are hashed anew."""
        if "inputs" in fields:
            fields.setdefault("digests", {})
        return replace(self, **fields)

    def check_inputs(self) -> None:
        """Raise a TakeError when an input file is gone or no longer the one that was asked with."""
        for name, path in self.inputs.items():
            if _digest(name, path) != self.digests[name]:
                msg = f"{name}: {path} has changed since; give the original with --{name}"
                raise TakeError(msg)

    def to_json(self) -> dict[str, Any]:
        """The request as plain JSON, the same in manifests, the ledger and file metadata.

        Paths in the home folder are written with `~`: a shared file need not tell a user's name.
        """
        return {
            "modality": self.modality,
            "prompt": self.prompt,
            "emotion": self.emotion.text,
            "seed": self.seed,
            "backbone": self.backbone,
            "weights": self.weights,
            "params": dict(self.params),
            "inputs": {
                name: {"path": _without_home(path), "sha256": self.digests[name]}
                for name, path in self.inputs.items()
            },
        }

    @classmethod
    def from_json(cls, data: Any) -> Request:
        """The request of `to_json`; intensities up to 1.5 are taken, they were asked for with over.

        Raises:
            TakeError: a field is missing, unknown or of the wrong kind.
        """
        if not isinstance(data, Mapping):
            msg = f"request: a JSON object, received {type(data).__name__}"
            raise TakeError(msg)
        known = (*_FIELDS, *_OPTIONAL)
        if unknown := sorted(str(name)[:40] for name in set(data) - set(known)):
            msg = f"request: unknown field {unknown[0]!r}; known are {', '.join(known)}"
            raise TakeError(msg)
        if missing := [name for name in _FIELDS if name not in data]:
            msg = f"request: field {missing[0]!r} is missing; needed are {', '.join(_FIELDS)}"
            raise TakeError(msg)
        _check_text("emotion", data["emotion"])
        paths, digests = _inputs_from_json(data.get("inputs", {}))
        return cls(
            modality=data["modality"],
            prompt=data["prompt"],
            emotion=EmotionTimeline.parse(data["emotion"], over=True),
            seed=data["seed"],
            backbone=data["backbone"],
            params=data.get("params", {}),
            inputs=paths,
            weights=data.get("weights", ""),
            digests=digests,
        )


def canonical_key(identity: Mapping[str, Any]) -> str:
    """Sha256 (64 hex digits) of JSON whose spelling does not count: order, blanks, 1 and 1.0."""
    text = json.dumps(_canonical(dict(identity)), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _inputs_from_json(data: Any) -> tuple[dict[str, Path], dict[str, str]]:
    """Paths and digests; an input is a path (then it is read) or {"path", "sha256"}."""
    if not isinstance(data, Mapping):
        msg = f"inputs: a JSON object, received {type(data).__name__}"
        raise TakeError(msg)
    paths: dict[str, Path] = {}
    digests: dict[str, str] = {}
    for name, value in data.items():
        entry: Mapping[str, Any] = value if isinstance(value, Mapping) else {"path": value}
        text: Any = entry.get("path")
        digest = entry.get("sha256")
        _check_text(f"inputs.{str(name)[:40]}", text)
        with suppress(RuntimeError):  # "~name" of a user that this machine does not know
            paths[name] = Path(text)
            paths[name] = Path(text).expanduser()
        if digest is not None:
            if not re.fullmatch(r"[0-9a-f]{64}", str(digest)):
                msg = f"inputs.{str(name)[:40]}: sha256 is 64 hex digits"
                raise TakeError(msg)
            digests[name] = str(digest)
    return paths, digests


def _digest(name: str, path: Path) -> str:
    try:
        if not path.is_file():  # a pipe would wait for ever
            raise FileNotFoundError
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        msg = f"{name}: no readable file {media.printable(path)}; check the path"
        raise TakeError(msg) from error


def _check_text(name: str, value: Any) -> None:
    if not isinstance(value, str):
        msg = f"{name}: text, received {type(value).__name__}"
        raise TakeError(msg)
    if len(value) > MAX_PROMPT:
        msg = f"{name}: at most {MAX_PROMPT} characters, received {len(value)}; shorten it"
        raise TakeError(msg)
    if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
        msg = f"{name}: contains half a character (a lone surrogate); type it again"
        raise TakeError(msg)


def plain_object(value: Any, name: str) -> dict[str, Any]:
    """A private copy of a mapping that is plain JSON; raises TakeError naming what is not."""
    if not isinstance(value, Mapping):
        msg = f"{name}: a JSON object, received {type(value).__name__}"
        raise TakeError(msg)
    return {key: _plain(item, f"{name}.{_key(key, name)}", 1) for key, item in value.items()}


def _plain(value: Any, name: str, depth: int) -> JSON:
    """A private copy made of plain JSON kinds only; numpy scalars become Python's."""
    if depth > MAX_DEPTH:
        msg = f"{name[:80]}: nested more than {MAX_DEPTH} deep; flatten it"
        raise TakeError(msg)
    if value is None or isinstance(value, bool) or type(value) is int:
        return value
    if isinstance(value, str):
        _check_text(name, value)
        return value
    if isinstance(value, numbers.Integral):  # asked late: these two are slow to answer
        return int(value)
    if isinstance(value, numbers.Real) and math.isfinite(value):
        return float(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item, name, depth + 1) for item in value]
    if isinstance(value, Mapping):
        return {k: _plain(v, f"{name}.{_key(k, name)}", depth + 1) for k, v in value.items()}
    msg = (
        f"{name[:80]}: text, finite numbers, true, false, lists or objects, received {value!r:.60}"
    )
    raise TakeError(msg)


def _key(key: Any, name: str) -> str:
    _check_text(f"{name[:80]} names", key)
    return str(key)[:40]


def _canonical(value: Any) -> Any:
    """The same JSON with whole floats as integers: 1.0 from one reader is 1 from another."""
    if isinstance(value, dict):
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value


def _without_home(path: Path) -> str:
    with suppress(ValueError, RuntimeError):
        return f"~/{path.relative_to(Path.home()).as_posix()}"
    return path.as_posix()
