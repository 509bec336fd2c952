/* autostart: when VMs come up by themselves. */
#include "tools/cairn/cli.h"
#include "tools/cairn/fan.h"
#include "api/js.h"

static void disable_add(struct cli *c, struct json_object *args)
{
	if (option_flag(c, "disable"))
		js_put_bool(args, "disable", true);
}

int verb_autostart(struct cli *c)
{
	static const struct fan_act mark = { "vm-autostart", "mark as autostarted", "marked as autostarted",
		NULL, NULL };
	static const struct fan_act unmark = { "vm-autostart", "unmark as autostarted",
		"unmarked as autostarted", disable_add, NULL };
	struct fan f;
	int r = fan_pick(c, &f);

	if (!r)
		r = fan_run(c, &f, option_flag(c, "disable") ? &unmark : &mark);
	fan_done(&f);
	return r;
}
