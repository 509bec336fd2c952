#include "tools/agent/session.h"
#include "base/bytes.h"
#include "base/util.h"
#include "tools/agent/renew.h"
#include "tools/agent/root.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHUNK_BYTES 16384 /* of output in a frame */
#define KILL_ROUNDS 100

#define ANSWERS_BYTES 256 /* of all frames that one call of session_serve() may cause, without output */

/* ---- killing ---- */

/* Returns the session of a process from its /proc/PID/stat; -1: it is gone. */
static long session_of(const char *pid)
{
	char path[64] = "/proc/", text[512], *p;
	ssize_t n;
	int fd;
	long v = 0;

	strncat(path, pid, 16);
	strcat(path, "/stat");
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (fd >= 0)
		close(fd);
	if (n <= 0)
		return -1;
	text[n] = 0;
	/* The name, in brackets, may have any character: state, parent, group and session follow the last one. */
	p = strrchr(text, ')');
	if (!p || p[1] != ' ' || p[2] == 'Z')
		return -1;
	for (unsigned i = 0; i < 4 && p; i++)
		p = strchr(p + 1, ' ');
	while (p && p[1] >= '0' && p[1] <= '9')
		v = v * 10 + (*++p - '0');
	return v;
}

static pid_t number_of(const char *name)
{
	pid_t v = 0;

	for (; *name >= '0' && *name <= '9'; name++)
		v = v * 10 + (*name - '0');
	return *name ? 0 : v;
}

/* Kill the processes of the session that are in other process groups: a shell's jobs. Returns whether there was one. */
static bool groups_kill(pid_t session)
{
	DIR *d = opendir("/proc");
	bool found = false;
	struct dirent *e;

	while (d && (e = readdir(d))) {
		pid_t pid = number_of(e->d_name);

		if (pid > 1 && session_of(e->d_name) == session)
			found |= kill(pid, SIGKILL) == 0;
	}
	if (d)
		closedir(d);
	return found;
}

/* Kill all processes of the session; again while one of them forks. Without /proc, kill the process group only. */
static void session_kill(const struct session *s)
{
	if (s->pid <= 0)
		return;
	session_root_follow();
	kill(-s->pid, SIGKILL);
	for (unsigned i = 0; i < KILL_ROUNDS && groups_kill(s->pid); i++)
		;
}

/* ---- begin and end ---- */

void session_begin(struct session *s, int sock)
{
	s->sock = sock;
	s->pid = 0;
	s->terminal = s->exited = s->told = s->in_ends = false;
	s->in = s->out[0] = s->out[1] = -1;
	s->left[0] = s->left[1] = -1;
	s->rx_len = s->tx_at = s->tx_len = s->in_at = s->in_len = 0;
	s->taken = s->mounts = 0;
	session_send(s, AGENT_FRAME_HELLO, AGENT_HELLO_TEXT, AGENT_HELLO_BYTES);
}

static void close_one(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static void input_close(struct session *s)
{
	if (s->terminal)
		s->in = -1; /* the same fd as out[0] */
	else
		close_one(&s->in);
	s->taken += (uint32_t)(s->in_len - s->in_at);
	s->in_at = s->in_len = 0;
}

static void reap(struct session *s)
{
	if (s->pid > 0 && waitpid(s->pid, NULL, WNOHANG) == s->pid)
		s->pid = 0;
}

static void session_end(struct session *s)
{
	close_one(&s->sock);
	input_close(s);
	close_one(&s->out[0]);
	close_one(&s->out[1]);
	session_kill(s);
	reap(s); /* or at its SIGCHLD */
}

bool session_is_over(const struct session *s)
{
	return s->sock < 0 && s->pid <= 0;
}

/* ---- to the host ---- */

static size_t tx_room(const struct session *s)
{
	return sizeof(s->tx) - s->tx_len;
}

void session_send(struct session *s, enum agent_frame_type type, const void *data, size_t len)
{
	if (tx_room(s) < AGENT_HEADER_BYTES + len)
		return;
	agent_header_put(s->tx + s->tx_len, type, len);
	memcpy(s->tx + s->tx_len + AGENT_HEADER_BYTES, data, len);
	s->tx_len += AGENT_HEADER_BYTES + len;
}

void session_fail(struct session *s, int error, enum agent_step step)
{
	uint8_t data[8];

	store_le32(data, (uint32_t)error);
	store_le32(data + 4, step);
	session_send(s, AGENT_FRAME_FAILED, data, sizeof(data));
	s->told = true;
}

static void tx_flush(struct session *s)
{
	while (s->sock >= 0 && s->tx_at < s->tx_len) {
		ssize_t n = send(s->sock, s->tx + s->tx_at, s->tx_len - s->tx_at, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			break;
		if (n < 0) {
			session_end(s);
			return;
		}
		s->tx_at += (size_t)n;
	}
	memmove(s->tx, s->tx + s->tx_at, s->tx_len - s->tx_at);
	s->tx_len -= s->tx_at;
	s->tx_at = 0;
}

/* ---- the program's output ---- */

/* Room for two frames of output, with room for all other frames behind them. */
static bool output_fits(const struct session *s)
{
	return tx_room(s) >= 2 * (AGENT_HEADER_BYTES + CHUNK_BYTES) + ANSWERS_BYTES;
}

static void output_close(struct session *s, unsigned i)
{
	if (s->terminal)
		s->in = -1;
	close_one(&s->out[i]);
}

static void output_read(struct session *s, unsigned i)
{
	uint8_t *at = s->tx + s->tx_len + AGENT_HEADER_BYTES;
	size_t most = CHUNK_BYTES;
	ssize_t n;

	if (s->left[i] >= 0)
		most = MIN(most, (size_t)s->left[i]);
	n = most ? read(s->out[i], at, most) : 0;
	if (n < 0 && (errno == EINTR || (errno == EAGAIN && !(s->exited && s->terminal))))
		return;
	if (n <= 0) { /* a terminal that no process has open says EIO */
		output_close(s, i);
		return;
	}
	agent_header_put(s->tx + s->tx_len, i ? AGENT_FRAME_STDERR : AGENT_FRAME_STDOUT, (size_t)n);
	s->tx_len += AGENT_HEADER_BYTES + (size_t)n;
	if (s->left[i] < 0)
		return;
	s->left[i] -= n;
	if (!s->left[i]) /* a pipe that another process has open shows no end */
		output_close(s, i);
}

/* Read a terminal to its end after the program has exited. The terminal hung up with its session's leader, so nobody
 * writes any more; but its master shows no end while another process has it open. */
static void terminal_drain(struct session *s)
{
	while (s->exited && s->terminal && s->out[0] >= 0 && output_fits(s))
		output_read(s, 0);
}

/* After the program has exited, its output so far is in the pipes. Other processes may have the pipes open, and write
 * more. */
static void exit_note(struct session *s)
{
	for (unsigned i = 0; i < 2 && !s->terminal; i++) {
		int n = 0;

		if (s->out[i] >= 0 && ioctl(s->out[i], FIONREAD, &n) == 0)
			s->left[i] = n;
		if (!n)
			close_one(&s->out[i]);
	}
	input_close(s);
}

void session_child(struct session *s)
{
	siginfo_t info = { 0 };

	if (s->sock < 0) {
		reap(s);
		return;
	}
	/* The child stays a zombie until the session ends. */
	if (s->pid <= 0 || s->exited || waitid(P_PID, (id_t)s->pid, &info, WEXITED | WNOHANG | WNOWAIT) < 0 || !info.si_pid)
		return;
	s->exited = true;
	s->status = info.si_status;
	if (info.si_code != CLD_EXITED)
		s->status |= 256;
	exit_note(s);
}

static void exit_send(struct session *s)
{
	uint8_t data[8];

	if (!s->exited || s->told || s->out[0] >= 0 || s->out[1] >= 0)
		return;
	store_le32(data, s->status & 256 ? 0 : (uint32_t)s->status & 255);
	store_le32(data + 4, s->status & 256 ? (uint32_t)s->status & 127 : 0);
	session_send(s, AGENT_FRAME_EXIT, data, sizeof(data));
	s->told = true;
}

/* ---- the program's input ---- */

static void input_write(struct session *s)
{
	ssize_t n = write(s->in, s->input + s->in_at, s->in_len - s->in_at);

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	/* A program that has closed its input takes all there will be. */
	if (n < 0)
		n = (ssize_t)(s->in_len - s->in_at);
	s->in_at += (size_t)n;
	s->taken += (uint32_t)n;
	if (s->in_at < s->in_len)
		return;
	s->in_at = s->in_len = 0;
	if (s->in_ends)
		input_close(s);
}

/* Returns false: the host breaks the protocol. */
static bool input_add(struct session *s, const struct agent_frame *f)
{
	if (s->in_ends || s->in_len - s->in_at + f->len > AGENT_WINDOW_BYTES)
		return false;
	if (s->in < 0) { /* nobody reads it */
		s->taken += (uint32_t)f->len;
		return true;
	}
	s->in_ends = !f->len && !s->terminal;
	memmove(s->input, s->input + s->in_at, s->in_len - s->in_at);
	s->in_len -= s->in_at;
	s->in_at = 0;
	memcpy(s->input + s->in_len, f->data, f->len);
	s->in_len += f->len;
	if (!s->in_len && s->in_ends)
		input_close(s);
	return true;
}

static void taken_send(struct session *s)
{
	uint8_t data[4];

	if (!s->taken || s->told)
		return;
	store_le32(data, s->taken);
	s->taken = 0;
	session_send(s, AGENT_FRAME_TAKEN, data, sizeof(data));
}

/* ---- from the host ---- */

static void signal_send(struct session *s, int sig)
{
	if (s->pid <= 0 || s->exited)
		return;
	if (sig == SIGKILL)
		session_kill(s);
	else if (sig > 0 && sig < 65)
		kill(-s->pid, sig);
}

static void renewed_send(struct session *s, int r)
{
	uint8_t data[4];

	store_le32(data, (uint32_t)-r);
	session_send(s, AGENT_FRAME_RENEWED, data, sizeof(data));
}

/* A mount that works has no answer: START follows. Returns false: the host breaks the protocol. */
static bool mount_take(struct session *s, const struct agent_frame *f)
{
	const char *tag, *folder;
	int r;

	if (agent_mount_parse(f->data, f->len, &tag, &folder) < 0)
		return false;
	r = session_root_follow();
	if (!r)
		r = root_share_mount(tag, folder);
	if (r < 0)
		session_fail(s, -r, (enum agent_step)(AGENT_STEP_MOUNT + s->mounts));
	s->mounts++;
	return true;
}

static bool frame_take(struct session *s, const struct agent_frame *f)
{
	static struct agent_start start;

	if (s->told)
		return true; /* the host did not know yet */
	if (!s->pid) {
		if (f->type == AGENT_FRAME_RENEW) {
			renewed_send(s, renew(f->data, f->len));
			return true;
		}
		if (f->type == AGENT_FRAME_MOUNT)
			return mount_take(s, f);
		if (f->type != AGENT_FRAME_START || agent_start_parse(f->data, f->len, &start) < 0)
			return false;
		session_start(s, &start);
		return true;
	}
	switch (f->type) {
	case AGENT_FRAME_STDIN:
		return input_add(s, f);
	case AGENT_FRAME_SIGNAL:
		signal_send(s, (int)load_le32(f->data));
		return true;
	case AGENT_FRAME_SIZE: {
		struct winsize size = { .ws_row = load_le16(f->data), .ws_col = load_le16(f->data + 2) };

		if (s->terminal && s->out[0] >= 0)
			ioctl(s->out[0], TIOCSWINSZ, &size);
		return true;
	}
	default:
		return false;
	}
}

static void rx_read(struct session *s)
{
	ssize_t n = recv(s->sock, s->rx + s->rx_len, sizeof(s->rx) - s->rx_len, MSG_DONTWAIT), used;
	size_t at = 0;
	struct agent_frame f;

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	if (n <= 0) {
		session_end(s);
		return;
	}
	s->rx_len += (size_t)n;
	while ((used = agent_frame_parse(s->rx + at, s->rx_len - at, false, &f)) > 0 && frame_take(s, &f))
		at += (size_t)used;
	if (used) { /* malformed, or not allowed now */
		session_end(s);
		return;
	}
	memmove(s->rx, s->rx + at, s->rx_len - at);
	s->rx_len -= at;
}

/* Let a program that has just started run, if it waits for this processor: the output of a short program and its end
 * then go to the host in one packet with STARTED. Each packet wakes the VM's process and its client. */
static void start_follow(struct session *s)
{
	sched_yield();
	session_child(s);
	for (unsigned i = 0; i < 2; i++)
		if (s->out[i] >= 0 && output_fits(s))
			output_read(s, i);
}

/* ---- polling ---- */

void session_watch(const struct session *s, struct pollfd p[SESSION_FDS])
{
	/* Frames of the host cause answers. */
	p[0] = (struct pollfd){ .fd = s->sock,
		.events = (short)((tx_room(s) >= ANSWERS_BYTES ? POLLIN : 0) | (s->tx_len ? POLLOUT : 0)) };
	p[1] = (struct pollfd){ .fd = s->in_len ? s->in : -1, .events = POLLOUT };
	for (unsigned i = 0; i < 2; i++)
		p[2 + i] = (struct pollfd){ .fd = output_fits(s) ? s->out[i] : -1, .events = POLLIN };
}

void session_serve(struct session *s, const struct pollfd p[SESSION_FDS])
{
	bool had_program = s->pid > 0;

	if (s->sock >= 0 && p[0].fd >= 0 && p[0].revents & ~POLLOUT)
		rx_read(s);
	if (!had_program && s->pid > 0 && s->sock >= 0)
		start_follow(s);
	if (s->in >= 0 && p[1].fd == s->in && p[1].revents && s->in_len)
		input_write(s);
	for (unsigned i = 0; i < 2; i++)
		if (s->out[i] >= 0 && p[2 + i].fd == s->out[i] && p[2 + i].revents)
			output_read(s, i);
	terminal_drain(s);
	taken_send(s);
	exit_send(s);
	tx_flush(s);
}
