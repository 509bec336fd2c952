"""VMs with all kinds of policies, clients with random requests, and a daemon that is killed, or stopped together
with them, at any moment; sometimes the host seems to have booted. In the end every VM can be stopped and
undefined. CAIRN_POLICY_ROUNDS rounds from CAIRN_POLICY_SEED."""

import json
import os
import random
import signal

import pytest

from conftest import QmpError, until

ROUNDS = int(os.environ.get("CAIRN_POLICY_ROUNDS", 4))
SEED = int(os.environ.get("CAIRN_POLICY_SEED", 1))
VMS = [f"vm{i}" for i in range(12)]
VERBS = [["start"], ["shutdown"], ["destroy"], ["reboot"], ["shutdown", "--in", "1s"], ["shutdown", "--cancel"],
         ["reset"], ["suspend"], ["resume"], ["managedsave"], ["autostart"], ["autostart", "--disable"]]


def define(d, rng, vm):
    keys = {"idle": {"after": "1s", "action": rng.choice(["save", "suspend"])}} if rng.random() < 0.4 else {}
    d.define(vm, cmdline=rng.choice(["kill-after=300", "off-after=300", "panic-after=200", "deaf", None]),
             on_crash=rng.choice(["restart", "destroy"]), on_poweroff=rng.choice(["restart", "destroy"]),
             restart={"delay": 0, "tries": rng.choice([0, 3]), "max_delay": 1}, guest_agent=True,
             shutdown={"deadline": 1, "then": rng.choice(["leave", "save", "destroy"])},
             stop_action=rng.choice(["leave", "shutdown", "save"]), order=rng.randrange(3), **keys)


def end_somehow(d, rng):
    chance = rng.random()
    if chance < 0.5:
        d.stop(signal.SIGKILL)
        if rng.random() < 0.3:
            path = d.state / "boot.json"
            path.write_text(json.dumps({**json.loads(path.read_text()), "boot_id": "another"}))
        d.start()
    elif chance < 0.7:
        d.cairn("daemon-stop")
        assert d.proc.wait(30) == 0
        d.start()


def forgotten(q, vm):
    for command, args in (("vm-destroy", {}), ("vm-undefine", {"managed_save": True})):
        try:
            q.run(command, vm=vm, **args)
        except QmpError as e:
            if e.cls == "NotFound":
                return True
    return False


@pytest.mark.seconds(60 + 3 * ROUNDS)
def test_random_policies_and_kills_leave_vms_manageable(fake):
    rng = random.Random(SEED)
    for vm in VMS:
        define(fake, rng, vm)
    for _ in range(ROUNDS):
        for _ in range(10):
            verb = rng.choice(VERBS)
            r = fake.cairn(*verb, rng.choice(VMS), ok=None)
            assert 0 <= r.returncode <= 7, (verb, r)
        end_somehow(fake, rng)
    q = fake.qmp()
    for vm in VMS:
        until(lambda vm=vm: forgotten(q, vm))
    assert q.run("vm-list")["vms"] == []
    print(f"{ROUNDS} rounds, {10 * ROUNDS} calls were done")
