/* cairn-groups UID: print a user's groups, as the system's user database (NSS) has them now. cairnd runs it
 * (api/access/groups.h), because a database on the network may hang.
 *
 * Prints one line: "groups PRIMARY [GROUP…]", numbers; "none": the database does not know the user; or "error
 * SENTENCE". */
#include "api/access/groups.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/lockdown.h"
#include "base/program.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ENTRY_BYTES_MAX (1 << 20)

/* Find the user's entry. ret_buf: owned; holds the entry's texts. Returns 0; -ENOENT; -errno. */
static int user_find(uid_t uid, struct passwd *ret, char **ret_buf)
{
	struct passwd *found = NULL;
	int error = ERANGE;

	for (size_t n = 1024; error == ERANGE && n <= ENTRY_BYTES_MAX; n *= 4) {
		free(*ret_buf);
		*ret_buf = malloc(n);
		error = *ret_buf ? getpwuid_r(uid, ret, *ret_buf, n, &found) : ENOMEM;
	}
	if (found)
		return 0;
	/* These values mean that there is no entry: getpwuid_r(3). */
	return !error || error == ESRCH || error == EBADF || error == EPERM ? -ENOENT : -error;
}

/* ret_list: owned. Returns the number of groups; -E2BIG; -ENOMEM. */
static int groups_find(const struct passwd *user, gid_t **ret_list)
{
	int max = 256, n;

	do {
		n = max;
		free(*ret_list);
		*ret_list = calloc((size_t)max, sizeof(**ret_list));
		if (!*ret_list)
			return -ENOMEM;
		if (getgrouplist(user->pw_name, user->pw_gid, *ret_list, &n) >= 0)
			return n > GROUPS_MAX ? -E2BIG : n;
	} while ((max *= 4) <= 4 * GROUPS_MAX);
	return -E2BIG;
}

static int fail(const char *what, int r)
{
	printf("error %s: %s\n", what, r == -E2BIG ? "too many groups" : strerror(-r));
	return 1;
}

static int groups_print(uid_t uid)
{
	CLEANUP_FREE char *buf = NULL;
	CLEANUP_FREE gid_t *list = NULL;
	struct passwd user;
	int r = user_find(uid, &user, &buf);

	if (r == -ENOENT) {
		puts("none");
		return 0;
	}
	if (r < 0)
		return fail("the user's entry", r);
	r = groups_find(&user, &list);
	if (r < 0)
		return fail("the user's groups", r);
	printf("groups %u", user.pw_gid);
	for (int i = 0; i < r; i++)
		if (list[i] != user.pw_gid)
			printf(" %u", list[i]);
	putchar('\n');
	return 0;
}

int main(int argc, char **argv)
{
	unsigned long uid;
	struct err e;
	char *end;

	if (program_begin(&e) < 0 || lockdown_drop(&e) < 0) {
		printf("error %s\n", e.msg);
		return 1;
	}
	uid = argc == 2 ? strtoul(argv[1], &end, 10) : 0;
	if (argc != 2 || end == argv[1] || *end || *argv[1] == '-' || uid >= UINT32_MAX) {
		fputs("usage: cairn-groups UID\n", stderr);
		return 2;
	}
	return groups_print((uid_t)uid);
}
