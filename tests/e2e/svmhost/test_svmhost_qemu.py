"""tests/svmhost/qemu.sh: the QEMU that emulates the SVM host, with an apt-get that only pretends."""

import os
import subprocess

import pytest

import guestlib

SCRIPT = os.path.join(guestlib.ROOT, "tests", "svmhost", "qemu.sh")
PROGRAM = "#!/bin/sh\necho 'QEMU emulator version {}.2'\n"
APT = """#!/bin/sh
echo "$*" >>{folder}/calls
for word; do
	case $word in
	indextargets) . /etc/os-release; echo "http://mirror.invalid/debian/ $VERSION_CODENAME main" ;;
	install) printf 'Inst libglib2.0-0 (2.74 s [amd64])\\nInst qemu-system-x86 [1:7.2] (1:{major}.0.2 s [amd64])\\n' ;;
	download) {download} ;;
	esac
done
"""


@pytest.fixture
def run(tmp_path):
    """Runs qemu.sh on a machine that has QEMU 7; `backports` is the major version that its mirror has."""
    def write(path, text):
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(path.name + ".new")  # an earlier caller may be running the present one
        new.write_text(text)
        new.chmod(0o755)
        new.replace(path)

    def start(backports=10, download="sleep 0.5; cp {folder}/qemu.deb .", **env):
        write(tmp_path / "bin" / "qemu-system-x86_64", PROGRAM.format("7"))
        write(tmp_path / "bin" / "apt-get",
              APT.format(folder=tmp_path, major=backports, download=download.format(folder=tmp_path)))
        write(tmp_path / "deb" / "usr" / "bin" / "qemu-system-x86_64", PROGRAM.format(backports))
        write(tmp_path / "deb" / "DEBIAN" / "control",
              "Package: qemu-system-x86\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b.c>\nDescription: d\n")
        if not (tmp_path / "qemu.deb").exists():
            subprocess.run(["dpkg-deb", "-b", tmp_path / "deb", tmp_path / "qemu.deb"], stdout=subprocess.DEVNULL, check=True)
        return subprocess.Popen([SCRIPT, tmp_path / "cache"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                env={**os.environ, "CAIRN_SVMHOST_QEMU": "", "PATH": f"{tmp_path}/bin:{os.environ['PATH']}", **env})

    return start


def end(process):
    out, err = process.communicate(timeout=50)
    assert process.returncode == 0, err
    return out.strip(), err


def calls(tmp_path, word):
    path = tmp_path / "calls"
    return [line for line in path.read_text().splitlines() if word in line.split()] if path.exists() else []


def test_newer_qemu_is_fetched_from_backports_beside_the_suite(run, tmp_path):
    program, _ = end(run())
    assert program == f"{tmp_path}/cache/svmhost-qemu-10.0.2/qemu-system-x86_64"
    assert subprocess.run([program], stdout=subprocess.PIPE, text=True, check=True).stdout == "QEMU emulator version 10.2\n"
    [download] = calls(tmp_path, "download")
    assert download.split()[-2:] == ["libglib2.0-0=2.74", "qemu-system-x86=1:10.0.2"]
    assert sorted(os.listdir(tmp_path / "cache")) == ["svmhost-qemu-10.0.2", "svmhost.lock"]


def test_concurrent_callers_fetch_it_once(run, tmp_path):
    answers = {end(process)[0] for process in [run() for _ in range(4)]}
    assert answers == {f"{tmp_path}/cache/svmhost-qemu-10.0.2/qemu-system-x86_64"}
    assert len(calls(tmp_path, "download")) == 1


@pytest.mark.parametrize("fault", [{"download": "exit 100"}, {"backports": 8}])
def test_installed_qemu_serves_where_no_newer_one_can_be_had(run, tmp_path, fault):
    program, said = end(run(**fault))
    assert program == f"{tmp_path}/bin/qemu-system-x86_64"
    assert "so the installed one serves" in said
    tried = len(calls(tmp_path, "update"))
    assert end(run(**fault)) == (program, "")  # a failed fetch is not tried again at once
    assert len(calls(tmp_path, "update")) == tried == 1
    assert sorted(os.listdir(tmp_path / "cache")) == ["svmhost-no-qemu", "svmhost.lock"]


def test_variable_forbids_the_fetch(run, tmp_path):
    program, said = end(run(CAIRN_SVMHOST_QEMU="installed"))
    assert (program, said) == (f"{tmp_path}/bin/qemu-system-x86_64", "")
    assert calls(tmp_path, "update") == []
