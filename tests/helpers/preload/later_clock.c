/* An LD_PRELOAD library whose monotonic clock runs ahead. CLOCK_AHEAD: while this file exists, it has the seconds.
 * The kernel's own timers do not know of it: a process that sleeps looks at the clock when something wakes it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static long ahead_s(void)
{
	const char *path = getenv("CLOCK_AHEAD");
	int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	char text[16] = "";

	if (fd < 0)
		return 0;
	if (read(fd, text, sizeof(text) - 1) < 0)
		text[0] = 0;
	close(fd);
	return atol(text);
}

int clock_gettime(clockid_t id, struct timespec *ts)
{
	int (*real)(clockid_t id, struct timespec *ts) = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
	int r = real(id, ts);

	if (!r && id == CLOCK_MONOTONIC)
		ts->tv_sec += ahead_s();
	return r;
}
