/* top: show the resource usage of VMs as rates between two samples; on a terminal, repeatedly. */
#include "tools/cairn/cli.h"
#include "api/wire/client.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/loop.h"
#include "base/util.h"
#include "tools/cairn/job.h"
#include "tools/cairn/output.h"
#include "tools/cairn/screen.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

#define NS 1000000000ULL
#define EVERY_NS (2 * NS)
#define FIRST_NS (NS / 2) /* delay of the second sample, which gives the first rates */
#define EVERY_MIN_NS (NS / 10)
#define EVERY_MAX_NS (3600 * NS)

/* Counters that are shown as rates. */
enum counter { CPU, DISK_READ, DISK_WRITE, NET_IN, NET_OUT, COUNTERS };

struct sample {
	char *name; /* owned */
	char state[24], word[24]; /* for people; for programs */
	int64_t id;
	uint64_t at_ns, memory, resident;
	uint64_t counters[COUNTERS];
	double rates[COUNTERS]; /* per second; CPU: percent of one processor */
	bool has_rates;
};

struct look {
	struct sample *list;
	size_t n;
};

struct top {
	struct cli *c;
	const char *sort;
	uint64_t every_ns;
	struct look before, now;
};

static const struct {
	char key;
	const char *word;
} sorts[] = { { 'c', "cpu" }, { 'm', "memory" }, { 'd', "disk" }, { 'n', "net" }, { 'a', "name" } };

/* ---- taking samples ---- */

static void round_done(struct look *l)
{
	for (size_t i = 0; i < l->n; i++)
		free(l->list[i].name);
	free(l->list);
	*l = (struct look){ 0 };
}

static uint64_t sum_of(struct json_object *info, const char *list, const char *key)
{
	struct json_object *a = js_get_array(info, list);
	uint64_t sum = 0;

	for (size_t i = 0; a && i < json_object_array_length(a); i++)
		sum += (uint64_t)js_get_int(json_object_array_get_idx(a, i), key, 0);
	return sum;
}

static void sample_take(struct look *l, struct json_object *info)
{
	struct sample *s;

	l->list = must_alloc(reallocarray(l->list, l->n + 1, sizeof(*l->list)));
	s = &l->list[l->n++];
	*s = (struct sample){ .name = strdup(js_get_str(info, "name")), .id = js_get_int(info, "id", -1),
		.at_ns = loop_now_ns(), .memory = (uint64_t)js_get_int(info, "used-memory", 0),
		.resident = (uint64_t)js_get_int(info, "resident-memory", 0) };
	if (!s->name)
		abort();
	snprintf(s->state, sizeof(s->state), "%s", cli_vm_state(info));
	snprintf(s->word, sizeof(s->word), "%s", js_get_str(info, "word"));
	s->counters[CPU] = (uint64_t)js_get_int(info, "cpu-time", 0);
	s->counters[DISK_READ] = sum_of(info, "disks", "rd-bytes");
	s->counters[DISK_WRITE] = sum_of(info, "disks", "wr-bytes");
	s->counters[NET_IN] = sum_of(info, "interfaces", "rx-bytes");
	s->counters[NET_OUT] = sum_of(info, "interfaces", "tx-bytes");
}

/* Find the sample of the same run of the same VM; NULL: none. */
static const struct sample *sample_find(const struct look *l, const struct sample *s)
{
	for (size_t i = 0; i < l->n; i++)
		if (l->list[i].id == s->id && s->id >= 0 && !strcmp(l->list[i].name, s->name))
			return &l->list[i];
	return NULL;
}

static void rates_find(struct sample *s, const struct sample *was)
{
	double seconds = was ? (double)(s->at_ns - was->at_ns) / (double)NS : 0;

	s->has_rates = seconds > 0;
	for (unsigned i = 0; s->has_rates && i < COUNTERS; i++) {
		uint64_t grown = s->counters[i] > was->counters[i] ? s->counters[i] - was->counters[i] : 0;

		s->rates[i] = (double)grown / seconds;
	}
	s->rates[CPU] = s->rates[CPU] * 100 / (double)NS;
}

static int vm_sample(struct cli *c, const char *name, bool named, struct look *l, struct err *e)
{
	CLEANUP_JS struct json_object *info = NULL;
	int r = cli_vm_info(c, name, &info, e);

	if (!r)
		sample_take(l, info);
	return r < 0 && (named || e->cls != ERR_NOT_FOUND) ? r : 0; /* a VM of the list may have been undefined by now */
}

/* Take samples of the named VMs, or of all VMs with an id, which have a process. */
static int vms_sample(struct cli *c, struct look *l, struct err *e)
{
	CLEANUP_JS struct json_object *vms = NULL;
	int r = c->npos ? 0 : cli_vm_list(c, true, &vms, NULL, e);

	for (size_t i = 0; !r && i < c->npos; i++)
		r = vm_sample(c, c->pos[i], true, l, e);
	for (size_t i = 0; !r && vms && i < json_object_array_length(vms); i++) {
		struct json_object *vm = json_object_array_get_idx(vms, i);

		if (js_get_int(vm, "id", -1) >= 0)
			r = vm_sample(c, js_get_str(vm, "name"), false, l, e);
	}
	return r;
}

/* ---- sorting the VMs ---- */

static double row_weight(const struct sample *s, const char *sort)
{
	switch (sort[0]) {
	case 'c':
		return s->rates[CPU];
	case 'm':
		return (double)s->memory;
	case 'd':
		return s->rates[DISK_READ] + s->rates[DISK_WRITE];
	default:
		return s->rates[NET_IN] + s->rates[NET_OUT];
	}
}

static int sample_compare(const void *pa, const void *pb, void *sort)
{
	const struct sample *a = pa, *b = pb;
	double x = row_weight(a, sort), y = row_weight(b, sort);
	int by_name = strcasecmp(a->name, b->name);

	if (strcmp(sort, "name") && x != y)
		return x < y ? 1 : -1;
	return by_name ? by_name : strcmp(a->name, b->name);
}

static int top_sample(struct top *t, struct err *e)
{
	int r;

	round_done(&t->before);
	t->before = t->now;
	t->now = (struct look){ 0 };
	r = vms_sample(t->c, &t->now, e);
	for (size_t i = 0; i < t->now.n; i++)
		rates_find(&t->now.list[i], sample_find(&t->before, &t->now.list[i]));
	return r;
}

static void top_sort(struct top *t)
{
	if (t->now.n)
		qsort_r(t->now.list, t->now.n, sizeof(*t->now.list), sample_compare, (void *)t->sort);
}

/* ---- printing the samples ---- */

static void rate_print(const struct sample *s, enum counter which, char buf[24])
{
	if (s->has_rates)
		bytes_print((uint64_t)s->rates[which], buf);
	else
		snprintf(buf, 24, "-");
}

static void row_add(struct table *t, const struct sample *s)
{
	char id[24], cpu[24] = "-", memory[24], resident[24], rates[COUNTERS][24];

	snprintf(id, sizeof(id), "%" PRId64, s->id);
	if (s->has_rates)
		snprintf(cpu, sizeof(cpu), "%.1f", s->rates[CPU]);
	bytes_print(s->memory, memory);
	bytes_print(s->resident, resident);
	for (unsigned i = DISK_READ; i < COUNTERS; i++)
		rate_print(s, (enum counter)i, rates[i]);
	table_add(t, (const char *const[]){ s->id < 0 ? "-" : id, s->name, s->state, cpu, memory, resident,
		rates[DISK_READ], rates[DISK_WRITE], rates[NET_IN], rates[NET_OUT] });
}

static void table_show(const struct top *t, FILE *f)
{
	static const char *const heads[] = { "Id", "Name", "State", "CPU %", "Memory", "Resident", "Read/s", "Written/s",
		"Received/s", "Sent/s" };
	struct table table;

	table_init(&table, heads, ARRAY_SIZE(heads));
	for (size_t i = 0; i < t->now.n; i++)
		row_add(&table, &t->now.list[i]);
	table_finish(&table, f);
}

static void percent_put(struct json_object *o, const struct sample *s)
{
	char text[32];

	snprintf(text, sizeof(text), "%.1f", s->rates[CPU]);
	js_put(o, "cpu-percent", s->has_rates ? json_object_new_double_s(s->rates[CPU], text) : NULL);
}

static void json_show(const struct top *t)
{
	static const char *const keys[] = { [DISK_READ] = "disk-read-rate", [DISK_WRITE] = "disk-write-rate",
		[NET_IN] = "net-rx-rate", [NET_OUT] = "net-tx-rate" };
	CLEANUP_JS struct json_object *all = json_object_new_array();

	for (size_t i = 0; i < t->now.n; i++) {
		const struct sample *s = &t->now.list[i];
		struct json_object *o = json_object_new_object();

		js_put_int(o, "id", s->id);
		js_put_str(o, "name", s->name);
		js_put_str(o, "state", s->word);
		percent_put(o, s);
		js_put_uint(o, "memory", s->memory);
		js_put_uint(o, "resident-memory", s->resident);
		for (unsigned k = DISK_READ; k < COUNTERS; k++)
			js_put(o, keys[k], s->has_rates ? json_object_new_uint64((uint64_t)s->rates[k]) : NULL);
		json_object_array_add(all, o);
	}
	output_print(stdout, t->c->format, all);
}

/* ---- printing one sample and exiting ---- */

static int top_once(struct top *t, struct err *e)
{
	struct timespec wait = { (time_t)(t->every_ns / NS), (long)(t->every_ns % NS) };
	int r = top_sample(t, e);

	if (!r) {
		nanosleep(&wait, NULL);
		r = top_sample(t, e);
	}
	if (r < 0)
		return r;
	top_sort(t);
	if (t->c->format != CLI_TABLE)
		json_show(t);
	else
		table_show(t, stdout);
	return 0;
}

/* ---- the live display ---- */

static void top_draw(struct top *t)
{
	CLEANUP_FREE char *text = NULL;
	time_t now = time(NULL);
	double cpu = 0;
	char clock[16];
	struct tm tm;
	size_t len;
	FILE *f;

	top_sort(t);
	f = open_memstream(&text, &len);
	if (!f)
		abort();
	localtime_r(&now, &tm);
	strftime(clock, sizeof(clock), "%H:%M:%S", &tm);
	for (size_t i = 0; i < t->now.n; i++)
		cpu += t->now.list[i].rates[CPU];
	fprintf(f, " %s  %zu domains, CPU %.1f %%, by %s   c: cpu  m: memory  d: disk  n: net  a: name  q: quit\n\n", clock, t->now.n,
		cpu, t->sort);
	table_show(t, f);
	fclose(f);
	screen_draw(text);
}

/* Discard events, so that they do not pile up in memory. */
static int events_drop(struct cli *c, struct err *e)
{
	int r;

	do {
		CLEANUP_JS struct json_object *ev = NULL;

		r = cli_next_event(c, 0, &ev, e);
	} while (!r);
	return r == -ETIMEDOUT ? 0 : r;
}

static void key_take(struct top *t, int key)
{
	for (size_t i = 0; i < ARRAY_SIZE(sorts); i++)
		if (sorts[i].key == tolower(key))
			t->sort = sorts[i].word;
}

/* Wait for the next sample and handle keys. *over: set if the user quits. */
static int wait_and_draw(struct top *t, struct screen *s, uint64_t until_ns, bool *over, struct err *e)
{
	int r = 0;

	while (!r && !*over) {
		int key = screen_wait(s, client_fd(t->c->client), until_ns);

		*over = key == SCREEN_OVER || tolower(key) == 'q';
		if (key == SCREEN_OTHER)
			r = events_drop(t->c, e);
		else if (loop_now_ns() >= until_ns)
			break;
		key_take(t, key);
		top_draw(t); /* the user chose another order, or the terminal has another size */
	}
	return r;
}

static int top_live(struct top *t, struct err *e)
{
	uint64_t wait_ns = MIN(FIRST_NS, t->every_ns);
	struct screen s;
	bool over = false;
	int r = top_sample(t, e);

	if (r < 0)
		return r;
	r = screen_begin(&s);
	if (r < 0)
		return err_set_errno(e, r, "the terminal");
	while (!r && !over) {
		top_draw(t);
		r = wait_and_draw(t, &s, loop_now_ns() + wait_ns, &over, e);
		if (!r && !over)
			r = top_sample(t, e);
		wait_ns = t->every_ns;
	}
	screen_end(&s);
	return r;
}

/* A dumb terminal, such as that of an editor or a CI job, knows no escape sequences. */
static bool terminal_redraws(void)
{
	const char *term = getenv("TERM");

	return isatty(1) && !(term && !strcmp(term, "dumb"));
}

int verb_top(struct cli *c)
{
	struct top t = { .c = c, .sort = option_value(c, "sort") };
	bool again = c->format == CLI_TABLE && !option_flag(c, "once") && terminal_redraws();
	struct err e;
	int r = option_seconds(c, "every", again ? EVERY_NS : NS, &t.every_ns);

	if (r)
		return r;
	if (t.every_ns < EVERY_MIN_NS || t.every_ns > EVERY_MAX_NS)
		return cli_usage(c, "--every must be 0.1 to 3600 seconds, not \"%s\"", option_value(c, "every"));
	if (!t.sort)
		t.sort = "cpu";
	r = again ? top_live(&t, &e) : top_once(&t, &e);
	round_done(&t.before);
	round_done(&t.now);
	return r < 0 ? cli_fail(&e, "Failed to read the usage of domains") : CLI_OK;
}
