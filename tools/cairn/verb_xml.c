/* dumpxml. */
#include "tools/cairn/cli.h"
#include "tools/cairn/xml.h"
#include "api/js.h"
#include "base/cleanup.h"

#include <stdio.h>

int verb_dumpxml(struct cli *c)
{
	CLEANUP_JS struct json_object *o = NULL, *info = NULL;
	CLEANUP_FREE char *xml = NULL;
	int id = -1, r;
	struct err e;

	r = cli_execute(c, "vm-dump-definition", cli_vm_args(c->pos[0]), &o, NULL, &e);
	if (!r && !option_flag(c, "inactive")) {
		r = cli_vm_info(c, c->pos[0], &info, &e);
		id = (int)js_get_int(info, "id", -1);
	}
	if (!r)
		r = xml_from_definition(js_get(o, "definition"), id, &xml, &e);
	if (r < 0)
		return cli_fail(&e, "failed to get domain '%s'", c->pos[0]);
	puts(xml);
	return CLI_OK;
}
