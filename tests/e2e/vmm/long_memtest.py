"""A whole pass of memtest86+ over 64 MiB. `make check-long`, part "memtest-svm" on the emulated host."""

import pytest

import guestlib
from guestlib import Guest, definition
from test_boot import MEMTEST

SECONDS = 3000  # a pass takes nine minutes of processor time there
pytestmark = [
    pytest.mark.skipif(guestlib.host_kind() in ("none", "pvm"), reason="memtest86+ needs floating point, which is missing where kernel mode is emulated"),
    pytest.mark.seconds(SECONDS + 60),
]


def test_memtest86_completes_a_pass_without_an_error():
    with Guest(definition(memory="64M", boot={"kernel": MEMTEST["x64"], "cmdline": "console=ttyS0,115200"})) as g:
        g.expect("Memtest86", 60 * guestlib.SLOW)
        g.expect("Pass:  1        Errors: 0 ", SECONDS)
