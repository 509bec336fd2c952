/* save, restore, managedsave and managedsave-remove: save a VM's state to a file or in the daemon's state folder, start
 * a VM from a file, and remove a managed save. restart-process: give a running VM a new process. */
#include "tools/cairn/cli.h"
#include "tools/cairn/output.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/shell_word.h"
#include "tools/cairn/job.h"
#include "tools/cairn/multi_vm.h"
#include "tools/cairn/state_file.h"
#include "tools/cairn/target.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- save ---- */

/* Say where the state is, or will be: without an answer, nobody knows whether the VM's process has saved it. */
static int save_lost(struct cli *c, const struct target *t, const struct err *e)
{
	int status = cli_fail(e, "Failed to save domain '%s' to %s", c->pos[0], t->path);

	fprintf(stderr, "error: the save may continue. If cairn domstate --reason %s says \"shut off (saved)\", the state is in %s.\n"
		"error: Next: cairn restore %s\n", shell_word(c->pos[0]).s, t->tmp, shell_word(t->tmp).s);
	return status;
}

int verb_save(struct cli *c)
{
	struct target t = { .path = c->pos[1], .fd = -1, .goes_on = true, .kind = "a saved state", .begins = { "CAIRNVMS" } };
	struct err e;
	int r = cli_ready(c, "vm-save", &e);

	if (!r)
		r = target_open(&t, option_flag(c, "no-wait"), &e);
	if (!r)
		r = target_close(&t, job_run(c, "vm-save", cli_vm_args(c->pos[0]), t.fd, "Save", NULL, &e), &e);
	if (r == -EINPROGRESS)
		return CLI_OK;
	if (r < 0 && t.tmp[0] && access(t.tmp, F_OK) == 0)
		return save_lost(c, &t, &e);
	if (r < 0)
		return cli_fail(&e, "Failed to save domain '%s' to %s", c->pos[0], t.path);
	say("Domain '%s' saved to %s\n", c->pos[0], t.path);
	return CLI_OK;
}

/* ---- restore ---- */

/* Print which disks of the guest were written after the save. This is only a hint: their content may be that of the
 * save again, and the file may have been copied since. */
static void disks_warn(const struct state_file *f)
{
	struct json_object *disks = js_get_array(f->definition, "disks");

	for (size_t i = 0; disks && i < json_object_array_length(disks); i++) {
		struct json_object *d = json_object_array_get_idx(disks, i);
		const char *path = js_get_str(d, "path"), *id = js_get_str(d, "id");
		struct stat st;

		if (path && id && !js_get_bool(d, "readonly", false) && stat(path, &st) == 0 && st.st_mtim.tv_sec > f->since.tv_sec)
			fprintf(stderr, "warning: disk %s: %s was written after the save; unless it has its content again, the guest may "
				"damage its file systems\n", id, path);
	}
}

/* Put the disks whose image was moved: those that the user names, and those whose image in the state is gone. */
static void moved_put(const struct cli *c, const struct state_file *f, struct json_object *args)
{
	struct json_object *disks = js_get_array(f->definition, "disks"), *moved = json_object_new_array();
	const char *given[CLI_GIVEN_MAX];
	size_t n = option_values(c, "moved", given, CLI_GIVEN_MAX);

	for (size_t i = 0; i < n; i++)
		json_object_array_add(moved, json_object_new_string(given[i]));
	for (size_t i = 0; disks && i < json_object_array_length(disks); i++) {
		struct json_object *d = json_object_array_get_idx(disks, i);
		const char *path = js_get_str(d, "path"), *id = js_get_str(d, "id");

		if (path && id && access(path, F_OK) < 0 && errno == ENOENT)
			json_object_array_add(moved, json_object_new_string(id));
	}
	if (json_object_array_length(moved))
		js_put(args, "moved", moved);
	else
		json_object_put(moved);
}

static int restore_ask(struct cli *c, const struct state_file *f, struct json_object **ret_answer, struct err *e)
{
	struct json_object *args = json_object_new_object();

	js_put(args, "definition", json_object_get(f->definition));
	js_put_bool(args, "paused", option_flag(c, "paused") || (f->header.paused && !option_flag(c, "running")));
	js_put_bool(args, "eager", option_flag(c, "eager"));
	if (option_flag(c, "transient"))
		js_put_bool(args, "transient", true);
	moved_put(c, f, args);
	return cli_execute_with_fd(c, "vm-restore", args, f->fd, ret_answer, NULL, e);
}

int verb_restore(struct cli *c)
{
	struct state_file f CLEANUP(state_file_done) = { .fd = -1 };
	CLEANUP_JS struct json_object *answer = NULL;
	const char *differs;
	struct err e;
	int r;

	if (option_flag(c, "running") && option_flag(c, "paused"))
		return cli_usage(c, "--running and --paused exclude each other");
	r = state_file_open(c->pos[0], false, &f, &e);
	if (!r) {
		disks_warn(&f);
		r = restore_ask(c, &f, &answer, &e);
	}
	if (r < 0)
		return cli_fail(&e, "Failed to restore domain from %s", c->pos[0]);
	if (c->format != CLI_TABLE) {
		output_print(stdout, c->format, answer);
		return CLI_OK;
	}
	say("Domain restored from %s\n", c->pos[0]);
	differs = js_get_str(answer, "differs");
	if (differs)
		say("%s; the VM runs with that one until it is off\n", differs);
	return CLI_OK;
}

/* Return whether the verb prints one outcome for each VM: a table, or a list for programs. */
static bool prints_outcomes(const struct cli *c)
{
	return multi_vm_is_meant(c, false) || (c->format != CLI_TABLE && !option_flag(c, "no-wait"));
}

/* ---- managedsave, managedsave-remove ---- */

static void managedsave_add(struct cli *c, struct json_object *args)
{
	if (option_flag(c, "running") || option_flag(c, "paused"))
		js_put_str(args, "then", option_flag(c, "paused") ? "paused" : "running");
}

static int managedsave_many(struct cli *c)
{
	static const struct multi_vm_act a = { .command = "vm-managed-save", .fail = "save", .done = "state saved by cairn",
		.add = managedsave_add, .job = true };

	if (option_flag(c, "no-wait"))
		return cli_usage(c, "--no-wait accepts only one VM");
	return multi_vm_do(c, &a);
}

int verb_managedsave(struct cli *c)
{
	struct json_object *args;
	struct err e;
	int r;

	if (option_flag(c, "running") && option_flag(c, "paused"))
		return cli_usage(c, "--running and --paused exclude each other");
	if (prints_outcomes(c))
		return managedsave_many(c);
	args = cli_vm_args(c->pos[0]);
	managedsave_add(c, args);
	r = job_run(c, "vm-managed-save", args, -1, "Managedsave", NULL, &e);
	if (r == -EINPROGRESS)
		return CLI_OK;
	if (r < 0)
		return cli_fail(&e, "Failed to save domain '%s' state", c->pos[0]);
	say("Domain '%s' state saved by cairn\n", c->pos[0]);
	return CLI_OK;
}

static int managedsave_remove_many(struct cli *c)
{
	static const struct multi_vm_act a = { .command = "vm-managed-save-remove",
		.fail = "remove managed save image for", .done = "has no managed save now" };

	return multi_vm_do(c, &a);
}

int verb_managedsave_remove(struct cli *c)
{
	CLEANUP_JS struct json_object *info = NULL;
	struct err e;
	int r;

	if (multi_vm_is_meant(c, false))
		return managedsave_remove_many(c);
	r = cli_vm_info(c, c->pos[0], &info, &e);
	if (!r && !js_get_bool(info, "managed-save", false)) {
		CLEANUP_JS struct json_object *none = json_object_new_array();

		if (c->format != CLI_TABLE)
			output_print(stdout, c->format, none);
		say("Domain '%s' has no manage save image; removal skipped\n", c->pos[0]);
		return CLI_OK;
	}
	if (c->format != CLI_TABLE)
		return managedsave_remove_many(c);
	if (!r)
		r = cli_execute(c, "vm-managed-save-remove", cli_vm_args(c->pos[0]), NULL, NULL, &e);
	if (r < 0)
		return cli_fail(&e, "Failed to remove managed save image for domain '%s'", c->pos[0]);
	say("Removed managedsave image for domain '%s'\n", c->pos[0]);
	return CLI_OK;
}

/* ---- restart-process ---- */

/* Say how the VM came into its new process: " (handed over, paused 12 ms)". An older daemon does not say. */
static void restart_describe(struct json_object *result, char *buf, size_t size)
{
	const char *way = js_get_str(result, "way"), *why = js_get_str(result, "why");
	int64_t pause_ns = js_get_int(result, "pause", 0);
	char pause[48] = "", slowed[JOB_SLOWED_TEXT];

	buf[0] = 0;
	if (!way)
		return;
	if (pause_ns)
		snprintf(pause, sizeof(pause), ", paused %.3g ms", (double)pause_ns / 1e6);
	job_slowed_text(result, slowed);
	snprintf(buf, size, " (%s%s%s%s%s%s)", strcmp(way, "save") ? "handed over" : "saved and started", pause,
		slowed[0] ? ", " : "", slowed, why ? "; " : "", why ? why : "");
}

static int restart_process_many(struct cli *c)
{
	static const struct multi_vm_act a = { .command = "vm-restart-process", .fail = "restart the process of",
		.done = "runs in a new process", .job = true };

	if (option_flag(c, "no-wait"))
		return cli_usage(c, "--no-wait accepts only one VM");
	return multi_vm_do(c, &a);
}

int verb_restart_process(struct cli *c)
{
	CLEANUP_JS struct json_object *result = NULL;
	char how[512];
	struct err e;
	int r;

	if (prints_outcomes(c))
		return restart_process_many(c);
	r = job_run(c, "vm-restart-process", cli_vm_args(c->pos[0]), -1, "Restart", &result, &e);
	if (r == -EINPROGRESS)
		return CLI_OK;
	if (r < 0)
		return cli_fail(&e, "Failed to restart the process of domain '%s'", c->pos[0]);
	restart_describe(result, how, sizeof(how));
	say("Domain '%s' runs in a new process%s\n", c->pos[0], how);
	job_tracking_print(c, result);
	return CLI_OK;
}
