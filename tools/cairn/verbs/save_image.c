/* save-image-dumpjson, save-image-dumpxml, save-image-define: show and change the definition in a saved state. */
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "tools/cairn/cli.h"
#include "tools/cairn/definition_file.h"
#include "tools/cairn/output.h"
#include "tools/cairn/state_file.h"
#include "tools/cairn/xml.h"

#include <stdio.h>
#include <string.h>

int verb_save_image_dump(struct cli *c)
{
	struct state_file f CLEANUP(state_file_done) = { .fd = -1 };
	bool xml = !strcmp(c->verb->name, "save-image-dumpxml");
	CLEANUP_FREE char *text = NULL;
	struct err e;
	int r = state_file_open(c->pos[0], false, &f, &e);

	if (!r && xml)
		r = xml_from_definition(f.definition, -1, &text, &e);
	if (r < 0)
		return cli_fail(&e, "failed to get the definition of %s", c->pos[0]);
	if (xml)
		puts(text);
	else
		output_print(stdout, c->format, f.definition);
	return CLI_OK;
}

int verb_save_image_define(struct cli *c)
{
	struct definition_file d CLEANUP(definition_file_done) = { 0 };
	struct state_file f CLEANUP(state_file_done) = { .fd = -1 };
	struct err e;
	int r;

	if (option_flag(c, "running") && option_flag(c, "paused"))
		return cli_usage(c, "--running and --paused exclude each other");
	r = state_file_open(c->pos[0], true, &f, &e);
	if (!r)
		r = definition_file_read(c->pos[1], &d, &e);
	if (!r)
		r = definition_file_locate(&d, state_file_set(&f, d.definition, d.folder,
			option_flag(c, "paused") || (f.header.paused && !option_flag(c, "running")), &e), &e);
	if (r < 0)
		return cli_fail(&e, "Failed to update %s", c->pos[0]);
	warnings_print(d.warnings);
	say("State file %s updated.\n", c->pos[0]);
	return CLI_OK;
}
