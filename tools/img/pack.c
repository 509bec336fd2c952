/* convert -c: one thread reads and writes, the others compress. Pieces are written in the order of the disk. */
#include "pack.h"
#include "base/cleanup.h"

#include "base/util.h"
#include "block/qcow2/pack.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PIECE_BYTES (2 * MIB)
#define WORKERS_MAX 64u

enum piece_state { PIECE_IDLE, PIECE_READING, PIECE_QUEUED, PIECE_DONE };

struct piece {
	struct loop_task task;
	struct pack *k;
	struct piece *next; /* next in the queue */
	enum piece_state state;
	struct block_req req;
	struct iovec iov;
	uint64_t off, len;
	uint64_t done; /* bytes that are read */
	uint8_t *in, *out;
	uint32_t *sizes; /* per cluster: 0: zeros; cluster_bytes: stored plain; else length of the compressed stream */
};

struct pack {
	const struct img_pack *o;
	uint32_t cluster_bytes;
	uint64_t size, pos;
	uint64_t data_end; /* end of the stretch from pos on that pieces may read */
	struct piece *pieces;
	unsigned npieces, first; /* first: the next piece to write */
	int res;
	bool unreadable; /* the error is that [bad_off, bad_off + bad_len) cannot be read */
	uint64_t bad_off, bad_len;
	pthread_t threads[WORKERS_MAX];
	unsigned nthreads;
	pthread_mutex_t lock;
	pthread_cond_t more;
	struct piece *queue, **queue_tail;
	bool stop;
};

/* ---- the compressing threads ---- */

static void piece_compress(struct piece *p, struct qcow2_compressor *z)
{
	uint32_t n = p->k->cluster_bytes;

	for (uint64_t i = 0; i * n < p->len; i++) {
		const uint8_t *in = p->in + i * n;
		uint32_t *size = &p->sizes[i];

		if (!p->k->o->how->dense && !in[0] && !memcmp(in, in + 1, n - 1)) {
			*size = 0;
			continue;
		}
		*size = (uint32_t)qcow2_compress(z, in, p->out + i * n);
		if (!*size)
			*size = n;
	}
}

static void piece_compressed(struct loop_task *t)
{
	container_of(t, struct piece, task)->state = PIECE_DONE;
}

static struct piece *queue_take(struct pack *k)
{
	struct piece *p;

	pthread_mutex_lock(&k->lock);
	while (!k->queue && !k->stop)
		pthread_cond_wait(&k->more, &k->lock);
	p = k->queue;
	if (p) {
		k->queue = p->next;
		if (!k->queue)
			k->queue_tail = &k->queue;
	}
	pthread_mutex_unlock(&k->lock);
	return p;
}

static void *worker_thread(void *opaque)
{
	struct pack *k = opaque;
	struct qcow2_compressor *z = qcow2_compressor_new(k->o->compression, k->cluster_bytes);
	struct piece *p;

	while ((p = queue_take(k))) {
		if (z) {
			piece_compress(p, z);
		} else { /* out of memory: store the clusters plain */
			for (uint64_t i = 0; i * k->cluster_bytes < p->len; i++)
				p->sizes[i] = k->cluster_bytes;
		}
		loop_post(k->o->loop, &p->task);
	}
	qcow2_compressor_free(z);
	return NULL;
}

static void queue_put(struct pack *k, struct piece *p)
{
	p->next = NULL;
	p->state = PIECE_QUEUED;
	p->task.run = piece_compressed;
	LOCK_GUARD(&k->lock);
	*k->queue_tail = p;
	k->queue_tail = &p->next;
	pthread_cond_signal(&k->more);
}

/* ---- reading and writing pieces ---- */

static void piece_read(struct block_req *r, int res);

/* Read the next len bytes of the piece. */
static void piece_submit(struct piece *p, uint64_t len)
{
	p->iov = (struct iovec){ p->in + p->done, len };
	p->req = (struct block_req){ .op = BLOCK_READ, .offset = p->off + p->done, .len = len, .iov = &p->iov,
		.niov = 1, .done = piece_read };
	block_submit(p->k->o->from, &p->req);
}

static int read_failed(struct pack *k, uint64_t off, uint64_t len, int res)
{
	if (k->res)
		return k->res;
	k->unreadable = true;
	k->bad_off = off;
	k->bad_len = len;
	return k->res = res;
}

/* With how->salvage, a piece that cannot be read is read again block by block. */
static void piece_read(struct block_req *r, int res)
{
	struct piece *p = container_of(r, struct piece, req);
	const struct img_copy_how *how = p->k->o->how;
	struct block_info info;

	if (res < 0 && !how->salvage) {
		read_failed(p->k, r->offset, r->len, res);
		p->state = PIECE_IDLE;
		return;
	}
	block_info(p->k->o->from, &info);
	if (res < 0 && r->len == info.logical_block_bytes) {
		img_copy_warn(how, r->offset, res);
		memset(p->in + p->done, 0, r->len);
		res = 0;
	}
	if (!res)
		p->done += r->len;
	if (p->done < p->len) {
		piece_submit(p, info.logical_block_bytes);
		return;
	}
	memset(p->in + p->len, 0, ROUND_UP(p->len, p->k->cluster_bytes) - p->len);
	queue_put(p->k, p);
}

static void piece_start(struct pack *k, struct piece *p)
{
	p->k = k;
	p->off = k->pos;
	p->len = MIN(PIECE_BYTES, k->data_end - k->pos);
	p->done = 0;
	p->state = PIECE_READING;
	k->pos += p->len;
	piece_submit(p, p->len);
}

static int zeros_put(struct pack *k, uint64_t off, uint64_t len)
{
	return k->o->to->zero ? k->o->to->zero(k->o->to, off, len) : 0;
}

static int piece_write(struct pack *k, struct piece *p)
{
	uint32_t n = k->cluster_bytes;
	int r = 0;

	for (uint64_t i = 0; i * n < p->len && !r; i++) {
		uint64_t off = p->off + i * n, len = MIN(n, p->len - i * n);

		if (!p->sizes[i])
			r = zeros_put(k, off, len);
		else if (len < n && k->o->to->exists) /* the target's disk may be longer */
			r = k->o->to->add(k->o->to, off, p->in + i * n, len, true);
		else if (p->sizes[i] == n)
			r = k->o->to->add(k->o->to, off, p->in + i * n, n, true);
		else
			r = k->o->to->add(k->o->to, off, p->out + i * n, p->sizes[i], false);
	}
	p->state = PIECE_IDLE;
	return r;
}

/* Known zeros; data; content of the target's backing file. */
enum { STRETCH_ZERO, STRETCH_DATA, STRETCH_BELOW };

/* Describe the stretch from pos on. Returns one of the values above; -errno. */
static int stretch_next(struct pack *k, uint64_t *ret_len)
{
	const struct img_copy_how *how = k->o->how;
	struct block_extent x;
	struct block_info info;
	int r = block_extent(k->o->from, k->pos, k->size - k->pos, &x);

	*ret_len = k->size - k->pos;
	if (r < 0)
		return how->salvage ? STRETCH_DATA : read_failed(k, k->pos, *ret_len, r);
	block_info(k->o->from, &info);
	if (how->over_backing && k->pos < info.backing_bytes && (!x.present || x.layer)) {
		*ret_len = MIN(x.len, info.backing_bytes - k->pos);
		return STRETCH_BELOW;
	}
	if (how->over_backing || x.zero)
		*ret_len = x.len;
	return x.zero && !how->dense ? STRETCH_ZERO : STRETCH_DATA;
}

/* Pass known zeros to the destination without reading them, and leave out content that the target's backing file has.
 * Stop at a cluster boundary, where the next piece starts, and set data_end. */
static int holes_skip(struct pack *k)
{
	while (k->pos < k->size) {
		uint64_t len, next;
		int kind = stretch_next(k, &len), r = 0;

		if (kind < 0)
			return kind;
		next = k->pos + len == k->size ? k->size : ROUND_DOWN(k->pos + len, k->cluster_bytes);
		if (kind == STRETCH_DATA || next == k->pos) {
			k->data_end = MIN(ROUND_UP(k->pos + len, k->cluster_bytes), k->size);
			return 0;
		}
		if (kind == STRETCH_ZERO)
			r = zeros_put(k, k->pos, next - k->pos);
		if (r < 0)
			return r;
		k->pos = next;
	}
	return 0;
}

static bool pack_step(struct pack *k)
{
	bool busy = false;

	while (!k->res && k->pieces[k->first].state == PIECE_DONE) {
		k->res = piece_write(k, &k->pieces[k->first]);
		k->first = (k->first + 1) % k->npieces;
	}
	/* The pieces form a ring, so they are read and written in order. */
	for (unsigned i = 0; i < k->npieces && !k->res && !img_interrupted(); i++) {
		struct piece *p = &k->pieces[(k->first + i) % k->npieces];
		int r;

		if (p->state != PIECE_IDLE)
			continue;
		r = holes_skip(k); /* runs the loop, so a read may fail meanwhile */
		k->res = k->res ? k->res : r;
		if (k->res || k->pos == k->size || !img_rate_allows(k->o->rate, k->pos))
			break;
		piece_start(k, p);
	}
	for (unsigned i = 0; i < k->npieces; i++)
		busy |= k->res || img_interrupted() ? k->pieces[i].state == PIECE_READING ||
			k->pieces[i].state == PIECE_QUEUED : k->pieces[i].state != PIECE_IDLE;
	return busy || (!k->res && !img_interrupted() && k->pos < k->size);
}

/* Not sysconf(), which opens a file. */
static unsigned cpus_count(void)
{
	cpu_set_t cpus;

	return sched_getaffinity(0, sizeof(cpus), &cpus) < 0 ? WORKERS_MAX : (unsigned)CPU_COUNT(&cpus);
}

static int pieces_make(struct pack *k)
{
	unsigned want = MIN(MAX(cpus_count(), 1u), (unsigned)WORKERS_MAX);

	k->npieces = 2 * want + 2;
	k->pieces = calloc(k->npieces, sizeof(*k->pieces));
	if (!k->pieces)
		return -ENOMEM;
	for (unsigned i = 0; i < k->npieces; i++) {
		struct piece *p = &k->pieces[i];

		p->in = aligned_alloc(4096, PIECE_BYTES);
		p->out = malloc(PIECE_BYTES);
		p->sizes = calloc(PIECE_BYTES / k->cluster_bytes, sizeof(*p->sizes));
		if (!p->in || !p->out || !p->sizes)
			return -ENOMEM;
	}
	for (; k->nthreads < want; k->nthreads++)
		if (pthread_create(&k->threads[k->nthreads], NULL, worker_thread, k))
			break;
	return k->nthreads ? 0 : -EAGAIN;
}

static void pieces_free(struct pack *k)
{
	pthread_mutex_lock(&k->lock);
	k->stop = true;
	pthread_cond_broadcast(&k->more);
	pthread_mutex_unlock(&k->lock);
	for (unsigned i = 0; i < k->nthreads; i++)
		pthread_join(k->threads[i], NULL);
	for (unsigned i = 0; k->pieces && i < k->npieces; i++) {
		free(k->pieces[i].in);
		free(k->pieces[i].out);
		free(k->pieces[i].sizes);
	}
	free(k->pieces);
}

int img_pack(const struct img_pack *o, struct err *e)
{
	struct pack k = { .o = o, .cluster_bytes = o->cluster_bytes, .lock = PTHREAD_MUTEX_INITIALIZER,
		.more = PTHREAD_COND_INITIALIZER };
	struct block_info info;
	int r;

	block_info(o->from, &info);
	k.size = info.size_bytes;
	k.queue_tail = &k.queue;
	r = pieces_make(&k);
	while (!r && pack_step(&k)) {
		/* Looking for holes also runs the loop, so a piece may be done by now. */
		loop_run_once(o->loop, k.pieces[k.first].state == PIECE_DONE ? 0
			: img_rate_wait_ns(o->rate, k.pos));
		img_progress_set(o->progress, k.pos, k.size);
	}
	pieces_free(&k);
	if (!r)
		r = k.res;
	if (r == -ECANCELED || r >= 0)
		return img_check_interrupted(e);
	return k.unreadable ? block_read_error(o->from, k.bad_off, k.bad_len, r, e) : err_set_errno(e, r, "copying failed");
}
