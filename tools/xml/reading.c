#include "tools/xml/reading.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "tools/xml/elements.h"

#include <ctype.h>
#include <errno.h>
#include <libxml/tree.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Limits of the warnings and refusals that are printed, because nobody would read more. */
#define WARNINGS_MAX 100
#define REFUSALS_TOLD_MAX 32
#define REFUSALS_MAX 1000 /* those beyond are not counted */

struct refusal {
	enum err_class cls;
	long line;
	char text[ERR_SENTENCE_MAX];
};

struct warning {
	const struct element *row; /* NULL: a warning about a single element */
	const char *name;	   /* name of the attribute or element; borrowed from the document */
	char *path, *text;	   /* owned; text: NULL if row is set */
	long line;
	unsigned count;
};

int reading_init(struct reading *r, struct err *e)
{
	*r = (struct reading){ .definition = json_object_new_object(),
		.warnings = json_object_new_array(),
		.origins = json_object_new_object(),
		.list = calloc(WARNINGS_MAX, sizeof(struct warning)),
		.refusals = calloc(REFUSALS_MAX, sizeof(struct refusal)),
		.e = e };
	if (r->definition && r->warnings && r->origins && r->list && r->refusals)
		return 0;
	reading_done(r);
	return err_set_errno(e, -ENOMEM, "domain XML");
}

void reading_done(struct reading *r)
{
	for (size_t i = 0; i < r->nlist; i++) {
		free(r->list[i].path);
		free(r->list[i].text);
	}
	free(r->list);
	free(r->refusals);
	json_object_put(r->definition);
	json_object_put(r->warnings);
	json_object_put(r->origins);
	*r = (struct reading){ 0 };
}

/* Returns a path such as "/domain/devices/disk[2]/@type"; the caller frees it. */
static char *path_make(struct _xmlNode *n, const char *attr)
{
	xmlChar *path = xmlGetNodePath(n);
	char *out = NULL;

	if (asprintf(&out, "%s%s%s", path ? (const char *)path : "", attr ? "/@" : "",
		    attr ? attr : "") < 0)
		out = NULL;
	xmlFree(path);
	return out;
}

static bool is_refused(const struct reading *r, const char *text)
{
	for (size_t i = 0; i < r->nrefusals; i++)
		if (!strcmp(r->refusals[i].text, text))
			return true;
	return false;
}

static void refusal_keep(struct reading *r, long line)
{
	bool known = is_refused(r, r->e->msg);
	struct refusal *x;

	r->may_go_on = known || r->nrefusals < REFUSALS_MAX;
	r->refused_more = !r->may_go_on;
	if (known || r->refused_more)
		return;
	x = &r->refusals[r->nrefusals++];
	x->cls = r->e->cls;
	x->line = line;
	snprintf(x->text, sizeof(x->text), "%s", r->e->msg);
}

int reading_error(struct reading *r, struct _xmlNode *n, const char *attr, enum err_class cls,
	const char *fmt, ...)
{
	CLEANUP_FREE char *path = path_make(n, attr);
	char why[ERR_SENTENCE_MAX];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why, sizeof(why), fmt, ap);
	va_end(ap);
	err_set(r->e, -EINVAL, cls, "line %ld: %.200s: %s", xmlGetLineNo(n), path ? path : "", why);
	refusal_keep(r, xmlGetLineNo(n));
	return -EINVAL;
}

int reading_continue(struct reading *r, int ret)
{
	bool on = ret == -EINVAL && r->may_go_on;

	r->may_go_on = false;
	return on ? 0 : ret;
}

static int refusal_compare(const void *a, const void *b)
{
	const struct refusal *x = a, *y = b;

	return x->line < y->line ? -1 : x->line > y->line;
}

int reading_refused(struct reading *r)
{
	if (!r->nrefusals)
		return 0;
	qsort(r->refusals, r->nrefusals, sizeof(*r->refusals), refusal_compare);
	return err_set(r->e, -EINVAL, r->refusals[0].cls, "%s", r->refusals[0].text);
}

void reading_put_refusals(const struct reading *r, struct json_object *o)
{
	struct json_object *list = json_object_new_array();

	for (size_t i = 0; i < r->nrefusals && i < REFUSALS_TOLD_MAX; i++)
		json_object_array_add(list, json_object_new_string(r->refusals[i].text));
	js_put(o, "refusals", list);
	js_put_uint(o, "refused", r->nrefusals);
	js_put_bool(o, "refused-more", r->refused_more);
}

static struct warning *warning_add(struct reading *r, struct _xmlNode *n, const char *attr)
{
	struct warning *w;

	if (r->nlist == WARNINGS_MAX) {
		r->left_out++;
		return NULL;
	}
	w = &r->list[r->nlist++];
	w->path = path_make(n, attr);
	w->line = xmlGetLineNo(n);
	w->name = attr ? attr : (const char *)n->name;
	w->count = 1;
	return w;
}

void reading_warn(struct reading *r, struct _xmlNode *n, const char *attr, const char *fmt, ...)
{
	struct warning *w = warning_add(r, n, attr);
	va_list ap;

	if (!w)
		return;
	va_start(ap, fmt);
	if (vasprintf(&w->text, fmt, ap) < 0)
		w->text = NULL;
	va_end(ap);
}

void reading_warn_row(struct reading *r, struct _xmlNode *n, const char *attr,
	const struct element *row)
{
	const char *name = attr ? attr : (const char *)n->name;
	struct warning *w;

	for (size_t i = 0; i < r->nlist; i++)
		if (r->list[i].row == row && !strcmp(r->list[i].name, name)) {
			r->list[i].count++;
			return;
		}
	w = warning_add(r, n, attr);
	if (w)
		w->row = row;
}

static int warning_compare(const void *a, const void *b)
{
	const struct warning *x = a, *y = b;

	return x->line < y->line ? -1 : x->line > y->line;
}

static void warning_put(struct json_object *array, const struct warning *w)
{
	CLEANUP_FREE char *s = NULL;
	char more[32] = "";

	if (w->count > 1)
		snprintf(more, sizeof(more), " and %u more", w->count - 1);
	if (asprintf(&s, "line %ld: %s%s: %s%s", w->line, w->path ? w->path : "", more,
		    w->row ? "has no effect: " : "", w->row ? w->row->why : w->text ? w->text : "") < 0)
		s = NULL;
	if (s)
		json_object_array_add(array, json_object_new_string(s));
}

void reading_finish(struct reading *r)
{
	char more[64];

	qsort(r->list, r->nlist, sizeof(*r->list), warning_compare);
	for (size_t i = 0; i < r->nlist; i++)
		warning_put(r->warnings, &r->list[i]);
	if (!r->left_out)
		return;
	snprintf(more, sizeof(more), "%zu more warnings were omitted", r->left_out);
	json_object_array_add(r->warnings, json_object_new_string(more));
}

void reading_origin(struct reading *r, struct _xmlNode *n, const char *key_fmt, ...)
{
	char key[64], where[32];
	va_list ap;

	va_start(ap, key_fmt);
	vsnprintf(key, sizeof(key), key_fmt, ap);
	va_end(ap);
	snprintf(where, sizeof(where), "line %ld", xmlGetLineNo(n));
	js_put_str(r->origins, key, where);
}

/* ---- reading XML nodes ---- */

static bool node_is(struct _xmlNode *n, const char *name)
{
	return n->type == XML_ELEMENT_NODE && !n->ns && !strcmp((const char *)n->name, name);
}

struct _xmlNode *node_child(struct _xmlNode *n, const char *name)
{
	for (n = n ? n->children : NULL; n; n = n->next)
		if (node_is(n, name))
			return n;
	return NULL;
}

struct _xmlNode *node_next(struct _xmlNode *n)
{
	const char *name = (const char *)n->name;

	for (n = n->next; n; n = n->next)
		if (node_is(n, name))
			return n;
	return NULL;
}

static char *text_take(xmlChar *from)
{
	const char *s = from ? (const char *)from : "";
	size_t len;
	char *out;

	s += strspn(s, " \t\r\n");
	len = strlen(s);
	while (len && strchr(" \t\r\n", s[len - 1]))
		len--;
	out = strndup(s, len);
	xmlFree(from);
	return out;
}

char *node_text(struct _xmlNode *n)
{
	return text_take(xmlNodeGetContent(n));
}

char *node_attr(struct _xmlNode *n, const char *name)
{
	xmlChar *v = n ? xmlGetNoNsProp(n, (const xmlChar *)name) : NULL;

	return v ? text_take(v) : NULL;
}

bool node_attr_is(struct _xmlNode *n, const char *name, const char *value)
{
	CLEANUP_FREE char *v = node_attr(n, name);

	return v && !strcmp(v, value);
}

char *node_user_alias(struct _xmlNode *n)
{
	CLEANUP_FREE char *name = node_attr(node_child(n, "alias"), "name");

	if (!name || strncmp(name, "ua-", 3) || !name[3] || strlen(name + 3) > NODE_ID_MAX)
		return NULL;
	for (const char *p = name + 3; *p; p++)
		if (!isalnum((unsigned char)*p) && *p != '-' && *p != '_')
			return NULL;
	return strdup(name + 3);
}

int number_parse(const char *text, uint64_t max, uint64_t *ret_v)
{
	uint64_t v = 0;

	if (!*text)
		return -EINVAL;
	for (; *text; text++) {
		unsigned digit = (unsigned)(*text - '0');

		if (digit > 9 || digit > max || v > (max - digit) / 10)
			return -EINVAL;
		v = v * 10 + digit;
	}
	*ret_v = v;
	return 0;
}

int node_attr_number(struct reading *r, struct _xmlNode *n, const char *name, uint64_t max,
	uint64_t *ret_v)
{
	CLEANUP_FREE char *v = node_attr(n, name);

	if (!v)
		return 1;
	if (number_parse(v, max, ret_v) < 0)
		return reading_error(r, n, name, ERR_INVALID,
			"\"%.40s\" is not a whole number from 0 to %llu", v, (unsigned long long)max);
	return 0;
}
