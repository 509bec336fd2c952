"""`cairn run` leaves the host's file systems, network, IPC objects and host name, as VMs of a daemon do."""

import contextlib
import json
import os
import shutil
import subprocess

import pytest

import guestlib
from conftest import BUILD
from plainlib import NOBODY, as_plain_user, plain_folder, qcow2
from test_namespaces import assert_caged, spaces

pytestmark = [pytest.mark.usefixtures("kvm", "sandbox"),
              pytest.mark.skipif(os.geteuid() != 0, reason="a plain user may make no namespaces")]

# A user namespace whose root may make all namespaces but the one that is named.
WITHOUT = ["unshare", "--user", "--map-root-user", "sh", "-c", 'echo 0 >/proc/sys/user/max_$0_namespaces && exec "$@"']


def definition(folder, **more):
    path = folder / "vm.json"
    path.write_text(json.dumps(guestlib.definition(**more)))
    return str(path)


@contextlib.contextmanager
def running(*argv):
    p = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        if (line := p.stdout.readline()) != b"interp\n":
            raise AssertionError((line, p.stderr.read()))
        yield p
    finally:
        p.kill()
        p.communicate()


def ask(p, *commands):
    for c in commands:
        p.stdin.write(c.encode() + b"\n")
        p.stdin.flush()
        while (line := p.stdout.readline()) != b"ok\n":
            assert line and not line.startswith(b"err"), (c, line)


def test_vm_of_root_is_caged_and_uses_its_files(tmp_path):
    """The VM uses its disk and its user network, whose process has sockets."""
    keys = {"disks": [qcow2(tmp_path / "a.qcow2", "16M")], "interfaces": [{"type": "user"}]}
    with running(os.path.join(BUILD, "cairn"), "run", definition(tmp_path, **keys)) as p:
        assert_caged(p.pid, pids=False)
        ask(p, "open 0", "write 0 4096 1", "flush", "verify 0 4096 1")
    assert p.stderr.closed


def test_vm_of_plain_user_is_caged(guest):
    with plain_folder() as folder:
        shutil.copy(guest("interp.elf"), folder)
        disk = qcow2(folder / "a.qcow2", "16M")
        os.chown(disk["path"], NOBODY, NOBODY)
        path = definition(folder, boot={"kernel": str(folder / "interp.elf")}, disks=[disk])
        with running(*as_plain_user(folder / "denied", str(folder / "cairn"), "run", "--require-sandbox", path)) as p:
            assert_caged(p.pid, user=True, pids=False)
            with open(f"/proc/{p.pid}/status") as f:
                status = dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)
            assert status["CapPrm"] == status["CapEff"] == "0" * 16 and status["Uid"].split() == [str(NOBODY)] * 4
            ask(p, "open 0", "write 0 4096 1", "flush", "verify 0 4096 1")


def test_missing_namespace_is_said_and_others_are_used(tmp_path):
    cairn, path = os.path.join(BUILD, "cairn"), definition(tmp_path)
    lacks = "the sandbox lacks own network namespace: No space left on device; next: cairn doctor\n"
    with running(*WITHOUT, "net", cairn, "run", path) as p:
        ours, its = spaces("self"), spaces(p.pid)
        assert {n for n in ours if ours[n] != its[n]} == {"user", "mnt", "ipc", "uts"}
        p.kill()
        assert lacks in p.stderr.read().decode()
    r = subprocess.run([*WITHOUT, "net", cairn, "run", "--require-sandbox", path], capture_output=True, text=True, timeout=60)
    assert r.returncode == 7 and f"the VM runs with --require-sandbox, and {lacks}" in r.stderr, r.stderr


def test_plain_user_on_a_host_that_forbids_namespaces(guest):
    """The kernel forbids user namespaces in a chroot."""
    with plain_folder() as folder:
        (folder / "root").mkdir()
        shutil.copy(guest("interp.elf"), folder)
        path = definition(folder, boot={"kernel": str(folder / "interp.elf")})
        unshare, m, sh, c, script, *rest = as_plain_user(folder / "denied", str(folder / "cairn"), "run", path)
        script = script.replace('exec "$@"', 'mount --rbind / "${0%/*}/root" && exec chroot "${0%/*}/root" "$@"')
        with running(unshare, m, sh, c, script, *rest) as p:
            p.kill()
            assert ("the sandbox lacks own user namespace, and thereby any other: Operation not permitted; next: cairn doctor\n"
                    in p.stderr.read().decode())


def test_required_sandbox_cannot_be_off(tmp_path):
    cairn, path = os.path.join(BUILD, "cairn"), definition(tmp_path)
    r = subprocess.run([cairn, "run", "--require-sandbox", "--no-sandbox", path], capture_output=True, text=True, timeout=60)
    assert r.returncode == 2 and "exclude each other" in r.stderr, r.stderr
