"""A short form of `make soak` (tests/soak): the daemon answers random requests of several users as the model says,
their VMs have the model's data, and a daemon without VMs has the files, threads and processes of the begin.
CAIRN_SOAK_STEPS steps of each user from CAIRN_SOAK_SEED. CAIRN_SOAK_HITS: the part of the requests
during which the daemon is killed."""

import os
import sys

import pytest

from conftest import ROOT

sys.path.insert(1, os.path.join(ROOT, "tests", "soak"))

from soak import Run  # noqa: E402

STEPS = int(os.environ.get("CAIRN_SOAK_STEPS", 24))
HITS = float(os.environ.get("CAIRN_SOAK_HITS", 0))
SEED = int(os.environ.get("CAIRN_SOAK_SEED", 1))


def soak(steps, hits=0):
    run = Run(SEED, hits)
    try:
        run.go(lambda done: done < steps)
        print(f"{run.done} operations, {run.refused} of them refused, {run.hits.ended} kills of the daemon during requests")
    finally:
        run.close()


@pytest.mark.seconds(300 + 3 * STEPS)
def test_random_requests_of_several_users_have_the_results_of_the_model(kvm, guest):
    guest("interp.elf")
    soak(STEPS)


@pytest.mark.seconds(300 + 3 * STEPS)
def test_requests_of_a_killed_daemon_are_done_or_not(kvm, guest):
    if not HITS:
        pytest.skip("part of make check-long: CAIRN_SOAK_HITS is not set")
    guest("interp.elf")
    soak(STEPS, HITS)
