/* setvcpus, setmem and setmaxmem: change the number of vCPUs or the memory in a definition. */
#include "tools/cairn/change.h"
#include "api/wire/json.h"
#include "base/size.h"
#include "base/util.h"
#include "tools/cairn/cli.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

static int vcpus_edit(struct cli *c, struct json_object *definition, void *opaque, struct err *e)
{
	(void)c;
	(void)e;
	js_put_int(definition, "vcpus", *(long *)opaque);
	return 0;
}

int verb_setvcpus(struct cli *c)
{
	char *end;
	long n = strtol(c->pos[1], &end, 10);
	struct err e;

	if (!isdigit((unsigned char)c->pos[1][0]) || *end || n < 1 || n > 1 << 20)
		return cli_usage(c, "\"%s\" is not a number of virtual CPUs", c->pos[1]);
	if (change_make(c, c->pos[0], vcpus_edit, &n, &e) < 0)
		return cli_fail(&e, "Failed to change the vcpus of domain '%s'", c->pos[0]);
	return CLI_OK;
}

/* Set the memory, rounded up to whole KiB as virsh does. */
static int memory_edit(struct cli *c, struct json_object *definition, void *opaque, struct err *e)
{
	uint64_t kib = *(uint64_t *)opaque / KIB + (*(uint64_t *)opaque % KIB != 0);
	char text[32];

	(void)c;
	(void)e;
	snprintf(text, sizeof(text), "%lluK", (unsigned long long)kib);
	js_put_str(definition, "memory", text);
	return 0;
}

/* setmem and setmaxmem are the same: the memory of a VM has one size. */
int verb_setmem(struct cli *c)
{
	uint64_t bytes;
	struct err e;

	if (size_parse(c->pos[1], KIB, &bytes) == -EINVAL)
		return cli_usage(c, "\"%s\" is not a size; give KiB, or a unit, as in 512M or 2GiB",
			c->pos[1]);
	if (change_make(c, c->pos[0], memory_edit, &bytes, &e) < 0)
		return cli_fail(&e, "Failed to change the memory of domain '%s'", c->pos[0]);
	return CLI_OK;
}
