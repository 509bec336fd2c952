/* Table of roles: the highest matching role counts, an entry for one VM applies to that VM only,
 * and a file that was tampered with grants nothing. */
#include "api/wire/json.h"
#include "api/access/permissions.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static const gid_t groups[] = { 20, 30 };
static const struct peer alice = { 1000, 10, groups, 2 };
static const struct peer bob = { 1001, 11, NULL, 0 };

static const uint8_t WEB[16] = { 1 }, DB[16] = { 2 }, OTHER[16] = { 3 };
static const struct permission_origin root = { 1000, 0 }, carol = { 5000, 1002 };
static const struct permission_vm web = { "web", WEB }, db = { "db", DB };

static bool is_web(void *opaque, const struct permission *e)
{
	(void)opaque;
	return !strcmp(e->vm, "web") && !memcmp(e->uuid, WEB, sizeof(WEB));
}

static void load(struct permissions *p, const char *text)
{
	CLEANUP_JS struct json_object *o = NULL;

	assert_int_equal(js_parse(text, strlen(text), "table", &o, NULL), 0);
	permissions_load(p, o);
}

/* Deleting a VM deletes its entries, so that a new VM of the same name does not inherit them;
 * general entries stay. */
static void test_entries_of_deleted_vm_are_removed(void **state)
{
	struct permissions p = { 0 };

	(void)state;
	assert_int_equal(permissions_set(&p, false, 1000, NULL, ROLE_VIEWER), 0);
	assert_int_equal(permissions_set(&p, false, 1000, &web, ROLE_ADMIN), 0);
	assert_false(permissions_prune(&p, is_web, NULL));
	assert_int_equal(permissions_set(&p, false, 1000, &db, ROLE_ADMIN), 0);
	assert_true(permissions_prune(&p, is_web, NULL));
	assert_int_equal(permissions_role(&p, &alice, DB), ROLE_VIEWER);
	assert_int_equal(permissions_role(&p, &alice, WEB), ROLE_ADMIN);
	permissions_done(&p);
}

/* The mark changes with the roles of that user, and with nobody else's. */
static void test_mark_changes_with_the_roles(void **state)
{
	struct permissions p = { 0 };
	uint64_t none = permissions_mark(&p, &alice), one, serial;

	(void)state;
	assert_int_equal(permissions_set(&p, false, 1001, &web, ROLE_VIEWER), 0);
	assert_true(permissions_mark(&p, &alice) == none);
	assert_int_equal(permissions_promise(&p, false, 1000, &web, ROLE_VIEWER, &root, &serial), 0);
	assert_true(permissions_mark(&p, &alice) == none);
	permissions_promise_end(&p, serial, ROLE_VIEWER, true);
	one = permissions_mark(&p, &alice);
	assert_true(one != none);
	assert_int_equal(permissions_set(&p, true, 30, &db, ROLE_VIEWER), 0);
	assert_true(permissions_mark(&p, &alice) != one && permissions_mark(&p, &alice) != none);
	assert_int_equal(permissions_remove(&p, true, 30, &db, ROLE_NONE), 0);
	assert_int_equal(permissions_remove(&p, false, 1001, &web, ROLE_NONE), 0);
	assert_true(permissions_mark(&p, &alice) == one);
	assert_int_equal(permissions_set(&p, false, 1000, &web, ROLE_ADMIN), 0);
	assert_true(permissions_mark(&p, &alice) != one);
	assert_int_equal(permissions_remove(&p, false, 1000, &web, ROLE_NONE), 0);
	assert_true(permissions_mark(&p, &alice) == none);
	permissions_done(&p);
}

static const struct permission *entry(const struct permissions *p, uid_t id)
{
	for (size_t i = 0; i < p->n; i++)
		if (p->list[i].id == id)
			return &p->list[i];
	return NULL;
}

/* The origin of a role (user and time) changes with the role only. A grant that is not stored leaves no trace. */
static void test_origin_is_that_of_the_role_in_force(void **state)
{
	struct permissions p = { 0 };
	CLEANUP_JS struct json_object *file = NULL;
	uint64_t serial;

	(void)state;
	assert_int_equal(permissions_promise(&p, false, 1000, &web, ROLE_VIEWER, &root, &serial), 0);
	permissions_promise_end(&p, serial, ROLE_VIEWER, true);
	assert_int_equal(permissions_promise(&p, false, 1000, &web, ROLE_VIEWER, &carol, &serial), 0);
	permissions_promise_end(&p, serial, ROLE_VIEWER, true);
	assert_int_equal(entry(&p, 1000)->origin.since_ns, 1000);
	assert_int_equal(entry(&p, 1000)->origin.by, 0);
	assert_int_equal(permissions_promise(&p, false, 1000, &web, ROLE_ADMIN, &carol, &serial), 0);
	file = permissions_to_file(&p);
	assert_int_equal(js_get_int(json_object_array_get_idx(js_get(file, "permissions"), 0), "by", -1), 1002);
	permissions_promise_end(&p, serial, ROLE_ADMIN, false);
	assert_int_equal(entry(&p, 1000)->origin.by, 0);
	assert_int_equal(permissions_promise(&p, false, 1000, &web, ROLE_ADMIN, &carol, &serial), 0);
	permissions_promise_end(&p, serial, ROLE_ADMIN, true);
	assert_int_equal(entry(&p, 1000)->origin.by, 1002);
	assert_int_equal(entry(&p, 1000)->origin.since_ns, 5000);
	permissions_done(&p);
}

/* Entries of an older Cairn have no dates, and are unused at most since uses are recorded. Nonsense in the file becomes
 * "not known". */
static void test_history_is_loaded_and_older_files_have_none(void **state)
{
	CLEANUP_JS struct json_object *old = NULL, *file = NULL, *review = NULL;
	static const char text[] = "{\"permissions\": [{\"user\": 1000, \"role\": \"viewer\"}, "
		"{\"user\": 1001, \"role\": \"viewer\", \"since\": -5, \"by\": 99999999999, \"used\": \"x\"}, "
		"{\"user\": 1002, \"role\": \"viewer\", \"since\": 100, \"by\": 7, \"used\": 300}]}";
	struct permissions p = { 0 };
	int64_t now;

	(void)state;
	assert_int_equal(js_parse(text, strlen(text), "table", &old, NULL), 0);
	assert_int_equal(permissions_load_file(&p, old, NULL), 0);
	assert_true(p.uses_unsaved && p.uses_since_ns > 0);
	now = p.uses_since_ns + 50;
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(p.list[i].origin.since_ns, 0);
		assert_true(p.list[i].origin.by == (uid_t)-1);
		assert_int_equal(permission_unused_ns(&p, &p.list[i], now), 50);
	}
	assert_int_equal(permission_unused_ns(&p, &p.list[0], 0), 0); /* the clock was set back */
	file = permissions_to_file(&p);
	permissions_done(&p);
	assert_int_equal(permissions_load_file(&p, file, NULL), 0);
	assert_false(p.uses_unsaved);
	p.uses_since_ns = 50;
	review = permission_to_review(&p, &p.list[2], 1000);
	assert_int_equal(js_get_int(review, "since", 0), 100);
	assert_int_equal(js_get_int(review, "by", 0), 7);
	assert_int_equal(js_get_int(review, "last-used", 0), 300);
	assert_int_equal(js_get_int(review, "unused", 0), 700);
	permissions_done(&p);
}

/* A use counts for the user's entries that allow it, and for nobody else's. */
static void test_use_counts_for_the_entries_that_allow_it(void **state)
{
	struct permissions p = { .uses_unsaved = true /* no timer */ };

	(void)state;
	assert_int_equal(permissions_set(&p, false, 1000, &web, ROLE_VIEWER), 0);
	assert_int_equal(permissions_set(&p, true, 20, &web, ROLE_OPERATOR), 0);
	assert_int_equal(permissions_set(&p, false, 1001, NULL, ROLE_ADMIN), 0);
	permissions_note_use(&p, NULL, NULL, &alice, WEB, ROLE_OPERATOR, false);
	assert_int_equal(p.list[0].used_ns, 0);
	assert_true(p.list[1].used_ns > 0);
	assert_int_equal(p.list[2].used_ns, 0);
	permissions_note_use(&p, NULL, NULL, &alice, DB, ROLE_VIEWER, false);
	assert_int_equal(p.list[0].used_ns, 0);
	permissions_note_use(&p, NULL, NULL, &alice, NULL, ROLE_VIEWER, true);
	assert_true(p.list[0].used_ns > 0);
	permissions_note_use(&p, NULL, NULL, &bob, OTHER, ROLE_VIEWER, false);
	assert_true(p.list[2].used_ns > 0);
	permissions_done(&p);
}

static void test_highest_matching_role_counts(void **state)
{
	struct permissions p = { 0 };

	(void)state;
	assert_int_equal(permissions_role(&p, &alice, NULL), ROLE_NONE);
	assert_false(permissions_know(&p, &alice));
	assert_int_equal(permissions_set(&p, true, 30, NULL, ROLE_VIEWER), 0);
	assert_int_equal(permissions_set(&p, false, 1000, &web, ROLE_ADMIN), 0);
	assert_int_equal(permissions_role(&p, &alice, NULL), ROLE_VIEWER);
	assert_int_equal(permissions_role(&p, &alice, WEB), ROLE_ADMIN);
	assert_int_equal(permissions_role(&p, &alice, OTHER), ROLE_VIEWER);
	assert_int_equal(permissions_role(&p, &bob, WEB), ROLE_NONE);
	assert_false(permissions_know(&p, &bob));
	/* A user's number does not match a group's. */
	assert_int_equal(permissions_set(&p, true, 1001, NULL, ROLE_ADMIN), 0);
	assert_int_equal(permissions_role(&p, &bob, NULL), ROLE_NONE);
	assert_int_equal(permissions_set(&p, true, 11, &db, ROLE_OPERATOR), 0);
	assert_int_equal(permissions_role(&p, &bob, DB), ROLE_OPERATOR);
	assert_true(permissions_know(&p, &bob));
	permissions_done(&p);
}

static void test_vms_visible_to_same_users_are_recognized(void **state)
{
	struct permissions p = { 0 };

	(void)state;
	assert_true(permissions_seen_together(&p, WEB, DB));
	assert_int_equal(permissions_set(&p, false, 1000, &web, ROLE_VIEWER), 0);
	assert_int_equal(permissions_set(&p, true, 1000, NULL, ROLE_VIEWER), 0);
	assert_int_equal(permissions_set(&p, false, 1001, &db, ROLE_VIEWER), 0);
	assert_false(permissions_seen_together(&p, WEB, DB));
	assert_int_equal(permissions_set(&p, false, 1000, &db, ROLE_OPERATOR), 0);
	assert_true(permissions_seen_together(&p, WEB, DB));
	assert_false(permissions_seen_together(&p, DB, WEB));
	assert_int_equal(permissions_set(&p, false, 1001, NULL, ROLE_VIEWER), 0);
	assert_true(permissions_seen_together(&p, DB, WEB));
	permissions_done(&p);
}

static void test_entries_are_replaced_and_removed(void **state)
{
	struct permissions p = { 0 };

	(void)state;
	assert_int_equal(permissions_set(&p, false, 1000, &web, ROLE_ADMIN), 0);
	assert_int_equal(permissions_set(&p, false, 1000, &web, ROLE_VIEWER), 0);
	assert_int_equal(permissions_set(&p, false, 1000, NULL, ROLE_VIEWER), 0);
	assert_int_equal(p.n, 2);
	assert_int_equal(permissions_role(&p, &alice, WEB), ROLE_VIEWER);
	assert_int_equal(permissions_remove(&p, false, 1001, &web, ROLE_NONE), -ENOENT);
	assert_int_equal(permissions_remove(&p, false, 1000, NULL, ROLE_NONE), 0);
	assert_int_equal(permissions_role(&p, &alice, NULL), ROLE_NONE);
	assert_false(permissions_remove_vm(&p, DB));
	assert_true(permissions_remove_vm(&p, WEB));
	assert_int_equal(p.n, 0);
	permissions_done(&p);
}

/* A role that a grant adds is in force only once the table is stored; what it takes away is gone at once. */
static void test_grant_is_in_force_once_stored(void **state)
{
	struct permissions p = { 0 };
	uint64_t first, second;

	(void)state;
	assert_int_equal(permissions_promise(&p, false, 1000, &web, ROLE_OPERATOR, &root, &first), 0);
	assert_int_equal(permissions_role(&p, &alice, WEB), ROLE_NONE);
	permissions_promise_end(&p, first, ROLE_OPERATOR, true);
	assert_int_equal(permissions_role(&p, &alice, WEB), ROLE_OPERATOR);
	/* The write fails, so the old role stays. */
	assert_int_equal(permissions_promise(&p, false, 1000, &web, ROLE_ADMIN, &root, &first), 0);
	assert_int_equal(permissions_role(&p, &alice, WEB), ROLE_OPERATOR);
	permissions_promise_end(&p, first, ROLE_ADMIN, false);
	assert_int_equal(permissions_role(&p, &alice, WEB), ROLE_OPERATOR);
	assert_int_equal(p.list[0].promised, ROLE_OPERATOR);
	/* Two grants at once: the later one gives a lower role, and the role stays lower when the first grant ends. */
	assert_int_equal(permissions_promise(&p, false, 1000, &web, ROLE_ADMIN, &root, &first), 0);
	assert_int_equal(permissions_promise(&p, false, 1000, &web, ROLE_VIEWER, &root, &second), 0);
	assert_int_equal(permissions_role(&p, &alice, WEB), ROLE_VIEWER);
	permissions_promise_end(&p, first, ROLE_ADMIN, true);
	assert_int_equal(permissions_role(&p, &alice, WEB), ROLE_VIEWER);
	permissions_promise_end(&p, second, ROLE_VIEWER, true);
	assert_int_equal(permissions_role(&p, &alice, WEB), ROLE_VIEWER);
	/* A revoke meanwhile wins. */
	assert_int_equal(permissions_promise(&p, false, 1000, &web, ROLE_ADMIN, &root, &first), 0);
	assert_int_equal(permissions_remove(&p, false, 1000, &web, ROLE_NONE), 0);
	permissions_promise_end(&p, first, ROLE_ADMIN, true);
	assert_int_equal(permissions_role(&p, &alice, WEB), ROLE_NONE);
	/* A grant after the revoke wins, too: the end of an earlier grant does not change its entry. */
	assert_int_equal(permissions_promise(&p, false, 1000, &web, ROLE_VIEWER, &root, &second), 0);
	assert_int_equal(permissions_remove(&p, false, 1000, &web, ROLE_NONE), 0);
	assert_int_equal(permissions_promise(&p, false, 1000, &web, ROLE_ADMIN, &root, &first), 0);
	permissions_promise_end(&p, second, ROLE_VIEWER, true);
	assert_int_equal(permissions_role(&p, &alice, WEB), ROLE_NONE);
	permissions_promise_end(&p, first, ROLE_ADMIN, true);
	assert_int_equal(permissions_role(&p, &alice, WEB), ROLE_ADMIN);
	assert_int_equal(permissions_remove(&p, false, 1000, &web, ROLE_NONE), 0);
	/* A new entry whose write fails is removed. */
	assert_int_equal(permissions_promise(&p, false, 1000, NULL, ROLE_ADMIN, &root, &first), 0);
	permissions_promise_end(&p, first, ROLE_ADMIN, false);
	assert_int_equal(p.n, 0);
	permissions_done(&p);
}

/* The role creator stands beside another role for all VMs, and shows no VM. */
static void test_creator_is_beside_the_other_roles(void **state)
{
	CLEANUP_JS struct json_object *file = NULL;
	struct permissions p = { 0 }, again = { 0 };
	uint64_t none = permissions_mark(&p, &alice), serial;

	(void)state;
	assert_int_equal(permissions_promise(&p, false, 1000, NULL, ROLE_CREATOR, &root, &serial), 0);
	assert_false(permissions_creates(&p, &alice));
	assert_true(permissions_mark(&p, &alice) == none);
	permissions_promise_end(&p, serial, ROLE_CREATOR, true);
	assert_true(permissions_creates(&p, &alice) && permissions_know(&p, &alice) && !permissions_creates(&p, &bob));
	assert_true(permissions_mark(&p, &alice) != none);
	assert_int_equal(permissions_role(&p, &alice, NULL), ROLE_NONE);
	assert_int_equal(permissions_role(&p, &alice, WEB), ROLE_NONE);
	assert_int_equal(permissions_set(&p, false, 1000, &web, ROLE_VIEWER), 0);
	assert_false(permissions_seen_together(&p, WEB, DB));
	assert_int_equal(permissions_set(&p, false, 1000, NULL, ROLE_VIEWER), 0);
	assert_int_equal(p.n, 3);
	file = permissions_to_file(&p);
	assert_int_equal(permissions_load_file(&again, file, NULL), 0);
	assert_true(again.n == 3 && permissions_creates(&again, &alice) && permissions_role(&again, &alice, NULL) == ROLE_VIEWER);
	assert_int_equal(again.list[0].origin.since_ns, 1000);
	permissions_done(&again);
	/* Each is removed without the other. */
	assert_int_equal(permissions_remove(&p, false, 1000, NULL, ROLE_VIEWER), 0);
	assert_true(permissions_creates(&p, &alice));
	assert_int_equal(permissions_remove(&p, false, 1000, NULL, ROLE_VIEWER), -ENOENT);
	assert_int_equal(permissions_set(&p, true, 20, NULL, ROLE_CREATOR), 0);
	assert_int_equal(permissions_remove(&p, false, 1000, NULL, ROLE_CREATOR), 0);
	assert_true(permissions_creates(&p, &alice)); /* by the group */
	assert_int_equal(permissions_remove(&p, false, 1000, NULL, ROLE_CREATOR), -ENOENT);
	assert_int_equal(permissions_remove(&p, true, 20, NULL, ROLE_CREATOR), 0);
	assert_false(permissions_creates(&p, &alice));
	permissions_done(&p);
}

static void test_use_of_the_role_creator_counts_for_its_entry(void **state)
{
	struct permissions p = { .uses_unsaved = true /* no timer */ };

	(void)state;
	assert_int_equal(permissions_set(&p, false, 1000, NULL, ROLE_CREATOR), 0);
	assert_int_equal(permissions_set(&p, false, 1000, NULL, ROLE_OPERATOR), 0);
	permissions_note_use(&p, NULL, NULL, &alice, NULL, ROLE_VIEWER, true);
	assert_true(!p.list[0].used_ns && p.list[1].used_ns);
	p.list[1].used_ns = 0;
	permissions_note_use(&p, NULL, NULL, &alice, NULL, ROLE_CREATOR, false);
	assert_true(p.list[0].used_ns && !p.list[1].used_ns);
	permissions_done(&p);
}

static size_t stored(const struct permissions *p)
{
	CLEANUP_JS struct json_object *file = permissions_to_file(p);

	return json_object_array_length(js_get(file, "permissions"));
}

/* A reserved entry hides the VM's relations, gives no role, and is stored only once it is promised. */
static void test_reserved_entry_becomes_the_owners(void **state)
{
	const struct permission_origin self = { 7000, 1000 };
	struct permissions p = { 0 };
	uint64_t first, second;

	(void)state;
	assert_int_equal(permissions_reserve(&p, 1000, &web, &first), 0);
	assert_false(permissions_seen_together(&p, WEB, DB));
	assert_int_equal(permissions_role(&p, &alice, WEB), ROLE_NONE);
	assert_int_equal(stored(&p), 0);
	permissions_promise_reserved(&p, first, &self);
	assert_int_equal(stored(&p), 1);
	assert_int_equal(permissions_role(&p, &alice, WEB), ROLE_NONE);
	permissions_promise_end(&p, first, ROLE_ADMIN, true);
	assert_int_equal(permissions_role(&p, &alice, WEB), ROLE_ADMIN);
	assert_true(p.list[0].origin.by == 1000 && p.list[0].origin.since_ns == 7000);
	/* The VM was not made: the entry goes, promised or not. */
	for (unsigned promised = 0; promised < 2; promised++) {
		assert_int_equal(permissions_reserve(&p, 1000, &db, &second), 0);
		if (promised)
			permissions_promise_reserved(&p, second, &self);
		permissions_promise_end(&p, second, ROLE_ADMIN, false);
		assert_int_equal(p.n, 1);
	}
	/* An admin's revoke wins. */
	assert_int_equal(permissions_reserve(&p, 1000, &db, &second), 0);
	permissions_promise_reserved(&p, second, &self);
	assert_int_equal(permissions_remove(&p, false, 1000, &db, ROLE_NONE), 0);
	permissions_promise_end(&p, second, ROLE_ADMIN, true);
	assert_int_equal(permissions_role(&p, &alice, DB), ROLE_NONE);
	permissions_done(&p);
}

/* Creators cannot fill the table. The limits hold for the next daemon, too. */
static void test_number_of_creators_entries_is_limited(void **state)
{
	CLEANUP_JS struct json_object *file = NULL;
	struct permissions p = { 0 }, again = { 0 };
	uint8_t uuid[16] = { 0 };
	uint64_t serial;

	(void)state;
	for (unsigned i = 0; i < PERMISSIONS_CREATED_MAX; i++) {
		const uid_t uid = 5000 + i / PERMISSIONS_CREATOR_MAX;
		const struct permission_origin self = { 7000, uid };
		const struct permission_vm vm = { "v", uuid };

		uuid[0] = (uint8_t)(128 + i % 128);
		uuid[1] = (uint8_t)(i / 128);
		assert_int_equal(permissions_reserve(&p, uid, &vm, &serial), 0);
		permissions_promise_reserved(&p, serial, &self);
		permissions_promise_end(&p, serial, ROLE_ADMIN, true);
		if (i == PERMISSIONS_CREATOR_MAX - 1)
			assert_int_equal(permissions_reserve(&p, uid, &(struct permission_vm){ "v", OTHER }, &serial), -EDQUOT);
	}
	file = permissions_to_file(&p);
	assert_int_equal(permissions_load_file(&again, file, NULL), 0);
	uuid[2] = 1;
	assert_int_equal(permissions_reserve(&again, 5000, &(struct permission_vm){ "v", uuid }, &serial), -EDQUOT);
	assert_int_equal(permissions_reserve(&again, 1000, &(struct permission_vm){ "v", uuid }, &serial), -ENOSPC);
	assert_int_equal(permissions_set(&again, false, 1000, &(struct permission_vm){ "v", uuid }, ROLE_ADMIN), 0);
	permissions_done(&again);
	permissions_done(&p);
}

static const uint8_t *find_web(void *opaque, const char *name)
{
	(void)opaque;
	return strcmp(name, "web") ? NULL : WEB;
}

/* Entries of version 1 have a VM's name only. They give a role when the VM's UUID has been found. */
static void test_entries_of_older_version_get_uuids(void **state)
{
	struct permissions p = { 0 };

	(void)state;
	load(&p, "[{\"user\":1000,\"role\":\"owner\",\"vm\":\"web\",\"vm-uuid\":\"\"},"
		 "{\"user\":1000,\"role\":\"owner\",\"vm\":\"gone\",\"vm-uuid\":\"\"},{\"group\":11,\"role\":\"viewer\"}]");
	assert_int_equal(p.n, 3);
	assert_int_equal(permissions_role(&p, &alice, WEB), ROLE_NONE);
	assert_true(permissions_find_vms(&p, find_web, NULL));
	assert_int_equal(p.n, 3); /* "gone" may be loaded by a later daemon; permissions_prune() decides */
	assert_int_equal(permissions_role(&p, &alice, WEB), ROLE_ADMIN);
	assert_false(permissions_find_vms(&p, find_web, NULL));
	permissions_done(&p);
}

static void test_number_of_entries_is_limited(void **state)
{
	struct permissions p = { 0 };

	(void)state;
	for (uid_t i = 0; i < PERMISSIONS_MAX; i++)
		assert_int_equal(permissions_set(&p, false, i, NULL, ROLE_VIEWER), 0);
	assert_int_equal(permissions_set(&p, false, PERMISSIONS_MAX, NULL, ROLE_VIEWER), -ENOSPC);
	permissions_done(&p);
}

static void test_role_words_depend_on_scope(void **state)
{
	(void)state;
	assert_int_equal(permissions_role_from_word("owner", true), ROLE_ADMIN);
	assert_int_equal(permissions_role_from_word("owner", false), ROLE_NONE);
	assert_int_equal(permissions_role_from_word("admin", true), ROLE_NONE);
	assert_int_equal(permissions_role_from_word("admin", false), ROLE_ADMIN);
	assert_int_equal(permissions_role_from_word("creator", false), ROLE_CREATOR);
	assert_int_equal(permissions_role_from_word("creator", true), ROLE_NONE);
	assert_int_equal(permissions_role_from_word("nobody", false), ROLE_NONE);
	assert_int_equal(permissions_role_from_word(NULL, false), ROLE_NONE);
}

static void test_malformed_file_grants_nothing(void **state)
{
	struct permissions p = { 0 }, again = { 0 };
	struct json_object *o;

	(void)state;
	load(&p, "[{\"user\":1000,\"role\":\"owner\",\"vm\":\"web\","
		 "\"vm-uuid\":\"01000000-0000-0000-0000-000000000000\"},{\"group\":11,\"role\":\"viewer\"}]");
	assert_int_equal(p.n, 2);
	o = permissions_to_file(&p);
	assert_int_equal(permissions_load_file(&again, o, NULL), 0);
	json_object_put(o);
	assert_int_equal(again.n, 2);
	assert_int_equal(permissions_role(&again, &alice, WEB), ROLE_ADMIN);
	assert_int_equal(permissions_role(&again, &bob, OTHER), ROLE_VIEWER);
	permissions_done(&again);
	permissions_done(&p);
	/* An entry without a valid user or group, role and VM grants nothing. */
	load(&p, "[{\"role\":\"admin\"},{\"user\":-1,\"role\":\"admin\"},{\"user\":1000,\"role\":\"king\"},"
		 "{\"user\":1000,\"role\":\"owner\"},{\"user\":1000,\"role\":\"viewer\",\"vm\":5},"
		 "{\"user\":1000,\"role\":\"viewer\",\"vm\":\"web\"},{\"user\":1000,\"role\":\"viewer\",\"vm\":\"web\",\"vm-uuid\":\"x\"},"
		 "{\"user\":4294967296,\"role\":\"admin\"},{\"user\":4294967295,\"role\":\"admin\"},5,null]");
	assert_int_equal(p.n, 0);
	load(&p, "{}");
	assert_int_equal(p.n, 0);
}

/* All or nothing: the next change would erase an entry that was skipped. */
static void test_file_with_an_invalid_entry_is_not_loaded(void **state)
{
	static const struct {
		const char *text;
		int r;
	} files[] = {
		{ "{}", -EINVAL },
		{ "{\"permissions\": [{\"user\": 1, \"role\": \"viewer\"}, {\"role\": \"viewer\"}], \"uses-since\": 5}", -EINVAL },
		{ "{\"permissions\": [{\"user\": 1, \"role\": \"viewer\"}, {\"user\": 2, \"role\": 3}]}", -EINVAL },
		{ "{\"permissions\": [{\"user\": 1, \"role\": \"owner\"}]}", -EINVAL },
		{ "{\"permissions\": [{\"user\": 1, \"role\": \"viewer\", \"vm-uuid\": \"\"}]}", -EINVAL },
		{ "{\"permissions\": [{\"user\": 1, \"role\": \"creator\", \"vm\": \"web\", \"vm-uuid\": \"\"}]}", -EINVAL },
		{ "{\"permissions\": [{\"user\": 1, \"role\": \"viewer\"}, {\"user\": 2, \"role\": \"operatr\"}]}", -ENOTSUP },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(files) / sizeof(*files); i++) {
		CLEANUP_JS struct json_object *o = NULL;
		struct permissions p = { 0 };

		assert_int_equal(js_parse(files[i].text, strlen(files[i].text), "table", &o, NULL), 0);
		assert_int_equal(permissions_load_file(&p, o, NULL), files[i].r);
		assert_int_equal(p.n, 0);
		permissions_done(&p);
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_entries_of_deleted_vm_are_removed),
		cmocka_unit_test(test_mark_changes_with_the_roles),
		cmocka_unit_test(test_origin_is_that_of_the_role_in_force),
		cmocka_unit_test(test_history_is_loaded_and_older_files_have_none),
		cmocka_unit_test(test_use_counts_for_the_entries_that_allow_it),
		cmocka_unit_test(test_highest_matching_role_counts),
		cmocka_unit_test(test_vms_visible_to_same_users_are_recognized),
		cmocka_unit_test(test_entries_are_replaced_and_removed),
		cmocka_unit_test(test_grant_is_in_force_once_stored),
		cmocka_unit_test(test_creator_is_beside_the_other_roles),
		cmocka_unit_test(test_use_of_the_role_creator_counts_for_its_entry),
		cmocka_unit_test(test_reserved_entry_becomes_the_owners),
		cmocka_unit_test(test_number_of_creators_entries_is_limited),
		cmocka_unit_test(test_entries_of_older_version_get_uuids),
		cmocka_unit_test(test_number_of_entries_is_limited),
		cmocka_unit_test(test_role_words_depend_on_scope),
		cmocka_unit_test(test_malformed_file_grants_nothing),
		cmocka_unit_test(test_file_with_an_invalid_entry_is_not_loaded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
