"""cairn run: later runs begin from a saved state of the booted guest. A boot costs some ten seconds of processor time
where KVM emulates kernel mode, so there is one whole boot; test_warm_state.c has the keys and damage."""

import fcntl
import json
import os
import pty
import shutil
import socket
import subprocess
import time

import pytest

import guestlib
from conftest import BUILD, free_port
from terminallib import read_until
from test_linux import elsewhere

pytestmark = [pytest.mark.skipif(not guestlib.host_kind() or guestlib.host_kind() == "none", reason="needs /dev/kvm"), pytest.mark.seconds(600)]
# Commands of the shell itself start no process.
SCRIPT = 'read -r a </proc/sys/kernel/random/uuid; read -r b </data/note; read -r c </proc/sys/kernel/hostname; read -r d </etc/hostname; echo "$a $b $EPOCHSECONDS $1 $c $d"; echo own >/data/note; exit 3'

TRACING = "/sys/kernel/tracing"
KVM_CHECK_EXTENSION, KVM_CAP_PRE_FAULT_MEMORY = 0xae03, 236
SERVE = "echo hello | busybox nc -l -p 80; exit 3"


def first_line(port):
    """Return the guest's line. Before its program listens, its kernel resets the connection."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(("127.0.0.1", port), 60) as s:
                data = s.recv(100)
                if data:
                    return data.decode()
        except OSError:
            pass
        time.sleep(0.2)
    raise AssertionError("no answer")


class Runner:
    script = SCRIPT

    def __init__(self, tmp_path):
        self.root, self.states = tmp_path / "fs", tmp_path / "cache" / "cairn" / "warm"
        (self.root / "bin").mkdir(parents=True)
        (self.root / "data").mkdir()
        (self.root / "data" / "note").write_text("first\n")
        shutil.copy(shutil.which("bash"), self.root / "bin" / "sh")
        shutil.copy(shutil.which("busybox"), self.root / "bin" / "busybox")
        for line in subprocess.run(["ldd", shutil.which("bash")], capture_output=True, text=True, check=True).stdout.splitlines():
            for path in (word for word in line.split() if word.startswith("/")):
                (self.root / path[1:]).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, self.root / path[1:])
        self.env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}

    def start(self, *args):
        read, write = os.pipe()
        p = subprocess.Popen([os.path.join(BUILD, "cairn"), "run", "--kernel", os.path.join(guestlib.linux_kernel(), "vmlinux"), "--memory", "96M",
                              "--log-level", "info", "--timeout", "280", "--status-fd", str(write), *args, "--root", self.root, "--", "/bin/sh", "-c",
                              self.script, "sh", "word"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self.env,
                             pass_fds=[write])
        os.close(write)
        return p, read

    def status(self, started):
        """Return (whether the guest began from a state, standard output, standard error)."""
        p, read = started
        out, said = p.communicate(timeout=290)
        with os.fdopen(read) as f:
            line = json.load(f)
        assert p.returncode == 3 and line["status"] == 3, (p.returncode, out, said)
        return line.get("warm", False), out, said

    def end(self, started):
        """Return (whether the guest began from a state, its random number, its name, standard error)."""
        warm, out, said = self.status(started)
        number, note, seconds, word, name, written = out.split()
        assert (note, word) == ("first", "word") and name == written and abs(int(seconds) - time.time()) < 60, out
        return warm, number, name, said

    def run(self, *args):
        return self.end(self.start(*args))

    def files(self):
        return sorted(os.listdir(self.states)) if self.states.exists() else []


def test_first_run_on_a_terminal_says_that_the_guest_boots(tmp_path):
    vm = Runner(tmp_path)
    terminal, slave = pty.openpty()
    p = subprocess.Popen([os.path.join(BUILD, "cairn"), "run", "--kernel", os.path.join(guestlib.linux_kernel(), "vmlinux"), "--root", vm.root, "--",
                          "/bin/sh"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=slave, env=vm.env)
    os.close(slave)
    try:
        read_until(terminal, b"note: the guest boots (to see its console: --show-console); later runs begin from its saved state")
    finally:
        p.kill()
        p.wait()
        os.close(terminal)


@elsewhere
def test_guest_that_begins_from_a_state_mounts_the_volumes_of_its_own_run(tmp_path):
    vm = Runner(tmp_path)
    vm.script = 'read -r a </vol/note; echo "$a"; echo "$a" 2>/dev/null >/vol/written; exit 3'
    runs = []
    for name, words in (("a", ""), ("b", ""), ("c", ":ro")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "note").write_text(f"of {name}\n")
        runs.append(vm.status(vm.start("-v", f"{tmp_path}/{name}:/vol{words}"))[:2])
    assert runs == [(False, "of a\n"), (True, "of b\n"), (True, "of c\n")]
    assert [sorted(os.listdir(tmp_path / name)) for name in "abc"] == [["note", "written"], ["note", "written"], ["note"]]


class PageFaults:
    """Counts the page faults of guests that KVM handles."""

    def __enter__(self):
        self.folder = os.path.join(TRACING, "instances", "cairn")
        os.mkdir(self.folder)
        self.write("events/kvm/kvm_page_fault/enable", "1")
        return self

    def write(self, name, text):
        with open(os.path.join(self.folder, name), "w", encoding="ascii") as f:
            f.write(text)

    def __exit__(self, *_):
        self.write("events/kvm/kvm_page_fault/enable", "0")
        with open(os.path.join(self.folder, "trace"), encoding="ascii") as f:
            self.count = sum("kvm_page_fault:" in line for line in f)
        os.rmdir(self.folder)


def has_prefault():
    try:
        with open("/dev/kvm", "rb") as f:
            return fcntl.ioctl(f, KVM_CHECK_EXTENSION, KVM_CAP_PRE_FAULT_MEMORY) > 0
    except OSError:
        return False


@pytest.mark.skipif(not has_prefault() or os.getuid() != 0, reason="needs root, and KVM_PRE_FAULT_MEMORY (Linux 6.11)")
def test_pages_that_a_guest_touches_first_are_mapped_in_advance(tmp_path):
    subprocess.run(["mount", "-t", "tracefs", "tracefs", TRACING], check=False, stderr=subprocess.DEVNULL)  # unless it is mounted
    if not os.access(os.path.join(TRACING, "instances"), os.W_OK):
        pytest.skip("needs the kernel's tracing")
    vm = Runner(tmp_path)
    assert not vm.run()[0]
    faults = []
    for _ in range(3):
        with PageFaults() as seen:
            warm, _, _, said = vm.run()
        assert warm, said
        faults.append(seen.count)
    # All touch some 550 pages until the command has started, and the script some 1,300 others.
    assert max(faults[1:]) < faults[0] - 300, faults


@elsewhere
def test_later_runs_begin_from_a_state_and_a_damaged_one_is_not_used(tmp_path):
    vm = Runner(tmp_path)

    def publish():
        return "--publish", f"127.0.0.1:{free_port()}:80"

    runs = [vm.run(*publish())]
    assert "leaves a state" in runs[0][3], runs
    state, = vm.files()
    runs += [vm.end(s) for s in [vm.start(*publish()), vm.start(*publish(), "--name", "other")]]
    assert [r[0] for r in runs] == [False, True, True], runs
    assert "map in advance" not in runs[0][3] and any("map in advance" in r[3] for r in runs[1:]), runs
    assert len({r[1] for r in runs}) == 3, "random numbers of their own"
    assert [r[2] for r in runs] == ["vm", "vm", "other"]

    vm.script, port = SERVE, free_port()
    started = vm.start("--publish", f"127.0.0.1:{port}:80")
    assert first_line(port) == "hello\n"
    warm, _, said = vm.status(started)
    assert warm and "map in advance" not in said, said

    p, read = vm.start(*publish())  # killed at any moment
    time.sleep(0.05)
    p.kill()
    p.communicate()
    os.close(read)
    assert vm.files() == [state]

    with open(vm.states / state, "r+b") as f:  # in memory that has content
        f.seek(32 << 20)
        f.seek(os.lseek(f.fileno(), 32 << 20, os.SEEK_DATA) + 100)
        byte = f.read(1)
        f.seek(-1, os.SEEK_CUR)
        f.write(bytes([byte[0] ^ 1]))
    p, read = vm.start(*publish())
    said = ""
    while "the guest boots" not in said:  # the boot itself is the one of the first run
        assert (line := p.stderr.readline()), said
        said += line
    p.kill()
    p.communicate()
    os.close(read)
    assert "is damaged" in said and vm.files() in ([], [state]), said
