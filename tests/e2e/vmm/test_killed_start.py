"""A VM starts right after its process was killed, although the kernel may still hold the image for that process."""

import fcntl
import os
import signal
import struct

from conftest import until
from snapshotlib import check, vm  # noqa: F401 (vm is a fixture)

F_OFD_SETLK = 37
WRITE_UNSHARED = 201  # the byte that QEMU and Cairn lock if nobody else may write


def writes(vm):  # noqa: F811
    return vm.daemon.figures("vm1")["disks"][0]["wr-reqs"]


def test_vm_starts_right_after_its_process_was_killed(vm):  # noqa: F811
    for n in range(5):
        vm.start()
        before = writes(vm)
        vm.console.sock.sendall(b"bench randwrite 32 1000000 4096 65536 %d\n" % n)
        until(lambda: writes(vm) > before + 100)
        os.kill(vm.daemon.info("vm1")["pid"], signal.SIGKILL)
        until(lambda: vm.daemon.info("vm1")["state"] == "crashed")
    vm.start()
    vm.stop()
    check(vm.disks[0], leaks_allowed=True)


def test_start_is_refused_while_another_process_keeps_the_image(vm):  # noqa: F811
    with open(vm.disks[0], "rb") as f:
        fcntl.fcntl(f, F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, WRITE_UNSHARED, 1, 0))
        r = vm.daemon.cairn("start", "vm1", ok=None)
        assert r.returncode and "vda is in use by another process; stop the VM or tool that has it open" in r.stderr, r
    assert "another process has the image: waiting 2 s for its end" in vm.daemon.log_of("vm1")
    vm.start()


def has_run(vm):  # noqa: F811
    return struct.unpack("<Q", (vm.daemon.state / "vms/vm1/end").read_bytes()[4088:4096])[0] == 2


def test_end_file_says_whether_the_guest_has_run(vm):  # noqa: F811
    """The next daemon needs this to tell an interrupted start from a crash of the guest."""
    vm.daemon.cairn("start", "vm1", "--paused")
    assert not has_run(vm)
    vm.daemon.cairn("resume", "vm1")
    assert has_run(vm)
    vm.daemon.cairn("destroy", "vm1")
