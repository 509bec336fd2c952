/* The test pattern, and commands that fill, check and dirty RAM. */
#define _GNU_SOURCE
#include "init.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <time.h>

#define PAGE_BYTES 4096u
#define DIRTY_SLICE_NS 10000000u /* the rate is kept over intervals of 10 ms */

/* splitmix64 of the word's index, so that each word can be computed without its predecessors. */
static uint64_t pattern_word(uint64_t index, uint64_t seed)
{
	uint64_t z = (index + 1) * 0x9e3779b97f4a7c15u + seed;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

static uint8_t pattern_byte(uint64_t pos, uint64_t seed)
{
	return (uint8_t)(pattern_word(pos / 8, seed) >> pos % 8 * 8);
}

void pattern_fill(void *buf, size_t len, uint64_t pos, uint64_t seed)
{
	uint8_t *p = buf;
	size_t i = 0;

	for (; i < len && (pos + i) % 8; i++)
		p[i] = pattern_byte(pos + i, seed);
	for (; i + 8 <= len; i += 8) {
		uint64_t w = pattern_word((pos + i) / 8, seed);

		memcpy(p + i, &w, 8);
	}
	for (; i < len; i++)
		p[i] = pattern_byte(pos + i, seed);
}

size_t pattern_check(const void *buf, size_t len, uint64_t pos, uint64_t seed)
{
	const uint8_t *p = buf;
	size_t i = 0;

	while (i < len) {
		if ((pos + i) % 8 == 0 && i + 8 <= len) {
			uint64_t w = pattern_word((pos + i) / 8, seed);

			if (!memcmp(p + i, &w, 8)) {
				i += 8;
				continue;
			}
		}
		if (p[i] != pattern_byte(pos + i, seed))
			return i;
		i++;
	}
	return len;
}

static struct {
	uint8_t *base;
	size_t bytes;
	uint64_t seed;
} filled;

static int ram_map(const char *mib, uint8_t **ret, size_t *ret_bytes)
{
	uint64_t n;
	void *p;

	if (number(mib, &n))
		return -1;
	if (!n || n > 1u << 24)
		return fail("%s MiB is out of range", mib);
	p = mmap(NULL, n << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return -errno;
	*ret = p;
	*ret_bytes = (size_t)n << 20;
	return 0;
}

static int free_ram_run(int argc, char **argv)
{
	(void)argc, (void)argv;
	if (filled.base)
		munmap(filled.base, filled.bytes);
	filled.base = NULL;
	filled.bytes = 0;
	return 0;
}

static int fill_ram_run(int argc, char **argv)
{
	uint64_t seed;
	int rc;

	if (number(argv[2], &seed))
		return -1;
	free_ram_run(argc, argv);
	rc = ram_map(argv[1], &filled.base, &filled.bytes);
	if (rc)
		return rc;
	filled.seed = seed;
	pattern_fill(filled.base, filled.bytes, 0, seed);
	say("filled %zu\n", filled.bytes);
	return 0;
}

static int verify_ram_run(int argc, char **argv)
{
	uint64_t seed = filled.seed;
	size_t good;

	if (argc > 1 && number(argv[1], &seed))
		return -1;
	if (!filled.base)
		return fail("no RAM is filled");
	good = pattern_check(filled.base, filled.bytes, 0, seed);
	if (good < filled.bytes)
		return fail("differs at %zu: %02x", good, filled.base[good]);
	say("verified %zu\n", good);
	return 0;
}

/* dirty-ram works in the background, so that the host can take a snapshot meanwhile. */
static struct {
	pthread_t thread;
	int started;
	uint8_t *base;
	size_t bytes;
	uint64_t pages_per_slice, end_ns;
	atomic_int stop, running;
	atomic_ullong pages;
} dirty;

static void *dirty_main(void *arg)
{
	uint64_t next = now_ns(), stamp = 1;
	size_t at = 0;

	while (!atomic_load(&dirty.stop) && now_ns() < dirty.end_ns) {
		struct timespec ts;

		for (uint64_t i = 0; i < dirty.pages_per_slice; i++) {
			*(volatile uint64_t *)(dirty.base + at) = stamp++;
			at = at + PAGE_BYTES < dirty.bytes ? at + PAGE_BYTES : 0;
		}
		atomic_fetch_add(&dirty.pages, dirty.pages_per_slice);
		next += DIRTY_SLICE_NS;
		ts.tv_sec = (time_t)(next / 1000000000u);
		ts.tv_nsec = (long)(next % 1000000000u);
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL);
	}
	atomic_store(&dirty.running, 0);
	return arg;
}

static void dirty_stop(void)
{
	if (!dirty.started)
		return;
	atomic_store(&dirty.stop, 1);
	pthread_join(dirty.thread, NULL);
	munmap(dirty.base, dirty.bytes);
	dirty.started = 0;
}

static int dirty_say(void)
{
	say("running %d\ndirtied %llu pages\n", atomic_load(&dirty.running),
	    (unsigned long long)atomic_load(&dirty.pages));
	return 0;
}

static int dirty_ram_run(int argc, char **argv)
{
	uint64_t rate, secs;
	int rc;

	if (!strcmp(argv[1], "stop")) {
		dirty_stop();
		return dirty_say();
	}
	if (!strcmp(argv[1], "status"))
		return dirty_say();
	if (argc < 3)
		return fail("usage: dirty-ram MIB_PER_S SECONDS [MIB] | stop | status");
	if (number(argv[1], &rate) || number(argv[2], &secs))
		return -1;
	dirty_stop();
	rc = ram_map(argc > 3 ? argv[3] : "32", &dirty.base, &dirty.bytes);
	if (rc)
		return rc;
	dirty.pages_per_slice = rate * (1048576 / PAGE_BYTES) / 100;
	dirty.end_ns = now_ns() + secs * 1000000000u;
	atomic_store(&dirty.pages, 0);
	atomic_store(&dirty.stop, 0);
	atomic_store(&dirty.running, 1);
	rc = pthread_create(&dirty.thread, NULL, dirty_main, NULL);
	if (rc) {
		munmap(dirty.base, dirty.bytes);
		return -rc;
	}
	dirty.started = 1;
	return 0;
}

const struct command ram_commands[] = {
	{"fill-ram", 2, 2, fill_ram_run, "fill-ram MIB SEED"},
	{"verify-ram", 0, 1, verify_ram_run, "verify-ram [SEED]"},
	{"free-ram", 0, 0, free_ram_run, "free-ram"},
	{"dirty-ram", 1, 3, dirty_ram_run, "dirty-ram MIB_PER_S SECONDS [MIB] | stop | status"},
	{0},
};
