"""cairn seed: images from which cloud-init configures a guest. The images are read here by the rules of ISO 9660 and
Rock Ridge, and their files with json, since they are JSON after the first line."""

import json
import os
import struct
import subprocess

import pytest

from conftest import BUILD

SECTOR = 2048
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJmpVr3sFnv1Zp5gE4pXr0b8mVfWZJw0yq4JtJcQ7T1e me@host"


def seed(folder, *args, ok=0):
    r = subprocess.run([os.path.join(BUILD, "cairn"), "seed", *args], cwd=folder, text=True, capture_output=True, timeout=60)
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
