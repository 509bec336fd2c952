#include "tools/net/daemon_process.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/util.h"
#include "tools/net/request.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <unistd.h>

#define STOP_MS 3000
#define KILL_MS 3000
#define STARTING "starting\n"
#define TEXT_MAX (4 * MIB)

const char *request_path(const struct request *req, const char *file, struct request_path *buf)
{
	snprintf(buf->text, sizeof(buf->text), "%s/%s", req->folder, file);
	return buf->text;
}

int request_text_write(const struct request *req, const char *name, const char *text, size_t len, struct err *e)
{
	CLEANUP_FREE char *old = NULL;
	CLEANUP_CLOSE int fd = -1;
	struct request_path path, next;
	size_t old_len;

	request_path(req, name, &path);
	if (file_read(path.text, TEXT_MAX, &old, &old_len, NULL) == 0 && old_len == len && !memcmp(old, text, len))
		return 0;
	snprintf(next.text, sizeof(next.text), "%.1100s.new", path.text);
	fd = open(next.text, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0644);
	if (fd < 0 || write_full(fd, text, len) < 0 || rename(next.text, path.text) < 0)
		return err_set_errno(e, -errno, "%s", path.text);
	return 1;
}

/* Return whether an argument of the process has the network's mark. */
static bool process_is_ours(const struct daemon_process *p, const struct request *req, pid_t pid)
{
	char path[64], text[256] = "";
	CLEANUP_CLOSE int fd = -1;
	ssize_t got;

	snprintf(path, sizeof(path), "/proc/%d/cmdline", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	got = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (got <= 0 || strcmp(text, p->program) != 0)
		return false;
	for (ssize_t i = (ssize_t)strlen(text) + 1; i < got; i += (ssize_t)strlen(text + i) + 1)
		if (!strncmp(text + i, "--", 2) && strstr(text + i, req->net.config))
			return true;
	return false;
}

pid_t daemon_process_search(const struct daemon_process *p, const struct request *req)
{
	DIR *d = opendir("/proc");
	pid_t found = 0;

	for (struct dirent *i; d && !found && (i = readdir(d));)
		if (isdigit((unsigned char)*i->d_name) && process_is_ours(p, req, (pid_t)atoi(i->d_name)))
			found = (pid_t)atoi(i->d_name);
	if (d)
		closedir(d);
	return found;
}

/* Find the running process. A cairn-net that was killed while it started the process leaves the word STARTING. */
pid_t daemon_process_find(const struct daemon_process *p, const struct request *req)
{
	CLEANUP_FREE char *text = NULL;
	struct request_path path;
	size_t len;

	if (file_read(request_path(req, p->file, &path), 64, &text, &len, NULL) < 0)
		return 0;
	if (isdigit((unsigned char)*text) && process_is_ours(p, req, (pid_t)atoi(text)))
		return (pid_t)atoi(text);
	return daemon_process_search(p, req);
}

/* Written without a sync: after a crash of the host there is no process. */
int daemon_process_note(const struct daemon_process *p, const struct request *req, pid_t pid, struct err *e)
{
	char text[32] = STARTING;
	struct request_path path;
	CLEANUP_CLOSE int fd = open(request_path(req, p->file, &path), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

	if (pid)
		snprintf(text, sizeof(text), "%d\n", (int)pid);
	if (fd < 0 || write_full(fd, text, strlen(text)) < 0)
		return err_set_errno(e, -errno, "%s", path.text);
	return 0;
}

static bool wait_for_end(int pidfd, int ms)
{
	return poll(&(struct pollfd){ .fd = pidfd, .events = POLLIN }, 1, ms) > 0;
}

/* Both programs may be killed: dnsmasq writes each change of a lease at once. */
static int process_stop(const struct daemon_process *p, const struct request *req, pid_t pid, struct err *e)
{
	CLEANUP_CLOSE int fd = pidfd_open(pid, 0);

	if (fd < 0 || !process_is_ours(p, req, pid))
		return 0;
	if (pidfd_send_signal(fd, SIGTERM, NULL, 0) < 0 && errno != ESRCH)
		return err_set_errno(e, -errno, "cannot stop %s (process %d)", p->program, (int)pid);
	if (wait_for_end(fd, STOP_MS))
		return 0;
	pidfd_send_signal(fd, SIGKILL, NULL, 0);
	return wait_for_end(fd, KILL_MS) ? 0 : err_set(e, -ETIMEDOUT, ERR_TIMEOUT, "%s (process %d) does not end", p->program, (int)pid);
}

int daemon_process_stop(const struct daemon_process *p, const struct request *req, struct err *e)
{
	struct request_path path;
	pid_t pid = daemon_process_find(p, req), first = pid;
	int r = 0;

	/* A program killed between stop and start may have left two processes. */
	for (int i = 0; pid && !r && i < 4; i++) {
		r = process_stop(p, req, pid, e);
		pid = daemon_process_find(p, req);
	}
	if (!r)
		unlink(request_path(req, p->file, &path));
	return r < 0 ? r : first;
}
