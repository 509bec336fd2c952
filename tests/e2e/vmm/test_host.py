"""Missing features of a host, and that the message says what to do about them."""

import fcntl
import json
import os
import pathlib
import shutil
import subprocess
import tempfile

import pytest

import guestlib
from conftest import until

pytestmark = pytest.mark.usefixtures("kvm")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make another /dev or be somebody else")


@pytest.fixture
def folder():
    """A folder that any user reaches, outside pytest's."""
    with tempfile.TemporaryDirectory(prefix="cairn-test-") as path:
        os.chmod(path, 0o755)
        yield pathlib.Path(path)


def run_in(argv, folder, **more):
    """Run `cairn run` of a bare guest under another program, from that folder; return the result."""
    for path in (guestlib.CAIRN, os.path.join(guestlib.BUILD, "cairn-vm"), guestlib.bare("first_byte")):
        shutil.copy(path, folder)
    f = folder / "vm.json"
    f.write_text(json.dumps(guestlib.definition(boot={"kernel": str(folder / "first_byte.elf")}, **more)))
    return subprocess.run([*argv, str(folder / "cairn"), "run", str(f)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True)


@needs_root
def test_missing_dev_kvm_is_reported(folder):
    r = run_in(["unshare", "-m", "sh", "-c", 'mount -t tmpfs none /dev && exec "$@" 2>&1', "sh"], folder)
    assert r.returncode == guestlib.EXIT_HOST
    assert f"/dev/kvm is missing: {guestlib.kvm_remedy(loaded=False)}" in r.stdout + r.stderr


@needs_root
def test_missing_proc_is_reported(folder):
    r = run_in(["unshare", "-m", "sh", "-c", 'mount -t tmpfs none /proc && exec "$@"', "sh"], folder)
    assert r.returncode == guestlib.EXIT_HOST
    assert "/proc is not mounted; as root: mount -t proc proc /proc" in r.stderr


@needs_root
def test_missing_permission_on_dev_kvm_is_reported(folder):
    if os.stat("/dev/kvm").st_mode & 0o006:
        pytest.skip("everybody may open /dev/kvm here")
    r = run_in(["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"], folder)
    assert r.returncode == guestlib.EXIT_HOST
    assert "no permission to open /dev/kvm: join its group" in r.stderr


@pytest.fixture
def huge_pages():
    """Reserve 64 MiB of huge pages; release them afterwards. The host has one number of them, so one test at a time may
    change it and count them, of all runs on the host."""
    path = "/proc/sys/vm/nr_hugepages"
    with open(path) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = open(path).read()
        try:
            with open(path, "w") as f:
                f.write(str(int(before) + 32))
        except OSError as e:
            pytest.skip(f"cannot reserve huge pages: {e.strerror}")
        try:
            if int(open(path).read()) < int(before) + 32:
                pytest.skip("the host has no 64 MiB of huge pages to spare")
            yield
        finally:
            with open(path, "w") as f:
                f.write(before)


def meminfo(key):
    with open("/proc/meminfo") as f:
        return next(int(line.split()[1]) for line in f if line.startswith(key + ":"))


@needs_root
def test_huge_pages_are_used(huge_pages):
    free = meminfo("HugePages_Free") - meminfo("HugePages_Rsvd")
    with guestlib.interp(memory="32M", hugepages=True) as g:
        g.command("fill 0x1000000 0x400000 3")
        g.command("check 0x1000000 0x400000 3")
        assert free - (meminfo("HugePages_Free") - meminfo("HugePages_Rsvd")) == 16
    until(lambda: meminfo("HugePages_Free") - meminfo("HugePages_Rsvd") == free)  # its ring may hold them for a moment


def test_too_few_huge_pages_are_reported(folder):
    r = run_in([], folder, memory="512G", hugepages=True)
    assert r.returncode == guestlib.EXIT_HOST
    assert "nr_hugepages" in r.stderr


def test_too_small_limit_of_file_sizes_is_reported(folder):
    r = run_in(["prlimit", f"--fsize={8 << 20}:{8 << 20}"], folder)
    assert r.returncode == guestlib.EXIT_HOST
    assert "MiB of guest memory: File too large; raise the limit of file sizes (ulimit -f)" in r.stderr
