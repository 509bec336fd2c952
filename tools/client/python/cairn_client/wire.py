"""Parts that both clients share: messages, objects from JSON and back, errors. No input or output happens here."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

T = TypeVar("T")
ASK_AGAIN_S = 2  # seconds; whoever waits for a job gets no event if it was filtered out, or after a change of roles


def default_socket() -> str:
    """Return the path of the socket: $CAIRN_SOCKET, or else that of the user's daemon or the system's."""
    path = os.environ.get("CAIRN_SOCKET")
    run = os.environ.get("XDG_RUNTIME_DIR")
    state = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    own = os.path.join(run, "cairn", "cairn.sock") if run else os.path.join(state, "cairn", "run", "cairn.sock")
    return path or (own if os.path.exists(own) else "/run/cairn/cairn.sock")


def connect_error(e: OSError, path: str) -> OSError:
    """Return e with the path of the socket, and in the class that its errno has."""
    return OSError(e.errno, f"cannot connect to cairnd: {e.strerror}", path)


class CairnError(Exception):
    """The daemon refused a command, or a job failed. Each class of errors has a subclass, see `errors`."""

    error_class = "GenericError"

    def __init__(self, error_class: str, desc: str) -> None:
        super().__init__(desc)
        self.error_class = error_class
        self.desc = desc


class ConnectionLost(Exception):
    """The daemon has ended the connection."""


_errors: dict[str, type[CairnError]] = {}


def error_type(name: str) -> type[CairnError]:
    """Return the exception of a class of errors. It is made when the class is new."""
    if name not in _errors:
        _errors[name] = type(name, (CairnError,), {"error_class": name})
    return _errors[name]


def register(error: type[CairnError]) -> type[CairnError]:
    _errors[error.error_class] = error
    return error


def error_of(error: Mapping[str, str]) -> CairnError:
    return error_type(error["class"])(error["class"], error["desc"])


def entry_of(id: str, entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what query-jobs says of a job."""
    if not entries:
        raise error_of({"class": "NotFound", "desc": f"job {id} is gone: a client has dismissed it, or later jobs have displaced it"})
    return entries[0]


class Object:
    """An object of the schema. `_fields`: of each member its name in JSON, its attribute, and how to read it."""

    _fields: ClassVar[tuple[tuple[str, str, Any], ...]] = ()


def _read(how: Any, value: Any) -> Any:
    if how is None or value is None:
        return value
    if isinstance(how, tuple):
        kind, of = how
        if kind is list:
            return [_read(of, v) for v in value]
        return {k: _read(of, v) for k, v in value.items()}
    return decode(how, value)


def decode(of: type[T], value: Mapping[str, Any]) -> T:
    """Make an object of a class from api. Members that a newer daemon adds are left out."""
    fields = of._fields  # type: ignore[attr-defined]
    return of(**{attribute: _read(how, value[key]) for key, attribute, how in fields if key in value})


def encode(value: Any) -> Any:
    """Return a value for JSON: objects of api as dictionaries, and without members that are None."""
    if isinstance(value, Object):
        pairs = ((key, getattr(value, attribute)) for key, attribute, _ in value._fields)
        return {k: encode(v) for k, v in pairs if v is not None}
    if isinstance(value, Mapping):
        return {k: encode(v) for k, v in value.items()}
    return [encode(v) for v in value] if isinstance(value, (list, tuple)) else value


def command(name: str, arguments: Mapping[str, Any]) -> bytes:
    """Return a command's message. Arguments that are None are left out."""
    m: dict[str, Any] = {"execute": name}
    given = {k: encode(v) for k, v in arguments.items() if v is not None}
    if given:
        m["arguments"] = given
    return json.dumps(m).encode() + b"\n"


class Lines:
    """Messages, and the files that come with them, from bytes as they arrive."""

    def __init__(self) -> None:
        self._rest = b""
        self._fds: list[int] = []  # of the message that `_rest` begins

    def feed(self, data: bytes, fds: list[int]) -> list[tuple[dict[str, Any], list[int]]]:
        """Return the complete messages, each with its files. fds: came with the data. A file comes with the first byte
        of its message, and recvmsg() reads nothing behind that message. So it is of the last one that begins in the
        data."""
        begun = not self._rest
        *lines, self._rest = (self._rest + data).split(b"\n")
        got: list[list[int]] = [[] for _ in lines]
        if lines:
            got[0], self._fds = self._fds, []
        if self._rest and (begun or lines):
            self._fds = fds
        elif lines:
            got[-1] += fds
        return list(zip(map(json.loads, lines), got))

    def close(self) -> None:
        close_all(self._fds)


def close_all(fds: list[int]) -> None:
    while fds:
        os.close(fds.pop())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Event(Object):
    """An event. `timestamp`: seconds of the real time. `seq`: its number, for `since` of query_events(); None: the
    daemon does not store the event."""

    name: ClassVar[str] = ""
    timestamp: float
    seq: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnknownEvent(Event):
    """An event that this version of the client does not know."""

    event: str
    data: dict[str, Any]


def event_of(m: Mapping[str, Any], known: Mapping[str, type[Event]]) -> Event:
    at = m["timestamp"]["seconds"] + m["timestamp"]["microseconds"] / 1e6
    data = m.get("data", {})
    of = known.get(m["event"])
    if of is None:
        return UnknownEvent(timestamp=at, seq=m.get("seq"), event=m["event"], data=data)
    return of(timestamp=at, seq=m.get("seq"), **{attribute: _read(how, data[key]) for key, attribute, how in of._fields if key in data})


def finished(m: Mapping[str, Any]) -> str | None:
    """Return the id of the job that has concluded with this event."""
    data = m.get("data", {})
    done = m["event"] == "JOB_STATUS_CHANGE" and data["status"] in ("concluded", "null")
    return data["id"] if done else None
