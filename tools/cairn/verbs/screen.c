/* screenshot: save a picture of a guest's screen. */
#include "tools/cairn/cli.h"
#include "api/wire/json.h"
#include "tools/cairn/target.h"

#include <stdio.h>
#include <string.h>

static bool is_png(const char *path)
{
	size_t n = strlen(path);

	return n > 4 && !strcmp(path + n - 4, ".png");
}

int verb_screenshot(struct cli *c)
{
	struct target t = { .path = c->pos[1], .whole = true, .fd = -1 };
	struct json_object *args;
	struct err e;
	int r = target_open(&t, false, &e);

	if (!r) {
		args = cli_vm_args(c->pos[0]);
		js_put_str(args, "format", is_png(t.path) ? "png" : "ppm");
		r = target_close(&t, cli_execute_with_fd(c, "vm-screenshot", args, t.fd, NULL, NULL, &e), &e);
	}
	if (r < 0)
		return cli_fail(&e, "Failed to take a screenshot of domain '%s'", c->pos[0]);
	printf("Screenshot of domain '%s' saved to %s\n", c->pos[0], t.path);
	return CLI_OK;
}
