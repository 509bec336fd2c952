/* Whether a pin still has the content of the disk, so that a further fork may read it: never although the disk has
 * changed, and always if nobody has changed it.
 *
 * Environment: PIN_LOOKS looks at each kind of image (30), from PIN_SEED (40). */
#include "fixture_block.h"
#include "fixture_vmstate.h"

#include "base/util.h"
#include "block/qcow2/qcow2.h"

#define DISK (4 * MIB)
#define CREATE "qemu-img create -q -f qcow2 img 4M"

static const uint8_t id_a[BLOCK_PIN_ID_BYTES] = { 0xa0 }, id_b[BLOCK_PIN_ID_BYTES] = { 0xb0 };

static struct block_snapshot *pin_begin(struct fixture *f, struct block *b)
{
	struct block_snapshot *s = NULL;

	if (block_snapshot_begin(b, &s, &f->err) < 0)
		fail_msg("begin: %s", f->err.msg);
	return s;
}

static void commit(struct fixture *f, struct block_snapshot *s, const struct block_snapshot_info *info, char *ret_id)
{
	struct sync_op o = { .op.done = sync_done };

	block_snapshot_commit(s, info, &o.op);
	if (sync_wait(f, &o) < 0)
		fail_msg("commit: %s", o.err.msg);
	if (ret_id)
		memcpy(ret_id, o.op.id, sizeof(o.op.id));
}

static void pin_commit(struct fixture *f, struct block_snapshot *s, const uint8_t *id)
{
	struct block_snapshot_info info = { .sec = 1700000000 };

	qcow2_pin_mark(&info, id);
	commit(f, s, &info, NULL);
}

static void pin(struct fixture *f, struct block *b, const uint8_t *id)
{
	pin_commit(f, pin_begin(f, b), id);
}

static void pin_delete(struct fixture *f, struct block *b, const uint8_t *id)
{
	struct sync_op o = { .op.done = sync_done };

	block_pin_delete(b, id, &o.op);
	assert_int_equal(sync_wait(f, &o), 0);
}

static void snapshot(struct fixture *f, struct block *b, const char *name, char *ret_id)
{
	struct block_snapshot_info info = { .sec = 1700000000 };

	snprintf(info.name, sizeof(info.name), "%s", name);
	commit(f, pin_begin(f, b), &info, ret_id);
}

static void snapshot_call(struct fixture *f, struct block *b, const char *id,
	void (*call)(struct block *b, const char *id, struct block_snapshot_op *op))
{
	struct sync_op o = { .op.done = sync_done };

	call(b, id, &o.op);
	assert_int_equal(sync_wait(f, &o), 0);
}

static bool is_current(struct block *b, const uint8_t *id)
{
	struct qcow2_pin p;

	return qcow2_pin_is_current(b, id, &p);
}

/* An overlay on the pin, as the engine describes it from memory, reads the disk's content. */
static void overlay_equals_disk(struct fixture *f, struct block *b, const uint8_t *id)
{
	const char *const names[] = { "fork", "img", NULL };
	int to = fixture_file(f, "fork", O_RDWR | O_CREAT);
	struct block *fork = NULL;
	struct qcow2_pin p;

	assert_true(qcow2_pin_is_current(b, id, &p));
	assert_int_equal(qcow2_pin_overlays(&to, 1, &p, "img", &f->err), 0);
	close(to);
	if (fixture_open_chain(f, names, true, &fork) < 0)
		fail_msg("%s", f->err.msg);
	shadow_verify(f, fork);
	block_close(fork);
}

static void source_end(struct fixture *f, struct block *b)
{
	assert_int_equal(block_close(b), 0);
	fixture_run(f, "qemu-img check -q -f qcow2 img");
	fixture_end(f);
}

/* ---- nothing has changed ---- */

static void test_pin_stays_current_while_nobody_writes(void **state)
{
	uint8_t *read = aligned_alloc(4096, DISK);
	char own[BLOCK_SNAPSHOT_ID_MAX + 1];
	struct fixture f;
	struct block *b = fixture_begin_source(&f, 40, DISK, CREATE);

	assert_false(is_current(b, id_a));
	pin(&f, b, id_a);
	assert_false(is_current(b, id_b));
	overlay_equals_disk(&f, b, id_a);
	assert_int_equal(fixture_rw(b, BLOCK_READ, 0, read, DISK), 0);
	assert_int_equal(shadow_flush(&f, b), 0);
	/* A snapshot of the disk shares the same tables, and goes again. */
	snapshot(&f, b, "own", own);
	assert_true(is_current(b, id_a));
	snapshot_call(&f, b, own, block_snapshot_delete);
	overlay_equals_disk(&f, b, id_a);
	pin_delete(&f, b, id_a);
	free(read);
	source_end(&f, b);
	(void)state;
}

static void test_pin_that_was_replaced_or_deleted_is_not_current(void **state)
{
	struct fixture f;
	struct block *b = fixture_begin_source(&f, 41, DISK, CREATE);

	pin(&f, b, id_a);
	pin(&f, b, id_b);
	assert_false(is_current(b, id_a)); /* only the last one is known */
	assert_true(is_current(b, id_b));
	pin_delete(&f, b, id_a);
	overlay_equals_disk(&f, b, id_b);
	pin_delete(&f, b, id_b);
	assert_false(is_current(b, id_b));
	source_end(&f, b);
	(void)state;
}

static void test_pin_is_not_current_before_it_is_in_the_image(void **state)
{
	struct sync_op o = { .op.done = sync_done };
	struct fixture f;
	struct block *b = fixture_begin_source(&f, 42, DISK, CREATE);
	struct block_snapshot *s = pin_begin(&f, b);

	assert_false(is_current(b, id_a));
	block_snapshot_abort(s, &o.op);
	assert_int_equal(sync_wait(&f, &o), 0);
	assert_false(is_current(b, id_a));
	/* An abort leaves an older pin as it was. */
	pin(&f, b, id_a);
	s = pin_begin(&f, b);
	o = (struct sync_op){ .op.done = sync_done };
	block_snapshot_abort(s, &o.op);
	assert_int_equal(sync_wait(&f, &o), 0);
	overlay_equals_disk(&f, b, id_a);
	source_end(&f, b);
	(void)state;
}

static void test_other_process_knows_no_pin(void **state)
{
	struct fixture f;
	struct block *b = fixture_begin_source(&f, 43, DISK, CREATE);

	pin(&f, b, id_a);
	assert_int_equal(block_close(b), 0);
	b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, false);
	assert_false(is_current(b, id_a));
	source_end(&f, b);
	(void)state;
}

/* ---- something has changed ---- */

static void change_write(struct fixture *f, struct block *b)
{
	uint8_t data[512] = { 1 };

	assert_int_equal(fixture_rw(b, BLOCK_WRITE, 0, data, sizeof(data)), 0);
	(void)f;
}

static void change_write_of_the_same(struct fixture *f, struct block *b)
{
	uint8_t *data = aligned_alloc(4096, 4096);

	assert_int_equal(fixture_rw(b, BLOCK_READ, 0, data, 4096), 0);
	assert_int_equal(fixture_rw(b, BLOCK_WRITE, 0, data, 4096), 0);
	free(data);
	(void)f;
}

static void change_zeroes(struct fixture *f, struct block *b)
{
	assert_int_equal(fixture_op(b, BLOCK_WRITE_ZEROES, 0, 0, DISK), 0);
	(void)f;
}

static void change_discard(struct fixture *f, struct block *b)
{
	assert_int_equal(fixture_op(b, BLOCK_DISCARD, 0, 0, DISK), 0);
	(void)f;
}

static void change_growth(struct fixture *f, struct block *b)
{
	assert_int_equal(block_resize(b, DISK + 512, &f->err), 0);
}

static void change_cut(struct fixture *f, struct block *b)
{
	assert_int_equal(block_resize(b, DISK - 512, &f->err), 0);
}

static void change_revert(struct fixture *f, struct block *b)
{
	snapshot_call(f, b, "1", block_snapshot_apply);
}

static void test_pin_is_not_current_after_a_change(void **state)
{
	static void (*const changes[])(struct fixture *f, struct block *b) = { change_write, change_write_of_the_same,
		change_zeroes, change_discard, change_growth, change_cut, change_revert };
	static const char *const creates[] = { CREATE " && qemu-img snapshot -c empty img",
		"qemu-img create -q -f qcow2 -o extended_l2=on img 4M && qemu-img snapshot -c empty img",
		"qemu-img create -q -f qcow2 -o cluster_size=512,refcount_bits=64 img 4M && qemu-img snapshot -c empty img" };

	for (unsigned i = 0; i < ARRAY_SIZE(changes) * ARRAY_SIZE(creates); i++) {
		struct fixture f;
		struct block *b = fixture_begin_source(&f, 44, DISK, creates[i / ARRAY_SIZE(changes)]);

		change_write(&f, b);
		pin(&f, b, id_a);
		assert_true(is_current(b, id_a));
		changes[i % ARRAY_SIZE(changes)](&f, b);
		if (is_current(b, id_a))
			fail_msg("change %u is not noticed", i);
		source_end(&f, b);
	}
	(void)state;
}

/* Writes that come while the pin is made belong to the time after it. */
static void test_pin_is_not_current_after_writes_during_its_commit(void **state)
{
	struct fixture f;
	struct block *b = fixture_begin_source(&f, 45, DISK, CREATE);
	struct block_snapshot *s = pin_begin(&f, b);

	shadow_run(&f, b, 20, 4);
	pin_commit(&f, s, id_a);
	assert_false(is_current(b, id_a));
	source_end(&f, b);
	(void)state;
}

struct flight {
	struct block_req req;
	struct iovec iov;
	bool over;
};

static void flight_done(struct block_req *r, int res)
{
	assert_int_equal(res, 0);
	container_of(r, struct flight, req)->over = true;
}

/* A write in flight has not changed the L1 yet; a read changes nothing. */
static void test_pin_is_not_current_while_a_write_is_in_flight(void **state)
{
	static uint8_t data[512] __attribute__((aligned(4096)));
	static const struct {
		enum block_op op;
		bool current;
	} cases[] = { { BLOCK_READ, true }, { BLOCK_WRITE, false } };
	struct fixture f;
	struct block *b = fixture_begin_source(&f, 46, DISK, CREATE);

	pin(&f, b, id_a);
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		struct flight x = { .req = { .op = cases[i].op, .len = sizeof(data), .niov = 1, .done = flight_done },
			.iov = { data, sizeof(data) } };

		x.req.iov = &x.iov;
		block_submit(b, &x.req);
		assert_int_equal(is_current(b, id_a), cases[i].current);
		while (!x.over)
			loop_run_once(f.loop, UINT64_MAX);
		assert_int_equal(is_current(b, id_a), cases[i].current);
	}
	source_end(&f, b);
	(void)state;
}

/* Random operations, most of them reads or none: as long as the pin counts as current, it has the disk's content. */
static void forks_at_random(unsigned seed, const char *create)
{
	unsigned shared = 0, looks = fixture_number("PIN_LOOKS", 30);
	struct fixture f;
	struct block *b = fixture_begin_source(&f, seed, DISK, create);
	uint8_t id[BLOCK_PIN_ID_BYTES] = { 0 };

	for (unsigned i = 1; i <= looks; i++) {
		if (is_current(b, id)) {
			overlay_equals_disk(&f, b, id);
			shared++;
		} else {
			if (id[0])
				pin_delete(&f, b, id);
			id[0] = (uint8_t)(1 + i % 255);
			pin(&f, b, id);
			overlay_equals_disk(&f, b, id);
		}
		if (fixture_random(&f) % 2)
			shadow_run(&f, b, 1 + (unsigned)(fixture_random(&f) % 8), 4);
	}
	assert_in_range(shared, 1, looks - 1);
	source_end(&f, b);
}

static void test_current_pin_has_the_content_of_the_disk(void **state)
{
	static const char *const creates[] = { CREATE,
		"qemu-img create -q -f qcow2 -o cluster_size=512,refcount_bits=64 img 4M",
		"qemu-img create -q -f qcow2 -o extended_l2=on img 4M",
		"qemu-img create -q -f qcow2 -o lazy_refcounts=on img 4M",
		"qemu-img create -q -f qcow2 -o compat=0.10 img 4M" };
	unsigned seed = fixture_number("PIN_SEED", 40);

	for (unsigned i = 0; i < 2 * ARRAY_SIZE(creates); i++)
		forks_at_random(seed + i, creates[i % ARRAY_SIZE(creates)]);
	(void)state;
}

/* ---- pins of snapshots ---- */

static void snapshot_pin(struct fixture *f, struct block *b, const char *of, const uint8_t *id)
{
	struct sync_op o = { .op.done = sync_done };

	block_pin_snapshot(b, of, id, &o.op);
	assert_int_equal(sync_wait(f, &o), 0);
}

static int pin_of_snapshot(struct fixture *f, const uint8_t *id, const char *of)
{
	int fd = fixture_file(f, "img", O_RDONLY);
	struct qcow2_pin p, whole;
	int r = qcow2_pin_of_snapshot(fd, "img", id, of, &p, &f->err);

	if (!r) {
		assert_int_equal(qcow2_pin_read(fd, "img", id, &whole, &f->err), 0);
		assert_memory_equal(&p, &whole, sizeof(p));
	}
	close(fd);
	return r;
}

static void test_pin_is_found_to_have_the_content_of_a_snapshot(void **state)
{
	char first[BLOCK_SNAPSHOT_ID_MAX + 1], later[BLOCK_SNAPSHOT_ID_MAX + 1], larger[BLOCK_SNAPSHOT_ID_MAX + 1];
	struct fixture f;
	struct block *b = fixture_begin_source(&f, 60, DISK, CREATE);

	change_write(&f, b);
	snapshot(&f, b, "first", first);
	change_zeroes(&f, b);
	snapshot(&f, b, "later", later);
	assert_int_equal(pin_of_snapshot(&f, id_a, first), -ENOENT);
	snapshot_pin(&f, b, first, id_a);
	assert_false(is_current(b, id_a));
	pin(&f, b, id_b);
	assert_int_equal(pin_of_snapshot(&f, id_a, first), 0);
	assert_int_equal(pin_of_snapshot(&f, id_a, later), -ENOENT);
	assert_int_equal(pin_of_snapshot(&f, id_b, later), 0);
	assert_int_equal(pin_of_snapshot(&f, id_b, first), -ENOENT);
	assert_int_equal(pin_of_snapshot(&f, id_a, "17"), -ENOENT);
	/* The same tables, but another size. */
	assert_int_equal(block_resize(b, DISK + 512, &f.err), 0);
	snapshot(&f, b, "larger", larger);
	assert_int_equal(pin_of_snapshot(&f, id_b, larger), -ENOENT);
	snapshot_call(&f, b, first, block_snapshot_delete);
	assert_int_equal(pin_of_snapshot(&f, id_a, first), -ENOENT);
	source_end(&f, b);
	(void)state;
}

/* Behind the entries of the disk, the L1 of such a snapshot has those of the VM state. */
static void test_pin_is_found_to_have_the_disk_of_a_snapshot_with_vm_state(void **state)
{
	struct block_snapshot_info info = { .name = "state", .vm_state_bytes = STATE };
	uint8_t *memory = aligned_alloc(4096, STATE);
	char id[BLOCK_SNAPSHOT_ID_MAX + 1];
	struct fixture f;
	struct block *b = fixture_begin_source(&f, 61, DISK, CREATE);
	struct block_snapshot *s = pin_begin(&f, b);

	random_fill(&f, memory, STATE);
	assert_int_equal(vm_write(&f, s, 0, memory, STATE), 0);
	commit(&f, s, &info, id);
	snapshot_pin(&f, b, id, id_a);
	assert_int_equal(pin_of_snapshot(&f, id_a, id), 0);
	pin(&f, b, id_b);
	assert_int_equal(pin_of_snapshot(&f, id_b, id), 0);
	change_write(&f, b);
	pin_delete(&f, b, id_b);
	pin(&f, b, id_b);
	assert_int_equal(pin_of_snapshot(&f, id_b, id), -ENOENT);
	free(memory);
	source_end(&f, b);
	(void)state;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pin_stays_current_while_nobody_writes),
		cmocka_unit_test(test_pin_that_was_replaced_or_deleted_is_not_current),
		cmocka_unit_test(test_pin_is_not_current_before_it_is_in_the_image),
		cmocka_unit_test(test_other_process_knows_no_pin),
		cmocka_unit_test(test_pin_is_not_current_after_a_change),
		cmocka_unit_test(test_pin_is_not_current_after_writes_during_its_commit),
		cmocka_unit_test(test_pin_is_not_current_while_a_write_is_in_flight),
		cmocka_unit_test(test_current_pin_has_the_content_of_the_disk),
		cmocka_unit_test(test_pin_is_found_to_have_the_content_of_a_snapshot),
		cmocka_unit_test(test_pin_is_found_to_have_the_disk_of_a_snapshot_with_vm_state),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
