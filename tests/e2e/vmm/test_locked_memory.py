"""The rings of a plain user's VMs count against the user's limit of locked memory, on Linux from 6.14 on. VMs whose
rings would exceed it use epoll."""

import contextlib
import os
import platform
import re

import pytest

from conftest import Console, Daemon, open_files, until
from plainlib import PlainDaemon, plain_folder, qcow2

pytestmark = [pytest.mark.usefixtures("kvm"),
              pytest.mark.skipif(tuple(map(int, re.findall(r"\d+", platform.release())[:2])) < (6, 14),
                                 reason="no ring counts against the limit before Linux 6.14"),
              pytest.mark.skipif("CAIRN_LOOP" in os.environ, reason="the loops have no choice")]

NOTICE = "io_uring is refused (Cannot allocate memory), so disk I/O uses epoll"
# The daemon's ring takes 52 KiB, those of a VM and its disk 8 and 28: the first VM has both, the second its own only.
LIMIT = ["prlimit", f"--memlock={100 << 10}", "--"]
USER = 61617  # nobody else's


class Limited(Daemon):
    def command(self):
        return LIMIT + super().command()


class OtherUser(PlainDaemon):
    def command(self):
        return LIMIT + super().command()


@contextlib.contextmanager
def limited_daemon(tmp_path):
    """Start a plain user's daemon. This user's other processes may have rings, too; those of root's tests do not."""
    if os.geteuid():
        with contextlib.closing(Limited(tmp_path)) as d:
            yield d
        return
    with plain_folder(uid=USER) as folder, contextlib.closing(OtherUser(folder, folder / "denied", uid=USER)) as d:
        yield d


def run(d, guest, name):
    """Start a VM, and let it use its disk."""
    d.define(name, boot={"kernel": guest("interp.elf")}, disks=[qcow2(d.tmp / f"{name}.qcow2", "64M")])
    d.cairn("start", name)
    console = Console(d, name)
    console.run("open 0")
    console.run("write 0 64 7")
    d.cairn("snapshot-create-as", name, "one")
    console.run("write 0 64 8")
    console.run("flush")
    console.run("verify 0 64 8")
    console.close()
    d.cairn("snapshot-revert", name, "one")
    console = Console(d, name)
    console.run("verify 0 64 7")
    console.close()


def kinds(d, name):
    """Return what the loops of a VM's process are on."""
    return {k for k in ("io_uring", "eventpoll") if any(k in target for target in open_files(d.info(name)["pid"]))}


def test_vms_beyond_the_limit_use_epoll(guest, tmp_path):
    names = ["vm1", "vm2", "vm3"]
    with limited_daemon(tmp_path) as d:
        for name in names:
            run(d, guest, name)
        until(lambda: NOTICE in (d.state / "vms" / names[-1] / "log").read_text())
        if os.geteuid() == 0:
            assert [kinds(d, name) for name in names] == [{"io_uring"}, {"io_uring", "eventpoll"}, {"eventpoll"}]
            assert NOTICE not in (d.state / "vms" / names[0] / "log").read_text()
