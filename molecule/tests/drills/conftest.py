"""What every test that breaks the standing tier shares."""

import pytest


@pytest.fixture
def mended(place):
    """The tier is whole before and after a test."""
    place.whole()
    yield
    place.whole()
