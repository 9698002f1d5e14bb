"""What a build that failed says: the sentence it ends with."""

import subprocess
import sys

import pytest
from build_output import reason

PROJECT = """
class ImproperlyConfigured(Exception):
    __module__ = "django.core.exceptions"

def environment(name):
    try:
        return {}[name]
    except KeyError as missing:
        raise %s

%s
environment("SHOP_KEY")
"""

# What pip says of a package whose setup.py fails.
PIP = """\
[notice] A new release of pip is available: 25.1 -> 25.3
  error: subprocess-exited-with-error
  
  × Getting requirements to build wheel did not run successfully.
  │ exit code: 1
  ╰─> [11 lines of output]
      Traceback (most recent call last):
        File "/tmp/_in_process.py", line 389, in <module>
          main()
          ~~~~^^
        File "<string>", line 2, in <module>
        File "<frozen os>", line 717, in __getitem__
      KeyError: 'ABACUS_HOME'
      [end of output]
  
  note: This error originates from a subprocess, and is likely not a problem with pip.
ERROR: Failed to build 'file:///tmp/abacus' when getting requirements to build wheel
"""


def stderr_of(program: str) -> str:
    """What Python says of a program that fails."""
    done = subprocess.run(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode
    return done.stdout


@pytest.mark.parametrize(
    ("what", "before", "tells"),
    [
        # During handling of the above …
        (
            'ImproperlyConfigured(f"Set {name}")',
            "",
            "django.core.exceptions.ImproperlyConfigured: Set SHOP_KEY",
        ),
        # … the direct cause
        (
            'ImproperlyConfigured(f"Set {name}") from missing',
            "",
            "django.core.exceptions.ImproperlyConfigured: Set SHOP_KEY",
        ),
        ("ImproperlyConfigured", "", "django.core.exceptions.ImproperlyConfigured"),
        (
            r'ImproperlyConfigured("one\n\n  two\nthree\nfour")',
            "",
            "django.core.exceptions.ImproperlyConfigured: one; two; three",
        ),
        (
            'ImproperlyConfigured("first")',
            "class Late:\n    def __del__(self): raise TypeError('late')\nlate = Late()\n",
            "django.core.exceptions.ImproperlyConfigured: first",
        ),
        ("missing", "", "KeyError: 'SHOP_KEY'"),
        (
            "SystemExit('CommandError: no')",
            "import traceback\ntry: {}['x']\nexcept KeyError: traceback.print_exc()\n",
            "KeyError: 'x'; CommandError: no",
        ),
        ("missing", "exec('x = (')", "SyntaxError: '(' was never closed"),
    ],
    ids=["during", "cause", "bare", "lines", "ignored", "raised again", "logged", "syntax"],
)
def test_a_failed_command_is_reported_with_the_last_exception(what: str, before: str, tells: str) -> None:
    assert reason(stderr_of(PROJECT % (what, before))) == tells


@pytest.mark.parametrize(
    ("output", "tells"),
    [
        (
            PIP,
            "KeyError: 'ABACUS_HOME'; ERROR: Failed to build 'file:///tmp/abacus' when getting requirements to build wheel",
        ),
        (
            "looking\nERROR: Could not find a version\nERROR: No matching distribution found\n",
            "ERROR: Could not find a version; ERROR: No matching distribution found",
        ),
        ("E: Unable to locate package libnone\n", "E: Unable to locate package libnone"),
        ("one\ntwo\n\nthree\nfour\n", "two; three; four"),
        ("", "it did not say why"),
    ],
)
def test_a_failed_command_is_reported_with_the_error_lines(output: str, tells: str) -> None:
    assert reason(output) == tells
