/* A library for LD_PRELOAD: ends the process with SIGKILL before the call with the number in KILL_CALL, of those calls
 * that change something outside the process. Its children go on. If the process exits, the number of these calls is
 * written to the file in CALL_COUNT. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <unistd.h>

static pid_t process;
static int calls;

static __attribute__((destructor)) void count_write(void)
{
	const char *path = getenv("CALL_COUNT");
	FILE *f = path && getpid() == process ? fopen(path, "w") : NULL;

	if (f)
		fprintf(f, "%d", calls);
	if (f)
		fclose(f);
}

static void count(void)
{
	const char *at = getenv("KILL_CALL");

	if (!process)
		process = getpid();
	if (at && getpid() == process && ++calls == atoi(at))
		kill(process, SIGKILL);
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int fd, const void *buf, size_t len)
{
	count();
	return NEXT(write)(fd, buf, len);
}

ssize_t sendto(int fd, const void *buf, size_t len, int flags, const struct sockaddr *to, socklen_t to_len)
{
	count();
	return NEXT(sendto)(fd, buf, len, flags, to, to_len);
}

ssize_t sendmsg(int fd, const struct msghdr *m, int flags)
{
	count();
	return NEXT(sendmsg)(fd, m, flags);
}

pid_t fork(void)
{
	count();
	return NEXT(fork)();
}

pid_t waitpid(pid_t pid, int *status, int options)
{
	count();
	return NEXT(waitpid)(pid, status, options);
}

int rename(const char *from, const char *to)
{
	count();
	return NEXT(rename)(from, to);
}
