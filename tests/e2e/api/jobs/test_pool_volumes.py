"""Volumes of pools by the daemon's commands. The files are touched with the rights of the client."""

import json
import os
import shutil
import signal
import stat
import struct
import subprocess

import pytest

from conftest import BUILD, FAKE_VM, Daemon, QmpError, until
from test_daemon import NOBODY, as_nobody, shared  # noqa: F401

MIB = 1 << 20


@pytest.fixture
def pool(fake):
    folder = fake.tmp / "images"
    folder.mkdir()
    fake.cairn("pool-define-as", "images", "dir", "--target", str(folder))
    return folder


@pytest.fixture
def q(fake, pool):
    q = fake.qmp()
    yield q
    q.close()


def volumes(q, pool="images"):
    """All volumes by name, page by page."""
    found, after = {}, {}
    while True:
        page = q.run("query-volumes", pool=pool, **after)
        for v in page["volumes"]:
            assert v["name"] not in found
            found[v["name"]] = v
        if "next" not in page:
            return found
        after = {"after": page["next"]}


def refused(q, words, command, **args):
    with pytest.raises(QmpError) as e:
        q.run(command, pool=args.pop("pool", "images"), **args)
    assert words in e.value.desc, e.value.desc
    return e.value.cls


def image(path):
    return json.loads(subprocess.check_output([os.path.join(BUILD, "cairn-img"), "info", "--output", "json", str(path)]))


def test_volumes_are_created_listed_cloned_resized_and_deleted(q, pool):
    q.run("volume-create", pool="images", name="a.qcow2", capacity=10 * MIB)
    q.run("volume-create", pool="images", name="b.raw", capacity=MIB, format="raw")
    assert stat.S_IMODE((pool / "b.raw").stat().st_mode) == 0o600
    (pool / "b.raw").write_bytes(b"data" * (MIB // 4))
    subprocess.run([os.path.join(BUILD, "cairn-img"), "create", "-q", "-f", "qcow2", "-b", "a.qcow2", "-F", "qcow2", "c.qcow2"], cwd=pool, check=True)
    (pool / ".hidden").touch()
    (pool / "folder").mkdir()
    os.mkfifo(pool / "fifo")
    os.symlink("a.qcow2", pool / "link")
    (pool / "bad\udcff").touch()
    (pool / "tab\t").touch()
    v = volumes(q)
    assert list(v) == ["a.qcow2", "b.raw", "c.qcow2"]
    assert v["a.qcow2"] == {"name": "a.qcow2", "format": "qcow2", "capacity": 10 * MIB, "allocation": v["a.qcow2"]["allocation"], "vms": []}
    assert v["b.raw"]["format"] == "raw" and v["b.raw"]["capacity"] == MIB == v["b.raw"]["allocation"]
    assert v["c.qcow2"]["backing"] == "a.qcow2"
    q.run("volume-clone", pool="images", name="b.raw", new_name="d.raw")
    assert (pool / "d.raw").read_bytes() == (pool / "b.raw").read_bytes()
    q.run("volume-resize", pool="images", name="a.qcow2", capacity=20 * MIB)
    assert image(pool / "a.qcow2")["virtual-size"] == 20 * MIB
    refused(q, "whose end would be lost", "volume-resize", name="d.raw", capacity=MIB // 2)
    q.run("volume-resize", pool="images", name="d.raw", capacity=MIB // 2, shrink=True)
    assert (pool / "d.raw").stat().st_size == MIB // 2
    refused(q, "a.qcow2 is the backing file of c.qcow2; delete that first", "volume-delete", name="a.qcow2")
    for name in ("c.qcow2", "a.qcow2"):
        q.run("volume-delete", pool="images", name=name)
    assert list(volumes(q)) == ["b.raw", "d.raw"]


def test_vms_of_a_volume_are_shown_and_keep_it(fake, q, pool):
    for name in ("a.raw", "b.raw"):
        (pool / name).write_bytes(bytes(MIB))
    for i in range(10):
        fake.define(f"vm{i}", disks=[{"path": str(pool / "a.raw"), "format": "raw", "readonly": True}])
    os.symlink(pool, fake.tmp / "other")
    fake.define("web1", disks=[{"path": str(fake.tmp / "other/b.raw"), "format": "raw"}])
    assert volumes(q)["a.raw"]["vms"] == [f"vm{i}" for i in range(8)]
    refused(q, "is an image of VM 'vm0'; detach the disk or undefine the VM first", "volume-delete", name="a.raw")
    refused(q, "is an image of VM 'web1'", "volume-delete", name="b.raw")
    # What a running VM has counts until it ends, whatever the definition of its next start has.
    fake.cairn("start", "web1")
    fake.define("web1", was=None)
    refused(q, "is an image of VM 'web1'", "volume-delete", name="b.raw")
    fake.cairn("destroy", "web1")
    q.run("volume-delete", pool="images", name="b.raw")


def test_header_of_an_image_in_use_does_not_count(fake, q, pool):
    """A guest may write a qcow2 header into its raw disk, with any file of the host as its backing file."""
    secret = fake.tmp / "secret"
    secret.write_bytes(b"secret" * 1000)
    backing = str(secret).encode()
    header = struct.pack(">IIQIIQ", 0x514649FB, 2, 72, len(backing), 16, MIB).ljust(72, b"\0") + backing
    (pool / "disk").write_bytes(header.ljust(MIB, b"\0"))
    assert volumes(q)["disk"]["format"] == "qcow2" and volumes(q)["disk"]["backing"] == str(secret)
    fake.define("vm1", disks=[{"path": str(pool / "disk"), "format": "raw"}])
    shown = volumes(q)["disk"]
    assert shown["format"] == "raw" and "backing" not in shown and shown["capacity"] == MIB
    q.run("volume-clone", pool="images", name="disk", new_name="copy")
    assert (pool / "copy").read_bytes() == (pool / "disk").read_bytes()


def test_volumes_of_a_large_pool_are_listed_page_by_page(q, pool):
    names = sorted(f"{i:03}".ljust(100, "é") for i in range(300))
    for name in names:
        (pool / name).touch()
    assert list(volumes(q)) == names
    (pool / "zz").touch()
    subprocess.run([os.path.join(BUILD, "cairn-img"), "create", "-q", "-f", "qcow2", "zz-top", "1M"], cwd=pool, check=True)
    assert list(volumes(q))[-2:] == ["zz", "zz-top"]


def test_bad_requests_get_a_sentence_and_lose_nothing(fake, q, pool):
    (pool / "a").write_bytes(b"a" * 4096)
    for command, args in (("query-volumes", {}), ("volume-create", {"name": "b", "capacity": 1}), ("volume-delete", {"name": "a"})):
        assert refused(q, "there is no pool 'nope'. Next: cairn pool-list", command, pool="nope", **args) == "NotFound"
    for name in ("../a", "a/b", "", ".a", "-a", "a\n", "a" * 256):
        refused(q, "is no name of a volume; give a file's name without a folder", "volume-delete", name=name)
        refused(q, "is no name of a volume", "volume-clone", name="a", new_name=name)
    refused(q, "File exists", "volume-create", name="a", capacity=MIB)
    refused(q, "File exists", "volume-clone", name="a", new_name="a")
    refused(q, "No such file", "volume-clone", name="nope", new_name="b")
    refused(q, "No such file", "volume-delete", name="nope")
    refused(q, "format: must be qcow2 or raw", "volume-create", name="b", capacity=MIB, format="vmdk")
    refused(q, "backing-format: must be qcow2 or raw", "volume-create", name="b", capacity=MIB, backing="a", backing_format="vmdk")
    refused(q, "backing-format: there is no backing", "volume-create", name="b", capacity=MIB, backing_format="raw")
    refused(q, "preallocation: must be off, metadata, falloc or full", "volume-create", name="b", capacity=MIB, preallocation="some")
    refused(q, "a raw image has no backing file", "volume-create", name="b", capacity=MIB, format="raw", backing="a")
    refused(q, "volume /nope: No such file", "volume-create", name="b", capacity=MIB, backing="/nope")
    refused(q, "File name too long", "volume-create", name="b", capacity=MIB, backing="/" + "a" * 5000)
    for capacity in (-1, 2 ** 61):
        refused(q, "capacity: must be 0 to", "volume-create", name="b", capacity=capacity)
    (pool / "folder").mkdir()
    os.symlink("a", pool / "link")
    for name in ("folder", "link"):
        refused(q, "is no regular file", "volume-delete", name=name)
        refused(q, "is no regular file", "volume-clone", name=name, new_name="b")
    # A copy that fails leaves nothing.
    (pool / "broken").write_bytes(struct.pack(">II", 0x514649FB, 2).ljust(MIB, b"\xff"))
    refused(q, "broken", "volume-clone", name="broken", new_name="b")
    assert sorted(p.name for p in pool.iterdir()) == ["a", "broken", "folder", "link"] and (pool / "a").read_bytes() == b"a" * 4096
    os.rename(pool, fake.tmp / "moved")
    refused(q, f"folder {pool}: No such file or directory", "query-volumes")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to act for another user")
def test_volumes_are_touched_with_the_rights_of_the_client(shared):  # noqa: F811
    folder = shared.tmp / "images"
    folder.mkdir(mode=0o755)
    (folder / "roots").write_bytes(bytes(MIB))
    (folder / "roots").chmod(0o600)
    shared.cairn("pool-define-as", "images", "dir", "--target", str(folder))

    def ask(command, **args):
        answer, = as_nobody(shared, [command, {"pool": "images", **args}])
        return answer.get("return", answer.get("error", {}).get("desc"))
    shared.cairn("grant", "owner", "mine", "--user", "nobody")
    assert "requires the role viewer" in ask("query-volumes")
    shared.cairn("grant", "viewer", "--user", "nobody")
    assert ask("query-volumes")["volumes"] == [{"name": "roots", "vms": []}]
    assert "requires the role operator" in ask("volume-create", name="a", capacity=MIB)
    shared.cairn("grant", "operator", "--user", "nobody")
    for command, args in (("volume-create", {"name": "a", "capacity": MIB}), ("volume-delete", {"name": "roots"}),
                          ("volume-clone", {"name": "roots", "new-name": "b"}), ("volume-resize", {"name": "roots", "capacity": 2 * MIB})):
        assert "Permission denied (for user 65534, who sent the command)" in ask(command, **args), command
    assert os.listdir(folder) == ["roots"]
    os.chown(folder, NOBODY, NOBODY)
    assert ask("volume-create", name="a", capacity=MIB) == {}
    made = (folder / "a").stat()
    assert (made.st_uid, made.st_gid) == (NOBODY, NOBODY)
    assert ask("volume-clone", name="a", **{"new-name": "b"}) == {} and (folder / "b").stat().st_uid == NOBODY
    folder.chmod(0o700)
    os.chown(folder, 0, 0)
    assert "Permission denied" in ask("query-volumes")


def test_work_goes_on_when_the_client_or_the_daemon_ends(fake, pool):
    """cairn-img waits for a FIFO's other end here: the volume is a symbolic link's target that turns up in time."""
    slow = fake.tmp / "libexec"
    slow.mkdir()
    (slow / "cairn-img").write_text(f"#!/bin/sh\ntouch {fake.tmp}/begun\nread x <{fake.tmp}/go\nexec {os.path.abspath(BUILD)}/cairn-img \"$@\"\n")
    (slow / "cairn-img").chmod(0o755)
    os.mkfifo(fake.tmp / "go")
    fake.stop()
    fake.env["CAIRN_LIBEXEC"] = str(slow)
    fake.start()
    q = fake.qmp()
    q.send(json.dumps({"execute": "volume-create", "arguments": {"pool": "images", "name": "a", "capacity": MIB}}).encode())
    until(lambda: (fake.tmp / "begun").exists())
    q.close()
    assert fake.cairn("pool-list", "--name").stdout == "images\n"  # others do not wait
    fake.stop(signal.SIGTERM)
    (fake.tmp / "go").write_text("x\n")
    until(lambda: (pool / "a").stat().st_size > 0)
    fake.start()
    until(lambda: image(pool / "a")["virtual-size"] == MIB)


class Installed(Daemon):
    """The daemon in sbin, cairn-img in bin and the other programs in libexec/cairn, as `make install` puts them."""

    def __init__(self, tmp):
        for folder in ("sbin", "bin", "libexec/cairn"):
            (tmp / folder).mkdir(parents=True)
        shutil.copy(os.path.join(BUILD, "cairnd"), tmp / "sbin")
        shutil.copy(os.path.join(BUILD, "cairn-img"), tmp / "bin")
        for name in ("cairn-log", "cairn-groups"):
            shutil.copy(os.path.join(BUILD, name), tmp / "libexec/cairn")
        super().__init__(tmp, vm_program=FAKE_VM)

    def command(self):
        return [str(self.tmp / "sbin/cairnd"), *super().command()[1:]]


def test_installed_daemon_finds_cairn_img(tmp_path):
    daemon = Installed(tmp_path)
    try:
        (tmp_path / "images").mkdir()
        daemon.cairn("pool-define-as", "images", "dir", "--target", str(tmp_path / "images"))
        q = daemon.qmp()
        q.run("volume-create", pool="images", name="a.qcow2", capacity=MIB)
        assert image(tmp_path / "images/a.qcow2")["virtual-size"] == MIB
        (tmp_path / "bin/cairn-img").unlink()
        refused(q, "cairn-img is not installed", "volume-create", name="b.qcow2", capacity=MIB)
        assert list(volumes(q)) == ["a.qcow2"]
    finally:
        daemon.close()
