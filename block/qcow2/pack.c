/* Writes a new image. Order in the file: the content of qcow2_create(), then data and L2 tables as
 * they come, then the refcounts, counted from the tables. */
#include "block/qcow2/pack.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/file.h"
#include "base/util.h"
#include "block/qcow2/impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BUFFER_BYTES (4 * MIB)
#define PAD_BYTES 4096 /* padding of at least this many bytes becomes a hole */

/* ---- writing the file ---- */

/* The free end of a cluster with streams, after the file has continued in the next cluster. */
struct pack_hole {
	uint64_t at;
	uint64_t left;
	uint64_t streams; /* number of streams in that cluster */
};

struct qcow2_pack {
	int fd;
	struct qcow2_header h;
	uint32_t cluster_bits, cluster_bytes, entry_bytes, l2_bits;
	uint64_t max_refs;
	uint64_t *l1;
	uint64_t l1_index; /* index of the current table */
	uint8_t *l2;
	bool l2_used;
	uint8_t *buf; /* the content of [at, at + fill) */
	uint64_t at;
	size_t fill;
	uint64_t streams; /* number of streams in the cluster at the end of the file */
	struct pack_hole hole; /* the largest hole; streams that fit go there */
};

static uint64_t stream_end(const struct qcow2_pack *p)
{
	return p->at + p->fill;
}

static int buffer_write(struct qcow2_pack *p)
{
	int r = p->fill ? pwrite_full(p->fd, p->buf, p->fill, (off_t)p->at) : 0;

	p->at += p->fill;
	p->fill = 0;
	return r;
}

static int stream_append(struct qcow2_pack *p, const void *data, size_t n)
{
	int r = p->fill + n > BUFFER_BYTES ? buffer_write(p) : 0;

	if (r < 0)
		return r;
	if (data)
		memcpy(p->buf + p->fill, data, n);
	else
		memset(p->buf + p->fill, 0, n);
	p->fill += n;
	return 0;
}

static int stream_align(struct qcow2_pack *p)
{
	uint64_t end = stream_end(p), left = ROUND_UP(end, (uint64_t)p->cluster_bytes) - end;
	int r;

	if (left > p->hole.left && p->streams < p->max_refs)
		p->hole = (struct pack_hole){ end, left, p->streams };
	p->streams = 0;
	if (left < PAD_BYTES)
		return left ? stream_append(p, NULL, left) : 0;
	r = buffer_write(p);
	p->at += left;
	return r;
}

static int l2_flush(struct qcow2_pack *p)
{
	int r;

	if (!p->l2_used)
		return 0;
	r = stream_align(p);
	p->l1[p->l1_index] = stream_end(p) | QCOW2_COPIED;
	if (!r)
		r = stream_append(p, p->l2, p->cluster_bytes);
	memset(p->l2, 0, p->cluster_bytes);
	p->l2_used = false;
	return r;
}

static void l2_set(struct qcow2_pack *p, uint64_t off, uint64_t e, uint64_t bitmap)
{
	uint64_t i = (off >> p->cluster_bits) & ((1ULL << p->l2_bits) - 1);

	store_be64(p->l2 + i * p->entry_bytes, e);
	if (p->entry_bytes == 16)
		store_be64(p->l2 + i * p->entry_bytes + 8, bitmap);
	p->l2_used = true;
}

static int add_plain(struct qcow2_pack *p, uint64_t off, const void *data)
{
	int r = stream_align(p);

	l2_set(p, off, stream_end(p) | QCOW2_COPIED, 0xffffffff);
	return r ? r : stream_append(p, data, p->cluster_bytes);
}

static void l2_set_stream(struct qcow2_pack *p, uint64_t off, uint64_t host, size_t len)
{
	uint32_t x = 62 - (p->cluster_bits - 8);

	l2_set(p, off, QCOW2_COMPRESSED | host | ((host + len - 1) / 512 - host / 512) << x, 0);
}

static int add_to_hole(struct qcow2_pack *p, uint64_t off, const void *data, size_t len)
{
	struct pack_hole *h = &p->hole;
	int r = 0;

	l2_set_stream(p, off, h->at, len);
	if (h->at >= p->at)
		memcpy(p->buf + (h->at - p->at), data, len);
	else
		r = pwrite_full(p->fd, data, len, (off_t)h->at);
	h->at += len;
	h->left -= len;
	if (++h->streams == p->max_refs)
		h->left = 0;
	return r;
}

/* Add a stream: at a cluster boundary into the hole, if the stream fits there; else right after the last stream.
 * First go to the next cluster if this one has max_refs streams, or if max_refs is 1 and the stream would cross
 * the cluster's end. */
static int add_stream(struct qcow2_pack *p, uint64_t off, const void *data, size_t len)
{
	uint64_t end = stream_end(p), in = end & (p->cluster_bytes - 1);
	int r = 0;

	if (!in && len <= p->hole.left)
		return add_to_hole(p, off, data, len);
	if (in && (p->streams == p->max_refs ||
		(p->max_refs == 1 && in + len > p->cluster_bytes)))
		r = stream_align(p);
	end = stream_end(p);
	in = end & (p->cluster_bytes - 1);
	p->streams = in + len >= p->cluster_bytes ? in + len > p->cluster_bytes : p->streams + 1;
	l2_set_stream(p, off, end, len);
	return r ? r : stream_append(p, data, len);
}

int qcow2_pack_add(struct qcow2_pack *p, uint64_t off, const void *data, size_t len)
{
	uint64_t index = off >> (p->cluster_bits + p->l2_bits);
	int r = 0;

	if (index >= p->h.l1_size || !len || len > p->cluster_bytes)
		return -EINVAL;
	if (index != p->l1_index)
		r = l2_flush(p);
	p->l1_index = index;
	if (r < 0)
		return r;
	return len == p->cluster_bytes ? add_plain(p, off, data) : add_stream(p, off, data, len);
}

int qcow2_pack_finish(struct qcow2_pack *p, struct err *e)
{
	int r = l2_flush(p);

	if (!r)
		r = stream_align(p);
	if (!r)
		r = buffer_write(p);
	if (!r && ftruncate(p->fd, (off_t)p->at) < 0)
		r = -errno;
	if (!r) {
		for (uint32_t i = 0; i < p->h.l1_size; i++)
			p->l1[i] = htobe64(p->l1[i]);
		r = pwrite_full(p->fd, p->l1, p->h.l1_size * 8ULL, (off_t)p->h.l1_offset);
	}
	if (r < 0)
		return err_set_errno(e, r, "cannot write the image");
	r = qcow2_refcounts_rebuild(p->fd, &p->h, p->h.refcount_order, e);
	if (!r && fdatasync(p->fd) < 0)
		r = err_set_errno(e, -errno, "cannot write the image");
	return r;
}

void qcow2_pack_free(struct qcow2_pack *p)
{
	if (!p)
		return;
	free(p->l1);
	free(p->l2);
	free(p->buf);
	free(p);
}

int qcow2_pack_new(int fd, const struct qcow2_create *c, struct qcow2_pack **ret_p, struct err *e)
{
	struct qcow2_pack *p = calloc(1, sizeof(*p));
	off_t end;
	int r = p ? qcow2_create(fd, c, e) : err_set_errno(e, -ENOMEM, "convert");

	if (!r)
		r = qcow2_header_read(fd, "the new image", &p->h, e);
	if (r < 0) {
		free(p);
		return r;
	}
	p->fd = fd;
	p->cluster_bits = p->h.cluster_bits;
	p->cluster_bytes = 1u << p->cluster_bits;
	p->entry_bytes = c->extended_l2 ? 16 : 8;
	p->l2_bits = p->cluster_bits - (c->extended_l2 ? 4 : 3);
	p->max_refs = c->refcount_order == 6 ? UINT64_MAX : (1ULL << (1u << c->refcount_order)) - 1;
	p->l1 = calloc(MAX(p->h.l1_size, 1u), sizeof(*p->l1));
	p->l2 = calloc(1, p->cluster_bytes);
	p->buf = io_buffer_new(BUFFER_BYTES);
	end = lseek(fd, 0, SEEK_END);
	if (!p->l1 || !p->l2 || !p->buf || end < 0) {
		qcow2_pack_free(p);
		return err_set_errno(e, -ENOMEM, "convert");
	}
	p->at = ROUND_UP((uint64_t)end, (uint64_t)p->cluster_bytes);
	*ret_p = p;
	return 0;
}
