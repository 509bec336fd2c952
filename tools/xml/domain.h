/* domain: convert a parsed <domain> to a definition. */
#ifndef CAIRN_TOOLS_XML_DOMAIN_H
#define CAIRN_TOOLS_XML_DOMAIN_H

#include <stddef.h>
#include <stdint.h>

/* A machine type of Cairn is this prefix and a machine version (docs/vmstate.md). */
#define MACHINE_PREFIX "cairn-"

struct _xmlDoc;
struct _xmlNode;
struct err;
struct json_object;
struct reading;

/* Convert the whole document. r: from reading_init(). Returns 0; -EINVAL with a sentence that names line and element;
 * -ENOMEM. */
int domain_read(struct reading *r, struct _xmlDoc *doc);

/* Parse XML without external content: no DOCTYPE, only the five predefined entities, no file, no network. The caller
 * frees the document with xmlFreeDoc(). Returns 0; -EINVAL with line and column. */
int domain_parse(const char *text, size_t len, struct _xmlDoc **ret_doc, struct err *e);

/* Steps of domain_read(): the disks, and the other devices. */
int disks_read(struct reading *r, struct _xmlNode *domain);
int devices_read(struct reading *r, struct _xmlNode *domain);
int shares_read(struct reading *r, struct _xmlNode *domain);

/* Read one <interface type='user'> into its JSON (usernet.c). */
int usernet_read(struct reading *r, struct _xmlNode *interface, struct json_object *into);

/* Parse a size like libvirt: without a unit KiB; KB is 1000 bytes, K and KiB are 1024; upper or lower case. Rounds up
 * to KiB.
 * unit: NULL: none. Returns 0; -EINVAL: unknown unit; -ERANGE: invalid number. */
int memory_parse(const char *number, const char *unit, uint64_t *ret_kib);

#endif
