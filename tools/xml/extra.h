/* extra: what a definition says and no element of libvirt's does. It stands in <metadata> as
 *
 *   <cairn:definition xmlns:cairn='urn:cairn:definition:1'>{"debug_exit": true}</cairn:definition>
 *
 * and only adds to what the elements say: it cannot change what a reader of the XML sees. Disks
 * and interfaces are there by their ids: {"disks": {"vda": {"data_file": "/x"}}}. */
#ifndef CAIRN_TOOLS_XML_EXTRA_H
#define CAIRN_TOOLS_XML_EXTRA_H

struct _xmlNode;
struct json_object;
struct reading;

/* Adds it to the reading's definition. Returns 0; -EINVAL. */
int extra_read(struct reading *r, struct _xmlNode *domain);

/* What `want` has and `got` has not, both in canonical form. The caller puts it; NULL: nothing. */
struct json_object *extra_make(struct json_object *want, struct json_object *got);

#endif
