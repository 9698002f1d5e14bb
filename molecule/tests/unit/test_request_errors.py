"""The traceback of a request, out of an app host's journal."""

import pytest
from ansible.module_utils import request_errors

# As Apache writes it for mod_wsgi: two threads at once, a record of another request after this one's, and one of no request.
JOURNAL = """\
AH00163: Apache/2.4.65 (Debian) mod_wsgi/5.0.0 configured -- resuming normal operations
[wsgi:error] [pid 71:tid 12] [remote 192.0.2.11:40112] WARNING shop.views [ab12] nearly
[wsgi:error] [pid 71:tid 12] [remote 192.0.2.11:40112] ERROR django.request [ab12] Internal Server Error: /
[wsgi:error] [pid 71:tid 13] [remote 192.0.2.11:40114] ERROR django.request [cd34] Internal Server Error: /
[wsgi:error] [pid 71:tid 12] [remote 192.0.2.11:40112] Traceback (most recent call last):
[wsgi:error] [pid 71:tid 13] [remote 192.0.2.11:40114] Traceback (most recent call last):
[wsgi:error] [pid 71:tid 12] [remote 192.0.2.11:40112]   File "/srv/shop/views.py", line 9, in page
[wsgi:error] [pid 71:tid 13] [remote 192.0.2.11:40114]   File "/srv/shop/views.py", line 7, in other
[wsgi:error] [pid 71:tid 13] [remote 192.0.2.11:40114] ValueError: another one's
[wsgi:error] [pid 71:tid 12] [remote 192.0.2.11:40112]     return rows[0]
[wsgi:error] [pid 71:tid 12] [remote 192.0.2.11:40112] IndexError: list index out of range
[wsgi:error] [pid 71:tid 12] [remote 192.0.2.11:40112] 
[wsgi:error] [pid 71:tid 12] [remote 192.0.2.11:40112] During handling of the above exception, another exception occurred:
[wsgi:error] [pid 71:tid 12] [remote 192.0.2.11:40112] 
[wsgi:error] [pid 71:tid 12] [remote 192.0.2.11:40112] Traceback (most recent call last):
[wsgi:error] [pid 71:tid 12] [remote 192.0.2.11:40112]   File "/srv/shop/views.py", line 11, in page
[wsgi:error] [pid 71:tid 12] [remote 192.0.2.11:40112]     raise Http500("no rows")
[wsgi:error] [pid 71:tid 12] [remote 192.0.2.11:40112] shop.Http500: no rows
[wsgi:error] [pid 71:tid 12] [remote 192.0.2.11:40112] INFO django.server [ef56] the next one
[wsgi:error] [pid 71:tid 12] ERROR realworld.storage [-] no request at all
"""


@pytest.mark.parametrize(
    ("request_id", "expected"),
    [
        (
            "ab12",
            [
                "Traceback (most recent call last):",
                '  File "/srv/shop/views.py", line 11, in page',
                '    raise Http500("no rows")',
                "shop.Http500: no rows",
            ],
        ),
        (
            "cd34",
            [
                "Traceback (most recent call last):",
                '  File "/srv/shop/views.py", line 7, in other',
                "ValueError: another one's",
            ],
        ),
        ("ef56", []),
        ("none", []),
    ],
)
def test_the_last_traceback_of_a_request(request_id: str, expected: list[str]) -> None:
    assert request_errors.traceback(JOURNAL.splitlines(), request_id) == expected


def test_a_long_traceback_is_cut_at_the_start() -> None:
    frames = [f"[wsgi:error] [pid 1:tid 1]   frame {number}" for number in range(100)]
    lines = [
        "[wsgi:error] [pid 1:tid 1] ERROR x [ab12] oh",
        "[wsgi:error] [pid 1:tid 1] Traceback (most recent call last):",
        *frames,
        "[wsgi:error] [pid 1:tid 1] OSError: x",
    ]
    traceback = request_errors.traceback(lines, "ab12")
    assert len(traceback) == request_errors.MOST and traceback[-1] == "OSError: x"
