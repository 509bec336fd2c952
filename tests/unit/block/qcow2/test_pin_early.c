/* Overlays whose process opens them before the pin that they read is in the image: it waits, or reads the pin as
 * soon as the source's engine tells that it can. */
#include "fixture_block.h"

#include "base/util.h"
#include "block/block_impl.h"
#include "block/qcow2/qcow2.h"

#include <pthread.h>
#include <sys/socket.h>

#define DISK (4 * MIB)
#define CREATE "qemu-img create -q -f qcow2 img 4M"
#define CREATE_EXTENDED "qemu-img create -q -f qcow2 -o extended_l2=on img 4M"

static const uint8_t id_a[BLOCK_PIN_ID_BYTES] = { 0xa0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 0xff };

static struct block_snapshot *pin_begin(struct fixture *f, struct block *b)
{
	struct block_snapshot *s = NULL;

	if (block_snapshot_begin(b, &s, &f->err) < 0)
		fail_msg("begin: %s", f->err.msg);
	return s;
}

static struct block *fork_open(struct fixture *f)
{
	const char *const names[] = { "fork", "img", NULL };
	struct block *b = NULL;

	if (fixture_open_chain(f, names, false, &b) < 0)
		fail_msg("%s", f->err.msg);
	return b;
}

#define LONG_NS (600 * 1000000000ULL)

struct early {
	struct sync_op sync;
	struct fixture *f;
	pthread_t thread;
	int peer[2]; /* connected sockets; 0: none */
	int at_once, later; /* results of an open that does not wait for the pin, and of one that does */
	uint8_t *frozen; /* the content of the pin */
	unsigned readable; /* how often the pin was announced */
	struct err e;
};

/* peer_fd: see struct block_pin_wait. */
static int early_open(struct early *x, uint64_t wait_ns, int peer_fd)
{
	struct fixture *f = x->f;
	struct block_layer layers[] = { { .format = BLOCK_FORMAT_QCOW2, .fd = fixture_file(f, "fork", O_RDWR) },
		{ .format = BLOCK_FORMAT_QCOW2, .fd = fixture_file(f, "img", O_RDONLY) } };
	struct block_open o = { .layers = layers, .nlayers = 2, .name = "vda", .beside_pins = true, .pin_wait = { wait_ns, peer_fd } };
	struct block *b = NULL;
	struct loop *l;
	int r;

	assert_int_equal(loop_new(16, &l, &x->e), 0);
	r = block_open(l, &o, &b, &x->e);
	if (!r)
		r = block_close(b);
	for (unsigned i = 0; !b && i < o.nlayers; i++)
		close(layers[i].fd);
	loop_free(l);
	return r;
}

static void *early_main(void *opaque)
{
	struct early *x = opaque;

	x->later = early_open(x, LONG_NS, x->peer[0]);
	return NULL;
}

/* The loop does not run on before this returns, so the pin is not in the image yet. */
static void early_placed(struct block_snapshot_op *op, const struct qcow2_pin *pin)
{
	struct early *x = container_of(container_of(op, struct sync_op, op), struct early, sync);
	int to = fixture_file(x->f, "fork", O_RDWR | O_CREAT);

	assert_int_equal(qcow2_pin_overlays(&to, 1, pin, "img", &x->e), 0);
	close(to);
	x->at_once = early_open(x, 0, 0);
	assert_int_equal(pthread_create(&x->thread, NULL, early_main, x), 0);
}

static void test_open_waits_for_a_pin_that_is_being_made(void **state)
{
	struct early x = { .sync.op = { .done = sync_done, .placed = early_placed } };
	struct block_snapshot_info info = { .sec = 1700000000 };
	struct fixture f;
	struct block *b = fixture_begin_source(&f, 30, DISK, CREATE), *fork;
	struct block_snapshot *s = pin_begin(&f, b);
	uint8_t *frozen = shadow_copy(&f);

	x.f = &f;
	qcow2_pin_mark(&info, id_a);
	block_snapshot_commit(s, &info, &x.sync.op);
	assert_int_equal(sync_wait(&f, &x.sync), 0);
	pthread_join(x.thread, NULL);
	assert_int_equal(x.at_once, -ENOENT);
	if (x.later < 0)
		fail_msg("%s", x.e.msg);
	fork = fork_open(&f);
	content_is(&f, fork, frozen);
	assert_int_equal(block_close(fork), 0);
	assert_int_equal(block_close(b), 0);
	free(frozen);
	fixture_end(&f);
	(void)state;
}

/* End the peer while an open waits for the pin. */
static void early_abandon(struct block_snapshot_op *op, const struct qcow2_pin *pin)
{
	struct early *x = container_of(container_of(op, struct sync_op, op), struct early, sync);

	early_placed(op, pin);
	close(x->peer[1]);
	pthread_join(x->thread, NULL); /* the pin is not in the image before this loop runs on */
}

static void test_open_stops_waiting_for_a_pin_when_its_peer_ends(void **state)
{
	struct early x = { .sync.op = { .done = sync_done, .placed = early_abandon } };
	struct block_snapshot_info info = { .sec = 1700000000 };
	struct fixture f;
	struct block *b = fixture_begin_source(&f, 31, DISK, CREATE);
	struct block_snapshot *s = pin_begin(&f, b);

	x.f = &f;
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, x.peer), 0);
	qcow2_pin_mark(&info, id_a);
	block_snapshot_commit(s, &info, &x.sync.op);
	assert_int_equal(sync_wait(&f, &x.sync), 0);
	assert_int_equal(x.at_once, -ENOENT);
	assert_int_equal(x.later, -ECANCELED);
	assert_non_null(strstr(x.e.msg, "cairnd has ended"));
	close(x.peer[0]);
	assert_int_equal(block_close(b), 0);
	fixture_end(&f);
	(void)state;
}

static void readable_placed(struct block_snapshot_op *op, const struct qcow2_pin *pin)
{
	struct early *x = container_of(container_of(op, struct sync_op, op), struct early, sync);
	int to = fixture_file(x->f, "fork", O_RDWR | O_CREAT);

	assert_int_equal(qcow2_pin_overlays(&to, 1, pin, "img", &x->e), 0);
	close(to);
}

/* Read all of the overlay in a loop of its own: the source's loop does not run on meanwhile, so its header does not
 * name the pin yet. */
static void readable_read(struct block_snapshot_op *op)
{
	struct early *x = container_of(container_of(op, struct sync_op, op), struct early, sync);
	struct fixture *f = x->f;
	struct block_layer layers[] = { { .format = BLOCK_FORMAT_QCOW2, .fd = fixture_file(f, "fork", O_RDWR) },
		{ .format = BLOCK_FORMAT_QCOW2, .fd = fixture_file(f, "img", O_RDONLY) } };
	struct block_open o = { .layers = layers, .nlayers = 2, .name = "vda", .beside_pins = true, .pin_readable = true };
	struct loop *sources = f->loop;
	struct block *b = NULL;

	x->readable++;
	x->at_once = early_open(x, 0, 0);
	assert_int_equal(loop_new(16, &f->loop, &x->e), 0);
	if (block_open(f->loop, &o, &b, &x->e) < 0)
		fail_msg("%s", x->e.msg);
	content_is(f, b, x->frozen);
	assert_int_equal(block_close(b), 0);
	loop_free(f->loop);
	f->loop = sources;
}

static void pin_is_readable_early(unsigned seed, const char *create, unsigned ops)
{
	struct early x = { .sync.op = { .done = sync_done, .placed = readable_placed, .readable = readable_read } };
	struct block_snapshot_info info = { .sec = 1700000000 };
	struct fixture f;
	struct block *b = fixture_begin_source(&f, seed, DISK, create), *fork;
	struct block_snapshot *s;

	shadow_run(&f, b, ops, 1); /* tables are dirty in memory */
	s = pin_begin(&f, b);
	x.f = &f;
	x.frozen = shadow_copy(&f);
	qcow2_pin_mark(&info, id_a);
	block_snapshot_commit(s, &info, &x.sync.op);
	shadow_run(&f, b, 20, 4); /* the guest writes on */
	if (sync_wait(&f, &x.sync) < 0)
		fail_msg("%s", x.sync.err.msg);
	assert_int_equal(x.readable, 1);
	assert_int_equal(x.at_once, -ENOENT);
	fork = fork_open(&f);
	content_is(&f, fork, x.frozen);
	assert_int_equal(block_close(fork), 0);
	assert_int_equal(block_close(b), 0);
	free(x.frozen);
	fixture_end(&f);
}

static void test_pin_is_readable_before_the_header_names_it(void **state)
{
	for (unsigned seed = 0; seed < 12; seed++)
		pin_is_readable_early(100 + seed, seed % 2 ? CREATE : CREATE_EXTENDED, 1 + seed * 3);
	(void)state;
}

/* A pin that is announced although the file has another table at its place is refused. */
static void test_readable_pin_with_another_table_is_refused(void **state)
{
	const char *const names[] = { "fork", "img", NULL };
	struct early x = { .sync.op = { .done = sync_done, .placed = readable_placed } };
	struct block_snapshot_info info = { .sec = 1700000000 };
	struct fixture f;
	struct block *b = fixture_begin_source(&f, 33, DISK, CREATE), *fork = NULL;
	struct block_snapshot *s = pin_begin(&f, b);
	struct qcow2_pin p;
	int fd;

	x.f = &f;
	qcow2_pin_mark(&info, id_a);
	block_snapshot_commit(s, &info, &x.sync.op);
	assert_int_equal(sync_wait(&f, &x.sync), 0);
	assert_int_equal(block_close(b), 0);
	fd = fixture_file(&f, "img", O_RDWR);
	assert_int_equal(qcow2_pin_read(fd, "img", id_a, &p, &f.err), 0);
	assert_int_equal(pwrite(fd, "\x80\0\0\0\0\x10\0\0", 8, (off_t)p.l1_offset), 8);
	close(fd);
	f.pin_readable = true;
	assert_int_equal(fixture_open_chain(&f, names, false, &fork), -EINVAL);
	assert_non_null(strstr(f.err.msg, "is damaged"));
	fixture_end(&f);
	(void)state;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_open_waits_for_a_pin_that_is_being_made),
		cmocka_unit_test(test_open_stops_waiting_for_a_pin_when_its_peer_ends),
		cmocka_unit_test(test_pin_is_readable_before_the_header_names_it),
		cmocka_unit_test(test_readable_pin_with_another_table_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
