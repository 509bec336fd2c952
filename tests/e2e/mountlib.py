"""mountlib: file systems of a test's own. Needs root; without it the test is skipped."""

import contextlib
import os
import subprocess

import pytest


@contextlib.contextmanager
def mounted(folder, *what, **kwargs):
    """Make the folder and mount a file system there. what: mount's options and the source; kwargs: for its process."""
    if os.geteuid():
        pytest.skip("needs root, to mount a file system")
    folder.mkdir()
    p = subprocess.run(["mount", *what, folder], stderr=subprocess.PIPE, text=True, **kwargs)
    if p.returncode:
        pytest.skip("may not mount a file system of its own: " + p.stderr.strip())
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-f", "-l", folder], check=True)  # -f: requests to a FUSE file system fail


def tmpfs(folder, size):
    """Mount a tmpfs of that size at a new folder."""
    return mounted(folder, "-t", "tmpfs", "-o", "size=" + size, "none")
