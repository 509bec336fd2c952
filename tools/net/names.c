#include "tools/net/names.h"
#include "base/cleanup.h"
#include "base/egress.h"
#include "base/err.h"
#include "base/file.h"
#include "base/oom.h"
#include "base/util.h"
#include "tools/net/daemon_process.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define PROGRAM "cairn-dns"
#define SETTINGS "names"
#define READY "ready"
#define START_MS 10000
#define SAID_MAX 400

static const struct daemon_process process = { PROGRAM, "dns.pid" };

/* ---- settings ---- */

static void subnet_print(FILE *f, const struct subnet *s, const struct address *service)
{
	struct address first = address_network(&s->address, s->prefix);
	char text[ADDRESS_TEXT_MAX];

	if (!s->given)
		return;
	fprintf(f, "listen %s\n", address_print(service, text));
	fprintf(f, "own %s/%u\n", address_print(&first, text), s->prefix);
}

static void settings_print(FILE *f, const struct dnsmasq *d)
{
	const struct network *n = &d->req->net;
	const struct subnet *s = n->ipv4.given ? &n->ipv4 : &n->ipv6;
	CLEANUP_FREE char *rules = must_alloc(egress_print(n->egress));
	char text[ADDRESS_TEXT_MAX];

	fprintf(f, "user %u\negress %s\ngateway %s\n", (unsigned)d->uid, rules, address_print(&s->address, text));
	subnet_print(f, &n->ipv4, &d->service.ipv4);
	subnet_print(f, &n->ipv6, &d->service.ipv6);
	if (n->domain)
		fprintf(f, "domain %s\n", n->domain);
	for (size_t i = 0; i < n->ndns_hosts; i++)
		for (size_t k = 0; k < n->dns_hosts[i].nnames; k++)
			fprintf(f, "name %s\n", n->dns_hosts[i].names[k]);
}

/* Returns 1 if they have changed; 0; -errno with a sentence. */
static int settings_write(const struct dnsmasq *d, char **ret_text, size_t *ret_len, struct err *e)
{
	FILE *f = open_memstream(ret_text, ret_len);

	if (f)
		settings_print(f, d);
	if (!f || fclose(f))
		return err_set_errno(e, -ENOMEM, SETTINGS);
	return request_text_write(d->req, SETTINGS, *ret_text, *ret_len, e);
}

/* ---- the process ---- */

/* The program is beside this one. */
static void program_find(char path[PATH_MAX])
{
	ssize_t n = readlink("/proc/self/exe", path, PATH_MAX - sizeof(PROGRAM) - 1);
	char *slash;

	path[n > 0 ? n : 0] = 0;
	slash = strrchr(path, '/');
	strcpy(slash ? slash + 1 : path, PROGRAM);
}

static int file_of_text(const char *text, size_t len, struct err *e)
{
	int fd = memfd_create(SETTINGS, MFD_CLOEXEC);

	if (fd >= 0 && write_full(fd, text, len) == 0 && lseek(fd, 0, SEEK_SET) == 0)
		return fd;
	if (fd >= 0)
		close(fd);
	return err_set_errno(e, -errno, PROGRAM);
}

static int netns_open(pid_t pid)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/ns/net", (int)pid);
	return open(path, O_RDONLY | O_CLOEXEC);
}

static void child_run(const struct dnsmasq *d, int settings, int said, int netns)
{
	char mark[128], path[PATH_MAX], *argv[] = { (char *)PROGRAM, mark, NULL }, *env[] = { NULL };

	snprintf(mark, sizeof(mark), "--network=%s", d->req->net.config);
	oom_protection_drop();
	program_find(path);
	if (setsid() < 0 || chdir("/") < 0 || setns(netns, CLONE_NEWNET) < 0 || dup2(settings, STDIN_FILENO) < 0 ||
		dup2(said, STDOUT_FILENO) < 0 || dup2(said, STDERR_FILENO) < 0)
		dprintf(said, "cannot start in dnsmasq's namespace: %s", strerror(errno));
	else {
		close_range(3, ~0U, CLOSE_RANGE_CLOEXEC);
		execve(path, argv, env);
		dprintf(STDERR_FILENO, "%s: %s", path, strerror(errno));
	}
	_exit(1);
}

/* Wait until it is ready. */
static int child_follow(int said, struct err *e)
{
	char text[SAID_MAX + 1] = "";
	size_t len = 0;

	while (len < SAID_MAX) {
		ssize_t got = poll(&(struct pollfd){ .fd = said, .events = POLLIN }, 1, START_MS) > 0 ? read(said, text + len, SAID_MAX - len) : -1;

		if (got < 0)
			return err_set(e, -ETIMEDOUT, ERR_TIMEOUT, PROGRAM " does not serve after %d s", START_MS / 1000);
		if (!got)
			break;
		len += (size_t)got;
	}
	text[strcspn(text, "\n")] = 0;
	return strcmp(text, READY) ? err_set(e, -EIO, ERR_HOST, PROGRAM " does not start: %s", *text ? text : "it says nothing") : 0;
}

static int process_start(const struct dnsmasq *d, const char *text, size_t len, struct err *e)
{
	CLEANUP_CLOSE int settings = file_of_text(text, len, e);
	CLEANUP_CLOSE int netns = netns_open(d->pid);
	int said[2], r;
	pid_t pid;

	if (settings < 0)
		return settings;
	if (netns < 0 || pipe2(said, O_CLOEXEC) < 0)
		return err_set_errno(e, -errno, PROGRAM);
	r = daemon_process_note(&process, d->req, 0, e);
	pid = r < 0 ? -1 : fork();
	if (!pid)
		child_run(d, settings, said[1], netns);
	close(said[1]);
	if (!r && pid < 0)
		r = err_set_errno(e, -errno, PROGRAM);
	if (!r)
		r = child_follow(said[0], e);
	close(said[0]);
	if (r < 0 && pid > 0) {
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
	}
	return r < 0 ? r : daemon_process_note(&process, d->req, pid, e);
}

/* Does it run where dnsmasq does? */
static bool is_in_namespace(const struct dnsmasq *d, pid_t pid)
{
	CLEANUP_CLOSE int own = netns_open(pid);
	CLEANUP_CLOSE int its = netns_open(d->pid);
	struct stat a, b;

	return own >= 0 && its >= 0 && !fstat(own, &a) && !fstat(its, &b) && a.st_ino == b.st_ino && a.st_dev == b.st_dev;
}

int names_down(const struct request *req, struct err *e)
{
	int r = daemon_process_stop(&process, req, e);

	return r < 0 ? r : 0;
}

int names_up(const struct dnsmasq *d, struct err *e)
{
	CLEANUP_FREE char *text = NULL;
	size_t len;
	int changed;
	pid_t pid;

	if (!network_has_names(&d->req->net))
		return names_down(d->req, e);
	changed = settings_write(d, &text, &len, e);
	if (changed < 0)
		return changed;
	pid = daemon_process_find(&process, d->req);
	if (pid && !changed && is_in_namespace(d, pid))
		return 0;
	changed = names_down(d->req, e);
	return changed < 0 ? changed : process_start(d, text, len, e);
}

pid_t names_pid(const struct dnsmasq *d)
{
	return network_has_names(&d->req->net) ? daemon_process_find(&process, d->req) : 0;
}

bool names_are_up(const struct dnsmasq *d)
{
	pid_t pid = names_pid(d);

	return pid ? is_in_namespace(d, pid) : !network_has_names(&d->req->net);
}
