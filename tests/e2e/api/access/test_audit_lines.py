"""The audit log: which calls it has, what it leaves out, and its files."""

import json
import os
import signal
import time

import pytest

from conftest import QmpError
from daemonlib import audit


def test_audit_log_records_changes(fake):
    begin = time.time_ns()
    fake.define("vm1")
    fake.cairn("list")
    fake.cairn("start", "vm1")
    fake.cairn("resume", "vm1", ok=4)
    fake.qmp().run("vm-console", vm="vm1")  # console input
    fake.cairn("destroy", fake.info("vm1")["uuid"])
    fake.cairn("undefine", "nope", ok=3)
    rows = audit(fake)
    assert [(r["command"], r["vm"], r["outcome"]) for r in rows] == [
        ("vm-define", "vm1", "ok"), ("vm-start", "vm1", "ok"), ("vm-resume", "vm1", "WrongState"),
        ("vm-console", "vm1", "ok"), ("vm-destroy", "vm1", "ok"), ("vm-undefine", "nope", "NotFound")]
    assert all(r["uid"] == os.getuid() and r["pid"] > 0 and r["duration"] > 0 for r in rows)
    assert all(begin < r["time"] < time.time_ns() for r in rows)
    assert rows[0]["arguments"]["definition"]["name"] == "vm1"
    assert "VM 'vm1' is running" in rows[2]["error"]
    fake.stop(signal.SIGKILL)
    fake.start()
    assert audit(fake) == rows
    assert len(audit(fake, "--vm", "nope")) == 1
    assert audit(fake, "--user", str(os.getuid() + 1)) == [] == audit(fake, "--since", "2099-01-01")
    assert audit(fake, "--since", "1h", "--user", str(os.getuid())) == rows
    for bad in (["--since", "soon"], ["--user", "nobody at all"], ["--since", "5y"]):
        fake.cairn("audit", *bad, ok=2)
    table = fake.cairn("audit", "--vm", "vm1").stdout
    assert table.startswith(" Time ") and "   vm-resume    vm1      " in table and "WrongState\n" in table
    assert os.stat(fake.state / "audit.log").st_mode & 0o777 == 0o600


def test_audit_masks_secrets_and_bounds_lines(fake):
    q = fake.qmp()
    for definition in ({"name": "a", "password": "xyzzy", "list": [{"Secret-Key": "xyzzy"}]},
                       {"name": "b", "description": "x" * 20000}):
        with pytest.raises(QmpError, match="InvalidArgument"):
            q.run("vm-define", definition=definition)
    text = (fake.state / "audit.log").read_text()
    assert "xyzzy" not in text and text.count("(masked)") == 2
    assert len(text) < 4000 and '"description":"xxx' in text and 'x...(20000 bytes)"' in text


def test_long_names_are_cut_in_the_table(fake):
    """Anybody may send them, and the widest text of a column widens all lines."""
    fake.define("a" * 60)
    q = fake.qmp()
    for name in ("b" * 3000, "cc" + "\u00e4" * 60):
        with pytest.raises(QmpError):
            q.run("vm-destroy", vm=name)
    with pytest.raises(QmpError):
        q.run("net-destroy", network="d" * 200)
    rows = fake.cairn("audit").stdout.splitlines()[2:-1]
    # The 57th byte of the third name is in the middle of a character.
    assert [r[r.index("-de"):].split()[1:-3] for r in rows] == [
        ["a" * 60], ["b" * 57 + "..."], ["cc" + "\u00e4" * 27 + "..."], ["network", "d" * 49 + "..."]]
    assert audit(fake)[1]["vm"].startswith("b" * 200)


def test_audit_log_is_rotated(fake):
    fake.stop()
    line = '{"time":%d,"uid":7,"pid":1,"command":"vm-start","vm":"old","outcome":"ok","duration":1}\n'
    first = '{"base":5000}\n' + "".join(line % i for i in range(100000))
    (fake.state / "audit.log").write_text(first)
    assert len(first) > 8 << 20
    fake.start()
    fake.define("vm1")
    fake.define("vm2")
    assert (fake.state / "audit.log.1").read_text() == first
    assert (fake.state / "audit.log").read_text().startswith('{"base":%d}\n' % (5000 + len(first)))
    assert [r["vm"] for r in audit(fake, "--since", "1d")] == ["vm1", "vm2"]
    q = fake.qmp()
    page = q.run("query-audit", uid=7)
    assert len(page["lines"]) > 20 and len(json.dumps(page)) < 65536 and page["more"]
    more = q.run("query-audit", **{"from": page["next"]})
    assert more["lines"][0]["time"] == page["lines"][-1]["time"] + 1
    # A file of another format is renamed, not appended to.
    fake.stop()
    (fake.state / "audit.log").write_text("hello\n")
    fake.start()
    fake.define("vm3")
    assert (fake.state / "audit.log.1").read_text() == "hello\n"
    assert [r["vm"] for r in audit(fake, "--since", "1d")] == ["vm3"]
