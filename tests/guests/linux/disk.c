/* Commands on block devices: info, discard, write zeroes, and a simple benchmark. */
#define _GNU_SOURCE
#include "init.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/aio_abi.h>
#include <linux/cdrom.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define DEPTH_MAX 64
#define BENCH_SPAN_BYTES (1ull << 30) /* range of the disk that the benchmark uses */

static int entry_count(const char *dir)
{
	DIR *d = opendir(dir);
	struct dirent *e;
	int n = 0;

	while (d && (e = readdir(d)))
		n += e->d_name[0] != '.';
	if (d)
		closedir(d);
	return n;
}

static void disk_say(const char *name)
{
	char v[64], path[320];

	say("%s sectors %s", name, line_of(v, sizeof(v), "/sys/block/%s/size", name));
	say(" ro %s", line_of(v, sizeof(v), "/sys/block/%s/ro", name));
	say(" serial %s", *line_of(v, sizeof(v), "/sys/block/%s/serial", name) ? v : "-");
	snprintf(path, sizeof(path), "/sys/block/%s/mq", name);
	say(" queues %d", entry_count(path));
	say(" block %s", line_of(v, sizeof(v), "/sys/block/%s/queue/logical_block_size", name));
	say(" physical %s", line_of(v, sizeof(v), "/sys/block/%s/queue/physical_block_size", name));
	say(" cache %s", strchr(line_of(v, sizeof(v), "/sys/block/%s/queue/write_cache", name), 'b') ? "write-back"
												    : "write-through");
	say(" discard_max %s", line_of(v, sizeof(v), "/sys/block/%s/queue/discard_max_bytes", name));
	say(" discard_granularity %s", line_of(v, sizeof(v), "/sys/block/%s/queue/discard_granularity", name));
	say(" zeroes_max %s\n", line_of(v, sizeof(v), "/sys/block/%s/queue/write_zeroes_max_bytes", name));
}

static int block_run(int argc, char **argv)
{
	DIR *d = opendir("/sys/block");
	struct dirent *e;

	(void)argc, (void)argv;
	if (!d)
		return -errno;
	while ((e = readdir(d)))
		if (e->d_name[0] != '.')
			disk_say(e->d_name);
	closedir(d);
	return 0;
}

static int range_ioctl(char **argv, unsigned long request)
{
	uint64_t range[2];
	int fd, rc;

	if (number(argv[2], &range[0]) || number(argv[3], &range[1]))
		return -1;
	fd = open(argv[1], O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	rc = ioctl(fd, request, range) ? -errno : 0;
	close(fd);
	return rc;
}

static int discard_run(int argc, char **argv)
{
	(void)argc;
	return range_ioctl(argv, BLKDISCARD);
}

static int zeroout_run(int argc, char **argv)
{
	(void)argc;
	return range_ioctl(argv, BLKZEROOUT);
}

static int drive_ioctl(const char *path, unsigned long request, int arg)
{
	int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC), rc; /* non-blocking: without a medium, too */

	if (fd < 0)
		return -errno;
	rc = ioctl(fd, request, arg);
	rc = rc < 0 ? -errno : rc;
	close(fd);
	return rc;
}

static int eject_run(int argc, char **argv)
{
	return drive_ioctl(argv[1], argc > 2 && !strcmp(argv[2], "close") ? CDROMCLOSETRAY : CDROMEJECT, 0);
}

static int tray_run(int argc, char **argv)
{
	int status = drive_ioctl(argv[1], CDROM_DRIVE_STATUS, CDSL_CURRENT);

	(void)argc;
	if (status < 0)
		return status;
	say("%s\n", status == CDS_DISC_OK ? "disc" : status == CDS_NO_DISC ? "empty" : status == CDS_TRAY_OPEN ? "open" : "not ready");
	return 0;
}

/* State of a benchmark: one iocb per slot, each with its own part of guest_io. */
struct bench {
	int fd;
	int write, random;
	uint64_t bs, depth, blocks, next, state;
	uint64_t done, lat_sum_ns, lat_max_ns;
	uint64_t start_ns[DEPTH_MAX];
	struct iocb cb[DEPTH_MAX];
};

static int bench_submit(struct bench *b, aio_context_t ctx, uint64_t slot)
{
	struct iocb *cb = &b->cb[slot], *list = cb;
	uint64_t block = b->next++;

	if (b->random) {
		b->state = b->state * 6364136223846793005u + 1442695040888963407u;
		block = b->state >> 20;
	}
	memset(cb, 0, sizeof(*cb));
	cb->aio_fildes = (uint32_t)b->fd;
	cb->aio_lio_opcode = b->write ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD;
	cb->aio_buf = (uintptr_t)(guest_io + slot * b->bs % (GUEST_IO_BYTES / b->bs * b->bs));
	cb->aio_nbytes = b->bs;
	cb->aio_offset = (int64_t)(block % b->blocks * b->bs);
	cb->aio_data = slot;
	b->start_ns[slot] = now_ns();
	return syscall(SYS_io_submit, ctx, 1, &list) == 1 ? 0 : -errno;
}

static int bench_loop(struct bench *b, aio_context_t ctx, uint64_t end_ns)
{
	struct io_event ev[DEPTH_MAX];
	uint64_t busy = 0;
	int rc = 0;

	for (; busy < b->depth && !rc; busy++)
		rc = bench_submit(b, ctx, busy);
	while (busy) {
		long n = syscall(SYS_io_getevents, ctx, 1, DEPTH_MAX, ev, NULL);
		uint64_t now = now_ns();

		if (n < 0 && errno != EINTR)
			return -errno;
		for (long i = 0; i < n; i++) {
			uint64_t lat = now - b->start_ns[ev[i].data];

			busy--;
			if (ev[i].res != (int64_t)b->bs)
				rc = ev[i].res < 0 ? (int)ev[i].res : -EIO;
			b->done++;
			b->lat_sum_ns += lat;
			b->lat_max_ns = lat > b->lat_max_ns ? lat : b->lat_max_ns;
			if (!rc && now < end_ns) {
				rc = bench_submit(b, ctx, ev[i].data);
				busy += !rc;
			}
		}
	}
	return rc;
}

static int bench_run(int argc, char **argv)
{
	static struct bench b;
	aio_context_t ctx = 0;
	uint64_t secs, bytes = 0, start, spent;
	int rc;

	memset(&b, 0, sizeof(b));
	b.write = !strcmp(argv[2], "write");
	b.random = argc > 6 && !strcmp(argv[6], "random");
	if (number(argv[3], &b.bs) || number(argv[4], &b.depth) || number(argv[5], &secs))
		return -1;
	if (b.bs < 512 || b.bs > GUEST_IO_BYTES || !b.depth || b.depth > DEPTH_MAX)
		return fail("block size is 512 to %d, depth 1 to %d", GUEST_IO_BYTES, DEPTH_MAX);
	b.fd = open(argv[1], (b.write ? O_RDWR : O_RDONLY) | O_DIRECT | O_CLOEXEC);
	if (b.fd < 0)
		return -errno;
	bytes = (uint64_t)lseek(b.fd, 0, SEEK_END);
	b.blocks = (bytes < BENCH_SPAN_BYTES ? bytes : BENCH_SPAN_BYTES) / b.bs;
	if (!b.blocks || syscall(SYS_io_setup, DEPTH_MAX, &ctx)) {
		rc = b.blocks ? -errno : fail("%s is smaller than a block", argv[1]);
		close(b.fd);
		return rc;
	}
	start = now_ns();
	rc = bench_loop(&b, ctx, start + secs * 1000000000u);
	spent = now_ns() - start;
	syscall(SYS_io_destroy, ctx);
	close(b.fd);
	if (b.done && spent)
		say("requests %llu\niops %llu\nkib_per_s %llu\nlatency_avg_us %llu\nlatency_max_us %llu\n",
		    (unsigned long long)b.done, (unsigned long long)(b.done * 1000000000u / spent),
		    (unsigned long long)(b.done * b.bs / 1024 * 1000000 / (spent / 1000 + 1)),
		    (unsigned long long)(b.lat_sum_ns / b.done / 1000), (unsigned long long)(b.lat_max_ns / 1000));
	return rc;
}

const struct command disk_commands[] = {
	{"block", 0, 0, block_run, "block"},
	{"discard", 3, 3, discard_run, "discard DEV OFF LEN"},
	{"zeroout", 3, 3, zeroout_run, "zeroout DEV OFF LEN"},
	{"eject", 1, 2, eject_run, "eject DEV [close]"},
	{"tray", 1, 1, tray_run, "tray DEV"},
	{"bench", 5, 6, bench_run, "bench DEV read|write BLOCK_BYTES DEPTH SECONDS [random]"},
	{0},
};
