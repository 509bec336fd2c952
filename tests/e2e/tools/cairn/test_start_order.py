"""The order of functions in cairn: tools/cairn/start_order.ld puts those side by side that each `cairn exec` runs."""

import subprocess

import pytest
from guestlib import CAIRN, SANITIZED

WINDOW = 1 << 16  # bytes that Linux maps around a page at its first access
FUNCTIONS = ("main", "verb_find", "options_parse", "verb_exec", "exec_by_agent", "guest_session_run", "unix_connect", "agent_frame_parse", "client_free")


def test_functions_of_exec_are_side_by_side():
    if SANITIZED:
        pytest.skip("a program with a sanitizer has the linker's order")
    lines = subprocess.run(["nm", CAIRN], capture_output=True, text=True, check=True).stdout.splitlines()
    at = {line.split()[2]: int(line.split()[0], 16) for line in lines if len(line.split()) == 3}
    places = [at[name] for name in FUNCTIONS]
    assert max(places) - min(places) < WINDOW, {name: hex(at[name]) for name in FUNCTIONS}
