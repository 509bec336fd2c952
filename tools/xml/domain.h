/* domain: from a parsed <domain> to a definition. */
#ifndef CAIRN_TOOLS_XML_DOMAIN_H
#define CAIRN_TOOLS_XML_DOMAIN_H

#include <stddef.h>
#include <stdint.h>

struct _xmlDoc;
struct _xmlNode;
struct err;
struct json_object;
struct reading;

/* The whole document, into a reading that the caller has initialised. Returns 0; -EINVAL with a
 * sentence that names line and element. */
int domain_read(struct reading *r, struct _xmlDoc *doc);

/* A text as XML, with nothing from elsewhere: no DOCTYPE, no entity but the five, no file, no
 * network. The caller frees it with xmlFreeDoc(). Returns 0; -EINVAL with line and column. */
int domain_parse(const char *text, size_t len, struct _xmlDoc **ret_doc, struct err *e);

/* What domain_read() does for the parts of a domain; the order counts for ids only. */
int disks_read(struct reading *r, struct _xmlNode *domain);
int devices_read(struct reading *r, struct _xmlNode *domain);

/* Of one <interface type='user'>, into its object in the definition. (usernet.c) */
int usernet_read(struct reading *r, struct _xmlNode *interface, struct json_object *into);

/* "524288" and "KiB" as libvirt takes them: without a unit KiB, KB is 1000, K and KiB are 1024
 * bytes, upper or lower case. Rounded up to KiB. Returns 0; -EINVAL: no such unit; -ERANGE: no
 * such number. unit: NULL when there is none. */
int memory_parse(const char *number, const char *unit, uint64_t *ret_kib);

#endif
