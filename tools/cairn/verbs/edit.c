/* edit, net-edit and save-image-edit: change a definition in the user's editor. */
#include "tools/cairn/change.h"
#include "api/definition/definition.h"
#include "api/definition/network_definition.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "base/shell_word.h"
#include "base/util.h"
#include "tools/cairn/cli.h"
#include "tools/cairn/definition_file.h"
#include "tools/cairn/difference.h"
#include "tools/cairn/net.h"
#include "tools/cairn/output.h"
#include "tools/cairn/state_file.h"
#include "tools/cairn/xml.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

struct edit;

/* The differences between VMs, networks and saved states. */
struct edited_kind {
	const char *noun, *title, *rename; /* for sentences */
	int (*read)(struct edit *d, struct json_object **ret, struct err *e);
	int (*to_xml)(struct edit *d, struct err *e); /* to d->text */
	/* Make the canonical JSON of d->file.definition. */
	int (*parse)(struct edit *d, struct json_object **ret, struct err *e);
	int (*define)(struct edit *d, struct err *e);
	/* Ask whether the user may save a change. If not, e->cls is ERR_PERMISSION; other errors say nothing. */
	int (*check)(struct edit *d, struct err *e);
};

struct edit {
	struct cli *cli;
	const struct edited_kind *kind;
	const char *name; /* of the VM or the network, or of the file with a saved state */
	struct state_file state; /* of that file; fd -1: none */
	bool xml;
	char *text;			/* text at the start of the editor */
	struct json_object *was;	/* the daemon's definition when it was last read */
	struct json_object *now;	/* edited definition, as canonical JSON */
	struct definition_file file;	/* edited file */
	char path[PATH_MAX];
	bool keep; /* the user wants to keep the edited file */
};

static void edit_done(struct edit *d)
{
	json_object_put(d->was);
	json_object_put(d->now);
	free(d->text);
	definition_file_done(&d->file);
	state_file_done(&d->state);
	if (d->path[0] && !d->keep)
		unlink(d->path);
}

/* ---- VMs, networks and saved states ---- */

static int vm_read(struct edit *d, struct json_object **ret, struct err *e)
{
	return change_read(d->cli, d->name, ret, e);
}

static int vm_to_xml(struct edit *d, struct err *e)
{
	return xml_from_definition(d->was, -1, &d->text, e);
}

static int vm_parse(struct edit *d, struct json_object **ret, struct err *e)
{
	struct definition *def;
	int r = definition_parse(d->file.definition, d->file.folder, &def, e);

	if (r < 0)
		return r;
	*ret = definition_to_json(def);
	definition_free(def);
	return 0;
}

static int vm_define(struct edit *d, struct err *e)
{
	return change_define(d->cli, d->was, d->now, e);
}

/* Name the VM or the network only: a file that the user cannot read is no reason not to edit. */
static int definition_check(struct edit *d, const char *command, struct err *e)
{
	struct json_object *args = json_object_new_object(), *definition = json_object_new_object();

	js_put_str(definition, "name", js_get_str(d->was, "name"));
	js_put_str(definition, "uuid", js_get_str(d->was, "uuid"));
	js_put(args, "definition", definition);
	js_put_bool(args, "validate-only", true);
	return cli_execute(d->cli, command, args, NULL, NULL, e);
}

static int vm_check(struct edit *d, struct err *e)
{
	return definition_check(d, "vm-define", e);
}

static const struct edited_kind vm_kind = { "domain", "Domain", "name: cannot be edited; use cairn domrename %s NEW", vm_read, vm_to_xml,
	vm_parse, vm_define, vm_check };

static int network_read(struct edit *d, struct json_object **ret, struct err *e)
{
	return net_definition_read(d->cli, d->name, true, ret, e);
}

static int network_to_xml(struct edit *d, struct err *e)
{
	return xml_from_network(d->was, &d->text, e);
}

static int network_parse(struct edit *d, struct json_object **ret, struct err *e)
{
	struct network_definition *def;
	int r = network_definition_parse(d->file.definition, &def, e);

	if (r < 0)
		return r;
	*ret = network_definition_to_json(def);
	network_definition_free(def);
	return 0;
}

static int network_define(struct edit *d, struct err *e)
{
	CLEANUP_JS struct json_object *answer = NULL;
	struct json_object *args = json_object_new_object();
	int r;

	js_put(args, "definition", json_object_get(d->now));
	js_put(args, "was", json_object_get(d->was));
	r = cli_execute(d->cli, "net-define", args, &answer, NULL, e);
	if (r < 0)
		return r;
	warnings_print(js_get_array(answer, "warnings"));
	if (js_get_bool(answer, "pending", false))
		fprintf(stderr, "note: network '%s' is active; the change applies to its next start\n", js_get_str(answer, "name"));
	return 0;
}

static int network_check(struct edit *d, struct err *e)
{
	return definition_check(d, "net-define", e);
}

static const struct edited_kind network_kind = { "network", "Network",
	"name: cannot be edited; copy the network with: cairn net-dumpjson %s --inactive", network_read, network_to_xml, network_parse,
	network_define, network_check };

static int state_read(struct edit *d, struct json_object **ret, struct err *e)
{
	int r = state_file_open(d->name, false, &d->state, e);

	/* Open the file for writing only when there is something to write. */
	if (!r)
		*ret = json_object_get(d->state.definition);
	return r;
}

static int state_define(struct edit *d, struct err *e)
{
	bool paused = d->state.header.paused;
	int r;

	state_file_done(&d->state);
	r = state_file_open(d->name, true, &d->state, e);
	return r ? r : state_file_set(&d->state, d->now, NULL, paused, e);
}

static int state_check(struct edit *d, struct err *e)
{
	return faccessat(AT_FDCWD, d->name, W_OK, AT_EACCESS) < 0 ? err_set_errno(e, -errno, "%s", d->name) : 0;
}

static const struct edited_kind state_kind = { "saved state", "Saved state of domain",
	"name: cannot be edited; after the restore, use cairn domrename %s NEW", state_read, vm_to_xml, vm_parse, state_define,
	state_check };

/* ---- the editor ---- */

static int text_make(struct edit *d, struct err *e)
{
	const char *json = json_object_to_json_string_ext(d->was,
		JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE);

	if (d->xml)
		return d->kind->to_xml(d, e);
	d->text = strdup(json);
	return d->text ? 0 : err_set_errno(e, -ENOMEM, "the definition");
}

static int file_make(struct edit *d, struct err *e)
{
	CLEANUP_CLOSE int fd = -1;
	const char *folder = getenv("TMPDIR");
	int r = text_make(d, e);

	if (r < 0)
		return r;
	snprintf(d->path, sizeof(d->path), "%.4000s/cairn-edit-XXXXXX%s", folder ? folder : "/tmp",
		d->xml ? ".xml" : ".json");
	fd = mkostemps(d->path, d->xml ? 4 : 5, O_CLOEXEC);
	if (fd < 0) {
		r = err_set_errno(e, -errno, "%s", d->path);
		d->path[0] = 0;
		return r;
	}
	r = write_full(fd, d->text, strlen(d->text));
	if (!r)
		r = write_full(fd, "\n", 1);
	return r < 0 ? err_set_errno(e, r, "%s", d->path) : 0;
}

static const char *editor_name(void)
{
	const char *name = getenv("VISUAL");

	if (!name || !*name)
		name = getenv("EDITOR");
	return name && *name ? name : "vi";
}

/* Run the editor through the shell, because the variable may contain options. */
static _Noreturn void editor_become(const char *name, const char *path)
{
	char command[1024];

	signal(SIGINT, SIG_DFL);
	signal(SIGQUIT, SIG_DFL);
	if (snprintf(command, sizeof(command), "%s \"$1\"", name) < (int)sizeof(command))
		execl("/bin/sh", "sh", "-c", command, "editor", path, (char *)NULL);
	_exit(127);
}

static int editor_run(const char *path, struct err *e)
{
	const char *name = editor_name();
	int status = 0;
	pid_t pid;

	signal(SIGINT, SIG_IGN); /* Ctrl-C is for the editor */
	signal(SIGQUIT, SIG_IGN);
	pid = fork();
	if (!pid)
		editor_become(name, path);
	while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	signal(SIGINT, SIG_DFL);
	signal(SIGQUIT, SIG_DFL);
	if (pid < 0)
		return err_set_errno(e, -errno, "%s", name);
	if (WIFEXITED(status) && !WEXITSTATUS(status))
		return 0;
	return err_set(e, -EIO, ERR_GENERIC, "the editor %s failed; set VISUAL or EDITOR to another one",
		name);
}

/* ---- the edited file ---- */

static int name_check(struct edit *d, struct err *e)
{
	const char *name = js_get_str(d->now, "name"), *was = js_get_str(d->was, "name");

	if (name && was && !strcmp(name, was))
		return 0;
	return err_set(e, -EINVAL, ERR_INVALID, d->kind->rename, was ? shell_word(was).s : "VM");
}

static int text_is_unchanged(const struct edit *d)
{
	CLEANUP_FREE char *text = NULL;
	size_t len, had = strlen(d->text);

	return file_read(d->path, XML_FILE_MAX, &text, &len, NULL) == 0 && len == had + 1 &&
		!memcmp(text, d->text, had);
}

/* Set d->now to the canonical form of the edited definition, so that the later comparison with d->was ignores changes
 * of notation. */
static int text_canonical(struct edit *d, struct err *e)
{
	struct json_object *now;
	int r = d->kind->parse(d, &now, e);

	if (r < 0)
		return definition_file_locate(&d->file, r, e);
	json_object_put(d->now);
	d->now = now;
	if (!js_get(d->now, "uuid"))
		js_put_str(d->now, "uuid", js_get_str(d->was, "uuid"));
	return 0;
}

static int file_take(struct edit *d, struct err *e)
{
	int r;

	definition_file_done(&d->file);
	d->file = (struct definition_file){ .is_network = d->kind == &network_kind };
	r = definition_file_read(d->path, &d->file, e);
	if (!r)
		r = text_canonical(d, e);
	return r < 0 ? r : name_check(d, e);
}

/* Show how another user has changed the definition, and use their version as the base of the next attempt. */
static void definition_was(struct edit *d)
{
	struct json_object *now;

	if (d->kind->read(d, &now, NULL) < 0)
		return;
	fprintf(stderr, "the definition was changed in the meantime:\n");
	difference_print(stderr, d->was, now);
	json_object_put(d->was);
	d->was = now;
}

/* Run the editor, and save the edited definition. Returns 1: unchanged; 0: saved, or only shown (--print-only);
 * -errno. */
static int edit_attempt(struct edit *d, struct err *e)
{
	int r = editor_run(d->path, e);

	if (!r && text_is_unchanged(d))
		return 1;
	if (!r)
		r = file_take(d, e);
	if (!r && json_object_equal(d->was, d->now))
		return 1;
	if (r < 0)
		return r;
	difference_print(stdout, d->was, d->now);
	fflush(stdout);
	warnings_print(d->file.warnings);
	if (option_flag(d->cli, "print-only"))
		return 0;
	r = d->kind->define(d, e);
	if (r < 0 && e->cls == ERR_BUSY)
		definition_was(d);
	return r;
}

/* ---- asking the user about a refused definition; the verb edit ---- */

enum answer { ANSWER_AGAIN, ANSWER_DROP, ANSWER_KEEP };

static enum answer edit_ask(void)
{
	char line[64];

	if (!isatty(0))
		return ANSWER_KEEP;
	for (;;) {
		fprintf(stderr, "Failed. Try again? [y,n,k,?]: ");
		if (!fgets(line, sizeof(line), stdin))
			return ANSWER_KEEP;
		switch (line[0]) {
		case 'y':
			return ANSWER_AGAIN;
		case 'n':
			return ANSWER_DROP;
		case 'k':
			return ANSWER_KEEP;
		}
		fprintf(stderr, "y - yes, start the editor again\nn - no, discard my changes\n"
				"k - no, and keep the file\n? - print this help\n");
	}
}

static int edit_run(struct edit *d)
{
	struct err e;
	int r = d->kind->read(d, &d->was, &e);

	if (r < 0)
		return cli_fail(&e, "failed to get %s '%s'", d->kind->noun, d->name);
	if (!option_flag(d->cli, "print-only") && d->kind->check(d, &e) < 0 && e.cls == ERR_PERMISSION)
		r = -EPERM;
	if (!r)
		r = file_make(d, &e);
	while (!r) {
		r = edit_attempt(d, &e);
		if (r >= 0) {
			say("%s '%s' %s configuration %s.\n", d->kind->title, js_get_str(d->was, "name"),
				d->xml ? "XML" : "JSON",
				r || option_flag(d->cli, "print-only") ? "not changed" : "edited");
			return CLI_OK;
		}
		fprintf(stderr, "error: %s\n", e.msg);
		if (access(d->path, F_OK) < 0 || text_is_unchanged(d)) /* nothing to try again or to keep */
			return cli_exit_code(e.cls);
		switch (edit_ask()) {
		case ANSWER_AGAIN:
			r = 0;
			continue;
		case ANSWER_KEEP:
			d->keep = true;
			fprintf(stderr, "your changes are in %s\n", d->path);
			return cli_exit_code(e.cls);
		case ANSWER_DROP:
			return cli_exit_code(e.cls);
		}
	}
	return cli_fail(&e, "Failed to edit %s '%s'", d->kind->noun, d->name);
}

int verb_edit(struct cli *c)
{
	const char *format = option_value(c, "format");
	bool network = !strcmp(c->verb->name, "net-edit"), state = !strcmp(c->verb->name, "save-image-edit");
	struct edit d = { .cli = c, .kind = network ? &network_kind : state ? &state_kind : &vm_kind, .name = c->pos[0], .state = { .fd = -1 } };
	int r;

	d.xml = option_flag(c, "xml") || (format && !strcmp(format, "xml"));
	r = edit_run(&d);
	edit_done(&d);
	return r;
}
