/* cairn-log: reads the log lines of VM processes from pipes, and appends them to the files "log" in the VMs' folders.
 * cairnd runs it and sends it the pipes (api/vm/vm_log.h). It ends when cairnd and all writers have ended.
 *
 * The writers are not trusted: of a VM, a file has at most FILE_BYTES, and one older file ("log.1") stays; a writer
 * may write BURST_BYTES at once, and RATE_BYTES a second from then on. Control characters become question marks. */
#include "api/vm/vm_log.h"
#include "base/channel.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/file.h"
#include "base/lockdown.h"
#include "base/program.h"
#include "base/utf8.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define FILE_BYTES (4 * MIB)
#define BURST_BYTES (4 * MIB)
#define RATE_BYTES (64 * KIB)
#define CHUNK_BYTES (64 * KIB)
#define SECOND_NS 1000000000ULL
#define TELL_NS (60 * SECOND_NS)
#define EVENTS 64

struct writer {
	struct writer *next; /* of the pipes that are held back */
	int pipe, folder;
	uint64_t credit, since_ns; /* bytes that may be read, and when they were counted */
	uint64_t told_ns; /* when a line reported that the writer is held back; 0: never */
	struct utf8_stream text;
	char name[VM_LOG_NAME_MAX + 1];
};

/* With poll(), which looks at all pipes for each line, 3,000 starts of VMs were twice as long. */
static int epoll_fd;
static bool has_daemon = true;
static size_t nwriters;
static struct writer *held_back; /* first of the writers without credit, which are not polled, so their pipes fill */
static char chunk[CHUNK_BYTES];

/* Returns the file, with room for n bytes; -1: none, because the VM is being removed, or the file system is full. */
static int file_open(int folder, size_t n)
{
	int fd = openat(folder, "log", O_WRONLY | O_APPEND | O_NOFOLLOW | O_CLOEXEC);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0 || (uint64_t)st.st_size + n <= FILE_BYTES ||
		renameat(folder, "log", folder, "log.1") < 0)
		return fd;
	close(fd);
	return openat(folder, "log", O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
}

static void lines_append(const struct writer *w, const char *text, size_t n)
{
	int fd = file_open(w->folder, n);

	if (fd < 0)
		return;
	(void)!write_full(fd, text, n); /* no place is left to report a failure */
	close(fd);
}

static void hold_back_log(struct writer *w, uint64_t now)
{
	char line[VM_LOG_NAME_MAX + 160];
	time_t s = time(NULL);
	struct tm tm;
	int n;

	if (w->told_ns && now - w->told_ns < TELL_NS)
		return;
	w->told_ns = now;
	gmtime_r(&s, &tm);
	n = snprintf(line, sizeof(line), "%04d-%02d-%02dT%02d:%02d:%02d.000Z warning %s: the process writes more than %u KiB of "
		"lines in a second: further ones are lost\n", tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min,
		tm.tm_sec, w->name, (unsigned)(RATE_BYTES / KIB));
	lines_append(w, line, (size_t)n);
}

static void credit_renew(struct writer *w, uint64_t now)
{
	uint64_t more = (now - w->since_ns) / SECOND_NS * RATE_BYTES;

	if (!more)
		return;
	w->credit = MIN(w->credit + more, (uint64_t)BURST_BYTES);
	w->since_ns += more / RATE_BYTES * SECOND_NS;
}

/* Returns whether the pipe has not ended. */
static bool writer_read(struct writer *w, uint64_t now)
{
	ssize_t n;

	credit_renew(w, now);
	n = read(w->pipe, chunk, MIN((uint64_t)CHUNK_BYTES, w->credit));
	if (n <= 0)
		return n < 0 && (errno == EAGAIN || errno == EINTR);
	w->credit -= (uint64_t)n;
	utf8_stream_clean(&w->text, chunk, (size_t)n, "\n\t"); /* a terminal must obey nothing in a log */
	lines_append(w, chunk, (size_t)n);
	if (!w->credit)
		hold_back_log(w, now);
	return true;
}

static int fd_poll(int fd, struct writer *w)
{
	struct epoll_event ev = { .events = EPOLLIN, .data.ptr = w };

	return epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &ev);
}

static void writer_remove(struct writer *w)
{
	epoll_ctl(epoll_fd, EPOLL_CTL_DEL, w->pipe, NULL); /* close() is not enough, because cairnd has the pipe, too */
	close(w->pipe);
	close(w->folder);
	free(w);
	nwriters--;
}

static void writer_add(struct channel_msg *m, uint64_t now)
{
	struct writer *w = m->nfds == 2 ? malloc(sizeof(*w)) : NULL;

	if (!w) {
		channel_msg_close_fds(m);
		return;
	}
	*w = (struct writer){ .pipe = m->fds[0], .folder = m->fds[1], .credit = BURST_BYTES, .since_ns = now };
	memcpy(w->name, m->body, m->head.body_bytes);
	nwriters++;
	if (fd_poll(w->pipe, w) < 0)
		writer_remove(w);
}

/* Returns whether cairnd lives. */
static bool messages_read(uint64_t now)
{
	static const struct channel_type types[] = {
		[VM_LOG_PIPE] = { .body_min = 1, .body_max = VM_LOG_NAME_MAX, .fds_max = 2, .known = true },
	};
	static _Alignas(8) char buf[CHANNEL_BODY_MAX];
	struct channel_msg m;
	int r;

	while ((r = channel_recv(VM_LOG_FD, VM_LOG_VERSION, types, ARRAY_SIZE(types), buf, &m)) > 0)
		writer_add(&m, now);
	return r == -EAGAIN || r == -EINTR || r == -EPROTO || r == -EPROTONOSUPPORT;
}

static void writer_hold_back(struct writer *w)
{
	epoll_ctl(epoll_fd, EPOLL_CTL_DEL, w->pipe, NULL);
	w->next = held_back;
	held_back = w;
}

/* Poll those again that have credit. */
static void held_back_poll(uint64_t now)
{
	struct writer **at = &held_back, *w;

	while ((w = *at)) {
		credit_renew(w, now);
		if (!w->credit) {
			at = &w->next;
			continue;
		}
		*at = w->next;
		if (fd_poll(w->pipe, w) < 0)
			writer_remove(w);
	}
}

static void writer_serve(struct writer *w, uint64_t now)
{
	if (!writer_read(w, now))
		writer_remove(w);
	else if (!w->credit)
		writer_hold_back(w);
}

/* Wait for lines, and write them. Returns false at the end. */
static bool round_run(void)
{
	struct epoll_event events[EVENTS];
	int n = epoll_wait(epoll_fd, events, EVENTS, held_back ? 1000 : -1);
	uint64_t now = clock_ns(CLOCK_MONOTONIC);
	bool asked = false;

	if (n < 0)
		return errno == EINTR;
	held_back_poll(now);
	for (int i = 0; i < n; i++)
		if (events[i].data.ptr)
			writer_serve(events[i].data.ptr, now);
		else
			asked = true;
	if (asked && !messages_read(now)) {
		has_daemon = false;
		epoll_ctl(epoll_fd, EPOLL_CTL_DEL, VM_LOG_FD, NULL);
	}
	return has_daemon || nwriters;
}

static int sandbox_enter(struct err *e)
{
	static const int allowed[] = { SYS_read, SYS_write, SYS_epoll_wait, SYS_epoll_pwait, SYS_epoll_ctl, SYS_recvmsg, SYS_openat, SYS_renameat, SYS_renameat2,
		SYS_fstat, SYS_newfstatat, SYS_close, SYS_brk, SYS_mmap, SYS_munmap, SYS_mremap, SYS_madvise, SYS_getrandom,
		SYS_clock_gettime, SYS_futex, SYS_exit_group, SYS_rt_sigreturn, SYS_restart_syscall };
	struct call_filter f;
	int r = lockdown_begin(0, NULL, 0, e);

	if (r < 0)
		return r;
	call_filter_init(&f);
	call_filter_calls(&f, SECCOMP_RET_ALLOW, allowed, ARRAY_SIZE(allowed));
	return lockdown_calls(&f, SECCOMP_RET_KILL_PROCESS, false, e);
}

/* Each writer takes two files. */
static void files_raise(void)
{
	struct rlimit l;

	if (getrlimit(RLIMIT_NOFILE, &l) < 0)
		return;
	l.rlim_cur = l.rlim_max;
	setrlimit(RLIMIT_NOFILE, &l);
}

int main(void)
{
	struct err e;

	if (program_begin(&e) < 0)
		return 1;
	epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (epoll_fd < 0 || fd_poll(VM_LOG_FD, NULL) < 0)
		return 1;
	signal(SIGHUP, SIG_IGN);
	files_raise();
	if (sandbox_enter(&e) < 0)
		return 1;
	while (round_run())
		;
	return 0;
}
