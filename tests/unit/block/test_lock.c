/* Image locks: QEMU and Cairn refuse each other's images in use. */
#include "fixture_block.h"
#include "base/log.h"
#include "block/lock.h"

#include <pthread.h>
#include <sys/mman.h>

static void test_qemu_is_refused_while_cairn_holds_lock(void **state)
{
	struct fixture f;
	struct block *b;

	fixture_begin(&f, 1);
	fixture_run(&f, "qemu-img create -q -f qcow2 img 1M");
	b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, false);
	fixture_run(&f, "qemu-io -c 'write 0 512' img 2>&1 | grep 'lock'");
	assert_int_not_equal(fixture_status(&f, "qemu-io -r -c 'read 0 512' img"), 0);
	fixture_run(&f, "qemu-img info -U img");
	assert_int_equal(block_close(b), 0);
	fixture_run(&f, "qemu-io -c 'write 0 512' img");
	fixture_end(&f);
	(void)state;
}

/* Readers share with readers and exclude writers. */
static void test_readers_share(void **state)
{
	struct fixture f;
	struct block *a, *b, *c = NULL;

	fixture_begin(&f, 2);
	fixture_run(&f, "qemu-img create -q -f qcow2 img 1M");
	a = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, true);
	b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, true);
	fixture_run(&f, "qemu-io -r -c 'read 0 512' img");
	assert_int_not_equal(fixture_status(&f, "qemu-io -c 'write 0 512' img"), 0);
	assert_int_equal(fixture_try_open(&f, "img", BLOCK_FORMAT_QCOW2, false, &c), -EBUSY);
	assert_null(c);
	block_close(a);
	block_close(b);
	a = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, false);
	assert_int_equal(fixture_try_open(&f, "img", BLOCK_FORMAT_QCOW2, false, &c), -EBUSY);
	assert_int_equal(fixture_try_open(&f, "img", BLOCK_FORMAT_QCOW2, true, &c), -EBUSY);
	assert_int_equal(f.err.cls, ERR_BUSY);
	block_close(a);
	fixture_end(&f);
	(void)state;
}

/* qemu-io holds the image until its input ends. */
static void test_cairn_is_refused_while_qemu_holds_lock(void **state)
{
	struct block_layer y = { .fd = -1, .format = BLOCK_FORMAT_QCOW2 };
	struct block_open o = { .layers = &y, .nlayers = 1, .name = "vda" };
	struct block *b = NULL;
	struct fixture f;
	char cmd[256], path[128], line[256];
	FILE *p;

	fixture_begin(&f, 3);
	fixture_run(&f, "qemu-img create -q -f qcow2 img 1M");
	fixture_path(&f, "img", path, sizeof(path));
	snprintf(cmd, sizeof(cmd), "cd %s && mkfifo in && (qemu-io img <in & exec 3>in; "
		"echo 'write 0 512' >&3; read x <go; exec 3>&-; wait)", f.dir);
	fixture_run(&f, "mkfifo go");
	p = popen(cmd, "r");
	assert_non_null(p);
	while (fgets(line, sizeof(line), p) && !strstr(line, "wrote"))
		;
	assert_int_equal(fixture_try_open(&f, "img", BLOCK_FORMAT_QCOW2, false, &b), -EBUSY);
	assert_int_equal(f.err.cls, ERR_BUSY);
	assert_non_null(strstr(f.err.msg, "vda is in use by another process"));
	assert_int_equal(fixture_try_open(&f, "img", BLOCK_FORMAT_QCOW2, true, &b), -EBUSY);
	y.fd = open(path, O_RDONLY);
	o.read_only = o.no_lock = true;
	assert_int_equal(block_open(f.loop, &o, &b, &f.err), 0);
	block_close(b);
	fixture_run(&f, "echo >go");
	pclose(p);
	b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, false);
	block_close(b);
	fixture_end(&f);
	(void)state;
}

/* Another process's lock, and a thread that releases it as soon as the log says that somebody waits for it. */
struct holder {
	int fd, log;
	bool releases;
};

static void *holder_run(void *opaque)
{
	struct holder *h = opaque;
	char text[4096];
	ssize_t n;

	do {
		usleep(1000);
		n = pread(h->log, text, sizeof(text) - 1, 0);
		text[n > 0 ? n : 0] = 0;
	} while (!strstr(text, "waiting "));
	if (h->releases)
		lock_release(h->fd);
	return NULL;
}

static int open_waiting(struct fixture *f, struct holder *h, uint64_t wait_ns)
{
	struct block_layer y = { .format = BLOCK_FORMAT_QCOW2 };
	struct block_open o = { .layers = &y, .nlayers = 1, .name = "vda", .lock_wait_ns = wait_ns };
	struct block *b = NULL;
	char path[128];
	pthread_t t;
	int r;

	fixture_path(f, "img", path, sizeof(path));
	h->fd = open(path, O_RDWR | O_CLOEXEC);
	h->log = memfd_create("log", MFD_CLOEXEC);
	y.fd = open(path, O_RDWR | O_CLOEXEC);
	assert_int_equal(lock_acquire(h->fd, LOCK_AS_WRITER, "holder", &f->err), 0);
	log_set_fd(h->log);
	log_set_level(LOG_LEVEL_INFO);
	assert_int_equal(pthread_create(&t, NULL, holder_run, h), 0);
	r = block_open(f->loop, &o, &b, &f->err);
	pthread_join(t, NULL);
	log_set_level(LOG_LEVEL_ERROR);
	log_set_fd(2);
	if (r < 0)
		close(y.fd);
	else
		assert_int_equal(block_close(b), 0);
	close(h->fd);
	close(h->log);
	return r;
}

/* A killed process keeps its locks until its I/O has ended. */
static void test_open_waits_for_lock(void **state)
{
	struct fixture f;

	fixture_begin(&f, 4);
	fixture_run(&f, "qemu-img create -q -f qcow2 img 1M");
	assert_int_equal(open_waiting(&f, &(struct holder){ .releases = true }, 1000 * 1000000000ULL), 0);
	assert_int_equal(open_waiting(&f, &(struct holder){ .releases = false }, 20000000), -EBUSY);
	assert_non_null(strstr(f.err.msg, "vda is in use by another process"));
	fixture_end(&f);
	(void)state;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_qemu_is_refused_while_cairn_holds_lock),
		cmocka_unit_test(test_readers_share),
		cmocka_unit_test(test_cairn_is_refused_while_qemu_holds_lock),
		cmocka_unit_test(test_open_waits_for_lock),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
