/* An LD_PRELOAD library that sets a process's wall clock. SET_CLOCK: file with the seconds to add.
 * Without the file, the clock is the host's. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static time_t seconds_to_add(void)
{
	const char *path = getenv("SET_CLOCK");
	int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	char text[32];
	ssize_t n = fd < 0 ? 0 : read(fd, text, sizeof(text) - 1);

	if (fd >= 0)
		close(fd);
	text[n > 0 ? n : 0] = 0;
	return strtol(text, NULL, 10);
}

int clock_gettime(clockid_t id, struct timespec *ts)
{
	int (*real)(clockid_t id, struct timespec *ts) = dlsym(RTLD_NEXT, "clock_gettime");
	int r = real ? real(id, ts) : -1;

	if (!r && id == CLOCK_REALTIME)
		ts->tv_sec += seconds_to_add();
	return r;
}
