/* Tests of transport and rings, with the simplest virtio device. */
#include "fixture.h"

#include "base/bytes.h"
#include "base/util.h"
#include "devices/virtio/virtio.h"
#include "devices/virtio/virtio_rng.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define SLOT 3
#define BOTH (VIRTIO_F_EVENT_IDX | VIRTIO_F_INDIRECT_DESC)

struct rng_test {
	struct fixture f;
	struct device *dev;
	struct drv d;
	uint64_t buf;
};

static void rng_begin(struct rng_test *t, uint64_t features, bool msix)
{
	fx_init(&t->f);
	assert_int_equal(virtio_rng_new(&t->f.host, t->f.pci, "rng0", SLOT, &t->dev, NULL), 0);
	drv_init(&t->d, &t->f, SLOT, features, msix);
	drv_queue_setup(&t->d, 0, 8);
	drv_ok(&t->d);
	t->buf = fx_alloc(&t->f, 4096, 4096);
	fx_run(&t->f, 3);
}

static void rng_end(struct rng_test *t)
{
	t->dev->ops->free(t->dev);
	fx_done(&t->f);
}

static bool all_zero(const uint8_t *p, size_t n)
{
	while (n--) {
		if (*p++)
			return false;
	}
	return true;
}

static void ask(struct rng_test *t, bool indirect)
{
	struct drv_sg sg[2] = { { t->buf, 64, true }, { t->buf + 64, 64, true } };
	unsigned head;
	uint32_t len;

	memset(fx_ram(&t->f, t->buf), 0, 4096);
	head = drv_add(&t->d.q[0], sg, 2, indirect);
	drv_kick(&t->d.q[0]);
	assert_int_equal(drv_wait(&t->d.q[0], &len), head);
	assert_int_equal(len, 128);
	assert_false(all_zero(fx_ram(&t->f, t->buf), 64));
	assert_false(all_zero(fx_ram(&t->f, t->buf + 64), 64));
	assert_true(all_zero(fx_ram(&t->f, t->buf + 128), 1024));
}

static void identifies_itself(void **state)
{
	struct rng_test t;

	(void)state;
	rng_begin(&t, BOTH, true);
	assert_int_equal(fx_cfg_read(&t.f, SLOT, 0, 4), 0x10441af4);
	assert_int_equal(fx_cfg_read(&t.f, SLOT, 8, 1), 1);
	assert_int_equal(fx_read(&t.f, t.d.common + 18, 2), 1);
	rng_end(&t);
}

static void fills_buffers_with_msix(void **state)
{
	struct rng_test t;

	(void)state;
	rng_begin(&t, BOTH, true);
	for (unsigned i = 0; i < 20; i++) {
		/* used_event: interrupt for each request */
		store_le16((uint8_t *)fx_ram(&t.f, t.d.q[0].avail) + 4 + 16, t.d.q[0].last_used);
		ask(&t, i & 1);
		assert_int_equal(t.f.nmsi, i + 1);
		assert_int_equal(t.f.msi_data[i], SLOT << 8 | 0);
	}
	assert_true(t.f.dirty_bytes >= 20 * 128);
	rng_end(&t);
}

static void interrupts_by_line_without_msix(void **state)
{
	struct rng_test t;

	(void)state;
	rng_begin(&t, 0, false);
	ask(&t, false);
	assert_true(t.f.level[PCI_INTX_GSI(SLOT)]);
	assert_true(fx_cfg_read(&t.f, SLOT, 6, 2) & 8);
	assert_int_equal(fx_read(&t.f, t.d.isr, 1), 1);
	assert_false(t.f.level[PCI_INTX_GSI(SLOT)]);
	assert_int_equal(fx_read(&t.f, t.d.isr, 1), 0);
	/* "INTx disable" drops the line and releases it again. */
	fx_cfg_write(&t.f, SLOT, 4, 2, 0x402);
	ask(&t, false);
	assert_false(t.f.level[PCI_INTX_GSI(SLOT)]);
	fx_cfg_write(&t.f, SLOT, 4, 2, 2);
	assert_true(t.f.level[PCI_INTX_GSI(SLOT)]);
	rng_end(&t);
}

static void driver_can_suppress_interrupts(void **state)
{
	struct rng_test t;

	(void)state;
	rng_begin(&t, 0, true);
	store_le16(fx_ram(&t.f, t.d.q[0].avail), 1);
	ask(&t, false);
	assert_int_equal(t.f.nmsi, 0);
	store_le16(fx_ram(&t.f, t.d.q[0].avail), 0);
	ask(&t, false);
	assert_int_equal(t.f.nmsi, 1);
	rng_end(&t);
}

static void event_index_batches_interrupts(void **state)
{
	struct rng_test t;
	struct drv_sg sg = { 0, 16, true };
	uint8_t *used_event;

	(void)state;
	rng_begin(&t, BOTH, true);
	sg.gpa = t.buf;
	used_event = (uint8_t *)fx_ram(&t.f, t.d.q[0].avail) + 4 + 16;
	ask(&t, false);
	t.f.nmsi = 0;
	store_le16(used_event, 3); /* interrupt when 4 are used */
	for (unsigned i = 0; i < 2; i++) {
		drv_add(&t.d.q[0], &sg, 1, false);
		drv_kick(&t.d.q[0]);
		drv_wait(&t.d.q[0], NULL);
	}
	fx_run(&t.f, 3);
	assert_int_equal(t.f.nmsi, 0);
	drv_add(&t.d.q[0], &sg, 1, false);
	drv_kick(&t.d.q[0]);
	drv_wait(&t.d.q[0], NULL);
	fx_run(&t.f, 3);
	assert_int_equal(t.f.nmsi, 1);
	/* The device wants a doorbell for the next request. */
	drv_add(&t.d.q[0], &sg, 1, false);
	assert_true(drv_wants_kick(&t.d.q[0], (uint16_t)(t.d.q[0].avail_idx - 1)));
	rng_end(&t);
}

static void masked_vector_stays_pending(void **state)
{
	struct rng_test t;

	(void)state;
	rng_begin(&t, 0, true);
	fx_write(&t.f, t.d.msix + 12, 4, 1);
	ask(&t, false);
	assert_int_equal(t.f.nmsi, 0);
	assert_int_equal(fx_read(&t.f, t.d.msix + MSIX_PBA_OFFSET, 4), 1);
	fx_write(&t.f, t.d.msix + 12, 4, 0);
	assert_int_equal(t.f.nmsi, 1);
	assert_int_equal(fx_read(&t.f, t.d.msix + MSIX_PBA_OFFSET, 4), 0);
	rng_end(&t);
}

static void doorbell_exists_only_while_in_use(void **state)
{
	struct rng_test t;

	(void)state;
	rng_begin(&t, 0, true);
	drv_init(&t.d, &t.f, SLOT, 0, true);
	drv_queue_setup(&t.d, 0, 8);
	assert_int_equal(t.f.ndoorbells, 0);
	drv_ok(&t.d);
	assert_int_equal(t.f.ndoorbells, 1);
	assert_int_equal(t.f.doorbells[0].gpa, t.d.q[0].notify);
	fx_write(&t.f, t.d.common + 20, 1, 0);
	assert_int_equal(t.f.ndoorbells, 0);
	assert_int_equal(drv_status(&t.d), 0);
	assert_int_equal(fx_read(&t.f, t.d.common + 28, 2), 0);
	rng_end(&t);
}

/* Some drivers wait for an answer before they set DRIVER_OK; also after a restore. */
static void doorbell_before_driver_ok_is_served(void **state)
{
	struct rng_test t;

	(void)state;
	rng_begin(&t, 0, true);
	drv_init(&t.d, &t.f, SLOT, 0, true);
	drv_queue_setup(&t.d, 0, 8);
	ask(&t, false);
	fx_state_test(&t.f, t.dev, 300);
	ask(&t, false);
	assert_int_equal(drv_status(&t.d), 11);
	drv_ok(&t.d);
	ask(&t, false);
	rng_end(&t);
}

/* ---- protocol violations by the driver ---- */

static void expect_needs_reset(struct rng_test *t, const char *words)
{
	unsigned msi = t->f.nmsi;

	drv_kick(&t->d.q[0]);
	fx_run(&t->f, 5);
	assert_int_equal(drv_status(&t->d), 15 | VIRTIO_STATUS_NEEDS_RESET);
	assert_int_equal(fx_count_events(&t->f, DEV_EVENT_NEEDS_RESET), 1);
	assert_non_null(strstr(t->f.details[0], words));
	assert_int_equal(t->f.nmsi, msi + 1);
	assert_int_equal(t->f.msi_data[msi], SLOT << 8 | 1); /* configuration */
	/* Reported once; nothing is processed afterwards. */
	drv_kick(&t->d.q[0]);
	fx_run(&t->f, 5);
	assert_int_equal(fx_count_events(&t->f, DEV_EVENT_NEEDS_RESET), 1);
	/* A reset recovers the device. */
	drv_init(&t->d, &t->f, SLOT, BOTH, true);
	drv_queue_setup(&t->d, 0, 8);
	drv_ok(&t->d);
	ask(t, false);
	rng_end(t);
}

static void loop_in_chain_needs_reset(void **state)
{
	struct rng_test t;

	(void)state;
	rng_begin(&t, BOTH, true);
	drv_desc(&t.d.q[0], 0, t.buf, 16, 1 | 2, 1);
	drv_desc(&t.d.q[0], 1, t.buf, 16, 1 | 2, 0);
	drv_publish(&t.d.q[0], 0);
	expect_needs_reset(&t, "loops");
}

static void loop_in_an_indirect_table(void **state)
{
	struct rng_test t;
	uint8_t *p;

	(void)state;
	rng_begin(&t, BOTH, true);
	p = fx_ram(&t.f, t.buf);
	for (unsigned i = 0; i < 2; i++) {
		store_le64(p + 16 * i, t.buf + 1024);
		store_le32(p + 16 * i + 8, 8);
		store_le16(p + 16 * i + 12, 3);
		store_le16(p + 16 * i + 14, (uint16_t)!i);
	}
	drv_desc(&t.d.q[0], 0, t.buf, 32, 4, 0);
	drv_publish(&t.d.q[0], 0);
	expect_needs_reset(&t, "loops");
}

static void one_descriptor(const struct drv_sg *sg, uint16_t flags, uint16_t next,
	const char *words)
{
	struct rng_test t;

	rng_begin(&t, BOTH, true);
	drv_desc(&t.d.q[0], 0, sg->gpa, sg->len, flags, next);
	drv_publish(&t.d.q[0], 0);
	expect_needs_reset(&t, words);
}

static void address_beyond_ram_needs_reset(void **state)
{
	static const struct drv_sg cases[] = {
		{ FX_LOW_BYTES, 16, true },
		{ FX_LOW_BYTES - 8, 16, true },
		{ FX_HIGH_GPA - 1, 2, true },
		{ FX_HIGH_GPA + FX_HIGH_BYTES - 1, 2, true },
		{ UINT64_MAX, 1, true },
		{ UINT64_MAX - 7, 8, true },
		{ FX_MMIO32, 64, true },
		{ 0, 0xffffffff, true }, /* 4 GiB - 1 */
	};

	(void)state;
	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		one_descriptor(&cases[i], 2, 0, "outside of RAM");
}

/* Needs more RAM than the fixture has, so this uses a queue of its own. */
static void sum_of_4_gib(void **state)
{
	const size_t bytes = 1u << 30;
	uint8_t *ram = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	const struct dev_host_ops ops = { 0 };
	struct dev_host h = { .ops = &ops, .ram = { { 0, bytes, ram } } };
	struct virtqueue_elem el;
	struct virtqueue q;

	(void)state;
	assert_ptr_not_equal(ram, MAP_FAILED);
	virtqueue_init(&q, &h, 8);
	q.avail_gpa = 4096;
	q.used_gpa = 8192;
	assert_int_equal(virtqueue_start(&q, false, false), 0);
	for (unsigned i = 0; i < 4; i++) {
		store_le64(ram + 16 * i, 0);
		store_le32(ram + 16 * i + 8, 1u << 30);
		store_le16(ram + 16 * i + 12, i < 3 ? 1 : 0);
		store_le16(ram + 16 * i + 14, (uint16_t)(i + 1));
	}
	store_le16(ram + 4096 + 4, 1); /* three of them are valid */
	store_le16(ram + 4096 + 2, 1);
	assert_int_equal(virtqueue_pop(&q, &el), 1);
	assert_int_equal(el.nout, 3);
	assert_int_equal(el.out_bytes, 3ULL << 30);
	store_le16(ram + 4096 + 6, 0);
	store_le16(ram + 4096 + 2, 2);
	assert_true(virtqueue_pop(&q, &el) < 0);
	assert_non_null(strstr(q.fault, "4 GiB"));
	assert_true(virtqueue_pop(&q, &el) < 0);
	munmap(ram, bytes);
}

static void empty_descriptor_needs_reset(void **state)
{
	struct drv_sg sg = { 0x20000, 0, true };

	(void)state;
	one_descriptor(&sg, 2, 0, "length 0");
}

static void next_beyond_table_needs_reset(void **state)
{
	struct drv_sg sg = { 0x20000, 16, true };

	(void)state;
	one_descriptor(&sg, 2 | 1, 8, "beyond its table");
}

static void head_beyond_table_needs_reset(void **state)
{
	struct rng_test t;

	(void)state;
	rng_begin(&t, BOTH, true);
	drv_publish(&t.d.q[0], 8);
	expect_needs_reset(&t, "beyond its table");
}

static void index_jump_needs_reset(void **state)
{
	struct rng_test t;

	(void)state;
	rng_begin(&t, BOTH, true);
	store_le16((uint8_t *)fx_ram(&t.f, t.d.q[0].avail) + 2, 9);
	expect_needs_reset(&t, "jumped");
}

static void readable_after_writable(void **state)
{
	struct rng_test t;

	(void)state;
	rng_begin(&t, BOTH, true);
	drv_desc(&t.d.q[0], 0, t.buf, 16, 1 | 2, 1);
	drv_desc(&t.d.q[0], 1, t.buf, 16, 0, 0);
	drv_publish(&t.d.q[0], 0);
	expect_needs_reset(&t, "readable descriptor follows");
}

static void indirect_inside_indirect(void **state)
{
	struct rng_test t;
	uint8_t *p;

	(void)state;
	rng_begin(&t, BOTH, true);
	p = fx_ram(&t.f, t.buf);
	store_le64(p, t.buf + 64);
	store_le32(p + 8, 16);
	store_le16(p + 12, 4);
	drv_desc(&t.d.q[0], 0, t.buf, 16, 4, 0);
	drv_publish(&t.d.q[0], 0);
	expect_needs_reset(&t, "inside an indirect table");
}

static void indirect_of_odd_length(void **state)
{
	struct drv_sg odd = { 0x20000, 24, false }, none = { 0x20000, 0, false };
	struct drv_sg huge = { 0x20000, 16 * 1025, false }, outside = { FX_LOW_BYTES, 16, false };

	(void)state;
	one_descriptor(&odd, 4, 0, "indirect table's length");
	one_descriptor(&none, 4, 0, "indirect table's length");
	one_descriptor(&huge, 4, 0, "indirect table's length");
	one_descriptor(&outside, 4, 0, "indirect table lies outside");
	one_descriptor(&odd, 4 | 1, 1, "has a successor");
}

static void indirect_not_negotiated(void **state)
{
	struct rng_test t;

	(void)state;
	rng_begin(&t, 0, true);
	drv_desc(&t.d.q[0], 0, t.buf, 16, 4, 0);
	drv_publish(&t.d.q[0], 0);
	expect_needs_reset(&t, "not negotiated");
}

static void too_many_segments(void **state)
{
	struct rng_test t;
	uint64_t table;

	(void)state;
	rng_begin(&t, BOTH, true);
	table = fx_alloc(&t.f, 16 * 300, 16);
	for (unsigned i = 0; i < 300; i++) {
		uint8_t *p = fx_ram(&t.f, table + 16 * i);

		store_le64(p, t.buf);
		store_le32(p + 8, 1);
		store_le16(p + 12, i < 299 ? 3 : 2);
		store_le16(p + 14, (uint16_t)(i + 1));
	}
	drv_desc(&t.d.q[0], 0, table, 16 * 300, 4, 0);
	drv_publish(&t.d.q[0], 0);
	expect_needs_reset(&t, "too many");
}

static void addresses_do_not_move_while_enabled(void **state)
{
	struct rng_test t;

	(void)state;
	rng_begin(&t, BOTH, true);
	fx_write(&t.f, t.d.common + 22, 2, 0);
	fx_write(&t.f, t.d.common + 32, 8, 0x123000);
	fx_write(&t.f, t.d.common + 24, 2, 4);
	assert_int_equal(fx_read(&t.f, t.d.common + 32, 8), t.d.q[0].desc);
	assert_int_equal(fx_read(&t.f, t.d.common + 24, 2), 8);
	ask(&t, true);
	rng_end(&t);
}

static void queue_set_up_outside_of_ram(void **state)
{
	struct rng_test t;

	(void)state;
	rng_begin(&t, BOTH, true);
	drv_init(&t.d, &t.f, SLOT, BOTH, true);
	fx_write(&t.f, t.d.common + 32, 8, FX_LOW_BYTES - 16);
	fx_write(&t.f, t.d.common + 28, 2, 1);
	assert_int_equal(fx_read(&t.f, t.d.common + 28, 2), 0);
	assert_true(drv_status(&t.d) & VIRTIO_STATUS_NEEDS_RESET);
	assert_int_equal(fx_count_events(&t.f, DEV_EVENT_NEEDS_RESET), 1);
	rng_end(&t);
}

static void features_are_checked(void **state)
{
	struct rng_test t;

	(void)state;
	rng_begin(&t, BOTH, true);
	/* Without VERSION_1, or with a feature that was not offered. */
	for (unsigned i = 0; i < 2; i++) {
		fx_write(&t.f, t.d.common + 20, 1, 0);
		fx_write(&t.f, t.d.common + 20, 1, 3);
		fx_write(&t.f, t.d.common + 8, 4, 1);
		fx_write(&t.f, t.d.common + 12, 4, i);
		fx_write(&t.f, t.d.common + 8, 4, 0);
		fx_write(&t.f, t.d.common + 12, 4, i ? 1 : 0);
		fx_write(&t.f, t.d.common + 20, 1, 11);
		assert_int_equal(drv_status(&t.d), 3);
		/* therefore no DRIVER_OK either */
		fx_write(&t.f, t.d.common + 20, 1, 15);
		assert_int_equal(drv_status(&t.d), 3);
	}
	rng_end(&t);
}

static void pause_holds_requests_until_resume(void **state)
{
	struct drv_sg sg = { 0, 16, true };
	struct rng_test t;

	(void)state;
	rng_begin(&t, BOTH, true);
	t.dev->ops->pause(t.dev);
	sg.gpa = t.buf;
	drv_add(&t.d.q[0], &sg, 1, false);
	drv_kick(&t.d.q[0]);
	fx_run(&t.f, 5);
	assert_int_equal(drv_used_idx(&t.d.q[0]), 0);
	t.dev->ops->resume(t.dev);
	drv_wait(&t.d.q[0], NULL);
	rng_end(&t);
}

static void state_survives(void **state)
{
	struct rng_test t;

	(void)state;
	rng_begin(&t, BOTH, true);
	ask(&t, true);
	fx_state_test(&t.f, t.dev, 1500);
	assert_int_equal(t.f.ndoorbells, 1);
	fx_run(&t.f, 3);
	t.f.nmsi = 0;
	store_le16((uint8_t *)fx_ram(&t.f, t.d.q[0].avail) + 4 + 16, t.d.q[0].last_used);
	ask(&t, true);
	assert_int_equal(t.f.nmsi, 1);
	fx_state_test(&t.f, t.f.pci_dev, 300);
	rng_end(&t);
}

static void configuration_access_capability(void **state)
{
	struct rng_test t;
	unsigned cap;

	(void)state;
	rng_begin(&t, BOTH, true);
	for (cap = fx_cfg_read(&t.f, SLOT, 0x34, 1); cap;
		cap = fx_cfg_read(&t.f, SLOT, cap + 1, 1)) {
		if (fx_cfg_read(&t.f, SLOT, cap, 1) == 9 &&
			fx_cfg_read(&t.f, SLOT, cap + 3, 1) == 5)
			break;
	}
	assert_true(cap);
	fx_cfg_write(&t.f, SLOT, cap + 4, 1, 0);
	fx_cfg_write(&t.f, SLOT, cap + 8, 4, 20); /* device_status */
	fx_cfg_write(&t.f, SLOT, cap + 12, 4, 1);
	assert_int_equal(fx_cfg_read(&t.f, SLOT, cap + 16, 1), 15);
	fx_cfg_write(&t.f, SLOT, cap + 16, 1, 0);
	assert_int_equal(drv_status(&t.d), 0);
	/* Invalid accesses are refused. */
	fx_cfg_write(&t.f, SLOT, cap + 8, 4, 0xfffffffc);
	fx_cfg_write(&t.f, SLOT, cap + 12, 4, 4);
	assert_int_equal(fx_cfg_read(&t.f, SLOT, cap + 16, 4), 0);
	fx_cfg_write(&t.f, SLOT, cap + 4, 1, 5);
	fx_cfg_write(&t.f, SLOT, cap + 16, 4, 0);
	rng_end(&t);
}

/* The device serves the request that uses up its share. Return the time until its doorbells ring again. */
static uint64_t share_use_up(struct rng_test *t, uint64_t spent_ns)
{
	struct virtio_dev *v = container_of(t->dev, struct virtio_dev, dev);

	v->share = (struct cpu_share){ spent_ns, loop_now_ns() };
	ask(t, false);
	fx_run(&t->f, 1);
	return v->share.at_ns + (v->share.spent_ns - CPU_SHARE_BURST_NS / 2) / 25 * 100;
}

static void doorbells_rest_when_share_is_used_up(void **state)
{
	struct drv_sg sg = { 0, 64, true };
	uint64_t until_ns;
	struct rng_test t;

	(void)state;
	rng_begin(&t, BOTH, true);
	until_ns = share_use_up(&t, CPU_SHARE_BURST_NS + 100000000);
	ask(&t, false); /* waits for the end of the rest */
	assert_true(loop_now_ns() >= until_ns);
	share_use_up(&t, 1000 * CPU_SHARE_BURST_NS);
	sg.gpa = t.buf;
	drv_add(&t.d.q[0], &sg, 1, false);
	drv_kick(&t.d.q[0]);
	fx_run(&t.f, 20);
	assert_int_equal(drv_used_idx(&t.d.q[0]), t.d.q[0].last_used);
	rng_end(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(identifies_itself),
		cmocka_unit_test(fills_buffers_with_msix),
		cmocka_unit_test(interrupts_by_line_without_msix),
		cmocka_unit_test(driver_can_suppress_interrupts),
		cmocka_unit_test(event_index_batches_interrupts),
		cmocka_unit_test(masked_vector_stays_pending),
		cmocka_unit_test(doorbell_exists_only_while_in_use),
		cmocka_unit_test(doorbell_before_driver_ok_is_served),
		cmocka_unit_test(loop_in_chain_needs_reset),
		cmocka_unit_test(loop_in_an_indirect_table),
		cmocka_unit_test(address_beyond_ram_needs_reset),
		cmocka_unit_test(sum_of_4_gib),
		cmocka_unit_test(empty_descriptor_needs_reset),
		cmocka_unit_test(next_beyond_table_needs_reset),
		cmocka_unit_test(head_beyond_table_needs_reset),
		cmocka_unit_test(index_jump_needs_reset),
		cmocka_unit_test(readable_after_writable),
		cmocka_unit_test(indirect_inside_indirect),
		cmocka_unit_test(indirect_of_odd_length),
		cmocka_unit_test(indirect_not_negotiated),
		cmocka_unit_test(too_many_segments),
		cmocka_unit_test(addresses_do_not_move_while_enabled),
		cmocka_unit_test(queue_set_up_outside_of_ram),
		cmocka_unit_test(features_are_checked),
		cmocka_unit_test(pause_holds_requests_until_resume),
		cmocka_unit_test(doorbells_rest_when_share_is_used_up),
		cmocka_unit_test(state_survives),
		cmocka_unit_test(configuration_access_capability),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
