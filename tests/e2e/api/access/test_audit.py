"""The audit log: no client erases it, and no power cut hides a line."""

import json
import os
import socket

import pytest

from conftest import QmpError, until
from daemonlib import as_nobody, audit, shared  # noqa: F401
from otherslib import NOBODY, run_as_user


def test_refused_calls_do_not_wipe_the_log(fake):
    """48 calls of 1 MB would take more than all files of the log, if a line had the whole name of the client."""
    fake.define("a")
    q = fake.qmp()
    for _ in range(48):
        with pytest.raises(QmpError, match="NotFound"):
            q.run("vm-start", vm="x" * 1000000)
    lines = audit(fake)
    assert [x["command"] for x in lines] == ["vm-define"] + ["vm-start"] * 48
    assert all(x["vm"].endswith("x...(1000000 bytes)") and len(x["vm"]) == 255 for x in lines[1:])
    assert sum(p.stat().st_size for p in fake.state.glob("audit.log*")) < 50 * 4096


def test_line_of_a_network_names_it_and_no_vm(fake):
    q = fake.qmp()
    for command, args in (("net-define", {"definition": {"name": "lan"}}), ("net-start", {"network": "lan"})):
        with pytest.raises(QmpError):
            q.run(command, **args)
    assert [(x["command"], x.get("vm")) for x in audit(fake)] == [("net-define", None), ("net-start", None)]
    rows = [line.split() for line in fake.cairn("audit").stdout.splitlines() if "net-" in line]
    assert [row[row.index("network"):][:2] for row in rows] == [["network", "lan"]] * 2


def test_user_does_not_push_out_lines_of_others(shared):  # noqa: F811
    """Without a limit, the user's lines would fill all files of the log. Calls above the limit run, and the log has
    their number."""
    calls = 12000
    shared.cairn("grant", "operator", "--user", "nobody")
    before = audit(shared)
    os.chmod(shared.socket, 0o666)
    assert [x["command"] for x in before] == ["vm-define", "vm-define", "permission-grant"]

    def flood(say):
        s = socket.socket(socket.AF_UNIX)
        s.connect(shared.socket)
        f = s.makefile()
        f.readline()
        request = json.dumps({"execute": "vm-start",
                              "arguments": {"vm": "nothing", **{f"k{i}": "x" * 255 for i in range(13)}}}).encode()
        s.sendall(b'{"execute":"qmp_capabilities"}')
        f.readline()
        for _ in range(calls):
            s.sendall(request)
            if '"error"' not in f.readline():
                raise AssertionError
        say(calls)

    assert run_as_user(flood) == [calls]
    shared.define("late")
    lines = audit(shared)
    assert lines[:3] == before and lines[-1]["vm"] == "late"
    users = [x for x in lines if x["uid"] == NOBODY]
    size = sum(p.stat().st_size for p in shared.state.glob("audit-users.log*"))
    assert size / len(users) * calls > 40 << 20
    assert 1 << 20 < size < 3 << 20
    assert f'"uid":{NOBODY}' not in (shared.state / "audit.log").read_text()
    shared.stop()
    shared.start()
    count = audit(shared, "--user", str(NOBODY))[-1]
    assert (count["left-out"], count["outcome"]) == (calls - len(users), "any")
    # Lines may be left out before the last one that is written: the user's share grows meanwhile.
    assert users[0]["time"] < count["since"] < count["time"]
    assert f"({count['left-out']} more)" in shared.cairn("audit", "--user", "nobody").stdout


def test_lines_of_root_and_users_are_shown_by_time(shared):  # noqa: F811
    """Root's lines and users' lines are in different files."""
    shared.cairn("grant", "operator", "--user", "nobody")
    for _ in range(3):
        shared.cairn("start", "mine")
        as_nobody(shared, ["vm-destroy", {"vm": "mine"}])
    assert [(x["command"], x["uid"]) for x in audit(shared)][3:] == [("vm-start", 0), ("vm-destroy", NOBODY)] * 3
    assert [x["command"] for x in audit(shared, "--user", str(NOBODY))] == ["vm-destroy"] * 3
    for name, uid in (("audit.log", 0), ("audit-users.log", NOBODY)):
        lines = [json.loads(line) for line in (shared.state / name).read_text().splitlines()[1:]]
        assert lines and {x["uid"] for x in lines} == {uid}


@pytest.fixture
def journal(fake):
    """A journal's socket, to which the daemon sends."""
    s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    s.bind(str(fake.tmp / "journal"))
    fake.stop()
    fake.env["CAIRN_JOURNAL"] = str(fake.tmp / "journal")
    fake.start()
    yield s
    s.close()


def received(journal, identifier, begin=""):
    """Return the fields of the next message with this identifier that begins so."""
    while True:
        fields = dict(x.split("=", 1) for x in journal.recv(65536).decode().splitlines())
        if fields["SYSLOG_IDENTIFIER"] == identifier and fields["MESSAGE"].startswith(begin):
            return fields


def test_journal_gets_events_of_vms_with_fields(fake, journal):
    fake.define("web1")
    fake.cairn("start", "web1")
    uuid, seen = fake.info("web1")["uuid"], []
    while "VM_STATE_CHANGE" not in seen:
        fields = received(journal, "cairnd")
        assert (fields["CAIRN_VM"], fields["CAIRN_VM_UUID"], fields["PRIORITY"]) == ("web1", uuid, "6")
        seen.append(fields["CAIRN_EVENT"])
        start = f"VM 'web1': {seen[-1]} "
        assert fields["MESSAGE"].startswith(start) and isinstance(json.loads(fields["MESSAGE"].removeprefix(start)), dict)


def test_journal_gets_lines_about_a_vm_with_its_name(fake, journal):
    """Lines of the log go to the journal if standard error is the journal's, and to standard error if it takes none."""
    st = fake.log.stat()
    fake.stop()
    fake.env["JOURNAL_STREAM"] = f"{st.st_dev}:{st.st_ino}"
    before = fake.log.read_bytes()
    # Each step has fewer lines than a socket takes without a reader (net.unix.max_dgram_qlen, 10).
    fake.start()
    started = received(journal, "cairnd", "start: Cairn ")
    assert "CAIRN_VM" not in started and started["PRIORITY"] == "6"
    fake.define("web1")
    received(journal, "cairnd", "VM 'web1': VM_DEFINED")
    fake.cairn("start", "web1")
    line = received(journal, "cairnd", "state: ")
    assert line == {"PRIORITY": "6", "SYSLOG_FACILITY": "3", "SYSLOG_IDENTIFIER": "cairnd", "CAIRN_VM": "web1",
                    "MESSAGE": "state: VM 'web1': running (booted)"}
    assert fake.log.read_bytes() == before
    journal.close()
    fake.cairn("destroy", "web1")
    until(lambda: b"info cairnd/state: VM 'web1': shut off" in fake.log.read_bytes().removeprefix(before))


def test_log_is_not_sent_if_stderr_is_not_the_journals(fake, journal):
    fake.stop()
    fake.env["JOURNAL_STREAM"] = "1:1"
    fake.start()
    fake.define("web1")
    received(journal, "cairnd", "VM 'web1': VM_DEFINED")
    assert " info cairnd/start: Cairn " in fake.log.read_text().split("cairnd/stop: ")[-1]


def test_journal_gets_copy_of_each_line(fake, journal):
    fake.define("a")
    with pytest.raises(QmpError, match="NotFound"):
        fake.qmp().run("vm-start", vm="x\nPRIORITY=0\n")
    for line in audit(fake):
        fields = received(journal, "cairnd-audit")
        assert json.loads(fields.pop("MESSAGE")) == line
        assert fields == {"PRIORITY": "5", "SYSLOG_FACILITY": "10", "SYSLOG_IDENTIFIER": "cairnd-audit", "CAIRN_AUDIT_UID": str(os.geteuid()),
                          "CAIRN_VM": line["vm"]}


def test_journal_that_reads_nothing_delays_nothing(fake, journal):
    """A journal that restarts delays nothing either. The log files have all lines."""
    calls = 2000
    q = fake.qmp()
    for _ in range(calls):
        with pytest.raises(QmpError, match="NotFound"):
            q.run("vm-start", vm="none")
    assert len(audit(fake)) == calls
    assert fake.log.read_text().count("the journal takes no copies of audit lines") == 1
    journal.close()
    os.unlink(fake.tmp / "journal")
    fake.define("a")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as again:
        again.bind(str(fake.tmp / "journal"))
        fake.define("b")
        assert '"name":"b"' in received(again, "cairnd-audit")["MESSAGE"]
    assert "it lacks" in fake.log.read_text()


def test_line_after_torn_line_is_shown(fake):
    fake.define("a")
    fake.stop()
    with open(fake.state / "audit.log", "a") as f:
        f.write('{"time":1,"uid":0,"comm')
    fake.start()
    fake.define("after-the-cut")
    assert [x["vm"] for x in audit(fake)] == ["a", "after-the-cut"]
    assert '"comm\n{' in (fake.state / "audit.log").read_text()
