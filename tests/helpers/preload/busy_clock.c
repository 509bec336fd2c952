/* An LD_PRELOAD library for which each process keeps exactly one processor busy: its processor time is the time. */
#define _GNU_SOURCE
#include <time.h>

int clock_getcpuclockid(pid_t pid, clockid_t *ret)
{
	(void)pid;
	*ret = CLOCK_MONOTONIC;
	return 0;
}
