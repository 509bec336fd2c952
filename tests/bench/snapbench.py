"""snapbench: a running interpreter guest with a qcow2 disk, under its own daemon."""

import contextlib
import json
import os
import pathlib
import subprocess
import tempfile

import guestlib
from conftest import Console, Daemon

FILL_AT = 0x1000000


class Vm:
    def __init__(self, folder, memory_mib, filled_mib):
        self.daemon = Daemon(pathlib.Path(folder))
        self.n = 0
        self.disk = os.path.join(folder, "vda.qcow2")
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", self.disk, "1G"], check=True)
        self.daemon.define("vm", memory=f"{memory_mib}M", debug_exit=True, boot={"kernel": guestlib.bare("interp")},
                           disks=[{"path": self.disk, "format": "qcow2"}])
        self.daemon.cairn("start", "vm")
        self.attach()
        while self.console.line() != "interp":
            pass
        if filled_mib:
            self.fill(filled_mib, 1)

    def attach(self):
        self.console = Console(self.daemon, "vm")

    def fill(self, mib, seed):
        self.console.run(f"fill {FILL_AT:#x} {mib << 20:#x} {seed}")

    def snapshot(self):
        """Take a snapshot; return its figures in ns and bytes."""
        self.n += 1
        r = self.daemon.cairn("snapshot-create-as", "vm", f"s{self.n}", "--format", "json")
        return json.loads(r.stdout)

    def delete(self):
        self.daemon.cairn("snapshot-delete", "vm", f"s{self.n}")


@contextlib.contextmanager
def running(memory_mib, filled_mib):
    with tempfile.TemporaryDirectory(prefix="cairn-bench-") as folder:
        vm = Vm(folder, memory_mib, filled_mib)
        try:
            yield vm
        finally:
            vm.console.close()
            vm.daemon.close()
