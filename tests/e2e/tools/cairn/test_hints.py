"""The commands in errors can be pasted into a shell, also if a name has blanks or quotes."""

import os
import re
import subprocess

import pytest

from conftest import BUILD


def quoted(text):
    return "'" + text.replace("'", "'\\''") + "'"


def paste(d, command, *failing):
    """Check that a failing command's error names this command, and run it in a shell. Returns its output."""
    assert command in d.cairn(*failing, ok=False).stderr
    env = d.env | {"PATH": f"{os.path.abspath(BUILD)}:{d.env['PATH']}", "EDITOR": "true"}
    r = subprocess.run(["sh", "-c", command], env=env, text=True, capture_output=True, timeout=60)
    assert r.returncode == 0, (command, r.stderr)
    return r.stdout


@pytest.mark.parametrize("name", ["Windows 10", "it's $HOME"])
def test_commands_in_errors_can_be_pasted(fake, name):
    vm, snapshot = quoted(name), "before it's late"
    (fake.tmp / "disk").write_bytes(bytes(1 << 20))
    fake.define(name, disks=[{"path": "disk", "format": "qcow2"}])
    assert paste(fake, f"cairn start {vm}", "suspend", name) == f"Domain '{name}' started\n"
    assert "vda" in paste(fake, f"cairn domblklist {vm}", "domblkstat", name, "vdz")
    assert "not changed" in paste(fake, f"cairn edit {vm}", "screenshot", name, str(fake.tmp / "picture"))
    fake.cairn("snapshot-create-as", name, snapshot, "--tag", "keep")
    assert snapshot in paste(fake, f"cairn snapshot-list {vm}", "snapshot-revert", name, "none")
    paste(fake, f"cairn snapshot-tag {vm} {quoted(snapshot)} --remove keep", "snapshot-delete", name, snapshot)
    fake.cairn("snapshot-delete", name, snapshot)
    fake.cairn("snapshot-create-as", name, "--name", "-x", "--tag", "keep")
    command = re.search(r"cairn snapshot-tag .*", fake.cairn("snapshot-delete", name, "--snapshotname=-x", ok=False).stderr)[0]
    paste(fake, command, "snapshot-delete", name, "--snapshotname=-x")
    fake.cairn("managedsave", name)
    paste(fake, f"cairn managedsave-remove {vm}", "export", name, str(fake.tmp / "archive.tar"))
    assert fake.info(name)["reason"] == "saved state dropped"
    fake.cairn("template", name)
    paste(fake, f"cairn template --disable {vm}", "start", name)
    fake.cairn("start", name)
