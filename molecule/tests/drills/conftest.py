"""What every test that breaks the standing tier shares."""

import pytest


@pytest.fixture
def healthy(target):
    """The tier is whole before and after a test."""
    target.await_healthy()
    yield
    target.await_healthy()
