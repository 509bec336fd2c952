/* Part of a cairn-vm whose reads and writes of files without a name fail, which is how one process hands a VM's state
 * and memory to another. FAIL_IO: a file of struct faults, which the test writes before the call that is to fail. The
 * process maps the file before it confines itself. */
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum fault { FAULT_NONE, FAULT_SHORT, FAULT_ERROR, FAULT_END };

struct faults {
	uint32_t fault;
	uint32_t writes;    /* 1: writes fail; 0: reads */
	uint32_t successor; /* 1: in a process that takes a VM over; 0: in others */
	uint32_t error;	    /* errno of FAULT_ERROR */
	uint64_t after;	    /* bytes that come through before FAULT_ERROR and FAULT_END; length of each call of FAULT_SHORT */
	uint64_t bytes;	    /* counted here: bytes that came through */
	uint64_t hits;	    /* counted here: faults */
};

ssize_t __real_read(int fd, void *buf, size_t len);
ssize_t __real_pread(int fd, void *buf, size_t len, off_t off);
ssize_t __real_pwrite(int fd, const void *buf, size_t len, off_t off);
ssize_t __wrap_read(int fd, void *buf, size_t len);
ssize_t __wrap_pread(int fd, void *buf, size_t len, off_t off);
ssize_t __wrap_pwrite(int fd, const void *buf, size_t len, off_t off);

static struct faults *faults;
static uint32_t is_successor;

__attribute__((constructor)) static void faults_map(void)
{
	const char *path = getenv("FAIL_IO");
	int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
	int args = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
	char text[64] = "";

	if (fd >= 0 && args >= 0 && read(args, text, sizeof(text) - 1) > 0) {
		void *at = mmap(NULL, sizeof(*faults), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

		is_successor = !strcmp(text + strlen(text) + 1, "--take-over");
		faults = at == MAP_FAILED ? NULL : at;
	}
	if (fd >= 0)
		close(fd);
	if (args >= 0)
		close(args);
}

/* Return how much of a call comes through; -1: it fails, and errno is set. */
static ssize_t allowed(int fd, size_t len, int writes)
{
	struct stat st;

	if (!faults || faults->fault == FAULT_NONE || faults->writes != (uint32_t)writes ||
		faults->successor != is_successor || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_nlink)
		return (ssize_t)len;
	if (faults->fault == FAULT_SHORT) {
		faults->hits += len > faults->after;
		return (ssize_t)MIN(len, faults->after);
	}
	if (faults->bytes < faults->after) {
		len = MIN(len, faults->after - faults->bytes);
		faults->bytes += len;
		return (ssize_t)len;
	}
	faults->hits++;
	errno = (int)faults->error;
	return faults->fault == FAULT_ERROR ? -1 : 0;
}

ssize_t __wrap_read(int fd, void *buf, size_t len)
{
	ssize_t n = allowed(fd, len, 0);

	return n <= 0 ? n : __real_read(fd, buf, (size_t)n);
}

ssize_t __wrap_pread(int fd, void *buf, size_t len, off_t off)
{
	ssize_t n = allowed(fd, len, 0);

	return n <= 0 ? n : __real_pread(fd, buf, (size_t)n, off);
}

ssize_t __wrap_pwrite(int fd, const void *buf, size_t len, off_t off)
{
	ssize_t n = allowed(fd, len, 1);

	return n <= 0 ? n : __real_pwrite(fd, buf, (size_t)n, off);
}
