/* elements: every element and attribute of libvirt's domain XML that is known here, and what
 * becomes of it: one table, from which the warnings come and docs/definition.md is tested. */
#ifndef CAIRN_TOOLS_XML_ELEMENTS_H
#define CAIRN_TOOLS_XML_ELEMENTS_H

struct _xmlNode;
struct reading;

enum element_action {
	ELEMENT_READ,	  /* it counts; so do its attributes in `attrs`, its children have rows */
	ELEMENT_REPEATED, /* the same, and it may come more than once */
	ELEMENT_SILENT,	  /* nothing is lost without it */
	ELEMENT_NONE,	  /* a warning: it has no effect */
	ELEMENT_OPTIONAL, /* the same, unless state='off', enabled='no' or present='no' */
	ELEMENT_REFUSED,  /* an error: without it this would be another VM */
};

struct element {
	const char *path; /* below /domain; "*" is any element; "@name" at the end: an attribute */
	enum element_action action;
	const char *attrs; /* with spaces between */
	const char *why;   /* of what is read: the definition's key; NULL: nothing to tell */
};

/* Ended by a NULL path. */
extern const struct element elements[];

/* Look at the whole document below <domain>. Warns of what has no effect or is not known. Returns
 * 0; -EINVAL: the first that is refused, or is there twice. */
int elements_check(struct reading *r, struct _xmlNode *domain);

#endif
