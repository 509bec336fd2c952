/* open_as: a definition's files are opened with the rights of the user who defined the VM and no
 * others; these rights are stored with the VM. Acting as another user needs root. */
#include "api/definition/vm_config.h"
#include "api/access/open_as.h"
#include "api/access/fork_as.h"
#include "api/access/permissions.h"
#include "api/access/rights.h"
#include "api/definition/definition.h"
#include "api/wire/json.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/file.h"
#include "base/loop.h"
#include "base/relay.h"
#include "tests/unit/tmp.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define STRANGER 65533

static const gid_t groups[] = { 4242 };
static const struct peer stranger = { STRANGER, STRANGER, groups, 1 };

/* For all but the loop, the clock stands an hour ahead: look-ups of groups take no time, so none takes too long, and an
 * answer stays fresh. */
static uint64_t begin_ns;
uint64_t __real_loop_now_ns(void);
uint64_t __wrap_loop_now_ns(void);
uint64_t __wrap_loop_now_ns(void)
{
	return begin_ns + 3600 * CLOCK_NS_PER_S;
}

static void need_root(void)
{
	if (geteuid() == 0)
		return;
	print_message("skipped: needs root, to take on another user's rights\n");
	skip();
}

/* ---- stored rights ---- */

static void test_rights_are_stored_and_read(void **state)
{
	struct json_object *o = json_object_new_object();
	struct rights *a, *b;
	struct err e;

	(void)state;
	if (geteuid() != 0) {
		assert_int_equal(rights_of_peer(&stranger, &a, &e), -EPERM);
		assert_int_equal(e.cls, ERR_PERMISSION);
		json_object_put(o);
		need_root();
	}
	assert_int_equal(rights_of_peer(&stranger, &a, &e), 0);
	rights_put(o, a);
	assert_int_equal(rights_take(o, &b, &e), 0);
	assert_memory_equal(a, b, sizeof(*a) + sizeof(gid_t));
	assert_int_equal(json_object_object_length(o), 0);
	free(a);
	free(b);
	assert_int_equal(rights_take(o, &b, &e), 0);
	assert_null(b);
	json_object_put(o);
}

static void test_daemons_own_rights_open_directly(void **state)
{
	struct peer root = { 0, 0, NULL, 0 }, own = { geteuid(), getegid(), NULL, 0 };
	struct rights *r;
	struct err e;

	(void)state;
	assert_int_equal(rights_of_peer(&root, &r, &e), 0);
	assert_null(r);
	assert_int_equal(rights_of_peer(&own, &r, &e), 0);
	assert_null(r);
}

/* Malformed rights must never turn into the daemon's own rights. */
static void test_malformed_rights_are_refused(void **state)
{
	static const char *const bad[] = { "7", "null", "{}", "{\"user\":5}",
		"{\"user\":5,\"group\":5}", "{\"user\":0,\"group\":0,\"groups\":[]}",
		"{\"user\":-1,\"group\":5,\"groups\":[]}",
		"{\"user\":4294967295,\"group\":5,\"groups\":[]}",
		"{\"user\":5,\"group\":4294967296,\"groups\":[]}",
		"{\"user\":\"5\",\"group\":5,\"groups\":[]}",
		"{\"user\":5,\"group\":5,\"groups\":[true]}",
		"{\"user\":5,\"group\":5,\"groups\":[-3]}" };

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		char text[128];
		struct json_object *o;
		struct rights *r;
		struct err e;

		snprintf(text, sizeof(text), "{\"definer\":%s}", bad[i]);
		assert_int_equal(js_parse(text, strlen(text), "text", &o, &e), 0);
		if (rights_take(o, &r, &e) != -EINVAL)
			fail_msg("%s", text);
		json_object_put(o);
	}
}

/* ---- opening ---- */

struct files {
	char dir[96], kernel[128], own[128], theirs[128], groups[128], link[128], program[128];
	struct loop *loop;
	struct helpers *helpers;
};

static void put(const char *path, uid_t uid, gid_t gid, mode_t mode)
{
	int fd = open(path, O_CREAT | O_WRONLY | O_EXCL, 0600);

	assert_true(fd >= 0 && write(fd, "x", 1) == 1);
	if (geteuid() == 0)
		assert_int_equal(fchown(fd, uid, gid), 0);
	assert_int_equal(fchmod(fd, mode), 0);
	close(fd);
}

/* Let the program that looks up groups (api/access/groups.h) print this. */
static void groups_are(const struct files *f, const char *answer)
{
	char script[128];
	int n = snprintf(script, sizeof(script), "#!/bin/sh\necho %s\n", answer);

	assert_int_equal(file_write_atomic(f->program, script, (size_t)n, 0700, NULL), 0);
}

static int setup(void **state)
{
	struct files *f = calloc(1, sizeof(*f));
	struct err e;

	begin_ns = __real_loop_now_ns();
	snprintf(f->dir, sizeof(f->dir), "%s/cairn-open-as-XXXXXX", tmp_folder());
	assert_non_null(mkdtemp(f->dir));
	assert_int_equal(chmod(f->dir, 0755), 0);
	snprintf(f->kernel, sizeof(f->kernel), "%s/kernel", f->dir);
	snprintf(f->own, sizeof(f->own), "%s/own", f->dir);
	snprintf(f->theirs, sizeof(f->theirs), "%s/theirs", f->dir);
	snprintf(f->groups, sizeof(f->groups), "%s/groups", f->dir);
	snprintf(f->link, sizeof(f->link), "%s/link", f->dir);
	put(f->kernel, 0, 0, 0644);
	put(f->own, 0, 0, 0600);
	put(f->theirs, STRANGER, STRANGER, 0600);
	put(f->groups, 0, groups[0], 0660);
	assert_int_equal(symlink(f->own, f->link), 0);
	assert_int_equal(loop_new(8, &f->loop, &e), 0);
	snprintf(f->program, sizeof(f->program), "%s/program", f->dir);
	groups_are(f, "groups 65533 4242");
	f->helpers = helpers_new(f->loop, NULL, f->program);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct files *f = *state;

	helpers_free(f->helpers);
	loop_free(f->loop);
	unlink(f->kernel);
	unlink(f->own);
	unlink(f->theirs);
	unlink(f->groups);
	unlink(f->link);
	unlink(f->program);
	rmdir(f->dir);
	free(f);
	return 0;
}

struct outcome {
	bool done, held;
	int r;
	struct err e;
	unsigned nfds;
	ino_t last;
};

static void opened(void *opaque, int r, struct config *c, const struct err *e)
{
	struct outcome *o = opaque;
	int fds[CHANNEL_FDS_MAX] = { -1, -1 };
	struct file_id id;
	struct stat st;

	assert_false(o->done);
	o->done = true;
	o->r = r;
	if (r < 0) {
		o->e = *e;
		return;
	}
	o->held = c->nheld > 0;
	o->nfds = o->held ? c->nheld : c->nfds;
	assert_true(c->nheld == c->vm.held && c->vm.relays == o->held);
	assert_int_equal(config_identify(c, o->nfds - 1, &id), 0);
	if (o->held) /* fds[0] is the only fd that the daemon got */
		assert_true(c->nfds == 1 && relay_take(c->fds[0], fds, o->nfds) == 0);
	else
		memcpy(fds, c->fds, o->nfds * sizeof(*fds));
	assert_int_equal(c->vm.disks[0].fd[0], o->nfds - 1);
	assert_int_equal(fstat(fds[o->nfds - 1], &st), 0);
	assert_true(st.st_dev == id.dev && st.st_ino == id.ino);
	assert_int_equal(fcntl(fds[o->nfds - 1], F_GETFD), FD_CLOEXEC);
	assert_int_equal(fcntl(fds[o->nfds - 1], F_GETFL) & (O_ACCMODE | O_NONBLOCK), O_RDWR);
	o->last = st.st_ino;
	for (unsigned i = 0; o->held && i < o->nfds; i++)
		close(fds[i]);
	config_done(c);
}

static struct definition *definition_of(struct files *f, const char *disk)
{
	char text[512];
	struct json_object *o;
	struct definition *d;
	struct err e;

	snprintf(text, sizeof(text), "{\"name\":\"a\",\"memory\":\"32M\",\"boot\":{\"kernel\":\"%s\"},"
		"\"disks\":[{\"path\":\"%s\",\"format\":\"raw\"}]}", f->kernel, disk);
	assert_int_equal(js_parse(text, strlen(text), "text", &o, &e), 0);
	assert_int_equal(definition_parse(o, NULL, &d, &e), 0);
	json_object_put(o);
	return d;
}

static struct outcome open_it(struct files *f, const char *disk, const struct peer *who, bool images)
{
	struct definition *d = definition_of(f, disk);
	struct outcome out = { 0 };
	struct open_as *o = NULL;
	struct err e;

	if (who)
		assert_int_equal(rights_of_peer(who, &d->rights, &e), 0);
	open_as_open(f->helpers, d, images, opened, &out, &o);
	assert_false(out.done);
	definition_free(d); /* open_as no longer needs the definition */
	while (!out.done)
		loop_run_once(f->loop, 1000000000ULL);
	return out;
}

static ino_t inode(const char *path)
{
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	return st.st_ino;
}

static void test_own_files_open_and_others_are_refused(void **state)
{
	struct files *f = *state;
	struct outcome o = open_it(f, f->link, NULL, false);

	assert_int_equal(o.r, 0);
	assert_true(o.held);
	assert_int_equal(o.nfds, 2);
	assert_int_equal(o.last, inode(f->own));
}

/* The loop ends before it takes the result of a thread. Memory that nobody frees is a failure under ASan. */
static void test_result_that_nobody_takes_is_freed(void **state)
{
	struct files *f = *state;
	struct definition *d = definition_of(f, f->own);
	struct pollfd wake = { .fd = loop_wake_fd(f->loop), .events = POLLIN };
	struct open_as *o = NULL;
	struct outcome out = { 0 };

	open_as_open(f->helpers, d, OPEN_AS_ALL, opened, &out, &o);
	definition_free(d);
	assert_int_equal(poll(&wake, 1, 60000), 1);
	open_as_free(o);
	assert_false(out.done);
}

static void test_another_users_rights_are_used(void **state)
{
	struct files *f = *state;
	struct outcome o;

	need_root();
	o = open_it(f, f->theirs, &stranger, false);
	assert_int_equal(o.r, 0);
	assert_true(o.held);
	assert_int_equal(o.nfds, 2);
	assert_int_equal(o.last, inode(f->theirs));
	o = open_it(f, f->groups, &stranger, true);
	assert_int_equal(o.r, 0);
	assert_int_equal(o.nfds, 1);
	assert_int_equal(o.last, inode(f->groups));
	/* Neither a symbolic link nor /proc gets around the rights. */
	const char *const refused[] = { f->own, f->link, "/etc/shadow", "/proc/self/mem",
		"/proc/self/fd/3" };

	for (size_t i = 0; i < sizeof(refused) / sizeof(*refused); i++) {
		o = open_it(f, refused[i], &stranger, false);
		if (o.r >= 0)
			fail_msg("%s was opened", refused[i]);
	}
	o = open_it(f, f->own, &stranger, false);
	assert_int_equal(o.r, -EACCES);
	assert_int_equal(o.e.cls, ERR_PERMISSION);
	assert_non_null(strstr(o.e.msg, "disks[0].path: "));
	assert_non_null(strstr(o.e.msg, "for user 65533, who defined the VM"));
}

/* Ask for a file of group 4242 with rights that have this group. */
static struct outcome open_with_groups(struct files *f, const char *answer)
{
	groups_are(f, answer);
	return open_it(f, f->groups, &stranger, true);
}

static void test_present_groups_are_used(void **state)
{
	struct files *f = *state;
	struct outcome o;

	need_root();
	o = open_with_groups(f, "groups 65533 7");
	assert_int_equal(o.r, -EACCES);
	assert_non_null(strstr(o.e.msg, "(for user 65533, who defined the VM and was in group 4242 then, but is not now; "
		"let root add the user to the group again)"));
	/* The answer is used again, until it is stale. */
	assert_int_equal(open_with_groups(f, "groups 65533 4242").r, -EACCES);
}

static void test_failed_look_up_of_groups_is_named(void **state)
{
	struct files *f = *state;
	struct outcome o;

	need_root();
	o = open_with_groups(f, "error no network");
	assert_int_equal(o.r, -EACCES);
	assert_non_null(strstr(o.e.msg, "could not be looked up: no network; try again"));
	assert_int_equal(open_it(f, f->theirs, &stranger, true).r, 0);
}

struct checked {
	bool done;
	int r;
};

static void was_checked(void *opaque, int r, const struct fork_as_result *res, const struct err *e)
{
	struct checked *c = opaque;

	(void)res;
	(void)e;
	*c = (struct checked){ true, r };
}

/* Check the files of a definition that `client` sent. */
static int check_it(struct files *f, uid_t client)
{
	struct definition *d = definition_of(f, f->groups);
	struct checked c = { 0 };
	struct err e;

	assert_int_equal(rights_of_peer(&stranger, &d->rights, &e), 0);
	assert_int_equal(open_as_check(f->helpers, d, NULL, client, was_checked, &c, &e), 0);
	definition_free(d);
	while (!c.done)
		loop_run_once(f->loop, 1000000000ULL);
	return c.r;
}

/* Check a definition with a disk that its user cannot open, after an older one. */
static int check_after(struct files *f, const char *older_disk, bool older_reads, const struct peer *older_user)
{
	struct definition *d = definition_of(f, f->groups), *old = definition_of(f, older_disk);
	struct checked c = { 0 };
	struct err e;

	old->disks[0].read_only = older_reads;
	assert_int_equal(rights_of_peer(&stranger, &d->rights, &e), 0);
	if (older_user)
		assert_int_equal(rights_of_peer(older_user, &old->rights, &e), 0);
	assert_int_equal(open_as_check(f->helpers, d, old, 0, was_checked, &c, &e), 0);
	definition_free(d);
	definition_free(old);
	while (!c.done)
		loop_run_once(f->loop, 1000000000ULL);
	return c.r;
}

static void test_files_that_the_guest_has_already_are_not_checked(void **state)
{
	struct files *f = *state;

	need_root();
	groups_are(f, "groups 65533");
	assert_int_equal(check_after(f, f->groups, false, &stranger), 0);
	assert_int_equal(check_after(f, f->theirs, false, &stranger), -EACCES);
	assert_int_equal(check_after(f, f->groups, true, &stranger), -EACCES); /* the guest gains writing */
	assert_int_equal(check_after(f, f->groups, false, NULL), -EACCES); /* it was the daemon's, which may open all */
}

/* A client's process has its groups itself, whatever the database says. */
static void test_definition_is_checked_with_the_clients_own_groups(void **state)
{
	struct files *f = *state;

	need_root();
	groups_are(f, "groups 65533");
	assert_int_equal(check_it(f, STRANGER), 0);
	assert_int_equal(check_it(f, 0), -EACCES);
	assert_int_equal(check_it(f, STRANGER - 1), -EACCES);
}

static void forwards_opened(void *opaque, int r, struct config *c, const struct err *e)
{
	struct outcome *o = opaque;

	o->done = true;
	o->r = r;
	if (r < 0) {
		o->e = *e;
		return;
	}
	assert_true(c->nheld == 2 && c->vm.relays == 1 && c->nfds == 1 + c->nforwards);
	o->nfds = c->nforwards;
	config_done(c);
}

/* Open two files and n forwards as another user, who holds the files behind one relay. */
static struct outcome open_forwards(struct files *f, unsigned n)
{
	struct definition *d = definition_of(f, f->theirs);
	struct outcome out = { 0 };
	struct open_as *o = NULL;
	struct err e;

	/* Nobody uses the ports there, not even the process that opened the last ones and is ending. */
	assert_int_equal(unshare(CLONE_NEWNET), 0);
	assert_int_equal(rights_of_peer(&stranger, &d->rights, &e), 0);
	free(d->interfaces);
	d->interfaces = calloc(VM_INTERFACES_MAX, sizeof(*d->interfaces));
	d->ninterfaces = VM_INTERFACES_MAX;
	for (unsigned i = 0; i < n; i++) {
		struct definition_interface *to = &d->interfaces[i / DEFINITION_FORWARDS_MAX];

		to->type = DEFINITION_USER;
		to->user.forwards[to->user.nforwards++] = (struct definition_forward){ .protocol = DEFINITION_UDP,
			.address = "0.0.0.0", .port = (uint16_t)(2000 + i), .to = 53 };
	}
	open_as_open(f->helpers, d, OPEN_AS_START, forwards_opened, &out, &o);
	definition_free(d);
	while (!out.done)
		loop_run_once(f->loop, 1000000000ULL);
	return out;
}

static void test_relays_count_as_files(void **state)
{
	struct files *f = *state;
	struct outcome o;

	need_root();
	if (unshare(CLONE_NEWNET) < 0) {
		print_message("skipped: no network namespace of its own (%s)\n", strerror(errno));
		skip();
	}
	o = open_forwards(f, CHANNEL_FDS_MAX - 3);
	assert_int_equal(o.r, 0);
	assert_int_equal(o.nfds, CHANNEL_FDS_MAX - 3);
	o = open_forwards(f, CHANNEL_FDS_MAX - 2);
	assert_int_equal(o.r, -EMFILE);
	assert_string_equal(o.e.msg, "the VM has too many files and forwards");
}

static void test_cancelled_open_leaves_nothing(void **state)
{
	struct files *f = *state;
	struct definition *d;
	struct outcome out = { 0 };
	struct open_as *o = NULL;
	struct err e;

	need_root();
	d = definition_of(f, f->theirs);
	assert_int_equal(rights_of_peer(&stranger, &d->rights, &e), 0);
	open_as_open(f->helpers, d, false, opened, &out, &o);
	assert_non_null(o);
	open_as_free(o); /* its process waits for the user's groups */
	definition_free(d);
	for (int i = 0; i < 20; i++)
		loop_run_once(f->loop, 20000000ULL);
	assert_false(out.done);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rights_are_stored_and_read),
		cmocka_unit_test(test_daemons_own_rights_open_directly),
		cmocka_unit_test(test_malformed_rights_are_refused),
		cmocka_unit_test_setup_teardown(test_own_files_open_and_others_are_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(test_result_that_nobody_takes_is_freed, setup, teardown),
		cmocka_unit_test_setup_teardown(test_another_users_rights_are_used, setup, teardown),
		cmocka_unit_test_setup_teardown(test_present_groups_are_used, setup, teardown),
		cmocka_unit_test_setup_teardown(test_failed_look_up_of_groups_is_named, setup, teardown),
		cmocka_unit_test_setup_teardown(test_definition_is_checked_with_the_clients_own_groups, setup, teardown),
		cmocka_unit_test_setup_teardown(test_files_that_the_guest_has_already_are_not_checked, setup, teardown),
		cmocka_unit_test_setup_teardown(test_cancelled_open_leaves_nothing, setup, teardown),
		cmocka_unit_test_setup_teardown(test_relays_count_as_files, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
