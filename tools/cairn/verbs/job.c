/* jobs, job-cancel and job-dismiss: list the daemon's jobs, cancel them, and delete their results. */
#include "tools/cairn/cli.h"
#include "api/wire/json.h"
#include "tools/cairn/output.h"
#include "tools/cairn/verbs/jobs.h"

#include <stdio.h>

int jobs_fetch(struct cli *c, struct json_object **ret_all, struct err *e)
{
	struct json_object *all = json_object_new_array();
	char after[80] = "";

	for (;;) {
		CLEANUP_JS struct json_object *page = NULL;
		struct json_object *args = json_object_new_object();
		size_t n;
		int r;

		if (after[0])
			js_put_str(args, "after", after);
		r = cli_execute(c, "query-jobs", args, &page, NULL, e);
		if (r < 0) {
			json_object_put(all);
			if (!after[0] || e->cls != ERR_NOT_FOUND)
				return r;
			all = json_object_new_array(); /* the last job of the page was dismissed meanwhile */
			after[0] = 0;
			continue;
		}
		n = json_object_is_type(page, json_type_array) ? json_object_array_length(page) : 0;
		for (size_t i = 0; i < n; i++) {
			struct json_object *o = json_object_array_get_idx(page, i);
			const char *id = js_get_str(o, "id");

			json_object_array_add(all, json_object_get(o));
			snprintf(after, sizeof(after), "%s", id ? id : "");
		}
		if (!n || !after[0])
			break;
	}
	*ret_all = all;
	return 0;
}

static void rows_print(struct json_object *all)
{
	static const char *const heads[] = { "Id", "Domain", "Type", "Status", "Progress", "Error" };
	struct table t;

	table_init(&t, heads, 6);
	for (size_t i = 0; i < json_object_array_length(all); i++) {
		struct json_object *o = json_object_array_get_idx(all, i);
		double done = (double)js_get_int(o, "current-progress", 0),
		       total = (double)js_get_int(o, "total-progress", 0);
		char percent[16] = "-";

		if (total > 0)
			snprintf(percent, sizeof(percent), "%.0f %%", 100 * done / total);
		table_add(&t, (const char *const[]){ js_get_str_or(o, "id", "-"), js_get_str_or(o, "vm", "-"), js_get_str_or(o, "type", "-"),
			js_get_str_or(o, "status", "-"), percent, js_get_str_or(o, "error", "-") });
	}
	table_finish(&t, stdout);
}

int verb_jobs(struct cli *c)
{
	CLEANUP_JS struct json_object *all = NULL;
	struct err e;

	if (jobs_fetch(c, &all, &e) < 0)
		return cli_fail(&e, "Failed to list jobs");
	cli_rows_of(c, "query-jobs", NULL);
	if (c->format != CLI_TABLE)
		cli_rows_print(c, all);
	else
		rows_print(all);
	return CLI_OK;
}

static int job_act(struct cli *c, const char *command, const char *fail, const char *done)
{
	int worst = CLI_OK;

	for (size_t i = 0; i < c->npos; i++) {
		struct json_object *args = json_object_new_object();
		struct err e;
		int code = CLI_OK;

		js_put_str(args, "id", c->pos[i]);
		if (cli_execute(c, command, args, NULL, NULL, &e) < 0)
			code = cli_fail(&e, "Failed to %s job %s", fail, c->pos[i]);
		else
			say("Job %s %s\n", c->pos[i], done);
		worst = worst ? worst : code;
	}
	return worst;
}

int verb_job_cancel(struct cli *c)
{
	return job_act(c, "job-cancel", "cancel", "is being cancelled");
}

int verb_job_dismiss(struct cli *c)
{
	return job_act(c, "job-dismiss", "dismiss", "dismissed");
}
