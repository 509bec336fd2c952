/* dominfo, domid, domuuid, domname, domstate and domblkerror: print a VM's members of vm-info. qmp-path: print the
 * path of its QMP socket. version: print the versions of cairn and of the daemon. */
#include "tools/cairn/cli.h"
#include "api/store/paths.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/shell_word.h"
#include "base/size.h"
#include "base/util.h"
#include "tools/cairn/change.h"
#include "tools/cairn/output.h"
#include "tools/cairn/pool.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define UNREADABLE "not readable"

/* Print a time if the member exists. */
static void time_print(struct json_object *o, const char *key, const char *label)
{
	int64_t ns = js_get_int(o, key, 0);
	char buf[TIME_TEXT_BYTES];

	if (ns)
		label_print(stdout, label, "%s", time_text(ns, false, buf));
}

static void member_label(struct json_object *o, const char *key, const char *label)
{
	const char *text = js_get_str(o, key);

	if (text)
		label_print(stdout, label, "%s", text);
}

/* Print a value that the daemon sets by load, in `unit`. */
static void balanced_print(struct json_object *o, int64_t unit, const char *label, const char *unit_text)
{
	const char *lack = js_get_str(o, "lack"), *reason = js_get_str(o, "reason");

	if (o)
		label_print(stdout, label, "%lld%s, balanced from %lld to %lld%s%s%s", (long long)(js_get_int(o, "now", 0) / unit), unit_text,
			(long long)(js_get_int(o, "min", 0) / unit), (long long)(js_get_int(o, "max", 0) / unit), unit_text,
			lack ? "; without effect: " : reason ? "; last change: " : "", lack ? lack : reason ? reason : "");
}

static void info_print(struct json_object *o)
{
	int64_t id = js_get_int(o, "id", -1), cpu = js_get_int(o, "cpu-time", -1),
		again = js_get_int(o, "restart-in", -1);

	if (id >= 0)
		label_print(stdout, "Id:", "%lld", (long long)id);
	else
		label_print(stdout, "Id:", "-");
	label_print(stdout, "Name:", "%s", js_get_str_or(o, "name", "-"));
	label_print(stdout, "UUID:", "%s", js_get_str_or(o, "uuid", "-"));
	label_print(stdout, "OS Type:", "hvm");
	label_print(stdout, "State:", "%s", cli_vm_state(o));
	if (js_get_str(o, "detail")) {
		member_label(o, "reason", "Reason:");
		member_label(o, "detail", "Detail:");
	}
	if (js_get_bool(o, "outdated", false))
		label_print(stdout, "Process:", "outdated (another build; update: cairn restart-process %s)",
			shell_word(js_get_str_or(o, "name", "-")).s);
	member_label(o, "waits-for-hook", "Waits for hook:");
	time_print(o, "shutdown-at", "Shutdown at:");
	time_print(o, "reboot-at", "Reboot at:");
	time_print(o, "start-at", "Start at:");
	member_label(o, "delayed", "Delayed by:");
	time_print(o, "shutdown-deadline", "Deadline:");
	if (js_get_bool(o, "shutdown-overdue", false))
		label_print(stdout, "Deadline:", "passed; the guest has not shut down (stop it: cairn destroy %s)",
			shell_word(js_get_str_or(o, "name", "-")).s);
	if (again >= 0)
		label_print(stdout, "Restarts in:", "%.1fs", (double)again / 1e9);
	label_print(stdout, "CPU(s):", "%lld", (long long)js_get_int(o, "vcpus", 0));
	if (cpu >= 0)
		label_print(stdout, "CPU time:", "%.1fs", (double)cpu / 1e9);
	label_print(stdout, "Max memory:", "%lld KiB", (long long)js_get_int(o, "memory", 0) / 1024);
	label_print(stdout, "Used memory:", "%lld KiB",
		(long long)js_get_int(o, "used-memory", 0) / 1024);
	balanced_print(js_get(js_get(o, "balance"), "cpu-shares"), 1, "CPU shares:", "");
	balanced_print(js_get(js_get(o, "balance"), "memory"), 1024, "Balloon:", " KiB");
	growth_print(o);
	label_print(stdout, "Persistent:", "%s", js_get_bool(o, "persistent", true) ? "yes" : "no");
	if (js_get_bool(o, "ephemeral", false))
		label_print(stdout, "Ephemeral:", "yes");
	label_print(stdout, "Autostart:", "%s",
		js_get_bool(o, "autostart", false) ? "enable" : "disable");
	label_print(stdout, "Managed save:", "%s",
		js_get_bool(o, "managed-save", false) ? "yes" : "no");
	label_print(stdout, "Machine type:", "cairn-%lld", (long long)js_get_int(o, "machine", 0));
	if (js_get_bool(o, "template", false))
		label_print(stdout, "Template:", "yes");
	member_label(js_get(o, "systemd-scope"), "unit", "Scope:");
	member_label(js_get(o, "systemd-scope"), "machine", "Machine:");
	member_label(js_get(o, "systemd-scope"), "lack", "Scope lacks:");
	printf("\n");
}

/* Print the numbers of an array in one line; a single one if all are equal. */
static void numbers_print(struct json_object *o, const char *key, const char *label)
{
	struct json_object *list = js_get_array(o, key);
	size_t n = list ? json_object_array_length(list) : 0;
	bool same = true;

	for (size_t i = 1; i < n; i++)
		same = same && json_object_equal(json_object_array_get_idx(list, i), json_object_array_get_idx(list, 0));
	printf("%-15s", label);
	for (size_t i = 0; i < (same ? MIN(n, 1) : n); i++) {
		int64_t v = json_object_get_int64(json_object_array_get_idx(list, i));

		if (v < 0)
			printf(" unlimited");
		else
			printf(" %lld", (long long)v);
	}
	printf("%s\n", !list ? " " UNREADABLE : n ? "" : " none");
}

static void capabilities_print(struct json_object *o, const char *key, const char *label)
{
	const char *hex = js_get_str_or(o, key, UNREADABLE);

	label_print(stdout, label, "%s", hex[strspn(hex, "0")] ? hex : "none");
}

/* Print a member with words before it; zero and missing: words instead of 0 and of a missing member. */
static void count_print(struct json_object *o, const char *key, const char *label, const char *before, const char *zero,
	const char *missing)
{
	int64_t n = js_get_int(o, key, -1);

	if (n > 0)
		label_print(stdout, label, "%s%lld", before, (long long)n);
	else
		label_print(stdout, label, "%s", n ? missing : zero);
}

/* Print the namespaces whose word is this one. */
static void namespaces_print(struct json_object *o, const char *word, const char *label)
{
	struct json_object *spaces = js_get(o, "namespaces");
	bool any = false;

	printf("%-15s", label);
	if (json_object_is_type(spaces, json_type_object)) {
		json_object_object_foreach(spaces, name, v)
		{
			if (strcmp(json_object_is_type(v, json_type_string) ? json_object_get_string(v) : "", word))
				continue;
			printf(" %s", name);
			any = true;
		}
		printf("%s\n", any ? "" : " none");
	} else {
		printf(" " UNREADABLE "\n");
	}
}

/* Print each text of an array in a line of its own. none: instead of an empty array; NULL: no line. */
static void lines_print(struct json_object *o, const char *key, const char *label, const char *none)
{
	struct json_object *list = js_get_array(o, key);
	size_t n = list ? json_object_array_length(list) : 0;

	if (!list)
		label_print(stdout, label, UNREADABLE);
	else if (!n && none)
		label_print(stdout, label, "%s", none);
	for (size_t i = 0; i < n; i++) {
		const char *line = json_object_get_string(json_object_array_get_idx(list, i));

		label_print(stdout, label, "%s", line ? line : "-");
	}
}

static void interfaces_print(struct json_object *o)
{
	struct json_object *list = js_get_array(o, "interfaces");
	size_t n = list ? json_object_array_length(list) : 0;

	printf("%-15s", "Interfaces:");
	for (size_t i = 0; i < n; i++)
		printf(" %s", json_object_get_string(json_object_array_get_idx(list, i)));
	printf("%s\n", !list ? " " UNREADABLE : n ? "" : " none");
}

static void group_limits_print(struct json_object *o)
{
	if (!o)
		return;
	json_object_object_foreach(o, file, text)
		label_print(stdout, "Group limit:", "%s %s", file, json_object_get_string(text));
}

static void sandbox_print(struct json_object *o)
{
	const char *mode = js_get_str_or(o, "seccomp", UNREADABLE);
	int64_t filters = js_get_int(o, "seccomp-filters", 0);

	label_print(stdout, "Process:", "%lld", (long long)js_get_int(o, "pid", -1));
	numbers_print(o, "uids", "User:");
	numbers_print(o, "gids", "Group:");
	numbers_print(o, "groups", "Other groups:");
	capabilities_print(o, "cap-effective", "CapEff:");
	capabilities_print(o, "cap-permitted", "CapPrm:");
	label_print(stdout, "NoNewPrivs:", "%s",
		!js_get(o, "no-new-privs") ? UNREADABLE : js_get_bool(o, "no-new-privs", false) ? "yes" : "no");
	if (filters)
		label_print(stdout, "Seccomp:", "%s, %lld filter%s", mode, (long long)filters, filters == 1 ? "" : "s");
	else
		label_print(stdout, "Seccomp:", "%s", mode);
	count_print(o, "landlock", "Landlock:", "version ", "none", "not known");
	count_print(o, "threads", "Threads:", "", "0", UNREADABLE);
	numbers_print(o, "limit-core", "Core limit:");
	numbers_print(o, "limit-fsize", "Size limit:");
	numbers_print(o, "limit-nofile", "File limit:");
	numbers_print(o, "limit-nproc", "Thread limit:");
	namespaces_print(o, "own", "Own namespaces:");
	namespaces_print(o, "daemon", "Daemon's:");
	count_print(o, "mounts", "Mounts:", "", "0", UNREADABLE);
	interfaces_print(o);
	lines_print(o, "lacks", "Lacks:", "none");
	lines_print(o, "cgroups", "Control group:", NULL);
	group_limits_print(js_get(o, "cgroup-limits"));
	printf("\n");
}

static int dominfo_sandbox(struct cli *c)
{
	CLEANUP_JS struct json_object *o = NULL;
	struct err e;

	if (cli_execute(c, "vm-sandbox", cli_vm_args(c->pos[0]), &o, NULL, &e) < 0)
		return cli_fail(&e, "failed to get the sandbox of domain '%s'", c->pos[0]);
	if (c->format == CLI_TABLE)
		sandbox_print(o);
	else
		output_print(stdout, c->format, o);
	return CLI_OK;
}

void cli_vm_info_complete(struct cli *c, struct json_object *info)
{
	CLEANUP_JS struct json_object *definition = NULL;
	struct json_object *disks, *list;
	const char *memory;
	uint64_t bytes;
	struct err e;

	if (js_get(info, "pid") || js_get_int(info, "used-memory", 0) || change_read(c, js_get_str_or(info, "name", ""), &definition, &e) < 0)
		return;
	memory = js_get_str(definition, "current_memory");
	if (!memory || size_parse(memory, MIB, &bytes) < 0)
		bytes = (uint64_t)js_get_int(info, "memory", 0);
	js_put_uint(info, "used-memory", bytes);
	disks = js_get_array(definition, "disks");
	list = json_object_new_array();
	for (size_t i = 0; disks && i < json_object_array_length(disks); i++) {
		struct json_object *o = json_object_new_object(), *disk = json_object_array_get_idx(disks, i);

		js_put_str(o, "id", js_get_str(disk, "id"));
		js_put_str(o, "path", js_get_str(disk, "path"));
		json_object_array_add(list, o);
	}
	js_put(info, "disks", list);
}

int verb_dominfo(struct cli *c)
{
	CLEANUP_JS struct json_object *o = NULL;
	struct err e;

	if (option_flag(c, "sandbox"))
		return dominfo_sandbox(c);
	if (cli_vm_info(c, c->pos[0], &o, &e) < 0)
		return cli_fail(&e, "failed to get domain '%s'", c->pos[0]);
	if (c->format != CLI_TABLE) {
		output_print(stdout, c->format, o);
		return CLI_OK;
	}
	cli_vm_info_complete(c, o);
	info_print(o);
	return CLI_OK;
}

/* Print one member of vm-info. */
static int member_print(struct cli *c, const char *key)
{
	CLEANUP_JS struct json_object *o = NULL;
	struct err e;

	if (cli_vm_info(c, c->pos[0], &o, &e) < 0)
		return cli_fail(&e, "failed to get domain '%s'", c->pos[0]);
	printf("%s\n", cli_vm_member(o, key));
	return CLI_OK;
}

int verb_domid(struct cli *c)
{
	return member_print(c, "id");
}

int verb_domuuid(struct cli *c)
{
	return member_print(c, "uuid");
}

int verb_domname(struct cli *c)
{
	return member_print(c, "name");
}

int verb_domstate(struct cli *c)
{
	CLEANUP_JS struct json_object *o = NULL;
	CLEANUP_JS struct json_object *shown = json_object_new_object();
	const char *detail;
	struct err e;

	if (cli_vm_info(c, c->pos[0], &o, &e) < 0)
		return cli_fail(&e, "failed to get domain '%s'", c->pos[0]);
	if (c->format != CLI_TABLE) {
		js_put_str(shown, "state", js_get_str_or(o, "state", "-"));
		js_put_str(shown, "reason", js_get_str_or(o, "reason", "-"));
		detail = js_get_str(o, "detail");
		js_put_str(shown, "detail", detail);
		output_print(stdout, c->format, shown);
	} else if (option_flag(c, "reason")) {
		printf("%s (%s%s)\n", cli_vm_state(o), js_get_str_or(o, "reason", "-"),
			js_get(o, "restart-in") ? ", restarting" : "");
	} else {
		printf("%s\n", cli_vm_state(o));
	}
	return CLI_OK;
}

/* Returns {"disk", "error"} for each disk whose error has paused the VM. */
static struct json_object *faults_of(struct json_object *disks)
{
	struct json_object *faults = json_object_new_array();

	for (size_t i = 0; i < json_object_array_length(disks); i++) {
		struct json_object *d = json_object_array_get_idx(disks, i), *o;

		if (!js_get_str(d, "fault"))
			continue;
		o = json_object_new_object();
		js_put_str(o, "disk", js_get_str_or(d, "id", "-"));
		js_put_str(o, "error", js_get_str_or(d, "fault", "-"));
		json_object_array_add(faults, o);
	}
	return faults;
}

int verb_domblkerror(struct cli *c)
{
	CLEANUP_JS struct json_object *o = NULL;
	CLEANUP_JS struct json_object *faults = NULL;
	struct json_object *disks;
	struct err e;
	int r = cli_vm_info(c, c->pos[0], &o, &e);

	disks = r < 0 ? NULL : js_get_array(o, "disks");
	if (!r && !disks)
		r = err_set(&e, -EPERM, ERR_WRONG_STATE,
			"VM '%s' is %s, and only a running VM has errors of its disks. Next: cairn start %s",
			c->pos[0], cli_vm_state(o), shell_word(c->pos[0]).s);
	if (r < 0)
		return cli_fail(&e, "failed to get disk errors of domain '%s'", c->pos[0]);
	faults = faults_of(disks);
	if (c->format != CLI_TABLE) {
		output_print(stdout, c->format, faults);
		return CLI_OK;
	}
	for (size_t i = 0; i < json_object_array_length(faults); i++) {
		struct json_object *f = json_object_array_get_idx(faults, i);

		printf("%s: %s\n", js_get_str_or(f, "disk", "-"), js_get_str_or(f, "error", "-"));
	}
	if (!json_object_array_length(faults))
		printf("No errors found\n");
	return CLI_OK;
}

int verb_qmp_path(struct cli *c)
{
	CLEANUP_JS struct json_object *o = NULL;
	struct err e;

	if (cli_execute(c, "vm-qmp-path", cli_vm_args(c->pos[0]), &o, NULL, &e) < 0)
		return cli_fail(&e, "failed to get the socket of domain '%s'", c->pos[0]);
	printf("%s\n", js_get_str_or(o, "path", "-"));
	return CLI_OK;
}

int verb_version(struct cli *c)
{
	CLEANUP_JS struct json_object *shown = json_object_new_object();
	CLEANUP_JS struct json_object *o = NULL;
	char socket[PATH_MAX];
	struct err e;
	int r = paths_client_socket(c->socket, socket, sizeof(socket), &e);
	bool known = r == 0;

	if (known)
		r = cli_execute(c, "query-version", NULL, &o, NULL, &e);
	js_put_str(shown, "cairn", CAIRN_VERSION);
	if (r == 0)
		js_put_str(shown, "cairnd", js_get_str_or(o, "cairn", "-"));
	if (known)
		js_put_str(shown, "socket", socket);
	if (c->format != CLI_TABLE) {
		output_print(stdout, c->format, shown);
		return r < 0 && option_flag(c, "daemon") ? cli_exit_code(e.cls) : CLI_OK;
	}
	printf("cairn %s\n", CAIRN_VERSION);
	if (r == 0)
		printf("cairnd %s\n", js_get_str_or(o, "cairn", "-"));
	else
		printf("cairnd: %s\n", e.msg);
	if (known)
		printf("socket %s\n", socket);
	return r < 0 && option_flag(c, "daemon") ? cli_exit_code(e.cls) : CLI_OK;
}
