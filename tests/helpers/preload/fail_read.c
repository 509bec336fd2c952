/* An LD_PRELOAD library that simulates a disk with unreadable files. READ_FAIL: while this file exists, each read() of
 * a file whose path ends with the file's text fails with EIO. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int fails(int fd)
{
	const char *list = getenv("READ_FAIL");
	char link[32], path[4096], end[4096];
	int of = list ? open(list, O_RDONLY | O_CLOEXEC) : -1;
	ssize_t n = of < 0 ? 0 : syscall(SYS_read, of, end, sizeof(end) - 1), len;

	if (of >= 0)
		close(of);
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	len = n > 0 ? readlink(link, path, sizeof(path)) : 0;
	return n > 0 && len >= n && !memcmp(path + len - n, end, (size_t)n);
}

ssize_t read(int fd, void *buf, size_t size)
{
	ssize_t (*real)(int fd, void *buf, size_t size) = (ssize_t(*)(int, void *, size_t))dlsym(RTLD_NEXT, "read");

	if (fails(fd)) {
		errno = EIO;
		return -1;
	}
	return real(fd, buf, size);
}
