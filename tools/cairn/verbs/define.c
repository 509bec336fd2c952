/* define, create: send a definition file to the daemon. validate: check one without the daemon. dumpjson: print a VM's
 * definition. */
#include "tools/cairn/definition_file.h"
#include "api/definition/definition.h"
#include "api/definition/definition_schema.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "tools/cairn/cli.h"
#include "tools/cairn/output.h"

#include <stdio.h>
#include <unistd.h>

/* Send the file with a command that takes a definition. flag: set in the arguments; NULL: none. The caller owns the
 * answer. Returns an exit code, after warnings or an error message. */
static int definition_send(struct cli *c, const char *command, const char *flag, const char *verb, struct json_object **ret)
{
	struct definition_file f CLEANUP(definition_file_done) = { 0 };
	struct json_object *args;
	struct err e;
	int r = definition_file_read(c->pos[0], &f, &e);

	if (!r) {
		args = json_object_new_object();
		js_put(args, "definition", json_object_get(f.definition));
		js_put_str(args, "folder", f.folder);
		if (flag)
			js_put_bool(args, flag, true);
		r = definition_file_locate(&f, cli_execute(c, command, args, ret, NULL, &e), &e);
	}
	if (r < 0)
		return cli_fail(&e, "Failed to %s domain from %s", verb, c->pos[0]);
	warnings_print(f.warnings);
	warnings_print(js_get_array(*ret, "warnings"));
	return CLI_OK;
}

int verb_create(struct cli *c)
{
	CLEANUP_JS struct json_object *answer = NULL;
	int r = definition_send(c, "vm-create", option_flag(c, "paused") ? "paused" : NULL, "create", &answer);

	if (r)
		return r;
	say("Domain '%s' created from %s\n", js_get_str(answer, "name"), c->pos[0]);
	if (!option_flag(c, "console"))
		return CLI_OK;
	return console_attach(c, js_get_str(answer, "name"), &(struct console_opts){ .kind = "serial", .deadline_ns = UINT64_MAX });
}

int verb_define(struct cli *c)
{
	CLEANUP_JS struct json_object *answer = NULL;
	bool dry = option_flag(c, "dry-run");
	int r = definition_send(c, "vm-define", dry ? "validate-only" : NULL, "define", &answer);

	if (r)
		return r;
	if (dry)
		printf("%s validates\n", c->pos[0]);
	else
		say("Domain '%s' defined from %s\n", js_get_str(answer, "name"), c->pos[0]);
	if (!dry && isatty(STDERR_FILENO) && !js_get_bool(answer, "created", true))
		fprintf(stderr, "note: this replaces the definition that domain '%s' had%s\n", js_get_str(answer, "name"),
			js_get_bool(answer, "pending", false) ? "; the running VM keeps that until its next start" : "");
	return CLI_OK;
}

/* ---- validate ---- */

static void verdict_print(struct cli *c, int r, struct json_object *warnings, const struct err *e)
{
	CLEANUP_JS struct json_object *o = json_object_new_object();

	js_put_str(o, "file", c->pos[0]);
	js_put_bool(o, "valid", r == 0);
	if (r < 0)
		js_put_str(o, "error", e->msg);
	js_put(o, "warnings", json_object_get(warnings));
	output_print(stdout, c->format, o);
}

/* Check a file with the daemon's parser, without the checks that only the daemon can do. */
static int file_validate(const char *path, struct json_object **ret_warnings, struct err *e)
{
	struct definition_file f CLEANUP(definition_file_done) = { 0 };
	struct definition *d = NULL;
	int r = definition_file_read(path, &f, e);

	if (!r)
		r = definition_file_locate(&f, definition_parse(f.definition, f.folder, &d, e), e);
	if (r < 0)
		return r;
	*ret_warnings = json_object_get(f.warnings);
	definition_free(d);
	return 0;
}

int verb_validate(struct cli *c)
{
	CLEANUP_JS struct json_object *warnings = NULL;
	struct err e;
	int r;

	if (option_flag(c, "schema")) {
		CLEANUP_JS struct json_object *schema = definition_schema();

		puts(json_object_to_json_string_ext(schema, JSON_C_TO_STRING_PRETTY |
								    JSON_C_TO_STRING_NOSLASHESCAPE));
		return CLI_OK;
	}
	if (!c->npos)
		return cli_usage(c, "give either a file or --schema");
	r = file_validate(c->pos[0], &warnings, &e);
	if (c->format != CLI_TABLE) {
		verdict_print(c, r, warnings, &e);
		return r < 0 ? cli_exit_code(e.cls) : CLI_OK;
	}
	if (r < 0)
		return cli_fail(&e, "Failed to validate %s", c->pos[0]);
	warnings_print(warnings);
	printf("%s validates\n", c->pos[0]);
	return CLI_OK;
}

int verb_dumpjson(struct cli *c)
{
	CLEANUP_JS struct json_object *o = NULL;
	struct json_object *args;
	struct err e;

	args = cli_vm_args(c->pos[0]);
	if (option_flag(c, "inactive"))
		js_put_bool(args, "inactive", true);
	if (cli_execute(c, "vm-dump-definition", args, &o, NULL, &e) < 0)
		return cli_fail(&e, "failed to get domain '%s'", c->pos[0]);
	output_print(stdout, c->format, js_get(o, "definition"));
	return CLI_OK;
}
