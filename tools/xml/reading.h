/* reading: a domain XML on its way to a definition: the JSON that grows, what is warned of, and
 * where each key came from. Nodes are libxml2's and live as long as the document. */
#ifndef CAIRN_TOOLS_XML_READING_H
#define CAIRN_TOOLS_XML_READING_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct _xmlNode;
struct json_object;
struct element;

/* The namespace of what no element of libvirt's says; see extra.h. */
#define XML_NAMESPACE "urn:cairn:definition:1"
#define XML_NAMESPACE_QEMU "http://libvirt.org/schemas/domain/qemu/1.0"

struct reading {
	struct json_object *definition; /* owned, as the next two */
	struct json_object *warnings;	/* array of sentences */
	struct json_object *origins;	/* "disks[0]": "line 12" */
	struct warning *list;
	size_t nlist, left_out; /* warnings told; those beyond the bound */
	struct err *e;
};

/* Returns 0 or -ENOMEM. */
int reading_init(struct reading *r, struct err *e);
void reading_done(struct reading *r);
/* The warnings, in the order of their lines, into r->warnings. */
void reading_finish(struct reading *r);

/* "line 3: /domain/memory: <sentence>". attr: NULL or the attribute's name. cls: ERR_INVALID, or
 * ERR_UNSUPPORTED for what is well-formed. Returns -EINVAL. */
int reading_error(struct reading *r, struct _xmlNode *n, const char *attr, enum err_class cls,
	const char *fmt, ...) __attribute__((format(printf, 5, 6)));
/* The same as a warning. */
void reading_warn(struct reading *r, struct _xmlNode *n, const char *attr, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));
/* What a row of the table says of all elements, or attributes, of one name: told once, with their
 * number. */
void reading_warn_row(struct reading *r, struct _xmlNode *n, const char *attr,
	const struct element *row);
/* The definition's key is what that node says. */
void reading_origin(struct reading *r, struct _xmlNode *n, const char *key_fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* ---- nodes ---- */

/* The first child element of that name and no namespace, or NULL. */
struct _xmlNode *node_child(struct _xmlNode *n, const char *name);
/* The next sibling of the same name. */
struct _xmlNode *node_next(struct _xmlNode *n);
/* What is between its tags, without white space around it; the caller frees it. NULL: no memory. */
char *node_text(struct _xmlNode *n);
/* An attribute's value; the caller frees it. NULL: there is none, or n is NULL. */
char *node_attr(struct _xmlNode *n, const char *name);
bool node_attr_is(struct _xmlNode *n, const char *name, const char *value);
/* libvirt keeps a user's own words in aliases that begin with "ua-": such a one of the element,
 * without that, if it can be an id in a definition. The caller frees it; NULL: there is none. */
#define NODE_ID_MAX 15
char *node_user_alias(struct _xmlNode *n);
/* A whole number. Returns 0; 1: there is no such attribute; -EINVAL, having said so. */
int node_attr_number(struct reading *r, struct _xmlNode *n, const char *name, uint64_t max,
	uint64_t *ret_v);
/* Digits alone, up to max. Returns 0 or -EINVAL. */
int number_parse(const char *text, uint64_t max, uint64_t *ret_v);

#endif
