"""Commands that arrive while another one is under way, at random moments: jobs, changes of state, devices, resets and
poweroffs by the guest, cancels, and kills of the VM's process or of the daemon. Each round, all commands and jobs end,
the daemon agrees with the processes, the images are whole, and the VM runs again with the data of its disk and memory.
CAIRN_RACES rounds from CAIRN_RACES_SEED."""

import contextlib
import json
import os
import random
import signal
import subprocess
import time

import pytest

from conftest import BUILD, Console, QmpError, has_ended, until
from guestlib import CAIRN

ROUNDS = int(os.environ.get("CAIRN_RACES", 8))
SEED = int(os.environ.get("CAIRN_RACES_SEED", 1))
IMG = os.path.join(BUILD, "cairn-img")
LEAKS = 3  # exit status of a check
AT, BYTES = 16 << 20, 8 << 20  # memory with a pattern; the word before it says so
ACTIVE = ("running", "idle", "paused", "in-shutdown")
LIFE = 25  # rounds with the same images
COMMAND_SECONDS = 90

JOBS = [
    "snapshot-create-as a {new}", "snapshot-create-as a {new} --halt", "snapshot-create-as a {new} --rate 20M",
    "snapshot-create-as a {new} --disk-only", "snapshot-revert a {old}", "snapshot-revert a {old} --paused",
    "snapshot-revert a {old} --disks-only", "snapshot-revert a {old} --eager", "snapshot-delete a {old}",
    "snapshot-tag a {old} t", "snapshot-info a {old}", "managedsave a", "save a {dir}/{new}", "dump a {dir}/{new} --reset",
    "dump a {dir}/{new} --crash", "dump a {dir}/{new}", "clone --live a {new}", "clone --live a {new} --count 2",
    "clone --live a {new} --isolated", "blockpull a vda", "blockcommit a vda --active --pivot",
    "export a {dir}/{new}.tar --snapshotname {old}", "blockcopy a sda --dest {dir}/{new}.qcow2 --pivot",
    "blockcopy a sda --dest {dir}/{new}.qcow2 --finish", "blockresize a sda {size}M", "restart-process a", "restart-process a",
    "attach-disk a {dir}/c sdc --targetbus scsi --subdriver qcow2 --live", "detach-disk a sdc --live",
    "change-media a cd0 {dir}/c --update --live", "clone --linked a {new}",
]
ACTS = ["suspend a", "resume a", "destroy a", "reset a", "shutdown a", "start a", "inject-nmi a", "managedsave-remove a",
        "kill-vm", "kill-daemon", "cancel", "cancel", "interrupt", "guest reset cf9", "guest poweroff"]


class Races:
    def __init__(self, daemon, kernel, tmp_path):
        self.daemon, self.kernel, self.tmp, self.rng = daemon, kernel, tmp_path, random.Random(SEED)
        self.serial, self.seconds, self.was_killed, self.story = 0, {}, False, []

    def names(self):
        return self.daemon.cairn("list", "--all", "--name").stdout.split()

    def info(self):
        return self.daemon.info("a")

    def guest(self, *commands):
        q = self.daemon.qmp()
        q.run("vm-console", vm="a", history=False)
        console = Console(self.daemon, "a", q.fds.pop())
        try:
            console.history_skip()
            return [console.run(c) for c in commands]
        finally:
            console.close()
            self.daemon.clients.remove(q)
            q.close()

    # ---- images and the VM ----

    def begin(self):
        """Define the VM with new images: an overlay, a SCSI disk and an empty CD drive."""
        self.was_killed = False
        self.serial += 1
        self.dir = self.tmp / f"images{self.serial}"
        self.dir.mkdir()
        for name in ("base", "b", "c"):
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", self.dir / name, "16M"], check=True)
        self.daemon.define("a", debug_exit=True, boot={"kernel": self.kernel}, disks=[
            {"path": f"{self.dir}/base", "format": "qcow2"}, {"path": f"{self.dir}/b", "format": "qcow2", "bus": "scsi", "id": "sda"},
            {"id": "cd0", "device": "cdrom", "bus": "scsi"}])
        self.daemon.cairn("start", "a")
        self.guest("open 0", "write 0 128 7", "flush")
        self.daemon.cairn("snapshot-create-as", "a", "x", "--disk-only", "--diskspec", f"vda,snapshot=external,file={self.dir}/over",
                          "--diskspec", "sda,snapshot=no")
        self.guest("write 1024 128 9", "flush")
        self.run_again()
        self.daemon.cairn("snapshot-create-as", "a", "s")

    def end(self):
        """Nothing is left of the VM and its clones."""
        self.off()
        self.remove_clones()
        self.daemon.cairn("undefine", "a", "--snapshots-metadata", "--managed-save")
        until(lambda: not os.listdir(self.daemon.state / "vms") and not self.daemon.children())

    def remove_clones(self):
        for name in self.names():
            if name != "a":
                self.daemon.cairn("destroy", name, ok=None)
                self.daemon.cairn("undefine", name, "--remove-all-storage", "--snapshots-metadata", "--managed-save", ok=None)
        until(lambda: self.names() == ["a"])

    def off(self):
        pid = self.info().get("pid")
        self.daemon.cairn("destroy", "a", ok=None)
        assert self.info()["state"] not in ACTIVE
        until(lambda: pid is None or has_ended(pid))

    def run_again(self):
        """Let the VM run, with its data."""
        if self.info()["state"] not in ACTIVE:
            if self.daemon.cairn("start", "a", ok=None).returncode:
                self.remove_clones()  # linked ones
                self.daemon.cairn("start", "a")
        if self.info()["state"] == "paused":
            self.daemon.cairn("resume", "a")
        self.guest("open 0", "verify 0 128 7", "verify 1024 128 9")
        if int(self.guest(f"rd32 {AT - 4096}")[0][-1], 0) != SEED:
            self.guest(f"fill {AT} {BYTES} 5", f"wr32 {AT - 4096} {SEED}")
        self.guest(f"check {AT} {BYTES} 5")

    def check(self):
        for disk in json.loads(self.daemon.cairn("dumpjson", "a", "--inactive").stdout)["disks"]:
            if "path" in disk:
                sound = (0, LEAKS) if self.was_killed else (0,)
                until(lambda: subprocess.run([IMG, "check", "-q", disk["path"]]).returncode in sound)

    # ---- a round ----

    def act(self, what, commands):
        with contextlib.suppress(OSError, EOFError, QmpError, KeyError):  # the VM or the job has ended meanwhile
            if what == "kill-vm":
                self.was_killed = True
                os.kill(self.info()["pid"], signal.SIGKILL)
            elif what == "cancel":
                for job in self.jobs():
                    self.daemon.cairn("job-cancel", job["id"], ok=None)
            elif what == "interrupt":
                commands[0].send_signal(signal.SIGINT)
            elif what.startswith("guest"):
                q = self.daemon.qmp()
                q.run("vm-console", vm="a", history=False)
                os.write(q.fds[0], what.replace("guest ", "\n").encode() + b"\n")
                os.close(q.fds.pop())
        if what == "kill-daemon":
            self.daemon.stop(signal.SIGKILL)
            self.daemon.start()

    def jobs(self):
        q = self.daemon.qmp()
        return [j for j in q.jobs() if j["status"] != "concluded"]

    def agrees(self):
        """Whether the daemon and the processes agree."""
        if self.jobs():
            return False
        with contextlib.suppress(QmpError):  # a clone has just been undefined
            infos = [self.daemon.info(name) for name in self.names()]
            pids = [i["pid"] for i in infos if i["state"] in ACTIVE]
            return all(("pid" in i) == (i["state"] in ACTIVE) for i in infos) and not any(map(has_ended, pids))
        return False

    def round(self):
        old = self.daemon.cairn("snapshot-list", "a", "--name").stdout.split() or ["s"]
        whats = [self.rng.choice(JOBS)] + [self.rng.choice(JOBS + ACTS * 4) for _ in range(self.rng.choice((1, 1, 2, 3)))]
        self.story = whats
        commands, begin = [], time.monotonic()
        if self.rng.random() < 0.15:
            self.daemon.cairn("suspend", "a")
        for i, what in enumerate(whats):
            if i:
                time.sleep(self.rng.uniform(0, 1.2 * self.seconds.get(whats[0], 0.05) if i == 1 else 0.03))
            self.serial += 1
            if what in ACTS and not what.endswith(" a"):
                self.act(what, commands)
                continue
            words = what.format(dir=self.dir, new=f"n{self.serial}", old=self.rng.choice(old), size=16 + self.serial).split()
            commands.append(subprocess.Popen([CAIRN, *words], env=self.daemon.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        for i, command in enumerate(commands):
            command.wait(COMMAND_SECONDS)
            if not i:
                self.seconds[whats[0]] = min(time.monotonic() - begin, 1)
        until(self.agrees)
        for client in self.daemon.clients:
            client.close()
        self.daemon.clients.clear()
        if "guest poweroff" in whats or self.info()["state"] == "in-shutdown" or self.was_killed or self.rng.random() < 0.4:
            if self.info()["state"] != "saved":
                self.off()
            self.check()
        self.run_again()
        if self.rng.random() < 0.2:
            self.remove_clones()


@pytest.mark.seconds(120 + 3 * ROUNDS)
def test_commands_at_any_moment_of_others_end_and_leave_a_sound_vm(daemon, kvm, guest, tmp_path):
    races = Races(daemon, guest("interp.elf"), tmp_path)
    try:
        for i in range(ROUNDS):
            if i % LIFE == 0:
                races.begin()
            races.round()
            if i % LIFE == LIFE - 1 or i == ROUNDS - 1:
                races.end()
    except BaseException:
        print(f"round {i}: {races.story}")
        raise
