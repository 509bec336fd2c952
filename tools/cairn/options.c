/* Options of a verb: anywhere after the verb, as `--name value` or `--name=value`, like virsh. All other words are
 * positionals. */
#include "tools/cairn/cli.h"
#include "base/suggest.h"
#include "base/util.h"
#include "tools/cairn/output.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Handle --format, which every verb that prints accepts. */
static int format_set(struct cli *c, const char *value)
{
	int f = value ? output_format_parse(value) : -1;

	if (f < 0)
		return cli_usage(c, "--format must be table, json, yaml or csv, not \"%s\"",
			value ? value : "");
	c->format = (enum cli_format)f;
	if (c->format != CLI_TABLE)
		output_quiet(); /* a program reads the output, so it has no sentences */
	return 0;
}

int option_index(const struct cli *c, const char *name, size_t len)
{
	for (int i = 0; c->verb->options && c->verb->options[i].name; i++)
		if (strlen(c->verb->options[i].name) == len &&
			!strncmp(c->verb->options[i].name, name, len))
			return i;
	return -1;
}

static int option_keep(struct cli *c, int at, const char *value)
{
	if (c->ngiven == CLI_GIVEN_MAX)
		return cli_usage(c, "more than %d options", CLI_GIVEN_MAX);
	c->given[c->ngiven].option = at;
	c->given[c->ngiven++].value = value;
	return 0;
}

static bool names_first(const struct cli *c, const char *name, size_t len)
{
	const char *what = c->verb->names;

	if (!what)
		return false;
	if (!strcmp(c->verb->name, "clone") && len == 8 && !strncmp(name, "original", len))
		return true; /* virt-clone's word */
	return (len == 6 && !strncmp(name, "domain", len) && (!strcmp(what, "vm") || !strcmp(what, "vm-name"))) ||
	       (len == 4 && !strncmp(name, "file", len) && !strcmp(what, "file"));
}

/* virsh's names of positionals that have another word here. */
static const struct {
	const char *name, *word;
} virsh_names[] = { { "device", "DISK" }, { "path", "DISK" }, { "cmd", "COMMAND" }, { "keycode", "KEY..." }, { "newname", "NAME" },
	{ "command", "ACTION" }, { "command", "VERB..." }, { "xml", "ENTRY" }, { "xml", "DEFINITION" }, { "network", "UUID" },
	{ "name", "POOL" }, { "kilobytes", "SIZE" } };

/* word: the positional in the verb's line of arguments. */
static bool is_virsh_name_of(const char *name, size_t len, const char *word)
{
	size_t n = strcspn(word, " []");

	for (size_t i = 0; i < ARRAY_SIZE(virsh_names); i++)
		if (strlen(virsh_names[i].name) == len && !strncmp(virsh_names[i].name, name, len) && strlen(virsh_names[i].word) == n &&
			!strncmp(virsh_names[i].word, word, n))
			return true;
	return false;
}

/* As in virsh, the option is --domain or --file for the first positional that is a VM or file, and for others the word
 * in the verb's line of arguments. That word takes precedence over virsh's other name of a positional before it. */
int option_positional(const struct cli *c, const char *name, size_t len)
{
	const char *word = c->verb->args;
	int other = -1;

	if (names_first(c, name, len))
		return 0;
	for (int i = 0; i < CLI_NAMED_MAX && *word; i++) {
		word += strspn(word, " [");
		if ((i || !c->verb->names) && strcspn(word, " []") == len && !strncasecmp(word, name, len))
			return i;
		if ((i || !c->verb->names) && other < 0 && is_virsh_name_of(name, len, word))
			other = i;
		word += strcspn(word, " ");
	}
	return other;
}

static const char *option_name_at(const void *opaque, size_t i)
{
	const struct verb *v = opaque;
	size_t n = 0;

	while (v->options && v->options[n].name)
		n++;
	return i < n ? v->options[i].name : i > n ? NULL : v->prints ? "format" : NULL;
}

/* Print the error and the advice. Returns CLI_USAGE. */
static int usage_advise(const char *advice, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static int usage_advise(const char *advice, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fputs("error: ", stderr);
	vfprintf(stderr, fmt, ap);
	fprintf(stderr, "\nerror: %s\n", advice);
	va_end(ap);
	return CLI_USAGE;
}

/* name: of the option, without its dashes. */
static int option_missing(const struct cli *c, const char *dashes, const char *name, size_t len)
{
	char hint[SUGGEST_HINT_BYTES], word[64];
	const char *advice;

	snprintf(word, sizeof(word), "%.*s", (int)len, name);
	advice = foreign_option_advice(c->verb->name, word);
	if (advice)
		return usage_advise(advice, "%s has no option %s%s", c->verb->name, dashes, word);
	if (!dashes[1])
		return cli_usage(c, "%s has no option -%.*s", c->verb->name, (int)len, name);
	return cli_usage(c, "%s has no option --%.*s%s", c->verb->name, (int)len, name,
		suggest_hint(word, "--", option_name_at, c->verb, hint));
}

bool words_have(const char *words, char between, const char *word)
{
	size_t len = strlen(word);

	for (size_t n; *words; words += n + (words[n] == between)) {
		n = (size_t)(strchrnul(words, between) - words);
		if (n == len && !strncmp(words, word, n))
			return true;
	}
	return false;
}

void words_or(const char *words, char between, char *buf, size_t size)
{
	size_t n = 0;

	buf[0] = 0;
	for (size_t len; *words && n < size; words += len + (words[len] != 0)) {
		len = (size_t)(strchrnul(words, between) - words);
		n += (size_t)snprintf(buf + n, size - n, "%s%.*s", !n ? "" : words[len] ? ", " : " or ", (int)len, words);
	}
}

static int option_words_check(const struct cli *c, const struct verb_option *o, const char *value)
{
	char list[80];

	if (!strchr(o->value, '|') || words_have(o->value, '|', value))
		return 0;
	words_or(o->value, '|', list, sizeof(list));
	return cli_usage(c, "--%s must be %s, not \"%s\"", o->name, list, value);
}

static int option_set(struct cli *c, int at, const char *value)
{
	int r;

	c->options[at] = value;
	r = option_words_check(c, &c->verb->options[at], value);
	return r ? r : option_keep(c, at, value);
}

/* Parse the option at argv[*i] and move *i over its value. */
static int option_take(struct cli *c, int argc, char **argv, int *i)
{
	const char *name = argv[*i] + 2, *eq = strchr(name, '=');
	size_t len = eq ? (size_t)(eq - name) : strlen(name);
	const char *value = eq ? eq + 1 : *i + 1 < argc ? argv[*i + 1] : NULL;
	bool format = c->verb->prints && len == 6 && !strncmp(name, "format", 6);
	int at = option_index(c, name, len);
	const struct verb_option *o = at >= 0 ? &c->verb->options[at] : NULL;
	int place = o ? -1 : option_positional(c, name, len);

	if (!o && !format && place < 0)
		return option_missing(c, "--", name, len);
	if (o && !o->value) {
		if (eq)
			return cli_usage(c, "--%s takes no value", o->name);
		c->options[at] = "";
		return 0;
	}
	if (!value || (!eq && !strcmp(value, "--")))
		return cli_usage(c, "--%.*s needs a value", (int)len, name);
	if (!eq)
		++*i;
	if (format)
		return format_set(c, value);
	if (place >= 0) {
		c->named[place] = value;
		return 0;
	}
	return option_set(c, at, value);
}

/* Options that users of docker and of virt-clone type by their letter. */
static const struct {
	char letter;
	const char *name;
} letters[] = { { 'e', "env" }, { 'i', "interactive" }, { 't', "tty" }, { 'u', "user" }, { 'w', "workdir" }, { 'o', "original" }, { 'n', "name" },
	{ 'f', "file" }, { 'f', "follow" }, { 'm', "mac" }, { 'm', "memory" }, { 'p', "publish" }, { 'v', "volume" } };

int option_of_letter(const struct cli *c, char letter, int *ret_place)
{
	int at = -1;

	*ret_place = -1;
	if (letter == 'a' && !strcmp(c->verb->name, "list")) /* no other verb: --all may stop or remove VMs */
		return option_index(c, "all", 3);
	for (size_t k = 0; k < sizeof(letters) / sizeof(letters[0]) && at < 0 && *ret_place < 0; k++)
		if (letters[k].letter == letter) {
			at = option_index(c, letters[k].name, strlen(letters[k].name));
			*ret_place = at < 0 ? option_positional(c, letters[k].name, strlen(letters[k].name)) : -1;
		}
	return at;
}

/* Keep the value of the option, or set it if it has none. place: of a positional that is given as an option, or -1.
 * Returns 0; CLI_USAGE. */
static int letter_keep(struct cli *c, int at, int place, const char *value)
{
	if (place >= 0) {
		c->named[place] = value;
		return 0;
	}
	c->options[at] = value;
	return c->verb->options[at].value ? option_keep(c, at, value) : 0;
}

/* Return the value of the letter at *p: the rest of the word, or the next word. NULL: there is none. */
static const char *letter_value(int argc, char **argv, int *i, const char *p)
{
	if (p[1])
		return p + 1;
	return *i + 1 < argc && strcmp(argv[*i + 1], "--") ? argv[++*i] : NULL;
}

/* Parse a word such as "-i", or "-ie" with the value of the last letter; move *i over the value. */
static int letters_take(struct cli *c, int argc, char **argv, int *i)
{
	const char *word = argv[*i];

	for (const char *p = word + 1; *p; p++) {
		int place, at = option_of_letter(c, *p, &place), r;
		const char *value = "";
		bool takes;

		if (at < 0 && place < 0)
			return option_missing(c, "-", word + 1, strlen(word + 1));
		takes = place >= 0 || c->verb->options[at].value;
		if (takes)
			value = letter_value(argc, argv, i, p);
		if (!value)
			return cli_usage(c, "-%c needs a value", *p);
		r = letter_keep(c, at, place, value);
		if (r || takes)
			return r;
	}
	return 0;
}

static int too_many(const struct cli *c)
{
	return cli_usage(c, "%s takes at most %d words", c->verb->name, CLI_POSITIONALS_MAX);
}

/* Insert positionals that were given as options, in ascending order, so that each lands at its index. */
static int named_insert(struct cli *c)
{
	for (size_t i = 0; i < CLI_NAMED_MAX; i++) {
		if (!c->named[i])
			continue;
		if (c->npos < i)
			return cli_usage(c, "%s needs %s", c->verb->name, c->verb->args);
		if (c->npos == CLI_POSITIONALS_MAX)
			return too_many(c);
		memmove(c->pos + i + 1, c->pos + i, (c->npos++ - i) * sizeof(*c->pos));
		c->pos[i] = c->named[i];
		c->nplain++;
	}
	return 0;
}

/* Options whose values virsh also takes as further words, in this order. The values of one with dots go on. */
static const struct {
	const char *verbs, *options; /* both separated by blanks */
} virsh_places[] = {
	{ "vol-info vol-dumpxml vol-path vol-delete vol-resize vol-clone", "pool" },
	{ "vol-download vol-upload", "pool offset length" },
	{ "vol-create-as", "allocation format backing-vol backing-vol-format" },
	{ "pool-define-as", "source-host source-path source-dev source-name target" },
	{ "attach-interface", "target mac script model" },
	{ "detach-interface", "mac" },
	{ "domifaddr", "source" },
	{ "domdirtyrate-calc", "seconds mode" },
	{ "domfsfreeze domfsthaw", "mountpoint..." },
	{ "domfstrim", "minimum mountpoint" },
	{ "console", "devname" },
	{ "snapshot-create", "xmlfile" },
	{ "snapshot-current", "snapshotname" },
};

/* Take a word behind the verb's positionals as virsh does.
 * *options: of virsh_places; set to the options after the word's.
 * Returns 0; CLI_USAGE. */
static int place_take(struct cli *c, const char *value, const char **options)
{
	const char *advice = NULL;
	char name[40];

	while (**options) {
		size_t len = strcspn(*options, " .");
		int at = option_index(c, *options, len);
		bool many = (*options)[len] == '.';

		snprintf(name, sizeof(name), "%.*s", (int)len, *options);
		*options += many ? 0 : len + ((*options)[len] == ' ');
		if (!strcmp(value, "-") && (at < 0 || !c->options[at])) /* virsh's users leave an option out so */
			return 0;
		if (at >= 0 && (many || !c->options[at]))
			return option_set(c, at, value);
		if (at < 0) {
			advice = foreign_option_advice(c->verb->name, name);
			break;
		}
	}
	return advice ? usage_advise(advice, "%s does not take \"%s\"", c->verb->name, value) : cli_usage(c, "%s does not take \"%s\"", c->verb->name, value);
}

static int places_take(struct cli *c)
{
	const char *options = "";
	int r = 0;

	for (size_t i = 0; i < ARRAY_SIZE(virsh_places); i++)
		if (words_have(virsh_places[i].verbs, ' ', c->verb->name))
			options = virsh_places[i].options;
	for (size_t i = c->verb->max; i < c->npos && !r; i++)
		r = place_take(c, c->pos[i], &options);
	c->npos = MIN(c->npos, c->verb->max);
	return r;
}

static int positionals_check(struct cli *c)
{
	bool all = option_index(c, "all", 3) >= 0 && option_flag(c, "all");
	int r = named_insert(c);

	if (r)
		return r;
	if (c->npos < c->verb->min && !all)
		return cli_usage(c, "%s needs %s", c->verb->name, c->verb->args);
	return places_take(c);
}

/* Return whether the words after these are the guest's program and its arguments, options too. */
static bool command_begins(const struct cli *c)
{
	return c->npos == 2 && (!strcmp(c->verb->name, "exec") || !strcmp(c->verb->name, "ssh"));
}

int options_parse(struct cli *c, int argc, char **argv)
{
	bool only_positionals = false;

	for (int i = 1; i < argc; i++) {
		const char *a = argv[i];
		int r = 0;

		if (!only_positionals && !strcmp(a, "--"))
			only_positionals = true;
		else if (!only_positionals && (!strcmp(a, "--help") || !strcmp(a, "-h")))
			return CLI_HELP_ASKED;
		else if (!only_positionals && !strncmp(a, "--", 2))
			r = option_take(c, argc, argv, &i);
		else if (!only_positionals && a[0] == '-' && a[1])
			r = letters_take(c, argc, argv, &i);
		else if (c->npos == CLI_POSITIONALS_MAX)
			r = too_many(c);
		else
			c->pos[c->npos++] = a;
		if (r)
			return r;
		if (!only_positionals)
			c->nplain = c->npos;
		only_positionals = only_positionals || command_begins(c);
	}
	return positionals_check(c);
}

const char *option_value(const struct cli *c, const char *name)
{
	int i = option_index(c, name, strlen(name));

	return i < 0 ? NULL : c->options[i];
}

bool option_flag(const struct cli *c, const char *name)
{
	return option_value(c, name) != NULL;
}

size_t option_values(const struct cli *c, const char *name, const char **values, size_t max)
{
	int at = option_index(c, name, strlen(name));
	size_t n = 0;

	for (size_t i = 0; i < c->ngiven && n < max; i++)
		if (c->given[i].option == at)
			values[n++] = c->given[i].value;
	return n;
}

/* Return the seconds of a unit; 0: there is no such unit. */
static unsigned unit_seconds(char unit)
{
	switch (unit) {
	case 's':
		return 1;
	case 'm':
		return 60;
	case 'h':
		return 3600;
	case 'd':
		return 86400;
	default:
		return 0;
	}
}

int option_seconds(const struct cli *c, const char *name, uint64_t fallback_ns, uint64_t *ret_ns)
{
	const char *text = option_value(c, name);
	char *end;
	double s;

	*ret_ns = fallback_ns;
	if (!text)
		return 0;
	s = strtod(text, &end);
	if (end > text && *end && !end[1] && unit_seconds(*end))
		s *= unit_seconds(*end++);
	if (end == text || *end || !isfinite(s) || s < 0 || s > 1e9)
		return cli_usage(c, "--%s must be a number of seconds, not \"%s\"; with a unit: 90s, 10m, 2h or 1d", name, text);
	*ret_ns = (uint64_t)(s * 1e9);
	return 0;
}
