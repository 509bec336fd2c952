/* Image locks: QEMU and Cairn refuse each other's images in use. */
#include "fixture_block.h"

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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_qemu_is_refused_while_cairn_holds_lock),
		cmocka_unit_test(test_readers_share),
		cmocka_unit_test(test_cairn_is_refused_while_qemu_holds_lock),
	};

	alarm(30 * TEST_SLOW);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
