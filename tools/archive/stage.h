/* stage: a folder that is filled under a name of its own and gets its right one when it is
 * whole. ".NAME.importing" until then; locked, so that a later one knows whether anybody
 * still fills what it finds. */
#ifndef CAIRN_TOOLS_ARCHIVE_STAGE_H
#define CAIRN_TOOLS_ARCHIVE_STAGE_H

struct err;
struct stage;

/* parent: borrowed, as long as it lives. Of a stage that nobody fills any more the files go.
 * Returns 0; -EEXIST: NAME is there; -EBUSY: another is at it; -errno. */
int stage_open(int parent, const char *name, struct stage **ret, struct err *e);
/* What was left of it goes. Who still fills it is waited for, and may keep it. Returns 0, also when there is nothing;
 * -EINTR: a signal came meanwhile; -errno. */
int stage_clear(int parent, const char *name, struct err *e);
/* Unless it was kept it goes, with all that is in it. NULL allowed. */
void stage_free(struct stage *s);
/* Of the folder; the stage's. */
int stage_fd(const struct stage *s);
/* A new file in it, for reading and writing; the caller's. */
int stage_create(struct stage *s, const char *name, struct err *e);
/* Its right name, durably. */
int stage_keep(struct stage *s, struct err *e);

#endif
