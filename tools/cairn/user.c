#include "tools/cairn/user.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int64_t number_parse(const char *text)
{
	char *end;
	long long n;

	errno = 0;
	n = strtoll(text, &end, 10);
	return end == text || *end || errno || n < 0 || n > UINT32_MAX - 1 ? -1 : n;
}

int64_t user_number(const char *text)
{
	FILE *f = fopen("/etc/passwd", "re");
	const struct passwd *pw = NULL;
	int64_t uid = -1;

	while (f && uid < 0 && (pw = fgetpwent(f)))
		if (!strcmp(pw->pw_name, text))
			uid = pw->pw_uid;
	if (f)
		fclose(f);
	return uid >= 0 ? uid : number_parse(text);
}

int64_t group_number(const char *text)
{
	FILE *f = fopen("/etc/group", "re");
	const struct group *gr = NULL;
	int64_t gid = -1;

	while (f && gid < 0 && (gr = fgetgrent(f)))
		if (!strcmp(gr->gr_name, text))
			gid = gr->gr_gid;
	if (f)
		fclose(f);
	return gid >= 0 ? gid : number_parse(text);
}

void user_name(int64_t uid, char *buf, size_t size)
{
	FILE *f = fopen("/etc/passwd", "re");
	const struct passwd *pw;

	snprintf(buf, size, "%lld", (long long)uid);
	while (f && (pw = fgetpwent(f)))
		if (pw->pw_uid == uid) {
			snprintf(buf, size, "%s", pw->pw_name);
			break;
		}
	if (f)
		fclose(f);
}

void group_name(int64_t gid, char *buf, size_t size)
{
	FILE *f = fopen("/etc/group", "re");
	const struct group *gr;

	snprintf(buf, size, "%lld", (long long)gid);
	while (f && (gr = fgetgrent(f)))
		if (gr->gr_gid == gid) {
			snprintf(buf, size, "%s", gr->gr_name);
			break;
		}
	if (f)
		fclose(f);
}
