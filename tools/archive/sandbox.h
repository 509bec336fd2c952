/* sandbox: restrict the process before it reads an image or an archive: no capabilities, no new programs, no sockets,
 * and only open files. */
#ifndef CAIRN_TOOLS_ARCHIVE_SANDBOX_H
#define CAIRN_TOOLS_ARCHIVE_SANDBOX_H

struct err;
struct loop;

/* Restrict the process.
 * folder: files may still be created and opened here; -1: nowhere.
 * l: the loop that the process uses afterwards; NULL: none. No operation of the loop may have begun, because the loop's
 * threads would not be restricted.
 * Returns 0; -errno with a sentence. */
int archive_sandbox(int folder, const struct loop *l, struct err *e);

#endif
