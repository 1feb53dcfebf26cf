"""How far the tests look: the option ``--examples``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis.strategies import SearchStrategy


class Effort(NamedTuple):
    """The number of generated expressions that was asked for, None by default.

    With a number, each run draws other expressions, and more packets are
    tried for each.
    """

    asked: int | None

    def limit(self, usual: int, most: int) -> int:
        """``usual`` by default, ``most`` with a number."""
        return usual if self.asked is None else most

    def check(
        self,
        usual: int,
        test: Callable[..., None],
        *strategies: SearchStrategy[Any],
        first: Iterable[str] = (),
    ) -> None:
        """Run ``test`` with generated arguments, ``usual`` times by default;
        before that, with each text of ``first``.
        """
        run = given(*strategies)(test)
        for text in first:
            run = example(text)(run)
        settings(
            max_examples=usual if self.asked is None else self.asked,
            derandomize=self.asked is None,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )(run)()


@pytest.fixture
def effort(pytestconfig: pytest.Config) -> Effort:
    """For the modules that import it."""
    return Effort(pytestconfig.getoption("examples"))
