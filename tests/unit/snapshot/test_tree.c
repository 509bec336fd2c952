/* The snapshot tree in the entries' extra data. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/err.h"
#include "snapshot/tree.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static struct tree_data sample(void)
{
	struct tree_data d = { .parent = 7, .serial = 12, .state = TREE_PAUSED };

	strcpy(d.tags, "keep,nightly");
	strcpy(d.description, "before the upgrade");
	return d;
}

static void test_tree_data_round_trips(void **state)
{
	struct block_snapshot_info info = { 0 };
	struct tree_data d = sample(), got;

	(void)state;
	tree_encode(&d, &info);
	assert_true(tree_decode(&info, &got));
	assert_memory_equal(&d, &got, sizeof(d));
}

/* docs/vmstate.md, "The tree": today's images have to stay readable forever. */
static void test_layout_on_disk(void **state)
{
	static const char want[] = "CRN1" "\x3e\0" "\2" "\0" "\7\0\0\0\0\0\0\0" "\x0c\0\0\0\0\0\0\0"
		"\x0c\0" "\x12\0" "keep,nightly" "before the upgrade" "\x34\xb9\xc9\xbd"
		"CRS1" "\x2c\0" "\3" "\2" "\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\x10"
		"\x11\x12\x13\x14\x15\x16\x17\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f\x20" "\x18\x08\x43\x0a";
	struct block_snapshot_info info = { 0 };
	struct tree_data d = sample(), got;

	(void)state;
	d.set = (struct tree_set){ .mark = TREE_REVERTING, .disks = 2 };
	for (uint8_t i = 0; i < 16; i++) {
		d.set.id[i] = (uint8_t)(i + 1);
		d.set.vm[i] = (uint8_t)(i + 17);
	}
	tree_encode(&d, &info);
	assert_int_equal(info.extra_bytes, sizeof(want) - 1);
	assert_memory_equal(info.extra, want, sizeof(want) - 1);
	assert_true(tree_decode(&info, &got));
	assert_memory_equal(&d, &got, sizeof(d));
}

/* A byte that was 0 in older versions: ignored with memory, or with an unknown value. */
static void test_live_disk_only_snapshot_is_marked(void **state)
{
	struct block_snapshot_info info = { 0 };
	struct tree_data d = sample(), got;

	(void)state;
	d.state = TREE_SHUTOFF;
	d.disks_only = true;
	tree_encode(&d, &info);
	assert_int_equal(info.extra[7], 1);
	assert_true(tree_decode(&info, &got));
	assert_memory_equal(&d, &got, sizeof(d));
	d.state = TREE_PAUSED;
	tree_encode(&d, &info);
	assert_true(tree_decode(&info, &got));
	assert_false(got.disks_only);
}

static void test_longest_texts_fit(void **state)
{
	struct block_snapshot_info info = { 0 };
	struct tree_data d = { .serial = TREE_SERIAL_MAX, .parent = UINT64_MAX }, got;

	(void)state;
	memset(d.tags, 't', TREE_TAGS_MAX);
	memset(d.description, 'd', TREE_DESCRIPTION_MAX);
	tree_encode(&d, &info);
	assert_true(info.extra_bytes <= BLOCK_SNAPSHOT_EXTRA_MAX);
	assert_true(tree_decode(&info, &got));
	assert_memory_equal(&d, &got, sizeof(d));
}

static void test_serial_without_a_next_one_is_ignored(void **state)
{
	struct block_snapshot_info info = { 0 };
	struct tree_data d = { .serial = TREE_SERIAL_MAX + 1ULL }, got;

	(void)state;
	tree_encode(&d, &info);
	assert_false(tree_decode(&info, &got));
	assert_int_equal(got.serial, 0);
}

static void test_damaged_tree_data_is_ignored(void **state)
{
	struct block_snapshot_info info = { 0 }, bad;
	struct tree_data d = sample(), got;

	(void)state;
	tree_encode(&d, &info);
	for (size_t i = 0; i < info.extra_bytes; i++) {
		for (int bit = 0; bit < 8; bit++) {
			bad = info;
			bad.extra[i] ^= (uint8_t)(1 << bit);
			assert_false(tree_decode(&bad, &got));
			assert_int_equal(got.parent, 0);
			assert_string_equal(got.description, "");
		}
	}
	for (size_t n = 0; n < info.extra_bytes; n++) {
		bad = info;
		bad.extra_bytes = n;
		assert_false(tree_decode(&bad, &got));
	}
	/* Data appended by a later Cairn is ignored. */
	bad = info;
	bad.extra_bytes += 8;
	assert_true(tree_decode(&bad, &got));
}

static void test_set_data_round_trips(void **state)
{
	struct block_snapshot_info info = { 0 }, bad;
	struct tree_data d = sample(), got;

	(void)state;
	d.set = (struct tree_set){ .mark = TREE_REVERTING, .disks = 3, .id = { 1, 2 }, .vm = { 3 } };
	tree_encode(&d, &info);
	assert_true(tree_decode(&info, &got));
	assert_memory_equal(&d, &got, sizeof(d));
	/* Damaged or truncated: the rest is valid, and the set is unknown. */
	for (size_t i = info.extra_bytes - 44; i < info.extra_bytes; i++) {
		bad = info;
		bad.extra[i] ^= 4;
		assert_true(tree_decode(&bad, &got));
		assert_int_equal(got.set.mark, TREE_WHOLE);
		assert_int_equal(got.set.disks, 0);
		assert_int_equal(got.set.id[0], 0);
		assert_string_equal(got.tags, d.tags);
		bad = info;
		bad.extra_bytes = i;
		assert_true(tree_decode(&bad, &got));
		assert_int_equal(got.set.id[0], 0);
	}
}

static void test_parts_are_found_by_set_id(void **state)
{
	struct block_snapshot_info list[3] = { { .id = "1", .name = "a" }, { .id = "2", .name = "b" },
		{ .id = "3", .name = "c" } };
	struct tree_node of = { .info.name = "b" };
	struct tree_data d = { .set = { .disks = 2, .id = { 9 } } };
	struct tree t;

	(void)state;
	tree_encode(&d, &list[0]);
	assert_int_equal(tree_build(list, 3, &t), 0);
	/* Match by name only where neither has a set id. */
	assert_ptr_equal(tree_find_part(&t, &of), &t.nodes[1]);
	of.data.set.id[0] = 9;
	assert_ptr_equal(tree_find_part(&t, &of), &t.nodes[0]);
	of.data.set.id[0] = 8;
	assert_null(tree_find_part(&t, &of));
	of.data.set.id[0] = 0;
	strcpy(of.info.name, "a");
	assert_null(tree_find_part(&t, &of));
	tree_done(&t);
}

static void test_unfinished_snapshots_are_hidden(void **state)
{
	struct block_snapshot_info list[3] = { { .id = "1", .name = "a" }, { .id = "2", .name = "b" },
		{ .id = "3", .name = "c" } };
	struct tree_data d[3] = { { .serial = 1 }, { .serial = 3, .set.mark = TREE_DELETING },
		{ .serial = 2, .set.mark = TREE_MAKING } };
	struct tree t;

	(void)state;
	for (int i = 0; i < 3; i++)
		tree_encode(&d[i], &list[i]);
	assert_int_equal(tree_build(list, 3, &t), 0);
	assert_null(tree_find(&t, "b"));
	assert_null(tree_find(&t, "3"));
	assert_ptr_equal(tree_current(&t), &t.nodes[0]);
	assert_int_equal(tree_next_serial(&t), 4);
	tree_done(&t);
}

/* A pin may have the number that a deleted snapshot had. */
static void test_pins_are_in_no_tree(void **state)
{
	struct block_snapshot_info list[3] = { { .id = "1", .name = "a" }, { .id = "2", .name = "p", .pinned = true },
		{ .id = "3", .name = "c" } };
	struct tree_data d = { .serial = 1 };
	struct tree t;

	(void)state;
	tree_encode(&d, &list[0]);
	tree_encode(&d, &list[2]);
	assert_int_equal(tree_build(list, 3, &t), 0);
	assert_int_equal(t.n, 2);
	assert_string_equal(t.nodes[1].info.id, "3");
	assert_true(t.nodes[1].ours);
	assert_null(tree_find(&t, "p"));
	assert_null(tree_find(&t, "2"));
	assert_null(tree_find_id(&t, 2));
	tree_done(&t);
}

static void test_foreign_snapshot_is_a_root(void **state)
{
	struct block_snapshot_info info = { .vm_state_bytes = 1 };
	struct tree_data got;

	(void)state;
	assert_false(tree_decode(&info, &got));
	assert_int_equal(got.parent, 0);
	assert_int_equal(got.state, TREE_RUNNING);
}

static void test_snapshots_are_found_by_name_or_id(void **state)
{
	struct block_snapshot_info list[3] = { { .id = "1", .name = "base" }, { .id = "2", .name = "1" },
		{ .id = "30", .name = "qemu" } };
	struct tree_data d = { .serial = 5 };
	struct tree t;

	(void)state;
	tree_encode(&d, &list[0]);
	d.serial = 6;
	d.parent = 1;
	tree_encode(&d, &list[1]);
	assert_int_equal(tree_build(list, 3, &t), 0);
	assert_string_equal(tree_find(&t, "base")->info.id, "1");
	assert_string_equal(tree_find(&t, "1")->info.id, "2"); /* a name takes precedence over an id */
	assert_string_equal(tree_find(&t, "30")->info.name, "qemu");
	assert_null(tree_find(&t, "nobody"));
	assert_ptr_equal(tree_current(&t), tree_find(&t, "1"));
	assert_int_equal(tree_next_serial(&t), 7);
	assert_ptr_equal(tree_find_id(&t, tree_find(&t, "1")->data.parent), tree_find(&t, "base"));
	tree_done(&t);
	assert_int_equal(tree_build(NULL, 0, &t), 0);
	assert_null(tree_current(&t));
	assert_int_equal(tree_next_serial(&t), 1);
	tree_done(&t);
}

static void test_tags_are_checked(void **state)
{
	struct tree_data d = sample();

	(void)state;
	assert_true(tree_has_tag(&d, "keep"));
	assert_true(tree_has_tag(&d, "nightly"));
	assert_false(tree_has_tag(&d, "kee"));
	assert_false(tree_has_tag(&d, "keep,nightly"));
	assert_false(tree_has_tag(&d, ""));
}

static void test_names_are_checked(void **state)
{
	char name[300];
	struct err e = { 0 };

	(void)state;
	assert_int_equal(tree_name_check("before upgrade: größer", &e), 0);
	assert_int_equal(tree_name_check("", &e), -EINVAL);
	assert_int_equal(tree_name_check("a/b", &e), -EINVAL);
	assert_int_equal(tree_name_check("a\nb", &e), -EINVAL);
	assert_int_equal(tree_name_check("a\x9b", &e), -EINVAL);
	assert_int_equal(tree_name_check("a\xe2\x80\x8b", &e), -EINVAL);
	assert_int_equal(tree_name_check("a ", &e), -EINVAL);
	memset(name, 'x', sizeof(name));
	name[255] = 0;
	assert_int_equal(tree_name_check(name, &e), 0);
	name[255] = 'x';
	name[256] = 0;
	assert_int_equal(tree_name_check(name, &e), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_tree_data_round_trips),
		cmocka_unit_test(test_layout_on_disk),
		cmocka_unit_test(test_live_disk_only_snapshot_is_marked),
		cmocka_unit_test(test_longest_texts_fit),
		cmocka_unit_test(test_serial_without_a_next_one_is_ignored),
		cmocka_unit_test(test_damaged_tree_data_is_ignored),
		cmocka_unit_test(test_set_data_round_trips),
		cmocka_unit_test(test_parts_are_found_by_set_id),
		cmocka_unit_test(test_unfinished_snapshots_are_hidden),
		cmocka_unit_test(test_pins_are_in_no_tree),
		cmocka_unit_test(test_foreign_snapshot_is_a_root),
		cmocka_unit_test(test_snapshots_are_found_by_name_or_id),
		cmocka_unit_test(test_tags_are_checked),
		cmocka_unit_test(test_names_are_checked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
