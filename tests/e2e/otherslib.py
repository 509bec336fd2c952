"""otherslib: Python code that runs as another user, such as a hostile client of a daemon that others can reach
(the fixture `shared` of daemonlib.py). Needs root. as_nobody() of daemonlib.py is enough for commands and their
answers."""

import contextlib
import json
import os
import signal
import traceback

NOBODY = 65534
CHILD_SECONDS = 300  # ends a child whose test was killed


def child_main(function, uid, groups, out):
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(CHILD_SECONDS)
    os.setgroups(groups)
    os.setgid(uid)
    os.setuid(uid)
    with os.fdopen(out, "w", buffering=1) as f:
        function(lambda value: print(json.dumps(value), file=f))


@contextlib.contextmanager
def as_user(function, uid=NOBODY, groups=()):
    """Run function(say) in a process of that user until the block ends. say(value) sends a JSON value; the block gets
    a file with one line for each, which ends with the process."""
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(r)
            child_main(function, uid, groups, w)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(w)
    try:
        with os.fdopen(r) as lines:
            yield lines
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def run_as_user(function, **kwargs):
    """Run function(say) as that user to its end. Return what it said."""
    with as_user(function, **kwargs) as lines:
        return [json.loads(line) for line in lines]
