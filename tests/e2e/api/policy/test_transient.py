"""Transient VMs: create defines and starts a VM, which is undefined when it has ended."""

import os
import signal

import pytest

from conftest import has_ended, until


def names(d):
    return d.cairn("list", "--all", "--name").stdout.split()


def create(d, name="vm1", *options, ok=0, **keys):
    return d.cairn("create", d.write(name, **keys), *options, ok=ok)


def gone(d, name="vm1"):
    until(lambda: name not in names(d))
    until(lambda: not (d.state / "vms" / name).exists())  # written behind


def test_vm_is_gone_when_it_ends(fake):
    path = fake.write("vm1")
    assert fake.cairn("create", path).stdout == f"Domain 'vm1' created from {path}\n"
    fake.define("vm2")
    assert fake.cairn("list", "--transient", "--name").stdout == "vm1\n"
    assert fake.cairn("list", "--all", "--persistent", "--name").stdout == "vm2\n"
    assert "Persistent:     no\n" in fake.cairn("dominfo", "vm1").stdout
    fake.cairn("destroy", "vm1")
    gone(fake)
    create(fake)
    fake.cairn("shutdown", "vm1")
    gone(fake)
    assert names(fake) == ["vm2"]


def test_image_stays(fake, tmp_path):
    image = tmp_path / "a.raw"
    image.write_bytes(b"1" * 65536)
    create(fake, disks=[{"path": str(image), "format": "raw"}])
    fake.cairn("destroy", "vm1")
    gone(fake)
    assert image.read_bytes() == b"1" * 65536


def test_name_that_exists_is_refused(fake):
    fake.define("vm1")
    assert "VM 'vm1' exists already; start it: cairn start vm1" in create(fake, ok=4).stderr
    assert fake.info("vm1")["persistent"] is True and fake.info("vm1")["word"] == "shutoff"
    fake.cairn("start", "vm1")
    assert "VM 'vm1' exists already and is running\n" in create(fake, ok=4).stderr


def test_failed_start_leaves_nothing(fake, tmp_path):
    create(fake, boot={"kernel": str(tmp_path / "missing")}, ok=None)
    assert names(fake) == []
    create(fake)  # the name is free at once
    assert names(fake) == ["vm1"]


def test_paused(fake):
    create(fake, "vm1", "--paused")
    assert fake.info("vm1")["word"] == "paused"


def test_define_makes_it_persistent_and_an_edit_does_not(fake):
    create(fake)
    fake.cairn("setmaxmem", "vm1", "64M", "--config")
    assert fake.info("vm1")["persistent"] is False
    fake.cairn("define", "-", input=fake.cairn("dumpjson", "vm1").stdout, stdin=None)
    assert fake.info("vm1")["persistent"] is True
    fake.stop(signal.SIGKILL)
    fake.start()
    assert fake.info("vm1")["persistent"] is True
    fake.cairn("destroy", "vm1")
    assert names(fake) == ["vm1"]


def test_autostart_is_refused(fake):
    create(fake)
    assert "VM 'vm1' is transient, so it cannot start with the host; make it persistent with: " in fake.cairn(
        "autostart", "vm1", ok=4).stderr
    fake.cairn("autostart", "vm1", "--disable")


def test_managed_save_keeps_it_until_its_next_end(fake):
    create(fake)
    fake.cairn("restart-process", "vm1")
    fake.cairn("managedsave", "vm1")
    assert names(fake) == ["vm1"]
    fake.cairn("start", "vm1")
    fake.cairn("managedsave", "vm1")
    fake.cairn("managedsave-remove", "vm1")
    gone(fake)


@pytest.mark.parametrize("ends", [False, True])
def test_killed_daemon(fake, ends):
    """The next daemon adopts a VM that runs, and undefines one that has ended meanwhile."""
    create(fake)
    pid = fake.info("vm1")["pid"]
    fake.stop(signal.SIGKILL)
    if ends:
        os.kill(pid, signal.SIGKILL)
        until(lambda: has_ended(pid))
    fake.start()
    if not ends:
        assert fake.info("vm1")["persistent"] is False and fake.info("vm1")["word"] == "running"
        fake.cairn("destroy", "vm1")
    gone(fake)


def test_restart_comes_before_the_end(fake):
    """A VM whose policy restarts it stays defined; it is gone when the restart is cancelled."""
    create(fake, on_crash="restart", restart={"delay": 3600, "max_delay": 3600})
    first = fake.info("vm1")["pid"]
    os.kill(first, signal.SIGKILL)
    until(lambda: fake.info("vm1").get("pid") not in (None, first))  # the first restart comes at once
    fake.wait("vm1", "running")
    os.kill(fake.info("vm1")["pid"], signal.SIGKILL)
    fake.wait("vm1", "crashed")
    assert names(fake) == ["vm1"]
    fake.cairn("destroy", "vm1")
    gone(fake)


def test_many_come_and_go(fake):
    paths = [fake.write(f"a{i}") for i in range(20)]
    for _ in range(3):
        for path in paths:
            fake.cairn("create", path)
        fake.cairn("destroy", "--all")
        until(lambda: not names(fake))
