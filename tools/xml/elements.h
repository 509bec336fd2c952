/* elements: the table of all known elements and attributes of libvirt's domain XML and their treatment.
 * elements_check() applies such a table to a document, and docs/libvirt-xml.md has the rows of this one. */
#ifndef CAIRN_TOOLS_XML_ELEMENTS_H
#define CAIRN_TOOLS_XML_ELEMENTS_H

struct _xmlNode;
struct reading;

enum element_action {
	ELEMENT_READ,	  /* read; `attrs` lists attributes that are read too; children have rows */
	ELEMENT_REPEATED, /* read, and may occur several times */
	ELEMENT_SILENT,	  /* ignored without a warning */
	ELEMENT_NONE,	  /* ignored with a warning */
	ELEMENT_OPTIONAL, /* ignored with a warning unless state='off', or enabled, enable or present is 'no' */
	ELEMENT_REFUSED,  /* error: without this element the guest would see another machine, or be less protected */
};

struct element {
	const char *path; /* path below the root; "*": any element; "@name" at the end: an attribute */
	enum element_action action;
	const char *attrs; /* attributes that are read, too; separated by spaces */
	const char *why;   /* key of the definition, or why the element has no effect; NULL: none */
};

/* The last element has a NULL path. */
extern const struct element elements[];

/* Check a whole document, with warnings for ignored and unknown elements. Elements that are refused, QEMU's, or
 * duplicate are errors, after which reading goes on (reading_refused()).
 * table: the rows of documents with this root. Returns 0; -EINVAL: reading cannot go on. */
int elements_check(struct reading *r, struct _xmlNode *root, const struct element *table);

#endif
