/* shown: print volumes and snapshots as libvirt's XML, which nothing reads again. */
#ifndef CAIRN_TOOLS_XML_SHOWN_H
#define CAIRN_TOOLS_XML_SHOWN_H

struct err;
struct json_object;

/* Print a volume, which has the members of vol-info. *ret_xml: the caller frees it. Returns 0; -ENOMEM. */
int volume_print(struct json_object *o, char **ret_xml, struct err *e);
/* Print a snapshot, an entry of snapshot-list whose parent is a name. *ret_xml: the caller frees it. Returns 0;
 * -ENOMEM. */
int snapshot_print(struct json_object *o, char **ret_xml, struct err *e);

#endif
