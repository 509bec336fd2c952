/* pins: a pin is due for deletion when the last overlay on it is gone, and never because the list is damaged. */
#include "api/store/store.h"
#include "api/vm/image_users.h"
#include "api/vm/pins.h"
#include "api/vm/vm.h"
#include "base/file.h"
#include "base/log.h"
#include "tests/unit/tmp.h"

#include <fcntl.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

struct fixture {
	struct vm_host host;
	char dir[128];
	uint8_t ids[8][VM_PIN_ID_BYTES];
	struct vm vm;
};

static const uint8_t A[VM_PIN_ID_BYTES] = { 0xaa, 1 }, B[VM_PIN_ID_BYTES] = { 0xbb, 2 }, C[VM_PIN_ID_BYTES] = { 0xcc, 3 };

static void host_open(struct fixture *f)
{
	struct err e;

	if (store_open(f->dir, NULL, &f->host.store, &e) < 0)
		fail_msg("%s", e.msg);
	pins_load(&f->host);
}

static void host_close(struct fixture *f)
{
	pins_free(f->host.pins);
	f->host.pins = NULL;
	store_close(f->host.store);
	f->host.store = NULL;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	if (!f)
		return -1;
	snprintf(f->dir, sizeof(f->dir), "%s/cairn-test-XXXXXX", tmp_folder());
	log_set_fd(open("/dev/null", O_WRONLY));
	*state = f;
	if (!mkdtemp(f->dir))
		return -1;
	host_open(f);
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	char command[160];
	int r;

	host_close(f);
	snprintf(command, sizeof(command), "rm -r %s", f->dir);
	r = system(command);
	free(f);
	return r;
}

static unsigned due(struct fixture *f, const char *image)
{
	unsigned n = pins_ask(&f->host, image, &f->vm, f->ids, 8);

	pins_answered(&f->host, &f->vm, false);
	return n;
}

static void test_pin_is_due_when_last_overlay_is_forgotten(void **state)
{
	struct fixture *f = *state;

	pins_add(&f->host, "/c2", "/src", A);
	pins_add(&f->host, "/c1", "/src", A);
	pins_add(&f->host, "/d1", "/src", B);
	assert_true(pins_has_overlay(&f->host, "/c1"));
	assert_false(pins_has_overlay(&f->host, "/src"));
	assert_true(pins_remove(&f->host, "/c1"));
	assert_false(pins_remove(&f->host, "/c1"));
	assert_int_equal(due(f, "/src"), 0);
	assert_true(pins_remove(&f->host, "/c2"));
	assert_int_equal(due(f, "/other"), 0);
	assert_int_equal(due(f, "/src"), 1);
	assert_memory_equal(f->ids[0], A, sizeof(A));
	assert_true(pins_has_overlay(&f->host, "/d1"));
}

static void test_copy_of_overlay_keeps_pin(void **state)
{
	struct fixture *f = *state;

	pins_add(&f->host, "/c1", "/src", A);
	pins_copy(&f->host, "/src", "/none");
	assert_false(pins_has_overlay(&f->host, "/none"));
	pins_copy(&f->host, "/c1", "/copy");
	pins_remove(&f->host, "/c1");
	assert_int_equal(due(f, "/src"), 0);
	pins_remove(&f->host, "/copy");
	assert_int_equal(due(f, "/src"), 1);
}

static void test_pin_of_replaced_overlay_is_never_due(void **state)
{
	struct fixture *f = *state;

	pins_add(&f->host, "/c1", "/src", A);
	pins_add(&f->host, "/c2", "/src", A);
	pins_add_either(&f->host, "/c3", "/other", B, C);
	assert_true(pins_replace(&f->host, "/c1"));
	assert_false(pins_replace(&f->host, "/c1"));
	assert_false(pins_has_overlay(&f->host, "/c1"));
	assert_true(pins_remove(&f->host, "/c2"));
	assert_int_equal(due(f, "/src"), 0);
	assert_true(pins_replace(&f->host, "/c3"));
	assert_int_equal(due(f, "/other"), 0);
}

/* Another overlay has the path of an overlay of the list. */
static void test_found_overlay_replaces_the_row_of_another_file(void **state)
{
	struct fixture *f = *state;

	pins_add(&f->host, "/c1", "/src", A);
	assert_false(pins_add_found(&f->host, "/c1", "/src", A));
	assert_true(pins_add_found(&f->host, "/c1", "/src", B));
	assert_true(pins_has_overlay(&f->host, "/c1"));
	assert_true(pins_remove(&f->host, "/c1"));
	assert_int_equal(due(f, "/src"), 0); /* others may read B, and the first file A */
}

static void test_pin_that_is_noted_again_is_not_due(void **state)
{
	struct fixture *f = *state;

	pins_add(&f->host, "/c1", "/src", A);
	pins_add(&f->host, "/c1", "/src", A);
	assert_int_equal(due(f, "/src"), 0);
	pins_add(&f->host, "/c1", "/src", B); /* another file of that name */
	assert_int_equal(due(f, "/src"), 1);
	assert_memory_equal(f->ids[0], A, sizeof(A));
}

static void test_deleted_pins_are_asked_for_once(void **state)
{
	struct fixture *f = *state;
	struct vm other;

	pins_add(&f->host, "/c1", "/src", A);
	pins_add(&f->host, "/c2", "/src", B);
	assert_false(pins_are_due(&f->host));
	pins_remove(&f->host, "/c1");
	assert_true(pins_are_due(&f->host));
	assert_int_equal(pins_ask(&f->host, "/src", &f->vm, f->ids, 8), 1);
	assert_false(pins_are_due(&f->host));
	pins_remove(&f->host, "/c2");
	assert_int_equal(pins_ask(&f->host, "/src", &other, f->ids, 8), 1);
	assert_memory_equal(f->ids[0], B, sizeof(B));
	pins_answered(&f->host, &f->vm, true);
	assert_int_equal(due(f, "/src"), 0); /* the other VM has not answered */
	pins_answered(&f->host, &other, false);
	assert_int_equal(due(f, "/src"), 1);
	assert_memory_equal(f->ids[0], B, sizeof(B));
}

static void ids_are_due(struct fixture *f, unsigned n, const uint8_t *first, const uint8_t *second)
{
	assert_int_equal(due(f, "/src"), n);
	if (n > 0)
		assert_memory_equal(f->ids[0], first, VM_PIN_ID_BYTES);
	if (n > 1)
		assert_memory_equal(f->ids[1], second, VM_PIN_ID_BYTES);
}

/* Each pin is due once, after its last overlay was removed, in any order of the removals. */
static void test_shared_pin_is_due_after_its_last_overlay(void **state)
{
	static const char *const orders[][3] = { { "/c1", "/c2", "/c3" }, { "/c2", "/c3", "/c1" }, { "/c3", "/c1", "/c2" },
		{ "/c3", "/c2", "/c1" } };
	struct fixture *f = *state;
	uint8_t id[VM_PIN_ID_BYTES];

	for (size_t i = 0; i < sizeof(orders) / sizeof(orders[0]); i++) {
		pins_add(&f->host, "/c1", "/src", A);
		assert_true(pins_newest(&f->host, "/src", id));
		assert_memory_equal(id, A, sizeof(A));
		assert_false(pins_newest(&f->host, "/c1", id));
		pins_add_either(&f->host, "/c2", "/src", A, B);
		pins_add_either(&f->host, "/c3", "/src", A, B);
		pins_resolve(&f->host, B, false);
		for (unsigned k = 0; k < 3; k++) {
			ids_are_due(f, 0, NULL, NULL);
			assert_true(pins_remove(&f->host, orders[i][k]));
		}
		ids_are_due(f, 1, A, NULL);
		assert_int_equal(pins_ask(&f->host, "/src", &f->vm, f->ids, 8), 1);
		pins_answered(&f->host, &f->vm, true);
		assert_false(pins_newest(&f->host, "/src", id));
	}
}

static void test_new_pin_counts_when_the_earlier_one_was_not_used(void **state)
{
	struct fixture *f = *state;
	uint8_t id[VM_PIN_ID_BYTES];

	pins_add(&f->host, "/c1", "/src", A);
	pins_add_either(&f->host, "/c2", "/src", A, B);
	pins_copy(&f->host, "/c2", "/copy");
	assert_true(pins_newest(&f->host, "/src", id));
	assert_memory_equal(id, A, sizeof(A)); /* it is not known yet whether the second pin exists */
	pins_remove(&f->host, "/c1");
	ids_are_due(f, 0, NULL, NULL);
	pins_resolve(&f->host, B, true);
	ids_are_due(f, 1, A, NULL);
	assert_true(pins_newest(&f->host, "/src", id));
	assert_memory_equal(id, B, sizeof(B));
	pins_remove(&f->host, "/c2");
	ids_are_due(f, 1, A, NULL);
	pins_remove(&f->host, "/copy");
	ids_are_due(f, 2, A, B);
}

/* A daemon or a source that ends before the answer: both pins stay as long as the overlay, also in the next daemon. */
static void test_overlay_keeps_both_pins_until_it_is_known_which_it_reads(void **state)
{
	struct fixture *f = *state;
	struct pin_use *list;
	uint8_t id[VM_PIN_ID_BYTES];

	pins_add(&f->host, "/c1", "/src", A);
	pins_add_either(&f->host, "/c2", "/src", A, B);
	pins_store(&f->host, NULL);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(pins_of_image(&f->host, "/src", &list), 2);
		assert_memory_equal(list[0].id, A, sizeof(A));
		assert_memory_equal(list[1].id, B, sizeof(B));
		assert_true(list[0].overlays == 2 && list[1].overlays == 1);
		free(list);
		host_close(f);
		host_open(f);
		/* A process of the VM may still be asked to delete a pin that an earlier daemon knew. */
		assert_false(pins_newest(&f->host, "/src", id));
	}
	pins_resolve(&f->host, A, true); /* of another fork */
	pins_remove(&f->host, "/c1");
	ids_are_due(f, 0, NULL, NULL);
	pins_remove(&f->host, "/c2");
	ids_are_due(f, 2, A, B);
}

/* The older pin is the one that an earlier Cairn reads from the list: it deletes no pin that is not in the list, and
 * the older one has further overlays. */
static void test_older_pin_is_the_one_in_the_place_that_earlier_versions_read(void **state)
{
	struct fixture *f = *state;
	char path[160], *text;
	struct err e;
	size_t n;

	pins_add_either(&f->host, "/c2", "/src", A, B);
	pins_store(&f->host, NULL);
	snprintf(path, sizeof(path), "%s/" PINS_FILE, f->dir);
	assert_int_equal(file_read(path, 4096, &text, &n, &e), 0);
	assert_non_null(strstr(text, "\"pin\":\"aa010000-"));
	assert_non_null(strstr(text, "\"or\":\"bb020000-"));
	free(text);
}

static void test_number_of_ids_is_limited(void **state)
{
	struct fixture *f = *state;
	char path[16];

	for (uint8_t i = 0; i < 20; i++) {
		uint8_t id[VM_PIN_ID_BYTES] = { i };

		snprintf(path, sizeof(path), "/c%u", i);
		pins_add(&f->host, path, "/src", id);
		pins_remove(&f->host, path);
	}
	assert_int_equal(due(f, "/src"), 8);
}

static void test_list_survives_restart(void **state)
{
	struct fixture *f = *state;

	pins_add(&f->host, "/c1", "/src", A);
	pins_add(&f->host, "/gone", "/src", B);
	pins_remove(&f->host, "/gone");
	pins_store(&f->host, NULL);
	host_close(f);
	host_open(f);
	assert_true(pins_has_overlay(&f->host, "/c1"));
	assert_int_equal(due(f, "/src"), 1);
	assert_memory_equal(f->ids[0], B, sizeof(B));
}

static void rewrite(struct fixture *f, const char *text)
{
	char path[160];
	struct err e;

	host_close(f);
	snprintf(path, sizeof(path), "%s/" PINS_FILE, f->dir);
	assert_int_equal(file_write_atomic(path, text, strlen(text), 0600, &e), 0);
	host_open(f);
}

#define PIN_A "\"pin\":\"aa010000-0000-0000-0000-000000000000\""

static void test_damaged_list_lets_no_pin_go(void **state)
{
	static const char *const texts[] = { "", "{", "{\"version\":1}", "{\"version\":1,\"used\":7,\"due\":{}}",
		"{\"version\":1,\"due\":[7,{},{" PIN_A "},{\"image\":\"/src\"},{" PIN_A ",\"image\":\"/src\",\"overlay\":\"/c1\"}]}",
		"{\"version\":1,\"used\":[{" PIN_A ",\"image\":\"/src\"}]}",
		"{\"version\":1,\"due\":[{\"pin\":\"aa01\",\"image\":\"/src\"}]}",
		/* in use and due: it stays */
		"{\"version\":1,\"used\":[{" PIN_A ",\"image\":\"/src\",\"overlay\":\"/c1\"}],\"due\":[{" PIN_A ",\"image\":\"/src\"}]}" };
	struct fixture *f = *state;

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		rewrite(f, texts[i]);
		assert_int_equal(due(f, "/src"), 0);
	}
	rewrite(f, "{\"version\":1,\"used\":[],\"due\":[{" PIN_A ",\"image\":\"/src\"}]}");
	assert_int_equal(due(f, "/src"), 1);
}

static bool idle(struct fixture *f, const uint8_t *id)
{
	uint8_t is[VM_PIN_ID_BYTES];

	return pins_idle(&f->host, "/src", is) && !memcmp(is, id, sizeof(is));
}

static void test_newest_pin_waits_for_a_fork(void **state)
{
	struct fixture *f = *state;
	uint8_t id[VM_PIN_ID_BYTES];

	f->host.pins_wait_ns = 1000000000000;
	pins_add(&f->host, "/c1", "/src", A);
	pins_add(&f->host, "/c2", "/src", B);
	pins_remove(&f->host, "/c2");
	assert_true(idle(f, B) && !pins_are_due(&f->host) && pins_has_image(&f->host, "/src"));
	assert_true(pins_newest(&f->host, "/src", id) && !memcmp(id, B, sizeof(B)));
	pins_remove(&f->host, "/c1"); /* A is older */
	assert_true(idle(f, B) && pins_are_due(&f->host));
	assert_int_equal(pins_ask(&f->host, "/src", &f->vm, f->ids, 8), 1);
	assert_memory_equal(f->ids[0], A, sizeof(A));
	pins_answered(&f->host, &f->vm, true);
	assert_true(pins_idle_until(&f->host) && !pins_has_image(&f->host, "/src"));
	/* The next fork shares B. */
	pins_add_either(&f->host, "/c3", "/src", B, A);
	assert_false(idle(f, B) || pins_are_due(&f->host) || pins_idle_until(&f->host));
	pins_resolve(&f->host, A, false);
	pins_remove(&f->host, "/c3");
	assert_true(idle(f, B));
	/* The next fork makes pin A, and fails. */
	pins_add_either(&f->host, "/c4", "/src", B, A);
	pins_remove(&f->host, "/c4");
	assert_int_equal(due(f, "/src"), 2);
	assert_false(idle(f, A) || idle(f, B) || pins_newest(&f->host, "/src", id));
}

static void test_wait_of_a_pin_ends(void **state)
{
	struct fixture *f = *state;

	f->host.pins_wait_ns = 1000000000000;
	pins_add(&f->host, "/c1", "/src", A);
	pins_remove(&f->host, "/c1");
	pins_add(&f->host, "/c2", "/src", B); /* a newer pin */
	assert_int_equal(due(f, "/src"), 1);
	pins_remove(&f->host, "/c2");
	assert_true(idle(f, B));
	pins_idle_end(&f->host, "/other");
	assert_true(idle(f, B));
	pins_idle_end(&f->host, "/src");
	assert_false(idle(f, B));
	assert_int_equal(due(f, "/src"), 2);
}

static void test_waiting_pin_is_due_after_restart(void **state)
{
	struct fixture *f = *state;

	f->host.pins_wait_ns = 1000000000000;
	pins_add(&f->host, "/c1", "/src", A);
	pins_remove(&f->host, "/c1");
	assert_true(idle(f, A));
	pins_store(&f->host, NULL);
	host_close(f);
	host_open(f);
	assert_false(idle(f, A));
	assert_int_equal(due(f, "/src"), 1);
}

/* The rows that are left may share a pin with a row that is lost. */
static void test_pins_from_before_a_loss_never_become_due(void **state)
{
	struct fixture *f = *state;

	rewrite(f, "{\"version\":1,\"used\":[{" PIN_A ",\"image\":\"/src\",\"overlay\":\"/c1\"},7],\"due\":[]}");
	assert_true(pins_are_incomplete(&f->host));
	pins_copy(&f->host, "/c1", "/copy");
	pins_add_found(&f->host, "/c1", "/other", B); /* the list has it already */
	pins_add_found(&f->host, "/c2", "/src", B);
	pins_add(&f->host, "/new", "/src", (const uint8_t[VM_PIN_ID_BYTES]){ 0xcc });
	pins_store(&f->host, NULL);
	host_close(f);
	host_open(f);
	assert_true(pins_are_incomplete(&f->host)); /* the daemon ended before it was complete */
	pins_set_complete(&f->host, true);
	pins_store(&f->host, NULL);
	host_close(f);
	host_open(f);
	assert_false(pins_are_incomplete(&f->host));
	assert_true(pins_remove(&f->host, "/c1") && pins_remove(&f->host, "/copy") && pins_remove(&f->host, "/c2"));
	assert_int_equal(due(f, "/src"), 0);
	assert_int_equal(due(f, "/other"), 0);
	assert_true(pins_remove(&f->host, "/new"));
	assert_int_equal(due(f, "/src"), 1);
	assert_int_equal(f->ids[0][0], 0xcc);
}

static void test_list_of_newer_cairn_is_not_completed(void **state)
{
	struct fixture *f = *state;

	assert_true(pins_are_incomplete(&f->host)); /* there was none */
	rewrite(f, "{\"version\":2,\"used\":[],\"due\":[]}");
	assert_false(pins_are_incomplete(&f->host));
}

/* An image that is read at a pin may be written; an image below a plain overlay may not. */
static void test_source_of_pinned_overlay_is_writable(void **state)
{
	struct definition_disk source_disk = { .nlayers = 1, .layers = { { .path = (char *)"/src" } } };
	struct definition_disk disks[] = { { .nlayers = 3, .layers = { { .path = (char *)"/c1" }, { .path = (char *)"/src" },
		{ .path = (char *)"/base" } } } };
	struct definition source_def = { .name = "src", .disks = &source_disk, .ndisks = 1 };
	struct definition clone_def = { .name = "c1", .disks = disks, .ndisks = 1 };
	struct fixture *f = *state;
	struct vm source = { .host = &f->host, .def = &source_def }, clone = { .host = &f->host, .def = &clone_def };
	struct vm *vms[] = { &clone, &source };
	char names[64];

	f->host.vms = vms;
	f->host.nvms = 2;
	assert_int_equal(image_clones(&source, names, sizeof(names)), 1);
	pins_add(&f->host, "/c1", "/src", A);
	assert_int_equal(image_clones(&source, names, sizeof(names)), 0);
	assert_ptr_equal(image_user(&source, "/src"), &clone);
	source_disk.layers[0].path = (char *)"/base";
	assert_int_equal(image_clones(&source, names, sizeof(names)), 1);
	f->host.nvms = 0;
}

static const char *overlay_name(unsigned i)
{
	static char path[16];

	snprintf(path, sizeof(path), "/u%04u", i);
	return path;
}

/* Add the rows of so many overlays of a user, each with a pin of its own, that no VM has. */
static void add_unused(struct fixture *f, unsigned from, unsigned n, uid_t owner)
{
	for (unsigned i = from; i < from + n; i++) {
		uint8_t id[VM_PIN_ID_BYTES] = { 1, (uint8_t)(i >> 8), (uint8_t)i };

		pins_add(&f->host, overlay_name(i), "/src", id);
		pins_set_owner(&f->host, overlay_name(i), owner);
	}
}

static void reopen(struct fixture *f)
{
	host_close(f);
	host_open(f);
}

/* The overlays of VMs, and those of other users, stay in the list. */
static void test_oldest_unused_overlays_of_a_user_leave_the_list(void **state)
{
	struct definition_disk disk = { .nlayers = 3, .layers = { { .path = (char *)"/top" }, { .path = (char *)"/u0000" },
		{ .path = (char *)"/src" } } };
	struct definition def = { .name = "vm", .disks = &disk, .ndisks = 1 };
	struct fixture *f = *state;
	struct vm vm = { .host = &f->host, .def = &def }, *vms[] = { &vm };

	f->host.vms = vms;
	f->host.nvms = 1;
	pins_add(&f->host, "/other", "/src", B);
	pins_set_owner(&f->host, "/other", 2);
	pins_add(&f->host, "/unknown", "/src", B);
	add_unused(f, 0, PINS_UNUSED_MAX + 1, 1);
	pins_store(&f->host, NULL);
	assert_true(pins_has_overlay(&f->host, "/u0000") && pins_has_overlay(&f->host, "/u0001"));
	add_unused(f, PINS_UNUSED_MAX + 1, 2, 1);
	pins_store(&f->host, NULL);
	for (unsigned i = 0; i < 2; i++) {
		assert_true(pins_has_overlay(&f->host, "/u0000") && pins_has_overlay(&f->host, "/u0003"));
		assert_false(pins_has_overlay(&f->host, "/u0001") || pins_has_overlay(&f->host, "/u0002"));
		assert_true(pins_has_overlay(&f->host, "/other") && pins_has_overlay(&f->host, "/unknown"));
		reopen(f);
	}
	/* The next daemon knows the owners. */
	add_unused(f, PINS_UNUSED_MAX + 3, 1, 1);
	pins_store(&f->host, NULL);
	assert_false(pins_has_overlay(&f->host, "/u0003"));
	assert_true(pins_has_overlay(&f->host, "/other") && pins_has_overlay(&f->host, "/u0004"));
	/* The VM is undefined. */
	f->host.nvms = 0;
	pins_store(&f->host, NULL);
	assert_int_equal(pins_has_overlay(&f->host, "/u0000") + pins_has_overlay(&f->host, "/u0004"), 1);
}

static void test_unused_overlays_have_a_limit_of_bytes(void **state)
{
	struct fixture *f = *state;
	char path[4096];

	for (unsigned i = 0; i < 100; i++) {
		uint8_t id[VM_PIN_ID_BYTES] = { 2, (uint8_t)i };

		snprintf(path, sizeof(path), "/%04u%04000d", i, 0);
		pins_add(&f->host, path, "/src", id);
		pins_set_owner(&f->host, path, 1);
	}
	pins_add(&f->host, "/other", "/src", B);
	pins_set_owner(&f->host, "/other", 2);
	assert_int_equal(pins_store(&f->host, NULL), 0);
	assert_true(pins_has_overlay(&f->host, path) && pins_has_overlay(&f->host, "/other"));
	snprintf(path, sizeof(path), "/%04u%04000d", 100 - PINS_UNUSED_BYTES / 4009 - 1, 0);
	assert_false(pins_has_overlay(&f->host, path));
	snprintf(path, sizeof(path), "/%04u%04000d", 100 - PINS_UNUSED_BYTES / 4009, 0);
	assert_true(pins_has_overlay(&f->host, path));
}

/* The overlay that has left the list may still be there, and join it again. */
static void test_pin_of_an_overlay_that_left_the_list_is_never_due(void **state)
{
	struct fixture *f = *state;
	uint8_t id[VM_PIN_ID_BYTES];

	pins_add(&f->host, "/c1", "/img", A);
	pins_add(&f->host, "/c2", "/img", A);
	pins_add_either(&f->host, "/c3", "/img", A, B);
	pins_set_owner(&f->host, "/c1", 1);
	pins_set_owner(&f->host, "/c3", 1);
	add_unused(f, 0, PINS_UNUSED_MAX, 1);
	pins_store(&f->host, NULL);
	assert_false(pins_has_overlay(&f->host, "/c1") || pins_has_overlay(&f->host, "/c3"));
	assert_true(pins_has_overlay(&f->host, "/c2"));
	assert_false(pins_newest(&f->host, "/img", id)); /* a further fork makes a pin */
	reopen(f);
	pins_remove(&f->host, "/c2");
	assert_int_equal(due(f, "/img"), 0);
	assert_true(pins_add_found(&f->host, "/c3", "/img", B));
	pins_remove(&f->host, "/c3");
	assert_int_equal(due(f, "/img"), 0);
	assert_true(pins_remove(&f->host, "/u0999"));
	assert_int_equal(due(f, "/src"), 1);
}

/* As with the overlays: the source was undefined without its images. */
static void test_oldest_due_pins_of_unused_images_leave_the_list(void **state)
{
	struct definition_disk disk = { .nlayers = 1, .layers = { { .path = (char *)"/img" } } };
	struct definition def = { .name = "vm", .disks = &disk, .ndisks = 1 };
	struct fixture *f = *state;
	struct vm vm = { .host = &f->host, .def = &def }, *vms[] = { &vm };
	struct pin_use *list;

	f->host.vms = vms;
	f->host.nvms = 1;
	pins_add(&f->host, "/c1", "/img", A);
	pins_set_owner(&f->host, "/c1", 1);
	pins_remove(&f->host, "/c1");
	add_unused(f, 0, PINS_UNUSED_MAX + 5, 1);
	for (unsigned i = 0; i < PINS_UNUSED_MAX + 5; i++)
		pins_remove(&f->host, overlay_name(i));
	pins_store(&f->host, NULL);
	reopen(f);
	assert_int_equal(pins_of_image(&f->host, "/src", &list), PINS_UNUSED_MAX);
	assert_int_equal(list[0].id[2], 5);
	free(list);
	assert_int_equal(due(f, "/img"), 1);
	f->host.nvms = 0;
}

static double cpu_seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* As of a version without the limit. With each row removed by itself, this took half a minute. */
static void test_very_long_list_gets_short_in_a_moment(void **state)
{
	struct fixture *f = *state;
	const unsigned n = 250000;
	char path[32];
	double begin;

	for (unsigned i = 0; i < n; i++) {
		uint8_t id[VM_PIN_ID_BYTES] = { 1, (uint8_t)(i >> 16), (uint8_t)(i >> 8), (uint8_t)i };

		snprintf(path, sizeof(path), "/u%06u", i);
		pins_add(&f->host, path, "/src", id);
	}
	begin = cpu_seconds();
	pins_store(&f->host, NULL);
	assert_true(cpu_seconds() - begin < 10);
	snprintf(path, sizeof(path), "/u%06u", n - PINS_UNUSED_MAX - 1);
	assert_false(pins_has_overlay(&f->host, path));
	snprintf(path, sizeof(path), "/u%06u", n - PINS_UNUSED_MAX);
	assert_true(pins_has_overlay(&f->host, path));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(test_pin_is_due_when_last_overlay_is_forgotten),
		TEST(test_copy_of_overlay_keeps_pin),
		TEST(test_pin_of_replaced_overlay_is_never_due),
		TEST(test_found_overlay_replaces_the_row_of_another_file),
		TEST(test_pin_that_is_noted_again_is_not_due),
		TEST(test_deleted_pins_are_asked_for_once),
		TEST(test_shared_pin_is_due_after_its_last_overlay),
		TEST(test_new_pin_counts_when_the_earlier_one_was_not_used),
		TEST(test_overlay_keeps_both_pins_until_it_is_known_which_it_reads),
		TEST(test_older_pin_is_the_one_in_the_place_that_earlier_versions_read),
		TEST(test_newest_pin_waits_for_a_fork),
		TEST(test_wait_of_a_pin_ends),
		TEST(test_waiting_pin_is_due_after_restart),
		TEST(test_number_of_ids_is_limited),
		TEST(test_list_survives_restart),
		TEST(test_damaged_list_lets_no_pin_go),
		TEST(test_pins_from_before_a_loss_never_become_due),
		TEST(test_list_of_newer_cairn_is_not_completed),
		TEST(test_source_of_pinned_overlay_is_writable),
		TEST(test_oldest_unused_overlays_of_a_user_leave_the_list),
		TEST(test_unused_overlays_have_a_limit_of_bytes),
		TEST(test_pin_of_an_overlay_that_left_the_list_is_never_due),
		TEST(test_oldest_due_pins_of_unused_images_leave_the_list),
		TEST(test_very_long_list_gets_short_in_a_moment),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
