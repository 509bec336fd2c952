/* cairn: the command line: errors, the connection to the daemon, main(). */
#include "tools/cairn/cli.h"
#include "api/schema/schema.h"
#include "api/schema/vm_state.h"
#include "api/store/paths.h"
#include "api/wire/client.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/program.h"
#include "base/signals.h"
#include "base/utf8.h"
#include "base/util.h"
#include "tools/cairn/output.h"
#include "tools/cairn/schema.h"

#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- printing errors ---- */

int cli_exit_code(enum err_class cls)
{
	switch (cls) {
	case ERR_INVALID:
		return CLI_USAGE;
	case ERR_NOT_FOUND:
		return CLI_NOT_FOUND;
	case ERR_WRONG_STATE:
	case ERR_EXISTS:
		return CLI_WRONG_STATE;
	case ERR_PERMISSION:
		return CLI_PERMISSION;
	case ERR_BUSY:
	case ERR_QUOTA:
		return CLI_BUSY;
	case ERR_HOST:
		return CLI_HOST;
	case ERR_APPROVAL:
		return CLI_APPROVAL;
	default:
		return CLI_FAILURE;
	}
}

static void error_print(const char *fmt, va_list ap)
{
	fflush(stdout);
	fputs("error: ", stderr);
	vfprintf(stderr, fmt, ap);
}

int cli_fail(const struct err *e, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	error_print(fmt, ap);
	va_end(ap);
	fprintf(stderr, "\nerror: %s\n", e->msg);
	return cli_exit_code(e->cls);
}

int cli_usage(const struct cli *c, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	error_print(fmt, ap);
	va_end(ap);
	fprintf(stderr, "\nerror: see cairn help%s%s\n", c && c->verb ? " " : "",
		c && c->verb ? c->verb->name : "");
	return CLI_USAGE;
}

/* ---- calling the daemon ---- */

/* Replace the control characters of a text from the daemon, for the terminal. Keep ends of lines and tabs. */
static void text_clean(struct json_object *o)
{
	size_t len = (size_t)json_object_get_string_len(o);
	CLEANUP_FREE char *copy = must_alloc(malloc(len + 1));

	memcpy(copy, json_object_get_string(o), len);
	utf8_stream_clean(&(struct utf8_stream){ 0 }, copy, len, "\n\t");
	if (memcmp(copy, json_object_get_string(o), len))
		json_object_set_string_len(o, copy, (int)len);
}

/* A guest's agent chooses the names of members, too. */
static void names_clean(struct json_object *o)
{
	CLEANUP_JS struct json_object *had = json_object_new_object();

	json_object_object_foreach(o, key, v)
		if (!utf8_is_clean(key))
			json_object_object_add(had, key, json_object_get(v));
	json_object_object_foreach(had, name, member)
	{
		CLEANUP_FREE char *clean = must_alloc(strdup(name));

		utf8_clean(clean);
		json_object_object_del(o, name);
		json_object_object_add(o, clean, json_object_get(member));
	}
}

void cli_texts_clean(struct json_object *o)
{
	if (json_object_is_type(o, json_type_string))
		text_clean(o);
	if (json_object_is_type(o, json_type_object)) {
		names_clean(o);
		json_object_object_foreach(o, key, v)
		{
			(void)key;
			cli_texts_clean(v);
		}
	}
	for (size_t i = 0; json_object_is_type(o, json_type_array) && i < json_object_array_length(o); i++)
		cli_texts_clean(json_object_array_get_idx(o, i));
}

/* Print why the command's VM does not start yet. */
static void start_delay_print(void *opaque, struct json_object *ev)
{
	const char *vm = js_get_str(opaque, "vm");
	struct json_object *data = js_get(ev, "data");
	char at[TIME_TEXT_BYTES];

	if (!vm)
		vm = js_get_str(js_get(opaque, "definition"), "name");
	if (!vm || strcmp(js_get_str_or(ev, "event", ""), "START_DELAYED") != 0 ||
		(strcmp(vm, js_get_str_or(data, "vm", "")) != 0 && strcmp(vm, js_get_str_or(data, "vm-uuid", "")) != 0))
		return;
	cli_texts_clean(data);
	fprintf(stderr, "Domain '%s' waits until %s to start: %s\n", js_get_str(data, "vm"), time_text(js_get_int(data, "at", 0), false, at),
		js_get_str_or(data, "detail", "-"));
}

static int readonly_refuse(const char *what, struct err *e)
{
	return err_set(e, -EPERM, ERR_PERMISSION, "-r allows only what changes nothing; leave it out to run %s", what);
}

int cli_ready(struct cli *c, const char *command, struct err *e)
{
	char socket[PATH_MAX];
	int r = 0;

	if (c->readonly && schema_mutates(command))
		return readonly_refuse(command, e);
	if (!c->client)
		r = paths_client_socket(c->socket, socket, sizeof(socket), e);
	if (!r && !c->client)
		r = client_connect(socket, &c->client, e);
	return r;
}

int cli_execute_with_fd(struct cli *c, const char *command, struct json_object *args, int fd,
	struct json_object **ret_v, int *ret_fd, struct err *e)
{
	int r = cli_ready(c, command, e);

	if (r < 0) {
		json_object_put(args);
		return r;
	}
	json_object_get(args);
	client_on_event(c->client, args ? start_delay_print : NULL, args);
	r = client_execute_with_fd(c->client, command, args, fd, ret_v, ret_fd, e);
	client_on_event(c->client, NULL, NULL);
	json_object_put(args);
	if (!r && ret_v)
		cli_texts_clean(*ret_v);
	return r;
}

int cli_execute(struct cli *c, const char *command, struct json_object *args,
	struct json_object **ret_v, int *ret_fd, struct err *e)
{
	return cli_execute_with_fd(c, command, args, -1, ret_v, ret_fd, e);
}

int cli_next_event(struct cli *c, uint64_t deadline_ns, struct json_object **ret_ev, struct err *e)
{
	int r = client_next_event(c->client, deadline_ns, ret_ev, e);

	if (!r)
		cli_texts_clean(*ret_ev);
	return r;
}

bool cli_roles_changed(struct json_object *ev)
{
	return !strcmp(js_get_str_or(ev, "event", ""), "ROLES_CHANGED");
}

/* Find the members of the objects in a list of a command's answer; list NULL: those of the answer itself. Returns NULL
 * if the schema does not know them. */
static const struct field *row_members_find(const char *command, const char *list)
{
	const struct command *row = schema_find(DIALECT_DAEMON, command);

	if (!list)
		return row ? row->returns : NULL;
	for (const struct field *f = row ? row->returns : NULL; f && f->name; f++)
		if (!strcmp(f->name, list))
			return field_type_members((enum field_type)(f->type & ~(unsigned)FIELD_LIST));
	return NULL;
}

void cli_rows_of(struct cli *c, const char *command, const char *list)
{
	c->row_members = row_members_find(command, list);
}

int cli_fetch_all(struct cli *c, const char *command, struct json_object *args, const char *list, const char *cursor,
	struct json_object **ret_all, struct json_object **ret_first, struct err *e)
{
	CLEANUP_JS struct json_object *all = json_object_new_array(), *asked = args;

	cli_rows_of(c, command, list);
	for (;;) {
		CLEANUP_JS struct json_object *page = NULL;
		struct json_object *some;
		int r = cli_execute(c, command, json_object_get(args), &page, NULL, e);

		if (r < 0)
			return r;
		some = js_get_array(page, list);
		for (size_t i = 0; some && i < json_object_array_length(some); i++)
			json_object_array_add(all, json_object_get(json_object_array_get_idx(some, i)));
		if (ret_first && !js_get(args, cursor))
			*ret_first = json_object_get(page);
		if (!js_get(page, "next") || !js_get_bool(page, "more", true))
			break;
		js_put(args, cursor, json_object_get(js_get(page, "next")));
	}
	*ret_all = STEAL_PTR(all);
	return 0;
}

void cli_rows_print(struct cli *c, struct json_object *rows)
{
	CLEANUP_JS struct json_object *heads = json_object_new_object();

	if (c->format != CLI_CSV || !rows || json_object_array_length(rows)) {
		output_print(stdout, c->format, rows);
		return;
	}
	for (const struct field *f = c->row_members; f && f->name; f++)
		js_put_bool(heads, f->name, true);
	csv_header(stdout, heads);
}

int cli_rows_show(struct cli *c, struct json_object *rows, const char *const *heads, size_t columns,
	void (*row_add)(struct table *t, struct json_object *row))
{
	struct table t;

	if (c->format != CLI_TABLE) {
		cli_rows_print(c, rows);
		return CLI_OK;
	}
	table_init(&t, heads, columns);
	for (size_t i = 0; i < json_object_array_length(rows); i++)
		row_add(&t, json_object_array_get_idx(rows, i));
	table_finish(&t, stdout);
	return CLI_OK;
}

struct json_object *cli_vm_args(const char *name)
{
	struct json_object *o = json_object_new_object();

	js_put_str(o, "vm", name);
	return o;
}

const char *cli_vm_state(struct json_object *vm)
{
	const char *word = js_get_str_or(vm, "word", "-");
	enum vm_state s = vm_state_from_word(word);

	return s < VM_STATE_COUNT ? vm_state_name(s) : word;
}

int cli_vm_info(struct cli *c, const char *name, struct json_object **ret_o, struct err *e)
{
	return cli_execute(c, "vm-info", cli_vm_args(name), ret_o, NULL, e);
}

/* ---- the command line ---- */

/* Returns how many positionals, from the first on, name VMs and thus may be ids to resolve. */
static size_t vms_count(const struct cli *c)
{
	const char *what = c->verb->names;

	/* With --all there are no names. Verbs about permissions accept names of VMs that do not exist, so a number is
	 * a name there. */
	if (!what || strcmp(what, "vm") || option_flag(c, "all") || !strcmp(c->verb->group, "Administration"))
		return 0;
	return strstr(c->verb->args, "VM...") ? c->npos : c->npos ? 1 : 0;
}

static bool is_number(const char *s)
{
	return *s && strlen(s) < 10 && s[strspn(s, "0123456789")] == 0;
}

static const char *name_of_id(struct json_object *vms, const char *number)
{
	const char *found = number;

	for (size_t i = 0; i < json_object_array_length(vms); i++) {
		struct json_object *vm = json_object_array_get_idx(vms, i);
		const char *name = js_get_str(vm, "name");

		if (name && !strcmp(name, number))
			return number;
		if (name && js_get_int(vm, "id", -1) == atol(number))
			found = name;
	}
	return found;
}

/* Return whether the word is surely not a VM: no name, no UUID, no pattern and no number. */
static bool is_no_vm(struct json_object *vms, const char *word)
{
	if (strlen(word) == 36 || strpbrk(word, "*?[") || is_number(word))
		return false;
	for (size_t i = 0; i < json_object_array_length(vms); i++)
		if (!strcmp(js_get_str_or(json_object_array_get_idx(vms, i), "name", ""), word))
			return false;
	return true;
}

/* Replace ids of running VMs by names, as virsh does. A VM's name takes precedence over an id. Beside a word that is no
 * VM, a number is no id: the two may be a name with a blank that lacks its quotes. If the list of VMs cannot be read,
 * the verb itself reports the error. */
static void ids_resolve(struct cli *c)
{
	size_t n = vms_count(c);
	struct err e;

	for (size_t i = 0; i < n; i++) {
		if (!is_number(c->pos[i]))
			continue;
		if (!c->vms && cli_vm_list(c, true, &c->vms, NULL, &e) < 0)
			return;
		for (size_t k = 0; k < n; k++)
			if (is_no_vm(c->vms, c->pos[k]))
				return;
		c->pos[i] = name_of_id(c->vms, c->pos[i]);
	}
}

static bool has_word(int argc, char **argv, const char *word)
{
	for (int i = 1; i < argc; i++)
		if (!strcmp(argv[i], word))
			return true;
	return false;
}

static int verb_run_by_name(struct cli *c, int argc, char **argv)
{
	static const char changes_without_daemon[] = "image-remove run seed";
	struct err e;
	int r;

	c->verb = verb_find(argv[0]);
	if (!c->verb)
		return verb_missing(argv[0]);
	r = options_parse(c, argc, argv);
	if (r == CLI_USAGE && c->verb->run == verb_run && has_word(argc, argv, "--"))
		return CLI_NO_STATUS;
	if (r == CLI_HELP_ASKED) {
		c->pos[0] = c->verb->name;
		c->npos = 1;
		return verb_help(c);
	}
	if (r)
		return r;
	if (c->readonly && !option_flag(c, "print-only") && words_have(changes_without_daemon, ' ', c->verb->name) && readonly_refuse(c->verb->name, &e))
		return cli_fail(&e, "Failed to run %s", c->verb->name);
	ids_resolve(c);
	return c->verb->run(c);
}

/* Parse the options before the verb; -- ends them. Returns the index of the verb, argc if there is none; -1 after an
 * error message. */
static int global_options(struct cli *c, int argc, char **argv)
{
	int i = 1;

	for (; i < argc && argv[i][0] == '-'; i++) {
		const char *a = argv[i];

		if ((!strcmp(a, "-c") || !strcmp(a, "--connect")) && i + 1 < argc) {
			c->socket = argv[++i];
		} else if (!strncmp(a, "--connect=", 10)) {
			c->socket = a + 10;
		} else if (!strcmp(a, "-c") || !strcmp(a, "--connect")) {
			cli_usage(c, "%s needs a socket", a);
			return -1;
		} else if (!strcmp(a, "--")) {
			return i + 1;
		} else if (!strcmp(a, "-q") || !strcmp(a, "--quiet")) {
			output_quiet();
		} else if (!strcmp(a, "-r") || !strcmp(a, "--readonly")) {
			c->readonly = true;
		} else if (!strcmp(a, "--version") || !strcmp(a, "-v")) {
			argv[i] = (char *)"version";
			return i;
		} else if (!strcmp(a, "--help") || !strcmp(a, "-h")) {
			argv[i] = (char *)"help";
			return i;
		} else {
			cli_usage(c, "unknown option %s before the verb; the options of a verb follow it", a);
			return -1;
		}
	}
	return i;
}

/* Open closed standard streams, so that no file gets the number of a stream, and with it the stream's output. Reading
 * from such an input, and writing to such an output, still fails. */
static void streams_open(void)
{
	for (int i = 0; i < 3; i++)
		if (fcntl(i, F_GETFD) < 0)
			(void)open("/dev/null", i ? O_RDONLY : O_WRONLY);
}

int main(int argc, char **argv)
{
	static struct cli c; /* not on the stack: a start touches only a few of its pages */
	int at, r;

	c.format = CLI_TABLE;
	streams_open();
	program_outlive_file_limit();
	signal(SIGCHLD, SIG_DFL); /* a program that ignores it may have started this one; then no child would leave a status */
	at = global_options(&c, argc, argv);
	if (at < 0)
		return CLI_USAGE;
	if (c.socket && strstr(c.socket, "://"))
		return cli_usage(NULL, "-c takes the path of the daemon's socket, not the URI \"%s\"; leave -c out for the default one", c.socket);
	if (at == argc)
		r = isatty(0) && isatty(1) ? verb_shell(&c) : verb_help(&c);
	else if (at == argc - 1 && strpbrk(argv[at], " ;") && argv[at][strspn(argv[at], " \t;")] && strcmp(argv[at - 1], "--"))
		r = shell_start(&c, argv[at]); /* commands in one word, as virsh takes them */
	else
		r = verb_run_by_name(&c, argc - at, argv + at);
	client_free(c.client);
	json_object_put(c.vms);
	r = program_end("error", r);
	if (r && c.interrupted)
		signals_end_process(SIGINT);
	return r;
}
