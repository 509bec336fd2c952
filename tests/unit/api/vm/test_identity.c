/* identity: MAC addresses are unique among VMs and among clones that are created together. */
#include "api/definition/definition.h"
#include "api/vm/identity.h"
#include "api/vm/vm.h"
#include "base/err.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static const uint8_t taken[DEFINITION_MAC_BYTES] = { 0x52, 0x54, 0, 1, 2, 3 };

struct fixture {
	struct vm_host host;
	struct vm vm, *list[1];
	struct definition there, a, b;
	struct definition_interface interfaces[3][2];
	struct err e;
};

static void fixture_init(struct fixture *f)
{
	*f = (struct fixture){ .vm = { .host = &f->host, .def = &f->there }, .list = { &f->vm } };
	f->host.vms = f->list;
	f->host.nvms = 1;
	f->there.interfaces = f->interfaces[0];
	f->a.interfaces = f->interfaces[1];
	f->b.interfaces = f->interfaces[2];
	f->there.ninterfaces = f->a.ninterfaces = f->b.ninterfaces = 2;
	memcpy(f->there.interfaces[0].mac, taken, sizeof(taken));
}

static void test_mac_of_another_vm_is_taken(void **state)
{
	struct fixture f;

	(void)state;
	fixture_init(&f);
	assert_int_equal(identity_complete(&f.host, &f.a, NULL, &f.e), 0);
	assert_true(definition_has_mac(&f.a.interfaces[0]) && definition_has_mac(&f.a.interfaces[1]));
	assert_memory_not_equal(f.a.interfaces[0].mac, f.a.interfaces[1].mac, DEFINITION_MAC_BYTES);
	memcpy(f.b.interfaces[1].mac, taken, sizeof(taken));
	assert_int_equal(identity_complete(&f.host, &f.b, NULL, &f.e), -EEXIST);
}

/* With 16 million addresses, a thousand random ones contain a duplicate once in thirty times. */
static void test_macs_of_clones_are_unique(void **state)
{
	struct fixture f;
	uint8_t kept[DEFINITION_MAC_BYTES];

	(void)state;
	fixture_init(&f);
	assert_int_equal(identity_complete(&f.host, &f.a, NULL, &f.e), 0);
	assert_int_equal(identity_complete(&f.host, &f.b, NULL, &f.e), 0);
	memcpy(f.b.interfaces[0].mac, f.a.interfaces[1].mac, DEFINITION_MAC_BYTES);
	memcpy(kept, f.b.interfaces[1].mac, sizeof(kept));
	assert_int_equal(identity_differ(&f.host, &f.b, &f.a, &f.e), 0);
	for (unsigned i = 0; i < 4; i++)
		assert_memory_not_equal(f.b.interfaces[i / 2].mac, f.a.interfaces[i % 2].mac, DEFINITION_MAC_BYTES);
	assert_memory_equal(f.b.interfaces[1].mac, kept, sizeof(kept));
}

/* vm: disks, interfaces and their ids as in the list; each with machine version 7. */
static void layout(struct definition *d, struct definition_disk *disks, unsigned ndisks, unsigned n, const char *const *ids)
{
	d->machine = 7;
	d->rng = true;
	d->disks = disks;
	d->ndisks = ndisks;
	d->ninterfaces = n;
	for (unsigned i = 0; i < n; i++)
		strcpy(d->interfaces[i].id, ids[i]);
}

static void test_interfaces_keep_their_slots(void **state)
{
	static const char *const two[] = { "net0", "net1" }, *const other[] = { "net1", "net2" };
	struct definition_disk disks[3] = { 0 };
	struct fixture f;

	(void)state;
	fixture_init(&f);
	layout(&f.there, disks, 1, 2, two); /* disk 1, rng 2, interfaces 3 and 4 */
	layout(&f.a, disks, 1, 2, two);
	identity_keep_slots(&f.a, &f.there);
	assert_int_equal(f.a.interfaces[0].slot + f.a.interfaces[1].slot, 0);
	layout(&f.a, disks, 3, 2, two);
	identity_keep_slots(&f.a, &f.there);
	assert_int_equal(f.a.interfaces[0].slot, 3);
	assert_int_equal(f.a.interfaces[1].slot, 4);
	/* The first one goes, and another one comes: it takes what is free behind the others. */
	layout(&f.b, disks, 3, 2, other);
	identity_keep_slots(&f.b, &f.a);
	assert_int_equal(f.b.interfaces[0].slot, 4);
	assert_int_equal(f.b.interfaces[1].slot, 0);
	/* Its slot is 6, behind three disks, rng and the one with slot 4; a fourth device would move it. */
	f.a.interfaces[0].slot = f.a.interfaces[1].slot = 0;
	layout(&f.a, disks, 3, 2, other);
	f.a.guest_agent = true;
	identity_keep_slots(&f.a, &f.b);
	assert_int_equal(f.a.interfaces[0].slot, 4);
	assert_int_equal(f.a.interfaces[1].slot, 6);
}

static void test_chosen_slots_win(void **state)
{
	static const char *const two[] = { "net0", "net1" };
	struct definition_disk disks[3] = { 0 };
	struct fixture f;

	(void)state;
	fixture_init(&f);
	layout(&f.there, disks, 1, 2, two);
	layout(&f.a, disks, 3, 2, two);
	f.a.interfaces[1].slot = 3; /* where net0 was */
	identity_keep_slots(&f.a, &f.there);
	assert_int_equal(f.a.interfaces[0].slot, 0);
	assert_int_equal(f.a.interfaces[1].slot, 3);
	/* The devices of the oldest version are in a row. */
	f.a.interfaces[1].slot = 0;
	f.there.machine = 1;
	identity_keep_slots(&f.a, &f.there);
	assert_int_equal(f.a.interfaces[0].slot + f.a.interfaces[1].slot, 0);
}

/* The key can name the slots 1 to 30, and only in a machine version that keeps them. */
static void test_slots_that_the_key_cannot_name(void **state)
{
	static const char *const two[] = { "net0", "net1" };
	struct definition_disk disks[28] = { 0 };
	struct fixture f;

	(void)state;
	fixture_init(&f);
	layout(&f.there, disks, 28, 2, two); /* rng 29, interfaces 30 and 31 */
	layout(&f.a, disks, 27, 2, two);
	identity_keep_slots(&f.a, &f.there);
	assert_int_equal(f.a.interfaces[0].slot, 30);
	assert_int_equal(f.a.interfaces[1].slot, 0);
	f.there.interfaces[1].slot = 7;
	memset(f.there.interfaces[1].mac, 9, DEFINITION_MAC_BYTES);
	memset(f.b.interfaces[1].mac, 9, DEFINITION_MAC_BYTES);
	layout(&f.b, disks, 27, 2, two);
	f.b.machine = 1;
	identity_take_slots(&f.b, &f.there);
	assert_int_equal(f.b.interfaces[1].slot, 0);
	f.b.machine = 7;
	identity_take_slots(&f.b, &f.there);
	assert_int_equal(f.b.interfaces[1].slot, 7);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_mac_of_another_vm_is_taken),
		cmocka_unit_test(test_macs_of_clones_are_unique),
		cmocka_unit_test(test_interfaces_keep_their_slots),
		cmocka_unit_test(test_chosen_slots_win),
		cmocka_unit_test(test_slots_that_the_key_cannot_name),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
