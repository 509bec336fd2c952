/* virtio-blk over the real raw engine, with its loop on its own thread, as in the machine. */
#include "fixture.h"

#include "base/bytes.h"
#include "block/block.h"
#include "devices/virtio/virtio.h"
#include "devices/virtio/virtio_blk.h"

#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define SLOT 2
#define DISK_BYTES (16u << 20)
#define BLOCK 4096u
#define DEPTH 8
#define QUEUES 2
#define REQUESTS 1000

struct disk_test {
	struct fixture f;
	struct dev_host_ops ops;
	struct loop *loop;
	pthread_t thread;
	struct block *block;
	int image; /* a second fd of the file */
	struct device *dev;
	struct drv d;
	uint64_t header, data, status;
	uint8_t *model;
};

static void *thread_main(void *opaque)
{
	loop_run(opaque);
	return NULL;
}

static struct {
	atomic_bool full;
	atomic_uint asked;
	atomic_int wake_fd;
} room;

static bool room_ask(struct dev_host *h, const struct iovec *iov, unsigned niov, int wake_fd)
{
	(void)h;
	(void)iov;
	if (niov)
		room.wake_fd = wake_fd;
	room.asked += niov;
	return !room.full || !niov;
}

static void disk_begin(struct disk_test *t)
{
	struct virtio_blk_config c = { .name = "vda", .queues = QUEUES, .slot = SLOT };
	struct block_layer layer = { .format = BLOCK_FORMAT_RAW };
	struct block_open o = { .layers = &layer, .nlayers = 1, .name = "vda" };

	fx_init(&t->f);
	t->ops = *t->f.host.ops;
	t->ops.ram_make_room = room_ask;
	t->f.host.ops = &t->ops;
	t->image = memfd_create("disk", 0);
	assert_int_equal(ftruncate(t->image, DISK_BYTES), 0);
	layer.fd = dup(t->image);
	assert_int_equal(loop_new(128, &t->loop, NULL), 0);
	assert_int_equal(block_open(t->loop, &o, &t->block, NULL), 0);
	c.block = t->block;
	c.loop = t->loop;
	assert_int_equal(virtio_blk_new(&t->f.host, t->f.pci, &c, &t->dev, NULL), 0);
	assert_int_equal(pthread_create(&t->thread, NULL, thread_main, t->loop), 0);
	drv_init(&t->d, &t->f, SLOT, ~0ULL, true);
	for (unsigned q = 0; q < QUEUES; q++)
		drv_queue_setup(&t->d, q, 64);
	drv_ok(&t->d);
	t->header = fx_alloc(&t->f, 16 * DEPTH * QUEUES, 64);
	t->data = fx_alloc(&t->f, BLOCK * DEPTH * QUEUES, 4096);
	t->status = fx_alloc(&t->f, DEPTH * QUEUES, 64);
	t->model = calloc(1, DISK_BYTES);
	assert_non_null(t->model);
}

static void disk_end(struct disk_test *t)
{
	loop_stop(t->loop);
	pthread_join(t->thread, NULL);
	t->dev->ops->free(t->dev);
	assert_int_equal(block_close(t->block), 0);
	loop_free(t->loop);
	close(t->image);
	free(t->model);
	fx_done(&t->f);
}

/* Put one request into slot s (queue s / DEPTH). */
static void submit(struct disk_test *t, unsigned s, bool write, uint32_t block)
{
	struct drv_queue *q = &t->d.q[s / DEPTH];
	struct drv_sg sg[3] = { { t->header + 16 * s, 16, false },
		{ t->data + (uint64_t)BLOCK * s, BLOCK, !write }, { t->status + s, 1, true } };
	uint8_t *h = fx_ram(&t->f, t->header + 16 * s);
	uint16_t old = q->avail_idx;

	t->f.next_gpa = t->status + 4096 + 64 * s; /* its indirect table */
	store_le32(h, write);
	store_le64(h + 8, (uint64_t)block * BLOCK / 512);
	*(uint8_t *)fx_ram(&t->f, t->status + s) = 0xee;
	drv_add(q, sg, 3, true);
	if (drv_wants_kick(q, old))
		drv_kick(q);
}

static void finish_all(struct disk_test *t)
{
	uint64_t end = loop_now_ns() + 25000000000ULL * TEST_SLOW;

	for (unsigned i = 0; i < QUEUES; i++) {
		struct drv_queue *q = &t->d.q[i];

		while (drv_used_idx(q) != q->avail_idx) {
			assert_true(loop_now_ns() < end);
			sched_yield();
		}
	}
	for (unsigned s = 0; s < DEPTH * QUEUES; s++)
		assert_int_equal(*(uint8_t *)fx_ram(&t->f, t->status + s), 0);
}

static void random_work_matches_a_model(void **state)
{
	struct virtio_blk_stats st;
	struct disk_test t;
	uint32_t seed = 99;

	(void)state;
	disk_begin(&t);
	for (unsigned round = 0; round < REQUESTS / DEPTH; round++) {
		bool write[DEPTH * QUEUES];
		uint32_t at[DEPTH * QUEUES];

		for (unsigned s = 0; s < DEPTH * QUEUES; s++) {
			uint8_t *p = fx_ram(&t.f, t.data + (uint64_t)BLOCK * s);

			seed = seed * 1664525 + 1013904223;
			write[s] = seed >> 31;
			/* slots never share a block, so that their order is irrelevant */
			at[s] = (seed >> 8) % (DISK_BYTES / BLOCK / 16) * 16 + s;
			if (write[s]) {
				memset(p, (int)(seed >> 16), BLOCK);
				memcpy(t.model + (uint64_t)at[s] * BLOCK, p, BLOCK);
			}
			submit(&t, s, write[s], at[s]);
		}
		finish_all(&t);
		for (unsigned s = 0; s < DEPTH * QUEUES; s++)
			assert_memory_equal(fx_ram(&t.f, t.data + (uint64_t)BLOCK * s),
				t.model + (uint64_t)at[s] * BLOCK, BLOCK);
		if (round % 32 == 31) {
			t.dev->ops->pause(t.dev);
			t.dev->ops->resume(t.dev);
		}
	}
	virtio_blk_stats(t.dev, &st);
	assert_int_equal(st.rd_reqs + st.wr_reqs, REQUESTS / DEPTH * DEPTH * QUEUES);
	assert_int_equal(st.errors, 0);
	assert_true(t.f.nmsi > 0);
	{
		uint8_t *file = malloc(DISK_BYTES);

		assert_int_equal(pread(t.image, file, DISK_BYTES, 0), DISK_BYTES);
		assert_memory_equal(file, t.model, DISK_BYTES);
		free(file);
	}
	disk_end(&t);
}

/* The guest resets the device with requests in flight, many times. */
static void reset_under_load(void **state)
{
	struct disk_test t;

	(void)state;
	disk_begin(&t);
	for (unsigned i = 0; i < 50; i++) {
		t.f.next_gpa = t.status + 65536;
		drv_init(&t.d, &t.f, SLOT, ~0ULL, true);
		for (unsigned q = 0; q < QUEUES; q++)
			drv_queue_setup(&t.d, q, 64);
		drv_ok(&t.d);
		for (unsigned s = 0; s < DEPTH * QUEUES; s++)
			submit(&t, s, i & 1, s);
		if (i % 5 == 0)
			finish_all(&t);
		fx_write(&t.f, t.d.common + 20, 1, 0);
	}
	assert_int_equal(t.f.nevents, 0);
	disk_end(&t);
}

static void asked_wait(unsigned n)
{
	while (room.asked < n)
		sched_yield();
}

/* While a snapshot has no room for the old content of memory, requests that write to it wait: on all queues, across a
 * save and load of the device, and until the doorbell that room_ask() got is rung. */
static void requests_wait_for_room(void **state)
{
	struct virtio_blk_stats st;
	struct disk_test t;
	uint64_t one = 1;
	unsigned asked;

	(void)state;
	disk_begin(&t);
	room.full = true;
	asked = room.asked;
	submit(&t, 0, false, 0);
	asked_wait(asked + 1);
	submit(&t, DEPTH, true, 1);
	submit(&t, 1, true, 2);
	asked_wait(asked + 2);
	fx_state_test(&t.f, t.dev, 0);
	virtio_blk_stats(t.dev, &st);
	assert_int_equal(st.rd_reqs + st.wr_reqs, 0);
	assert_int_equal(drv_used_idx(&t.d.q[0]) + drv_used_idx(&t.d.q[1]), 0);
	room.full = false;
	assert_int_equal(write(room.wake_fd, &one, sizeof(one)), sizeof(one));
	finish_all(&t);
	virtio_blk_stats(t.dev, &st);
	assert_int_equal(st.rd_reqs, 1);
	assert_int_equal(st.wr_reqs, 2);
	/* A reset forgets a request that waits. */
	room.full = true;
	asked = room.asked;
	submit(&t, 0, true, 3);
	asked_wait(asked + 1);
	fx_write(&t.f, t.d.common + 20, 1, 0);
	assert_int_equal(drv_used_idx(&t.d.q[0]), 2);
	disk_end(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(random_work_matches_a_model),
		cmocka_unit_test(reset_under_load),
		cmocka_unit_test(requests_wait_for_room),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
