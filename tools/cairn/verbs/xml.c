/* dumpxml: print a VM's definition as libvirt's domain XML. */
#include "tools/cairn/cli.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "tools/cairn/xml.h"

#include <stdio.h>

int verb_dumpxml(struct cli *c)
{
	CLEANUP_JS struct json_object *o = NULL, *info = NULL;
	CLEANUP_FREE char *xml = NULL;
	struct json_object *args = cli_vm_args(c->pos[0]);
	bool inactive = option_flag(c, "inactive");
	int id = -1, r;
	struct err e;

	js_put_bool(args, "inactive", inactive);
	r = cli_execute(c, "vm-dump-definition", args, &o, NULL, &e);
	if (!r && !inactive) {
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
