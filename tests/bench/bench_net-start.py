"""net-start: a NAT network with DHCP, DNS and IPv6, from nothing until dnsmasq serves."""

import os
import tempfile
import time

from benchlib import Unfit
from hostnetlib import IPV6, Host, network

START_MS = 100
ROUNDS = 9


def run(bench):
    if os.geteuid():
        raise Unfit("needs root, for network namespaces")
    n = network(ipv6=IPV6)
    with tempfile.TemporaryDirectory(prefix="cairn-bench-") as folder:
        host = Host(folder)

        def up_and_down():
            begin = time.perf_counter_ns()
            host.do("up", n)
            ms = (time.perf_counter_ns() - begin) / 1e6
            host.do("down", n)
            return ms
        try:
            times = [up_and_down() for _ in range(ROUNDS + 1)][1:]
        finally:
            host.close()
    bench.pairs("cairn-net up", "ms", [(ms, START_MS) for ms in times], "target", 1.0)
