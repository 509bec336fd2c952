"""cairn run --image and --root. In place of cairn-vm, a program serves a real cairn-agent on the host
(test_run_command.py); test_linux_root.py has a real guest."""

import contextlib
import json
import os
import pty
import signal
import subprocess

import pytest

from conftest import BUILD, children_of, has_ended, open_files, until
from rootlib import Layout, entry, tar
from terminallib import read_until
from test_run_command import Runner


class RootRunner(Runner):
    def __init__(self, tmp_path):
        super().__init__(tmp_path)
        self.env |= {"XDG_CACHE_HOME": str(tmp_path / "cache"), "HOME": str(tmp_path)}
        self.layout = Layout(tmp_path / "layout")

    def image(self, tag, *layers, **config):
        self.layout.add(self.layout.manifest(*(layers or (tar(entry("etc/")),)), config=config), tag)
        return f"oci:{self.layout.path}:{tag}"

    def argv(self, *args):
        command = ["--", *args[-1]] if args[-1] else []
        return [os.path.join(BUILD, "cairn"), "run", "--kernel", self.tmp / "kernel", "--vm-program", self.vm, *args[:-1], *command]


@pytest.fixture
def vm(tmp_path):
    return RootRunner(tmp_path)


SHOW = ["/bin/sh", "-c", 'echo "$A|$B|$PWD|$HOME|$(id -u):$(id -g):$(id -G)|$0|$*"']


def test_image_gives_command_environment_user_and_folder(vm):
    image = vm.image("full", Entrypoint=SHOW, Cmd=["zero", "one"], Env=["A=image", "B=b c", "=bad", "no"], User="daemon", WorkingDir="/usr")
    home = subprocess.run(["getent", "passwd", "daemon"], capture_output=True, text=True, check=True).stdout.split(":")[5]
    assert vm.run("--image", image, ()).stdout == f"image|b c|/usr|{home}|1:1:1|zero|one\n"
    assert vm.run("--image", image, ("my", "own")).stdout == f"image|b c|/usr|{home}|1:1:1|my|own\n"
    assert vm.run("--image", image, "-e", "A=mine", "-e", "HOME=/h", "-w", "/etc", "-u", "2:3", ("x",)).stdout == "mine|b c|/etc|/h|2:3:3|x|\n"
    assert vm.run("--image", image, "--no-entrypoint", "-e", "A=first", "-e", "A=last", ("printenv", "A", "B")).stdout == "last\nb c\n"
    assert vm.run("--image", image, "--no-entrypoint", ("/bin/echo", "only")).stdout == "only\n"


@pytest.mark.parametrize("user, expected", [("", "0:0:"), ("0", "0:0:"), ("root", "0:0:"), ("4000000000", "4000000000:0:"), ("daemon:users", "1:100:"),
                                            ("1:5000", "1:5000:")])
def test_users(vm, user, expected):
    image = vm.image("u", User=user)
    assert vm.run("--image", image, ("/bin/sh", "-c", 'echo "$(id -u):$(id -g):"')).stdout == expected + "\n"


@pytest.mark.parametrize("user", ["nobody-here", "daemon:no-group", ":", "-1", "4294967295", "0:", "99999999999999999999"])
def test_user_that_does_not_exist_is_named(vm, user):
    said = vm.run("--image", vm.image("u"), "-u", user, ("/bin/id",), status=0 if user == "0:" else 125).stderr
    assert user == "0:" or f"the root has no user or group {user}; choose another one with --user" in said


def test_user_opens_the_streams_anew(vm):
    """As servers do whose log files are links to /dev/stdout and /dev/stderr."""
    r = vm.run("--image", vm.image("u"), "-u", "1000", ("/bin/sh", "-c", "echo a >/dev/stdout; echo b >/dev/stderr"))
    assert r.stdout == "a\n" and "b" in r.stderr.splitlines(), r
    assert vm.run("--image", vm.image("u"), "-u", "1000", "-i", ("/bin/sh", "-c", "read x </dev/stdin; echo $x"), input="c\n").stdout == "c\n"


def test_program_is_searched_in_the_path_of_the_image(vm):
    folder = vm.tmp / "bin"
    folder.mkdir()
    (folder / "own").write_text("#!/bin/sh\necho found\n")
    (folder / "own").chmod(0o755)
    (folder / "text").write_text("x")
    image = vm.image("path", Env=[f"PATH={folder}:/bin"])
    assert vm.run("--image", image, ("own",)).stdout == "found\n"
    assert "missing: No such file" in vm.run("--image", image, ("missing",), status=127).stderr
    assert "text: Permission denied" in vm.run("--image", image, ("text",), status=126).stderr


def test_root_of_a_folder_or_tar_has_no_command_of_its_own(vm):
    (vm.tmp / "fs" / "etc").mkdir(parents=True)
    (vm.tmp / "fs.tar").write_bytes(tar(entry("etc/")))
    for root in ("fs", "fs.tar", str(vm.tmp / "fs")):
        assert vm.run("--root", root, ("/bin/echo", "1"), cwd=vm.tmp).stdout == "1\n"
        assert "the root names no command; append -- COMMAND" in vm.run("--root", root, (), status=125, cwd=vm.tmp).stderr


def test_definition_has_the_image_as_first_disk(vm):
    (vm.tmp / "data.img").write_bytes(bytes(1 << 20))
    o = json.loads(vm.run("--print-only", "--image", vm.image("i"), "--disk", vm.tmp / "data.img", ("true",)).stdout)
    first, second = o["disks"]
    assert first["readonly"] and first["format"] == "raw" and first["path"].startswith(str(vm.tmp / "cache/cairn/roots/sha256-"))
    assert second["path"] == str(vm.tmp / "data.img")


def test_limit_of_files_can_be_raised(vm):
    (vm.tmp / "fs").mkdir()
    for name in "a", "b", "c":
        (vm.tmp / "fs" / name).touch()
    image = vm.image("many", tar(*(entry(f"{n}/") for n in "abcde")))
    for root, what in (["--root", vm.tmp / "fs"], "the folder has more than 2 files; use a smaller one, or raise --files-max"), \
            (["--image", image], "the image has more than 2 files in its layers; use a smaller image, or raise --files-max"):
        assert what in vm.run(*root, "--files-max", "2", ("true",), status=125).stderr
        assert vm.run(*root, "--files-max", "9", ("echo", "ran")).stdout == "ran\n"


def test_bad_use_is_one_sentence(vm):
    image = vm.image("i")
    for args, sentence in (
            (("--root", "a", "--image", "b"), "--root and --image exclude each other"),
            (("--pull",), "need --image"),
            (("--no-entrypoint",), "need --image"),
            (("--files-max", "1"), "--files-max needs --image or --root"),
            (("--image", image, "--files-max", "0"), "--files-max must be a number from 1 to 100000000"),
            (("--image", image, "--files-max", "1x"), "--files-max must be a number from 1 to 100000000"),
            (("--image", ""), "--image needs the name of an image"),
            (("--root", ""), "--root needs a path")):
        assert sentence in vm.run(*args, ("true",), status=125).stderr
    for args, sentence in (
            (("--image", "oci:nothing:tag"), "oci:nothing:tag: nothing is no OCI layout"),
            (("--image", image + "x"), "the layout has no image with the tag ix; it has: i"),
            (("--root", "nothing"), "error: ./nothing does not exist\n"),
            (("--image", image, "--initrd", vm.tmp / "kernel"), "leave out --initrd and boot.initrd")):
        said = vm.run(*args, ("true",), status=125).stderr
        assert sentence in said and len(said.splitlines()) == 2, said


@pytest.fixture
def slow(vm):
    """A run on a terminal. Its image is complete only when the file `go` exists."""
    (vm.tmp / "bin").mkdir()
    (vm.tmp / "bin" / "sqfstar").write_text(f"""#!/bin/sh
        until [ -e {vm.tmp}/go ]; do sleep 0.1; done
        PATH=${{PATH#*:}} exec sqfstar "$@"
        """)
    (vm.tmp / "bin" / "sqfstar").chmod(0o755)
    (vm.tmp / "fs" / "etc").mkdir(parents=True)
    vm.env["PATH"] = f"{vm.tmp}/bin:{vm.env['PATH']}"
    args = [str(a) for a in vm.argv("--root", vm.tmp / "fs", ("/bin/echo", "ran"))]
    pid, fd = pty.fork()
    if pid == 0:
        os.execve(args[0], args, vm.env)
    read_until(fd, b"note: getting " + bytes(vm.tmp / "fs"), 50)
    yield vm, pid, fd
    os.close(fd)
    vm.leaves_nothing()


def test_image_that_takes_long_is_announced(slow):
    vm, pid, fd = slow
    (vm.tmp / "go").touch()
    if os.geteuid():
        pytest.skip("only root's agent, on the host, may become another user")
    read_until(fd, b"ran\r\n", 50)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_ctrl_c_ends_a_run_whose_image_is_being_made(slow):
    vm, pid, fd = slow
    os.write(fd, b"\x03")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGINT
    until(lambda: not [name for name in os.listdir(vm.tmp / "cache/cairn/roots") if name != "lock"])


def endless_program(vm, name):
    """Put a program into the PATH that does not end once it has begun."""
    (vm.tmp / "bin").mkdir()
    (vm.tmp / "bin" / name).write_text(f"#!/bin/sh\ntouch {vm.tmp}/begun\nexec sleep 1000\n")
    (vm.tmp / "bin" / name).chmod(0o755)
    vm.env["PATH"] = f"{vm.tmp}/bin:{vm.env['PATH']}"
    return (vm.tmp / "begun").exists


@pytest.mark.parametrize("work", ["skopeo", "sqfstar", "digest"])
def test_killed_run_ends_the_maker_of_its_image(vm, work):
    root = vm.tmp / "root.tar"
    root.write_bytes(tar(entry("etc/")))
    if work == "digest":
        os.truncate(root, 1 << 41)
        has_begun = lambda: str(root) in open_files(next(iter(children_of(p.pid))))
    else:
        has_begun = endless_program(vm, work)
    p = vm.spawn(*(("--image", "docker://a/b") if work == "skopeo" else ("--root", root)), ("true",))
    until(lambda: children_of(p.pid) and has_begun())
    maker, = children_of(p.pid)
    fd = os.pidfd_open(maker)
    try:
        p.kill()
        p.communicate()
        until(lambda: has_ended(maker))
        assert not [name for name in os.listdir(vm.tmp / "cache/cairn/roots") if name != "lock"]
    finally:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(fd, signal.SIGKILL)
        os.close(fd)


def test_writable_folder_is_a_share(vm):
    (vm.tmp / "fs" / "etc").mkdir(parents=True)
    (vm.tmp / "fs.tar").write_bytes(tar(entry("etc/")))
    (vm.tmp / "link").symlink_to("fs")
    o = json.loads(vm.run("--print-only", "--root", "link", "--rw", ("true",), cwd=vm.tmp).stdout)
    assert [(s["path"], s["tag"], s["readonly"]) for s in o["shares"]] == [(str(vm.tmp / "fs"), "cairn-root", False)] and not o["disks"]
    for args, sentence in (
            (("--rw",), "--rw needs --root"),
            (("--image", "x", "--rw"), "--rw needs --root"),
            (("--root", "fs", "--rw", "--keep", "x"), "--rw and --keep exclude each other"),
            (("--root", "fs.tar", "--rw"), "--rw needs a folder, and fs.tar is none"),
            (("--root", "missing", "--rw"), "missing: No such file"),
            (("--root", "fs", "--rw", "--share", "cairn-root=fs"), "tag: is also the tag of shares[0]")):
        said = vm.run(*args, ("true",), status=125, cwd=vm.tmp).stderr
        assert sentence in said and len(said.splitlines()) == 2, said
