"""qcow2-large: random 4 KiB reads of 64 GiB, with the cache that grows with use, compared with all tables cached."""

from imgbench import ROUNDS, Box, mapped_image


def run(bench):
    for place, count, in [("shm", 200000), ("disk", 40000)]:
        for scattered in (False, True):
            with Box(bench, place, 1024) as box:
                name = mapped_image(box, "a", 64, 512, scattered)

                def rate(*cache):
                    args = ["--random", "-s", "4k", "-c", str(count), *cache]
                    return count / box.bench_seconds(box.ours, name, *args)
                rate()
                bench.compare(f"{'scattered' if scattered else 'in order'}, {place}", "IOPS", rate,
                              lambda: rate("--cache-bytes", "64M"), "64 MiB of cache", 0.9, rate=True, rounds=ROUNDS)
