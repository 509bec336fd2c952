#include "tools/cairn/root_program.h"
#include "api/store/paths.h"
#include "api/wire/json.h"
#include "base/channel.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/util.h"
#include "tools/cairn/helper.h"
#include "tools/cairn/output.h"
#include "tools/root/hand_over.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define PROGRAM "cairn-root"
#define ANSWER_MAX (8 * MIB)
#define SENTENCE_MAX 4096
#define NOTE_MS 1000
#define EXIT_BUSY 3 /* tools/root/main.c */

/* sock: becomes ROOT_PROGRAM_SOCKET; -1: none. */
static int program_start(char *const argv[], int out, int err, int sock, pid_t *ret_pid, struct err *e)
{
	posix_spawn_file_actions_t files;
	char program[PATH_MAX];
	int r = paths_helper(PROGRAM, program, sizeof(program), e);

	if (r < 0)
		return r;
	posix_spawn_file_actions_init(&files);
	posix_spawn_file_actions_adddup2(&files, out, 1);
	posix_spawn_file_actions_adddup2(&files, err, 2);
	if (sock >= 0)
		posix_spawn_file_actions_adddup2(&files, sock, atoi(ROOT_PROGRAM_SOCKET));
	r = -posix_spawn(ret_pid, program, &files, NULL, argv, environ);
	posix_spawn_file_actions_destroy(&files);
	return r < 0 ? err_set_errno(e, r, "%s", program) : 0;
}

/* Take the sentence that the program has printed. Most name the source. */
static int program_error(int fd, const char *source, bool is_busy, struct err *e)
{
	CLEANUP_FREE char *text = NULL;
	bool is_named;
	size_t len;

	lseek(fd, 0, SEEK_SET);
	if (file_read_fd(fd, PROGRAM, SENTENCE_MAX, &text, &len, e) == 0)
		text[strcspn(text, "\n")] = 0;
	is_named = text && strstr(text, source);
	return err_set(e, is_busy ? -EBUSY : -EIO, is_busy ? ERR_BUSY : ERR_GENERIC, "%.200s%s%s", is_named ? "" : source, is_named ? "" : ": ",
		text && *text ? text : PROGRAM " failed without a message");
}

/* Say what takes so long, to a user at a terminal. */
static void making_note(pid_t pid, const char *source)
{
	CLEANUP_CLOSE int fd = pidfd_open(pid, 0);
	struct pollfd p = { .fd = fd, .events = POLLIN };

	if (fd >= 0 && isatty(STDERR_FILENO) && !output_is_quiet() && poll(&p, 1, NOTE_MS) == 0)
		fprintf(stderr, "note: getting %.200s; later runs use the same image\n", source);
}

static int program_run(char *const argv[], const char *source, int sock, struct json_object **ret, struct err *e)
{
	CLEANUP_CLOSE int out = memfd_create("answer", MFD_CLOEXEC), err = memfd_create("errors", MFD_CLOEXEC);
	CLEANUP_FREE char *text = NULL;
	int r, status;
	size_t len;
	pid_t pid;

	if (out < 0 || err < 0)
		return err_set_errno(e, -errno, "memfd");
	r = program_start(argv, out, err, sock, &pid, e);
	if (!r && sock >= 0)
		making_note(pid, source);
	if (!r)
		r = helper_wait(PROGRAM, pid, &status, e);
	if (r < 0)
		return r;
	if (!WIFEXITED(status) || WEXITSTATUS(status))
		return program_error(err, source, WIFEXITED(status) && WEXITSTATUS(status) == EXIT_BUSY, e);
	if (!ret)
		return 0;
	lseek(out, 0, SEEK_SET);
	r = file_read_fd(out, PROGRAM, ANSWER_MAX, &text, &len, e);
	return r < 0 ? r : js_parse(text, len, PROGRAM, ret, e);
}

int root_program_run(char *const argv[], const char *source, struct json_object **ret, struct err *e)
{
	return program_run(argv, source, -1, ret, e);
}

/* Take the file that the program has sent before its end. Returns an fd; -errno with a sentence. */
static int image_receive(int sock, struct err *e)
{
	static const struct channel_type types[] = { [HAND_OVER_TYPE] = { .fds_max = 1, .known = true } };
	_Alignas(16) char buf[CHANNEL_BODY_MAX];
	struct channel_msg m;

	if (channel_recv(sock, HAND_OVER_VERSION, types, ARRAY_SIZE(types), buf, &m) == 1 && m.nfds == 1)
		return m.fds[0];
	return err_set(e, -EPROTO, ERR_GENERIC, PROGRAM " is of another version");
}

int root_program_take(char *const argv[], const char *source, struct json_object **ret, int *ret_lock, struct err *e)
{
	int socks[2], r;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, socks) < 0)
		return err_set_errno(e, -errno, "socketpair");
	r = program_run(argv, source, socks[1], ret, e);
	if (!r) {
		r = image_receive(socks[0], e);
		if (r < 0) {
			json_object_put(*ret);
			*ret = NULL;
		}
	}
	close(socks[0]);
	close(socks[1]);
	if (r >= 0)
		*ret_lock = r;
	return MIN(r, 0);
}
