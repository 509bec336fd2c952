/* desc: show or change the description or title in a definition. domrename: rename a VM. */
#include "tools/cairn/change.h"
#include "api/wire/json.h"
#include "tools/cairn/cli.h"
#include "tools/cairn/output.h"

#include <stdio.h>

#define TEXT_MAX 8192

struct text_edit {
	const char *key;
	char text[TEXT_MAX]; /* empty: none */
};

static int text_edit(struct cli *c, struct json_object *definition, void *opaque, struct err *e)
{
	const struct text_edit *t = opaque;

	(void)c;
	(void)e;
	if (t->text[0])
		js_put_str(definition, t->key, t->text);
	else
		json_object_object_del(definition, t->key);
	return 0;
}

/* Join the words after the VM with blanks. */
static int words_join(struct cli *c, char text[TEXT_MAX])
{
	size_t n = 0;

	text[0] = 0;
	for (size_t i = 1; i < c->npos && n < TEXT_MAX; i++)
		n += (size_t)snprintf(text + n, TEXT_MAX - n, "%s%s", i > 1 ? " " : "", c->pos[i]);
	return n < TEXT_MAX ? 0 : cli_usage(c, "the text is too long");
}

static int text_show(struct cli *c, const char *key)
{
	CLEANUP_JS struct json_object *definition = NULL;
	const char *text;
	struct err e;

	if (change_read(c, c->pos[0], &definition, &e) < 0)
		return cli_fail(&e, "failed to get domain '%s'", c->pos[0]);
	text = js_get_str(definition, key);
	if (text)
		printf("%s\n", text);
	else
		printf("No %s for domain: %s\n", key, c->pos[0]);
	return CLI_OK;
}

int verb_domrename(struct cli *c)
{
	struct json_object *args = cli_vm_args(c->pos[0]);
	struct err e;

	js_put_str(args, "name", c->pos[1]);
	if (cli_execute(c, "vm-rename", args, NULL, NULL, &e) < 0)
		return cli_fail(&e, "Failed to rename domain '%s'", c->pos[0]);
	say("Domain successfully renamed\n");
	return CLI_OK;
}

int verb_desc(struct cli *c)
{
	struct text_edit t = { .key = option_flag(c, "title") ? "title" : "description" };
	const char *new = option_value(c, "new-desc");
	struct err e;
	int r;

	if (c->npos == 1 && !new)
		return text_show(c, t.key);
	if (c->npos > 1 && new)
		return cli_usage(c, "TEXT and --new-desc exclude each other");
	r = words_join(c, t.text);
	if (r)
		return r;
	if (new)
		snprintf(t.text, sizeof(t.text), "%s", new);
	r = change_make(c, c->pos[0], text_edit, &t, &e);
	if (r < 0)
		return cli_fail(&e, "Failed to change the %s of domain '%s'", t.key, c->pos[0]);
	if (!r)
		say("Domain %s updated successfully\n", t.key);
	return CLI_OK;
}
