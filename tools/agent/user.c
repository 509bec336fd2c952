#include "tools/agent/user.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FIELDS 7 /* of a line of /etc/passwd */
#define NAME_BYTES 256

/* The lines of a file. Longer ones than the buffer are cut off. */
struct lines {
	int fd;
	size_t at, len;
	char buf[65536];
};

static struct lines lines;

static void lines_open(const char *path)
{
	struct stat st;

	lines.at = lines.len = 0;
	lines.fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (lines.fd >= 0 && (fstat(lines.fd, &st) < 0 || !S_ISREG(st.st_mode))) {
		close(lines.fd);
		lines.fd = -1;
	}
}

/* Returns the next line; NULL: there is none, and the file is closed. */
static char *line_next(void)
{
	char *line, *end;
	ssize_t n = 1;

	while (!(end = memchr(lines.buf + lines.at, '\n', lines.len - lines.at)) && n > 0 && lines.fd >= 0) {
		memmove(lines.buf, lines.buf + lines.at, lines.len - lines.at);
		lines.len -= lines.at;
		lines.at = 0;
		n = lines.len == sizeof(lines.buf) - 1 ? 0 : read(lines.fd, lines.buf + lines.len, sizeof(lines.buf) - 1 - lines.len);
		lines.len += (size_t)MAX(n, 0);
	}
	if (!end && lines.at == lines.len) {
		if (lines.fd >= 0)
			close(lines.fd);
		lines.fd = -1;
		return NULL;
	}
	line = lines.buf + lines.at;
	end = end ? end : lines.buf + lines.len;
	*end = 0;
	lines.at = MIN((size_t)(end - lines.buf) + 1, lines.len);
	return line;
}

static void lines_close(void)
{
	if (lines.fd >= 0)
		close(lines.fd);
	lines.fd = -1;
}

/* Split a line at its colons. Missing fields are "". */
static void fields_split(char *line, char *fields[FIELDS])
{
	for (unsigned i = 0; i < FIELDS; i++) {
		fields[i] = line;
		line += strcspn(line, ":");
		if (*line)
			*line++ = 0;
	}
}

/* Returns the number; -1: it is none, or none of a user. */
static int64_t number_parse(const char *text)
{
	size_t digits = strspn(text, "0123456789");
	int64_t v;

	if (!digits || digits > 10 || text[digits])
		return -1;
	v = strtoll(text, NULL, 10);
	return v < UINT32_MAX ? v : -1;
}

/* Find a line of a file by the name or the number in its first or third field. */
static bool entry_find(const char *path, const char *name, char *fields[FIELDS])
{
	int64_t number = number_parse(name);
	char *line;

	lines_open(path);
	while ((line = line_next())) {
		fields_split(line, fields);
		if (!strcmp(fields[0], name) || (number >= 0 && number_parse(fields[2]) == number)) {
			lines_close(); /* the buffer stays */
			return true;
		}
	}
	return false;
}

static bool has_member(char *list, const char *name)
{
	char *saved;

	for (char *m = strtok_r(list, ",", &saved); m; m = strtok_r(NULL, ",", &saved))
		if (!strcmp(m, name))
			return true;
	return false;
}

static void groups_find(struct user *u, const char *name)
{
	char *fields[FIELDS], *line;

	lines_open("/etc/group");
	while (u->ngroups < USER_GROUPS_MAX && (line = line_next())) {
		int64_t gid;

		fields_split(line, fields);
		gid = number_parse(fields[2]);
		if (gid >= 0 && has_member(fields[3], name))
			u->groups[u->ngroups++] = (gid_t)gid;
	}
	lines_close();
}

static int group_find(const char *group, struct user *u)
{
	char *fields[FIELDS];
	int64_t gid = number_parse(group);

	if (gid < 0 && entry_find("/etc/group", group, fields))
		gid = number_parse(fields[2]);
	if (gid < 0)
		return -ENOENT;
	u->gid = (gid_t)gid;
	return 0;
}

int user_find(const char *text, struct user *ret)
{
	size_t len = strcspn(text, ":");
	const char *group = text[len] ? text + len + 1 : "";
	char name[NAME_BYTES] = "", *fields[FIELDS];
	int64_t uid, gid = 0;

	if (len >= sizeof(name))
		return -ENOENT;
	strncat(name, text, len);
	*ret = (struct user){ .home = "/" };
	uid = number_parse(name);
	if (entry_find("/etc/passwd", name, fields)) {
		uid = number_parse(fields[2]);
		gid = number_parse(fields[3]);
		if (*fields[5] && strlen(fields[5]) < sizeof(ret->home))
			strcpy(ret->home, fields[5]);
		name[0] = 0;
		strncat(name, fields[0], sizeof(name) - 1);
	}
	if (uid < 0 || gid < 0)
		return -ENOENT;
	ret->uid = (uid_t)uid;
	ret->gid = (gid_t)gid;
	if (*group && group_find(group, ret) < 0)
		return -ENOENT;
	/* A set-group-id program replaces the group, which must not lift a restriction of the user's own group. */
	ret->groups[ret->ngroups++] = ret->gid;
	if (!*group)
		groups_find(ret, name);
	return 0;
}
