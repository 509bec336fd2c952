/* An LD_PRELOAD library whose monotonic clock runs ahead. CLOCK_AHEAD: while this file exists, it has the seconds.
 * CLOCK_STEP: seconds that pass from one look at the clock to the next. The kernel's own timers do not know of them: a
 * process that sleeps looks at the clock when something wakes it. */
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

static long steps_s(void)
{
	static long all;
	const char *step = getenv("CLOCK_STEP");

	return step ? all += atol(step) : 0;
}

int clock_gettime(clockid_t id, struct timespec *ts)
{
	int (*real)(clockid_t id, struct timespec *ts) = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
	int r = real(id, ts);

	if (!r && id == CLOCK_MONOTONIC)
		ts->tv_sec += ahead_s() + steps_s();
	return r;
}
