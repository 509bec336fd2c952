"""Shared folders: Linux mounts them by virtio-fs; snapshots while one is mounted are refused; cairn-share is confined,
has the rights of the user who added the folder, and ends with its VM, which outlives it."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import tempfile

import pytest

import guestlib
from conftest import BUILD, Daemon, Qmp, status_confined, until
from forklib import image
from otherslib import NOBODY, run_as_user
from test_linux import begin, slow_kernel

KIND = guestlib.host_kind()
pytestmark = [pytest.mark.skipif(KIND == "none", reason="no usable /dev/kvm"), pytest.mark.seconds(1500)]


def servers(folder):
    """Return the pids of the cairn-share processes of a folder."""
    pids = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if pathlib.Path(f"/proc/{pid}/comm").read_text() == "cairn-share\n" and os.readlink(f"/proc/{pid}/fd/4") == str(folder):
                pids.append(int(pid))
    return pids


def ended(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def fnv1a64(data):
    h = 0xcbf29ce484222325
    for b in data:
        h = (h ^ b) * 0x100000001b3 & (1 << 64) - 1
    return f"fnv1a64 {h:016x} {len(data)}"


def fails(console, command, why):
    with pytest.raises(AssertionError, match=why):
        console.run(command)


@pytest.fixture
def folders(tmp_path):
    """A folder `read` with a file, a link out of it and 300 more files; an empty one, `write`; a secret beside them."""
    for name in ("read", "write"):
        (tmp_path / name).mkdir()
    (tmp_path / "secret").write_text("outside\n")
    (tmp_path / "read" / "file").write_bytes(os.urandom(300000))
    (tmp_path / "read" / "link").symlink_to("../secret")
    (tmp_path / "read" / "many").mkdir()
    for i in range(300):
        (tmp_path / "read" / "many" / f"file-{i}").touch()
    return tmp_path


def shares_of(tmp):
    return [{"path": str(tmp / "read"), "tag": "data"}, {"path": str(tmp / "write"), "tag": "out", "readonly": False}]


def check_read_only_share(console, tmp):
    console.run("mount data /mnt virtiofs")
    assert console.run("sum /mnt/file") == [fnv1a64((tmp / "read" / "file").read_bytes())]
    assert len(console.run("ls /mnt/many")) == 300
    assert console.run("stat /mnt/link")[0] == "type l"
    fails(console, "read /mnt/link", "No such file")  # the guest has no /secret
    for command in ("write /mnt/file x", "write /mnt/new x", "mkdir /mnt/new", "rm /mnt/file", "mv /mnt/file /mnt/new", "ln a /mnt/new"):
        fails(console, command, "Read-only file system")
    (tmp / "read" / "late").write_text("from the host\n")
    assert console.run("read /mnt/late") == ["from the host"]


def check_writable_share(console, tmp):
    out = tmp / "write"
    console.run("mount out /tmp/out virtiofs")
    console.run("write /tmp/out/note from the guest")  # and fsync
    assert (out / "note").read_text() == "from the guest\n" and (out / "note").stat().st_uid == os.geteuid()
    console.run("fill /tmp/out/data 0 512K 7")
    console.run("verify /tmp/out/data 0 512K 7")
    console.run("mkdir /tmp/out/sub")
    console.run("mv /tmp/out/note /tmp/out/sub/note")
    assert (out / "sub" / "note").read_text() == "from the guest\n"
    console.run("ln ../secret /tmp/out/link")
    assert os.readlink(out / "link") == "../secret"
    fails(console, "read /tmp/out/link", "No such file")
    console.run("rm /tmp/out/data")
    assert sorted(os.listdir(out)) == ["link", "sub"]


def check_refused_while_mounted(daemon, tmp):
    for command in (("snapshot-create-as", "linux", "s1"), ("managedsave", "linux"), ("save", "linux", str(tmp / "saved")),
                    ("clone", "--live", "linux", "copy"), ("restart-process", "linux")):
        r = daemon.cairn(*command, ok=False)
        assert "the guest uses the shared folder 'data'" in r.stderr and "umount" in r.stderr, (command, r.stderr)
    assert daemon.info("linux")["state"] == "running"


@slow_kernel
def test_linux_mounts_shares(daemon, folders):
    """One start of Linux serves all checks, because a start is slow."""
    console = begin(daemon, shares=shares_of(folders), disks=[image(folders / "a.qcow2")])
    check_read_only_share(console, folders)
    check_refused_while_mounted(daemon, folders)
    check_writable_share(console, folders)
    console.run("umount /tmp/out")
    console.run("umount /mnt")
    daemon.cairn("snapshot-create-as", "linux", "s1")
    daemon.cairn("restart-process", "linux")
    console.run("mount data /mnt virtiofs")
    # A revert to a snapshot from before the mount: the guest has not mounted the folder, and can.
    daemon.cairn("snapshot-revert", "linux", "s1")
    assert console.run("ls /mnt") == []
    console.run("mount data /mnt virtiofs")
    assert console.run("read /mnt/late") == ["from the host"]
    pid, = servers(folders / "read")
    os.kill(pid, signal.SIGKILL)
    until(lambda: "the process that serves the folder has ended" in daemon.log_of("linux"))
    fails(console, "read /mnt/file", "not connected")
    console.run("mount out /tmp/out virtiofs")
    assert console.run("read /tmp/out/sub/note") == ["from the guest"]
    console.run("umount /tmp/out")
    console.run("umount /mnt")
    daemon.cairn("clone", "--live", "linux", "copy")


def start_bare(daemon, guest, shares, **keys):
    daemon.define("src", memory="16M", boot={"kernel": guest("interp.elf")}, shares=shares, **keys)
    return daemon.cairn("start", "src", ok=None)


def check_confined(pid, uid):
    status = status_confined(pid)
    assert status["Uid"].split() == [str(uid)] * 4 and int(status["CapPrm"], 16) == int(status["CapEff"], 16) == 0
    if not guestlib.SANITIZED:
        assert status["Seccomp"] == "2" and status["NoNewPrivs"] == "1"
        assert os.stat(f"/proc/{pid}/maps").st_uid == 0  # not dumpable


def test_process_is_confined_and_ends_with_the_vm(daemon, kvm, guest, folders):
    start_bare(daemon, guest, shares_of(folders))
    pids = servers(folders / "read") + servers(folders / "write")
    assert len(pids) == 2
    for pid in pids:
        check_confined(pid, os.geteuid())
    daemon.cairn("restart-process", "src")
    assert servers(folders / "read") == pids[:1]
    daemon.cairn("destroy", "src")
    until(lambda: all(map(ended, pids)))


@pytest.mark.parametrize("share, said", [
    ({"path": "nowhere", "tag": "a"}, "No such file"), ({"path": "secret", "tag": "a"}, "is not a folder"),
    ({"path": "read/link", "tag": "a"}, "is not a folder")])
def test_what_is_no_folder_fails_the_start(daemon, kvm, guest, folders, share, said):
    share["path"] = str(folders / share["path"])
    r = start_bare(daemon, guest, [share])
    assert r.returncode and "shares[0].path" in r.stderr and said in r.stderr
    assert servers(folders / "read") == []


@pytest.mark.parametrize("shares, said", [
    ([{"path": "/srv"}], "shares[0]: tag: is missing"), ([{"tag": "a"}], "shares[0]: path: is missing"),
    ([{"path": "/srv", "tag": "x" * 37}], "at most 36"), ([{"path": "/srv", "tag": "a"}] * 2, "is also the tag of shares[0]"),
    ([{"path": "/srv", "tag": "a", "writable": True}], '"writable" is not a key'), ({}, "must be an array"),
    ([{"path": "/srv", "tag": str(i)} for i in range(9)], "at most 8"), ([{"path": "/srv", "tag": "a\nb"}], "control characters")])
def test_wrong_definitions_are_refused(daemon, guest, tmp_path, shares, said):
    d = {"name": "a", "memory": "16M", "boot": {"kernel": guest("interp.elf")}, "shares": shares}
    (tmp_path / "a.json").write_text(json.dumps(d))
    assert said in daemon.cairn("define", str(tmp_path / "a.json"), ok=False).stderr


def test_libvirts_words(daemon, guest, folders):
    daemon.define("src", memory="16M", boot={"kernel": guest("interp.elf")}, shares=shares_of(folders))
    xml = daemon.cairn("dumpxml", "src").stdout
    assert f"<source dir='{folders}/read'/>" in xml and "<target dir='data'/>" in xml and xml.count("<readonly/>") == 1
    (folders / "a.xml").write_text(xml)
    daemon.cairn("undefine", "src")
    daemon.cairn("define", str(folders / "a.xml"))
    assert daemon.cairn("dumpxml", "src").stdout == xml


@pytest.fixture
def reached(kvm):
    """A daemon that other users reach. The folder `own` belongs to nobody, and `closed` to root alone."""
    if os.geteuid():
        pytest.skip("needs root, to be somebody else")
    with tempfile.TemporaryDirectory(prefix="share-") as name:
        folder = pathlib.Path(name)
        folder.chmod(0o711)
        for program in ("cairn-archive", "cairn-share", "guests/interp.elf"):
            shutil.copy(os.path.join(BUILD, program), folder)
        (folder / "own").mkdir(0o700)
        os.chown(folder / "own", NOBODY, NOBODY)
        (folder / "closed").mkdir(0o700)
        d = Daemon(folder, env={"CAIRN_LIBEXEC": name})
        yield d
        d.close()


@pytest.mark.parametrize("folder", ["own", "closed", "readable"])
def test_rights_are_those_of_the_user(reached, folder):
    """cairn-share of a user's VM runs as this user, and a folder that the user cannot read, or write to, is not
    shared."""
    (reached.tmp / "readable").mkdir()
    (reached.tmp / "readable").chmod(0o755)
    def define(say):
        Qmp(reached.socket).run("vm-define", definition={
            "name": "theirs", "memory": "32M", "boot": {"kernel": str(reached.tmp / "interp.elf")},
            "shares": [{"path": str(reached.tmp / folder), "tag": "a", "readonly": False}]})
        say(True)
    reached.cairn("grant", "admin", "--user", "nobody")
    assert run_as_user(define) == [True]
    r = reached.cairn("start", "theirs", ok=None)
    if folder == "closed":
        assert r.returncode and f"shares[0].path: {reached.tmp}/closed: Permission denied" in r.stderr and "readonly" not in r.stderr
        return
    if folder == "readable":
        assert r.returncode == 5 and f"shares[0].path: {reached.tmp}/readable: the user may read it, but not write to it" in r.stderr
        assert 'set its "readonly" to true' in r.stderr and f"{reached.tmp}/readable:/PLACE:ro" in r.stderr
        return
    pid, = servers(reached.tmp / folder)
    check_confined(pid, NOBODY)
