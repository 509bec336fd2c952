/* The verbs start, reset, suspend, resume, destroy and undefine: each runs one command for each chosen VM. */
#include "tools/cairn/cli.h"
#include "tools/cairn/output.h"
#include "api/wire/json.h"
#include "tools/cairn/forward.h"
#include "tools/cairn/multi_vm.h"

#include <stdio.h>
#include <string.h>

static void flag_add(struct cli *c, struct json_object *args, const char *flag)
{
	if (option_flag(c, flag))
		js_put_bool(args, flag, true);
}

static void start_add(struct cli *c, struct json_object *args)
{
	flag_add(c, args, "paused");
	flag_add(c, args, "force-boot");
	flag_add(c, args, "eager");
	flag_add(c, args, "bootmenu");
	flag_add(c, args, "reset-nvram");
	js_put_str(args, "boot", option_value(c, "boot"));
	publish_put(c, args);
}

static const char *start_loses(const struct cli *c, const char *word)
{
	return option_flag(c, "force-boot") && word && !strcmp(word, "saved") ? "its saved state" : NULL;
}

/* Print the ports of --publish, and the resources that the host lacks. */
static void start_told(struct json_object *answer, bool would)
{
	struct json_object *list = js_get_array(answer, "warnings");

	(void)would;
	published_print(js_get_array(answer, "published"));
	for (size_t i = 0; list && i < json_object_array_length(list); i++)
		fprintf(stderr, "warning: %s\n", json_object_get_string(json_object_array_get_idx(list, i)));
}

int verb_start(struct cli *c)
{
	static const struct multi_vm_act a = { .command = "vm-start", .fail = "start", .done = "started", .add = start_add,
		.told = start_told, .lost = start_loses };
	bool console = option_flag(c, "console"), foreground = option_flag(c, "foreground");
	int r;

	if (publish_check(c))
		return CLI_USAGE;
	if (option_value(c, "publish") && (c->npos != 1 || option_flag(c, "dry-run") || strpbrk(c->pos[0], "*?[")))
		return cli_usage(c, "--publish takes one VM");
	if (console && (c->npos != 1 || option_flag(c, "dry-run")))
		return cli_usage(c, "--console takes one VM");
	if (foreground && (c->npos != 1 || console || option_flag(c, "dry-run") || strpbrk(c->pos[0], "*?[")))
		return cli_usage(c, "--foreground takes one VM, without --console and --dry-run");
	r = foreground && !foreground_may_start(c) ? publish_all(c, c->pos[0]) : multi_vm_do(c, &a);
	if (foreground && !r) {
		fflush(stdout);
		return foreground_follow(c);
	}
	return console && !r ? console_attach(c, c->pos[0], &(struct console_opts){ .kind = "serial", .deadline_ns = UINT64_MAX }) : r;
}

static void freed_print(struct json_object *answer, bool would)
{
	if (!would)
		printf("freed %lld KiB\n", (long long)js_get_int(answer, "freed", 0) / 1024);
}

/* Run reset, suspend, resume, destroy or reclaim, which have no options of their own. */
int verb_act(struct cli *c)
{
	static const struct multi_vm_act acts[] = {
		{ .command = "vm-reset", .fail = "reset", .done = "was reset" },
		{ .command = "vm-suspend", .fail = "suspend", .done = "suspended" },
		{ .command = "vm-resume", .fail = "resume", .done = "resumed" },
		{ .command = "vm-destroy", .fail = "destroy", .done = "destroyed" },
		{ .command = "vm-reclaim", .fail = "reclaim the memory of", .done = "reclaimed", .told = freed_print },
	};
	size_t i = 0;

	while (strcmp(acts[i].command, c->verb->commands))
		i++;
	return multi_vm_do(c, &acts[i]);
}

/* Parse "vda,vdb", as virsh writes it. */
static void storage_add(struct json_object *args, const char *list)
{
	struct json_object *all = json_object_new_array();

	for (size_t n; *list; list += n + (list[n] == ',')) {
		n = strcspn(list, ",");
		json_object_array_add(all, json_object_new_string_len(list, (int)n));
	}
	js_put(args, "storage", all);
}

static void undefine_add(struct cli *c, struct json_object *args)
{
	flag_add(c, args, "managed-save");
	flag_add(c, args, "snapshots-metadata");
	flag_add(c, args, "remove-all-storage");
	flag_add(c, args, "nvram");
	flag_add(c, args, "keep-nvram");
	if (option_value(c, "storage"))
		storage_add(args, option_value(c, "storage"));
}

static void undefine_print(struct json_object *answer, bool would)
{
	struct json_object *all = js_get_array(answer, "volumes");

	for (size_t i = 0; all && i < json_object_array_length(all); i++) {
		struct json_object *o = json_object_array_get_idx(all, i);
		const char *id = js_get_str(o, "id"), *path = js_get_str(o, "path"), *why = js_get_str(o, "why");

		if (!js_get_bool(o, "removed", false))
			printf("Volume '%s'(%s) %s: %s.\n", id, path, would ? "would stay" : "stays", why ? why : "");
		else if (would)
			printf("Would remove volume '%s'(%s)\n", id, path);
		else
			say("Volume '%s'(%s) removed.\n", id, path);
	}
}

int verb_undefine(struct cli *c)
{
	static const struct multi_vm_act a = { .command = "vm-undefine", .fail = "undefine", .done = "has been undefined",
		.add = undefine_add, .told = undefine_print, .repeats = true };

	return multi_vm_do(c, &a);
}
