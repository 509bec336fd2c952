#include "api/vm/cgroup_tree.h"
#include "api/store/paths.h"
#include "api/vm/child_spawn.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define SYSTEMD_RUNS "/run/systemd/system"
#define SCOPE "cairn-vms"
#define SCOPE_FILE "cgroup" /* in the run folder: the scope's folder */
#define HOLDER_FOLDER "holder"
#define HOLDER_TIMEOUT_MS 30000
/* Weight relative to the sibling groups: with the default, all VMs together would get no more than one service. */
#define TREE_WEIGHT 1000
#define CPU_PERIOD_US 100000

__attribute__((format(printf, 2, 3))) static int lacks(struct cgroup_tree *t, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(t->lack, sizeof(t->lack), fmt, ap);
	va_end(ap);
	return -ENOTSUP;
}

/* ---- files of a group ---- */

static int value_write(int folder, const char *file, const char *text)
{
	CLEANUP_CLOSE int fd = openat(folder, file, O_WRONLY | O_CLOEXEC);

	return fd < 0 || write(fd, text, strlen(text)) < 0 ? -errno : 0;
}

/* Give the groups below this one each controller that it can. */
static void controllers_enable(int folder)
{
	for (unsigned i = 0; i < CGROUP_CONTROLLERS; i++) {
		char text[16];

		snprintf(text, sizeof(text), "+%s", cgroup_controller_name(i));
		value_write(folder, "cgroup.subtree_control", text); /* the caller finds missing controllers */
	}
}

static int child_make(const char *folder, const char *name, char *buf, size_t size)
{
	if (snprintf(buf, size, "%s/%s", folder, name) >= (int)size)
		return -ENAMETOOLONG;
	return mkdir(buf, 0755) < 0 && errno != EEXIST ? -errno : 0;
}

/* Move a process, which may wait for a grace period of the kernel. */
static int process_move(const char *folder, pid_t pid)
{
	CLEANUP_CLOSE int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	char text[16];

	snprintf(text, sizeof(text), "%d", (int)pid);
	return fd < 0 ? -errno : value_write(fd, "cgroup.procs", text);
}

/* Record which controllers the groups in a folder can have. */
static void tree_set(struct cgroup_tree *t, const char *path)
{
	char words[32];

	cgroup_controllers_read(path, "cgroup.subtree_control", t->has);
	snprintf(t->path, sizeof(t->path), "%s", path);
	if (cgroup_controllers_list(t->has, false, words, sizeof(words))[0])
		lacks(t, "%.120s has no controller %s", path, words);
}

/* Use a folder as the tree, if a group for a process can be made in it. */
static int tree_use(struct cgroup_tree *t, const char *path)
{
	CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	CLEANUP_CLOSE int trial = -1;
	char name[32];
	int r;

	if (fd < 0)
		return lacks(t, "%.120s: %s", path, strerror(errno));
	controllers_enable(fd);
	snprintf(name, sizeof(name), "trial-%d", (int)getpid());
	if (mkdirat(fd, name, 0755) < 0)
		return lacks(t, "cannot create a control group in %.100s: %s", path, strerror(errno));
	trial = openat(fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	r = trial < 0 ? -errno : child_spawn_try(trial, false);
	unlinkat(fd, name, AT_REMOVEDIR);
	if (r < 0)
		return lacks(t, "cannot create a process in a control group in %.100s: %s", path, strerror(-r));
	t->fd = steal_fd(&fd);
	tree_set(t, path);
	return 0;
}

/* ---- a scope of the service manager ---- */

/* Print the name of a scope or folder, another one for each state folder but the default. */
static void tree_name(const struct daemon_paths *p, const char *suffix, char *buf, size_t size)
{
	uint64_t h = hash_add(HASH_BEGIN, p->state_dir, strlen(p->state_dir));

	if (p->system)
		snprintf(buf, size, SCOPE "%s", suffix);
	else
		snprintf(buf, size, SCOPE "-%08x%s", (unsigned)(h ^ h >> 32), suffix);
}

/* Wait until the holder answers a byte: then its program runs. */
static int holder_wait(int sock)
{
	struct pollfd p = { .fd = sock, .events = POLLIN };
	char byte = '\n';

	if (send(sock, &byte, 1, MSG_NOSIGNAL) != 1)
		return -EPIPE;
	if (poll(&p, 1, HOLDER_TIMEOUT_MS) != 1)
		return -ETIMEDOUT;
	return recv(sock, &byte, 1, 0) == 1 ? 0 : -EPIPE;
}

/* Run `cat` on a pipe that nobody writes: it ends when the daemon ends.
 * cgroup: its group; -1: as the program chooses.
 * Returns its pid, and *ret_sock is owned; -errno. */
static pid_t holder_start(char *const *argv, int cgroup, int *ret_sock)
{
	CLEANUP_CLOSE int ours = -1;
	CLEANUP_CLOSE int theirs = -1;
	posix_spawn_file_actions_t fa;
	int pair[2], r;
	pid_t pid = -1;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	ours = pair[0];
	theirs = pair[1];
	if (cgroup >= 0) {
		const int files[] = { theirs, theirs, 2 };

		r = child_spawn(&(struct child_spawn){ .cgroup = cgroup, .program = argv[0], .argv = argv, .files = files,
			.nfiles = ARRAY_SIZE(files) }, &pid);
	} else {
		posix_spawn_file_actions_init(&fa);
		posix_spawn_file_actions_adddup2(&fa, theirs, 0);
		posix_spawn_file_actions_adddup2(&fa, theirs, 1);
		r = -posix_spawnp(&pid, argv[0], &fa, NULL, argv, environ);
		posix_spawn_file_actions_destroy(&fa);
	}
	if (r < 0)
		return r;
	close(steal_fd(&theirs)); /* so that the end of the program is an end of file */
	r = holder_wait(ours);
	if (r < 0) {
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		return r;
	}
	*ret_sock = steal_fd(&ours);
	return pid;
}

/* Go on with the scope that an earlier daemon asked for: VMs in it have kept it. Returns 0; -ENOENT: there is none. */
static int scope_rejoin(struct cgroup_tree *t, const char *file)
{
	char *const argv[] = { (char *)"cat", NULL };
	CLEANUP_FREE char *path = NULL;
	CLEANUP_CLOSE int fd = -1;
	char holder[PATH_MAX];
	struct err e;
	size_t len;

	if (file_read(file, PATH_MAX - 1, &path, &len, &e) < 0 || path[0] != '/' || access(path, F_OK) < 0 ||
		child_make(path, HOLDER_FOLDER, holder, sizeof(holder)) < 0)
		return -ENOENT;
	fd = open(holder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || holder_start(argv, fd, &t->holder) < 0)
		return -ENOENT;
	return tree_use(t, path);
}

/* Ask for a scope, which the service manager ends when it has no process: so a holder stays in it. Units that come
 * after the scope are stopped before it. At the host's shutdown, VMs are stopped first, then the daemon, and then the
 * scope, so the daemon does not take the end of the scope for crashes of VMs. */
static int scope_ask(struct cgroup_tree *t, const char *mount, const char *unit, const char *file)
{
	char name[80], path[PATH_MAX], holder[PATH_MAX];
	char *const argv[] = { (char *)"systemd-run", (char *)"--scope", (char *)"--quiet", (char *)"--collect", name,
		(char *)(geteuid() ? "--user" : "--slice=machine.slice"), (char *)"--description=VMs of Cairn", (char *)"--property=Delegate=yes",
		(char *)"--property=TasksMax=infinity", (char *)"--property=Before=cairnd.service",
		(char *)"--property=Before=cairn-guests.service", (char *)"cat", NULL };
	struct err e;
	size_t len;
	pid_t pid;
	int r;

	snprintf(name, sizeof(name), "--unit=%s", unit);
	pid = holder_start(argv, -1, &t->holder);
	if (pid < 0)
		return lacks(t, "systemd-run made no scope %s: %s", unit, pid == -EPIPE ? "see the daemon's log" : strerror(-pid));
	cgroup_folder(mount, pid, path, sizeof(path));
	len = strlen(path);
	if (len < strlen(unit) || strcmp(path + len - strlen(unit), unit))
		return lacks(t, "systemd-run put a process in %.100s, not in the scope %s", path, unit);
	/* Only a group without processes can give controllers to those below it. */
	r = child_make(path, HOLDER_FOLDER, holder, sizeof(holder));
	if (!r)
		r = process_move(holder, pid);
	if (r < 0)
		return lacks(t, "cannot create a control group in %.100s: %s", path, strerror(-r));
	if (file_write_atomic(file, path, strlen(path), 0600, &e) < 0)
		log_warn("sandbox", "%s", e.msg);
	return tree_use(t, path);
}

static int scope_open(struct cgroup_tree *t, const struct daemon_paths *p, const char *mount)
{
	char unit[64], file[PATH_MAX + 16];
	struct err e;
	int r = mkdir_all(p->run_dir, 0700, &e);

	if (r < 0)
		return lacks(t, "%.180s", e.msg);
	tree_name(p, ".scope", unit, sizeof(unit));
	snprintf(file, sizeof(file), "%s/" SCOPE_FILE, p->run_dir);
	r = scope_rejoin(t, file);
	return r == -ENOENT ? scope_ask(t, mount, unit, file) : r;
}

/* ---- a subtree below the daemon's own group ---- */

/* Return whether the daemon is the only process of a group. */
static bool is_alone(const char *folder)
{
	CLEANUP_FREE char *text = NULL;
	char path[PATH_MAX + 16], own[16];
	struct err e;
	size_t len;

	snprintf(path, sizeof(path), "%s/cgroup.procs", folder);
	snprintf(own, sizeof(own), "%d\n", (int)getpid());
	return !file_read(path, 64 * KIB, &text, &len, &e) && !strcmp(text, own);
}

static int subtree_open(struct cgroup_tree *t, const struct daemon_paths *p, const char *mount)
{
	char folder[PATH_MAX], path[PATH_MAX + 16], name[64];
	bool is_root;
	int r = 0;

	cgroup_folder(mount, 0, folder, sizeof(folder));
	snprintf(path, sizeof(path), "%s/cgroup.type", folder);
	is_root = access(path, F_OK) < 0; /* the only group that gives controllers although it has processes */
	if (!is_root && !is_alone(folder))
		return lacks(t, "other processes are in cairnd's control group %.80s; see --cgroup", folder);
	if (!is_root) {
		r = child_make(folder, "cairnd", path, sizeof(path));
		if (!r)
			r = process_move(path, getpid());
	}
	tree_name(p, "", name, sizeof(name));
	if (!r) {
		CLEANUP_CLOSE int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

		controllers_enable(fd);
		r = child_make(folder, name, path, sizeof(path));
	}
	if (r < 0)
		return lacks(t, "cannot create a control group in %.100s: %s", folder, strerror(-r));
	t->made = true;
	r = tree_use(t, path);
	if (!r) {
		snprintf(name, sizeof(name), "%d", TREE_WEIGHT);
		value_write(t->fd, "cpu.weight", name); /* without the controller, there is no such file */
	}
	return r;
}

/* ---- for the daemon ---- */

static int tree_find(struct cgroup_tree *t, const struct daemon_paths *p, bool managed)
{
	bool has[CGROUP_CONTROLLERS] = { false };
	char mount[192], words[32];

	if (p->cgroup && !strcmp(p->cgroup, "none"))
		return lacks(t, "cairnd runs with --cgroup none");
	if (p->cgroup)
		return tree_use(t, p->cgroup);
	if (!cgroup_mount(mount, sizeof(mount)))
		return lacks(t, "version 2 is not mounted");
	cgroup_controllers_read(mount, "cgroup.controllers", has);
	if (!cgroup_controllers_list(has, true, words, sizeof(words))[0])
		return lacks(t, "version 2 has no controllers on this host");
	if (access(SYSTEMD_RUNS, F_OK) < 0)
		return subtree_open(t, p, mount);
	return managed ? scope_open(t, p, mount) :
		lacks(t, "systemd runs this host, but has not started cairnd; see --cgroup");
}

void cgroup_tree_open(const struct daemon_paths *p, bool managed, struct cgroup_tree *ret)
{
	*ret = (struct cgroup_tree){ .fd = -1, .holder = -1 };
	if (tree_find(ret, p, managed) < 0 && ret->fd < 0)
		memset(ret->has, 0, sizeof(ret->has));
}

int cgroup_tree_join(const char *path, struct cgroup_tree *ret)
{
	*ret = (struct cgroup_tree){ .fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), .holder = -1 };
	if (ret->fd < 0)
		return -errno;
	tree_set(ret, path);
	return 0;
}

void cgroup_tree_close(struct cgroup_tree *t)
{
	if (t->fd >= 0)
		close(t->fd);
	if (t->holder >= 0)
		close(t->holder);
	if (t->made)
		rmdir(t->path);
}

/* ---- groups of VMs ---- */

static void memory_print(uint64_t bytes, char buf[24])
{
	if (bytes)
		snprintf(buf, 24, "%llu", (unsigned long long)bytes);
	else
		snprintf(buf, 24, "max");
}

static int limits_set(const struct cgroup_tree *t, int group, const struct cgroup_limits *l, struct err *e)
{
	char memory[24], pids[24] = "max", weight[24], quota[40] = "max";
	const struct {
		enum cgroup_controller controller;
		const char *file, *text;
	} values[] = {
		{ CGROUP_MEMORY, "memory.max", memory },
		{ CGROUP_PIDS, "pids.max", pids },
		{ CGROUP_CPU, "cpu.weight", weight },
		{ CGROUP_CPU, "cpu.max", quota },
	};

	memory_print(l->memory_bytes, memory);
	if (l->pids)
		snprintf(pids, sizeof(pids), "%u", l->pids);
	snprintf(weight, sizeof(weight), "%u", l->cpu_weight ? l->cpu_weight : CGROUP_WEIGHT);
	if (l->cpu_percent)
		snprintf(quota, sizeof(quota), "%llu %d", (unsigned long long)l->cpu_percent * (CPU_PERIOD_US / 100), CPU_PERIOD_US);
	for (unsigned i = 0; i < ARRAY_SIZE(values); i++) {
		int r = t->has[values[i].controller] ? value_write(group, values[i].file, values[i].text) : 0;

		if (r < 0)
			return err_set_errno(e, r, "cannot set %s of the VM's control group", values[i].file);
	}
	return 0;
}

int cgroup_tree_enter(const struct cgroup_tree *t, const struct cgroup_place *place, struct err *e)
{
	struct cgroup_limits limits = place->limits;
	CLEANUP_CLOSE int group = -1;
	bool is_new = mkdirat(t->fd, place->name, 0755) == 0;
	uint64_t left;
	int r = 0;

	if (is_new || errno == EEXIST)
		group = openat(t->fd, place->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (group < 0)
		return err_set_errno(e, -errno, "cannot create the VM's control group");
	/* Live clones of an earlier run may still use memory that was charged to the group. */
	if (!is_new && limits.memory_bytes && !cgroup_tree_read(t, place->name, "memory.current", &left))
		limits.memory_bytes += left;
	if (is_new || !place->keeps)
		r = limits_set(t, group, &limits, e);
	return r < 0 ? r : steal_fd(&group);
}

int cgroup_tree_limit_memory(const struct cgroup_tree *t, const char *name, uint64_t bytes)
{
	char path[64], text[24];

	memory_print(bytes, text);
	snprintf(path, sizeof(path), "%.40s/memory.max", name);
	return value_write(t->fd, path, text);
}

int cgroup_tree_write(const struct cgroup_tree *t, const char *name, const char *file, uint64_t n)
{
	char path[80], text[24];

	snprintf(path, sizeof(path), "%.40s/%.30s", name, file);
	snprintf(text, sizeof(text), "%llu", (unsigned long long)n);
	return value_write(t->fd, path, text);
}

int cgroup_tree_read_text(const struct cgroup_tree *t, const char *name, const char *file, char *buf, size_t size)
{
	char path[80];
	CLEANUP_CLOSE int fd = -1;
	ssize_t n;

	snprintf(path, sizeof(path), "%.40s/%.30s", name, file);
	fd = openat(t->fd, path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, buf, size - 1);
	if (n < 0)
		return -errno;
	buf[n] = 0;
	return 0;
}

int cgroup_tree_read(const struct cgroup_tree *t, const char *name, const char *file, uint64_t *ret)
{
	char text[24], *end;
	int r = cgroup_tree_read_text(t, name, file, text, sizeof(text));

	if (r < 0)
		return r;
	*ret = strtoull(text, &end, 10);
	return end == text ? -EINVAL : 0;
}

int cgroup_tree_remove(const struct cgroup_tree *t, const char *name)
{
	return unlinkat(t->fd, name, AT_REMOVEDIR) < 0 ? -errno : 0;
}
