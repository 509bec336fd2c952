/* plug: attaches and detaches a device, for the verbs that name it by options (edit_disk.c, edit_interface.c) and for
 * those that read it from a file (device.c). PLUG_OPTIONS choose the running VM, the next start or both. Each function
 * returns as change_plug(). */
#ifndef CAIRN_TOOLS_VERBS_PLUG_H
#define CAIRN_TOOLS_VERBS_PLUG_H

#include <stdbool.h>

struct cli;
struct err;
struct json_object;

/* disk: as in a definition, with its id; gets the backing files of its image if it names none. */
int plug_disk_attach(struct cli *c, struct json_object *disk, struct err *e);
/* Change the medium of a drive of the running VM. id: the drive. medium: its keys in a definition; NULL: eject; taken.
 * Returns 0 or -errno. */
int plug_medium_change(struct cli *c, const char *id, struct json_object *medium, struct err *e);
/* which: target or path. image: refuse if the disk has another one; NULL: any. */
int plug_disk_detach(struct cli *c, const char *which, const char *image, struct err *e);
/* o: as in a definition; gets a free id unless has_id. */
int plug_interface_attach(struct cli *c, struct json_object *o, bool has_id, struct err *e);
/* mac: NULL: the only interface of that type. */
int plug_interface_detach(struct cli *c, const char *type, const char *mac, struct err *e);

#endif
