/* start, shutdown, reboot, reset, suspend, resume, destroy, undefine: one command for each
 * VM named. */
#include "tools/cairn/cli.h"
#include "api/js.h"
#include "base/loop.h"
#include "base/util.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

struct act {
	const char *command, *fail, *done; /* "Domain '%s' <done>" */
};

/* args: taken. */
static int act_on(struct cli *c, const struct act *a, const char *name, struct json_object *args)
{
	struct err e;

	if (cli_execute(c, a->command, args, NULL, NULL, &e) < 0)
		return cli_fail(&e, "Failed to %s domain '%s'", a->fail, name);
	printf("Domain '%s' %s\n", name, a->done);
	fflush(stdout);
	return CLI_OK;
}

/* The code of the worst: the first that failed, unless all are well. */
static int act_on_all(struct cli *c, const struct act *a, const char *key, const char *value)
{
	int worst = CLI_OK;

	for (size_t i = 0; i < c->npos; i++) {
		struct json_object *args = cli_vm_args(c->pos[i]);
		int r;

		if (value)
			js_put_str(args, key, value);
		r = act_on(c, a, c->pos[i], args);
		if (!worst)
			worst = r;
	}
	return worst;
}

static int dry_run(struct cli *c, const struct act *a)
{
	int worst = CLI_OK;

	for (size_t i = 0; i < c->npos; i++) {
		CLEANUP_JS struct json_object *o = NULL;
		struct err e;

		if (cli_vm_info(c, c->pos[i], &o, &e) < 0)
			worst = cli_fail(&e, "Failed to %s domain '%s'", a->fail, c->pos[i]);
		else
			printf("Would %s domain '%s' (%s)\n", a->fail, js_get_str(o, "name"),
				js_get_str(o, "state"));
	}
	return worst;
}

int verb_start(struct cli *c)
{
	static const struct act a = { "vm-start", "start", "started" };
	static const char *const flags[] = { "paused", "force-boot", "eager" };
	bool console = option_flag(c, "console");
	int worst = CLI_OK;

	if (console && c->npos > 1)
		return cli_usage(c, "--console takes one VM");
	for (size_t i = 0; i < c->npos; i++) {
		struct json_object *args = cli_vm_args(c->pos[i]);
		int r;

		for (size_t k = 0; k < ARRAY_SIZE(flags); k++)
			if (option_flag(c, flags[k]))
				js_put_bool(args, flags[k], true);
		r = act_on(c, &a, c->pos[i], args);
		if (!worst)
			worst = r;
	}
	return console && !worst ? console_attach(c, c->pos[0], "serial") : worst;
}

static int wait_all_off(struct cli *c, uint64_t timeout_ns)
{
	uint64_t deadline = timeout_ns == UINT64_MAX ? UINT64_MAX : loop_now_ns() + timeout_ns;
	int worst = CLI_OK;

	for (size_t i = 0; i < c->npos; i++) {
		struct err e;

		if (wait_for_state(c, c->pos[i], "shutoff", deadline, &e) < 0) {
			worst = cli_fail(&e, "Domain '%s' is still running", c->pos[i]);
			continue;
		}
		printf("Domain '%s' is shut off\n", c->pos[i]);
		fflush(stdout);
	}
	return worst;
}

int verb_shutdown(struct cli *c)
{
	static const struct act a = { "vm-shutdown", "shutdown", "is being shutdown" };
	uint64_t timeout_ns;
	int r = option_seconds(c, "timeout", UINT64_MAX, &timeout_ns);

	if (!r)
		r = act_on_all(c, &a, "mode", option_value(c, "mode"));
	return !r && option_flag(c, "wait") ? wait_all_off(c, timeout_ns) : r;
}

int verb_reboot(struct cli *c)
{
	static const struct act a = { "vm-reboot", "reboot", "is being rebooted" };

	return act_on_all(c, &a, "mode", option_value(c, "mode"));
}

int verb_reset(struct cli *c)
{
	static const struct act a = { "vm-reset", "reset", "was reset" };

	return act_on_all(c, &a, NULL, NULL);
}

int verb_suspend(struct cli *c)
{
	static const struct act a = { "vm-suspend", "suspend", "suspended" };

	return act_on_all(c, &a, NULL, NULL);
}

int verb_resume(struct cli *c)
{
	static const struct act a = { "vm-resume", "resume", "resumed" };

	return act_on_all(c, &a, NULL, NULL);
}

int verb_destroy(struct cli *c)
{
	static const struct act a = { "vm-destroy", "destroy", "destroyed" };

	return option_flag(c, "dry-run") ? dry_run(c, &a) : act_on_all(c, &a, NULL, NULL);
}

int verb_undefine(struct cli *c)
{
	static const struct act a = { "vm-undefine", "undefine", "has been undefined" };
	int worst = CLI_OK;

	if (option_flag(c, "dry-run"))
		return dry_run(c, &a);
	for (size_t i = 0; i < c->npos; i++) {
		struct json_object *args = cli_vm_args(c->pos[i]);
		int r;

		if (option_flag(c, "managed-save"))
			js_put_bool(args, "managed-save", true);
		r = act_on(c, &a, c->pos[i], args);
		worst = worst ? worst : r;
	}
	return worst;
}
