"""Verbs that wait for a VM or a job, and what they print when it is gone or does not come."""

import json
import os
import socket
import subprocess
import threading
import time

import pytest

from clilib import cairn
from conftest import BUILD


def test_wait_returns_at_requested_state(fake):
    fake.define("vm1")
    fake.define("deaf", cmdline="deaf")
    r = fake.cairn("wait", "vm1", "--for", "running", "--timeout", "0.1", ok=1)
    assert "timeout: the VM is not running; see cairn domstate --reason vm1\n" in r.stderr
    waiter = subprocess.Popen([os.path.join(BUILD, "cairn"), "wait", "vm1", "--for", "running"],
                              env=fake.env)
    fake.cairn("start", "vm1", "deaf")
    assert waiter.wait(50) == 0
    assert fake.cairn("shutdown", "--wait", "--timeout", "50", "vm1").stdout == (
        "Domain 'vm1' is being shutdown\nDomain 'vm1' is shut off\n")
    start = time.monotonic()
    r = fake.cairn("shutdown", "--wait", "--timeout", "0.5", "deaf", ok=1)
    assert 0.4 < time.monotonic() - start
    assert "Domain 'deaf' is still running" in r.stderr and "cairn destroy deaf" in r.stderr
    assert fake.cairn("domstate", "--reason", "deaf").stdout == "in shutdown (user)\n"
    fake.cairn("wait", "nope", "--for", "running", ok=3)


def test_shutdown_that_waits_says_what_stops_a_deaf_guest(fake):
    """The note comes without a time limit of the test; then the verb waits on."""
    fake.define("deaf", cmdline="deaf")
    fake.cairn("start", "deaf")
    with subprocess.Popen([os.path.join(BUILD, "cairn"), "shutdown", "--wait", "deaf"], env=fake.env, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True) as p:
        assert p.stderr.readline() == ("note: domain 'deaf' is not off yet; if its guest ignores the request, try cairn shutdown deaf "
                                       "--mode agent, or stop it with cairn destroy deaf\n")
        fake.cairn("destroy", "deaf")
        assert p.communicate() == ("Domain 'deaf' is being shutdown\nDomain 'deaf' is shut off\n", "") and p.returncode == 0


class Script:
    """A daemon for one client that answers each command from a table and then sends the events in it."""

    def __init__(self, tmp, answers):
        """answers: for each command, its answer and a list of events, or an iterator of them."""
        self.path, self.answers = str(tmp / "s"), answers
        self.listening = socket.socket(socket.AF_UNIX)
        self.listening.bind(self.path)
        self.listening.listen()
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        with self.listening, self.listening.accept()[0].makefile("rw") as client:
            self.say(client, {"QMP": {"version": {}}})
            for line in client:
                command = json.loads(line)
                answer = self.answers.get(command["execute"], ({"return": {}}, []))
                answer, events = answer if isinstance(answer, tuple) else next(answer)
                self.say(client, {**answer, "id": command["id"]})
                for event, data in events:
                    self.say(client, {"event": event, "data": data})

    def say(self, client, what):
        client.write(json.dumps(what) + "\n")
        client.flush()


@pytest.mark.parametrize("how, says", [({}, "the VM was undefined meanwhile"),
                                       ({"renamed-to": "vm2"}, "the VM was renamed meanwhile; wait for 'vm2'")])
def test_wait_ends_when_the_vm_is_gone(tmp_path, how, says):
    off = {"return": {"name": "vm1", "word": "shutoff"}}
    s = Script(tmp_path, {"vm-info": (off, [("VM_UNDEFINED", {"vm": "vm3"}), ("VM_UNDEFINED", {"vm": "vm1", **how})])})
    r = cairn("-c", s.path, "wait", "vm1", "--for", "running")
    assert (r.returncode, r.stderr) == (3, f"error: failed to get domain 'vm1'\nerror: {says}\n")


@pytest.mark.parametrize("error, code", [({}, 0), ({"error": "no space", "error-class": "NoSpace"}, 1)])
def test_result_of_job_that_cannot_be_dismissed_is_told(tmp_path, error, code):
    job = {"id": "job1", "status": "concluded", "result": {"name": "s1"}, **error}
    s = Script(tmp_path, {"snapshot-create": ({"return": {"job": "job1"}},
                                              [("JOB_STATUS_CHANGE", {"id": "job1", "status": "concluded"})]),
                          "query-jobs": ({"return": [job]}, []),
                          "job-dismiss": ({"error": {"class": "NotFound", "desc": "no job 'job1'"}}, [])})
    r = cairn("-c", s.path, "snapshot-create-as", "vm1", "s1")
    assert r.returncode == code and "no job" not in r.stderr
    assert "no space" in r.stderr if error else "s1" in r.stdout


def test_jobs_are_listed_anew_if_the_last_of_a_page_was_dismissed(tmp_path):
    gone = {"error": {"class": "NotFound", "desc": "after: there is no job 'job2' any more"}}
    pages = [{"return": [{"id": "job1"}, {"id": "job2"}]}, gone, {"return": [{"id": "job1"}, {"id": "job3"}]}, {"return": []}]
    s = Script(tmp_path, {"query-jobs": iter([(page, []) for page in pages])})
    r = cairn("-c", s.path, "jobs", "--format", "json")
    assert r.returncode == 0 and [j["id"] for j in json.loads(r.stdout)] == ["job1", "job3"]
