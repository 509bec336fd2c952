/* reading: state of a conversion from domain XML: the definition so far, the warnings, and the place of each key. Nodes
 * belong to libxml2 and live as long as the document. */
#ifndef CAIRN_TOOLS_XML_READING_H
#define CAIRN_TOOLS_XML_READING_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct _xmlNode;
struct json_object;
struct element;

/* Namespace of keys without a libvirt element; see extra.h. */
#define XML_NAMESPACE "urn:cairn:definition:1"
#define XML_NAMESPACE_QEMU "http://libvirt.org/schemas/domain/qemu/1.0"

struct reading {
	struct json_object *definition; /* owned, like the next two */
	struct json_object *warnings;	/* array of sentences */
	struct json_object *origins;	/* "disks[0]": "line 12" */
	struct warning *list;
	size_t nlist, left_out; /* warnings kept; warnings beyond the limit */
	struct refusal *refusals; /* errors of reading_error() */
	size_t nrefusals;
	bool may_go_on; /* the last error is among the refusals */
	bool refused_more; /* reading ended at the limit of refusals */
	const struct element *table; /* of elements_check() */
	struct err *e;
};

/* Returns 0; -ENOMEM with a sentence. */
int reading_init(struct reading *r, struct err *e);
void reading_done(struct reading *r);
/* Sort the warnings by line and store them in r->warnings. */
void reading_finish(struct reading *r);

/* Set the error "line 3: /domain/memory: <sentence>", and keep it as a refusal.
 * attr: name of the attribute; NULL: none. cls: ERR_INVALID, or ERR_UNSUPPORTED for valid XML. Returns -EINVAL. */
int reading_error(struct reading *r, struct _xmlNode *n, const char *attr, enum err_class cls,
	const char *fmt, ...) __attribute__((format(printf, 5, 6)));
/* After an error of reading_error(): read on, so that the user learns of all refused elements at once.
 * ret: of the function that has read a part of the document. Returns 0 to read on; ret after another error, or after
 * too many refusals. */
int reading_continue(struct reading *r, int ret);
/* At the end: if elements were refused, set the error of the first line. Returns 0; -EINVAL with a sentence. */
int reading_refused(struct reading *r);
/* Put "refusals" into the object, the sentences of the first refusals by line; "refused", the number of all; and
 * "refused-more", whether reading ended before there could be more. */
void reading_put_refusals(const struct reading *r, struct json_object *o);
/* Add such a sentence as a warning. */
void reading_warn(struct reading *r, struct _xmlNode *n, const char *attr, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));
/* Add the warning of a table row. All elements or attributes of one name give a single warning, which counts them. */
void reading_warn_row(struct reading *r, struct _xmlNode *n, const char *attr,
	const struct element *row);
/* Note that the key of the definition comes from this node. */
void reading_origin(struct reading *r, struct _xmlNode *n, const char *key_fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* ---- reading XML nodes ---- */

/* Returns the first child element of that name without a namespace; NULL: none. */
struct _xmlNode *node_child(struct _xmlNode *n, const char *name);
/* Returns the next sibling of the same name; NULL: none. */
struct _xmlNode *node_next(struct _xmlNode *n);
/* Returns the text of an element without surrounding white space; the caller frees it. NULL: no memory. */
char *node_text(struct _xmlNode *n);
/* Returns the value of an attribute; the caller frees it. NULL: n is NULL or has no such attribute. */
char *node_attr(struct _xmlNode *n, const char *name);
bool node_attr_is(struct _xmlNode *n, const char *name, const char *value);
/* Returns the element's user alias without its prefix "ua-", if it is a valid id of a definition. The caller frees it;
 * NULL: none. */
#define NODE_ID_MAX 15
char *node_user_alias(struct _xmlNode *n);
/* Read an attribute as a whole number. Returns 0; 1: no such attribute; -EINVAL with the error set. */
int node_attr_number(struct reading *r, struct _xmlNode *n, const char *name, uint64_t max,
	uint64_t *ret_v);
/* Parse a decimal number of at most max. Returns 0 or -EINVAL. */
int number_parse(const char *text, uint64_t max, uint64_t *ret_v);

#endif
