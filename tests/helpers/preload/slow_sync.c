/* An LD_PRELOAD library that simulates a slow or failing disk. SLOW_SYNC_MS: milliseconds to add to
 * each fsync. SLOW_SYNC_UNTIL: no fsync ends before this file exists. SLOW_SYNC_FAIL: each fsync fails
 * with this errno; SLOW_SYNC_FAIL_IF: only while this file exists. SLOW_SYNC_OF: only for files whose
 * path contains this text. SLOW_SYNC_DATA: all this for fdatasync, too. SLOW_SYNC_COUNT: file that gets
 * a line with the pid for each fsync of such a file; SLOW_SYNC_FIRST: for each fsync on a process's
 * first thread. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void tell(const char *path)
{
	int fd = path ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;

	if (fd < 0)
		return;
	dprintf(fd, "%d\n", (int)getpid());
	close(fd);
}

static int is_slow(int fd)
{
	const char *of = getenv("SLOW_SYNC_OF");
	char link[32], path[4096];
	ssize_t n;

	if (!of)
		return 1;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, path, sizeof(path) - 1);
	path[n > 0 ? n : 0] = 0;
	return strstr(path, of) != NULL;
}

static int sync_slowly(int fd, const char *name)
{
	int (*real)(int fd) = dlsym(RTLD_NEXT, name);
	const char *ms = getenv("SLOW_SYNC_MS"), *until = getenv("SLOW_SYNC_UNTIL"), *fail = getenv("SLOW_SYNC_FAIL");
	const char *fails = getenv("SLOW_SYNC_FAIL_IF");

	if (gettid() == getpid())
		tell(getenv("SLOW_SYNC_FIRST"));
	if (is_slow(fd))
		tell(getenv("SLOW_SYNC_COUNT"));
	if (ms && is_slow(fd))
		usleep((useconds_t)atoi(ms) * 1000);
	while (until && is_slow(fd) && access(until, F_OK))
		usleep(5000);
	if (fail && is_slow(fd) && (!fails || !access(fails, F_OK))) {
		errno = atoi(fail);
		return -1;
	}
	return real ? real(fd) : -1;
}

int fsync(int fd)
{
	return sync_slowly(fd, "fsync");
}

int fdatasync(int fd)
{
	int (*real)(int fd) = dlsym(RTLD_NEXT, "fdatasync");

	return getenv("SLOW_SYNC_DATA") ? sync_slowly(fd, "fdatasync") : real(fd);
}
