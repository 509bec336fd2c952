/* log: print a VM's log. */
#include "tools/cairn/cli.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/util.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* No event reports a new line, so ask at this interval. */
#define FOLLOW_MS 500

struct log_text {
	char *text; /* not terminated */
	size_t len;
};

/* Ask for the next page. *from: its place, NULL for the oldest line; replaced by the place of the page after it.
 * Returns 1: more follows; 0; -errno. */
static int page_ask(struct cli *c, char **from, struct json_object **ret_page, struct err *e)
{
	struct json_object *args = cli_vm_args(c->pos[0]);
	int r;

	if (*from)
		js_put_str(args, "from", *from);
	r = cli_execute(c, "vm-log", args, ret_page, NULL, e);
	if (r < 0)
		return r;
	free(*from);
	*from = must_alloc(strdup(js_get_str_or(*ret_page, "next", "")));
	return js_get_bool(*ret_page, "more", false);
}

static void text_append(struct log_text *t, struct json_object *page)
{
	const char *text = js_get_str_or(page, "text", "");
	size_t len = strlen(text);

	t->text = must_alloc(realloc(t->text, t->len + len + 1));
	memcpy(t->text + t->len, text, len);
	t->len += len;
}

/* Print the last lines. */
static void tail_print(const struct log_text *t, uint64_t lines)
{
	size_t at = t->len;

	if (at && t->text[at - 1] == '\n')
		at--;
	for (; at; at--)
		if (t->text[at - 1] == '\n' && --lines == 0)
			break;
	fwrite(t->text + at, 1, t->len - at, stdout);
}

static int tail_parse(const struct cli *c, uint64_t *ret)
{
	const char *text = option_value(c, "tail");
	char *end;

	*ret = text ? strtoull(text, &end, 10) : 0;
	if (text && (end == text || *end || *text == '-' || !*ret))
		return cli_usage(c, "--tail must be a number of lines, not \"%s\"", text);
	return 0;
}

/* Print the log as far as it is written. */
static int log_print(struct cli *c, char **from, uint64_t tail, struct err *e)
{
	struct log_text all = { 0 };
	int r;

	do {
		CLEANUP_JS struct json_object *page = NULL;

		r = page_ask(c, from, &page, e);
		if (r >= 0 && js_get_bool(page, "lost", false))
			fprintf(stderr, "warning: some lines are no longer kept\n");
		if (r >= 0 && tail)
			text_append(&all, page);
		else if (r >= 0)
			fputs(js_get_str_or(page, "text", ""), stdout);
	} while (r > 0);
	if (!r && tail)
		tail_print(&all, tail);
	free(all.text);
	return r;
}

int verb_log(struct cli *c)
{
	CLEANUP_FREE char *from = NULL;
	uint64_t tail;
	struct err e;
	int r = tail_parse(c, &tail);

	if (r)
		return r;
	r = log_print(c, &from, tail, &e);
	while (!r && option_flag(c, "follow") && !fflush(stdout) && !ferror(stdout)) {
		poll(NULL, 0, FOLLOW_MS);
		r = log_print(c, &from, 0, &e);
	}
	if (r < 0)
		return e.cls == ERR_NOT_FOUND ? cli_fail(&e, "failed to get domain '%s'", c->pos[0]) :
						cli_fail(&e, "Failed to read the log of domain '%s'", c->pos[0]);
	return CLI_OK;
}
