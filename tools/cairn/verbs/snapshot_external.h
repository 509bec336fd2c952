/* snapshot_external: snapshots outside of the images: each disk gets an overlay, and its former image keeps the content
 * of that moment. */
#ifndef CAIRN_TOOLS_VERBS_SNAPSHOT_EXTERNAL_H
#define CAIRN_TOOLS_VERBS_SNAPSHOT_EXTERNAL_H

#include <stdbool.h>

struct cli;
struct err;

/* Return whether the options of snapshot-create-as ask for one. */
bool snapshot_is_external(const struct cli *c);
/* Make it. name: NULL: none was given. Returns the exit code. */
int snapshot_external(struct cli *c, const char *name);
/* Replace the error about a missing snapshot if a disk has an overlay of that name, or may have one under another file
 * name, and name the verbs for overlays.
 * verb: "revert" or "delete". */
void snapshot_external_explain(struct cli *c, const char *name, const char *verb, struct err *e);

#endif
