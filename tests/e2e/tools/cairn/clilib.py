"""clilib: cairn without a daemon of the test's own."""

import os
import subprocess

from conftest import BUILD


def cairn(*args, **kwargs):
    return subprocess.run([os.path.join(BUILD, "cairn"), *args], text=True,
                          stdin=subprocess.DEVNULL, capture_output=True, **kwargs)
