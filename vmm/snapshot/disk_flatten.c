#include "vmm/snapshot/disk_flatten.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/util.h"
#include "block/block.h"
#include "block/qcow2/pack.h"
#include "vmm/machine/disk_call.h"
#include "vmm/machine/machine.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CLUSTER_BITS 16u
#define CLUSTER_BYTES (1u << CLUSTER_BITS)
#define CHUNK_BYTES (1 * MIB)

/* ---- calls that run on the disk's thread ---- */

struct flat_call {
	struct disk_call c;
	const struct disk_flatten *f;
	struct block *flat; /* the disk, opened a second time */
	struct block_info info;
	struct block_req req;
	struct iovec iov;
};

static void open_run(struct disk_call *c, struct block *b)
{
	struct flat_call *x = container_of(c, struct flat_call, c);
	int fd = fcntl(x->f->image, F_DUPFD_CLOEXEC, 3);
	int r = fd < 0 ? err_set_errno(&c->e, -errno, "disk %s", x->f->disk->id) :
		block_open_snapshot(b, fd, x->f->snapshot, &x->flat, &c->e);

	if (!r)
		block_info(x->flat, &x->info);
	else if (fd >= 0)
		close(fd);
	disk_call_return(c, r, &c->e);
}

static void read_done(struct block_req *r, int res)
{
	struct disk_call *c = &container_of(r, struct flat_call, req)->c;

	if (res < 0)
		block_read_error(r->block, r->offset, r->len, res, &c->e);
	disk_call_return(c, res, NULL);
}

static void read_run(struct disk_call *c, struct block *b)
{
	struct flat_call *x = container_of(c, struct flat_call, c);

	(void)b;
	block_submit(x->flat, &x->req);
}

static void close_run(struct disk_call *c, struct block *b)
{
	(void)b;
	disk_call_return(c, block_close(container_of(c, struct flat_call, c)->flat), NULL);
}

static int flat_read(const struct disk_flatten *f, struct block *flat, uint64_t off, uint8_t *buf, size_t len,
	struct err *e)
{
	struct flat_call x = { .c.run = read_run, .f = f, .flat = flat, .iov = { buf, len },
		.req = { .op = BLOCK_READ, .offset = off, .len = len, .niov = 1, .done = read_done } };

	x.req.iov = &x.iov;
	return disk_call(f->disk, &x.c, e);
}

/* ---- writing the image ---- */

/* Write the clusters of a chunk that are not zero. buf: zeros follow the len bytes, up to a whole cluster. */
static int chunk_add(struct qcow2_pack *p, uint64_t off, const uint8_t *buf, size_t len)
{
	int r = 0;

	for (size_t at = 0; at < len && !r; at += CLUSTER_BYTES)
		if (!bytes_are_zero(buf + at, CLUSTER_BYTES))
			r = qcow2_pack_add(p, off + at, buf + at, CLUSTER_BYTES);
	return r;
}

static int content_add(const struct disk_flatten *f, struct block *flat, uint64_t bytes, struct qcow2_pack *p,
	struct err *e)
{
	CLEANUP_FREE uint8_t *buf = aligned_alloc(4096, CHUNK_BYTES);
	int r = buf ? 0 : err_set_errno(e, -ENOMEM, "disk %s", f->disk->id);

	for (uint64_t off = 0; off < bytes && !r; off += CHUNK_BYTES) {
		size_t len = (size_t)MIN(CHUNK_BYTES, bytes - off);

		if (f->step(f->opaque, off, bytes))
			return err_set(e, -ECANCELED, ERR_CANCELLED, "the copy was cancelled");
		memset(buf + len, 0, CHUNK_BYTES - len);
		r = flat_read(f, flat, off, buf, len, e);
		if (!r && (r = chunk_add(p, off, buf, len)) < 0)
			err_set_errno(e, r, "cannot write a clone's disk");
	}
	return r;
}

static int image_write(const struct disk_flatten *f, struct block *flat, uint64_t bytes, struct err *e)
{
	struct qcow2_create c = { .size_bytes = bytes, .cluster_bits = CLUSTER_BITS, .refcount_order = 4, .version = 3 };
	struct qcow2_pack *p = NULL;
	int r = qcow2_pack_new(f->to, &c, &p, e);

	if (!r)
		r = content_add(f, flat, bytes, p, e);
	if (!r)
		r = qcow2_pack_finish(p, e);
	qcow2_pack_free(p);
	return r;
}

int disk_flatten(const struct disk_flatten *f, struct err *e)
{
	struct flat_call open = { .c.run = open_run, .f = f }, close = { .c.run = close_run, .f = f };
	struct err ignored;
	int r = disk_call(f->disk, &open.c, e);

	if (r < 0)
		return r;
	r = image_write(f, open.flat, open.info.size_bytes, e);
	close.flat = open.flat;
	(void)disk_call(f->disk, &close.c, &ignored);
	return r;
}
