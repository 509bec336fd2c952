"""Check answers and events against the schema: no unknown member, no missing one, and the types of all. The client of
the tests (conftest.py) checks each message of a daemon, so that each test shows that the schema is complete."""

import functools
import json
import pathlib

import guestlib

BUILTINS = {"string": str, "int": int, "boolean": bool, "object": dict, "array": list, "number": (int, float), "null": type(None),
            "value": object}


class Schema:
    """The schema of a socket, as schema-get returns it."""

    def __init__(self, entries):
        self.by_name = {e["name"]: e for e in entries}
        self.jobs = {e["job-type"]: e["result-type"] for e in entries if "job-type" in e}

    def fault(self, name, value, at):
        """Return where and why a value does not fit the type; None: it fits."""
        type = self.by_name[name]
        meta = type["meta-type"]
        if meta == "builtin":
            kind = type["json-type"]
            if isinstance(value, BUILTINS[kind]) and not (isinstance(value, bool) and kind in ("int", "number")):
                return None
            return f"{at}: {value!r} is no {kind}"
        if meta == "enum":
            return None if value in type["values"] else f"{at}: {value!r} is none of {type['values']}"
        if meta == "alternate":
            faults = [self.fault(m["type"], value, at) for m in type["members"]]
            return None if None in faults else faults[0]
        if not isinstance(value, list if meta == "array" else dict):
            return f"{at}: {value!r} is no {meta}"
        if meta == "array":
            return next(filter(None, (self.fault(type["element-type"], v, f"{at}[{i}]") for i, v in enumerate(value))), None)
        if meta == "map":
            return next(filter(None, (self.fault(type["value-type"], v, f"{at}.{k}") for k, v in value.items())), None)
        return self.object_fault(type["members"], value, at)

    def object_fault(self, members, value, at):
        members = {m["name"]: m for m in members}
        for k in members.keys() - value.keys():
            if "default" not in members[k]:
                return f"{at}.{k}: is missing"
        for k, v in value.items():
            if k not in members:
                return f"{at}.{k}: is not in the schema"
            if f := self.fault(members[k]["type"], v, f"{at}.{k}"):
                return f
        return None

    def job_fault(self, job):
        """Return what is wrong with the result of a job: its type depends on the job's."""
        return self.fault(self.jobs[job["type"]], job["result"], f"result of {job['type']}") if "result" in job else None

    def answer_fault(self, command, answer):
        fault = self.fault(self.by_name[command]["ret-type"], answer, command)
        if not fault and command in ("query-jobs", "job-wait") and self.jobs:
            fault = next(filter(None, map(self.job_fault, answer if command == "query-jobs" else [answer])), None)
        return fault


@functools.cache
def schemas():
    """Return the schemas of the daemon's socket and of a VM's own."""
    text = json.loads(pathlib.Path(guestlib.BUILD, "gen", "api.json").read_text())
    return Schema(text["daemon"]), Schema(text["vm"])


def checked(faults):
    """Fail unless the message fits one of the sockets that know its command or event."""
    faults = list(faults)
    assert not faults or None in faults, f"the schema differs: {faults[0]}"


def check_answer(command, answer):
    checked((s.answer_fault(command, answer) for s in schemas() if command in s.by_name))


def check_event(m):
    """Check a message if it is an event, and return it."""
    if "event" in m:
        checked((s.fault(s.by_name[m["event"]]["arg-type"], m.get("data", {}), m["event"])
                             for s in schemas() if m["event"] in s.by_name))
    return m
