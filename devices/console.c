#include "devices/console.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"
#include "snapshot/state.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define STDIO_CHUNK_BYTES 4096
#define SOCKET_CHUNK_BYTES 16384
/* How long the bytes of a serial port, which come one by one, wait for the end of their line. Waking the loop for
 * each took as long as the guest's own work. In the emulated host, SeaBIOS, which writes 150, took 266 ms to a boot
 * sector with it, and 244 ms without (measured by turns on an idle host). */
#define REST_NS 1000000ULL
/* While the guest writes on, each wait is twice as long as the last one, up to this, which is as short as a frame on a
 * screen. SeaBIOS took 256 ms then, and 275 with waits of 1 ms (by turns at load 16, faster in 14 of 15). */
#define REST_MAX_NS 16000000ULL

/* An attached reader. Positions count output bytes since the console's creation, so the lag is a
 * difference. */
struct reader {
	struct console *console;
	struct reader *next;
	uint64_t pos; /* next byte to send */
	int in_fd, out_fd; /* both are the same fd for a socket */
	bool is_socket;	   /* the reader is a socket, and the console owns its fd */
	struct console_user who; /* of a socket */
	struct loop_watch *watch;    /* socket: input and output; stdio: input */
	bool wants_out;		     /* wait for POLLOUT: the socket was full, or output is left */
	bool ending;		     /* the socket's input has ended: detach when the output before end_pos is sent */
	uint64_t end_pos;
	/* Output to stdio is an operation of the loop, because write(2) on a terminal may block. */
	struct loop_op write_op;
	struct iovec write_iov;
	bool writing, dead;
	char *chunk; /* STDIO_CHUNK_BYTES copied from the history for write_op */
	size_t note_len, note_pos;
	char note[CONSOLE_NOTE_BYTES]; /* note about lost output, sent before further output */
};

struct console {
	struct loop *loop;
	char name[32];
	struct reader *readers; /* used on the loop only */
	unsigned nreaders;
	bool input_paused, held; /* used on the loop only */
	bool lossless, room_wanted; /* used on the loop only */

	pthread_mutex_t lock; /* protects all fields below */
	uint64_t head;	      /* bytes ever written */
	uint64_t flushed;     /* the value of head at the last flush */
	bool flush_posted, resume_posted, has_readers;
	bool rests; /* rest_timer is armed: it flushes bytes that are not the end of a line */
	uint64_t rest_ns; /* the next wait of such bytes; used on the loop only */
	unsigned in_start, in_len;
	void (*input_ready)(void *opaque);
	void *input_opaque;
	struct loop_task flush_task, resume_task;
	struct loop_timer *rest_timer;
	char *history; /* CONSOLE_HISTORY_BYTES; mmap()ed, so that an unused console costs no memory */
	char input[CONSOLE_INPUT_BYTES];
};

/* ---- output ---- */

void console_write(struct console *c, const void *buf, size_t len)
{
	const char *p = buf;
	bool post, waits = len == 1 && *p != '\n';

	pthread_mutex_lock(&c->lock);
	if (len > CONSOLE_HISTORY_BYTES) {
		c->head += len - CONSOLE_HISTORY_BYTES;
		p += len - CONSOLE_HISTORY_BYTES;
		len = CONSOLE_HISTORY_BYTES;
	}
	while (len) {
		size_t at = c->head % CONSOLE_HISTORY_BYTES;
		size_t n = MIN(len, CONSOLE_HISTORY_BYTES - at);

		memcpy(c->history + at, p, n);
		c->head += n;
		p += n;
		len -= n;
	}
	post = c->has_readers && !c->flush_posted && !(waits && c->rests);
	c->flush_posted |= post;
	pthread_mutex_unlock(&c->lock);
	if (post)
		loop_post(c->loop, &c->flush_task);
}

void console_set_lossless(struct console *c)
{
	c->lossless = true;
}

bool console_has_room(struct console *c, size_t len)
{
	uint64_t behind = 0;

	if (!c->lossless)
		return true;
	pthread_mutex_lock(&c->lock);
	for (const struct reader *r = c->readers; r; r = r->next)
		behind = MAX(behind, c->head - r->pos);
	pthread_mutex_unlock(&c->lock);
	c->room_wanted = behind + MIN(len, (size_t)CONSOLE_HISTORY_BYTES) > CONSOLE_HISTORY_BYTES;
	return !c->room_wanted;
}

/* Tell the device that readers have taken output, if it waits for that. */
static void room_notify(struct console *c)
{
	void (*ready)(void *opaque);
	void *opaque;

	if (!c->room_wanted)
		return;
	c->room_wanted = false;
	pthread_mutex_lock(&c->lock);
	ready = c->input_ready;
	opaque = c->input_opaque;
	pthread_mutex_unlock(&c->lock);
	if (ready)
		ready(opaque);
}

/* Copy up to max bytes for this reader and note lost output. Returns the number of bytes. */
static size_t reader_fetch(struct reader *r, char *dst, size_t max)
{
	struct console *c = r->console;
	uint64_t behind;
	size_t n, at, first;

	pthread_mutex_lock(&c->lock);
	behind = c->head - r->pos;
	if (behind > CONSOLE_HISTORY_BYTES) {
		uint64_t lost = behind - CONSOLE_HISTORY_BYTES;

		r->pos += lost;
		r->note_pos = 0;
		r->note_len = (size_t)snprintf(r->note, sizeof(r->note),
			"\r\n[console: %llu bytes of output lost]\r\n", (unsigned long long)lost);
	}
	if (r->note_pos < r->note_len) {
		n = MIN(max, r->note_len - r->note_pos);
		memcpy(dst, r->note + r->note_pos, n);
		pthread_mutex_unlock(&c->lock);
		return n;
	}
	n = (size_t)MIN(c->head - r->pos, (uint64_t)max);
	at = r->pos % CONSOLE_HISTORY_BYTES;
	first = MIN(n, CONSOLE_HISTORY_BYTES - at);
	memcpy(dst, c->history + at, first);
	memcpy(dst + first, c->history, n - first);
	pthread_mutex_unlock(&c->lock);
	return n;
}

static void reader_advance(struct reader *r, size_t n)
{
	if (r->note_pos < r->note_len)
		r->note_pos += n;
	else
		r->pos += n;
}

static void reader_free(struct reader *r)
{
	loop_unwatch(r->watch);
	r->watch = NULL;
	/* A write to the terminal is still in progress and may use the buffer. Leak the reader; the process is about to
	 * end. */
	if (r->writing)
		return;
	if (r->is_socket)
		close(r->in_fd);
	free(r->chunk);
	free(r);
}

static void reader_detach(struct reader *r)
{
	struct console *c = r->console;

	for (struct reader **p = &c->readers; *p; p = &(*p)->next) {
		if (*p == r) {
			*p = r->next;
			break;
		}
	}
	c->nreaders--;
	pthread_mutex_lock(&c->lock);
	c->has_readers = c->nreaders;
	pthread_mutex_unlock(&c->lock);
	reader_free(r);
	room_notify(c);
}

static unsigned reader_events(const struct reader *r)
{
	unsigned in = r->console->input_paused || r->ending ? 0 : POLLIN;

	return in | (r->is_socket && r->wants_out ? POLLOUT : 0);
}

static void reader_update_watch(struct reader *r)
{
	if (r->watch)
		loop_watch_events(r->watch, reader_events(r));
}

/* Send pending output. Returns false when the reader has disconnected. */
static bool socket_flush(struct reader *r)
{
	char buf[SOCKET_CHUNK_BYTES];
	bool moved = false;
	size_t n = 0;

	/* Bounded, because a guest that never stops writing and a fast reader would occupy the
	 * loop. */
	for (unsigned round = 0; round <= CONSOLE_HISTORY_BYTES / SOCKET_CHUNK_BYTES; round++) {
		n = reader_fetch(r, buf, sizeof(buf));
		if (!n)
			break;
		ssize_t s = send(r->out_fd, buf, n, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (s < 0 && errno == EINTR)
			continue;
		if (s < 0 && errno != EAGAIN) {
			reader_detach(r);
			return false;
		}
		if (s > 0)
			reader_advance(r, (size_t)s);
		moved |= s > 0;
		if (s < (ssize_t)n)
			break;
	}
	if (r->ending && r->pos >= r->end_pos && r->note_pos == r->note_len) {
		reader_detach(r);
		return false;
	}
	r->wants_out = n; /* the socket is full, or the loop's next round sends the rest */
	reader_update_watch(r);
	if (moved)
		room_notify(r->console);
	return true;
}

/* The client has closed its side for writing, or all of the socket: send the output so far, then detach. Returns false
 * when the reader is gone. */
static bool socket_input_ended(struct reader *r)
{
	if (!r->ending) {
		LOCK_GUARD(&r->console->lock);
		r->ending = true;
		r->end_pos = r->console->head;
	}
	return socket_flush(r);
}

static void stdio_flush(struct reader *r)
{
	size_t n;

	if (r->writing || r->dead || r->out_fd < 0)
		return;
	n = reader_fetch(r, r->chunk, STDIO_CHUNK_BYTES);
	if (!n)
		return;
	r->writing = true;
	r->write_iov = (struct iovec){ .iov_base = r->chunk, .iov_len = n };
	/* Offset -1: the file's current position. */
	loop_writev(r->console->loop, &r->write_op, r->out_fd, &r->write_iov, 1, UINT64_MAX);
}

static void stdio_written(struct loop_op *op, int res)
{
	struct reader *r = container_of(op, struct reader, write_op);

	r->writing = false;
	if (res == -EINTR || res == -EAGAIN) {
		res = 0;
	} else if (res < 0) {
		log_warn(r->console->name, "writing to the terminal: %s; output is dropped",
			strerror(-res));
		r->dead = true;
	}
	if (res > 0)
		reader_advance(r, (size_t)res);
	stdio_flush(r);
}

/* Send the readers the output that they have not received. Bytes that come one by one wait for rest_ns from now on. */
static void output_flush(struct console *c)
{
	struct reader *r = c->readers, *next;

	pthread_mutex_lock(&c->lock);
	c->rests = true;
	c->flushed = c->head;
	pthread_mutex_unlock(&c->lock);
	loop_timer_arm(c->rest_timer, loop_now_ns() + c->rest_ns);
	for (; r; r = next) {
		next = r->next;
		if (!r->is_socket)
			stdio_flush(r);
		else if (!r->wants_out)
			socket_flush(r);
	}
}

static void flush_run(struct loop_task *t)
{
	struct console *c = container_of(t, struct console, flush_task);

	/* Clear the flag first, so that output from now on posts the task again. */
	pthread_mutex_lock(&c->lock);
	c->flush_posted = false;
	pthread_mutex_unlock(&c->lock);
	output_flush(c);
}

static void rest_over(void *opaque)
{
	struct console *c = opaque;
	bool more;

	pthread_mutex_lock(&c->lock);
	c->rests = false;
	more = c->head != c->flushed;
	pthread_mutex_unlock(&c->lock);
	c->rest_ns = more ? MIN(2 * c->rest_ns, REST_MAX_NS) : REST_NS;
	if (more)
		output_flush(c);
}

/* ---- input ---- */

size_t console_read(struct console *c, void *buf, size_t max)
{
	char *dst = buf;
	size_t n = 0;
	bool post;

	pthread_mutex_lock(&c->lock);
	for (; n < max && c->in_len; n++) {
		dst[n] = c->input[c->in_start];
		c->in_start = (c->in_start + 1) % CONSOLE_INPUT_BYTES;
		c->in_len--;
	}
	post = n && !c->resume_posted && c->in_len <= CONSOLE_INPUT_BYTES / 2 &&
		c->in_len + n > CONSOLE_INPUT_BYTES / 2;
	c->resume_posted |= post;
	pthread_mutex_unlock(&c->lock);
	if (post)
		loop_post(c->loop, &c->resume_task);
	return n;
}

static void input_set_paused(struct console *c, bool paused)
{
	if (c->input_paused == paused)
		return;
	c->input_paused = paused;
	for (struct reader *r = c->readers; r; r = r->next)
		reader_update_watch(r);
}

static void resume_run(struct loop_task *t)
{
	struct console *c = container_of(t, struct console, resume_task);

	pthread_mutex_lock(&c->lock);
	c->resume_posted = false;
	pthread_mutex_unlock(&c->lock);
	input_set_paused(c, false);
}

static size_t input_room(struct console *c)
{
	LOCK_GUARD(&c->lock);
	return CONSOLE_INPUT_BYTES - c->in_len;
}

static void input_push(struct console *c, const char *p, size_t n)
{
	void (*ready)(void *opaque);
	void *opaque;

	pthread_mutex_lock(&c->lock);
	while (n-- && c->in_len < CONSOLE_INPUT_BYTES) {
		c->input[(c->in_start + c->in_len) % CONSOLE_INPUT_BYTES] = *p++;
		c->in_len++;
	}
	ready = c->input_ready;
	opaque = c->input_opaque;
	pthread_mutex_unlock(&c->lock);
	if (ready)
		ready(opaque);
	if (!input_room(c))
		input_set_paused(c, true);
}

/* Read a reader's input. Returns false when the reader has disconnected. */
static bool reader_input(struct reader *r)
{
	char buf[CONSOLE_INPUT_BYTES];
	size_t room = input_room(r->console);
	ssize_t n;

	if (!room) {
		input_set_paused(r->console, true);
		return true;
	}
	n = read(r->in_fd, buf, MIN(room, sizeof(buf)));
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return true;
	if (n > 0) {
		input_push(r->console, buf, (size_t)n);
		return true;
	}
	if (n < 0 && r->is_socket) {
		reader_detach(r);
		return false;
	}
	if (r->is_socket)
		return socket_input_ended(r);
	/* End of file on stdin ends only the input. */
	loop_unwatch(r->watch);
	r->watch = NULL;
	return true;
}

static void reader_ready(void *opaque, unsigned revents)
{
	struct reader *r = opaque;

	if ((revents & POLLOUT) && r->is_socket && !socket_flush(r))
		return;
	if (revents & (POLLIN | POLLHUP | POLLERR))
		reader_input(r);
}

void console_set_device(struct console *c, void (*input_ready)(void *opaque), void *opaque)
{
	LOCK_GUARD(&c->lock);
	c->input_ready = input_ready;
	c->input_opaque = opaque;
}

/* ---- attaching readers ---- */

static void console_link(struct console *c, struct reader *r, bool history)
{
	r->next = c->readers;
	c->readers = r;
	c->nreaders++;
	LOCK_GUARD(&c->lock);
	c->has_readers = true;
	r->pos = c->head;
	if (history)
		r->pos -= MIN(c->head, (uint64_t)CONSOLE_HISTORY_BYTES);
}

static struct reader *reader_new(struct console *c, int in_fd, int out_fd, struct err *e)
{
	struct reader *r;

	if (c->nreaders >= CONSOLE_READERS_MAX) {
		err_set(e, -EMFILE, ERR_BUSY, "console %s: %u clients are attached, the limit; detach "
			"one first", c->name,
			c->nreaders);
		return NULL;
	}
	r = calloc(1, sizeof(*r));
	if (!r) {
		err_set_errno(e, -ENOMEM, "console %s", c->name);
		return NULL;
	}
	r->console = c;
	r->in_fd = in_fd;
	r->out_fd = out_fd;
	r->write_op.done = stdio_written;
	return r;
}

/* Attach a socket. Returns its reader, which has sent nothing; NULL with *e set. */
static struct reader *socket_attach(struct console *c, int fd, bool history, struct err *e)
{
	struct reader *r = reader_new(c, fd, fd, e);
	int fl = fcntl(fd, F_GETFL), ret;

	if (!r)
		return NULL;
	if (fl < 0 || fcntl(fd, F_SETFL, fl | O_NONBLOCK) < 0)
		ret = -errno;
	else
		ret = loop_watch(c->loop, fd, c->input_paused ? 0 : POLLIN, reader_ready, r,
			&r->watch);
	if (ret) {
		free(r);
		err_set_errno(e, ret, "console %s", c->name);
		return NULL;
	}
	r->is_socket = true;
	console_link(c, r, history);
	return r;
}

/* Leave room for other users. */
static int user_check(const struct console *c, struct console_user who, struct err *e)
{
	unsigned n = 0;

	for (const struct reader *r = c->readers; r; r = r->next)
		n += r->is_socket && r->who.user == who.user;
	/* The VM's filter of system calls forbids getuid(). */
	if (n < CONSOLE_USER_MAX || who.user <= 1 || who.user == 1 + getauxval(AT_UID))
		return 0;
	return err_set(e, -EMFILE, ERR_BUSY, "console %s: %u of your clients are attached, the limit of a user; detach one first", c->name, n);
}

int console_attach(struct console *c, int fd, bool history, struct console_user who, struct err *e)
{
	int ret = user_check(c, who, e);
	struct reader *r = ret ? NULL : socket_attach(c, fd, history, e);

	if (ret)
		return ret;
	if (!r)
		return c->nreaders >= CONSOLE_READERS_MAX ? -EMFILE : -ENOMEM;
	r->who = who;
	socket_flush(r);
	return 0;
}

void console_end(struct console *c, bool (*stays)(const void *opaque, struct console_user who), const void *opaque)
{
	struct reader *next;

	for (struct reader *r = c ? c->readers : NULL; r; r = next) {
		next = r->next;
		if (r->is_socket && !stays(opaque, r->who))
			reader_detach(r);
	}
}

int console_attach_stdio(struct console *c, int in_fd, int out_fd, struct err *e)
{
	struct reader *r = reader_new(c, in_fd, out_fd, e);
	int ret = 0;

	if (!r)
		return c->nreaders >= CONSOLE_READERS_MAX ? -EMFILE : -ENOMEM;
	r->chunk = malloc(STDIO_CHUNK_BYTES);
	if (!r->chunk)
		ret = -ENOMEM;
	else if (in_fd >= 0)
		ret = loop_watch(c->loop, in_fd, POLLIN, reader_ready, r, &r->watch);
	if (ret) {
		free(r->chunk);
		free(r);
		return err_set_errno(e, ret, "console %s", c->name);
	}
	console_link(c, r, true);
	stdio_flush(r);
	return 0;
}

/* ---- a console that another process continues ---- */

void console_hold(struct console *c)
{
	if (!c)
		return;
	c->held = true;
	for (struct reader *r = c->readers; r; r = r->next) {
		loop_unwatch(r->watch);
		r->watch = NULL;
	}
}

void console_release(struct console *c)
{
	struct reader *r, *next;

	if (!c || !c->held)
		return;
	c->held = false;
	for (r = c->readers; r; r = next) {
		next = r->next;
		if (loop_watch(c->loop, r->in_fd, reader_events(r), reader_ready, r, &r->watch) < 0)
			reader_detach(r);
	}
}

/* Return the number of contiguous bytes in the history from offset `from` of the kept output on, and set *at to the
 * first of them. */
static size_t history_part(struct console *c, uint64_t from, char **at)
{
	size_t offset = from % CONSOLE_HISTORY_BYTES;

	*at = c->history + offset;
	return (size_t)MIN(c->head - from, (uint64_t)(CONSOLE_HISTORY_BYTES - offset));
}

static uint64_t history_start(const struct console *c)
{
	return c->head - MIN(c->head, (uint64_t)CONSOLE_HISTORY_BYTES);
}

void console_save(struct console *c, struct state_writer *w)
{
	LOCK_GUARD(&c->lock);
	size_t n;
	char *at;

	state_put_u64(w, c->head);
	for (uint64_t from = history_start(c); from < c->head; from += n) {
		n = history_part(c, from, &at);
		state_put_bytes(w, at, n);
	}
	state_put_u32(w, c->in_len);
	for (unsigned i = 0; i < c->in_len; i++)
		state_put_u8(w, (uint8_t)c->input[(c->in_start + i) % CONSOLE_INPUT_BYTES]);
}

void console_load(struct console *c, struct state_reader *r)
{
	char input[CONSOLE_INPUT_BYTES], *at;
	size_t n;

	pthread_mutex_lock(&c->lock);
	c->head = state_u64(r);
	for (uint64_t from = history_start(c); from < c->head; from += n) {
		n = history_part(c, from, &at);
		state_bytes(r, at, n);
	}
	pthread_mutex_unlock(&c->lock);
	n = state_u32(r);
	if (n > sizeof(input))
		r->failed = true;
	else
		state_bytes(r, input, n);
	if (!r->failed)
		input_push(c, input, n);
}

unsigned console_clients(struct console *c, struct console_client *ret)
{
	unsigned n = 0;

	output_flush(c); /* the queued output; afterwards, the other process sends to the clients */
	for (struct reader *r = c->readers; r; r = r->next) {
		if (!r->is_socket)
			continue;
		ret[n] = (struct console_client){ .fd = r->out_fd, .sent = r->pos, .who = r->who };
		memcpy(ret[n++].note, r->note + r->note_pos, r->note_len - r->note_pos);
	}
	return n;
}

int console_attach_client(struct console *c, const struct console_client *client, struct err *e)
{
	size_t len = strnlen(client->note, sizeof(client->note));
	struct reader *r;

	if (client->sent > console_written(c) || len == sizeof(client->note))
		return err_set(e, -EINVAL, ERR_INVALID, "console %s: a client's position is malformed", c->name);
	r = socket_attach(c, client->fd, false, e);
	if (!r)
		return c->nreaders >= CONSOLE_READERS_MAX ? -EMFILE : -ENOMEM;
	r->who = client->who;
	r->pos = client->sent;
	r->note_len = len;
	memcpy(r->note, client->note, len);
	socket_flush(r);
	return 0;
}

unsigned console_readers(struct console *c)
{
	return c->nreaders;
}

unsigned long long console_written(struct console *c)
{
	unsigned long long head;

	LOCK_GUARD(&c->lock);
	head = c->head;
	return head;
}

static bool console_has_unsent(struct console *c)
{
	uint64_t head = console_written(c);

	for (struct reader *r = c->readers; r; r = r->next) {
		if (r->dead || r->out_fd < 0)
			continue;
		if (r->writing || r->pos != head || r->note_pos < r->note_len)
			return true;
	}
	return false;
}

void console_drain(struct console *c, unsigned long long timeout_ns)
{
	uint64_t end = loop_now_ns() + timeout_ns, now;

	output_flush(c);
	while (console_has_unsent(c) && (now = loop_now_ns()) < end)
		loop_run_once(c->loop, end - now);
}

int console_new(struct loop *l, const char *name, struct console **ret_c, struct err *e)
{
	struct console *c = calloc(1, sizeof(*c));

	if (!c)
		return err_set_errno(e, -ENOMEM, "console %s", name);
	c->history = mmap(NULL, CONSOLE_HISTORY_BYTES, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (c->history == MAP_FAILED) {
		free(c);
		return err_set_errno(e, -ENOMEM, "console %s", name);
	}
	if (loop_timer_new(l, rest_over, c, &c->rest_timer) < 0) {
		munmap(c->history, CONSOLE_HISTORY_BYTES);
		free(c);
		return err_set_errno(e, -ENOMEM, "console %s", name);
	}
	c->loop = l;
	c->rest_ns = REST_NS;
	snprintf(c->name, sizeof(c->name), "%s", name);
	pthread_mutex_init(&c->lock, NULL);
	c->flush_task.run = flush_run;
	c->resume_task.run = resume_run;
	*ret_c = c;
	return 0;
}

void console_free(struct console *c)
{
	if (!c)
		return;
	while (c->readers) {
		struct reader *r = c->readers;

		/* Output that waits for the end of its line. */
		if (r->is_socket && !r->wants_out && !socket_flush(r))
			continue;
		c->readers = r->next;
		reader_free(r);
	}
	loop_timer_free(c->rest_timer);
	pthread_mutex_destroy(&c->lock);
	munmap(c->history, CONSOLE_HISTORY_BYTES);
	free(c);
}
