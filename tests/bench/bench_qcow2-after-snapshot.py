"""qcow2-after-snapshot: 4 KiB writes into clusters that a snapshot shares: each is copied."""

from imgbench import allocating


def run(bench):
    lazy = "lazy_refcounts=on"
    allocating(bench, True, [("shm", 8000, "", "qemu-img", 8.0), ("shm", 8000, lazy, "qemu-img, lazy refcounts", 1.0),
                             ("disk", 2000, "", "qemu-img", 8.0), ("disk", 2000, lazy, "qemu-img, lazy refcounts", 1.0)])
