#include "tools/cairn/multi_vm.h"
#include "api/wire/client.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/loop.h"
#include "base/util.h"
#include "tools/cairn/job.h"
#include "tools/cairn/output.h"
#include "tools/cairn/schema.h"

#include <errno.h>
#include <fnmatch.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PARALLEL_MAX 64
#define PARALLEL_DEFAULT 8

/* ---- choosing VMs ---- */

static bool has_target(const struct multi_vm *f, const char *name)
{
	for (size_t i = 0; i < f->n; i++)
		if (!strcmp(f->list[i].name, name))
			return true;
	return false;
}

/* Add a VM unless it is in the list. vm: its entry in vm-list; NULL: the user gave the name. */
static void target_add(struct multi_vm *f, const char *name, struct json_object *vm)
{
	struct multi_vm_target *t;

	if (has_target(f, name))
		return;
	f->list = must_alloc(reallocarray(f->list, f->n + 1, sizeof(*f->list)));
	t = &f->list[f->n++];
	*t = (struct multi_vm_target){ .name = strdup(name), .picked = vm != NULL };
	if (!t->name)
		abort();
	if (!vm)
		return;
	snprintf(t->word, sizeof(t->word), "%s", js_get_str(vm, "word"));
	snprintf(t->state, sizeof(t->state), "%s", cli_vm_state(vm));
	f->table = true;
}

/* Add all VMs whose name matches. pattern: NULL: all VMs. Returns the number of matches. */
static size_t targets_fit(struct multi_vm *f, struct json_object *vms, const char *pattern)
{
	size_t fit = 0;

	for (size_t i = 0; i < json_object_array_length(vms); i++) {
		struct json_object *vm = json_object_array_get_idx(vms, i);
		const char *name = js_get_str(vm, "name");

		if (!name || (pattern && fnmatch(pattern, name, 0)))
			continue;
		target_add(f, name, vm);
		fit++;
	}
	return fit;
}

static bool is_pattern(const char *s)
{
	return strpbrk(s, "*?[") != NULL;
}

static bool is_name(struct json_object *vms, const char *s)
{
	for (size_t i = 0; i < json_object_array_length(vms); i++) {
		const char *name = js_get_str(json_object_array_get_idx(vms, i), "name");

		if (name && !strcmp(name, s))
			return true;
	}
	return false;
}

static int parallel_parse(struct cli *c, unsigned *ret)
{
	const char *text = option_value(c, "parallel");
	char *end;
	long n = text ? strtol(text, &end, 10) : PARALLEL_DEFAULT;

	if (text && (end == text || *end || n < 1 || n > PARALLEL_MAX))
		return cli_usage(c, "--parallel must be a number from 1 to %d, not \"%s\"", PARALLEL_MAX,
			text);
	*ret = (unsigned)n;
	return 0;
}

static int positional_pick(struct cli *c, struct multi_vm *f, struct json_object *vms, const char *s)
{
	struct err e;

	if (!is_pattern(s) || is_name(vms, s)) {
		target_add(f, s, NULL);
		return 0;
	}
	if (targets_fit(f, vms, s))
		return 0;
	err_set(&e, -ENOENT, ERR_NOT_FOUND, "no VM matches the pattern. Next: cairn list --all");
	return cli_fail(&e, "Failed to %s '%s'", c->verb->name, s);
}

bool multi_vm_is_meant(const struct cli *c, bool first)
{
	return option_flag(c, "all") || option_flag(c, "dry-run") || option_value(c, "parallel") ||
		(!first && c->npos > 1) || (c->npos && is_pattern(c->pos[0]));
}

int multi_vm_pick(struct cli *c, struct multi_vm *f)
{
	CLEANUP_JS struct json_object *vms = NULL;
	bool all = option_flag(c, "all"), look = all;
	struct err e;
	int r;

	*f = (struct multi_vm){ 0 };
	if (all && c->npos)
		return cli_usage(c, "--all and names exclude each other");
	r = parallel_parse(c, &f->parallel);
	if (r)
		return r;
	for (size_t i = 0; i < c->npos; i++)
		look = look || is_pattern(c->pos[i]);
	if (look && cli_vm_list(c, true, &vms, NULL, &e) < 0)
		return cli_fail(&e, "Failed to list domains");
	f->table = all;
	if (all)
		targets_fit(f, vms, NULL);
	for (size_t i = 0; i < c->npos && !r; i++)
		r = positional_pick(c, f, vms, c->pos[i]);
	return r;
}

void multi_vm_done(struct multi_vm *f)
{
	for (size_t i = 0; i < f->n; i++) {
		json_object_put(f->list[i].args);
		json_object_put(f->list[i].answer);
		free(f->list[i].name);
	}
	free(f->list);
	*f = (struct multi_vm){ 0 };
}

/* ---- running the command ---- */

struct work {
	const struct cli *c;
	const struct multi_vm_act *a;
	int signals; /* readable after Ctrl-C; -1: Ctrl-C ends the program */
	struct multi_vm *f;
	pthread_mutex_t mutex;
	pthread_cond_t changed;
	size_t next;
};

static void target_job(struct cli *c, const struct work *w, struct multi_vm_target *t)
{
	CLEANUP_JS struct json_object *begun = STEAL_PTR(t->answer);
	const char *id = js_get_str(begun, "job");

	t->r = id ? job_await(c, id, w->signals, &t->answer, &t->e) :
		err_set(&t->e, -EPROTO, ERR_GENERIC, "the daemon started no job");
}

static bool is_interrupted(const struct work *w)
{
	struct pollfd p = { .fd = w->signals, .events = POLLIN };

	return poll(&p, 1, 0) > 0;
}

/* Call the command, with one word of the argument `tries` after the other until a call succeeds. args: taken. On
 * failure, t->e is the error of the last call. */
static int target_call(struct cli *c, const struct work *w, struct multi_vm_target *t, struct json_object *args)
{
	CLEANUP_FREE char *words = strdup(w->a->tries ? js_get_str_or(args, w->a->tries, "") : "");
	char *at = NULL, *word = words ? strtok_r(words, ",", &at) : NULL;
	int r;

	do {
		js_put_str(args, w->a->tries, word);
		r = cli_execute(c, w->a->command, json_object_get(args), &t->answer, NULL, &t->e);
		word = word ? strtok_r(NULL, ",", &at) : NULL;
	} while (r < 0 && word);
	json_object_put(args);
	return r;
}

static void target_do(struct cli *c, const struct work *w, struct multi_vm_target *t)
{
	uint64_t begin = loop_now_ns();
	struct json_object *args = STEAL_PTR(t->args);

	if (is_interrupted(w)) {
		json_object_put(args);
		t->r = err_set(&t->e, -EINTR, ERR_CANCELLED, "not started: interrupted by Ctrl-C");
		return;
	}
	t->r = target_call(c, w, t, args);
	if (!t->r && w->a->job)
		target_job(c, w, t);
	t->took_ns = loop_now_ns() - begin;
}

/* Handle one target after the other. Each worker has its own connection, because the daemon answers the calls of one
 * connection in order. */
static void *worker_main(void *opaque)
{
	struct work *w = opaque;
	struct cli own = { .socket = w->c->socket, .readonly = w->c->readonly };

	pthread_mutex_lock(&w->mutex);
	while (w->next < w->f->n) {
		struct multi_vm_target *t = &w->f->list[w->next++];

		if (t->done)
			continue;
		pthread_mutex_unlock(&w->mutex);
		target_do(&own, w, t);
		pthread_mutex_lock(&w->mutex);
		t->done = true;
		pthread_cond_broadcast(&w->changed);
	}
	pthread_mutex_unlock(&w->mutex);
	client_free(own.client);
	return NULL;
}

static void target_await(struct work *w, const struct multi_vm_target *t)
{
	LOCK_GUARD(&w->mutex);
	while (!t->done)
		pthread_cond_wait(&w->changed, &w->mutex);
}

/* ---- printing outcomes ---- */

static bool is_skipped(const struct multi_vm_target *t)
{
	return t->r < 0 && t->picked && t->e.cls == ERR_WRONG_STATE;
}

static int target_code(const struct multi_vm_target *t)
{
	return t->r < 0 && !is_skipped(t) ? cli_exit_code(t->e.cls) : CLI_OK;
}

static void line_print(const struct multi_vm_act *a, const struct multi_vm_target *t)
{
	char at[TIME_TEXT_BYTES];

	if (t->r < 0)
		cli_fail(&t->e, "Failed to %s domain '%s'", a->fail, t->name);
	else if (js_get_str(t->answer, "delayed"))
		printf("Domain '%s' waits until %s: %s\n", t->name, time_text(js_get_int(t->answer, "at", 0), false, at),
			js_get_str(t->answer, "delayed"));
	else
		say("Domain '%s' %s\n", t->name, a->done);
	if (!t->r && a->told)
		a->told(t->answer, false);
	fflush(stdout);
}

static const char *outcome_word(const struct multi_vm_target *t)
{
	return t->r == 0 ? "done" : is_skipped(t) ? "skipped" : "failed";
}

/* Print below the table what the answers say of files and of the host. */
static void answers_tell(const struct multi_vm_act *a, const struct multi_vm *f)
{
	for (size_t i = 0; i < f->n && a->told; i++)
		if (!f->list[i].r && (js_get(f->list[i].answer, "volumes") || js_get(f->list[i].answer, "warnings")))
			a->told(f->list[i].answer, false);
}

static void multi_vm_table_print(const struct multi_vm *f)
{
	static const char *const heads[] = { "Name", "Outcome", "Time", "Why" };
	struct table table;

	table_init(&table, heads, ARRAY_SIZE(heads));
	for (size_t i = 0; i < f->n; i++) {
		const struct multi_vm_target *t = &f->list[i];
		char took[24], why[JOB_TRACKING_TEXT] = "-";

		snprintf(took, sizeof(took), "%.2f s", (double)t->took_ns / 1e9);
		if (js_get_str(t->answer, "why")) /* of restart-process */
			snprintf(why, sizeof(why), "saved and started: %s", js_get_str(t->answer, "why"));
		else if (js_get_str(t->answer, "delayed"))
			snprintf(why, sizeof(why), "delayed: %s", js_get_str(t->answer, "delayed"));
		else if (js_get_int(t->answer, "memory-throttle", 0) && js_get_str(t->answer, "way"))
			job_slowed_text(t->answer, why);
		else
			job_tracking_text(t->answer, "copied", why, sizeof(why));
		table_add(&table, (const char *const[]){ t->name, outcome_word(t), took, t->r < 0 ? t->e.msg : why });
	}
	table_finish(&table, stdout);
}

static void multi_vm_json_print(const struct cli *c, const struct multi_vm *f)
{
	static const char *const passed_on[] = { "id", "volumes", "warnings", "freed", "pause", "memory-tracking", "memory-tracking-reason",
		"memory-rounds", "memory-throttle", "memory-stopped", "way", "why", "delayed", "at" };
	CLEANUP_JS struct json_object *all = json_object_new_array();

	for (size_t i = 0; i < f->n; i++) {
		const struct multi_vm_target *t = &f->list[i];
		struct json_object *o = json_object_new_object();

		js_put_str(o, "name", t->name);
		js_put_str(o, "outcome", outcome_word(t));
		js_put_uint(o, "duration", t->took_ns);
		js_put_str(o, "class", t->r < 0 ? err_class_name(t->e.cls) : "");
		js_put_str(o, "error", t->r < 0 ? t->e.msg : "");
		for (size_t k = 0; k < ARRAY_SIZE(passed_on); k++)
			if (js_get(t->answer, passed_on[k]))
				js_put(o, passed_on[k], json_object_get(js_get(t->answer, passed_on[k])));
		json_object_array_add(all, o);
	}
	output_print(stdout, c->format, all);
}

/* ---- dry run ---- */

static void would_print(const struct cli *c, const struct multi_vm_act *a, const char *name, const char *state, const char *word)
{
	const char *lost = a->lost ? a->lost(c, word) : NULL;

	printf("Would %s domain '%s' (%s)%s%s\n", a->fail, name, state, lost ? "; lost: " : "", lost ? lost : "");
}

/* Print the command's effect, which the daemon computes. Returns an exit code. */
static int target_ask(struct cli *c, const struct multi_vm_act *a, const struct multi_vm_target *t,
	struct json_object *info)
{
	CLEANUP_JS struct json_object *answer = NULL;
	struct json_object *args = cli_vm_args(t->name);
	struct err e;

	if (a->add)
		a->add(c, args);
	js_put_bool(args, "dry-run", true);
	if (cli_execute(c, a->command, args, &answer, NULL, &e) < 0)
		return cli_fail(&e, "Failed to %s domain '%s'", a->fail, t->name);
	would_print(c, a, js_get_str(info, "name"), cli_vm_state(info), js_get_str(info, "word"));
	a->told(answer, true);
	return CLI_OK;
}

static int target_print(struct cli *c, const struct multi_vm_act *a, const struct multi_vm_target *t,
	const char *states)
{
	CLEANUP_JS struct json_object *o = NULL;
	struct err e;

	if (t->picked && !(a->told && legal_states_have(states, t->word))) {
		if (legal_states_have(states, t->word))
			would_print(c, a, t->name, t->state, t->word);
		else
			printf("Would skip domain '%s' (%s)\n", t->name, t->state);
		return CLI_OK;
	}
	if (cli_vm_info(c, t->name, &o, &e) < 0)
		return cli_fail(&e, "Failed to %s domain '%s'", a->fail, t->name);
	if (a->told)
		return target_ask(c, a, t, o);
	would_print(c, a, js_get_str(o, "name"), cli_vm_state(o), js_get_str(o, "word"));
	return CLI_OK;
}

static int dry_run(struct cli *c, struct multi_vm *f, const struct multi_vm_act *a)
{
	int worst = CLI_OK;
	struct legal_vms legal;
	struct err e;

	if (legal_vms_ask(c, a->command, &legal, &e) < 0)
		return cli_fail(&e, "Failed to read the schema");
	for (size_t i = 0; i < f->n; i++) {
		int code = target_print(c, a, &f->list[i], legal.states);

		worst = worst ? worst : code;
	}
	return worst;
}

/* ---- running a verb for many VMs ---- */

static void args_make(struct cli *c, struct multi_vm *f, const struct multi_vm_act *a)
{
	for (size_t i = 0; i < f->n; i++) {
		if (f->list[i].done)
			continue;
		f->list[i].args = cli_vm_args(f->list[i].name);
		if (a->add)
			a->add(c, f->list[i].args);
	}
}

/* Start up to `parallel` workers; if no thread can be created, work in this thread. Returns the number of threads. */
static size_t workers_start(struct work *w, pthread_t *threads)
{
	size_t n = 0, want = MIN(w->f->parallel, w->f->n);

	while (n < want && pthread_create(&threads[n], NULL, worker_main, w) == 0)
		n++;
	if (!n)
		worker_main(w);
	return n;
}

/* Run the command for the VMs that are not done. lines: print the outcomes in order. */
static void round_run(struct cli *c, struct work *w, bool lines)
{
	pthread_t threads[PARALLEL_MAX];
	size_t n;

	args_make(c, w->f, w->a);
	w->next = 0;
	n = workers_start(w, threads);
	for (size_t i = 0; i < w->f->n; i++) {
		target_await(w, &w->f->list[i]);
		if (lines)
			line_print(w->a, &w->f->list[i]);
	}
	while (n)
		pthread_join(threads[--n], NULL);
}

/* Return whether another round may help: it has VMs that were refused, and the last round has succeeded for others.
 * succeeded: the number of VMs before the last round; updated. */
static bool round_prepare(struct multi_vm *f, size_t *succeeded)
{
	size_t n = 0, refused = 0;

	for (size_t i = 0; i < f->n; i++)
		n += !f->list[i].r;
	if (n == *succeeded)
		return false;
	*succeeded = n;
	for (size_t i = 0; i < f->n; i++) {
		struct multi_vm_target *t = &f->list[i];

		t->done = !t->r || (t->e.cls != ERR_BUSY && t->e.cls != ERR_WRONG_STATE);
		refused += !t->done;
	}
	return refused > 0;
}

int multi_vm_run(struct cli *c, struct multi_vm *f, const struct multi_vm_act *a)
{
	bool lines = !f->table && c->format == CLI_TABLE;
	struct work w = { .c = c, .a = a, .signals = -1, .f = f,
		.mutex = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };
	CLEANUP_CLOSE int signals = -1;
	sigset_t before;
	size_t succeeded = 0;
	int worst = CLI_OK;

	if (option_flag(c, "dry-run"))
		return dry_run(c, f, a);
	if (a->job && job_signals_open(false, &signals, &before) == 0)
		w.signals = signals;
	do
		round_run(c, &w, lines && !a->repeats);
	while (a->repeats && round_prepare(f, &succeeded));
	for (size_t i = 0; i < f->n; i++) {
		if (lines && a->repeats)
			line_print(a, &f->list[i]);
		worst = worst ? worst : target_code(&f->list[i]);
	}
	c->interrupted = is_interrupted(&w);
	if (c->format != CLI_TABLE)
		multi_vm_json_print(c, f);
	else if (!lines) {
		multi_vm_table_print(f);
		answers_tell(a, f);
	}
	return worst;
}

int multi_vm_do(struct cli *c, const struct multi_vm_act *a)
{
	struct multi_vm f;
	int r = multi_vm_pick(c, &f);

	if (!r)
		r = multi_vm_run(c, &f, a);
	multi_vm_done(&f);
	return r;
}
