"""cairn run --image and --root in a real Linux; test_run_root.py has the rest, with the agent on the host."""

import json
import os
import pty
import re
import shutil
import socket
import subprocess
import threading

import pytest

import guestlib
from conftest import BUILD
from rootlib import Layout, entry, symlink, tar
from terminallib import read_until
from test_linux import elsewhere, one_start

boot = pytest.mark.seconds(600)
pytestmark = pytest.mark.skipif(not guestlib.host_kind() or guestlib.host_kind() == "none", reason="needs /dev/kvm")
APPLETS = ("sh", "rm", "mkdir", "cat", "nc")


def command(tmp_path, *args):
    return ([os.path.join(BUILD, "cairn"), "run", "--kernel", os.path.join(guestlib.linux_kernel(), "vmlinux"), "--memory", "128M", "--timeout", "500", *args],
            {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "XDG_DATA_HOME": str(tmp_path / "data")})


def run(tmp_path, *args, status=0):
    args, env = command(tmp_path, *args)
    r = subprocess.run(args, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=560, env=env)
    assert r.returncode == status, (r.returncode, r.stdout, r.stderr)
    return r.stdout


# Commands of the shell itself start no process, which takes half a second where KVM emulates kernel mode.
SCRIPT = r"""
while read -r k a b c d; do case $k in Uid:|Gid:|Groups:) echo "$k $a $b";; esac; done </proc/self/status
echo "$A $PWD $HOME $*"
ulimit -Hn
echo opened >/dev/stdout
echo x 2>/dev/null >/etc/passwd || echo denied
[ -u /bin/su ] && [ -c /dev/null ] && [ -d /sys/class ] && [ -L /dev/fd ] && echo special
read -r x </etc/removed || echo removed
read -r x </data/linked; echo "$x"
echo mine >own; read -r x <own; echo "$x"
read -r x </tmp/image && echo t >/tmp/t && echo "$x"
while read -r x y; do echo "$x $y"; done </etc/hosts
read -r x </etc/resolv.conf; read -r y </etc/hostname; echo "$x $y"
read -r x </vol/in/note; echo "$x"; echo x 2>/dev/null >/vol/in/note || echo read-only; echo to-host >/vol/out/new
nc 10.0.2.2 PORT
echo error >&2
exit 7
"""


def rootfs():
    with open(shutil.which("busybox"), "rb") as f:
        busybox = f.read()
    first = tar(entry("bin/"), entry("bin/busybox", busybox, mode=0o755), *[symlink("bin/" + a, "busybox") for a in APPLETS],
                entry("bin/su", b"x", mode=0o4755), entry("etc/"), entry("etc/removed", b"1\n"), symlink("etc/resolv.conf", "/run/resolved"), entry("data/"), entry("data/linked", b"linked\n"),
                entry("etc/passwd", b"root:x:0:0::/root:/bin/sh\nuser:x:1005:1006::/home/u:/bin/sh\n"), entry("etc/group", b"more:x:77:a,user\n"),
                entry("tmp/", mode=0o1777), entry("tmp/image", b"tmp\n"), entry("home/"), entry("home/u/", uid=1005, gid=1006, mode=0o700))
    return first, tar(entry("etc/.wh.removed"))


def answer(listener):
    peer, _ = listener.accept()
    with peer:
        peer.sendall(b"from outside\n")


@boot
@elsewhere
def test_image_runs_with_its_environment_and_folder(tmp_path):
    layout = Layout(tmp_path / "layout")
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=answer, args=(listener,), daemon=True).start()
    script = SCRIPT.replace("PORT", str(listener.getsockname()[1]))
    (tmp_path / "vm.json").write_text(json.dumps({"name": "web1", "rng": True, "interfaces": [{"type": "user", "host_loopback": True}]}))
    layout.add(layout.manifest(*rootfs(), config={"Entrypoint": ["sh", "-c", script], "Cmd": ["sh", "a", "b"], "Env": ["PATH=/bin", "A=b c"],
                                                  "WorkingDir": "/home/u", "User": "user"}), "tag")
    for name in ("in", "out"):
        (tmp_path / name).mkdir()
    (tmp_path / "in" / "note").write_text("from the host\n")
    (tmp_path / "out").chmod(0o777)  # the guest's user is none of the host's
    out = run(tmp_path, tmp_path / "vm.json", "-v", f"{tmp_path}/in:/vol/in:ro", "-v", f"{tmp_path}/out:/vol/out", "--append", "console=ttyS0 panic=-1 quiet", "--image", f"oci:{layout.path}:tag", "--keep", "dev", status=7)
    assert out.splitlines() == ["Uid: 1005 1005", "Gid: 1006 1006", "Groups: 77 1006", "b c /home/u /home/u a b", "524288", "opened", "denied", "special", "removed", "linked", "mine", "tmp",
                                "127.0.0.1 localhost", "10.0.2.15 web1", "nameserver 10.0.2.3 web1", "from the host", "read-only", "from outside"]
    assert (tmp_path / "out" / "new").read_text() == "to-host\n"
    layer = tmp_path / "data/cairn/layers/dev.img"
    assert b"mine" in subprocess.run(["/sbin/debugfs", "-R", "cat /root/home/u/own", layer], capture_output=True, check=True, timeout=60).stdout


@boot
@one_start
def test_root_of_a_folder_is_written_in_memory_only(tmp_path):
    root = tmp_path / "fs"
    for name in ("bin", "old"):
        (root / name).mkdir(parents=True)
    (root / "old" / "file").write_text("old\n")
    shutil.copy(shutil.which("busybox"), root / "bin" / "busybox")
    for applet in APPLETS:
        (root / "bin" / applet).symlink_to("busybox")
    script = "rm -r /old && mkdir /old && echo new >/old/other && [ ! -e /old/file ] && read x </old/other && [ -k /tmp ] && echo $x >/bin/su && read x </bin/su; echo $x $$"
    out = run(tmp_path, "--root", str(root), "--", "/bin/sh", "-c", script)
    assert re.fullmatch(r"new \d+\n", out), out
    assert (root / "old" / "file").read_text() == "old\n" and not (root / "bin" / "su").exists()


@boot
@one_start
def test_layer_and_folder_are_continued(tmp_path):
    """The guest's writes are in the layer, or in the folder and nowhere beside it."""
    root = tmp_path / "fs"
    (root / "bin").mkdir(parents=True)
    shutil.copy(shutil.which("busybox"), root / "bin" / "busybox")
    (root / "bin" / "sh").symlink_to("busybox")
    shell = ("--", "/bin/sh", "-c")
    run(tmp_path, "--root", str(root), "--keep", "a", *shell, "echo kept >/tmp/note")
    assert run(tmp_path, "--root", str(root), "--keep", "a", *shell, "read x </tmp/note; echo $x >/more; echo $x") == "kept\n"
    assert sorted(os.listdir(root)) == ["bin"]
    (root / "up").symlink_to("../outside")
    (root / "away").symlink_to(tmp_path / "outside")
    run(tmp_path, "--root", str(root), "--rw", *shell, "echo a >/note; echo b >/../above; echo c >/up; echo d >/away; true")
    assert (root / "note").read_text() == "a\n" and (root / "above").read_text() == "b\n"
    assert not (tmp_path / "outside").exists() and not (tmp_path / "above").exists()
    assert (root / "etc" / "hosts").read_text() == "", "the guest's own file was above it"


@boot
@elsewhere
def test_terminal_of_an_image(tmp_path):
    layout = Layout(tmp_path / "layout")
    layout.add(layout.manifest(*rootfs(), config={"Cmd": ["sh"], "Env": ["PATH=/bin", "PS1=$PWD> "], "WorkingDir": "/new/deep"}), "tag")
    args, env = command(tmp_path, "-t", "--image", f"oci:{layout.path}:tag")
    pid, fd = pty.fork()
    if pid == 0:
        os.execve(args[0], args, env)
    read_until(fd, b"/new/deep> ", 500)
    os.write(fd, b"[ -t 0 ] && cd /dev/pts && echo *\n")
    read_until(fd, b"0 ptmx\r\n/dev/pts> ", 60)
    os.write(fd, b"exit 9\n")
    while True:
        try:
            os.read(fd, 4096)
        except OSError:
            break
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    os.close(fd)
