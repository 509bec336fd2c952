/* quota_use: what counts for a quota of disk space and snapshots, and claims of jobs that are going to make VMs. */
#include "api/access/rights.h"
#include "api/vm/observer.h"
#include "api/vm/quota_use.h"
#include "api/vm/vm.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/util.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define USER 1234
#define OTHER 1235
#define GROUP 77

/* VM 0 is root's, VM 1 the user's, VM 2 that of another user; both users are in the group. */
struct fixture {
	struct vm_host host;
	struct vm vms[3], *list[3];
	struct definition defs[3];
	struct rights *rights[3];
	struct quota quotas[2];
	struct err e;
};

static struct rights *rights_make(uid_t uid)
{
	struct rights *r = calloc(1, sizeof(*r) + sizeof(gid_t));

	assert_non_null(r);
	*r = (struct rights){ .uid = uid, .gid = uid, .ngroups = 1 };
	r->groups[0] = GROUP;
	return r;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	if (!f)
		return -1;
	f->rights[1] = rights_make(USER);
	f->rights[2] = rights_make(OTHER);
	for (unsigned i = 0; i < 3; i++) {
		f->defs[i].rights = f->rights[i];
		f->vms[i] = (struct vm){ .host = &f->host, .def = &f->defs[i] };
		f->list[i] = &f->vms[i];
	}
	f->host.vms = f->list;
	f->host.nvms = 3;
	f->host.quotas.list = f->quotas;
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	assert_null(f->host.claims);
	free(f->rights[1]);
	free(f->rights[2]);
	free(f);
	return 0;
}

static void limit(struct fixture *f, enum quota_kind kind, uint32_t id, enum quota_item item, uint64_t n)
{
	struct quota *q = &f->quotas[f->host.quotas.n++];

	*q = (struct quota){ .kind = kind, .id = id };
	for (unsigned i = 0; i < QUOTA_ITEM_COUNT; i++)
		q->limits[i] = QUOTA_NO_LIMIT;
	q->limits[item] = n;
}

static uint64_t used(const struct fixture *f, enum quota_kind kind, uint32_t id, enum quota_item item)
{
	struct quota q = { .kind = kind, .id = id };
	uint64_t all[QUOTA_ITEM_COUNT];

	quota_use_sum(&f->host, &q, all);
	return all[item];
}

static struct quota_claim *claim(struct fixture *f, unsigned vm, size_t n, uint64_t bytes)
{
	struct quota_claim *c = NULL;
	int r = quota_claim_new(&f->host, &f->defs[vm], &(struct quota_new){ .n = n, .image_bytes = bytes }, &c, &f->e);

	assert_int_equal(r, c ? 0 : -EDQUOT);
	return c;
}

static void test_images_and_snapshots_of_all_vms_count(void **state)
{
	struct fixture *f = *state;

	for (unsigned i = 0; i < 3; i++)
		f->vms[i].counts = (struct vm_counts){ .made_bytes = (i + 1) * MIB, .snapshots = i + 1 };
	f->vms[1].counts.snapshot_coming = true;
	assert_int_equal(used(f, QUOTA_USER, USER, QUOTA_DISK), 2 * MIB);
	assert_int_equal(used(f, QUOTA_USER, USER, QUOTA_SNAPSHOTS), 3);
	assert_int_equal(used(f, QUOTA_GROUP, GROUP, QUOTA_DISK), 5 * MIB);
	assert_int_equal(used(f, QUOTA_GROUP, GROUP, QUOTA_SNAPSHOTS), 6);
	assert_int_equal(used(f, QUOTA_DEFAULT, 0, QUOTA_SNAPSHOTS), 0);
}

static void test_claims_share_the_quota(void **state)
{
	struct fixture *f = *state;
	struct quota_claim *a, *b;

	limit(f, QUOTA_GROUP, GROUP, QUOTA_DISK, 10 * MIB);
	a = claim(f, 1, 2, 3 * MIB);
	assert_null(claim(f, 2, 2, 3 * MIB));
	assert_string_equal(f->e.msg, "group 77 has a quota of 10 MiB images that Cairn made, takes 6 MiB and needs 6 MiB more; "
		"undefine a clone with --remove-all-storage, or root can raise it with: cairn quota --group 77 --disk SIZE");
	b = claim(f, 2, 4, MIB);
	assert_int_equal(used(f, QUOTA_GROUP, GROUP, QUOTA_VMS), 2 + 6);
	/* A claim that changes does not count beside itself. */
	assert_int_equal(quota_claim_change(a, 4 * MIB, 0, &f->e), -EDQUOT);
	assert_int_equal(quota_claim_change(b, MIB / 2, 0, &f->e), 0);
	assert_int_equal(quota_claim_change(a, 4 * MIB, 0, &f->e), 0);
	assert_int_equal(used(f, QUOTA_USER, USER, QUOTA_DISK), 8 * MIB);
	quota_claim_free(a);
	assert_int_equal(used(f, QUOTA_GROUP, GROUP, QUOTA_DISK), 2 * MIB);
	quota_claim_free(b);
	quota_claim_free(NULL);
}

static void test_vm_takes_its_share_of_the_claim(void **state)
{
	struct fixture *f = *state;
	struct quota_claim *c;

	assert_int_equal(quota_claim_new(&f->host, &f->defs[1],
		&(struct quota_new){ .n = 3, .image_bytes = MIB, .snapshots = 2 }, &c, &f->e), 0);
	quota_claim_take(c, &f->vms[1]);
	assert_int_equal(used(f, QUOTA_USER, USER, QUOTA_DISK), 3 * MIB);
	assert_int_equal(used(f, QUOTA_USER, USER, QUOTA_SNAPSHOTS), 6);
	assert_int_equal(used(f, QUOTA_USER, USER, QUOTA_VMS), 3);
	quota_claim_free(c);
	assert_int_equal(used(f, QUOTA_USER, USER, QUOTA_DISK), MIB);
	assert_int_equal(used(f, QUOTA_USER, USER, QUOTA_SNAPSHOTS), 2);
}

static void test_huge_sizes_do_not_wrap(void **state)
{
	static const uint64_t sizes[] = { INT64_MAX, UINT64_MAX / 1000 + 1, UINT64_MAX, 1ULL << 60 };
	struct fixture *f = *state;

	limit(f, QUOTA_USER, USER, QUOTA_DISK, 10 * MIB);
	for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++)
		assert_null(claim(f, 1, 1000, sizes[i]));
	f->vms[1].counts.made_bytes = INT64_MAX;
	assert_null(claim(f, 1, 1, 1));
	f->host.quotas.n = 0;
	quota_claim_free(claim(f, 1, 1000, INT64_MAX));
	assert_int_equal(used(f, QUOTA_GROUP, GROUP, QUOTA_DISK), INT64_MAX);
	assert_int_equal(quota_sum(UINT64_MAX, UINT64_MAX), INT64_MAX);
	assert_int_equal(quota_product(3, 4), 12);
}

static void test_root_has_no_quota(void **state)
{
	struct fixture *f = *state;

	limit(f, QUOTA_DEFAULT, 0, QUOTA_DISK, 0);
	limit(f, QUOTA_GROUP, 0, QUOTA_SNAPSHOTS, 0);
	f->host.quotas.unknown = "it was damaged";
	quota_claim_free(claim(f, 0, 1000, INT64_MAX));
	assert_int_equal(quota_check_more(&f->vms[0], QUOTA_SNAPSHOTS, 1, &f->e), 0);
	assert_false(quota_limits(&f->host, &f->defs[0], QUOTA_DISK));
	assert_int_equal(quota_check_more(&f->vms[1], QUOTA_SNAPSHOTS, 1, &f->e), -EDQUOT);
	f->host.quotas.unknown = NULL;
	assert_int_equal(quota_check_more(&f->vms[1], QUOTA_SNAPSHOTS, 1, &f->e), 0);
	assert_int_equal(quota_check_more(&f->vms[1], QUOTA_DISK, 1, &f->e), -EDQUOT);
	assert_int_equal(f->e.cls, ERR_QUOTA);
	assert_true(quota_limits(&f->host, &f->defs[1], QUOTA_DISK));
	assert_false(quota_limits(&f->host, &f->defs[1], QUOTA_SNAPSHOTS));
}

static void test_number_is_not_set_while_a_snapshot_is_created(void **state)
{
	struct fixture *f = *state;

	f->vms[1].counts = (struct vm_counts){ .snapshots = 3, .snapshot_coming = true, .snapshot_begun = true };
	quota_snapshots_set(&f->vms[1], 4);
	assert_int_equal(f->vms[1].counts.snapshots, 3);
}

static void test_state_keeps_counts(void **state)
{
	static const char *const wrong[] = { "{}", "{\"made_bytes\":-1,\"snapshots\":-5}", "{\"made_bytes\":\"x\",\"snapshots\":null}" };
	CLEANUP_JS struct json_object *o = json_object_new_object();
	struct fixture *f = *state;

	f->vms[1].counts = (struct vm_counts){ .made_bytes = 5 * MIB, .snapshots = 3, .snapshot_coming = true };
	quota_observer.state_put(&f->vms[1], o);
	quota_observer.state_load(&f->vms[2], o);
	assert_int_equal(f->vms[2].counts.made_bytes, 5 * MIB);
	assert_int_equal(f->vms[2].counts.snapshots, 3);
	assert_false(f->vms[2].counts.snapshot_coming);
	for (unsigned i = 0; i < ARRAY_SIZE(wrong); i++) {
		CLEANUP_JS struct json_object *w = json_tokener_parse(wrong[i]);

		quota_observer.state_load(&f->vms[2], w);
		assert_int_equal(f->vms[2].counts.made_bytes, 0);
		assert_int_equal(f->vms[2].counts.snapshots, 0);
	}
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_images_and_snapshots_of_all_vms_count),
		TEST(test_claims_share_the_quota),
		TEST(test_vm_takes_its_share_of_the_claim),
		TEST(test_huge_sizes_do_not_wrap),
		TEST(test_root_has_no_quota),
		TEST(test_number_is_not_set_while_a_snapshot_is_created),
		TEST(test_state_keeps_counts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
