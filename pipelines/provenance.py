"""Content credentials (C2PA): what binds a file to its maker by a signature, as an optional extra.

Every file says in its records that it is synthetic, but anybody may take that away or write it into
another file. A C2PA manifest is signed over the bytes, so a change shows. Signing needs a
certificate of the user's own; this project has none and puts its trust in no list: whether a
signer is to be believed is said by anchors that a person gives. Nothing is looked up on the network
while reading or signing: a stranger's file must not make this machine call anybody.

The package is `c2pa-python` (extra `c2pa`), the standard's own (spec.c2pa.org). No watermark:
this project knows no well-kept package that does it offline. It deliberately does not know takes.
"""

from __future__ import annotations

import io
import json
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata as packages
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pipelines.ledger import TakeError, write_atomic
from pipelines.media import TRAINED, printable, read_metadata

MIME = {
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
    "wav": "audio/wav",
    "mp3": "audio/mpeg",
    "mp4": "video/mp4",
}
"""Suffix -> what C2PA knows; notes (MIDI) and FLAC it does not."""
MAX_BYTES = 512 * 2**20
MAX_PEM = 2**17
_OFFLINE: dict[str, Any] = {
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
    "builder": {"thumbnail": {"enabled": False}},  # it would hold a second picture of a face
}
_ALGORITHMS = {256: "ES256", 384: "ES384", 521: "ES512"}  # bits of the curve


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a file's C2PA manifest says, once checked.

    state: "trusted" (signed under the anchors given), "valid" (unchanged since it was signed, by
    whom is not known here), "invalid". problems: codes of the standard. sources: the
    DigitalSourceTypes of its actions. All texts but `state` may be a stranger's.
    """

    state: str
    issuer: str
    generator: str
    sources: tuple[str, ...]
    problems: tuple[str, ...]


def available() -> bool:
    """Whether the extra is installed."""
    return find_spec("c2pa") is not None


def credentials(path: Path, anchors: Path | None = None) -> Credentials | None:
    """Read and check the content credentials of a file; None when it carries none.

    Raises:
        TakeError: the extra is not installed, or the file or the anchors cannot be read.
    """
    c2pa = _package()
    kind = MIME.get(path.suffix.lower().removeprefix("."))
    if kind is None:
        return None
    settings = dict(_OFFLINE)
    if anchors is not None:
        settings["trust"] = {"trust_anchors": _pem(anchors, "anchors")}
    if path.stat().st_size > MAX_BYTES:
        msg = f"{printable(path)}: over {MAX_BYTES >> 20} MB, its credentials are not read"
        raise TakeError(msg)
    try:
        with c2pa.Context.from_dict(settings) as context, path.open("rb") as file:
            reader = c2pa.Reader.try_create(kind, file, context=context)
            if reader is None:
                return None
            with reader:
                return _read(str(reader.get_validation_state()), json.loads(reader.json()))
    except (c2pa.C2paError, OSError, ValueError) as error:
        # A broken manifest is one that does not hold.
        return Credentials("invalid", "", "", (), (str(error)[:200],))


def sign(path: Path, target: Path, *, chain: Path, key: Path) -> Path:
    """Write a signed copy of a file that says it is synthetic; its records stay as they are.

    Args:
        path: PNG, JPEG, WEBP, WAV, MP3 or MP4 with a DigitalSourceType.
        target: where the copy goes; not the file itself, whose sha256 the ledger knows.
        chain: PEM certificates, the signer's first, up to but without the root.
        key: PEM private key without a passphrase: P-256, P-384, P-521, Ed25519 or RSA.

    Raises:
        TakeError: one line for whatever cannot be used.
    """
    c2pa = _package()
    kind = MIME.get(path.suffix.lower().removeprefix("."))
    if kind is None:
        msg = f"sign: {path.suffix or 'no suffix'} holds no content credentials; these do: "
        raise TakeError(msg + ", ".join(MIME))
    if target.exists():
        msg = f"sign: {target} is there already; give another --to"
        raise TakeError(msg)
    source = str(read_metadata(path).get("digital_source", ""))
    if not source:
        msg = f"sign: {printable(path)} does not say that it is synthetic; only takes are signed"
        raise TakeError(msg)
    private = _pem(key, "key")
    info = c2pa.C2paSignerInfo(
        getattr(c2pa.C2paSigningAlg, _algorithm(private)),
        _pem(chain, "certificate").encode(),
        private.encode(),
        None,  # no time-stamping authority: that is a call over the network
    )
    action: dict[str, Any] = {"action": "c2pa.created", "digitalSourceType": source}
    manifest = {
        "claim_generator_info": [{"name": "affect-studio", "version": _version()}],
        "title": path.name,
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [action]}}],
    }
    signed = io.BytesIO()
    try:
        with (
            c2pa.Context.from_dict(_OFFLINE) as context,
            c2pa.Signer.from_info(info) as signer,
            c2pa.Builder(json.dumps(manifest), context=context) as builder,
            path.open("rb") as file,
        ):
            builder.sign(signer, kind, file, signed)
    except (c2pa.C2paError, OSError, ValueError) as error:
        told = " ".join(str(error).split())[:200]
        msg = f"sign: {printable(path)} could not be signed ({told}); check certificate and key"
        raise TakeError(msg) from error
    return write_atomic(target, signed.getvalue())


def source_word(source: str) -> str:
    """A DigitalSourceType for people; empty stays empty."""
    if not source:
        return ""
    if source == TRAINED:
        return "made by a model"
    short = source.rsplit("/", 1)[-1]
    composite = short.startswith("composite")
    return "real material changed by a model" if composite else short


def _read(state: str, found: dict[str, Any]) -> Credentials:
    active = found.get("manifests", {}).get(found.get("active_manifest", ""), {})
    actions = [
        action
        for assertion in active.get("assertions", [])
        if str(assertion.get("label", "")).startswith("c2pa.actions")
        for action in assertion.get("data", {}).get("actions", [])
    ]
    sources = dict.fromkeys(
        str(a["digitalSourceType"]) for a in actions if "digitalSourceType" in a
    )
    made = active.get("claim_generator_info") or [{}]
    codes = [str(one.get("code")) for one in found.get("validation_status") or []]
    signature = active.get("signature_info") or {}
    names = (signature.get("common_name"), signature.get("issuer"))
    return Credentials(
        state.lower(),
        ", ".join(str(name) for name in names if name),
        f"{made[0].get('name', '')} {made[0].get('version', '')}".strip(),
        tuple(sources),
        tuple(code for code in codes if code != "signingCredential.untrusted"),
    )


def _package() -> Any:
    if not available():
        msg = 'c2pa: is not installed; `pip install "affect-studio[c2pa]"` reads and signs'
        raise TakeError(msg)
    import c2pa

    return c2pa


def _pem(path: Path, name: str) -> str:
    try:
        if path.stat().st_size > MAX_PEM:
            raise ValueError
        text = path.read_text(encoding="ascii")
    except (OSError, ValueError) as error:
        msg = f"{name}: no readable PEM file {printable(path)}; check the path"
        raise TakeError(msg) from error
    if "-----BEGIN " not in text:
        msg = f"{name}: {printable(path)} is no PEM file; convert it with openssl"
        raise TakeError(msg)
    return text


def _algorithm(private: str) -> str:
    """The name of the signing algorithm that a key is for."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    found: Any = None
    with suppress(Exception):  # a passphrase, an unknown kind, damage: the same line below
        found = load_pem_private_key(private.encode(), password=None)
    if isinstance(found, ec.EllipticCurvePrivateKey) and found.curve.key_size in _ALGORITHMS:
        return _ALGORITHMS[found.curve.key_size]
    if isinstance(found, ed25519.Ed25519PrivateKey):
        return "ED25519"
    if isinstance(found, rsa.RSAPrivateKey):
        return "PS256"
    msg = "key: P-256, P-384, P-521, Ed25519 or RSA without a passphrase; convert it with openssl"
    raise TakeError(msg)


def _version() -> str:
    with suppress(packages.PackageNotFoundError):
        return packages.version("affect-studio")
    return "unknown"
