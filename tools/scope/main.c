/* cairn-scope: asks systemd for the scope of one VM, stays in it until the VM has ended, and registers the VM with
 * systemd-machined. cairnd starts it for VMs with "systemd_scope": true (api/vm/systemd_scope.h), because a call of
 * D-Bus may hang. It uses systemd's own clients, systemd-run and busctl.
 *
 *   cairn-scope UNIT DESCRIPTION   becomes systemd-run, which becomes the next one, in the scope UNIT:
 *   cairn-scope --inside UNIT      says where the scope is
 *   cairn-scope --again FOLDER     enters a scope that an earlier cairn-scope asked for, and says nothing
 *
 * Standard input is a socket to cairnd, of type SEQPACKET. cairn-scope says "scope FOLDER" or "error WHY", then takes
 * "HOW MACHINE UUID PID" (the uuid in 32 digits), says "machine MACHINE" or "note WHY", takes the next one, and ends
 * when cairnd closes the socket. If machined does not answer in time, cairn-scope says "note WHY" and tries once more
 * after some seconds. HOW: "new"; "moved": the process took the VM over; "adopted": an earlier cairn-scope
 * may have registered it.
 *
 * The scope is delegated. cairn-scope is in its folder "holder", and cairnd makes a folder for the VM beside it. */
#include "base/cgroup.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/hex.h"
#include "base/program.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define SOCK STDIN_FILENO
#define SYSTEMD_RUNS "/run/systemd/system"
#define HOLDER_FOLDER "holder"
#define REQUEST_MAX 256
#define ID_BYTES 16
#define STATUS_MISSING 127
/* Time for the answer of machined. The first call may start it, and D-Bus: then the second try waits longer. */
#define CALL_S 10
#define CALL_AGAIN_S 60
#define AGAIN_MS 10000

__attribute__((format(printf, 1, 2))) static void say(const char *fmt, ...)
{
	char text[PATH_MAX + 64];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	send(SOCK, text, strlen(text), MSG_NOSIGNAL);
}

static int fail(const char *why)
{
	say("error %s", why);
	return 1;
}

/* ---- the scope ---- */

/* Units that come after the scope are stopped before it: at the host's shutdown, VMs are stopped first. */
static int scope_ask(const char *unit, const char *description)
{
	char self[PATH_MAX], name[128], about[320];
	char *const argv[] = { (char *)"systemd-run", (char *)"--scope", (char *)"--quiet", (char *)"--collect", name,
		(char *)"--slice=machine.slice", about, (char *)"--property=Delegate=yes", (char *)"--property=TasksMax=infinity",
		(char *)"--property=Before=cairnd.service", (char *)"--property=Before=cairn-guests.service", self, (char *)"--inside",
		(char *)unit, NULL };
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

	if (access(SYSTEMD_RUNS, F_OK) < 0)
		return fail("systemd does not run this host; remove systemd_scope from the definition");
	self[n < 0 ? 0 : n] = 0;
	snprintf(name, sizeof(name), "--unit=%s", unit);
	snprintf(about, sizeof(about), "--description=%s", description);
	execvp(argv[0], argv);
	say("error systemd-run cannot be run: %s", strerror(errno));
	return 1;
}

static int value_write(const char *folder, const char *file, const char *text)
{
	char path[PATH_MAX + 32];
	CLEANUP_CLOSE int fd = -1;

	snprintf(path, sizeof(path), "%s/%s", folder, file);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	return fd < 0 || write(fd, text, strlen(text)) < 0 ? -errno : 0;
}

/* Enter the scope's folder "holder": only a group without processes can give controllers to those below it. */
static int holder_enter(const char *scope)
{
	char holder[PATH_MAX + 16];
	int r;

	snprintf(holder, sizeof(holder), "%s/" HOLDER_FOLDER, scope);
	if (mkdir(holder, 0755) < 0 && errno != EEXIST)
		return -errno;
	r = value_write(holder, "cgroup.procs", "0");
	for (unsigned i = 0; i < CGROUP_CONTROLLERS && !r; i++) {
		char text[16];

		snprintf(text, sizeof(text), "+%s", cgroup_controller_name(i));
		value_write(scope, "cgroup.subtree_control", text); /* cairnd checks which controllers it lacks */
	}
	return r;
}

static int scope_print(const char *unit)
{
	char mount[192], path[PATH_MAX];
	const char *last;
	int r;

	if (!cgroup_mount(mount, sizeof(mount)))
		return fail("control groups of version 2 are not mounted; cairn doctor says more");
	cgroup_folder(mount, 0, path, sizeof(path));
	last = strrchr(path, '/');
	if (!last || strcmp(last + 1, unit)) {
		say("error systemd-run put a process in %.200s, not in the scope %s", path, unit);
		return 1;
	}
	r = holder_enter(path);
	if (r < 0) {
		say("error cannot create a control group in %.200s: %s", path, strerror(-r));
		return 1;
	}
	say("scope %s", path);
	return 0;
}

/* ---- machined ---- */

/* A call of machined's Manager. The last argument is NULL. limit_s: time to wait for the answer.
 * Returns 0; -ETIMEDOUT: nobody answered in time; -EACCES: it was refused; -ENOENT: there is no busctl; -errno. */
static int call(unsigned limit_s, char *const *arguments)
{
	char limit[32], *argv[48] = { (char *)"busctl", (char *)"--quiet", limit, (char *)"call", (char *)"org.freedesktop.machine1",
		(char *)"/org/freedesktop/machine1", (char *)"org.freedesktop.machine1.Manager" };
	uint64_t begin_ns = clock_monotonic_ns();
	pid_t parent = getpid(), child;
	int n = 7, status = 0;

	snprintf(limit, sizeof(limit), "--timeout=%u", limit_s);
	while (*arguments)
		argv[n++] = *arguments++;
	child = fork();
	if (child < 0)
		return -errno;
	if (!child) {
		/* cairnd kills this process when the VM ends; a process that is left would keep the scope. */
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() == parent)
			execvp(argv[0], argv);
		_exit(errno == ENOENT ? STATUS_MISSING : 1);
	}
	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	if (WIFEXITED(status) && !WEXITSTATUS(status))
		return 0;
	if (WIFEXITED(status) && WEXITSTATUS(status) == STATUS_MISSING)
		return -ENOENT;
	/* busctl has one exit status for all errors. */
	return clock_monotonic_ns() - begin_ns >= limit_s * CLOCK_NS_PER_S ? -ETIMEDOUT : -EACCES;
}

struct registration {
	char how[16], machine[72], pid[16];
	uint8_t uuid[ID_BYTES];
	unsigned limit_s; /* of each call */
};

static int machine_add(const struct registration *reg)
{
	char id[ID_BYTES][4], *arguments[32] = { (char *)"RegisterMachine", (char *)"sayssus", (char *)reg->machine, (char *)"16" };
	int n = 4;

	for (unsigned i = 0; i < ID_BYTES; i++) {
		snprintf(id[i], sizeof(id[i]), "%u", reg->uuid[i]);
		arguments[n++] = id[i];
	}
	arguments[n++] = (char *)"cairn";
	arguments[n++] = (char *)"vm";
	arguments[n++] = (char *)reg->pid;
	arguments[n++] = (char *)"";
	return call(reg->limit_s, arguments);
}

static int machine_remove(const struct registration *reg)
{
	return call(reg->limit_s, (char *const[]){ (char *)"UnregisterMachine", (char *)"s", (char *)reg->machine, NULL });
}

static int machine_find(const struct registration *reg)
{
	return call(reg->limit_s, (char *const[]){ (char *)"GetMachine", (char *)"s", (char *)reg->machine, NULL });
}

/* The machine of the VM's last run, or of the process before, may still be there. Returns as call(); a call without an
 * answer is the last one. */
static int machine_register(const struct registration *reg)
{
	int r, found;

	if (!strcmp(reg->how, "adopted")) {
		r = machine_find(reg);
		return r == -EACCES ? machine_add(reg) : r;
	}
	if (!strcmp(reg->how, "moved") && machine_remove(reg) == -ETIMEDOUT)
		return -ETIMEDOUT;
	r = machine_add(reg);
	if (r != -EACCES)
		return r;
	found = machine_find(reg);
	if (found)
		return found == -ETIMEDOUT ? found : r;
	r = machine_remove(reg);
	return r ? r : machine_add(reg);
}

/* Returns whether to try again. */
static bool registration_try(const struct registration *reg)
{
	bool is_last = reg->limit_s != CALL_S;
	int r = machine_register(reg);

	if (!r)
		say("machine %s", reg->machine);
	else if (r == -ETIMEDOUT && !is_last)
		say("note systemd-machined did not answer within %d s; cairn-scope tries again in %d s", CALL_S, AGAIN_MS / 1000);
	else if (r == -ETIMEDOUT)
		say("note systemd-machined did not answer twice, the last time within %d s; see systemctl status systemd-machined", CALL_AGAIN_S);
	else if (r == -ENOENT)
		say("note busctl is missing; install systemd");
	else
		say("note the registration failed; see the daemon's log, and install systemd-machined (Debian: systemd-container)");
	return r == -ETIMEDOUT && !is_last;
}

/* Returns whether the request is complete. */
static bool request_parse(const char *text, struct registration *ret)
{
	char id[2 * ID_BYTES + 1];

	*ret = (struct registration){ .limit_s = CALL_S };
	if (sscanf(text, "%15s %71s %32s %15s", ret->how, ret->machine, id, ret->pid) != 4)
		return false;
	return hex_parse(id, ret->uuid, ID_BYTES);
}

/* Take requests until cairnd closes the socket. A new request replaces one that waits for its second try. */
static void requests_take(void)
{
	struct registration reg = { 0 };
	char text[REQUEST_MAX];
	bool waits = false;
	ssize_t n;

	for (;;) {
		int r = poll(&(struct pollfd){ .fd = SOCK, .events = POLLIN }, 1, waits ? AGAIN_MS : -1);

		if (r < 0 && errno == EINTR)
			continue;
		if (!r) {
			reg.limit_s = CALL_AGAIN_S;
			waits = registration_try(&reg);
			continue;
		}
		n = recv(SOCK, text, sizeof(text) - 1, 0);
		if (n <= 0)
			return;
		text[n] = 0;
		waits = request_parse(text, &reg) && registration_try(&reg);
	}
}

int main(int argc, char **argv)
{
	struct err e;
	int r = program_begin(&e);

	if (r < 0)
		return fail(e.msg);
	if (argc != 3) {
		fputs("usage: cairn-scope UNIT DESCRIPTION\n", stderr);
		return 2;
	}
	if (!strcmp(argv[1], "--again"))
		r = holder_enter(argv[2]);
	else
		r = strcmp(argv[1], "--inside") ? scope_ask(argv[1], argv[2]) : scope_print(argv[2]);
	if (r)
		return 1;
	requests_take();
	return 0;
}
