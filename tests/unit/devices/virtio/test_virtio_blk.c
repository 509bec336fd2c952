/* virtio-blk, driven through PCI registers and rings. */
#include "blk_fixture.h"

/* ---- tests ---- */

static void tells_its_configuration(void **state)
{
	struct virtio_blk_config c = { .queues = 4 };
	struct blk_test t;

	(void)state;
	disk_new(&t, &c);
	disk_start(&t, &c, ALL);
	assert_int_equal(fx_cfg_read(&t.f, SLOT, 0, 4), 0x10421af4);
	assert_int_equal(fx_read(&t.f, t.d.device, 8), DISK_BYTES / 512);
	assert_int_equal(fx_read(&t.f, t.d.device + 12, 4), 254);
	assert_int_equal(fx_read(&t.f, t.d.device + 20, 4), 512);
	assert_int_equal(fx_read(&t.f, t.d.device + 34, 2), 4);
	assert_int_equal(fx_read(&t.f, t.d.common + 18, 2), 4);
	assert_int_equal(t.f.ndoorbells, 4);
	disk_end(&t);
}

static void writes_and_reads_back(void **state)
{
	static const uint64_t features[] = { 0, VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC, ALL };
	struct blk_test t;
	uint8_t file[8192];
	uint32_t written;

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(features); i++) {
		disk_begin(&t, features[i] | F_FLUSH);
		fill(&t, t.data, 8192, 3);
		assert_int_equal(request(&t, 1, 8, t.data, 8192, &written), 0);
		assert_int_equal(written, 1);
		assert_int_equal(pread(t.block.fd, file, 8192, 4096), 8192);
		assert_memory_equal(file, fx_ram(&t.f, t.data), 8192);
		assert_int_equal(t.block.fua, 0);
		assert_int_equal(request(&t, 0, 8, t.data + 16384, 8192, &written), 0);
		assert_int_equal(written, 8193);
		assert_memory_equal(file, fx_ram(&t.f, t.data + 16384), 8192);
		/* With an unchanged event index, only the first request interrupts. */
		assert_int_equal(t.f.nmsi, t.d.features & VIRTIO_F_EVENT_IDX ? 1 : 2);
		disk_end(&t);
	}
}

/* Header, data and status may be split anywhere. */
static void odd_segments(void **state)
{
	struct blk_test t;
	uint8_t want[1024];

	(void)state;
	disk_begin(&t, ALL);
	fill(&t, t.data, 1024, 9);
	memcpy(want, fx_ram(&t.f, t.data), 1024);
	header_put(&t, 0, 1, 2);
	memcpy(fx_ram(&t.f, t.data - 64), fx_ram(&t.f, t.header), 16);
	{
		/* 7 + (9 + 1 of data) + the rest; status alone */
		uint64_t joined = fx_alloc(&t.f, 2048, 4096);
		struct drv_sg sg[4] = { { t.header, 7, false }, { joined, 10, false },
			{ t.data + 1, 1023, false }, { t.status, 1, true } };

		memcpy(fx_ram(&t.f, joined), (uint8_t *)fx_ram(&t.f, t.header) + 7, 9);
		memcpy((uint8_t *)fx_ram(&t.f, joined) + 9, want, 1);
		drv_add(&t.d.q[0], sg, 4, true);
		drv_kick(&t.d.q[0]);
		drv_wait(&t.d.q[0], NULL);
		assert_int_equal(status_get(&t, 0), 0);
	}
	{
		/* data and status in one segment */
		uint64_t joined = fx_alloc(&t.f, 2048, 4096);
		struct drv_sg sg[2] = { { t.header, 16, false }, { joined, 1025, true } };
		uint32_t len;

		header_put(&t, 0, 0, 2);
		drv_add(&t.d.q[0], sg, 2, false);
		drv_kick(&t.d.q[0]);
		drv_wait(&t.d.q[0], &len);
		assert_int_equal(len, 1025);
		assert_memory_equal(fx_ram(&t.f, joined), want, 1024);
		assert_int_equal(((uint8_t *)fx_ram(&t.f, joined))[1024], 0);
	}
	disk_end(&t);
}

static void refuses_bad_ranges(void **state)
{
	struct blk_test t;
	uint64_t end = DISK_BYTES / 512;

	(void)state;
	disk_begin(&t, ALL);
	assert_int_equal(request(&t, 0, end, t.data, 512, NULL), 1);
	assert_int_equal(request(&t, 0, end - 1, t.data, 1024, NULL), 1);
	assert_int_equal(request(&t, 1, UINT64_MAX, t.data, 512, NULL), 1);
	assert_int_equal(request(&t, 1, UINT64_MAX / 512 + 1, t.data, 512, NULL), 1);
	assert_int_equal(request(&t, 0, 0, t.data, 511, NULL), 1);
	assert_int_equal(request(&t, 1, 0, t.data, 513, NULL), 1);
	assert_int_equal(request(&t, 99, 0, t.data, 512, NULL), 2);
	assert_int_equal(t.block.submits, 0);
	assert_int_equal(t.f.nevents, 0); /* the guest's fault is not an I/O error */
	assert_int_equal(request(&t, 0, end - 1, t.data, 512, NULL), 0);
	disk_end(&t);
}

/* The status byte lies behind the data, of which nothing was written. */
static void failed_read_marks_its_status(void **state)
{
	struct blk_test t;
	uint64_t before;

	(void)state;
	disk_begin(&t, ALL);
	before = t.f.dirty_bytes;
	assert_int_equal(request(&t, 0, 1ULL << 40, t.data, 4096, NULL), 1);
	/* Data and status are marked when the request is taken and when it is complete. */
	assert_true(t.f.dirty_bytes - before >= 2 * (4096 + 1));
	disk_end(&t);
}

static void refuses_requests_without_status(void **state)
{
	struct drv_sg sg[2];
	struct blk_test t;

	(void)state;
	disk_begin(&t, ALL);
	header_put(&t, 0, 0, 0);
	sg[0] = (struct drv_sg){ t.header, 16, false };
	drv_add(&t.d.q[0], sg, 1, false);
	drv_kick(&t.d.q[0]);
	fx_run(&t.f, 5);
	assert_true(drv_status(&t.d) & VIRTIO_STATUS_NEEDS_RESET);
	assert_int_equal(fx_count_events(&t.f, DEV_EVENT_NEEDS_RESET), 1);
	drv_init(&t.d, &t.f, SLOT, ALL, true);
	drv_queue_setup(&t.d, 0, 16);
	drv_ok(&t.d);
	sg[0].len = 15;
	sg[1] = (struct drv_sg){ t.status, 1, true };
	drv_add(&t.d.q[0], sg, 2, false);
	drv_kick(&t.d.q[0]);
	fx_run(&t.f, 5);
	assert_true(drv_status(&t.d) & VIRTIO_STATUS_NEEDS_RESET);
	disk_end(&t);
}

static void serial_number(void **state)
{
	struct blk_test t;

	(void)state;
	disk_begin(&t, ALL);
	memset(fx_ram(&t.f, t.data), 0xff, 32);
	assert_int_equal(request(&t, 8, 0, t.data, 20, NULL), 0);
	assert_memory_equal(fx_ram(&t.f, t.data), "CAIRN-0001\0\0\0\0\0\0\0\0\0\0\xff", 21);
	assert_int_equal(request(&t, 8, 0, t.data, 19, NULL), 1);
	disk_end(&t);
}

static void flush_and_write_through(void **state)
{
	struct blk_test t;

	(void)state;
	disk_begin(&t, F_FLUSH);
	assert_int_equal(request(&t, 4, 0, 0, 0, NULL), 0);
	assert_int_equal(t.block.flushes, 1);
	disk_end(&t);
	/* A driver without FLUSH gets writes that complete on stable storage. */
	disk_begin(&t, 0);
	assert_int_equal(request(&t, 1, 0, t.data, 512, NULL), 0);
	assert_int_equal(t.block.fua, 1);
	disk_end(&t);
	disk_begin(&t, F_FLUSH | F_CONFIG_WCE);
	assert_int_equal(request(&t, 1, 0, t.data, 512, NULL), 0);
	assert_int_equal(t.block.fua, 0);
	fx_write(&t.f, t.d.device + 32, 1, 0);
	assert_int_equal(request(&t, 1, 0, t.data, 512, NULL), 0);
	assert_int_equal(t.block.fua, 1);
	disk_end(&t);
}

static uint8_t range_request(struct blk_test *t, uint32_t type, uint64_t sector, uint32_t n,
	uint32_t flags)
{
	uint8_t *p = fx_ram(&t->f, t->data);

	store_le64(p, sector);
	store_le32(p + 8, n);
	store_le32(p + 12, flags);
	return request(t, type, 0, t->data, 16, NULL);
}

static void discard_and_write_zeroes(void **state)
{
	struct blk_test t;
	uint8_t b = 1;

	(void)state;
	disk_begin(&t, ALL);
	assert_int_equal(pwrite(t.block.fd, "x", 1, 8192), 1);
	assert_int_equal(range_request(&t, 11, 16, 8, 0), 0);
	assert_int_equal(t.block.discards, 1);
	assert_int_equal(t.block.last_offset, 8192);
	assert_int_equal(t.block.last_len, 4096);
	assert_int_equal(pwrite(t.block.fd, "x", 1, 8192), 1);
	assert_int_equal(range_request(&t, 13, 16, 1, 1), 0);
	assert_int_equal(t.block.unmaps, 1);
	assert_int_equal(pread(t.block.fd, &b, 1, 8192), 1);
	assert_int_equal(b, 0);
	assert_int_equal(range_request(&t, 11, 16, 8, 1), 2);
	assert_int_equal(range_request(&t, 13, 16, 8, 2), 2);
	assert_int_equal(range_request(&t, 11, DISK_BYTES / 512, 1, 0), 1);
	assert_int_equal(range_request(&t, 11, 0, UINT32_MAX, 0), 1);
	assert_int_equal(range_request(&t, 13, UINT64_MAX, 1, 0), 1);
	assert_int_equal(request(&t, 11, 0, t.data, 17, NULL), 1);
	disk_end(&t);
}

/* Writes of nothing but zeros. */
static void detects_zeroes(void **state)
{
	static const enum block_zeroes hows[] = { BLOCK_ZEROES_OFF, BLOCK_ZEROES_ON, BLOCK_ZEROES_UNMAP };
	struct blk_test t;

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(hows); i++) {
		struct virtio_blk_config c = { .detect_zeroes = hows[i] };
		uint8_t b = 1;

		disk_new(&t, &c);
		disk_start(&t, &c, ALL);
		assert_int_equal(pwrite(t.block.fd, "x", 1, 8192), 1);
		memset(fx_ram(&t.f, t.data), 0, 4096);
		assert_int_equal(request(&t, 1, 16, t.data, 4096, NULL), 0);
		assert_int_equal(t.block.last_op, hows[i] == BLOCK_ZEROES_OFF ? BLOCK_WRITE : BLOCK_WRITE_ZEROES);
		assert_int_equal(t.block.unmaps, hows[i] == BLOCK_ZEROES_UNMAP);
		assert_int_equal(pread(t.block.fd, &b, 1, 8192), 1);
		assert_int_equal(b, 0);
		((uint8_t *)fx_ram(&t.f, t.data))[4095] = 1;
		assert_int_equal(request(&t, 1, 16, t.data, 4096, NULL), 0);
		assert_int_equal(t.block.last_op, BLOCK_WRITE);
		disk_end(&t);
	}
}

/* The guest sees the block sizes of the definition, and neither a discard nor zeroes that unmap. */
static void block_sizes_and_no_discard(void **state)
{
	struct virtio_blk_config c = { .logical_bytes = 1024, .physical_bytes = 4096, .no_discard = true };
	struct blk_test t;

	(void)state;
	disk_new(&t, &c);
	disk_start(&t, &c, ALL);
	assert_false(t.d.features & F_DISCARD);
	assert_int_equal(fx_read(&t.f, t.d.device, 8), DISK_BYTES / 512); /* always in sectors */
	assert_int_equal(fx_read(&t.f, t.d.device + 20, 4), 1024);
	assert_int_equal(fx_read(&t.f, t.d.device + 24, 1), 2);
	assert_int_equal(fx_read(&t.f, t.d.device + 56, 1), 0); /* write_zeroes_may_unmap */
	assert_int_equal(request(&t, 0, 1, t.data, 1024, NULL), 1); /* half a block */
	assert_int_equal(request(&t, 0, 2, t.data, 512, NULL), 1);
	assert_int_equal(request(&t, 0, 2, t.data, 1024, NULL), 0);
	/* A driver that discards all the same. */
	assert_int_equal(range_request(&t, 11, 16, 8, 0), 2);
	assert_int_equal(range_request(&t, 13, 16, 8, 1), 0);
	assert_int_equal(t.block.discards + t.block.unmaps, 0);
	disk_end(&t);
}

static void read_only_disk(void **state)
{
	struct virtio_blk_config c = { 0 };
	struct blk_test t;

	(void)state;
	disk_new(&t, &c);
	t.block.info.read_only = true;
	disk_start(&t, &c, ALL);
	assert_true(t.d.features & F_RO);
	assert_int_equal(request(&t, 1, 0, t.data, 512, NULL), 1);
	assert_int_equal(range_request(&t, 11, 0, 8, 0), 1);
	assert_int_equal(request(&t, 0, 0, t.data, 512, NULL), 0);
	assert_int_equal(t.block.submits, 1);
	disk_end(&t);
}

static void large_blocks(void **state)
{
	struct virtio_blk_config c = { 0 };
	struct blk_test t;

	(void)state;
	disk_new(&t, &c);
	t.block.info.logical_block_bytes = 4096;
	disk_start(&t, &c, ALL);
	assert_int_equal(request(&t, 0, 1, t.data, 4096, NULL), 1);
	assert_int_equal(request(&t, 0, 0, t.data, 512, NULL), 1);
	assert_int_equal(request(&t, 0, 8, t.data, 4096, NULL), 0);
	disk_end(&t);
}

static void error_policies(void **state)
{
	static const struct {
		enum virtio_blk_errors policy;
		uint8_t status;
	} cases[] = { { VIRTIO_BLK_ERRORS_REPORT, 1 }, { VIRTIO_BLK_ERRORS_IGNORE, 0 } };
	struct virtio_blk_stats s;
	struct blk_test t;

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		struct virtio_blk_config c = { .errors = cases[i].policy };

		disk_new(&t, &c);
		disk_start(&t, &c, ALL);
		t.block.fail_with = -EIO;
		assert_int_equal(request(&t, 1, 0, t.data, 512, NULL), cases[i].status);
		assert_int_equal(t.f.nevents, 1);
		assert_int_equal(t.f.events[0].kind, DEV_EVENT_IO_ERROR);
		assert_int_equal(t.f.events[0].value, EIO);
		assert_true(t.f.events[0].is_write);
		assert_false(t.f.events[0].stop);
		virtio_blk_stats(t.dev, &s);
		assert_int_equal(s.errors, 1);
		assert_int_equal(s.wr_reqs, 0);
		disk_end(&t);
	}
}

static void corrupt_image_stops_vm_with_any_policy(void **state)
{
	static const enum virtio_blk_errors policies[] = { VIRTIO_BLK_ERRORS_REPORT,
		VIRTIO_BLK_ERRORS_STOP, VIRTIO_BLK_ERRORS_IGNORE };
	struct virtio_blk_stats s;
	struct blk_test t;

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(policies); i++) {
		struct virtio_blk_config c = { .errors = policies[i] };

		disk_new(&t, &c);
		disk_start(&t, &c, ALL);
		t.block.corrupt = true;
		t.block.fail_with = -EIO;
		submit(&t, 0, 0, 1, 0, t.data, 512);
		fx_run(&t.f, 10);
		assert_int_equal(drv_used_idx(&t.d.q[0]), 0);
		assert_int_equal(t.f.nevents, 1);
		assert_true(t.f.events[0].stop && t.f.events[0].corrupt);
		assert_false(t.f.events[0].ignored);
		virtio_blk_stats(t.dev, &s);
		assert_int_equal(s.failed, EIO);
		disk_end(&t);
	}
}

/* An error without a request is reported, and with "stop" the rings are left alone. */
static void error_without_request_is_reported(void **state)
{
	static const struct {
		enum virtio_blk_errors policy;
		bool corrupt, stop, ignored;
	} cases[] = { { VIRTIO_BLK_ERRORS_REPORT, false, false, false },
		{ VIRTIO_BLK_ERRORS_IGNORE, false, false, true },
		{ VIRTIO_BLK_ERRORS_STOP, false, true, false },
		{ VIRTIO_BLK_ERRORS_IGNORE, true, true, false } };
	struct blk_test t;

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		struct virtio_blk_config c = { .errors = cases[i].policy };

		disk_new(&t, &c);
		disk_start(&t, &c, ALL);
		t.block.corrupt = cases[i].corrupt;
		t.block.listener->on_error(t.block.listener, -ENOSPC, "why");
		assert_int_equal(t.f.nevents, 1);
		assert_int_equal(t.f.events[0].value, ENOSPC);
		assert_true(t.f.events[0].is_write);
		assert_int_equal(t.f.events[0].stop, cases[i].stop);
		assert_int_equal(t.f.events[0].ignored, cases[i].ignored);
		assert_int_equal(t.f.events[0].corrupt, cases[i].corrupt);
		submit(&t, 0, 0, 0, 0, t.data, 512);
		fx_run(&t.f, 10);
		assert_int_equal(drv_used_idx(&t.d.q[0]), cases[i].stop ? 0 : 1);
		if (cases[i].stop) {
			t.dev->ops->pause(t.dev);
			t.dev->ops->resume(t.dev);
			drv_wait(&t.d.q[0], NULL);
		}
		disk_end(&t);
	}
}

static void stop_policy_keeps_failed_request(void **state)
{
	struct virtio_blk_config c = { .errors = VIRTIO_BLK_ERRORS_STOP };
	struct fx_state s;
	struct blk_test t;

	(void)state;
	disk_new(&t, &c);
	disk_start(&t, &c, ALL);
	t.block.fail_with = -ENOSPC;
	fill(&t, t.data, 512, 77);
	submit(&t, 0, 0, 1, 5, t.data, 512);
	submit(&t, 0, 1, 1, 6, t.data, 512);
	fx_run(&t.f, 10);
	assert_int_equal(drv_used_idx(&t.d.q[0]), 0);
	assert_int_equal(t.f.nevents, 2);
	assert_true(t.f.events[0].stop);
	assert_int_equal(t.f.events[0].value, ENOSPC);
	/* Doorbells do not cause a retry before the machine has paused. */
	drv_kick(&t.d.q[0]);
	fx_run(&t.f, 10);
	assert_int_equal(t.f.nevents, 2);
	t.dev->ops->pause(t.dev);
	/* A state saved now contains both requests, also for another machine. */
	fx_save(t.dev, &s);
	fx_state_test(&t.f, t.dev, 200);
	t.dev->ops->pause(t.dev);
	t.block.fail_with = 0;
	assert_int_equal(fx_load(t.dev, &s), 0);
	fx_run(&t.f, 10);
	t.dev->ops->resume(t.dev);
	drv_wait(&t.d.q[0], NULL);
	drv_wait(&t.d.q[0], NULL);
	assert_int_equal(status_get(&t, 0), 0);
	assert_int_equal(status_get(&t, 1), 0);
	free(s.buf);
	disk_end(&t);
}

static void resume_resubmits_in_order(void **state)
{
	struct virtio_blk_config c = { .errors = VIRTIO_BLK_ERRORS_STOP };
	struct blk_test t;
	uint8_t b[2];

	(void)state;
	disk_new(&t, &c);
	disk_start(&t, &c, ALL);
	t.block.fail_with = -EIO;
	memset(fx_ram(&t.f, t.data), 'a', 512);
	memset(fx_ram(&t.f, t.data + 512), 'b', 512);
	submit(&t, 0, 0, 1, 0, t.data, 512);
	submit(&t, 0, 1, 1, 0, t.data + 512, 512);
	fx_run(&t.f, 10);
	t.dev->ops->pause(t.dev);
	t.block.fail_with = 0;
	t.dev->ops->resume(t.dev);
	drv_wait(&t.d.q[0], NULL);
	drv_wait(&t.d.q[0], NULL);
	assert_int_equal(pread(t.block.fd, b, 2, 0), 2);
	assert_int_equal(b[0], 'b');
	disk_end(&t);
}

static void queues_work_side_by_side(void **state)
{
	struct virtio_blk_config c = { .queues = 4 };
	struct virtio_blk_stats s;
	struct blk_test t;

	(void)state;
	disk_new(&t, &c);
	disk_start(&t, &c, ALL);
	t.block.hold = 1;
	for (unsigned q = 0; q < 4; q++) {
		fill(&t, t.data + 1024 * q, 1024, (uint8_t)q);
		submit(&t, q, q, 1, 2 * q, t.data + 1024 * q, 1024);
	}
	fx_run(&t.f, 10);
	assert_int_equal(t.block.nheld, 4);
	block_release(&t.block);
	for (unsigned q = 0; q < 4; q++) {
		drv_wait(&t.d.q[q], NULL);
		assert_int_equal(status_get(&t, q), 0);
	}
	assert_int_equal(t.f.nmsi, 4);
	virtio_blk_stats(t.dev, &s);
	assert_int_equal(s.wr_reqs, 4);
	assert_int_equal(s.wr_bytes, 4096);
	disk_end(&t);
}

/* The disk's loop runs on its own thread, as in the machine. */
static void *loop_thread(void *opaque)
{
	loop_run(opaque);
	return NULL;
}

struct release_later {
	struct loop_task task;
	struct block *block;
};

static void release_run(struct loop_task *task)
{
	usleep(50000); /* gives the wait time to begin */
	block_release(container_of(task, struct release_later, task)->block);
}

static void pause_and_reset_wait_for_what_is_in_flight(void **state)
{
	struct release_later later[2];
	struct virtio_blk_config c = { 0 };
	pthread_t thread;
	struct loop *l;
	struct blk_test t;

	(void)state;
	disk_new(&t, &c);
	assert_int_equal(loop_new(64, &l, NULL), 0);
	c.loop = t.block.loop = l;
	disk_start(&t, &c, ALL);
	for (unsigned i = 0; i < 2; i++)
		later[i] = (struct release_later){ { .run = release_run }, &t.block };
	t.block.hold = 1;
	assert_int_equal(pthread_create(&thread, NULL, loop_thread, l), 0);
	submit(&t, 0, 0, 1, 0, t.data, 512);
	while (!__atomic_load_n(&t.block.submits, __ATOMIC_ACQUIRE))
		usleep(100);
	loop_post(l, &later[0].task);
	t.dev->ops->pause(t.dev);
	assert_int_equal(drv_used_idx(&t.d.q[0]), 1);
	assert_int_equal(status_get(&t, 0), 0);
	t.dev->ops->resume(t.dev);
	drv_wait(&t.d.q[0], NULL);
	__atomic_store_n(&t.block.hold, 1, __ATOMIC_SEQ_CST);
	submit(&t, 0, 0, 1, 0, t.data, 512);
	while (__atomic_load_n(&t.block.submits, __ATOMIC_ACQUIRE) < 2)
		usleep(100);
	loop_post(l, &later[1].task);
	/* The guest resets the device with a request in flight: the ring is not written any
	 * more. */
	fx_write(&t.f, t.d.common + 20, 1, 0);
	assert_int_equal(drv_status(&t.d), 0);
	assert_int_equal(drv_used_idx(&t.d.q[0]), 1);
	loop_stop(l);
	pthread_join(thread, NULL);
	disk_end(&t);
	loop_free(l);
}

struct status_writer {
	struct blk_test *t;
	const uint8_t *values;
	unsigned n;
};

static void *cpu_main(void *opaque)
{
	struct status_writer *w = opaque;

	for (unsigned i = 0; i < w->n; i++)
		fx_write(&w->t->f, w->t->d.common + 20, 1, w->values[i]);
	return NULL;
}

/* While a vCPU resets the device with a request in flight, another one sets DRIVER_OK again: the device must not run
 * with the queues and features of the driver before. */
static void status_of_second_vcpu_waits_for_the_reset(void **state)
{
	static const uint8_t zero[] = { 0 }, ok[] = { 3, 11, 15 };
	struct virtio_blk_config c = { 0 };
	struct release_later later;
	struct blk_test t;
	struct status_writer resets = { &t, zero, 1 }, sets = { &t, ok, 3 };
	pthread_t thread, a, b;
	struct loop *l;

	(void)state;
	disk_new(&t, &c);
	assert_int_equal(loop_new(64, &l, NULL), 0);
	c.loop = t.block.loop = l;
	disk_start(&t, &c, ALL);
	later = (struct release_later){ { .run = release_run }, &t.block };
	t.block.hold = 1;
	assert_int_equal(pthread_create(&thread, NULL, loop_thread, l), 0);
	submit(&t, 0, 0, 1, 0, t.data, 512);
	while (!__atomic_load_n(&t.block.submits, __ATOMIC_ACQUIRE))
		usleep(100);
	assert_int_equal(pthread_create(&a, NULL, cpu_main, &resets), 0);
	while (drv_status(&t.d))
		usleep(100);
	assert_int_equal(pthread_create(&b, NULL, cpu_main, &sets), 0);
	loop_post(l, &later.task);
	pthread_join(a, NULL);
	pthread_join(b, NULL);
	assert_int_equal(drv_status(&t.d), 3); /* the reset has cleared the features, so FEATURES_OK is refused */
	loop_stop(l);
	pthread_join(thread, NULL);
	disk_end(&t);
	loop_free(l);
}

/* The block layer takes up to 1 GiB at once: larger transfers are errors of the request, not of the host. */
static void refuses_transfers_over_one_gib(void **state)
{
	struct virtio_blk_config c = { 0 };
	struct drv_sg sg[160];
	struct blk_test t;

	(void)state;
	disk_new(&t, &c);
	t.block.info.size_bytes = 4ULL << 30;
	disk_start(&t, &c, ALL);
	for (unsigned type = 0; type <= 1; type++) {
		unsigned submits = t.block.submits;
		uint32_t each = FX_LOW_BYTES - 8192;
		uint64_t n = (1ULL << 30) / each + 1;

		assert_true(n + 2 <= ARRAY_SIZE(sg));
		header_put(&t, 0, type, 0);
		sg[0] = (struct drv_sg){ t.header, 16, false };
		for (unsigned i = 0; i < n; i++)
			sg[1 + i] = (struct drv_sg){ 4096, each, !type };
		sg[n + 1] = (struct drv_sg){ t.status, 1, true };
		drv_add(&t.d.q[0], sg, (unsigned)n + 2, true);
		drv_kick(&t.d.q[0]);
		drv_wait(&t.d.q[0], NULL);
		assert_int_equal(status_get(&t, 0), 1);
		assert_int_equal(t.block.submits, submits);
	}
	disk_end(&t);
}

static void state_survives(void **state)
{
	struct virtio_blk_config c = { .queues = 2 };
	struct blk_test t;

	(void)state;
	disk_new(&t, &c);
	disk_start(&t, &c, ALL);
	fill(&t, t.data, 512, 1);
	assert_int_equal(request(&t, 1, 0, t.data, 512, NULL), 0);
	fx_state_test(&t.f, t.dev, 1500);
	assert_int_equal(t.f.ndoorbells, 2);
	assert_int_equal(request(&t, 0, 0, t.data + 4096, 512, NULL), 0);
	disk_end(&t);
}

/* Random rings: the device survives any driver and can be reset. */
static void random_rings(void **state)
{
	uint32_t seed = 12345;
	struct blk_test t;

	(void)state;
	disk_begin(&t, ALL);
	for (unsigned round = 0; round < 400; round++) {
		for (unsigned i = 0; i < 16; i++) {
			uint32_t r = seed = seed * 1664525 + 1013904223;
			uint64_t gpa = r & 3 ? t.header + (r >> 8) % 70000 : r * 4099ULL;

			drv_desc(&t.d.q[0], i, gpa, (r >> 4) % 3 ? 16 : (r >> 3) % 5000,
				(uint16_t)((r >> 20) & ((r >> 29) ? 3 : 7)),
				(uint16_t)((i + 1 + (r >> 27 ? 0 : r)) % 17));
			header_put(&t, i, (r >> 24) % 14, (r >> 10) % 3000);
		}
		for (unsigned i = 0; i < 5; i++)
			drv_publish(&t.d.q[0], (seed >> (3 * i)) % 16);
		drv_kick(&t.d.q[0]);
		fx_run(&t.f, 4);
		if (drv_status(&t.d) & VIRTIO_STATUS_NEEDS_RESET) {
			t.f.next_gpa = t.status + 4096;
			drv_init(&t.d, &t.f, SLOT, ALL, true);
			drv_queue_setup(&t.d, 0, 16);
			drv_ok(&t.d);
		}
	}
	fx_run(&t.f, 20);
	disk_end(&t);
}

/* ---- polls ---- */

#define MS 1000000ULL

/* Read until the loop, which measures its sleeps, polls before it sleeps. */
static void loop_made_busy(struct blk_test *t)
{
	for (unsigned i = 0; i < 10000 && !loop_polls(t->f.host.loop); i++)
		assert_int_equal(request(t, 0, 0, t->data, 512, NULL), 0);
	assert_true(loop_polls(t->f.host.loop));
}

static void request_add(struct blk_test *t)
{
	struct drv_sg sg[3] = { { t->header, 16, false }, { t->data, 512, true }, { t->status, 1, true } };

	header_put(t, 0, 0, 0);
	drv_add(&t->d.q[0], sg, 3, false);
}

static void test_busy_loop_takes_requests_without_doorbells(void **state)
{
	for (unsigned event_idx = 0; event_idx < 2; event_idx++) {
		struct blk_test t = { 0 };
		struct drv_queue *q = &t.d.q[0];
		uint16_t old;

		(void)state;
		disk_begin(&t, event_idx ? ALL : ALL & ~VIRTIO_F_EVENT_IDX);
		loop_made_busy(&t);
		/* A doorbell that rings while the loop polls disables the next one until the loop sleeps. */
		request_add(&t);
		drv_kick(q);
		for (unsigned i = 0; i < 5; i++)
			loop_run_once(t.f.host.loop, 0);
		assert_int_equal(drv_used_idx(q), q->avail_idx);
		old = q->avail_idx;
		request_add(&t);
		assert_false(drv_wants_kick(q, old));
		loop_run_once(t.f.host.loop, MS);
		loop_run_once(t.f.host.loop, MS);
		assert_int_equal(drv_used_idx(q), q->avail_idx);
		assert_int_equal(status_get(&t, 0), 0);
		old = q->avail_idx;
		request_add(&t);
		assert_true(drv_wants_kick(q, old));
		disk_end(&t);
	}
}

/* Let a request wait in the block layer while the loop sleeps, and end it. Returns whether the loop polls then. */
static bool request_that_takes_long(struct blk_test *t, bool *ret_doorbell)
{
	struct drv_queue *q = &t->d.q[0];
	uint16_t old = (uint16_t)(q->avail_idx + 1);
	bool polls;

	t->block.hold = 1;
	request_add(t);
	drv_kick(q);
	while (!t->block.nheld)
		loop_run_once(t->f.host.loop, MS);
	loop_run_once(t->f.host.loop, MS / 50);
	block_release(&t->block);
	while (drv_used_idx(q) != old)
		loop_run_once(t->f.host.loop, 0);
	polls = loop_polls(t->f.host.loop);
	request_add(t);
	*ret_doorbell = drv_wants_kick(q, old);
	drv_kick(q);
	while (drv_used_idx(q) != q->avail_idx)
		loop_run_once(t->f.host.loop, MS);
	return polls;
}

static void test_request_after_a_long_one_needs_no_doorbell(void **state)
{
	for (unsigned event_idx = 0; event_idx < 2; event_idx++) {
		struct blk_test t = { 0 };
		bool polls = false, doorbell = true;

		(void)state;
		disk_begin(&t, event_idx ? ALL : ALL & ~VIRTIO_F_EVENT_IDX);
		/* The loop measures its sleeps: on a busy machine, some are so long that it does not poll. */
		for (unsigned i = 0; i < 10000 && !polls; i++)
			polls = request_that_takes_long(&t, &doorbell);
		assert_true(polls);
		assert_false(doorbell);
		disk_end(&t);
	}
}

static void test_disk_without_polls_is_not_polled(void **state)
{
	struct virtio_blk_config c = { .poll_max_ns = VIRTIO_BLK_POLL_OFF };
	struct blk_test t = { 0 };

	(void)state;
	disk_new(&t, &c);
	disk_start(&t, &c, ALL);
	for (unsigned i = 0; i < 2000; i++) {
		assert_int_equal(request(&t, 0, 0, t.data, 512, NULL), 0);
		assert_false(loop_polls(t.f.host.loop));
	}
	disk_end(&t);
}

static void test_paused_disk_is_not_polled(void **state)
{
	struct blk_test t = { 0 };

	(void)state;
	disk_begin(&t, ALL);
	loop_made_busy(&t);
	t.dev->ops->pause(t.dev);
	request_add(&t);
	for (unsigned i = 0; i < 5; i++)
		loop_run_once(t.f.host.loop, MS);
	assert_int_equal(drv_used_idx(&t.d.q[0]), (uint16_t)(t.d.q[0].avail_idx - 1));
	t.dev->ops->resume(t.dev);
	drv_wait(&t.d.q[0], NULL);
	assert_int_equal(status_get(&t, 0), 0);
	disk_end(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(tells_its_configuration),
		cmocka_unit_test(writes_and_reads_back),
		cmocka_unit_test(odd_segments),
		cmocka_unit_test(refuses_bad_ranges),
		cmocka_unit_test(failed_read_marks_its_status),
		cmocka_unit_test(refuses_requests_without_status),
		cmocka_unit_test(serial_number),
		cmocka_unit_test(flush_and_write_through),
		cmocka_unit_test(discard_and_write_zeroes),
		cmocka_unit_test(detects_zeroes),
		cmocka_unit_test(block_sizes_and_no_discard),
		cmocka_unit_test(read_only_disk),
		cmocka_unit_test(large_blocks),
		cmocka_unit_test(error_policies),
		cmocka_unit_test(corrupt_image_stops_vm_with_any_policy),
		cmocka_unit_test(error_without_request_is_reported),
		cmocka_unit_test(stop_policy_keeps_failed_request),
		cmocka_unit_test(resume_resubmits_in_order),
		cmocka_unit_test(queues_work_side_by_side),
		cmocka_unit_test(pause_and_reset_wait_for_what_is_in_flight),
		cmocka_unit_test(status_of_second_vcpu_waits_for_the_reset),
		cmocka_unit_test(refuses_transfers_over_one_gib),
		cmocka_unit_test(state_survives),
		cmocka_unit_test(random_rings),
		cmocka_unit_test(test_busy_loop_takes_requests_without_doorbells),
		cmocka_unit_test(test_request_after_a_long_one_needs_no_doorbell),
		cmocka_unit_test(test_disk_without_polls_is_not_polled),
		cmocka_unit_test(test_paused_disk_is_not_polled),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
