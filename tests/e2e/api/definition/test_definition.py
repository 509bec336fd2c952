"""Effects of a definition's keys on a guest."""

import json
import os
import time

import pytest

import guestlib
from conftest import Qmp


def rtc(guest, register):
    guest.command(f"outb 0x70 {register}")
    (value,) = guest.command("inb 0x71")
    return int(f"{int(value, 0):x}")  # BCD


def test_cdrom_is_read_only_and_empty_without_medium(kvm, tmp_path):
    """A read-only disk; without a medium, a disk of zero sectors."""
    iso = tmp_path / "a.iso"
    iso.write_bytes(b"CD001" + bytes(65531))
    with guestlib.interp(disks=[{"device": "cdrom", "path": str(iso), "format": "raw"}, {"device": "cdrom"}]) as g:
        g.command("open 0")
        assert g.values("info")["sectors"] == 128
        with pytest.raises(guestlib.GuestError, match="I/O error"):
            g.command("write 0 1 3")
        g.command("open 1")
        assert g.values("info")["sectors"] == 0
        with pytest.raises(guestlib.GuestError, match="I/O error"):
            g.command("sum 0 1")
    assert iso.read_bytes()[:5] == b"CD001"


def test_clock_shows_local_time_when_configured(kvm):
    """The hardware clock shows local time when configured, UTC otherwise."""
    env = {**os.environ, "TZ": "JST-9"}
    for clock, ahead in (("localtime", 9), ("utc", 0)):
        d = guestlib.definition(clock=clock)
        with guestlib.Guest(d, env=env) as g:
            g.expect("interp\n")
            before = time.gmtime(time.time() + ahead * 3600).tm_hour
            hour = rtc(g, 4)
            after = time.gmtime(time.time() + ahead * 3600).tm_hour
            assert hour in (before, after)


def test_inserted_medium_is_there_at_next_start(kvm, daemon, tmp_path):
    """QMP shows an empty drive as well; an inserted medium is there at the next start."""
    iso = tmp_path / "a.iso"
    iso.write_bytes(bytes(4096))
    d = guestlib.definition("v", "idle", disks=[{"device": "cdrom"}])
    daemon.define(**d)
    for medium in (False, True):
        daemon.cairn("start", "v")
        q = Qmp(daemon.cairn("qmp-path", "v").stdout.strip())
        (b,) = q.run("query-block")
        assert b["removable"] is True and ("inserted" in b) == medium
        assert len(q.run("query-named-block-nodes")) == medium
        q.close()
        if not medium:
            assert "whose guest would not see the medium change" in daemon.cairn("change-media", "v", "vda", str(iso), "--insert", ok=False).stderr
            daemon.cairn("change-media", "v", "vda", str(iso), "--insert", "--config")
        daemon.cairn("managedsave", "v")
        assert json.loads(daemon.cairn("dumpjson", "v").stdout)["disks"][0]["readonly"] is True
        daemon.cairn("start", "v", "--force-boot")
        daemon.cairn("destroy", "v")
