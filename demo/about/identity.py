"""
Who is answering? Whoever deploys the site says so in two environment variables.

They are read when asked for, so that nobody depends on the order in which modules are imported::

    >>> from unittest import mock
    >>> with mock.patch.dict("os.environ", SITE_RELEASE="2009.07", SITE_NODE="app1"):
    ...     release(), node()
    ('2009.07', 'app1')
"""

import os
import socket


def release() -> str:
    return os.environ.get("SITE_RELEASE") or "development"


def node() -> str:
    return os.environ.get("SITE_NODE") or socket.gethostname()
