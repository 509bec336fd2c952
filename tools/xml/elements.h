/* elements: the table of all known elements and attributes of libvirt's domain XML and their treatment.
 * elements_check() applies it to a document, and docs/libvirt-xml.md has its rows. */
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
	const char *path; /* path below /domain; "*": any element; "@name" at the end: an attribute */
	enum element_action action;
	const char *attrs; /* attributes that are read, too; separated by spaces */
	const char *why;   /* key of the definition, or why the element has no effect; NULL: none */
};

/* The last element has a NULL path. */
extern const struct element elements[];

/* Check the whole document below <domain>, with warnings for ignored and unknown elements. Returns 0; -EINVAL for the
 * first element that is refused, QEMU's, or duplicate. */
int elements_check(struct reading *r, struct _xmlNode *domain);

#endif
