"""cairn snapshot-revert of a VM that is off: what a failed one leaves."""

import os
import signal

import pytest


def off(fake, how):
    fake.cairn("start", "vm1")
    if how == "killed":
        os.kill(fake.info("vm1")["pid"], signal.SIGKILL)
        fake.wait("vm1", "crashed")
    else:
        fake.cairn("shutdown", "vm1")
        fake.wait("vm1", "shutoff")


@pytest.mark.parametrize("how", ["killed", "shutdown"])
def test_vm_is_as_before_a_revert_that_failed(fake, how):
    """It was started only for the revert. Nothing restarts the VM, although its policies ask for it after
    a crash or a shutdown."""
    (fake.tmp / "d.raw").write_bytes(bytes(1 << 20))
    keys = {"disks": [{"path": "d.raw", "format": "raw"}]}
    fake.define("vm1", **keys)
    fake.cairn("start", "vm1")
    fake.cairn("snapshot-create-as", "vm1", "one")
    fake.cairn("destroy", "vm1")
    off(fake, how)
    fake.define("vm1", cmdline="work-fails", on_crash="restart", on_poweroff="restart", **keys)
    before = {k: fake.info("vm1").get(k) for k in ("state", "reason", "detail")}
    fake.cairn("snapshot-revert", "vm1", "one", ok=False)
    assert "restart-in" not in fake.info("vm1")
    assert {k: fake.info("vm1").get(k) for k in before} == before
    fake.stop()
    fake.start()
    assert {k: fake.info("vm1").get(k) for k in before} == before
    fake.define("vm1", **keys)
    fake.cairn("snapshot-revert", "vm1", "one")
    assert fake.info("vm1")["state"] == "running"
