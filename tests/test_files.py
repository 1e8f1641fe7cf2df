"""A written file is whole, readable by everybody, and an error leaves the old one."""

from __future__ import annotations

import pytest

from adapters.files import replacing


def test_the_new_file_is_whole_and_readable_by_all(tmp_path):
    path = tmp_path / "deep" / "a.json"
    with replacing(path) as fresh:
        fresh.write_text("one")
        assert not path.exists()
    assert path.read_text() == "one"
    assert path.stat().st_mode & 0o777 == 0o644
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]


def test_an_error_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")

    def fail():
        with replacing(path) as fresh:
            fresh.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
