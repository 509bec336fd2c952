"""cairn run without a definition file, and with options on top of one: the definition that they give, the kernel that
is found, the words for the host, and errors that name the option."""

import contextlib
import fcntl
import json
import os
import pty
import select
import shutil
import signal
import struct
import subprocess
import termios
import time

import pytest

import guestlib
from conftest import BUILD, ROOT, until
from test_run_command import Runner

CAIRN = os.path.join(BUILD, "cairn")
KIND = guestlib.host_kind()
with open(os.path.join(ROOT, "tests", "guests", "linux", "cmdline.pvm")) as f:
    PVM_WORDS = f.read().strip().removeprefix("console=ttyS0 quiet panic=-1 ")
HOST_WORDS = [PVM_WORDS] if KIND == "pvm" else []


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in ("k", "i", "other.img"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "away").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CAIRN_KERNEL", raising=False)
    return tmp_path


def run(*args, program=CAIRN, **env):
    return subprocess.run([program, "run", *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False,
                          timeout=50, env={**os.environ, **env})


def made(*args, **how):
    r = run("--print-only", *args, **how)
    assert r.returncode == 0, r.stderr
    return json.loads(r.stdout)


def words(*args, **how):
    return made(*args, **how)["boot"]["cmdline"]


def test_vm_without_a_file(folder):
    o = made("--kernel", "k")
    assert o["name"] == "vm" and o["memory"] == "512M" and o["vcpus"] == 1 and o["rng"] and o["on_reboot"] == "destroy"
    assert o["boot"] == {"kernel": str(folder / "k"), "cmdline": " ".join(["console=ttyS0 panic=-1", *HOST_WORDS])}
    assert not any(o.get(key) for key in ("disks", "interfaces", "shares"))


def test_each_option_reaches_the_definition(folder):
    subprocess.run([os.path.join(BUILD, "cairn-img"), "create", "-q", "-f", "qcow2", "-b", folder / "other.img", "-F", "raw",
                    "d.qcow2", "1M"], check=True)
    o = made("--kernel", "k", "--initrd", "i", "--append", "a=1", "--append", "b", "--memory", "64", "--cpus", "3", "--name", "web", "--disk",
             "d.qcow2,ro", "--disk", "other.img,cache=writeback", "--disk", "k,ro,format=raw", "--share", "data=away", "--share", f"out={folder}/away,rw",
             "--publish", "8080:80", "--publish", "udp:127.0.0.2:53:5353")
    assert o["name"] == "web" and o["memory"] == "64M" and o["vcpus"] == 3
    assert o["boot"]["initrd"] == str(folder / "i") and o["boot"]["cmdline"].endswith(" a=1 b")
    assert [(d["path"], d["format"], d.get("readonly", False)) for d in o["disks"]] == [
        (str(folder / "d.qcow2"), "qcow2", True), (str(folder / "other.img"), "raw", False), (str(folder / "k"), "raw", True)]
    assert [d.get("cache", "none") for d in o["disks"]] == ["none", "writeback", "none"]
    assert o["disks"][0]["backing"][0]["path"] == str(folder / "other.img")
    assert [(s["tag"], s["path"], s["readonly"]) for s in o["shares"]] == [("data", f"{folder}/away", True), ("out", f"{folder}/away", False)]
    net, = o["interfaces"]
    assert net["type"] == "user" and [(p["protocol"], p["address"], p["port"], p["to"]) for p in net["forwards"]] == [
        ("tcp", "127.0.0.1", 8080, 80), ("udp", "127.0.0.2", 53, 5353)]


def test_letter_may_have_its_value_in_the_same_word(folder):
    o = made("--kernel", "k", "-m64", "-p8080:80", "-vaway:/src", "-itu0", "--", "true")
    assert o["memory"] == "64M" and o["interfaces"][0]["forwards"][0]["port"] == 8080 and o["shares"][0]["path"] == f"{folder}/away"
    r = run("--kernel", "k", "-it", "-m", "--", "true")
    assert r.returncode == 125 and r.stderr.startswith("error: -m needs a value\n")


def test_volumes_are_shares(folder):
    (folder / "a:").mkdir()
    o = made("--kernel", "k", "-v", "away:/src", "--volume", f"{folder}/a::/b/c:ro", "-v", ".:/d:rw", "--", "true")
    assert [(s["path"], s["readonly"]) for s in o["shares"]] == [(f"{folder}/away", False), (f"{folder}/a:", True), (f"{folder}/.", False)]
    r = run("--kernel", "k", "-v", "away:/src")
    assert r.returncode == 2 and "--volume needs a command to run" in r.stderr


def test_options_on_top_of_a_file(folder):
    file = folder / "away" / "vm.json"
    file.write_text(json.dumps({"name": "x", "memory": "32M", "boot": {"kernel": "../k", "cmdline": "a b -- init words"}, "disks": [
        {"id": "vda", "path": "../other.img", "format": "raw"}], "interfaces": [{"type": "bridge", "source": "br0"}, {"type": "user"}]}))
    o = made("away/vm.json")
    assert o["boot"]["cmdline"] == "a b -- init words" and o["on_reboot"] == "restart"  # as it was
    o = made("away/vm.json", "--append", "c d", "--disk", "k", "--publish", "1:2", "--memory", "1G")
    assert o["boot"]["kernel"].endswith("away/../k") and o["boot"]["cmdline"] == "a b c d -- init words" and o["memory"] == "1024M"
    assert [d["path"] for d in o["disks"]] == [f"{folder}/away/../other.img", str(folder / "k")]  # each from its own folder
    assert len(o["interfaces"]) == 2 and o["interfaces"][1]["forwards"][0]["to"] == 2
    # Words for the host come with a kernel of the command line, or when they are asked for.
    assert words("away/vm.json", "--kernel", "k") == " ".join([*HOST_WORDS, "a b -- init words"])
    assert words("away/vm.json", "--append-for-host", "auto") == " ".join([*HOST_WORDS, "a b -- init words"])


def test_words_of_the_command_line(folder):
    """The user's words are last, because Linux takes the last one of two."""
    assert words("--kernel", "k", "--append-for-host", "none") == "console=ttyS0 panic=-1"
    assert words("--kernel", "k", "--append", "x -- y") == " ".join(["console=ttyS0 panic=-1", *HOST_WORDS, "x -- y"])
    assert words("--kernel", "k", "--append-for-host", "none", "--", "true") == "console=ttyS0 panic=-1 quiet"
    assert words("--kernel", "k", "--append-for-host", "none", "--show-console", "--", "true") == "console=ttyS0 panic=-1"


def test_firmware_boots_without_a_kernel(folder):
    o = made("--boot", "hd", "--disk", "other.img", CAIRN_KERNEL=str(folder / "k"))
    assert o["boot"]["firmware"] == "bios" and "kernel" not in o["boot"] and "cmdline" not in o["boot"]


def test_kernel_that_is_found(folder):
    (folder / "bin").mkdir()
    program = shutil.copy(CAIRN, folder / "bin" / "cairn")
    r = run("--print-only", program=program)
    assert r.returncode == 2 and f"there is no kernel: name one with --kernel PATH or CAIRN_KERNEL ({folder}/share/cairn/vmlinux does not exist)" in r.stderr
    assert "man cairn says at --kernel which options a kernel needs" in r.stderr
    assert run("--", "true", program=program).returncode == 125
    (folder / "share" / "cairn").mkdir(parents=True)
    (folder / "share" / "cairn" / "vmlinux").write_bytes(b"x")
    assert made(program=program)["boot"]["kernel"] == f"{folder}/share/cairn/vmlinux"
    r = run("--cpus", "2", "--print-only", program=program)
    assert json.loads(r.stdout)["boot"]["kernel"] == f"{folder}/share/cairn/vmlinux"
    assert r.stderr.startswith(f"warning: there is no kernel vmlinux-smp beside {folder}/share/cairn/vmlinux, so the guest may use only one of its 2 vCPUs;")
    (folder / "share" / "cairn" / "vmlinux-smp").write_bytes(b"x")
    r = run("--cpus", "2", "--print-only", program=program)
    assert json.loads(r.stdout)["boot"]["kernel"] == f"{folder}/share/cairn/vmlinux-smp" and not r.stderr
    assert made("--cpus", "1", program=program)["boot"]["kernel"] == f"{folder}/share/cairn/vmlinux"
    assert made(program=program, CAIRN_KERNEL="k")["boot"]["kernel"] == str(folder / "k")
    assert made("--kernel", "i", program=program, CAIRN_KERNEL="k")["boot"]["kernel"] == str(folder / "i")
    r = run(CAIRN_KERNEL="/missing")
    assert r.returncode == 2 and "CAIRN_KERNEL: boot.kernel: /missing: No such file or directory" in r.stderr


BAD = [
    ("--kernel", "/missing", "--kernel /missing: boot.kernel: /missing: No such file or directory"),
    ("--initrd", "/missing", "--initrd /missing: boot.initrd: /missing: No such file or directory"),
    ("--append", "x" * 2048, "--append: boot.cmdline: "),
    ("--name", "a/b", "--name a/b: name: "),
    ("--memory", "3X", "--memory 3X: memory: "),
    ("--memory", "99999999999", "--memory 99999999999: memory: "),
    ("--cpus", "two", "--cpus two must be a number of vCPUs"),
    ("--cpus", "", "--cpus  must be a number of vCPUs"),
    ("--cpus", "99999999999999999999", "must be a number of vCPUs"),
    ("--cpus", "65", "--cpus 65: vcpus: "),
    ("--disk", "/missing", "--disk /missing: disks[0].path: /missing: No such file or directory"),
    ("--disk", "k,rw", '--disk k,rw: the words behind PATH are ro, ephemeral, cache=MODE, format=raw and format=qcow2, not "rw"'),
    ("--disk", "q.img", "--disk q.img is a qcow2 image; add ,format=qcow2, or ,format=raw"),
    ("--disk", "k,cache=x,format=raw", "--disk k,cache=x,format=raw: disks[0].cache"),
    ("--share", "away", "--share away must be TAG=FOLDER or TAG=FOLDER,rw"),
    ("--share", "=away", "--share =away must be TAG=FOLDER"),
    ("--share", "data=away,x", "--share data=away,x must be TAG=FOLDER"),
    ("--share", "data=/missing", "--share data=/missing: shares[0].path: /missing: No such file or directory"),
    ("--volume", "away", "--volume away must be FOLDER:/PLACE or FOLDER:/PLACE:ro"),
    ("--volume", "away:src", "--volume away:src must be FOLDER:/PLACE"),
    ("--volume", ":/src", "--volume :/src must be FOLDER:/PLACE"),
    ("--volume", "away:/", "--volume away:/ must be FOLDER:/PLACE"),
    ("--volume", "away:/src:rx", "--volume away:/src:rx: PLACE has no colon, and the words after it are ro or rw"),
    ("--volume", "away:/src:ro:z", "PLACE has no colon"),
    ("--volume", "away:/" + "x" * 1024, "PLACE must have less than 1,000 bytes"),
    ("--publish", "80", '--publish must be like tcp:127.0.0.1:2222:22, [::]:2222:22 or, for short, 2222:22, not "80"'),
    ("--publish", "auto:80", "--publish auto:80: auto is for a running VM of the daemon (cairn forward-add); name a port, as in 8080:80"),
    ("--publish", "80:80/tcp", "--publish 80:80/tcp: the protocol comes first: tcp:80:80"),
    ("--publish", "99999:80", "--publish 99999:80: interfaces[0].forwards[0].port: 99999 is out of range"),
    ("--network", "default", '--network must be user or none, not "default"'),
    ("--append-for-host", "always", '--append-for-host must be auto or none, not "always"'),
]


@pytest.mark.parametrize("option, value, said", BAD, ids=[f"{o}={v[:20]}" for o, v, _ in BAD])
def test_error_names_the_option(folder, option, value, said):
    subprocess.run([os.path.join(BUILD, "cairn-img"), "create", "-q", "-f", "qcow2", "q.img", "1M"], check=True)
    kernel = [] if option == "--kernel" else ["--kernel", "k"]
    r = run(*kernel, option, value)
    assert r.returncode == 2 and said in r.stderr, r.stderr


def test_network_is_asked_for(folder):
    (folder / "vm.json").write_text(json.dumps({"name": "x", "memory": "32M", "boot": {"kernel": "k"}, "interfaces": [{"type": "user"}]}))
    assert not made("--kernel", "k", "--network", "none").get("interfaces")
    assert len(made("--kernel", "k", "--network", "user", "--publish", "1:2")["interfaces"]) == 1
    assert [i["type"] for i in made("--kernel", "k", "--network", "user")["interfaces"]] == ["user"]
    assert len(made("vm.json", "--network", "user")["interfaces"]) == 1 and not made("vm.json", "--network", "none").get("interfaces")
    r = run("--kernel", "k", "--network", "none", "--publish", "1:2")
    assert r.returncode == 2 and "--publish needs a network; leave out --network none" in r.stderr


def test_disk_option_errors_name_the_right_disk(folder):
    """A disk of the file comes before it."""
    (folder / "vm.json").write_text(json.dumps({"name": "x", "memory": "32M", "boot": {"kernel": "k"}, "disks": [{"path": "other.img", "format": "raw"}]}))
    assert "--disk /missing: disks[1].path: /missing" in run("vm.json", "--disk", "/missing").stderr


def test_real_guest_without_a_file(kvm, guest):
    r = run("--kernel", guest("interp.elf"), "--memory", "32", "--append-for-host", "none", "--append", "; echo hello; poweroff")
    assert "hello" in r.stdout and r.returncode == 0, (r.stdout, r.stderr)


# ---- ephemeral disks ----

WRITES = "; open 0; sum 0 8; write 0 64 7; sum 0 8; flush; poweroff"


def writer(guest, disk):
    return [CAIRN, "run", "--kernel", guest("interp.elf"), "--memory", "32M", "--append-for-host", "none", "--append", WRITES, "--disk", disk]


@pytest.fixture
def image(folder, monkeypatch):
    """A raw image, an overlay on it, and an empty folder for temporary files."""
    (folder / "base.raw").write_bytes(bytes(range(256)) * 4096)
    subprocess.run([os.path.join(BUILD, "cairn-img"), "create", "-q", "-f", "qcow2", "-b", folder / "base.raw", "-F", "raw", "top.qcow2"], check=True)
    (folder / "t").mkdir()
    monkeypatch.setenv("TMPDIR", str(folder / "t"))
    return folder


def test_ephemeral_disks_share_an_image(kvm, guest, image):
    before = [(image / name).read_bytes() for name in ("base.raw", "top.qcow2")]
    running = [subprocess.Popen(writer(guest, disk + ",ephemeral"), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
               for disk in ["base.raw", "top.qcow2"] * 6]
    said = {p.communicate(timeout=50)[0] for p in running}
    assert all(p.returncode == 0 for p in running) and len(said) == 1
    sums = [line for line in said.pop().splitlines() if line.startswith("0x")]
    assert len(sums) == 2 and sums[0] != sums[1]  # the guest reads the image, and then what it has written
    assert [(image / name).read_bytes() for name in ("base.raw", "top.qcow2")] == before
    assert not os.listdir(image / "t")


def test_ephemeral_disk_leaves_nothing_when_killed(kvm, guest, image):
    argv = writer(guest, "base.raw,ephemeral")
    argv[argv.index(WRITES)] = WRITES.replace("poweroff", "echo written")
    p = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    while p.stdout.readline() != "written\n":
        assert p.poll() is None
    assert not os.listdir(image / "t")  # the file has no name
    p.kill()
    p.communicate(timeout=50)
    assert not os.listdir(image / "t") and (image / "base.raw").read_bytes() == bytes(range(256)) * 4096


def test_vm_with_an_ephemeral_disk_is_not_shut_down(image):
    vm = Runner(image)
    vm.run("--disk", "base.raw,ephemeral", ("true",), env={"TMPDIR": str(image / "t")})
    assert not (image / "pids.button").exists()
    vm.run("--disk", "base.raw", ("true",))
    assert (image / "pids.button").exists()


@pytest.mark.parametrize("disk, said", [
    ("base.raw,ephemeral,ro", "--disk base.raw,ephemeral,ro: ro and ephemeral exclude each other"),
    ("missing.raw,ephemeral", "--disk missing.raw,ephemeral: "),
    ("/dev/null,ephemeral", "--disk /dev/null,ephemeral: disks[0].backing[0].path: /dev/null is a device"),
    ("base.raw,ephemeral,format=qcow2", "--disk base.raw,ephemeral,format=qcow2: "),
    ("top.qcow2,ephemeral", "--disk top.qcow2,ephemeral: cannot make a file in /missing: No such file or directory; name another folder in TMPDIR"),
])
def test_bad_ephemeral_disk(image, disk, said):
    env = {"TMPDIR": "/missing"} if disk.startswith("top") else {}
    r = run("--kernel", "k", "--disk", disk, **env)
    assert r.returncode in (2, 7) and said in r.stderr, r.stderr
    assert "a definition cannot have an ephemeral disk" in run("--print-only", "--kernel", "k", "--disk", "base.raw,ephemeral").stderr
    assert not os.listdir(image / "t")


def test_closed_standard_streams_are_no_disk(kvm, guest, image):
    argv = writer(guest, "base.raw,cache=writeback")
    argv[argv.index(WRITES)] = "; echo hello; poweroff"
    assert subprocess.run(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *argv], check=False, timeout=50).returncode == 0
    assert (image / "base.raw").read_bytes() == bytes(range(256)) * 4096
    r = subprocess.run(["sh", "-c", 'exec "$0" help >&-', CAIRN], check=False, timeout=50, capture_output=True, text=True)
    assert r.returncode == 1 and "cannot write the output: Bad file descriptor" in r.stderr


# ---- a VM without a command ----

def status_of(argv, **how):
    read, write = os.pipe()
    p = subprocess.run([*argv, "--status-fd", str(write)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                       check=False, timeout=50, pass_fds=[write], **how)
    os.close(write)
    with os.fdopen(read) as f:
        line, = (json.loads(x) for x in f)
    assert line["status"] == p.returncode
    return line, p


def test_status_and_time_limit_of_a_vm(kvm, guest, image):
    line, p = status_of(writer(guest, "base.raw,ephemeral"))
    assert line == {"by": "vm", "status": 0, "signal": None} and "0x" in p.stdout
    (image / "vm.json").write_text(json.dumps({"name": "x", "memory": "32M", "debug_exit": True, "boot": {
        "kernel": guest("interp.elf"), "cmdline": "echo hi; exit 21"}}))
    for limit in [], ["--timeout", "0"]:  # 0: no limit
        line, p = status_of([CAIRN, "run", *limit, "vm.json"])
        assert line == {"by": "vm", "status": 21, "signal": None} and "hi" in p.stdout
    assert "[0: no limit]" in run("--help").stdout
    line, p = status_of([CAIRN, "run", "--timeout", "0.5", "--kernel", guest("idle.elf"), "--memory", "32M"])
    assert line["by"] == "cairn" and line["reason"] == "timeout" and line["status"] == 124 and "its time limit passed" in p.stderr
    line, _ = status_of([CAIRN, "run", "--kernel", "/missing"])
    assert line["by"] == "cairn" and line["reason"] == "failed" and line["status"] == 2


def test_disk_that_another_process_has_open_is_busy(kvm, guest, image):
    """A script can try again, unlike after a wrong definition."""
    with open("base.raw", "rb") as f:
        # The byte that Cairn and QEMU lock if nobody else may write
        fcntl.fcntl(f, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 201, 1, 0))
        line, p = status_of(writer(guest, "base.raw"))
        assert line == {"by": "vm", "status": 6, "signal": None} and "vda is in use by another process" in p.stderr


def test_terminal_is_restored_after_the_time_limit(kvm, guest, folder):
    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    p = subprocess.Popen([CAIRN, "run", "--timeout", "1", "--kernel", guest("interp.elf"), "--memory", "32M"], stdin=slave, stdout=slave,
                         stderr=subprocess.DEVNULL, start_new_session=True)
    until(lambda: p.poll() is not None or termios.tcgetattr(slave) != before)
    assert p.wait(50) == 124 and termios.tcgetattr(slave) == before
    os.close(slave)
    os.close(master)


def test_key_that_ends_the_vm_is_shown_and_works(kvm, guest, folder):
    pid, terminal = pty.fork()
    if not pid:
        os.execv(CAIRN, [CAIRN, "run", "--kernel", guest("interp.elf"), "--memory", "32M"])
    shown = b""
    while b"interp" not in shown:
        shown += os.read(terminal, 1000)
    assert shown.startswith(b"Ctrl-] presses the VM's power button; pressed again, it stops the VM\r\n")
    os.write(terminal, b"\x03\necho alive\n")  # Ctrl-C is the guest's
    while b"\nalive" not in shown:
        shown += os.read(terminal, 1000)
    with contextlib.suppress(OSError):  # until the terminal has lost its last process
        while True:  # a second signal that follows at once counts as the first
            os.write(terminal, b"\x1d")
            if select.select([terminal], [], [], 0.3)[0]:
                os.read(terminal, 1000)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 13
    os.close(terminal)


def test_signals_reach_a_vm_with_a_time_limit(kvm, guest, folder):
    argv = [CAIRN, "run", "--timeout", "40", "--kernel", guest("interp.elf"), "--memory", "32M", "--append-for-host", "none", "--append", "; echo hello"]
    for sig, status in ((signal.SIGTERM, 13), (signal.SIGKILL, -9)):
        p = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while p.stdout.readline() != "hello\n":
            assert p.poll() is None
        while p.poll() is None:  # a second signal that follows at once counts as the first
            p.send_signal(sig)
            time.sleep(0.3)
        p.communicate(timeout=50)  # the VM's process, too, has closed the streams
        assert p.returncode == status


# ---- commands ----

def test_command_without_a_file(tmp_path):
    vm = Runner(tmp_path)
    how = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "text": True, "check": False, "timeout": 50, "env": vm.env}
    base = [CAIRN, "run", "--vm-program", vm.vm, "--kernel", tmp_path / "kernel", "--initrd", tmp_path / "kernel"]
    r = subprocess.run([*base, "--", "sh", "-c", "echo out; exit 3"], **how)
    assert r.returncode == 3 and r.stdout == "out\n"
    vm.leaves_nothing()
    # A word before "--" is a file.
    assert subprocess.run([*base, "true"], stderr=subprocess.PIPE, **how).stderr == (
        "error: Failed to run true\nerror: there is no file true; to run a command in a container image: cairn run --image true -- COMMAND\n")
    # With a file, a command needs no "--".
    assert subprocess.run([CAIRN, "run", "--vm-program", vm.vm, tmp_path / "vm.json", "false"], **how).returncode == 1
    vm.leaves_nothing()
