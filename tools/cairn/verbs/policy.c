/* autostart: start a VM when the host boots, or no longer. set-lifecycle-action: set the action after a poweroff,
 * reboot or crash. */
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
	static const struct multi_vm_act mark = { .command = "vm-autostart", .fail = "mark as autostarted",
		.done = "marked as autostarted" };
	static const struct multi_vm_act unmark = { .command = "vm-autostart", .fail = "unmark as autostarted",
		.done = "unmarked as autostarted", .add = disable_add };

	return multi_vm_do(c, option_flag(c, "disable") ? &unmark : &mark);
}

/* Set the action for an event. The daemon checks both words. */
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
