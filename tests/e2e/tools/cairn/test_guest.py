"""Verbs that reach into the guest through its agent: exec, cp, and virsh's.
tests/unit/vmm/agent/test_agent_commands.c covers the VM's process, test_linux.py both ends with Linux."""

import base64
import json
import os
import signal
import subprocess
import threading

import agentlib
import pytest
from conftest import BUILD, QmpError, until
from daemonlib import as_nobody, shared  # noqa: F401


@pytest.fixture
def agent(fake):
    a = agentlib.vm(fake)
    yield a
    a.close()


def names(agent):
    return [name for name, _ in agent.asked]


# ---- virsh's verbs ----

def test_qemu_agent_command_prints_the_answer(fake, agent):
    r = fake.cairn("qemu-agent-command", "web1", '{"execute": "guest-get-timezone"}')
    assert r.stdout == '{"return":{"zone":"CET","offset":3600}}\n'
    r = fake.cairn("qemu-agent-command", "web1", '{"execute": "guest-get-host-name"}', "--pretty", "--timeout", "100")
    assert r.stdout.count("\n") > 2 and json.loads(r.stdout) == {"return": {"host-name": "web1"}}
    assert "must be an object" in fake.cairn("qemu-agent-command", "web1", "[1]", ok=2).stderr
    assert "COMMAND" in fake.cairn("qemu-agent-command", "web1", "{", ok=2).stderr
    assert "cairn shutdown web1 --mode agent" in fake.cairn("qemu-agent-command", "web1", '{"execute": "guest-shutdown"}', ok=2).stderr
    assert "has not been found" in fake.cairn("qemu-agent-command", "web1", '{"execute": "guest-nonsense"}', ok=1).stderr
    assert "1 to 120 seconds" in fake.cairn("qemu-agent-command", "web1", '{"execute": "guest-info"}', "--timeout", "121", ok=2).stderr


def test_guestinfo_prints_virsh_keys(fake, agent):
    out = fake.cairn("guestinfo", "web1").stdout
    assert "user.count          : 1\nuser.0.name         : root\nuser.0.login-time   : 1700000000250\n" in out
    for line in ("os.id               : debian", "timezone.offset     : 3600", "hostname            : web1", "fs.count            : 2",
                 "fs.0.disk.0.device  : /dev/vda1", "disk.0.guest_bus    : virtio", "if.0.addr.0.prefix  : 24"):
        assert line in out.splitlines()
    assert fake.cairn("guestinfo", "web1", "--hostname").stdout == "hostname            : web1\n"
    assert json.loads(fake.cairn("guestinfo", "web1", "--timezone", "--format", "json").stdout) == {
        "timezone.name": "CET", "timezone.offset": 3600}


def test_guest_uses_some_of_its_processors(fake, agent):
    def shows(*lines):
        assert fake.cairn("guestvcpus", "web1").stdout == "".join(f"{k:15s}: {v}\n" for k, v in zip(("vcpus", "online", "offlinable"), lines))
    shows("0-3", "0-2", "1-3")
    assert fake.cairn("vcpucount", "web1", "--guest").stdout == "3\n"
    fake.cairn("vcpucount", "web1", "--guest", "--maximum", ok=2)
    assert fake.cairn("setvcpus", "web1", "2", "--guest").stdout == ""
    shows("0-3", "0-1", "1-3")
    fake.cairn("setvcpus", "web1", "4", "--guest")
    shows("0-3", "0-3", "1-3")
    fake.cairn("setvcpus", "web1", "4", "--guest")
    assert [args for name, args in agent.asked if name == "guest-set-vcpus"] == [
        {"vcpus": [{"logical-id": 2, "online": False}]},
        {"vcpus": [{"logical-id": 2, "online": True}, {"logical-id": 3, "online": True}]}]
    fake.cairn("guestvcpus", "web1", "--cpulist", "1,3", "--disable")
    shows("0-3", "0,2", "1-3")
    fake.cairn("guestvcpus", "web1", "--cpulist", "0-2", "--enable")
    assert json.loads(fake.cairn("guestvcpus", "web1", "--format", "json").stdout) == {"vcpus": "0-3", "online": "0-2", "offlinable": "1-3"}


def test_guest_keeps_the_processors_that_it_needs(fake, agent):
    for words, args in (("the guest has 4 processors; more come with the next start: cairn setvcpus web1 5 --config", ("setvcpus", "web1", "5", "--guest")),
                        ("the guest has no processor 4", ("guestvcpus", "web1", "--cpulist", "4", "--enable")),
                        ("the guest cannot take processor 0 offline", ("guestvcpus", "web1", "--cpulist", "0-1", "--disable"))):
        assert words in fake.cairn(*args, ok=2).stderr
    for args in (("setvcpus", "web1", "1", "--guest", "--live"), ("guestvcpus", "web1", "--enable"), ("guestvcpus", "web1", "--cpulist", "1"),
                 ("guestvcpus", "web1", "--cpulist", "1", "--enable", "--disable"), ("guestvcpus", "web1", "--cpulist", "3-1", "--enable"),
                 ("guestvcpus", "web1", "--cpulist", "1,", "--enable"), ("guestvcpus", "web1", "--cpulist", "99999", "--enable")):
        fake.cairn(*args, ok=2)
    assert "guest-set-vcpus" not in names(agent)
    agent.answers["guest-set-vcpus"] = 0
    assert "taken only 0 of 1 processors offline" in fake.cairn("setvcpus", "web1", "2", "--guest", ok=1).stderr
    agent.answers["guest-get-vcpus"] = [{"logical-id": n, "online": True, "can-offline": n > 1} for n in range(4)]
    assert "it needs at least 2" in fake.cairn("setvcpus", "web1", "1", "--guest", ok=2).stderr
    for answer in ({}, [1], [{"logical-id": -1, "online": True}], [{"logical-id": 1 << 40, "online": True}], [{"online": True}]):
        agent.answers["guest-get-vcpus"] = answer
        assert "guest-get-vcpus" in fake.cairn("guestvcpus", "web1", ok=1).stderr


def test_guestinfo_leaves_out_what_the_agent_refuses(fake, agent):
    def refuse():
        raise agentlib.Refused("disabled")
    agent.answers["guest-get-users"] = refuse
    assert "user." not in fake.cairn("guestinfo", "web1").stdout
    assert "disabled" in fake.cairn("guestinfo", "web1", "--user", ok=1).stderr


def test_file_system_verbs(fake, agent):
    assert fake.cairn("domfsinfo", "web1").stdout == (
        " Mountpoint   Name    Type    Target\n"
        "--------------------------------------\n"
        " /            vda1    ext4    vda1\n"
        " /run         tmpfs   tmpfs   \n"
        "\n")
    assert fake.cairn("domfsfreeze", "web1").stdout == "Froze 2 filesystem(s)\n"
    assert fake.cairn("domfsfreeze", "web1", "--mountpoint", "/", "--mountpoint", "/run", "--mountpoint", "/a").stdout == "Froze 3 filesystem(s)\n"
    assert fake.cairn("domfsthaw", "web1").stdout == "Thawed 2 filesystem(s)\n"
    assert fake.cairn("domfstrim", "web1", "--minimum", "4096").stdout == ""
    assert agent.asked[-1] == ("guest-fstrim", {"minimum": 4096})
    assert fake.cairn("domhostname", "web1").stdout == "web1\n"


def test_domtime(fake, agent):
    assert fake.cairn("domtime", "web1").stdout == "Time: 1700000000\n"
    assert fake.cairn("domtime", "web1", "--pretty").stdout == "Time: 2023-11-14 22:13:20\n"
    fake.cairn("domtime", "web1", "--time", "5")
    assert agent.asked[-1] == ("guest-set-time", {"time": 5 * 10**9})
    fake.cairn("domtime", "web1", "--sync")
    assert agent.asked[-1] == ("guest-set-time", {})
    assert "only one of" in fake.cairn("domtime", "web1", "--sync", "--now", ok=2).stderr


def test_passwords_are_in_no_log(fake, agent):
    r = fake.cairn("set-user-password", "web1", "root", "-", input="geheim17\n", stdin=None)
    assert r.stdout == "Password set successfully for root in web1\n"
    fake.cairn("set-user-password", "web1", "root", "$6$hash17", "--encrypted")
    asked = [args for name, args in agent.asked if name == "guest-set-user-password"]
    assert [(base64.b64decode(a["password"]), a["crypted"]) for a in asked] == [(b"geheim17", False), (b"$6$hash17", True)]
    fake.stop()  # no file of the state folder comes or goes meanwhile
    files = [f for f in fake.state.rglob("*") if f.is_file()] + [fake.log]
    kept = "".join(f.read_text(errors="replace") for f in files)
    fake.start()
    assert kept.count("guest-set-user-password") == 2 and fake.cairn("audit", "--format", "json").stdout.count("guest-set-user-password") == 2
    for secret in ("geheim17", "hash17", *(a["password"] for a in asked)):
        assert secret not in kept


# ---- exec ----

def test_exec_has_the_output_and_the_status(fake, agent):
    r = fake.cairn("exec", "web1", "--", "sh", "-c", "echo out; echo err >&2; exit 3", ok=3)
    assert (r.stdout, r.stderr) == ("out\n", "err\n")
    for status in (0, 1, 125, 255):
        fake.cairn("exec", "web1", "--", "sh", "-c", f"exit {status}", ok=status)
    assert fake.cairn("exec", "web1", "--", "sh", "-c", "kill -TERM $$", ok=128 + 15).stderr == ""


def test_exec_reports_programs_that_cannot_start(fake, agent):
    assert "No such file" in fake.cairn("exec", "web1", "--", "/missing", ok=127).stderr
    (fake.tmp / "plain").write_text("")
    assert "Permission denied" in fake.cairn("exec", "web1", "--", str(fake.tmp / "plain"), ok=126).stderr


def test_exec_passes_input_environment_and_folder(fake, agent):
    r = fake.cairn("exec", "-i", "web1", "--", "tr", "a-z", "A-Z", input="some text\n", stdin=None)
    assert r.stdout == "SOME TEXT\n"
    r = fake.cairn("exec", "-e", "A=1 2", "--env", "B=$A", "-w", "/usr/bin", "web1", "--", "sh", "-c", 'echo "$A|$B|$PWD"')
    assert r.stdout == "1 2|$A|/usr/bin\n"
    assert "more than 40960 bytes" in fake.cairn("exec", "-i", "web1", "--", "cat", input="x" * 40961, stdin=None, ok=125).stderr
    fake.cairn("exec", "web1", "--workdir", "/missing", "--", "true", ok=125)
    fake.cairn("exec", "--user", "games", "web1", "--", "true")
    assert ("guest-exec", {"path": "runuser", "arg": ["-u", "games", "--", "true"], "capture-output": True}) in agent.asked


def test_exec_output_passes_unchanged_but_not_to_a_terminal(fake, agent):
    script = r"printf '\033[2J\302\2332J\0\377\302\240ok\n'"
    with open(fake.tmp / "out", "wb") as out:
        subprocess.run([os.path.join(BUILD, "cairn"), "exec", "web1", "--", "sh", "-c", script], env=fake.env, stdout=out, check=True, timeout=50)
    assert (fake.tmp / "out").read_bytes() == b"\x1b[2J\xc2\x9b2J\0\xff\xc2\xa0ok\n"
    master, slave = os.openpty()
    subprocess.run([os.path.join(BUILD, "cairn"), "exec", "web1", "--", "sh", "-c", script], env=fake.env, stdout=slave, check=True, timeout=50)
    os.close(slave)
    assert os.read(master, 100) == b"?[2J??2J??\xc2\xa0ok\r\n"
    os.close(master)


def test_exec_as_json(fake, agent):
    r = fake.cairn("exec", "web1", "--format", "json", "--", "sh", "-c", r"echo text; printf '\377' >&2; kill -9 $$", ok=137)
    assert json.loads(r.stdout) == {"status": 137, "signal": 9, "stdout": "text\n", "stderr-base64": "/w==", "truncated": False}


def test_exec_kills_the_program_at_its_limit(fake, agent):
    r = fake.cairn("exec", "web1", "--timeout", "0.2", "--", "sleep", "100", ok=124)
    assert "time limit" in r.stderr
    until(lambda: all(p.poll() is not None for p in agent.programs.values()))  # kill, too, ends a moment later


def test_ctrl_c_goes_to_the_program(fake, agent):
    p = subprocess.Popen([os.path.join(BUILD, "cairn"), "exec", "web1", "--", "sleep", "100"], env=fake.env, stderr=subprocess.PIPE)
    until(lambda: "guest-exec-status" in names(agent))
    p.send_signal(signal.SIGINT)
    assert p.wait(50) == 128 + signal.SIGINT
    p.stderr.close()


def test_large_output_is_complete(fake, agent):
    r = fake.cairn("exec", "web1", "--", "sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x; echo")
    assert r.stdout == "x" * 3000000 + "\n"


# ---- cp ----

def test_cp_both_ways(fake, agent):
    data = os.urandom(300_000)
    (fake.tmp / "here").write_bytes(data)
    (fake.tmp / "here").chmod(0o640)
    (fake.tmp / "guest").mkdir()
    agent.root = fake.tmp / "guest"
    assert not fake.cairn("cp", str(fake.tmp / "here"), "web1:/").stderr
    assert (fake.tmp / "guest" / "here").read_bytes() == data and (fake.tmp / "guest" / "here").stat().st_mode & 0o777 == 0o640
    assert ("guest-exec", {"path": "chmod", "arg": ["640", "--", "/here"]}) in agent.asked
    (fake.tmp / "back").mkdir()
    fake.cairn("cp", "web1:/here", str(fake.tmp / "back"))
    assert (fake.tmp / "back" / "here").read_bytes() == data
    (fake.tmp / "links").mkdir()
    (fake.tmp / "links" / "here").symlink_to(fake.tmp / "elsewhere")  # of an earlier copy from the guest
    assert "Too many levels" in fake.cairn("cp", "web1:/here", str(fake.tmp / "links"), ok=False).stderr
    assert not (fake.tmp / "elsewhere").exists()
    assert fake.cairn("cp", "web1:/here", "-", encoding="latin-1").stdout.encode("latin-1") == data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    fake.cairn("cp", "-", "web1:/text", input="text\n", stdin=None)
    assert (fake.tmp / "guest" / "text").read_text() == "text\n"
    assert all(f.closed for f in agent.files.values())


def test_cp_errors(fake, agent):
    for src, dst in (("a", "b"), ("web1:/a", "web1:/b"), ("./x:y", "b")):
        assert "must be VM:PATH" in fake.cairn("cp", src, dst, ok=2).stderr
    assert "must be absolute" in fake.cairn("cp", "a", "web1:b", ok=2).stderr
    assert "is a folder" in fake.cairn("cp", str(fake.tmp), "web1:/x", ok=2).stderr
    (fake.tmp / "kept").write_text("old")
    assert "No such file" in fake.cairn("cp", "web1:/missing", str(fake.tmp / "kept"), ok=1).stderr
    assert (fake.tmp / "kept").read_text() == "old"
    assert "cannot open" in fake.cairn("cp", str(fake.tmp / "missing"), "web1:/x", ok=None).stderr


# ---- bad guests ----

GARBAGE = {
    "no JSON": b"}{",
    "a list": b"[]",
    "no return": b'{"x": 1}',
    "deep": b'{"return": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    "negative pid": b'{"return": {"pid": -7}}',
    "text as pid": b'{"return": {"pid": "\x1b[2J"}}',
    "not UTF-8": b'{"return": {"pid": "\xff\xfe"}}',
}


@pytest.mark.parametrize("line", GARBAGE.values(), ids=GARBAGE)
def test_garbage_ends_in_a_sentence(fake, agent, line):
    agent.answers.update(dict.fromkeys(("guest-exec", "guest-file-open", "guest-get-host-name", "guest-get-time"), line))
    for words, code in ((("exec", "web1", "--", "true"), 125), (("cp", "web1:/a", "-"), 1), (("domhostname", "web1"), 1), (("domtime", "web1"), 1)):
        r = fake.cairn(*words, ok=code)
        assert "malformed answer" in r.stderr and "\x1b" not in r.stderr + r.stdout


@pytest.mark.parametrize("status", [{"exited": True, "exitcode": 0, "out-data": "####"}, {"exited": True, "exitcode": 0, "out-data": "QQ"},
                                    {"exited": True, "exitcode": 0, "out-data": "Q=Q="}])
def test_malformed_output_ends_in_a_sentence(fake, agent, status):
    agent.answers["guest-exec-status"] = status
    assert "malformed answer" in fake.cairn("exec", "web1", "--", "true", ok=125).stderr


def test_file_without_end_does_not_go_on_for_ever(fake, agent):
    (fake.tmp / "x").write_text("")
    agent.answers["guest-file-read"] = {"count": 0, "buf-b64": "", "eof": False}
    assert "malformed answer" in fake.cairn("cp", "web1:/x", "-", ok=1).stderr
    agent.answers["guest-file-write"] = {"count": 0}
    (fake.tmp / "y").write_text("y")
    assert "malformed answer" in fake.cairn("cp", str(fake.tmp / "y"), "web1:/x", ok=1).stderr
    assert all(f.closed for f in agent.files.values())


def test_escape_sequences_of_the_guest_do_not_reach_the_terminal(fake, agent):
    agent.answers["guest-get-host-name"] = {"host-name": "\x1b[2Jevil"}
    assert fake.cairn("domhostname", "web1").stdout == "?[2Jevil\n"
    assert "\x1b" not in fake.cairn("guestinfo", "web1", "--hostname").stdout
    agent.answers["guest-info"] = {"name\x9b31m": {"\x7f\x85": "t\x9b31m", "end": "\0\x9b31m"}, "plain": 1}
    answer = json.loads(fake.cairn("qemu-agent-command", "web1", '{"execute": "guest-info"}').stdout)
    assert answer == {"return": {"plain": 1, "name??31m": {"???": "t??31m", "end": "???31m"}}}


def test_silent_agent_blocks_nobody_else(fake, agent):
    wait = threading.Event()
    agent.answers["guest-info"] = lambda: wait.wait(50) and {}
    p = subprocess.Popen([os.path.join(BUILD, "cairn"), "qemu-agent-command", "web1", '{"execute": "guest-info"}', "--timeout", "60"],
                         env=fake.env, stdout=subprocess.PIPE)
    until(lambda: "guest-info" in names(agent))
    assert "web1" in fake.cairn("list").stdout
    wait.set()
    assert p.communicate(timeout=50)[0] == b'{"return":{}}\n'


def test_no_agent(fake):
    fake.define("web1", cmdline="no-agent", guest_agent=True)
    assert "cairn start web1" in fake.cairn("exec", "web1", "--", "true", ok=125).stderr
    fake.cairn("start", "web1")
    assert "did not answer" in fake.cairn("exec", "web1", "--", "true", ok=125).stderr
    fake.cairn("suspend", "web1")
    assert "paused" in fake.cairn("exec", "web1", "--", "true", ok=125).stderr
    assert "missing" in fake.cairn("exec", "missing", "--", "true", ok=125).stderr


# ---- the daemon's commands ----

def test_commands_in_json(fake, agent):
    q = fake.qmp()
    command = {"execute": "guest-get-timezone"}
    r = q.run("vm-agent-query", vm="web1", command=command)
    assert json.loads(r["answer"]) == {"return": {"zone": "CET", "offset": 3600}} and r["bytes"] == len(r["answer"])
    assert q.run("vm-agent-command", vm="web1", command=command)["answer"] == r["answer"]
    r = q.run("vm-agent-query", vm="web1", command=command, fd=True)
    assert "answer" not in r
    assert json.loads(os.pread(q.fds[-1], r["bytes"], 0))["return"]["zone"] == "CET"
    for fd in q.fds:
        os.close(fd)
    agent.answers["guest-get-users"] = b'{"return": "' + b"x" * 100_000 + b'"}'
    with pytest.raises(QmpError, match='"fd": true'):
        q.run("vm-agent-query", vm="web1", command={"execute": "guest-get-users"})
    agent.answers["guest-get-users"] = b'{"return": "' + b"\x01\xff" * 1000 + b'"}'
    assert "\x01" not in q.run("vm-agent-query", vm="web1", command={"execute": "guest-get-users"})["answer"]
    for bad, why in (({}, "needs a member"), ({"execute": 1}, "needs a member"), ({"execute": "guest-exec"}, "use vm-agent-command"),
                     ({"execute": "guest-info", "arguments": {"x": "x" * 70000}}, "at most 65536")):
        with pytest.raises(QmpError, match=why):
            q.run("vm-agent-query", vm="web1", command=bad)


def test_audit_has_commands_but_not_queries(fake, agent):
    fake.cairn("exec", "-e", "SECRET=1", "-i", "web1", "--", "true", input="hidden", stdin=None)
    lines = [line for line in json.loads(fake.cairn("audit", "--format", "json").stdout) if line["command"].startswith("vm-agent")]
    assert [line["arguments"]["command"] for line in lines] == ["guest-exec"]
    assert lines[0]["arguments"]["arguments"]["input-data"] == "..." and lines[0]["vm"] == "web1"


def test_role_guest(shared):  # noqa: F811
    agent = agentlib.vm(shared)
    command = ["vm-agent-command", {"vm": "web1", "command": {"execute": "guest-get-host-name"}}]
    try:
        shared.cairn("grant", "viewer", "web1", "--user", "nobody")
        refused, = as_nobody(shared, command)
        assert "requires the role guest, and you have the role viewer" in refused["error"]["desc"] and not agent.asked
        shared.cairn("grant", "guest", "web1", "--user", "nobody")
        runs, other, info, destroy = as_nobody(shared, command, [command[0], {**command[1], "vm": "mine"}], ["vm-info", {"vm": "web1"}],
                                               ["vm-destroy", {"vm": "web1"}])
        assert json.loads(runs["return"]["answer"]) == {"return": {"host-name": "web1"}}
        assert "requires the role guest" in other["error"]["desc"]
        assert info["return"]["name"] == "web1" and "requires the role operator" in destroy["error"]["desc"]
        assert "guest" in shared.cairn("permissions").stdout
        shared.stop()
        shared.start()
        assert "return" in as_nobody(shared, command)[0]
        shared.cairn("grant", "viewer", "web1", "--user", "nobody")
        assert "requires the role guest" in as_nobody(shared, command)[0]["error"]["desc"]
    finally:
        agent.close()


# ---- a real agent ----

@pytest.fixture
def qemu_ga(fake):
    """QEMU's own agent on this machine, confined to files and programs."""
    if not agentlib.QEMU_GA:
        pytest.skip("needs qemu-ga (qemu-guest-agent)")
    path = fake.tmp / "agent.sock"
    blocked = ("guest-shutdown,guest-set-time,guest-set-user-password,guest-fsfreeze-freeze,guest-fsfreeze-freeze-list,guest-fstrim,"
               "guest-suspend-disk,guest-suspend-ram,guest-suspend-hybrid,guest-set-vcpus,guest-set-memory-blocks")
    p = subprocess.Popen([agentlib.QEMU_GA, "-m", "unix-listen", "-p", str(path), "-f", str(fake.tmp / "ga.pid"), "-t", str(fake.tmp),
                          "-b", blocked], stderr=subprocess.DEVNULL)
    until(path.exists)
    fake.define("web1", cmdline=f"agent-after=0 agent-socket={path}", guest_agent=True)
    fake.cairn("start", "web1")
    yield p
    p.kill()
    p.wait()


def test_qemu_agent_itself(fake, qemu_ga):
    assert "GuestAgent" not in fake.cairn("qemu-agent-command", "web1", '{"execute": "guest-ping"}').stdout
    r = fake.cairn("exec", "-i", "web1", "--", "sh", "-c", "cat; echo err >&2; exit 7", input="text", stdin=None, ok=7)
    assert (r.stdout, r.stderr) == ("text", "err\n")
    fake.cairn("exec", "web1", "--", "sh", "-c", "kill -9 $$", ok=137)
    fake.cairn("exec", "web1", "--", "/missing", ok=127)
    assert fake.cairn("exec", "-e", "A=b", "-w", "/usr", "web1", "--", "sh", "-c", "echo $A $PWD").stdout == "b /usr\n"
    data = os.urandom(2_500_000)
    (fake.tmp / "here").write_bytes(data)
    (fake.tmp / "here").chmod(0o700)
    fake.cairn("cp", str(fake.tmp / "here"), f"web1:{fake.tmp}/there")
    assert (fake.tmp / "there").read_bytes() == data and (fake.tmp / "there").stat().st_mode & 0o777 == 0o700
    fake.cairn("cp", f"web1:{fake.tmp}/there", str(fake.tmp / "back"))
    assert (fake.tmp / "back").read_bytes() == data
    assert "os.id " in fake.cairn("guestinfo", "web1").stdout
    assert "disabled" in fake.cairn("domfstrim", "web1", ok=1).stderr
