"""The log level trace: a line for each disk request in the VM's log, and one for each command in the daemon's."""

import re

import pytest

from conftest import Console, Daemon, until


class Traced(Daemon):
    level = "trace"

    def command(self):
        return super().command() + ["--log-level", self.level]


def run(daemon, guest):
    """A guest that writes one sector; the logs of its VM and of the daemon."""
    (daemon.tmp / "vda.raw").write_bytes(bytes(1 << 20))
    daemon.define("vm1", debug_exit=True, boot={"kernel": guest("interp.elf")},
                  disks=[{"path": "vda.raw", "format": "raw"}])
    daemon.cairn("start", "vm1")
    console = Console(daemon, "vm1")
    until(lambda: console.line() == "interp")
    console.run("open 0")
    console.run("write 8 1 5")
    daemon.cairn("destroy", "vm1")
    console.close()
    return daemon.log_of("vm1"), daemon.log.read_text()


@pytest.mark.parametrize("level", ("trace", "debug"))
def test_requests_and_commands_are_traced(tmp_path, kvm, guest, level):
    class AtLevel(Traced):
        pass

    AtLevel.level = level
    daemon = AtLevel(tmp_path)
    try:
        vm_log, log = run(daemon, guest)
    finally:
        daemon.close()
    submitted = re.findall(r"trace vm1/vda: write offset=4096 bytes=512 layer=0\n", vm_log)
    completed = re.findall(r"trace vm1/vda: write offset=4096 bytes=512 layer=0 done=0\n", vm_log)
    begun = re.findall(r"trace cairnd: command vm-start uid=\d+ pid=\d+ vm=vm1 begins\n", log)
    answered = re.findall(r"trace cairnd: command vm-start uid=\d+ pid=\d+ vm=vm1 ok\n", log)
    want = 1 if level == "trace" else 0
    assert [len(x) for x in (submitted, completed, begun, answered)] == [want] * 4, vm_log + log
