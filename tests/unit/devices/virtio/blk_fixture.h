/* blk_fixture: a disk over a simulated block layer on a memfd, whose completions a test can delay or fail, and requests
 * of its driver. */
#ifndef CAIRN_TESTS_UNIT_DEVICES_VIRTIO_BLK_FIXTURE_H
#define CAIRN_TESTS_UNIT_DEVICES_VIRTIO_BLK_FIXTURE_H

#include "tests/unit/devices/fixture.h"

#include "base/bytes.h"
#include "base/util.h"
#include "block/block.h"
#include "devices/virtio/virtio.h"
#include "devices/virtio/virtio_blk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#define SLOT 2
#define DISK_BYTES (1u << 20)
#define ALL (~0ULL)
#define F_FLUSH (1ULL << 9)
#define F_CONFIG_WCE (1ULL << 11)
#define F_RO (1ULL << 5)
#define F_DISCARD (1ULL << 13)

/* ---- simulated block layer ---- */

struct block {
	int fd;
	struct block_info info;
	struct loop *loop;
	unsigned hold; /* number of requests to hold back */
	struct block_req *held[64];
	unsigned nheld;
	int fail_with; /* -errno for reads and writes; 0: none */
	struct block_listener *listener;
	bool corrupt;
	unsigned submits, fua, flushes, discards, unmaps;
	uint64_t last_offset, last_len;
	enum block_op last_op;
};

struct answer {
	struct loop_op op;
	struct block_req *req;
	int res;
};

static inline void answer_done(struct loop_op *op, int res)
{
	struct answer *a = container_of(op, struct answer, op);
	struct block_req *r = a->req;
	int answer = a->res;

	(void)res;
	free(a);
	r->done(r, answer);
}

static inline int block_do(struct block *b, struct block_req *r)
{
	ssize_t n;

	switch (r->op) {
	case BLOCK_READ:
		n = preadv(b->fd, r->iov, (int)r->niov, (off_t)r->offset);
		return n == (ssize_t)r->len ? 0 : -EIO;
	case BLOCK_WRITE:
		n = pwritev(b->fd, r->iov, (int)r->niov, (off_t)r->offset);
		return n == (ssize_t)r->len ? 0 : -EIO;
	case BLOCK_FLUSH:
		b->flushes++;
		return 0;
	case BLOCK_DISCARD:
		b->discards++;
		break;
	case BLOCK_WRITE_ZEROES:
		b->unmaps += r->flags & BLOCK_REQ_MAY_UNMAP ? 1 : 0;
		break;
	}
	return fallocate(b->fd, 3, (off_t)r->offset, (off_t)r->len) ? -errno : 0;
}

static inline void block_answer(struct block *b, struct block_req *r)
{
	struct answer *a = calloc(1, sizeof(*a));

	assert_non_null(a);
	a->op.done = answer_done;
	a->req = r;
	a->res = b->fail_with ? b->fail_with : block_do(b, r);
	loop_nop(b->loop, &a->op);
}

void block_submit(struct block *b, struct block_req *r)
{
	assert_true(r->op == BLOCK_FLUSH || range_inside(r->offset, r->len, b->info.size_bytes));
	__atomic_fetch_add(&b->submits, 1, __ATOMIC_RELEASE);
	b->fua += r->flags & BLOCK_REQ_FUA ? 1 : 0;
	b->last_offset = r->offset;
	b->last_len = r->len;
	b->last_op = r->op;
	if (b->hold)
		b->held[b->nheld++] = r;
	else
		block_answer(b, r);
}

void block_info(const struct block *b, struct block_info *ret_info)
{
	*ret_info = b->info;
}

void block_set_listener(struct block *b, struct block_listener *l)
{
	b->listener = l;
}

bool block_is_corrupt(const struct block *b)
{
	return b->corrupt;
}

const char *block_corruption(const struct block *b)
{
	return b->corrupt ? "why" : NULL;
}

static inline void block_release(struct block *b)
{
	b->hold = 0;
	for (unsigned i = 0; i < b->nheld; i++)
		block_answer(b, b->held[i]);
	b->nheld = 0;
}

/* ---- a machine with one disk ---- */

struct blk_test {
	struct fixture f;
	struct block block;
	struct device *dev;
	struct drv d;
	uint64_t header, data, status;
};

static inline void disk_new(struct blk_test *t, struct virtio_blk_config *c)
{
	fx_init(&t->f);
	memset(&t->block, 0, sizeof(t->block));
	t->block.fd = memfd_create("disk", 0);
	assert_int_equal(ftruncate(t->block.fd, DISK_BYTES), 0);
	t->block.loop = t->f.host.loop;
	t->block.info = (struct block_info){ .format = BLOCK_FORMAT_RAW, .size_bytes = DISK_BYTES,
		.logical_block_bytes = 512, .buffer_align = 1, .discard_granularity = 4096 };
	c->name = "vda";
	c->block = &t->block;
	c->loop = t->f.host.loop;
	c->slot = SLOT;
	c->serial = "CAIRN-0001";
}

static inline void disk_start(struct blk_test *t, struct virtio_blk_config *c, uint64_t features)
{
	unsigned queues = c->queues ? c->queues : 1;

	assert_int_equal(virtio_blk_new(&t->f.host, t->f.pci, c, &t->dev, NULL), 0);
	drv_init(&t->d, &t->f, SLOT, features, true);
	for (unsigned q = 0; q < queues; q++)
		drv_queue_setup(&t->d, q, 16);
	drv_ok(&t->d);
	t->header = fx_alloc(&t->f, 64 * 32, 64);
	t->data = fx_alloc(&t->f, 64 * 1024, 4096);
	t->status = fx_alloc(&t->f, 64, 64);
	fx_run(&t->f, 3);
}

static inline void disk_begin(struct blk_test *t, uint64_t features)
{
	struct virtio_blk_config c = { 0 };

	disk_new(t, &c);
	disk_start(t, &c, features);
}

static inline void disk_end(struct blk_test *t)
{
	t->dev->ops->free(t->dev);
	close(t->block.fd);
	fx_done(&t->f);
}

static inline void header_put(struct blk_test *t, unsigned slot, uint32_t type, uint64_t sector)
{
	uint8_t *h = fx_ram(&t->f, t->header + 16 * slot);

	store_le32(h, type);
	store_le32(h + 4, 0);
	store_le64(h + 8, sector);
	*(uint8_t *)fx_ram(&t->f, t->status + slot) = 0xee;
}

static inline uint8_t status_get(struct blk_test *t, unsigned slot)
{
	return *(uint8_t *)fx_ram(&t->f, t->status + slot);
}

/* Put a request with one data segment into queue q; slot selects header and status. */
static inline void submit(struct blk_test *t, unsigned q, unsigned slot, uint32_t type, uint64_t sector,
	uint64_t gpa, uint32_t len)
{
	bool in = type == 0 || type == 8;
	struct drv_sg sg[3] = { { t->header + 16 * slot, 16, false }, { gpa, len, in },
		{ t->status + slot, 1, true } };

	header_put(t, slot, type, sector);
	if (!len)
		sg[1] = sg[2];
	drv_add(&t->d.q[q], sg, len ? 3 : 2, t->d.features & VIRTIO_F_INDIRECT_DESC);
	drv_kick(&t->d.q[q]);
}

static inline uint8_t request(struct blk_test *t, uint32_t type, uint64_t sector, uint64_t gpa,
	uint32_t len, uint32_t *ret_written)
{
	submit(t, 0, 0, type, sector, gpa, len);
	drv_wait(&t->d.q[0], ret_written);
	return status_get(t, 0);
}

static inline void fill(struct blk_test *t, uint64_t gpa, size_t n, uint8_t seed)
{
	uint8_t *p = fx_ram(&t->f, gpa);

	for (size_t i = 0; i < n; i++)
		p[i] = (uint8_t)(seed + i * 7 + i / 256);
}

#endif
