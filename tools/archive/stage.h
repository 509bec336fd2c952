/* stage: a folder that is filled under the temporary name ".NAME.importing" and renamed when it is complete. The folder
 * is locked, so that a later import can tell whether another process still fills it. */
#ifndef CAIRN_TOOLS_ARCHIVE_STAGE_H
#define CAIRN_TOOLS_ARCHIVE_STAGE_H

struct err;
struct stage;

/* Create the folder, or empty one that an interrupted import left.
 * parent: borrowed until stage_free().
 * Returns 0; -EEXIST: NAME exists; -EBUSY: another import fills the folder; -errno. */
int stage_open(int parent, const char *name, struct stage **ret, struct err *e);
/* Remove an abandoned folder. If a process still fills it, wait for that process, which may complete it. Returns 0,
 * also if there is no folder; -EINTR after a signal; -errno. */
int stage_clear(int parent, const char *name, struct err *e);
/* Remove the folder unless stage_keep() has renamed it, and free s. NULL allowed. */
void stage_free(struct stage *s);
/* Returns the fd of the folder; borrowed. */
int stage_fd(const struct stage *s);
/* Create a file for reading and writing. Returns an fd, which the caller closes; -errno. */
int stage_create(struct stage *s, const char *name, struct err *e);
/* Give the folder its final name, durably. Returns 0; -errno with a sentence. */
int stage_keep(struct stage *s, struct err *e);

#endif
