/* Parallel gzip: each MiB is a gzip member of its own, and readers treat all members as one stream (RFC 1952, 2.2). Up
 * to THREADS_MAX threads compress with libdeflate, which needs its whole input at once. At level 6 on one processor:
 * 117 MB/s of Debian's static libraries to 29.2 %, against 43 MB/s and 29.5 % with zlib and pigz; random bytes 123
 * against 65 MB/s. */
#include "tools/archive/gzip.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "base/util.h"

#include <errno.h>
#include <libdeflate.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>

#define MEMBER_BYTES (1024 * 1024)
#define THREADS_MAX 16

struct member {
	uint8_t *in, *out;
	size_t in_len, out_len;
	bool done;
};

/* Members form a ring: filled, taken by a thread, compressed, written in order. */
struct gzip {
	int fd, level;
	pthread_mutex_t mutex;
	pthread_cond_t filled_more, done_more;
	unsigned filled, taken, written; /* number of members ever filled, taken and written */
	bool ended;
	size_t out_max;
	unsigned nthreads, threads_max, nmembers;
	pthread_t threads[THREADS_MAX];
	struct member members[2 * THREADS_MAX];
};

/* Wait for a filled member. Returns NULL if no more follow. */
static struct member *member_take(struct gzip *g)
{
	LOCK_GUARD(&g->mutex);

	while (g->taken == g->filled && !g->ended)
		pthread_cond_wait(&g->filled_more, &g->mutex);
	return g->taken == g->filled ? NULL : &g->members[g->taken++ % g->nmembers];
}

static void member_done(struct gzip *g, struct member *m)
{
	LOCK_GUARD(&g->mutex);

	m->done = true;
	pthread_cond_signal(&g->done_more);
}

static void *thread_main(void *opaque)
{
	struct gzip *g = opaque;
	struct libdeflate_compressor *c = libdeflate_alloc_compressor(g->level);
	struct member *m;

	/* out_len 0 means that memory is short; member_write() reports it. */
	while ((m = member_take(g))) {
		m->out_len = c ? libdeflate_gzip_compress(c, m->in, m->in_len, m->out, g->out_max) : 0;
		member_done(g, m);
	}
	libdeflate_free_compressor(c);
	return NULL;
}

/* Write the oldest member when it is compressed. */
static int member_write(struct gzip *g)
{
	struct member *m = &g->members[g->written % g->nmembers];

	pthread_mutex_lock(&g->mutex);
	while (!m->done)
		pthread_cond_wait(&g->done_more, &g->mutex);
	pthread_mutex_unlock(&g->mutex);
	m->done = false;
	g->written++;
	return m->out_len ? write_full(g->fd, m->out, m->out_len) : -ENOMEM;
}

static int member_fill(struct gzip *g, const void *buf, size_t len)
{
	struct member *m = &g->members[g->filled % g->nmembers];

	if (!m->in) {
		m->in = malloc(MEMBER_BYTES);
		m->out = malloc(g->out_max);
	}
	if (!m->in || !m->out)
		return -ENOMEM;
	memcpy(m->in, buf, len);
	m->in_len = len;

	LOCK_GUARD(&g->mutex);
	g->filled++;
	pthread_cond_signal(&g->filled_more);
	return 0;
}

/* Add threads only as long as there is work: a small archive needs few. */
static int thread_add(struct gzip *g)
{
	int r;

	if (g->nthreads == g->threads_max)
		return 0;
	r = -pthread_create(&g->threads[g->nthreads], NULL, thread_main, g);
	if (!r)
		g->nthreads++;
	return g->nthreads ? 0 : r;
}

struct gzip *gzip_new(int fd, int level)
{
	struct gzip *g = calloc(1, sizeof(*g));

	if (!g)
		return NULL;
	g->out_max = libdeflate_gzip_compress_bound(NULL, MEMBER_BYTES);
	g->fd = fd;
	g->level = level;
	g->threads_max = MIN(THREADS_MAX, (unsigned)get_nprocs());
	g->nmembers = 2 * g->threads_max;
	pthread_mutex_init(&g->mutex, NULL);
	pthread_cond_init(&g->filled_more, NULL);
	pthread_cond_init(&g->done_more, NULL);
	return g;
}

int gzip_write(struct gzip *g, const void *buf, size_t len)
{
	const uint8_t *p = buf;
	int r = 0;

	for (size_t n; len && !r; p += n, len -= n) {
		n = MIN(len, MEMBER_BYTES);
		if (g->filled - g->written == g->nmembers)
			r = member_write(g);
		if (!r)
			r = thread_add(g);
		if (!r)
			r = member_fill(g, p, n);
	}
	return r;
}

int gzip_end(struct gzip *g)
{
	int r = 0;

	while (g->written != g->filled && !r)
		r = member_write(g);
	return r;
}

void gzip_free(struct gzip *g)
{
	if (!g)
		return;
	pthread_mutex_lock(&g->mutex);
	g->ended = true;
	g->taken = g->filled;
	pthread_cond_broadcast(&g->filled_more);
	pthread_mutex_unlock(&g->mutex);
	for (unsigned i = 0; i < g->nthreads; i++)
		pthread_join(g->threads[i], NULL);
	for (unsigned i = 0; i < g->nmembers; i++) {
		free(g->members[i].in);
		free(g->members[i].out);
	}
	pthread_cond_destroy(&g->filled_more);
	pthread_cond_destroy(&g->done_more);
	pthread_mutex_destroy(&g->mutex);
	free(g);
}
