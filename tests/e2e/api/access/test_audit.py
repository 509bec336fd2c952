"""The audit log: no client erases it, and no power cut hides a line."""

import pytest

from conftest import QmpError
from test_daemon import audit


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


def test_line_after_torn_line_is_shown(fake):
    fake.define("a")
    fake.stop()
    with open(fake.state / "audit.log", "a") as f:
        f.write('{"time":1,"uid":0,"comm')
    fake.start()
    fake.define("after-the-cut")
    assert [x["vm"] for x in audit(fake)] == ["a", "after-the-cut"]
    assert '"comm\n{' in (fake.state / "audit.log").read_text()
