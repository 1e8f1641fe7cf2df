"""Every test runs offline: hub lookups off, sockets open to this machine only."""

from __future__ import annotations

import ipaddress
import os
import socket
from typing import Any

import pytest

# Before anything imports huggingface_hub, which reads these once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "Agg")

_connect = socket.socket.connect
_connect_ex = socket.socket.connect_ex


def _refuse_remote(sock: socket.socket, address: Any) -> None:
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    host = address[0]
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    if not local:
        msg = f"tests run offline, but something connected to {host!r}"
        raise OSError(msg)


def _guarded_connect(sock: socket.socket, address: Any) -> None:
    _refuse_remote(sock, address)
    _connect(sock, address)


def _guarded_connect_ex(sock: socket.socket, address: Any) -> int:
    _refuse_remote(sock, address)
    return _connect_ex(sock, address)


socket.socket.connect = _guarded_connect  # type: ignore[method-assign]
socket.socket.connect_ex = _guarded_connect_ex  # type: ignore[method-assign]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What is marked slow is run by `-m slow` (or any -m that names it), else skipped."""
    if "slow" in str(config.getoption("-m")):
        return
    later = pytest.mark.skip(reason="slow: run by make test-slow")
    for one in items:
        if "slow" in one.keywords:
            one.add_marker(later)
