"""How many threads short kernels may have."""

from __future__ import annotations

import pytest

from pipelines.worker import idle_threads


@pytest.mark.parametrize(
    ("wanted", "load", "cores", "given"),
    [
        (2, 0.3, 2, 2),
        (2, 0.9, 2, 1),
        (2, 5.0, 2, 1),
        (4, 3.0, 8, 4),
        (1, 9.0, 2, 1),
        (8, 1.0, 8, 1),
    ],
)
def test_threads_are_shared_out_only_where_cores_are_idle(
    wanted: int, load: float, cores: int, given: int
) -> None:
    assert idle_threads(wanted, load, cores) == given


def test_the_machine_is_asked_when_nothing_is_said() -> None:
    assert idle_threads(2) in (1, 2)
