/* save, restore, managedsave and managedsave-remove: save a VM's state to a file or in the daemon's state folder, start
 * a VM from a file, and remove a managed save. restart-process: give a running VM a new process. */
#include "tools/cairn/cli.h"
#include "tools/cairn/output.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "snapshot/vmstate.h"
#include "tools/cairn/job.h"
#include "tools/cairn/multi_vm.h"
#include "tools/cairn/target.h"

#include <errno.h>
#include <fcntl.h>
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
		"error: Next: cairn restore %s\n", c->pos[0], t->tmp, t->tmp);
	return status;
}

int verb_save(struct cli *c)
{
	struct target t = { .path = c->pos[1], .fd = -1, .goes_on = true };
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

/* Read the definition in a saved state, and whether the VM was paused. */
static int state_read(int fd, const char *path, struct json_object **ret_o, bool *ret_paused, struct err *e)
{
	CLEANUP_FREE char *text = NULL;
	struct vmstate_header h;
	struct vmstate_file f;
	int r;

	vmstate_file_init(&f, fd);
	r = vmstate_read_header(&f.store, &h, e);
	if (!r)
		r = vmstate_read_definition(&f.store, &h, &text, e);
	if (!r && !text)
		return err_set(e, -EINVAL, ERR_INVALID, "%s is a saved state without a definition; it cannot be restored", path);
	if (!r)
		r = js_parse(text, strlen(text), path, ret_o, e);
	else
		err_prefix(e, "%s", path);
	*ret_paused = !r && h.paused;
	return r;
}

static int state_open(const char *path, int *ret_fd, struct err *e)
{
	struct stat st;

	*ret_fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (*ret_fd < 0 || fstat(*ret_fd, &st) < 0)
		return err_set_errno(e, -errno, "%s", path);
	if (!S_ISREG(st.st_mode))
		return err_set(e, -EINVAL, ERR_INVALID, "%s is not a regular file", path);
	if (st.st_size < VMSTATE_HEADER_BYTES)
		return err_set(e, -EINVAL, ERR_INVALID, "%s is not a saved state of a VM", path);
	return 0;
}

int verb_restore(struct cli *c)
{
	struct json_object *definition = NULL, *args;
	CLEANUP_CLOSE int fd = -1;
	bool was_paused = false;
	struct err e;
	int r;

	if (option_flag(c, "running") && option_flag(c, "paused"))
		return cli_usage(c, "--running and --paused exclude each other");
	r = state_open(c->pos[0], &fd, &e);
	if (!r)
		r = state_read(fd, c->pos[0], &definition, &was_paused, &e);
	if (!r) {
		args = json_object_new_object();
		js_put(args, "definition", definition);
		js_put_bool(args, "paused", option_flag(c, "paused") || (was_paused && !option_flag(c, "running")));
		js_put_bool(args, "eager", option_flag(c, "eager"));
		r = cli_execute_with_fd(c, "vm-restore", args, fd, NULL, NULL, &e);
	}
	if (r < 0)
		return cli_fail(&e, "Failed to restore domain from %s", c->pos[0]);
	say("Domain restored from %s\n", c->pos[0]);
	return CLI_OK;
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
	if (multi_vm_is_meant(c, false))
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
		say("Domain '%s' has no manage save image; removal skipped\n", c->pos[0]);
		return CLI_OK;
	}
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

	if (multi_vm_is_meant(c, false))
		return restart_process_many(c);
	r = job_run(c, "vm-restart-process", cli_vm_args(c->pos[0]), -1, "Restart", &result, &e);
	if (r == -EINPROGRESS)
		return CLI_OK;
	if (r < 0)
		return cli_fail(&e, "Failed to restart the process of domain '%s'", c->pos[0]);
	restart_describe(result, how, sizeof(how));
	return job_result_print(c, result, NULL, "Domain '%s' runs in a new process%s", c->pos[0], how);
}
