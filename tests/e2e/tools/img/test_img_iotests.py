"""cairn-img in qemu-img's place: what QEMU's own tests (tests/iotests) found to be wrong or different."""
import shutil
import subprocess

import pytest
from test_img import IMG, TIMEOUT, box  # noqa: F401

pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img, the oracle, is missing")


def test_messages_begin_with_the_name_that_the_tool_is_called_by(box):
    (box.path / "qemu-img").symlink_to(IMG)
    for args in (["info", "none"], ["nonsense"], ["check", "/dev/null"]):
        done = subprocess.run([box.path / "qemu-img", *args], capture_output=True, text=True, timeout=TIMEOUT)
        assert done.returncode != 0 and done.stderr.startswith("qemu-img: ")
