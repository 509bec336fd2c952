/* For LD_PRELOAD: a disk that takes its time. SLOW_SYNC_MS milliseconds more for each fsync. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>

int fsync(int fd)
{
	int (*real)(int fd) = dlsym(RTLD_NEXT, "fsync");
	const char *ms = getenv("SLOW_SYNC_MS");

	if (ms)
		usleep((useconds_t)atoi(ms) * 1000);
	return real ? real(fd) : -1;
}
