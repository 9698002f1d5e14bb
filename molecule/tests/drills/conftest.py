"""What every test that breaks the standing tier shares."""

import os
import subprocess

import pytest

import drill
from tier import ROOT


@pytest.fixture(scope="session")
def place(tier):
    """The tier, to break."""
    return drill.Place(tier.name)


@pytest.fixture(scope="session")
def make(tier):
    """make("status") runs a verb on the tier, as an operator does; the finished process, with its output."""
    env = dict(os.environ, MAKEFLAGS="", ANSIBLE_NOCOLOR="true", ANSIBLE_FORCE_COLOR="false")
    return lambda *words: subprocess.run(["make", "--no-print-directory", *words, f"ENV={tier.name}"],
                                         cwd=ROOT, env=env, capture_output=True, text=True, check=False)


@pytest.fixture
def mended(place):
    """The tier is whole before and after a test."""
    place.whole()
    yield
    place.whole()
