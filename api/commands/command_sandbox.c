/* Handler of vm-sandbox: returns the confinement that the kernel reports in /proc of the VM's process, and the
 * version of landlock, which only the process itself reports. */
#include "api/commands/command.h"
#include "api/definition/definition.h"
#include "api/vm/systemd_scope.h"
#include "api/vm/vm.h"
#include "api/vm/vm_cgroup.h"
#include "api/vm/vm_process.h"
#include "api/vm/vm_sandbox.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/shell_word.h"
#include "base/utf8.h"
#include "base/util.h"
#include "base/uuid.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define QUERY_TIMEOUT_NS (1000000000ULL)
/* Some clients read lines of at most 64 KiB. A larger file, such as that of a process with 1,500 groups, counts as not
 * readable. */
#define PROC_BYTES (10 * 1024)
/* Limit for the tables in /proc of which this handler only counts the lines. */
#define TABLE_BYTES (1024 * 1024)
#define OLDER_OR_DAEMONS_LOG "see the daemon's log; an older version of Cairn may have started the process"

/* Returns the content of a file in /proc/PID, which the caller frees; NULL: the daemon may not read the file. */
static char *proc_read(pid_t pid, const char *name, size_t max)
{
	char path[64], *text = NULL;
	struct err e;
	size_t len;

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
	return file_read(path, max, &text, &len, &e) < 0 ? NULL : text;
}

/* Returns the text after a key, which begins with the newline before it; NULL: the kernel does not report it. */
static const char *value_of(const char *text, const char *key)
{
	const char *at = strstr(text, key);

	return at ? at + strlen(key) : NULL;
}

/* Add the numbers at the beginning of a value as an array, with -1 for "unlimited". */
static void put_numbers(struct json_object *o, const char *name, const char *at)
{
	struct json_object *list;
	char *end;

	if (!at)
		return;
	list = json_object_new_array();
	for (at += strspn(at, " \t"); isdigit((unsigned char)*at) || !strncmp(at, "unlimited", 9); at += strspn(at, " \t")) {
		if (*at == 'u') {
			json_object_array_add(list, json_object_new_int64(-1));
			at += 9;
			continue;
		}
		json_object_array_add(list, json_object_new_uint64(strtoull(at, &end, 10)));
		at = end;
	}
	js_put(o, name, list);
}

static void put_number(struct json_object *o, const char *name, const char *at)
{
	if (at)
		js_put_uint(o, name, strtoull(at, NULL, 10));
}

static void put_capabilities(struct json_object *o, const char *name, const char *at)
{
	char hex[17];

	if (at && sscanf(at, "%16[0-9a-f]", hex) == 1)
		js_put_str(o, name, hex);
}

static void put_status(struct json_object *o, pid_t pid)
{
	static const char *const modes[] = { "disabled", "strict", "filter" };
	CLEANUP_FREE char *text = proc_read(pid, "status", PROC_BYTES);
	const char *at;

	if (!text)
		return;
	put_numbers(o, "uids", value_of(text, "\nUid:"));
	put_numbers(o, "gids", value_of(text, "\nGid:"));
	put_numbers(o, "groups", value_of(text, "\nGroups:"));
	put_capabilities(o, "cap-effective", value_of(text, "\nCapEff:\t"));
	put_capabilities(o, "cap-permitted", value_of(text, "\nCapPrm:\t"));
	at = value_of(text, "\nNoNewPrivs:\t");
	if (at)
		js_put_bool(o, "no-new-privs", *at == '1');
	at = value_of(text, "\nSeccomp:\t");
	if (at && *at >= '0' && *at < '0' + (int)ARRAY_SIZE(modes))
		js_put_str(o, "seccomp", modes[*at - '0']);
	put_number(o, "seccomp-filters", value_of(text, "\nSeccomp_filters:\t"));
	put_number(o, "threads", value_of(text, "\nThreads:\t"));
}

static void put_limits(struct json_object *o, pid_t pid)
{
	CLEANUP_FREE char *text = proc_read(pid, "limits", PROC_BYTES);

	if (!text)
		return;
	put_numbers(o, "limit-core", value_of(text, "\nMax core file size "));
	put_numbers(o, "limit-fsize", value_of(text, "\nMax file size "));
	put_numbers(o, "limit-nofile", value_of(text, "\nMax open files "));
	put_numbers(o, "limit-nproc", value_of(text, "\nMax processes "));
}

/* Put the result of take() for each line of a file of the process. take: returns NULL to omit the line. */
static void put_lines(struct json_object *o, const char *key, pid_t pid, const char *file, char *(*take)(char *line))
{
	CLEANUP_FREE char *text = proc_read(pid, file, PROC_BYTES);
	struct json_object *list;
	char *rest = NULL;

	if (!text)
		return;
	list = json_object_new_array();
	for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
		char *taken = take(line);

		if (!taken)
			continue;
		utf8_clean(taken);
		json_object_array_add(list, json_object_new_string(taken));
	}
	js_put(o, key, list);
}

static char *whole_line(char *line)
{
	return line;
}

/* The table has two lines of titles; the name of an interface ends at a colon. */
static char *interface_name(char *line)
{
	char *name = line + strspn(line, " "), *end = strchr(name, ':');

	if (end)
		*end = 0;
	return end ? name : NULL;
}

/* Whether the process is in another user namespace than the daemon. Unlike the links, its map of users is readable for
 * everybody. */
static void put_user_namespace(struct json_object *spaces, pid_t pid)
{
	CLEANUP_FREE char *its = proc_read(pid, "uid_map", PROC_BYTES), *ours = proc_read(getpid(), "uid_map", PROC_BYTES);

	if (its && ours && its[0])
		js_put_str(spaces, "user", strcmp(its, ours) ? "own" : "daemon");
}

/* Only a process that may trace the VM's process can read the links. */
static void put_namespaces(struct json_object *o, pid_t pid)
{
	static const char *const names[] = { "mnt", "net", "pid", "ipc", "uts", "user" };
	struct json_object *spaces = json_object_new_object();

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		struct stat its, ours;
		char path[64];

		snprintf(path, sizeof(path), "/proc/%d/ns/%s", (int)pid, names[i]);
		if (stat(path, &its) < 0)
			continue;
		snprintf(path, sizeof(path), "/proc/self/ns/%s", names[i]);
		if (stat(path, &ours) < 0)
			continue;
		js_put_str(spaces, names[i], its.st_ino == ours.st_ino && its.st_dev == ours.st_dev ? "daemon" : "own");
	}
	if (!js_get(spaces, "user"))
		put_user_namespace(spaces, pid);
	if (json_object_object_length(spaces))
		js_put(o, "namespaces", spaces);
	else
		json_object_put(spaces);
}

/* The number of file systems below the process's root, that of the root included. */
static void put_mounts(struct json_object *o, pid_t pid)
{
	CLEANUP_FREE char *text = proc_read(pid, "mountinfo", TABLE_BYTES);
	unsigned n = 0;

	for (const char *at = text; at && (at = strchr(at, '\n')); at++)
		n++;
	if (text)
		js_put_uint(o, "mounts", n);
}

static void lack_add(struct json_object *list, const char *what, const char *why)
{
	char text[300];

	snprintf(text, sizeof(text), "%s: %s", what, why);
	json_object_array_add(list, json_object_new_string(text));
}

/* Return whether the process is in the group of its VM, whose folder has the name of the uuid. */
static bool is_in_own_group(struct json_object *o, const char *uuid)
{
	struct json_object *list = js_get_array(o, "cgroups");

	for (size_t i = 0; list && i < json_object_array_length(list); i++) {
		const char *line = json_object_get_string(json_object_array_get_idx(list, i)), *last = strrchr(line, '/');

		if (!strncmp(line, "0::/", 4) && !strcmp(last + 1, uuid))
			return true;
	}
	return false;
}

static void put_group_limits(struct json_object *o, const struct cgroup_tree *t, const char *uuid)
{
	static const char *const files[] = { "memory.max", "pids.max", "cpu.weight", "cpu.max" };
	struct json_object *limits = json_object_new_object();
	char text[64];

	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		if (cgroup_tree_read_text(t, uuid, files[i], text, sizeof(text)) < 0)
			continue;
		text[strcspn(text, "\n")] = 0;
		js_put_str(limits, files[i], text);
	}
	js_put(o, "cgroup-limits", limits);
}

static void put_group(struct json_object *o, const struct vm *vm, struct json_object *lacks)
{
	const struct vm_sandbox *s = vm->host->sandbox;
	const struct cgroup_tree *t = vm_cgroup_tree(vm);
	const char *why = vm->scope_tree ? vm->scope_tree->lack : s ? vm_sandbox_cgroup_lack(s) : NULL;
	char uuid[UUID_TEXT];
	bool own;

	uuid_print(vm->def->uuid, uuid);
	own = is_in_own_group(o, uuid);
	if (own && t)
		put_group_limits(o, t, uuid);
	if (!own || (why && *why))
		lack_add(lacks, "control group", why && *why ? why : OLDER_OR_DAEMONS_LOG);
	if (systemd_scope_lack(vm))
		lack_add(lacks, "systemd_scope", systemd_scope_lack(vm));
}

/* List the parts of the sandbox that this VM's process lacks, with the reasons. */
static void put_lacks(struct json_object *o, const struct vm *vm)
{
	const struct vm_sandbox *s = vm->host->sandbox;
	struct json_object *list = json_object_new_array(), *spaces = js_get(o, "namespaces"), *uid;
	const char *why;

	for (unsigned i = 0; i < VM_SANDBOX_SPACES; i++) {
		const char *name = vm_sandbox_space_name(i), *whose = js_get_str(spaces, name);
		char what[32];

		snprintf(what, sizeof(what), "%s namespace", name);
		if (!vm_sandbox_space_is_needed(i))
			continue;
		if (whose ? strcmp(whose, "daemon") : s && !vm_sandbox_space_lack(s, i))
			continue;
		why = s ? vm_sandbox_space_lack(s, i) : NULL;
		lack_add(list, what, why ? why : i == VM_SANDBOX_PID ? OLDER_OR_DAEMONS_LOG :
			"see the VM's log; an older version of Cairn may have started the process");
	}
	uid = js_get_array(o, "uids");
	why = s ? vm_sandbox_uid_lack(s) : NULL;
	if (uid && json_object_get_int64(json_object_array_get_idx(uid, 0)) == geteuid())
		lack_add(list, "own user id", why ? why : "an older version of Cairn started the process");
	put_group(o, vm, list);
	if (!js_get_int(o, "landlock", 1))
		lack_add(list, "landlock", "the kernel has none, or it is switched off");
	js_put(o, "lacks", list);
}

static int sandbox_read(const struct vm *vm, const struct vm_info *info, struct json_object *o, struct err *e)
{
	pid_t pid = vm->proc ? vm_process_pid(vm->proc) : -1;

	if (pid <= 0)
		return err_set(e, -ESRCH, ERR_HOST, "VM '%.200s' has a process whose pid is not known, because it has not answered "
			"this daemon yet", vm->def->name);
	js_put_int(o, "pid", pid);
	put_status(o, pid);
	put_limits(o, pid);
	put_lines(o, "cgroups", pid, "cgroup", whole_line);
	put_namespaces(o, pid);
	put_mounts(o, pid);
	put_lines(o, "interfaces", pid, "net/dev", interface_name);
	if (info && info->landlock)
		js_put_int(o, "landlock", info->landlock - 1);
	put_lacks(o, vm);
	/* Until the process has ended, no other one can have its pid. */
	if (vm_process_has_ended(vm->proc))
		return err_set(e, -ESRCH, ERR_WRONG_STATE, "the process of VM '%.200s' has ended", vm->def->name);
	return 0;
}

/* If the VM's process does not answer, return the kernel's values only. */
static void sandbox_done(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct call *c = opaque;
	struct json_object *o;
	struct err failure;

	if (r == -ESRCH) {
		call_fail(c, e);
		return;
	}
	o = json_object_new_object();
	if (sandbox_read(c->vm, r ? NULL : a->info, o, &failure) < 0) {
		json_object_put(o);
		call_fail(c, &failure);
		return;
	}
	call_return(c, o);
}

void command_vm_sandbox(struct call *c)
{
	struct err e;

	if (c->vm->proc && vm_state_is_active(c->vm->state)) {
		vm_process_request(c->vm->proc, VM_MSG_QUERY, NULL, 0, -1, QUERY_TIMEOUT_NS, sandbox_done, c);
		return;
	}
	err_set(&e, -EPERM, ERR_WRONG_STATE, "VM '%.200s' is %s and has no process; next: cairn start %s", c->vm->def->name,
		vm_state_name(c->vm->state), shell_word(c->vm->def->name).s);
	call_fail(c, &e);
}
