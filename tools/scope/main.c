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
 * when cairnd closes the socket. HOW: "new"; "moved": the process took the VM over; "adopted": an earlier cairn-scope
 * may have registered it.
 *
 * The scope is delegated. cairn-scope is in its folder "holder", and cairnd makes a folder for the VM beside it. */
#include "base/cgroup.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/program.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define SOCK STDIN_FILENO
#define SYSTEMD_RUNS "/run/systemd/system"
#define HOLDER_FOLDER "holder"
#define REQUEST_MAX 256
#define ID_BYTES 16

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
		value_write(scope, "cgroup.subtree_control", text); /* cairnd sees what it has not */
	}
	return r;
}

static int scope_tell(const char *unit)
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

/* Returns the exit status of a call of machined's Manager; -errno. The last argument is NULL. */
static int call(char *const *arguments)
{
	char *argv[48] = { (char *)"busctl", (char *)"--quiet", (char *)"--timeout=10", (char *)"call", (char *)"org.freedesktop.machine1",
		(char *)"/org/freedesktop/machine1", (char *)"org.freedesktop.machine1.Manager" };
	extern char **environ;
	int n = 7, status = 0, r;
	pid_t child;

	while (*arguments)
		argv[n++] = *arguments++;
	r = -posix_spawnp(&child, argv[0], NULL, NULL, argv, environ);
	if (r < 0)
		return r;
	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

static int machine_add(const char *machine, const uint8_t uuid[ID_BYTES], const char *pid)
{
	char id[ID_BYTES][4], *arguments[32] = { (char *)"RegisterMachine", (char *)"sayssus", (char *)machine, (char *)"16" };
	int n = 4;

	for (unsigned i = 0; i < ID_BYTES; i++) {
		snprintf(id[i], sizeof(id[i]), "%u", uuid[i]);
		arguments[n++] = id[i];
	}
	arguments[n++] = (char *)"cairn";
	arguments[n++] = (char *)"vm";
	arguments[n++] = (char *)pid;
	arguments[n++] = (char *)"";
	return call(arguments);
}

static int machine_remove(const char *machine)
{
	return call((char *const[]){ (char *)"UnregisterMachine", (char *)"s", (char *)machine, NULL });
}

static bool machine_is_known(const char *machine)
{
	return call((char *const[]){ (char *)"GetMachine", (char *)"s", (char *)machine, NULL }) == 0;
}

/* The machine of the VM's last run, or of the process before, may still be there. */
static int machine_register(const char *how, const char *machine, const uint8_t uuid[ID_BYTES], const char *pid)
{
	int r;

	if (!strcmp(how, "adopted"))
		return machine_is_known(machine) ? 0 : machine_add(machine, uuid, pid);
	if (!strcmp(how, "moved"))
		machine_remove(machine);
	r = machine_add(machine, uuid, pid);
	if (r > 0 && machine_is_known(machine) && !machine_remove(machine))
		r = machine_add(machine, uuid, pid);
	return r;
}

static void request_take(char *text)
{
	char *save, *how = strtok_r(text, " ", &save), *machine = strtok_r(NULL, " ", &save), *id = strtok_r(NULL, " ", &save),
	     *pid = strtok_r(NULL, " ", &save);
	uint8_t uuid[ID_BYTES] = { 0 };
	int r;

	for (unsigned i = 0; i < ID_BYTES && pid; i++)
		if (sscanf(id + 2 * (size_t)i, "%2hhx", &uuid[i]) != 1)
			return;
	if (!pid)
		return;
	r = machine_register(how, machine, uuid, pid);
	if (!r)
		say("machine %s", machine);
	else if (r == -ENOENT)
		say("note busctl is missing; install systemd");
	else
		say("note the registration failed; see the daemon's log, and install systemd-machined (Debian: systemd-container)");
}

int main(int argc, char **argv)
{
	char text[REQUEST_MAX];
	struct err e;
	ssize_t n;
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
		r = strcmp(argv[1], "--inside") ? scope_ask(argv[1], argv[2]) : scope_tell(argv[2]);
	if (r)
		return 1;
	while ((n = recv(SOCK, text, sizeof(text) - 1, 0)) > 0) {
		text[n] = 0;
		request_take(text);
	}
	return 0;
}
