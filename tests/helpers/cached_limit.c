/* cached_limit: what the kernel needs for blocks of 4 KiB at random places of a file in the page cache: the limit of
 * rows of tests/bench.
 * cached_limit FILE read|write COUNT: Print the ns of COUNT calls of pread() or pwrite(). */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define BLOCK_BYTES 4096

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

int main(int argc, char **argv)
{
	static char block[BLOCK_BYTES] __attribute__((aligned(BLOCK_BYTES)));
	int is_write = argc == 4 && !strcmp(argv[2], "write");
	uint64_t begin, blocks, x = 88172645463325252;
	struct stat st;
	int fd;

	if (argc != 4)
		return 2;
	fd = open(argv[1], O_RDWR | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0 || st.st_size < BLOCK_BYTES) {
		fprintf(stderr, "cached_limit: %s: %s\n", argv[1], strerror(errno));
		return 1;
	}
	blocks = (uint64_t)st.st_size / BLOCK_BYTES;
	memset(block, 0x5a, sizeof(block));
	begin = now_ns();
	for (long n = atol(argv[3]); n > 0; n--) {
		off_t at;

		x ^= x << 13; /* xorshift64 (Marsaglia, 2003) */
		x ^= x >> 7;
		x ^= x << 17;
		at = (off_t)(x % blocks * BLOCK_BYTES);
		if ((is_write ? pwrite(fd, block, BLOCK_BYTES, at) : pread(fd, block, BLOCK_BYTES, at)) != BLOCK_BYTES) {
			fprintf(stderr, "cached_limit: %s: %s\n", argv[2], strerror(errno));
			return 1;
		}
	}
	printf("%llu\n", (unsigned long long)(now_ns() - begin));
	return 0;
}
