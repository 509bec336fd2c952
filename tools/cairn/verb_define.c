/* define, dumpjson. */
#include "tools/cairn/cli.h"
#include "tools/cairn/output.h"
#include "api/definition.h"
#include "api/js.h"
#include "base/cleanup.h"
#include "base/file.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

/* "-" is standard input; its folder is the present one. */
static int definition_read(const char *file, struct json_object **ret_o, char folder[PATH_MAX],
	struct err *e)
{
	CLEANUP_FREE char *text = NULL;
	char *slash;
	size_t len;
	int r;

	if (!strcmp(file, "-")) {
		if (!getcwd(folder, PATH_MAX))
			return err_set_errno(e, -errno, "the present folder");
		r = file_read_fd(0, "standard input", DEFINITION_FILE_MAX, &text, &len, e);
		return r < 0 ? r : js_parse(text, len, "standard input", ret_o, e);
	}
	if (!realpath(file, folder))
		return err_set_errno(e, -errno, "%s", file);
	slash = strrchr(folder, '/');
	slash[slash == folder] = 0;
	return js_read(file, DEFINITION_FILE_MAX, ret_o, e);
}

static void warnings_print(struct json_object *answer)
{
	struct json_object *list = js_get_array(answer, "warnings");
	size_t n = list ? json_object_array_length(list) : 0;

	for (size_t i = 0; i < n; i++)
		fprintf(stderr, "warning: %s\n",
			json_object_get_string(json_object_array_get_idx(list, i)));
}

int verb_define(struct cli *c)
{
	CLEANUP_JS struct json_object *answer = NULL;
	struct json_object *definition = NULL, *args;
	bool validate = option_flag(c, "validate");
	char folder[PATH_MAX];
	struct err e;
	int r = definition_read(c->pos[0], &definition, folder, &e);

	if (!r) {
		args = json_object_new_object();
		js_put(args, "definition", definition);
		js_put_str(args, "folder", folder);
		if (validate)
			js_put_bool(args, "validate-only", true);
		r = cli_execute(c, "vm-define", args, &answer, NULL, &e);
	}
	if (r < 0)
		return cli_fail(&e, "Failed to define domain from %s", c->pos[0]);
	warnings_print(answer);
	if (validate)
		printf("%s validates\n", c->pos[0]);
	else
		printf("Domain '%s' defined from %s\n", js_get_str(answer, "name"), c->pos[0]);
	return CLI_OK;
}

int verb_dumpjson(struct cli *c)
{
	CLEANUP_JS struct json_object *o = NULL;
	struct err e;

	if (cli_execute(c, "vm-dump-definition", cli_vm_args(c->pos[0]), &o, NULL, &e) < 0)
		return cli_fail(&e, "failed to get domain '%s'", c->pos[0]);
	output_print(stdout, c->format, js_get(o, "definition"));
	return CLI_OK;
}
