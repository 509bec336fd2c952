#include "tests/fuzz/fuzz_api.h"
#include "tests/fuzz/script_vm.h"

#include "api/access/fork_as.h"
#include "api/daemon.h"
#include "api/jobs/job.h"
#include "api/store/store.h"
#include "api/vm/vm.h"
#include "api/vm/vm_process.h"
#include "api/vm/vm_socket.h"
#include "api/wire/close_async.h"
#include "api/wire/conn.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define FOLDER "/mnt" /* the tmpfs; inputs name files in it */
#define STATE FOLDER "/state"
#define NOBODY 65534
#define SECOND_NS 1000000000ULL
/* Timeout of an answer. A missing answer is a failure, unless a VM process sends malformed
 * messages: the daemon may then wait for it. */
#define ANSWER_NS (60 * SECOND_NS)
#define STRANGE_ANSWER_NS (SECOND_NS / 20)
#define LINE_MAX_BYTES 65535u /* some clients read no longer lines */
#define ANSWERS_MAX (4u << 20)
#define SETTLE_TURNS 3u
#define SETTLE_NS (30 * SECOND_NS)
#define RESTARTS_MAX 64u /* an input has room for 4000, and each reads all events */
/* SECRET is an existing VM, NOT_THERE a name of the same length that no VM has. SECRET is no word of the schema. */
#define SECRET "hidden"
#define NOT_THERE "nobody"

struct client {
	int fd;
	unsigned synced;
	size_t len, at;
	char *buf;
};

struct script {
	struct daemon daemon;
	struct client admin, stranger, qmp;
	bool patient; /* a missing answer is a failure, even if VM processes may send malformed messages */
	bool strange; /* VM processes may send malformed messages */
	unsigned good, restarts;
};

static struct daemon_paths paths = { .state_dir = STATE, .run_dir = FOLDER "/run", .socket = FOLDER "/socket",
	.qmp_dir = FOLDER "/qmp", .vm_program = "/bin/false", .archive_program = "/bin/false", .groups_program = "/bin/false", .listening = -1,
	.limits = { .starting = 4 } };

static bool plays_both; /* this process plays admin and stranger */

/* ---- confinement ---- */

static int text_put(const char *path, const char *text)
{
	CLEANUP_CLOSE int fd = open(path, O_WRONLY | O_CLOEXEC);

	return fd < 0 || write(fd, text, strlen(text)) < 0 ? -errno : 0;
}

/* Become root in a user namespace, unless this is root already. */
static int ids_map(uid_t uid, gid_t gid)
{
	char uids[32], gids[32];
	int r = text_put("/proc/self/setgroups", "deny");

	snprintf(uids, sizeof(uids), "0 %u 1", uid);
	snprintf(gids, sizeof(gids), "0 %u 1", gid);
	if (!r)
		r = text_put("/proc/self/uid_map", uids);
	return r ? r : text_put("/proc/self/gid_map", gids);
}

static int mounts_make(const char *keep)
{
	char here[PATH_MAX];
	struct mount_attr closed = { .attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV }, open = { .attr_clr = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV };
	static const char null[] = "/dev/null"; /* libFuzzer's shell needs it */

	if (!getcwd(here, sizeof(here)) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
		(keep && mount(keep, keep, NULL, MS_BIND, NULL) < 0) || mount(null, null, NULL, MS_BIND, NULL) < 0 ||
		mount("fuzz", FOLDER, "tmpfs", 0, "size=256m,mode=755") < 0 ||
		mount_setattr(AT_FDCWD, "/", AT_RECURSIVE, &closed, sizeof(closed)) < 0 ||
		mount_setattr(AT_FDCWD, FOLDER, 0, &open, sizeof(open)) < 0 ||
		mount_setattr(AT_FDCWD, null, 0, &open, sizeof(open)) < 0 ||
		(keep && mount_setattr(AT_FDCWD, keep, 0, &open, sizeof(open)) < 0) ||
		chdir(here) < 0) /* enter the folder again, on the new mount */
		return -errno;
	return 0;
}

static int file_make(const char *path, size_t bytes)
{
	CLEANUP_CLOSE int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);

	return fd < 0 || ftruncate(fd, (off_t)bytes) < 0 ? -errno : 0;
}

int script_setup(const char *keep)
{
	uid_t uid = getuid();
	gid_t gid = getgid();
	int r = unshare(CLONE_NEWNS | (uid ? CLONE_NEWUSER : 0)) < 0 ? -errno : 0;

	if (!r && uid)
		r = ids_map(uid, gid);
	if (!r)
		r = mounts_make(keep);
	if (r < 0)
		return r;
	plays_both = !uid;
	signal(SIGPIPE, SIG_IGN);
	setenv("PATH", "/nonexistent", 1); /* so that no other program is found */
	log_set_level(LOG_LEVEL_ERROR);
	if (!getenv("SCRIPT_LOG"))
		log_set_fd(-1);
	return 0;
}

static int entry_remove(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	(void)st, (void)flag;
	return ftw->level ? remove(path) : 0;
}

static unsigned entries(const char *path)
{
	DIR *dir = opendir(path);
	unsigned n = 0;

	must(dir != NULL);
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

/* Return the number of threads. A listing of /proc/self/task would end early when a thread ends meanwhile. */
static unsigned threads(void)
{
	CLEANUP_FREE char *text = NULL;
	const char *line;
	size_t len;

	must(file_read("/proc/self/status", 65536, &text, &len, NULL) == 0);
	line = strstr(text, "\nThreads:");
	must(line != NULL);
	return (unsigned)strtoul(line + strlen("\nThreads:"), NULL, 10);
}

struct held {
	unsigned files, threads;
};

static struct held held(void)
{
	return (struct held){ entries("/proc/self/fd"), threads() };
}

/* Check for leaks. Threads close the fds that clients have sent, so wait for the threads to end. */
static void held_check(const struct held *before)
{
	char path[64], to[128];

	while (threads() > before->threads)
		sched_yield();
	if (held().files == before->files)
		return;
	for (int fd = 3; fd < 256; fd++) {
		ssize_t n;

		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		n = readlink(path, to, sizeof(to));
		if (n > 0)
			fprintf(stderr, "open: %.*s\n", (int)n, to);
	}
	must(!"as many files are open as before");
}

/* ---- clients ---- */

static void client_close(struct client *c)
{
	if (c->fd >= 0)
		close(c->fd);
	c->fd = -1;
	c->len = c->at = 0;
}

static void turn(struct script *s)
{
	loop_run_once(s->daemon.host.loop, UINT64_MAX);
}

static void client_read(struct client *c)
{
	ssize_t n = 0;

	if (!c->buf)
		c->buf = malloc(ANSWERS_MAX);
	must(c->buf != NULL);
	while (c->len < ANSWERS_MAX - 1 && (n = recv(c->fd, c->buf + c->len, ANSWERS_MAX - 1 - c->len, MSG_DONTWAIT)) > 0)
		c->len += (size_t)n;
	must(c->len < ANSWERS_MAX - 1);
	c->buf[c->len] = 0;
	if (!n || (n < 0 && errno != EAGAIN)) { /* the daemon hung up */
		close(c->fd);
		c->fd = -1;
	}
}

/* Take one line. Returns false when it is the answer to `sync`. */
static bool line_take(struct script *s, struct client *c, char *line, size_t len, const char *sync, unsigned *ret_answers)
{
	CLEANUP_JS struct json_object *o = NULL;
	struct json_object *id;

	must(len + 2 <= LINE_MAX_BYTES && line[len] == '\r');
	line[len] = 0;
	for (size_t i = 0; i < len; i++)
		must(line[i] >= ' ' && line[i] < 0x7f);
	must(js_parse(line, len, "line", &o, NULL) == 0 || strstr(line, "NaN") || strstr(line, "Infinity"));
	line[len] = '\r';
	if (!o || js_get(o, "QMP"))
		return true;
	if (js_get(o, "event")) {
		must(js_get(o, "data") && js_get(o, "timestamp") && !js_get(o, "return") && !js_get(o, "error"));
		must(c != &s->stranger);
		return true;
	}
	must(json_object_object_get_ex(o, "return", NULL) != json_object_object_get_ex(o, "error", NULL));
	if (js_get(o, "error"))
		must(js_get_str(js_get(o, "error"), "class") && js_get_str(js_get(o, "error"), "desc")[0]);
	id = js_get(o, "id");
	if (id && js_plain_string(id) && !strcmp(js_plain_string(id), sync))
		return false;
	s->good += js_get(o, "return") != NULL;
	++*ret_answers;
	return true;
}

/* Read answers until the one to `sync`. Returns the number of answers before it; -1: none came. */
static int answers_await(struct script *s, struct client *c, const char *sync)
{
	bool may_miss = s->strange && !s->patient;
	uint64_t until = loop_now_ns() + (may_miss ? STRANGE_ANSWER_NS : ANSWER_NS);
	unsigned n = 0;

	while (c->fd >= 0) {
		char *end;

		turn(s);
		client_read(c);
		while (c->at < c->len && (end = memchr(c->buf + c->at, '\n', c->len - c->at))) {
			char *line = c->buf + c->at;
			size_t len = (size_t)(end - line);

			must(len >= 1);
			c->at += len + 1;
			if (!line_take(s, c, line, len - 1, sync, &n))
				return (int)n;
		}
		if (loop_now_ns() > until) {
			must(may_miss);
			client_close(c);
		}
	}
	return -1;
}

static void client_send(struct client *c, const char *text, size_t len, bool with_file)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(int))];
	} control = { .buf = { 0 } };
	struct iovec iov = { (char *)text, len };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
	CLEANUP_CLOSE int file = with_file ? memfd_create("script", MFD_CLOEXEC) : -1;

	if (with_file) {
		control.align.cmsg_level = SOL_SOCKET;
		control.align.cmsg_type = SCM_RIGHTS;
		control.align.cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(&control.align), &file, sizeof(int));
		m.msg_control = &control;
		m.msg_controllen = sizeof(control.buf);
	}
	if (len && sendmsg(c->fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		client_close(c);
}

/* Send a text and read its answers into c->buf. Returns their number; -1: the connection is
 * closed. */
static int client_say(struct script *s, struct client *c, const char *text, size_t len, bool with_file)
{
	char sync[32], peace[96];
	int n;

	n = snprintf(sync, sizeof(sync), "sync %u", ++c->synced);
	n = snprintf(peace, sizeof(peace), "\xff{\"execute\":\"query-version\",\"id\":\"%s\"}", sync);
	c->len = c->at = 0;
	client_send(c, text, len, with_file);
	if (c->fd >= 0)
		client_send(c, peace, (size_t)n, false);
	return c->fd < 0 ? -1 : answers_await(s, c, sync);
}

static void client_connect(struct script *s, struct client *c, const char *path, uid_t uid)
{
	static const char negotiate[] = "{\"execute\":\"qmp_capabilities\"}";
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	int r;

	c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", path);
	if (uid)
		chmod(path, 0666);
	must(c->fd >= 0 && seteuid(uid) == 0);
	r = connect(c->fd, (struct sockaddr *)&sa, sizeof(sa));
	must(seteuid(0) == 0);
	if (r < 0)
		client_close(c);
	else
		client_say(s, c, negotiate, sizeof(negotiate) - 1, false);
}

/* ---- the daemon ---- */

static void clients_close(struct script *s)
{
	client_close(&s->admin);
	client_close(&s->stranger);
	client_close(&s->qmp);
}

static bool daemon_begin(struct script *s)
{
	struct err e;

	s->daemon = (struct daemon){ .host = { .paths = &paths, .run_dir_fd = -1, .log_level = LOG_LEVEL_ERROR } };
	must(loop_new(64, &s->daemon.host.loop, &e) == 0);
	s->daemon.host.closer = closer_new();
	s->daemon.host.helpers = helpers_new(s->daemon.host.loop, s->daemon.host.closer, paths.groups_program);
	return daemon_open(&s->daemon, &e) == 0;
}

static bool vm_is_busy(const struct vm *vm, bool strange)
{
	return (strange && vm->proc) || vm->operation.kind || vm->start.kind >= VM_OP_START_OPENS || vm->offline || vm->stop.calls ||
		vm_has(vm, VM_FACT_INCOMPLETE);
}

/* Return whether a child is a process that the daemon forked without another program: a helper, or the one that closes
 * sockets. */
static bool is_forked(pid_t pid)
{
	char path[64], own[32] = "";
	CLEANUP_FREE char *name = NULL;
	size_t len;

	snprintf(path, sizeof(path), "/proc/%d/comm", (int)pid);
	prctl(PR_GET_NAME, own);
	if (file_read(path, sizeof(own), &name, &len, NULL) < 0 || !len)
		return false;
	name[len - 1] = 0;
	return !strcmp(name, own) || !strcmp(name, "cairnd-files");
}

/* Return whether an archive process runs. */
static bool others_run(void)
{
	char path[64];
	CLEANUP_FREE char *text = NULL;
	bool any = false;
	size_t len;

	snprintf(path, sizeof(path), "/proc/self/task/%d/children", (int)gettid());
	if (file_read(path, 4096, &text, &len, NULL) < 0)
		return false;
	for (char *p = text, *end; !any && strtol(p, &end, 10) > 0; p = end)
		any = !script_vms_is_one((pid_t)strtol(p, NULL, 10)) && !is_forked((pid_t)strtol(p, NULL, 10));
	return any;
}

static bool is_busy(const struct script *s)
{
	const struct job *j = s->daemon.host.jobs;
	bool busy = store_owes(s->daemon.host.store) || helpers_are_busy(s->daemon.host.helpers) || others_run();

	while (j && j->status == JOB_CONCLUDED)
		j = j->next;
	for (size_t i = 0; i < s->daemon.host.nvms; i++)
		busy = busy || vm_is_busy(s->daemon.host.vms[i], s->strange);
	return busy || j;
}

/* Wait until no work is in progress: a daemon that ends does not free such work, and real leaks
 * would be hidden. */
static void settle(struct script *s)
{
	uint64_t until = loop_now_ns() + SETTLE_NS;

	for (unsigned i = 0; (i < SETTLE_TURNS || is_busy(s)) && loop_now_ns() < until; i++) {
		if (s->strange)
			script_vms_kill_all();
		turn(s);
	}
}

static bool is_of_a_vm(const struct script *s, pid_t pid)
{
	for (size_t i = 0; i < s->daemon.host.nvms; i++)
		if (s->daemon.host.vms[i]->proc && vm_process_pid(s->daemon.host.vms[i]->proc) == pid)
			return true;
	return false;
}

/* Kill a VM process. Unless VM processes may send malformed messages, the daemon has done what follows, such as a
 * restart, before the next line, whose answer depends on it. */
static void vm_dies(struct script *s)
{
	uint64_t until = loop_now_ns() + SETTLE_NS;
	pid_t pid = script_vms_kill_one();

	do
		turn(s);
	while (pid && !s->strange && (is_of_a_vm(s, pid) || is_busy(s)) && loop_now_ns() < until);
}

static void daemon_end(struct script *s)
{
	settle(s);
	clients_close(s);
	daemon_close(&s->daemon);
	helpers_free(s->daemon.host.helpers);
	closer_free(s->daemon.host.closer);
	loop_free(s->daemon.host.loop);
}

/* Restart the daemon. Whatever the state file holds, it starts and has the undamaged VM. */
static void daemon_again(struct script *s)
{
	bool secret = vm_find(&s->daemon.host, SECRET) != NULL;

	daemon_end(s);
	must(daemon_begin(s));
	must(!secret || vm_find(&s->daemon.host, SECRET));
}

/* Return whether the path is a state file that a power cut or a manual edit may have damaged. */
static bool is_state_file(const char *path)
{
	static const char *const known[] = { "events.jsonl", "events.old.jsonl", "audit.log", "audit.log.1", "audit-users.log", "jobs.json",
		"permissions.json", "boot.json", "vms/a/definition.json", "vms/a/state.json", "vms/a/schedule.json",
		"vms/a/autostart.json", "vms/a/undefine.json", "vms/a/renamed.json", "vms/a/end", "vms/b/state.json",
		"vms/b/definition.json" };

	for (size_t i = 0; i < ARRAY_SIZE(known); i++)
		if (!strcmp(path, known[i]))
			return true;
	return false;
}

static void file_put(char *words)
{
	char *text = strchr(words, ' ');
	char path[128];
	FILE *f;

	if (text)
		*text++ = 0;
	if (!text || !is_state_file(words))
		return;
	mkdir(STATE "/vms", 0700);
	for (char vm = 'a'; vm <= 'b'; vm++) {
		snprintf(path, sizeof(path), STATE "/vms/%c", vm);
		if (!strncmp(words, path + sizeof(STATE), 5))
			mkdir(path, 0700);
	}
	snprintf(path, sizeof(path), STATE "/%s", words);
	for (char *p = text; *p; p++)
		if (*p == '|')
			*p = '\n';
	f = fopen(path, "we");
	if (!f)
		return;
	fputs(text, f);
	fclose(f);
}

/* ---- lines ---- */

/* Return whether this is exactly one text, which gets exactly one answer. */
static bool is_one_text(const char *text, size_t len)
{
	CLEANUP_JS struct json_object *o = NULL;

	return text[0] == '{' && memchr(text, 0xff, len) == NULL && js_parse(text, len, "text", &o, NULL) == 0;
}

static void admin_says(struct script *s, const char *text, size_t len, bool with_file)
{
	int n;

	if (s->admin.fd < 0)
		client_connect(s, &s->admin, paths.socket, 0);
	if (s->admin.fd < 0)
		return;
	n = client_say(s, &s->admin, text, len, with_file);
	must(n < 0 || n == 1 || !is_one_text(text, len));
}

static void qmp_says(struct script *s, const char *text, size_t len)
{
	struct vm *vm = vm_find(&s->daemon.host, "a");
	char path[PATH_MAX];
	int n;

	if (s->qmp.fd < 0 && vm && vm->qmp && vm_qmp_path(vm, path, sizeof(path), NULL) == 0)
		client_connect(s, &s->qmp, path, 0);
	if (s->qmp.fd < 0)
		return;
	n = client_say(s, &s->qmp, text, len, true);
	must(n < 0 || n == 1 || !is_one_text(text, len));
}

static void name_replace(char *text, size_t len, const char *from, const char *to)
{
	for (char *p; (p = memmem(text, len, from, strlen(from)));)
		memcpy(p, to, strlen(to));
}

/* Check that the stranger gets the same answers for an existing VM and for a missing one. */
static void stranger_says(struct script *s, char *text, size_t len)
{
	CLEANUP_FREE char *first = NULL;
	bool named = memmem(text, len, SECRET, strlen(SECRET));

	if (!plays_both || s->daemon.host.permissions.n || memmem(text, len, NOT_THERE, strlen(NOT_THERE)))
		return;
	if (s->stranger.fd < 0)
		client_connect(s, &s->stranger, paths.socket, NOBODY);
	if (s->stranger.fd < 0 || client_say(s, &s->stranger, text, len, false) < 0)
		return;
	s->stranger.buf[s->stranger.at] = 0;
	must(named || !strstr(s->stranger.buf, SECRET));
	first = strdup(s->stranger.buf);
	name_replace(text, len, SECRET, NOT_THERE);
	s->stranger.synced--;
	must(first != NULL);
	if (client_say(s, &s->stranger, text, len, false) < 0) {
		must(s->strange); /* the daemon waits for a malformed VM process */
		return;
	}
	name_replace(first, strlen(first), SECRET, NOT_THERE);
	s->stranger.buf[s->stranger.at] = 0;
	/* Only a request for a permission, which is kept, changes what comes next. */
	must(!strcmp(first, s->stranger.buf) || memmem(text, len, "request-permission", strlen("request-permission")));
}

static void line_do(struct script *s, char *line, size_t len)
{
	char *words = len > 2 ? line + 2 : line + len;
	size_t n = (size_t)(line + len - words);

	switch (line[0]) {
	case 'd':
	case 'D':
		admin_says(s, words, n, line[0] == 'D');
		break;
	case 'u':
		stranger_says(s, words, n);
		break;
	case 'q':
		qmp_says(s, words, n);
		break;
	case 'a':
		s->strange = true;
		script_vms_answer_next(words);
		break;
	case 'e':
		s->strange = true;
		script_vms_say(words);
		turn(s);
		break;
	case 'x':
		vm_dies(s);
		break;
	case 'f':
	case 'r':
		if (s->restarts++ >= RESTARTS_MAX)
			break;
		if (line[0] == 'f')
			file_put(words);
		daemon_again(s);
		break;
	}
}

static void secret_define(struct script *s)
{
	static const char define[] = "{\"execute\":\"vm-define\",\"arguments\":{\"definition\":"
				     "{\"name\":\"" SECRET "\",\"memory\":\"32M\",\"boot\":{\"kernel\":\"" FOLDER "/kernel\"}}}}";

	admin_says(s, define, sizeof(define) - 1, false);
	must(vm_find(&s->daemon.host, SECRET) != NULL);
	s->good = 0;
}

unsigned script_run(const uint8_t *input, size_t len, bool patient)
{
	static struct script s;
	const struct held before = held();
	char *text;

	if (!len || len > SCRIPT_INPUT_MAX)
		return 0;
	nftw(FOLDER, entry_remove, 16, FTW_DEPTH | FTW_PHYS);
	must(file_make(FOLDER "/kernel", 4096) == 0 && file_make(FOLDER "/disk", 1 << 20) == 0);
	text = malloc(len + 1);
	must(text != NULL);
	memcpy(text, input, len);
	text[len] = 0;
	s = (struct script){ .patient = patient, .admin.fd = -1, .stranger.fd = -1, .qmp.fd = -1 };
	must(daemon_begin(&s));
	secret_define(&s);
	for (char *line = text, *end; line < text + len; line = end + 1) {
		end = memchr(line, '\n', (size_t)(text + len - line));
		end = end ? end : text + len;
		*end = 0;
		line_do(&s, line, (size_t)(end - line));
	}
	daemon_end(&s);
	script_vms_end();
	free(s.admin.buf);
	free(s.stranger.buf);
	free(s.qmp.buf);
	free(text);
	held_check(&before);
	return s.good;
}
