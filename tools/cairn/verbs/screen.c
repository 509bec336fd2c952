/* screenshot: save a picture of a guest's screen. send-key: press keys. inject-nmi: send an NMI. vncdisplay,
 * domdisplay: print where VNC clients find the screen. */
#include "tools/cairn/cli.h"
#include "tools/cairn/output.h"
#include "api/wire/json.h"
#include "base/shell_word.h"
#include "tools/cairn/target.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static bool is_png(const char *path)
{
	size_t n = strlen(path);

	return n > 4 && !strcmp(path + n - 4, ".png");
}

/* Write virsh's name of a picture without a name: VM-DATE.png. */
static int name_default(struct cli *c, char *buf, size_t size, struct err *e)
{
	CLEANUP_JS struct json_object *info = NULL;
	char date[32];
	time_t now = time(NULL);
	struct tm tm;
	int r = cli_vm_info(c, c->pos[0], &info, e);

	localtime_r(&now, &tm);
	strftime(date, sizeof(date), "%Y-%m-%d-%H:%M:%S", &tm);
	snprintf(buf, size, "%s-%s.png", js_get_str_or(info, "name", ""), date);
	return r;
}

int verb_screenshot(struct cli *c)
{
	char name[NAME_MAX + 1];
	struct target t = { .path = c->npos > 1 ? c->pos[1] : name, .whole = true, .fd = -1, .kind = "a picture", .begins = { "P6\n", "\x89PNG" } };
	struct json_object *args;
	const char *screen = option_value(c, "screen");
	struct err e;
	int r;

	if (screen && strcmp(screen, "0") != 0)
		return cli_usage(c, "a VM has one screen, number 0; --screen must be 0, not \"%s\"", screen);
	r = c->npos > 1 ? 0 : name_default(c, name, sizeof(name), &e);
	if (!r)
		r = target_open(&t, false, &e);
	if (!r) {
		args = cli_vm_args(c->pos[0]);
		js_put_str(args, "format", is_png(t.path) ? "png" : "ppm");
		r = target_close(&t, cli_execute_with_fd(c, "vm-screenshot", args, t.fd, NULL, NULL, &e), &e);
	}
	if (r < 0)
		return cli_fail(&e, "Failed to take a screenshot of domain '%s'", c->pos[0]);
	say("Screenshot of domain '%s' saved to %s\n", c->pos[0], t.path);
	return CLI_OK;
}

int verb_send_key(struct cli *c)
{
	struct json_object *args = cli_vm_args(c->pos[0]), *keys = json_object_new_array();
	CLEANUP_JS struct json_object *answer = NULL;
	const char *hold = option_value(c, "holdtime"), *codeset = option_value(c, "codeset");
	char *end = "";
	struct err e;

	for (size_t i = 1; i < c->npos; i++)
		json_object_array_add(keys, json_object_new_string(c->pos[i]));
	js_put(args, "keys", keys);
	js_put_str(args, "codeset", codeset);
	if (hold)
		js_put_int(args, "hold-time", strtol(hold, &end, 10));
	if (*end) {
		json_object_put(args);
		return cli_usage(c, "--holdtime must be a number of milliseconds, not \"%s\"", hold);
	}
	return cli_execute(c, "vm-send-key", args, &answer, NULL, &e) < 0 ? cli_fail(&e, "Failed to send keys to domain '%s'", c->pos[0]) :
		CLI_OK;
}

int verb_inject_nmi(struct cli *c)
{
	CLEANUP_JS struct json_object *answer = NULL;
	struct err e;

	return cli_execute(c, "vm-inject-nmi", cli_vm_args(c->pos[0]), &answer, NULL, &e) < 0 ?
		cli_fail(&e, "Failed to send an NMI to domain '%s'", c->pos[0]) : CLI_OK;
}

/* Print the address in virsh's form: display 1 is port 5901. */
static void vnc_print(struct json_object *vnc, bool uri)
{
	const char *path = js_get_str(vnc, "path"), *address = js_get_str_or(vnc, "address", "");
	long long port = js_get_int(vnc, "port", 0);
	bool six = strchr(address, ':') != NULL;

	if (path)
		printf("%s%s\n", uri ? "vnc+unix://" : "", path);
	else
		printf("%s%s%s%s:%s%lld\n", uri ? "vnc://" : "", six ? "[" : "", address, six ? "]" : "", port < 5900 ? ":" : "",
			port < 5900 ? port : port - 5900);
}

/* Get `vnc` of the definition that the VM runs with. *ret_o: owns it. */
static int vnc_get(struct cli *c, struct json_object **ret_o, struct json_object **ret_vnc, struct err *e)
{
	CLEANUP_JS struct json_object *info = NULL;
	const char *name = c->pos[0];
	int r = cli_vm_info(c, name, &info, e);

	if (!r && !js_get(info, "pid"))
		r = err_set(e, -EPERM, ERR_WRONG_STATE, "VM '%s' is %s. Next: cairn start %s", name, cli_vm_state(info), shell_word(name).s);
	if (!r)
		r = cli_execute(c, "vm-dump-definition", cli_vm_args(name), ret_o, NULL, e);
	if (r < 0)
		return r;
	*ret_vnc = js_get(js_get(*ret_o, "definition"), "vnc");
	return *ret_vnc ? 0 : err_set(e, -ENOENT, ERR_NOT_FOUND, "VM '%s' runs without VNC; set \"vnc\": true (cairn edit %s), shut the VM "
		"down and start it", name, shell_word(name).s);
}

static int display_print(struct cli *c, bool uri)
{
	CLEANUP_JS struct json_object *o = NULL;
	struct json_object *vnc = NULL;
	struct err e;

	if (vnc_get(c, &o, &vnc, &e) < 0)
		return cli_fail(&e, "Failed to get the VNC display of domain '%s'", c->pos[0]);
	vnc_print(vnc, uri);
	return CLI_OK;
}

int verb_vncdisplay(struct cli *c)
{
	return display_print(c, false);
}

int verb_domdisplay(struct cli *c)
{
	const char *type = option_value(c, "type");

	if (type && strcmp(type, "vnc") != 0)
		return cli_usage(c, "a screen of Cairn is shown by VNC only; --type must be vnc, not \"%s\"", type);
	return display_print(c, true);
}
