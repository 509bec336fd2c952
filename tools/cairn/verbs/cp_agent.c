#include "tools/cairn/verbs/cp.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/file.h"
#include "base/signals.h"
#include "base/tree_stream.h"
#include "base/utf8.h"
#include "base/util.h"
#include "tools/cairn/cli.h"
#include "tools/cairn/guest_session.h"
#include "tools/cairn/guest_stream.h"
#include "tools/cairn/job.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define DRAW_NS 100000000ULL
#define COMPLAINT_BYTES 300

/* A copy, with the guest's message about a fault. */
struct agent_copy {
	bool has_bar;
	uint64_t begun_ns, drawn_ns;
	struct tree_reader reader;
	struct tree_writer writer;
	const char *from;	    /* of the writer; "-": standard input */
	int written;		    /* result of the writer */
	char complaint[COMPLAINT_BYTES + 1];
	size_t complained;
};

/* ---- the progress bar ---- */

static void bar_init(struct agent_copy *k, bool streams)
{
	k->begun_ns = k->drawn_ns = clock_monotonic_ns();
	k->has_bar = isatty(2) && !streams;
}

static void bar_show(struct agent_copy *k, uint64_t done, uint64_t total, bool last)
{
	uint64_t now = clock_monotonic_ns();

	if (!k->has_bar || (now - k->drawn_ns < DRAW_NS && !last) || (last && k->drawn_ns == k->begun_ns))
		return;
	k->drawn_ns = now;
	progress_bar_draw("Copy", done, MAX(total, done), (int64_t)((double)done * 1e9 / (double)(now - k->begun_ns + 1)));
	if (last)
		fputc('\n', stderr);
}

/* ---- both ways ---- */

static void complaint_take(struct agent_copy *k, const uint8_t *data, size_t len)
{
	size_t n = MIN(len, COMPLAINT_BYTES - k->complained);

	memcpy(k->complaint + k->complained, data, n);
	k->complained += n;
	k->complaint[k->complained] = 0;
}

static int ends_open(void)
{
	static const int ends[] = { SIGINT, SIGTERM, 0 };

	signal(SIGPIPE, SIG_IGN);
	return signals_open(ends, NULL);
}

/* Returns 0; -errno with the sentence of the guest, or the one that is there. */
static int session_result(const struct agent_copy *k, const struct guest_session *s, int r, struct err *e)
{
	if (r == -EINTR || s->signal == SIGINT || s->signal == SIGTERM || s->signal == SIGKILL)
		return err_set(e, -EINTR, ERR_CANCELLED, "the copy was cancelled; files that were copied stay");
	if (r < 0)
		return r;
	if (s->failed == AGENT_ERROR_BUSY)
		return err_set(e, -EBUSY, ERR_BUSY, AGENT_BUSY_TEXT);
	if (s->failed)
		return err_set(e, -s->failed, ERR_GENERIC, "cairn-agent in the guest cannot copy: %s", strerror(s->failed));
	if (s->status || s->signal)
		return err_set(e, -EIO, ERR_GENERIC, "in the guest: %s", k->complained ? k->complaint : "no reason given");
	return 0;
}

static int session_run(struct cli *c, struct agent_copy *k, struct guest_session *s, const struct guest_link *link, struct err *e)
{
	int r;

	s->deadline_ns = UINT64_MAX;
	s->opaque = k;
	r = session_result(k, s, guest_session_run(s, link, e), e);
	close(s->signals);
	c->interrupted = s->ended_by == SIGINT;
	return r;
}

static int fault_sentence(const struct tree_fault *f, int r, struct err *e)
{
	if (f->error)
		return err_set_errno(e, -f->error, "%s", f->name);
	return err_set(e, r, ERR_GENERIC, "cairn-agent in the guest sent a malformed or incomplete tree");
}

/* ---- into the guest ---- */

static void written(struct tree_writer *w)
{
	bar_show(w->opaque, w->done, w->total, false);
}

static void *write_run(void *opaque)
{
	struct agent_copy *k = opaque;

	k->written = strcmp(k->from, "-") ? tree_write(&k->writer, k->from) : tree_write_fd(&k->writer, 0);
	close(k->writer.fd);
	return NULL;
}

static int ignore_output(void *opaque, bool is_error, uint8_t *data, size_t len, struct err *e)
{
	(void)e;
	if (is_error)
		complaint_take(opaque, data, len);
	return 0;
}

int cp_agent_send(struct cli *c, const struct guest_link *link, const char *from, const char *there, const char *name, struct err *e)
{
	static struct agent_start start;
	static struct agent_copy k;
	struct guest_session s = { .start = &start, .output = ignore_output };
	pthread_t thread;
	int p[2], r;

	k.from = from;
	start = (struct agent_start){ .flags = AGENT_START_INPUT | AGENT_START_RECEIVE, .folder = "", .nargs = 2, .words = { there, name } };
	if (strcmp(from, "-") && access(from, R_OK) < 0)
		return err_set_errno(e, -errno, "cannot open %s", from);
	if (pipe2(p, O_CLOEXEC) < 0)
		return err_set_errno(e, -errno, "pipe");
	k.writer = (struct tree_writer){ .fd = p[1], .progress = written, .opaque = &k };
	s.in = p[0];
	s.signals = ends_open(); /* before the thread, which must not get them */
	bar_init(&k, !strcmp(from, "-"));
	r = pthread_create(&thread, NULL, write_run, &k);
	if (r) {
		close(p[0]);
		close(p[1]);
		return err_set_errno(e, -r, "thread");
	}
	r = session_run(c, &k, &s, link, e);
	close(p[0]); /* ends the writer */
	if (r < 0 && !strcmp(from, "-"))
		return r; /* the thread may block on standard input for ever */
	pthread_join(thread, NULL);
	bar_show(&k, k.writer.done, k.writer.total, true);
	/* A read error here causes the guest's error, so report it. EPIPE: the guest's error comes first. */
	if (k.written < 0 && k.written != -EPIPE)
		return fault_sentence(&k.writer.fault, k.written, e);
	if (!r && k.writer.skipped)
		fprintf(stderr, "warning: %llu sockets, pipes or devices were not copied\n", (unsigned long long)k.writer.skipped);
	return r;
}

/* ---- out of the guest ---- */

static int tree_take(void *opaque, bool is_error, uint8_t *data, size_t len, struct err *e)
{
	struct agent_copy *k = opaque;
	int r;

	if (is_error) {
		complaint_take(k, data, len);
		return 0;
	}
	r = tree_reader_take(&k->reader, data, len);
	bar_show(k, k->reader.done, k->reader.total, false);
	return r < 0 ? fault_sentence(&k->reader.fault, r, e) : 0;
}

int cp_data_write(int fd, const uint8_t *data, size_t len)
{
	static struct utf8_stream shown;
	uint8_t part[4096];
	int r = 0;

	if (!isatty(fd))
		return write_full(fd, data, len);
	for (size_t n; !r && len; data += n, len -= n) {
		n = MIN(len, sizeof(part));
		memcpy(part, data, n);
		guest_stream_hide_controls((char *)part, n, &shown);
		r = write_full(fd, part, n);
	}
	return r;
}

int cp_agent_receive(struct cli *c, const struct guest_link *link, const char *there, const char *to, bool nofollow, struct err *e)
{
	static struct agent_start start;
	static struct agent_copy k;
	struct guest_session s = { .start = &start, .output = tree_take, .in = -1 };
	mode_t mask = umask(0);
	int r, end;

	umask(mask);
	start = (struct agent_start){ .flags = AGENT_START_SEND, .folder = "", .nargs = 1, .words = { there } };
	tree_reader_init(&k.reader, to, strcmp(to, "-") ? -1 : 1);
	k.reader.mask = mask;
	k.reader.nofollow = nofollow;
	k.reader.write = cp_data_write;
	bar_init(&k, !strcmp(to, "-"));
	s.signals = ends_open();
	r = session_run(c, &k, &s, link, e);
	end = tree_reader_end(&k.reader);
	bar_show(&k, k.reader.done, k.reader.total, true);
	if (!r && end < 0)
		return fault_sentence(&k.reader.fault, end, e);
	return r;
}
