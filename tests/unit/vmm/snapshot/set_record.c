/* A part of test_snapshot_set.c: records the changes of the disks, and lets one write fail. */

enum event_kind { EV_WRITE, EV_ZERO, EV_GROW, EV_CUT, EV_SYNC };

struct event {
	enum event_kind kind;
	unsigned disk;
	uint64_t offset, len;
	uint8_t *data;
	size_t covers; /* EV_SYNC: events before this index are durable */
	struct loop_op *op;
	bool done;
};

/* Written by all disks' threads, in the order in which operations took effect. */
static struct {
	pthread_mutex_t lock;
	bool on;
	ino_t inode[DISKS];
	struct event pending[64], *ev;
	size_t npending, n, cap;
} rec = { .lock = PTHREAD_MUTEX_INITIALIZER };

static int disk_of(int fd)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -1;
	for (unsigned i = 0; i < DISKS; i++)
		if (rec.inode[i] == st.st_ino)
			return (int)i;
	return -1;
}

static void event_add(const struct event *ev)
{
	if (rec.n == rec.cap) {
		rec.cap = rec.cap ? 2 * rec.cap : 256;
		rec.ev = realloc(rec.ev, rec.cap * sizeof(*rec.ev));
	}
	rec.ev[rec.n++] = *ev;
}

/* The n-th write to a disk's header, which reaches the file but is reported as failed; with broken_lost the n-th write
 * to the disk, which does not reach the file. */
static unsigned broken_write, broken_disk;
static bool broken_lost;

static void write_break(unsigned disk, int fd, const struct iovec *iov, unsigned niov, uint64_t offset)
{
	if (disk != broken_disk || (offset && !broken_lost) || !broken_write || --broken_write)
		return;
	if (!broken_lost)
		assert_int_equal(syscall(SYS_pwritev, fd, iov, niov, 0, 0), iov->iov_len);
	((struct iovec *)(uintptr_t)iov)->iov_base = NULL;
}

static void on_submit(struct loop_trace *t, struct loop_op *op, enum loop_op_kind kind, int fd,
	const struct iovec *iov, unsigned niov, uint64_t offset, uint64_t len, int mode)
{
	struct event ev = { .op = op, .offset = offset, .len = len };

	(void)t;
	if (kind != LOOP_OP_WRITE && kind != LOOP_OP_SYNC && kind != LOOP_OP_FALLOCATE)
		return;
	pthread_mutex_lock(&rec.lock);
	ev.disk = (unsigned)disk_of(fd);
	ev.covers = rec.n;
	ev.kind = kind == LOOP_OP_SYNC ? EV_SYNC : kind == LOOP_OP_WRITE ? EV_WRITE
		: mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE) ? EV_ZERO : EV_GROW;
	if (kind == LOOP_OP_WRITE) {
		for (unsigned i = 0; i < niov; i++)
			ev.len += iov[i].iov_len;
		ev.data = malloc(ev.len);
		for (unsigned i = 0, at = 0; i < niov; at += (unsigned)iov[i++].iov_len)
			memcpy(ev.data + at, iov[i].iov_base, iov[i].iov_len);
	}
	if (rec.npending == ARRAY_SIZE(rec.pending))
		fail_msg("too much in flight");
	rec.pending[rec.npending++] = ev;
	if (kind == LOOP_OP_WRITE)
		write_break(ev.disk, fd, iov, niov, offset);
	pthread_mutex_unlock(&rec.lock);
}

static void on_complete(struct loop_trace *t, struct loop_op *op, int res)
{
	(void)t;
	pthread_mutex_lock(&rec.lock);
	for (size_t i = 0; i < rec.npending; i++) {
		if (rec.pending[i].op != op)
			continue;
		if (res >= 0)
			event_add(&rec.pending[i]);
		else
			free(rec.pending[i].data);
		rec.pending[i] = rec.pending[--rec.npending];
		break;
	}
	pthread_mutex_unlock(&rec.lock);
}

/* Does this thread perform what on_submit() has recorded? */
static bool thread_is_of_loop(void)
{
	char name[16] = "";

	pthread_getname_np(pthread_self(), name, sizeof(name));
	return !strcmp(name, "loop-io");
}

static void record_call(int fd, enum event_kind kind, uint64_t offset, uint64_t len, const void *data)
{
	struct event ev = { .kind = kind, .offset = offset, .len = len };
	int disk;

	if (thread_is_of_loop())
		return;
	pthread_mutex_lock(&rec.lock);
	disk = rec.on ? disk_of(fd) : -1;
	if (disk >= 0) {
		ev.disk = (unsigned)disk;
		ev.covers = rec.n;
		ev.data = data ? malloc(len) : NULL;
		if (data)
			memcpy(ev.data, data, len);
		event_add(&ev);
	}
	pthread_mutex_unlock(&rec.lock);
}

/* Calls that bypass the loop: replacements of libc's functions. */
ssize_t pwrite(int fd, const void *buf, size_t len, off_t off)
{
	ssize_t n = syscall(SYS_pwrite64, fd, buf, len, off);

	if (n > 0)
		record_call(fd, EV_WRITE, (uint64_t)off, (uint64_t)n, buf);
	return n;
}

int fdatasync(int fd)
{
	int r = (int)syscall(SYS_fdatasync, fd);

	if (!r)
		record_call(fd, EV_SYNC, 0, 0, NULL);
	return r;
}

int ftruncate(int fd, off_t len)
{
	int r = (int)syscall(SYS_ftruncate, fd, len);

	if (!r)
		record_call(fd, EV_CUT, (uint64_t)len, 0, NULL);
	return r;
}

int fallocate(int fd, int mode, off_t off, off_t len)
{
	int r = (int)syscall(SYS_fallocate, fd, mode, off, len);

	if (!r)
		record_call(fd, mode & FALLOC_FL_PUNCH_HOLE ? EV_ZERO : EV_GROW, (uint64_t)off,
			(uint64_t)len, NULL);
	return r;
}
