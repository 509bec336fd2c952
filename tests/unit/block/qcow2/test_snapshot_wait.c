/* Waiting for operations on a disk's snapshots. */
#include "fixture_block.h"

#include "base/util.h"
#include "block/block_snapshot.h"

struct waiter {
	struct block_snapshot_wait w;
	struct block *b;
	const char *id; /* the snapshot to delete; NULL: none */
	struct sync_op o;
	unsigned *order, at; /* at: 0: has not run */
};

static void waiter_run(struct block_snapshot_wait *w)
{
	struct waiter *x = container_of(w, struct waiter, w);

	x->at = ++*x->order;
	if (x->id)
		block_snapshot_delete(x->b, x->id, &x->o.op);
}

static void test_waiters_run_in_order_after_the_operation(void **state)
{
	struct sync_op one = { .op.done = sync_done };
	struct block_snapshot *s;
	unsigned order = 0;
	struct waiter x[3];
	struct fixture f;
	struct block *b;

	(void)state;
	fixture_begin(&f, 1400);
	fixture_run(&f, "qemu-img create -q -f qcow2 img 8M && qemu-img snapshot -c one img && qemu-img snapshot -c two img");
	b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, false);
	for (unsigned i = 0; i < ARRAY_SIZE(x); i++)
		x[i] = (struct waiter){ .w.run = waiter_run, .b = b, .order = &order, .o.op.done = sync_done };
	x[0].id = "2";
	block_snapshot_delete(b, "1", &one.op);
	block_snapshot_wait(b, &x[0].w);
	block_snapshot_wait(b, &x[1].w);
	assert_int_equal(order, 0);
	sync_wait(&f, &one);
	assert_int_equal(one.res, 0);
	assert_int_equal(x[0].at, 1);
	assert_int_equal(x[1].at, 0); /* waits for the deletion that the first began */
	sync_wait(&f, &x[0].o);
	assert_int_equal(x[0].o.res, 0);
	assert_int_equal(x[1].at, 2);
	assert_int_equal(block_snapshot_begin(b, &s, &f.err), 0);
	block_snapshot_wait(b, &x[2].w); /* nobody waits for a snapshot that waits for its caller */
	assert_int_equal(x[2].at, 3);
	x[2].at = 0;
	one = (struct sync_op){ .op.done = sync_done };
	block_snapshot_abort(s, &one.op);
	block_snapshot_wait(b, &x[2].w);
	assert_int_equal(x[2].at, 0);
	assert_int_equal(block_close(b), 0); /* the close ends the abort */
	assert_int_equal(x[2].at, 4);
	fixture_run(&f, "qemu-img check -q img");
	fixture_end(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_waiters_run_in_order_after_the_operation),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
