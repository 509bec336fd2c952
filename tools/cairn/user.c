#include "tools/cairn/user.h"
#include "api/wire/json.h"
#include "tools/cairn/cli.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct entry {
	const char *name; /* valid until the next entry_next() */
	int64_t id;
};

static bool entry_next(FILE *f, bool group, struct entry *ret)
{
	const struct passwd *pw = group ? NULL : fgetpwent(f);
	const struct group *gr = group ? fgetgrent(f) : NULL;

	if (pw)
		*ret = (struct entry){ pw->pw_name, pw->pw_uid };
	else if (gr)
		*ret = (struct entry){ gr->gr_name, gr->gr_gid };
	return pw || gr;
}

/* Find a user or a group by name, or by id if name is NULL. */
static bool entry_find(bool group, const char *name, int64_t id, struct entry *ret)
{
	FILE *f = fopen(group ? "/etc/group" : "/etc/passwd", "re");
	bool found = false;

	while (f && !found && entry_next(f, group, ret))
		found = name ? !strcmp(ret->name, name) : ret->id == id;
	if (f)
		fclose(f);
	return found;
}

int64_t user_number(bool group, const char *text)
{
	struct entry found;
	long long n;
	char *end;

	if (entry_find(group, text, -1, &found))
		return found.id;
	errno = 0;
	n = strtoll(text, &end, 10);
	return end == text || *end || errno || n < 0 || n > UINT32_MAX - 1 ? -1 : n;
}

void user_name(bool group, int64_t id, char *buf, size_t size)
{
	struct entry found;

	if (entry_find(group, NULL, id, &found))
		snprintf(buf, size, "%s", found.name);
	else
		snprintf(buf, size, "%lld", (long long)id);
}

int user_option_put(struct cli *c, struct json_object *args, char who[USER_WORDS])
{
	const char *user = option_value(c, "user"), *name = user ? user : option_value(c, "group"), *kind = user ? "user" : "group";
	int64_t n = name ? user_number(!user, name) : -1;

	if (!name)
		return 0;
	if (n < 0)
		return cli_usage(c, "unknown %s \"%s\"", kind, name);
	js_put_int(args, kind, n);
	snprintf(who, USER_WORDS, "%s %.80s", kind, name);
	return 0;
}
