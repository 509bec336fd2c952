/* domif-egress: show or set the egress rules of an interface of type user. */
#include "tools/cairn/cli.h"
#include "api/wire/json.h"
#include "base/shell_word.h"
#include "tools/cairn/change.h"
#include "tools/cairn/egress_words.h"
#include "tools/cairn/interface.h"
#include "tools/cairn/output.h"

#include <errno.h>
#include <stdio.h>

#define RULES_AT 2 /* of the positional arguments */

static int interface_missing(const char *vm, const char *which, struct err *e)
{
	return err_set(e, -ENOENT, ERR_NOT_FOUND, "VM '%s' has no interface '%s'. Next: cairn domiflist %s", vm, which, shell_word(vm).s);
}

/* Read the rules of the command line. *ret: owned; NULL: none. Returns 0; CLI_USAGE after an error message. */
static int rules_read(struct cli *c, struct json_object **ret)
{
	*ret = NULL;
	if (option_flag(c, "clear"))
		return c->npos > RULES_AT ? cli_usage(c, "give either --clear or rules") : 0;
	*ret = json_object_new_object();
	js_put(*ret, "rules", json_object_new_array());
	for (size_t i = RULES_AT; i < c->npos; i++)
		if (!egress_rule_add(*ret, c->pos[i]))
			return cli_usage(c, "a rule " EGRESS_WORDS ", not \"%s\"", c->pos[i]);
	return 0;
}

static int live_set(struct cli *c, struct json_object *egress, struct err *e)
{
	CLEANUP_JS struct json_object *answer = NULL;
	struct json_object *args = cli_vm_args(c->pos[0]);

	js_put_str(args, "interface", c->pos[1]);
	if (egress)
		js_put(args, "egress", json_object_get(egress));
	else
		js_put_bool(args, "no-egress", true);
	return cli_execute(c, "vm-set-interface", args, &answer, NULL, e);
}

static int config_edit(struct cli *c, struct json_object *definition, void *opaque, struct err *e)
{
	struct json_object *found = interface_find(js_get_array(definition, "interfaces"), c->pos[1]);

	if (!found)
		return interface_missing(c->pos[0], c->pos[1], e);
	json_object_object_del(found, "egress");
	if (opaque)
		js_put(found, "egress", json_object_get(opaque));
	return 0;
}

static int rules_set(struct cli *c, const struct place *p, struct err *e)
{
	CLEANUP_JS struct json_object *egress = NULL;
	int r = rules_read(c, &egress);

	if (!r && p->live)
		r = live_set(c, egress, e);
	return !r && p->config ? change_make_config(c, c->pos[0], p->live, config_edit, egress, e) : r;
}

static int rules_show(struct cli *c, const struct place *p, struct err *e)
{
	CLEANUP_JS struct json_object *definition = NULL;
	struct json_object *found, *egress;
	int r = p->live ? change_read_running(c, c->pos[0], &definition, e) : change_read(c, c->pos[0], &definition, e);

	if (r < 0)
		return r;
	found = interface_find(js_get_array(definition, "interfaces"), c->pos[1]);
	if (!found)
		return interface_missing(c->pos[0], c->pos[1], e);
	egress = js_get(found, "egress");
	if (c->format != CLI_TABLE)
		output_print(stdout, c->format, egress);
	else if (egress)
		egress_rules_show(egress);
	else
		printf("allow\n");
	return 0;
}

int verb_domif_egress(struct cli *c)
{
	bool show = c->npos == RULES_AT && !option_flag(c, "clear");
	struct place p;
	struct err e;
	int r = place_choose(c, &p, &e);

	if (!r)
		r = show ? rules_show(c, &p, &e) : rules_set(c, &p, &e);
	if (r < 0)
		return cli_fail(&e, "Failed to %s the egress rules", show ? "show" : "change");
	if (!r && !show)
		say("Egress rules changed successfully\n");
	return r;
}
