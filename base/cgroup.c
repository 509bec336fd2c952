#include "base/cgroup.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/util.h"

#include <linux/magic.h>
#include <mntent.h>
#include <stdio.h>
#include <string.h>
#include <sys/vfs.h>

static const char *const names[CGROUP_CONTROLLERS] = { "cpu", "memory", "pids" };

const char *cgroup_controller_name(enum cgroup_controller controller)
{
	return names[controller];
}

const char *cgroup_mount(char *buf, size_t size)
{
	FILE *f = setmntent("/proc/self/mounts", "re");
	const char *found_at = NULL;
	struct mntent *m;
	struct statfs fs;

	while (f && !found_at && (m = getmntent(f)))
		if (!strcmp(m->mnt_type, "cgroup2") && strlen(m->mnt_dir) < size && !statfs(m->mnt_dir, &fs) &&
			fs.f_type == CGROUP2_SUPER_MAGIC)
			found_at = strcpy(buf, m->mnt_dir);
	if (f)
		endmntent(f);
	return found_at;
}

void cgroup_folder(const char *mount, pid_t pid, char *buf, size_t size)
{
	CLEANUP_FREE char *text = NULL;
	char path[64] = "/proc/self/cgroup";
	const char *line;
	struct err e;
	size_t len;

	if (pid)
		snprintf(path, sizeof(path), "/proc/%d/cgroup", (int)pid);
	if (!file_read(path, 64 * KIB, &text, &len, &e)) {
		line = strncmp(text, "0::", 3) ? strstr(text, "\n0::") : text;
		line = line ? strchr(line, '/') : NULL;
		if (line && snprintf(buf, size, "%s%.*s", mount, (int)strcspn(line, "\n"), line) < (int)size && !access(buf, F_OK))
			return;
	}
	snprintf(buf, size, "%s", mount);
}

void cgroup_controllers_read(const char *folder, const char *file, bool ret_has[CGROUP_CONTROLLERS])
{
	CLEANUP_FREE char *text = NULL;
	char path[4200], *save, *word;
	struct err e;
	size_t len;

	memset(ret_has, 0, CGROUP_CONTROLLERS * sizeof(*ret_has));
	snprintf(path, sizeof(path), "%s/%s", folder, file);
	if (file_read(path, 4 * KIB, &text, &len, &e) < 0)
		return;
	for (word = strtok_r(text, " \n", &save); word; word = strtok_r(NULL, " \n", &save))
		for (size_t i = 0; i < CGROUP_CONTROLLERS; i++)
			ret_has[i] |= !strcmp(word, names[i]);
}

const char *cgroup_controllers_list(const bool has[CGROUP_CONTROLLERS], bool present, char *buf, size_t size)
{
	size_t n = 0;

	buf[0] = 0;
	for (size_t i = 0; i < CGROUP_CONTROLLERS && n < size; i++)
		if (has[i] == present)
			n += (size_t)snprintf(buf + n, size - n, "%s%s", n ? ", " : "", names[i]);
	return buf;
}
