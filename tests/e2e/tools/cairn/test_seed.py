"""cairn seed: images from which cloud-init configures a guest. The images are read here by the rules of ISO 9660 and
Rock Ridge, and their files with json, since they are JSON after the first line."""

import json
import os
import pathlib
import resource
import signal
import struct
import subprocess

import pytest

from conftest import BUILD

SECTOR = 2048
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJmpVr3sFnv1Zp5gE4pXr0b8mVfWZJw0yq4JtJcQ7T1e me@host"


def seed(folder, *args, ok=0, **how):
    r = subprocess.run([os.path.join(BUILD, "cairn"), "seed", *args], cwd=folder, text=True, capture_output=True, timeout=60, **how)
    assert ok is None or r.returncode == ok, r.stderr
    return r


def rock_ridge_name(system):
    """Return the name in the system use fields of a record (RRIP 4.1.4)."""
    name = ""
    while len(system) > 4:
        if system[:2] == b"NM":
            name += system[5:system[2]].decode()
        system = system[system[2] or len(system):]
    return name


def image(path):
    """Return the label of an ISO 9660 image and its files."""
    data = path.read_bytes()
    volume = data[16 * SECTOR:17 * SECTOR]
    assert volume[:6] == b"\1CD001"
    at, size = (struct.unpack("<I", volume[156 + i:160 + i])[0] for i in (2, 10))
    folder, files = data[at * SECTOR:at * SECTOR + size], {}
    while folder and folder[0]:
        record, folder = folder[:folder[0]], folder[folder[0]:]
        start, length = (struct.unpack("<I", record[i:i + 4])[0] for i in (2, 10))
        used = 33 + record[32] + (1 - record[32] % 2)
        name = rock_ridge_name(record[used:])
        if name and not record[25] & 2:
            files[name] = data[start * SECTOR:start * SECTOR + length].decode()
    return volume[40:72].decode().strip(), files


def config(files):
    first, rest = files["user-data"].split("\n", 1)
    assert first == "#cloud-config"
    return json.loads(rest)


@pytest.fixture
def key(tmp_path):
    path = tmp_path / "id.pub"
    path.write_text(f"# mine\n{KEY}\n")
    return path


def test_seed_has_host_name_user_and_keys(tmp_path, key):
    r = seed(tmp_path, "web1.iso", "--hostname", "web1", "--user", "admin", "--ssh-key", "id.pub", "--ssh-over-vsock")
    assert r.stdout == "Seed image web1.iso created. Next: cairn attach-disk VM web1.iso vdb --mode readonly\n"
    label, files = image(tmp_path / "web1.iso")
    assert label == "CIDATA" and set(files) == {"user-data", "meta-data"}
    c = config(files)
    assert c["hostname"] == "web1" and c["users"] == [
        {"name": "admin", "shell": "/bin/bash", "sudo": "ALL=(ALL) NOPASSWD:ALL", "lock_passwd": True, "ssh_authorized_keys": [KEY]}]
    assert "ListenStream=vsock::22\n" in c["write_files"][0]["content"] and "cairn-ssh.socket" in c["runcmd"][0]
    assert "\\/" not in files["user-data"]  # YAML 1.1 knows no such escape
    meta = json.loads(files["meta-data"])
    assert meta["local-hostname"] == "web1" and meta["instance-id"].startswith("iid-")
    seed(tmp_path, "web2.iso", "--hostname", "web1")
    assert json.loads(image(tmp_path / "web2.iso")[1]["meta-data"])["instance-id"] != meta["instance-id"]
    seed(tmp_path, "keys.iso", "--ssh-key", "id.pub", "--instance-id", "one")
    files = image(tmp_path / "keys.iso")[1]
    assert config(files) == {"ssh_authorized_keys": [KEY]} and json.loads(files["meta-data"]) == {"instance-id": "one"}
    assert [p.name for p in tmp_path.iterdir() if "iso." in p.name] == []  # no draft is left
    assert (tmp_path / "web1.iso").stat().st_mode & 0o777 == 0o600  # it may hold passwords


def test_seed_takes_files_as_they_are(tmp_path):
    for name, text in (("u", "#!/bin/sh\necho \"grüß\" \\ / \t\n"), ("m", "instance-id: x\n"), ("n", "version: 2\n")):
        (tmp_path / name).write_text(text)
    seed(tmp_path, "s.iso", "--user-data", "u", "--meta-data", "m", "--network-config", "n")
    assert image(tmp_path / "s.iso")[1] == {
        "user-data": (tmp_path / "u").read_text(), "meta-data": "instance-id: x\n", "network-config": "version: 2\n"}
    (tmp_path / "u").write_text("#cloud-config\n" + "# long\n" * 100000)
    seed(tmp_path, "s.iso", "--user-data", "u", "--hostname", "h", "--force")
    files = image(tmp_path / "s.iso")[1]
    assert files["user-data"] == (tmp_path / "u").read_text() and json.loads(files["meta-data"])["local-hostname"] == "h"


def small_files_only():
    """As on a full disk, without root."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))


def test_image_that_cannot_be_written_is_one_sentence(tmp_path):
    r = seed(tmp_path, "s.iso", "--hostname", "web1", ok=1, preexec_fn=small_files_only)
    assert r.stderr.splitlines() == [
        "error: Failed to create seed image s.iso", "error: cannot write the image: Write error: File too large; the limit of file "
        "sizes may be reached: raise it (ulimit -f, or LimitFSIZE= of the service)"]
    assert os.listdir(tmp_path) == []


def test_wrong_seeds_are_refused(tmp_path, key):
    (tmp_path / "private").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    (tmp_path / "binary").write_bytes(b"\x1f\x8b\xff")
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "word").write_text("hello\n")
    (tmp_path / "there.iso").write_text("precious")
    for args, text in (
            (["there.iso"], "there.iso exists; give another name, or --force to replace it"),
            (["s.iso", "--hostname", "-x"], "is not a host name such as web1"),
            (["s.iso", "--hostname", "a b"], "is not a host name such as web1"),
            (["s.iso", "--user", "Root"], "is not a user name such as debian"),
            (["s.iso", "--ssh-key", "private"], "is a private key, which must not leave this host; give the public one: private.pub"),
            (["s.iso", "--ssh-key", "empty"], "empty is empty"),
            (["s.iso", "--ssh-key", "word"], "has no public SSH keys"),
            (["s.iso", "--ssh-key", "none"], "none"),
            (["s.iso", "--user-data", "binary"], "binary is not text in UTF-8"),
            (["nowhere/s.iso"], "nowhere/s.iso")):
        r = seed(tmp_path, *args, ok=None)
        assert r.returncode != 0 and text in r.stderr, (args, r.stderr)
    for args in (["--user-data", "word", "--user", "x"], ["--meta-data", "word", "--instance-id", "x"]):
        assert "exclude each other" in seed(tmp_path, "s.iso", *args, ok=2).stderr
    assert (tmp_path / "there.iso").read_text() == "precious"
    assert {p.name for p in tmp_path.iterdir()} == {"private", "binary", "empty", "word", "there.iso", "id.pub"}


# ---- seeds of clones ----

@pytest.fixture
def web(daemon, tmp_path, key, guest):
    """web1 with a disk and a seed."""
    seed(tmp_path, "web1.iso", "--hostname", "web1", "--user", "carol", "--ssh-key", "id.pub")
    subprocess.run([os.path.join(BUILD, "cairn-img"), "create", "-q", "-f", "qcow2", tmp_path / "web1.qcow2", "1M"], check=True)
    daemon.define("web1", boot={"kernel": guest("idle.elf")}, disks=[
        {"id": "vda", "path": str(tmp_path / "web1.qcow2"), "format": "qcow2"},
        {"id": "vdb", "path": str(tmp_path / "web1.iso"), "format": "raw", "readonly": True}])
    return daemon


def seed_of(daemon, name):
    path, = (d["path"] for d in json.loads(daemon.cairn("dumpjson", name, "--inactive").stdout)["disks"] if d.get("readonly"))
    return path, image(pathlib.Path(path))[1]


def test_each_clone_has_a_seed_of_its_own(web, tmp_path):
    web.cairn("clone", "web1", "web", "--count", "2", "--new-seed")
    web.cairn("clone", "web1", "--linked", "--count", "2", "--name-pattern", "w%02d", "--new-seed")
    old, seeds = seed_of(web, "web1")[1], [seed_of(web, n) for n in ("web-1", "web-2", "w01", "w02")]
    assert [path for path, _ in seeds] == [str(tmp_path / f"{n}-vdb.iso") for n in ("web-1", "web-2", "w01", "w02")]
    assert all(os.stat(path).st_mode & 0o777 == 0o600 for path, _ in seeds)
    metas = [json.loads(files["meta-data"]) for _, files in seeds]
    assert [m["local-hostname"] for m in metas] == ["web-1", "web-2", "w01", "w02"]
    assert len({m["instance-id"] for m in metas} | {json.loads(old["meta-data"])["instance-id"]}) == 5
    for m, (_, files) in zip(metas, seeds):
        assert config(files) == config(old) | {"hostname": m["local-hostname"]}
    # Without the option, the clone has the image of its source.
    web.cairn("clone", "web1", "same")
    assert seed_of(web, "same")[0] == str(tmp_path / "web1.iso")


def test_live_clone_has_a_new_seed_at_its_next_start(web, tmp_path, kvm):
    web.cairn("start", "web1")
    web.cairn("clone", "web1", "c1", "--live", "--new-seed")
    web.cairn("clone", "web1", "c2", "--live", "--new-seed", "--no-hostname")
    old = seed_of(web, "web1")[1]
    for name, hostname in ("c1", "c1"), ("c2", "web1"):
        path, files = seed_of(web, name)
        assert path == str(tmp_path / f"{name}-vdb.iso") and config(files)["hostname"] == hostname
        assert json.loads(files["meta-data"])["instance-id"] != json.loads(old["meta-data"])["instance-id"]
    web.cairn("destroy", "c1")
    web.cairn("start", "c1")


def test_new_seed_changes_texts_in_yaml_line_by_line(web, tmp_path):
    (tmp_path / "m").write_text("instance-id: old\nx: 1\nlocal-hostname: old")
    (tmp_path / "u").write_text("#cloud-config\nhostname: old\nwrite_files:\n- content: |\n    hostname: kept\n")
    (tmp_path / "n").write_text("version: 2\n")
    seed(tmp_path, "web1.iso", "--force", "--user-data", "u", "--meta-data", "m", "--network-config", "n")
    web.cairn("clone", "web1", "c1", "--new-seed")
    files = seed_of(web, "c1")[1]
    first, ident, *rest = files["meta-data"].splitlines()
    assert first == "x: 1" and ident.startswith('instance-id: "iid-') and rest == ['local-hostname: "c1"']
    assert files["user-data"] == "#cloud-config\nwrite_files:\n- content: |\n    hostname: kept\nhostname: \"c1\"\n"
    assert files["network-config"] == "version: 2\n"


def test_new_seed_changes_the_host_in_a_full_name(web, tmp_path):
    """The full name counts more than the host name."""
    (tmp_path / "u").write_text("#cloud-config\nfqdn: 'old.example.org' # old.net\nx: 1\n")
    (tmp_path / "j").write_text('#cloud-config\n{"fqdn": "old.example.org", "x": 1}\n')
    for name, data in ("c1", "u"), ("c2", "j"):
        seed(tmp_path, "web1.iso", "--force", "--user-data", data, "--hostname", "old")
        web.cairn("clone", "web1", name, "--new-seed")
        text = seed_of(web, name)[1]["user-data"]
        assert f'"{name}.example.org"' in text and "old" not in text and "x" in text


def test_new_seed_that_cannot_be_made_makes_no_clone(web, tmp_path):
    (tmp_path / "c2-vdb.iso").write_text("precious")
    r = web.cairn("clone", "web1", "c", "--name-pattern", "c%d", "--count", "2", "--new-seed", ok=2)
    r = web.cairn("clone", "web1", "--name-pattern", "c%d", "--count", "2", "--new-seed", ok=False)
    assert f"{tmp_path}/c2-vdb.iso, the seed of 'c2', exists; remove it or choose another name" in r.stderr
    (tmp_path / "web1.iso").write_bytes(b"no image of cloud-init's")
    r = web.cairn("clone", "web1", "c1", "--new-seed", ok=3)
    assert "VM 'web1' has no seed, which is a read-only disk with the label CIDATA; create one with: cairn seed FILE" in r.stderr
    assert "exclude each other" in web.cairn("clone", "web1", "c1", "--new-seed", "--no-wait", ok=2).stderr
    assert web.cairn("list", "--all", "--name").stdout.split() == ["web1"]
    assert (tmp_path / "c2-vdb.iso").read_text() == "precious"
