/* autostart and set-lifecycle-action. */
#include "tools/cairn/change.h"
#include "api/wire/json.h"
#include "tools/cairn/cli.h"
#include "tools/cairn/multi_vm.h"

#include <stdio.h>

static void disable_add(struct cli *c, struct json_object *args)
{
	if (option_flag(c, "disable"))
		js_put_bool(args, "disable", true);
}

int verb_autostart(struct cli *c)
{
	static const struct multi_vm_act mark = { "vm-autostart", "mark as autostarted", "marked as autostarted",
		NULL, NULL, NULL };
	static const struct multi_vm_act unmark = { "vm-autostart", "unmark as autostarted",
		"unmarked as autostarted", disable_add, NULL, NULL };
	struct multi_vm f;
	int r = multi_vm_pick(c, &f);

	if (!r)
		r = multi_vm_run(c, &f, option_flag(c, "disable") ? &unmark : &mark);
	multi_vm_done(&f);
	return r;
}

/* The daemon checks the words. */
static int lifecycle_edit(struct cli *c, struct json_object *definition, void *opaque, struct err *e)
{
	char key[40];

	(void)opaque;
	(void)e;
	snprintf(key, sizeof(key), "on_%s", c->pos[1]);
	js_put_str(definition, key, c->pos[2]);
	return 0;
}

int verb_set_lifecycle_action(struct cli *c)
{
	struct err e;

	if (change_make(c, c->pos[0], lifecycle_edit, NULL, &e) < 0)
		return cli_fail(&e, "Unable to change lifecycle action");
	return CLI_OK;
}
