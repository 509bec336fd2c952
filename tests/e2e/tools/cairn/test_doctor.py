"""`cairn doctor`: what the host offers to the calling user, the remedies, the exit status. Namespaces take things
away."""

import json
import os
import subprocess

import pytest

from plainlib import DEVICE, as_plain_user
from test_host import needs_root
from test_tracking import SYSCTL, folder  # noqa: F401

NAMES = ["kvm", "io-uring", "seccomp", "nested-paging", "cpuid", "userfaultfd", "landlock", "tun", "huge-pages"]


def doctor(program, *args, before=(), status=0):
    # No daemon listens there: the verb needs none.
    env = {**os.environ, "CAIRN_SOCKET": "/nonexistent/cairn.sock"}
    r = subprocess.run([*before, program, "doctor", *args], env=env, capture_output=True, text=True, timeout=30)
    assert r.returncode == status, r.stdout + r.stderr
    return r.stdout


def checks(program, **kwargs):
    return {c["check"]: c for c in json.loads(doctor(program, "--format", "json", **kwargs))}


def test_usable_host_is_ok(kvm, cairn_path):
    found = checks(cairn_path)
    assert list(found) == NAMES
    assert [n for n in NAMES if found[n]["required"]] == NAMES[:3]
    assert all(found[n]["status"] == "ok" and "remedy" not in found[n] for n in NAMES[:3])
    assert found["kvm"]["found"] == "/dev/kvm, API version 12"
    for c in found.values():
        assert c["status"] in ("ok", "slow", "missing") and c["for"] and c["found"]
        assert ("remedy" in c) == (c["status"] != "ok")
    lines = doctor(cairn_path).splitlines()
    assert [line.split()[:2] for line in lines if not line.startswith(" ")] == [[found[n]["status"], n] for n in NAMES]
    assert [line.strip() for line in lines if line.startswith(" ")] == [c["remedy"] for c in found.values() if "remedy" in c]


@needs_root
@pytest.mark.parametrize("device, status, found, remedy", [
    ("permitted", "ok", f"opened by {DEVICE}", None),
    ("denied", "slow", f"{DEVICE}: Permission denied; vm.unprivileged_userfaultfd is 0", "udev rule 60-cairn.rules"),
    ("absent", "slow", f"{DEVICE}: Inappropriate ioctl for device; vm.unprivileged_userfaultfd is 0",
     "as root: sysctl vm.unprivileged_userfaultfd=1"),
])
def test_plain_user_learns_about_userfaultfd(kvm, folder, device, status, found, remedy):  # noqa: F811
    if device != "permitted" and SYSCTL.read_text().strip() != "0":
        pytest.skip("every user may use the system call here: vm.unprivileged_userfaultfd is not 0")
    before = as_plain_user(folder / device)
    c = checks(folder / "cairn", before=before)["userfaultfd"]
    assert (c["status"], c["found"]) == (status, found)
    assert remedy is None or remedy in c["remedy"]
    lines = doctor(folder / "cairn", before=before).splitlines()
    at = lines.index(f"{status:<8} userfaultfd    {c['for']}: {found}")
    assert remedy is None or lines[at + 1].strip() == c["remedy"]


@needs_root
def test_user_outside_group_is_told_to_join(kvm, folder):  # noqa: F811
    """The device is open to the group of /dev/kvm already, and the user is in no group."""
    if SYSCTL.read_text().strip() != "0" or os.stat("/dev/kvm").st_mode & 0o006:
        pytest.skip("every user may use /dev/kvm or userfaultfd here")
    before = [a if a != str(os.stat("/dev/kvm").st_gid) else "65534" for a in as_plain_user(folder / "permitted")]
    found = checks(folder / "cairn", before=before, status=1)
    assert found["kvm"]["status"] == "missing" and found["kvm"]["found"] == "/dev/kvm: Permission denied"
    for c in (found["kvm"], found["userfaultfd"]):
        assert c["remedy"].startswith("join the group ")


@needs_root
def test_host_without_kvm_fails(cairn_path):
    found = checks(cairn_path, before=["unshare", "-m", "sh", "-c", 'mount -t tmpfs none /dev && exec "$@"', "sh"], status=1)
    assert (found["kvm"]["status"], found["kvm"]["found"]) == ("missing", "/dev/kvm: No such file or directory")
    assert "kvm_intel or kvm_amd" in found["kvm"]["remedy"]
    assert found["tun"]["status"] == "missing" and not found["tun"]["required"]
    # Root needs no device for userfaultfd.
    assert (found["userfaultfd"]["status"], found["userfaultfd"]["found"]) == ("ok", "opened by the system call")
