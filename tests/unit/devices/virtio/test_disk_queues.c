/* Eight queues of one virtio disk over a qcow2 image, each driven by its own thread, as by a
 * guest's CPUs: random reads, writes, zeroes, discards and flushes that overlap between queues,
 * with snapshots created and deleted meanwhile. Afterwards each sector, in the disk and in each
 * snapshot, holds the data of a write that no later write has replaced. */
#include "fixture.h"

#include "base/bytes.h"
#include "base/util.h"
#include "block/block.h"
#include "block/qcow2/qcow2.h"
#include "devices/virtio/virtio.h"
#include "devices/virtio/virtio_blk.h"
#include "vmm/machine/disk_apply.h"
#include "vmm/machine/disk_call.h"
#include "vmm/machine/machine.h"
#include "tests/unit/tmp.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define SLOT 2
#define QUEUES 8u
#define DEPTH 4u
/* Sanitizers find races, so run longer with them. */
#define BATCHES (60u * TEST_SLOW)
#define SNAPSHOTS 4u
#define SECTORS 2048u /* size of the disk */
#define REQUEST_SECTORS_MAX 40u
#define REQUEST_BYTES_MAX (REQUEST_SECTORS_MAX * 512)
#define NEVER UINT64_MAX

enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4, T_DISCARD = 11, T_WRITE_ZEROES = 13 };

/* The last operation of a thread on a sector, between two times of a common clock. */
struct mark {
	uint64_t value; /* stored in each word of the sector together with its number; 0: zeros */
	uint64_t begin, end;
	bool discard; /* the discard may have zeroed the sector or not */
};

struct model {
	struct mark done[QUEUES][SECTORS], pending[QUEUES][SECTORS];
};

struct request {
	uint32_t type, sector, count;
	uint64_t value;
};

struct queues_test {
	struct fixture f;
	struct machine_disk disk;
	pthread_t thread; /* of the disk's loop */
	int image;
	struct drv d;
	uint64_t header, segment, data, status;
	struct model model;
	pthread_mutex_t locks[QUEUES]; /* protect the model's rows */
	atomic_uint_fast64_t clock;
	struct model *at_snapshot; /* SNAPSHOTS entries */
	char ids[SNAPSHOTS][BLOCK_SNAPSHOT_ID_MAX + 1];
};

struct guest_cpu {
	struct queues_test *t;
	unsigned index;
	uint64_t random, serial;
	struct request requests[DEPTH];
	struct request owed; /* a discard whose range has to be overwritten */
};

static uint64_t cpu_random(struct guest_cpu *c, uint64_t n)
{
	c->random = c->random * 6364136223846793005ULL + 1442695040888963407ULL;
	return (c->random >> 33) % n;
}

/* ---- content ---- */

static void sectors_fill(uint8_t *p, const struct request *r)
{
	for (uint32_t s = 0; s < r->count; s++)
		for (unsigned i = 0; i < 512; i += 8)
			store_le64(p + s * 512 + i, r->value | (r->sector + s));
}

/* Words may come from several concurrent writes, but all belong to this sector. */
static void sectors_plausible(const uint8_t *p, const struct request *r)
{
	for (uint32_t s = 0; s < r->count; s++)
		for (unsigned i = 0; i < 512; i += 8) {
			uint64_t v = load_le64(p + s * 512 + i);

			if (v && (v & 0xffff) != r->sector + s)
				fail_msg("sector %u has words of sector %u", r->sector + s,
					(unsigned)(v & 0xffff));
		}
}

static bool mark_stands(const struct model *m, const struct mark *k, uint32_t sector)
{
	for (unsigned q = 0; q < QUEUES; q++)
		if (m->done[q][sector].begin > k->end)
			return false;
	return true;
}

static bool value_stands(const struct model *m, uint64_t value, uint32_t sector)
{
	static const struct mark first = { .end = 0 };

	if (!value && mark_stands(m, &first, sector))
		return true;
	for (unsigned q = 0; q < QUEUES; q++) {
		const struct mark *marks[2] = { &m->done[q][sector], &m->pending[q][sector] };

		for (unsigned i = 0; i < 2; i++)
			if (marks[i]->begin && (marks[i]->discard || marks[i]->value == value) &&
				mark_stands(m, marks[i], sector))
				return true;
	}
	return false;
}

static void content_check(const struct model *m, const uint8_t *p, uint32_t first, uint32_t count,
	const char *where)
{
	for (uint32_t s = 0; s < count; s++) {
		uint64_t v = load_le64(p + s * 512);

		for (unsigned i = 8; i < 512; i += 8)
			if (load_le64(p + s * 512 + i) != v)
				fail_msg("%s: sector %u is of two writes", where, first + s);
		if (v && (v & 0xffff) != first + s)
			fail_msg("%s: sector %u has what belongs elsewhere", where, first + s);
		if (!value_stands(m, v & ~0xffffULL, first + s))
			fail_msg("%s: sector %u has what was overwritten (queue %u, write %u)", where,
				first + s, (unsigned)(v >> 56), (unsigned)(v >> 16));
	}
}

/* ---- a guest's CPU ---- */

static bool modifies(const struct request *r)
{
	return r->type == T_OUT || r->type == T_WRITE_ZEROES || r->type == T_DISCARD;
}

static bool apart(const struct guest_cpu *c, unsigned n, const struct request *r)
{
	for (unsigned i = 0; i < n; i++)
		if (modifies(&c->requests[i]) && r->sector < c->requests[i].sector + c->requests[i].count &&
			c->requests[i].sector < r->sector + r->count)
			return false;
	return true;
}

static void request_choose(struct guest_cpu *c, unsigned n)
{
	static const uint32_t types[] = { T_OUT, T_OUT, T_OUT, T_OUT, T_OUT, T_IN, T_IN, T_WRITE_ZEROES,
		T_DISCARD, T_FLUSH };
	struct request *r = &c->requests[n];

	if (!n && c->owed.count) {
		*r = c->owed;
		r->type = T_OUT;
		c->owed.count = 0;
	} else {
		do {
			r->type = types[cpu_random(c, ARRAY_SIZE(types))];
			r->count = 1 + (uint32_t)cpu_random(c, REQUEST_SECTORS_MAX);
			r->sector = (uint32_t)cpu_random(c, SECTORS - r->count);
		} while (modifies(r) && !apart(c, n, r));
		if (r->type == T_DISCARD && c->owed.count)
			r->type = T_OUT;
		if (r->type == T_DISCARD)
			c->owed = *r;
	}
	r->value = r->type == T_OUT ? (c->index + 1ULL) << 56 | (++c->serial & 0xffffffff) << 16 : 0;
}

static void marks_begin(struct guest_cpu *c)
{
	struct queues_test *t = c->t;

	pthread_mutex_lock(&t->locks[c->index]);
	for (unsigned n = 0; n < DEPTH; n++)
		for (uint32_t s = 0; modifies(&c->requests[n]) && s < c->requests[n].count; s++)
			t->model.pending[c->index][c->requests[n].sector + s] = (struct mark){
				.value = c->requests[n].value, .begin = atomic_fetch_add(&t->clock, 1),
				.end = NEVER, .discard = c->requests[n].type == T_DISCARD };
	pthread_mutex_unlock(&t->locks[c->index]);
}

static void marks_end(struct guest_cpu *c)
{
	struct queues_test *t = c->t;
	uint64_t now = atomic_fetch_add(&t->clock, 1);

	pthread_mutex_lock(&t->locks[c->index]);
	for (unsigned n = 0; n < DEPTH; n++)
		for (uint32_t s = 0; modifies(&c->requests[n]) && s < c->requests[n].count; s++) {
			struct mark *k = &t->model.pending[c->index][c->requests[n].sector + s];

			t->model.done[c->index][c->requests[n].sector + s] = *k;
			t->model.done[c->index][c->requests[n].sector + s].end = now;
			*k = (struct mark){ 0 };
		}
	pthread_mutex_unlock(&t->locks[c->index]);
}

static uint64_t slot_of(const struct guest_cpu *c, unsigned n)
{
	return (uint64_t)c->index * DEPTH + n;
}

static void request_submit(struct guest_cpu *c, unsigned n)
{
	const struct request *r = &c->requests[n];
	struct queues_test *t = c->t;
	uint64_t slot = slot_of(c, n), data = t->data + slot * REQUEST_BYTES_MAX;
	uint64_t segment = t->segment + slot * 16;
	struct drv_sg sg[3] = { { t->header + slot * 16, 16, false },
		{ data, r->count * 512, r->type == T_IN }, { t->status + slot, 1, true } };
	uint8_t *h = fx_ram(&t->f, t->header + slot * 16), *seg = fx_ram(&t->f, segment);
	struct drv_queue *q = &t->d.q[c->index];

	store_le32(h, r->type);
	store_le64(h + 8, r->type == T_IN || r->type == T_OUT ? r->sector : 0);
	*(uint8_t *)fx_ram(&t->f, t->status + slot) = 0xee;
	if (r->type == T_OUT)
		sectors_fill(fx_ram(&t->f, data), r);
	if (r->type == T_DISCARD || r->type == T_WRITE_ZEROES) {
		store_le64(seg, r->sector);
		store_le32(seg + 8, r->count);
		store_le32(seg + 12, r->type == T_WRITE_ZEROES && r->sector % 2);
		sg[1] = (struct drv_sg){ segment, 16, false };
	}
	if (r->type == T_FLUSH)
		sg[1] = sg[2];
	drv_add(q, sg, r->type == T_FLUSH ? 2 : 3, false);
}

static void batch_wait(struct guest_cpu *c)
{
	static const struct timespec nap = { .tv_nsec = 20000 };
	struct drv_queue *q = &c->t->d.q[c->index];
	uint64_t end = loop_now_ns() + 25000000000ULL * TEST_SLOW;

	while (drv_used_idx(q) != q->avail_idx) {
		assert_true(loop_now_ns() < end);
		nanosleep(&nap, NULL);
	}
	for (unsigned n = 0; n < DEPTH; n++)
		assert_int_equal(*(uint8_t *)fx_ram(&c->t->f, c->t->status + slot_of(c, n)), 0);
}

static void batch_run(struct guest_cpu *c)
{
	struct drv_queue *q = &c->t->d.q[c->index];
	uint16_t old = q->avail_idx;

	for (unsigned n = 0; n < DEPTH; n++)
		request_choose(c, n);
	marks_begin(c);
	for (unsigned n = 0; n < DEPTH; n++)
		request_submit(c, n);
	if (drv_wants_kick(q, old))
		drv_kick(q);
	batch_wait(c);
	marks_end(c);
	for (unsigned n = 0; n < DEPTH; n++)
		if (c->requests[n].type == T_IN)
			sectors_plausible(fx_ram(&c->t->f, c->t->data + slot_of(c, n) * REQUEST_BYTES_MAX),
				&c->requests[n]);
}

static void *cpu_main(void *opaque)
{
	struct guest_cpu *c = opaque;

	for (unsigned i = 0; i < BATCHES || c->owed.count; i++)
		batch_run(c);
	return NULL;
}

/* ---- the machine ---- */

static void *disk_main(void *opaque)
{
	loop_run(opaque);
	return NULL;
}

static void test_begin(struct queues_test *t, uint32_t cluster_bits, bool extended)
{
	struct qcow2_create create = { .size_bytes = SECTORS * 512, .cluster_bits = cluster_bits,
		.refcount_order = 4, .version = 3, .extended_l2 = extended };
	struct virtio_blk_config c = { .name = "vda", .queues = QUEUES, .slot = SLOT };
	struct block_layer layer = { .format = BLOCK_FORMAT_QCOW2 };
	struct block_open o = { .layers = &layer, .nlayers = 1, .name = "vda", .no_lock = true,
		.cache_bytes = 1 };
	char path[96];

	fx_init(&t->f);
	snprintf(path, sizeof(path), "%s/cairn-queues-XXXXXX", tmp_folder());
	t->image = mkstemp(path);
	assert_true(t->image >= 0);
	unlink(path);
	assert_int_equal(qcow2_create(t->image, &create, NULL), 0);
	layer.fd = dup(t->image);
	t->disk.id = "vda";
	t->disk.apply = disk_apply_new();
	assert_non_null(t->disk.apply);
	assert_int_equal(loop_new(128, &t->disk.loop, NULL), 0);
	assert_int_equal(block_open(t->disk.loop, &o, &t->disk.block, NULL), 0);
	c.block = t->disk.block;
	c.loop = t->disk.loop;
	assert_int_equal(virtio_blk_new(&t->f.host, t->f.pci, &c, &t->disk.dev, NULL), 0);
	assert_int_equal(pthread_create(&t->thread, NULL, disk_main, t->disk.loop), 0);
	drv_init(&t->d, &t->f, SLOT, ~0ULL, true);
	for (unsigned q = 0; q < QUEUES; q++) {
		drv_queue_setup(&t->d, q, 16);
		pthread_mutex_init(&t->locks[q], NULL);
	}
	drv_ok(&t->d);
	t->header = fx_alloc(&t->f, 16 * DEPTH * QUEUES, 64);
	t->segment = fx_alloc(&t->f, 16 * DEPTH * QUEUES, 64);
	t->data = fx_alloc(&t->f, REQUEST_BYTES_MAX * DEPTH * QUEUES, 4096);
	t->status = fx_alloc(&t->f, DEPTH * QUEUES, 64);
	t->clock = 1;
	t->at_snapshot = calloc(SNAPSHOTS, sizeof(*t->at_snapshot));
	assert_non_null(t->at_snapshot);
}

/* Take a snapshot of this instant; the guest's requests continue right after it. */
static void snapshot_make(struct queues_test *t, unsigned i)
{
	struct block_snapshot_info info = { .sec = 1 };
	struct block_snapshot *s;

	snprintf(info.name, sizeof(info.name), "s%u", i);
	t->disk.dev->ops->pause(t->disk.dev);
	assert_int_equal(disk_snapshot_begin(&t->disk, &s, NULL), 0);
	for (unsigned q = 0; q < QUEUES; q++) {
		pthread_mutex_lock(&t->locks[q]);
		memcpy(t->at_snapshot[i].done[q], t->model.done[q], sizeof(t->model.done[q]));
		memcpy(t->at_snapshot[i].pending[q], t->model.pending[q], sizeof(t->model.pending[q]));
		pthread_mutex_unlock(&t->locks[q]);
	}
	t->disk.dev->ops->resume(t->disk.dev);
	assert_int_equal(disk_snapshot_commit(&t->disk, s, &info, t->ids[i], NULL), 0);
}

/* Compare the content of the disk or of a snapshot with what the model allows. */
static void image_check(struct queues_test *t, const char *snapshot, const struct model *m)
{
	struct block_layer layer = { .fd = dup(t->image), .format = BLOCK_FORMAT_QCOW2 };
	struct block_open o = { .layers = &layer, .nlayers = 1, .name = "vda", .no_lock = true,
		.read_only = true, .snapshot = snapshot };
	uint8_t *buf = aligned_alloc(4096, SECTORS * 512);
	struct iovec iov = { buf, SECTORS * 512 };
	struct block_req r = { .op = BLOCK_READ, .len = SECTORS * 512, .iov = &iov, .niov = 1 };
	struct block *b;

	assert_non_null(buf);
	assert_int_equal(block_open(t->disk.loop, &o, &b, NULL), 0);
	assert_int_equal(block_run(b, &r), 0);
	assert_int_equal(block_close(b), 0);
	content_check(m, buf, 0, SECTORS, snapshot ? snapshot : "disk");
	free(buf);
}

/* The disk's thread has ended. */
static void test_end(struct queues_test *t)
{
	struct qcow2_check check = { 0 };
	struct qcow2_header h;

	loop_stop(t->disk.loop);
	pthread_join(t->thread, NULL);
	t->disk.dev->ops->free(t->disk.dev);
	assert_int_equal(block_close(t->disk.block), 0);
	disk_apply_free(t->disk.apply);
	assert_int_equal(qcow2_header_read(t->image, "vda", &h, NULL), 0);
	assert_int_equal(qcow2_check(t->image, &h, &check, NULL), 0);
	assert_int_equal(check.corruptions + check.errors + check.leaks, 0);
	image_check(t, NULL, &t->model);
	for (unsigned i = 0; i < SNAPSHOTS; i++)
		if (*t->ids[i])
			image_check(t, t->ids[i], &t->at_snapshot[i]);
	loop_free(t->disk.loop);
	close(t->image);
	free(t->at_snapshot);
	fx_done(&t->f);
}

static void queues_run(uint32_t cluster_bits, bool extended)
{
	static const struct timespec nap = { .tv_nsec = 10000000 };
	struct queues_test *t = calloc(1, sizeof(*t));
	struct guest_cpu cpus[QUEUES] = { 0 };
	struct virtio_blk_stats st;
	pthread_t threads[QUEUES];

	assert_non_null(t);
	test_begin(t, cluster_bits, extended);
	for (unsigned q = 0; q < QUEUES; q++) {
		cpus[q] = (struct guest_cpu){ .t = t, .index = q, .random = cluster_bits * 100 + q };
		assert_int_equal(pthread_create(&threads[q], NULL, cpu_main, &cpus[q]), 0);
	}
	for (unsigned i = 0; i < SNAPSHOTS; i++) {
		nanosleep(&nap, NULL);
		snapshot_make(t, i);
		if (i % 2) { /* the previous one */
			assert_int_equal(disk_snapshot_delete(&t->disk, t->ids[i - 1], NULL), 0);
			*t->ids[i - 1] = 0;
		}
	}
	for (unsigned q = 0; q < QUEUES; q++)
		pthread_join(threads[q], NULL);
	virtio_blk_stats(t->disk.dev, &st);
	assert_int_equal(st.errors, 0);
	test_end(t);
	free(t);
}

static void small_clusters(void **state)
{
	(void)state;
	queues_run(12, false);
}

static void default_clusters(void **state)
{
	(void)state;
	queues_run(16, false);
}

static void subclusters(void **state)
{
	(void)state;
	queues_run(16, true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(small_clusters),
		cmocka_unit_test(default_clusters),
		cmocka_unit_test(subclusters),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
