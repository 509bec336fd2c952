/* The limits of VMs' control groups. A folder with files takes the place of a group: it has no processes. */
#include "api/access/rights.h"
#include "api/definition/definition.h"
#include "api/vm/cgroup_tree.h"
#include "api/vm/vm_cgroup.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/util.h"
#include "tests/unit/tmp.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static const char *const files[] = { "memory.max", "memory.current", "pids.max", "cpu.weight", "cpu.max", NULL };

struct fake {
	char folder[96];
	struct cgroup_tree tree;
};

static void put(const struct fake *f, const char *file, const char *text)
{
	char path[128];
	FILE *out;

	snprintf(path, sizeof(path), "%s/vm/%s", f->folder, file);
	out = fopen(path, "w");
	assert_non_null(out);
	assert_true(fputs(text, out) >= 0);
	assert_int_equal(fclose(out), 0);
}

static void check(const struct fake *f, const char *file, const char *text)
{
	char path[128];
	CLEANUP_FREE char *found = NULL;
	struct err e;
	size_t len;

	snprintf(path, sizeof(path), "%s/vm/%s", f->folder, file);
	assert_int_equal(file_read(path, 4096, &found, &len, &e), 0);
	assert_string_equal(found, text);
}

static int setup(void **state)
{
	struct fake *f = calloc(1, sizeof(*f));
	char path[128];

	assert_non_null(f);
	snprintf(f->folder, sizeof(f->folder), "%s/cairn-cgroup-XXXXXX", tmp_folder());
	assert_non_null(mkdtemp(f->folder));
	snprintf(path, sizeof(path), "%s/vm", f->folder);
	assert_int_equal(mkdir(path, 0755), 0);
	for (unsigned i = 0; files[i]; i++)
		put(f, files[i], "");
	f->tree = (struct cgroup_tree){ .fd = open(f->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC), .holder = -1,
		.has = { true, true, true } };
	assert_true(f->tree.fd >= 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fake *f = *state;
	char path[128];

	for (unsigned i = 0; files[i]; i++) {
		snprintf(path, sizeof(path), "%s/vm/%s", f->folder, files[i]);
		unlink(path);
	}
	snprintf(path, sizeof(path), "%s/vm", f->folder);
	rmdir(path);
	close(f->tree.fd);
	rmdir(f->folder);
	free(f);
	return 0;
}

static void enter(const struct fake *f, const struct cgroup_place *place)
{
	struct err e;
	int fd = cgroup_tree_enter(&f->tree, place, &e);

	assert_true(fd >= 0);
	close(fd);
}

static void test_limits_are_written(void **state)
{
	const struct fake *f = *state;

	enter(f, &(struct cgroup_place){ .name = "vm", .keeps = false, .limits = { 3 * GIB, 100, 200, 150 } });
	check(f, "memory.max", "3221225472");
	check(f, "pids.max", "100");
	check(f, "cpu.weight", "200");
	check(f, "cpu.max", "150000 100000");
}

static void test_no_limit_is_max(void **state)
{
	const struct fake *f = *state;

	enter(f, &(struct cgroup_place){ .name = "vm" });
	check(f, "memory.max", "max");
	check(f, "pids.max", "max");
	check(f, "cpu.weight", "100");
	check(f, "cpu.max", "max");
}

/* Memory that live clones of an earlier run use was charged to the group. */
static void test_memory_that_is_left_is_added(void **state)
{
	const struct fake *f = *state;

	put(f, "memory.current", "4096\n");
	enter(f, &(struct cgroup_place){ .name = "vm", .keeps = false, .limits = { 1 * MIB, 0, 0, 0 } });
	check(f, "memory.max", "1052672");
}

static void test_process_that_takes_over_keeps_limits(void **state)
{
	const struct fake *f = *state;

	put(f, "memory.max", "7\n");
	enter(f, &(struct cgroup_place){ .name = "vm", .keeps = true, .limits = { 3 * GIB, 100, 200, 150 } });
	check(f, "memory.max", "7\n");
	check(f, "pids.max", "");
}

static void test_missing_controllers_are_left_out(void **state)
{
	struct fake *f = *state;

	f->tree.has[CGROUP_MEMORY] = f->tree.has[CGROUP_CPU] = false;
	enter(f, &(struct cgroup_place){ .name = "vm", .keeps = false, .limits = { 3 * GIB, 100, 200, 150 } });
	check(f, "memory.max", "");
	check(f, "pids.max", "100");
	check(f, "cpu.max", "");
}

static void test_errors_name_the_limit(void **state)
{
	struct fake *f = *state;
	char path[128];
	struct err e;

	snprintf(path, sizeof(path), "%s/vm/pids.max", f->folder);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(cgroup_tree_enter(&f->tree, &(struct cgroup_place){ .name = "vm" }, &e), -ENOENT);
	assert_non_null(strstr(e.msg, "cannot set pids.max of the VM's control group"));
}

static void test_numbers_are_read(void **state)
{
	const struct fake *f = *state;
	uint64_t n;

	put(f, "memory.current", "123456789012\n");
	put(f, "memory.max", "max\n");
	assert_int_equal(cgroup_tree_read(&f->tree, "vm", "memory.current", &n), 0);
	assert_true(n == 123456789012);
	assert_int_equal(cgroup_tree_read(&f->tree, "vm", "memory.max", &n), -EINVAL);
	assert_int_equal(cgroup_tree_read(&f->tree, "other", "memory.max", &n), -ENOENT);
	assert_int_equal(cgroup_tree_limit_memory(&f->tree, "vm", 5), 0);
	assert_int_equal(cgroup_tree_read(&f->tree, "vm", "memory.max", &n), 0);
	assert_int_equal(n, 5);
}

static void test_limits_of_a_definition(void **state)
{
	struct definition d = { .ram_bytes = 1 * GIB, .ndisks = 2, .cpu_quota = 50 };
	struct cgroup_limits l;

	(void)state;
	vm_cgroup_limits(&d, &l);
	assert_true(l.memory_bytes == 2 * GIB + 128 * MIB + 1 * GIB + 2 * 512 * MIB);
	assert_int_equal(l.pids, 16384);
	assert_int_equal(l.cpu_weight, 100);
	assert_int_equal(l.cpu_percent, 50);
	d.memory_max_bytes = 512 * MIB;
	vm_cgroup_limits(&d, &l);
	assert_true(l.memory_bytes == 512 * MIB);
	d.memory_max_bytes = 64 * GIB;
	vm_cgroup_limits(&d, &l);
	assert_true(l.memory_bytes == 2 * GIB + 128 * MIB + 1 * GIB + 2 * 512 * MIB);
}

/* Shares have the range of version 1 (2 to 262144), weights that of version 2 (1 to 10000). */
static void test_shares_become_weights(void **state)
{
	static const struct {
		uint32_t shares, weight, of_user;
	} rows[] = { { 0, 100, 100 }, { 2, 1, 1 }, { 512, 50, 50 }, { 1024, 100, 100 }, { 2048, 200, 100 }, { 262144, 10000, 100 } };
	struct rights user = { .uid = 1000 };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct definition d = { .cpu_shares = rows[i].shares };
		struct cgroup_limits l;

		vm_cgroup_limits(&d, &l);
		assert_int_equal(l.cpu_weight, rows[i].weight);
		d.rights = &user;
		vm_cgroup_limits(&d, &l);
		assert_int_equal(l.cpu_weight, rows[i].of_user);
	}
}

#define WITH_FAKE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WITH_FAKE(test_limits_are_written),
		WITH_FAKE(test_no_limit_is_max),
		WITH_FAKE(test_memory_that_is_left_is_added),
		WITH_FAKE(test_process_that_takes_over_keeps_limits),
		WITH_FAKE(test_missing_controllers_are_left_out),
		WITH_FAKE(test_errors_name_the_limit),
		WITH_FAKE(test_numbers_are_read),
		cmocka_unit_test(test_limits_of_a_definition),
		cmocka_unit_test(test_shares_become_weights),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
