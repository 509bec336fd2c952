"""save, restore, managed save, and their jobs."""

import contextlib
import json
import os
import pathlib
import re
import select
import signal
import socket
import struct
import subprocess
import time

import pytest

import guestlib
from conftest import BUILD, FAKE_VM, Daemon, QmpError, has_ended, open_files, until
from statelib import crc32c
from terminallib import read_until, terminal


def run_with_fd(q, command, fd, **args):
    """Run a command with an fd."""
    m = {"execute": command, "arguments": {k.replace("_", "-"): v for k, v in args.items()}}
    socket.send_fds(q.sock, [json.dumps(m).encode()], [fd])
    m = q.answer()
    if "error" in m:
        raise QmpError(m["error"])
    return m["return"]


def kept(fake, name, vm="vm1"):
    return (fake.state / "vms" / vm / name).exists()


def jobs(fake):
    return json.loads(fake.cairn("jobs", "--format", "json").stdout)


def check_success(d, job):
    """Check that a daemon has told of the success of the job that an earlier one began."""
    entry = next(j for j in jobs(d) if j["id"] == job)
    assert entry["status"] == "concluded" and "error" not in entry
    last = d.qmp().run("query-events", event="JOB_STATUS_CHANGE")["events"][-1]["data"]
    assert (last["id"], last["status"], last.get("error")) == (job, "concluded", None)


# ---- messages and states, with fake_vm ----

def test_save_and_restore(fake, tmp_path):
    fake.define("vm1")
    fake.cairn("start", "vm1")
    f = str(tmp_path / "saved.vm")
    assert fake.cairn("save", "vm1", f).stdout == f"Domain 'vm1' saved to {f}\n"
    assert fake.cairn("domstate", "--reason", "vm1").stdout == "shut off (saved)\n"
    assert os.stat(f).st_mode & 0o777 == 0o600
    assert [x for x in os.listdir(tmp_path) if x.startswith("saved.vm.")] == []
    assert fake.cairn("restore", f).stdout == f"Domain restored from {f}\n"
    assert fake.cairn("domstate", "--reason", "vm1").stdout == "running (restored)\n"
    r = fake.cairn("restore", f, ok=4)
    assert "VM 'vm1' is running" in r.stderr
    fake.cairn("destroy", "vm1")
    fake.cairn("restore", "--paused", f)
    assert fake.cairn("domstate", "--reason", "vm1").stdout == "paused (restored)\n"
    assert jobs(fake) == []  # shown once, and thereby dismissed


def test_save_replaces_a_file_only_when_it_is_whole(fake, tmp_path):
    fake.define("vm1", cmdline="work-fails")
    fake.cairn("start", "vm1")
    f = tmp_path / "saved.vm"
    f.write_text("CAIRNVMS old")
    r = fake.cairn("save", "vm1", str(f), ok=1)
    assert r.stderr == (f"error: Failed to save domain 'vm1' to {f}\n"
                        "error: vda: no space left on the device\n")
    assert f.read_text() == "CAIRNVMS old" and [x for x in os.listdir(tmp_path) if "saved.vm." in x] == []
    assert fake.cairn("domstate", "vm1").stdout == "running\n"
    # The VM exists already: only a new file is possible.
    r = fake.cairn("save", "--no-wait", "vm1", str(f), ok=4)
    assert "already exists; choose another name" in r.stderr
    fake.cairn("save", "vm1", str(tmp_path / "no" / "where"), ok=3)
    fake.cairn("save", "vm1", str(tmp_path), ok=2)


@pytest.mark.parametrize("verb, kind, own", [("save", "a saved state", b"CAIRNVMS"), ("dump", "a dump", b"\x7fELF"), ("screenshot", "a picture", b"P6\n")])
def test_file_of_another_kind_is_not_replaced(fake, tmp_path, verb, kind, own):
    image = tmp_path / "vm1.qcow2"
    fake.define("vm1")
    fake.cairn("start", "vm1")
    for content in (b"QFI\xfb", bytes(1 << 20), own[:-1]):
        image.write_bytes(content)
        assert f"error: {image} exists and is not {kind}; choose another name, or remove that file first\n" in fake.cairn(verb, "vm1", str(image), ok=4).stderr
        assert image.read_bytes() == content and os.listdir(tmp_path).count(image.name) == 1
    assert fake.cairn("domstate", "vm1").stdout == "running\n"
    for content in (b"", own + b" old"):  # as mktemp makes it, and of an earlier run
        image.write_bytes(content)
        fake.cairn("start", "vm1", ok=None)
        assert "exists" not in fake.cairn(verb, "vm1", str(image), ok=None).stderr


def test_restore_defines_missing_vm(fake, tmp_path):
    fake.define("vm1", title="the first")
    before = json.loads(fake.cairn("dumpjson", "vm1").stdout)
    fake.cairn("start", "vm1")
    f = str(tmp_path / "saved.vm")
    fake.cairn("save", "vm1", f)
    fake.cairn("undefine", "vm1")
    fake.cairn("restore", f)
    assert json.loads(fake.cairn("dumpjson", "vm1").stdout) == before
    fake.cairn("destroy", "vm1")
    # Another VM has its name.
    fake.cairn("undefine", "vm1")
    fake.define("vm1")
    fake.cairn("restore", f, ok=4)
    fake.cairn("undefine", "vm1")
    # The VM cannot start: then it is not defined either.
    (tmp_path / "kernel").unlink()
    fake.cairn("restore", f, ok=3)
    assert fake.cairn("list", "--all", "--name").stdout == ""


class OneStart(Daemon):
    def command(self):
        return super().command() + ["--max-starting", "1"]


def test_restore_that_fails_keeps_a_vm_that_a_job_uses(tmp_path):
    """Another client exports a snapshot of the VM while the VM's start waits."""
    image = tmp_path / "d.qcow2"
    subprocess.run([f"{BUILD}/cairn-img", "create", "-q", "-f", "qcow2", image, "4M"], check=True)
    (tmp_path / "random").write_bytes(os.urandom(1 << 20))
    subprocess.run([f"{BUILD}/cairn-img", "convert", "-q", "-n", "-f", "raw", "-O", "qcow2", tmp_path / "random", image],
                   check=True)
    subprocess.run([f"{BUILD}/cairn-img", "snapshot", "-c", "s1", image], check=True)
    with contextlib.closing(OneStart(tmp_path, vm_program=FAKE_VM)) as d:
        d.define("vm1", disks=[{"path": str(image), "format": "qcow2"}])
        d.cairn("start", "vm1")
        f = str(tmp_path / "saved.vm")
        d.cairn("save", "vm1", f)
        d.cairn("undefine", "vm1")
        d.define("slow", cmdline="silent-at-config")
        first, q = d.qmp(), d.qmp()
        first.send(b'{"execute":"vm-start","arguments":{"vm":"slow"}}')
        until(lambda: len(d.children()) == 1)
        slow = d.children()[0]
        restore = subprocess.Popen([f"{BUILD}/cairn", "restore", f], env=d.env, stderr=subprocess.PIPE, text=True)
        until(lambda: "VM 'vm1' is being started" in d.cairn("snapshot-list", "vm1", ok=None).stderr)
        out, into = os.pipe()  # nobody reads, so the export cannot end
        job = run_with_fd(q, "vm-export", into, vm="vm1", snapshot="s1")["job"]
        os.close(into)
        assert select.select([out], [], [], 60)[0]  # it has opened the VM's files, of which the next line removes one
        (tmp_path / "kernel").unlink()
        os.kill(slow, signal.SIGKILL)
        assert "kernel" in restore.communicate(timeout=60)[1] and "error" in first.answer()
        assert q.run("query-jobs", id=job)[0]["status"] == "running"
        with open(out, "rb") as stream:
            stream.read()
        until(lambda: q.run("query-jobs", id=job)[0]["status"] == "concluded")
        assert d.cairn("domstate", "vm1").stdout == "shut off\n"
        d.cairn("undefine", "vm1")


@pytest.mark.parametrize("keys, word", [
    ({"memory": "64M"}, "memory"), ({"vcpus": 2}, "vcpus"), ({"rng": True}, "rng"),
    ({"console": {"virtio": True}}, "console"), ({"guest_agent": True}, "guest_agent"), ({"debug_exit": True}, "debug_exit"),
    ({"watchdog": {}}, "watchdog"),
    ({"disks": [{"path": "d.raw", "format": "raw"}]}, "disks"),
])
def test_vm_with_another_definition_runs_with_that_of_the_state(fake, tmp_path, keys, word):
    (tmp_path / "d.raw").write_bytes(bytes(4096))
    fake.define("vm1")
    before = json.loads(fake.cairn("dumpjson", "vm1").stdout)
    fake.cairn("start", "vm1")
    f = str(tmp_path / "saved.vm")
    fake.cairn("save", "vm1", f)
    fake.define("vm1", **keys)
    own = json.loads(fake.cairn("dumpjson", "vm1").stdout)
    r = fake.cairn("restore", f)
    assert f"\n{word}: differs from the definition in the saved state" in r.stdout
    assert word != "memory" or '(there "32M", now "64M"); the VM runs with that one until it is off\n' in r.stdout
    assert word != "rng" or "(there false, now true);" in r.stdout
    assert json.loads(fake.cairn("dumpjson", "vm1").stdout) == before
    # The next daemon knows, too, what the VM runs with.
    fake.stop(signal.SIGKILL)
    fake.start()
    assert json.loads(fake.cairn("dumpjson", "vm1").stdout) == before
    assert json.loads(fake.cairn("dumpjson", "vm1", "--inactive").stdout) == own
    fake.cairn("destroy", "vm1")
    assert json.loads(fake.cairn("dumpjson", "vm1").stdout) == own


def test_restore_with_the_vms_own_definition_is_preferred(fake, tmp_path):
    """A restore takes the keys that the guest does not see from the VM's present definition."""
    fake.define("vm1")
    fake.cairn("start", "vm1")
    f = str(tmp_path / "saved.vm")
    fake.cairn("save", "vm1", f)
    fake.define("vm1", title="another word", on_crash="restart")
    own = json.loads(fake.cairn("dumpjson", "vm1").stdout)
    answer = json.loads(fake.cairn("restore", "--format", "json", f).stdout)
    assert answer == {"name": "vm1", "id": 2, "created": False}
    assert json.loads(fake.cairn("dumpjson", "vm1").stdout) == own


def test_vm_has_its_own_definition_after_a_restore_that_failed(fake, tmp_path):
    fake.define("vm1")
    fake.cairn("start", "vm1")
    f = str(tmp_path / "saved.vm")
    fake.cairn("save", "vm1", f)
    (tmp_path / "kernel").rename(tmp_path / "other")
    fake.define("vm1", memory="64M", boot={"kernel": str(tmp_path / "other")})
    own = json.loads(fake.cairn("dumpjson", "vm1").stdout)
    (tmp_path / "kernel").unlink()
    assert "kernel" in fake.cairn("restore", f, ok=3).stderr
    assert json.loads(fake.cairn("dumpjson", "vm1").stdout) == own
    fake.cairn("start", "vm1")
    assert json.loads(fake.cairn("dumpjson", "vm1").stdout) == own


class Bounded(Daemon):
    def command(self):
        return super().command() + ["--max-memory", "100M"]


def test_restored_memory_counts_for_the_limit(tmp_path):
    """The memory of the new definition does not count."""
    with contextlib.closing(Bounded(tmp_path, vm_program=FAKE_VM)) as d:
        d.define("big", memory="64M")
        d.cairn("start", "big")
        f = str(tmp_path / "saved.vm")
        d.cairn("save", "big", f)
        d.define("big", memory="16M")
        d.define("other", memory="64M")
        d.cairn("start", "other")
        assert "128 MiB, and cairnd has --max-memory 100M" in d.cairn("restore", f, ok=6).stderr
        assert json.loads(d.cairn("dumpjson", "big").stdout)["memory"] == "16M"
        d.cairn("destroy", "other")
        d.cairn("restore", f)
        assert "128 MiB, and cairnd has" in d.cairn("start", "other", ok=6).stderr


def test_restored_vm_can_be_transient(fake, tmp_path):
    fake.define("vm1")
    fake.cairn("start", "vm1")
    f = str(tmp_path / "saved.vm")
    fake.cairn("save", "vm1", f)
    fake.cairn("undefine", "vm1")
    answer = json.loads(fake.cairn("restore", "--transient", "--format", "json", f).stdout)
    assert answer["created"] is True
    assert "Persistent:     no\n" in fake.cairn("dominfo", "vm1").stdout
    fake.cairn("destroy", "vm1")
    until(lambda: fake.cairn("list", "--all", "--name").stdout == "")
    (tmp_path / "kernel").unlink()
    fake.cairn("restore", "--transient", f, ok=3)
    assert fake.cairn("list", "--all", "--name").stdout == ""


def test_restore_warns_of_disks_that_changed_after_the_save(fake, tmp_path):
    for name in ("old", "new", "cd"):
        (tmp_path / f"{name}.raw").write_bytes(bytes(4096))
    fake.define("vm1", disks=[{"path": str(tmp_path / f"{name}.raw"), "format": "raw", "readonly": name == "cd"}
                              for name in ("old", "new", "cd")])
    fake.cairn("start", "vm1")
    f = str(tmp_path / "saved.vm")
    fake.cairn("save", "vm1", f)
    assert fake.cairn("restore", f).stderr == ""
    fake.cairn("destroy", "vm1")
    for name in ("new", "cd"):
        os.utime(tmp_path / f"{name}.raw", (2**32, 2**32))
    assert fake.cairn("restore", f).stderr == (
        f"warning: disk vdb: {tmp_path}/new.raw was written after the save; unless it has its content again, the guest may damage "
        "its file systems\n")


@pytest.mark.parametrize("how", ["moved", "gone"])
def test_state_is_not_restored_with_another_image(fake, tmp_path, how):
    """Unless the user says that the image was moved, or the image of the state is gone."""
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(bytes(4096))
    f = str(tmp_path / "vm1.vm")
    fake.define("vm1", disks=[{"path": str(tmp_path / "a"), "format": "raw"}])
    fake.cairn("start", "vm1")
    fake.cairn("save", "vm1", f)
    fake.define("vm1", uuid=fake.info("vm1")["uuid"], disks=[{"path": str(tmp_path / "b"), "format": "raw"}])
    says = fake.cairn("restore", f, ok=4).stderr
    assert f"disk vda had the image {tmp_path}/a at the save, and VM 'vm1' now has {tmp_path}/b" in says
    assert "cairn restore --moved vda" in says and fake.info("vm1")["state"] == "shutoff"
    if how == "gone":
        (tmp_path / "a").unlink()
    fake.cairn("restore", *(["--moved", "vda"] if how == "moved" else []), f)
    assert fake.info("vm1")["state"] == "running"


def test_state_of_the_former_vm_is_not_restored_on_the_promoted_clones_disk(daemon, kvm, guest, tmp_path):
    img = ["qemu-img", "create", "-q", "-f", "qcow2", str(tmp_path / "a.qcow2"), "1M"]
    subprocess.run(img, check=True)
    daemon.define("vm1", boot={"kernel": guest("interp.elf")}, disks=[{"path": "a.qcow2", "format": "qcow2"}])
    daemon.cairn("start", "vm1")
    daemon.cairn("clone", "--live", "vm1", "clone1")
    f = str(tmp_path / "vm1.vm")
    daemon.cairn("save", "vm1", f)
    daemon.cairn("promote", "clone1")
    daemon.cairn("destroy", "vm1")
    assert "disk vda had the image" in daemon.cairn("restore", f, ok=4).stderr


# ---- the definition in a saved state ----

@pytest.fixture
def saved(fake, tmp_path):
    """The saved state of a VM with a disk, whose image has moved since."""
    (tmp_path / "d.raw").write_bytes(bytes(4096))
    fake.define("vm1", disks=[{"path": str(tmp_path / "d.raw"), "format": "raw"}])
    fake.cairn("start", "vm1")
    f = str(tmp_path / "saved.vm")
    fake.cairn("save", "vm1", f)
    fake.cairn("undefine", "vm1")
    (tmp_path / "d.raw").rename(tmp_path / "moved.raw")
    fake.cairn("restore", f, ok=3)
    return f


def moved(fake, f):
    fake.cairn("restore", f)
    assert json.loads(fake.cairn("dumpjson", "vm1").stdout)["disks"][0]["path"].endswith("/moved.raw")


@pytest.mark.parametrize("kind", ["json", "xml"])
def test_definition_in_a_saved_state_can_be_replaced(fake, tmp_path, saved, kind):
    text = fake.cairn(f"save-image-dump{kind}", saved).stdout
    new = tmp_path / f"new.{kind}"
    new.write_text(text.replace("d.raw", "moved.raw"))
    assert fake.cairn("save-image-define", saved, str(new)).stdout == f"State file {saved} updated.\n"
    moved(fake, saved)


@pytest.mark.parametrize("args", [[], ["--xml"]])
def test_definition_in_a_saved_state_can_be_edited(fake, saved, args):
    fake.env["EDITOR"] = "sed -i s/d.raw/moved.raw/"
    assert 'moved.raw"' in fake.cairn("save-image-edit", *args, "--print-only", saved).stdout
    fake.cairn("restore", saved, ok=3)
    kind = "XML" if args else "JSON"
    assert fake.cairn("save-image-edit", *args, saved).stdout.endswith(f"Saved state of domain 'vm1' {kind} configuration edited.\n")
    moved(fake, saved)


def test_name_cannot_be_added_to_the_definition_in_a_saved_state(fake, saved):
    path = pathlib.Path(saved)
    state = bytearray(path.read_bytes())
    at, size = struct.unpack_from("<2Q", state, 80)
    new = state[at:at + size].replace(b'"name":"vm1",', b"")
    assert len(new) < size
    state[at:at + len(new)] = new
    struct.pack_into("<QI", state, 88, len(new), 0)  # 0: the checksum is unknown
    struct.pack_into("<I", state, 4092, crc32c(state[:4092]))
    path.write_bytes(state)
    fake.env["EDITOR"] = """sed -i '1s/{/{"name": "x",/'"""
    assert "cairn domrename VM NEW" in fake.cairn("save-image-edit", "--print-only", saved, ok=2).stderr


def test_saved_state_keeps_its_machine(fake, tmp_path, saved):
    before = pathlib.Path(saved).read_bytes()
    d = json.loads(fake.cairn("save-image-dumpjson", saved).stdout)
    new = tmp_path / "new.json"
    for keys, words in (({"memory": "64M"}, "memory: the saved state has 32 MiB"), ({"vcpus": 2}, "vcpus: differs"),
                        ({"uuid": "2f1c0c0e-5d3a-4b53-9c39-0d8f1c6a7b11"}, "uuid: the saved state is of another VM"),
                        ({"disks": []}, "disks: differs"), ({"on_crash": "x"}, "on_crash")):
        new.write_text(json.dumps({**d, **keys}))
        assert words in fake.cairn("save-image-define", saved, str(new), ok=2).stderr
    assert pathlib.Path(saved).read_bytes() == before
    new.write_text(json.dumps(d))
    for args in (["save-image-dumpjson", str(new)], ["save-image-define", str(new), str(new)], ["save-image-edit", str(new)]):
        assert "not a saved state" in fake.cairn(*args, ok=2).stderr
    fake.cairn("save-image-dumpxml", str(tmp_path / "none"), ok=3)


def test_damaged_definition_in_a_saved_state_can_be_replaced(fake, tmp_path, saved):
    d = fake.cairn("save-image-dumpjson", saved).stdout
    with open(saved, "r+b") as f:
        f.seek((12 << 20) + 4096)
        f.write(b"x")
    assert "damaged (checksum)" in fake.cairn("save-image-dumpjson", saved, ok=1).stderr
    new = tmp_path / "new.json"
    new.write_text(d.replace("d.raw", "moved.raw"))
    fake.cairn("save-image-define", saved, str(new))
    moved(fake, saved)


def test_saved_state_is_resumed_or_paused_as_it_was_defined(fake, tmp_path, saved):
    new = tmp_path / "new.json"
    new.write_text(fake.cairn("save-image-dumpjson", saved).stdout.replace("d.raw", "moved.raw"))
    for args, want in ([], "running"), (["--paused"], "paused"), ([], "paused"), (["--running"], "running"):
        fake.cairn("save-image-define", saved, str(new), *args)
        fake.cairn("restore", saved)
        assert fake.cairn("domstate", "vm1").stdout == f"{want}\n"
        fake.cairn("destroy", "vm1")
    fake.cairn("save-image-define", saved, str(new), "--paused", "--running", ok=2)


# ---- files ----

def test_restore_of_other_files_is_refused(fake, tmp_path):
    fake.define("vm1")
    fake.cairn("start", "vm1")
    f = tmp_path / "saved.vm"
    fake.cairn("save", "vm1", str(f))
    good = f.read_bytes()
    none, damaged = (b"", b"x", bytes(8192), good[:4000], b"X" + good[1:]), good[:60] + bytes([good[60] ^ 1]) + good[61:]
    for bad in (*none, damaged):
        f.write_bytes(bad)
        r = fake.cairn("restore", str(f), ok=1 if bad == damaged else 2)
        assert r.stderr.startswith(f"error: Failed to restore domain from {f}\n")
        assert r.stderr.count("\n") == 2 and bad == damaged or "is not a saved state of a VM" in r.stderr
    fake.cairn("restore", str(tmp_path), ok=2)
    fake.cairn("restore", str(tmp_path / "none"), ok=3)
    f.write_bytes(b"x" * 9000)  # nor an archive
    for options in ([], ["--dry-run"]):
        assert "not an archive of cairn export" in fake.cairn("import", *options, str(f), ok=2).stderr
    assert fake.cairn("domstate", "--reason", "vm1").stdout == "shut off (saved)\n"


def test_start_resumes_managed_save(fake):
    fake.define("vm1")
    fake.cairn("start", "vm1")
    assert fake.cairn("managedsave", "vm1").stdout == "Domain 'vm1' state saved by cairn\n"
    assert fake.cairn("domstate", "--reason", "vm1").stdout == "saved (saved)\n"
    assert " -    vm1    saved\n" in fake.cairn("list", "--all").stdout
    assert fake.cairn("list", "--all", "--with-managed-save", "--name").stdout == "vm1\n"
    assert "Managed save:   yes\n" in fake.cairn("dominfo", "vm1").stdout
    assert kept(fake, "managed.save") and not kept(fake, "managed.save.tmp")
    assert fake.cairn("start", "vm1", "--dry-run").stdout == "Would start domain 'vm1' (saved)\n"
    would = "Would start domain 'vm1' (saved); lost: its saved state\n"
    assert fake.cairn("start", "vm1", "--force-boot", "--dry-run").stdout == would
    assert fake.cairn("start", "--all", "--force-boot", "--dry-run").stdout == would
    fake.cairn("start", "vm1")
    assert fake.cairn("domstate", "--reason", "vm1").stdout == "running (restored)\n"
    assert not kept(fake, "managed.save") and not kept(fake, "managed.save.used")
    assert "Managed save:   no\n" in fake.cairn("dominfo", "vm1").stdout


@pytest.mark.parametrize("paused, option, want", [
    (False, None, "running"), (True, None, "paused"), (False, "--paused", "paused"),
    (True, "--running", "running")])
def test_managed_save_keeps_running_or_paused_state(fake, paused, option, want):
    fake.define("vm1")
    fake.cairn("start", "vm1", *(["--paused"] if paused else []))
    fake.cairn("managedsave", "vm1", *([option] if option else []))
    fake.stop()
    fake.start()
    fake.cairn("start", "vm1")
    assert fake.cairn("domstate", "vm1").stdout == want + "\n"


def test_managed_save_is_dropped_only_when_asked(fake):
    fake.define("vm1")
    fake.cairn("start", "vm1")
    fake.cairn("managedsave", "vm1")
    r = fake.cairn("undefine", "vm1", ok=4)
    assert "use --managed-save to drop the save" in r.stderr
    fake.cairn("start", "--force-boot", "vm1")
    assert fake.cairn("domstate", "--reason", "vm1").stdout == "running (booted)\n"
    assert not kept(fake, "managed.save") and not kept(fake, "managed.save.used")
    fake.cairn("managedsave", "vm1")
    assert fake.cairn("managedsave-remove", "vm1").stdout == (
        "Removed managedsave image for domain 'vm1'\n")
    assert fake.cairn("managedsave-remove", "vm1").stdout == (
        "Domain 'vm1' has no manage save image; removal skipped\n")
    assert fake.cairn("domstate", "vm1").stdout == "shut off\n"
    fake.cairn("start", "vm1")
    assert fake.cairn("domstate", "--reason", "vm1").stdout == "running (booted)\n"
    fake.cairn("managedsave", "vm1")
    fake.cairn("undefine", "--managed-save", "vm1")
    assert not (fake.state / "vms/vm1").exists()


def test_failed_start_keeps_managed_save(fake):
    fake.define("vm1")
    fake.cairn("start", "vm1")
    fake.cairn("managedsave", "vm1")
    fake.define("vm1", cmdline="refuse")
    fake.cairn("start", "vm1", ok=6)
    assert fake.cairn("domstate", "vm1").stdout == "saved\n"
    fake.define("vm1", cmdline="kill-at-config")
    fake.cairn("start", "vm1", ok=1)
    assert not fake.children() and fake.cairn("domstate", "vm1").stdout == "saved\n"
    assert kept(fake, "managed.save") and not kept(fake, "managed.save.used")
    fake.define("vm1")
    fake.cairn("start", "vm1")
    assert fake.cairn("domstate", "--reason", "vm1").stdout == "running (restored)\n"


def test_start_fails_when_managed_save_is_missing(fake):
    fake.define("vm1")
    fake.cairn("start", "vm1")
    fake.cairn("managedsave", "vm1")
    (fake.state / "vms/vm1/managed.save").unlink()
    for _ in range(2):  # no empty file replaces it
        r = fake.cairn("start", "vm1", ok=3)
        assert "the VM's managed save is gone; to boot the VM: cairn start --force-boot vm1" in r.stderr
    fake.cairn("start", "vm1", "--force-boot")


def test_managed_save_removed_without_daemon_is_noticed(fake):
    fake.define("vm1")
    fake.cairn("start", "vm1")
    fake.cairn("managedsave", "vm1")
    fake.stop()
    (fake.state / "vms/vm1/managed.save").unlink()
    fake.start()
    assert fake.cairn("domstate", "--reason", "vm1").stdout == "shut off (saved state gone)\n"
    fake.cairn("start", "vm1")


def test_restore_is_refused_beside_managed_save(fake, tmp_path):
    fake.define("vm1")
    fake.cairn("start", "vm1")
    f = str(tmp_path / "saved.vm")
    fake.cairn("save", "vm1", f)
    fake.cairn("start", "vm1")
    fake.cairn("managedsave", "vm1")
    assert "managedsave-remove" in fake.cairn("restore", f, ok=4).stderr
    fake.cairn("start", "vm1")


# ---- daemons that die ----

def test_managed_save_survives_kill_of_daemon(fake):
    fake.define("vm1")
    fake.cairn("start", "vm1")
    fake.cairn("managedsave", "vm1", "--paused")
    fake.stop(signal.SIGKILL)
    fake.start()
    assert fake.cairn("domstate", "vm1").stdout == "saved\n"
    fake.cairn("start", "vm1")
    assert fake.cairn("domstate", "vm1").stdout == "paused\n"


def test_save_continues_without_daemon(fake):
    fake.define("vm1", cmdline=f"work-until={fake.tmp}/go")
    fake.cairn("start", "vm1")
    was = fake.cairn("managedsave", "--no-wait", "vm1").stdout.strip()
    pid = fake.info("vm1")["pid"]
    fake.stop(signal.SIGKILL)
    (fake.tmp / "go").touch()
    until(lambda: has_ended(pid))
    fake.start()
    check_success(fake, was)
    assert fake.cairn("domstate", "vm1").stdout == "saved\n"
    fake.cairn("start", "vm1")
    assert fake.cairn("domstate", "--reason", "vm1").stdout == "running (restored)\n"


@pytest.mark.parametrize("cmdline, save, want", [
    ("work-until=", True, "saved (saved)"), ("off-after=1 when=", False, "shut off (shutdown)"),
    ("kill-after=1 when=", False, "crashed (killed)"), (None, False, "running (booted)")])
def test_next_daemon_knows_start_that_state_json_missed(fake, cmdline, save, want):
    """state.json is written behind: a killed daemon may leave one from before the start."""
    fake.define("vm1", cmdline=cmdline and f"{cmdline}{fake.tmp}/go")
    fake.cairn("start", "vm1")
    pid = fake.info("vm1")["pid"]
    if save:
        fake.cairn("managedsave", "--no-wait", "vm1")
    fake.stop(signal.SIGKILL)
    (fake.tmp / "go").touch()
    (fake.state / "vms/vm1/state.json").unlink(missing_ok=True)
    if cmdline:
        until(lambda: has_ended(pid))
    fake.start()
    assert fake.cairn("domstate", "--reason", "vm1").stdout == want + "\n"
    fake.stop()
    fake.start()  # now state.json is written
    assert fake.cairn("domstate", "--reason", "vm1").stdout == want + "\n"
    if save:
        fake.cairn("start", "vm1")
        assert fake.cairn("domstate", "--reason", "vm1").stdout == "running (restored)\n"
        fake.cairn("destroy", "vm1")
        fake.stop(signal.SIGKILL)
        fake.start()
        assert fake.cairn("domstate", "vm1").stdout == "shut off\n"


def test_failed_start_is_shut_off_for_next_daemon(fake):
    fake.define("vm1", cmdline="refuse")
    fake.cairn("start", "vm1", ok=6)
    fake.stop(signal.SIGKILL)
    (fake.state / "vms/vm1/state.json").unlink(missing_ok=True)
    fake.start()
    assert fake.cairn("domstate", "vm1").stdout == "shut off\n"


def test_next_daemon_adopts_save_in_progress(fake):
    fake.define("vm1", cmdline=f"work-until={fake.tmp}/go")
    fake.cairn("start", "vm1")
    was = fake.cairn("managedsave", "--no-wait", "vm1").stdout.strip()
    fake.qmp().event("JOB_PROGRESS", id=was)  # its process has started
    fake.stop(signal.SIGKILL)
    fake.start()
    job = jobs(fake)[0]
    assert (job["id"], job["type"], job["status"], job["vm"]) == (was, "managed-save", "running", "vm1")
    q = fake.qmp()
    q.event("JOB_PROGRESS", id=job["id"])
    (fake.tmp / "go").touch()
    q.event("JOB_STATUS_CHANGE", id=job["id"], status="concluded")
    assert fake.cairn("domstate", "vm1").stdout == "saved\n"


@pytest.mark.parametrize("fails", [False, True])
def test_next_daemon_adopts_save_of_paused_vm(fake, fails):
    fake.define("vm1", cmdline=f"work-until={fake.tmp}/go" + (" work-fails" if fails else ""))
    fake.cairn("start", "--paused", "vm1")
    was = fake.cairn("managedsave", "--no-wait", "vm1").stdout.strip()
    assert fake.cairn("domstate", "--reason", "vm1").stdout == "paused (saving)\n"
    fake.stop(signal.SIGKILL)
    fake.start()
    job, = jobs(fake)
    assert (job["id"], job["type"], job["status"]) == (was, "managed-save", "running")
    q = fake.qmp()
    with pytest.raises(QmpError, match=f"job {was} "):
        q.run("vm-managed-save", vm="vm1")
    (fake.tmp / "go").touch()
    q.event("JOB_STATUS_CHANGE", id=was, status="concluded")
    assert ("error" in jobs(fake)[0]) == fails
    if fails:
        assert fake.cairn("domstate", "--reason", "vm1").stdout == "paused (user)\n"
    else:
        assert fake.cairn("domstate", "vm1").stdout == "saved\n"
        fake.cairn("start", "vm1")
        assert fake.cairn("domstate", "vm1").stdout == "paused\n"


def test_job_without_known_end_is_reported_as_failed(fake):
    """The job is reported as failed, with a place to look; and its id is never reused."""
    (fake.tmp / "d.raw").write_bytes(bytes(1 << 20))
    fake.define("vm1", cmdline=f"work-until={fake.tmp}/go", disks=[{"path": "d.raw", "format": "raw"}])
    fake.cairn("start", "vm1")
    q = fake.qmp()
    was = q.run("snapshot-create", vm="vm1", name="s1")["job"]
    fake.stop(signal.SIGKILL)
    (fake.tmp / "go").touch()
    until(lambda: b"s1" in (fake.tmp / "d.raw").read_bytes())
    (fake.state / "jobs.json").unlink(missing_ok=True)
    fake.start()
    job, = jobs(fake)
    assert (job["id"], job["status"], job["vm"], job["type"]) == (was, "concluded", "vm1", "snapshot-create")
    assert "Next: cairn snapshot-list vm1" in job["error"]
    q = fake.qmp()
    last = [e for e in q.run("query-events", event="JOB_STATUS_CHANGE")["events"]][-1]["data"]
    assert (last["id"], last["status"]) == (was, "concluded")
    fake.stop(signal.SIGKILL)
    fake.start()
    assert [j["id"] for j in jobs(fake)] == [was]
    q = fake.qmp()
    assert q.run("snapshot-create", vm="vm1", name="s2")["job"] != was
    q.run("job-dismiss", id=was)


@pytest.mark.parametrize("ran", [True, False])
def test_possibly_used_managed_save_is_not_used_again(fake, ran):
    """The daemon uses the save again if the guest of the lost start did not run."""
    fake.define("vm1")
    fake.cairn("start", "vm1")
    fake.cairn("managedsave", "vm1")
    fake.stop()
    # Killed between the start of the process, for which the next run's number is recorded first, and the removal of
    # the save.
    vm = fake.state / "vms/vm1"
    (vm / "managed.save").rename(vm / "managed.save.used")
    end = (vm / "end").read_bytes()
    (vm / "end").write_bytes((end[:4088] if ran else bytes(4088)) + struct.pack("<QQ", 2 if ran else 1, 2))
    fake.start()
    if not ran:
        assert fake.cairn("domstate", "--reason", "vm1").stdout == "saved (failed)\n"
        fake.cairn("start", "vm1")
        assert fake.cairn("domstate", "--reason", "vm1").stdout == "running (restored)\n"
        return
    assert fake.cairn("domstate", "vm1").stdout == "shut off\n"
    assert "The next start does not use the save" in fake.log.read_text()
    fake.cairn("restore", str(vm / "managed.save.used"))
    assert fake.cairn("domstate", "--reason", "vm1").stdout == "running (restored)\n"
    fake.cairn("destroy", "vm1")
    fake.cairn("start", "vm1")
    assert fake.cairn("domstate", "--reason", "vm1").stdout == "running (booted)\n"


# ---- jobs ----

def test_save_job_sends_events_and_result(fake):
    fake.define("vm1", cmdline=f"work-until={fake.tmp}/go")
    q = fake.qmp()
    q.run("vm-start", vm="vm1")
    assert q.run("vm-managed-save", vm="vm1", job_id="my.job-1") == {"job": "my.job-1"}
    assert [e["data"]["status"] for e in q.events if e["event"] == "JOB_STATUS_CHANGE"] == [
        "created", "running"]
    begun = time.monotonic_ns()
    j = q.run("query-jobs")[0]
    assert (j["id"], j["type"], j["status"], j["vm"]) == ("my.job-1", "managed-save", "running", "vm1")
    assert q.run("vm-info", vm="vm1")["job"] == "my.job-1"
    ev = q.event("JOB_PROGRESS", id="my.job-1")["data"]
    assert 0 <= ev["done"] <= ev["total"] and ev["rate"] >= 0 and ev["unit"] == "bytes"
    least = time.monotonic_ns() - begun
    (fake.tmp / "go").touch()
    for s in ("waiting", "pending", "concluded"):
        q.event("JOB_STATUS_CHANGE", id="my.job-1", status=s, vm="vm1")
    j = q.run("query-jobs", id="my.job-1")[0]
    assert j["status"] == "concluded" and "error" not in j and j["duration"] > least
    with pytest.raises(QmpError, match="cannot accept command verb 'cancel'"):
        q.run("job-cancel", id="my.job-1")
    fake.stop()
    fake.start()  # the result still exists
    q = fake.qmp()
    again, = q.run("query-jobs")
    assert again == j
    q.run("job-dismiss", id="my.job-1")
    assert q.run("query-jobs") == []
    with pytest.raises(QmpError, match="there is no job"):
        q.run("job-dismiss", id="my.job-1")


@pytest.mark.parametrize("key, change", [("started", -86400 * 10**9), ("started", 2 * 86400 * 10**9),
                                         ("duration", 2**63 - 2**32), ("duration", 2 * 86400 * 10**9)])
def test_job_results_expire_without_daemon(fake, key, change):
    """A result dated days ahead is damaged, and would never expire."""
    fake.define("vm1", cmdline="work-fails")
    fake.cairn("start", "vm1")
    for n in (1, 2):
        fake.cairn("managedsave", "vm1", "--no-wait")
        until(lambda: [j["status"] for j in jobs(fake)] == ["concluded"] * n)
    fake.stop()
    path = fake.state / "jobs.json"
    file = json.loads(path.read_text())
    file["jobs"][0][key] += change
    path.write_text(json.dumps(file))
    fake.start()
    assert [j["id"] for j in jobs(fake)] == [file["jobs"][1]["id"]]


def test_conflicting_jobs_are_refused(fake, tmp_path):
    fake.define("vm1", cmdline=f"work-until={fake.tmp}/never")
    fake.cairn("start", "vm1")
    id = fake.cairn("managedsave", "--no-wait", "vm1").stdout.strip()
    r = fake.cairn("save", "vm1", str(tmp_path / "s"), ok=6)
    assert f"job {id} (managed-save) is under way" in r.stderr and f"cairn job-cancel {id}" in r.stderr
    assert not (tmp_path / "s").exists()
    q = fake.qmp()
    with pytest.raises(QmpError, match="cannot accept command verb 'dismiss'"):
        q.run("job-dismiss", id=id)
    assert fake.cairn("domstate", "--reason", "vm1").stdout == "paused (saving)\n"
    assert fake.cairn("job-cancel", id).stdout == f"Job {id} is being cancelled\n"
    q.event("JOB_STATUS_CHANGE", id=id, status="aborting")
    q.event("JOB_STATUS_CHANGE", id=id, status="concluded")
    assert fake.cairn("domstate", "vm1").stdout == "running\n"
    table = fake.cairn("jobs").stdout
    assert table.startswith(" Id     Domain   Type           Status      Progress   Error\n")
    assert f" {id}   vm1      managed-save   concluded   " in table and "the job was cancelled" in table
    assert jobs(fake)[0]["error-class"] == "Cancelled"
    fake.cairn("job-dismiss", id)
    assert not kept(fake, "managed.save") and not kept(fake, "managed.save.tmp")


def test_job_ids_are_checked_and_unique(fake):
    fake.define("vm1", cmdline="work-fails")
    q = fake.qmp()
    q.run("vm-start", vm="vm1")
    for bad in ("", "a b", "x" * 64, "a/b", "ä"):
        with pytest.raises(QmpError, match="job-id: 1 to 63"):
            q.run("vm-managed-save", vm="vm1", job_id=bad)
    q.run("vm-managed-save", vm="vm1", job_id="a")
    q.event("JOB_STATUS_CHANGE", id="a", status="concluded")
    with pytest.raises(QmpError) as e:
        q.run("vm-managed-save", vm="vm1", job_id="a")
    assert e.value.cls == "AlreadyExists" or "there is a job" in e.value.desc
    assert q.run("vm-info", vm="vm1")["state"] == "running"


def save_fails(q):
    id = q.run("vm-managed-save", vm="vm1")["job"]
    return q.event("JOB_STATUS_CHANGE", id=id, status="concluded")["data"]


def test_number_of_kept_results_is_bounded(fake):
    fake.define("vm1", cmdline="work-fails")
    q = fake.qmp()
    q.run("vm-start", vm="vm1")
    save_fails(q)
    fake.stop()
    path = fake.state / "jobs.json"
    file = json.loads(path.read_text())
    one, = file["jobs"]
    path.write_text(json.dumps({**file, "jobs": [one, *[{**one, "id": f"former{n}"} for n in range(254)]]}))
    fake.start()
    q = fake.qmp()
    for _ in range(3):
        last = save_fails(q)["id"]
    ids = [j["id"] for j in json.loads(fake.cairn("jobs", "--format", "json").stdout)]
    assert (len(ids), ids[0], ids[-1]) == (256, "former1", last)
    assert fake.cairn("jobs").stdout.splitlines()[-2].split()[0] == last


@pytest.mark.seconds(120)  # each result is written
def test_last_results_are_left_after_a_restart(fake):
    """64. The event log, which has the ends of the others, too, does not bring them back."""
    fake.define("vm1", cmdline="work-fails")
    q = fake.qmp()
    q.run("vm-start", vm="vm1")
    ids = [save_fails(q)["id"] for _ in range(70)]
    assert [j["id"] for j in q.jobs()] == ids
    for _ in range(2):
        fake.stop()
        fake.start()
        assert [j["id"] for j in fake.qmp().jobs()] == ids[-64:]


def test_event_of_the_end_has_the_error(fake):
    """A client need not ask for a result that others may displace."""
    fake.define("vm1", cmdline="work-fails")
    q = fake.qmp()
    q.run("vm-start", vm="vm1")
    end = save_fails(q)
    entry, = q.jobs()
    assert (end["error"], end["error-class"]) == (entry["error"], entry["error-class"]) != (None, None)


def test_job_that_the_event_log_has_forgotten_is_not_lost(fake):
    """The log keeps 10,000 events. A job of before them is in jobs.json."""
    go = fake.tmp / "go"
    fake.define("long", cmdline=f"work-until={go}")
    fake.define("vm1", cmdline="work-fails")
    q = fake.qmp()
    for name in ("long", "vm1"):
        q.run("vm-start", vm=name)
    long = q.run("vm-managed-save", vm="long", job_id="long")["job"]
    save_fails(q)  # jobs.json is written at the end of a job
    pid, path = fake.info("long")["pid"], fake.state / "jobs.json"
    until(path.exists)
    fake.stop(signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    file = json.loads(path.read_text())
    assert [j["id"] for j in file["unfinished"]] == [long]
    log = fake.state / "events.jsonl"
    log.write_text("".join(line + "\n" for line in log.read_text().splitlines() if '"long"' not in line))
    fake.start()
    job, = [j for j in fake.qmp().jobs() if j["id"] == long]
    assert job["status"] == "concluded" and "the daemon ended while the job was under way" in job["error"]
    told = [e["data"]["status"] for e in fake.qmp().run("query-events")["events"] if e["data"].get("id") == long]
    assert told == ["aborting", "concluded"]


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGTERM])
def test_save_fails_when_vm_dies(fake, sig):
    fake.define("vm1", cmdline=f"work-until={fake.tmp}/never")
    q = fake.qmp()
    q.run("vm-start", vm="vm1")
    id = q.run("vm-managed-save", vm="vm1")["job"]
    if sig == signal.SIGKILL:
        os.kill(q.run("vm-info", vm="vm1")["pid"], sig)
    else:
        q.run("vm-destroy", vm="vm1")
    q.event("JOB_STATUS_CHANGE", id=id, status="concluded")
    assert q.run("query-jobs", id=id)[0]["error"]
    assert fake.info("vm1")["word"] == ("crashed" if sig == signal.SIGKILL else "shutoff")
    assert not kept(fake, "managed.save") and not kept(fake, "managed.save.tmp")


def test_save_shows_progress_and_ctrl_c_cancels(fake):
    fake.define("vm1", cmdline="work-takes=1000")
    fake.cairn("start", "vm1")
    pid, fd = terminal(fake, "managedsave", "vm1")
    out = read_until(fd, b"state saved by cairn")
    assert b"\rManagedsave: [" in out and b" %" in out and b"MiB/s" in out
    bars = [bar.rstrip() for bar in out.partition(b"\n")[0].split(b"\r") if bar.strip()]
    assert bars[-1] == b"Managedsave: [" + 30 * b"=" + b"] 100 %" and len(bars) > 1  # not the last reported progress
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(fd)
    fake.define("vm1", cmdline="work-takes=60000")
    fake.cairn("managedsave-remove", "vm1")
    fake.cairn("start", "vm1")
    pid, fd = terminal(fake, "managedsave", "vm1")
    read_until(fd, b"%")
    os.write(fd, b"\x03")
    assert b"error: the job was cancelled" in read_until(fd, b"was cancelled")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGINT
    os.close(fd)
    assert fake.cairn("domstate", "vm1").stdout == "running\n"


@pytest.mark.parametrize("verb", ["save", "dump"])
def test_file_gets_its_name_although_the_terminal_is_gone(fake, tmp_path, verb):
    fake.define("vm1", cmdline="work-takes=1000")
    fake.cairn("start", "vm1")
    folder = tmp_path / "files"
    folder.mkdir()
    p = subprocess.Popen([os.path.join(BUILD, "cairn"), verb, "vm1", str(folder / "file")], env=fake.env, stdin=subprocess.DEVNULL)
    until(lambda: os.listdir(folder))
    p.send_signal(signal.SIGHUP)
    assert p.wait(50 * guestlib.SLOW) == 0 and os.listdir(folder) == ["file"]


def test_managed_save_of_one_vm_prints_json(fake):
    fake.define("vm1")
    fake.cairn("start", "vm1")
    for verb in ("managedsave", "managedsave-remove"):
        out, = json.loads(fake.cairn(verb, "vm1", "--format", "json").stdout)
        assert (out["name"], out["outcome"]) == ("vm1", "done")
    assert json.loads(fake.cairn("managedsave-remove", "vm1", "--format", "json").stdout) == []
    assert fake.cairn("managedsave", "nope", "--format", "json", ok=3).stdout.startswith("[")


@pytest.mark.parametrize("verb", ["save", "dump"])
@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_file_is_removed_when_a_signal_ends_the_verb(fake, tmp_path, verb, sig):
    fake.define("vm1", cmdline="work-takes=60000")
    fake.cairn("start", "vm1")
    folder = tmp_path / "files"
    folder.mkdir()
    p = subprocess.Popen([os.path.join(BUILD, "cairn"), verb, "vm1", str(folder / "file")], env=fake.env, stdin=subprocess.DEVNULL,
                         stderr=subprocess.PIPE, text=True)
    until(lambda: os.listdir(folder))
    p.send_signal(sig)  # also before the job has begun
    assert "the job was cancelled" in p.communicate(timeout=50 * guestlib.SLOW)[1] and p.returncode == (1 if sig == signal.SIGTERM else -sig)
    assert not os.listdir(folder) and fake.cairn("domstate", "vm1").stdout == "running\n"


def test_save_and_restore_pass_files_over_the_socket(fake, tmp_path):
    fake.define("vm1")
    q = fake.qmp()
    q.run("vm-start", vm="vm1")
    with pytest.raises(QmpError, match="needs a file"):
        q.run("vm-save", vm="vm1")
    fds = f"/proc/{fake.proc.pid}/fd"
    before = len(os.listdir(fds))
    full = tmp_path / "full"
    full.write_text("x")
    pipe = os.pipe()
    for fd, words in ((os.open(full, os.O_RDWR), "not empty"), (pipe[1], "regular file"),
                      (os.open(tmp_path, os.O_RDONLY), "regular file"),
                      (os.open(tmp_path / "r", os.O_RDONLY | os.O_CREAT), "reading and writing"),
                      (os.open(tmp_path / "r", os.O_RDWR | os.O_APPEND), "appending")):
        with pytest.raises(QmpError, match=words):
            run_with_fd(q, "vm-save", fd, vm="vm1")
        os.close(fd)
    os.close(pipe[0])
    # Unexpected fds, on commands that take none.
    for _ in range(100):
        fd = os.open(full, os.O_RDONLY)
        run_with_fd(q, "query-version", fd)
        os.close(fd)
    until(lambda: len(os.listdir(fds)) <= before + 3)  # those of the process that holds the last file
    fd = os.open(tmp_path / "s", os.O_RDWR | os.O_CREAT)
    id = run_with_fd(q, "vm-save", fd, vm="vm1")["job"]
    q.event("JOB_STATUS_CHANGE", id=id, status="concluded")
    with pytest.raises(QmpError, match="regular file"):
        run_with_fd(q, "vm-restore", os.open(tmp_path, os.O_RDONLY),
                    definition=json.loads(fake.cairn("dumpjson", "vm1").stdout))


# ---- with KVM ----

class Console:
    """Commands to the interpreter of a VM, on the socket that the daemon hands out."""

    def __init__(self, q, vm):
        q.run("vm-console", vm=vm, history=False)
        self.sock = socket.socket(fileno=q.fds.pop())
        self.sock.settimeout(30)

    def command(self, text):
        self.sock.sendall(text.encode() + b"\n")
        got = b""
        while not got.endswith((b"ok\n", b"ok\r\n")) and b"\nerr " not in b"\n" + got:
            data = self.sock.recv(65536)
            assert data, got
            got += data
        assert b"err " not in got, got
        return got


def ready(q):
    """Wait until the guest says that it listens."""
    q.run("vm-console", vm="vm1")
    with socket.socket(fileno=q.fds.pop()) as s:
        s.settimeout(30)
        got = b""
        while b"interp" not in got:
            data = s.recv(65536)
            assert data, got
            got += data


FILLS = [(f"{gpa:#x} 0x300000 {seed}") for seed, gpa in enumerate((0x800000, 0x1000000, 0x1800000))]


@pytest.fixture
def filled(daemon, kvm, guest):
    """A real VM whose memory is a function of address and seed."""
    daemon.define("vm1", boot={"kernel": guest("interp.elf")}, debug_exit=True)
    daemon.cairn("start", "vm1")
    q = daemon.qmp()
    ready(q)
    c = Console(q, "vm1")
    for f in FILLS:
        c.command("fill " + f)
    return q


def check(q):
    c = Console(q, "vm1")
    for f in FILLS:
        c.command("check " + f)
    return c


def test_restored_vm_has_its_memory(daemon, filled, tmp_path):
    f = str(tmp_path / "saved.vm")
    daemon.cairn("save", "vm1", f)
    assert daemon.cairn("domstate", "--reason", "vm1").stdout == "shut off (saved)\n"
    # Sparse: zero pages take no space.
    assert os.stat(f).st_blocks * 512 < 16 << 20
    # Restore twice: the second restore also brings back memory that was changed after the first.
    for options in ([], ["--eager"]):
        daemon.cairn("restore", f, *options)
        check(filled).command("fill 0x1000000 0x300000 77")
        daemon.cairn("destroy", "vm1")


def test_vm_that_was_saved_paused_is_restored_paused(daemon, filled, tmp_path):
    f = str(tmp_path / "saved.vm")
    daemon.cairn("suspend", "vm1")
    daemon.cairn("save", "vm1", f)
    daemon.cairn("restore", f)
    assert daemon.cairn("domstate", "--reason", "vm1").stdout == "paused (restored)\n"
    daemon.cairn("destroy", "vm1")
    assert "exclude each other" in daemon.cairn("restore", "--running", "--paused", f, ok=2).stderr
    daemon.cairn("restore", "--running", f)
    assert daemon.cairn("domstate", "--reason", "vm1").stdout == "running (restored)\n"
    check(filled)


def test_client_of_a_killed_daemon_learns_where_the_saved_state_is(daemon, filled, tmp_path):
    """The VM's process continues the save, and the state is complete."""
    pid = daemon.info("vm1")["pid"]
    os.kill(pid, signal.SIGSTOP)
    save = subprocess.Popen([f"{BUILD}/cairn", "save", "vm1", tmp_path / "saved.vm"], env=daemon.env, stderr=subprocess.PIPE,
                            text=True)
    until(lambda: any(j["status"] == "running" for j in filled.run("query-jobs")))
    daemon.stop(signal.SIGKILL)
    said = save.communicate(timeout=60)[1]
    written = re.search(r"error: Next: cairn restore (\S+)\n", said)[1]
    assert 'says "shut off (saved)", the state is in ' + written in said and not (tmp_path / "saved.vm").exists()
    os.kill(pid, signal.SIGCONT)
    until(lambda: has_ended(pid))
    daemon.start()
    assert daemon.cairn("domstate", "--reason", "vm1").stdout == "shut off (saved)\n"
    check_success(daemon, jobs(daemon)[0]["id"])
    daemon.cairn("restore", written)
    check(daemon.qmp())


def test_managed_save_of_a_real_vm_outlives_the_daemon(daemon, filled):
    daemon.cairn("managedsave", "vm1")
    daemon.stop(signal.SIGKILL)
    daemon.start()
    assert daemon.cairn("domstate", "vm1").stdout == "saved\n"
    daemon.cairn("start", "vm1")
    check(daemon.qmp())
    daemon.cairn("managedsave", "--paused", "vm1")
    daemon.cairn("start", "vm1")
    assert daemon.cairn("domstate", "vm1").stdout == "paused\n"
    daemon.cairn("resume", "vm1")
    check(daemon.qmp())


def test_state_file_is_closed_when_memory_is_loaded(daemon, filled, tmp_path):
    """Otherwise the deleted file would occupy space while the VM runs."""
    f = str(tmp_path / "saved.vm")
    daemon.cairn("save", "vm1", f)
    daemon.cairn("restore", f)
    pid = daemon.info("vm1")["pid"]
    until(lambda: not [x for x in open_files(pid) if x.startswith(f)])
    check(filled)
    daemon.cairn("destroy", "vm1")


def test_damaged_state_is_refused(daemon, filled, tmp_path):
    f = tmp_path / "saved.vm"
    daemon.cairn("save", "vm1", str(f))
    good = f.read_bytes()
    for at in (100, 4200, 5000, (12 << 20) + 4200):  # header, sections, definition
        bad = bytearray(good)
        bad[at] ^= 0x10
        f.write_bytes(bad)
        r = daemon.cairn("restore", str(f), ok=None)
        assert r.returncode != 0 and r.stderr.startswith("error: Failed to restore domain from")
        assert daemon.info("vm1")["state"] == "shutoff"
    until(lambda: not daemon.children())
    f.write_bytes(good)
    daemon.cairn("restore", str(f))
    check(filled)


def test_managed_save_of_another_vm_is_refused(daemon, kvm, guest):
    """The start compares the uuid in the saved state with the VM's."""
    for name in ("vm1", "vm2"):
        daemon.define(name, memory="8M", boot={"kernel": guest("first_byte.elf")})
        daemon.cairn("start", name)
        daemon.cairn("managedsave", name)
    one, two = (next((daemon.state / "vms" / name).glob("managed*")) for name in ("vm1", "vm2"))
    one.write_bytes(two.read_bytes())
    assert "the saved state belongs to another VM" in daemon.cairn("start", "vm1", ok=False).stderr
    assert daemon.cairn("domstate", "vm1").stdout == "saved\n"
    daemon.cairn("start", "vm2")
    # The refused process may take a moment to end; until then a start is refused.
    until(lambda: daemon.cairn("start", "vm1", "--force-boot", ok=None).returncode == 0)
