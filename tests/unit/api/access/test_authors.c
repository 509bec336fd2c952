/* authors: an edit changes the rights only of what the editor adds or gains. */
#include "api/access/authors.h"
#include "api/access/rights.h"
#include "api/definition/definition.h"
#include "api/wire/json.h"
#include "base/err.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define ANN 1001
#define BOB 1002

/* uid: 0: root. */
static struct definition *definition_of(const char *rest, unsigned uid)
{
	char text[1024];
	struct json_object *o;
	struct definition *d;
	struct err e;

	snprintf(text, sizeof(text), "{\"name\":\"a\",\"memory\":\"32M\",\"boot\":{\"kernel\":\"/k\"},%s}", rest);
	assert_int_equal(js_parse(text, strlen(text), "text", &o, &e), 0);
	if (definition_parse(o, NULL, &d, &e) < 0)
		fail_msg("%s", e.msg);
	json_object_put(o);
	if (!uid)
		return d;
	snprintf(text, sizeof(text), "{\"definer\":{\"user\":%u,\"group\":%u,\"groups\":[]}}", uid, uid);
	assert_int_equal(js_parse(text, strlen(text), "text", &o, &e), 0);
	assert_int_equal(rights_take(o, &d->rights, &e), 0);
	json_object_put(o);
	return d;
}

/* Replace *d as an edit by that user would. */
static void edit(struct definition **d, const char *rest, unsigned uid)
{
	struct definition *is = definition_of(rest, uid);

	authors_inherit(is, *d);
	definition_free(*d);
	*d = is;
}

static unsigned uid_of(const struct rights *r)
{
	return r ? r->uid : 0;
}

#define DISK(path, more) "{\"path\":\"" path "\",\"format\":\"raw\"" more "}"
#define RO ",\"readonly\":true"

static void test_editor_is_author_of_what_the_edit_adds(void **state)
{
	struct definition *d = definition_of("\"disks\":[" DISK("/a", RO) "]", ANN);

	(void)state;
	edit(&d, "\"disks\":[" DISK("/a", RO) "," DISK("/b", "") "]", BOB);
	assert_int_equal(uid_of(d->rights), ANN);
	assert_int_equal(uid_of(author_of(d, "/k")), ANN);
	assert_int_equal(uid_of(author_of(d, "/a")), ANN);
	assert_int_equal(uid_of(author_of(d, "/b")), BOB);
	/* Root changes nothing but what is new. */
	edit(&d, "\"disks\":[" DISK("/a", "") "," DISK("/b", RO) "," DISK("/r", "") "]", 0);
	assert_int_equal(uid_of(author_of(d, "/a")), ANN);
	assert_int_equal(uid_of(author_of(d, "/b")), BOB);
	assert_int_equal(uid_of(author_of(d, "/r")), 0);
	assert_false(authors_are_daemon(d));
	/* A user who makes a file writable becomes its author; the other files keep theirs. */
	edit(&d, "\"disks\":[" DISK("/a", "") "," DISK("/b", "") "," DISK("/r", "") "]", ANN);
	assert_int_equal(uid_of(author_of(d, "/b")), ANN);
	assert_int_equal(uid_of(author_of(d, "/r")), 0);
	assert_int_equal(d->nauthors, 1);
	definition_free(d);
}

static void test_removed_file_has_no_author_any_more(void **state)
{
	struct definition *d = definition_of("\"disks\":[" DISK("/a", "") "]", 0);

	(void)state;
	edit(&d, "\"disks\":[]", BOB);
	assert_true(authors_are_daemon(d));
	edit(&d, "\"disks\":[" DISK("/a", "") "]", BOB);
	assert_int_equal(uid_of(author_of(d, "/a")), BOB);
	definition_free(d);
}

#define SHARE(more) "\"shares\":[{\"path\":\"/s\",\"tag\":\"t\"" more "}]"

static void test_share_that_becomes_writable_has_another_author(void **state)
{
	struct definition *d = definition_of(SHARE(""), ANN);

	(void)state;
	edit(&d, SHARE(RO), BOB); /* the default */
	assert_int_equal(uid_of(author_of(d, "/s")), ANN);
	edit(&d, SHARE(",\"readonly\":false"), BOB);
	assert_int_equal(uid_of(author_of(d, "/s")), BOB);
	edit(&d, SHARE(RO), ANN);
	assert_int_equal(uid_of(author_of(d, "/s")), BOB);
	definition_free(d);
}

#define USER(more) "\"interfaces\":[{\"type\":\"user\",\"id\":\"net0\"" more "}]"

/* The guest reads a disk, but not the file with the password of its screen. */
static void test_password_file_that_becomes_a_disk_has_another_author(void **state)
{
	struct definition *d = definition_of("\"screen\":true,\"vnc\":{\"port\":5900,\"password_file\":\"/p\"},\"disks\":[" DISK("/a", RO) "]", 0);

	(void)state;
	edit(&d, "\"disks\":[" DISK("/a", RO) "," DISK("/p", RO) "," DISK("/k", RO) "]", ANN);
	assert_int_equal(uid_of(author_of(d, "/p")), ANN);
	assert_int_equal(uid_of(author_of(d, "/a")), 0);
	assert_int_equal(uid_of(author_of(d, "/k")), 0); /* the guest read the kernel before */
	definition_free(d);
}

static void test_interfaces_have_authors(void **state)
{
	struct definition *d = definition_of(USER(",\"restrict\":true"), 0);

	(void)state;
	edit(&d, USER(",\"restrict\":true,\"forwards\":[{\"protocol\":\"tcp\",\"address\":\"127.0.0.1\",\"port\":80,\"to\":80}]"), BOB);
	assert_int_equal(uid_of(author_of_interface(d, &d->interfaces[0])), 0);
	assert_int_equal(uid_of(author_of_forward(d, &d->interfaces[0].user.forwards[0])), BOB);
	edit(&d, USER(""), BOB); /* the guest reaches more, so not with root's rights */
	assert_int_equal(uid_of(author_of_interface(d, &d->interfaces[0])), BOB);
	edit(&d, USER(",\"host_loopback\":true"), 0); /* root lends nothing */
	assert_int_equal(uid_of(author_of_interface(d, &d->interfaces[0])), BOB);
	edit(&d, "\"interfaces\":[{\"type\":\"bridge\",\"source\":\"br0\"}]", BOB);
	assert_int_equal(uid_of(author_of_interface(d, &d->interfaces[0])), BOB);
	definition_free(d);
}

/* An owner who takes the rules for the port away needs the right to use the network. */
static void test_interface_without_its_rules_has_another_author(void **state)
{
	static const char *const lax[] = { "", ",\"isolated\":true", ",\"filter\":\"clean-traffic\"" };
	char rest[200];

	(void)state;
	for (size_t i = 0; i < sizeof(lax) / sizeof(*lax); i++) {
		struct definition *d = definition_of("\"interfaces\":[{\"type\":\"network\",\"source\":\"lan\",\"isolated\":true,"
			"\"filter\":\"clean-traffic\"}]", 0);

		snprintf(rest, sizeof(rest), "\"interfaces\":[{\"type\":\"network\",\"source\":\"lan\"%s}]", lax[i]);
		edit(&d, rest, ANN);
		assert_int_equal(uid_of(author_of_interface(d, &d->interfaces[0])), ANN);
		definition_free(d);
	}
}

static void test_changed_egress_rules_change_the_author(void **state)
{
	struct definition *d = definition_of(USER(""), 0);

	(void)state;
	edit(&d, USER(",\"egress\":{}"), BOB); /* the new path reaches less than before */
	assert_int_equal(uid_of(author_of_interface(d, &d->interfaces[0])), 0);
	edit(&d, USER(",\"egress\":{\"rules\":[{\"allow\":\"any\"}]}"), BOB);
	assert_int_equal(uid_of(author_of_interface(d, &d->interfaces[0])), BOB);
	edit(&d, USER(",\"egress\":{\"rules\":[{\"allow\":\"10.0.0.1\"}]}"), 0); /* root lends nothing */
	assert_int_equal(uid_of(author_of_interface(d, &d->interfaces[0])), BOB);
	edit(&d, USER(""), ANN); /* without rules it reaches more */
	assert_int_equal(uid_of(author_of_interface(d, &d->interfaces[0])), ANN);
	definition_free(d);
}

/* An owner of root's VM does not get root's bounds (api/policy/bounds.h) for what the owner chose. */
static void test_settings_have_authors(void **state)
{
	struct definition *d = definition_of("\"start_delay\":7", 0);

	(void)state;
	edit(&d, "\"start_delay\":86400", BOB);
	assert_int_equal(uid_of(author_of_setting(d, "start_delay", 86400)), BOB);
	assert_int_equal(uid_of(author_of_setting(d, "order", d->order)), 0);
	edit(&d, "\"start_delay\":86400,\"title\":\"t\"", 0); /* root changes another setting */
	assert_int_equal(uid_of(author_of_setting(d, "start_delay", 86400)), BOB);
	edit(&d, "\"start_delay\":60", 0);
	assert_int_equal(uid_of(author_of_setting(d, "start_delay", 60)), 0);
	assert_true(authors_are_daemon(d));
	definition_free(d);
}

static void test_authors_are_stored_and_read(void **state)
{
	struct definition *d = definition_of("\"disks\":[" DISK("/a", "") "]", ANN), *read;
	struct json_object *o, *cut;
	struct err e;

	(void)state;
	edit(&d, "\"disks\":[" DISK("/a", "") "," DISK("/b", "") "]", BOB);
	edit(&d, "\"disks\":[" DISK("/a", "") "," DISK("/b", "") "," DISK("/r", "") "]", 0);
	o = definition_to_json(d);
	authors_put(o, d);
	cut = authors_cut(o);
	assert_int_equal(definition_parse(o, NULL, &read, &e), 0);
	assert_int_equal(authors_load(read, cut, &e), 0);
	assert_int_equal(read->nauthors, 2);
	assert_int_equal(uid_of(author_of(read, "/a")), ANN);
	assert_int_equal(uid_of(author_of(read, "/b")), BOB);
	assert_int_equal(uid_of(author_of(read, "/r")), 0);
	definition_free(read);
	json_object_put(o);
	json_object_put(cut);
	definition_free(d);
}

static void test_clone_belongs_to_author_of_disks(void **state)
{
	struct definition *d = definition_of("\"disks\":[" DISK("/iso", RO) "]", 0), *clone;

	(void)state;
	edit(&d, "\"disks\":[" DISK("/iso", RO) "," DISK("/b", "") "]", BOB);
	clone = definition_of("\"disks\":[" DISK("/iso", RO) "," DISK("/new", "") "]", 0);
	authors_clone(d, clone);
	assert_int_equal(uid_of(clone->rights), BOB);
	assert_int_equal(uid_of(author_of(clone, "/new")), BOB);
	assert_int_equal(uid_of(author_of(clone, "/iso")), 0);
	definition_free(clone);
	edit(&d, "\"disks\":[" DISK("/b", "") "," DISK("/r", "") "]", 0);
	clone = definition_of("\"disks\":[" DISK("/new", "") "," DISK("/newer", "") "]", 0);
	authors_clone(d, clone);
	assert_int_equal(uid_of(clone->rights), uid_of(d->rights));
	assert_int_equal(uid_of(author_of(clone, "/new")), BOB);
	assert_int_equal(uid_of(author_of(clone, "/newer")), 0);
	definition_free(clone);
	definition_free(d);
}

static void test_disk_as_before_has_its_author_of_before(void **state)
{
	struct definition *before = definition_of("\"disks\":[" DISK("/a", "") "]", 0), *now, *d;

	(void)state;
	edit(&before, "\"disks\":[" DISK("/a", "") "," DISK("/b", RO) "]", BOB);
	now = definition_of("\"disks\":[" DISK("/a", "") "]", 0);
	authors_copy(before, now);
	edit(&now, "\"disks\":[" DISK("/a", "") "," DISK("/c", RO) "," DISK("/e", "") "]", ANN);
	d = definition_of("\"disks\":[" DISK("/a", "") "," DISK("/b", RO) "," DISK("/e", "") "]", 0);
	authors_restore(d, now, before);
	assert_int_equal(uid_of(d->rights), 0);
	assert_int_equal(uid_of(author_of(d, "/a")), 0);
	assert_int_equal(uid_of(author_of(d, "/b")), BOB);
	assert_int_equal(uid_of(author_of(d, "/e")), ANN);
	assert_int_equal(d->nauthors, 2);
	definition_free(d);
	definition_free(now);
	definition_free(before);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_editor_is_author_of_what_the_edit_adds),
		cmocka_unit_test(test_removed_file_has_no_author_any_more),
		cmocka_unit_test(test_share_that_becomes_writable_has_another_author),
		cmocka_unit_test(test_password_file_that_becomes_a_disk_has_another_author),
		cmocka_unit_test(test_interfaces_have_authors),
		cmocka_unit_test(test_interface_without_its_rules_has_another_author),
		cmocka_unit_test(test_changed_egress_rules_change_the_author),
		cmocka_unit_test(test_settings_have_authors),
		cmocka_unit_test(test_authors_are_stored_and_read),
		cmocka_unit_test(test_disk_as_before_has_its_author_of_before),
		cmocka_unit_test(test_clone_belongs_to_author_of_disks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
