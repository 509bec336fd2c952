#include "base/home.h"

#include <pwd.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static bool is_roots(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && st.st_uid == 0;
}

/* Return root's folder in /etc/passwd; NULL: none. getpwuid() loads libraries, which a static program cannot. */
static const char *home_of_root(void)
{
	static char folder[256];
	FILE *f = fopen("/etc/passwd", "re");
	const struct passwd *p;

	*folder = '\0';
	while (f && (p = fgetpwent(f)))
		if (!p->pw_uid && strlen(p->pw_dir) < sizeof(folder)) {
			strcpy(folder, p->pw_dir);
			break;
		}
	if (f)
		fclose(f);
	return *folder == '/' && is_roots(folder) ? folder : NULL;
}

const char *home_folder(void)
{
	const char *home = getenv("HOME");

	if (!home || *home != '/')
		return NULL;
	if (geteuid() || access(home, F_OK) < 0 || is_roots(home))
		return home;
	return home_of_root() ?: home;
}
