"""Missing features of a host, and that the message says what to do about them."""

import fcntl
import json
import os
import shutil
import subprocess

import pytest

import guestlib
from conftest import until

pytestmark = pytest.mark.usefixtures("kvm")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make another /dev or be somebody else")


def run_in(argv, tmp_path, **more):
    """Run `cairn run` of a bare guest under another program, from a folder any user reaches; return the result."""
    for path in (guestlib.CAIRN, os.path.join(guestlib.BUILD, "cairn-vm"), guestlib.bare("first_byte")):
        shutil.copy(path, tmp_path)
    f = tmp_path / "vm.json"
    f.write_text(json.dumps(guestlib.definition(boot={"kernel": str(tmp_path / "first_byte.elf")}, **more)))
    for p in (tmp_path, *list(tmp_path.parents)[:3]):
        os.chmod(p, 0o755)
    return subprocess.run([*argv, str(tmp_path / "cairn"), "run", str(f)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, timeout=30)


@needs_root
def test_missing_dev_kvm_is_reported(tmp_path):
    r = run_in(["unshare", "-m", "sh", "-c", 'mount -t tmpfs none /dev && exec "$@" 2>&1', "sh"], tmp_path)
    assert r.returncode == guestlib.EXIT_HOST
    assert "/dev/kvm is missing: load the module kvm_intel or kvm_amd" in r.stdout + r.stderr


@needs_root
def test_missing_permission_on_dev_kvm_is_reported(tmp_path):
    if os.stat("/dev/kvm").st_mode & 0o006:
        pytest.skip("everybody may open /dev/kvm here")
    r = run_in(["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"], tmp_path)
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
        if int(open(path).read()) < int(before) + 32:
            pytest.skip("the host has no 64 MiB of huge pages to spare")
        yield
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


def test_too_few_huge_pages_are_reported(tmp_path):
    r = run_in([], tmp_path, memory="512G", hugepages=True)
    assert r.returncode == guestlib.EXIT_HOST
    assert "nr_hugepages" in r.stderr
