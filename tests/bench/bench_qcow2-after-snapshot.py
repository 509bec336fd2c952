"""qcow2-after-snapshot: 4 KiB writes into clusters that a snapshot shares, each of which is copied."""

from imgbench import COPYING, allocating


def run(bench):
    lazy = "lazy_refcounts=on"
    allocating(bench, True, [("shm", 8000, "", "qemu-img", 8.0), ("shm", 8000, lazy, "qemu-img, lazy refcounts", 1.0),
                             ("shm", 8000, "", COPYING, 0.8), ("disk", 2000, "", "qemu-img", 8.0),
                             ("disk", 2000, lazy, "qemu-img, lazy refcounts", 1.0), ("disk", 2000, "", COPYING, 0.7)])
