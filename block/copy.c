/* One thread reads and the other writes. A few chunks circulate between their loops. */
#include "block/copy.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/loop.h"
#include "base/util.h"
#include "block/block.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Small enough that a chunk is still in the CPU cache when it is written. */
#define CHUNK_BYTES (256 * KIB)
#define CHUNKS 12
/* Maximum number of chunks that are read at the same time, and of those that are written. Files in memory complete all
 * requests together, so a thread that had all chunks in flight would stall the other thread. */
#define AT_A_TIME 4
/* CHUNKS and AT_A_TIME for targets that bypass the page cache, because their writes take as long as a disk's. */
#define CHUNKS_DIRECT 16
#define AT_A_TIME_DIRECT 8
/* If data is contiguous in a file for at least a chunk and the target bypasses the page cache, write it straight from a
 * mapping of the file, without a copy by the CPU. Only the kernel reads the mapping, so if the file shrinks, the write
 * fails with an errno and nobody gets SIGBUS. Zeros within such data are not detected. */
#define MAPPED_BYTES (2 * MIB)
#define MAP_ALIGN 4096u
/* Data is searched for zeros in pieces of a cluster of the target, at most of this length. */
#define PIECE_BYTES_MAX 4096u
#define PIECES_MAX (CHUNK_BYTES / BLOCK_SECTOR_BYTES)

struct copy;

struct chunk {
	struct loop_task task; /* passes the chunk to the other thread */
	struct copy *c;
	struct chunk *next; /* next spare chunk, or next chunk to write */
	struct block_req req;
	struct iovec iov;
	uint8_t *buf;
	uint8_t *map; /* mapping of len bytes, used instead of buf; NULL: none */
	uint64_t off, len;
	bool hole;      /* len bytes of zeros, of any length; buf is unused */
	bool skip;	/* len bytes that the target's backing file has; buf is unused */
	bool zeros[PIECES_MAX]; /* whether each piece is written as zeros */
	uint64_t done;  /* bytes that are written or skipped */
};

struct copy {
	const struct block_copy *o;
	uint64_t size_bytes;
	uint64_t below_from, below_to; /* sizes of the backing files of both disks */
	uint32_t block_bytes; /* the logical block of the source */
	uint32_t piece_bytes; /* a multiple of the logical block of the target */
	bool direct; /* the write bypasses the page cache */
	struct chunk chunks[MAX(CHUNKS, CHUNKS_DIRECT)];
	unsigned nchunks, at_a_time;
	atomic_bool stop; /* the reader or the writer has failed */

	/* The reader's fields: */
	uint64_t pos;
	struct chunk *spare;
	unsigned nspare, reading;
	int read_res;
	uint64_t bad_off, bad_len; /* what could not be read, if read_res is an error */

	/* The writer's fields: */
	struct loop_task over_task;
	bool over; /* no further chunk will come */
	struct chunk *waiting, **waiting_tail;
	unsigned writing;
	uint64_t finished;
	int write_res;
};

static void copy_failed(struct copy *c, int *res_of_mine, int res)
{
	if (!*res_of_mine)
		*res_of_mine = res;
	atomic_store(&c->stop, true);
}

/* ---- the writing thread ---- */

static void chunk_return(struct loop_task *t)
{
	struct chunk *k = container_of(t, struct chunk, task);

	if (k->map)
		munmap(k->map, k->len);
	k->map = NULL;
	k->next = k->c->spare;
	k->c->spare = k;
	k->c->nspare++;
}

/* Find the next stretch of the chunk that is all zeros, or all data. */
static uint64_t extent_stretch(const struct chunk *k, bool *ret_zero)
{
	uint64_t piece_bytes = k->c->piece_bytes, i = k->done / piece_bytes;

	*ret_zero = k->hole;
	if (k->hole || k->skip || k->map)
		return k->len - k->done;
	*ret_zero = k->zeros[i];
	do
		i++;
	while (i * piece_bytes < k->len && k->zeros[i] == *ret_zero);
	return MIN(i * piece_bytes, k->len) - k->done;
}

static void chunk_next(struct chunk *k);
static void write_waiting(struct copy *c);

static void chunk_written(struct block_req *r, int res)
{
	struct chunk *k = container_of(r, struct chunk, req);
	struct copy *c = k->c;

	if (res < 0)
		copy_failed(c, &c->write_res, res);
	k->done += r->len;
	chunk_next(k);
	write_waiting(c);
}

/* Return whether the target reads as zeros already at off; limit *n to the stretch for which this holds. */
static bool zeros_are_there(const struct copy *c, uint64_t off, uint64_t *n)
{
	if (!c->o->to_is_zero)
		return false;
	if (off < c->below_to) {
		*n = MIN(*n, c->below_to - off);
		return false;
	}
	return true;
}

/* Write the rest of the chunk: data and zeros alternately, one stretch at a time. */
static void chunk_next(struct chunk *k)
{
	struct copy *c = k->c;

	while (!c->write_res && k->done < k->len) {
		bool zero;
		uint64_t n = extent_stretch(k, &zero);

		if (k->skip || (zero && zeros_are_there(c, k->off + k->done, &n))) {
			k->done += n;
			continue;
		}
		k->iov = (struct iovec){ (k->map ? k->map : k->buf) + k->done, n };
		k->req = (struct block_req){ .op = zero ? BLOCK_WRITE_ZEROES : BLOCK_WRITE,
			.flags = zero ? BLOCK_REQ_MAY_UNMAP : 0, .offset = k->off + k->done, .len = n,
			.iov = &k->iov, .niov = zero ? 0 : 1, .done = chunk_written };
		block_submit(c->o->to, &k->req);
		return;
	}
	c->finished += k->len;
	c->writing--;
	k->task.run = chunk_return;
	loop_post(c->o->from_loop, &k->task);
}

static void write_waiting(struct copy *c)
{
	while (c->waiting && c->writing < c->at_a_time) {
		struct chunk *k = c->waiting;

		c->waiting = k->next;
		if (!c->waiting)
			c->waiting_tail = &c->waiting;
		c->writing++;
		chunk_next(k);
	}
}

static void chunk_arrived(struct loop_task *t)
{
	struct chunk *k = container_of(t, struct chunk, task);
	struct copy *c = k->c;

	k->next = NULL;
	*c->waiting_tail = k;
	c->waiting_tail = &k->next;
	write_waiting(c);
}

static void reader_done(struct loop_task *t)
{
	container_of(t, struct copy, over_task)->over = true;
}

/* ---- the reading thread ---- */

static void chunk_send(struct chunk *k)
{
	k->done = 0;
	k->task.run = chunk_arrived;
	loop_post(k->c->o->loop, &k->task);
}

/* Find the pieces of zeros. Runs that are shorter than the copy's limit count as data. */
static void zeros_find(struct chunk *k)
{
	const struct block_copy *o = k->c->o;
	uint64_t run = 0, piece_bytes = k->c->piece_bytes, pieces = DIV_ROUND_UP(k->len, piece_bytes);
	uint64_t least = DIV_ROUND_UP(MIN(o->sparse_bytes, CHUNK_BYTES), piece_bytes);

	for (uint64_t i = 0; i < pieces; i++)
		k->zeros[i] = !o->dense && bytes_are_zero(k->buf + i * piece_bytes, MIN(piece_bytes, k->len - i * piece_bytes));
	for (uint64_t i = 0; i <= pieces && least > 1; i++) {
		if (i < pieces && k->zeros[i]) {
			run++;
			continue;
		}
		for (; run && run < least; run--)
			k->zeros[i - run] = false;
		run = 0;
	}
}

static void read_failed(struct copy *c, uint64_t off, uint64_t len, int res)
{
	if (!c->read_res) {
		c->bad_off = off;
		c->bad_len = len;
	}
	copy_failed(c, &c->read_res, res);
}

static void chunk_read(struct block_req *r, int res);

/* Read [k->done, k->done + len) of the chunk into its buffer. */
static void piece_read(struct chunk *k, uint64_t len)
{
	k->iov = (struct iovec){ k->buf + k->done, len };
	k->req = (struct block_req){ .op = BLOCK_READ, .offset = k->off + k->done, .len = len, .iov = &k->iov,
		.niov = 1, .done = chunk_read };
	k->c->reading++;
	block_submit(k->c->o->from, &k->req);
}

/* With o->unreadable, a chunk that cannot be read is read again block by block. */
static void chunk_read(struct block_req *r, int res)
{
	struct chunk *k = container_of(r, struct chunk, req);
	struct copy *c = k->c;

	c->reading--;
	if (res < 0 && !c->o->unreadable) {
		read_failed(c, r->offset, r->len, res);
		chunk_return(&k->task);
		return;
	}
	if (res < 0 && r->len == c->block_bytes) {
		c->o->unreadable(c->o->opaque, r->offset, res);
		memset(k->buf + k->done, 0, r->len);
		res = 0;
	}
	if (!res)
		k->done += r->len;
	if (k->done < k->len) {
		piece_read(k, c->block_bytes);
		return;
	}
	zeros_find(k);
	chunk_send(k);
}

/* Map the extent's data and populate the mapping. Returns false if the data must be read instead. */
static bool chunk_map(struct chunk *k, const struct block_extent *x)
{
	uint64_t len = MIN(x->len, MAPPED_BYTES);
	void *p;

	if (!k->c->direct || x->zero || x->compressed || !x->has_host || x->host % MAP_ALIGN || len < CHUNK_BYTES)
		return false;
	p = mmap(NULL, len, PROT_READ, MAP_PRIVATE, block_extent_fd(k->c->o->from, x), (off_t)x->host);
	if (p == MAP_FAILED)
		return false;
	madvise(p, len, MADV_WILLNEED); /* read all of it at once */
	if (madvise(p, len, MADV_POPULATE_READ) < 0) {
		munmap(p, len); /* the file ends there or is unreadable; a normal read reports it */
		return false;
	}
	k->map = p;
	k->len = len;
	return true;
}

/* Describe the next stretch. With o->unreadable, a stretch whose tables cannot be read counts as data, so its
 * blocks fail one by one. The stretch ends with a piece, so that no piece lies in two clusters of the target; a piece
 * of which only a part is a hole is data. */
static int extent_next(const struct copy *c, struct block_extent *x)
{
	int r = block_extent(c->o->from, c->pos, c->size_bytes - c->pos, x); /* runs the loop */

	if (r < 0 && c->o->unreadable) {
		*x = (struct block_extent){ .present = true, .len = MIN(CHUNK_BYTES, c->size_bytes - c->pos) };
		r = 0;
	}
	if (!r && x->len < c->size_bytes - c->pos) {
		uint64_t end = ROUND_DOWN(c->pos + x->len, (uint64_t)c->piece_bytes);

		if (end <= c->pos) {
			*x = (struct block_extent){ .present = true };
			end = MIN(ROUND_DOWN(c->pos, (uint64_t)c->piece_bytes) + c->piece_bytes, c->size_bytes);
		}
		x->len = end - c->pos;
	}
	return r;
}

/* Start the next chunk: a hole of known length, a stretch that the target's backing file has, mapped data, or data
 * up to a chunk's size. */
static int chunk_start(struct copy *c)
{
	bool over = c->o->over_backing;
	struct block_extent x;
	struct chunk *k;
	int r = extent_next(c, &x);

	if (r < 0)
		return r;
	k = c->spare;
	c->spare = k->next;
	c->nspare--;
	k->off = c->pos;
	k->done = 0;
	k->skip = over && c->pos < c->below_from && (!x.present || x.layer);
	k->hole = !k->skip && x.zero && !c->o->dense;
	if (k->skip)
		k->len = MIN(x.len, c->below_from - c->pos);
	else if (k->hole)
		k->len = x.len;
	else if (!chunk_map(k, &x))
		k->len = MIN(CHUNK_BYTES, over ? x.len : c->size_bytes - c->pos);
	c->pos += k->len;
	if (k->skip || k->hole || k->map)
		chunk_send(k);
	else
		piece_read(k, k->len);
	return 0;
}

static bool read_more(const struct copy *c)
{
	return c->pos < c->size_bytes && !c->read_res && !atomic_load(&c->stop) &&
		!(c->o->stop && c->o->stop(c->o->opaque));
}

/* Returns the ns to wait before the next read; 0: read now. */
static uint64_t chunk_hold(const struct copy *c)
{
	return c->o->hold ? c->o->hold(c->o->opaque, c->pos) : 0;
}

static void *reader_thread(void *opaque)
{
	struct copy *c = opaque;
	uint64_t wait_ns;

	while (read_more(c) || c->nspare < c->nchunks) {
		while (c->spare && c->reading < c->at_a_time && read_more(c) && !chunk_hold(c)) {
			int r = chunk_start(c);

			if (r < 0)
				read_failed(c, c->pos, c->size_bytes - c->pos, r);
		}
		wait_ns = read_more(c) ? chunk_hold(c) : 0;
		if (read_more(c) || c->nspare < c->nchunks)
			loop_run_once(c->o->from_loop, wait_ns ? wait_ns : UINT64_MAX);
	}
	c->over_task.run = reader_done;
	loop_post(c->o->loop, &c->over_task);
	return NULL;
}

static int copy_run(struct copy *c)
{
	pthread_t thread;
	int r = 0;

	for (unsigned i = 0; i < c->nchunks && !r; i++) {
		struct chunk *k = &c->chunks[i];

		k->c = c;
		k->buf = aligned_alloc(4096, CHUNK_BYTES);
		r = k->buf ? 0 : -ENOMEM;
		chunk_return(&k->task);
	}
	if (!r)
		r = -pthread_create(&thread, NULL, reader_thread, c);
	if (!r) {
		while (!c->over) {
			loop_run_once(c->o->loop, UINT64_MAX);
			if (c->o->progress)
				c->o->progress(c->o->opaque, c->finished, c->size_bytes);
		}
		pthread_join(thread, NULL);
		r = c->read_res ? c->read_res : c->write_res;
	}
	for (unsigned i = 0; i < c->nchunks; i++)
		free(c->chunks[i].buf);
	return r;
}

int block_copy(const struct block_copy *o, struct err *e)
{
	struct copy c = { .o = o, .waiting_tail = &c.waiting };
	struct block_info info, to;
	int r;

	block_info(o->from, &info);
	block_info(o->to, &to);
	c.size_bytes = info.size_bytes;
	c.below_from = info.backing_bytes;
	c.below_to = to.backing_bytes;
	c.block_bytes = info.logical_block_bytes;
	c.piece_bytes = to.format == BLOCK_FORMAT_QCOW2 ? MIN(to.discard_granularity, PIECE_BYTES_MAX) : PIECE_BYTES_MAX;
	c.direct = to.direct;
	c.nchunks = to.direct ? CHUNKS_DIRECT : CHUNKS;
	c.at_a_time = to.direct ? AT_A_TIME_DIRECT : AT_A_TIME;
	r = copy_run(&c);
	if (c.read_res)
		return block_read_error(o->from, c.bad_off, c.bad_len, r, e);
	if (r < 0)
		return err_set_errno(e, r, "copying failed");
	return o->stop && o->stop(o->opaque) ? err_set(e, -ECANCELED, ERR_CANCELLED, "the copy was cancelled") : 0;
}
