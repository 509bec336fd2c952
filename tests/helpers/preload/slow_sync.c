/* For LD_PRELOAD: a disk that takes its time. SLOW_SYNC_MS milliseconds more for each fsync. The
 * file SLOW_SYNC_FIRST gets a line with the pid for each on a process's first thread. None ends
 * before the file SLOW_SYNC_UNTIL is there. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void tell(const char *path)
{
	int fd = path && gettid() == getpid() ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;

	if (fd < 0)
		return;
	dprintf(fd, "%d\n", (int)getpid());
	close(fd);
}

int fsync(int fd)
{
	int (*real)(int fd) = dlsym(RTLD_NEXT, "fsync");
	const char *ms = getenv("SLOW_SYNC_MS"), *until = getenv("SLOW_SYNC_UNTIL");

	tell(getenv("SLOW_SYNC_FIRST"));
	if (ms)
		usleep((useconds_t)atoi(ms) * 1000);
	while (until && access(until, F_OK))
		usleep(5000);
	return real ? real(fd) : -1;
}
