"""The pages under docs/, the changelog and what hosting needs: they say what is there.

Commands parse, tables of knobs are their dataclasses, links lead somewhere.
"""

from __future__ import annotations

import configparser
import dataclasses
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from pipelines.film import FilmParams
from pipelines.image import ImageParams
from pipelines.music import MusicParams
from pipelines.portrait import PortraitParams
from pipelines.video import VideoParams
from pipelines.voice import VoiceParams
from studio.server import ServerError, check_open, hosts_of
from tests.command_lines import commands_in, read_command

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((ROOT / "docs").rglob("*.md"))
COMMANDS = [(page.name, line) for page in PAGES for line in commands_in(page.read_text("utf-8"))]


def params_table(kind: type) -> str:
    """Write the table of the public knobs; to renew a page, paste what this returns."""
    rows = ["| knob | default | what it does |", "|---|---|---|"]
    for field in dataclasses.fields(kind):
        # Not a dict: 0 is False and 1.0 is True.
        match field.default:
            case bool(on):
                shown = "on" if on else "off"
            case None:
                shown = field.metadata.get("unset", "the model's own")
            case number:
                shown = f"{number}" or "none"
        flag = f"`--{field.name.replace('_', '-')}`"
        rows.append(f"| {flag} | {shown} | {field.metadata['help']} |")
    return "\n".join(rows)


KINDS = [
    ("image", ImageParams),
    ("music", MusicParams),
    ("voice", VoiceParams),
    ("portrait", PortraitParams),
    ("video", VideoParams),
    ("film", FilmParams),
]


@pytest.mark.parametrize(("modality", "kind"), KINDS)
def test_table_of_knobs_is_the_dataclass(modality: str, kind: type) -> None:
    page = (ROOT / "docs" / f"{modality}.md").read_text("utf-8")
    found = re.search(rf"<!-- params:{modality} .*?-->\n(.*?)<!-- /params -->", page, re.S)
    assert found
    assert found.group(1).strip() == params_table(kind)


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_every_command_parses(page: str, line: str) -> None:
    read_command(line)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_is_short_concrete_and_its_links_lead_somewhere(page: Path) -> None:
    text = page.read_text("utf-8")
    assert text.startswith("# ")
    assert len(text.splitlines()) <= 160
    assert page.name in ("README.md",) or commands_in(text), "a page shows what to type"
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if not target.startswith(("http", "#")):
            assert (page.parent / target.partition("#")[0]).exists(), target


def test_the_readme_names_every_page() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    for page in PAGES:
        assert page.relative_to(ROOT).as_posix() in readme, page.name


def test_pictures_of_the_pages_are_small() -> None:
    for picture in (ROOT / "docs" / "pictures").iterdir():
        assert picture.stat().st_size <= 200_000, picture.name
        with Image.open(picture) as opened:
            assert max(opened.size) <= 2000


def test_the_changelog_is_one() -> None:
    """Keep a Changelog 1.1: releases with ISO dates, newest first, known kinds of change."""
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    releases = re.findall(r"^## \[(.+?)\](?: - (\d{4}-\d\d-\d\d))?$", text, re.M)
    assert releases[0] == ("Unreleased", "")
    dates = [when for _, when in releases[1:]]
    assert all(dates)
    assert dates == sorted(dates, reverse=True)
    kinds = set(re.findall(r"^### (.+)$", text, re.M))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text("utf-8"), re.M)
    assert version
    assert version[1] in [name for name, _ in releases]


# Hosting -----------------------------------------------------------------------------------------


def test_a_proxy_is_answered_under_its_name_only() -> None:
    """What docs/hosting.md says of --name."""
    names = ("Studio.Example.org",)
    assert {"127.0.0.1", "studio.example.org"} <= set(hosts_of("127.0.0.1", False, names))
    assert "studio.example.org" not in hosts_of("127.0.0.1", False)
    check_open("127.0.0.1", False, ("me", "long enough"), names)
    with pytest.raises(ServerError, match=r"name Studio\.Example\.org lets others in"):
        check_open("127.0.0.1", False, None, names)
    for wrong in ("https://studio.example.org", "studio.example.org:443", "", "a/b"):
        with pytest.raises(ServerError, match="without scheme and port"):
            check_open("127.0.0.1", False, ("me", "long enough"), (wrong,))


SERVICE = ROOT / "docs" / "hosting" / "affect-studio.service"


def test_the_service_is_shut_in() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[method-assign,assignment]
    unit.read(SERVICE)
    service = unit["Service"]
    said = {name: service[name] for name in ("NoNewPrivileges", "ProtectSystem", "PrivateTmp")}
    assert said == {"NoNewPrivileges": "yes", "ProtectSystem": "strict", "PrivateTmp": "yes"}
    assert service["User"] not in ("", "root")
    start = service["ExecStart"]
    assert "--host" not in start, "loopback; a proxy in front talks to others"
    read_command(f"affect {start.split('affect ')[1]}")
    assert "env:AFFECT_PASSWORD" in start, "a password is not seen among the processes"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here")
def test_systemd_reads_the_service(tmp_path: Path) -> None:
    """Under names of programs and users that are here, as systemd looks for them."""
    text = SERVICE.read_text("utf-8")
    text = re.sub(r"(?m)^ExecStart=\S+", "ExecStart=/bin/true", text)
    unit = tmp_path / "affect-studio.service"
    unit.write_text(re.sub(r"(?m)^(User|Group)=.*$", r"\1=daemon", text))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True
    )
    told = [line for line in done.stderr.splitlines() if unit.name in line]
    assert told == []
