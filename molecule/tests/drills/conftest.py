"""What every test that breaks the standing tier shares."""

from collections.abc import Iterator

import pytest
from target import Target


@pytest.fixture
def healthy(target: Target) -> Iterator[None]:
    """The tier is whole before and after a test."""
    target.await_healthy()
    yield
    target.await_healthy()
