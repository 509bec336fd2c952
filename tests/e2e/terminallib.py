"""Programs of Cairn on a terminal of their own."""

import os
import pty
import select
import time

from conftest import BUILD


def terminal(daemon, *args, term="xterm"):
    """Start the command line on a terminal. Return its pid and the terminal's other end."""
    pid, fd = pty.fork()
    if pid == 0:
        os.execve(os.path.join(BUILD, "cairn"), ["cairn", *args], {**daemon.env, "TERM": term})
    return pid, fd


def read_until(fd, want, seconds=50):
    """Return what was read, with `want` in it."""
    got, end = b"", time.monotonic() + seconds
    while want not in got:
        assert select.select([fd], [], [], max(0, end - time.monotonic()))[0], got
        try:
            got += os.read(fd, 4096)
        except OSError:
            break
    assert want in got, got
    return got
