"""The Debian packages, as far as a second tells: their lists of files and their scripts. long_packages.py
builds them."""

import fnmatch
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from conftest import BUILD, ROOT

DEBIAN = Path(ROOT, "tools/packaging/debian")


def test_each_installed_file_is_in_one_package(tmp_path):
    subprocess.run(["make", "-s", f"BUILD={os.path.relpath(BUILD, ROOT)}", f"DESTDIR={tmp_path}", "PREFIX=/usr", "LIBDIR=/usr/lib/x86_64-linux-gnu",
                    "install"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    files = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if not p.is_dir()}
    lists = [*DEBIAN.glob("*.install"), *DEBIAN.glob("*.manpages")]
    owners = {f: [] for f in files}
    for path in lists:
        for pattern in (line.split()[0] for line in path.read_text().splitlines()):
            of = [f for f in files if fnmatch.fnmatch(f, pattern) or fnmatch.fnmatch(f, pattern + "/*")]
            assert of, f"{path.name}: nothing is installed as {pattern}"
            for f in of:
                owners[f].append(path.stem)
    assert not {f: o for f, o in owners.items() if len(o) != 1}
    assert {p.stem for p in lists} == set(re.findall("^Package: (.*)", (DEBIAN / "control").read_text(), re.M))


@pytest.fixture
def purge(tmp_path):
    def run():
        return subprocess.run(["sh", DEBIAN / "cairn.postrm", "purge"], env={**os.environ, "DPKG_ROOT": str(tmp_path)},
                              capture_output=True, text=True, check=True).stdout
    return run


def test_purge_keeps_defined_vms(purge, tmp_path):
    state = tmp_path / "var/lib/cairn"
    vm = state / "vms/web1"
    vm.mkdir(parents=True)
    (vm / "definition.json").write_text("{}")
    assert f"rm -r {state}" in purge() and (vm / "definition.json").exists()
    (vm / "definition.json").unlink()
    vm.rmdir()
    (state / "vms/.draft-3").write_text("{}")  # of a killed daemon
    (state / "lock.takeover").touch()  # of one that took over from a stuck one
    assert purge() == "" and not state.exists() and state.parent.exists()
    assert purge() == ""


def test_purge_keeps_files_that_the_daemon_did_not_make(purge, tmp_path, fake):
    fake.define("web1")
    fake.cairn("grant", "operator", "web1", "--user", "nobody")
    fake.cairn("undefine", "web1")
    fake.stop()
    state = tmp_path / "var/lib/cairn"
    state.parent.mkdir(parents=True)
    subprocess.run(["cp", "-a", fake.state, state], check=True)
    image = state / "images" / "web1.qcow2"
    image.parent.mkdir()
    image.write_text("data")
    assert f"{state} stays" in purge() and os.listdir(state) == ["images"] and image.read_text() == "data"
    shutil.rmtree(image.parent)
    assert purge() == "" and not state.exists()


@pytest.mark.parametrize("programs, said", [
    ({}, ""),
    ({101: "/usr/libexec/cairn/cairn-vm", 102: "/usr/libexec/cairn/cairn-vm (deleted)", 103: "/usr/local/libexec/cairn/cairn-vm",
      104: "/usr/libexec/cairn/cairn-vnc", 105: "/usr/local/sbin/cairnd"}, "VMs keep running without a daemon. Their processes: 101 102 \n"),
    ({101: "/usr/libexec/cairn/cairn-vm", 102: "/usr/sbin/cairnd", 103: "/usr/sbin/cairnd (deleted)"},
     "cairnd keeps running. Its processes: 102 103 \nVMs keep running. Their processes: 101 \n"),
    ({101: "/usr/sbin/cairnd"}, "cairnd keeps running. Its processes: 101 \n")])
def test_removal_names_processes_of_the_package_only(tmp_path, programs, said):
    assert removal_says(tmp_path, programs) == said


def test_removal_takes_no_work_on_files_for_a_daemon(tmp_path):
    """A process cairnd-files outlives its daemon."""
    shutil.copy("/bin/sleep", tmp_path / "cairnd-files")
    with subprocess.Popen([tmp_path / "cairnd-files", "600"]) as work:
        try:
            said = removal_says(tmp_path, {101: "/usr/libexec/cairn/cairn-vm", work.pid: "/usr/sbin/cairnd"})
        finally:
            work.kill()
    assert said == "VMs keep running without a daemon. Their processes: 101 \n"


def removal_says(folder, programs):
    """Run the script with an ls that prints where the links of these processes lead."""
    lines = [f"lrwxrwxrwx 1 root root 0 Nov 20 11:55 /proc/{pid}/exe -> {program}" for pid, program in programs.items()]
    for name, text in (("ls", "\n".join(["#!/bin/sh", "cat <<.", *lines, "."])), ("deb-systemd-invoke", "#!/bin/sh")):
        (folder / name).write_text(text + "\n")
        (folder / name).chmod(0o755)
    env = {"PATH": f"{folder}:{os.environ['PATH']}"}
    return subprocess.run(["sh", DEBIAN / "cairn.prerm", "remove"], env=env, capture_output=True, text=True, check=True).stdout


def test_scripts_are_shell():
    for name in ("cairn.postinst", "cairn.prerm", "cairn.postrm"):
        subprocess.run(["sh", "-n", DEBIAN / name], check=True)
