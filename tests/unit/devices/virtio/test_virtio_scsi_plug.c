/* Targets of the SCSI controller that come and go, and their place in a saved state. */
#include "scsi_fixture.h"

#include "snapshot/state.h"

#include <stdio.h>

static void disk_of(struct scsi_test *t, struct block *b, const char *id, struct virtio_scsi_disk *ret)
{
	block_make(b, t->f.host.loop, DISK_BYTES, false);
	*ret = (struct virtio_scsi_disk){ .id = id, .block = b, .loop = t->f.host.loop };
}

static unsigned plug(struct scsi_test *t, const struct virtio_scsi_disk *d)
{
	unsigned target = 99;

	assert_int_equal(virtio_scsi_plug(t->dev, d, &target, NULL), 0);
	return target;
}

static void unplug(struct scsi_test *t, unsigned target)
{
	assert_int_equal(virtio_scsi_hold(t->dev, target, false), 0);
	virtio_scsi_unplug(t->dev, target);
}

static void target_comes_and_goes(void **state)
{
	struct virtio_scsi_disk d;
	struct block b;
	struct scsi_test t;

	(void)state;
	scsi_ready(&t);
	disk_of(&t, &b, "sdc", &d);
	for (unsigned i = 0; i < 4; i++)
		event_buffer_add(&t, i, 16);
	assert_int_equal(plug(&t, &d), 2);
	event_check(&t, 0, 1, 2, 1);
	assert_int_equal(virtio_scsi_find(t.dev, "sdc"), 2);
	assert_int_equal(COMMAND(&t, 2, 0, 0, 0x00), SENSE(6, 0x29, 0));
	memset(data(&t), 0x77, 512);
	assert_int_equal(COMMAND(&t, 2, 512, 0, 0x2a, 0, 0, 0, 0, 1, 0, 0, 1), OK);
	assert_int_equal(b.submits, 1);
	unplug(&t, 2);
	event_check(&t, 1, 1, 2, 2);
	/* INQUIRY and REPORT LUNS of an absent target; the others go on. */
	COMMAND(&t, 2, 0, 36, 0x12, 0, 0, 0, 36);
	assert_int_equal(t.code, 3);
	COMMAND(&t, 2, 0, 16, 0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 16);
	assert_int_equal(t.code, 3);
	assert_int_equal(tmf(&t, 5, 2, 0), 3);
	assert_int_equal(virtio_scsi_find(t.dev, "sdc"), -ENOENT);
	unplug(&t, 0);
	event_check(&t, 2, 1, 0, 2);
	assert_int_equal(COMMAND(&t, 1, 0, 0, 0x00), OK);
	/* A number comes again as late as possible. */
	assert_int_equal(plug(&t, &d), 3);
	event_check(&t, 3, 1, 3, 1);
	assert_int_equal(COMMAND(&t, 3, 0, 0, 0x00), SENSE(6, 0x29, 0));
	for (unsigned i = 4; i < 100; i++) {
		unplug(&t, (unsigned)virtio_scsi_find(t.dev, "sdc"));
		assert_int_not_equal(plug(&t, &d), 1);
	}
	close(b.fd);
	scsi_end(&t);
}

static void disk_goes_on_with_another_image(void **state)
{
	struct virtio_scsi_disk d;
	struct scsi_test t;
	struct block b;
	uint8_t sector[512];

	(void)state;
	scsi_ready(&t);
	disk_of(&t, &b, "sda", &d);
	memset(data(&t), 0x77, 512);
	assert_int_equal(COMMAND(&t, 0, 512, 0, 0x2a, 0, 0, 0, 0, 1, 0, 0, 1), OK);
	virtio_scsi_set_block(t.dev, 0, &b);
	assert_null(t.disk.listener);
	assert_non_null(b.listener);
	memset(data(&t), 0x78, 512);
	assert_int_equal(COMMAND(&t, 0, 512, 0, 0x2a, 0, 0, 0, 0, 1, 0, 0, 1), OK); /* no unit attention: the guest sees nothing */
	assert_int_equal(t.disk.submits, 1);
	assert_int_equal(b.submits, 1);
	assert_int_equal(pread(b.fd, sector, sizeof(sector), 512), sizeof(sector));
	assert_int_equal(sector[0], 0x78);
	b.listener->on_error(b.listener, -ENOSPC, "why");
	assert_string_equal(t.f.events[0].device, "sda");
	scsi_end(&t);
	close(b.fd);
}

static void number_of_targets_is_bounded(void **state)
{
	struct block b[VIRTIO_SCSI_TARGETS_MAX];
	struct virtio_scsi_disk d;
	struct scsi_test t;
	unsigned target;
	struct err e;

	(void)state;
	scsi_ready(&t);
	for (unsigned i = 2; i < VIRTIO_SCSI_TARGETS_MAX; i++) {
		char id[8];

		snprintf(id, sizeof(id), "sd%u", i);
		disk_of(&t, &b[i], id, &d);
		assert_int_equal(plug(&t, &d), i);
	}
	disk_of(&t, &b[0], "sdz", &d);
	assert_int_equal(virtio_scsi_plug(t.dev, &d, &target, &e), -ENOSPC);
	unplug(&t, 5);
	assert_int_equal(plug(&t, &d), 5);
	b[0].info.logical_block_bytes = 3;
	unplug(&t, 7);
	assert_int_equal(virtio_scsi_plug(t.dev, &d, &target, &e), -EINVAL);
	assert_int_equal(virtio_scsi_find(t.dev, "sd7"), -ENOENT);
	for (unsigned i = 0; i < VIRTIO_SCSI_TARGETS_MAX; i++)
		if (i != 1)
			close(b[i].fd);
	scsi_end(&t);
}

/* Commands that a limit holds back are answered, those in flight end first. */
static void commands_of_a_target_that_goes_are_answered(void **state)
{
	struct virtio_blk_limits l = { .bps[0].rate = 1 }; /* the next read waits for minutes */
	struct scsi_test t;

	(void)state;
	scsi_ready(&t);
	t.disk.hold = 1;
	PUT(&t, 1, 0, 0, 512, 0x28, 0, 0, 0, 0, 0, 0, 0, 1);
	fx_run(&t.f, 2);
	assert_int_equal(virtio_scsi_hold(t.dev, 0, false), -EBUSY); /* the image does not answer */
	block_release(&t.disk);
	drv_wait(&t.d.q[REQUESTS], NULL);
	assert_int_equal(response_get(&t, 1), OK);
	virtio_scsi_set_limits(t.dev, 0, &l);
	for (unsigned i = 2; i < 6; i++)
		PUT(&t, i, 0, 0, 512, 0x28, 0, 0, 0, 0, 0, 0, 0, 1);
	fx_run(&t.f, 2);
	unplug(&t, 0);
	for (unsigned i = 2; i < 6; i++) {
		response_get(&t, i);
		assert_true(t.code == 3 || (i == 2 && !t.code));
	}
	assert_int_equal(COMMAND(&t, 1, 0, 0, 0x00), OK);
	scsi_end(&t);
}

/* While the VM is paused, nothing is written to its memory: the event and the answers come with the resume. */
static void target_goes_and_comes_while_paused(void **state)
{
	struct virtio_blk_limits l = { .bps[0].rate = 1 }; /* the next read waits for minutes */
	struct virtio_scsi_disk d;
	struct fx_state saved;
	struct scsi_test t;
	struct block b;

	(void)state;
	scsi_ready(&t);
	disk_of(&t, &b, "sdc", &d);
	event_buffer_add(&t, 0, 16);
	virtio_scsi_set_limits(t.dev, 0, &l);
	assert_int_equal(COMMAND(&t, 0, 0, 512, 0x28, 0, 0, 0, 0, 0, 0, 0, 1), OK);
	PUT(&t, 1, 0, 0, 512, 0x28, 0, 0, 0, 0, 0, 0, 0, 1);
	fx_run(&t.f, 2);
	t.dev->ops->pause(t.dev);
	unplug(&t, 0);
	plug(&t, &d);
	assert_int_equal(drv_used_idx(&t.d.q[EVENTS]), 0);
	assert_int_equal(*(uint8_t *)fx_ram(&t.f, t.response + 128 + 11), 0xee);
	fx_save(t.dev, &saved);
	assert_int_equal(fx_load(t.dev, &saved), 0);
	t.dev->ops->resume(t.dev);
	drv_wait(&t.d.q[REQUESTS], NULL);
	assert_int_equal(load_le32(fx_ram(&t.f, t.events)), 0x80000000);
	response_get(&t, 1);
	assert_int_equal(t.code, 3);
	assert_int_equal(COMMAND(&t, 2, 0, 0, 0x00), SENSE(6, 0x29, 0));
	free(saved.buf);
	close(b.fd);
	scsi_end(&t);
}

static void bad_event_buffers_are_faults(void **state)
{
	struct virtio_scsi_disk d;
	struct scsi_test t;
	struct block b;

	(void)state;
	for (uint32_t bytes = 1; bytes < 16; bytes += 14) {
		scsi_ready(&t);
		disk_of(&t, &b, "sdc", &d);
		event_buffer_add(&t, 0, bytes);
		plug(&t, &d);
		assert_int_equal(fx_count_events(&t.f, DEV_EVENT_NEEDS_RESET), 1);
		unplug(&t, 2); /* the device waits for its reset */
		close(b.fd);
		scsi_end(&t);
	}
}

/* Without VIRTIO_SCSI_F_HOTPLUG, nothing is sent, and nothing is missed. */
static void driver_without_hotplug_gets_no_event(void **state)
{
	struct virtio_scsi_disk d;
	struct scsi_test t;
	struct block b;

	(void)state;
	scsi_new(&t);
	t.features = ALL & ~(1ULL << 1);
	scsi_start(&t);
	disk_of(&t, &b, "sdc", &d);
	plug(&t, &d);
	event_buffer_add(&t, 0, 16);
	unplug(&t, 2);
	assert_int_equal(drv_used_idx(&t.d.q[EVENTS]), 0);
	close(b.fd);
	scsi_end(&t);
}

/* A saved state gives each disk its target again, by its id. */
static void state_has_the_targets(void **state)
{
	struct virtio_scsi_disk d, other;
	struct state_reader content;
	struct block b, c;
	struct fx_state saved;
	struct scsi_test t;
	uint32_t lacks;
	struct err e;

	(void)state;
	scsi_ready(&t);
	disk_of(&t, &b, "sdc", &d);
	disk_of(&t, &c, "sdd", &other);
	plug(&t, &d); /* 2 */
	unplug(&t, 0);
	t.dev->ops->pause(t.dev);
	fx_save(t.dev, &saved); /* sdb 1, sdc 2 */
	unplug(&t, 2);
	unplug(&t, 1);
	assert_int_equal(plug(&t, &d), 3);
	d = (struct virtio_scsi_disk){ .id = "sdb", .block = &t.cd, .loop = t.f.host.loop, .cdrom = true };
	assert_int_equal(plug(&t, &d), 4);
	assert_int_equal(fx_load(t.dev, &saved), 0);
	assert_int_equal(virtio_scsi_find(t.dev, "sdb"), 1);
	assert_int_equal(virtio_scsi_find(t.dev, "sdc"), 2);
	t.dev->ops->resume(t.dev);
	assert_int_equal(COMMAND(&t, 1, 0, 0, 0x00), OK);
	/* One disk more than the state has, which is found before the load. */
	assert_int_equal(plug(&t, &other), 3);
	t.dev->ops->pause(t.dev);
	content = (struct state_reader){ .buf = saved.buf, .len = saved.len };
	assert_int_equal(virtio_scsi_state_compare(t.dev, &content, 2, &lacks, NULL, &e), 0);
	assert_int_equal(lacks, 1 << 3);
	assert_int_equal(fx_load(t.dev, &saved), -EINVAL);
	unplug(&t, 3);
	assert_int_equal(fx_load(t.dev, &saved), 0);
	/* One disk less. */
	unplug(&t, 2);
	assert_int_equal(virtio_scsi_state_compare(t.dev, &content, 2, &lacks, NULL, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "the state has the disk sdc, which this VM lacks"));
	assert_int_equal(fx_load(t.dev, &saved), -EINVAL);
	saved.buf[0] = 0; /* a controller without disks cannot have been saved */
	assert_int_equal(virtio_scsi_state_compare(t.dev, &content, 2, &lacks, NULL, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "malformed"));
	free(saved.buf);
	close(b.fd);
	close(c.fd);
	scsi_end(&t);
}

/* Version 1 has no targets: they are in a row. */
static void state_of_version_1_is_loaded(void **state)
{
	struct state_reader content;
	struct fx_state saved;
	struct virtio_scsi_disk d;
	struct scsi_test t;
	struct block b;
	uint32_t lacks;
	struct err e;

	(void)state;
	scsi_ready(&t);
	disk_of(&t, &b, "sdc", &d);
	COMMAND(&t, 1, 0, 0, 0x1e, 0, 0, 0, 1);
	t.dev->ops->pause(t.dev);
	fx_save(t.dev, &saved);
	content = (struct state_reader){ .buf = saved.buf + 1 + 2 * 17, .len = saved.len - 1 - 2 * 17 };
	t.dev->ops->reset(t.dev);
	assert_int_equal(virtio_scsi_state_compare(t.dev, &content, 1, &lacks, NULL, &e), 0);
	assert_int_equal(t.dev->ops->check(t.dev, &content, 1, &e), 0);
	assert_int_equal(t.dev->ops->load(t.dev, &content, 1, &e), 0);
	assert_true(virtio_scsi_is_locked(t.dev, 1, false));
	plug(&t, &d);
	content.pos = 0;
	assert_int_equal(t.dev->ops->check(t.dev, &content, 1, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "the state has 2 disks with bus scsi and the VM 3"));
	content.len = 300;
	assert_int_equal(t.dev->ops->check(t.dev, &content, 1, &e), -EINVAL);
	free(saved.buf);
	close(b.fd);
	scsi_end(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(target_comes_and_goes),
		cmocka_unit_test(disk_goes_on_with_another_image),
		cmocka_unit_test(number_of_targets_is_bounded),
		cmocka_unit_test(commands_of_a_target_that_goes_are_answered),
		cmocka_unit_test(target_goes_and_comes_while_paused),
		cmocka_unit_test(bad_event_buffers_are_faults),
		cmocka_unit_test(driver_without_hotplug_gets_no_event),
		cmocka_unit_test(state_has_the_targets),
		cmocka_unit_test(state_of_version_1_is_loaded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
