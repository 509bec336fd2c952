"""Everything works in a container with Docker's or Podman's defaults: no io_uring, no userfaultfd, a read-only root, a
plain user of the group kvm. tests/helpers/container.c makes such an environment by hand."""

import errno
import json
import os
import shutil
import signal
import subprocess
import time

import pytest

import guestlib
from conftest import BUILD, Console, Qmp, until

pytestmark = pytest.mark.usefixtures("kvm")

CONTAINER = os.path.join(BUILD, "helpers", "container")
PROGRAMS = ("cairnd", "cairn-vm", "cairn-log", "cairn", "cairn-img", "cairn-archive", "guests/interp.elf", "guests/first_byte.elf")
REFUSED = {"docker": "Operation not permitted", "podman": "Function not implemented"}  # io_uring, of which the kernel says this
ENV = {"PATH": "/usr/bin:/bin", "HOME": "/mnt", "TMPDIR": "/mnt", "CAIRN_SOCKET": "/mnt/cairn.sock"}


class Container:
    """A folder that commands in containers see as /mnt. `path` names its files from outside. file: the profile in JSON
    of a container that refuses what those of `profile` do."""

    def __init__(self, path, profile, file=None):
        self.path, self.profile, self.file = path, profile, file
        self.notice = f"io_uring is refused ({REFUSED[profile]}), so disk I/O uses epoll"
        self.socket = str(path / "cairn.sock")
        path.chmod(0o777)
        for name in PROGRAMS:  # the build folder may be closed to the container's user
            shutil.copy(os.path.join(BUILD, name), path)

    def command(self, program, *args):
        return [CONTAINER, self.file or self.profile, str(self.path), f"/mnt/{program}", *map(str, args)]

    def run(self, program, *args, ok=True):
        r = subprocess.run(self.command(program, *args), env=ENV, capture_output=True, text=True, timeout=50,
                           stdin=subprocess.DEVNULL)
        assert (r.returncode == 0) == ok, f"{args}: {r.returncode}\n{r.stdout}{r.stderr}"
        return r


@pytest.fixture(params=["docker", "podman"])
def container(tmp_path, request):
    if os.geteuid() != 0:
        pytest.skip("needs root, to make a container")
    yield Container(tmp_path, request.param)


@pytest.fixture
def daemon(container):
    """Start a cairnd in a container. Its VMs outlive it, so end them first."""
    log = container.path / "cairnd.log"
    with open(log, "wb") as f:
        process = subprocess.Popen(container.command("cairnd", "--state-dir", "/mnt/state", "--socket", "/mnt/cairn.sock"), env=ENV,
                                   stderr=f)
    while True:
        try:
            Qmp(container.socket, timeout=5).close()
            break
        except (OSError, EOFError):
            assert process.poll() is None, log.read_text()
            time.sleep(0.01)
    container.log = log
    yield container
    for name in container.run("cairn", "list", "--name").stdout.split():
        container.run("cairn", "destroy", name)
    process.send_signal(signal.SIGTERM)
    assert process.wait(100) == 0, log.read_text()


def write_definition(container, name, **more):
    d = guestlib.definition(name=name, memory="64M", **{"boot": {"kernel": "/mnt/interp.elf"}, **more})
    (container.path / f"{name}.json").write_text(json.dumps(d))
    return f"/mnt/{name}.json"


def start(container, name):
    container.run("cairn", "start", name)
    console = Console(container, name)
    while console.line() != "interp":
        pass
    console.run("open 0")
    return console


def test_container_refuses_what_others_refuse(container):
    """Otherwise the other tests would prove nothing."""
    shutil.copy("/usr/bin/python3", container.path / "python")
    probe = ("import ctypes, os; c = ctypes.CDLL(None, use_errno=True).syscall; "
             "calls = (425, 323, 272, 435, 41, 135)  # io_uring_setup, userfaultfd, unshare, clone3, socket, personality\n"
             "args = ((8, 0), (0,), (0x20000,), (0, 0), (40, 1, 0), (9,))\n"
             "print(*((c(n, *a), ctypes.get_errno())[1] for n, a in zip(calls, args)), os.getuid(), "
             "os.access('/etc', os.W_OK), os.statvfs('/dev/shm').f_blocks * os.statvfs('/dev/shm').f_frsize)")
    calls = {"docker": [errno.EPERM, errno.EPERM, errno.EPERM, errno.ENOSYS, errno.EPERM, errno.EPERM],
             "podman": [errno.ENOSYS, errno.EPERM, errno.EPERM, errno.EINVAL, errno.EINVAL, errno.ENOSYS]}[container.profile]
    assert container.run("python", "-c", probe).stdout.split() == [*map(str, calls), "65534", "False", str(64 << 20)]


def test_run_in_a_container(container):
    path = write_definition(container, "vm", boot={"kernel": "/mnt/first_byte.elf"})
    process = subprocess.Popen(container.command("cairn", "run", "--log-level", "info", path), env=ENV, stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert process.stdout.read(1) == b"A"
    finally:
        process.kill()
    log = process.communicate()[1].decode()
    assert log.count(container.notice) == 1 and "seccomp profile" in log, log
    lacks = "the sandbox lacks own user namespace, and thereby any other: Operation not permitted; next: cairn doctor"
    assert log.count(lacks) == 1, log
    refused = container.run("cairn", "run", "--require-sandbox", path, ok=False)
    assert refused.returncode == 7 and f"--require-sandbox, and {lacks}" in refused.stderr, refused.stderr


def test_snapshot_and_revert_in_a_container(daemon):
    """Memory and disk come back, from snapshots and from a saved state."""
    daemon.run("cairn-img", "create", "-f", "qcow2", "/mnt/a.qcow2", "64M")
    daemon.run("cairn", "define", write_definition(daemon, "vm1", disks=[{"path": "/mnt/a.qcow2", "format": "qcow2"}]))
    console = start(daemon, "vm1")
    console.run("write 0 4096 1")
    console.run("flush")
    console.run("fill 0x2000000 1048576 1")
    daemon.run("cairn", "snapshot-create-as", "vm1", "one")
    console.run("write 0 4096 2")
    console.run("fill 0x2000000 1048576 2")
    daemon.run("cairn", "snapshot-create-as", "vm1", "two")
    daemon.run("cairn", "snapshot-revert", "vm1", "one")
    console.run("verify 0 4096 1")
    console.run("check 0x2000000 1048576 1")
    daemon.run("cairn", "snapshot-revert", "vm1", "two")
    console.run("verify 0 4096 2")
    console.run("check 0x2000000 1048576 2")
    daemon.run("cairn", "save", "vm1", "/mnt/saved")
    console.close()
    daemon.run("cairn", "restore", "/mnt/saved")
    console = Console(daemon, "vm1")
    console.run("verify 0 4096 2")
    console.run("check 0x2000000 1048576 2")
    console.close()
    assert daemon.run("cairn", "snapshot-list", "vm1", "--name").stdout.split() == ["one", "two"]
    daemon.run("cairn", "destroy", "vm1")
    daemon.run("cairn-img", "check", "/mnt/a.qcow2")
    assert daemon.log.read_text().count(daemon.notice) == 1

    def noticed():
        return (daemon.path / "state" / "vms" / "vm1" / "log").read_text().count(daemon.notice)
    until(lambda: noticed() >= 2)  # cairn-log writes it
    assert noticed() == 2  # one for each process: started, restored


def test_clone_and_export_in_a_container(daemon):
    daemon.run("cairn-img", "create", "-f", "qcow2", "/mnt/a.qcow2", "16M")
    daemon.run("cairn", "define", write_definition(daemon, "vm1", disks=[{"path": "/mnt/a.qcow2", "format": "qcow2"}]))
    console = start(daemon, "vm1")
    console.run("write 0 4096 1")
    console.run("flush")
    daemon.run("cairn", "clone", "--live", "vm1", "vm2")
    other = Console(daemon, "vm2")
    other.run("verify 0 4096 1")
    other.close()
    console.close()
    daemon.run("cairn", "destroy", "vm1")
    daemon.run("cairn", "clone", "vm1", "vm3")
    daemon.run("cairn", "export", "vm1", "/mnt/vm1.tar")
    console = start(daemon, "vm3")
    console.run("verify 0 4096 1")
    console.close()


def test_doctor_says_what_is_refused(container):
    found = {c["check"]: c for c in json.loads(container.run("cairn", "doctor", "--format", "json").stdout)}
    check = found["io-uring"]
    assert (check["status"], check["required"]) == ("slow", True)
    assert check["found"] == f"the kernel refuses io_uring ({REFUSED[container.profile]}), so programs use epoll"
    assert "io_uring" in check["remedy"]
    check = found["user-namespaces"]
    assert (check["status"], check["found"]) == ("missing", "this user may not create them: Operation not permitted")
    assert check["remedy"].startswith("in a container")


def test_images_in_a_container(container):
    container.run("cairn-img", "create", "-f", "raw", "/mnt/a.raw", "16M")
    with open(container.path / "a.raw", "r+b") as f:
        f.write(b"cairn" * 200000)
    r = container.run("cairn-img", "convert", "-f", "raw", "-O", "qcow2", "/mnt/a.raw", "/mnt/a.qcow2")
    assert r.stderr == ""  # the notice belongs to logs
    container.run("cairn-img", "snapshot", "-c", "s", "/mnt/a.qcow2")
    container.run("cairn-img", "check", "/mnt/a.qcow2")
    container.run("cairn-img", "compare", "/mnt/a.raw", "/mnt/a.qcow2")
    container.run("cairn-img", "bench", "-f", "qcow2", "-w", "-c", "1000", "-t", "none", "/mnt/a.qcow2")
